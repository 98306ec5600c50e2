//! Against a real Cassandra, which `tests/cluster/servers.sh` starts: mail of a cluster, through
//! the bridges of one node or two. Skipped, with a word, where FSMTP_CASSANDRA names no server.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: it loses a server's answers

mod there;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fsmtp_cluster::bridge::{Bridge, BridgeKeeper, Visit};
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{KeyspaceError, Task, perform};
use fsmtp_cluster::schema::Problem;
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Delivery, Message, Usage, wait};
use fsmtp_store::seal::{RsaBits, Sealer, UserKeys, Window, WindowRecord};
use fsmtp_store::spool::{Recipient, RecipientKey};
use fsmtp_store::{MailboxId, NodeNumber, QueueId, ShardId, StoreError};
use there::{drop_it, terms};

const A: MailboxId = MailboxId(1);
const B: MailboxId = MailboxId(2);
const C: MailboxId = MailboxId(1 << 48 | 3);

/// What the clock of a test begins with.
const START_MS: u64 = 1_790_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const WEEK_MS: u64 = 7 * 24 * HOUR_MS;

/// A keyspace with its tables, and a bridge to it.
struct Cluster {
    terms: Terms,
    bridge: Bridge,
    _keeper: BridgeKeeper,
    /// Milliseconds since 1970.
    clock: Arc<AtomicU64>,
    next: QueueId,
}

impl Cluster {
    fn new(name: &str) -> Option<Self> {
        let terms = terms(name)?;
        perform(Task::Create, &terms, false).unwrap();
        let clock = Arc::new(AtomicU64::new(START_MS));
        let (bridge, keeper) = start(&terms, "one", &clock).unwrap();
        let next = QueueId::first(START_MS, ShardId(7));
        Some(Self { terms, bridge, _keeper: keeper, clock, next })
    }

    fn run(&self, statement: &str) {
        let statement = statement.replace("KS", &self.terms.keyspace);
        Cassandra::connect(&self.terms).unwrap().run(&statement).unwrap();
    }

    fn id(&mut self) -> QueueId {
        self.next = self.next.next(self.now_ms());
        self.next
    }

    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// Another node.
    fn other(&self) -> (Bridge, BridgeKeeper) {
        start(&self.terms, "two", &self.clock).unwrap()
    }

    fn deliver(&mut self, mailboxes: &[MailboxId]) -> QueueId {
        let id = self.id();
        self.deliver_as(id, mailboxes);
        id
    }

    fn deliver_as(&self, id: QueueId, mailboxes: &[MailboxId]) {
        wait(self.bridge.deliver(message(id, mailboxes))).unwrap();
    }

    fn open(&self, mailbox: MailboxId) -> Visit {
        wait(self.bridge.open(mailbox)).unwrap()
    }

    /// What is in a mailbox, to somebody who looks and goes.
    fn ids(&self, mailbox: MailboxId) -> Vec<QueueId> {
        let visit = self.open(mailbox);
        let ids = ids(&visit);
        wait(self.bridge.close(visit, Vec::new())).unwrap();
        ids
    }

    fn delete(&self, mailbox: MailboxId, gone: impl Fn(QueueId) -> bool) {
        let visit = self.open(mailbox);
        let gone = visit.messages().iter().filter(|message| gone(message.id)).copied().collect();
        wait(self.bridge.close(visit, gone)).unwrap();
    }

