//! The simulated machine: one thread, one seed, virtual time, and faults on purpose.
//!
//! A [`World`] holds hosts (a shard each, or the outside), links between them, and disks. The test
//! starts a host, gives its [`SimRuntime`] to the code under test, and drives the world with
//! [`World::step`] or [`World::run`]. Time stands still while tasks run (but for some nanoseconds a
//! poll) and jumps to the next timer when none is ready, so hours cost microseconds.
//!
//! Everything random comes from the seed; [`World::hash`] over all events of the seam must be
//! the same when a seed is run twice. Nothing here is thread-safe but the wakers.
//!
//! # Crashes
//!
//! [`World::kill`] drops all tasks of a host. What its disk operations in flight leave behind is
//! drawn from the seed, page by page; finished ones stay. [`World::start`] brings the host back.
//!
//! # Misuse
//!
//! What no machine would refuse but is wrong for sure (overlapping writes in flight, a write past
//! the end of its file) is collected in [`World::complaints`]; a run with any has failed.

mod disk;
mod listen;
mod net;
pub mod options;
pub mod random;
mod task;
pub mod trace;
mod udp;

#[cfg(test)]
mod tests;

use core::cell::RefCell;
use core::fmt;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::{Class, Instant, Runtime, UnixTime};

pub use disk::{DiskId, SimDisk, SimFile};
pub use listen::SimListener;
pub use net::SimConn;
pub use options::{Bugs, ClockOptions, DiskOptions, NetOptions, Options, Schedule};
pub use random::{MILLION, Random};
pub use trace::{Counts, Event, What};
pub use udp::{DATAGRAMS_MAX, SimUdp, SimUdpService};

use trace::Trace;

/// The wall clock of a new world: 2026-01-01T00:00:00Z, arbitrary.
const UNIX_MS: u64 = 1_767_225_600_000;

/// Complaints that are kept; more only count as one.
const COMPLAINTS_MAX: usize = 16;

/// Buffers that a host's pool keeps.
const POOL_MAX: usize = 64;

/// Names a host of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(usize);

impl HostId {
    /// Its number, from 0 in the order of [`World::host`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// How a host ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process is killed: its peers see the end of their connections.
    Process,
    /// The power fails: its peers may see nothing at all.
    Power,
}

/// What one step of a world did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A task was polled.
    Ran,
    /// The clock jumped to the next timer.
    Jumped,
    /// Nothing is ready and no timer is set: nothing will ever happen by itself.
    Idle,
}

/// Why [`World::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The condition held.
    Met,
    /// See [`Step::Idle`].
    Idle,
    /// The number of steps was used up.
    Steps,
    /// The clock reached the limit.
    Time,
}

struct Host {
    alive: bool,
    incarnation: u32,
    address: core::net::IpAddr,
    counts: Counts,
    pool: Vec<Vec<u8>>,
}

/// A timer's effect.
enum Due {
    Wake(Waker),
    Arrive { link: usize, side: usize },
    SendLate { link: usize, side: usize, buffer: u64 },
    Datagram(udp::Datagram),
    DiskEarly { disk: usize, op: u64 },
    DiskDone { disk: usize, op: u64 },
}

/// The key of a timer: when, and a number that makes it unique.
type DueKey = (u64, u64);

/// Everything that the handles share.
struct Core {
    options: Options,
    random: Random,
    now_ns: u64,
    wall_offset_ms: i64,
    trace: Trace,
    hosts: Vec<Host>,
    tasks: task::Tasks,
    timers: BTreeMap<DueKey, Due>,
    timers_made: u64,
    net: net::Net,
    udp: udp::Sockets,
    disks: Vec<disk::DiskState>,
    complaints: Vec<String>,
    lost_wakes: u64,
}

type Shared = Rc<RefCell<Core>>;

impl Core {
    fn note(&mut self, what: What, host: usize, object: u64, value: u64) {
        self.trace.note(Event { at_ns: self.now_ns, what, host, object, value });
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }

    fn set_timer(&mut self, at_ns: u64, due: Due) -> DueKey {
        self.timers_made += 1;
        let key = (at_ns, self.timers_made);
        self.timers.insert(key, due);
        key
    }

