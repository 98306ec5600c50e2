//! The sections about who really sent mail that comes in, and what they make of it when checked.

use core::time::Duration;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Checker, is_domain};
use super::file::File;
use crate::network::Network;
use crate::strangers::Terms;
use crate::verify::{self, List, Policies, Scores};

/// Who really sent mail that comes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Verify {
    /// Whether mail is checked. When absent: yes, but not with `--dev`.
    pub(super) enabled: Option<bool>,
    /// Hosts whose mail is taken as it is, with what its header says of earlier checks: addresses
    /// and networks, like `192.0.2.0/24`.
    pub(super) trusted: Vec<String>,
    /// The name under which results are written; fields that others have written under it are
    /// taken out. Nodes whose users read each other's mail should have one name. When absent:
    /// `server.node`.
    pub(super) name: Option<String>,
    /// Hosts that are believed about mail that they forward: domains that seal (ARC, RFC 8617),
    /// like that of a mailing list. When the last seal of a whole chain is theirs and says that
    /// DMARC passed where they got it, DMARC does not fail here.
    pub(super) trusted_sealers: Vec<String>,
    /// How long the lookups for a message may take, in seconds; what is not known by then counts as
    /// not known for now.
    #[schemars(range(min = 1, max = 120))]
    pub(super) timeout_s: u32,
    /// Whether the client's name is looked up, and whether it leads back to its address.
    pub(super) iprev: bool,
    /// The sum of the weights of `[[dnsbl]]` from which on `listed` in `[[policy]]` is done.
    pub(super) dnsbl_score: i32,
    /// The sum from which on mail is refused, whatever `[[policy]]` says.
    pub(super) dnsbl_reject_score: i32,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            enabled: None,
            trusted: ["127.0.0.0/8", "::1"].map(str::to_owned).into(),
            name: None,
            trusted_sealers: Vec::new(),
            timeout_s: 20,
            iprev: true,
            dnsbl_score: 1,
            dnsbl_reject_score: 100,
        }
    }
}

/// A list of addresses in the DNS (RFC 5782) that is asked about each client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Dnsbl {
    /// Its domain, like `bl.example.net`.
    pub(super) zone: String,
    /// What it adds to the sum when the client stands on it; less than 0 for a list of good hosts.
    #[schemars(range(min = -1000, max = 1000))]
    pub(super) weight: i32,
    /// Only these answers count, addresses and networks in `127.0.0.0/8`; when empty, any.
    pub(super) codes: Vec<String>,
}

impl Default for Dnsbl {
    fn default() -> Self {
        Self { zone: String::new(), weight: 1, codes: Vec::new() }
    }
}

/// What hosts may do whose mail is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Strangers {
    /// How long a client waits for the greeting, in milliseconds; one that talks before is let go
    /// with 554 (many that send spam do not wait). 0 for not at all.
    #[schemars(range(max = 60_000))]
    pub(super) greeting_delay_ms: u32,
    /// The most messages in an hour from one address (IPv4) or one /64 (IPv6); then it hears 451 to
    /// MAIL, and when to go on. An hour's worth may come at once. 0 for no limit, as below.
    #[schemars(range(max = 10_000_000))]
    pub(super) messages_per_address: u32,
    /// The same from one /24 (IPv4) or one /48 (IPv6).
    #[schemars(range(max = 10_000_000))]
    pub(super) messages_per_network: u32,
    /// The same of one reverse-path; the null path has no limit.
    #[schemars(range(max = 10_000_000))]
    pub(super) messages_per_sender: u32,
    /// The same for one recipient; then 451 to RCPT.
    #[schemars(range(max = 10_000_000))]
    pub(super) messages_per_recipient: u32,
    /// How many minutes the greylist has those wait who have never sent from this network, under
    /// this reverse-path, to this recipient: they hear 451 at the end of the message. Who has come
    /// again is known for 36 days. It is for recipients whose `[[policy]]` says `greylist`.
    #[schemars(range(min = 1, max = 1440))]
    pub(super) greylist_minutes: u32,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            greeting_delay_ms: 0,
            messages_per_address: 0,
            messages_per_network: 0,
            messages_per_sender: 0,
            messages_per_recipient: 0,
            greylist_minutes: 5,
        }
    }
}

