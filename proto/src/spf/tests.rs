//! The checks of SPF against small zones: each mechanism, each limit, what strangers may write.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::dns::known::{Known, Next};
use crate::dns::{Data, Failure, Found, Kind, Mx, Question, Reason};

/// Names and what stands there: `A 192.0.2.1`, `TXT v=spf1 ...`, `MX mx.test`, `FAILS`.
struct Zone(BTreeMap<(String, Kind), Vec<Data>>, Vec<String>);

impl Zone {
    fn new(records: &[(&str, &str)]) -> Self {
        let mut zone = Self(BTreeMap::new(), Vec::new());
        for (name, record) in records {
            let (kind, value) = record.split_once(' ').unwrap_or((record, ""));
            let data = match kind {
                "A" => Data::A(value.parse().unwrap()),
                "AAAA" => Data::Aaaa(value.parse().unwrap()),
                "TXT" => Data::Txt(value.as_bytes().into()),
                "MX" => Data::Mx(Mx { preference: 10, exchange: value.into() }),
                "PTR" => Data::Ptr(value.into()),
                _ => {
                    zone.1.push((*name).to_owned());
                    continue;
                }
            };
            zone.0.entry(((*name).to_owned(), data.kind())).or_default().push(data);
        }
        zone
    }

    fn answer(&self, question: &Question) -> Result<Rc<Found>, Failure> {
        if self.1.iter().any(|name| name == question.name()) {
            return Err(Failure::Temporary(Reason::ServerFailed));
        }
        let records = self.0.get(&(question.name().to_owned(), question.kind()));
        let records = records.cloned().ok_or(Failure::NoSuchName)?;
        let name = question.name().into();
        Ok(Rc::new(Found { name, records, secure: false, ttl: core::time::Duration::ZERO }))
    }

    /// Asks until all is known; how it went, and in how many rounds.
    fn check(&self, client: &Client<'_>) -> (Outcome, usize) {
        let mut known = Known::default();
        for round in 0.. {
            match check(client, &known) {
                Next::Done(outcome) => return (outcome, round),
                Next::Ask(questions) => {
                    assert!(!questions.is_empty() && round < 100);
                    for question in questions {
                        let answer = self.answer(&question);
                        known.put(question, answer);
                    }
                }
            }
        }
        unreachable!()
    }
}

fn client(ip: &str) -> Client<'static> {
    Client {
        ip: ip.parse::<IpAddr>().unwrap(),
        helo: "mail.client.test",
        sender: "strong-bad@email.example.com",
        receiver: "us.test",
        now: UnixTime::from_ms(1_000_000_000_000),
    }
}

/// The verdict for 192.0.2.3, the policy of `email.example.com` being `record`.
fn verdict(record: &str, more: &[(&str, &str)]) -> Verdict {
    outcome(record, more).verdict
}

fn outcome(record: &str, more: &[(&str, &str)]) -> Outcome {
    let record = format!("TXT {record}");
    let all = [&[("email.example.com", record.as_str())], more].concat();
    Zone::new(&all).check(&client("192.0.2.3")).0
}

#[test]
fn each_mechanism_matches_what_it_names() {
    let zone = [
        ("email.example.com", "A 192.0.2.3"),
        ("a.test", "A 192.0.2.99"),
        ("email.example.com", "MX mx.test"),
        ("mx.test", "A 192.0.2.3"),
        ("3.2.0.192.in-addr.arpa", "PTR Host.Own.test"),
        ("3.2.0.192.in-addr.arpa", "PTR forged.test"),
        ("host.own.test", "A 192.0.2.3"),
        ("forged.test", "A 192.0.2.4"),
        ("passes.test", "TXT v=spf1 ip4:192.0.2.0/24 -all"),
        ("fails.test", "TXT v=spf1 -all"),
        ("3.2.0.192.list.test", "A 127.0.0.2"),
    ];
    for term in [
        "all",
        "a",
        "A",
        "a/24",
        "a:a.test/24",
        "a:a.test/24//64",
        "mx",
        "mx/30//120",
        "ip4:192.0.2.3",
        "ip4:192.0.2.0/24",
        "ip4:1.2.3.4/0",
        "ptr:own.test",
        "ptr:host.own.test",
        "include:passes.test",
        "exists:%{ir}.list.test",
        "+ip4:192.0.2.3",
    ] {
        assert_eq!(verdict(&format!("v=spf1 {term} -all"), &zone), Verdict::Pass, "{term}");
    }
    for term in [
        "a:a.test",
        "mx:a.test",
        "ip4:192.0.2.4",
        "ip6:::/0",
        "ptr",
        "ptr:forged.test",
        "ptr:wn.test",
        "include:fails.test",
        "exists:%{i}.list.test",
    ] {
        assert_eq!(verdict(&format!("v=spf1 {term} ~all"), &zone), Verdict::Softfail, "{term}");
    }
    assert_eq!(verdict("v=spf1", &zone), Verdict::Neutral);
    assert_eq!(verdict("v=spf1 ?all", &zone), Verdict::Neutral);
    assert_eq!(verdict("v=spf10 -all", &zone), Verdict::None);
    assert_eq!(verdict("v=spf1 redirect=passes.test", &zone), Verdict::Pass);
    assert_eq!(verdict("v=spf1 redirect=fails.test all", &zone), Verdict::Pass);
}

