//! How a listener lets clients in: TLS, sign-in, and what a handshake gave.
//!
//! Shared by the sessions of all protocols; the engine makes an [`Access`] for each listener and
//! a [`Tls`] after each handshake. Nothing here fails.

use crate::sasl::{Mechanism, Mechanisms, Offer};

/// How connections of a listener come by TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// Not at all: STARTTLS and STLS are not there.
    #[default]
    None,
    /// When the client asks for it.
    StartTls,
    /// From the first byte (RFC 8314 §3): the driver says so by `secured` before the first turn.
    Implicit,
}

/// What a listener allows. The default is neither TLS nor sign-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// How connections come by TLS.
    pub tls: TlsMode,
    /// The mechanisms of AUTH; [`Mechanisms::NONE`] for a listener without it.
    pub mechanisms: Mechanisms,
    /// SMTP only: mail is taken from those who have signed in, under TLS (RFC 6409 §4.3).
    pub submission: bool,
    /// Passwords may go over the wire without TLS; for loopback.
    pub clear_auth_allowed: bool,
}

impl Access {
    /// Whether a client may sign in at all, with what is known of its connection.
    #[must_use]
    pub const fn may_sign_in(&self, tls: Option<&Tls>) -> bool {
        tls.is_some() || self.clear_auth_allowed
    }

    /// What AUTH can do on a connection.
    #[must_use]
    pub fn offer<'a>(&self, tls: Option<&'a Tls>) -> Offer<'a> {
        if !self.may_sign_in(tls) {
            return Offer { mechanisms: Mechanisms::NONE, tls };
        }
        let mut mechanisms = self.mechanisms;
        if tls.is_none_or(|tls| tls.exporter.is_none()) {
            mechanisms = mechanisms.without(Mechanism::ScramSha256Plus);
        }
        if tls.is_none_or(|tls| tls.certificate.is_none()) {
            mechanisms = mechanisms.without(Mechanism::External);
        }
        if tls.is_none() {
            // RFC 7628 §4: a token is as good as a password, and only TLS protects it.
            mechanisms = mechanisms.without(Mechanism::OauthBearer);
        }
        Offer { mechanisms, tls }
    }
}

/// What a handshake gave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The version as the trace header names it: `TLS1.3`.
    pub version: &'static str,
    /// The cipher suite by its registered name.
    pub cipher: &'static str,
    /// The channel binding `tls-exporter` (RFC 9266 §2); `None` where it may not be unique, which
    /// is TLS 1.2 unless it is known to have the extended master secret (RFC 9266 §3).
    pub exporter: Option<[u8; 32]>,
    /// Who the client is by its certificate, which the driver has verified.
    pub certificate: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_offered_where_they_can_work() {
        let access = Access { mechanisms: Mechanisms::ALL, ..Access::default() };
        let names = |access: Access, tls: Option<&Tls>| access.offer(tls).mechanisms.to_string();
        assert_eq!(names(access, None), "");
        let clear = Access { clear_auth_allowed: true, ..access };
        assert_eq!(names(clear, None), "SCRAM-SHA-256 PLAIN LOGIN");
        let tls = Tls::default();
        assert_eq!(names(access, Some(&tls)), "SCRAM-SHA-256 PLAIN LOGIN OAUTHBEARER");
        let bound = Tls { exporter: Some([7; 32]), certificate: Some("a".into()), ..tls };
        let all = "SCRAM-SHA-256-PLUS SCRAM-SHA-256 EXTERNAL PLAIN LOGIN OAUTHBEARER";
        assert_eq!(names(access, Some(&bound)), all);
        assert_eq!(names(Access::default(), Some(&bound)), "");
    }
}
