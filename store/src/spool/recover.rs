//! Opening a log: find its end, cut what is torn, refuse what is damaged, replay the rest.
//!
//! The table of states is in the header of the folder. The order matters: everything is looked at
//! and judged before the first byte is written; the last batch is written once more before its
//! messages are replayed, because they may so far stand in a volatile cache only.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use fsmtp_rt::{Block, Disk, File, IoError, IoKind, PAGE_BYTES, Runtime};

use super::log::{Core, FileOf, FreeSpace, Pins, Start, State};
use super::scan::{Found, Scan};
use super::segment::{
    Segment, Spare, check_header, first_lsn, fresh_name, place, prepare, segment_name,
    segment_number, spare_name,
};
use super::{Committed, Sink, SpoolConfig, keys};
use crate::envelope::{Envelope, EnvelopeError};
use crate::error::StoreError;
use crate::format::{BATCH_BYTES_MAX, BatchHead, Kind, MessageParts, PAGE, RecordHead};
use crate::id::{Lsn, QueueId};

/// How long the sink is left alone after it gave a message back during replay.
const SINK_RETRY: Duration = Duration::from_millis(2);

/// What was found when a log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Segments of this shard, empty ones included.
    pub segments_count: usize,
    /// Whole batches in the part that was read.
    pub batches_count: u64,
    /// Messages that went to the sink.
    pub replayed_count: u64,
    /// Where the log ends, and goes on.
    pub tail: Lsn,
    /// A batch that was cut off, when enough was left of one to tell.
    pub cut: Option<Cut>,
}

/// The torn end of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Where, for people.
    pub place: String,
    /// The length that the batch should have had.
    pub bytes: usize,
}

/// Files of the shard.
struct Folder {
    segments: BTreeSet<u64>,
    spare: bool,
}

/// The walk along the log.
struct Walk<'a, R: Runtime> {
    rt: &'a R,
    disk: &'a R::Disk,
    config: &'a SpoolConfig,
    applied: Lsn,
    sink: &'a dyn Sink,
    recovery: Recovery,
    last_id: QueueId,
    pins: Pins,
    /// The last whole batch: where it is, and its messages, which are not replayed yet.
    last: Option<(u64, u64, BatchHead)>,
    held: VecDeque<Committed>,
    windows: keys::Windows,
}

/// Opens the log; no task runs yet.
pub(super) async fn open<R: Runtime>(
    rt: R,
    disk: R::Disk,
    config: SpoolConfig,
    applied: Lsn,
    sink: Rc<dyn Sink>,
) -> Result<(Core<R>, Recovery), StoreError> {
    let folder = examine(&disk, &config).await?;
    let mut walk = Walk {
        rt: &rt,
        disk: &disk,
        config: &config,
        applied,
        sink: &*sink,
        recovery: Recovery { segments_count: folder.segments.len(), ..Recovery::default() },
        last_id: QueueId::first(rt.unix().ms(), config.shard),
        pins: Pins::default(),
        last: None,
        held: VecDeque::new(),
        windows: keys::Windows::default(),
    };
    let (current, next) = walk.follow(&folder).await?;
    let number = current.number;
    let start = Start {
        tail: walk.recovery.tail,
        next,
        sealed: folder.segments.iter().copied().filter(|&other| other < number).collect(),
        spare: if folder.spare && !folder.segments.is_empty() { Spare::Ready } else { Spare::None },
        last_id: walk.last_id,
        free: FreeSpace { bytes: disk.free_bytes()?, seen: rt.now(), written_bytes: 0 },
        pins: walk.pins,
        current,
    };
    let recovery = walk.recovery;
    let state = State::new(start).into();
    Ok((Core { rt, disk, config, sink, state }, recovery))
}

/// Finds the shard's files and checks every header. Writes nothing, except that files which never
/// became segments are removed at the end.
async fn examine<D: Disk>(disk: &D, config: &SpoolConfig) -> Result<Folder, StoreError> {
    let mut folder = Folder { segments: BTreeSet::new(), spare: false };
    let mut useless = Vec::new();
    for (name, bytes) in disk.list().await? {
        if name == spare_name(config.shard) {
            folder.spare = bytes == config.segment_bytes;
        }
        let spare_name = spare_name(config.shard);
        if name == fresh_name(config.shard) || (name == spare_name && !folder.spare) {
            useless.push(name);
            continue;
        }
        let Some(number) = segment_number(config.shard, &name) else { continue };
        let page = disk.open(&name).await?.read(0, PAGE_BYTES).await?;
        check_header(config, number, &page)?;
        if bytes != config.segment_bytes {
            let why = format!("it is {bytes} bytes long, not {}", config.segment_bytes);
            return Err(StoreError::Corrupt { place: name, why });
        }
        folder.segments.insert(number);
    }
    for name in useless {
        disk.remove(&name).await?;
    }
    Ok(folder)
}

/// Where a walk through one segment ended.
struct Stretch {
    /// In the file, behind the last whole batch.
    at: u64,
    /// What stands there.
    found: Found,
}

