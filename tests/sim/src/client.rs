//! Clients of the simulated node: each decides by its own generator what it says, keeps a model of
//! where its dialogue stands, and checks every reply against it.
//!
//! A dialogue proves nothing any more once the world has cut its link or the node has crashed;
//! until then every early end, missing, surplus or unexpected reply is a violation.

use core::cell::RefCell;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use fsmtp_rt::sim::{NetOptions, Random, SimConn, SimRuntime};
use fsmtp_rt::{Conn, IoKind, Runtime};

use crate::ledger::Ledger;
use crate::mail;
use crate::model::{Model, SPOILED, Say};
use crate::node::View;
use crate::plan::{Kind, Plan};

/// Longer than any time-out of the server: who waits so long will wait for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1200);

/// Accounts of the node: `u0@example.test` and so on.
pub(crate) const ACCOUNTS: u32 = 5;

/// Why a dialogue has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// As it should.
    Done,
    /// The server closed it.
    Eof,
    /// It was reset.
    Closed,
    /// No reply came within [`PATIENCE`].
    Silence,
    /// The client hung up.
    Left,
}

/// A client.
pub(crate) struct Client {
    /// Its machine.
    pub(crate) rt: SimRuntime,
    /// Its choices.
    pub(crate) random: Random,
    /// The run's memory.
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    /// The run's plan.
    pub(crate) plan: Rc<Plan>,
    /// The node.
    pub(crate) view: Rc<View>,
}

impl Client {
    /// Lives as `kind` says.
    pub(crate) async fn live(mut self, kind: Kind) {
        let sessions = match kind {
            Kind::Polite | Kind::Reader | Kind::Sender => self.random.within((1, 3)),
            _ => 1,
        };
        for _ in 0..sessions {
            if kind == Kind::Reader {
                // Later than the senders, who mostly take no longer.
                self.pause(8_000).await;
            }
            match kind {
                Kind::Polite | Kind::Hasty => self.talk(kind == Kind::Hasty).await,
                Kind::Twin => self.twin().await,
                Kind::Reader => self.read().await,
                Kind::Deaf => self.deaf().await,
                Kind::Idle => self.idle().await,
                Kind::Sender => self.submit().await,
            }
        }
    }

    /// Connects to some shard, tries again while the node is down.
    pub(crate) async fn connect(&mut self, net: Option<NetOptions>) -> Option<SimConn> {
        let from = core::net::Ipv4Addr::new(198, 51, 100, self.random.below(250) as u8);
        self.connect_from(from, net).await
    }

    /// The same from a given address.
    pub(crate) async fn connect_from(
        &mut self,
        from: core::net::Ipv4Addr,
        net: Option<NetOptions>,
    ) -> Option<SimConn> {
        self.reach(|view| &view.smtp, from, net).await
    }

    /// The same where mail is submitted.
    pub(crate) async fn connect_to_submit(&mut self) -> Option<SimConn> {
        let from = core::net::Ipv4Addr::new(198, 51, 100, self.random.below(250) as u8);
        self.reach(|view| &view.submission, from, None).await
    }

    async fn reach(
        &mut self,
        shards: fn(&View) -> &RefCell<Vec<SocketAddr>>,
        from: core::net::Ipv4Addr,
        net: Option<NetOptions>,
    ) -> Option<SimConn> {
        for _ in 0..200 {
            let to = *self.random.pick(&shards(&self.view).borrow());
            let net = net.clone().unwrap_or_else(|| self.plan.options.net.clone());
            match self.rt.connect_with(from.into(), to, net).await {
                Ok(conn) => return Some(conn),
                Err(_) => self.pause(1_000).await,
            }
        }
        None
    }

    /// Waits for more bytes.
    pub(crate) async fn fill(&self, conn: &mut SimConn) -> Result<(), End> {
        let late = self.rt.now() + PATIENCE;
        match conn.fill(late).await {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind == IoKind::TimedOut => Err(End::Silence),
            Err(_) => Err(End::Closed),
        }
    }

    pub(crate) async fn pause(&mut self, ms_max: u64) {
        let ms = self.random.below(ms_max + 1);
        self.rt.sleep_until(self.rt.now() + Duration::from_millis(ms)).await;
    }

