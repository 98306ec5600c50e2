//! Names of things that outlive a process: shards, log positions, messages, mailboxes.

use core::fmt;
use core::str::FromStr;

/// The number of a shard, from 0; at most [`ShardId::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The largest number of a shard; bounded by the bits that it has in a [`QueueId`].
    pub const MAX: u16 = 1023;
}

/// A position in one shard's log, in bytes since the log began. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// The number of a mailbox; never used twice.
///
/// The low 48 bits number the account, the high 16 its mailboxes: 0 is what mail for the account
/// comes into, and the number of the account itself; 1 holds copies of what its owner has sent, 2
/// what is probably not wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MailboxId(pub u64);

impl MailboxId {
    /// Nobody's mailbox: mail that is to travel on. No account gets this number.
    pub const QUEUE: Self = Self(u64::MAX);
    /// Nobody's mailbox: mail for mailboxes of the cluster that is not there yet.
    pub const UPLOAD: Self = Self(u64::MAX - 1);

    const ACCOUNT_BITS: u32 = 48;

    /// The first mailbox of its account.
    #[must_use]
    pub const fn account(self) -> Self {
        if self.is_nobodys() {
            return self;
        }
        Self(self.0 & ((1 << Self::ACCOUNT_BITS) - 1))
    }

    /// Whether it is a number that no account has.
    #[must_use]
    pub const fn is_nobodys(self) -> bool {
        self.0 >= Self::UPLOAD.0
    }

    /// Where copies are kept of what the owner of the account has sent.
    #[must_use]
    pub const fn sent(self) -> Self {
        Self(self.account().0 | 1 << Self::ACCOUNT_BITS)
    }

    /// Whether it is one of those.
    #[must_use]
    pub const fn is_sent(self) -> bool {
        self.0 >> Self::ACCOUNT_BITS == 1
    }

    /// Where mail for the account goes that is probably not wanted.
    #[must_use]
    pub const fn junk(self) -> Self {
        Self(self.account().0 | 2 << Self::ACCOUNT_BITS)
    }

    /// All mailboxes of its account.
    #[must_use]
    pub const fn all(self) -> [Self; 3] {
        [self.account(), self.sent(), self.junk()]
    }
}

/// The number of a message in a mailbox; rises strictly (RFC 3501 §2.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uid(pub u32);

/// The name of a message for its whole life: in the reply to DATA, in `Received`, in logs, and as
/// the unique-id of POP3.
///
/// 42 bits of milliseconds since 1970 (good until 2109), 10 bits of shard, 12 bits of sequence.
/// Each shard gives them out in strictly rising order and never one twice: when the clock steps
/// back or a millisecond is used up, it counts on from the last one. In a cluster the last 7 bits
/// of the sequence number the node, so that no two nodes give out the same one.
/// Shown as 13 characters of Crockford's base 32, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u64);

/// The number of a node in its cluster, from 0; at most [`NodeNumber::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNumber(u8);

impl NodeNumber {
    const BITS: u32 = 7;
    /// The largest number of a node; bounded by the bits that it has in a [`QueueId`].
    pub const MAX: u8 = (1 << Self::BITS) - 1;

    /// None when it is too large.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number > Self::MAX { None } else { Some(Self(number)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl QueueId {
    /// The first id of `shard` in millisecond `ms`.
    #[must_use]
    pub const fn first(ms: u64, shard: ShardId) -> Self {
        Self((ms << 22) | (((shard.0 & ShardId::MAX) as u64) << 12))
    }

