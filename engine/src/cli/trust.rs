//! The commands about trust among the nodes of one owner: make a key, list the keys.
//!
//! Called by `cli::main` with a checked configuration. They work on files of the data folder,
//! whether an engine runs on it or not; it takes them up at its start and on SIGHUP.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::table;
use super::{Terminal, say};
use crate::config::Config;
use crate::dirlock;
use crate::run::now;
use crate::trust::{self, NamedKey};

/// `trust ...`
#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    /// Makes a key; copy its file to the other nodes, as it is
    Create {
        /// What to call it [default: the date, like 20261122]
        #[arg(long)]
        name: Option<String>,
    },
    /// Lists the keys, with what tells one from another
    List,
}

/// Runs one of the commands.
pub(super) fn execute(
    command: Trust,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let data = &config.data;
    let failed = |error: &dyn core::fmt::Display| error.to_string();
    let keys = match command {
        Trust::Create { name } => {
            let _lock = dirlock::take_if_fresh(data).map_err(|error| failed(&error))?;
            let date =
                || now().rfc3339().to_string().chars().take(10).filter(|c| *c != '-').collect();
            let key = trust::create(data, &name.unwrap_or_else(date));
            vec![key.map_err(|error| failed(&error))?]
        }
        Trust::List => trust::list(data).map_err(|error| failed(&error))?,
    };
    if json {
        let value: Value = keys.iter().map(|key| described(data, key)).collect();
        return say(terminal, &format!("{value:#}\n"));
    }
    let file = |key: &NamedKey| trust::file(data, &key.name).display().to_string();
    let row = |key: &NamedKey| [key.name.clone(), key.fingerprint(), file(key)];
    let rows: Vec<_> = keys.iter().map(row).collect();
    say(terminal, &table(["name", "fingerprint", "file"], &rows))
}

fn described(data: &Path, key: &NamedKey) -> Value {
    json!({
        "name": key.name,
        "fingerprint": key.fingerprint(),
        "file": trust::file(data, &key.name).display().to_string(),
    })
}
