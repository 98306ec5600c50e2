//! The command line as types, and the flags of the original made to fit.
//!
//! Called by `cli::main`. Wrong usage is clap's error, which ends the process with status 2.

use crate::config::Protocol;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// fsmtp-engine: takes mail, keeps it, hands it out.
#[derive(Debug, Parser)]
#[command(name = "fsmtp-engine", version, about)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) original: Original,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
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
    /// How many cores to use [default: all]
    #[arg(long, value_name = "N", global = true,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) cores: Option<u16>,
    /// Nothing configured, loopback only: account demo@example.test, password demo
    #[arg(long, global = true)]
    pub(super) dev: bool,
    /// With --dev: services listen on BASE plus their well-known ports [default: 2000]
    #[arg(long, value_name = "BASE", global = true,
        value_parser = clap::value_parser!(u16).range(1..=64_000))]
    pub(super) ports: Option<u16>,
    /// JSON instead of tables
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// The flags of the original, with one or two dashes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of the original (one or two dashes)")]
pub(super) struct Original {
    /// The same as the command `test`
    #[arg(short = 't', long, group = "flag")]
    pub(super) test: bool,
    /// Comes with a later version
    #[arg(short = 's', long, group = "flag")]
    pub(super) sync: bool,
    /// The same as the command `adduser`, with its options
    #[arg(short = 'a', long, value_name = "ADDRESS", num_args = 0..=1, group = "flag")]
    pub(super) adduser: Option<Option<String>>,
    /// Comes with a later version
    #[arg(short = 'm', long, group = "flag")]
    pub(super) mailtest: bool,
    /// Starts only these services
    #[arg(short = 'r', long = "run", value_name = "smtp|pop3", value_delimiter = ',',
        value_parser = protocol, conflicts_with = "flag")]
    pub(super) only: Vec<Protocol>,
    #[command(flatten)]
    pub(super) person: Person,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the engine (the default command)
    Run,
    /// Adds an account
    Adduser {
        /// user@domain, or user for the engine's own domain; asked for when absent
        address: Option<String>,
        #[command(flatten)]
        person: Person,
    },
    /// Removes an account and its mail
    Deluser {
        /// user@domain
        address: String,
    },
    /// Sets the password of an account
    Passwd {
        /// user@domain
        address: String,
        #[command(flatten)]
        password: PasswordFrom,
    },
    /// Lists the accounts
    Users,
    /// Domains that mail is taken for
    #[command(subcommand)]
    Domain(Domain),
    /// Addresses whose mail goes to others
    #[command(subcommand)]
    Alias(Alias),
    /// Checks and explains the configuration
    #[command(subcommand)]
    Config(Config),
    /// Checks what a start would need
    Test,
    /// Comes with a later version
    Sync,
    /// Comes with a later version
    Mailtest,
}

/// Whose account is added.
#[derive(Debug, Args)]
pub(super) struct Person {
    /// Who is added: the person's name
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
    },
    /// Prints every value in effect, and where it comes from
    Explain {
        /// The file, instead of --config
        file: Option<PathBuf>,
    },
    /// Prints the JSON Schema of the file
    Schema,
    /// Prints docs/config.md
    Reference,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "smtp" => Ok(Protocol::Smtp),
        "pop3" => Ok(Protocol::Pop3),
        _ => Err("known are smtp and pop3".to_owned()),
    }
}

/// Reads a command line, the program's name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Line, clap::Error> {
    let line = Line::try_parse_from(normalise(args))?;
    // Not `requires`: that does not see what stands on the other side of the command.
    if line.common.ports.is_some() && !line.common.dev {
        let text = "--ports goes with --dev; other ports are set in the configuration file";
        return Err(Line::command().error(ErrorKind::MissingRequiredArgument, text));
    }
    if line.command.is_some() && line.original.is_command() {
        let text = "a flag that stands for a command cannot go with another command";
        return Err(Line::command().error(ErrorKind::ArgumentConflict, text));
    }
    let person = &line.original.person;
    if (person.name.is_some() || person.password.password_stdin) && line.original.adduser.is_none()
    {
        let text = "--name and --password-stdin go behind the command, or with -a";
        return Err(Line::command().error(ErrorKind::MissingRequiredArgument, text));
    }
    Ok(line)
}

impl Original {
    /// Whether one of the flags that stand for a command is given.
    const fn is_command(&self) -> bool {
        self.test || self.sync || self.adduser.is_some() || self.mailtest
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
        Line::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_original_work_with_one_or_two_dashes() {
        for dash in ["-", "--"] {
            assert!(parse(&format!("{dash}test")).unwrap().original.test);
            assert!(parse(&format!("{dash}sync")).unwrap().original.sync);
            assert_eq!(parse(&format!("{dash}adduser")).unwrap().original.adduser, Some(None));
            assert!(parse(&format!("{dash}mailtest")).unwrap().original.mailtest);
            let only = parse(&format!("{dash}run=smtp")).unwrap().original.only;
            assert_eq!(only, [Protocol::Smtp]);
            let help = parse(&format!("{dash}help")).unwrap_err();
            assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        }
        for (line, only) in [
            ("-r=pop3", &[Protocol::Pop3][..]),
            ("-r pop3", &[Protocol::Pop3]),
            ("--run smtp,pop3", &[Protocol::Smtp, Protocol::Pop3]),
            ("-t", &[]),
            ("-s", &[]),
            ("-a", &[]),
            ("-m", &[]),
        ] {
            assert_eq!(parse(line).unwrap().original.only, only);
        }
        let help = Line::command().render_help().to_string();
        for flag in
            ["-t, --test", "-s, --sync", "-a, --adduser [<ADDRESS>]", "-m, --mailtest", "-r, --run"]
        {
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
            let original = parse(line).unwrap().original;
            assert_eq!(original.adduser, Some(Some("al@example.test".to_owned())), "{line}");
            assert!(original.person.password.password_stdin, "{line}");
        }
        assert_eq!(parse("-a --data d").unwrap().original.adduser, Some(None));
    }

    #[test]
    fn run_is_the_default_and_takes_its_options_on_either_side() {
        for line in [
            "--cores 2 --dev --ports 3000 --data d",
            "run --cores 2 --dev --ports 3000 --data d",
            "--cores 2 --dev run --ports 3000 --data d",
        ] {
            let line = parse(line).unwrap();
            assert!(matches!(line.command, None | Some(Command::Run)));
            assert_eq!((line.common.cores, line.common.ports), (Some(2), Some(3000)));
            assert!(line.common.dev && line.common.data.is_some());
        }
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