#[test]
fn what_is_against_the_grammar_is_an_error_wherever_it_stands() {
    for term in [
        "ip4:1.2.3",
        "ip4:1.2.3.4/33",
        "ip4:1.2.3.4/08",
        "ip4:01.2.3.4",
        "ip4",
        "ip6:1.2.3.4",
        "ip6:::1/129",
        "a:",
        "a:/24",
        "a:museum",
        "a:foo.1",
        "a:foo.-x",
        "a/33",
        "a//129",
        "a:x.test/24/24",
        "mx:x.test:8080",
        "all:x.test",
        "all/8",
        "include",
        "include:",
        "include:x.test/24",
        "exists",
        "exists:%{c}.x.test",
        "exists:%{a}.x.test",
        "exists:%{d0}.x.test",
        "exists:%{d.x.test",
        "exists:%d.x.test",
        "exists:%{d1x}.x.test",
        "redirect=",
        "redirect=x.test/24",
        "redirect=a.test redirect=b.test",
        "exp=a.test exp=b.test",
        "x=%{",
        "-foo",
        "b:x.test",
        "",
    ] {
        let record = format!("v=spf1 all {term}");
        let wanted = if term.is_empty() { Verdict::Pass } else { Verdict::Permerror };
        assert_eq!(verdict(&record, &[]), wanted, "{term}");
    }
    assert_eq!(verdict("v=spf1 x-y_z.0=%{d}/%%%_%- all", &[]), Verdict::Pass);
    assert_eq!(verdict("v=spf1 \t all", &[]), Verdict::Permerror);
    assert_eq!(verdict(&format!("v=spf1 {}all", " ".repeat(6000)), &[]), Verdict::Permerror);
    let two = [("email.example.com", "TXT v=spf1 -all")];
    assert_eq!(verdict("v=spf1 all", &two), Verdict::Permerror);
}

#[test]
fn what_cannot_be_known_is_temporary_and_what_is_not_there_is_not() {
    let fails = [("fails.test", "FAILS"), ("mx.test", "MX fails.test")];
    for term in ["a:fails.test", "mx:fails.test", "mx:mx.test", "exists:fails.test"] {
        assert_eq!(verdict(&format!("v=spf1 {term} all"), &fails), Verdict::Temperror, "{term}");
    }
    for term in ["include:fails.test", "redirect=fails.test"] {
        assert_eq!(verdict(&format!("v=spf1 {term}"), &fails), Verdict::Temperror, "{term}");
    }
    let reverse = [("3.2.0.192.in-addr.arpa", "FAILS")];
    assert_eq!(verdict("v=spf1 ptr:x.test -all", &reverse), Verdict::Fail);
    for term in ["include:nothing.test", "redirect=nothing.test"] {
        assert_eq!(verdict(&format!("v=spf1 {term}"), &[]), Verdict::Permerror, "{term}");
    }
    let none = Zone::new(&[]);
    assert_eq!(none.check(&client("192.0.2.3")).0.verdict, Verdict::None);
    for domain in ["x", "x..test", "", "[192.0.2.3]", &format!("{}.test", "x".repeat(64))] {
        let sender = format!("me@{domain}");
        let client = Client { sender: &sender, ..client("192.0.2.3") };
        assert_eq!(none.check(&client), (none.check(&client).0, 0), "{domain} is not asked");
        assert_eq!(none.check(&client).0.verdict, Verdict::None, "{domain}");
    }
}

