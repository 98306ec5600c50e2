//! A client that sends message after message over loopback, one connection for each thread.
//!
//! Used by `measure`. It blocks, for [`PATIENCE`] at most; a reply that refuses ends it with that
//! reply. Counts every byte that goes over the socket.

use crate::tls::{OwnClient, OwnTls};
use core::cell::Cell;
use core::net::SocketAddr;
use core::time::Duration;
use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_proto::smtp::client::{
    Content, Envelope, Nobody, Protocol, Session, Settings, Then, Timeouts, To,
};
use fsmtp_proto::smtp::server::{Recipient, Sender};
use fsmtp_proto::time;
use fsmtp_proto::wire::outbox::Outbox;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Instant;

/// How long one read or write may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Who the mail is from.
const SENDER: &str = "plan@sender.test";
/// What is read at a time.
const PIECE_BYTES: usize = 4096;

/// Bytes that went over a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// A socket that counts.
#[derive(Debug)]
struct Counted {
    socket: TcpStream,
    bytes: Rc<Cell<Bytes>>,
}

impl Read for Counted {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(room)?;
        let bytes = self.bytes.get();
        self.bytes.set(Bytes { received: bytes.received + count as u64, ..bytes });
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let count = self.socket.write(piece)?;
        let bytes = self.bytes.get();
        self.bytes.set(Bytes { sent: bytes.sent + count as u64, ..bytes });
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[derive(Debug)]
enum Stream {
    Clear(Counted),
    Encrypted(Box<OwnClient<Counted>>),
    /// In the middle of becoming encrypted.
    Gone,
}

impl Stream {
    fn both(&mut self) -> io::Result<&mut dyn ReadWrite> {
        match self {
            Self::Clear(stream) => Ok(stream),
            Self::Encrypted(stream) => Ok(stream.as_mut()),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Who a message is for: `count` of `accounts`, from number `first`, in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter<'a> {
    pub(super) accounts: &'a [String],
    pub(super) first: usize,
    pub(super) count: u32,
}

fn path(address: &str) -> Path<'_> {
    Mailbox::parse(address).map_or(Path::Null, Path::Mailbox)
}

impl Envelope for Letter<'_> {
    fn sender(&self) -> Sender<'_> {
        Sender::new(path(SENDER))
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        let at = (self.first + index as usize) % self.accounts.len().max(1);
        Recipient::new(path(self.accounts.get(at).map_or("", String::as_str)))
    }
}

enum Event {
    Ready,
    Body,
    StartTls,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    bytes: Rc<Cell<Bytes>>,
    input: Vec<u8>,
    out: Outbox,
    session: Session,
    began: Instant,
    taken: bool,
}

impl Link {
    /// Connects, greets, and makes a handshake if `tls` is given.
    pub(super) fn open(address: SocketAddr, tls: Option<&OwnTls>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{address}: {e}");
        let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let bytes = Rc::new(Cell::new(Bytes::default()));
        let settings = Settings {
            protocol: Protocol::Smtp,
            name: "plan.sender.test".into(),
            pipelining: true,
            timeouts: Timeouts::default(),
        };
        let mut link = Self {
            stream: Stream::Clear(Counted { socket, bytes: Rc::clone(&bytes) }),
            bytes,
            input: Vec::new(),
            out: Outbox::default(),
            session: Session::new(Rc::new(settings), time::Instant::default()),
            began: Instant::now(),
            taken: false,
        };
        link.until_ready()?;
        if let Some(tls) = tls {
            link.session.start_tls(link.now(), &mut link.out);
            match link.next(&Nobody)? {
                Event::StartTls => link.encrypt(tls)?,
                _ => return Err("STARTTLS was refused".to_owned()),
            }
            link.until_ready()?;
        }
        // An idle connection holds no buffer.
        link.input = Vec::new();
        Ok(link)
    }

