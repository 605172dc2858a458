use super::*;

fn story() -> Story {
    Story {
        proxy: "default/front".to_owned(),
        direction: "outbound".to_owned(),
        method: "GET".to_owned(),
        authority: "order:8080".to_owned(),
        path: "/orders/7".to_owned(),
        status: 503,
        flag: "UF".to_owned(),
        cluster: Some("order.default.svc.cluster.local:8080".to_owned()),
        peer: Some("10.0.0.7:4711".to_owned()),
        destination_principal: Some("spiffe://cluster.local/ns/default/sa/orders".to_owned()),
        ..Story::default()
    }
}

fn is_wanted(filter: &str) -> bool {
    serde_json::from_str::<Filter>(filter).unwrap().matches(&story())
}

#[test]
fn a_filter_fits_what_users_call_things() {
    for (filter, expected) in [
        ("{}", true),
        (r#"{"to": "order"}"#, true),
        (r#"{"to": "order.default"}"#, true),
        (r#"{"to": "Order.default.svc.cluster.local"}"#, true),
        (r#"{"to": "orders"}"#, true),
        (r#"{"to": "order:8080"}"#, true),
        (r#"{"to": "ord"}"#, false),
        (r#"{"to": "front"}"#, false),
        (r#"{"to": ""}"#, false),
        (r#"{"from": "front"}"#, true),
        (r#"{"from": "default/front"}"#, true),
        (r#"{"from": "order"}"#, false),
        (r#"{"status": "503"}"#, true),
        (r#"{"status": "5xx"}"#, true),
        (r#"{"status": "4xx"}"#, false),
        (r#"{"status": "50"}"#, false),
        (r#"{"flag": "uf"}"#, true),
        (r#"{"flag": "UO"}"#, false),
        (r#"{"path": "/orders"}"#, true),
        (r#"{"path": "/x"}"#, false),
        (r#"{"method": "get"}"#, true),
        (r#"{"method": "POST"}"#, false),
        (r#"{"to": "order", "status": "5xx", "flag": "UF", "path": "/", "method": "GET"}"#, true),
        (r#"{"to": "order", "status": "200"}"#, false),
    ] {
        assert_eq!(is_wanted(filter), expected, "{filter}");
    }
}

#[test]
fn of_what_came_in_the_proxy_is_whom_it_was_for() {
    let story = Story { direction: "inbound".to_owned(), ..story() };
    let filter = |to: Option<&str>, from: Option<&str>| Filter {
        to: to.map(str::to_owned),
        from: from.map(str::to_owned),
        ..Filter::default()
    };
    assert!(filter(Some("front"), None).matches(&story));
    assert!(!filter(None, Some("front")).matches(&story));
}

#[test]
fn what_is_no_status_is_said() {
    let mistake = |status: &str| Filter { status: Some(status.to_owned()), ..Filter::default() }.mistake();
    for right in ["200", "0", "5xx", "4XX"] {
        assert_eq!(mistake(right), None);
    }
    for wrong in ["6xx", "5x", "abc", "600", "", "-1"] {
        assert!(mistake(wrong).is_some_and(|told| told.contains("write 503")), "{wrong}");
    }
    assert_eq!(Filter::default().mistake(), None);
}
