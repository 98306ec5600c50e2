//! A whole engine: threads, shards, signals, and the order in which they begin and end.
//!
//! Begins with what can fail for reasons of the machine; from then on `supervise.rs` says what
//! happens when. Ends on SIGTERM: sessions are let go, then shards, then the index, each when the
//! one before it is done.

mod aside;

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::SystemTime;

use fsmtp_cluster::bridge::{BridgeKeeper, Post};
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_rt::glommio::{GlommioRuntime, ShardOptions, processors, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{Class, PAGE_BYTES, Runtime, UnixTime};
use fsmtp_store::directory::{Change, Directory, Lock};
use fsmtp_store::mailbox::{Embedded, Keeper, Options, Registry, Relief as _, Uplink as _, wait};
use fsmtp_store::spool::{SpoolConfig, made_with_segment_bytes};
use fsmtp_store::{NodeNumber, ShardId, StoreError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use zeroize::Zeroizing;

use crate::accept::accept;
use crate::admin::StoreAdmin;
use crate::admin::import::Importer;
use crate::admin::queue::{Answer, Ask, Door, answer};
use crate::admin::reports::Rows;
use crate::cluster::{self, Membership, Succession};
use crate::config::Config;
use crate::control::{self, Admin};
use crate::dirlock::DirLock;
use crate::dmarc::collect::{Collector, Thread, Trouble};
use crate::dmarc::send;
use crate::entrance::{Entrance, certificates, entrances};
use crate::import;
use crate::keys::NodeKeys;
use crate::latest::Latest;
use crate::locks::{self, Protection};
use crate::log::{Event, Sink};
use crate::notify::Notify;
use crate::relay::{self, Census};
use crate::resolver::Resolver;
use crate::shard::{Offload, Overload, PasswordCheck, Shard};
use crate::sharing::Sharing;
use crate::signin::{self, Gate};
use crate::start::{Parts, adopt, drain, shards_on_disk, start};
use crate::strangers::Strangers;
use crate::supervise::{Happening, Life, Order, Running, say_damage, supervise};
use crate::tls::Roots;
use crate::upload;
use crate::windows::by_public_key;
pub use aside::open_to_import;

/// How long running transactions may take to finish after SIGTERM.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a command about the queue waits until what it did is durable.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4);
/// Threads that check passwords; each check is some 20 ms of one core and 19 MiB.
const HASH_THREADS: usize = 2;
/// Threads for RSA: reading mail must not wait for the passwords of strangers.
const KEY_THREADS: usize = 2;
/// Threads for file system metadata.
const FILE_THREADS: usize = 2;
/// Where the segments are, in the data folder.
const SPOOL_FOLDER: &str = "spool";
/// Where the mailbox index is.
const INDEX_FOLDER: &str = "index";

/// What the store of a data folder consists of.
struct Store {
    mailboxes: NodeMailboxes,
    number: Option<NodeNumber>,
    keeper: Keeper,
    /// The way to the cluster.
    bridge: Option<BridgeKeeper>,
    succession: Option<Succession>,
    /// Shards that have segments, whether or not they have a core.
    found: Vec<ShardId>,
}

fn open_store(config: &Config) -> Result<Store, String> {
    let spool = config.data.join(SPOOL_FOLDER);
    let index = config.data.join(INDEX_FOLDER);
    for folder in [&spool, &index] {
        fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    }
    let found = shards_on_disk(&names(&spool)?);
    let mut options = Options::new(config.cores);
    // Counts when the folder is made; an old one keeps what it was made with.
    options.segment_bytes = config.store.segment_bytes;
    let (local, keeper) =
        Embedded::open(&index, options).map_err(|e| format!("{}: {e}", index.display()))?;
    let Membership { mailboxes, number, bridge, succession } = cluster::join(config, local)?;
    Ok(Store { mailboxes, number, keeper, bridge, succession, found })
}

fn names(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |e| format!("cannot list {}: {e}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// The length of log files that a data folder was made with, once it has some. Changes nothing, and
/// works beside a running engine.
#[must_use]
pub fn segment_bytes_on_disk(data: &Path) -> Option<u64> {
    let spool = data.join(SPOOL_FOLDER);
    let segments = names(&spool).ok()?.into_iter().filter(|name| name.ends_with(".seg"));
    let first_page = |name: String| {
        let mut page = Vec::new();
        let file = fs::File::open(spool.join(name)).ok()?;
        file.take(PAGE_BYTES as u64).read_to_end(&mut page).ok()?;
        Some(page)
    };
    segments.filter_map(first_page).find_map(|page| made_with_segment_bytes(&page))
}

/// What is said when the configuration names another length of log files than the data folder has.
#[must_use]
pub fn segment_bytes_kept(config: &Config, kept: u64) -> Option<String> {
    let (wanted, data) = (config.store.segment_bytes, config.data.display());
    (kept != wanted).then(|| {
        format!("store.segment_bytes = {wanted} has no effect: {data} was made with {kept}")
    })
}

/// Opens the store for a command, while no engine runs on it.
///
/// # Errors
/// One line for the operator.
pub fn open(config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
    let store = open_store(config)?;
    let admin = StoreAdmin::online(store.mailboxes, &config.domain, config.store.sealing);
    let admin = admin.with_reports(Rows::Folder(config.data.clone()));
    Ok(Box::new(admin.offline(store.keeper, store.bridge, lock)))
}

/// Runs until SIGTERM.
///
/// # Errors
/// One line for the operator, when it could not start or a shard has failed.
pub fn run(config: &Config, lock: DirLock) -> Result<(), String> {
    let mut config = config.clone();
    let routes = config.sending.routes.with_passwords().map_err(|e| e.to_string())?;
    config.sending.routes = Arc::new(routes);
    let config = &config;
    // From here on signals wait for us instead of ending the process.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| format!("cannot watch for signals: {e}"))?;
    let certs = certificates(config).map_err(|e| e.to_string())?;
    let entrances = entrances(config, certs.as_ref()).map_err(|e| e.to_string())?;
    let store = open_store(config)?;
    prepare_dev(config, &store.mailboxes)?;
    if let (Some(node), Some(Succession { holder, patience, .. })) =
        (store.number, &store.succession)
    {
        let (holder, patience, shards_count) = (holder.clone(), *patience, config.cores.into());
        store.mailboxes.take_up(Post { node, holder, patience, shards_count });
    }
    let sink = Sink::stderr(config.log.format, config.log.level)
        .map_err(|e| format!("cannot start the log: {e}"))?;
    let log = sink.log(None);
    // Known before only where there were log files.
    if let Some(why) = segment_bytes_kept(config, store.mailboxes.local().segment_bytes()) {
        log.event(now(), Event::SettingIgnored, &[("why", &why)]);
    }
    let admin = StoreAdmin::online(store.mailboxes.clone(), &config.domain, config.store.sealing);
    let doors: Vec<Door> = (0..config.cores).map(|_| Door::default()).collect();
    let counted = reports(config, &sink);
    let rows = counted.as_ref().map_or(Rows::Nobody, |(way, _)| Rows::Task(way.door.clone()));
    let import = import::Door::default();
    let admin = admin.with_importer(Importer::new(&config.data, import.clone()));
    let admin = Arc::new(admin.with_doors(doors.clone()).with_reports(rows));
    let control = control::serve(&config.data, admin)
        .map_err(|e| format!("cannot serve the control socket: {e}"))?;
    let (events, inbox) = channel();
    let notify = Notify::from_env();
    let reports = counted.as_ref().map(|(way, _)| way);
    let ways = Ways { doors: &doors, import: &import, reports };
    let shards = start_shards(config, &entrances, &store, &sink, (&events, notify.beat), &ways)?;
    let life = Life::new(config, certs.as_ref(), &shards, &log, notify);
    let ended = supervise(life, signals, events, &inbox, &store.mailboxes);
    drop(control);
    let joined: Result<Vec<()>, _> = shards.into_iter().map(|shard| shard.handle.join()).collect();
    // What the shards have counted is written now.
    drop(counted);
    drop(store.bridge);
    let closed = store.keeper.close();
    say_damage(&store.mailboxes, &log);
    log.event(now(), Event::EngineStopped, &[]);
    log.flush(now());
    drop(lock);
    sink.finish();
    // A shard that could not start says why only when it is joined.
    let joined = joined.map_err(|e| e.to_string());
    ended.map_err(|why| match &joined {
        Err(error) => format!("{why}: {error}"),
        Ok(_) => why,
    })?;
    joined?;
    closed.map_err(|e| format!("the mailbox index: {e}"))
}

/// The wall clock, outside the shards.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What all shards share.
#[derive(Clone)]
struct Shared {
    gate: Arc<Gate>,
    strangers: Arc<Strangers>,
    census: Arc<Census>,
    number: Option<NodeNumber>,
    secret: Option<Zeroizing<[u8; 32]>>,
}

impl Shared {
    fn new(config: &Config, store: &Store) -> Self {
        let recipients_per_hour = config.recipients_per_hour;
        let limits = signin::Limits { recipients_per_hour, ..signin::Limits::default() };
        let secret = store.mailboxes.local().secret();
        let gate = Gate::new(secret, limits);
        let strangers = Strangers::new(config.strangers, secret);
        if config.cluster.as_ref().is_some_and(|cluster| cluster.redis.is_some()) {
            let sharing = Sharing::new(Arc::clone(&gate), Arc::clone(&strangers));
            store.mailboxes.share(Arc::new(sharing));
        }
        Self {
            gate,
            strangers,
            census: Census::new(&config.sending),
            number: store.number,
            secret: store.succession.as_ref().map(|all| all.secret.clone()),
        }
    }
}

/// The ways to the shards from elsewhere, and from them.
struct Ways<'w> {
    /// Questions about the queues.
    doors: &'w [Door],
    /// Mail of the older program, to the first shard.
    import: &'w import::Door,
    /// Rows of reports, and questions about them.
    reports: Option<&'w ReportWay>,
}

impl Ways<'_> {
    fn of(&self, shard: u16) -> (Door, import::Door, Option<ReportWay>) {
        let door = self.doors.get(usize::from(shard)).cloned();
        let import = if shard == 0 { self.import.clone() } else { import::Door::default() };
        (door.unwrap_or_default(), import, self.reports.cloned())
    }
}

/// The way to the rows of reports.
#[derive(Clone)]
struct ReportWay {
    collector: Collector,
    door: send::Door,
}

/// What counts for reports, when there are to be some.
/// Without its file there are no reports; mail does not wait for them.
fn reports(config: &Config, sink: &Sink) -> Option<(ReportWay, Thread)> {
    config.reports.as_ref()?;
    let log = sink.log(None);
    let sink = sink.clone();
    let tell = move |trouble| {
        let log = sink.log(None);
        match trouble {
            Trouble::Lost(count) => log.event(now(), Event::DmarcLost, &[("count", &count)]),
            Trouble::Failed(why) => log.event(now(), Event::DmarcFailed, &[("why", &why)]),
        }
        log.flush(now());
    };
    match Collector::start(&config.data, tell) {
        Ok((collector, thread)) => {
            Some((ReportWay { collector, door: send::Door::default() }, thread))
        }
        Err(why) => {
            log.event(now(), Event::DmarcFailed, &[("why", &why)]);
            None
        }
    }
}

fn start_shards(
    config: &Config,
    entrances: &[Entrance],
    store: &Store,
    sink: &Sink,
    (events, beat): (&Sender<Happening>, Option<Duration>),
    ways: &Ways<'_>,
) -> Result<Vec<Running>, String> {
    let started = |e: std::io::Error| format!("cannot start a thread: {e}");
    let files = Helpers::new("files", FILE_THREADS).map_err(started)?;
    let hashes = Helpers::new("passwords", HASH_THREADS).map_err(started)?;
    let keys = Helpers::new("keys", KEY_THREADS).map_err(started)?;
    let loaded = NodeKeys::load(&config.data)?;
    let roots = authorities(config, sink)?;
    let cpus = processors();
    let shared = Shared::new(config, store);
    let mut shards = Vec::new();
    for n in 0..config.cores {
        let options = ShardOptions {
            name: format!("shard-{n}"),
            cpu: cpus.get(usize::from(n)).copied(),
            stall_after: None,
            helpers: files.clone(),
        };
        let orders = Latest::default();
        let directory = Latest::default();
        let signing = Latest::default();
        signing.put(loaded.clone());
        let newest_keys = signing.clone();
        let (door, import, reports) = ways.of(n);
        let newest = directory.clone();
        store.mailboxes.local().subscribe(move |directory| newest.put(directory));
        let (config, events) = (config.clone(), events.clone());
        let (hashes, keys, roots) = (hashes.clone(), keys.clone(), roots.clone());
        let (entrances, shared) = (entrances.to_vec(), shared.clone());
        let (mailboxes, sink, read) = (store.mailboxes.clone(), sink.clone(), orders.clone());
        // Logs without a core are read by the shards in turn.
        let cores = config.cores;
        let orphans = store.found.iter().copied();
        let orphans = orphans.filter(move |s| s.0 >= cores && s.0 % cores == n).collect();
        let mut report = Report { events, outcome: Some(format!("shard {n} has died")) };
        let handle = start_shard(options, move |rt| async move {
            let body = Body {
                config,
                entrances,
                shared,
                mailboxes,
                sink,
                hashes,
                keys,
                directory,
                signing: newest_keys,
                door,
                import,
                reports,
                orphans,
                beat,
                roots,
                id: ShardId(n),
            };
            let outcome = body.run(rt, &read, &report.events).await;
            report.ended(outcome);
        })
        .map_err(|e| e.to_string())?;
        shards.push(Running { handle, orders, signing });
    }
    Ok(shards)
}

/// What proves the names of other servers.
fn authorities(config: &Config, sink: &Sink) -> Result<Option<Roots>, String> {
    let roots = Roots::load(config.roots.as_deref()).map_err(|e| e.to_string())?;
    if roots.is_none() && config.sending.sts_port.is_some() && config.dev.is_none() {
        let why = "queue.mta_sts has no effect: no certificate authority is known here";
        sink.log(None).event(now(), Event::SettingIgnored, &[("why", &why)]);
    }
    Ok(roots)
}

/// Tells the main thread how a shard ended, also when it never began or ended by a panic.
struct Report {
    events: Sender<Happening>,
    /// Why it failed; `None` when all its sessions were let go.
    outcome: Option<String>,
}

impl Report {
    fn ended(&mut self, outcome: Result<(), String>) {
        self.outcome = outcome.err();
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Nobody listens when the engine has given up already.
        let _ = self.events.send(match self.outcome.take() {
            None => Happening::Drained,
            Some(why) => Happening::Failed(why),
        });
    }
}

/// What a shard's main task begins with.
struct Body {
    config: Config,
    entrances: Vec<Entrance>,
    shared: Shared,
    mailboxes: NodeMailboxes,
    sink: Sink,
    hashes: Helpers,
    keys: Helpers,
    directory: Latest<Arc<Directory>>,
    /// The keys of DKIM and of trust.
    signing: Latest<NodeKeys>,
    /// Questions about the queue.
    door: Door,
    /// Mail of the older program.
    import: import::Door,
    /// The way to the rows of reports, when there are to be some.
    reports: Option<ReportWay>,
    orphans: Vec<ShardId>,
    /// How often to say that it goes round.
    beat: Option<Duration>,
    /// What proves the names of other servers.
    roots: Option<Roots>,
    id: ShardId,
}

impl Body {
    async fn run(
        self,
        rt: GlommioRuntime,
        orders: &Latest<Order>,
        events: &Sender<Happening>,
    ) -> Result<(), String> {
        let directory = self.directory.take().await;
        let parts = self.parts(&rt, directory);
        let applied = self.mailboxes.local().mark(self.id);
        let failed = |e: StoreError| format!("shard {}: {e}", self.id.0);
        let shard = start(parts, self.spool(self.id), applied).await.map_err(failed)?;
        for &orphan in &self.orphans {
            let applied = self.mailboxes.local().mark(orphan);
            adopt(&shard, self.spool(orphan), applied).await.map_err(failed)?;
        }
        self.keep_up(&rt, &shard);
        let (door, inner) = (self.door.clone(), Rc::clone(&shard));
        rt.spawn(Class::Background, async move {
            loop {
                let Ask { what, reply } = door.take().await;
                let answered = answer(
                    &mut inner.outbound.queue.borrow_mut(),
                    what,
                    inner.outbound.now(&inner.rt),
                );
                if let Answer::Acted(ids) = &answered {
                    ids.iter().for_each(|&id| inner.outbound.keep(id));
                    inner.outbound.wake();
                    // What is done survives a crash.
                    relay::settled(&inner, SETTLE_PATIENCE).await;
                }
                // Who has asked may have lost patience.
                let _ = reply.send(answered);
            }
        });
        rt.spawn(Class::Background, import::serve(Rc::clone(&shard), self.import.clone()));
        let queues = core::iter::once(self.id).chain(self.orphans.iter().copied());
        relay::restore(&shard, queues.clone()).await.map_err(failed)?;
        if shard.mailboxes.is_clustered() {
            upload::start(&shard, queues.collect());
            shard.mailboxes.recovered();
        }
        let _ = events.send(Happening::Recovered);
        if let Order::Listen = orders.take().await {
            self.listen(&rt, &shard)?;
            let resolver = Resolver::new(rt.clone(), &self.config.resolver);
            relay::start(&shard, resolver, self.roots.as_ref());
            if shard.mailboxes.keeps_copies() {
                relay::relief::start(&shard);
            }
            self.send_reports(&shard);
            let _ = events.send(Happening::Ready);
            self.beat(&rt, events);
            orders.take().await;
        }
        drain(&shard, DRAIN_PATIENCE).await;
        Ok(())
    }

    /// Has the shard know of accounts and keys what is newest.
    fn keep_up(&self, rt: &GlommioRuntime, shard: &Rc<Shard<GlommioRuntime, NodeMailboxes>>) {
        let (newest, inner) = (self.directory.clone(), Rc::clone(shard));
        rt.spawn(Class::Background, async move {
            loop {
                let directory = newest.take().await;
                inner.directory.replace(directory);
            }
        });
        let (newest, inner) = (self.signing.clone(), Rc::clone(shard));
        rt.spawn(Class::Background, async move {
            loop {
                let NodeKeys { dkim, trust } = newest.take().await;
                inner.dkim.replace(dkim);
                inner.trust.replace(trust);
            }
        });
    }

    /// Lets sessions count for reports; the first shard sends them.
    fn send_reports(&self, shard: &Rc<Shard<GlommioRuntime, NodeMailboxes>>) {
        let (Some(way), Some(settings)) = (&self.reports, &self.config.reports) else { return };
        let ReportWay { collector, door } = way.clone();
        shard.reports.replace(Some(collector.clone()));
        if self.id.0 == 0 {
            send::start(shard, send::Office { collector, settings: settings.clone(), door });
        }
    }

    /// Says that the shard goes round, as long as it does.
    fn beat(&self, rt: &GlommioRuntime, events: &Sender<Happening>) {
        let Some(beat) = self.beat else { return };
        let (rt, events, shard) = (rt.clone(), events.clone(), self.id.0);
        rt.clone().spawn(Class::Session, async move {
            while events.send(Happening::Beat(shard)).is_ok() {
                rt.sleep_until(rt.now() + beat).await;
            }
        });
    }

    fn listen(
        &self,
        rt: &GlommioRuntime,
        shard: &Rc<Shard<GlommioRuntime, NodeMailboxes>>,
    ) -> Result<(), String> {
        for entrance in &self.entrances {
            let socket = rt.listen(entrance.listener.address).map_err(|e| {
                shard.log.event(rt.unix(), Event::ListenFailed, &[("why", &e)]);
                e.to_string()
            })?;
            let door = Rc::new(entrance.door(&self.config)?);
            let admission = Arc::clone(&entrance.admission);
            rt.spawn(Class::Accept, accept(Rc::clone(shard), socket, door, admission));
        }
        Ok(())
    }

    fn spool(&self, shard: ShardId) -> SpoolConfig {
        let mut spool = SpoolConfig::new(shard);
        spool.segment_bytes = self.mailboxes.local().segment_bytes();
        spool.node = self.shared.number;
        spool.reserve_bytes = self.config.store.reserve_bytes;
        spool
    }

    fn parts(
        &self,
        rt: &GlommioRuntime,
        directory: Arc<Directory>,
    ) -> Parts<GlommioRuntime, NodeMailboxes> {
        let config = &self.config;
        Parts {
            rt: rt.clone(),
            disk: rt.disk(config.data.join(SPOOL_FOLDER)),
            mailboxes: self.mailboxes.clone(),
            directory,
            check_password: password_check(self.hashes.clone()),
            helpers: helpers(self.keys.clone()),
            begin: Rc::new(by_public_key),
            sending: config.sending.clone(),
            census: Arc::clone(&self.shared.census),
            secret: (*self.mailboxes.local().secret()).into(),
            shared_secret: self.shared.secret.clone(),
            sealing: config.store.sealing,
            gate: Arc::clone(&self.shared.gate),
            strangers: Arc::clone(&self.shared.strangers),
            submission: config.submission,
            verify: config.verify.clone(),
            filters: config.filters.clone(),
            own_domains_closed: config.smtp.own_domains_closed,
            magic: config.dev.is_some(),
            node: config.node.as_str().into(),
            domain: config.domain.as_str().into(),
            log: self.sink.log(Some(self.id.0)),
        }
    }
}

/// Checks passwords on the helper threads; an unknown user costs as much as a known one.
fn password_check(hashes: Helpers) -> PasswordCheck {
    Rc::new(move |account, password| {
        let hashes = hashes.clone();
        Box::pin(async move {
            let opened = hashes
                .run(move || match account {
                    Some(account) => account.lock.open(account.mailbox, &password),
                    None => Lock::open_nobody(&password),
                })
                .map_err(|_| Overload)?;
            opened.await.map_err(|_| Overload)
        })
    })
}

/// The helper threads as shards use them.
fn helpers(threads: Helpers) -> Offload {
    Rc::new(move |job| threads.post(job).map_err(|_| Overload))
}

/// `--dev`: the domain and the account that the manual names.
fn prepare_dev(config: &Config, mailboxes: &NodeMailboxes) -> Result<(), String> {
    let Some(dev) = config.dev else { return Ok(()) };
    let directory = mailboxes.directory();
    let failed = |e: StoreError| format!("cannot prepare --dev: {e}");
    // The file may name another domain; the account's own is there all the same.
    let (_, own) = dev.account.split_once('@').unwrap_or_default();
    let domains = BTreeSet::from([own, &config.domain]);
    for domain in domains.into_iter().filter(|domain| !directory.serves(domain)) {
        let domain = domain.to_owned();
        wait(mailboxes.change(Change::AddDomain { domain })).map_err(failed)?;
    }
    if directory.account(dev.account).is_none() {
        let protection = Protection { bits: config.store.sealing, recovery: false };
        let mailbox = mailboxes.directory().next_mailbox();
        let (lock, _) =
            locks::make(mailbox, dev.password.as_bytes(), protection).map_err(failed)?;
        wait(mailboxes.change(Change::AddAccount {
            address: dev.account.to_owned(),
            name: "Demo".to_owned(),
            lock,
            created: now(),
        }))
        .map_err(failed)?;
    }
    Ok(())
}
