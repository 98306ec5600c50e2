//! Macros in policies and explanations: RFC 7208 §7.
//!
//! A [`Template`] is read once, its grammar checked, and expanded for a client. Limits: a name that
//! comes out longer than [`DOMAIN_BYTES_MAX`] loses labels in front (RFC 7208 §7.3).

use core::fmt::Write as _;
use core::net::IpAddr;

use super::record::is_top_label;

/// The longest name, without the final dot: RFC 7208 §7.3.
pub const DOMAIN_BYTES_MAX: usize = 253;

/// What a macro stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Letter {
    /// `s`: the sender.
    Sender,
    /// `l`: the sender's local part.
    Local,
    /// `o`: the sender's domain.
    SenderDomain,
    /// `d`: the domain that is asked.
    Domain,
    /// `i`: the client's address, its parts separated by dots.
    Ip,
    /// `p`: the client's name, if it is its own.
    Name,
    /// `v`: `in-addr` or `ip6`.
    Version,
    /// `h`: what the client says that it is called.
    Helo,
    /// `c`: the client's address, for people.
    Readable,
    /// `r`: the name of this host.
    Receiver,
    /// `t`: the time, in seconds since 1970.
    Time,
}

impl Letter {
    const fn of(letter: u8) -> Option<Self> {
        Some(match letter.to_ascii_lowercase() {
            b's' => Self::Sender,
            b'l' => Self::Local,
            b'o' => Self::SenderDomain,
            b'd' => Self::Domain,
            b'i' => Self::Ip,
            b'p' => Self::Name,
            b'v' => Self::Version,
            b'h' => Self::Helo,
            b'c' => Self::Readable,
            b'r' => Self::Receiver,
            b't' => Self::Time,
            _ => return None,
        })
    }

    /// Whether it is for explanations only: RFC 7208 §7.2.
    const fn explains(self) -> bool {
        matches!(self, Self::Readable | Self::Receiver | Self::Time)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Macro {
        letter: Letter,
        /// Parts that stay, from the right; 0: all.
        keep: usize,
        reverse: bool,
        delimiters: String,
        /// Written as in a URL.
        escaped: bool,
    },
}

/// A text with macros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads a `macro-string`, in which spaces are none: the value of a modifier.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it holds what is no visible ASCII");
        }
        Self::read(text, false)
    }

    /// Reads an explanation (`explain-string`): RFC 7208 §6.2.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn explanation(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err("it holds what is no visible ASCII");
        }
        Self::read(text, true)
    }

    /// Reads a `domain-spec`: RFC 7208 §7.1.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn domain(text: &str) -> Result<Self, &'static str> {
        let template = Self::parse(text)?;
        let ends_well = match template.0.last() {
            None => return Err("it needs a domain"),
            Some(Piece::Macro { .. }) => true,
            Some(Piece::Text(_)) if text.ends_with("%%") || text.ends_with("%_") => false,
            Some(Piece::Text(end)) => {
                let end = end.strip_suffix('.').unwrap_or(end);
                end.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
            }
        };
        if ends_well { Ok(template) } else { Err("a domain does not end so") }
    }

    fn read(text: &str, explains: bool) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('%') {
            plain.push_str(before);
            let Some((sign, behind)) = behind.split_at_checked(1) else {
                return Err("a % stands alone");
            };
            rest = behind;
            match sign {
                "%" => plain.push('%'),
                "_" => plain.push(' '),
                "-" => plain.push_str("%20"),
                "{" => {
                    let (inner, behind) = rest.split_once('}').ok_or("a macro has no end")?;
                    rest = behind;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(core::mem::take(&mut plain)));
                    }
                    pieces.push(piece(inner, explains)?);
                }
                _ => return Err("a % stands alone"),
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Whether the client's own name is in it: it takes lookups.
    #[must_use]
    pub fn needs_name(&self) -> bool {
        let needs = |piece: &Piece| matches!(piece, Piece::Macro { letter: Letter::Name, .. });
        self.0.iter().any(needs)
    }

    /// The text for a client; `value` gives what a letter stands for.
    #[must_use]
    pub fn expand(&self, value: impl Fn(Letter) -> String) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Macro { letter, keep, reverse, delimiters, escaped } => {
                    let value = transformed(&value(*letter), *keep, *reverse, delimiters);
                    if *escaped {
                        escape(&value, &mut out);
                    } else {
                        out.push_str(&value);
                    }
                }
            }
        }
        out
    }

    /// The name for a client.
    #[must_use]
    pub fn expand_domain(&self, value: impl Fn(Letter) -> String) -> String {
        let name = self.expand(value);
        let mut name = name.strip_suffix('.').unwrap_or(&name);
        // RFC 7208 §7.3
        while name.len() > DOMAIN_BYTES_MAX {
            let Some((_, shorter)) = name.split_once('.') else { break };
            name = shorter;
        }
        name.to_owned()
    }
}

/// `letter *DIGIT ["r"] *delimiter`
fn piece(inner: &str, explains: bool) -> Result<Piece, &'static str> {
    let (first, rest) = inner.split_at_checked(1).ok_or("a macro is empty")?;
    let letter = first.bytes().next().and_then(Letter::of).ok_or("there is no such macro")?;
    if letter.explains() && !explains {
        return Err("this macro is for explanations only");
    }
    let escaped = first.bytes().all(|byte| byte.is_ascii_uppercase());
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    let keep = match digits {
        "" => 0,
        // More parts than anything has.
        digits => digits.parse().unwrap_or(usize::MAX),
    };
    if !digits.is_empty() && keep == 0 {
        return Err("a macro keeps no part");
    }
    let (reverse, rest) = match rest.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if !rest.chars().all(|c| ".-+,/_=".contains(c)) {
        return Err("a macro has an unknown delimiter");
    }
    let delimiters = if rest.is_empty() { ".".to_owned() } else { rest.to_owned() };
    Ok(Piece::Macro { letter, keep, reverse, delimiters, escaped })
}

fn transformed(value: &str, keep: usize, reverse: bool, delimiters: &str) -> String {
    if keep == 0 && !reverse && delimiters == "." {
        return value.to_owned();
    }
    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
    if reverse {
        parts.reverse();
    }
    let first = if keep == 0 { 0 } else { parts.len().saturating_sub(keep) };
    parts.get(first..).unwrap_or_default().join(".")
}

/// RFC 7208 §7.3: what RFC 3986 does not leave as it is.
fn escape(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// `i`: RFC 7208 §7.3.
#[must_use]
pub fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let mut out = String::with_capacity(63);
            for octet in ip.octets() {
                let dot = if out.is_empty() { "" } else { "." };
                let _ = write!(out, "{dot}{:x}.{:x}", octet >> 4, octet & 0xf);
            }
            out
        }
    }
}
