use super::*;

fn naming() -> Naming {
    Naming::new(&Hostname::new("cluster.local").unwrap())
}

#[test]
fn short_names_are_qualified_and_others_kept() {
    for (host, qualified) in [
        ("orders", "orders.shop.svc.cluster.local"),
        ("orders.other", "orders.other"),
        ("orders.other.svc", "orders.other.svc.cluster.local"),
        ("Orders.other.svc.cluster.local.", "orders.other.svc.cluster.local"),
        ("api.example.com", "api.example.com"),
        ("10.0.0.1", "10.0.0.1"),
    ] {
        assert_eq!(naming().qualify(host, "shop").unwrap().as_str(), qualified);
    }
}

#[test]
fn services_are_recognized() {
    assert_eq!(naming().service_of("orders.shop.svc.cluster.local"), Some(("shop", "orders")));
    assert_eq!(naming().service_of("orders.shop"), Some(("shop", "orders")));
    assert_eq!(naming().service_of("api.example.com"), None);
    assert_eq!(naming().service_of("orders"), None);
}

#[test]
fn wildcards_match_by_suffix() {
    let pattern = HostPattern::new("*.example.com", "shop", &naming()).unwrap();
    assert_eq!(pattern.closeness("a.example.com"), Some(12));
    assert_eq!(pattern.closeness("example.com"), None);
    assert_eq!(HostPattern::new("*", "shop", &naming()).unwrap().closeness("x"), Some(0));
    assert!(HostPattern::new("*x.com", "shop", &naming()).is_err());
}

#[test]
fn exports_name_namespaces() {
    let own = Label::new("shop").unwrap();
    let exported =
        |list: &[&str]| Exported::new(&list.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>(), &own);
    assert!(exported(&[]).unwrap().reaches("any"));
    assert!(exported(&["."]).unwrap().reaches("shop") && !exported(&["."]).unwrap().reaches("any"));
    assert!(!exported(&["~"]).unwrap().reaches("shop"));
    assert!(exported(&["a b"]).is_err());
}
