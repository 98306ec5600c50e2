//! One transaction of a client session: which commands were written, which replies heard, and what
//! is due next.
//!
//! The session owns one while a transaction is open, and asks it before and after each reply. It
//! holds counts only, so thousands of recipients cost nothing here.

use super::{Content, Protocol, To, UNHEARD_MAX};
use crate::wire::outbox::Outbox;

/// The commands of an envelope are counted from 0: MAIL, each RCPT, and DATA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    pub(super) content: Content,
    pub(super) pipelined: bool,
    pub(super) commands_count: u32,
    pub(super) recipients_count: u32,
    pub(super) asked_count: u32,
    pub(super) heard_count: u32,
    pub(super) mail_accepted: bool,
    pub(super) accepted_count: u32,
    /// Chunks whose replies were not heard, but for the last.
    chunks_unheard: u32,
    /// DATA or a chunk was refused: nothing more of the message is sent.
    content_refused: bool,
    pub(super) body: Body,
    /// The last reply to the message was no refusal.
    taken: bool,
}

/// How far the message itself has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// Not all of it was sent.
    Due,
    /// It was sent; so many replies were heard.
    Sent { replies_count: u32 },
}

impl Transaction {
    pub(super) fn new(content: Content, pipelined: bool, recipients_count: u32) -> Self {
        Self {
            content,
            pipelined,
            commands_count: 1 + recipients_count + u32::from(content == Content::Data),
            recipients_count,
            asked_count: 0,
            heard_count: 0,
            mail_accepted: false,
            accepted_count: 0,
            chunks_unheard: 0,
            content_refused: false,
            body: Body::Due,
            taken: false,
        }
    }

    /// A chunk that is not the last was sent.
    pub(super) const fn chunk_sent(&mut self) {
        self.chunks_unheard += 1;
    }

    pub(super) const fn unheard_count(&self) -> u32 {
        self.asked_count - self.heard_count + self.chunks_unheard
    }

    /// Whether the envelope cannot become good any more, as far as is known.
    pub(super) const fn refused(&self) -> bool {
        let mail_refused = self.heard_count > 0 && !self.mail_accepted;
        mail_refused || (self.heard_count > self.recipients_count && self.accepted_count == 0)
    }

    /// Whether the next command of the envelope is due.
    pub(super) const fn asks(&self) -> bool {
        if self.asked_count == self.commands_count || self.refused() {
            return false;
        }
        let unheard = self.unheard_count();
        unheard == 0 || (self.pipelined && unheard < UNHEARD_MAX)
    }

    /// Whether bytes of the message are due.
    pub(super) const fn wants_body(&self, lmtp: bool) -> bool {
        if !matches!(self.body, Body::Due) || self.asked_count < self.commands_count {
            return false;
        }
        if self.refused() || self.content_refused {
            return false;
        }
        match self.content {
            Content::Data => self.heard_count == self.commands_count,
            // LMTP: how many replies there will be depends on who was accepted.
            Content::Chunks => {
                let unheard = self.unheard_count();
                unheard == 0 || (self.pipelined && !lmtp && unheard < UNHEARD_MAX)
            }
        }
    }

    pub(super) const fn replies_count(&self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Lmtp if self.accepted_count > 0 => self.accepted_count,
            Protocol::Lmtp | Protocol::Smtp => 1,
        }
    }

    /// Whether all replies were heard that will come.
    pub(super) fn is_over(&self, protocol: Protocol) -> bool {
        match self.body {
            _ if self.unheard_count() > 0 => false,
            Body::Sent { replies_count } => replies_count == self.replies_count(protocol),
            // A refusal on the way; whoever waits for a body has heard of none.
            Body::Due => true,
        }
    }

    pub(super) const fn awaited(&self, protocol: Protocol) -> To {
        if self.heard_count < self.asked_count {
            return match self.heard_count {
                0 => To::Mail,
                n if n <= self.recipients_count => To::Recipient(n - 1),
                _ => To::Data,
            };
        }
        match (self.body, protocol) {
            _ if self.chunks_unheard > 0 => To::Chunk,
            (Body::Due, _) => To::Nothing,
            _ if self.accepted_count == 0 => To::Emptied,
            (Body::Sent { .. }, Protocol::Smtp) => To::Message,
            (Body::Sent { replies_count }, Protocol::Lmtp) => To::Delivery(replies_count),
        }
    }

    /// Whether the server still holds an envelope. RFC 5321 §4.1.1.4: the end of data ends a
    /// transaction, refused or not; RFC 3030 §2: a refused chunk does not.
    pub(super) fn needs_reset(&self) -> bool {
        let ended = match self.content {
            Content::Data => self.body != Body::Due,
            Content::Chunks => self.taken,
        };
        self.mail_accepted && !ended
    }

    pub(super) fn heard(&mut self, to: To, done: bool, out: &mut Outbox) {
        match to {
            To::Mail => self.mail_accepted = done,
            To::Recipient(_) => self.accepted_count += u32::from(done),
            // RFC 2920 §3.1: DATA was on its way; nobody is left to get the message.
            To::Data if done && self.accepted_count == 0 => {
                out.push(b".\r\n");
                self.body = Body::Sent { replies_count: 0 };
            }
            To::Data => self.content_refused = !done,
            To::Chunk => {
                self.chunks_unheard -= 1;
                self.content_refused |= !done;
                return;
            }
            _ => {
                self.taken = done;
                if let Body::Sent { replies_count } = &mut self.body {
                    *replies_count += 1;
                }
                return;
            }
        }
        self.heard_count += 1;
    }
}
