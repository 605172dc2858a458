use super::*;

fn proxy(name: &str) -> Unhealthy {
    Unhealthy {
        proxy: name.to_owned(),
        breakers: Vec::new(),
        endpoints: Vec::new(),
        more_breakers: 0,
        more_endpoints: 0,
    }
}

fn with_breaker(name: &str, state: BreakerState, for_seconds: u64, reason: &str) -> Unhealthy {
    let breaker =
        UnhealthyBreaker { name: "app:80".to_owned(), state, for_seconds, reason: reason.to_owned() };
    Unhealthy { breakers: vec![breaker], ..proxy(name) }
}

fn with_endpoint(
    name: &str,
    state: EndpointState,
    for_seconds: u64,
    retry_in_seconds: Option<u64>,
) -> Unhealthy {
    let endpoint = UnhealthyEndpoint {
        cluster: "app:80".to_owned(),
        address: "10.0.0.7:3000".to_owned(),
        state,
        for_seconds,
        retry_in_seconds,
        reason: "it failed".to_owned(),
    };
    Unhealthy { endpoints: vec![endpoint], ..proxy(name) }
}

fn text(unhealthy: &[Unhealthy]) -> String {
    struct Text<'a>(&'a [Unhealthy]);
    impl fmt::Display for Text<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write(f, self.0)
        }
    }
    Text(unhealthy).to_string()
}

#[test]
fn one_line_says_that_all_is_well() {
    assert_eq!(text(&[]), "no open breakers, no ejected endpoints\n");
}

#[test]
fn what_several_proxies_see_is_one_line() {
    let seen = [
        with_breaker("default/a", BreakerState::Open, 3, "late"),
        with_breaker("default/b", BreakerState::Open, 12, "first"),
        with_breaker("default/c", BreakerState::HalfOpen, 1, "late"),
    ];
    assert_eq!(
        text(&seen),
        "open breakers: 2\n  app:80: open for 12 s in 2 proxies (default/a, default/b): first\n  \
         app:80: half open for 1 s in default/c: late\nejected endpoints: 0\n"
    );
}

#[test]
fn endpoints_say_when_they_are_tried_again() {
    let seen = [
        with_endpoint("default/a", EndpointState::Ejected, 3, Some(27)),
        with_endpoint("default/b", EndpointState::Ejected, 2, Some(4)),
        with_endpoint("default/b", EndpointState::Unreachable, 1, None),
    ];
    assert_eq!(
        text(&seen),
        "open breakers: 0\nejected endpoints: 2\n  10.0.0.7:3000 of app:80: ejected for 3 s in 2 proxies \
         (default/a, default/b), tried again in 4 s: it failed\n  \
         10.0.0.7:3000 of app:80: unreachable for 1 s in default/b: it failed\n"
    );
}

#[test]
fn long_lists_are_cut() {
    let mut seen: Vec<_> =
        (0..5).map(|n| with_breaker(&format!("default/p{n}"), BreakerState::Open, 1, "late")).collect();
    seen[0].more_breakers = 40;
    seen[1].more_breakers = 4;
    let text = text(&seen);
    assert!(text.contains("in 5 proxies (default/p0, default/p1, default/p2, ...)"), "{text}");
    assert!(text.contains("  and 44 more"), "{text}");
}
