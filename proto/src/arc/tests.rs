//! Chains that are made here, and what is not one.

use core::time::Duration;
use std::rc::Rc;

use super::*;
use crate::dkim::key::tests::ed25519_key;
use crate::dkim::verify::Verifier;
use crate::dns::{Data, Found, Question, Reason};
use ring::digest::{SHA256, digest};

const MESSAGE: &str = "From: a@example.test\r\nSubject: x\r\n\r\nbody\r\n";

fn question() -> Question {
    Question::new("s._domainkey.hop.test", Kind::Txt).unwrap()
}

fn knowing() -> Known {
    let mut known = Known::default();
    let record = ed25519_key("hop.test", "s").record();
    let records = vec![Data::Txt(record.as_bytes().into())];
    let found = Found { name: "x".into(), records, secure: false, ttl: Duration::ZERO };
    known.put(question(), Ok(Rc::new(found)));
    known
}

/// The message with a set more, as its next hop would add it; `edit` changes tags of the three.
fn hop(message: &str, instance: usize, chain: &str, edit: impl Fn(&str) -> String) -> String {
    let key = ed25519_key("hop.test", "s");
    let signed = |field: &str, text: &dyn Fn(&Field<'_>) -> Vec<u8>| {
        let bare = edit(&format!("{field}; b="));
        let signature = key.sign(&text(&Field::new(bare.as_bytes()))).unwrap();
        format!("{bare}{}\r\n", crate::sasl::encode(&signature))
    };
    let hash = crate::sasl::encode(digest(&SHA256, b"body\r\n").as_ref());
    let common = format!("i={instance}; a=ed25519-sha256; d=hop.test; s=s");
    let fields = |message: &str| -> Vec<String> {
        let (header, _) = message.split_once("\r\n\r\n").unwrap();
        header.split("\r\n").map(str::to_owned).collect()
    };
    let put = |fields: &[String], text: &mut Vec<u8>| {
        for field in fields {
            Field::new(field.as_bytes()).put(Canon::Relaxed, text);
            text.extend_from_slice(b"\r\n");
        }
    };
    let line = format!("ARC-Message-Signature: {common}; h=from:subject; bh={hash}");
    let ams = signed(&line, &|own| {
        let mut text = Vec::new();
        for name in ["from:", "subject:"] {
            let all = fields(message);
            let last = all.iter().rfind(|field| field.to_lowercase().starts_with(name));
            put(last.map(core::slice::from_ref).unwrap_or_default(), &mut text);
        }
        own.put(Canon::Relaxed, &mut text);
        text
    });
    let aar = edit(&format!("ARC-Authentication-Results: i={instance}; hop.test; arc={chain}"));
    let with = format!("{aar}\r\n{ams}{message}");
    let seal = signed(&format!("ARC-Seal: {common}; cv={chain}"), &|own| {
        let mut text = Vec::new();
        for n in 1..=instance {
            for name in [RESULTS, SIGNATURE, SEAL] {
                let is = |field: &&String| {
                    let field = Field::new(field.as_bytes());
                    field.is(name) && super::instance(&field) == Some(n)
                };
                let all = fields(&with);
                put(&all.iter().filter(is).cloned().collect::<Vec<_>>(), &mut text);
            }
        }
        own.put(Canon::Relaxed, &mut text);
        text
    });
    format!("{seal}{with}")
}

fn plain(field: &str) -> String {
    field.to_owned()
}

fn judged(message: &str) -> Judged {
    let mut verifier = Verifier::new();
    verifier.feed(message.as_bytes());
    match check(&verifier.finish(), &knowing()) {
        Next::Done(judged) => judged,
        Next::Ask(questions) => panic!("{questions:?}"),
    }
}

fn fails(message: &str, why: &str) {
    let judged = judged(message);
    assert!(judged.verdict == Verdict::Fail && judged.why.contains(why), "{why}: {judged:?}");
}

#[test]
fn a_chain_passes_as_long_as_each_host_has_sealed_it() {
    assert_eq!(judged(MESSAGE).verdict, Verdict::None);
    let mut message = hop(MESSAGE, 1, "none", plain);
    for instance in 2..6 {
        let found = judged(&message);
        assert_eq!(
            (found.verdict, found.domains.len()),
            (Verdict::Pass, instance - 1),
            "{found:?}"
        );
        message = hop(&message, instance, "pass", plain);
    }
    // What a host on the way has added is no matter; what it has changed is.
    assert_eq!(judged(&format!("Received: by x\r\n{message}")).verdict, Verdict::Pass);
    fails(&message.replace("body\r\n", "other\r\n"), "body was changed");
    fails(&message.replace("Subject: x", "Subject: y"), "header was changed");
    let forged = message.replacen("i=1; hop.test; arc=none", "i=1; hop.test; arc=pass", 1);
    fails(&forged, "seal 1 is none of hop.test");
}

#[test]
fn what_is_out_of_order_is_no_chain() {
    let one = hop(MESSAGE, 1, "none", plain);
    fails(&hop(MESSAGE, 1, "pass", plain), "says that the chain was pass");
    fails(&hop(&one, 2, "none", plain), "says that the chain was none");
    fails(&hop(&one, 2, "fail", plain), "says that the chain was fail");
    fails(&hop(&one, 3, "pass", plain), "set 2 is not whole");
    fails(&hop(&one, 1, "none", plain), "has a field twice");
    fails(&hop(MESSAGE, 51, "none", plain), "no instance");
    fails(&hop(MESSAGE, 0, "none", plain), "no instance");
    let many = |field: &str| field.replace("i=1;", "i=111;");
    fails(&hop(MESSAGE, 1, "none", many), "no instance");
    for name in ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"] {
        let without = one.replacen(name, "X-Other", 1);
        fails(&without, "set 1 is not whole");
    }
}

#[test]
fn tags_that_may_not_be_or_must_are_looked_at() {
    for (from, to, why) in [
        ("cv=none", "cv=none; h=from", "it has h="),
        ("cv=none", "cv=none; t=x", "t= is none"),
        ("h=from:subject", "h=from:arc-seal", "it signs seals"),
        ("ed25519-sha256; d=hop.test; s=s; cv", "rsa-sha1; d=hop.test; s=s; cv", "proves nothing"),
        ("d=hop.test; s=s; cv", "s=s; cv", "it has no d="),
    ] {
        fails(&hop(MESSAGE, 1, "none", |field| field.replace(from, to)), why);
    }
    let long = format!("cv=none; x={}", "y".repeat(SIGNATURE_BYTES_MAX));
    fails(&hop(MESSAGE, 1, "none", |field| field.replace("cv=none", &long)), "too long");
}

#[test]
fn without_keys_nothing_is_proved() {
    let mut verifier = Verifier::new();
    verifier.feed(hop(MESSAGE, 1, "none", plain).as_bytes());
    let message = verifier.finish();
    let asked = check(&message, &Known::default());
    assert_eq!(asked, Next::Ask(vec![question(), question()]));
    for (failure, temporary) in
        [(Failure::NoSuchName, false), (Failure::Temporary(Reason::TimedOut), true)]
    {
        let mut known = Known::default();
        known.put(question(), Err(failure));
        let Next::Done(judged) = check(&message, &known) else { panic!() };
        assert_eq!((judged.verdict, judged.temporary), (Verdict::Fail, temporary));
    }
}
