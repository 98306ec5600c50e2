//! Every limit of the session, reached; and the counts that the design promises.

use std::net::IpAddr;
use std::time::Duration;

use fsmtp_proto::smtp::body::HELD_BYTES_MAX;
use fsmtp_proto::smtp::server::{BAD_LINES_MAX, LINE_BYTES_MAX, Limits, Peer};
use fsmtp_proto::time::Instant;

use super::harness::World;

const ENVELOPE: &[u8] =
    b"EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@example.test>\r\n";

fn replies(world: &World) -> String {
    world.check_replies();
    String::from_utf8(world.seen.replies.clone()).expect("replies are UTF-8")
}

fn codes(world: &World) -> Vec<String> {
    replies(world).lines().filter(|l| l.as_bytes()[3] == b' ').map(|l| l[..3].into()).collect()
}

#[test]
fn a_pipelined_transaction_is_two_sends() {
    let mut world = World::new(Limits::default());
    let wire = [
        ENVELOPE,
        b"RCPT TO:<c@example.test>\r\nNOOP\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n",
    ]
    .concat();
    world.receive(&wire);
    assert_eq!(world.sends_count, 2, "the greeting, and everything else");
    assert_eq!(world.body_slices_count, 1);
    assert!(world.seen.closed);
}

#[test]
fn a_body_without_stuffed_dots_is_one_slice_a_window() {
    let mut world = World::new(Limits::default());
    world.receive(&[ENVELOPE, b"DATA\r\n"].concat());
    let window = b"sixty characters of text are a good line for most of us, or so.\r\n".repeat(63);
    for _ in 0..10 {
        world.receive(&window);
        assert!(world.window_bytes() <= HELD_BYTES_MAX);
    }
    world.receive(b".\r\n");
    assert_eq!(world.body_slices_count, 10);
    assert_eq!(world.seen.messages[0].len(), 10 * window.len());
}

#[test]
fn a_client_that_only_sends_is_answered_in_bounded_sends() {
    let mut world = World::new(Limits::default());
    world.receive(&b"NOOP\r\n".repeat(5000));
    // The harness looks at the outbox on each turn; here it is enough that nothing was lost.
    assert_eq!(codes(&world).iter().filter(|c| *c == "250").count(), 5000);
    assert!(world.sends_count > 5000 * 25 / 4096);
}

#[test]
fn recipients_past_the_limit_get_452_and_the_message_goes_to_the_others() {
    let mut world = World::new(Limits::default());
    world.receive(b"EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\n");
    for i in 0..1001 {
        world.receive(format!("RCPT TO:<user{i}@example.test>\r\n").as_bytes());
    }
    let text = replies(&world);
    assert_eq!(text.matches("250 2.1.5").count(), 1000);
    assert!(text.ends_with("452 4.5.3 Too many recipients - fsmtp\r\n"));
    world.receive(b"DATA\r\nx\r\n.\r\n");
    assert_eq!(world.seen.messages.len(), 1);
    // The limit is one of a message, not of a connection.
    world.receive(&ENVELOPE[21..]);
    assert!(replies(&world).ends_with("250 2.1.5 OK, proceed [b@example.test] - fsmtp\r\n"));
}

#[test]
fn lines_up_to_the_limit_are_commands_and_longer_ones_are_not() {
    for (len, code) in [(LINE_BYTES_MAX, "250"), (LINE_BYTES_MAX + 1, "500")] {
        let mut world = World::new(Limits::default());
        let line = format!("NOOP {}\r\n", "x".repeat(len - 7));
        assert_eq!(line.len(), len);
        world.receive(line.as_bytes());
        assert_eq!(codes(&world), ["220", code]);
    }
}

