//! The node under test: the engine's own shards, booted, crashed and booted again, on one disk and
//! one index.
//!
//! The one place of the harness that knows how a shard is started.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_engine::accept::{Door, Service, accept};
use fsmtp_engine::admit::{Admission, Limits};
use fsmtp_engine::config::{self, Durability};
use fsmtp_engine::log::{Format, Level, Sink};
use fsmtp_engine::relay::{self, routes::Routes};
use fsmtp_engine::resolver::Resolver;
use fsmtp_engine::shard::{Offload, PasswordCheck, Shard};
use fsmtp_engine::signin::{self, Gate};
use fsmtp_engine::start::{Parts, adopt, drain, shards_on_disk, start};
use fsmtp_engine::strangers::Strangers;
use fsmtp_engine::verify::Settings;
use fsmtp_proto::access::Access;
use fsmtp_proto::sasl::{Mechanism, Mechanisms};
use fsmtp_proto::{pop3, smtp};
use fsmtp_rt::sim::{Counts, Crash, DiskId, HostId, SimDisk, SimRuntime, World};
use fsmtp_rt::{Class, Runtime, UnixTime};
use fsmtp_store::directory::{Change, Opened};
use fsmtp_store::mailbox::{Found, Mailboxes, Registry, wait};
use fsmtp_store::queue::Terms;
use fsmtp_store::seal::MailboxKey;
use fsmtp_store::spool::{Reader, SpoolConfig};
use fsmtp_store::{MailboxId, QueueId, ShardId, StoreError};

use crate::client::ACCOUNTS;
use crate::index::Index;
use crate::keys;
use crate::plan::Plan;

/// The port at which every shard takes mail.
const SMTP_PORT: u16 = 25;

/// The port at which every shard takes it from users.
const SUBMISSION_PORT: u16 = 587;

/// The port at which every shard gives it out.
const POP3_PORT: u16 = 110;

/// The password of every account.
pub(crate) const PASSWORD: &str = "secret";

/// Who submits mail; an account beside those that get some.
pub(crate) const SENDER: &str = "sender";

/// The node's domain.
pub(crate) const DOMAIN: &str = "example.test";

/// What a shard listens with.
const LISTENERS: usize = 3;

/// How often a message may move while it is read; nothing is left to move it that often.
const MOVES_MAX: u32 = 20;

/// How long sessions have after SIGTERM.
pub(crate) const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// What clients may know of the node.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Where its shards take mail.
    pub(crate) smtp: RefCell<Vec<SocketAddr>>,
    /// Where they take it from users.
    pub(crate) submission: RefCell<Vec<SocketAddr>>,
    /// Where they give it out.
    pub(crate) pop3: RefCell<Vec<SocketAddr>>,
    /// How often it has crashed: a dialogue that spans a crash proves nothing.
    pub(crate) crashes: Cell<u64>,
    /// Whether it drains: it may say goodbye to everybody.
    pub(crate) draining: Cell<bool>,
}

impl View {
    /// Whether the node may end a dialogue that began after so many crashes.
    pub(crate) fn falls(&self, crashes: u64) -> bool {
        self.crashes.get() != crashes || self.draining.get()
    }
}

/// A message in a mailbox.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The number of the account.
    pub(crate) account: u32,
    /// Its name.
    pub(crate) id: QueueId,
    /// All of its bytes, trace headers included.
    pub(crate) bytes: Vec<u8>,
}

type SimShard = Rc<Shard<SimRuntime, Index>>;

/// Why a shard could not start, and the shards that could.
#[derive(Debug, Default)]
struct Life {
    shards: Vec<SimShard>,
    failed: Option<StoreError>,
    drained: usize,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    hosts: Vec<HostId>,
    disk: DiskId,
    plan: Rc<Plan>,
    index: Index,
    life: Rc<RefCell<Life>>,
    /// Shards of this life: the first ones.
    shards: usize,
    /// The mailbox of each account.
    mailboxes: Vec<MailboxId>,
    /// The name server, when mail is sent on.
    pub(crate) names: Option<SocketAddr>,
    /// How it checks mail, if it does.
    pub(crate) verify: Option<Arc<Settings>>,
    /// For clients.
    pub(crate) view: Rc<View>,
}

impl Node {
    /// A node on an empty disk, with its accounts; it does not run.
    pub(crate) fn new(world: &mut World, seed: u64, plan: &Rc<Plan>) -> Self {
        let hosts: Vec<HostId> = (0..plan.shards).map(|_| world.host()).collect();
        let disk = world.disk();
        let index = Index::new(plan, seed);
        let mailboxes =
            populate(&index, plan.sealed).expect("an empty directory takes a few accounts");
        let (plan, shards) = (Rc::clone(plan), plan.shards);
        let (life, view) = (Rc::default(), Rc::default());
        Self { hosts, disk, plan, index, life, shards, mailboxes, names: None, verify: None, view }
    }

