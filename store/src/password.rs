//! Password hashes: Argon2id, kept as PHC strings (`$argon2id$v=19$m=19456,t=2,p=1$salt$hash`).
//!
//! Called by the hash pool and by the commands that set passwords, never by a shard: one call
//! fills [`Cost::memory_kib`] KiB of memory and takes some 20 ms, and blocks its thread meanwhile.
//!
//! Limits: passwords of 1 to [`PASSWORD_BYTES_MAX`] bytes; costs up to [`Cost::MOST`], also in
//! stored strings, so that a damaged or hostile string cannot ask for all the memory there is.
//! Failure: a string that cannot be read is refused when it is stored, and never matches.

use core::fmt;
use core::hint::black_box;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use crate::StoreError;

/// The longest password that is hashed, in bytes. Arbitrary; longer than any passphrase people
/// type, short enough that it costs nothing beside the memory-hard part.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Bytes of salt; 16 are what RFC 9106 §3.1 recommends for password hashing.
pub const SALT_BYTES: usize = 16;

/// The longest PHC string that is kept.
const PHC_BYTES_MAX: usize = 256;

/// What one hash costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes; they are computed one after the other here.
    pub lanes: u32,
}

impl Cost {
    /// 19 MiB, two passes, one lane: the least that OWASP's password storage advice accepts.
    pub const OWASP: Self = Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 };
    /// The most that is accepted, from configuration or in a stored string.
    pub const MOST: Self = Self { memory_kib: 256 * 1024, passes: 16, lanes: 16 };

    /// Whether Argon2 can be run at this cost, and may.
    pub(crate) fn is_possible(self) -> bool {
        self.params().is_ok()
    }

    fn params(self) -> Result<Params, StoreError> {
        if self.memory_kib > Self::MOST.memory_kib
            || self.passes > Self::MOST.passes
            || self.lanes > Self::MOST.lanes
        {
            return Err(StoreError::Invalid(format!(
                "the password cost is limited to {} KiB, {} passes, {} lanes",
                Self::MOST.memory_kib,
                Self::MOST.passes,
                Self::MOST.lanes
            )));
        }
        Params::new(self.memory_kib, self.passes, self.lanes, None)
            .map_err(|error| StoreError::Invalid(format!("password cost: {error}")))
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::OWASP
    }
}

/// A password hash in PHC form, checked. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Phc(Box<str>);

impl Phc {
    /// Takes a string that was stored or imported.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] unless it is an Argon2id string with salt and hash whose cost is
    /// within [`Cost::MOST`].
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let bad = |why: &str| StoreError::Invalid(format!("password hash: {why}"));
        if text.len() > PHC_BYTES_MAX {
            return Err(bad("too long"));
        }
        let hash = PasswordHash::new(text).map_err(|_| bad("not a PHC string"))?;
        if hash.algorithm != ARGON2ID_IDENT {
            return Err(bad("only argon2id is supported"));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(bad("salt or hash is missing"));
        }
        let params = Params::try_from(&hash).map_err(|_| bad("parameters are out of range"))?;
        Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }
            .params()?;
        Ok(Self(text.into()))
    }

    /// The string itself, for storing it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Phc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phc(..)")
    }
}

