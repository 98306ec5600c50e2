//! Mail in a real Cassandra, which `tests/cluster/servers.sh` starts. Skipped, with a word, where
//! FSMTP_CASSANDRA names no server.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: it brings the clock

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fsmtp_cluster::bridge::{Bridge, BridgeKeeper};
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{KeyspaceError, Task, perform};
use fsmtp_cluster::schema::{Problem, Replication};
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Delivery, Message, wait};
use fsmtp_store::seal::{RsaBits, Sealer, UserKeys, Window};
use fsmtp_store::spool::{Recipient, RecipientKey};
use fsmtp_store::{MailboxId, NodeNumber, QueueId, ShardId, StoreError};

const A: MailboxId = MailboxId(1);
const B: MailboxId = MailboxId(2);
const C: MailboxId = MailboxId(3);

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixTime::from_ms(since.as_millis() as u64)
}

/// A keyspace of one test, and two nodes over it.
struct Two {
    terms: Terms,
    nodes: [Bridge; 2],
    _keepers: [BridgeKeeper; 2],
}

impl Two {
    fn make(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let terms = Terms {
            contacts: vec![server],
            keyspace: format!("fsmtp_mail_{name}_{}", std::process::id()),
            replication: Replication::Simple(1),
            centre: None,
            login: None,
            timeout: Duration::from_secs(20),
        };
        let cassandra = Cassandra::connect(&terms).unwrap();
        cassandra.run(&format!("DROP KEYSPACE IF EXISTS {}", terms.keyspace)).unwrap();
        perform(Task::Create, &terms, false).unwrap();
        let started = ["one", "other"].map(|node| Bridge::start(&terms, node, now, None).unwrap());
        let [(one, first), (other, second)] = started;
        Some(Self { terms, nodes: [one, other], _keepers: [first, second] })
    }

    fn run(&self, statement: &str) {
        let statement = statement.replace("KS", &self.terms.keyspace);
        Cassandra::connect(&self.terms).unwrap().run(&statement).unwrap();
    }
}

/// Names, one after another, from a time on.
struct Names(QueueId);

impl Names {
    fn from(ms: u64) -> Self {
        Self(QueueId::first(ms, ShardId(0)))
    }

    fn next(&mut self) -> QueueId {
        let ms = self.0.0 >> 22;
        self.0 = self.0.next_on(NodeNumber::new(3).unwrap(), ms);
        self.0
    }
}

fn clear(id: QueueId, mailboxes: &[MailboxId]) -> Delivery {
    let to = |&mailbox: &MailboxId| Recipient { mailbox, key: None };
    let first = format!("message {id}").into_bytes();
    Delivery { id, octets: 100, first, recipients: mailboxes.iter().map(to).collect() }
}

fn ids(bridge: &Bridge, mailbox: MailboxId) -> Vec<QueueId> {
    let visit = wait(bridge.open(mailbox)).unwrap();
    let ids = visit.messages().iter().map(|message| message.id).collect();
    wait(bridge.close(visit, Vec::new())).unwrap();
    ids
}

fn delete(bridge: &Bridge, mailbox: MailboxId, gone: &[QueueId]) {
    let visit = wait(bridge.open(mailbox)).unwrap();
    let all = visit.messages().iter();
    let gone: Vec<Message> = all.filter(|message| gone.contains(&message.id)).copied().collect();
    wait(bridge.close(visit, gone)).unwrap();
}

