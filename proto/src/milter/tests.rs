//! Transcripts of the protocol, every reply that is none, every limit, and every way to cut.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::command::CHUNK_BYTES_MAX;
use super::options::VERSION;
use super::reply::{REPLY_BYTES_MAX, SAID_BYTES_MAX};
use super::*;
use proptest::prelude::*;

const NOW: Instant = Instant::from_ns(1_000_000_000);
const TIMEOUTS: Timeouts =
    Timeouts { command: Duration::from_secs(10), message: Duration::from_secs(60) };
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn all() -> Actions {
    Actions::ADD_FIELDS
        | Actions::CHANGE_FIELDS
        | Actions::ADD_RECIPIENTS
        | Actions::DELETE_RECIPIENTS
        | Actions::QUARANTINE
        | Actions::CHANGE_SENDER
}

/// A packet; leaked, for what is heard borrows it.
fn packet(letter: u8, data: &[u8]) -> &'static [u8] {
    let length = u32::try_from(data.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[letter], data].concat().leak()
}

fn agreement(version: u32, actions: u32, steps: u32) -> &'static [u8] {
    packet(b'O', &[version, actions, steps].map(u32::to_be_bytes).concat())
}

/// A session with a filter that may do everything and left nothing out but `steps`.
fn ready_with(steps: u32) -> Session {
    let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
    let agreed = agreement(VERSION, all().bits(), steps);
    assert_eq!(session.turn(NOW, agreed).then, Then::Again);
    assert_eq!(session.turn(NOW, b"").then, Then::Ready);
    session
}

fn told(session: &mut Session, command: Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    session.tell(NOW, &command, &[], &mut out);
    out
}

/// Tells of `command` and takes the reply.
fn ask<'b>(session: &mut Session, command: Command<'_>, reply: &'b [u8]) -> Then<'b> {
    assert!(!told(session, command).is_empty(), "{command:?}");
    let turn = session.turn(NOW, reply);
    assert!(turn.consumed == reply.len() || matches!(turn.then, Then::Failed(_)));
    turn.then
}

const MAIL: Command<'_> = Command::Mail("<a@a.test>", &["SIZE=7"]);

#[test]
fn what_is_told_stands_on_the_wire_as_filters_know_it() {
    let mut out = Vec::new();
    drop(Session::new(TIMEOUTS, all(), NOW, &mut out));
    assert_eq!(out, b"\0\0\0\x0dO\0\0\0\x06\0\0\0\x7d\0\x1f\xf7\xff");
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    for (command, written) in [
        (Command::Connect("a.test", FROM, 513), &b"\0\0\0\x15Ca.test\x004\x02\x01192.0.2.7\0"[..]),
        (Command::Connect("[::1]", six, 25), b"\0\0\0\x0eC[::1]\x006\0\x19::1\0"),
        (Command::Helo("me"), b"\0\0\0\x04Hme\0"),
        (MAIL, b"\0\0\0\x13M<a@a.test>\0SIZE=7\0"),
        (Command::Recipient("<b@b.test>", &[]), b"\0\0\0\x0cR<b@b.test>\0"),
        (Command::Data, b"\0\0\0\x01T"),
        (Command::Field(b"Subject", b" a\r\n b\0"), b"\0\0\0\x0eLSubject\0a\n b\0"),
        (Command::Field(b"X", b"\tA\rB\r"), b"\0\0\0\x09LX\0\tA\rB\r\0"),
        (Command::FieldsEnd, b"\0\0\0\x01N"),
        (Command::Body(b"a\r\nb"), b"\0\0\0\x05Ba\r\nb"),
        (Command::End, b"\0\0\0\x01E"),
        (Command::Unknown("WHAT now"), b"\0\0\0\x0aUWHAT now\0"),
    ] {
        let out = told(&mut ready_with(0), command);
        assert_eq!(out.escape_ascii().to_string(), written.escape_ascii().to_string());
    }
    let mut session = ready_with(0x10_0000);
    assert!(session.leading_space());
    assert_eq!(told(&mut session, Command::Field(b"X", b" a")), b"\0\0\0\x06LX\0 a\0");
}

#[test]
fn macros_stand_before_what_they_are_for() {
    let mut out = Vec::new();
    let macros = [("j", "me.test"), ("{rcpt_addr}", "b\0b")];
    ready_with(0).tell(NOW, &Command::Helo("me"), &macros, &mut out);
    assert_eq!(out, b"\0\0\0\x1bDHj\0me.test\0{rcpt_addr}\0bb\0\0\0\0\x04Hme\0");
}

