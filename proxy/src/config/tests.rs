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
    assert_eq!((config.access_log_filter, config.explain_slow), (None, Duration::from_secs(1)));
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
        "--access-log-filter=errors,slower-than=1s",
        "--explain-slow=250ms",
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
    assert!(matches!(&config.access_log_filter, Some(LogFilter::Any(any)) if any.len() == 2));
    assert_eq!(config.explain_slow, Duration::from_millis(250));
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
        (&["x", "--resources=a", "--control-plane=http://127.0.0.1:1"], "cannot be used with"),
        (&["x", "--control-plane=127.0.0.1:15010"], "write https://HOST:PORT"),
        (&["x", "--control-plane=ftp://a:1"], "write https://HOST:PORT"),
        (&["x", "--resources=a", "--outbound-adr=off"], "tip: a similar argument exists: '--outbound-addr'"),
        (&["x", "--resources=a", "--outbound-addr=15001"], "write IP:PORT, or off"),
        (&["x", "--resources=a", "--outbound-addr=off", "--inbound-addr=off"], "are both off"),
        (&["x", "--resources=a", "--workers=0"], "--workers"),
        (&["x", "--resources=a", "--max-headers=1"], "16..=4096"),
        (&["x", "--resources=a", "--hold-timeout=5"], "write 250ms, 5s, 1m30s or 2h"),
        (&["x", "--resources=a", "--access-log="], "or - for standard output"),
        (&["x", "--resources=a", "--access-log-format=xml"], "write text, json, or a template"),
        (&["x", "--resources=a", "--namespace=a/b"], "--namespace"),
    ] {
        let text = usage(flags);
        assert!(text.contains(says) && text.lines().count() == 1, "{flags:?}: {text}");
    }
}

#[test]
fn an_identity_comes_from_a_control_plane_or_from_files() {
    let of = |flags: &[&str]| Config::from_args([&["x"], flags].concat()).unwrap();
    let none = of(&["--control-plane=http://127.0.0.1:1"]);
    assert_eq!(none.identity_source(), IdentitySource::None);
    let config = of(&[
        "--control-plane=https://a:1",
        "--root-file=r",
        "--token-file=t",
        "--trust-domain=example.org",
        "--namespace=shop",
        "--service-account=web",
    ]);
    let (root_file, token_file) = ("r".into(), "t".into());
    assert_eq!(config.identity_source(), IdentitySource::Authority { root_file, token_file });
    assert_eq!(config.identity().uri(), "spiffe://example.org/ns/shop/sa/web");
    let files = ["--root-file=r", "--certificate-file=c", "--key-file=k"];
    for source in ["--resources=a", "--control-plane=http://[::1]:1", "--control-plane=https://a:1"] {
        let config = of(&[&files[..], &[source]].concat());
        let (root_file, certificate_file, key_file) = ("r".into(), "c".into(), "k".into());
        assert_eq!(
            config.identity_source(),
            IdentitySource::Files { root_file, certificate_file, key_file },
            "{source}"
        );
        assert_eq!(config.identity().uri(), "spiffe://cluster.local/ns/default/sa/default");
    }
}

#[test]
fn flags_of_identity_that_cannot_work_are_named() {
    let (plain, tls) = ("--control-plane=http://127.0.0.1:1", "--control-plane=https://a:1");
    for (flags, says) in [
        (&["--control-plane=http://10.0.0.1:1"][..], "--allow-plaintext-control-plane"),
        (&["--control-plane=http://control-plane:1"], "--allow-plaintext-control-plane"),
        (&["--control-plane=http://127.0.0.1.example.org:1"], "--allow-plaintext-control-plane"),
        (&[tls], "needs --root-file"),
        (&[tls, "--root-file=r"], "needs --token-file or --certificate-file"),
        (&[tls, "--token-file=t"], "needs --root-file"),
        (&[plain, "--token-file=t"], "--token-file is only shown"),
        (&["--resources=a", "--root-file=r", "--token-file=t"], "--token-file is only shown"),
        (&[plain, "--root-file=r"], "--root-file is of no use"),
        (&[plain, "--root-file=r", "--certificate-file=c"], "--certificate-file needs --key-file"),
        (&[plain, "--root-file=r", "--key-file=k"], "--key-file needs --certificate-file"),
        (&[plain, "--certificate-file=c", "--key-file=k"], "--certificate-file needs --root-file"),
        (&[tls, "--root-file=r", "--token-file=t", "--certificate-file=c", "--key-file=k"], "cannot both"),
        (&[plain, "--trust-domain=Cluster"], "--trust-domain"),
    ] {
        let text = usage(&[&["x"], flags].concat());
        assert!(text.contains(says) && text.lines().count() == 1, "{flags:?}: {text}");
    }
    for far in ["--control-plane=http://10.0.0.1:1", "--control-plane=http://control-plane:1"] {
        assert!(Config::from_args(["x", far, "--allow-plaintext-control-plane"]).is_ok(), "{far}");
    }
    for near in ["http://localhost:1", "http://a.localhost:1", "http://127.9.8.7:1", "http://[::1]:1"] {
        assert!(Config::from_args(["x", "--control-plane", near]).is_ok(), "{near}");
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
