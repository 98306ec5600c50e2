//! What the mailbox index costs: `cargo run --release -p bench --bin index DIR`.
//!
//! First redb with two small rows for a message and two for a batch, in the ways in which it could
//! be used; then the index that was built on it, fed by one thread through its queue. One line for
//! each: CPU time of the process for a message, time, longest batch or wait of a reader, threads,
//! memory. The choice that came of it is docs/decisions/0002-mailbox-index.md. Each line is
//! measured in a process of its own.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fsmtp_rt::UnixTime;
use fsmtp_store::envelope::{BodyFlags, EnvelopeRecipient, Notify};
use fsmtp_store::mailbox::{Embedded, Mailboxes, Options, wait};
use fsmtp_store::spool::{Committed, Sink};
use fsmtp_store::{Envelope, Lsn, MailboxId, QueueId, ShardId};

type Outcome = Result<(), Box<dyn Error>>;

/// Deliveries between two syncs where batches are not synced themselves.
const SYNC_COUNT: u64 = 40_000;
const RECORD_BYTES: u64 = 4096;
const CASES: &[(&str, u64, u64, u64)] = &[
    // way, messages, batch, mailboxes
    ("redb", 50_000, 1, 10_000),
    ("redb", 400_000, 16, 10_000),
    ("redb", 400_000, 256, 10_000),
    ("redb", 400_000, 256, 1),
    ("redb-sorted-synced", 400_000, 256, 10_000),
    ("redb-sorted-synced", 400_000, 4096, 10_000),
    ("redb-sorted-synced", 400_000, 16_384, 10_000),
    ("redb-sorted-synced", 400_000, 65_536, 10_000),
    ("redb-sorted-synced", 400_000, 16_384, 1),
    ("index", 400_000, 16_384, 1),
    ("index", 400_000, 16_384, 100),
    ("index", 400_000, 16_384, 10_000),
    ("index", 400_000, 65_536, 10_000),
    ("index", 2_000_000, 16_384, 1_000_000),
    ("index-paced", 100_000, 16_384, 1),
];

/// One case: how many messages, in batches of how many, over how many mailboxes.
struct Case<'a> {
    folder: &'a Path,
    messages_count: u64,
    batch_count: u64,
    mailboxes_count: u64,
}

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [folder] => {
            for (way, messages, batch, mailboxes) in CASES {
                let numbers = [messages, batch, mailboxes].map(u64::to_string);
                Command::new(env::current_exe()?).arg(folder).arg(way).args(numbers).status()?;
            }
            Ok(())
        }
        [folder, way, messages, batch, mailboxes] => {
            let folder = tempfile::tempdir_in(folder)?;
            let case = Case {
                folder: folder.path(),
                messages_count: messages.parse()?,
                batch_count: batch.parse()?,
                mailboxes_count: mailboxes.parse()?,
            };
            print!("{way:20} {messages:>8} messages {batch:>6} a batch {mailboxes:>8} mailboxes ");
            match *way {
                "redb" => redb(&case, false),
                "redb-sorted-synced" => redb(&case, true),
                "index" => index(&case, None),
                "index-paced" => index(&case, Some(20_000)),
                _ => Err("no such way".into()),
            }
        }
        _ => Err("usage: index DIR".into()),
    }
}

/// The rows of a message: mailbox and number, what lies there, queue id, where its body is.
struct Row {
    mailbox: u64,
    uid: u32,
    entry: [u8; 10],
    id: u64,
    body: [u8; 22],
}

/// The same messages each time.
struct Source {
    random: u64,
    count: u64,
    uids: Vec<u32>,
}

impl Source {
    fn new(case: &Case<'_>) -> Self {
        let uids = vec![0; usize::try_from(case.mailboxes_count).unwrap_or(1)];
        Self { random: 88_172_645_463_325_252, count: 0, uids }
    }

    fn mailbox(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % self.uids.len() as u64
    }

    fn row(&mut self) -> Row {
        let mailbox = self.mailbox();
        self.count += 1;
        let uid = self.uids.get_mut(mailbox as usize).map_or(0, |uid| {
            *uid += 1;
            *uid
        });
        let id = ((1_790_000_000_000 + self.count / 40) << 22) | (self.count & 0xfff);
        let mut entry = [7; 10];
        entry[..8].copy_from_slice(&id.to_be_bytes());
        let mut body = [1; 22];
        body[..8].copy_from_slice(&(self.count * RECORD_BYTES).to_be_bytes());
        Row { mailbox, uid, entry, id, body }
    }
}

const ENTRIES: redb::TableDefinition<'_, (u64, u32), &[u8]> = redb::TableDefinition::new("entries");
const BODIES: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("bodies");
const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");

