//! REQUIRETLS (RFC 8689): a message that shall not go anywhere but under TLS with a proved host.
//!
//! Announced under TLS only. The parameter has no value; a session without TLS answers it with
//! 530 5.7.10. What it demands on the way on is the relay's to keep.

use super::{Extension, SenderParameter, Terms};
use crate::smtp::reply::Reply;
use crate::smtp::server::{Limits, Sender};

pub(super) const REQUIRE_TLS: Extension = Extension {
    sender: &[SenderParameter { keyword: "REQUIRETLS", apply }],
    ..Extension::announced_by(announce)
};

fn announce(terms: &Terms<'_>, text: &mut String) {
    // RFC 8689 §2: it says that the session is under TLS, so only there.
    text.push_str(if terms.under_tls { "REQUIRETLS" } else { "" });
}

fn apply(sender: &mut Sender<'_>, value: Option<&str>, _: &Limits) -> Result<(), Reply> {
    // RFC 8689 §2: no value.
    if value.is_some() {
        return Err(Reply::ParameterSyntax);
    }
    sender.require_tls = true;
    Ok(())
}
