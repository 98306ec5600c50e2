//! What every mailbox back end must do, as checks that its tests run: [`run`].
//!
//! A back end's test gives a [`Factory`]; each check begins with an empty back end and panics with
//! a sentence when a promise is broken. [`ShardLog`] plays the spool: it makes messages and replays
//! them after a crash. Blocks its thread; never for production.

mod outgoing;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fsmtp_rt::UnixTime;

use crate::directory::{Change, Directory, NewLock, Resolution};
use crate::mailbox::{Liveness, Mailboxes, Maildrop, Registry, Usage, wait};
use crate::password::{Cost, Phc, hash};
use crate::seal::{RsaBits, SealError, Sealer, UserKeys, Window, WindowRecord, Wraps};
use crate::spool::{BodyRef, Committed, Recipient, RecipientKey};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

/// The length of a segment that back ends under test are made for.
pub const SEGMENT_BYTES: u64 = 1024 * 1024;
/// What a chunk counts for.
pub const CHUNK_BYTES: u64 = 64 * 1024;

/// Makes the back ends under test.
pub trait Factory {
    /// What is tested.
    type Store: Mailboxes;
    /// Whether mail lies in the spool that [`ShardLog`] plays, and its index is this back end. Else
    /// it is checked what sessions see, not what a spool and a queue ask for; and windows stay as
    /// long as their account.
    const IS_SPOOLED: bool = true;

    /// An empty one, for 4 shards and segments of [`SEGMENT_BYTES`].
    fn fresh(&mut self) -> Self::Store;
    /// Ends it in order and opens it again.
    fn restart(&mut self, store: Self::Store) -> Self::Store;
    /// Opens what a crash at this moment leaves.
    fn crash(&mut self, store: Self::Store) -> Self::Store;
    /// Whether the body of a message is kept for anybody.
    fn has_body(&self, store: &Self::Store, id: QueueId) -> bool {
        match wait(store.locate(id)) {
            Err(StoreError::NotFound(_)) => false,
            outcome => must(outcome).id == id,
        }
    }
}

/// A shard's log, without a disk.
#[derive(Clone, Debug)]
pub struct ShardLog {
    shard: ShardId,
    end: u64,
    id: QueueId,
    messages: Vec<Committed>,
}

impl ShardLog {
    /// An empty log.
    #[must_use]
    pub const fn new(shard: u16) -> Self {
        let shard = ShardId(shard);
        let id = QueueId::first(1_700_000_000_000, shard);
        Self { shard, end: 4096, id, messages: Vec::new() }
    }

    /// Commits a message for these mailboxes: its record takes `record_bytes` behind its chunks.
    pub fn message(
        &mut self,
        mailboxes: &[MailboxId],
        record_bytes: u64,
        chunks_count: u64,
    ) -> Committed {
        self.id = self.id.next(1_700_000_000_000);
        let mut chunks = Vec::new();
        for _ in 0..chunks_count {
            chunks.push(Lsn(self.place(CHUNK_BYTES)));
        }
        let lsn = self.place(record_bytes);
        let message = Committed {
            id: self.id,
            shard: self.shard,
            lsn: Lsn(lsn),
            end: Lsn(lsn + record_bytes),
            octets: record_bytes / 2 + chunks_count * CHUNK_BYTES,
            chunks,
            received: UnixTime::from_ms(1_700_000_000_000),
            recipients: mailboxes.iter().map(|&mailbox| Recipient { mailbox, key: None }).collect(),
        };
        self.messages.push(message.clone());
        message
    }

    /// Puts `message` in the place of the one with its id.
    fn replace(&mut self, message: &Committed) {
        if let Some(place) = self.messages.iter_mut().find(|other| other.id == message.id) {
            place.clone_from(message);
        }
    }

    /// All messages at or after the mark, as a spool replays them when it opens.
    pub fn replay(&self, mark: Lsn) -> impl Iterator<Item = &Committed> {
        self.messages.iter().filter(move |message| message.lsn >= mark)
    }

