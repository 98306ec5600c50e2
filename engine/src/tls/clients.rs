//! Certificates of clients: which authorities they may come from, and whose they are.
//!
//! Called where users submit mail and nowhere else. The library verifies a certificate in the
//! handshake, so one that is expired or comes from elsewhere ends it with an alert; a client that
//! has none goes on without. Nothing is known of revoked ones: who shall not sign in any more needs
//! another authority, or loses the account.
//!
//! Limits: the names of the authorities, which every handshake carries, take [`HINTS_BYTES_MAX`].
//! A file that cannot be used is refused; a reload then keeps what was read before.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_proto::sasl::NAME_BYTES_MAX;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::certs::pem;
use super::{Builder, TlsError, fitted, provider};

/// The most that the names of all authorities may take. The library writes them behind a length of
/// 16 bits and does not look whether they fit; this is arbitrary and below that: one record.
pub const HINTS_BYTES_MAX: usize = 16 * 1024;

/// What looks at a client's certificate.
pub(super) type Verifier = Arc<dyn ClientCertVerifier>;

/// The authorities that clients' certificates are taken from. Clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    file: Arc<Path>,
    /// Locked for as long as it takes to copy a pointer.
    now: Arc<Mutex<Verifier>>,
}

impl Clients {
    pub(super) fn load(file: &Path) -> Result<Self, TlsError> {
        Ok(Self { file: file.into(), now: Arc::new(Mutex::new(read(file)?)) })
    }

    /// What the file holds by now; not used before [`Clients::replace`].
    pub(super) fn read(&self) -> Result<Verifier, TlsError> {
        read(&self.file)
    }

    pub(super) fn replace(&self, verifier: Verifier) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = verifier;
    }

    fn now(&self) -> Verifier {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a file of authorities can be used.
///
/// # Errors
/// What is wrong with it.
pub fn check_client_ca(file: &Path) -> Result<(), TlsError> {
    read(file).map(drop)
}

fn read(file: &Path) -> Result<Verifier, TlsError> {
    let wrong =
        |what: &dyn core::fmt::Display| TlsError::new(format!("{}: {what}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem(file)?) {
        let certificate = certificate.map_err(|e| wrong(&e))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|e| wrong(&format_args!("cannot read a certificate: {e}")))?;
        // The library takes whatever stands here for an authority: the holder of a common
        // certificate could then make some for all the others.
        if !parsed.is_ca() {
            let subject = parsed.subject();
            return Err(wrong(&format_args!("`{subject}` is not a certificate authority")));
        }
        roots.add(certificate).map_err(|e| wrong(&e))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"no certificate in it"));
    }
    let hints_bytes: usize = roots.subjects().iter().map(|name| name.as_ref().len() + 2).sum();
    if hints_bytes > HINTS_BYTES_MAX {
        let what = format!("the names in it take {hints_bytes} bytes, {HINTS_BYTES_MAX} at most");
        return Err(wrong(&what));
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|e| wrong(&e))
}

/// Handshakes that ask for a certificate.
#[derive(Debug)]
pub(super) struct Asking {
    clients: Clients,
    builder: Builder,
    resolver: Arc<dyn ResolvesServerCert>,
    /// With the authorities that were known when it was made. Locked for as long as it takes to
    /// copy a pointer, and once in a reload to make it.
    made: Mutex<(Verifier, Arc<ServerConfig>)>,
}

impl Asking {
    pub(super) fn new(
        clients: Clients,
        builder: Builder,
        resolver: Arc<dyn ResolvesServerCert>,
    ) -> Self {
        let verifier = clients.now();
        let config = Arc::new(fitted(&builder, &verifier, &resolver));
        Self { clients, builder, resolver, made: Mutex::new((verifier, config)) }
    }

    /// How a handshake is made now. A reload is noticed here.
    pub(super) fn now(&self) -> Arc<ServerConfig> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let verifier = self.clients.now();
        if !Arc::ptr_eq(&made.0, &verifier) {
            let config = fitted(&self.builder, &verifier, &self.resolver);
            *made = (verifier, Arc::new(config));
        }
        Arc::clone(&made.1)
    }
}

/// Whose certificate it is, which the handshake has verified: its one e-mail address. Of several
/// nobody says which is meant; those in the subject are deprecated (RFC 5280 §4.1.2.6).
pub(super) fn holder(leaf: &CertificateDer<'_>) -> Option<Box<str>> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    // RFC 5280 §4.2.1.6: rfc822Name is a mailbox in ASCII.
    let mut addresses = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::RFC822Name(address) => Some(*address),
        _ => None,
    });
    let (address, None) = (addresses.next()?, addresses.next()) else { return None };
    // A name without a domain would be taken for a user of this node's own domain.
    let (local, domain) = address.rsplit_once('@')?;
    let possible = !local.is_empty()
        && !domain.is_empty()
        && address.len() <= NAME_BYTES_MAX
        && address.bytes().all(|byte| byte.is_ascii_graphic());
    possible.then(|| address.into())
}

#[cfg(test)]
mod tests;
