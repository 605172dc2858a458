//! What `/status` says, and `pillion status` prints.

mod authority;
mod unhealthy;

use std::{collections::BTreeMap, fmt};

use pillion_policy::ResourceKind;
use serde::{Deserialize, Serialize};

pub(crate) use self::authority::Facts;
pub use self::authority::{AuthorityStatus, CertificateStatus, Role};
pub use self::unhealthy::{BreakerState, EndpointState, Unhealthy, UnhealthyBreaker, UnhealthyEndpoint};
use crate::problem::Problem;

/// Objects in force, what is wrong, who is connected, and what they see of each other.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// How many objects of each kind are in force.
    pub objects: BTreeMap<String, usize>,
    /// Everything there is to complain about.
    pub problems: Vec<Problem>,
    /// The certificate authority, where there is one.
    #[serde(default)]
    pub authority: Option<AuthorityStatus>,
    /// Every connected proxy.
    pub proxies: Vec<ProxyStatus>,
    /// What proxies report of destinations in trouble; those that report none are left out.
    pub unhealthy: Vec<Unhealthy>,
}

/// A connected proxy.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `namespace/name` of its workload.
    pub workload: String,
    /// What it has proved to be; nothing when it is connected in plain text.
    #[serde(default)]
    pub identity: Option<String>,
    /// What else it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// For how long its present stream has been open.
    pub connected_seconds: u64,
    /// Whether it has answered everything it was sent.
    pub in_sync: bool,
    /// What it subscribed to, and the present version; nothing for what does not exist.
    pub resources: BTreeMap<String, Option<String>>,
    /// What it refused, latest first. This is a bug of ours: both ends build with the same constructors.
    pub refusals: Vec<Refusal>,
}

/// A refusal by a proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of the refused resources.
    pub kind: ResourceKind,
    /// The reason, for people.
    pub message: String,
    /// Names and reasons.
    pub resources: Vec<(String, String)>,
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objects: Vec<String> =
            self.objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(
            f,
            "objects in force: {}",
            if objects.is_empty() { "none".into() } else { objects.join(", ") }
        )?;
        writeln!(f, "problems: {}", self.problems.len())?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        if let Some(authority) = &self.authority {
            write!(f, "{authority}")?;
        }
        writeln!(f, "proxies: {}", self.proxies.len())?;
        for proxy in &self.proxies {
            let state = if proxy.in_sync { "in sync" } else { "waiting for its answer" };
            let (workload, seconds) = (&proxy.workload, proxy.connected_seconds);
            let resources = proxy.resources.len();
            writeln!(f, "  {workload}: {state}, {resources} resources, connected for {seconds} s")?;
            for refusal in &proxy.refusals {
                writeln!(f, "    refused {}: {}", refusal.kind, refusal.message)?;
            }
        }
        unhealthy::write(f, &self.unhealthy)
    }
}