    /// A place for a record of `bytes` bytes. Records do not span segments.
    pub fn place(&mut self, bytes: u64) -> u64 {
        if self.end / SEGMENT_BYTES != (self.end + bytes - 1) / SEGMENT_BYTES {
            self.end = self.end.next_multiple_of(SEGMENT_BYTES) + 4096;
        }
        let lsn = self.end;
        self.end += bytes;
        lsn
    }
}

/// Offers a message until the back end takes it.
pub fn deliver(store: &impl Mailboxes, message: &Committed) {
    let mut message = message.clone();
    while let Err(back) = store.committed(message) {
        message = back;
        std::thread::yield_now();
    }
}

/// The ids in a mailbox, in order.
fn ids(store: &impl Mailboxes, mailbox: MailboxId) -> Vec<QueueId> {
    must(wait(store.open(mailbox))).messages().iter().map(|message| message.id).collect()
}

/// The same by id: between shards no order is promised.
fn sorted(store: &impl Mailboxes, mailbox: MailboxId) -> Vec<QueueId> {
    let mut ids = ids(store, mailbox);
    ids.sort();
    ids
}

/// Removes the messages with these ids.
fn delete(store: &impl Mailboxes, mailbox: MailboxId, gone: &[QueueId]) {
    let maildrop = must(wait(store.open(mailbox)));
    let uids = uids(&maildrop, gone);
    must(wait(store.close(maildrop, uids)));
}

fn uids(maildrop: &Maildrop, ids: &[QueueId]) -> Vec<Uid> {
    let ids: BTreeSet<&QueueId> = ids.iter().collect();
    let messages = maildrop.messages().iter();
    messages.filter(|message| ids.contains(&message.id)).map(|message| message.uid).collect()
}

fn must<T>(outcome: Result<T, StoreError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("the back end refused: {error}"),
    }
}

fn live_bytes(store: &impl Mailboxes, shard: u16) -> u64 {
    must(wait(store.live_bytes(ShardId(shard)))).values().sum()
}

const A: MailboxId = MailboxId(1);
const B: MailboxId = MailboxId(2);
const C: MailboxId = MailboxId(3);

/// Runs every check.
pub fn run<F: Factory>(factory: &mut F) {
    deliveries_are_seen_at_once_and_in_order(factory);
    a_mailbox_is_open_for_one_session_only(factory);
    deletions_are_all_or_none_and_stay(factory);
    a_crash_loses_nothing_and_doubles_nothing(factory);
    uids_rise_strictly(factory);
    the_directory_survives(factory);
    removed_accounts_lose_their_mail(factory);
    keys_stay_with_the_mail_that_needs_them(factory);
    large_mailboxes_are_listed_whole(factory);
    if F::IS_SPOOLED {
        the_mark_is_durable(factory);
        moved_records_are_found_at_their_new_place(factory);
        live_bytes_are_exact(factory);
        outgoing::run(factory);
        replica::run(factory);
    }
}

fn deliveries_are_seen_at_once_and_in_order<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let mut other = ShardLog::new(3);
    let first = log.message(&[A], 1000, 0);
    // A mailbox that is named twice gets the message once.
    let second = other.message(&[B, A, B, C, A], 2000, 2);
    let third = log.message(&[C], 3000, 0);
    // No recipient at all is nothing to keep.
    let none = log.message(&[], 100, 0);
    for message in [&first, &second, &third, &none] {
        deliver(&store, message);
    }
    assert_eq!(sorted(&store, A), [first.id, second.id]);
    assert_eq!(ids(&store, B), [second.id]);
    assert_eq!(sorted(&store, C), [third.id, second.id]);
    assert_eq!(ids(&store, MailboxId(99)), []);
    assert!(factory.has_body(&store, second.id) && !factory.has_body(&store, none.id));
    let octets = second.octets + third.octets;
    assert_eq!(must(wait(store.usage(C))), Usage { messages_count: 2, octets });
    let before = ids(&store, C);
    must(wait(store.persist()));
    assert_eq!(ids(&store, C), before, "the merge changes nothing");
    if F::IS_SPOOLED {
        assert_eq!(must(wait(store.locate(second.id))), place(&second));
    }
}

fn place(message: &Committed) -> BodyRef {
    let Committed { id, shard, lsn, chunks, .. } = message.clone();
    BodyRef { id, shard, lsn, chunks }
}

