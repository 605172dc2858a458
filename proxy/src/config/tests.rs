use super::*;

const CONTROL_PLANE: [&str; 3] = ["pillion-proxy", "--control-plane", "http://127.0.0.1:15010"];

fn config(flags: &[&str]) -> Result<Config, ConfigError> {
    Config::from_args([&CONTROL_PLANE, flags].concat())
}

fn usage(flags: &[&str]) -> String {
    match Config::from_args(flags) {
        Err(ConfigError::Usage(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_have_the_documented_defaults() {
    let config = config(&[]).unwrap();
    assert_eq!(config.source(), Source::ControlPlane("http://127.0.0.1:15010".parse().unwrap()));
    assert_eq!(config.workload_name().to_string(), "default/unknown");
    assert_eq!(config.service_account.as_str(), "default");
    assert_eq!(config.outbound_addr, Listen(Some("127.0.0.1:15001".parse().unwrap())));
    assert_eq!(config.inbound_addr, Listen(Some("127.0.0.1:15006".parse().unwrap())));
    assert_eq!(config.admin_addr, "127.0.0.1:15000".parse().unwrap());
    assert_eq!((config.pod_ip, config.inbound_app), (None, None));
    assert!((1..=2).contains(&config.workers()));
    assert_eq!(config.max_connections.get(), 50_000);
    assert_eq!((config.max_header_bytes, config.max_headers), (65_536, 256));
    assert_eq!((config.access_log, config.access_log_format), (None, AccessLogFormat::Text));
    assert_eq!(config.snapshot_file, None);
    assert_eq!(config.hold_timeout, Duration::from_secs(5));
    assert_eq!(config.idle_unsubscribe, Duration::from_secs(600));
    assert_eq!(config.drain_timeout, Duration::from_secs(5));
    assert_eq!((&*config.log, config.seed), ("info", None));
}

#[test]
fn flags_are_read() {
    let config = config(&[
        "--namespace=shop",
        "--workload=web",
        "--pod-ip=127.0.1.1",
        "--outbound-addr=off",
        "--inbound-addr=[::1]:80",
        "--inbound-app=127.0.0.1:8080",
        "--workers=7",
        "--access-log=-",
        "--access-log-format=json",
        "--outbound-mode=registry-only",
        "--hold-timeout=1m30s",
        "--seed=7",
        "--max-connections=3",
        "--max-headers=100",
        "--max-header-bytes=16384",
    ])
    .unwrap();
    assert_eq!(config.workload_name().to_string(), "shop/web");
    assert_eq!(config.outbound_addr, Listen(None));
    assert_eq!(config.inbound_addr, Listen(Some("[::1]:80".parse().unwrap())));
    assert_eq!(config.workers(), 7);
    assert_eq!(config.access_log, Some(AccessLogTarget::Stdout));
    assert_eq!(config.access_log_format, AccessLogFormat::Json);
    assert_eq!(config.outbound_mode(), Some(OutboundMode::RegistryOnly));
    assert_eq!(config.hold_timeout, Duration::from_secs(90));
    assert_eq!(config.seed, Some(7));
    assert_eq!((config.max_connections.get(), config.max_headers, config.max_header_bytes), (3, 100, 16_384));
    let file = Config::from_args(["x", "--resources", "a.yaml", "--access-log=/tmp/x"]).unwrap();
    assert_eq!(file.source(), Source::Resources("a.yaml".into()));
    assert_eq!(file.access_log, Some(AccessLogTarget::File("/tmp/x".into())));
}

#[test]
fn mistakes_are_explained_on_one_line() {
    for (flags, says) in [
        (&["x"][..], "--control-plane <URL>|--resources <FILE>"),
        (&["x", "--resources=a", "--control-plane=http://a:1"], "cannot be used with"),
        (&["x", "--control-plane=127.0.0.1:15010"], "write http://HOST:PORT"),
        (&["x", "--control-plane=https://a:1"], "only plain text"),
        (&["x", "--resources=a", "--outbound-adr=off"], "tip: a similar argument exists: '--outbound-addr'"),
        (&["x", "--resources=a", "--outbound-addr=15001"], "write IP:PORT, or off"),
        (&["x", "--resources=a", "--outbound-addr=off", "--inbound-addr=off"], "are both off"),
        (&["x", "--resources=a", "--workers=0"], "--workers"),
        (&["x", "--resources=a", "--max-headers=1"], "16..=4096"),
        (&["x", "--resources=a", "--hold-timeout=5"], "write 250ms, 5s, 1m30s or 2h"),
        (&["x", "--resources=a", "--access-log="], "or - for standard output"),
        (&["x", "--resources=a", "--access-log-format=xml"], "possible values: text, json"),
        (&["x", "--resources=a", "--namespace=a/b"], "--namespace"),
    ] {
        let text = usage(flags);
        assert!(text.contains(says) && text.lines().count() == 1, "{flags:?}: {text}");
    }
}

#[test]
fn help_is_an_answer_and_names_the_variables() {
    let Err(ConfigError::Answer(help)) = Config::from_args(["x", "--help"]) else { panic!("no help") };
    assert!(help.contains("PILLION_CONTROL_PLANE"), "{help}");
}

#[test]
fn durations() {
    for (text, millis) in [("250ms", 250), ("5s", 5000), ("1m30s", 90_000), ("2h", 7_200_000)] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
    }
    for text in ["", "5", "s", "-5s", "5 s", "1.5s", "5d", "0s", "99999999999999999999s", "9999999h", "5s3"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn half_a_processor_is_a_worker() {
    assert_eq!(cpu_limit("150000 100000\n"), Some(2));
    assert_eq!(cpu_limit("50000 100000\n"), Some(1));
    assert_eq!(cpu_limit("max 100000\n"), None);
    assert_eq!(cpu_limit("1 0"), None);
    assert_eq!(cpu_limit(""), None);
}
