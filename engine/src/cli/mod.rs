//! The command line: what people type, and what they are told.
//!
//! `main` calls [`main`] with an [`Engine`], which runs shards and opens stores; everything else
//! that a command does is in here. A command writes to a [`Terminal`], so tests read along. It ends
//! with status 0 when it is done, 1 when it failed and the reason stands on standard error, 2 on
//! wrong usage.

mod accounts;
mod args;
mod check;
mod checks;
mod dkim;
mod dmarc;
mod doctor;
mod import;
mod mailtest;
mod plan;
mod queue;
mod resolve;
mod store;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod trust;

use crate::config::{self, Config, Overrides};
use crate::control::Admin;
use crate::dirlock::{self, DirLock};
use crate::run::{segment_bytes_kept, segment_bytes_on_disk};
use args::{Command, Line};
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The parts that a command needs and that do more than talk.
pub trait Engine {
    /// Runs until it is told to stop. `lock` is the data folder's, the ports were free just now,
    /// and the descriptors are enough for what `config` allows.
    ///
    /// # Errors
    /// When it could not start, or stopped for a reason of its own: one line for the operator.
    fn run(&self, config: &Config, lock: DirLock) -> Result<(), String>;

    /// Opens the store of a data folder that no engine runs on; `lock` is kept by what comes back.
    ///
    /// # Errors
    /// When it cannot be opened: one line for the operator.
    fn open(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String>;

    /// The same with shards that take mail over, which end when what comes back is dropped.
    ///
    /// # Errors
    /// When it cannot be opened, or a shard does not start: one line for the operator.
    fn open_to_import(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String>;
}

/// What a command reads from and writes to.
pub struct Terminal<'t> {
    /// Standard input.
    pub input: &'t mut dyn BufRead,
    /// Standard output.
    pub output: &'t mut dyn Write,
    /// Standard error.
    pub errors: &'t mut dyn Write,
    /// Shows a prompt and reads a line without echo.
    pub secret: &'t dyn Fn(&str) -> std::io::Result<String>,
    /// Somebody sits at standard input, who can be asked again.
    pub interactive: bool,
    /// Standard output shows colours.
    pub colours: bool,
}

impl core::fmt::Debug for Terminal<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Terminal")
    }
}

/// Runs the command that `args` (the program's name first) say, on the process's own terminal.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>, engine: &dyn Engine) -> ExitCode {
    let terminal = &mut Terminal {
        input: &mut std::io::stdin().lock(),
        output: &mut std::io::stdout().lock(),
        errors: &mut std::io::stderr(),
        secret: &|prompt| rpassword::prompt_password(prompt),
        interactive: std::io::stdin().is_terminal(),
        // As https://no-color.org asks for.
        colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    ExitCode::from(execute(args, engine, terminal))
}

