//! What tokens prove, and every way in which they may not.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use pillion_policy::authentication::ClaimToHeader;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    cache::Cache,
    keys::AGAIN,
    testing::{Signer, message},
    *,
};

/// A Saturday in November.
const NOW: f64 = 1_795_219_200.0;

fn rule(keys: JwtKeys) -> JwtRule {
    let copy = |header: &'static str, claim: &[&str]| ClaimToHeader {
        header: http::HeaderName::from_static(header),
        claim: claim.iter().map(|&name| name.to_owned()).collect(),
    };
    JwtRule {
        issuer: "issuer".to_owned(),
        audiences: vec!["shop".to_owned(), "bank".to_owned()],
        keys,
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        output_payload_to: Some(http::HeaderName::from_static("x-payload")),
        output_claims: vec![
            copy("x-user", &["sub"]),
            copy("x-level", &["account", "level"]),
            copy("x-roles", &["roles"]),
        ],
        forward: false,
        timeout: Duration::from_secs(5),
    }
}

fn issuers(set: &str) -> Arc<Issuers> {
    Issuers::new(&[rule(JwtKeys::Inline(set.to_owned()))], None).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "issuer", "sub": "user", "aud": "shop", "exp": NOW + 100.0, "scope": "read write",
        "roles": ["buyer", 7], "account": {"level": 3},
    })
}

/// Claims that differ in one.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn judge(issuers: &Issuers, token: &str) -> Result<Verified, TokenFault> {
    let issuer = &issuers.all()[0];
    issuer.verify(&Unverified::parse(token)?, issuer.keys().current().as_ref(), NOW)
}

#[test]
fn every_kind_of_key_verifies_what_it_has_signed() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    for algorithm in [ES256, ES384, EdDSA, RS256, RS384, RS512, PS256, PS384, PS512] {
        let signer = Signer::new(algorithm);
        let token = signer.sign(&claims());
        judge(&issuers(&signer.set()), &token).unwrap_or_else(|fault| panic!("{algorithm:?}: {fault}"));
        let other = Signer::new(algorithm);
        assert_eq!(judge(&issuers(&other.set()), &token).err(), Some(TokenFault::Signature), "{algorithm:?}");
    }
}

#[test]
fn a_good_token_proves_what_it_says() {
    let signer = Signer::new(Algorithm::ES256);
    let verified = judge(&issuers(&signer.set()), &signer.sign(&claims())).unwrap();
    let token = &verified.token;
    assert_eq!(token.principal.as_deref(), Some("issuer/user"));
    assert_eq!(token.claims.texts(&["scope"]), ["read", "write"]);
    assert_eq!(token.claims.texts(&["roles"]), ["buyer"]);
    assert_eq!(token.claims.texts(&["aud"]), ["shop"]);
    assert!(token.claims.texts(&["account"]).is_empty());
    let output: Vec<_> = verified.output.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(output, ["x-payload", "x-user", "x-level"], "a list has no plain form");
    assert_eq!(
        (&verified.output[1].1, &verified.output[2].1),
        (&"user".parse().unwrap(), &"3".parse().unwrap())
    );
    let payload = URL_SAFE_NO_PAD.decode(&verified.output[0].1).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), claims());
}

#[test]
fn what_is_claimed_must_hold() {
    let signer = Signer::new(Algorithm::ES256);
    let issuers = issuers(&signer.set());
    for (claims, fault) in [
        (but("iss", json!("other")), Some(TokenFault::Issuer)),
        (but("iss", json!(["issuer"])), Some(TokenFault::Issuer)),
        (but("aud", json!("other")), Some(TokenFault::Audience)),
        (but("aud", json!(null)), Some(TokenFault::Audience)),
        (but("aud", json!(["other", "bank"])), None),
        (but("exp", json!(NOW - 59.0)), None),
        (but("exp", json!(NOW - 61.0)), Some(TokenFault::Expired)),
        (but("exp", json!("never")), Some(TokenFault::Malformed)),
        (but("nbf", json!(NOW + 59.0)), None),
        (but("nbf", json!(NOW + 61.0)), Some(TokenFault::Early)),
        (json!({"iss": "issuer", "aud": ["shop"]}), None),
        (json!([]), Some(TokenFault::Malformed)),
    ] {
        assert_eq!(judge(&issuers, &signer.sign(&claims)).err(), fault, "{claims}");
    }
    let without_subject = judge(&issuers, &signer.sign(&json!({"iss": "issuer", "aud": "shop"}))).unwrap();
    assert_eq!(without_subject.token.principal, None);
}

