//! The texts scrapers read: OpenMetrics, as the library writes it, and Prometheus' own format made of that.
//!
//! The two differ in what families of counters are called, in types the older one does not have, and in exemplars and the end,
//! which are left out of it. Samples have the same names in both.

/// The form of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format, version 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// OpenMetrics for those who say that they take it.
    pub(crate) fn preferred(accept: &str) -> Self {
        let takes = accept.split(',').any(|kind| kind.trim().starts_with("application/openmetrics-text"));
        if takes { Self::OpenMetrics } else { Self::Classic }
    }

    /// The content type of a text of this form.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// An OpenMetrics text in Prometheus' format.
pub(super) fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|declared| declared.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            for part in ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"] {
                text.push_str(part);
            }
        } else if !line.starts_with('#') {
            let (sample, _exemplar) = line.split_once(" # {").unwrap_or((line, ""));
            text.push_str(sample);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_called_as_their_samples() {
        let open = "# HELP a What it is.\n# TYPE a counter\n# UNIT a apples\na_total{b=\"c\"} 1 # {trace_id=\"2\"} 3\n\
                    # HELP d Another.\n# TYPE d gauge\nd 4\n# HELP e More.\n# TYPE e info\ne_info{f=\"g\"} 1\n# EOF\n";
        assert_eq!(
            classic(open),
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total{b=\"c\"} 1\n\
             # HELP d Another.\n# TYPE d gauge\nd 4\n\
             # HELP e_info More.\n# TYPE e_info gauge\ne_info{f=\"g\"} 1\n"
        );
    }

    #[test]
    fn whoever_takes_open_metrics_gets_it() {
        for (accept, expected) in [
            ("", Format::Classic),
            ("text/plain;version=0.0.4", Format::Classic),
            ("text/html, application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
        ] {
            assert_eq!(Format::preferred(accept), expected);
        }
    }
}
