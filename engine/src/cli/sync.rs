//! The command that brings Redis to what Cassandra says: the seeds' `-s`.
//!
//! Called by `cli::main`. Speaks to the servers that `[cluster]` names, not to an engine. Failure:
//! one line.

use clap::Args;
use fsmtp_cluster::sync::{Synced, sync};
use serde_json::json;

use super::{Terminal, say};
use crate::cluster;
use crate::config::Config;

/// `sync`
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Sync {
    /// Changes nothing, and says what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(super) fn execute(
    ask: Sync,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let settings = config.cluster.as_ref().ok_or("cluster.contacts names no server")?;
    let terms = cluster::terms(settings)?;
    let redis = terms.redis.as_ref().ok_or("cluster.redis names no server")?;
    let synced = sync(&terms, redis, ask.dry_run).map_err(|error| error.to_string())?;
    let Synced { written, removed, unchanged } = synced;
    let text = if json {
        let value = json!({
            "dry_run": ask.dry_run,
            "written": written,
            "removed": removed,
            "unchanged": unchanged,
        });
        format!("{value:#}\n")
    } else {
        let word = if ask.dry_run { "to be " } else { "" };
        format!("{word}written: {written}, {word}removed: {removed}, unchanged: {unchanged}\n")
    };
    say(terminal, &text)
}
