//! Where tokens are found, and what the application sees.

use std::time::Duration;

use http::header::HOST;
use jsonwebtoken::Algorithm;
use pillion_policy::authentication::{ClaimToHeader, JwtKeys};
use serde_json::json;

use super::*;
use crate::jwt::testing::Signer;

fn rule(issuer: &str, signer: &Signer) -> JwtRule {
    JwtRule {
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        keys: JwtKeys::Inline(signer.set()),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        output_payload_to: None,
        output_claims: vec![ClaimToHeader {
            header: HeaderName::from_static("x-user"),
            claim: vec!["sub".to_owned()],
        }],
        forward: false,
        timeout: Duration::from_secs(1),
    }
}

fn token(signer: &Signer, issuer: &str, subject: &str) -> String {
    signer.sign(&json!({"iss": issuer, "sub": subject}))
}

fn request(target: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::get(target).header(HOST, "shop");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// What is proved, or the fault; and what is left of the request.
async fn judge(rules: &[JwtRule], mut request: Request<()>) -> (Result<Option<String>, TokenFault>, String) {
    let rules = Issuers::new(rules, None).unwrap();
    let (cache, metrics) = (RefCell::default(), AccessStats::default());
    let judged = authenticate(&rules, (&cache, &metrics), &mut request).await;
    let proved = match judged {
        Ok(token) => Ok(token.and_then(|token| token.principal.clone())),
        Err(ProxyError::BadToken(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    };
    let fields = request.headers().iter().filter(|(name, _)| *name != HOST);
    let fields = fields.map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
    (proved, format!("{}{}", request.uri(), fields.collect::<String>()))
}

#[tokio::test]
async fn tokens_are_found_taken_out_and_turned_into_fields() {
    let signer = Signer::new(Algorithm::ES256);
    let good = token(&signer, "me", "user");
    let bearer = format!("bearer {good}");
    let rules = [rule("me", &signer)];
    let proved = || Ok(Some("me/user".to_owned()));
    for (request, left) in [
        (request("/a?b=1", &[("authorization", &bearer)]), "/a?b=1 x-user=user"),
        (request(&format!("/a?b=%20&access_token={good}&c"), &[]), "/a?b=%20&c x-user=user"),
        (request(&format!("/a?access_token={good}"), &[]), "/a x-user=user"),
        (request(&format!("/a?access_token={}", good.replace('.', "%2E")), &[]), "/a x-user=user"),
        (request("/a", &[("authorization", &bearer), ("x-user", "admin")]), "/a x-user=user"),
        (request(&format!("/a?access_token={good}"), &[("authorization", &bearer)]), "/a x-user=user"),
    ] {
        assert_eq!(judge(&rules, request).await, (proved(), left.to_owned()));
    }
    let forwarded = [JwtRule { forward: true, ..rule("me", &signer) }];
    let (found, left) = judge(&forwarded, request("/", &[("authorization", &bearer)])).await;
    assert_eq!((found, left), (proved(), format!("/ authorization={bearer} x-user=user")));
}

#[tokio::test]
async fn only_the_places_of_a_rule_count() {
    let signer = Signer::new(Algorithm::ES256);
    let good = token(&signer, "me", "user");
    let place = TokenHeader { name: HeaderName::from_static("x-jwt"), prefix: "JWT ".to_owned() };
    let rules = [JwtRule {
        from_headers: vec![place],
        from_params: vec!["jwt".to_owned()],
        from_cookies: vec!["session".to_owned()],
        output_claims: Vec::new(),
        ..rule("me", &signer)
    }];
    let cookie = format!("a=1; session={good}; b=2");
    let prefixed = format!("JWT {good}");
    let (param, elsewhere) = (format!("/?jwt={good}"), format!("/?access_token={good}"));
    for (request, left) in [
        (request("/", &[("x-jwt", &prefixed)]), "/"),
        (request(&param, &[]), "/"),
        (request("/", &[("cookie", &cookie)]), "/ cookie=a=1; b=2"),
    ] {
        assert_eq!(judge(&rules, request).await, (Ok(Some("me/user".to_owned())), left.to_owned()));
    }
    let bearer = format!("Bearer {good}");
    for request in [
        request("/", &[("authorization", &bearer)]),
        request(&elsewhere, &[]),
        request("/", &[("x-jwt", &good)]),
        request("/", &[("cookie", "session2=x; other")]),
    ] {
        assert_eq!(judge(&rules, request).await.0, Ok(None));
    }
}

#[tokio::test]
async fn no_token_proves_nothing_and_forges_nothing() {
    let signer = Signer::new(Algorithm::ES256);
    let rules = [rule("me", &signer)];
    let basic = request("/", &[("authorization", "Basic dTpw"), ("x-user", "admin"), ("x-user", "root")]);
    assert_eq!(judge(&rules, basic).await, (Ok(None), "/ authorization=Basic dTpw".to_owned()));
}

#[test]
fn tokens_in_targets_are_not_logged() {
    let signer = Signer::new(Algorithm::ES256);
    let rules = [rule("me", &signer), JwtRule { from_params: vec!["t".to_owned()], ..rule("you", &signer) }];
    let rules = Issuers::new(&rules, None).unwrap();
    for (target, logged) in [
        ("/a?b=1&c", None),
        ("/a", None),
        ("/a?access_token=x.y.z", Some("/a")),
        ("/a?t=x&b=access_token&%74=y", Some("/a?b=access_token")),
    ] {
        let logged = logged.map(Uri::from_static);
        assert_eq!(redacted(&rules, &Uri::from_static(target)), logged, "{target}");
    }
}

#[tokio::test]
async fn every_token_must_be_good() {
    let (mine, theirs) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::EdDSA));
    let rules = [rule("me", &mine), rule("them", &theirs)];
    let (good, other) = (token(&mine, "me", "user"), token(&theirs, "them", "user"));
    let [good_bearer, other_bearer] = [&good, &other].map(|token| format!("Bearer {token}"));
    let both =
        |second: &str| request(&format!("/?access_token={second}"), &[("authorization", &good_bearer)]);
    assert_eq!(
        judge(&rules, both(&other)).await,
        (Ok(Some("me/user".to_owned())), "/ x-user=user".to_owned())
    );
    let lines = request("/", &[("authorization", &good_bearer), ("authorization", &other_bearer)]);
    assert_eq!(judge(&rules, lines).await.0, Ok(Some("me/user".to_owned())));
    for (token, fault) in [
        (token(&theirs, "me", "user"), TokenFault::NoKey),
        (token(&mine, "who", "user"), TokenFault::Issuer),
        ("x.y.z".to_owned(), TokenFault::Malformed),
        ("x".to_owned(), TokenFault::Malformed),
    ] {
        let bearer = format!("Bearer {token}");
        assert_eq!(judge(&rules, request("/", &[("authorization", &bearer)])).await.0, Err(fault));
        assert_eq!(judge(&rules, both(&token)).await.0, Err(fault), "beside a good one");
    }
}
