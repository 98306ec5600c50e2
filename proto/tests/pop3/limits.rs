//! Every limit of a POP3 session, reached.

use crate::world::{CLEAR, IDLE, Maildrop, Message, World, play};
use fsmtp_proto::access::{Access, TlsMode};
use fsmtp_proto::pop3::{
    Answer, LINE_BYTES_MAX, Listing, MALFORMED_LINES_MAX, REFUSED_LOGINS_MAX, Refusal, Session,
    Settings, Then, refuse_connection,
};
use fsmtp_proto::time::Instant;
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use std::rc::Rc;
use std::time::Duration;

const SIGN_IN: &[u8] = b"USER alice\r\nPASS two  words \r\n";

fn one_message() -> Maildrop {
    Maildrop { messages: vec![Message { body: b"a\r\n".to_vec(), ..Message::default() }] }
}

/// A million messages: more than any buffer holds.
struct Million;

impl Listing for Million {
    fn octets(&self, index: u32) -> u64 {
        u64::MAX - u64::from(index)
    }

    fn unique_id(&self, index: u32) -> impl AsRef<[u8]> {
        format!("{index:070}")
    }
}

#[test]
fn a_million_messages_stream_through_one_outbox() {
    for (command, line) in [
        (&b"LIST\r\n"[..], (|i| format!("{} {}\r\n", i + 1, u64::MAX - i)) as fn(u64) -> String),
        (b"UIDL\r\n", |i| format!("{} {i:070}\r\n", i + 1)),
    ] {
        let settings = Settings { node: "node".into(), idle: IDLE, access: CLEAR };
        let mut out = Outbox::new(Vec::new());
        let now = Instant::from_ns(0);
        let mut session = Session::new(Rc::new(settings), now, &mut out);
        let mut said = Vec::new();
        let mut input = [SIGN_IN, command].concat();
        let mut flushes = 0;
        loop {
            let turn = session.turn(now, &input, &Million, &mut out);
            assert!(out.bytes().len() <= OUTBOX_BYTES_MAX);
            let consumed = turn.consumed;
            match turn.then {
                Then::NeedInput => break,
                Then::Flush => {
                    flushes += 1;
                    said.extend_from_slice(&out.take());
                }
                Then::Ask(_) => {
                    let answer = Answer::Opened { count: 1_000_000, octets: u64::MAX };
                    session.answer(answer, &mut out);
                }
                Then::Again => {}
                Then::Close | Then::StartTls => panic!("closed"),
            }
            input.drain(..consumed);
        }
        said.extend_from_slice(&out.take());
        let said = String::from_utf8(said).unwrap();
        let (_, listing) = said.split_once("follows\r\n").unwrap();
        let expected: String = (0..1_000_000).map(line).collect();
        assert!(listing == expected + ".\r\n");
        assert!(flushes > 1000);
    }
}

