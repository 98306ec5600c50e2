//! Every reply code, enhanced code and text of the SMTP server, and how they are written.
//!
//! Enhanced codes are those of RFC 3463 §3 and the registry of RFC 5248 §2.
//!
//! The session names a `Reply`; the desk names a [`Refusal`]; only this file knows numbers and
//! words. Single-line replies end in the seeds' ` - fsmtp`. A reply is at most
//! [`REPLY_LINE_BYTES_MAX`] bytes (RFC 5321 §4.5.3.1.5), whatever address or id is echoed in it,
//! and nothing that is echoed can hold a control character.

use core::fmt::Write as _;

use crate::wire::outbox::Outbox;
use crate::wire::token::{DECIMAL_BYTES_MAX, push_decimal};

/// RFC 5321 §4.5.3.1.5: the most bytes of one reply line, with its CRLF.
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// The most bytes of an address or id that a reply repeats; past it, the reply goes without.
const ECHO_BYTES_MAX: usize = 256;

/// Why the desk does not accept what it was asked. Each has one code and one text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// 550 5.1.1: the domain is ours, the mailbox does not exist.
    NoSuchUser,
    /// 550 5.7.1: the domain is not ours, and this client may not relay.
    RelayDenied,
    /// 553 5.7.1: who has signed in may send as an address of its own only (RFC 6409 §6.1).
    NotYourAddress,
    /// 530 5.7.0: addresses of that domain are for those who have signed in (RFC 4954 §6).
    SignInFirst,
    /// 550 5.7.1: the message's `From` is not theirs, either.
    NotYourFrom,
    /// 550 5.6.0: the header of a submitted message cannot be worked on.
    BadHeader,
    /// 550 5.6.11: a bare CR or LF in the header section, which some take for the end of a line.
    BareNewline,
    /// 552 5.2.2 would be final: 452 4.2.2, the mailbox holds as much as it may.
    MailboxFull,
    /// 452 4.3.1: the disk is nearly full.
    DiskLow,
    /// 451 4.3.0: too much is under way; the client should come again.
    Busy,
    /// 451 4.3.0: storage failed.
    Storage,
    /// 554 5.4.6: the message has been through too many hosts.
    TooManyHops,
    /// 552 5.3.4: the message is larger than this recipient or this moment allows.
    TooLarge,
    /// 552 5.3.4: its header section is larger than can be worked on.
    HeaderTooLarge,
    /// It is doubtful who sends this.
    Doubted(Doubt),
    /// 452 4.5.3: more recipients than the desk takes in one message.
    TooManyRecipients,
    /// 451 4.7.1: who has signed in has named as many recipients as an hour allows.
    RateExceeded {
        /// When it may go on.
        minutes: u16,
    },
    /// 421 4.3.2: the engine is going down. Closes the connection.
    ShuttingDown,
    /// 421 4.7.0: more connections than are allowed. Closes the connection.
    TooManyConnections,
    /// 535 5.7.8: no such user, or the password is wrong; one answer, so that names stay unknown.
    Credentials,
    /// 454 4.7.0: whether the user may sign in cannot be found out now.
    SignInLater,
    /// 550 5.1.1, asked for by a magic recipient.
    Magic550,
    /// 452 4.2.2, asked for by a magic recipient.
    Magic452,
    /// 421 4.3.2, asked for by a magic recipient. Closes the connection.
    Magic421,
    /// Any code, asked for by who tests a client; with 421 it closes the connection.
    Asked(Code),
    /// Any code, in words of somebody else: for [`Answer::Told`](super::server::Answer::Told).
    Told(Code),
}

/// Why mail is refused of which it is not sure who sends it: RFC 7372 §3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Doubt {
    /// 550 5.7.23: the domain of the envelope does not let this host send (SPF).
    Spf,
    /// 550 5.7.20: no signature is good (DKIM).
    Dkim,
    /// 550 5.7.26: neither proves whom the message names as its author (DMARC).
    Dmarc,
    /// 550 5.7.25: the name of the host does not lead back to it.
    Iprev,
    /// 554 5.7.1: it stands on lists of hosts that nobody wants mail of.
    Listed,
    /// 451 4.7.24: the DNS does not say for now.
    NoAnswer,
    /// 451 4.7.1: nobody here has heard of it before.
    Unknown {
        /// When it may come again.
        minutes: u16,
    },
    /// 451 4.7.1: it sends more than it may.
    TooMuch {
        /// When it may go on.
        minutes: u16,
    },
    /// 554 5.5.1: it did not wait for its turn. Closes the connection.
    TooEarly,
}

