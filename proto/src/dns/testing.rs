//! The other side of a lookup, for tests of this crate and of those above it: answers put together
//! octet by octet, without the codec that reads them, and a [`Zone`] that answers from a table.
//!
//! Nothing here is used by a running engine. What cannot be answered is `None`.

#[cfg(test)]
use core::time::Duration;
use std::collections::BTreeMap;
#[cfg(test)]
use std::rc::Rc;

#[cfg(test)]
use super::known::{Known, Next};
use super::record::{Data, Kind};
#[cfg(test)]
use super::record::{Failure, Found, Mx, Reason};

const HEADER_BYTES: usize = 12;
const IN: u16 = 1;

/// The number of a kind of records.
#[must_use]
pub const fn number(kind: Kind) -> u16 {
    match kind {
        Kind::A => 1,
        Kind::Cname => 5,
        Kind::Ptr => 12,
        Kind::Mx => 15,
        Kind::Txt => 16,
        Kind::Aaaa => 28,
        Kind::Tlsa => 52,
    }
}

/// What a query asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The name, with its letters as they came.
    pub name: String,
    /// The number of the kind of records.
    pub kind: u16,
    /// Where in the message the question ends.
    pub end: usize,
}

impl Asked {
    /// Reads a query.
    #[must_use]
    pub fn read(query: &[u8]) -> Option<Self> {
        let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(core::str::from_utf8(query.get(at..at + length)?).ok()?);
            at += length;
        }
        let kind = query.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)?;
        query.get(at + 2..at + 4)?;
        Some(Self { name: labels.join("."), kind, end: at + 4 })
    }
}

/// A name in octets; of an escape only what `testing` needs, none.
fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

/// What a check finds where these records are published: `A 192.0.2.1`, `AAAA 2001:db8::1`,
/// `TXT v=spf1 ...`, `MX mx.test`, `PTR a.test`, and `FAILS` for a name whose server fails.
///
/// # Panics
/// When a record cannot be read, or the check asks for the hundredth time.
#[cfg(test)]
pub(crate) fn learned<T>(records: &[(&str, &str)], check: impl Fn(&Known) -> Next<T>) -> T {
    let data = |record: &str| match record.split_once(' ').unwrap_or((record, "")) {
        ("A", value) => Data::A(value.parse().unwrap()),
        ("AAAA", value) => Data::Aaaa(value.parse().unwrap()),
        ("TXT", value) => Data::Txt(value.as_bytes().into()),
        ("MX", value) => Data::Mx(Mx { preference: 10, exchange: value.into() }),
        ("PTR", value) => Data::Ptr(value.into()),
        _ => panic!("{record} is no record"),
    };
    let mut known = Known::default();
    for _ in 0..100 {
        let questions = match check(&known) {
            Next::Done(found) => return found,
            Next::Ask(questions) => questions,
        };
        assert!(!questions.is_empty(), "there is nothing to learn");
        for question in questions {
            let here = records.iter().filter(|(name, _)| *name == question.name());
            let fails = here.clone().any(|(_, record)| *record == "FAILS");
            let all: Vec<Data> =
                here.filter(|(_, r)| *r != "FAILS").map(|(_, r)| data(r)).collect();
            let records: Vec<Data> =
                all.into_iter().filter(|data| data.kind() == question.kind()).collect();
            let name = question.name().into();
            let answer = match records.is_empty() {
                _ if fails => Err(Failure::Temporary(Reason::ServerFailed)),
                true => Err(Failure::NoSuchName),
                false => Ok(Rc::new(Found { name, records, secure: false, ttl: Duration::ZERO })),
            };
            known.put(question, answer);
        }
    }
    panic!("the check does not end");
}

