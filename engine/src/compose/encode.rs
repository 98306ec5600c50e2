//! The encodings of MIME: quoted-printable and base64 for bodies, encoded words for headers,
//! percent signs for the parameters of parts.
//!
//! Called by `header` and `part`. What is written is US-ASCII in lines of at most
//! [`LINE_BYTES_MAX`] bytes, whatever goes in; every loop goes once through its input. Nothing
//! fails. A crate could do most of this; the well-kept one (mail-builder 2.0.1) was tried and lets
//! through what only looks like an encoded word in a subject or name, and a bare CR or NUL in text.

use core::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::header::looks_encoded;

/// RFC 2045 §6.7, §6.8: the longest line of an encoded body, without CRLF.
pub(crate) const LINE_BYTES_MAX: usize = 76;
/// RFC 2047 §2.
const ENCODED_WORD_BYTES_MAX: usize = 75;
/// `=?utf-8?Q?` and `?=`.
const ENCODED_WORD_FRAME_BYTES: usize = 12;
/// Room on a line below which an encoded word begins on the next: one letter of four bytes fits.
const ENCODED_WORD_ROOM_MIN: usize = 32;
/// The value of one parameter, or of one piece of it: shorter than a line.
const PARAMETER_BYTES_MAX: usize = 60;
/// Bytes that fill a line of base64.
const BASE64_LINE_INPUT: usize = LINE_BYTES_MAX / 4 * 3;

/// How the body of a part is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transfer {
    /// As it is: US-ASCII in short lines.
    SevenBit,
    /// As it is: bytes beyond US-ASCII in lines that SMTP takes.
    EightBit,
    /// RFC 2045 §6.7.
    QuotedPrintable,
    /// RFC 2045 §6.8.
    Base64,
}

impl Transfer {
    /// The value of `Content-Transfer-Encoding`.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::EightBit => "8bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// The encoding in which a text with CRLF line ends is readable for most, and legal for all.
#[must_use]
pub(crate) fn transfer_of_text(text: &[u8]) -> Transfer {
    let mut escapes = 0;
    let mut plain = true;
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        escapes += line.iter().filter(|b| !is_literal(**b)).count();
        plain &= line.len() <= LINE_BYTES_MAX && !line.ends_with(b" ") && !line.ends_with(b"\t");
        plain &= line.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    }
    match () {
        () if plain => Transfer::SevenBit,
        // Three bytes for each escape, against four for three.
        () if escapes * 6 < text.len() => Transfer::QuotedPrintable,
        () => Transfer::Base64,
    }
}

/// Whether quoted-printable leaves a byte as it is.
const fn is_literal(byte: u8) -> bool {
    matches!(byte, b' '..=b'<' | b'>'..=b'~' | b'\t')
}

/// Writes a text in quoted-printable; its CRLF stay line ends.
pub(crate) fn push_quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    let mut lines = text.split(|b| *b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        let line = if is_last { line } else { line.strip_suffix(b"\r").unwrap_or(line) };
        push_quoted_line(line, out);
        if !is_last {
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn push_quoted_line(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    for (at, byte) in line.iter().enumerate() {
        let is_last = at + 1 == line.len();
        // RFC 2045 §6.7 (3): no white space at the end of a line.
        let literal = is_literal(*byte) && !(is_last && matches!(byte, b' ' | b'\t'));
        let width = if literal { 1 } else { 3 };
        // The last column is for the soft line break, if more follows.
        if column + width + usize::from(!is_last) > LINE_BYTES_MAX {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if literal {
            out.push(*byte);
        } else {
            out.extend_from_slice(&escape(b'=', *byte));
        }
        column += width;
    }
}

/// A sign and two upper-case hexadecimal digits.
fn escape(sign: u8, byte: u8) -> [u8; 3] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
    [sign, digit(byte >> 4), digit(byte & 15)]
}

/// Writes bytes in base64, in lines, with a line end behind the last.
pub(crate) fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let mut line = String::with_capacity(LINE_BYTES_MAX);
    for piece in bytes.chunks(BASE64_LINE_INPUT) {
        line.clear();
        STANDARD.encode_string(piece, &mut line);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A text as encoded words (RFC 2047 §2), none of which splits a letter, to be joined by spaces.
/// The first takes at most `room` bytes, unless that is so little that it has to go to a new line.
#[must_use]
pub(crate) fn encoded_words(text: &str, room: usize) -> Vec<String> {
    let quoted_bytes: usize = text.bytes().map(quoted_width).sum();
    // Words of which most letters stand as they are can still be read by people.
    let base64 = quoted_bytes > text.len() * 2;
    let mut words = Vec::new();
    let mut rest = text;
    let mut room = if room < ENCODED_WORD_ROOM_MIN { ENCODED_WORD_BYTES_MAX } else { room };
    while !rest.is_empty() {
        let room_inside = room.min(ENCODED_WORD_BYTES_MAX) - ENCODED_WORD_FRAME_BYTES;
        let (piece, after) = rest.split_at(piece_bytes(rest, room_inside, base64));
        words.push(if base64 { base64_word(piece) } else { quoted_word(piece) });
        rest = after;
        room = ENCODED_WORD_BYTES_MAX;
    }
    words
}

/// How much of a text fits an encoded word, at least one letter.
fn piece_bytes(text: &str, room: usize, base64: bool) -> usize {
    let mut used = 0;
    for (at, letter) in text.char_indices() {
        let end = at + letter.len_utf8();
        let letter_text = text.get(at..end).unwrap_or_default();
        used += letter_text.bytes().map(quoted_width).sum::<usize>();
        let bytes = if base64 { end.div_ceil(3) * 4 } else { used };
        if bytes > room && at > 0 {
            return at;
        }
    }
    text.len()
}

/// RFC 2047 §5 (3): what stands as it is even in the name of a person.
const fn is_word_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'*' | b'+' | b'-' | b'/')
}

const fn quoted_width(byte: u8) -> usize {
    if is_word_literal(byte) || byte == b' ' { 1 } else { 3 }
}

fn quoted_word(piece: &str) -> String {
    let mut word = String::from("=?utf-8?Q?");
    for byte in piece.bytes() {
        match byte {
            b' ' => word.push('_'),
            _ if is_word_literal(byte) => word.push(char::from(byte)),
            _ => word.extend(escape(b'=', byte).map(char::from)),
        }
    }
    word.push_str("?=");
    word
}

fn base64_word(piece: &str) -> String {
    format!("=?utf-8?B?{}?=", STANDARD.encode(piece))
}

/// A parameter of `Content-Type` or `Content-Disposition`, in pieces that go on a line each; the
/// semicolons between them are the caller's. Beyond short US-ASCII it is written as RFC 2231 §4
/// says.
#[must_use]
pub(crate) fn parameter(name: &str, value: &str) -> Vec<String> {
    let quotable = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    // RFC 2047 §5: an encoded word has no meaning here, but some read it.
    let plain = value.bytes().all(quotable) && !looks_encoded(value);
    if plain && value.len() <= PARAMETER_BYTES_MAX {
        return vec![format!("{name}=\"{value}\"")];
    }
    let mut pieces = vec![String::from("utf-8''")];
    for letter in value.chars() {
        let mut encoded = String::new();
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            if is_attribute_char(byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.extend(escape(b'%', byte).map(char::from));
            }
        }
        match pieces.last_mut() {
            Some(last) if last.len() + encoded.len() <= PARAMETER_BYTES_MAX => {
                last.push_str(&encoded);
            }
            _ => pieces.push(encoded),
        }
    }
    if let [only] = &pieces[..] {
        return vec![format!("{name}*={only}")];
    }
    // RFC 2231 §3: a long value goes on in numbered pieces.
    let numbered = |(at, piece): (usize, &String)| {
        let mut text = String::new();
        let _ = write!(text, "{name}*{at}*={piece}");
        text
    };
    pieces.iter().enumerate().map(numbered).collect()
}

