//! A client that reads and deletes mail over POP3, and checks it against the ledger.
//!
//! What was acknowledged before it signed in must be there; what it gets must be what was sent;
//! what it deletes and says QUIT to must never come back.

use std::collections::BTreeMap;

use fsmtp_rt::sim::SimConn;
use fsmtp_rt::{Conn, IoKind, Runtime};
use fsmtp_store::QueueId;

use crate::check;
use crate::client::{ACCOUNTS, Client, End, PATIENCE};
use crate::ledger::{Gone, State, token_of};
use crate::node::{DOMAIN, Delivery, PASSWORD};

struct Pop<'a> {
    client: &'a mut Client,
    conn: SimConn,
    account: u32,
    /// Messages of the maildrop, in order: id and octets.
    list: Vec<(QueueId, usize)>,
    last: String,
    /// Crashes of the node before it began.
    crashes: u64,
}

impl Client {
    /// One POP3 session.
    pub(crate) async fn read(&mut self) {
        let crashes = self.view.crashes.get();
        let net = self.plan.options.net.clone();
        let to = self.random.pick(&self.view.pop3.borrow()).to_owned();
        let from = core::net::Ipv4Addr::new(203, 0, 113, self.random.below(250) as u8);
        let Ok(conn) = self.rt.connect_with(from.into(), to, net).await else {
            return self.pause(1_000).await;
        };
        let account = self.random.below(ACCOUNTS.into()) as u32;
        let (list, last) = (Vec::new(), String::new());
        let mut pop = Pop { client: self, conn, account, list, last, crashes };
        let end = pop.session().await.unwrap_or_else(|end| end);
        let (faulted, last) = (pop.conn.faulted(), core::mem::take(&mut pop.last));
        // Half of a damaged message is no message: the server hangs up.
        let rotten = self.ledger.borrow().rotten;
        let void = faulted || rotten || self.view.falls(crashes);
        if !void && !matches!(end, End::Done | End::Left) {
            self.violate(format!("POP3 without faults ended with {end:?} after {last:?}"));
        }
    }
}