#[test]
fn a_whole_message_is_told_and_changed() {
    let mut session = ready_with(0);
    let go_on = packet(b'c', b"");
    for command in [
        Command::Connect("a.test", FROM, 1),
        Command::Helo("a.test"),
        MAIL,
        Command::Recipient("<b@b.test>", &[]),
        Command::Data,
        Command::Field(b"Subject", b" a"),
        Command::FieldsEnd,
        Command::Body(b"a"),
    ] {
        assert_eq!(
            ask(&mut session, command, go_on),
            Then::Heard(command.stage(), Verdict::Continue)
        );
    }
    told(&mut session, Command::End);
    let field = |name, value| Field { name, value };
    for (letter, data, change) in [
        (b'h', &b"X\0a\0"[..], Change::Add(field(b"X", b"a"))),
        (b'i', b"\0\0\0\x01X\0a\n b\0", Change::Insert(1, field(b"X", b"a\n b"))),
        (b'm', b"\0\0\0\x02X\0\0", Change::Set(2, field(b"X", b""))),
        (b'+', b"<c@c.test>\0", Change::AddRecipient(b"<c@c.test>")),
        (b'-', b"b@b.test\0", Change::DeleteRecipient(b"b@b.test")),
        (b'e', b"<>\0", Change::Sender(b"<>")),
        (b'e', b"<>\0SIZE=1\0", Change::Sender(b"<>")),
        (b'q', b"odd\0", Change::Quarantine(b"odd")),
    ] {
        let packet = packet(letter, data);
        let turn = session.turn(NOW, packet);
        assert_eq!(turn, Turn { consumed: packet.len(), then: Then::Change(change) });
    }
    assert_eq!(session.turn(NOW, packet(b'p', b"")).then, Then::Again);
    let then = session.turn(NOW, go_on).then;
    assert_eq!(then, Then::Heard(Stage::End, Verdict::Continue));
    // The next message over the same connection.
    assert_eq!(session.turn(NOW, b"").then, Then::Ready);
    let then = ask(&mut session, MAIL, go_on);
    assert_eq!(then, Then::Heard(Stage::Mail, Verdict::Continue));
}

#[test]
fn a_verdict_is_about_what_it_is_to() {
    let refusals = [packet(b'r', b""), packet(b't', b""), packet(b'y', b"550 5.7.1 no\0")];
    for refusal in refusals {
        // A recipient less.
        let mut session = ready_with(0);
        ask(&mut session, MAIL, packet(b'c', b""));
        ask(&mut session, Command::Recipient("<b@b.test>", &[]), refusal);
        assert!(session.wants(Stage::Recipient) && session.wants(Stage::Body));
        // The message, and then another one.
        ask(&mut session, Command::Data, refusal);
        assert!(!session.wants(Stage::Body) && session.wants(Stage::Mail));
        assert!(told(&mut session, Command::Body(b"a")).is_empty());
        // The filter knows that it is over.
        let mut out = Vec::new();
        session.abort(&mut out);
        assert!(out.is_empty());
        assert!(!told(&mut session, MAIL).is_empty());
        // All messages.
        let mut session = ready_with(0);
        ask(&mut session, Command::Helo("me"), refusal);
        assert!(!session.wants(Stage::Mail) && told(&mut session, MAIL).is_empty());
    }
    let mut session = ready_with(0);
    ask(&mut session, MAIL, packet(b'c', b""));
    let then = ask(&mut session, Command::Recipient("<b@b.test>", &[]), packet(b'd', b""));
    assert_eq!(then, Then::Heard(Stage::Recipient, Verdict::Discard));
    assert!(!session.wants(Stage::Recipient) && session.wants(Stage::Mail));
    let then = ask(&mut session, MAIL, packet(b'4', b""));
    assert_eq!(then, Then::Heard(Stage::Mail, Verdict::Shutdown));
    assert!(!session.wants(Stage::Mail));
}

