use std::path::Path;

use clap::Parser;
use rcgen::CertificateParams;
use tempfile::TempDir;

use super::*;
use crate::ca::{Certificate, DWELL, Standing, WaitFor, request_root, rotation};

fn issuer(dir: &Path, args: &[&str]) -> Result<(Issuer, Desk)> {
    let state = ["x", "--source", "dir:/", "--state-dir", dir.to_str().unwrap()];
    let config = Config::try_parse_from(state.iter().chain(args)).unwrap();
    Issuer::open(&config, &Metrics::new()).map(Option::unwrap)
}

fn order() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/order".parse().unwrap()
}

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

/// A certificate for the customer, by the desk.
fn issue(issuer: &mut Issuer, customer: Customer) -> Issued {
    let (answer, mut wait) = oneshot::channel();
    issuer.serve(Order { customer, request: request(), lifetime: None, answer }, clock::now());
    wait.try_recv().unwrap().unwrap()
}

#[test]
fn our_own_certificate_is_renewed_at_half_of_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let (mut issuer, desk) = issuer(dir.path(), &["--leaf-lifetime", "1h"]).unwrap();
    let present = || desk.current.borrow().clone().unwrap();
    let (first, now) = (present(), clock::now());
    issuer.look_after(now + Duration::from_secs(1790), Instant::now());
    assert!(Arc::ptr_eq(&first, &present()));
    issuer.look_after(now + Duration::from_secs(1801), Instant::now());
    assert!(!Arc::ptr_eq(&first, &present()));
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let jwks = dir.path().join("jwks.json");
    let path = jwks.to_str().unwrap();
    let told = |args: &[&str]| format!("{:#}", issuer(dir.path(), args).err().unwrap());
    let foreign = ["--token-issuer", "https://kubernetes", "--token-jwks", path];
    assert!(told(&foreign).contains("cannot read --token-jwks"));
    fs::write(&jwks, "{}").unwrap();
    assert!(told(&foreign).contains("is no set of keys"));
    fs::write(&jwks, r#"{"keys": []}"#).unwrap();
    assert!(told(&foreign).contains("has no key for RS256 or ES256"));
    assert!(told(&["--token-issuer", "pillion", "--token-jwks", path]).contains("own tokens"));
    let certificate = dir.path().join("root.pem");
    let given = ["--ca-cert", certificate.to_str().unwrap(), "--ca-key", path];
    assert!(told(&given).contains("holds no private key"));
    let mut alone = vec!["x", "--source", "dir:/"];
    let key = dir.path().join("root-key.pem");
    alone.extend(["--ca-cert", certificate.to_str().unwrap(), "--ca-key", key.to_str().unwrap()]);
    let refused = Issuer::open(&Config::try_parse_from(alone).unwrap(), &Metrics::new()).unwrap_err();
    assert!(refused.to_string().contains("nobody could prove who it is"), "{refused}");
}

#[test]
fn an_authority_can_be_given_and_changed() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (made, _) = issuer(other.path(), &[]).unwrap();
    let (certificate, key) = (other.path().join("root.pem"), other.path().join("root-key.pem"));
    let given = ["--ca-cert", certificate.to_str().unwrap(), "--ca-key", key.to_str().unwrap()];
    let (mut issuer, desk) = issuer(dir.path(), &given).unwrap();
    assert_eq!(issuer.facts().trust, made.facts().trust);
    assert!(request_root(dir.path(), WaitFor::Everybody).unwrap_err().to_string().contains("holds no root"));

    let (now, start) = (clock::now(), Instant::now());
    let first = desk.current.borrow().clone().unwrap();
    let look = |issuer: &mut Issuer, seconds| issuer.look_after(now, start + Duration::from_secs(seconds));
    assert!(!look(&mut issuer, 20));
    let next = KeyPair::generate().unwrap();
    let root = Authority::root(&next, now).unwrap();
    let both = root.pem() + &made.facts().trust.roots[0];
    fs::write(&certificate, both).unwrap();
    // The key is still the old one.
    assert!(!look(&mut issuer, 40));
    assert_eq!(issuer.facts().trust, made.facts().trust);
    fs::write(&key, next.serialize_pem()).unwrap();
    assert!(look(&mut issuer, 60));
    assert!(!look(&mut issuer, 80));
    let trust = issuer.facts().trust;
    assert_eq!((trust.signer.as_str(), trust.roots.len()), (root.fingerprint(), 2));
    assert!(!Arc::ptr_eq(&first, desk.current.borrow().as_ref().unwrap()));
}

