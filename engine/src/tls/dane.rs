//! DANE: servers proved by TLSA records (RFC 6698, with the rules for mail of RFC 7672 §3.1).
//!
//! The relay looks the records up, and calls this with those that the name server vouches for.
//! [`usable`] keeps what mail can be verified with; [`Verifier`] decides in the handshake. Limits:
//! [`RECORDS_MAX`] records of a host. Failure: the handshake ends with an alert.

use std::sync::Arc;

use fsmtp_proto::dns::Tlsa;
use ring::digest::{SHA256, SHA512, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Records of one host that are looked at; arbitrary. Two are usual, four while keys are exchanged.
pub(crate) const RECORDS_MAX: usize = 32;

/// RFC 6698 §2.1.1: a certificate that the server's must lead to.
const TRUST_ANCHOR: u8 = 2;
/// RFC 6698 §2.1.1: the server's own certificate.
const END_ENTITY: u8 = 3;

/// What the certificate of one host must fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dane {
    /// Usable ones, at least one.
    pub(crate) records: Box<[Tlsa]>,
    /// RFC 7672 §3.2.2: one of them must stand in a certificate that leads to a trust anchor.
    pub(crate) names: Vec<Box<str>>,
}

/// Those of the records that mail can be verified with.
pub(crate) fn usable<'t>(records: impl Iterator<Item = &'t Tlsa>) -> Box<[Tlsa]> {
    let known = |record: &&Tlsa| {
        let length = match record.matching {
            0 => !record.data.is_empty(),
            1 => record.data.len() == SHA256.output_len(),
            2 => record.data.len() == SHA512.output_len(),
            _ => false,
        };
        // RFC 7672 §3.1.3: PKIX-TA and PKIX-EE mean nothing for mail.
        length && matches!(record.usage, TRUST_ANCHOR | END_ENTITY) && record.selector <= 1
    };
    records.filter(known).take(RECORDS_MAX).cloned().collect()
}

/// Whether a record speaks of this certificate (RFC 6698 §2.1).
fn fits(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let parsed;
    let content = if record.selector == 0 {
        certificate.as_ref()
    } else {
        let Ok((_, found)) = X509Certificate::from_der(certificate) else { return false };
        parsed = found;
        parsed.public_key().raw
    };
    match record.matching {
        0 => *record.data == *content,
        1 => *record.data == *digest(&SHA256, content).as_ref(),
        2 => *record.data == *digest(&SHA512, content).as_ref(),
        _ => false,
    }
}

/// Decides by the records alone.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) dane: Dane,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// The anchors that the records name: certificates that the server shows, or a record itself.
    fn anchors(&self, chain: &[CertificateDer<'_>]) -> RootCertStore {
        let mut anchors = RootCertStore::empty();
        for record in self.dane.records.iter().filter(|record| record.usage == TRUST_ANCHOR) {
            for shown in chain.iter().filter(|shown| fits(record, shown)) {
                // What is no certificate is no anchor.
                let _ = anchors.add(shown.clone().into_owned());
            }
            if (record.selector, record.matching) == (0, 0) {
                let _ = anchors.add(record.data.to_vec().into());
            }
        }
        anchors
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // RFC 7672 §3.1.1: neither names nor dates count; the zone says them.
        let own = |record: &Tlsa| record.usage == END_ENTITY && fits(record, leaf);
        if self.dane.records.iter().any(own) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut why =
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unfit))));
        // RFC 7672 §3.1.2: names and dates count as ever, below the anchor.
        let anchors = self.anchors(chain);
        if anchors.is_empty() {
            return Err(why);
        }
        let provider = Arc::clone(&self.provider);
        let pkix = WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), provider).build();
        let pkix = pkix.map_err(|error| rustls::Error::General(error.to_string()))?;
        for name in &self.dane.names {
            let Ok(name) = ServerName::try_from(&**name) else { continue };
            match pkix.verify_server_cert(leaf, chain, &name, ocsp, now) {
                Ok(verified) => return Ok(verified),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Nothing that the server shows is what the records speak of.
#[derive(Debug)]
pub(super) struct Unfit;

impl core::fmt::Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no TLSA record fits it")
    }
}

impl core::error::Error for Unfit {}

#[cfg(test)]
mod tests;
