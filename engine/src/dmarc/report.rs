//! A report as a value: RFC 9990 §3.1, and what RFC 7489 appendix C had besides (`pct`).
//!
//! Made by `read` from what others sent, where every text is theirs, bounded but not checked; and
//! for our own reports, of which `write` makes XML. An absent text is empty.

use serde::{Deserialize, Serialize};

/// What one host saw of a domain's mail in some time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Who saw it.
    pub organisation: String,
    /// Where to ask him.
    pub email: String,
    /// Where else.
    pub contact: String,
    /// His name for the report.
    pub id: String,
    /// From when, in seconds since 1970.
    pub begin: u64,
    /// Until when.
    pub end: u64,
    /// What went wrong in making it.
    pub errors: Vec<String>,
    /// The program that made it.
    pub generator: String,
    /// What the domain has published.
    pub policy: Policy,
    /// What came.
    pub records: Vec<Record>,
}

/// What a domain has published.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// The domain of the record.
    pub domain: String,
    /// The policy.
    pub p: String,
    /// That for domains below.
    pub sp: String,
    /// That for domains below that do not exist.
    pub np: String,
    /// How near signatures must be: `r` or `s`.
    pub adkim: String,
    /// How near MAIL FROM must be.
    pub aspf: String,
    /// For how many of 100 messages.
    pub pct: String,
    /// Which failures are to be reported.
    pub fo: String,
    /// `y` while the domain tries it out.
    pub testing: String,
    /// How the record was found: `treewalk` or `psl`.
    pub discovery: String,
}

/// Messages of which the same can be said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The address of the host that sent them.
    pub source: String,
    /// How many.
    pub count: u64,
    /// What became of them: `none`, `pass`, `quarantine`, `reject`.
    pub disposition: String,
    /// Whether a signature spoke for the author's domain: `pass` or `fail`.
    pub dkim: String,
    /// Whether SPF did.
    pub spf: String,
    /// Why something else became of them than the domain wants.
    pub reasons: Vec<Reason>,
    /// The author's domain.
    pub header_from: String,
    /// The domain in MAIL.
    pub envelope_from: String,
    /// The domain in RCPT.
    pub envelope_to: String,
    /// What their signatures were worth.
    pub signatures: Vec<Signature>,
    /// What SPF said.
    pub senders: Vec<Sender>,
}

/// Why something else became of mail than its domain wants.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Reason {
    /// `local_policy`, `mailing_list`, ...
    pub kind: String,
    /// In words.
    pub comment: String,
}

/// What a signature was worth.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Signature {
    /// Who signed.
    pub domain: String,
    /// With which key.
    pub selector: String,
    /// `pass`, `fail`, ...
    pub result: String,
    /// In words.
    pub why: String,
}

/// What SPF said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Sender {
    /// Of which domain.
    pub domain: String,
    /// From where that was: `mfrom` or `helo`.
    pub scope: String,
    /// `pass`, `fail`, ...
    pub result: String,
    /// In words.
    pub why: String,
}
