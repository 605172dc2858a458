//! Who is believed outside of the mesh, by handshakes in memory.

use std::{fs, path::Path};

use rcgen::{CertificateParams, DnType, SanType};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::*;
use crate::tls::testing::{Authority, workload};

const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// The certificate of a web server.
fn web(name: &str) -> CertificateParams {
    let mut params = workload(SHOP);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
    params
}

fn server(
    authority: &Authority,
    name: &str,
    version: &'static SupportedProtocolVersion,
    clients: Arc<dyn ClientCertVerifier>,
) -> Arc<ServerConfig> {
    let (certificate, key) = authority.sign(&web(name));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Carries a handshake on until it is done or one side gives it up.
fn handshake(originator: &Originator, server: &Arc<ServerConfig>) -> Result<ClientConnection, Error> {
    let mut client =
        ClientConnection::new(originator.connector(Some(Alpn::Http2)), originator.name()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        let served = server.process_new_packets().map(drop);
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
        served?;
    }
    Ok(client)
}

fn write(path: &Path, tag: &str, der: &[u8]) -> String {
    let text = pem::encode(tag, der);
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// PEM, as files have it.
mod pem {
    pub(super) fn encode(tag: &str, der: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = format!("-----BEGIN {tag}-----\n");
        for piece in der.chunks(3) {
            let bits =
                piece.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
            for place in 0..4 {
                let index = (bits >> (18 - 6 * place) & 63) as usize;
                text.push(if place > piece.len() { '=' } else { char::from(ALPHABET[index]) });
            }
        }
        format!("{text}\n-----END {tag}-----\n")
    }
}

#[test]
fn a_server_is_believed_by_root_and_name() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let dir = tempfile::tempdir().unwrap();
    let roots = Some(write(&dir.path().join("roots"), "CERTIFICATE", &authority.certificate));
    let plain = Origination { roots: roots.clone(), ..Origination::default() };
    let originator = |policy: &Origination| Originator::new(policy, "bank.example").unwrap();
    for version in [&TLS13, &TLS12] {
        let good = server(&authority, "bank.example", version, Arc::new(NoClientAuth));
        let done = handshake(&originator(&plain), &good).unwrap();
        assert_eq!(done.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(done.protocol_version(), Some(version.version));
    }
    let good = server(&authority, "bank.example", &TLS13, Arc::new(NoClientAuth));
    let unknown = server(&other, "bank.example", &TLS13, Arc::new(NoClientAuth));
    let renamed = server(&authority, "fraud.example", &TLS13, Arc::new(NoClientAuth));
    for bad in [&unknown, &renamed] {
        assert!(matches!(handshake(&originator(&plain), bad), Err(Error::InvalidCertificate(_))));
        // The operating system does not know any of them.
        let system = Origination::default();
        assert!(handshake(&originator(&system), bad).is_err());
        let careless = Origination { insecure_skip_verify: true, ..Origination::default() };
        assert!(handshake(&originator(&careless), bad).is_ok());
    }
    let sni = Origination { sni: Some("fraud.example".parse().unwrap()), ..plain.clone() };
    assert!(handshake(&originator(&sni), &renamed).is_ok() && handshake(&originator(&sni), &good).is_err());
    let names = |names: &[&str]| {
        let subject_alt_names = names.iter().map(|name| (*name).to_owned()).collect();
        originator(&Origination { subject_alt_names, ..plain.clone() })
    };
    for (accepted, is) in [(&["fraud.example"][..], true), (&[SHOP], true), (&["x.example", SHOP], true)] {
        assert_eq!(handshake(&names(accepted), &renamed).is_ok(), is, "{accepted:?}");
    }
    assert!(handshake(&names(&["bank.example", "spiffe://x"]), &renamed).is_err());
    assert!(handshake(&names(&["other.example"]), &good).is_err(), "the name asked for is not enough");
    assert!(handshake(&names(&[SHOP]), &unknown).is_err(), "no name makes up for the root");
}

#[test]
fn a_client_shows_its_certificate_where_it_has_one() {
    let authority = Authority::new("root");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let roots = Some(write(&path("roots"), "CERTIFICATE", &authority.certificate));
    let (certificate, key) = authority.sign(&workload(SHOP));
    let files = CertificateFiles {
        chain: write(&path("chain"), "CERTIFICATE", &certificate),
        key: write(&path("key"), "PRIVATE KEY", key.secret_der()),
    };
    let mut store = RootCertStore::empty();
    store.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let server = server(&authority, "bank.example", &TLS12, clients);
    let simple = Origination { roots: roots.clone(), ..Origination::default() };
    let mutual = Origination { roots, client_certificate: Some(files.clone()), ..Origination::default() };
    let originator = |policy: &Origination| Originator::new(policy, "bank.example");
    assert!(handshake(&originator(&simple).unwrap(), &server).is_err());
    assert!(handshake(&originator(&mutual).unwrap(), &server).is_ok());

    let missing = Origination { roots: Some("/nowhere".to_owned()), ..Origination::default() };
    assert!(matches!(originator(&missing), Err(OriginationError::File { path, .. }) if path == "/nowhere"));
    let (_, other) = authority.sign(&workload(SHOP));
    write(&path("key"), "PRIVATE KEY", other.secret_der());
    assert!(matches!(originator(&mutual), Err(OriginationError::Tls(_))), "not the key of the certificate");
    fs::write(path("key"), "secret").unwrap();
    let error = originator(&mutual).unwrap_err().to_string();
    assert!(error.starts_with(&files.key) && !error.contains("secret"), "{error}");
    assert!(matches!(
        Originator::new(&Origination::default(), "not a name"),
        Err(OriginationError::Name(name)) if name == "not a name"
    ));
}

#[test]
fn other_files_are_taken_up_when_they_go_together() {
    let authority = Authority::new("root");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let roots = Some(write(&path("roots"), "CERTIFICATE", &authority.certificate));
    let files = CertificateFiles {
        chain: path("chain").to_str().unwrap().to_owned(),
        key: path("key").to_str().unwrap().to_owned(),
    };
    let mutual = Origination { roots, client_certificate: Some(files), ..Origination::default() };
    let (kept, error) = Kept::new(&mutual, "bank.example");
    assert!(matches!(error, Some(OriginationError::File { .. })) && kept.load().is_none());
    assert!(matches!(kept.look(), Ok(false)), "nothing has changed");

    let mut store = RootCertStore::empty();
    store.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let server = server(&authority, "bank.example", &TLS13, clients);
    // Beside and then renamed, as those who renew certificates do it.
    let put = |name: &str, tag: &str, der: &[u8]| {
        write(&path("beside"), tag, der);
        fs::rename(path("beside"), path(name)).unwrap();
    };
    let shown = || {
        let connector = kept.load().unwrap().connector(None);
        let hint = connector
            .client_auth_cert_resolver
            .resolve(&[], &[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]);
        handshake(&kept.load().unwrap(), &server).unwrap();
        hint.unwrap().cert[0].clone()
    };
    let (first, key) = authority.sign(&workload(SHOP));
    put("chain", "CERTIFICATE", &first);
    assert!(kept.look().is_err() && kept.load().is_none(), "there is no key yet");
    put("key", "PRIVATE KEY", key.secret_der());
    assert!(kept.look().unwrap());
    assert_eq!(shown(), first);

    let (second, key) = authority.sign(&workload(SHOP));
    put("chain", "CERTIFICATE", &second);
    assert!(matches!(kept.look(), Err(OriginationError::Tls(_))), "the key is still the old one");
    assert_eq!(shown(), first);
    put("key", "PRIVATE KEY", key.secret_der());
    assert!(kept.look().unwrap());
    assert_eq!(shown(), second);
    fs::remove_file(path("key")).unwrap();
    assert!(kept.look().is_err());
    assert_eq!(shown(), second, "what was good stays");
}
