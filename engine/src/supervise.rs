//! The main thread while the engine runs: it hears of shards and signals, and gives orders.
//!
//! Shards listen when all of them have read their logs, so that nobody sees a mailbox that lacks
//! what another shard has yet to deliver; then the engine says `ready`. A shard that fails, a dead
//! index and SIGTERM end it; a second SIGTERM ends the process at once, which loses nothing
//! acknowledged.

use core::time::Duration;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};

use fsmtp_cluster::bridge::Complaint;
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_rt::glommio::ShardHandle;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::cli;
use crate::config::Config;
use crate::keys::NodeKeys;
use crate::latest::Latest;
use crate::log::Event;
use crate::notify::Notify;
use crate::run::now;
use crate::tls::Certs;

/// How often the main thread looks whether the mailbox index is alive.
const INDEX_LOOK: Duration = Duration::from_secs(1);

/// What happens while the engine runs.
pub(crate) enum Happening {
    /// A shard has read its logs.
    Recovered,
    /// A shard has opened its listeners.
    Ready,
    /// A shard cannot go on: one line for the operator.
    Failed(String),
    /// A signal came.
    Signal(i32),
    /// A shard has let all its sessions go.
    Drained,
    /// A shard goes round; told only when the service manager wants to know.
    Beat(u16),
}

/// What the main thread tells a shard. A later order takes the place of one not yet read.
pub(crate) enum Order {
    /// Open the listeners.
    Listen,
    /// Let the sessions go and end.
    Stop,
}

pub(crate) struct Running {
    pub(crate) handle: ShardHandle,
    pub(crate) orders: Latest<Order>,
    /// Keys of DKIM and of trust that were read anew.
    pub(crate) signing: Latest<NodeKeys>,
}

/// Waits for what happens, until all shards have ended their sessions or one has failed.
pub(crate) fn supervise(
    mut life: Life<'_>,
    signals: Signals,
    events: Sender<Happening>,
    inbox: &Receiver<Happening>,
    mailboxes: &NodeMailboxes,
) -> Result<(), String> {
    if let Err(why) = watch_signals(signals, events) {
        life.fail(Event::ShardFailed, why);
    }
    while life.drained < life.shards.len() {
        if life.stopping {
            life.notify.alive();
        }
        say_damage(mailboxes, life.log);
        match inbox.recv_timeout(INDEX_LOOK) {
            Ok(happening) => life.heed(happening)?,
            Err(RecvTimeoutError::Disconnected) => return Err("the shards are gone".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                // Mail would be taken that nobody can fetch: better to stop and say why.
                if let (Some(why), Ok(())) = (mailboxes.local().failure(), &life.outcome) {
                    life.fail(Event::StorageFailed, format!("the mailbox index: {why}"));
                }
            }
        }
    }
    life.outcome
}

/// Turns signals into happenings, on a thread of its own.
fn watch_signals(mut signals: Signals, events: Sender<Happening>) -> Result<(), String> {
    let watch = move || {
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
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(watch).map(drop).map_err(|e| format!("cannot start a thread: {e}"))
}

/// How far the engine has come, as the main thread sees it.
pub(crate) struct Life<'a> {
    config: &'a Config,
    certs: Option<&'a Certs>,
    shards: &'a [Running],
    log: &'a crate::log::Log,
    notify: Notify,
    /// Shards that have read their logs.
    recovered: usize,
    /// Shards that listen.
    ready: usize,
    /// Shards that have ended.
    drained: usize,
    stopping: bool,
    /// What `run` will say.
    outcome: Result<(), String>,
}

impl<'a> Life<'a> {
    /// Nothing has happened yet.
    pub(crate) const fn new(
        config: &'a Config,
        certs: Option<&'a Certs>,
        shards: &'a [Running],
        log: &'a crate::log::Log,
        notify: Notify,
    ) -> Self {
        let (recovered, ready, drained) = (0, 0, 0);
        let (stopping, outcome) = (false, Ok(()));
        Self { config, certs, shards, log, notify, recovered, ready, drained, stopping, outcome }
    }

