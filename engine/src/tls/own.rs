//! A client for our own engine: it trusts the certificate that `--dev` made, and nothing else.
//!
//! Used by `fsmtp-engine plan`. Nothing is remembered from one connection to the next, so every
//! handshake is a full one, with the key exchange of newer clients.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::TlsError;
use super::certs::pem;
use crate::entrance::TLS_FOLDER;

/// A connection under TLS.
pub(crate) type OwnClient<S> = StreamOwned<ClientConnection, S>;

/// How to make one.
#[derive(Clone, Debug)]
pub(crate) struct OwnTls(Arc<ClientConfig>);

impl OwnTls {
    /// To the `--dev` engine of the data folder `data`.
    ///
    /// # Errors
    /// When its certificate cannot be read.
    pub(crate) fn to(data: &Path) -> Result<Self, TlsError> {
        let file = data.join(TLS_FOLDER).join("cert.pem");
        let failed = |e: &dyn core::fmt::Display| TlsError::new(format!("{}: {e}", file.display()));
        let certificate =
            CertificateDer::from_pem_slice(&pem(&file)?).map_err(|e| failed(&e))?.into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| failed(&e))?;
        let kx_groups = vec![X25519MLKEM768, X25519];
        let provider = CryptoProvider { kx_groups, ..ring::default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| failed(&e))?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Makes the handshake over `stream`.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn connect<S: Read + Write>(&self, mut stream: S) -> std::io::Result<OwnClient<S>> {
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        let mut client =
            ClientConnection::new(Arc::clone(&self.0), name).map_err(std::io::Error::other)?;
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(client, stream))
    }
}