/// An answer in the making.
#[derive(Clone, Debug)]
pub struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// An answer to `query` without records: its id, its question, no error.
    #[must_use]
    pub fn to(query: &[u8]) -> Option<Self> {
        let end = Asked::read(query)?.end;
        let mut bytes = query.get(..end)?.to_vec();
        // Response, recursion desired and available; one question, nothing else.
        bytes.splice(2..HEADER_BYTES, [0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
        Some(Self { bytes })
    }

    fn change(mut self, at: usize, change: impl FnOnce(u8) -> u8) -> Self {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = change(*byte);
        }
        self
    }

    /// With this response code.
    #[must_use]
    pub fn code(self, code: u8) -> Self {
        self.change(3, |byte| byte & 0xf0 | code)
    }

    /// With the bit that there is more.
    #[must_use]
    pub fn truncated(self) -> Self {
        self.change(2, |byte| byte | 2)
    }

    /// With the bit that all is signed.
    #[must_use]
    pub fn authentic(self) -> Self {
        self.change(3, |byte| byte | 0x20)
    }

    /// With a record of any kind in a section: 1 answer, 2 authority, 3 additional.
    #[must_use]
    pub fn record(mut self, section: usize, owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.bytes.extend(wire(owner));
        for number in [kind, IN] {
            self.bytes.extend(number.to_be_bytes());
        }
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        let count = self.bytes.get_mut(4 + 2 * section..).and_then(|c| c.first_chunk_mut::<2>());
        if let Some(count) = count {
            *count = (u16::from_be_bytes(*count) + 1).to_be_bytes();
        }
        self
    }

    /// With a record that answers.
    #[must_use]
    pub fn answer(self, owner: &str, ttl: u32, data: &Data) -> Self {
        let bytes = match data {
            Data::A(address) => address.octets().to_vec(),
            Data::Aaaa(address) => address.octets().to_vec(),
            Data::Mx(mx) => [&mx.preference.to_be_bytes()[..], &wire(&mx.exchange)].concat(),
            Data::Txt(text) if text.is_empty() => vec![0],
            Data::Txt(text) => {
                text.chunks(255).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect()
            }
            Data::Ptr(name) | Data::Cname(name) => wire(name),
            Data::Tlsa(tlsa) => {
                [&[tlsa.usage, tlsa.selector, tlsa.matching][..], &tlsa.data].concat()
            }
        };
        self.record(1, owner, number(data.kind()), ttl, &bytes)
    }

    /// With a SOA that says for how many seconds nothing stays nothing.
    #[must_use]
    pub fn soa(self, zone: &str, ttl: u32, minimum: u32) -> Self {
        let mut data = [wire("ns.example"), wire("postmaster.example")].concat();
        for number in [1, 3600, 600, 86_400, minimum] {
            data.extend(number.to_be_bytes());
        }
        self.record(2, zone, 6, ttl, &data)
    }

    /// The message.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A table of records that answers as a name server does that has looked everything up.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    names: BTreeMap<String, Vec<(u32, Data)>>,
    authentic: bool,
}

impl Zone {
    /// An empty table: no name is there.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a record at `name`, to be kept for `ttl` seconds.
    #[must_use]
    pub fn with(mut self, name: &str, ttl: u32, data: Data) -> Self {
        self.names.entry(name.to_ascii_lowercase()).or_default().push((ttl, data));
        self
    }

    /// With the word that everything is signed.
    #[must_use]
    pub const fn signed(mut self) -> Self {
        self.authentic = true;
        self
    }

    /// The answer to a query: aliases are followed as far as they lead, and what is not there is
    /// not there for 60 seconds.
    #[must_use]
    pub fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let asked = Asked::read(query)?;
        let mut reply = Reply::to(query)?;
        if self.authentic {
            reply = reply.authentic();
        }
        let mut name = asked.name.to_ascii_lowercase();
        for _ in 0..=self.names.len() {
            let Some(records) = self.names.get(&name) else {
                return Some(reply.code(3).soa("", 60, 60).bytes());
            };
            let of_kind = |kind: u16| records.iter().filter(move |r| number(r.1.kind()) == kind);
            if of_kind(asked.kind).next().is_some() {
                for (ttl, data) in of_kind(asked.kind) {
                    reply = reply.answer(&name, *ttl, data);
                }
                return Some(reply.bytes());
            }
            let alias = records.iter().find_map(|(ttl, data)| match data {
                Data::Cname(target) => Some((*ttl, target)),
                _ => None,
            });
            let Some((ttl, target)) = alias else {
                return Some(reply.soa("", 60, 60).bytes());
            };
            reply = reply.answer(&name, ttl, &Data::Cname(target.clone()));
            name = target.to_ascii_lowercase();
        }
        Some(reply.bytes())
    }
}
