//! Hostile policies: no bytes make the readers of policies and macros panic, and a check under any
//! answers ends, within its limits. Pieces parted by a byte 0xff: what the client says that it is
//! called, the sender, and then one answer each, texts or names by the kind that is asked; when
//! they are at an end they begin again.
#![no_main]

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Data, Failure, Found, Kind, Mx, Reason};
use fsmtp_proto::spf::macros::{DOMAIN_BYTES_MAX, Template};
use fsmtp_proto::spf::record::{Record, is_record};
use fsmtp_proto::spf::{Client, EXPLANATION_BYTES_MAX, HOSTS_MAX, LOOKUPS_MAX, check};
use fsmtp_proto::time::UnixTime;
use libfuzzer_sys::fuzz_target;

/// Each term asks for a policy or for hosts, and each of its hosts for an address; those of a
/// policy that nobody has, an explanation, and the client's own names come on top.
const ASKED_MAX: usize = (LOOKUPS_MAX as usize + 2) * (HOSTS_MAX + 2);

fn answer(kind: Kind, piece: &[u8]) -> Result<Rc<Found>, Failure> {
    let text = String::from_utf8_lossy(piece);
    let name = || text.as_ref().into();
    let data = match (kind, piece) {
        (_, []) => return Err(Failure::NoSuchName),
        (_, [0]) => return Err(Failure::Temporary(Reason::TimedOut)),
        (Kind::A, [last, ..]) => Data::A(Ipv4Addr::new(192, 0, 2, *last)),
        (Kind::Aaaa, [last, ..]) => {
            Data::Aaaa(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(*last)))
        }
        (Kind::Mx, _) => Data::Mx(Mx { preference: 0, exchange: name() }),
        (Kind::Ptr, _) => Data::Ptr(name()),
        _ => Data::Txt(piece.into()),
    };
    let records = vec![data; if piece.ends_with(b"*") { HOSTS_MAX + 2 } else { 1 }];
    Ok(Rc::new(Found { name: "x".into(), records, secure: false, ttl: Duration::ZERO }))
}

fuzz_target!(|data: &[u8]| {
    let pieces: Vec<&[u8]> = data.split(|&byte| byte == 0xff).collect();
    let [helo, sender, answers @ ..] = pieces.as_slice() else { return };
    for piece in answers {
        let text = String::from_utf8_lossy(piece);
        for template in [Template::parse(&text), Template::domain(&text)].into_iter().flatten() {
            let name = template.expand_domain(|_| "a.b-c.".repeat(40));
            assert!(name.len() <= DOMAIN_BYTES_MAX || !name.contains('.'));
        }
        if is_record(piece) {
            let _ = Record::parse(piece);
        }
    }
    let (helo, sender) = (String::from_utf8_lossy(helo), String::from_utf8_lossy(sender));
    let ip = if data.len() % 2 == 0 {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
    };
    let now = UnixTime::from_ms(0);
    let client = Client { ip, helo: &helo, sender: &sender, receiver: "mx.example", now };
    let mut known = Known::default();
    let mut next = answers.iter().cycle();
    let outcome = loop {
        match check(&client, &known) {
            Next::Done(outcome) => break outcome,
            Next::Ask(questions) => {
                assert!(!questions.is_empty());
                for question in questions {
                    let piece = next.next().copied().unwrap_or_default();
                    let answer = answer(question.kind(), piece);
                    known.put(question, answer);
                }
                assert!(known.len() <= ASKED_MAX, "a check without end");
            }
        }
    };
    let said = outcome.explanation.unwrap_or_default();
    assert!(said.len() <= EXPLANATION_BYTES_MAX);
    assert!(said.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
});
