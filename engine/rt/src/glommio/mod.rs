//! The back end for real machines: glommio's executor, and a ring of our own for sockets and files.
//!
//! One thread per shard, pinned, with a glommio executor that runs the tasks, each class in a queue
//! with its own shares. What glommio is not used for is sleeping: its park costs several system
//! calls and a barrier across all cores, for every time that a shard runs dry. Instead
//!
//! * an *idle* task, in the queue with the fewest shares, sleeps in the shard's ring when no task
//!   is ready (`task.rs` counts them). The same system call submits what the tasks have asked for,
//!   and waits for the next completion: one call for a whole turn of the shard.
//! * While tasks are ready all the time, every 64th of them that has run does the same, without
//!   waiting.
//!
//! So the executor itself never runs dry and never parks. Whatever shall wake a shard comes through
//! the ring: sockets, files, the nearest deadline as a time-out, and an eventfd for other threads.

mod dial;
mod disk;
mod net;
mod task;
mod timer;
mod udp;

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use fsmtp_proto::time::{Instant, UnixTime};
use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle,
};
use ring::rand::{SecureRandom, SystemRandom};

pub use disk::{DESCRIPTORS_PER_FILE, GlommioDisk, GlommioFile};
pub use net::{ACCEPTS_MAX, BACKLOG, GlommioConn, GlommioListener};
pub use udp::GlommioUdp;

use crate::helpers::Helpers;
use crate::sys::ring::{Completion, Held, OpId, Ring};
use crate::{Class, IoError, Runtime};
use dial::DialState;
use net::{ConnState, ListenerState};
use task::{EndOnPanic, Remote, Tasks, Tracked};
use timer::{Alarm, Timers};

/// Receive buffers of a shard: as many connections can have bytes in work at one time.
const RECEIVE_BUFFERS: u16 = 512;
/// Reply buffers that a shard keeps for reuse.
const POOLED_BUFFERS_MAX: usize = 128;
/// Larger buffers are not kept.
const POOLED_BYTES_MAX: usize = 16 * 1024;
/// The longest sleep, so that glommio's own housekeeping is never far.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How often the wall clock is looked at; in between it goes on with the other one.
const WALL_LOOK: Duration = Duration::from_millis(100);

/// How many tasks run, at most, before the shard looks for events again.
const POLLS_MAX: u32 = 64;

/// A shard that ends waits at most so often, so long each time, for its last replies to leave.
const FINISH_TURNS_MAX: u32 = 100;
const FINISH_TURN: Duration = Duration::from_millis(10);

/// How a shard is started.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The thread's name.
    pub name: String,
    /// The processor to pin it to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Logs the stack of a task that holds the shard up for longer than this (crate `log`).
    pub stall_after: Option<Duration>,
    /// Runs file system metadata operations.
    pub helpers: Helpers,
}

/// Starts a shard on a thread of its own; `main` runs there until it resolves.
///
/// # Errors
/// When the thread or the executor cannot be made. An io_uring that the kernel refuses is reported
/// by the handle's `join`.
pub fn start_shard<F: Future<Output = ()> + 'static>(
    options: ShardOptions,
    main: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
) -> Result<ShardHandle, IoError> {
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let failed = |e: &dyn core::fmt::Display| {
        let mut error = IoError::from_errno(12, "start executor", options.name.clone());
        error.object = format!("{} ({e})", error.object);
        error
    };
    let stall = options
        .stall_after
        .map(|limit| Box::new(StallLimit(limit)) as Box<dyn glommio::StallDetectionHandler>);
    let inner = options.clone();
    let handle = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .io_memory(64 << 10) // glommio's own file buffers are not used
        .ring_depth(16)
        .detect_stalls(stall)
        .spawn(move || async move { GlommioRuntime::run(&inner, main).await })
        .map_err(|e| failed(&e))?;
    Ok(ShardHandle { handle, name: options.name })
}

/// A running shard.
#[derive(Debug)]
pub struct ShardHandle {
    handle: ExecutorJoinHandle<io::Result<()>>,
    name: String,
}

impl ShardHandle {
    /// Waits until the shard's main task has ended.
    ///
    /// # Errors
    /// When it could not start, or panicked.
    pub fn join(self) -> Result<(), IoError> {
        match self.handle.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(IoError::from_io(&e, "set up io_uring for", self.name)),
            Err(e) => {
                let object = format!("{} ({e})", self.name);
                Err(IoError::new(crate::IoKind::Failed, "run", object))
            }
        }
    }
}

