//! The header section of a message that streams in: counts `Received` fields, which is the loop
//! guard, and can take out what only nodes of ours may write: `X-Fannst-` fields.
//!
//! RFC 5321 §6.3 asks for a limit of at least 100 hops. Fed with the body slices that go to the
//! spool, in any cut; gives back what is to be kept of them, mostly the very same slices. Looks at
//! nothing behind the header section. Cannot fail; the count saturates. Holds nine bytes at most.

use memchr::{memchr, memchr_iter};

const RECEIVED: &[u8; 9] = b"received:";
const NODES: &[u8; NODES_BYTES] = b"x-fannst-";
const NODES_BYTES: usize = 9;

/// The header section of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    hops: u16,
    place: Place,
    /// Fields of nodes are taken out.
    strict: bool,
    /// The front of a line that may be the name of one.
    held: [u8; NODES_BYTES],
}

/// Bytes to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept<'b> {
    /// Of the slice that was fed.
    Fed(&'b [u8]),
    /// That came before it: so many of these.
    Held([u8; NODES_BYTES], usize),
}

impl AsRef<[u8]> for Kept<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Fed(bytes) => bytes,
            Self::Held(bytes, len) => bytes.get(..*len).unwrap_or_default(),
        }
    }
}

/// What the bytes since the last line end are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The first so many bytes of [`RECEIVED`].
    Name(u8),
    /// The first so many bytes of [`NODES`], which are held.
    Node(u8),
    /// A lone CR: the header section may be over.
    Blank,
    /// Something else.
    Line,
    /// A field that is taken out.
    Gone,
    /// Nothing, behind such a line: the field may go on.
    Behind,
    /// The header section is over.
    Body,
}

impl Default for Place {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl Header {
    /// Before the first byte; `strict` takes `X-Fannst-` fields out.
    #[must_use]
    pub fn new(strict: bool) -> Self {
        Self { strict, ..Self::default() }
    }

    /// `Received` fields seen so far.
    #[must_use]
    pub const fn hops(&self) -> u16 {
        self.hops
    }

    /// Takes bytes of the message from the front of `bytes` and gives some to keep; none when all
    /// of them were taken.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Kept<'b>> {
        while let Some(&first) = bytes.first() {
            match self.place {
                Place::Gone => match memchr(b'\n', bytes) {
                    Some(end) => {
                        *bytes = bytes.get(end + 1..).unwrap_or_default();
                        self.place = Place::Behind;
                    }
                    None => *bytes = b"",
                },
                // RFC 5322 §2.2.3: a line that begins with white space goes on with the field.
                Place::Behind if first == b' ' || first == b'\t' => self.place = Place::Gone,
                Place::Behind => self.place = Place::Name(0),
                Place::Node(held) => {
                    let differs = self.hold(held, bytes);
                    if differs.is_some() {
                        return differs;
                    }
                }
                _ => {
                    let (kept, rest) = self.scan(bytes);
                    *bytes = rest;
                    if !kept.is_empty() {
                        return Some(Kept::Fed(kept));
                    }
                }
            }
        }
        None
    }

    /// What is to be kept up to where a field of a node may begin, and the rest.
    fn scan<'b>(&mut self, all: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        let mut rest = all;
        while let Some((&byte, behind)) = rest.split_first() {
            self.place = match self.place {
                Place::Line => {
                    let Some(line) = self.line_of_interest(rest) else { break };
                    rest = line;
                    self.place = Place::Name(0);
                    continue;
                }
                Place::Name(0) if byte == b'\r' => Place::Blank,
                // Cut only where such a field begins, or may: each piece is a copy later.
                Place::Name(0) if self.strict && may_be_of_nodes(rest) => {
                    self.place = Place::Node(0);
                    return all.split_at(all.len() - rest.len());
                }
                Place::Name(seen) => self.name(seen, byte),
                Place::Blank if byte == b'\n' => Place::Body,
                Place::Blank => Place::Line,
                Place::Body | Place::Node(_) | Place::Gone | Place::Behind => break,
            };
            rest = behind;
        }
        (all, b"")
    }

    /// The message is over: what was held of it, should its last line have been cut there.
    pub fn end(&mut self) -> Option<Kept<'static>> {
        let Place::Node(held) = self.place else { return None };
        self.place = Place::Body;
        Some(Kept::Held(self.held, held.into()))
    }

    /// The next line that may count, be taken out, or be the end of the header section; most show
    /// by their first byte that they are nothing of that kind.
    fn line_of_interest<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let mut lines =
            memchr_iter(b'\n', bytes).map(|end| bytes.get(end + 1..).unwrap_or_default());
        lines.find(|line| match line.first() {
            None | Some(b'r' | b'R' | b'\r' | b'\n') => true,
            Some(b'x' | b'X') => self.strict,
            Some(_) => false,
        })
    }

    fn name(&mut self, seen: u8, byte: u8) -> Place {
        if byte == b'\n' {
            return Place::Name(0);
        }
        if RECEIVED.get(usize::from(seen)) != Some(&byte.to_ascii_lowercase()) {
            return Place::Line;
        }
        if usize::from(seen) + 1 == RECEIVED.len() {
            self.hops = self.hops.saturating_add(1);
            return Place::Line;
        }
        Place::Name(seen + 1)
    }

    /// Goes on with a line of which so many bytes are held; gives them when it is another field.
    fn hold<'b>(&mut self, held: u8, bytes: &mut &'b [u8]) -> Option<Kept<'b>> {
        let mut len = usize::from(held);
        while let Some((&byte, behind)) = bytes.split_first() {
            let Some((place, wanted)) = self.held.get_mut(len).zip(NODES.get(len)) else { break };
            if *wanted != byte.to_ascii_lowercase() {
                self.place = Place::Line;
                return Some(Kept::Held(self.held, len));
            }
            *place = byte;
            len += 1;
            *bytes = behind;
        }
        // Nine at most.
        let held = u8::try_from(len).unwrap_or(u8::MAX);
        self.place = if len == NODES_BYTES { Place::Gone } else { Place::Node(held) };
        None
    }
}

