//! The desk at which certificates are issued: one task that owns the authority.
//!
//! Callers hand in [`Order`]s through a bounded queue. Beside them the task keeps what ages in order: the certificate the
//! control plane serves with, the keys of issuers of tokens, and the warnings before a certificate expires. A change of
//! the root goes on here, too (`rotation`).

mod rotation;
#[cfg(test)]
mod tests;

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use pillion_policy::{
    identity::{Identity, TrustDomain},
    name::Label,
};
use rcgen::KeyPair;
use rustls::ServerConfig;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use self::rotation::Rotation;
use super::{Command, Hub, callers::Callers, status::Facts, tls};
use crate::{
    ca::{Authority, Customer, Expiry, Given, Issued, Names, Pace, Phase, Refusal, StateDir},
    clock,
    config::Config,
    metrics::Metrics,
    token::{self, Verifier},
};

/// How many orders may wait.
const QUEUE: usize = 256;

/// How often what ages is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often files are read again: the keys of an issuer of tokens, and certificates that were given to us.
const FILES_INTERVAL: Duration = Duration::from_secs(10);

/// How often a certificate that expires soon is remembered to the operator.
const REMINDER: Duration = Duration::from_secs(24 * 3600);

/// Pause before the next attempt to renew our own certificate.
const RETRY: Duration = Duration::from_secs(10);

/// Names under which Kubernetes' and our own proxies look for the control plane.
const DNS_NAMES: [&str; 4] = [
    "localhost",
    "pillion-control-plane",
    "pillion-control-plane.pillion-system.svc",
    "istiod.istio-system.svc",
];

/// A certificate that is asked for.
#[derive(Debug)]
pub(crate) struct Order {
    pub(super) customer: Customer,
    /// The signing request, in PEM.
    pub(super) request: String,
    /// For how long; as long as the authority gives when it is not said.
    pub(super) lifetime: Option<Duration>,
    pub(super) answer: oneshot::Sender<Result<Issued, Denied>>,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Denied {
    /// The request is not acceptable.
    Refused(Refusal),
    /// This customer had many lately.
    TooOften,
}

/// What serving over TLS needs of the issuer.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(super) current: tls::Current,
    pub(super) callers: Callers,
    pub(super) orders: mpsc::Sender<Order>,
}

/// The owner of the authority.
#[derive(Debug)]
pub(crate) struct Issuer {
    authority: Authority,
    /// Where the root can be changed; nowhere when it was given to us.
    state: Option<StateDir>,
    given: Option<GivenAuthority>,
    rotation: Rotation,
    lifetime: Duration,
    own: Own,
    current: watch::Sender<Option<Arc<ServerConfig>>>,
    tokens: Tokens,
    pace: Pace<Customer>,
    metrics: Metrics,
    orders: mpsc::Receiver<Order>,
    /// What was last said of certificates that expire, and when.
    said: Option<(Expiry, Instant)>,
}

/// Files from which the authority comes. Whoever writes them may renew an intermediate, or change the root.
#[derive(Debug)]
struct GivenAuthority {
    files: Given,
    /// The certificates as they were last read.
    content: Vec<u8>,
    read_at: Instant,
    /// What was last wrong with them.
    failing: Option<String>,
}

/// What the control plane proves itself with.
struct Own {
    key: KeyPair,
    identity: Identity,
    names: Names,
    renew_at: SystemTime,
}

/// Whose tokens are believed.
#[derive(Debug)]
struct Tokens {
    trust_domain: TrustDomain,
    /// Where the key of our own is.
    state: Option<StateDir>,
    /// Another issuer's name and file of keys.
    issuer: Option<(String, PathBuf)>,
    /// That file as it was last read.
    content: Vec<u8>,
    verifier: watch::Sender<Arc<Verifier>>,
    read_at: Instant,
}

impl Issuer {
    /// Opens the authority that the configuration names, if it names one.
    pub(crate) fn open(config: &Config, metrics: &Metrics) -> Result<Option<(Self, Desk)>> {
        let now = clock::now();
        let state = config.state_dir.as_deref().map(StateDir::open).transpose()?;
        let given = config.ca_cert.clone().zip(config.ca_key.clone());
        let given = given.map(|(certificates, key)| GivenAuthority::new(Given { certificates, key }));
        let given = given.transpose()?;
        let authority = match (&given, &state) {
            (Some(given), _) => given.files.authority()?,
            (None, Some(state)) => state.authority(now)?,
            (None, None) => return Ok(None),
        };
        let issuer = config.token_issuer.clone().zip(config.token_jwks.clone());
        if state.is_none() && issuer.is_none() {
            bail!("nobody could prove who it is: give --state-dir, or --token-issuer and --token-jwks");
        }
        let changeable = state.clone().filter(|_| given.is_none());
        let tokens = Tokens::read(config.trust_domain.clone(), state, issuer)?;
        let (sender, orders) = mpsc::channel(QUEUE);
        let current = watch::Sender::new(None);
        let callers = Callers {
            domains: [&config.trust_domain].into_iter().chain(&config.trust_domain_alias).cloned().collect(),
            tokens: tokens.verifier.subscribe(),
            metrics: metrics.clone(),
        };
        let desk = Desk { current: current.subscribe(), callers, orders: sender };
        let mut issuer = Self {
            authority,
            state: changeable,
            given,
            rotation: Rotation::new(Phase::Settled),
            lifetime: config.leaf_lifetime,
            own: Own::new(&config.trust_domain, config.xds_tls_addr.ip())?,
            current,
            tokens,
            pace: Pace::default(),
            metrics: metrics.clone(),
            orders,
            said: None,
        };
        issuer.renew(now);
        issuer.remind(now, Instant::now());
        Ok(Some((issuer, desk)))
    }

