//! The index against a reading of the rules, one after the other, that knows no index.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::testing::security;

/// Reads a rule as it is written, one rule after the other: slow, and without a second thought.
fn naive(policies: &[AuthorizationPolicy], caller: &Caller) -> &'static str {
    let subject = caller.subject();
    let any = |action| {
        let mut of_action = policies.iter().filter(|policy| policy.action == action);
        of_action.any(|policy| policy.rules.iter().any(|rule| reads(rule, &subject)))
    };
    if any(Action::Deny) {
        "denied"
    } else if policies.iter().all(|policy| policy.action != Action::Allow) || any(Action::Allow) {
        "allowed"
    } else {
        "by default"
    }
}

fn reads(rule: &Rule, subject: &Subject<'_>) -> bool {
    let Asked::Request(request) = subject.asked else { unreachable!("callers of this test send requests") };
    let text = |choice: &Choice<TextMatch>, values: &[String]| {
        let one = |wanted: &TextMatch| values.iter().any(|value| wanted.matches(value));
        (choice.any_of.is_empty() || choice.any_of.iter().any(one)) && !choice.none_of.iter().any(one)
    };
    let block = |choice: &Choice<IpNet>, address: IpAddr| {
        let one = |block: &IpNet| block.contains(&address);
        (choice.any_of.is_empty() || choice.any_of.iter().any(one)) && !choice.none_of.iter().any(one)
    };
    let port = |choice: &Choice<u16>| {
        let port = subject.destination.port();
        (choice.any_of.is_empty() || choice.any_of.contains(&port)) && !choice.none_of.contains(&port)
    };
    let peer: Vec<Identity> = subject.peer.into_iter().cloned().collect();
    let of_peer = |read: fn(&Identity) -> String| peer.iter().map(read).collect::<Vec<_>>();
    let principal = of_peer(|peer| peer.principal().to_owned());
    let namespace = of_peer(|peer| peer.namespace().to_owned());
    let account = of_peer(|peer| format!("{}/{}", peer.namespace(), peer.service_account()));
    let token: Vec<String> = request.token.and_then(|token| token.principal.clone()).into_iter().collect();
    let claim =
        |path: &[String]| request.token.map(|token| token.claims.texts(path).to_vec()).unwrap_or_default();
    let hosts =
        [request.authority.to_owned(), request.authority.split(':').next().unwrap_or_default().to_owned()];
    let from = |source: &Source| {
        let accounts = |names: &[String]| names.iter().any(|name| account.contains(name));
        text(&source.principals, &principal)
            && text(&source.request_principals, &token)
            && text(&source.namespaces, &namespace)
            && (source.service_accounts.any_of.is_empty() || accounts(&source.service_accounts.any_of))
            && !accounts(&source.service_accounts.none_of)
            && block(&source.ip_blocks, subject.source)
            && block(&source.remote_ip_blocks, subject.source)
    };
    let to = |operation: &Operation| {
        let one = |pattern: &PathPattern| pattern.matches(request.path);
        let paths = &operation.paths;
        text(&operation.hosts, &hosts)
            && port(&operation.ports)
            && text(&operation.methods, &[request.method.to_owned()])
            && (paths.any_of.is_empty() || paths.any_of.iter().any(one))
            && !paths.none_of.iter().any(one)
    };
    let when = |condition: &Condition| match condition {
        Condition::Header { name, values } => {
            let found = request.headers.and_then(|headers| headers.get(name));
            text(
                values,
                &found.map(|value| value.to_str().unwrap().to_owned()).into_iter().collect::<Vec<_>>(),
            )
        }
        Condition::Claim { path, values } => text(values, &claim(path)),
        Condition::Text { key, values } => match key {
            TextKey::SourceNamespace => text(values, &namespace),
            TextKey::SourcePrincipal => text(values, &principal),
            TextKey::SourceServiceAccount => text(values, &account),
            TextKey::TokenPrincipal => text(values, &token),
            TextKey::TokenAudiences => text(values, &claim(&["aud".to_owned()])),
            TextKey::TokenPresenter => text(values, &claim(&["azp".to_owned()])),
            TextKey::Sni => text(values, &subject.sni.map(str::to_owned).into_iter().collect::<Vec<_>>()),
        },
        Condition::Address { key: AddressKey::Destination, values } => {
            block(values, subject.destination.ip())
        }
        Condition::Address { values, .. } => block(values, subject.source),
        Condition::Port(ports) => port(ports),
    };
    (rule.from.is_empty() || rule.from.iter().any(from))
        && (rule.to.is_empty() || rule.to.iter().any(to))
        && rule.when.iter().all(when)
}

fn caller() -> impl Strategy<Value = Caller> {
    let words = || select(vec!["a", "b/c", "ab", "c", "GET", "b"]);
    let address = || select(vec!["10.1.2.3", "127.0.0.1", "fd00::1", "192.0.2.1"]);
    let peer = select(vec![None, Some("a"), Some("b")]);
    let token = (words(), vec(words(), 0..=2), words());
    (
        (peer, address(), address(), any::<u16>()),
        (select(vec!["GET", "POST", "a"]), words(), select(vec!["/a", "/a/x/b", "/x.html", "/", "/a/b"])),
        (proptest::option::of(words()), proptest::option::of(token)),
    )
        .prop_map(|((peer, source, destination, port), (method, host, path), (sni, token))| Caller {
            peer: peer.map(|name| format!("spiffe://a/ns/{name}/sa/c").parse().unwrap()),
            source: source.parse().unwrap(),
            destination: SocketAddr::new(destination.parse().unwrap(), port),
            sni: sni.map(str::to_owned),
            method,
            authority: format!("{host}:80"),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            token: token.map(|(principal, audiences, presenter)| Token {
                principal: Some(principal.to_owned()),
                claims: Claims::Members(BTreeMap::from([
                    ("aud".to_owned(), Claims::Texts(audiences.into_iter().map(str::to_owned).collect())),
                    ("azp".to_owned(), Claims::Texts(vec![presenter.to_owned()])),
                    ("a".to_owned(), Claims::Texts(vec![presenter.to_owned()])),
                ])),
            }),
        })
}

proptest! {
    #[test]
    fn the_index_loses_and_adds_nothing(policies in vec(security::authorization(), 0..12), caller in caller()) {
        let authorization = Authorization::new(&policies, &[]);
        let found = match authorization.decide(&caller.subject()) {
            Verdict::Allowed => "allowed",
            Verdict::Denied { .. } => "denied",
            Verdict::DeniedByDefault => "by default",
        };
        prop_assert_eq!(found, naive(&policies, &caller));
    }
}
