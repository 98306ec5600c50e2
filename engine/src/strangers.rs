//! What hosts may do that nobody here knows: how much they may send in an hour, how long they wait
//! for the greeting, and whether they have to come again.
//!
//! Shared by all shards of a node; the desk asks for those whose mail is checked, so not for users,
//! nodes and trusted hosts. Kept in memory only: a restart fills all buckets and forgets who has
//! come again. Limits: those of [`Rates`]; [`ENTRIES_MAX`] of the greylist. Failure: [`TooMuch`].

use core::hash::{Hash as _, Hasher as _};
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_rt::UnixTime;

use crate::rates::Rates;

/// What the greylist remembers; arbitrary, some 30 bytes each.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Who comes again later than this has given up, and comes anew.
const RETRY_MAX: Duration = Duration::from_secs(2 * 24 * 3600);
/// For how long who has come again is known, from his last message on.
const KNOWN: Duration = Duration::from_secs(36 * 24 * 3600);

/// What the operator allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// How long a client waits for the greeting.
    pub greeting_delay: Duration,
    /// Messages in an hour of one address (IPv4) or one /64 (IPv6); 0 for no limit, as below.
    pub per_address: u32,
    /// Of one /24 (IPv4) or one /48 (IPv6).
    pub per_network: u32,
    /// Of one reverse-path.
    pub per_sender: u32,
    /// For one recipient.
    pub per_recipient: u32,
    /// How long a greylist has those wait whom it does not know.
    pub greylist: Duration,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// Messages of an address.
    Address,
    /// Messages of a network.
    Network,
    /// Messages of a reverse-path.
    Sender,
    /// Messages for a recipient.
    Recipient,
}

impl Of {
    /// As the log names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
        }
    }
}

/// More than is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMuch {
    /// Of what.
    pub of: Of,
    /// When it may go on.
    pub wait: Duration,
    /// So many refusals the log is to be told of; 0 most times.
    pub refused_count: u32,
}

impl TooMuch {
    /// The wait in minutes, one at least.
    #[must_use]
    pub fn minutes(&self) -> u16 {
        u16::try_from(self.wait.as_secs() / 60 + 1).unwrap_or(u16::MAX)
    }
}

/// What strangers have done so far.
#[derive(Debug)]
pub struct Strangers {
    terms: Terms,
    addresses: Rates,
    networks: Rates,
    senders: Rates,
    recipients: Rates,
    greylist: Greylist,
}

impl Strangers {
    /// Nobody has done anything. The secret keeps who is on the greylist from being guessed.
    #[must_use]
    pub fn new(terms: Terms, secret: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            terms,
            addresses: Rates::new(terms.per_address),
            networks: Rates::new(terms.per_network),
            senders: Rates::new(terms.per_sender),
            recipients: Rates::new(terms.per_recipient),
            greylist: Greylist { secret: secret.into(), entries: Mutex::default() },
        })
    }

    /// What is counted, by name.
    #[must_use]
    pub const fn rates(&self) -> [(&'static str, &Rates); 4] {
        [
            (Of::Address.name(), &self.addresses),
            (Of::Network.name(), &self.networks),
            (Of::Sender.name(), &self.senders),
            (Of::Recipient.name(), &self.recipients),
        ]
    }

    /// How long a client waits for the greeting.
    #[must_use]
    pub const fn greeting_delay(&self) -> Duration {
        self.terms.greeting_delay
    }

    /// A message begins.
    ///
    /// # Errors
    /// [`TooMuch`] when its address, network or sender has sent as many as it may.
    pub fn mail(&self, ip: IpAddr, sender: &str, now: UnixTime) -> Result<(), TooMuch> {
        let take = |of, rates: &Rates, per_hour, key: &dyn Fn() -> String| {
            if per_hour == 0 {
                return Ok(());
            }
            let exceeded = |rates: crate::rates::Exceeded| TooMuch {
                of,
                wait: rates.wait,
                refused_count: rates.refused_count,
            };
            rates.take(&key(), now).map_err(exceeded)
        };
        let (address, network) = (masked(ip, 32, 64), masked(ip, 24, 48));
        let Terms { per_address, per_network, per_sender, .. } = self.terms;
        take(Of::Address, &self.addresses, per_address, &|| address.to_string())?;
        take(Of::Network, &self.networks, per_network, &|| network.to_string())?;
        // Reports have no sender, and many hosts send them.
        if sender.is_empty() {
            return Ok(());
        }
        take(Of::Sender, &self.senders, per_sender, &|| sender.to_lowercase())
    }

    /// A message names a recipient, who has a mailbox here.
    ///
    /// # Errors
    /// [`TooMuch`] when there are as many for it as there may be.
    pub fn recipient(&self, address: &str, now: UnixTime) -> Result<(), TooMuch> {
        if self.terms.per_recipient == 0 {
            return Ok(());
        }
        self.recipients.take(&address.to_lowercase(), now).map_err(|exceeded| TooMuch {
            of: Of::Recipient,
            wait: exceeded.wait,
            refused_count: exceeded.refused_count,
        })
    }

    /// How many minutes who sends this has to wait before it comes again; none when it has.
    #[must_use]
    pub fn is_new<'r>(
        &self,
        ip: IpAddr,
        sender: &str,
        recipients: impl Iterator<Item = &'r [u8]>,
        now: UnixTime,
    ) -> Option<u16> {
        let delay = self.terms.greylist.as_secs();
        if delay == 0 {
            return None;
        }
        let network = masked(ip, 24, 48);
        let waits = recipients.map(|to| self.greylist.wait((network, sender, to), delay, now));
        // All are looked at, so that they are known at the same time.
        let seconds = waits.max().unwrap_or(0);
        (seconds > 0).then(|| u16::try_from(seconds / 60 + 1).unwrap_or(u16::MAX))
    }
}

