//! The spool: one shard's append-only log, and the home of message bodies.
//!
//! The desk asks for an [`Incoming`] per message, pushes the body as it arrives and commits; the
//! commit resolves when the message is on stable storage. Committed messages go to the [`Sink`] in
//! log order. Bodies are read back through a [`Reader`]. Space comes back by [`Spool::compact`].
//!
//! # The log
//!
//! Records lie in segment files of fixed size, named `{shard}-{number}.seg`; a record's [`Lsn`] is
//! `number * segment_bytes + offset`. Records are gathered in a batch that is written, padded to
//! pages, with **one** durable write; one batch is under way at a time, the next one fills
//! meanwhile. A batch is all or nothing, and begins with a record that says where the log ended.
//! Whoever waits for a batch is woken once it is durable, after its messages went to the sink.
//!
//! # What can be on disk after a crash, and what recovery does with it
//!
//! * S1, a whole batch, acknowledged or not: kept; its messages are replayed from the mark on.
//! * S2, the last batch whole, perhaps in a volatile cache only: written once more, then as S1.
//! * S3, behind the last whole batch some pages of one that was under way: cut, by writing zeros
//!   over them, so that none of its records can come back later.
//! * S4, a bad batch before a place that was durable (a later batch says so, or the mark): stop
//!   with [`StoreError::Corrupt`], which names the place.
//! * S5, records that an earlier use of a recycled file left: none, their lsn is another place's.
//! * S6, the next segment, prepared, without a batch: kept as the next one.
//! * S7, further segments without a batch (the first batch after a change of segments was torn):
//!   removed.
//! * S8, a spare file of any length and contents, or a file that had not become a segment yet: kept
//!   for reuse when it is a spare of the right length, else removed.
//! * S9, chunks without their message (the transfer was cut short): dead bytes, for compaction.
//! * S10, records that compaction wrote anew, while the index names the old ones: dead bytes; the
//!   old segment is still there, since it goes last.
//! * S11, a segment of which the index knows no live byte: recycled by the next compaction.
//! * S12, a segment header of another version: [`StoreError::Version`], nothing is touched.
//! * S13, a damaged header, a wrong length, a gap between segments, a log that ends before the
//!   mark: [`StoreError::Corrupt`], no segment is touched.
//!
//! The policy for the end of the log is `TolerateTornTail`. Its limit: damage *within* the very
//! last batch looks like S3, because nothing behind it says that it was durable; unless the mark
//! does.
//!
//! # Limits
//!
//! Log memory: two blocks of `batch_bytes_max`; who finds both full waits in turn. An [`Incoming`]
//! holds at most `chunk_bytes`. Messages that the sink does not take wait in a backlog of
//! `backlog_count_max` (and those under way when it filled); then [`StoreError::Busy`]. What
//! messages hold in memory, from their first byte until the sink has taken them, is at most
//! `waiting_bytes_max` in all; who needs more than is left hears [`StoreError::Busy`], too.
//!
//! # Failure
//!
//! A failed batch write poisons the spool: all who wait, and all later calls, get
//! [`StoreError::Poisoned`]. A segment that cannot be prepared is an error for those who need it,
//! and is tried again every second. Below `reserve_bytes` new messages get
//! [`StoreError::DiskLow`]; those under way may finish in what was preallocated.

mod apart;
mod commit;
mod compact;
mod files;
mod incoming;
mod keys;
mod log;
mod reader;
mod recover;
mod scan;
mod segment;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_rt::{Class, PAGE_BYTES, Runtime, UnixTime};

pub use apart::{PIECE_BYTES_MAX, Raw};
pub use compact::Compaction;
pub use files::{FILES_COUNT_MAX, SegmentFiles};
pub use incoming::Incoming;
pub use keys::{Recipient, RecipientKey};
pub use reader::Reader;
pub use recover::{Cut, Recovery};

use crate::error::StoreError;
use crate::format::{BATCH_BYTES_MAX, PAGE, SegmentHeader};
use crate::id::{Lsn, NodeNumber, QueueId, ShardId};
use crate::seal::{CHUNK_BYTES_MAX, TAG_BYTES};
use log::Core;

