//! Keys of issuers: JSON Web Key Sets (RFC 7517), at hand or fetched.
//!
//! A set is read leniently: a key that is of no use here is passed over, the others count. [`KeySource`] is what requests
//! see of a set that is fetched by somebody else: the last good one, and a way to ask for a newer one and wait for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

/// Most keys of a set: as many signatures one token can make us verify.
const MAX_KEYS: usize = 100;

/// The least time between two attempts to fetch a set.
pub const AGAIN: Duration = Duration::from_secs(10);

/// The keys of an issuer.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Where the keys of an issuer come from.
#[derive(Debug)]
pub struct KeySource {
    uri: Option<String>,
    timeout: Duration,
    keys: ArcSwapOption<Keys>,
    fetching: Mutex<Fetching>,
    wanted: Arc<Notify>,
    /// How many attempts to fetch have ended.
    attempts: watch::Sender<u64>,
}

/// How far the keys have come.
#[derive(Debug, Clone, Copy)]
enum Fetching {
    /// Nobody has tried yet.
    NotYet,
    /// Somebody tries.
    UnderWay,
    /// The last attempt has ended at this time.
    Ended(Instant),
}

/// Why a key set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It is no JSON of that form.
    #[error("it is not a JSON Web Key Set")]
    Malformed(#[source] serde_json::Error),
    /// All keys are of other kinds, or there are none.
    #[error("it has no key of type RSA, EC (P-256, P-384) or OKP (Ed25519)")]
    Useless,
}

impl Keys {
    /// Reads a set.
    pub fn parse(json: &str) -> Result<Self, KeysError> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(json).map_err(KeysError::Malformed)?;
        let keys = set.keys.into_iter().filter_map(|key| Key::new(&serde_json::from_value(key).ok()?));
        let keys: Vec<_> = keys.take(MAX_KEYS).collect();
        if keys.is_empty() { Err(KeysError::Useless) } else { Ok(Self(keys)) }
    }

    /// The keys a token may be signed with: those of its key id, and those that have none.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let fits = move |key: &&Key| {
            let is_named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            is_named && key.algorithms.contains(&algorithm)
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let common = &jwk.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
                && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let by_type = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => vec![ES256],
                EllipticCurve::P384 => vec![ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![EdDSA],
            _ => return None,
        };
        let algorithms: Vec<_> = match common.key_algorithm {
            None => by_type,
            Some(only) => by_type.into_iter().filter(|algorithm| is(*algorithm, only)).collect(),
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (is_for_signatures && !algorithms.is_empty()).then(|| Self {
            id: common.key_id.clone(),
            algorithms,
            key,
        })
    }
}

fn is(algorithm: Algorithm, named: KeyAlgorithm) -> bool {
    format!("{algorithm:?}") == format!("{named:?}")
}

impl KeySource {
    /// A set at hand. One that cannot be read is none, so that the tokens of the issuer are refused.
    pub fn inline(json: &str, issuer: &str) -> Self {
        let source = Self::new(None, Duration::ZERO);
        match Keys::parse(json) {
            Ok(keys) => source.keys.store(Some(Arc::new(keys))),
            Err(error) => tracing::warn!(issuer, %error, "the keys of an issuer cannot be read"),
        }
        source
    }

    /// A set at a URI, still to be fetched.
    pub fn remote(uri: &str, timeout: Duration) -> Self {
        Self::new(Some(uri.to_owned()), timeout)
    }

    fn new(uri: Option<String>, timeout: Duration) -> Self {
        Self {
            uri,
            timeout,
            keys: ArcSwapOption::empty(),
            fetching: Mutex::new(Fetching::NotYet),
            wanted: Arc::default(),
            attempts: watch::Sender::new(0),
        }
    }

    /// Where it is fetched; `None` for a set at hand.
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// How long fetching may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The last good set.
    pub fn current(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// Asks for a newer set than the one `seen` and waits for it, unless the last attempt was only just. False when
    /// there is none.
    pub async fn newer_than(&self, seen: Option<&Arc<Keys>>, now: Instant) -> bool {
        let mut attempts = self.attempts.subscribe();
        let is_newer = || self.keys.load().as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr);
        if self.uri.is_none() || is_newer() {
            return is_newer();
        }
        match *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) {
            Fetching::Ended(at) if now.saturating_duration_since(at) < AGAIN => return false,
            Fetching::Ended(_) => self.wanted.notify_one(),
            Fetching::NotYet | Fetching::UnderWay => {}
        }
        // Whether an attempt has ended or time is out: what counts is what there is now.
        let _ended = timeout(self.timeout, attempts.changed()).await;
        is_newer()
    }

    /// What is notified when a newer set is asked for, or when nobody needs one any more.
    pub fn wanted(&self) -> &Arc<Notify> {
        &self.wanted
    }

    /// Notes that an attempt to fetch begins.
    pub fn begin(&self) {
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = Fetching::UnderWay;
    }

    /// Notes how an attempt has ended, and wakes who waits for it. Without new keys the old ones stay.
    pub fn end(&self, keys: Option<Keys>, now: Instant) {
        if let Some(keys) = keys {
            self.keys.store(Some(Arc::new(keys)));
        }
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = Fetching::Ended(now);
        self.attempts.send_modify(|attempts| *attempts += 1);
    }
}

impl Drop for KeySource {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}
