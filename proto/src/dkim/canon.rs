//! Canonical forms of bodies (RFC 6376 §§3.4.3, 3.4.4), made while the body streams by, and their
//! hash.
//!
//! A signer feeds [`BodyHash`] the slices that it passes on, cut anywhere. Long clean stretches go
//! to the hash as they are; what white space changes is copied, a few KiB at a time. Nothing of the
//! body is kept: what may be the end of a line or of the body is a count of line ends and two
//! flags. Cannot fail.
//!
//! A line ends at CRLF only. A bare CR or LF, which this engine takes from nobody, is an octet as
//! any other. The end of the body is the end of its last line, too.

use core::fmt;
use core::mem::take;
use ring::digest;

use super::squeeze::{ROOM_BYTES, clean_bytes, squeeze};

/// How a header or a body is made comparable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Canon {
    /// Next to nothing may change on the way.
    Simple,
    /// White space may.
    #[default]
    Relaxed,
}

impl Canon {
    /// As the tag `c=` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }
}

/// How much is looked through at once, so that it is still in the cache when it is hashed.
const BLOCK_BYTES: usize = 16 * 1024;
/// From this length on what stays as it is goes on by itself; below it is copied. Arbitrary.
const CLEAN_BYTES_MIN: usize = 1024;

/// RFC 6376 §2.8.
pub(super) const fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A body on its way to its canonical form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    canon: Canon,
    /// Line ends that are written only when something follows them.
    lines: u64,
    /// White space, likewise; relaxed only.
    space: bool,
    /// The bytes so far end with a CR, which may be the first half of a line end.
    cr: bool,
    /// Something was written.
    any: bool,
}

impl Body {
    /// Before the first byte of a body.
    #[must_use]
    pub const fn new(canon: Canon) -> Self {
        Self { canon, lines: 0, space: false, cr: false, any: false }
    }

    /// Takes the next bytes of the body; `sink` gets what is known to belong to its form.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) {
        for block in bytes.chunks(BLOCK_BYTES) {
            self.block(block, sink);
        }
    }

    /// The body is over.
    pub fn finish(mut self, sink: &mut impl FnMut(&[u8])) {
        if take(&mut self.cr) {
            self.write(b"\r", sink);
        }
        // RFC 6376 §3.4.3: also an empty body ends with CRLF. RFC 6376 §3.4.4: it does not.
        if self.any || self.canon == Canon::Simple {
            sink(b"\r\n");
        }
    }

    fn block(&mut self, block: &[u8], sink: &mut impl FnMut(&[u8])) {
        let mut rest = block;
        if take(&mut self.cr) {
            match rest.strip_prefix(b"\n") {
                Some(behind) => {
                    self.line_end();
                    rest = behind;
                }
                None => self.write(b"\r", sink),
            }
        }
        let rest = self.hold_back(rest);
        let (inner, end) = rest.split_at(self.settled_bytes(rest));
        if !inner.is_empty() {
            self.write_inner(inner, sink);
        }
        self.cr = self.hold_back(end) == b"\r";
    }

    /// How many bytes at the front of `rest` count whatever follows: what could turn out to be the
    /// end of a line or of the body comes behind them.
    fn settled_bytes(&self, rest: &[u8]) -> usize {
        let mut settled = rest.strip_suffix(b"\r").unwrap_or(rest);
        loop {
            settled = match settled {
                [front @ .., b' ' | b'\t'] if self.canon == Canon::Relaxed => front,
                [front @ .., b'\r', b'\n'] => front,
                _ => return settled.len(),
            };
        }
    }

    /// Writes what begins and ends with a byte that stays.
    fn write_inner(&mut self, inner: &[u8], sink: &mut impl FnMut(&[u8])) {
        if self.canon == Canon::Simple {
            return self.write(inner, sink);
        }
        let mut room = [0; ROOM_BYTES];
        let mut rest = inner;
        while !rest.is_empty() {
            let clean = clean_bytes(rest);
            let (taken, written) = if clean == rest.len() || clean >= CLEAN_BYTES_MIN {
                (clean, rest.get(..clean))
            } else {
                // copy: a hash is quicker with one long piece than with many short ones.
                let (taken, written) = squeeze(rest, &mut room);
                (taken, room.get(..written))
            };
            self.write(written.unwrap_or_default(), sink);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Takes white space and line ends off the front of `rest`.
    fn hold_back<'b>(&mut self, mut rest: &'b [u8]) -> &'b [u8] {
        loop {
            if self.canon == Canon::Relaxed {
                let white = rest.iter().position(|&b| !is_white(b)).unwrap_or(rest.len());
                self.space |= white > 0;
                rest = rest.get(white..).unwrap_or_default();
            }
            let Some(behind) = rest.strip_prefix(b"\r\n") else { return rest };
            self.line_end();
            rest = behind;
        }
    }

    /// RFC 6376 §3.4.4: white space in front of a line end is not there.
    const fn line_end(&mut self) {
        self.lines += 1;
        self.space = false;
    }

    /// Writes `bytes`, and before them what only counts when something follows.
    fn write(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) {
        const LINES: [u8; 64] = {
            let mut lines = [b'\r'; 64];
            let mut at = 1;
            while at < lines.len() {
                lines[at] = b'\n';
                at += 2;
            }
            lines
        };
        let mut lines = take(&mut self.lines);
        while lines > 0 {
            let now = lines.min(LINES.len() as u64 / 2);
            sink(LINES.get(..now as usize * 2).unwrap_or_default());
            lines -= now;
        }
        if take(&mut self.space) {
            sink(b" ");
        }
        sink(bytes);
        self.any = true;
    }
}

