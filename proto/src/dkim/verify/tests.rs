//! The verifier against our own signer, against what the RFCs print, and against what strangers may
//! write.

use core::time::Duration;
use std::rc::Rc;

use super::super::key::tests::{ed25519_key, rsa_key};
use super::super::{Key, Signer, Terms};
use super::*;
use crate::dns::{Data, Found, Question, Reason};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime::from_ms(1_700_000_000_000);
const MESSAGE: &str = "From: a@example.test\r\nSubject: x  y\r\nTo: b@there.test\r\n\r\nbody \r\n\
                       more\r\n\r\n\r\n";

fn found(record: &str) -> Result<Rc<Found>, Failure> {
    Ok(Rc::new(Found {
        name: "x".into(),
        records: vec![Data::Txt(record.as_bytes().into())],
        secure: false,
        ttl: Duration::ZERO,
    }))
}

fn knowing(records: &[(&str, &str)]) -> Known {
    let mut known = Known::default();
    for (name, record) in records {
        known.put(Question::new(name, Kind::Txt).unwrap(), found(record));
    }
    known
}

fn keys() -> [Key; 2] {
    [rsa_key(), ed25519_key("example.test", "e1")]
}

fn own() -> Known {
    let all = keys().map(|key| (key.record_name(), key.record()));
    knowing(&all.each_ref().map(|(name, record)| (name.as_str(), record.as_str())))
}

/// The message with a signature by each key in front.
fn signed(terms: Terms, message: &str) -> String {
    let mut signer = Signer::new(terms);
    signer.feed(message.as_bytes());
    let fields = signer.finish(&keys(), NOW).unwrap();
    String::from_utf8(fields).unwrap() + message
}

fn judged(message: &str, known: &Known) -> Vec<Judged> {
    let mut verifier = Verifier::new();
    verifier.feed(message.as_bytes());
    match verifier.finish().check(known, NOW) {
        Next::Done(all) => all,
        Next::Ask(questions) => panic!("{questions:?}"),
    }
}

fn verdicts(message: &str) -> Vec<Verdict> {
    judged(message, &own()).iter().map(|judged| judged.verdict).collect()
}

/// One signature by the Ed25519 key with these tags, before `b=` is made; `bh=` and `h=` too,
/// unless they are given.
fn made(tags: &str, message: &str) -> String {
    let (header, body) = message.split_once("\r\n\r\n").unwrap_or((message, ""));
    let mut front = format!("DKIM-Signature: v=1; a=ed25519-sha256; s=e1; {tags}");
    for (name, value) in [("d=", "example.test"), ("h=", "from"), ("c=", "simple/simple")] {
        if !tags.split("; ").any(|tag| tag.starts_with(name)) {
            front += &format!("; {name}{value}");
        }
    }
    if !tags.contains("bh=") {
        let covered = tags.split_once("l=").map(|(_, rest)| {
            let digits = rest.split(';').next().unwrap_or_default();
            digits.trim().parse::<usize>().unwrap_or(usize::MAX)
        });
        let mut form = Vec::new();
        let mut whole = Body::new(Canon::Simple);
        whole.feed(body.as_bytes(), &mut |piece| form.extend_from_slice(piece));
        whole.finish(&mut |piece| form.extend_from_slice(piece));
        form.truncate(covered.unwrap_or(usize::MAX));
        let hash = crate::sasl::encode(digest::digest(&digest::SHA256, &form).as_ref());
        front += &format!("; bh={hash}");
    }
    front += "; b=";
    let signature = Signature::parse(&Field::new(format!("{front}AAAA").as_bytes())).unwrap();
    let lines: Vec<Field<'_>> =
        header.split("\r\n").map(|line| Field::new(line.as_bytes())).collect();
    let text = signature.text(&lines, usize::MAX);
    let [_, key] = keys();
    let b = crate::sasl::encode(&key.sign(&text).unwrap());
    format!("{front}{b}\r\n{message}")
}

