//! The record that holds a public key: RFC 6376 §3.6.1, RFC 8301, RFC 8463.
//!
//! Read by `verify` from text that anybody may have published. Limits: RSA keys of
//! [`RSA_BITS_MIN`] to [`RSA_BITS_MAX`]. What cannot be used is [`BadRecord`].

use core::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::signature::{
    ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY as RSA, UnparsedPublicKey,
};
use ring::{digest, error::Unspecified};

use super::key::Algorithm;
use super::tags::{BadTags, Tags, parts, squeezed};

/// RFC 8301 §3.2: fewer prove nothing.
pub const RSA_BITS_MIN: usize = 1024;
/// What verifiers must take (RFC 8301 §3.2); more costs who verifies, at the signer's pleasure.
pub const RSA_BITS_MAX: usize = 4096;

/// Base64 with or without padding: both are published.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Base64, folded as it may be.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    LENIENT.decode(squeezed(text)).ok()
}

/// Why a record is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRecord {
    /// It is no list of tags.
    Tags(BadTags),
    /// It is one of something else.
    Version,
    /// It has no key.
    NoKey,
    /// Its key was taken back (RFC 6376 §3.6.1).
    Revoked,
    /// Its key is none of its kind.
    Key,
    /// It has a kind of key that is not known.
    Kind,
    /// An RSA key of too few or too many bits.
    Bits(usize),
    /// It is not for mail.
    Service,
    /// It is not for SHA-256.
    Hash,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags(bad) => bad.fmt(f),
            Self::Version => f.write_str("it is no record of DKIM"),
            Self::NoKey => f.write_str("it has no key"),
            Self::Revoked => f.write_str("the key was revoked"),
            Self::Key => f.write_str("the key cannot be read"),
            Self::Kind => f.write_str("its kind of key is not known"),
            Self::Bits(bits) => {
                write!(f, "a key of {bits} bits, {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken")
            }
            Self::Service => f.write_str("the key is not for mail"),
            Self::Hash => f.write_str("the key is not for SHA-256"),
        }
    }
}

/// A public key, and what its domain says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it verifies.
    pub algorithm: Algorithm,
    /// Bits of the modulus, or 256.
    pub bits: usize,
    /// The domain only tries it out: `t=y`.
    pub testing: bool,
    /// `i=` must have the domain itself, none below it: `t=s`.
    pub strict: bool,
    key: Vec<u8>,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// Why it is of no use.
    pub fn parse(text: &[u8]) -> Result<Self, BadRecord> {
        let tags = Tags::parse(text).map_err(BadRecord::Tags)?;
        // RFC 6376 §3.6.1: first, if it is there.
        if let Some(version) = tags.get("v")
            && (version.value != "DKIM1" || tags.first() != Some(version))
        {
            return Err(BadRecord::Version);
        }
        let key = tags.value("p").ok_or(BadRecord::NoKey)?;
        if key.is_empty() {
            return Err(BadRecord::Revoked);
        }
        if tags.value("h").is_some_and(|hashes| !parts(hashes).any(|hash| hash == "sha256")) {
            return Err(BadRecord::Hash);
        }
        let for_mail = |service: &str| service == "*" || service == "email";
        if tags.value("s").is_some_and(|services| !parts(services).any(for_mail)) {
            return Err(BadRecord::Service);
        }
        let flag = |flag: &str| tags.value("t").is_some_and(|all| parts(all).any(|f| f == flag));
        let key = decode(key).ok_or(BadRecord::Key)?;
        let (algorithm, key, bits) = match tags.value("k").unwrap_or("rsa") {
            "rsa" => {
                let key = rsa_public_key(&key).ok_or(BadRecord::Key)?;
                let bits = modulus_bits(key).ok_or(BadRecord::Key)?;
                if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                    return Err(BadRecord::Bits(bits));
                }
                (Algorithm::RsaSha256, key.to_vec(), bits)
            }
            "ed25519" if key.len() == 32 => (Algorithm::Ed25519Sha256, key, 256),
            "ed25519" => return Err(BadRecord::Key),
            _ => return Err(BadRecord::Kind),
        };
        Ok(Self { algorithm, bits, testing: flag("y"), strict: flag("s"), key })
    }

    /// Whether the signature is that of `text`.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn verify(&self, text: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match self.algorithm {
            Algorithm::RsaSha256 => UnparsedPublicKey::new(&RSA, &self.key).verify(text, signature),
            // RFC 8463 §3: what is signed is the hash.
            Algorithm::Ed25519Sha256 => {
                let hash = digest::digest(&digest::SHA256, text);
                UnparsedPublicKey::new(&ED25519, &self.key).verify(hash.as_ref(), signature)
            }
        }
    }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// 1.2.840.113549.1.1.1
const RSA_ENCRYPTION: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// The `RSAPublicKey` (RFC 8017 §A.1.1) in a `SubjectPublicKeyInfo` (RFC 5280 §4.1), or by itself:
/// both are published. Nothing stands behind either.
fn rsa_public_key(der: &[u8]) -> Option<&[u8]> {
    let (inner, []) = element(der, SEQUENCE)? else { return None };
    if inner.first() == Some(&INTEGER) {
        return Some(der);
    }
    let (algorithm, rest) = element(inner, SEQUENCE)?;
    let (bits, []) = element(rest, BIT_STRING)? else { return None };
    bits.strip_prefix(&[0]).filter(|_| algorithm.starts_with(&RSA_ENCRYPTION))
}

fn modulus_bits(key: &[u8]) -> Option<usize> {
    let (inner, _) = element(key, SEQUENCE)?;
    let (modulus, _) = element(inner, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = modulus.get(zeros..)?;
    let first = modulus.first()?;
    Some(modulus.len() * 8 - first.leading_zeros() as usize)
}

/// What an element of DER holds, and what stands behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}
