//! `verify`: whether all that was sent is there, once and unchanged.
//!
//! Compares the ledger of `send` with that of `sink`, or with mailboxes that it reads over POP3,
//! one after the other, and leaves as they are. Called by `main`; [`book`] compares.
//!
//! Exit status: 0 none was lost, doubled or changed; 1 one was, or something could not be read; 2
//! wrong usage.

mod book;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::maildrop::Pop;
use crate::proof::Reader;
use crate::say;
use crate::send::{duration, users};
use crate::tls::{self, Dialer, Mode};
use book::{Book, Messages, Outcome, lines};

/// How long before mailboxes are looked at again.
const LOOK: Duration = Duration::from_millis(200);

/// The options of `verify`.
#[derive(clap::Args, Debug, Clone)]
#[group(id = "verify")] // two groups of the name of their type would be one
pub(crate) struct Options {
    /// What was sent: a ledger of send. More than one may be given.
    #[arg(long, required = true, value_name = "FILE")]
    ledger: Vec<PathBuf>,
    /// What was received: a ledger of sink. More than one may be given.
    #[arg(long, value_name = "FILE", required_unless_present = "pop3", conflicts_with = "pop3")]
    sink: Vec<PathBuf>,
    /// What was received: the mailboxes of a POP3 server, as 127.0.0.1:2110.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "users")]
    pop3: Option<SocketAddr>,
    /// Whose mailboxes: a file of lines user:password.
    #[arg(long, value_name = "FILE", requires = "pop3")]
    users: Option<PathBuf>,
    #[command(flatten)]
    tls: tls::Options,
    /// Recipients of each message, whose mailboxes each have a copy.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    recipients: u16,
    /// Looks at mailboxes again for so long while a message is missing.
    #[arg(long, default_value = "0s", value_parser = duration, requires = "pop3")]
    wait: Duration,
}

/// Compares, and says what is not as it must be.
pub(crate) fn run(options: &Options) -> ExitCode {
    match compare(options) {
        Ok(outcome) => {
            let told = say::figures(&text(&outcome).join("\n"));
            ExitCode::from(u8::from(!outcome.good() || !told))
        }
        Err(why) => {
            say::error(&why);
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<Outcome, String> {
    let mut book = Book::read(&options.ledger)?;
    let Some(target) = options.pop3 else {
        for path in &options.sink {
            lines(path, |id, sum| book.found(Some(id), &sum))?;
        }
        return Ok(book.outcome(options.recipients));
    };
    let users = options.users.as_ref().map(users).transpose()?.unwrap_or_default();
    let encrypted = options.tls.tls != Mode::None;
    let dialer = encrypted.then(|| Dialer::new(options.tls)).transpose()?;
    let until = Instant::now() + options.wait;
    loop {
        for (user, password) in &users {
            let password = String::from_utf8_lossy(password);
            mailbox(target, dialer.as_ref(), (user, &password), &mut book)
                .map_err(|e| format!("{user}: {e}"))?;
        }
        let outcome = book.outcome(options.recipients);
        if outcome.lost.count == 0 || Instant::now() >= until {
            return Ok(outcome);
        }
        book.clear();
        std::thread::sleep(LOOK);
    }
}

/// Reads all messages of a mailbox.
fn mailbox(
    target: SocketAddr,
    tls: Option<&Dialer>,
    (user, password): (&str, &str),
    book: &mut Book,
) -> std::io::Result<()> {
    let mut pop = Pop::login(target, tls, user, password)?;
    let count = pop.many(b"LIST\r\n")?.iter().filter(|byte| **byte == b'\n').count();
    for number in 1..=count {
        let seen = {
            let mut reader = Reader::new();
            let message = pop.many(format!("RETR {number}\r\n").as_bytes())?;
            for line in message.split_inclusive(|byte| *byte == b'\n') {
                // RFC 1939 §3: a dot that stands first is doubled.
                reader.push(line.strip_prefix(b".").unwrap_or(line));
            }
            reader.finish()
        };
        book.found(seen.id, &seen.sum);
    }
    pop.one(b"QUIT\r\n")
}

fn text(outcome: &Outcome) -> Vec<String> {
    let mut text =
        vec![format!("sent {} messages", outcome.sent), format!("found {} copies", outcome.found)];
    let mut kind = |name: &str, messages: &Messages| {
        text.push(format!("{name} {} copies", messages.count));
        let first = messages.first.iter().map(|id| format!("{name}_first {id}"));
        text.extend(first);
    };
    kind("lost", &outcome.lost);
    kind("doubled", &outcome.doubled);
    kind("changed", &outcome.changed);
    kind("unknown", &outcome.unknown);
    text
}
