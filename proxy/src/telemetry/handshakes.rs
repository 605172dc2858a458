//! Figures of TLS handshakes, by direction and by why they failed.

use super::{
    access_log::Direction,
    counter::Counter,
    exposition::{Audience, Kind},
};
use crate::error::Refusal;

/// Reasons for which handshakes fail.
const REASONS: usize = Refusal::ALL.len();

/// Counts of the handshakes of both faces.
#[derive(Debug, Default)]
pub struct TlsStats {
    inbound: Handshakes,
    outbound: Handshakes,
}

#[derive(Debug)]
struct Handshakes {
    done: Counter,
    failed: [Counter; REASONS],
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { done: Counter::default(), failed: std::array::from_fn(|_| Counter::default()) }
    }
}

impl TlsStats {
    /// Counts a connection that is secured.
    pub fn done(&self, direction: Direction) {
        self.of(direction).done.inc();
    }

    /// Counts one that is not.
    pub fn failed(&self, direction: Direction, refusal: Refusal) {
        if let Some(counter) = self.of(direction).failed.get(refusal as usize) {
            counter.inc();
        }
    }

    /// How many connections were secured.
    pub fn count(&self, direction: Direction) -> u64 {
        self.of(direction).done.get()
    }

    /// How many failed for that reason.
    pub fn failures(&self, direction: Direction, refusal: Refusal) -> u64 {
        self.of(direction).failed.get(refusal as usize).map_or(0, Counter::get)
    }

    fn of(&self, direction: Direction) -> &Handshakes {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Reasons that have not occurred are left out.
    pub(super) fn write(&self, out: &mut impl Audience) {
        let both = [Direction::Inbound, Direction::Outbound];
        let name = "pillion_tls_handshakes_total";
        out.family(name, Kind::Counter, "Connections secured by TLS.");
        for direction in both {
            out.sample(name, &[("direction", direction.as_str())], self.count(direction));
        }
        let name = "pillion_tls_handshake_failures_total";
        out.family(name, Kind::Counter, "Connections that could not be secured, by why.");
        for direction in both {
            for refusal in Refusal::ALL {
                let failures = self.failures(direction, refusal);
                if failures > 0 {
                    let labels = [("direction", direction.as_str()), ("reason", refusal.label())];
                    out.sample(name, &labels, failures);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::exposition::Text, *};

    #[test]
    fn failures_are_told_apart_by_direction_and_reason() {
        let stats = TlsStats::default();
        stats.done(Direction::Inbound);
        stats.failed(Direction::Inbound, Refusal::Expired);
        stats.failed(Direction::Inbound, Refusal::Expired);
        stats.failed(Direction::Outbound, Refusal::WrongIdentity);
        let mut text = Text::default();
        stats.write(&mut text);
        let text = text.finish();
        for line in [
            "pillion_tls_handshakes_total{direction=\"inbound\"} 1",
            "pillion_tls_handshake_failures_total{direction=\"inbound\",reason=\"expired\"} 2",
            "pillion_tls_handshake_failures_total{direction=\"outbound\",reason=\"wrong_identity\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("failures_total{")).count(), 2);
    }
}