    /// Starts so many shards, which listen when all of them have recovered. The logs of others that
    /// are on the disk are adopted by these.
    pub(crate) fn boot(&mut self, world: &mut World, shards: usize) {
        self.shards = shards;
        let (mut smtp, mut submission, mut pop3) = (Vec::new(), Vec::new(), Vec::new());
        let names: Vec<String> = world.files(self.disk).into_iter().map(|file| file.0).collect();
        let found = shards_on_disk(&names);
        for (number, host) in self.hosts.iter().enumerate().take(shards) {
            let rt = world.start(*host);
            smtp.push(rt.address(SMTP_PORT));
            submission.push(rt.address(SUBMISSION_PORT));
            pop3.push(rt.address(POP3_PORT));
            let id = ShardId(u16::try_from(number).expect("a node has few shards"));
            let orphans = found.iter().copied().filter(|shard| {
                let shard = usize::from(shard.0);
                shard >= shards && shard % shards == number
            });
            let boot = Boot {
                rt: rt.clone(),
                disk: rt.disk(self.disk),
                id,
                orphans: orphans.collect(),
                plan: Rc::clone(&self.plan),
                index: self.index.clone(),
                verify: self.verify.clone(),
            };
            let (life, plan, names) = (Rc::clone(&self.life), Rc::clone(&self.plan), self.names);
            rt.spawn(Class::Background, async move {
                let booted = boot.run().await;
                let mut life = life.borrow_mut();
                match booted {
                    Ok(shard) => life.shards.push(shard),
                    Err(error) => life.failed = Some(error),
                }
                if life.shards.len() == shards {
                    life.shards.iter().for_each(|shard| listen(&plan, shard, names));
                }
            });
        }
        *self.view.smtp.borrow_mut() = smtp;
        *self.view.submission.borrow_mut() = submission;
        *self.view.pop3.borrow_mut() = pop3;
    }

    /// Ends all shards at once.
    pub(crate) fn crash(&mut self, world: &mut World, crash: Crash) {
        self.view.crashes.set(self.view.crashes.get() + 1);
        self.view.draining.set(false);
        let life = self.life.take();
        for host in &self.hosts {
            world.kill(*host, crash);
        }
        drop(life);
        self.index = self.index.crash();
    }

    /// A bit of some page on the disk flips.
    pub(crate) fn rot(&self, world: &mut World) {
        world.flip_any(self.disk);
    }

    /// Whether all shards listen.
    pub(crate) fn ready(&self) -> bool {
        self.life.borrow().shards.len() == self.shards
    }

    /// Begins to drain all shards, as at SIGTERM.
    pub(crate) fn drain(&self) {
        // What clients see from here on is the end, as with a crash.
        self.view.crashes.set(self.view.crashes.get() + 1);
        self.view.draining.set(true);
        for shard in &self.life.borrow().shards {
            let (inner, life) = (Rc::clone(shard), Rc::clone(&self.life));
            shard.rt.spawn(Class::Background, async move {
                drain(&inner, DRAIN_PATIENCE).await;
                life.borrow_mut().drained += 1;
            });
        }
    }

    /// Whether all shards have drained.
    pub(crate) fn drained(&self) -> bool {
        self.life.borrow().drained == self.shards
    }

    /// Why a shard could not start, if one could not.
    pub(crate) fn failed(&self) -> Option<StoreError> {
        self.life.borrow().failed.clone()
    }

    /// Sessions that are open.
    pub(crate) fn sessions(&self) -> usize {
        // Each listener of a shard counts as one that takes part in the drain.
        let life = self.life.borrow();
        life.shards.iter().map(|shard| shard.drain.sessions().saturating_sub(LISTENERS)).sum()
    }

    /// What waits to be sent on.
    pub(crate) fn queued(&self) -> Vec<String> {
        let mut queued = Vec::new();
        for shard in &self.life.borrow().shards {
            let queue = shard.outbound.queue.borrow();
            queued.extend(queue.list(None, shard.rt.unix()).map(|one| format!("{one:?}")));
        }
        queued
    }

    /// Sessions that ended by a panic in this life.
    pub(crate) fn panics(&self) -> u64 {
        let life = self.life.borrow();
        life.shards.iter().map(|shard| shard.counters.sessions_panicked.get()).sum()
    }

