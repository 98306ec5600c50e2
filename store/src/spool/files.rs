//! Segment files that the readers of a shard share, so that their number does not grow with the
//! number of readers.
//!
//! A reader borrows a file for one read at a time ([`SegmentFiles::lend`]). At most
//! [`FILES_COUNT_MAX`] are open; the one that was not used for longest goes first, and who needs
//! another one while all are being read waits in turn. A segment that was given back takes its
//! space as long as somebody has it open, so [`SegmentFiles::sweep`], called now and then, closes
//! what nobody used since the call before. Failure: what the disk says about opening.

use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::ops::Deref;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use fsmtp_rt::{Disk, IoError};

use super::log::wake;
use super::segment::segment_name;
use crate::id::ShardId;

/// Files that are open at one time. Arbitrary: a maildrop lies in the newest segments of every
/// shard's log, and most machines have fewer shards than this.
pub const FILES_COUNT_MAX: usize = 32;

/// Which segment.
type Key = (ShardId, u64);

/// The open segment files of one shard's readers.
pub struct SegmentFiles<D: Disk> {
    disk: D,
    state: RefCell<State<D::File>>,
}

struct State<F> {
    /// Least recently used first.
    open: Vec<Open<F>>,
    /// Places that are taken by files about to be opened.
    opening_count: usize,
    opened_count: u64,
    /// Who waits for a place; tickets rise from front to back.
    waiters: VecDeque<(u64, Waker)>,
    tickets_count: u64,
}

struct Open<F> {
    /// Names this opening: a segment may be opened anew while the old file is being read.
    serial: u64,
    key: Key,
    file: F,
    borrowers_count: usize,
    /// Since the last sweep.
    used: bool,
    /// Not to be lent any more.
    stale: bool,
}

/// A file for one read.
pub(super) struct Lent<D: Disk> {
    files: Rc<SegmentFiles<D>>,
    serial: u64,
    file: D::File,
}

/// What a reader that asks for a file gets.
enum Claim<D: Disk> {
    File(Lent<D>),
    /// A place for a file that is to be opened.
    Place(Place<D>),
}

struct Place<D: Disk>(Rc<SegmentFiles<D>>);

/// A place in the queue, given up when dropped.
struct Ticket<'a, D: Disk> {
    files: &'a SegmentFiles<D>,
    number: Option<u64>,
}

impl<F> State<F> {
    /// Makes a place for one more file, if that is possible.
    fn make_place(&mut self) -> bool {
        if self.open.len() + self.opening_count < FILES_COUNT_MAX {
            return true;
        }
        let unused = self.open.iter().position(|open| open.borrowers_count == 0);
        unused.map(|index| self.open.remove(index)).is_some()
    }

    fn front(&self) -> Option<Waker> {
        self.waiters.front().map(|(_, waker)| waker.clone())
    }

    fn leave_queue(&mut self, ticket: u64) {
        if let Ok(index) = self.waiters.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            self.waiters.remove(index);
        }
    }
}

impl<D: Disk> SegmentFiles<D> {
    /// None is open yet. `disk` is the folder that the shards share.
    #[must_use]
    pub fn new(disk: D) -> Rc<Self> {
        let state = State {
            open: Vec::new(),
            opening_count: 0,
            opened_count: 0,
            waiters: VecDeque::new(),
            tickets_count: 0,
        };
        Rc::new(Self { disk, state: RefCell::new(state) })
    }

    /// Closes the files that nobody has used since the last call.
    pub fn sweep(&self) {
        let front = {
            let mut state = self.state.borrow_mut();
            state.open.retain(|open| open.used || open.borrowers_count > 0);
            state.open.iter_mut().for_each(|open| open.used = false);
            state.front()
        };
        wake(front);
    }

