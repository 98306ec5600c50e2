//! The header section of a message: where it ends, its fields, and their canonical forms.
//!
//! [`Section`] takes a message as it streams by, keeps the header section and gives back what
//! belongs to the body; [`fields`] cuts it. Signing needs the whole section, because fields are
//! taken from the last to the first, so there are limits: [`HEADER_BYTES_MAX`] and
//! [`FIELDS_COUNT_MAX`]. What is over them is [`HeaderError`], and nothing is kept of it.
//!
//! What is no field (no colon, or a name with other than visible letters) has an empty name, and
//! so is never asked for.

use core::fmt;
use memchr::{memchr, memchr2, memmem};

use super::canon::{Canon, is_white};

/// The longest header section; arbitrary, four times what common servers take.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// The most fields of a header section; arbitrary, bounds what choosing among them can cost.
pub const FIELDS_COUNT_MAX: usize = 2000;

/// Why a header section cannot be worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// It has more than [`HEADER_BYTES_MAX`] bytes.
    TooLong,
    /// It has more than [`FIELDS_COUNT_MAX`] fields.
    TooManyFields,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the header section has over {HEADER_BYTES_MAX} bytes"),
            Self::TooManyFields => {
                write!(f, "the header section has over {FIELDS_COUNT_MAX} fields")
            }
        }
    }
}

impl core::error::Error for HeaderError {}

/// The header section of a message that streams by.
#[derive(Clone, Debug, Default)]
pub struct Section {
    bytes: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    #[default]
    Header,
    Body,
    TooLong,
}

impl Section {
    /// Before the first byte of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), place: Place::Header }
    }

    /// Takes the next bytes of the message and gives back those of the body.
    pub fn feed<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        match self.place {
            Place::Body => return bytes,
            Place::TooLong => return &[],
            Place::Header => {}
        }
        let end = self.end(bytes);
        let (ours, body) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.bytes.len() + ours.len() > HEADER_BYTES_MAX {
            *self = Self { bytes: Vec::new(), place: Place::TooLong };
            return &[];
        }
        self.bytes.extend_from_slice(ours);
        if end.is_some() {
            // The empty line separates header and body, and belongs to neither.
            self.bytes.truncate(self.bytes.len().saturating_sub(2));
            self.place = Place::Body;
        }
        body
    }

    /// How many of `bytes` there are up to the end of the empty line.
    fn end(&self, bytes: &[u8]) -> Option<usize> {
        const END: &[u8] = b"\r\n\r\n";
        // The last three bytes, with a line end in front of the message, and the next three.
        let mut seam = [0; 8];
        let last = self.bytes.get(self.bytes.len().saturating_sub(3)..).unwrap_or_default();
        let before = 2 + last.len();
        let around = b"\r\n".iter().chain(last).chain(bytes.iter().take(3));
        let mut length = 0;
        for (to, from) in seam.iter_mut().zip(around) {
            *to = *from;
            length += 1;
        }
        // The line end in front counts only where nothing else was cut off.
        let skip = if self.bytes.len() < 3 { 0 } else { 2 };
        let seam = seam.get(skip..length).unwrap_or_default();
        if let Some(at) = memmem::find(seam, END) {
            return Some(at + END.len() + skip - before);
        }
        memmem::find(bytes, END).map(|at| at + END.len())
    }

    /// Whether the empty line behind it was there.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.place == Place::Body
    }

    /// The section so far, without the empty line behind it.
    ///
    /// # Errors
    /// [`HeaderError::TooLong`].
    pub fn bytes(&self) -> Result<&[u8], HeaderError> {
        if self.place == Place::TooLong { Err(HeaderError::TooLong) } else { Ok(&self.bytes) }
    }
}

/// A header field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'h> {
    /// All of it, folded as it is, without its last CRLF.
    bytes: &'h [u8],
    name: &'h [u8],
    value: &'h [u8],
}

impl<'h> Field<'h> {
    /// A field without its last CRLF.
    #[must_use]
    pub fn new(bytes: &'h [u8]) -> Self {
        let split = memchr(b':', bytes).and_then(|colon| bytes.split_at_checked(colon));
        let (name, value) = split.unwrap_or_default();
        let name = trim_end(name);
        // RFC 5322 §2.2
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        if is_name {
            Self { bytes, name, value: value.get(1..).unwrap_or_default() }
        } else {
            Self { bytes, name: &[], value: &[] }
        }
    }

