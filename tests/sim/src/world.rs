//! One run: a node, its clients and its disasters, from a seed to a verdict.
//!
//! First the plan's clients talk while the plan's crashes happen. Then the faults stop: everything
//! must settle, every shard must take mail again, and after a last crash the audit must agree with
//! what the clients were promised.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_rt::sim::{Crash, Options, SimRuntime, Step, World};
use fsmtp_rt::{Class, Instant, Runtime};
use fsmtp_store::StoreError;

use crate::bugs::Bug;
use crate::check;
use crate::client::{ACCOUNTS, Client};
use crate::ledger::{Entry, Ledger, State, token_of};
use crate::node::{DRAIN_PATIENCE, Delivery, Node};
use crate::plan::{CrashPlan, Fall, Kind, Plan};
use crate::remote::{self, Remote};

/// More than any run has needed; a run that uses them up makes no progress.
const STEPS_MAX: u64 = 3_000_000;

/// Virtual time after which clients must be done; each may wait a third of an hour, a few times.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Virtual time in which a node without faults must have come to rest.
const SETTLE: Duration = Duration::from_secs(3600);

/// Starts that may fail in a row while the disk has faults.
const STARTS_MAX: u32 = 30;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The hash over all that happened.
    pub(crate) hash: u64,
    /// Events at the seam.
    pub(crate) events: u64,
    /// What was wrong.
    pub(crate) violations: Vec<String>,
    /// Messages answered 250.
    pub(crate) acked: u64,
    /// Messages for servers elsewhere that were answered 250.
    pub(crate) letters: u64,
    /// Messages that stayed in doubt.
    pub(crate) doubt: u64,
    /// Replies that were checked.
    pub(crate) replies: u64,
    /// Dialogues compared with their twin.
    pub(crate) twins: u64,
    /// Maildrops that were compared with what was promised.
    pub(crate) maildrops: u64,
    /// Messages that readers have compared with what was sent.
    pub(crate) retrieved: u64,
    /// Damaged disks that were refused by name.
    pub(crate) refused: u64,
    /// Records that compaction moved.
    pub(crate) moved: u64,
    /// Segments that it gave back.
    pub(crate) recycled: u64,
    /// Crashes of the node.
    pub(crate) crashes: u64,
}

struct Run {
    world: World,
    plan: Rc<Plan>,
    outside: SimRuntime,
    node: Node,
    ledger: Rc<RefCell<Ledger>>,
    /// Servers elsewhere have no bad habits any more.
    calm: Rc<Cell<bool>>,
    busy: Rc<Cell<usize>>,
    /// When the node is to be started again, and with how many shards.
    down_until: Option<Instant>,
    shards: usize,
    /// When a drain must have come to its end, and how the node goes on.
    draining: Option<(Instant, CrashPlan)>,
    /// The disk was damaged on purpose, and a start has refused it by name: a good end.
    refused: bool,
    starts_failed: u32,
    moved: u64,
    recycled: u64,
    observe: bool,
}

/// Runs `seed`, with `bug` planted; events go to `observer`.
pub(crate) fn run(seed: u64, bug: Option<Bug>, observe: bool) -> Report {
    let mut plan = Plan::of(seed);
    if let Some(bug) = bug {
        bug.plant(&mut plan);
    }
    let mut run = Run::new(seed, plan);
    run.observe = observe;
    run.ledger.borrow_mut().loud = observe;
    if observe {
        println!("{:#?}", run.plan);
        run.world.observe(|event| println!("{event:?}"));
    }
    run.talk();
    run.settle();
    run.probe();
    run.report()
}

/// Runs `seed` twice; that both do the same is an invariant too.
pub(crate) fn run_twice(seed: u64, bug: Option<Bug>) -> Report {
    let mut first = run(seed, bug, false);
    if first.violations.is_empty() {
        let second = run(seed, bug, false);
        if first.hash != second.hash {
            first.violations.push("the same seed gave two traces".into());
        }
    }
    first
}

