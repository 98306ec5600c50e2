//! Base64 as the line protocols carry SASL messages: canonical, padded, nothing else let through.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Failure;

/// RFC 4648 §4.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// RFC 4648 §3.3, §3.5: no other characters, and one encoding for each message.
pub(super) fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Wiped in the end also when half of it turns out malformed.
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| Failure::Malformed)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// A line of the client (RFC 4954 §4): `*` gives up, an empty one is an empty message.
pub(super) fn response(line: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if line == b"*" { Err(Failure::Cancelled) } else { decode(line) }
}

/// The message in the command (RFC 4954 §4): `=` is an empty one, and nothing at all is an error.
pub(super) fn initial(word: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match word {
        b"=" => Ok(Zeroizing::default()),
        b"" => Err(Failure::Malformed),
        word => decode(word),
    }
}
