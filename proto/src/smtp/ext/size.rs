//! SIZE (RFC 1870): the limit is announced, a declared size over it is refused at MAIL.
//!
//! The real size is counted by the session, whatever was declared.

use super::{Extension, SenderParameter, Terms};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Sender};
use crate::wire::token::{self, NumberError};

pub(super) const SIZE: Extension = Extension {
    sender: &[SenderParameter { keyword: "SIZE", apply }],
    ..Extension::announced_by(announce)
};

fn announce(terms: &Terms<'_>, text: &mut String) {
    text.push_str("SIZE ");
    text.push_str(&terms.limits.message_bytes_max.to_string());
}

fn apply(sender: &mut Sender<'_>, value: Option<&str>, limits: &Limits) -> Result<(), Reply> {
    let value = value.ok_or(Reply::ParameterSyntax)?;
    // RFC 1870 §6.1: more than we take is refused now, not after the transfer.
    let size = match token::decimal(value.as_bytes()) {
        Ok(size) => size,
        Err(NumberError::TooLarge) => u64::MAX,
        Err(NumberError::Syntax) => return Err(Reply::ParameterSyntax),
    };
    if size > limits.message_bytes() {
        return Err(Reply::TooLarge);
    }
    sender.size = Some(size);
    Ok(())
}
