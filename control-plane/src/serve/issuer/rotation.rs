//! Goes on with a change of the root, one look at a time: files and proxies in, the next step out.
//!
//! The phase is what stands on disk; here it is only remembered since when. Whatever fails is tried again at the next look
//! and shown meanwhile, and nothing is given up before what takes its place has been taken up.

use std::time::SystemTime;

use anyhow::Result;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::Issuer;
use crate::{
    ca::{Customer, DWELL, Phase, Renewals, Standing, StateDir, WaitFor, acknowledged, nobody_away, renewed},
    clock,
    serve::{Command, Hub},
};

/// Most customers whose certificates are counted while the root changes.
const MAX_COUNTED: usize = 100_000;

/// A change of the root, as far as it has been seen.
#[derive(Debug)]
pub(super) struct Rotation {
    phase: Phase,
    /// When this phase was first seen.
    since: Instant,
    /// What was last said of it.
    said: Option<String>,
    /// How many certificates everybody has got in it.
    issued: FxHashMap<Customer, usize>,
}

impl Rotation {
    pub(super) fn new(phase: Phase) -> Self {
        Self { phase, since: Instant::now(), said: None, issued: FxHashMap::default() }
    }

    /// How it stands, for people; nothing when there is none.
    pub(super) fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// Notes that somebody has got a certificate.
    pub(super) fn count(&mut self, customer: Customer) {
        if self.phase == Phase::Sign && self.issued.len() < MAX_COUNTED {
            *self.issued.entry(customer).or_default() += 1;
        }
    }
}

impl Issuer {
    /// Goes on with a change of the root, if one is under way.
    pub(super) async fn go_on(&mut self, hub: &Hub) -> Result<()> {
        let Some(state) = self.state.clone() else { return Ok(()) };
        let said = match state.phase() {
            Ok(Phase::Settled) if self.rotation.phase == Phase::Settled => None,
            Ok(phase) => {
                let proxies = hub.ask(Command::Standing).await?;
                let now = (clock::now(), Instant::now());
                self.step(&state, phase, &proxies, now).unwrap_or_else(|error| Some(format!("{error:#}")))
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if said != self.rotation.said {
            let state = said.as_deref().unwrap_or("the old root is not believed any more");
            tracing::info!(state, signer = self.authority.signer().fingerprint(), "changing the root");
            self.rotation.said = said;
            hub.send(Command::Authority(Box::new(self.facts()))).await?;
        }
        Ok(())
    }

    /// One look at a change of the root; says how it stands, or nothing once it is over.
    pub(super) fn step(
        &mut self,
        state: &StateDir,
        phase: Phase,
        proxies: &[Standing],
        (now, at): (SystemTime, Instant),
    ) -> Result<Option<String>> {
        if phase != self.rotation.phase {
            if phase == Phase::Distribute {
                state.distribute(now)?;
            }
            return self.enter(state, phase, now);
        }
        let gate = acknowledged(proxies).and_then(|()| self.gate(state, phase, proxies, now));
        if let Err(reason) = gate {
            return Ok(Some(format!("{phase}: {reason}")));
        }
        if at < self.rotation.since + DWELL {
            return Ok(Some(format!("{phase}: everybody connected is ready")));
        }
        match phase {
            Phase::Settled => {}
            Phase::Distribute => state.switch(self.authority.signer())?,
            Phase::Sign => state.retire()?,
        }
        let phase = state.phase()?;
        self.enter(state, phase, now)
    }

    /// Whether nobody needs what the phase still holds on to. An error says what is waited for.
    fn gate(
        &self,
        state: &StateDir,
        phase: Phase,
        proxies: &[Standing],
        now: SystemTime,
    ) -> Result<(), String> {
        let broken = |error: anyhow::Error| format!("{error:#}");
        let retiring = match phase {
            Phase::Settled => return Ok(()),
            Phase::Distribute => self.authority.signer().clone(),
            Phase::Sign => state.retiring().map_err(broken)?,
        };
        let since = state.since(phase).map_err(broken)?;
        if phase == Phase::Sign {
            let over = (since + self.lifetime).min(retiring.not_after());
            renewed(proxies, &Renewals { since, over, by: &self.rotation.issued }, now)?;
        }
        match state.waits_for().map_err(broken)? {
            WaitFor::Everybody => nobody_away(since, self.lifetime, &retiring, now),
            WaitFor::Connected => Ok(()),
        }
    }

    /// Takes the authority as it is on disk in the next phase.
    fn enter(&mut self, state: &StateDir, phase: Phase, now: SystemTime) -> Result<Option<String>> {
        self.authority = state.authority(now)?;
        self.renew(now);
        self.rotation = Rotation { said: self.rotation.said.take(), ..Rotation::new(phase) };
        Ok((phase != Phase::Settled).then(|| phase.to_string()))
    }
}