/// More than what the record of a window holds in memory.
const WINDOW_MEMORY_BYTES: usize = 640;

/// How a spool is laid out and when it refuses.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Whose log it is.
    pub shard: ShardId,
    /// The node, where messages need names that no other node gives out.
    pub node: Option<NodeNumber>,
    /// Length of a segment file, a multiple of the page. Must not change while segments exist.
    pub segment_bytes: u64,
    /// New messages are refused while fewer bytes than this are free.
    pub reserve_bytes: u64,
    /// Free space is looked at each time so many bytes were written.
    pub space_check_bytes: u64,
    /// Messages longer than this go to the log in pieces of this length.
    pub chunk_bytes: usize,
    /// The largest batch, a multiple of the page; also the largest record. At most 1 MiB.
    pub batch_bytes_max: usize,
    /// Messages that may wait for the sink before new ones are refused.
    pub backlog_count_max: usize,
    /// Memory for messages under way: buffers while they arrive, chunk lists, and envelopes while
    /// they wait for the log or the sink.
    pub waiting_bytes_max: usize,
    /// How often the writer lets all other tasks run before it seals a batch: a pass costs next to
    /// nothing when nothing else is ready, and gathers commits that are about to come when it is.
    pub gather_turns: u32,
    /// A segment is written anew when less than this share of it is live.
    pub compact_live_percent: u64,
}

impl SpoolConfig {
    /// The usual layout for `shard`.
    #[must_use]
    pub const fn new(shard: ShardId) -> Self {
        Self {
            shard,
            node: None,
            segment_bytes: 64 * 1024 * 1024,
            reserve_bytes: 256 * 1024 * 1024,
            space_check_bytes: 16 * 1024 * 1024,
            // With its tag a sealed one fills 64 KiB.
            chunk_bytes: CHUNK_BYTES_MAX - TAG_BYTES,
            batch_bytes_max: BATCH_BYTES_MAX,
            backlog_count_max: 16 * 1024,
            // Arbitrary: 1,000 large messages arrive at once within it, with room for their
            // envelopes; less would refuse them, more lets hostile envelopes fill the memory.
            waiting_bytes_max: 96 * 1024 * 1024,
            gather_turns: 1,
            compact_live_percent: 40,
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let wrong = |what: &str| Err(StoreError::Invalid(format!("spool configuration: {what}")));
        if self.shard.0 > ShardId::MAX {
            return wrong("the shard number is too large");
        }
        if !self.batch_bytes_max.is_multiple_of(PAGE_BYTES)
            || !(2 * PAGE_BYTES..=BATCH_BYTES_MAX).contains(&self.batch_bytes_max)
        {
            return wrong("batch_bytes_max must be whole pages, from 2 pages to 1 MiB");
        }
        if !self.segment_bytes.is_multiple_of(PAGE)
            || self.segment_bytes < PAGE + self.batch_bytes_max as u64
        {
            return wrong("segment_bytes must be whole pages, and hold a header page and a batch");
        }
        // A chunk must fit into a batch, together with what a record and a batch need, and a sealed
        // one into the memory of who opens it.
        if self.chunk_bytes > CHUNK_BYTES_MAX {
            return wrong("chunk_bytes must be at most 64 KiB");
        }
        if self.chunk_bytes == 0 || self.chunk_bytes + 1024 > self.batch_bytes_max {
            return wrong("chunk_bytes must be at least 1, and 1 KiB less than batch_bytes_max");
        }
        if self.waiting_bytes_max <= self.chunk_bytes {
            return wrong("waiting_bytes_max must be more than a message's buffer, chunk_bytes");
        }
        Ok(())
    }
}

/// The length of segments that the segment with this first page was made with; none when the page
/// is not that of a segment.
#[must_use]
pub fn made_with_segment_bytes(first_page: &[u8]) -> Option<u64> {
    SegmentHeader::decode(first_page).ok().map(|header| header.segment_bytes)
}

/// Who is told of messages once they are durable: the mailbox index.
pub trait Sink {
    /// Takes a message, or gives it back when there is no room; it is then offered again later.
    ///
    /// Called in strict log order, before the message's commit resolves (unless it, or one before
    /// it, was given back), and once more for each message at or after the mark when a spool opens.
    /// Must not block and must not call the spool.
    ///
    /// # Errors
    /// The message itself: try again later.
    #[allow(clippy::result_large_err)] // WHY: the value moves through, it is not an error's baggage
    fn committed(&self, message: Committed) -> Result<(), Committed>;