/// RFC 2231 §7: `attribute-char`, less those that some parsers trip over.
const fn is_attribute_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_quoted_printable(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quoted_printable_keeps_to_its_lines() {
        for (text, expected) in [
            ("", ""),
            ("a=b\r\n", "a=3Db\r\n"),
            ("end \r\ntab\t\r\n", "end=20\r\ntab=09\r\n"),
            ("bare\rcr\0", "bare=0Dcr=00"),
            ("é", "=C3=A9"),
        ] {
            assert_eq!(quoted(text.as_bytes()), expected);
        }
        let lines = |n: usize| quoted("x".repeat(n).as_bytes());
        assert_eq!(lines(76), "x".repeat(76));
        assert_eq!(lines(77), format!("{}=\r\nxx", "x".repeat(75)));
        assert_eq!(quoted("é".repeat(13).as_bytes()).lines().map(str::len).max(), Some(76));
    }

    #[test]
    fn the_encoding_fits_the_text() {
        for (text, transfer) in [
            ("", Transfer::SevenBit),
            ("plain\r\ntext\r\n", Transfer::SevenBit),
            ("space at the end \r\n", Transfer::QuotedPrintable),
            ("a café, and more words\r\n", Transfer::QuotedPrintable),
            ("日本語", Transfer::Base64),
        ] {
            assert_eq!(transfer_of_text(text.as_bytes()), transfer, "{text:?}");
        }
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        assert_eq!(transfer_of_text(long.as_bytes()), Transfer::QuotedPrintable);
    }

    #[test]
    fn parameters_are_quoted_or_follow_rfc_2231() {
        assert_eq!(parameter("filename", "a b;c.txt"), ["filename=\"a b;c.txt\""]);
        assert_eq!(parameter("filename", "a\"b"), ["filename*=utf-8''a%22b"]);
        assert_eq!(parameter("filename", "é.txt"), ["filename*=utf-8''%C3%A9.txt"]);
        assert_eq!(parameter("filename", "=?x?="), ["filename*=utf-8''%3D%3Fx%3F%3D"]);
        let long = parameter("filename", &"é".repeat(20));
        assert!(long[0].starts_with("filename*0*=utf-8''%C3%A9"));
        assert!(long[1].starts_with("filename*1*=%C3%A9"));
        assert_eq!(long.len(), 3);
    }

    proptest! {
        #[test]
        fn no_encoded_word_is_too_long(text in "\\PC{0,120}", room in 0usize..90) {
            let words = encoded_words(&text, room);
            for (at, word) in words.iter().enumerate() {
                let max = if at == 0 && room >= ENCODED_WORD_ROOM_MIN { room } else { 75 };
                prop_assert!(word.len() <= max.min(75), "{word}");
                prop_assert!(word.is_ascii());
            }
        }

        #[test]
        fn no_line_is_too_long(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut out = Vec::new();
            push_base64(&bytes, &mut out);
            push_quoted_printable(&bytes, &mut out);
            for line in out.split(|b| *b == b'\n') {
                prop_assert!(line.len() <= LINE_BYTES_MAX + 1);
            }
            prop_assert!(out.is_ascii());
        }
    }
}
