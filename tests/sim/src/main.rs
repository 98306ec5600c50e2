//! `fsmtp-sim`: whole nodes in simulated worlds, a seed each.
//!
//! ```text
//! fsmtp-sim --smoke              200 fixed seeds
//! fsmtp-sim --count N [--from A] seeds A..A+N, each run twice, on two threads
//! fsmtp-sim --seeds A..B         the same
//! fsmtp-sim --seed N [--trace]   one seed, with all its events
//! fsmtp-sim --canary             each planted bug must be found
//! fsmtp-sim --budget             seam calls per message, against tuning/budgets.toml
//!           --bug NAME           plants a bug in the seeds that are run
//!           --once               each seed once: twice as fast, nondeterminism stays unseen
//! ```
//!
//! Exit status: 0 nothing found (canary: everything found), 1 otherwise, 2 wrong usage. A failing
//! seed fails again, in every detail, whenever it is run.

mod budget;
mod bugs;
mod check;
mod client;
#[cfg(test)]
mod farewell;
mod index;
mod ledger;
mod mail;
mod model;
mod node;
mod odd;
mod plan;
mod reader;
mod world;

use std::cell::Cell;
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bugs::Bug;
use world::Report;

/// Seeds of `--smoke`.
const SMOKE: u64 = 200;

/// Failing seeds that are reported before a run of many is given up.
const FAILURES_MAX: usize = 10;

thread_local! {
    /// The seed that this thread runs, for the message of a panic.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    seeds: Range<u64>,
    bug: Option<Bug>,
    trace: bool,
    once: bool,
    canary: bool,
    budget: bool,
    /// Stop at the first failing seed.
    first: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    let mut from = 0;
    let mut count = None;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text}: no number"));
        match arg.as_str() {
            "--seed" => (from, count) = (number(value()?)?, Some(1)),
            "--count" => count = Some(number(value()?)?),
            "--from" => from = number(value()?)?,
            "--seeds" => {
                let text = value()?;
                let (a, b) =
                    text.split_once("..").ok_or_else(|| format!("{text}: A..B is expected"))?;
                from = number(a.into())?;
                count = Some(number(b.into())?.saturating_sub(from));
            }
            "--smoke" => count = Some(SMOKE),
            "--canary" => wanted.canary = true,
            "--budget" => wanted.budget = true,
            "--bug" => {
                let name = value()?;
                let names = Bug::ALL.map(Bug::name).join(", ");
                wanted.bug = Some(Bug::of(&name).ok_or_else(|| format!("{name}: one of {names}"))?);
            }
            "--trace" => wanted.trace = true,
            "--once" => wanted.once = true,
            "--first" => wanted.first = true,
            _ => return Err(format!("{arg}: unknown; see the head of tests/sim/src/main.rs")),
        }
    }
    if count.is_none() && !wanted.canary && !wanted.budget {
        let all = "--smoke, --count, --seeds, --seed, --canary, --budget";
        return Err(format!("one of {all} is needed"));
    }
    wanted.seeds = from..from.saturating_add(count.unwrap_or(0));
    Ok(wanted)
}

fn main() -> ExitCode {
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("fsmtp-sim: {why}");
            return ExitCode::from(2);
        }
    };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(seed) = SEED.get() {
            eprintln!("seed {seed}: panic");
        }
        usual(info);
    }));
    let good = match &wanted {
        Wanted { canary: true, .. } => canary(),
        Wanted { budget: true, .. } => budget::check(),
        _ => many(&wanted),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all wanted seeds on as many threads as the machine has cores; true when none failed.
fn many(wanted: &Wanted) -> bool {
    let next = AtomicU64::new(wanted.seeds.start);
    let sum = Mutex::new((Report::default(), 0u64, 0usize));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(usize::try_from(wanted.seeds.end - wanted.seeds.start).unwrap_or(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= wanted.seeds.end {
                        break;
                    }
                    SEED.set(Some(seed));
                    let report = one(seed, wanted);
                    let Ok(mut sum) = sum.lock() else { break };
                    add(&mut sum.0, &report);
                    sum.1 += 1;
                    if !report.violations.is_empty() {
                        sum.2 += 1;
                        complain(seed, &report, wanted);
                    }
                    if sum.2 >= if wanted.first { 1 } else { FAILURES_MAX } {
                        break;
                    }
                }
            });
        }
    });
    let Ok((sum, runs, failures)) = sum.into_inner() else { return false };
    println!(
        "{runs} seeds: {} messages acknowledged, {} in doubt; {} replies, {} twins, {} maildrops \
         and {} messages in them checked; {} crashes, {} damaged disks refused, {} records moved, \
         {} segments given back, {} events; {failures} seeds failed; hash {:016x}",
        sum.acked,
        sum.doubt,
        sum.replies,
        sum.twins,
        sum.maildrops,
        sum.retrieved,
        sum.crashes,
        sum.refused,
        sum.moved,
        sum.recycled,
        sum.events,
        sum.hash
    );
    failures == 0
}

fn one(seed: u64, wanted: &Wanted) -> Report {
    if wanted.once || wanted.trace {
        world::run(seed, wanted.bug, wanted.trace)
    } else {
        world::run_twice(seed, wanted.bug)
    }
}

fn add(sum: &mut Report, report: &Report) {
    // Order-free, so that two threads give the same sum.
    sum.hash ^= report.hash;
    sum.events += report.events;
    sum.acked += report.acked;
    sum.doubt += report.doubt;
    sum.replies += report.replies;
    sum.twins += report.twins;
    sum.maildrops += report.maildrops;
    sum.retrieved += report.retrieved;
    sum.refused += report.refused;
    sum.moved += report.moved;
    sum.recycled += report.recycled;
    sum.crashes += report.crashes;
}

fn complain(seed: u64, report: &Report, wanted: &Wanted) {
    let bug = wanted.bug.map_or(String::new(), |bug| format!(" --bug {}", bug.name()));
    eprintln!("seed {seed} failed; again with: fsmtp-sim --seed {seed}{bug}");
    for violation in &report.violations {
        eprintln!("  {violation}");
    }
}

/// Each bug in a process of its own, because it may end in a panic, which counts as found.
fn canary() -> bool {
    let Ok(own) = std::env::current_exe() else { return false };
    let mut good = true;
    for bug in Bug::ALL {
        let seeds = format!("0..{}", bugs::SEEDS_MAX);
        let args = ["--seeds", &seeds, "--bug", bug.name(), "--first"];
        let Ok(output) = Command::new(&own).args(args).output() else { return false };
        let found = !output.status.success();
        let text = String::from_utf8_lossy(&output.stderr);
        let how: Vec<&str> = text.lines().take(2).map(str::trim).collect();
        let how = if found { how.join(" | ") } else { "NOT FOUND".into() };
        println!("{:18} {how}", bug.name());
        good &= found;
    }
    good
}
