//! CPU time of processes together with everything that they started.
//!
//! Used where a server is made of many processes that come and go. Each process is counted with the
//! children that it has waited for, which the kernel keeps in its `cutime` and `cstime`, and every
//! living descendant by itself; so nothing is missed but a child that nobody waited for. Read from
//! `/proc`, which is not read in one instant: a reading counts only when the same processes were
//! there before and after it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// How often a reading is taken again; arbitrary. A server at rest needs one.
const READINGS_MAX: usize = 100;

/// Processes of this machine, and their descendants.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    roots: Vec<u32>,
}

/// What `/proc/PID/stat` says of one process.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    /// Of itself and of the children that it has waited for, in clock ticks.
    ticks: u64,
}

impl Tree {
    /// Of these processes; none of them may be a descendant of another.
    pub(crate) fn new(roots: &[u32]) -> Self {
        Self { roots: roots.to_vec() }
    }

    /// CPU time so far, user and system.
    ///
    /// # Errors
    /// A root that does not run, and a tree that changes faster than it can be read.
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        let mut last = self.members()?;
        for _ in 0..READINGS_MAX {
            let now = self.members()?;
            if now.keys().eq(last.keys()) {
                let per_second = rustix::param::clock_ticks_per_second().max(1);
                let ticks: u64 = now.values().sum();
                return Ok(Duration::from_nanos(ticks * (1_000_000_000 / per_second)));
            }
            last = now;
        }
        Err("processes come and go too fast to be counted".to_owned())
    }

    /// Ticks of each process of the tree.
    fn members(&self) -> Result<BTreeMap<u32, u64>, String> {
        let all = everybody()?;
        let mut members = BTreeMap::new();
        for root in &self.roots {
            let stat = all.get(root).ok_or_else(|| format!("process {root} does not run"))?;
            members.insert(*root, stat.ticks);
        }
        // Each round adds one generation; there are no more of them than processes.
        loop {
            let found = members.len();
            for (pid, stat) in &all {
                if members.contains_key(&stat.parent) {
                    members.insert(*pid, stat.ticks);
                }
            }
            if members.len() == found {
                return Ok(members);
            }
        }
    }
}

/// Every process of the machine that can be read.
fn everybody() -> Result<BTreeMap<u32, Stat>, String> {
    let entries = fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ends in between is no longer there to be read.
    let one = |pid: u32| Some((pid, stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    Ok(pids.filter_map(one).collect())
}

/// Parses the line; the name in parentheses may hold anything.
fn stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    // utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5), of which two are cut off.
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_behind_the_name() {
        let line = "7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 11 22 33 44 20 0 1 0 5 6 7";
        let stat = stat(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (3, 110));
        assert!(super::stat("7 (a").is_none());
    }

    #[test]
    fn children_are_counted_while_they_run_and_after() {
        let me = Tree::new(&[std::process::id()]);
        let before = me.cpu().unwrap();
        let work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("{work}; read end")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let both = Tree::new(&[std::process::id()]).members().unwrap();
        assert!(both.contains_key(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(me.cpu().unwrap() > before, "what an ended child spent stays");
        assert!(Tree::new(&[child.id()]).cpu().is_err());
    }
}
