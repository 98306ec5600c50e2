//! Ends a message after its headers, the empty line, and n lines of the body (RFC 1939 §7, TOP).
//!
//! The driver passes each piece of the body through [`Top::take`] before the dot-stuffing. Works by
//! blocks, holds a counter and a flag, copies nothing, cannot fail, and does not depend on how the
//! message was cut into pieces. A bare LF ends a line too: a message that came in as binary may
//! hold some, and counting it shows less of such a message, never more than was asked for.

use memchr::memchr;

/// How much of a message is still to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Top {
    place: Place,
    lines: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// At the start of a header line.
    HeaderStart,
    /// Behind a CR at the start of a header line.
    HeaderStartCr,
    /// Within a header line.
    Header,
    /// Behind the empty line.
    Body,
}

impl Top {
    /// Shows the headers and at most `lines` lines of the body.
    #[must_use]
    pub const fn new(lines: u64) -> Self {
        Self { place: Place::HeaderStart, lines }
    }

    /// Whether nothing more will be shown: the rest of the message need not be read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.place == Place::Body && self.lines == 0
    }

    /// The part of `piece`, from its front, that is shown.
    #[must_use]
    pub fn take<'b>(&mut self, piece: &'b [u8]) -> &'b [u8] {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            let behind = match (self.place, first) {
                (Place::Body, _) if self.lines == 0 => break,
                (Place::HeaderStart, b'\r') => {
                    self.place = Place::HeaderStartCr;
                    1
                }
                (Place::HeaderStart | Place::HeaderStartCr, b'\n') => {
                    self.place = Place::Body;
                    1
                }
                _ => self.line(rest),
            };
            rest = rest.get(behind..).unwrap_or_default();
        }
        piece.get(..piece.len() - rest.len()).unwrap_or(piece)
    }

    /// Goes to the end of the line or of the piece; says how many bytes that is.
    fn line(&mut self, rest: &[u8]) -> usize {
        let end = memchr(b'\n', rest);
        if self.place == Place::Body {
            self.lines -= u64::from(end.is_some());
        } else {
            self.place = if end.is_some() { Place::HeaderStart } else { Place::Header };
        }
        end.map_or(rest.len(), |end| end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, line by line over the whole message.
    fn naive(message: &[u8], lines: u64) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut left = None;
        for line in message.split_inclusive(|&byte| byte == b'\n') {
            match &mut left {
                Some(0) => break,
                Some(left) => *left -= 1,
                None if line == b"\r\n" || line == b"\n" => left = Some(lines),
                None => {}
            }
            shown.extend_from_slice(line);
        }
        shown
    }

    fn pieces(message: &[u8], lines: u64, cuts: &[usize]) -> Vec<u8> {
        let mut top = Top::new(lines);
        let mut shown = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&message.len()]) {
            let cut = cut.clamp(from, message.len());
            shown.extend_from_slice(top.take(&message[from..cut]));
            from = cut;
        }
        assert!(top.take(b"").is_empty());
        shown
    }

    #[test]
    fn shows_headers_and_so_many_lines() {
        let message = b"A: b\r\nC: d\r\n\r\none\r\ntwo\r\nthree\r\n";
        for (lines, shown) in [(0, 14), (1, 19), (2, 24), (3, 31), (u64::MAX, 31)] {
            assert_eq!(pieces(message, lines, &[]), message[..shown]);
            let all: Vec<usize> = (0..message.len()).collect();
            assert_eq!(pieces(message, lines, &all), message[..shown]);
        }
        assert_eq!(pieces(b"\r\nbody\r\n", 0, &[]), b"\r\n");
        assert_eq!(pieces(b"A: b\r\n", 0, &[]), b"A: b\r\n");
        assert!(!Top::new(0).is_done());
    }

    proptest! {
        #[test]
        fn equals_the_naive_way_for_every_cut(
            message in prop::collection::vec(
                prop::sample::select(b"\r\n\r\nxy:.".to_vec()), 0..60),
            lines in 0u64..5,
            mut cuts in prop::collection::vec(0usize..60, 0..6),
        ) {
            cuts.sort_unstable();
            prop_assert_eq!(pieces(&message, lines, &cuts), naive(&message, lines));
        }
    }
}
