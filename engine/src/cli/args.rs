//! The command line as types, and the flags of the original made to fit.
//!
//! Called by `cli::main`. Wrong usage is clap's error, which ends the process with status 2.

use super::check::Check;
use super::dkim::{Dkim, Make};
use super::dmarc::Dmarc;
use super::import::Import;
use super::queue::Queue;
use super::resolve::Resolve;
use super::store::Store;
use super::sync::Sync;
use super::trust::Trust;
use super::{mailtest, plan};
use crate::config::Protocol;
use crate::relay::routes::Route;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// The heading of what the original had, too, in the help.
const ORIGINAL: &str = "Flags of the original (one or two dashes)";

/// What was asked for.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) common: Common,
    /// As given, on whichever side of the command; empty for commands that start nothing.
    pub(super) start: Start,
    pub(super) command: Command,
}

/// fsmtp-engine: takes mail, keeps it, hands it out.
#[derive(Debug, Parser)]
#[command(name = "fsmtp-engine", version, about)]
struct Typed {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    start: Start,
    #[command(flatten)]
    original: Original,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The configuration file; without it every setting has its default
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// The folder that everything is kept in [default: ./fsmtp-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) data: Option<PathBuf>,
    /// One JSON document instead of text; not with `run` and `config reference`
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Options of a start, and of the commands that say what a start would do.
#[derive(Debug, Default, Args)]
pub(super) struct Start {
    /// How many cores to use [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) cores: Option<u16>,
    /// Nothing configured, loopback only: account demo@example.test, password demo
    #[arg(long)]
    pub(super) dev: bool,
    /// With --dev: services listen on BASE plus their well-known ports [default: 2000]
    #[arg(long, value_name = "BASE",
        value_parser = clap::value_parser!(u16).range(1..=64_000))]
    pub(super) ports: Option<u16>,
    /// Starts only these services
    #[arg(short = 'r', long = "run", value_name = "smtp|pop3", value_delimiter = ',',
        value_parser = protocol, help_heading = ORIGINAL)]
    pub(super) only: Vec<Protocol>,
}

impl Start {
    const fn is_given(&self) -> bool {
        self.cores.is_some() || self.dev || self.ports.is_some() || !self.only.is_empty()
    }

    /// These options, and those of `outer` that are not among them.
    fn or(self, outer: Self) -> Self {
        Self {
            cores: self.cores.or(outer.cores),
            dev: self.dev || outer.dev,
            ports: self.ports.or(outer.ports),
            only: if self.only.is_empty() { outer.only } else { self.only },
        }
    }
}

