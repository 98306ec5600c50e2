//! A connection, on either side: in clear, or TLS since some moment.
//!
//! Used by `send/client.rs` and `sink/session.rs`. In clear it adds one comparison to each call.
//! What cannot be decrypted is an error of the operation `decrypt from`. What is decrypted and
//! unread is less than a window of the runtime and what rustls gives at once, some records.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use fsmtp_rt::{Conn, Instant, IoError, IoKind, Runtime, WINDOW_BYTES_MAX};
use rustls::{Connection, HandshakeKind};

/// What rustls is asked for at once.
const READ_BYTES: usize = 4 * 1024;

/// A connection, in clear or not.
pub(crate) struct Stream<R: Runtime> {
    rt: R,
    conn: R::Conn,
    tls: Option<Box<Tls>>,
}

struct Tls {
    session: Connection,
    /// Decrypted bytes that nobody has taken.
    window: Vec<u8>,
    ended: bool,
}

impl<R: Runtime> Stream<R> {
    pub(crate) fn new(rt: R, conn: R::Conn) -> Self {
        Self { rt, conn, tls: None }
    }

    fn fail(&self, kind: IoKind, operation: &'static str) -> IoError {
        IoError::new(kind, operation, self.conn.peer().to_string())
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.conn.peer()
    }

    /// Makes the handshake of a session that has not begun; says whether it resumes another.
    ///
    /// # Errors
    /// Those of the connection, or that it cannot be.
    pub(crate) async fn start_tls(
        &mut self,
        session: Connection,
        deadline: Instant,
    ) -> Result<bool, IoError> {
        self.tls = Some(Box::new(Tls { session, window: Vec::new(), ended: false }));
        loop {
            let fed = self.feed();
            // What went wrong is told to the other side, if it still listens.
            let flushed = self.flush(deadline).await;
            fed.and(flushed)?;
            if !self.tls.as_ref().is_some_and(|tls| tls.session.is_handshaking()) {
                break;
            }
            if self.conn.fill(deadline).await? == 0 {
                return Err(self.fail(IoKind::Failed, "start TLS with"));
            }
        }
        let kind = self.tls.as_ref().and_then(|tls| tls.session.handshake_kind());
        Ok(kind == Some(HandshakeKind::Resumed))
    }

    /// How it is encrypted: version, suite, key exchange.
    pub(crate) fn security(&self) -> Option<String> {
        let session = &self.tls.as_ref()?.session;
        let version = session.protocol_version()?.as_str()?;
        let suite = session.negotiated_cipher_suite()?.suite();
        let suite = suite.as_str()?;
        let group = session.negotiated_key_exchange_group();
        let group = group.and_then(|group| group.name().as_str()).unwrap_or("resumed");
        Some(format!("{version} {suite} {group}"))
    }

    /// Gives rustls what has arrived, and takes what that decrypts to.
    fn feed(&mut self) -> Result<(), IoError> {
        let peer = self.conn.peer();
        let fail = || IoError::new(IoKind::Failed, "decrypt from", peer.to_string());
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            let mut bytes = self.conn.filled();
            // What has arrived behind a full window stays encrypted until somebody has read that.
            if bytes.is_empty() || tls.window.len() >= WINDOW_BYTES_MAX {
                return Ok(());
            }
            let before = bytes.len();
            if tls.session.read_tls(&mut bytes).is_err() {
                return Err(fail());
            }
            let taken = before - bytes.len();
            self.conn.consume(taken);
            let Ok(state) = tls.session.process_new_packets() else { return Err(fail()) };
            tls.ended |= state.peer_has_closed();
            let mut plain = state.plaintext_bytes_to_read();
            while plain > 0 {
                let mut piece = [0; READ_BYTES];
                let Ok(got) = tls.session.reader().read(&mut piece) else { return Err(fail()) };
                // copy: rustls's plaintext -> window.
                tls.window.extend_from_slice(piece.get(..got).unwrap_or_default());
                plain -= got.clamp(1, plain);
            }
        }
    }

    /// Sends what rustls has to say.
    async fn flush(&mut self, deadline: Instant) -> Result<(), IoError> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if !tls.session.wants_write() {
            return Ok(());
        }
        let mut out = self.rt.buffer();
        while tls.session.wants_write() {
            // Writing to memory cannot fail.
            let _ = tls.session.write_tls(&mut out);
        }
        self.conn.send(out, deadline).await
    }

    pub(crate) async fn close(mut self, deadline: Instant) {
        if let Some(tls) = &mut self.tls {
            tls.session.send_close_notify();
            // Who has gone needs no goodbye.
            let _ = self.flush(deadline).await;
        }
        self.conn.close(deadline).await;
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.tls.as_ref().map_or_else(|| self.conn.filled(), |tls| &tls.window)
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        match &mut self.tls {
            Some(tls) => drop(tls.window.drain(..bytes)),
            None => self.conn.consume(bytes),
        }
    }

    /// Waits for bytes; 0 at the end of the stream.
    pub(crate) async fn fill(&mut self, deadline: Instant) -> Result<usize, IoError> {
        if self.tls.is_none() {
            return self.conn.fill(deadline).await;
        }
        let before = self.filled().len();
        if before >= WINDOW_BYTES_MAX {
            // A session that has so much and wants more would want it for ever.
            return Err(self.fail(IoKind::Failed, "decrypt from"));
        }
        loop {
            self.feed()?;
            let got = self.filled().len() - before;
            if got > 0 || self.tls.as_ref().is_some_and(|tls| tls.ended) {
                return Ok(got);
            }
            if self.conn.fill(deadline).await? == 0 {
                return Ok(0);
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError> {
        if self.tls.is_none() {
            return self.conn.send(bytes, deadline).await;
        }
        // copy: plaintext -> records, by rustls, which bounds what it holds.
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some(tls) = &mut self.tls else { break };
            let Ok(taken) = tls.session.writer().write(rest) else {
                return Err(self.fail(IoKind::Closed, "send to"));
            };
            rest = rest.get(taken..).unwrap_or_default();
            self.flush(deadline).await?;
        }
        self.rt.recycle(bytes);
        Ok(())
    }
}