/// Leaves the report to glommio, which writes it to the crate `log`.
#[derive(Debug)]
struct StallLimit(Duration);

impl glommio::StallDetectionHandler for StallLimit {
    fn threshold(&self, queue: TaskQueueHandle, _: Duration) -> Option<Duration> {
        // The idle queue sleeps; that is not a stall.
        let idle = IDLE_QUEUE.with(Cell::get);
        (idle != Some(queue)).then_some(self.0)
    }
}

thread_local! {
    static IDLE_QUEUE: Cell<Option<TaskQueueHandle>> = const { Cell::new(None) };
}

/// To whom a completion belongs.
enum Target {
    Accept(Rc<ListenerState>),
    Dial(Rc<DialState>),
    Receive(Rc<ConnState>),
    Send(Rc<ConnState>),
    File { transfer: Rc<RefCell<disk::Transfer>>, _open: Rc<disk::FileInner> },
    Event,
}

struct Queues {
    accept: TaskQueueHandle,
    session: TaskQueueHandle,
    spool: TaskQueueHandle,
    background: TaskQueueHandle,
}

/// The state of one shard.
pub(crate) struct Shard {
    ring: RefCell<Ring>,
    targets: RefCell<Vec<Option<Target>>>,
    drained: RefCell<Vec<Completion>>,
    owned: RefCell<Vec<(Target, Completion)>>,
    timers: RefCell<Timers>,
    starved: RefCell<VecDeque<Rc<ConnState>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    tasks: Rc<Tasks>,
    remote: Arc<Remote>,
    queues: Queues,
    origin: std::time::Instant,
    now: Cell<Instant>,
    /// The wall clock in milliseconds, and when it was looked at.
    wall: Cell<(u64, Instant)>,
    random: SystemRandom,
    helpers: Helpers,
    stopping: Cell<bool>,
    /// Tasks that have run since the last turn.
    polls: Cell<u32>,
    /// The idle task while others run.
    idle: RefCell<Option<Waker>>,
}

/// A handle to the calling thread's shard.
#[derive(Clone)]
pub struct GlommioRuntime {
    shard: Rc<Shard>,
}

impl core::fmt::Debug for GlommioRuntime {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GlommioRuntime({} tasks ready)", self.shard.tasks.ready())
    }
}

impl GlommioRuntime {
    async fn run<F: Future<Output = ()> + 'static>(
        options: &ShardOptions,
        main: impl FnOnce(Self) -> F,
    ) -> io::Result<()> {
        let queue = |shares, name: &str| {
            glommio::executor().create_task_queue(
                Shares::Static(shares),
                Latency::NotImportant,
                name,
            )
        };
        let queues = Queues {
            accept: queue(200, "accept"),
            session: queue(1000, "session"),
            spool: queue(1000, "spool"),
            background: queue(50, "background"),
        };
        let idle_queue = queue(1, "idle");
        IDLE_QUEUE.with(|cell| cell.set(Some(idle_queue)));
        let shard = Shard {
            ring: RefCell::new(Ring::new(RECEIVE_BUFFERS)?),
            targets: RefCell::default(),
            drained: RefCell::default(),
            owned: RefCell::default(),
            timers: RefCell::default(),
            starved: RefCell::default(),
            buffers: RefCell::default(),
            tasks: Rc::default(),
            remote: Remote::new()?,
            queues,
            origin: std::time::Instant::now(),
            now: Cell::default(),
            wall: Cell::default(),
            random: SystemRandom::new(),
            helpers: options.helpers.clone(),
            stopping: Cell::new(false),
            polls: Cell::default(),
            idle: RefCell::default(),
        };
        let shard = Rc::new(shard);
        task::set_current(Some((Rc::clone(&shard.tasks), Arc::clone(&shard.remote))));
        shard.look_at_wall();
        shard.watch_event();
        let rt = Self { shard: Rc::clone(&shard) };
        let body = main(rt.clone());
        let stop = Rc::clone(&shard);
        rt.spawn(Class::Background, async move {
            body.await;
            stop.stopping.set(true);
        });
        Rc::clone(&shard).idle(idle_queue).await?;
        task::set_current(None);
        Ok(())
    }

    /// The shard's disk: the files of `folder`.
    #[must_use]
    pub fn disk(&self, folder: PathBuf) -> GlommioDisk {
        GlommioDisk::new(Rc::clone(&self.shard), folder)
    }

    /// Listens on `address`; several shards may listen on the same one (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(&self, address: core::net::SocketAddr) -> Result<GlommioListener, IoError> {
        GlommioListener::bind(&self.shard, address)
    }
}

