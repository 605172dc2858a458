//! Figures of what clients were found to speak, and how long that took: a stall here is a stall of the application.

use std::time::Duration;

use super::{
    counter::Counter,
    exposition::{Audience, Kind},
    histogram::{Histogram, SECONDS},
    record::Direction,
};

/// How it was found out, or not, what a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1, by its first bytes.
    Http1,
    /// HTTP/2, by its preface.
    Http2,
    /// TLS, by its ClientHello.
    Tls,
    /// Something else.
    Opaque,
    /// The client was silent for so long that it is taken for one that waits for the server.
    TimedOut,
    /// The client left before it had said enough.
    Closed,
}

impl Detected {
    /// All results, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Http1, Self::Http2, Self::Tls, Self::Opaque, Self::TimedOut, Self::Closed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
        }
    }
}

/// Figures of both faces.
#[derive(Debug, Default)]
pub struct DetectionStats {
    inbound: Face,
    outbound: Face,
}

#[derive(Debug)]
struct Face {
    results: [Counter; Detected::ALL.len()],
    took: Histogram<12>,
}

impl Default for Face {
    fn default() -> Self {
        Self { results: std::array::from_fn(|_| Counter::default()), took: Histogram::new(&SECONDS) }
    }
}

impl DetectionStats {
    /// Counts a connection of which this was found out after `took`.
    pub fn record(&self, direction: Direction, detected: Detected, took: Duration) {
        let face = self.of(direction);
        if let Some(counter) = face.results.get(detected as usize) {
            counter.inc();
        }
        face.took.record(took);
    }

    fn of(&self, direction: Direction) -> &Face {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    pub(super) fn write(&self, out: &mut impl Audience) {
        let both = [Direction::Inbound, Direction::Outbound];
        let name = "pillion_detections_total";
        out.family(name, Kind::Counter, "Connections by what their first bytes were.");
        for direction in both {
            for (detected, counter) in Detected::ALL.iter().zip(&self.of(direction).results) {
                let labels = [("direction", direction.as_str()), ("result", detected.as_str())];
                out.sample(name, &labels, counter.get());
            }
        }
        let name = "pillion_detection_seconds";
        out.family(name, Kind::Histogram, "How long it took to find out what a connection speaks.");
        for direction in both {
            let labels = [("direction", direction.as_str())];
            out.histogram(name, &labels, &self.of(direction).took.read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::exposition::Text, *};

    #[test]
    fn results_are_told_apart_by_direction() {
        let stats = DetectionStats::default();
        for detected in Detected::ALL {
            stats.record(Direction::Inbound, detected, Duration::from_millis(2));
        }
        stats.record(Direction::Outbound, Detected::TimedOut, Duration::from_millis(300));
        let mut text = Text::default();
        stats.write(&mut text);
        let text = text.finish();
        for line in [
            "pillion_detections_total{direction=\"inbound\",result=\"http2\"} 1",
            "pillion_detections_total{direction=\"outbound\",result=\"timed_out\"} 1",
            "pillion_detections_total{direction=\"outbound\",result=\"http1\"} 0",
            "pillion_detection_seconds_count{direction=\"inbound\"} 6",
            "pillion_detection_seconds_bucket{direction=\"outbound\",le=\"0.25\"} 0",
            "pillion_detection_seconds_bucket{direction=\"outbound\",le=\"0.5\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
    }
}