#[test]
fn a_message_lies_once_however_many_have_it_and_goes_with_the_last() {
    let Some(two) = Two::make("shared") else { return };
    let [one, other] = &two.nodes;
    let mut names = Names::from(now().ms());
    let (single, shared) = (names.next(), names.next());
    wait(one.put_piece(shared, 1, vec![1; 64 * 1024])).unwrap();
    // A mailbox that is named twice gets it once; what is done twice is done once.
    for _ in 0..2 {
        wait(one.deliver(clear(single, &[A]))).unwrap();
        wait(one.deliver(clear(shared, &[A, B, A, C]))).unwrap();
    }
    for node in [one, other] {
        assert_eq!(ids(node, A), [single, shared]);
        assert_eq!((ids(node, B), ids(node, C)), (vec![shared], vec![shared]));
    }
    assert_eq!(wait(other.usage(A)).unwrap().messages_count, 2);
    assert_eq!(wait(other.fetch(single, 0)).unwrap(), format!("message {single}").into_bytes());
    assert_eq!(wait(other.fetch(shared, 1)).unwrap(), vec![1; 64 * 1024]);
    assert_eq!(wait(other.find(A, shared)).unwrap(), None, "it lies in clear");
    delete(other, A, &[single, shared]);
    assert_eq!(ids(one, A), []);
    assert!(matches!(wait(one.find(A, single)), Err(StoreError::NotFound(_))));
    assert!(matches!(wait(one.fetch(single, 0)), Err(StoreError::Corrupt { .. })));
    delete(one, C, &[shared]);
    assert!(wait(one.fetch(shared, 1)).is_ok(), "one still has it");
    delete(one, B, &[shared]);
    for number in 0..2 {
        let gone = wait(one.fetch(shared, number));
        assert!(gone.is_err_and(|why| why.to_string().contains("is not there")));
    }
}

#[test]
fn a_mailbox_is_open_for_one_session_on_all_nodes() {
    let Some(two) = Two::make("locks") else { return };
    let [one, other] = &two.nodes;
    let visit = wait(one.open(A)).unwrap();
    for node in [one, other] {
        assert!(matches!(wait(node.open(A)), Err(StoreError::InUse)));
        assert!(wait(node.open(B)).is_ok());
    }
    wait(one.close(visit, Vec::new())).unwrap();
    let visit = wait(other.open(A)).unwrap();
    // A session that ends in any way gives it back, soon.
    drop(visit);
    let free = (0..1000).any(|_| wait(one.open(A)).is_ok());
    assert!(free);
}

#[test]
fn what_comes_late_is_seen_and_what_is_deleted_is_not_read_again() {
    let Some(two) = Two::make("late") else { return };
    let [one, other] = &two.nodes;
    let month_ms = 30 * 24 * 3600 * 1000;
    // Old names, so that the mark moves over them.
    let mut names = Names::from(now().ms() - month_ms);
    let old: Vec<QueueId> = (0..300).map(|_| names.next()).collect();
    for &id in &old {
        wait(one.deliver(clear(id, &[A]))).unwrap();
    }
    let fresh = Names::from(now().ms()).next();
    wait(one.deliver(clear(fresh, &[A]))).unwrap();
    let (gone, left) = old.split_at(200);
    delete(other, A, gone);
    let expected = [left, &[fresh]].concat();
    assert_eq!(ids(one, A), expected);
    delete(other, A, left);
    assert_eq!(ids(one, A), [fresh]);
    // A node that was cut off delivers what it has named before the others had moved on.
    let late = names.next();
    wait(other.deliver(clear(late, &[A]))).unwrap();
    assert_eq!(ids(one, A), [late, fresh]);
    delete(one, A, &[late, fresh]);
    assert_eq!(ids(other, A), []);
    wait(one.deliver(clear(fresh, &[B]))).unwrap();
    wait(one.purge(B)).unwrap();
    assert_eq!(ids(one, B), []);
}

