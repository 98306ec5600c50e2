//! A message as it lies apart from the spool: in pieces that some other store keeps by its name.
//!
//! Made from the message's records ([`Reader::raw`](super::Reader::raw)), sealed or in clear as it
//! was: piece 0 has the head and the tail of the message, with the count of the others in front,
//! which are its chunks in their order. Failure: a first piece that contradicts itself is refused.

use super::keys::Recipient;
use crate::seal::CHUNK_BYTES_MAX;

/// The layout of piece 0.
const VERSION: u8 = 1;
/// Version, whether it is sealed, bytes of the head, count of the chunks.
const FIXED_BYTES: usize = 1 + 1 + 4 + 4;
/// The most chunks: 4 GiB.
const CHUNKS_MAX: u32 = 1 << 16;

/// The longest piece: a record of a message has at most 1 MiB, a chunk 64 KiB.
pub const PIECE_BYTES_MAX: usize = 1024 * 1024;
const _: () = assert!(CHUNK_BYTES_MAX < PIECE_BYTES_MAX);

/// A message taken out of the spool, as far as its own record goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raw {
    /// Who gets it, with what opens it.
    pub recipients: Vec<Recipient>,
    /// Its length in bytes, as it was stored.
    pub octets: u64,
    /// Its envelope, sealed or in clear as it was.
    pub envelope: Vec<u8>,
    /// Piece 0.
    pub first: Vec<u8>,
    /// How many pieces follow it.
    pub chunks_count: u32,
}

/// Where things are in a first piece.
pub(super) struct First {
    pub(super) is_sealed: bool,
    pub(super) head_at: usize,
    pub(super) tail_at: usize,
    pub(super) chunks_count: usize,
}

/// Piece 0 of a message.
pub(super) fn encode(
    is_sealed: bool,
    body: &[u8],
    head_bytes: usize,
    chunks_count: u32,
) -> Vec<u8> {
    let mut piece = Vec::with_capacity(FIXED_BYTES + body.len());
    piece.extend_from_slice(&[VERSION, u8::from(is_sealed)]);
    piece.extend_from_slice(&u32::try_from(head_bytes).unwrap_or(u32::MAX).to_le_bytes());
    piece.extend_from_slice(&chunks_count.to_le_bytes());
    piece.extend_from_slice(body); // copy: what lies around it in the record stays behind
    piece
}

/// What [`encode`] has made.
pub(super) fn decode(piece: &[u8]) -> Result<First, String> {
    let early = || "its first piece ends early".to_owned();
    let (&version, rest) = piece.split_first().ok_or_else(early)?;
    if version != VERSION {
        return Err(format!("its pieces have version {version}, this program knows {VERSION}"));
    }
    let (&sealed, rest) = rest.split_first().ok_or_else(early)?;
    let (head, rest) = rest.split_first_chunk().ok_or_else(early)?;
    let (count, rest) = rest.split_first_chunk().ok_or_else(early)?;
    let head_bytes = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
    let count = u32::from_le_bytes(*count);
    if sealed > 1 || head_bytes > rest.len() || count > CHUNKS_MAX {
        return Err("its first piece contradicts itself".to_owned());
    }
    Ok(First {
        is_sealed: sealed == 1,
        head_at: FIXED_BYTES,
        tail_at: FIXED_BYTES + head_bytes,
        chunks_count: usize::try_from(count).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_first_piece_reads_back() {
        let piece = encode(true, b"headtail", 4, 7);
        let first = decode(&piece).unwrap();
        assert_eq!(piece.get(first.head_at..first.tail_at), Some(&b"head"[..]));
        assert_eq!(piece.get(first.tail_at..), Some(&b"tail"[..]));
        assert_eq!((first.is_sealed, first.chunks_count), (true, 7));
        for end in 0..FIXED_BYTES {
            assert!(decode(&piece[..end]).is_err());
        }
        assert!(decode(&encode(false, b"head", 5, 0)).is_err(), "a head that is longer than all");
        assert!(decode(&encode(false, b"", 0, CHUNKS_MAX + 1)).is_err());
        let mut later = piece;
        later[0] = 2;
        assert!(decode(&later).is_err_and(|why| why.contains("version 2")));
    }

    proptest! {
        #[test]
        fn hostile_pieces_do_no_harm(piece in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(first) = decode(&piece) {
                prop_assert!(piece.get(first.head_at..first.tail_at).is_some());
            }
        }
    }
}
