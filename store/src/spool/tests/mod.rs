//! Tests of the spool over a disk that fails on purpose; helpers first.

mod compaction;
mod crash;
mod files;
mod fixture;
mod recovery;
mod sealed;
mod traffic;

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::{PAGE_BYTES, UnixTime};

use super::*;
use crate::envelope::{Envelope, EnvelopeRecipient, Notify};
use crate::id::MailboxId;
use crate::testing::{Chance, Machine, Plate, TestDisk};

const SHARD: ShardId = ShardId(3);
const CHUNK_BYTES: usize = 4096;

/// A layout so small that every boundary is met often.
fn small_config() -> SpoolConfig {
    SpoolConfig {
        segment_bytes: 16 * PAGE,
        reserve_bytes: 4 * PAGE,
        space_check_bytes: 4 * PAGE,
        chunk_bytes: CHUNK_BYTES,
        batch_bytes_max: 4 * PAGE_BYTES,
        ..SpoolConfig::new(SHARD)
    }
}

fn segment(number: u64) -> String {
    segment::segment_name(SHARD, number)
}

fn envelope(mailbox: u64) -> Envelope {
    Envelope {
        reverse_path: b"sender@example.test".to_vec(),
        received: UnixTime::from_ms(1_790_000_000_000),
        recipients: vec![EnvelopeRecipient {
            mailbox: MailboxId(mailbox),
            address: b"demo@example.test".to_vec(),
            notify: Notify::default(),
            orcpt: None,
        }],
        ..Envelope::default()
    }
}

/// Bytes that differ in every place and for every seed.
fn body(seed: u64, bytes: usize) -> Vec<u8> {
    let chance = Chance::new(seed ^ 0x5bd1_e995);
    let mut body: Vec<u8> =
        (0..bytes.div_ceil(8)).flat_map(|_| chance.number().to_le_bytes()).collect();
    body.truncate(bytes);
    body
}

/// A sink that keeps what it gets, or refuses while it is full.
#[derive(Default)]
struct Collector {
    taken: RefCell<Vec<Committed>>,
    full: Cell<bool>,
}

impl Sink for Collector {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        if self.full.get() {
            return Err(message);
        }
        self.taken.borrow_mut().push(message);
        Ok(())
    }
}

impl Collector {
    fn ids(&self) -> Vec<QueueId> {
        self.taken.borrow().iter().map(|message| message.id).collect()
    }

    fn message(&self, index: usize) -> Committed {
        self.taken.borrow()[index].clone()
    }
}

/// One life of the machine over a plate.
struct Life {
    machine: Machine,
    disk: TestDisk,
    sink: Rc<Collector>,
}

impl Life {
    fn new(seed: u64, plate: &Rc<Plate>) -> Self {
        let machine = Machine::new(seed);
        let disk = TestDisk::new(&machine, plate);
        Self { machine, disk, sink: Rc::default() }
    }

    fn run<T>(&self, task: impl Future<Output = T>) -> T {
        self.machine.run(task).expect("nothing halts this machine")
    }

    fn try_open(&self, config: SpoolConfig, applied: Lsn) -> Result<Opened, StoreError> {
        let (machine, disk, sink) = (self.machine.clone(), self.disk.clone(), self.sink.clone());
        self.run(Spool::open(machine, disk, config, applied, sink))
    }

    fn open(&self) -> Spool<Machine> {
        let spool = self.try_open(small_config(), Lsn(0)).unwrap().0;
        self.settle();
        spool
    }

    /// Lets the background prepare the next segment, so that the next change is the log's.
    fn settle(&self) {
        self.run(self.machine.sleep_until(self.machine.now() + Duration::from_micros(1)));
    }

    fn read(&self, message: &Committed) -> Result<Vec<u8>, StoreError> {
        self.run(read(&self.disk, message.into()))
    }

    fn envelope(&self, message: &Committed, segment_bytes: u64) -> Envelope {
        let mut reader = Reader::new(self.disk.clone(), segment_bytes);
        reader.open(BodyRef::from(message));
        self.run(reader.envelope()).unwrap()
    }
}

type Opened = (Spool<Machine>, Recovery);

impl From<&Committed> for BodyRef {
    fn from(message: &Committed) -> Self {
        Self {
            id: message.id,
            shard: message.shard,
            lsn: message.lsn,
            chunks: message.chunks.clone(),
        }
    }
}

