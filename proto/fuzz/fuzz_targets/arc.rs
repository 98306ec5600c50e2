//! Hostile chains: no message makes the check or the sealer panic, and what is sealed passes when
//! it passed before, or was no chain. The first two bytes choose what the chain is said to be and
//! how long the results are; the rest is the message.
#![no_main]

use core::time::Duration;
use std::rc::Rc;
use std::sync::LazyLock;

use fsmtp_proto::arc::seal::{SealError, Sealing, Terms};
use fsmtp_proto::arc::{Judged, SETS_MAX, Verdict, check};
use fsmtp_proto::dkim::Key;
use fsmtp_proto::dkim::verify::{Message, Verifier};
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Data, Found};
use fsmtp_proto::time::UnixTime;
use libfuzzer_sys::fuzz_target;

/// PKCS #8 around a seed that is used nowhere else.
static KEY: LazyLock<Key> = LazyLock::new(|| {
    let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    Key::from_pkcs8("example.test", "s", &[&head[..], &[7; 32]].concat()).expect("a key")
});

fn read(message: &[u8]) -> Message {
    let mut verifier = Verifier::sealing();
    verifier.feed(message);
    verifier.finish()
}

fn judged(message: &Message) -> Judged {
    let mut known = Known::default();
    loop {
        match check(message, &known) {
            Next::Done(judged) => return judged,
            Next::Ask(questions) => {
                assert!((1..=SETS_MAX + 1).contains(&questions.len()));
                for question in questions {
                    let records = vec![Data::Txt(KEY.record().into_bytes().into())];
                    let (name, ttl) = ("x".into(), Duration::ZERO);
                    let found = Found { name, records, secure: false, ttl };
                    known.put(question, Ok(Rc::new(found)));
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [said, results, message @ ..] = data else { return };
    let read_once = read(message);
    let found = judged(&read_once);
    assert!(found.domains.len() <= SETS_MAX);
    let chain = match said % 4 {
        0 => Verdict::None,
        1 => Verdict::Pass,
        2 => Verdict::Fail,
        _ => found.verdict,
    };
    let results = String::from_utf8_lossy(message.get(..usize::from(*results)).unwrap_or_default());
    let terms = Terms::of(&KEY, &read_once, &results, UnixTime::from_ms(0));
    let sealing = match Sealing::begin(&read_once, chain, &terms) {
        Ok(sealing) => sealing,
        Err(error) => return assert_ne!(error, SealError::Key),
    };
    assert!(sealing.instance() <= SETS_MAX);
    let fields = sealing.finish(&KEY).expect("the key is that of the terms");
    let again = judged(&read(&[&fields, message].concat()));
    let good = chain == found.verdict && chain != Verdict::Fail;
    assert_eq!(again.verdict == Verdict::Pass, good, "{again:?}");
});
