//! The command line of the control plane. Every flag is also an environment variable.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Parser, ValueEnum};
use pillion_policy::{
    identity::TrustDomain,
    mesh::{MeshConfig, OutboundMode},
    name::Hostname,
};

/// The control plane of Pillion: reads policy and tells it to proxies.
#[derive(Debug, Parser)]
#[command(name = "pillion-control-plane", version)]
pub struct Config {
    /// Where objects come from: dir:PATH reads and watches a directory of YAML files
    #[arg(long, env = "PILLION_SOURCE", value_name = "dir:PATH")]
    pub source: Source,

    /// Where proxies connect, in plain text: keep it on the loopback interface
    #[arg(long, env = "PILLION_XDS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15010")]
    pub xds_addr: SocketAddr,

    /// Where /live, /ready, /metrics, /status and /config_dump are
    #[arg(long, env = "PILLION_ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15014")]
    pub admin_addr: SocketAddr,

    /// DNS domain of the cluster: services are called NAME.NAMESPACE.svc.DOMAIN
    #[arg(long, env = "PILLION_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: Hostname,

    /// Trust domain of workload identities
    #[arg(long, env = "PILLION_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// What proxies do with traffic for hosts that nothing here describes
    #[arg(long, env = "PILLION_OUTBOUND_MODE", value_name = "MODE", default_value = "allow-any")]
    pub outbound_mode: Outbound,

    /// What is logged to standard error, as in "info" or "warn,pillion_control_plane=debug"
    #[arg(long, env = "PILLION_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files.
    Directory(PathBuf),
}

/// What proxies do with traffic for unknown hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outbound {
    /// Let it pass to the address it was meant for.
    AllowAny,
    /// Refuse it.
    RegistryOnly,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err("write dir:PATH, for example dir:./policy".to_owned()),
        }
    }
}

impl Config {
    /// The settings that go to every proxy.
    pub(crate) fn mesh(&self) -> MeshConfig {
        MeshConfig {
            cluster_domain: self.cluster_domain.clone(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: Vec::new(),
            trust: None,
            outbound: match self.outbound_mode {
                Outbound::AllowAny => OutboundMode::AllowAny,
                Outbound::RegistryOnly => OutboundMode::RegistryOnly,
            },
        }
    }
}

#[cfg(test)]
mod tests;
