//! Every back end against the conformance checks, and against a model under random operations.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::conformance::{self, CHUNK_BYTES, Factory, SEGMENT_BYTES, ShardLog, cheap_phc, deliver};
use crate::directory::Change;
use crate::{Lsn, ShardId};

struct InMemory {
    persist_count: usize,
    /// How many of the pending deliveries a crash keeps, of a hundred.
    keep_percent: usize,
}

impl Factory for InMemory {
    type Store = Memory;

    fn fresh(&mut self) -> Memory {
        Memory::new(SEGMENT_BYTES, self.persist_count)
    }

    fn restart(&mut self, store: Memory) -> Memory {
        wait(store.persist()).unwrap();
        self.crash(store)
    }

    fn crash(&mut self, store: Memory) -> Memory {
        store.crash(store.pending_count() * self.keep_percent / 100)
    }
}

/// Keeps folders and threads until the end.
pub(super) struct OnDisk {
    options: Options,
    folders: Vec<TempDir>,
    keeper: RefCell<Option<Keeper>>,
}

impl OnDisk {
    pub(super) fn new(merge_count: usize) -> Self {
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            chunk_bytes: CHUNK_BYTES,
            cache_bytes: 1024 * 1024,
            merge_count,
            // Never by itself: a crash is a copy of the file, so nothing may be written meanwhile.
            merge_after: core::time::Duration::from_secs(3600),
            ..Options::new(4)
        };
        Self { options, folders: Vec::new(), keeper: RefCell::new(None) }
    }

    fn open(&self) -> Embedded {
        let folder = self.folders.last().unwrap().path();
        let (store, keeper) = Embedded::open(folder, self.options.clone()).unwrap();
        self.keeper.replace(Some(keeper));
        store
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folders.last().unwrap().path().join(name)
    }
}

impl Factory for OnDisk {
    type Store = Embedded;

    fn fresh(&mut self) -> Embedded {
        self.folders.push(TempDir::new().unwrap());
        self.open()
    }

    fn restart(&mut self, _store: Embedded) -> Embedded {
        self.keeper.take().unwrap().close().unwrap();
        self.open()
    }

    fn crash(&mut self, _store: Embedded) -> Embedded {
        let folder = TempDir::new().unwrap();
        for name in ["index.redb", "keys.slots"] {
            std::fs::copy(self.file(name), folder.path().join(name)).unwrap();
        }
        self.folders.push(folder);
        self.open()
    }
}

#[test]
fn memory_conforms() {
    for (persist_count, keep_percent) in [(usize::MAX, 0), (7, 0), (usize::MAX, 50), (1, 0)] {
        conformance::run(&mut InMemory { persist_count, keep_percent });
    }
}

#[test]
fn embedded_conforms() {
    conformance::run(&mut OnDisk::new(16 * 1024));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Deliver { shard: usize, mailboxes: u8, record_bytes: u64, chunks_count: u64 },
    Delete { mailbox: u64, which: u32 },
    Move { shard: usize, which: u32 },
    RemoveAccount { mailbox: u64 },
    Persist,
    Restart,
    Crash,
}

const SHARDS: usize = 3;
const BOXES: u64 = 4;

fn any_step() -> impl Strategy<Value = Step> {
    let mailbox = 1..=BOXES;
    prop_oneof![
        12 => (0..SHARDS, 0_u8..16, 100_u64..200_000, prop_oneof![4 => Just(0), 1 => 1_u64..4])
            .prop_map(|(shard, mailboxes, record_bytes, chunks_count)| Step::Deliver {
                shard, mailboxes, record_bytes, chunks_count
            }),
        4 => (mailbox.clone(), any::<u32>())
            .prop_map(|(mailbox, which)| Step::Delete { mailbox, which }),
        3 => (0..SHARDS, any::<u32>()).prop_map(|(shard, which)| Step::Move { shard, which }),
        1 => mailbox.prop_map(|mailbox| Step::RemoveAccount { mailbox }),
        2 => Just(Step::Persist),
        1 => Just(Step::Restart),
        2 => Just(Step::Crash),
    ]
}

/// What there must be: written as simply as possible.
#[derive(Default)]
struct Model {
    /// Which messages are in which mailbox.
    mailboxes: BTreeMap<u64, BTreeSet<QueueId>>,
    /// Where each message that was ever delivered lies.
    places: BTreeMap<QueueId, (Committed, Vec<(Lsn, u64)>)>,
    removed: BTreeSet<u64>,
    /// Uids that were durable when they were seen.
    settled: BTreeMap<(u64, Uid), QueueId>,
}

