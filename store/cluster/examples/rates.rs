//! What the bridge costs beside the bare driver: messages a second, and time of this process's
//! processors, for the same bodies with the same number of them under way.
//!
//! ```text
//! export FSMTP_CASSANDRA=127.0.0.1:19042
//! cargo run --profile fast -p fsmtp-cluster --example rates -- 20000
//! ```
//!
//! Makes a keyspace of its own and drops it. The driver alone is measured twice: with the bodies,
//! and with a row in `messages` behind each, as the bridge does it. For people; nothing runs it.
#![allow(clippy::unwrap_used)] // WHY: what cannot be measured shall say so
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // WHY: it looks at the clock

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fsmtp_cluster::bridge::{Bridge, Delivery};
use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_cluster::schema::Replication;
use fsmtp_rt::UnixTime;
use fsmtp_store::spool::Recipient;
use fsmtp_store::{MailboxId, QueueId, ShardId};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::{Builder, Runtime};

const BODY_BYTES: usize = 4096;
const UNDER_WAY: usize = 512;
const MAILBOXES: u64 = 1000;

fn main() {
    let server = std::env::var("FSMTP_CASSANDRA").expect("FSMTP_CASSANDRA names a server");
    let count = std::env::args().nth(1).map_or(20_000, |count| count.parse().unwrap());
    let terms = Terms {
        contacts: vec![server],
        keyspace: format!("fsmtp_rates_{}", std::process::id()),
        replication: Replication::Simple(1),
        centre: None,
        login: None,
        timeout: Duration::from_secs(30),
    };
    perform(Task::Create, &terms, false).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (bridge, keeper) = Bridge::start(&terms, "rates", now).unwrap();
    let bare = Arc::new(runtime.block_on(Bare::new(&terms)));
    // What the server does for the first time is nobody's.
    for (round, count) in [count / 10, count, count].into_iter().enumerate() {
        println!("round {round}, {count} messages");
        let next = Arc::clone(&bare);
        run(&runtime, "driver, bodies", count, move |id| {
            let bare = Arc::clone(&next);
            async move { bare.body(id).await }
        });
        let next = Arc::clone(&bare);
        run(&runtime, "driver, bodies and rows", count, move |id| {
            let bare = Arc::clone(&next);
            async move {
                bare.body(id).await;
                bare.row(id).await;
            }
        });
        let next = bridge.clone();
        run(&runtime, "bridge", count, move |id| {
            let bridge = next.clone();
            async move {
                let recipients = vec![Recipient { mailbox: mailbox(id), key: None }];
                let delivery = Delivery { id, octets: 4000, data: body(id), recipients };
                bridge.deliver(delivery).await.unwrap();
            }
        });
    }
    drop(keeper);
    let cassandra = Cassandra::connect(&terms).unwrap();
    cassandra.run(&format!("DROP KEYSPACE {}", terms.keyspace)).unwrap();
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime::from_ms(u64::try_from(since.as_millis()).unwrap())
}

const fn mailbox(id: QueueId) -> MailboxId {
    MailboxId(id.0 % MAILBOXES)
}

fn body(id: QueueId) -> Vec<u8> {
    let mut state = id.0 | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..BODY_BYTES).map(|_| next()).collect()
}

/// Delivers `count` messages, some at a time, and says what it took.
fn run<F>(
    runtime: &Runtime,
    what: &str,
    count: u64,
    deliver: impl Fn(QueueId) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let first = QueueId::first(now().ms(), ShardId(0)).0;
    let (deliver, done) = (Arc::new(deliver), Arc::new(AtomicU64::new(0)));
    let (began, before) = (Instant::now(), cpu_ms());
    runtime.block_on(async {
        let worker = |_| {
            let (deliver, done) = (Arc::clone(&deliver), Arc::clone(&done));
            tokio::spawn(async move {
                loop {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    deliver(QueueId(first + number)).await;
                }
            })
        };
        let workers: Vec<_> = (0..UNDER_WAY).map(worker).collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_ms() - before);
    let (rate, each) = (count as f64 / took, cpu as f64 * 1000.0 / count as f64);
    println!("{what:>24}: {rate:8.0} messages/s, {each:6.1} us of a processor for each");
}

/// What this process has used of processors.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    // The 14th and 15th field, in ticks of 10 ms.
    rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

/// The driver alone.
struct Bare {
    session: Session,
    body: PreparedStatement,
    row: PreparedStatement,
}

impl Bare {
    async fn new(terms: &Terms) -> Self {
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .request_timeout(Some(terms.timeout))
            .build();
        let session = SessionBuilder::new()
            .known_nodes(&terms.contacts)
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await
            .unwrap();
        let keyspace = &terms.keyspace;
        let body = format!("INSERT INTO {keyspace}.bodies (id, chunk, data) VALUES (?, 0, ?)");
        let row = format!(
            "INSERT INTO {keyspace}.messages (mailbox, week, id, octets) VALUES (?, ?, ?, ?)"
        );
        let body = session.prepare(body).await.unwrap();
        let row = session.prepare(row).await.unwrap();
        Self { session, body, row }
    }

    async fn body(&self, id: QueueId) {
        let values = (id.0.cast_signed(), body(id));
        self.session.execute_unpaged(&self.body, values).await.unwrap();
    }

    async fn row(&self, id: QueueId) {
        let week = (id.0 >> 22) / (7 * 24 * 3_600_000);
        let week = i32::try_from(week).unwrap();
        let values = (mailbox(id).0.cast_signed(), week, id.0.cast_signed(), 4000_i64);
        self.session.execute_unpaged(&self.row, values).await.unwrap();
    }
}