/// A code that refuses, 400 to 599.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(u16);

impl Code {
    /// Come again.
    pub const LATER: Self = Self(451);

    /// `None` for a number that is no such code.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        if matches!(code, 400..=599) { Some(Self(code)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl Refusal {
    /// Whether the connection is closed after it (RFC 5321 §3.8: 421 says so).
    #[must_use]
    pub const fn closes(self) -> bool {
        match self {
            Self::ShuttingDown | Self::TooManyConnections | Self::Magic421 => true,
            Self::Doubted(Doubt::TooEarly) => true,
            Self::Asked(Code(code)) | Self::Told(Code(code)) => code == 421,
            _ => false,
        }
    }

    /// The three-digit code.
    #[must_use]
    pub fn code(self) -> u16 {
        Reply::Refused(self).code()
    }
}

/// Writes the greeting of a connection that is refused before it gets a session. The driver
/// sends it and closes (RFC 5321 §3.1, §3.8).
pub fn refuse_connection(refusal: Refusal, out: &mut Outbox) {
    Reply::Refused(refusal).write(out);
}

/// What the session itself replies, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Refused(Refusal),
    Reset,
    Noop,
    Help,
    Closing,
    CannotVerify,
    NoExpansion,
    ExtensionsHere,
    AccessProof,
    AccessGranted,
    AccessDenied,
    StartData,
    SenderOk,
    RecipientOk,
    Queued,
    ChunkTaken,
    TimedOut,
    TooManyBadLines,
    TooManyMails,
    LineTooLong,
    LineSpoiled,
    UnknownCommand,
    NotImplemented,
    HelloEmpty,
    HelloSyntax,
    HelloFirst,
    MailFirst,
    MailAlready,
    RecipientFirst,
    DataAlready,
    ChunksBegun,
    BinaryNeedsChunks,
    NoArguments,
    ArgumentMissing,
    MailSyntax,
    RecipientSyntax,
    SenderInvalid,
    SenderTooLong,
    RecipientInvalid,
    RecipientTooLong,
    NeedsUtf8,
    TooManyRecipients,
    ParameterSyntax,
    ParameterUnknown,
    ParameterTwice,
    ValueUnsupported,
    ChunkSyntax,
    ChunkSizeUnknown,
    TooLarge,
    BareNewline,
    Secure(Secure),
}

/// What the session replies about TLS and sign-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Secure {
    TlsReady,
    TlsAlready,
    TlsInMail,
    TlsTooEarly,
    TlsFirst,
    TlsForMessage,
    TlsForAuth,
    SignedIn,
    AuthFirst,
    AuthAlready,
    AuthInMail,
    AuthSyntax,
    AuthUnknown,
    AuthMalformed,
    AuthCancelled,
    ResponseTooLong,
    TooManyFailures,
}

/// A single-line reply: code, enhanced code and text, and the seeds' tail.
macro_rules! line {
    ($text:literal) => {
        (concat!($text, " - fsmtp\r\n"), "")
    };
    ($before:literal, $after:literal) => {
        ($before, concat!($after, " - fsmtp\r\n"))
    };
}