/// Hashes `password` for storage. Blocks for the time that `cost` takes.
///
/// `salt` must be fresh random bytes: equal salts show equal passwords.
///
/// # Errors
/// [`StoreError::Invalid`] for an empty or overlong password or a cost beyond the limits.
pub fn hash(password: &[u8], salt: [u8; SALT_BYTES], cost: Cost) -> Result<Phc, StoreError> {
    if password.is_empty() {
        return Err(StoreError::Invalid("the password is empty".into()));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(StoreError::Invalid(format!(
            "the password is longer than {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    let hash: PasswordHash = hasher(cost)?
        .hash_password_with_salt(password, &salt)
        .map_err(|error| StoreError::Invalid(format!("password: {error}")))?;
    Phc::parse(&hash.to_string())
}

/// Whether `password` is the one that `stored` was made from. Blocks for the stored cost.
#[must_use]
pub fn verify(password: &[u8], stored: &Phc) -> bool {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return false;
    }
    PasswordHash::new(stored.as_str()).ok().and_then(|stored| matches(password, &stored))
        == Some(true)
}

/// Computes the hash at the stored cost and compares. The memory it took is wiped, as it is when a
/// key is derived: who measures must not tell the one from the other.
fn matches(password: &[u8], stored: &PasswordHash) -> Option<bool> {
    let (salt, hash) = (stored.salt.as_ref()?, stored.hash.as_ref()?);
    let version = Version::try_from(stored.version?).ok()?;
    let hasher = Argon2::new(Algorithm::Argon2id, version, Params::try_from(stored).ok()?);
    let mut memory = Zeroizing::new(vec![Block::new(); hasher.params().block_count()]);
    let mut output = vec![0; hash.as_ref().len()];
    let memory = memory.as_mut_slice();
    hasher.hash_password_into_with_memory(password, salt.as_ref(), &mut output, memory).ok()?;
    // In constant time, as far as xor and or are.
    let pairs = output.iter().zip(hash.as_ref());
    let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
    Some(black_box(difference) == 0)
}

/// Does the work of [`verify`] for a user who does not exist, so that the time it takes tells
/// nothing; `cost` must be the one that accounts are stored with. Always false.
#[must_use]
pub fn verify_dummy(password: &[u8], cost: Cost) -> bool {
    let Ok(stored) = dummy(cost) else { return false };
    black_box(verify(black_box(password), &stored));
    false
}

/// Fills `key` with what `password` and `salt` give: a key to seal with, not a hash to compare.
/// Blocks for the time that `cost` takes. The memory it took is wiped.
///
/// # Errors
/// [`StoreError::Invalid`] for a cost beyond the limits.
pub(crate) fn derive(
    password: &[u8],
    salt: &[u8; SALT_BYTES],
    cost: Cost,
    key: &mut [u8; 32],
) -> Result<(), StoreError> {
    let hasher = hasher(cost)?;
    let mut memory = Zeroizing::new(vec![Block::new(); hasher.params().block_count()]);
    hasher
        .hash_password_into_with_memory(password, salt, key, memory.as_mut_slice())
        .map_err(|error| StoreError::Invalid(format!("password: {error}")))
}

/// A well-formed string that no known password matches: its hash is all zero.
fn dummy(cost: Cost) -> Result<Phc, StoreError> {
    let broken = |_| StoreError::Invalid("password cost".into());
    let zero = [0; Params::DEFAULT_OUTPUT_LEN];
    let hash = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: (&cost.params()?).try_into().map_err(broken)?,
        salt: Some(Salt::new(&[0; SALT_BYTES]).map_err(|_| StoreError::Invalid("salt".into()))?),
        hash: Some(Output::new(&zero).map_err(|_| StoreError::Invalid("hash".into()))?),
    };
    Phc::parse(&hash.to_string())
}

fn hasher(cost: Cost) -> Result<Argon2<'static>, StoreError> {
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn the_default_is_what_owasp_accepts() {
        let phc = hash(b"correct horse", [7; 16], Cost::default()).unwrap();
        assert!(phc.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", phc.as_str());
        assert!(verify(b"correct horse", &phc));
        assert!(!verify(b"correct horsf", &phc));
    }

    #[test]
    fn only_the_right_password_matches() {
        let phc = hash(b"pass\0word", [1; 16], CHEAP).unwrap();
        for wrong in [&b"pass"[..], b"", b"pass\0worD", b"pass\0word ", &[b'x'; 5000]] {
            assert!(!verify(wrong, &phc));
        }
        assert!(verify(b"pass\0word", &phc));
        assert_ne!(phc, hash(b"pass\0word", [2; 16], CHEAP).unwrap());
    }

    #[test]
    fn limits_are_refused() {
        let longest = vec![b'p'; PASSWORD_BYTES_MAX];
        assert!(verify(&longest, &hash(&longest, [0; 16], CHEAP).unwrap()));
        let too_long = vec![b'p'; PASSWORD_BYTES_MAX + 1];
        assert!(matches!(hash(&too_long, [0; 16], CHEAP), Err(StoreError::Invalid(_))));
        assert!(matches!(hash(b"", [0; 16], CHEAP), Err(StoreError::Invalid(_))));
        for cost in [
            Cost { memory_kib: Cost::MOST.memory_kib + 1, ..CHEAP },
            Cost { passes: Cost::MOST.passes + 1, ..CHEAP },
            Cost { lanes: Cost::MOST.lanes + 1, memory_kib: 1024, ..CHEAP },
            Cost { memory_kib: 1, ..CHEAP },
        ] {
            assert!(matches!(hash(b"x", [0; 16], cost), Err(StoreError::Invalid(_))), "{cost:?}");
        }
    }

    #[test]
    fn strings_that_could_hurt_are_refused() {
        let good = hash(b"x", [0; 16], CHEAP).unwrap();
        assert_eq!(Phc::parse(good.as_str()).unwrap(), good);
        for bad in [
            String::new(),
            "plain".into(),
            good.as_str().replace("argon2id", "argon2i"),
            good.as_str().replace("m=64", "m=4000000"),
            good.as_str().replace("t=1", "t=99"),
            good.as_str().rsplit_once('$').unwrap().0.into(),
            good.as_str().repeat(4),
        ] {
            assert!(Phc::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_dummy_has_the_same_form_and_never_matches() {
        let real = hash(b"x", [9; 16], CHEAP).unwrap();
        let fake = dummy(CHEAP).unwrap();
        assert_eq!(real.as_str().len(), fake.as_str().len());
        let form = |phc: &Phc| phc.as_str().rsplitn(3, '$').last().unwrap().to_owned();
        assert_eq!(form(&real), form(&fake));
        assert!(!verify_dummy(b"x", CHEAP) && !verify_dummy(b"", CHEAP));
    }

    #[test]
    fn derived_keys_agree_with_stored_hashes_and_follow_the_salt() {
        // A PHC string ends with what `derive` gives: one function of Argon2, two uses.
        let mut key = [0; 32];
        derive(b"password", &[3; 16], CHEAP, &mut key).unwrap();
        let phc = hash(b"password", [3; 16], CHEAP).unwrap();
        let stored = PasswordHash::new(phc.as_str()).unwrap().hash.unwrap();
        assert_eq!(stored.as_bytes(), key);
        let mut other = [0; 32];
        derive(b"password", &[4; 16], CHEAP, &mut other).unwrap();
        assert_ne!(key, other);
    }

    #[test]
    fn argon2id_agrees_with_its_reference() {
        // From the test file of the reference implementation: version 0x13, t = 2, m = 2^8, p = 1.
        let cost = Cost { memory_kib: 256, passes: 2, lanes: 1 };
        let mut key = [0; 32];
        let hasher = hasher(cost).unwrap();
        hasher.hash_password_into(b"password", b"somesalt", &mut key).unwrap();
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
    }

    #[test]
    fn debug_shows_nothing() {
        let phc = hash(b"x", [0; 16], CHEAP).unwrap();
        assert_eq!(format!("{phc:?}"), "Phc(..)");
    }
}