#[test]
fn new_keys_of_an_issuer_are_taken_and_bad_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let jwks = dir.path().join("jwks.json");
    let jwk = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let key = jsonwebtoken::EncodingKey::from_ec_der(key.serialized_der());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = name.into();
        serde_json::json!({"keys": [jwk]}).to_string()
    };
    fs::write(&jwks, jwk("a")).unwrap();
    let args = ["--token-issuer", "https://kubernetes", "--token-jwks", jwks.to_str().unwrap()];
    let (mut issuer, desk) = issuer(dir.path(), &args).unwrap();
    let present = || desk.callers.tokens.borrow().clone();
    let (first, start) = (present(), Instant::now());
    fs::write(&jwks, jwk("b")).unwrap();
    issuer.tokens.refresh(start + Duration::from_secs(5));
    assert!(Arc::ptr_eq(&first, &present()), "not read again yet");
    issuer.tokens.refresh(start + Duration::from_secs(11));
    let second = present();
    assert!(!Arc::ptr_eq(&first, &second));
    fs::write(&jwks, "half of a fi").unwrap();
    issuer.tokens.refresh(start + Duration::from_secs(22));
    assert!(Arc::ptr_eq(&second, &present()), "the last good keys stay");
}

/// A change of the root that is looked at step by step.
struct Change {
    dir: TempDir,
    state: StateDir,
    issuer: Issuer,
    start: Instant,
}

impl Change {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (issuer, _) = issuer(dir.path(), &[]).unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        Self { dir, state, issuer, start: Instant::now() }
    }

    /// Asks for a new root, for which who is connected is enough.
    fn request(&self) {
        request_root(self.dir.path(), WaitFor::Connected).unwrap();
    }

    fn restart(&mut self) {
        self.issuer = issuer(self.dir.path(), &[]).unwrap().0;
    }

    fn step(&mut self, proxies: &[Standing], after: Duration) -> Option<String> {
        let phase = self.state.phase().unwrap();
        let now = (clock::now(), self.start + after);
        self.issuer.step(&self.state, phase, proxies, now).unwrap()
    }

    /// Looks at it at another time of the wall, long after the phase has begun.
    fn step_at(&mut self, proxies: &[Standing], now: SystemTime) -> Option<String> {
        let phase = self.state.phase().unwrap();
        self.issuer.step(&self.state, phase, proxies, (now, self.start + LATER)).unwrap()
    }

    fn phase(&self) -> Phase {
        rotation(self.dir.path()).unwrap()
    }

    /// The roots that are believed and the one that signs.
    fn roots(&self) -> (Vec<String>, String) {
        let facts = self.issuer.facts();
        let roots = facts.certificates().map(|(_, root)| root.fingerprint().to_owned()).collect();
        (roots, facts.trust.signer)
    }

    fn bundle(&self) -> usize {
        Certificate::read_all(&fs::read(self.dir.path().join("root.pem")).unwrap()).unwrap().len()
    }
}

const LATER: Duration = Duration::from_secs(3600);

fn proxy(acknowledged: bool) -> [Standing; 1] {
    [Standing { name: "shop/order".to_owned(), customer: Some((order(), None)), acknowledged, issued: None }]
}

#[test]
fn a_root_is_changed_in_phases_that_wait_for_everybody() {
    let mut change = Change::new();
    let old = change.roots().1;
    assert_eq!(change.step(&proxy(true), LATER), None);
    change.request();
    change.request();

    assert_eq!(change.step(&proxy(true), Duration::ZERO).unwrap(), "distributing the new root");
    let (roots, signer) = change.roots();
    assert_eq!((roots.len(), change.bundle(), &signer), (2, 2, &old));
    let waiting = change.step(&proxy(false), LATER).unwrap();
    assert_eq!(waiting, "distributing the new root: waiting for shop/order to acknowledge it");
    let early = change.step(&proxy(true), DWELL / 2).unwrap();
    assert_eq!(early, "distributing the new root: everybody connected is ready");
    assert_eq!(change.roots().1, old);

    assert_eq!(change.step(&proxy(true), LATER).unwrap(), "signing with the new root");
    let (roots, new) = change.roots();
    assert_eq!((roots.len(), change.bundle()), (2, 2));
    assert_ne!(new, old);
    let waiting = change.step(&proxy(true), LATER).unwrap();
    assert_eq!(waiting, "signing with the new root: waiting for shop/order to renew their certificates");
    let issued = issue(&mut change.issuer, (order(), None));
    assert_eq!(issued.chain.last().unwrap().fingerprint(), new);
    assert!(change.step(&proxy(false), LATER).unwrap().contains("acknowledge"));

    assert_eq!(change.step(&proxy(true), LATER), None);
    assert_eq!(change.roots(), (vec![new.clone()], new));
    assert_eq!((change.phase(), change.bundle()), (Phase::Settled, 1));
    let mut left: Vec<_> =
        fs::read_dir(change.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["root-key.pem", "root.pem", "token-key.pem"]);
}

