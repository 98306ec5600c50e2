//! How long it takes to open a mailbox of very many messages in Cassandra, and what memory that
//! takes:
//!
//!     cargo run --profile fast -p fsmtp-cluster --example mailbox -- 127.0.0.1:9042 10000 1000000
//!
//! For each count a mailbox is filled, then opened five times, each time by a node that has just
//! started; prints the median and the longest time, and by how much this process has grown with the
//! mailbox open. The keyspace `fsmtp_mailbox` is made and dropped. With `--fill KEYSPACE COUNT` it
//! only fills mailbox 1 of a keyspace that is there, for `tests/cluster/uidl.py`. Status 1 when it
//! fails.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: it is no part of the store

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fsmtp_cluster::bridge::Bridge;
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_cluster::schema::Replication;
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Delivery, wait};
use fsmtp_store::spool::Recipient;
use fsmtp_store::{MailboxId, NodeNumber, QueueId, ShardId};
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
const UNDER_WAY: usize = 256;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::from_ms(since.map_or(0, |since| since.as_millis() as u64))
}

/// Resident memory of this process, in MiB.
fn resident() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse::<u64>()? / 1024)
}

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let contact = args.next().ok_or("which server? HOST:PORT COUNT...")?;
    let mut args = args.peekable();
    let fills = args.next_if(|arg| arg == "--fill").is_some();
    let keyspace = args.next_if(|_| fills).unwrap_or_else(|| "fsmtp_mailbox".into());
    let terms = Terms {
        contacts: vec![contact],
        keyspace,
        replication: Replication::Simple(1),
        centre: None,
        login: None,
        redis: None,
        timeout: Duration::from_secs(20),
    };
    if fills {
        let count = args.next().ok_or("how many?")?.parse()?;
        let (bridge, _keeper) = Bridge::start(&terms, "filler", now, None)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(fill(&bridge, MailboxId(1), count));
    }
    let drop_it = "DROP KEYSPACE IF EXISTS fsmtp_mailbox";
    Cassandra::connect(&terms)?.run(drop_it)?;
    perform(Task::Create, &terms, false)?;
    println!("{:>10} {:>10} {:>10} {:>8}", "messages", "median s", "longest s", "MiB");
    for (mailbox, count) in (1..).map(MailboxId).zip(args) {
        measure(&terms, mailbox, count.parse()?)?;
    }
    Cassandra::connect(&terms)?.run(drop_it)?;
    Ok(())
}

fn measure(terms: &Terms, mailbox: MailboxId, count: usize) -> Result<(), Failed> {
    let (bridge, keeper) = Bridge::start(terms, "filler", now, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(&bridge, mailbox, count))?;
    drop(keeper);
    let (mut times, mut grown) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (bridge, _keeper) = Bridge::start(terms, "reader", now, None)?;
        let (begun, before) = (Instant::now(), resident()?);
        let visit = wait(bridge.open(mailbox))?;
        times.push(begun.elapsed());
        grown = grown.max(resident()?.saturating_sub(before));
        if visit.messages().len() != count {
            return Err(format!("{} of {count} messages", visit.messages().len()).into());
        }
        wait(bridge.close(visit, Vec::new()))?;
    }
    times.sort();
    let of = |at: usize| times.get(at).map_or(f64::NAN, Duration::as_secs_f64);
    println!("{count:>10} {:>10.2} {:>10.2} {grown:>8}", of(ROUNDS / 2), of(ROUNDS - 1));
    Ok(())
}

async fn fill(bridge: &Bridge, mailbox: MailboxId, count: usize) -> Result<(), Failed> {
    let node = NodeNumber::new(1).ok_or("a number")?;
    let mut id = QueueId::first(now().ms(), ShardId(0));
    let mut under_way = JoinSet::new();
    for _ in 0..count {
        id = id.next_on(node, id.0 >> 22);
        if under_way.len() >= UNDER_WAY
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let (bridge, recipients) = (bridge.clone(), vec![Recipient { mailbox, key: None }]);
        under_way.spawn(async move {
            let delivery = Delivery { id, octets: 4096, first: vec![b'x'; 64], recipients };
            bridge.deliver(delivery).await
        });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}
