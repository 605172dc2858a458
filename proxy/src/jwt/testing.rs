//! Issuers for tests.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};

/// A key of an issuer, by one algorithm.
pub(crate) struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    /// The public key, as an issuer publishes it.
    pub(crate) jwk: Value,
}

impl Signer {
    /// A new key.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let (key, jwk) = match algorithm {
            Algorithm::ES256 => ec(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), "P-256", 32),
            Algorithm::ES384 => ec(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), "P-384", 48),
            Algorithm::EdDSA => {
                let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                (
                    EncodingKey::from_ed_der(pair.serialized_der()),
                    json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
                )
            }
            rsa => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
                let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
                let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, rsa).unwrap()).unwrap();
                jwk.as_object_mut().unwrap().remove("alg");
                (key, jwk)
            }
        };
        Self { algorithm, key, jwk }
    }

    /// A key set of this key alone.
    pub(crate) fn set(&self) -> String {
        json!({"keys": [self.jwk]}).to_string()
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT"}), claims)
    }

    /// A token with this header.
    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn ec(pair: &KeyPair, curve: &str, size: usize) -> (EncodingKey, Value) {
    let (x, y) = pair.public_key_raw()[1..].split_at(size);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    (EncodingKey::from_ec_der(pair.serialized_der()), json!({"kty": "EC", "crv": curve, "x": x, "y": y}))
}

/// What is signed of a token.
pub(crate) fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}
