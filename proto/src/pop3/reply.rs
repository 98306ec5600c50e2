//! Every text that the POP3 server says; nowhere else is one.
//!
//! Called by the session, which has made sure of `REPLY_BYTES_MAX` bytes of room. The texts are
//! those of the original's transcripts where the RFCs leave them free.

use crate::sasl::Mechanisms;
use crate::wire::outbox::Outbox;
use core::fmt::{self, Write as _};

/// The most bytes that one reply needs, listings apart (RFC 2449 §4: 512 for a first line).
pub(super) const REPLY_BYTES_MAX: usize = 512;

/// What IMPLEMENTATION says of us (RFC 2449 §6.9); without a version, which helps attackers only.
const IMPLEMENTATION: &str = "fsmtp-engine";

/// What CAPA always lists, in both states (RFC 2449 §5 allows that); `Capabilities` has the rest.
pub const CAPABILITIES: [&str; 9] = [
    "TOP",            // RFC 2449 §6.1
    "UIDL",           // RFC 2449 §6.8
    "PIPELINING",     // RFC 2449 §6.6
    "RESP-CODES",     // RFC 2449 §6.4
    "AUTH-RESP-CODE", // RFC 3206 §6
    "LOGIN-DELAY 0",  // RFC 2449 §6.5
    "EXPIRE NEVER",   // RFC 2449 §6.7
    "UTF8",           // RFC 6856 §2; no USER: names and passwords are not run through SASLprep
    "LANG",           // RFC 6856 §3
];

/// What CAPA lists only where it can be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// USER and PASS (RFC 2449 §6.3).
    pub(super) user: bool,
    /// SASL (RFC 2449 §6.2, RFC 5034 §3), when there is a mechanism.
    pub(super) mechanisms: Mechanisms,
    /// STLS (RFC 2595 §4).
    pub(super) start_tls: bool,
}

/// Why the driver cannot do what was asked. Codes and texts are made of it here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such user, or the password is wrong: the same answer for both, so that names cannot be
    /// guessed.
    Credentials,
    /// The maildrop is open in another session (RFC 1939 §4).
    InUse,
    /// The user signed in too short a time ago (RFC 2449 §8.1.1).
    LoginDelay,
    /// It failed and may work later (RFC 3206 §4).
    Temporary,
    /// It failed and needs an operator (RFC 3206 §4).
    Permanent,
    /// The message is no longer there: another protocol removed it.
    Gone,
    /// No more connections, from this address or at all. Closes the session.
    TooManyConnections,
    /// The engine stops. Closes the session.
    ShuttingDown,
}

impl Refusal {
    /// The reply, without `-ERR` and CRLF.
    const fn text(self) -> &'static str {
        match self {
            // RFC 3206 §5
            Self::Credentials => "[AUTH] Auth Failure: user or password is wrong.",
            // RFC 2449 §8.1.2
            Self::InUse => "[IN-USE] The maildrop is open in another session.",
            Self::LoginDelay => "[LOGIN-DELAY] Wait before the next login.",
            // RFC 3206 §4
            Self::Temporary => "[SYS/TEMP] Not possible now, try again later.",
            Self::Permanent => "[SYS/PERM] Not possible, the operator has to look at it.",
            Self::Gone => "No such message any more.",
            Self::TooManyConnections => "[SYS/TEMP] Too many connections, try again later.",
            Self::ShuttingDown => "[SYS/TEMP] The server shuts down, try again later.",
        }
    }

    /// Whether the session ends with it.
    pub(super) const fn closes(self) -> bool {
        matches!(self, Self::TooManyConnections | Self::ShuttingDown)
    }
}

/// A sentence for an operator.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The whole answer to a connection that gets no session.
pub fn refuse_connection(refusal: Refusal, out: &mut Outbox) {
    Reply::Refused(refusal).write(out);
}

