//! The newest value of something, from any thread to one task of a shard.
//!
//! A value that was not fetched is replaced by the next one. Used for the directory and for the
//! call to drain: the task needs to know how things stand, not how they came about.

use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::sync::{Arc, Mutex, PoisonError};

/// One end; clones are the same.
#[derive(Debug)]
pub struct Latest<T> {
    state: Arc<Mutex<(Option<T>, Option<Waker>)>>,
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new((None, None))) }
    }
}

impl<T> Latest<T> {
    /// Puts a value there and wakes the task.
    pub fn put(&self, value: T) {
        let waker = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(value);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the value, waiting for one.
    pub async fn take(&self) -> T {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match state.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_value_is_seen() {
        let latest = Latest::default();
        latest.put(1);
        latest.put(2);
        assert_eq!(fsmtp_store::mailbox::wait(latest.take()), 2);
        let later = latest.clone();
        let thread = std::thread::spawn(move || later.put(3));
        assert_eq!(fsmtp_store::mailbox::wait(latest.take()), 3);
        thread.join().unwrap();
    }
}
