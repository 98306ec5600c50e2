//! What a listener's sessions share: names, limits, and the texts made from them.
//!
//! Built once per shard and listener and handed to each session as an `Rc`. The EHLO lines are
//! rendered when it is built and the greeting once a second, so that a session formats nothing.

use core::cell::RefCell;
use core::fmt;
use core::fmt::Write as _;
use core::time::Duration;

use super::super::ext::{self, Terms};
use super::command::is_host_name;
use crate::access::{Access, Tls, TlsMode};
use crate::time::UnixTime;
use crate::wire::outbox::Outbox;

/// The longest name of a client's host that is shown; a longer one is left out of the reply.
pub(super) const HOST_BYTES_MAX: usize = 128;

/// Limits of a session. Each is reached by a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest message, in bytes as RFC 1870 counts them; 0 for no limit.
    pub message_bytes_max: u64,
    /// The most recipients of one message.
    pub recipients_max: u16,
    /// The most messages on one connection; 0 for no limit.
    pub mails_max: u32,
    /// How long to wait for the next whole command.
    pub command_timeout: Duration,
    /// How long to wait for the next bytes of a message.
    pub data_timeout: Duration,
}

impl Limits {
    /// The limit of the message size in force.
    pub(crate) const fn message_bytes(&self) -> u64 {
        if self.message_bytes_max == 0 { u64::MAX } else { self.message_bytes_max }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The seeds' SIZE.
            message_bytes_max: 10_485_760,
            recipients_max: 1000,
            mails_max: 0,
            // RFC 5321 §4.5.3.2.7: at least five minutes.
            command_timeout: Duration::from_secs(300),
            // RFC 5321 §4.5.3.2.5 gives the client three minutes a block; the server has patience
            // for the same five as between commands.
            data_timeout: Duration::from_secs(300),
        }
    }
}

/// Why settings cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettingsError {
    /// The node name is no host name.
    Node,
    /// The recipient limit is 0.
    Recipients,
    /// A submission listener without a way to sign in.
    Submission,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "the node name must be a host name of ASCII letters",
            Self::Recipients => "a message must be allowed at least one recipient",
            Self::Submission => "submission needs AUTH, and TLS or leave to go without",
        })
    }
}

impl core::error::Error for SettingsError {}

/// What all sessions of a listener have in common.
#[derive(Debug)]
pub struct Settings {
    node: Box<str>,
    limits: Limits,
    hello: Box<str>,
    access: Access,
    /// The EHLO lines in each state of a connection, see `state`.
    keywords: [Box<str>; STATES_COUNT],
    greeting: RefCell<Greeting>,
}

/// The greeting as it reads in one second.
#[derive(Debug)]
struct Greeting {
    second: u64,
    text: String,
}

impl Settings {
    /// Checks the name and renders the texts.
    ///
    /// `node` is the name of this host: it stands in the greeting and in the replies to HELO and
    /// EHLO, by which a server identifies itself (RFC 5321 §4.1.1.1).
    ///
    /// # Errors
    ///
    /// A name that would break a reply, or a limit that no client could keep to.
    pub fn new(node: &str, limits: Limits) -> Result<Self, SettingsError> {
        if !is_host_name(node) {
            return Err(SettingsError::Node);
        }
        if limits.recipients_max == 0 {
            return Err(SettingsError::Recipients);
        }
        let access = Access::default();
        Ok(Self {
            node: node.into(),
            limits,
            hello: format!("{node}, at your service ").into(),
            access,
            keywords: keywords(&limits, &access),
            greeting: RefCell::new(Greeting { second: u64::MAX, text: String::new() }),
        })
    }

    /// The same with TLS and sign-in; [`Settings::new`] gives a listener that has neither.
    ///
    /// # Errors
    ///
    /// A combination that no client could use.
    pub fn with_access(self, access: Access) -> Result<Self, SettingsError> {
        let reachable = access.tls != TlsMode::None || access.clear_auth_allowed;
        if access.submission && (access.mechanisms.is_empty() || !reachable) {
            return Err(SettingsError::Submission);
        }
        Ok(Self { access, keywords: keywords(&self.limits, &access), ..self })
    }

