//! Credential wraps: the mailbox key under a password, an app password, a recovery key, or SCRAM.
//!
//! Opening a wrap **is** the check of the credential: nothing else is stored that could be
//! compared. Called by the pool, since [`PasswordWrap`] takes Argon2's time; the others take
//! microseconds, but making a [`ScramWrap`] takes its iterations.
//!
//! Each wrap has a fresh salt, so the key that seals it seals nothing else; and each is bound to
//! its kind and mailbox, so that one moved elsewhere does not open. The [`ScramTerms`] are the
//! exception: all SCRAM wraps of a mailbox share a salt, see there.
//!
//! Limits: passwords and costs as in [`password`]; [`SCRAM_ITERATIONS_MIN`] to
//! [`SCRAM_ITERATIONS_MAX`]. Failure: [`SealError::Refused`] for a wrong credential and for changed
//! bytes alike.

use core::fmt;
use core::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::aead::{Cipher, Context, NONCE_ONCE, Purpose, context, derive};
use super::error::SealError;
use super::key::{KEY_BYTES, Key, MailboxKey, Random, SALT_BYTES, WRAPPED_BYTES, salt};
use super::text::{Secret, SecretKind};
use crate::id::MailboxId;
use crate::password::{self, Cost, PASSWORD_BYTES_MAX};

/// The usual count of iterations of a [`ScramWrap`]: what OWASP takes for as strong as Argon2id at
/// [`Cost::OWASP`], so that SCRAM is not the easier way to guess a password. The client computes
/// them as well, some 200 ms.
pub const SCRAM_ITERATIONS: u32 = 600_000;
/// The least that RFC 7677 §4 allows.
pub const SCRAM_ITERATIONS_MIN: u32 = 4_096;
/// The most. The client computes them too; arbitrary, some 100 ms on a desk machine.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

fn bound(purpose: Purpose, mailbox: MailboxId) -> Context {
    context(purpose, [mailbox.0, 0, 0])
}

fn wrap(kek: &Key, context: &Context, key: &MailboxKey) -> Result<[u8; WRAPPED_BYTES], SealError> {
    Cipher::new(kek).wrap(NONCE_ONCE, context, &key.0)
}

fn unwrap(
    kek: &Key,
    context: &Context,
    sealed: &[u8; WRAPPED_BYTES],
) -> Result<MailboxKey, SealError> {
    Cipher::new(kek).unwrap_key(NONCE_ONCE, context, sealed).map(MailboxKey)
}

/// The mailbox key under a password that somebody chose: Argon2id (RFC 9106).
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordWrap {
    pub(super) cost: Cost,
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) sealed: [u8; WRAPPED_BYTES],
}

impl PasswordWrap {
    /// Wraps `key`. Blocks for the time that `cost` takes.
    ///
    /// # Errors
    /// [`SealError::Malformed`] for an empty password, [`SealError::TooLarge`] for an overlong one
    /// or a cost beyond [`Cost::MOST`].
    pub fn seal(
        key: &MailboxKey,
        mailbox: MailboxId,
        password: &[u8],
        cost: Cost,
        random: Random<'_>,
    ) -> Result<Self, SealError> {
        check_password(password)?;
        let salt = salt(random);
        let kek = Self::kek(password, &salt, cost)?;
        let sealed = wrap(&kek, &bound(Purpose::Password, mailbox), key)?;
        Ok(Self { cost, salt, sealed })
    }

    /// Opens it: one run of Argon2, whatever the answer, unless the password is empty or overlong.
    ///
    /// # Errors
    /// [`SealError::Refused`] for a wrong password, mailbox or wrap.
    pub fn open(&self, mailbox: MailboxId, password: &[u8]) -> Result<MailboxKey, SealError> {
        check_password(password).map_err(|_| SealError::Refused)?;
        let kek = Self::kek(password, &self.salt, self.cost)?;
        unwrap(&kek, &bound(Purpose::Password, mailbox), &self.sealed)
    }

    /// Does the work of [`open`](Self::open) for a user who does not exist, so that the time it
    /// takes tells nothing; `cost` must be the one that accounts are sealed with.
    #[must_use]
    pub fn open_dummy(password: &[u8], cost: Cost) -> SealError {
        let nobody = Self { cost, salt: [0; SALT_BYTES], sealed: [0; WRAPPED_BYTES] };
        // Even if the tag happened to fit, there is nothing behind it.
        nobody.open(MailboxId(0), password).err().unwrap_or(SealError::Refused)
    }

    /// What it costs to open; to be sealed anew when the configuration asks for more.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    fn kek(password: &[u8], salt: &[u8; SALT_BYTES], cost: Cost) -> Result<Key, SealError> {
        let mut outcome = Ok(());
        let kek = Key::filled(|key| outcome = password::derive(password, salt, cost, key));
        // Only the cost is left to be wrong.
        outcome.map(|()| kek).map_err(|_| SealError::TooLarge("the cost of a password"))
    }
}

fn check_password(password: &[u8]) -> Result<(), SealError> {
    match password.len() {
        0 => Err(SealError::Malformed("an empty password")),
        1..=PASSWORD_BYTES_MAX => Ok(()),
        _ => Err(SealError::TooLarge("a password")),
    }
}

