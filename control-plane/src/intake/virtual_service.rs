//! What a VirtualService says, as rules of the policy model whose destinations are still names.

use pillion_policy::{
    Invalid,
    header::{self, Edits, Field},
    matching::StringMatch,
    pattern::{Pattern, Substitution},
    route::{Cors, DirectResponse, PathRewrite, Redirect, RedirectPort},
};

use super::{
    fault,
    matches::{for_sidecars, read_match},
    retry,
    values::{authority, destination, edits, fraction, is_host, place, string_match, timeout, weight},
};
use crate::{
    api,
    naming::{Exported, HostPattern, Naming},
    object::{Action, Backend, Key, Match, Mirror, RouteSettings, Rule, VirtualService},
    problem::Report,
};

pub(super) fn read(
    spec: &api::VirtualService,
    key: &Key,
    naming: &Naming,
    report: &mut Report,
) -> Option<VirtualService> {
    let hosts = report.field("hosts", |report| hosts(&spec.hosts, key, naming, report));
    let mesh = report.field("gateways", |report| for_sidecars(&spec.gateways, report));
    let exported =
        report.field("exportTo", |report| report.accept(Exported::new(&spec.export_to, &key.namespace)));
    if spec.http.is_empty() && spec.tcp.to_check().is_none() && spec.tls.to_check().is_none() {
        report.error("it has no routes: http is empty");
    }
    let reader = RuleReader { key, naming };
    let rules = report.field("http", |report| {
        let mut end: Option<usize> = None;
        let rules = spec.http.iter().enumerate();
        rules
            .map(|(index, http)| {
                report.item(index, |report| {
                    if let Some(end) = end {
                        report.warn(format!("never reached: http[{end}] takes every request"));
                    }
                    let rule = reader.rule(index, http, report)?;
                    if end.is_none() && is_catch_all(&rule) {
                        end = Some(index);
                    }
                    Some(rule)
                })
            })
            .collect::<Vec<Option<Rule>>>()
    });
    let rules: Option<Vec<Rule>> = rules.into_iter().collect();
    Some(VirtualService { hosts, exported: exported?, mesh, rules: rules? })
}

fn hosts(hosts: &[String], key: &Key, naming: &Naming, report: &mut Report) -> Vec<HostPattern> {
    if hosts.is_empty() {
        report.error("at least one host is needed");
    }
    let mut read: Vec<HostPattern> = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        report.item(index, |report| {
            match report.accept(HostPattern::new(host, key.namespace.as_str(), naming)) {
                Some(pattern) if read.contains(&pattern) => report.error(format!("{host} stands here twice")),
                Some(pattern) => read.push(pattern),
                None => {}
            }
        });
    }
    read
}

fn is_catch_all(rule: &Rule) -> bool {
    let always = |entry: &Match| {
        entry.applies
            && entry.port.is_none()
            && entry.namespace.is_none()
            && entry.labels.is_empty()
            && entry.request.is_catch_all()
    };
    rule.matches.is_empty() || rule.matches.iter().any(always)
}

fn may_post(matches: &[Match]) -> bool {
    let posts = |entry: &Match| entry.request.method.as_ref().is_none_or(|method| method.matches("POST"));
    matches.is_empty() || matches.iter().any(posts)
}

struct RuleReader<'a> {
    key: &'a Key,
    naming: &'a Naming,
}