    fn lives(&self, host: usize, incarnation: u32) -> bool {
        let host = &self.hosts[host];
        host.alive && host.incarnation == incarnation
    }

    /// Fires all timers whose time has come.
    fn fire_due(&mut self) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > self.now_ns {
                break;
            }
            match entry.remove() {
                Due::Wake(waker) => waker.wake(),
                Due::Arrive { link, side } => self.arrive(link, side),
                Due::SendLate { link, side, buffer } => self.send_late(link, side, buffer),
                Due::Datagram(datagram) => self.datagram_arrives(datagram),
                Due::DiskEarly { disk, op } => self.disk_early(disk, op),
                Due::DiskDone { disk, op } => self.disk_done(disk, op),
            }
        }
    }

    fn take_buffer(&mut self, host: usize) -> Vec<u8> {
        let host = &mut self.hosts[host];
        host.counts.buffers_out += 1;
        host.pool.pop().unwrap_or_default()
    }

    fn give_buffer(&mut self, host: usize, mut buffer: Vec<u8>) {
        let host = &mut self.hosts[host];
        host.counts.buffers_out = host.counts.buffers_out.saturating_sub(1);
        if host.pool.len() < POOL_MAX {
            buffer.clear();
            host.pool.push(buffer);
        }
    }
}

/// A timer that a future waits for; unset when the future is dropped.
struct Alarm {
    core: Shared,
    key: Option<DueKey>,
}

impl Alarm {
    fn new(core: &Shared) -> Self {
        Self { core: Rc::clone(core), key: None }
    }

    /// Wakes `waker` at `at`, and at no other time that was set before.
    fn set(&mut self, at: Instant, waker: &Waker) {
        self.unset();
        if at != Instant::FAR {
            let due = Due::Wake(waker.clone());
            self.key = Some(self.core.borrow_mut().set_timer(at.ns(), due));
        }
    }

    fn unset(&mut self) {
        if let Some(key) = self.key.take() {
            // A waker may own anything, so it is dropped after the borrow.
            let due = self.core.borrow_mut().timers.remove(&key);
            drop(due);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.unset();
    }
}

/// A simulated world. See the module's description.
pub struct World {
    core: Shared,
}

impl World {
    /// A world without hosts, whose every choice follows from `seed` and `options`.
    #[must_use]
    pub fn new(seed: u64, options: Options) -> Self {
        let core = Core {
            options,
            random: Random::new(seed),
            now_ns: 1_000_000_000,
            wall_offset_ms: 0,
            trace: Trace::new(seed),
            hosts: Vec::new(),
            tasks: task::Tasks::default(),
            timers: BTreeMap::new(),
            timers_made: 0,
            net: net::Net::default(),
            udp: udp::Sockets::default(),
            disks: Vec::new(),
            complaints: Vec::new(),
            lost_wakes: 0,
        };
        Self { core: Rc::new(RefCell::new(core)) }
    }

    /// Adds a host with an address of its own. It has no life until [`World::start`].
    pub fn host(&mut self) -> HostId {
        let mut core = self.core.borrow_mut();
        let index = core.hosts.len();
        // Addresses that are set aside for documentation, so no real host has them.
        let address = core::net::Ipv4Addr::new(192, 0, 2, (index % 256) as u8).into();
        core.hosts.push(Host {
            alive: false,
            incarnation: 0,
            address,
            counts: Counts::default(),
            pool: Vec::new(),
        });
        HostId(index)
    }

    /// Starts `host` and returns its runtime.
    ///
    /// # Panics
    /// When it is running.
    pub fn start(&mut self, host: HostId) -> SimRuntime {
        let mut core = self.core.borrow_mut();
        core.note(What::Start, host.0, 0, 0);
        let slot = &mut core.hosts[host.0];
        assert!(!slot.alive, "a host can be started only when it does not run");
        slot.alive = true;
        slot.incarnation += 1;
        let incarnation = slot.incarnation;
        drop(core);
        SimRuntime { core: Rc::clone(&self.core), host: host.0, incarnation }
    }

    /// Whether `host` runs.
    #[must_use]
    pub fn alive(&self, host: HostId) -> bool {
        self.core.borrow().hosts[host.0].alive
    }

