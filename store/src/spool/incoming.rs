//! A message on its way into the log.
//!
//! The desk makes one per transaction, pushes the body as it arrives, and commits. Holds one buffer
//! from a pool, small at first, never more than `chunk_bytes`; what is longer goes to the log as
//! chunks, which wait for room in the log when there is none, and with that hold the sender back.
//! What it holds counts against the memory of all messages under way ([`State::charge`]); when that
//! is used up, it is refused with [`StoreError::Busy`] before it takes more.
//! Dropped without a commit, the message never was: its chunks are dead bytes.
//!
//! A message that was begun with [`Incoming::seal`] is sealed on its way: each chunk when its
//! buffer is full, the rest at the commit. What it holds in clear, it holds in memory only.

use core::fmt;
use core::mem;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_rt::{Disk, Instant, Runtime};

use super::log::{Core, FreeSpace, Payload, Placed, State};
use super::{Committed, Recipient, RecipientKey, Stored, keys};
use crate::envelope::{ENVELOPE_BYTES_MAX, Envelope};
use crate::error::StoreError;
use crate::format::{Kind, MESSAGE_FIXED_BYTES, MessageHead};
use crate::id::{Lsn, QueueId};
use crate::seal::{ContentKey, Part, Random, Sealer, TAG_BYTES};

/// The first buffer of a message: most messages fit, and an idle transfer costs no more.
/// With room for the tag of a sealed one, 8 KiB.
const SMALL_BYTES: usize = 8 * 1024 - TAG_BYTES;
/// Small buffers kept for reuse, 2 MiB in all.
const SMALL_COUNT_MAX: usize = 256;
/// Large buffers kept for reuse, 4 MiB in all.
const LARGE_COUNT_MAX: usize = 64;
/// The most chunks of a message: half a gigabyte in pieces of 64 KiB. The list must fit into the
/// message's record.
const CHUNKS_COUNT_MAX: usize = 8192;
/// How often a full disk is looked at again, at most.
const SPACE_RECHECK: Duration = Duration::from_secs(1);

/// A message that is arriving.
pub struct Incoming<R: Runtime> {
    core: Rc<Core<R>>,
    id: QueueId,
    buffer: Vec<u8>,
    buffer_bytes_max: usize,
    chunks: Vec<Lsn>,
    sealer: Option<Box<Sealer>>,
    octets: u64,
    /// The segment of the first chunk, while this transfer pins it.
    pinned: Option<u64>,
    /// What was charged for it, and not passed on.
    charged_bytes: usize,
}

/// The payload of a message record.
struct MessagePayload<'a> {
    fixed: MessageHead,
    chunks: &'a [Lsn],
    keys: &'a [u8],
    envelope: PayloadEnvelope<'a>,
    head: &'a [u8],
    tail: &'a [u8],
}

enum PayloadEnvelope<'a> {
    Clear(&'a Envelope),
    Sealed(&'a [u8]),
}

impl Payload for MessagePayload<'_> {
    fn bytes(&self) -> usize {
        MESSAGE_FIXED_BYTES
            + self.chunks.len() * 8
            + self.keys.len()
            + self.fixed.envelope_bytes
            + self.head.len()
            + self.tail.len()
    }

    fn write(&self, mut put: impl FnMut(&[u8])) {
        put(&self.fixed.encode());
        for chunk in self.chunks {
            put(&chunk.0.to_le_bytes());
        }
        put(self.keys);
        match self.envelope {
            PayloadEnvelope::Clear(envelope) => envelope.encode(&mut put),
            PayloadEnvelope::Sealed(bytes) => put(bytes),
        }
        put(self.head);
        put(self.tail);
    }
}

impl<R: Runtime> Incoming<R> {
    pub(super) fn begin(core: &Rc<Core<R>>) -> Result<Self, StoreError> {
        let mut state = core.state.borrow_mut();
        core.admit(&mut state)?;
        let ms = core.rt.unix().ms();
        let id = match core.config.node {
            Some(node) => state.last_id.next_on(node, ms),
            None => state.last_id.next(ms),
        };
        state.last_id = id;
        drop(state);
        Ok(Self {
            core: Rc::clone(core),
            id,
            buffer: Vec::new(),
            buffer_bytes_max: 0,
            chunks: Vec::new(),
            sealer: None,
            octets: 0,
            pinned: None,
            charged_bytes: 0,
        })
    }

