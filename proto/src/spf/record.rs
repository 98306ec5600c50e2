//! Reading a policy: RFC 7208 §4.5, §4.6.1, §5, §6, §12.
//!
//! Called by `check`, with text from the DNS that anybody may have written. A record is read whole
//! before any of it counts, so a mistake behind the term that would have matched is one, too.
//! Failure: [`BadRecord`].

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Verdict;
use super::macros::{self, Template};

/// What a record cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRecord {
    /// The term.
    pub term: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.term, self.why)
    }
}

/// How many bits of an address count, of each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// Of 32.
    pub v4: u8,
    /// Of 128.
    pub v6: u8,
}

impl Prefix {
    const WHOLE: Self = Self { v4: 32, v6: 128 };

    /// Whether both lie in one network of that size.
    #[must_use]
    pub fn covers(self, one: IpAddr, other: IpAddr) -> bool {
        match (one, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let differ = u32::from(one) ^ u32::from(other);
                differ.leading_zeros() >= u32::from(self.v4)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let differ = u128::from(one) ^ u128::from(other);
                differ.leading_zeros() >= u32::from(self.v6)
            }
            _ => false,
        }
    }
}

/// What a client is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// Everybody.
    All,
    /// Whom another domain passes.
    Include(Template),
    /// The addresses of a host; of the domain itself without one.
    A(Option<Template>, Prefix),
    /// The addresses of the hosts that take a domain's mail.
    Mx(Option<Template>, Prefix),
    /// Whose address has a name in a domain.
    Ptr(Option<Template>),
    /// A network.
    Ip(IpAddr, Prefix),
    /// Everybody, if a name is there.
    Exists(Template),
}

/// A mechanism, and what follows when it matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    /// What follows.
    pub verdict: Verdict,
    /// What must match.
    pub mechanism: Mechanism,
    /// As it is written.
    pub text: String,
}

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// In their order.
    pub directives: Vec<Directive>,
    /// Whose policy holds when nothing matches.
    pub redirect: Option<Template>,
    /// Where an explanation is.
    pub explanation: Option<Template>,
}

/// Whether a text is a policy: RFC 7208 §4.5.
#[must_use]
pub fn is_record(text: &[u8]) -> bool {
    let Some((version, rest)) = text.split_at_checked(6) else { return false };
    version.eq_ignore_ascii_case(b"v=spf1") && rest.first().is_none_or(|&byte| byte == b' ')
}

impl Record {
    /// Reads a text for which [`is_record`] holds.
    ///
    /// # Errors
    /// The first term that cannot be read.
    pub fn parse(text: &[u8]) -> Result<Self, BadRecord> {
        let bad = |term: &str, why| BadRecord { term: term.to_owned(), why };
        if text.len() > super::RECORD_BYTES_MAX {
            return Err(bad("v=spf1", "the record is too long"));
        }
        // RFC 7208 §12: ASCII, and terms are separated by spaces alone.
        let text = core::str::from_utf8(text).ok().filter(|text| text.is_ascii());
        let text = text.ok_or_else(|| bad("v=spf1", "it is not ASCII"))?;
        let mut record = Self::default();
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            record.term(term).map_err(|why| bad(term, why))?;
        }
        Ok(record)
    }

    fn term(&mut self, term: &str) -> Result<(), &'static str> {
        let Some((name, value)) = modifier(term) else {
            self.directives.push(directive(term)?);
            return Ok(());
        };
        let place = match name.to_ascii_lowercase().as_str() {
            "redirect" => &mut self.redirect,
            "exp" => &mut self.explanation,
            // RFC 7208 §6: others are passed over, but must be well-formed.
            _ => return Template::parse(value).map(drop),
        };
        // RFC 7208 §6
        if place.is_some() {
            return Err("it stands there twice");
        }
        *place = Some(Template::domain(value)?);
        Ok(())
    }
}

/// Name and value of a term that is a modifier: RFC 7208 §4.6.1.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let rest = name.strip_prefix(|first: char| first.is_ascii_alphabetic())?;
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    rest.chars().all(inner).then_some((name, value))
}

