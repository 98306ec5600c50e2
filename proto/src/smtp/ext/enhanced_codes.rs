//! ENHANCEDSTATUSCODES (RFC 2034): every reply but those to EHLO, HELO and the greeting carries a
//! code of RFC 3463; `smtp/reply.rs` has them. Announced in the EHLO reply.

use super::Extension;

pub(super) const ENHANCED_CODES: Extension =
    Extension::announced_by(|_, text| text.push_str("ENHANCEDSTATUSCODES"));