fn a_mailbox_is_open_for_one_session_only<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let first = must(wait(store.open(A)));
    let in_use = |mailbox| matches!(wait(store.open(mailbox)), Err(StoreError::InUse));
    assert!(in_use(A), "RFC 1939 §4: the lock is exclusive");
    assert!(!in_use(B));
    let mut log = ShardLog::new(1);
    deliver(&store, &log.message(&[A], 1000, 0));
    assert!(first.messages().is_empty(), "a session sees what was there when it began");
    drop(first);
    let second = must(wait(store.open(A)));
    assert_eq!(second.messages().len(), 1);
    must(wait(store.close(second, vec![])));
    assert!(!in_use(A), "closing unlocks");
}

fn deletions_are_all_or_none_and_stay<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let messages: Vec<Committed> = (0..5).map(|_| log.message(&[A, B], 1000, 0)).collect();
    let id = |n: usize| messages.get(n).map_or(QueueId(0), |message| message.id);
    for message in &messages {
        deliver(&store, message);
    }
    delete(&store, A, &[id(0), id(4), id(2)]);
    assert_eq!(ids(&store, A), [id(1), id(3)]);
    assert_eq!(ids(&store, B).len(), 5, "another mailbox keeps its copy");
    assert!(factory.has_body(&store, id(0)));
    // What does not exist is passed over.
    let maildrop = must(wait(store.open(A)));
    must(wait(store.close(maildrop, vec![Uid(0), Uid(77), Uid(u32::MAX)])));
    delete(&store, B, &[id(0), id(4)]);
    assert!(!factory.has_body(&store, id(0)) && factory.has_body(&store, id(2)));
    let store = factory.crash(store);
    replay(&store, &log);
    assert_eq!(ids(&store, A), [id(1), id(3)], "what was deleted does not come back");
    assert_eq!(ids(&store, B), [id(1), id(2), id(3)]);
    let store = factory.restart(store);
    assert_eq!(ids(&store, B), [id(1), id(2), id(3)]);
}

fn replay(store: &impl Mailboxes, log: &ShardLog) {
    let mark = must(wait(store.applied(log.shard)));
    for message in log.replay(mark) {
        deliver(store, message);
    }
}

fn a_crash_loses_nothing_and_doubles_nothing<F: Factory>(factory: &mut F) {
    let mut store = factory.fresh();
    let mut logs = [ShardLog::new(0), ShardLog::new(1), ShardLog::new(2)];
    for round in 0..12 {
        for log in &mut logs {
            for _ in 0..10 {
                deliver(&store, &log.message(&[A, B], 500, round % 2));
            }
        }
        if round % 4 == 1 {
            must(wait(store.persist()));
        }
        if round % 3 == 2 {
            store = factory.crash(store);
            for log in &logs {
                replay(&store, log);
                // Once more: what is known already changes nothing.
                for message in log.replay(Lsn(0)) {
                    deliver(&store, message);
                }
            }
        }
        for mailbox in [A, B] {
            let found = ids(&store, mailbox);
            for log in &logs {
                let of_log = found.iter().filter(|id| id.shard() == log.shard);
                let expected = log.messages.iter().map(|message| &message.id);
                assert!(of_log.eq(expected), "round {round}: each once, in the order of the log");
            }
        }
    }
}

fn the_mark_is_durable<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(2);
    assert_eq!(must(wait(store.applied(ShardId(2)))), Lsn(0));
    let first = log.message(&[A], 1000, 0);
    deliver(&store, &first);
    must(wait(store.persist()));
    assert_eq!(must(wait(store.applied(ShardId(2)))), first.end);
    let second = log.message(&[A], 1000, 0);
    deliver(&store, &second);
    let before = must(wait(store.applied(ShardId(2))));
    let store = factory.crash(store);
    let after = must(wait(store.applied(ShardId(2))));
    assert!(after >= before && after <= second.end, "a mark that was told is not taken back");
    replay(&store, &log);
    let last = log.message(&[], 1000, 0);
    deliver(&store, &last);
    let store = factory.restart(store);
    assert_eq!(must(wait(store.applied(ShardId(2)))), last.end, "an orderly end persists");
    assert_eq!(must(wait(store.applied(ShardId(1)))), Lsn(0));
}

