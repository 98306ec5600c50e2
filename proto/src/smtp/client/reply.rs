//! Reads the replies of a server: whole ones, within limits, or it says what is wrong.
//!
//! The client session calls [`parse`] with the front of its window. A reply is taken when its last
//! line is there, and not before, so the window must hold [`REPLY_BYTES_MAX`]. What does not have
//! the form of RFC 5321 §4.2 is [`Garbage`] of one kind, the same however the bytes were cut; after
//! it nothing of that stream can be trusted, and nothing is skipped in the hope of better.

use core::fmt;

use crate::wire::line::{self, Cut};

/// The longest line of a reply, with its CRLF. RFC 5321 §4.5.3.1.5 allows 512; twice that, for
/// servers that put a sentence and a link into one line.
pub const LINE_BYTES_MAX: usize = 1024;
/// The most lines of a reply. Arbitrary: EHLO replies have some twenty.
pub const LINES_MAX: usize = 128;
/// The most bytes of a reply, all lines together; arbitrary, half of a window.
pub const REPLY_BYTES_MAX: usize = 8 * 1024;

/// What kind of answer a code is (RFC 5321 §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// 2yz: done.
    Done,
    /// 3yz: go on.
    GoOn,
    /// 4yz: not now.
    Transient,
    /// 5yz: no.
    Permanent,
}

/// One whole reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'b> {
    code: u16,
    bytes: &'b [u8],
}

impl<'b> Reply<'b> {
    /// The code, 200 to 559; 200 to 659 from [`parse_private`].
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// What its first digit means.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Done,
            // The seeds' own codes: 600 and 601 say yes, 651 no.
            6 if self.code < 650 => Class::Done,
            3 => Class::GoOn,
            4 => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// Whether it refuses, for now or for good.
    #[must_use]
    pub const fn refuses(&self) -> bool {
        matches!(self.class(), Class::Transient | Class::Permanent)
    }

    /// All of it, as it came, with the CRLF of its last line.
    #[must_use]
    pub const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// The texts of its lines, without codes; any bytes but NUL, CR and LF.
    pub fn lines(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| line.strip_suffix(b"\r\n").and_then(|l| l.get(4..)).unwrap_or_default())
    }

    /// The enhanced code at the front of its first line (RFC 2034 §4), where it is of the same
    /// class as the code.
    #[must_use]
    pub fn enhanced(&self) -> Option<(u8, u16, u16)> {
        let text = self.lines().next()?;
        let word = text.split(|byte| *byte == b' ').next()?;
        let mut parts = core::str::from_utf8(word).ok()?.splitn(3, '.');
        let mut number = || parts.next().filter(|p| p.len() <= 3)?.parse::<u16>().ok();
        let code = (number()?, number()?, number()?);
        let class = u8::try_from(code.0).ok()?;
        (u16::from(class) == self.code / 100).then_some((class, code.1, code.2))
    }
}

/// Why bytes are no reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Garbage {
    /// A line does not begin with a code of RFC 5321 §4.2.
    Code,
    /// Neither space nor hyphen nor the end of the line behind the code.
    Separator,
    /// A line has another code than the first.
    Mixed,
    /// A bare CR, a bare LF or a NUL in a line.
    Newline,
    /// A line is longer than [`LINE_BYTES_MAX`].
    LongLine,
    /// More than [`LINES_MAX`] lines.
    ManyLines,
    /// More than [`REPLY_BYTES_MAX`] bytes.
    TooLong,
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "a reply line does not begin with a code",
            Self::Separator => "neither space nor hyphen stands behind a reply code",
            Self::Mixed => "the lines of one reply have different codes",
            Self::Newline => "a reply line holds a NUL or a bare newline",
            Self::LongLine => "a reply line is too long",
            Self::ManyLines => "a reply has too many lines",
            Self::TooLong => "a reply is too long",
        })
    }
}

impl core::error::Error for Garbage {}

/// What stands at the front of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed<'b> {
    /// A reply; consume as many bytes as it has.
    Whole(Reply<'b>),
    /// The beginning of one: wait for more.
    Partial,
    /// No reply, and none can come of it.
    Bad(Garbage),
}

/// Reads the reply at the front of `window`.
#[must_use]
pub fn parse(window: &[u8]) -> Parsed<'_> {
    parse_up_to(window, b'5')
}

