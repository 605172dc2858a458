use std::{fs, time::UNIX_EPOCH};

use pillion_policy::{
    mesh::{OutboundMode, Trust},
    name::Hostname,
};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

use super::*;
use crate::{
    tls::testing::{Authority, workload},
    view::View,
};

const URI: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A certificate in PEM.
pub(in crate::control) fn pem(certificate: &CertificateDer<'_>) -> String {
    armor("CERTIFICATE", certificate)
}

/// A mesh that believes these roots, of which the one with this fingerprint signs.
pub(in crate::control) fn mesh(roots: &[&Authority], signer: &str) -> MeshConfig {
    let roots = roots.iter().map(|root| pem(&root.certificate)).collect();
    MeshConfig {
        cluster_domain: "cluster.local".parse::<Hostname>().unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        trust_domain_aliases: Vec::new(),
        trust: Some(Trust { roots, signer: signer.to_owned() }),
        outbound: OutboundMode::AllowAny,
        collector: None,
    }
}

/// What a keeper works with, for a test to look at.
pub(super) fn parts() -> (Parts, Arc<Wallet>, Arc<Views>, Arc<Metrics>) {
    let wallet = Arc::new(Wallet::awaiting());
    let views = Arc::new(Views::new(tokio::time::Instant::now()));
    let metrics = Metrics::new();
    let parts =
        Parts { wallet: Arc::clone(&wallet), views: Arc::clone(&views), metrics: Arc::clone(&metrics) };
    (parts, wallet, views, metrics)
}

fn armor(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let base64: String = der
        .chunks(3)
        .flat_map(|chunk| {
            let [a, b, c] = [0, 1, 2].map(|at| u32::from(*chunk.get(at).unwrap_or(&0)));
            let bits = a << 16 | b << 8 | c;
            (0..4).map(move |at| match at <= chunk.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]),
                false => '=',
            })
        })
        .collect();
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

fn leaf(of: &Authority) -> Leaf {
    let (certificate, key) = of.sign(&workload(URI));
    Leaf { chain: vec![certificate, of.certificate.clone()], key }
}

fn holder() -> (Holder, Arc<Wallet>, Arc<Views>, Arc<Status>) {
    let (parts, wallet, views, _metrics) = parts();
    let (holder, status) = Holder::new(parts, "authority");
    (holder, wallet, views, status)
}

#[test]
fn the_end_of_a_life_is_its_last_week_or_quarter() {
    let day = Duration::from_secs(86_400);
    let start = UNIX_EPOCH + 20_000 * day;
    for (life, passed, stage) in [
        (day, Duration::ZERO, Stage::Good),
        (day, day * 7 / 10, Stage::Good),
        (day, day * 8 / 10, Stage::Ending),
        (day, day, Stage::Over),
        (day, 2 * day, Stage::Over),
        (365 * day, 357 * day, Stage::Good),
        (365 * day, 359 * day, Stage::Ending),
        (365 * day, 366 * day, Stage::Over),
    ] {
        assert_eq!(Stage::of(start, start + life, start + passed), stage, "{passed:?} of {life:?}");
    }
}

#[test]
fn the_roots_of_the_mesh_change_without_a_new_certificate() {
    let (mut holder, wallet, views, _status) = holder();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    holder.hold(leaf(&old), Vec::new()).unwrap();
    let first = wallet.load().unwrap();
    assert_eq!(first.roots(), std::slice::from_ref(&old.certificate));
    assert!(!holder.follow_mesh(), "nothing is known of the mesh");
    views.publish(View::new(1, Some(Arc::new(mesh(&[&new, &old], ""))), None));
    assert!(holder.follow_mesh());
    let second = wallet.load().unwrap();
    assert_eq!(second.roots(), [new.certificate.clone(), old.certificate.clone()]);
    assert_eq!((second.serial(), second.chain()), (first.serial(), first.chain()));
    views.publish(View::new(2, Some(Arc::new(mesh(&[&new, &old], ""))), None));
    assert!(!holder.follow_mesh(), "an equal mesh is no change");
    assert!(Arc::ptr_eq(&second, &wallet.load().unwrap()));
    views.publish(View::new(3, Some(Arc::new(mesh(&[&new], ""))), None));
    assert!(holder.follow_mesh());
    let third = wallet.load().unwrap();
    assert_eq!(third.roots().len(), 2, "the root of the own certificate stays as long as that");
}

#[test]
fn the_signer_is_one_of_the_roots() {
    let (mut holder, _wallet, views, _status) = holder();
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    assert_eq!(holder.signer(), None);
    let signer = trust::fingerprint(&other.certificate);
    views.publish(View::new(1, Some(Arc::new(mesh(&[&one, &other], &signer))), None));
    holder.follow_mesh();
    assert_eq!(holder.signer(), Some((signer.clone(), other.certificate)));
    views.publish(View::new(2, Some(Arc::new(mesh(&[&one], &signer))), None));
    holder.follow_mesh();
    assert_eq!(holder.signer(), None, "whom nobody knows nobody is judged by");
}