impl Model {
    fn deliver(&mut self, message: &Committed) {
        let mut records = vec![(message.lsn, message.end.0 - message.lsn.0)];
        records.extend(message.chunks.iter().map(|&chunk| (chunk, CHUNK_BYTES)));
        self.places.insert(message.id, (message.clone(), records));
        for recipient in &message.recipients {
            if !self.removed.contains(&recipient.mailbox.0) {
                self.mailboxes.entry(recipient.mailbox.0).or_default().insert(message.id);
            }
        }
    }

    fn is_live(&self, id: QueueId) -> bool {
        self.mailboxes.values().any(|mailbox| mailbox.contains(&id))
    }

    fn live_bytes(&self, shard: ShardId) -> BTreeMap<u64, u64> {
        let mut sum = BTreeMap::new();
        for (id, (message, records)) in &self.places {
            if message.shard == shard && self.is_live(*id) {
                for (lsn, bytes) in records {
                    *sum.entry(lsn.0 / SEGMENT_BYTES).or_default() += bytes;
                }
            }
        }
        sum
    }
}

struct History<'f, F: Factory> {
    factory: &'f mut F,
    store: Option<F::Store>,
    logs: Vec<ShardLog>,
    model: Model,
}

impl<'f, F: Factory> History<'f, F> {
    fn new(factory: &'f mut F) -> Self {
        let store = factory.fresh();
        wait(store.change(Change::AddDomain { domain: "x".into() })).unwrap();
        for n in 1..=BOXES {
            let directory = wait(store.change(Change::AddAccount {
                address: format!("a{n}@x"),
                name: String::new(),
                lock: cheap_phc().into(),
                created: fsmtp_rt::UnixTime::from_ms(0),
            }));
            let mailbox = directory.unwrap().account(&format!("a{n}@x")).unwrap().mailbox;
            assert_eq!(mailbox, MailboxId(n));
        }
        let logs = (0..SHARDS as u16).map(ShardLog::new).collect();
        Self { factory, store: Some(store), logs, model: Model::default() }
    }