/// The same where the seeds' private verbs are answered, by codes from 600 on.
#[must_use]
pub fn parse_private(window: &[u8]) -> Parsed<'_> {
    parse_up_to(window, b'6')
}

fn parse_up_to(window: &[u8], highest: u8) -> Parsed<'_> {
    // Only these bytes decide, so that what came behind them makes no difference.
    let window = window.get(..REPLY_BYTES_MAX).unwrap_or(window);
    let (mut from, mut code) = (0, None);
    for _ in 0..LINES_MAX {
        let rest = window.get(from..).unwrap_or_default();
        let last = match start(rest, highest, &mut code) {
            Ok(last) => last,
            Err(garbage) => return Parsed::Bad(garbage),
        };
        match line::cut(rest, LINE_BYTES_MAX) {
            Cut::Line(line) => from += line.len() + 2,
            Cut::Spoiled(_) => return Parsed::Bad(Garbage::Newline),
            Cut::TooLong(_) => return Parsed::Bad(Garbage::LongLine),
            Cut::Partial if window.len() == REPLY_BYTES_MAX => {
                return Parsed::Bad(Garbage::TooLong);
            }
            Cut::Partial => return Parsed::Partial,
        }
        if let (Some(code), true) = (code, last) {
            let bytes = window.get(..from).unwrap_or_default();
            return Parsed::Whole(Reply { code, bytes });
        }
    }
    Parsed::Bad(Garbage::ManyLines)
}

