//! What only the embedded back end does: threads, limits, a process that is killed, failures.

mod damage;
mod renewal;
mod slots;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::conformance::{CHUNK_BYTES, SEGMENT_BYTES, ShardLog, cheap_phc, deliver};
use crate::mailbox::{Message, wait};

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        chunk_bytes: CHUNK_BYTES,
        cache_bytes: 1024 * 1024,
        ..Options::new(4)
    }
}

fn ids(store: &Embedded, mailbox: u64) -> Vec<QueueId> {
    let maildrop = wait(store.open(MailboxId(mailbox))).unwrap();
    maildrop.messages().iter().map(|message| message.id).collect()
}

#[test]
fn four_shards_deliver_while_a_session_fetches_and_deletes() {
    const EACH: usize = 3000;
    let folder = TempDir::new().unwrap();
    // Small enough that queues fill, and merges happen all the time, also within one another.
    let options = Options {
        queue_count: 16,
        merge_count: 64,
        nap: Duration::from_micros(200),
        merge_after: Duration::from_millis(1),
        ..options()
    };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    let mut fetched: Vec<Message> = Vec::new();
    std::thread::scope(|scope| {
        for shard in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                let mut log = ShardLog::new(shard);
                for n in 0..EACH {
                    let mailboxes = [MailboxId(1), MailboxId(2 + n as u64 % 5)];
                    deliver(&store, &log.message(&mailboxes, 100, 0));
                }
            });
        }
        while fetched.len() < 4 * EACH {
            let maildrop = wait(store.open(MailboxId(1))).unwrap();
            let seen = maildrop.messages().to_vec();
            for message in seen.iter().take(20) {
                let place = wait(store.locate(message.id)).unwrap();
                assert_eq!(place.id, message.id);
            }
            wait(store.close(maildrop, seen.iter().map(|message| message.uid).collect())).unwrap();
            fetched.extend(seen);
        }
    });
    assert!(fetched.is_sorted_by(|a, b| a.uid < b.uid), "uids rise over all sessions");
    for shard in 0..4 {
        let of: Vec<QueueId> =
            fetched.iter().map(|message| message.id).filter(|id| id.shard().0 == shard).collect();
        assert_eq!(of.len(), EACH);
        assert!(of.is_sorted_by(|a, b| a < b), "the order of the log, nothing twice");
    }
    let others: usize = (2..7).map(|mailbox| ids(&store, mailbox).len()).sum();
    assert_eq!(others, 4 * EACH);
    assert_eq!(store.counters().deliveries_count, 4 * EACH as u64);
    keeper.close().unwrap();
}

#[test]
fn deliveries_do_not_wake_the_thread_one_by_one() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mut log = ShardLog::new(0);
    for _ in 0..3000 {
        deliver(&store, &log.message(&[MailboxId(1)], 100, 0));
    }
    // A request is answered at once, in the middle of a nap, and sees them all.
    assert_eq!(ids(&store, 1).len(), 3000);
    let wakes_count = store.counters().wakes_count;
    assert!(wakes_count < 300, "{wakes_count} wakes for 3000 deliveries");
    keeper.close().unwrap();
}