#[test]
fn what_was_agreed_on_is_left_out_or_not_answered() {
    let stages = [
        (Command::Connect("a", FROM, 1), 0x01, 0x1000),
        (Command::Helo("a"), 0x02, 0x2000),
        (MAIL, 0x04, 0x4000),
        (Command::Recipient("a", &[]), 0x08, 0x8000),
        (Command::Body(b"a"), 0x10, 0x8_0000),
        (Command::Field(b"a", b""), 0x20, 0x80),
        (Command::FieldsEnd, 0x40, 0x4_0000),
        (Command::Unknown("a"), 0x100, 0x2_0000),
        (Command::Data, 0x200, 0x1_0000),
    ];
    for (command, left_out, no_reply) in stages {
        let mut session = ready_with(left_out);
        assert!(told(&mut session, command).is_empty(), "{command:?}");
        assert_eq!(session.turn(NOW, b"").then, Then::Ready);
        let mut session = ready_with(no_reply);
        assert!(!told(&mut session, command).is_empty(), "{command:?}");
        assert_eq!((session.turn(NOW, b"").then, session.deadline()), (Then::Ready, Instant::FAR));
        let mut session = ready_with(0x1f_f7ff & !(left_out | no_reply));
        assert!(!told(&mut session, command).is_empty(), "{command:?}");
        assert_eq!(session.turn(NOW, b"").then, Then::NeedInput);
    }
}

#[test]
fn older_filters_are_told_what_they_know() {
    for (version, unknown, data) in [(2, false, false), (3, true, false), (4, true, true)] {
        let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
        session.turn(NOW, agreement(version, 0, 0));
        assert_eq!((session.wants(Stage::Unknown), session.wants(Stage::Data)), (unknown, data));
    }
    // Names of macros for a stage follow, from filters of version 6.
    let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
    let numbers = [VERSION, 0, 0, 2].map(u32::to_be_bytes).concat();
    let more = [&numbers[..], b"i {mail_addr}\0\0\0\0\x05\0"].concat();
    assert_eq!(session.turn(NOW, packet(b'O', &more)).then, Then::Again);
}

#[test]
fn a_filter_that_agrees_to_what_was_not_offered_is_none() {
    for (version, actions, steps, failure) in [
        (1, 0, 0, Failure::Version(1)),
        (7, 0, 0, Failure::Version(7)),
        (6, 0, 0x800, Failure::Steps(0x800)),
        (6, 0, 0x3000_0001, Failure::Steps(0x3000_0000)),
    ] {
        let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
        let then = session.turn(NOW, agreement(version, actions, steps)).then;
        assert_eq!(then, Then::Failed(failure));
        assert_eq!(session.turn(NOW, b"").then, Then::Failed(failure), "it stays dead");
    }
    let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
    let then = session.turn(NOW, packet(b'c', b"")).then;
    assert_eq!(then, Then::Failed(Failure::Unexpected(b'c')));
}

#[test]
fn what_no_filter_may_send_ends_the_session() {
    let long = u32::try_from(REPLY_BYTES_MAX).unwrap() - 3;
    let text = vec![b'x'; SAID_BYTES_MAX - 3];
    for (sent, failure) in [
        (&[0, 0, 0, 0][..], Failure::Empty),
        (&long.to_be_bytes(), Failure::TooLong(long)),
        (&[0xff; 4], Failure::TooLong(u32::MAX)),
        (packet(b'z', b""), Failure::Unknown(b'z')),
        (packet(b'c', b"x"), Failure::Malformed(b'c')),
        (packet(b'y', b""), Failure::Malformed(b'y')),
        (packet(b'y', b"550 no"), Failure::Malformed(b'y')),
        (packet(b'y', b"250 ok\0"), Failure::Malformed(b'y')),
        (packet(b'y', b"5xx no\0"), Failure::Malformed(b'y')),
        (packet(b'y', b"5500 no\0"), Failure::Malformed(b'y')),
        (packet(b'y', b"550 no\0x"), Failure::Malformed(b'y')),
        (packet(b'y', &[b"550 ", &text[..], b"\0"].concat()), Failure::Malformed(b'y')),
        (packet(b'h', b"\0a\0"), Failure::Malformed(b'h')),
        (packet(b'h', b"X\0a"), Failure::Malformed(b'h')),
        (packet(b'h', b"X\0"), Failure::Malformed(b'h')),
        (packet(b'i', b"\0\0\0X\0a\0"), Failure::Malformed(b'i')),
        (packet(b'm', b"\0\0"), Failure::Malformed(b'm')),
        (packet(b'+', b"a"), Failure::Malformed(b'+')),
        (packet(b'e', b"a\0b\0c\0"), Failure::Malformed(b'e')),
        (packet(b'q', b""), Failure::Malformed(b'q')),
        (packet(b'O', b"\0\0\0\x06"), Failure::Malformed(b'O')),
        (agreement(6, 0, 0), Failure::Unexpected(b'O')),
        (packet(b's', b""), Failure::Unexpected(b's')),
        (packet(b'b', b"x"), Failure::NotAgreed(b'b')),
        (packet(b'l', b"x"), Failure::NotAgreed(b'l')),
        (packet(b'2', b"a\0\0"), Failure::NotAgreed(b'2')),
    ] {
        let mut session = ready_with(0x400);
        let then = ask(&mut session, Command::End, sent);
        assert_eq!(then, Then::Failed(failure), "{}", sent.escape_ascii());
        assert!(failure.to_string().starts_with("the filter "));
    }
    for (command, sent, failure) in [
        (MAIL, packet(b'h', b"X\0a\0"), Failure::Unexpected(b'h')),
        (Command::Helo("a"), packet(b'd', b""), Failure::Unexpected(b'd')),
        (Command::Body(b"a"), packet(b's', b""), Failure::NotAgreed(b's')),
    ] {
        assert_eq!(ask(&mut ready_with(0), command, sent), Then::Failed(failure));
    }
    // Nothing was asked.
    let then = ready_with(0).turn(NOW, packet(b'c', b"")).then;
    assert_eq!(then, Then::Failed(Failure::Unexpected(b'c')));
}

