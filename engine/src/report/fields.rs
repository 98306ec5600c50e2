//! The part of a report for programs: message/delivery-status (RFC 3464 §2), or its international
//! form (RFC 6533 §4.1).
//!
//! Called by `report`. Fields hold what [`words`](super::words) has made fit, folded between words.

use std::borrow::Cow;

use fsmtp_proto::wire::token::{Xtext, is_keyword};

use super::words::{NAME_BYTES_MAX, WORDS_BYTES_MAX, foldable, in_ascii, shown, shown_in_ascii};
use super::{Kind, Recipient, Report};
use crate::compose::{Fields, Part, Transfer};

/// Whether an address in it is not US-ASCII.
pub(super) fn are_international(report: &Report<'_>) -> bool {
    report
        .recipients
        .iter()
        .any(|r| !r.address.is_ascii() || original_recipient(r).is_some_and(|(_, a)| !a.is_ascii()))
}

/// Writes the part; `international` if it may hold UTF-8.
pub(super) fn part<'a>(report: &Report<'_>, international: bool) -> Part<'a> {
    let mut out = Vec::new();
    out.extend_from_slice(of_message(report).as_bytes());
    for recipient in report.recipients {
        // RFC 3464 §2.1: an empty line between the groups.
        out.extend_from_slice(b"\r\n");
        let fields = of_recipient(report.kind, recipient, international);
        out.extend_from_slice(fields.as_bytes());
    }
    let (media_type, transfer) = if international && !out.is_ascii() {
        ("message/global-delivery-status", Transfer::EightBit)
    } else {
        ("message/delivery-status", Transfer::SevenBit)
    };
    Part::content(media_type, transfer, Cow::Owned(out))
}

/// RFC 3464 §2.2.
fn of_message(report: &Report<'_>) -> Fields {
    let mut fields = Fields::default();
    // RFC 3461 §6.3: decoded.
    let id = report.envelope_id.and_then(|id| Xtext::parse(id, false));
    if let Some(id) = id.map(|id| id.decode().collect::<Vec<u8>>()).filter(|id| !id.is_empty()) {
        fields.push("Original-Envelope-Id", &foldable(&shown_in_ascii(&id, NAME_BYTES_MAX)));
    }
    fields.push("Reporting-MTA", &format!("dns; {}", name(report.node)));
    fields.push("Arrival-Date", &report.arrival.to_string());
    fields
}

/// RFC 3464 §2.3.
fn of_recipient(kind: Kind, recipient: &Recipient<'_>, international: bool) -> Fields {
    let mut fields = Fields::default();
    // RFC 3461 §6.3: there only if the sender gave it.
    if let Some((kind, address)) = original_recipient(recipient) {
        let address = shown(address.as_bytes(), NAME_BYTES_MAX);
        let address = if international { Cow::Borrowed(&*address) } else { in_ascii(&address) };
        fields.push("Original-Recipient", &foldable(&format!("{kind}; {address}")));
    }
    fields.push("Final-Recipient", &final_recipient(recipient.address, international));
    fields.push("Action", kind.action());
    fields.push("Status", &recipient.status.to_string());
    if let Some(remote) = recipient.remote {
        fields.push("Remote-MTA", &format!("dns; {}", name(remote)));
    }
    if let Some(said) = recipient.said.filter(|s| !s.is_empty()) {
        let said = if international {
            shown(said, WORDS_BYTES_MAX)
        } else {
            shown_in_ascii(said, WORDS_BYTES_MAX)
        };
        fields.push("Diagnostic-Code", &foldable(&format!("smtp; {said}")));
    }
    if let Some(at) = recipient.last_attempt {
        fields.push("Last-Attempt-Date", &at.to_string());
    }
    // RFC 3464 §2.3.9: for delayed recipients only.
    if let Some(until) = recipient.retry_until.filter(|_| kind == Kind::Delayed) {
        fields.push("Will-Retry-Until", &until.to_string());
    }
    fields
}

/// RFC 3464 §2.3.2, with the type of RFC 6533 §3 for what is not US-ASCII.
fn final_recipient(address: &str, international: bool) -> String {
    let address = shown(address.as_bytes(), NAME_BYTES_MAX);
    match (address.is_ascii(), international) {
        (true, _) => foldable(&format!("rfc822; {address}")),
        (false, true) => foldable(&format!("utf-8; {address}")),
        (false, false) => foldable(&format!("utf-8; {}", in_ascii(&address))),
    }
}

/// The type and address of ORCPT, decoded; none when it was not given, or is not what it should be.
pub(super) fn original_recipient<'a>(recipient: &Recipient<'a>) -> Option<(&'a str, String)> {
    let (kind, address) = core::str::from_utf8(recipient.orcpt?).ok()?.split_once(';')?;
    let address = Xtext::parse(address.as_bytes(), kind.eq_ignore_ascii_case("utf-8"))?;
    let address = String::from_utf8(address.decode().collect()).ok()?;
    (is_keyword(kind.as_bytes()) && !address.is_empty()).then_some((kind, address))
}

/// A host as a field names it.
fn name(host: &str) -> String {
    foldable(&shown_in_ascii(host.as_bytes(), NAME_BYTES_MAX))
}
