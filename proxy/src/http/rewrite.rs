//! What a rule makes of a path, and where a redirection points.

use std::borrow::Cow;

use pillion_policy::{
    matching::{Head, RouteMatch, StringMatch},
    route::{PathRewrite, Redirect, RedirectPort},
};

/// The new path. `matched` is the alternative the request satisfied.
pub fn path(rewrite: &PathRewrite, path: &str, matched: Option<&RouteMatch>) -> String {
    match rewrite {
        PathRewrite::Whole(whole) => whole.clone(),
        PathRewrite::Regex { pattern, substitution } => pattern.replace(path, substitution),
        PathRewrite::Matched(replacement) => {
            let condition = matched.and_then(|matched| matched.path.as_ref());
            match condition.map(|condition| &condition.value) {
                Some(StringMatch::Prefix(prefix)) => {
                    format!("{replacement}{}", path.get(prefix.len()..).unwrap_or_default())
                }
                // A rule without a condition on the path matches the prefix `/` of every path.
                None => format!("{replacement}{}", path.strip_prefix('/').unwrap_or(path)),
                Some(StringMatch::Exact(_) | StringMatch::Regex(_) | StringMatch::Present) => {
                    replacement.clone()
                }
            }
        }
    }
}

/// The `Location` of a redirection. `port` is the one the request came in on.
pub fn location(redirect: &Redirect, head: &Head<'_>, matched: Option<&RouteMatch>, port: u16) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let host = match &redirect.host {
        Some(host) => Cow::Borrowed(host.as_str()),
        None => Cow::Borrowed(without_port(head.authority)),
    };
    let port = match redirect.port {
        RedirectPort::SchemeDefault => None,
        RedirectPort::Request => Some(port),
        RedirectPort::Number(port) => Some(port),
    };
    let implied = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port.filter(|_| !implied) {
        location.push(':');
        location.push_str(&port.to_string());
    }
    match &redirect.path {
        Some(rewrite) => location.push_str(&path(rewrite, head.path, matched)),
        None => location.push_str(head.path),
    }
    // A new path may bring a query of its own, which then stands in for the old one.
    if let Some(query) = head.query.filter(|_| !location.contains('?')) {
        location.push('?');
        location.push_str(query);
    }
    location
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use pillion_policy::{
        matching::PathMatch,
        pattern::{Pattern, Substitution},
    };

    use super::*;

    fn on(value: StringMatch) -> RouteMatch {
        RouteMatch { path: Some(PathMatch { value, ignore_case: false }), ..RouteMatch::default() }
    }

    #[test]
    fn what_was_matched_is_replaced() {
        let to = |text: &str| PathRewrite::Matched(text.into());
        let prefix = on(StringMatch::Prefix("/api/".into()));
        assert_eq!(path(&to("/"), "/api/users", Some(&prefix)), "/users");
        // Plain substitution: Istio's documented pitfall is kept.
        assert_eq!(path(&to("/"), "/api/users", Some(&on(StringMatch::Prefix("/api".into())))), "//users");
        assert_eq!(path(&to("/new"), "/old", Some(&on(StringMatch::Exact("/old".into())))), "/new");
        assert_eq!(path(&to("/new/"), "/old", None), "/new/old");
        let regex = PathRewrite::Regex {
            pattern: Pattern::new("^/api/users").unwrap(),
            substitution: Substitution::new("/users").unwrap(),
        };
        assert_eq!(path(&regex, "/api/users/7", None), "/users/7");
    }

    #[test]
    fn locations_leave_out_what_is_implied() {
        let headers = HeaderMap::new();
        let head = Head {
            method: "GET",
            scheme: "http",
            authority: "shop:8080",
            path: "/a",
            query: Some("q=1"),
            headers: &headers,
        };
        let to = |scheme: Option<&str>, port, path: Option<&str>| Redirect {
            code: 301,
            scheme: scheme.map(Into::into),
            host: None,
            port,
            path: path.map(|path| PathRewrite::Whole(path.into())),
        };
        let at = |redirect: &Redirect| location(redirect, &head, None, 8080);
        assert_eq!(at(&to(None, RedirectPort::Request, None)), "http://shop:8080/a?q=1");
        assert_eq!(at(&to(Some("https"), RedirectPort::Number(443), None)), "https://shop/a?q=1");
        assert_eq!(at(&to(None, RedirectPort::SchemeDefault, Some("/b?x"))), "http://shop/b?x");
    }
}
