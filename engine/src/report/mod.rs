//! Reports about delivery: what a sender is told of a message that failed, waits, or arrived.
//!
//! Called by delivery, which knows what happened, and asks [`due`] whether anybody wants to hear
//! it. A report is a `multipart/report` (RFC 3464, RFC 6522): a part for people, one for programs,
//! and the header of the message or all of it. It is sent with the null reverse path, by the
//! caller. Pure: time, message id and random bytes are given.
//!
//! Hostile are the remote hosts' words, the addresses and the message itself; what is shown of
//! them is bounded and cannot begin a header, a line or an element of its own. Limits:
//! [`RECIPIENTS_COUNT_MAX`] in a report, of which people are shown [`SHOWN_COUNT_MAX`];
//! [`LOG_LINES_COUNT_MAX`] lines of log in all; [`WORDS_BYTES_MAX`] for each text;
//! [`WHOLE_BYTES_MAX`] and [`HEADER_BYTES_MAX`] for what is returned. It fails only when the caller
//! is wrong ([`ReportError`]), never for what others said.

mod fields;
mod notice;
mod original;
mod words;

use core::fmt;

use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_rt::UnixTime;
use fsmtp_store::envelope::{Notify, Ret};

use crate::compose::{Composed, Fields, Part, Random, is_id};

pub use original::{HEADER_BYTES_MAX, Original, WHOLE_BYTES_MAX};
pub use words::WORDS_BYTES_MAX;

/// The most recipients of one report: as many as one transaction has. More go into the next one.
pub const RECIPIENTS_COUNT_MAX: usize = 1000;
/// The most recipients that the part for people names; the part for programs has all.
pub const SHOWN_COUNT_MAX: usize = 100;
/// The most lines of log in a report.
pub const LOG_LINES_COUNT_MAX: usize = 200;

/// What happened to the recipients of a report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// It is given up.
    Failed,
    /// It is tried again.
    Delayed,
    /// It lies in a mailbox.
    Delivered,
    /// It was passed to a host that sends no reports of this kind.
    Relayed,
}

impl Kind {
    /// RFC 3464 §2.3.3.
    pub(crate) const fn action(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            // As the original had it.
            Self::Failed => "SMTP Delivery failure",
            Self::Delayed => "SMTP Delivery delayed",
            Self::Delivered => "SMTP Delivery done",
            Self::Relayed => "SMTP Delivery passed on",
        }
    }
}

/// Whether a sender wants a report of this kind about a recipient, by what NOTIFY said.
#[must_use]
pub const fn wants(notify: Notify, kind: Kind) -> bool {
    let said = notify.never || notify.success || notify.failure || notify.delay;
    match kind {
        // RFC 3461 §4.1: without NOTIFY, failures are reported, and delays may be.
        Kind::Failed => notify.failure || !said,
        Kind::Delayed => notify.delay || !said,
        Kind::Delivered | Kind::Relayed => notify.success,
    }
}

/// Whether a report is to be sent at all. Never to the null reverse path: that is how reports
/// themselves are sent, so two hosts can never go on reporting to each other.
#[must_use]
pub const fn due(sender: &Path<'_>, notify: Notify, kind: Kind) -> bool {
    // RFC 5321 §4.5.5: nothing is answered that has a null reverse path.
    !matches!(sender, Path::Null) && wants(notify, kind)
}

/// A line of the log of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct LogLine<'a> {
    /// When it happened.
    pub at: UnixTime,
    /// What happened; may quote others.
    pub text: &'a str,
}

/// An enhanced status code (RFC 3463 §2): class, subject, detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u8, pub u16, pub u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// The address that was tried.
    pub address: &'a str,
    /// ORCPT as it was given, type and xtext.
    pub orcpt: Option<&'a [u8]>,
    /// How it ended, or stands: 5 for failed, 4 for delayed, 2 for the others.
    pub status: Status,
    /// The host that said it, by name or address.
    pub remote: Option<&'a str>,
    /// The reply of that host, code first, its lines joined by spaces.
    pub said: Option<&'a [u8]>,
    /// In our own words, one sentence; for what no host said.
    pub reason: Option<&'a str>,
    /// The last try.
    pub last_attempt: Option<UnixTime>,
    /// When it will be given up, if it is only delayed.
    pub retry_until: Option<UnixTime>,
    /// What was tried.
    pub log: &'a [LogLine<'a>],
}

