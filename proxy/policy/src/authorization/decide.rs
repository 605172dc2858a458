//! Deciding who is let in: what is known of a caller, held against all policies of a workload.
//!
//! [`Authorization`] is made once per policy and asked per request. It never remembers anything of a request. What is
//! asked of HTTP has no answer on an opaque connection, and none for a connection whose requests are still to come; what
//! a rule makes of that depends on what it would do ([`Asked`]), and is always to the disadvantage of nobody but a caller
//! that no policy speaks for.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderMap;

use super::{
    Action, AddressKey, AuthorizationPolicy, Choice, Condition, Operation, Rule, Source, TextKey, TextMatch,
    index::Index,
};
use crate::{
    identity::{Identity, TrustDomain},
    matching,
};

/// The name under which policies may speak of the trust domain of the mesh, whatever its name is (as in Istio).
const OWN_TRUST_DOMAIN: &str = "cluster.local";

/// What is known of a caller and of what it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Who the peer has proved to be; absent on plain text.
    pub peer: Option<&'a Identity>,
    /// Address the connection comes from.
    pub source: IpAddr,
    /// Address and port of the workload.
    pub destination: SocketAddr,
    /// The name the peer asked for when it made the connection.
    pub sni: Option<&'a str>,
    /// What it asks for.
    pub asked: Asked<'a>,
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// A request.
    Request(Request<'a>),
    /// To have bytes carried. What a policy asks of HTTP cannot be answered: a rule that would allow does not match then, one
    /// that would deny or audit ignores the field (Istio).
    Bytes,
    /// It is not known yet. Such a caller is denied only if it would be whatever it asked for.
    Anything,
}

/// The parts of a request that policies look at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// `Host` or `:authority`, as sent.
    pub authority: &'a str,
    /// Its path, normalized and without the query.
    pub path: &'a str,
    /// All header fields; absent when they are no longer known, so that nothing is denied for what they may have said.
    pub headers: Option<&'a HeaderMap>,
    /// What its token has proved.
    pub token: Option<&'a Token>,
}

/// What a token has proved of the user behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `ISSUER/SUBJECT`, where it names both.
    pub principal: Option<String>,
    /// What else it says.
    pub claims: Claims,
}

/// The claims of a token, so far as policies can ask for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    /// A text, or a list of texts.
    Texts(Vec<String>),
    /// Claims by name.
    Members(BTreeMap<String, Self>),
}

/// What the policies say to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may.
    Allowed,
    /// A policy denies it.
    Denied {
        /// Its name.
        policy: &'a Arc<str>,
    },
    /// There are policies that allow, and none of them allows this.
    DeniedByDefault,
}

/// All policies of a workload, ready to be asked.
#[derive(Debug, Default)]
pub struct Authorization {
    deny: Group,
    allow: Group,
    audit: Group,
}

/// The policies of one action.
#[derive(Debug, Default)]
struct Group {
    policies: Vec<AuthorizationPolicy>,
    index: Index,
}

/// The parts of a subject in the form rules compare them in, made once for all of them.
pub(super) struct Known<'a> {
    pub(super) peer: Option<&'a Identity>,
    pub(super) source: IpAddr,
    pub(super) destination: (IpAddr, u16),
    pub(super) sni: Option<&'a str>,
    pub(super) request: Option<Request<'a>>,
    /// What a field is taken for that is not known.
    unknown: bool,
}

impl Claims {
    /// The texts at the end of a path, none where it leads nowhere.
    pub fn texts<S: AsRef<str>>(&self, path: &[S]) -> &[String] {
        let end = path.iter().try_fold(self, |claims, name| match claims {
            Self::Members(members) => members.get(name.as_ref()),
            Self::Texts(_) => None,
        });
        match end {
            Some(Self::Texts(texts)) => texts,
            Some(Self::Members(_)) | None => &[],
        }
    }
}

