//! Many open connections that do nothing: what one costs the server and the kernel.
//!
//! Called by `main`. Each connection has read the greeting and the reply to EHLO, has made its
//! handshake if one is due, and has read the reply to NOOP, so the server has served it before it
//! is counted. Memory is read when it has not moved for [`STILL`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Common;
use crate::client::Client;
use crate::process::{Kernel, Memory, Process, raise_open_files};
use crate::tls::{Dialer, Options};

/// How long the server's memory must have stood still before it is read, and how often to look.
const STILL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(200);
/// Movement smaller than this is noise.
const NOISE_BYTES: u64 = 64 * 1024;
/// The longest wait for stillness; a server that never rests is read as it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens them, reads, closes them.
///
/// # Errors
/// What failed, in a sentence.
pub(crate) fn run(
    common: &Common,
    target: SocketAddr,
    connections: usize,
    tls: Options,
) -> Result<Vec<String>, String> {
    raise_open_files(connections)?;
    let dialer = Dialer::new(tls)?;
    let open_one = || -> std::io::Result<Client> {
        let mut client = dialer.hello(target)?;
        client.send(b"NOOP\r\n")?;
        client.expect(250)?;
        Ok(client)
    };
    let process = common.pid.map(Process::new);
    // One connection first, so that what is set up once does not count for each.
    let first = open_one().map_err(|e| format!("{}: {e}", target))?;
    let before = still(process.as_ref())?;
    let kernel_before = Kernel::now()?;
    let begun = Instant::now();
    let mut open = Vec::with_capacity(connections);
    for number in 0..connections {
        let client = open_one();
        open.push(client.map_err(|e| format!("connection {number}: {e}"))?);
    }
    let took = begun.elapsed();
    let after = still(process.as_ref())?;
    let kernel_after = Kernel::now()?;
    let each = |b: u64, a: u64| a.saturating_sub(b) as f64 / connections.max(1) as f64;
    let mut figures = vec![
        format!("connections {} open", open.len()),
        format!("opened_per_second {:.0} 1/s", connections as f64 / took.as_secs_f64()),
    ];
    if process.is_some() {
        figures.push(format!("server_pss_before {} bytes", before.pss));
        figures.push(format!("server_pss_after {} bytes", after.pss));
        figures.push(format!("server_pss_per_connection {:.0} bytes", each(before.pss, after.pss)));
        figures.push(format!("server_rss_per_connection {:.0} bytes", each(before.rss, after.rss)));
    }
    let slab = each(kernel_before.slab, kernel_after.slab);
    let buffers = each(kernel_before.socket_buffers, kernel_after.socket_buffers);
    figures.push(format!("kernel_slab_per_connection_both_sides {slab:.0} bytes"));
    figures.push(format!("kernel_socket_buffers_per_connection_both_sides {buffers:.0} bytes"));
    drop((first, open));
    Ok(figures)
}

fn still(process: Option<&Process>) -> Result<Memory, String> {
    let Some(process) = process else { return Ok(Memory::default()) };
    let until = Instant::now() + PATIENCE;
    let mut last = process.resident()?;
    let mut since = Instant::now();
    while since.elapsed() < STILL && Instant::now() < until {
        std::thread::sleep(LOOK);
        let now = process.resident()?;
        if now.abs_diff(last) > NOISE_BYTES {
            last = now;
            since = Instant::now();
        }
    }
    process.memory()
}