#[test]
fn malformed_lines_end_the_session_in_the_end() {
    for bad in [&b"NOOP\0\r\n"[..], b"NO\rOP\r\n", b"NOOP\n", &[b'x'; LINE_BYTES_MAX + 9]] {
        let mut bytes = Vec::new();
        for _ in 0..MALFORMED_LINES_MAX {
            bytes.extend_from_slice(bad);
            if bad.len() > LINE_BYTES_MAX {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(b"CAPA\r\n");
        let outcome = play(&Maildrop::default(), &bytes, [].into_iter());
        assert!(outcome.closed);
        let said = String::from_utf8(outcome.said).unwrap();
        assert_eq!(said.matches("-ERR").count(), usize::from(MALFORMED_LINES_MAX));
        assert!(said.ends_with("too many of them, closing.\r\n"), "{said}");
    }
}

#[test]
fn the_longest_line_is_taken() {
    let name = "x".repeat(LINE_BYTES_MAX - "USER \r\n".len());
    for (extra, reply) in [("", "+OK Send PASS\r\n"), ("x", "-ERR Syntax Error: the line is too")] {
        let line = format!("USER {name}{extra}\r\nCAPA\r\n");
        let outcome = play(&Maildrop::default(), line.as_bytes(), [].into_iter());
        let said = String::from_utf8(outcome.said).unwrap();
        assert!(said.contains(reply) && said.ends_with("fsmtp-engine\r\n.\r\n"), "{said}");
    }
}

#[test]
fn a_guesser_is_cut_off() {
    let guesses = b"USER alice\r\nPASS guess\r\n".repeat(usize::from(REFUSED_LOGINS_MAX) + 1);
    let outcome = play(&one_message(), &guesses, [].into_iter());
    let said = String::from_utf8(outcome.said).unwrap();
    assert!(outcome.closed);
    assert_eq!(said.matches("-ERR [AUTH]").count(), usize::from(REFUSED_LOGINS_MAX));
}

#[test]
fn an_idle_client_is_cut_off_and_nothing_is_removed() {
    let mut world = World::new(one_message());
    world.arrive(SIGN_IN);
    world.arrive(b"DELE 1\r\n");
    world.wait(IDLE - Duration::from_nanos(1));
    world.arrive(b"NOOP\r\n");
    world.wait(IDLE - Duration::from_nanos(1));
    // Bytes that are not a line do not count as activity.
    world.arrive(b"QU");
    world.wait(Duration::from_nanos(1));
    let outcome = world.outcome();
    assert!(outcome.closed);
    assert!(outcome.said.ends_with(b"+OK Gravestone added\r\n+OK\r\n"), "no reply on the way out");
    assert_eq!(outcome.left, [1]);
}

#[test]
fn a_client_that_hangs_up_removes_nothing() {
    let outcome = play(&one_message(), &[SIGN_IN, b"DELE 1\r\n"].concat(), [].into_iter());
    assert!(!outcome.closed);
    assert_eq!(outcome.left, [1]);
}

#[test]
fn time_spent_on_an_answer_is_not_idle_time() {
    let settings = Settings { node: "node".into(), idle: IDLE, access: CLEAR };
    let mut out = Outbox::new(Vec::new());
    let mut session = Session::new(Rc::new(settings), Instant::from_ns(0), &mut out);
    let later = Instant::from_ns(0) + IDLE + IDLE;
    let mut input = SIGN_IN;
    loop {
        let turn = session.turn(Instant::from_ns(0), input, &Million, &mut out);
        if matches!(turn.then, Then::Ask(_)) {
            break;
        }
        input = &input[turn.consumed..];
    }
    session.answer(Answer::Opened { count: 0, octets: 0 }, &mut out);
    let turn = session.turn(later, b"", &Million, &mut out);
    assert!(matches!(turn.then, Then::NeedInput));
    assert_eq!(session.deadline(), later + IDLE);
}

#[test]
fn what_stands_behind_stls_is_refused_and_no_handshake_begins() {
    let access = Access { tls: TlsMode::StartTls, ..CLEAR };
    for behind in ["USER evil\r\n", "\r\n", "x", "\x16\x03\x01"] {
        let mut world = World::with_access(one_message(), access);
        world.arrive(format!("STLS\r\n{behind}").as_bytes());
        let outcome = world.outcome();
        assert!(outcome.closed);
        let said = String::from_utf8(outcome.said).unwrap();
        assert!(said.ends_with("\r\n-ERR Nothing may follow STLS, closing.\r\n"), "{said}");
        assert!(!said.contains("Begin TLS"));
    }
}

#[test]
fn a_client_that_never_shakes_hands_is_cut_off_without_a_word() {
    let access = Access { tls: TlsMode::StartTls, ..CLEAR };
    let mut world = World::with_access(one_message(), access);
    world.arrive(b"STLS\r\n");
    world.wait(IDLE);
    let outcome = world.outcome();
    assert!(outcome.said.ends_with(b"+OK Begin TLS negotiation now\r\n"));
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 192, "{}", size_of::<Session>());
}

#[test]
fn a_connection_too_many_is_told() {
    let mut out = Outbox::new(Vec::new());
    refuse_connection(Refusal::TooManyConnections, &mut out);
    assert_eq!(out.bytes(), b"-ERR [SYS/TEMP] Too many connections, try again later.\r\n");
}

#[test]
fn a_client_that_never_reads_is_bounded() {
    // The world sends whenever it is asked to; the assertion on the outbox is in there.
    let bytes = b"CAPA\r\nLANG\r\nNOOP\r\nSTAT\r\n".repeat(2000);
    assert!(!play(&one_message(), &bytes, [].into_iter()).closed);
}

#[test]
fn passwords_do_not_show() {
    let text = format!("{:?}", fsmtp_proto::pop3::Secret(b"open sesame"));
    assert_eq!(text, "Secret");
}