#[test]
fn deliveries_become_durable_by_themselves() {
    let folder = TempDir::new().unwrap();
    let options = Options { merge_after: Duration::from_millis(5), ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    let mut log = ShardLog::new(3);
    let message = log.message(&[MailboxId(1)], 100, 0);
    deliver(&store, &message);
    while store.mark(ShardId(3)) < message.end {
        std::thread::yield_now();
    }
    keeper.close().unwrap();
}

/// Holds the thread inside a subscriber, so that nothing is taken from the queues until what this
/// gives is called.
fn hold(store: &Embedded) -> impl FnOnce() + use<> {
    let (entered, inside) = std::sync::mpsc::channel();
    let (open, door) = std::sync::mpsc::channel::<()>();
    let closed = Mutex::new((true, door));
    store.subscribe(move |_| {
        let (first, door) = &mut *closed.lock().unwrap();
        if !core::mem::take(first) {
            let _ = entered.send(());
            // Until the other end is dropped.
            let _ = door.recv();
        }
    });
    let changing = store.clone();
    let domain = format!("x{}.test", store.directory().domains().count());
    let change = std::thread::Builder::new()
        .spawn(move || wait(changing.change(Change::AddDomain { domain })).unwrap())
        .unwrap();
    inside.recv().unwrap();
    move || {
        drop(open);
        change.join().unwrap();
    }
}

#[test]
fn full_queues_refuse_and_lose_nothing() {
    let folder = TempDir::new().unwrap();
    let options = Options { queue_count: 8, requests_count: 2, ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    let release = hold(&store);
    std::thread::scope(|scope| {
        let mut log = ShardLog::new(1);
        let messages: Vec<Committed> =
            (0..9).map(|_| log.message(&[MailboxId(1)], 100, 0)).collect();
        let (fits, too_much) = messages.split_at(8);
        for message in fits {
            assert!(store.committed(message.clone()).is_ok());
        }
        assert_eq!(store.committed(too_much[0].clone()).as_ref(), Err(&too_much[0]));
        // Another shard has its own queue.
        assert!(store.committed(ShardLog::new(2).message(&[MailboxId(1)], 9, 0)).is_ok());
        let questions = [(); 2]
            .map(|()| scope.spawn(|| wait(store.usage(MailboxId(1))).unwrap().messages_count));
        while store.shared.requests.len() < 2 {
            std::thread::yield_now();
        }
        assert!(matches!(wait(store.usage(MailboxId(1))), Err(StoreError::Busy)));
        release();
        for question in questions {
            assert_eq!(question.join().unwrap(), 9);
        }
        deliver(&store, &too_much[0]);
    });
    assert_eq!(ids(&store, 1).len(), 10);
    keeper.close().unwrap();
}

#[test]
fn mail_for_the_cluster_waits_by_its_shard_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mut logs = [ShardLog::new(0), ShardLog::new(2)];
    let (up, out) = (MailboxId::UPLOAD, MailboxId::QUEUE);
    let only = logs[0].message(&[up], 1000, 2);
    let both = logs[0].message(&[up, out], 1000, 0);
    let other = logs[1].message(&[up], 1000, 0);
    for message in [&only, &both, &other] {
        deliver(&store, message);
    }
    wait(store.persist()).unwrap();
    let awaiting = |store: &Embedded, shard, after| {
        let found = wait(store.awaiting(ShardId(shard), after, 10)).unwrap();
        found.into_iter().map(|queued| (queued.id, queued.octets)).collect::<Vec<_>>()
    };
    let row = |message: &Committed| (message.id, message.octets);
    assert_eq!(awaiting(&store, 0, None), [row(&only), row(&both)]);
    assert_eq!(awaiting(&store, 0, Some(only.id)), [row(&both)]);
    assert_eq!(awaiting(&store, 2, None), [row(&other)]);
    assert_eq!(awaiting(&store, 1, None), []);
    let queued = |store: &Embedded| wait(store.queued(ShardId(0), None, 10)).unwrap().len();
    assert_eq!(queued(&store), 1, "what goes to other hosts is told apart");
    assert_eq!(ids(&store, up.0), [], "it is nobody's mailbox");
    // The body stays while one of the two needs it.
    let gone = [only.id, both.id].map(Settlement::Uploaded).to_vec();
    wait(store.settle(gone.clone())).unwrap();
    assert!(wait(store.locate(only.id)).is_err() && wait(store.locate(both.id)).is_ok());
    keeper.close().unwrap();
    let (store, _keeper) = Embedded::open(folder.path(), options()).unwrap();
    assert_eq!((awaiting(&store, 0, None), queued(&store)), (Vec::new(), 1));
    wait(store.settle(gone)).unwrap();
    wait(store.settle(vec![Settlement::Done(both.id)])).unwrap();
    assert!(wait(store.locate(both.id)).is_err());
    assert_eq!(awaiting(&store, 2, None), [row(&other)]);
}

#[test]
fn messages_for_very_many_wait_and_are_not_lost() {
    let folder = TempDir::new().unwrap();
    let options = Options { queued_recipients_max: 10, ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    let release = hold(&store);
    let (mut one, mut two) = (ShardLog::new(1), ShardLog::new(2));
    let many = |log: &mut ShardLog, count: u64| {
        let mailboxes: Vec<MailboxId> = (1..=count).map(MailboxId).collect();
        log.message(&mailboxes, 100, 0)
    };
    let first = many(&mut one, 8);
    assert!(store.committed(first).is_ok());
    // The weight is that of all shards, and what is refused leaves none behind.
    let (three, pair) = (many(&mut two, 3), many(&mut one, 2));
    for _ in 0..5 {
        assert_eq!(store.committed(three.clone()).as_ref(), Err(&three), "11 of 10");
    }
    assert!(store.committed(pair).is_ok(), "10 of 10");
    release();
    deliver(&store, &three);
    assert_eq!(ids(&store, 1).len(), 3);
    // One always has room, whatever it weighs; the next one has to wait for it.
    let release = hold(&store);
    let (crowd, last) = (many(&mut two, 50), many(&mut one, 1));
    assert!(store.committed(crowd).is_ok());
    assert_eq!(store.committed(last.clone()).as_ref(), Err(&last));
    release();
    deliver(&store, &last);
    assert_eq!((ids(&store, 1).len(), ids(&store, 50).len()), (5, 1));
    assert_eq!(store.shared.queued_recipients.load(Ordering::Relaxed), 0);
    keeper.close().unwrap();
}

#[test]
fn a_maildrop_shows_the_oldest_up_to_its_limit() {
    let folder = TempDir::new().unwrap();
    let options = Options { maildrop_messages_max: 10, ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    let mut log = ShardLog::new(0);
    let mut all = Vec::new();
    for n in 0..25 {
        let message = log.message(&[MailboxId(1)], 100, 0);
        all.push(message.id);
        deliver(&store, &message);
        // First all are pending, then the limit is reached within the tables.
        if n == 11 {
            assert_eq!(ids(&store, 1), all[..10]);
            wait(store.persist()).unwrap();
        }
    }
    assert_eq!(ids(&store, 1), all[..10]);
    let maildrop = wait(store.open(MailboxId(1))).unwrap();
    let uids = maildrop.messages().iter().map(|message| message.uid).collect();
    wait(store.close(maildrop, uids)).unwrap();
    assert_eq!(ids(&store, 1), all[10..20], "the rest comes next time");
    assert_eq!(wait(store.usage(MailboxId(1))).unwrap().messages_count, 15);
    keeper.close().unwrap();
}

#[test]
fn a_mailbox_that_used_up_its_uids_is_numbered_anew() {
    let folder = TempDir::new().unwrap();
    let mailbox = MailboxId(1);
    let mut log = ShardLog::new(0);
    let mut deliver_some = |store: &Embedded| -> Vec<QueueId> {
        (0..3)
            .map(|_| log.message(&[mailbox], 100, 0))
            .inspect(|message| deliver(store, message))
            .map(|message| message.id)
            .collect()
    };
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let early = deliver_some(&store);
    keeper.close().unwrap();
    let floor = |uid| {
        let (tables, _) = Tables::open(folder.path(), options().wanted()).unwrap();
        let transaction = tables.begin().unwrap();
        let mut writing = tables.write(&transaction).unwrap();
        let last = writing.next_uid(mailbox).unwrap().unwrap() - 1;
        let message = Message { id: early[2], octets: 50, uid: Uid(last) };
        assert!(writing.take_entry(mailbox, message).unwrap().is_some());
        writing.put_entry(mailbox, uid, early[2], 50, None).unwrap();
        drop(writing);
        transaction.commit().unwrap();
    };
    floor(u32::MAX - 1);
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let late = deliver_some(&store);
    // Only one uid is left: the others wait for the merge.
    let maildrop = wait(store.open(mailbox)).unwrap();
    assert_eq!(maildrop.messages().len(), 4);
    assert_eq!(maildrop.messages()[3].uid, Uid(u32::MAX));
    wait(store.persist()).unwrap();
    // A session that began before deletes what it meant.
    wait(store.close(maildrop, vec![Uid(u32::MAX), Uid(1)])).unwrap();
    let maildrop = wait(store.open(mailbox)).unwrap();
    let left: Vec<QueueId> = maildrop.messages().iter().map(|message| message.id).collect();
    assert_eq!(left, [early[1], early[2], late[1], late[2]]);
    assert!(maildrop.messages().iter().all(|message| message.uid < Uid(10)));
    // The very last uid is used up also when its message goes before the next one comes.
    let last = maildrop.messages()[3].uid;
    wait(store.close(maildrop, vec![last])).unwrap();
    keeper.close().unwrap();
    let (tables, _) = Tables::open(folder.path(), options().wanted()).unwrap();
    let transaction = tables.begin().unwrap();
    let mut writing = tables.write(&transaction).unwrap();
    assert_eq!(writing.next_uid(mailbox).unwrap(), Some(last.0 + 1));
    writing.put_floor(mailbox, None).unwrap();
    drop(writing);
    transaction.commit().unwrap();
    drop(tables);
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let last = deliver_some(&store);
    assert_eq!(ids(&store, 1).len(), 3, "not shown before the merge");
    wait(store.persist()).unwrap();
    assert_eq!(ids(&store, 1), [early[1], early[2], late[1], last[0], last[1], last[2]]);
    keeper.close().unwrap();
}

#[test]
fn subscribers_see_every_change() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&seen);
    store.subscribe(move |directory| {
        list.lock().unwrap().push(directory.accounts_count());
    });
    wait(store.change(Change::AddDomain { domain: "x.test".into() })).unwrap();
    let change = Change::AddAccount {
        address: "a@x.test".into(),
        name: String::new(),
        lock: cheap_phc().into(),
        created: fsmtp_rt::UnixTime::from_ms(0),
    };
    assert_eq!(wait(store.change(change.clone())).unwrap().accounts_count(), 1);
    assert!(wait(store.change(change)).is_err());
    assert_eq!(*seen.lock().unwrap(), [0, 0, 1]);
    keeper.close().unwrap();
}

#[test]
fn a_folder_is_for_one_process_and_one_format() {
    let folder = TempDir::new().unwrap();
    let open = |options| Embedded::open(folder.path(), options).map(|(_, keeper)| keeper);
    let keeper = open(options()).unwrap();
    assert!(matches!(open(options()), Err(StoreError::Invalid(why)) if why.contains("in use")));
    keeper.close().unwrap();
    for wrong in [
        Options { shards_count: 0, ..options() },
        Options { shards_count: 1025, ..options() },
        Options { segment_bytes: 0, ..options() },
        Options { merge_count: 0, ..options() },
        Options { queue_count: 0, ..options() },
    ] {
        assert!(matches!(open(wrong), Err(StoreError::Invalid(_))));
    }
    std::fs::write(folder.path().join("index.redb"), b"not a database at all").unwrap();
    assert!(open(options()).is_err());
    let nowhere = folder.path().join("missing");
    assert!(matches!(Embedded::open(&nowhere, options()), Err(StoreError::Io(_))));
}

#[test]
fn a_folder_keeps_the_length_of_segments_that_it_was_made_with() {
    let folder = TempDir::new().unwrap();
    let mut log = ShardLog::new(0);
    let message = log.message(&[MailboxId(1)], 1000, 20);
    let live = |store: &Embedded| wait(store.live_bytes(ShardId(0))).unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    deliver(&store, &message);
    let before = live(&store);
    assert!(before.len() > 1, "it lies in two segments");
    keeper.close().unwrap();
    for factor in [2, 64] {
        let other = Options { segment_bytes: factor * SEGMENT_BYTES, ..options() };
        let (store, keeper) = Embedded::open(folder.path(), other).unwrap();
        assert_eq!(store.segment_bytes(), SEGMENT_BYTES);
        let copy = log.message(&[MailboxId(2)], 1000, 20);
        deliver(&store, &copy);
        let maildrop = wait(store.open(MailboxId(2))).unwrap();
        wait(store.close(maildrop, vec![Uid(factor as u32 / 2), Uid(1), Uid(2)])).unwrap();
        assert_eq!(live(&store), before, "it counts by the old length");
        keeper.close().unwrap();
    }
}

#[test]
fn after_the_end_everything_is_refused_and_nothing_hangs() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let maildrop = wait(store.open(MailboxId(1))).unwrap();
    keeper.close().unwrap();
    assert!(store.committed(ShardLog::new(0).message(&[MailboxId(1)], 9, 0)).is_err());
    assert!(matches!(wait(store.open(MailboxId(1))), Err(StoreError::Io(_))));
    assert!(wait(store.close(maildrop, vec![Uid(1)])).is_err());
    assert!(wait(store.persist()).is_err());
    // A message that nobody keeps was not stored: the folder opens again.
    let (store, _keeper) = Embedded::open(folder.path(), options()).unwrap();
    assert!(ids(&store, 1).is_empty());
}

