//! `fsmtp-sim`: whole nodes in simulated worlds, a seed each.
//!
//! `fsmtp-sim --help` lists what can be run. Exit status: 0 nothing found (canary: everything
//! found), 1 otherwise, 2 wrong usage. A failing seed fails again, in every detail, whenever it is
//! run.

mod args;
mod budget;
mod bugs;
mod check;
mod client;
#[cfg(test)]
mod farewell;
mod index;
mod keys;
mod ledger;
mod mail;
mod model;
mod node;
mod odd;
mod outgoing;
mod plan;
mod reader;
mod remote;
mod sender;
#[cfg(test)]
mod verdicts;
mod world;

use std::cell::Cell;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser as _;

use args::Args;
use bugs::Bug;
use world::Report;

/// Failing seeds that are reported before a run of many is given up.
const FAILURES_MAX: usize = 10;

thread_local! {
    /// The seed that this thread runs, for the message of a panic.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

fn main() -> ExitCode {
    let args = Args::parse();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(seed) = SEED.get() {
            eprintln!("seed {seed}: panic");
        }
        usual(info);
    }));
    let good = match &args {
        Args { canary: true, .. } => canary(),
        Args { budget: true, .. } => budget::check(),
        _ => many(&args),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all wanted seeds on as many threads as the machine has cores; true when none failed.
fn many(args: &Args) -> bool {
    let seeds = args.wanted();
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new((Report::default(), 0u64, 0usize));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(usize::try_from(seeds.end.saturating_sub(seeds.start)).unwrap_or(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    SEED.set(Some(seed));
                    let report = one(seed, args);
                    let Ok(mut sum) = sum.lock() else { break };
                    add(&mut sum.0, &report);
                    sum.1 += 1;
                    if !report.violations.is_empty() {
                        sum.2 += 1;
                        complain(seed, &report, args);
                    }
                    if sum.2 >= if args.first { 1 } else { FAILURES_MAX } {
                        break;
                    }
                }
            });
        }
    });
    let Ok((sum, runs, failures)) = sum.into_inner() else { return false };
    println!(
        "{runs} seeds: {} messages acknowledged, {} in doubt, {} to be sent on; {} replies, \
         {} twins, {} maildrops and {} messages in them checked; {} crashes, {} damaged disks \
         refused, {} records moved, {} segments given back, {} events; {failures} seeds failed; \
         hash {:016x}",
        sum.acked,
        sum.doubt,
        sum.letters,
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

fn one(seed: u64, args: &Args) -> Report {
    if args.once || args.trace {
        world::run(seed, args.bug, args.trace)
    } else {
        world::run_twice(seed, args.bug)
    }
}

fn add(sum: &mut Report, report: &Report) {
    // Order-free, so that two threads give the same sum.
    sum.hash ^= report.hash;
    sum.events += report.events;
    sum.acked += report.acked;
    sum.doubt += report.doubt;
    sum.letters += report.letters;
    sum.replies += report.replies;
    sum.twins += report.twins;
    sum.maildrops += report.maildrops;
    sum.retrieved += report.retrieved;
    sum.refused += report.refused;
    sum.moved += report.moved;
    sum.recycled += report.recycled;
    sum.crashes += report.crashes;
}

fn complain(seed: u64, report: &Report, args: &Args) {
    let bug = args.bug.map_or(String::new(), |bug| format!(" --bug {}", bug.name()));
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
