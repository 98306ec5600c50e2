//! SASL (RFC 4422), server side, for every protocol that signs users in.
//!
//! A session hands the argument of its AUTH command to [`Exchange::begin`] and each line that
//! follows to [`Exchange::line`]; a [`Step`] says what comes of it. Nothing here knows accounts or
//! keys: a [`Question`] goes to the desk. Nothing here draws random numbers: the nonce of SCRAM
//! comes with the desk's answer.
//!
//! ```text
//!            ┌──────────────── Challenge ◄──────────────┐
//!  begin ────┤                     │ line               │ Pending::keys
//!            ├── Ask(ScramKeys, Pending::Keys) ─────────┘
//!            ├── Ask(Password, Proved, External, Bearer, Pending::Verdict): the answer decides
//!            ├── Ask(Disproved, Pending::Lost): told to the desk, failed whatever it says
//!            └── Failed
//! ```
//!
//! Limits: names of [`NAME_BYTES_MAX`] bytes, passwords of [`PASSWORD_BYTES_MAX`], tokens of
//! [`TOKEN_BYTES_MAX`], a SCRAM message of [`MESSAGE_BYTES_MAX`], client nonces of
//! [`NONCE_BYTES_MAX`], [`CREDENTIALS_COUNT_MAX`] passwords of a user that a proof is tried on, 64
//! bytes each for as long as the exchange lasts; whatever a mechanism does, it comes to its end
//! after at most four lines.
//!
//! Names and passwords are taken as they are if they are UTF-8 without control characters. SASLprep
//! (RFC 4013) would also normalise them; text in ASCII or in the composed form that keyboards give
//! is the same before and after, and other text signs in if it was set in the same form. No user
//! may act for another: an authorization identity is empty or the user's own name.
//!
//! Fails by [`Failure`] only; the session has the reply for it. Passwords, tokens and keys are
//! wiped when they are dropped, and `Debug` shows none of them.

mod bearer;
mod encoding;
mod mechanism;
mod plain;
mod scram;
mod secret;
mod text;

use core::fmt;

use crate::access::Tls;
pub(crate) use encoding::encode;
pub use mechanism::{Mechanism, Mechanisms};
pub use scram::{
    CREDENTIALS_COUNT_MAX, MESSAGE_BYTES_MAX, NONCE_BYTES_MAX, Nonce, SALT_BYTES_MAX,
    ScramCredential, ScramKeys,
};
pub use secret::{ClientKey, Secret};

/// The longest name of a user, in bytes; that of the longest address (RFC 5321 §4.5.3.1.3).
pub const NAME_BYTES_MAX: usize = 256;

/// The longest password, in bytes; arbitrary, the same as where passwords are kept.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The longest bearer token, in bytes; arbitrary, but a line must hold it.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// The longest line of an exchange, with its CRLF (RFC 4954 §4, RFC 5034 §4 leave it to us).
pub const LINE_BYTES_MAX: usize = 12_288;

/// What AUTH can do on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The mechanisms that can work there.
    pub mechanisms: Mechanisms,
    /// What TLS gave.
    pub tls: Option<&'a Tls>,
}

/// A question to the desk.
#[derive(PartialEq, Eq, Debug)]
pub enum Question {
    /// Is this the user's password?
    Password {
        /// The name as the client gave it.
        user: Box<str>,
        /// The password.
        password: Secret,
    },
    /// What are the user's keys? To be answered for unknown users too, with keys that are made up
    /// but stay the same, so that nobody learns which names exist.
    ScramKeys {
        /// The name as the client gave it.
        user: Box<str>,
    },
    /// The user has proved that it knows one of its passwords: may it in?
    Proved {
        /// The name as the client gave it.
        user: Box<str>,
        /// What only that password gives; opens what is sealed for the user.
        client_key: ClientKey,
    },
    /// The proof was wrong. Whatever is answered, the user is not let in.
    Disproved {
        /// The name as the client gave it.
        user: Box<str>,
    },
    /// May the holder of this certificate in?
    External {
        /// The identity that the driver took from the certificate.
        user: Box<str>,
    },
    /// Is this token good, and for this user?
    Bearer {
        /// The name as the client gave it; the token's own user when empty.
        user: Box<str>,
        /// The token.
        token: Secret,
    },
}

