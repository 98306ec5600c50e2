//! Lists of tags: `v=1; a=rsa-sha256; ...` (RFC 6376 §3.2), as signatures and records of DKIM,
//! DMARC and ARC have them.
//!
//! Whoever reads one knows its own tags and passes over the others. Limit: [`TAGS_MAX`]. What is
//! no list, or has a tag twice, is [`BadTags`].

use core::fmt;

/// The most tags of a list; arbitrary, twice what all RFCs together know.
pub const TAGS_MAX: usize = 64;

/// Why a text is no list of tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadTags {
    /// A part has no `=`, or no name in front of it.
    Syntax,
    /// A value holds what no value may.
    Value,
    /// A tag is there twice.
    Twice,
    /// There are too many.
    TooMany,
}

impl fmt::Display for BadTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "it is no list of tags",
            Self::Value => "a tag holds what it may not",
            Self::Twice => "a tag is there twice",
            Self::TooMany => "it has too many tags",
        })
    }
}

/// One tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag<'t> {
    /// Its name; case matters.
    pub name: &'t str,
    /// Its value, with the white space within.
    pub value: &'t str,
    /// Where all of what stands behind its `=` lies in the text, white space around it included.
    pub place: (usize, usize),
}

/// The tags of a list, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags<'t>(Vec<Tag<'t>>);

impl<'t> Tags<'t> {
    /// Reads a list.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &'t [u8]) -> Result<Self, BadTags> {
        let text = core::str::from_utf8(text).map_err(|_| BadTags::Value)?;
        let mut tags: Vec<Tag<'t>> = Vec::new();
        let mut at = 0;
        for part in text.split(';') {
            let begun = at;
            at += part.len() + 1;
            if trim(part).is_empty() {
                // RFC 6376 §3.2: one may stand at the end.
                if begun + part.len() == text.len() && !tags.is_empty() {
                    break;
                }
                return Err(BadTags::Syntax);
            }
            let (name, value) = part.split_once('=').ok_or(BadTags::Syntax)?;
            let place = (begun + name.len() + 1, begun + part.len());
            let name = trim(name);
            let rest = name.strip_prefix(|first: char| first.is_ascii_alphabetic());
            let rest = rest.ok_or(BadTags::Syntax)?;
            if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(BadTags::Syntax);
            }
            let fits = |byte: u8| byte.is_ascii_graphic() || is_space(byte) || byte >= 0x80;
            if !value.bytes().all(fits) {
                return Err(BadTags::Value);
            }
            if tags.len() >= TAGS_MAX {
                return Err(BadTags::TooMany);
            }
            if tags.iter().any(|tag| tag.name == name) {
                return Err(BadTags::Twice);
            }
            tags.push(Tag { name, value: trim(value), place });
        }
        Ok(Self(tags))
    }

    /// The tag of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tag<'t>> {
        self.0.iter().find(|tag| tag.name == name)
    }

    /// Its value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'t str> {
        self.get(name).map(|tag| tag.value)
    }

    /// The first tag.
    #[must_use]
    pub fn first(&self) -> Option<&Tag<'t>> {
        self.0.first()
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without white space and folds at its ends.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// Without any.
#[must_use]
pub fn squeezed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(end) = rest.bytes().position(is_space) {
        let (front, behind) = rest.split_at(end);
        out.push_str(front);
        rest = behind.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The parts of a list within a value, without white space around them.
pub fn parts(value: &str) -> impl Iterator<Item = &str> {
    value.split(':').map(trim)
}

/// A number of at most `digits` digits.
#[must_use]
pub fn number(value: &str, digits: usize) -> Option<u64> {
    let plain = (1..=digits).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_with_folds_and_a_last_semicolon() {
        let text = b" v=1;\r\n\ta = b c ;; ";
        assert_eq!(Tags::parse(text), Err(BadTags::Syntax));
        let text = b" v=1;\r\n\ta = b\r\n c ;x=; ";
        let tags = Tags::parse(text).unwrap();
        assert_eq!((tags.value("v"), tags.value("a")), (Some("1"), Some("b\r\n c")));
        assert_eq!((tags.value("x"), tags.value("V")), (Some(""), None));
        let place = tags.get("a").unwrap().place;
        assert_eq!(&text[place.0..place.1], b" b\r\n c ");
        assert_eq!(tags.first().map(|tag| tag.name), Some("v"));
        assert_eq!(squeezed("a b\r\n\tc"), "abc");
        assert_eq!((number("012", 3), number("1234", 3), number("", 3)), (Some(12), None, None));
        assert_eq!(number("-1", 3), None);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, why) in [
            (&b""[..], BadTags::Syntax),
            (b";", BadTags::Syntax),
            (b"v", BadTags::Syntax),
            (b"=1", BadTags::Syntax),
            (b"1=1", BadTags::Syntax),
            (b"a-b=1", BadTags::Syntax),
            (b"v=1;;a=2", BadTags::Syntax),
            (b"v=1; v=2", BadTags::Twice),
            (b"v=\x01", BadTags::Value),
            (b"v=\xff", BadTags::Value),
        ] {
            assert_eq!(Tags::parse(text), Err(why), "{}", String::from_utf8_lossy(text));
        }
        let many: String = (0..=TAGS_MAX).map(|n| format!("t{n}=1;")).collect();
        assert_eq!(Tags::parse(many.as_bytes()), Err(BadTags::TooMany));
    }

    proptest! {
        #[test]
        fn a_place_holds_its_value(text in "[a-c =;\r\n]{0,30}") {
            if let Ok(tags) = Tags::parse(text.as_bytes()) {
                for tag in &tags.0 {
                    prop_assert_eq!(trim(&text[tag.place.0..tag.place.1]), tag.value);
                }
            }
        }
    }
}
