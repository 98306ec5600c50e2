//! `send`: mail, as fast as asked or as fast as it goes, and what became of each message.
//!
//! Thread-per-core: each core has its own executor, connections, schedule and figures; what they
//! share is the plan and a flag that ends the run. Called by `main`.
//!
//! * [`plan`]: the command line. [`schedule`]: when messages are due. [`message`]: what they are.
//! * [`fleet`]: the cores of a host. [`agent`]: runs on several hosts.
//! * [`executor`]: one core. [`client`]: one connection. [`ledger`]: its 250s.
//! * [`measure`]: counts and times. [`exchange`]: how they leave a core. [`gather`]: all cores'.
//! * [`live`] and [`raw`]: what is seen of them while it runs. [`report`]: what at the end.
//!   [`mod@search`]: goals.
//!
//! Exit status: 0 measured and every threshold held; 1 an error occurred (unless a threshold bears
//! errors), a threshold did not hold, or nothing could be measured; 2 a plan that is none.

pub(crate) mod agent;
mod client;
mod exchange;
mod executor;
mod fleet;
mod gather;
mod ledger;
mod live;
mod measure;
mod message;
mod plan;
mod raw;
mod report;
mod schedule;
mod search;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use clap::ArgMatches;
use rustix::time::{ClockId, clock_gettime};

use crate::process::Process;
use crate::say;
use exchange::News;
use executor::Batch;
use fleet::{Fleet, Share};
use gather::{Gatherer, Series};
use ledger::Ledger;
use live::Live;
use measure::Measures;
use message::Templates;
use plan::Plan;
pub(crate) use plan::{Options, duration, users};
use raw::Raw;
pub(crate) use report::json::LAYOUT;
use report::{Outcome, Server};
pub(crate) use schedule::Random;
use search::{Search, Threshold};

/// Runs a plan, and says how it went.
pub(crate) fn run(options: Options, matches: Option<&ArgMatches>) -> ExitCode {
    let plan = match Plan::new(options) {
        Ok(plan) => Plan { words: matches.map(plan::words).unwrap_or_default(), ..plan },
        Err(why) => {
            say::error(&why);
            return ExitCode::from(2);
        }
    };
    let prepared = match Prepared::new(&plan) {
        Ok(prepared) => prepared,
        Err(why) => {
            say::error(&why);
            return ExitCode::from(2);
        }
    };
    match measured(&plan, prepared) {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(why) => {
            say::error(&why);
            ExitCode::FAILURE
        }
    }
}

/// What a plan names on this host, opened before anything is sent.
struct Prepared {
    templates: Arc<Templates>,
    run: u32,
    ledger: Option<Ledger>,
    raw: Option<Raw>,
}

impl Prepared {
    /// # Errors
    /// What cannot be read or written: a plan that nobody can carry out.
    fn new(plan: &Plan) -> Result<Self, String> {
        let options = &plan.options;
        let templates = Arc::new(Templates::new(&options.size, options.corpus.as_deref())?);
        let run = run_number();
        if let Some(pid) = options.server_pid {
            Process::new(pid).cpu_of_threads()?;
        }
        for path in options.json.iter().chain(&options.html) {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let ledger = options.ledger.as_deref().map(|path| Ledger::open(path, run, &templates));
        let ledger = ledger.transpose()?;
        let raw = Raw::open(options.csv.as_deref(), options.hdr.as_deref())?;
        Ok(Self { templates, run, ledger, raw })
    }
}

/// Runs it, prints it, and says whether all was as it must be.
fn measured(plan: &Plan, prepared: Prepared) -> Result<bool, String> {
    let options = &plan.options;
    let Prepared { templates, run, ledger, mut raw } = prepared;
    let stop = stop_flag()?;
    let set = Set { templates, stop, run, ledger: ledger.as_ref().map(Ledger::sender) };
    let live = Live::new(plan, &set.stop);
    let (outcome, plan, found) = match &options.find_max {
        None => (once(plan, &set, raw.as_mut(), &live)?, plan.clone(), None),
        Some(goal) => search(plan, &set, goal, &live)?,
    };
    drop(live);
    drop(set);
    ledger.map_or(Ok(()), Ledger::close)?;
    let mut lines = report::text(&plan, &outcome);
    if let Some(goal) = &options.find_max {
        lines.push(match found {
            Some(rate) => format!("max_rate {rate:.0} 1/s"),
            None => format!("max_rate none: {goal} never held"),
        });
    }
    let mut good = options.find_max.is_none() || found.is_some();
    for threshold in &options.threshold {
        let holds = outcome.holds(&plan, threshold);
        lines.push(format!("threshold {threshold} {}", if holds { "held" } else { "missed" }));
        good &= holds;
    }
    let told = say::figures(&lines.join("\n"));
    let borne = options.threshold.iter().any(Threshold::bears_errors);
    let errors = outcome.measures.errors_count() > 0 && !borne && options.find_max.is_none();
    good &= !errors && outcome.failed.is_empty();
    if outcome.measures.acknowledged == 0 {
        say::error("no message was acknowledged");
        good = false;
    }
    if let Some(path) = &options.json {
        let document = report::json::document(&plan, &outcome, found);
        write(path, &format!("{document:#}\n"))?;
    }
    if let Some(path) = &options.html {
        write(path, &report::html::page(&plan, &outcome, found, good))?;
    }
    Ok(good && told)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What all rounds have in common.
struct Set {
    templates: Arc<Templates>,
    stop: Arc<AtomicBool>,
    run: u32,
    ledger: Option<mpsc::SyncSender<Batch>>,
}

/// The first signal ends the run and lets the figures be printed; a second one ends the process.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|e| format!("signals: {e}"))?;
    }
    Ok(stop)
}