impl Question {
    /// Whom it is about.
    #[must_use]
    pub const fn user(&self) -> &str {
        match self {
            Self::Password { user, .. }
            | Self::ScramKeys { user }
            | Self::Proved { user, .. }
            | Self::Disproved { user }
            | Self::External { user }
            | Self::Bearer { user, .. } => user,
        }
    }
}

/// Why an exchange came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The mechanism is unknown, or cannot work on this connection.
    Mechanism,
    /// The client gave up.
    Cancelled,
    /// Not base64, or not what the mechanism says.
    Malformed,
    /// It cannot be right: another's name, a length that no name has, a channel that is another.
    Refused,
}

/// A sentence for an operator.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mechanism => "the mechanism is not offered",
            Self::Cancelled => "the client has cancelled the sign-in",
            Self::Malformed => "the client's message is malformed",
            Self::Refused => "the client's message cannot be right",
        })
    }
}

impl core::error::Error for Failure {}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send this; the client's next line goes to [`Exchange::line`].
    Challenge(Exchange, Vec<u8>),
    /// Ask the desk.
    Ask(Question, Pending),
    /// Over.
    Failed(Failure),
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What the answer to a question does.
#[derive(Debug)]
pub enum Pending {
    /// Keys go to [`Lookup::keys`]; a refusal ends it.
    Keys(Lookup),
    /// It decides.
    Verdict,
    /// Nothing: the exchange has failed.
    Lost,
}

/// An exchange that waits for the client.
#[derive(Debug)]
pub struct Exchange(Box<State>);

/// An exchange that waits for a user's keys.
#[derive(Debug)]
pub struct Lookup(Box<scram::First>);

/// What the next message of the client is.
#[derive(Debug)]
enum State {
    /// The first one, of a mechanism in which the client begins.
    First { mechanism: Mechanism, binding: Option<[u8; 32]>, certificate: Option<Box<str>> },
    /// LOGIN: the name.
    LoginName,
    /// LOGIN: the password.
    LoginPassword { user: Box<str> },
    /// SCRAM: the proof.
    ScramProof(scram::Second),
    /// SCRAM: nothing, in answer to the server's own proof.
    ScramEnd { user: Box<str>, client_key: ClientKey },
}

impl Exchange {
    /// Begins with the argument of AUTH: the name of a mechanism and, if there is one, the first
    /// message in base64, `=` for an empty one (RFC 4954 §4, RFC 5034 §4).
    #[must_use]
    pub fn begin(argument: &[u8], offer: &Offer<'_>) -> Step {
        let (name, message) = match argument.iter().position(|byte| *byte == b' ') {
            Some(at) => (argument.get(..at), argument.get(at + 1..)),
            None => (Some(argument), None),
        };
        let mechanism = Mechanism::find(name.unwrap_or_default());
        let Some(mechanism) = mechanism.filter(|m| offer.mechanisms.contains(*m)) else {
            return Failure::Mechanism.into();
        };
        match message.map(encoding::initial).transpose() {
            Ok(message) => Self::start(mechanism, offer, message.as_deref().map(Vec::as_slice)),
            Err(failure) => failure.into(),
        }
    }

