//! How the log looks on disk: segment header, records, checksums. Used by the spool only.
//!
//! A segment file is `segment_bytes` long. Its first page holds the segment header; records follow.
//! Everything is little-endian. Version 2:
//!
//! ```text
//! segment header   0 magic "fsmtpseg"   8 version u32   12 shard u32   16 number u64
//!                 24 segment_bytes u64   32 crc32 of bytes 0..32 u32   zeros to the page's end
//! record           0 magic u32   4 crc32 of all that follows, payload included   8 kind u8
//!                  9 three zeros 12 payload bytes u32   16 lsn u64   24 id u64   32 payload
//! batch payload    0 durable lsn u64   8 batch bytes u32   12 records u32
//! message payload  0 octets u64   8 head bytes u32   12 chunks u32   16 envelope bytes u32
//!                 20 keys bytes u32, 0 for a message in clear
//!                 24 chunk lsns u64 each, then keys, envelope, head, tail
//! keys             0 received u64   8 recipients u32, then for each:
//!                    its wrap, 65 bytes   window record bytes u16   window record
//! chunk payload    the bytes
//! ```
//!
//! A batch begins at a page boundary with a batch record, whose id field is the last message id
//! that was given out; `records` records follow without gaps, then zeros to the page boundary.
//! A record's lsn is its place in the log, so bytes that an earlier use of a recycled file left
//! behind never pass for records of the segment that the file has become. Fails by refusing: a
//! record is whole and in its place, or it is none.
//!
//! Of a message with keys, chunks, envelope, head and tail are sealed as `seal` says, each 16 bytes
//! longer than what it holds; the octets count what they hold. Who gets it, and when it was taken,
//! stands in the keys in clear, because the index must know it when the log is replayed.
//!
//! What each version can read: version 2 reads 1, which had no keys, and 2.

use fsmtp_rt::PAGE_BYTES;

use crate::id::{Lsn, QueueId};

/// The newest version of the segment format. A log that began with an older one goes on in it.
pub(crate) const SEGMENT_VERSION: u32 = 2;
/// The oldest that is read.
const SEGMENT_VERSION_MIN: u32 = 1;
/// The most bytes that one batch can have, whatever the configuration says. Recovery relies on it:
/// nothing that was not durable can lie further than this behind the last whole batch.
pub(crate) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 32;
/// Bytes of a batch record.
pub(crate) const BATCH_RECORD_BYTES: usize = RECORD_HEAD_BYTES + BATCH_PAYLOAD_BYTES;
/// Bytes of a message payload before the chunk list.
pub(crate) const MESSAGE_FIXED_BYTES: usize = 24;
/// The page as a file offset.
pub(crate) const PAGE: u64 = PAGE_BYTES as u64;

const BATCH_PAYLOAD_BYTES: usize = 16;
const SEGMENT_MAGIC: &[u8; 8] = b"fsmtpseg";
const RECORD_MAGIC: [u8; 4] = *b"fR1\n";
const SEGMENT_HEADER_BYTES: usize = 36;

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The beginning of a batch.
    Batch,
    /// The end of a message: envelope, head, the places of its chunks, tail. It exists from here.
    Message,
    /// A piece of a message that is still arriving.
    Chunk,
    /// A message that compaction wrote anew; it was delivered before.
    MovedMessage,
    /// A chunk that compaction wrote anew.
    MovedChunk,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Message => 2,
            Self::Chunk => 3,
            Self::MovedMessage => 4,
            Self::MovedChunk => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Batch,
            2 => Self::Message,
            3 => Self::Chunk,
            4 => Self::MovedMessage,
            5 => Self::MovedChunk,
            _ => return None,
        })
    }

    /// The kind of the record when compaction writes it anew; a batch is never written anew.
    pub(crate) const fn moved(self) -> Option<Self> {
        match self {
            Self::Batch => None,
            Self::Message | Self::MovedMessage => Some(Self::MovedMessage),
            Self::Chunk | Self::MovedChunk => Some(Self::MovedChunk),
        }
    }

    /// Whether it holds the end of a message.
    pub(crate) const fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::MovedMessage)
    }

    /// Whether it holds a chunk.
    pub(crate) const fn is_chunk(self) -> bool {
        matches!(self, Self::Chunk | Self::MovedChunk)
    }
}

/// The first page of a segment, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: u32,
    pub(crate) number: u64,
    pub(crate) segment_bytes: u64,
}

/// Why a page is no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SegmentHeaderError {
    /// A version that is not known here.
    Version(u32),
    /// Not a header at all, or a damaged one.
    Damaged,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shard.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, SegmentHeaderError> {
        let bytes =
            page.first_chunk::<SEGMENT_HEADER_BYTES>().ok_or(SegmentHeaderError::Damaged)?;
        if &bytes[..8] != SEGMENT_MAGIC {
            return Err(SegmentHeaderError::Damaged);
        }
        // The version is looked at before the checksum: a later version may lay the rest out anew.
        match u32_at(bytes, 8) {
            SEGMENT_VERSION_MIN..=SEGMENT_VERSION => {}
            version => return Err(SegmentHeaderError::Version(version)),
        }
        if crc32fast::hash(&bytes[..32]) != u32_at(bytes, 32) {
            return Err(SegmentHeaderError::Damaged);
        }
        Ok(Self {
            shard: u32_at(bytes, 12),
            number: u64_at(bytes, 16),
            segment_bytes: u64_at(bytes, 24),
        })
    }
}

