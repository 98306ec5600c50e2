//! Small pieces of grammar that several commands share: numbers, keywords, xtext.
//!
//! Parsers call these on borrowed bytes; nothing here allocates, and what does not match is
//! answered with `None` or `false`, never with a guess.

use core::net::Ipv4Addr;

/// The bytes of the longest decimal that [`push_decimal`] writes.
pub const DECIMAL_BYTES_MAX: usize = 20;

/// Parses `1*20DIGIT`. `Err` says whether it was at least a number, only too large for 64 bits.
///
/// # Errors
///
/// [`NumberError::Syntax`] when it is empty, longer than 20 digits or holds anything but digits;
/// [`NumberError::TooLarge`] when it is a number of 2^64 or more.
pub fn decimal(text: &[u8]) -> Result<u64, NumberError> {
    if text.is_empty() || text.len() > DECIMAL_BYTES_MAX || !text.iter().all(u8::is_ascii_digit) {
        return Err(NumberError::Syntax);
    }
    text.iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(NumberError::TooLarge)
}

/// Why a text is not a number that fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NumberError {
    /// Not `1*20DIGIT`.
    Syntax,
    /// A number of 2^64 or more.
    TooLarge,
}

/// Writes `number` in decimal to the end of `buffer` and returns the digits: no `core::fmt`.
#[must_use]
pub fn push_decimal(number: u64, buffer: &mut [u8; DECIMAL_BYTES_MAX]) -> &[u8] {
    let mut rest = number;
    let mut start = buffer.len();
    for slot in buffer.iter_mut().rev() {
        *slot = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        start -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or_default()
}

/// The bytes of the longest text that [`push_ipv4`] writes.
pub const IPV4_BYTES_MAX: usize = 15;

/// Writes `ip` with dots to the front of `buffer` and returns the text.
#[must_use]
pub fn push_ipv4(ip: Ipv4Addr, buffer: &mut [u8; IPV4_BYTES_MAX]) -> &[u8] {
    let mut free = buffer.iter_mut();
    let mut len = 0;
    for (i, octet) in ip.octets().into_iter().enumerate() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| digit + b'0');
        let zeros = usize::from(octet < 100) + usize::from(octet < 10);
        let dot = (i > 0).then_some(b'.');
        for byte in dot.into_iter().chain(digits.into_iter().skip(zeros)) {
            if let Some(slot) = free.next() {
                *slot = byte;
                len += 1;
            }
        }
    }
    buffer.get(..len).unwrap_or_default()
}

/// Whether `text` is a keyword as RFC 5321 §4.1.2 has it: a letter or digit, then also hyphens.
#[must_use]
pub fn is_keyword(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphanumeric)
        && text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// What follows `prefix` in `text`, the case of ASCII letters ignored.
#[must_use]
pub fn strip_prefix_ignore_case<'b>(text: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (front, rest) = text.split_at_checked(prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Text in the xtext encoding of RFC 3461 §4, checked, still encoded.
///
/// What it decodes to is printable US-ASCII (and, where UTF-8 was allowed, other characters that
/// are no controls), so it can stand in a report without breaking its lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xtext<'b> {
    encoded: &'b str,
}

impl<'b> Xtext<'b> {
    /// Checks `encoded`; `utf8` allows raw UTF-8 beside xtext (RFC 6533 §3).
    #[must_use]
    pub fn parse(encoded: &'b [u8], utf8: bool) -> Option<Self> {
        let text = core::str::from_utf8(encoded).ok()?;
        let mut rest = encoded;
        while let Some((first, tail)) = rest.split_first() {
            rest = match first {
                // RFC 3461 §4: hexchar is "+" and two upper-case hexadecimal digits.
                b'+' => {
                    let (pair, tail) = tail.split_at_checked(2)?;
                    // RFC 3461 §4.2, §4.4: what it encodes must be printable.
                    matches!(hex_pair(pair)?, b' '..=b'~').then_some(tail)?
                }
                b'=' => return None,
                b'!'..=b'~' => tail,
                0x80.. if utf8 => tail,
                _ => return None,
            };
        }
        let printable = !utf8 || text.chars().all(is_visible);
        printable.then_some(Self { encoded: text })
    }

