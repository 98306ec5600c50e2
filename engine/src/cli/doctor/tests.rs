//! Machines of the tests' own: a tree of files for what is read, values for what is tried.

use super::super::args::Command;
use super::*;
use crate::cli::checks;
use core::time::Duration;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A machine that nobody would complain of.
const GOOD: [(&str, &str); 20] = [
    ("proc/sys/kernel/osrelease", "6.12.3-arch1\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "16384\t60999\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "256\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/meminfo", "MemTotal:       16384000 kB\nMemFree:  1 kB\n"),
    ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    ("proc/cpuinfo", "processor : 0\nflags\t: fpu aes avx2\n"),
    ("proc/self/cgroup", "0::/system.slice/fsmtp.service\n"),
    (
        "proc/self/limits",
        "Limit   Soft Limit   Hard Limit   Units\n\
         Max open files            1024                 1048576              files     \n\
         Max locked memory         8388608              unlimited            bytes     \n",
    ),
    (
        "proc/self/mountinfo",
        "26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
         27 26 0:20 / /tmp rw - tmpfs tmpfs rw\n\
         28 26 8:2 / /mail\\040box rw,noatime shared:1 - xfs /dev/sda2 rw,attr2\n",
    ),
    ("sys/fs/cgroup/system.slice/fsmtp.service/cpu.max", "max 100000\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n"),
    ("run/systemd/timesync/synchronized", ""),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/device/vendor", "0x1\n"),
    ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
    ("sys/dev/block/8:2/queue/write_cache", "write back\n"),
];

fn config() -> Config {
    let overrides = Overrides { dev: true, cores: Some(2), ..Overrides::default() };
    let mut config = Config::load(None, &overrides).unwrap();
    config.data = PathBuf::from("/mail box/data");
    config
}

fn good() -> Probe {
    Probe {
        folder: PathBuf::from("/mail box/data"),
        data: Ok("is free".to_owned()),
        engine: None,
        mode: Some((0o700, 990)),
        user: 990,
        processors: 2,
        shards: Ok("2 shards started and stopped".to_owned()),
        direct: Some(true),
        syncs: vec![Duration::from_micros(900); 5],
        space: Ok("9 MiB free".to_owned()),
        inodes: Some((100_000, 200_000)),
        ports: vec![("127.0.0.1:2025".parse().unwrap(), None)],
        certificates: vec![(PathBuf::from("/c.pem"), Ok(60 * 86_400))],
        keys: vec![(PathBuf::from("/k.pem"), 0o640, 990)],
    }
}

