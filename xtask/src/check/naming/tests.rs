use super::*;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

const CONFIG: &str = r#"
struct Config {
    /// Where to listen.
    #[arg(long, env = "PILLION_ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub admin_addr: SocketAddr,
    #[arg(
        long = "log",
        env = "PILLION_LOG",
    )]
    // A comment.
    filter: String,
    #[arg(value_name = "long story")]
    pub(crate) file: String,
}
"#;

#[test]
fn flags_are_read_from_claps_derive() {
    assert_eq!(flags(CONFIG), ["--admin-addr", "--log"]);
}

#[test]
fn a_flag_that_nobody_names_is_reported() {
    let config = source("proxy/src/config.rs", CONFIG);
    let found = check(&[config.clone(), source("README.md", "start it with `--admin-addr`")]);
    assert_eq!(found, ["proxy/src/config.rs: no test or document names the flag `--log`"]);
    let both = source("tests/tests/flags.rs", "[\"--log\", \"--admin-addr\"]");
    assert_eq!(check(&[config, both]), Problems::new());
}

#[test]
fn a_longer_flag_does_not_name_a_shorter_one() {
    assert!(!names("use --log-level", "--log"));
    assert!(names("use --log=info or --log", "--log"));
}

#[test]
fn metrics_are_read_from_strings_only() {
    let code = "// \"pillion_comment\"\nregister(\"pillion_pool_open\", \"help of pillion_x\");\nfilter(\"pillion_proxy=info\");";
    assert_eq!(metrics(code).into_iter().collect::<Vec<_>>(), ["pillion_pool_open"]);
}

#[test]
fn a_metric_that_nobody_names_is_reported() {
    let code = source("proxy/src/telemetry/metrics.rs", "r(\"istio_requests\"); r(\"pillion_new_thing\");");
    let docs = source("proxy/ARCHITECTURE.md", "`istio_requests_total` counts requests");
    let found = check(&[code, docs]);
    assert_eq!(
        found,
        ["proxy/src/telemetry/metrics.rs: no test or document names the metric `pillion_new_thing`"]
    );
}
