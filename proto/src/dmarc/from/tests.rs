//! From fields that people, programs and strangers write.

use super::*;
use crate::dkim::header::fields;
use proptest::prelude::*;

fn of(header: &[u8]) -> Result<Vec<String>, BadFrom> {
    authors(&fields(header).unwrap())
}

fn from(value: &str) -> Result<String, BadFrom> {
    of(format!("From: {value}\r\nTo: x@y.example\r\n").as_bytes()).map(|all| all.join(" "))
}

#[test]
fn one_author_has_one_domain() {
    for value in [
        "a@d.example",
        "<a@d.example>",
        " A B <a@D.Example> ",
        "\"B, A <x@y.example>\" <a@d.example>",
        "\"quote \\\" <b@e.example>\" <a@d.example>",
        "J. Q. Public <a@d.example>",
        "=?utf-8?Q?x=40y=2Eexample?= <a@d.example>",
        "(b@e.example (nested \\) <c@f.example>)) a@d.example (more)",
        "a (x) @ (y) d.example (z)",
        "Name <\"odd @ part\"@d.example>",
        "Name\r\n\t<a@d.example>",
        "\"folded\r\n name\" <a@d.example>",
        "Fran\u{e7}ois <fran\u{e7}ois@d.example>",
        "a@d.example, B <b@D.EXAMPLE>",
        "team: a@d.example, b@d.example;",
        "a@[192.0.2.1], b@d.example",
        "a..b.@d.example",
    ] {
        assert_eq!(from(value), Ok("d.example".to_owned()), "{value}");
    }
}

#[test]
fn several_authors_have_several_domains() {
    assert_eq!(from("a@d.example, b@e.example"), Ok("d.example e.example".to_owned()));
    assert_eq!(from("g: a@d.example; , b@e.example"), Ok("d.example e.example".to_owned()));
}

#[test]
fn names_beyond_ascii_are_looked_up_by_their_a_labels() {
    assert_eq!(from("a@b\u{fc}cher.example"), Ok("xn--bcher-kva.example".to_owned()));
    assert_eq!(from("a@B\u{dc}CHER.example"), Ok("xn--bcher-kva.example".to_owned()));
    assert_eq!(from("a@XN--bcher-kva.example"), Ok("xn--bcher-kva.example".to_owned()));
    assert_eq!(from("a@d\u{3002}example"), Ok("d.example".to_owned()));
    for bad in ["a@\u{202e}d.example", "a@x\u{ff20}d.example", "a@\u{ff0f}.example", "a@*.example"]
    {
        assert!(matches!(from(bad), Err(BadFrom::Domain | BadFrom::Syntax)), "{bad}");
    }
}

#[test]
fn of_what_can_be_read_in_several_ways_every_domain_is_an_author() {
    for (value, domains) in [
        ("a@d.example <A@D.example>", "d.example"),
        ("a@d.example <b@e.example>", "d.example e.example"),
        ("<a@d.example> <b@e.example>", "d.example e.example"),
        ("'a@d.example' <b@e.example>", "d.example e.example"),
        ("\"B, a@f.example\" <a@d.example> x", "f.example d.example"),
        ("(b@f.example) <a@d.example> x", "f.example d.example"),
        ("\"(\" a@d.example b@e.example", "d.example e.example"),
        ("a@d.example b@e.example", "d.example e.example"),
        ("a@d.example,", "d.example"),
        ("@d.example@e.example.", "d.example e.example"),
        ("@d.example@e.example.\r\n\t", "d.example e.example"),
        ("a@d.example (Jane),", "d.example"),
        (", a@d.example", "d.example"),
        ("a@d.example,,b@e.example", "d.example e.example"),
        ("Doe, Jane <a@d.example>", "d.example"),
        ("Doe, =?utf-8?Q?J=C3=BCrgen?= <a@d.example>", "d.example"),
        ("Doe, =?utf-8?B?SsO8cmdlbg==?= <a@d.example>", "d.example"),
        ("Jane [x] <a@d.example>", "d.example"),
        ("Jane <a@d.example.>", "d.example"),
        ("Sales @ Our Company <a@d.example>", "d.example"),
        ("50 @ 7 <a@d.example> x", "d.example"),
        ("<a@d.example", "d.example"),
        ("a@d.example>", "d.example"),
        ("@d.example", "d.example"),
        ("<@x.example:a@d.example>", "x.example d.example"),
        ("\"a\" b@d.example", "d.example"),
        ("\"a@d.example", "d.example"),
        ("(a@d.example", "d.example"),
        ("a) b@d.example", "d.example"),
        ("g: a@d.example", "d.example"),
        ("g: h: a@d.example;;", "d.example"),
        ("a@[192.0.2.1] <b@d.example>", "d.example"),
        ("x a@d\u{3002}example", "d.example"),
        ("a@@d.example@e.example", "d.example e.example"),
    ] {
        assert_eq!(from(value), Ok(domains.to_owned()), "{value}");
    }
    let five = "x a@a.b, a@b.b, a@c.b, a@d.b, a@e.b";
    assert_eq!(from(five), Err(BadFrom::TooManyDomains));
    let many = format!("x {}", "a@d.example ".repeat(ADDRESSES_MAX + 1));
    assert_eq!(from(&many), Err(BadFrom::TooManyAddresses));
    assert_eq!(of(b"From: \xff\xfe <a@d.example>\r\n"), Ok(vec!["d.example".to_owned()]));
}

