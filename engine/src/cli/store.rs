//! The commands about the keyspace of a cluster.
//!
//! Called by `cli::main`. They speak to the servers that `[cluster]` names, not to an engine.
//! Failure: one line that says which of the servers, the password, the keyspace or the table it is.

use clap::{Args, Subcommand};
use fsmtp_cluster::keyspace::{Done, Task, perform};
use serde_json::json;

use super::{Terminal, say};
use crate::cluster;
use crate::config::Config;

/// `store`
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Makes the keyspace and its tables, as far as they are not there
    Create(Plan),
    /// Brings a keyspace of an older version up to this one
    Upgrade(Plan),
    /// Says what keeps a node from working with the keyspace; changes nothing
    Check,
}

/// How much is done.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Plan {
    /// Shows the statements, changes nothing
    #[arg(long)]
    dry_run: bool,
}

/// Does one of them.
pub(super) fn execute(
    command: &Store,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let settings = config.cluster.as_ref().ok_or("cluster.contacts names no server")?;
    let (task, dry_run) = match command {
        Store::Create(plan) => (Task::Create, plan.dry_run),
        Store::Upgrade(plan) => (Task::Upgrade, plan.dry_run),
        Store::Check => (Task::Check, true),
    };
    let done =
        perform(task, &cluster::terms(settings)?, dry_run).map_err(|error| error.to_string())?;
    let text = match (json, task) {
        (true, _) => shown_as_json(&settings.keyspace, &done, dry_run),
        (false, Task::Check) => checked(&settings.keyspace, &done),
        (false, _) => told(&settings.keyspace, &done, dry_run),
    };
    say(terminal, &text)?;
    match done.problems.len() {
        0 => Ok(()),
        1 => Err("the keyspace is of no use to a node".to_owned()),
        count => Err(format!("the keyspace is of no use to a node: {count} problems")),
    }
}

fn shown_as_json(keyspace: &str, done: &Done, dry_run: bool) -> String {
    let problems: Vec<String> = done.problems.iter().map(ToString::to_string).collect();
    let value = json!({
        "keyspace": keyspace,
        "changed": !dry_run && !done.statements.is_empty(),
        "statements": done.statements,
        "problems": problems,
    });
    format!("{value:#}\n")
}

fn checked(keyspace: &str, done: &Done) -> String {
    match done.problems.is_empty() {
        true => format!("keyspace {keyspace}: ok\n"),
        false => done.problems.iter().map(|one| format!("keyspace {keyspace}: {one}\n")).collect(),
    }
}

fn told(keyspace: &str, done: &Done, dry_run: bool) -> String {
    let count = done.statements.len();
    match (dry_run, count) {
        (_, 0) => format!("keyspace {keyspace}: nothing to do\n"),
        (true, _) => done.statements.iter().map(|statement| format!("{statement};\n")).collect(),
        (false, _) => format!("keyspace {keyspace}: done, {count} statements\n"),
    }
}
