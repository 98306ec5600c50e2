//! What a session knows of a message, as a row of a report: RFC 9990 §3.1.1.
//!
//! Made once for each message that was judged. Of people nothing goes into a report: domains and
//! the address of the host only.

use core::net::IpAddr;

use fsmtp_proto::dkim::verify::{Judged, Verdict as Dkim};
use fsmtp_proto::dmarc::from::canonical;
use fsmtp_proto::dmarc::record::Record as Published;
use fsmtp_proto::dmarc::{self, Mechanism, Outcome};
use fsmtp_proto::spf;
use fsmtp_rt::UnixTime;

use super::report::{Policy, Reason, Record, Sender, Signature};

/// Signatures of one message that are told of; arbitrary, most have one or two.
pub const SIGNATURES_MAX: usize = 4;

/// A message that was judged.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'s> {
    /// When it came.
    pub at: UnixTime,
    /// The address of the host that sent it.
    pub source: IpAddr,
    /// What DMARC says.
    pub outcome: &'s Outcome,
    /// What SPF says.
    pub spf: Option<&'s spf::Outcome>,
    /// What its signatures are worth.
    pub dkim: &'s [Judged],
    /// The address in MAIL, without brackets; empty for the null path.
    pub sender: &'s str,
    /// What became of it.
    pub done: dmarc::Policy,
    /// Why that is something else than the domain wants, in words; where it is.
    pub why: Option<&'s str>,
}

/// A row, and where it belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// When the message came.
    pub at: UnixTime,
    /// What its domain has published.
    pub policy: Policy,
    /// The message; counted as one.
    pub record: Record,
}

impl Row {
    /// The row of a message; none when its domain wants no reports, or there is no verdict that
    /// could be reported.
    #[must_use]
    pub fn of(seen: &Seen<'_>) -> Option<Self> {
        let outcome = seen.outcome;
        // RFC 9989 §4.7, rua=: who does not ask gets none.
        let published = outcome.published.as_ref().filter(|one| !one.record.aggregate.is_empty());
        let published = published?;
        let passed = match outcome.verdict {
            dmarc::Verdict::Pass => true,
            dmarc::Verdict::Fail => false,
            _ => return None,
        };
        let disposition = match (passed, seen.done) {
            (true, dmarc::Policy::None) => "pass",
            (_, done) => done.name(),
        };
        let aligned = |mechanism| if outcome.is_aligned(mechanism) { "pass" } else { "fail" };
        let sender = seen.sender.rsplit_once('@').map_or("", |(_, domain)| domain);
        let record = Record {
            source: seen.source.to_canonical().to_string(),
            count: 1,
            disposition: disposition.to_owned(),
            dkim: aligned(Mechanism::Dkim).to_owned(),
            spf: aligned(Mechanism::Spf).to_owned(),
            reasons: reasons(seen, published).into_iter().collect(),
            header_from: outcome.author.clone(),
            envelope_from: canonical(sender).unwrap_or_default(),
            envelope_to: String::new(),
            signatures: signatures(seen.dkim),
            senders: seen.spf.map(of_spf).into_iter().collect(),
        };
        Some(Self { at: seen.at, policy: policy(&published.domain, &published.record), record })
    }
}

fn policy(domain: &str, record: &Published) -> Policy {
    let name = |policy: Option<dmarc::Policy>| policy.map_or("", dmarc::Policy::name).to_owned();
    Policy {
        domain: domain.to_owned(),
        p: record.policy.name().to_owned(),
        sp: name(record.below),
        np: name(record.missing),
        adkim: record.dkim.letter().to_owned(),
        aspf: record.spf.letter().to_owned(),
        pct: if record.percent < 100 { record.percent.to_string() } else { String::new() },
        fo: record.failures.clone(),
        testing: if record.testing { "y" } else { "n" }.to_owned(),
        discovery: "treewalk".to_owned(),
    }
}

/// Why something else became of it than is published: RFC 9990 §3.1.1.9, §3.1.6.
fn reasons(seen: &Seen<'_>, published: &dmarc::Published) -> Option<Reason> {
    let outcome = seen.outcome;
    if outcome.verdict != dmarc::Verdict::Fail {
        return None;
    }
    let reason = |kind: &str, comment: &str| {
        Some(Reason { kind: kind.to_owned(), comment: comment.to_owned() })
    };
    if seen.done != outcome.disposition {
        return reason("local_policy", seen.why.unwrap_or_default());
    }
    match (seen.done != published.policy, published.record.testing) {
        (false, _) => None,
        (true, true) => reason("policy_test_mode", ""),
        (true, false) => reason("other", "not among those that pct= is for"),
    }
}

/// Those that pass first: RFC 9990 §3.1.3. Strangers write them: only what can be a name.
fn signatures(all: &[Judged]) -> Vec<Signature> {
    let one = |judged: &Judged| {
        Some(Signature {
            domain: canonical(&judged.domain)?,
            selector: canonical(&judged.selector)?,
            result: judged.verdict.name().to_owned(),
            why: String::new(),
        })
    };
    let mut sorted: Vec<&Judged> = all.iter().collect();
    sorted.sort_by_key(|judged| judged.verdict != Dkim::Pass);
    sorted.into_iter().filter_map(one).take(SIGNATURES_MAX).collect()
}

