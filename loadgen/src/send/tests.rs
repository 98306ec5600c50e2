//! Whole runs of one core on the simulator: virtual time, servers with bad habits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use fsmtp_rt::sim::{Options as Faults, SimConn, SimListener, SimRuntime, World};
use fsmtp_rt::{Class, Conn, Instant, Listener, Runtime};

use super::executor::{self, Shared};
use super::measure::Measures;
use super::message::Templates;
use super::plan::{Options, Plan};
use super::search::LatencyAt;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// What a server does that is not right.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Habit {
    None,
    /// Says nothing for a second, two seconds after the world's first.
    Stall,
    /// Closes the connection without a word.
    Leaves,
    /// Is no mail server.
    Greets(&'static str),
    /// Answers commands that begin with this letter so.
    Says(u8, &'static str),
    /// Closes the connection at such a command.
    Closes(u8),
    /// Resets it there.
    Resets(u8),
    /// Never answers it.
    Silent(u8),
}

const STALL_BEGINS: Instant = Instant::from_ns(3_000_000_000);
const STALL_ENDS: Instant = Instant::from_ns(4_000_000_000);

async fn serve(rt: SimRuntime, mut conn: SimConn, habit: Habit) {
    if habit == Habit::Leaves {
        return conn.close(Instant::FAR).await;
    }
    if habit == Habit::Greets("") {
        // Not even to what looks like a line: the random octets of a TLS hello may hold CR LF.
        return rt.sleep_until(Instant::FAR).await;
    }
    let greeting = if let Habit::Greets(text) = habit { text } else { "220 x ESMTP\r\n" };
    let mut say = greeting.as_bytes().to_vec();
    let mut in_data = false;
    loop {
        if habit == Habit::Stall && (STALL_BEGINS..STALL_ENDS).contains(&rt.now()) {
            rt.sleep_until(STALL_ENDS).await;
        }
        if !say.is_empty() && conn.send(std::mem::take(&mut say), Instant::FAR).await.is_err() {
            return;
        }
        let end: &[u8] = if in_data { b"\r\n.\r\n" } else { b"\r\n" };
        let Some(at) = conn.filled().windows(end.len()).position(|w| w == end) else {
            // What cannot be the beginning of the end makes room for the rest of the message.
            conn.consume(if in_data { conn.filled().len().saturating_sub(4) } else { 0 });
            match conn.fill(Instant::FAR).await {
                Ok(bytes) if bytes > 0 => continue,
                _ => return,
            }
        };
        let reset = conn.filled().starts_with(b"RSET");
        let verb = if in_data { b'.' } else { conn.filled()[usize::from(reset)] };
        conn.consume(at + end.len());
        let reply = match verb {
            b'E' => "250-x\r\n250 PIPELINING\r\n",
            b'D' => "354 go\r\n",
            b'Q' => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        in_data = verb == b'D';
        match habit {
            Habit::Says(at, text) if at == verb => {
                say = text.as_bytes().to_vec();
                in_data &= text.starts_with('3');
            }
            Habit::Closes(at) if at == verb => return conn.close(Instant::FAR).await,
            Habit::Resets(at) if at == verb => return conn.abort(),
            Habit::Silent(at) if at == verb => {
                rt.sleep_until(Instant::FAR).await;
            }
            _ => say = reply.as_bytes().to_vec(),
        }
    }
}

async fn accept(rt: SimRuntime, mut listener: SimListener, habit: Habit) {
    while let Ok(conn) = listener.accept().await {
        rt.spawn(Class::Session, serve(rt.clone(), conn, habit));
    }
}

/// A run of one core against a server with a habit, or against nobody.
fn run(flags: &str, habit: Option<Habit>) -> Measures {
    let mut world = World::new(1, Faults::calm());
    let (client, server) = (world.host(), world.host());
    let (client, server) = (world.start(client), world.start(server));
    if let Some(habit) = habit {
        server.spawn(Class::Accept, accept(server.clone(), server.listen(25), habit));
    }
    let words = ["send", "--target", "127.0.0.1:25"].into_iter().chain(flags.split_whitespace());
    let mut plan = Plan::new(Line::try_parse_from(words).unwrap().options).unwrap();
    plan.target = server.address(25);
    let shared = Shared {
        templates: Arc::new(Templates::new(&plan.options.size, None).unwrap()),
        plan: Arc::new(plan),
        stop: Arc::new(AtomicBool::new(false)),
        run: 7,
        cores: 1,
        ledger: None,
    };
    world.block_on(&client, executor::run(client.clone(), 0, shared, None)).unwrap().measures
}

fn errors(measures: &Measures) -> Vec<(&'static str, &'static str, u64)> {
    measures.errors().collect()
}

/// Coordinated omission: a stall of a second delays every message that was due in it. Timed from
/// when they were begun only the few under way show it; timed from when they were due, all do.
#[test]
fn a_stall_shows_in_the_intended_time_and_not_in_the_actual_one() {
    let flags = "--rate 200 --duration 10s --connections 4";
    let calm = run(flags, Some(Habit::None));
    assert_eq!((calm.acknowledged, calm.errors_count()), (2_000, 0));
    assert!(calm.intended.at(0.99) < Duration::from_millis(5), "{:?}", calm.intended.at(0.99));

    let stalled = run(flags, Some(Habit::Stall));
    assert_eq!((stalled.acknowledged, stalled.errors_count()), (2_000, 0));
    assert!(stalled.intended.at(0.99) > Duration::from_millis(800));
    assert!(stalled.actual.at(0.99) < Duration::from_millis(5));
    assert!(stalled.actual.at(1.0) > Duration::from_millis(900), "the few under way");
    assert!((150..=210).contains(&stalled.late), "{}", stalled.late);
    assert!(stalled.slip.at(0.99) < Duration::from_millis(1), "the generator was not late");
}

#[test]
fn what_waits_for_a_free_connection_is_bounded() {
    let flags = "--rate 200 --duration 10s --connections 4 --backlog 50";
    let stalled = run(flags, Some(Habit::Stall));
    assert!((130..=160).contains(&stalled.dropped), "{}", stalled.dropped);
    assert_eq!(stalled.acknowledged + stalled.dropped, 2_000);
    assert_eq!(stalled.errors_count(), stalled.dropped, "what was dropped is no success");
}

#[test]
fn each_error_has_its_kind_and_none_is_a_success() {
    let long = "2".repeat(20_000).leak();
    for (habit, phase, kind) in [
        (Habit::Greets("SSH-2.0-x\r\n"), "banner", "not_smtp"),
        (Habit::Greets("250 hello\r\n"), "banner", "not_smtp"),
        (Habit::Greets("HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"), "banner", "not_smtp"),
        (Habit::Greets("\0\u{fffd}\u{1b}[2J\r\n"), "banner", "not_smtp"),
        (Habit::Greets(long), "banner", "not_smtp"),
        (Habit::Greets("220-never ends\r\n"), "banner", "timed_out"),
        (Habit::Greets(""), "banner", "timed_out"),
        (Habit::Leaves, "banner", "dropped"),
        (Habit::Greets("554 go away\r\n"), "banner", "5xx"),
        (Habit::Says(b'M', "999 no reply\r\n"), "mail", "bad_reply"),
        (Habit::Says(b'M', "250-a\r\n251 b\r\n"), "mail", "bad_reply"),
        (Habit::Says(b'M', "no reply\r\n"), "mail", "bad_reply"),
        (Habit::Says(b'M', "451 later\r\n"), "mail", "4xx"),
        (Habit::Says(b'R', "550 nobody\r\n"), "rcpt", "5xx"),
        (Habit::Says(b'D', "250 what?\r\n"), "data", "bad_reply"),
        (Habit::Says(b'.', "452 full\r\n"), "message", "4xx"),
        (Habit::Says(b'.', "421 going down\r\n"), "message", "4xx"),
        (Habit::Closes(b'E'), "ehlo", "dropped"),
        (Habit::Closes(b'D'), "data", "dropped"),
        (Habit::Closes(b'.'), "message", "dropped"),
        (Habit::Resets(b'R'), "rcpt", "reset"),
        (Habit::Silent(b'.'), "message", "timed_out"),
        (Habit::Silent(b'E'), "ehlo", "timed_out"),
    ] {
        let seen = run("--messages 2 --connections 1 --timeout 2s --pipelining off", Some(habit));
        assert_eq!(seen.acknowledged, 0, "{habit:?}");
        assert_eq!(seen.begun, 2, "{habit:?}");
        assert_eq!(errors(&seen), [(phase, kind, 2)], "{habit:?}");
    }
    let seen = run("--messages 2 --connections 1", None);
    assert_eq!((errors(&seen), seen.acknowledged), (vec![("connect", "refused", 2)], 0));
}

#[test]
fn lmtp_has_a_verdict_for_each_recipient() {
    let flags = "--lmtp --recipients 2 --messages 3 --connections 1";
    let some = run(flags, Some(Habit::Says(b'.', "250 a\r\n452 b\r\n")));
    assert_eq!((some.acknowledged, some.recipients), (3, 3));
    assert_eq!(errors(&some), [("message", "4xx", 3)]);
    let none = run(flags, Some(Habit::Says(b'.', "550 a\r\n452 b\r\n")));
    assert_eq!((none.acknowledged, none.recipients), (0, 0));
    assert_eq!(errors(&none), [("message", "4xx", 3), ("message", "5xx", 3)]);
}

#[test]
fn encryption_that_is_not_there_or_fails_has_its_kind() {
    let talks = "220 this is no handshake\r\n";
    for (mode, habit, phase, kind) in [
        ("implicit", Habit::Greets(talks), "tls", "tls"),
        ("implicit", Habit::Greets(""), "tls", "timed_out"),
        ("starttls", Habit::None, "tls", "not_offered"),
    ] {
        let flags = format!("--messages 2 --connections 1 --timeout 2s --tls {mode}");
        let seen = run(&flags, Some(habit));
        assert_eq!(errors(&seen), [(phase, kind, 2)], "{mode} {habit:?}");
        assert_eq!(seen.acknowledged, 0);
    }
}

#[test]
fn a_connection_that_nobody_answers_is_given_up() {
    let seen = run("--messages 1000 --connections 2", None);
    assert_eq!(seen.begun, u64::from(2 * executor::FAILURES_MAX));
}

#[test]
fn a_lost_connection_is_replaced_and_the_rest_arrives() {
    for flags in [
        "--messages 100 --connections 4 --messages-per-connection 3",
        "--messages 100 --connections 4 --between rset --recipients 3",
        "--messages 100 --connections 4 --pipelining off --size 30k..40k",
    ] {
        let seen = run(flags, Some(Habit::None));
        assert_eq!((seen.acknowledged, seen.errors_count(), seen.begun), (100, 0, 100), "{flags}");
    }
    let some = run("--messages 100 --connections 4 --bdat", Some(Habit::None));
    assert_eq!(some.acknowledged, 0);
    assert!(errors(&some).iter().all(|error| error.1 == "not_offered"), "{:?}", errors(&some));
}
