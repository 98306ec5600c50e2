//! STARTTLS (RFC 3207): from the verb to the first turn under TLS.
//!
//! The session never sees a handshake. It makes sure that nothing stands behind the command, says
//! 220 and waits for [`Session::secured`], which also begins a connection with implicit TLS.

use super::super::reply::{Reply, Secure};
use super::phase::Phase;
use super::{Channel, Hello, Session, Then, Turn};
use crate::access::{Tls, TlsMode};
use crate::time::Instant;
use crate::wire::outbox::Outbox;

/// RFC 3207 §4.
pub(crate) fn start_tls<'b>(
    session: &mut Session,
    argument: &'b [u8],
    out: &mut Outbox,
) -> Then<'b> {
    match may_start(session, argument) {
        Ok(()) => {
            session.phase = Phase::StartTls;
            Then::Again
        }
        Err(reply) => session.say(reply, out),
    }
}

fn may_start(session: &Session, argument: &[u8]) -> Result<(), Reply> {
    if session.channel.is_some() {
        return Err(Reply::Secure(Secure::TlsAlready));
    }
    if session.settings.access().tls != TlsMode::StartTls {
        return Err(Reply::NotImplemented);
    }
    if !argument.is_empty() {
        return Err(Reply::NoArguments);
    }
    if !matches!(session.hello, Hello::Ehlo(_)) {
        return Err(Reply::HelloFirst);
    }
    if session.envelope().is_some() { Err(Reply::Secure(Secure::TlsInMail)) } else { Ok(()) }
}

impl Session {
    /// RFC 3207 §4: STARTTLS is the last command of a group. What was sent with it may have been
    /// put there by somebody in the middle, and must not be carried over into TLS.
    pub(super) fn turn_start_tls<'b>(&mut self, input: &[u8], out: &mut Outbox) -> Turn<'b> {
        let then = if input.is_empty() {
            Reply::Secure(Secure::TlsReady).write(out);
            self.phase = Phase::Handshake;
            Then::StartTls
        } else {
            self.say(Reply::Secure(Secure::TlsTooEarly), out)
        };
        Turn { consumed: 0, then }
    }

    /// TLS is there: after [`Then::StartTls`], or before the first turn where it is implicit.
    /// Everything that the client has said so far is forgotten (RFC 3207 §4.2).
    ///
    /// Called at another time it ends the session.
    pub fn secured(&mut self, now: Instant, tls: Tls) {
        let begins =
            matches!(self.phase, Phase::Command(None)) && matches!(self.hello, Hello::None);
        let expected = self.channel.is_none() && (begins || matches!(self.phase, Phase::Handshake));
        debug_assert!(expected, "TLS begins once, and not in the middle of anything");
        self.hello = Hello::None;
        self.user = None;
        self.channel = Some(Box::new(Channel { tls, node: None }));
        self.since = now;
        self.phase = if expected { Phase::Command(None) } else { Phase::Closed };
    }
}
