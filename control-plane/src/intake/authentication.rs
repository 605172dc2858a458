//! Whom workloads believe: what PeerAuthentication and RequestAuthentication say, and which workloads a policy is for.
//!
//! A token may stand where Istio looks for it unless the rule names places: in `Authorization` behind `Bearer `, then in
//! the query parameter `access_token`. Keys are not fetched here, only where they are is checked.

use std::{collections::BTreeMap, time::Duration};

use pillion_policy::{
    Invalid,
    authentication::{ClaimToHeader, JwtKeys, JwtRule, PeerTls, TokenHeader},
    header,
};

use super::values::{MILLISECOND, at_least, written_name};
use crate::{
    api::{self, MutualTlsMode},
    naming::is_root,
    object::{Key, PeerAuthentication, RequestAuthentication, Scope},
    problem::Report,
};

/// Where a token stands unless a rule says otherwise (RFC 6750 §2.1, §2.3).
const TOKEN_PREFIX: &str = "Bearer ";
const TOKEN_PARAMETER: &str = "access_token";
/// How long keys may take to fetch (Istio's).
const KEYS_TIMEOUT: Duration = Duration::from_secs(5);

/// The workloads that a selector picks.
fn scope(selector: Option<&api::WorkloadSelector>, report: &mut Report) -> Scope {
    let Some(selector) = selector else { return Scope::All };
    report.field("selector", |report| {
        if selector.match_labels.is_empty() {
            report.warn("without matchLabels it selects every workload");
            return Scope::All;
        }
        report.field("matchLabels", |report| {
            for (key, value) in &selector.match_labels {
                if key.contains('*') || value.contains('*') {
                    report.field(key, |report| {
                        report.error("'*' has no meaning here: labels are compared exactly");
                    });
                }
            }
        });
        Scope::Labels(super::labels(&selector.match_labels))
    })
}

/// The workloads that a selector picks, or none where the policy is for gateways and waypoints by `targetRefs`.
pub(super) fn targeted(
    selector: Option<&api::WorkloadSelector>,
    target: Option<&api::PolicyTargetReference>,
    targets: &[api::PolicyTargetReference],
    report: &mut Report,
) -> Scope {
    let scope = scope(selector, report);
    let field = match (target, targets) {
        (None, []) => return scope,
        (Some(_), _) => "targetRef",
        (None, _) => "targetRefs",
    };
    report.field(field, |report| {
        report.warn("accepted, not enforced yet: no sidecar is a target, use selector for workloads");
        if selector.is_some() || (target.is_some() && !targets.is_empty()) {
            report.error("only one of selector, targetRef and targetRefs can be given");
        }
        let check = |target: &api::PolicyTargetReference, report: &mut Report| {
            if target.kind.is_empty() || target.name.is_empty() {
                report.error("kind and name are needed");
            }
            // Istio takes targets of other namespaces for mistakes.
            if target.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
                report.field("namespace", |report| report.error("a target is in the policy's own namespace"));
            }
            if target.kind == "Service"
                && target.group.as_deref().is_some_and(|group| !matches!(group, "" | "core"))
            {
                report.field("group", |report| report.error("the group of Service is \"\""));
            }
        };
        match target {
            Some(target) => check(target, report),
            None => {
                for (index, target) in targets.iter().enumerate() {
                    report.item(index, |report| check(target, report));
                }
            }
        }
    });
    Scope::Nobody
}

/// Reads a PeerAuthentication.
pub(super) fn peer(spec: &api::PeerAuthentication, key: &Key, report: &mut Report) -> PeerAuthentication {
    let mut scope = scope(spec.selector.as_ref(), report);
    let mode = spec.mtls.and_then(|mtls| peer_tls(mtls.mode));
    let ports = spec.port_level_mtls.as_ref();
    let ports = ports.map(|ports| report.field("portLevelMtls", |report| port_modes(ports, &scope, report)));
    let ports = ports.unwrap_or_default();
    if mode.is_none() && ports.is_empty() {
        report.info("it says nothing: the mode is that of the next wider policy");
    }
    if is_root(&key.namespace) && matches!(scope, Scope::Labels(_)) {
        report.field("selector", |report| {
            report.warn(format!("not used: {} has policies for the whole mesh only", key.namespace));
        });
        scope = Scope::Nobody;
    }
    PeerAuthentication { scope, mode, ports }
}

fn peer_tls(mode: MutualTlsMode) -> Option<PeerTls> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(PeerTls::Disable),
        MutualTlsMode::Permissive => Some(PeerTls::Permissive),
        MutualTlsMode::Strict => Some(PeerTls::Strict),
    }
}

fn port_modes(
    given: &BTreeMap<String, api::MutualTls>,
    scope: &Scope,
    report: &mut Report,
) -> BTreeMap<u16, Option<PeerTls>> {
    match scope {
        Scope::Labels(_) if given.is_empty() => report.error("it names no port: leave it out"),
        Scope::Labels(_) => {}
        Scope::All | Scope::Nobody => report.error("needs a selector with matchLabels"),
    }
    let mut ports = BTreeMap::new();
    for (port, mtls) in given {
        report.field(port, |report| match port.parse() {
            Ok(0) | Err(_) => report.error(format!("{port:?} is not a port: a number between 1 and 65535")),
            Ok(number) => drop(ports.insert(number, peer_tls(mtls.mode))),
        });
    }
    ports
}

