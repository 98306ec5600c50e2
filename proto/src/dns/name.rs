//! Names as they are asked for, and the questions made of them.
//!
//! A [`Question`] can be made of a good name only, so whoever holds one need not check it again.
//! Names are lower-case ASCII without the final dot. What a label may hold is wider than what a
//! host may be called (RFC 2181 §11): any visible ASCII but the dot and the backslash, as in
//! `_25._tcp.mx.example.org` or `0/25.2.0.192.in-addr.arpa`.

use core::fmt::{self, Write as _};
use core::net::IpAddr;

use super::record::Kind;

/// The longest name on the wire, with the length octet of each label and the one of the root:
/// RFC 1035 §2.3.4.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest label.
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a name cannot be asked for. It is never sent, and asking again does not help.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BadName {
    /// The root, or nothing at all.
    Empty,
    /// An empty label, or one of more than [`LABEL_BYTES_MAX`] octets.
    Label,
    /// More than [`NAME_BYTES_MAX`] octets.
    TooLong,
    /// Something that is no visible ASCII, or a backslash.
    Character,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the name is empty",
            Self::Label => "a label of the name is empty or longer than 63 octets",
            Self::TooLong => "the name is longer than 255 octets",
            Self::Character => "the name holds a character that no host name has",
        })
    }
}

impl core::error::Error for BadName {}

/// What is asked: a name and the kind of its records.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Question {
    name: Box<str>,
    kind: Kind,
}

impl Question {
    /// The question for the records of `kind` at `name`; a final dot may be there or not, and case
    /// makes no difference.
    ///
    /// # Errors
    /// When no message can ask for that name.
    pub fn new(name: &str, kind: Kind) -> Result<Self, BadName> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        // RFC 1035 §3.1: a length octet for the first label, and one for the root.
        if name.len() + 2 > NAME_BYTES_MAX {
            return Err(BadName::TooLong);
        }
        if !name.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len())) {
            return Err(BadName::Label);
        }
        if !name.bytes().all(is_plain_or_dot) {
            return Err(BadName::Character);
        }
        // RFC 1035 §2.3.3: case makes no difference
        Ok(Self { name: name.to_ascii_lowercase().into(), kind })
    }

    /// The name: lower case, no final dot.
    #[must_use]
    pub const fn name(&self) -> &str {
        &self.name
    }

    /// The kind of records.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }
}

const fn is_plain_or_dot(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'\\'
}

/// A name that came in a message, from its labels. What is not plain in a label is written as in a
/// zone file, `\032` (RFC 1035 §5.1); nobody can ask for such a name. The root is the empty text.
pub(super) fn from_labels<'l>(labels: impl Iterator<Item = &'l [u8]>) -> Box<str> {
    let mut text = String::new();
    for (index, label) in labels.enumerate() {
        if index > 0 {
            text.push('.');
        }
        for &byte in label {
            if is_plain_or_dot(byte) && byte != b'.' {
                text.push(char::from(byte.to_ascii_lowercase()));
            } else {
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text.into()
}

/// Whether `name` is `zone` or below it.
pub(super) fn is_within(name: &str, zone: &str) -> bool {
    let rest = name.strip_suffix(zone);
    zone.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The name under which the host names of an address are kept: `1.2.0.192.in-addr.arpa`.
#[must_use]
pub fn reverse_name(address: IpAddr) -> String {
    let mut name = String::new();
    match address.to_canonical() {
        // RFC 1035 §3.5
        IpAddr::V4(address) => {
            for octet in address.octets().iter().rev() {
                let _ = write!(name, "{octet}.");
            }
            name.push_str("in-addr.arpa");
        }
        // RFC 3596 §2.5
        IpAddr::V6(address) => {
            for octet in address.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", octet & 0xf, octet >> 4);
            }
            name.push_str("ip6.arpa");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_up_to_each_limit_and_not_beyond() {
        let label = "a".repeat(LABEL_BYTES_MAX);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        for (name, taken) in [
            ("Example.ORG.", Ok("example.org")),
            ("localhost", Ok("localhost")),
            ("_25._tcp.mx.example.org", Ok("_25._tcp.mx.example.org")),
            ("0/25.2.0.192.in-addr.arpa", Ok("0/25.2.0.192.in-addr.arpa")),
            ("", Err(BadName::Empty)),
            (".", Err(BadName::Empty)),
            ("..", Err(BadName::Label)),
            ("a..b", Err(BadName::Label)),
            (".a", Err(BadName::Label)),
            ("a b.example", Err(BadName::Character)),
            ("a\\.b", Err(BadName::Character)),
            ("münchen.example", Err(BadName::Character)),
            ("a\0b", Err(BadName::Character)),
            (&label, Ok(&label)),
            (&format!("{label}a.example"), Err(BadName::Label)),
            (&longest, Ok(&longest)),
            (&format!("{longest}."), Ok(&longest)),
            (&format!("{longest}b"), Err(BadName::TooLong)),
        ] {
            let question = Question::new(name, Kind::A);
            assert_eq!(question.as_ref().map(Question::name), taken.as_ref().copied(), "{name}");
        }
        assert_eq!(longest.len(), NAME_BYTES_MAX - 2);
    }

    #[test]
    fn labels_from_the_wire_become_text_that_says_what_they_hold() {
        let text = |labels: &[&[u8]]| from_labels(labels.iter().copied()).into_string();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[b"MX", b"Example"]), "mx.example");
        assert_eq!(text(&[b"a.b", b"c\\", b"\xff ", b"d"]), "a\\046b.c\\092.\\255\\032.d");
        assert!(Question::new(&text(&[b"a b"]), Kind::A).is_err());
    }

    #[test]
    fn a_zone_holds_itself_and_what_is_below() {
        for (name, zone, within) in [
            ("a.example", "example", true),
            ("example", "example", true),
            ("example", "", true),
            ("notexample", "example", false),
            ("example", "a.example", false),
            ("a.example", "other", false),
        ] {
            assert_eq!(is_within(name, zone), within, "{name} {zone}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let name = |text: &str| reverse_name(text.parse().unwrap());
        assert_eq!(name("192.0.2.10"), "10.2.0.192.in-addr.arpa");
        assert_eq!(name("::ffff:192.0.2.10"), "10.2.0.192.in-addr.arpa");
        let zeros = "0.".repeat(23);
        assert_eq!(name("2001:db8::b"), format!("b.{zeros}8.b.d.0.1.0.0.2.ip6.arpa"));
    }
}
