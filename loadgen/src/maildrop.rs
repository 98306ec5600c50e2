//! A POP3 client as far as loads and checks need it: signs in, reads answers whole.
//!
//! Used by `pop3` and `verify`. Blocks for at most [`PATIENCE`] for an answer, which is of at most
//! [`ANSWER_BYTES_MAX`]; one answer is held at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::client::Wire;
use crate::tls::{Dialer, Mode};

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of one answer at most: beyond any listing or message that is measured here.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// One connection; holds at most one answer.
#[derive(Debug)]
pub(crate) struct Pop {
    wire: Wire,
    buffer: Vec<u8>,
    /// Octets of the buffer that have arrived.
    filled: usize,
}

impl Pop {
    /// Connects and signs in, encrypted as the dialer says.
    ///
    /// # Errors
    /// As every call here: those of the connection, or what the server refused, with its words.
    pub(crate) fn login(
        target: SocketAddr,
        tls: Option<&Dialer>,
        user: &str,
        password: &str,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let wire = match tls {
            Some(dialer) if dialer.mode() == Mode::Implicit => dialer.handshake(stream)?,
            _ => Wire::Clear(stream),
        };
        let mut pop = Self { wire, buffer: vec![0; 32 * 1024], filled: 0 };
        pop.one(b"")?;
        if let Some(dialer) = tls.filter(|dialer| dialer.mode() == Mode::Starttls) {
            pop.one(b"STLS\r\n")?;
            let Wire::Clear(stream) = pop.wire else {
                return Err(io::Error::other("encrypted twice"));
            };
            pop.wire = dialer.handshake(stream)?;
        }
        pop.one(format!("USER {user}\r\n").as_bytes())?;
        pop.one(format!("PASS {password}\r\n").as_bytes())?;
        Ok(pop)
    }

    /// Sends a command, reads an answer of one line.
    pub(crate) fn one(&mut self, command: &[u8]) -> io::Result<()> {
        let end = self.status(command)?;
        if self.filled == end { Ok(()) } else { Err(io::Error::other("more than one answer")) }
    }

    /// Sends a command, reads an answer of many lines: those between the status and the dot.
    pub(crate) fn many(&mut self, command: &[u8]) -> io::Result<&[u8]> {
        let begin = self.status(command)?;
        let is_whole = |text: &[u8]| text == b".\r\n" || text.ends_with(b"\r\n.\r\n");
        while !self.buffer.get(begin..self.filled).is_some_and(is_whole) {
            self.more()?;
        }
        Ok(self.buffer.get(begin..self.filled - 3).unwrap_or(&[]))
    }

    /// Sends a command and reads its status line; where that ends.
    fn status(&mut self, command: &[u8]) -> io::Result<usize> {
        self.wire.write_all(command)?;
        self.filled = 0;
        loop {
            let text = self.buffer.get(..self.filled).unwrap_or(&[]);
            if let Some(at) = text.iter().position(|&b| b == b'\n') {
                if text.starts_with(b"+OK") {
                    return Ok(at + 1);
                }
                let line = String::from_utf8_lossy(text.get(..at).unwrap_or(&[])).into_owned();
                return Err(io::Error::other(line.trim_end().to_owned()));
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            if self.filled >= ANSWER_BYTES_MAX {
                return Err(io::Error::other("an answer without end"));
            }
            self.buffer.resize(2 * self.filled, 0);
        }
        let read = self.wire.read(self.buffer.get_mut(self.filled..).unwrap_or(&mut []))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += read;
        Ok(())
    }
}
