//! Clients that sign in and submit mail for other servers.
//!
//! They talk one command after the other: how a server bears everything else is what the other
//! clients look at.

use fsmtp_rt::Conn as _;
use fsmtp_rt::sim::SimConn;

use crate::client::{Client, End, reply_length};
use crate::ledger::State;
use crate::mail;
use crate::node::{DOMAIN, PASSWORD, SENDER};
use crate::remote::LOCALS;

/// Longest text of a letter, in bytes.
const TEXT_BYTES_MAX: u64 = 20_000;

impl Client {
    /// A session that submits a few letters.
    pub(crate) async fn submit(&mut self) {
        let Some(conn) = self.connect_to_submit().await else { return };
        let crashes = self.view.crashes.get();
        let mut talk = Submission { client: self, conn, faulted: false };
        let end = talk.run().await;
        let faulted = talk.faulted || talk.conn.faulted();
        let may_end = faulted || self.view.falls(crashes) || self.plan.crowded();
        if !may_end && end != End::Done {
            self.violate(format!("a submission without faults ended with {end:?}"));
        }
    }
}

struct Submission<'a> {
    client: &'a mut Client,
    conn: SimConn,
    faulted: bool,
}

impl Submission<'_> {
    async fn run(&mut self) -> End {
        self.dialogue().await.unwrap_or_else(|end| end)
    }

    async fn dialogue(&mut self) -> Result<End, End> {
        let greeting = self.reply().await?;
        if !greeting.starts_with("220") {
            // Full, or on its way down.
            self.faulted |= greeting.starts_with("421");
            return Ok(End::Done);
        }
        self.command("EHLO client.example.com").await?;
        let secret = format!("\0{SENDER}@{DOMAIN}\0{PASSWORD}");
        let reply = self.command(&format!("AUTH PLAIN {}", base64(secret.as_bytes()))).await?;
        if !reply.starts_with("235") {
            self.unless_deferred("AUTH", &reply);
            return Ok(End::Done);
        }
        for _ in 0..self.client.random.within((1, 4)) {
            self.letter().await?;
        }
        self.command("QUIT").await?;
        Ok(End::Done)
    }

    async fn letter(&mut self) -> Result<(), End> {
        let body = mail::text(&mut self.client.random, TEXT_BYTES_MAX);
        let number = self.client.ledger.borrow_mut().outgoing.enter(&body);
        let reply = self.command(&format!("MAIL FROM:<{SENDER}@{DOMAIN}>")).await?;
        if !reply.starts_with("250") {
            self.unless_deferred("MAIL", &reply);
            return Ok(());
        }
        let mut accepted = Vec::new();
        for _ in 0..self.client.random.within((1, 4)) {
            let to = self.address();
            let reply = self.command(&format!("RCPT TO:<{to}>")).await?;
            if reply.starts_with("250") {
                accepted.push(to);
            } else {
                self.unless_deferred("RCPT", &reply);
            }
        }
        let reply = self.command("DATA").await?;
        if !reply.starts_with("354") {
            if !accepted.is_empty() {
                self.unless_deferred("DATA", &reply);
            }
            self.command("RSET").await?;
            return Ok(());
        }
        let bytes = {
            let mut ledger = self.client.ledger.borrow_mut();
            let letter = ledger.outgoing.letter(number);
            letter.to = accepted.into_iter().collect();
            letter.state = State::Doubt;
            mail::stuffed(&letter.text)
        };
        self.conn.push(&bytes);
        let reply = self.reply().await?;
        let state = if reply.starts_with("250") { State::Acked } else { State::Refused };
        let large =
            reply.starts_with("552") && bytes.len() as u64 > self.client.plan.message_bytes_max;
        if state == State::Refused && !large {
            self.unless_deferred("the end", &reply);
        }
        // A refusal for want of storage says nothing about whether it was stored.
        let state = if reply.starts_with("451") { State::Doubt } else { state };
        self.client.ledger.borrow_mut().outgoing.letter(number).state = state;
        Ok(())
    }

    fn address(&mut self) -> String {
        let local = *self.client.random.pick(&LOCALS);
        let domains = self.client.plan.remotes.len() as u64;
        format!("{local}@d{}.test", self.client.random.below(domains))
    }

    fn unless_deferred(&mut self, what: &str, reply: &str) {
        let falls = reply.starts_with("421");
        self.faulted |= falls;
        let deferred = reply.starts_with("45") && self.client.plan.defers();
        if !falls && !deferred {
            self.client.violate(format!("{what} of a letter was answered {reply:?}"));
        }
    }

    async fn command(&mut self, line: &str) -> Result<String, End> {
        self.client.pause(self.client.plan.think_ms).await;
        self.conn.push(format!("{line}\r\n").as_bytes());
        self.reply().await
    }

    async fn reply(&mut self) -> Result<String, End> {
        loop {
            if let Some(length) = reply_length(self.conn.filled()) {
                let reply = String::from_utf8_lossy(&self.conn.filled()[..length]).into_owned();
                self.conn.consume(length);
                return Ok(reply);
            }
            self.client.fill(&mut self.conn).await?;
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |n: usize| u32::from(chunk.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
