//! Who may call: what an AuthorizationPolicy says, in terms of the policy model.
//!
//! A part that asks nothing would match everybody, so an empty list where Istio demands one that is not is a mistake, and
//! so is a value that nothing can ever equal where it can be told: a DENY rule with it would stop nobody.

use ipnet::IpNet;
use pillion_policy::{
    Invalid,
    authorization::{
        Action, AddressKey, AuthorizationPolicy as Policy, Choice, Condition, MAX_RULES, Operation,
        PathPattern, Rule, Source, TextKey, TextMatch,
    },
    header,
    identity::{Identity, TrustDomain},
    name::Label,
};

use super::authentication::targeted;
use crate::{
    api::{self, AuthorizationAction, ObjectMeta},
    object::{AuthorizationPolicy, Key},
    problem::{Report, unknown},
};

/// What `when` can ask about, apart from header fields and claims.
const KEYS: [(&str, Subject); 11] = [
    ("source.ip", Subject::Address(AddressKey::Source)),
    ("remote.ip", Subject::Address(AddressKey::Remote)),
    ("source.namespace", Subject::Text(TextKey::SourceNamespace)),
    ("source.principal", Subject::Text(TextKey::SourcePrincipal)),
    ("source.serviceAccount", Subject::Text(TextKey::SourceServiceAccount)),
    ("request.auth.principal", Subject::Text(TextKey::TokenPrincipal)),
    ("request.auth.audiences", Subject::Text(TextKey::TokenAudiences)),
    ("request.auth.presenter", Subject::Text(TextKey::TokenPresenter)),
    ("destination.ip", Subject::Address(AddressKey::Destination)),
    ("destination.port", Subject::Port),
    ("connection.sni", Subject::Text(TextKey::Sni)),
];
/// Marks a policy that is only tried out.
const DRY_RUN: &str = "istio.io/dry-run";
/// The keys that name something in brackets.
const HEADERS: &str = "request.headers";
const CLAIMS: &str = "request.auth.claims";

/// What a condition is about.
#[derive(Debug, Clone, Copy)]
enum Subject {
    Text(TextKey),
    Address(AddressKey),
    Port,
}

/// Two lists of one source, operation or condition: what is asked for, and what is ruled out.
struct Lists<'a>(&'a str, &'a [String], &'a str, &'a [String]);

impl Lists<'_> {
    fn read<T>(&self, report: &mut Report, read: impl Fn(&str, &mut Report) -> Option<T>) -> Choice<T> {
        let Self(yes, any_of, no, none_of) = *self;
        let list = |field: &str, values: &[String], report: &mut Report| {
            report.field(field, |report| {
                let values = values.iter().enumerate();
                values.filter_map(|(index, value)| report.item(index, |report| read(value, report))).collect()
            })
        };
        Choice { any_of: list(yes, any_of, report), none_of: list(no, none_of, report) }
    }

    fn is_empty(&self) -> bool {
        self.1.is_empty() && self.3.is_empty()
    }
}

/// Whether an AuthorizationPolicy is only tried out: Istio's annotation.
pub(super) fn is_trial(spec: &api::AuthorizationPolicy, meta: &ObjectMeta, report: &mut Report) -> bool {
    let Some(value) = meta.annotations.get(DRY_RUN) else { return false };
    let is_trial = matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
        && spec.action != AuthorizationAction::Custom;
    if is_trial {
        let say =
            |report: &mut Report| report.info("the policy is tried out: read as AUDIT, it decides nothing");
        report.field("metadata", |report| {
            report.field("annotations", |report| report.field(DRY_RUN, say));
        });
    }
    is_trial
}

/// Reads an AuthorizationPolicy.
pub(super) fn read(
    spec: &api::AuthorizationPolicy,
    key: &Key,
    is_trial: bool,
    report: &mut Report,
) -> AuthorizationPolicy {
    let scope = targeted(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, report);
    let (action, custom) = action(spec, report);
    let action = if is_trial { Action::Audit } else { action };
    let rules = report.field("rules", |report| {
        if spec.rules.len() > MAX_RULES {
            report.error(format!("{} rules are too many, the most is {MAX_RULES}", spec.rules.len()));
        }
        let rules = spec.rules.iter().enumerate();
        rules.map(|(index, given)| report.item(index, |report| rule(given, key, report))).collect()
    });
    let name = format!("{}/{}", key.namespace, key.name).into();
    AuthorizationPolicy { scope, policy: Policy { name, action, rules }, custom }
}