#[test]
fn lookups_are_bounded() {
    let zone = [("x.test", "A 192.0.2.9")];
    let terms = |n: usize| format!("v=spf1 {}all", "a:x.test ".repeat(n));
    assert_eq!(verdict(&terms(10), &zone), Verdict::Pass);
    assert_eq!(verdict(&terms(11), &zone), Verdict::Permerror);
    let voids = |n: usize| format!("v=spf1 {}all", "a:y.test ".repeat(n));
    assert_eq!(verdict(&voids(2), &zone), Verdict::Pass);
    assert_eq!(verdict(&voids(3), &zone), Verdict::Permerror);
    assert_eq!(verdict("v=spf1 include:email.example.com", &[]), Verdict::Permerror);
    assert_eq!(verdict("v=spf1 redirect=email.example.com", &[]), Verdict::Permerror);
    let mut hosts = vec![("m.test", "MX 1.m.test"); 10];
    assert_eq!(verdict("v=spf1 mx:m.test all", &hosts), Verdict::Pass);
    hosts.push(("m.test", "MX 1.m.test"));
    assert_eq!(verdict("v=spf1 mx:m.test all", &hosts), Verdict::Permerror);
    let mut names = vec![("3.2.0.192.in-addr.arpa", "PTR other.test"); 10];
    names.push(("3.2.0.192.in-addr.arpa", "PTR own.test"));
    names.push(("own.test", "A 192.0.2.3"));
    assert_eq!(verdict("v=spf1 ptr:own.test -all", &names), Verdict::Fail);
    // The hosts of an MX are asked for together.
    let zone = Zone::new(&[
        ("email.example.com", "TXT v=spf1 mx -all"),
        ("email.example.com", "MX a.test"),
        ("email.example.com", "MX b.test"),
        ("b.test", "A 192.0.2.3"),
    ]);
    let (outcome, rounds) = zone.check(&client("192.0.2.3"));
    assert_eq!((outcome.verdict, rounds), (Verdict::Pass, 3));
}

/// However many a record names, ten are asked for.
#[test]
fn two_hundred_includes_cost_ten_questions() {
    let neutral: Vec<String> = (0..200).map(|n| format!("{n}.i.test")).collect();
    let terms: Vec<String> = neutral.iter().map(|name| format!("include:{name}")).collect();
    let own = format!("TXT v=spf1 {} all", terms.join(" "));
    assert!(own.len() < RECORD_BYTES_MAX);
    let mut records = vec![("email.example.com", own.as_str())];
    records.extend(neutral.iter().map(|name| (name.as_str(), "TXT v=spf1 ?all")));
    let (outcome, rounds) = Zone::new(&records).check(&client("192.0.2.3"));
    assert_eq!((outcome.verdict, rounds), (Verdict::Permerror, 1 + LOOKUPS_MAX as usize));
    // The same one below the other: each includes the next.
    let next: Vec<String> = (1..201).map(|n| format!("TXT v=spf1 include:{n}.i.test")).collect();
    let mut records = vec![("email.example.com", "TXT v=spf1 include:0.i.test all")];
    records.extend(neutral.iter().map(String::as_str).zip(next.iter().map(String::as_str)));
    let (outcome, rounds) = Zone::new(&records).check(&client("192.0.2.3"));
    assert_eq!((outcome.verdict, rounds), (Verdict::Permerror, 1 + LOOKUPS_MAX as usize));
    let long = format!("v=spf1 {}", "ip4:192.0.2.1 ".repeat(400));
    assert_eq!(verdict(&long, &[]), Verdict::Permerror);
}

/// A name that comes out too long loses labels in front, and what is one label still is none: it
/// does not match, and is not asked for (RFC 7208 §4.8, §7.3).
#[test]
fn what_expands_beyond_a_name_is_cut_or_not_asked_for() {
    let labels = format!("{}@email.example.com", "abcdefghi.".repeat(25) + "z");
    let longest = format!("{}@email.example.com", "y".repeat(300));
    let label = format!("{}@email.example.com", "y".repeat(64));
    for (sender, term, rounds) in [
        (&labels, "exists:%{l}.%{l}.test", 2),
        (&labels, "a:%{l}.%{l}.%{l}.test", 2),
        (&longest, "exists:%{l}.test", 2),
        (&label, "exists:%{l}.test", 1),
        (&label, "mx:%{l}.test", 1),
        (&label, "a:a.%{l}.test", 1),
    ] {
        let record = format!("TXT v=spf1 {term} ?all");
        let zone = Zone::new(&[("email.example.com", &record)]);
        let (outcome, asked) = zone.check(&Client { sender, ..client("192.0.2.3") });
        assert_eq!((outcome.verdict, asked), (Verdict::Neutral, rounds), "{term}");
    }
    for term in ["include:%{l}.test", "redirect=%{l}.test"] {
        let record = format!("TXT v=spf1 {term}");
        let zone = Zone::new(&[("email.example.com", &record)]);
        let (outcome, _) = zone.check(&Client { sender: &label, ..client("192.0.2.3") });
        assert_eq!(outcome.verdict, Verdict::Permerror, "{term}");
    }
}