    pub(crate) fn violate(&self, what: String) {
        self.ledger.borrow_mut().violate(what);
    }

    /// Hands one message to the shard at `index`, which must take it.
    pub(crate) async fn probe(mut self, index: usize) {
        let net = self.plan.options.net.clone();
        let to = self.view.smtp.borrow()[index];
        let from = core::net::Ipv4Addr::new(198, 51, 100, 250);
        let Ok(conn) = self.rt.connect_with(from.into(), to, net).await else {
            return self.violate(format!("shard {index} is up and refuses a connection"));
        };
        let token = self.message(false);
        let mail = Say::Mail(None, false);
        let script = [Say::Hello, mail, Say::Rcpt(Some(0)), Say::Data(token), Say::Quit];
        self.dialogue(conn, script.into(), None).await;
    }

    async fn talk(&mut self, hasty: bool) {
        let Some(conn) = self.connect(None).await else { return };
        let script = self.script();
        let haste = hasty.then(|| self.random.below(60));
        self.dialogue(conn, script, haste).await;
    }

    async fn dialogue(&mut self, conn: SimConn, script: VecDeque<Say>, haste: Option<u64>) {
        let crashes = self.view.crashes.get();
        let mut talk = Talk {
            client: self,
            conn,
            script,
            model: Model::default(),
            waiting: VecDeque::new(),
            haste,
            last: String::new(),
            crashes,
        };
        let end = talk.run().await;
        let faulted = talk.conn.faulted();
        let last = core::mem::take(&mut talk.last);
        if end == End::Left && talk.client.random.coin() {
            let Talk { conn, .. } = talk;
            conn.abort();
        }
        let void = faulted || self.view.falls(crashes);
        if !void && !matches!(end, End::Done | End::Left) {
            self.violate(format!("a dialogue without faults ended with {end:?} after {last:?}"));
        }
    }
}

/// A dialogue.
struct Talk<'a> {
    client: &'a mut Client,
    conn: SimConn,
    /// To be said.
    script: VecDeque<Say>,
    model: Model,
    /// Said, and not answered.
    waiting: VecDeque<Say>,
    /// Hang up after so many more things.
    haste: Option<u64>,
    /// The last reply.
    last: String,
    /// Crashes of the node before it began.
    crashes: u64,
}

