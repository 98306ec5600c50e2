//! The sink on the simulator, in virtual time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use fsmtp_rt::sim::{Options as Faults, SimRuntime, World};
use fsmtp_rt::{Class, Conn, Dial, Instant, Runtime};

use super::rules::Rules;
use super::session::{self, Counts, Shared};
use super::{Options, check, figures, is_free};

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn parsed(flags: &[&str]) -> Result<Options, clap::Error> {
    Line::try_parse_from(["sink"].iter().chain(flags)).map(|line| line.options)
}

const HELLO: &str = "EHLO client.test\r\n";
const QUIT: &str = "QUIT\r\n";

/// A transaction for this recipient.
fn mail(to: &str, body: &str) -> String {
    format!("MAIL FROM:<a@b.test>\r\nRCPT TO:<{to}>\r\nDATA\r\n{body}\r\n.\r\n")
}

fn refused(to: &str) -> String {
    format!("MAIL FROM:<a@b.test>\r\nRCPT TO:<{to}>\r\nRSET\r\n")
}

/// Everything that the server says to a script, until it closes, and when.
async fn talk(client: SimRuntime, to: std::net::SocketAddr, script: String) -> (String, Duration) {
    let begun = client.now();
    let mut conn = client.dial(None, to, Instant::FAR).await.unwrap();
    // The server may have gone before all of it is sent.
    let _ = conn.send(script.into_bytes(), Instant::FAR).await;
    let mut said = Vec::new();
    while let Ok(1..) = conn.fill(Instant::FAR).await {
        said.extend_from_slice(conn.filled());
        conn.consume(conn.filled().len());
    }
    (String::from_utf8(said).unwrap(), client.now() - begun)
}

struct Seen {
    /// What each client was told, and how long it took.
    said: Vec<(String, Duration)>,
    counts: Counts,
    ledger: String,
}

/// Clients, all at once, each with its script.
fn run(flags: &[&str], scripts: &[String]) -> Seen {
    let mut world = World::new(1, Faults::calm());
    let (client, server) = (world.host(), world.host());
    let (client, server) = (world.start(client), world.start(server));
    let options = parsed(flags).unwrap();
    let (lines, ledger) = std::sync::mpsc::sync_channel(16);
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Shared {
        rules: Arc::new(Rules::new(options.rule.clone()).unwrap()),
        options: Arc::new(options),
        stop: Arc::clone(&stop),
        open_count: Arc::default(),
        messages_count: Arc::default(),
        ledger: Some(lines),
        tls: None,
    };
    let result: Rc<RefCell<Option<Counts>>> = Rc::default();
    let (inner, rt, listener) = (Rc::clone(&result), server.clone(), server.listen(25));
    server.spawn(Class::Accept, async move {
        *inner.borrow_mut() = session::run(rt, listener, 0, shared).await.ok();
    });
    let said: Rc<RefCell<Vec<_>>> = Rc::new(RefCell::new(vec![None; scripts.len()]));
    for (at, script) in scripts.iter().cloned().enumerate() {
        let (client, said, to) = (client.clone(), Rc::clone(&said), server.address(25));
        client.clone().spawn(Class::Session, async move {
            let heard = talk(client, to, script).await;
            said.borrow_mut()[at] = Some(heard);
        });
    }
    let (all, clock) = (Rc::clone(&said), client.clone());
    world.block_on(&client, async move {
        while all.borrow().iter().any(Option::is_none) {
            clock.sleep_until(clock.now() + Duration::from_millis(1)).await;
        }
        stop.store(true, Ordering::Relaxed);
        while result.borrow().is_none() {
            clock.sleep_until(clock.now() + Duration::from_millis(1)).await;
        }
        let ledger = ledger.try_iter().flatten().collect();
        Seen {
            said: all.take().into_iter().flatten().collect(),
            counts: result.take().unwrap(),
            ledger: String::from_utf8(ledger).unwrap(),
        }
    })
}

fn one(flags: &[&str], script: &str) -> Seen {
    run(flags, &[format!("{HELLO}{script}{QUIT}")])
}

const NAMED: &str = "X-Loadgen-Id: deadbeef-03-000000001234\r\n\r\n..x";

#[test]
fn what_is_taken_is_in_the_ledger_as_it_came() {
    let script = mail("bob@a.test", NAMED) + &mail("bob@a.test", "Subject: x\r\n");
    let script = script + &mail("discard@a.test", NAMED);
    let seen = one(&[], &script);
    let sum = ring::digest::digest(&ring::digest::SHA256, b".x\r\n");
    let sum: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen.ledger, format!("deadbeef-03-000000001234 {sum} 46\n"));
    let Counts { connections, messages, recipients, discarded, unnamed, .. } = seen.counts;
    assert_eq!((connections, messages, recipients, discarded, unnamed), (1, 3, 3, 1, 1));
    assert!(seen.counts.refusals.is_empty());
}