/// A body whose canonical form is being hashed with SHA-256.
#[derive(Clone)]
pub struct BodyHash {
    body: Body,
    hash: digest::Context,
}

impl BodyHash {
    /// Before the first byte of a body.
    #[must_use]
    pub fn new(canon: Canon) -> Self {
        Self { body: Body::new(canon), hash: digest::Context::new(&digest::SHA256) }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        let hash = &mut self.hash;
        self.body.feed(bytes, &mut |piece| hash.update(piece));
    }

    /// What the tag `bh=` holds, before it is encoded.
    #[must_use]
    pub fn finish(self) -> digest::Digest {
        let Self { body, mut hash } = self;
        body.finish(&mut |piece| hash.update(piece));
        hash.finish()
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyHash({:?})", self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::encode;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const BOTH: [Canon; 2] = [Canon::Simple, Canon::Relaxed];

    /// The oracle: what a reader of the RFC with the whole body before him would do.
    fn naive(canon: Canon, body: &[u8]) -> Vec<u8> {
        let mut lines = vec![Vec::new()];
        for &byte in body {
            let line = lines.last_mut().unwrap();
            line.push(byte);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                lines.push(Vec::new());
            }
        }
        if canon == Canon::Relaxed {
            for line in &mut lines {
                for byte in line.iter_mut().filter(|byte| **byte == b'\t') {
                    *byte = b' ';
                }
                line.dedup_by(|a, b| *a == b' ' && *b == b' ');
                if line.last() == Some(&b' ') {
                    line.pop();
                }
            }
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        if lines.is_empty() && canon == Canon::Simple {
            return b"\r\n".to_vec();
        }
        lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect()
    }

    fn streamed<'b>(canon: Canon, pieces: impl IntoIterator<Item = &'b [u8]>) -> Vec<u8> {
        let (mut body, mut out) = (Body::new(canon), Vec::new());
        for piece in pieces {
            body.feed(piece, &mut |bytes| out.extend_from_slice(bytes));
        }
        body.finish(&mut |bytes| out.extend_from_slice(bytes));
        out
    }

    fn check_every_cut(body: &[u8]) {
        for canon in BOTH {
            let due = naive(canon, body);
            assert_eq!(streamed(canon, body.chunks(1)), due, "{canon:?} {body:?} byte by byte");
            for cut in 0..=body.len() {
                let (front, back) = body.split_at(cut);
                assert_eq!(streamed(canon, [front, back]), due, "{canon:?} {body:?} cut at {cut}");
            }
        }
    }

    /// Every string of up to `length` tokens.
    fn every(tokens: &[&[u8]], length: usize, check: &mut impl FnMut(&[u8])) {
        fn go(t: &[&[u8]], left: usize, text: &mut Vec<u8>, check: &mut impl FnMut(&[u8])) {
            check(text);
            for token in t.iter().filter(|_| left > 0) {
                text.extend_from_slice(token);
                go(t, left - 1, text, check);
                text.truncate(text.len() - token.len());
            }
        }
        go(tokens, length, &mut Vec::new(), check);
    }

    #[test]
    fn every_short_body_in_every_cut() {
        every(&[b"\r\n", b" ", b"\t", b"a"], 6, &mut check_every_cut);
    }

    #[test]
    fn bare_newlines_are_octets() {
        every(&[b"\r", b"\n", b" ", b"\t", b"a"], 5, &mut check_every_cut);
        every(&[b"\r", b"\n", b" ", b"a"], 6, &mut check_every_cut);
    }