#[test]
fn a_table_file_that_fails_poisons() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mut log = ShardLog::new(0);
    for _ in 0..2000 {
        deliver(&store, &log.message(&[MailboxId(1), MailboxId(2)], 100, 0));
    }
    let maildrop = wait(store.open(MailboxId(1))).unwrap();
    wait(store.persist()).unwrap();
    keeper.close().unwrap();
    let options = Options { cache_bytes: 0, ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    // The pages that hold the rows are gone: reading them is an error of the machine.
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join("index.redb"));
    file.unwrap().set_len(8192).unwrap();
    let uids = maildrop.messages().iter().map(|message| message.uid).collect();
    assert!(wait(store.close(maildrop, uids)).is_err());
    let poisoned = |outcome| matches!(outcome, Err(StoreError::Poisoned { .. }));
    assert!(poisoned(wait(store.persist())));
    assert!(poisoned(wait(store.usage(MailboxId(1))).map(|_| ())));
    assert!(store.committed(log.message(&[MailboxId(1)], 9, 0)).is_err());
    assert!(poisoned(keeper.close()));
}

/// Where the child of `a_killed_process_loses_nothing` works.
const CHILD_FOLDER: &str = "FSMTP_TEST_INDEX_FOLDER";
const CHILD: &str = "mailbox::embedded::tests::child_that_is_killed";

