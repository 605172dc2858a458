//! What is told of the own identity: to probes, and to people on `/certs`. Never a key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::trust;
use crate::{
    rt::clock::Rfc3339,
    tls::credentials::{Credentials, Wallet},
};

/// Where the identity comes from, and how its renewal goes.
#[derive(Debug)]
pub struct Status {
    wallet: Arc<Wallet>,
    source: &'static str,
    renewal: ArcSwap<Renewal>,
}

/// How the renewal goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Renewal {
    /// When it is due; unknown where certificates come from files.
    pub due: Option<SystemTime>,
    /// How often in a row it has failed.
    pub failures: u32,
    /// Why, the last time.
    pub error: Option<String>,
}

impl Status {
    /// Of the identity that `source` puts into `wallet`.
    pub(super) fn new(wallet: Arc<Wallet>, source: &'static str) -> Self {
        Self { wallet, source, renewal: ArcSwap::default() }
    }

    /// Of a proxy that will never have an identity.
    pub fn none() -> Self {
        Self::new(Arc::new(Wallet::none()), "none")
    }

    /// Notes how the renewal goes.
    pub(super) fn note(&self, renewal: Renewal) {
        self.renewal.store(Arc::new(renewal));
    }

    /// Whether there is a certificate, where one is wanted; else why not. One that has expired is one: to be taken out
    /// of service would help nobody.
    pub fn ready(&self) -> Result<(), String> {
        if !self.wallet.is_configured() || self.wallet.load().is_some() {
            return Ok(());
        }
        let error = self.renewal.load().error.clone();
        Err(match error {
            Some(error) => format!("no certificate has been issued yet: {error}"),
            None => "no certificate has been issued yet".to_owned(),
        })
    }

    /// Everything, as JSON for people.
    pub fn describe(&self, now: SystemTime) -> Value {
        let renewal = self.renewal.load();
        let current = self.wallet.load();
        json!({
            "source": self.source,
            "certificate": current.as_deref().map(|credentials| certificate(credentials, now)),
            "chain": current.iter().flat_map(|it| it.chain()).map(|it| issuer(it, now)).collect::<Value>(),
            "roots": current.iter().flat_map(|it| it.roots()).map(|it| issuer(it, now)).collect::<Value>(),
            "renewal": {
                "due": renewal.due.map(|due| Rfc3339(due).to_string()),
                "failures": renewal.failures,
                "error": renewal.error,
            },
        })
    }
}

fn certificate(credentials: &Credentials, now: SystemTime) -> Value {
    json!({
        "identity": credentials.identity().uri(),
        "serial": credentials.serial(),
        "notBefore": Rfc3339(credentials.not_before()).to_string(),
        "notAfter": Rfc3339(credentials.not_after()).to_string(),
        "daysLeft": days_left(credentials.not_after(), now),
        "expired": credentials.not_after() <= now,
    })
}

fn issuer(der: &CertificateDer<'_>, now: SystemTime) -> Value {
    let mut told = json!({"sha256": trust::fingerprint(der)});
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        told["subject"] = parsed.subject().to_string().into();
        told["notAfter"] = Rfc3339(not_after).to_string().into();
        told["daysLeft"] = days_left(not_after, now).into();
    }
    told
}

/// To one decimal place; nothing once it is over.
fn days_left(not_after: SystemTime, now: SystemTime) -> f64 {
    let left = not_after.duration_since(now).unwrap_or_default();
    (left.as_secs_f64() / 8640.0).round() / 10.0
}
