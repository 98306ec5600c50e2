//! The rows of each day, counted and kept until they are reported.
//!
//! [`Collector::add`] is called by sessions on every shard and never waits: rows go through a
//! bounded channel to a thread of their own, which counts equal ones and writes them every
//! [`FLUSH`]. Limits: [`WAITING_MAX`] rows on the way, [`HELD_MAX`] between two writes, those of
//! [`counts`](fsmtp_store::counts) in the file. What is beyond is counted and lost, and said in the
//! log; so are rows of the last seconds when the process dies. Mail is never held up.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use fsmtp_rt::UnixTime;
use fsmtp_store::StoreError;
use fsmtp_store::counts::{Counts, Day, ROW_BYTES_MAX, Seen};
use futures_channel::oneshot;
use std::collections::BTreeMap;

use super::report::{Policy, Record};
use super::row::Row;

/// The file in the data folder.
pub const FILE: &str = "dmarc.redb";
/// Rows that wait for the thread; arbitrary.
pub const WAITING_MAX: usize = 10_000;
/// Different rows that are counted before they are written; arbitrary.
pub const HELD_MAX: usize = 2_000;
/// How long rows are counted before they are written.
pub const FLUSH: Duration = Duration::from_secs(5);

/// The day of a moment, in UTC: RFC 9990 §3.1.1.4.
#[must_use]
pub fn day(at: UnixTime) -> Day {
    Day::try_from(at.seconds() / 86_400).unwrap_or(Day::MAX)
}

/// What waits to be reported to one domain about one day.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiting {
    /// The day.
    pub day: Day,
    /// The domain whose record was applied.
    pub domain: String,
    /// How many rows.
    pub rows: u64,
}

/// The records of a day, by what was published when they came.
pub type Gathered = BTreeMap<Policy, Vec<Record>>;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is told.
enum Message {
    Row(Box<Row>),
    Waiting(Reply<Vec<Waiting>>),
    Gather(Day, String, Reply<Gathered>),
    Forget(Day, String, Reply<()>),
    End,
}

/// The way to the thread; clones are the same.
#[derive(Clone, Debug)]
pub struct Collector {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// The thread; dropping it writes what was counted and ends it.
#[derive(Debug)]
pub struct Thread {
    sender: SyncSender<Message>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Nobody listens when it has ended by itself.
        let _ = self.sender.send(Message::End);
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

/// What is to be said in the log.
#[derive(Debug)]
pub enum Trouble {
    /// So many rows were lost.
    Lost(u64),
    /// The file takes nothing.
    Failed(StoreError),
}

impl Collector {
    /// Opens the file in a data folder and starts the thread; `tell` is called on it.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system gives no thread.
    pub fn start(
        data: &Path,
        tell: impl Fn(Trouble) + Send + 'static,
    ) -> Result<(Self, Thread), StoreError> {
        let counts = Counts::open(&data.join(FILE))?;
        let (sender, inbox) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let keeper = Keeper { counts, seen: Seen::new(), lost: Arc::clone(&lost), tell };
        let spawned = thread::Builder::new().name("dmarc".to_owned()).spawn(move || {
            keeper.run(&inbox);
        });
        let handle = spawned.map_err(|why| StoreError::Invalid(format!("no thread: {why}")))?;
        let thread = Thread { sender: sender.clone(), handle: Some(handle) };
        Ok((Self { sender, lost }, thread))
    }

    /// Counts a message. Never waits; when too many wait, this one is lost.
    pub fn add(&self, row: Row) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sender.try_send(Message::Row(Box::new(row)))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What waits to be reported, the oldest day first.
    ///
    /// # Errors
    /// When the file cannot be read, or too much waits.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.ask(Message::Waiting).await
    }

    /// The records of a domain and a day.
    ///
    /// # Errors
    /// As [`waiting`](Self::waiting).
    pub async fn gather(&self, day: Day, domain: &str) -> Result<Gathered, StoreError> {
        self.ask(|reply| Message::Gather(day, domain.to_owned(), reply)).await
    }