/// The flags of the original that stand for commands.
#[derive(Debug, Args)]
#[command(next_help_heading = ORIGINAL)]
struct Original {
    /// The same as the command `test`
    #[arg(short = 't', long, group = "flag")]
    test: bool,
    /// Comes with a later version
    #[arg(short = 's', long, group = "flag")]
    sync: bool,
    /// The same as the command `adduser`, with its options
    #[arg(short = 'a', long, value_name = "ADDRESS", num_args = 0..=1, group = "flag")]
    adduser: Option<Option<String>>,
    /// The same as the command `mailtest`, which asks for all that it needs
    #[arg(short = 'm', long, group = "flag")]
    mailtest: bool,
    #[command(flatten)]
    person: Person,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the engine (the default command)
    Run(Start),
    /// Mail that waits to be sent on to other servers
    #[command(subcommand)]
    Queue(Queue),
    /// Adds an account
    Adduser {
        /// user@domain, or user for the engine's own domain; asked for when absent
        address: Option<String>,
        #[command(flatten)]
        person: Person,
        /// Makes a recovery key, shown once: it opens the mail when the password is forgotten
        #[arg(long)]
        recovery_key: bool,
    },
    /// Adds an account with a password hash of the original, asked for or from standard input:
    /// base64(PBKDF2-SHA1).salt
    ImportAccount {
        /// user@domain
        address: String,
        /// The name of the person
        #[arg(long)]
        name: Option<String>,
    },
    /// Takes over domains, accounts and mail of the original from its Cassandra
    ///
    /// May be interrupted and run again: nothing is taken twice. An engine may run or not.
    /// Status 0: all was taken; 1: something was left; 2: it could not begin, or not go on.
    ImportCassandra(Import),
    /// Removes an account and its mail
    Deluser {
        /// user@domain
        address: String,
    },
    /// Sets the password of an account
    ///
    /// Mail that is sealed needs the old password or the recovery key, asked for or from the second
    /// line of standard input.
    Passwd {
        /// user@domain
        address: String,
        #[command(flatten)]
        password: PasswordFrom,
        /// Begins the mailbox anew when neither is known: the mail in it is lost
        #[arg(long)]
        lose_mail: bool,
    },
    /// Passwords for single programs and devices
    #[command(subcommand)]
    AppPassword(AppPassword),
    /// Lists the accounts
    Users,
    /// Domains that mail is taken for
    #[command(subcommand)]
    Domain(Domain),
    /// Addresses whose mail goes to others
    #[command(subcommand)]
    Alias(Alias),
    /// Keys that sign what a domain sends
    #[command(subcommand)]
    Dkim(Dkim),
    /// Reports of what came in a domain's name
    #[command(subcommand)]
    Dmarc(Dmarc),
    /// The keyspace of a cluster, in Cassandra
    #[command(subcommand)]
    Store(Store),
    /// Keys that the nodes of one owner share
    #[command(subcommand)]
    Trust(Trust),
    /// Checks and explains the configuration
    #[command(subcommand)]
    Config(Config),
    /// Checks what a start would need
    Test(Start),
    /// Checks this machine and the configuration before going live; changes nothing
    Doctor(Start),
    /// Measures this machine for a minute and says what a rate of mail needs
    Plan(Plan),
    /// Looks a name up as the engine would, and shows each message
    Resolve(Resolve),
    /// Says who really sent something, as the engine judges it
    #[command(subcommand)]
    Check(Check),
    /// Brings the Redis of a cluster to what its Cassandra says
    Sync(Sync),
    /// Sends one message where the relay would, and shows each step
    ///
    /// Asks for what the options do not say; a script gives --to, and --from or --type d. No engine
    /// has to run: the message goes to the hosts of each recipient at once, by the routes of the
    /// configuration or by MX records. Status 0: all of them have taken it; 1: one has not; 2: an
    /// address is missing or wrong.
    Mailtest(Mailtest),
}

/// Whose account is added.
#[derive(Debug, Args)]
pub(super) struct Person {
    /// The name of the person who is added
    #[arg(long)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) password: PasswordFrom,
}

/// Where the password comes from.
#[derive(Debug, Args)]
pub(super) struct PasswordFrom {
    /// Reads the password from the first line of standard input
    #[arg(long)]
    pub(super) password_stdin: bool,
}

/// `plan`
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Messages in a second, like 50k/s; or in a minute, hour or day: /m, /h, /d
    #[arg(long, value_name = "N/s", value_parser = plan::rate)]
    pub(super) rate: f64,
    /// Bytes of a message, like 20k
    #[arg(long, value_name = "BYTES", value_parser = plan::size)]
    pub(super) size: u64,
    /// Connections are encrypted, by STARTTLS and a full handshake each
    #[arg(long)]
    pub(super) tls: bool,
    /// Recipients of each message
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) recipients: u32,
    /// Messages of each connection
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) keep: u32,
    /// Connections that are open and idle, besides
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub(super) connections: u64,
    /// Days that mail is kept
    #[arg(long, value_name = "DAYS", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(super) retention: u32,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(3..=600))]
    pub(super) seconds: u32,
}