impl RuleReader<'_> {
    fn rule(&self, index: usize, http: &api::HttpRoute, report: &mut Report) -> Option<Rule> {
        let matches: Option<Vec<Match>> = report.field("match", |report| {
            let entries = http.matches.iter().enumerate();
            entries.map(|(index, entry)| report.item(index, |report| read_match(entry, report))).collect()
        });
        let (request_headers, response_headers, host) = match &http.headers {
            Some(headers) => report.field("headers", |report| read_headers(headers, report)),
            None => Default::default(),
        };
        let action = self.action(http, host, report);
        let mirrors = self.mirrors(http, report);
        let cors = http
            .cors_policy
            .as_ref()
            .map(|cors| report.field("corsPolicy", |report| read_cors(cors, report)));
        let may_post = matches.as_deref().is_some_and(may_post);
        let retries = http.retries.as_ref().and_then(|retries| {
            report.field("retries", |report| retry::of_rule(retries, http.timeout, may_post, report))
        });
        let fault = http.fault.as_ref();
        let limits = RouteSettings {
            timeout: timeout(http.timeout, report),
            retry: retries,
            fault: fault.map(|fault| report.field("fault", |report| fault::read(fault, report))),
            ..RouteSettings::default()
        };
        let label = if http.name.is_empty() { String::new() } else { format!(" ({})", http.name) };
        let name = format!("{} http[{index}]{label}", self.key).into();
        Some(Rule {
            name,
            section: http.name.as_str().into(),
            matches: matches?,
            action: action?,
            request_headers,
            response_headers,
            limits,
            mirrors,
            cors,
        })
    }

    fn action(&self, http: &api::HttpRoute, host: Option<Field>, report: &mut Report) -> Option<Action> {
        match (http.route.as_slice(), &http.redirect, &http.direct_response) {
            ([], None, None) => {
                report.error("it does nothing: route, redirect or directResponse is needed");
                None
            }
            (route, None, None) => self.forward(http, route, host, report),
            ([], Some(redirect), None) => {
                exclude_rewrite(http, "redirect", report);
                report.field("redirect", |report| read_redirect(redirect, http, report)).map(Action::Redirect)
            }
            ([], None, Some(response)) => {
                exclude_rewrite(http, "directResponse", report);
                report.field("directResponse", |report| read_response(response, report)).map(Action::Respond)
            }
            _ => {
                report.error("only one of route, redirect and directResponse can be given");
                None
            }
        }
    }

    fn forward(
        &self,
        http: &api::HttpRoute,
        route: &[api::HttpRouteDestination],
        host: Option<Field>,
        report: &mut Report,
    ) -> Option<Action> {
        let backends: Option<Vec<Backend>> = report.field("route", |report| {
            let entries = route.iter().enumerate();
            let backends = entries
                .map(|(index, entry)| report.item(index, |report| self.backend(entry, route.len(), report)));
            backends.collect::<Vec<_>>().into_iter().collect()
        });
        if let Some([_, _, ..]) = backends.as_deref()
            && backends.iter().flatten().all(|backend| backend.weight == 0)
        {
            report.field("route", |report| {
                report.error("all weights are 0: no destination would take traffic");
            });
        }
        let (path, authority) = match &http.rewrite {
            Some(rewrite) => report.field("rewrite", |report| read_rewrite(rewrite, report)),
            None => (None, None),
        };
        if authority.is_some() && host.is_some() {
            report.error("the authority is rewritten both in rewrite.authority and in headers.request.set");
        }
        Some(Action::Forward { backends: backends?, path, authority: authority.or(host) })
    }

    fn backend(
        &self,
        entry: &api::HttpRouteDestination,
        siblings: usize,
        report: &mut Report,
    ) -> Option<Backend> {
        let destination = destination(entry.destination.as_ref(), &self.key.namespace, self.naming, report);
        let weight = weight(entry.weight, siblings, report);
        let (request_headers, response_headers, authority) = match &entry.headers {
            Some(headers) => report.field("headers", |report| read_headers(headers, report)),
            None => Default::default(),
        };
        Some(Backend {
            destination: destination?,
            weight: weight?,
            request_headers,
            response_headers,
            authority,
        })
    }

    fn mirrors(&self, http: &api::HttpRoute, report: &mut Report) -> Vec<Mirror> {
        let has_share = http.mirror_percentage.is_some() || http.mirror_percent.is_some();
        if http.mirror.is_some() && !http.mirrors.is_empty() {
            report.error("only one of mirror and mirrors can be given");
        } else if http.mirror.is_none() && has_share {
            report.warn("mirrorPercentage without mirror has no effect");
        } else if http.route.is_empty() && (http.mirror.is_some() || !http.mirrors.is_empty()) {
            report.warn("a mirror without a route has no effect");
        }
        if http.mirror_percent.is_some() {
            report.field("mirrorPercent", |report| report.info("deprecated, use mirrorPercentage"));
        }
        let share = http.mirror_percentage.map(|share| share.value).or(http.mirror_percent.map(f64::from));
        let field = if http.mirror_percentage.is_some() { "mirrorPercentage" } else { "mirrorPercent" };
        let share = report.field(field, |report| fraction(share, report));
        let single = http.mirror.as_ref().and_then(|mirror| {
            let found =
                report.field("mirror", |report| place(mirror, &self.key.namespace, self.naming, report));
            Some(Mirror { destination: found?, fraction: share? })
        });
        let several = report.field("mirrors", |report| {
            let entries = http.mirrors.iter().enumerate();
            let mirrors = entries.filter_map(|(index, entry)| {
                report.item(index, |report| {
                    let found =
                        destination(entry.destination.as_ref(), &self.key.namespace, self.naming, report);
                    let share = entry.percentage.map(|share| share.value);
                    let share = report.field("percentage", |report| fraction(share, report));
                    Some(Mirror { destination: found?, fraction: share? })
                })
            });
            mirrors.collect::<Vec<_>>()
        });
        single.into_iter().chain(several).collect()
    }
}

