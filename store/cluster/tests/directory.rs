//! Two nodes that share a directory in a real Cassandra: what one changes, the other takes over.
//! Skipped, with a word, where FSMTP_CASSANDRA names no server.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::sync::Arc;
use std::time::Duration;

use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::directory::{Book, CLOCKS_MS_MAX, News};
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_cluster::schema::Replication;
use fsmtp_rt::UnixTime;
use fsmtp_store::conformance::cheap_phc;
use fsmtp_store::directory::{Change, Directory, Edit, LegacyHash, Lock, NewLock, Resolution};
use fsmtp_store::mailbox::{Mailboxes as _, Memory, Registry, wait};
use fsmtp_store::seal::{AppWrap, RsaBits, UserKeys, Wrap, Wraps};
use fsmtp_store::{MailboxId, StoreError};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::runtime::Runtime;

/// A keyspace of one test.
struct World {
    runtime: Runtime,
    session: Arc<Session>,
    terms: Terms,
}

/// A node: its copy, and its way to what is shared.
struct Node {
    copy: Memory,
    book: Book,
}

impl World {
    /// None where there is no server.
    fn new(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let terms = Terms {
            contacts: vec![server],
            keyspace: format!("fsmtp_{name}_{}", std::process::id()),
            replication: Replication::Simple(1),
            centre: None,
            login: None,
            redis: None,
            timeout: Duration::from_secs(30),
        };
        perform(Task::Create, &terms, false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let session = runtime
            .block_on(SessionBuilder::new().known_nodes(&terms.contacts).build())
            .map(Arc::new)
            .unwrap();
        Some(Self { runtime, session, terms })
    }

    fn node(&self) -> Node {
        let book = Book::prepare(Arc::clone(&self.session), &self.terms.keyspace);
        let book = self.runtime.block_on(book).unwrap();
        Node { copy: Memory::new(1 << 20, 1), book }
    }

    /// Changes something as a node does it.
    fn change(&self, node: &Node, change: Change) -> Result<(), StoreError> {
        let before = node.copy.directory();
        let edit = before.plan(change)?;
        self.publish(node, &before, &edit)?;
        take(node, vec![edit]);
        Ok(())
    }

    fn publish(&self, node: &Node, before: &Directory, edit: &Edit) -> Result<(), StoreError> {
        self.runtime.block_on(node.book.publish(before, edit, now()))
    }

    /// What a node has not known, which it takes over.
    fn fresh(&self, node: &mut Node) -> Vec<Edit> {
        self.fresh_at(node, now())
    }

    fn fresh_at(&self, node: &mut Node, now: UnixTime) -> Vec<Edit> {
        let local = node.copy.directory();
        let News { edits, damaged } = self.runtime.block_on(node.book.fresh(&local, now)).unwrap();
        assert_eq!(damaged, Vec::<String>::new());
        take(node, edits.clone());
        edits
    }

    fn all(&self, node: &mut Node) -> News {
        let local = node.copy.directory();
        let news = self.runtime.block_on(node.book.all(&local, now())).unwrap();
        take(node, news.edits.clone());
        news
    }

    fn run(&self, statement: &str) {
        let statement = statement.replace("KEYSPACE", &self.terms.keyspace);
        self.runtime.block_on(self.session.query_unpaged(statement, ())).unwrap();
    }

    fn end(self) {
        let drop_it = format!("DROP KEYSPACE {}", self.terms.keyspace);
        Cassandra::connect(&self.terms).unwrap().run(&drop_it).unwrap();
    }
}

fn take(node: &Node, edits: Vec<Edit>) {
    wait(node.copy.change(Change::Replicate(edits))).unwrap();
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // WHY: the servers have that clock
fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixTime::from_ms(since.as_millis().try_into().unwrap())
}

fn domain(name: &str) -> Change {
    Change::AddDomain { domain: name.into() }
}

fn account(address: &str) -> Change {
    Change::AddAccount {
        address: address.into(),
        name: "A Name".into(),
        lock: cheap_phc().into(),
        created: UnixTime::from_ms(5),
    }
}

fn alias(address: &str, targets: &[&str]) -> Change {
    let targets = targets.iter().map(|&target| target.into()).collect();
    Change::SetAlias { address: address.into(), targets }
}

fn remove(address: &str) -> Change {
    Change::RemoveAccount { address: address.into() }
}

fn set_lock(node: &Node, address: &str, lock: NewLock) -> Change {
    let was = node.copy.directory().account(address).unwrap().lock.clone();
    Change::SetLock { address: address.into(), was, lock }
}

fn legacy(text: &str) -> NewLock {
    NewLock::Legacy(LegacyHash(text.into()))
}

fn lock_of(node: &Node, address: &str) -> Lock {
    node.copy.directory().account(address).unwrap().lock.clone()
}

fn same(a: &Node, b: &Node) {
    let (a, b) = (a.copy.directory(), b.copy.directory());
    assert!(a.domains().eq(b.domains()), "{:?}", a.domains().zip(b.domains()).collect::<Vec<_>>());
    assert_eq!(a.accounts(None), b.accounts(None));
    assert_eq!(a.aliases(None), b.aliases(None));
    assert_eq!(a.next_mailbox(), b.next_mailbox());
}

fn is_busy(outcome: &Result<(), StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Busy))
}

