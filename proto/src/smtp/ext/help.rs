//! HELP (RFC 5321 §2.2.2, §4.1.1.8): announced in the EHLO reply, for the verb exists.

use super::Extension;

pub(super) const HELP: Extension = Extension::announced_by(|_, text| text.push_str("HELP"));