impl Talk<'_> {
    async fn run(&mut self) -> End {
        self.dialogue().await.unwrap_or_else(|end| end)
    }

    async fn dialogue(&mut self) -> Result<End, End> {
        let greeting = self.reply().await?;
        let crowded = greeting.starts_with("421 4.7.0") && self.client.plan.crowded();
        let falls = greeting.starts_with("421 4.3.2") && self.client.view.falls(self.crashes);
        if crowded || falls {
            return Ok(End::Done);
        }
        if !greeting.starts_with("220 ") {
            self.client.violate(format!("greeted with {greeting:?}"));
            return Ok(End::Done);
        }
        let random = &mut self.client.random;
        let deep = if random.chance(700_000) { random.within((2, 12)) } else { 1 };
        while !self.script.is_empty() {
            let mut group = Vec::new();
            while (group.len() as u64) < deep {
                let Some(say) = self.script.pop_front() else { break };
                let stop = matches!(say, Say::Data(_) | Say::Quit | Say::Hello);
                group.push(say);
                if stop {
                    break;
                }
            }
            self.client.pause(self.client.plan.think_ms).await;
            self.client.ledger.borrow().show(|| format!("{:?} <- {group:?}", self.conn));
            self.send(&group).await?;
            self.waiting.extend(group);
            while let Some(say) = self.waiting.pop_front() {
                self.check(&say).await?;
            }
            if let Some(token) = self.model.wanted.take() {
                self.script.push_front(Say::Body(token));
            }
        }
        self.surplus().await
    }

    /// After the reply to QUIT, the end follows and nothing else.
    async fn surplus(&mut self) -> Result<End, End> {
        if !self.conn.filled().is_empty() {
            let more = String::from_utf8_lossy(self.conn.filled()).into_owned();
            self.client.violate(format!("more than one reply per command: {more:?}"));
        }
        match self.fill().await {
            Err(End::Eof) => Ok(End::Done),
            Err(end) => Err(end),
            Ok(()) => {
                self.client.violate("bytes came after the reply to QUIT".into());
                Ok(End::Done)
            }
        }
    }

    async fn fill(&mut self) -> Result<(), End> {
        self.client.fill(&mut self.conn).await
    }

    /// The next reply, lines joined.
    async fn reply(&mut self) -> Result<String, End> {
        loop {
            if let Some(length) = reply_length(self.conn.filled()) {
                let bytes = &self.conn.filled()[..length];
                self.last = String::from_utf8_lossy(bytes).trim_end().to_owned();
                self.conn.consume(length);
                return Ok(self.last.clone());
            }
            self.fill().await?;
        }
    }

    /// Sends `group` in one piece, in a few, or byte by byte.
    async fn send(&mut self, group: &[Say]) -> Result<(), End> {
        let mut bytes = Vec::new();
        let mut accounts = self.model.accounts.clone();
        for say in group {
            if let Some(haste) = &mut self.haste {
                if *haste == 0 {
                    let cut = self.client.random.index(bytes.len() + 1);
                    self.conn.push(&bytes[..cut]);
                    return Err(End::Left);
                }
                *haste -= 1;
            }
            self.render(say, &mut accounts, &mut bytes);
        }
        let cuts = match self.client.random.below(4) {
            0 => self.client.random.within((1, 4)),
            1 if bytes.len() < 100 => 100,
            _ => 0,
        };
        let mut rest = &bytes[..];
        for _ in 0..cuts {
            let most = if cuts == 100 { rest.len().min(1) } else { rest.len() };
            let (piece, after) = rest.split_at(self.client.random.index(most + 1));
            self.conn.push(piece);
            rest = after;
            self.client.pause(20).await;
        }
        self.conn.push(rest);
        Ok(())
    }

    fn render(&self, say: &Say, accounts: &mut BTreeSet<u32>, out: &mut Vec<u8>) {
        let mut ledger = self.client.ledger.borrow_mut();
        let line = match say {
            Say::Hello => "EHLO client.example.com",
            Say::Mail(size, binary) => {
                let size = size.map_or(String::new(), |size| format!(" SIZE={size}"));
                let body = if *binary { " BODY=BINARYMIME" } else { "" };
                &format!("MAIL FROM:<sender@example.com>{size}{body}")
            }
            Say::Spoiled(line) => {
                out.extend_from_slice(line);
                return;
            }
            Say::Rcpt(Some(number)) => {
                accounts.insert(*number);
                &format!("RCPT TO:<u{number}@example.test>")
            }
            Say::Rcpt(None) => "RCPT TO:<nobody@example.test>",
            Say::Data(_) => "DATA",
            Say::Body(token) => {
                ledger.doubt(*token, self.model.accounts.iter().copied());
                out.extend_from_slice(&mail::stuffed(&ledger.entries[*token].body));
                return;
            }
            Say::Bdat { token, from, to, last } => {
                if *last {
                    ledger.doubt(*token, accounts.iter().copied());
                }
                let last = if *last { " LAST" } else { "" };
                out.extend_from_slice(format!("BDAT {}{last}\r\n", to - from).as_bytes());
                out.extend_from_slice(&ledger.entries[*token].body[*from..*to]);
                return;
            }
            Say::Rset => "RSET",
            Say::Noop => "NOOP",
            Say::Vrfy => "VRFY u1",
            Say::Help => "HELP",
            Say::Junk => "XYZZY",
            Say::Quit => "QUIT",
        };
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Reads the reply to `say`, compares it with the model and moves the model on.
    async fn check(&mut self, say: &Say) -> Result<(), End> {
        let reply = self.reply().await?;
        if reply.starts_with("421 4.3.2") && self.client.view.falls(self.crashes) {
            // RFC 5321 §3.8: the node goes down, which it may say at any time.
            return Err(End::Done);
        }
        let mut ledger = self.client.ledger.borrow_mut();
        ledger.show(|| format!("{:?} -> {reply}", self.conn));
        ledger.replies += 1;
        let most = self.client.plan.message_bytes_max;
        let expected = self.model.expected(say, &ledger, most);
        let fits = expected.iter().any(|prefix| reply.starts_with(prefix));
        let deferred = say.stores() && reply.starts_with("45") && self.client.plan.defers();
        let fits = fits || deferred;
        if !fits {
            ledger.violate(format!("{say:?} was answered {reply:?}, expected {expected:?}"));
        }
        self.model.learn(say, &reply, &mut ledger);
        Ok(())
    }
}