impl Run {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut world = World::new(seed, plan.options.clone());
        let plan = Rc::new(plan);
        let host = world.host();
        let outside = world.start(host);
        let mut node = Node::new(&mut world, seed, &plan);
        let (ledger, calm) = (Rc::default(), Rc::default());
        node.names = elsewhere(&mut world, &plan, &ledger, &calm);
        node.boot(&mut world, plan.shards);
        Self {
            world,
            shards: plan.shards,
            plan,
            outside,
            node,
            ledger,
            calm,
            busy: Rc::default(),
            down_until: None,
            draining: None,
            refused: false,
            starts_failed: 0,
            moved: 0,
            recycled: 0,
            observe: false,
        }
    }

    fn client(&self, plan: &Rc<Plan>) -> Client {
        Client {
            rt: self.outside.clone(),
            random: self.outside.fork_random(),
            ledger: Rc::clone(&self.ledger),
            plan: Rc::clone(plan),
            view: Rc::clone(&self.node.view),
        }
    }

    fn spawn(&self, life: impl Future<Output = ()> + 'static) {
        let busy = Rc::clone(&self.busy);
        busy.set(busy.get() + 1);
        self.outside.spawn(Class::Session, async move {
            life.await;
            busy.set(busy.get() - 1);
        });
    }

    fn violate(&self, what: String) {
        self.ledger.borrow_mut().violate(what);
    }

    /// Adds up what compaction did in this life.
    fn note_compaction(&mut self) {
        let (moved, recycled) = self.node.compacted();
        self.moved += moved;
        self.recycled += recycled;
    }

    fn crash(&mut self, crash: Crash, down_ms: u64) {
        self.note_compaction();
        self.ledger.borrow_mut().outgoing.falls.push(self.world.now());
        self.node.crash(&mut self.world, crash);
        let until = self.world.now() + Duration::from_millis(down_ms);
        self.down_until = Some(until);
        // Somebody must be awake then, or the clock would not stop there.
        let rt = self.outside.clone();
        self.outside.spawn(Class::Background, async move { rt.sleep_until(until).await });
    }

    /// The node goes down as `plan` says.
    fn fall(&mut self, plan: CrashPlan) {
        match plan.fall {
            Fall::Drain if self.node.ready() => {
                let late = self.world.now() + DRAIN_PATIENCE + DRAIN_PATIENCE;
                self.draining = Some((late, plan));
                self.node.drain();
            }
            // It has not come up: nothing to drain.
            Fall::Drain => {}
            Fall::Crash(crash) => {
                self.draining = None;
                self.shards = plan.shards;
                self.crash(crash, plan.down_ms);
                if plan.rot {
                    self.node.rot(&mut self.world);
                    self.ledger.borrow_mut().rotten = true;
                }
            }
        }
    }

    /// Starts the node when it is time, and again when a start has failed.
    fn tend(&mut self) {
        if self.down_until.is_some_and(|until| self.world.now() >= until) {
            self.down_until = None;
            self.node.boot(&mut self.world, self.shards);
        }
        if let Some((late, next)) = self.draining {
            if self.node.drained() {
                self.fall(CrashPlan { fall: Fall::Crash(Crash::Process), ..next });
            } else if self.world.now() > late {
                self.violate("a drain did not come to its end".into());
                self.draining = None;
            }
        }
        if let Some(error) = self.node.failed() {
            let rotten = self.ledger.borrow().rotten;
            if rotten && matches!(error, StoreError::Corrupt { .. } | StoreError::Version { .. }) {
                self.refused = true;
                return;
            }
            self.starts_failed += 1;
            if !self.plan.disk_fails() {
                self.violate(format!("a shard could not start: {error}"));
            }
            if self.starts_failed > STARTS_MAX {
                self.world.change(|options| options.disk = Options::calm().disk);
            }
            // Power: a disk that has failed for good is replaced by the same one repaired.
            self.crash(Crash::Power, 1_000);
        }
    }

    /// One step of the world; false when nothing can happen any more.
    fn step(&mut self) -> bool {
        self.tend();
        self.world.step() != Step::Idle
    }

    /// The clients talk while the node crashes as planned.
    fn talk(&mut self) {
        for kind in self.plan.clients.clone() {
            self.spawn(self.client(&self.plan).live(kind));
        }
        let until = self.world.now() + PATIENCE;
        let mut crashes = self.plan.crashes.clone().into_iter();
        let mut next = crashes.next();
        let mut writes = self.node.counts(&self.world).writes;
        let mut steps_left = None;
        for _ in 0..STEPS_MAX {
            if self.busy.get() == 0 || self.refused {
                return;
            }
            if let Some(plan) = next
                && self.down_until.is_none()
                && self.draining.is_none()
                && self.node.counts(&self.world).writes >= writes + plan.writes
            {
                let left = steps_left.get_or_insert(plan.steps);
                if *left == 0 {
                    self.fall(plan);
                    next = crashes.next();
                    steps_left = None;
                    writes = self.node.counts(&self.world).writes;
                } else {
                    *left -= 1;
                }
            }
            if self.world.now() > until || !self.step() {
                break;
            }
        }
        let busy = self.busy.get();
        if !self.refused {
            self.violate(format!("{busy} clients never came to an end"));
        }
    }

    /// Steps until `met`; a violation when that does not come to pass.
    fn wait(&mut self, what: &str, met: impl Fn(&Self) -> bool) {
        if self.refused {
            return;
        }
        let until = self.world.now() + SETTLE;
        let mut why = "too many steps";
        for _ in 0..STEPS_MAX {
            if met(self) || self.refused {
                return;
            }
            if self.world.now() > until {
                why = "an hour";
                break;
            }
            if !self.step() {
                why = "nothing happens any more";
                break;
            }
        }
        if !self.refused {
            self.violate(format!("without faults, {what} did not come to pass: {why}"));
        }
    }

    /// The faults stop, and everything comes to rest.
    fn settle(&mut self) {
        let bugs = self.plan.options.bugs.clone();
        self.world.change(|options| *options = Options { bugs, ..Options::calm() });
        self.node.calm();
        self.calm.set(true);
        self.wait("a start", |run| {
            run.draining.is_none() && run.down_until.is_none() && run.node.ready()
        });
        if self.plan.disk_fails() && !self.node.queued().is_empty() {
            // A log that has failed takes no report until the next start.
            self.crash(Crash::Power, 0);
            self.wait("a start without faults", |run| run.down_until.is_none() && run.node.ready());
        }
        self.drain_queue();
        self.wait("the end of all sessions", |run| run.node.sessions() == 0);
        self.panics();
    }

    fn drain_queue(&mut self) {
        self.wait("an empty queue", |run| run.node.queued().is_empty());
        for queued in self.node.queued() {
            self.violate(format!("in the queue is left {queued}"));
        }
    }

    /// After the last crash the node starts, and takes mail at each shard.
    fn probe(&mut self) {
        if self.refused {
            return;
        }
        self.shards = self.plan.shards;
        self.crash(self.plan.last_crash, 0);
        self.wait("the last start", |run| run.down_until.is_none() && run.node.ready());
        let mut plan = Plan::clone(&self.plan);
        plan.options = Options::calm();
        plan.options.bugs = self.plan.options.bugs.clone();
        let plan = Rc::new(plan);
        for shard in (0..self.plan.shards).filter(|_| !self.refused) {
            self.spawn(self.client(&plan).probe(shard));
        }
        self.wait("a probe", |run| run.busy.get() == 0);
        for _ in 0..2 {
            self.spawn(self.client(&plan).live(Kind::Reader));
        }
        self.wait("a look into mailboxes", |run| run.busy.get() == 0);
        self.drain_queue();
        self.wait("the end of the last sessions", |run| run.node.sessions() == 0);
        self.panics();
    }

    fn panics(&self) {
        let panics = self.node.panics();
        if panics > 0 {
            self.violate(format!("{panics} sessions ended by a panic"));
        }
    }

    fn report(mut self) -> Report {
        self.note_compaction();
        let rotten = self.ledger.borrow().rotten;
        let reading = self.node.deliveries(self.outside.clone(), rotten);
        let read = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&read);
        self.outside.spawn(Class::Session, async move { *slot.borrow_mut() = Some(reading.await) });
        self.wait("the audit", |_| read.borrow().is_some());
        let read = read.borrow_mut().take();
        let ledger = Rc::clone(&self.ledger);
        let mut ledger = ledger.borrow_mut();
        let deliveries = read.unwrap_or(Ok(Vec::new())).unwrap_or_else(|error| {
            ledger.violate(format!("a mailbox cannot be read: {error}"));
            Vec::new()
        });
        let own = |one: &Delivery| one.account < ACCOUNTS;
        let (deliveries, reports): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(own);
        let outgoing = core::mem::take(&mut ledger.outgoing);
        let letters = outgoing.acked() as u64;
        if !self.refused {
            check::audit(&mut ledger, &deliveries);
            let reports: Vec<&[u8]> = reports.iter().map(|one| one.bytes.as_slice()).collect();
            outgoing.audit(&reports, rotten).into_iter().for_each(|what| ledger.violate(what));
        }
        if self.observe {
            for (token, entry) in ledger.entries.iter().enumerate() {
                let Entry { accounts, state, id, body, .. } = entry;
                println!("message {token}: {state:?} {accounts:?} {id:?} {} bytes", body.len());
            }
            for Delivery { account, id, bytes } in &deliveries {
                println!("u{account}: {id} {:?}", token_of(bytes));
            }
        }
        for complaint in self.world.complaints() {
            ledger.violate(complaint);
        }
        self.world.note(ledger.entries.len() as u64, deliveries.len() as u64);
        Report {
            hash: self.world.hash(),
            events: self.world.events(),
            violations: core::mem::take(&mut ledger.violations),
            acked: ledger.count(State::Acked) as u64,
            letters,
            doubt: ledger.count(State::Doubt) as u64,
            replies: ledger.replies,
            twins: ledger.twins,
            maildrops: ledger.maildrops,
            retrieved: ledger.retrieved,
            refused: u64::from(self.refused),
            moved: self.moved,
            recycled: self.recycled,
            crashes: self.node.view.crashes.get(),
        }
    }
}