    /// Begins with the first message, if the client sent one.
    #[must_use]
    pub fn start(mechanism: Mechanism, offer: &Offer<'_>, message: Option<&[u8]>) -> Step {
        let plus = offer.mechanisms.contains(Mechanism::ScramSha256Plus);
        let exchange = Self(Box::new(match mechanism {
            Mechanism::Login => State::LoginName,
            _ => State::First {
                mechanism,
                binding: offer.tls.and_then(|tls| tls.exporter).filter(|_| plus),
                certificate: offer.tls.and_then(|tls| tls.certificate.clone()),
            },
        }));
        match message {
            Some(message) => exchange.respond(message),
            None if mechanism == Mechanism::Login => {
                Step::Challenge(exchange, plain::ASK_NAME.to_vec())
            }
            // RFC 4422 §5: the client has the first word, so the challenge is empty.
            None => Step::Challenge(exchange, Vec::new()),
        }
    }

    /// Goes on with a line of the client: base64, or `*` to cancel.
    #[must_use]
    pub fn line(self, line: &[u8]) -> Step {
        match encoding::response(line) {
            Ok(message) => self.respond(&message),
            Err(failure) => failure.into(),
        }
    }

    /// Goes on with a message of the client.
    #[must_use]
    pub fn respond(self, message: &[u8]) -> Step {
        self.next(message).unwrap_or_else(Step::Failed)
    }

    fn next(self, message: &[u8]) -> Result<Step, Failure> {
        Ok(match *self.0 {
            State::First { mechanism, binding, certificate } => {
                return first(mechanism, binding, certificate.as_deref(), message);
            }
            State::LoginName => {
                let user = text::name(message)?.into();
                let next = Self(Box::new(State::LoginPassword { user }));
                Step::Challenge(next, plain::ASK_PASSWORD.to_vec())
            }
            State::LoginPassword { user } => {
                let password = text::password(message)?;
                Step::Ask(Question::Password { user, password }, Pending::Verdict)
            }
            State::ScramProof(second) => match second.check(message)? {
                scram::Verdict::Right { user, client_key, proof } => {
                    let end = Self(Box::new(State::ScramEnd { user, client_key }));
                    Step::Challenge(end, proof)
                }
                scram::Verdict::Wrong { user } => {
                    Step::Ask(Question::Disproved { user }, Pending::Lost)
                }
            },
            // RFC 5802 §5: the client has nothing more to say.
            State::ScramEnd { user, client_key } if message.is_empty() => {
                Step::Ask(Question::Proved { user, client_key }, Pending::Verdict)
            }
            State::ScramEnd { .. } => return Err(Failure::Malformed),
        })
    }
}

/// The first message of a mechanism in which the client begins.
fn first(
    mechanism: Mechanism,
    binding: Option<[u8; 32]>,
    certificate: Option<&str>,
    message: &[u8],
) -> Result<Step, Failure> {
    let question = match mechanism {
        Mechanism::Plain => {
            let (user, password) = plain::parse(message)?;
            Question::Password { user, password }
        }
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
            let plus = mechanism == Mechanism::ScramSha256Plus;
            let (user, first) = scram::First::parse(message, plus, binding)?;
            let pending = Pending::Keys(Lookup(Box::new(first)));
            return Ok(Step::Ask(Question::ScramKeys { user }, pending));
        }
        Mechanism::External => {
            let user = certificate.ok_or(Failure::Refused)?;
            // RFC 4422 appendix A: an empty message asks for the certificate's own identity.
            if !message.is_empty() && message != user.as_bytes() {
                return Err(Failure::Refused);
            }
            Question::External { user: user.into() }
        }
        Mechanism::OauthBearer => {
            let (user, token) = bearer::parse(message)?;
            Question::Bearer { user, token }
        }
        // LOGIN has states of its own.
        Mechanism::Login => return Err(Failure::Malformed),
    };
    Ok(Step::Ask(question, Pending::Verdict))
}

impl Lookup {
    /// Goes on with the keys of the user and a nonce that was never used before; returns the
    /// challenge to send.
    #[must_use]
    pub fn keys(self, keys: &ScramKeys, nonce: &Nonce) -> (Exchange, Vec<u8>) {
        let (second, challenge) = self.0.with_keys(keys, &encode(nonce));
        (Exchange(Box::new(State::ScramProof(second))), challenge)
    }
}
