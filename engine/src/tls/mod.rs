//! TLS on the shard: certificates, and a stream that begins in clear and may go on encrypted.
//!
//! The only place that names rustls. Handshakes run on the shard that took the connection; what
//! shards share are certificates (replaced as a whole on reload) and ticket keys (one set for each
//! listener, rotated by the library).

mod certs;
mod stream;

pub use certs::{Certs, Pair, self_signed};
pub use stream::Stream;

use core::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};

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

/// How handshakes are made at one listener.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// An acceptor for the names that `certs` has certificates for: TLS 1.2 and 1.3, resumption by
    /// tickets with keys of its own.
    ///
    /// # Errors
    /// When the library cannot make its keys.
    pub fn new(certs: &Certs) -> Result<Self, TlsError> {
        let failed = |e: rustls::Error| TlsError::new(format!("cannot set up TLS: {e}"));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(certs.resolver());
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        // One ticket suffices for a mail client; each costs some 200 bytes and a seal.
        config.send_tls13_tickets = 1;
        // Tickets alone: a cache of sessions would be state that shards share.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }
}

/// ring's suites, and the hybrid key exchange that ring lacks in front of its own.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    provider
}

#[cfg(test)]
mod tests;
