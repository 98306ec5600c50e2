//! STLS (RFC 2595): from the command to the first turn under TLS.
//!
//! The session never sees a handshake. It makes sure that nothing stands behind the command, says
//! `+OK` and waits for [`Session::secured`], which also begins a connection with implicit TLS.

use super::reply::Reply;
use super::session::{Phase, Session, Then, Turn};
use crate::access::{Tls, TlsMode};
use crate::time::Instant;
use crate::wire::outbox::Outbox;

impl Session {
    /// RFC 2595 §4; `user` is the name that USER gave.
    pub(super) fn start_tls(&mut self, user: Option<Box<[u8]>>, out: &mut Outbox) {
        let refusal = if self.tls.is_some() {
            Reply::TlsAlready
        } else if self.settings.access.tls != TlsMode::StartTls {
            Reply::Unknown
        } else {
            self.phase = Phase::StartTls;
            return;
        };
        refusal.write(out);
        self.phase = Phase::Authorization { user };
    }

    /// RFC 2595 §4: what was sent along with STLS may have been put there by somebody in the
    /// middle, and must not be carried over into TLS.
    pub(super) fn turn_start_tls<'b>(&mut self, input: &[u8], out: &mut Outbox) -> Turn<'b> {
        let then = if input.is_empty() {
            Reply::TlsReady.write(out);
            self.phase = Phase::Handshake;
            Then::StartTls
        } else {
            Reply::TlsTooEarly.write(out);
            self.phase = Phase::Closed;
            Then::Again
        };
        Turn { consumed: 0, then }
    }

    /// TLS is there: after [`Then::StartTls`], or before the first turn where it is implicit.
    /// Everything that the client has said so far is forgotten (RFC 2595 §4).
    ///
    /// Called at another time it ends the session.
    pub fn secured(&mut self, now: Instant, tls: Tls) {
        let begins = matches!(self.phase, Phase::Authorization { user: None });
        let expected = self.tls.is_none() && (begins || matches!(self.phase, Phase::Handshake));
        debug_assert!(expected, "TLS begins once, and not in the middle of anything");
        self.tls = Some(Box::new(tls));
        self.utf8 = false;
        self.deadline = now + self.settings.idle;
        let fresh = Phase::Authorization { user: None };
        self.phase = if expected { fresh } else { Phase::Closed };
    }

    /// What TLS gave; `None` in clear.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }
}
