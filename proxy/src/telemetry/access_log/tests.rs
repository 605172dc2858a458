use std::time::UNIX_EPOCH;

use http::HeaderValue;
use pillion_policy::telemetry::Comparison;

use super::*;
use crate::{
    error::{Flag, ProxyError},
    telemetry::{record::Verdict, requests::Outcome, trace::SpanContext},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn record() -> Record {
    let mut record = Record {
        start: UNIX_EPOCH + Duration::from_millis(1_795_219_200_000),
        uri: "/a?b=c".parse().unwrap(),
        host: Some(HeaderValue::from_static("shop \"a\"")),
        request_id: Some(HeaderValue::from_bytes(b"a\xffb").unwrap()),
        downstream_peer: Some("10.0.0.2:4711".parse().unwrap()),
        cluster: Some("shop:80".into()),
        cause: Some("cannot connect".into()),
        ..Record::default()
    };
    record.attempt("10.0.0.1:80".parse().unwrap(), Duration::ZERO);
    record.last_attempt().unwrap().waits.connecting = Some(Duration::from_millis(3));
    record.finish(&Outcome {
        status: 503,
        flag: Flag::Uf,
        grpc: false,
        grpc_status: None,
        secured: false,
        duration: Duration::from_micros(12_345),
        request_bytes: 1,
        response_bytes: 2,
    });
    record
}

fn settings(target: Option<AccessLogTarget>) -> Settings {
    Settings { target, format: AccessLogFormat::Text, filter: None }
}

/// A log that is written to this.
fn written_to(sink: impl io::Write + Send + 'static, metrics: Arc<Metrics>) -> AccessLog {
    let shared = Shared::new(settings(Some(AccessLogTarget::Stdout)), metrics);
    shared.start(Box::new(sink)).unwrap();
    let log = AccessLog(Some(Arc::new(shared)));
    log.apply(None);
    log
}

fn line(format: &AccessLogFormat, record: &Record) -> String {
    let mut lines = Vec::new();
    format::write(format, record, &mut lines);
    String::from_utf8(lines).unwrap()
}

#[test]
fn text_lines() {
    assert_eq!(
        line(&AccessLogFormat::Text, &record()),
        "[2026-11-21T00:00:00.000Z] \"GET /a?b=c HTTP/1.1\" 503 UF 1 2 12.345 direction=outbound \
         authority=\"shop \\\"a\\\"\" cluster=shop:80 attempts=1 upstream=10.0.0.1:80 peer=10.0.0.2:4711 id=\"a\u{fffd}b\" connect_ms=3 \
         cause=\"cannot connect\"\n"
    );
}

#[test]
fn json_lines() {
    let line: serde_json::Value = serde_json::from_str(&line(&AccessLogFormat::Json, &record())).unwrap();
    assert_eq!(
        line,
        serde_json::json!({
            "start_time": "2026-11-21T00:00:00.000Z", "duration_ms": 12.345, "direction": "outbound",
            "method": "GET", "authority": "shop \"a\"", "path": "/a?b=c", "protocol": "HTTP/1.1", "status": 503,
            "flags": "UF", "cause": "cannot connect", "route": null, "cluster": "shop:80",
            "attempts": 1, "upstream": "10.0.0.1:80", "peer": "10.0.0.2:4711", "request_id": "a\u{fffd}b",
            "request_bytes": 1, "response_bytes": 2, "connect_ms": 3.0,
        })
    );
}

#[test]
fn a_client_cannot_forge_a_line() {
    let record = Record { cause: Some("one\ntwo\" three".into()), ..record() };
    for format in [AccessLogFormat::Text, AccessLogFormat::Json] {
        assert_eq!(line(&format, &record).lines().count(), 1);
    }
}

#[test]
fn a_file_is_appended_to_and_closing_writes_all() {
    let dir = std::env::temp_dir().join(format!("pillion-access-log-{}", std::process::id()));
    let target = AccessLogTarget::File(dir.clone());
    for round in 1..=2 {
        let log = AccessLog::new(settings(Some(target.clone())), Metrics::new()).unwrap();
        assert!(log.wants(&record()));
        let pen = log.pen();
        for _ in 0..1000 {
            pen.write(&record());
        }
        // What a worker wrote before it left is written as well.
        drop(pen);
        log.close(PATIENCE);
        assert_eq!(std::fs::read_to_string(&dir).unwrap().lines().count(), round * 1000);
    }
    std::fs::remove_file(dir).unwrap();
}

#[test]
fn records_are_written_without_being_asked_for() {
    struct Sink(mpsc::Sender<usize>);
    impl io::Write for Sink {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0.send(lines.iter().filter(|byte| **byte == b'\n').count()).unwrap();
            Ok(lines.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (send, written) = mpsc::channel();
    let log = written_to(Sink(send), Metrics::new());
    let pen = log.pen();
    for _ in 0..3 {
        // Each round finds the writer asleep, or about to be.
        pen.write(&record());
        pen.write(&record());
        let mut n = 0;
        while n < 2 {
            n += written.recv_timeout(PATIENCE).unwrap();
        }
    }
    log.close(PATIENCE);
}

#[test]
fn a_full_disk_costs_lines_only() {
    let metrics = Metrics::new();
    let full = AccessLogTarget::File("/dev/full".into());
    let log = AccessLog::new(settings(Some(full)), Arc::clone(&metrics)).unwrap();
    let pen = log.pen();
    for _ in 0..10 {
        pen.write(&record());
    }
    log.close(PATIENCE);
    assert_eq!(metrics.proxy.access_log_dropped.get(), 10);
}

#[test]
fn a_full_queue_drops_and_a_stuck_writer_does_not_hold_the_exit() {
    struct Stuck(mpsc::Receiver<()>);
    impl io::Write for Stuck {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let _released = self.0.recv();
            Ok(lines.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let metrics = Metrics::new();
    let (release, stuck) = mpsc::channel();
    let log = written_to(Stuck(stuck), Arc::clone(&metrics));
    let (pen, length) = (log.pen(), line(&AccessLogFormat::Text, &record()).len());
    for _ in 0..pen::ROOM / length + 10 {
        pen.write(&record());
    }
    assert_eq!(metrics.proxy.access_log_dropped.get(), 10);
    // Another worker has room of its own.
    log.pen().write(&record());
    assert_eq!(metrics.proxy.access_log_dropped.get(), 10);
    log.close(Duration::from_millis(10));
    drop(release);
}

#[test]
fn a_disabled_log_wants_nothing() {
    let log = AccessLog::disabled();
    assert!(!log.wants(&record()));
    log.pen().write(&record());
}

#[test]
fn every_try_of_several_is_told() {
    let mut record = record();
    record.attempts[0].took = Duration::from_millis(7);
    record.attempts[0].error = Some(ProxyError::UpstreamClosed { endpoint: "10.0.0.1:80".parse().unwrap() });
    record.attempts[0].verdict = Verdict::Retried;
    record.attempts[0].backoff = Duration::from_millis(25);
    record.attempt("10.0.0.2:80".parse().unwrap(), Duration::from_millis(32));
    let last = record.last_attempt().unwrap();
    (last.status, last.took, last.verdict) = (200, Duration::from_micros(2500), Verdict::Final);
    let text = line(&AccessLogFormat::Text, &record);
    assert!(text.contains(" attempts=2 tries=10.0.0.1:80=UC/7ms,10.0.0.2:80=200/2.5ms "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&line(&AccessLogFormat::Json, &record)).unwrap();
    assert_eq!(
        json["tries"],
        serde_json::json!([
            {"upstream": "10.0.0.1:80", "flags": "UC", "duration_ms": 7.0, "verdict": "retried", "backoff_ms": 25.0},
            {"upstream": "10.0.0.2:80", "status": 200, "duration_ms": 2.5, "verdict": "final"},
        ])
    );
}

#[test]
fn a_template_is_filled() {
    let mut record = record();
    record.trace = Some(SpanContext { trace_id: [7; 16], span_id: [1; 8], parent: None, sampled: true });
    let noted = HeaderValue::from_static("curl\"8");
    record.request_headers.push((http::header::USER_AGENT, noted));
    let template = "[%START_TIME%] %REQ(:METHOD)% %REQ(X-NONE?:PATH):3% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                    %RESPONSE_CODE_DETAILS% %DURATION% %BYTES_RECEIVED%/%BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% \
                    %ROUTE_NAME% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %GRPC_STATUS% %TRACE_ID% \
                    %REQ(User-Agent)% %RESP(Server)% %CONNECT_DURATION% %ATTEMPTS% 100%%";
    let format: AccessLogFormat = template.parse().unwrap();
    assert_eq!(
        line(&format, &record),
        "[2026-11-21T00:00:00.000Z] GET /a? HTTP/1.1 503 UF cannot connect 12 1/2 10.0.0.1:80 shop:80 - 10.0.0.2 - \
         07070707070707070707070707070707 curl\\\"8 - 3 10.0.0.1:80=0/12.345ms 100%\n"
    );
}

#[test]
fn what_a_template_needs_is_noted() {
    let format = "%REQ(User-Agent)% %RESP(Server)%".parse().unwrap();
    let log = AccessLog::new(Settings { target: None, format, filter: None }, Metrics::new()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("curl"));
    headers.insert(http::header::SERVER, HeaderValue::from_static("app"));
    let mut record = record();
    log.note_request(&headers, &mut record);
    log.note_response(&headers, &mut record);
    let named =
        |noted: &[(HeaderName, HeaderValue)]| noted.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(named(&record.request_headers), [http::header::USER_AGENT]);
    assert_eq!(named(&record.response_headers), [http::header::SERVER]);
}

#[test]
fn policy_wins_over_the_command_line_at_run_time() {
    let path = std::env::temp_dir().join(format!("pillion-access-log-policy-{}", std::process::id()));
    let target = Some(AccessLogTarget::File(path.clone()));
    let only_posts = Some(LogFilter::Method("POST".to_owned()));
    let settings = Settings { target, format: AccessLogFormat::Text, filter: only_posts };
    let log = AccessLog::new(settings, Metrics::new()).unwrap();
    assert!(!log.wants(&record()), "the command line wants POST alone");
    log.apply(Some(&AccessLogging { sinks: vec![LogSink::Text], filter: None }));
    assert!(log.wants(&record()));
    let server_errors = Some(LogFilter::Status(Comparison::Less, 500));
    log.apply(Some(&AccessLogging { sinks: vec![LogSink::Json], filter: server_errors }));
    assert!(!log.wants(&record()));
    log.apply(Some(&AccessLogging { sinks: Vec::new(), filter: None }));
    assert!(!log.wants(&record()), "nowhere to go");
    log.apply(None);
    assert!(!log.wants(&record()));
    // What is configured is text: it is not written twice.
    let sinks = vec![LogSink::Configured, LogSink::Json, LogSink::Text];
    log.apply(Some(&AccessLogging { sinks, filter: None }));
    log.pen().write(&record());
    log.close(PATIENCE);
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(written.lines().filter(|line| line.starts_with('{')).count(), 1, "{written}");
    assert_eq!(written.lines().count(), 2, "{written}");
}

#[test]
fn lines_of_several_workers_stay_whole_and_a_busy_ring_is_emptied_in_time() {
    let path = std::env::temp_dir().join(format!("pillion-access-log-many-{}", std::process::id()));
    let metrics = Metrics::new();
    let target = Some(AccessLogTarget::File(path.clone()));
    let log = AccessLog::new(settings(target), Arc::clone(&metrics)).unwrap();
    let expected = line(&AccessLogFormat::Text, &record());
    // Several times what a ring has room for, in pieces that leave the writer time.
    let (rounds, lines) = (16, pen::ROOM / 4 / expected.len());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let pen = log.pen();
                for _ in 0..rounds {
                    for _ in 0..lines {
                        pen.write(&record());
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
        }
    });
    log.close(PATIENCE);
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(written.split_inclusive('\n').all(|line| line == expected));
    let dropped = usize::try_from(metrics.proxy.access_log_dropped.get()).unwrap();
    assert_eq!(written.lines().count() + dropped, 3 * rounds * lines);
    assert!(dropped < lines, "{dropped} lines were dropped although there was time");
}
