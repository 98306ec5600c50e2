//! Judges limits of the process, settings of the kernel, and what the listeners need.
//!
//! What settings should be is read from `tuning/sysctl.conf`, so that the two cannot drift apart; a
//! key of it has a row in [`SETTINGS`], which says how to compare.

use super::super::checks;
use super::facts::Facts;
use super::{Finding, Level};
use crate::config::Config;
use core::net::SocketAddr;
use rustix::io::Errno;

/// What a machine that takes thousands of connections is set to.
pub(super) const SYSCTL: &str = include_str!("../../../../tuning/sysctl.conf");

/// The unit, for what it sets.
pub(super) const UNIT: &str = include_str!("../../../../tuning/fsmtp-engine.service");

/// A certificate is renewed before it is this near to its end, by whatever renews it; arbitrary,
/// shorter than what any of them waits for.
const EXPIRY_S: i64 = 10 * 86_400;

/// How a live value compares with the file's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// A number, or more.
    AtLeast,
    /// Two numbers, or a range around them.
    Around,
}

/// A key of `tuning/sysctl.conf`.
#[derive(Debug)]
pub(super) struct Setting {
    /// As sysctl names it.
    pub(super) key: &'static str,
    rule: Rule,
    /// What another value is.
    otherwise: Level,
    why: &'static str,
}

/// All of them.
pub(super) const SETTINGS: [Setting; 2] = [
    Setting {
        key: "net.core.somaxconn",
        rule: Rule::AtLeast,
        otherwise: Level::Warn,
        why: "over it the kernel drops connections in a burst; clients try again a second later",
    },
    Setting {
        key: "net.ipv4.ip_local_port_range",
        rule: Rule::Around,
        // The engine takes connections and makes none.
        otherwise: Level::Ok,
        why: "outgoing connections to one address end where it does",
    },
];

/// What the file says of `key`.
pub(super) fn wanted(key: &str) -> Option<&'static str> {
    let lines = SYSCTL.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .find_map(|(name, value)| (name.trim() == key).then_some(value.trim()))
}

/// What the unit says of `key`; nothing when it says nothing.
pub(super) fn unit(key: &str) -> &'static str {
    let mut lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines.find(|(name, _)| *name == key).map_or("", |(_, value)| value)
}

impl Setting {
    fn suffices(&self, live: &str, wanted: &str) -> bool {
        let numbers = |text: &str| -> Vec<u64> {
            text.split_whitespace().map_while(|number| number.parse().ok()).collect()
        };
        match (self.rule, &numbers(live)[..], &numbers(wanted)[..]) {
            (Rule::AtLeast, [live], [wanted]) => live >= wanted,
            (Rule::Around, [low, high], [first, last]) => low <= first && high >= last,
            _ => false,
        }
    }
}

/// Each key of the file.
pub(super) fn settings(_: &Config, facts: &Facts) -> Vec<Finding> {
    let judge = |setting: &Setting| {
        let (key, wanted) = (setting.key, wanted(setting.key)?);
        let Some(live) = facts.settings.get(key) else {
            return Some(Finding::ok(format!("not seen: {key}")));
        };
        let is = format!("{key} is {live}");
        if setting.suffices(live, wanted) {
            return Some(Finding::ok(is));
        }
        let should = match setting.rule {
            Rule::AtLeast => format!("{wanted} or more"),
            Rule::Around => wanted.to_owned(),
        };
        let mend = format!("sysctl -w '{key}={wanted}', or all of tuning/sysctl.conf");
        Some(Finding::bad(setting.otherwise, is, should, setting.why, mend))
    };
    SETTINGS.iter().filter_map(judge).collect()
}

/// Matters only where SYN cookies are off.
pub(super) fn syn_backlog(_: &Config, facts: &Facts) -> Vec<Finding> {
    let live = |key| facts.settings.get(key).and_then(|value| value.parse::<u64>().ok());
    let cookies = live("net.ipv4.tcp_syncookies");
    let Some(backlog) = live("net.ipv4.tcp_max_syn_backlog") else {
        return vec![Finding::ok("not seen: net.ipv4.tcp_max_syn_backlog")];
    };
    let is = format!("net.ipv4.tcp_max_syn_backlog is {backlog}");
    match cookies {
        Some(0) => {
            let why = "with SYN cookies off, a flood of half-open connections shuts everybody out";
            let is = format!("{is}, net.ipv4.tcp_syncookies 0");
            let mend = "sysctl -w net.ipv4.tcp_syncookies=1";
            vec![Finding::bad(Level::Warn, is, "with SYN cookies on", why, mend)]
        }
        Some(_) => vec![Finding::ok(format!("{is}, and SYN cookies are on: no limit"))],
        None => vec![Finding::ok(is)],
    }
}

/// A note: how interrupts of the network are spread.
pub(super) fn queues(config: &Config, facts: &Facts) -> Vec<Finding> {
    let balanced = if facts.irqbalance { "irqbalance runs" } else { "irqbalance is not seen" };
    let note = |(name, queues): &(String, usize)| {
        let cores = config.cores;
        Finding::ok(format!("{name} receives by {queues} for {cores} shards; {balanced}"))
    };
    if facts.queues.is_empty() {
        return vec![Finding::ok("no network interface of hardware is seen")];
    }
    facts.queues.iter().map(note).collect()
}

