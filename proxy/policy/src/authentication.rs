//! Whom a workload believes: peers by their certificates (PeerAuthentication), users by their tokens
//! (RequestAuthentication).

use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::header;

/// What a port of a workload accepts (PeerAuthentication).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PeerTls {
    /// Plain text and mutual TLS, told apart by the first bytes.
    #[default]
    Permissive,
    /// Mutual TLS only: plain text is refused before a byte of it is parsed.
    Strict,
    /// Plain text only: TLS is the application's own affair.
    Disable,
}

/// One `jwtRules` entry of a RequestAuthentication: a token of this issuer must be good; none at all is no offence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtRule {
    /// The claim `iss`, exactly.
    pub issuer: String,
    /// The claim `aud` must name one of these; empty asks nothing.
    pub audiences: Vec<String>,
    /// The keys of the issuer.
    pub keys: JwtKeys,
    /// Header fields the token may stand in.
    pub from_headers: Vec<TokenHeader>,
    /// Query parameters the token may stand in.
    pub from_params: Vec<String>,
    /// Cookies the token may stand in.
    pub from_cookies: Vec<String>,
    /// Header field that takes the payload, base64url without padding.
    #[serde(default, with = "header::optional_name_text")]
    pub output_payload_to: Option<HeaderName>,
    /// Claims that are copied to header fields; a caller's own field of that name is removed.
    pub output_claims: Vec<ClaimToHeader>,
    /// Whether the application gets to see the token.
    pub forward: bool,
    /// How long the keys may take to fetch; Istio's default is 5 s.
    pub timeout: Duration,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum JwtKeys {
    /// A JSON Web Key Set (RFC 7517).
    Inline(String),
    /// `http` or `https` URI of one.
    Remote(String),
}

/// A header field with a token behind a prefix such as `Bearer `.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenHeader {
    /// Name of the field.
    #[serde(with = "header::name_text")]
    pub name: HeaderName,
    /// What stands before the token; may be empty.
    pub prefix: String,
}

/// A claim and the header field it is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The field.
    #[serde(with = "header::name_text")]
    pub header: HeaderName,
    /// The way to the claim.
    pub claim: Vec<String>,
}
