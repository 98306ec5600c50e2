//! PIPELINING (RFC 2920): commands may be sent in groups. Announced in the EHLO reply; nothing else
//! is to do, because the session takes one command at a time from whatever has arrived and the
//! driver sends replies only when input runs out (RFC 2920 §3.2).

use super::Extension;

pub(super) const PIPELINING: Extension =
    Extension::announced_by(|_, text| text.push_str("PIPELINING"));