#[test]
fn a_line_without_end_is_swallowed_and_answered_once_until_the_deadline() {
    let limits = Limits::default();
    let mut world = World::new(limits);
    for _ in 0..1000 {
        world.receive(&[b'x'; 1500]);
        assert!(world.window_bytes() < LINE_BYTES_MAX);
    }
    assert_eq!(codes(&world), ["220"]);
    world.wait(limits.command_timeout - Duration::from_secs(1));
    assert_eq!(codes(&world), ["220"]);
    world.receive(b"xx");
    world.wait(Duration::from_secs(1));
    assert_eq!(codes(&world), ["220", "421"]);
    assert!(world.seen.closed);
}

#[test]
fn ten_bad_lines_close_the_connection() {
    let long = [b"x".repeat(3000), b"\r\n".to_vec()].concat();
    for line in [&b"NO\0OP\r\n"[..], b"NO\rOP\r\n", b"NO\nOP\r\n", &long] {
        let mut world = World::new(Limits::default());
        for i in 1..=BAD_LINES_MAX {
            assert!(!world.seen.closed);
            world.receive(line);
            world.receive(if i < BAD_LINES_MAX { b"NOOP\r\n" } else { b"" });
        }
        let codes = codes(&world);
        assert_eq!(codes.iter().filter(|c| *c == "500").count(), usize::from(BAD_LINES_MAX));
        assert_eq!(codes.iter().filter(|c| *c == "250").count(), usize::from(BAD_LINES_MAX) - 1);
        assert_eq!(codes.last().map(String::as_str), Some("421"));
        assert!(world.seen.closed);
    }
}

#[test]
fn the_size_limit_is_exact_and_dots_do_not_count() {
    let limits = Limits { message_bytes_max: 100, ..Limits::default() };
    for (len, code) in [(100, "250"), (101, "552")] {
        let mut world = World::new(limits);
        let line = format!("{}\r\n", "x".repeat(len - 3));
        world.receive(&[ENVELOPE, b"DATA\r\n..", line.as_bytes(), b".\r\n"].concat());
        assert_eq!(codes(&world).last().map(String::as_str), Some(code), "{len} by DATA");
        let mut world = World::new(limits);
        let chunk = format!("BDAT {len} LAST\r\n{}\r\n", "x".repeat(len - 2));
        world.receive(&[ENVELOPE, chunk.as_bytes()].concat());
        assert_eq!(codes(&world).last().map(String::as_str), Some(code), "{len} by BDAT");
        assert_eq!(world.seen.messages.len(), usize::from(code == "250"));
    }
}

#[test]
fn without_a_size_limit_size_0_is_announced_and_anything_goes() {
    let mut world = World::new(Limits { message_bytes_max: 0, ..Limits::default() });
    world.receive(b"EHLO client.example\r\nMAIL FROM:<> SIZE=99999999999999999999\r\n");
    assert!(replies(&world).contains("250-SIZE 0\r\n"));
    assert!(replies(&world).ends_with("250 2.1.0 OK, proceed [] - fsmtp\r\n"));
}

#[test]
fn a_message_that_stands_still_times_out_and_one_that_moves_does_not() {
    let limits = Limits::default();
    for (begin, more) in
        [(&b"DATA\r\nx"[..], &b"x"[..]), (b"BDAT 100\r\nx", b"x"), (b"BDAT 100 NEXT\r\nx", b"x")]
    {
        let mut world = World::new(limits);
        world.receive(&[ENVELOPE, begin].concat());
        for _ in 0..5 {
            world.wait(limits.data_timeout - Duration::from_secs(1));
            world.receive(more);
        }
        assert!(!world.seen.closed);
        world.wait(limits.data_timeout);
        assert!(replies(&world).ends_with("421 4.4.2 Timed out, closing connection - fsmtp\r\n"));
        assert!(world.seen.closed && world.seen.messages.is_empty());
    }
}

#[test]
fn half_a_command_does_not_move_the_deadline() {
    let limits = Limits::default();
    let mut world = World::new(limits);
    world.wait(limits.command_timeout / 2);
    world.receive(b"NO");
    world.wait(limits.command_timeout / 2);
    assert_eq!(codes(&world), ["220", "421"]);
}

