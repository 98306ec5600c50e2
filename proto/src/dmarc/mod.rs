//! DMARC (RFC 9989, before it RFC 7489): whether mail comes from the domain that its author's
//! address shows, and what that domain wants done where it does not. A pure function.
//!
//! [`check()`] judges a message by its authors' domains, by what SPF and DKIM have proved, and by
//! what is [known](crate::dns::known::Known) of the DNS; or it says what must be known besides.
//!
//! * [`from`]: the domains of the authors.
//! * [`record`]: what a domain wants.
//! * [`walk`]: where its record is, and to which organisation it belongs.
//! * [`destinations()`]: where reports about it may go.
//!
//! Limits: those of the three, and [`IDENTIFIERS_MAX`]. Nothing fails but by its [`Verdict`].
//!
//! # Of 100 messages
//!
//! A record may want its policy for some of the mail only: `pct=20` (RFC 7489 §6.6.4), which is
//! gone in RFC 9989 but stands in many records; or for none yet: `t=y`. The caller draws a number
//! below 100 for each message and gives it as [`Evidence::draw`]. Where it is not below `pct`, or
//! where `t=y`, mail that fails gets the next milder policy: `quarantine` for `reject`, `none` for
//! `quarantine`. Both together do so once.

mod check;
mod destinations;
pub mod from;
pub mod record;
#[cfg(test)]
mod tests;
pub mod walk;

use core::fmt;

use crate::dkim;
use crate::spf;

pub use check::check;
pub use destinations::{Destinations, destinations};
pub use from::{BadFrom, authors};
pub use record::{Alignment, Policy, Record};

/// Domains that were proved of one message and are compared with the author's, those behind are
/// passed over: all that DKIM verifies, and the one of SPF.
pub const IDENTIFIERS_MAX: usize = dkim::verify::SIGNATURES_MAX + 1;

/// What is known of a message besides the DNS.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'e> {
    /// The domains of its authors, from [`authors`].
    pub authors: Result<&'e [String], BadFrom>,
    /// What SPF says of MAIL FROM, or of HELO where that is empty; none when it was not asked.
    pub spf: Option<&'e spf::Outcome>,
    /// What its signatures are worth.
    pub dkim: &'e [dkim::verify::Judged],
    /// A number below 100, drawn for this message.
    pub draw: u8,
}

/// What DMARC says: RFC 7489 §11.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// The author's domain has no record, or there is no such domain.
    None,
    /// The domain's own hosts or keys sent it.
    Pass,
    /// They did not, as far as anybody can see.
    Fail,
    /// The DNS gave no answer; later it may.
    Temperror,
    /// The author or the record cannot be read.
    Permerror,
}

impl Verdict {
    /// As `Authentication-Results` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
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

/// What has proved a domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mechanism {
    /// Its hosts.
    Spf,
    /// Its keys.
    Dkim,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spf => "SPF",
            Self::Dkim => "DKIM",
        })
    }
}

/// A domain that was proved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identifier {
    /// By what.
    pub mechanism: Mechanism,
    /// Which.
    pub domain: String,
}

/// The tag that holds the policy for a domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tag {
    /// `p`: the record is the domain's own, or says nothing else of those below.
    P,
    /// `sp`: the record is that of a domain above.
    Sp,
    /// `np`: so it is, and the domain does not exist.
    Np,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P => "p",
            Self::Sp => "sp",
            Self::Np => "np",
        })
    }
}

/// What is published for an author's domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// The domain whose record it is.
    pub domain: String,
    /// The record.
    pub record: Record,
    /// The policy that is for the author's domain.
    pub policy: Policy,
    /// The tag that holds it.
    pub tag: Tag,
}

/// How a message was judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What DMARC says.
    pub verdict: Verdict,
    /// The author's domain; empty when there is none. Of several, the one that is judged worst.
    pub author: String,
    /// What is published for it.
    pub published: Option<Published>,
    /// What the domain wants done with this message: nothing unless it fails.
    pub disposition: Policy,
    /// Those of the proved domains that speak for the author's.
    pub aligned: Vec<Identifier>,
    /// What was looked at, and what came of it, a line each.
    pub steps: Vec<String>,
}

impl Outcome {
    /// Whether a mechanism has proved a domain that speaks for the author's.
    #[must_use]
    pub fn is_aligned(&self, mechanism: Mechanism) -> bool {
        self.aligned.iter().any(|identifier| identifier.mechanism == mechanism)
    }
}
