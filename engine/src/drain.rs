//! The end of a shard: who must be told, and who is still there.
//!
//! Sessions enter when they begin. When the shard drains, each is woken; one that waits for a
//! command says goodbye, one in a transaction finishes it first.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Sessions of a shard, and whether they shall end.
#[derive(Debug, Default)]
pub struct Drain {
    draining: Cell<bool>,
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

    /// Whether sessions shall end.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Sessions that are still there.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Tells all sessions to end.
    pub fn begin(&self) {
        self.draining.set(true);
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
        let mut task = pin!(task);
        poll_fn(|cx| match task.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if self.draining() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
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
    use core::future::pending;
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
}
