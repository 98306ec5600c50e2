//! AUTH (RFC 4954): the verb, the lines that follow it, and the desk's answers.
//!
//! The exchange itself is in `crate::sasl`; here are its replies. A sign-in that fails, whether
//! its message is malformed or wrong, counts; after [`FAILURES_MAX`] the connection closes.

use core::mem;

use super::super::reply::{Refusal, Reply, Secure};
use super::phase::{Phase, Question};
use super::{Answer, Ask, Hello, Session, Then, Turn};
use crate::sasl::{self, Exchange, Failure, Pending, Step};
use crate::time::Instant;
use crate::wire::line::{self, Cut};
use crate::wire::outbox::Outbox;

/// How many sign-ins may fail on one connection; arbitrary, so that guessing costs a connection.
pub const FAILURES_MAX: u8 = 3;

/// RFC 4954 §4.
pub(crate) fn auth<'b>(session: &mut Session, argument: &'b [u8], out: &mut Outbox) -> Then<'b> {
    match begin(session, argument) {
        Ok(step) => session.auth_step(step, out),
        Err(reply) => session.say(reply, out),
    }
}

fn begin(session: &Session, argument: &[u8]) -> Result<Step, Reply> {
    let access = session.settings.access();
    if access.mechanisms.is_empty() {
        return Err(Reply::NotImplemented);
    }
    if !matches!(session.hello, Hello::Ehlo(_)) {
        return Err(Reply::HelloFirst);
    }
    // RFC 4954 §4: once, and not in a transaction.
    if session.user().is_some() {
        return Err(Reply::Secure(Secure::AuthAlready));
    }
    if session.envelope().is_some() {
        return Err(Reply::Secure(Secure::AuthInMail));
    }
    if argument.is_empty() {
        return Err(Reply::Secure(Secure::AuthSyntax));
    }
    if !access.may_sign_in(session.tls()) {
        return Err(Reply::Secure(Secure::TlsForAuth));
    }
    Ok(Exchange::begin(argument, &access.offer(session.tls())))
}

impl Session {
    /// Takes a line of the client in an exchange.
    pub(super) fn turn_auth<'b>(
        &mut self,
        now: Instant,
        input: &'b [u8],
        out: &mut Outbox,
    ) -> Turn<'b> {
        let (consumed, line) = match line::cut(input, sasl::LINE_BYTES_MAX) {
            Cut::Partial => return Turn { consumed: 0, then: Then::NeedInput },
            Cut::Line(line) => (line.len() + 2, Some(line)),
            Cut::Spoiled(consumed) => (consumed, None),
            Cut::TooLong(consumed) => {
                self.phase = Phase::SkipResponse;
                return Turn { consumed, then: Then::Again };
            }
        };
        self.since = now;
        let then = match (mem::replace(&mut self.phase, Phase::Command(None)), line) {
            (Phase::Auth(exchange), Some(line)) => self.auth_step(exchange.line(line), out),
            _ => self.bad_line(Reply::LineSpoiled, out),
        };
        Turn { consumed, then }
    }

    /// Says what an exchange says, in a session that waits for a command.
    fn auth_step<'b>(&mut self, step: Step, out: &mut Outbox) -> Then<'b> {
        match step {
            Step::Challenge(exchange, challenge) => {
                self.challenge(exchange, &challenge, out);
                Then::Again
            }
            Step::Ask(question, pending) => {
                self.phase = Phase::Asked(Question::Auth(pending));
                Then::Ask(Ask::Auth(question))
            }
            Step::Failed(failure) => {
                match failure {
                    Failure::Mechanism => Reply::Secure(Secure::AuthUnknown).write(out),
                    Failure::Cancelled => Reply::Secure(Secure::AuthCancelled).write(out),
                    Failure::Malformed => {
                        self.auth_failed(Reply::Secure(Secure::AuthMalformed), out)
                    }
                    Failure::Refused => {
                        self.auth_failed(Reply::Refused(Refusal::Credentials), out);
                    }
                }
                Then::Again
            }
        }
    }

    /// RFC 4954 §4: the challenge in base64, and nothing else.
    fn challenge(&mut self, exchange: Exchange, challenge: &[u8], out: &mut Outbox) {
        out.push(b"334 ");
        out.push(sasl::encode(challenge).as_bytes());
        out.push(b"\r\n");
        self.phase = Phase::Auth(exchange);
    }

    fn auth_failed(&mut self, reply: Reply, out: &mut Outbox) {
        reply.write(out);
        self.failures_count += 1;
        if self.failures_count >= FAILURES_MAX {
            self.say(Reply::Secure(Secure::TooManyFailures), out);
        }
    }

    /// Takes the desk's answer; the session waits for a command if nothing else is said here.
    pub(super) fn auth_answered(&mut self, pending: Pending, answer: Answer<'_>, out: &mut Outbox) {
        match (pending, answer) {
            (Pending::Keys(lookup), Answer::Keys { keys, nonce }) => {
                let (exchange, challenge) = lookup.keys(keys, nonce);
                self.challenge(exchange, &challenge, out);
            }
            (Pending::Verdict, Answer::SignedIn { user }) => {
                self.user = Some(user.into());
                Reply::Secure(Secure::SignedIn).write(out);
            }
            (_, Answer::Refused(refusal)) if refusal.closes() => {
                self.say(Reply::Refused(refusal), out);
            }
            // The proof was wrong, whatever the desk has to say of it.
            (Pending::Lost, _) | (_, Answer::Refused(Refusal::Credentials)) => {
                self.auth_failed(Reply::Refused(Refusal::Credentials), out);
            }
            // RFC 4954 §6: 454 for every reason that may pass.
            (_, answer) => {
                debug_assert!(
                    matches!(answer, Answer::Refused(_)),
                    "an answer to another question"
                );
                Reply::Refused(Refusal::SignInLater).write(out);
            }
        }
    }
}