/// Who has sent what for whom, by a hash of the three.
#[derive(Debug)]
struct Greylist {
    secret: Box<[u8]>,
    entries: Mutex<BTreeMap<u64, Entry>>,
}

/// In seconds.
#[derive(Clone, Copy, Debug)]
struct Entry {
    first: u64,
    last: u64,
    is_known: bool,
}

impl Entry {
    const fn is_over(&self, now: u64) -> bool {
        let kept = if self.is_known { KNOWN } else { RETRY_MAX };
        now.saturating_sub(self.last) > kept.as_secs()
    }
}

impl Greylist {
    /// How many seconds are left to wait.
    fn wait(&self, of: (IpAddr, &str, &[u8]), delay: u64, now: UnixTime) -> u64 {
        let (network, sender, recipient) = of;
        let mut hasher = DefaultHasher::new();
        (&self.secret, network, sender.to_lowercase(), recipient.to_ascii_lowercase())
            .hash(&mut hasher);
        let now = now.seconds();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES_MAX {
            shrink(&mut entries, now);
        }
        let new = Entry { first: now, last: now, is_known: false };
        let entry = entries.entry(hasher.finish()).or_insert(new);
        // A clock that was set back makes nobody wait for longer than the delay.
        if entry.is_over(now) || entry.first > now {
            *entry = new;
        }
        let left = delay.saturating_sub(now - entry.first);
        if entry.is_known || left == 0 {
            entry.is_known = true;
            entry.last = now;
            return 0;
        }
        left
    }
}

/// Makes room for a tenth at least, so that this is seldom done.
fn shrink(entries: &mut BTreeMap<u64, Entry>, now: u64) {
    let is_enough = |entries: &BTreeMap<u64, Entry>| entries.len() < ENTRIES_MAX / 10 * 9;
    entries.retain(|_, entry| !entry.is_over(now));
    if !is_enough(entries) {
        entries.retain(|_, entry| entry.is_known);
    }
    if !is_enough(entries) {
        entries.clear();
    }
}