/// Runs a command; gives back its exit status.
pub fn execute(
    args: impl IntoIterator<Item = OsString>,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> u8 {
    let line = match args::parse(args) {
        Ok(line) => line,
        Err(error) => {
            // Help and version are no errors, and go where people read them.
            let to = if error.use_stderr() { &mut terminal.errors } else { &mut terminal.output };
            let _ = write!(to, "{error}");
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match dispatch(line, engine, terminal) {
        Ok(()) => 0,
        Err(Failed { status, reason }) => {
            // An empty reason was told before.
            for line in reason.lines() {
                let _ = writeln!(terminal.errors, "fsmtp-engine: {line}");
            }
            status
        }
    }
}

/// Why a command is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Failed {
    status: u8,
    /// Lines for the operator.
    reason: String,
}

impl Failed {
    /// What the command was given makes no sense, as only the command itself could see.
    fn usage(reason: impl Into<String>) -> Self {
        Self { status: 2, reason: reason.into() }
    }
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self { status: 1, reason }
    }
}

fn dispatch(line: Line, engine: &dyn Engine, terminal: &mut Terminal<'_>) -> Result<(), Failed> {
    let Line { common, start, command } = line;
    let overrides = Overrides {
        data: common.data,
        cores: start.cores,
        dev: start.dev,
        ports: start.ports,
        only: start.only,
    };
    let path = common.config.as_deref();
    let done = match command {
        Command::Run(_) => run(path, &overrides, engine, terminal),
        Command::Test(_) => checks::test(path, &overrides, common.json, terminal),
        Command::Doctor(_) => doctor::doctor(path, &overrides, common.json, terminal),
        Command::Plan(ask) => plan::plan(&ask, overrides.data, common.json, terminal),
        Command::Resolve(ask) => {
            resolve::resolve(&ask, &load(path, &overrides)?, common.json, terminal)
        }
        Command::Check(check) => {
            check::execute(check, &load(path, &overrides)?, common.json, terminal)
        }
        Command::Config(command) => configuration(command, path, &overrides, common.json, terminal),
        Command::Sync(ask) => sync::execute(ask, &load(path, &overrides)?, common.json, terminal),
        Command::Mailtest(ask) => {
            let config = load(path, &overrides)?;
            return mailtest::mailtest(&ask, &config, common.json, terminal);
        }
        Command::ImportCassandra(ask) => {
            let config = load(path, &overrides).map_err(Failed::usage)?;
            return import::import(&ask, &config, common.json, engine, terminal);
        }
        Command::Dkim(command) => {
            dkim::execute(command, &load(path, &overrides)?, common.json, terminal)
        }
        Command::Dmarc(dmarc::Dmarc::Read { file }) => dmarc::read(&file, common.json, terminal),
        Command::Dmarc(dmarc::Dmarc::Reports(ask)) => {
            dmarc::reports(&ask, &load(path, &overrides)?, common.json, engine, terminal)
        }
        Command::Store(command) => {
            store::execute(&command, &load(path, &overrides)?, common.json, terminal)
        }
        Command::Trust(command) => {
            trust::execute(command, &load(path, &overrides)?, common.json, terminal)
        }
        command => {
            let config = load(path, &overrides)?;
            accounts::execute(command, &config, common.json, engine, terminal)
        }
    };
    done.map_err(Failed::from)
}

/// The configuration, with what the data folder keeps from when it was made.
fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, String> {
    let mut config = Config::load(path, overrides).map_err(|error| error.to_string())?;
    if let Some(kept) = segment_bytes_on_disk(&config.data) {
        config.warnings.extend(segment_bytes_kept(&config, kept));
        config.store.segment_bytes = kept;
    }
    Ok(config)
}

fn run(
    path: Option<&Path>,
    overrides: &Overrides,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut config = load(path, overrides)?;
    let note = checks::take_descriptors(&mut config)?;
    config.warnings.extend(note);
    checks::take_locked_memory().map_err(|why| format!("locked memory: {why}"))?;
    // All that can be known without touching anything is looked at before anything is touched.
    dirlock::inspect(&config.data).map_err(|error| error.to_string())?;
    checks::ports_are_free(&config.listeners)?;
    let lock = DirLock::take(&config.data).map_err(|error| error.to_string())?;
    // Only now: a start that fails is to say one thing.
    for warning in &config.warnings {
        let _ = writeln!(terminal.errors, "fsmtp-engine: warning: {warning}");
    }
    engine.run(&config, lock)
}

fn configuration(
    command: args::Config,
    path: Option<&Path>,
    overrides: &Overrides,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let text = match command {
        args::Config::Schema => config::schema(),
        args::Config::Reference => config::reference(),
        args::Config::Explain { file, .. } => {
            let path: Option<PathBuf> = file.or_else(|| path.map(Path::to_owned));
            let explain = if json { config::explain_json } else { config::explain };
            explain(path.as_deref(), overrides).map_err(|error| error.to_string())?
        }
        args::Config::Test { file, .. } => {
            let path = file.or_else(|| path.map(Path::to_owned));
            let config = load(path.as_deref(), overrides)?;
            if json {
                let value = serde_json::json!({
                    "ok": true,
                    "file": path.map(|path| path.display().to_string()),
                    "warnings": config.warnings,
                });
                return say(terminal, &format!("{value:#}\n"));
            }
            let name = path.map_or_else(|| "the defaults".to_owned(), |p| p.display().to_string());
            let warnings = config.warnings.iter().map(|w| format!("warning: {w}\n"));
            format!("{}ok: {name}\n", warnings.collect::<String>())
        }
    };
    say(terminal, &text)
}

/// Writes to standard output; a reader that has gone away is a failure without words.
fn say(terminal: &mut Terminal<'_>, text: &str) -> Result<(), String> {
    let written = terminal.output.write_all(text.as_bytes()).and_then(|()| terminal.output.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(String::new()),
        written => written.map_err(|error| format!("cannot write to standard output: {error}")),
    }
}

/// What a start shows before `ready`: a line for each listener.
#[must_use]
pub fn startup_table(config: &Config) -> String {
    let account = match config.dev {
        Some(dev) => format!("{}, password {}", dev.account, dev.password),
        None => "-".to_owned(),
    };
    let row = |listener: &config::Listener| {
        let protocol = match listener.protocol {
            config::Protocol::Smtp => "SMTP",
            config::Protocol::Submission => "submission",
            config::Protocol::Pop3 => "POP3",
        };
        let tls = match listener.tls {
            config::TlsMode::None => "none",
            config::TlsMode::Starttls => "STARTTLS",
            config::TlsMode::Implicit => "implicit",
        };
        // Where mail counts as accepted later than elsewhere.
        let protocol = match listener.durability {
            config::Durability::Fsync => protocol.to_owned(),
            config::Durability::Cluster => format!("{protocol}, cluster"),
        };
        [listener.address.to_string(), protocol, tls.to_owned(), account.clone()]
    };
    let rows: Vec<[String; 4]> = config.listeners.iter().map(row).collect();
    table::table(["address", "protocol", "TLS", "account"], &rows)
}
