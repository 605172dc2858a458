//! Finding the few rules that can match a request among many, without looking at the others.
//!
//! A rule matches only if one of its sources does, one of its operations and all of its conditions. So whatever else it
//! asks, one of the values of one of these must be there: its *gate*. Of all it asks, the gate is what the fewest rules
//! ask for. Gates are kept in tables by field and by length of what is compared, so that a request costs some look-ups
//! for each field and length in use, however many rules there are. A rule that only says what must not be has no gate and
//! is always a candidate. What is found is still to be matched in full: the index may show too much, never too little.

use std::{borrow::Cow, net::IpAddr};

use http::HeaderName;
use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::{
    AddressKey, Choice, Condition, Operation, PathPattern, PathTemplate, Rule, Segment, Source, TextKey,
    TextMatch,
    decide::{Known, account},
};
use crate::matching;

/// A rule: the place of its policy, and its own in the policy.
type Place = (usize, usize);

/// The rules of the policies of one action, by what they cannot match without.
#[derive(Debug, Default)]
pub(super) struct Index {
    tables: Vec<Table>,
    /// Rules without a gate.
    always: Vec<Place>,
}

/// All gates on one field that compare it in the same way.
#[derive(Debug)]
struct Table {
    field: Field,
    shape: Shape,
    rules: FxHashMap<Box<[u8]>, Vec<Place>>,
}

/// A part of a request that a gate can stand on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Field {
    Principal,
    Namespace,
    Account,
    TokenPrincipal,
    Audience,
    Presenter,
    Sni,
    Host,
    Method,
    Path,
    Header(HeaderName),
    Claim(Vec<String>),
    Source,
    Destination,
    Port,
}

/// Which bytes of a field are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    Whole,
    First(usize),
    Last(usize),
    /// The first bits of an address of four or sixteen bytes.
    Block(usize, u8),
}

/// A value that may have to be there.
type Key = (Field, Shape, Box<[u8]>);

/// Values of one field, one of which must be there.
type Way = Vec<Key>;

/// One source, operation or condition: the ways it can be told by. None, if it only says what must not be.
type Alternative = Vec<Way>;

impl Index {
    /// An index of the rules of these policies.
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a [Rule]>) -> Self {
        let rules: Vec<(Place, Vec<Vec<Alternative>>)> = policies
            .enumerate()
            .flat_map(|(policy, rules)| {
                rules.iter().enumerate().map(move |(at, rule)| ((policy, at), rule.demands()))
            })
            .collect();
        let mut frequency: FxHashMap<Key, usize> = FxHashMap::default();
        for key in rules.iter().flat_map(|(_, demands)| demands.iter().flatten().flatten().flatten()) {
            *frequency.entry(key.clone()).or_default() += 1;
        }
        let cost = |way: &Way| -> usize {
            way.iter().map(|key| frequency.get(key).copied().unwrap_or_default()).sum()
        };
        let mut index = Self::default();
        for (place, demands) in rules {
            let cheapest = |ways: Alternative| ways.into_iter().min_by_key(cost);
            // What is demanded is a gate only if each of its alternatives can be told by something.
            let gate = |demand: Vec<Alternative>| -> Option<Way> {
                Some(demand.into_iter().map(cheapest).collect::<Option<Vec<_>>>()?.concat())
            };
            match demands.into_iter().filter_map(gate).min_by_key(cost) {
                Some(gate) => gate.into_iter().for_each(|key| index.add(key, place)),
                None => index.always.push(place),
            }
        }
        index
    }

    fn add(&mut self, (field, shape, bytes): Key, place: Place) {
        let known = self.tables.iter().position(|table| table.field == field && table.shape == shape);
        let at = known.unwrap_or_else(|| {
            self.tables.push(Table { field, shape, rules: FxHashMap::default() });
            self.tables.len() - 1
        });
        if let Some(table) = self.tables.get_mut(at) {
            table.rules.entry(bytes).or_default().push(place);
        }
    }

    /// Shows every rule that may match, some perhaps more than once, until `show` has seen enough.
    pub(super) fn candidates(&self, known: &Known<'_>, mut show: impl FnMut(usize, usize) -> bool) {
        if self.always.iter().any(|(policy, rule)| show(*policy, *rule)) {
            return;
        }
        for table in &self.tables {
            let mut is_over = false;
            table.field.values(known, &mut |value| {
                let found = table.shape.cut(value).and_then(|part| table.rules.get(&*part));
                is_over = is_over
                    || found.is_some_and(|rules| rules.iter().any(|(policy, rule)| show(*policy, *rule)));
            });
            if is_over {
                return;
            }
        }
    }
}

