//! What the thread of the index holds in memory: the queues' other end, and answers to readers.
//!
//! A reader's request is taken from its queue before the deliveries are, so every delivery that was
//! queued before the request is seen by its answer, of whatever shard. Limits: [`Options`]; a
//! mailbox is listed in slices, so that one of a million messages does not hold up the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::lock::{Hold, Locks};
use super::super::pending::{Body, Entry, LiveBytes, Lookups, Pending, Rows, View};
use super::super::types::{Found, Maildrop, Message, Queued, Usage};
use super::queue::Line;
use super::reading::Reading;
use super::request::{Read, Reply, Request, Write};
use super::tables::Tables;
use super::{Options, Shared};
use crate::seal::{RecipientWrap, UserKeys, WindowRecord};
use crate::spool::{BodyRef, RecipientKey};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

/// Rows of a mailbox that are read at a time: some 2 ms.
const SLICE_ROWS: usize = 8 * 1024;
/// What beginning a list counts for.
const SCAN_ROWS: usize = 64;
/// Rows that are read before deliveries and transactions get their turn.
const TURN_ROWS: usize = 4 * SLICE_ROWS;

/// Deliveries and questions that have arrived.
pub(super) struct Front {
    shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) active: Pending,
    /// How far each shard's log was taken in, merged or not.
    seen: BTreeMap<ShardId, Lsn>,
    pub(super) removed: BTreeSet<MailboxId>,
    locks: Locks,
    reads: VecDeque<Read>,
    scans: VecDeque<Scan>,
    pub(super) writes: Vec<Write>,
    /// Deliveries were left in the queues, so readers must wait.
    behind: bool,
}

/// A mailbox that is being listed.
struct Scan {
    mailbox: MailboxId,
    next: u32,
    goal: Goal,
}

enum Goal {
    Open { messages: Vec<Message>, hold: Hold, reply: Reply<Maildrop> },
    Usage { sum: Usage, reply: Reply<Usage> },
}

/// What readers see besides the active deliveries.
pub(super) struct Behind<'a> {
    pub(super) tables: &'a Tables,
    pub(super) rows: &'a Rows,
    pub(super) lookups: &'a mut Lookups,
    pub(super) live: &'a LiveBytes,
}

