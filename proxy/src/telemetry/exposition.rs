//! Who is told of metrics, and the texts scrapers read: Prometheus' own format, version 0.0.4, and OpenMetrics 1.0.
//!
//! One walk over the families tells an [`Audience`] of each. Both texts tell the same. OpenMetrics has exemplars, an end by which a text that was cut
//! off is recognised, and counters whose family is named without the `_total` of its samples; it is served to those who
//! prefer it. Names of samples are the same in both, so that dashboards and rules need not know.

use std::fmt::Write;

use super::histogram::{Exemplar, Reading};

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// Who is told of all families, one after another, each with its samples.
pub(super) trait Audience {
    /// A family begins; its samples follow.
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str);

    /// A sample of the family begun last, whose name is given again.
    fn sample(&mut self, name: &'static str, labels: &[Label<'_>], value: impl Into<Number>);

    /// A distribution of the family begun last.
    fn histogram(&mut self, name: &'static str, labels: &[Label<'_>], reading: &Reading);

    /// A family of one sample without labels.
    fn single(&mut self, name: &'static str, kind: Kind, help: &'static str, value: impl Into<Number>) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// How many.
    Whole(i64),
    /// How much.
    Real(f64),
}

/// The form of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    #[default]
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Grows and shrinks.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Format {
    /// What a scraper prefers by its `Accept`; without a word for OpenMetrics it gets the classic text.
    pub fn preferred(accept: &str) -> Self {
        let (mut classic, mut open) = (0.0, 0.0);
        for choice in accept.split(',') {
            let mut parts = choice.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut weight, mut is_known) = (1.0, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => is_known = matches!(value.trim(), "1.0.0" | "0.0.1" | "0.0.4"),
                    _ => {}
                }
            }
            let best = match kind {
                "application/openmetrics-text" if is_known => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut classic,
                _ => continue,
            };
            *best = f64::max(*best, weight);
        }
        if open > 0.0 && open >= classic { Self::OpenMetrics } else { Self::Classic }
    }

    /// The content type of a text of this form.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A text being written, family by family.
#[derive(Debug, Default)]
pub(super) struct Text {
    format: Format,
    out: String,
}

impl Text {
    /// An empty text.
    pub(super) fn new(format: Format) -> Self {
        Self { format, out: String::new() }
    }

    /// The text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn exemplar(&mut self, exemplar: &Exemplar) {
        let trace_id = u128::from_be_bytes(exemplar.trace_id);
        let Exemplar { value, at, .. } = exemplar;
        let _infallible = write!(self.out, " # {{trace_id=\"{trace_id:032x}\"}} {value} {at:.3}");
    }

    fn series(&mut self, name: &str, suffix: &str, labels: &[Label<'_>], bound: Option<&str>) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (label, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.out.push(before);
            before = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if before == ',' {
            self.out.push('}');
        }
    }
}

impl Audience for Text {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let name = match self.format {
            Format::OpenMetrics if kind == Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            Format::OpenMetrics | Format::Classic => name,
        };
        // Writing to a string cannot fail.
        let _infallible = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind_name}\n");
    }

    fn sample(&mut self, name: &'static str, labels: &[Label<'_>], value: impl Into<Number>) {
        self.series(name, "", labels, None);
        let _infallible = match value.into() {
            Number::Whole(value) => writeln!(self.out, " {value}"),
            Number::Real(value) => writeln!(self.out, " {value}"),
        };
    }

    fn histogram(&mut self, name: &'static str, labels: &[Label<'_>], reading: &Reading) {
        for bucket in &reading.buckets {
            let bound = match self.format {
                _ if bucket.bound.is_infinite() => "+Inf".to_owned(),
                Format::Classic => bucket.bound.to_string(),
                // OpenMetrics writes numbers that stand in labels with a point.
                Format::OpenMetrics => format!("{:?}", bucket.bound),
            };
            self.series(name, "_bucket", labels, Some(&bound));
            let _infallible = write!(self.out, " {}", bucket.count);
            if let Some(exemplar) = bucket.exemplar.filter(|_| self.format == Format::OpenMetrics) {
                self.exemplar(&exemplar);
            }
            self.out.push('\n');
        }
        self.series(name, "_sum", labels, None);
        let _infallible = writeln!(self.out, " {}", reading.sum);
        self.series(name, "_count", labels, None);
        let _infallible = writeln!(self.out, " {}", reading.count);
    }
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Whole(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Number {
    fn from(level: i64) -> Self {
        Self::Whole(level)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

#[cfg(test)]
mod tests;
