//! The node under test: its shards, booted, crashed and booted again, and what its mailboxes hold.
//!
//! The one place of the harness that knows how a shard is started.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use std::rc::Rc;

use fsmtp_rt::sim::{Crash, DiskId, HostId, World};
use fsmtp_rt::{Class, IoError};

use crate::plan::Plan;
use crate::standin;

/// The port at which every shard listens.
const PORT: u16 = 25;

/// What clients may know of the node.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Where its shards listen.
    pub(crate) addresses: RefCell<Vec<SocketAddr>>,
    /// How often it has crashed: a dialogue that spans a crash proves nothing.
    pub(crate) crashes: Cell<u64>,
    /// Shards that listen.
    pub(crate) ready: Cell<usize>,
}

/// A message in a mailbox.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The mailbox.
    pub(crate) mailbox: u32,
    /// All of its bytes, trace headers included.
    pub(crate) bytes: Rc<[u8]>,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    hosts: Vec<HostId>,
    disk: DiskId,
    shared: Rc<standin::Shared>,
    /// For clients.
    pub(crate) view: Rc<View>,
    failed: Rc<RefCell<Vec<IoError>>>,
}

impl Node {
    /// A node on an empty disk; it does not run.
    pub(crate) fn new(world: &mut World, seed: u64, plan: &Rc<Plan>) -> Self {
        let hosts: Vec<HostId> = (0..plan.shards).map(|_| world.host()).collect();
        let disk = world.disk();
        let index = RefCell::new(standin::Index::new(plan.shards, seed));
        let shared = Rc::new(standin::Shared { plan: Rc::clone(plan), index });
        let failed = Rc::default();
        Self { hosts, disk, shared, view: Rc::default(), failed }
    }

    /// Starts all shards; they listen when they have recovered.
    pub(crate) fn boot(&self, world: &mut World) {
        let mut addresses = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let rt = world.start(*host);
            addresses.push(rt.address(PORT));
            let (shared, view) = (Rc::clone(&self.shared), Rc::clone(&self.view));
            let failed = Rc::clone(&self.failed);
            let ready = move || view.ready.set(view.ready.get() + 1);
            let life = standin::shard(rt.clone(), rt.disk(self.disk), number, shared, ready);
            fsmtp_rt::Runtime::spawn(&rt, Class::Background, async move {
                if let Err(error) = life.await {
                    failed.borrow_mut().push(error);
                }
            });
        }
        *self.view.addresses.borrow_mut() = addresses;
    }

    /// Ends all shards at once.
    pub(crate) fn crash(&self, world: &mut World, crash: Crash) {
        self.view.crashes.set(self.view.crashes.get() + 1);
        self.view.ready.set(0);
        self.failed.borrow_mut().clear();
        for host in &self.hosts {
            world.kill(*host, crash);
        }
        self.shared.index.borrow_mut().crash();
    }

    /// Whether all shards listen.
    pub(crate) fn ready(&self) -> bool {
        self.view.ready.get() == self.hosts.len()
    }

    /// Why a shard could not start, if one could not.
    pub(crate) fn failed(&self) -> Option<IoError> {
        self.failed.borrow().first().cloned()
    }

    /// Writes that its shards have submitted.
    pub(crate) fn writes(&self, world: &World) -> u64 {
        self.hosts.iter().map(|host| world.counts(*host).writes).sum()
    }

    /// Buffers that its shards have taken and not returned.
    pub(crate) fn buffers_out(&self, world: &World) -> u64 {
        self.hosts.iter().map(|host| world.counts(*host).buffers_out).sum()
    }

    /// All that is in the mailboxes.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        let index = self.shared.index.borrow();
        let mail = index.mail().iter();
        mail.flat_map(|mail| {
            mail.boxes
                .iter()
                .map(|mailbox| Delivery { mailbox: *mailbox, bytes: Rc::clone(&mail.bytes) })
        })
        .collect()
    }
}