    /// What proxies and people are told of the authority.
    pub(crate) fn facts(&self) -> Facts {
        Facts::of(&self.authority, self.rotation.said().map(ToOwned::to_owned))
    }

    /// Serves customers until all of them are gone.
    pub(crate) async fn run(mut self, hub: Hub) -> Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        hub.send(Command::Authority(Box::new(self.facts()))).await?;
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.serve(order, clock::now()),
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    if self.look_after(clock::now(), Instant::now()) {
                        hub.send(Command::Authority(Box::new(self.facts()))).await?;
                    }
                    self.go_on(&hub).await?;
                }
            }
        }
    }

    fn serve(&mut self, order: Order, now: SystemTime) {
        let Order { customer, request, lifetime, answer } = order;
        let lifetime = lifetime.map_or(self.lifetime, |lifetime| lifetime.min(self.lifetime));
        let (identity, from) = customer.clone();
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let result = if self.pace.allow(customer.clone(), Instant::now()) {
            self.authority.sign(&request, &identity, lifetime, now).map_err(Denied::Refused)
        } else {
            Err(Denied::TooOften)
        };
        match &result {
            Ok(issued) => {
                self.metrics.issued();
                self.rotation.count(customer);
                let (serial, not_after) = (&issued.serial, issued.leaf().expiry());
                tracing::info!(%identity, peer = from, serial, not_after, "issued a certificate");
            }
            Err(Denied::Refused(refusal)) => {
                self.metrics.not_issued(refusal.label());
                tracing::warn!(%identity, peer = from, error = %refusal, "refused a certificate");
            }
            Err(Denied::TooOften) => {
                self.metrics.not_issued("rate");
                tracing::warn!(%identity, peer = from, "refused a certificate: this caller had many lately");
            }
        }
        // Who asked may have gone meanwhile.
        drop(answer.send(result));
    }

    /// Looks after what ages; says whether the authority is another now.
    fn look_after(&mut self, now: SystemTime, at: Instant) -> bool {
        let authority = self.given.as_mut().and_then(|given| given.changed(at));
        let is_new = authority.is_some();
        if let Some(authority) = authority {
            self.authority = authority;
        }
        if is_new || self.own.renew_at <= now {
            self.renew(now);
        }
        self.tokens.refresh(at);
        self.remind(now, at);
        is_new
    }

    /// Makes a new certificate for ourselves. What stands stays until there is one.
    fn renew(&mut self, now: SystemTime) {
        let own = &mut self.own;
        let issued = self.authority.sign_own(&own.key, &own.identity, &own.names, self.lifetime, now);
        let made = issued.map_err(anyhow::Error::from).and_then(|issued| {
            let config = tls::config(&issued, &own.key, self.authority.roots())?;
            Ok((config, issued))
        });
        match made {
            Ok((config, issued)) => {
                let left = issued.not_after.duration_since(now).unwrap_or_default();
                own.renew_at = now + left / 2;
                let known = Facts::of(&self.authority, None);
                let known = known.certificates().map(|(role, known)| (role.to_string(), known));
                let all = known.chain([("server".to_owned(), issued.leaf())]);
                self.metrics.certificates(
                    all.map(|(kind, known)| (kind, known.fingerprint().to_owned(), known.not_after())),
                );
                self.current.send_replace(Some(Arc::new(config)));
                tracing::debug!(serial = issued.serial, "renewed the certificate of the control plane");
            }
            Err(error) => {
                own.renew_at = now + RETRY;
                tracing::error!(%error, "cannot make a certificate for the control plane");
            }
        }
    }

    /// Says which certificates expire soon: when that becomes so, and once a day from then on.
    fn remind(&mut self, now: SystemTime, at: Instant) {
        let facts = self.facts();
        let worst = facts.certificates().map(|(_, known)| Expiry::at(known.not_after(), now)).max();
        let worst = worst.unwrap_or(Expiry::Far);
        let is_new = self.said.is_none_or(|(said, when)| said != worst || at >= when + REMINDER);
        if !is_new {
            return;
        }
        self.said = Some((worst, at));
        for (role, certificate) in facts.certificates() {
            let (subject, not_after) = (certificate.subject(), certificate.expiry());
            match Expiry::at(certificate.not_after(), now) {
                Expiry::Far => {}
                Expiry::Month => {
                    tracing::warn!(%role, subject, not_after, "a certificate expires within 30 days")
                }
                Expiry::Week => {
                    tracing::error!(%role, subject, not_after, "a certificate expires within 7 days")
                }
                Expiry::Over => {
                    // A root of our own is replaced by one command; who was given one knows where it came from.
                    let advice = self.state.as_ref().map(|_| "say: pillion ca rotate");
                    tracing::error!(%role, subject, not_after, advice, "a certificate has expired")
                }
            }
        }
    }
}

