//! Finding the few rules that can match a request among many, without looking at the others.
//!
//! A rule matches only if one of its sources does, one of its operations and all of its conditions. So whatever else it
//! asks, one of the values of one of these must be there: its *gate*. Of all it asks, the gate is what the fewest rules
//! ask for. Gates are kept in tables by field and by length of what is compared, so that a request costs some look-ups
//! for each field and length in use, however many rules there are. A rule that only says what must not be has no gate,
//! but it has values that exclude it; so every value that excludes many rules is kept with all of them (`excluded`).
//! What is found is still to be matched in full: the index may show too much, never too little.

mod excluded;

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;
use rustc_hash::FxHashMap;

use self::excluded::{Excluders, Set};
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
    /// All rules; elsewhere they are known by their number in here.
    places: Vec<Place>,
    gates: Tables<Vec<usize>>,
    /// Rules without a gate.
    always: Set,
    excluders: Excluders,
}

/// Something for each of many keys.
#[derive(Debug)]
struct Tables<V>(Vec<Table<V>>);

/// All keys on one field that compare it in the same way.
#[derive(Debug)]
struct Table<V> {
    field: Field,
    shape: Shape,
    values: FxHashMap<Box<[u8]>, V>,
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
    /// None of them: there is one.
    Present,
    /// The first bits of an address of four or sixteen bytes.
    Block(usize, u8),
}

/// A value that may have to be there.
type Key = (Field, Shape, Box<[u8]>);

/// Values of one field, one of which must be there, or none.
type Way = Vec<Key>;

/// One source, operation or condition: the ways it can be told by. None, if it says nothing on that side.
type Alternative = Vec<Way>;

/// What is looked at of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// What must be there.
    Wanted,
    /// What must not.
    Unwanted,
}

impl Index {
    /// An index of the rules of these policies.
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a [Rule]>) -> Self {
        let rules: Vec<(Place, &Rule)> = policies
            .enumerate()
            .flat_map(|(policy, rules)| rules.iter().enumerate().map(move |(at, rule)| ((policy, at), rule)))
            .collect();
        let demands: Vec<_> = rules.iter().map(|(_, rule)| rule.demands(Side::Wanted)).collect();
        let mut frequency: FxHashMap<Key, usize> = FxHashMap::default();
        for key in demands.iter().flatten().flatten().flatten().flatten() {
            *frequency.entry(key.clone()).or_default() += 1;
        }
        let cost = |way: &Way| -> usize {
            way.iter().map(|key| frequency.get(key).copied().unwrap_or_default()).sum()
        };
        let mut index = Self {
            places: rules.iter().map(|(place, _)| *place).collect(),
            excluders: Excluders::new(rules.iter().map(|(_, rule)| rule.demands(Side::Unwanted)).collect()),
            ..Self::default()
        };
        for (rule, demands) in demands.into_iter().enumerate() {
            let cheapest = |ways: Alternative| ways.into_iter().min_by_key(cost);
            // What is demanded is a gate only if each of its alternatives can be told by something.
            let gate = |demand: Vec<Alternative>| -> Option<Way> {
                Some(demand.into_iter().map(cheapest).collect::<Option<Vec<_>>>()?.concat())
            };
            match demands.into_iter().filter_map(gate).min_by_key(cost) {
                Some(gate) => gate.into_iter().for_each(|key| index.gates.entry(key).push(rule)),
                None => index.always.insert(rule),
            }
        }
        index
    }

    /// Shows every rule that may match, some perhaps more than once, until `show` has seen enough.
    pub(super) fn candidates(&self, known: &Known<'_>, mut show: impl FnMut(usize, usize) -> bool) {
        let excluded = self.excluders.of(known);
        let mut show = |rule: usize| self.places.get(rule).is_some_and(|(policy, rule)| show(*policy, *rule));
        if !excluded.none_of(&self.always).any(&mut show) {
            self.gates.find(known, &mut |rules| rules.iter().any(|rule| !excluded.has(*rule) && show(*rule)));
        }
    }
}

impl<V> Default for Tables<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Default> Tables<V> {
    /// What there is for a key.
    fn entry(&mut self, (field, shape, bytes): Key) -> &mut V {
        let known = self.0.iter().position(|table| table.field == field && table.shape == shape);
        let at = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(Table { field, shape, values: FxHashMap::default() });
        }
        #[expect(clippy::indexing_slicing, reason = "found there, or put there")]
        self.0[at].values.entry(bytes).or_default()
    }
}