#[test]
fn refusals_are_said_and_counted_by_code() {
    let script = refused("550@a.test") + &refused("452@b.test") + &refused("599@a.test");
    let seen = one(&["--rule", "c.test: 451=100%"], &(script + &refused("x@c.test") + "WHAT\r\n"));
    let text = &seen.said[0].0;
    assert!(text.contains("\r\n452 4.0.0 Refused, as asked for [452@b.test]"), "{text}");
    let counts: Vec<(u16, u64)> = seen.counts.refusals.into_iter().collect();
    assert_eq!(counts, [(451, 1), (452, 1), (500, 1), (550, 1), (599, 1)]);
    let closed = one(&[], &refused("421@a.test"));
    assert!(closed.said[0].0.lines().last().unwrap().starts_with("421 "));
    let lines = figures(&closed.counts);
    assert!(lines.contains(&"refusal 421 1".to_owned()), "{lines:?}");
}

#[test]
fn slowness_is_as_long_as_asked_for() {
    let script = mail("bob@a.test", NAMED);
    let took = |flags: &[&str], script: &str| one(flags, script).said[0].1;
    assert!(took(&[], &script) < Duration::from_millis(100));
    let seconds = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
    assert!(seconds(3, 4).contains(&took(&["--delay", "3s..3.5s"], &script)));
    assert!(seconds(3, 4).contains(&took(&["--rule", "*: delay=3s"], &script)));
    assert!(seconds(5, 6).contains(&took(&[], &mail("slow@a.test", NAMED))));
    assert!(seconds(2, 7).contains(&took(&["--slow-read", "2s"], &script)));
    let tarpit = one(&["--tarpit", "10ms"], &script);
    let (text, took) = &tarpit.said[0];
    let due = Duration::from_millis(10) * u32::try_from(text.len()).unwrap();
    assert!(text.contains("\r\n221 "), "all of it arrives: {text}");
    assert!((due..due + Duration::from_secs(1)).contains(took), "{took:?}");
}

#[test]
fn drops_close_without_a_word() {
    let script = mail("bob@a.test", NAMED).repeat(3);
    let seen = one(&["--drop-after", "2"], &script);
    assert_eq!((seen.counts.messages, seen.counts.drops), (2, 1));
    assert_eq!(seen.ledger.lines().count(), 2, "what has no reply is not in the ledger");
    let seen = one(&["--rule", "*: drop=100%"], &script);
    assert_eq!((seen.counts.messages, seen.counts.drops), (0, 1));
    assert!(!seen.said[0].0.contains("221"));
}

#[test]
fn one_connection_too_many_is_told_so() {
    let script = || format!("{HELLO}{}{QUIT}", mail("slow@a.test", NAMED));
    let seen = run(&["--connections", "2"], &[script(), script(), script()]);
    assert_eq!(seen.counts.refusals.into_iter().collect::<Vec<_>>(), [(421, 1)]);
    assert_eq!((seen.counts.connections, seen.counts.messages), (2, 2));
}

#[test]
fn it_ends_after_so_many_messages_and_begins_no_more() {
    let seen = one(&["--messages", "2"], &mail("bob@a.test", NAMED).repeat(3));
    assert_eq!(seen.counts.messages, 2);
    assert!(seen.said[0].0.lines().last().unwrap().starts_with("421 4.3.2"));
}

#[test]
fn a_message_over_the_limit_is_refused() {
    let seen = one(&["--size-max", "40"], &mail("bob@a.test", NAMED));
    assert_eq!(seen.counts.refusals.into_iter().collect::<Vec<_>>(), [(552, 1)]);
    assert_eq!((seen.counts.messages, seen.ledger.as_str()), (0, ""));
}

#[test]
fn a_port_that_another_server_shares_is_not_free() {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket, sockopt};
    let other = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseport(&other, true).unwrap();
    bind(&other, &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    listen(&other, 1).unwrap();
    let address = getsockname(&other).unwrap().try_into().unwrap();
    assert!(is_free(address).unwrap_err().starts_with("cannot listen on 127.0.0.1:"));
    drop(other);
    assert_eq!(is_free(address), Ok(()));
}

#[test]
fn only_loopback_is_listened_on_without_consent() {
    let checked = |flags: &[&str]| check(&parsed(flags).unwrap());
    assert!(checked(&[]).is_ok() && checked(&["--listen", "[::1]:2525"]).is_ok());
    for address in ["0.0.0.0:2525", "192.0.2.1:2525", "[::]:2525"] {
        assert!(checked(&["--listen", address]).unwrap_err().contains("--i-own-this-host"));
    }
    let consent = ["--listen", "192.0.2.1:2525", "--i-own-this-host", "192.0.2.1"];
    assert!(checked(&consent).is_ok());
    let twice = ["--rule", "a.test: 451=1%", "--rule", "A.test: 451=1%"];
    assert!(checked(&twice).is_err());
    assert!(parsed(&["--rule", "nonsense"]).is_err() && parsed(&["--cores", "0"]).is_err());
}
