//! Cuts command lines out of the input window; called by the session only.
//!
//! A line ends at LF. One that holds a NUL, a CR that no LF follows, or ends in a bare LF is
//! malformed: it is consumed as a whole and answered, so both sides stay in step. A line that is
//! too long is reported as soon as that is certain, the rest of it is skipped as it comes in. The
//! lines of an AUTH exchange may be longer than commands (RFC 5034 §4): the caller says how long.

use memchr::{memchr, memchr2};

/// The most octets of a command line, CRLF included.
///
/// RFC 2449 §4 allows 255. Addresses in UTF-8 (RFC 6856) and long passwords do not fit there, so
/// more is taken; arbitrary above that, and far below what a receive window holds.
pub const LINE_BYTES_MAX: usize = 512;

/// What stands at the front of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut<'b> {
    /// Not yet a whole line, and it may still become one.
    More,
    /// A line without its CRLF; `bytes` are consumed with it.
    Line { line: &'b [u8], bytes: usize },
    /// A whole line that no command may look like.
    Malformed { why: &'static str, bytes: usize },
    /// The line has no end within the limit; `bytes` of it are here.
    TooLong { bytes: usize },
}

/// Looks at the front of `input` for a line of at most `bytes_max` octets, its end included.
pub(super) fn cut(input: &[u8], bytes_max: usize) -> Cut<'_> {
    let head = input.get(..bytes_max).unwrap_or(input);
    let Some(end) = memchr(b'\n', head) else {
        return if head.len() == bytes_max {
            Cut::TooLong { bytes: head.len() }
        } else {
            Cut::More
        };
    };
    let bytes = end + 1;
    let line = head.get(..end).unwrap_or_default();
    let Some((&b'\r', line)) = line.split_last() else {
        return Cut::Malformed { why: "a line ends in CR LF.", bytes };
    };
    if memchr2(b'\r', 0, line).is_some() {
        return Cut::Malformed { why: "no NUL and no bare CR in a line.", bytes };
    }
    Cut::Line { line, bytes }
}

/// How much of `input` belongs to a line that is being skipped, and whether its end is among it.
pub(super) fn skip(input: &[u8]) -> (usize, bool) {
    match memchr(b'\n', input) {
        Some(end) => (end + 1, true),
        None => (input.len(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[u8]) -> Cut<'_> {
        super::cut(input, LINE_BYTES_MAX)
    }

    #[test]
    fn lines_end_in_crlf_only() {
        assert_eq!(cut(b"NOOP\r\nQ"), Cut::Line { line: b"NOOP", bytes: 6 });
        assert_eq!(cut(b"\r\n"), Cut::Line { line: b"", bytes: 2 });
        assert_eq!(cut(b"NOOP\r"), Cut::More);
        assert_eq!(cut(b""), Cut::More);
        assert!(matches!(cut(b"NOOP\nQUIT\r\n"), Cut::Malformed { bytes: 5, .. }));
        assert!(matches!(cut(b"\n"), Cut::Malformed { bytes: 1, .. }));
        assert!(matches!(cut(b"A\rB\r\n"), Cut::Malformed { bytes: 5, .. }));
        assert!(matches!(cut(b"A\r\r\n"), Cut::Malformed { bytes: 4, .. }));
        assert!(matches!(cut(b"A\0\r\n"), Cut::Malformed { bytes: 4, .. }));
    }

    #[test]
    fn the_longest_line_fits_and_one_more_octet_does_not() {
        let mut line = vec![b'x'; LINE_BYTES_MAX - 2];
        line.extend_from_slice(b"\r\n");
        assert!(matches!(cut(&line), Cut::Line { bytes: LINE_BYTES_MAX, .. }));
        line.insert(0, b'x');
        assert_eq!(cut(&line), Cut::TooLong { bytes: LINE_BYTES_MAX });
        assert_eq!(cut(&line[..LINE_BYTES_MAX - 1]), Cut::More);
    }
}
