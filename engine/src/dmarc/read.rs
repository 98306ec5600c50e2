//! A report from XML, as many programs write it: with and without a namespace, with elements that
//! nobody knows, in any order.
//!
//! Called with what `unpack` found. Limits: [`RECORDS_MAX`] records, [`PARTS_MAX`] of a kind in
//! one, [`TEXT_BYTES_MAX`] for each text, [`DEPTH_MAX`] elements in each other. There are no
//! entities but those of XML itself, and no document types. What breaks a rule is [`BadReport`].

use core::fmt;

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use super::report::{Reason, Record, Report, Sender, Signature};

/// Records of a report; arbitrary.
pub const RECORDS_MAX: usize = 100_000;
/// Signatures, senders and reasons of a record, and errors of a report; arbitrary.
pub const PARTS_MAX: usize = 100;
/// The longest text of an element; arbitrary. What is beyond is cut off.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Elements in each other; half of it is needed.
pub const DEPTH_MAX: usize = 16;

/// Why something is no report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadReport {
    /// It is no XML.
    Xml(String),
    /// It is another document.
    Document,
    /// It has a document type, which could make it as large as it likes.
    DocumentType,
    /// Its elements stand too deep in each other.
    Depth,
    /// It has too many records.
    Records,
}

impl fmt::Display for BadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xml(why) => write!(f, "it is no XML: {why}"),
            Self::Document => f.write_str("it is XML, but no report of DMARC"),
            Self::DocumentType => f.write_str("it has a document type, which no report needs"),
            Self::Depth => f.write_str("its elements stand too deep in each other"),
            Self::Records => write!(f, "it has over {RECORDS_MAX} records"),
        }
    }
}

impl core::error::Error for BadReport {}

