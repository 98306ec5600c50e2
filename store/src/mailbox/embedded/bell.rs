//! Waking the thread of the index: seldom for deliveries, at once for requests.
//!
//! While there is work the thread naps between rounds, and deliveries that come meanwhile wait for
//! the next round: a producer then pays one fence and one load. Only when the thread has nothing to
//! do does it sleep, and then the first delivery wakes it. Nothing is ever polled.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use core::time::Duration;
use std::sync::OnceLock;
use std::thread::{self, Thread};

/// Between the producers and one thread.
#[derive(Debug, Default)]
pub(super) struct Bell {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
    wakes_count: AtomicU64,
}

impl Bell {
    /// Names the thread that sleeps; called by it before anything else.
    pub(super) fn attach(&self) {
        let _ = self.thread.set(thread::current());
    }

    /// A delivery was queued.
    pub(super) fn nudge(&self) {
        // Either this load sees that the thread sleeps, or the thread, which looks at the queues
        // after it has said so, sees the delivery: both fences make that one order.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wakes_count.fetch_add(1, Ordering::Relaxed);
            self.ring();
        }
    }

    /// A request was queued. The thread returns from its nap, or from its next one if it is awake.
    pub(super) fn ring(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Waits for a ring, not longer than `at_most`.
    pub(super) fn nap(&self, at_most: Duration) {
        thread::park_timeout(at_most);
    }

    /// Waits for a ring or a nudge, unless `has_work` finds something.
    pub(super) fn sleep(&self, at_most: Option<Duration>, has_work: impl Fn() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !has_work() {
            at_most.map_or_else(thread::park, thread::park_timeout);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// How often a delivery had to wake the thread.
    pub(super) fn wakes_count(&self) -> u64 {
        self.wakes_count.load(Ordering::Relaxed)
    }
}