#[test]
fn what_was_not_agreed_on_is_not_changed() {
    for (letter, data) in [
        (b'b', &b"a new body"[..]),
        (b'h', b"X\0a\0"),
        (b'i', b"\0\0\0\0X\0a\0"),
        (b'm', b"\0\0\0\x01X\0\0"),
        (b'+', b"a\0"),
        (b'-', b"a\0"),
        (b'e', b"a\0"),
        (b'q', b"a\0"),
    ] {
        let mut session = Session::new(TIMEOUTS, all(), NOW, &mut Vec::new());
        // To replace the body was not offered.
        session.turn(NOW, agreement(VERSION, 0x02, 0));
        let then = ask(&mut session, Command::End, packet(letter, data));
        assert_eq!(then, Then::Failed(Failure::NotAgreed(letter)));
    }
}

#[test]
fn a_filter_that_has_seen_enough_gets_no_more_of_the_body() {
    let mut session = ready_with(0x400);
    let then = ask(&mut session, Command::Body(b"a"), packet(b's', b""));
    assert_eq!(then, Then::Heard(Stage::Body, Verdict::Continue));
    assert!(told(&mut session, Command::Body(b"b")).is_empty());
    assert!(!told(&mut session, Command::End).is_empty());
    session.turn(NOW, packet(b'c', b""));
    told(&mut session, MAIL);
    session.turn(NOW, packet(b'c', b""));
    assert!(session.wants(Stage::Body), "of the next message it does");
}

#[test]
fn a_message_is_aborted_and_a_connection_used_again() {
    let mut session = ready_with(0);
    let mut out = Vec::new();
    session.abort(&mut out);
    assert!(out.is_empty(), "there is no message");
    ask(&mut session, MAIL, packet(b'c', b""));
    session.abort(&mut out);
    assert_eq!(out, b"\0\0\0\x01A");
    session.abort(&mut out);
    assert_eq!(out.len(), 5, "once");
    ask(&mut session, Command::Helo("a"), packet(b'a', b""));
    assert!(!session.wants(Stage::Mail));
    out.clear();
    session.renew(&mut out);
    assert_eq!(out, b"\0\0\0\x01K");
    assert!(session.wants(Stage::Connect) && session.wants(Stage::Mail));
    out.clear();
    session.quit(&mut out);
    assert_eq!(out, b"\0\0\0\x01Q");
}

#[test]
fn a_filter_may_ask_for_time_but_not_for_ever() {
    let seconds = Duration::from_secs;
    let mut session = ready_with(0);
    told(&mut session, Command::Helo("a"));
    assert_eq!(session.deadline(), NOW + seconds(10));
    session.turn(NOW, packet(b'c', b""));
    told(&mut session, Command::End);
    assert_eq!(session.deadline(), NOW + seconds(60));
    let progress = packet(b'p', b"");
    session.turn(NOW + seconds(50), progress);
    assert_eq!(session.deadline(), NOW + seconds(110));
    session.turn(NOW + seconds(230), progress);
    assert_eq!(session.deadline(), NOW + seconds(240), "four times sixty");
}