    fn heed(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Recovered => {
                self.recovered += 1;
                if self.recovered == self.shards.len() && !self.stopping {
                    self.shards.iter().for_each(|shard| shard.orders.put(Order::Listen));
                }
            }
            Happening::Ready => {
                self.ready += 1;
                if self.ready == self.shards.len() && self.outcome.is_ok() {
                    announce(self.config, self.log, &mut self.notify)?;
                }
            }
            Happening::Failed(why) => {
                self.drained += 1;
                self.fail(Event::ShardFailed, why);
            }
            // Listeners and limits are fixed while the engine runs; accounts are changed through
            // the control socket. What is read anew are the files of certificates.
            Happening::Signal(SIGHUP) => self.reload(),
            Happening::Signal(_) => {
                say_draining(self.log);
                self.stop();
            }
            Happening::Drained => self.drained += 1,
            Happening::Beat(shard) => self.notify.beat(shard, self.shards.len()),
        }
        Ok(())
    }

    /// New handshakes see the certificates as they are now; wrong ones change nothing.
    fn reload(&self) {
        self.notify.reloading();
        match self.certs.map(|certs| certs.reload(now())) {
            None => {}
            Some(Ok(())) => self.log.event(now(), Event::CertificatesReloaded, &[]),
            Some(Err(why)) => {
                self.log.event(now(), Event::CertificatesKept, &[("why", &why)]);
            }
        }
        match NodeKeys::load(&self.config.data) {
            Ok(keys) => self.shards.iter().for_each(|shard| shard.signing.put(keys.clone())),
            Err(why) => self.log.event(now(), Event::KeysKept, &[("why", &why)]),
        }
        self.log.flush(now());
        self.notify.reloaded();
    }

    fn fail(&mut self, event: Event, why: String) {
        self.log.event(now(), event, &[("why", &why)]);
        self.log.flush(now());
        self.outcome = Err(why);
        self.stop();
    }

    fn stop(&mut self) {
        self.stopping = true;
        // Also after a failure: a shard that hangs then is ended when the manager's time is over.
        self.notify.stopping();
        self.shards.iter().for_each(|shard| shard.orders.put(Order::Stop));
    }
}

/// Names the damaged rows that the index has come across, each once, and what went wrong on the way
/// to the cluster.
pub(crate) fn say_damage(mailboxes: &NodeMailboxes, log: &crate::log::Log) {
    let local = mailboxes.local();
    for damage in local.take_damage() {
        let rows = local.counters().damaged_count;
        log.event(now(), Event::IndexDamaged, &[("why", &damage), ("rows", &rows)]);
    }
    for complaint in mailboxes.take_complaints() {
        match complaint {
            Complaint::Trouble(why) => log.event(now(), Event::ClusterTrouble, &[("why", &why)]),
            Complaint::RedisAway(why) => log.event(now(), Event::RedisAway, &[("why", &why)]),
            Complaint::RedisBack => log.event(now(), Event::RedisBack, &[]),
        }
    }
    log.flush(now());
}

fn say_draining(log: &crate::log::Log) {
    log.event(now(), Event::EngineDraining, &[]);
    log.flush(now());
}

fn announce(config: &Config, log: &crate::log::Log, notify: &mut Notify) -> Result<(), String> {
    log.event(now(), Event::EngineStarted, &[("cores", &config.cores)]);
    log.flush(now());
    notify.ready();
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{}", cli::startup_table(config))
        .and_then(|()| writeln!(out, "ready: {} shards", config.cores))
        .and_then(|()| out.flush());
    // A closed standard output is no reason not to take mail.
    drop(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::log::{Format, Level, Sink};
    use crate::notify::tests::{heard, manager};

    #[test]
    fn the_manager_hears_of_an_end_by_failure_once_and_of_no_start_after_it() {
        let overrides = Overrides { dev: true, cores: Some(1), ..Overrides::default() };
        let config = Config::load(None, &overrides).unwrap();
        let (sink, _lines) = Sink::memory(Format::Json, Level::Error);
        let log = sink.log(None);
        let (socket, notify) = manager(&format!("@fsmtp-life-{}", std::process::id()), &[]);
        let mut life = Life::new(&config, None, &[], &log, notify);
        life.heed(Happening::Signal(SIGHUP)).unwrap();
        assert_eq!(heard(&socket), None, "a reload in the middle of a start");
        life.heed(Happening::Failed("no ring".to_owned())).unwrap();
        assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
        life.heed(Happening::Signal(signal_hook::consts::SIGTERM)).unwrap();
        assert_eq!(heard(&socket), None);
    }
}