    /// How many files are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.state.borrow().open.len()
    }

    /// The file of a segment; waits while all places are in use.
    pub(super) async fn lend(self: &Rc<Self>, key: Key) -> Result<Lent<D>, IoError> {
        let mut ticket = Ticket { files: self, number: None };
        let claim = poll_fn(|cx| self.poll_claim(cx, key, &mut ticket.number)).await;
        drop(ticket);
        let place = match claim {
            Claim::File(lent) => return Ok(lent),
            Claim::Place(place) => place,
        };
        let file = self.disk.open(&segment_name(key.0, key.1)).await?;
        drop(place);
        let mut state = self.state.borrow_mut();
        // Another reader may have opened it meanwhile; then ours is closed again.
        if let Some(lent) = self.borrow_open(&mut state, key) {
            return Ok(lent);
        }
        let serial = state.opened_count;
        state.opened_count += 1;
        let lent = Lent { files: Rc::clone(self), serial, file: file.clone() };
        let (borrowers_count, used, stale) = (1, true, false);
        state.open.push(Open { serial, key, file, borrowers_count, used, stale });
        Ok(lent)
    }

    /// The file under this name is not what it was: the next reader opens it anew.
    pub(super) fn forget(&self, key: Key) {
        let mut state = self.state.borrow_mut();
        state.open.retain(|open| open.key != key || open.borrowers_count > 0);
        state.open.iter_mut().filter(|open| open.key == key).for_each(|open| open.stale = true);
        let front = state.front();
        drop(state);
        wake(front);
    }

    fn poll_claim(
        self: &Rc<Self>,
        cx: &Context<'_>,
        key: Key,
        ticket: &mut Option<u64>,
    ) -> Poll<Claim<D>> {
        let mut state = self.state.borrow_mut();
        if let Some(lent) = self.borrow_open(&mut state, key) {
            return Poll::Ready(Claim::File(lent));
        }
        let first = state.waiters.front().map(|(ticket, _)| *ticket);
        if first == *ticket && state.make_place() {
            state.opening_count += 1;
            return Poll::Ready(Claim::Place(Place(Rc::clone(self))));
        }
        let state = &mut *state;
        let number = *ticket.get_or_insert_with(|| {
            state.tickets_count += 1;
            state.tickets_count
        });
        match state.waiters.binary_search_by_key(&number, |(ticket, _)| *ticket) {
            Ok(index) => {
                if let Some((_, waker)) = state.waiters.get_mut(index) {
                    waker.clone_from(cx.waker());
                }
            }
            Err(_) => state.waiters.push_back((number, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Borrows a file that is open.
    fn borrow_open(self: &Rc<Self>, state: &mut State<D::File>, key: Key) -> Option<Lent<D>> {
        let index = state.open.iter().position(|open| open.key == key && !open.stale)?;
        let mut open = state.open.remove(index);
        open.borrowers_count += 1;
        open.used = true;
        let lent = Lent { files: Rc::clone(self), serial: open.serial, file: open.file.clone() };
        state.open.push(open);
        Some(lent)
    }
}

impl<D: Disk> Drop for Place<D> {
    fn drop(&mut self) {
        let front = {
            let mut state = self.0.state.borrow_mut();
            state.opening_count -= 1;
            state.front()
        };
        wake(front);
    }
}

impl<D: Disk> Drop for Lent<D> {
    fn drop(&mut self) {
        let front = {
            let mut state = self.files.state.borrow_mut();
            let found = state.open.iter().position(|open| open.serial == self.serial);
            if let Some(open) = found.and_then(|index| state.open.get_mut(index)) {
                open.borrowers_count -= 1;
            }
            state.open.retain(|open| !open.stale || open.borrowers_count > 0);
            state.front()
        };
        wake(front);
    }
}

impl<D: Disk> Drop for Ticket<'_, D> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let front = {
                let mut state = self.files.state.borrow_mut();
                state.leave_queue(number);
                state.front()
            };
            wake(front);
        }
    }
}

impl<D: Disk> Deref for Lent<D> {
    type Target = D::File;

    fn deref(&self) -> &D::File {
        &self.file
    }
}

impl<D: Disk> fmt::Debug for SegmentFiles<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentFiles({} open)", self.open_count())
    }
}