/// What they may do.
pub(super) fn strangers(raw: &Strangers) -> Terms {
    Terms {
        greeting_delay: Duration::from_millis(raw.greeting_delay_ms.into()),
        per_address: raw.messages_per_address,
        per_network: raw.messages_per_network,
        per_sender: raw.messages_per_sender,
        per_recipient: raw.messages_per_recipient,
        greylist: Duration::from_secs(u64::from(raw.greylist_minutes) * 60),
    }
}

/// What is done with mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// It is taken.
    Accept,
    /// It is marked.
    Tag,
    /// It goes to the mailbox Junk.
    Junk,
    /// The sender shall come again.
    Defer,
    /// It is refused.
    Reject,
}

impl From<Action> for verify::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Accept => Self::Accept,
            Action::Tag => Self::Tag,
            Action::Junk => Self::Junk,
            Action::Defer => Self::Defer,
            Action::Reject => Self::Reject,
        }
    }
}

/// What verdicts lead to, for recipients in some domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Policy {
    /// The domains of recipients that it is for; when empty, all that have none of their own. A
    /// message for several is refused only when all of their domains want that, and goes to Junk
    /// for those that would refuse it.
    pub(super) domains: Vec<String>,
    /// SPF fails: the host may not send for the domain of the reverse-path; not when DMARC passes.
    /// When absent: `tag`.
    pub(super) spf_fail: Option<Action>,
    /// The domain is not sure of that. When absent: `accept`.
    pub(super) spf_softfail: Option<Action>,
    /// The message has signatures, and none is good; not when DMARC passes. When absent: `accept`.
    pub(super) dkim_fail: Option<Action>,
    /// DMARC fails, and the author's domain asks to reject. When absent: `reject`.
    pub(super) dmarc_reject: Option<Action>,
    /// DMARC fails, and the domain asks for care (`p=quarantine`). When absent: `junk`.
    pub(super) dmarc_quarantine: Option<Action>,
    /// DMARC fails, and the domain asks for nothing. When absent: `accept`.
    pub(super) dmarc_none: Option<Action>,
    /// `From` is there twice, or cannot be read, so that nobody can say whom a mail program will
    /// show; then DMARC is not judged. When absent: `reject`.
    pub(super) bad_from: Option<Action>,
    /// `From` is not there, or names nobody who has a domain. When absent: `tag`.
    pub(super) no_from: Option<Action>,
    /// The client has no name, or one that does not lead back. When absent: `accept`.
    pub(super) iprev_fail: Option<Action>,
    /// The client stands on lists, see `verify.dnsbl_score`. When absent: `junk`.
    pub(super) listed: Option<Action>,
    /// The DNS gives no answer about DMARC for now, and the author's domain may want such mail
    /// refused. When absent: `defer`.
    pub(super) dmarc_no_answer: Option<Action>,
    /// The DNS gives no answer about SPF or DKIM for now. When absent: `accept`.
    pub(super) no_answer: Option<Action>,
    /// Whether mail has to come again that neither SPF nor DMARC vouches for, from hosts that have
    /// not sent it before; see `[strangers]`. When absent: no.
    pub(super) greylist: Option<bool>,
}

