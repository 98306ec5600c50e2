//! What a full handshake costs rustls alone: `cargo run --release -p bench --bin handshake`
//! (one key exchange alone: its name behind it).
//!
//! Client and server are values in one thread, with the engine's own settings, certificate and
//! allocator, and no socket. Time is that of the thread's CPU clock while it does the server's
//! part: making the connection, both its turns, sending the ticket, dropping it. No handshake
//! resumes another, which both sides are asked. For each key exchange one line for one thread, and
//! one for a thread on each core, since an engine shares its machine with whoever talks to it: best
//! and median of the rounds. What follows from them stands in docs/performance.md.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fsmtp_engine::tls::{Acceptor, Certs, self_signed};
use fsmtp_rt::UnixTime;
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig};
use rustls::{ProtocolVersion, ServerConnection};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error>;

/// Connections that are in the middle of a handshake at the same time, as at a busy server.
const BATCH: usize = 16;
const BATCHES: usize = 64;
const ROUNDS: usize = 9;
const NAME: &str = "localhost";

fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let pair = self_signed(folder.path(), &[NAME.to_owned()])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = UnixTime::from_ms(u64::try_from(now.as_millis())?);
    let server = Acceptor::new(&Certs::load(std::slice::from_ref(&pair), now)?)?.config();
    let root = CertificateDer::from_pem_file(&pair.certificate)?;
    let cores = std::thread::available_parallelism()?.get();
    let groups: [(&str, &'static dyn SupportedKxGroup); 2] = [
        ("X25519MLKEM768", aws_lc_rs::kx_group::X25519MLKEM768),
        ("X25519", ring::kx_group::X25519),
    ];
    let only = std::env::args().nth(1);
    for (name, group) in groups {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let client = client(&root, group)?;
        for threads in [1, cores] {
            let client = &client;
            let mut all = std::thread::scope(|scope| {
                let one = || rounds(&server, client, group).map_err(|e| e.to_string());
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
                let ended = threads.into_iter().map(|t| t.join().map_err(|_| "a panic")?);
                ended.collect::<Result<Vec<_>, String>>()
            })?
            .concat();
            all.sort_unstable();
            let us = |index: usize| all.get(index).map_or(0.0, |spent| spent.as_secs_f64() * 1e6);
            let (median, best) = (us(all.len() / 2), us(0));
            println!(
                "{name:<16} threads {threads}   median {median:>6.1} us   best {best:>6.1} us"
            );
        }
    }
    Ok(())
}

/// What one handshake has cost the server, in each round.
fn rounds(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    group: &'static dyn SupportedKxGroup,
) -> Result<Vec<Duration>, Failure> {
    // The first one warms up.
    round(server, client, group)?;
    (0..ROUNDS).map(|_| round(server, client, group)).collect()
}

/// A client that trusts `root`, offers one key exchange, and remembers nothing.
fn client(
    root: &CertificateDer<'static>,
    group: &'static dyn SupportedKxGroup,
) -> Result<Arc<ClientConfig>, Failure> {
    let mut provider = ring::default_provider();
    provider.kx_groups = vec![group];
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// What one handshake has cost the server, of many.
fn round(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    group: &'static dyn SupportedKxGroup,
) -> Result<Duration, Failure> {
    let mut spent = Duration::ZERO;
    for _ in 0..BATCHES {
        let mut clients = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            clients.push(ClientConnection::new(Arc::clone(client), ServerName::try_from(NAME)?)?);
        }
        let hellos = turns(&mut clients, vec![Vec::new(); BATCH])?;
        let mut servers = Vec::with_capacity(BATCH);
        let began = thread_cpu();
        for _ in 0..BATCH {
            servers.push(ServerConnection::new(Arc::clone(server))?);
        }
        let flights = turns(&mut servers, hellos)?;
        spent += thread_cpu() - began;
        let finished = turns(&mut clients, flights)?;
        let began = thread_cpu();
        let tickets = turns(&mut servers, finished)?;
        spent += thread_cpu() - began;
        turns(&mut clients, tickets)?;
        for (client, server) in clients.iter().zip(&servers) {
            let agreed = server.negotiated_key_exchange_group().map(SupportedKxGroup::name);
            let full = [client.handshake_kind(), server.handshake_kind()];
            assert_eq!(full, [Some(HandshakeKind::Full); 2], "nothing was resumed or repeated");
            assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(agreed, Some(group.name()));
            assert!(!client.is_handshaking() && !server.is_handshaking());
        }
        let began = thread_cpu();
        drop(servers);
        spent += thread_cpu() - began;
    }
    Ok(spent / u32::try_from(BATCH * BATCHES)?)
}

/// Gives every connection what has arrived for it, takes what it has to say.
fn turns<Side, Data>(sides: &mut [Side], arrived: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Failure>
where
    Side: core::ops::DerefMut<Target = rustls::ConnectionCommon<Data>>,
    Data: rustls::SideData,
{
    let mut replies = Vec::with_capacity(sides.len());
    for (side, bytes) in sides.iter_mut().zip(arrived) {
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            side.read_tls(&mut bytes)?;
            side.process_new_packets()?;
        }
        let mut reply = Vec::new();
        while side.wants_write() {
            side.write_tls(&mut reply)?;
        }
        replies.push(reply);
    }
    Ok(replies)
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
