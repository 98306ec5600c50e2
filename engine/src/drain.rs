//! The end of a shard: who must be told, and who is still there.
//!
//! Sessions enter when they begin. When the shard drains, each is woken; one that waits for a
//! command says goodbye, one in a transaction finishes it first. When the time for that is over,
//! each is woken again, and says goodbye where it next waits for its client.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Stage {
    #[default]
    Open,
    /// Sessions end between transactions.
    Draining,
    /// Sessions end where they are.
    Late,
}

/// Sessions of a shard, and whether they shall end.
#[derive(Debug, Default)]
pub struct Drain {
    stage: Cell<Stage>,
    next: Cell<u64>,
    sessions: RefCell<BTreeMap<u64, Waker>>,
    empty: RefCell<Option<Waker>>,
}

/// A session that takes part; leaves on drop.
#[derive(Debug)]
pub struct Guest {
    drain: Rc<Drain>,
    number: u64,
}

impl Drain {
    /// A session begins; it is woken by `waker` when the shard drains.
    pub fn enter(self: &Rc<Self>, waker: &Waker) -> Guest {
        let number = self.next.get();
        self.next.set(number + 1);
        self.sessions.borrow_mut().insert(number, waker.clone());
        Guest { drain: Rc::clone(self), number }
    }

    /// The same for the calling task.
    pub async fn enter_task(self: &Rc<Self>) -> Guest {
        poll_fn(|cx| Poll::Ready(self.enter(cx.waker()))).await
    }

    /// Sessions that are still there.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Whether the end has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stage.get() > Stage::Open
    }

    /// Tells all sessions to end when their transactions do.
    pub fn begin(&self) {
        self.enter_stage(Stage::Draining);
    }

    /// Tells all sessions to end where they are.
    pub fn hurry(&self) {
        self.enter_stage(Stage::Late);
    }

    fn enter_stage(&self, stage: Stage) {
        self.stage.set(stage);
        for waker in self.sessions.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// Resolves when no session is left.
    pub async fn finished(&self) {
        poll_fn(|cx| {
            if self.sessions.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.empty.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits for `task` unless the shard drains first; `None` then. Only for tasks that entered.
    pub async fn unless_draining<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        self.until(Stage::Draining, task).await
    }

    /// The same for a task in the middle of something, which the end of the patience ends.
    pub async fn unless_late<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        self.until(Stage::Late, task).await
    }

    async fn until<T>(&self, end: Stage, task: impl Future<Output = T>) -> Option<T> {
        let mut task = pin!(task);
        poll_fn(|cx| {
            // A client that never stops talking would put off the end for ever.
            if self.stage.get() == Stage::Late {
                return Poll::Ready(None);
            }
            match task.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending if self.stage.get() >= end => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.drain.sessions.borrow_mut().remove(&self.number);
        if self.drain.sessions.borrow().is_empty() {
            let waker = self.drain.empty.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::{pending, ready};
    use core::pin::Pin;
    use core::task::Context;

    fn poll<F: Future>(task: Pin<&mut F>) -> Poll<F::Output> {
        task.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn waiting_sessions_are_let_go_and_the_last_one_ends_it() {
        let drain: Rc<Drain> = Rc::default();
        let guest = drain.enter(Waker::noop());
        let mut idle = pin!(drain.unless_draining(pending::<()>()));
        assert!(poll(idle.as_mut()).is_pending());
        let mut finished = pin!(drain.finished());
        assert!(poll(finished.as_mut()).is_pending());
        drain.begin();
        assert_eq!(poll(idle.as_mut()), Poll::Ready(None));
        assert_eq!(drain.sessions(), 1);
        drop(guest);
        assert!(poll(finished.as_mut()).is_ready());
    }

    #[test]
    fn a_busy_session_is_let_finish_until_it_is_late_and_then_ends_even_if_it_never_waits() {
        let drain: Rc<Drain> = Rc::default();
        let _guest = drain.enter(Waker::noop());
        let mut busy = pin!(drain.unless_late(pending::<()>()));
        drain.begin();
        assert!(poll(busy.as_mut()).is_pending());
        assert_eq!(poll(pin!(drain.unless_late(ready(1)))), Poll::Ready(Some(1)));
        drain.hurry();
        assert_eq!(poll(busy.as_mut()), Poll::Ready(None));
        assert_eq!(poll(pin!(drain.unless_late(ready(1)))), Poll::Ready(None));
        assert_eq!(poll(pin!(drain.unless_draining(ready(1)))), Poll::Ready(None));
    }
}