/// One reply, or the first line of a longer one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply<'a> {
    Ready { node: &'a str },
    SigningOff { node: &'a str },
    SendPass,
    SignedIn,
    Noop,
    Utf8,
    Language { tag: &'a str },
    Languages,
    Capabilities(Capabilities),
    Implementation,
    Status { count: u32, octets: u64 },
    ListFollows,
    UniqueIdsFollow,
    Size { number: u32, octets: u64 },
    Octets(u64),
    TopFollows,
    Deleted,
    Reset,
    UserFirst,
    SignInFirst,
    SignedInAlready,
    Unknown,
    Syntax(&'static str),
    LineTooLong,
    TooManyErrors,
    NoLanguage,
    NoMessage { count: u32 },
    DeletedAlready { number: u32 },
    NeedsUtf8,
    NotAllRemoved(Refusal),
    Refused(Refusal),
    Challenge(&'a str),
    Cancelled,
    NoMechanism,
    NeedsTls,
    TlsReady,
    TlsAlready,
    TlsTooEarly,
}

impl Reply<'_> {
    /// Appends the reply.
    pub(super) fn write(self, out: &mut Outbox) {
        debug_assert!(out.room() >= REPLY_BYTES_MAX, "the session asks for room before it replies");
        let written = self.format(out).and_then(|()| out.write_str("\r\n"));
        debug_assert!(written.is_ok(), "no reply is longer than REPLY_BYTES_MAX");
    }

    fn format(self, out: &mut Outbox) -> fmt::Result {
        match self {
            Self::Ready { node } => write!(out, "+OK POP3 server ready {node}"),
            Self::SigningOff { node } => write!(out, "+OK POP3 server signing off {node}"),
            Self::SendPass => out.write_str("+OK Send PASS"),
            Self::SignedIn => out.write_str("+OK Auth Success"),
            Self::Noop => out.write_str("+OK"),
            Self::Utf8 => out.write_str("+OK UTF-8 mode"),
            // RFC 6856 §3.2: the exact tag first.
            Self::Language { tag } => write!(out, "+OK {tag} Language set"),
            Self::Languages => out
                .write_str("+OK Language listing follows\r\nen English\r\ni-default English\r\n."),
            Self::Capabilities(Capabilities { user, mechanisms, start_tls }) => {
                out.write_str("+OK Capability list follows\r\n")?;
                out.write_str(if user { "USER\r\n" } else { "" })?;
                if !mechanisms.is_empty() {
                    write!(out, "SASL {mechanisms}\r\n")?;
                }
                out.write_str(if start_tls { "STLS\r\n" } else { "" })?;
                for capability in CAPABILITIES {
                    write!(out, "{capability}\r\n")?;
                }
                write!(out, "IMPLEMENTATION {IMPLEMENTATION}\r\n.")
            }
            Self::Implementation => write!(out, "+OK {IMPLEMENTATION}"),
            // RFC 1939 §5: nothing may follow the two numbers.
            Self::Status { count, octets } => write!(out, "+OK {count} {octets}"),
            Self::ListFollows => out.write_str("+OK LIST follows"),
            Self::UniqueIdsFollow => out.write_str("+OK UIDL follows"),
            Self::Size { number, octets } => write!(out, "+OK {number} {octets}"),
            Self::Octets(octets) => write!(out, "+OK {octets} octets"),
            Self::TopFollows => out.write_str("+OK Top of message follows"),
            Self::Deleted => out.write_str("+OK Gravestone added"),
            Self::Reset => out.write_str("+OK Reset state"),
            Self::UserFirst => out.write_str("-ERR Order Error: USER first."),
            Self::SignInFirst => out.write_str("-ERR Order Error: USER/PASS first."),
            Self::SignedInAlready => {
                out.write_str("-ERR Order Error: Client already authenticated.")
            }
            Self::Unknown => out.write_str("-ERR Invalid command"),
            Self::Syntax(why) => write!(out, "-ERR Syntax Error: {why}"),
            Self::LineTooLong => out.write_str("-ERR Syntax Error: the line is too long."),
            Self::TooManyErrors => out.write_str("-ERR Syntax Error: too many of them, closing."),
            Self::NoLanguage => out.write_str("-ERR No such language, LANG lists what there is."),
            Self::NoMessage { count } => {
                write!(out, "-ERR No such message, there are {count} messages in the maildrop.")
            }
            Self::DeletedAlready { number } => write!(out, "-ERR Message {number} is deleted."),
            // RFC 6856 §5
            Self::NeedsUtf8 => {
                out.write_str("-ERR [UTF8] The message has UTF-8 headers: say UTF8 before USER.")
            }
            Self::NotAllRemoved(refusal) => {
                let code = if refusal == Refusal::Permanent { "SYS/PERM" } else { "SYS/TEMP" };
                write!(out, "-ERR [{code}] Some deleted messages were not removed.")
            }
            Self::Refused(refusal) => write!(out, "-ERR {refusal}"),
            // RFC 5034 §4
            Self::Challenge(challenge) => write!(out, "+ {challenge}"),
            Self::Cancelled => out.write_str("-ERR Authentication cancelled."),
            Self::NoMechanism => out.write_str("-ERR No such mechanism here, CAPA lists them."),
            // RFC 3206 §5: nothing helps but what the user sets up.
            Self::NeedsTls => out.write_str("-ERR [AUTH] No passwords in clear: TLS first."),
            Self::TlsReady => out.write_str("+OK Begin TLS negotiation now"),
            Self::TlsAlready => out.write_str("-ERR Order Error: TLS is there already."),
            // What stands behind STLS came in clear, from whomever.
            Self::TlsTooEarly => out.write_str("-ERR Nothing may follow STLS, closing."),
        }
    }
}

/// Appends `number octets` CRLF. Returns false, and appends nothing, when there is too little room.
pub(super) fn listing_line(number: u32, octets: u64, out: &mut Outbox) -> bool {
    // Two numbers of at most 10 and 20 digits, a space, CRLF.
    out.room() >= 33 && write!(out, "{number} {octets}\r\n").is_ok()
}

/// The most bytes of a unique-id (RFC 1939 §7).
pub(super) const UNIQUE_ID_BYTES_MAX: usize = 70;

/// Appends `+OK` (when `alone`), `number id` CRLF; like [`listing_line`].
pub(super) fn unique_id_line(number: u32, id: &[u8], alone: bool, out: &mut Outbox) -> bool {
    // RFC 1939 §7: one to 70 characters in the range 0x21 to 0x7E.
    debug_assert!(!id.is_empty() && id.len() <= UNIQUE_ID_BYTES_MAX);
    debug_assert!(id.iter().all(u8::is_ascii_graphic));
    let status = if alone { "+OK " } else { "" };
    out.room() >= 4 + 11 + UNIQUE_ID_BYTES_MAX + 2
        && write!(out, "{status}{number} ").is_ok()
        && out.push(id)
        && out.push(b"\r\n")
}

/// Appends the line that ends a listing; like [`listing_line`].
pub(super) fn listing_end(out: &mut Outbox) -> bool {
    out.room() >= 3 && out.push(b".\r\n")
}
