//! The resolver over real sockets, against a name server of a few lines on loopback.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use fsmtp_engine::config;
use fsmtp_engine::resolver::Resolver;
use fsmtp_proto::dns::message::{from_stream, to_stream};
use fsmtp_proto::dns::testing::{Asked, Reply, Zone};
use fsmtp_proto::dns::{Data, Failure, Kind, Mx, Reason};
use fsmtp_rt::glommio::{GlommioRuntime, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;

/// What the server does with a query that came by datagram: the datagrams that it sends.
type Answer = Box<dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send>;

/// Two threads that answer on one port of loopback until they are dropped.
struct Server {
    address: SocketAddr,
    datagrams: Arc<AtomicU64>,
    streams: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(answer: Answer) -> Self {
        let (socket, listener) = both();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (datagrams, streams) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&datagrams));
        let by_datagram = std::thread::spawn(move || {
            let mut room = [0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut room).unwrap();
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                counted.fetch_add(1, Ordering::AcqRel);
                for message in answer(&room[..length]) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&streams));
        let by_stream = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                counted.fetch_add(1, Ordering::AcqRel);
                let mut stream = stream.unwrap();
                let (mut bytes, mut room) = (Vec::new(), [0; 2048]);
                while from_stream(&bytes).is_none() {
                    let length = stream.read(&mut room).unwrap();
                    assert_ne!(length, 0, "a query is sent whole");
                    bytes.extend_from_slice(&room[..length]);
                }
                let message = to_stream(&zone().answer(from_stream(&bytes).unwrap()).unwrap());
                // In pieces, as a network would.
                for piece in message.chunks(message.len() / 3 + 1) {
                    stream.write_all(piece).unwrap();
                }
            }
        });
        let threads = vec![by_datagram, by_stream];
        Self { address, datagrams, streams, stop, threads }
    }

    /// Datagrams and connections that it has got.
    fn got(&self) -> (u64, u64) {
        (self.datagrams.load(Ordering::Acquire), self.streams.load(Ordering::Acquire))
    }
}

/// A datagram socket and a listener that have one port.
fn both() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
            return (socket, listener);
        }
    }
    panic!("no port is free for both");
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        waker.send_to(b"", self.address).unwrap();
        let _ = std::net::TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server has failed");
        }
    }
}

/// Thirty hosts take the mail of `many.example`, more than one datagram of ours holds.
fn zone() -> Zone {
    let alias = |target: &str| Data::Cname(target.into());
    let many = |zone: Zone, n: u16| {
        let exchange = format!("mx{n}.a-long-label-that-fills-the-message.many{n}.example").into();
        zone.with("many.example", 60, Data::Mx(Mx { preference: n, exchange }))
    };
    (0..30)
        .fold(Zone::new(), many)
        .with("www.example", 60, alias("web.example"))
        .with("web.example", 60, Data::A([192, 0, 2, 1].into()))
        .with("web.example", 60, Data::Aaaa("2001:db8::1".parse().unwrap()))
        .with("loop1.example", 60, alias("loop2.example"))
        .with("loop2.example", 60, alias("loop1.example"))
}

fn good(query: &[u8]) -> Vec<u8> {
    zone().answer(query).unwrap()
}

/// How long the first try waits where every server answers: longer than any machine is busy.
const LONG: Duration = Duration::from_secs(10);
/// The same where one does not.
const SHORT: Duration = Duration::from_millis(250);

/// Runs `with` on a shard whose resolver asks `servers`.
fn on_shard<T: Send + 'static, F: Future<Output = T> + 'static>(
    servers: &[SocketAddr],
    timeout: Duration,
    with: impl FnOnce(Resolver<GlommioRuntime>) -> F + Send + 'static,
) -> T {
    let helpers = Helpers::new("helper", 1).unwrap();
    let options = ShardOptions { name: "test".to_owned(), cpu: None, stall_after: None, helpers };
    let config = config::Resolver { servers: servers.to_vec(), timeout, dnssec_trusted: false };
    let (sender, value) = channel();
    let shard = start_shard(options, move |rt| async move {
        sender.send(with(Resolver::new(rt, &config)).await).unwrap();
    });
    shard.unwrap().join().unwrap();
    value.recv().unwrap()
}

/// How many records a lookup has found.
async fn count(
    resolver: &Resolver<GlommioRuntime>,
    name: &str,
    kind: Kind,
) -> Result<usize, Failure> {
    resolver.lookup(name, kind).await.map(|found| found.records.len())
}

