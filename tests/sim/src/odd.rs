//! Clients that are no clients: one that says the same twice, one that never reads, one that never
//! speaks.

use core::time::Duration;

use fsmtp_rt::sim::{NetOptions, Options, SimConn};
use fsmtp_rt::{Conn, IoKind, Runtime};

use crate::client::{ACCOUNTS, Client, PATIENCE};
use crate::ledger::State;
use crate::mail;

/// A dialogue as bytes, and the message in it.
struct Blind {
    token: usize,
    accounts: Vec<u32>,
    bytes: Vec<u8>,
}

impl Client {
    /// Split invariance: the same bytes, cut in two ways, get the same replies and store the same.
    pub(crate) async fn twin(&mut self) {
        let crashes = self.view.crashes.get();
        let mut calm = Options::calm().net;
        let (first, second) = self.blind();
        let whole = self.transcript(&first, calm.clone(), false).await;
        calm.short_reads = 700_000;
        calm.short_read_bytes = *self.random.pick(&[1, 3, 79]);
        let cut = self.transcript(&second, calm, true).await;
        let void = self.view.falls(crashes);
        let (Some(whole), Some(cut)) = (whole, cut) else {
            // After a refused DATA the body reads as commands, and ends in a close and a reset.
            if !void && !self.plan.defers() && !self.plan.crowded() {
                self.violate("a twin did not get its whole dialogue".into());
            }
            return;
        };
        // A refusal for want of storage may come at any moment.
        if void || deferred(&whole) || deferred(&cut) {
            return;
        }
        self.ledger.borrow_mut().twins += 1;
        let (whole, cut) = (masked(&whole), masked(&cut));
        if whole != cut {
            let same = whole.lines().zip(cut.lines()).take_while(|(a, b)| a == b).count();
            let (a, b) = (whole.lines().nth(same), cut.lines().nth(same));
            self.violate(format!(
                "cut differently, line {same} of the replies is {b:?}, not {a:?}"
            ));
        }
    }

    /// Two scripts that differ in the token of their message only.
    fn blind(&mut self) -> (Blind, Blind) {
        let text = mail::text(&mut self.random, 300);
        let mut accounts = vec![self.random.below(ACCOUNTS.into()) as u32];
        let mut before = b"EHLO twin.example.com\r\nNOOP\r\nMAIL FROM:<a@example.com>\r\n".to_vec();
        before.extend_from_slice(format!("RCPT TO:<u{}@example.test>\r\n", accounts[0]).as_bytes());
        if self.random.coin() {
            before.extend_from_slice(b"RCPT TO:<nobody@example.test>\r\nXYZZY\r\n");
        }
        if self.random.coin() {
            before.splice(23..23, b"RCPT TO:<u1@example.test>\r\nHELP\r\n".iter().copied());
        }
        let chunked = self.random.coin();
        let after: &[u8] =
            if self.random.coin() { b"RSET\r\nQUIT\r\n" } else { b"DATA\r\nQUIT\r\n" };
        accounts.sort_unstable();
        let script = || {
            let mut ledger = self.ledger.borrow_mut();
            let token = ledger.enter(&text);
            let body = &ledger.entries[token].body;
            let mut bytes = before.clone();
            if chunked {
                let half = body.len() / 2;
                bytes.extend_from_slice(format!("BDAT {half}\r\n").as_bytes());
                bytes.extend_from_slice(&body[..half]);
                bytes.extend_from_slice(format!("BDAT {} LAST\r\n", body.len() - half).as_bytes());
                bytes.extend_from_slice(&body[half..]);
            } else {
                bytes.extend_from_slice(b"DATA\r\n");
                bytes.extend_from_slice(&mail::stuffed(body));
            }
            bytes.extend_from_slice(after);
            Blind { token, accounts: accounts.clone(), bytes }
        };
        (script(), script())
    }

