//! Many connections that each send one large message at the same moment: the peak of memory.
//!
//! Called by `main`. One thread with a small stack per connection; all wait behind 354 until the
//! last is there, then all send. The peak is what the server held while they sent (sampled) and
//! what the kernel says it ever held.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Common;
use crate::client::{Client, wire_message};
use crate::process::{Process, raise_open_files};

/// A thread only writes and reads; the default of 2 MiB would be the larger part of the load.
const STACK_BYTES: usize = 128 * 1024;
const SAMPLE: Duration = Duration::from_millis(20);
/// One write; small, so that all connections progress together.
const WRITE_BYTES: usize = 64 * 1024;

/// Sends them and reads the peak.
///
/// # Errors
/// What failed, in a sentence: the first connection's, and how many failed.
pub(crate) fn run(
    common: &Common,
    target: SocketAddr,
    connections: usize,
    bytes: usize,
) -> Result<Vec<String>, String> {
    raise_open_files(connections)?;
    let wire = wire_message(bytes);
    let process = common.pid.map(Process::new);
    let before = process.as_ref().map_or(Ok(0), Process::resident)?;
    let peak = AtomicU64::new(before);
    let sending = AtomicBool::new(true);
    let barrier = Barrier::new(connections + 1);
    let failures = Mutex::new(Vec::new());
    let mut took = Duration::ZERO;
    std::thread::scope(|scope| -> Result<(), String> {
        let mut senders = Vec::with_capacity(connections);
        for _ in 0..connections {
            let one = || {
                if let Err(error) = one(common, target, &wire, &barrier) {
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(error.to_string());
                }
            };
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            senders.push(thread.spawn_scoped(scope, one).map_err(|e| format!("a thread: {e}"))?);
        }
        if let Some(process) = &process {
            scope.spawn(|| {
                while sending.load(Ordering::Relaxed) {
                    peak.fetch_max(process.resident().unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(SAMPLE);
                }
            });
        }
        barrier.wait();
        let begun = Instant::now();
        for sender in senders {
            // A panic is a failure of this program, and is seen on stderr.
            let _ = sender.join();
        }
        took = begun.elapsed();
        sending.store(false, Ordering::Relaxed);
        Ok(())
    })?;
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = failures.first() {
        return Err(format!("{} of {connections} failed, the first: {first}", failures.len()));
    }
    let octets = bytes as f64 * connections as f64;
    let mut figures = vec![
        format!("messages {connections} acknowledged"),
        format!("octets_each {bytes} bytes"),
        format!("seconds {:.1} s", took.as_secs_f64()),
        format!("rate {:.1} MiB/s", octets / took.as_secs_f64() / 1_048_576.0),
    ];
    if let Some(process) = &process {
        figures.push(format!("server_rss_before {before} bytes"));
        figures.push(format!("server_rss_peak_sampled {} bytes", peak.load(Ordering::Relaxed)));
        figures.push(format!("server_rss_peak_ever {} bytes", process.resident_peak()?));
    }
    Ok(figures)
}

fn one(common: &Common, target: SocketAddr, wire: &[u8], barrier: &Barrier) -> std::io::Result<()> {
    let ready = (|| -> std::io::Result<Client> {
        let mut client = Client::hello(target)?;
        client.send(format!("MAIL FROM:<{}>\r\n", common.from).as_bytes())?;
        client.expect(250)?;
        client.send(format!("RCPT TO:<{}>\r\n", common.rcpt).as_bytes())?;
        client.expect(250)?;
        client.send(b"DATA\r\n")?;
        client.expect(354)?;
        Ok(client)
    })();
    // Whoever failed must come here too, or the others would wait for ever.
    barrier.wait();
    let mut client = ready?;
    for piece in wire.chunks(WRITE_BYTES) {
        client.send(piece)?;
    }
    client.expect(250)
}
