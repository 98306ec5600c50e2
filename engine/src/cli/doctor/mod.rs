//! `fsmtp-engine doctor`: what an operator would want to know of this machine and configuration
//! before going live.
//!
//! Called by `cli::main`. [`facts`] and [`probe`] look, [`CHECKS`] judge what they saw: pure
//! functions, so tests feed them any machine. It changes nothing: its writes go to a file without a
//! name, and ports are bound, not listened on. A check is one row of the table. What cannot be seen
//! is said to be unseen and is no failure.

mod disk;
mod facts;
mod limits;
mod machine;
mod probe;
#[cfg(test)]
mod tests;

use super::{Terminal, load, say};
use crate::config::{Config, Overrides};
use core::fmt;
use facts::Facts;
use probe::Probe;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(super) use machine::CONNECTION_BYTES;
pub(super) use probe::syncs;

/// What a check says of a machine with a configuration.
type Judge = fn(&Config, &Facts) -> Vec<Finding>;

/// Every check, in the order of the report.
const CHECKS: [(&str, Judge); 24] = [
    ("kernel", machine::kernel),
    ("io_uring", machine::io_uring),
    ("processors", machine::processors),
    ("cpu quota", machine::quota),
    ("cryptography", machine::cryptography),
    ("mitigations", machine::mitigations),
    ("memory", machine::memory),
    ("huge pages", machine::huge_pages),
    ("swap", machine::swap),
    ("clock", machine::clock),
    ("descriptors", limits::descriptors),
    ("locked memory", limits::locked_memory),
    ("sysctl", limits::settings),
    ("syn backlog", limits::syn_backlog),
    ("network queues", limits::queues),
    ("port", limits::ports),
    ("certificate", limits::certificates),
    ("key file", limits::keys),
    ("data folder", disk::folder),
    ("file system", disk::file_system),
    ("disk space", disk::space),
    ("inodes", disk::inodes),
    ("sync", disk::sync),
    ("write cache", disk::write_cache),
];

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One line of the report, without the name of its check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    level: Level,
    is: String,
    #[serde(flatten)]
    gap: Option<Gap>,
}

/// What is to be done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Gap {
    should: String,
    why: String,
    mend: String,
}

impl Finding {
    fn ok(is: impl Into<String>) -> Self {
        Self { level: Level::Ok, is: is.into(), gap: None }
    }

    /// Not as it should be; the arguments stand as they are read in the line.
    fn bad(
        level: Level,
        is: impl Into<String>,
        should: impl Into<String>,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let gap = Gap { should: should.into(), why: why.into(), mend: mend.into() };
        Self { level, is: is.into(), gap: Some(gap) }
    }
}

/// A finding and the check that it belongs to.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { level, is, gap } = &self.finding;
        write!(f, "{level:4}  {}: {is}", self.name)?;
        match gap {
            None => Ok(()),
            Some(Gap { should, why, mend }) => {
                write!(f, "; should be {should}: {why}; to mend: {mend}")
            }
        }
    }
}

/// Makes all checks; fails when one of them does, not for warnings.
pub(super) fn doctor(
    path: Option<&Path>,
    overrides: &Overrides,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let rows = match load(path, overrides) {
        Err(why) => {
            let should = "a file that can be read";
            let mend = "fsmtp-engine config test";
            let why = why.replace('\n', "; ");
            let bad = Finding::bad(Level::Fail, why, should, "nothing starts without it", mend);
            vec![Row { name: "configuration", finding: bad }]
        }
        Ok(config) => {
            let facts = Facts::gather(Path::new("/"), Probe::of(&config));
            examine(&config, &facts)
        }
    };
    let text = if json {
        format!("{:#}\n", serde_json::json!(rows))
    } else {
        rows.iter().map(|row| format!("{}\n", row.to_string().replace('\n', "; "))).collect()
    };
    say(terminal, &text)?;
    let failed = rows.iter().filter(|row| row.finding.level == Level::Fail).count();
    if failed > 0 { Err(format!("{failed} of {} checks failed", rows.len())) } else { Ok(()) }
}

/// What all checks say.
fn examine(config: &Config, facts: &Facts) -> Vec<Row> {
    let warnings = config.warnings.iter().map(|warning| {
        let why = "see docs/config.md";
        Finding::bad(Level::Warn, warning, "otherwise", why, "fsmtp-engine config explain")
    });
    let mut rows: Vec<Row> =
        warnings.map(|finding| Row { name: "configuration", finding }).collect();
    if rows.is_empty() {
        rows.push(Row { name: "configuration", finding: Finding::ok("nothing to say of it") });
    }
    for (name, judge) in CHECKS {
        rows.extend(judge(config, facts).into_iter().map(|finding| Row { name, finding }));
    }
    rows
}

/// What a folder lies on, and the memory beside it; for `plan`.
#[derive(Debug)]
pub(super) struct Ground {
    /// Memory that may be used.
    pub(super) memory: u64,
    pub(super) file_system: String,
    /// The disk's folder in `/sys`.
    pub(super) disk: Option<PathBuf>,
}

impl Ground {
    /// Of `folder`, an absolute path without links.
    pub(super) fn of(folder: &Path) -> Self {
        facts::ground(Path::new("/"), folder)
    }
}

/// A file in `folder` that has no name; writes go past the page cache if `direct`.
pub(super) fn nameless(folder: &Path, direct: bool) -> std::io::Result<File> {
    use rustix::fs::OFlags;
    probe::nameless(folder, if direct { OFlags::DIRECT } else { OFlags::empty() })
}

/// A size as people say it.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
