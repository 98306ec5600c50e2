//! AUTH (RFC 4954): the mechanisms that work now, and the AUTH parameter of MAIL, which names who
//! first submitted the message. The verb is in `smtp/server/auth.rs`.
//!
//! The parameter is checked and handed to the desk, which may believe it or not.

use core::fmt::Write as _;

use super::{Extension, SenderParameter, Terms};
use crate::smtp::address::Mailbox;
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Sender};
use crate::wire::token::Xtext;

/// RFC 4954 §5: the most characters of the value.
const SUBMITTER_BYTES_MAX: usize = 500;

/// Who first submitted the message, as MAIL says (RFC 4954 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitter<'b> {
    /// `AUTH=<>`: not known, or not to be believed.
    Unknown,
    /// The mailbox, in xtext.
    Mailbox(Xtext<'b>),
}

pub(super) const AUTH: Extension = Extension {
    sender: &[SenderParameter { keyword: "AUTH", apply }],
    ..Extension::announced_by(announce)
};

fn announce(terms: &Terms<'_>, text: &mut String) {
    // RFC 4954 §3: not at all rather than without a mechanism.
    if !terms.mechanisms.is_empty() {
        let written = write!(text, "AUTH {}", terms.mechanisms);
        debug_assert!(written.is_ok(), "a string takes what is written to it");
    }
}

fn apply<'b>(sender: &mut Sender<'b>, value: Option<&'b str>, _: &Limits) -> Result<(), Reply> {
    sender.submitter = Some(match value {
        Some("<>") => Submitter::Unknown,
        Some(value) => Submitter::Mailbox(mailbox(value).ok_or(Reply::ParameterSyntax)?),
        None => return Err(Reply::ParameterSyntax),
    });
    Ok(())
}

fn mailbox(value: &str) -> Option<Xtext<'_>> {
    let xtext = Xtext::parse(value.as_bytes(), false)?;
    let address = String::from_utf8(xtext.decode().collect()).ok()?;
    let valid = value.len() <= SUBMITTER_BYTES_MAX && Mailbox::parse(&address).is_ok();
    valid.then_some(xtext)
}
