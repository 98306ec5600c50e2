//! TLS to other servers: whoever answers, or who proves what is asked for.
//!
//! Where nothing is asked for ([`Proof::Anybody`], RFC 7435), the one that answers is taken for the
//! right one, whatever its certificate says, for otherwise mail would go in clear. What this
//! protects from is listening, not standing in the middle. [`Proof::Name`] asks for a certificate
//! of a known authority, [`Proof::Dane`] for one that fits records of the name service.
//!
//! Sessions are resumed, each shard its own, and only under the proof that they began with; under
//! DANE never, for records change. Nothing is known of revoked certificates. Limits:
//! [`SESSIONS_MAX`] for each of the two other kinds.

use core::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    RootCertStore, SignatureScheme,
};

use super::certs::pem;
use super::dane::{self, Dane};
use super::{TlsError, provider};

/// Servers whose sessions a shard remembers; some kilobytes each.
const SESSIONS_MAX: usize = 256;

/// Where systems keep the authorities that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that prove names of servers. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Those in `file`, or else those of the system, when it has some.
    ///
    /// # Errors
    /// What is wrong with the file. Certificates of the system's that cannot be used are passed
    /// over.
    pub fn load(file: Option<&Path>) -> Result<Option<Self>, TlsError> {
        let system = || BUNDLES.iter().map(Path::new).find(|path| path.is_file());
        let Some(path) = file.or_else(system) else { return Ok(None) };
        let wrong = |what: &dyn fmt::Display| TlsError::new(format!("{}: {what}", path.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem(path)?) {
            let added = certificate
                .map_err(|e| wrong(&e))
                .and_then(|certificate| roots.add(certificate).map_err(|e| wrong(&e)));
            match added {
                Err(why) if file.is_some() => return Err(why),
                _ => {}
            }
        }
        if roots.is_empty() {
            return if file.is_some() { Err(wrong(&"no certificate in it")) } else { Ok(None) };
        }
        Ok(Some(Self(Arc::new(roots))))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// What a server must show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// Nothing: TLS is all that matters.
    Anybody,
    /// A certificate for its name, from an authority that is known here.
    Name,
    /// A certificate that fits the records of its name.
    Dane(Rc<Dane>),
}

/// What is wrong with a server that failed in the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// Its certificate is not within its time.
    Expired,
    /// Its certificate is for other names.
    Name,
    /// Its certificate is of nobody who is known here.
    Untrusted,
    /// Its certificate does not fit the records of its name.
    Records,
    /// It offers no TLS.
    Unoffered,
    /// Anything else.
    Other,
}

/// Why a handshake with another server came to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) flaw: Flaw,
    pub(crate) words: String,
}

impl Failed {
    pub(crate) fn other(why: impl fmt::Display) -> Self {
        Self { flaw: Flaw::Other, words: why.to_string() }
    }

    /// There was no handshake to fail.
    pub(crate) fn unoffered() -> Self {
        Self { flaw: Flaw::Unoffered, words: "it offers no TLS".to_owned() }
    }

    pub(super) fn of(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(why) = error else { return Self::other(error) };
        use CertificateError as E;
        let flaw = match why {
            E::Expired | E::ExpiredContext { .. } => Flaw::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Flaw::Expired,
            E::NotValidForName | E::NotValidForNameContext { .. } => Flaw::Name,
            E::UnknownIssuer | E::BadSignature => Flaw::Untrusted,
            E::Other(_) => Flaw::Records,
            _ => Flaw::Other,
        };
        let words = match why {
            E::Other(why) => format!("its certificate proves nothing: {why}"),
            why => format!("its certificate proves nothing: {why}"),
        };
        Self { flaw, words }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// How handshakes with other servers are made.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    provider: Arc<CryptoProvider>,
    anybody: Arc<ClientConfig>,
    /// None: no authority is known here.
    named: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// One that remembers nothing yet.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub(crate) fn new(roots: Option<&Roots>) -> Result<Self, TlsError> {
        let failed = |e: &dyn fmt::Display| TlsError::new(format!("cannot set up TLS: {e}"));
        let provider = Arc::new(provider());
        let resuming = |verifier: Arc<dyn ServerCertVerifier>| {
            let mut config = config(&provider, verifier).map_err(|e| failed(&e))?;
            config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
            Ok::<_, TlsError>(Arc::new(config))
        };
        let named = roots.map(|Roots(roots)| {
            let (roots, provider) = (Arc::clone(roots), Arc::clone(&provider));
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            resuming(verifier.map_err(|e| failed(&e))?)
        });
        let (named, anybody) =
            (named.transpose()?, resuming(Arc::new(Anybody(Arc::clone(&provider))))?);
        Ok(Self { provider, anybody, named })
    }

    /// Whether names can be proved.
    pub(crate) const fn knows_authorities(&self) -> bool {
        self.named.is_some()
    }

    /// A session with `host` that has not begun.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn session(&self, host: &str, proof: &Proof) -> Result<Connection, String> {
        let config = match proof {
            Proof::Anybody => Arc::clone(&self.anybody),
            Proof::Name => {
                let named = self.named.as_ref().map(Arc::clone);
                named.ok_or("no certificate authority is known here")?
            }
            Proof::Dane(dane) => {
                let provider = Arc::clone(&self.provider);
                let verifier = dane::Verifier { dane: Dane::clone(dane), provider };
                let mut config = config(&self.provider, Arc::new(verifier))
                    .map_err(|error| error.to_string())?;
                config.resumption = Resumption::disabled();
                Arc::new(config)
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let session = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        Ok(session.into())
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
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
