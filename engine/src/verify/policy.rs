//! What becomes of mail by what was found out about it.
//!
//! Pure: verdicts and an operator's wishes go in, one [`Decision`] comes out. The strictest thing
//! that one of the verdicts asks for is done.

use std::collections::BTreeMap;

use fsmtp_proto::smtp::reply::{Doubt, Refusal};
use fsmtp_proto::{dkim, dmarc, iprev, spf};

use super::Verdicts;

const NOTHING: dmarc::Policy = dmarc::Policy::None;

/// What is done with a message, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Action {
    /// Nothing; its header tells what was found.
    #[default]
    Accept,
    /// A field `X-Fannst-Suspect` says why.
    Tag,
    /// The same, and it goes to the recipient's mailbox Junk.
    Junk,
    /// The sender shall come again later.
    Defer,
    /// It is refused.
    Reject,
}

impl Action {
    /// As the configuration and logs name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Tag => "tag",
            Self::Junk => "junk",
            Self::Defer => "defer",
            Self::Reject => "reject",
        }
    }
}

/// Why something is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// SPF: the host may not send for the domain.
    Spf,
    /// No signature is good, and there are some.
    Dkim,
    /// Neither SPF nor DKIM proves whom `From` names, and the domain publishes what then.
    Dmarc,
    /// `From` is not there, or there twice, or cannot be read.
    From,
    /// The client's name does not lead back to it.
    Iprev,
    /// It is on too many lists.
    Listed,
    /// The DNS gave no answer.
    Dns,
}

impl Reason {
    /// As logs and `X-Fannst-Suspect` name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spf => "spf",
            Self::Dkim => "dkim",
            Self::Dmarc => "dmarc",
            Self::From => "from",
            Self::Iprev => "iprev",
            Self::Listed => "dnsbl",
            Self::Dns => "dns",
        }
    }

    /// What a sender hears who is refused for it.
    const fn refusal(self, action: Action) -> Refusal {
        match (self, action) {
            (_, Action::Defer) => Refusal::Doubted(Doubt::NoAnswer),
            (Self::Spf, _) => Refusal::Doubted(Doubt::Spf),
            (Self::Dkim, _) => Refusal::Doubted(Doubt::Dkim),
            (Self::Dmarc, _) => Refusal::Doubted(Doubt::Dmarc),
            (Self::From, _) => Refusal::BadHeader,
            (Self::Iprev, _) => Refusal::Doubted(Doubt::Iprev),
            (Self::Listed, _) => Refusal::Doubted(Doubt::Listed),
            (Self::Dns, _) => Refusal::Doubted(Doubt::NoAnswer),
        }
    }
}

/// What is done, and why; no reason where nothing is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// Why.
    pub reason: Option<Reason>,
}

impl Decision {
    /// What the sender hears, unless the message is taken.
    #[must_use]
    pub fn refusal(self) -> Option<Refusal> {
        let refused = self.action >= Action::Defer;
        self.reason.filter(|_| refused).map(|reason| reason.refusal(self.action))
    }

    fn raise(&mut self, action: Action, reason: Reason) {
        if action > self.action {
            *self = Self { action, reason: Some(reason) };
        }
    }
}

/// What each verdict leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The domain of the envelope says that the host may not.
    pub spf_fail: Action,
    /// It says so without being sure.
    pub spf_softfail: Action,
    /// There are signatures, and none is good.
    pub dkim_fail: Action,
    /// DMARC fails, and the domain asks to reject.
    pub dmarc_reject: Action,
    /// DMARC fails, and the domain asks to be careful.
    pub dmarc_quarantine: Action,
    /// DMARC fails, and the domain asks for nothing.
    pub dmarc_none: Action,
    /// `From` is there twice, or cannot be read: it may show anybody.
    pub bad_from: Action,
    /// There is no `From`, or nobody with a domain in it.
    pub no_from: Action,
    /// The client's name does not lead back.
    pub iprev_fail: Action,
    /// The lists' weights are as much as [`Scores::junk`].
    pub listed: Action,
    /// The DNS gave no answer about DMARC, so nobody knows whether the author's domain would have
    /// it refused.
    pub dmarc_no_answer: Action,
    /// It gave none about SPF or DKIM.
    pub no_answer: Action,
    /// Whether those have to come again for whose mail nobody vouches.
    pub greylist: bool,
}

