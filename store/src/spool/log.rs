//! The log in memory: the batch that fills, the one that flies, and who waits for room.
//!
//! Called by `incoming` and `compact` to append, by `commit` to write, by `segment` for the next
//! file. Nothing here touches the disk. Holds at most two blocks. An append finds room at once, or
//! waits in turn: strictly first come, first served, so that a flood of small messages cannot
//! starve a large one. Only the front of the queue is ever woken, and it wakes the one behind it.

use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fsmtp_rt::{Block, Disk, Instant, IoError, Runtime};

use super::segment::{Segment, Spare};
use super::{Committed, Counters, Sink, SpoolConfig};
use crate::error::StoreError;
use crate::format::{
    BATCH_RECORD_BYTES, BatchHead, Kind, PAGE, RECORD_HEAD_BYTES, RecordHead, seal_record,
};
use crate::id::{Lsn, QueueId};

/// The file type of a runtime.
pub(super) type FileOf<R> = <<R as Runtime>::Disk as Disk>::File;

/// Everything that one spool owns.
pub(super) struct Core<R: Runtime> {
    pub(super) rt: R,
    pub(super) disk: R::Disk,
    pub(super) config: SpoolConfig,
    pub(super) sink: Rc<dyn Sink>,
    pub(super) state: RefCell<State<FileOf<R>>>,
}

/// What changes. Never borrowed across an await, nor while a waker or the sink is called.
pub(super) struct State<F> {
    /// Where the batch after the filling one can begin at the earliest.
    pub(super) position: Lsn,
    /// Everything before is on stable storage.
    pub(super) durable: Lsn,
    /// The segment that `position` is in.
    pub(super) current: Segment<F>,
    /// The one after it, once it is prepared.
    pub(super) next: Option<Segment<F>>,
    /// Why it is not, when the last attempt failed.
    pub(super) next_error: Option<StoreError>,
    /// Segments before the current one that still exist.
    pub(super) sealed: BTreeSet<u64>,
    /// Segments in which compaction found damage; it leaves them alone.
    pub(super) damaged: BTreeSet<u64>,
    /// Whether a pass of compaction is under way.
    pub(super) compacting: bool,
    pub(super) spare: Spare,
    pub(super) filling: Option<Batch<F>>,
    pub(super) flying: Option<Flight>,
    /// Batches begun so far: the number of the next one.
    pub(super) batches_begun: u64,
    /// Batches known to be durable: all with a lower number are.
    pub(super) batches_durable: u64,
    pub(super) poisoned: Option<IoError>,
    pub(super) last_id: QueueId,
    pub(super) free: FreeSpace,
    /// Messages that the sink did not take yet, in log order.
    pub(super) backlog: VecDeque<Committed>,
    /// Whether a task offers them again.
    pub(super) backlog_served: bool,
    /// What messages under way hold in memory; see [`State::charge`].
    pub(super) waiting_bytes: usize,
    pub(super) pins: Pins,
    pub(super) pool: Pool,
    pub(super) counters: Counters,
    /// The task that writes batches, when it waits.
    pub(super) writer: Option<Waker>,
    /// The task that prepares segments, when it waits.
    pub(super) keeper: Option<Waker>,
    room: VecDeque<RoomWaiter>,
    tickets_count: u64,
}

/// A batch that takes records.
pub(super) struct Batch<F> {
    pub(super) number: u64,
    pub(super) base: Lsn,
    pub(super) file: F,
    pub(super) block: Block,
    /// The length that it may reach: the segment's end may be nearer than the block's.
    limit: usize,
    records_count: u32,
    pub(super) waiters: Vec<Waker>,
    pub(super) messages: Vec<Committed>,
}

/// A batch under way to the disk; its block is with the file.
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) end: Lsn,
    pub(super) waiters: Vec<Waker>,
    pub(super) messages: Vec<Committed>,
}

/// Free space as it was last seen.
pub(super) struct FreeSpace {
    pub(super) bytes: u64,
    pub(super) seen: Instant,
    /// Bytes written since.
    pub(super) written_bytes: u64,
}

/// Segments that compaction must leave alone, because the index does not know their chunks yet.
#[derive(Default)]
pub(super) struct Pins {
    /// First segments of transfers under way, with their count.
    arriving: BTreeMap<u64, u32>,
    /// First segments of committed messages with chunks, with the mark at which the index has
    /// durably heard of the last of them.
    settling: BTreeMap<u64, Lsn>,
}

