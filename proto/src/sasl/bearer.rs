//! OAUTHBEARER (RFC 7628): the message is read and the token handed to the desk.

use super::scram::unescape;
use super::{Failure, Secret, TOKEN_BYTES_MAX, text};

/// What parts the fields (RFC 7628 §3.1).
const SEPARATOR: char = '\x01';

/// RFC 7628 §3.1: `gs2-header ^A *(key=value ^A) ^A`. The user may stay unnamed.
pub(super) fn parse(message: &[u8]) -> Result<(Box<str>, Secret), Failure> {
    let message = core::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
    let (header, fields) = message.split_once(SEPARATOR).ok_or(Failure::Malformed)?;
    let user = user(header)?;
    let fields = fields.strip_suffix("\x01\x01").ok_or(Failure::Malformed)?;
    let mut token = None;
    for field in fields.split(SEPARATOR) {
        let (key, value) = field.split_once('=').ok_or(Failure::Malformed)?;
        // RFC 7628 §3.1.1: keys that are not understood are ignored.
        if key == "auth" && token.replace(value).is_some() {
            return Err(Failure::Malformed);
        }
    }
    let (scheme, token) = token.and_then(|t| t.split_once(' ')).ok_or(Failure::Malformed)?;
    let token = token.trim_start_matches(' ').as_bytes();
    // RFC 6750 §2.1: b64token.
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    if !scheme.eq_ignore_ascii_case("Bearer") || token.is_empty() || !token.iter().all(allowed) {
        return Err(Failure::Malformed);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Failure::Refused);
    }
    Ok((user, Secret::new(token)))
}

/// The user that the header names; this mechanism has no channel binding (RFC 7628 §3.1).
fn user(header: &str) -> Result<Box<str>, Failure> {
    let (flag, rest) = header.split_once(',').ok_or(Failure::Malformed)?;
    let identity = rest.strip_suffix(',').ok_or(Failure::Malformed)?;
    if !matches!(flag, "n" | "y") {
        return Err(Failure::Malformed);
    }
    if identity.is_empty() {
        return Ok("".into());
    }
    let name = unescape(identity.strip_prefix("a=").ok_or(Failure::Malformed)?)?;
    text::name(name.as_bytes())?;
    Ok(name.into())
}