#[test]
fn what_we_sign_verifies_in_every_form_and_not_when_it_was_changed() {
    for header in [Canon::Simple, Canon::Relaxed] {
        for body in [Canon::Simple, Canon::Relaxed] {
            let message = signed(Terms { header, body, valid: None }, MESSAGE);
            assert_eq!(verdicts(&message), [Verdict::Pass; 2], "{header:?} {body:?}");
            let respaced = message.replace("x  y", "x y").replace("body \r\n", "body\r\n");
            let both = (header, body) == (Canon::Relaxed, Canon::Relaxed);
            let wanted = if both { Verdict::Pass } else { Verdict::Fail };
            assert_eq!(verdicts(&respaced), [wanted; 2], "{header:?} {body:?}");
            for (was, is) in [("more", "less"), ("x  y", "x  z"), ("a@example", "b@example")] {
                assert_eq!(verdicts(&message.replace(was, is)), [Verdict::Fail; 2], "{was}");
            }
            // A second Subject, in front: oversigned.
            let added = format!("Subject: other\r\n{message}");
            assert_eq!(verdicts(&added), [Verdict::Fail; 2]);
            // What the transport adds breaks nothing.
            assert_eq!(verdicts(&format!("Received: by x\r\n{message}")), [Verdict::Pass; 2]);
        }
    }
    let all = judged(&signed(Terms::default(), MESSAGE), &own());
    assert_eq!((all[0].bits, all[1].bits), (2048, 256));
    assert_eq!(
        (all[0].domain.as_str(), all[0].identity.as_str()),
        ("example.test", "@example.test")
    );
    assert_eq!((all[1].selector.as_str(), all[1].mark.len()), ("e1", 8));
    assert_eq!(verdicts(MESSAGE), []);
    assert_eq!(sum(&judged(MESSAGE, &own())), Verdict::None);
}

#[test]
fn a_message_may_come_cut_anywhere() {
    let message = signed(Terms::default(), MESSAGE);
    for cut in 0..=message.len() {
        let mut verifier = Verifier::new();
        let (front, rest) = message.as_bytes().split_at(cut);
        verifier.feed(front);
        verifier.feed(rest);
        let Next::Done(all) = verifier.finish().check(&own(), NOW) else { panic!() };
        assert_eq!(sum(&all), Verdict::Pass, "{cut}");
    }
}

#[test]
fn tags_mean_what_the_rfc_says() {
    let verdict = |tags: &str| {
        let all = judged(&made(tags, MESSAGE), &own());
        (all[0].verdict, all[0].why.clone())
    };
    for tags in [
        "i=me@example.test",
        "i=@sub.example.test",
        "t=1600000000",
        "x=1700000001",
        "q=dns/txt:other",
        "z=From:a",
        "l=0",
        "l=5",
        "h=From : Subject:subject:from:to",
        "d=EXAMPLE.test",
        "unknown=1",
    ] {
        assert_eq!(verdict(tags), (Verdict::Pass, String::new()), "{tags}");
    }
    for (tags, why) in [("x=1700000000", "expired"), ("l=4000", "body was changed")] {
        let (verdict, said) = verdict(tags);
        assert!(verdict == Verdict::Fail && said.contains(why), "{tags}: {verdict} {said}");
    }
    // What stands behind what is covered may be anything.
    let covered = made("l=12", MESSAGE);
    assert_eq!(verdicts(&format!("{covered}more and more\r\n")), [Verdict::Pass]);
    let more = &judged(&format!("{covered}more\r\n"), &own())[0];
    assert_eq!((more.length, more.is_partial), (Some(12), true));
    assert!(!judged(&made("q=dns/txt", MESSAGE), &own())[0].is_partial);
}

/// Else who adds a signature that is broken anyway could keep a message from being judged, by a
/// name server that is silent.
#[test]
fn what_has_failed_for_sure_needs_no_key() {
    let changed = made("q=dns/txt", MESSAGE).replace("body", "bodies");
    for message in [changed, made("x=1700000000", MESSAGE)] {
        assert_eq!(judged(&message, &Known::default())[0].verdict, Verdict::Fail);
    }
}

