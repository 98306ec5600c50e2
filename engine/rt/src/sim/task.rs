//! The scheduler: which ready task is polled next, and when the clock jumps.
//!
//! Called by `World::step`. A task's waker only appends the task's number to a list, so it can be
//! woken from anywhere, also from destructors and (as the trait promises) from other threads.
//! Task numbers are never used twice in a world.

use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Waker};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use super::options::Schedule;
use super::random::Random;
use super::trace::What;
use super::{Core, Step, Task};

/// How often, per million, a schedule with a preference follows it.
const PREFERENCE: u32 = 900_000;

/// The most nanoseconds that pass while a task is polled; so a task that only yields cannot stop
/// the clock. Arbitrary.
const POLL_NS_MAX: u64 = 500;

/// Numbers of tasks that were woken and not yet looked at.
#[derive(Default)]
struct Woken {
    tasks: Mutex<Vec<u32>>,
}

struct TaskWaker {
    task: u32,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        }
    }
}

struct Slot {
    host: usize,
    /// None while it is being polled.
    future: Option<Task>,
    waker: Arc<TaskWaker>,
}

struct Ready {
    task: u32,
    host: usize,
    /// When it became ready, as a count.
    order: u64,
}

struct Yielded {
    host: usize,
    /// It goes on when no task of its host is ready that became so before this.
    order: u64,
    waker: Waker,
}

#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Slot>>,
    woken: Arc<Woken>,
    ready: Vec<Ready>,
    yielded: Vec<Yielded>,
    order: u64,
}

impl Tasks {
    pub(super) fn add(&mut self, host: usize, future: Task) -> u64 {
        let task = u32::try_from(self.slots.len()).expect("a world ends before 2^32 tasks");
        let waker = Arc::new(TaskWaker {
            task,
            queued: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        waker.wake_by_ref();
        self.slots.push(Some(Slot { host, future: Some(future), waker }));
        u64::from(task)
    }

    /// Takes the tasks of `host` out, to be dropped by the caller.
    pub(super) fn kill(&mut self, host: usize) -> Vec<Task> {
        let mut dropped = Vec::new();
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|slot| slot.host == host) {
                dropped.extend(slot.take().and_then(|slot| slot.future));
            }
        }
        dropped
    }

    pub(super) fn take_all(&mut self) -> Vec<Task> {
        self.yielded.clear();
        self.slots.drain(..).flatten().filter_map(|slot| slot.future).collect()
    }

    pub(super) fn of(&self, host: usize) -> usize {
        self.slots.iter().flatten().filter(|slot| slot.host == host).count()
    }

    pub(super) fn yield_until_others_ran(&mut self, host: usize, waker: Waker) {
        self.collect();
        self.yielded.push(Yielded { host, order: self.order, waker });
    }

    /// Moves what was woken to the ready list.
    fn collect(&mut self) {
        let mut woken = self.woken.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in woken.drain(..) {
            // A slot is empty when its task has ended or was killed: a stale wake-up.
            if let Some(Some(slot)) = self.slots.get(task as usize) {
                self.order += 1;
                self.ready.push(Ready { task, host: slot.host, order: self.order });
            }
        }
    }

    /// Wakes those that yielded and have waited long enough.
    fn release(&mut self) {
        let (ready, mut index) = (&self.ready, 0);
        while let Some(Yielded { host, order, .. }) = self.yielded.get(index) {
            if ready.iter().any(|r| r.host == *host && r.order <= *order) {
                index += 1;
            } else {
                self.yielded.remove(index).waker.wake();
            }
        }
    }
}

/// A task that was taken out of its slot to be polled.
struct Picked {
    task: u32,
    host: usize,
    future: Task,
    waker: Arc<TaskWaker>,
}

impl Core {
    fn pick(&mut self) -> Option<Picked> {
        self.tasks.collect();
        if !self.tasks.yielded.is_empty() {
            self.tasks.release();
            self.tasks.collect();
        }
        loop {
            let count = self.tasks.ready.len();
            let index = match count {
                0 => return None,
                1 => 0,
                _ => self.choose(count),
            };
            let Ready { task, host, .. } = self.tasks.ready.remove(index);
            let Some(Some(slot)) = self.tasks.slots.get_mut(task as usize) else {
                continue;
            };
            // Cleared before the poll, so that a wake-up during the poll counts.
            slot.waker.queued.store(false, Ordering::Release);
            if let Some(future) = slot.future.take() {
                let waker = Arc::clone(&slot.waker);
                return Some(Picked { task, host, future, waker });
            }
        }
    }

    fn choose(&mut self, count: usize) -> usize {
        if self.options.bugs.unseeded {
            // The planted bug: the process decides, as a hash map or an address would.
            static PICKS: AtomicUsize = AtomicUsize::new(0);
            return Random::new(PICKS.fetch_add(1, Ordering::Relaxed) as u64).index(count);
        }
        match self.options.schedule {
            Schedule::Oldest if self.random.chance(PREFERENCE) => 0,
            Schedule::Newest if self.random.chance(PREFERENCE) => count - 1,
            Schedule::Uniform | Schedule::Oldest | Schedule::Newest => self.random.index(count),
        }
    }
}

pub(super) fn step(core: &Rc<RefCell<Core>>) -> Step {
    let picked = {
        let mut core = core.borrow_mut();
        core.fire_due();
        let Some(picked) = core.pick() else {
            let Some((&(at_ns, _), _)) = core.timers.first_key_value() else {
                return Step::Idle;
            };
            core.now_ns = at_ns;
            core.note(What::Jump, 0, 0, at_ns);
            core.fire_due();
            return Step::Jumped;
        };
        core.hosts[picked.host].counts.polls += 1;
        core.note(What::Run, picked.host, u64::from(picked.task), 0);
        picked
    };
    let Picked { task, mut future, waker, .. } = picked;
    let done = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker))).is_ready();
    let ended = {
        let mut core = core.borrow_mut();
        core.now_ns += core.random.below(POLL_NS_MAX);
        match core.tasks.slots.get_mut(task as usize) {
            Some(slot @ Some(_)) if done => {
                *slot = None;
                Some(future)
            }
            Some(Some(slot)) => {
                slot.future = Some(future);
                None
            }
            // Killed while it ran.
            _ => Some(future),
        }
    };
    // A destructor may use its handles, so nothing is borrowed here.
    drop(ended);
    Step::Ran
}
