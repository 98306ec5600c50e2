//! CHUNKING and BINARYMIME (RFC 3030): the argument of BDAT. The chunk itself is read by the
//! session; the BODY parameter is in `eight_bit.rs`.

use super::Extension;
use crate::smtp::reply::Reply;
use crate::wire::token;

pub(super) const CHUNKING: Extension = Extension::announced_by(|_, text| text.push_str("CHUNKING"));
pub(super) const BINARY: Extension = Extension::announced_by(|_, text| text.push_str("BINARYMIME"));

/// What a BDAT line announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkHeader {
    /// Bytes that follow the line.
    pub(crate) bytes: u64,
    /// Whether they end the message.
    pub(crate) last: bool,
}

/// Parses `chunk-size [ SP "LAST" ]` (RFC 3030 §2).
///
/// # Errors
///
/// When the size cannot be read, nobody knows where the next command begins, and the reply closes
/// the connection. When only what follows the size is wrong, the second value has the size, so
/// that the chunk can be skipped.
pub(crate) fn parse_chunk_header(argument: &[u8]) -> Result<ChunkHeader, (Reply, u64)> {
    let mut words = argument.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let size = words.next().and_then(|word| token::decimal(word).ok());
    let bytes = size.ok_or((Reply::ChunkSizeUnknown, 0))?;
    match (words.next(), words.next()) {
        (None, _) => Ok(ChunkHeader { bytes, last: false }),
        (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => {
            Ok(ChunkHeader { bytes, last: true })
        }
        _ => Err((Reply::ChunkSyntax, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_the_word_last() {
        let header = |bytes, last| Ok(ChunkHeader { bytes, last });
        for (argument, parsed) in [
            (&b"0"[..], header(0, false)),
            (b"86 last", header(86, true)),
            (b"18446744073709551615  LAST", header(u64::MAX, true)),
            (b"", Err((Reply::ChunkSizeUnknown, 0))),
            (b"LAST", Err((Reply::ChunkSizeUnknown, 0))),
            (b"-1", Err((Reply::ChunkSizeUnknown, 0))),
            (b"18446744073709551616", Err((Reply::ChunkSizeUnknown, 0))),
            (b"7 FIRST", Err((Reply::ChunkSyntax, 7))),
            (b"7 LAST LAST", Err((Reply::ChunkSyntax, 7))),
        ] {
            assert_eq!(parse_chunk_header(argument), parsed, "{argument:?}");
        }
    }
}
