use std::time::UNIX_EPOCH;

use jsonwebtoken::jwk::Jwk;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::*;

const CLUSTER: &str = "https://kubernetes.default.svc";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A control plane that believes its own tokens and those of a cluster, and the keys of both.
struct Known {
    verifier: Verifier,
    own: KeyPair,
    cluster: KeyPair,
}

fn known() -> Known {
    let (own, cluster) = (key(), key());
    let mut verifier = Verifier::new(TrustDomain::new("cluster.local").unwrap());
    verifier.believe_own(&own);
    assert_eq!(verifier.believe(CLUSTER, &set(&[("k1", jwk(&cluster, Algorithm::ES256))])).unwrap(), 1);
    Known { verifier, own, cluster }
}

fn jwk(key: &KeyPair, algorithm: Algorithm) -> Value {
    let der = key.serialized_der();
    let key = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_der(der),
        _ => EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap(),
    };
    serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap()
}

fn set(keys: &[(&str, Value)]) -> Vec<u8> {
    let keys = keys.iter().map(|(id, key)| {
        let mut key = key.clone();
        key["kid"] = (*id).into();
        key
    });
    serde_json::to_vec(&json!({ "keys": keys.collect::<Vec<_>>() })).unwrap()
}

fn sign(key: &KeyPair, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(ToOwned::to_owned), ..Header::new(Algorithm::ES256) };
    encode(&header, claims, &EncodingKey::from_ec_der(key.serialized_der())).unwrap()
}

/// What Kubernetes writes into the token of a pod.
fn kubernetes() -> Value {
    let seconds = unix_seconds(now());
    json!({
        "aud": ["istio-ca", "other"], "iss": CLUSTER, "iat": seconds, "nbf": seconds, "exp": seconds + 3600,
        "sub": "system:serviceaccount:shop:order",
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "order", "uid": "1"}, "pod": {"name": "order-1", "uid": "2"},
        },
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

#[test]
fn a_token_made_here_proves_one_service_account() {
    let Known { verifier, own, .. } = known();
    let token = mint(&own, &label("shop"), &label("order"), Duration::from_secs(60), now()).unwrap();
    let identity = verifier.verify(&token, now()).unwrap();
    assert_eq!(identity.uri(), "spiffe://cluster.local/ns/shop/sa/order");
    // A minute of validity and a minute for clocks that differ.
    assert!(verifier.verify(&token, now() + Duration::from_secs(119)).is_ok());
    assert_eq!(verifier.verify(&token, now() + Duration::from_secs(120)), Err(Invalid::Expired));
    let claims: Value = insecure_decode_claims(&token).unwrap();
    assert_eq!(claims["aud"], "istio-ca");
    assert_eq!(claims["iat"], unix_seconds(now()));
}

#[test]
fn a_token_of_kubernetes_proves_its_service_account() {
    let Known { verifier, cluster, .. } = known();
    for kid in [Some("k1"), None] {
        let identity = verifier.verify(&sign(&cluster, kid, &kubernetes()), now()).unwrap();
        assert_eq!(identity.uri(), "spiffe://cluster.local/ns/shop/sa/order");
    }
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let mut verifier = Verifier::new(TrustDomain::new("other.domain").unwrap());
    let keys = [("es", jwk(&cluster, Algorithm::ES256)), ("rs", jwk(&rsa, Algorithm::RS256))];
    assert_eq!(verifier.believe(CLUSTER, &set(&keys)).unwrap(), 2);
    let header = Header { kid: Some("rs".into()), ..Header::new(Algorithm::RS256) };
    let key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    let token = encode(&header, &kubernetes(), &key).unwrap();
    assert_eq!(verifier.verify(&token, now()).unwrap().trust_domain(), "other.domain");
}

#[test]
fn claims_that_prove_nothing_are_refused() {
    let Known { verifier, own, cluster } = known();
    let seconds = unix_seconds(now());
    let good = kubernetes();
    for (claims, refusal) in [
        (with(good.clone(), "exp", (seconds - 61).into()), Invalid::Expired),
        (with(good.clone(), "exp", Value::Null), Invalid::Malformed),
        (with(good.clone(), "exp", "soon".into()), Invalid::Malformed),
        (with(good.clone(), "nbf", (seconds + 61).into()), Invalid::Early),
        (with(good.clone(), "aud", json!(["other"])), Invalid::Audience),
        (with(good.clone(), "aud", "other".into()), Invalid::Audience),
        (with(good.clone(), "aud", Value::Null), Invalid::Audience),
        (with(good.clone(), "iss", "https://other".into()), Invalid::Issuer("https://other".into())),
        (with(good.clone(), "iss", ISSUER.into()), Invalid::Signature),
        (with(good.clone(), "sub", "somebody".into()), Invalid::Subject),
        (with(good.clone(), "sub", "system:serviceaccount:shop".into()), Invalid::Subject),
        (with(good.clone(), "sub", "system:serviceaccount:shop:".into()), Invalid::Subject),
        (with(good.clone(), "sub", "system:serviceaccount:shop:a/b".into()), Invalid::Subject),
        (with(good.clone(), "sub", "system:serviceaccount:shop:user".into()), Invalid::Subject),
        (with(good.clone(), "sub", "system:serviceaccount:other:order".into()), Invalid::Subject),
    ] {
        let token = sign(&cluster, None, &claims);
        assert_eq!(verifier.verify(&token, now()), Err(refusal), "{claims}");
    }
    // Everybody signs for themselves alone.
    assert_eq!(verifier.verify(&sign(&own, None, &good), now()), Err(Invalid::Signature));
    assert_eq!(verifier.verify(&sign(&key(), None, &good), now()), Err(Invalid::Signature));
    assert_eq!(verifier.verify(&sign(&cluster, Some("k2"), &good), now()), Err(Invalid::Key));
}

#[test]
fn the_key_decides_about_the_algorithm() {
    let Known { verifier, cluster, .. } = known();
    let encoded = |value: &Value| {
        let token = sign(&cluster, None, value);
        token.split('.').nth(1).unwrap().to_owned()
    };
    let good = sign(&cluster, None, &kubernetes());
    let parts: Vec<&str> = good.split('.').collect();
    let none = encoded(&json!({"alg": "none", "typ": "JWT"}));
    for signature in ["", parts[2]] {
        let token = format!("{none}.{}.{signature}", parts[1]);
        assert_eq!(verifier.verify(&token, now()), Err(Invalid::Malformed));
    }
    // The public key, which everybody may know, as a shared secret.
    let secret = EncodingKey::from_secret(cluster.der_bytes());
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &kubernetes(), &secret).unwrap();
        assert_eq!(verifier.verify(&token, now()), Err(Invalid::Key));
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let Known { verifier, cluster, .. } = known();
    let good = sign(&cluster, None, &kubernetes());
    let long = "x".repeat(20_000);
    for bad in ["", ".", "..", "a.b.c", &good[..good.len() - 90], &good[1..], &long] {
        assert!(verifier.verify(bad, now()).is_err(), "{bad:?}");
    }
    let parts: Vec<&str> = good.split('.').collect();
    let other = sign(&cluster, None, &with(kubernetes(), "sub", "system:serviceaccount:shop:user".into()));
    let mixed = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
    assert_eq!(verifier.verify(&mixed, now()), Err(Invalid::Signature));
}