    fn has_body(&self, id: QueueId) -> bool {
        match wait(self.bridge.fetch(id, 0)) {
            Ok(data) => data == body(id),
            Err(StoreError::Corrupt { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn end(self) {
        self.run("DROP KEYSPACE KS");
    }
}

/// A bridge whose clock is this one.
fn start(
    terms: &Terms,
    node: &str,
    clock: &Arc<AtomicU64>,
) -> Result<(Bridge, BridgeKeeper), KeyspaceError> {
    let clock = Arc::clone(clock);
    Bridge::start(terms, node, move || UnixTime::from_ms(clock.load(Ordering::Relaxed)), None)
}

fn body(id: QueueId) -> Vec<u8> {
    id.text().repeat(300)
}

fn message(id: QueueId, mailboxes: &[MailboxId]) -> Delivery {
    let recipients = mailboxes.iter().map(|&mailbox| Recipient { mailbox, key: None }).collect();
    Delivery { id, octets: 100, first: body(id), recipients }
}

fn ids(visit: &Visit) -> Vec<QueueId> {
    visit.messages().iter().map(|message| message.id).collect()
}

#[test]
fn mail_comes_is_read_and_goes() {
    let Some(mut cluster) = Cluster::new("goes") else { return };
    assert_eq!(cluster.ids(A), []);
    let all = [(); 5].map(|()| cluster.deliver(&[A]));
    let visit = cluster.open(A);
    assert_eq!((visit.mailbox(), ids(&visit)), (A, all.to_vec()));
    let uids: Vec<u32> = visit.messages().iter().map(|message| message.uid.0).collect();
    assert_eq!(uids, [1, 2, 3, 4, 5]);
    assert!(visit.messages().iter().all(|message| message.octets == 100));
    assert_eq!(wait(cluster.bridge.find(A, all[0])).unwrap(), None);
    assert_eq!(wait(cluster.bridge.fetch(all[0], 0)).unwrap(), body(all[0]));
    let usage = wait(cluster.bridge.usage(A)).unwrap();
    assert_eq!(usage, Usage { messages_count: 5, octets: 500 });
    // What is not in the visit is passed over.
    let other = cluster.deliver(&[A]);
    let mut gone = visit.messages()[1..3].to_vec();
    gone.push(Message { id: other, ..gone[0] });
    gone.push(gone[0]);
    wait(cluster.bridge.close(visit, gone)).unwrap();
    assert_eq!(cluster.ids(A), [all[0], all[3], all[4], other]);
    let left = all.map(|id| cluster.has_body(id));
    assert_eq!(left, [true, false, false, true, true]);
    assert!(matches!(wait(cluster.bridge.find(A, all[1])), Err(StoreError::NotFound(_))));
    assert!(matches!(wait(cluster.bridge.find(B, all[0])), Err(StoreError::NotFound(_))));
    cluster.end();
}

#[test]
fn a_body_goes_with_its_last_mailbox() {
    let Some(mut cluster) = Cluster::new("shared") else { return };
    let id = cluster.deliver(&[A, B, C, A]);
    for (mailbox, is_left) in [(B, true), (A, true), (C, false)] {
        assert_eq!(cluster.ids(mailbox), [id]);
        assert!(cluster.has_body(id));
        cluster.delete(mailbox, |_| true);
        assert_eq!(cluster.ids(mailbox), []);
        assert_eq!(cluster.has_body(id), is_left);
    }
    // Many mailboxes, more than are written at one time.
    let many: Vec<MailboxId> = (100..350).map(MailboxId).collect();
    let id = cluster.deliver(&many);
    for mailbox in [many[0], many[249]] {
        assert_eq!(cluster.ids(mailbox), [id]);
    }
    cluster.delete(many[1], |_| true);
    assert!(cluster.has_body(id));
    // Two who delete at one time.
    let both: Vec<QueueId> = (0..50).map(|_| cluster.deliver(&[A, B])).collect();
    std::thread::scope(|scope| {
        for mailbox in [A, B] {
            let cluster = &cluster;
            scope.spawn(move || cluster.delete(mailbox, |_| true));
        }
    });
    assert!(both.iter().all(|&id| !cluster.has_body(id)));
    cluster.end();
}

#[test]
fn what_is_delivered_twice_is_there_once_or_stays_away() {
    let Some(mut cluster) = Cluster::new("twice") else { return };
    let id = cluster.deliver(&[A]);
    cluster.deliver_as(id, &[A]);
    assert_eq!(cluster.ids(A), [id]);
    cluster.delete(A, |_| true);
    cluster.deliver_as(id, &[A]);
    assert_eq!(cluster.ids(A), [], "what its reader has deleted does not come back");
    assert!(!cluster.has_body(id));
    // The same for some who have deleted it, and for a name from the future.
    let ahead = QueueId::first(cluster.now_ms() + HOUR_MS, ShardId(1));
    for id in [cluster.id(), ahead] {
        cluster.deliver_as(id, &[A, B]);
        cluster.delete(A, |_| true);
        cluster.deliver_as(id, &[A, B]);
        assert_eq!((cluster.ids(A), cluster.ids(B)), (vec![], vec![id]));
        cluster.delete(B, |_| true);
        assert!(!cluster.has_body(id));
    }
    cluster.end();
}

#[test]
fn one_session_of_the_cluster_has_a_mailbox() {
    let Some(mut cluster) = Cluster::new("leases") else { return };
    let id = cluster.deliver(&[A]);
    let (other, keeper) = cluster.other();
    let is_in_use = |bridge: &Bridge| match wait(bridge.open(A)) {
        Ok(_) => false,
        Err(StoreError::InUse) => true,
        Err(error) => panic!("{error}"),
    };
    let visit = cluster.open(A);
    assert!(is_in_use(&other) && is_in_use(&cluster.bridge));
    assert!(wait(other.open(B)).is_ok());
    wait(cluster.bridge.close(visit, Vec::new())).unwrap();
    // Free at once after it was closed; a moment after it was dropped.
    let visit = wait(other.open(A)).unwrap();
    assert_eq!(ids(&visit), [id]);
    drop(visit);
    while is_in_use(&cluster.bridge) {}
    // A bridge that ends in order gives back what it has.
    let visit = loop {
        if let Ok(visit) = wait(other.open(A)) {
            break visit;
        }
    };
    drop(keeper);
    assert!(!is_in_use(&cluster.bridge));
    assert!(matches!(wait(other.close(visit, Vec::new())), Err(StoreError::Io(_))));
    cluster.end();
}

#[test]
fn the_oldest_go_and_late_mail_is_seen_behind_the_mark() {
    let Some(mut cluster) = Cluster::new("late") else { return };
    let old: Vec<QueueId> = (0..2000).map(|_| cluster.id()).collect();
    std::thread::scope(|scope| {
        for some in old.chunks(100) {
            let cluster = &cluster;
            scope.spawn(move || some.iter().for_each(|&id| cluster.deliver_as(id, &[A])));
        }
    });
    assert!(cluster.ids(A) == old, "they are there, in their order");
    cluster.pass(3 * WEEK_MS);
    let new = cluster.deliver(&[A]);
    cluster.delete(A, |id| id < old[1000]);
    let mut left = old[1000..].to_vec();
    left.push(new);
    assert!(cluster.ids(A) == left, "the oldest are gone, and no other");
    // The mark is there: a row in front of it that `late` does not name is not looked for.
    let (week, hidden) = (START_MS / WEEK_MS, old[10].0);
    cluster.run(&format!(
        "INSERT INTO KS.messages (mailbox, week, id, octets) VALUES (1, {week}, {hidden}, 1)"
    ));
    assert!(cluster.ids(A) == left, "what is in front of the mark is not looked for");
    // What is late is, whether its week is known still or not.
    let at = |ms| QueueId::first(ms, ShardId(2));
    let before = at(START_MS - 30 * WEEK_MS);
    for late in [before, at(START_MS + HOUR_MS), at(START_MS - 1)] {
        cluster.deliver_as(late, &[A]);
        left.insert(left.partition_point(|&id| id < late), late);
        assert!(cluster.ids(A) == left, "{late} is seen");
        assert_eq!(wait(cluster.bridge.usage(A)).unwrap().messages_count, left.len() as u64);
    }
    cluster.delete(A, |id| id != before && id != new);
    assert_eq!(cluster.ids(A), [before, new]);
    cluster.delete(A, |_| true);
    assert_eq!(cluster.ids(A), []);
    // A week that was taken out is written anew, and what was not yet behind the mark is seen.
    let again = at(START_MS + 2 * HOUR_MS);
    let young = at(cluster.now_ms() - 14 * 60_000);
    for id in [again, young] {
        cluster.deliver_as(id, &[A]);
    }
    assert_eq!(cluster.ids(A), [again, young]);
    cluster.end();
}

#[test]
fn what_comes_while_a_mailbox_is_open_is_seen_next_time() {
    let Some(mut cluster) = Cluster::new("meanwhile") else { return };
    cluster.deliver(&[A]);
    cluster.pass(HOUR_MS);
    let visit = cluster.open(A);
    cluster.pass(1000);
    let new = cluster.deliver(&[A]);
    let all = visit.messages().to_vec();
    wait(cluster.bridge.close(visit, all)).unwrap();
    cluster.pass(HOUR_MS);
    assert_eq!(cluster.ids(A), [new]);
    // A session that could not renew its lease for a minute removes nothing.
    let visit = cluster.open(A);
    cluster.pass(60_000);
    let all = visit.messages().to_vec();
    assert!(matches!(wait(cluster.bridge.close(visit, all)), Err(StoreError::InUse)));
    let is_there = || wait(cluster.bridge.usage(A)).unwrap().messages_count == 1;
    assert!(is_there());
    cluster.end();
}

#[test]
fn an_answer_that_is_lost_is_an_error_and_not_the_message() {
    let Some(mut cluster) = Cluster::new("lost") else { return };
    let (road, answers_come) = Road::to(&cluster.terms.contacts[0]);
    let timeout = Duration::from_millis(500);
    let far = Terms { contacts: vec![road], timeout, ..cluster.terms.clone() };
    let (bridge, _keeper) = start(&far, "far", &cluster.clock).unwrap();
    let id = cluster.id();
    answers_come.store(false, Ordering::SeqCst);
    let lost = wait(bridge.deliver(message(id, &[A, B])));
    assert!(matches!(lost, Err(StoreError::Io(_))), "{lost:?}");
    assert!(matches!(wait(bridge.open(A)), Err(StoreError::Io(_))));
    answers_come.store(true, Ordering::SeqCst);
    // The driver may have to connect anew.
    while wait(bridge.deliver(message(id, &[A, B]))).is_err() {}
    assert_eq!(wait(bridge.usage(A)).unwrap().messages_count, 1);
    assert!(cluster.has_body(id));
    cluster.end();
}

/// A way to a server that loses what comes back when it is told to.
struct Road;

impl Road {
    fn to(server: &str) -> (String, Arc<AtomicBool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers_come = Arc::new(AtomicBool::new(true));
        let (server, open) = (server.to_owned(), Arc::clone(&answers_come));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&server).unwrap());
                let always = Arc::new(AtomicBool::new(true));
                let ways = [
                    (near.try_clone().unwrap(), far.try_clone().unwrap(), always),
                    (far, near, Arc::clone(&open)),
                ];
                for (from, to, open) in ways {
                    std::thread::spawn(move || Self::carry(from, to, &open));
                }
            }
        });
        (address, answers_come)
    }

    fn carry(mut from: TcpStream, mut to: TcpStream, open: &AtomicBool) {
        let mut bytes = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if open.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Random bytes that are the same each time.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(7);
            *byte = next;
        }
    }
}

