//! Clients that mean harm: what each row of the list of bad input is answered with.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use wire_tests::mail::{Rng, message};
use wire_tests::{DEMO, Engine, Smtp};

/// Bad commands that a session forgives.
const BAD_COMMANDS_MAX: usize = 10;

fn bad_lines() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a line over 2,048 bytes", [b"NOOP ".as_slice(), &b"x".repeat(2_100), b"\r\n"].concat()),
        ("a line of a million bytes", [&*b"x".repeat(1_000_000), b"\r\n"].concat()),
        ("NUL", b"NOOP \0\r\n".to_vec()),
        ("bare LF", b"NOOP a\nb\r\n".to_vec()),
        ("bare CR", b"NOOP a\rb\r\n".to_vec()),
        ("NUL in an address", b"MAIL FROM:<a\0@b.test>\r\n".to_vec()),
    ]
}

#[test]
fn bad_commands_are_answered_and_the_session_goes_on() {
    let engine = Engine::shared().unwrap();
    for (what, line) in bad_lines() {
        let mut smtp = engine.smtp().unwrap();
        smtp.send(&line).unwrap();
        let reply = smtp.reply().unwrap();
        assert!(matches!(reply.code, 500 | 501), "{what}: {reply:?}");
        smtp.send(b"NOOP\r\n").unwrap();
        assert_eq!(smtp.reply().unwrap().code, 250, "{what}: exactly one reply");
    }
}

#[test]
fn a_line_of_2048_bytes_is_a_command() {
    let engine = Engine::shared().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let line = format!("NOOP {}", "x".repeat(2_048 - 7));
    assert_eq!(smtp.command(&line).unwrap().code, 250);
}

#[test]
fn after_ten_bad_commands_the_session_ends() {
    let engine = Engine::shared().unwrap();
    for (what, line) in bad_lines() {
        let mut smtp = engine.smtp().unwrap();
        let mut forgiven = 0;
        loop {
            // The server need not read the rest of a line that it closes the connection over, and
            // then the word that it says may be lost with it.
            let sent = smtp.send(&line);
            let reply = match smtp.reply() {
                Err(_) if sent.is_err() => break,
                reply => reply.unwrap(),
            };
            if reply.code == 421 {
                assert!(sent.is_err() || smtp.ended().unwrap(), "{what}");
                break;
            }
            assert!(matches!(reply.code, 500 | 501), "{what}: {reply:?}");
            forgiven += 1;
            assert!(forgiven <= BAD_COMMANDS_MAX, "{what}");
        }
        assert!(forgiven >= BAD_COMMANDS_MAX - 1, "{what}: only {forgiven}");
    }
}

#[test]
fn recipients_over_a_thousand_are_put_off() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let mut group = b"MAIL FROM:<>\r\n".to_vec();
    for n in 0..1_001 {
        group.extend(format!("RCPT TO:<demo+{n}@example.test>\r\n").into_bytes());
    }
    let mut half = smtp.socket().try_clone().unwrap();
    let writer = std::thread::spawn(move || half.write_all(&group));
    for n in 0..=1_000 {
        let reply = smtp.reply().unwrap();
        assert_eq!(reply.code, 250, "{n}: {reply:?}");
    }
    writer.join().unwrap().unwrap();
    let reply = smtp.reply().unwrap();
    assert!(reply.is(452, "4.5.3"), "{reply:?}");
    assert_eq!(smtp.command("DATA").unwrap().code, 354);
    assert_eq!(smtp.command("x\r\n.").unwrap().code, 250, "the thousand get their mail");
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
}

#[test]
fn noise_ends_a_session_and_nothing_else() {
    let engine = Engine::shared().unwrap();
    let mut rng = Rng::new(99);
    for _ in 0..8 {
        let noise: Vec<u8> = (0..100_000).flat_map(|_| rng.bits().to_le_bytes()).collect();
        let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
        smtp.expect(220).unwrap();
        // The session may end at any point of it.
        let _ = smtp.send(&noise);
    }
    let mut smtp = engine.smtp().unwrap();
    assert_eq!(smtp.command("NOOP").unwrap().code, 250);
}

#[test]
fn a_client_that_never_reads_is_bounded() {
    let engine = Engine::start().unwrap();
    let mut smtp = engine.smtp().unwrap();
    let before = resident_bytes(engine.pid());
    smtp.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let noops = b"NOOP\r\n".repeat(10_000);
    let until = Instant::now() + wire_tests::PATIENCE;
    // Its own replies fill the sockets of both sides; then the engine takes no more commands.
    let stopped = loop {
        match smtp.send(&noops) {
            Ok(()) if Instant::now() < until => {}
            Ok(()) => break false,
            Err(error) => {
                let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::BrokenPipe];
                break kinds.contains(&error.kind()) || error.kind() == ErrorKind::ConnectionReset;
            }
        }
    };
    assert!(stopped, "the engine reads on and on");
    let grown = resident_bytes(engine.pid()).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for one client");
    let mut other = engine.smtp().unwrap();
    assert_eq!(other.mail("", &[DEMO], &message(1, 1, 10)).unwrap().code, 250);
}

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}
