//! Tests: what sessions hear that are still busy when the patience of a drain is over.
//!
//! One shard, no faults, virtual time; each test drives its clients step by step.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use fsmtp_engine::shard::CLOSE_TIMEOUT;
use fsmtp_rt::sim::{Ended, Options, SimConn, SimRuntime, World};
use fsmtp_rt::{Class, Conn, Instant, Runtime};

use crate::client::reply_length;
use crate::node::{DOMAIN, DRAIN_PATIENCE, Node, PASSWORD};
use crate::plan::Plan;

const STEPS_MAX: u64 = 20_000_000;

/// For what takes its time on the network, and for a pause of a client.
const SLACK: Duration = Duration::from_secs(1);

struct Stage {
    world: World,
    node: Node,
    outside: SimRuntime,
}

/// What came at the end of a connection, and when.
type Heard = Rc<RefCell<Option<(String, Instant)>>>;

impl Stage {
    fn new() -> Self {
        let plan = Rc::new(Plan::calm());
        let mut world = World::new(1, Options::clone(&plan.options));
        let host = world.host();
        let outside = world.start(host);
        let mut node = Node::new(&mut world, 1, &plan);
        node.boot(&mut world, 1);
        world.run(STEPS_MAX, Instant::FAR, |_| node.ready());
        Self { world, node, outside }
    }

    /// A connection on which `lines` were said and answered well, one by one.
    fn dialogue(&mut self, pop3: bool, lines: &[String]) -> SimConn {
        let view = &self.node.view;
        let to = if pop3 { view.pop3.borrow()[0] } else { view.smtp.borrow()[0] };
        let (rt, lines) = (self.outside.clone(), lines.to_vec());
        self.world.block_on(&self.outside, async move {
            let mut conn = rt.connect(to).await.expect("it listens");
            reply(&mut conn).await;
            for line in lines {
                conn.push(format!("{line}\r\n").as_bytes());
                reply(&mut conn).await;
            }
            conn
        })
    }

    /// A session in the middle of DATA.
    fn in_data(&mut self) -> SimConn {
        let mut lines = vec!["EHLO slow.example.com".to_owned(), "MAIL FROM:<>".to_owned()];
        lines.extend([format!("RCPT TO:<u0@{DOMAIN}>"), "DATA".to_owned()]);
        self.dialogue(false, &lines)
    }