    /// Forgets them; on stable storage when this returns.
    ///
    /// # Errors
    /// When they are still there.
    pub async fn forget(&self, day: Day, domain: &str) -> Result<(), StoreError> {
        self.ask(|reply| Message::Forget(day, domain.to_owned(), reply)).await
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(message(reply)).map_err(|_| StoreError::Busy)?;
        answer.await.unwrap_or(Err(StoreError::Busy))
    }
}

/// What the thread owns.
struct Keeper<T> {
    counts: Counts,
    seen: Seen,
    lost: Arc<AtomicU64>,
    tell: T,
}

impl<T: Fn(Trouble)> Keeper<T> {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let message = match inbox.recv_timeout(FLUSH) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    self.flush();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => Message::End,
            };
            match message {
                Message::Row(row) => self.count(*row),
                Message::Waiting(reply) => {
                    self.flush();
                    let waiting = |(day, domain, rows)| Waiting { day, domain, rows };
                    let groups = self.counts.groups();
                    let groups = groups.map(|all| all.into_iter().map(waiting).collect());
                    // Who has asked may be gone.
                    let _ = reply.send(groups);
                }
                Message::Gather(day, domain, reply) => {
                    self.flush();
                    let _ = reply.send(self.counts.rows(day, &domain).map(gathered));
                }
                Message::Forget(day, domain, reply) => {
                    let _ = reply.send(self.counts.remove(day, &domain));
                }
                Message::End => {
                    self.flush();
                    return;
                }
            }
        }
    }

    fn count(&mut self, row: Row) {
        let day = day(row.at);
        let domain = row.policy.domain.clone();
        let mut record = Record { count: 0, ..row.record };
        // A row of plain texts is always JSON.
        let Ok(mut bytes) = serde_json::to_vec(&(&row.policy, &record)) else { return };
        // Who writes long signatures must not keep himself out of reports.
        while bytes.len() > ROW_BYTES_MAX && record.signatures.pop().is_some() {
            let Ok(shorter) = serde_json::to_vec(&(&row.policy, &record)) else { return };
            bytes = shorter;
        }
        *self.seen.entry((day, domain, bytes)).or_default() += 1;
        if self.seen.len() >= HELD_MAX {
            self.flush();
        }
    }

    /// Writes what was counted.
    fn flush(&mut self) {
        let mut lost = self.lost.swap(0, Ordering::Relaxed);
        if !self.seen.is_empty() {
            match self.counts.add(&self.seen) {
                Ok(beyond) => lost += beyond,
                Err(error) => {
                    lost += self.seen.values().sum::<u64>();
                    (self.tell)(Trouble::Failed(error));
                }
            }
            self.seen.clear();
        }
        if lost > 0 {
            (self.tell)(Trouble::Lost(lost));
        }
    }
}

/// Rows as they were counted; one that cannot be read is left out.
fn gathered(rows: Vec<(Vec<u8>, u64)>) -> Gathered {
    let mut gathered = Gathered::new();
    for (bytes, count) in rows {
        let Ok((policy, record)) = serde_json::from_slice::<(Policy, Record)>(&bytes) else {
            continue;
        };
        gathered.entry(policy).or_default().push(Record { count, ..record });
    }
    gathered
}