#[test]
fn what_is_no_signature_is_a_permanent_error() {
    let whole = "v=1; a=rsa-sha256; d=example.test; s=r1; h=from; bh=AAAA; b=AAAA";
    let why = |tags: &str| Signature::parse(&Field::new(format!("x:{tags}").as_bytes())).err();
    assert_eq!(why(whole), None);
    for name in ["v", "a", "d", "s", "h", "bh", "b"] {
        let without: Vec<&str> =
            whole.split("; ").filter(|tag| !tag.starts_with(&format!("{name}="))).collect();
        assert_eq!(why(&without.join("; ")), Some(format!("it has no {name}=")));
    }
    for (from, to, said) in [
        ("v=1", "v=2", "version"),
        ("rsa-sha256", "rsa-sha1", "rsa-sha1"),
        ("rsa-sha256", "rsa-md5", "rsa-md5"),
        ("h=from", "h=subject", "From is not signed"),
        ("b=AAAA", "b=A*A", "Base64"),
        ("bh=AAAA", "bh=*", "Base64"),
        ("d=", "c=nowsp; d=", "canonical"),
        ("d=", "i=a@test; d=", "another domain"),
        ("d=", "i=a@notexample.test; d=", "another domain"),
        ("d=", "i=a; d=", "no address"),
        ("d=", "q=x; d=", "not in the DNS"),
        ("d=", "l=-1; d=", "l="),
        ("d=", "l=1x; d=", "l="),
        ("d=", "t=1; x=1; d=", "ends before"),
        ("d=", "x=9999999999999; d=", "x="),
        ("d=", "d=x.test; d=", "twice"),
    ] {
        let why = why(&whole.replace(from, to)).unwrap_or_default();
        assert!(why.contains(said), "{from} as {to}: {why}");
    }
    let names = "x:".repeat(NAMES_MAX - 1) + "from";
    assert_eq!(why(&whole.replace("h=from", &format!("h={names}"))), None);
    let said = why(&whole.replace("h=from", &format!("h=y:{names}")));
    assert_eq!(said, Some("it signs too many fields".to_owned()));
    let long = format!("{whole}; z={}", "x".repeat(SIGNATURE_BYTES_MAX));
    assert_eq!(why(&long), Some("it is too long".to_owned()));
    let all = judged(&format!("DKIM-Signature: nonsense\r\n{MESSAGE}"), &own());
    assert_eq!((all[0].verdict, all[0].domain.as_str()), (Verdict::Permerror, ""));
}

/// Which of several a reader is shown nobody knows, so who wants to be sure names From once more;
/// without one there is nothing that a signature could answer for.
#[test]
fn several_authors_or_none_have_a_defined_verdict() {
    let plain = made("t=1", MESSAGE);
    let sure = made("h=from:from", MESSAGE);
    let added = "From: other@evil.test\r\n";
    // RFC 6376 §5.4.2: from the last to the first, as often as they are named.
    for (message, verdict) in [
        (format!("{added}{plain}"), Verdict::Pass),
        (plain.replace("\r\n\r\nbody", "\r\nFrom: other@evil.test\r\n\r\nbody"), Verdict::Fail),
        (format!("{added}{sure}"), Verdict::Fail),
        (plain.replace("From: a@example.test\r\n", ""), Verdict::Fail),
        (made("h=from", "Subject: x\r\n\r\nbody\r\n"), Verdict::Pass),
    ] {
        assert_eq!(verdicts(&message), [verdict], "{message}");
    }
}

/// The signature is refused by its length, before it is read, and the next one counts.
#[test]
fn a_signature_of_100_kib_is_passed_over() {
    let good = made("t=1", MESSAGE);
    for bad in ["z=x", "h=from", "b=AAAA", "unknown=1"] {
        let long = format!("DKIM-Signature: v=1; {bad}{}", "AAAA".repeat(25 * 1024));
        let all = judged(&format!("{long}\r\n{good}"), &own());
        let found: Vec<_> = all.iter().map(|judged| (judged.verdict, &*judged.why)).collect();
        assert_eq!(found, [(Verdict::Permerror, "it is too long"), (Verdict::Pass, "")]);
    }
}

#[test]
fn keys_are_what_their_records_say() {
    let message = made("i=me@sub.example.test", MESSAGE);
    let [_, key] = keys();
    let record = key.record();
    let with = |record: &str| {
        let all = judged(&message, &knowing(&[("e1._domainkey.example.test", record)]));
        (all[0].verdict, all[0].why.clone(), all[0].testing)
    };
    for more in ["", "; t=y", "; s=email", "; s=*", "; h=sha1:sha256", "; n=note; x=y"] {
        let (verdict, why, testing) = with(&format!("{record}{more}"));
        assert_eq!((verdict, testing), (Verdict::Pass, more == "; t=y"), "{more}: {why}");
    }
    let p = record.rsplit_once("p=").unwrap().1;
    for (record, said) in [
        (format!("{record}; t=s"), "below its domain"),
        (format!("{record}; s=tls"), "not for mail"),
        (format!("{record}; h=sha1"), "SHA-256"),
        ("v=DKIM1; k=ed25519; p=".to_owned(), "revoked"),
        ("v=DKIM1; k=ed25519".to_owned(), "no key"),
        ("v=DKIM1; k=ed25519; p=AAAA".to_owned(), "cannot be read"),
        ("v=DKIM1; k=ed25519; p=*".to_owned(), "cannot be read"),
        (format!("k=ed25519; v=DKIM1; p={p}"), "no record of DKIM"),
        (format!("v=DKIM2; k=ed25519; p={p}"), "no record of DKIM"),
        (format!("v=DKIM1; k=dsa; p={p}"), "kind of key is not known"),
        (format!("v=DKIM1; p={p}"), "cannot be read"),
        (rsa_key().record(), "of another kind"),
        ("nonsense".to_owned(), "no list of tags"),
    ] {
        let (verdict, why, _) = with(&record);
        assert!(verdict == Verdict::Permerror && why.contains(said), "{record}: {verdict} {why}");
    }
}