impl<V> Tables<V> {
    /// Shows what there is for the values of a request, until `show` has seen enough.
    fn find<'a>(&'a self, known: &Known<'_>, show: &mut dyn FnMut(&'a V) -> bool) {
        for table in &self.0 {
            let mut is_over = false;
            table.field.values(known, &mut |value| {
                let mut scratch = [0; 16];
                let part = table.shape.cut(value, &mut scratch);
                let found = part.and_then(|part| table.values.get(part));
                is_over = is_over || found.is_some_and(&mut *show);
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
    fn cut<'a>(self, value: &'a [u8], scratch: &'a mut [u8; 16]) -> Option<&'a [u8]> {
        match self {
            Self::Whole => Some(value),
            Self::First(length) => value.get(..length),
            Self::Last(length) => value.get(value.len().checked_sub(length)?..),
            Self::Present => value.get(..0).filter(|_| !value.is_empty()),
            Self::Block(size, bits) => {
                let masked = scratch.get_mut(..size).filter(|_| value.len() == size)?;
                for ((to, byte), start) in masked.iter_mut().zip(value).zip((0_u8..).step_by(8)) {
                    let hidden = 0xff_u8.checked_shr(u32::from(bits.saturating_sub(start)));
                    *to = byte & !hidden.unwrap_or_default();
                }
                Some(masked)
            }
        }
    }
}

impl<T> Choice<T> {
    fn side(&self, side: Side) -> &[T] {
        match side {
            Side::Wanted => &self.any_of,
            Side::Unwanted => &self.none_of,
        }
    }
}

impl Rule {
    /// What it asks for, or what it excludes: by source, operation, and each condition, in alternatives.
    fn demands(&self, side: Side) -> Vec<Vec<Alternative>> {
        let from: Vec<_> = self.from.iter().map(|source| source.ways(side)).collect();
        let to: Vec<_> = self.to.iter().map(|operation| operation.ways(side)).collect();
        let when = self.when.iter().map(|condition| vec![condition.ways(side)]);
        [from, to].into_iter().filter(|demand| !demand.is_empty()).chain(when).collect()
    }
}

/// The values, if there are any.
fn keys<'a, T: 'a>(values: impl IntoIterator<Item = &'a T>, key: impl Fn(&T) -> Key) -> Option<Way> {
    let way: Way = values.into_iter().map(key).collect();
    (!way.is_empty()).then_some(way)
}

fn texts(field: &Field, values: &[TextMatch]) -> Option<Way> {
    keys(values, |value| text(field.clone(), value))
}

fn blocks(field: &Field, values: &[IpNet]) -> Option<Way> {
    keys(values, |block| {
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
        TextMatch::Present => (Shape::Present, ""),
    };
    let text = if field == Field::Host { text.to_ascii_lowercase() } else { text.to_owned() };
    (field, shape, text.into_bytes().into())
}

fn ports(values: &[u16]) -> Option<Way> {
    keys(values, |port| (Field::Port, Shape::Whole, port.to_be_bytes().into()))
}

fn paths(values: &[PathPattern], side: Side) -> Option<Way> {
    // How a path begins says that a template may match, not that it does.
    let is_told = |pattern: &&PathPattern| side == Side::Wanted || matches!(pattern, PathPattern::Text(_));
    keys(values.iter().filter(is_told), |pattern| match pattern {
        PathPattern::Text(value) => text(Field::Path, value),
        PathPattern::Template(template) => text(Field::Path, &TextMatch::Prefix(template.literal_start())),
    })
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
    fn ways(&self, side: Side) -> Alternative {
        let accounts = keys(self.service_accounts.side(side), |account| {
            (Field::Account, Shape::Whole, account.as_bytes().into())
        });
        let all = [
            texts(&Field::Principal, self.principals.side(side)),
            texts(&Field::TokenPrincipal, self.request_principals.side(side)),
            texts(&Field::Namespace, self.namespaces.side(side)),
            accounts,
            blocks(&Field::Source, self.ip_blocks.side(side)),
            blocks(&Field::Source, self.remote_ip_blocks.side(side)),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Operation {
    fn ways(&self, side: Side) -> Alternative {
        let all = [
            paths(self.paths.side(side), side),
            texts(&Field::Host, self.hosts.side(side)),
            ports(self.ports.side(side)),
            texts(&Field::Method, self.methods.side(side)),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Condition {
    fn ways(&self, side: Side) -> Alternative {
        let keys = match self {
            Self::Header { name, values } => texts(&Field::Header(name.clone()), values.side(side)),
            Self::Claim { path, values } => texts(&Field::Claim(path.clone()), values.side(side)),
            Self::Text { key, values } => texts(&field(*key), values.side(side)),
            Self::Address { key: AddressKey::Destination, values } => {
                blocks(&Field::Destination, values.side(side))
            }
            Self::Address { key: AddressKey::Source | AddressKey::Remote, values } => {
                blocks(&Field::Source, values.side(side))
            }
            Self::Port(values) => ports(values.side(side)),
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