    /// The text as it was sent.
    #[must_use]
    pub const fn encoded(self) -> &'b str {
        self.encoded
    }

    /// The bytes that it stands for.
    pub fn decode(self) -> impl Iterator<Item = u8> + 'b {
        let mut rest = self.encoded.as_bytes();
        core::iter::from_fn(move || {
            let (first, tail) = rest.split_first()?;
            if *first == b'+' {
                let (pair, tail) = tail.split_at_checked(2)?;
                rest = tail;
                return hex_pair(pair);
            }
            rest = tail;
            Some(*first)
        })
    }
}

/// `bytes` in the xtext encoding of RFC 3461 §4: what [`Xtext::decode`] gives back.
#[must_use]
pub fn encode_xtext(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'+' | b'=' | ..=b' ' | 0x7f.. => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                text.push('+');
                for digit in [byte >> 4, byte & 15] {
                    text.extend(DIGITS.get(usize::from(digit)).map(|&digit| char::from(digit)));
                }
            }
            plain => text.push(char::from(plain)),
        }
    }
    text
}

/// Whether a character may be shown: no control, no kind of space but the plain one.
#[must_use]
pub fn is_visible(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let [high, low] = pair else { return None };
    Some(hex_digit(*high)? << 4 | hex_digit(*low)?)
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_and_fit_64_bits() {
        for (text, number) in [
            (&b"0"[..], Ok(0)),
            (b"00000000000000000007", Ok(7)),
            (b"18446744073709551615", Ok(u64::MAX)),
            (b"18446744073709551616", Err(NumberError::TooLarge)),
            (b"99999999999999999999", Err(NumberError::TooLarge)),
            (b"000000000000000000007", Err(NumberError::Syntax)),
            (b"", Err(NumberError::Syntax)),
            (b"-1", Err(NumberError::Syntax)),
            (b"1k", Err(NumberError::Syntax)),
        ] {
            assert_eq!(decimal(text), number, "{text:?}");
        }
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        for number in [0, 7, 10, 10_485_760, u64::MAX] {
            assert_eq!(push_decimal(number, &mut buffer), number.to_string().as_bytes());
        }
    }

    #[test]
    fn addresses_are_written_with_dots() {
        for text in ["0.0.0.0", "255.255.255.255", "192.0.2.10", "10.20.100.9", "127.0.0.1"] {
            let mut buffer = [0; IPV4_BYTES_MAX];
            assert_eq!(push_ipv4(text.parse().unwrap(), &mut buffer), text.as_bytes());
        }
    }

    #[test]
    fn xtext_decodes_to_printable_text_only() {
        for (text, decoded) in [
            (&b"QQ314159"[..], Some(&b"QQ314159"[..])),
            (b"a+2Bb+3Dc", Some(b"a+b=c")),
            (b"a+20b", Some(b"a b")),
            (b"a+0D+0Ab", None),
            (b"a+7F", None),
            (b"a+2b", None),
            (b"a+2", None),
            (b"a=b", None),
            (b"a b", None),
            (b"", Some(b"")),
        ] {
            let decoded_here = Xtext::parse(text, false).map(|x| x.decode().collect::<Vec<_>>());
            assert_eq!(decoded_here.as_deref(), decoded, "{text:?}");
        }
        let greek = "δοκιμή@example.test".as_bytes();
        assert!(Xtext::parse(greek, false).is_none());
        assert_eq!(Xtext::parse(greek, true).map(Xtext::encoded), Some("δοκιμή@example.test"));
        assert!(Xtext::parse("a\u{85}b".as_bytes(), true).is_none());
    }
}