#[test]
fn what_one_node_changes_all_have() {
    let Some(world) = World::new("all_have") else { return };
    let (mut a, mut b) = (world.node(), world.node());
    world.change(&a, domain("x.test")).unwrap();
    world.change(&a, account("alice@x.test")).unwrap();
    world.change(&a, alias("all@x.test", &["alice@x.test"])).unwrap();
    assert_eq!(world.fresh(&mut b).len(), 4, "and the next mailbox");
    same(&a, &b);
    assert_eq!(b.copy.directory().resolve("all", "x.test"), Resolution::Mailbox(MailboxId(1)));
    assert_eq!(world.fresh(&mut b).len(), 0, "each once");
    assert_eq!(world.fresh(&mut a).len(), 0, "its own are known");

    // Sealed, with a key pair that others can open by it; then other wraps.
    let mut bytes = 0_u8;
    let random = &mut |into: &mut [u8]| {
        into.iter_mut().for_each(|byte| {
            bytes = bytes.wrapping_mul(5).wrapping_add(3);
            *byte = bytes;
        });
    };
    let alice = MailboxId(1);
    let (keys, key) = UserKeys::generate(alice, RsaBits::B2048, random).unwrap();
    let sealed =
        NewLock::Sealed { mailbox: alice, keys: Box::new(keys.clone()), wraps: Wraps::default() };
    world.change(&b, set_lock(&b, "alice@x.test", sealed)).unwrap();
    let mut wraps = Wraps::default();
    wraps.put("one", Wrap::App(AppWrap::seal(&key, alice, random).unwrap().0)).unwrap();
    let (address, was) = ("alice@x.test".to_owned(), Wraps::default());
    world.change(&b, Change::SetWraps { address, was, wraps }).unwrap();
    assert_eq!(world.fresh(&mut a).len(), 1, "twice changed, once told");
    same(&a, &b);
    assert!(wait(a.copy.user_keys(alice)).unwrap() == keys, "its key pair stays");
    world.change(&a, set_lock(&a, "alice@x.test", legacy("h.s"))).unwrap();
    world.fresh(&mut b);
    assert!(wait(b.copy.user_keys(alice)).is_err(), "and goes with the lock");

    // A node that was away, and one that is new.
    world.change(&a, account("bob@x.test")).unwrap();
    world.change(&a, alias("all@x.test", &["bob@x.test", "alice@x.test"])).unwrap();
    let mut c = world.node();
    let news = world.all(&mut c);
    assert_eq!(news.damaged, Vec::<String>::new());
    same(&a, &c);
    assert_eq!(world.all(&mut c).edits.len(), 0);
    assert_eq!(world.fresh(&mut c).len(), 0, "what is told again is known");

    world.change(&a, Change::RemoveAlias { address: "all@x.test".into() }).unwrap();
    world.change(&a, remove("bob@x.test")).unwrap();
    world.change(&a, remove("alice@x.test")).unwrap();
    world.change(&a, Change::RemoveDomain { domain: "x.test".into() }).unwrap();
    world.change(&a, domain("y.test")).unwrap();
    world.fresh(&mut b);
    same(&a, &b);
    assert!(matches!(wait(b.copy.open(alice)), Err(StoreError::NotFound(_))));
    world.all(&mut c);
    same(&a, &c);
    assert_eq!(c.copy.directory().accounts_count(), 0);
    world.end();
}

