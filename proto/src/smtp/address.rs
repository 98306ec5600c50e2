//! Paths, mailboxes and domains of RFC 5321 §4.1.2, with the UTF-8 of RFC 6531 §3.3.
//!
//! The SMTP session parses arguments with [`parse_path`] and [`Domain::parse`]; others parse the
//! addresses of accounts with [`Mailbox::parse`]. What is parsed borrows the text and holds no
//! control characters, no spaces outside quotes, and keeps to the lengths of RFC 5321 §4.5.3.1,
//! so it can be echoed in a reply. Nothing allocates but [`LocalPart::unquoted`], and that only
//! for a backslash.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use std::borrow::Cow;

use crate::wire::token::{is_keyword, is_visible};

/// RFC 5321 §4.5.3.1.1.
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// RFC 5321 §4.5.3.1.2.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// RFC 5321 §4.5.3.1.3: with the angle brackets and a source route, if there is one.
pub const PATH_BYTES_MAX: usize = 256;
/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// Why a text is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressError {
    /// It does not follow the grammar.
    Syntax,
    /// A part of it is longer than RFC 5321 §4.5.3.1 allows.
    TooLong,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "the address does not follow RFC 5321",
            Self::TooLong => "the address or a part of it is too long",
        })
    }
}

impl core::error::Error for AddressError {}

/// What stands between the angle brackets of MAIL or RCPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path<'b> {
    /// `<>`, the reverse path of reports (RFC 5321 §4.5.5).
    Null,
    /// `<postmaster>` without a domain, in any case (RFC 5321 §4.1.1.3).
    Postmaster(&'b str),
    /// A mailbox; a source route before it was checked and dropped (RFC 5321 appendix C).
    Mailbox(Mailbox<'b>),
}

impl<'b> Path<'b> {
    /// The address as text, without brackets; empty for the null path.
    #[must_use]
    pub const fn text(&self) -> &'b str {
        match self {
            Self::Null => "",
            Self::Postmaster(text) => text,
            Self::Mailbox(mailbox) => mailbox.text,
        }
    }

    /// Whether it needs SMTPUTF8.
    #[must_use]
    pub const fn is_internationalized(&self) -> bool {
        !self.text().is_ascii()
    }
}

/// `local-part@domain`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mailbox<'b> {
    text: &'b str,
    local_part_bytes: usize,
    domain: Domain<'b>,
}

impl<'b> Mailbox<'b> {
    /// Parses a whole text, without angle brackets. UTF-8 is allowed.
    ///
    /// # Errors
    ///
    /// Anything that RFC 5321 §4.1.2 and RFC 6531 §3.3 do not call a mailbox.
    pub fn parse(text: &'b str) -> Result<Self, AddressError> {
        let (mailbox, rest) = take_mailbox(text)?;
        if rest.is_empty() { Ok(mailbox) } else { Err(AddressError::Syntax) }
    }

    /// The address as it was written.
    #[must_use]
    pub const fn text(&self) -> &'b str {
        self.text
    }

    /// What stands before the `@`.
    #[must_use]
    pub fn local_part(&self) -> LocalPart<'b> {
        LocalPart { text: self.text.get(..self.local_part_bytes).unwrap_or_default() }
    }

    /// What stands after the `@`.
    #[must_use]
    pub const fn domain(&self) -> Domain<'b> {
        self.domain
    }
}

/// A local part, as a dot-string or a quoted string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPart<'b> {
    text: &'b str,
}

impl<'b> LocalPart<'b> {
    /// As it was written, with the quotes if there were any.
    #[must_use]
    pub const fn text(&self) -> &'b str {
        self.text
    }

    /// What it means: `"a.b"` and `a.b` are the same mailbox (RFC 5321 §4.1.2).
    #[must_use]
    pub fn unquoted(&self) -> Cow<'b, str> {
        let Some(inner) = self.text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
            return Cow::Borrowed(self.text);
        };
        if !inner.contains('\\') {
            return Cow::Borrowed(inner);
        }
        let mut plain = String::with_capacity(inner.len());
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
        }
        Cow::Owned(plain)
    }
}

/// A domain name or an address literal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain<'b> {
    /// A name, with U-labels if it is internationalized; compare it without regard to case.
    Name(&'b str),
    /// `[192.0.2.1]`
    V4(Ipv4Addr),
    /// `[IPv6:2001:db8::1]`
    V6(Ipv6Addr),
    /// `[tag:content]` with a tag that we do not know (RFC 5321 §4.1.3).
    General {
        /// Before the colon.
        tag: &'b str,
        /// After the colon, printable and without brackets.
        content: &'b str,
    },
}