/// Judges the front of a line, and says whether the line is the last of its reply. `code` is that
/// of the reply, once it is there. Bytes are looked at in order, and no more than four, so that a
/// cut line is judged as the whole one will be.
fn start(line: &[u8], highest: u8, code: &mut Option<u16>) -> Result<bool, Garbage> {
    // RFC 5321 §4.2: Reply-code = %x32-35 %x30-35 %x30-39
    let allowed = [b'2'..=highest, b'0'..=b'5', b'0'..=b'9'];
    if line.iter().zip(&allowed).any(|(byte, allowed)| !allowed.contains(byte)) {
        return Err(Garbage::Code);
    }
    let Some((digits, rest)) = line.split_at_checked(allowed.len()) else { return Ok(false) };
    let this = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    if *code.get_or_insert(this) != this {
        return Err(Garbage::Mixed);
    }
    match rest.first() {
        Some(b'-') => Ok(false),
        // RFC 5321 §4.2: a client should take a line that has no text, either.
        None | Some(b' ' | b'\r') => Ok(true),
        Some(_) => Err(Garbage::Separator),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(bytes: &[u8]) -> Result<Option<(u16, usize)>, Garbage> {
        match parse(bytes) {
            Parsed::Whole(reply) => Ok(Some((reply.code(), reply.bytes().len()))),
            Parsed::Partial => Ok(None),
            Parsed::Bad(garbage) => Err(garbage),
        }
    }

    /// The same when the bytes come one by one; a decision, once made, stays.
    fn dripped(bytes: &[u8]) -> Result<Option<(u16, usize)>, Garbage> {
        (0..=bytes.len()).map(|n| codes(&bytes[..n])).find(|r| *r != Ok(None)).unwrap_or(Ok(None))
    }

    #[test]
    fn replies_are_whole_or_garbage_of_one_kind() {
        for (bytes, found) in [
            (&b""[..], Ok(None)),
            (b"2", Ok(None)),
            (b"250", Ok(None)),
            (b"250 ok\r", Ok(None)),
            (b"250 ok\r\n", Ok(Some((250, 8)))),
            (b"250\r\n", Ok(Some((250, 5)))),
            (b"250-a\r\n250 b\r\n354 c\r\n", Ok(Some((250, 14)))),
            (b"250-a\r\n250-b\r\n", Ok(None)),
            (b"250-a\r\n25", Ok(None)),
            (b"559 x\r\n", Ok(Some((559, 7)))),
            (b"199 x\r\n", Err(Garbage::Code)),
            (b"650 x\r\n", Err(Garbage::Code)),
            (b"269 x\r\n", Err(Garbage::Code)),
            (b"\r\n", Err(Garbage::Code)),
            (b"SSH-2.0-x\r\n", Err(Garbage::Code)),
            (b"2500 x\r\n", Err(Garbage::Separator)),
            (b"250\tx\r\n", Err(Garbage::Separator)),
            (b"250-a\r\n251 b\r\n", Err(Garbage::Mixed)),
            (b"250-a\r\nhello\r\n", Err(Garbage::Code)),
            // Was of another kind when the separator had come, too.
            (b"441-\r\n414)", Err(Garbage::Mixed)),
            (b"250 a\nb\r\n", Err(Garbage::Newline)),
            (b"250 a\rb\r\n", Err(Garbage::Newline)),
            (b"250 a\0b\r\n", Err(Garbage::Newline)),
        ] {
            assert_eq!(codes(bytes), found, "{:?}", bytes.escape_ascii().to_string());
            assert_eq!(dripped(bytes), found, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn private_codes_are_codes_where_they_are_awaited_only() {
        for (bytes, class) in [
            (&b"600-6.1.0 x\r\n600 y\r\n"[..], Class::Done),
            (b"601 x\r\n", Class::Done),
            (b"651 6.5.1 x\r\n", Class::Permanent),
            (b"250 x\r\n", Class::Done),
            (b"502 x\r\n", Class::Permanent),
        ] {
            let Parsed::Whole(reply) = parse_private(bytes) else { panic!("{bytes:?}") };
            assert_eq!(reply.class(), class);
            assert_eq!(parse(bytes) == Parsed::Bad(Garbage::Code), bytes[0] == b'6');
        }
        for bytes in [&b"700 x\r\n"[..], b"660 x\r\n", b"600-x\r\n601 y\r\n"] {
            assert!(matches!(parse_private(bytes), Parsed::Bad(_)));
        }
    }

    #[test]
    fn each_limit_is_reached_and_not_before() {
        let line = |bytes: usize| [b"250-", "x".repeat(bytes - 6).as_bytes(), b"\r\n"].concat();
        let end = b"250 end\r\n";
        let longest = [&line(LINE_BYTES_MAX)[..], end].concat();
        assert_eq!(codes(&longest), Ok(Some((250, longest.len()))));
        let longer = line(LINE_BYTES_MAX + 1);
        assert_eq!(codes(&longer), Err(Garbage::LongLine));
        assert_eq!(dripped(&longer), Err(Garbage::LongLine));

        let most = [&b"250-\r\n".repeat(LINES_MAX - 1)[..], end].concat();
        assert_eq!(codes(&most), Ok(Some((250, most.len()))));
        let more = [&b"250-\r\n".repeat(LINES_MAX)[..], end].concat();
        assert_eq!(codes(&more), Err(Garbage::ManyLines));
        assert_eq!(dripped(&more), Err(Garbage::ManyLines));

        let full = line(LINE_BYTES_MAX).repeat(REPLY_BYTES_MAX / LINE_BYTES_MAX - 1);
        let fits = [&full[..], b"250 ", &[b'x'; LINE_BYTES_MAX - 6], b"\r\n"].concat();
        assert_eq!(fits.len(), REPLY_BYTES_MAX);
        assert_eq!(codes(&fits), Ok(Some((250, fits.len()))));
        let over = [&full[..], b"250-\r\n", b"250 ", &[b'x'; 1013], b"\r\n"].concat();
        assert_eq!(codes(&over), Err(Garbage::TooLong));
        assert_eq!(dripped(&over), Err(Garbage::TooLong));
    }

    #[test]
    fn lines_and_enhanced_codes_are_read() {
        let Parsed::Whole(reply) = parse(b"250-mx\r\n250\r\n") else { panic!("a reply") };
        assert_eq!(reply.lines().collect::<Vec<_>>(), [&b"mx"[..], b""]);
        for (bytes, code) in [
            (&b"550 5.1.1 no such user\r\n"[..], Some((5, 1, 1))),
            (b"550 5.1.1\r\n", Some((5, 1, 1))),
            (b"250 5.1.1 ok\r\n", None),
            (b"550 no\r\n", None),
            (b"550 5.1234.1 no\r\n", None),
            (b"550\r\n", None),
        ] {
            let Parsed::Whole(reply) = parse(bytes) else { panic!("a reply") };
            assert_eq!(reply.enhanced(), code, "{bytes:?}");
        }
    }
}
