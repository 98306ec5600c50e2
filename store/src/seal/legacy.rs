//! Passwords of accounts that come from the older program (fsmtp-v2), so that its users can log in
//! once and be sealed to.
//!
//! The stored text is `base64(hash).salt`: PBKDF2-HMAC-SHA1 over 4,000 iterations to 32 bytes, with
//! the salt's letters and digits as they stand. It is weak by today's measure: at the first login
//! that [`verify`] lets through, make a [`PasswordWrap`](super::PasswordWrap) and forget the text.
//!
//! Limits: a stored text of [`STORED_BYTES_MAX`] bytes. Failure: what cannot be read never matches.

use core::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;

use crate::password::PASSWORD_BYTES_MAX;

/// The longest stored text that is looked at; the program itself wrote 70 bytes.
pub const STORED_BYTES_MAX: usize = 128;

const HASH_BYTES: usize = 32;
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_000).unwrap();

/// Whether `stored` has the form that the older program wrote.
#[must_use]
pub fn is_readable(stored: &str) -> bool {
    parts(stored).is_some()
}

/// Hash and salt.
fn parts(stored: &str) -> Option<(Vec<u8>, &str)> {
    if stored.len() > STORED_BYTES_MAX {
        return None;
    }
    let (hash, salt) = stored.split_once('.')?;
    if salt.is_empty() || !salt.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let hash = STANDARD.decode(hash).ok()?;
    // PBKDF2 would be compared at whatever length it is given.
    (hash.len() == HASH_BYTES).then_some((hash, salt))
}

/// Whether `password` is the one that `stored` was made from. Takes about 1 ms.
#[must_use]
pub fn verify(password: &[u8], stored: &str) -> bool {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return false;
    }
    let Some((hash, salt)) = parts(stored) else { return false };
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA1;
    pbkdf2::verify(algorithm, ITERATIONS, salt.as_bytes(), password, &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both computed with Python's `hashlib.pbkdf2_hmac`.
    const KNOWN: [(&str, &str); 2] = [
        ("jan123", "Jz6t+3gOzJcBDsnJaWQ7HUqBzgLGXhW4y0QkIYwx0j8=.abcdefghijklmnopqrstuvwxy"),
        (
            "wachtwoord met spaties",
            "kPPIs7RmLqvh9OHvIFKQFlPZiAuAOk4E9sDS8tlmr68=.Zq1Xw2Ec3Rv4Tb5Yn6Um7Ik8O",
        ),
    ];

    #[test]
    fn known_passwords_match() {
        for (password, stored) in KNOWN {
            assert!(verify(password.as_bytes(), stored), "{password}");
            assert!(!verify(b"jan124", stored) && !verify(b"", stored));
        }
    }

    #[test]
    fn texts_that_are_none_never_match() {
        let (password, stored) = KNOWN[0];
        let (hash, salt) = stored.split_once('.').unwrap();
        for bad in [
            String::new(),
            ".".into(),
            hash.into(),
            format!("{hash}."),
            format!(".{salt}"),
            format!("{}.{salt}", &hash[1..]),
            format!("Jz6t.{salt}"),
            format!("{hash}.{salt}-"),
            format!("{hash}.{}", salt.repeat(8)),
            format!("{hash} .{salt}"),
        ] {
            assert!(!verify(password.as_bytes(), &bad), "{bad}");
        }
        assert!(!verify(&[b'x'; PASSWORD_BYTES_MAX + 1], stored));
    }
}
