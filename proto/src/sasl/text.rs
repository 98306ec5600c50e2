//! What a name and a password may look like; the mechanisms call this with what they cut out.

use super::{Failure, NAME_BYTES_MAX, PASSWORD_BYTES_MAX, Secret};
use crate::wire::token::is_visible;

/// A name: UTF-8 of 1 to [`NAME_BYTES_MAX`] bytes without controls and odd spaces.
pub(super) fn name(bytes: &[u8]) -> Result<&str, Failure> {
    let name = core::str::from_utf8(bytes).map_err(|_| Failure::Malformed)?;
    // RFC 4013 §2.3: controls are prohibited.
    let possible = !name.is_empty() && bytes.len() <= NAME_BYTES_MAX;
    if possible && name.chars().all(is_visible) { Ok(name) } else { Err(Failure::Refused) }
}

/// A password: UTF-8 of 1 to [`PASSWORD_BYTES_MAX`] bytes without controls.
pub(super) fn password(bytes: &[u8]) -> Result<Secret, Failure> {
    let password = core::str::from_utf8(bytes).map_err(|_| Failure::Malformed)?;
    let possible = !password.is_empty() && bytes.len() <= PASSWORD_BYTES_MAX;
    if possible && !password.chars().any(char::is_control) {
        Ok(Secret::new(bytes))
    } else {
        Err(Failure::Refused)
    }
}

/// RFC 4422 §3.4.1: an authorization identity, which must be empty or the user's own name.
pub(super) fn authorization(identity: &[u8], user: &str) -> Result<(), Failure> {
    if identity.is_empty() || identity == user.as_bytes() { Ok(()) } else { Err(Failure::Refused) }
}