/// What is said of a machine that differs from a good one in `files` and by `change`.
fn rows(files: &[(&str, &str)], change: impl FnOnce(&mut Config, &mut Probe)) -> Vec<Row> {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in GOOD.iter().chain(files) {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (mut config, mut probe) = (config(), good());
    change(&mut config, &mut probe);
    examine(&config, &Facts::gather(root.path(), probe))
}

/// The lines that are no `ok`.
fn bad(files: &[(&str, &str)], change: impl FnOnce(&mut Config, &mut Probe)) -> Vec<String> {
    let rows = rows(files, change);
    rows.iter().filter(|row| row.finding.level > Level::Ok).map(Row::to_string).collect()
}

#[test]
fn a_good_machine_is_good() {
    assert_eq!(bad(&[], |_, _| {}), Vec::<String>::new());
    let rows = rows(&[], |_, _| {});
    let said: BTreeSet<_> = rows.iter().map(|row| row.name).collect();
    assert!(CHECKS.iter().all(|(name, _)| said.contains(name)), "{said:?}");
    let text: Vec<String> = rows.iter().map(Row::to_string).collect();
    for line in [
        "ok    file system: xfs at /mail box",
        "ok    network queues: eth0 receives by 1 for 2 shards; irqbalance is not seen",
        "ok    write cache: volatile; the kernel flushes it with every sync",
        "ok    descriptors: 1048576 (of this shell; a unit has its own)",
        "ok    locked memory: no limit (of this shell; a unit has its own)",
        "ok    sync: median of 5 is 900.0µs, longest 900.0µs",
        "ok    cpu quota: none",
    ] {
        assert!(text.iter().any(|said| said == line), "{line} is not in {text:#?}");
    }
}

#[test]
fn what_is_wrong_with_files_is_said_once() {
    let mount = |fs: &str| format!("28 26 8:2 / / rw - {fs}\n");
    let (tmpfs, nfs) = (mount("tmpfs tmpfs rw"), mount("nfs4 host:/ rw"));
    let (overlay, zfs) = (mount("overlay overlay rw"), mount("zfs tank rw"));
    let barrier = mount("ext4 /dev/sda2 rw,nobarrier");
    let limits = |files: &str| {
        format!("Max open files   1024  {files}  files\nMax locked memory  65536 65536 bytes\n")
    };
    let (few, none) = (limits("20000"), limits("100"));
    let group = "sys/fs/cgroup/system.slice";
    let quota = format!("{group}/cpu.max");
    let memory = format!("{group}/memory.max");
    let cases: [(&str, &str, &[&str]); 20] = [
        ("proc/sys/kernel/osrelease", "5.15.0", &["fail  kernel: Linux 5.15.0"]),
        ("proc/sys/kernel/io_uring_disabled", "1", &["warn  io_uring: "]),
        ("proc/sys/kernel/io_uring_disabled", "2", &["fail  io_uring: "]),
        ("proc/sys/net/core/somaxconn", "128", &["warn  sysctl: net.core.somaxconn is 128"]),
        ("proc/sys/net/ipv4/tcp_syncookies", "0", &["warn  syn backlog: "]),
        ("proc/meminfo", "MemTotal: 1048576 kB", &["warn  memory: 1 GiB"]),
        (&memory, "1073741824", &["warn  memory: 1 GiB"]),
        (&quota, "150000 100000", &["warn  cpu quota: 1.50 processors; should be 2 or none"]),
        // More than there can be.
        (&quota, "18446744073709551615 100000", &[]),
        ("proc/meminfo", "MemTotal: 18446744073709551615 kB", &[]),
        ("proc/swaps", "Filename\n/dev/sda3 partition 1 0 -2\n", &["warn  swap: /dev/sda3"]),
        ("proc/cpuinfo", "flags : fpu", &["warn  cryptography: "]),
        ("proc/self/mountinfo", &tmpfs, &["fail  file system: tmpfs at /"]),
        ("proc/self/mountinfo", &nfs, &["warn  file system: nfs4 at /"]),
        ("proc/self/mountinfo", &overlay, &["warn  file system: overlay at /"]),
        ("proc/self/mountinfo", &zfs, &["warn  file system: zfs at /"]),
        ("proc/self/mountinfo", &barrier, &["fail  file system: / is mounted with nobarrier"]),
        ("proc/self/limits", &few, &["warn  descriptors: ", "fail  locked memory: "]),
        ("proc/self/limits", &none, &["fail  descriptors: ", "fail  locked memory: "]),
        ("run/systemd/timesync/synchronized", "", &[]),
    ];
    for (file, text, lines) in cases {
        let said = bad(&[(file, text)], |_, _| {});
        assert_eq!(said.len(), lines.len(), "{file} = {text}: {said:#?}");
        for (said, line) in said.iter().zip(lines) {
            assert!(said.starts_with(line), "{file} = {text}: {said}");
            assert!(said.contains("; should be ") && said.contains("; to mend: "), "{said}");
        }
    }
}

#[test]
fn what_was_tried_in_vain_is_said_once() {
    type Change = fn(&mut Config, &mut Probe);
    let cases: [(Change, &str); 19] = [
        (|_, p| p.processors = 1, "warn  processors: 2 shards, 1 processors"),
        (|_, p| p.shards = Err("no ring".to_owned()), "fail  io_uring: no ring"),
        (|_, p| p.data = Err("newer".to_owned()), "fail  data folder: newer"),
        (|_, p| p.mode = Some((0o755, 990)), "warn  data folder: /mail box/data has mode 0755"),
        (|_, p| p.mode = Some((0o777, 990)), "fail  data folder: /mail box/data has mode 0777"),
        (|_, p| p.user = 1, "warn  data folder: /mail box/data belongs to user 990"),
        (|_, p| p.direct = Some(false), "warn  file system: xfs"),
        (|_, p| p.syncs = vec![Duration::from_millis(21)], "warn  sync: median of 1 is 21.0ms"),
        (|_, p| p.space = Err("1 MiB free".to_owned()), "fail  disk space: 1 MiB free"),
        (|_, p| p.inodes = Some((999, 2000)), "warn  inodes: 999 of 2000 free"),
        (|_, p| p.ports[0].1 = Some(Errno::ADDRINUSE), "fail  port: cannot listen on 127.0.0.1"),
        (|_, p| p.ports[0].1 = Some(Errno::ACCESS), "warn  port: cannot listen on 127.0.0.1:2025"),
        (|_, p| p.ports[0].1 = Some(Errno::ADDRNOTAVAIL), "fail  port: cannot listen on 127.0.0.1"),
        (
            |_, p| (p.keys[0].1, p.keys[0].2) = (0o600, 0),
            "warn  key file: /k.pem has mode 0600 and belongs to user 0, the data folder to 990",
        ),
        (|_, p| p.certificates[0].1 = Ok(86_400 * 9), "warn  certificate: /c.pem is good for 9"),
        (|_, p| p.certificates[0].1 = Err("expired".to_owned()), "fail  certificate: expired"),
        (|_, p| p.keys[0].1 = 0o644, "fail  key file: /k.pem has mode 0644"),
        (|_, p| p.keys[0].1 = 0o660, "warn  key file: /k.pem has mode 0660"),
        (|c, _| c.warnings.push("short".to_owned()), "warn  configuration: short"),
    ];
    for (change, line) in cases {
        let said = bad(&[], change);
        assert_eq!(said.len(), 1, "{line}: {said:#?}");
        assert!(said[0].starts_with(line), "{line}: {}", said[0]);
    }
    // One that runs already is no reason to complain.
    let running = |_: &mut Config, probe: &mut Probe| {
        probe.engine = Some(Some(4711));
        probe.data = Err("in use by process 4711".to_owned());
        probe.ports[0].1 = Some(Errno::ADDRINUSE);
    };
    assert_eq!(bad(&[], running), Vec::<String>::new());
    let limits = ("proc/4711/limits", "Max open files  10  5 files\n");
    assert!(bad(&[limits], running)[0].starts_with("fail  descriptors: 5 files may be open"));
    // What holds for its unit holds, not what holds for this shell.
    let group = "sys/fs/cgroup/system.slice/fsmtp.service";
    let (shell, quota) = (format!("{group}/cpu.max"), "sys/fs/cgroup/mail.slice/cpu.max");
    let files = [
        ("proc/4711/cgroup", "0::/mail.slice\n"),
        (&*shell, "10000 100000"),
        (quota, "50000 100000"),
    ];
    assert!(bad(&files, running)[0].starts_with("warn  cpu quota: 0.50 processors"));
}

#[test]
fn what_cannot_be_seen_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    let blind = Probe {
        mode: None,
        direct: None,
        syncs: Vec::new(),
        inodes: None,
        certificates: Vec::new(),
        keys: Vec::new(),
        ..good()
    };
    let rows = examine(&config(), &Facts::gather(root.path(), blind));
    let bad: Vec<_> = rows.iter().filter(|row| row.finding.level > Level::Ok).collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert_eq!(bad[0].name, "clock");
}

