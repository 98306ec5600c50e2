//! The least that an SMTP server with TLS can do: rustls, a socket, and canned replies.
//!
//! `cargo run --release -p bench --bin tls_floor -- PORT` listens on loopback until it is stopped;
//! `loadgen handshakes` is pointed at it and at the engine in turn: see bench/handshakes.py. A
//! thread for each connection that is open, [`THREADS`] at most; a thread waits in its system
//! calls, so there is no loop of events to pay for. The handshake is configured as the engine's. It
//! keeps nothing, checks nothing and has no limit but the one on threads: a floor for measurements,
//! not a server. A connection that fails is dropped without a word.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fsmtp_engine::tls::{Acceptor, Certs, self_signed};
use fsmtp_rt::UnixTime;
use rustls::{ServerConfig, ServerConnection, Stream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections at the same time.
const THREADS: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("which port?")?.parse()?;
    let folder = tempfile::tempdir()?;
    let pair = self_signed(folder.path(), &["localhost".to_owned()])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = UnixTime::from_ms(u64::try_from(now.as_millis())?);
    let config = Acceptor::new(&Certs::load(std::slice::from_ref(&pair), now)?)?.config();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("ready: pid {}", std::process::id());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok((socket, _)) = listener.accept() {
                    // Whoever breaks off is no longer there to be told.
                    let _ = serve(socket, &config);
                }
            });
        }
    });
    Ok(())
}

fn serve(mut socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(b"220 floor ESMTP\r\n")?;
    // What a client says in clear is a line at a time: it waits for each reply.
    let asked = dialogue(&mut socket)?;
    if asked == Asked::StartTls {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        dialogue(&mut Stream::new(&mut session, &mut socket))?;
    }
    Ok(())
}

/// Why a part of the conversation is over.
#[derive(PartialEq)]
enum Asked {
    StartTls,
    Quit,
}

fn dialogue(stream: &mut (impl Read + Write)) -> io::Result<Asked> {
    let mut stream = BufReader::with_capacity(4096, stream);
    let mut line = Vec::with_capacity(128);
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Ok(Asked::Quit);
        }
        let (reply, asked): (&[u8], _) = match line.get(..4) {
            Some(b"EHLO") => (b"250-floor\r\n250-PIPELINING\r\n250 STARTTLS\r\n", None),
            Some(b"STAR") => (b"220 2.0.0 go\r\n", Some(Asked::StartTls)),
            Some(b"QUIT") => (b"221 2.0.0 bye\r\n", Some(Asked::Quit)),
            _ => (b"250 2.0.0 ok\r\n", None),
        };
        stream.get_mut().write_all(reply)?;
        if let Some(asked) = asked {
            return Ok(asked);
        }
    }
}