/// Reads a RequestAuthentication.
pub(super) fn request(spec: &api::RequestAuthentication, report: &mut Report) -> RequestAuthentication {
    let scope = targeted(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, report);
    if spec.jwt_rules.is_empty() {
        report.info("without jwtRules it asks nothing of tokens");
    }
    let rules = report.field("jwtRules", |report| {
        let rules = spec.jwt_rules.iter().enumerate();
        rules.filter_map(|(index, rule)| report.item(index, |report| jwt_rule(rule, report))).collect()
    });
    RequestAuthentication { scope, rules }
}

fn jwt_rule(given: &api::JwtRule, report: &mut Report) -> Option<JwtRule> {
    if given.issuer.is_empty() {
        report.error("issuer is missing");
    }
    let keys = keys(given, report);
    let mut from_headers = report.field("fromHeaders", |report| token_headers(&given.from_headers, report));
    let mut from_params = names("fromParams", &given.from_params, report);
    let from_cookies = names("fromCookies", &given.from_cookies, report);
    if given.from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
        from_headers.push(TokenHeader { name: http::header::AUTHORIZATION, prefix: TOKEN_PREFIX.to_owned() });
        from_params.push(TOKEN_PARAMETER.to_owned());
    }
    let output = given.output_payload_to_header.as_deref().filter(|name| !name.is_empty());
    let output_payload_to =
        output.and_then(|name| report.field("outputPayloadToHeader", |report| written_name(name, report)));
    let claims = &given.output_claim_to_headers;
    let output_claims = report.field("outputClaimToHeaders", |report| claims_to_headers(claims, report));
    let timeout = at_least("timeout", MILLISECOND, given.timeout, report);
    Some(JwtRule {
        issuer: given.issuer.clone(),
        audiences: names("audiences", &given.audiences, report),
        keys: keys?,
        from_headers,
        from_params,
        from_cookies,
        output_payload_to,
        output_claims,
        forward: given.forward_original_token,
        timeout: timeout.unwrap_or(KEYS_TIMEOUT),
    })
}

/// Where the keys of an issuer are.
fn keys(given: &api::JwtRule, report: &mut Report) -> Option<JwtKeys> {
    let given_text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let uri = given_text(&given.jwks_uri).map(|uri| ("jwksUri", uri));
    let uri = uri.or_else(|| given_text(&given.jwks_uri_of_old).map(|uri| ("jwks_uri", uri)));
    match (uri, given_text(&given.jwks)) {
        (None, None) => {
            report.error(
                "one of jwksUri and jwks is needed: the keys of an issuer are not discovered, name them with jwksUri",
            );
            None
        }
        (Some(_), Some(_)) => {
            report.error("only one of jwksUri and jwks can be given");
            None
        }
        (Some((field, uri)), None) => {
            let checked = report.field(field, |report| report.accept(key_set_uri(&uri)));
            checked.map(|()| JwtKeys::Remote(uri))
        }
        (None, Some(set)) => {
            let checked = report.field("jwks", |report| report.accept(key_set(&set)));
            checked.map(|()| JwtKeys::Inline(set))
        }
    }
}

fn key_set_uri(text: &str) -> Result<(), Invalid> {
    let uri = text.parse::<http::Uri>().ok();
    let fetched =
        uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if fetched { Ok(()) } else { Err(Invalid::new(format!("{text:?} is not an http or https URI"))) }
}

fn key_set(text: &str) -> Result<(), Invalid> {
    let set: Result<serde_json::Value, _> = serde_json::from_str(text);
    match set {
        Ok(set) if set.get("keys").is_some_and(serde_json::Value::is_array) => Ok(()),
        Ok(_) => Err(Invalid::new("it is not a JSON Web Key Set: an object with a list of keys")),
        // Where in the text is told, but nothing of it.
        Err(error) => Err(Invalid::new(format!(
            "it is not JSON: mistake in line {}, column {}",
            error.line(),
            error.column()
        ))),
    }
}

fn token_headers(given: &[api::JwtHeader], report: &mut Report) -> Vec<TokenHeader> {
    let headers = given.iter().enumerate();
    let headers = headers.filter_map(|(index, header)| {
        let name = report
            .item(index, |report| report.field("name", |report| report.accept(header::name(&header.name))))?;
        Some(TokenHeader { name, prefix: header.prefix.clone().unwrap_or_default() })
    });
    headers.collect()
}

fn claims_to_headers(given: &[api::ClaimToHeader], report: &mut Report) -> Vec<ClaimToHeader> {
    let claims = given.iter().enumerate();
    let claims = claims.filter_map(|(index, entry)| {
        report.item(index, |report| {
            let header = report.field("header", |report| written_name(&entry.header, report));
            let claim: Vec<String> = entry.claim.split('.').map(str::to_owned).collect();
            if claim.iter().any(String::is_empty) {
                let reason = "a claim is a name, or names with dots between them";
                report.field("claim", |report| report.error(reason));
            }
            Some(ClaimToHeader { header: header?, claim })
        })
    });
    claims.collect()
}

/// Texts of which none may be empty.
fn names(field: &str, given: &[String], report: &mut Report) -> Vec<String> {
    report.field(field, |report| {
        for (index, _) in given.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            report.item(index, |report| report.error("is empty"));
        }
    });
    given.to_vec()
}

#[cfg(test)]
mod tests;
