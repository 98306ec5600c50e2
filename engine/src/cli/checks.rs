//! `fsmtp-engine test`: what a start would need, one line for each check.
//!
//! Called by `cli::main`; `run` makes the check of the ports, too. Nothing is changed by a check.

use super::{Terminal, load, say};
use crate::config::{Config, Listener, Overrides};
use crate::dirlock::{self, DirState};
use core::net::SocketAddr;
use core::time::Duration;
use fsmtp_rt::glommio::{ACCEPTS_MAX, DESCRIPTORS_PER_FILE, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_store::spool::FILES_COUNT_MAX;
use rustix::fs::Access;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Memory that a shard may have to lock for its rings; what glommio asks for.
const LOCKED_BYTES_PER_SHARD: u64 = 512 * 1024;
/// Descriptors of a shard besides its connections: rings, log files, generously; and the segments
/// that its POP3 sessions share. So a connection is one descriptor, whatever is spoken.
const DESCRIPTORS_PER_SHARD: u64 = 64 + DESCRIPTORS_PER_FILE * FILES_COUNT_MAX as u64;
/// Descriptors of a listener on one shard: its own, and connections that are about to be looked at.
const DESCRIPTORS_PER_LISTENER: u64 = 1 + ACCEPTS_MAX as u64;
/// Descriptors of the process besides its shards: the index, the control socket, generously.
const DESCRIPTORS_OF_PROCESS: u64 = 128;

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Makes all checks; fails when one of them does.
pub(super) fn test(
    path: Option<&Path>,
    overrides: &Overrides,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut checks = Vec::new();
    let mut add = |name, outcome: Result<String, String>| {
        let ok = outcome.is_ok();
        checks.push(Check { name, ok, detail: outcome.unwrap_or_else(|why| why) });
    };
    match load(path, overrides) {
        Err(why) => add("configuration", Err(why)),
        Ok(config) => {
            let warnings = config.warnings.iter().map(|w| format!("; warning: {w}"));
            let name = path.map_or_else(|| "defaults".to_owned(), |p| p.display().to_string());
            add("configuration", Ok(format!("{name}{}", warnings.collect::<String>())));
            add("data folder", data_folder(&config.data));
            add("disk space", disk_space(&config));
            add("io_uring", io_uring());
            add("locked memory", locked_memory(config.cores));
            add("descriptors", descriptors(&config));
            for listener in &config.listeners {
                let free = |()| format!("{} is free", listener.address);
                add("port", ports_are_free(core::slice::from_ref(listener)).map(free));
            }
        }
    }
    let text = if json {
        format!("{:#}\n", serde_json::json!(checks))
    } else {
        let line = |check: &Check| {
            let mark = if check.ok { "ok  " } else { "FAIL" };
            format!("{mark}  {}: {}\n", check.name, check.detail.replace('\n', "; "))
        };
        checks.iter().map(line).collect()
    };
    say(terminal, &text)?;
    let failed = checks.iter().filter(|check| !check.ok).count();
    if failed > 0 { Err(format!("{failed} of {} checks failed", checks.len())) } else { Ok(()) }
}

/// Whether every address can be bound. All are held until all were tried, so that two listeners
/// that exclude each other are found, too.
pub(super) fn ports_are_free(listeners: &[Listener]) -> Result<(), String> {
    let mut held = Vec::new();
    for listener in listeners {
        let address = listener.address;
        held.push(bind_patiently(address).map_err(|error| {
            format!("cannot listen on {address}: {}", std::io::Error::from(error))
        })?);
    }
    Ok(())
}

/// Tries for a second: the sockets of an engine that was killed are in use until the kernel has
/// taken its ring apart.
fn bind_patiently(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    for _ in 0..50 {
        match bind(address) {
            Err(rustix::io::Errno::ADDRINUSE) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    bind(address)
}

/// Binds without listening: nobody can connect to a check.
fn bind(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    // Old connections in TIME_WAIT do not hinder a start, either.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn data_folder(folder: &Path) -> Result<String, String> {
    let state = dirlock::inspect(folder).map_err(|error| error.to_string())?;
    let existing = nearest_existing(folder);
    rustix::fs::access(&existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!("cannot write to {}: {}", existing.display(), std::io::Error::from(error))
    })?;
    Ok(match state {
        DirState::Fresh => format!("{} will be made", folder.display()),
        DirState::Free => {
            let format = dirlock::FORMAT;
            format!("{} has format {format}, is writable and free", folder.display())
        }
    })
}

/// The folder, or the nearest above it that exists.
fn nearest_existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = absolute.ancestors().find(|path| path.exists());
    found.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn disk_space(config: &Config) -> Result<String, String> {
    let folder = nearest_existing(&config.data);
    let stat = rustix::fs::statvfs(&folder)
        .map_err(|error| format!("{}: {}", folder.display(), std::io::Error::from(error)))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Each shard writes one log file and has the next one ready.
    let logs = config.store.segment_bytes.saturating_mul(2).saturating_mul(config.cores.into());
    let needed = config.store.reserve_bytes.saturating_add(logs);
    let mib = |bytes: u64| bytes / (1 << 20);
    let text = format!("{} MiB free, {} MiB needed", mib(free), mib(needed));
    if free >= needed { Ok(text) } else { Err(text) }
}

/// Starts a shard that ends at once.
fn io_uring() -> Result<String, String> {
    let helpers = Helpers::new("check", 1).map_err(|error| error.to_string())?;
    let options = ShardOptions { name: "check".into(), cpu: None, stall_after: None, helpers };
    let shard = start_shard(options, |_| async {}).map_err(|error| error.to_string())?;
    shard.join().map_err(|error| error.to_string())?;
    Ok("a shard started and stopped".to_owned())
}

fn locked_memory(cores: u16) -> Result<String, String> {
    let needed = LOCKED_BYTES_PER_SHARD.saturating_mul(cores.into());
    // No limit is as good as any.
    let Some(limit) = getrlimit(Resource::Memlock).current else {
        return Ok("no limit".to_owned());
    };
    let text = format!("{} KiB may be locked, {} KiB needed", limit >> 10, needed >> 10);
    if limit >= needed { Ok(text) } else { Err(format!("{text}: raise RLIMIT_MEMLOCK")) }
}

fn descriptors(config: &Config) -> Result<String, String> {
    let limit = getrlimit(Resource::Nofile).maximum;
    let mut fitted = config.clone();
    let note = fit_connections(&mut fitted, limit)?;
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit} may be open"));
    Ok(note.map_or_else(|| limit.clone(), |note| format!("{limit}; {note}")))
}

/// Lets the process have as many descriptors as its hard limit allows, and lowers what the
/// listeners take to what these are enough for, so that a connection too many is turned away with
/// a reply; says so when it does.
pub(super) fn take_descriptors(config: &mut Config) -> Result<Option<String>, String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    fit_connections(config, granted)
}

