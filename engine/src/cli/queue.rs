//! The commands about mail that waits to be sent on.
//!
//! Called by `cli::accounts`, which knows the way to the store. A list of a million messages takes
//! its time, so without `--all` it ends after a page; the counts behind it are those of all.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::accounts::{Reach, reach};
use super::table::table;
use super::{Engine, Terminal, say};
use crate::config::Config;
use crate::control::{AdminReply, AdminRequest, QueueAction, QueueEntry};

/// What to do with mail that waits to be sent on.
#[derive(Debug, Subcommand)]
pub(super) enum Queue {
    /// Lists what waits, and why
    List {
        /// All of it; without this, the first thousand lines
        #[arg(long)]
        all: bool,
    },
    /// Shows one message
    Show {
        /// The message, as in the reply to DATA
        id: String,
    },
    /// Tries messages now
    Retry(Chosen),
    /// Keeps messages from being tried
    Hold(Chosen),
    /// Lets held messages go
    Release(Chosen),
    /// Removes messages; nobody is told
    Remove(Chosen),
}

/// Some messages of the queue.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Chosen {
    /// The messages
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All messages
    #[arg(long)]
    all: bool,
}

/// Runs one of the commands.
pub(super) fn execute(
    command: Queue,
    config: &Config,
    json: bool,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut reach = reach(config, engine)?;
    let (action, chosen) = match command {
        Queue::List { all } => return list(&mut reach, all, json, terminal),
        Queue::Show { id } => {
            let reply = ask(&mut reach, AdminRequest::QueueList { after: None, only: Some(id) })?;
            let AdminReply::Queue { entries, .. } = reply else { return Ok(()) };
            return say(terminal, &shown(&entries, json));
        }
        Queue::Retry(chosen) => (QueueAction::Retry, chosen),
        Queue::Hold(chosen) => (QueueAction::Hold, chosen),
        Queue::Release(chosen) => (QueueAction::Release, chosen),
        Queue::Remove(chosen) => (QueueAction::Remove, chosen),
    };
    let Chosen { ids, all } = chosen;
    let AdminReply::Done { text } = ask(&mut reach, AdminRequest::QueueAct { action, ids, all })?
    else {
        return Ok(());
    };
    let text =
        if json { format!("{:#}\n", serde_json::json!({ "done": text })) } else { text + "\n" };
    say(terminal, &text)
}

fn ask(reach: &mut Reach, request: AdminRequest) -> Result<AdminReply, String> {
    reach.execute(request).map_err(|error| error.to_string())
}

fn list(
    reach: &mut Reach,
    all: bool,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut whole: Vec<QueueEntry> = Vec::new();
    let counted: BTreeMap<String, u64> = loop {
        let after = whole.last().map(|entry| entry.id.clone());
        let reply = ask(reach, AdminRequest::QueueList { after: after.clone(), only: None })?;
        let AdminReply::Queue { entries, more, counts } = reply else { return Ok(()) };
        let goes_on = entries.first().is_some_and(|first| Some(&first.id) > after.as_ref());
        whole.extend(entries);
        if !(all && more && goes_on) {
            break counts;
        }
    };
    if json {
        let value = serde_json::json!({ "counts": counted, "entries": whole });
        return say(terminal, &format!("{value:#}\n"));
    }
    let row = |entry: &QueueEntry| {
        [
            entry.id.clone(),
            entry.domain.clone(),
            entry.recipients.to_string(),
            entry.octets.to_string(),
            entry.attempts.to_string(),
            entry.why.clone(),
            entry.next.clone(),
            entry.said.clone(),
        ]
    };
    let rows: Vec<_> = whole.iter().map(row).collect();
    let head = ["id", "domain", "to", "octets", "tries", "why not now", "next", "said last"];
    let total: u64 = counted.values().sum();
    let reasons: Vec<String> = counted.iter().map(|(why, n)| format!("{n} {why}")).collect();
    let left = if (whole.len() as u64) < total { ", not all are shown: --all" } else { "" };
    let sum = match total {
        0 => "nothing waits\n".to_owned(),
        _ => format!("{total} in all: {}{left}\n", reasons.join(", ")),
    };
    say(terminal, &(if rows.is_empty() { sum } else { table(head, &rows) + &sum }))
}

/// One message with all that is known of it.
fn shown(entries: &[QueueEntry], json: bool) -> String {
    if json {
        return format!("{:#}\n", serde_json::json!(entries));
    }
    let mut text = String::new();
    for entry in entries {
        let code = if entry.code == 0 { String::new() } else { format!("{} ", entry.code) };
        let rows = [
            ("id", entry.id.clone()),
            ("domain", entry.domain.clone()),
            ("recipients", entry.recipients.to_string()),
            ("octets", entry.octets.to_string()),
            ("received", entry.received.clone()),
            ("why not now", entry.why.clone()),
            ("tries", entry.attempts.to_string()),
            ("next", entry.next.clone()),
            ("said last", format!("{code}{}", entry.said)),
        ];
        for (name, value) in rows {
            text.push_str(&format!("{name:12}{value}"));
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}
