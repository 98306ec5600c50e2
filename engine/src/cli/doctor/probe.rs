//! What only trying tells: whether shards start, how fast the disk syncs, who has the ports.
//!
//! Called once by `doctor`. Bounded: [`SYNCS_MAX`] writes or [`SYNCS_TIME`] and one more, a second
//! for each port that is taken. Leaves nothing behind: files have no name, and the limits that are
//! raised are those of this process.

use super::super::checks;
use crate::config::{Config, Listener};
use crate::dirlock::{self, DirError};
use crate::tls::expires;
use core::net::SocketAddr;
use core::time::Duration;
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes that are timed.
const SYNCS_MAX: usize = 32;
/// No further one after this; a single one may take as long as the disk does.
const SYNCS_TIME: Duration = Duration::from_secs(2);
/// What one write of the log is at least.
const PAGE_BYTES: usize = 4096;

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// The data folder, or the nearest folder above it that exists: absolute, without links.
    pub(super) folder: PathBuf,
    /// What `test` says of the data folder.
    pub(super) data: Result<String, String>,
    /// The engine that works in the data folder; its process, when that is known.
    pub(super) engine: Option<Option<u32>>,
    /// Permissions of the data folder when it exists, and its owner.
    pub(super) mode: Option<(u32, u32)>,
    /// Who asks.
    pub(super) user: u32,
    /// Processors that this process may run on.
    pub(super) processors: u64,
    /// Whether as many shards as configured start.
    pub(super) shards: Result<String, String>,
    /// Whether a file can be opened for direct writes.
    pub(super) direct: Option<bool>,
    /// How long a write of a page and its sync took, sorted.
    pub(super) syncs: Vec<Duration>,
    /// Free bytes against those needed.
    pub(super) space: Result<String, String>,
    /// Free inodes and all of them.
    pub(super) inodes: Option<(u64, u64)>,
    /// Each listener's address, and why it cannot be bound.
    pub(super) ports: Vec<(SocketAddr, Option<Errno>)>,
    /// Each certificate, and how many seconds it is still good for.
    pub(super) certificates: Vec<(PathBuf, Result<i64, String>)>,
    /// Each key, its permissions and its owner.
    pub(super) keys: Vec<(PathBuf, u32, u32)>,
}

impl Probe {
    /// Tries everything that `config` needs.
    pub(super) fn of(config: &Config) -> Self {
        let folder = checks::nearest_existing(&config.data);
        let folder = folder.canonicalize().unwrap_or(folder);
        let engine = match dirlock::inspect(&config.data) {
            Err(DirError::InUse { process, .. }) => Some(process),
            _ => None,
        };
        // As `run` does before shards are started.
        let _ = checks::take_locked_memory();
        let stat = rustix::fs::statvfs(&folder).ok();
        let mode = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.mode() & 0o7777, m.uid()));
        let keys = config.certificates.iter().filter_map(|pair| {
            let (mode, owner) = mode(&pair.key)?;
            Some((pair.key.clone(), mode, owner))
        });
        Self {
            data: checks::data_folder(&config.data),
            engine,
            mode: mode(&config.data),
            user: rustix::process::geteuid().as_raw(),
            processors: fsmtp_rt::glommio::processors().len() as u64,
            shards: checks::io_uring(config.cores),
            direct: direct(&folder),
            syncs: syncs(&folder, SYNCS_MAX, SYNCS_TIME).unwrap_or_default(),
            space: checks::disk_space(config),
            inodes: stat.map(|stat| (stat.f_favail, stat.f_files)),
            ports: config.listeners.iter().map(port).collect(),
            certificates: certificates(config),
            keys: keys.collect(),
            folder,
        }
    }
}

fn port(listener: &Listener) -> (SocketAddr, Option<Errno>) {
    (listener.address, checks::bind_patiently(listener.address).err())
}

fn certificates(config: &Config) -> Vec<(PathBuf, Result<i64, String>)> {
    let now = crate::run::now();
    let pairs = config.certificates.iter().map(|pair| {
        let usable = crate::tls::Certs::load(core::slice::from_ref(pair), now);
        let left = usable.and_then(|_| expires(pair));
        let left = left.map(|end| end - i64::try_from(now.seconds()).unwrap_or(i64::MAX));
        (pair.certificate.clone(), left.map_err(|error| error.to_string()))
    });
    pairs.collect()
}

/// A file in `folder` that has no name and goes with its descriptor.
pub(super) fn nameless(folder: &Path, more: OFlags) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC | more;
    let file = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

/// Whether files there take direct writes; unknown where nothing can be written at all.
fn direct(folder: &Path) -> Option<bool> {
    rustix::fs::access(folder, Access::WRITE_OK).ok()?;
    nameless(folder, OFlags::empty()).ok()?;
    Some(nameless(folder, OFlags::DIRECT).is_ok())
}

/// How long a write of a page and its sync take in `folder`, sorted: so many, or as many as there
/// is time for, one at least.
pub(in crate::cli) fn syncs(
    folder: &Path,
    count_max: usize,
    time: Duration,
) -> std::io::Result<Vec<Duration>> {
    let file = nameless(folder, OFlags::empty())?;
    let page = [0x5a; PAGE_BYTES];
    let (began, mut times) = (Instant::now(), Vec::new());
    // Over and over in the same place: what a log in preallocated space does, near enough.
    file.write_all_at(&page, 0)?;
    file.sync_all()?;
    // The slowest disk is to be known, too.
    while times.is_empty() || (times.len() < count_max && began.elapsed() < time) {
        let before = Instant::now();
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        times.push(before.elapsed());
    }
    times.sort();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_bounded_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let times = syncs(folder.path(), 3, Duration::from_secs(60)).unwrap();
        assert!(times.len() == 3 && times.is_sorted(), "{times:?}");
        let slow = syncs(folder.path(), SYNCS_MAX, Duration::ZERO).unwrap();
        assert_eq!(slow.len(), 1, "a disk that has used up the time is not unseen");
        assert!(direct(folder.path()).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(
            syncs(Path::new("/proc"), 1, SYNCS_TIME).is_err()
                && direct(Path::new("/proc")).is_none()
        );
    }
}