/// Files that may be open.
pub(super) fn descriptors(config: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(limits) = &facts.limits else { return unseen_limits() };
    let should = "enough for all connections that the listeners allow";
    let mend = format!("LimitNOFILE={} in the unit, or `ulimit -n`", unit("LimitNOFILE"));
    let why = "connections over it are turned away";
    let bad = |level, says| vec![Finding::bad(level, says, should, why, mend)];
    match checks::fit_connections(&mut config.clone(), limits.open_files) {
        Err(says) => bad(Level::Fail, says),
        Ok(Some(says)) => bad(Level::Warn, format!("{says} ({})", limits.whose)),
        Ok(None) => {
            let limit = limits.open_files.map_or_else(|| "no limit".to_owned(), |n| n.to_string());
            vec![Finding::ok(format!("{limit} ({})", limits.whose))]
        }
    }
}

/// Bytes that may be locked.
pub(super) fn locked_memory(_: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(limits) = &facts.limits else { return unseen_limits() };
    vec![match checks::locked_memory(limits.locked_memory) {
        Ok(says) => Finding::ok(format!("{says} ({})", limits.whose)),
        Err(says) => {
            let why = "the rings of a shard are locked";
            let mend = format!("LimitMEMLOCK={} in the unit, or `ulimit -l`", unit("LimitMEMLOCK"));
            Finding::bad(Level::Fail, says, "more", why, mend)
        }
    }]
}

fn unseen_limits() -> Vec<Finding> {
    vec![Finding::ok("not seen: /proc/self/limits")]
}

/// Free, or ours already, and an address that this machine has.
pub(super) fn ports(_: &Config, facts: &Facts) -> Vec<Finding> {
    let judge = |&(address, refused): &(SocketAddr, Option<Errno>)| {
        let Some(refused) = refused else { return Finding::ok(format!("{address} is free")) };
        let says = checks::cannot_listen(address, refused);
        match refused {
            Errno::ADDRINUSE if facts.probe.engine.is_some() => {
                Finding::ok(format!("{address} is taken, and an engine works in the data folder"))
            }
            Errno::ACCESS if facts.probe.engine.is_some() => {
                Finding::ok(format!("not seen: {address}, which is not for this user to try"))
            }
            Errno::ADDRINUSE => {
                let mend = format!("ss -lntp 'sport = :{}' shows who has it", address.port());
                Finding::bad(Level::Fail, says, "free", "the engine listens there", mend)
            }
            // Perhaps right for this shell and wrong for the engine.
            Errno::ACCESS => {
                let should = "a port that the engine's user may listen on";
                let why = "those below 1024 need CAP_NET_BIND_SERVICE, which this shell lacks";
                let mend = "AmbientCapabilities= of the unit gives it; to try it, run this as root";
                Finding::bad(Level::Warn, says, should, why, mend)
            }
            _ => {
                let mend = "listener.address; `ip address` shows what there is";
                let should = "an address of this machine";
                Finding::bad(Level::Fail, says, should, "the engine listens there", mend)
            }
        }
    };
    facts.probe.ports.iter().map(judge).collect()
}

/// Usable, and for some time.
pub(super) fn certificates(_: &Config, facts: &Facts) -> Vec<Finding> {
    let mend = "renew it, then SIGHUP";
    let judge = |(path, left): &(std::path::PathBuf, Result<i64, String>)| match left {
        Err(says) => {
            let why = "nobody can encrypt";
            Finding::bad(Level::Fail, says, "a certificate of today and its key", why, mend)
        }
        Ok(seconds) => {
            let is = format!("{} is good for {} days", path.display(), seconds / 86_400);
            if *seconds >= EXPIRY_S {
                return Finding::ok(is);
            }
            let should = format!("{} days at least", EXPIRY_S / 86_400);
            let why = "clients refuse one that has expired";
            Finding::bad(Level::Warn, is, should, why, mend)
        }
    };
    facts.probe.certificates.iter().map(judge).collect()
}

/// Readable by few, and by the engine.
pub(super) fn keys(_: &Config, facts: &Facts) -> Vec<Finding> {
    // Whose the data folder is, he runs the engine; root reads everything.
    let user = facts.probe.mode.map_or(facts.probe.user, |(_, owner)| owner);
    let judge = |(path, mode, owner): &(std::path::PathBuf, u32, u32)| {
        let path = path.display();
        let is = format!("{path} has mode {mode:04o}");
        let level = match mode {
            mode if mode & 0o007 != 0 => Level::Fail,
            mode if mode & 0o020 != 0 => Level::Warn,
            mode if mode & 0o040 == 0 && *owner != user && user != 0 => {
                let is = format!("{is} and belongs to user {owner}, the data folder to {user}");
                let why = "the engine does not start with a key that it cannot read";
                let mend = "a copy for the engine, by a hook of whatever renews it; then SIGHUP";
                return Finding::bad(Level::Warn, is, "readable by the engine's user", why, mend);
            }
            _ => return Finding::ok(is),
        };
        let why = "whoever reads it can pose as this host";
        let mend = format!("chmod 0600 {path}");
        Finding::bad(level, is, "0600, or 0640 with a group of its own", why, mend)
    };
    facts.probe.keys.iter().map(judge).collect()
}