impl<'b> Domain<'b> {
    /// Parses a whole text, in brackets if it is a literal.
    ///
    /// # Errors
    ///
    /// Anything that RFC 5321 §4.1.2 and RFC 6531 §3.3 do not call a domain or address literal.
    pub fn parse(text: &'b str) -> Result<Self, AddressError> {
        let (domain, rest) = take_domain(text)?;
        if rest.is_empty() { Ok(domain) } else { Err(AddressError::Syntax) }
    }
}

/// Parses what follows `MAIL FROM:` or `RCPT TO:` and returns what stands behind it: nothing, or
/// parameters that begin with a space.
///
/// Spaces before the path and a path without its brackets are taken as well, as the seeds and
/// many people type them; a mailbox holds no bare space, so nothing becomes ambiguous by it.
///
/// # Errors
///
/// A path that does not follow the grammar or is too long.
pub fn parse_path(argument: &str) -> Result<(Path<'_>, &str), AddressError> {
    let text = argument.trim_start_matches(' ');
    let (path, rest, path_bytes) = if let Some(inner) = text.strip_prefix('<') {
        let (path, rest) = take_bracketed(inner)?;
        (path, rest, text.len() - rest.len())
    } else {
        let (path, rest) = take_path(text)?;
        (path, rest, text.len() - rest.len() + 2)
    };
    if path_bytes > PATH_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    if rest.is_empty() || rest.starts_with(' ') {
        Ok((path, rest))
    } else {
        Err(AddressError::Syntax)
    }
}

/// A path behind its opening bracket, up to and with the closing one.
fn take_bracketed(inner: &str) -> Result<(Path<'_>, &str), AddressError> {
    if let Some(rest) = inner.strip_prefix('>') {
        return Ok((Path::Null, rest));
    }
    let (path, rest) = take_path(skip_source_route(inner)?)?;
    Ok((path, rest.strip_prefix('>').ok_or(AddressError::Syntax)?))
}

/// RFC 5321 §4.1.2, appendix C: `@a,@b:` before a mailbox must be accepted and should be ignored.
fn skip_source_route(inner: &str) -> Result<&str, AddressError> {
    let mut text = inner;
    while let Some(hop) = text.strip_prefix('@') {
        let (_, rest) = take_domain(hop)?;
        if let Some(mailbox) = rest.strip_prefix(':') {
            return Ok(mailbox);
        }
        text = rest.strip_prefix(',').ok_or(AddressError::Syntax)?;
    }
    if text.len() == inner.len() { Ok(inner) } else { Err(AddressError::Syntax) }
}

fn take_path(text: &str) -> Result<(Path<'_>, &str), AddressError> {
    const POSTMASTER: &str = "postmaster";
    if let Some((word, rest)) = text.split_at_checked(POSTMASTER.len())
        && word.eq_ignore_ascii_case(POSTMASTER)
        && (rest.is_empty() || rest.starts_with(['>', ' ']))
    {
        return Ok((Path::Postmaster(word), rest));
    }
    let (mailbox, rest) = take_mailbox(text)?;
    Ok((Path::Mailbox(mailbox), rest))
}

fn take_mailbox(text: &str) -> Result<(Mailbox<'_>, &str), AddressError> {
    let local_part_bytes = local_part_bytes(text)?;
    let rest = text.get(local_part_bytes..).unwrap_or_default();
    let rest = rest.strip_prefix('@').ok_or(AddressError::Syntax)?;
    let (domain, rest) = take_domain(rest)?;
    let text = text.get(..text.len() - rest.len()).unwrap_or_default();
    Ok((Mailbox { text, local_part_bytes, domain }, rest))
}

/// The length of the local part at the front of `text`.
fn local_part_bytes(text: &str) -> Result<usize, AddressError> {
    let bytes = text.as_bytes();
    let len = if bytes.first() == Some(&b'"') {
        quoted_string_bytes(bytes)?
    } else {
        dot_string_bytes(bytes)?
    };
    if len > LOCAL_PART_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    visible(text.get(..len).unwrap_or_default())?;
    Ok(len)
}

/// RFC 5321 §4.1.2: atoms with single dots between them.
fn dot_string_bytes(bytes: &[u8]) -> Result<usize, AddressError> {
    // As if a dot stood before: so neither the first byte nor one after a dot may be a dot.
    let mut after_dot = true;
    let mut len = 0;
    for byte in bytes {
        match class(*byte) {
            Class::LetterOrDigit | Class::Hyphen | Class::Atext | Class::NonAscii => {
                after_dot = false;
            }
            Class::Dot if !after_dot => after_dot = true,
            Class::Dot => return Err(AddressError::Syntax),
            Class::Other => break,
        }
        len += 1;
    }
    if after_dot { Err(AddressError::Syntax) } else { Ok(len) }
}

