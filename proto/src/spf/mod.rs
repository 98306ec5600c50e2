//! SPF (RFC 7208): whether a host may send for a domain, as a pure function.
//!
//! [`check()`] judges one identity of one client by what is [known](crate::dns::known::Known) of
//! the DNS, and says what it must know besides. [`record`] reads a policy, [`macros`] expands it.
//!
//! Limits: [`LOOKUPS_MAX`], [`VOIDS_MAX`], [`HOSTS_MAX`], those of RFC 7208 §4.6.4; a record of
//! [`RECORD_BYTES_MAX`]. What goes beyond one of them, or against the grammar, is a
//! [`Verdict::Permerror`].

mod check;
pub mod macros;
pub mod record;
#[cfg(test)]
mod tests;

use core::fmt;
use core::net::IpAddr;

use crate::time::UnixTime;

pub use check::check;

/// Mechanisms and modifiers of one check that ask the DNS: RFC 7208 §4.6.4.
pub const LOOKUPS_MAX: u32 = 10;
/// Lookups of one check that found nothing: RFC 7208 §4.6.4.
pub const VOIDS_MAX: u32 = 2;
/// Hosts of one `mx` or `ptr` that are looked at: RFC 7208 §4.6.4.
pub const HOSTS_MAX: usize = 10;
/// The longest record that is read; arbitrary, ten times what the RFC advises to stay below.
pub const RECORD_BYTES_MAX: usize = 5120;
/// The longest explanation that is passed on; arbitrary, what fits a reply line.
pub const EXPLANATION_BYTES_MAX: usize = 400;

/// Who sends, in whose name.
#[derive(Clone, Copy, Debug)]
pub struct Client<'c> {
    /// The address of the host.
    pub ip: IpAddr,
    /// What it says that it is called.
    pub helo: &'c str,
    /// The address in MAIL, without brackets; empty for the null path.
    pub sender: &'c str,
    /// The name of this host, for explanations.
    pub receiver: &'c str,
    /// For explanations.
    pub now: UnixTime,
}

impl<'c> Client<'c> {
    /// The domain that is asked, and the sender's local part. For the null path they are those of
    /// the client's own name (RFC 7208 §2.4).
    fn identity(&self) -> (&'c str, &'c str) {
        let (local, domain) = match self.sender.rsplit_once('@') {
            Some((local, domain)) => (local, domain),
            None if self.sender.is_empty() => ("", self.helo),
            None => ("", self.sender),
        };
        // RFC 7208 §4.3
        (if local.is_empty() { "postmaster" } else { local }, domain)
    }
}

/// What SPF says: RFC 7208 §2.6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// Nothing: there is no record, or no domain.
    None,
    /// The domain does not say.
    Neutral,
    /// The host may.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    Softfail,
    /// The DNS gave no answer; later it may.
    Temperror,
    /// What is published cannot be read.
    Permerror,
}

impl Verdict {
    /// As `Authentication-Results` writes it (RFC 8601 §2.7.2).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Softfail => "softfail",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a check went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What SPF says.
    pub verdict: Verdict,
    /// The domain that was asked.
    pub domain: String,
    /// What the domain says to those who fail; visible ASCII.
    pub explanation: Option<String>,
    /// What was looked at, and what came of it, a line each.
    pub steps: Vec<String>,
}