/// Reads a document.
///
/// # Errors
/// Why it is no report.
pub fn report(xml: &[u8]) -> Result<Report, BadReport> {
    let text = String::from_utf8_lossy(xml);
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut reading = Reading::default();
    loop {
        let event = reader.read_event().map_err(|why| BadReport::Xml(why.to_string()))?;
        match event {
            Event::Start(tag) => reading.open(tag.local_name().as_ref())?,
            Event::End(_) => reading.close(),
            Event::Empty(tag) => {
                reading.open(tag.local_name().as_ref())?;
                reading.close();
            }
            Event::Text(text) => reading.text(&text.xml10_content()),
            Event::CData(text) => reading.text(&text.xml10_content()),
            Event::GeneralRef(name) => {
                let char =
                    name.resolve_char_ref().map_err(|why| BadReport::Xml(why.to_string()))?;
                match (char, resolve_xml_entity(&name)) {
                    (Some(char), _) => reading.text(char.encode_utf8(&mut [0; 4])),
                    (None, Some(text)) => reading.text(text),
                    (None, None) => return Err(BadReport::Xml("it has entities".to_owned())),
                }
            }
            Event::DocType(_) => return Err(BadReport::DocumentType),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    if !reading.path.is_empty() {
        return Err(BadReport::Xml("it ends too soon".to_owned()));
    }
    if reading.is_report { Ok(reading.report) } else { Err(BadReport::Document) }
}

/// Where in a document we are.
#[derive(Default)]
struct Reading {
    report: Report,
    /// The names of the elements that are open.
    path: Vec<String>,
    /// The text of the innermost.
    text: String,
    is_report: bool,
}

impl Reading {
    fn open(&mut self, name: &str) -> Result<(), BadReport> {
        if self.path.is_empty() {
            if name != "feedback" {
                return Err(BadReport::Document);
            }
            self.is_report = true;
        }
        if self.path.len() >= DEPTH_MAX {
            return Err(BadReport::Depth);
        }
        // Names that are longer than any of ours are none of ours.
        self.path.push(name.chars().take(32).collect());
        self.text.clear();
        let path: Vec<&str> = self.path.iter().skip(1).map(String::as_str).collect();
        if path == ["record"] {
            if self.report.records.len() >= RECORDS_MAX {
                return Err(BadReport::Records);
            }
            self.report.records.push(Record::default());
        }
        let Some(record) = self.report.records.last_mut() else { return Ok(()) };
        match path[..] {
            ["record", "row", "policy_evaluated", "reason"] => another(&mut record.reasons),
            ["record", "auth_results", "dkim"] => another(&mut record.signatures),
            ["record", "auth_results", "spf"] => another(&mut record.senders),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let left = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        self.text.push_str(text.get(..text.floor_char_boundary(left)).unwrap_or_default());
    }

    fn close(&mut self) {
        let text = core::mem::take(&mut self.text);
        self.keep(text.trim());
        self.path.pop();
    }

    /// Puts the text of the element that ends where it belongs.
    fn keep(&mut self, text: &str) {
        let path: Vec<&str> = self.path.iter().skip(1).map(String::as_str).collect();
        let report = &mut self.report;
        let policy = &mut report.policy;
        let place = match path[..] {
            ["report_metadata", "org_name"] => &mut report.organisation,
            ["report_metadata", "email"] => &mut report.email,
            ["report_metadata", "extra_contact_info"] => &mut report.contact,
            ["report_metadata", "report_id"] => &mut report.id,
            ["report_metadata", "generator"] => &mut report.generator,
            ["report_metadata", "date_range", "begin"] => return report.begin = number(text),
            ["report_metadata", "date_range", "end"] => return report.end = number(text),
            ["report_metadata", "error"] if report.errors.len() < PARTS_MAX => {
                return report.errors.push(text.to_owned());
            }
            ["policy_published", "domain"] => &mut policy.domain,
            ["policy_published", "p"] => &mut policy.p,
            ["policy_published", "sp"] => &mut policy.sp,
            ["policy_published", "np"] => &mut policy.np,
            ["policy_published", "adkim"] => &mut policy.adkim,
            ["policy_published", "aspf"] => &mut policy.aspf,
            ["policy_published", "pct"] => &mut policy.pct,
            ["policy_published", "fo"] => &mut policy.fo,
            ["policy_published", "testing"] => &mut policy.testing,
            ["policy_published", "discovery_method"] => &mut policy.discovery,
            ["record", ..] => {
                let Some(record) = report.records.last_mut() else { return };
                let below = path.get(1..).unwrap_or_default();
                return keep_in_record(record, below, text);
            }
            _ => return,
        };
        text.clone_into(place);
    }
}

fn keep_in_record(record: &mut Record, path: &[&str], text: &str) {
    let place = match path {
        ["row", "source_ip"] => Some(&mut record.source),
        ["row", "count"] => return record.count = number(text),
        ["row", "policy_evaluated", "disposition"] => Some(&mut record.disposition),
        ["row", "policy_evaluated", "dkim"] => Some(&mut record.dkim),
        ["row", "policy_evaluated", "spf"] => Some(&mut record.spf),
        ["row", "policy_evaluated", "reason", name] => {
            record.reasons.last_mut().and_then(|Reason { kind, comment }| match *name {
                "type" => Some(kind),
                "comment" => Some(comment),
                _ => None,
            })
        }
        // The draft had another name for them.
        ["identifiers" | "identities", "header_from"] => Some(&mut record.header_from),
        ["identifiers" | "identities", "envelope_from"] => Some(&mut record.envelope_from),
        ["identifiers" | "identities", "envelope_to"] => Some(&mut record.envelope_to),
        ["auth_results", "dkim", name] => {
            let last = record.signatures.last_mut();
            last.and_then(|Signature { domain, selector, result, why }| match *name {
                "domain" => Some(domain),
                "selector" => Some(selector),
                "result" => Some(result),
                "human_result" => Some(why),
                _ => None,
            })
        }
        ["auth_results", "spf", name] => record.senders.last_mut().and_then(
            |Sender { domain, scope, result, why }| match *name {
                "domain" => Some(domain),
                "scope" => Some(scope),
                "result" => Some(result),
                "human_result" => Some(why),
                _ => None,
            },
        ),
        _ => None,
    };
    if let Some(place) = place {
        text.clone_into(place);
    }
}

/// Begins a part; beyond the limit the last one is written over.
fn another<T: Default>(parts: &mut Vec<T>) {
    if parts.len() >= PARTS_MAX {
        parts.pop();
    }
    parts.push(T::default());
}

/// 0 where there is none.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}
