//! `loadgen`: load for a mail server, and what the server's process spends on it.
//!
//! * `idle`: many open connections that do nothing: memory per connection.
//! * `big`: many connections that each send one large message at once: the peak of memory.
//! * `flood`: a closed loop of small messages: rate, latencies, CPU time per message.
//! * `pop3`: clients that fetch mail in a loop: rate, CPU time per session.
//! * `handshakes`: connections that encrypt and leave: CPU time per handshake.
//!
//! Plain threads and blocking sockets: good for some thousand connections. It is not part of the
//! tests; it measures. The figures are printed as `name value unit` lines, one a line. Exit status:
//! 0 measured, 1 something failed and the reason is on stderr, 2 wrong usage.

mod big;
mod client;
mod flood;
mod handshakes;
mod idle;
mod pop3;
mod process;
mod tls;
mod tree;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load for SMTP servers, and what the server's process spends on it.
#[derive(Parser, Debug)]
struct Args {
    #[command(subcommand)]
    what: What,
}

/// What every kind of load needs to know.
#[derive(clap::Args, Debug, Clone)]
struct Common {
    /// The server's SMTP address, as 127.0.0.1:2025.
    #[arg(long)]
    target: SocketAddr,
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
    /// Each connection sends a message, waits for the reply, sends the next.
    Flood {
        #[command(flatten)]
        common: Common,
        /// How many at the same time.
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// Messages in all.
        #[arg(long, default_value_t = 10_000)]
        messages: u64,
        /// Octets of each message.
        #[arg(long, default_value_t = 4_096)]
        bytes: usize,
        /// Messages on one connection before it is closed and opened anew.
        #[arg(long, default_value_t = u64::MAX)]
        per_connection: u64,
        /// MAIL, RCPT and DATA in one write.
        #[arg(long)]
        pipelined: bool,
        /// How many mailboxes get the messages in turn: `{}` in --rcpt is their number, from 0.
        #[arg(long, default_value_t = 1)]
        mailboxes: u64,
    },
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
    let done = match Args::parse().what {
        What::Idle { common, connections, tls } => idle::run(&common, connections, tls),
        What::Big { common, connections, bytes } => big::run(&common, connections, bytes),
        What::Flood {
            common,
            connections,
            messages,
            bytes,
            per_connection,
            pipelined,
            mailboxes,
        } => {
            let plan =
                flood::Plan { connections, messages, bytes, per_connection, pipelined, mailboxes };
            flood::run(&common, &plan)
        }
        What::Pop3(plan) => pop3::run(&plan),
        What::Handshakes { common, plan } => handshakes::run(&common, &plan),
    };
    match done {
        Ok(figures) => {
            println!("{}", figures.join("\n"));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
