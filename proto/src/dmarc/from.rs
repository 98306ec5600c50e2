//! The domains of a message's authors: RFC 9989 §5.3.1, RFC 7489 §6.6.1.
//!
//! Called with the fields of a message before it is judged. Reads the From field by the grammar of
//! RFC 5322 §3.4, with groups (RFC 6854 §2.1) and UTF-8 (RFC 6532 §3.2), and of its obsolete forms
//! the bare dot in names only. A field that does not follow that, as those of many programs do not
//! (`a@d.example <a@d.example>`), may be understood by two readers in two ways: then every domain
//! that one of them could see is an author's, and has to be proved. Limits: [`FROM_BYTES_MAX`],
//! [`ADDRESSES_MAX`], [`DOMAINS_MAX`]. Whatever else is there is [`BadFrom`].

use core::fmt;

use memchr::memchr;

use crate::dkim::header::Field;
use crate::dns::{Kind, Question};

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
    let mut list = List { rest: field.value(), count: 0, domains: Vec::new() };
    match list.read() {
        Err(BadFrom::Syntax) => list = seen(field.value())?,
        read => read?,
    }
    if list.domains.is_empty() { Err(BadFrom::Nobody) } else { Ok(list.domains) }
}

/// A domain as the DNS has it, in lower case; none when no name can be like that. U-labels become
/// A-labels: RFC 9989 §5.3.1.
#[must_use]
pub fn canonical(domain: &str) -> Option<String> {
    let name = if domain.is_ascii() {
        domain.to_ascii_lowercase()
    } else {
        // RFC 5890 §2.3.2.1
        idna::domain_to_ascii(domain).ok()?
    };
    // RFC 5321 §2.3.5; the underscore is used, and harmless. Whatever else a letter was mapped to
    // would be read in another way by somebody.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let question = Question::new(&name, Kind::Txt).ok().filter(|_| name.bytes().all(plain))?;
    Some(question.name().to_owned())
}

/// Every domain that a reader could see in a field that does not follow the grammar: what stands
/// behind an `@`, in quotes and comments, too.
fn seen(value: &[u8]) -> Result<List<'_>, BadFrom> {
    let mut list = List { rest: value, count: 0, domains: Vec::new() };
    while let Some(at) = memchr(b'@', list.rest) {
        list.rest = list.rest.get(at + 1..).unwrap_or_default();
        list.one_more()?;
        let front = blank(list.rest);
        let end = front.iter().position(|&byte| !is_of_name(byte)).unwrap_or(front.len());
        let (name, behind) = front.split_at(end);
        // What is a comment to one reader is none to another, who would go on with the name.
        let goes_on = match blank(behind).first() {
            Some(b'(' | b'\\' | b'.') => true,
            Some(b'"') => name.is_empty(),
            _ => name.ends_with(b"."),
        };
        if goes_on {
            return Err(BadFrom::Syntax);
        }
        if name.is_empty() {
            continue;
        }
        let name = core::str::from_utf8(name).map_err(|_| BadFrom::Syntax)?;
        let domain = canonical(name).ok_or(BadFrom::Domain)?;
        // Without a dot nobody takes it for a domain, and no policy is for it.
        if domain.contains('.') {
            list.put(domain)?;
        }
    }
    // Else nobody would be the author whom somebody may see.
    if list.domains.is_empty() { Err(BadFrom::Syntax) } else { Ok(list) }
}

/// Without the white space in front.
fn blank(bytes: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let end = bytes.iter().position(|byte| !is_blank(byte)).unwrap_or(bytes.len());
    bytes.get(end..).unwrap_or_default()
}

/// What a domain is made of; dots of other scripts are among what is no ASCII.
const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'-' | b'.' | b'_')
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

impl List<'_> {
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
            // An address of a host has no records to look for.
            let end = self.rest.iter().position(|&byte| byte == b']').ok_or(BadFrom::Syntax)?;
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
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
mod tests {
    use super::*;
    use crate::dkim::header::fields;
    use proptest::prelude::*;

