//! Judges the kernel, the processors, the memory and the clock.

use super::facts::Facts;
use super::{Finding, Level, size};
use crate::config::Config;

/// The oldest kernel that the project is built for.
const KERNEL_MIN: (u64, u64) = (6, 1);

/// What an idle connection may take, process and kernel together: docs/performance.md promises it.
pub(in crate::cli) const CONNECTION_BYTES: u64 = 20 << 10;

fn unseen(what: &str) -> Vec<Finding> {
    vec![Finding::ok(format!("not seen: {what}"))]
}

/// Its version.
pub(super) fn kernel(_: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(release) = &facts.kernel else { return unseen("/proc/sys/kernel/osrelease") };
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return vec![Finding::ok(format!("Linux {release}"))];
    }
    let why = "older ones lack io_uring operations that the engine uses";
    let is = format!("Linux {release}");
    vec![Finding::bad(Level::Fail, is, "6.1 or later", why, "install a newer kernel and reboot")]
}

/// Whether it is allowed, and whether shards start.
pub(super) fn io_uring(_: &Config, facts: &Facts) -> Vec<Finding> {
    let zero = "sysctl kernel.io_uring_disabled=0";
    let mut found = Vec::new();
    match facts.uring_disabled {
        Some(2..) => {
            let why = "the engine does all its input and output by it";
            found.push(Finding::bad(Level::Fail, "kernel.io_uring_disabled is 2", "0", why, zero));
        }
        Some(1) => {
            let why = "only members of kernel.io_uring_group may use it";
            let mend = format!("{zero}, or put the engine's user into that group");
            found.push(Finding::bad(Level::Warn, "kernel.io_uring_disabled is 1", "0", why, mend));
        }
        _ => {}
    }
    found.push(match &facts.probe.shards {
        Ok(says) => Finding::ok(says),
        Err(says) => {
            let mend = format!("{zero}; raise LimitMEMLOCK of the unit, or `ulimit -l`");
            Finding::bad(Level::Fail, says, "shards that start", "nothing runs without", mend)
        }
    });
    found
}

/// As many as shards.
pub(super) fn processors(config: &Config, facts: &Facts) -> Vec<Finding> {
    let (cores, processors) = (u64::from(config.cores), facts.probe.processors);
    let is = format!("{cores} shards, {processors} processors to run on");
    if cores <= processors {
        return vec![Finding::ok(is)];
    }
    let why = "each shard is a thread of its own core; more of them cost and gain nothing";
    let should = format!("{processors} shards at most");
    vec![Finding::bad(Level::Warn, is, should, why, format!("--cores {processors}"))]
}

/// Time that control groups allow.
pub(super) fn quota(config: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(quota) = facts.quota else { return vec![Finding::ok("none")] };
    let is = format!("{}.{:02} processors", quota / 1000, quota % 1000 / 10);
    if quota >= u64::from(config.cores) * 1000 {
        return vec![Finding::ok(is)];
    }
    let why = "a shard that is out of its quota stops for tens of milliseconds, with all its mail";
    let should = format!("{} or none", config.cores);
    let mend = format!("CPUQuota= of the unit, or --cores {}", (quota / 1000).max(1));
    vec![Finding::bad(Level::Warn, is, should, why, mend)]
}

/// Instructions for AES.
pub(super) fn cryptography(_: &Config, facts: &Facts) -> Vec<Finding> {
    match facts.aes {
        None => unseen("the flags in /proc/cpuinfo"),
        Some(true) => vec![Finding::ok("the processors have instructions for AES")],
        Some(false) => vec![Finding::bad(
            Level::Warn,
            "no instructions for AES",
            "there",
            "TLS and sealed mail cost many times as much without",
            "give the virtual machine the host's processor model",
        )],
    }
}

/// A note, whichever way.
pub(super) fn mitigations(_: &Config, facts: &Facts) -> Vec<Finding> {
    if facts.vulnerable.is_empty() {
        return vec![Finding::ok("the kernel names no weakness as open")];
    }
    let open = facts.vulnerable.join(", ");
    vec![Finding::ok(format!("open: {open}; it matters where others run code on this machine"))]
}

/// Enough for the connections that are allowed.
pub(super) fn memory(config: &Config, facts: &Facts) -> Vec<Finding> {
    let Some(memory) = facts.memory else { return unseen("/proc/meminfo") };
    let memory = memory.min(facts.memory_limit.unwrap_or(u64::MAX));
    let connections: u64 = config.listeners.iter().map(|l| u64::from(l.connections_max)).sum();
    let needed = connections * CONNECTION_BYTES;
    let is =
        format!("{} to use, {} for {connections} idle connections", size(memory), size(needed));
    if needed <= memory / 2 {
        return vec![Finding::ok(is)];
    }
    let should = "twice what they take";
    let why = "messages, the index and the page cache need the rest";
    let mend = "lower connections_max of the listeners, or more memory";
    vec![Finding::bad(Level::Warn, is, should, why, mend)]
}

/// A note: what they do to this engine was not measured.
pub(super) fn huge_pages(_: &Config, facts: &Facts) -> Vec<Finding> {
    match facts.huge_pages.as_deref() {
        None => unseen("/sys/kernel/mm/transparent_hugepage/enabled"),
        Some("always") => vec![Finding::ok("always: memory may be held in pieces of 2 MiB")],
        Some(mode) => vec![Finding::ok(mode)],
    }
}

/// Off, or nobody's secrets in it.
pub(super) fn swap(_: &Config, facts: &Facts) -> Vec<Finding> {
    if facts.swaps.is_empty() {
        return vec![Finding::ok("none")];
    }
    vec![Finding::bad(
        Level::Warn,
        facts.swaps.join(", "),
        "off or encrypted",
        "keys and passwords in memory may be written there, and a shard that waits for it stands",
        "swapoff -a, and MemorySwapMax=0 in the unit",
    )]
}

/// Kept by somebody.
pub(super) fn clock(_: &Config, facts: &Facts) -> Vec<Finding> {
    match facts.clock {
        Some(says) => vec![Finding::ok(says)],
        None => vec![Finding::bad(
            Level::Warn,
            "nothing seen that keeps it",
            "synchronised",
            "certificates, dates of messages and signatures are judged by it",
            "timedatectl set-ntp true, or chrony; nothing where the host keeps it",
        )],
    }
}
