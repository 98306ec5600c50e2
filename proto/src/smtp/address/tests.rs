//! Tables for addresses, as far as they go beyond what the dialogues show.

use proptest::prelude::*;

use super::*;

fn mailbox(text: &str) -> Result<Path<'_>, AddressError> {
    Mailbox::parse(text).map(Path::Mailbox)
}

#[test]
fn paths_and_what_follows_them() {
    let jones = mailbox("jones@xyz.example");
    for (argument, path, rest) in [
        ("<>", Ok(Path::Null), ""),
        ("<> BODY=7BIT", Ok(Path::Null), " BODY=7BIT"),
        ("<Jones@XYZ.EXAMPLE>", mailbox("Jones@XYZ.EXAMPLE"), ""),
        ("  <jones@xyz.example> SIZE=1", jones, " SIZE=1"),
        ("jones@xyz.example", jones, ""),
        (" jones@xyz.example SIZE=1", jones, " SIZE=1"),
        ("<Postmaster>", Ok(Path::Postmaster("Postmaster")), ""),
        ("<postmaster@b.example>", mailbox("postmaster@b.example"), ""),
        ("<@a.example,@b.example:jones@xyz.example>", jones, ""),
        ("<@[192.0.2.1]:jones@xyz.example>", jones, ""),
    ] {
        assert_eq!(parse_path(argument), path.map(|path| (path, rest)), "{argument}");
    }
    for argument in [
        "",
        " ",
        "<",
        ">",
        "< >",
        "<jones@xyz.example",
        "jones@xyz.example>",
        "<jones>",
        "<@>",
        "<<jones@xyz.example>>",
        "<jones@xyz.example>SIZE=1",
        "<jones @xyz.example>",
        "<jones@ xyz.example>",
        "<jones@xyz.example >",
        "<@:a@b>",
        "<@a.example,:a@b>",
        "<@a.example,a@b>",
        "<@a.example a@b>",
        "<postmasterx>",
        "<a@b\tc>",
        "<jones@xyz.example>,<smith@xyz.example>",
        "\u{e9}",
    ] {
        assert!(parse_path(argument).is_err(), "{argument}");
    }
}

#[test]
fn local_parts() {
    for (text, plain) in [
        ("a", "a"),
        ("o'brien+tag", "o'brien+tag"),
        ("a.b.c", "a.b.c"),
        ("!#$%&'*+-/=?^_`{|}~", "!#$%&'*+-/=?^_`{|}~"),
        ("\"a.b\"", "a.b"),
        ("\"\"", ""),
        ("\"a b\"", "a b"),
        ("\"a@b>c\"", "a@b>c"),
        ("\"a\\\"b\\\\c\"", "a\"b\\c"),
        ("δοκιμή", "δοκιμή"),
    ] {
        let whole = format!("{text}@example.test");
        let parsed = Mailbox::parse(&whole).expect(text);
        assert_eq!(parsed.local_part().text(), text);
        assert_eq!(parsed.local_part().unquoted(), plain);
        assert_eq!(parsed.domain(), Domain::Name("example.test"));
        assert_eq!(parsed.text(), whole);
    }
    for text in [
        "",
        ".a",
        "a.",
        "a..b",
        "a b",
        "a\"b",
        "\"a",
        "a\"",
        "\"a\"b",
        "\"a\\\"",
        "\"a\nb\"",
        "a,b",
        "a:b",
        "a;b",
        "a<b",
        "a(c)",
        "a\\b",
        "a[b",
        "a\u{85}b",
        "a\u{2028}b",
        "\"\\\u{1}\"",
        "a\u{7f}",
    ] {
        let whole = format!("{text}@example.test");
        assert_eq!(Mailbox::parse(&whole), Err(AddressError::Syntax), "{whole:?}");
    }
}