    /// What the listener allows.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The name of this host, which also stands after `by` in `Received` (RFC 5321 §4.4).
    #[must_use]
    pub const fn node(&self) -> &str {
        &self.node
    }

    /// How the reply to HELO and EHLO begins, after the code.
    pub(super) const fn hello(&self) -> &str {
        &self.hello
    }

    /// The lines of an EHLO reply after the first.
    pub(super) fn keywords(&self, tls: Option<&Tls>) -> &str {
        let bound = tls.is_some_and(|tls| tls.exporter.is_some());
        let known = tls.is_some_and(|tls| tls.certificate.is_some());
        let text = self.keywords.get(state(tls.is_some(), bound, known));
        text.map_or("250 HELP\r\n", AsRef::as_ref)
    }

    /// Writes the 220 (RFC 5321 §4.2, the seeds' words).
    pub(super) fn greet(&self, unix: UnixTime, out: &mut Outbox) {
        let mut greeting = self.greeting.borrow_mut();
        if greeting.second != unix.seconds() {
            greeting.second = unix.seconds();
            greeting.text.clear();
            let node = &self.node;
            let written = write!(
                greeting.text,
                "220 {node} Fannst ESMTP Mail service ready at {unix} - fsmtp\r\n"
            );
            debug_assert!(written.is_ok(), "a string takes what is written to it");
        }
        out.push(greeting.text.as_bytes());
    }
}

/// Clear, or TLS with and without a channel binding and a certificate of the client.
const STATES_COUNT: usize = 5;

const fn state(tls: bool, bound: bool, known: bool) -> usize {
    if tls { 1 + bound as usize + 2 * known as usize } else { 0 }
}

/// The EHLO lines for each state.
fn keywords(limits: &Limits, access: &Access) -> [Box<str>; STATES_COUNT] {
    let text = |tls: Option<&Tls>| {
        let mechanisms = access.offer(tls).mechanisms;
        let start_tls = tls.is_none() && access.tls == TlsMode::StartTls;
        ext::announce(&Terms { limits, start_tls, under_tls: tls.is_some(), mechanisms }).into()
    };
    let tls = |bound: bool, known: bool| {
        let certificate = known.then(|| "".into());
        text(Some(&Tls { exporter: bound.then_some([0; 32]), certificate, ..Tls::default() }))
    };
    // In the order of `state`.
    [text(None), tls(false, false), tls(true, false), tls(false, true), tls(true, true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_reply_are_refused() {
        let new =
            |node: &str| Settings::new(node, Limits::default()).map(|s| s.keywords(None).len());
        // The names of the original's nodes are no domains for their underscores; they stay legal.
        for node in ["mx.example.test", "localhost", "NODE_A001"] {
            assert!(new(node).is_ok(), "{node}");
        }
        for node in ["", "a b", "a\r\nb", "bücher.example", "[192.0.2.1]", &"d".repeat(256)] {
            assert_eq!(new(node), Err(SettingsError::Node));
        }
        let limits = Limits { recipients_max: 0, ..Limits::default() };
        let refused = Settings::new("node", limits).map(|_| ());
        assert_eq!(refused, Err(SettingsError::Recipients));
    }

    #[test]
    fn the_greeting_follows_the_clock() {
        let settings = Settings::new("N1", Limits::default()).unwrap();
        for (ms, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (999, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (1_599_847_638_000, "Fri, 11 Sep 2020 18:07:18 +0000"),
        ] {
            let mut out = Outbox::new(Vec::new());
            settings.greet(UnixTime::from_ms(ms), &mut out);
            let text = format!("220 N1 Fannst ESMTP Mail service ready at {date} - fsmtp\r\n");
            assert_eq!(out.bytes(), text.as_bytes());
        }
    }
}