#[test]
fn macros_expand_as_the_rfc_prints_them() {
    // RFC 7208 §7.4
    let client = client("192.0.2.3");
    let name = |template: &str, client: &Client<'_>| {
        let template = macros::Template::domain(&format!("{template}.x")).unwrap();
        let expanded = template.expand_domain(|letter| match letter {
            macros::Letter::Sender => client.sender.to_owned(),
            macros::Letter::Local => "strong-bad".to_owned(),
            macros::Letter::SenderDomain | macros::Letter::Domain => "email.example.com".to_owned(),
            macros::Letter::Ip => macros::dotted(client.ip),
            macros::Letter::Version if client.ip.is_ipv6() => "ip6".to_owned(),
            macros::Letter::Version => "in-addr".to_owned(),
            _ => String::new(),
        });
        expanded.strip_suffix(".x").unwrap().to_owned()
    };
    for (template, expanded) in [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
    ] {
        assert_eq!(name(template, &client), expanded, "{template}");
    }
    let six = self::client("2001:db8::cb01");
    let nibbles = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";
    assert_eq!(name("%{ir}.%{v}", &six), format!("{nibbles}.ip6"));
    let long = macros::Template::domain("%{d}.test").unwrap();
    let expanded = long.expand_domain(|_| "abcdefghi.".repeat(30) + "z");
    assert!(expanded.len() <= macros::DOMAIN_BYTES_MAX && expanded.ends_with("abcdefghi.z.test"));
    assert!(expanded.starts_with("abcdefghi."));
}

#[test]
fn who_fails_is_told_why_in_the_words_of_the_domain() {
    let said = [("why.test", "TXT %{i} is not %{d}'s, asks %{r} at %{t}%_(%{C})")];
    let found = outcome("v=spf1 exp=why.test -all", &said);
    let words = "192.0.2.3 is not email.example.com's, asks us.test at 1000000000 (192.0.2.3)";
    assert_eq!(found.explanation.as_deref(), Some(words));
    assert_eq!(outcome("v=spf1 exp=why.test ~all", &said).explanation, None);
    for text in ["TXT %{", "TXT caf\u{e9}", "FAILS"] {
        let found = outcome("v=spf1 exp=why.test -all", &[("why.test", text)]);
        assert_eq!((found.verdict, found.explanation), (Verdict::Fail, None), "{text}");
    }
    // Of the policy that was redirected to, and not of one that was included.
    let more = [
        ("why.test", "TXT because"),
        ("there.test", "TXT v=spf1 -all exp=why.test"),
        ("other.test", "TXT never"),
    ];
    let found = outcome("v=spf1 redirect=there.test exp=other.test", &more);
    assert_eq!(found.explanation.as_deref(), Some("because"));
    assert_eq!(outcome("v=spf1 include:there.test -all", &more).explanation, None);
    let long = format!("TXT {}", "x".repeat(5000));
    let found = outcome("v=spf1 exp=why.test -all", &[("why.test", &long)]);
    assert_eq!(found.explanation.map(|text| text.len()), Some(EXPLANATION_BYTES_MAX));
}

#[test]
fn who_is_asked_about() {
    let zone = Zone::new(&[
        ("mail.client.test", "TXT v=spf1 exists:%{l}.%{o}.ok.test -all"),
        ("postmaster.mail.client.test.ok.test", "A 127.0.0.2"),
        ("own.test", "TXT v=spf1 exists:%{p}.ok.test -all"),
        ("3.2.0.192.in-addr.arpa", "PTR x.own.test"),
        ("x.own.test", "A 192.0.2.3"),
        ("x.own.test.ok.test", "A 127.0.0.2"),
    ]);
    let null = Client { sender: "", ..client("192.0.2.3") };
    let (outcome, _) = zone.check(&null);
    assert_eq!((outcome.verdict, outcome.domain.as_str()), (Verdict::Pass, "mail.client.test"));
    let named = Client { sender: "@own.test", ..client("192.0.2.3") };
    assert_eq!(zone.check(&named).0.verdict, Verdict::Pass);
    let mapped = Client { sender: "@own.test", ..client("::ffff:192.0.2.3") };
    assert_eq!(zone.check(&mapped).0.verdict, Verdict::Pass);
    let stranger = Client { sender: "a@own.test", ..client("2001:db8::1") };
    assert_eq!(zone.check(&stranger).0.verdict, Verdict::Fail);
    assert!(zone.check(&null).0.steps.len() >= 2);
}

mod anything {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~]{0,80}") {
            let _ = verdict(&format!("v=spf1 {text}"), &[]);
            let _ = record::Record::parse(text.as_bytes());
            let _ = macros::Template::explanation(&text);
        }

        #[test]
        fn any_macro_is_read_or_refused(text in "(%[{]?[a-zA-Z0-9.%-]{0,4}[}]?){0,6}") {
            let _ = verdict(&format!("v=spf1 exists:{text}.test -all"), &[]);
        }
    }
}