/// The fixed part of a record, decoded. Says nothing about the payload's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHead {
    pub(crate) kind: Kind,
    pub(crate) payload_bytes: usize,
    pub(crate) lsn: Lsn,
    pub(crate) id: QueueId,
    crc: u32,
}

impl RecordHead {
    /// A head to be written; [`seal_record`] fills the checksum in.
    pub(crate) const fn new(kind: Kind, payload_bytes: usize, lsn: Lsn, id: QueueId) -> Self {
        Self { kind, payload_bytes, lsn, id, crc: 0 }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        let payload_bytes = u32::try_from(self.payload_bytes).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[8] = self.kind.code();
        bytes[12..16].copy_from_slice(&payload_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[24..].copy_from_slice(&self.id.0.to_le_bytes());
        bytes
    }

    /// The head at the front of `bytes`, when it is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEAD_BYTES>()?;
        if bytes[..4] != RECORD_MAGIC || bytes[9..12] != [0; 3] {
            return None;
        }
        let payload_bytes = usize::try_from(u32_at(bytes, 12)).ok()?;
        // No record is larger than a batch, so no length makes a reader allocate more than that.
        if payload_bytes > BATCH_BYTES_MAX - RECORD_HEAD_BYTES {
            return None;
        }
        Some(Self {
            kind: Kind::from_code(bytes[8])?,
            payload_bytes,
            lsn: Lsn(u64_at(bytes, 16)),
            id: QueueId(u64_at(bytes, 24)),
            crc: u32_at(bytes, 4),
        })
    }

    /// Bytes of head and payload.
    pub(crate) const fn record_bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.payload_bytes
    }
}

/// Writes the checksum into a whole record; to be called once everything else stands.
pub(crate) fn seal_record(record: &mut [u8]) {
    if let Some((head, covered)) = record.split_first_chunk_mut::<8>() {
        let crc = crc32fast::hash(covered);
        head[4..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The whole and undamaged record at the front of `bytes`, if its lsn is `lsn`.
pub(crate) fn record_at(bytes: &[u8], lsn: Lsn) -> Option<(RecordHead, &[u8])> {
    let head = RecordHead::decode(bytes)?;
    let record = bytes.get(..head.record_bytes())?;
    let (_, covered) = record.split_first_chunk::<8>()?;
    let whole = head.lsn == lsn && crc32fast::hash(covered) == head.crc;
    whole.then(|| (head, record.get(RECORD_HEAD_BYTES..).unwrap_or(&[])))
}

/// What a batch record says about its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHead {
    /// Where the log ended when the batch was written: everything before was on stable storage.
    pub(crate) durable: Lsn,
    /// Length of the batch with its batch record and padding.
    pub(crate) bytes: usize,
    /// Records in it, not counting the batch record.
    pub(crate) records_count: u32,
    /// The last message id given out.
    pub(crate) last_id: QueueId,
}

impl BatchHead {
    /// The whole batch record.
    pub(crate) fn encode(&self, lsn: Lsn) -> [u8; BATCH_RECORD_BYTES] {
        let mut bytes = [0; BATCH_RECORD_BYTES];
        let head = RecordHead::new(Kind::Batch, BATCH_PAYLOAD_BYTES, lsn, self.last_id);
        let batch_bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        bytes[..RECORD_HEAD_BYTES].copy_from_slice(&head.encode());
        bytes[32..40].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&batch_bytes.to_le_bytes());
        bytes[44..].copy_from_slice(&self.records_count.to_le_bytes());
        seal_record(&mut bytes);
        bytes
    }

    /// The batch record at the front of `bytes`, if its lsn is `lsn`.
    pub(crate) fn decode(bytes: &[u8], lsn: Lsn) -> Option<Self> {
        let (head, payload) = record_at(bytes, lsn)?;
        let payload = payload.first_chunk::<BATCH_PAYLOAD_BYTES>()?;
        let bytes = usize::try_from(u32_at(payload, 8)).ok()?;
        let whole = head.kind == Kind::Batch
            && head.payload_bytes == BATCH_PAYLOAD_BYTES
            && bytes.is_multiple_of(PAGE_BYTES)
            && (PAGE_BYTES..=BATCH_BYTES_MAX).contains(&bytes);
        whole.then(|| Self {
            durable: Lsn(u64_at(payload, 0)),
            bytes,
            records_count: u32_at(payload, 12),
            last_id: head.id,
        })
    }
}

/// The fixed part of a message payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MessageHead {
    /// Bytes of the message: head, chunks and tail.
    pub(crate) octets: u64,
    pub(crate) head_bytes: usize,
    pub(crate) chunks_count: usize,
    pub(crate) envelope_bytes: usize,
    /// 0 when the message lies in clear.
    pub(crate) keys_bytes: usize,
}