#[test]
fn names_are_found_and_not_found_and_remembered() {
    let server = Server::start(Box::new(|query| vec![good(query)]));
    let address = server.address;
    let addresses = on_shard(&[address], LONG, |resolver| async move {
        for _ in 0..3 {
            assert_eq!(count(&resolver, "www.example", Kind::A).await, Ok(1));
            let nothing = count(&resolver, "nobody.example", Kind::Mx).await;
            assert_eq!(nothing, Err(Failure::NoSuchName));
            let circle = count(&resolver, "loop1.example", Kind::A).await;
            assert_eq!(circle, Err(Failure::AliasLoop));
        }
        assert_eq!(resolver.cached(), 3);
        resolver.addresses("web.example").await.unwrap().addresses
    });
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["2001:db8::1", "192.0.2.1"]);
    assert_eq!(server.got(), (5, 0));
}

#[test]
fn what_was_cut_comes_whole_over_tcp() {
    let server = Server::start(Box::new(|query| {
        let message = good(query);
        let fits = message.len() <= 1232;
        vec![if fits { message } else { Reply::to(query).unwrap().truncated().bytes() }]
    }));
    let found = on_shard(&[server.address], LONG, |resolver| async move {
        let hosts = resolver.mx("many.example").await.unwrap().hosts;
        assert_eq!(resolver.counters().tcp.get(), 1);
        hosts.iter().map(|mx| mx.preference).collect::<Vec<_>>()
    });
    assert_eq!(found, (0..30).collect::<Vec<_>>());
    assert_eq!(server.got(), (1, 1));
}

#[test]
fn what_is_not_ours_is_passed_over_and_what_looks_guessed_goes_over_tcp() {
    let wrong_id = |query: &[u8]| {
        let mut message = good(query);
        message[0] ^= 1;
        message
    };
    // A wrong one is passed over, the right one behind it is taken.
    let server = Server::start(Box::new(move |query| vec![wrong_id(query), good(query)]));
    let found = on_shard(&[server.address], LONG, |resolver| async move {
        let found = count(&resolver, "web.example", Kind::A).await;
        (found, resolver.counters().strays.get())
    });
    assert_eq!((found, server.got()), ((Ok(1), 1), (1, 0)));
    // Many wrong ones are somebody who guesses.
    let server = Server::start(Box::new(move |query| vec![wrong_id(query); 20]));
    let found = on_shard(&[server.address], LONG, |resolver| async move {
        count(&resolver, "web.example", Kind::A).await
    });
    assert_eq!((found, server.got()), (Ok(1), (1, 1)));
    // All fits but a letter.
    let server = Server::start(Box::new(|query| {
        let mut message = good(query);
        let asked = Asked::read(query).unwrap();
        message[12..asked.end].make_ascii_uppercase();
        message[13] ^= if asked.name.starts_with('W') { 0x20 } else { 0 };
        vec![message]
    }));
    let found = on_shard(&[server.address], LONG, |resolver| async move {
        count(&resolver, "web.example", Kind::A).await
    });
    assert_eq!((found, server.got()), (Ok(1), (1, 1)));
}

#[test]
fn another_server_is_asked_when_the_first_is_silent_lost_or_gone() {
    let silent = Server::start(Box::new(|_| Vec::new()));
    let second = Server::start(Box::new(|query| vec![good(query)]));
    let found = on_shard(&[silent.address, second.address], SHORT, |resolver| async move {
        let found = count(&resolver, "web.example", Kind::A).await;
        (found, resolver.counters().timeouts.get() > 0)
    });
    assert_eq!(found, (Ok(1), true));
    let before = silent.got().0;
    assert!(before >= 1 && second.got().0 >= 1);
    // Nobody else is there: it is asked three times, and then it is the answer that failed.
    let found = on_shard(&[silent.address], SHORT, |resolver| async move {
        count(&resolver, "web.example", Kind::A).await
    });
    assert_eq!(found, Err(Failure::Temporary(Reason::TimedOut)));
    assert_eq!(silent.got(), (before + 3, 0));
    // The first two datagrams are lost.
    let lost = AtomicU64::new(0);
    let lossy = Server::start(Box::new(move |query| {
        let gone = lost.fetch_add(1, Ordering::AcqRel) < 2;
        if gone { Vec::new() } else { vec![good(query)] }
    }));
    let found = on_shard(&[lossy.address], SHORT, |resolver| async move {
        count(&resolver, "web.example", Kind::A).await
    });
    assert_eq!(found, Ok(1));
    assert_eq!(lossy.got(), (3, 0));
    let gone = both().0.local_addr().unwrap();
    let found = on_shard(&[gone, second.address], SHORT, |resolver| async move {
        let found = count(&resolver, "web.example", Kind::A).await;
        (found, resolver.counters().unreachable.get())
    });
    assert_eq!(found, (Ok(1), 1));
}