fn key(window: &Window, record: &Arc<WindowRecord>, id: QueueId) -> RecipientKey {
    let sealer = Sealer::begin(id, &mut counting());
    let wrap = window.wrap(sealer.content_key(), id).unwrap();
    RecipientKey { wrap, window: Arc::clone(record) }
}

#[test]
fn keys_come_back_with_sealed_mail() {
    let Some(mut cluster) = Cluster::new("sealed") else { return };
    let (keys, mailbox_key) = UserKeys::generate(A, RsaBits::B2048, &mut counting()).unwrap();
    let (window, record) = Window::begin(A, &keys.public_key().unwrap(), &mut counting()).unwrap();
    let record = Arc::new(record);
    let sealed = |cluster: &Cluster, id| {
        let key = key(&window, &record, id);
        let recipients = vec![Recipient { mailbox: A, key: Some(key.clone()) }];
        let delivery = Delivery { recipients, ..message(id, &[]) };
        wait(cluster.bridge.deliver(delivery)).unwrap();
        key
    };
    let (one, two) = (cluster.id(), cluster.id());
    for id in [one, two] {
        let key = sealed(&cluster, id);
        assert_eq!(wait(cluster.bridge.find(A, id)).unwrap(), Some(key));
    }
    // Opened by RSA once, then by the mailbox's own key; another mailbox's session changes nothing.
    let private = keys.private_key(A, &mailbox_key).unwrap();
    let open = record.open_rsa(&private).unwrap();
    let rewrapped = open.rewrap(&mailbox_key, &mut counting()).unwrap();
    wait(cluster.bridge.rewrap(B, vec![rewrapped.clone()])).unwrap();
    let found = |cluster: &Cluster| wait(cluster.bridge.find(A, one)).unwrap().unwrap();
    assert!(found(&cluster).window.needs_rsa());
    wait(cluster.bridge.rewrap(A, vec![rewrapped.clone()])).unwrap();
    assert_eq!(*found(&cluster).window, rewrapped);
    // Not even a node that knows nothing of it brings the other form back.
    let (other, _keeper) = cluster.other();
    let three = cluster.id();
    let recipients = vec![Recipient { mailbox: A, key: Some(key(&window, &record, three)) }];
    wait(other.deliver(Delivery { recipients, ..message(three, &[]) })).unwrap();
    assert_eq!(*found(&cluster).window, rewrapped);
    // A key of another mailbox is refused.
    let recipients = vec![Recipient { mailbox: B, key: Some(key(&window, &record, three)) }];
    let refused = wait(other.deliver(Delivery { recipients, ..message(three, &[]) }));
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    cluster.run("TRUNCATE KS.windows");
    let damaged = wait(cluster.bridge.find(A, two));
    assert!(matches!(damaged, Err(StoreError::Corrupt { .. })), "{damaged:?}");
    cluster.end();
}

