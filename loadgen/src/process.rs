//! What a process and the kernel hold and spend, read from `/proc`.
//!
//! Used by every kind of load, for the server's process. Linux only; a file that cannot be read is
//! an error that names it.

use std::fs;
use std::time::Duration;

/// Memory and time of one process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: u32,
}

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Proportional set size: shared pages count by their share.
    pub(crate) pss: u64,
    /// Resident set size.
    pub(crate) rss: u64,
}

impl Process {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
    }

    /// What it holds now.
    pub(crate) fn memory(&self) -> Result<Memory, String> {
        let text = self.read("smaps_rollup")?;
        Ok(Memory { pss: kib(&text, "Pss:"), rss: kib(&text, "Rss:") })
    }

    /// What it holds now, cheaply: pages of the resident set.
    pub(crate) fn resident(&self) -> Result<u64, String> {
        let text = self.read("statm")?;
        let pages: u64 = text.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
        Ok(pages * rustix::param::page_size() as u64)
    }

    /// The most that it ever held.
    pub(crate) fn resident_peak(&self) -> Result<u64, String> {
        Ok(kib(&self.read("status")?, "VmHWM:"))
    }

    /// CPU time of the threads that run now, to the nanosecond; those that have ended are left out.
    pub(crate) fn cpu_of_threads(&self) -> Result<Duration, String> {
        let path = format!("/proc/{}/task", self.pid);
        let mut ns: u64 = 0;
        for thread in fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))? {
            let thread = thread.map_err(|e| format!("{path}: {e}"))?;
            // A thread that has ended since the folder was listed has no file any more.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            ns += text.split(' ').next().and_then(|spent| spent.parse().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(ns))
    }
}

/// What the kernel holds for sockets and other objects, machine-wide, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kernel {
    /// Slab: socket structures, file objects, epoll and ring entries.
    pub(crate) slab: u64,
    /// Pages of socket buffers (`TCP: mem` of sockstat).
    pub(crate) socket_buffers: u64,
}

impl Kernel {
    /// What it holds now.
    pub(crate) fn now() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let sockets = read("/proc/net/sockstat")?;
        let tcp = sockets.lines().find(|l| l.starts_with("TCP:")).unwrap_or("");
        let pages = tcp.split_once(" mem ").and_then(|(_, m)| m.trim().parse::<u64>().ok());
        Ok(Self {
            slab: kib(&read("/proc/meminfo")?, "Slab:"),
            socket_buffers: pages.unwrap_or(0) * rustix::param::page_size() as u64,
        })
    }
}

/// The value of a line `name   123 kB`, in bytes; 0 when there is none.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Allows this process as many open files as the system does.
pub(crate) fn raise_open_files(wanted: usize) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = wanted as u64 + 64;
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if now.maximum.is_some_and(|maximum| maximum < wanted) {
        return Err(format!(
            "{wanted} open files are needed, the hard limit is {:?}: raise it with ulimit -n",
            now.maximum
        ));
    }
    let limit = Rlimit { current: Some(wanted), maximum: now.maximum };
    setrlimit(Resource::Nofile, limit).map_err(|e| format!("ulimit -n {wanted}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_and_spends_something() {
        let me = Process::new(std::process::id());
        let memory = me.memory().unwrap();
        assert!(memory.rss >= memory.pss && memory.pss > 0);
        assert!(me.resident().unwrap() > 0);
        assert!(me.resident_peak().unwrap() >= me.resident().unwrap() / 2);
        assert!(!me.cpu_of_threads().unwrap().is_zero());
        assert!(Kernel::now().unwrap().slab > 0);
        assert_eq!(kib("A: 1 kB\nB:   20 kB\n", "B:"), 20 * 1024);
    }
}
