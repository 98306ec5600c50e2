//! Against a real Cassandra, which `tests/cluster/servers.sh` starts: the mailboxes of a cluster do
//! what those of a node do, alone and with the Redis that FSMTP_REDIS names. Skipped, with a word,
//! where FSMTP_CASSANDRA names no server.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: leases end in their own time

mod there;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fsmtp_cluster::bridge::{Bridge, BridgeKeeper, Copy};
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_cluster::redis::RedisTerms;
use fsmtp_rt::UnixTime;
use fsmtp_store::conformance::{self, Factory};
use fsmtp_store::directory::{Change, Directory};
use fsmtp_store::mailbox::{
    Delivery, Embedded, Found, Keeper, Liveness, Mailboxes, Maildrop, Message, Options, Outgoing,
    Queued, Registry, Relief, Settlement, Uplink, Usage, wait,
};
use fsmtp_store::seal::{UserKeys, WindowRecord};
use fsmtp_store::spool::{BodyRef, Committed, Sink};
use fsmtp_store::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};
use tempfile::TempDir;
use there::{drop_it, terms};

/// Deliveries that are under way at one time.
const AT_ONCE: usize = 64;
/// A mailbox that was given back is free a moment later.
const PATIENCE: Duration = Duration::from_secs(1);

/// The mailboxes of a node, whose mail is brought there at once instead of by uploads.
#[derive(Clone)]
struct Direct {
    node: NodeMailboxes,
    bridge: Bridge,
    pending: Rc<RefCell<Vec<Committed>>>,
}

impl Direct {
    fn flush(&self) {
        let pending = self.pending.take();
        let share = pending.len().div_ceil(AT_ONCE).max(1);
        std::thread::scope(|scope| {
            for some in pending.chunks(share) {
                let bridge = &self.bridge;
                scope.spawn(move || {
                    for message in some.iter().filter(|message| !message.recipients.is_empty()) {
                        let Committed { id, octets, recipients, .. } = message.clone();
                        let first = b"body".to_vec();
                        wait(bridge.deliver(Delivery { id, octets, first, recipients })).unwrap();
                    }
                });
            }
        });
    }
}

impl Sink for Direct {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        self.pending.borrow_mut().push(message);
        Ok(())
    }
}

impl Liveness for Direct {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        self.node.live_bytes(shard).await
    }

    async fn live(&self, of: ShardId, all: &[(QueueId, Lsn)]) -> Result<Vec<bool>, StoreError> {
        self.node.live(of, all).await
    }

    async fn moved(&self, of: ShardId, all: &[(QueueId, Lsn, Lsn)]) -> Result<(), StoreError> {
        self.node.moved(of, all).await
    }

    async fn applied(&self, _: ShardId) -> Result<Lsn, StoreError> {
        // All of the log is replayed: what is there changes nothing.
        Ok(Lsn(0))
    }
}

impl Registry for Direct {
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError> {
        self.flush();
        self.node.change(change).await
    }

    fn directory(&self) -> Arc<Directory> {
        self.node.directory()
    }
}

impl Outgoing for Direct {
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.node.queued(shard, after, count_max).await
    }

    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError> {
        self.node.find_queued(id).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        self.node.settle(settlements).await
    }
}

impl Uplink for Direct {}

impl Relief for Direct {}

impl Mailboxes for Direct {
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError> {
        self.flush();
        let until = Instant::now() + PATIENCE;
        loop {
            // The suite begins with mailboxes that no account has; a node refuses these.
            let is_known = mailbox.account() < self.directory().next_mailbox();
            let opened = if is_known {
                self.node.open(mailbox).await
            } else {
                let visit = self.bridge.open(mailbox).await;
                visit.map(|visit| Maildrop::new(mailbox, visit.messages().to_vec(), visit))
            };
            match opened {
                Err(StoreError::InUse) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened,
            }
        }
    }

    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError> {
        self.flush();
        self.node.close(maildrop, deletions).await
    }

    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        self.flush();
        self.node.find(mailbox, message).await
    }

    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        self.node.user_keys(mailbox).await
    }

    async fn rewrap(&self, of: MailboxId, windows: Vec<WindowRecord>) -> Result<(), StoreError> {
        self.flush();
        self.node.rewrap(of, windows).await
    }

    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError> {
        self.node.locate(id).await
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        self.flush();
        self.node.usage(mailbox).await
    }

    async fn persist(&self) -> Result<(), StoreError> {
        self.flush();
        self.node.persist().await
    }
}

/// Nodes over keyspaces of their own.
struct OverCassandra {
    terms: Terms,
    folders: Vec<TempDir>,
    running: Option<(BridgeKeeper, Keeper)>,
}

impl OverCassandra {
    fn start(&mut self) -> Direct {
        let folder: &Path = self.folders.last().unwrap().path();
        let (local, keeper) = Embedded::open(folder, Options::new(4)).unwrap();
        let copy = Copy { local: local.clone(), is_patient: false };
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            UnixTime::from_ms(u64::try_from(since.as_millis()).unwrap())
        };
        let (bridge, running) = Bridge::start(&self.terms, "one", now, Some(copy)).unwrap();
        self.running = Some((running, keeper));
        let node = NodeMailboxes::in_cluster(local, bridge.clone());
        Direct { node, bridge, pending: Rc::default() }
    }

    fn drop_keyspace(&self) {
        Cassandra::connect(&self.terms).unwrap().run(&drop_it(&self.terms)).unwrap();
    }

    fn end(&mut self) {
        if let Some((bridge, keeper)) = self.running.take() {
            drop(bridge);
            keeper.close().unwrap();
        }
    }
}

impl Factory for OverCassandra {
    type Store = Direct;
    const IS_SPOOLED: bool = false;

    fn fresh(&mut self) -> Direct {
        self.end();
        self.drop_keyspace();
        perform(Task::Create, &self.terms, false).unwrap();
        self.folders.push(TempDir::new().unwrap());
        self.start()
    }

    fn restart(&mut self, store: Direct) -> Direct {
        store.flush();
        drop(store);
        self.end();
        self.start()
    }

    fn crash(&mut self, store: Direct) -> Direct {
        // What had not been brought there comes by the replay.
        store.pending.take();
        let before = self.folders.last().unwrap().path().to_owned();
        let folder = TempDir::new().unwrap();
        for name in ["index.redb", "keys.slots"] {
            std::fs::copy(before.join(name), folder.path().join(name)).unwrap();
        }
        drop(store);
        self.end();
        self.folders.push(folder);
        self.start()
    }

    fn has_body(&self, store: &Direct, id: QueueId) -> bool {
        store.flush();
        match wait(store.bridge.fetch(id, 0)) {
            Err(StoreError::Corrupt { .. }) => false,
            fetched => fetched.unwrap() == b"body",
        }
    }
}

#[test]
fn cassandra_conforms() {
    if let Some(terms) = terms("conforms") {
        conforms(terms);
    }
}

#[test]
fn cassandra_with_redis_conforms() {
    let Ok(server) = std::env::var("FSMTP_REDIS") else {
        println!("skipped: FSMTP_REDIS names no server");
        return;
    };
    let timeout = Duration::from_millis(200);
    let redis = RedisTerms { contacts: vec![server], login: None, timeout };
    assert_eq!(redis.ping(), Ok(()));
    if let Some(terms) = terms("conforms_redis") {
        conforms(Terms { redis: Some(redis), ..terms });
    }
}

fn conforms(terms: Terms) {
    let mut factory = OverCassandra { terms, folders: Vec::new(), running: None };
    conformance::run(&mut factory);
    factory.end();
    factory.drop_keyspace();
}