/// Whether a line begins with [`NODES`], as far as it is here.
fn may_be_of_nodes(line: &[u8]) -> bool {
    line.iter().zip(NODES).all(|(byte, wanted)| byte.to_ascii_lowercase() == *wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: &[u8] = b"Received: a\r\n b\r\nreceived:c\r\nX-Received: d\r\nReceive: e\r\n\
        RECEIVED: f\r\n\r\nReceived: not a field\r\n";

    /// What is kept of a message that comes in pieces, and how many hops it has.
    fn kept<'p>(strict: bool, pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, u16) {
        let (mut header, mut out) = (Header::new(strict), Vec::new());
        for mut piece in pieces {
            while let Some(kept) = header.next(&mut piece) {
                assert!(!kept.as_ref().is_empty());
                out.extend_from_slice(kept.as_ref());
            }
        }
        out.extend_from_slice(header.end().as_ref().map_or(b"", AsRef::as_ref));
        (out, header.hops())
    }

    #[test]
    fn counts_fields_of_the_header_in_every_cut() {
        for strict in [false, true] {
            for cut in 0..=MESSAGE.len() {
                let (front, back) = MESSAGE.split_at(cut);
                assert_eq!(kept(strict, [front, back]), (MESSAGE.to_vec(), 3), "cut at {cut}");
            }
            assert_eq!(kept(strict, MESSAGE.chunks(1)), (MESSAGE.to_vec(), 3));
        }
    }

    #[test]
    fn what_is_kept_in_one_piece_comes_in_one_piece() {
        let mut rest = &b"X-Mailer: a\r\nXmas: b\r\nx\r\nX-Fann: c\r\n\r\nx\r\n"[..];
        let (whole, mut header) = (rest, Header::new(true));
        assert_eq!(header.next(&mut rest), Some(Kept::Fed(whole)));
        assert_eq!(header.next(&mut rest), None);
    }

    #[test]
    fn a_message_without_header_has_none() {
        for message in [&b"\r\nReceived: x\r\n"[..], b"", b"\n\r\nReceived: x\r\n", b"Received"] {
            assert_eq!(kept(true, [message]), (message.to_vec(), 0));
        }
    }

    #[test]
    fn fields_of_nodes_go_whole_and_nothing_else_does() {
        for (message, left) in [
            ("X-Fannst-Auth: su=pass\r\nA: b\r\n\r\nc", "A: b\r\n\r\nc"),
            ("A: b\r\nx-fannst-a: c\r\n d\r\n\te\r\nF: g\r\n\r\n", "A: b\r\nF: g\r\n\r\n"),
            ("X-FANNST-: a\r\nX-Fannst-B :c\r\nX-Fannst-D\r\n\r\ne", "\r\ne"),
            ("X-Fannst-A: b\r\n\r\nX-Fannst-C: in the body\r\n", "\r\nX-Fannst-C: in the body\r\n"),
            ("X-Fannst-A: b", ""),
            ("X-Fannst-A: b\r\nReceived: c\r\n\r\n", "Received: c\r\n\r\n"),
            // Where BINARYMIME lets them through.
            ("A: b\nX-Fannst-C: d\n\r\ne", "A: b\n\r\ne"),
            ("X-Fannst: a\r\nX-Fan\r\nX\r\nxX-Fannst-a: b\r\n X-Fannst-c: d\r\n\r\n", ""),
            ("A: X-Fannst-b\r\nX-Fannst", ""),
        ] {
            let left = if left.is_empty() && message != "X-Fannst-A: b" { message } else { left };
            for cut in 0..=message.len() {
                let (front, back) = message.as_bytes().split_at(cut);
                let (kept, _) = kept(true, [front, back]);
                assert_eq!(String::from_utf8_lossy(&kept), left, "{message:?} cut at {cut}");
            }
            assert_eq!(kept(true, message.as_bytes().chunks(1)).0, left.as_bytes());
            assert_eq!(kept(false, [message.as_bytes()]).0, message.as_bytes());
        }
        let many = "X-Fannst-A: b\r\n".repeat(100_000);
        assert_eq!(kept(true, [many.as_bytes(), b"\r\n"]), (b"\r\n".to_vec(), 0));
    }

    /// The same, line by line.
    fn oracle(message: &[u8]) -> Vec<u8> {
        let (mut out, mut gone, mut over) = (Vec::new(), false, false);
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            let goes_on = gone && line.starts_with(b" ");
            let name = line.get(..NODES_BYTES);
            gone = !over && (goes_on || name.is_some_and(|name| name.eq_ignore_ascii_case(NODES)));
            over |= line == b"\r\n";
            if !gone {
                out.extend_from_slice(line);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle_in_every_cut(
            parts in proptest::collection::vec(
                prop::sample::select(vec!["X-Fannst-", "x-FANNST-", "X-", "Fannst", ":", "\r\n",
                    "\n", "\r", " ", "a", "Received:"]),
                0..40,
            ),
            piece in 1usize..12,
        ) {
            let message = parts.concat().into_bytes();
            let (left, hops) = kept(true, [&message[..]]);
            prop_assert_eq!(&left, &oracle(&message));
            prop_assert_eq!(kept(true, message.chunks(piece)), (left, hops));
        }
    }
}
