//! The tokens of a request: where they stand, and what the application sees of them.
//!
//! Every token found must be good, whoever sent it; a request without one passes and has proved nothing. A good token is
//! taken out of the request unless its rule says otherwise. Fields the rules fill are the proxy's: what a caller sent
//! under their names is removed, token or not.

use std::{cell::RefCell, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{AUTHORIZATION, COOKIE},
    uri::PathAndQuery,
};
use pillion_policy::{
    authentication::{JwtRule, TokenHeader},
    authorization::Token,
    matching,
};
use tokio::time::Instant;

use crate::{
    error::{ProxyError, TokenFault},
    jwt::{Issuers, Unverified, Verified, cache::Cache},
    rt::clock,
    telemetry::access::AccessStats,
};

/// The parameter a token may stand in where a rule names no place (RFC 6750 §2.3).
const ACCESS_TOKEN: &str = "access_token";

/// A token, and the rule it stands in a place of.
struct Found {
    text: String,
    rule: usize,
}

/// Judges the tokens of a request and makes it what the application is to see. Gives what the first of them has proved.
pub(super) async fn authenticate<B>(
    rules: &Arc<Issuers>,
    (cache, metrics): (&RefCell<Cache>, &AccessStats),
    request: &mut Request<B>,
) -> Result<Option<Arc<Token>>, ProxyError> {
    let found = find(rules, request);
    let mut good: Vec<(Arc<Verified>, usize, &str)> = Vec::new();
    for (at, Found { text, .. }) in found.iter().enumerate() {
        let is_first = found.iter().position(|other| other.text == *text) == Some(at);
        if !is_first {
            continue;
        }
        let places: Vec<usize> =
            found.iter().filter(|other| other.text == *text).map(|other| other.rule).collect();
        match judge(rules, cache, text, &places).await {
            Ok((verified, rule)) => {
                metrics.tokens_accepted.inc();
                good.push((verified, rule, text));
            }
            Err(fault) => {
                metrics.tokens_refused.inc();
                return Err(ProxyError::BadToken(fault));
            }
        }
    }
    for name in rules.all().iter().flat_map(|issuer| outputs(issuer.rule())) {
        request.headers_mut().remove(name);
    }
    for (verified, rule, text) in &good {
        if let Some(issuer) = rules.all().get(*rule).filter(|issuer| !issuer.rule().forward) {
            strip(issuer.rule(), text, request);
        }
        for (name, value) in &verified.output {
            request.headers_mut().insert(name.clone(), value.clone());
        }
    }
    Ok(good.first().map(|(verified, ..)| Arc::clone(&verified.token)))
}

/// Judges one token by the rules of its issuer among those it stands in a place of. Where the keys do not fit it, newer
/// ones are asked for once.
async fn judge(
    rules: &Arc<Issuers>,
    cache: &RefCell<Cache>,
    text: &str,
    places: &[usize],
) -> Result<(Arc<Verified>, usize), TokenFault> {
    let now = clock::unix_seconds(clock::now());
    let known = |rule: &usize| Some((cache.borrow_mut().get(rules, *rule, text, now)?, *rule));
    if let Some(known) = places.iter().find_map(known) {
        return Ok(known);
    }
    let token = Unverified::parse(text)?;
    let mut fault = TokenFault::Issuer;
    for rule in places {
        let Some(issuer) = rules.all().get(*rule).filter(|issuer| issuer.is_for(token.issuer())) else {
            continue;
        };
        let mut keys = issuer.keys().current();
        let mut judged = issuer.verify(&token, keys.as_ref(), now);
        if matches!(judged, Err(TokenFault::NoKey | TokenFault::KeysMissing))
            && issuer.keys().newer_than(keys.as_ref(), Instant::now()).await
        {
            keys = issuer.keys().current();
            judged = issuer.verify(&token, keys.as_ref(), now);
        }
        match (judged, keys) {
            (Ok(verified), Some(keys)) => {
                let verified = Arc::new(verified);
                cache.borrow_mut().put(rules, *rule, text, (&verified, keys));
                return Ok((verified, *rule));
            }
            (Ok(_), None) => fault = TokenFault::KeysMissing,
            (Err(why), _) => fault = why,
        }
    }
    Err(fault)
}