/// The network of an address.
fn masked(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - v4_bits).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - v6_bits).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_ms((1_600_000_000 + seconds) * 1000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_networks_and_senders_have_limits_of_their_own() {
        let terms = Terms { per_address: 2, per_network: 3, per_sender: 4, ..Terms::default() };
        let mail = |strangers: &Strangers, from: &str, sender: &str| {
            strangers.mail(ip(from), sender, at(0)).map_err(|much| much.of)
        };
        let strangers = Strangers::new(terms, b"x");
        let calls = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let of_hosts = calls.map(|from| mail(&strangers, from, ""));
        let (address, network) = (Err(Of::Address), Err(Of::Network));
        assert_eq!(of_hosts, [Ok(()), Ok(()), address, Ok(()), network]);
        let strangers = Strangers::new(terms, b"x");
        let calls = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"];
        let of_hosts = calls.map(|from| mail(&strangers, from, ""));
        assert_eq!(of_hosts, [Ok(()), Ok(()), address, Ok(())]);
        let strangers = Strangers::new(terms, b"x");
        for n in 0..4 {
            assert_eq!(mail(&strangers, &format!("10.0.{n}.1"), "Me@a.test"), Ok(()));
        }
        assert_eq!(mail(&strangers, "10.0.5.1", "me@A.test"), Err(Of::Sender));
        let much = strangers.mail(ip("10.0.6.1"), "me@a.test", at(0)).unwrap_err();
        assert_eq!(much.minutes(), 16);
    }

    #[test]
    fn recipients_have_limits_in_any_case_and_none_where_none_is_set() {
        let strangers = Strangers::new(Terms { per_recipient: 1, ..Terms::default() }, b"x");
        assert!(strangers.recipient("a@b.test", at(0)).is_ok());
        assert_eq!(strangers.recipient("A@b.test", at(0)).unwrap_err().of, Of::Recipient);
        assert!(strangers.recipient("A@b.test", at(3601)).is_ok());
        let free = Strangers::new(Terms::default(), b"x");
        for _ in 0..1000 {
            assert!(free.recipient("a@b.test", at(0)).is_ok());
            assert!(free.mail(ip("192.0.2.1"), "a@b.test", at(0)).is_ok());
            assert_eq!(free.is_new(ip("192.0.2.1"), "", [&b"a"[..]].into_iter(), at(0)), None);
        }
    }

    #[test]
    fn who_comes_again_in_time_is_known() {
        let terms = Terms { greylist: Duration::from_secs(300), ..Terms::default() };
        let strangers = Strangers::new(terms, b"x");
        let ask = |from: &str, to: &[&str], seconds: u64| {
            strangers.is_new(ip(from), "s@a.test", to.iter().map(|to| to.as_bytes()), at(seconds))
        };
        assert_eq!(ask("192.0.2.1", &["a"], 0), Some(6));
        assert_eq!(ask("192.0.2.1", &["a"], 60), Some(5), "too early");
        assert_eq!(ask("192.0.2.9", &["A"], 300), None, "from the same network, in any case");
        assert_eq!(ask("192.0.2.1", &["a", "b"], 301), Some(6), "b is new");
        assert_eq!(ask("192.0.3.1", &["a"], 301), Some(6), "another network");
        let day = 24 * 3600;
        assert_eq!(ask("192.0.2.1", &["a"], 36 * day + 300), None, "known for long");
        assert_eq!(ask("192.0.2.1", &["a"], 73 * day), Some(6), "and then forgotten");
        assert_eq!(ask("192.0.9.1", &["a"], 0), Some(6));
        assert_eq!(ask("192.0.9.1", &["a"], 2 * day + 1), Some(6), "it came too late");
        assert_eq!(ask("192.0.9.1", &["a"], 0), Some(6), "a clock that was set back");
    }

    #[test]
    fn what_the_greylist_remembers_is_bounded() {
        let mut entries = BTreeMap::new();
        let entry = |is_known, last| Entry { first: 0, last, is_known };
        let now = KNOWN.as_secs() + RETRY_MAX.as_secs();
        for n in 0..ENTRIES_MAX as u64 {
            entries.insert(n, entry(n % 2 == 0, now));
        }
        shrink(&mut entries, now);
        assert_eq!(entries.len(), ENTRIES_MAX / 2, "who has not come again goes first");
        for n in 0..ENTRIES_MAX as u64 {
            entries.insert(n, entry(true, if n % 5 == 0 { 0 } else { now }));
        }
        shrink(&mut entries, now);
        assert_eq!(entries.len(), ENTRIES_MAX / 5 * 4, "what is over goes before that");
        for n in 0..ENTRIES_MAX as u64 {
            entries.insert(n, entry(true, now));
        }
        shrink(&mut entries, now);
        assert!(entries.is_empty());
    }
}
