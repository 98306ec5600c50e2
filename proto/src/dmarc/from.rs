//! The domains of a message's authors: RFC 9989 §5.3.1, RFC 7489 §6.6.1.
//!
//! Called with the fields of a message before it is judged. Reads the From field by the grammar of
//! RFC 5322 §3.4, with groups (RFC 6854 §2.1) and UTF-8 (RFC 6532 §3.2), and of its obsolete forms
//! the bare dot in names only. A field that does not follow that, as those of many programs do not
//! (`a@d.example <a@d.example>`), may be understood by two readers in two ways: then every domain
//! that one of them could see is an author's, and has to be proved. Limits: [`FROM_BYTES_MAX`],
//! [`ADDRESSES_MAX`], [`DOMAINS_MAX`]. Whatever else is there is [`BadFrom`].

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::dkim::header::Field;
use crate::dns::{Kind, Question};

mod seen;

/// The longest From field; arbitrary, a thousand times what people need.
pub const FROM_BYTES_MAX: usize = 16 * 1024;
/// Addresses in one; arbitrary.
pub const ADDRESSES_MAX: usize = 100;
/// Domains in one, each of which costs a walk of its own; arbitrary.
pub const DOMAINS_MAX: usize = 4;

/// Why nobody can say who the author is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BadFrom {
    /// There is no From field.
    Missing,
    /// It names nobody, or nobody with a domain.
    Nobody,
    /// There are several.
    Several,
    /// It is beyond a limit.
    TooLong,
    /// It names too many addresses.
    TooManyAddresses,
    /// It names too many domains.
    TooManyDomains,
    /// It does not follow the grammar.
    Syntax,
    /// It names a domain that cannot be.
    Domain,
}

impl BadFrom {
    /// Nothing is there to be judged, rather than something that cannot be: RFC 7489 §11.2.
    #[must_use]
    pub const fn is_absence(self) -> bool {
        matches!(self, Self::Missing | Self::Nobody)
    }
}

impl fmt::Display for BadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no From field"),
            Self::Nobody => f.write_str("the From field names nobody who has a domain"),
            Self::Several => f.write_str("there are several From fields"),
            Self::TooLong => write!(f, "the From field has over {FROM_BYTES_MAX} bytes"),
            Self::TooManyAddresses => {
                write!(f, "the From field names over {ADDRESSES_MAX} addresses")
            }
            Self::TooManyDomains => write!(f, "the From field names over {DOMAINS_MAX} domains"),
            Self::Syntax => f.write_str("the From field does not follow RFC 5322"),
            Self::Domain => f.write_str("the From field names a domain that cannot be"),
        }
    }
}

impl core::error::Error for BadFrom {}

/// The domains of the authors, as they are looked up, each once.
///
/// # Errors
/// Why nobody can say.
pub fn authors(fields: &[Field<'_>]) -> Result<Vec<String>, BadFrom> {
    let mut found = fields.iter().filter(|field| field.is("from"));
    let field = found.next().ok_or(BadFrom::Missing)?;
    // RFC 5322 §3.6: exactly one.
    if found.next().is_some() {
        return Err(BadFrom::Several);
    }
    if field.value().len() > FROM_BYTES_MAX {
        return Err(BadFrom::TooLong);
    }
    // Nothing of that kind belongs there, and some programs read past it (RFC 5322 §2.2).
    if field.value().iter().any(|&byte| byte.is_ascii_control() && !is_blank(byte)) {
        return Err(BadFrom::Syntax);
    }
    let mut list = List::new(field.value());
    let domains = match list.read() {
        Ok(()) => list.domains,
        Err(BadFrom::Syntax | BadFrom::Domain) => seen::domains(field.value())?,
        Err(bad) => return Err(bad),
    };
    if domains.is_empty() { Err(BadFrom::Nobody) } else { Ok(domains) }
}

/// A domain as the DNS has it, in lower case; none when no name can be like that. U-labels become
/// A-labels: RFC 9989 §5.3.1.
#[must_use]
pub fn canonical(domain: &str) -> Option<String> {
    let lower = domain.to_ascii_lowercase();
    // An A-label that is none would be shown as something else.
    let name = if lower.is_ascii() && !lower.split('.').any(|label| label.starts_with("xn--")) {
        lower
    } else {
        // RFC 5890 §2.3.2.1
        idna::domain_to_ascii(&lower).ok()?
    };
    // RFC 5321 §2.3.5; the underscore is used, and harmless. Whatever else a letter was mapped to
    // would be read in another way by somebody.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let question = Question::new(&name, Kind::Txt).ok().filter(|_| name.bytes().all(plain))?;
    Some(question.name().to_owned())
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the white space in front.
fn blank(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| !is_blank(byte)).unwrap_or(bytes.len());
    bytes.get(end..).unwrap_or_default()
}

/// What stands behind an address of a host, which begins with `[`: RFC 5321 §4.1.3.
fn literal(bytes: &[u8]) -> Result<&[u8], BadFrom> {
    let end = bytes.iter().position(|&byte| byte == b']').ok_or(BadFrom::Syntax)?;
    let (within, rest) = bytes.split_at(end);
    let within = core::str::from_utf8(within.get(1..).unwrap_or_default());
    let within = within.map_err(|_| BadFrom::Syntax)?.trim_matches([' ', '\t', '\r', '\n']);
    let is_address = match within.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            within.get(5..).is_some_and(|rest| rest.parse::<Ipv6Addr>().is_ok())
        }
        _ => within.parse::<Ipv4Addr>().is_ok(),
    };
    if is_address { Ok(rest.get(1..).unwrap_or_default()) } else { Err(BadFrom::Syntax) }
}

