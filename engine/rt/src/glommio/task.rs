//! Tasks of a shard, counted, so that the shard knows when it has nothing to do.
//!
//! glommio schedules; this wraps each task's waker to count how many are ready. When none is, the
//! shard sleeps in its own ring, where everything that could wake it arrives (see `mod.rs`).
//! A waker may be used from any thread: one from elsewhere goes through [`Remote`].

use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;

use super::Shard;

/// Where other threads leave wake-ups for a shard.
pub(super) struct Remote {
    woken: Mutex<Vec<Arc<TaskWaker>>>,
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Remote {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        let woken = Mutex::new(Vec::new());
        Ok(Arc::new(Self { woken, sleeping: AtomicBool::new(false), event }))
    }

    /// Readable after a wake-up that found the shard asleep.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    fn leave(&self, waker: Arc<TaskWaker>) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is about to overflow, and then it is readable.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Announces sleep; false when a wake-up has come in already.
    pub(super) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let idle = self.woken.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !idle {
            self.sleeping.store(false, Ordering::SeqCst);
        }
        idle
    }

    pub(super) fn wake_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Wakes, on the shard's own thread, what other threads asked to wake.
    pub(super) fn deliver(&self) {
        let woken =
            core::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in woken {
            waker.wake_here();
        }
    }
}

/// The tasks of the calling thread's shard.
#[derive(Default)]
pub(super) struct Tasks {
    wakers: RefCell<Slab<Waker>>,
    ready: Cell<usize>,
}

impl Tasks {
    /// Tasks that are ready to run.
    pub(super) fn ready(&self) -> usize {
        self.ready.get()
    }
}

thread_local! {
    static TASKS: RefCell<Option<(Rc<Tasks>, Arc<Remote>)>> = const { RefCell::new(None) };
}

/// Makes the calling thread the one whose tasks are counted in `tasks`; `None` ends that.
pub(super) fn set_current(tasks: Option<(Rc<Tasks>, Arc<Remote>)>) {
    TASKS.with_borrow_mut(|current| *current = tasks);
}

/// The waker that a task sees.
pub(super) struct TaskWaker {
    remote: Arc<Remote>,
    index: usize,
    ready: AtomicBool,
    alive: AtomicBool,
}

impl TaskWaker {
    /// On the shard's thread: counts the task as ready and has glommio run it. The flags are
    /// atomic only so that the type is `Sync`; only the shard's thread touches them.
    fn wake_here(&self) {
        if self.ready.load(Ordering::Relaxed) || !self.alive.load(Ordering::Relaxed) {
            return;
        }
        self.ready.store(true, Ordering::Relaxed);
        TASKS.with_borrow(|current| {
            if let Some((tasks, _)) = current {
                tasks.ready.set(tasks.ready.get() + 1);
                if let Some(waker) = tasks.wakers.borrow().get(self.index) {
                    waker.wake_by_ref();
                }
            }
        });
    }

    fn is_here(&self) -> bool {
        TASKS.with_borrow(|current| {
            current.as_ref().is_some_and(|(_, remote)| Arc::ptr_eq(remote, &self.remote))
        })
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_here() {
            self.wake_here();
        } else {
            self.remote.leave(Arc::clone(self));
        }
    }
}

/// Ends the process when a panic unwinds through it: a shard without one of its tasks is worse than
/// none, and a restart recovers everything acknowledged. Sessions catch their own panics before.
pub(super) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A task whose readiness is counted.
pub(super) struct Tracked<F> {
    task: Pin<Box<F>>,
    shard: Rc<Shard>,
    waker: Option<(Arc<TaskWaker>, Waker)>,
}

impl<F: Future<Output = ()>> Tracked<F> {
    /// Counts the task as ready at once: it is about to be spawned.
    pub(super) fn new(task: F, shard: &Rc<Shard>) -> Self {
        shard.tasks.ready.set(shard.tasks.ready.get() + 1);
        Self { task: Box::pin(task), shard: Rc::clone(shard), waker: None }
    }
}

impl<F: Future<Output = ()>> Future for Tracked<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (flags, waker) = this.waker.get_or_insert_with(|| {
            let index = this.shard.tasks.wakers.borrow_mut().insert(cx.waker().clone());
            let flags = Arc::new(TaskWaker {
                remote: Arc::clone(&this.shard.remote),
                index,
                ready: AtomicBool::new(true),
                alive: AtomicBool::new(true),
            });
            let waker = Waker::from(Arc::clone(&flags));
            (flags, waker)
        });
        if flags.ready.load(Ordering::Relaxed) {
            flags.ready.store(false, Ordering::Relaxed);
            let ready = &this.shard.tasks.ready;
            ready.set(ready.get() - 1);
        }
        let _end = EndOnPanic;
        let polled = this.task.as_mut().poll(&mut Context::from_waker(waker));
        this.shard.polled();
        polled
    }
}

impl<F> Drop for Tracked<F> {
    fn drop(&mut self) {
        let ready = match &self.waker {
            None => true,
            Some((flags, _)) => {
                flags.alive.store(false, Ordering::Relaxed);
                // A waker of glommio must end on this thread, so it is kept here, not in `flags`.
                drop(self.shard.tasks.wakers.borrow_mut().try_remove(flags.index));
                flags.ready.load(Ordering::Relaxed)
            }
        };
        if ready {
            let ready = &self.shard.tasks.ready;
            ready.set(ready.get().saturating_sub(1));
            self.shard.rest_if_idle();
        }
    }
}