/// Sorted and synced: each batch in the order of the keys, durable, with quick repair.
fn redb(case: &Case<'_>, sorted: bool) -> Outcome {
    let mut builder = redb::Database::builder();
    let database = builder.set_cache_size(16 << 20).create(case.folder.join("redb"))?;
    let mut source = Source::new(case);
    let mut meter = Meter::start();
    let mut unsynced = 0;
    while source.count < case.messages_count {
        let begun = Instant::now();
        let mut rows: Vec<Row> = (0..case.batch_count).map(|_| source.row()).collect();
        if sorted {
            rows.sort_by_key(|row| (row.mailbox, row.uid));
        }
        let mut transaction = database.begin_write()?;
        unsynced += case.batch_count;
        transaction.set_quick_repair(sorted);
        if !sorted && unsynced < SYNC_COUNT {
            transaction.set_durability(redb::Durability::None)?;
        } else {
            unsynced = 0;
        }
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut bodies = transaction.open_table(BODIES)?;
            let mut meta = transaction.open_table(META)?;
            for row in &rows {
                entries.insert((row.mailbox, row.uid), &row.entry[..])?;
            }
            rows.sort_by_key(|row| row.id);
            for row in &rows {
                bodies.insert(row.id, &row.body[..])?;
            }
            meta.insert("applied", source.count)?;
            meta.insert("live", source.count)?;
        }
        transaction.commit()?;
        meter.batch(begun);
    }
    meter.report(source.count);
    Ok(())
}

/// The real thing: queue, naps, merges. `per_second` paces it as a shard would; otherwise the queue
/// is kept full.
fn index(case: &Case<'_>, per_second: Option<u64>) -> Outcome {
    let merge_count = usize::try_from(case.batch_count)?;
    let options = Options { merge_count, ..Options::new(1) };
    let (store, keeper) = Embedded::open(case.folder, options)?;
    let mut source = Source::new(case);
    let mut messages = Vec::new();
    let mut meter = Meter::start();
    let begun = Instant::now();
    let mut making = Duration::ZERO;
    let mut longest = Duration::ZERO;
    while source.count < case.messages_count {
        if let Some(rate) = per_second {
            let due = Duration::from_nanos(source.count * 1_000_000_000 / rate);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        // The making of messages is not the index's: it is timed and taken off.
        let made = thread_cpu();
        for _ in 0..256 {
            let row = source.row();
            messages.push(message(&row, source.count));
        }
        making += thread_cpu().saturating_sub(made);
        for message in messages.drain(..) {
            offer(&store, message);
        }
        if source.count % 65_536 < 256 {
            // A session in the middle of it.
            let asked = Instant::now();
            let maildrop = wait(store.open(MailboxId(u64::MAX)))?;
            wait(store.close(maildrop, Vec::new()))?;
            longest = longest.max(asked.elapsed());
        }
    }
    wait(store.persist())?;
    meter.cpu += making;
    meter.longest = longest;
    meter.report(source.count);
    print!("    wakes {} merges {}", store.counters().wakes_count, store.counters().merges_count);
    let mut lists = Vec::new();
    for _ in 0..3 {
        let asked = Instant::now();
        let maildrop = wait(store.open(MailboxId(0)))?;
        lists.push(format!("{} in {:?}", maildrop.messages().len(), asked.elapsed()));
    }
    println!(" mailbox of {}", lists.join(", "));
    keeper.close()?;
    Ok(())
}

fn offer(store: &Embedded, mut message: Committed) {
    while let Err(back) = store.committed(message) {
        message = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn message(row: &Row, count: u64) -> Committed {
    let recipient = EnvelopeRecipient {
        mailbox: MailboxId(row.mailbox),
        address: Vec::new(),
        notify: Notify::default(),
        orcpt: None,
    };
    Committed {
        id: QueueId(row.id),
        shard: ShardId(0),
        lsn: Lsn(count * RECORD_BYTES),
        end: Lsn((count + 1) * RECORD_BYTES),
        octets: 4000,
        chunks: Vec::new(),
        envelope: Envelope {
            reverse_path: Vec::new(),
            received: UnixTime::from_ms(row.id >> 22),
            body: BodyFlags::default(),
            ret: None,
            envid: None,
            recipients: vec![recipient],
        },
    }
}

/// Time and CPU time since the start.
struct Meter {
    began: Instant,
    cpu: Duration,
    longest: Duration,
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: process_cpu(), longest: Duration::ZERO }
    }

    fn batch(&mut self, begun: Instant) {
        self.longest = self.longest.max(begun.elapsed());
    }

    fn report(&self, count: u64) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let wall = self.began.elapsed();
        // What goes on behind the scenes belongs to the price.
        std::thread::sleep(Duration::from_millis(1500));
        println!(
            "CPU {:5.2} us, time {:5.2} us, longest {:>6.1} ms, threads {}, memory {}",
            each(process_cpu().saturating_sub(self.cpu)),
            each(wall),
            self.longest.as_secs_f64() * 1e3,
            status("Threads"),
            status("VmRSS"),
        );
    }
}

fn process_cpu() -> Duration {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

fn thread_cpu() -> Duration {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

fn clock(id: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim()).into()
}