    /// What its shards have done at the seam, all lives in sum.
    pub(crate) fn counts(&self, world: &World) -> Counts {
        self.hosts.iter().fold(Counts::default(), |sum, host| {
            let one = world.counts(*host);
            Counts {
                sends: sum.sends + one.sends,
                receives: sum.receives + one.receives,
                writes: sum.writes + one.writes,
                reads: sum.reads + one.reads,
                ..sum
            }
        })
    }

    /// Records that compaction moved, and segments that it gave back, in this life.
    pub(crate) fn compacted(&self) -> (u64, u64) {
        let life = self.life.borrow();
        life.shards.iter().fold((0, 0), |(moved, recycled), shard| {
            let counters = shard.spool.counters();
            (moved + counters.moved_count, recycled + counters.recycled_count)
        })
    }

    /// Copies of message bytes that its spools have counted in this life.
    pub(crate) fn copies(&self) -> u64 {
        let life = self.life.borrow();
        life.shards.iter().map(|shard| shard.spool.counters().copies_count).sum()
    }

    /// Ends the faults that are its own.
    pub(crate) fn calm(&self) {
        self.index.calm();
    }

    /// All that is in the mailboxes, read by `rt`; what cannot be read is an error.
    /// With `rotten`, those that cannot be read are left out.
    pub(crate) fn deliveries(
        &self,
        rt: SimRuntime,
        rotten: bool,
    ) -> impl Future<Output = Read> + 'static {
        let mut reader = Reader::new(rt.disk(self.disk), self.plan.layout.segment_bytes);
        let (index, mailboxes) = (self.index.clone(), self.mailboxes.clone());
        async move {
            let mut found = Vec::new();
            for (account, mailbox) in (0..).zip(mailboxes) {
                let maildrop = index.open(mailbox).await?;
                let key = index.directory().owner(mailbox).and_then(|account| keys::open(account));
                for message in maildrop.messages() {
                    let id = message.id;
                    let place = index.find(mailbox, *message).await?;
                    match read(&mut reader, &index, place, key.as_ref()).await {
                        Ok(bytes) => found.push(Delivery { account, id, bytes }),
                        Err(_) if rotten => {}
                        Err(error) => {
                            let why = format!("message {id} of u{account}: {error}");
                            return Err(StoreError::Invalid(why));
                        }
                    }
                }
            }
            Ok(found)
        }
    }
}

/// What reading all mailboxes gives.
pub(crate) type Read = Result<Vec<Delivery>, StoreError>;