    /// Sends all of a script without waiting for replies; None when the end never came.
    async fn transcript(&mut self, blind: &Blind, net: NetOptions, cut: bool) -> Option<String> {
        // Replies name the client's address, so both twins have the same.
        let from = core::net::Ipv4Addr::new(198, 51, 100, 251);
        let Some(mut conn) = self.connect_from(from, Some(net)).await else {
            return Some("421 nobody is there".into());
        };
        self.ledger.borrow_mut().doubt(blind.token, blind.accounts.iter().copied());
        let mut rest = &blind.bytes[..];
        while cut && rest.len() > 1 && self.random.chance(900_000) {
            let most = rest.len().min(100);
            let (piece, after) = rest.split_at(1 + self.random.index(most));
            conn.push(piece);
            self.pause(1).await;
            rest = after;
        }
        conn.push(rest);
        let replies = self.read_all(&mut conn).await;
        if let Some(replies) = &replies {
            let mut ledger = self.ledger.borrow_mut();
            if replies.contains("\r\n250 2.6.0 ") {
                ledger.ack(blind.token, blind.accounts.iter().copied(), replies);
            } else if replies.contains("\r\n221 ") && !deferred(replies) {
                ledger.refuse(blind.token);
            }
            debug_assert!(ledger.entries[blind.token].state != State::Sending, "it was sent");
        }
        replies
    }

    async fn read_all(&mut self, conn: &mut SimConn) -> Option<String> {
        let mut replies = Vec::new();
        loop {
            replies.extend_from_slice(conn.filled());
            conn.consume(conn.filled().len());
            match conn.fill(self.rt.now() + PATIENCE).await {
                Ok(0) => return Some(String::from_utf8_lossy(&replies).into_owned()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// A client that never reads is closed, and what is kept for it meanwhile is bounded.
    pub(crate) async fn deaf(&mut self) {
        let crashes = self.view.crashes.get();
        let Some(mut conn) = self.connect(None).await else { return };
        conn.push(b"EHLO deaf.example.com\r\n");
        let noise = if self.random.coin() { &b"HELP\r\n"[..] } else { b"NOOP\r\n" };
        let pipe = self.plan.options.net.buffer_bytes.1 as usize;
        let count = (pipe / 8).clamp(1_000, 20_000);
        conn.push(&noise.repeat(count));
        self.rt.sleep_until(self.rt.now() + PATIENCE).await;
        let void = conn.faulted() || self.view.falls(crashes);
        if !void && conn.peer_open() {
            self.violate("a client that never reads keeps its connection".into());
        }
    }

    /// A client that says nothing gets 421 and the end, RFC 5321 §4.5.3.2.
    pub(crate) async fn idle(&mut self) {
        let crashes = self.view.crashes.get();
        let Some(mut conn) = self.connect(None).await else { return };
        if self.random.coin() {
            conn.push(b"EHLO idle.example.com\r\nMAIL FROM:<a@exa");
        }
        let start = self.rt.now();
        let mut replies = Vec::new();
        let end = loop {
            replies.extend_from_slice(conn.filled());
            conn.consume(conn.filled().len());
            match conn.fill(start + PATIENCE).await {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind),
            }
        };
        let void = conn.faulted() || self.view.falls(crashes);
        let text = String::from_utf8_lossy(&replies);
        let told = text.lines().next_back().is_some_and(|line| line.starts_with("421 "));
        let waited = self.rt.now() - start;
        let fair = waited >= Duration::from_secs(60);
        let ended = end.is_none() || end == Some(IoKind::Closed);
        let crowded = self.plan.crowded() && text.starts_with("421 4.7.0");
        // Refused, and with it a reset, because it had spoken before it was greeted.
        let early = self.plan.crowded() && text.is_empty() && end == Some(IoKind::Closed);
        let good = told && ended && (fair || crowded) || early;
        if !void && !good {
            self.violate(format!("an idle client saw {text:?}, {end:?} after {waited:?}"));
        }
    }
}

/// Whether some reply was a 4xx.
fn deferred(replies: &str) -> bool {
    replies.lines().any(|line| line.starts_with('4'))
}

/// The replies without what may differ: the greeting's date, ids of messages, host names.
fn masked(replies: &str) -> String {
    let mut out = String::new();
    for line in replies.lines().filter(|line| !line.starts_with("220 ")) {
        match line.split_once("queued <") {
            Some((before, after)) => {
                out.push_str(before);
                out.push_str(after.split_once('>').map_or("", |(_, after)| after));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
