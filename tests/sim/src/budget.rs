//! Seam calls per message: exact counts of fixed workloads, held in `tuning/budgets.toml`.
//!
//! The machine has no faults, so the counts depend on nothing but the code. A count above its
//! budget fails; one below is shown, so that the budget can follow. `copies` is what the spool
//! counts: from the receive window to the incoming buffer, and from there to the batch.

use core::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_rt::sim::{Options, SimConn, SimRuntime, World};
use fsmtp_rt::{Class, Conn, Instant, Runtime};

use crate::client::reply_length;
use crate::mail;
use crate::node::{DOMAIN, Node, PASSWORD};
use crate::plan::Plan;

const BUDGETS: &str = include_str!("../../../tuning/budgets.toml");

/// Steps after which a workload has gone wrong.
const STEPS_MAX: u64 = 20_000_000;

/// The numbers of one workload, by name.
type Counts = BTreeMap<&'static str, u64>;

/// What a workload's clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// 32 clients, 4 KiB each, a connection for each of 10 messages, one command at a time.
    ConnectionEach,
    /// 32 clients, 4 KiB each, 10 messages over one connection, one command at a time.
    Kept,
    /// One client that sends each of 100 transactions of 4 KiB at once, with BDAT.
    Pipelined,
    /// One client, one message of 1 MiB.
    Large,
    /// One client that has 100 messages of 4 KiB in its mailbox and gets them over POP3.
    Retrieve,
}

impl Work {
    const ALL: [(Self, &'static str); 5] = [
        (Self::ConnectionEach, "connection-each"),
        (Self::Kept, "kept"),
        (Self::Pipelined, "pipelined"),
        (Self::Large, "large"),
        (Self::Retrieve, "retrieve"),
    ];

    fn clients(self) -> usize {
        if matches!(self, Self::ConnectionEach | Self::Kept) { 32 } else { 1 }
    }

    fn messages(self) -> u64 {
        match self {
            Self::ConnectionEach | Self::Kept => 320,
            Self::Pipelined | Self::Retrieve => 100,
            Self::Large => 1,
        }
    }
}

/// Compares all workloads with their budgets; true when all are within.
pub(crate) fn check() -> bool {
    let budgets = parse(BUDGETS);
    let mut good = true;
    for (work, name) in Work::ALL {
        let counts = measure(work);
        println!("[{name}]");
        for (what, count) in &counts {
            let budget = budgets.get(&(name.to_owned(), (*what).to_owned()));
            let verdict = match budget {
                Some(budget) if count > budget => format!(" # over its budget of {budget}"),
                Some(budget) if count < budget => format!(" # the budget can fall from {budget}"),
                Some(_) => String::new(),
                None => " # has no budget".into(),
            };
            good &= budget.is_some_and(|budget| count <= budget);
            println!("{what} = {count}{verdict}");
        }
        println!();
    }
    good
}

/// Reads `[table]` and `name = number` lines: all that the file has.
fn parse(text: &str) -> BTreeMap<(String, String), u64> {
    let mut budgets = BTreeMap::new();
    let mut table = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut table);
        } else if let Some((name, value)) = line.split_once('=')
            && let Ok(value) = value.trim().parse()
        {
            budgets.insert((table.clone(), name.trim().to_owned()), value);
        }
    }
    budgets
}

fn measure(work: Work) -> Counts {
    let plan = Rc::new(Plan::calm());
    let mut world = World::new(1, Options::clone(&plan.options));
    let host = world.host();
    let outside = world.start(host);
    let mut node = Node::new(&mut world, 1, &plan);
    node.boot(&mut world, 1);
    world.run(STEPS_MAX, Instant::FAR, |_| node.ready());
    let mut run = Bench { world, node, outside, busy: Rc::default() };
    if work == Work::Retrieve {
        run.all(Work::Pipelined);
    }
    let before = run.counts(work);
    run.all(work);
    let mut counts = run.counts(work);
    for (what, count) in &mut counts {
        *count -= before.get(what).copied().unwrap_or(0);
    }
    counts.insert("messages", work.messages());
    counts
}

struct Bench {
    world: World,
    node: Node,
    outside: SimRuntime,
    busy: Rc<Cell<usize>>,
}

impl Bench {
    /// Runs the clients of `work` to their end.
    fn all(&mut self, work: Work) {
        for _ in 0..work.clients() {
            self.busy.set(self.busy.get() + 1);
            let (rt, busy) = (self.outside.clone(), Rc::clone(&self.busy));
            let view = Rc::clone(&self.node.view);
            self.outside.spawn(Class::Session, async move {
                let to = if work == Work::Retrieve { &view.pop3 } else { &view.smtp };
                let to = to.borrow()[0];
                let mut peer = Peer { rt, to, conn: None };
                peer.work(work).await;
                busy.set(busy.get() - 1);
            });
        }
        let (busy, node) = (Rc::clone(&self.busy), &self.node);
        let done = |_: &World| busy.get() == 0 && node.sessions() == 0;
        let ended = self.world.run(STEPS_MAX, Instant::FAR, done);
        assert_eq!(ended, fsmtp_rt::sim::Ended::Met, "the workload comes to its end");
    }

