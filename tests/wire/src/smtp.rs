//! An SMTP client that sends exactly what it is told and reads whole replies.
//!
//! Every read and write gives up after [`PATIENCE`] with an error of kind
//! `WouldBlock` or `TimedOut`.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;
use crate::mail;

/// More lines than any reply has; a server that sends more is broken.
const REPLY_LINES_MAX: usize = 100;

/// One reply: its code and the text of each line.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// What follows the code and the separator, without CRLF.
    pub lines: Vec<String>,
}

impl Reply {
    /// The text of the last line.
    #[must_use]
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }

    /// Whether the code is `code` and the text begins with `enhanced` as a word (RFC 2034 §4);
    /// an empty `enhanced` fits every text.
    #[must_use]
    pub fn is(&self, code: u16, enhanced: &str) -> bool {
        self.code == code
            && (enhanced.is_empty() || self.text().split(' ').next() == Some(enhanced))
    }

    /// The queue id that a 250 after the end of data names.
    #[must_use]
    pub fn queue_id(&self) -> Option<&str> {
        let (_, after) = self.text().split_once("message queued ")?;
        let id = after.split(' ').next()?;
        Some(id.trim_start_matches('<').trim_end_matches('>'))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" | "))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Smtp {
    stream: BufReader<TcpStream>,
}

impl Smtp {
    /// Connects and does not wait for the greeting.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// Takes a connection that the caller has made, and does not wait for the greeting.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Connects, reads the greeting, says EHLO.
    ///
    /// # Errors
    /// Those of the socket, and any reply but 220 and 250.
    pub fn hello(address: SocketAddr) -> io::Result<Self> {
        let mut smtp = Self::open(address)?;
        smtp.expect(220)?;
        smtp.send(b"EHLO client.test\r\n")?;
        smtp.expect(250)?;
        Ok(smtp)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// Those of the socket, `UnexpectedEof` at its end, `InvalidData` for what is no reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        let wrong = |line: &[u8]| {
            let text = String::from_utf8_lossy(line).into_owned();
            io::Error::new(io::ErrorKind::InvalidData, format!("no reply: {text:?}"))
        };
        while reply.lines.len() < REPLY_LINES_MAX {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.strip_suffix(b"\r\n").ok_or_else(|| wrong(&line))?;
            let text = std::str::from_utf8(text).map_err(|_| wrong(&line))?;
            let (code, rest) = text.split_at_checked(3).ok_or_else(|| wrong(&line))?;
            reply.code = code.parse().map_err(|_| wrong(&line))?;
            let more = rest.starts_with('-');
            if !more && !rest.starts_with(' ') && !rest.is_empty() {
                return Err(wrong(&line));
            }
            reply.lines.push(rest.get(1..).unwrap_or("").to_owned());
            if !more {
                return Ok(reply);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without end"))
    }

    /// Sends one line and reads its reply.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`reply`](Self::reply).
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Reads a reply that must have this code.
    ///
    /// # Errors
    /// As [`reply`](Self::reply), and `Other` for another code.
    pub fn expect(&mut self, code: u16) -> io::Result<Reply> {
        let reply = self.reply()?;
        if reply.code == code { Ok(reply) } else { Err(io::Error::other(format!("{reply:?}"))) }
    }

    /// One transaction, command by command, with DATA; the reply that ended it.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn mail(&mut self, from: &str, to: &[&str], message: &[u8]) -> io::Result<Reply> {
        let mut reply = self.command(&format!("MAIL FROM:<{from}>"))?;
        for recipient in to {
            if reply.code != 250 {
                return Ok(reply);
            }
            reply = self.command(&format!("RCPT TO:<{recipient}>"))?;
        }
        if reply.code != 250 {
            return Ok(reply);
        }
        reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(&mail::stuffed(message))?;
        self.reply()
    }

    /// Whether the other side closes now, after at most what is still on its way.
    ///
    /// # Errors
    /// Those of the socket but a reset, which is an end too.
    pub fn ended(&mut self) -> io::Result<bool> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// The socket, for tests that need its options.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}