fn uids_rise_strictly<F: Factory>(factory: &mut F) {
    let mut store = factory.fresh();
    let mut log = ShardLog::new(0);
    let mut highest = Uid(0);
    for round in 0..10 {
        for _ in 0..3 {
            deliver(&store, &log.message(&[A], 500, 0));
        }
        let maildrop = must(wait(store.open(A)));
        let shown: Vec<Uid> = maildrop.messages().iter().map(|message| message.uid).collect();
        assert!(shown.is_sorted_by(|a, b| a < b));
        let fresh = shown.iter().filter(|uid| **uid > highest).count();
        assert_eq!(fresh, 3, "round {round}: no uid is given out twice, whatever was deleted");
        highest = shown.last().copied().unwrap_or(highest);
        // Sometimes all, sometimes the last one, sometimes the first.
        let gone = match round % 3 {
            0 => shown,
            1 => shown.into_iter().rev().take(1).collect(),
            _ => shown.into_iter().take(1).collect(),
        };
        must(wait(store.close(maildrop, gone)));
        if round % 4 == 3 {
            store = factory.restart(store);
        }
    }
}

fn moved_records_are_found_at_their_new_place<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(1);
    let kept = log.message(&[A], 1000, 3);
    let gone = log.message(&[B], 1000, 0);
    for message in [&kept, &gone] {
        deliver(&store, message);
    }
    let shard = ShardId(1);
    let chunk = kept.chunks.get(1).copied().unwrap_or_default();
    let records = [(kept.id, kept.lsn), (kept.id, chunk), (gone.id, gone.lsn), (kept.id, Lsn(1))];
    assert_eq!(must(wait(store.live(shard, &records))), [true, true, true, false]);
    delete(&store, B, &[gone.id]);
    assert_eq!(must(wait(store.live(shard, &records))), [true, true, false, false]);
    assert_eq!(must(wait(store.live(ShardId(0), &records))), [false; 4]);
    let to = |n: u64| Lsn(7 * SEGMENT_BYTES + n);
    let moves = [
        (kept.id, kept.lsn, to(5000)),
        (kept.id, chunk, to(9000)),
        (gone.id, gone.lsn, to(6000)),
        (kept.id, Lsn(1), to(7000)),
    ];
    let before = live_bytes(&store, 1);
    must(wait(store.moved(shard, &moves)));
    let mut expected = place(&kept);
    expected.lsn = to(5000);
    if let Some(chunk) = expected.chunks.get_mut(1) {
        *chunk = to(9000);
    }
    assert_eq!(must(wait(store.locate(kept.id))), expected);
    let live = must(wait(store.live_bytes(shard)));
    assert_eq!(live.get(&7), Some(&(1000 + CHUNK_BYTES)));
    assert_eq!(live.values().sum::<u64>(), before, "moving makes nothing live or dead");
    let store = factory.crash(store);
    replay(&store, &log);
    assert_eq!(must(wait(store.locate(kept.id))), expected, "it is durable when it resolves");
    assert_eq!(ids(&store, A), [kept.id]);
}

fn live_bytes_are_exact<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    let messages: Vec<Committed> = (0..40).map(|n| log.message(&[A, B], 30_000, n % 3)).collect();
    for message in &messages {
        deliver(&store, message);
        *expected.entry(message.lsn.0 / SEGMENT_BYTES).or_default() += 30_000;
        for chunk in &message.chunks {
            *expected.entry(chunk.0 / SEGMENT_BYTES).or_default() += CHUNK_BYTES;
        }
    }
    assert!(expected.len() > 2, "several segments");
    let live = |store: &F::Store| must(wait(store.live_bytes(ShardId(0))));
    assert_eq!(live(&store), expected, "pending ones count");
    must(wait(store.persist()));
    assert_eq!(live(&store), expected);
    let all: Vec<QueueId> = messages.iter().map(|message| message.id).collect();
    delete(&store, A, &all);
    assert_eq!(live(&store), expected, "as long as one mailbox refers to it");
    let store = factory.restart(store);
    assert_eq!(live(&store), expected);
    delete(&store, B, &all);
    assert!(live(&store).values().all(|&bytes| bytes == 0));
    let store = factory.crash(store);
    assert!(live(&store).values().all(|&bytes| bytes == 0));
}