    fn counts(&self, work: Work) -> Counts {
        let seam = self.node.counts(&self.world);
        let mut counts = Counts::from([("sends", seam.sends), ("receives", seam.receives)]);
        if work == Work::Retrieve {
            counts.insert("reads", seam.reads);
        } else {
            counts.insert("writes", seam.writes);
            counts.insert("copies", self.node.copies());
        }
        counts
    }
}

struct Peer {
    rt: SimRuntime,
    to: core::net::SocketAddr,
    conn: Option<SimConn>,
}

impl Peer {
    async fn work(&mut self, work: Work) {
        let envelope =
            ["MAIL FROM:<bench@sender.test>".to_owned(), format!("RCPT TO:<u0@{DOMAIN}>")];
        match work {
            Work::ConnectionEach => {
                for _ in 0..10 {
                    self.open().await;
                    self.transaction(&envelope, 4096).await;
                    self.ask(b"QUIT\r\n", 1).await;
                }
            }
            Work::Kept => {
                self.open().await;
                for _ in 0..10 {
                    self.transaction(&envelope, 4096).await;
                }
                self.ask(b"QUIT\r\n", 1).await;
            }
            Work::Large => {
                self.open().await;
                self.transaction(&envelope, 1 << 20).await;
                self.ask(b"QUIT\r\n", 1).await;
            }
            Work::Pipelined => {
                self.open().await;
                for _ in 0..100 {
                    let mut bytes = envelope.join("\r\n").into_bytes();
                    bytes.extend_from_slice(b"\r\nBDAT 4096 LAST\r\n");
                    bytes.extend_from_slice(&Self::body(4096));
                    self.ask(&bytes, 3).await;
                }
                self.ask(b"QUIT\r\n", 1).await;
            }
            Work::Retrieve => self.retrieve().await,
        }
    }

    /// So many bytes, a multiple of 64, in lines of 64, below an empty header.
    fn body(bytes: usize) -> Vec<u8> {
        let mut line = vec![b'x'; 62];
        line.extend_from_slice(b"\r\n");
        let mut body = line.repeat(bytes / 64);
        if let Some(front) = body.first_chunk_mut() {
            *front = *b"\r\n";
        }
        body
    }

    async fn open(&mut self) {
        let conn = self.rt.connect(self.to).await;
        self.conn = Some(conn.expect("a machine without faults takes connections"));
        self.ask(b"", 1).await;
        self.ask(b"EHLO bench.example.com\r\n", 1).await;
    }

    async fn transaction(&mut self, envelope: &[String], bytes: usize) {
        for line in envelope {
            self.ask(format!("{line}\r\n").as_bytes(), 1).await;
        }
        self.ask(b"DATA\r\n", 1).await;
        let body = mail::stuffed(&Self::body(bytes));
        self.ask(&body, 1).await;
    }

    /// Sends `bytes` and reads so many replies, all of them good.
    async fn ask(&mut self, bytes: &[u8], replies: usize) {
        let conn = self.conn.as_mut().expect("a connection is open");
        conn.push(bytes);
        for _ in 0..replies {
            let length = loop {
                match reply_length(conn.filled()) {
                    Some(length) => break length,
                    None => {
                        let count = conn.fill(Instant::FAR).await.expect("nothing fails here");
                        assert!(count > 0, "the server hung up");
                    }
                }
            };
            let good = matches!(conn.filled().first(), Some(b'2' | b'3' | b'+'));
            assert!(good, "refused: {}", String::from_utf8_lossy(&conn.filled()[..length]));
            conn.consume(length);
        }
    }

    async fn retrieve(&mut self) {
        let conn = self.rt.connect(self.to).await;
        self.conn = Some(conn.expect("a machine without faults takes connections"));
        self.ask(b"", 1).await;
        self.ask(format!("USER u0@{DOMAIN}\r\n").as_bytes(), 1).await;
        self.ask(format!("PASS {PASSWORD}\r\n").as_bytes(), 1).await;
        for number in 1..=100 {
            self.ask(format!("RETR {number}\r\n").as_bytes(), 1).await;
            let conn = self.conn.as_mut().expect("a connection is open");
            let mut tail = Vec::new();
            while !tail.ends_with(b"\r\n.\r\n") {
                if conn.filled().is_empty() {
                    let count = conn.fill(Instant::FAR).await.expect("nothing fails here");
                    assert!(count > 0, "the server hung up");
                }
                tail.extend_from_slice(conn.filled());
                conn.consume(conn.filled().len());
                tail.drain(..tail.len().saturating_sub(5));
            }
        }
        self.ask(b"QUIT\r\n", 1).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_kept() {
        let budgets = parse("# head\n[kept]\nsends = 3\nreceives=4\n");
        assert_eq!(budgets.get(&("kept".into(), "sends".into())), Some(&3));
        assert_eq!(budgets.get(&("kept".into(), "receives".into())), Some(&4));
        assert!(check(), "see the output");
    }
}
