use super::*;

#[test]
fn h2load_summary_is_read() {
    let text = "progress: done\n\nfinished in 950.25ms, 37054.67 req/s, 8.80MB/s\nrequests: 10 total, 10 started, 10 done, 7 succeeded, 3 failed, 0 errored, 0 timeout\n";
    let outcome = parse_h2load(text).unwrap();
    assert_eq!((outcome.n_succeeded, outcome.n_failed), (7, 3));
    assert!((outcome.seconds - 0.950_25).abs() < 1e-9);
    assert!(parse_h2load("h2load: cannot connect").is_err());
}

#[test]
fn oha_report_is_read() {
    let text = r#"{"summary":{"total":2.5},"latencyPercentiles":{"p50":0.001,"p99":0.002,"p99.9":0.003},
        "statusCodeDistribution":{"200":8,"503":1},"errorDistribution":{"aborted":1}}"#;
    let outcome = parse_oha(text).unwrap();
    assert_eq!((outcome.n_succeeded, outcome.n_failed), (8, 2));
    let latency = outcome.latency.unwrap();
    assert!((latency.p999 - 3.0).abs() < 1e-9 && (latency.p50 - 1.0).abs() < 1e-9);
}