impl Front {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        seen: BTreeMap<ShardId, Lsn>,
        removed: BTreeSet<MailboxId>,
    ) -> Self {
        Self {
            shared,
            options,
            active: Pending::default(),
            seen,
            removed,
            locks: Locks::default(),
            reads: VecDeque::new(),
            scans: VecDeque::new(),
            writes: Vec::new(),
            behind: false,
        }
    }

    /// Takes what the queues hold, requests first; says whether there were deliveries.
    pub(super) fn collect(&mut self) -> bool {
        while let Some(request) = self.shared.requests.pop() {
            match request {
                Request::Read(read) => self.reads.push_back(read),
                Request::Write(write) => self.writes.push(write),
            }
        }
        let shared = &self.shared;
        let mut count = 0;
        self.behind = false;
        for queue in &shared.queues {
            loop {
                if self.active.count() >= self.options.pending_max() {
                    self.behind = true;
                    break;
                }
                let Some(delivery) = queue.pop() else { break };
                count += 1;
                // As many as the message had, doubles included.
                shared.queued_recipients.fetch_sub(delivery.weight, Ordering::Relaxed);
                let seen = self.seen.entry(delivery.body.shard).or_default();
                // A replay begins at the mark, or before it.
                if delivery.end > *seen {
                    *seen = delivery.end;
                    self.active.add(delivery, &self.removed, self.options.segment_bytes);
                }
            }
        }
        shared.deliveries_count.fetch_add(count, Ordering::Relaxed);
        count > 0
    }

    /// Whether readers still wait for an answer that could be given now.
    pub(super) fn has_readers(&self) -> bool {
        !self.scans.is_empty() || !self.reads.is_empty()
    }

    /// Answers readers; long lists go on in the next call.
    pub(super) fn serve(&mut self, behind: Behind<'_>) {
        if self.behind || !self.has_readers() {
            return;
        }
        let active = &mut self.active;
        let mut sight = Sight {
            tables: behind.tables,
            live: behind.live,
            reading: None,
            view: View::new((behind.rows, behind.lookups), (&active.rows, &mut active.lookups)),
        };
        while let Some(read) = self.reads.pop_front() {
            // Nobody may be waiting any more; then the answer is dropped.
            let _ = match read {
                Read::Locate { id, reply } => reply.send(sight.locate(id)).is_ok(),
                Read::Find { mailbox, message, reply } => {
                    reply.send(sight.find(mailbox, message)).is_ok()
                }
                Read::Queued { line, shard, after, count_max, reply } => {
                    reply.send(sight.queued(line, shard, after, count_max)).is_ok()
                }
                Read::FindQueued { id, reply } => reply.send(sight.find_queued(id)).is_ok(),
                Read::Keys { mailbox, reply } => reply.send(sight.keys(mailbox)).is_ok(),
                Read::LiveBytes { shard, reply } => reply.send(Ok(sight.live_bytes(shard))).is_ok(),
                Read::Live { shard, records, reply } => {
                    reply.send(sight.live(shard, &records)).is_ok()
                }
                Read::Usage { mailbox, reply } => {
                    let goal = Goal::Usage { sum: Usage::default(), reply };
                    self.scans.push_back(Scan { mailbox, next: 1, goal });
                    true
                }
                Read::Open { mailbox, reply } => {
                    let hold = if self.removed.contains(&mailbox) {
                        Err(StoreError::NotFound(format!("mailbox {}", mailbox.0)))
                    } else {
                        self.locks.take(mailbox)
                    };
                    match hold {
                        Ok(hold) => {
                            let goal = Goal::Open { messages: Vec::new(), hold, reply };
                            self.scans.push_back(Scan { mailbox, next: 1, goal });
                            true
                        }
                        Err(error) => reply.send(Err(error)).is_ok(),
                    }
                }
            };
        }
        let mut rows_left = TURN_ROWS;
        while let Some(mut scan) = self.scans.pop_front() {
            let mut rows = SCAN_ROWS;
            match scan.slice(&mut sight, self.options.maildrop_messages_max, &mut rows) {
                Ok(true) => scan.finish(Ok(())),
                Ok(false) => self.scans.push_back(scan),
                Err(error) => scan.finish(Err(error)),
            }
            rows_left = rows_left.saturating_sub(rows);
            if rows_left == 0 {
                break;
            }
        }
    }

    /// Answers everybody who waits that the index has failed.
    pub(super) fn refuse(&mut self, why: impl Fn() -> StoreError) {
        for read in self.reads.drain(..) {
            Request::Read(read).refuse(why());
        }
        for write in self.writes.drain(..) {
            Request::Write(write).refuse(why());
        }
        for scan in self.scans.drain(..) {
            scan.finish(Err(why()));
        }
    }
}

/// Everything that readers see: the tables and both generations of pending deliveries.
struct Sight<'a> {
    tables: &'a Tables,
    live: &'a LiveBytes,
    view: View<'a>,
    /// Opened when the tables are needed, for all readers of one call.
    reading: Option<Reading>,
}

