//! Destinations in trouble as proxies see them: by proxy in JSON, by destination in text.
//!
//! Whoever reads the text wants to know what is broken before who noticed, so what several proxies report is one line.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use pillion_xds::report;
use serde::{Deserialize, Serialize};

/// How many proxies a line names.
const MAX_NAMED: usize = 3;

/// What one proxy reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhealthy {
    /// `namespace/name` of its workload, then `@` and the address of its pod if that is known.
    pub proxy: String,
    /// Its breakers that are not closed.
    pub breakers: Vec<UnhealthyBreaker>,
    /// The endpoints it leaves alone.
    pub endpoints: Vec<UnhealthyEndpoint>,
    /// Breakers it has counted but not listed.
    pub more_breakers: u64,
    /// Endpoints it has counted but not listed.
    pub more_endpoints: u64,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnhealthyBreaker {
    /// The cluster or rule it stands before.
    pub name: String,
    /// Open or half open.
    pub state: BreakerState,
    /// For how long.
    pub for_seconds: u64,
    /// Why it has opened.
    pub reason: String,
}

/// An endpoint that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnhealthyEndpoint {
    /// The cluster in which it is.
    pub cluster: String,
    /// Where it listens.
    pub address: String,
    /// Ejected or unreachable.
    pub state: EndpointState,
    /// For how long.
    pub for_seconds: u64,
    /// When it may be tried again, if that is known.
    pub retry_in_seconds: Option<u64>,
    /// Why.
    pub reason: String,
}

/// What a breaker does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It refuses them.
    Open,
    /// It lets a few through, to find out.
    HalfOpen,
}

/// Why an endpoint gets no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Outlier detection leaves it alone.
    Ejected,
    /// No connection can be made.
    Unreachable,
}

/// One line: what the proxies that agree on a state say.
#[derive(Debug, Default)]
struct Seen<'a> {
    proxies: BTreeSet<&'a str>,
    /// The longest of them.
    for_seconds: u64,
    /// The soonest of them.
    retry_in_seconds: Option<u64>,
    /// What the one that has seen it longest says.
    reason: &'a str,
}

impl<'a> Seen<'a> {
    fn add(&mut self, proxy: &'a str, for_seconds: u64, retry_in_seconds: Option<u64>, reason: &'a str) {
        if self.proxies.is_empty() || for_seconds > self.for_seconds {
            (self.for_seconds, self.reason) = (for_seconds, reason);
        }
        self.retry_in_seconds = self.retry_in_seconds.into_iter().chain(retry_in_seconds).min();
        self.proxies.insert(proxy);
    }
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " for {} s", self.for_seconds)?;
        let named: Vec<&str> = self.proxies.iter().copied().take(MAX_NAMED).collect();
        let named = named.join(", ");
        match self.proxies.len() {
            1 => write!(f, " in {named}")?,
            count if count <= MAX_NAMED => write!(f, " in {count} proxies ({named})")?,
            count => write!(f, " in {count} proxies ({named}, ...)")?,
        }
        if let Some(seconds) = self.retry_in_seconds {
            write!(f, ", tried again in {seconds} s")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Writes what all proxies report, one line for each breaker or endpoint and state.
pub(super) fn write(f: &mut fmt::Formatter<'_>, unhealthy: &[Unhealthy]) -> fmt::Result {
    if unhealthy.is_empty() {
        return writeln!(f, "no open breakers, no ejected endpoints");
    }
    let mut breakers: BTreeMap<_, Seen<'_>> = BTreeMap::new();
    let mut endpoints: BTreeMap<_, Seen<'_>> = BTreeMap::new();
    for Unhealthy { proxy, breakers: of_proxy, endpoints: endpoints_of_proxy, .. } in unhealthy {
        for breaker in of_proxy {
            let seen = breakers.entry((breaker.state, &breaker.name)).or_default();
            seen.add(proxy, breaker.for_seconds, None, &breaker.reason);
        }
        for endpoint in endpoints_of_proxy {
            let seen = endpoints.entry((endpoint.state, &endpoint.cluster, &endpoint.address)).or_default();
            seen.add(proxy, endpoint.for_seconds, endpoint.retry_in_seconds, &endpoint.reason);
        }
    }
    writeln!(f, "open breakers: {}", breakers.len())?;
    for ((state, name), seen) in &breakers {
        writeln!(f, "  {name}: {state}{seen}")?;
    }
    write_more(f, unhealthy.iter().map(|unhealthy| unhealthy.more_breakers))?;
    writeln!(f, "ejected endpoints: {}", endpoints.len())?;
    for ((state, cluster, address), seen) in &endpoints {
        writeln!(f, "  {address} of {cluster}: {state}{seen}")?;
    }
    write_more(f, unhealthy.iter().map(|unhealthy| unhealthy.more_endpoints))
}

fn write_more(f: &mut fmt::Formatter<'_>, more: impl Iterator<Item = u64>) -> fmt::Result {
    match more.sum::<u64>() {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more reports that were too many to list"),
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::HalfOpen => "half open",
        })
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ejected => "ejected",
            Self::Unreachable => "unreachable",
        })
    }
}

impl From<report::BreakerState> for BreakerState {
    fn from(state: report::BreakerState) -> Self {
        match state {
            report::BreakerState::Open => Self::Open,
            report::BreakerState::HalfOpen => Self::HalfOpen,
        }
    }
}

impl From<report::EndpointState> for EndpointState {
    fn from(state: report::EndpointState) -> Self {
        match state {
            report::EndpointState::Ejected => Self::Ejected,
            report::EndpointState::Unreachable => Self::Unreachable,
        }
    }
}