/// What is done with requests that match, and whether that is instead of asking somebody else.
fn action(spec: &api::AuthorizationPolicy, report: &mut Report) -> (Action, bool) {
    let (action, custom) = match spec.action {
        AuthorizationAction::Allow => (Action::Allow, false),
        AuthorizationAction::Deny => (Action::Deny, false),
        AuthorizationAction::Audit => (Action::Audit, false),
        AuthorizationAction::Custom => (Action::Deny, true),
    };
    if action != Action::Allow && spec.rules.is_empty() {
        report.field("rules", |report| {
            report.error("without a rule it matches nothing: the rule {} matches every request");
        });
    }
    // That CUSTOM is not supported is said where it does not take the policy out of force.
    report.field("provider", |report| match &spec.provider {
        Some(_) if !custom => report.error("only CUSTOM has a provider"),
        Some(provider) if provider.name.is_empty() => report.warn("name is missing"),
        Some(_) | None => {}
    });
    (action, custom)
}

fn rule(given: &api::AuthorizationRule, key: &Key, report: &mut Report) -> Rule {
    let from = report.field("from", |report| {
        alternatives(given.from.as_deref(), report, |entry: &api::AuthorizationFrom, report| {
            match &entry.source {
                Some(given) => report.field("source", |report| source(given, key, report)),
                None => missing("source", report),
            }
        })
    });
    let to = report.field("to", |report| {
        alternatives(given.to.as_deref(), report, |entry: &api::AuthorizationTo, report| {
            match &entry.operation {
                Some(given) => report.field("operation", |report| operation(given, report)),
                None => missing("operation", report),
            }
        })
    });
    let when = report.field("when", |report| {
        let conditions = given.when.iter().enumerate();
        let read = |report: &mut Report, given| condition(given, key, report);
        conditions.filter_map(|(index, given)| report.item(index, |report| read(report, given))).collect()
    });
    Rule { from, to, when }
}

fn missing<T: Default>(what: &str, report: &mut Report) -> T {
    report.error(format!("{what} is missing"));
    T::default()
}

fn alternatives<G, T: Default + PartialEq>(
    given: Option<&[G]>,
    report: &mut Report,
    read: impl Fn(&G, &mut Report) -> T,
) -> Vec<T> {
    let Some(given) = given else { return Vec::new() };
    if given.is_empty() {
        report.error("it is empty: leave it out to ask nothing");
    }
    let read = |(index, entry)| {
        report.item(index, |report| {
            let read = read(entry, report);
            // One whose values could not be read was meant to ask something.
            if read == T::default() && !report.has_errors() {
                report.error("it asks nothing: at least one field is needed");
            }
            read
        })
    };
    given.iter().enumerate().map(read).collect()
}

fn source(given: &api::AuthorizationSource, key: &Key, report: &mut Report) -> Source {
    let principals = Lists("principals", &given.principals, "notPrincipals", &given.not_principals);
    let namespaces = Lists("namespaces", &given.namespaces, "notNamespaces", &given.not_namespaces);
    let accounts =
        Lists("serviceAccounts", &given.service_accounts, "notServiceAccounts", &given.not_service_accounts);
    let domains = Lists("trustDomains", &given.trust_domains, "notTrustDomains", &given.not_trust_domains);
    let tokens = Lists(
        "requestPrincipals",
        &given.request_principals,
        "notRequestPrincipals",
        &given.not_request_principals,
    );
    let blocks = Lists("ipBlocks", &given.ip_blocks, "notIpBlocks", &given.not_ip_blocks);
    let remote =
        Lists("remoteIpBlocks", &given.remote_ip_blocks, "notRemoteIpBlocks", &given.not_remote_ip_blocks);
    let others = !principals.is_empty() || !namespaces.is_empty();
    if others && !accounts.is_empty() {
        report.error("serviceAccounts cannot stand beside principals or namespaces");
    }
    if !given.principals.is_empty() && !given.trust_domains.is_empty() {
        report.error("trustDomains cannot stand beside principals, which begin with the trust domain");
    }
    // A trust domain is where a principal begins.
    let domains = domains.read(report, domain);
    let mut principals = principals.read(report, principal);
    principals.any_of.extend(domains.any_of);
    principals.none_of.extend(domains.none_of);
    Source {
        principals,
        request_principals: tokens.read(report, text),
        namespaces: namespaces.read(report, text),
        service_accounts: accounts.read(report, |value, report| account(value, &key.namespace, report)),
        ip_blocks: blocks.read(report, block),
        remote_ip_blocks: remote.read(report, block),
    }
}

fn operation(given: &api::AuthorizationOperation, report: &mut Report) -> Operation {
    // Hosts are compared without regard to case.
    let host = |value: &str, report: &mut Report| text(&value.to_ascii_lowercase(), report);
    Operation {
        hosts: Lists("hosts", &given.hosts, "notHosts", &given.not_hosts).read(report, host),
        ports: Lists("ports", &given.ports, "notPorts", &given.not_ports).read(report, port),
        methods: Lists("methods", &given.methods, "notMethods", &given.not_methods).read(report, method),
        paths: Lists("paths", &given.paths, "notPaths", &given.not_paths).read(report, path),
    }
}