fn directive(term: &str) -> Result<Directive, &'static str> {
    let (verdict, rest) = match term.split_at_checked(1) {
        Some(("+", rest)) => (Verdict::Pass, rest),
        Some(("-", rest)) => (Verdict::Fail, rest),
        Some(("~", rest)) => (Verdict::Softfail, rest),
        Some(("?", rest)) => (Verdict::Neutral, rest),
        _ => (Verdict::Pass, term),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, value) = rest.split_at(end);
    let mechanism = mechanism(name, value)?;
    Ok(Directive { verdict, mechanism, text: term.to_owned() })
}

/// Reads what stands behind the name of a mechanism, its separator included.
fn mechanism(name: &str, value: &str) -> Result<Mechanism, &'static str> {
    let domain = || value.strip_prefix(':').ok_or("it needs a domain").and_then(Template::domain);
    Ok(match name.to_ascii_lowercase().as_str() {
        "all" if value.is_empty() => Mechanism::All,
        "all" => return Err("nothing may stand behind it"),
        "include" => Mechanism::Include(domain()?),
        "exists" => Mechanism::Exists(domain()?),
        "ptr" if value.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(domain()?)),
        "a" => {
            let (domain, prefix) = host(value)?;
            Mechanism::A(domain, prefix)
        }
        "mx" => {
            let (domain, prefix) = host(value)?;
            Mechanism::Mx(domain, prefix)
        }
        "ip4" => {
            let (address, bits) = network(value)?;
            let address: Ipv4Addr = address.parse().map_err(|_| "it is no IPv4 address")?;
            let v4 = bits.map_or(Ok(32), |bits| length(bits, 32))?;
            Mechanism::Ip(address.into(), Prefix { v4, ..Prefix::WHOLE })
        }
        "ip6" => {
            let (address, bits) = network(value)?;
            let address: Ipv6Addr = address.parse().map_err(|_| "it is no IPv6 address")?;
            let v6 = bits.map_or(Ok(128), |bits| length(bits, 128))?;
            Mechanism::Ip(address.into(), Prefix { v6, ..Prefix::WHOLE })
        }
        _ => return Err("there is no such mechanism"),
    })
}

/// `[":" domain-spec] [dual-cidr-length]`
fn host(value: &str) -> Result<(Option<Template>, Prefix), &'static str> {
    let mut prefix = Prefix::WHOLE;
    let mut rest = value;
    // A domain ends in a label or a macro, so digits behind a slash at the end are none of it.
    if let Some((front, bits)) = rest.rsplit_once("//").filter(|(_, bits)| is_number(bits)) {
        prefix.v6 = length(bits, 128)?;
        rest = front;
    }
    if let Some((front, bits)) = rest.rsplit_once('/').filter(|(_, bits)| is_number(bits)) {
        prefix.v4 = length(bits, 32)?;
        rest = front;
    }
    if rest.is_empty() {
        return Ok((None, prefix));
    }
    let domain = rest.strip_prefix(':').ok_or("it is followed by what is no domain")?;
    Template::domain(domain).map(|domain| (Some(domain), prefix))
}

/// `":" network ["/" length]`
fn network(value: &str) -> Result<(&str, Option<&str>), &'static str> {
    let value = value.strip_prefix(':').ok_or("it needs an address")?;
    Ok(value.split_once('/').map_or((value, None), |(address, bits)| (address, Some(bits))))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A length without zeros in front, at most `max`.
fn length(text: &str, max: u8) -> Result<u8, &'static str> {
    let plain = is_number(text) && (text == "0" || !text.starts_with('0'));
    let bits = text.parse().ok().filter(|bits| plain && *bits <= max);
    bits.ok_or("the length of the network is none")
}

/// Whether a domain can end so: RFC 7208 §7.1, `toplabel`.
pub(super) fn is_top_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !label.is_empty()
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !label.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a domain can be asked for its policy: RFC 7208 §4.3.
pub(super) fn is_domain(domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    // An address literal is none (RFC 5321 §4.1.3).
    domain.contains('.')
        && !domain.starts_with('[')
        && domain.len() <= macros::DOMAIN_BYTES_MAX
        && domain.split('.').all(|label| (1..=63).contains(&label.len()))
}
