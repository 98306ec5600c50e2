//! Giving space back: segments without live bytes are recycled, one with few is written anew.
//!
//! The engine calls a pass from a background task. Only segments behind the index's durable mark
//! are touched, and none that holds chunks of a message that the index has not durably heard of.
//! A segment is written anew in this order: live records are appended to the log again and become
//! durable, the index durably names the new places, and only then the file goes. So a crash at any
//! point leaves either dead copies or a dead original. Readers of the old place get
//! [`StoreError::Moved`]. Memory: a window on the segment, and [`GROUP_COUNT_MAX`] places.

use fsmtp_rt::Runtime;

use super::Liveness;
use super::log::{Core, FileOf};
use super::scan::{Found, Scan};
use super::segment::place;
use crate::error::StoreError;
use crate::format::{PAGE, RecordHead};
use crate::id::{Lsn, QueueId};

/// Records moved before the index is told: bounds memory, and what a crash makes us do again.
const GROUP_COUNT_MAX: usize = 1024;

/// What one pass of compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compaction {
    /// Segments given back because nothing in them was live.
    pub recycled_count: u64,
    /// Segments written anew and given back.
    pub rewritten_count: u64,
    /// Records appended again.
    pub moved_count: u64,
    /// Bytes of those records.
    pub moved_bytes: u64,
}

/// One pass: see [`super::Spool::compact`].
pub(super) async fn pass<R: Runtime>(
    core: &Core<R>,
    index: &impl Liveness,
) -> Result<Compaction, StoreError> {
    let mut done = Compaction::default();
    let Some(_only) = Only::begin(core) else { return Ok(done) };
    let shard = core.config.shard;
    let applied = index.applied(shard).await?;
    let candidates = core.candidates(applied);
    if candidates.is_empty() {
        return Ok(done);
    }
    let live = index.live_bytes(shard).await?;
    let live_bytes = |number: &u64| live.get(number).copied().unwrap_or(0);
    for number in candidates.iter().filter(|number| live_bytes(number) == 0) {
        core.give_back(*number).await?;
        done.recycled_count += 1;
    }
    let most = u128::from(core.config.segment_bytes) * u128::from(core.config.compact_live_percent);
    let sparse = candidates
        .iter()
        .map(|number| (live_bytes(number), *number))
        .filter(|&(bytes, _)| bytes > 0 && u128::from(bytes) * 100 < most)
        .min();
    if let Some((_, number)) = sparse {
        let mut rewrite = Rewrite { core, index, number, group: Vec::new(), batch: None, done };
        let outcome = rewrite.run().await;
        done = rewrite.done;
        if let Err(StoreError::Corrupt { .. }) = outcome {
            core.state.borrow_mut().damaged.insert(number);
        }
        outcome?;
    }
    Ok(done)
}

/// The right to compact, which one pass at a time has.
struct Only<'a, R: Runtime>(&'a Core<R>);

impl<'a, R: Runtime> Only<'a, R> {
    fn begin(core: &'a Core<R>) -> Option<Self> {
        let busy = core::mem::replace(&mut core.state.borrow_mut().compacting, true);
        (!busy).then_some(Self(core))
    }
}

impl<R: Runtime> Drop for Only<'_, R> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().compacting = false;
    }
}

impl<R: Runtime> Core<R> {
    /// Segments that may go, as far as the log is concerned.
    fn candidates(&self, applied: Lsn) -> Vec<u64> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let pinned = state.pins.first(applied).unwrap_or(u64::MAX);
        // Recovery begins with the segment in which the mark is, so that one must stay.
        let marked = applied.0.saturating_sub(1) / self.config.segment_bytes;
        let end = pinned.min(marked);
        let candidates = state.sealed.range(..end);
        candidates.copied().filter(|number| !state.damaged.contains(number)).collect()
    }
}

/// A segment that is being written anew.
struct Rewrite<'a, R: Runtime, I> {
    core: &'a Core<R>,
    index: &'a I,
    number: u64,
    /// Records appended again of which the index does not know yet.
    group: Vec<(QueueId, Lsn, Lsn)>,
    /// The batch that the last of them is in.
    batch: Option<u64>,
    done: Compaction,
}

impl<R: Runtime, I: Liveness> Rewrite<'_, R, I> {
    async fn run(&mut self) -> Result<(), StoreError> {
        let config = &self.core.config;
        let mut scan = Scan::open(&self.core.disk, config, self.number).await?;
        let mut at = PAGE;
        while let Found::Whole(head) = scan.batch(at).await? {
            self.take_over(&mut scan, at, head).await?;
            at += head.bytes as u64;
            // Nobody waits for compaction.
            self.core.rt.yield_now().await;
        }
        self.tell().await?;
        let end = scan.lsn(at);
        if let Some(witness) = scan.look_ahead(at, end).await? {
            let name = |lsn| place(config.shard, config.segment_bytes, lsn);
            let why = format!("no whole batch is here, but one is at {}", name(witness));
            return Err(StoreError::Corrupt { place: name(end), why });
        }
        // Everything that the index still refers to must have been found and moved.
        let live = self.index.live_bytes(config.shard).await?;
        match live.get(&self.number) {
            None | Some(0) => {}
            Some(bytes) => {
                return Err(StoreError::Corrupt {
                    place: place(config.shard, config.segment_bytes, end),
                    why: format!("{bytes} bytes that the index refers to are not in the segment"),
                });
            }
        }
        self.core.give_back(self.number).await?;
        self.done.rewritten_count += 1;
        Ok(())
    }

    /// Appends the live records of one batch again.
    async fn take_over(
        &mut self,
        scan: &mut Scan<FileOf<R>>,
        at: u64,
        head: crate::format::BatchHead,
    ) -> Result<(), StoreError> {
        let shard = self.core.config.shard;
        let places: Vec<(QueueId, Lsn)> =
            scan.records(at, head).await?.map(|(record, _)| (record.id, record.lsn)).collect();
        let live = self.index.live(shard, &places).await?;
        if live.len() != places.len() {
            return Err(StoreError::Invalid("the index answered another question".into()));
        }
        for ((record, payload), live) in scan.records(at, head).await?.zip(live) {
            if live {
                self.append(record, payload).await?;
            }
        }
        if self.group.len() >= GROUP_COUNT_MAX {
            self.tell().await?;
        }
        Ok(())
    }

    async fn append(&mut self, record: RecordHead, payload: &[u8]) -> Result<(), StoreError> {
        let Some(kind) = record.kind.moved() else { return Ok(()) };
        let placed = self.core.append(kind, record.id, &payload).await?;
        self.group.push((record.id, record.lsn, placed.lsn));
        self.batch = Some(placed.batch);
        self.done.moved_count += 1;
        self.done.moved_bytes += record.record_bytes() as u64;
        Ok(())
    }

    /// Tells the index of the new places, once they are durable.
    async fn tell(&mut self) -> Result<(), StoreError> {
        if let Some(batch) = self.batch.take() {
            self.core.durable(batch).await?;
            self.index.moved(self.core.config.shard, &self.group).await?;
            self.group.clear();
        }
        Ok(())
    }
}
