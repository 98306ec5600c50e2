//! What the configuration says of filters, checked.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

/// How a filter is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The milter protocol.
    Milter,
    /// HTTP, as rspamd has it.
    Rspamd,
}

/// What becomes of mail that a filter could not be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenAway {
    /// It goes on as if there were no filter.
    Accept,
    /// It is refused for now.
    Defer,
    /// It is taken, as junk.
    Junk,
}

impl fmt::Display for WhenAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Defer => "defer",
            Self::Junk => "junk",
        })
    }
}

/// One filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What logs call it.
    pub name: Box<str>,
    /// How it is asked.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// How long a connection to it may take to come about.
    pub connect_timeout: Duration,
    /// How long it may think about anything but the end of a message.
    pub command_timeout: Duration,
    /// How long about that.
    pub message_timeout: Duration,
    /// What becomes of mail meanwhile.
    pub when_away: WhenAway,
    /// The longest message that it is asked about; for [`Protocol::Rspamd`], which needs it whole.
    pub message_bytes_max: usize,
    /// Whether it is asked about mail of users who have signed in, too.
    pub users: bool,
}
