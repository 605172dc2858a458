use super::*;

#[test]
fn what_is_watched_is_read_from_the_query() {
    let everything = tap("").unwrap();
    assert_eq!(everything, TapQuery { filter: Filter::default(), limit: MAX_STORIES, time: MAX_TAP });
    let some = tap("to=order-service&status=5xx&path=%2Forders%2F1+2&method=&limit=7&for=30s").unwrap();
    let filter = Filter {
        to: Some("order-service".to_owned()),
        status: Some("5xx".to_owned()),
        path: Some("/orders/1 2".to_owned()),
        ..Filter::default()
    };
    assert_eq!(some, TapQuery { filter, limit: 7, time: Duration::from_secs(30) });
}

#[test]
fn nobody_watches_for_ever() {
    let query = tap("limit=4294967295&for=90d").unwrap();
    assert_eq!((query.limit, query.time), (MAX_STORIES, MAX_TAP));
    assert_eq!(tap("limit=0").unwrap().limit, 1);
}

#[test]
fn a_mistake_is_named() {
    for (query, named) in [
        ("statsu=5xx", "statsu"),
        ("to=a&to=b", "to is given twice"),
        ("limit=many", "many"),
        ("for=soon", "for"),
        ("to=%ff", "UTF-8"),
        ("status=6xx", "6xx"),
    ] {
        let reason = tap(query).unwrap_err();
        assert!(reason.contains(named), "{query}: {reason}");
    }
    assert!(within("withn=5m").unwrap_err().contains("withn"));
    assert_eq!(within("within=90s").unwrap(), Duration::from_secs(90));
    assert_eq!(within("").unwrap(), LATELY);
}