#[test]
fn a_token_cannot_choose_how_it_is_verified() {
    let (rsa, ec) = (Signer::new(Algorithm::RS256), Signer::new(Algorithm::ES256));
    let both = json!({"keys": [rsa.jwk, ec.jwk]}).to_string();
    let issuers_of_both = issuers(&both);
    for algorithm in ["none", "None", "", "HS256", "HS512", "ES384", "EdDSA", "RS1"] {
        let token = ec.sign_as(&json!({"alg": algorithm}), &claims());
        assert_eq!(judge(&issuers_of_both, &token).err(), Some(TokenFault::NoKey), "{algorithm}");
    }
    // The public key as if it were a shared secret.
    for secret in [both.as_bytes(), rsa.jwk["n"].as_str().unwrap().as_bytes()] {
        let message = message(&json!({"alg": "HS256"}), &claims());
        let key = EncodingKey::from_secret(secret);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(judge(&issuers_of_both, &token).err(), Some(TokenFault::NoKey));
    }
    let shared = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}, ec.jwk]}).to_string();
    let token = ec.sign_as(&json!({"alg": "HS256"}), &claims());
    assert_eq!(judge(&issuers(&shared), &token).err(), Some(TokenFault::NoKey), "a shared secret is no key");
    let token = rsa.sign_as(&json!({"alg": "ES256"}), &claims());
    assert_eq!(judge(&issuers_of_both, &token).err(), Some(TokenFault::Signature));
    let mut only = rsa.jwk.clone();
    only["alg"] = json!("RS512");
    let only = issuers(&json!({"keys": [only]}).to_string());
    assert_eq!(judge(&only, &rsa.sign(&claims())).err(), Some(TokenFault::NoKey), "the key says which");
    let critical = ec.sign_as(&json!({"alg": "ES256", "crit": ["exp"]}), &claims());
    assert_eq!(judge(&issuers_of_both, &critical).err(), Some(TokenFault::Malformed));
}