/// Memory kept for reuse; bounded in count, the rest is given back.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) small: Vec<Vec<u8>>,
    pub(super) large: Vec<Vec<u8>>,
    blocks: Vec<Block>,
    waiters: Vec<Waker>,
    messages: Vec<Committed>,
}

/// What goes into a record behind its head.
pub(super) trait Payload {
    /// Its length.
    fn bytes(&self) -> usize;
    /// Writes it, piece by piece.
    fn write(&self, put: impl FnMut(&[u8]));
}

impl Payload for &[u8] {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn write(&self, mut put: impl FnMut(&[u8])) {
        put(self);
    }
}

/// Where a record went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    /// The batch to wait for.
    pub(super) batch: u64,
}

struct RoomWaiter {
    ticket: u64,
    waker: Waker,
}

/// What a spool knows when it opens; see [`State`].
pub(super) struct Start<F> {
    pub(super) tail: Lsn,
    pub(super) current: Segment<F>,
    pub(super) next: Option<Segment<F>>,
    pub(super) sealed: BTreeSet<u64>,
    pub(super) spare: Spare,
    pub(super) last_id: QueueId,
    pub(super) free: FreeSpace,
    pub(super) pins: Pins,
}

impl<F: Clone> State<F> {
    pub(super) fn new(start: Start<F>) -> Self {
        Self {
            position: start.tail,
            durable: start.tail,
            current: start.current,
            next: start.next,
            next_error: None,
            sealed: start.sealed,
            damaged: BTreeSet::new(),
            compacting: false,
            spare: start.spare,
            filling: None,
            flying: None,
            batches_begun: 0,
            batches_durable: 0,
            poisoned: None,
            last_id: start.last_id,
            free: start.free,
            backlog: VecDeque::new(),
            backlog_served: false,
            waiting_bytes: 0,
            pins: start.pins,
            pool: Pool::default(),
            counters: Counters::default(),
            writer: None,
            keeper: None,
            room: VecDeque::new(),
            tickets_count: 0,
        }
    }