impl<R: Runtime> Walk<'_, R> {
    /// Walks along the log and makes it fit to go on: the current segment, and the next one when it
    /// is there.
    async fn follow(
        &mut self,
        folder: &Folder,
    ) -> Result<(Segment<FileOf<R>>, Option<Segment<FileOf<R>>>), StoreError> {
        let Some(mut number) = self.first(folder)? else {
            let current = prepare(self.disk, self.config, 0, folder.spare).await?;
            self.recovery.tail = first_lsn(self.config, 0);
            return Ok((current, None));
        };
        self.refuse_gaps(folder, number)?;
        let mut scan = Scan::open(self.disk, self.config, number).await?;
        let mut stretch = self.stretch(&mut scan, None).await?;
        loop {
            let tail = scan.lsn(stretch.at);
            self.recovery.tail = tail;
            // The log goes on in the next segment only if that begins with a whole batch.
            if !folder.segments.contains(&(number + 1)) {
                break;
            }
            let mut ahead = Scan::open(self.disk, self.config, number + 1).await?;
            let further = self.stretch(&mut ahead, Some(tail)).await?;
            if further.at == PAGE {
                self.note_cut(&ahead, &further);
                break;
            }
            (scan, stretch, number) = (ahead, further, number + 1);
        }
        self.note_cut(&scan, &stretch);
        self.refuse_damage(&mut scan, stretch.at, folder).await?;
        self.finish(scan, stretch.at, folder).await
    }

    /// The segment to begin with; none when there is no log yet.
    fn first(&self, folder: &Folder) -> Result<Option<u64>, StoreError> {
        let Some(&lowest) = folder.segments.first() else {
            if self.applied == Lsn::default() {
                return Ok(None);
            }
            return Err(self.ends_early("there is no segment at all"));
        };
        if self.applied == Lsn::default() {
            return Ok(Some(lowest));
        }
        let number = (self.applied.0 - 1) / self.config.segment_bytes;
        if folder.segments.contains(&number) {
            return Ok(Some(number));
        }
        Err(self.ends_early("that segment is missing"))
    }

    /// Compaction removes segments below the mark only, and no others are ever removed but empty
    /// ones at the end, the last one first.
    fn refuse_gaps(&self, folder: &Folder, first: u64) -> Result<(), StoreError> {
        for (expected, &found) in (first..).zip(folder.segments.range(first..)) {
            if found != expected {
                return Err(StoreError::Corrupt {
                    place: segment_name(self.config.shard, expected),
                    why: "it is missing, but there are later segments".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn ends_early(&self, why: &str) -> StoreError {
        StoreError::Corrupt {
            place: place(self.config.shard, self.config.segment_bytes, self.applied),
            why: format!("the index knows the log up to here, but {why}"),
        }
    }

    /// Follows the batches of one segment, holding their messages back by one batch. `tail` is
    /// where the log ended before, when that is known.
    async fn stretch(
        &mut self,
        scan: &mut Scan<FileOf<R>>,
        tail: Option<Lsn>,
    ) -> Result<Stretch, StoreError> {
        let mut tail = tail;
        let mut at = PAGE;
        loop {
            let found = scan.batch(at).await?;
            let Found::Whole(head) = found else { return Ok(Stretch { at, found }) };
            if let Some(tail) = tail
                && head.durable != tail
            {
                // A whole batch that does not follow on what was read: something is missing.
                let place = place(self.config.shard, self.config.segment_bytes, tail);
                let why = format!("the batch behind it follows on log position {}", head.durable.0);
                return Err(StoreError::Corrupt { place, why });
            }
            self.replay_held().await?;
            self.take_in(scan, at, head).await?;
            at += head.bytes as u64;
            tail = Some(scan.lsn(at));
        }
    }

    /// Notes a whole batch.
    async fn take_in(
        &mut self,
        scan: &mut Scan<FileOf<R>>,
        at: u64,
        head: BatchHead,
    ) -> Result<(), StoreError> {
        self.recovery.batches_count += 1;
        self.last_id = self.last_id.max(head.last_id);
        self.last = Some((scan.number, at, head));
        for (record, payload) in scan.records(at, head).await? {
            self.last_id = self.last_id.max(record.id);
            if record.kind == Kind::Message && record.lsn >= self.applied {
                let message = self.message(record, payload)?;
                if let Some(first) = message.chunks.first() {
                    self.pins.settle(first.0 / self.config.segment_bytes, message.end);
                }
                self.held.push_back(message);
            }
        }
        Ok(())
    }

    fn message(&mut self, record: RecordHead, payload: &[u8]) -> Result<Committed, StoreError> {
        let config = self.config;
        let object = || place(config.shard, config.segment_bytes, record.lsn);
        let corrupt = |why: String| StoreError::Corrupt { place: object(), why };
        let parts = MessageParts::decode(payload)
            .ok_or_else(|| corrupt("the message record contradicts itself".to_owned()))?;
        let (received, recipients) = if parts.keys.is_empty() {
            let envelope = Envelope::decode(parts.envelope).map_err(|error| match error {
                EnvelopeError::Version(found) => StoreError::Version {
                    object: object(),
                    found: u32::from(found),
                    known: u32::from(crate::envelope::ENVELOPE_VERSION),
                },
                other => corrupt(other.to_string()),
            })?;
            (envelope.received, keys::in_clear(&envelope))
        } else {
            keys::decode(parts.keys, &mut self.windows).map_err(corrupt)?
        };
        Ok(Committed {
            id: record.id,
            shard: self.config.shard,
            lsn: record.lsn,
            end: Lsn(record.lsn.0 + record.record_bytes() as u64),
            octets: parts.octets,
            chunks: parts.chunks().collect(),
            received,
            recipients,
        })
    }

    /// Replays what was held back; to be called once it is certain to be on stable storage.
    async fn replay_held(&mut self) -> Result<(), StoreError> {
        while let Some(message) = self.held.pop_front() {
            match self.sink.committed(message) {
                Ok(()) => self.recovery.replayed_count += 1,
                Err(message) => {
                    self.held.push_front(message);
                    if self.sink.has_ended() {
                        let index = "the mailbox index, which has ended";
                        return Err(IoError::new(IoKind::Closed, "replay to", index).into());
                    }
                    self.rt.sleep_until(self.rt.now() + SINK_RETRY).await;
                }
            }
        }
        Ok(())
    }

    fn note_cut(&mut self, scan: &Scan<FileOf<R>>, stretch: &Stretch) {
        if let Found::Torn(head) = stretch.found {
            let at = scan.lsn(stretch.at);
            let place = place(self.config.shard, self.config.segment_bytes, at);
            self.recovery.cut = Some(Cut { place, bytes: head.bytes });
        }
    }

    /// Policy `TolerateTornTail`: the bad place at `at` may be cut only if nothing says that the
    /// log was durable beyond it.
    async fn refuse_damage(
        &self,
        scan: &mut Scan<FileOf<R>>,
        at: u64,
        folder: &Folder,
    ) -> Result<(), StoreError> {
        let tail = scan.lsn(at);
        if self.applied > tail {
            let place = place(self.config.shard, self.config.segment_bytes, tail);
            let why = format!(
                "the log ends here, but the index knows it up to position {}",
                self.applied.0
            );
            return Err(StoreError::Corrupt { place, why });
        }
        let mut witness = scan.look_ahead(at, tail).await?;
        for &later in folder.segments.range(scan.number + 1..) {
            if witness.is_none() {
                let mut scan = Scan::open(self.disk, self.config, later).await?;
                witness = scan.look_ahead(PAGE, tail).await?;
            }
        }
        let Some(witness) = witness else { return Ok(()) };
        let name = |lsn| place(self.config.shard, self.config.segment_bytes, lsn);
        let why = format!("no whole batch is here, but {} shows that there was one", name(witness));
        Err(StoreError::Corrupt { place: name(tail), why })
    }

    /// Makes the end of the log fit to go on.
    async fn finish(
        &mut self,
        mut scan: Scan<FileOf<R>>,
        at: u64,
        folder: &Folder,
    ) -> Result<(Segment<FileOf<R>>, Option<Segment<FileOf<R>>>), StoreError> {
        self.write_last_again().await?;
        self.replay_held().await?;
        let number = scan.number;
        clean(&mut scan, at).await?;
        let bytes = self.config.segment_bytes;
        let mut next = None;
        for &later in folder.segments.range(number + 1..).rev() {
            if later == number + 1 {
                let mut ahead = Scan::open(self.disk, self.config, later).await?;
                clean(&mut ahead, PAGE).await?;
                next = Some(Segment { number: later, bytes, file: ahead.file });
            } else {
                self.disk.remove(&segment_name(self.config.shard, later)).await?;
            }
        }
        Ok((Segment { number, bytes, file: scan.file }, next))
    }

    /// A batch that was read back may stand in a volatile cache only; only the last one can.
    async fn write_last_again(&self) -> Result<(), StoreError> {
        let Some((number, at, head)) = self.last else { return Ok(()) };
        let mut scan = Scan::open(self.disk, self.config, number).await?;
        let mut block = Block::new(head.bytes);
        let fits = block.push(scan.bytes(at, head.bytes).await?);
        assert!(fits && block.len() == head.bytes, "the batch was read whole before");
        let (_, written) = scan.file.write_durable(at, block).await;
        Ok(written?)
    }
}

/// Overwrites with zeros what a batch that was under way may have left at `at`, so that none of its
/// records can ever come back behind a later batch that ends where they begin.
async fn clean<F: File>(scan: &mut Scan<F>, at: u64) -> Result<(), StoreError> {
    let dirty_bytes = scan.dirty_bytes(at).await?;
    if dirty_bytes == 0 {
        return Ok(());
    }
    assert!(dirty_bytes <= BATCH_BYTES_MAX, "no batch reaches further");
    let mut zeros = Block::new(dirty_bytes);
    while zeros.len() < dirty_bytes {
        let more = zeros.push(&[0; PAGE_BYTES]);
        assert!(more, "the block has room for all the pages");
    }
    let (_, written) = scan.file.write_durable(at, zeros).await;
    Ok(written?)
}