#[test]
fn deadlines_count_from_the_last_progress() {
    let limits = Limits {
        command_timeout: Duration::from_secs(10),
        data_timeout: Duration::from_secs(20),
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let start = Instant::from_ns(1_000);
    assert_eq!(world.session().deadline(), start + Duration::from_secs(10));
    world.wait(Duration::from_secs(4));
    world.receive(ENVELOPE);
    assert_eq!(world.session().deadline(), start + Duration::from_secs(14));
    assert!(world.session().in_transaction());
    world.receive(b"DATA\r\n");
    assert_eq!(world.session().deadline(), start + Duration::from_secs(24));
}

#[test]
fn going_down_is_said_once() {
    let mut world = World::new(Limits::default());
    world.receive(b"EHLO client.example\r\n");
    assert!(!world.session().in_transaction());
    world.shut_down();
    assert!(world.seen.closed);
    let last = "421 4.3.2 Service is shutting down, closing connection - fsmtp\r\n";
    assert!(replies(&world).ends_with(last));
    assert_eq!(replies(&world).matches("421").count(), 1);
}

#[test]
fn the_reply_to_ehlo_shows_the_client_its_address_and_name() {
    for (ip, host, shown) in [
        ("192.0.2.7", None, "[192.0.2.7]"),
        ("::ffff:192.0.2.7", None, "[192.0.2.7]"),
        ("2001:db8::7", None, "[2001:db8::7]"),
        ("255.255.255.255", Some("mail.example"), "mail.example [255.255.255.255]"),
        ("192.0.2.7", Some("ma\r\nil.example"), "[192.0.2.7]"),
        ("192.0.2.7", Some(&"h".repeat(129)[..]), "[192.0.2.7]"),
    ] {
        let ip: IpAddr = ip.parse().expect("an address");
        let mut world = World::with_peer(
            Limits::default(),
            Peer { ip, port: 40_001, host: host.map(Into::into) },
        );
        world.receive(b"EHLO client.example\r\nHELO client.example\r\n");
        let text = replies(&world);
        assert!(text.contains(&format!("250-mx.example.test, at your service {shown}\r\n")));
        let helo = format!("250 mx.example.test, at your service {shown} - fsmtp\r\n");
        assert!(text.ends_with(&helo));
    }
}

#[test]
fn what_the_trace_header_needs() {
    let mut world = World::new(Limits::default());
    assert_eq!(world.session().client_name(), None);
    world.receive(b"HELO [192.0.2.9]\r\n");
    assert_eq!(world.session().client_name(), Some("[192.0.2.9]"));
    assert_eq!(world.session().protocol(false), "SMTP");
    let long = format!("{}.example", "a.".repeat(100).trim_end_matches('.'));
    world.receive(format!("EHLO {long}\r\n").as_bytes());
    assert_eq!(world.session().client_name(), Some(&long[..]));
    assert_eq!(world.session().protocol(false), "ESMTP");
    // RFC 6531 §4.3.
    assert_eq!(world.session().protocol(true), "UTF8SMTP");
    assert_eq!(world.session().peer().ip.to_string(), "192.0.2.7");
}

#[test]
fn the_longest_addresses_are_echoed_in_a_line_of_bounded_length() {
    let label = "d".repeat(63);
    let domain = format!("{label}.{label}.{}", "d".repeat(61));
    let address = format!("{}@{domain}", "l".repeat(64));
    assert_eq!(address.len() + 2, 256);
    let mut world = World::new(Limits::default());
    world.receive(format!("EHLO x\r\nMAIL FROM:<{address}>\r\nRCPT TO:<{address}>\r\n").as_bytes());
    let text = replies(&world);
    assert!(text.ends_with(&format!("250 2.1.5 OK, proceed [{address}] - fsmtp\r\n")));
}
