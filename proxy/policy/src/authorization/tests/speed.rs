//! What many policies cost.

use super::*;

/// What a thousand policies cost, by what they ask for. Only a build with optimizations is held to the limit.
#[test]
#[expect(clippy::disallowed_methods, reason = "this measures")]
fn a_thousand_policies_are_soon_asked() {
    // The fastest of some batches: on a busy machine others wait for their turn.
    const BATCHES: u32 = 10;
    const ROUNDS: u32 = 200;
    type Make = fn(usize) -> Rule;
    let by: [(&str, Make); 10] = [
        ("principal", |n| {
            let principal = format!("cluster.local/ns/shop/sa/app-{n}");
            from(Source { principals: texts(&[&principal]), ..Source::default() })
        }),
        ("path", |n| to(paths(&[&format!("/api/v1/{n}/*"), &format!("/api/v2/{n}/{{*}}/x")]))),
        ("one principal, many paths", |n| Rule {
            to: vec![paths(&[&format!("/api/{n}")])],
            ..from(Source { principals: texts(&["cluster.local/ns/shop/sa/web"]), ..Source::default() })
        }),
        ("address", |n| {
            let block = format!("10.{}.{}.0/24", n / 250, n % 250);
            let blocks = Choice { any_of: vec![block.parse().unwrap()], none_of: vec![] };
            from(Source { ip_blocks: blocks, ..Source::default() })
        }),
        ("header", |n| {
            let values = texts(&[&format!("key-{n}")]);
            when(Condition::Header { name: HeaderName::from_static("x-api-key"), values })
        }),
        ("no principal", |n| {
            let others = not(&["cluster.local/ns/shop/sa/web", &format!("cluster.local/ns/shop/sa/app-{n}")]);
            from(Source { principals: others, ..Source::default() })
        }),
        ("no path", |n| to(no_paths(&[&format!("/api/v2/{n}/*"), "/api/v1/*", &format!("/{n}/{{**}}")]))),
        ("no path, one of two", |n| {
            let text = ["/api/v1/none/of/these", "/api/v1/none/*"][n % 2];
            Rule { to: vec![no_paths(&[text, "/x"]), no_paths(&["/y", text])], ..Rule::default() }
        }),
        ("no address and no header", |n| {
            let block = ["192.0.2.0/24".to_owned(), format!("10.{}.{}.0/24", n / 250, n % 250)];
            let blocks = Choice { any_of: vec![], none_of: block.map(|it| it.parse().unwrap()).to_vec() };
            let name = HeaderName::from_static("x-api-key");
            let other = Condition::Header { name, values: not(&[&format!("key-{n}")]) };
            Rule { when: vec![other], ..from(Source { ip_blocks: blocks, ..Source::default() }) }
        }),
        ("one principal and no token", |_| {
            from(Source {
                principals: texts(&["cluster.local/ns/shop/sa/web"]),
                request_principals: not(&["*"]),
                ..Source::default()
            })
        }),
    ];
    let mut caller = Caller::meshed("/api/v1/none/of/these");
    caller.source = "192.0.2.1".parse().unwrap();
    caller.headers.insert("x-api-key", HeaderValue::from_static("key-none"));
    caller.token = Some(Token { principal: Some("i/s".to_owned()), claims: Claims::Texts(vec![]) });
    for (name, rule) in by {
        let make = |action| (0..1000).map(move |n| policy("shop/policy", action, vec![rule(n)]));
        let policies: Vec<_> = make(Action::Deny).take(500).chain(make(Action::Allow).skip(500)).collect();
        let authorization = Authorization::new(&policies, &domains());
        let batch = |_| {
            let begun = std::time::Instant::now();
            for _ in 0..ROUNDS {
                let verdict = authorization.decide(std::hint::black_box(&caller.subject()));
                assert_eq!(std::hint::black_box(verdict), Verdict::DeniedByDefault, "{name}");
            }
            begun.elapsed() / ROUNDS
        };
        let each = (0..BATCHES).map(batch).min().unwrap();
        println!("1,000 policies by {name}: {each:?}");
        assert!(cfg!(debug_assertions) || each.as_micros() < 5, "{name}: {each:?}");
    }
}

#[test]
fn texts_are_compared_as_they_are_written() {
    for (written, yes, no) in
        [("a", "a", "ab"), ("a*", "ab", "ba"), ("*a", "ba", "ab"), ("*", "x", ""), ("/a/*", "/a/b/c", "/a")]
    {
        let text = TextMatch::new(written).unwrap();
        assert!(text.matches(yes) && !text.matches(no), "{written}");
        assert_eq!(text.text(), written);
    }
    for bad in ["", "a*b", "**", "*a*"] {
        assert!(TextMatch::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn templates_match_by_segment() {
    for (written, yes, no) in [
        ("/users/{*}", "/users/7", "/users/7/x"),
        ("/users/{*}/orders", "/users/7/orders", "/users//orders"),
        ("/users/{**}", "/users/7/x/y", "/other"),
        ("/users/{**}", "/users", "/user"),
        ("/{*}/a/{**}", "/x/a/b/c", "/x/b/a"),
    ] {
        let pattern = PathPattern::new(written).unwrap();
        assert!(pattern.matches(yes) && !pattern.matches(no), "{written}");
        assert_eq!(pattern.text(), written);
    }
    for bad in ["{*}", "/{**}/a", "/a{*}", "/{x}", "/{*}*"] {
        assert!(PathPattern::new(bad).is_err(), "{bad}");
    }
}