    /// Has the message sealed under a fresh key; to be called before the first byte is pushed. It
    /// must then be committed by [`Self::commit_sealed`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is too late.
    pub fn seal(&mut self, random: Random<'_>) -> Result<(), StoreError> {
        if self.octets > 0 {
            return Err(StoreError::Invalid("sealing begins with the first byte".into()));
        }
        self.sealer = Some(Box::new(Sealer::begin(self.id, random)));
        Ok(())
    }

    /// The key that it is sealed under, to be wrapped for its recipients.
    #[must_use]
    pub fn content_key(&self) -> Option<&ContentKey> {
        self.sealer.as_ref().map(|sealer| sealer.content_key())
    }

    /// The name that the message will have.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// Bytes pushed so far.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Memory that the message holds now.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Adds bytes to the message. Waits only when the log has no room.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when messages under way have no memory left; [`StoreError::Poisoned`];
    /// [`StoreError::DiskLow`] when the log needs a segment that does not
    /// fit on the disk; [`StoreError::Invalid`] when the message has too many chunks. The message
    /// cannot be committed then; drop it.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.buffer.len() == self.buffer_bytes_max {
                self.make_room(rest.len()).await?;
            } else if self.buffer.len() + rest.len() > self.buffer_bytes_max && self.may_grow() {
                self.grow()?;
            }
            let room = self.buffer_bytes_max - self.buffer.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            // copy: receive window -> incoming buffer.
            self.buffer.extend_from_slice(now);
            rest = later;
        }
        self.octets += bytes.len() as u64;
        let mut state = self.core.state.borrow_mut();
        state.counters.copies_count += 1;
        state.counters.copied_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the message, which consists of `head` (trace headers) and the bytes pushed. Resolves
    /// when it is on stable storage; the sink has been told by then.
    ///
    /// When the future is dropped before that, the message may exist or not.
    ///
    /// # Errors
    /// As [`Self::push`]; and [`StoreError::Invalid`] for an envelope over its limits, or a head so
    /// large that the record exceeds a batch.
    pub async fn commit(mut self, head: &[u8], envelope: Envelope) -> Result<Stored, StoreError> {
        if self.sealer.is_some() {
            return Err(StoreError::Invalid("a sealed message has keys".into()));
        }
        let envelope_bytes =
            envelope.encoded_bytes().map_err(|why| StoreError::Invalid(why.to_string()))?;
        self.charge(
            super::fixed_bytes(envelope.recipients.len(), false) + envelope.memory_bytes(),
        )?;
        let octets = self.octets + head.len() as u64;
        let payload = MessagePayload {
            fixed: MessageHead {
                octets,
                head_bytes: head.len(),
                chunks_count: self.chunks.len(),
                envelope_bytes,
                keys_bytes: 0,
            },
            chunks: &self.chunks,
            keys: &[],
            envelope: PayloadEnvelope::Clear(&envelope),
            head,
            tail: &self.buffer,
        };
        let placed = self.core.append(Kind::Message, self.id, &payload).await?;
        // Nothing else ran since the record was placed, so messages stand in log order.
        self.announce(placed, octets, &envelope, keys::in_clear(&envelope)).await
    }

    /// As [`Self::commit`], for a message that was begun with [`Self::seal`]: `recipients` have its
    /// key, wrapped, in the order of the envelope's; those who are sent to by the queue have one in
    /// common, behind all others. Seals `head` where it lies.
    ///
    /// # Errors
    /// As [`Self::commit`]; [`StoreError::Invalid`] also when the keys are not those of the
    /// envelope's recipients, or take more than an envelope may.
    pub async fn commit_sealed(
        mut self,
        head: &mut Vec<u8>,
        envelope: Envelope,
        recipients: Vec<RecipientKey>,
    ) -> Result<Stored, StoreError> {
        let invalid = |why: &dyn fmt::Display| StoreError::Invalid(why.to_string());
        let whom = envelope.recipients.iter().map(|to| to.mailbox);
        if recipients.is_empty() || !keys::fit(whom, &recipients) {
            return Err(invalid(&"the keys are not those of the recipients"));
        }
        let mut sealer = self.sealer.take().ok_or_else(|| invalid(&"nothing is sealed"))?;
        let envelope_bytes = envelope.encoded_bytes().map_err(|why| invalid(&why))? + TAG_BYTES;
        let keys = keys::encode(envelope.received, &recipients);
        if keys.len() + envelope_bytes > ENVELOPE_BYTES_MAX {
            return Err(invalid(&"envelope and keys are too large"));
        }
        let waiting_bytes = super::fixed_bytes(recipients.len(), true);
        self.charge(waiting_bytes + envelope.memory_bytes() + keys.len() + envelope_bytes)?;
        let octets = self.octets + head.len() as u64;
        let mut sealed = Vec::with_capacity(envelope_bytes);
        envelope.encode(|piece| sealed.extend_from_slice(piece));
        sealer.seal_part(Part::Envelope, &mut sealed).map_err(|why| invalid(&why))?;
        sealer.seal_part(Part::Trace, head).map_err(|why| invalid(&why))?;
        sealer.seal_chunk(&mut self.buffer, true).map_err(|why| invalid(&why))?;
        let payload = MessagePayload {
            fixed: MessageHead {
                octets,
                head_bytes: head.len(),
                chunks_count: self.chunks.len(),
                envelope_bytes,
                keys_bytes: keys.len(),
            },
            chunks: &self.chunks,
            keys: &keys,
            envelope: PayloadEnvelope::Sealed(&sealed),
            head,
            tail: &self.buffer,
        };
        let placed = self.core.append(Kind::Message, self.id, &payload).await?;
        // As above.
        let recipient = |key: RecipientKey| Recipient { mailbox: key.wrap.mailbox, key: Some(key) };
        let recipients = recipients.into_iter().map(recipient).collect();
        self.announce(placed, octets, &envelope, recipients).await
    }

    /// Has the sink told of the message when its batch lands, lets go of the buffer, and waits for
    /// that batch.
    fn announce(
        mut self,
        placed: Placed,
        octets: u64,
        envelope: &Envelope,
        recipients: Vec<Recipient>,
    ) -> impl Future<Output = Result<Stored, StoreError>> + use<R> {
        let message = Committed {
            id: self.id,
            shard: self.core.config.shard,
            lsn: placed.lsn,
            end: placed.end,
            octets,
            chunks: mem::take(&mut self.chunks),
            received: envelope.received,
            recipients,
        };
        // Subtracted when the sink has taken it.
        self.charged_bytes -= message.memory_bytes();
        let mut state = self.core.state.borrow_mut();
        if let Some(segment) = self.pinned {
            state.pins.settle(segment, placed.end);
        }
        let batch = state.filling.as_mut().filter(|batch| batch.number == placed.batch);
        batch.expect("the batch still fills: nothing ran in between").messages.push(message);
        drop(state);
        let (core, id) = (Rc::clone(&self.core), self.id);
        drop(self);
        async move {
            core.durable(placed.batch).await?;
            Ok(Stored { id, lsn: placed.lsn, octets })
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.core.state.borrow_mut().charge(&self.core.config, bytes)?;
        self.charged_bytes += bytes;
        Ok(())
    }

    /// Whether a larger buffer is to be had. While senders that send nothing more hold half of the
    /// memory, the others go on with small buffers and smaller chunks: some thousand such senders
    /// cost speed, not mail.
    fn may_grow(&self) -> bool {
        let config = &self.core.config;
        if self.buffer_bytes_max == config.chunk_bytes {
            return false;
        }
        let waiting_bytes = self.core.state.borrow().waiting_bytes;
        self.buffer_bytes_max == 0
            || self.chunks.len() >= CHUNKS_COUNT_MAX / 2
            || waiting_bytes + config.chunk_bytes <= config.waiting_bytes_max / 2
    }

    /// Takes the small buffer, or exchanges it for a large one.
    fn grow(&mut self) -> Result<(), StoreError> {
        let chunk_bytes = self.core.config.chunk_bytes;
        let small = self.buffer_bytes_max == 0 && SMALL_BYTES < chunk_bytes;
        let wanted_bytes = if small { SMALL_BYTES } else { chunk_bytes };
        self.charge(wanted_bytes.saturating_sub(self.buffer_bytes_max))?;
        let core = Rc::clone(&self.core);
        let mut state = core.state.borrow_mut();
        if small {
            self.buffer_bytes_max = SMALL_BYTES;
            // The last chunk of a sealed message ends in a tag.
            let fresh = || Vec::with_capacity(SMALL_BYTES + TAG_BYTES);
            self.buffer = state.pool.small.pop().unwrap_or_else(fresh);
        } else if self.buffer_bytes_max < chunk_bytes {
            let fresh = || Vec::with_capacity(chunk_bytes + TAG_BYTES);
            let fresh = state.pool.large.pop().unwrap_or_else(fresh);
            let old = mem::replace(&mut self.buffer, fresh);
            // copy: at most once per message, and only for those that exceed the small buffer.
            self.buffer.extend_from_slice(&old);
            state.pool.give_back(old, self.buffer_bytes_max, chunk_bytes);
            self.buffer_bytes_max = chunk_bytes;
        }
        Ok(())
    }

    /// Makes room in a buffer that is full: a larger one, or its contents go to the log.
    async fn make_room(&mut self, wanted_bytes: usize) -> Result<(), StoreError> {
        if self.may_grow() {
            self.grow()?;
            if self.buffer.len() + wanted_bytes > self.buffer_bytes_max && self.may_grow() {
                self.grow()?;
            }
            return Ok(());
        }
        if self.chunks.len() == CHUNKS_COUNT_MAX {
            let why = format!("a message has at most {CHUNKS_COUNT_MAX} chunks");
            return Err(StoreError::Invalid(why));
        }
        self.charge(size_of::<Lsn>())?;
        if let Some(sealer) = &mut self.sealer {
            let sealed = sealer.seal_chunk(&mut self.buffer, false);
            sealed.map_err(|why| StoreError::Invalid(why.to_string()))?;
        }
        let placed = self.core.append(Kind::Chunk, self.id, &self.buffer.as_slice()).await?;
        self.buffer.clear();
        self.chunks.push(placed.lsn);
        if self.pinned.is_none() {
            let segment = placed.lsn.0 / self.core.config.segment_bytes;
            self.core.state.borrow_mut().pins.arrive(segment);
            self.pinned = Some(segment);
        }
        Ok(())
    }
}

