//! SMTPUTF8 (RFC 6531): addresses in UTF-8, allowed where MAIL said so.
//!
//! The parameter has no value. An address that needs it and a transaction that has it not are
//! matched by the session, which answers 553 5.6.7 (RFC 6531 §3.5).

use super::{Extension, SenderParameter};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Sender};

pub(super) const UTF8: Extension = Extension {
    sender: &[SenderParameter { keyword: "SMTPUTF8", apply }],
    ..Extension::announced_by(|_, text| text.push_str("SMTPUTF8"))
};

fn apply(sender: &mut Sender<'_>, value: Option<&str>, _: &Limits) -> Result<(), Reply> {
    // RFC 6531 §3.4: no value; "=..." is a syntax error.
    if value.is_some() {
        return Err(Reply::ParameterSyntax);
    }
    sender.utf8 = true;
    Ok(())
}
