//! `fsmtp-crash`: a real engine on a real disk, killed at random moments under load, audited.
//!
//! Each round starts the engine, takes out over POP3 what the rounds before left behind and
//! compares it with the ledger, loads it with senders, and kills it with SIGKILL. At the end
//! everything is audited once more. What must hold:
//!
//! * every message that was answered 250 is in each of its mailboxes, once, byte for byte;
//! * a message that was under way when the engine died is there whole, once, or not at all;
//! * what was taken out (DELE, and `+OK` to QUIT) never comes back.
//!
//! With `--disk-full` the disk runs full instead, see [`full`].
//! Exit status: 0 all held, 1 something did not (the data folder is kept), 2 wrong usage.

mod audit;
mod full;
mod ledger;
mod load;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use wire_tests::mail::Rng;
use wire_tests::{Engine, Options};

use crate::ledger::Ledger;

/// Kill the engine under load and audit what it acknowledged.
#[derive(Parser, Debug, Clone)]
struct Args {
    /// Rounds of load, SIGKILL, restart and audit.
    #[arg(long, default_value_t = 500)]
    rounds: u64,
    /// Connections that send at the same time.
    #[arg(long, default_value_t = 32)]
    senders: u32,
    /// Shards of the engine.
    #[arg(long, default_value_t = 2)]
    cores: u32,
    /// Mailboxes that take the mail.
    #[arg(long, default_value_t = 4)]
    accounts: usize,
    /// The longest time under load in one round, in milliseconds.
    #[arg(long, default_value_t = 300)]
    load_ms_max: u64,
    /// The size of a log segment in KiB; small, so that segments come and go in every round.
    #[arg(long, default_value_t = 4096)]
    segment_kib: u64,
    /// Stop after this many seconds even if rounds are left.
    #[arg(long, default_value_t = 3600)]
    seconds_max: u64,
    /// Varies messages and moments; a failure names it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the data folder is made; beside the binary when not given. Must be a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Fill a small file system instead of killing.
    #[arg(long)]
    disk_full: bool,
    /// The size of that file system in MiB.
    #[arg(long, default_value_t = 256)]
    disk_mib: u64,
    /// Make it an ext4 in a file on a loop device, not a tmpfs.
    #[arg(long)]
    loop_device: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let folder = match folder(&args) {
        Ok(folder) => folder,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let result = if args.disk_full {
        full::run(&args, folder.path())
    } else {
        rounds(&args, folder.path().join("data"))
    };
    match result {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let kept = folder.keep();
            println!(
                "FAILED with seed {}: {why}\nthe data is kept in {}",
                args.seed,
                kept.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn folder(args: &Args) -> Result<tempfile::TempDir, String> {
    let parent = match &args.dir {
        Some(dir) => dir.clone(),
        None => {
            let exe =
                std::env::current_exe().map_err(|e| format!("no path of this program: {e}"))?;
            exe.parent().map(PathBuf::from).unwrap_or_default()
        }
    };
    let made = tempfile::Builder::new().prefix("fsmtp-crash.").tempdir_in(&parent);
    made.map_err(|e| format!("no folder in {}: {e}", parent.display()))
}

/// Totals for the summary.
#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    start_ms: Vec<u128>,
    audit_ms: Vec<u128>,
    load_ms: u128,
}

fn rounds(args: &Args, data: PathBuf) -> Result<String, String> {
    let begun = Instant::now();
    let ledger = Ledger::new(args.seed, args.accounts);
    let mut rng = Rng::new(args.seed);
    let mut totals = Totals::default();
    let config = format!("[store]\nsegment_bytes = {}\n", args.segment_kib * 1024);
    let options =
        Options { cores: args.cores, data: Some(data), config: Some(config), ..Options::default() };
    let mut engine = Engine::with(options)?;
    ledger.make_accounts(&engine)?;
    while totals.rounds < args.rounds && begun.elapsed().as_secs() < args.seconds_max {
        let load = Duration::from_millis(1 + rng.below(args.load_ms_max));
        // In every fourth round the audit runs under the load, so that the kill meets it too.
        let together = rng.below(4) == 0;
        let round = one_round(args, &ledger, &mut engine, load, together, &mut totals);
        round.map_err(|why| format!("round {}: {why}\n{}", totals.rounds, engine.log()))?;
        let restart = Instant::now();
        engine = engine.again()?;
        totals.start_ms.push(restart.elapsed().as_millis());
        totals.rounds += 1;
        if totals.rounds.is_multiple_of(50) {
            println!("{} rounds, {}", totals.rounds, ledger.counts());
        }
    }
    let last = audit::run(&engine, &ledger, audit::Cut::Never);
    last.map_err(|why| format!("the last audit: {why}\n{}", engine.log()))?;
    ledger.nothing_left()?;
    Ok(summary(&totals, &ledger, begun.elapsed()))
}

fn one_round(
    args: &Args,
    ledger: &Ledger,
    engine: &mut Engine,
    load: Duration,
    together: bool,
    totals: &mut Totals,
) -> Result<(), String> {
    let audit = Instant::now();
    if !together {
        audit::run(engine, ledger, audit::Cut::Never)?;
        totals.audit_ms.push(audit.elapsed().as_millis());
    }
    let address = engine.smtp_address();
    let begun = Instant::now();
    let audited = std::thread::scope(|scope| {
        for sender in 0..args.senders {
            scope.spawn(move || load::send_until_cut(address, ledger, sender));
        }
        let (pop, shared) = (engine.pop_address(), ledger);
        let auditor =
            together.then(|| scope.spawn(move || audit::at(pop, shared, audit::Cut::Expected)));
        std::thread::sleep(load);
        engine.kill();
        auditor.map_or(Ok(()), |a| a.join().unwrap_or_else(|_| Err("the audit panicked".into())))
    });
    totals.load_ms += begun.elapsed().as_millis();
    audited?;
    ledger.no_wrong_replies()
}

fn summary(totals: &Totals, ledger: &Ledger, took: Duration) -> String {
    let median = |all: &[u128]| {
        let mut all = all.to_vec();
        all.sort_unstable();
        let middle = all.get(all.len() / 2).copied().unwrap_or(0);
        format!("median {middle} ms, longest {} ms", all.last().copied().unwrap_or(0))
    };
    format!(
        "{} rounds of SIGKILL in {:.0} s, {:.0} s of it under load: nothing acknowledged is lost\n\
         {}\nrestart until ready: {}\naudit: {}",
        totals.rounds,
        took.as_secs_f64(),
        totals.load_ms as f64 / 1000.0,
        ledger.counts(),
        median(&totals.start_ms),
        median(&totals.audit_ms),
    )
}
