//! The message body on the wire: end-of-data, dot-unstuffing, and the watch for bare newlines.
//!
//! The server session calls [`Scanner`] after DATA and [`Newlines`] within BDAT chunks. Both look
//! at whole blocks of the window and hand out slices of it, nothing is copied. What could become
//! the end of data stays in the window until it is decided (at most two bytes), so every cut of
//! the stream gives the same message.
//!
//! Data ends at `CRLF . CRLF` and nowhere else. A bare CR or LF does not end a line and does not
//! begin one; it marks the message, which the session refuses at its real end. So no peer that
//! reads newlines in another way can be made to see two messages where this server saw one.

use fearless_simd::{Level, dispatch};

const BLOCK_BYTES: usize = 64;
/// From this length on it pays to ask which vector instructions the processor has.
const LONG_BYTES: usize = 4 * BLOCK_BYTES;

/// What the scanner found at the front of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'b> {
    /// Bytes of the message, never empty; `consumed` may be one more, for a dot that was removed.
    Data {
        /// The bytes, a slice of the window.
        bytes: &'b [u8],
        /// How many bytes of the window they take.
        consumed: usize,
    },
    /// The end of data, three bytes.
    End,
    /// Nothing can be decided before more bytes arrive; what the window holds must stay.
    NeedInput,
}

/// Reads one message after DATA. Lines may be of any length (RFC 5321 §4.5.3.1.6 asks for 1,000).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanner {
    at_line_start: bool,
    bare_newline: bool,
}

/// The bytes that the [`Scanner`] may leave in the window: `.` and CR.
pub const HELD_BYTES_MAX: usize = 2;

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at the first byte after DATA, which counts as the start of a line.
    #[must_use]
    pub const fn new() -> Self {
        Self { at_line_start: true, bare_newline: false }
    }

    /// Whether a bare CR or a bare LF was among the bytes so far.
    #[must_use]
    pub const fn bare_newline(&self) -> bool {
        self.bare_newline
    }

    /// Looks at the front of `window`; the caller consumes what the piece says and calls again.
    ///
    /// One piece covers the whole window, up to the next dot that must be removed or ends it.
    pub fn scan<'b>(&mut self, window: &'b [u8]) -> Piece<'b> {
        let dots = match window {
            // RFC 5321 §4.1.1.4, §4.5.2: a line that is a single dot ends the message ...
            [b'.', b'\r', b'\n', ..] if self.at_line_start => return Piece::End,
            [b'.'] | [b'.', b'\r'] if self.at_line_start => return Piece::NeedInput,
            // ... and any other line that begins with a dot loses it.
            [b'.', ..] if self.at_line_start => 1,
            _ => 0,
        };
        let rest = window.get(dots..).unwrap_or_default();
        let (len, bare) = run(rest);
        self.bare_newline |= bare;
        let bytes = rest.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            debug_assert!(dots == 0, "a dot is removed only when a byte after it is certain");
            return Piece::NeedInput;
        }
        self.at_line_start = bytes.ends_with(b"\r\n");
        Piece::Data { bytes, consumed: dots + len }
    }
}

/// How many bytes of `bytes` belong together, up to the next line that begins with a dot, and
/// whether a bare newline is among them. A CR at the very end is not counted, for it may begin a
/// CRLF; that it follows another CR is seen here, what follows it is seen next time.
fn run(bytes: &[u8]) -> (usize, bool) {
    if bytes.len() < LONG_BYTES {
        return run_of_blocks(bytes);
    }
    dispatch!(Level::new(), _ => run_of_blocks(bytes))
}

#[inline(always)] // WHY: compiled once for each set of vector instructions
fn run_of_blocks(bytes: &[u8]) -> (usize, bool) {
    let Some((first, after)) = bytes.split_first() else { return (0, false) };
    // The byte before is never a CR: that one would have stayed in the window.
    let mut bare = *first == b'\n';
    let before = bytes.get(..after.len()).unwrap_or_default();
    let (before_blocks, before_tail) = before.as_chunks::<BLOCK_BYTES>();
    let (after_blocks, after_tail) = after.as_chunks::<BLOCK_BYTES>();
    let mut at = 0;
    for (before, after) in before_blocks.iter().zip(after_blocks) {
        let found = survey(before, after);
        if found.dot
            && let Some(end) = stuffed_line(bytes, at, BLOCK_BYTES)
        {
            return (end, bare | bare_within(bytes, at, end));
        }
        bare |= found.bare;
        at += BLOCK_BYTES;
    }
    let found = survey(before_tail, after_tail);
    if found.dot
        && let Some(end) = stuffed_line(bytes, at, before_tail.len())
    {
        return (end, bare | bare_within(bytes, at, end));
    }
    let held = usize::from(bytes.last() == Some(&b'\r'));
    (bytes.len() - held, bare | found.bare)
}