    /// The shard that gave it out.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId(((self.0 >> 12) & 0x3ff) as u16)
    }

    /// The id after `self` on the same shard when the clock shows `ms`.
    #[must_use]
    pub const fn next(self, ms: u64) -> Self {
        let fresh = Self::first(ms, self.shard());
        if fresh.0 > self.0 {
            fresh
        } else if self.0 & 0xfff < 0xfff {
            Self(self.0 + 1)
        } else {
            Self::first((self.0 >> 22) + 1, self.shard())
        }
    }

    /// The id after `self` on the same shard of a node in a cluster when the clock shows `ms`; 32
    /// for each millisecond.
    #[must_use]
    pub const fn next_on(self, node: NodeNumber, ms: u64) -> Self {
        let last = node.0 as u64;
        let fresh = Self::first(ms, self.shard()).0 | last;
        let place = ((self.0 & 0xfff) >> NodeNumber::BITS) + 1;
        if fresh > self.0 {
            Self(fresh)
        } else if place << NodeNumber::BITS <= 0xfff {
            Self((self.0 & !0xfff) | (place << NodeNumber::BITS) | last)
        } else {
            Self(Self::first((self.0 >> 22) + 1, self.shard()).0 | last)
        }
    }

    /// The 13 characters that name it.
    #[must_use]
    pub fn text(self) -> [u8; 13] {
        let mut text = [b'0'; 13];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET.get((rest & 31) as usize).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        text
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.pad(core::str::from_utf8(&text).unwrap_or(""))
    }
}

/// The text was not 13 characters of the alphabet, or too large a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAQueueId;

impl fmt::Display for NotAQueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a queue id: 13 characters of 0-9 and a-z without i, l, o, u are expected")
    }
}

impl core::error::Error for NotAQueueId {}

impl FromStr for QueueId {
    type Err = NotAQueueId;

    fn from_str(text: &str) -> Result<Self, NotAQueueId> {
        if text.len() != 13 {
            return Err(NotAQueueId);
        }
        let mut value: u64 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|&a| a == byte).ok_or(NotAQueueId)?;
            value = value
                .checked_mul(32)
                .and_then(|v| v.checked_add(digit as u64))
                .ok_or(NotAQueueId)?;
        }
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn mailboxes_of_an_account_lead_back_to_it() {
        for account in [MailboxId(0), MailboxId(1), MailboxId((1 << 48) - 1)] {
            let [inbox, sent, junk] = account.all();
            assert_eq!((inbox, sent.account(), sent.sent()), (account, account, sent));
            assert_eq!((junk.account(), sent.junk(), junk.sent()), (account, junk, sent));
            assert!(sent.is_sent() && !inbox.is_sent() && !junk.is_sent());
            assert!(inbox != sent && inbox != junk && sent != junk);
        }
        assert!(!MailboxId::QUEUE.is_sent());
        for nobodys in [MailboxId::QUEUE, MailboxId::UPLOAD] {
            assert!(nobodys.is_nobodys() && !MailboxId(1).junk().is_nobodys());
            assert_eq!(nobodys.account(), nobodys);
        }
    }

    #[test]
    fn ids_rise_strictly_whatever_the_clock_does() {
        let mut id = QueueId::first(1_000, ShardId(7));
        for step in 0..20_000u64 {
            let next = id.next(if step % 3 == 0 { 999 } else { 1_000 + step / 9000 });
            assert!(next > id && next.shard() == ShardId(7));
            id = next;
        }
    }

    #[test]
    fn nodes_give_out_ids_of_their_own() {
        let of = |number| NodeNumber::new(number).unwrap();
        assert_eq!(NodeNumber::new(NodeNumber::MAX + 1), None);
        let mut seen = BTreeSet::new();
        for node in [of(0), of(5), of(NodeNumber::MAX)] {
            // From a name that another node could have given out.
            let mut id = QueueId(QueueId::first(1_000, ShardId(1023)).0 | 77);
            for step in 0..2_000u64 {
                let next = id.next_on(node, if step % 3 == 0 { 999 } else { 1_000 + step / 90 });
                assert!(next > id && next.shard() == ShardId(1023));
                assert_eq!(next.0 & 0x7f, u64::from(node.get()));
                assert!(seen.insert(next));
                id = next;
            }
        }
    }

    #[test]
    fn text_reads_back() {
        for id in [QueueId(0), QueueId(u64::MAX), QueueId::first(1_790_000_000_000, ShardId(1023))]
        {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!("zzzzzzzzzzzzz".parse::<QueueId>(), Err(NotAQueueId));
        assert_eq!("000000000000u".parse::<QueueId>(), Err(NotAQueueId));
    }
}