    fn store(&self) -> &F::Store {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deliver { shard, mailboxes, record_bytes, chunks_count } => {
                let chosen: Vec<MailboxId> = (0..BOXES)
                    .filter(|n| mailboxes & (1 << n) != 0)
                    .map(|n| MailboxId(n + 1))
                    .collect();
                let message = self.logs[shard].message(&chosen, record_bytes, chunks_count);
                deliver(self.store(), &message);
                self.model.deliver(&message);
            }
            Step::Delete { mailbox, which } => self.delete(mailbox, which),
            Step::Move { shard, which } => self.relocate(shard, which),
            Step::RemoveAccount { mailbox } => {
                let address = format!("a{mailbox}@x");
                let outcome = wait(self.store().change(Change::RemoveAccount { address }));
                assert_eq!(outcome.is_ok(), self.model.removed.insert(mailbox));
                self.model.mailboxes.remove(&mailbox);
                self.model.settled.retain(|(of, _), _| *of != mailbox);
            }
            Step::Persist => {
                wait(self.store().persist()).unwrap();
                self.settle();
            }
            Step::Restart => {
                let store = self.store.take().unwrap();
                self.store = Some(self.factory.restart(store));
            }
            Step::Crash => {
                let store = self.store.take().unwrap();
                let store = self.factory.crash(store);
                for log in &self.logs {
                    let shard = log.clone().message(&[], 1, 0).shard;
                    for message in log.replay(wait(store.applied(shard)).unwrap()) {
                        deliver(&store, message);
                    }
                }
                self.store = Some(store);
            }
        }
    }

    fn delete(&mut self, mailbox: u64, which: u32) {
        if self.model.removed.contains(&mailbox) {
            return;
        }
        let maildrop = wait(self.store().open(MailboxId(mailbox))).unwrap();
        let chosen: Vec<Message> = maildrop
            .messages()
            .iter()
            .enumerate()
            .filter(|(n, _)| which & (1 << (n % 32)) != 0)
            .map(|(_, message)| *message)
            .collect();
        for message in &chosen {
            self.model.mailboxes.get_mut(&mailbox).unwrap().remove(&message.id);
            self.model.settled.remove(&(mailbox, message.uid));
        }
        let uids = chosen.iter().map(|message| message.uid).collect();
        wait(self.store().close(maildrop, uids)).unwrap();
    }

    /// Moves some records as compaction does: durably merged ones only.
    fn relocate(&mut self, shard: usize, which: u32) {
        wait(self.store().persist()).unwrap();
        let of = ShardId(shard as u16);
        let mut moves = Vec::new();
        let mut n = 0;
        for (id, (message, records)) in &mut self.model.places {
            for (lsn, bytes) in records.iter_mut().filter(|_| message.shard == of) {
                n += 1;
                if which & (1 << (n % 32)) != 0 {
                    let to = Lsn(self.logs[shard].place(*bytes));
                    moves.push((*id, *lsn, to));
                    *lsn = to;
                }
            }
        }
        wait(self.store().moved(of, &moves)).unwrap();
    }

    /// From now on these uids must stay.
    fn settle(&mut self) {
        for mailbox in (1..=BOXES).filter(|mailbox| !self.model.removed.contains(mailbox)) {
            let maildrop = wait(self.store.as_ref().unwrap().open(MailboxId(mailbox))).unwrap();
            for message in maildrop.messages() {
                self.model.settled.insert((mailbox, message.uid), message.id);
            }
        }
    }

    fn check(&self) {
        for mailbox in 1..=BOXES {
            let opened = wait(self.store().open(MailboxId(mailbox)));
            if self.model.removed.contains(&mailbox) {
                assert!(matches!(opened, Err(StoreError::NotFound(_))));
                continue;
            }
            let maildrop = opened.unwrap();
            let found: Vec<QueueId> =
                maildrop.messages().iter().map(|message| message.id).collect();
            let unique: BTreeSet<QueueId> = found.iter().copied().collect();
            assert_eq!(unique.len(), found.len(), "nothing twice");
            let expected = self.model.mailboxes.get(&mailbox).cloned().unwrap_or_default();
            assert_eq!(unique, expected, "mailbox {mailbox}");
            assert!(maildrop.messages().is_sorted_by(|a, b| a.uid < b.uid));
            for shard in 0..SHARDS as u16 {
                let of = found.iter().filter(|id| id.shard() == ShardId(shard));
                assert!(of.is_sorted(), "the order of the log");
            }
            for (&(of, uid), id) in &self.model.settled {
                if of == mailbox {
                    let message = maildrop.messages().iter().find(|message| message.uid == uid);
                    assert_eq!(message.map(|message| &message.id), Some(id), "uids stay");
                }
            }
        }
        for (id, (message, records)) in &self.model.places {
            match wait(self.store().locate(*id)) {
                Ok(place) => {
                    assert!(self.model.is_live(*id));
                    assert_eq!(place.shard, message.shard);
                    let lsns: Vec<Lsn> = [place.lsn].into_iter().chain(place.chunks).collect();
                    assert!(lsns.iter().eq(records.iter().map(|(lsn, _)| lsn)));
                }
                Err(StoreError::NotFound(_)) => {
                    assert!(!self.model.is_live(*id));
                }
                Err(error) => panic!("{error}"),
            }
        }
        for shard in (0..SHARDS as u16).map(ShardId) {
            let mut live = wait(self.store().live_bytes(shard)).unwrap();
            live.retain(|_, bytes| *bytes > 0);
            assert_eq!(live, self.model.live_bytes(shard), "live bytes are exact");
        }
    }

    /// A removed account's mail goes in the background.
    fn let_purges_end(&self) {
        let gone = |mailbox: &u64| {
            wait(self.store().usage(MailboxId(*mailbox))).unwrap().messages_count == 0
        };
        for _ in 0..1000 {
            if self.model.removed.iter().all(gone) {
                return;
            }
            wait(self.store().persist()).unwrap();
        }
        panic!("the mail of removed accounts did not go");
    }
}

fn agrees_with_the_model(factory: &mut impl Factory, steps: &[Step]) {
    let mut history = History::new(factory);
    for step in steps {
        history.step(step);
        if matches!(step, Step::Crash | Step::Restart) {
            history.let_purges_end();
            history.check();
        }
    }
    history.let_purges_end();
    history.check();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(
        steps in prop::collection::vec(any_step(), 1..80),
        persist_count in prop_oneof![Just(usize::MAX), 1_usize..10],
        keep_percent in 0_usize..=100,
    ) {
        agrees_with_the_model(&mut InMemory { persist_count, keep_percent }, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn embedded_agrees_with_the_model(steps in prop::collection::vec(any_step(), 1..60)) {
        agrees_with_the_model(&mut OnDisk::new(16 * 1024), &steps);
    }
}