/// `mailtest`
#[derive(Debug, Default, Args)]
pub(super) struct Mailtest {
    /// Which message: c, as the options say, or d, a default one
    #[arg(long = "type", value_name = "c|d", value_enum, hide_possible_values = true)]
    pub(super) kind: Option<mailtest::Kind>,
    /// The subject
    #[arg(long)]
    pub(super) subject: Option<String>,
    /// The sender; with --type d the postmaster of the engine's own domain
    #[arg(long, value_name = "ADDRESS")]
    pub(super) from: Option<String>,
    /// A recipient; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub(super) to: Vec<String>,
    /// The plain text [default: made from the HTML, or a verse]
    #[arg(long)]
    pub(super) text: Option<String>,
    /// A file with the same as HTML
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// A file that goes with it; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(super) attach: Vec<PathBuf>,
    /// Does not sign it with the keys of the sender's domain
    #[arg(long)]
    pub(super) no_sign: bool,
    /// Takes it there, whatever routes and MX records say; written as a route
    #[arg(long, value_name = "HOST:PORT", value_parser = mailtest::server)]
    pub(super) server: Option<Route>,
    /// How long each reply may take [default: 60]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) timeout: Option<u64>,
    /// As an engine with --dev: only to loopback addresses, by `dev.routes` or --server
    #[arg(long)]
    pub(super) dev: bool,
}

/// `domain ...`
#[derive(Debug, Subcommand)]
pub(super) enum Domain {
    /// Takes mail for a domain
    Add {
        /// The domain
        domain: String,
    },
    /// No longer takes mail for a domain
    Remove {
        /// The domain
        domain: String,
    },
    /// Lists the domains
    List,
}

/// `app-password ...`
#[derive(Debug, Subcommand)]
pub(super) enum AppPassword {
    /// Makes one, and shows it once; asks for the password or the recovery key
    Add {
        /// user@domain
        address: String,
        /// What to call it: the program or device
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        password: PasswordFrom,
    },
    /// Lists them
    List {
        /// user@domain
        address: String,
    },
    /// Takes one away
    Revoke {
        /// user@domain
        address: String,
        /// Its number in the list
        number: u32,
    },
}

/// `alias ...`
#[derive(Debug, Subcommand)]
pub(super) enum Alias {
    /// Sends the mail for an address to others
    Add {
        /// user@domain, or *@domain for all addresses that have no account
        address: String,
        /// Where the mail goes: accounts and other aliases of this engine
        #[arg(required = true)]
        targets: Vec<String>,
        /// Gives an alias that exists these targets instead of its own
        #[arg(long)]
        replace: bool,
    },
    /// Removes an alias
    Remove {
        /// user@domain or *@domain
        address: String,
    },
    /// Lists the aliases
    List,
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Checks a configuration file
    Test {
        /// The file, instead of --config
        file: Option<PathBuf>,
        #[command(flatten)]
        start: Start,
    },
    /// Prints every value in effect, and where it comes from
    Explain {
        /// The file, instead of --config
        file: Option<PathBuf>,
        #[command(flatten)]
        start: Start,
    },
    /// Prints the JSON Schema of the file
    Schema,
    /// Prints docs/config.md
    Reference,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "smtp" => Ok(Protocol::Smtp),
        "submission" => Ok(Protocol::Submission),
        "pop3" => Ok(Protocol::Pop3),
        _ => Err("known are smtp, submission and pop3".to_owned()),
    }
}

/// Reads a command line, the program's name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Line, clap::Error> {
    let typed = Typed::try_parse_from(normalise(args))?;
    let Typed { common, start: mut outer, original, command } = typed;
    let mut command = original.command(command)?;
    // It starts nothing, and may be kept on this machine all the same.
    let dev = match &command {
        Command::Mailtest(ask) => core::mem::take(&mut outer.dev) || ask.dev,
        _ => false,
    };
    let mut start = match command.start() {
        Some(inner) => core::mem::take(inner).or(outer),
        None if outer.is_given() => {
            return Err(usage("--cores, --dev, --ports and --run go with a start and its checks"));
        }
        None => outer,
    };
    start.dev |= dev;
    // Not `requires`: that does not see what stands on the other side of the command.
    if start.ports.is_some() && !start.dev {
        return Err(usage("--ports goes with --dev; the configuration file sets other ports"));
    }
    match command {
        Command::Run(_) if common.json => {
            Err(usage("--json goes with a command; what a run says is set by log.format"))
        }
        Command::Config(Config::Reference) if common.json => {
            Err(usage("the reference is a page for people; `config schema` is JSON"))
        }
        Command::Dkim(Dkim::Create { selector: Some(_), algorithm: Make::Both, .. }) => {
            Err(usage("--selector names one key: --algorithm says which"))
        }
        command => Ok(Line { common, start, command }),
    }
}