#[test]
fn domains_and_literals() {
    let v4 = |s: &str| Ok(Domain::V4(s.parse().expect("an address")));
    let v6 = |s: &str| Ok(Domain::V6(s.parse().expect("an address")));
    for (text, domain) in [
        ("localhost", Ok(Domain::Name("localhost"))),
        ("3com.example", Ok(Domain::Name("3com.example"))),
        ("xn--bcher-kva.example", Ok(Domain::Name("xn--bcher-kva.example"))),
        ("bücher.example", Ok(Domain::Name("bücher.example"))),
        ("[192.0.2.1]", v4("192.0.2.1")),
        ("[IPv6:2001:db8::1]", v6("2001:db8::1")),
        ("[ipv6:::ffff:192.0.2.1]", v6("::ffff:192.0.2.1")),
        ("[x25:2041.70]", Ok(Domain::General { tag: "x25", content: "2041.70" })),
    ] {
        assert_eq!(Domain::parse(text), domain, "{text}");
    }
    for text in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a.example",
        "a-.example",
        "xn---",
        "a_b.example",
        "a b",
        "[",
        "[]",
        "[192.0.2]",
        "[192.0.2.256]",
        "[192.0.2.01]",
        "[2001:db8::1]",
        "[IPv6:]",
        "[IPv6:2001:db8::g]",
        "[IPv6:fe80::1%eth0]",
        "[x-:y]",
        "[-:y]",
        "[x:]",
        "[x:a b]",
        "[x:a\\b]",
        "[x:[y]",
        "[192.0.2.1]x",
        "a\u{a0}b.example",
    ] {
        assert_eq!(Domain::parse(text), Err(AddressError::Syntax), "{text}");
    }
}

#[test]
fn lengths_are_those_of_the_rfc() {
    let label = "d".repeat(LABEL_BYTES_MAX);
    let domain = |len: usize| {
        let mut name = format!("{label}.{label}.{label}.{label}");
        name.truncate(len);
        name
    };
    assert!(Domain::parse(&domain(DOMAIN_BYTES_MAX)).is_ok());
    assert_eq!(Domain::parse(&format!("{}x", domain(255))), Err(AddressError::TooLong));
    assert_eq!(Domain::parse(&format!("{label}d.example")), Err(AddressError::TooLong));
    assert_eq!(Domain::parse(&format!("[x:{}]", "y".repeat(252))), Err(AddressError::TooLong));
    let local = "l".repeat(LOCAL_PART_BYTES_MAX);
    assert!(Mailbox::parse(&format!("{local}@a")).is_ok());
    assert_eq!(Mailbox::parse(&format!("{local}l@a")), Err(AddressError::TooLong));
    // 64 octets, not characters.
    assert_eq!(Mailbox::parse(&format!("{}@a", "é".repeat(33))), Err(AddressError::TooLong));
    let path = |len: usize| format!("{local}@{}", domain(len - 2 - local.len() - 1));
    for (open, close) in [("<", ">"), ("", "")] {
        let wrap = |len| format!("{open}{}{close}", path(len));
        assert!(parse_path(&wrap(PATH_BYTES_MAX)).is_ok());
        assert_eq!(parse_path(&wrap(PATH_BYTES_MAX + 1)), Err(AddressError::TooLong));
    }
    let routed = format!("<@{}:{}>", domain(120), path(150));
    assert_eq!(parse_path(&routed), Err(AddressError::TooLong));
}

proptest! {
    /// Whatever is accepted can be echoed: no controls, bounded, and it parses again as itself.
    #[test]
    fn what_is_accepted_is_harmless(text in "[<>@\"\\\\a.b:,\\[\\] é\u{85}\u{2028}\t\r\n-]{0,24}") {
        if let Ok((path, rest)) = parse_path(&text) {
            let harmful = |c: char| c.is_control() || c == '\u{2028}';
            prop_assert!(!path.text().chars().any(harmful));
            prop_assert!(path.text().len() + 2 <= PATH_BYTES_MAX);
            prop_assert!(rest.is_empty() || rest.starts_with(' '));
            if let Path::Mailbox(mailbox) = path {
                prop_assert_eq!(Mailbox::parse(mailbox.text()), Ok(mailbox));
            }
        }
    }
}
