//! SU: a node of the same owner shows its token; the desk checks it. The token is in `ext/su.rs`.
//!
//! Granted once, it holds until the connection ends. It changes nothing here: the desk asks
//! [`Session::node`]. What is not as it must be (no TLS 1.3, no channel binding, no token,
//! an open transaction, a listener for submission, any refusal) is 651 and the end.

use core::fmt::Write as _;

use super::super::ext::su::Proof;
use super::super::reply::Reply;
use super::phase::{Phase, Question};
use super::{Answer, Ask, Session, Then};
use crate::sasl::encode;
use crate::wire::outbox::Outbox;

/// The seeds' SU, with an argument.
pub(crate) fn su<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    let possible = session.is_bound()
        && !argument.is_empty()
        && !session.settings.access().submission
        && session.envelope().is_none();
    if !possible {
        return session.say(Reply::AccessDenied, out);
    }
    session.phase = Phase::Asked(Question::Su);
    Then::Ask(Ask::Su { token: argument })
}

impl Session {
    /// The node of the same owner that the client is, once it has proved it.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.channel.as_ref()?.node.as_deref()
    }

    /// Whether what is signed can be bound to this connection.
    fn is_bound(&self) -> bool {
        // RFC 9266 §3: below TLS 1.3 a binding may be shared with somebody in the middle.
        self.tls().is_some_and(|tls| tls.exporter.is_some() && tls.version == "TLS1.3")
    }

    /// Takes the desk's answer.
    pub(super) fn su_answered(&mut self, answer: Answer<'_>, out: &mut Outbox) {
        let bound = self.is_bound();
        match (answer, &mut self.channel) {
            (Answer::Granted { node, proof }, Some(channel)) if bound => {
                channel.node = Some(node.into());
                self.grant(proof, out);
            }
            (answer, _) => {
                debug_assert!(matches!(answer, Answer::Refused(_)), "an answer to this question");
                self.say(Reply::AccessDenied, out);
            }
        }
    }

    fn grant(&self, proof: &Proof, out: &mut Outbox) {
        Reply::AccessProof.write_with(encode(proof).as_bytes(), out);
        let mut peer = String::new();
        let host = self.shown_host().map_or_else(String::new, |host| format!("{host} "));
        let written = write!(peer, "{host}[{}]:{}", self.peer.ip.to_canonical(), self.peer.port);
        debug_assert!(written.is_ok(), "a string takes what is written to it");
        Reply::AccessGranted.write_with(peer.as_bytes(), out);
    }
}