/// An error of usage that clap cannot see.
fn usage(text: &str) -> clap::Error {
    Typed::command().error(ErrorKind::ArgumentConflict, text)
}

impl Original {
    /// The one command of the line.
    fn command(self, typed: Option<Command>) -> Result<Command, clap::Error> {
        let Self { test, sync, adduser, mailtest, person } = self;
        if typed.is_some() && (test || sync || adduser.is_some() || mailtest) {
            return Err(usage("a flag that stands for a command cannot go with another command"));
        }
        if adduser.is_none() && (person.name.is_some() || person.password.password_stdin) {
            return Err(usage("--name and --password-stdin go behind the command, or with -a"));
        }
        Ok(match (typed, adduser) {
            (Some(command), _) => command,
            (None, Some(address)) => Command::Adduser { address, person, recovery_key: false },
            _ if test => Command::Test(Start::default()),
            _ if sync => Command::Sync(Sync::default()),
            _ if mailtest => Command::Mailtest(Mailtest::default()),
            _ => Command::Run(Start::default()),
        })
    }
}

impl Command {
    /// The options of a start that stand behind the command, if it takes them.
    const fn start(&mut self) -> Option<&mut Start> {
        match self {
            Self::Run(start)
            | Self::Test(start)
            | Self::Doctor(start)
            | Self::Config(Config::Test { start, .. } | Config::Explain { start, .. }) => {
                Some(start)
            }
            _ => None,
        }
    }
}

