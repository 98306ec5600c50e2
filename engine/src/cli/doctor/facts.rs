//! What this machine is, as its files under `/proc`, `/sys` and `/run` say.
//!
//! Read from below a root that tests replace by a folder of theirs. A file that is missing or says
//! nothing that we understand leaves its fact unknown; nothing here fails.

use super::Ground;
use super::limits::SETTINGS;
use super::probe::Probe;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest file that is read: `/proc/cpuinfo` of a machine with a thousand processors.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Everything that checks judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The kernel's release.
    pub(super) kernel: Option<String>,
    /// `kernel.io_uring_disabled`; none before Linux 6.6.
    pub(super) uring_disabled: Option<u64>,
    /// Processors' worth of time that the control groups allow the engine that runs, else this
    /// process, in thousandths.
    pub(super) quota: Option<u64>,
    /// Memory of the machine in bytes.
    pub(super) memory: Option<u64>,
    /// What the control groups allow of it.
    pub(super) memory_limit: Option<u64>,
    /// Where memory may be written to.
    pub(super) swaps: Vec<String>,
    /// Which transparent huge pages are in effect.
    pub(super) huge_pages: Option<String>,
    /// Whether processors have instructions for AES.
    pub(super) aes: Option<bool>,
    /// Weaknesses of the processors that nothing is done about.
    pub(super) vulnerable: Vec<String>,
    /// What keeps the clock, when that leaves a trace.
    pub(super) clock: Option<&'static str>,
    /// Network interfaces of hardware, and how many queues of each receive.
    pub(super) queues: Vec<(String, usize)>,
    /// Whether irqbalance runs.
    pub(super) irqbalance: bool,
    /// Live values of the kernel's settings.
    pub(super) settings: BTreeMap<&'static str, String>,
    /// The hard limits of the engine that runs, else of this process.
    pub(super) limits: Option<Limits>,
    /// The mount that the data folder lies on.
    pub(super) mount: Option<Mount>,
    /// What its disk says of its cache.
    pub(super) write_cache: Option<String>,
    /// What only trying tells.
    pub(super) probe: Probe,
}

/// What a process may have at most; none is no limit.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Whose they are.
    pub(super) whose: String,
    /// Files that are open.
    pub(super) open_files: Option<u64>,
    /// Bytes that are locked.
    pub(super) locked_memory: Option<u64>,
}

/// A line of `mountinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it hangs.
    pub(super) point: PathBuf,
    /// The file system.
    pub(super) kind: String,
    /// Its options, those of the mount and those of the file system.
    pub(super) options: Vec<String>,
    /// Major and minor number of the device.
    pub(super) device: String,
}

impl Facts {
    /// Reads what is below `root`.
    pub(super) fn gather(root: &Path, probe: Probe) -> Self {
        let tree = Tree { root };
        let mount = tree.mount(&probe.folder);
        // A unit has a control group of its own.
        let engine = probe.engine.flatten();
        let process = engine.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let live = |key: &str| {
            let value = tree.read(&format!("proc/sys/{}", key.replace('.', "/")))?;
            Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let settings = SETTINGS.iter().map(|setting| setting.key);
        let settings = settings.chain(["net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_syncookies"]);
        let swaps = tree.read("proc/swaps").unwrap_or_default();
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Self {
            kernel: tree.word("proc/sys/kernel/osrelease"),
            uring_disabled: tree.number("proc/sys/kernel/io_uring_disabled"),
            quota: tree.quota(&process),
            memory: tree.memory(),
            memory_limit: tree.memory_limit(&process),
            swaps: swaps.map(str::to_owned).collect(),
            huge_pages: tree.chosen("sys/kernel/mm/transparent_hugepage/enabled"),
            aes: tree.aes(),
            vulnerable: tree.vulnerable(),
            clock: tree.clock(),
            queues: tree.queues(),
            irqbalance: tree.path("run/irqbalance").exists(),
            settings: settings.filter_map(|key| Some((key, live(key)?))).collect(),
            limits: tree.limits(engine),
            write_cache: mount.as_ref().and_then(|mount| tree.write_cache(&mount.device)),
            mount,
            probe,
        }
    }
}

/// What `folder` lies on.
pub(super) fn ground(root: &Path, folder: &Path) -> Ground {
    let tree = Tree { root };
    let mount = tree.mount(folder).unwrap_or_default();
    let memory = tree.memory().unwrap_or(u64::MAX);
    Ground {
        memory: memory.min(tree.memory_limit("self").unwrap_or(u64::MAX)),
        disk: tree.disk(&mount.device),
        file_system: mount.kind,
    }
}

/// The second value of the line that begins with `name`, unless it is `unlimited`.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Files below a root.
struct Tree<'r> {
    root: &'r Path,
}