/// A list of addresses that is being read.
struct List<'f> {
    rest: &'f [u8],
    count: usize,
    domains: Vec<String>,
}

/// One word of a name or of a local part.
enum Word {
    Atom,
    Quoted,
}

impl<'f> List<'f> {
    const fn new(rest: &'f [u8]) -> Self {
        Self { rest, count: 0, domains: Vec::new() }
    }

    /// Addresses and groups with commas between them: RFC 5322 §3.4.
    fn read(&mut self) -> Result<(), BadFrom> {
        loop {
            self.address(true)?;
            match self.next()? {
                None => return Ok(()),
                Some(b',') => self.drop(),
                Some(_) => return Err(BadFrom::Syntax),
            }
        }
    }

    /// One address; or a group of them, where there may be one.
    fn address(&mut self, or_group: bool) -> Result<(), BadFrom> {
        let mut words = Vec::new();
        loop {
            match self.next()? {
                Some(b'"') => {
                    self.quoted()?;
                    words.push(Word::Quoted);
                }
                Some(byte) if is_atom(byte) => {
                    while self.rest.first().is_some_and(|&byte| is_atom(byte)) {
                        self.drop();
                    }
                    words.push(Word::Atom);
                }
                Some(b'<') => {
                    self.drop();
                    return self.bracketed();
                }
                // A bare address: what stands before is its local part.
                Some(b'@') if words.len() == 1 => return self.domain(),
                Some(b':') if or_group && !words.is_empty() => {
                    self.drop();
                    return self.group();
                }
                _ => return Err(BadFrom::Syntax),
            }
        }
    }

    /// What follows the name of a group: RFC 6854 §2.1 allows one here.
    fn group(&mut self) -> Result<(), BadFrom> {
        if self.next()? == Some(b';') {
            self.drop();
            return Ok(());
        }
        loop {
            self.address(false)?;
            let end = self.next()?;
            self.drop();
            match end {
                Some(b',') => {}
                Some(b';') => return Ok(()),
                _ => return Err(BadFrom::Syntax),
            }
        }
    }

    /// An address behind its opening bracket.
    fn bracketed(&mut self) -> Result<(), BadFrom> {
        match self.next()? {
            Some(b'"') => self.quoted()?,
            Some(byte) if is_atom(byte) => {
                while self.rest.first().is_some_and(|&byte| is_atom(byte)) {
                    self.drop();
                }
            }
            _ => return Err(BadFrom::Syntax),
        }
        if self.next()? != Some(b'@') {
            return Err(BadFrom::Syntax);
        }
        self.domain()?;
        if self.next()? != Some(b'>') {
            return Err(BadFrom::Syntax);
        }
        self.drop();
        Ok(())
    }

    /// A domain with the `@` before it.
    fn domain(&mut self) -> Result<(), BadFrom> {
        self.drop();
        self.one_more()?;
        if self.next()? == Some(b'[') {
            // It has no records to look for.
            self.rest = literal(self.rest)?;
            return Ok(());
        }
        let end = self.rest.iter().position(|&byte| !is_atom(byte)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let name = core::str::from_utf8(name).map_err(|_| BadFrom::Syntax)?;
        // RFC 5322 §3.2.3: dots between atoms only.
        if name.split('.').any(str::is_empty) {
            return Err(BadFrom::Syntax);
        }
        self.put(canonical(name).ok_or(BadFrom::Domain)?)
    }

    /// Counts an address.
    const fn one_more(&mut self) -> Result<(), BadFrom> {
        self.count += 1;
        if self.count > ADDRESSES_MAX { Err(BadFrom::TooManyAddresses) } else { Ok(()) }
    }

    fn put(&mut self, domain: String) -> Result<(), BadFrom> {
        if !self.domains.contains(&domain) {
            if self.domains.len() == DOMAINS_MAX {
                return Err(BadFrom::TooManyDomains);
            }
            self.domains.push(domain);
        }
        Ok(())
    }

    /// A quoted string: RFC 5322 §3.2.4.
    fn quoted(&mut self) -> Result<(), BadFrom> {
        self.drop();
        loop {
            match self.take()? {
                b'"' => return Ok(()),
                b'\\' => _ = self.take()?,
                _ => {}
            }
        }
    }

    /// The next byte that counts, past white space and comments: RFC 5322 §3.2.2.
    fn next(&mut self) -> Result<Option<u8>, BadFrom> {
        let mut depth = 0_u32;
        while let Some(&byte) = self.rest.first() {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.drop();
                    if self.rest.is_empty() {
                        return Err(BadFrom::Syntax);
                    }
                }
                // A field comes with its folds.
                b' ' | b'\t' | b'\r' | b'\n' => {}
                0 => return Err(BadFrom::Syntax),
                _ if depth > 0 => {}
                _ => return Ok(Some(byte)),
            }
            self.drop();
        }
        if depth == 0 { Ok(None) } else { Err(BadFrom::Syntax) }
    }

    fn take(&mut self) -> Result<u8, BadFrom> {
        let byte = *self.rest.first().ok_or(BadFrom::Syntax)?;
        self.drop();
        if byte == 0 { Err(BadFrom::Syntax) } else { Ok(byte) }
    }

    /// Passes over a byte.
    fn drop(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }
}

/// RFC 5322 §3.2.3 with the dot, and what is no ASCII: RFC 6532 §3.2.
const fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+')
        || matches!(byte, b'-'..=b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~')
}

#[cfg(test)]
mod tests;