#[test]
fn a_root_is_believed_until_nobody_who_is_away_can_need_it() {
    let mut change = Change::new();
    let (old, day, second) = (change.roots().1, Duration::from_secs(24 * 3600), Duration::from_secs(1));
    request_root(change.dir.path(), WaitFor::Everybody).unwrap();
    let begun = clock::now();
    change.step_at(&[], begun);
    // A proxy that has gone with a certificate just issued comes back before this, and is told of the new root.
    let said = change.step_at(&[], begun + day - second).unwrap();
    assert!(
        said.starts_with("distributing the new root: everybody connected is ready; who is away"),
        "{said}"
    );
    assert_eq!(change.roots().1, old);
    change.restart();
    assert!(change.step_at(&[], begun + day - second).is_some() && change.roots().1 == old);
    change.step_at(&[], begun + day - second);
    assert_eq!(change.step_at(&[], clock::now() + day).unwrap(), "signing with the new root");
    // One that has gone with a certificate of the old root is believed until that has expired.
    let switched = clock::now();
    let said = change.step_at(&[], switched + day - second).unwrap();
    assert!(
        said.starts_with("signing with the new root: everybody connected is ready; who is away"),
        "{said}"
    );
    assert_eq!(change.bundle(), 2);
    change.restart();
    assert!(change.step_at(&[], switched + day - second).is_some());
    assert!(change.step_at(&[], switched + day - second).is_some());
    assert_eq!(change.bundle(), 2, "a restart shortens nothing");
    assert_eq!(change.step_at(&[], clock::now() + day), None);
    assert_eq!((change.phase(), change.bundle()), (Phase::Settled, 1));
}

#[test]
fn who_is_in_a_hurry_may_say_so_later() {
    let mut change = Change::new();
    request_root(change.dir.path(), WaitFor::Everybody).unwrap();
    change.step(&[], LATER);
    assert!(change.step(&[], LATER).unwrap().contains("who is away"));
    change.request();
    assert_eq!(change.step(&[], LATER).unwrap(), "signing with the new root");
    assert_eq!(change.step(&[], LATER), None);
    // The next change is not hurried by that.
    request_root(change.dir.path(), WaitFor::Everybody).unwrap();
    change.step(&[], LATER);
    assert!(change.step(&[], LATER).unwrap().contains("who is away"));
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut change = Change::new();
    change.request();
    change.restart();
    assert_eq!(change.step(&[], Duration::ZERO).unwrap(), "distributing the new root");
    let told = change.roots();
    change.restart();
    assert_eq!(change.roots(), told);
    assert_eq!(change.step(&[], LATER).unwrap(), "distributing the new root");
    assert_eq!(change.roots(), told, "no third root");
    assert_eq!(change.step(&[], LATER).unwrap(), "signing with the new root");
    let signing = change.roots();
    change.restart();
    assert_eq!(change.roots(), signing);
    assert_eq!(change.step(&[], LATER).unwrap(), "signing with the new root");
    // What was counted is forgotten; but a proxy that connects with a new certificate has renewed.
    assert!(change.step(&proxy(true), LATER).unwrap().contains("to renew"));
    let issued = issue(&mut change.issuer, (order(), Some([10, 0, 0, 1].into()))).leaf().issued();
    let issued = Some(issued + Duration::from_secs(1));
    let renewed = [Standing { issued, ..proxy(true)[0].clone() }];
    assert_eq!(change.step(&renewed, LATER), None);
    assert_eq!(change.bundle(), 1);
}

#[test]
fn a_broken_new_key_changes_nothing() {
    let mut change = Change::new();
    let before = change.roots();
    fs::write(change.dir.path().join("next-root-key.pem"), "garbage").unwrap();
    let now = (clock::now(), change.start + LATER);
    for _ in 0..3 {
        let failed = change.issuer.step(&change.state, Phase::Distribute, &[], now).unwrap_err();
        assert!(format!("{failed:#}").contains("next-root-key.pem"), "{failed:#}");
    }
    change.restart();
    assert_eq!(change.roots(), before);
    // One that came after the root was told to everybody is not taken either.
    fs::remove_file(change.dir.path().join("next-root-key.pem")).unwrap();
    change.request();
    change.step(&[], LATER);
    let told = change.roots();
    fs::remove_file(change.dir.path().join("next-root-key.pem")).unwrap();
    change.request();
    let failed = change.issuer.step(&change.state, Phase::Distribute, &[], now).unwrap_err();
    assert!(failed.to_string().contains("no root that was told"), "{failed}");
    assert_eq!(change.roots(), told);
}

#[test]
fn an_expired_root_can_be_changed() {
    let mut change = Change::new();
    let old = change.issuer.authority.signer().not_after();
    let after = old + Duration::from_secs(3600);
    let at = change.start + LATER;
    // Nobody is waited for: no certificate outlives its root.
    request_root(change.dir.path(), WaitFor::Everybody).unwrap();
    for phase in [Phase::Distribute, Phase::Distribute, Phase::Sign] {
        assert_eq!(change.phase(), phase);
        change.issuer.step(&change.state, phase, &[], (after, at)).unwrap();
    }
    assert_eq!(change.phase(), Phase::Settled);
    let issued = change.issuer.authority.sign(&request(), &order(), LATER, after).unwrap();
    assert!(issued.not_after > after);
}
