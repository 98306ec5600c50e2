//! `send`: mail, as fast as asked or as fast as it goes, and what became of each message.
//!
//! Thread-per-core: each core has its own executor, connections, schedule and figures; what they
//! share is the plan and a flag that ends the run. Called by `main`.
//!
//! * [`plan`]: the command line. [`schedule`]: when messages are due. [`message`]: what they are.
//! * [`executor`]: one core. [`client`]: one connection, over [`stream`]. [`ledger`]: its 250s.
//! * [`measure`]: counts and times. [`exchange`]: how they leave a core. [`gather`]: all cores'.
//! * [`live`] and [`raw`]: what is seen of them while it runs. [`report`]: what at the end.
//!   [`mod@search`]: goals.
//!
//! Exit status: 0 measured and every threshold held; 1 an error occurred (unless a threshold bears
//! errors), a threshold did not hold, or nothing could be measured; 2 a plan that is none.

mod client;
mod exchange;
mod executor;
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
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fsmtp_rt::glommio::{GlommioRuntime, ShardHandle, ShardOptions, processors, start_shard};
use fsmtp_rt::helpers::Helpers;
use rustix::time::{ClockId, clock_gettime};

use crate::process::{Process, raise_open_files};
use exchange::{News, SPARES, Seat};
use executor::{Batch, Shared};
use gather::Gatherer;
use ledger::Ledger;
use live::Live;
use measure::CoreUse;
use message::Templates;
use plan::Plan;
pub(crate) use plan::{Options, duration, users};
use raw::Raw;
pub(crate) use report::json::LAYOUT;
use report::{Outcome, Server};
pub(crate) use schedule::Random;
use search::{Search, Threshold};

/// Descriptors of a core beside its connections.
const CORE_DESCRIPTORS: usize = 32;

/// Runs a plan, and says how it went.
pub(crate) fn run(options: Options) -> ExitCode {
    let plan = match Plan::new(options) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match measured(&plan) {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it, prints it, and says whether all was as it must be.
fn measured(plan: &Plan) -> Result<bool, String> {
    let options = &plan.options;
    let templates = Arc::new(Templates::new(&options.size, options.corpus.as_deref())?);
    let stop = stop_flag()?;
    let run = run_number();
    let ledger = options.ledger.as_deref().map(|path| Ledger::open(path, run, &templates));
    let ledger = ledger.transpose()?;
    let set = Set { templates, stop, run, ledger: ledger.as_ref().map(Ledger::sender) };
    let live = Live::new(plan, &set.stop);
    let mut raw = Raw::open(options.csv.as_deref(), options.hdr.as_deref())?;
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
    println!("{}", lines.join("\n"));
    let borne = options.threshold.iter().any(Threshold::bears_errors);
    let errors = outcome.measures.errors_count() > 0 && !borne && options.find_max.is_none();
    good &= !errors;
    if outcome.measures.acknowledged == 0 {
        eprintln!("no message was acknowledged");
        good = false;
    }
    if let Some(path) = &options.json {
        let document = report::json::document(&plan, &outcome, found);
        write(path, &format!("{document:#}\n"))?;
    }
    if let Some(path) = &options.html {
        write(path, &report::html::page(&plan, &outcome, found, good))?;
    }
    Ok(good)
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
    let (outcome, round) = best.or(last).ok_or("the search has tried no rate")?;
    Ok((outcome, round, found))
}

/// One run of all cores.
fn once(plan: &Plan, set: &Set, raw: Option<&mut Raw>, live: &Live) -> Result<Outcome, String> {
    let options = &plan.options;
    let cores = options.cores;
    raise_open_files(options.connections as usize + cores as usize * CORE_DESCRIPTORS)?;
    let helpers = Helpers::new("loadgen-helper", 1).map_err(|e| e.to_string())?;
    let shared = Shared {
        plan: Arc::new(plan.clone()),
        templates: Arc::clone(&set.templates),
        stop: Arc::clone(&set.stop),
        run: set.run,
        ledger: set.ledger.clone(),
    };
    let process = options.server_pid.map(Process::new);
    let before = process.as_ref().map(Process::cpu_of_threads).transpose()?;
    // Room for every piece that can exist, so that no core waits.
    let (sender, news) = mpsc::sync_channel(cores as usize * (SPARES + 1));
    let (mut shards, mut returns) = (Vec::new(), Vec::new());
    for core in 0..cores {
        let (seat, back) = Seat::new(sender.clone(), options.interval);
        shards.push(start(core, plan, &helpers, shared.clone(), seat)?);
        returns.push(Some(back));
    }
    drop(sender);
    let mut gatherer = Gatherer::new(options.interval, returns, raw, live);
    for news in news {
        match news {
            News::Piece(piece) => gatherer.take(*piece),
            News::Last(piece) => {
                let source = piece.source;
                gatherer.take(*piece);
                gatherer.ended(source);
            }
            News::Failed(why) => return Err(why),
        }
    }
    let server = match (process, before) {
        (Some(process), Some(before)) => Some(Server {
            cpu: process.cpu_of_threads()?.saturating_sub(before),
            rss: process.resident()?,
            rss_peak: process.resident_peak()?,
        }),
        _ => None,
    };
    for shard in shards {
        shard.join().map_err(|e| e.to_string())?;
    }
    let (measures, series) = gatherer.finish()?;
    Ok(Outcome { measures, server, interrupted: set.stop.load(Ordering::Relaxed), series })
}

/// What this thread has spent.
pub(crate) fn thread_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(spent.tv_nsec).unwrap_or(0))
}

fn start(
    core: u32,
    plan: &Plan,
    helpers: &Helpers,
    shared: Shared,
    seat: Seat,
) -> Result<ShardHandle, String> {
    // The last processors first: a server beside us most likely has the first ones.
    let cpu = plan.options.pin.then(processors);
    let cpu = cpu.and_then(|all| all.iter().rev().nth(core as usize % all.len().max(1)).copied());
    let options = ShardOptions {
        name: format!("loadgen-{core}"),
        cpu,
        stall_after: None,
        helpers: helpers.clone(),
    };
    let main = move |rt: GlommioRuntime| async move {
        let (begun, before, full) = (Instant::now(), thread_cpu(), seat.full.clone());
        let news = match executor::run(rt, core, shared, Some(seat)).await {
            Ok(mut piece) => {
                let cpu = thread_cpu().saturating_sub(before);
                let share = cpu.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-9);
                piece.measures.cores.push(CoreUse { host: 0, core, cpu, share });
                News::Last(Box::new(piece))
            }
            Err(why) => News::Failed(why),
        };
        // Somebody waits for it.
        let _ = full.send(news);
    };
    start_shard(options, main).map_err(|e| e.to_string())
}
