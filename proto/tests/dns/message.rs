//! Queries and answers, octet by octet, and any bytes in their place.

use core::time::Duration;

use fsmtp_proto::dns::message::{
    Answer, MESSAGE_BYTES_MAX, Misread, Query, RECORDS_MAX, STREAM_BYTES_MAX, Transport,
    from_stream, to_stream,
};
use fsmtp_proto::dns::testing::{Asked, Reply, number};
use fsmtp_proto::dns::{Data, Kind, Tlsa};
use proptest::prelude::*;

use super::{RANDOM, a, alias, mx, question};

fn query(kind: Kind) -> Query {
    Query::new(&question("mx.example.org", kind), &RANDOM, false)
}

fn reply(query: &Query) -> Reply {
    Reply::to(query.bytes()).unwrap()
}

#[test]
fn a_query_is_what_the_rfcs_say() {
    let expected: &[u8] =
        b"\x55\x55\x01\x20\0\x01\0\0\0\0\0\x01\x02Mx\x07ExAmPlE\x03oRg\0\0\x0f\0\x01\
        \0\0\x29\x04\xd0\0\0\0\0\0\0";
    // The case of a letter is the bit at its place in the name, dots counted.
    let query = query(Kind::Mx);
    let name = Asked::read(query.bytes()).unwrap().name;
    let cased: Vec<u8> = "mx.example.org"
        .bytes()
        .enumerate()
        .map(|(at, byte)| if at % 2 == 0 { byte.to_ascii_uppercase() } else { byte })
        .collect();
    assert_eq!(name.as_bytes(), cased);
    assert!(query.bytes().eq_ignore_ascii_case(expected), "{}", query.bytes().escape_ascii());
    let signed = Query::new(&question("mx.example.org", Kind::Mx), &RANDOM, true);
    let (plain, signed) = (query.bytes(), signed.bytes());
    let different: Vec<usize> = (0..plain.len()).filter(|&at| plain[at] != signed[at]).collect();
    assert_eq!((different.as_slice(), signed[plain.len() - 4]), (&[plain.len() - 4][..], 0x80));
}

#[test]
fn the_longest_name_is_asked_for() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let query = Query::new(&question(&name, Kind::A), &[0; 34], false);
    let asked = Asked::read(query.bytes()).unwrap();
    assert_eq!((asked.name.as_str(), asked.end), (name.as_str(), 12 + 255 + 4));
    let answer = reply(&query).answer(&name, 60, &a(1)).bytes();
    let answer = query.read(&answer, Transport::Udp).unwrap();
    assert_eq!(answer.records[0].owner.len(), 253);
}

#[test]
fn each_kind_of_record_is_read() {
    let tlsa = Tlsa { usage: 3, selector: 1, matching: 2, data: vec![7; 64].into() };
    let long: Vec<u8> = (0..600u32).map(|n| n as u8).collect();
    for data in [
        a(1),
        Data::Aaaa("2001:db8::1".parse().unwrap()),
        mx(10, "mx1.example.org"),
        mx(0, ""),
        Data::Txt(long.into()),
        Data::Txt(b""[..].into()),
        Data::Ptr("mx.example.org".into()),
        Data::Tlsa(tlsa),
        alias("other.example"),
    ] {
        let query = query(data.kind());
        let message = reply(&query).authentic().answer("MX.example.ORG", 300, &data).bytes();
        for over in [Transport::Udp, Transport::Tcp] {
            let answer = query.read(&message, over).unwrap();
            let [record] = answer.records.as_slice() else { panic!("{answer:?}") };
            assert_eq!((&*record.owner, &record.data), ("mx.example.org", &data));
            assert_eq!(record.ttl, Duration::from_secs(300));
            assert!(answer.authentic && !answer.truncated && answer.code == 0);
        }
    }
}

