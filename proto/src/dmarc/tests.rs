//! The check against small zones: alignment, which record counts, which policy of it, failures.

use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::dns::known::{Known, Next};
use crate::dns::{Data, Failure, Found, Kind, Question, Reason};

/// Names and the record of DMARC there; `FAILS` is no answer, `ALIVE` a name without a record,
/// and two records stand on two lines. A name that is not there, or below one, does not exist.
pub(super) struct Zone(BTreeMap<String, String>);

impl Zone {
    pub(super) fn new(records: &[(&str, &str)]) -> Self {
        Self(records.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    fn answer(&self, question: &Question) -> Result<Rc<Found>, Failure> {
        let name = question.name();
        let owner = name.strip_prefix("_dmarc.").unwrap_or(name);
        let text = self.0.get(owner).map(String::as_str).ok_or(Failure::NoSuchName)?;
        match (text, question.kind()) {
            ("FAILS", _) => return Err(Failure::Temporary(Reason::ServerFailed)),
            ("LOOPS", _) => return Err(Failure::AliasLoop),
            ("ALIVE", _) | (_, Kind::A) => return Err(Failure::NoData),
            _ => {}
        }
        let records = text.split('\n').map(|text| Data::Txt(text.as_bytes().into())).collect();
        Ok(Rc::new(Found { name: name.into(), records, secure: false, ttl: Duration::ZERO }))
    }

    /// Asks until all is known; how it went, and how many questions each round had.
    pub(super) fn ask<T>(&self, judge: impl Fn(&Known) -> Next<T>) -> (T, Vec<usize>) {
        let (mut known, mut rounds) = (Known::default(), Vec::new());
        loop {
            match judge(&known) {
                Next::Done(outcome) => return (outcome, rounds),
                Next::Ask(questions) => {
                    assert!(!questions.is_empty() && rounds.len() < 3, "{questions:?}");
                    rounds.push(questions.len());
                    for question in questions {
                        let answer = self.answer(&question);
                        known.put(question, answer);
                    }
                }
            }
        }
    }

    fn check(&self, evidence: &Evidence<'_>) -> (Outcome, Vec<usize>) {
        self.ask(|known| check(evidence, known))
    }
}

fn spf(verdict: spf::Verdict, domain: &str) -> spf::Outcome {
    spf::Outcome { verdict, domain: domain.to_owned(), explanation: None, steps: Vec::new() }
}

fn dkim(verdict: dkim::verify::Verdict, domain: &str) -> dkim::verify::Judged {
    dkim::verify::Judged {
        verdict,
        domain: domain.to_owned(),
        selector: "s".to_owned(),
        identity: String::new(),
        algorithm: None,
        bits: 0,
        mark: String::new(),
        testing: false,
        length: None,
        is_partial: false,
        why: String::new(),
    }
}

/// What comes of mail from `author` with a pass for each of `proved`: `spf:domain`, `dkim:domain`;
/// `spf?domain` and `dkim?domain` were not answered for, `spf!domain` and `dkim!domain` failed.
fn outcome(author: &str, proved: &str, zone: &[(&str, &str)], draw: u8) -> (Outcome, Vec<usize>) {
    use dkim::verify::Verdict as Dkim;
    let (mut of_spf, mut of_dkim) = (None, Vec::new());
    for one in proved.split_whitespace() {
        let at = one.find([':', '?', '!']).unwrap();
        let (mechanism, rest) = one.split_at(at);
        let (sign, domain) = rest.split_at(1);
        if mechanism == "spf" {
            let verdict = match sign {
                ":" => spf::Verdict::Pass,
                "?" => spf::Verdict::Temperror,
                _ => spf::Verdict::Softfail,
            };
            of_spf = Some(spf(verdict, domain));
        } else {
            let verdict = match sign {
                ":" => Dkim::Pass,
                "?" => Dkim::Temperror,
                _ => Dkim::Fail,
            };
            of_dkim.push(dkim(verdict, domain));
        }
    }
    let authors: Vec<String> = author.split(' ').map(str::to_owned).collect();
    let evidence = Evidence { authors: Ok(&authors), spf: of_spf.as_ref(), dkim: &of_dkim, draw };
    Zone::new(zone).check(&evidence)
}

/// Else who adds an author of his own, whose domain asks for nothing, would get past another's.
#[test]
fn what_nobody_knows_yet_counts_as_much_as_it_may_turn_out_to() {
    let zone = [
        ("strict.example", "v=DMARC1; p=reject"),
        ("careful.example", "v=DMARC1; p=quarantine"),
        ("free.example", "v=DMARC1; p=none"),
        ("silent.example", "FAILS"),
    ];
    for (authors, proved, verdict, author) in [
        ("strict.example free.example", "dkim?strict.example", Verdict::Temperror, "strict"),
        ("free.example strict.example", "dkim?strict.example", Verdict::Temperror, "strict"),
        ("free.example silent.example", "", Verdict::Temperror, "silent"),
        ("careful.example silent.example", "", Verdict::Temperror, "silent"),
        ("strict.example silent.example", "", Verdict::Fail, "strict"),
        ("careful.example free.example", "dkim?careful.example", Verdict::Temperror, "careful"),
        ("free.example careful.example", "dkim?free.example", Verdict::Fail, "careful"),
    ] {
        let (found, _) = outcome(authors, proved, &zone, 0);
        let expected = (verdict, format!("{author}.example"));
        assert_eq!((found.verdict, found.author), expected, "{authors} {proved}");
    }
}

#[test]
fn a_signature_of_a_part_of_the_body_proves_nothing() {
    let authors = ["d.example".to_owned()];
    for (is_partial, verdict) in [(false, Verdict::Pass), (true, Verdict::Fail)] {
        let judged = dkim(dkim::verify::Verdict::Pass, "d.example");
        let all = [dkim::verify::Judged { is_partial, ..judged }];
        let evidence = Evidence { authors: Ok(&authors), spf: None, dkim: &all, draw: 0 };
        let zone = Zone::new(&[("d.example", "v=DMARC1; p=reject")]);
        assert_eq!(zone.check(&evidence).0.verdict, verdict);
    }
}

/// The verdict, the disposition, whose record, and which tag of it.
fn summary(author: &str, proved: &str, zone: &[(&str, &str)]) -> String {
    let (outcome, _) = outcome(author, proved, zone, 0);
    let mut text = format!("{} {}", outcome.verdict, outcome.disposition);
    if let Some(published) = outcome.published {
        text.push_str(&format!(" {}={} {}", published.tag, published.policy, published.domain));
    }
    text
}

const REJECT: &str = "v=DMARC1; p=reject";

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7489 §B.1: what is aligned, by SPF and by DKIM.
    let relaxed: &[(&str, &str)] = &[("example.com", REJECT)];
    let strict: &[(&str, &str)] = &[("example.com", "v=DMARC1; p=reject; aspf=s; adkim=s")];
    for (author, proved, of_relaxed, of_strict) in [
        ("example.com", "spf:example.com", "pass", "pass"),
        ("example.com", "spf:child.example.com", "pass", "fail"),
        ("child.example.com", "spf:example.com", "pass", "fail"),
        ("example.com", "spf:example.net", "fail", "fail"),
        ("example.com", "dkim:example.com", "pass", "pass"),
        ("child.example.com", "dkim:example.com", "pass", "fail"),
        ("example.com", "dkim:sample.net", "fail", "fail"),
        ("example.com", "spf:sample.net dkim:sample.net dkim:a.example.com", "pass", "fail"),
        ("example.com", "", "fail", "fail"),
        ("example.com", "spf!example.com dkim!example.com", "fail", "fail"),
        ("example.com", "spf!example.com dkim:example.com", "pass", "pass"),
        ("example.com", "spf:notexample.com", "fail", "fail"),
        ("example.com", "spf:EXAMPLE.com.", "pass", "pass"),
        ("example.com", "spf:", "fail", "fail"),
    ] {
        let verdict = |zone| outcome(author, proved, zone, 0).0.verdict.name();
        assert_eq!((verdict(relaxed), verdict(strict)), (of_relaxed, of_strict), "{proved}");
    }
}

#[test]
fn which_record_counts_and_what_it_says() {
    let org = "v=DMARC1; p=reject; sp=quarantine; np=none";
    for (author, zone, due) in [
        // RFC 9989 §4.10.1: the domain's own, the organisation's, the registry's.
        ("a.d.com", &[("a.d.com", REJECT), ("d.com", org)][..], "fail reject p=reject a.d.com"),
        ("d.com", &[("d.com", org)], "fail reject p=reject d.com"),
        ("a.d.com", &[("a.d.com", "ALIVE"), ("d.com", org)], "fail quarantine sp=quarantine d.com"),
        ("a.d.com", &[("d.com", org)], "fail none np=none d.com"),
        ("a.d.com", &[("d.com", REJECT)], "fail reject p=reject d.com"),
        ("a.d.com", &[("d.com", "v=DMARC1; p=none; np=reject")], "fail reject np=reject d.com"),
        (
            "a.d.com",
            &[("a.d.com", "ALIVE"), ("d.com", "v=DMARC1; p=none; np=reject")],
            "fail none p=none d.com",
        ),
        ("d.bank", &[("bank", "v=DMARC1; p=reject; psd=y")], "fail reject p=reject bank"),
        (
            "a.d.bank",
            &[("d.bank", "v=DMARC1; p=none"), ("bank", "v=DMARC1; p=reject; psd=y")],
            "fail none p=none d.bank",
        ),
        // In the middle: the highest record is the organisation's.
        (
            "a.b.c.d.com",
            &[("b.c.d.com", REJECT), ("d.com", "v=DMARC1; p=none")],
            "fail none p=none d.com",
        ),
        (
            "a.b.c.d.com",
            &[("b.c.d.com", "v=DMARC1; p=reject; psd=n"), ("d.com", "v=DMARC1; p=none")],
            "fail reject p=reject b.c.d.com",
        ),
        // Nothing, or nothing that counts.
        ("d.com", &[], "none none"),
        ("a.d.com", &[("a.d.com", "v=spf1 -all"), ("d.com", "x")], "none none"),
        ("d.com", &[("d.com", "v=DMARC1; p=reject\nv=DMARC1; p=reject")], "none none"),
        ("d.com", &[("d.com", "v=DMARC1; p=reject\nv=spf1")], "fail reject p=reject d.com"),
        ("d.com", &[("d.com", "v=DMARC1; p=blah")], "permerror none"),
        ("a.d.com", &[("d.com", "v=DMARC1; p=blah")], "permerror none"),
        ("d.com", &[("d.com", "v=DMARC1; p=blah; rua=mailto:a@d.com")], "fail none p=none d.com"),
        // Beyond seven labels only the name itself is looked at.
        ("1.2.3.4.5.6.7.d.com", &[("2.3.4.5.6.7.d.com", REJECT)], "none none"),
        (
            "1.2.3.4.5.6.7.d.com",
            &[("3.4.5.6.7.d.com", REJECT)],
            "fail reject p=reject 3.4.5.6.7.d.com",
        ),
    ] {
        assert_eq!(summary(author, "", zone), due, "{author} {zone:?}");
    }
}

#[test]
fn organisations_are_what_records_say() {
    let own = "v=DMARC1; p=reject; psd=n";
    let registry = "v=DMARC1; p=reject; psd=y";
    for (author, proved, zone, due) in [
        ("a.d.com", "dkim:b.d.com", &[("d.com", REJECT)][..], "pass"),
        ("a.d.com", "dkim:x.y.d.com", &[("d.com", REJECT)], "pass"),
        // RFC 9989 §4.10.2: a border within.
        ("a.b.d.com", "dkim:d.com", &[("b.d.com", own), ("d.com", REJECT)], "fail"),
        ("a.b.d.com", "dkim:c.b.d.com", &[("b.d.com", own), ("d.com", REJECT)], "pass"),
        ("a.d.com", "dkim:a.b.d.com", &[("b.d.com", own), ("d.com", REJECT)], "fail"),
        // Below a registry, said or listed.
        ("d.bank", "dkim:e.bank", &[("bank", registry)], "fail"),
        ("a.d.bank", "dkim:b.d.bank", &[("bank", registry)], "pass"),
        ("d.co.uk", "dkim:e.co.uk", &[("co.uk", REJECT)], "fail"),
        ("a.d.co.uk", "dkim:d.co.uk", &[("co.uk", REJECT)], "pass"),
        // Who is on the list and says that he is one organisation is.
        ("d.co.uk", "dkim:e.co.uk", &[("co.uk", own)], "pass"),
        // The registry itself.
        ("bank", "dkim:bank", &[("bank", registry)], "pass"),
        ("bank", "dkim:d.bank", &[("bank", registry)], "fail"),
        // RFC 7489 §3.2: no record where the walk of what was proved goes.
        ("a.d.com", "dkim:d.com", &[("a.d.com", REJECT)], "pass"),
        ("a.d.com", "dkim:b.d.com", &[("a.d.com", REJECT)], "pass"),
        ("a.d.com", "dkim:d.com", &[("a.d.com", own)], "fail"),
        ("a.d.co.uk", "dkim:e.co.uk", &[("a.d.co.uk", REJECT)], "fail"),
    ] {
        assert_eq!(outcome(author, proved, zone, 0).0.verdict.name(), due, "{author} {proved}");
    }
}

#[test]
fn no_answer_is_no_failure() {
    for (author, proved, zone, due) in [
        ("d.com", "", &[("d.com", "FAILS")][..], "temperror"),
        ("d.com", "dkim:d.com", &[("d.com", "FAILS")], "temperror"),
        ("d.com", "", &[("d.com", "LOOPS")], "temperror"),
        ("a.d.com", "", &[("d.com", "FAILS")], "temperror"),
        ("a.b.d.com", "", &[("b.d.com", "FAILS"), ("d.com", REJECT)], "temperror"),
        // A registry's trouble is not everybody's.
        ("d.com", "", &[("com", "FAILS")], "none"),
        ("d.com", "dkim:a.d.com", &[("com", "FAILS"), ("d.com", REJECT)], "pass"),
        // The domain's own record is there; the list says the rest, if it can.
        ("a.d.com", "dkim:d.com", &[("a.d.com", REJECT), ("d.com", "FAILS")], "pass"),
        ("a.d.com", "dkim:e.com", &[("a.d.com", REJECT), ("d.com", "FAILS")], "fail"),
        ("a.d.com", "dkim:b.d.com", &[("d.com", REJECT), ("b.d.com", "FAILS")], "pass"),
        // Who might have passed has not failed.
        ("d.com", "dkim?d.com", &[("d.com", REJECT)], "temperror"),
        ("d.com", "spf?a.d.com", &[("d.com", REJECT)], "temperror"),
        ("d.com", "spf?a.d.com", &[("d.com", "v=DMARC1; p=reject; aspf=s")], "fail"),
        ("d.com", "spf?e.com", &[("d.com", REJECT)], "fail"),
        ("d.com", "spf?d.com dkim:d.com", &[("d.com", REJECT)], "pass"),
        ("d.com", "dkim?d.com dkim:d.com", &[("d.com", REJECT)], "pass"),
    ] {
        let (outcome, _) = outcome(author, proved, zone, 0);
        assert_eq!(outcome.verdict.name(), due, "{author} {proved} {zone:?} {:?}", outcome.steps);
        let is_failed = outcome.verdict == Verdict::Fail;
        assert_eq!(outcome.disposition == Policy::None, !is_failed, "{author} {proved}");
    }
    // Whether a domain exists is not worth a delay: it counts as there.
    let zone = &[("a.d.com", "ALIVE"), ("d.com", "v=DMARC1; p=none; np=reject")];
    assert_eq!(summary("a.d.com", "", zone), "fail none p=none d.com");
}

#[test]
fn some_of_the_mail_gets_a_milder_policy() {
    for (record, draw, due) in [
        ("p=reject; pct=25", 24, Policy::Reject),
        ("p=reject; pct=25", 25, Policy::Quarantine),
        ("p=quarantine; pct=0", 0, Policy::None),
        ("p=reject; pct=100", 99, Policy::Reject),
        ("p=none; pct=0", 50, Policy::None),
        ("p=reject; t=y", 0, Policy::Quarantine),
        ("p=quarantine; t=y", 0, Policy::None),
        ("p=reject; t=y; pct=0", 50, Policy::Quarantine),
        ("p=reject; t=n", 99, Policy::Reject),
    ] {
        let record = format!("v=DMARC1; {record}");
        let zone: &[(&str, &str)] = &[("d.com", &record)];
        let (failed, _) = outcome("d.com", "", zone, draw);
        assert_eq!((failed.verdict, failed.disposition), (Verdict::Fail, due), "{record} {draw}");
        let (passed, _) = outcome("d.com", "dkim:d.com", zone, draw);
        assert_eq!((passed.verdict, passed.disposition), (Verdict::Pass, Policy::None));
    }
}

#[test]
fn of_several_authors_the_worst_counts() {
    let zone = &[
        ("r.com", REJECT),
        ("q.com", "v=DMARC1; p=quarantine"),
        ("t.com", "FAILS"),
        ("b.com", "v=DMARC1; p=x"),
    ];
    for (authors, proved, due) in [
        ("q.com r.com", "", "fail reject p=reject r.com"),
        ("r.com q.com", "", "fail reject p=reject r.com"),
        ("r.com q.com", "dkim:r.com", "fail quarantine p=quarantine q.com"),
        ("r.com q.com", "dkim:r.com spf:q.com", "pass none p=reject r.com"),
        ("r.com none.com", "dkim:r.com", "none none"),
        ("r.com none.com", "", "fail reject p=reject r.com"),
        ("r.com t.com", "dkim:r.com", "temperror none"),
        ("none.com b.com", "", "permerror none"),
    ] {
        assert_eq!(summary(authors, proved, zone), due, "{authors}");
    }
}

#[test]
fn without_an_author_there_is_no_walk() {
    for (bad, due) in [
        (BadFrom::Missing, Verdict::None),
        (BadFrom::Nobody, Verdict::None),
        (BadFrom::Several, Verdict::Permerror),
        (BadFrom::Syntax, Verdict::Permerror),
        (BadFrom::Domain, Verdict::Permerror),
        (BadFrom::TooLong, Verdict::Permerror),
        (BadFrom::TooManyAddresses, Verdict::Permerror),
        (BadFrom::TooManyDomains, Verdict::Permerror),
    ] {
        let evidence = Evidence { authors: Err(bad), spf: None, dkim: &[], draw: 0 };
        let (outcome, rounds) = Zone::new(&[]).check(&evidence);
        assert_eq!((outcome.verdict, rounds.len()), (due, 0));
        assert_eq!(outcome.steps, [bad.to_string()]);
    }
}

#[test]
fn questions_are_asked_at_one_time_and_are_bounded() {
    let long = "1.2.3.4.5.6.7.8.9.d.com";
    let zone = &[("d.com", "v=DMARC1; p=reject; np=none")];
    assert_eq!(outcome(long, "", zone, 0).1, [8, 1], "a walk, and whether the domain exists");
    assert_eq!(outcome("a.d.com", "dkim:b.d.com", &[("d.com", REJECT)], 0).1, [4]);
    assert_eq!(outcome("d.com", "dkim:other.net", &[("d.com", REJECT)], 0).1, [2]);
    // One that only a record has shown to belong there.
    let own = &[("co.uk", "v=DMARC1; p=reject; psd=n")];
    assert_eq!(outcome("d.co.uk", "dkim:e.co.uk", own, 0).1, [3, 1]);
    // More than are looked at.
    let many: Vec<String> = (0..40).map(|n| format!("dkim:1.2.3.4.5.6.n{n}.d.com")).collect();
    let (_, rounds) = outcome("d.com", &many.join(" "), &[("d.com", REJECT)], 0);
    assert_eq!(rounds, [2 + IDENTIFIERS_MAX * 6]);
}

#[test]
fn the_steps_say_it_all() {
    let zone = &[("a.d.com", "ALIVE"), ("d.com", "v=DMARC1; p=reject; sp=quarantine; pct=1; fo=x")];
    let (judged, _) = outcome("a.d.com", "spf:e.net dkim?d.com dkim:x.d.com", zone, 0);
    assert_eq!(
        judged.steps,
        [
            "_dmarc.a.d.com: the name has no record of this kind",
            "_dmarc.d.com: v=DMARC1; p=reject; sp=quarantine; pct=1; fo=x (passed over: fo)",
            "_dmarc.com: there is no such name",
            "sp=quarantine of d.com is for a.d.com",
            "SPF of e.net (relaxed): proved, but does not speak for a.d.com",
            "DKIM of d.com (relaxed): not answered for by the DNS",
            "DKIM of x.d.com (relaxed): proved, and speaks for a.d.com",
        ]
    );
    assert!(judged.is_aligned(Mechanism::Dkim) && !judged.is_aligned(Mechanism::Spf));
    let zone = &[("d.com", "v=DMARC1; p=reject; pct=1")];
    let (sampled, _) = outcome("d.com", "", zone, 7);
    assert_eq!(sampled.steps.last().unwrap(), "pct=1, drawn 7: quarantine instead of reject");
}

/// RFC 9989 §4.10 as it reads, step by step: the domain whose record applies, and the organisation.
fn by_the_book(author: &str, zone: &BTreeMap<String, &str>) -> (Option<String>, String) {
    let mut labels: Vec<&str> = author.split('.').collect();
    let mut found: Vec<(String, &str)> = Vec::new();
    while !labels.is_empty() {
        let target = labels.join(".");
        if let Some(record) = zone.get(&target) {
            found.push((target, *record));
            if record.contains("psd=n") || record.contains("psd=y") {
                break;
            }
        }
        let remaining = if labels.len() < 8 { labels.len() - 1 } else { 7 };
        labels.drain(..labels.len() - remaining);
    }
    let mut organisation = found.last().map_or(author, |(name, _)| name).to_owned();
    for (name, record) in &found {
        if record.contains("psd=n") {
            organisation.clone_from(name);
            break;
        }
        if record.contains("psd=y") && name != author {
            let count = name.split('.').count() + 1;
            let all: Vec<&str> = author.split('.').collect();
            organisation = all[all.len() - count..].join(".");
            break;
        }
    }
    let has = |wanted: &str| found.iter().any(|(name, _)| name == wanted);
    let suffix = || found.iter().find(|(_, record)| record.contains("psd=y"));
    let applies = match () {
        () if has(author) => Some(author.to_owned()),
        () if has(&organisation) => Some(organisation.clone()),
        () => suffix().map(|(name, _)| name.clone()),
    };
    (applies, organisation)
}

proptest! {
    #[test]
    fn the_walk_does_as_the_book_says(
        depth in 1_usize..11,
        records in vec(0_usize..12, 11),
    ) {
        // No name here is on the list of public suffixes, which fills the gaps of the book.
        const LABELS: [&str; 11] = ["k", "j", "i", "h", "g", "f", "e", "d", "c", "b", "unlisted"];
        const RECORDS: [&str; 4] =
            ["v=DMARC1; p=none", REJECT, "v=DMARC1; p=none; psd=y", "v=DMARC1; p=none; psd=n"];
        let name = |depth: usize| LABELS[LABELS.len() - depth..].join(".");
        let (mut zone, mut listed) = (BTreeMap::new(), Vec::new());
        for (record, depth) in records.iter().zip(1..) {
            if let Some(record) = RECORDS.get(*record) {
                zone.insert(name(depth), *record);
                listed.push((name(depth), *record));
            }
        }
        let listed: Vec<(&str, &str)> = listed.iter().map(|(name, r)| (&**name, *r)).collect();
        let author = name(depth);
        let (applies, organisation) = by_the_book(&author, &zone);
        let (judged, _) = outcome(&author, "", &listed, 0);
        let is_applied = judged.published.is_some();
        prop_assert_eq!(judged.published.map(|published| published.domain), applies);
        // Its own organisation speaks for it, and the next above does not.
        if is_applied && organisation != author {
            let (aligned, _) = outcome(&author, &format!("dkim:{organisation}"), &listed, 0);
            let (_, own) = by_the_book(&organisation, &zone);
            prop_assert_eq!(aligned.verdict == Verdict::Pass, own == organisation);
        }
    }
}
