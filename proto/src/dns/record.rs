//! What a lookup brings: records as small types of ours, or why there are none.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use core::time::Duration;
use std::rc::Rc;

use super::name::BadName;

/// The kinds of records that mail needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Hosts that take a domain's mail.
    Mx,
    /// Text.
    Txt,
    /// The name of an address.
    Ptr,
    /// What a TLS server's certificate must match (RFC 6698 §2.1).
    Tlsa,
    /// The name that this one stands for.
    Cname,
}

impl Kind {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 7] =
        [Self::A, Self::Aaaa, Self::Mx, Self::Txt, Self::Ptr, Self::Tlsa, Self::Cname];

    /// Its name: `MX`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Ptr => "PTR",
            Self::Tlsa => "TLSA",
            Self::Cname => "CNAME",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Its name in any case.
impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
        kind.ok_or("known are A, AAAA, MX, TXT, PTR, TLSA and CNAME")
    }
}

/// A host that takes a domain's mail.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mx {
    /// Lower comes first.
    pub preference: u16,
    /// The host; empty for the root, which says that the domain takes no mail.
    pub exchange: Box<str>,
}

/// What a TLS server's certificate must match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tlsa {
    /// Whose certificate: 3 for the server's own.
    pub usage: u8,
    /// What of it: 0 all, 1 the public key.
    pub selector: u8,
    /// How it is given: 0 as it is, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// The certificate, the key, or the digest.
    pub data: Box<[u8]>,
}

/// The data of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// See [`Kind::A`].
    A(Ipv4Addr),
    /// See [`Kind::Aaaa`].
    Aaaa(Ipv6Addr),
    /// See [`Kind::Mx`].
    Mx(Mx),
    /// The strings of one record put together without anything between (RFC 7208 §3.3).
    Txt(Box<[u8]>),
    /// See [`Kind::Ptr`].
    Ptr(Box<str>),
    /// See [`Kind::Tlsa`].
    Tlsa(Tlsa),
    /// See [`Kind::Cname`].
    Cname(Box<str>),
}

impl Data {
    /// What kind it is of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::A(_) => Kind::A,
            Self::Aaaa(_) => Kind::Aaaa,
            Self::Mx(_) => Kind::Mx,
            Self::Txt(_) => Kind::Txt,
            Self::Ptr(_) => Kind::Ptr,
            Self::Tlsa(_) => Kind::Tlsa,
            Self::Cname(_) => Kind::Cname,
        }
    }

    /// Bytes on the heap.
    fn bytes(&self) -> usize {
        match self {
            Self::A(_) | Self::Aaaa(_) => 0,
            Self::Mx(mx) => mx.exchange.len(),
            Self::Txt(text) => text.len(),
            Self::Ptr(name) | Self::Cname(name) => name.len(),
            Self::Tlsa(tlsa) => tlsa.data.len(),
        }
    }
}

/// As in a zone file; bytes of a text that are not visible ASCII as `\DDD`.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => write!(f, "{address}"),
            Self::Aaaa(address) => write!(f, "{address}"),
            Self::Mx(mx) => write!(f, "{} {}.", mx.preference, mx.exchange),
            Self::Ptr(name) | Self::Cname(name) => write!(f, "{name}."),
            Self::Txt(text) => {
                f.write_str("\"")?;
                for &byte in text {
                    match byte {
                        b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                        b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                        _ => write!(f, "\\{byte:03}")?,
                    }
                }
                f.write_str("\"")
            }
            Self::Tlsa(tlsa) => {
                write!(f, "{} {} {} ", tlsa.usage, tlsa.selector, tlsa.matching)?;
                tlsa.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// The records that were found: at least one, and all of the kind that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where they are: the name that was asked for, or what its aliases lead to.
    pub name: Box<str>,
    /// Their data, in the order of the answer, which servers change from time to time on purpose.
    pub records: Vec<Data>,
    /// Whether the name server has checked the signatures of all that led here (the AD bit), and
    /// its word counts.
    pub secure: bool,
    /// How long they could be kept when they were found: the least of all records that led here.
    pub ttl: Duration,
}

impl Found {
    /// The hosts, as they came.
    pub fn mx(&self) -> impl Iterator<Item = &Mx> {
        self.records.iter().filter_map(|data| match data {
            Data::Mx(mx) => Some(mx),
            _ => None,
        })
    }

