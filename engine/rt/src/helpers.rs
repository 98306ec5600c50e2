//! A small pool of threads for what must not run on a shard: file system metadata, password hashes.
//!
//! Bounded: when [`Helpers::QUEUE_MAX`] jobs wait, the next one is refused, and the caller says
//! "try again later" to its client. Used by the glommio back end's disk and by the engine.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use futures_channel::oneshot;

type Job = Box<dyn FnOnce() + Send>;

struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    filled: Condvar,
}

/// A handle to the pool; the threads end when the last handle is gone.
#[derive(Clone)]
pub struct Helpers {
    queue: Arc<Queue>,
    _alive: Arc<Alive>,
}

struct Alive(Arc<Queue>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.filled.notify_all();
    }
}

/// Too many jobs wait already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooBusy;

impl Helpers {
    /// The most jobs that may wait; arbitrary, some seconds of password checks.
    pub const QUEUE_MAX: usize = 256;

    /// Starts `threads` threads called `name`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let jobs = Mutex::new((VecDeque::new(), false));
        let queue = Arc::new(Queue { jobs, filled: Condvar::new() });
        for _ in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&queue))?;
        }
        Ok(Self { _alive: Arc::new(Alive(Arc::clone(&queue))), queue })
    }

    /// Runs `job` on one of the threads; the receiver resolves to what it returns.
    ///
    /// # Errors
    /// [`TooBusy`] when the queue is full.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, TooBusy> {
        let (reply, result) = oneshot::channel();
        self.post(Box::new(move || {
            if reply.is_canceled() {
                return; // the asker is gone
            }
            let _ = reply.send(job());
        }))?;
        Ok(result)
    }

    /// Runs `job` on one of the threads, whoever still waits for it.
    ///
    /// # Errors
    /// [`TooBusy`] when the queue is full.
    pub fn post(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), TooBusy> {
        let mut jobs = self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.0.len() >= Self::QUEUE_MAX {
            return Err(TooBusy);
        }
        jobs.0.push_back(job);
        drop(jobs);
        self.queue.filled.notify_one();
        Ok(())
    }
}

fn work(queue: &Queue) {
    loop {
        let mut jobs = queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = loop {
            if let Some(job) = jobs.0.pop_front() {
                break job;
            }
            if jobs.1 {
                return;
            }
            jobs = queue.filled.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        };
        drop(jobs);
        // A job that panics drops its reply, which its asker sees; the thread is for the others.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl core::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Helpers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_leaves_the_thread_to_the_others() {
        let pool = Helpers::new("test", 1).unwrap();
        let mut bad = pool.run(|| -> u8 { panic!("on purpose") }).unwrap();
        let mut good = pool.run(|| 7).unwrap();
        let seen = loop {
            if let Some(value) = good.try_recv().unwrap() {
                break value;
            }
            thread::yield_now();
        };
        assert_eq!(seen, 7);
        assert!(bad.try_recv().is_err());
    }

    #[test]
    fn jobs_run_and_a_full_queue_refuses() {
        let pool = Helpers::new("test", 1).unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (started, running) = std::sync::mpsc::channel::<()>();
        let first = pool.run(move || (started.send(()), gate.recv())).unwrap();
        running.recv().unwrap();
        let mut rest: Vec<_> = (0..Helpers::QUEUE_MAX).map(|i| pool.run(move || i)).collect();
        assert!(matches!(pool.run(|| ()), Err(TooBusy)));
        release.send(()).unwrap();
        drop(first);
        let last = rest.pop().unwrap().unwrap();
        let mut last = last;
        loop {
            if let Some(value) = last.try_recv().unwrap() {
                assert_eq!(value, Helpers::QUEUE_MAX - 1);
                break;
            }
            thread::yield_now();
        }
    }
}
