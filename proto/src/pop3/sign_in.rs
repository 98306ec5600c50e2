//! AUTH (RFC 5034), and the answers to every question of a sign-in.
//!
//! The exchange itself is in `crate::sasl`; here are its replies. What fails counts like a wrong
//! password, but for a client that gives up.

use super::deletions::Deletions;
use super::reply::{Refusal, Reply};
use super::session::{Answer, Ask, Phase, REFUSED_LOGINS_MAX, Session, Then, Transaction};
use crate::sasl::{self, Exchange, Failure, Pending, Step};
use crate::wire::outbox::Outbox;
use core::mem;

impl Session {
    /// RFC 5034 §4.
    pub(super) fn authenticate<'b>(&mut self, argument: &[u8], out: &mut Outbox) -> Then<'b> {
        self.phase = Phase::Authorization { user: None };
        let access = &self.settings.access;
        let tls = self.tls.as_deref();
        if access.mechanisms.is_empty() {
            Reply::Unknown.write(out);
        } else if !access.may_sign_in(tls) {
            Reply::NeedsTls.write(out);
        } else {
            let step = Exchange::begin(argument, &access.offer(tls));
            return self.step(step, out);
        }
        Then::Again
    }

    /// Takes a line of the client in an exchange.
    pub(super) fn exchange<'b>(&mut self, line: &[u8], out: &mut Outbox) -> Then<'b> {
        let phase = mem::replace(&mut self.phase, Phase::Authorization { user: None });
        let Phase::Authenticating(exchange) = phase else {
            debug_assert!(false, "a line of an exchange without one");
            self.phase = Phase::Closed;
            return Then::Close;
        };
        self.step(exchange.line(line), out)
    }

    /// Says what an exchange says, in a session that waits for a command.
    fn step<'b>(&mut self, step: Step, out: &mut Outbox) -> Then<'b> {
        match step {
            Step::Challenge(exchange, challenge) => self.challenge(exchange, &challenge, out),
            Step::Ask(question, pending) => {
                self.phase = Phase::SigningIn(pending);
                return Then::Ask(Ask::Auth(question));
            }
            Step::Failed(Failure::Mechanism) => Reply::NoMechanism.write(out),
            Step::Failed(Failure::Cancelled) => Reply::Cancelled.write(out),
            Step::Failed(Failure::Malformed) => {
                let why = "not base64, or not what the mechanism says.";
                self.sign_in_failed(Reply::Syntax(why), out);
            }
            Step::Failed(Failure::Refused) => {
                self.sign_in_failed(Reply::Refused(Refusal::Credentials), out);
            }
        }
        Then::Again
    }

    /// RFC 5034 §4: `+`, a space and the challenge in base64.
    fn challenge(&mut self, exchange: Exchange, challenge: &[u8], out: &mut Outbox) {
        Reply::Challenge(&sasl::encode(challenge)).write(out);
        self.phase = Phase::Authenticating(exchange);
    }

    fn sign_in_failed(&mut self, reply: Reply<'_>, out: &mut Outbox) {
        reply.write(out);
        self.refused_count += 1;
        if self.refused_count >= REFUSED_LOGINS_MAX {
            self.phase = Phase::Closed;
        }
    }

    /// Takes the driver's answer to `Ask::Login` or `Ask::Auth`.
    pub(super) fn sign_in_answered(
        &mut self,
        pending: Pending,
        answer: Answer<'_>,
        out: &mut Outbox,
    ) {
        self.phase = Phase::Authorization { user: None };
        match (pending, answer) {
            (Pending::Verdict, Answer::Opened { count, octets }) => {
                Reply::SignedIn.write(out);
                let transaction = Transaction { count, octets, deletions: Deletions::default() };
                self.phase = Phase::Transaction(transaction);
            }
            (Pending::Keys(lookup), Answer::Keys { keys, nonce }) => {
                let (exchange, challenge) = lookup.keys(keys, nonce);
                self.challenge(exchange, &challenge, out);
            }
            (_, Answer::Refused(refusal)) if refusal.closes() => {
                Reply::Refused(refusal).write(out);
                self.phase = Phase::Closed;
            }
            // The proof was wrong, whatever the driver has to say of it.
            (Pending::Lost, Answer::Refused(_)) | (_, Answer::Refused(Refusal::Credentials)) => {
                self.sign_in_failed(Reply::Refused(Refusal::Credentials), out);
            }
            (_, Answer::Refused(refusal)) => Reply::Refused(refusal).write(out),
            (_, answer) => {
                debug_assert!(false, "{answer:?} does not answer what was asked");
                Reply::Refused(Refusal::Temporary).write(out);
                self.phase = Phase::Closed;
            }
        }
    }
}