impl Shard {
    fn clock(&self) -> Instant {
        Instant::from_ns(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Looks at the clock once for the turn that begins.
    fn tick(&self) {
        self.now.set(self.clock());
        if self.now.get().since(self.wall.get().1) >= WALL_LOOK {
            self.look_at_wall();
        }
    }

    fn look_at_wall(&self) {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.wall.set((ms, self.now.get()));
    }

    /// Sleeps in the ring whenever no task is ready.
    async fn idle(self: Rc<Self>, queue: TaskQueueHandle) -> io::Result<()> {
        let shard = Rc::clone(&self);
        let idle = async move {
            while !shard.stopping.get() {
                if shard.tasks.ready() == 0 {
                    shard.sleep();
                }
                if shard.tasks.ready() == 0 {
                    glommio::executor().yield_task_queue_now().await;
                } else {
                    shard.rest().await;
                }
            }
            shard.finish();
        };
        glommio::spawn_local_into(idle, queue).map_err(|e| io::Error::other(e.to_string()))?.await;
        Ok(())
    }

    /// Lets the tasks run; resolves when none is ready.
    async fn rest(&self) {
        let mut first = true;
        poll_fn(|cx| {
            if core::mem::take(&mut first) {
                *self.idle.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// A task has run. When many have since the last turn, there is one now: tasks that only
    /// compute must not keep the network waiting.
    fn polled(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() >= POLLS_MAX && self.tasks.ready() > 0 {
            self.turn(None);
        }
        self.rest_if_idle();
    }

    /// Wakes the idle task when it is its turn.
    fn rest_if_idle(&self) {
        if self.tasks.ready() == 0 || self.stopping.get() {
            wake(&self.idle);
        }
    }

    /// Gets the last replies off before the shard ends; a client that does not read them is left.
    fn finish(&self) {
        for _ in 0..FINISH_TURNS_MAX {
            let sending = |target: &Option<Target>| matches!(target, Some(Target::Send(_)));
            if self.ring.borrow().unsubmitted() == 0 && !self.targets.borrow().iter().any(sending) {
                return;
            }
            self.turn(Some(FINISH_TURN));
        }
    }

    /// Sleeps until something happens: a completion, a deadline, a wake-up from elsewhere.
    fn sleep(&self) {
        // Tasks may have given buffers back since the last turn.
        self.feed_starved();
        let next = self.timers.borrow().next();
        // The clock of the last turn: what ran since was short, and a time-out may be as late.
        let wait = next.map_or(SLEEP_MAX, |at| at.since(self.now.get()).min(SLEEP_MAX));
        if wait.is_zero() || !self.remote.fall_asleep() {
            self.turn(None);
        } else {
            self.turn(Some(wait));
            self.remote.wake_up();
        }
    }

    /// One system call, then everything that has come of it.
    fn turn(&self, wait: Option<Duration>) {
        let _end = EndOnPanic;
        self.polls.set(0);
        if let Err(e) = self.ring.borrow_mut().enter(wait) {
            // The ring is the shard's only way to the world; without it nothing can go on, and a
            // restart recovers everything that was acknowledged.
            panic!("io_uring failed: {e}");
        }
        self.tick();
        let mut drained = core::mem::take(&mut *self.drained.borrow_mut());
        self.ring.borrow_mut().drain(&mut drained);
        // All owners are found before anything is done: a new operation may get the number of one
        // that is done, and must not take over its completion.
        let mut owned = core::mem::take(&mut *self.owned.borrow_mut());
        owned.extend(drained.drain(..).filter_map(|done| Some((self.owner(&done)?, done))));
        for (target, completion) in owned.drain(..) {
            self.dispatch(target, completion);
        }
        *self.drained.borrow_mut() = drained;
        *self.owned.borrow_mut() = owned;
        self.remote.deliver();
        self.run_timers();
        self.feed_starved();
    }

    /// To whom a completion belongs.
    fn owner(&self, completion: &Completion) -> Option<Target> {
        self.targets.borrow_mut().get_mut(completion.op.index())?.take()
    }

    fn dispatch(&self, target: Target, completion: Completion) {
        match target {
            Target::Accept(listener) => listener.accepted(completion),
            Target::Dial(dial) => dial.connected(&completion),
            Target::Receive(conn) => {
                if completion.result == -libc::ENOBUFS {
                    conn.starve();
                    self.starved.borrow_mut().push_back(conn);
                } else {
                    conn.received(completion);
                }
            }
            Target::Send(conn) => {
                if let Held::Bytes(buffer) = completion.held {
                    self.recycle(buffer);
                }
                if let Some(timer) = conn.sent(completion.result) {
                    self.timers.borrow_mut().remove(timer);
                }
            }
            Target::File { transfer, .. } => disk::Transfer::finish(&transfer, completion),
            Target::Event => self.watch_event(),
        }
    }

    fn expect(&self, op: OpId, target: Target) {
        let mut targets = self.targets.borrow_mut();
        let index = op.index();
        if targets.len() <= index {
            targets.resize_with(index + 1, || None);
        }
        if let Some(place) = targets.get_mut(index) {
            *place = Some(target);
        }
    }

    fn watch_event(&self) {
        let op = self.ring.borrow_mut().read(self.remote.event().as_fd(), u64::MAX, vec![0; 8]);
        self.expect(op, Target::Event);
    }

    fn run_timers(&self) {
        let now = self.now.get();
        loop {
            let due = self.timers.borrow_mut().due(now);
            match due {
                None => return,
                Some(Alarm::Wake(waker)) => waker.wake(),
                Some(Alarm::Conn(conn)) => net::deadline_passed(self, &conn, now),
                Some(Alarm::LastSend(conn, op)) => {
                    if conn.is_sending(op) {
                        self.ring.borrow_mut().cancel(op);
                    }
                }
            }
        }
    }

    /// Asks again for the receives that found no buffer, now that there may be some.
    ///
    /// No more than there are buffers: the rest would only be told to come back.
    fn feed_starved(&self) {
        let available = self.ring.borrow().buffers().available();
        for _ in 0..available {
            let Some(conn) = self.starved.borrow_mut().pop_front() else { return };
            net::start_receive(self, &conn, false);
        }
    }

    fn recycle(&self, mut buffer: Vec<u8>) {
        let mut pool = self.buffers.borrow_mut();
        if pool.len() < POOLED_BUFFERS_MAX && buffer.capacity() <= POOLED_BYTES_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    }
}

fn wake(cell: &RefCell<Option<Waker>>) {
    let waker = cell.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Runtime for GlommioRuntime {
    type Conn = GlommioConn;
    type Disk = GlommioDisk;

    fn now(&self) -> Instant {
        self.shard.now.get()
    }

    fn now_exact(&self) -> Instant {
        self.shard.clock()
    }

    fn unix(&self) -> UnixTime {
        let (ms, seen) = self.shard.wall.get();
        let since = self.shard.now.get().since(seen).as_millis();
        UnixTime::from_ms(ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX)))
    }

    fn random(&self, into: &mut [u8]) {
        // The kernel's generator fails only before it was seeded, early in the machine's boot.
        assert!(self.shard.random.fill(into).is_ok(), "the system has no random numbers");
    }

    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        let queue = match class {
            Class::Accept => self.shard.queues.accept,
            Class::Session => self.shard.queues.session,
            Class::Spool => self.shard.queues.spool,
            Class::Background => self.shard.queues.background,
        };
        let task = Tracked::new(task, &self.shard);
        match glommio::spawn_local_into(task, queue) {
            Ok(task) => drop(task.detach()),
            Err(e) => panic!("the queues live as long as the executor: {e}"),
        }
    }

    async fn sleep_until(&self, at: Instant) {
        let mut key = None;
        poll_fn(|cx| {
            if let Some(old) = key.take() {
                self.shard.timers.borrow_mut().remove(old);
            }
            if self.shard.now.get() >= at {
                return Poll::Ready(());
            }
            let alarm = Alarm::Wake(cx.waker().clone());
            key = Some(self.shard.timers.borrow_mut().set(at, alarm));
            Poll::Pending
        })
        .await;
    }

    async fn yield_now(&self) {
        let mut first = true;
        poll_fn(|cx| {
            if core::mem::take(&mut first) {
                cx.waker().wake_by_ref();
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn buffer(&self) -> Vec<u8> {
        let pooled = self.shard.buffers.borrow_mut().pop();
        pooled.unwrap_or_else(|| Vec::with_capacity(1024))
    }

    fn recycle(&self, buffer: Vec<u8>) {
        self.shard.recycle(buffer);
    }
}

/// The processors that this process may run on, in order.
#[must_use]
pub fn processors() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}