#[test]
fn of_two_at_one_time_one_gives_way() {
    let Some(world) = World::new("two") else { return };
    let (mut a, mut b) = (world.node(), world.node());
    world.change(&a, domain("x.test")).unwrap();
    // The same domain twice is no harm.
    world.change(&b, domain("x.test")).unwrap();
    world.change(&a, account("alice@x.test")).unwrap();
    assert!(is_busy(&world.change(&b, account("bob@x.test"))), "that mailbox is taken");
    world.fresh(&mut b);
    world.change(&b, account("bob@x.test")).unwrap();
    let Change::AddAccount { address, name, lock, .. } = account("bob@x.test") else {
        unreachable!()
    };
    let later = Change::AddAccount { address, name, lock, created: UnixTime::from_ms(6) };
    let taken = a.copy.directory().plan(later).unwrap();
    let refused = world.publish(&a, &a.copy.directory(), &taken);
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    world.fresh(&mut a);
    same(&a, &b);
    let numbers: Vec<u64> =
        a.copy.directory().accounts(None).iter().map(|account| account.mailbox.0).collect();
    assert_eq!(numbers, [1, 2]);

    two_accounts_at_once(&world, &mut a, &mut b);
    locks_and_aliases_of_two(&world, &mut a, &mut b);

    // What the other has removed and made anew is another account.
    let remove_new = a.copy.directory().plan(remove("new@x.test")).unwrap();
    world.change(&b, remove("new@x.test")).unwrap();
    world.change(&b, account("new@x.test")).unwrap();
    assert!(is_busy(&world.publish(&a, &a.copy.directory(), &remove_new)));
    world.fresh(&mut a);
    same(&a, &b);
    world.end();
}

