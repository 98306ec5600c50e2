//! What a message costs on its way into Cassandra, beside a bare insert of the same bytes:
//!
//!     cargo run --profile fast -p fsmtp-cluster --example rate -- 127.0.0.1:9042
//!
//! Behind the server may stand how many messages (20,000) and how many bytes each (4,096).
//!
//! Five rounds, in each both in turn: messages for one of 1,000 mailboxes each, sealed, through the
//! bridge; the same number of rows of as many bytes by the driver alone, with as many under way at
//! one time. Prints the medians of messages a second and of this process's processor time for
//! each, and the ratios. The keyspace `fsmtp_rate` is made and dropped. Status 1 when it fails.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: it is no part of the store

use std::sync::Arc;
use std::time::{Duration, Instant};

use fsmtp_cluster::bridge::Bridge;
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_cluster::schema::Replication;
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::Delivery;
use fsmtp_store::seal::{RsaBits, Sealer, UserKeys, Window};
use fsmtp_store::spool::{Recipient, RecipientKey};
use fsmtp_store::{MailboxId, NodeNumber, QueueId, ShardId};
use scylla::client::session_builder::SessionBuilder;
use tokio::task::JoinSet;

const MAILBOXES: u64 = 1000;
const UNDER_WAY: usize = 256;
const ROUNDS: usize = 5;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What a stretch of work took.
struct Took {
    wall: Duration,
    cpu: Duration,
}

/// The processor time of this process, in steps of 10 ms.
fn cpu() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind = stat.rsplit(')').next().ok_or("an odd /proc/self/stat")?;
    let ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn timed(work: impl Future<Output = Result<(), Failed>>) -> Result<Took, Failed> {
    let (begun, before) = (Instant::now(), cpu()?);
    work.await?;
    Ok(Took { wall: begun.elapsed(), cpu: cpu()?.saturating_sub(before) })
}

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let contact = args.next().ok_or("which server? HOST:PORT [MESSAGES]")?;
    let count: u64 = args.next().map_or(Ok(20_000), |count| count.parse())?;
    let octets: usize = args.next().map_or(Ok(4096), |octets| octets.parse())?;
    let terms = Terms {
        contacts: vec![contact],
        keyspace: "fsmtp_rate".into(),
        replication: Replication::Simple(1),
        centre: None,
        login: None,
        redis: None,
        timeout: Duration::from_secs(20),
    };
    let drop_it = "DROP KEYSPACE IF EXISTS fsmtp_rate";
    Cassandra::connect(&terms)?.run(drop_it)?;
    perform(Task::Create, &terms, false)?;
    let (bridge, keeper) = Bridge::start(&terms, "rate", now, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(measure(&terms, &bridge, (count, octets)));
    drop(keeper);
    Cassandra::connect(&terms)?.run(drop_it)?;
    outcome
}

async fn measure(
    terms: &Terms,
    bridge: &Bridge,
    (count, octets): (u64, usize),
) -> Result<(), Failed> {
    let recipients = Arc::new(recipients()?);
    let mut id = QueueId::first(now_ms(), ShardId(0));
    let node = NodeNumber::new(1).ok_or("a number")?;
    let mut next = || {
        id = id.next_on(node, now_ms());
        id
    };
    // Everything once, so that windows and weeks are there as after the first minutes.
    let warm: Vec<QueueId> = (0..MAILBOXES).map(|_| next()).collect();
    deliver(bridge, &recipients, warm, octets).await?;
    let session = SessionBuilder::new().known_nodes(&terms.contacts).build().await?;
    let insert = "INSERT INTO fsmtp_rate.bodies (id, chunk, data) VALUES (?, 7, ?)";
    let insert = Arc::new((session.prepare(insert).await?, session));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ids: Vec<QueueId> = (0..count).map(|_| next()).collect();
        ours.push(timed(deliver(bridge, &recipients, ids.clone(), octets)).await?);
        bare.push(timed(rows(&insert, ids, octets)).await?);
    }
    let (ours, bare) = (Shown::new(&ours, count), Shown::new(&bare, count));
    println!("{:<8} {:>12} {:>14}", "", "messages/s", "CPU each, us");
    println!("{:<8} {:>12.0} {:>14.1}", "bridge", ours.rate, ours.cpu_us);
    println!("{:<8} {:>12.0} {:>14.1}", "bare", bare.rate, bare.cpu_us);
    println!("ratio    {:>12.2} {:>14.2}", ours.rate / bare.rate, ours.cpu_us / bare.cpu_us);
    Ok(())
}

/// The medians of rounds.
struct Shown {
    rate: f64,
    cpu_us: f64,
}

impl Shown {
    fn new(rounds: &[Took], count: u64) -> Self {
        let median = |of: fn(&Took) -> Duration| {
            let mut all: Vec<f64> = rounds.iter().map(|took| of(took).as_secs_f64()).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let count = count as f64;
        Self {
            rate: count / median(|took| took.wall),
            cpu_us: median(|took| took.cpu) * 1e6 / count,
        }
    }
}

fn now() -> UnixTime {
    UnixTime::from_ms(now_ms())
}

#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it is no part of the store"
)]
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// One recipient of each mailbox, with a window and a wrap.
fn recipients() -> Result<Vec<Recipient>, Failed> {
    let mut next = 1_u8;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(167).wrapping_add(91);
            *byte = next;
        }
    };
    let (_, owner) = UserKeys::generate(MailboxId(1), RsaBits::B2048, &mut random)?;
    let id = QueueId(5);
    let sealer = Sealer::begin(id, &mut random);
    let mut all = Vec::new();
    for mailbox in (1..=MAILBOXES).map(MailboxId) {
        let (window, record) = Window::begin_under(mailbox, &owner, &mut random)?;
        let wrap = window.wrap(sealer.content_key(), id)?;
        all.push(Recipient { mailbox, key: Some(RecipientKey { wrap, window: record.into() }) });
    }
    Ok(all)
}

async fn deliver(
    bridge: &Bridge,
    recipients: &Arc<Vec<Recipient>>,
    ids: Vec<QueueId>,
    octets: usize,
) -> Result<(), Failed> {
    each(ids, |id| {
        let (bridge, recipients) = (bridge.clone(), Arc::clone(recipients));
        async move {
            let place = (id.0 >> 7) % MAILBOXES;
            let to = recipients.get(place as usize).cloned().ok_or("a recipient")?;
            let (first, recipients) = (vec![b'x'; octets], vec![to]);
            bridge.deliver(Delivery { id, octets: octets as u64, first, recipients }).await?;
            Ok(())
        }
    })
    .await
}

type Insert = (scylla::statement::prepared::PreparedStatement, scylla::client::session::Session);

async fn rows(insert: &Arc<Insert>, ids: Vec<QueueId>, octets: usize) -> Result<(), Failed> {
    each(ids, |id| {
        let insert = Arc::clone(insert);
        async move {
            let values = (id.0.cast_signed(), vec![b'x'; octets]);
            insert.1.execute_unpaged(&insert.0, values).await?;
            Ok(())
        }
    })
    .await
}

/// Does something for each name, as many at one time as [`UNDER_WAY`].
async fn each<F>(ids: Vec<QueueId>, work: impl Fn(QueueId) -> F) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>> + Send + 'static,
{
    let mut under_way = JoinSet::new();
    for id in ids {
        if under_way.len() >= UNDER_WAY
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        under_way.spawn(work(id));
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}
