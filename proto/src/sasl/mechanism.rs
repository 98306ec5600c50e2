//! The names of the mechanisms, and sets of them as a listener offers them.

use core::fmt;

/// A mechanism that this server has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mechanism {
    /// `SCRAM-SHA-256-PLUS`: SCRAM bound to the TLS channel by `tls-exporter`.
    ScramSha256Plus,
    /// `SCRAM-SHA-256` (RFC 7677 §3).
    ScramSha256,
    /// `EXTERNAL`: the client's certificate says who it is.
    External,
    /// `PLAIN` (RFC 4616 §2).
    Plain,
    /// `LOGIN`: name and password, each asked for; no RFC, but old clients have nothing else.
    Login,
    /// `OAUTHBEARER` (RFC 7628 §3.1).
    OauthBearer,
}

impl Mechanism {
    /// All of them, the best first; clients that do not choose take the first they know.
    pub const ALL: [Self; 6] = [
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::External,
        Self::Plain,
        Self::Login,
        Self::OauthBearer,
    ];

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::External => "EXTERNAL",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// The mechanism of a name, in any case of letters.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name().as_bytes().eq_ignore_ascii_case(name))
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of mechanisms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mechanisms(u8);

impl Mechanisms {
    /// None.
    pub const NONE: Self = Self(0);

    /// Those that need a password and nothing else: SCRAM with and without binding, PLAIN, LOGIN.
    pub const PASSWORD: Self = Self::NONE
        .with(Mechanism::ScramSha256Plus)
        .with(Mechanism::ScramSha256)
        .with(Mechanism::Plain)
        .with(Mechanism::Login);

    /// All that this server has.
    pub const ALL: Self = Self::PASSWORD.with(Mechanism::External).with(Mechanism::OauthBearer);

    /// This set and one more.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Self {
        Self(self.0 | mechanism.bit())
    }

    /// This set but for one.
    #[must_use]
    pub const fn without(self, mechanism: Mechanism) -> Self {
        Self(self.0 & !mechanism.bit())
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & mechanism.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The names with a space between, as EHLO and CAPA list them.
impl fmt::Display for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Mechanism::ALL.into_iter().filter(|m| self.contains(*m)).map(Mechanism::name);
        for (i, name) in names.enumerate() {
            f.write_str(if i > 0 { " " } else { "" })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}
