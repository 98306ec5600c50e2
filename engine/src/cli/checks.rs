//! `fsmtp-engine test`: what a start would need, one line for each check.
//!
//! Called by `cli::main`; `run` makes the checks of the ports and of the limits, too, so that what
//! fails here is what fails there. A check changes nothing but the limits of its own process.

use super::{Terminal, load, say};
use crate::cluster;
use crate::config::{ClusterSettings, Config, Listener, Overrides};
use crate::dirlock::{self, DirState};
use crate::latest::Latest;
use crate::tls::{Certs, Roots, check_client_ca};
use crate::trust;
use core::net::SocketAddr;
use core::time::Duration;
use fsmtp_cluster::keyspace::{Task, perform};
use fsmtp_rt::glommio::{ACCEPTS_MAX, DESCRIPTORS_PER_FILE, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_store::spool::FILES_COUNT_MAX;
use rustix::fs::Access;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

/// Memory that the process must be allowed to lock: under less, glommio makes no executor.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Descriptors of a shard besides its clients: rings, log files, generously; and the segments that
/// its POP3 sessions share. So a client is one descriptor, whatever is spoken. Connections to other
/// servers and lookups of names take what clients leave: where nothing is left, mail waits.
const DESCRIPTORS_PER_SHARD: u64 = 64 + DESCRIPTORS_PER_FILE * FILES_COUNT_MAX as u64;
/// Descriptors of a listener on one shard: its own, and connections that are about to be looked at.
const DESCRIPTORS_PER_LISTENER: u64 = 1 + ACCEPTS_MAX as u64;
/// Descriptors of the process besides its shards: the index, the control socket, generously.
const DESCRIPTORS_OF_PROCESS: u64 = 128;

/// With `--dev` nobody has asked for as many connections as the listeners allow, and whoever
/// develops needs fewer than this; arbitrary.
const DEV_CONNECTIONS_MIN: u32 = 1000;

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
            // Before shards are started, as in `run`.
            let locked = take_locked_memory();
            add("io_uring", io_uring(config.cores));
            add("locked memory", locked);
            add("descriptors", descriptors(&config));
            // Those of --dev are made by its start.
            if !config.certificates.is_empty() {
                add("certificates", certificates(&config));
            }
            if let Some(file) = &config.client_ca {
                add("client authorities", client_ca(file));
            }
            // With --dev mail goes nowhere but where routes lead.
            if config.roots.is_some() || config.dev.is_none() {
                add("server authorities", roots(config.roots.as_deref()));
            }
            add("keys of trust", trusted(&config.data));
            if let Some(settings) = &config.cluster {
                add("cluster", in_reach(settings));
                if settings.redis.is_some() {
                    add("redis", redis_in_reach(settings));
                }
            }
            for (pattern, login) in config.sending.routes.logins() {
                let said = login.read().map(|_| format!("{} usable", login.file().display()));
                add("password", said.map_err(|why| format!("the route of `{pattern}`: {why}")));
            }
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

/// Whether the files can be read, belong together and are within their time.
fn certificates(config: &Config) -> Result<String, String> {
    let loaded = Certs::load(&config.certificates, crate::run::now());
    let said = |_| format!("{} usable", config.certificates.len());
    loaded.map(said).map_err(|error| error.to_string())
}

/// Whether the file holds certificates of authorities.
fn client_ca(file: &Path) -> Result<String, String> {
    let read = check_client_ca(file).map(|()| format!("{} usable", file.display()));
    read.map_err(|error| error.to_string())
}

/// Whether the keys that nodes of one owner share can be used.
fn trusted(data: &Path) -> Result<String, String> {
    let keys = trust::list(data).map_err(|error| error.to_string())?;
    let names: Vec<&str> = keys.iter().map(|key| &*key.name).collect();
    let said = if names.is_empty() { "none, so no node is trusted" } else { " usable" };
    Ok(format!("{}{said}", names.join(", ")))
}

/// Whether the cluster's servers answer, and their keyspace is one for this program.
fn in_reach(settings: &ClusterSettings) -> Result<String, String> {
    let terms = cluster::terms(settings)?;
    settings.secret_file.as_deref().map(cluster::secret).transpose()?;
    let done = perform(Task::Check, &terms, true).map_err(|error| error.to_string())?;
    match done.problems.first() {
        Some(problem) => Err(problem.to_string()),
        None => {
            Ok(format!("keyspace {} at {} is of use", terms.keyspace, terms.contacts.join(", ")))
        }
    }
}

/// Whether the cluster's Redis answers. Mail does not need it.
fn redis_in_reach(settings: &ClusterSettings) -> Result<String, String> {
    let redis = cluster::terms(settings)?.redis.ok_or("there is none")?;
    redis.ping().map(|()| format!("{} answers", redis.contacts.join(", ")))
}

/// Whether there are authorities that prove names of other servers.
fn roots(file: Option<&Path>) -> Result<String, String> {
    match Roots::load(file) {
        Ok(Some(roots)) => Ok(format!("{} usable", roots.count())),
        Ok(None) => Ok("none known here, so no policy of MTA-STS is kept to".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether every address can be bound. All are held until all were tried, so that two listeners
/// that exclude each other are found, too.
pub(super) fn ports_are_free(listeners: &[Listener]) -> Result<(), String> {
    let mut held = Vec::new();
    for listener in listeners {
        let address = listener.address;
        held.push(bind_patiently(address).map_err(|error| cannot_listen(address, error))?);
    }
    Ok(())
}

pub(super) fn cannot_listen(address: SocketAddr, error: rustix::io::Errno) -> String {
    format!("cannot listen on {address}: {}", std::io::Error::from(error))
}

/// Tries for a second: the sockets of an engine that was killed are in use until the kernel has
/// taken its ring apart.
pub(super) fn bind_patiently(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
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

pub(super) fn data_folder(folder: &Path) -> Result<String, String> {
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
pub(super) fn nearest_existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = absolute.ancestors().find(|path| path.exists());
    found.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

pub(super) fn disk_space(config: &Config) -> Result<String, String> {
    let folder = nearest_existing(&config.data);
    let stat = rustix::fs::statvfs(&folder)
        .map_err(|error| format!("{}: {}", folder.display(), std::io::Error::from(error)))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = needed_bytes(config);
    let mib = |bytes: u64| bytes / (1 << 20);
    let text = format!("{} MiB free, {} MiB needed", mib(free), mib(needed));
    if free >= needed { Ok(text) } else { Err(text) }
}

/// What a start takes of the disk, and what stays free.
pub(super) fn needed_bytes(config: &Config) -> u64 {
    // Each shard writes one log file and has the next one ready.
    let logs = config.store.segment_bytes.saturating_mul(2).saturating_mul(config.cores.into());
    config.store.reserve_bytes.saturating_add(logs)
}

/// Tells of a shard's start once, whether it came to pass or not.
struct Told(Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        // The receiver waits for all of them.
        let _ = self.0.send(());
    }
}

/// Starts as many shards as a run has, all at one time: what their rings take together is the
/// kernel's secret.
pub(super) fn io_uring(cores: u16) -> Result<String, String> {
    let helpers = Helpers::new("check", 1).map_err(|error| error.to_string())?;
    let (sender, told) = channel();
    let mut shards = Vec::new();
    let mut outcome = Ok(());
    for n in 0..cores {
        let name = format!("shard-{n}");
        let options = ShardOptions { name, cpu: None, stall_after: None, helpers: helpers.clone() };
        let (stop, told) = (Latest::default(), Told(sender.clone()));
        let stopped = stop.clone();
        let shard = start_shard(options, move |_| async move {
            drop(told);
            stopped.take().await;
        });
        match shard {
            Ok(shard) => shards.push((shard, stop)),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    for _ in &shards {
        // Cannot fail: `sender` lives.
        let _ = told.recv();
    }
    shards.iter().for_each(|(_, stop)| stop.put(()));
    for (shard, _) in shards {
        let ended = shard.join();
        outcome = outcome.and(ended);
    }
    outcome.map_err(|error| error.to_string())?;
    Ok(format!("{cores} shards started and stopped"))
}

/// Lets the process lock as much memory as its hard limit allows; fails when that is too little
/// for any shard.
pub(super) fn take_locked_memory() -> Result<String, String> {
    let limit = getrlimit(Resource::Memlock);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What cannot be raised stays as it is, and is judged below.
    let _ = setrlimit(Resource::Memlock, raised);
    locked_memory(getrlimit(Resource::Memlock).current)
}

pub(super) fn locked_memory(limit: Option<u64>) -> Result<String, String> {
    // No limit is as good as any.
    let Some(limit) = limit else { return Ok("no limit".to_owned()) };
    let text =
        format!("{} KiB may be locked, {} KiB are needed", limit >> 10, LOCKED_BYTES_MIN >> 10);
    if limit >= LOCKED_BYTES_MIN {
        Ok(text)
    } else {
        Err(format!("{text}: raise LimitMEMLOCK of the unit, or `ulimit -l`"))
    }
}

fn descriptors(config: &Config) -> Result<String, String> {
    let limit = getrlimit(Resource::Nofile).maximum;
    let mut fitted = config.clone();
    let note = fit_connections(&mut fitted, limit)?.filter(|_| is_felt(&fitted));
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit} may be open"));
    Ok(note.map_or_else(|| limit.clone(), |note| format!("{limit}; {note}")))
}

/// Lets the process have as many descriptors as its hard limit allows; gives back how many it has.
pub(super) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What cannot be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
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
    Ok(fit_connections(config, granted)?.filter(|_| is_felt(config)))
}

/// Whether somebody may miss the connections that do not fit.
fn is_felt(config: &Config) -> bool {
    config.dev.is_none()
        || config.listeners.iter().any(|listener| listener.connections_max < DEV_CONNECTIONS_MIN)
}

/// Lowers the listeners' limits to what `limit` descriptors are enough for.
pub(super) fn fit_connections(
    config: &mut Config,
    limit: Option<u64>,
) -> Result<Option<String>, String> {
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
                "{limit} files may be open, {others} are needed without any connection: raise \
                 LimitNOFILE of the unit, or `ulimit -n`"
            ));
        }
        listener.connections_max = u32::try_from(share).unwrap_or(u32::MAX);
        listener.connections_per_address_max =
            listener.connections_per_address_max.min(listener.connections_max);
    }
    let taken: u64 = config.listeners.iter().map(|l| u64::from(l.connections_max)).sum();
    Ok(Some(format!(
        "{limit} files may be open, too few for the {wanted} connections that the listeners allow \
         together: {taken} are taken and others turned away with a reply; for all, raise \
         LimitNOFILE of the unit, or `ulimit -n`, to {}",
        wanted + others
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_memory_does_not_depend_on_the_number_of_shards() {
        assert!(locked_memory(None).is_ok() && locked_memory(Some(512 << 10)).is_ok());
        let why = locked_memory(Some(511 << 10)).unwrap_err();
        assert!(why.contains("LimitMEMLOCK") && why.contains("`ulimit -l`"), "{why}");
        // Far more than one for each processor, together as in a run.
        assert_eq!(io_uring(5), Ok("5 shards started and stopped".to_owned()));
    }

    #[test]
    fn what_does_not_fit_is_told_to_those_who_asked_for_it() {
        let listener = "[[listener]]\naddress = '127.0.0.1:25'\nconnections_max = 20000\n";
        let dev = Overrides { dev: true, cores: Some(1), ..Overrides::default() };
        let real = Overrides { dev: false, ..dev.clone() };
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("fsmtp.toml");
        std::fs::write(&file, listener).unwrap();
        for (path, overrides, limit, felt) in [
            (None, &dev, 20_000, false),
            (None, &dev, 2_000, true),
            (Some(&*file), &real, 20_000, true),
            (Some(&*file), &real, 30_000, false),
        ] {
            let mut config = Config::load(path, overrides).unwrap();
            let note = fit_connections(&mut config, Some(limit)).unwrap();
            let note = note.filter(|_| is_felt(&config));
            assert_eq!(note.is_some(), felt, "{limit}: {note:?}");
            for said in ["LimitNOFILE", "`ulimit -n`", "are taken"] {
                assert!(note.as_ref().is_none_or(|note| note.contains(said)), "{note:?}");
            }
        }
    }

    #[test]
    fn certificates_are_looked_at_before_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["mx.example.test".to_owned()];
        let pair = crate::tls::self_signed(folder.path(), &names).unwrap();
        let overrides = Overrides { dev: true, ..Overrides::default() };
        let mut config = Config::load(None, &overrides).unwrap();
        config.certificates = vec![pair.clone()];
        assert_eq!(certificates(&config), Ok("1 usable".to_owned()));
        std::fs::remove_file(&pair.key).unwrap();
        assert!(certificates(&config).unwrap_err().contains("key.pem"));
        let said = client_ca(&folder.path().join("users.pem")).unwrap_err();
        assert!(said.contains("users.pem: No such file"), "{said}");
        let said = roots(Some(&folder.path().join("roots.pem"))).unwrap_err();
        assert!(said.contains("roots.pem: No such file"), "{said}");
        assert_eq!(roots(Some(&pair.certificate)), Ok("1 usable".to_owned()));
        // One that signs itself and is no authority.
        assert!(client_ca(&pair.certificate).unwrap_err().contains("not a certificate authority"));
    }

    #[test]
    fn keys_of_trust_are_looked_at_before_a_start() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(trusted(folder.path()), Ok("none, so no node is trusted".to_owned()));
        std::fs::create_dir_all(folder.path().join("keys/trust")).unwrap();
        let key = trust::file(folder.path(), "shared");
        std::fs::write(&key, "nonsense").unwrap();
        let said = trusted(folder.path()).unwrap_err();
        assert!(said.contains("keys/trust/shared.key"), "{said}");
    }

    #[test]
    fn connections_fit_the_descriptors() {
        let overrides = Overrides { dev: true, cores: Some(2), ..Overrides::default() };
        let mut config = Config::load(None, &overrides).unwrap();
        config.listeners.retain(|listener| listener.tls == crate::config::TlsMode::Starttls);
        config.listeners.remove(1);
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
