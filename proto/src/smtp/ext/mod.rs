//! The ESMTP extensions: what EHLO announces, and the parameters that they add to MAIL and RCPT.
//!
//! A new extension is one file here and one row in `EXTENSIONS`; a verb that it adds is a row in
//! `smtp/verb.rs`. The session calls `announce` once for its settings, and `sender_parameters`
//! and `recipient_parameters` for each MAIL and RCPT. A parameter is refused by a reply: 501 for
//! its form, 504 for its value, 555 for its name (RFC 5321 §4.1.1.11).

mod auth;
mod chunking;
mod dsn;
mod eight_bit;
mod enhanced_codes;
mod help;
mod limits;
mod pipelining;
mod require_tls;
mod size;
mod starttls;
pub mod su;
mod utf8;

pub use auth::Submitter;
pub(crate) use chunking::parse_chunk_header;
pub use dsn::{Notify, OriginalRecipient, Return};
pub use eight_bit::BodyType;

use super::reply::Reply;
use super::server::{Limits, Recipient, Sender};
use crate::sasl::Mechanisms;
use crate::wire::token;

/// What an EHLO reply depends on.
pub(crate) struct Terms<'a> {
    pub(crate) limits: &'a Limits,
    /// The client may start TLS now.
    pub(crate) start_tls: bool,
    /// It has done so.
    pub(crate) under_tls: bool,
    /// How it may sign in now.
    pub(crate) mechanisms: Mechanisms,
}

/// One row of the table.
pub(crate) struct Extension {
    /// Appends the keyword and its arguments, or nothing when it is not there.
    announce: fn(&Terms<'_>, &mut String),
    sender: &'static [SenderParameter],
    recipient: &'static [RecipientParameter],
}

/// A parameter of MAIL.
pub(crate) struct SenderParameter {
    keyword: &'static str,
    apply: for<'b> fn(&mut Sender<'b>, Option<&'b str>, &Limits) -> Result<(), Reply>,
}

/// A parameter of RCPT; the flag says whether the transaction has SMTPUTF8.
pub(crate) struct RecipientParameter {
    keyword: &'static str,
    apply: for<'b> fn(&mut Recipient<'b>, Option<&'b str>, bool) -> Result<(), Reply>,
}

impl Extension {
    /// A row that announces and adds no parameter; the others start from it.
    const fn announced_by(announce: fn(&Terms<'_>, &mut String)) -> Self {
        Self { announce, sender: &[], recipient: &[] }
    }
}

/// All of them, in the order in which EHLO names them.
pub(crate) static EXTENSIONS: [Extension; 13] = [
    auth::AUTH,
    starttls::START_TLS,
    require_tls::REQUIRE_TLS,
    pipelining::PIPELINING,
    eight_bit::EIGHT_BIT,
    utf8::UTF8,
    size::SIZE,
    chunking::CHUNKING,
    chunking::BINARY,
    dsn::DSN,
    limits::LIMITS,
    enhanced_codes::ENHANCED_CODES,
    help::HELP,
];

/// The lines of an EHLO reply after the first, each with its CRLF.
pub(crate) fn announce(terms: &Terms<'_>) -> String {
    let mut text = String::new();
    for (i, extension) in EXTENSIONS.iter().enumerate() {
        let before = text.len();
        // RFC 5321 §4.2.1: a hyphen on all lines but the last, which is always there.
        text.push_str(if i + 1 < EXTENSIONS.len() { "250-" } else { "250 " });
        let named = text.len();
        (extension.announce)(terms, &mut text);
        if text.len() > named {
            text.push_str("\r\n");
        } else {
            text.truncate(before);
        }
    }
    text
}

/// Applies the parameters of a MAIL command.
pub(crate) fn sender_parameters<'b>(
    sender: &mut Sender<'b>,
    text: &'b str,
    limits: &Limits,
) -> Result<(), Reply> {
    let mut seen = 0u32;
    for parameter in parameters(text) {
        let (keyword, value) = parse(parameter, false)?;
        let mut rows = EXTENSIONS.iter().flat_map(|e| e.sender).enumerate();
        let (i, row) = rows
            .find(|(_, row)| row.keyword.eq_ignore_ascii_case(keyword))
            .ok_or(Reply::ParameterUnknown)?;
        once(&mut seen, i)?;
        (row.apply)(sender, value, limits)?;
    }
    Ok(())
}

/// Applies the parameters of a RCPT command.
pub(crate) fn recipient_parameters<'b>(
    recipient: &mut Recipient<'b>,
    text: &'b str,
    utf8: bool,
) -> Result<(), Reply> {
    let mut seen = 0u32;
    for parameter in parameters(text) {
        let (keyword, value) = parse(parameter, utf8)?;
        let mut rows = EXTENSIONS.iter().flat_map(|e| e.recipient).enumerate();
        let (i, row) = rows
            .find(|(_, row)| row.keyword.eq_ignore_ascii_case(keyword))
            .ok_or(Reply::ParameterUnknown)?;
        once(&mut seen, i)?;
        (row.apply)(recipient, value, utf8)?;
    }
    Ok(())
}

fn parameters(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|parameter| !parameter.is_empty())
}

/// RFC 5321 §4.1.2, esmtp-param; RFC 6531 §3.3 adds UTF-8 to the value.
fn parse(parameter: &str, utf8: bool) -> Result<(&str, Option<&str>), Reply> {
    let (keyword, value) = match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    };
    let allowed = |b: u8| matches!(b, b'!'..=b'<' | b'>'..=b'~') || (utf8 && !b.is_ascii());
    let value_is_valid = value.is_none_or(|v| !v.is_empty() && v.bytes().all(allowed));
    if token::is_keyword(keyword.as_bytes()) && value_is_valid {
        Ok((keyword, value))
    } else {
        Err(Reply::ParameterSyntax)
    }
}

/// A parameter may stand once (RFC 5321 §4.1.1.11 leaves no meaning for a second one).
fn once(seen: &mut u32, index: usize) -> Result<(), Reply> {
    let bit = 1u32.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
    if *seen & bit != 0 {
        return Err(Reply::ParameterTwice);
    }
    *seen |= bit;
    Ok(())
}
