//! The phases of a session; each owns what exists in it, and nothing else does.

use super::super::body::{Newlines, Scanner};
use super::super::ext::BodyType;
use super::super::reply::Reply;
use super::super::text::Text;
use crate::sasl::{Exchange, Pending};

/// What the session waits for.
#[derive(Debug)]
pub(super) enum Phase {
    /// A command. `None` when no transaction is open.
    Command(Option<Envelope>),
    /// The end of a command line that is too long.
    SkipLine(Option<Envelope>),
    /// A line of the client in an AUTH exchange.
    Auth(Exchange),
    /// The end of such a line that is too long.
    SkipResponse,
    /// Silence behind STARTTLS; then the handshake may begin.
    StartTls,
    /// The driver, to say that TLS is there.
    Handshake,
    /// The answer to a question.
    Asked(Question),
    /// The bytes of a message after 354.
    Data(Data),
    /// The bytes of a chunk.
    Chunk(Chunk),
    /// The end of a chunk that is not taken; then `reply` is due.
    SkipChunk { bytes_left: u64, reply: Reply, envelope: Option<Envelope> },
    /// The driver, to close the connection.
    Closed,
}

/// A transaction as far as the session must know it; the desk has the addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) recipients_count: u16,
    pub(super) body: BodyType,
    pub(super) utf8: bool,
    /// What BDAT has brought, once it has begun.
    pub(super) chunks: Option<Chunks>,
}

/// The message so far, in a transaction that uses BDAT.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    pub(super) bytes_count: u64,
    pub(super) newlines: Newlines,
    /// The desk was told to drop the message; the rest of it is only read past.
    pub(super) dropped: bool,
}

/// What the desk was asked, and what is needed to go on from its answer.
#[derive(Debug)]
pub(super) enum Question {
    Sender { echo: Text, envelope: Envelope },
    Recipient { echo: Text, envelope: Envelope },
    BeginData,
    BeginChunk(Chunk),
    Commit,
    Auth(Pending),
    Su,
}

/// A message that comes after DATA.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Data {
    pub(super) scanner: Scanner,
    pub(super) bytes_count: u64,
    /// The desk was told to drop the message; the rest of it is only read past.
    pub(super) dropped: bool,
}

/// A chunk on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) bytes_left: u64,
    pub(super) bytes: u64,
    pub(super) last: bool,
    pub(super) chunks: Chunks,
    pub(super) envelope: Envelope,
}
