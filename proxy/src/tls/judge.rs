//! Where rustls asks whether a peer is who it must be: what is the same for all whom that is asked of.
//!
//! A [`Judge`] looks at what a peer shows and at the time, and nothing else. Around it a [`Verifier`] checks that the peer
//! holds the key of what it shows, which is the same for clients and servers, workloads and others. Which versions of TLS
//! are spoken is said where the configuration is made.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// What a peer shows of itself.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    /// The certificate whose key it has.
    pub(crate) leaf: &'a CertificateDer<'a>,
    /// Those between it and a root.
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    /// What a server says of its revocation; empty where nothing is said.
    pub(crate) ocsp: &'a [u8],
}

/// Says whether a client may be one.
pub(crate) trait JudgeClients: fmt::Debug + Send + Sync {
    /// An error says why not.
    fn judge(&self, shown: &Shown<'_>, now: UnixTime) -> Result<(), Error>;
}

/// Says whether a server is the one that was meant.
pub(crate) trait JudgeServers: fmt::Debug + Send + Sync {
    /// `name` is what was asked for. An error says why it is not.
    fn judge(&self, shown: &Shown<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error>;
}

/// Verifies peers as a judge says.
#[derive(Debug)]
pub(crate) struct Verifier<J> {
    judge: J,
    provider: Arc<CryptoProvider>,
}

impl<J> Verifier<J> {
    /// Asks `judge`, and checks signatures by what `provider` knows.
    pub(crate) fn new(judge: J, provider: &Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { judge, provider: Arc::clone(provider) })
    }

    fn in_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn in_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl<J: JudgeClients> ClientCertVerifier for Verifier<J> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate; hints would only make the handshake longer.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.judge(&Shown { leaf, intermediates, ocsp: &[] }, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl<J: JudgeServers> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge.judge(&Shown { leaf, intermediates, ocsp }, name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
