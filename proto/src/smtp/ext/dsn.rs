//! DSN (RFC 3461): RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT, checked and handed to the desk,
//! which keeps them with the message. With SMTPUTF8, ORCPT may be of type `utf-8` (RFC 6533 §3).

use super::{Extension, RecipientParameter, SenderParameter};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Recipient, Sender};
use crate::wire::token::{Xtext, is_keyword};

/// RFC 3461 §4.4: the most characters of ENVID, as sent.
const ENVELOPE_ID_BYTES_MAX: usize = 100;
/// RFC 3461 §4.2: the most characters of ORCPT, as sent.
const ORIGINAL_RECIPIENT_BYTES_MAX: usize = 500;

/// How much of the message a failure report should return (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Return {
    /// `RET=FULL`
    Full,
    /// `RET=HDRS`
    Headers,
}

/// When the sender wants a report about a recipient (RFC 3461 §4.1). All false is `NEVER`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Notify {
    /// When it was delivered.
    pub success: bool,
    /// When it could not be delivered.
    pub failure: bool,
    /// When it takes long.
    pub delay: bool,
}

/// The recipient that the message was first meant for (RFC 3461 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OriginalRecipient<'b> {
    /// `rfc822`, `utf-8` or another type of address.
    pub kind: &'b str,
    /// The address in xtext.
    pub address: Xtext<'b>,
}

pub(super) const DSN: Extension = Extension {
    sender: &[
        SenderParameter { keyword: "RET", apply: apply_return },
        SenderParameter { keyword: "ENVID", apply: apply_envelope_id },
    ],
    recipient: &[
        RecipientParameter { keyword: "NOTIFY", apply: apply_notify },
        RecipientParameter { keyword: "ORCPT", apply: apply_original_recipient },
    ],
    ..Extension::announced_by(|_, text| text.push_str("DSN"))
};

fn apply_return(sender: &mut Sender<'_>, value: Option<&str>, _: &Limits) -> Result<(), Reply> {
    sender.ret = Some(match value {
        Some(v) if v.eq_ignore_ascii_case("FULL") => Return::Full,
        Some(v) if v.eq_ignore_ascii_case("HDRS") => Return::Headers,
        // RFC 3461 §4.3: 501 for a value that is neither.
        _ => return Err(Reply::ParameterSyntax),
    });
    Ok(())
}

fn apply_envelope_id<'b>(
    sender: &mut Sender<'b>,
    value: Option<&'b str>,
    _: &Limits,
) -> Result<(), Reply> {
    let value = value.filter(|v| v.len() <= ENVELOPE_ID_BYTES_MAX);
    let id = value.and_then(|v| Xtext::parse(v.as_bytes(), false));
    sender.envelope_id = Some(id.ok_or(Reply::ParameterSyntax)?);
    Ok(())
}

fn apply_notify(r: &mut Recipient<'_>, value: Option<&str>, _: bool) -> Result<(), Reply> {
    let value = value.ok_or(Reply::ParameterSyntax)?;
    let mut notify = Notify::default();
    // RFC 3461 §4.1: NEVER stands alone.
    if !value.eq_ignore_ascii_case("NEVER") {
        for word in value.split(',') {
            let flag = match word {
                w if w.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
                w if w.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
                w if w.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
                _ => return Err(Reply::ParameterSyntax),
            };
            *flag = true;
        }
    }
    r.notify = Some(notify);
    Ok(())
}

fn apply_original_recipient<'b>(
    recipient: &mut Recipient<'b>,
    value: Option<&'b str>,
    utf8: bool,
) -> Result<(), Reply> {
    let value = value.filter(|v| v.len() <= ORIGINAL_RECIPIENT_BYTES_MAX);
    let (kind, address) = value.and_then(|v| v.split_once(';')).ok_or(Reply::ParameterSyntax)?;
    let utf8 = utf8 && kind.eq_ignore_ascii_case("utf-8");
    let address = Xtext::parse(address.as_bytes(), utf8).filter(|a| !a.encoded().is_empty());
    if !is_keyword(kind.as_bytes()) {
        return Err(Reply::ParameterSyntax);
    }
    let address = address.ok_or(Reply::ParameterSyntax)?;
    recipient.original = Some(OriginalRecipient { kind, address });
    Ok(())
}