    /// Sends one message, as it travels and with its end, until it got its 250.
    pub(super) fn send(&mut self, letter: &Letter<'_>, message: &[u8]) -> Result<(), String> {
        self.taken = false;
        self.session.message(self.now(), Content::Data, letter.count);
        loop {
            match self.next(letter)? {
                Event::Body => {
                    self.flush()?;
                    let stream = self.stream.both().and_then(|stream| {
                        stream.write_all(message)?;
                        stream.flush()
                    });
                    stream.map_err(|e| format!("sending: {e}"))?;
                    self.session.body_sent(self.now());
                }
                Event::Ready if self.taken => return Ok(()),
                _ => return Err("a message got no 250".to_owned()),
            }
        }
    }

    /// Says goodbye; gives back what the connection took.
    pub(super) fn quit(mut self) -> Result<Bytes, String> {
        self.session.quit(self.now(), &mut self.out);
        match self.next(&Nobody)? {
            Event::Closed => Ok(self.bytes.get()),
            _ => Err("QUIT was not heard".to_owned()),
        }
    }

    fn now(&self) -> time::Instant {
        let ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        time::Instant::from_ns(ns)
    }

    fn until_ready(&mut self) -> Result<(), String> {
        match self.next(&Nobody)? {
            Event::Ready => Ok(()),
            _ => Err("the engine said goodbye".to_owned()),
        }
    }

    /// Turns until there is something to do.
    fn next(&mut self, envelope: &impl Envelope) -> Result<Event, String> {
        loop {
            let now = self.now();
            let turn = self.session.turn(now, &self.input, envelope, &mut self.out);
            let (consumed, mut event, mut receive) = (turn.consumed, None, false);
            match turn.then {
                Then::NeedInput => receive = true,
                Then::Flush => {}
                Then::Reply(to, reply) => {
                    if reply.refuses() {
                        let text = String::from_utf8_lossy(reply.bytes());
                        return Err(format!("refused: {}", text.trim_end()));
                    }
                    self.taken |= to == To::Message;
                }
                Then::Ready => event = Some(Event::Ready),
                Then::Body => event = Some(Event::Body),
                Then::StartTls => event = Some(Event::StartTls),
                Then::Close => event = Some(Event::Closed),
                Then::Failed(failure) => return Err(failure.to_string()),
            }
            self.input.drain(..consumed);
            if let Some(event) = event {
                return Ok(event);
            }
            self.flush()?;
            if receive {
                self.receive()?;
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.out.is_empty() {
            return Ok(());
        }
        let bytes = self.out.take();
        let sent = self.stream.both().and_then(|stream| {
            stream.write_all(&bytes)?;
            stream.flush()
        });
        self.out = Outbox::new(bytes);
        sent.map_err(|e| format!("sending: {e}"))
    }

    fn receive(&mut self) -> Result<(), String> {
        let mut piece = [0; PIECE_BYTES];
        let read = self.stream.both().and_then(|stream| stream.read(&mut piece));
        match read {
            Ok(0) => Err("the engine closed the connection".to_owned()),
            Ok(count) => {
                self.input.extend_from_slice(piece.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(format!("receiving: {error}")),
        }
    }

    fn encrypt(&mut self, tls: &OwnTls) -> Result<(), String> {
        let Stream::Clear(clear) = core::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err("encrypted twice".to_owned());
        };
        let encrypted = tls.connect(clear).map_err(|e| format!("TLS: {e}"))?;
        self.stream = Stream::Encrypted(Box::new(encrypted));
        self.session.secured(self.now(), &mut self.out);
        Ok(())
    }
}

/// A message of `size` bytes as RFC 1870 counts them, as it travels, with its end.
pub(super) fn message(size: u64) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut text = b"From: plan@sender.test\r\nSubject: a measurement\r\n\r\n".to_vec();
    while text.len() < size {
        let left = size - text.len();
        // Lines of 70 letters; never one octet left, which is no line.
        let line = if left > 72 + 1 { 72 } else { left.max(2) };
        text.extend((0..line - 2).map(|n| b'a' + (n % 26) as u8));
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b".\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_size_and_lines_that_are_short() {
        for size in (100..400).chain([20 << 10, 10 << 20]) {
            let text = message(size);
            assert_eq!(text.len() as u64, size + 3, "{size}");
            assert!(text.ends_with(b"\r\n.\r\n"));
            assert!(text.split(|&byte| byte == b'\n').all(|line| line.len() < 80), "{size}");
        }
    }
}