impl Field {
    /// Shows the values the request has there.
    fn values(&self, known: &Known<'_>, show: &mut dyn FnMut(&[u8])) {
        let request = known.request.as_ref();
        let token = request.and_then(|request| request.token);
        let mut text = |text: Option<&str>| text.into_iter().for_each(|text| show(text.as_bytes()));
        match self {
            Self::Principal => text(known.peer.map(|peer| peer.principal())),
            Self::Namespace => text(known.peer.map(|peer| peer.namespace())),
            Self::Account => text(known.peer.map(account).as_deref()),
            Self::TokenPrincipal => text(token.and_then(|token| token.principal.as_deref())),
            Self::Audience | Self::Presenter | Self::Claim(_) => {
                let texts = token.map(|token| match self {
                    Self::Audience => token.claim("aud"),
                    Self::Claim(path) => token.claims.texts(path),
                    _ => token.claim("azp"),
                });
                texts.unwrap_or_default().iter().for_each(|claim| text(Some(claim)));
            }
            Self::Sni => text(known.sni),
            Self::Host => {
                let lower = |text: &str| {
                    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
                    if is_lower { None } else { Some(text.to_ascii_lowercase()) }
                };
                let Some(request) = request else { return };
                let (all, host) = (request.authority, request.host());
                text(Some(lower(all).as_deref().unwrap_or(all)));
                if host.len() != all.len() {
                    text(Some(lower(host).as_deref().unwrap_or(host)));
                }
            }
            Self::Method => text(request.map(|request| request.method)),
            Self::Path => text(request.map(|request| request.path)),
            Self::Header(name) => {
                let headers = request.and_then(|request| request.headers);
                text(headers.and_then(|headers| matching::joined(headers, name)).as_deref());
            }
            Self::Source => octets(known.source, show),
            Self::Destination => octets(known.destination.0, show),
            Self::Port => show(&known.destination.1.to_be_bytes()),
        }
    }
}

fn octets(address: IpAddr, show: &mut dyn FnMut(&[u8])) {
    match address {
        IpAddr::V4(address) => show(&address.octets()),
        IpAddr::V6(address) => show(&address.octets()),
    }
}

impl Shape {
    /// The bytes that are compared, if the value has them.
    fn cut(self, value: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Whole => Some(value.into()),
            Self::First(length) => value.get(..length).map(Cow::Borrowed),
            Self::Last(length) => value.get(value.len().checked_sub(length)?..).map(Cow::Borrowed),
            Self::Block(size, bits) => (value.len() == size).then(|| {
                let masked = value.iter().zip((0_u8..).step_by(8)).map(|(byte, start)| {
                    byte & !0xff_u8.checked_shr(u32::from(bits.saturating_sub(start))).unwrap_or_default()
                });
                masked.collect()
            }),
        }
    }
}

impl Rule {
    /// What it asks for: a source, an operation, and each condition, in alternatives.
    fn demands(&self) -> Vec<Vec<Alternative>> {
        let from: Vec<_> = self.from.iter().map(Source::ways).collect();
        let to: Vec<_> = self.to.iter().map(Operation::ways).collect();
        let when = self.when.iter().map(|condition| vec![condition.ways()]);
        [from, to].into_iter().filter(|demand| !demand.is_empty()).chain(when).collect()
    }
}