/// All that a report says.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What happened, to all its recipients.
    pub kind: Kind,
    /// The name of this host.
    pub node: &'a str,
    /// The address of the people who look after it: whom the report is from.
    pub postmaster: &'a str,
    /// The reverse path of the message: whom the report goes to.
    pub sender: Path<'a>,
    /// When the message was taken.
    pub arrival: UnixTime,
    /// ENVID as it was given, in xtext.
    pub envelope_id: Option<&'a [u8]>,
    /// What the sender wants back.
    pub ret: Option<Ret>,
    /// Whether the message came by SMTPUTF8, so that a report can go back by it.
    pub utf8: bool,
    /// Whom it is about.
    pub recipients: &'a [Recipient<'a>],
    /// The message.
    pub original: Original<'a>,
    /// Now.
    pub date: UnixTime,
    /// The message id of the report, without angle brackets.
    pub message_id: &'a str,
}

/// How the caller was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportError {
    /// A report to the null reverse path: ask [`due`] first.
    NullSender,
    /// None, or more than [`RECIPIENTS_COUNT_MAX`].
    RecipientsCount,
    /// The address of the postmaster is none.
    Postmaster,
    /// The message id is none.
    MessageId,
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NullSender => "a report has nobody to go to: the sender is the null path",
            Self::RecipientsCount => "a report is about 1 to 1,000 recipients",
            Self::Postmaster => "the postmaster's address of a report is no address",
            Self::MessageId => "the message id of a report is none",
        })
    }
}

impl core::error::Error for ReportError {}

impl Report<'_> {
    /// Makes the message. It is sent with the null reverse path (RFC 3461 §6.1) and NOTIFY=NEVER
    /// where that is known.
    ///
    /// # Errors
    /// [`ReportError`] when the caller is wrong; nothing that others said makes it fail.
    pub fn compose(&self, random: &Random) -> Result<Composed, ReportError> {
        let to = self.check()?;
        // RFC 6533 §4.4: the international forms where SMTPUTF8 can carry them.
        let way_is_utf8 = self.utf8 || !to.is_ascii();
        let international = way_is_utf8 && fields::are_international(self);
        let status = fields::part(self, international);
        // RFC 3461 §4.3: RET speaks of failures only.
        let full = self.kind == Kind::Failed && self.ret == Some(Ret::Full);
        let original = self.original.part(full, way_is_utf8);
        // RFC 6522 §3: two or three parts, the one for people first.
        let body = Part::parts("report", vec![notice::part(self), status, original])
            .with_parameter("report-type", "delivery-status");
        let utf8 = !to.is_ascii() || body.is_international();
        let eight_bit = utf8 || body.is_eight_bit();
        let mut bytes = Vec::new();
        body.write(self.header(&to), random, &mut bytes);
        Ok(Composed { bytes, eight_bit, utf8 })
    }

    /// The address that the report goes to.
    fn check(&self) -> Result<String, ReportError> {
        let to = match self.sender {
            Path::Null => return Err(ReportError::NullSender),
            Path::Mailbox(mailbox) => mailbox.text().to_owned(),
            Path::Postmaster(name) => format!("{name}@{}", self.node),
        };
        if self.recipients.is_empty() || self.recipients.len() > RECIPIENTS_COUNT_MAX {
            return Err(ReportError::RecipientsCount);
        }
        if !is_id(self.message_id, false) {
            return Err(ReportError::MessageId);
        }
        match Mailbox::parse(self.postmaster) {
            Ok(_) => Ok(to),
            Err(_) => Err(ReportError::Postmaster),
        }
    }

    fn header(&self, to: &str) -> Fields {
        let mut fields = Fields::default();
        fields.push("Subject", self.kind.subject());
        fields.push("Date", &self.date.to_string());
        fields.push("MIME-Version", "1.0");
        fields.push("Message-ID", &format!("<{}>", self.message_id));
        if let Some(id) = self.original.message_id() {
            fields.push("In-Reply-To", &format!("<{id}>"));
            fields.push("References", &format!("<{id}>"));
        }
        // RFC 3834 §5: no program shall answer this.
        fields.push("Auto-Submitted", "auto-replied");
        fields.push_people("To", [(None, to)]);
        fields.push_people("From", [(Some("Delivery Subsystem"), self.postmaster)]);
        fields
    }
}

#[cfg(test)]
mod tests;
