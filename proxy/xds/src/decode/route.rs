//! Routes: conditions, actions and edits.

use http::HeaderName;
use pillion_policy::{
    Invalid,
    header::{Edits, Field},
    matching::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch},
    pattern::{Pattern, Substitution},
    route::{
        Action, Backend, Backends, Cors, DirectResponse, Forward, Mirror, PathRewrite, Redirect,
        RedirectPort, Route, Target,
    },
};

use super::{
    duration, fraction, header_name, known, list, number, optional, required, resilience, text, unknown,
};
use crate::pillion as wire;

pub(super) fn route(route: wire::Route) -> Result<Route, Invalid> {
    use wire::route::Action as Wire;
    let action = match route.action {
        Some(Wire::Forward(value)) => Action::Forward(required("forward", Some(value), forward)?),
        Some(Wire::Redirect(value)) => Action::Redirect(required("redirect", Some(value), redirect)?),
        Some(Wire::Respond(value)) => Action::Respond(required("respond", Some(value), respond)?),
        None => return Err(unknown("action")),
    };
    let mirror = |mirror: wire::Mirror| {
        Ok(Mirror {
            target: required("target", mirror.target, target)?,
            fraction: fraction("fraction", mirror.fraction)?,
        })
    };
    Ok(Route {
        name: route.name.into(),
        matches: list("matches", route.matches, route_match)?,
        action,
        request_headers: edits("requestHeaders", route.request_headers)?,
        response_headers: edits("responseHeaders", route.response_headers)?,
        timeout: optional("timeout", route.timeout, duration)?,
        mirrors: list("mirrors", route.mirrors, mirror)?,
        cors: optional("cors", route.cors, cors)?,
        resilience: optional("resilience", route.resilience, resilience::route)?.unwrap_or_default(),
    })
}

fn route_match(entry: wire::RouteMatch) -> Result<RouteMatch, Invalid> {
    let path = |path: wire::PathMatch| {
        Ok(PathMatch { value: required("value", path.value, string_match)?, ignore_case: path.ignore_case })
    };
    let header = |header: wire::HeaderMatch| {
        Ok(HeaderMatch {
            name: header_name("name", &header.name)?,
            value: required("value", header.value, string_match)?,
            negated: header.negated,
        })
    };
    let query = |query: wire::QueryMatch| {
        Ok(QueryMatch { name: query.name, value: required("value", query.value, string_match)? })
    };
    Ok(RouteMatch {
        path: optional("path", entry.path, path)?,
        method: optional("method", entry.method, string_match)?,
        scheme: optional("scheme", entry.scheme, string_match)?,
        authority: optional("authority", entry.authority, string_match)?,
        headers: list("headers", entry.headers, header)?,
        query: list("query", entry.query, query)?,
    })
}

fn string_match(condition: wire::StringMatch) -> Result<StringMatch, Invalid> {
    use wire::string_match::Value;
    Ok(match condition.value {
        Some(Value::Exact(text)) => StringMatch::Exact(text),
        Some(Value::Prefix(text)) => StringMatch::Prefix(text),
        Some(Value::Regex(source)) => {
            StringMatch::Regex(Pattern::new(&source).map_err(|invalid| invalid.within("regex"))?)
        }
        Some(Value::Present(wire::Present {})) => StringMatch::Present,
        None => return Err(Invalid::new("holds no condition that is known here")),
    })
}

fn edits(field: &str, edits: Option<wire::Edits>) -> Result<Edits, Invalid> {
    let decode = |edits: wire::Edits| {
        Ok(Edits {
            remove: names("remove", edits.remove)?,
            set: list("set", edits.set, self::field)?,
            add: list("add", edits.add, self::field)?,
        })
    };
    Ok(optional(field, edits, decode)?.unwrap_or_default())
}

pub(super) fn field(field: wire::Field) -> Result<Field, Invalid> {
    Field::new(&field.name, &field.value)
}

pub(super) fn names(field: &str, names: Vec<String>) -> Result<Vec<HeaderName>, Invalid> {
    list(field, names, |name| pillion_policy::header::name(&name))
}

fn forward(forward: wire::Forward) -> Result<Forward, Invalid> {
    let backend = |backend: wire::Backend| {
        Ok(Backend {
            target: required("target", backend.target, target)?,
            weight: backend.weight,
            request_headers: edits("requestHeaders", backend.request_headers)?,
            response_headers: edits("responseHeaders", backend.response_headers)?,
            authority: optional("authority", backend.authority, field)?,
        })
    };
    let backends = Backends::new(list("backends", forward.backends, backend)?);
    Ok(Forward {
        backends: backends.map_err(|invalid| invalid.within("backends"))?,
        path: optional("path", forward.path, rewrite)?,
        authority: optional("authority", forward.authority, field)?,
    })
}

fn target(target: wire::Target) -> Result<Target, Invalid> {
    Ok(match target.target {
        Some(wire::target::Target::Cluster(name)) => Target::Cluster(text("cluster", &name)?),
        Some(wire::target::Target::Missing(reason)) => Target::Missing(reason.into()),
        None => return Err(Invalid::new("names nothing that is known here")),
    })
}

fn rewrite(rewrite: wire::PathRewrite) -> Result<PathRewrite, Invalid> {
    use wire::path_rewrite::Rewrite;
    let regex = |regex: wire::RegexRewrite| {
        let substitution = Substitution::new(&regex.substitution);
        Ok(PathRewrite::Regex {
            pattern: Pattern::new(&regex.pattern).map_err(|invalid| invalid.within("pattern"))?,
            substitution: substitution.map_err(|invalid| invalid.within("substitution"))?,
        })
    };
    match rewrite.rewrite {
        Some(Rewrite::Matched(path)) => Ok(PathRewrite::Matched(path)),
        Some(Rewrite::Whole(path)) => Ok(PathRewrite::Whole(path)),
        Some(Rewrite::Regex(value)) => required("regex", Some(value), regex),
        None => Err(Invalid::new("holds no rewrite that is known here")),
    }
}

fn redirect(redirect: wire::Redirect) -> Result<Redirect, Invalid> {
    let port = match known("port", redirect.port)? {
        wire::RedirectPort::SchemeDefault => RedirectPort::SchemeDefault,
        wire::RedirectPort::Request => RedirectPort::Request,
        wire::RedirectPort::Number => RedirectPort::Number(number("portNumber", redirect.port_number)?),
    };
    let redirect = Redirect {
        code: number("code", redirect.code)?,
        scheme: redirect.scheme,
        host: redirect.host,
        port,
        path: optional("path", redirect.path, rewrite)?,
    };
    redirect.check()?;
    Ok(redirect)
}

fn respond(response: wire::DirectResponse) -> Result<DirectResponse, Invalid> {
    let response =
        DirectResponse { status: number("status", response.status)?, body: response.body.as_ref().into() };
    response.check()?;
    Ok(response)
}

fn cors(cors: wire::Cors) -> Result<Cors, Invalid> {
    Ok(Cors {
        allow_origins: list("allowOrigins", cors.allow_origins, string_match)?,
        allow_methods: cors.allow_methods,
        allow_headers: names("allowHeaders", cors.allow_headers)?,
        expose_headers: names("exposeHeaders", cors.expose_headers)?,
        max_age: optional("maxAge", cors.max_age, duration)?,
        allow_credentials: cors.allow_credentials,
        forward_unmatched_preflights: cors.forward_unmatched_preflights,
    })
}
