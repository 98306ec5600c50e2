//! RSA-OAEP with SHA-256, and making of RSA keys: the only file that names `aws-lc-rs`.
//!
//! `ring` has neither. Called by `window` and `user`, and by the engine for keys of DKIM; what is
//! wrapped is always one key of 32 bytes. Making a key pair takes some 100 ms and more, opening a
//! blob about 1 ms: both belong on the pool, not on a shard.
//!
//! The library draws its own random numbers, so blobs and key pairs differ from run to run, also
//! in a simulation.

use core::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use zeroize::Zeroizing;

use super::aead::Context;
use super::error::SealError;
use super::key::{KEY_BYTES, Key};

/// The longest blob: the modulus of the largest key.
pub(super) const BLOB_BYTES_MAX: usize = 512;
/// The longest public key: 4096 bits take 550 bytes.
pub(super) const PUBLIC_BYTES_MAX: usize = 1024;
/// The longest private key: 4096 bits take about 2,380 bytes.
pub(super) const PRIVATE_BYTES_MAX: usize = 4096;

/// How large an RSA key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RsaBits {
    /// 2048 bits.
    #[default]
    B2048,
    /// 3072 bits.
    B3072,
    /// 4096 bits.
    B4096,
}

impl RsaBits {
    const fn size(self) -> KeySize {
        match self {
            Self::B2048 => KeySize::Rsa2048,
            Self::B3072 => KeySize::Rsa3072,
            Self::B4096 => KeySize::Rsa4096,
        }
    }
}

/// Whether a modulus of this length is one of [`RsaBits`].
const fn usual(modulus_bits: usize) -> bool {
    matches!(modulus_bits, 2048 | 3072 | 4096)
}

/// What seals to a mailbox.
pub struct PublicKey(OaepPublicEncryptingKey);

impl PublicKey {
    /// Reads the `SubjectPublicKeyInfo` of RFC 5280 in DER.
    ///
    /// # Errors
    /// [`SealError::RsaKey`] unless it is an RSA key of one of the sizes of [`RsaBits`].
    pub fn from_der(der: &[u8]) -> Result<Self, SealError> {
        if der.len() > PUBLIC_BYTES_MAX {
            return Err(SealError::RsaKey);
        }
        let key = PublicEncryptingKey::from_der(der).map_err(|_| SealError::RsaKey)?;
        if !usual(key.key_size_bits()) {
            return Err(SealError::RsaKey);
        }
        OaepPublicEncryptingKey::new(key).map(Self).map_err(|_| SealError::RsaKey)
    }

    /// `key` for the owner of the private key, as long as the modulus.
    pub(super) fn wrap(&self, label: &Context, key: &Key) -> Result<Box<[u8]>, SealError> {
        let mut blob = vec![0; self.0.ciphertext_size()];
        let written = self
            .0
            .encrypt(&OAEP_SHA256_MGF1SHA256, key.bytes(), &mut blob, Some(label))
            .map_err(|_| SealError::Unavailable)?
            .len();
        debug_assert_eq!(written, blob.len());
        Ok(blob.into())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} bits)", self.0.key_size_bits())
    }
}

/// What opens the windows of a mailbox.
pub struct PrivateKey(OaepPrivateDecryptingKey);

impl PrivateKey {
    /// Reads PKCS#8 (RFC 5208).
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self, SealError> {
        let key = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| SealError::RsaKey)?;
        if !usual(key.key_size_bits()) {
            return Err(SealError::RsaKey);
        }
        OaepPrivateDecryptingKey::new(key).map(Self).map_err(|_| SealError::RsaKey)
    }

    /// What [`PublicKey::wrap`] wrapped under the same label.
    pub(super) fn unwrap_key(&self, label: &Context, blob: &[u8]) -> Result<Key, SealError> {
        let mut room = Zeroizing::new(vec![0; self.0.min_output_size()]);
        let opened = self
            .0
            .decrypt(&OAEP_SHA256_MGF1SHA256, blob, &mut room, Some(label))
            .map_err(|_| SealError::Refused)?;
        let key = <&[u8; KEY_BYTES]>::try_from(&*opened).map_err(|_| SealError::Refused)?;
        Ok(Key::from_bytes(key))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} bits)", self.0.key_size_bits())
    }
}

/// A new key pair in DER: `SubjectPublicKeyInfo` and PKCS#8. The latter has room for a tag, so that
/// it is sealed where it lies.
pub(super) struct Pair {
    pub(super) public: Box<[u8]>,
    pub(super) private: Zeroizing<Vec<u8>>,
}

/// A new key in PKCS #8 for what is signed elsewhere; nothing is sealed to it.
///
/// # Errors
/// [`SealError::Unavailable`] when the library makes none.
pub fn rsa_pkcs8(bits: RsaBits) -> Result<Zeroizing<Vec<u8>>, SealError> {
    generate(bits).map(|pair| pair.private)
}

/// Makes a key pair.
pub(super) fn generate(bits: RsaBits) -> Result<Pair, SealError> {
    let pair = PrivateDecryptingKey::generate(bits.size()).map_err(|_| SealError::Unavailable)?;
    let public: PublicKeyX509Der<'_> =
        pair.public_key().as_der().map_err(|_| SealError::Unavailable)?;
    // The library wipes its buffer on drop, too.
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| SealError::Unavailable)?;
    let room = PRIVATE_BYTES_MAX + super::key::TAG_BYTES;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    bytes.extend_from_slice(private.as_ref());
    Ok(Pair { public: public.as_ref().into(), private: bytes })
}