/// A cheap hash for tests.
#[must_use]
pub fn cheap_phc() -> Phc {
    must(hash(b"secret", [1; 16], Cost { memory_kib: 8, passes: 1, lanes: 1 }))
}

fn add(store: &impl Mailboxes, address: &str) -> MailboxId {
    let change = Change::AddAccount {
        address: address.into(),
        name: "A Name".into(),
        lock: cheap_phc().into(),
        created: UnixTime::from_ms(5),
    };
    let directory = must(wait(store.change(change)));
    directory.account(address).map_or(MailboxId(0), |account| account.mailbox)
}

fn the_directory_survives<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    assert_eq!(store.directory().accounts_count(), 0);
    must(wait(store.change(Change::AddDomain { domain: "Example.test".into() })));
    must(wait(store.change(Change::AddDomain { domain: "gone.test".into() })));
    let alice = add(&store, "alice@example.test");
    let bob = add(&store, "bob@example.test");
    assert!(alice != bob);
    let alias = |targets: &[&str]| Change::SetAlias {
        address: "*@example.test".into(),
        targets: targets.iter().map(|&target| target.into()).collect(),
    };
    must(wait(store.change(alias(&["alice@example.test"]))));
    must(wait(store.change(alias(&["bob@example.test", "alice@example.test"]))));
    let duplicate = Change::AddDomain { domain: "example.test".into() };
    assert!(matches!(wait(store.change(duplicate)), Err(StoreError::Exists(_))));
    let busy = Change::RemoveDomain { domain: "example.test".into() };
    assert!(matches!(wait(store.change(busy)), Err(StoreError::Invalid(_))));
    must(wait(store.change(Change::RemoveDomain { domain: "gone.test".into() })));
    let check = |directory: &Arc<Directory>| {
        assert_eq!(directory.resolve("ALICE", "example.TEST"), Resolution::Mailbox(alice));
        let both = Resolution::Mailboxes(vec![alice, bob]);
        assert_eq!(directory.resolve("whoever", "example.test"), both);
        assert_eq!(directory.resolve("alice", "gone.test"), Resolution::NotLocal);
        let account = directory.account("bob@example.test");
        assert_eq!(account.map(|account| account.name.as_str()), Some("A Name"));
        assert_eq!(account.map(|account| account.created), Some(UnixTime::from_ms(5)));
    };
    check(&store.directory());
    let store = factory.crash(store);
    check(&store.directory());
    let store = factory.restart(store);
    check(&store.directory());
    must(wait(store.change(Change::RemoveAlias { address: "*@example.test".into() })));
    must(wait(store.change(Change::RemoveAccount { address: "bob@example.test".into() })));
    let store = factory.restart(store);
    let carol = add(&store, "carol@example.test");
    assert!(carol > bob, "the number of a mailbox is never used again");
}

fn removed_accounts_lose_their_mail<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    must(wait(store.change(Change::AddDomain { domain: "x.test".into() })));
    let gone = add(&store, "gone@x.test");
    let stays = add(&store, "stays@x.test");
    let mut log = ShardLog::new(0);
    for n in 0..5000 {
        let both = [gone, stays];
        deliver(&store, &log.message(if n % 100 == 0 { &both } else { &both[..1] }, 100, 0));
    }
    // All mailboxes of an account go with it, and none of another's.
    deliver(&store, &log.message(&[gone.sent()], 100, 0));
    deliver(&store, &log.message(&[stays.sent()], 100, 0));
    deliver(&store, &log.message(&[gone.junk()], 100, 0));
    assert_eq!(ids(&store, gone.sent()).len(), 1);
    must(wait(store.change(Change::RemoveAccount { address: "gone@x.test".into() })));
    for mailbox in gone.all() {
        assert!(matches!(wait(store.open(mailbox)), Err(StoreError::NotFound(_))));
    }
    // It may go on in the background; a crash in the middle does not stop it.
    let store = factory.crash(store);
    assert_eq!((ids(&store, stays).len(), ids(&store, stays.sent()).len()), (50, 1));
    if F::IS_SPOOLED {
        its_space_comes_back(&store, &mut log, gone);
        return;
    }
    let count = || must(wait(store.usage(gone))).messages_count;
    assert!((0..10_000).any(|_| count() == 0), "it goes in time");
}

