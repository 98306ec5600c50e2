//! STARTTLS (RFC 3207): announced until TLS is there. The verb is in `smtp/server/starttls.rs`.

use super::Extension;

pub(super) const START_TLS: Extension = Extension::announced_by(|terms, text| {
    // RFC 3207 §4.2: not announced under TLS.
    text.push_str(if terms.start_tls { "STARTTLS" } else { "" });
});