/// Reads one message, which may move meanwhile.
async fn read(
    reader: &mut Reader<SimDisk>,
    index: &Index,
    Found { body, key }: Found,
    mailbox_key: Option<&MailboxKey>,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let mut moves = 0;
    let id = body.id();
    match (key, mailbox_key) {
        (None, _) => reader.open(body),
        (Some(key), Some(mailbox_key)) => {
            let opened = key.window.open(mailbox_key).and_then(|open| open.open(&key.wrap, id));
            let content = opened.map_err(|error| StoreError::Invalid(error.to_string()))?;
            reader.open_sealed(body, &content);
        }
        (Some(_), None) => return Err(StoreError::Invalid("nobody can open it".into())),
    }
    loop {
        match reader.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes),
            Err(StoreError::Moved) if moves < MOVES_MAX => {
                moves += 1;
                reader.relocate(index.locate(id).await?)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes the domain and its accounts `u0`, `u1`, ...
fn populate(index: &Index, sealed: bool) -> Result<Vec<MailboxId>, StoreError> {
    wait(index.change(Change::AddDomain { domain: DOMAIN.into() }))?;
    let mut mailboxes = Vec::new();
    let names = (0..ACCOUNTS).map(|number| format!("u{number}")).chain([SENDER.to_owned()]);
    for (name, number) in names.zip(0..) {
        let address = format!("{name}@{DOMAIN}");
        let directory = wait(index.change(Change::AddAccount {
            address: address.clone(),
            name: String::new(),
            lock: keys::lock(index.directory().next_mailbox(), sealed && number > 0)?,
            created: UnixTime::default(),
        }))?;
        mailboxes.extend(directory.account(&address).map(|account| account.mailbox));
    }
    Ok(mailboxes)
}

/// Opens a shard's listeners; done when all shards have recovered, as `run.rs` does.
fn listen(plan: &Plan, shard: &SimShard, names: Option<SocketAddr>) {
    let limits = Limits {
        connections_max: plan.connections_max,
        connections_per_address_max: plan.connections_max,
    };
    let smtp = |access: Access| {
        let limits = smtp::server::Limits {
            message_bytes_max: plan.message_bytes_max,
            ..smtp::server::Limits::default()
        };
        let settings = smtp::server::Settings::new("sim", limits);
        let settings = settings.and_then(|settings| settings.with_access(access));
        Service::Smtp(Rc::new(settings.expect("a plan's limits are sound")), Durability::Fsync)
    };
    let users = Access {
        submission: true,
        mechanisms: Mechanisms::NONE.with(Mechanism::Plain),
        clear_auth_allowed: true,
        ..Access::default()
    };
    let (submission, smtp) = (smtp(users), smtp(Access::default()));
    let pop3 = Service::Pop3(Rc::new(pop3::Settings {
        node: "sim".into(),
        idle: Duration::from_secs(600),
        access: Access { clear_auth_allowed: true, ..Access::default() },
    }));
    let services: [_; LISTENERS] =
        [(SMTP_PORT, smtp), (SUBMISSION_PORT, submission), (POP3_PORT, pop3)];
    for (port, service) in services {
        let (inner, admission) = (Rc::clone(shard), Admission::new(limits));
        let door = Rc::new(Door::clear(service));
        shard.rt.spawn(Class::Accept, accept(inner, shard.rt.listen(port), door, admission));
    }
    if let Some(server) = names {
        let timeout = Duration::from_secs(2);
        let config = config::Resolver { servers: vec![server], timeout, dnssec_trusted: false };
        relay::start(shard, Resolver::new(shard.rt.clone(), &config), None);
    }
}

/// A check that costs next to nothing: the hashes of the simulation are cheap.
fn check_password() -> PasswordCheck {
    Rc::new(|account, password| {
        let opened = account.map(|account| account.lock.open(account.mailbox, &password));
        Box::pin(async move { Ok(opened.unwrap_or(Opened::Wrong)) })
    })
}

/// Work for helper threads, done at once.
fn helpers() -> Offload {
    Rc::new(|job| {
        job();
        Ok(())
    })
}

/// One life of one shard.
struct Boot {
    rt: SimRuntime,
    disk: SimDisk,
    id: ShardId,
    /// Whose logs it adopts.
    orphans: Vec<ShardId>,
    plan: Rc<Plan>,
    index: Index,
    verify: Option<Arc<Settings>>,
}

impl Boot {
    async fn run(self) -> Result<SimShard, StoreError> {
        let parts = self.parts();
        let mark = self.index.mark(self.id).await?;
        let shard = start(parts, self.layout(self.id), mark).await?;
        for orphan in &self.orphans {
            let mark = self.index.mark(*orphan).await?;
            adopt(&shard, self.layout(*orphan), mark).await?;
        }
        let queues = core::iter::once(self.id).chain(self.orphans.iter().copied());
        relay::restore(&shard, queues).await?;
        Ok(shard)
    }

    fn layout(&self, shard: ShardId) -> SpoolConfig {
        SpoolConfig { shard, ..self.plan.layout.clone() }
    }

    fn parts(&self) -> Parts<SimRuntime, Index> {
        let never = signin::Limits {
            address_failures_max: u32::MAX,
            account_failures_max: u32::MAX,
            recipients_per_hour: 0,
        };
        let sending = relay::Plan {
            terms: Terms {
                pauses: "5s,20s*3,60s".parse().expect("a schedule"),
                expiry: Duration::from_secs(self.plan.expiry_s),
                delay_notice: self.plan.notice_s.map(Duration::from_secs),
                ..Terms::default()
            },
            limits: relay::Limits {
                // In worlds with few connections there are few to other servers, too.
                connections_max: self.plan.connections_max.min(20),
                ..relay::Limits::default()
            },
            routes: Arc::new(Routes::new(false)),
            mx_port: 25,
            sts_port: None,
            own_ports: Vec::new(),
        };
        Parts {
            rt: self.rt.clone(),
            disk: self.disk.clone(),
            mailboxes: self.index.clone(),
            directory: self.index.directory(),
            check_password: check_password(),
            helpers: helpers(),
            begin: keys::begin(),
            census: relay::Census::new(&sending),
            sending,
            secret: [7; 32].into(),
            shared_secret: None,
            sealing: None,
            gate: Gate::new(&[7; 32], never),
            strangers: Strangers::new(Default::default(), &[7; 32]),
            submission: Default::default(),
            verify: self.verify.clone(),
            filters: Vec::new(),
            own_domains_closed: false,
            magic: false,
            node: "sim".into(),
            domain: DOMAIN.into(),
            log: Sink::memory(Format::Json, Level::Error).0.log(Some(self.id.0)),
        }
    }
}
