//! One token: read, judged, verified.

use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, crypto};
use pillion_policy::{
    authentication::JwtRule,
    authorization::{Claims, Token},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{LEEWAY, keys::Keys};
use crate::error::TokenFault;

/// Claims that hold several words in one text (RFC 8693 §4.2; `permission` as in Istio).
const WORDS: [&str; 2] = ["scope", "permission"];

/// A token that has been read and proves nothing yet.
pub struct Unverified<'a> {
    header: Header,
    claims: Map<String, Value>,
    payload: &'a str,
    message: &'a str,
    signature: &'a str,
}

/// The parts of a token's header that count here.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; there are none.
    crit: Option<Value>,
}

/// What a token has proved.
pub struct Verified {
    /// For policies.
    pub token: Arc<Token>,
    /// Header fields for the application.
    pub output: Vec<(HeaderName, HeaderValue)>,
    /// When it ends, in seconds since 1970; never without.
    expires: f64,
}

impl Verified {
    /// Whether it still proves that, at a time in seconds since 1970.
    pub fn is_current(&self, now: f64) -> bool {
        now <= self.expires + LEEWAY
    }
}

impl<'a> Unverified<'a> {
    /// Reads the compact form (RFC 7515 §3.1).
    pub fn parse(token: &'a str) -> Result<Self, TokenFault> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        Ok(Self { header: decode(header)?, claims: decode(payload)?, payload, message, signature })
    }

    /// Who claims to have issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// A time claim, in seconds since 1970.
    fn time(&self, claim: &str) -> Result<Option<f64>, TokenFault> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(time) => time.as_f64().map(Some).ok_or(TokenFault::Malformed),
        }
    }

    /// Holds what it claims against a rule.
    pub(super) fn judge(&self, rule: &JwtRule, now: f64) -> Result<(), TokenFault> {
        if self.issuer() != Some(&rule.issuer) {
            return Err(TokenFault::Issuer);
        }
        let is_meant = |audience: &Value| {
            audience.as_str().is_some_and(|audience| rule.audiences.iter().any(|wanted| wanted == audience))
        };
        let is_for_us = match self.claims.get("aud") {
            _ if rule.audiences.is_empty() => true,
            Some(Value::Array(audiences)) => audiences.iter().any(is_meant),
            Some(audience) => is_meant(audience),
            None => false,
        };
        if !is_for_us {
            return Err(TokenFault::Audience);
        }
        if self.time("exp")?.is_some_and(|end| now > end + LEEWAY) {
            return Err(TokenFault::Expired);
        }
        if self.time("nbf")?.is_some_and(|start| now + LEEWAY < start) {
            return Err(TokenFault::Early);
        }
        Ok(())
    }

    /// Verifies the signature. The header only chooses among what the keys allow.
    pub(super) fn verify(&self, keys: &Keys) -> Result<(), TokenFault> {
        if self.header.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let algorithm: Algorithm = self.header.alg.parse().map_err(|_| TokenFault::NoKey)?;
        let mut is_known = false;
        for key in keys.candidates(self.header.kid.as_deref(), algorithm) {
            is_known = true;
            if crypto::verify(self.signature, self.message.as_bytes(), key, algorithm).unwrap_or(false) {
                return Ok(());
            }
        }
        Err(if is_known { TokenFault::Signature } else { TokenFault::NoKey })
    }

    /// What it proves, once it is verified.
    pub(super) fn proves(&self, rule: &JwtRule) -> Verified {
        let principal = match (self.text("iss"), self.text("sub")) {
            (Some(issuer), Some(subject)) if !issuer.is_empty() && !subject.is_empty() => {
                Some(format!("{issuer}/{subject}"))
            }
            _ => None,
        };
        let members = self.claims.iter().map(|(name, value)| {
            let claim = match value {
                Value::String(words) if WORDS.contains(&name.as_str()) => {
                    Claims::Texts(words.split_whitespace().map(str::to_owned).collect())
                }
                other => claims(other),
            };
            (name.clone(), claim)
        });
        let token = Token { principal, claims: Claims::Members(members.collect()) };
        let payload = rule.output_payload_to.iter().map(|name| (name.clone(), self.payload.to_owned()));
        let copied = rule
            .output_claims
            .iter()
            .filter_map(|copy| Some((copy.header.clone(), printed(member(&self.claims, &copy.claim)?)?)));
        let output = payload.chain(copied).filter_map(|(name, text)| Some((name, text.try_into().ok()?)));
        let expires = self.time("exp").ok().flatten().unwrap_or(f64::INFINITY);
        Verified { token: Arc::new(token), output: output.collect(), expires }
    }
}

impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("header", &self.header).finish_non_exhaustive()
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("expires", &self.expires).finish_non_exhaustive()
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenFault> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenFault::Malformed)
}

/// A claim so far as policies can ask for it.
fn claims(value: &Value) -> Claims {
    match value {
        Value::String(text) => Claims::Texts(vec![text.clone()]),
        Value::Array(items) => {
            Claims::Texts(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        Value::Object(members) => {
            let members: BTreeMap<_, _> =
                members.iter().map(|(name, value)| (name.clone(), claims(value))).collect();
            Claims::Members(members)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Claims::Texts(Vec::new()),
    }
}

fn member<'a>(claims: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
}

/// A claim as a header field: what has a plain form (as in Envoy).
fn printed(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