#[test]
fn what_hides_a_domain_is_not_read() {
    for value in [
        "a@d.example. b",
        "a@d. example",
        "a@d .example",
        "a@d.example (\\",
        "a@[192.0.2.1",
        "x@[<boss@d.example>], a@e.example",
        "boss@[d.example]",
        "x@[IPv6:d.example]",
        // What some take away, to go on with the name.
        "b@d.(x)example, a@e.example",
        "b@d(x).example, a@e.example",
        "b@d (x) .example, a@e.example",
        "x b@(x)d.example, a@e.example",
        "b@d\\.example, a@e.example",
        "b@\"d.example\", a@e.example",
        "b@d\"\".example, a@e.example",
        "b@d<.example>, a@e.example",
        "b@<d.example>, a@e.example",
        "b@d%2eexample, a@e.example",
        // What some decode before they read it.
        "=?utf-8?B?PGJvc3NAc3RyaWN0LnRlc3Q+?=, <a@e.example>",
        "=?utf-8?Q?boss=40d.example?=, a@e.example",
        "=?utf-7?Q?boss+AEA-d.example?=, a@e.example",
        "=?utf-8?X?boss?=, a@e.example",
        "=?utf-8?B?%%%?=, a@e.example",
        "=?utf-8?Q?boss, a@e.example",
        "x y, boss@=?utf-8?Q?d.example?=, a@e.example",
        "boss\u{ff20}d.example, a@e.example",
        "boss\u{fe6b}d.example, a@e.example",
        // Nothing of that kind belongs there.
        "b@d\0.example, a@e.example",
        "b@\u{1}d.example, a@e.example",
        "b@d\u{7f}.example, a@e.example",
        "\"\0\" <a@d.example>",
        "\u{b}<a@d.example>",
    ] {
        assert_eq!(from(value), Err(BadFrom::Syntax), "{value}");
    }
    for value in [
        "a@.d.example x",
        "x a@d..example",
        "x a@d.example, b@\u{202e}e.example",
        "boss@xn--strict-.example",
        "boss@xn--a.example <a@d.example>",
    ] {
        assert_eq!(from(value), Err(BadFrom::Domain), "{value}");
    }
    assert_eq!(of(b"From: a@\xff.example\r\n"), Err(BadFrom::Syntax));
    assert_eq!(from("a@xn--bcher-kva.example"), Ok("xn--bcher-kva.example".to_owned()));
}

#[test]
fn who_has_no_domain_is_nobody() {
    for value in [
        "root",
        "Cron Daemon <root>",
        "MAILER-DAEMON (Mail Delivery System)",
        "Bounces <MAILER-DAEMON>",
        "<>",
        "a;b",
        "",
        "x a@example",
        "a@",
    ] {
        assert_eq!(from(value), Err(BadFrom::Nobody), "{value}");
    }
}

#[test]
fn there_must_be_one_field_with_somebody_in_it() {
    assert_eq!(of(b"To: a@d.example\r\n"), Err(BadFrom::Missing));
    let twice = b"From: a@d.example\r\nSubject: x\r\nfrom : a@d.example\r\n";
    assert_eq!(of(twice), Err(BadFrom::Several));
    assert_eq!(from("nobody:;"), Err(BadFrom::Nobody));
    assert_eq!(from("a@[IPv6:2001:db8::1]"), Err(BadFrom::Nobody));
    for bad in [BadFrom::Missing, BadFrom::Nobody] {
        assert!(bad.is_absence());
    }
    assert!(!BadFrom::Several.is_absence() && !BadFrom::Syntax.is_absence());
}

#[test]
fn limits_are_kept() {
    let many = |count: usize, domains: usize| {
        let one = |n: usize| format!("a@d{}.example", n % domains);
        from(&(0..count).map(one).collect::<Vec<_>>().join(", "))
    };
    assert!(many(ADDRESSES_MAX, DOMAINS_MAX).is_ok());
    assert_eq!(many(ADDRESSES_MAX + 1, 1), Err(BadFrom::TooManyAddresses));
    assert_eq!(many(DOMAINS_MAX + 1, DOMAINS_MAX + 1), Err(BadFrom::TooManyDomains));
    let long = |bytes: usize| from(&format!("{:bytes$}", "a@d.example"));
    // The space behind the colon counts.
    assert_eq!(long(FROM_BYTES_MAX - 1), Ok("d.example".to_owned()));
    assert_eq!(long(FROM_BYTES_MAX), Err(BadFrom::TooLong));
    let label = "a".repeat(63);
    assert_eq!(from(&format!("a@{label}a.example")), Err(BadFrom::Domain));
    assert_eq!(from(&format!("a@{}", [&*label; 4].join("."))), Err(BadFrom::Domain));
}

proptest! {
    #[test]
    fn whatever_is_read_can_be_asked_for(value in "[ab.@<>,;:\"() \\\\\u{fc}\\[\\]]{0,20}") {
        if let Ok(all) = of(format!("From: {value}\r\n").as_bytes()) {
            let folded = of(format!("From:\r\n {value}\r\n\t\r\n").as_bytes());
            prop_assert_eq!(folded.as_ref(), Ok(&all));
            prop_assert!((1..=DOMAINS_MAX).contains(&all.len()));
            for domain in all {
                prop_assert_eq!(canonical(&domain), Some(domain));
            }
        }
    }
}
