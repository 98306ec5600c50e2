//! Looks on while a message is brought to its hosts, and makes lines of what it sees.
//!
//! Lives on the shard of the command; the lines go over a channel to whoever prints them. Their
//! number is bounded by that of hosts, addresses and recipients.

use super::show::{Line, State};
use crate::relay::direct::Fate;
use crate::relay::routes::Host;
use crate::relay::watch::{Step, Watch};
use core::cell::{Cell, RefCell};
use core::fmt::Display;
use fsmtp_proto::smtp::client::{Reply, To};
use std::sync::mpsc::Sender;
use std::time::Instant;

/// What comes from the shard.
#[derive(Debug)]
pub(super) enum News {
    Line(Line),
    Fate(String, Fate),
}

/// Who looks on.
#[derive(Debug)]
pub(super) struct Teller {
    news: Sender<News>,
    began: Instant,
    /// When the step before ended.
    last: Cell<Instant>,
    /// Those of the domain whose turn it is.
    recipients: RefCell<Vec<String>>,
    /// What goes wrong now is not about connecting.
    connected: Cell<bool>,
}

impl Teller {
    /// `began` is when the command did.
    pub(super) fn new(news: Sender<News>, began: Instant) -> Self {
        let (last, recipients) = (Cell::new(Instant::now()), RefCell::default());
        Self { news, began, last, recipients, connected: Cell::new(false) }
    }

    /// The turn of a domain begins.
    pub(super) fn turn(&self, recipients: &[String]) {
        *self.recipients.borrow_mut() = recipients.to_vec();
        self.connected.set(false);
    }

    /// It is over.
    pub(super) fn over(&self, fates: Vec<Fate>) {
        for (address, fate) in self.recipients.borrow().iter().zip(fates) {
            let (state, words) = match (fate.taken, fate.for_good) {
                (true, _) => (State::Done, "delivered"),
                (false, true) => (State::Failed, "not delivered, for good"),
                (false, false) => (State::Failed, "not delivered, for now"),
            };
            let text = format!("{address}: {words}: {}", fate.words);
            let took = self.began.elapsed();
            self.send(News::Line(Line { state, step: "result", took, code: None, text }));
            self.send(News::Fate(address.clone(), fate));
        }
    }

    fn send(&self, news: News) {
        // Whoever prints stays to the end.
        let _ = self.news.send(news);
    }

    fn line(&self, state: State, step: &'static str, code: Option<u16>, text: String) {
        let now = Instant::now();
        let took = now.duration_since(self.last.replace(now));
        self.send(News::Line(Line { state, step, took, code, text }));
    }

    fn reply(&self, to: To, reply: &Reply<'_>) {
        // A large message has many chunks, and only the last one matters.
        if to == To::Chunk && !reply.refuses() {
            return;
        }
        let step = match to {
            To::Greeting => "greeting",
            To::Hello => "EHLO",
            To::StartTls => "STARTTLS",
            To::Auth => "AUTH",
            To::Mail => "MAIL",
            To::Recipient(_) => "RCPT",
            To::Data => "DATA",
            To::Chunk => "BDAT",
            To::Message | To::Delivery(_) | To::Emptied => "message",
            To::Reset => "RSET",
            To::Fcapa => "FCAPA",
            To::Su => "SU",
            To::Quit => "QUIT",
            To::Nothing => "goodbye",
        };
        let state = match to {
            _ if !reply.refuses() => State::Done,
            // Without extensions or in clear it goes on.
            To::Hello | To::StartTls => State::Note,
            _ => State::Failed,
        };
        let lines = reply.lines().map(String::from_utf8_lossy);
        let lines: Vec<String> = lines.map(|line| line.into_owned()).collect();
        let words = match (to, &*lines) {
            (To::Hello, [first, more @ ..]) if !more.is_empty() => {
                format!("{first}; offers {}", more.join(", "))
            }
            _ => lines.join(" "),
        };
        let mut text = format!("{} {words}", reply.code());
        if let To::Recipient(index) = to
            && let Some(address) = self.recipients.borrow().get(index as usize)
        {
            text = format!("{address}: {text}");
        }
        self.line(state, step, Some(reply.code()), text);
    }
}

fn list<T: Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Watch for Teller {
    fn saw(&self, step: Step<'_>) {
        let done = |step, text| self.line(State::Done, step, None, text);
        match step {
            Step::Hosts(domain, hosts, how) => {
                done("resolve", format!("{domain}: {} ({how})", list::<Host>(hosts)));
            }
            Step::Addresses(host, found) => {
                done("address", format!("{}: {}", host.name, list(found)));
            }
            Step::Unknown(name, why) => {
                self.line(State::Failed, "resolve", None, format!("{name}: {why}"));
            }
            Step::Connected(to, host) => {
                self.connected.set(true);
                let named = host.parse::<core::net::IpAddr>().is_err();
                let host = if named { format!(" ({host})") } else { String::new() };
                done("connect", format!("{to}{host}"));
            }
            Step::Reply(to, reply) => self.reply(to, reply),
            Step::Encrypted(tls, proved) => {
                let (version, cipher) = (tls.version, tls.cipher);
                // RFC 7435 §3: where who it is makes no difference, nobody has looked.
                let not = if proved { "" } else { "not " };
                done("TLS", format!("{version}, {cipher}, certificate {not}verified"));
            }
            Step::InClear => {
                self.line(State::Note, "TLS", None, "none: the message goes in clear".to_owned());
            }
            Step::Broken(why) => {
                let step = if self.connected.replace(false) { "host" } else { "connect" };
                self.line(State::Failed, step, None, why.to_owned());
            }
            Step::WithLessTls(why) => {
                self.connected.set(false);
                let text = format!("{why}; the same host once more, with less or in clear");
                self.line(State::Note, "TLS", None, text);
            }
        }
    }
}
