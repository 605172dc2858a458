use super::*;

fn names(only: &[&str]) -> Vec<String> {
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    let pairs = selection(&only).unwrap();
    pairs.iter().map(|(scenario, peer)| format!("{}/{}", scenario.name(), peer.name())).collect()
}

#[test]
fn the_body_is_as_long_as_the_tables_say() {
    assert_eq!(BODY.len(), 100);
}

#[test]
fn selections_are_by_peer_by_scenario_or_both() {
    assert_eq!(names(&["envoy", "http1"]), ["http1/envoy"]);
    assert_eq!(names(&["direct"]), ["http1/direct", "http2/direct", "two-sidecars/direct", "mtls/direct"]);
    assert_eq!(names(&["http2"]).len(), PEERS.len() - 1, "nginx speaks no HTTP/2 upstream");
    assert_eq!(
        names(&["handshakes"]),
        ["pillion", "envoy", "pillion-2", "envoy-2"].map(|peer| format!("handshakes/{peer}"))
    );
    assert_eq!(
        names(&["envoy", "http2", "pillion", "envoy"]),
        ["http2/envoy", "http2/pillion"],
        "as named, once"
    );
    assert!(selection(&["squid".to_owned()]).is_err());
}

#[test]
fn cost_counts_failed_requests_too_and_needs_a_proxy() {
    let outcome = Outcome { n_succeeded: 900, n_failed: 100, seconds: 1.0, latency: None };
    assert_eq!(per_request(Some(Duration::from_millis(20)), &outcome), Some(20.0));
    assert_eq!(per_request(None, &outcome), None);
}