#[test]
fn what_opens_sealed_mail_comes_back() {
    let Some(two) = Two::make("sealed") else { return };
    let [one, other] = &two.nodes;
    let mut next = 1_u8;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(167).wrapping_add(91);
            *byte = next;
        }
    };
    let (keys, owner) = UserKeys::generate(A, RsaBits::B2048, &mut random).unwrap();
    let (window, record) = Window::begin(A, &keys.public_key().unwrap(), &mut random).unwrap();
    let id = Names::from(now().ms()).next();
    let sealer = Sealer::begin(id, &mut random);
    let wrap = window.wrap(sealer.content_key(), id).unwrap();
    let key = RecipientKey { wrap, window: Arc::new(record.clone()) };
    let recipients = vec![Recipient { mailbox: A, key: Some(key.clone()) }];
    wait(one.deliver(Delivery { recipients, ..clear(id, &[]) })).unwrap();
    assert_eq!(wait(other.find(A, id)).unwrap().as_ref(), Some(&key));
    // From then on without RSA.
    let open = record.open_rsa(&keys.private_key(A, &owner).unwrap()).unwrap();
    let rewrapped = open.rewrap(&owner, &mut random).unwrap();
    wait(other.rewrap(A, vec![rewrapped.clone()])).unwrap();
    let found = wait(one.find(A, id)).unwrap().unwrap();
    assert_eq!((found.wrap, &*found.window), (wrap, &rewrapped));
    two.run("TRUNCATE KS.windows");
    let damaged = wait(one.find(A, id));
    assert!(damaged.is_err_and(|why| why.to_string().contains("window of message")));
}

#[test]
fn rows_that_are_missing_or_cut_are_said_and_the_others_are_read() {
    let Some(two) = Two::make("damage") else { return };
    let [one, other] = &two.nodes;
    let mut names = Names::from(now().ms());
    let (whole, hurt) = (names.next(), names.next());
    for id in [whole, hurt] {
        wait(one.deliver(clear(id, &[A]))).unwrap();
    }
    two.run(&format!("DELETE FROM KS.bodies WHERE id = {}", hurt.0));
    let missing = wait(other.fetch(hurt, 0)).unwrap_err().to_string();
    assert_eq!(
        missing,
        format!("message {hurt} in Cassandra is damaged: its piece 0 is not there")
    );
    assert!(wait(other.fetch(whole, 0)).is_ok());
    let week = (hurt.0 >> 22) / (7 * 24 * 3600 * 1000);
    let cut = format!(
        "UPDATE KS.messages SET wrap = 0x01 WHERE mailbox = 1 AND week = {week} AND id = {}",
        hurt.0
    );
    two.run(&cut);
    let cut = wait(other.find(A, hurt)).unwrap_err().to_string();
    assert!(cut.contains("has a wrong length"), "{cut}");
    // It is listed and can be deleted.
    assert_eq!(ids(other, A), [whole, hurt]);
    delete(other, A, &[hurt]);
    assert_eq!(ids(one, A), [whole]);
}

#[test]
fn a_node_takes_one_number_and_no_two_have_the_same() {
    let Some(two) = Two::make("numbers") else { return };
    let cassandra = Cassandra::connect(&two.terms).unwrap();
    let number = |holder: &str| cassandra.number(&two.terms.keyspace, holder).unwrap().get();
    assert_eq!((number("one"), number("other"), number("one")), (0, 1, 0));
    two.run("DELETE FROM KS.leases WHERE name = 'node/0'");
    assert_eq!((number("third"), number("other")), (0, 1), "a number that was given back");
    for holder in 2..=NodeNumber::MAX {
        assert_eq!(number(&format!("node {holder}")), holder);
    }
    let full = cassandra.number(&two.terms.keyspace, "one too many").unwrap_err();
    assert!(full.to_string().contains("128 numbers"), "{full}");
}

#[test]
fn a_keyspace_of_another_version_is_refused() {
    let Some(two) = Two::make("version") else { return };
    two.run("INSERT INTO KS.facts (name, value) VALUES ('schema', '9')");
    let refused = Bridge::start(&two.terms, "one", now, None).map(drop);
    assert_eq!(refused, Err(KeyspaceError::Problem(Problem::Newer(9))));
    two.run("INSERT INTO KS.facts (name, value) VALUES ('schema', '1')");
    two.run("DROP TABLE KS.late");
    let refused = Bridge::start(&two.terms, "one", now, None).map(drop);
    assert_eq!(refused, Err(KeyspaceError::Problem(Problem::NoTable("late"))));
}