#[test]
fn an_answer_must_be_the_one_to_the_question() {
    let query = query(Kind::A);
    let good = reply(&query).answer("mx.example.org", 60, &a(1)).bytes();
    assert!(query.read(&good, Transport::Udp).is_ok());
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= to;
        [Transport::Udp, Transport::Tcp].map(|over| query.read(&bytes, over).map(drop))
    };
    let end = Asked::read(query.bytes()).unwrap().end;
    for (what, at, to) in [
        ("another id", 0, 1),
        ("another id", 1, 0x80),
        ("a query", 2, 0x80),
        ("another operation", 2, 0x10),
        ("two questions", 5, 3),
        ("no question", 5, 1),
        ("65,281 questions", 4, 0xff),
        ("another name", 13, 1),
        ("another kind", end - 3, 1),
        ("another class", end - 1, 2),
    ] {
        assert_eq!(changed(at, to), [Err(Misread::Foreign); 2], "{what}");
    }
    // The case of one letter: nobody's answer by datagram, anybody's over a connection.
    assert_eq!(changed(13, 0x20), [Err(Misread::Case), Ok(())]);
    for length in 0..end {
        assert_eq!(query.read(&good[..length], Transport::Udp), Err(Misread::Foreign));
    }
    for length in end..good.len() {
        assert_eq!(query.read(&good[..length], Transport::Udp), Err(Misread::Garbage), "{length}");
    }
}

#[test]
fn response_codes_and_what_says_that_there_is_nothing() {
    let query = query(Kind::Mx);
    let read = |reply: Reply| query.read(&reply.bytes(), Transport::Udp).unwrap();
    for code in [0, 2, 3, 5, 15] {
        assert_eq!(read(reply(&query).code(code)).code, code.into());
    }
    // The upper eight bits are in the OPT record.
    let opt = |times: usize, owner: &str| {
        let with = |reply: Reply, _| reply.record(3, owner, 41, 0x0100_0000, b"");
        (0..times).fold(reply(&query).code(0), with).bytes()
    };
    assert_eq!(query.read(&opt(1, ""), Transport::Udp).unwrap().code, 16);
    assert_eq!(query.read(&opt(2, ""), Transport::Udp), Err(Misread::Garbage));
    assert_eq!(query.read(&opt(1, "a"), Transport::Udp), Err(Misread::Garbage));
    for (ttl, minimum, kept) in [(60, 30, 30), (30, 60, 30), (0x8000_0000, 60, 0)] {
        let soa = read(reply(&query).soa("example.org", ttl, minimum)).soa.unwrap();
        assert_eq!((&*soa.owner, soa.ttl.as_secs()), ("example.org", kept));
    }
    let ns = reply(&query).record(2, "example.org", 2, 60, b"\x02ns\0");
    assert!(read(ns).refers);
    let cut = read(reply(&query).truncated().record(1, "x", 15, 60, b"\xff"));
    assert_eq!(cut, Answer { truncated: true, ..Answer::default() });
}

#[test]
fn what_was_not_asked_for_is_not_looked_into() {
    let query = query(Kind::A);
    let message = reply(&query)
        .record(1, "mx.example.org", 46, 60, b"no signature")
        .record(1, "mx.example.org", number(Kind::Mx), 60, b"\xff")
        .answer("mx.example.org", 0xffff_ffff, &a(1))
        .record(2, "example.org", 2, 60, b"\xc0")
        .record(3, "x", 64, 60, b"no service")
        .bytes();
    let answer = query.read(&message, Transport::Udp).unwrap();
    assert_eq!(answer.records.len(), 1);
    assert_eq!(answer.records[0].ttl, Duration::ZERO, "RFC 2181 §8");
    // Of another class is no record of ours.
    let mut other = reply(&query).answer("mx.example.org", 60, &a(1)).bytes();
    let at = other.len() - 4 - 2 - 4 - 1;
    other[at] = 3;
    assert!(query.read(&other, Transport::Udp).unwrap().records.is_empty());
}

#[test]
fn data_must_fill_its_frame() {
    for (kind, data) in [
        (Kind::A, &b"\x01\x02\x03"[..]),
        (Kind::A, b"\x01\x02\x03\x04\x05"),
        (Kind::A, b""),
        (Kind::Aaaa, b"\x01\x02\x03\x04"),
        (Kind::Mx, b"\0"),
        (Kind::Mx, b"\0\x01\x01a"),
        (Kind::Mx, b"\0\x01\xff\xff"),
        (Kind::Txt, b"\x05abc"),
        (Kind::Tlsa, b"\x03\x01"),
        (Kind::Ptr, b"\x01a\0\0"),
    ] {
        let query = query(kind);
        let message = reply(&query).record(1, "mx.example.org", number(kind), 60, data).bytes();
        let read = query.read(&message, Transport::Udp);
        assert_eq!(read, Err(Misread::Garbage), "{kind} {}", data.escape_ascii());
    }
}

