//! PLAIN (RFC 4616), and the two questions of LOGIN.

use super::{Failure, Secret, text};

/// What LOGIN asks for first; clients compare it with the words that everybody sends.
pub(super) const ASK_NAME: &[u8] = b"Username:";
/// What LOGIN asks for then.
pub(super) const ASK_PASSWORD: &[u8] = b"Password:";

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
pub(super) fn parse(message: &[u8]) -> Result<(Box<str>, Secret), Failure> {
    let mut parts = message.split(|byte| *byte == 0);
    let (Some(identity), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Failure::Malformed);
    };
    let user = text::name(user)?;
    text::authorization(identity, user)?;
    Ok((user.into(), text::password(password)?))
}
