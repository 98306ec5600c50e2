//! Instructions of the small pieces of the hot path, counted, so that a build can fail on +2 %.
//!
//!     export CARGO_INCREMENTAL=0      or the code is another
//!     cargo run --profile fast -p bench --bin icount                      a table
//!     cargo run --profile fast -p bench --bin icount -- --against bench/baseline.csv
//!     cargo run --profile fast -p bench --bin icount -- --write bench/baseline.csv
//!
//! Each case of [`bench::CASES`] runs in a process of its own under Debian's valgrind (callgrind),
//! once so many times and once twice as many; the difference, divided, is one run of the case:
//! what starting and making it costs falls out. The counts do not depend on the machine's speed or
//! load. They do depend on the compiler and the libraries, so the baseline is written anew, in the
//! same commit, by whoever changes those or makes a case dearer for a reason.
//!
//! Exit status: 1 when a case is dearer than [`GROWTH_PERCENT_MAX`] allows or has no baseline, 2
//! for wrong usage or when something does not run.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bench::{CASES, Case};

/// How much dearer than the baseline a case may be.
const GROWTH_PERCENT_MAX: u64 = 2;
const USAGE: &str = "usage: icount [--against FILE | --write FILE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["run", name, count] => run(name, count),
        [] => table().map(|_| true),
        ["--against", file] => against(Path::new(file)),
        ["--write", file] => write(Path::new(file)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("icount: {why}");
            ExitCode::from(2)
        }
    }
}

/// What the counted process does.
fn run(name: &str, count: &str) -> Result<bool, String> {
    let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
    let count: u32 = count.parse().map_err(|_| USAGE)?;
    let mut work = (case.make)();
    for _ in 0..count {
        work();
    }
    Ok(true)
}

/// Instructions of one run of each case.
fn table() -> Result<BTreeMap<&'static str, u64>, String> {
    let program = env::current_exe().map_err(|e| e.to_string())?;
    let mut counts = BTreeMap::new();
    for case in CASES {
        let once = counted(&program, case, case.count)?;
        let twice = counted(&program, case, case.count * 2)?;
        let each = twice.saturating_sub(once) / u64::from(case.count);
        println!("{:<22} {each:>9}", case.name);
        counts.insert(case.name, each);
    }
    Ok(counts)
}

fn counted(program: &PathBuf, case: &Case, count: u32) -> Result<u64, String> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", case.name, &count.to_string()])
        .output()
        .map_err(|e| format!("valgrind does not start ({e}): apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    match collected.map(|(_, number)| number.trim().parse()) {
        Some(Ok(count)) if out.status.success() => Ok(count),
        _ => Err(format!("{} does not run: {}", case.name, said.trim())),
    }
}

fn write(file: &Path) -> Result<bool, String> {
    let rows: String = table()?.iter().map(|(name, count)| format!("{name},{count}\n")).collect();
    let text = format!("case,instructions\n{rows}");
    fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(true)
}

fn against(file: &Path) -> Result<bool, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let counts = table()?;
    let wrong = dearer(&baseline(&text)?, &counts);
    for line in &wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        println!("with a reason in the commit: icount --write {}", file.display());
    }
    Ok(wrong.is_empty())
}

fn baseline(text: &str) -> Result<BTreeMap<&str, u64>, String> {
    let row = |line| -> Option<(&str, u64)> {
        let (name, count) = str::split_once(line, ',')?;
        Some((name, count.parse().ok()?))
    };
    let rows = text.lines().skip(1);
    rows.map(|line| row(line).ok_or_else(|| format!("the baseline has a line `{line}`"))).collect()
}

/// One line for each case that costs more than it may.
fn dearer(baseline: &BTreeMap<&str, u64>, counts: &BTreeMap<&'static str, u64>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, now) in counts {
        match baseline.get(name) {
            None => lines.push(format!("{name} has no baseline")),
            Some(before) => {
                if now * 100 > before * (100 + GROWTH_PERCENT_MAX) {
                    let growth = (*now as f64 / (*before).max(1) as f64 - 1.0) * 100.0;
                    lines.push(format!("{name} is dearer: {before} -> {now}, {growth:+.1} %"));
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_percent_is_the_limit() {
        let before = baseline("case,instructions\na,1000\nb,1000\nc,10\n").expect("three rows");
        let now = BTreeMap::from([("a", 1020), ("b", 1021), ("d", 1)]);
        let lines = dearer(&before, &now);
        assert_eq!(lines, ["b is dearer: 1000 -> 1021, +2.1 %", "d has no baseline"]);
    }

    #[test]
    fn a_baseline_that_is_none_is_named() {
        let refused = baseline("case,instructions\na;3\n");
        assert!(refused.is_err_and(|why| why.contains("a;3")));
    }

    #[test]
    fn each_case_does_its_work() {
        for case in CASES {
            let mut work = (case.make)();
            work();
            work();
        }
    }
}
