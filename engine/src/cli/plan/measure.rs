//! The measurement: disk, idle connections, then mail as fast as it goes, within the time asked.
//!
//! Called by `plan`. Everything looks at `stop` at least every few messages, but for writes to the
//! disk, which take [`DISK_TIME`] at most; what was started ends when this returns, with whatever
//! result.

use super::super::{checks, doctor};
use super::child::{Child, field};
use super::client::{Bytes, Letter, Link, message};
use super::disk::{flushes, sequential};
use super::room::Room;
use super::sum::{Ask, Measured};
use crate::control::{self, AdminRequest, Password};
use crate::tls::OwnTls;
use core::time::Duration;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Connections that send at a time; arbitrary, enough to keep a few cores busy.
const SENDERS: u32 = 32;
/// Mailboxes that mail goes to when a message has fewer recipients.
const ACCOUNTS_MIN: u32 = 4;
/// Half of them at least, whatever time that takes.
const IDLE_MIN: usize = 50;
/// Writes that are timed: a disk that syncs faster needs no more of them.
const SYNCS_MAX: usize = 20_000;
/// The longest that writes of one kind are timed.
const DISK_TIME: Duration = Duration::from_secs(5);

/// What the connections sent together.
#[derive(Debug, Default)]
struct Tally {
    messages: AtomicU64,
    opened: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    failed: Mutex<Option<String>>,
}

/// What all connections of a load have in common.
struct Load<'a> {
    ask: &'a Ask,
    child: &'a Child,
    tls: Option<&'a OwnTls>,
    accounts: &'a [String],
    message: &'a [u8],
    bounds: Bounds<'a>,
}

/// Where a load ends.
struct Bounds<'a> {
    until: Instant,
    /// Messages of all connections together; one for each may come on top.
    messages_max: u64,
    stop: &'a AtomicBool,
}

impl Bounds<'_> {
    /// Whether another message may follow `messages`.
    fn allow(&self, messages: u64) -> bool {
        let time = !self.stop.load(Ordering::Relaxed) && Instant::now() < self.until;
        time && messages < self.messages_max
    }
}