impl MessageHead {
    pub(crate) fn encode(&self) -> [u8; MESSAGE_FIXED_BYTES] {
        let long = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = [0; MESSAGE_FIXED_BYTES];
        bytes[..8].copy_from_slice(&self.octets.to_le_bytes());
        bytes[8..12].copy_from_slice(&long(self.head_bytes));
        bytes[12..16].copy_from_slice(&long(self.chunks_count));
        bytes[16..20].copy_from_slice(&long(self.envelope_bytes));
        bytes[20..].copy_from_slice(&long(self.keys_bytes));
        bytes
    }
}

/// A message payload, cut into its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageParts<'a> {
    pub(crate) octets: u64,
    /// The chunk list as it was written; compaction may have moved them since.
    chunks: &'a [u8],
    /// Empty when the message lies in clear.
    pub(crate) keys: &'a [u8],
    pub(crate) envelope: &'a [u8],
    /// Head and tail of the message, one after the other.
    pub(crate) body: &'a [u8],
    /// Where in `body` the tail begins.
    pub(crate) head_bytes: usize,
}

impl<'a> MessageParts<'a> {
    pub(crate) fn decode(payload: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_first_chunk::<MESSAGE_FIXED_BYTES>()?;
        let long = |at| usize::try_from(u32_at(fixed, at)).ok();
        let (chunks, rest) = rest.split_at_checked(long(12)?.checked_mul(8)?)?;
        let (keys, rest) = rest.split_at_checked(long(20)?)?;
        let (envelope, body) = rest.split_at_checked(long(16)?)?;
        let head_bytes = long(8)?;
        let whole = head_bytes <= body.len();
        whole.then(|| Self { octets: u64_at(fixed, 0), chunks, keys, envelope, body, head_bytes })
    }

    pub(crate) fn chunks(&self) -> impl ExactSizeIterator<Item = Lsn> + 'a {
        self.chunks.chunks_exact(8).map(|bytes| Lsn(u64_at(bytes, 0)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { shard: 3, number: 9, segment_bytes: 1 << 20 };

    #[test]
    fn segment_headers_read_back_and_refuse_damage() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x40;
            assert!(SegmentHeader::decode(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..35]), Err(SegmentHeaderError::Damaged));
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = HEADER.encode();
        bytes[8] = 3;
        assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentHeaderError::Version(3)));
    }

    fn record(payload: &[u8], lsn: Lsn) -> Vec<u8> {
        let head = RecordHead::new(Kind::Chunk, payload.len(), lsn, QueueId(7));
        let mut bytes = [&head.encode(), payload].concat();
        seal_record(&mut bytes);
        bytes
    }

    #[test]
    fn records_read_back_only_whole_and_in_their_place() {
        let bytes = record(b"hello", Lsn(4096));
        let (head, payload) = record_at(&bytes, Lsn(4096)).unwrap();
        assert_eq!((head.kind, head.id, payload), (Kind::Chunk, QueueId(7), &b"hello"[..]));
        assert!(record_at(&bytes, Lsn(8192)).is_none(), "left behind by an earlier segment");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(record_at(&damaged, Lsn(4096)).is_none(), "byte {at}");
            assert!(record_at(&bytes[..at], Lsn(4096)).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_anyone_allocates() {
        let mut bytes = record(b"x", Lsn(0));
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(RecordHead::decode(&bytes).is_none());
    }

    #[test]
    fn batch_heads_read_back() {
        let head = BatchHead {
            durable: Lsn(4096),
            bytes: 3 * PAGE_BYTES,
            records_count: 5,
            last_id: QueueId(77),
        };
        let bytes = head.encode(Lsn(8192));
        assert_eq!(BatchHead::decode(&bytes, Lsn(8192)), Some(head));
        let odd = BatchHead { bytes: 100, ..head }.encode(Lsn(8192));
        assert_eq!(BatchHead::decode(&odd, Lsn(8192)), None);
        assert_eq!(BatchHead::decode(&record(b"0123456789abcdef", Lsn(0)), Lsn(0)), None);
    }

    #[test]
    fn message_payloads_are_cut_into_their_parts() {
        let head = MessageHead {
            octets: 99,
            head_bytes: 2,
            chunks_count: 2,
            envelope_bytes: 3,
            keys_bytes: 4,
        };
        let mut payload = head.encode().to_vec();
        payload.extend_from_slice(&5u64.to_le_bytes());
        payload.extend_from_slice(&6u64.to_le_bytes());
        payload.extend_from_slice(b"keysenvHEtail");
        let parts = MessageParts::decode(&payload).unwrap();
        assert_eq!(parts.chunks().collect::<Vec<_>>(), [Lsn(5), Lsn(6)]);
        assert_eq!((parts.octets, parts.envelope, parts.body), (99, &b"env"[..], &b"HEtail"[..]));
        assert_eq!((parts.head_bytes, parts.keys), (2, &b"keys"[..]));
        for cut in 0..payload.len() - 4 {
            assert!(MessageParts::decode(&payload[..cut]).is_none(), "cut at {cut}");
        }
    }
}