impl Pop<'_> {
    async fn session(&mut self) -> Result<End, End> {
        if !self.line().await?.starts_with("+OK") {
            // Over the limit of connections.
            return Ok(End::Done);
        }
        if self.client.random.chance(100_000) {
            self.ask(&format!("USER u{}@{DOMAIN}", self.account)).await?;
            let reply = self.ask("PASS wrong").await?;
            self.expect(&reply, "-ERR");
        }
        let known = self.known();
        self.ask(&format!("USER u{}@{DOMAIN}", self.account)).await?;
        let reply = self.ask(&format!("PASS {PASSWORD}")).await?;
        if reply.starts_with("-ERR [IN-USE]") || self.excused(&reply) {
            self.ask("QUIT").await?;
            return Ok(End::Done);
        }
        if !self.expect(&reply, "+OK") {
            return Ok(End::Done);
        }
        self.survey().await?;
        self.compare(&known);
        self.client.ledger.borrow_mut().maildrops += 1;
        for index in 0..self.list.len() {
            if self.client.random.coin() {
                self.retrieve(index).await?;
            }
        }
        self.delete().await
    }

    /// Messages that must be in the maildrop: acknowledged and not deleted.
    fn known(&self) -> Vec<QueueId> {
        let ledger = self.client.ledger.borrow();
        let mine = ledger
            .entries
            .iter()
            .filter(|entry| entry.state == State::Acked && entry.accounts.contains(&self.account));
        let there = |id: &QueueId| !ledger.gone.contains_key(&(self.account, *id));
        mine.filter_map(|entry| entry.id).filter(there).collect()
    }

    fn compare(&self, known: &[QueueId]) {
        // A message that a busy index gave back is durable, and shown a little later.
        let mut ledger = self.client.ledger.borrow_mut();
        if self.client.plan.index_busy > 0 || ledger.rotten {
            return;
        }
        for id in known {
            let here = self.list.iter().any(|(other, _)| other == id);
            // Another session may have deleted it since.
            if !here && !ledger.gone.contains_key(&(self.account, *id)) {
                let account = self.account;
                ledger.violate(format!("message {id} was acknowledged, u{account} has it not"));
            }
        }
        for (id, _) in &self.list {
            if ledger.gone.get(&(self.account, *id)) == Some(&Gone::Surely) {
                let account = self.account;
                ledger.violate(format!("message {id} of u{account} was deleted and is back"));
            }
        }
    }

    /// STAT, UIDL and LIST must agree.
    async fn survey(&mut self) -> Result<(), End> {
        let stat = self.ask("STAT").await?;
        let mut numbers = stat.split(' ').skip(1).map(|word| word.parse::<usize>().unwrap_or(0));
        let (count, octets) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let ids = self.rows("UIDL").await?;
        let sizes = self.rows("LIST").await?;
        self.list = ids
            .iter()
            .zip(&sizes)
            .filter_map(|(id, size)| Some((id.parse().ok()?, size.parse().ok()?)))
            .collect();
        let sum: usize = self.list.iter().map(|(_, size)| size).sum();
        let whole = ids.len() == count && sizes.len() == count && self.list.len() == count;
        if !whole || sum != octets {
            self.client.violate(format!("{stat:?}, but UIDL {ids:?} and LIST {sizes:?}"));
        }
        let names: BTreeMap<&QueueId, ()> = self.list.iter().map(|(id, _)| (id, ())).collect();
        if names.len() != self.list.len() {
            self.client.violate(format!("unique-ids are not unique: {ids:?}"));
        }
        Ok(())
    }

    /// The second words of the lines that answer `command`, whose first words count from 1.
    async fn rows(&mut self, command: &str) -> Result<Vec<String>, End> {
        let reply = self.ask(command).await?;
        if !self.expect(&reply, "+OK") {
            return Ok(Vec::new());
        }
        let bytes = self.lines().await?;
        let text = String::from_utf8_lossy(&bytes);
        let mut rows = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            match line.split_once(' ') {
                Some((first, rest)) if first.parse() == Ok(number) => rows.push(rest.to_owned()),
                _ => self.client.violate(format!("line {number} of {command} is {line:?}")),
            }
        }
        Ok(rows)
    }

    async fn retrieve(&mut self, index: usize) -> Result<(), End> {
        let (id, size) = self.list[index];
        if self.client.random.chance(200_000) {
            let reply = self.ask(&format!("TOP {} 1", index + 1)).await?;
            if reply.starts_with("+OK") {
                self.lines().await?;
            }
        }
        let reply = self.ask(&format!("RETR {}", index + 1)).await?;
        if self.excused(&reply) || !self.expect(&reply, "+OK") {
            return Ok(());
        }
        let bytes = self.lines().await?;
        let mut ledger = self.client.ledger.borrow_mut();
        let entry = token_of(&bytes).and_then(|token| ledger.entries.get(token));
        if entry.is_some_and(|entry| entry.raw) {
            // Dots behind bare newlines are doubled for the sake of lax clients, and a line end is
            // added where there is none: the audit compares such messages, from the store.
            return Ok(());
        }
        let got = bytes.len();
        if got != size {
            ledger.violate(format!("message {id} has {size} octets in LIST and {got} in RETR"));
        }
        ledger.retrieved += 1;
        check::delivery(&mut ledger, &Delivery { account: self.account, id, bytes });
        Ok(())
    }

    /// Marks some, and leaves with QUIT, after RSET, or without a word.
    async fn delete(&mut self) -> Result<End, End> {
        let mut marked = Vec::new();
        for index in 0..self.list.len() {
            if self.client.random.chance(self.client.plan.deletes) {
                let reply = self.ask(&format!("DELE {}", index + 1)).await?;
                self.expect(&reply, "+OK");
                marked.push(self.list[index].0);
            }
        }
        match self.client.random.below(6) {
            0 => return Ok(End::Left),
            1 => {
                self.ask("RSET").await?;
                marked.clear();
            }
            _ => {}
        }
        self.gone(&marked, Gone::Perhaps);
        let reply = self.ask("QUIT").await?;
        if reply.starts_with("+OK") {
            self.gone(&marked, Gone::Surely);
        } else if !self.excused(&reply) {
            self.expect(&reply, "+OK");
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

    fn gone(&self, ids: &[QueueId], how: Gone) {
        let mut ledger = self.client.ledger.borrow_mut();
        for id in ids {
            ledger.gone.insert((self.account, *id), how);
        }
    }

    /// Whether a refusal is what this run's faults explain.
    fn excused(&self, reply: &str) -> bool {
        let rotten = self.client.ledger.borrow().rotten;
        reply.starts_with("-ERR") && (rotten || self.client.plan.defers())
    }

    fn expect(&self, reply: &str, prefix: &str) -> bool {
        let good = reply.starts_with(prefix);
        if !good {
            self.client.violate(format!("POP3: {reply:?}, expected {prefix:?}"));
        }
        good
    }

    async fn ask(&mut self, command: &str) -> Result<String, End> {
        self.conn.push(format!("{command}\r\n").as_bytes());
        self.client.ledger.borrow_mut().replies += 1;
        let reply = self.line().await?;
        let ledger = self.client.ledger.borrow();
        ledger.show(|| format!("{:?} <- {command} -> {reply}", self.conn));
        Ok(reply)
    }

    async fn line(&mut self) -> Result<String, End> {
        let bytes = self.raw().await?;
        self.last = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if self.client.view.falls(self.crashes) && self.last.starts_with("-ERR [SYS/TEMP]") {
            // The node goes down, which it may say at any time.
            return Err(End::Done);
        }
        Ok(self.last.clone())
    }

    async fn raw(&mut self) -> Result<Vec<u8>, End> {
        let mut line = Vec::new();
        loop {
            let filled = self.conn.filled();
            let end = filled.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&filled[..end.map_or(filled.len(), |end| end + 1)]);
            self.conn.consume(end.map_or(filled.len(), |end| end + 1));
            if line.ends_with(b"\r\n") {
                return Ok(line);
            }
            if end.is_none() {
                self.fill().await?;
            }
        }
    }

    /// The lines up to the one with a dot only, dots removed.
    async fn lines(&mut self) -> Result<Vec<u8>, End> {
        let mut bytes = Vec::new();
        loop {
            let line = self.raw().await?;
            if line == b".\r\n" {
                return Ok(bytes);
            }
            bytes.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    async fn fill(&mut self) -> Result<(), End> {
        match self.conn.fill(self.client.rt.now() + PATIENCE).await {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind == IoKind::TimedOut => Err(End::Silence),
            Err(_) => Err(End::Closed),
        }
    }
}
