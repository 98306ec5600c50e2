//! Cutting command lines out of the receive window: the one place that knows what a newline is.
//!
//! Sessions call [`cut`] with the front of their window. A line ends at CRLF and nowhere else; a
//! bare CR or LF, or a NUL, never ends a line but spoils it, so that a client and this server can
//! never disagree on how many lines there were. The state that this needs is the window itself
//! (at most the caller's line limit) and, past that limit, nothing: see [`skip`].

use memchr::memchr;

/// What stands at the front of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut<'b> {
    /// A whole line without its CRLF, which is free of NUL, CR and LF. Consume `len + 2` bytes.
    Line(&'b [u8]),
    /// A whole line that holds a NUL, a bare CR or a bare LF. Consume this many bytes.
    Spoiled(usize),
    /// No end yet, and fewer bytes than the limit: wait for more.
    Partial,
    /// The limit was reached without an end: consume this many bytes, then [`skip`] the rest.
    TooLong(usize),
}

/// Looks for a line of at most `bytes_max` bytes, CRLF included, at the front of `window`.
#[must_use]
pub fn cut(window: &[u8], bytes_max: usize) -> Cut<'_> {
    let within = window.get(..bytes_max).unwrap_or(window);
    let mut from = 0;
    while let Some(found) = within.get(from..).and_then(|rest| memchr(b'\n', rest)) {
        let lf = from + found;
        // RFC 5321 §2.3.8: only CR and LF together end a line.
        if lf > 0 && within.get(lf - 1) == Some(&b'\r') {
            let line = within.get(..lf - 1).unwrap_or_default();
            // Lines are short: looking at every byte is cheaper than calling a search.
            let spoilt = line.iter().fold(false, |found, b| found | (*b == b'\r') | (*b == 0));
            return if from == 0 && !spoilt { Cut::Line(line) } else { Cut::Spoiled(lf + 1) };
        }
        from = lf + 1;
    }
    if window.len() < bytes_max { Cut::Partial } else { Cut::TooLong(certain(within)) }
}

/// Skips the rest of a line that is too long: the bytes to consume, and whether the end is among
/// them. A CR at the very end of the window is left there, for it may begin the CRLF.
#[must_use]
pub fn skip(window: &[u8]) -> (usize, bool) {
    let mut from = 0;
    while let Some(found) = window.get(from..).and_then(|rest| memchr(b'\n', rest)) {
        let lf = from + found;
        if lf > 0 && window.get(lf - 1) == Some(&b'\r') {
            return (lf + 1, true);
        }
        from = lf + 1;
    }
    (certain(window), false)
}

/// The bytes of `window` that cannot be the first half of a CRLF.
fn certain(window: &[u8]) -> usize {
    window.len() - usize::from(window.last() == Some(&b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_ends_a_line_and_other_newlines_spoil_it() {
        for (window, cut_as) in [
            (&b""[..], Cut::Partial),
            (b"NOOP", Cut::Partial),
            (b"NOOP\r", Cut::Partial),
            (b"NOOP\n", Cut::Partial),
            (b"\r\n", Cut::Line(b"")),
            (b"NOOP\r\nQUIT\r\n", Cut::Line(b"NOOP")),
            (b"NOOP\nQUIT\r\nX", Cut::Spoiled(11)),
            (b"NO\rOP\r\n", Cut::Spoiled(7)),
            (b"NOOP\r\r\n", Cut::Spoiled(7)),
            (b"\n\r\n", Cut::Spoiled(3)),
            (b"NO\0OP\r\n", Cut::Spoiled(7)),
        ] {
            assert_eq!(cut(window, 2048), cut_as, "{window:?}");
        }
    }

    #[test]
    fn the_limit_counts_the_crlf_and_the_rest_is_skipped_to_it() {
        let mut line = vec![b'x'; 14];
        line.extend_from_slice(b"\r\n");
        assert_eq!(cut(&line, 16), Cut::Line(&line[..14]));
        line.insert(0, b'x');
        // The CR stands at the limit: it may begin the CRLF, so it stays in the window.
        assert_eq!(cut(&line, 16), Cut::TooLong(15));
        assert_eq!(skip(&line[15..16]), (0, false));
        assert_eq!(skip(&line[15..]), (2, true));
        assert_eq!(skip(b"x\nx\rx\r\nNOOP"), (7, true));
        assert_eq!(skip(b"xx"), (2, false));
        assert_eq!(skip(b"\r\r"), (1, false));
    }
}
