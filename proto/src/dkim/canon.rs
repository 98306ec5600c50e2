//! Canonical forms of bodies (RFC 6376 §§3.4.3, 3.4.4), made while the body streams by, and their
//! hash.
//!
//! A signer feeds [`BodyHash`] the slices that it passes on, cut anywhere. Long clean stretches go
//! to the hash as they are; only where white space changes a copy of one space or line end is put
//! in between. Nothing of the body is kept: what may be the end of a line or of the body is a
//! count of line ends and two flags. Cannot fail.
//!
//! A line ends at CRLF only. A bare CR or LF, which this engine takes from nobody, is an octet as
//! any other. The end of the body is the end of its last line, too.

use core::fmt;
use core::mem::take;
use memchr::{memchr, memmem::Finder};
use ring::digest;

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
        let mut changes = Changes::new(self.canon, rest);
        let mut at = 0;
        loop {
            let from = rest.get(at..).unwrap_or_default();
            let behind = self.hold_back(from);
            at += from.len() - behind.len();
            match behind {
                [] => return,
                [b'\r'] => {
                    self.cr = true;
                    return;
                }
                _ => {}
            }
            let clean = changes.clean(rest, at);
            self.write(clean, sink);
            at += clean.len();
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

/// Where a block and its canonical form differ next. Each way to differ is looked for by itself,
/// and again only behind the place where it was found, so a block is read a few times at most.
struct Changes {
    /// None for the simple form, which changes nothing within a body.
    pairs: Option<[Finder<'static>; 2]>,
    tab: usize,
    at: [usize; 2],
}

impl Changes {
    fn new(canon: Canon, block: &[u8]) -> Self {
        let mut changes = Self { pairs: None, tab: usize::MAX, at: [usize::MAX; 2] };
        if canon == Canon::Relaxed {
            // RFC 6376 §3.4.4: white space before a line end goes, other runs of it become a space.
            let pairs = [Finder::new(b"  "), Finder::new(b" \r")];
            changes.at = pairs.each_ref().map(|pair| pair.find(block).unwrap_or(usize::MAX));
            changes.tab = memchr(b'\t', block).unwrap_or(usize::MAX);
            changes.pairs = Some(pairs);
        }
        changes
    }

    /// The first place at or behind `from`.
    fn next(&mut self, block: &[u8], from: usize) -> usize {
        let Some(pairs) = &self.pairs else { return usize::MAX };
        let rest = block.get(from..).unwrap_or_default();
        let place = |found: Option<usize>| found.map_or(usize::MAX, |found| from + found);
        for (at, pair) in self.at.iter_mut().zip(pairs) {
            if *at < from {
                *at = place(pair.find(rest));
            }
        }
        if self.tab < from {
            self.tab = place(memchr(b'\t', rest));
        }
        self.at.into_iter().fold(self.tab, usize::min)
    }

    /// What can be written as it is from `from` on, where neither white space nor a line end nor
    /// the last CR stands. It is never empty, for its first byte is not taken off again.
    fn clean<'b>(&mut self, block: &'b [u8], from: usize) -> &'b [u8] {
        let to = self.next(block, from).min(block.len());
        // What could turn out to be the end of a line or of the body stays for the next round.
        let mut clean = match block.get(from..to).unwrap_or_default() {
            [clean @ .., b' '] if self.pairs.is_some() => clean,
            [clean @ .., b'\r'] if to == block.len() => clean,
            clean => clean,
        };
        while let Some(front) = clean.strip_suffix(b"\r\n") {
            clean = front;
        }
        clean
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
