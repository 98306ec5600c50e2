//! A whole engine: threads, shards, signals, and the order in which they begin and end.
//!
//! Begins with what can fail for reasons of the machine, and says `ready` when every listener is
//! open. Ends on SIGTERM: sessions are let go, then shards, then the index, each when the one
//! before it is done. A second SIGTERM ends the process at once, which loses nothing acknowledged.

use core::time::Duration;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::SystemTime;

use fsmtp_proto::{pop3, smtp};
use fsmtp_rt::glommio::{GlommioRuntime, ShardHandle, ShardOptions, processors, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{Class, PAGE_BYTES, Runtime, UnixTime};
use fsmtp_store::directory::{Change, Directory};
use fsmtp_store::mailbox::{Embedded, Keeper, Options, Registry, wait};
use fsmtp_store::password::{self, Cost};
use fsmtp_store::spool::{SpoolConfig, made_with_segment_bytes};
use fsmtp_store::{ShardId, StoreError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::accept::{Service, accept};
use crate::admin::StoreAdmin;
use crate::admit::{Admission, Limits};
use crate::cli;
use crate::config::{Config, Protocol};
use crate::control::{self, Admin};
use crate::dirlock::DirLock;
use crate::latest::Latest;
use crate::log::{Event, Sink};
use crate::shard::{Overload, PasswordCheck};
use crate::start::{Parts, adopt, drain, shards_on_disk, start};

/// How long running transactions may take to finish after SIGTERM.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How often the main thread looks whether the mailbox index is alive.
const INDEX_LOOK: Duration = Duration::from_secs(1);
/// Threads that check passwords; each check is some 20 ms of one core and 19 MiB.
const HASH_THREADS: usize = 2;
/// Threads for file system metadata.
const FILE_THREADS: usize = 2;
/// Where the segments are, in the data folder.
const SPOOL_FOLDER: &str = "spool";
/// Where the mailbox index is.
const INDEX_FOLDER: &str = "index";

/// What the store of a data folder consists of.
struct Store {
    mailboxes: Embedded,
    keeper: Keeper,
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
    let (mailboxes, keeper) =
        Embedded::open(&index, options).map_err(|e| format!("{}: {e}", index.display()))?;
    Ok(Store { mailboxes, keeper, found })
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
    Ok(Box::new(StoreAdmin::offline(store.mailboxes, store.keeper, lock)))
}

/// Runs until SIGTERM.
///
/// # Errors
/// One line for the operator, when it could not start or a shard has failed.
pub fn run(config: &Config, lock: DirLock) -> Result<(), String> {
    // From here on signals wait for us instead of ending the process.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| format!("cannot watch for signals: {e}"))?;
    let store = open_store(config)?;
    prepare_dev(config, &store.mailboxes)?;
    let sink = Sink::stderr(config.log.format, config.log.level)
        .map_err(|e| format!("cannot start the log: {e}"))?;
    let log = sink.log(None);
    // Known before only where there were log files.
    if let Some(why) = segment_bytes_kept(config, store.mailboxes.segment_bytes()) {
        log.event(now(), Event::SettingIgnored, &[("why", &why)]);
    }
    let admin = Arc::new(StoreAdmin::online(store.mailboxes.clone()));
    let control = control::serve(&config.data, admin)
        .map_err(|e| format!("cannot serve the control socket: {e}"))?;
    let (events, inbox) = channel();
    let shards = start_shards(config, &store, &sink, &events)?;
    let ended = supervise(config, &shards, signals, events, &inbox, &store.mailboxes, &log);
    drop(control);
    let joined: Result<Vec<()>, _> = shards.into_iter().map(|shard| shard.handle.join()).collect();
    let closed = store.keeper.close();
    say_damage(&store.mailboxes, &log);
    log.event(now(), Event::EngineStopped, &[]);
    log.flush(now());
    drop(lock);
    sink.finish();
    ended?;
    joined.map_err(|e| e.to_string())?;
    closed.map_err(|e| format!("the mailbox index: {e}"))
}

/// What happens while the engine runs.
enum Happening {
    /// A shard has opened its listeners.
    Ready,
    /// A shard cannot go on: one line for the operator.
    Failed(String),
    /// A signal came.
    Signal(i32),
    /// A shard has let all its sessions go.
    Drained,
}

struct Running {
    handle: ShardHandle,
    stop: Latest<()>,
}

/// Waits for what happens, until all shards have ended their sessions or one has failed.
fn supervise(
    config: &Config,
    shards: &[Running],
    mut signals: Signals,
    events: Sender<Happening>,
    inbox: &Receiver<Happening>,
    mailboxes: &Embedded,
    log: &crate::log::Log,
) -> Result<(), String> {
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut stopping = false;
            for signal in &mut signals {
                let stop = signal != SIGHUP;
                if stop && stopping {
                    // At once, whatever the rest of the process waits for.
                    signal_hook::low_level::exit(1);
                }
                stopping |= stop;
                // When nobody listens any more, the process is about to end.
                let _ = events.send(Happening::Signal(signal));
            }
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    let (mut ready, mut drained) = (0, 0);
    let mut outcome = Ok(());
    let stop = || shards.iter().for_each(|shard| shard.stop.put(()));
    while drained < shards.len() {
        say_damage(mailboxes, log);
        let happening = match inbox.recv_timeout(INDEX_LOOK) {
            Ok(happening) => happening,
            Err(RecvTimeoutError::Disconnected) => return Err("the shards are gone".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                // Mail would be taken that nobody can fetch: better to stop and say why.
                if let (Some(why), Ok(())) = (mailboxes.failure(), &outcome) {
                    let why = format!("the mailbox index: {why}");
                    log.event(now(), Event::StorageFailed, &[("why", &why)]);
                    log.flush(now());
                    outcome = Err(why);
                    stop();
                }
                continue;
            }
        };
        match happening {
            Happening::Ready => {
                ready += 1;
                if ready == shards.len() && outcome.is_ok() {
                    announce(config, log)?;
                }
            }
            Happening::Failed(why) => {
                log.event(now(), Event::ShardFailed, &[("why", &why)]);
                outcome = Err(why);
                drained += 1;
                stop();
            }
            // Listeners, certificates and limits are fixed while the engine runs; accounts are
            // changed through the control socket. So there is nothing to read anew yet.
            Happening::Signal(SIGHUP) => {}
            Happening::Signal(_) => {
                say_draining(log);
                stop();
            }
            Happening::Drained => drained += 1,
        }
    }
    outcome
}

/// Names the damaged rows that the index has come across, each once.
fn say_damage(mailboxes: &Embedded, log: &crate::log::Log) {
    for damage in mailboxes.take_damage() {
        let rows = mailboxes.counters().damaged_count;
        log.event(now(), Event::IndexDamaged, &[("why", &damage), ("rows", &rows)]);
    }
}

fn say_draining(log: &crate::log::Log) {
    log.event(now(), Event::EngineDraining, &[]);
    log.flush(now());
    notify("STOPPING=1");
}

fn announce(config: &Config, log: &crate::log::Log) -> Result<(), String> {
    log.event(now(), Event::EngineStarted, &[("cores", &config.cores)]);
    log.flush(now());
    notify("READY=1");
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{}", cli::startup_table(config))
        .and_then(|()| writeln!(out, "ready: {} shards", config.cores))
        .and_then(|()| out.flush());
    // A closed standard output is no reason not to take mail.
    drop(written);
    Ok(())
}

/// Tells the service manager, if there is one (`sd_notify`).
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    // An abstract address begins with `@`; the kernel's form begins with a NUL.
    let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            std::os::unix::net::SocketAddr::from_abstract_name(name)
        }
        None => std::os::unix::net::SocketAddr::from_pathname(path),
    };
    if let Ok(address) = address {
        // Without a listener nobody waits for it.
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn start_shards(
    config: &Config,
    store: &Store,
    sink: &Sink,
    events: &Sender<Happening>,
) -> Result<Vec<Running>, String> {
    let started = |e: std::io::Error| format!("cannot start a thread: {e}");
    let files = Helpers::new("files", FILE_THREADS).map_err(started)?;
    let hashes = Helpers::new("passwords", HASH_THREADS).map_err(started)?;
    let cpus = processors();
    let mut shards = Vec::new();
    for n in 0..config.cores {
        let options = ShardOptions {
            name: format!("shard-{n}"),
            cpu: cpus.get(usize::from(n)).copied(),
            stall_after: None,
            helpers: files.clone(),
        };
        let stop = Latest::default();
        let directory = Latest::default();
        let newest = directory.clone();
        store.mailboxes.subscribe(move |directory| newest.put(directory));
        let (config, events, hashes) = (config.clone(), events.clone(), hashes.clone());
        let (mailboxes, sink, stopped) = (store.mailboxes.clone(), sink.clone(), stop.clone());
        // Logs without a core are read by the shards in turn.
        let cores = config.cores;
        let orphans = store.found.iter().copied();
        let orphans = orphans.filter(move |s| s.0 >= cores && s.0 % cores == n).collect();
        let mut report = Report { events, outcome: Some(format!("shard {n} has died")) };
        let handle = start_shard(options, move |rt| async move {
            let body = Body { config, mailboxes, sink, hashes, directory, orphans, id: ShardId(n) };
            let outcome = body.run(rt, &stopped, &report.events).await;
            report.ended(outcome);
        })
        .map_err(|e| e.to_string())?;
        shards.push(Running { handle, stop });
    }
    Ok(shards)
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
    mailboxes: Embedded,
    sink: Sink,
    hashes: Helpers,
    directory: Latest<Arc<Directory>>,
    orphans: Vec<ShardId>,
    id: ShardId,
}

impl Body {
    async fn run(
        self,
        rt: GlommioRuntime,
        stop: &Latest<()>,
        events: &Sender<Happening>,
    ) -> Result<(), String> {
        let directory = self.directory.take().await;
        let parts = self.parts(&rt, directory)?;
        let applied = self.mailboxes.mark(self.id);
        let failed = |e: StoreError| format!("shard {}: {e}", self.id.0);
        let shard = start(parts, self.spool(self.id), applied).await.map_err(failed)?;
        for &orphan in &self.orphans {
            let applied = self.mailboxes.mark(orphan);
            adopt(&shard, self.spool(orphan), applied).await.map_err(failed)?;
        }
        let (newest, inner) = (self.directory.clone(), Rc::clone(&shard));
        rt.spawn(Class::Background, async move {
            loop {
                let directory = newest.take().await;
                inner.directory.replace(directory);
            }
        });
        for listener in &self.config.listeners {
            let socket = rt.listen(listener.address).map_err(|e| e.to_string())?;
            let service = match listener.protocol {
                Protocol::Smtp => Service::Smtp,
                Protocol::Pop3 => Service::Pop3,
            };
            let limits = Limits {
                connections_max: usize::try_from(listener.connections_max).unwrap_or(usize::MAX),
                connections_per_address_max: usize::try_from(listener.connections_per_address_max)
                    .unwrap_or(usize::MAX),
            };
            let admission = Admission::new(limits.share(usize::from(self.config.cores)));
            rt.spawn(Class::Accept, accept(Rc::clone(&shard), socket, service, admission));
        }
        let _ = events.send(Happening::Ready);
        stop.take().await;
        drain(&shard, DRAIN_PATIENCE).await;
        Ok(())
    }

    fn spool(&self, shard: ShardId) -> SpoolConfig {
        let mut spool = SpoolConfig::new(shard);
        spool.segment_bytes = self.mailboxes.segment_bytes();
        spool.reserve_bytes = self.config.store.reserve_bytes;
        spool
    }

    fn parts(
        &self,
        rt: &GlommioRuntime,
        directory: Arc<Directory>,
    ) -> Result<Parts<GlommioRuntime, Embedded>, String> {
        let config = &self.config;
        let limits = smtp::server::Limits {
            message_bytes_max: config.smtp.size_bytes_max,
            recipients_max: u16::try_from(config.smtp.recipients_max).unwrap_or(u16::MAX),
            command_timeout: config.smtp.command_timeout,
            data_timeout: config.smtp.data_timeout,
            ..smtp::server::Limits::default()
        };
        let smtp = smtp::server::Settings::new(&config.node, &config.domain, limits)
            .map_err(|e| e.to_string())?;
        let pop3 =
            pop3::Settings { node: config.node.as_str().into(), idle: config.pop3.idle_timeout };
        Ok(Parts {
            rt: rt.clone(),
            disk: rt.disk(config.data.join(SPOOL_FOLDER)),
            mailboxes: self.mailboxes.clone(),
            directory,
            smtp: Rc::new(smtp),
            pop3: Rc::new(pop3),
            check_password: password_check(self.hashes.clone()),
            magic: config.dev.is_some(),
            domain: config.domain.as_str().into(),
            log: self.sink.log(Some(self.id.0)),
        })
    }
}

/// Checks passwords on the helper threads; an unknown user costs as much as a known one.
fn password_check(hashes: Helpers) -> PasswordCheck {
    Rc::new(move |stored, password| {
        let hashes = hashes.clone();
        Box::pin(async move {
            let right = hashes
                .run(move || match stored {
                    Some(stored) => password::verify(&password, &stored),
                    None => password::verify_dummy(&password, Cost::default()),
                })
                .map_err(|_| Overload)?;
            right.await.map_err(|_| Overload)
        })
    })
}

/// `--dev`: the domain and the account that the manual names.
fn prepare_dev(config: &Config, mailboxes: &Embedded) -> Result<(), String> {
    let Some(dev) = config.dev else { return Ok(()) };
    let directory = mailboxes.directory();
    let failed = |e: StoreError| format!("cannot prepare --dev: {e}");
    if !directory.serves(&config.domain) {
        let domain = config.domain.clone();
        wait(mailboxes.change(Change::AddDomain { domain })).map_err(failed)?;
    }
    if directory.account(dev.account).is_none() {
        let password = crate::admin::hash(dev.password.as_bytes()).map_err(failed)?;
        wait(mailboxes.change(Change::AddAccount {
            address: dev.account.to_owned(),
            name: "Demo".to_owned(),
            password_phc: password,
            created: now(),
        }))
        .map_err(failed)?;
    }
    Ok(())
}
