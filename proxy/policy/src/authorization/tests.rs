//! The order of decision, each field by itself, and the index against a reading of the rules that knows no index.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::identity::{Identity, TrustDomain};

mod reference;
mod speed;

const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn texts(values: &[&str]) -> Choice<TextMatch> {
    let any_of = values.iter().map(|value| TextMatch::new(value).unwrap()).collect();
    Choice { any_of, none_of: Vec::new() }
}

fn not(values: &[&str]) -> Choice<TextMatch> {
    Choice { any_of: Vec::new(), none_of: texts(values).any_of }
}

fn paths(values: &[&str]) -> Operation {
    let any_of = values.iter().map(|value| PathPattern::new(value).unwrap()).collect();
    Operation { paths: Choice { any_of, none_of: Vec::new() }, ..Operation::default() }
}

fn no_paths(values: &[&str]) -> Operation {
    let Choice { any_of, none_of } = paths(values).paths;
    Operation { paths: Choice { any_of: none_of, none_of: any_of }, ..Operation::default() }
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn when(condition: Condition) -> Rule {
    Rule { when: vec![condition], ..Rule::default() }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy { name: name.into(), action, rules }
}

fn domains() -> Vec<TrustDomain> {
    ["mesh.example", "old.example"].map(|domain| TrustDomain::new(domain).unwrap()).to_vec()
}

/// A caller, of whom parts can be borrowed as a subject.
#[derive(Debug, Clone)]
struct Caller {
    peer: Option<Identity>,
    source: IpAddr,
    destination: SocketAddr,
    sni: Option<String>,
    method: &'static str,
    authority: String,
    path: String,
    headers: HeaderMap,
    token: Option<Token>,
}

impl Caller {
    fn plain(path: &str) -> Self {
        Self {
            peer: None,
            source: "10.1.2.3".parse().unwrap(),
            destination: "10.9.9.9:3000".parse().unwrap(),
            sni: None,
            method: "GET",
            authority: "Shop.example:8080".to_owned(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            token: None,
        }
    }

    fn meshed(path: &str) -> Self {
        Self { peer: Some(SHOP.parse().unwrap()), ..Self::plain(path) }
    }

    fn subject(&self) -> Subject<'_> {
        self.asking(Asked::Request(Request {
            method: self.method,
            authority: &self.authority,
            path: &self.path,
            headers: Some(&self.headers),
            token: self.token.as_ref(),
        }))
    }

    fn asking<'a>(&'a self, asked: Asked<'a>) -> Subject<'a> {
        Subject {
            peer: self.peer.as_ref(),
            source: self.source,
            destination: self.destination,
            sni: self.sni.as_deref(),
            asked,
        }
    }
}

fn verdict(policies: &[AuthorizationPolicy], subject: &Subject<'_>) -> String {
    match Authorization::new(policies, &domains()).decide(subject) {
        Verdict::Allowed => "allowed".to_owned(),
        Verdict::Denied { policy } => policy.to_string(),
        Verdict::DeniedByDefault => "by default".to_owned(),
    }
}

#[test]
fn the_order_of_decision_is_istios() {
    let web = || from(Source { principals: texts(&["cluster.local/ns/shop/sa/web"]), ..Source::default() });
    let other = || from(Source { principals: texts(&["cluster.local/ns/shop/sa/x"]), ..Source::default() });
    let allow = |rules| policy("allow", Action::Allow, rules);
    let deny = |rules| policy("deny", Action::Deny, rules);
    let audit = |rules| policy("audit", Action::Audit, rules);
    let all = Rule::default;
    for (policies, expected) in [
        (vec![], "allowed"),
        (vec![allow(vec![])], "by default"),
        (vec![allow(vec![all()])], "allowed"),
        (vec![allow(vec![web()])], "allowed"),
        (vec![allow(vec![other()])], "by default"),
        (vec![allow(vec![other(), web()])], "allowed"),
        (vec![allow(vec![other()]), allow(vec![web()])], "allowed"),
        (vec![deny(vec![])], "allowed"),
        (vec![deny(vec![all()])], "deny"),
        (vec![deny(vec![web()])], "deny"),
        (vec![deny(vec![other()])], "allowed"),
        (vec![allow(vec![web()]), deny(vec![web()])], "deny"),
        (vec![allow(vec![all()]), deny(vec![other()])], "allowed"),
        (vec![allow(vec![other()]), deny(vec![other()])], "by default"),
        (vec![allow(vec![]), deny(vec![all()])], "deny"),
        (vec![audit(vec![all()])], "allowed"),
        (vec![audit(vec![all()]), allow(vec![other()])], "by default"),
    ] {
        assert_eq!(verdict(&policies, &Caller::meshed("/").subject()), expected, "{policies:#?}");
    }
    let audits = [audit(vec![web(), all()]), policy("unmatched", Action::Audit, vec![other()])];
    let noted = Authorization::new(&audits, &domains());
    assert_eq!(noted.audit(&Caller::meshed("/").subject()), [&Arc::from("audit")]);
}

#[test]
fn identities_are_never_those_of_plain_text() {
    let named = |source: Source| vec![policy("deny", Action::Deny, vec![from(source)])];
    for (source, plain, meshed) in [
        (Source { principals: texts(&["*"]), ..Source::default() }, "allowed", "deny"),
        (Source { principals: not(&["*"]), ..Source::default() }, "deny", "allowed"),
        (Source { namespaces: texts(&["shop"]), ..Source::default() }, "allowed", "deny"),
        (Source { namespaces: not(&["shop"]), ..Source::default() }, "deny", "allowed"),
        (
            Source {
                service_accounts: Choice { any_of: vec!["shop/web".into()], none_of: vec![] },
                ..Source::default()
            },
            "allowed",
            "deny",
        ),
        (Source { request_principals: not(&["*"]), ..Source::default() }, "deny", "deny"),
    ] {
        let policies = named(source);
        assert_eq!(verdict(&policies, &Caller::plain("/").subject()), plain, "{policies:?}");
        assert_eq!(verdict(&policies, &Caller::meshed("/").subject()), meshed, "{policies:?}");
    }
}

#[test]
fn every_name_of_the_trust_domain_is_meant() {
    let mut caller = Caller::plain("/");
    for (written, uri, expected) in [
        ("cluster.local/ns/shop/sa/web", "spiffe://mesh.example/ns/shop/sa/web", "allowed"),
        ("mesh.example/ns/shop/sa/web", "spiffe://old.example/ns/shop/sa/web", "allowed"),
        ("old.example/ns/shop/*", "spiffe://mesh.example/ns/shop/sa/web", "allowed"),
        ("old.example/ns/shop/*", "spiffe://foreign.example/ns/shop/sa/web", "by default"),
        ("foreign.example/ns/shop/*", "spiffe://mesh.example/ns/shop/sa/web", "by default"),
        ("*/sa/web", "spiffe://foreign.example/ns/shop/sa/web", "allowed"),
    ] {
        caller.peer = Some(uri.parse().unwrap());
        let in_source = from(Source { principals: texts(&[written]), ..Source::default() });
        let in_condition = when(Condition::Text { key: TextKey::SourcePrincipal, values: texts(&[written]) });
        for rule in [in_source, in_condition] {
            let policies = [policy("allow", Action::Allow, vec![rule])];
            assert_eq!(verdict(&policies, &caller.subject()), expected, "{written} {uri}");
        }
    }
}

fn token() -> Token {
    let list = |texts: &[&str]| Claims::Texts(texts.iter().map(|&text| text.to_owned()).collect());
    let inner = BTreeMap::from([("roles".to_owned(), list(&["buyer", "seller"]))]);
    Token {
        principal: Some("issuer/user".to_owned()),
        claims: Claims::Members(BTreeMap::from([
            ("aud".to_owned(), list(&["shop", "bank"])),
            ("azp".to_owned(), list(&["app"])),
            ("realm".to_owned(), Claims::Members(inner)),
        ])),
    }
}

#[test]
fn each_field_asks_for_its_own() {
    let block = |block: &str| Choice { any_of: vec![block.parse().unwrap()], none_of: vec![] };
    let text = |key, value| when(Condition::Text { key, values: texts(&[value]) });
    let header = |values| when(Condition::Header { name: HeaderName::from_static("x-a"), values });
    let claim = |path: &[&str], value| {
        let path = path.iter().map(|&name| name.to_owned()).collect();
        when(Condition::Claim { path, values: texts(&[value]) })
    };
    let ports = |port| Choice { any_of: vec![port], none_of: vec![] };
    let source = |ip_blocks| from(Source { ip_blocks, ..Source::default() });
    let hosts = |host| to(Operation { hosts: texts(&[host]), ..Operation::default() });
    let mut caller = Caller::meshed("/users/7/orders");
    caller.headers.append("x-a", HeaderValue::from_static("1"));
    caller.headers.append("x-a", HeaderValue::from_static("2"));
    caller.token = Some(token());
    caller.sni = Some("shop".to_owned());
    for (rule, matches) in [
        (source(block("10.0.0.0/8")), true),
        (source(block("10.1.2.0/30")), true),
        (source(block("10.1.2.4/30")), false),
        (source(block("::/0")), false),
        (hosts("shop.example"), true),
        (hosts("shop.EXAMPLE:8080"), true),
        (hosts("*.example"), true),
        (hosts("shop.*"), true),
        (hosts("shop.example:80"), false),
        (to(Operation { hosts: not(&["shop.example"]), ..Operation::default() }), false),
        (to(Operation { ports: ports(3000), ..Operation::default() }), true),
        (to(Operation { ports: ports(80), ..Operation::default() }), false),
        (to(Operation { methods: texts(&["GET"]), ..Operation::default() }), true),
        (to(Operation { methods: texts(&["get"]), ..Operation::default() }), false),
        (to(paths(&["/users/{*}/orders"])), true),
        (to(paths(&["/users/{**}"])), true),
        (to(paths(&["/users/*"])), true),
        (to(paths(&["*/orders"])), true),
        (to(paths(&["/users"])), false),
        (header(texts(&["1,2"])), true),
        (header(texts(&["1"])), false),
        (header(not(&["1,2"])), false),
        (claim(&["realm", "roles"], "seller"), true),
        (claim(&["realm", "roles"], "admin"), false),
        (claim(&["realm"], "*"), false),
        (text(TextKey::SourceNamespace, "shop"), true),
        (text(TextKey::SourceServiceAccount, "shop/web"), true),
        (text(TextKey::TokenPrincipal, "issuer/*"), true),
        (text(TextKey::TokenAudiences, "bank"), true),
        (text(TextKey::TokenPresenter, "app"), true),
        (text(TextKey::Sni, "shop"), true),
        (when(Condition::Address { key: AddressKey::Destination, values: block("10.9.0.0/16") }), true),
        (when(Condition::Address { key: AddressKey::Remote, values: block("10.9.0.0/16") }), false),
        (when(Condition::Port(ports(3000))), true),
    ] {
        let expected = if matches { "allowed" } else { "by default" };
        let policies = [policy("allow", Action::Allow, vec![rule])];
        assert_eq!(verdict(&policies, &caller.subject()), expected, "{policies:#?}");
    }
    caller.source = "::ffff:10.1.2.3".parse().unwrap();
    let policies = [policy("allow", Action::Allow, vec![source(block("10.0.0.0/8"))])];
    assert_eq!(verdict(&policies, &caller.subject()), "allowed", "an IPv4 address in an IPv6 socket");
}

#[test]
fn bytes_and_requests_to_come_have_no_http() {
    let ports = |port| Operation { ports: Choice { any_of: vec![port], none_of: vec![] }, ..paths(&["/a"]) };
    let caller = Caller::meshed("/");
    for (action, rule, bytes, anything) in [
        (Action::Allow, to(paths(&["/a"])), "by default", "allowed"),
        (
            Action::Allow,
            Rule { to: vec![paths(&["/a"]), Operation::default()], ..Rule::default() },
            "by default",
            "allowed",
        ),
        (Action::Allow, to(ports(80)), "by default", "by default"),
        (Action::Allow, Rule::default(), "allowed", "allowed"),
        (Action::Deny, to(paths(&["/a"])), "policy", "allowed"),
        (Action::Deny, to(ports(3000)), "policy", "allowed"),
        (Action::Deny, to(ports(80)), "allowed", "allowed"),
        (
            Action::Deny,
            from(Source { request_principals: not(&["*"]), ..Source::default() }),
            "policy",
            "allowed",
        ),
        (
            Action::Deny,
            from(Source { namespaces: texts(&["shop"]), ..Source::default() }),
            "policy",
            "policy",
        ),
        (
            Action::Allow,
            from(Source { namespaces: texts(&["bank"]), ..Source::default() }),
            "by default",
            "by default",
        ),
    ] {
        let policies = [policy("policy", action, vec![rule])];
        assert_eq!(verdict(&policies, &caller.asking(Asked::Bytes)), bytes, "{policies:#?}");
        assert_eq!(verdict(&policies, &caller.asking(Asked::Anything)), anything, "{policies:#?}");
    }
}

#[test]
fn what_header_fields_said_is_not_guessed() {
    let condition = Condition::Header { name: HeaderName::from_static("x-a"), values: texts(&["1"]) };
    let rule = || Rule { to: vec![paths(&["/a"])], when: vec![condition.clone()], ..Rule::default() };
    let caller = Caller::plain("/a");
    let late = Request { method: "GET", authority: "shop", path: "/a", headers: None, token: None };
    let late = caller.asking(Asked::Request(late));
    for (action, now, later) in
        [(Action::Deny, "allowed", "allowed"), (Action::Allow, "by default", "allowed")]
    {
        let policies = [policy("policy", action, vec![rule()])];
        assert_eq!((&*verdict(&policies, &caller.subject()), &*verdict(&policies, &late)), (now, later));
    }
    let policies = [policy("policy", Action::Deny, vec![to(paths(&["/a"]))])];
    assert_eq!(verdict(&policies, &late), "policy");
}