fn child_options() -> Options {
    let merge_after = Duration::from_millis(2);
    Options { merge_count: 50, merge_after, nap: Duration::from_millis(1), ..options() }
}

/// Message `n` is for mailboxes 1 and 2 + n % 5; the log is the same in each process.
fn log_of(messages_count: usize) -> ShardLog {
    let mut log = ShardLog::new(0);
    for n in 0..messages_count {
        log.message(&[MailboxId(1), MailboxId(2 + n as u64 % 5)], 300, u64::from(n % 7 == 0));
    }
    log
}

/// Not a test of its own: delivers and deletes until it is killed, and says what is done.
#[test]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let (store, _keeper) = Embedded::open(folder.as_ref(), child_options()).unwrap();
    let log = log_of(100_000);
    for (n, message) in log.replay(store.mark(ShardId(0))).enumerate() {
        deliver(&store, message);
        if n % 20 == 19 {
            let maildrop = wait(store.open(MailboxId(1))).unwrap();
            let gone: Vec<Message> = maildrop.messages().iter().step_by(2).copied().collect();
            let mut out = std::io::stdout().lock();
            let say = |word: &str, out: &mut std::io::StdoutLock<'_>| {
                let list: Vec<String> = gone.iter().map(|message| message.id.to_string()).collect();
                writeln!(out, "{word} {}", list.join(" ")).unwrap();
                out.flush().unwrap();
            };
            say("deleting", &mut out);
            wait(store.close(maildrop, gone.iter().map(|message| message.uid).collect())).unwrap();
            say("deleted", &mut out);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let log = log_of(100_000);
    let mut deleted: BTreeSet<QueueId> = BTreeSet::new();
    let mut doubtful: BTreeSet<QueueId> = BTreeSet::new();
    for lines_count in [3, 10, 31, 64, 101] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.filter(|line| line.starts_with("delet"));
        for (count, line) in said.enumerate() {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let done = words.next() == Some("deleted");
            let ids = words.map(|word| word.parse::<QueueId>().unwrap());
            if done {
                deleted.extend(ids);
                doubtful.clear();
            } else {
                doubtful.extend(ids);
            }
            if count == lines_count {
                // What it says after this was said before it died.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        audit(&folder, &log, &mut deleted, &doubtful);
        doubtful.clear();
    }
    assert!(deleted.len() > 500, "{}", deleted.len());
}

/// Every message is where it belongs exactly once, apart from those that were deleted.
fn audit(
    folder: &TempDir,
    log: &ShardLog,
    deleted: &mut BTreeSet<QueueId>,
    doubtful: &BTreeSet<QueueId>,
) {
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mark = store.mark(ShardId(0));
    let all: Vec<&Committed> = log.replay(Lsn(0)).collect();
    // Replay a little, as the spool would; what is missing must not be behind the mark.
    let count = all.iter().filter(|message| message.end <= mark).count() + 30;
    for message in log.replay(mark).take(30) {
        deliver(&store, message);
    }
    let found = ids(&store, 1);
    let unique: BTreeSet<QueueId> = found.iter().copied().collect();
    assert_eq!(unique.len(), found.len(), "nothing twice");
    let mut gone_count = 0;
    for message in &all[..count] {
        let there = unique.contains(&message.id);
        if deleted.contains(&message.id) {
            assert!(!there, "a deleted message came back");
        } else if !there {
            assert!(doubtful.contains(&message.id), "a message was lost");
            gone_count += 1;
        }
    }
    assert!(gone_count == 0 || doubtful.iter().all(|id| !unique.contains(id)), "all or none");
    if gone_count > 0 {
        deleted.extend(doubtful);
    }
    let mut others: BTreeMap<u64, Vec<QueueId>> = BTreeMap::new();
    let mut live_bytes = 0;
    for (n, message) in all[..count].iter().enumerate() {
        others.entry(2 + n as u64 % 5).or_default().push(message.id);
        live_bytes += 300 + message.chunks.len() as u64 * CHUNK_BYTES;
    }
    for (mailbox, expected) in others {
        assert_eq!(ids(&store, mailbox), expected);
    }
    let live = wait(store.live_bytes(ShardId(0))).unwrap();
    assert_eq!(live.values().sum::<u64>(), live_bytes);
    keeper.close().unwrap();
}