/// What waits in the file of a data folder that no engine runs on; none where there is no file.
///
/// # Errors
/// When it cannot be read.
pub fn stored(data: &Path) -> Result<Vec<Waiting>, StoreError> {
    let path = data.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let groups = Counts::open(&path)?.groups()?;
    Ok(groups.into_iter().map(|(day, domain, rows)| Waiting { day, domain, rows }).collect())
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{outcome, seen};
    use super::*;
    use fsmtp_proto::dmarc::Verdict;
    use fsmtp_store::mailbox::wait;
    use std::sync::mpsc::channel;

    const RECORD: &str = "v=DMARC1; p=reject; rua=mailto:r@d.example";
    const DAY_MS: u64 = 86_400_000;

    fn row(record: &str, day: u64, source: u8) -> Row {
        let outcome = outcome(record, Verdict::Fail);
        let mut row = Row::of(&seen(&outcome)).unwrap();
        row.at = UnixTime::from_ms(day * DAY_MS + 5);
        row.record.source = format!("192.0.2.{source}");
        row
    }

    #[test]
    fn rows_are_counted_by_day_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (collector, thread) = Collector::start(folder.path(), |_| {}).unwrap();
        for (day, source) in [(5, 1), (5, 1), (5, 2), (6, 1)] {
            collector.add(row(RECORD, day, source));
        }
        let waiting = wait(collector.waiting()).unwrap();
        let waiting: Vec<_> = waiting.iter().map(|w| (w.day, &*w.domain, w.rows)).collect();
        assert_eq!(waiting, [(5, "d.example", 2), (6, "d.example", 1)]);
        // What is only counted so far is written at the end.
        collector.add(row(RECORD, 5, 1));
        collector.add(row("v=DMARC1; p=none; rua=mailto:r@d.example", 5, 1));
        drop(thread);
        assert!(matches!(wait(collector.waiting()), Err(StoreError::Busy)));
        assert_eq!(stored(folder.path()).unwrap().len(), 2);
        let (collector, thread) = Collector::start(folder.path(), |_| {}).unwrap();
        let gathered = wait(collector.gather(5, "d.example")).unwrap();
        let counts = |records: &[Record]| records.iter().map(|r| r.count).collect::<Vec<_>>();
        let all: Vec<_> = gathered.iter().map(|(p, r)| (&*p.p, counts(r))).collect();
        assert_eq!(all, [("none", vec![1]), ("reject", vec![3, 1])]);
        wait(collector.forget(5, "d.example")).unwrap();
        assert!(wait(collector.gather(5, "d.example")).unwrap().is_empty());
        assert_eq!(wait(collector.waiting()).unwrap().len(), 1);
        drop(thread);
    }

    #[test]
    fn what_is_beyond_is_lost_and_said() {
        let (sender, inbox) = sync_channel(1);
        let collector = Collector { sender, lost: Arc::default() };
        for _ in 0..3 {
            collector.add(row(RECORD, 1, 1));
        }
        assert!(matches!(wait(collector.waiting()), Err(StoreError::Busy)));
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::open(&folder.path().join(FILE)).unwrap();
        let (told, tells) = channel();
        let tell = move |trouble| told.send(trouble).unwrap();
        let lost = Arc::clone(&collector.lost);
        let mut keeper = Keeper { counts, seen: Seen::new(), lost, tell };
        while let Ok(Message::Row(row)) = inbox.try_recv() {
            keeper.count(*row);
        }
        keeper.flush();
        assert!(matches!(tells.try_recv(), Ok(Trouble::Lost(2))));
        keeper.flush();
        assert!(tells.try_recv().is_err(), "it is said once");
    }

    #[test]
    fn long_signatures_keep_nobody_out_of_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::open(&folder.path().join(FILE)).unwrap();
        let tell = |trouble| panic!("{trouble:?}");
        let mut keeper = Keeper { counts, seen: Seen::new(), lost: Arc::default(), tell };
        let mut one = row(RECORD, 1, 1);
        let name = "a".repeat(250);
        let signature = crate::dmarc::report::Signature {
            domain: name.clone(),
            selector: name,
            ..Default::default()
        };
        one.record.signatures = vec![signature; 4];
        keeper.count(one);
        keeper.flush();
        let rows = keeper.counts.rows(1, "d.example").unwrap();
        let [(row, 1)] = &rows[..] else { panic!("{rows:?}") };
        assert!(row.len() <= ROW_BYTES_MAX && row.len() > ROW_BYTES_MAX / 2, "{}", row.len());
    }

    #[test]
    fn many_different_rows_are_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::open(&folder.path().join(FILE)).unwrap();
        let tell = |trouble| panic!("{trouble:?}");
        let mut keeper = Keeper { counts, seen: Seen::new(), lost: Arc::default(), tell };
        let mut one = row(RECORD, 1, 1);
        for n in 0..HELD_MAX {
            assert_eq!(keeper.seen.len(), n);
            one.record.source = n.to_string();
            keeper.count(one.clone());
        }
        assert!(keeper.seen.is_empty());
    }
}