fn its_space_comes_back(store: &impl Mailboxes, log: &mut ShardLog, gone: MailboxId) {
    let late = log.message(&[gone], 100, 0);
    deliver(store, &late);
    for _ in 0..10_000 {
        if live_bytes(store, 0) == 51 * 100 {
            break;
        }
        must(wait(store.persist()));
    }
    assert_eq!(live_bytes(store, 0), 51 * 100, "only what another mailbox has is left");
    assert_eq!(must(wait(store.usage(gone))).messages_count, 0);
    assert!(matches!(wait(store.locate(late.id)), Err(StoreError::NotFound(_))));
    must(wait(store.persist()));
    assert_eq!(must(wait(store.applied(ShardId(0)))), late.end);
}

/// Bytes that are the same ones each time.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(7);
            *byte = next;
        }
    }
}

/// A window of a mailbox, and its record.
struct Opened {
    window: Window,
    record: Arc<WindowRecord>,
}

impl Opened {
    fn begin(mailbox: MailboxId, keys: &UserKeys, seed: usize) -> Self {
        let mut random = counting();
        random(&mut vec![0; seed]);
        let public = sealed(keys.public_key());
        let (window, record) = sealed(Window::begin(mailbox, &public, &mut random));
        Self { window, record: Arc::new(record) }
    }

    /// Delivers a message that this window wraps.
    fn deliver(&self, store: &impl Mailboxes, log: &mut ShardLog) -> (QueueId, RecipientKey) {
        let mut message = log.message(&[self.record.mailbox()], 100, 0);
        let sealer = Sealer::begin(message.id, &mut counting());
        let wrap = sealed(self.window.wrap(sealer.content_key(), message.id));
        let key = RecipientKey { wrap, window: Arc::clone(&self.record) };
        message.recipients = vec![Recipient { mailbox: wrap.mailbox, key: Some(key.clone()) }];
        log.replace(&message);
        deliver(store, &message);
        (message.id, key)
    }
}

fn sealed<T>(outcome: Result<T, SealError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("sealing failed: {error}"),
    }
}

/// What opens a message for the owner of `mailbox`.
fn key_of(store: &impl Mailboxes, mailbox: MailboxId, id: QueueId) -> Option<RecipientKey> {
    let maildrop = must(wait(store.open(mailbox)));
    let message = maildrop.messages().iter().find(|message| message.id == id);
    message.and_then(|message| must(wait(store.find(mailbox, *message))).key)
}

/// Puts `own` in the place of `before`, the window of the message `id`; not by the session of
/// another mailbox, nor with the window of another.
fn rewraps_its_own_only(
    store: &impl Mailboxes,
    id: QueueId,
    before: &WindowRecord,
    (own, foreign): (&WindowRecord, &WindowRecord),
) {
    let mailbox = before.mailbox();
    let window = || key_of(store, mailbox, id).map(|key| key.window);
    assert_eq!(foreign.id(), before.id());
    must(wait(store.rewrap(foreign.mailbox(), vec![own.clone()])));
    must(wait(store.rewrap(mailbox, vec![foreign.clone()])));
    assert_eq!(window().as_deref(), Some(before));
    must(wait(store.rewrap(mailbox, vec![foreign.clone(), own.clone()])));
    assert_eq!(window().as_deref(), Some(own));
}

