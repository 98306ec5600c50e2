//! What the mailbox index costs: `cargo run --release -p bench --bin index DIR`.
//!
//! Feeds it through its queue, as one shard does: as fast as it goes, or paced. One line for each
//! case: CPU time of the process for a message, time, longest wait of a session, threads, memory;
//! then how long a mailbox takes to list. Each case runs in a process of its own. What candidate
//! databases cost by themselves, and the choice, is in docs/decisions/0002-mailbox-index.md; how
//! that was measured is in the history of this file.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Embedded, Mailboxes, Options, wait};
use fsmtp_store::spool::{Committed, Recipient, Sink};
use fsmtp_store::{Lsn, MailboxId, QueueId, ShardId};

type Outcome = Result<(), Box<dyn Error>>;

const RECORD_BYTES: u64 = 4096;
/// Messages that are made at a time, so that their making can be timed and taken off.
const GROUP_COUNT: u64 = 256;

/// Messages a second (0: as fast as it goes), messages, entries of a merge, mailboxes.
const CASES: [[u64; 4]; 7] = [
    [20_000, 200_000, 16_384, 1],
    [20_000, 200_000, 16_384, 10_000],
    [0, 400_000, 16_384, 1],
    [0, 400_000, 16_384, 100],
    [0, 400_000, 16_384, 10_000],
    [0, 400_000, 65_536, 10_000],
    [0, 2_000_000, 16_384, 1_000_000],
];

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((folder, numbers)) = arguments.split_first() else {
        return Err("usage: index DIR".into());
    };
    if numbers.is_empty() {
        for case in CASES {
            let numbers = case.iter().map(u64::to_string);
            Command::new(env::current_exe()?).arg(folder).args(numbers).status()?;
        }
        return Ok(());
    }
    let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<u64>, _>>()?;
    let folder = tempfile::tempdir_in(folder)?;
    match numbers.try_into() {
        Ok(case) => run(folder.path(), case),
        Err(_) => Err("a case has four numbers".into()),
    }
}

fn run(folder: &Path, [rate, count, merge_count, mailboxes_count]: [u64; 4]) -> Outcome {
    let options = Options { merge_count: usize::try_from(merge_count)?, ..Options::new(1) };
    let (store, keeper) = Embedded::open(folder, options)?;
    let mut source = Source { random: 88_172_645_463_325_252, count: 0, mailboxes_count };
    let (began, cpu_before) = (Instant::now(), process_cpu());
    let mut making = Duration::ZERO;
    let mut longest = Duration::ZERO;
    while source.count < count {
        if let Some(due_ns) = (source.count * 1_000_000_000).checked_div(rate) {
            std::thread::sleep(Duration::from_nanos(due_ns).saturating_sub(began.elapsed()));
        }
        let before = thread_cpu();
        let messages: Vec<Committed> = (0..GROUP_COUNT).map(|_| source.message()).collect();
        making += thread_cpu().saturating_sub(before);
        for message in messages {
            offer(&store, message);
        }
        if source.count.is_multiple_of(64 * GROUP_COUNT) {
            let asked = Instant::now();
            drop(wait(store.open(MailboxId(u64::MAX)))?);
            longest = longest.max(asked.elapsed());
        }
    }
    wait(store.persist())?;
    let wall = began.elapsed();
    let cpu = process_cpu().saturating_sub(cpu_before).saturating_sub(making);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / source.count as f64;
    println!(
        "{rate:>6} a second, {count:>7} messages, {merge_count:>5} a merge, {mailboxes_count:>7} \
         mailboxes: CPU {:.2} us, time {:.2} us, longest wait {:.1} ms, threads {}, memory {}",
        each(cpu),
        each(wall),
        longest.as_secs_f64() * 1e3,
        status("Threads"),
        status("VmRSS"),
    );
    let asked = Instant::now();
    let maildrop = wait(store.open(MailboxId(0)))?;
    let (found, took) = (maildrop.messages().len(), asked.elapsed());
    println!("{:>14} {:?}; a mailbox of {found} listed in {took:?}", "", store.counters());
    drop(maildrop);
    keeper.close()?;
    Ok(())
}

/// As the spool does: what is given back is offered again.
fn offer(store: &Embedded, mut message: Committed) {
    while let Err(back) = store.committed(message) {
        message = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same messages each time, for random mailboxes.
struct Source {
    random: u64,
    count: u64,
    mailboxes_count: u64,
}

impl Source {
    fn message(&mut self) -> Committed {
        // Xorshift, so that two runs are alike.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.count += 1;
        let ms = 1_790_000_000_000 + self.count / 40;
        let mailbox = MailboxId(self.random % self.mailboxes_count);
        Committed {
            id: QueueId(QueueId::first(ms, ShardId(0)).0 + self.count % 40),
            shard: ShardId(0),
            lsn: Lsn(self.count * RECORD_BYTES),
            end: Lsn((self.count + 1) * RECORD_BYTES),
            octets: RECORD_BYTES,
            chunks: Vec::new(),
            received: UnixTime::from_ms(ms),
            recipients: vec![Recipient { mailbox, key: None }],
        }
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