/// Starts the servers elsewhere that a plan has, and the name server that leads to them.
fn elsewhere(
    world: &mut World,
    plan: &Plan,
    ledger: &Rc<RefCell<Ledger>>,
    calm: &Rc<Cell<bool>>,
) -> Option<SocketAddr> {
    if plan.remotes.is_empty() {
        return None;
    }
    let mut start = || {
        let host = world.host();
        world.start(host)
    };
    let (names, dead) = (start(), start());
    let remotes: Vec<Remote> = plan
        .remotes
        .iter()
        .map(|habit| {
            let rt = start();
            let random = Rc::new(RefCell::new(rt.fork_random()));
            let (habit, ledger, calm) = (*habit, Rc::clone(ledger), Rc::clone(calm));
            Remote { rt, habit, random, ledger, calm }
        })
        .collect();
    let zone = remote::zone(&remotes, &dead);
    names.spawn(Class::Background, remote::answer_names(names.clone(), zone));
    for remote in remotes {
        remote.rt.clone().spawn(Class::Accept, remote.listen());
    }
    Some(names.address(remote::DNS_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_seeds_hold_and_repeat() {
        for seed in 0..12 {
            let report = run_twice(seed, None);
            assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
            assert!(report.replies + report.refused > 0, "seed {seed} did nothing");
        }
    }

    #[test]
    fn a_planted_bug_shows() {
        let found = |bug| (0..50).any(|seed| !run(seed, Some(bug), false).violations.is_empty());
        assert!(found(Bug::SwappedReplies) && found(Bug::LostDelivery));
    }
}