impl Reply {
    /// The whole line, or what stands before and after the text that it echoes.
    #[rustfmt::skip]
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Refused(refusal) => refused_parts(refusal),
            Self::Reset => line!("250 2.0.0 OK, state reset"),
            Self::Noop => line!("250 2.0.0 OK"),
            Self::Help => line!("214 2.0.0 HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
            Self::Closing => line!("221 2.0.0 Closing connection"),
            // RFC 5321 §7.3: neither confirm nor deny.
            Self::CannotVerify => line!("252 2.0.0 Not verified, send a message and see"),
            Self::NoExpansion => line!("502 5.5.1 Lists are not expanded"),
            Self::ExtensionsHere => line!("601 6.1.1 FSMTP-V2 Extensions implemented, Proceed."),
            // More than the seeds said, in a line of its own: their clients read the code.
            Self::AccessProof => ("600-6.1.0 ", "\r\n"),
            Self::AccessGranted => line!("600 6.1.0 Access granted for ", ""),
            Self::AccessDenied => line!("651 6.5.1 Access denied, closing transmission channel."),
            Self::StartData => line!("354 End data with <CR><LF>.<CR><LF>"),
            Self::SenderOk => line!("250 2.1.0 OK, proceed [", "]"),
            Self::RecipientOk => line!("250 2.1.5 OK, proceed [", "]"),
            Self::Queued => line!("250 2.6.0 OK, message queued <", ">"),
            Self::ChunkTaken => line!("250 2.0.0 OK, ", " octets received"),
            Self::TimedOut => line!("421 4.4.2 Timed out, closing connection"),
            Self::TooManyBadLines => line!("421 4.7.0 Too many bad lines, closing connection"),
            Self::TooManyMails => line!("421 4.7.0 Too many messages, closing connection"),
            Self::LineTooLong => line!("500 5.5.2 Line too long"),
            Self::LineSpoiled => line!("500 5.5.2 NUL, bare CR or bare LF in the line"),
            Self::UnknownCommand => line!("500 5.5.2 Unknown command"),
            Self::NotImplemented => line!("502 5.5.1 Command not implemented"),
            Self::HelloEmpty => line!("501 5.5.2 Empty HELO command not allowed"),
            Self::HelloSyntax => line!("501 5.5.2 Not a domain or address literal"),
            Self::HelloFirst => line!("503 5.5.1 EHLO/HELO first."),
            Self::MailFirst => line!("503 5.5.1 MAIL FROM first."),
            Self::MailAlready => line!("503 5.5.1 MAIL FROM already sent"),
            Self::RecipientFirst => line!("503 5.5.1 RCPT TO first."),
            Self::DataAlready => line!("503 5.5.1 BDAT already begun, DATA cannot follow"),
            Self::ChunksBegun => line!("503 5.5.1 BDAT already begun"),
            Self::BinaryNeedsChunks => line!("503 5.5.1 BODY=BINARYMIME needs BDAT"),
            Self::NoArguments => line!("501 5.5.4 No arguments allowed"),
            Self::ArgumentMissing => line!("501 5.5.4 Argument missing"),
            Self::MailSyntax => line!("501 5.5.2 Syntax: MAIL FROM:<address> [parameters]"),
            Self::RecipientSyntax => line!("501 5.5.2 Syntax: RCPT TO:<address> [parameters]"),
            Self::SenderInvalid => line!("501 5.1.7 Invalid email address"),
            Self::SenderTooLong => line!("501 5.1.7 Email address too long"),
            Self::RecipientInvalid => line!("501 5.1.3 Invalid email address"),
            Self::RecipientTooLong => line!("501 5.1.3 Email address too long"),
            // RFC 6531 §3.5.
            Self::NeedsUtf8 => line!("553 5.6.7 This address needs SMTPUTF8"),
            // RFC 5321 §4.5.3.1.10.
            Self::TooManyRecipients => line!("452 4.5.3 Too many recipients"),
            Self::ParameterSyntax => line!("501 5.5.4 Malformed parameter"),
            Self::ParameterUnknown => line!("555 5.5.4 Unknown parameter"),
            Self::ParameterTwice => line!("501 5.5.4 Parameter given twice"),
            Self::ValueUnsupported => line!("504 5.5.4 Value of a parameter is not supported"),
            Self::ChunkSyntax => line!("501 5.5.4 Syntax: BDAT size [LAST]"),
            Self::ChunkSizeUnknown => line!("501 5.5.4 Syntax: BDAT size [LAST], closing"),
            Self::TooLarge => line!("552 5.3.4 Message too large"),
            Self::BareNewline => line!("550 5.6.11 Message refused, bare CR or LF in it"),
            Self::Secure(secure) => secure_parts(secure),
        }
    }

    /// Whether the connection is closed after it.
    pub(crate) const fn closes(self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.closes(),
            Self::Closing | Self::TimedOut | Self::TooManyBadLines | Self::TooManyMails => true,
            Self::AccessDenied => true,
            // Nobody knows where the chunk ends, and it must not be read as commands.
            Self::ChunkSizeUnknown => true,
            Self::Secure(Secure::TlsTooEarly | Secure::TooManyFailures) => true,
            _ => false,
        }
    }

    /// The three-digit code.
    pub(crate) fn code(self) -> u16 {
        if let Self::Refused(Refusal::Asked(Code(code)) | Refusal::Told(Code(code))) = self {
            return code;
        }
        let digits = self.parts().0.bytes().take(3);
        digits.fold(0, |code, digit| code * 10 + u16::from(digit.wrapping_sub(b'0')))
    }

    /// Writes the reply; one that echoes something does so with nothing in its place.
    pub(crate) fn write(self, out: &mut Outbox) {
        self.write_with(b"", out);
    }

    /// Writes the reply around `echo`, which is left out if it is long or holds controls.
    pub(crate) fn write_with(self, echo: &[u8], out: &mut Outbox) {
        let (before, after) = self.parts();
        let mut number = [0; DECIMAL_BYTES_MAX];
        let echo = match self {
            Self::Refused(
                Refusal::RateExceeded { minutes }
                | Refusal::Doubted(Doubt::Unknown { minutes } | Doubt::TooMuch { minutes }),
            ) => push_decimal(minutes.into(), &mut number),
            // Where no words were kept.
            Self::Refused(Refusal::Told(code)) if echo.is_empty() => match code.number() / 100 {
                4 => &b"4.7.1 Try again later"[..],
                _ => b"5.7.1 Refused",
            },
            _ => echo,
        };
        if let Self::Refused(Refusal::Told(Code(code))) = self {
            let written = write!(out, "{code}");
            debug_assert!(written.is_ok(), "turn has seen to the room");
        }
        if let Self::Refused(Refusal::Asked(Code(code))) = self {
            // RFC 2034 §4: the class of the enhanced code is that of the code.
            let written = write!(out, "{code} {}.0.0", code / 100);
            debug_assert!(written.is_ok(), "turn has seen to the room");
        }
        out.push(before.as_bytes());
        if !after.is_empty() {
            // The parsers let no control through; this is the second lock on the same door.
            let controls = echo.iter().fold(false, |found, b| found | b.is_ascii_control());
            let harmless = echo.len() <= ECHO_BYTES_MAX && !controls;
            debug_assert!(harmless, "what is echoed was parsed");
            out.push(if harmless { echo } else { b"" });
            out.push(after.as_bytes());
        }
    }
}