impl<R: Runtime> Drop for Incoming<R> {
    fn drop(&mut self) {
        let mut state = self.core.state.borrow_mut();
        if let Some(segment) = self.pinned {
            state.pins.leave(segment);
        }
        state.waiting_bytes -= self.charged_bytes;
        let buffer = mem::take(&mut self.buffer);
        state.pool.give_back(buffer, self.buffer_bytes_max, self.core.config.chunk_bytes);
    }
}

impl<R: Runtime> fmt::Debug for Incoming<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {} bytes)", self.id, self.octets)
    }
}

impl super::log::Pool {
    fn give_back(&mut self, mut buffer: Vec<u8>, bytes_max: usize, chunk_bytes: usize) {
        buffer.clear();
        match bytes_max {
            0 => {}
            large if large == chunk_bytes => {
                if self.large.len() < LARGE_COUNT_MAX {
                    self.large.push(buffer);
                }
            }
            _ => {
                if self.small.len() < SMALL_COUNT_MAX {
                    self.small.push(buffer);
                }
            }
        }
    }
}

impl FreeSpace {
    /// Notes what was seen.
    pub(super) const fn saw(&mut self, bytes: u64, now: Instant) {
        self.bytes = bytes;
        self.seen = now;
        self.written_bytes = 0;
    }
}

impl<R: Runtime> Core<R> {
    /// Whether a new message may begin.
    fn admit(&self, state: &mut State<super::log::FileOf<R>>) -> Result<(), StoreError> {
        state.sound()?;
        if state.backlog.len() >= self.config.backlog_count_max
            || state.waiting_bytes >= self.config.waiting_bytes_max
        {
            return Err(StoreError::Busy);
        }
        // Without a next segment a message could fail half way; better to refuse it now.
        if let Some(error) = &state.next_error {
            return Err(error.clone());
        }
        let now = self.rt.now();
        if state.free.bytes < self.config.reserve_bytes
            && now.since(state.free.seen) >= SPACE_RECHECK
        {
            let seen = self.disk.free_bytes()?;
            state.free.saw(seen, now);
        }
        if state.free.bytes < self.config.reserve_bytes {
            return Err(StoreError::DiskLow { free_bytes: state.free.bytes });
        }
        Ok(())
    }
}