/// The mailbox key under a [`Secret`]: HKDF is enough, for the secret has 128 random bits.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecretWrap {
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) sealed: [u8; WRAPPED_BYTES],
}

impl SecretWrap {
    fn seal(
        key: &MailboxKey,
        mailbox: MailboxId,
        kind: SecretKind,
        random: Random<'_>,
    ) -> Result<(Self, Secret), SealError> {
        let secret = Secret::fresh(kind, random);
        let salt = salt(random);
        let context = bound(purpose(kind), mailbox);
        let sealed = wrap(&derive(secret.bytes(), &salt, &context), &context, key)?;
        Ok((Self { salt, sealed }, secret))
    }

    fn open(
        &self,
        mailbox: MailboxId,
        kind: SecretKind,
        secret: &Secret,
    ) -> Result<MailboxKey, SealError> {
        let context = bound(purpose(kind), mailbox);
        unwrap(&derive(secret.bytes(), &self.salt, &context), &context, &self.sealed)
    }
}

const fn purpose(kind: SecretKind) -> Purpose {
    match kind {
        SecretKind::App => Purpose::App,
        SecretKind::Recovery => Purpose::Recovery,
    }
}

/// The mailbox key under an app password.
#[derive(Clone, PartialEq, Eq)]
pub struct AppWrap {
    pub(super) own: SecretWrap,
    pub(super) scram: Option<ScramWrap>,
}

impl AppWrap {
    /// Makes an app password and wraps `key` under it. Show the secret once; it is kept nowhere.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn seal(
        key: &MailboxKey,
        mailbox: MailboxId,
        random: Random<'_>,
    ) -> Result<(Self, Secret), SealError> {
        let (own, secret) = SecretWrap::seal(key, mailbox, SecretKind::App, random)?;
        Ok((Self { own, scram: None }, secret))
    }

    /// The same for SCRAM as well, where a client takes the secret literally: as [`Secret::text`]
    /// has it. Blocks for the time that the iterations take.
    ///
    /// # Errors
    /// [`SealError::Malformed`] or [`SealError::TooLarge`] for impossible terms.
    pub fn with_scram(
        self,
        key: &MailboxKey,
        mailbox: MailboxId,
        secret: &Secret,
        terms: ScramTerms,
    ) -> Result<Self, SealError> {
        let scram = ScramWrap::seal_on(terms, key, mailbox, secret.text().as_bytes())?;
        Ok(Self { scram: Some(scram), ..self })
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`SealError::Refused`] for a wrong secret, mailbox or wrap.
    pub fn open(&self, mailbox: MailboxId, secret: &Secret) -> Result<MailboxKey, SealError> {
        self.own.open(mailbox, SecretKind::App, secret)
    }
}

/// The mailbox key under a recovery key.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryWrap(pub(super) SecretWrap);

impl RecoveryWrap {
    /// Makes a recovery key and wraps `key` under it. Show the secret once; it is kept nowhere.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn seal(
        key: &MailboxKey,
        mailbox: MailboxId,
        random: Random<'_>,
    ) -> Result<(Self, Secret), SealError> {
        SecretWrap::seal(key, mailbox, SecretKind::Recovery, random).map(|(w, s)| (Self(w), s))
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`SealError::Refused`] for a wrong secret, mailbox or wrap.
    pub fn open(&self, mailbox: MailboxId, secret: &Secret) -> Result<MailboxKey, SealError> {
        self.0.open(mailbox, SecretKind::Recovery, secret)
    }
}

/// What a client of SCRAM is told before it proves anything (RFC 5802 §5.1).
///
/// One for all SCRAM wraps of a mailbox, since the server must say it before it knows which of the
/// user's passwords the client has. Sharing it harms nothing: a salt keeps one guess from being
/// tried on several passwords at once, and all but one of these have 128 random bits, which nobody
/// guesses. It stays when the password changes while app passwords need it; a ClientKey, and so the
/// key that a wrap is sealed under, is another all the same, and a password that comes back seals
/// the same mailbox key to the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScramTerms {
    /// What the password is hashed with.
    pub salt: [u8; SALT_BYTES],
    /// How often.
    pub iterations: u32,
}

/// What SCRAM-SHA-256 needs of a user (RFC 5802 §5.1, RFC 7677), and the mailbox key under the
/// `ClientKey`, which the server learns from the client's proof and keeps nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramWrap {
    pub(super) terms: ScramTerms,
    pub(super) stored_key: [u8; 32],
    pub(super) server_key: [u8; 32],
    pub(super) sealed: [u8; WRAPPED_BYTES],
}

impl ScramWrap {
    /// Wraps `key` under `password`, which must have been prepared as SASL asks (RFC 4013), with a
    /// fresh salt. Blocks for the time that `iterations` take.
    ///
    /// # Errors
    /// [`SealError::Malformed`] for an empty password or too few iterations,
    /// [`SealError::TooLarge`] for an overlong password or too many.
    pub fn seal(
        key: &MailboxKey,
        mailbox: MailboxId,
        password: &[u8],
        iterations: u32,
        random: Random<'_>,
    ) -> Result<Self, SealError> {
        Self::seal_on(ScramTerms { salt: salt(random), iterations }, key, mailbox, password)
    }