/// The values it wants, if it wants any.
fn keys<T>(choice: &Choice<T>, key: impl Fn(&T) -> Key) -> Option<Way> {
    (!choice.any_of.is_empty()).then(|| choice.any_of.iter().map(key).collect())
}

fn texts(field: &Field, choice: &Choice<TextMatch>) -> Option<Way> {
    keys(choice, |value| text(field.clone(), value))
}

fn blocks(field: &Field, choice: &Choice<IpNet>) -> Option<Way> {
    keys(choice, |block| {
        let mut bytes = Vec::new();
        octets(block.network(), &mut |octets| bytes.extend_from_slice(octets));
        (field.clone(), Shape::Block(bytes.len(), block.prefix_len()), bytes.into())
    })
}

fn text(field: Field, value: &TextMatch) -> Key {
    let (shape, text) = match value {
        TextMatch::Exact(text) => (Shape::Whole, &**text),
        TextMatch::Prefix(text) => (Shape::First(text.len()), &**text),
        TextMatch::Suffix(text) => (Shape::Last(text.len()), &**text),
        TextMatch::Present => (Shape::First(0), ""),
    };
    let text = if field == Field::Host { text.to_ascii_lowercase() } else { text.to_owned() };
    (field, shape, text.into_bytes().into())
}

fn ports(choice: &Choice<u16>) -> Option<Way> {
    keys(choice, |port| (Field::Port, Shape::Whole, port.to_be_bytes().into()))
}

fn path(pattern: &PathPattern) -> Key {
    match pattern {
        PathPattern::Text(value) => text(Field::Path, value),
        PathPattern::Template(template) => text(Field::Path, &TextMatch::Prefix(template.literal_start())),
    }
}

impl PathTemplate {
    /// What every path of this form begins with.
    fn literal_start(&self) -> String {
        let literals = self.0.iter().map_while(|segment| match segment {
            Segment::Literal(literal) => Some(format!("/{literal}")),
            Segment::Any | Segment::Rest => None,
        });
        literals.collect()
    }
}

impl Source {
    fn ways(&self) -> Alternative {
        let accounts =
            keys(&self.service_accounts, |account| (Field::Account, Shape::Whole, account.as_bytes().into()));
        let all = [
            texts(&Field::Principal, &self.principals),
            texts(&Field::TokenPrincipal, &self.request_principals),
            texts(&Field::Namespace, &self.namespaces),
            accounts,
            blocks(&Field::Source, &self.ip_blocks),
            blocks(&Field::Source, &self.remote_ip_blocks),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Operation {
    fn ways(&self) -> Alternative {
        let all = [
            keys(&self.paths, path),
            texts(&Field::Host, &self.hosts),
            ports(&self.ports),
            texts(&Field::Method, &self.methods),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Condition {
    fn ways(&self) -> Alternative {
        let keys = match self {
            Self::Header { name, values } => texts(&Field::Header(name.clone()), values),
            Self::Claim { path, values } => texts(&Field::Claim(path.clone()), values),
            Self::Text { key, values } => texts(&field(*key), values),
            Self::Address { key: AddressKey::Destination, values } => blocks(&Field::Destination, values),
            Self::Address { key: AddressKey::Source | AddressKey::Remote, values } => {
                blocks(&Field::Source, values)
            }
            Self::Port(values) => ports(values),
        };
        keys.into_iter().collect()
    }
}

fn field(key: TextKey) -> Field {
    match key {
        TextKey::SourceNamespace => Field::Namespace,
        TextKey::SourcePrincipal => Field::Principal,
        TextKey::SourceServiceAccount => Field::Account,
        TextKey::TokenPrincipal => Field::TokenPrincipal,
        TextKey::TokenAudiences => Field::Audience,
        TextKey::TokenPresenter => Field::Presenter,
        TextKey::Sni => Field::Sni,
    }
}