    /// Whether it takes nothing any more, so that waiting for it is in vain.
    fn has_ended(&self) -> bool {
        false
    }
}

/// A message that is on stable storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its name.
    pub id: QueueId,
    /// Whose log it is in.
    pub shard: ShardId,
    /// Where its record begins.
    pub lsn: Lsn,
    /// Where its record ends: the mark to keep once it is indexed.
    pub end: Lsn,
    /// Bytes of the message.
    pub octets: u64,
    /// Where its chunks begin, in order; each but the last stretch of the message is
    /// [`SpoolConfig::chunk_bytes`] long.
    pub chunks: Vec<Lsn>,
    /// When it was taken.
    pub received: UnixTime,
    /// Who gets it. The rest of the envelope stays in the log: [`Reader::envelope`].
    pub recipients: Vec<Recipient>,
}

impl Committed {
    /// About what it holds in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let is_sealed = self.recipients.first().is_some_and(|to| to.key.is_some());
        fixed_bytes(self.recipients.len(), is_sealed) + self.chunks.len() * size_of::<Lsn>()
    }
}

/// What a committed message holds besides its list of chunks. Each window of a sealed one is
/// counted as if no other message shared it.
const fn fixed_bytes(recipients_count: usize, is_sealed: bool) -> usize {
    let window_bytes = if is_sealed { WINDOW_MEMORY_BYTES } else { 0 };
    size_of::<Committed>() + recipients_count * (size_of::<Recipient>() + window_bytes)
}

/// What a resolved commit says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The message's name.
    pub id: QueueId,
    /// Where its record begins.
    pub lsn: Lsn,
    /// Bytes of the message.
    pub octets: u64,
}

/// Where a body lies now, as the index knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyRef {
    /// The message's name; every record is checked against it.
    pub id: QueueId,
    /// Whose log it is in.
    pub shard: ShardId,
    /// Where its record begins.
    pub lsn: Lsn,
    /// Where its chunks begin, in order.
    pub chunks: Vec<Lsn>,
}

/// Where a message lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the spool.
    Spool(BodyRef),
    /// Apart from it: the mailbox back end gives its pieces out by their numbers.
    Apart(QueueId),
}

impl Place {
    /// The message's name.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        match self {
            Self::Spool(body) => body.id,
            Self::Apart(id) => *id,
        }
    }

    /// Where it lies in the spool; none when it does not.
    #[must_use]
    pub const fn spooled(&self) -> Option<&BodyRef> {
        match self {
            Self::Spool(body) => Some(body),
            Self::Apart(_) => None,
        }
    }
}

impl From<BodyRef> for Place {
    fn from(body: BodyRef) -> Self {
        Self::Spool(body)
    }
}

/// What compaction must know, and whom it must tell: the mailbox index.
///
/// An index that cannot answer must return an error; a wrong answer here loses mail.
#[allow(async_fn_in_trait)] // WHY: as in fsmtp-rt, shards share nothing
pub trait Liveness {
    /// Live bytes by segment number. A segment that is missing has none.
    ///
    /// # Errors
    /// Whatever keeps the index from answering; compaction stops.
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError>;
    /// Whether the record of this message at this place, message or chunk, is still referred to.
    ///
    /// # Errors
    /// Whatever keeps the index from answering; compaction stops.
    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError>;
    /// Replaces each place that is still referred to by its new one (message, from, to); durable
    /// when it resolves.
    ///
    /// # Errors
    /// Whatever kept that from happening; the old segment then stays.
    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError>;
    /// The mark: every message that ends at or before it is durably in the index.
    ///
    /// # Errors
    /// Whatever keeps the index from answering; compaction stops.
    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError>;
}

