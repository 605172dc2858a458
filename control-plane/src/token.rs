//! Bearer tokens by which a caller proves who it is before it has a certificate.
//!
//! There are two kinds, both JSON Web Tokens for the audience `istio-ca`: those that `pillion token create` signs with
//! the key of the state directory, and those of Kubernetes' service accounts, verified by the keys of their issuer. The
//! claim of the issuer says whose keys to use, and nothing else: signature, issuer, audience and times are checked by
//! the same rules for both.
//!
//! Invariants: the kind of a key decides about the algorithm, never the token, so `none` and symmetric algorithms have
//! no way in; a token proves one service account; no token appears in an error or in the log.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    dangerous::insecure_decode_claims,
    decode, decode_header, encode,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet},
};
use pillion_policy::{
    identity::{Identity, TrustDomain},
    name::Label,
};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};

use crate::{
    ca::StateDir,
    clock::{self, unix_seconds},
};

/// The issuer of tokens made here.
pub(crate) const ISSUER: &str = "pillion";

/// Whom tokens are for: what Istio's proxies ask Kubernetes to write into theirs.
const AUDIENCE: &str = "istio-ca";

/// How far the clocks of those who sign and those who verify may differ, in seconds.
const SKEW: f64 = 60.0;

/// Longest token, in bytes. One of Kubernetes has about 1,000.
const MAX_TOKEN: usize = 16 << 10;

/// How the subject of a service account begins.
const SUBJECT: &str = "system:serviceaccount:";

/// What a token says.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

/// What Kubernetes adds.
#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// What a new token says.
#[derive(Serialize)]
struct NewClaims {
    iss: &'static str,
    aud: &'static str,
    sub: String,
    iat: u64,
    exp: u64,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// It is no JSON Web Token, or a claim is missing or of the wrong type.
    #[error("the token cannot be read")]
    Malformed,
    /// Its issuer is not one of those that are believed.
    #[error("no issuer {0:?} is believed here")]
    Issuer(String),
    /// No key of the issuer's has this name and kind.
    #[error("the issuer has no such key")]
    Key,
    /// The signature is not by the key.
    #[error("the signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("the token is not for the audience {AUDIENCE}")]
    Audience,
    /// It is over.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    Early,
    /// It is not a service account's.
    #[error("the token is not the one of a service account")]
    Subject,
}

impl Invalid {
    /// A word for it, for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Issuer(_) => "issuer",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Subject => "subject",
        }
    }
}

/// Somebody whose tokens are believed, and the keys that verify them.
struct Issuer {
    name: String,
    keys: Vec<Key>,
}

struct Key {
    /// The name by which tokens call for it.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Verifies tokens.
pub(crate) struct Verifier {
    trust_domain: TrustDomain,
    issuers: Vec<Issuer>,
}

impl Verifier {
    /// Believes nobody yet.
    pub(crate) fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, issuers: Vec::new() }
    }

    /// Believes tokens made here with this key.
    pub(crate) fn believe_own(&mut self, key: &KeyPair) {
        let key =
            Key { id: None, algorithm: Algorithm::ES256, key: DecodingKey::from_ec_der(key.der_bytes()) };
        self.issuers.push(Issuer { name: ISSUER.to_owned(), keys: vec![key] });
    }

    /// Believes an issuer by its set of keys, a JSON document; says how many keys of it can be used.
    pub(crate) fn believe(&mut self, issuer: &str, keys: &[u8]) -> Result<usize, serde_json::Error> {
        let set: JwkSet = serde_json::from_slice(keys)?;
        let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
        let n_keys = keys.len();
        self.issuers.push(Issuer { name: issuer.to_owned(), keys });
        Ok(n_keys)
    }

    /// Who holds the token.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Identity, Invalid> {
        if token.len() > MAX_TOKEN {
            return Err(Invalid::Malformed);
        }
        let header = decode_header(token).map_err(|_| Invalid::Malformed)?;
        // Read before it is verified, so this may only choose whose keys are tried.
        let claimed: Claims = insecure_decode_claims(token).map_err(|_| Invalid::Malformed)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name == claimed.iss);
        let issuer = issuer.ok_or(Invalid::Issuer(claimed.iss))?;
        let named = |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        let mut verdict = Invalid::Key;
        for key in issuer.keys.iter().filter(named).filter(|key| key.algorithm == header.alg) {
            match decode::<Claims>(token, &key.key, &rules(issuer, key.algorithm)) {
                Ok(token) => return self.identify(&token.claims, now),
                Err(error) => verdict = reason(error.kind()),
            }
        }
        Err(verdict)
    }

    fn identify(&self, claims: &Claims, now: SystemTime) -> Result<Identity, Invalid> {
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 285 million years")]
        let now = unix_seconds(now) as f64;
        if claims.exp + SKEW <= now {
            return Err(Invalid::Expired);
        }
        if claims.nbf.is_some_and(|from| from - SKEW > now) {
            return Err(Invalid::Early);
        }
        let (namespace, account) = claims
            .sub
            .strip_prefix(SUBJECT)
            .and_then(|account| account.split_once(':'))
            .ok_or(Invalid::Subject)?;
        if let Some(kubernetes) = &claims.kubernetes
            && (kubernetes.namespace != namespace || kubernetes.serviceaccount.name != account)
        {
            return Err(Invalid::Subject);
        }
        let label = |name| Label::new(name).map_err(|_| Invalid::Subject);
        Ok(Identity::new(&self.trust_domain, &label(namespace)?, &label(account)?))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers: Vec<_> = self.issuers.iter().map(|issuer| (&issuer.name, issuer.keys.len())).collect();
        f.debug_struct("Verifier").field("trust_domain", &self.trust_domain).field("keys", &issuers).finish()
    }
}

/// What holds for every token. Times are ours to check: the library would read the clock.
fn rules(issuer: &Issuer, algorithm: Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.set_audience(&[AUDIENCE]);
    rules.set_issuer(&[&issuer.name]);
    rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules
}

fn reason(kind: &jsonwebtoken::errors::ErrorKind) -> Invalid {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidSignature => Invalid::Signature,
        ErrorKind::InvalidAudience => Invalid::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Invalid::Audience,
        _ => Invalid::Malformed,
    }
}

/// A key that the mesh can verify by, with the one algorithm it is used with.
fn usable(jwk: &Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key })
}

/// Makes a token for a service account.
pub(crate) fn mint(
    key: &KeyPair,
    namespace: &Label,
    service_account: &Label,
    ttl: Duration,
    now: SystemTime,
) -> Result<String> {
    let iat = unix_seconds(now);
    let claims = NewClaims {
        iss: ISSUER,
        aud: AUDIENCE,
        sub: format!("{SUBJECT}{namespace}:{service_account}"),
        iat,
        exp: iat.saturating_add(ttl.as_secs()),
    };
    let key = EncodingKey::from_ec_der(key.serialized_der());
    encode(&Header::new(Algorithm::ES256), &claims, &key).context("cannot sign the token")
}

/// Makes a token for a service account with the key in the state directory of a control plane, now.
pub fn create_token(
    state_dir: &Path,
    namespace: &Label,
    service_account: &Label,
    ttl: Duration,
) -> Result<String> {
    let key = StateDir::open(state_dir)?.token_key()?;
    mint(&key, namespace, service_account, ttl, clock::now())
}
