//! `sink`: an SMTP server that takes mail, keeps none, and refuses what it is told to refuse.
//!
//! The target for measuring what sends mail, so it is cheap: thread-per-core, and a message is
//! summed while it passes by. Called by `main`.
//!
//! * [`rules`]: what becomes of which recipient. [`session`]: one core and its connections.
//! * [`ledger`]: what was received, for `verify`.
//!
//! Exit status: 0 it ran until it was ended; 1 it could not listen, or the ledger is not whole; 2
//! a plan that is none.

mod ledger;
mod rules;
mod session;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fsmtp_rt::glommio::{GlommioRuntime, ShardHandle, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;

use crate::process::raise_open_files;
use crate::say;
use crate::send::{duration, stop_flag, thread_cpu};
use crate::tls;
use ledger::Ledger;
use rules::{Rule, Rules, Span};
use session::{Counts, Shared};

/// Descriptors of a core beside its connections.
const CORE_DESCRIPTORS: usize = 32;

/// The options of `sink`.
#[derive(clap::Args, Debug, Clone)]
#[group(id = "sink")] // two groups of the name of their type would be one
pub(crate) struct Options {
    /// Where it listens; at port 0 it takes any, which its first line tells.
    #[arg(long, default_value = "127.0.0.1:2525", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Allows an address that is not loopback: the address, once more.
    #[arg(long, value_name = "ADDRESS")]
    i_own_this_host: Option<IpAddr>,
    /// Executors, each a thread with its own connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    cores: u32,
    /// Connections at the same time; one more is told 421.
    #[arg(long, default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=200_000))]
    connections: u32,
    /// How connections are encrypted, with a certificate that it makes itself.
    #[arg(long, value_enum, default_value_t = tls::Mode::None)]
    tls: tls::Mode,
    /// For recipients in DOMAIN, or * for all: 'DOMAIN: 451=5%, 550=1%, delay=10ms..50ms, drop=1%,
    /// greylist'.
    #[arg(long)]
    rule: Vec<Rule>,
    /// How long the reply to the end of each message takes: 10ms, or 10ms..50ms.
    #[arg(long, default_value = "0s")]
    delay: Span,
    /// How long it waits after each octet of a reply.
    #[arg(long, default_value = "0s", value_parser = duration)]
    tarpit: Duration,
    /// How long it waits before it reads again.
    #[arg(long, default_value = "0s", value_parser = duration)]
    slow_read: Duration,
    /// Closes a connection in place of the reply to the message after so many.
    #[arg(long, value_name = "N")]
    drop_after: Option<u64>,
    /// Odds and delays repeat with it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Octets of the largest message that is taken; 0 is no limit.
    #[arg(long, default_value_t = 0)]
    size_max: u64,
    /// A line for each message that was taken: id, checksum of what came, octets.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Ends after so many messages.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Ends after this time.
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
}

/// Runs until it is ended, and says what it saw.
pub(crate) fn run(options: Options) -> ExitCode {
    let rules = match check(&options) {
        Ok(rules) => rules,
        Err(why) => {
            say::error(&why);
            return ExitCode::from(2);
        }
    };
    match serve(options, rules) {
        Ok(counts) => ExitCode::from(u8::from(!say::figures(&figures(&counts).join("\n")))),
        Err(why) => {
            say::error(&why);
            ExitCode::FAILURE
        }
    }
}

fn check(options: &Options) -> Result<Rules, String> {
    let ip = options.listen.ip();
    if !ip.is_loopback() && options.i_own_this_host != Some(ip) {
        return Err(format!(
            "{ip} is not loopback, and a sink takes mail from anybody for anybody; if that is \
             meant, say so: --i-own-this-host {ip}"
        ));
    }
    Rules::new(options.rule.clone())
}

/// Its cores share the port, and would share it with another server that allows that, too.
fn is_free(listen: SocketAddr) -> Result<(), String> {
    let probe = std::net::TcpListener::bind(listen);
    probe.map(drop).map_err(|e| format!("cannot listen on {listen}: {e}"))
}

fn serve(options: Options, rules: Rules) -> Result<Counts, String> {
    is_free(options.listen)?;
    raise_open_files(options.connections as usize + options.cores as usize * CORE_DESCRIPTORS)?;
    let ledger = options.ledger.as_deref().map(Ledger::open).transpose()?;
    let helpers = Helpers::new("loadgen-helper", 1).map_err(|e| e.to_string())?;
    let shared = Shared {
        options: Arc::new(options.clone()),
        rules: Arc::new(rules),
        stop: stop_flag()?,
        open_count: Arc::default(),
        messages_count: Arc::default(),
        ledger: ledger.as_ref().map(Ledger::sender),
        tls: match options.tls {
            tls::Mode::None => None,
            _ => Some(tls::server_config()?),
        },
    };
    let (results_in, results) = mpsc::channel();
    let mut address = options.listen;
    let mut shards = Vec::new();
    for core in 0..options.cores {
        let (ready, is_ready) = mpsc::channel();
        let shared = shared.clone();
        shards.push(start(core, address, &helpers, shared, (ready, results_in.clone()))?);
        // The first one learns the port for all.
        address = is_ready.recv().map_err(|e| e.to_string()).flatten()?;
    }
    drop((results_in, shared));
    // Who has not read it may know the address.
    let _ = say::figures(&format!("listening {address}"));
    let mut counts = Counts::default();
    for result in results {
        counts.add(&result?);
    }
    for shard in shards {
        shard.join().map_err(|e| e.to_string())?;
    }
    ledger.map_or(Ok(()), Ledger::close)?;
    Ok(counts)
}

type Ready = mpsc::Sender<Result<SocketAddr, String>>;
type Results = mpsc::Sender<Result<Counts, String>>;

fn start(
    core: u32,
    address: SocketAddr,
    helpers: &Helpers,
    shared: Shared,
    (ready, results): (Ready, Results),
) -> Result<ShardHandle, String> {
    let options = ShardOptions {
        name: format!("loadgen-sink-{core}"),
        cpu: None,
        stall_after: None,
        helpers: helpers.clone(),
    };
    let main = move |rt: GlommioRuntime| async move {
        let listener = rt.listen(address).map_err(|e| e.to_string());
        // Somebody waits for both.
        let _ = ready.send(listener.as_ref().map(|l| l.address()).map_err(Clone::clone));
        let Ok(listener) = listener else { return };
        let before = thread_cpu();
        let mut result = session::run(rt, listener, core, shared).await;
        if let Ok(counts) = &mut result {
            counts.cpu = thread_cpu().saturating_sub(before);
        }
        let _ = results.send(result);
    };
    start_shard(options, main).map_err(|e| e.to_string())
}

fn figures(counts: &Counts) -> Vec<String> {
    let mut lines = vec![
        format!("connections {} taken", counts.connections),
        format!("messages {} accepted", counts.messages),
        format!("recipients {} accepted", counts.recipients),
        format!("octets {} of messages", counts.octets),
        format!("discarded {} messages", counts.discarded),
        format!("without_id {} messages", counts.unnamed),
        format!("drops {} connections", counts.drops),
    ];
    if counts.handshakes > 0 {
        lines.push(format!("handshakes {} made", counts.handshakes));
    }
    let refusals = counts.refusals.iter();
    lines.extend(refusals.map(|(code, count)| format!("refusal {code} {count}")));
    let each = counts.cpu.as_secs_f64() * 1e6 / counts.messages.max(1) as f64;
    lines.push(format!("own_cpu {each:.1} us/message"));
    lines
}