impl Token {
    /// The texts of a claim that stands for itself.
    pub(super) fn claim(&self, name: &str) -> &[String] {
        self.claims.texts(&[name])
    }
}

impl Request<'_> {
    /// The host it is for, without a port.
    pub(super) fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            Some(_) | None => self.authority,
        }
    }
}

impl Authorization {
    /// Prepares policies. `domains` are all names of the mesh's trust domain: a principal that a policy names in one of
    /// them, or in `cluster.local`, is meant in all.
    pub fn new(policies: &[AuthorizationPolicy], domains: &[TrustDomain]) -> Self {
        let group = |action| {
            let mine = policies.iter().filter(|policy| policy.action == action);
            let policies: Vec<_> = mine.map(|policy| in_all_domains(policy.clone(), domains)).collect();
            let index = Index::new(policies.iter().map(|policy| &policy.rules[..]));
            Group { policies, index }
        };
        Self { deny: group(Action::Deny), allow: group(Action::Allow), audit: group(Action::Audit) }
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        [&self.deny, &self.allow, &self.audit].iter().all(|group| group.policies.is_empty())
    }

    /// Decides, in Istio's order.
    pub fn decide(&self, subject: &Subject<'_>) -> Verdict<'_> {
        if let Some(policy) = self.deny.first(subject, Action::Deny) {
            return Verdict::Denied { policy: &policy.name };
        }
        if self.allow.policies.is_empty() || self.allow.first(subject, Action::Allow).is_some() {
            Verdict::Allowed
        } else {
            Verdict::DeniedByDefault
        }
    }

    /// The names of the AUDIT policies that match, each once.
    pub fn audit(&self, subject: &Subject<'_>) -> Vec<&Arc<str>> {
        let mut names = Vec::new();
        self.audit.visit(subject, Action::Audit, |policy| {
            if !names.contains(&&policy.name) {
                names.push(&policy.name);
            }
            false
        });
        names
    }
}

impl Group {
    /// A policy that matches, if there is one.
    fn first(&self, subject: &Subject<'_>, action: Action) -> Option<&AuthorizationPolicy> {
        let mut first = None;
        self.visit(subject, action, |policy| {
            first = Some(policy);
            true
        });
        first
    }

    /// Shows the policies that match, until `show` has seen enough.
    fn visit<'a>(
        &'a self,
        subject: &Subject<'_>,
        action: Action,
        mut show: impl FnMut(&'a AuthorizationPolicy) -> bool,
    ) {
        if self.policies.is_empty() {
            return;
        }
        let known = Known::new(subject, action);
        let drops_http = matches!(subject.asked, Asked::Bytes) && action == Action::Allow;
        let mut matches = |policy: usize, rule: usize| {
            let Some(policy) = self.policies.get(policy) else { return false };
            let Some(rule) = policy.rules.get(rule) else { return false };
            rule.matches(&known) && !(drops_http && rule.asks_http()) && show(policy)
        };
        match subject.asked {
            Asked::Request(Request { headers: Some(_), .. }) => {
                self.index.candidates(&known, matches);
            }
            Asked::Request(_) | Asked::Bytes | Asked::Anything => {
                let rules = self.policies.iter().enumerate();
                let mut rules =
                    rules.flat_map(|(at, policy)| (0..policy.rules.len()).map(move |rule| (at, rule)));
                let _found = rules.any(|(policy, rule)| matches(policy, rule));
            }
        }
    }
}

impl<'a> Known<'a> {
    fn new(subject: &Subject<'a>, action: Action) -> Self {
        let denies = action != Action::Allow;
        let (request, unknown) = match subject.asked {
            Asked::Request(request) => (Some(request), !denies),
            Asked::Bytes => (None, denies),
            Asked::Anything => (None, !denies),
        };
        Self {
            peer: subject.peer,
            source: subject.source.to_canonical(),
            destination: (subject.destination.ip().to_canonical(), subject.destination.port()),
            sni: subject.sni,
            request,
            unknown,
        }
    }