#[test]
fn changes_are_bounded_in_number_and_size() {
    let ends_after = |change: &[u8]| {
        let mut session = ready_with(0);
        told(&mut session, Command::End);
        (0..).find(|_| session.turn(NOW, change).then == Then::Failed(Failure::TooManyChanges))
    };
    assert_eq!(ends_after(packet(b'+', b"a\0")), Some(CHANGES_COUNT_MAX));
    let long = packet(b'h', &[b"X\0", &vec![b'a'; 8000][..], b"\0"].concat());
    let fit = u32::try_from(CHANGES_BYTES_MAX / long.len()).unwrap();
    assert_eq!(ends_after(long), Some(fit));
}

#[test]
fn packets_and_texts_end_at_their_limits() {
    let mut session = ready_with(0x8_0080);
    let chunk = vec![b'a'; CHUNK_BYTES_MAX];
    assert_eq!(told(&mut session, Command::Body(&chunk)).len(), CHUNK_BYTES_MAX + 5);
    let (name, value) = (vec![b'n'; 2000], vec![b'v'; 100_000]);
    assert_eq!(told(&mut session, Command::Field(&name, &value)).len(), 5 + 1001 + 64_001);
    let most = packet(b'h', &[b"X\0", &vec![b'a'; REPLY_BYTES_MAX - 8][..], b"\0"].concat());
    assert_eq!(most.len(), REPLY_BYTES_MAX);
    told(&mut session, Command::End);
    assert!(matches!(session.turn(NOW, most).then, Then::Change(_)));
}

/// What a session makes of `bytes` that come in pieces, asking about message after message.
fn play(bytes: &[u8], steps: u32, pieces: &[usize]) -> Vec<String> {
    let mut session = ready_with(steps);
    let (mut at, mut end, mut heard) = (0, 0, Vec::new());
    let mut pieces = pieces.iter().copied().cycle();
    let mut commands = [MAIL, Command::Body(b"a"), Command::End].into_iter().cycle();
    loop {
        let turn = session.turn(NOW, &bytes[at..end]);
        at += turn.consumed;
        match turn.then {
            Then::NeedInput if end == bytes.len() => return heard,
            Then::NeedInput => end = (end + pieces.next().unwrap()).min(bytes.len()),
            Then::Again => {}
            Then::Ready if heard.len() > 100 => return heard,
            Then::Ready => {
                session.tell(NOW, &commands.next().unwrap(), &[], &mut Vec::new());
                heard.push("told".to_owned());
            }
            Then::Failed(failure) => {
                heard.push(format!("{failure}"));
                return heard;
            }
            then => heard.push(format!("{then:?}")),
        }
        // What is there before it was asked for is no reply; a filter that waits sends none.
        if matches!(heard.last(), Some(last) if last.starts_with("Heard")) {
            end = at;
        }
    }
}

fn a_reply() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        Just(b"".to_vec()),
        Just(b"X\0a\0".to_vec()),
        Just(b"\0\0\0\x01X\0a\0".to_vec()),
        Just(b"550 5.7.1 no\0".to_vec()),
        Just(b"a@a.test\0".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    let letter = proptest::sample::select(b"Oacrtdspy4fhim+2-eqblz".to_vec());
    (letter, data).prop_map(|(letter, data)| packet(letter, &data).to_vec())
}

proptest! {
    #[test]
    fn the_dialogue_does_not_depend_on_how_it_was_cut(
        replies in proptest::collection::vec(a_reply(), 0..8),
        noise in proptest::collection::vec(any::<u8>(), 0..12),
        pieces in proptest::collection::vec(1..9_usize, 1..6),
        skips in any::<bool>(),
    ) {
        let bytes = [replies.concat(), noise].concat();
        let steps = if skips { 0x400 } else { 0 };
        prop_assert_eq!(play(&bytes, steps, &pieces), play(&bytes, steps, &[bytes.len().max(1)]));
    }

    #[test]
    fn a_packet_is_decided_once(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let decided = parse(&bytes);
        for cut in 0..bytes.len() {
            let early = parse(&bytes[..cut]);
            prop_assert!(early == Parsed::Partial || early == decided);
        }
    }
}