/// What a spool has done since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages whose record went into a batch.
    pub messages_count: u64,
    /// Chunks that went into a batch.
    pub chunks_count: u64,
    /// Records that compaction wrote anew.
    pub moved_count: u64,
    /// Durable writes: one per batch, each is one sync.
    pub batches_count: u64,
    /// Bytes of those writes, padding included.
    pub written_bytes: u64,
    /// Times that message bytes were copied: into an incoming buffer, and from there to a batch.
    pub copies_count: u64,
    /// Bytes so copied.
    pub copied_bytes: u64,
    /// Times that somebody had to wait for room in the log.
    pub room_waits_count: u64,
    /// Messages that the sink gave back.
    pub backlogged_count: u64,
    /// Segment files put into use.
    pub segments_count: u64,
    /// Segment files given back, as a spare or removed.
    pub recycled_count: u64,
}

/// One shard's log; clones are handles to the same one.
pub struct Spool<R: Runtime> {
    core: Rc<Core<R>>,
}

impl<R: Runtime> Spool<R> {
    /// Opens the log of `config.shard` in `disk`, making it when there is none; replays every
    /// message at or after `applied` through the sink, and returns when the sink has taken all.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a configuration that makes no sense or does not fit the files;
    /// [`StoreError::Version`] and [`StoreError::Corrupt`] as the table above says;
    /// [`StoreError::Io`] when the machine refuses.
    pub async fn open(
        rt: R,
        disk: R::Disk,
        config: SpoolConfig,
        applied: Lsn,
        sink: Rc<dyn Sink>,
    ) -> Result<(Self, Recovery), StoreError> {
        config.check()?;
        let (core, recovery) = recover::open(rt, disk, config, applied, sink).await?;
        let core = Rc::new(core);
        core.rt.spawn(Class::Spool, commit::write_batches(Rc::clone(&core)));
        core.rt.spawn(Class::Background, segment::keep_ahead(Rc::clone(&core)));
        Ok((Self { core }, recovery))
    }

    /// Begins a message. Costs an id; memory comes with the first byte.
    ///
    /// # Errors
    /// [`StoreError::DiskLow`], [`StoreError::Busy`] and [`StoreError::Poisoned`]; or
    /// [`StoreError::Io`] when the next segment cannot be prepared.
    pub fn incoming(&self) -> Result<Incoming<R>, StoreError> {
        Incoming::begin(&self.core)
    }

    /// One pass of space reclaim: recycles segments without live bytes, and writes one segment
    /// with few of them anew. Call it from a background task, now and then. Does nothing while
    /// another pass is under way.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a damaged segment, which is left alone from then on; errors of
    /// the index and of the log. Whatever happens, no live record is lost.
    pub async fn compact(&self, index: &impl Liveness) -> Result<Compaction, StoreError> {
        compact::pass(&self.core, index).await
    }

    /// What was done since the spool was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.state.borrow().counters
    }

    /// Messages that wait for the sink.
    #[must_use]
    pub fn backlog_count(&self) -> usize {
        self.core.state.borrow().backlog.len()
    }

    /// Memory that messages under way hold, in bytes; at most
    /// [`waiting_bytes_max`](SpoolConfig::waiting_bytes_max).
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.core.state.borrow().waiting_bytes
    }

    /// Where the log is durable up to.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.core.state.borrow().durable
    }

    /// The configuration that it was opened with.
    #[must_use]
    pub fn config(&self) -> &SpoolConfig {
        &self.core.config
    }
}

impl<R: Runtime> Clone for Spool<R> {
    fn clone(&self) -> Self {
        Self { core: Rc::clone(&self.core) }
    }
}

impl<R: Runtime> fmt::Debug for Spool<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spool(shard {})", self.core.config.shard.0)
    }
}