#[test]
fn rsa_keys_of_every_length_have_a_defined_verdict() {
    /// An `RSAPublicKey` with a modulus of that many bits.
    fn rsa(bits: usize) -> String {
        let length = |n: usize| {
            let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
            [0x82, high, low]
        };
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        let inner = [&[2][..], &length(modulus.len()), &modulus, &[2, 3, 1, 0, 1]].concat();
        let der = [&[0x30][..], &length(inner.len()), &inner].concat();
        format!("v=DKIM1; p={}", crate::sasl::encode(&der))
    }
    for (bits, good) in
        [(512, false), (1016, false), (1024, true), (4096, true), (4104, false), (16_384, false)]
    {
        let record = Record::parse(rsa(bits).as_bytes());
        assert_eq!(record.as_ref().is_ok_and(|record| record.bits == bits), good, "{bits}");
    }
    use super::super::record::BadRecord;
    assert_eq!(Record::parse(rsa(512).as_bytes()), Err(BadRecord::Bits(512)));
}

/// Three bytes behind the key: other verifiers disagree about them, the RFC does not.
#[test]
fn nothing_stands_behind_an_rsa_key() {
    use super::super::record::BadRecord;
    let record = rsa_key().record();
    assert!(Record::parse(record.as_bytes()).is_ok());
    // RFC 6376 §6.1.2, step 4
    assert_eq!(Record::parse(format!("{record}AAAA").as_bytes()), Err(BadRecord::Key));
}

#[test]
fn without_an_answer_nobody_knows_and_without_a_key_there_is_none() {
    let message = made("t=1", MESSAGE);
    let mut verifier = Verifier::new();
    verifier.feed(message.as_bytes());
    let message = verifier.finish();
    let question = Question::new("e1._domainkey.example.test", Kind::Txt).unwrap();
    assert_eq!(message.check(&Known::default(), NOW), Next::Ask(vec![question.clone()]));
    for (failure, verdict) in [
        (Failure::Temporary(Reason::TimedOut), Verdict::Temperror),
        (Failure::AliasLoop, Verdict::Temperror),
        (Failure::NoSuchName, Verdict::Permerror),
        (Failure::NoData, Verdict::Permerror),
    ] {
        let mut known = Known::default();
        known.put(question.clone(), Err(failure));
        let Next::Done(all) = message.check(&known, NOW) else { panic!() };
        assert_eq!((all[0].verdict, sum(&all)), (verdict, verdict));
    }
}

#[test]
fn signatures_beyond_the_limit_are_passed_over() {
    let one = made("t=1", MESSAGE);
    let (signature, _) = one.split_once("\r\nFrom").unwrap();
    let bad = format!("{}\r\n", signature.replace("v=1", "v=2"));
    let nine = format!("{}{one}", bad.repeat(SIGNATURES_MAX - 1));
    assert_eq!(sum(&judged(&nine, &own())), Verdict::Pass);
    let ten = format!("{}{one}", bad.repeat(SIGNATURES_MAX));
    let all = judged(&ten, &own());
    assert_eq!((all.len(), sum(&all)), (SIGNATURES_MAX, Verdict::Permerror));
    // A header over its limits has none that count.
    let long = format!("X: {}\r\n{one}", "x".repeat(300_000));
    assert_eq!(judged(&long, &own()), []);
}

proptest! {
    #[test]
    fn any_signature_is_judged(tags in "[ -~]{0,60}", value in "[a-z0-9=; :/@.]{0,60}") {
        let _ = judged(&format!("DKIM-Signature: {tags}\r\n{MESSAGE}"), &own());
        let parsed = Signature::parse(&Field::new(format!("x:{value}").as_bytes()));
        prop_assert!(parsed.is_err());
        let _ = Record::parse(value.as_bytes());
        let _ = Record::parse(format!("p={value}").as_bytes());
    }
}
