//! Group commit: the task that writes batches, and the futures that wait for them.
//!
//! One batch is under way at a time; when it is durable its messages go to the sink, then all who
//! wait for it are woken. An idle log writes as soon as somebody waits. A failed write poisons the
//! log: nobody who waited for it, or comes later, is told that anything is durable.

use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::rc::Rc;

use fsmtp_rt::{Block, Class, Disk, File, IoError, Runtime};

use super::Committed;
use super::log::{Core, wake};
use crate::error::StoreError;

/// How long the sink is left alone after it gave a message back. Arbitrary: long enough to cost
/// nothing, short enough that a backlog within its bound drains at once when the sink has room.
const BACKLOG_RETRY: Duration = Duration::from_millis(2);

/// The task that writes; ends when the log is poisoned.
pub(super) async fn write_batches<R: Runtime>(core: Rc<Core<R>>) {
    loop {
        poll_fn(|cx| core.poll_write_wanted(cx)).await;
        for _ in 0..core.config.gather_turns {
            core.rt.yield_now().await;
        }
        let (sealed, front) = {
            let mut state = core.state.borrow_mut();
            (state.seal(), state.room_front())
        };
        // The next batch can begin: the first who waits for room may have it.
        wake(front);
        let Some((file, at, block)) = sealed else { continue };
        let (block, outcome) = file.write_durable(at, block).await;
        match outcome {
            Ok(()) => core.landed(block),
            Err(cause) => return core.poison(cause),
        }
    }
}

impl<R: Runtime> Core<R> {
    fn poll_write_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.write_wanted() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The batch under way is durable.
    fn landed(self: &Rc<Self>, block: Block) {
        let bytes = block.len() as u64;
        let (mut waiters, mut messages) = {
            let mut state = self.state.borrow_mut();
            let flight = state.flying.take().expect("a batch was under way, or none could land");
            assert!(flight.end > state.durable, "the log only grows");
            state.durable = flight.end;
            state.batches_durable = flight.number + 1;
            state.counters.batches_count += 1;
            state.counters.written_bytes += bytes;
            state.free.written_bytes += bytes;
            if state.free.written_bytes >= self.config.space_check_bytes {
                // An error here shows again, and is answered, when the next segment is made.
                let seen = self.disk.free_bytes().unwrap_or(state.free.bytes);
                state.free.saw(seen, self.rt.now());
            }
            (flight.waiters, flight.messages)
        };
        for message in messages.drain(..) {
            self.hand_over(message);
        }
        for waiter in waiters.drain(..) {
            waiter.wake();
        }
        self.state.borrow_mut().recycle(block, waiters, messages);
    }

    /// Gives a durable message to the sink, or to the backlog when the sink is behind.
    fn hand_over(self: &Rc<Self>, message: Committed) {
        let refused = if self.state.borrow().backlog.is_empty() {
            self.offer(message).err()
        } else {
            Some(message)
        };
        let Some(message) = refused else { return };
        let serve = {
            let mut state = self.state.borrow_mut();
            state.backlog.push_back(message);
            state.counters.backlogged_count += 1;
            !core::mem::replace(&mut state.backlog_served, true)
        };
        if serve {
            self.rt.spawn(Class::Background, serve_backlog(Rc::clone(self)));
        }
    }

    /// Offers a message to the sink; taken, it is no longer ours to remember.
    #[allow(clippy::result_large_err)] // WHY: as in `Sink::committed`
    fn offer(&self, message: Committed) -> Result<(), Committed> {
        let bytes = message.memory_bytes();
        self.sink.committed(message)?;
        self.state.borrow_mut().waiting_bytes -= bytes;
        Ok(())
    }

    fn poison(&self, cause: IoError) {
        let (waiters, others) = {
            let mut state = self.state.borrow_mut();
            state.poisoned = Some(cause);
            let waiters = state.flying.take().map(|flight| flight.waiters);
            (waiters.unwrap_or_default(), state.everybody())
        };
        for waiter in waiters.into_iter().chain(others) {
            waiter.wake();
        }
    }

    /// Resolves when the batch is on stable storage.
    pub(super) async fn durable(&self, batch: u64) -> Result<(), StoreError> {
        let mut slot = None;
        poll_fn(|cx| self.poll_durable(cx, batch, &mut slot)).await
    }

    fn poll_durable(
        &self,
        cx: &Context<'_>,
        batch: u64,
        slot: &mut Option<usize>,
    ) -> Poll<Result<(), StoreError>> {
        let mut state = self.state.borrow_mut();
        if batch < state.batches_durable {
            return Poll::Ready(Ok(()));
        }
        state.sound()?;
        enlist(state.waiters_of(batch), slot, cx.waker());
        let wanted = state.write_wanted();
        let writer = state.writer.take_if(|_| wanted);
        drop(state);
        wake(writer);
        Poll::Pending
    }
}

/// Puts the waker into its slot of the batch's list, taking one at the first time.
fn enlist(waiters: &mut Vec<Waker>, slot: &mut Option<usize>, waker: &Waker) {
    match slot.and_then(|index| waiters.get_mut(index)) {
        Some(place) => place.clone_from(waker),
        None => {
            *slot = Some(waiters.len());
            waiters.push(waker.clone());
        }
    }
}

/// Offers the backlog to the sink until nothing is left of it.
async fn serve_backlog<R: Runtime>(core: Rc<Core<R>>) {
    loop {
        core.rt.sleep_until(core.rt.now() + BACKLOG_RETRY).await;
        loop {
            let Some(message) = core.state.borrow_mut().backlog.pop_front() else { break };
            if let Err(message) = core.offer(message) {
                core.state.borrow_mut().backlog.push_front(message);
                break;
            }
        }
        let mut state = core.state.borrow_mut();
        if state.backlog.is_empty() {
            state.backlog_served = false;
            return;
        }
    }
}
