//! Policies and fields, from verdicts that were not looked up.

use core::time::Duration;
use std::sync::Arc;

use fsmtp_proto::dkim::verify::{Judged, Verdict as Dkim};
use fsmtp_proto::dnsbl::Listed;
use fsmtp_proto::smtp::reply::{Doubt, Refusal};
use fsmtp_proto::{arc, dmarc, dnsbl, iprev, spf};

use super::*;

fn outcome(verdict: spf::Verdict, domain: &str) -> spf::Outcome {
    spf::Outcome { verdict, domain: domain.into(), explanation: None, steps: Vec::new() }
}

fn judged(verdict: Dkim, why: &str) -> Judged {
    Judged {
        verdict,
        domain: "a.test".into(),
        selector: "s1".into(),
        identity: "@a.test".into(),
        algorithm: None,
        bits: 2048,
        mark: "abcd/efg".into(),
        testing: false,
        length: None,
        is_partial: false,
        why: why.into(),
    }
}

/// A message of which nothing is known.
fn unknown() -> Verdicts {
    Verdicts {
        client: Client {
            ip: "192.0.2.1".parse().unwrap(),
            helo: "mx.a.test".into(),
            sender: "me@a.test".into(),
        },
        helo: outcome(spf::Verdict::None, "mx.a.test"),
        spf: outcome(spf::Verdict::None, "a.test"),
        iprev: None,
        lists: dnsbl::Outcome::default(),
        score: 0,
        dkim: Vec::new(),
        arc: arc::Judged {
            verdict: arc::Verdict::None,
            domains: Vec::new(),
            temporary: false,
            why: String::new(),
            results: None,
        },
        is_vouched: false,
        dmarc: judged_by_dmarc(dmarc::Verdict::None, dmarc::Policy::None),
        bad_from: None,
    }
}

fn judged_by_dmarc(verdict: dmarc::Verdict, disposition: dmarc::Policy) -> dmarc::Outcome {
    let author = "a.test".into();
    let (published, aligned, steps) = (None, Vec::new(), Vec::new());
    dmarc::Outcome { verdict, author, published, disposition, aligned, steps }
}

const SCORES: Scores = Scores { junk: 1, reject: 100 };

/// Every action another one, so that a wrong one shows.
const POLICY: Policy = Policy {
    spf_fail: Action::Reject,
    spf_softfail: Action::Tag,
    dkim_fail: Action::Junk,
    dmarc_reject: Action::Reject,
    dmarc_quarantine: Action::Junk,
    dmarc_none: Action::Tag,
    bad_from: Action::Reject,
    no_from: Action::Junk,
    iprev_fail: Action::Tag,
    listed: Action::Tag,
    dmarc_no_answer: Action::Junk,
    no_answer: Action::Defer,
    greylist: true,
};

