//! Who really sent this: what is found out about mail that comes in while it comes, how that is
//! written into its header, and what becomes of it.
//!
//! The desk begins a [`Check`] at MAIL, which has a task look up what the client's address and name
//! tell (SPF, iprev, lists). It feeds it the same bytes that go to the spool; when the header is
//! over, the keys of its signatures and the policy of its author are asked for, and at the end
//! [`Check::finish`] has most answers. `fields` writes them down, [`Policy::decide`] says what
//! is done.
//!
//! Not checked is mail of users who have signed in, of nodes of the same owner, and of hosts that
//! the operator trusts.
//!
//! Limits: [`Settings::timeout`] for the lookups from MAIL on, and as long again for those from the
//! last byte on; what the DNS has not said by then counts as not known for now. What a message may
//! make us compute is bounded by the limits of `proto`: ten signatures, fifty seals, 256 KiB of
//! header.

mod check;
mod fields;
mod policy;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::{arc, dkim, dmarc, dnsbl, iprev, results, spf};

pub use check::Check;
pub(crate) use fields::fields;
pub use policy::{Action, Decision, Policies, Policy, Reason, Scores};

use crate::network::Network;

/// How mail that comes in is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Hosts whose mail is not checked, and whose word in its header counts.
    pub trusted: Vec<Network>,
    /// The name under which results are written: RFC 8601 §2.5.
    pub name: Arc<str>,
    /// How long lookups may take.
    pub timeout: Duration,
    /// Whether the client's name is looked up.
    pub iprev: bool,
    /// Whose word counts where a list has broken what proved the author: domains, in lower case.
    pub sealers: Vec<String>,
    /// Lists of addresses that are asked.
    pub lists: Vec<List>,
    /// What their weights lead to.
    pub scores: Scores,
    /// What verdicts lead to.
    pub policies: Policies,
}

impl Settings {
    /// Whether mail of this host is taken as it is.
    #[must_use]
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(ip))
    }
}

/// A list of addresses (RFC 5782).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Its domain.
    pub zone: String,
    /// What it adds to the score of who stands on it; less than 0 for a list of good hosts.
    pub weight: i32,
    /// Only these codes count; empty for any.
    pub codes: Vec<Network>,
}

/// Who the client is, as the DNS has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// What it calls itself.
    pub helo: Rc<str>,
    /// Whose mail it says it brings; empty for the null path.
    pub sender: Rc<str>,
}

/// What was found out about a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdicts {
    /// Who brought it.
    pub client: Client,
    /// Whether the client may use the name that it gave.
    pub helo: spf::Outcome,
    /// Whether it may send for the domain of the reverse-path; for the null path the same as
    /// `helo`.
    pub spf: spf::Outcome,
    /// Whether its name leads back to it, where that is looked up.
    pub iprev: Option<iprev::Outcome>,
    /// Where it stands on lists.
    pub lists: dnsbl::Outcome,
    /// The sum of their weights.
    pub score: i32,
    /// What its signatures are worth.
    pub dkim: Vec<dkim::verify::Judged>,
    /// What the seals of the hosts on its way are worth.
    pub arc: arc::Judged,
    /// Whether it is from its author's domain, and what that domain wants.
    pub dmarc: dmarc::Outcome,
    /// A host that is believed has sealed that it had a proof of the author (RFC 8617 §7.2.1).
    pub is_vouched: bool,
    /// Why nobody can say who the author is.
    pub bad_from: Option<dmarc::BadFrom>,
}

/// Whether a chain of ARC makes up for what its last host has broken.
fn is_vouched(sealers: &[String], arc: &arc::Judged) -> bool {
    let believed = arc.domains.last().is_some_and(|last| sealers.contains(last));
    let has_proof = |results: &String| results::says(results, "dmarc", "pass");
    believed && arc.verdict == arc::Verdict::Pass && arc.results.as_ref().is_some_and(has_proof)
}

/// The sum of what the lists say; a list counts once, whatever codes it gives.
fn score(lists: &[List], outcome: &dnsbl::Outcome) -> i32 {
    let counts = |(index, list): &(usize, &List)| {
        let of_it = outcome.listed.iter().filter(|listed| listed.list == *index);
        let is_meant =
            |code: IpAddr| list.codes.is_empty() || list.codes.iter().any(|c| c.contains(code));
        of_it.clone().any(|listed| is_meant(listed.code.into()))
    };
    let weights = lists.iter().enumerate().filter(counts).map(|(_, list)| list.weight);
    weights.fold(0, i32::saturating_add)
}