    /// All of it, folded as it is, without its last CRLF.
    #[must_use]
    pub const fn bytes(&self) -> &'h [u8] {
        self.bytes
    }

    /// Its name, empty when it is no field.
    #[must_use]
    pub const fn name(&self) -> &'h [u8] {
        self.name
    }

    /// What stands behind the colon, folded as it is.
    #[must_use]
    pub const fn value(&self) -> &'h [u8] {
        self.value
    }

    /// Whether it has this name, in any case.
    #[must_use]
    pub const fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Appends its canonical form to `out`, without the CRLF at its end.
    pub fn put(&self, canon: Canon, out: &mut Vec<u8>) {
        match canon {
            // RFC 6376 §3.4.1: as it is.
            Canon::Simple => out.extend_from_slice(self.bytes),
            // RFC 6376 §3.4.2
            Canon::Relaxed => {
                out.extend(self.name.iter().map(u8::to_ascii_lowercase));
                out.push(b':');
                put_relaxed(self.value, out);
            }
        }
    }
}

/// Appends `value` with each run of white space and folds as one space, and none at its ends.
fn put_relaxed(value: &[u8], out: &mut Vec<u8>) {
    let mut first = true;
    let mut rest = value;
    while !rest.is_empty() {
        let line_end = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let (mut line, behind) = rest.split_at(line_end);
        rest = behind.get(2..).unwrap_or_default();
        while !line.is_empty() {
            let word_end = memchr2(b' ', b'\t', line).unwrap_or(line.len());
            let (word, behind) = line.split_at(word_end);
            line = behind.get(1..).unwrap_or_default();
            if word.is_empty() {
                continue;
            }
            if !first {
                out.push(b' ');
            }
            first = false;
            out.extend_from_slice(word);
        }
    }
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| !is_white(b)).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

