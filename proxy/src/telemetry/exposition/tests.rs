use std::time::Duration;

use super::*;
use crate::telemetry::histogram::{BYTES, Histogram, MILLISECONDS};

#[test]
fn the_classic_text_is_as_the_format_says() {
    let mut text = Text::new(Format::Classic);
    text.family("a_total", Kind::Counter, "What it is.");
    text.sample("a_total", &[("x", "1"), ("y", "quote \" slash \\ line\n")], 7_u64);
    text.single("b", Kind::Gauge, "Another.", 0.5);
    assert_eq!(
        text.finish(),
        "# HELP a_total What it is.\n# TYPE a_total counter\n\
         a_total{x=\"1\",y=\"quote \\\" slash \\\\ line\\n\"} 7\n\
         # HELP b Another.\n# TYPE b gauge\nb 0.5\n"
    );
}

#[test]
fn open_metrics_names_families_without_total_and_ends() {
    let mut text = Text::new(Format::OpenMetrics);
    text.family("a_total", Kind::Counter, "What it is.");
    text.sample("a_total", &[], 7_u64);
    assert_eq!(text.finish(), "# HELP a What it is.\n# TYPE a counter\na_total 7\n# EOF\n");
}

#[test]
fn exemplars_are_told_in_open_metrics_alone() {
    let histogram = Histogram::new(&MILLISECONDS);
    histogram.record_traced(Duration::from_millis(3), Some([0x1f; 16]));
    let told = |format| {
        let mut text = Text::new(format);
        text.histogram("h", &[("a", "b")], &histogram.read());
        text.finish()
    };
    let classic = told(Format::Classic);
    assert!(classic.contains("h_bucket{a=\"b\",le=\"5\"} 1\n"), "{classic}");
    assert!(
        classic.contains("h_bucket{a=\"b\",le=\"+Inf\"} 1\nh_sum{a=\"b\"} 3\nh_count{a=\"b\"} 1\n"),
        "{classic}"
    );
    assert!(!classic.contains("trace_id"));
    let open = told(Format::OpenMetrics);
    let trace = "1f".repeat(16);
    let line = open.lines().find(|line| line.starts_with("h_bucket{a=\"b\",le=\"5.0\"}")).unwrap();
    assert!(
        line.starts_with(&format!("h_bucket{{a=\"b\",le=\"5.0\"}} 1 # {{trace_id=\"{trace}\"}} 3 1")),
        "{line}"
    );
    assert_eq!(open.matches("trace_id").count(), 1, "{open}");
}

#[test]
fn bounds_have_no_labels_but_their_own() {
    let mut text = Text::new(Format::Classic);
    text.histogram("h", &[], &Histogram::new(&BYTES).read());
    assert!(text.finish().starts_with("h_bucket{le=\"100\"} 0\n"));
}

#[test]
fn scrapers_get_what_they_prefer() {
    let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.8,\
                        application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2";
    for (accept, expected) in [
        ("", Format::Classic),
        ("*/*", Format::Classic),
        ("text/plain", Format::Classic),
        (prometheus_2, Format::OpenMetrics),
        (prometheus_3, Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text; version=1.0.0, text/plain; q=0.5", Format::OpenMetrics),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4", Format::Classic),
        ("application/openmetrics-text;q=0", Format::Classic),
        ("application/openmetrics-text;version=2.0.0", Format::Classic),
        ("application/openmetrics-text;q=nonsense", Format::Classic),
    ] {
        assert_eq!(Format::preferred(accept), expected, "{accept:?}");
    }
}
