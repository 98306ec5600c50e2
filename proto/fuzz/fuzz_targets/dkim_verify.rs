//! Hostile signatures and keys: no bytes make the readers of lists, signatures and records panic,
//! and what a message is worth does not depend on how it was cut. The first byte says how long its
//! pieces are; what stands behind a byte 0xff is the record of every key.
#![no_main]

use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::dkim::header::Field;
use fsmtp_proto::dkim::record::{RSA_BITS_MAX, RSA_BITS_MIN, Record};
use fsmtp_proto::dkim::tags::Tags;
use fsmtp_proto::dkim::verify::{Judged, SIGNATURES_MAX, Signature, Verdict, Verifier, sum};
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Data, Found};
use fsmtp_proto::time::UnixTime;
use libfuzzer_sys::fuzz_target;

fn judged(message: &[u8], piece_bytes: usize, record: &[u8]) -> Vec<Judged> {
    let mut verifier = Verifier::new();
    message.chunks(piece_bytes).for_each(|piece| verifier.feed(piece));
    let message = verifier.finish();
    let mut known = Known::default();
    loop {
        match message.check(&known, UnixTime::from_ms(0)) {
            Next::Done(judged) => return judged,
            Next::Ask(questions) => {
                assert!((1..=SIGNATURES_MAX).contains(&questions.len()));
                for question in questions {
                    let records = vec![Data::Txt(record.into())];
                    let (name, ttl) = ("x".into(), Duration::ZERO);
                    let found = Found { name, records, secure: false, ttl };
                    known.put(question, Ok(Rc::new(found)));
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [piece_bytes, data @ ..] = data else { return };
    let at = data.iter().position(|&byte| byte == 0xff).unwrap_or(data.len());
    let (message, record) = data.split_at(at);
    let record = record.get(1..).unwrap_or_default();
    let _ = Tags::parse(record);
    if let Ok(record) = Record::parse(record) {
        assert!(record.bits == 256 || (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&record.bits));
    }
    let _ = Signature::parse(&Field::new(message));
    let whole = judged(message, message.len().max(1), record);
    assert!(whole.len() <= SIGNATURES_MAX);
    assert_eq!(whole, judged(message, usize::from(*piece_bytes) + 1, record));
    // Nobody finds a signature by chance.
    assert!(sum(&whole) != Verdict::Pass || record.len() > 40);
});