#[test]
fn what_is_changed_or_no_token_is_refused() {
    let signer = Signer::new(Algorithm::ES256);
    let issuers = issuers(&signer.set());
    let token = signer.sign(&claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let header = message.split_once('.').unwrap().0;
    let changed = URL_SAFE_NO_PAD.encode(but("sub", json!("admin")).to_string());
    let forged = format!("{header}.{changed}.{signature}");
    assert_eq!(judge(&issuers, &forged).err(), Some(TokenFault::Signature));
    assert_eq!(judge(&issuers, &format!("{message}.")).err(), Some(TokenFault::Signature));
    for bad in
        ["", ".", "..", "a", "a.b", "a.b.c", message, &format!("{token}.x"), &format!("{header}.e30=.x")]
    {
        assert!(judge(&issuers, bad).is_err(), "{bad}");
    }
}

#[test]
fn keys_are_found_by_their_id() {
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let named = |signer: &Signer, id: &str| {
        let mut jwk = signer.jwk.clone();
        jwk["kid"] = json!(id);
        jwk
    };
    let set = issuers(&json!({"keys": [{"kty": "new"}, named(&old, "old"), named(&new, "new")]}).to_string());
    let sign = |id: &str| new.sign_as(&json!({"alg": "ES256", "kid": id}), &claims());
    assert!(judge(&set, &sign("new")).is_ok());
    assert_eq!(judge(&set, &sign("old")).err(), Some(TokenFault::Signature));
    assert_eq!(judge(&set, &sign("next")).err(), Some(TokenFault::NoKey));
    assert!(judge(&set, &new.sign(&claims())).is_ok(), "without an id all are tried");
    let mut encrypts = new.jwk.clone();
    encrypts["use"] = json!("enc");
    let useless = issuers(&json!({"keys": [encrypts]}).to_string());
    for set in [useless, issuers("no set"), issuers("{\"keys\": []}")] {
        assert_eq!(judge(&set, &new.sign(&claims())).err(), Some(TokenFault::KeysMissing));
    }
}

#[test]
fn good_tokens_are_remembered_while_rules_and_keys_are_the_same() {
    let signer = Signer::new(Algorithm::ES256);
    let rules = issuers(&signer.set());
    let token = signer.sign(&claims());
    let verified = Arc::new(judge(&rules, &token).unwrap());
    let keys = rules.all()[0].keys().current().unwrap();
    let mut cache = Cache::default();
    assert!(cache.get(&rules, 0, &token, NOW).is_none());
    cache.put(&rules, 0, &token, (&verified, Arc::clone(&keys)));
    assert!(cache.get(&rules, 0, &token, NOW).is_some_and(|known| Arc::ptr_eq(&known, &verified)));
    assert!(cache.get(&rules, 0, &token[1..], NOW).is_none());
    assert!(cache.get(&rules, 0, &token, NOW + 161.0).is_none(), "it has expired");
    for n in 0..1023 {
        cache.put(&rules, 0, &n.to_string(), (&verified, Arc::clone(&keys)));
    }
    assert!(cache.get(&rules, 0, &token, NOW).is_some());
    cache.put(&rules, 0, "one more", (&verified, Arc::clone(&keys)));
    assert!(cache.get(&rules, 0, &token, NOW).is_none(), "the oldest gives way");
    cache.put(&rules, 0, &token, (&verified, Arc::clone(&keys)));
    rules.all()[0].keys().end(Keys::parse(&signer.set()).ok(), Instant::now());
    assert!(cache.get(&rules, 0, &token, NOW).is_none(), "the keys are others");
    let long = "x".repeat(5000);
    let keys = rules.all()[0].keys().current().unwrap();
    cache.put(&rules, 0, &long, (&verified, Arc::clone(&keys)));
    cache.put(&rules, 0, &token, (&verified, keys));
    assert!(cache.get(&rules, 0, &long, NOW).is_none());
    assert!(cache.get(&rules, 0, &token, NOW).is_some());
    assert!(cache.get(&issuers(&signer.set()), 0, &token, NOW).is_none(), "the rules are others");
}

#[tokio::test(start_paused = true)]
async fn newer_keys_are_waited_for_and_asked_for_at_a_bounded_rate() {
    let signer = Signer::new(Algorithm::ES256);
    let set = || Keys::parse(&signer.set()).ok();
    let rules = Issuers::new(&[rule(JwtKeys::Remote("http://issuer/".to_owned()))], None).unwrap();
    let keys = rules.all()[0].keys();
    let wait = |seen: Option<Arc<Keys>>| async move { keys.newer_than(seen.as_ref(), Instant::now()).await };

    let begun = Instant::now();
    assert!(!wait(None).await, "nobody fetches");
    assert_eq!(begun.elapsed(), Duration::from_secs(5), "the limit of the rule");

    keys.begin();
    let (arrived, ()) = tokio::join!(wait(None), async { keys.end(set(), Instant::now()) });
    assert!(arrived);
    let first = keys.current();
    assert!(wait(None).await, "there are keys already");
    let begun = Instant::now();
    assert!(!wait(first.clone()).await && begun.elapsed().is_zero(), "the last attempt was only just");

    tokio::time::advance(AGAIN).await;
    let fetch = async {
        keys.wanted().notified().await;
        keys.begin();
        keys.end(None, Instant::now());
    };
    let (arrived, ()) = tokio::join!(wait(first.clone()), fetch);
    assert!(!arrived && keys.current().is_some(), "a failure leaves the last good keys");

    let next = [rule(JwtKeys::Remote("http://issuer/".to_owned()))];
    let next = Issuers::new(&next, Some(&rules)).unwrap();
    assert!(next.all()[0].keys().current().is_some(), "a new policy keeps what was fetched");
}