    proptest! {
        #[test]
        fn any_body_in_any_cut(
            tokens in vec(prop_oneof![
                Just(b"\r\n".to_vec()),
                Just(b" ".to_vec()),
                Just(b"\t".to_vec()),
                Just(b"words of text".to_vec()),
                vec(any::<u8>(), 0..4),
                (1..40usize).prop_map(|n| b" ".repeat(n)),
                (1..100usize).prop_map(|n| b"\r\n".repeat(n)),
            ], 0..60),
            cuts in vec(1..50usize, 1..20),
        ) {
            let body = tokens.concat();
            let (mut pieces, mut rest) = (Vec::new(), body.as_slice());
            for cut in cuts.iter().cycle() {
                let (front, back) = rest.split_at((*cut).min(rest.len()));
                pieces.push(front);
                rest = back;
                if rest.is_empty() {
                    break;
                }
            }
            for canon in BOTH {
                prop_assert_eq!(streamed(canon, pieces.iter().copied()), naive(canon, &body));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Long enough for several blocks, and for all ways to pass them on.
        #[test]
        fn any_long_body_in_long_pieces(
            parts in vec((prop_oneof![
                Just(&b"A line of text without anything to change.\r\n"[..]),
                Just(&b"Two spaces.  And a tab.\t \r\n"[..]),
                Just(&b" \t"[..]),
                Just(&b"\r\n"[..]),
                Just(&b"\r \n"[..]),
            ], 1..400usize), 1..8),
            cuts in vec(1..2 * BLOCK_BYTES, 1..8),
        ) {
            let body = parts.iter().map(|(part, count)| part.repeat(*count)).collect::<Vec<_>>();
            let body = body.concat();
            let (mut pieces, mut rest) = (Vec::new(), body.as_slice());
            for cut in cuts.iter().cycle() {
                let (front, back) = rest.split_at((*cut).min(rest.len()));
                pieces.push(front);
                rest = back;
                if rest.is_empty() {
                    break;
                }
            }
            for canon in BOTH {
                prop_assert!(streamed(canon, pieces.iter().copied()) == naive(canon, &body));
            }
        }
    }

    /// What stays as it is is not copied, and goes on in one piece.
    #[test]
    fn clean_blocks_are_passed_on_as_they_are() {
        let text = b"words of text and a line end\r\n".repeat(BLOCK_BYTES / 30 * 3);
        for canon in BOTH {
            let (mut body, mut pieces) = (Body::new(canon), Vec::new());
            body.feed(&text, &mut |piece| pieces.push((piece.as_ptr(), piece.len())));
            let long = pieces.iter().filter(|(at, length)| {
                text.as_ptr_range().contains(at) && *length > BLOCK_BYTES - 4
            });
            assert_eq!(long.count(), text.len() / BLOCK_BYTES, "{canon:?}");
            assert!(pieces.len() < 3 * (text.len() / BLOCK_BYTES + 1), "{canon:?}");
        }
    }

    #[test]
    fn blocks_meet_anywhere() {
        for at in BLOCK_BYTES - 4..BLOCK_BYTES + 4 {
            for middle in [&b"a  \t\r\n \r\n\r\nb"[..], b"\r\n", b" ", b"\r\r\n ", b"\t", b""] {
                let body = [&vec![b'x'; at], middle, b"end \r\n\r\n"].concat();
                for canon in BOTH {
                    assert_eq!(streamed(canon, [&body[..]]), naive(canon, &body));
                }
            }
        }
    }

    /// As many as fit into the array of line ends, one less, one more, and far more.
    #[test]
    fn held_back_line_ends_come_back() {
        for lines in [1, 31, 32, 33, 64, 65, 100_000] {
            let body = [&b"a"[..], &b"\r\n".repeat(lines), b"b"].concat();
            for canon in BOTH {
                assert_eq!(streamed(canon, [&body[..]]), [&body[..], b"\r\n"].concat());
            }
        }
    }

    #[test]
    fn the_rfc_s_own_example() {
        let body = b" C \r\nD \t E\r\n\r\n\r\n";
        // RFC 6376 §3.4.5
        assert_eq!(streamed(Canon::Relaxed, [&body[..]]), b" C\r\nD E\r\n");
        assert_eq!(streamed(Canon::Simple, [&body[..]]), b" C \r\nD \t E\r\n");
    }

    #[test]
    fn hashes_of_empty_bodies_are_those_of_the_rfc() {
        let hash = |canon| encode(BodyHash::new(canon).finish().as_ref());
        assert_eq!(hash(Canon::Simple), "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=");
        assert_eq!(hash(Canon::Relaxed), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