fn condition(given: &api::AuthorizationCondition, key: &Key, report: &mut Report) -> Option<Condition> {
    let values = Lists("values", &given.values, "notValues", &given.not_values);
    if values.is_empty() {
        report.error("one of values and notValues is needed");
    }
    if let Some(rest) = given.key.strip_prefix(HEADERS) {
        let name = match bracketed(rest).as_deref() {
            Some([name]) => report.field("key", |report| report.accept(header::name(name))),
            _ => report.field("key", |report| {
                report.error(format!("a header field is named in brackets, as in {HEADERS}[x-name]"));
                None
            }),
        };
        return Some(Condition::Header { name: name?, values: values.read(report, text) });
    }
    if let Some(rest) = given.key.strip_prefix(CLAIMS) {
        let Some(path) = bracketed(rest) else {
            report.field("key", |report| {
                report.error(format!("a claim is named in brackets, as in {CLAIMS}[iss] or {CLAIMS}[a][b]"));
            });
            return None;
        };
        let path = path.into_iter().map(str::to_owned).collect();
        return Some(Condition::Claim { path, values: values.read(report, text) });
    }
    let Some((_, subject)) = KEYS.iter().find(|(name, _)| *name == given.key) else {
        let known = KEYS.iter().map(|(name, _)| *name).chain([HEADERS, CLAIMS]);
        report.field("key", |report| match given.key.as_str() {
            "" => report.error("key is missing"),
            key => report.error(unknown("key", key, known)),
        });
        return None;
    };
    Some(match *subject {
        Subject::Port => Condition::Port(values.read(report, port)),
        Subject::Address(key) => Condition::Address { key, values: values.read(report, block) },
        Subject::Text(subject) => {
            let value = |value: &str, report: &mut Report| match subject {
                TextKey::SourcePrincipal => principal(value, report),
                TextKey::SourceServiceAccount => account(value, &key.namespace, report).map(TextMatch::Exact),
                _ => text(value, report),
            };
            Condition::Text { key: subject, values: values.read(report, value) }
        }
    })
}

/// The names in `[a][b]`, of which there is at least one.
fn bracketed(mut text: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.strip_prefix('[')?.split_once(']')?;
        names.push(Some(name).filter(|name| !name.is_empty())?);
        text = rest;
    }
    (!names.is_empty()).then_some(names)
}

fn text(value: &str, report: &mut Report) -> Option<TextMatch> {
    report.accept(TextMatch::new(value))
}

fn principal(value: &str, report: &mut Report) -> Option<TextMatch> {
    if value.starts_with("spiffe://") {
        report.error("a principal is written without spiffe://");
        return None;
    }
    let read = text(value, report)?;
    if matches!(&read, TextMatch::Exact(exact) if format!("spiffe://{exact}").parse::<Identity>().is_err()) {
        report.warn("nobody has this identity: it is DOMAIN/ns/NAMESPACE/sa/ACCOUNT");
    }
    Some(read)
}

fn domain(value: &str, report: &mut Report) -> Option<TextMatch> {
    let domain = report.accept(TrustDomain::new(value))?;
    Some(TextMatch::Prefix(format!("{domain}/")))
}

/// `NAMESPACE/ACCOUNT`, of which the namespace can be that of the policy.
fn account(value: &str, namespace: &Label, report: &mut Report) -> Option<String> {
    let (namespace, name) = value.split_once('/').unwrap_or((namespace.as_str(), value));
    let checked = Label::new(namespace).and_then(|namespace| Ok((namespace, Label::new(name)?)));
    let (namespace, name) = report.accept(checked)?;
    Some(format!("{namespace}/{name}"))
}

fn method(value: &str, report: &mut Report) -> Option<TextMatch> {
    if value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        report.warn("methods are compared exactly, and those of HTTP are written in capitals");
    }
    text(value, report)
}

fn path(value: &str, report: &mut Report) -> Option<PathPattern> {
    if !value.starts_with(['/', '*', '{']) {
        report.warn("no path begins so: it begins with '/'");
    } else if value.contains(['?', '#']) {
        report.warn("no path is so: it is compared without the query");
    }
    report.accept(PathPattern::new(value))
}

fn port(value: &str, report: &mut Report) -> Option<u16> {
    let number = value.parse().ok().filter(|port| *port != 0);
    report.accept(number.ok_or_else(|| Invalid::new(format!("{value:?} is not a port between 1 and 65535"))))
}

/// A block of addresses; a bare address is a block of one.
fn block(value: &str, report: &mut Report) -> Option<IpNet> {
    let block = value.parse().ok().or_else(|| value.parse().ok().map(|ip: std::net::IpAddr| ip.into()));
    let reason = || Invalid::new(format!("{value:?} is neither an address nor a block such as 10.0.0.0/8"));
    report.accept(block.ok_or_else(reason))
}

#[cfg(test)]
mod tests;