async fn read(disk: &TestDisk, at: BodyRef) -> Result<Vec<u8>, StoreError> {
    let mut reader = Reader::new(disk.clone(), small_config().segment_bytes);
    reader.open(at);
    let mut whole = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!(!piece.is_empty());
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

/// Stores `text` in pieces of `piece_bytes`.
async fn store(
    spool: &Spool<Machine>,
    head: &[u8],
    text: &[u8],
    piece_bytes: usize,
) -> Result<Stored, StoreError> {
    let mut incoming = spool.incoming()?;
    for piece in text.chunks(piece_bytes) {
        incoming.push(piece).await?;
    }
    assert_eq!(incoming.octets(), text.len() as u64);
    incoming.commit(head, envelope(1)).await
}

async fn put(spool: &Spool<Machine>, seed: u64, bytes: usize) -> Result<Stored, StoreError> {
    store(spool, b"Received: here\r\n", &body(seed, bytes), 1000).await
}

/// What [`put`] stores.
fn expected(seed: u64, bytes: usize) -> Vec<u8> {
    [b"Received: here\r\n", body(seed, bytes).as_slice()].concat()
}

/// A mailbox index in memory: what is applied now, and what of it would survive a crash.
#[derive(Clone, Default)]
struct Books {
    applied: Lsn,
    bodies: BTreeMap<QueueId, Entry>,
}

#[derive(Clone)]
struct Entry {
    at: BodyRef,
    octets: u64,
    record_bytes: u64,
}

#[derive(Default)]
struct Index {
    now: RefCell<Books>,
    durable: RefCell<Books>,
    /// Messages that were delivered more than once, which must not be.
    repeated: RefCell<VecDeque<QueueId>>,
}

impl Index {
    fn persist(&self) {
        *self.durable.borrow_mut() = self.now.borrow().clone();
    }

    fn crash(&self) {
        *self.now.borrow_mut() = self.durable.borrow().clone();
    }

    fn delete(&self, id: QueueId) -> bool {
        self.now.borrow_mut().bodies.remove(&id).is_some()
    }

    fn bodies(&self) -> Vec<(BodyRef, u64)> {
        self.now.borrow().bodies.values().map(|entry| (entry.at.clone(), entry.octets)).collect()
    }
}

impl Sink for Index {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        let mut now = self.now.borrow_mut();
        assert!(message.lsn >= now.applied, "in log order");
        now.applied = message.end;
        let entry = Entry {
            at: (&message).into(),
            octets: message.octets,
            record_bytes: message.end.0 - message.lsn.0,
        };
        if now.bodies.insert(message.id, entry).is_some() {
            self.repeated.borrow_mut().push_back(message.id);
        }
        Ok(())
    }
}

impl Liveness for Index {
    async fn live_bytes(&self, _: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        let segment_bytes = small_config().segment_bytes;
        let mut live = BTreeMap::new();
        for entry in self.now.borrow().bodies.values() {
            *live.entry(entry.at.lsn.0 / segment_bytes).or_insert(0) += entry.record_bytes;
            for chunk in &entry.at.chunks {
                *live.entry(chunk.0 / segment_bytes).or_insert(0) += CHUNK_BYTES as u64;
            }
        }
        Ok(live)
    }

    async fn live(&self, _: ShardId, records: &[(QueueId, Lsn)]) -> Result<Vec<bool>, StoreError> {
        let now = self.now.borrow();
        let live = |(id, lsn): &(QueueId, Lsn)| {
            let entry = now.bodies.get(id);
            entry.is_some_and(|entry| entry.at.lsn == *lsn || entry.at.chunks.contains(lsn))
        };
        Ok(records.iter().map(live).collect())
    }

    async fn moved(&self, _: ShardId, records: &[(QueueId, Lsn, Lsn)]) -> Result<(), StoreError> {
        for (id, from, to) in records {
            if let Some(entry) = self.now.borrow_mut().bodies.get_mut(id) {
                let places = entry.at.chunks.iter_mut().chain([&mut entry.at.lsn]);
                places.filter(|place| *place == from).for_each(|place| *place = *to);
            }
        }
        self.persist();
        Ok(())
    }

    async fn applied(&self, _: ShardId) -> Result<Lsn, StoreError> {
        Ok(self.durable.borrow().applied)
    }
}