/// Tells one run from another in the messages' ids.
fn run_number() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ns = now.unwrap_or_default().as_nanos() as u64;
    let mut random = Random::new(ns ^ u64::from(std::process::id()));
    random.next() as u32
}

/// Rounds of the open loop at one rate after the other.
fn search(
    plan: &Plan,
    set: &Set,
    goal: &Threshold,
    live: &Live,
) -> Result<(Outcome, Plan, Option<f64>), String> {
    let (first, time) = plan.search();
    let mut search = Search::new(first);
    let mut best = None;
    let mut last = None;
    while let Some(rate) = search.next() {
        let round = plan.at_rate(rate, time)?;
        let outcome = once(&round, set, None, live)?;
        let interrupted = outcome.interrupted;
        // A rate that was not reached did not pass, however fast the few were.
        let m = &outcome.measures;
        let reached = m.dropped == 0 && m.acknowledged as f64 >= 0.95 * rate * time.as_secs_f64();
        let errors =
            m.errors_count() > 0 && !plan.options.threshold.iter().any(Threshold::bears_errors);
        let all = plan.options.threshold.iter().chain([goal]);
        let passed = reached && !errors && all.clone().all(|t| outcome.holds(&round, t));
        live.note(format!("{rate:.0}/s: {}", if passed { "passed" } else { "missed" }));
        if passed {
            best = Some((outcome, round));
        } else {
            last = Some((outcome, round));
        }
        if interrupted {
            break;
        }
        search.tell(passed);
    }
    let found = search.found();
    let (mut outcome, round) = best.or(last).ok_or("the search has tried no rate")?;
    // What was found so far is not what there is to find.
    outcome.interrupted |= set.stop.load(Ordering::Relaxed);
    Ok((outcome, round, found))
}

/// One run of all cores, here or on other hosts.
fn once(plan: &Plan, set: &Set, raw: Option<&mut Raw>, live: &Live) -> Result<Outcome, String> {
    let options = &plan.options;
    let process = options.server_pid.map(Process::new);
    let before = process.as_ref().map(Process::cpu_of_threads).transpose()?;
    let (measures, series, failed) = if options.agents.is_empty() {
        let mut fleet = Fleet::launch(plan, set, Share { first: 0, cores: options.cores })?;
        let returns = std::mem::take(&mut fleet.returns);
        let gatherer = Gatherer::new(options.interval, returns, raw, live);
        let (measures, series, failed) = gathered(gatherer, &fleet.news, plan)?;
        fleet.join()?;
        // A core of our own that could not begin leaves nothing to report.
        failed.into_iter().next().map_or(Ok(()), Err)?;
        (measures, series, Vec::new())
    } else {
        let returns = (0..plan.cores_of_all()).map(|_| None).collect();
        let gatherer = Gatherer::new(options.interval, returns, raw, live);
        gathered(gatherer, &agent::control::launch(plan, set)?, plan)?
    };
    let server = match (process, before) {
        (Some(process), Some(before)) => Some(Server {
            cpu: process.cpu_of_threads()?.saturating_sub(before),
            rss: process.resident()?,
            rss_peak: process.resident_peak()?,
        }),
        _ => None,
    };
    let interrupted = set.stop.load(Ordering::Relaxed);
    Ok(Outcome { measures, server, interrupted, series, failed })
}

/// Adds up all that comes, until nothing more can; and says who has failed.
fn gathered(
    mut gatherer: Gatherer<'_>,
    news: &mpsc::Receiver<News>,
    plan: &Plan,
) -> Result<(Measures, Series, Vec<String>), String> {
    let mut failed = Vec::new();
    for news in news {
        match news {
            News::Piece(piece) => gatherer.take(*piece),
            News::Last(piece) => {
                let source = piece.source;
                gatherer.take(*piece);
                gatherer.ended(source);
            }
            News::Failed { sources, why } => {
                let host = sources.start / plan.options.cores;
                let agent = plan.options.agents.get(host as usize);
                failed.push(match agent {
                    Some(agent) => format!("agent {agent}: {why}"),
                    None => why,
                });
                sources.for_each(|source| gatherer.ended(source));
            }
        }
    }
    let (measures, series) = gatherer.finish()?;
    Ok((measures, series, failed))
}

/// What this thread has spent.
pub(crate) fn thread_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(spent.tv_nsec).unwrap_or(0))
}