/// The header edits of a rule or a destination; the host, which is rewritten and not edited, comes apart.
fn read_headers(headers: &api::Headers, report: &mut Report) -> (Edits, Edits, Option<Field>) {
    let (request, host) = report.field("request", |report| {
        let operations = &headers.request;
        if operations.add.keys().any(|name| is_host(name)) {
            report.field("add", |report| report.error("a request has one host: use set"));
        }
        let host = operations.set.iter().find(|(name, _)| is_host(name));
        let host = host.and_then(|(name, value)| {
            report.field("set", |report| report.field(name, |report| authority(value, report)))
        });
        (edits(operations, report), host)
    });
    let response = report.field("response", |report| edits(&headers.response, report));
    (request, response, host)
}

fn read_rewrite(rewrite: &api::HttpRewrite, report: &mut Report) -> (Option<PathRewrite>, Option<Field>) {
    let path = match (given(&rewrite.uri), &rewrite.uri_regex_rewrite) {
        (Some(_), Some(_)) => {
            report.error("only one of uri and uriRegexRewrite can be given");
            None
        }
        (Some(uri), None) => {
            report.field("uri", |report| check_path(uri, report));
            Some(PathRewrite::Matched(uri.to_owned()))
        }
        (None, Some(regex)) => report.field("uriRegexRewrite", |report| {
            let pattern = report.field("match", |report| report.accept(Pattern::new(&regex.pattern)));
            let substitution =
                report.field("rewrite", |report| report.accept(Substitution::new(&regex.rewrite)));
            Some(PathRewrite::Regex { pattern: pattern?, substitution: substitution? })
        }),
        (None, None) => {
            if given(&rewrite.authority).is_none() {
                report.error("it rewrites nothing: uri, uriRegexRewrite or authority is needed");
            }
            None
        }
    };
    let host = given(&rewrite.authority);
    (path, host.and_then(|host| report.field("authority", |report| authority(host, report))))
}

/// A text that says something: an empty one is as good as none.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// A new path must make a request, or a location, that is one.
fn check_path(path: &str, report: &mut Report) {
    let valid = path.starts_with('/') && !path.contains('#') && http::Uri::try_from(path).is_ok();
    if !valid {
        report.error(format!("{path:?} is not a path: it starts with / and holds no space"));
    }
}

fn exclude_rewrite(http: &api::HttpRoute, action: &str, report: &mut Report) {
    if http.rewrite.is_some() {
        report.field("rewrite", |report| report.error(format!("not possible together with {action}")));
    }
    if http.fault.is_some() {
        report.field("fault", |report| report.error(format!("not possible together with {action}")));
    }
}

