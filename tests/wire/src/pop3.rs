//! A POP3 client that reads what is there, octet for octet.
//!
//! As with [`smtp`](crate::smtp), everything gives up after [`PATIENCE`].

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// One connection.
#[derive(Debug)]
pub struct Pop {
    stream: BufReader<TcpStream>,
}

impl Pop {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// Those of the socket, and a greeting that is not `+OK`.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut pop = Self { stream: BufReader::with_capacity(64 * 1024, stream) };
        pop.ok()?;
        Ok(pop)
    }

    /// Connects and signs in.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a refusal of the name or the password.
    pub fn login(address: SocketAddr, user: &str, password: &str) -> io::Result<Self> {
        let mut pop = Self::open(address)?;
        pop.send(format!("USER {user}\r\nPASS {password}\r\n").as_bytes())?;
        pop.ok()?;
        pop.ok()?;
        Ok(pop)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one line, without CRLF.
    ///
    /// # Errors
    /// Those of the socket, `UnexpectedEof` at its end, `InvalidData` for a line without CRLF.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.strip_suffix(b"\r\n").and_then(|l| std::str::from_utf8(l).ok());
        text.map(str::to_owned).ok_or_else(|| {
            let text = String::from_utf8_lossy(&line).into_owned();
            io::Error::new(io::ErrorKind::InvalidData, format!("no line: {text:?}"))
        })
    }

    /// Reads a status line that must be `+OK`; what follows that word.
    ///
    /// # Errors
    /// As [`line`](Self::line), and `Other` with the line when it is not `+OK`.
    pub fn ok(&mut self) -> io::Result<String> {
        let line = self.line()?;
        match line.strip_prefix("+OK") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(io::Error::other(line)),
        }
    }

    /// Reads the lines of a multi-line reply up to the dot, without it and without the doubled
    /// dots (RFC 1939 §3). A line ends at CRLF only, so binary messages come through.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn lines(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let begin = text.len();
            if self.stream.read_until(b'\n', &mut text)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (before, line) = text.split_at(begin);
            if !before.is_empty() && !before.ends_with(b"\r\n") {
                continue;
            }
            if line == b".\r\n" {
                text.truncate(begin);
                return Ok(text);
            }
            if line.first() == Some(&b'.') {
                text.remove(begin);
            }
        }
    }

    /// Sends one line and reads its status line, whatever it is.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn command(&mut self, line: &str) -> io::Result<String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.line()
    }

    /// Sends one line and reads a multi-line reply.
    ///
    /// # Errors
    /// As [`ok`](Self::ok) and [`lines`](Self::lines).
    pub fn listing(&mut self, line: &str) -> io::Result<Vec<u8>> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.ok()?;
        self.lines()
    }

    /// The message count and octets of STAT.
    ///
    /// # Errors
    /// As [`ok`](Self::ok), and `InvalidData` for another shape.
    pub fn stat(&mut self) -> io::Result<(usize, u64)> {
        self.send(b"STAT\r\n")?;
        let text = self.ok()?;
        let mut words = text.split(' ');
        let count = words.next().and_then(|w| w.parse().ok());
        let octets = words.next().and_then(|w| w.parse().ok());
        count.zip(octets).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// The unique-ids, in order of message number.
    ///
    /// # Errors
    /// As [`listing`](Self::listing).
    pub fn ids(&mut self) -> io::Result<Vec<String>> {
        let text = self.listing("UIDL")?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter_map(|l| Some(l.split_once(' ')?.1.to_owned())).collect())
    }

    /// Message `number`, from 1.
    ///
    /// # Errors
    /// As [`listing`](Self::listing).
    pub fn message(&mut self, number: usize) -> io::Result<Vec<u8>> {
        self.listing(&format!("RETR {number}"))
    }

    /// Ends the session; deletions are done when this returns without an error.
    ///
    /// # Errors
    /// As [`ok`](Self::ok).
    pub fn quit(mut self) -> io::Result<()> {
        self.send(b"QUIT\r\n")?;
        self.ok().map(|_| ())
    }
}