#[test]
fn each_verdict_leads_to_what_the_policy_says() {
    let spf = |verdict| Verdicts { spf: outcome(verdict, "a.test"), ..unknown() };
    let dkim = |all: &[Dkim]| Verdicts {
        dkim: all.iter().map(|verdict| judged(*verdict, "")).collect(),
        ..unknown()
    };
    let back =
        |verdict| Verdicts { iprev: Some(iprev::Outcome { verdict, name: None }), ..unknown() };
    let score = |score| Verdicts { score, ..unknown() };
    let author =
        |verdict, wanted| Verdicts { dmarc: judged_by_dmarc(verdict, wanted), ..unknown() };
    let proved = |found: Verdicts| Verdicts {
        dmarc: judged_by_dmarc(dmarc::Verdict::Pass, dmarc::Policy::None),
        ..found
    };
    let unsure = |record: &str| {
        let record = dmarc::Record::parse(record.as_bytes()).unwrap();
        let (domain, policy, tag) = ("a.test".to_owned(), record.policy, dmarc::Tag::P);
        let published = Some(dmarc::Published { domain, record, policy, tag });
        let outcome = judged_by_dmarc(dmarc::Verdict::Temperror, dmarc::Policy::None);
        Verdicts { dmarc: dmarc::Outcome { published, ..outcome }, ..unknown() }
    };
    let bad = |bad| Verdicts { bad_from: Some(bad), ..unknown() };
    for (found, action, reason) in [
        (unknown(), Action::Accept, None),
        (spf(spf::Verdict::Pass), Action::Accept, None),
        (spf(spf::Verdict::Neutral), Action::Accept, None),
        (spf(spf::Verdict::Permerror), Action::Accept, None),
        (spf(spf::Verdict::Fail), Action::Reject, Some(Reason::Spf)),
        (spf(spf::Verdict::Softfail), Action::Tag, Some(Reason::Spf)),
        (spf(spf::Verdict::Temperror), Action::Defer, Some(Reason::Dns)),
        (dkim(&[Dkim::Fail, Dkim::Pass]), Action::Accept, None),
        (dkim(&[Dkim::Fail, Dkim::Permerror]), Action::Junk, Some(Reason::Dkim)),
        (dkim(&[Dkim::Fail, Dkim::Temperror]), Action::Defer, Some(Reason::Dns)),
        (back(iprev::Verdict::Pass), Action::Accept, None),
        (back(iprev::Verdict::Fail), Action::Tag, Some(Reason::Iprev)),
        (back(iprev::Verdict::Permerror), Action::Tag, Some(Reason::Iprev)),
        (back(iprev::Verdict::Temperror), Action::Accept, None),
        (author(dmarc::Verdict::Fail, dmarc::Policy::Reject), Action::Reject, Some(Reason::Dmarc)),
        (
            author(dmarc::Verdict::Fail, dmarc::Policy::Quarantine),
            Action::Junk,
            Some(Reason::Dmarc),
        ),
        (author(dmarc::Verdict::Fail, dmarc::Policy::None), Action::Tag, Some(Reason::Dmarc)),
        (author(dmarc::Verdict::Temperror, dmarc::Policy::None), Action::Junk, Some(Reason::Dns)),
        (unsure("v=DMARC1; p=reject"), Action::Junk, Some(Reason::Dns)),
        (unsure("v=DMARC1; p=none"), Action::Accept, None),
        (Verdicts { is_vouched: true, ..unsure("v=DMARC1; p=reject") }, Action::Accept, None),
        (proved(spf(spf::Verdict::Fail)), Action::Accept, None),
        (proved(spf(spf::Verdict::Temperror)), Action::Accept, None),
        (proved(dkim(&[Dkim::Fail])), Action::Accept, None),
        (proved(score(100)), Action::Reject, Some(Reason::Listed)),
        (
            Verdicts { is_vouched: true, ..author(dmarc::Verdict::Fail, dmarc::Policy::Reject) },
            Action::Accept,
            None,
        ),
        (bad(dmarc::BadFrom::Several), Action::Reject, Some(Reason::From)),
        (bad(dmarc::BadFrom::Syntax), Action::Reject, Some(Reason::From)),
        (bad(dmarc::BadFrom::Missing), Action::Junk, Some(Reason::From)),
        (bad(dmarc::BadFrom::Nobody), Action::Junk, Some(Reason::From)),
        (score(0), Action::Accept, None),
        (score(99), Action::Tag, Some(Reason::Listed)),
        (score(100), Action::Reject, Some(Reason::Listed)),
    ] {
        assert_eq!(POLICY.decide(&found, &SCORES), Decision { action, reason }, "{found:?}");
    }
}

#[test]
fn the_greylist_is_for_mail_that_nobody_vouches_for() {
    let spf = |verdict| Verdicts { spf: outcome(verdict, "a.test"), ..unknown() };
    let dmarc = judged_by_dmarc(dmarc::Verdict::Pass, dmarc::Policy::None);
    assert!(POLICY.is_grey(&unknown()) && POLICY.is_grey(&spf(spf::Verdict::Softfail)));
    assert!(!POLICY.is_grey(&spf(spf::Verdict::Pass)));
    assert!(!POLICY.is_grey(&Verdicts { dmarc, ..unknown() }));
    assert!(!Policy::default().is_grey(&unknown()));
}

