//! What the service manager is told (`sd_notify`): ready, reloading, stopping, alive.
//!
//! Used by the main thread. Without `NOTIFY_SOCKET` in the environment nothing is said; a manager
//! that does not listen is no error either, and one that does not read is waited for [`PATIENCE`].
//! What would be wrong at the time is not said: no reload before ready or after stopping. With
//! `WATCHDOG_USEC` shards report that they go round, four times in that time, and the manager hears
//! of it when all of them have: a shard that is stuck keeps the whole engine silent, and it is
//! started anew.

use core::time::Duration;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// How often shards report within the time after which the manager gives up.
const BEATS: u32 = 4;
/// Not more often than this, whatever the manager asks for.
const BEAT_MIN: Duration = Duration::from_millis(10);
/// How long the main thread waits for a manager whose queue is full. One that never hears `READY=1`
/// ends the engine.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far the engine has come, as the manager was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Starting,
    Ready,
    Stopping,
}

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often each shard reports; none when nobody asks.
    pub(crate) beat: Option<Duration>,
    /// Shards that have reported since the manager heard of it.
    beaten: BTreeSet<u16>,
    stage: Stage,
}

impl Notify {
    /// As the environment of this process says.
    pub(crate) fn from_env() -> Self {
        Self::new(|name| std::env::var_os(name), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let to = variable("NOTIFY_SOCKET").and_then(|path| open(&path));
        let number = |name| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        // It may be meant for another process, which has left it to us.
        let ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let patience = number("WATCHDOG_USEC").filter(|&patience| ours && patience > 0);
        let beat = patience.map(|patience| Duration::from_micros(patience) / BEATS);
        let beat = beat.map(|beat| beat.max(BEAT_MIN)).filter(|_| to.is_some());
        Self { beat, to, beaten: BTreeSet::new(), stage: Stage::Starting }
    }

    /// Connections are taken.
    pub(crate) fn ready(&mut self) {
        if self.stage == Stage::Starting {
            self.stage = Stage::Ready;
            self.say("READY=1");
        }
    }

    /// A reload begins.
    pub(crate) fn reloading(&self) {
        // While it starts, the READY=1 that ends a reload would be taken for the start's.
        if self.stage != Stage::Ready {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The reload is done.
    pub(crate) fn reloaded(&self) {
        if self.stage == Stage::Ready {
            self.say("READY=1");
        }
    }

    /// Sessions are let go. From now on the manager's own time for a stop runs.
    pub(crate) fn stopping(&mut self) {
        if self.stage != Stage::Stopping {
            self.stage = Stage::Stopping;
            self.say("STOPPING=1");
        }
    }

    /// Shard `shard` of `shards` goes round.
    pub(crate) fn beat(&mut self, shard: u16, shards: usize) {
        self.beaten.insert(shard);
        if self.beaten.len() >= shards {
            self.beaten.clear();
            self.say_alive();
        }
    }

    /// The main thread goes round, and that shards do is no longer asked: they end one by one.
    pub(crate) fn alive(&self) {
        if self.beat.is_some() {
            self.say_alive();
        }
    }

    /// Waits for nobody: with a full queue the next one tells as much.
    fn say_alive(&self) {
        if let Some((socket, _)) = &self.to
            && socket.set_nonblocking(true).is_ok()
        {
            self.say("WATCHDOG=1");
            // It was possible the other way round.
            let _ = socket.set_nonblocking(false);
        }
    }

    fn say(&self, state: &str) {
        if let Some((socket, address)) = &self.to {
            // Without a listener nobody waits for it.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

/// A socket, and where it sends to: a path, or `@` and a name without one.
fn open(path: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    Some((socket, address.ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Instant;

    /// A manager at an address of its own, and an environment that names it.
    pub(crate) fn manager(address: &str, more: &[(&str, &str)]) -> (UnixDatagram, Notify) {
        let bound = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
            None => SocketAddr::from_pathname(address).unwrap(),
        };
        let socket = UnixDatagram::bind_addr(&bound).unwrap();
        socket.set_nonblocking(true).unwrap();
        let variable = |name: &str| {
            let mut all = more.iter().copied().chain([("NOTIFY_SOCKET", address)]);
            all.find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        let notify = Notify::new(variable, 42);
        (socket, notify)
    }

    pub(crate) fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }

    #[test]
    fn the_manager_hears_of_it_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let name = format!("@fsmtp-notify-{}", std::process::id());
        for address in [path, name] {
            let (socket, mut notify) = manager(&address, &[]);
            notify.ready();
            notify.reloading();
            notify.reloaded();
            notify.stopping();
            notify.alive();
            assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
            let reloading = heard(&socket).unwrap();
            let (said, clock) = reloading.split_once("\nMONOTONIC_USEC=").unwrap();
            assert!(said == "RELOADING=1" && clock.parse::<u64>().unwrap() > 0);
            assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
            assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
            assert_eq!(heard(&socket), None, "nobody asked for a watchdog");
        }
    }

    #[test]
    fn what_would_mislead_at_the_time_is_not_said() {
        let (socket, mut notify) = manager(&format!("@fsmtp-stage-{}", std::process::id()), &[]);
        let reload = |notify: &Notify| {
            notify.reloading();
            notify.reloaded();
        };
        reload(&notify);
        assert_eq!(heard(&socket), None, "it is not ready, though it has read its certificates");
        notify.ready();
        notify.ready();
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
        notify.stopping();
        notify.stopping();
        reload(&notify);
        notify.ready();
        assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
        assert_eq!(heard(&socket), None);
    }

    #[test]
    fn a_queue_that_is_full_is_waited_for_and_not_for_ever() {
        let address = format!("@fsmtp-full-{}", std::process::id());
        let (socket, mut notify) = manager(&address, &[("WATCHDOG_USEC", "1")]);
        assert_eq!(notify.beat, Some(BEAT_MIN), "no shard does nothing else");
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let to = SocketAddr::from_abstract_name(&address[1..]).unwrap();
        while other.send_to_addr(b"other", &to).is_ok() {}
        let began = Instant::now();
        notify.alive();
        assert!(began.elapsed() < PATIENCE, "the next one tells as much");
        notify.reloading();
        assert!(began.elapsed() < PATIENCE, "it is not ready");
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(60 * PATIENCE)).unwrap();
            while said.last().is_none_or(|last| last == "other") {
                said.extend(heard(&socket));
            }
            said.pop()
        });
        notify.ready();
        assert_eq!(reader.join().unwrap().as_deref(), Some("READY=1"));
    }

    #[test]
    fn the_watchdog_is_fed_by_all_shards_together() {
        let address = format!("@fsmtp-watchdog-{}", std::process::id());
        let more = [("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "42")];
        let (socket, mut notify) = manager(&address, &more);
        assert_eq!(notify.beat, Some(Duration::from_millis(500)));
        for _ in 0..3 {
            notify.beat(0, 2);
            notify.beat(0, 2);
            assert_eq!(heard(&socket), None, "shard 1 says nothing");
            notify.beat(1, 2);
            assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
        }
        notify.alive();
        assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let address = format!("@fsmtp-nobody-{}", std::process::id());
        let foreign = [("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "41")];
        let (socket, notify) = manager(&address, &foreign);
        assert_eq!(notify.beat, None, "another process's watchdog");
        drop(socket);
        let mut notify = notify;
        notify.ready();
        for usec in ["0", "x", ""] {
            let variable = |name: &str| (name == "WATCHDOG_USEC").then(|| usec.into());
            let mut notify = Notify::new(variable, 42);
            notify.ready();
            assert!(notify.beat.is_none() && notify.to.is_none());
        }
    }
}