    /// Ends `host`: drops its tasks, cuts its links, decides what its disk operations leave behind.
    /// Does nothing when it does not run.
    pub fn kill(&mut self, host: HostId, crash: Crash) {
        let dropped = {
            let mut core = self.core.borrow_mut();
            if !core.hosts[host.0].alive {
                return;
            }
            core.note(What::Kill, host.0, 0, u64::from(crash == Crash::Power));
            let slot = &mut core.hosts[host.0];
            slot.alive = false;
            slot.pool.clear();
            slot.counts.buffers_out = 0;
            core.net_kill(host.0, crash);
            core.disk_kill(host.0, crash);
            core.tasks.kill(host.0)
        };
        // Destructors of tasks use their handles, so nothing is borrowed here.
        drop(dropped);
    }

    /// Ends all of `hosts` by a power failure.
    pub fn power_off(&mut self, hosts: &[HostId]) {
        for host in hosts {
            self.kill(*host, Crash::Power);
        }
    }

    /// Does one thing: polls a task, or lets the clock jump.
    pub fn step(&mut self) -> Step {
        task::step(&self.core)
    }

    /// Steps until `met`, until nothing can happen, or until one of the limits.
    pub fn run(
        &mut self,
        steps_max: u64,
        until: Instant,
        mut met: impl FnMut(&Self) -> bool,
    ) -> Ended {
        for _ in 0..steps_max {
            if met(self) {
                return Ended::Met;
            }
            if self.now() >= until {
                return Ended::Time;
            }
            if self.step() == Step::Idle {
                return Ended::Idle;
            }
        }
        Ended::Steps
    }

    /// Runs `future` as a task of `on` until it resolves, with the rest of the world going on.
    ///
    /// # Panics
    /// When nothing can happen any more and it has not resolved, or after ten million steps.
    pub fn block_on<T: 'static>(
        &mut self,
        on: &SimRuntime,
        future: impl Future<Output = T> + 'static,
    ) -> T {
        let slot = Rc::new(RefCell::new(None));
        let filled = Rc::clone(&slot);
        on.spawn(Class::Session, async move {
            let value = future.await;
            *filled.borrow_mut() = Some(value);
        });
        let ended = self.run(10_000_000, Instant::FAR, |_| slot.borrow().is_some());
        let value = slot.borrow_mut().take();
        match value {
            Some(value) => value,
            None => panic!("the future can never resolve: {ended:?}"),
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_ns(self.core.borrow().now_ns)
    }

    /// The hash over all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.core.borrow().trace.hash()
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.core.borrow().trace.events
    }

    /// Calls `observer` at each event from now on.
    pub fn observe(&mut self, observer: impl FnMut(&Event) + 'static) {
        self.core.borrow_mut().trace.observer = Some(Box::new(observer));
    }

    /// Adds something that the test saw to the trace.
    pub fn note(&mut self, object: u64, value: u64) {
        self.core.borrow_mut().note(What::Note, 0, object, value);
    }

    /// What a host did at the seam, over all its lives.
    #[must_use]
    pub fn counts(&self, host: HostId) -> Counts {
        self.core.borrow().hosts[host.0].counts
    }

    /// Misuse of the seam that was seen; must be empty at the end of a run.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.core.borrow().complaints.clone()
    }

    /// Wake-ups that the planted bug has swallowed.
    #[must_use]
    pub fn lost_wakes(&self) -> u64 {
        self.core.borrow().lost_wakes
    }

    /// Changes the options. Links that are open keep theirs.
    pub fn change(&mut self, change: impl FnOnce(&mut Options)) {
        change(&mut self.core.borrow_mut().options);
    }

    /// Lets the wall clock step by `ms` milliseconds.
    pub fn step_clock(&mut self, ms: i64) {
        let mut core = self.core.borrow_mut();
        core.wall_offset_ms = core.wall_offset_ms.saturating_add(ms);
        let offset = core.wall_offset_ms;
        core.note(What::Step, 0, 0, offset.cast_unsigned());
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn tasks(&self, host: HostId) -> usize {
        self.core.borrow().tasks.of(host.0)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core.borrow();
        write!(f, "World({} ns, {} events)", core.now_ns, core.trace.events)
    }
}

