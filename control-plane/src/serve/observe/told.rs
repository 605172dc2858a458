//! How what proxies tell is put together for people: hops in order, causes added up.
//!
//! Pure functions of the answers. Hops are tied by what proxies know for certain: a request that goes out belongs to
//! the one of the same pod that came in before it, and one that comes in to the one that was sent to that pod. No two
//! clocks are compared but of the same pod, unless there is a choice.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pillion_xds::{
    figures::Figures,
    story::{Cause, Story},
};
use serde::{Deserialize, Serialize};

use super::Observer;

/// Most causes that are told.
const MAX_CAUSES: usize = 50;

/// Who has not been heard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Silence {
    /// How many proxies are connected.
    pub asked: usize,
    /// Those that have not answered in time.
    pub silent: Vec<String>,
    /// Those that cannot be asked: they do not know how, or have not attached yet.
    pub unattached: Vec<String>,
    /// How much was left out because it was too much.
    pub left_out: u64,
}

/// A request as all proxies tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// What was asked for.
    pub request_id: String,
    /// Every hop: each before those that came of it.
    pub stories: Vec<Told>,
    /// Who has not been heard.
    pub silence: Silence,
}

/// A story, and who tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The proxy: namespace, workload and address.
    pub told_by: String,
    /// How many hops lie before it.
    pub depth: usize,
    /// What it tells.
    #[serde(flatten)]
    pub story: Story,
}

/// A line of a tap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A remark about the tap itself.
    Note {
        /// In words.
        note: String,
    },
    /// A request.
    Told(Box<Told>),
}

/// Why requests have failed, all over the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Causes {
    /// Within how many seconds.
    pub within_seconds: u64,
    /// How many requests have failed.
    pub total: u64,
    /// The most frequent causes.
    pub causes: Vec<Blamed>,
    /// Who has not been heard.
    pub silence: Silence,
}

/// A cause, and where it was met.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blamed {
    /// The response flag.
    pub flag: String,
    /// Why, in words.
    pub cause: String,
    /// The workload whose proxy has answered.
    pub from: String,
    /// Whom the requests were for; empty where that was not known yet.
    pub to: String,
    /// The rule they fell under.
    pub route: Option<String>,
    /// How many.
    pub count: u64,
    /// When the last of them came.
    pub last: String,
    /// The id of one of them.
    pub request_id: String,
}

/// What proxies have counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Each proxy.
    pub proxies: Vec<ProxyFigures>,
    /// Who has not been heard.
    pub silence: Silence,
}

/// What one proxy has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyFigures {
    /// The proxy: namespace, workload and address.
    pub proxy: String,
    /// Since it was started.
    pub figures: Figures,
}

/// A story on its way into the tree.
struct Hop {
    told_by: String,
    ip: Option<IpAddr>,
    story: Story,
}

impl Hop {
    fn is_inbound(&self) -> bool {
        self.story.direction == "inbound"
    }

    /// Whether one of its tries went to that pod.
    fn was_sent_to(&self, ip: IpAddr) -> bool {
        let endpoints = self.story.attempts.iter().map(|attempt| attempt.endpoint.parse());
        endpoints.flatten().any(|endpoint: SocketAddr| endpoint.ip() == ip)
    }

    /// Whether this one may be what `other` came of.
    fn leads_to(&self, other: &Self) -> bool {
        if other.is_inbound() {
            !self.is_inbound() && other.ip.is_some_and(|ip| self.was_sent_to(ip))
        } else {
            self.is_inbound() && self.told_by == other.told_by && self.story.start <= other.story.start
        }
    }
}

/// Puts the hops of a request in order.
pub(super) fn explanation(
    request_id: &str,
    answers: Vec<(Observer, Vec<Story>)>,
    silence: Silence,
) -> Explanation {
    let mut hops: Vec<Hop> = Vec::new();
    for (observer, stories) in answers {
        let (told_by, ip) = (observer.name(), observer.ip);
        hops.extend(stories.into_iter().map(|story| Hop { told_by: told_by.clone(), ip, story }));
    }
    // Times are written so that their texts compare as they do.
    hops.sort_by(|a, b| (&a.story.start, &a.told_by).cmp(&(&b.story.start, &b.told_by)));
    let parents: Vec<Option<usize>> = hops.iter().map(|hop| parent(hop, &hops)).collect();
    let mut order = Vec::new();
    let mut placed = BTreeSet::new();
    let roots = (0..hops.len()).filter(|index| matches!(parents.get(*index), Some(None)));
    // Those in a circle, which skewed clocks can make, have no root: they follow by themselves.
    for root in roots.chain(0..hops.len()) {
        place(root, 0, &parents, &mut placed, &mut order);
    }
    let mut hops: Vec<Option<Hop>> = hops.into_iter().map(Some).collect();
    let stories = order.into_iter().filter_map(|(index, depth)| {
        let Hop { told_by, story, .. } = hops.get_mut(index)?.take()?;
        Some(Told { told_by, depth, story })
    });
    Explanation { request_id: request_id.to_owned(), stories: stories.collect(), silence }
}

/// The hop that another came of: the last one before it that may be, or else the first.
fn parent(hop: &Hop, hops: &[Hop]) -> Option<usize> {
    let mut candidates = hops.iter().enumerate().filter(|(_, other)| other.leads_to(hop));
    let before = candidates.clone().rfind(|(_, other)| other.story.start <= hop.story.start);
    before.or_else(|| candidates.next()).map(|(index, _)| index)
}

/// Puts a hop and all that came of it in order.
fn place(
    index: usize,
    depth: usize,
    parents: &[Option<usize>],
    placed: &mut BTreeSet<usize>,
    order: &mut Vec<(usize, usize)>,
) {
    let mut rest = vec![(index, depth)];
    while let Some((index, depth)) = rest.pop() {
        if !placed.insert(index) {
            continue;
        }
        order.push((index, depth));
        let children = parents.iter().enumerate().filter(|(_, parent)| **parent == Some(index));
        // The first comes out first.
        rest.extend(children.rev().map(|(child, _)| (child, depth + 1)));
    }
}

/// Adds causes up over proxies of the same workload, the most frequent first.
pub(super) fn causes(within: Duration, answers: Vec<(Observer, Vec<Cause>)>, silence: Silence) -> Causes {
    let mut all: BTreeMap<(String, String, String, String), Blamed> = BTreeMap::new();
    let mut total = 0;
    for (observer, causes) in answers {
        for cause in causes {
            total += cause.count;
            let from = observer.workload.clone();
            let to = cause.cluster.unwrap_or_default();
            let key = (cause.flag.clone(), cause.cause.clone(), from.clone(), to.clone());
            let blamed = all.entry(key).or_insert_with(|| Blamed {
                flag: cause.flag,
                cause: cause.cause,
                from,
                to,
                route: cause.route,
                ..Blamed::default()
            });
            blamed.count += cause.count;
            if cause.last >= blamed.last {
                (blamed.last, blamed.request_id) = (cause.last, cause.request_id);
            }
        }
    }
    let mut causes: Vec<Blamed> = all.into_values().collect();
    causes.sort_by_key(|cause| Reverse(cause.count));
    causes.truncate(MAX_CAUSES);
    Causes { within_seconds: within.as_secs(), total, causes, silence }
}