fn read_redirect(
    redirect: &api::HttpRedirect,
    http: &api::HttpRoute,
    report: &mut Report,
) -> Option<Redirect> {
    let (uri, prefix) = (given(&redirect.uri), given(&redirect.prefix_rewrite));
    for (field, path) in [("uri", uri), ("prefixRewrite", prefix)] {
        report.field(field, |report| path.into_iter().for_each(|path| check_path(path, report)));
    }
    let host = given(&redirect.authority);
    report.field("authority", |report| host.and_then(|host| authority(host, report)));
    let path = match (uri, prefix) {
        (Some(_), Some(_)) => {
            report.error("only one of uri and prefixRewrite can be given");
            None
        }
        (Some(uri), None) => Some(PathRewrite::Whole(uri.to_owned())),
        (None, Some(prefix)) => {
            let by_prefix =
                |entry: &api::HttpMatch| entry.uri.as_ref().is_some_and(|uri| uri.prefix.is_some());
            if http.matches.is_empty() || !http.matches.iter().all(by_prefix) {
                report.field("prefixRewrite", |report| report.error("needs a match by uri.prefix"));
            }
            Some(PathRewrite::Matched(prefix.to_owned()))
        }
        (None, None) => None,
    };
    let scheme = given(&redirect.scheme);
    if path.is_none() && host.is_none() && scheme.is_none() && redirect.port.is_none() {
        report
            .error("it leads back to where the request came from: uri, authority, port or scheme is needed");
    }
    let port = match (redirect.port, redirect.derive_port) {
        (Some(_), Some(_)) => {
            report.error("only one of port and derivePort can be given");
            RedirectPort::SchemeDefault
        }
        (Some(0), None) => {
            report.field("port", |report| report.error("a port is a number between 1 and 65535"));
            RedirectPort::SchemeDefault
        }
        (Some(port), None) => RedirectPort::Number(port),
        (None, Some(api::RedirectPort::FromRequestPort)) => RedirectPort::Request,
        (None, Some(api::RedirectPort::FromProtocolDefault) | None) => RedirectPort::SchemeDefault,
    };
    if let Some(scheme) = scheme.filter(|scheme| !matches!(*scheme, "http" | "https")) {
        report.field("scheme", |report| report.error(format!("{scheme:?} is neither http nor https")));
    }
    let redirect = Redirect {
        code: redirect.redirect_code.unwrap_or(301),
        scheme: scheme.map(str::to_owned),
        host: host.map(str::to_owned),
        port,
        path,
    };
    report.field("redirectCode", |report| report.accept(redirect.check()))?;
    Some(redirect)
}

fn read_response(response: &api::HttpDirectResponse, report: &mut Report) -> Option<DirectResponse> {
    let body = match &response.body {
        None => Vec::new(),
        Some(body) => report.field("body", |report| match (&body.string, &body.bytes) {
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(bytes)) => {
                report.field("bytes", |report| report.accept(super::base64::decode(bytes)))
            }
            _ => {
                report.error("one of string and bytes is needed");
                None
            }
        })?,
    };
    let response = DirectResponse { status: response.status, body: body.into() };
    report.accept(response.check())?;
    Some(response)
}

fn read_cors(cors: &api::CorsPolicy, report: &mut Report) -> Cors {
    if !cors.allow_origin.is_empty() {
        report.field("allowOrigin", |report| report.info("deprecated, use allowOrigins"));
    }
    let old = cors.allow_origin.iter().map(|origin| match origin.as_str() {
        "*" => StringMatch::Present,
        origin => StringMatch::Exact(origin.to_owned()),
    });
    let mut allow_origins: Vec<StringMatch> = old.collect();
    report.field("allowOrigins", |report| {
        for (index, origin) in cors.allow_origins.iter().enumerate() {
            let any = origin.exact.as_deref() == Some("*");
            let origin = report.item(index, |report| string_match(origin, report));
            allow_origins.extend(origin.map(|origin| if any { StringMatch::Present } else { origin }));
        }
    });
    let mut names = |field: &str, names: &[String]| {
        report.field(field, |report| {
            let names = names.iter().enumerate();
            let names = names
                .filter_map(|(index, name)| report.item(index, |report| report.accept(header::name(name))));
            names.collect()
        })
    };
    let allow_headers = names("allowHeaders", &cors.allow_headers);
    let expose_headers = names("exposeHeaders", &cors.expose_headers);
    report.field("allowMethods", |report| {
        for (index, method) in cors.allow_methods.iter().enumerate() {
            let valid = http::Method::from_bytes(method.as_bytes())
                .map_err(|_| Invalid::new(format!("{method:?} is not a method")));
            report.item(index, |report| report.accept(valid));
        }
    });
    Cors {
        allow_origins,
        allow_methods: cors.allow_methods.clone(),
        allow_headers,
        expose_headers,
        max_age: cors.max_age.map(|age| age.0),
        allow_credentials: cors.allow_credentials,
        forward_unmatched_preflights: cors.unmatched_preflights != Some(api::UnmatchedPreflights::Ignore),
    }
}