#[test]
fn large_messages_come_in_chunks() {
    let Some(mut cluster) = Cluster::new("chunks") else { return };
    let id = cluster.id();
    for number in 1..=3 {
        let data = vec![number as u8; 256 * 1024];
        wait(cluster.bridge.put_chunk(id, number, data)).unwrap();
    }
    assert_eq!(cluster.ids(A), [], "it is there when it is whole");
    cluster.deliver_as(id, &[A]);
    assert_eq!(wait(cluster.bridge.fetch(id, 3)).unwrap(), vec![3; 256 * 1024]);
    let Err(StoreError::Corrupt { place, why }) = wait(cluster.bridge.fetch(id, 4)) else {
        panic!("there is no chunk 4");
    };
    assert!(place.contains(&id.to_string()) && place.contains('4') && !why.is_empty());
    cluster.delete(A, |_| true);
    for number in 0..=3 {
        assert!(wait(cluster.bridge.fetch(id, number)).is_err(), "chunk {number} has gone");
    }
    cluster.end();
}

#[test]
fn a_mailbox_is_purged_and_others_keep_what_they_have() {
    let Some(mut cluster) = Cluster::new("purge") else { return };
    let own = cluster.deliver(&[A]);
    let both = cluster.deliver(&[A, B]);
    let late = QueueId::first(cluster.now_ms() - HOUR_MS, ShardId(1));
    cluster.deliver_as(late, &[A]);
    wait(cluster.bridge.purge(A)).unwrap();
    assert_eq!(wait(cluster.bridge.usage(A)).unwrap(), Usage::default());
    assert_eq!([own, both, late].map(|id| cluster.has_body(id)), [false, true, false]);
    assert_eq!(cluster.ids(B), [both]);
    wait(cluster.bridge.purge(A)).unwrap();
    cluster.end();
}

