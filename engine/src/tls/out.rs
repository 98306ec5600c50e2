//! TLS to other servers, as far as it is to be had (RFC 7435): the one that answers is taken for
//! the right one, whatever its certificate says, for otherwise mail would go in clear.
//!
//! What this protects from is listening, not standing in the middle. Sessions are resumed, each
//! shard its own.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, SignatureScheme};

use super::{TlsError, provider};

/// Servers whose sessions a shard remembers; some kilobytes each.
const SESSIONS_MAX: usize = 256;

/// How handshakes with other servers are made.
#[derive(Clone, Debug)]
pub(crate) struct Connector(Arc<ClientConfig>);

impl Connector {
    /// One that remembers nothing yet.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let failed = |e: rustls::Error| TlsError::new(format!("cannot set up TLS: {e}"));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Self(Arc::new(config)))
    }

    /// A session with `host` that has not begun; none for what is no name.
    pub(super) fn session(&self, host: &str) -> Option<Connection> {
        let name = ServerName::try_from(host.to_owned()).ok()?;
        ClientConnection::new(Arc::clone(&self.0), name).ok().map(Connection::from)
    }
}

/// Takes every server for the right one that has the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