/// Gives the long flags of the original their second dash, and `-r=x` its long name.
fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    args.into_iter()
        .map(|arg| {
            options &= arg != "--";
            let Some(text) = arg.to_str().filter(|_| options) else { return arg };
            let name = text.split('=').next().unwrap_or_default();
            match name {
                "-help" | "-test" | "-sync" | "-adduser" | "-mailtest" | "-run" => {
                    format!("-{text}").into()
                }
                "-r" if text.len() > 2 => text.replacen("-r", "--run", 1).into(),
                _ => arg,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, clap::Error> {
        let args = std::iter::once("fsmtp-engine").chain(line.split_whitespace());
        super::parse(args.map(OsString::from))
    }

    #[test]
    fn the_table_of_options_is_sound() {
        Typed::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_original_work_with_one_or_two_dashes() {
        let command = |line: &str| parse(line).unwrap().command;
        for dash in ["-", "--"] {
            assert!(matches!(command(&format!("{dash}test")), Command::Test(_)));
            assert!(matches!(command(&format!("{dash}sync")), Command::Sync(_)));
            assert!(matches!(
                command(&format!("{dash}adduser")),
                Command::Adduser { address: None, .. }
            ));
            assert!(matches!(command(&format!("{dash}mailtest")), Command::Mailtest(_)));
            let only = parse(&format!("{dash}run=smtp")).unwrap().start.only;
            assert_eq!(only, [Protocol::Smtp]);
            let help = parse(&format!("{dash}help")).unwrap_err();
            assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        }
        for (line, only) in [
            ("-r=pop3", &[Protocol::Pop3][..]),
            ("-r pop3", &[Protocol::Pop3]),
            ("--run smtp,pop3", &[Protocol::Smtp, Protocol::Pop3]),
            ("run -r=smtp", &[Protocol::Smtp]),
            ("-t -r=smtp", &[Protocol::Smtp]),
            ("-t", &[]),
            ("-s", &[]),
            ("-a", &[]),
            ("-m", &[]),
        ] {
            assert_eq!(parse(line).unwrap().start.only, only);
        }
        let help = Typed::command().render_help().to_string();
        for flag in [
            "-t, --test",
            "-s, --sync",
            "-a, --adduser [<ADDRESS>]",
            "-m, --mailtest",
            "-r, --run <smtp|pop3>",
        ] {
            assert!(help.contains(flag), "{flag} is missing:\n{help}");
        }
    }

    #[test]
    fn the_original_adduser_takes_its_address_either_way() {
        for line in [
            "-a al@example.test --password-stdin",
            "-a=al@example.test --password-stdin",
            "--data d -adduser al@example.test --password-stdin",
            "--password-stdin -adduser=al@example.test --data d",
            "--adduser al@example.test --password-stdin --json",
            "--name Al --password-stdin -a al@example.test",
        ] {
            let Command::Adduser { address, person, .. } = parse(line).unwrap().command else {
                panic!("{line}")
            };
            assert_eq!(address.as_deref(), Some("al@example.test"), "{line}");
            assert!(person.password.password_stdin, "{line}");
        }
        let command = parse("-a --data d").unwrap().command;
        assert!(matches!(command, Command::Adduser { address: None, .. }));
    }

    #[test]
    fn run_is_the_default_and_takes_its_options_on_either_side() {
        for line in [
            "--cores 2 --dev --ports 3000 --data d",
            "run --cores 2 --dev --ports 3000 --data d",
            "--cores 2 --dev run --ports 3000 --data d",
        ] {
            let line = parse(line).unwrap();
            assert!(matches!(line.command, Command::Run(_)));
            assert_eq!((line.start.cores, line.start.ports), (Some(2), Some(3000)));
            assert!(line.start.dev && line.common.data.is_some());
        }
    }

    /// The systemd unit is a command line that nobody types, so nobody would notice.
    #[test]
    fn the_unit_starts_an_engine() {
        let unit = include_str!("../../../tuning/fsmtp-engine.service");
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let line = super::parse(start.split_whitespace().map(OsString::from)).unwrap();
        assert!(matches!(line.command, Command::Run(_)));
        assert!(line.common.config.is_some() && line.common.data.is_some());
    }

    #[test]
    fn options_of_a_start_go_with_what_depends_on_them_only() {
        for line in [
            "run",
            "test",
            "doctor",
            "-t",
            "config test",
            "config explain",
            "config explain f.toml",
        ] {
            for line in [format!("--dev --cores 3 {line}"), format!("{line} --dev --cores 3")] {
                let start = parse(&line).unwrap().start;
                assert_eq!((start.dev, start.cores), (true, Some(3)), "{line}");
            }
        }
        for line in [
            "users",
            "adduser a@b",
            "-a a@b",
            "domain list",
            "alias list",
            "config schema",
            "config reference",
            "-s",
        ] {
            for option in ["--dev", "--cores 3", "--dev --ports 3000", "-r=smtp"] {
                for line in [format!("{option} {line}"), format!("{line} {option}")] {
                    assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{line}");
                }
            }
        }
        let mut users = Typed::command();
        let help = users.find_subcommand_mut("users").unwrap().render_help().to_string();
        assert!(!help.contains("--cores") && !help.contains("--dev"), "{help}");
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "--cores 0",
            "--cores 1025",
            "--cores",
            "--ports 1000",
            "--dev --ports 65000",
            "--frobnicate",
            "frobnicate",
            "deluser",
            "passwd",
            "alias add a@b",
            "domain",
            "--run=imap",
            "-t -s",
            "-t users",
            "-a a@example.test b@example.test",
            "-t -a",
            "--password-stdin",
            "--name Al users",
            "--json",
            "run --json",
            "--dev --json",
            "config reference --json",
            "users extra",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_stands_behind_two_dashes_is_no_flag() {
        let args = ["x", "passwd", "--", "-test"].map(OsString::from);
        assert_eq!(normalise(args.clone()), args);
    }
}
