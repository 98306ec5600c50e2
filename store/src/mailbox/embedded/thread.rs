//! The thread of the index: rounds of taking deliveries, answering readers, and transactions.
//!
//! A round begins when a nap ends or a request rings. While deliveries come the thread naps between
//! rounds instead of being woken for each; with nothing to do it sleeps. A transaction is due when
//! enough was gathered, when the oldest delivery has waited long enough, or when somebody waits for
//! one. Failure: when a transaction fails, nothing is taken any more and everything is answered
//! with [`StoreError::Poisoned`] until a restart, when the spools replay.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fsmtp_rt::{IoError, IoKind};

use super::super::pending::{LiveBytes, Pending};
use super::super::types::Maildrop;
use super::front::{Behind, Front};
use super::opening::Loaded;
use super::request::{Done, Write};
use super::slots::Slots;
use super::tables::{Tables, failed};
use super::work::Work;
use super::{Options, Shared};
use crate::directory::{Change, Directory, Edit};
use crate::{MailboxId, StoreError};

/// Messages of a removed account that go in one transaction.
const PURGE_ROWS: usize = 2048;

/// Everything that the thread owns.
pub(super) struct Index {
    shared: Arc<Shared>,
    tables: Tables,
    slots: Slots,
    front: Front,
    /// Deliveries that the transaction under way merges; empty between transactions.
    merging: Pending,
    /// Live bytes of what is merged.
    live: LiveBytes,
    directory: Arc<Directory>,
    /// Removed mailboxes whose mail is not gone yet.
    purges: VecDeque<MailboxId>,
    /// Mailboxes whose uids changed since the start: open maildrops may show the old ones.
    renumbered: BTreeSet<MailboxId>,
    /// When the oldest active delivery was taken.
    since: Option<Moment>,
}

/// Tells all who wait that nobody will answer, however the thread ends.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.drain();
    }
}

impl Index {
    pub(super) fn new(
        shared: Arc<Shared>,
        tables: Tables,
        loaded: Loaded,
        options: Options,
        directory: Arc<Directory>,
    ) -> Self {
        Self {
            front: Front::new(Arc::clone(&shared), options, loaded.applied, loaded.removed),
            shared,
            tables,
            slots: loaded.slots,
            merging: Pending::default(),
            live: loaded.live,
            directory,
            purges: loaded.purges,
            renumbered: BTreeSet::new(),
            since: None,
        }
    }

    /// Works until it is told to stop, or until the storage fails.
    pub(super) fn run(mut self) {
        let farewell = Farewell(Arc::clone(&self.shared));
        self.shared.bell.attach();
        loop {
            // Looked at before the queues: what was queued before the stop is taken in.
            let stop = self.shared.stop.load(Ordering::SeqCst);
            let busy = self.round();
            let purges = !stop && !self.purges.is_empty();
            let due = self.is_due() || (stop && self.front.active.count() > 0);
            if (due || purges)
                && let Err(error) = self.transact()
            {
                self.fail(error);
                break;
            }
            if due || self.front.has_readers() {
                continue;
            }
            if stop {
                break;
            }
            // Purges leave time for others between their transactions.
            self.rest(busy || purges);
        }
        drop(farewell);
    }

    /// Takes what has arrived and answers readers; says whether there were deliveries.
    fn round(&mut self) -> bool {
        let busy = self.front.collect();
        if self.front.active.count() > 0 && self.since.is_none() {
            self.since = Some(Moment::now());
        }
        let Pending { rows, lookups } = &mut self.merging;
        self.front.serve(Behind { tables: &self.tables, rows, lookups, live: &self.live });
        busy
    }

    fn is_due(&self) -> bool {
        !self.front.writes.is_empty()
            || self.front.active.count() >= self.front.options.merge_count
            || self.merge_in() == Some(Duration::ZERO)
    }

    /// How long the active deliveries may still wait; `None` when there are none.
    fn merge_in(&self) -> Option<Duration> {
        let since = self.since.as_ref()?;
        Some(self.front.options.merge_after.saturating_sub(since.elapsed()))
    }

    fn rest(&self, busy: bool) {
        let due = self.merge_in();
        if busy {
            let nap = self.front.options.nap;
            self.shared.bell.nap(due.map_or(nap, |due| due.min(nap)));
        } else {
            self.shared.bell.sleep(due, || self.shared.has_work());
        }
    }

    /// Merges the active deliveries and makes the changes that were asked for, durably.
    fn transact(&mut self) -> Result<(), StoreError> {
        core::mem::swap(&mut self.merging, &mut self.front.active);
        self.since = None;
        let writes = core::mem::take(&mut self.front.writes);
        let mut done = Vec::with_capacity(writes.len());
        let outcome = self.work(writes, &mut done);
        let told = outcome.clone();
        if outcome.is_ok() {
            self.shared.merges_count.fetch_add(1, Ordering::Relaxed);
            self.merging.clear();
        }
        for done in done {
            done.tell(told.clone());
        }
        outcome
    }

