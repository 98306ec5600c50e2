//! A connection that speaks in clear, or TLS since some moment.
//!
//! Drivers know one type. [`Stream::start_tls`] replaces the clear connection by an encrypted one;
//! what the client sent before belongs to the clear part, and the caller must see to it that
//! nothing of it is left. A plain connection costs one comparison per call more than a bare one.
//!
//! Memory of an encrypted connection: rustls's state, and a window that exists while there is
//! something in it. What cannot be decrypted ends the connection with an alert.

use core::net::SocketAddr;
use std::io::{BufRead as _, ErrorKind, Write as _};

use fsmtp_proto::access::Tls as Agreed;
use fsmtp_rt::{Conn, Instant, IoError, IoKind, Runtime, WINDOW_BYTES_MAX};
use rustls::{Connection, ProtocolVersion, ServerConnection};

use super::clients::holder;
use super::{Acceptor, Connector, Failed, Proof};

/// What RFC 9266 §4.2 derives for SCRAM's channel binding.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A connection, in clear or not.
pub struct Stream<R: Runtime> {
    rt: R,
    conn: R::Conn,
    tls: Option<Box<Tls>>,
}

/// What makes a connection encrypted.
struct Tls {
    session: Connection,
    /// Decrypted bytes, unread from `start`.
    window: Vec<u8>,
    start: usize,
    /// The client has said that nothing more comes, or is gone.
    ended: bool,
    /// We have said that nothing more comes.
    goodbye: bool,
    /// All that rustls has to say is a ticket, which no client waits for (RFC 8446, section 4.6.1):
    /// it goes along with the next reply.
    ticket: bool,
}

