//! Hostile name servers: no bytes make the reader of answers panic, keep more than its limit, or
//! take what was not asked for; and a lookup under any answers ends. The first byte chooses the
//! kind of records, and whether the bytes stand behind a header and a question that are ours; then
//! pieces parted by two bytes 0xfe 0xfd are one answer each, and an empty one is silence.
#![no_main]

use core::time::Duration;

use fsmtp_proto::dns::message::{Query, RANDOM_BYTES, RECORDS_MAX, Transport, from_stream};
use fsmtp_proto::dns::resolver::{ASKS_MAX, Heard, Lookup, Next, Settings, Trouble};
use fsmtp_proto::dns::testing::Reply;
use fsmtp_proto::dns::{Kind, Question};
use fsmtp_proto::time::Instant;
use libfuzzer_sys::fuzz_target;

const RANDOM: [u8; RANDOM_BYTES] = [0x55; RANDOM_BYTES];

/// `tail` as it is, or as what stands behind the question of an answer, its counts in front.
fn message(ours: bool, query: &[u8], tail: &[u8]) -> Vec<u8> {
    let (Some(reply), true) = (Reply::to(query), ours) else { return tail.to_vec() };
    let mut bytes = reply.bytes();
    let (head, tail) = tail.split_at(tail.len().min(8));
    // A response to a standard query whatever they are; the rest of the flags is free.
    for ((to, from), free) in bytes.iter_mut().skip(2).zip(head).zip([0x07, 0xff]) {
        *to = *to & !free | *from & free;
    }
    for (to, from) in bytes.iter_mut().skip(6).zip(head.iter().skip(2)) {
        *to = *from;
    }
    bytes.extend_from_slice(tail);
    bytes
}

fn check_answer(question: &Question, ours: bool, tail: &[u8]) {
    let query = Query::new(question, &RANDOM, true);
    let bytes = message(ours, query.bytes(), tail);
    for over in [Transport::Udp, Transport::Tcp] {
        let Ok(answer) = query.read(&bytes, over) else { continue };
        assert!(answer.records.len() <= RECORDS_MAX);
        for record in &answer.records {
            assert!([question.kind(), Kind::Cname].contains(&record.data.kind()));
            assert!(record.owner.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(!record.data.to_string().contains(['\n', '\0']));
        }
    }
    let _ = from_stream(tail);
}

fuzz_target!(|data: &[u8]| {
    let [pick, bytes @ ..] = data else { return };
    let kind = Kind::ALL[usize::from(pick & 0x7f) % Kind::ALL.len()];
    let ours = pick & 0x80 != 0;
    let Ok(question) = Question::new("a0.example", kind) else { return };
    check_answer(&question, ours, bytes);
    let settings = Settings { servers: 2, patience: Duration::from_secs(1), trusted: true };
    let mut now = Instant::default();
    let mut lookup = Lookup::new(question, settings, 0, now);
    let mut rest = bytes;
    for _ in 0..=ASKS_MAX {
        let (answer, until) = match lookup.next(now, &RANDOM) {
            Next::Done(_) => return,
            Next::Ask(ask) => {
                let end = rest.windows(2).position(|pair| pair == [0xfe, 0xfd]);
                let piece = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                rest = end.and_then(|end| rest.get(end + 2..)).unwrap_or_default();
                let answer = (!piece.is_empty()).then(|| message(ours, ask.message, piece));
                (answer, ask.until)
            }
        };
        if answer.is_none_or(|answer| lookup.heard(&answer) == Heard::Stray) {
            now = until;
            lookup.failed(Trouble::Silence);
        }
    }
    panic!("a lookup without end");
});