/// RFC 5321 §4.1.2: printable characters in quotes, a backslash before any of them.
fn quoted_string_bytes(bytes: &[u8]) -> Result<usize, AddressError> {
    let mut quoted = bytes.iter().enumerate().skip(1);
    while let Some((at, byte)) = quoted.next() {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if quoted.next().is_some_and(|(_, b)| matches!(b, b' '..=b'~')) => {}
            b'\\' => break,
            b' '..=b'~' | 0x80.. => {}
            _ => break,
        }
    }
    Err(AddressError::Syntax)
}

/// What a byte can be in a name; the parsers look each byte up once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    LetterOrDigit,
    Hyphen,
    Dot,
    /// What else RFC 5322 §3.2.3 allows in an atom.
    Atext,
    /// A part of a character that is not ASCII (RFC 6531 §3.3).
    NonAscii,
    Other,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => Class::LetterOrDigit,
            b'-' => Class::Hyphen,
            b'.' => Class::Dot,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~' => {
                Class::Atext
            }
            0x80.. => Class::NonAscii,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Other)
}

/// UTF-8 may bring controls (U+0085) and spaces (U+2028) that would act on who reads a reply.
fn visible(text: &str) -> Result<(), AddressError> {
    if text.is_ascii() || text.chars().all(is_visible) { Ok(()) } else { Err(AddressError::Syntax) }
}

fn take_domain(text: &str) -> Result<(Domain<'_>, &str), AddressError> {
    if let Some(literal) = text.strip_prefix('[') {
        let (content, rest) = literal.split_once(']').ok_or(AddressError::Syntax)?;
        if content.len() + 2 > DOMAIN_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        return Ok((literal_domain(content)?, rest));
    }
    let (name, rest) =
        text.split_at_checked(name_bytes(text.as_bytes())?).ok_or(AddressError::Syntax)?;
    if name.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    visible(name)?;
    Ok((Domain::Name(name), rest))
}

/// RFC 5321 §4.1.2: labels of letters, digits and inner hyphens with dots between them.
fn name_bytes(bytes: &[u8]) -> Result<usize, AddressError> {
    let mut len = 0;
    let mut label_bytes = 0;
    let mut label_bytes_max = 0;
    let mut before = Class::Dot;
    for byte in bytes {
        let class = class(*byte);
        match class {
            Class::LetterOrDigit | Class::NonAscii => label_bytes += 1,
            Class::Hyphen if label_bytes > 0 => label_bytes += 1,
            Class::Dot if !matches!(before, Class::Dot | Class::Hyphen) => {
                label_bytes_max = label_bytes_max.max(label_bytes);
                label_bytes = 0;
            }
            Class::Dot | Class::Hyphen => return Err(AddressError::Syntax),
            Class::Atext | Class::Other => break,
        }
        before = class;
        len += 1;
    }
    if matches!(before, Class::Dot | Class::Hyphen) {
        return Err(AddressError::Syntax);
    }
    let too_long = label_bytes_max.max(label_bytes) > LABEL_BYTES_MAX;
    if too_long { Err(AddressError::TooLong) } else { Ok(len) }
}

/// RFC 5321 §4.1.3.
fn literal_domain(whole: &str) -> Result<Domain<'_>, AddressError> {
    const V6_TAG: &str = "IPv6";
    let Some((tag, content)) = whole.split_once(':') else {
        return whole.parse().map(Domain::V4).map_err(|_| AddressError::Syntax);
    };
    if tag.eq_ignore_ascii_case(V6_TAG) {
        return content.parse().map(Domain::V6).map_err(|_| AddressError::Syntax);
    }
    let printable = |b: u8| matches!(b, b'!'..=b'Z' | b'^'..=b'~');
    // An IPv6 address whose tag was forgotten is a mistake, not a tag that we do not know.
    let tag_is_valid =
        is_keyword(tag.as_bytes()) && !tag.ends_with('-') && whole.parse::<Ipv6Addr>().is_err();
    if tag_is_valid && !content.is_empty() && content.bytes().all(printable) {
        Ok(Domain::General { tag, content })
    } else {
        Err(AddressError::Syntax)
    }
}

#[cfg(test)]
mod tests;
