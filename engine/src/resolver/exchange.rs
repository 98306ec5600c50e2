//! The messages of one lookup: sends what `Lookup` says, where it says, and gives it what comes.
//!
//! Called by the resolver. Each query goes out on a socket of its own, so each has a port of its
//! own that somebody else would have to guess (RFC 5452 §9.2). Over TCP at most a message and one
//! window are held. Everything that goes wrong is told to the lookup, which knows what to do.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use fsmtp_proto::dns::message::{RANDOM_BYTES, Transport, from_stream, to_stream};
use fsmtp_proto::dns::resolver::{Came, Heard, Lookup, Next, Trouble};
use fsmtp_proto::dns::{Outcome, Question};
use fsmtp_rt::{Conn, Datagrams, Dial, Instant, IoError, IoKind, Udp};

use super::{Inner, SILENT_KEPT};
use crate::shard::count;

/// One message of a lookup, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Who was asked.
    pub server: SocketAddr,
    /// How.
    pub over: Transport,
    /// For which name.
    pub name: Box<str>,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub ended: Ended,
}

/// What came of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// One that was taken.
    Came(Came),
    /// None.
    Failed(Trouble),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Came(came) => came.fmt(f),
            Self::Failed(Trouble::Silence) => f.write_str("no answer"),
            Self::Failed(Trouble::Unreachable) => f.write_str("cannot be reached"),
        }
    }
}

impl<R: Datagrams + Dial> Inner<R> {
    /// Looks `question` up. As many steps as the lookup has messages, which is bounded there.
    pub(super) async fn exchange(&self, question: Question) -> (Outcome, Vec<Step>) {
        let mut lookup = Lookup::new(question, self.settings, self.first(), self.rt.now());
        let mut steps = Vec::new();
        loop {
            let mut random = [0; RANDOM_BYTES];
            self.rt.random(&mut random);
            let began = self.rt.now_exact();
            let name = lookup.question().name().into();
            let (at, over, until, message) = match lookup.next(self.rt.now(), &random) {
                Next::Done(outcome) => return (outcome, steps),
                Next::Ask(ask) => (ask.server, ask.over, ask.until, ask.message.to_vec()),
            };
            let Some(&server) = self.servers.get(at) else { continue };
            count(&self.counters.queries);
            let came = match over {
                Transport::Udp => self.udp(&mut lookup, server, &message, until).await,
                Transport::Tcp => self.tcp(&mut lookup, server, &message, until).await,
            };
            let ended = match came {
                Ok(came) => Ended::Came(came),
                Err(error) => Ended::Failed(trouble(&error)),
            };
            self.note(&mut lookup, at, ended);
            let took = self.rt.now_exact().since(began);
            steps.push(Step { server, over, name, took, ended });
        }
    }

    /// The first server that is not known to be silent.
    fn first(&self) -> usize {
        let now = self.rt.now();
        self.silent.iter().position(|until| until.get() <= now).unwrap_or(0)
    }

    /// Counts what came, tells the lookup what did not, and remembers who is silent.
    fn note(&self, lookup: &mut Lookup, at: usize, ended: Ended) {
        let silent = match ended {
            Ended::Came(_) => {
                count(&self.counters.answers);
                Instant::default()
            }
            Ended::Failed(trouble) => {
                lookup.failed(trouble);
                count(match trouble {
                    Trouble::Silence => &self.counters.timeouts,
                    Trouble::Unreachable => &self.counters.unreachable,
                });
                self.rt.now() + SILENT_KEPT
            }
        };
        if let Some(cell) = self.silent.get(at) {
            cell.set(silent);
        }
    }

    async fn udp(
        &self,
        lookup: &mut Lookup,
        server: SocketAddr,
        message: &[u8],
        until: Instant,
    ) -> Result<Came, IoError> {
        let mut socket = self.rt.udp(server)?;
        socket.send(message)?;
        loop {
            match lookup.heard(socket.receive(until).await?) {
                Heard::Taken(came) => return Ok(came),
                // RFC 5452 §9.3: the lookup counts them
                Heard::Stray => count(&self.counters.strays),
            }
        }
    }

    async fn tcp(
        &self,
        lookup: &mut Lookup,
        server: SocketAddr,
        message: &[u8],
        until: Instant,
    ) -> Result<Came, IoError> {
        count(&self.counters.tcp);
        let mut conn = self.rt.dial(None, server, until).await?;
        conn.send(to_stream(message), until).await?;
        let closed = || IoError::new(IoKind::Closed, "receive from", server.to_string());
        // A window may be shorter than a message, so the pieces are put together here.
        let mut stream = Vec::new();
        loop {
            if conn.fill(until).await? == 0 {
                return Err(closed());
            }
            stream.extend_from_slice(conn.filled());
            conn.consume(conn.filled().len());
            let Some(answer) = from_stream(&stream) else { continue };
            return match lookup.heard(answer) {
                Heard::Taken(came) => Ok(came),
                // Of a connection the lookup takes whatever comes.
                Heard::Stray => Err(closed()),
            };
        }
    }
}

fn trouble(error: &IoError) -> Trouble {
    match error.kind {
        IoKind::TimedOut => Trouble::Silence,
        _ => Trouble::Unreachable,
    }
}