/// What a block holds.
struct Survey {
    bare: bool,
    dot: bool,
}

/// Compares each byte with the one before it. Without branches, so it is compiled to vector
/// instructions: 72 ns per KiB where a search for each LF in turn took 165 ns (60-byte lines).
#[inline(always)]
fn survey(before: &[u8], after: &[u8]) -> Survey {
    let mut bare = 0;
    let mut dot = 0;
    for (a, b) in before.iter().zip(after) {
        // A CR and an LF that are not beside each other: one of the two comparisons differs.
        bare |= u8::from(*a == b'\r') ^ u8::from(*b == b'\n');
        dot |= u8::from(*a == b'\n') & u8::from(*b == b'.');
    }
    Survey { bare: bare != 0, dot: dot != 0 }
}

/// The first index in `at + 1 ..= at + len` where a dot begins a line.
fn stuffed_line(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    (at + 1..=at + len)
        .find(|&i| i >= 2 && bytes.get(i - 2..=i).is_some_and(|three| three == b"\r\n."))
}

/// Whether a newline is bare among the bytes `at .. end`, each seen with the byte before it. The
/// last two are CRLF.
fn bare_within(bytes: &[u8], at: usize, end: usize) -> bool {
    let before = bytes.get(at..end - 1).unwrap_or_default();
    let after = bytes.get(at + 1..end).unwrap_or_default();
    survey(before, after).bare
}

/// Watches for bare newlines in bytes that come in chunks of announced size (BDAT), where a CR
/// may end one chunk and its LF begin the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Newlines {
    after_cr: bool,
    bare: bool,
}

impl Newlines {
    /// Takes the next bytes of the message.
    pub fn feed(&mut self, bytes: &[u8]) {
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return };
        self.bare |= self.after_cr != (*first == b'\n');
        self.after_cr = *last == b'\r';
        let after = bytes.get(1..).unwrap_or_default();
        self.bare |= survey_all(bytes.get(..after.len()).unwrap_or_default(), after);
    }

    /// Whether a bare CR or LF was among the bytes so far. A CR at the end is still undecided.
    #[must_use]
    pub const fn bare(&self) -> bool {
        self.bare
    }

    /// The same at the end of the message, where a last CR is bare.
    #[must_use]
    pub const fn bare_at_end(&self) -> bool {
        self.bare || self.after_cr
    }
}

fn survey_all(before: &[u8], after: &[u8]) -> bool {
    if after.len() < LONG_BYTES {
        return survey_blocks(before, after);
    }
    dispatch!(Level::new(), _ => survey_blocks(before, after))
}