/// Lowers the listeners' limits to what `limit` descriptors are enough for.
fn fit_connections(config: &mut Config, limit: Option<u64>) -> Result<Option<String>, String> {
    let Some(limit) = limit else { return Ok(None) };
    let wanted: u64 = config.listeners.iter().map(|l| u64::from(l.connections_max)).sum();
    let of_shard = DESCRIPTORS_PER_SHARD + DESCRIPTORS_PER_LISTENER * config.listeners.len() as u64;
    let others = of_shard * u64::from(config.cores) + DESCRIPTORS_OF_PROCESS;
    let left = limit.saturating_sub(others);
    if wanted <= left {
        return Ok(None);
    }
    for listener in &mut config.listeners {
        // The share of each is as it was.
        let share = u64::from(listener.connections_max) * left / wanted;
        if share == 0 {
            return Err(format!(
                "{limit} descriptors are too few, {others} are needed without any connection: \
                 raise RLIMIT_NOFILE"
            ));
        }
        listener.connections_max = u32::try_from(share).unwrap_or(u32::MAX);
        listener.connections_per_address_max =
            listener.connections_per_address_max.min(listener.connections_max);
    }
    Ok(Some(format!(
        "{limit} descriptors are too few for {wanted} connections, {left} are taken: raise \
         RLIMIT_NOFILE"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        let overrides = Overrides { dev: true, cores: Some(2), ..Overrides::default() };
        let config = Config::load(None, &overrides).unwrap();
        let fit = |limit| {
            let mut config = config.clone();
            fit_connections(&mut config, limit).map(|note| {
                let [smtp, pop3] = config.listeners[..] else { panic!("two listeners") };
                assert_eq!(smtp.connections_per_address_max, smtp.connections_max);
                (note.is_some(), smtp.connections_max, pop3.connections_max)
            })
        };
        assert_eq!(fit(None), Ok((false, 20_000, 20_000)));
        // Two shards with 64 of their own, 32 segments of two each and two listeners with 16
        // connections that wait; 128 for the process.
        let others = 2 * (64 + 2 * 32 + 2 * 17) + 128;
        assert_eq!(fit(Some(others + 40_000)), Ok((false, 20_000, 20_000)));
        assert_eq!(fit(Some(others + 39_998)), Ok((true, 19_999, 19_999)));
        assert_eq!(fit(Some(others + 2)), Ok((true, 1, 1)));
        assert!(fit(Some(others + 1)).is_err());
    }
}