impl GivenAuthority {
    fn new(files: Given) -> Result<Self> {
        Ok(Self { content: files.certificates()?, files, read_at: Instant::now(), failing: None })
    }

    /// Another authority, once there is one. Files that do not make one, such as those of which one has been written and
    /// the other has not, leave the last one in force and are read again.
    fn changed(&mut self, now: Instant) -> Option<Authority> {
        if now < self.read_at + FILES_INTERVAL {
            return None;
        }
        self.read_at = now;
        let read = self.files.certificates().and_then(|content| {
            if content == self.content {
                return Ok(None);
            }
            let authority = self.files.authority()?;
            self.content = content;
            tracing::info!(
                signer = authority.signer().fingerprint(),
                "took new certificates of the authority"
            );
            Ok(Some(authority))
        });
        let failing = read.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(error) = failing.as_ref().filter(|_| failing != self.failing) {
            tracing::warn!(error, "the certificates of the authority cannot be taken");
        }
        self.failing = failing;
        read.ok().flatten()
    }
}

impl Own {
    fn new(trust_domain: &TrustDomain, ip: IpAddr) -> Result<Self> {
        let (namespace, account) = (Label::new("pillion-system")?, Label::new("pillion-control-plane")?);
        let mut names =
            Names { dns: DNS_NAMES.map(ToOwned::to_owned).to_vec(), ip: vec![IpAddr::from([127, 0, 0, 1])] };
        if !ip.is_unspecified() && !names.ip.contains(&ip) {
            names.ip.push(ip);
        }
        let key = KeyPair::generate().context("cannot make a key")?;
        let identity = Identity::new(trust_domain, &namespace, &account);
        Ok(Self { key, identity, names, renew_at: SystemTime::UNIX_EPOCH })
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Tokens {
    fn read(
        trust_domain: TrustDomain,
        state: Option<StateDir>,
        issuer: Option<(String, PathBuf)>,
    ) -> Result<Self> {
        let content = match &issuer {
            Some((name, _)) if name == token::ISSUER => {
                bail!("--token-issuer {name:?} is the name of the control plane's own tokens")
            }
            Some((_, path)) => {
                fs::read(path).with_context(|| format!("cannot read --token-jwks {}", path.display()))?
            }
            None => Vec::new(),
        };
        let verifier = watch::Sender::new(Arc::new(Verifier::new(trust_domain.clone())));
        let tokens = Self { trust_domain, state, issuer, content, verifier, read_at: Instant::now() };
        tokens.verifier.send_replace(Arc::new(tokens.verifier()?));
        Ok(tokens)
    }

    fn verifier(&self) -> Result<Verifier> {
        let mut verifier = Verifier::new(self.trust_domain.clone());
        if let Some(state) = &self.state {
            verifier.believe_own(&state.token_key()?);
        }
        if let Some((name, path)) = &self.issuer {
            let n_keys = verifier
                .believe(name, &self.content)
                .with_context(|| format!("--token-jwks {} is no set of keys", path.display()))?;
            if n_keys == 0 {
                bail!("--token-jwks {} has no key for RS256 or ES256", path.display());
            }
        }
        Ok(verifier)
    }

    /// Takes new keys of the issuer. Keys that cannot be read leave the last ones in force.
    fn refresh(&mut self, now: Instant) {
        let Some((_, path)) = &self.issuer else { return };
        if now < self.read_at + FILES_INTERVAL {
            return;
        }
        self.read_at = now;
        let read = fs::read(path).map_err(anyhow::Error::from).and_then(|content| {
            if content == self.content {
                return Ok(());
            }
            self.content = content;
            self.verifier.send_replace(Arc::new(self.verifier()?));
            tracing::info!("took new keys of the issuer of tokens");
            Ok(())
        });
        if let Err(error) = read {
            tracing::warn!(error = format!("{error:#}"), "the keys of the issuer of tokens cannot be read");
        }
    }
}
