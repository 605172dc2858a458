//! The text format of Prometheus, version 0.0.4.
//!
//! The classic format, not OpenMetrics: Istio's names such as `istio_requests_total` are then also the names of their
//! families, as dashboards, rules and `promtool` expect.

use std::fmt::{Display, Write};

/// The content type of what [`Text`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// A text being written, family by family.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _infallible = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample of the family begun last.
    pub(super) fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.0, "{end} {value}");
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_the_format_says() {
        let mut text = Text::default();
        text.family("a_total", "counter", "What it is.");
        text.sample("a_total", &[("x", "1"), ("y", "quote \" slash \\ line\n")], 7);
        text.single("b", "gauge", "Another.", 0.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total What it is.\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"quote \\\" slash \\\\ line\\n\"} 7\n\
             # HELP b Another.\n# TYPE b gauge\nb 0.5\n"
        );
    }
}