fn of_spf(outcome: &spf::Outcome) -> Sender {
    Sender {
        domain: canonical(&outcome.domain).unwrap_or_default(),
        scope: "mfrom".to_owned(),
        result: outcome.verdict.name().to_owned(),
        why: String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fsmtp_proto::dmarc::{Identifier, Published, Tag, Verdict};

    /// How a message of `news.d.example` was judged, for a record of `d.example`.
    pub(in super::super) fn outcome(record: &str, verdict: Verdict) -> Outcome {
        let record = dmarc::Record::parse(record.as_bytes()).unwrap();
        let policy = record.policy;
        let failed = verdict == Verdict::Fail;
        let disposition = if record.testing { policy.milder() } else { policy };
        let aligned = Identifier { mechanism: Mechanism::Dkim, domain: "d.example".to_owned() };
        Outcome {
            verdict,
            author: "news.d.example".to_owned(),
            published: Some(Published {
                domain: "d.example".to_owned(),
                record,
                policy,
                tag: Tag::P,
            }),
            disposition: if failed { disposition } else { dmarc::Policy::None },
            aligned: if failed { Vec::new() } else { vec![aligned] },
            steps: Vec::new(),
        }
    }

    pub(in super::super) fn seen(outcome: &Outcome) -> Seen<'_> {
        Seen {
            at: UnixTime::from_ms(0),
            source: "::ffff:192.0.2.1".parse().unwrap(),
            outcome,
            spf: None,
            dkim: &[],
            sender: "b@Bounces.Example",
            done: outcome.disposition,
            why: None,
        }
    }

    #[test]
    fn a_message_becomes_a_row() {
        let record = "v=DMARC1; p=reject; np=none; adkim=s; pct=7; rua=mailto:r@d.example";
        let outcome = outcome(record, Verdict::Pass);
        let spf = spf::Outcome {
            verdict: spf::Verdict::Softfail,
            domain: "Bounces.Example".to_owned(),
            explanation: None,
            steps: Vec::new(),
        };
        let row = Row::of(&Seen { spf: Some(&spf), ..seen(&outcome) }).unwrap();
        assert_eq!(row.policy.domain, "d.example");
        let Policy { p, sp, np, adkim, aspf, pct, testing, .. } = &row.policy;
        let tags = [p, sp, np, adkim, aspf, pct, testing].map(String::as_str);
        assert_eq!(tags, ["reject", "", "none", "s", "r", "7", "n"]);
        let record = &row.record;
        assert_eq!((record.source.as_str(), record.count), ("192.0.2.1", 1));
        let words = [&record.disposition, &record.dkim, &record.spf].map(String::as_str);
        assert_eq!(words, ["pass", "pass", "fail"]);
        let names = [&record.header_from, &record.envelope_from].map(String::as_str);
        assert_eq!(names, ["news.d.example", "bounces.example"]);
        assert_eq!(record.senders[0].result, "softfail");
    }

    #[test]
    fn what_strangers_have_written_is_in_it_only_as_names_and_bounded() {
        let record = "v=DMARC1; p=reject; rua=mailto:r@d.example";
        let outcome = outcome(record, Verdict::Fail);
        let judged = |verdict, domain: &str, selector: &str| Judged {
            verdict,
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            identity: String::new(),
            algorithm: None,
            bits: 0,
            mark: String::new(),
            testing: false,
            length: None,
            is_partial: false,
            why: String::new(),
        };
        let long = "a.".repeat(8000);
        let mut dkim = vec![
            judged(Dkim::Fail, &long, "s"),
            judged(Dkim::Fail, "a.example", &long),
            judged(Dkim::Fail, "<b>.example", "s"),
            judged(Dkim::Permerror, "", ""),
        ];
        dkim.extend((0..20).map(|n| judged(Dkim::Fail, &format!("d{n}.example"), "s")));
        dkim.push(judged(Dkim::Pass, "Good.example", "s"));
        let sender = format!("x@{long}");
        let row = Row::of(&Seen { dkim: &dkim, sender: &sender, ..seen(&outcome) }).unwrap();
        let names: Vec<&str> = row.record.signatures.iter().map(|s| &*s.domain).collect();
        assert_eq!(names, ["good.example", "d0.example", "d1.example", "d2.example"]);
        assert_eq!(row.record.envelope_from, "");
    }

    #[test]
    fn who_asks_for_no_reports_gets_no_rows() {
        let asks = "v=DMARC1; p=none; rua=mailto:r@d.example";
        assert!(Row::of(&seen(&outcome("v=DMARC1; p=none", Verdict::Fail))).is_none());
        for verdict in [Verdict::None, Verdict::Temperror, Verdict::Permerror] {
            assert!(Row::of(&seen(&outcome(asks, verdict))).is_none());
        }
        assert!(Row::of(&seen(&outcome(asks, Verdict::Fail))).is_some());
    }

    #[test]
    fn another_end_than_was_asked_for_has_a_reason() {
        let reject = "v=DMARC1; p=reject; rua=mailto:r@d.example";
        let testing = "v=DMARC1; p=reject; t=y; rua=mailto:r@d.example";
        for (record, done, due) in [
            (reject, dmarc::Policy::Reject, None),
            (reject, dmarc::Policy::None, Some("local_policy")),
            (testing, dmarc::Policy::Quarantine, Some("policy_test_mode")),
            (testing, dmarc::Policy::Reject, Some("local_policy")),
        ] {
            let outcome = outcome(record, Verdict::Fail);
            let row = Row::of(&Seen { done, ..seen(&outcome) }).unwrap();
            let reason = row.record.reasons.first().map(|reason| reason.kind.as_str());
            assert_eq!(reason, due, "{record} {done}");
            assert_eq!(row.record.disposition, done.name());
        }
    }
}