impl Sight<'_> {
    fn reading(&mut self) -> Result<&Reading, StoreError> {
        if self.reading.is_none() {
            self.reading = Some(self.tables.read()?);
        }
        self.reading.as_ref().ok_or(StoreError::Busy)
    }

    fn body(&mut self, id: QueueId) -> Result<Option<Body>, StoreError> {
        if let Some(body) = self.view.body(id) {
            return Ok(Some(body.clone()));
        }
        self.reading()?.body(id)
    }

    fn locate(&mut self, id: QueueId) -> Result<BodyRef, StoreError> {
        let found = self.body(id)?.map(|body| body.place());
        found.ok_or_else(|| StoreError::NotFound(format!("message {id}")))
    }

    fn find(&mut self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        let none = || StoreError::NotFound(format!("message {}", message.id));
        let (wrap, fresh) = match self.view.entry(mailbox, message.id) {
            Some(Entry { key, .. }) => {
                (key.as_ref().map(|key| key.wrap), key.as_ref().map(|key| &key.window))
            }
            None => (self.reading()?.wrap(mailbox, message)?.ok_or_else(none)?, None),
        };
        self.found(mailbox, message.id, wrap, fresh)
    }

    fn queued(
        &mut self,
        line: Line,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.reading()?.queued(line, shard, after, count_max)
    }

    fn find_queued(&mut self, id: QueueId) -> Result<Found, StoreError> {
        let none = || StoreError::NotFound(format!("message {id}"));
        let (wrap, fresh) = match self.view.entry(MailboxId::QUEUE, id) {
            Some(Entry { key, .. }) => {
                (key.as_ref().map(|key| key.wrap), key.as_ref().map(|key| &key.window))
            }
            None => (self.reading()?.queued_wrap(id)?.ok_or_else(none)?, None),
        };
        self.found(MailboxId::QUEUE, id, wrap, fresh)
    }

    /// A message with the window of its key; `fresh` is the one that came along with it.
    fn found(
        &mut self,
        mailbox: MailboxId,
        id: QueueId,
        wrap: Option<RecipientWrap>,
        fresh: Option<&Arc<WindowRecord>>,
    ) -> Result<Found, StoreError> {
        let key = match wrap {
            None => None,
            Some(wrap) => {
                // The window may have come with an earlier message, and been rewrapped since.
                let kept = match (self.reading()?.window(mailbox, wrap.window), fresh) {
                    (Ok(kept), _) => kept,
                    // Damage there does not harm what is still in memory.
                    (Err(StoreError::Corrupt { .. }), Some(_)) => None,
                    (Err(error), _) => return Err(error),
                };
                let window = kept.map(Arc::new).or_else(|| fresh.cloned());
                let window = window.ok_or_else(|| StoreError::Corrupt {
                    place: format!("the window of message {id}"),
                    why: "it is missing, so that nothing opens the message".to_owned(),
                })?;
                Some(RecipientKey { wrap, window })
            }
        };
        Ok(Found { body: self.locate(id)?.into(), key })
    }

    fn keys(&mut self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        let keys = self.reading()?.keys(mailbox.account())?;
        keys.ok_or_else(|| StoreError::NotFound(format!("the key pair of mailbox {}", mailbox.0)))
    }

    fn live_bytes(&self, shard: ShardId) -> BTreeMap<u64, u64> {
        let merged = self.live.range((shard, 0)..=(shard, u64::MAX));
        let mut sum = merged.map(|(&(_, number), &bytes)| (number, bytes)).collect();
        self.view.add_live(shard, &mut sum);
        sum
    }

    fn live(
        &mut self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        let is_live = |&(id, lsn): &(QueueId, Lsn)| {
            let body = self.body(id)?;
            Ok(body.is_some_and(|body| body.shard == shard && body.is_at(lsn)))
        };
        records.iter().map(is_live).collect()
    }
}

impl Scan {
    /// Reads on; says whether that was all, and how many rows it took.
    fn slice(
        &mut self,
        sight: &mut Sight<'_>,
        messages_max: usize,
        rows: &mut usize,
    ) -> Result<bool, StoreError> {
        let rows_max = match &self.goal {
            Goal::Open { messages, .. } => SLICE_ROWS.min(messages_max - messages.len()),
            Goal::Usage { .. } => SLICE_ROWS,
        };
        let mailbox = self.mailbox;
        let next = sight.reading()?.messages(mailbox, self.next, rows_max, |message| {
            *rows += 1;
            if let Some(message) = message {
                self.goal.take(message);
            }
        })?;
        if let Goal::Open { messages, .. } = &self.goal
            && messages.len() >= messages_max
        {
            return Ok(true);
        }
        if let Some(next) = next {
            self.next = next;
            return Ok(false);
        }
        // The uids that the merge will give them. When they are used up, the merge begins anew, and
        // these messages are shown the next time.
        let mut uid = sight.reading()?.next_uid(mailbox)?;
        for entry in sight.view.entries(mailbox) {
            let Some(this) = uid else { break };
            if let Goal::Open { messages, .. } = &self.goal
                && messages.len() >= messages_max
            {
                break;
            }
            self.goal.take(Message { id: entry.id, octets: entry.octets, uid: Uid(this) });
            uid = this.checked_add(1);
        }
        Ok(true)
    }

    fn finish(self, outcome: Result<(), StoreError>) {
        let _ = match self.goal {
            Goal::Open { messages, hold, reply } => {
                let maildrop = outcome.map(|()| Maildrop::new(self.mailbox, messages, hold));
                reply.send(maildrop).is_ok()
            }
            Goal::Usage { sum, reply } => reply.send(outcome.map(|()| sum)).is_ok(),
        };
    }
}

impl Goal {
    fn take(&mut self, message: Message) {
        match self {
            Self::Open { messages, .. } => messages.push(message),
            Self::Usage { sum, .. } => {
                sum.messages_count += 1;
                // A row that is damaged and still reads may say any number.
                sum.octets = sum.octets.saturating_add(message.octets);
            }
        }
    }
}