    /// The texts.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().filter_map(|data| match data {
            Data::Txt(text) => Some(&**text),
            _ => None,
        })
    }

    /// The names of a PTR or CNAME lookup.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.records.iter().filter_map(|data| match data {
            Data::Ptr(name) | Data::Cname(name) => Some(&**name),
            _ => None,
        })
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|data| match *data {
            Data::A(address) => Some(address.into()),
            Data::Aaaa(address) => Some(address.into()),
            _ => None,
        })
    }

    /// What a certificate must match.
    pub fn tlsa(&self) -> impl Iterator<Item = &Tlsa> {
        self.records.iter().filter_map(|data| match data {
            Data::Tlsa(tlsa) => Some(tlsa),
            _ => None,
        })
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(|d| size_of::<Data>() + d.bytes()).sum();
        size_of::<Self>() + self.name.len() + records
    }
}

/// Why nothing was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The name cannot be asked for.
    BadName(BadName),
    /// There is no such name.
    NoSuchName,
    /// The name is there, and has no record of this kind.
    NoData,
    /// One alias led to the next too often.
    TooManyAliases,
    /// An alias led back to where it had come from.
    AliasLoop,
    /// An alias leads to a name that cannot be asked for.
    BadAlias,
    /// Nobody knows for now; it may be otherwise in a moment.
    Temporary(Reason),
}

impl Failure {
    /// Whether asking later may help.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Temporary(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(why) => why.fmt(f),
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::NoData => f.write_str("the name has no record of this kind"),
            Self::TooManyAliases => f.write_str("too many aliases stand in a row"),
            Self::AliasLoop => f.write_str("the aliases go round in a circle"),
            Self::BadAlias => f.write_str("an alias leads to a name that cannot be asked for"),
            Self::Temporary(reason) => reason.fmt(f),
        }
    }
}

impl core::error::Error for Failure {}

/// Why nobody knows for now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// No name server answered in time.
    TimedOut,
    /// A name server said that it failed (SERVFAIL); also what it says of a forged zone.
    ServerFailed,
    /// A name server does not answer us (REFUSED).
    Refused,
    /// A name server answered with another error.
    Code(u16),
    /// A name server does not look for us: it is not one to ask.
    Lame,
    /// What a name server sent cannot be read.
    Garbage,
    /// There is no way to a name server, or nobody listens there.
    Unreachable,
    /// Too many lookups are under way on this shard.
    Busy,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no name server answered in time"),
            Self::ServerFailed => f.write_str("the name server failed (SERVFAIL)"),
            Self::Refused => f.write_str("the name server does not answer us (REFUSED)"),
            Self::Code(code) => write!(f, "the name server answered with error {code}"),
            Self::Lame => f.write_str("the name server points elsewhere instead of looking"),
            Self::Garbage => f.write_str("the name server's answer cannot be read"),
            Self::Unreachable => f.write_str("the name server cannot be reached"),
            Self::Busy => f.write_str("too many lookups are under way"),
        }
    }
}

/// How a lookup ended, and how long that may be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What was found.
    pub result: Result<Rc<Found>, Failure>,
    /// How long its source allows to keep it; zero where it says nothing. Not meant for failures.
    pub ttl: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_in_any_case() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().to_ascii_lowercase().parse(), Ok(kind));
        }
        assert!("SRV".parse::<Kind>().is_err());
    }

    #[test]
    fn data_looks_as_in_a_zone_file() {
        let tlsa = Tlsa { usage: 3, selector: 1, matching: 1, data: [0xab, 0x0c].into() };
        for (data, text) in [
            (Data::A([192, 0, 2, 1].into()), "192.0.2.1"),
            (Data::Mx(Mx { preference: 10, exchange: "mx.example".into() }), "10 mx.example."),
            (Data::Mx(Mx { preference: 0, exchange: "".into() }), "0 ."),
            (Data::Txt(b"a\"b\\c\n\xff"[..].into()), r#""a\"b\\c\010\255""#),
            (Data::Ptr("mx.example".into()), "mx.example."),
            (Data::Tlsa(tlsa), "3 1 1 ab0c"),
        ] {
            assert_eq!(data.to_string(), text);
        }
    }
}