    /// Whether the log takes records at all.
    pub(super) fn sound(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            None => Ok(()),
            Some(cause) => Err(StoreError::Poisoned { cause: cause.clone() }),
        }
    }

    /// Counts memory that a message is about to take, if so much is left. Who succeeds subtracts it
    /// from `waiting_bytes` when the memory is free again.
    pub(super) fn charge(&mut self, config: &SpoolConfig, bytes: usize) -> Result<(), StoreError> {
        let sum = self.waiting_bytes.saturating_add(bytes);
        if sum > config.waiting_bytes_max {
            return Err(StoreError::Busy);
        }
        self.waiting_bytes = sum;
        Ok(())
    }

    /// Whether the filling batch should be written as soon as none is under way.
    pub(super) fn write_wanted(&self) -> bool {
        self.flying.is_none()
            && self
                .filling
                .as_ref()
                .is_some_and(|batch| !batch.waiters.is_empty() || !self.room.is_empty())
    }

    /// Who waits for a batch that is not durable.
    pub(super) fn waiters_of(&mut self, batch: u64) -> &mut Vec<Waker> {
        let filling = self.filling.as_mut().filter(|filling| filling.number == batch);
        let flying = self.flying.as_mut().filter(|flying| flying.number == batch);
        match (filling, flying) {
            (Some(filling), _) => &mut filling.waiters,
            (_, Some(flying)) => &mut flying.waiters,
            _ => unreachable!("a batch that is not durable either fills or flies"),
        }
    }

    /// The front of the queue for room, to be woken once the state is not borrowed.
    pub(super) fn room_front(&self) -> Option<Waker> {
        self.room.front().map(|waiter| waiter.waker.clone())
    }

    /// Everybody who waits for anything; used when the log is poisoned.
    pub(super) fn everybody(&mut self) -> Vec<Waker> {
        let mut wakers: Vec<Waker> = self.room.iter().map(|waiter| waiter.waker.clone()).collect();
        if let Some(batch) = &mut self.filling {
            wakers.append(&mut batch.waiters);
        }
        wakers.extend(self.keeper.take());
        wakers
    }

    /// Puts a record into the filling batch; begins one, or turns to the next segment, as needed.
    /// `None`: there is no room now.
    fn place(
        &mut self,
        config: &SpoolConfig,
        kind: Kind,
        id: QueueId,
        payload: &impl Payload,
    ) -> Result<Option<Placed>, StoreError> {
        let record_bytes = RECORD_HEAD_BYTES + payload.bytes();
        if BATCH_RECORD_BYTES + record_bytes > config.batch_bytes_max {
            let why = format!("{record_bytes} bytes are too many for one record of the log");
            return Err(StoreError::Invalid(why));
        }
        if self.filling.is_none() && !self.begin_batch(config, record_bytes)? {
            return Ok(None);
        }
        let Some(batch) = &mut self.filling else { return Ok(None) };
        let Some(placed) = batch.append(kind, id, payload, record_bytes) else { return Ok(None) };
        match kind {
            Kind::Message => self.counters.messages_count += 1,
            Kind::Chunk => self.counters.chunks_count += 1,
            Kind::Batch | Kind::MovedMessage | Kind::MovedChunk => self.counters.moved_count += 1,
        }
        self.counters.copies_count += 1;
        self.counters.copied_bytes += record_bytes as u64;
        Ok(Some(placed))
    }

    /// Begins a batch that has room for a record of `record_bytes`; false when the next segment is
    /// needed and not there yet.
    fn begin_batch(
        &mut self,
        config: &SpoolConfig,
        record_bytes: usize,
    ) -> Result<bool, StoreError> {
        let wanted = (BATCH_RECORD_BYTES + record_bytes) as u64;
        let mut end = (self.current.number + 1) * config.segment_bytes;
        if end - self.position.0 < wanted {
            let Some(next) = self.next.take() else {
                return self.next_error.clone().map_or(Ok(false), Err);
            };
            self.sealed.insert(self.current.number);
            self.current = next;
            self.counters.segments_count += 1;
            self.position = Lsn(self.current.number * config.segment_bytes + PAGE);
            end = (self.current.number + 1) * config.segment_bytes;
        }
        let left = usize::try_from(end - self.position.0).unwrap_or(usize::MAX);
        let mut block =
            self.pool.blocks.pop().unwrap_or_else(|| Block::new(config.batch_bytes_max));
        // Its place is taken now and filled in when the batch is sealed.
        let begun = block.is_empty() && block.push(&[0; BATCH_RECORD_BYTES]);
        assert!(begun, "a block from the pool is empty");
        self.filling = Some(Batch {
            number: self.batches_begun,
            base: self.position,
            file: self.current.file.clone(),
            block,
            limit: config.batch_bytes_max.min(left),
            records_count: 0,
            waiters: core::mem::take(&mut self.pool.waiters),
            messages: core::mem::take(&mut self.pool.messages),
        });
        self.batches_begun += 1;
        Ok(true)
    }

    /// Closes the filling batch and hands it over to be written.
    pub(super) fn seal(&mut self) -> Option<(F, u64, Block)> {
        assert!(self.flying.is_none(), "one batch is under way at a time");
        let mut batch = self.filling.take()?;
        batch.block.pad();
        let bytes = batch.block.len();
        let head = BatchHead {
            durable: self.durable,
            bytes,
            records_count: batch.records_count,
            last_id: self.last_id,
        };
        if let Some(place) = batch.block.bytes_mut().first_chunk_mut() {
            *place = head.encode(batch.base);
        }
        let end = Lsn(batch.base.0 + bytes as u64);
        self.position = end;
        self.flying = Some(Flight {
            number: batch.number,
            end,
            waiters: batch.waiters,
            messages: batch.messages,
        });
        let at = batch.base.0 - self.current.number * self.current.bytes;
        Some((batch.file, at, batch.block))
    }

    /// Takes back what a batch used.
    pub(super) fn recycle(
        &mut self,
        mut block: Block,
        waiters: Vec<Waker>,
        messages: Vec<Committed>,
    ) {
        let pool = &mut self.pool;
        block.clear();
        // No more than two ever exist: one fills, one flies.
        pool.blocks.push(block);
        if waiters.capacity() > pool.waiters.capacity() {
            pool.waiters = waiters;
        }
        if messages.capacity() > pool.messages.capacity() {
            pool.messages = messages;
        }
    }

    /// Takes a place in the queue for room, or keeps the one that it has.
    fn queue(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        let found = ticket.and_then(|ticket| self.room_index(ticket));
        match found.and_then(|index| self.room.get_mut(index)) {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => {
                let fresh = self.tickets_count;
                self.tickets_count += 1;
                self.counters.room_waits_count += 1;
                self.room.push_back(RoomWaiter { ticket: fresh, waker: waker.clone() });
                *ticket = Some(fresh);
            }
        }
    }

    /// Tickets rise from front to back.
    fn room_index(&self, ticket: u64) -> Option<usize> {
        self.room.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    fn leave_queue(&mut self, ticket: u64) {
        if let Some(index) = self.room_index(ticket) {
            self.room.remove(index);
        }
    }
}