impl Policy {
    /// What is done without a word of the operator.
    pub const DEFAULT: Self = Self {
        spf_fail: Action::Tag,
        spf_softfail: Action::Accept,
        dkim_fail: Action::Accept,
        dmarc_reject: Action::Reject,
        dmarc_quarantine: Action::Junk,
        dmarc_none: Action::Accept,
        bad_from: Action::Reject,
        no_from: Action::Tag,
        iprev_fail: Action::Accept,
        listed: Action::Junk,
        dmarc_no_answer: Action::Defer,
        no_answer: Action::Accept,
        greylist: false,
    };
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How much the lists must say together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scores {
    /// From here on [`Policy::listed`] is done.
    pub junk: i32,
    /// From here on mail is refused, whatever else is known of it.
    pub reject: i32,
}

/// The policy of each domain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policies {
    /// For all that have none of their own.
    pub general: Policy,
    /// By domain, in lower case.
    pub special: BTreeMap<String, Policy>,
}

impl Policies {
    /// That of a recipient's domain.
    #[must_use]
    pub fn of(&self, domain: &str) -> &Policy {
        if self.special.is_empty() {
            return &self.general;
        }
        self.special.get(&domain.to_ascii_lowercase()).unwrap_or(&self.general)
    }
}

impl Policy {
    /// Whether a message is for the greylist.
    #[must_use]
    pub fn is_grey(&self, found: &Verdicts) -> bool {
        let vouched = found.is_vouched
            || found.dmarc.verdict == dmarc::Verdict::Pass
            || found.spf.verdict == spf::Verdict::Pass;
        self.greylist && !vouched
    }

    /// What becomes of a message for a recipient with this policy.
    #[must_use]
    pub fn decide(&self, found: &Verdicts, scores: &Scores) -> Decision {
        let mut decision = Decision::default();
        let is_proved = found.dmarc.verdict == dmarc::Verdict::Pass || found.is_vouched;
        if found.score >= scores.reject {
            decision.raise(Action::Reject, Reason::Listed);
        } else if found.score >= scores.junk {
            decision.raise(self.listed, Reason::Listed);
        }
        match found.dmarc.verdict {
            dmarc::Verdict::Fail if !found.is_vouched => {
                let wanted = match found.dmarc.disposition {
                    dmarc::Policy::Reject => self.dmarc_reject,
                    dmarc::Policy::Quarantine => self.dmarc_quarantine,
                    dmarc::Policy::None => self.dmarc_none,
                };
                decision.raise(wanted, Reason::Dmarc);
            }
            // Whatever the answer is, nothing would come of it where the domain asks for nothing.
            dmarc::Verdict::Temperror
                if !found.is_vouched
                    && found.dmarc.published.as_ref().is_none_or(|one| one.policy != NOTHING) =>
            {
                decision.raise(self.dmarc_no_answer, Reason::Dns);
            }
            _ => {}
        }
        if let Some(bad) = found.bad_from {
            let wanted = if bad.is_absence() { self.no_from } else { self.bad_from };
            decision.raise(wanted, Reason::From);
        }
        // What proves the author is worth more than a host that does not: forwarders break SPF,
        // lists break signatures.
        match found.spf.verdict {
            _ if is_proved => {}
            spf::Verdict::Fail => decision.raise(self.spf_fail, Reason::Spf),
            spf::Verdict::Softfail => decision.raise(self.spf_softfail, Reason::Spf),
            spf::Verdict::Temperror => decision.raise(self.no_answer, Reason::Dns),
            _ => {}
        }
        match dkim::verify::sum(&found.dkim) {
            _ if is_proved => {}
            dkim::verify::Verdict::Fail | dkim::verify::Verdict::Permerror => {
                decision.raise(self.dkim_fail, Reason::Dkim);
            }
            dkim::verify::Verdict::Temperror => decision.raise(self.no_answer, Reason::Dns),
            _ => {}
        }
        if found.iprev.as_ref().is_some_and(|iprev| {
            matches!(iprev.verdict, iprev::Verdict::Fail | iprev::Verdict::Permerror)
        }) {
            decision.raise(self.iprev_fail, Reason::Iprev);
        }
        decision
    }
}