impl Policy {
    /// With what it does not say taken from `base`.
    fn over(&self, base: &verify::Policy) -> verify::Policy {
        let or = |own: Option<Action>, base: verify::Action| own.map_or(base, Into::into);
        verify::Policy {
            spf_fail: or(self.spf_fail, base.spf_fail),
            spf_softfail: or(self.spf_softfail, base.spf_softfail),
            dkim_fail: or(self.dkim_fail, base.dkim_fail),
            dmarc_reject: or(self.dmarc_reject, base.dmarc_reject),
            dmarc_quarantine: or(self.dmarc_quarantine, base.dmarc_quarantine),
            dmarc_none: or(self.dmarc_none, base.dmarc_none),
            bad_from: or(self.bad_from, base.bad_from),
            no_from: or(self.no_from, base.no_from),
            iprev_fail: or(self.iprev_fail, base.iprev_fail),
            listed: or(self.listed, base.listed),
            dmarc_no_answer: or(self.dmarc_no_answer, base.dmarc_no_answer),
            no_answer: or(self.no_answer, base.no_answer),
            greylist: self.greylist.unwrap_or(base.greylist),
        }
    }
}

/// Checks the sections; none when mail is not to be checked.
pub(super) fn check(
    checker: &mut Checker<'_>,
    file: &File,
    node: &str,
    dev: bool,
) -> Option<Arc<verify::Settings>> {
    let raw = &file.verify;
    let trusted = networks(checker, &["verify", "trusted"], &raw.trusted);
    let name = raw.name.as_deref().unwrap_or(node);
    // A node's name that is no domain has been reported already.
    if raw.name.is_some() && !is_domain(name) {
        checker.problem(&["verify", "name"], format!("`{name}` is not a domain"));
    }
    for sealer in raw.trusted_sealers.iter().filter(|sealer| !is_domain(sealer)) {
        checker.problem(&["verify", "trusted_sealers"], format!("`{sealer}` is not a domain"));
    }
    let lists = lists(checker, file);
    let policies = policies(checker, file);
    let settings = verify::Settings {
        trusted,
        name: name.into(),
        timeout: Duration::from_secs(raw.timeout_s.into()),
        iprev: raw.iprev,
        sealers: raw.trusted_sealers.iter().map(|sealer| sealer.to_ascii_lowercase()).collect(),
        lists,
        scores: Scores { junk: raw.dnsbl_score, reject: raw.dnsbl_reject_score },
        policies,
    };
    raw.enabled.unwrap_or(!dev).then(|| Arc::new(settings))
}

fn networks(checker: &mut Checker<'_>, path: &[&str], texts: &[String]) -> Vec<Network> {
    let parsed = texts.iter().map(|text| {
        text.parse().map_err(|why| checker.problem(path, format!("`{text}`: {why}"))).ok()
    });
    parsed.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn lists(checker: &mut Checker<'_>, file: &File) -> Vec<List> {
    let mut lists: Vec<List> = Vec::new();
    for (index, raw) in file.dnsbl.iter().enumerate() {
        let index = index.to_string();
        let zone = raw.zone.trim_end_matches('.').to_ascii_lowercase();
        if !is_domain(&zone) {
            checker.problem(&["dnsbl", &index, "zone"], format!("`{zone}` is not a domain"));
        }
        let codes = networks(checker, &["dnsbl", &index, "codes"], &raw.codes);
        lists.push(List { zone, weight: raw.weight, codes });
    }
    // Arbitrary; each costs a question for each client.
    if lists.len() > 20 {
        checker.problem(&["dnsbl"], "more than 20 lists");
    }
    lists
}

fn policies(checker: &mut Checker<'_>, file: &File) -> Policies {
    let mut policies = Policies::default();
    let mut general = file.policy.iter().filter(|policy| policy.domains.is_empty());
    if let Some(policy) = general.next() {
        policies.general = policy.over(&policies.general);
    }
    if general.next().is_some() {
        checker.problem(&["policy"], "two sections are for all domains");
    }
    for (index, raw) in file.policy.iter().enumerate() {
        for domain in &raw.domains {
            let lower = domain.to_ascii_lowercase();
            let twice = policies.special.insert(lower, raw.over(&policies.general)).is_some();
            if twice || !is_domain(domain) {
                let what = if twice { "stands here twice" } else { "is not a domain" };
                let path = ["policy", &index.to_string(), "domains"];
                checker.problem(&path, format!("`{domain}` {what}"));
            }
        }
    }
    policies
}
