use super::*;

#[test]
fn flags_have_the_documented_defaults() {
    let config = Config::try_parse_from(["x", "--source", "dir:/policy"]).unwrap();
    assert_eq!(config.source, Source::Directory("/policy".into()));
    assert_eq!(config.xds_addr, "127.0.0.1:15010".parse().unwrap());
    assert_eq!(config.admin_addr, "127.0.0.1:15014".parse().unwrap());
    assert_eq!(config.cluster_domain.as_str(), "cluster.local");
}

#[test]
fn a_wrong_source_says_what_is_right() {
    let error = Config::try_parse_from(["x", "--source", "/policy"]).unwrap_err().to_string();
    assert!(error.contains("write dir:PATH"), "{error}");
}