#[test]
fn pointers_lead_back_only_and_names_stay_within_their_limit() {
    let query = query(Kind::Ptr);
    let end = Asked::read(query.bytes()).unwrap().end;
    let with = |owner: &[u8], data: &[u8]| {
        let mut bytes = reply(&query).bytes();
        bytes[7] = 1;
        bytes.extend(owner);
        bytes.extend(b"\0\x0c\0\x01\0\0\0\x3c");
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        query.read(&bytes, Transport::Udp)
    };
    let names = |answer: Answer| {
        let [record] = &answer.records[..] else { panic!("{answer:?}") };
        let Data::Ptr(target) = &record.data else { panic!("{answer:?}") };
        (record.owner.to_string(), target.to_string())
    };
    let found = names(with(b"\xc0\x0c", b"\x01A\xc0\x0f").unwrap());
    assert_eq!(found, ("mx.example.org".to_owned(), "a.example.org".to_owned()));
    let strange = names(with(b"\xc0\x0c", b"\x03a.\xff\x01\\\0").unwrap());
    assert_eq!(strange.1, "a\\046\\255.\\092");
    let own = [0xc0, end as u8];
    let label = [&[63][..], &[b'x'; 63]].concat();
    let longest = [&label.repeat(3)[..], &[61], &[b'x'; 61], &[0]].concat();
    assert_eq!(names(with(b"\xc0\x0c", &longest).unwrap()).1.len(), 253);
    let longer = [&label.repeat(3)[..], &[62], &[b'x'; 62], &[0]].concat();
    for (owner, data) in [
        (&own[..], &b"\0"[..]),
        (b"\xff\xff", b"\0"),
        (b"\x80", b"\0"),
        (b"\xc0\x0c", &longer),
        (b"\xc0\x0c", &label),
    ] {
        assert_eq!(with(owner, data), Err(Misread::Garbage));
    }
}

#[test]
fn more_records_than_are_kept_are_dropped() {
    let query = query(Kind::A);
    let mut message = reply(&query);
    for _ in 0..RECORDS_MAX + 1 {
        message = message.answer("mx.example.org", 60, &a(1));
    }
    let answer = query.read(&message.bytes(), Transport::Tcp).unwrap();
    assert_eq!(answer.records.len(), RECORDS_MAX);
}

#[test]
fn streams_say_how_long_a_message_is() {
    let longest = vec![7; MESSAGE_BYTES_MAX];
    for message in [&b""[..], b"x", &longest] {
        let stream = to_stream(message);
        assert_eq!(from_stream(&stream), Some(message));
        let more = [&stream[..], b"next"].concat();
        assert_eq!(from_stream(&more), Some(message));
        assert_eq!(from_stream(&stream[..stream.len() - 1]), None);
    }
    assert_eq!(to_stream(&longest).len(), STREAM_BYTES_MAX);
}

fn some_message() -> impl Strategy<Value = Vec<u8>> {
    let query = query(Kind::Mx);
    let good = reply(&query)
        .answer("mx.example.org", 60, &alias("other.example"))
        .answer("other.example", 60, &mx(10, "mx.example"))
        .soa("example", 60, 60)
        .record(3, "", 41, 0, b"")
        .bytes();
    let changes = proptest::collection::vec((0..good.len(), any::<u8>()), 0..8);
    let damaged = (changes, 0..=good.len()).prop_map(move |(changes, length)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length);
        bytes
    });
    // Behind a header and a question that are ours, or from the first byte on.
    let front = reply(&query).bytes();
    let behind = proptest::collection::vec(any::<u8>(), 0..200).prop_map(move |tail| {
        let mut bytes = [&front[..], &tail].concat();
        bytes[4..12].copy_from_slice(&[0, 1, 0, 9, 0, 9, 0, 9]);
        bytes
    });
    prop_oneof![damaged, behind, proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_an_answer_or_none(bytes in some_message()) {
        for kind in Kind::ALL {
            for over in [Transport::Udp, Transport::Tcp] {
                if let Ok(answer) = query(kind).read(&bytes, over) {
                    let fits = |data: &Data| data.kind() == kind || data.kind() == Kind::Cname;
                    prop_assert!(answer.records.iter().all(|record| fits(&record.data)));
                }
            }
        }
        let _ = from_stream(&bytes);
    }
}
