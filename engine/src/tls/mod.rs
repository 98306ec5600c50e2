//! TLS on the shard: certificates, and a stream that begins in clear and may go on encrypted.
//!
//! The only place that names rustls. Handshakes run on the shard that took the connection; what
//! shards share are certificates (replaced as a whole on reload) and ticket keys (one set for each
//! listener, rotated by the library).
//!
//! Sessions are resumed, except where clients are asked for a certificate: a resumed session brings
//! the certificate that it began with, which may have expired or been replaced since.

mod certs;
mod clients;
mod dane;
mod out;
mod own;
mod stream;

pub use certs::{Certs, Pair, expires, self_signed};
pub use clients::{HINTS_BYTES_MAX, check_client_ca};
pub(crate) use dane::{Dane, usable};
pub use out::Roots;
pub(crate) use out::{Connector, Failed, Flaw, Proof};
pub(crate) use own::{OwnClient, OwnTls};
pub use stream::Stream;

use core::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{CipherSuite, ConfigBuilder, ServerConfig, WantsVerifier};

use clients::{Asking, Verifier};

/// The most bytes of a certificate's or key's file; arbitrary, far beyond a long chain.
pub const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why TLS cannot be offered: one line for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError(String);

impl TlsError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for TlsError {}

/// A configuration that lacks certificates yet.
type Builder = ConfigBuilder<ServerConfig, WantsVerifier>;

/// How handshakes are made at one listener.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// Where clients are asked for a certificate; then `config` is how it began.
    asking: Option<Arc<Asking>>,
}

impl Acceptor {
    /// An acceptor for the names that `certs` has certificates for: TLS 1.2 and 1.3, resumption by
    /// tickets with keys of its own.
    ///
    /// # Errors
    /// When the library cannot make its keys.
    pub fn new(certs: &Certs) -> Result<Self, TlsError> {
        let failed = |e: rustls::Error| TlsError::new(format!("cannot set up TLS: {e}"));
        let nobody = WebPkiClientVerifier::no_client_auth();
        let mut config = fitted(&builder().map_err(failed)?, &nobody, &certs.resolver());
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        // One ticket suffices for a mail client; each costs some 200 bytes and a seal.
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), asking: None })
    }

    /// One that asks clients for a certificate, too, when `certs` knows who makes them; then every
    /// session begins anew.
    ///
    /// # Errors
    /// As [`Acceptor::new`].
    pub fn asking(certs: &Certs) -> Result<Self, TlsError> {
        let Some(clients) = certs.clients() else { return Self::new(certs) };
        let failed = |e: rustls::Error| TlsError::new(format!("cannot set up TLS: {e}"));
        let builder = builder().map_err(failed)?;
        let asking = Asking::new(clients.clone(), builder, certs.resolver());
        Ok(Self { config: asking.now(), asking: Some(Arc::new(asking)) })
    }

    /// How rustls is told to make handshakes; what `bench` makes its own with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.asking.as_ref().map_or_else(|| Arc::clone(&self.config), |asking| asking.now())
    }
}

fn builder() -> Result<Builder, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions()
}

/// A configuration that resumes nothing.
fn fitted(
    builder: &Builder,
    verifier: &Verifier,
    resolver: &Arc<dyn ResolvesServerCert>,
) -> ServerConfig {
    let mut config = builder
        .clone()
        .with_client_cert_verifier(Arc::clone(verifier))
        .with_cert_resolver(Arc::clone(resolver));
    config.send_tls13_tickets = 0;
    // Tickets alone, if any: a cache of sessions would be state that shards share.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    // Ours is the same for everybody and is what scanners look for; any suite of it is good.
    config.ignore_client_order = true;
    config
}

/// ring's suites; the key exchanges of aws-lc-rs: it has the hybrid one, and the faster X25519.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    // A handshake hashes much, and processors have instructions for SHA-256.
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        _ => 1,
    });
    provider.kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    provider
}

#[cfg(test)]
mod tests;