impl<F> Batch<F> {
    fn append(
        &mut self,
        kind: Kind,
        id: QueueId,
        payload: &impl Payload,
        record_bytes: usize,
    ) -> Option<Placed> {
        let start = self.block.len();
        if record_bytes > self.limit.saturating_sub(start) {
            return None;
        }
        let lsn = Lsn(self.base.0 + start as u64);
        let head = RecordHead::new(kind, payload.bytes(), lsn, id);
        let mut fits = self.block.push(&head.encode());
        // copy: incoming buffer -> batch block.
        payload.write(|piece| fits &= self.block.push(piece));
        assert!(
            fits && self.block.len() == start + record_bytes,
            "a payload writes as many bytes as it announced"
        );
        seal_record(self.block.bytes_mut().get_mut(start..).unwrap_or(&mut []));
        self.records_count += 1;
        Some(Placed { lsn, end: Lsn(lsn.0 + record_bytes as u64), batch: self.number })
    }
}

impl Pins {
    /// A transfer has its first chunk in `segment`.
    pub(super) fn arrive(&mut self, segment: u64) {
        *self.arriving.entry(segment).or_insert(0) += 1;
    }

    /// That transfer ended, one way or the other.
    pub(super) fn leave(&mut self, segment: u64) {
        if let Some(count) = self.arriving.get_mut(&segment) {
            *count -= 1;
            if *count == 0 {
                self.arriving.remove(&segment);
            }
        }
    }

    /// A message that ends at `end` has its first chunk in `segment`.
    pub(super) fn settle(&mut self, segment: u64, end: Lsn) {
        let mark = self.settling.entry(segment).or_insert(end);
        *mark = end.max(*mark);
    }

    /// The first segment that must stay, now that the index has durably heard up to `applied`.
    pub(super) fn first(&mut self, applied: Lsn) -> Option<u64> {
        self.settling.retain(|_, end| *end > applied);
        let arriving = self.arriving.keys().next().copied();
        let settling = self.settling.keys().next().copied();
        match (arriving, settling) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// A place in the queue for room, given up when dropped.
struct Ticket<'a, R: Runtime> {
    core: &'a Core<R>,
    number: Option<u64>,
}

impl<R: Runtime> Drop for Ticket<'_, R> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let front = {
                let mut state = self.core.state.borrow_mut();
                state.leave_queue(number);
                state.room_front()
            };
            wake(front);
        }
    }
}

impl<R: Runtime> Core<R> {
    /// Appends a record; waits for room when there is none. Not durable yet.
    pub(super) async fn append(
        &self,
        kind: Kind,
        id: QueueId,
        payload: &impl Payload,
    ) -> Result<Placed, StoreError> {
        let mut ticket = Ticket { core: self, number: None };
        poll_fn(|cx| self.poll_append(cx, &mut ticket.number, kind, id, payload)).await
    }

    fn poll_append(
        &self,
        cx: &Context<'_>,
        ticket: &mut Option<u64>,
        kind: Kind,
        id: QueueId,
        payload: &impl Payload,
    ) -> Poll<Result<Placed, StoreError>> {
        let mut state = self.state.borrow_mut();
        state.sound()?;
        let first = state.room.front().map(|waiter| waiter.ticket);
        let placed = if first == *ticket {
            state.place(&self.config, kind, id, payload).transpose()
        } else {
            None
        };
        let (woken, outcome) = match placed {
            Some(outcome) => {
                if let Some(ticket) = ticket.take() {
                    state.leave_queue(ticket);
                }
                (state.room_front(), Poll::Ready(outcome))
            }
            None => {
                state.queue(ticket, cx.waker());
                let wanted = state.write_wanted();
                (state.writer.take_if(|_| wanted), Poll::Pending)
            }
        };
        let keeper_wanted = state.next.is_none();
        let keeper = state.keeper.take_if(|_| keeper_wanted);
        drop(state);
        wake(woken);
        wake(keeper);
        outcome
    }
}

/// Wakes somebody, if there is somebody; never call it while the state is borrowed.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