/// As tasks beside each other.
fn two_accounts_at_once(world: &World, a: &mut Node, b: &mut Node) {
    let plan = |node: &Node, change: Change| {
        let before = node.copy.directory();
        let edit = before.plan(change).unwrap();
        (before, edit)
    };
    let ((before_a, carol), (before_b, dave)) =
        (plan(a, account("carol@x.test")), plan(b, account("dave@x.test")));
    let (one, other) = world.runtime.block_on(async {
        let mut one = Box::pin(a.book.publish(&before_a, &carol, now()));
        let mut other = Box::pin(b.book.publish(&before_b, &dave, now()));
        let (mut first, mut second) = (None, None);
        core::future::poll_fn(|context| {
            use core::task::Poll;
            if first.is_none()
                && let Poll::Ready(done) = one.as_mut().poll(context)
            {
                first = Some(done);
            }
            if second.is_none()
                && let Poll::Ready(done) = other.as_mut().poll(context)
            {
                second = Some(done);
            }
            if first.is_some() && second.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        (first.unwrap(), second.unwrap())
    });
    assert!(one.is_ok() != other.is_ok() && (is_busy(&one) || is_busy(&other)));
    world.fresh(a);
    world.fresh(b);
    same(a, b);
}

fn locks_and_aliases_of_two(world: &World, a: &mut Node, b: &mut Node) {
    // The second has not seen the first.
    world.change(a, set_lock(a, "alice@x.test", legacy("a.s"))).unwrap();
    assert!(is_busy(&world.change(b, set_lock(b, "alice@x.test", legacy("b.s")))));
    world.fresh(b);
    world.change(b, set_lock(b, "alice@x.test", legacy("b.s"))).unwrap();
    world.fresh(a);
    assert_eq!(lock_of(a, "alice@x.test"), Lock::Legacy(LegacyHash("b.s".into())));

    // An alias, changed by both; and made where the other makes an account.
    world.change(a, alias("all@x.test", &["alice@x.test"])).unwrap();
    assert!(is_busy(&world.change(b, alias("all@x.test", &["bob@x.test"]))));
    let refused = world.change(b, account("all@x.test"));
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    world.change(a, account("new@x.test")).unwrap_err();
    world.fresh(a);
    world.change(a, account("new@x.test")).unwrap();
    let refused = world.change(b, alias("new@x.test", &["bob@x.test"]));
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    world.fresh(b);
    same(a, b);
    let mut c = world.node();
    assert_eq!(world.all(&mut c).damaged, Vec::<String>::new());
    same(a, &c);
}

#[test]
fn what_was_answered_by_nobody_can_be_done_again() {
    let Some(world) = World::new("again") else { return };
    let (a, mut b) = (world.node(), world.node());
    let twice = |change: Change| {
        let before = a.copy.directory();
        let edit = before.plan(change).unwrap();
        world.publish(&a, &before, &edit).unwrap();
        world.publish(&a, &before, &edit).unwrap();
        take(&a, vec![edit]);
    };
    twice(domain("x.test"));
    twice(account("alice@x.test"));
    twice(set_lock(&a, "alice@x.test", legacy("a.s")));
    twice(alias("all@x.test", &["alice@x.test"]));
    twice(alias("all@x.test", &["alice@x.test", "alice@x.test"]));
    twice(Change::RemoveAlias { address: "all@x.test".into() });
    twice(account("bob@x.test"));
    twice(remove("bob@x.test"));
    world.fresh(&mut b);
    same(&a, &b);
    // A number that was claimed when the account was not made: another one is taken.
    world.run("UPDATE KEYSPACE.numbers SET next = 4 WHERE kind = 'mailbox' IF next = 3");
    assert!(is_busy(&world.change(&b, account("carol@x.test"))));
    assert_eq!(world.fresh(&mut b).len(), 1, "the number alone");
    world.change(&b, account("carol@x.test")).unwrap();
    assert_eq!(b.copy.directory().account("carol@x.test").unwrap().mailbox, MailboxId(4));
    world.end();
}

#[test]
fn clocks_may_differ_and_damage_is_named() {
    let Some(world) = World::new("clocks") else { return };
    let (a, mut b) = (world.node(), world.node());
    world.change(&a, domain("x.test")).unwrap();
    for name in ["early", "late", "old"] {
        world.change(&a, account(&format!("{name}@x.test"))).unwrap();
    }
    world.run("TRUNCATE KEYSPACE.changes");
    let now = now().ms();
    let day = 24 * 60 * 60 * 1000;
    let tell = |name: &str, ms: u64| {
        world.run(&format!(
            "INSERT INTO KEYSPACE.changes (day, at, kind, name) \
             VALUES ({}, maxTimeuuid({ms}), 'account', '{name}@x.test')",
            ms / day
        ));
    };
    let names = |edits: &[Edit]| -> Vec<String> {
        let name = |edit: &Edit| match edit {
            Edit::PutAccount(account, _) => Some(account.address.clone()),
            _ => None,
        };
        edits.iter().filter_map(name).collect()
    };
    tell("early", now - CLOCKS_MS_MAX + 1000);
    tell("late", now + CLOCKS_MS_MAX - 1000);
    tell("old", now - CLOCKS_MS_MAX - 1000);
    let at = UnixTime::from_ms(now);
    assert_eq!(names(&world.fresh_at(&mut b, at)), ["early@x.test", "late@x.test"]);
    // Each once: what the node has lost is not told again, as long as it does not ask for all.
    b.copy = Memory::new(1 << 20, 1);
    assert_eq!(names(&world.fresh_at(&mut b, at)), Vec::<String>::new());
    // Behind by days: from where it looked last.
    let later = UnixTime::from_ms(now + 3 * day);
    tell("old", now + day);
    assert_eq!(names(&world.fresh_at(&mut b, later)), ["old@x.test"]);
    // Changes are kept for a month: then all is read.
    let much_later = UnixTime::from_ms(now + 40 * day);
    assert_eq!(names(&world.fresh_at(&mut b, much_later)), ["early@x.test", "late@x.test"]);
    same(&a, &b);

    world.run("UPDATE KEYSPACE.accounts SET lock = 0x07 WHERE address = 'old@x.test'");
    world.run("INSERT INTO KEYSPACE.accounts (address) VALUES ('Empty@x.test')");
    world.run("INSERT INTO KEYSPACE.aliases (address) VALUES ('none@x.test')");
    world.run(
        "INSERT INTO KEYSPACE.accounts (address, mailbox, name, lock, created) \
         VALUES ('thief@x.test', 1, '', 0x010203612e73, 5)",
    );
    let mut news = world.all(&mut b);
    news.damaged.sort();
    assert_eq!(
        news.damaged,
        [
            "account Empty@x.test: it has no lock",
            "account old@x.test: it has a version that is not known",
            "account thief@x.test: its mailbox is that of early@x.test",
            "alias none@x.test: 1 to 100 targets",
        ]
    );
    assert_eq!(names(&news.edits), Vec::<String>::new());
    same(&a, &b);
    // A keyspace that is empty is another one.
    for table in ["domains", "accounts", "aliases"] {
        world.run(&format!("TRUNCATE KEYSPACE.{table}"));
    }
    let local = b.copy.directory();
    let refused = world.runtime.block_on(b.book.all(&local, at));
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    world.end();
}

#[test]
fn a_node_that_joins_reads_more_than_a_page() {
    const COUNT: usize = 1001;
    let Some(world) = World::new("page") else { return };
    for n in 0..COUNT {
        let day = now().ms() / (24 * 60 * 60 * 1000);
        world.run(&format!("INSERT INTO KEYSPACE.domains (domain) VALUES ('d{n}.test')"));
        world.run(&format!(
            "INSERT INTO KEYSPACE.changes (day, at, kind, name) \
             VALUES ({day}, now(), 'domain', 'd{n}.test')"
        ));
    }
    let (mut a, mut b) = (world.node(), world.node());
    assert_eq!(world.all(&mut a).edits.len(), COUNT);
    assert_eq!(world.fresh(&mut b).len(), COUNT);
    same(&a, &b);
    world.end();
}