fn keys_stay_with_the_mail_that_needs_them<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    must(wait(store.change(Change::AddDomain { domain: "x.test".into() })));
    let plain = add(&store, "plain@x.test");
    let mailbox = store.directory().next_mailbox();
    let (keys, key) = sealed(UserKeys::generate(mailbox, RsaBits::B2048, &mut counting()));
    let lock = NewLock::Sealed { mailbox, keys: Box::new(keys.clone()), wraps: Wraps::default() };
    let (address, name) = ("sealed@x.test".to_owned(), String::new());
    let created = UnixTime::from_ms(5);
    let change = Change::AddAccount { address: address.clone(), name, lock, created };
    must(wait(store.change(change)));
    let stored = |store: &F::Store| wait(store.user_keys(mailbox)).map(|keys| keys.encode());
    assert_eq!(must(stored(&store)), keys.encode());
    assert!(matches!(wait(store.user_keys(plain)), Err(StoreError::NotFound(_))));

    let mut log = ShardLog::new(0);
    let [one, other] = [0, 100].map(|seed| Opened::begin(mailbox, &keys, seed));
    let [(a, a_key), (b, b_key)] = [(); 2].map(|()| one.deliver(&store, &mut log));
    let (c, c_key) = other.deliver(&store, &mut log);
    let clear = log.message(&[plain], 100, 0);
    deliver(&store, &clear);
    for (id, key) in [(a, &a_key), (b, &b_key), (c, &c_key)] {
        assert_eq!(key_of(&store, mailbox, id).as_ref(), Some(key));
    }
    assert_eq!(key_of(&store, plain, clear.id), None);

    // One window is kept in the form that needs no RSA, the other as it was.
    let private = sealed(keys.private_key(mailbox, &key));
    let open = sealed(one.record.open_rsa(&private));
    let rewrapped = sealed(open.rewrap(&key, &mut counting()));
    let window = |store: &F::Store, id| key_of(store, mailbox, id).map(|key| key.window);
    let needs_rsa = |store: &F::Store, id| window(store, id).map(|window| window.needs_rsa());
    // A window of another mailbox that has the same name.
    let foreign = (*Opened::begin(plain, &keys, 0).record).clone();
    rewraps_its_own_only(&store, a, &one.record, (&rewrapped, &foreign));
    assert_eq!(needs_rsa(&store, c), Some(true));
    let store = factory.crash(store);
    replay(&store, &log);
    must(wait(store.persist()));
    assert_eq!((needs_rsa(&store, a), needs_rsa(&store, b)), (Some(false), Some(false)));
    assert_eq!(key_of(&store, mailbox, b).map(|key| key.wrap), Some(b_key.wrap));

    // It stays while a message needs it, and goes with the last: the next one brings its own.
    delete(&store, mailbox, &[a]);
    let store = factory.restart(store);
    let (d, _) = one.deliver(&store, &mut log);
    must(wait(store.persist()));
    assert_eq!(needs_rsa(&store, d), Some(false), "message b still needs the window");
    delete(&store, mailbox, &[b, d]);
    must(wait(store.rewrap(mailbox, vec![rewrapped])));
    let (e, _) = one.deliver(&store, &mut log);
    must(wait(store.persist()));
    let is_new = F::IS_SPOOLED;
    assert_eq!(needs_rsa(&store, e), Some(is_new), "nobody needed the window any more");

    // New credentials leave the keys, another lock takes them along.
    let was = Wraps::default();
    let change = Change::SetWraps { address: address.clone(), was: was.clone(), wraps: was };
    must(wait(store.change(change)));
    assert_eq!(must(stored(&store)), keys.encode());
    let directory = store.directory();
    let Some(was) = directory.account(&address).map(|account| account.lock.clone()) else {
        panic!("{address} is there")
    };
    let change = Change::SetLock { address, was, lock: cheap_phc().into() };
    must(wait(store.change(change)));
    assert!(matches!(stored(&store), Err(StoreError::NotFound(_))));
    let store = factory.restart(store);
    assert!(matches!(stored(&store), Err(StoreError::NotFound(_))));
}

fn large_mailboxes_are_listed_whole<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let count = 20_000;
    let mut expected = Vec::with_capacity(count);
    for n in 0..count {
        let message = log.message(&[A], 100, 0);
        expected.push(message.id);
        deliver(&store, &message);
        if n == count / 2 {
            must(wait(store.persist()));
        }
    }
    assert!(ids(&store, A) == expected, "every message, in order");
    assert_eq!(must(wait(store.usage(A))).messages_count, count as u64);
    delete(&store, A, &expected);
    assert_eq!(ids(&store, A), []);
}
