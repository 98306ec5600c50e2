//! The key pair of a mailbox as it is stored: the public key, and the private key under the
//! mailbox key.
//!
//! Made when an account is made; the public key is read by whoever seals, the private one when the
//! owner's session must open a window by RSA.
//!
//! ```text
//! 0 version u8   1 salt, 16 bytes   17 public length u16, public   private length u16, private
//! ```
//!
//! The private key is bound to the mailbox and to the public key beside it: an exchanged public
//! key is found at the owner's next visit that needs RSA.

use core::fmt;

use ring::digest::{SHA256, digest};

use super::aead::{Cipher, NONCE_ONCE, Purpose, context, derive};
use super::codec::{Reader, VERSION, put_piece};
use super::error::SealError;
use super::key::{Key, MailboxKey, Random, SALT_BYTES, TAG_BYTES, salt};
use super::rsa::{
    PRIVATE_BYTES_MAX, PUBLIC_BYTES_MAX, Pair, PrivateKey, PublicKey, RsaBits, generate,
};
use crate::id::MailboxId;

const OBJECT: &str = "the keys of a user";

/// A key pair with a sealed private key.
#[derive(Clone, PartialEq, Eq)]
pub struct UserKeys {
    public: Box<[u8]>,
    salt: [u8; SALT_BYTES],
    private: Box<[u8]>,
}

impl UserKeys {
    /// Makes a key pair, and the mailbox key that it is sealed under: wrap that by a credential at
    /// once, for nothing else opens the mailbox. Takes some 100 ms, for 4096 bits some seconds.
    ///
    /// # Errors
    /// [`SealError::Unavailable`] when RSA fails.
    pub fn generate(
        mailbox: MailboxId,
        bits: RsaBits,
        random: Random<'_>,
    ) -> Result<(Self, MailboxKey), SealError> {
        let Pair { public, mut private } = generate(bits)?;
        let key = MailboxKey(Key::fresh(random));
        let salt = salt(random);
        let (cipher, bound) = sealing(&key, &salt, mailbox, &public);
        cipher.seal(NONCE_ONCE, &bound, &mut private)?;
        Ok((Self { public, salt, private: private.as_slice().into() }, key))
    }

    /// The public key.
    ///
    /// # Errors
    /// [`SealError::RsaKey`] when it is none.
    pub fn public_key(&self) -> Result<PublicKey, SealError> {
        PublicKey::from_der(&self.public)
    }

    /// The public key in DER (`SubjectPublicKeyInfo`).
    #[must_use]
    pub fn public_der(&self) -> &[u8] {
        &self.public
    }

    /// The private key.
    ///
    /// # Errors
    /// [`SealError::Refused`] for another mailbox's key, or when anything was changed.
    pub fn private_key(
        &self,
        mailbox: MailboxId,
        key: &MailboxKey,
    ) -> Result<PrivateKey, SealError> {
        let (cipher, bound) = sealing(key, &self.salt, mailbox, &self.public);
        let mut private = zeroize::Zeroizing::new(self.private.to_vec());
        PrivateKey::from_pkcs8(cipher.open(NONCE_ONCE, &bound, &mut private)?)
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.salt);
        put_piece(&mut bytes, &self.public, PUBLIC_BYTES_MAX, OBJECT)
            .and_then(|()| put_piece(&mut bytes, &self.private, SEALED_BYTES_MAX, OBJECT))
            .expect("RSA keys of the usual sizes fit");
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. Does not look into the keys.
    ///
    /// # Errors
    /// [`SealError::Version`], [`SealError::Malformed`] or [`SealError::TooLarge`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let mut reader = Reader::new(bytes, OBJECT)?;
        let salt = reader.array()?;
        let public = reader.piece(PUBLIC_BYTES_MAX)?.into();
        let private = reader.piece(SEALED_BYTES_MAX)?.into();
        reader.end()?;
        Ok(Self { public, salt, private })
    }
}

const SEALED_BYTES_MAX: usize = PRIVATE_BYTES_MAX + TAG_BYTES;

/// The key that the private key is sealed under, and what it is bound to.
fn sealing(
    key: &MailboxKey,
    salt: &[u8; SALT_BYTES],
    mailbox: MailboxId,
    public: &[u8],
) -> (Cipher, Vec<u8>) {
    let context = context(Purpose::PrivateKey, [mailbox.0, 0, 0]);
    let cipher = Cipher::new(&derive(key.0.bytes(), salt, &context));
    let mut bound = context.to_vec();
    bound.extend_from_slice(digest(&SHA256, public).as_ref());
    (cipher, bound)
}

impl fmt::Debug for UserKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKeys(public {} bytes, ..)", self.public.len())
    }
}
