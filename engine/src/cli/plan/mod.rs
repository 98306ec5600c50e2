//! `fsmtp-engine plan`: measures this machine for a minute and says what a rate of mail needs.
//!
//! Called by `cli::main`. A second engine runs on loopback, below the data folder and so on its
//! disk, and is sent the mail that was asked about ([`measure`]); what comes out of that is
//! arithmetic ([`sum`]). What was measured and what is assumed stand apart in the report. Folder
//! and process are gone when it ends, also by a signal of [`ENDING`]; after SIGKILL they are not.

mod child;
mod client;
mod disk;
mod measure;
mod room;
mod sum;
#[cfg(test)]
mod tests;

use super::args;
use super::{Terminal, checks, doctor, say};
use crate::dirlock::{self, DirError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use sum::Sum;

pub(super) use sum::{Ask, rate, size};

/// What people and managers end it with. A terminal that goes away says SIGHUP, and that to the
/// engine, too, which only reads its certificates anew.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Measures and tells; fails when something could not be measured.
pub(super) fn plan(
    ask: &args::Plan,
    data: Option<PathBuf>,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut watched = Vec::new();
    for signal in ENDING {
        let flag = signal_hook::flag::register(signal, Arc::clone(&stop));
        watched.push(flag.map_err(|e| format!("cannot watch for signals: {e}"))?);
    }
    let near = checks::nearest_existing(&data.unwrap_or_else(|| PathBuf::from(".")));
    let near = near.canonicalize().map_err(|e| format!("{}: {e}", near.display()))?;
    let _ = writeln!(terminal.errors, "measuring for {} s, below {}", ask.seconds, near.display());
    if let Err(DirError::InUse { .. }) = dirlock::inspect(&near) {
        let why = "an engine works there: its mail and this measurement slow each other down";
        let _ = writeln!(terminal.errors, "fsmtp-engine: warning: {why}");
    }
    let ask = Ask::from(ask);
    let measured = measure::measure(&ask, &near, &stop);
    for id in watched {
        signal_hook::low_level::unregister(id);
    }
    let sum = Sum::new(ask, measured?);
    let text = if json { format!("{:#}\n", serde_json::json!(sum)) } else { sum.to_string() };
    say(terminal, &text)
}
