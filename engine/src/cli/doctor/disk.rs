//! Judges the data folder and what it lies on.

use super::facts::Facts;
use super::{Finding, Level};
use crate::config::Config;
use core::time::Duration;

/// File systems that the engine is tested on.
const TRIED: [&str; 3] = ["ext4", "xfs", "ext3"];
/// Those that a reboot empties.
const FLEETING: [&str; 2] = ["tmpfs", "ramfs"];
/// Those on another machine.
const REMOTE: [&str; 9] =
    ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "fuse.sshfs", "virtiofs"];
/// Fewer than this are soon gone: each log file is one, and the index has a few.
const INODES_MIN: u64 = 1000;
/// A sync that takes longer than this is felt by every client; arbitrary, what one turn of a slow
/// spinning disk and its seek take.
const SYNC_MAX: Duration = Duration::from_millis(20);

/// Ours, free or in use by an engine, and closed to others.
pub(super) fn folder(config: &Config, facts: &Facts) -> Vec<Finding> {
    let folder = config.data.display();
    let mut found = vec![match (&facts.probe.data, facts.probe.engine) {
        (Ok(says), _) => Finding::ok(says),
        (Err(says), Some(_)) => Finding::ok(says),
        (Err(says), None) => {
            let why = "everything is kept there";
            let mend = "run this as the engine's user, or --data DIR";
            Finding::bad(Level::Fail, says, "a folder that the engine can use", why, mend)
        }
    }];
    let Some((mode, owner)) = facts.probe.mode else { return found };
    if mode & 0o077 != 0 {
        let level = if mode & 0o002 == 0 { Level::Warn } else { Level::Fail };
        let why = "nobody else needs to look in; its files are closed, their names are not";
        let is = format!("{folder} has mode {mode:04o}");
        let mend = format!("chmod 0700 {folder}");
        found.push(Finding::bad(level, is, "0700", why, mend));
    }
    if owner != facts.probe.user && facts.probe.user != 0 {
        let is = format!("{folder} belongs to user {owner}, this is user {}", facts.probe.user);
        let why = "the engine makes files that only their owner reads";
        let mend = "run this as the engine's user";
        found.push(Finding::bad(Level::Warn, is, "one's own", why, mend));
    }
    found
}

/// Local, durable, with direct writes.
pub(super) fn file_system(_: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(mount) = &facts.mount else {
        return vec![Finding::ok("not seen: /proc/self/mountinfo")];
    };
    let kind = mount.kind.as_str();
    let is = format!("{kind} at {}", mount.point.display());
    let bad = |level, why| {
        let mend = "--data DIR on ext4 or XFS of a local disk";
        Finding::bad(level, is.clone(), "ext4 or XFS on a local disk", why, mend)
    };
    let mut found = vec![match kind {
        _ if TRIED.contains(&kind) => Finding::ok(is.clone()),
        _ if FLEETING.contains(&kind) => bad(Level::Fail, "a reboot loses all mail"),
        _ if REMOTE.contains(&kind) => {
            bad(Level::Warn, "a sync means what another machine makes of it; locks, too")
        }
        "overlay" => bad(Level::Warn, "it is a container's layer, and goes when that goes"),
        _ => bad(Level::Warn, "the engine was not tested on it"),
    }];
    let off = |option: &&String| matches!(option.as_str(), "nobarrier" | "barrier=0");
    if let Some(option) = mount.options.iter().find(off) {
        let is = format!("{} is mounted with {option}", mount.point.display());
        let why = "a sync no longer reaches the disk: a power cut loses mail that got its 250";
        let mend = format!("mount -o remount,barrier {}", mount.point.display());
        found.push(Finding::bad(Level::Fail, is, "without", why, mend));
    }
    found.push(match facts.probe.direct {
        Some(true) => Finding::ok("takes direct writes"),
        Some(false) => bad(Level::Warn, "without direct writes each of them is copied once more"),
        None => Finding::ok(
            "not seen: whether it takes direct writes; no file without a name can be made there",
        ),
    });
    found
}

/// As `test` says.
pub(super) fn space(_: &Config, facts: &Facts) -> Vec<Finding> {
    vec![match &facts.probe.space {
        Ok(says) => Finding::ok(says),
        Err(says) => {
            let why = "mail is refused for the time being when less is free";
            let mend = "more room, or store.reserve_bytes and store.segment_bytes";
            Finding::bad(Level::Fail, says, "at least that", why, mend)
        }
    }]
}

/// Free ones.
pub(super) fn inodes(_: &Config, facts: &Facts) -> Vec<Finding> {
    match facts.probe.inodes {
        // Some file systems make them as they go and say 0 of 0.
        None | Some((_, 0)) => vec![Finding::ok("no limit")],
        Some((free, all)) if free >= INODES_MIN => {
            vec![Finding::ok(format!("{free} of {all} free"))]
        }
        Some((free, all)) => {
            let is = format!("{free} of {all} free");
            let should = format!("{INODES_MIN} at least");
            let mend = "remove files, or a new file system";
            vec![Finding::bad(Level::Warn, is, should, "each log file takes one", mend)]
        }
    }
}

/// How long it takes until a page is on the disk.
pub(super) fn sync(_: &Config, facts: &Facts) -> Vec<Finding> {
    let times = &facts.probe.syncs;
    let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) else {
        return vec![Finding::ok("not seen: no file without a name can be written there")];
    };
    let is = format!("median of {} is {median:.1?}, longest {longest:.1?}", times.len());
    if *median <= SYNC_MAX {
        return vec![Finding::ok(is)];
    }
    let why = "every 250 waits for one";
    let mend = "a disk with a cache that outlives a power cut, or less beside it";
    vec![Finding::bad(Level::Warn, is, format!("{SYNC_MAX:?} or less"), why, mend)]
}

/// A note, whichever way: no setting of ours can see whether a disk tells the truth.
pub(super) fn write_cache(_: &Config, facts: &Facts) -> Vec<Finding> {
    vec![match facts.write_cache.as_deref() {
        None => Finding::ok("not seen: the disk's queue/write_cache below /sys/block"),
        Some("write back") => Finding::ok("volatile; the kernel flushes it with every sync"),
        Some(_) => Finding::ok(
            "none, says the disk: nothing is flushed, right only if its cache outlives a power cut",
        ),
    }]
}