#[rustfmt::skip]
const fn refused_parts(refusal: Refusal) -> (&'static str, &'static str) {
    match refusal {
        Refusal::NoSuchUser => line!("550 5.1.1 User [", "] not local."),
        Refusal::RelayDenied => line!("550 5.7.1 Relay denied for [", "]"),
        Refusal::NotYourAddress => line!("553 5.7.1 Sender [", "] is not an address of yours"),
        Refusal::SignInFirst => line!("530 5.7.0 Authentication required for [", "]"),
        Refusal::NotYourFrom => line!("550 5.7.1 From names an address that is not yours"),
        Refusal::BadHeader => line!("550 5.6.0 The header has no single From, or cannot be read"),
        Refusal::BareNewline => line!("550 5.6.11 Message refused, bare CR or LF in its header"),
        Refusal::MailboxFull => line!("452 4.2.2 Mailbox of [", "] is full"),
        Refusal::DiskLow => line!("452 4.3.1 Disk space is low, try again later"),
        Refusal::Busy => line!("451 4.3.0 Busy, try again later"),
        Refusal::RateExceeded { .. } => line!("451 4.7.1 Enough for now, go on in ", " min"),
        Refusal::Storage => line!("451 4.3.0 Local error in storage, try again later"),
        Refusal::TooManyHops => line!("554 5.4.6 Too many hops, this looks like a loop"),
        Refusal::TooLarge => line!("552 5.3.4 Message too large"),
        Refusal::HeaderTooLarge => line!("552 5.3.4 The header of the message is too large"),
        Refusal::Doubted(doubt) => doubted_parts(doubt),
        Refusal::TooManyRecipients => line!("452 4.5.3 Too many recipients"),
        Refusal::ShuttingDown => line!("421 4.3.2 Service is shutting down, closing connection"),
        Refusal::TooManyConnections => line!("421 4.7.0 Too many connections, try again later"),
        Refusal::Credentials => line!("535 5.7.8 Authentication failed"),
        Refusal::SignInLater => line!("454 4.7.0 Temporary authentication failure"),
        Refusal::Magic550 => line!("550 5.1.1 Refused, as [", "] asks for"),
        Refusal::Magic452 => line!("452 4.2.2 Deferred, as [", "] asks for"),
        Refusal::Magic421 => line!("421 4.3.2 Closing connection, as [", "] asks for"),
        // Behind the codes, which are not known before.
        Refusal::Asked(_) => line!(" Refused, as asked for [", "]"),
        Refusal::Told(_) => line!(" ", ""),
    }
}