    fn of(header: &[u8]) -> Result<Vec<String>, BadFrom> {
        authors(&fields(header).unwrap())
    }

    fn from(value: &str) -> Result<String, BadFrom> {
        of(format!("From: {value}\r\nTo: x@y.example\r\n").as_bytes()).map(|all| all.join(" "))
    }

    #[test]
    fn one_author_has_one_domain() {
        for value in [
            "a@d.example",
            "<a@d.example>",
            " A B <a@D.Example> ",
            "\"B, A <x@y.example>\" <a@d.example>",
            "\"quote \\\" <b@e.example>\" <a@d.example>",
            "J. Q. Public <a@d.example>",
            "=?utf-8?Q?x=40y=2Eexample?= <a@d.example>",
            "(b@e.example (nested \\) <c@f.example>)) a@d.example (more)",
            "a (x) @ (y) d.example (z)",
            "Name <\"odd @ part\"@d.example>",
            "Name\r\n\t<a@d.example>",
            "\"folded\r\n name\" <a@d.example>",
            "Fran\u{e7}ois <fran\u{e7}ois@d.example>",
            "a@d.example, B <b@D.EXAMPLE>",
            "team: a@d.example, b@d.example;",
            "a@[192.0.2.1], b@d.example",
            "a..b.@d.example",
        ] {
            assert_eq!(from(value), Ok("d.example".to_owned()), "{value}");
        }
    }

    #[test]
    fn several_authors_have_several_domains() {
        assert_eq!(from("a@d.example, b@e.example"), Ok("d.example e.example".to_owned()));
        assert_eq!(from("g: a@d.example; , b@e.example"), Ok("d.example e.example".to_owned()));
    }

