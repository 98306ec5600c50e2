//! Asking filters of others about mail that comes in: milters, and rspamd over HTTP.
//!
//! A shard has [`Filters`], which its configuration names; each session that takes mail has a
//! `Passage` through them, which the desk calls: for a recipient that it would accept, before a
//! message, with the bytes that are to be stored, and at the end for the `Outcome`. All filters
//! see the message as it came, in the order of the configuration; the first that refuses or
//! discards it ends that. A milter is told as the message comes, and holds the client back when it
//! is slow; rspamd is asked at the end.
//!
//! The header section of mail from outside is held back until the end, because filters may change
//! it; its body is in the store by then, sealed, and stays as it is. A user's mail has been mended
//! and signed when it gets here: fields are put in front of it, and nothing else of it is changed.
//!
//! Limits: [`budget::BYTES_MAX`](crate::budget::BYTES_MAX) for what all messages of a shard hold
//! here, and those of a header section (`dkim::header`). A header section that does not fit is
//! refused for now; a body that does not fit is not shown. Failure: a filter that cannot be asked
//! is away; what becomes of mail then is its [`WhenAway`]. One that cannot be reached is left alone
//! for `PAUSE`.

mod changes;
mod milter;
mod passage;
mod plan;
mod rspamd;
#[cfg(test)]
mod tests;
mod verdict;

use core::cell::Cell;
use core::net::IpAddr;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_rt::{Dial, Instant};

use crate::budget::Budget;
use crate::log::Log;
pub(crate) use changes::{Changes, Recipient};
pub(crate) use passage::Passage;
pub use plan::{Plan, Protocol, WhenAway};
pub use verdict::{Refused, Verdict};

/// How long a filter that cannot be reached is not tried again; arbitrary, so that not each message
/// waits for its time-out.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);

/// What was done about one filter.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that it was asked about to the end.
    pub asked: Cell<u64>,
    /// Recipients and messages that it has refused, for now too.
    pub refused: Cell<u64>,
    /// Messages that it has had thrown away.
    pub discarded: Cell<u64>,
    /// Messages that it holds for junk.
    pub junk: Cell<u64>,
    /// Messages that it could not be asked about.
    pub away: Cell<u64>,
    /// Messages that were too long to ask about.
    pub too_long: Cell<u64>,
}

/// A filter of a shard.
#[derive(Debug)]
struct Filter {
    plan: Plan,
    /// Not tried before.
    again: Cell<Instant>,
    counters: Counters,
}

/// The filters of a shard.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    all: Rc<[Rc<Filter>]>,
    budget: Budget,
}

impl Filters {
    /// Those that are configured.
    #[must_use]
    pub fn new(plans: &[Plan]) -> Self {
        let filter = |plan: &Plan| {
            let (again, counters) = (Cell::default(), Counters::default());
            Rc::new(Filter { plan: plan.clone(), again, counters })
        };
        Self { all: plans.iter().map(filter).collect(), budget: Budget::default() }
    }

    /// Name and counters of each.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &Counters)> {
        self.all.iter().map(|filter| (&*filter.plan.name, &filter.counters))
    }

    /// The way through those that look at mail of users, or at mail of anybody else; none where no
    /// filter does.
    pub(crate) fn passage<R: Dial>(&self, user: bool) -> Option<Passage<R>> {
        let looks = |filter: &Rc<Filter>| filter.plan.users || !user;
        self.all.iter().any(looks).then(|| Passage::new(self, user))
    }
}

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// Where from.
    pub(crate) ip: IpAddr,
    /// The port there.
    pub(crate) port: u16,
    /// The name of that host, when it is known.
    pub(crate) host: Option<&'a str>,
    /// How it has introduced itself.
    pub(crate) helo: &'a str,
    /// Version and cipher; none in clear.
    pub(crate) tls: Option<(&'static str, &'a str)>,
    /// Who has signed in.
    pub(crate) user: Option<&'a str>,
    /// Our own name.
    pub(crate) node: &'a str,
}

/// What MAIL said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mail<'a> {
    /// The sender without brackets, empty for the null path.
    pub(crate) from: &'a str,
    /// Whether the body has eight bits.
    pub(crate) eight_bit: bool,
    /// Whether header and addresses may be in UTF-8.
    pub(crate) utf8: bool,
}

/// Where questions about a message come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a, R> {
    pub(crate) rt: &'a R,
    pub(crate) log: &'a Log,
    pub(crate) client: Client<'a>,
    pub(crate) mail: Mail<'a>,
    /// The name of the message here; empty before there is one.
    pub(crate) id: &'a str,
}

/// What becomes of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Whether it is taken, and how.
    pub(crate) verdict: Verdict,
    /// What stands in front of the bytes that were stored: the header section, if it was held
    /// back, with what filters have changed of it.
    pub(crate) head: Vec<u8>,
    /// Recipients and sender, if they change; its fields are in `head`.
    pub(crate) changes: Changes,
}
