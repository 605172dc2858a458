//! An app behind a sidecar with a workload policy of its own and no control plane.

use anyhow::{Context, Result};
use pillion_policy::{
    Resource,
    authentication::{JwtRule, PeerTls},
    authorization::{Action, AuthorizationPolicy, Choice, Operation, PathPattern, Rule, TextMatch},
    cluster::Protocol,
    name::Label,
    service::ServiceRef,
    telemetry::Telemetry,
    workload::{WorkloadPolicy, WorkloadPort},
};

use crate::dial::Fixed;
use crate::policy::TARGET_PORT;
use crate::{AccessLog, Client, Instance, Policy, Sidecar, address, sidecar};

/// The app, its sidecar, and what that has logged.
#[derive(Debug)]
pub struct Guarded {
    /// The app.
    pub app: Instance,
    /// Its sidecar.
    pub sidecar: Sidecar,
    /// The log of the sidecar.
    pub log: AccessLog,
    _disk: Policy,
}

/// What the sidecar is to enforce.
#[derive(Debug, Default)]
pub struct Rules {
    /// Who may call.
    pub authorization: Vec<AuthorizationPolicy>,
    /// Whose tokens are believed.
    pub authentication: Vec<JwtRule>,
    /// Whether the port is declared opaque.
    pub opaque: bool,
}

impl Guarded {
    /// Starts both.
    pub async fn start(rules: Rules) -> Result<Self> {
        Self::start_with(rules, |sidecar| sidecar).await
    }

    /// Starts both, the sidecar in a way of its own.
    pub async fn start_with(
        rules: Rules,
        adjust: impl FnOnce(sidecar::Builder) -> sidecar::Builder,
    ) -> Result<Self> {
        let app = Instance::sample("app", "v1", "app-1", address::unused_at(TARGET_PORT)?).await?;
        let (disk, log) = (Policy::new()?, AccessLog::new()?);
        disk.apply("resources", &serde_json::to_string(&[Resource::Workload(policy(rules)?.into())])?)?;
        let file = disk.file("resources").display().to_string();
        let sidecar = Sidecar::of("app").arg("--resources", &file).in_front_of(app.address, TARGET_PORT);
        let sidecar = adjust(sidecar.logging(&log)).start().await?;
        Ok(Self { app, sidecar, log, _disk: disk })
    }

    /// A client of the app, without a sidecar of its own.
    pub fn client(&self) -> Client {
        Client::http1(self.sidecar.inbound)
    }

    /// Another one, which calls from an address of its own.
    pub fn client_from(&self, source: std::net::IpAddr) -> Client {
        Client::dialing(Fixed::new(self.sidecar.inbound).from(source))
    }

    /// An HTTP/2 client of the app.
    pub fn client_http2(&self) -> Client {
        Client::http2(self.sidecar.inbound)
    }
}

fn policy(rules: Rules) -> Result<WorkloadPolicy> {
    let label = |text| Label::new(text).context("not a label");
    let service =
        ServiceRef { namespace: label("default")?, name: label("app")?, host: "app.default".parse()? };
    let protocol = if rules.opaque { Protocol::Tcp } else { Protocol::Http1 };
    Ok(WorkloadPolicy {
        name: "default/app".parse()?,
        identity: None,
        ports: vec![WorkloadPort { port: TARGET_PORT, protocol, service, rate_limit: None }],
        peer_tls: PeerTls::default(),
        port_tls: Default::default(),
        authorization: rules.authorization,
        authentication: rules.authentication,
        telemetry: Telemetry::default(),
    })
}

/// A policy of that name.
pub fn policy_of(name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy { name: format!("default/{name}").into(), action, rules }
}

/// Values as policies write them.
pub fn texts(values: &[&str]) -> Result<Choice<TextMatch>> {
    let any_of = values.iter().map(|value| TextMatch::new(value)).collect::<Result<_, _>>()?;
    Ok(Choice { any_of, none_of: Vec::new() })
}

/// A rule about paths.
pub fn paths(values: &[&str]) -> Result<Rule> {
    let any_of = values.iter().map(|value| PathPattern::new(value)).collect::<Result<_, _>>()?;
    let paths = Choice { any_of, none_of: Vec::new() };
    Ok(Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() })
}