    /// Reads `conn` from `from` on to its end.
    fn listen(&self, mut conn: SimConn, from: Instant) -> Heard {
        let (rt, heard) = (self.outside.clone(), Heard::default());
        let slot = Rc::clone(&heard);
        self.outside.spawn(Class::Session, async move {
            rt.sleep_until(from).await;
            let mut text = Vec::new();
            loop {
                text.extend_from_slice(conn.filled());
                conn.consume(conn.filled().len());
                if !matches!(conn.fill(Instant::FAR).await, Ok(1..)) {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            *slot.borrow_mut() = Some((text, rt.now()));
        });
        heard
    }

    /// Drains, and gives back when that began. It must come to its end in time.
    fn drain(&mut self) -> Instant {
        let began = self.world.now();
        self.node.drain();
        let node = &self.node;
        let until = began + DRAIN_PATIENCE + CLOSE_TIMEOUT + SLACK;
        let ended = self.world.run(STEPS_MAX, until, |_| node.drained());
        assert_eq!(ended, Ended::Met, "the drain comes to its end");
        began
    }

    fn rest(&mut self, heard: &Heard) -> (String, Instant) {
        let ended = self.world.run(STEPS_MAX, Instant::FAR, |_| heard.borrow().is_some());
        assert_eq!(ended, Ended::Met, "the connection comes to its end");
        heard.borrow_mut().take().expect("it was met")
    }
}

/// Reads one reply, a good one.
async fn reply(conn: &mut SimConn) {
    let bytes = loop {
        if let Some(bytes) = reply_length(conn.filled()) {
            break bytes;
        }
        assert!(conn.fill(Instant::FAR).await.expect("no faults") > 0, "it hung up");
    };
    let good = matches!(conn.filled().first(), Some(b'2' | b'3' | b'+'));
    assert!(good, "{}", String::from_utf8_lossy(conn.filled()));
    conn.consume(bytes);
}

#[test]
fn a_transaction_that_outlasts_the_patience_ends_with_421() {
    let mut stage = Stage::new();
    let mut silent = stage.in_data();
    silent.push(b"Subject: half\r\n");
    let heard = stage.listen(silent, Instant::from_ns(0));
    let began = stage.drain();
    let (text, at) = stage.rest(&heard);
    assert!(text.starts_with("421 4.3.2 ") && text.lines().count() == 1, "{text:?}");
    assert!(at >= began + DRAIN_PATIENCE && at <= began + DRAIN_PATIENCE + SLACK, "{at:?}");
}

#[test]
fn a_client_that_never_stops_sending_does_not_put_off_the_end() {
    let mut stage = Stage::new();
    let conn = Rc::new(RefCell::new(stage.in_data()));
    let (rt, sender) = (stage.outside.clone(), Rc::clone(&conn));
    stage.outside.spawn(Class::Session, async move {
        while sender.borrow().peer_open() {
            sender.borrow_mut().push(b"and so on\r\n");
            rt.sleep_until(rt.now() + Duration::from_millis(700)).await;
        }
    });
    stage.drain();
    let ended = stage.world.run(STEPS_MAX, Instant::FAR, |_| Rc::strong_count(&conn) == 1);
    assert_eq!(ended, Ended::Met);
    let conn = Rc::into_inner(conn).expect("the sender is done").into_inner();
    let heard = stage.listen(conn, Instant::from_ns(0));
    let (text, _) = stage.rest(&heard);
    assert!(text.starts_with("421 4.3.2 "), "{text:?}");
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    let mut stage = Stage::new();
    let mut deaf = stage.dialogue(false, &["EHLO deaf.example.com".to_owned()]);
    deaf.push(&b"HELP\r\n".repeat(20_000));
    stage.drain();
}

/// A message that no pipe of the network holds.
const LARGE: usize = 1 << 20;

/// A session that has begun to give out a large message, and nobody reads it.
fn in_retrieval(stage: &mut Stage) -> SimConn {
    let mut smtp = stage.in_data();
    let line = [b"x".repeat(62).as_slice(), b"\r\n"].concat();
    smtp.push(b"\r\n");
    smtp.push(&line.repeat(LARGE / line.len()));
    smtp.push(b".\r\n");
    let smtp = stage.world.block_on(&stage.outside, async move {
        reply(&mut smtp).await;
        smtp
    });
    drop(smtp);
    let lines = [format!("USER u0@{DOMAIN}"), format!("PASS {PASSWORD}")];
    let mut conn = stage.dialogue(true, &lines);
    conn.push(b"RETR 1\r\n");
    stage.world.block_on(&stage.outside, async move {
        assert!(conn.fill(Instant::FAR).await.expect("no faults") > 0, "it hung up");
        conn
    })
}

#[test]
fn a_maildrop_whose_client_reads_late_is_closed_with_a_word() {
    let mut stage = Stage::new();
    let conn = in_retrieval(&mut stage);
    let late = stage.world.now() + DRAIN_PATIENCE + CLOSE_TIMEOUT / 2;
    let heard = stage.listen(conn, late);
    stage.drain();
    let (text, _) = stage.rest(&heard);
    let (message, farewell) = text.split_once("\r\n.\r\n").expect("the message is whole");
    assert!(message.len() > LARGE && farewell.starts_with("-ERR [SYS/TEMP] "), "{farewell:?}");
}

#[test]
fn a_retrieval_that_is_cut_has_no_reply_in_its_middle() {
    let mut stage = Stage::new();
    let conn = in_retrieval(&mut stage);
    let after = stage.world.now() + DRAIN_PATIENCE + CLOSE_TIMEOUT + SLACK + SLACK;
    stage.drain();
    stage.node.crash(&mut stage.world, fsmtp_rt::sim::Crash::Process);
    let heard = stage.listen(conn, after);
    let (text, _) = stage.rest(&heard);
    assert!(!text.contains("-ERR") && !text.ends_with("\r\n.\r\n"), "{} bytes", text.len());
}