/// Tasks own handles to the world and the world owns the tasks: the circle is cut here.
impl Drop for World {
    fn drop(&mut self) {
        loop {
            let mut core = self.core.borrow_mut();
            for host in &mut core.hosts {
                host.alive = false;
            }
            let tasks = core.tasks.take_all();
            let timers = core::mem::take(&mut core.timers);
            let done = tasks.is_empty() && timers.is_empty();
            drop(core);
            drop(timers);
            drop(tasks);
            if done {
                break;
            }
        }
    }
}

/// One host's view of the world, from its start until it is killed.
#[derive(Clone)]
pub struct SimRuntime {
    core: Shared,
    host: usize,
    incarnation: u32,
}

impl SimRuntime {
    /// The host that it belongs to.
    #[must_use]
    pub fn host(&self) -> HostId {
        HostId(self.host)
    }

    /// Listens at `port` of the host's address. Several may listen at one port: each connection
    /// goes to one of them.
    #[must_use]
    pub fn listen(&self, port: u16) -> SimListener {
        SimListener::new(self, port)
    }

    /// The address at which [`listen`](Self::listen) is reached.
    #[must_use]
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.core.borrow().hosts[self.host].address, port)
    }

    /// A chance from the world's seed, for the test's own tasks.
    #[must_use]
    pub fn chance(&self, per_million: u32) -> bool {
        self.core.borrow_mut().random.chance(per_million)
    }

    /// A generator of its own for a task of the test.
    #[must_use]
    pub fn fork_random(&self) -> Random {
        self.core.borrow_mut().random.fork()
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimRuntime(host {}, life {})", self.host, self.incarnation)
    }
}

impl Runtime for SimRuntime {
    type Conn = SimConn;
    type Disk = SimDisk;

    fn now(&self) -> Instant {
        Instant::from_ns(self.core.borrow().now_ns)
    }

    fn unix(&self) -> UnixTime {
        let mut core = self.core.borrow_mut();
        let (steps, longest) = (core.options.clock.steps, core.options.clock.step_ms_max);
        if core.random.chance(steps) {
            let step = core.random.within((0, 2 * longest)).cast_signed() - longest.cast_signed();
            core.wall_offset_ms = core.wall_offset_ms.saturating_add(step);
            let offset = core.wall_offset_ms;
            core.note(What::Step, self.host, 0, offset.cast_unsigned());
        }
        let ms = UNIX_MS + core.now_ns / 1_000_000;
        UnixTime::from_ms(ms.saturating_add_signed(core.wall_offset_ms))
    }

    fn random(&self, into: &mut [u8]) {
        let mut core = self.core.borrow_mut();
        core.random.fill(into);
        core.note(What::Random, self.host, 0, trace::sum(into));
    }

    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        let mut core = self.core.borrow_mut();
        if !core.lives(self.host, self.incarnation) {
            // A destructor spawned while its host died: the task is dropped after the borrow.
            drop(core);
            drop(task);
            return;
        }
        let id = core.tasks.add(self.host, Box::pin(task));
        core.hosts[self.host].counts.spawns += 1;
        core.note(What::Spawn, self.host, id, class as u64);
    }

    async fn sleep_until(&self, at: Instant) {
        let mut alarm = Alarm::new(&self.core);
        core::future::poll_fn(|cx| {
            if self.core.borrow().now_ns >= at.ns() {
                return Poll::Ready(());
            }
            alarm.set(at, cx.waker());
            Poll::Pending
        })
        .await;
    }

    async fn yield_now(&self) {
        let mut yielded = false;
        core::future::poll_fn(|cx: &mut Context<'_>| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            self.core.borrow_mut().tasks.yield_until_others_ran(self.host, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn buffer(&self) -> Vec<u8> {
        self.core.borrow_mut().take_buffer(self.host)
    }

    fn recycle(&self, buffer: Vec<u8>) {
        let mut core = self.core.borrow_mut();
        if core.lives(self.host, self.incarnation) {
            core.give_buffer(self.host, buffer);
        }
    }
}

/// A task's future.
type Task = Pin<Box<dyn Future<Output = ()>>>;
