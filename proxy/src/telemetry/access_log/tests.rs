use std::time::UNIX_EPOCH;

use http::HeaderValue;

use super::*;
use crate::{error::Flag, telemetry::requests::Outcome};

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

fn line(format: AccessLogFormat, record: &Record) -> String {
    let mut lines = Vec::new();
    format::write(format, record, &mut lines);
    String::from_utf8(lines).unwrap()
}

#[test]
fn text_lines() {
    assert_eq!(
        line(AccessLogFormat::Text, &record()),
        "[2026-11-21T00:00:00.000Z] \"GET /a?b=c HTTP/1.1\" 503 UF 1 2 12.345 direction=outbound \
         authority=\"shop \\\"a\\\"\" cluster=shop:80 upstream=10.0.0.1:80 peer=10.0.0.2:4711 id=\"a\u{fffd}b\" connect_ms=3 \
         cause=\"cannot connect\"\n"
    );
}

#[test]
fn json_lines() {
    let line: serde_json::Value = serde_json::from_str(&line(AccessLogFormat::Json, &record())).unwrap();
    assert_eq!(
        line,
        serde_json::json!({
            "start_time": "2026-11-21T00:00:00.000Z", "duration_ms": 12.345, "direction": "outbound",
            "method": "GET", "authority": "shop \"a\"", "path": "/a?b=c", "protocol": "HTTP/1.1", "status": 503,
            "flags": "UF", "cause": "cannot connect", "route": null, "cluster": "shop:80",
            "upstream": "10.0.0.1:80", "peer": "10.0.0.2:4711", "request_id": "a\u{fffd}b",
            "request_bytes": 1, "response_bytes": 2, "connect_ms": 3.0,
        })
    );
}

#[test]
fn a_client_cannot_forge_a_line() {
    let record = Record { cause: Some("one\ntwo\" three".into()), ..record() };
    for format in [AccessLogFormat::Text, AccessLogFormat::Json] {
        assert_eq!(line(format, &record).lines().count(), 1);
    }
}

#[test]
fn a_file_is_appended_to_and_closing_writes_all() {
    let dir = std::env::temp_dir().join(format!("pillion-access-log-{}", std::process::id()));
    let target = AccessLogTarget::File(dir.clone());
    for round in 1..=2 {
        let (log, closer) = AccessLog::open(&target, AccessLogFormat::Text, Metrics::new()).unwrap();
        assert!(log.wants(&record()));
        for _ in 0..1000 {
            log.push(Arc::new(record()));
        }
        closer.close(PATIENCE);
        assert_eq!(std::fs::read_to_string(&dir).unwrap().lines().count(), round * 1000);
    }
    std::fs::remove_file(dir).unwrap();
}

#[test]
fn records_are_written_without_being_asked_for() {
    struct Sink(mpsc::Sender<usize>);
    impl Write for Sink {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0.send(lines.iter().filter(|byte| **byte == b'\n').count()).unwrap();
            Ok(lines.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (send, written) = mpsc::channel();
    let (log, closer) =
        AccessLog::start(Box::new(Sink(send)), AccessLogFormat::Text, Metrics::new()).unwrap();
    for _ in 0..3 {
        // Each round finds the writer asleep, or about to be.
        log.push(Arc::new(record()));
        log.push(Arc::new(record()));
        let mut n = 0;
        while n < 2 {
            n += written.recv_timeout(PATIENCE).unwrap();
        }
    }
    closer.close(PATIENCE);
}

#[test]
fn a_full_disk_costs_lines_only() {
    let metrics = Metrics::new();
    let full = AccessLogTarget::File("/dev/full".into());
    let (log, closer) = AccessLog::open(&full, AccessLogFormat::Text, Arc::clone(&metrics)).unwrap();
    for _ in 0..10 {
        log.push(Arc::new(record()));
    }
    closer.close(PATIENCE);
    assert_eq!(metrics.proxy.access_log_dropped.get(), 10);
}

#[test]
fn a_full_queue_drops_and_a_stuck_writer_does_not_hold_the_exit() {
    struct Stuck(mpsc::Receiver<()>);
    impl Write for Stuck {
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
    let (log, closer) =
        AccessLog::start(Box::new(Stuck(stuck)), AccessLogFormat::Text, Arc::clone(&metrics)).unwrap();
    // The writer holds at most one full queue while it is stuck, and as much again is queued behind it.
    for _ in 0..2 * CAPACITY + 10 {
        log.push(Arc::new(record()));
    }
    assert!(metrics.proxy.access_log_dropped.get() >= 10);
    closer.close(Duration::from_millis(10));
    drop(release);
}

#[test]
fn a_disabled_log_wants_nothing() {
    let log = AccessLog::disabled();
    assert!(!log.wants(&record()));
    log.push(Arc::new(record()));
}
