//! Servers elsewhere, with bad habits, and the name server that leads to them.
//!
//! The mail of each domain is for one server. Habits end when the faults of a run do; then every
//! server is a good one, but that it refuses whom it does not know.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::dns::testing::Zone;
use fsmtp_proto::dns::{Data, Mx};
use fsmtp_rt::sim::{Random, SimConn, SimRuntime};
use fsmtp_rt::{Class, Conn as _, Instant, Listener as _, Runtime as _};

use crate::ledger::Ledger;

/// Recipients: everybody, somebody who is greylisted, somebody who is not known.
pub(crate) const LOCALS: [&str; 5] = ["a", "b", "C.d", "late", "no"];

/// Where servers listen, and where the name server does.
pub(crate) const SMTP_PORT: u16 = 25;
pub(crate) const DNS_PORT: u16 = 53;

/// How long whoever comes for the first time has to wait.
const GREYLISTED: Duration = Duration::from_secs(8);
/// Longer than any client waits for a reply.
const FOREVER: Duration = Duration::from_secs(7200);

/// What a server does that is not right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Habit {
    /// Nothing.
    Good,
    /// It knows HELO only.
    Old,
    /// Now and then it says 451, or 421 and closes.
    Busy,
    /// Now and then it cuts the connection in place of a reply, or behind it.
    Cuts,
    /// Now and then it never replies.
    Stalls,
    /// It does not listen; whoever comes next in the MX records does.
    Absent,
}

impl Habit {
    pub(crate) const ALL: [Self; 6] =
        [Self::Good, Self::Old, Self::Busy, Self::Cuts, Self::Stalls, Self::Absent];
}

/// A server.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) rt: SimRuntime,
    pub(crate) habit: Habit,
    pub(crate) random: Rc<RefCell<Random>>,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    /// All are good from now on.
    pub(crate) calm: Rc<Cell<bool>>,
}

/// The names of the servers: `d0.test` and so on, each with MX records.
pub(crate) fn zone(remotes: &[Remote], dead: &SimRuntime) -> Zone {
    let mut zone = Zone::new();
    let address = |rt: &SimRuntime| match rt.address(SMTP_PORT).ip() {
        core::net::IpAddr::V4(ip) => Data::A(ip),
        core::net::IpAddr::V6(ip) => Data::Aaaa(ip),
    };
    zone = zone.with("dead.test", 300, address(dead));
    for (number, remote) in remotes.iter().enumerate() {
        let (domain, host) = (format!("d{number}.test"), format!("mx.d{number}.test"));
        let mx =
            |preference, exchange: &str| Data::Mx(Mx { preference, exchange: exchange.into() });
        if remote.habit == Habit::Absent {
            zone = zone.with(&domain, 30, mx(5, "dead.test"));
        }
        zone = zone.with(&domain, 30, mx(10, &host)).with(&host, 30, address(&remote.rt));
    }
    zone
}

/// Answers names from `zone`.
pub(crate) async fn answer_names(rt: SimRuntime, zone: Zone) {
    let mut service = rt.bind_udp(DNS_PORT);
    loop {
        let (from, query) = service.receive().await;
        if let Some(answer) = zone.answer(&query) {
            service.send_to(from, &answer);
        }
    }
}

impl Remote {
    /// Listens, for as long as the world stands.
    pub(crate) async fn listen(self) {
        let mut listener = self.rt.listen(SMTP_PORT);
        while let Ok(conn) = listener.accept().await {
            let server = self.clone();
            self.rt.spawn(Class::Session, async move {
                let mut visit = Visit { server, conn, unconfirmed: None };
                let _ = visit.serve().await;
            });
        }
    }

    fn chance(&self, habit: Habit, per_million: u32) -> bool {
        let bad = self.habit == habit && !self.calm.get();
        bad && self.random.borrow_mut().chance(per_million)
    }
}

/// One connection.
struct Visit {
    server: Remote,
    conn: SimConn,
    /// What was taken last, until its client goes on.
    unconfirmed: Option<usize>,
}

/// The connection is of no use any more.
struct Over;

