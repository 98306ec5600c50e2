//! Sets that are made here, by our own check; other people's verifiers look at them in
//! tests/oracles.

use core::time::Duration;
use std::rc::Rc;

use super::*;
use crate::arc::{Judged, check};
use crate::dkim::key::tests::{ed25519_key, rsa_key};
use crate::dkim::verify::Verifier;
use crate::dns::known::{Known, Next};
use crate::dns::{Data, Found, Kind, Question};

const NOW: UnixTime = UnixTime::from_ms(1_700_000_000_000);
const MESSAGE: &str = "DKIM-Signature: v=1; x\r\nFrom: a@example.test\r\nSubject: x\r\n\
                       Subject: y\r\n\r\nbody  of it\r\n";
const RESULTS: &str = "mx.example.test; spf=pass smtp.mailfrom=a@example.test;\r\n\tdkim=none";

fn keys() -> [Key; 2] {
    [ed25519_key("hop.test", "e1"), rsa_key()]
}

fn read(message: &str) -> Message {
    let mut verifier = Verifier::sealing();
    verifier.feed(message.as_bytes());
    verifier.finish()
}

fn judged(message: &Message) -> Judged {
    let mut known = Known::default();
    for key in keys() {
        let records = vec![Data::Txt(key.record().into_bytes().into())];
        let found = Found { name: "x".into(), records, secure: false, ttl: Duration::ZERO };
        known.put(Question::new(&key.record_name(), Kind::Txt).unwrap(), Ok(Rc::new(found)));
    }
    match check(message, &known) {
        Next::Done(judged) => judged,
        Next::Ask(questions) => panic!("{questions:?}"),
    }
}

/// The message with a set more.
fn sealed(message: &str, chain: Verdict, key: &Key) -> Result<String, SealError> {
    let read = read(message);
    let sealing = Sealing::begin(&read, chain, &Terms::of(key, &read, RESULTS, NOW))?;
    let fields = String::from_utf8(sealing.finish(key)?).unwrap();
    Ok(fields + message)
}

/// Sealed by one host after another, each with the verdict that it finds.
fn chain_of(length: usize) -> String {
    let keys = keys();
    (0..length).fold(MESSAGE.to_owned(), |message, index| {
        let verdict = judged(&read(&message)).verdict;
        let key = if length < 5 { &keys[index % 2] } else { &keys[0] };
        format!("Received: by {index}\r\n{}", sealed(&message, verdict, key).unwrap())
    })
}

#[test]
fn what_is_sealed_here_passes() {
    for length in 1..5 {
        let message = chain_of(length);
        let found = judged(&read(&message));
        assert_eq!((found.verdict, found.domains.len()), (Verdict::Pass, length), "{found:?}");
        for (from, to) in [
            ("body  of", "body of the"),
            ("Subject: y", "Subject: z"),
            ("From:", "From: b@example.test\r\nFrom:"),
            ("DKIM-Signature: v=1", "DKIM-Signature: v=2"),
            ("spf=pass", "spf=fail"),
            ("t=1700000000\r\n", "t=1700000001\r\n"),
        ] {
            let found = judged(&read(&message.replacen(from, to, 1)));
            assert_eq!(found.verdict, Verdict::Fail, "{from} {to}");
        }
        let white = message.replace("body  of", "body of").replace("Subject: y", "Subject:  y ");
        assert_eq!(judged(&read(&white)).verdict, Verdict::Pass);
    }
}

#[test]
fn the_fields_are_short_and_in_order() {
    let message = chain_of(3);
    let fields: Vec<&str> = message.split("\r\n").collect();
    let names = fields.iter().filter(|line| !line.starts_with([' ', '\t']));
    let names: Vec<&str> = names.filter_map(|line| line.split_once(':')).map(|n| n.0).collect();
    let set = ["Received", "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"];
    assert_eq!(names[..12], [set, set, set].concat());
    for line in fields.iter().take_while(|line| !line.is_empty()) {
        assert!(line.len() <= LINE_BYTES_MAX && !line.ends_with(' '), "{line:?}");
    }
    let signed = message.contains("h=from:from:reply-to:subject:subject:subject:");
    assert!(signed && message.contains(" dkim-signature; i=1;"), "{message}");
    assert!(message.contains(" i=1;\r\n mx.example.test; spf=pass"), "{message}");
}