#[test]
fn a_certificate_that_cannot_be_used_changes_nothing() {
    let (mut holder, wallet, _views, status) = holder();
    let authority = Authority::new("one");
    assert_eq!(status.ready().unwrap_err(), "no certificate has been issued yet");
    holder.renewed(Renewal { due: None, failures: 1, error: Some("the moon is full".to_owned()) });
    assert_eq!(status.ready().unwrap_err(), "no certificate has been issued yet: the moon is full");
    holder.hold(leaf(&authority), Vec::new()).unwrap();
    assert_eq!(status.ready(), Ok(()));
    let before = wallet.load().unwrap();
    let other = leaf(&authority);
    let mixed = Leaf { chain: other.chain, key: leaf(&authority).key };
    assert!(holder.hold(mixed, Vec::new()).is_err());
    assert!(Arc::ptr_eq(&before, &wallet.load().unwrap()));
}

#[test]
fn the_page_tells_all_but_the_key() {
    let (mut holder, wallet, _views, status) = holder();
    let authority = Authority::new("Test root");
    holder.hold(leaf(&authority), Vec::new()).unwrap();
    let credentials = wallet.load().unwrap();
    let day = Duration::from_secs(86_400);
    let page = status.describe(credentials.not_after() - 2 * day);
    assert_eq!(page["source"], "authority");
    assert_eq!(page["certificate"]["identity"], URI);
    assert_eq!(page["certificate"]["serial"], credentials.serial());
    assert_eq!(page["certificate"]["daysLeft"], 2.0);
    assert_eq!(page["certificate"]["expired"], false);
    assert_eq!(page["chain"][0]["sha256"], trust::fingerprint(&credentials.chain()[0]));
    assert_eq!(page["roots"][0]["subject"], "CN=Test root");
    assert_eq!(page["roots"][0]["sha256"], trust::fingerprint(&authority.certificate));
    assert_eq!(status.describe(credentials.not_after())["certificate"]["expired"], true);
    let Leaf { key, .. } = holder.leaf.take().unwrap();
    let secret: Vec<_> = armor("", key.secret_der()).lines().nth(1).unwrap()[40..60].bytes().collect();
    let told = format!("{page}{holder:?}{credentials:?}");
    assert!(!told.contains(std::str::from_utf8(&secret).unwrap()));
    assert_eq!(Status::none().describe(credentials.not_after())["certificate"], serde_json::Value::Null);
}

/// A directory with what an operator puts there.
struct Kept {
    directory: TempDir,
    authority: Authority,
}

impl Kept {
    fn new() -> Self {
        let kept = Self { directory: TempDir::new().unwrap(), authority: Authority::new("one") };
        fs::write(kept.path("root.pem"), pem(&kept.authority.certificate)).unwrap();
        kept.renew();
        kept
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Another certificate with its key.
    fn renew(&self) {
        let (certificate, key) = self.authority.sign(&workload(URI));
        fs::write(self.path("own.pem"), pem(&certificate)).unwrap();
        self.key(&key);
    }

    fn key(&self, key: &PrivateKeyDer<'_>) {
        fs::write(self.path("key.pem"), armor("PRIVATE KEY", key.secret_der())).unwrap();
    }

    fn files(&self) -> Files {
        Files {
            root_file: self.path("root.pem"),
            certificate_file: self.path("own.pem"),
            key_file: self.path("key.pem"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_taken_up_when_they_change_and_only_together() {
    let kept = Kept::new();
    let (parts, wallet, _views, metrics) = parts();
    let (keeper, status) = Keeper::files(kept.files(), parts).unwrap();
    let first = wallet.load().unwrap();
    assert_eq!((first.identity().uri(), first.roots()), (URI, &[kept.authority.certificate.clone()][..]));
    let watching = async {
        let mut news = wallet.subscribe();
        kept.renew();
        news.changed().await.unwrap();
        let second = wallet.load().unwrap();
        assert_ne!(second.serial(), first.serial());
        kept.key(&kept.authority.sign(&workload(URI)).1);
        while metrics.identity.failed.get() == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let told = status.describe(clock::now())["renewal"]["error"].to_string();
        assert!(told.contains("own.pem: the private key cannot be used"), "{told}");
        assert!(Arc::ptr_eq(&second, &wallet.load().unwrap()), "the old pair serves on");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(metrics.identity.failed.get(), 1, "what has not changed is not tried again");
        fs::remove_file(kept.path("own.pem")).unwrap();
        while metrics.identity.failed.get() == 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        kept.renew();
        news.changed().await.unwrap();
        assert_eq!(status.describe(clock::now())["renewal"]["error"], serde_json::Value::Null);
    };
    tokio::select! {
        never = keeper.run() => match never {},
        () = watching => {}
    }
}

#[test]
fn files_that_give_no_identity_are_named() {
    let refusal = |kept: &Kept| {
        let (parts, ..) = parts();
        Keeper::files(kept.files(), parts).unwrap_err().to_string()
    };
    for name in ["root.pem", "own.pem", "key.pem"] {
        let kept = Kept::new();
        fs::write(kept.path(name), "nonsense").unwrap();
        assert!(refusal(&kept).contains(name), "{}", refusal(&kept));
        fs::remove_file(kept.path(name)).unwrap();
        assert!(refusal(&kept).contains(name), "{}", refusal(&kept));
    }
    let kept = Kept::new();
    kept.key(&kept.authority.sign(&workload(URI)).1);
    assert!(refusal(&kept).contains("own.pem"), "{}", refusal(&kept));
}