impl Tree<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    fn read(&self, name: &str) -> Option<String> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let file = fs::File::open(self.path(name)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn word(&self, name: &str) -> Option<String> {
        Some(self.read(name)?.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.word(name)?.parse().ok()
    }

    fn limits(&self, engine: Option<u32>) -> Option<Limits> {
        let (process, whose) = match engine {
            Some(pid) => (pid.to_string(), format!("of the engine that is process {pid}")),
            None => ("self".to_owned(), "of this shell; a unit has its own".to_owned()),
        };
        let text = self.read(&format!("proc/{process}/limits"))?;
        Some(Limits {
            whose,
            open_files: hard_limit(&text, "Max open files"),
            locked_memory: hard_limit(&text, "Max locked memory"),
        })
    }

    /// The word in brackets.
    fn chosen(&self, name: &str) -> Option<String> {
        let text = self.read(name)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// The names in a folder, sorted.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Looks at the control group of `process` and at those above it: `read` is given each
    /// folder; the smallest answer counts. `old` is the controller's name in the first version.
    fn groups(&self, process: &str, old: &str, read: impl Fn(&str) -> Option<u64>) -> Option<u64> {
        let text = self.read(&format!("proc/{process}/cgroup"))?;
        let mut found = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let base = match controllers {
                "" => "sys/fs/cgroup".to_owned(),
                names if names.split(',').any(|name| name == old) => format!("sys/fs/cgroup/{old}"),
                _ => continue,
            };
            let above = Path::new(path).ancestors().filter_map(Path::to_str);
            found.extend(above.filter_map(|path| read(&format!("{base}{path}"))));
        }
        found.into_iter().min()
    }

    fn quota(&self, process: &str) -> Option<u64> {
        let thousandths = |quota: u64, period: u64| quota.saturating_mul(1000).checked_div(period);
        self.groups(process, "cpu", |group| {
            let new = self.read(&format!("{group}/cpu.max")).and_then(|text| {
                let (quota, period) = text.trim().split_once(' ')?;
                thousandths(quota.parse().ok()?, period.parse().ok()?)
            });
            new.or_else(|| {
                let quota = self.number(&format!("{group}/cpu.cfs_quota_us"))?;
                thousandths(quota, self.number(&format!("{group}/cpu.cfs_period_us"))?)
            })
        })
    }

    fn memory(&self) -> Option<u64> {
        let text = self.read("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
    }

    fn memory_limit(&self, process: &str) -> Option<u64> {
        self.groups(process, "memory", |group| {
            let new = self.number(&format!("{group}/memory.max"));
            new.or_else(|| self.number(&format!("{group}/memory.limit_in_bytes")))
        })
    }

    fn aes(&self) -> Option<bool> {
        let text = self.read("proc/cpuinfo")?;
        let flags = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
        let line = text.lines().find(flags)?;
        Some(line.split_whitespace().any(|flag| flag == "aes"))
    }

    fn vulnerable(&self) -> Vec<String> {
        let folder = "sys/devices/system/cpu/vulnerabilities";
        let open = |name: &String| {
            self.read(&format!("{folder}/{name}"))
                .is_some_and(|text| text.starts_with("Vulnerable"))
        };
        self.names(folder).into_iter().filter(open).collect()
    }

    fn clock(&self) -> Option<&'static str> {
        let traces = [
            ("run/systemd/timesync/synchronized", "systemd-timesyncd has set it"),
            ("run/chrony/chronyd.pid", "chronyd runs"),
            ("run/chronyd.pid", "chronyd runs"),
            ("run/ntpd.pid", "ntpd runs"),
        ];
        traces.into_iter().find(|(path, _)| self.path(path).exists()).map(|(_, says)| says)
    }

    fn queues(&self) -> Vec<(String, usize)> {
        let hardware = |name: &String| self.path(&format!("sys/class/net/{name}/device")).exists();
        let queues = |name: String| {
            let queues = self.names(&format!("sys/class/net/{name}/queues"));
            let receiving = queues.iter().filter(|queue| queue.starts_with("rx-")).count();
            (name, receiving)
        };
        self.names("sys/class/net").into_iter().filter(hardware).map(queues).collect()
    }

    /// The mount that `folder`, an absolute path, lies on: the last one with the longest path.
    fn mount(&self, folder: &Path) -> Option<Mount> {
        let text = self.read("proc/self/mountinfo")?;
        let mounts =
            text.lines().filter_map(mount).filter(|mount| folder.starts_with(&mount.point));
        mounts.max_by_key(|mount| mount.point.components().count())
    }

    fn write_cache(&self, device: &str) -> Option<String> {
        let file = self.disk(device)?.join("queue/write_cache");
        Some(fs::read_to_string(file).ok()?.trim().to_owned())
    }

    /// The folder of the disk that `device` is, or is a part of.
    fn disk(&self, device: &str) -> Option<PathBuf> {
        let device = fs::canonicalize(self.path(&format!("sys/dev/block/{device}"))).ok()?;
        let part = device.join("partition").exists();
        if part { device.parent().map(Path::to_owned) } else { Some(device) }
    }
}

fn mount(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let mut system = system.splitn(3, ' ');
    let kind = system.next()?.to_owned();
    let of_system = system.nth(1).unwrap_or_default();
    let options = mount.get(5)?.split(',').chain(of_system.split(','));
    // The kernel writes what would divide fields or lines as octal numbers.
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let point = escapes
        .iter()
        .fold(mount.get(4)?.to_string(), |point, (code, plain)| point.replace(code, plain));
    Some(Mount {
        point: PathBuf::from(point),
        kind,
        options: options.map(str::to_owned).collect(),
        device: (*mount.get(2)?).to_owned(),
    })
}
