//! Records and policies as people write them.

use super::*;
use proptest::prelude::*;

fn named(texts: &[&str]) -> Option<String> {
    id(texts.iter().map(|text| text.as_bytes())).map(str::to_owned)
}

#[test]
fn a_record_names_a_policy_when_there_is_just_one() {
    for (texts, expected) in [
        (&["v=STSv1; id=20160831085700Z;"][..], Some("20160831085700Z")),
        (&["v=STSv1;id=1"], Some("1")),
        (&["v=STSv1 ; id=a ; x=y;"], Some("a")),
        (&["v=spf1 -all", "v=STSv1; id=b;", "v=STSv10; id=c;"], Some("b")),
        (&["v=STSv1; id=a;", "v=STSv1; id=b;"], None),
        (&["v=STSv1; id=a; id=b;"], None),
        (&["v=STSv1"], None),
        (&["v=STSv1;"], None),
        (&["v=STSv1; id=;"], None),
        (&["v=STSv1; id=a-b;"], None),
        (&["V=STSv1; id=a;"], None),
        (&["v=STSv1; id=123456789012345678901234567890123;"], None),
        (
            &["v=STSv1; id=12345678901234567890123456789012;"],
            Some("12345678901234567890123456789012"),
        ),
        (&[], None),
    ] {
        assert_eq!(named(texts).as_deref(), expected, "{texts:?}");
    }
}

#[test]
fn a_policy_is_read_with_either_kind_of_line() {
    // The example of RFC 8461 §3.2.
    let text = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\n\
                mx: backupmx.example.com\nmax_age: 604800\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), text.replace(": ", "  :")] {
        let policy = Policy::parse(text.as_bytes()).unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs()), (Mode::Enforce, 604_800));
        for (host, named) in [
            ("mail.example.com", true),
            ("MAIL.example.com.", true),
            ("other.example.com", false),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("net", false),
            ("", false),
        ] {
            assert_eq!(policy.names(host), named, "{host}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let parse = |text: &str| Policy::parse(text.as_bytes());
    let mode = |text: &str| parse(text).map(|policy| policy.mode);
    assert_eq!(mode("version:STSv1\nmode:none\nmax_age:1"), Ok(Mode::None));
    assert_eq!(mode("version:STSv1\nmode:testing\nmx:a\nmax_age:1\nnew: x\nmx"), Ok(Mode::Testing));
    assert_eq!(mode("version:STSv1\nmode:none\nmode:enforce\nmax_age:1"), Ok(Mode::None));
    for (text, error) in [
        ("", PolicyError::Version),
        ("version: STSv2\nmode: none\nmax_age: 1", PolicyError::Version),
        ("version: STSv1\nmax_age: 1", PolicyError::Mode),
        ("version: STSv1\nmode: Enforce\nmax_age: 1", PolicyError::Mode),
        ("version: STSv1\nmode: none", PolicyError::MaxAge),
        ("version: STSv1\nmode: none\nmax_age: -1", PolicyError::MaxAge),
        ("version: STSv1\nmode: none\nmax_age: 31557601", PolicyError::MaxAge),
        ("version: STSv1\nmode: none\nmax_age: 99999999999", PolicyError::MaxAge),
        ("version: STSv1\nmode: enforce\nmax_age: 1", PolicyError::Hosts),
        ("version: STSv1\nmode: enforce\nmax_age: 1\nmx: *", PolicyError::Hosts),
        ("version: STSv1\nmode: enforce\nmax_age: 1\nmx: a.*.b", PolicyError::Hosts),
        ("version: STSv1\nmode: enforce\nmax_age: 1\nmx: a b", PolicyError::Hosts),
    ] {
        assert_eq!(parse(text), Err(error), "{text}");
    }
    let many =
        |count| format!("version:STSv1\nmode:enforce\nmax_age:1\n{}", "mx:a\n".repeat(count));
    assert!(parse(&many(PATTERNS_MAX)).is_ok());
    assert_eq!(parse(&many(PATTERNS_MAX + 1)), Err(PolicyError::Hosts));
    let long = format!("version:STSv1\nmode:none\nmax_age:1\n{}", "x".repeat(POLICY_BYTES_MAX));
    assert_eq!(parse(&long), Err(PolicyError::Text));
    assert_eq!(
        Policy::parse(b"version: STSv1\nmode: none\nmax_age: 1\nx: \xff"),
        Err(PolicyError::Text)
    );
}

proptest! {
    #[test]
    fn any_text_is_a_policy_or_none(
        lines in proptest::collection::vec(
            "version: STSv1|mode: (enforce|none)|mx: [*.a-z]{0,8}|max_age: [0-9]{0,11}|\\PC{0,20}",
            0..8,
        ),
        host in "[a-z.]{0,12}",
    ) {
        let text = lines.join("\n");
        if let Ok(policy) = Policy::parse(text.as_bytes()) {
            prop_assert!(policy.max_age <= MAX_AGE_MAX);
            let _ = policy.names(&host);
        }
        let _ = id([text.as_bytes()].into_iter());
    }
}