/// All tokens of a request, in the order of the rules.
fn find<B>(rules: &Issuers, request: &Request<B>) -> Vec<Found> {
    let mut found = Vec::new();
    for (rule, issuer) in rules.all().iter().enumerate() {
        let mut take = |text: &str| {
            if !text.is_empty() {
                found.push(Found { text: text.to_owned(), rule });
            }
        };
        let places = issuer.rule();
        let default = has_default_places(places);
        for value in default.then(|| request.headers().get_all(AUTHORIZATION)).into_iter().flatten() {
            behind("Bearer ", value).into_iter().for_each(&mut take);
        }
        for TokenHeader { name, prefix } in &places.from_headers {
            let values = request.headers().get_all(name).iter();
            values.filter_map(|value| behind(prefix, value)).for_each(&mut take);
        }
        let query = request.uri().query().unwrap_or_default();
        for name in params(places) {
            matching::query_value(query, name).into_iter().for_each(|token| take(&token));
        }
        for name in &places.from_cookies {
            cookies(request.headers())
                .filter(|(cookie, _)| cookie == name)
                .for_each(|(_, token)| take(token));
        }
    }
    found
}

fn has_default_places(rule: &JwtRule) -> bool {
    rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty()
}

/// What stands behind a prefix, whose case does not matter: `Bearer` is a scheme (RFC 9110 §11.1).
fn behind<'a>(prefix: &str, value: &'a HeaderValue) -> Option<&'a str> {
    let text = value.to_str().ok()?;
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| rest.trim())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        Some((name, value.trim_matches('"')))
    })
}

/// The header fields a rule fills.
fn outputs(rule: &JwtRule) -> impl Iterator<Item = &HeaderName> {
    rule.output_payload_to.iter().chain(rule.output_claims.iter().map(|copy| &copy.header))
}

/// Takes a token out of the places of its rule.
fn strip<B>(rule: &JwtRule, token: &str, request: &mut Request<B>) {
    let default = has_default_places(rule);
    let bearer = TokenHeader { name: AUTHORIZATION, prefix: "Bearer ".to_owned() };
    for TokenHeader { name, prefix } in rule.from_headers.iter().chain(default.then_some(&bearer)) {
        keep(request.headers_mut(), name, |value| behind(prefix, value) != Some(token));
    }
    strip_query(request.uri_mut(), |pair| {
        let mut values = params(rule).filter_map(|name| matching::query_value(pair, name));
        values.any(|value| value == token)
    });
    if !rule.from_cookies.is_empty() {
        let is_token = |(name, value): (&str, &str)| {
            value == token && rule.from_cookies.iter().any(|cookie| cookie == name)
        };
        if cookies(request.headers()).any(is_token) {
            let kept: Vec<String> = cookies(request.headers())
                .filter(|cookie| !is_token(*cookie))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request.headers_mut().remove(COOKIE);
            if let Ok(line) = HeaderValue::try_from(kept.join("; "))
                && !kept.is_empty()
            {
                request.headers_mut().insert(COOKIE, line);
            }
        }
    }
}

/// Keeps the lines of a field that satisfy `keeps`.
fn keep(headers: &mut HeaderMap, name: &HeaderName, keeps: impl Fn(&HeaderValue) -> bool) {
    if headers.get_all(name).iter().all(&keeps) {
        return;
    }
    let kept: Vec<HeaderValue> = headers.get_all(name).iter().filter(|value| keeps(value)).cloned().collect();
    headers.remove(name);
    for value in kept {
        headers.append(name, value);
    }
}

/// The target as it may be logged: without parameters that hold tokens. `None` when it may be logged as it is.
pub(super) fn redacted(rules: &Issuers, uri: &Uri) -> Option<Uri> {
    let mut redacted = uri.clone();
    let is_stripped = strip_query(&mut redacted, |pair| {
        let mut names = rules.all().iter().flat_map(|issuer| params(issuer.rule()));
        names.any(|name| matching::query_value(pair, name).is_some())
    });
    is_stripped.then_some(redacted)
}

/// The query parameters a token of a rule may stand in.
fn params(rule: &JwtRule) -> impl Iterator<Item = &str> {
    let default = has_default_places(rule).then_some(ACCESS_TOKEN);
    rule.from_params.iter().map(String::as_str).chain(default)
}

/// Takes parameters out of a query; what remains stays as it was written. Says whether there were any.
fn strip_query(uri: &mut Uri, is_gone: impl Fn(&str) -> bool) -> bool {
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
    let kept: Vec<&str> = pairs.clone().filter(|pair| !is_gone(pair)).collect();
    if kept.len() == pairs.count() {
        return false;
    }
    let target = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
    true
}

#[cfg(test)]
mod tests;
