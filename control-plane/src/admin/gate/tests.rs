use std::{fs, os::unix::fs::PermissionsExt};

use http::HeaderValue;

use super::*;

fn peer(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 40_000)
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

#[test]
fn without_a_state_directory_the_machine_itself_may_ask() {
    let gate = Gate::open(None).unwrap();
    for (ip, is_admitted) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("10.0.0.1", false),
    ] {
        assert_eq!(gate.admit(peer(ip), &HeaderMap::new()).is_ok(), is_admitted, "{ip}");
    }
    let refusal = gate.admit(peer("10.0.0.1"), &bearer("x")).unwrap_err();
    assert_eq!(refusal.status, StatusCode::FORBIDDEN);
}

#[test]
fn with_one_its_token_opens_the_gate_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::open(Some(dir.path())).unwrap();
    let file = dir.path().join("admin.token");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(gate.admit(peer("10.0.0.1"), &bearer(token.trim())), Ok(()));
    for headers in [HeaderMap::new(), bearer(""), bearer("x"), bearer(&token.trim()[1..])] {
        let refusal = gate.admit(peer("127.0.0.1"), &headers).unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        assert!(!refusal.reason.contains(token.trim()));
    }
    assert!(!format!("{gate:?}").contains(token.trim()));

    // It stays the same over restarts, and is another elsewhere.
    assert!(Gate::open(Some(dir.path())).unwrap().admit(peer("::1"), &bearer(token.trim())).is_ok());
    let other = tempfile::tempdir().unwrap();
    assert!(Gate::open(Some(other.path())).unwrap().admit(peer("::1"), &bearer(token.trim())).is_err());
}

#[test]
fn a_token_that_everybody_can_read_is_none() {
    let dir = tempfile::tempdir().unwrap();
    drop(Gate::open(Some(dir.path())).unwrap());
    let file = dir.path().join("admin.token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = format!("{:#}", Gate::open(Some(dir.path())).unwrap_err());
    assert!(error.contains("chmod 600"), "{error}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "\n").unwrap();
    assert!(Gate::open(Some(dir.path())).is_err());
}
