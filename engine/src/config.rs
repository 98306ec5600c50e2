//! The configuration: read once, checked once, then a value that needs no further checking.
//!
//! [`Config::load`] takes one TOML file, or none, and what the command line says instead. It fails
//! with every problem that it finds, each with its line. What only makes one frown (a time-out
//! shorter than an RFC asks for) is a warning that goes with the value.

mod check;
mod cluster;
mod file;
mod filter;
mod keys;
mod render;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use check::{is_domain, is_here};
pub use cluster::Settings as ClusterSettings;
pub use file::{Protocol, TlsMode};
pub use render::{explain, explain_json, reference, schema};

use crate::log;
use crate::relay;
use crate::tls::Pair;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use fsmtp_store::seal::RsaBits;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest configuration file that is read; arbitrary, far beyond what people write.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--cores`
    pub cores: Option<u16>,
    /// `--dev`
    pub dev: bool,
    /// `--ports`
    pub ports: Option<u16>,
    /// `--run=`: only the listeners of these protocols; empty for all.
    pub only: Vec<Protocol>,
}

impl Overrides {
    /// Whether listeners of `protocol` shall run. Who says `smtp` means submission too, as the seed
    /// documents did.
    fn wants(&self, protocol: Protocol) -> bool {
        let smtp = protocol == Protocol::Submission && self.only.contains(&Protocol::Smtp);
        self.only.is_empty() || self.only.contains(&protocol) || smtp
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of this host: what the node calls itself.
    pub node: String,
    /// The domain of user names without one: lower case.
    pub domain: String,
    /// How many shards run, 1 to 1024.
    pub cores: u16,
    /// The folder that everything is kept in.
    pub data: PathBuf,
    /// Where the engine listens: at least one, no address twice.
    pub listeners: Vec<Listener>,
    /// The files of certificates, the one for clients that name no host first. Empty: no TLS; with
    /// `--dev` one is to be made.
    pub certificates: Vec<Pair>,
    /// The authorities of clients' certificates; none: nobody is asked for one.
    pub client_ca: Option<PathBuf>,
    /// The file of authorities that prove names of other servers; none: those of the system.
    pub roots: Option<PathBuf>,
    /// Mail that comes in.
    pub smtp: Smtp,
    /// The filters that are asked about mail, in this order.
    pub filters: Vec<crate::filters::Plan>,
    /// How mail that comes in is checked; none: it is not.
    pub verify: Option<Arc<crate::verify::Settings>>,
    /// What hosts may do that nobody knows.
    pub strangers: crate::strangers::Terms,
    /// Mail that users send.
    pub submission: Submission,
    /// Mail that is fetched.
    pub pop3: Pop3,
    /// Whether SCRAM is offered where users sign in.
    pub scram: bool,
    /// How many recipients a user may name in an hour; 0 for no limit.
    pub recipients_per_hour: u32,
    /// Reports to domains about mail in their name; none: none are sent.
    pub reports: Option<Reports>,
    /// How mail travels on.
    pub sending: relay::Plan,
    /// How names are looked up.
    pub resolver: Resolver,
    /// The cluster; none: this node is alone.
    pub cluster: Option<ClusterSettings>,
    /// How mail lies on disk.
    pub store: Store,
    /// What is written about what happens.
    pub log: Log,
    /// Set with `--dev`.
    pub dev: Option<Dev>,
    /// What one may want to know about the values; a sentence each.
    pub warnings: Vec<String>,
}

/// Where the engine listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// How connections are encrypted; not `None` only where there is a certificate.
    pub tls: TlsMode,
    /// When a message counts as accepted.
    pub durability: Durability,
    /// The most connections at one time, all shards together.
    pub connections_max: u32,
    /// The most connections at one time from one address; at most `connections_max`.
    pub connections_per_address_max: u32,
}

/// When a message counts as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is on this node's stable storage.
    Fsync,
    /// When the cluster has it, too.
    Cluster,
}

/// Mail that users send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submission {
    /// Whether accounts keep a copy of what they send.
    pub keep_sent: bool,
}

/// Mail that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// The largest message.
    pub size_bytes_max: u64,
    /// The most recipients of one message.
    pub recipients_max: u32,
    /// Whether senders of domains that are served here must have signed in, or be nodes.
    pub own_domains_closed: bool,
    /// How long a client may take for its next command.
    pub command_timeout: Duration,
    /// How long a client may send nothing in the middle of a message.
    pub data_timeout: Duration,
}

/// Mail that is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pop3 {
    /// How long a client may say nothing.
    pub idle_timeout: Duration,
}

/// Reports to domains about mail in their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// Whom they are from, and whose domain signs them.
    pub from: String,
    /// Who we are, for people.
    pub organisation: String,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The name servers: at least one, at most eight.
    pub servers: Vec<SocketAddr>,
    /// How long the first try of a lookup waits.
    pub timeout: Duration,
    /// Whether the servers' word that something is signed counts.
    pub dnssec_trusted: bool,
}

/// How mail lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The size of a log file, a multiple of 4096.
    pub segment_bytes: u64,
    /// Mail is refused for the time being while less than this is free.
    pub reserve_bytes: u64,
    /// The length of RSA keys of new accounts; none: their mail lies in clear.
    pub sealing: Option<RsaBits>,
}

/// What is written about what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important events that are written.
    pub level: log::Level,
    /// How an event looks; none chooses text for a terminal and JSON elsewhere.
    pub format: Option<log::Format>,
}

/// What `--dev` brings: one account in the configuration's domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dev {
    /// The account's address.
    pub account: &'static str,
    /// Its password: known to everybody, which is why `--dev` listens on loopback only.
    pub password: &'static str,
}

/// One thing that is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; none when it is not about a line.
    pub line: Option<usize>,
    /// What is wrong, as a sentence without its full stop.
    pub text: String,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// What is wrong with it: at least one problem.
    pub problems: Vec<Problem>,
}

/// One line for each problem: `fsmtp.toml:7: unknown key ...`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let Some(path) = &self.path {
                write!(f, "{}:", path.display())?;
            }
            match (&self.path, problem.line) {
                (Some(_), Some(line)) => write!(f, "{line}: ")?,
                (Some(_), None) => write!(f, " ")?,
                (None, _) => {}
            }
            write!(f, "{}", problem.text)?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Reads `path`, if there is one, and checks it together with `overrides`.
    ///
    /// # Errors
    /// When the file cannot be read, or with all that is wrong in it.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = path.map_or(Ok(String::new()), |path| read(path).map_err(|text| (path, text)));
        let text = text.map_err(|(path, text)| ConfigError {
            path: Some(path.to_owned()),
            problems: vec![Problem { line: None, text }],
        })?;
        Self::parse(&text, overrides)
            .map(|(config, _)| config)
            .map_err(|problems| ConfigError { path: path.map(Path::to_owned), problems })
    }

    /// Checks the text of a file; gives back the file with every value filled in, too.
    fn parse(text: &str, overrides: &Overrides) -> Result<(Self, file::File), Vec<Problem>> {
        let syntax = |error: &toml::de::Error| {
            let line = error.span().map(|span| keys::line(text, span.start));
            vec![Problem { line, text: error.message().replace('\n', "; ") }]
        };
        let table = toml::de::DeTable::parse(text).map_err(|error| syntax(&error))?;
        let mut problems = Vec::new();
        keys::unknown(text, table.get_ref(), &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let file: file::File = toml::from_str(text).map_err(|error| syntax(&error))?;
        check::check(text, table.get_ref(), file, overrides)
    }
}

/// The text of the file.
fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("the file has {length} bytes; at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}
