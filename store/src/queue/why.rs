//! Why a leg of the queue is not on its way.
//!
//! Kept with the message by number, shown by name in lists and logs.

/// What kept a leg from being delivered the last time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Cause {
    /// Nobody has tried yet.
    Untried = 0,
    /// The name servers gave no answer.
    Resolver = 1,
    /// No host of the site took the connection.
    Unreachable = 2,
    /// The connection broke, or the other side did not keep to the protocol.
    Broken = 3,
    /// A host said no for the time being.
    Refused = 4,
    /// TLS is required there and was not to be had.
    Tls = 5,
    /// The message could not be read here.
    Storage = 6,
    /// The way there leads back to this node, or makes no sense.
    Route = 7,
    /// A host did not accept who we are.
    SignIn = 8,
    /// The site takes no connections, and nobody tries for a while.
    Paused = 9,
    /// It has a copy in the cluster, and it is another node's turn to send it, or not known whose.
    Turn = 10,
}

impl Cause {
    const ALL: [Self; 11] = [
        Self::Untried,
        Self::Resolver,
        Self::Unreachable,
        Self::Broken,
        Self::Refused,
        Self::Tls,
        Self::Storage,
        Self::Route,
        Self::SignIn,
        Self::Paused,
        Self::Turn,
    ];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// As lists and logs name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Resolver => "no-dns-answer",
            Self::Unreachable => "unreachable",
            Self::Broken => "connection-broken",
            Self::Refused => "refused-for-now",
            Self::Tls => "tls-required",
            Self::Storage => "unreadable-here",
            Self::Route => "no-route",
            Self::SignIn => "sign-in-refused",
            Self::Paused => "site-paused",
            Self::Turn => "not-our-turn",
        }
    }
}

/// Why a leg is not on its way: one reason at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WhyNot {
    /// An operator holds it.
    Held,
    /// It is being sent, or waits for a connection to its site.
    UnderWay,
    /// It is due, and its turn comes.
    Due,
    /// It waits for its next attempt, after this.
    Waits(Cause),
}

impl WhyNot {
    /// As lists name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::UnderWay => "under-way",
            Self::Due => "due",
            Self::Waits(cause) => cause.name(),
        }
    }
}
