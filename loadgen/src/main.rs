//! `loadgen`: load for a mail server, and what the server's process spends on it.
//!
//! * `idle`: many open connections that do nothing: memory per connection.
//! * `big`: many connections that each send one large message at once: the peak of memory.
//! * `send`: mail in a closed or an open loop: rate, latencies, errors, CPU time per message.
//! * `agent`: a host's part of `send` from several hosts.
//! * `sink`: takes mail, and refuses what it is told to refuse: the target for the others.
//! * `compare`: whether one of two servers is worse, by the figures of `send`.
//! * `verify`: whether all that was sent is there, once and unchanged.
//! * `pop3`: clients that fetch mail in a loop: rate, CPU time per session.
//! * `handshakes`: connections that encrypt and leave: CPU time per handshake.
//!
//! `send` and `sink` have an executor for each core, on fsmtp-rt; the others plain threads and
//! blocking sockets, good for some thousand connections. The figures are printed as `name value
//! unit` lines, one a line. Exit status: 0 measured, 1 something failed and the reason is on
//! stderr, 2 wrong usage.

mod big;
mod client;
mod compare;
mod handshakes;
mod idle;
mod maildrop;
mod pop3;
mod process;
mod proof;
mod say;
mod send;
mod sink;
mod stream;
mod target;
mod tls;
mod tree;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use target::Target;

/// Load for SMTP servers, and what the server's process spends on it.
#[derive(Parser, Debug)]
struct Args {
    #[command(subcommand)]
    what: What,
}

/// What every kind of load needs to know.
#[derive(clap::Args, Debug, Clone)]
struct Common {
    #[command(flatten)]
    at: Target,
    /// The server's process on this machine; without it only this side is measured.
    #[arg(long)]
    pid: Option<u32>,
    /// Where the mail goes.
    #[arg(long, default_value = "demo@example.test")]
    rcpt: String,
    /// Where it says that it comes from.
    #[arg(long, default_value = "loadgen@sender.test")]
    from: String,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Opens connections, says EHLO on each, and does nothing more.
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        #[command(flatten)]
        tls: tls::Options,
    },
    /// Each connection sends one message, all at the same time.
    Big {
        #[command(flatten)]
        common: Common,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
        /// Octets of each message.
        #[arg(long, default_value_t = 10_485_760)]
        bytes: usize,
    },
    /// Sends mail, at a rate or as fast as it goes, and says what became of each message.
    Send(#[command(flatten)] Box<send::Options>),
    /// Takes part in a run of `send --agents` that another host leads.
    Agent(#[command(flatten)] send::agent::Options),
    /// Takes mail, keeps none, refuses what it is told to refuse.
    Sink(#[command(flatten)] Box<sink::Options>),
    /// Compares the figures of runs of `send`: whether B is worse than A.
    Compare(#[command(flatten)] compare::Options),
    /// Compares what was sent with what a sink or mailboxes have.
    Verify(#[command(flatten)] verify::Options),
    /// Each client signs in, fetches some messages, signs out, and begins again.
    Pop3(#[command(flatten)] pop3::Plan),
    /// Each connection makes a full handshake of TLS 1.3 and leaves.
    Handshakes {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        plan: handshakes::Plan,
    },
}

fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(why) => {
            say::error(&why.to_string());
            return ExitCode::from(2);
        }
    };
    let done = match args.what {
        What::Idle { common, connections, tls } => {
            common.at.address().map(|target| idle::run(&common, target, connections, tls))
        }
        What::Big { common, connections, bytes } => {
            common.at.address().map(|target| big::run(&common, target, connections, bytes))
        }
        What::Send(options) => {
            return send::run(*options, matches.subcommand_matches("send"));
        }
        What::Agent(options) => return send::agent::run(options),
        What::Sink(options) => return sink::run(*options),
        What::Compare(options) => return compare::run(&options),
        What::Verify(options) => return verify::run(&options),
        What::Pop3(plan) => plan.at.address().map(|target| pop3::run(&plan, target)),
        What::Handshakes { common, plan } => {
            common.at.address().map(|target| handshakes::run(&common, target, &plan))
        }
    };
    match done {
        Ok(Ok(figures)) => ExitCode::from(u8::from(!say::figures(&figures.join("\n")))),
        Ok(Err(why)) => {
            say::error(&why);
            ExitCode::FAILURE
        }
        Err(why) => {
            say::error(&why);
            ExitCode::from(2)
        }
    }
}
