//! What the demo claims, whether it held, and the figures behind it.

use pillion_tests::Report;
use serde_json::{Map, Value, json};

use crate::screen::Screen;

/// Everything claimed and measured.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    claims: u32,
    broken: Vec<String>,
    figures: Map<String, Value>,
}

impl Outcome {
    /// True if every claim held.
    pub(crate) fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// The result in one sentence.
    pub(crate) fn summary(&self) -> String {
        match self.broken.len() {
            0 => format!("All {} claims held.", self.claims),
            n => format!("{n} of {} claims did NOT hold:\n  - {}", self.claims, self.broken.join("\n  - ")),
        }
    }

    /// The measured figures as one line of JSON.
    pub(crate) fn json(&self) -> String {
        let mut figures = self.figures.clone();
        figures.insert("claims".to_owned(), json!(self.claims));
        figures.insert("held".to_owned(), json!(self.held()));
        Value::Object(figures).to_string()
    }

    /// A counted value.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// A measured value, rounded to two digits.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        self.figure(name, (value * 100.0).round() / 100.0);
    }

    /// Says what was claimed, and whether it held.
    pub(crate) fn claim(&mut self, screen: &Screen, held: bool, text: String) {
        self.claims += 1;
        screen.say(&format!("  {} {text}", if held { "✓" } else { "✗" }));
        if !held {
            self.broken.push(text);
        }
    }

    /// Claims that no request failed, and says why some did.
    pub(crate) fn claim_no_failure(&mut self, screen: &Screen, report: &Report, when: &str) {
        let text = format!("{when}: {} of {} requests succeeded", report.successes, report.total());
        self.claim(screen, report.failures == 0 && report.successes > 0, text);
        for reason in report.reasons.iter().take(3) {
            screen.say(&format!("      {reason}"));
        }
    }
}