    /// Answers what is asked of the request, where there is one.
    fn of_request<T>(&self, choice: &Choice<T>, is: impl Fn(&Request<'a>, &T) -> bool) -> bool {
        match &self.request {
            Some(request) => choice.holds(|value| is(request, value)),
            None => choice.is_empty() || self.unknown,
        }
    }

    /// Answers what is asked of the token.
    fn of_token(&self, choice: &Choice<TextMatch>, texts: impl Fn(&Token, &TextMatch) -> bool) -> bool {
        self.of_request(choice, |request, value| request.token.is_some_and(|token| texts(token, value)))
    }

    fn of_peer(&self, is: impl Fn(&Identity) -> bool) -> bool {
        self.peer.is_some_and(is)
    }
}

impl<T> Choice<T> {
    /// Whether one of its values is it, where it has any, and none of those it excludes.
    fn holds(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(&is)) && !self.none_of.iter().any(is)
    }
}

impl TextMatch {
    /// Whether `text` satisfies it, ASCII case aside.
    fn matches_any_case(&self, text: &str) -> bool {
        let (text, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
        match self {
            Self::Exact(value) => same(text, value.as_bytes()),
            Self::Prefix(prefix) => {
                text.get(..prefix.len()).is_some_and(|head| same(head, prefix.as_bytes()))
            }
            Self::Suffix(suffix) => {
                let at = text.len().checked_sub(suffix.len());
                at.and_then(|at| text.get(at..)).is_some_and(|tail| same(tail, suffix.as_bytes()))
            }
            Self::Present => !text.is_empty(),
        }
    }

    fn is_one_of(&self, texts: &[String]) -> bool {
        texts.iter().any(|text| self.matches(text))
    }
}

impl Rule {
    fn matches(&self, known: &Known<'_>) -> bool {
        (self.from.is_empty() || self.from.iter().any(|source| source.matches(known)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.matches(known)))
            && self.when.iter().all(|condition| condition.matches(known))
    }

    /// Whether any of its fields is known of HTTP requests only.
    fn asks_http(&self) -> bool {
        self.from.iter().any(|source| !source.request_principals.is_empty())
            || self.to.iter().any(|to| !(to.hosts.is_empty() && to.methods.is_empty() && to.paths.is_empty()))
            || self.when.iter().any(Condition::asks_http)
    }
}

impl Source {
    fn matches(&self, known: &Known<'_>) -> bool {
        self.principals.holds(|it| known.of_peer(|peer| it.matches(peer.principal())))
            && self.namespaces.holds(|it| known.of_peer(|peer| it.matches(peer.namespace())))
            && self.service_accounts.holds(|it| known.of_peer(|peer| is_account(peer, it)))
            && self.ip_blocks.holds(|block| block.contains(&known.source))
            && self.remote_ip_blocks.holds(|block| block.contains(&known.source))
            && known.of_token(&self.request_principals, |token, it| {
                token.principal.as_ref().is_some_and(|principal| it.matches(principal))
            })
    }
}

impl Operation {
    fn matches(&self, known: &Known<'_>) -> bool {
        self.ports.holds(|port| *port == known.destination.1)
            && known.of_request(&self.methods, |request, it| it.matches(request.method))
            && known.of_request(&self.paths, |request, it| it.matches(request.path))
            && known.of_request(&self.hosts, |request, it| {
                it.matches_any_case(request.authority) || it.matches_any_case(request.host())
            })
    }
}

impl Condition {
    fn matches(&self, known: &Known<'_>) -> bool {
        match self {
            Self::Header { name, values } => match known.request.map(|request| request.headers) {
                Some(Some(headers)) => {
                    let found = matching::joined(headers, name);
                    values.holds(|it| found.as_ref().is_some_and(|found| it.matches(found)))
                }
                Some(None) | None => values.is_empty() || known.unknown,
            },
            Self::Claim { path, values } => {
                known.of_token(values, |token, it| it.is_one_of(token.claims.texts(path)))
            }
            Self::Text { key, values } => key.matches(values, known),
            Self::Address { key, values } => {
                let address = match key {
                    AddressKey::Source | AddressKey::Remote => known.source,
                    AddressKey::Destination => known.destination.0,
                };
                values.holds(|block| block.contains(&address))
            }
            Self::Port(ports) => ports.holds(|port| *port == known.destination.1),
        }
    }