#[test]
fn control_groups_of_the_first_version_count_too() {
    let files = [
        ("proc/self/cgroup", "5:cpu,cpuacct:/box\n4:memory:/box/x\n0::/\n"),
        ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n"),
        ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/memory/box/x/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n"),
    ];
    let said = bad(&files, |_, _| {});
    assert!(said[0].starts_with("warn  cpu quota: 0.50 processors"), "{said:?}");
    assert!(said[1].starts_with("warn  memory: 1 GiB"), "{said:?}");
    // No quota is -1.
    let files = [files[0], ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n"), files[2]];
    assert_eq!(bad(&files, |_, _| {}), Vec::<String>::new());
}

/// `tuning/` is what the doctor asks for, and what the code needs.
#[test]
fn tuning_and_doctor_agree() {
    use limits::{SETTINGS, SYSCTL, unit, wanted};
    let lines = SYSCTL.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.map(|line| line.split_once('=').unwrap().0.trim()).collect();
    assert_eq!(keys, SETTINGS.each_ref().map(|setting| setting.key), "one row for each line");
    let backlog = i64::from(fsmtp_rt::glommio::BACKLOG);
    assert_eq!(wanted("net.core.somaxconn").and_then(|n| n.parse().ok()), Some(backlog));
    // The unit's limits are enough for what it starts, with the defaults of a configuration file.
    let mut config = Config::load(None, &Overrides::default()).unwrap();
    let files = unit("LimitNOFILE").parse().unwrap();
    assert_eq!(checks::fit_connections(&mut config, Some(files)), Ok(None));
    assert_eq!(unit("LimitMEMLOCK"), "infinity");
    let login = include_str!("../../../../tuning/limits.conf");
    let hard = |what: &str| {
        let mut words = login.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.find_map(|line| (line.get(2) == Some(&what)).then(|| line[3].to_owned()))
    };
    assert_eq!(hard("nofile").as_deref(), Some(unit("LimitNOFILE")));
    assert_eq!(hard("memlock").as_deref(), Some("unlimited"));
    assert_eq!(hard("core").as_deref(), Some(unit("LimitCORE")));
    assert_eq!(unit("Type"), "notify");
    assert!(unit("SystemCallFilter").contains("io_uring_enter"), "it does nothing without");
    // Longer than a drain and the goodbyes after it.
    assert!(unit("TimeoutStopSec").parse::<u32>().unwrap() > 32);
}

#[test]
fn it_is_a_command_with_a_report_for_people_and_one_for_programs() {
    let line = ["fsmtp-engine", "doctor", "--dev", "--cores", "1"].map(Into::into);
    assert!(matches!(super::super::args::parse(line).unwrap().command, Command::Doctor(_)));
    let folder = tempfile::tempdir().unwrap();
    let overrides = Overrides {
        data: Some(folder.path().join("data")),
        dev: true,
        cores: Some(1),
        ..Overrides::default()
    };
    for json in [false, true] {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let terminal = &mut Terminal {
            input: &mut std::io::empty(),
            output: &mut output,
            errors: &mut errors,
            secret: &|_| Ok(String::new()),
            interactive: false,
            colours: false,
        };
        // How it comes out is this machine's matter.
        let _ = doctor(None, &overrides, json, terminal);
        let text = String::from_utf8(output).unwrap();
        if json {
            let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
            let rows = rows.as_array().unwrap();
            assert!(rows.len() > CHECKS.len() - 2, "{text}");
            for row in rows {
                assert!(row["name"].is_string() && row["is"].is_string(), "{row}");
                assert!(row["level"] == "ok" || row["mend"].is_string(), "{row}");
            }
        } else {
            let marks = ["ok    ", "warn  ", "fail  "];
            assert!(text.lines().all(|line| marks.iter().any(|m| line.starts_with(m))), "{text}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    let broken = folder.path().join("fsmtp.toml");
    fs::write(&broken, "cors = 1\n").unwrap();
    let mut output = Vec::new();
    let terminal = &mut Terminal {
        input: &mut std::io::empty(),
        output: &mut output,
        errors: &mut Vec::new(),
        secret: &|_| Ok(String::new()),
        interactive: false,
        colours: false,
    };
    let failed = doctor(Some(&broken), &overrides, false, terminal).unwrap_err();
    assert_eq!(failed, "1 of 1 checks failed");
    assert!(output.starts_with(b"fail  configuration: "));
}