impl<R: Runtime> Stream<R> {
    /// A stream in clear.
    pub fn new(rt: R, conn: R::Conn) -> Self {
        Self { rt, conn, tls: None }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Makes the handshake; from then on everything is encrypted.
    ///
    /// # Errors
    /// [`IoKind::Failed`] when the client does not speak TLS as we do: it was sent an alert.
    /// Otherwise those of the connection.
    pub async fn start_tls(
        &mut self,
        acceptor: &Acceptor,
        deadline: Instant,
    ) -> Result<Agreed, IoError> {
        let failed =
            |_| IoError::new(IoKind::Failed, "start TLS with", self.conn.peer().to_string());
        let mut session = ServerConnection::new(acceptor.config()).map_err(failed)?;
        // What is given to it at once is bounded by the outboxes, and sent at once.
        session.set_buffer_limit(None);
        let tls = self.tls.insert(Box::new(Tls::new(session.into())));
        while tls.session.is_handshaking() {
            let arrived = self.conn.filled().is_empty();
            if arrived && self.conn.fill(deadline).await? == 0 {
                return Err(IoError::new(IoKind::Closed, "start TLS with", peer_of(&self.conn)));
            }
            let fed = tls.feed(&mut self.conn);
            tls.ticket = fed.is_ok() && tls.established_tls13();
            if !tls.ticket {
                flush(&self.rt, &mut self.conn, tls, deadline).await?;
            }
            fed?;
        }
        Ok(tls.agreed())
    }

    /// Makes the handshake as the client of `host`, which must show `proof`; from then on all is
    /// encrypted.
    ///
    /// # Errors
    /// Why it did not come about; the connection is of no use then.
    pub(crate) async fn connect_tls(
        &mut self,
        connector: &Connector,
        (host, proof): (&str, &Proof),
        deadline: Instant,
    ) -> Result<Agreed, Failed> {
        let mut session = connector.session(host, proof).map_err(Failed::other)?;
        session.set_buffer_limit(None);
        let tls = self.tls.insert(Box::new(Tls::new(session)));
        loop {
            flush(&self.rt, &mut self.conn, tls, deadline).await.map_err(Failed::other)?;
            if !tls.session.is_handshaking() {
                return Ok(tls.agreed());
            }
            let arrived = !self.conn.filled().is_empty();
            if !arrived && self.conn.fill(deadline).await.map_err(Failed::other)? == 0 {
                return Err(Failed::other("it closed the connection in the handshake"));
            }
            if let Err(error) = tls.take(&mut self.conn) {
                // What is wrong is told to the other side, if it still listens.
                let _ = flush(&self.rt, &mut self.conn, tls, deadline).await;
                return Err(Failed::of(&error));
            }
        }
    }

    /// Sends the last bytes there are, and the goodbye of TLS with them: one packet, not two.
    ///
    /// # Errors
    /// As [`Conn::send`].
    pub async fn send_last(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError> {
        if let Some(tls) = &mut self.tls {
            tls.goodbye = true;
        }
        self.send(bytes, deadline).await
    }

    async fn fill_tls(&mut self, deadline: Instant) -> Result<usize, IoError> {
        let Some(tls) = &mut self.tls else { return Ok(0) };
        loop {
            let got = tls.take_plain();
            if got > 0 || tls.ended {
                return Ok(got);
            }
            if self.conn.filled().is_empty() && self.conn.fill(deadline).await? == 0 {
                // Without a goodbye. The protocols above know by themselves what is whole.
                tls.ended = true;
                return Ok(0);
            }
            let fed = tls.feed(&mut self.conn);
            if fed.is_err() || (tls.session.wants_write() && !tls.ticket) {
                flush(&self.rt, &mut self.conn, tls, deadline).await?;
            }
            fed?;
        }
    }
}

fn peer_of(conn: &impl Conn) -> String {
    conn.peer().to_string()
}

/// Sends what rustls has to say.
async fn flush<R: Runtime>(
    rt: &R,
    conn: &mut R::Conn,
    tls: &mut Tls,
    deadline: Instant,
) -> Result<(), IoError> {
    tls.ticket = false;
    let mut out = rt.buffer();
    while tls.session.wants_write() {
        // Writing to memory cannot fail.
        let _ = tls.session.write_tls(&mut out);
    }
    conn.send(out, deadline).await
}

impl Tls {
    /// A session that has not begun.
    const fn new(session: Connection) -> Self {
        let (ended, goodbye, ticket) = (false, false, false);
        Self { session, window: Vec::new(), start: 0, ended, goodbye, ticket }
    }

    /// Gives rustls bytes that have arrived, as many as it takes.
    fn feed(&mut self, conn: &mut impl Conn) -> Result<(), IoError> {
        self.take(conn).map_err(|why| {
            let object = format!("{} ({why})", conn.peer());
            IoError::new(IoKind::Failed, "decrypt from", object)
        })
    }

    fn take(&mut self, conn: &mut impl Conn) -> Result<(), rustls::Error> {
        let mut bytes = conn.filled();
        let before = bytes.len();
        let read = self.session.read_tls(&mut bytes);
        let taken = before - bytes.len();
        conn.consume(taken);
        if let (Err(why), 0) = (read, taken) {
            return Err(rustls::Error::General(why.to_string()));
        }
        let state = self.session.process_new_packets()?;
        self.ended |= state.peer_has_closed();
        Ok(())
    }

    /// Whether the handshake is done, and left nothing to say but a ticket. In TLS 1.2 the client
    /// waits for our last message.
    fn established_tls13(&self) -> bool {
        let version = self.session.protocol_version();
        !self.session.is_handshaking() && version == Some(ProtocolVersion::TLSv1_3)
    }

    /// Moves decrypted bytes to the window, as far as there is room; says how many.
    fn take_plain(&mut self) -> usize {
        if self.start == self.window.len() {
            self.window.clear();
            self.start = 0;
        } else if self.start > 0 {
            // copy: the rest of a line, in front of what comes.
            self.window.drain(..self.start);
            self.start = 0;
        }
        let before = self.window.len();
        let mut reader = self.session.reader();
        while self.window.len() < WINDOW_BYTES_MAX {
            let room = WINDOW_BYTES_MAX - self.window.len();
            let taken = match reader.fill_buf() {
                Ok([]) => break,
                Ok(bytes) => {
                    let piece = bytes.get(..room.min(bytes.len())).unwrap_or_default();
                    // copy: rustls's plaintext -> window.
                    self.window.extend_from_slice(piece);
                    piece.len()
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The client left without a goodbye.
                Err(_) => {
                    self.ended = true;
                    break;
                }
            };
            reader.consume(taken);
        }
        self.window.len() - before
    }

    fn filled(&self) -> &[u8] {
        self.window.get(self.start..).unwrap_or_default()
    }

    /// What the handshake has agreed on.
    fn agreed(&self) -> Agreed {
        let session = &self.session;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
            _ => "TLS1.3",
        };
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        // RFC 9266 §3: TLS 1.2 needs the extended master secret for it, and rustls does not say
        // whether a session has that.
        let exporter = self
            .established_tls13()
            .then(|| session.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")));
        Agreed {
            version,
            cipher: suite.unwrap_or("unknown"),
            exporter: exporter.and_then(Result::ok),
            certificate: session.peer_certificates().and_then(<[_]>::first).and_then(holder),
        }
    }
}

impl<R: Runtime> Conn for Stream<R> {
    fn peer(&self) -> SocketAddr {
        self.conn.peer()
    }

    fn local(&self) -> SocketAddr {
        self.conn.local()
    }

    fn filled(&self) -> &[u8] {
        self.tls.as_ref().map_or_else(|| self.conn.filled(), |tls| tls.filled())
    }

    fn consume(&mut self, bytes: usize) {
        let Some(tls) = &mut self.tls else { return self.conn.consume(bytes) };
        assert!(bytes <= tls.filled().len(), "more consumed than was filled");
        tls.start += bytes;
        if tls.start == tls.window.len() {
            // An idle connection holds no window.
            tls.window = Vec::new();
            tls.start = 0;
        }
    }

    async fn fill(&mut self, deadline: Instant) -> Result<usize, IoError> {
        if self.tls.is_some() {
            self.fill_tls(deadline).await
        } else {
            self.conn.fill(deadline).await
        }
    }

    async fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError> {
        let Some(tls) = &mut self.tls else { return self.conn.send(bytes, deadline).await };
        let written = tls.session.writer().write_all(&bytes);
        self.rt.recycle(bytes);
        if written.is_err() {
            return Err(IoError::new(IoKind::Closed, "send to", peer_of(&self.conn)));
        }
        if tls.goodbye {
            tls.session.send_close_notify();
        }
        flush(&self.rt, &mut self.conn, tls, deadline).await
    }

    async fn close(&mut self, deadline: Instant) {
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.goodbye) {
            tls.session.send_close_notify();
            // Whoever is gone needs no goodbye.
            let _ = flush(&self.rt, &mut self.conn, tls, deadline).await;
        }
        self.conn.close(deadline).await;
    }
}

impl<R: Runtime> core::fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Stream({}, {})", self.peer(), if self.encrypted() { "TLS" } else { "clear" })
    }
}
