//! The node under test: its shards, booted, crashed and booted again, and what its mailboxes hold.
//!
//! The one place of the harness that knows how a shard is started.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use std::rc::Rc;

use fsmtp_rt::sim::{Crash, DiskId, HostId, SimDisk, SimRuntime, World};
use fsmtp_rt::{Class, Runtime};
use fsmtp_store::spool::{BodyRef, Reader};
use fsmtp_store::{QueueId, StoreError};

use crate::index::Index;
use crate::plan::Plan;
use crate::standin;

/// The port at which every shard listens.
const PORT: u16 = 25;

/// How often a message may move while it is read; nothing is left to move it that often.
const MOVES_MAX: u32 = 20;

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
    /// Its name.
    pub(crate) id: QueueId,
    /// All of its bytes, trace headers included; none when it was deleted.
    pub(crate) bytes: Option<Rc<[u8]>>,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    hosts: Vec<HostId>,
    disk: DiskId,
    plan: Rc<Plan>,
    index: Index,
    /// For clients.
    pub(crate) view: Rc<View>,
    failed: Rc<RefCell<Vec<StoreError>>>,
}

impl Node {
    /// A node on an empty disk; it does not run.
    pub(crate) fn new(world: &mut World, seed: u64, plan: &Rc<Plan>) -> Self {
        let hosts: Vec<HostId> = (0..plan.shards).map(|_| world.host()).collect();
        let disk = world.disk();
        let index = Index::new(plan, seed);
        let plan = Rc::clone(plan);
        Self { hosts, disk, plan, index, view: Rc::default(), failed: Rc::default() }
    }

    /// Starts all shards; they listen when they have recovered.
    pub(crate) fn boot(&self, world: &mut World) {
        let mut addresses = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let rt = world.start(*host);
            addresses.push(rt.address(PORT));
            let (plan, index) = (Rc::clone(&self.plan), self.index.clone());
            let view = Rc::clone(&self.view);
            let failed = Rc::clone(&self.failed);
            let ready = move || view.ready.set(view.ready.get() + 1);
            let life = standin::shard(rt.clone(), self.disk, number, plan, index, ready);
            rt.spawn(Class::Background, async move {
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
        self.index.crash();
    }

    /// Whether all shards listen.
    pub(crate) fn ready(&self) -> bool {
        self.view.ready.get() == self.hosts.len()
    }

    /// Why a shard could not start, if one could not.
    pub(crate) fn failed(&self) -> Option<StoreError> {
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

    /// Ends the faults that are its own.
    pub(crate) fn calm(&self) {
        self.index.calm();
    }

    /// All that is in the mailboxes, read by `rt`; what cannot be read is an error.
    pub(crate) fn deliveries(&self, rt: SimRuntime) -> impl Future<Output = Read> + 'static {
        let mut reader = Reader::new(rt.disk(self.disk), self.plan.layout.segment_bytes);
        let index = self.index.clone();
        async move {
            let mut found = Vec::new();
            for mail in index.mail() {
                let id = mail.body.id;
                let bytes = read(&mut reader, &index, mail.body).await?;
                // It may have been deleted meanwhile.
                let (here, gone) = index.owners(id);
                let here = here.into_iter().map(|mailbox| (mailbox, bytes.clone()));
                let gone = gone.into_iter().map(|mailbox| (mailbox, None));
                found.extend(here.chain(gone).map(|(mailbox, bytes)| Delivery {
                    mailbox,
                    id,
                    bytes,
                }));
            }
            Ok(found)
        }
    }
}

/// Reads one message, which may move meanwhile; none when it was deleted by all its owners.
async fn read(
    reader: &mut Reader<SimDisk>,
    index: &Index,
    body: BodyRef,
) -> Result<Option<Rc<[u8]>>, StoreError> {
    let id = body.id;
    let mut bytes = Vec::new();
    let mut moves = 0;
    reader.open(body.clone());
    while !index.owners(id).0.is_empty() {
        match reader.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(Some(bytes.into())),
            Err(StoreError::Moved) if moves < MOVES_MAX => {
                moves += 1;
                reader.relocate(index.locate(id).ok_or(StoreError::Moved)?)?;
            }
            Err(error) => {
                return Err(StoreError::Invalid(format!("message {id} at {body:?}: {error}")));
            }
        }
    }
    Ok(None)
}

/// What reading all mailboxes gives.
pub(crate) type Read = Result<Vec<Delivery>, StoreError>;