#[inline(always)] // WHY: as above
fn survey_blocks(before: &[u8], after: &[u8]) -> bool {
    let (before_blocks, before_tail) = before.as_chunks::<BLOCK_BYTES>();
    let (after_blocks, after_tail) = after.as_chunks::<BLOCK_BYTES>();
    before_blocks.iter().zip(after_blocks).fold(false, |bare, (b, a)| bare | survey(b, a).bare)
        | survey(before_tail, after_tail).bare
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What a reader of the RFC with all the bytes before him would say.
    #[derive(PartialEq, Eq, Debug)]
    struct Read {
        message: Vec<u8>,
        rest: Option<Vec<u8>>,
        bare: bool,
    }

    /// The oracle: finds the end as a substring, cuts lines, removes dots, one byte at a time.
    fn naive(wire: &[u8]) -> Read {
        let stream = [b"\r\n", wire].concat();
        let end = stream.windows(5).position(|five| five == b"\r\n.\r\n");
        let body = &stream[2..end.map_or(stream.len(), |at| at + 2).max(2)];
        let mut message = Vec::new();
        for (i, &byte) in body.iter().enumerate() {
            let starts_line = i == 0 || (i >= 2 && &body[i - 2..i] == b"\r\n");
            if !(starts_line && byte == b'.') {
                message.push(byte);
            }
        }
        let bare = has_bare(body);
        Read { message, rest: end.map(|at| stream[at + 5..].to_vec()), bare }
    }

    fn has_bare(body: &[u8]) -> bool {
        (0..body.len()).any(|i| match body[i] {
            b'\r' => body.get(i + 1) != Some(&b'\n'),
            b'\n' => i == 0 || body[i - 1] != b'\r',
            _ => false,
        })
    }

    /// Feeds `wire` to a scanner with the window growing by the sizes that `steps` gives.
    fn scanned(wire: &[u8], mut steps: impl FnMut() -> usize) -> Read {
        let mut scanner = Scanner::new();
        let (mut from, mut to) = (0, 0);
        let mut message = Vec::new();
        loop {
            match scanner.scan(&wire[from..to]) {
                Piece::Data { bytes, consumed } => {
                    assert!(!bytes.is_empty() && consumed - bytes.len() <= 1);
                    message.extend_from_slice(bytes);
                    from += consumed;
                }
                Piece::End => {
                    let rest = Some(wire[from + 3..].to_vec());
                    return Read { message, rest, bare: scanner.bare_newline() };
                }
                Piece::NeedInput => {
                    assert!(to - from <= HELD_BYTES_MAX);
                    if to == wire.len() {
                        return finish(wire, from, message, scanner);
                    }
                    to = (to + steps()).min(wire.len());
                }
            }
        }
    }

    /// The stream stopped before the end of data: what is held was not decided.
    fn finish(wire: &[u8], from: usize, mut message: Vec<u8>, scanner: Scanner) -> Read {
        // The oracle sees a last dot as removed and a last CR as bare.
        let held = &wire[from..];
        message.extend(held.iter().filter(|b| **b != b'.'));
        let bare = scanner.bare_newline() || held.contains(&b'\r');
        Read { message, rest: None, bare }
    }

    fn each_string(alphabet: &[u8], len_max: usize, mut test: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        let mut indexes: Vec<usize> = Vec::new();
        let mut text = Vec::new();
        loop {
            text.clear();
            text.extend(indexes.iter().map(|i| alphabet[*i]));
            test(&text);
            count += 1;
            let Some(place) = indexes.iter().rposition(|i| i + 1 < alphabet.len()) else {
                if indexes.len() == len_max {
                    return count;
                }
                indexes = vec![0; indexes.len() + 1];
                continue;
            };
            indexes[place] += 1;
            indexes[place + 1..].fill(0);
        }
    }

    #[test]
    fn agrees_with_the_oracle_on_every_short_string() {
        let count = each_string(b".\r\nx", 8, |wire| {
            let expected = naive(wire);
            assert_eq!(scanned(wire, || usize::MAX >> 1), expected, "whole: {wire:?}");
            assert_eq!(scanned(wire, || 1), expected, "byte by byte: {wire:?}");
        });
        assert_eq!(count, 87_381);
    }

    /// The same strings across the edges of blocks, where the vector loop hands over.
    #[test]
    fn agrees_with_the_oracle_at_block_edges() {
        for lead in [BLOCK_BYTES - 5, BLOCK_BYTES - 2, 2 * BLOCK_BYTES - 3] {
            each_string(b".\r\nx", 5, |middle| {
                let wire = [&vec![b'y'; lead], middle, &[b'z'; 70], b"\r\n.\r\n"].concat();
                assert_eq!(scanned(&wire, || usize::MAX >> 1), naive(&wire), "{wire:?}");
            });
        }
    }

    #[test]
    fn agrees_with_the_table_of_vectors() {
        let files = [
            include_str!("../../../tests/vectors/body/end-of-data.txt"),
            include_str!("../../../tests/vectors/body/smuggling.txt"),
        ];
        let mut rows = 0;
        for row in files.iter().flat_map(|f| f.lines()).filter(|l| !l.starts_with('#')) {
            let mut columns = row.split('|').map(|c| unescape(c.trim()));
            let mut column = || columns.next().expect("a column");
            let (wire, message, rest, verdict) = (column(), column(), column(), column());
            let read = scanned(&wire, || 1);
            assert_eq!(read, scanned(&wire, || usize::MAX >> 1), "{row}");
            assert_eq!(read, naive(&wire), "{row}");
            match verdict.as_slice() {
                b"open" => assert_eq!(read.rest, None, "{row}"),
                b"taken" => assert!(!read.bare, "{row}"),
                b"refused" => assert!(read.bare, "{row}"),
                other => panic!("unknown verdict {other:?}"),
            }
            if verdict != b"open" {
                assert_eq!(read.message, message, "{row}");
                assert_eq!(read.rest, Some(rest), "{row}");
            }
            rows += 1;
        }
        assert!(rows >= 20, "the vectors must be there: {rows}");
    }

    /// `CR`, `LF` and `CRLF` in angle brackets stand for those bytes, `-` alone for nothing.
    fn unescape(text: &str) -> Vec<u8> {
        if text == "-" {
            return Vec::new();
        }
        text.replace("<CRLF>", "\r\n").replace("<CR>", "\r").replace("<LF>", "\n").into_bytes()
    }

    #[test]
    fn an_ordinary_window_is_one_slice() {
        let wire = b"a line of text, as they come\r\n".repeat(500);
        let mut scanner = Scanner::new();
        let expected = Piece::Data { bytes: &wire, consumed: wire.len() };
        assert_eq!(scanner.scan(&wire), expected);
    }

    #[test]
    fn chunks_see_a_crlf_that_is_cut_between_them() {
        each_string(b"\r\nx", 7, |bytes| {
            let bare = naive(&[b"x", bytes].concat()).bare;
            for cut in 0..=bytes.len() {
                let mut newlines = Newlines::default();
                newlines.feed(&bytes[..cut]);
                newlines.feed(&bytes[cut..]);
                assert_eq!(newlines.bare_at_end(), bare, "{bytes:?} at {cut}");
            }
        });
    }

    /// What decides, at every place of windows that are just short, just long, and just past a
    /// block more.
    #[test]
    fn agrees_with_the_oracle_wherever_it_is_decided_in_a_long_window() {
        let decisive: [&[u8]; 6] = [b"\r", b"\n", b"\r\n.", b"\r\n.\r\n", b"\n.\r\n", b"\r\r\n."];
        for len in [-1, 0, 1, 2].map(|more| LONG_BYTES.saturating_add_signed(more)) {
            for (place, text) in (0..len + BLOCK_BYTES).flat_map(|p| decisive.map(|t| (p, t))) {
                let mut wire = vec![b'y'; len + BLOCK_BYTES];
                let end = (place + text.len()).min(wire.len());
                wire[place..end].copy_from_slice(&text[..end - place]);
                for wire in [&wire[..], &wire[BLOCK_BYTES..]] {
                    assert_eq!(scanned(wire, || usize::MAX >> 1), naive(wire), "{wire:?}");
                    let mut newlines = Newlines::default();
                    newlines.feed(wire);
                    assert_eq!(newlines.bare_at_end(), has_bare(wire), "{wire:?}");
                }
            }
        }
    }

    /// Mail, dots and, in every second wire, a newline that is bare.
    fn long_wire() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            60 => "[a-z.]{1,70}\r\n",
            20 => Just("\r\n".to_owned()),
            20 => Just("\r\n.".to_owned()),
            2 => Just("\r\n.\r\n".to_owned()),
            1 => Just("\r".to_owned()),
            1 => Just("\n".to_owned()),
        ];
        (vec(piece, 40..50), 200_usize..1200).prop_map(|(pieces, len)| {
            let mut wire = pieces.concat().into_bytes();
            wire.truncate(len);
            wire
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle_on_long_windows_however_they_are_cut(
            wire in long_wire(),
            steps in vec(1_usize..900, 1..6),
        ) {
            let expected = naive(&wire);
            prop_assert_eq!(&scanned(&wire, || usize::MAX >> 1), &expected);
            let mut cycle = steps.iter().copied().cycle();
            prop_assert_eq!(&scanned(&wire, || cycle.next().expect("endless")), &expected);
            prop_assert_eq!(run(&wire), run_of_blocks(&wire));
            let (mut newlines, mut rest) = (Newlines::default(), &wire[..]);
            for step in steps.iter().cycle() {
                let (chunk, after) = rest.split_at((*step).min(rest.len()));
                newlines.feed(chunk);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(newlines.bare_at_end(), has_bare(&wire));
        }
    }
}