#[rustfmt::skip]
const fn doubted_parts(doubt: Doubt) -> (&'static str, &'static str) {
    match doubt {
        // RFC 7372 §3.2; the seeds' words.
        Doubt::Spf => line!("550 5.7.23 Server not authorized, rejecting message."),
        // RFC 7372 §3.1
        Doubt::Dkim => line!("550 5.7.20 No signature of the message is good"),
        // RFC 7372 §3.4
        Doubt::Dmarc => line!("550 5.7.26 SPF and DKIM do not prove the author (DMARC)"),
        // RFC 7372 §3.3
        Doubt::Iprev => line!("550 5.7.25 The name of your address does not lead back to it"),
        Doubt::Listed => line!("554 5.7.1 rejected; Blocked by lists of hosts"),
        Doubt::NoAnswer => line!("451 4.7.24 The sender cannot be verified for now, try again"),
        Doubt::Unknown { .. } => line!("451 4.7.1 Greylisted, try again in ", " min"),
        Doubt::TooMuch { .. } => line!("451 4.7.1 Too much for now, go on in ", " min"),
        Doubt::TooEarly => line!("554 5.5.1 You talked before your turn, closing connection"),
    }
}

#[rustfmt::skip]
const fn secure_parts(secure: Secure) -> (&'static str, &'static str) {
    match secure {
        // RFC 3207 §4.
        Secure::TlsReady => line!("220 2.0.0 Ready to start TLS"),
        Secure::TlsAlready => line!("503 5.5.1 Connection already secured"),
        Secure::TlsInMail => line!("503 5.5.1 No STARTTLS in a transaction"),
        // What stands behind STARTTLS came in clear, from whomever.
        Secure::TlsTooEarly => line!("554 5.5.1 Nothing may follow STARTTLS, closing"),
        Secure::TlsFirst => line!("530 5.7.0 STARTTLS first"),
        // RFC 8689 §4.2.1: the status of what TLS is demanded for and not had.
        Secure::TlsForMessage => line!("530 5.7.10 STARTTLS first, REQUIRETLS asks for it"),
        // RFC 4954 §6.
        Secure::TlsForAuth => line!("538 5.7.11 STARTTLS first, no passwords in clear"),
        Secure::SignedIn => line!("235 2.7.0 Authentication successful, welcome back."),
        Secure::AuthFirst => line!("530 5.7.0 Authentication required"),
        Secure::AuthAlready => line!("503 5.5.1 AUTH already done."),
        Secure::AuthInMail => line!("503 5.5.1 No AUTH in a transaction"),
        Secure::AuthSyntax => line!("501 5.5.4 Syntax: AUTH mechanism [initial-response]"),
        Secure::AuthUnknown => line!("504 5.5.4 Mechanism not offered"),
        Secure::AuthMalformed => line!("501 5.5.2 Not base64, or not what the mechanism says"),
        Secure::AuthCancelled => line!("501 5.7.0 Authentication cancelled"),
        Secure::ResponseTooLong => line!("500 5.5.6 Authentication exchange line too long"),
        Secure::TooManyFailures => line!("421 4.7.0 Too many failed sign-ins, closing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSALS: [Refusal; 31] = [
        Refusal::HeaderTooLarge,
        Refusal::Doubted(Doubt::Spf),
        Refusal::Doubted(Doubt::Dkim),
        Refusal::Doubted(Doubt::Dmarc),
        Refusal::Doubted(Doubt::Iprev),
        Refusal::Doubted(Doubt::Listed),
        Refusal::Doubted(Doubt::NoAnswer),
        Refusal::Doubted(Doubt::Unknown { minutes: 60 }),
        Refusal::Doubted(Doubt::TooMuch { minutes: 60 }),
        Refusal::RateExceeded { minutes: 60 },
        Refusal::SignInFirst,
        Refusal::NotYourFrom,
        Refusal::BadHeader,
        Refusal::BareNewline,
        Refusal::NoSuchUser,
        Refusal::RelayDenied,
        Refusal::NotYourAddress,
        Refusal::MailboxFull,
        Refusal::DiskLow,
        Refusal::Busy,
        Refusal::Storage,
        Refusal::TooManyHops,
        Refusal::TooLarge,
        Refusal::TooManyRecipients,
        Refusal::ShuttingDown,
        Refusal::TooManyConnections,
        Refusal::Credentials,
        Refusal::SignInLater,
        Refusal::Magic550,
        Refusal::Magic452,
        Refusal::Magic421,
    ];

    #[test]
    fn refusals_close_when_their_code_says_so_and_keep_their_class() {
        for refusal in REFUSALS {
            assert_eq!(refusal.closes(), refusal.code() == 421, "{refusal:?}");
            let (text, _) = refused_parts(refusal);
            // RFC 2034 §4: the class of the enhanced code is that of the code.
            assert_eq!(text.as_bytes()[0], text.as_bytes()[4], "{text}");
        }
    }

    #[test]
    fn no_reply_is_longer_than_a_line_may_be() {
        for refusal in REFUSALS {
            let mut out = Outbox::new(Vec::new());
            Reply::Refused(refusal).write_with(&[b'x'; ECHO_BYTES_MAX], &mut out);
            assert!(out.bytes().len() <= REPLY_LINE_BYTES_MAX);
            assert!(out.bytes().ends_with(b" - fsmtp\r\n"));
        }
        let asked = Refusal::Asked(Code::new(599).unwrap());
        let mut out = Outbox::new(Vec::new());
        Reply::Refused(asked).write_with(&[b'x'; ECHO_BYTES_MAX], &mut out);
        assert!(out.bytes().len() <= REPLY_LINE_BYTES_MAX);
        let mut out = Outbox::new(Vec::new());
        refuse_connection(Refusal::TooManyConnections, &mut out);
        assert_eq!(out.bytes(), b"421 4.7.0 Too many connections, try again later - fsmtp\r\n");
    }

    #[test]
    fn who_writes_too_much_hears_when_to_go_on() {
        let mut out = Outbox::new(Vec::new());
        let refusal = Refusal::RateExceeded { minutes: 12 };
        Reply::Refused(refusal).write_with(b"a@b.test", &mut out);
        let text = "451 4.7.1 Enough for now, go on in 12 min - fsmtp";
        assert_eq!(out.bytes(), format!("{text}\r\n").as_bytes());
        assert_eq!(refusal.code(), 451);
    }

    #[test]
    fn who_talks_too_early_is_let_go() {
        let refusal = Refusal::Doubted(Doubt::TooEarly);
        assert_eq!((refusal.code(), refusal.closes()), (554, true));
    }

    #[test]
    fn words_of_somebody_else_stand_behind_their_code() {
        for (code, words, line) in [
            (554, "5.7.0 Not here", "554 5.7.0 Not here - fsmtp\r\n"),
            (450, "", "450 4.7.1 Try again later - fsmtp\r\n"),
            (550, "", "550 5.7.1 Refused - fsmtp\r\n"),
        ] {
            let refusal = Refusal::Told(Code::new(code).unwrap());
            let mut out = Outbox::new(Vec::new());
            Reply::Refused(refusal).write_with(words.as_bytes(), &mut out);
            assert_eq!(out.bytes(), line.as_bytes());
            assert_eq!(refusal.code(), code);
        }
        assert!(Refusal::Told(Code::new(421).unwrap()).closes());
    }

    #[test]
    fn any_code_that_refuses_can_be_asked_for() {
        for number in [0, 250, 399, 600, u16::MAX] {
            assert_eq!(Code::new(number), None);
        }
        for number in 400..600 {
            let refusal = Refusal::Asked(Code::new(number).unwrap());
            assert_eq!((refusal.code(), refusal.closes()), (number, number == 421));
            let mut out = Outbox::new(Vec::new());
            Reply::Refused(refusal).write_with(b"a@b.test", &mut out);
            let class = number / 100;
            let text = format!("{number} {class}.0.0 Refused, as asked for [a@b.test] - fsmtp\r\n");
            assert_eq!(out.bytes(), text.as_bytes());
        }
    }
}
