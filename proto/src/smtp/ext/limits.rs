//! LIMITS (RFC 9422 §4): announces how many recipients a message may have, and how many messages a
//! connection may bring where that is limited. The session enforces both.

use super::{Extension, Terms};

pub(super) const LIMITS: Extension = Extension::announced_by(announce);

fn announce(terms: &Terms<'_>, text: &mut String) {
    let limits = terms.limits;
    text.push_str("LIMITS");
    if limits.mails_max != 0 {
        text.push_str(" MAILMAX=");
        text.push_str(&limits.mails_max.to_string());
    }
    text.push_str(" RCPTMAX=");
    text.push_str(&limits.recipients_max.to_string());
}
