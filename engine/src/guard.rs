//! What a panic may take with it: the session it happens in, never more.
//!
//! Called by the accept loops for each session, and by the desk around the spool.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A session's task; a panic in it ends it with `None`.
#[derive(Debug)]
pub struct Guarded<F> {
    task: Pin<Box<F>>,
}

impl<F: Future> Guarded<F> {
    /// Guards `task`.
    pub fn new(task: F) -> Self {
        Self { task: Box::pin(task) }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // What the task shares with others is behind `SharedState` or consists of cells that are
        // never left half changed, so nobody sees a broken value; the task itself is not polled
        // again.
        match catch_unwind(AssertUnwindSafe(|| self.task.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}

/// Stands while state is in use that all sessions share: a panic then ends the process, which
/// recovers everything acknowledged from disk.
#[derive(Debug)]
pub struct SharedState;

impl Drop for SharedState {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::{poll_fn, ready};
    use core::task::Waker;

    #[test]
    fn a_panic_is_an_end_and_not_the_callers() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut good = Guarded::new(ready(7));
        assert_eq!(Pin::new(&mut good).poll(&mut cx), Poll::Ready(Some(7)));
        let mut bad = Guarded::new(poll_fn(|_| -> Poll<()> { panic!("on purpose") }));
        assert_eq!(Pin::new(&mut bad).poll(&mut cx), Poll::Ready(None));
        drop(SharedState);
    }
}
