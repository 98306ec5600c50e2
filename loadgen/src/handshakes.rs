//! Connections that make a full handshake and leave: what one costs the server.
//!
//! Called by `main`. Each connection says EHLO, encrypts, says NOOP and QUIT. The same conversation
//! without TLS is held in turn, if there is an address for it, so that the difference is what TLS
//! costs. A round is so many connections of each kind; printed are median and best of the rounds:
//! on a machine that is busy with other things the best says more. A first round warms up and does
//! not count.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::Common;
use crate::process::{Process, raise_open_files};
use crate::tls::{Dialer, Mode, Options};

/// What to do.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Plan {
    /// How many at the same time.
    #[arg(long, default_value_t = 8)]
    pub(crate) connections: usize,
    /// Handshakes in each round.
    #[arg(long, default_value_t = 500)]
    pub(crate) count: u64,
    /// Rounds that count.
    #[arg(long, default_value_t = 15)]
    pub(crate) rounds: usize,
    /// An SMTP address for the same conversation without TLS.
    #[arg(long)]
    pub(crate) clear: Option<String>,
    #[command(flatten)]
    pub(crate) tls: Options,
}

/// What each connection of a round has taken, in microseconds.
struct Round {
    cpu: f64,
    wall: f64,
}

/// Makes them all.
///
/// # Errors
/// The first failure of a connection.
pub(crate) fn run(common: &Common, target: SocketAddr, plan: &Plan) -> Result<Vec<String>, String> {
    raise_open_files(plan.connections)?;
    let clear_at = plan.clear.as_deref().map(|text| common.at.owned(text)).transpose()?;
    if plan.tls.tls == Mode::None {
        return Err("--tls says how the handshakes are asked for: starttls or implicit".to_owned());
    }
    let encrypted = Dialer::new(plan.tls)?;
    let clear = Dialer::new(Options { tls: Mode::None, ..plan.tls })?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..=plan.rounds {
        let round = one(common, plan, &encrypted, target)?;
        let beside = clear_at.map(|target| one(common, plan, &clear, target)).transpose()?;
        if number > 0 {
            with.push(round);
            without.extend(beside);
        }
    }
    let (wall, _) = median_and_best(with.iter().map(|round| round.wall));
    let mut figures = vec![
        format!("handshakes {} x {}", plan.rounds, plan.count),
        format!("rate {:.0} 1/s", 1e6 / wall.max(1.0)),
    ];
    if common.pid.is_some() {
        let mut say = |name: &str, values: Vec<f64>| {
            let (median, best) = median_and_best(values.into_iter());
            figures.push(format!("{name} {median:.1} us/connection"));
            figures.push(format!("{name}_best {best:.1} us/connection"));
        };
        say("server_cpu", with.iter().map(|round| round.cpu).collect());
        if !without.is_empty() {
            say("server_cpu_clear", without.iter().map(|round| round.cpu).collect());
            // Of each round by itself: what disturbs one half of it disturbs the other.
            let pairs = with.iter().zip(&without);
            say("server_cpu_of_tls", pairs.map(|(with, without)| with.cpu - without.cpu).collect());
        }
    }
    Ok(figures)
}

fn median_and_best(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    (at(values.len() / 2), at(0))
}

fn one(common: &Common, plan: &Plan, dialer: &Dialer, target: SocketAddr) -> Result<Round, String> {
    let process = common.pid.map(Process::new);
    let before = process.as_ref().map(Process::cpu_of_threads).transpose()?;
    let begun = Instant::now();
    let taken = AtomicU64::new(0);
    let talk = || -> io::Result<()> {
        while taken.fetch_add(1, Ordering::Relaxed) < plan.count {
            let mut client = dialer.hello(target)?;
            client.send(b"NOOP\r\n")?;
            client.expect(250)?;
            client.send(b"QUIT\r\n")?;
            client.expect(221)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..plan.connections).map(|_| scope.spawn(talk)).collect();
        all.into_iter().try_for_each(|thread| match thread.join() {
            Ok(talked) => talked.map_err(|e| format!("{target}: {e}")),
            Err(_) => Err("a panic".to_owned()),
        })
    })?;
    let each = 1e6 / plan.count.max(1) as f64;
    let wall = begun.elapsed().as_secs_f64() * each;
    let cpu = match (&process, before) {
        (Some(process), Some(before)) => {
            process.cpu_of_threads()?.saturating_sub(before).as_secs_f64() * each
        }
        _ => 0.0,
    };
    Ok(Round { cpu, wall })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_best_of_rounds() {
        assert_eq!(median_and_best([3.0, 1.0, 2.0].into_iter()), (2.0, 1.0));
        assert_eq!(median_and_best([].into_iter()), (0.0, 0.0));
    }
}
