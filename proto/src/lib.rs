//! Mail protocols as values: bytes and time go in, replies and questions come out.
//!
//! This crate does no I/O, reads no clock, starts no thread and knows none of our other crates, so
//! every behaviour can be tested in memory, cut at every byte, and replayed from a seed.
//!
//! # The turn contract
//!
//! A session is a value. The driver hands it the bytes that have arrived and the time, the session
//! appends replies to an [`Outbox`](wire::outbox::Outbox) and says what it needs next:
//!
//! ```text
//! fn turn<'b>(&mut self, now: Instant, input: &'b [u8], out: &mut Outbox) -> Turn<'b>
//! fn answer(&mut self, answer: Answer, out: &mut Outbox)
//! fn deadline(&self) -> Instant
//! fn expire(&mut self, now: Instant, out: &mut Outbox)
//! ```
//!
//! 1. `turn` does **one** thing at the front of `input`. What it returns may borrow `input`; when
//!    the driver is done with it, it drops `consumed` bytes from the front of its window.
//! 2. An ambiguous byte is never consumed: it stays in the window until more have arrived. So every
//!    way of cutting the stream gives the same dialogue.
//! 3. After a question (`Then::Ask`) the session takes no bytes until `answer` was called, so
//!    replies keep the order of the commands; policy and storage stay outside.
//! 4. Replies leave when the session needs input (or asks for a flush): a pipelined group costs one
//!    send. The outbox is bounded; a turn that finds too little room asks for a flush first.
//! 5. After `Then::StartTls` the driver sends the outbox, does the handshake on a window that it
//!    has seen to be empty, and says `secured`; no byte from before survives into TLS.
//! 6. "The client talked too early" is a matter of time: the driver sees it, never the session.
//!
//! # Map
//!
//! * [`time`]: `Instant` and `UnixTime`; there is no `now` here.
//! * [`wire`]: the reply buffer and line cutting, shared by the protocols.
//! * [`smtp`]: the SMTP and ESMTP server session, addresses, replies, end-of-data scanner.
//! * [`pop3`]: the POP3 server session.
//! * [`dkim`]: signatures of outgoing mail.
//! * [`arc`]: what hosts on the way have found, and sealed.
//! * [`spf`]: whether a host may send for a domain.
//! * [`iprev`]: whether the name of a client leads back to it; [`dnsbl`]: on which lists it stands.
//! * [`results`]: how all that was found is written down.
//! * [`milter`]: asking filters about mail; [`http`]: the reply of a web server.
//! * [`sts`]: what domains say about TLS of their mail servers.
//! * [`dns`]: asking name servers: messages, one lookup, a cache.
//! * [`sasl`]: signing in, the same for all of them; [`access`]: what TLS and a listener allow.

pub mod access;
pub mod arc;
pub mod dkim;
pub mod dns;
pub mod dnsbl;
pub mod http;
pub mod iprev;
pub mod milter;
pub mod pop3;
pub mod results;
pub mod sasl;
pub mod smtp;
pub mod spf;
pub mod sts;
pub mod time;
pub mod wire;
