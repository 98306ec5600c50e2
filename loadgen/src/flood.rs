//! A closed loop: each connection sends a message, waits for its reply, sends the next.
//!
//! Called by `main`. One thread per connection. The latency is the time from the first byte of
//! MAIL to the reply after the data. CPU time is read once before and once after.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::Common;
use crate::client::{Client, wire_message};
use crate::process::{Process, raise_open_files};

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) messages: u64,
    pub(crate) bytes: usize,
    pub(crate) per_connection: u64,
    pub(crate) pipelined: bool,
    pub(crate) mailboxes: u64,
}

type Latencies = Histogram<u64>;

/// Sends them all.
///
/// # Errors
/// The first failure of a connection.
pub(crate) fn run(common: &Common, plan: &Plan) -> Result<Vec<String>, String> {
    raise_open_files(plan.connections)?;
    let wire = wire_message(plan.bytes);
    let process = common.pid.map(Process::new);
    let cpu_before = process.as_ref().map(Process::cpu).transpose()?;
    let taken = AtomicU64::new(0);
    let begun = Instant::now();
    let results: Vec<Result<Latencies, String>> = std::thread::scope(|scope| {
        let sender = || one(common, plan, &wire, &taken).map_err(|e| e.to_string());
        let all: Vec<_> = (0..plan.connections).map(|_| scope.spawn(sender)).collect();
        all.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a panic".into()))).collect()
    });
    let took = begun.elapsed().as_secs_f64();
    let mut latencies = latencies();
    for result in results {
        latencies.add(result?).map_err(|e| e.to_string())?;
    }
    let micros = |quantile: f64| latencies.value_at_quantile(quantile);
    let mut figures = vec![
        format!("messages {} acknowledged", latencies.len()),
        format!("rate {:.0} 1/s", latencies.len() as f64 / took),
        format!("latency_p50 {} us", micros(0.5)),
        format!("latency_p99 {} us", micros(0.99)),
        format!("latency_p999 {} us", micros(0.999)),
        format!("latency_max {} us", latencies.max()),
    ];
    if let (Some(process), Some(before)) = (&process, cpu_before) {
        let spent = process.cpu()?.saturating_sub(before).as_secs_f64();
        figures.push(format!("server_cpu {:.1} us/message", spent * 1e6 / plan.messages as f64));
    }
    Ok(figures)
}

/// The longest latency that is told apart, an hour in microseconds; longer ones count as it.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Latencies from a microsecond up, three digits.
fn latencies() -> Latencies {
    Latencies::new_with_bounds(1, LATENCY_US_MAX, 3)
        .unwrap_or_else(|_| unreachable!("the bounds and the digits are in the allowed range"))
}

fn one(common: &Common, plan: &Plan, wire: &[u8], taken: &AtomicU64) -> io::Result<Latencies> {
    let mut latencies = latencies();
    let mail = format!("MAIL FROM:<{}>\r\n", common.from);
    let mut client: Option<(Client, u64)> = None;
    loop {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        if number >= plan.messages {
            break;
        }
        let to = common.rcpt.replace("{}", &(number % plan.mailboxes.max(1)).to_string());
        let rcpt = format!("RCPT TO:<{to}>\r\n");
        let group = format!("{mail}{rcpt}DATA\r\n");
        let (mut open, sent) = match client.take() {
            Some(kept) => kept,
            None => (Client::hello(common.target)?, 0),
        };
        let begun = Instant::now();
        if plan.pipelined {
            open.send(group.as_bytes())?;
            open.expect(250)?;
            open.expect(250)?;
        } else {
            open.send(mail.as_bytes())?;
            open.expect(250)?;
            open.send(rcpt.as_bytes())?;
            open.expect(250)?;
            open.send(b"DATA\r\n")?;
        }
        open.expect(354)?;
        open.send(wire)?;
        open.expect(250)?;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.saturating_record(micros);
        if sent + 1 < plan.per_connection {
            client = Some((open, sent + 1));
        } else {
            quit(open)?;
        }
    }
    client.map_or(Ok(()), |(open, _)| quit(open))?;
    Ok(latencies)
}

fn quit(mut open: Client) -> io::Result<()> {
    open.send(b"QUIT\r\n")?;
    open.expect(221)
}