    /// The same, on the terms of the mailbox's other SCRAM wraps.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_on(
        terms: ScramTerms,
        key: &MailboxKey,
        mailbox: MailboxId,
        password: &[u8],
    ) -> Result<Self, SealError> {
        check_password(password)?;
        let keys = ScramKeys::compute(password, &terms.salt, terms.iterations)?;
        let context = bound(Purpose::Scram, mailbox);
        let sealed = wrap(&derive(keys.client.as_slice(), &terms.salt, &context), &context, key)?;
        let stored_key = sha256(keys.client.as_slice());
        Ok(Self { terms, stored_key, server_key: keys.server, sealed })
    }

    /// Opens it by the `ClientKey`.
    ///
    /// # Errors
    /// [`SealError::Refused`] for a wrong key, mailbox or wrap.
    pub fn open(
        &self,
        mailbox: MailboxId,
        client_key: &[u8; KEY_BYTES],
    ) -> Result<MailboxKey, SealError> {
        let context = bound(Purpose::Scram, mailbox);
        unwrap(&derive(client_key, &self.terms.salt, &context), &context, &self.sealed)
    }

    /// The `ClientKey` out of a client's proof (RFC 5802 §3), if the proof is right.
    ///
    /// # Errors
    /// [`SealError::Refused`] when the client did not know the password.
    pub fn client_key(
        &self,
        auth_message: &[u8],
        proof: &[u8; 32],
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
        let mut client_key = Zeroizing::new(hmac_sha256(&self.stored_key, auth_message));
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let hash = sha256(client_key.as_slice());
        // In constant time, as far as xor and or are.
        let difference = hash.iter().zip(&self.stored_key).fold(0, |d, (a, b)| d | (a ^ b));
        if core::hint::black_box(difference) == 0 {
            Ok(client_key)
        } else {
            Err(SealError::Refused)
        }
    }

    /// The `ServerSignature`, by which the client knows us.
    #[must_use]
    pub fn server_signature(&self, auth_message: &[u8]) -> [u8; 32] {
        hmac_sha256(&self.server_key, auth_message)
    }

    /// SHA-256 of the `ClientKey`.
    #[must_use]
    pub const fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    /// What the server proves itself with.
    #[must_use]
    pub const fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }

    /// What the client is told.
    #[must_use]
    pub const fn terms(&self) -> ScramTerms {
        self.terms
    }
}

/// What a password becomes in SCRAM (RFC 5802 §3).
struct ScramKeys {
    client: Zeroizing<[u8; KEY_BYTES]>,
    server: [u8; 32],
}

impl ScramKeys {
    fn compute(password: &[u8], salt: &[u8], iterations: u32) -> Result<Self, SealError> {
        if iterations > SCRAM_ITERATIONS_MAX {
            return Err(SealError::TooLarge("the count of SCRAM iterations"));
        }
        let iterations = NonZeroU32::new(iterations)
            .filter(|count| count.get() >= SCRAM_ITERATIONS_MIN)
            .ok_or(SealError::Malformed("the count of SCRAM iterations"))?;
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, password, salted.as_mut());
        let client = Zeroizing::new(hmac_sha256(&salted, b"Client Key"));
        Ok(Self { client, server: hmac_sha256(&salted, b"Server Key") })
    }
}

fn hmac_sha256(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    bytes
}

impl fmt::Debug for PasswordWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordWrap({:?}, ..)", self.cost)
    }
}

impl fmt::Debug for AppWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppWrap(..)")
    }
}

impl fmt::Debug for RecoveryWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryWrap(..)")
    }
}

impl fmt::Debug for ScramWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramWrap({} iterations, ..)", self.terms.iterations)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn agrees_with_the_exchange_of_rfc_7677() {
        // §3: user "user", password "pencil".
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::compute(b"pencil", &salt, 4096).unwrap();
        let wrap = ScramWrap {
            terms: ScramTerms { salt: [0; 16], iterations: 4096 },
            stored_key: sha256(keys.client.as_slice()),
            server_key: keys.server,
            sealed: [0; 48],
        };
        let auth_message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let mut proof: [u8; 32] = proof.try_into().unwrap();
        assert_eq!(wrap.client_key(auth_message, &proof), Ok(keys.client));
        let signature = STANDARD.encode(wrap.server_signature(auth_message));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        proof[31] ^= 1;
        assert_eq!(wrap.client_key(auth_message, &proof), Err(SealError::Refused));
    }

    #[test]
    fn iterations_have_limits() {
        for bad in [0, 1, SCRAM_ITERATIONS_MIN - 1, SCRAM_ITERATIONS_MAX + 1, u32::MAX] {
            assert!(ScramKeys::compute(b"x", &[0; 16], bad).is_err(), "{bad}");
        }
        assert!(ScramKeys::compute(b"x", &[0; 16], SCRAM_ITERATIONS_MIN).is_ok());
    }
}