#[test]
fn the_strictest_goes_first_and_only_refusals_are_heard() {
    let found = Verdicts {
        score: 1,
        spf: outcome(spf::Verdict::Softfail, "a.test"),
        dkim: vec![judged(Dkim::Fail, "")],
        ..unknown()
    };
    let decision = POLICY.decide(&found, &SCORES);
    assert_eq!(decision, Decision { action: Action::Junk, reason: Some(Reason::Dkim) });
    assert_eq!(decision.refusal(), None);
    let refused = |action, reason| Decision { action, reason: Some(reason) }.refusal();
    assert_eq!(refused(Action::Reject, Reason::Spf), Some(Refusal::Doubted(Doubt::Spf)));
    assert_eq!(refused(Action::Defer, Reason::Spf), Some(Refusal::Doubted(Doubt::NoAnswer)));
    assert_eq!(refused(Action::Reject, Reason::Dns), Some(Refusal::Doubted(Doubt::NoAnswer)));
}

#[test]
fn only_a_host_that_is_believed_makes_up_for_a_broken_proof() {
    let chain = |verdict, domains: &[&str], results: Option<&str>| arc::Judged {
        verdict,
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        temporary: false,
        why: String::new(),
        results: results.map(str::to_owned),
    };
    let proof = Some("i=1; mx.list.test; dmarc=pass header.from=a.test");
    let sealers = ["list.test".to_owned()];
    for (chain, expected) in [
        (chain(arc::Verdict::Pass, &["list.test"], proof), true),
        (chain(arc::Verdict::Pass, &["evil.test", "list.test"], proof), true),
        (chain(arc::Verdict::Pass, &["list.test", "evil.test"], proof), false),
        (chain(arc::Verdict::Fail, &["list.test"], proof), false),
        (chain(arc::Verdict::Pass, &["list.test"], None), false),
        (chain(arc::Verdict::Pass, &["list.test"], Some("mx.list.test; dmarc=fail")), false),
        (chain(arc::Verdict::None, &[], None), false),
    ] {
        assert_eq!(is_vouched(&sealers, &chain), expected, "{chain:?}");
    }
}

#[test]
fn policies_are_found_by_domain_in_any_case() {
    let mut policies = Policies::default();
    policies.special.insert("a.test".into(), POLICY);
    assert_eq!(policies.of("A.Test"), &POLICY);
    assert_eq!(policies.of("b.test"), &Policy::default());
}

#[test]
fn a_list_counts_once_and_only_by_the_codes_that_are_meant() {
    let list = |weight, codes: &[&str]| List {
        zone: "bl.test".into(),
        weight,
        codes: codes.iter().map(|code| code.parse().unwrap()).collect(),
    };
    let lists = [list(3, &[]), list(5, &["127.0.0.4/30"]), list(-2, &["127.0.1.1"])];
    let summed = |codes: &[(usize, [u8; 4])]| {
        let listed = codes.iter().map(|(list, code)| Listed { list: *list, code: (*code).into() });
        score(&lists, &dnsbl::Outcome { listed: listed.collect(), silent_count: 0 })
    };
    assert_eq!(summed(&[(0, [127, 0, 0, 2]), (0, [127, 0, 0, 3])]), 3);
    assert_eq!(summed(&[(1, [127, 0, 0, 3])]), 0);
    assert_eq!(summed(&[(1, [127, 0, 0, 7]), (2, [127, 0, 1, 1])]), 3);
}