/// The length of the first whole reply in `bytes`.
pub(crate) fn reply_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if !line.ends_with(b"\n") {
            return None;
        }
        if line.get(3) != Some(&b'-') {
            return Some(length);
        }
    }
    None
}

/// Making scripts.
impl Client {
    fn script(&mut self) -> VecDeque<Say> {
        let mut script = VecDeque::from([Say::Hello]);
        for _ in 0..self.random.within((1, 3)) {
            match self.random.below(10) {
                0 => self.chatter(&mut script),
                1 => {
                    // A transaction that comes to nothing.
                    script.extend([Say::Mail(None, false), self.recipient()]);
                    script.push_back(if self.random.coin() { Say::Rset } else { Say::Hello });
                }
                2..=4 => self.chunked(&mut script),
                _ => {
                    let token = self.message(false);
                    self.envelope(token, false, &mut script);
                    script.push_back(Say::Data(token));
                }
            }
        }
        script.push_back(Say::Quit);
        script
    }

    fn chatter(&mut self, script: &mut VecDeque<Say>) {
        for _ in 0..self.random.within((1, 4)) {
            let said = [Say::Noop, Say::Vrfy, Say::Help, Say::Junk, Say::Rset, self.recipient()];
            let said = match self.random.below(12) {
                0 => Say::Spoiled(self.random.pick::<&[u8]>(&SPOILED)),
                _ => self.random.pick(&said).clone(),
            };
            script.push_back(said);
        }
    }

    fn recipient(&mut self) -> Say {
        Say::Rcpt(self.random.chance(850_000).then(|| self.random.below(ACCOUNTS.into()) as u32))
    }

    fn envelope(&mut self, token: usize, binary: bool, script: &mut VecDeque<Say>) {
        let bytes = self.ledger.borrow().entries[token].body.len() as u64;
        let size = self.random.chance(300_000).then_some(bytes);
        script.push_back(Say::Mail(size, binary));
        if self.random.chance(50_000) {
            script.push_back(Say::Mail(None, binary));
        }
        for _ in 0..self.random.within((1, 3)) {
            let recipient = self.recipient();
            script.push_back(recipient);
        }
        if self.random.chance(100_000) {
            self.chatter(script);
        }
    }

    /// Enters a message; with tight pipes a small one, or the run would last too long.
    pub(crate) fn message(&mut self, raw: bool) -> usize {
        let small = self.plan.message_bytes_max < 10_000;
        let tight = self.plan.options.net.buffer_bytes.0 < 512
            || (self.plan.options.net.short_reads > 0
                && self.plan.options.net.short_read_bytes < 79);
        let most = match (tight, small) {
            (true, _) => 300,
            (_, true) => 2 * self.plan.message_bytes_max,
            _ => 200_000,
        };
        let make = if raw { mail::binary } else { mail::text };
        let text = make(&mut self.random, most);
        let mut ledger = self.ledger.borrow_mut();
        let token = ledger.enter(&text);
        ledger.entries[token].raw = raw;
        token
    }

    fn chunked(&mut self, script: &mut VecDeque<Say>) {
        let binary = self.random.chance(300_000);
        let token = self.message(binary);
        let bytes = self.ledger.borrow().entries[token].body.len();
        self.envelope(token, binary, script);
        if binary && self.random.chance(100_000) {
            // RFC 3030 §3: refused, and BDAT goes on.
            let other = self.message(false);
            script.push_back(Say::Data(other));
        }
        let mut from = 0;
        while self.random.coin() {
            let to = from + self.random.index(bytes - from + 1);
            script.push_back(Say::Bdat { token, from, to, last: false });
            from = to;
        }
        script.push_back(Say::Bdat { token, from, to: bytes, last: true });
        if self.random.chance(100_000) {
            self.chatter(script);
        }
    }
}