    fn asks_http(&self) -> bool {
        match self {
            Self::Header { .. } | Self::Claim { .. } => true,
            Self::Text { key, .. } => {
                matches!(key, TextKey::TokenPrincipal | TextKey::TokenAudiences | TextKey::TokenPresenter)
            }
            Self::Address { .. } | Self::Port(_) => false,
        }
    }
}

impl TextKey {
    fn matches(self, values: &Choice<TextMatch>, known: &Known<'_>) -> bool {
        match self {
            Self::SourcePrincipal => values.holds(|it| known.of_peer(|peer| it.matches(peer.principal()))),
            Self::SourceNamespace => values.holds(|it| known.of_peer(|peer| it.matches(peer.namespace()))),
            Self::SourceServiceAccount => values.holds(|it| known.of_peer(|peer| it.matches(&account(peer)))),
            Self::TokenPrincipal => known.of_token(values, |token, it| {
                token.principal.as_ref().is_some_and(|principal| it.matches(principal))
            }),
            Self::TokenAudiences => known.of_token(values, |token, it| it.is_one_of(token.claim("aud"))),
            Self::TokenPresenter => known.of_token(values, |token, it| it.is_one_of(token.claim("azp"))),
            Self::Sni => values.holds(|it| known.sni.is_some_and(|sni| it.matches(sni))),
        }
    }
}

/// `NAMESPACE/ACCOUNT` of an identity.
pub(super) fn account(peer: &Identity) -> Cow<'_, str> {
    Cow::Owned(format!("{}/{}", peer.namespace(), peer.service_account()))
}

fn is_account(peer: &Identity, account: &str) -> bool {
    account.split_once('/') == Some((peer.namespace(), peer.service_account()))
}

/// The policy with every principal of the mesh's trust domain named in each of its names.
fn in_all_domains(mut policy: AuthorizationPolicy, domains: &[TrustDomain]) -> AuthorizationPolicy {
    let widen = |choice: &mut Choice<TextMatch>| {
        for values in [&mut choice.any_of, &mut choice.none_of] {
            *values = values.iter().flat_map(|value| in_each(value, domains)).collect();
        }
    };
    for rule in &mut policy.rules {
        rule.from.iter_mut().for_each(|source| widen(&mut source.principals));
        for condition in &mut rule.when {
            if let Condition::Text { key: TextKey::SourcePrincipal, values } = condition {
                widen(values);
            }
        }
    }
    policy
}

fn in_each(value: &TextMatch, domains: &[TrustDomain]) -> Vec<TextMatch> {
    let make: fn(String) -> TextMatch = match value {
        TextMatch::Exact(_) => TextMatch::Exact,
        TextMatch::Prefix(_) => TextMatch::Prefix,
        TextMatch::Suffix(_) | TextMatch::Present => return vec![value.clone()],
    };
    let (TextMatch::Exact(text) | TextMatch::Prefix(text) | TextMatch::Suffix(text)) = value else {
        return vec![value.clone()];
    };
    match text.split_once('/') {
        Some((named, rest))
            if named == OWN_TRUST_DOMAIN || domains.iter().any(|domain| domain.as_str() == named) =>
        {
            let others = domains.iter().map(TrustDomain::as_str).filter(|domain| *domain != named);
            std::iter::once(named).chain(others).map(|domain| make(format!("{domain}/{rest}"))).collect()
        }
        Some(_) | None => vec![value.clone()],
    }
}
