//! Who is broken off by which policy.

use futures_util::{FutureExt, future::poll_immediate};
use pillion_policy::authorization::{
    Action, AuthorizationPolicy, Choice, Operation, PathPattern, Rule, Source,
};

use super::*;

fn meshed(account: &str) -> Option<Secured> {
    let peer = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    Some(Secured { peer: Arc::new(peer), sni: None })
}

fn enter(guests: &Guests, secured: Option<Secured>) -> Rc<Guest> {
    guests.enter("10.0.0.1".parse().unwrap(), "10.0.0.2:80".parse().unwrap(), secured)
}

fn visit(path: &'static str) -> Visit {
    Visit { method: Method::GET, uri: Uri::from_static(path), authority: None, token: None }
}

fn deny(rule: Rule) -> Authorization {
    let policy = AuthorizationPolicy { name: "shop/deny".into(), action: Action::Deny, rules: vec![rule] };
    Authorization::new(&[policy], &[])
}

fn account(name: &str) -> Rule {
    let service_accounts = Choice { any_of: vec![format!("shop/{name}")], none_of: Vec::new() };
    Rule { from: vec![Source { service_accounts, ..Source::default() }], ..Rule::default() }
}

fn path(path: &str) -> Rule {
    let paths = Choice { any_of: vec![PathPattern::new(path).unwrap()], none_of: Vec::new() };
    Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() }
}

#[tokio::test]
async fn a_peer_that_is_denied_loses_its_connection_and_nobody_else_does() {
    let guests = Guests::default();
    let (bad, good, plain) =
        (enter(&guests, meshed("bad")), enter(&guests, meshed("good")), enter(&guests, None));
    let stay = bad.stay(visit("/"));
    let mut waiting = Box::pin(bad.broken_off());
    assert!(poll_immediate(&mut waiting).await.is_none() && !stay.is_broken_off());

    let broken_off = guests.review(&deny(account("bad")), |_| false);
    assert_eq!(broken_off, BrokenOff { connections: 1, requests: 0 });
    waiting.await;
    assert!(stay.is_broken_off(), "what is on the connection goes with it");
    assert!(bad.stay(visit("/")).is_broken_off(), "so does what comes later");
    assert!(!good.is_broken_off() && !plain.is_broken_off());
    assert_eq!(guests.review(&deny(account("bad")), |_| false), BrokenOff::default(), "once is enough");
}

#[test]
fn plain_text_ends_where_it_is_no_longer_taken() {
    let guests = Guests::default();
    let (secured, plain) = (enter(&guests, meshed("good")), enter(&guests, None));
    let anybody = Authorization::new(&[], &[]);
    assert_eq!(guests.review(&anybody, |port| port == 81), BrokenOff::default());
    assert_eq!(guests.review(&anybody, |port| port == 80), BrokenOff { connections: 1, requests: 0 });
    assert!(plain.is_broken_off() && !secured.is_broken_off());
}

#[tokio::test]
async fn a_request_that_is_denied_is_broken_off_alone() {
    let guests = Guests::default();
    let guest = enter(&guests, None);
    let over = guest.stay(visit("/over"));
    let (stream, other) = (guest.stay(visit("/stream?x=1")), guest.stay(visit("/other")));
    drop(over);
    let again = guest.stay(visit("/stream"));
    let mut waiting = Box::pin(stream.broken_off());
    assert!(poll_immediate(&mut waiting).await.is_none());
    assert_eq!(guests.review(&deny(path("/stream")), |_| false), BrokenOff { connections: 0, requests: 2 });
    waiting.await;
    assert!(again.is_broken_off() && !other.is_broken_off() && !guest.is_broken_off());
    assert!(other.broken_off().now_or_never().is_none());
}

#[test]
fn those_who_have_left_are_forgotten() {
    let guests = Guests::default();
    let _stays = enter(&guests, None);
    for _ in 0..10_000 {
        drop(enter(&guests, None));
    }
    assert!(guests.0.borrow().len() <= 64, "{}", guests.0.borrow().len());
    assert_eq!(guests.review(&deny(Rule::default()), |_| false).connections, 1);
}