impl Visit {
    async fn serve(&mut self) -> Result<(), Over> {
        self.say("220 elsewhere.test ESMTP").await?;
        let mut to: Vec<String> = Vec::new();
        loop {
            let line = self.line().await?;
            let verb = line.get(..4).unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" if self.server.habit == Habit::Old => self.say("500 what?").await?,
                "EHLO" => self.say("250-elsewhere.test\r\n250-PIPELINING\r\n250 CHUNKING").await?,
                "MAIL" | "RSET" => {
                    to.clear();
                    self.say("250 ok").await?;
                }
                "RCPT" => {
                    let address = between(&line).to_owned();
                    match self.verdict(&address) {
                        None => {
                            to.push(address);
                            self.say("250 ok").await?;
                        }
                        Some(refusal) => self.say(refusal).await?,
                    }
                }
                "DATA" if to.is_empty() => self.say("554 nobody").await?,
                "DATA" => {
                    self.say("354 go on").await?;
                    let bytes = self.data().await?;
                    self.take(&bytes, &mut to).await?;
                }
                "BDAT" => self.chunks(&line, &mut to).await?,
                "QUIT" => return self.say("221 bye").await,
                _ => self.say("250 ok").await?,
            }
        }
    }

    /// The refusal of a recipient.
    fn verdict(&self, address: &str) -> Option<&'static str> {
        let until = Instant::default() + GREYLISTED;
        match address.split('@').next() {
            Some("no") => Some("550 5.1.1 nobody of that name"),
            Some("late") if self.server.rt.now() < until => Some("451 4.7.1 come back later"),
            _ => None,
        }
    }

    async fn take(&mut self, bytes: &[u8], to: &mut Vec<String>) -> Result<(), Over> {
        if self.server.chance(Habit::Busy, 200_000) {
            to.clear();
            return self.say("452 4.3.1 full").await;
        }
        if self.server.chance(Habit::Cuts, 100_000) {
            return Err(Over);
        }
        let now = self.server.rt.now();
        let taken = self.server.ledger.borrow_mut().outgoing.take(bytes, to, now);
        to.clear();
        let said = self.say("250 2.0.0 taken").await;
        self.unconfirmed = taken;
        said
    }

    async fn chunks(&mut self, first: &str, to: &mut Vec<String>) -> Result<(), Over> {
        let mut line = first.to_owned();
        let mut bytes = Vec::new();
        loop {
            let mut words = line.split(' ').skip(1);
            let count: usize = words.next().and_then(|word| word.parse().ok()).ok_or(Over)?;
            let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
            while self.conn.filled().len() < count {
                // Larger than what a connection holds at a time: taken in pieces.
                self.fill().await?;
                if self.conn.filled().len() >= 4096 && self.conn.filled().len() < count {
                    break;
                }
            }
            let mut left = count;
            while left > 0 {
                if self.conn.filled().is_empty() {
                    self.fill().await?;
                }
                let some = left.min(self.conn.filled().len());
                bytes.extend_from_slice(&self.conn.filled()[..some]);
                self.conn.consume(some);
                left -= some;
            }
            if to.is_empty() {
                return self.say("554 nobody").await;
            }
            if last {
                return self.take(&bytes, to).await;
            }
            self.say("250 go on").await?;
            line = self.line().await?;
            if !line.to_ascii_uppercase().starts_with("BDAT") {
                return Err(Over);
            }
        }
    }

    async fn data(&mut self) -> Result<Vec<u8>, Over> {
        let mut bytes = Vec::new();
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                return Ok(bytes);
            }
            bytes.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    async fn line(&mut self) -> Result<String, Over> {
        let line = self.raw_line().await?;
        // Who says something more has read what was said before: no command goes ahead of the
        // reply to a message.
        if let Some(taken) = self.unconfirmed.take() {
            self.server.ledger.borrow_mut().outgoing.confirm(taken);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn raw_line(&mut self) -> Result<Vec<u8>, Over> {
        let mut line = Vec::new();
        loop {
            let filled = self.conn.filled();
            let end = filled.iter().position(|byte| *byte == b'\n').map(|lf| lf + 1);
            let some = end.unwrap_or(filled.len());
            line.extend_from_slice(&filled[..some]);
            self.conn.consume(some);
            if end.is_some() {
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Over> {
        let late = self.server.rt.now() + FOREVER;
        match self.conn.fill(late).await {
            Ok(bytes) if bytes > 0 => Ok(()),
            _ => Err(Over),
        }
    }

    async fn say(&mut self, reply: &str) -> Result<(), Over> {
        let server = &self.server;
        if server.chance(Habit::Stalls, 30_000) {
            server.rt.sleep_until(server.rt.now() + FOREVER).await;
            return Err(Over);
        }
        if server.chance(Habit::Cuts, 30_000) {
            return Err(Over);
        }
        let busy = reply.starts_with("25") && server.chance(Habit::Busy, 100_000);
        // What is taken is said; anything else may be put off.
        if busy && !reply.contains("taken") {
            self.conn.push(b"421 4.3.2 another time\r\n");
            return Err(Over);
        }
        self.conn.push(reply.as_bytes());
        self.conn.push(b"\r\n");
        if server.chance(Habit::Cuts, 30_000) { Err(Over) } else { Ok(()) }
    }
}

fn between(line: &str) -> &str {
    let rest = line.split_once('<').map_or("", |(_, rest)| rest);
    rest.split_once('>').map_or("", |(address, _)| address)
}