#[test]
fn the_fields_say_all_of_it() {
    let found = Verdicts {
        spf: spf::Outcome {
            explanation: Some("see (a.test)".into()),
            ..outcome(spf::Verdict::Fail, "a.test")
        },
        iprev: Some(iprev::Outcome { verdict: iprev::Verdict::Fail, name: None }),
        dkim: vec![judged(Dkim::Fail, "the body was changed"), judged(Dkim::Pass, "")],
        arc: arc::Judged {
            verdict: arc::Verdict::Fail,
            domains: vec!["list.test".into()],
            temporary: false,
            why: "seal 1 is none of list.test".into(),
            results: None,
        },
        ..unknown()
    };
    let decision = Decision { action: Action::Tag, reason: Some(Reason::Spf) };
    let text = String::from_utf8(fields("mx.own.test", &[], &found, decision)).unwrap();
    let expected = "Authentication-Results: mx.own.test;\r\n\
        \tiprev=fail policy.iprev=192.0.2.1;\r\n\
        \tspf=fail (see \\(a.test\\)) smtp.mailfrom=me@a.test;\r\n\
        \tspf=none smtp.helo=mx.a.test;\r\n\
        \tdkim=fail (the body was changed) header.d=a.test header.s=s1\r\n\
        \theader.b=\"abcd/efg\";\r\n\
        \tdkim=pass header.d=a.test header.s=s1 header.b=\"abcd/efg\";\r\n\
        \tdmarc=none header.from=a.test;\r\n\
        \tarc=fail (seal 1 is none of list.test) header.d=list.test\r\n\
        X-Fannst-Auth: spf=fail (address 192.0.2.1 is not listed by a.test);\r\n\
        \tdkim=fail (signature 1: the body was changed);\r\n\
        \tdkim=pass (signature 2: is valid);\r\n\
        \tdmarc=none\r\n\
        X-Fannst-Suspect: spf (192.0.2.1 is not listed by a.test)\r\n";
    assert_eq!(text, expected);
    let null = Client { sender: "".into(), ..found.client };
    let bare =
        fields("mx.own.test", &[], &Verdicts { client: null, ..unknown() }, Decision::default());
    let text = String::from_utf8(bare).unwrap();
    assert!(text.contains("spf=none smtp.helo=mx.a.test;\r\n\tdkim=none;\r\n"), "{text}");
    assert!(!text.contains("smtp.mailfrom") && !text.contains("Suspect"), "{text}");
}

/// What a header section takes is given back when it is over the limits, for it is not held any
/// more; and what most of them have is not counted.
#[test]
fn header_sections_share_a_budget_and_give_it_back() {
    use crate::budget::{BYTES_MAX, Budget};
    use fsmtp_rt::sim::{Options, World};
    let mut world = World::new(1, Options::calm());
    let host = world.host();
    let rt = world.start(host);
    let server = rt.address(53);
    let names = crate::config::Resolver {
        servers: vec![server],
        timeout: Duration::from_secs(1),
        dnssec_trusted: false,
    };
    let resolver = crate::resolver::Resolver::new(rt.clone(), &names);
    let settings = Arc::new(Settings {
        trusted: Vec::new(),
        name: "mx.own.test".into(),
        timeout: Duration::from_secs(1),
        iprev: false,
        sealers: Vec::new(),
        lists: Vec::new(),
        scores: SCORES,
        policies: Policies::default(),
    });
    let budget = Budget::default();
    let begin = || {
        let room = budget.charge();
        let mut check =
            Check::begin(&rt, &resolver, &settings, "mx.own.test", unknown().client, room);
        check.message();
        check
    };
    let line = [b'x'; 1024];
    let mut check = begin();
    for _ in 0..16 {
        check.feed(&line, &resolver).unwrap();
    }
    assert_eq!(budget.bytes(), 0);
    check.feed(&line, &resolver).unwrap();
    assert_eq!(budget.bytes(), 1024);
    let mut others = budget.charge();
    others.add(BYTES_MAX - 1024).unwrap();
    assert!(check.feed(&line, &resolver).is_err());
    drop((others, check));
    assert_eq!(budget.bytes(), 0);
    let mut check = begin();
    for _ in 0..256 {
        check.feed(&line, &resolver).unwrap();
    }
    assert_eq!(budget.bytes(), 240 * 1024);
    check.feed(&line, &resolver).unwrap();
    assert_eq!(budget.bytes(), 0, "over the limit nothing of it is held");
}