#[test]
fn an_issuer_without_usable_keys_is_noticed() {
    let mut verifier = Verifier::new(TrustDomain::new("cluster.local").unwrap());
    assert!(verifier.believe(CLUSTER, b"{}").is_err());
    assert!(verifier.believe(CLUSTER, b"not json").is_err());
    assert_eq!(verifier.believe(CLUSTER, br#"{"keys": []}"#).unwrap(), 0);
    let symmetric = br#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}"#;
    assert_eq!(verifier.believe(CLUSTER, symmetric).unwrap(), 0);
}

#[test]
fn no_error_and_no_dump_shows_a_token() {
    let Known { verifier, cluster, .. } = known();
    let token = sign(&cluster, None, &with(kubernetes(), "iss", "https://other".into()));
    let error = verifier.verify(&token, now()).unwrap_err();
    let shown = format!("{error} {error:?} {verifier:?}");
    assert!(token.split('.').all(|part| !shown.contains(part)), "{shown}");
}

#[test]
fn the_command_makes_tokens_that_the_control_plane_believes() {
    let dir = tempfile::tempdir().unwrap();
    let token = create_token(dir.path(), &label("shop"), &label("order"), Duration::from_secs(60)).unwrap();
    let mut verifier = Verifier::new(TrustDomain::new("cluster.local").unwrap());
    verifier.believe_own(&StateDir::open(dir.path()).unwrap().token_key().unwrap());
    assert_eq!(verifier.verify(&token, clock::now()).unwrap().service_account(), "order");
}