    fn work(&mut self, writes: Vec<Write>, done: &mut Vec<Done>) -> Result<(), StoreError> {
        let transaction = self.tables.begin()?;
        let writing = self.tables.write(&transaction)?;
        let mut work = Work::new(writing, &self.live, self.front.options.segment_bytes);
        let Pending { rows, lookups } = &mut self.merging;
        let (front, tables, live) = (&mut self.front, &self.tables, &self.live);
        work.merge(rows, &mut || {
            front.collect();
            front.serve(Behind { tables, rows, lookups: &mut *lookups, live });
        })?;
        let mut changes = Changes::new(&self.directory, &self.renumbered, &mut self.slots);
        for write in writes {
            changes.make(write, &mut work, done)?;
        }
        let purged = match self.purges.front() {
            Some(&mailbox) => work.purge(mailbox, PURGE_ROWS)?,
            None => false,
        };
        let Changes { directory, removed, closing, .. } = changes;
        let (changed, renumbered) = work.finish()?;
        self.slots.write()?;
        transaction.commit().map_err(failed)?;
        self.slots.settle()?;

        // What is durable now may be told, and maildrops are free again.
        drop(closing);
        for ((shard, number), bytes) in changed {
            if bytes == 0 {
                self.live.remove(&(shard, number));
            } else {
                self.live.insert((shard, number), bytes);
            }
        }
        for (&shard, &lsn) in &rows.applied {
            self.shared.set_applied(shard, lsn);
        }
        if purged {
            self.purges.pop_front();
        }
        self.renumbered.extend(renumbered);
        self.front.removed.extend(&removed);
        self.purges.extend(removed);
        if !Arc::ptr_eq(&directory, &self.directory) {
            self.directory = directory;
            self.shared.publish(&self.directory);
        }
        Ok(())
    }

    /// Answers everything with the failure, until it is told to stop.
    fn fail(&mut self, error: StoreError) {
        let cause = match error {
            StoreError::Io(cause) | StoreError::Poisoned { cause } => cause,
            other => IoError::new(IoKind::Failed, "use", format!("index.redb: {other}")),
        };
        let _ = self.shared.failure.set(StoreError::Poisoned { cause });
        self.front.refuse(|| self.shared.gone());
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.shared.drain();
            self.shared.bell.sleep(None, || !self.shared.requests.is_empty());
        }
    }
}

/// What the requests of one transaction change besides the tables.
struct Changes<'a> {
    directory: Arc<Directory>,
    removed: Vec<MailboxId>,
    /// Maildrops stay locked until the commit.
    closing: Vec<Maildrop>,
    renumbered: &'a BTreeSet<MailboxId>,
    slots: &'a mut Slots,
}

impl<'a> Changes<'a> {
    fn new(
        directory: &Arc<Directory>,
        renumbered: &'a BTreeSet<MailboxId>,
        slots: &'a mut Slots,
    ) -> Self {
        let directory = Arc::clone(directory);
        Self { directory, removed: Vec::new(), closing: Vec::new(), renumbered, slots }
    }

    /// Does what one request asks; its answer goes to `done`, for after the commit.
    fn make(
        &mut self,
        write: Write,
        work: &mut Work<'_, '_>,
        done: &mut Vec<Done>,
    ) -> Result<(), StoreError> {
        match write {
            Write::Persist { reply } => done.push(Done::Unit(reply)),
            Write::Rewrap { windows, reply } => {
                done.push(Done::Unit(reply));
                for window in &windows {
                    work.tables().replace_window(window)?;
                }
            }
            Write::Settle { settlements, reply } => {
                done.push(Done::Unit(reply));
                work.settle(settlements)?;
            }
            Write::Moved { shard, records, reply } => {
                done.push(Done::Unit(reply));
                work.relocate(shard, &records)?;
            }
            Write::Close { maildrop, deletions, reply } => {
                done.push(Done::Unit(reply));
                let mailbox = maildrop.mailbox();
                let messages = maildrop.pick(deletions);
                self.closing.push(maildrop);
                if self.renumbered.contains(&mailbox) || work.renumbered.contains(&mailbox) {
                    work.delete_by_id(mailbox, &messages)?;
                } else {
                    work.delete(mailbox, &messages)?;
                }
            }
            Write::Change { change, reply } => match self.possible(change) {
                Err(refused) => drop(reply.send(Err(refused))),
                Ok((next, edits)) => {
                    for edit in &edits {
                        work.tables().edit(edit, next.next_mailbox(), self.slots)?;
                        if let Edit::DropAccount { mailbox, .. } = edit {
                            self.removed.extend(mailbox.all());
                        }
                    }
                    if !edits.is_empty() {
                        self.directory = Arc::new(next);
                    }
                    done.push(Done::Changed(reply, Arc::clone(&self.directory)));
                }
            },
        }
        Ok(())
    }

    /// What becomes of the directory, if it can be stored.
    fn possible(&mut self, change: Change) -> Result<(Directory, Vec<Edit>), StoreError> {
        let (next, edits) = self.directory.apply(change)?;
        let accounts = edits.iter().filter(|edit| matches!(edit, Edit::PutAccount(..)));
        self.slots.make_room(accounts.count())?;
        Ok((next, edits))
    }
}

/// A point in time of the machine.
///
/// WHY: this thread belongs to no shard; it runs on the real machine only and asks for nothing but
/// how long deliveries have waited, which changes no outcome.
#[expect(clippy::disallowed_types, reason = "see above")]
struct Moment(std::time::Instant);

impl Moment {
    #[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "see above")]
    fn now() -> Self {
        Self(std::time::Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