    #[test]
    fn names_beyond_ascii_are_looked_up_by_their_a_labels() {
        assert_eq!(from("a@b\u{fc}cher.example"), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(from("a@B\u{dc}CHER.example"), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(from("a@XN--bcher-kva.example"), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(from("a@d\u{3002}example"), Ok("d.example".to_owned()));
        for bad in
            ["a@\u{202e}d.example", "a@x\u{ff20}d.example", "a@\u{ff0f}.example", "a@*.example"]
        {
            assert_eq!(from(bad), Err(BadFrom::Domain), "{bad}");
        }
    }

    #[test]
    fn of_what_can_be_read_in_several_ways_every_domain_is_an_author() {
        for (value, domains) in [
            ("a@d.example <A@D.example>", "d.example"),
            ("a@d.example <b@e.example>", "d.example e.example"),
            ("<a@d.example> <b@e.example>", "d.example e.example"),
            ("\"B, a@f.example\" <a@d.example> x", "f.example d.example"),
            ("(b@f.example) <a@d.example> x", "f.example d.example"),
            ("\"(\" a@d.example b@e.example", "d.example e.example"),
            ("a@d.example b@e.example", "d.example e.example"),
            ("a@d.example,", "d.example"),
            (", a@d.example", "d.example"),
            ("a@d.example,,b@e.example", "d.example e.example"),
            ("Doe, Jane <a@d.example>", "d.example"),
            ("Jane [x] <a@d.example>", "d.example"),
            ("<a@d.example", "d.example"),
            ("a@d.example>", "d.example"),
            ("@d.example", "d.example"),
            ("<@x.example:a@d.example>", "x.example d.example"),
            ("\"a\" b@d.example", "d.example"),
            ("\"a@d.example", "d.example"),
            ("(a@d.example", "d.example"),
            ("a) b@d.example", "d.example"),
            ("g: a@d.example", "d.example"),
            ("g: h: a@d.example;;", "d.example"),
            ("a@[192.0.2.1 <b@d.example>", "d.example"),
            ("a\0@d.example", "d.example"),
            ("50 @ 7 <a@d.example> x", "d.example"),
            ("x a@d\u{3002}example", "d.example"),
            ("a@@d.example@e.example", "d.example e.example"),
        ] {
            assert_eq!(from(value), Ok(domains.to_owned()), "{value}");
        }
        let five = "x a@a.b, a@b.b, a@c.b, a@d.b, a@e.b";
        assert_eq!(from(five), Err(BadFrom::TooManyDomains));
        let many = format!("x {}", "a@d.example ".repeat(ADDRESSES_MAX + 1));
        assert_eq!(from(&many), Err(BadFrom::TooManyAddresses));
        assert_eq!(from("x a@d.example, b@\u{202e}e.example"), Err(BadFrom::Domain));
        assert_eq!(of(b"From: \xff\xfe <a@d.example>\r\n"), Ok(vec!["d.example".to_owned()]));
    }

    #[test]
    fn what_hides_a_domain_is_not_read() {
        for value in [
            "<>",
            "a",
            "a@",
            "x a@example",
            "a@d.example.",
            "a@d. example",
            "a@d .example",
            "a@e.example b@d.(x)example",
            "a@e.example b@d(x).example",
            "a@e.example b@(x)d.example",
            "a@e.example b@d\\.example",
            "a@e.example b@\"d.example\"",
            "a@[192.0.2.1",
            "a@d.example (\\",
            "a;b",
            "",
        ] {
            assert_eq!(from(value), Err(BadFrom::Syntax), "{value}");
        }
        for value in ["a@.d.example x", "x a@d..example"] {
            assert_eq!(from(value), Err(BadFrom::Domain), "{value}");
        }
        assert_eq!(of(b"From: a@\xff.example\r\n"), Err(BadFrom::Syntax));
    }

    #[test]
    fn there_must_be_one_field_with_somebody_in_it() {
        assert_eq!(of(b"To: a@d.example\r\n"), Err(BadFrom::Missing));
        let twice = b"From: a@d.example\r\nSubject: x\r\nfrom : a@d.example\r\n";
        assert_eq!(of(twice), Err(BadFrom::Several));
        assert_eq!(from("nobody:;"), Err(BadFrom::Nobody));
        assert_eq!(from("a@[IPv6:2001:db8::1]"), Err(BadFrom::Nobody));
        for bad in [BadFrom::Missing, BadFrom::Nobody] {
            assert!(bad.is_absence());
        }
        assert!(!BadFrom::Several.is_absence() && !BadFrom::Syntax.is_absence());
    }

    #[test]
    fn limits_are_kept() {
        let many = |count: usize, domains: usize| {
            let one = |n: usize| format!("a@d{}.example", n % domains);
            from(&(0..count).map(one).collect::<Vec<_>>().join(", "))
        };
        assert!(many(ADDRESSES_MAX, DOMAINS_MAX).is_ok());
        assert_eq!(many(ADDRESSES_MAX + 1, 1), Err(BadFrom::TooManyAddresses));
        assert_eq!(many(DOMAINS_MAX + 1, DOMAINS_MAX + 1), Err(BadFrom::TooManyDomains));
        let long = |bytes: usize| from(&format!("{:bytes$}", "a@d.example"));
        // The space behind the colon counts.
        assert_eq!(long(FROM_BYTES_MAX - 1), Ok("d.example".to_owned()));
        assert_eq!(long(FROM_BYTES_MAX), Err(BadFrom::TooLong));
        let label = "a".repeat(63);
        assert_eq!(from(&format!("a@{label}a.example")), Err(BadFrom::Domain));
        assert_eq!(from(&format!("a@{}", [&*label; 4].join("."))), Err(BadFrom::Domain));
    }

    proptest! {
        #[test]
        fn whatever_is_read_can_be_asked_for(value in "[ab.@<>,;:\"() \\\\\u{fc}\\[\\]]{0,20}") {
            if let Ok(all) = of(format!("From: {value}\r\n").as_bytes()) {
                prop_assert!((1..=DOMAINS_MAX).contains(&all.len()));
                for domain in all {
                    prop_assert_eq!(canonical(&domain), Some(domain));
                }
            }
        }
    }
}