/// The fields of a header section, first to last.
///
/// # Errors
/// [`HeaderError::TooManyFields`].
pub fn fields(section: &[u8]) -> Result<Vec<Field<'_>>, HeaderError> {
    let mut found = Vec::new();
    let (mut begin, mut line) = (0, 0);
    while line < section.len() {
        let rest = section.get(line..).unwrap_or_default();
        let end = memmem::find(rest, b"\r\n").map_or(section.len(), |at| line + at);
        let next = end + 2;
        // RFC 5322 §2.2.3: a line that begins with white space goes on with the field.
        if !section.get(next).is_some_and(|&b| is_white(b)) {
            if found.len() == FIELDS_COUNT_MAX {
                return Err(HeaderError::TooManyFields);
            }
            found.push(Field::new(section.get(begin..end).unwrap_or_default()));
            begin = next;
        }
        line = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn relaxed(field: &str) -> String {
        let mut out = Vec::new();
        Field::new(field.as_bytes()).put(Canon::Relaxed, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn relaxed_fields() {
        for (field, form) in [
            // RFC 6376 §3.4.5
            ("A: X", "a:X"),
            ("B : Y\t\r\n\tZ  ", "b:Y Z"),
            ("Subject:", "subject:"),
            ("Subject: \t \r\n  ", "subject:"),
            ("SUBJect:  a \t b\r\n\tc\r\n   d", "subject:a b c d"),
            ("X:a:b : c", "x:a:b : c"),
            ("X: gr\u{fc}n", "x:gr\u{fc}n"),
            ("X: a\rb\nc", "x:a\rb\nc"),
        ] {
            assert_eq!(relaxed(field), form, "{field:?}");
        }
    }

    #[test]
    fn simple_fields_stay_as_they_are() {
        let mut out = Vec::new();
        Field::new(b"B : Y\t\r\n\tZ  ").put(Canon::Simple, &mut out);
        assert_eq!(out, b"B : Y\t\r\n\tZ  ");
    }

    #[test]
    fn a_section_is_cut_into_fields() {
        let names = |section: &str| {
            let fields = fields(section.as_bytes()).unwrap();
            let name = |f: &Field<'_>| String::from_utf8(f.name().to_vec()).unwrap();
            fields.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("A:1\r\n\tb: c\r\nB: 2\r\n"), ["A", "B"]);
        assert_eq!(names("A:1\r\nB"), ["A", ""]);
        assert_eq!(
            names("A \t:1\r\nno field\r\n: x\r\nb\u{e4}d: x\r\na b: x"),
            ["A", "", "", "", ""]
        );
        assert_eq!(names(" folds nothing\r\nA: 1\r\n"), ["", "A"]);
        let whole = fields(b"From: a\r\n b\r\nTo: c\r\n").unwrap();
        assert_eq!(whole[0].bytes, b"From: a\r\n b");
        assert!(whole[0].is("fROM") && whole[1].value() == b" c");
    }

    /// The oracle: reads line by line.
    fn naive(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut header, mut rest) = (Vec::new(), message);
        while !rest.starts_with(b"\r\n") {
            let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                header.extend_from_slice(rest);
                return (header, Vec::new());
            };
            header.extend_from_slice(&rest[..end + 2]);
            rest = &rest[end + 2..];
        }
        (header, rest[2..].to_vec())
    }

    fn streamed<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Vec<u8>, Vec<u8>) {
        let (mut section, mut body) = (Section::new(), Vec::new());
        for piece in pieces {
            body.extend_from_slice(section.feed(piece));
        }
        (section.bytes().unwrap().to_vec(), body)
    }

    fn check_every_cut(message: &[u8]) {
        let due = naive(message);
        assert_eq!(streamed(message.chunks(1)), due, "{message:?}");
        for cut in 0..=message.len() {
            let (front, back) = message.split_at(cut);
            assert_eq!(streamed([front, back]), due, "{message:?} cut at {cut}");
        }
    }

    #[test]
    fn the_section_ends_at_the_empty_line_in_every_cut() {
        check_every_cut(b"A: 1\r\n 2\r\nB: 3\r\n\r\nbody\r\n\r\nmore\r\n");
        for word in 0..4_u32.pow(8) {
            if (0..8).any(|at| (word >> (2 * at)) & 3 == 3) {
                continue; // three letters are enough, and quicker
            }
            let letter = |at: u32| b"\r\na"[((word >> (2 * at)) & 3) as usize];
            check_every_cut(&(0..8).map(letter).collect::<Vec<_>>());
        }
        for short in [&b""[..], b"\r", b"\n", b"a", b"\r\n", b"\r\n\r", b"\r\n\r\n", b"a\r\n\r\n"] {
            check_every_cut(short);
        }
    }

    proptest! {
        #[test]
        fn relaxed_is_stable_and_says_the_same_words(value in vec(prop_oneof![
            Just(" "), Just("\t"), Just("\r\n "), Just("a"), Just("b:"),
        ], 0..20)) {
            let field = format!("Name: {}", value.concat());
            let once = relaxed(&field);
            prop_assert_eq!(&relaxed(&once), &once);
            let words = field.split_once(':').unwrap().1.split_ascii_whitespace();
            prop_assert_eq!(once, format!("name:{}", words.collect::<Vec<_>>().join(" ")));
        }
    }

    #[test]
    fn limits_are_kept() {
        let line = b"X: y\r\n";
        let many = line.repeat(FIELDS_COUNT_MAX);
        assert_eq!(fields(&many).unwrap().len(), FIELDS_COUNT_MAX);
        assert_eq!(fields(&[&many[..], line].concat()), Err(HeaderError::TooManyFields));

        let mut section = Section::new();
        section.feed(&vec![b'x'; HEADER_BYTES_MAX - 4]);
        assert_eq!(section.feed(b"\r\n\r\nbody"), b"body");
        assert_eq!(section.bytes().map(<[u8]>::len), Ok(HEADER_BYTES_MAX - 2));

        let mut section = Section::new();
        section.feed(&vec![b'x'; HEADER_BYTES_MAX]);
        assert!(section.bytes().is_ok());
        for more in [&b"x"[..], b"\r\n\r\nbody", b"body"] {
            assert_eq!(section.feed(more), b"");
            assert_eq!(section.bytes(), Err(HeaderError::TooLong));
            assert_eq!(section.bytes.capacity(), 0, "nothing is kept");
        }
    }
}