#[test]
fn a_bridge_begins_with_its_own_version_only() {
    let Some(terms) = terms("version") else { return };
    let refused = |terms: &Terms| start(terms, "one", &Arc::default()).map(drop).unwrap_err();
    assert_eq!(refused(&terms), KeyspaceError::Problem(Problem::NoKeyspace));
    perform(Task::Create, &terms, false).unwrap();
    let cassandra = Cassandra::connect(&terms).unwrap();
    let text = "INSERT INTO KS.facts (name, value) VALUES ('schema', '9')";
    cassandra.run(&text.replace("KS", &terms.keyspace)).unwrap();
    assert_eq!(refused(&terms), KeyspaceError::Problem(Problem::Newer(9)));
    cassandra.run(&drop_it(&terms)).unwrap();
    let nobody = Terms { contacts: vec!["127.0.0.1:1".into()], ..terms };
    assert!(matches!(refused(&nobody), KeyspaceError::Cluster(_)));
}

#[test]
fn a_node_takes_one_number_and_no_two_have_the_same() {
    let Some(terms) = terms("numbers") else { return };
    perform(Task::Create, &terms, false).unwrap();
    let cassandra = Cassandra::connect(&terms).unwrap();
    let number = |holder: &str| cassandra.number(&terms.keyspace, holder).unwrap().get();
    assert_eq!((number("one"), number("other"), number("one")), (0, 1, 0));
    let give_back = format!("DELETE FROM {}.leases WHERE name = 'node/0'", terms.keyspace);
    cassandra.run(&give_back).unwrap();
    assert_eq!((number("third"), number("other")), (0, 1));
    for holder in 2..=NodeNumber::MAX {
        assert_eq!(number(&format!("node {holder}")), holder);
    }
    let full = cassandra.number(&terms.keyspace, "one too many").unwrap_err();
    assert!(full.to_string().contains("128 numbers"), "{full}");
}