/// Measures this machine, below the folder `near`.
pub(super) fn measure(ask: &Ask, near: &Path, stop: &AtomicBool) -> Result<Measured, String> {
    let stopped = || {
        let stop = stop.load(Ordering::Relaxed);
        if stop {
            Err("interrupted: nothing was planned, and nothing is left".to_owned())
        } else {
            Ok(())
        }
    };
    // For the idle connections; what cannot be raised stays.
    let open_files = checks::raise_open_files();
    let time = |share: f64| Duration::from_secs_f64(f64::from(ask.seconds) * share);
    let stat = rustix::fs::statvfs(near).map_err(|e| format!("{}: {e}", near.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let processors = fsmtp_rt::glommio::processors().len().clamp(1, 1024) as u16;
    let room = Room::new(processors, ask.size, free, open_files)?;
    let ground = doctor::Ground::of(near);
    let mut measured = Measured {
        processors: processors.into(),
        memory_bytes: ground.memory,
        disk_free_bytes: free,
        file_system: ground.file_system,
        network_bits: network(),
        load_connections: SENDERS,
        ..Measured::default()
    };
    let syncs = doctor::syncs(near, SYNCS_MAX, time(0.05).min(DISK_TIME))
        .map_err(|e| format!("{}: {e}", near.display()))?;
    measured.sync_s = syncs.get(syncs.len() / 2).map_or(0.0, Duration::as_secs_f64);
    stopped()?;
    measured.sequential_bytes_s = sequential(near, time(0.08).min(DISK_TIME), free)?;
    stopped()?;
    let child = Child::start(near, processors, stopped)?;
    let tls = ask.tls.then(|| OwnTls::to(&child.data())).transpose();
    let tls = tls.map_err(|error| error.to_string())?;
    // Before passwords are hashed: what that takes and gives back would hide the connections.
    let until = Instant::now() + time(0.15);
    idle(&child, tls.as_ref(), (until, room.connections), &mut measured, stopped)?;
    stopped()?;
    let accounts = accounts(&child, ask.recipients.max(ACCOUNTS_MIN), stopped)?;
    let message = message(ask.size);
    let mut load = Load {
        ask,
        child: &child,
        tls: tls.as_ref(),
        accounts: &accounts,
        message: &message,
        bounds: Bounds {
            until: Instant::now() + time(0.07),
            messages_max: room.messages / 8,
            stop,
        },
    };
    // Memory and files are there from then on, as they are in an engine that has run for a while.
    load.run()?;
    stopped()?;
    load.bounds.messages_max = room.messages - room.messages / 8;
    load.bounds.until = Instant::now() + time(0.6);
    measured_load(&load, ground.disk.as_ref(), &mut measured)?;
    stopped()?;
    Ok(measured)
}

fn measured_load(
    load: &Load<'_>,
    disk: Option<&std::path::PathBuf>,
    measured: &mut Measured,
) -> Result<(), String> {
    let child = load.child;
    let (cpu, written, flushed) = (child.cpu()?, child.written()?, flushes(disk));
    let began = Instant::now();
    let tally = load.run()?;
    measured.load_s = began.elapsed().as_secs_f64();
    measured.cpu_s = child.cpu()? - cpu;
    measured.written_bytes = child.written()?.saturating_sub(written);
    let flushed = flushes(disk).zip(flushed).map(|(after, before)| after.saturating_sub(before));
    measured.flushes = flushed.filter(|&count| count > 0);
    measured.resident_bytes = child.resident()?;
    measured.messages = tally.messages.into_inner();
    measured.opened = tally.opened.into_inner();
    measured.sent_bytes = tally.sent.into_inner();
    measured.received_bytes = tally.received.into_inner();
    if measured.messages == 0 {
        return Err("no message was taken in the time: give it more --seconds".to_owned());
    }
    Ok(())
}

impl Load<'_> {
    /// Sends until the time or the room is over; fails when a connection did.
    fn run(&self) -> Result<Tally, String> {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for n in 0..SENDERS {
                let tally = &tally;
                scope.spawn(move || {
                    if let Err(why) = self.sender(n as usize, tally) {
                        let mut failed =
                            tally.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        failed.get_or_insert(why);
                    }
                });
            }
        });
        let failed = tally.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match failed {
            // Whoever interrupted us has interrupted the engine, too.
            Some(_) if self.bounds.stop.load(Ordering::Relaxed) => Ok(tally),
            Some(why) => Err(format!("the engine that was measured: {why}")),
            None => Ok(tally),
        }
    }

    fn goes_on(&self, tally: &Tally) -> bool {
        self.bounds.allow(tally.messages.load(Ordering::Relaxed))
    }

    /// Connection after connection.
    fn sender(&self, n: usize, tally: &Tally) -> Result<(), String> {
        let mut first = n;
        while self.goes_on(tally) {
            let mut link = Link::open(self.child.address(), self.tls)?;
            tally.opened.fetch_add(1, Ordering::Relaxed);
            for _ in 0..self.ask.keep {
                let count = self.ask.recipients;
                let letter = Letter { accounts: self.accounts, first, count };
                link.send(&letter, self.message)?;
                tally.messages.fetch_add(1, Ordering::Relaxed);
                first = (first + count as usize) % self.accounts.len().max(1);
                if !self.goes_on(tally) {
                    break;
                }
            }
            let Bytes { sent, received } = link.quit()?;
            tally.sent.fetch_add(sent, Ordering::Relaxed);
            tally.received.fetch_add(received, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Opens idle connections until `until`, `most` of them at most, and sees what they take: the
/// second half of them, because the first finds memory that the start has left.
fn idle(
    child: &Child,
    tls: Option<&OwnTls>,
    (until, most): (Instant, u64),
    measured: &mut Measured,
    stopped: impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    let most = most / 2;
    let half = |until: Instant| {
        let mut links = Vec::new();
        while (links.len() as u64) < most && (Instant::now() < until || links.len() < IDLE_MIN) {
            stopped()?;
            links.push(Link::open(child.address(), tls)?);
        }
        Ok::<_, String>(links)
    };
    let now = Instant::now();
    let first = half(now + until.saturating_duration_since(now) / 2)?;
    let (own, kernel) = (child.resident()?, kernel_bytes());
    let second = half(until)?;
    let count = second.len() as u64;
    measured.idle_connections = count;
    let each = |after: u64, before: u64| after.saturating_sub(before) / count.max(1);
    measured.idle_bytes = each(child.resident()?, own);
    // Both ends lie on this machine.
    measured.idle_kernel_bytes = each(kernel_bytes(), kernel) / 2;
    for link in first.into_iter().chain(second) {
        link.quit()?;
    }
    Ok(())
}

/// What the kernel holds for sockets and other objects, of the whole machine.
fn kernel_bytes() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse::<u64>().ok());
    let page = rustix::param::page_size() as u64;
    (field(&memory, "Slab:").unwrap_or(0) << 10) + pages.unwrap_or(0) * page
}

/// Makes accounts beside the one that is there, with sealed mail as usual.
fn accounts(
    child: &Child,
    count: u32,
    stopped: impl Fn() -> Result<(), String>,
) -> Result<Vec<String>, String> {
    let client = control::call(&child.data()).map_err(|e| format!("the control socket: {e}"))?;
    let mut client = client.ok_or("the engine to be measured takes no commands")?;
    let mut all = Vec::new();
    for n in 0..count {
        stopped()?;
        let address = format!("plan{n}@example.test");
        let password = Password::try_from("not a secret".to_owned()).map_err(str::to_owned)?;
        let (name, recovery) = (None, false);
        let request = AdminRequest::UserAdd { address: address.clone(), name, password, recovery };
        client.execute(&request).map_err(|error| error.to_string())?;
        all.push(address);
    }
    Ok(all)
}

/// The speed of the fastest interface of hardware.
fn network() -> Option<u64> {
    let speed = |entry: fs::DirEntry| {
        let hardware = entry.path().join("device").exists();
        let text = fs::read_to_string(entry.path().join("speed")).ok().filter(|_| hardware)?;
        // It is -1 where nobody knows.
        text.trim().parse::<u64>().ok().map(|mbits| mbits * 1_000_000)
    };
    fs::read_dir("/sys/class/net").ok()?.flatten().filter_map(speed).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_ends_by_time_by_room_and_by_a_signal() {
        let stop = AtomicBool::new(false);
        let later = Instant::now() + Duration::from_secs(60);
        let bounds = |until| Bounds { until, messages_max: 10, stop: &stop };
        assert!(bounds(later).allow(9) && !bounds(later).allow(10));
        assert!(!bounds(Instant::now()).allow(0));
        stop.store(true, Ordering::Relaxed);
        assert!(!bounds(later).allow(0));
    }
}
