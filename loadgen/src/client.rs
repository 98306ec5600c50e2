//! The client side of a measurement: as little work as possible, and no surprises ignored.
//!
//! Used by every kind of load. Reads replies with one buffer per connection; any reply that is not
//! the expected one is an error with its text. Blocks for at most [`PATIENCE`]. What makes a
//! connection encrypted is in `tls`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

/// The longest wait for one reply; RFC 5321 §4.5.3.2 gives a server 10 minutes after the data.
const PATIENCE: Duration = Duration::from_secs(600);
/// More than any reply; a server that sends a longer one is not measured.
const REPLY_BYTES_MAX: usize = 4_096;

/// What bytes go through.
#[derive(Debug)]
pub(crate) enum Wire {
    Clear(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(room),
            Self::Encrypted(stream) => stream.read(room),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    buffer: Vec<u8>,
}

/// A socket that waits for [`PATIENCE`] and no longer.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Client {
    /// Connects, reads the greeting, says EHLO.
    pub(crate) fn hello(target: SocketAddr) -> io::Result<Self> {
        Self::greeted(Wire::Clear(connect(target)?))
    }

    /// Reads the greeting, says EHLO.
    pub(crate) fn greeted(wire: Wire) -> io::Result<Self> {
        let mut client = Self { wire, buffer: Vec::new() };
        client.expect(220)?;
        client.send(b"EHLO loadgen.test\r\n")?;
        client.expect(250)?;
        Ok(client)
    }

    /// Goes on encrypted, as `handshake` makes it.
    pub(crate) fn encrypt(
        self,
        handshake: impl FnOnce(TcpStream) -> io::Result<Wire>,
    ) -> io::Result<Self> {
        match self.wire {
            Wire::Clear(stream) if self.buffer.is_empty() => {
                Ok(Self { wire: handshake(stream)?, buffer: Vec::new() })
            }
            _ => Err(io::Error::other("bytes behind the reply to STARTTLS")),
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)
    }

    /// Reads one reply, which must have this code.
    pub(crate) fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            if let Some(end) = reply_end(&self.buffer) {
                let rest = self.buffer.split_off(end);
                let reply = std::mem::replace(&mut self.buffer, rest);
                if reply.starts_with(format!("{code}").as_bytes()) {
                    self.give_back_room();
                    return Ok(());
                }
                let text = String::from_utf8_lossy(&reply);
                return Err(io::Error::other(format!("{code} expected, not {}", text.trim_end())));
            }
            let before = self.buffer.len();
            if before > REPLY_BYTES_MAX {
                return Err(io::Error::other("a reply without end"));
            }
            self.buffer.resize(before + 1_024, 0);
            let room = self.buffer.get_mut(before..).unwrap_or(&mut []);
            let read = self.wire.read(room);
            self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// An idle connection holds no buffer, so that ten thousand of them fit anywhere.
    fn give_back_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }
}

/// Where the first whole reply in `bytes` ends.
fn reply_end(bytes: &[u8]) -> Option<usize> {
    let mut end = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        end += line.len();
        if line.last() == Some(&b'\n') && line.get(3) != Some(&b'-') {
            return Some(end);
        }
    }
    None
}

/// A message of `bytes` octets, as RFC 1870 counts them, without a line that needs a dot doubled,
/// followed by the end of data.
pub(crate) fn wire_message(bytes: usize) -> Vec<u8> {
    let mut wire = b"Subject: load\r\n\r\n".to_vec();
    while wire.len() < bytes {
        let left = bytes - wire.len();
        // A line is 2 to 78 octets; never leave a single octet for the next.
        let line = if left > 78 + 2 {
            78
        } else if left > 78 {
            40
        } else {
            left.max(2)
        };
        wire.extend(std::iter::repeat_n(b'x', line - 2));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_exactly_its_octets() {
        for bytes in (20..400).chain([4_096, 10_485_760]) {
            let wire = wire_message(bytes);
            assert_eq!(wire.len(), bytes + 3, "{bytes}");
            assert!(wire.ends_with(b"\r\n.\r\n"));
            assert!(wire.split(|&b| b == b'\n').all(|l| l.len() < 80));
        }
    }

    #[test]
    fn replies_are_cut_at_their_last_line() {
        assert_eq!(reply_end(b"250-a\r\n250 b\r\n354 c\r\n"), Some(14));
        assert_eq!(reply_end(b"250-a\r\n250 b"), None);
        assert_eq!(reply_end(b"250\r\n"), Some(5));
        assert_eq!(reply_end(b""), None);
    }
}