/// RFC 8617 §5.1.2
#[test]
fn a_broken_chain_is_sealed_once_by_its_last_set_alone() {
    let message = chain_of(2).replace("body", "other");
    assert_eq!(judged(&read(&message)).verdict, Verdict::Fail);
    let ended = sealed(&message, Verdict::Fail, &keys()[0]).unwrap();
    assert!(ended.starts_with("ARC-Seal: a=ed25519-sha256;"));
    assert!(ended.contains(" cv=fail; d=hop.test; i=3; s=e1; t=1700000000\r\n"), "{ended}");
    assert_eq!(judged(&read(&ended)).verdict, Verdict::Fail);
    let (keys, read_again) = (keys(), read(&message));
    let terms = Terms::of(&keys[0], &read_again, RESULTS, NOW);
    let mut texts = Vec::new();
    let sealing = Sealing::begin(&read_again, Verdict::Fail, &terms).unwrap();
    let signed = sealing.finish_with(|text| {
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        Some(vec![0; 64])
    });
    assert!(signed.is_ok() && texts.len() == 2);
    let names: Vec<&str> =
        texts[1].split("\r\n").filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["arc-authentication-results", "arc-message-signature", "arc-seal"]);
    for verdict in [Verdict::Fail, Verdict::Pass] {
        assert_eq!(sealed(&ended, verdict, &keys[0]), Err(SealError::Ended));
    }
    // Where there is no order at all the set is the one behind the highest.
    let garbage = format!("ARC-Seal: i=7; cv=none\r\nARC-Seal: nonsense\r\n{MESSAGE}");
    let ended = sealed(&garbage, Verdict::Fail, &keys[0]).unwrap();
    assert!(ended.contains(" i=8;"), "{ended}");
}

#[test]
fn fifty_sets_are_all() {
    let message = chain_of(SETS_MAX);
    assert_eq!(judged(&read(&message)).domains.len(), SETS_MAX);
    assert_eq!(sealed(&message, Verdict::Pass, &keys()[0]), Err(SealError::Ended));
}

#[test]
fn what_cannot_be_sealed_says_why() {
    let key = &keys()[0];
    assert_eq!(sealed(MESSAGE, Verdict::Pass, key), Err(SealError::Chain));
    assert_eq!(sealed(&chain_of(1), Verdict::None, key), Err(SealError::Chain));
    for white in [" ", "\t"] {
        let message = format!("{white}x\r\n{MESSAGE}");
        assert_eq!(sealed(&message, Verdict::None, key), Err(SealError::Start));
    }
    let message = read(MESSAGE);
    let begin = |change: &dyn Fn(&mut Terms<'_>)| {
        let mut terms = Terms::of(key, &message, RESULTS, NOW);
        change(&mut terms);
        Sealing::begin(&message, Verdict::None, &terms).map(|sealing| sealing.instance())
    };
    assert_eq!(begin(&|_| {}), Ok(1));
    assert_eq!(begin(&|terms| terms.domain = "a b"), Err(SealError::Name));
    assert_eq!(begin(&|terms| terms.selector = ""), Err(SealError::Name));
    for results in ["", " ", "a\r\nSubject: b", "a\nb", "a\rb", "a\0", "a\r\n\r\n b"] {
        assert_eq!(begin(&|terms| terms.results = results), Err(SealError::Results), "{results:?}");
    }
    let long = "x".repeat(RESULTS_BYTES_MAX + 1);
    for (results, good) in [(&long[1..], true), (&long[..], false)] {
        let terms = Terms::of(key, &message, results, NOW);
        assert_eq!(Sealing::begin(&message, Verdict::None, &terms).is_ok(), good);
    }
    for name in ["", "a b", "arc-seal", "a:b", "a;b"] {
        assert_eq!(begin(&|terms| terms.names.push(name.to_owned())), Err(SealError::Names));
    }
    let many = |terms: &mut Terms<'_>| terms.names = vec!["from".to_owned(); NAMES_MAX + 1];
    assert_eq!(begin(&many), Err(SealError::Names));

    let terms = Terms::of(key, &message, RESULTS, NOW);
    let sealing = Sealing::begin(&message, Verdict::None, &terms).unwrap();
    assert_eq!(sealing.clone().finish(&rsa_key()), Err(SealError::Key));
    assert_eq!(sealing.finish_with(|_| None), Err(SealError::Key));
    let mut plain = Verifier::new();
    plain.feed(MESSAGE.as_bytes());
    let plain = plain.finish();
    let begun = Sealing::begin(&plain, Verdict::None, &terms).map(drop);
    assert_eq!(begun, Err(SealError::NoHash));
}
