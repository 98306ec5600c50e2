//! The header section of a message that streams in: counts its bytes and its `Received` fields,
//! which is the loop guard, and can take out what only nodes of ours may write: `X-Fannst-` fields,
//! and `Authentication-Results` in our name.
//!
//! RFC 5321 §6.3 asks for a limit of at least 100 hops. Fed with the body slices that go to the
//! spool, in any cut; gives back what is to be kept of them, mostly the very same slices. Looks at
//! nothing behind the header section. Cannot fail; the counts saturate. Holds [`FRONT_BYTES_MAX`]
//! bytes at most, and nothing of most messages.

use core::mem::take;
use std::rc::Rc;

use memchr::{memchr, memchr_iter};

use super::front::{Front, front};

pub use super::front::FRONT_BYTES_MAX;

const RECEIVED: &[u8; 9] = b"received:";

/// The header section of one message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    hops: u16,
    bytes_count: u64,
    place: Place,
    /// Whose `Authentication-Results` are taken out, with the fields of nodes; none: nothing is.
    strict: Option<Rc<str>>,
    /// The front of a field that may be one of those.
    held: Vec<u8>,
}

/// Bytes to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept<'b> {
    /// Of the slice that was fed.
    Fed(&'b [u8]),
    /// That came before it, at least in part.
    Held(Vec<u8>),
}

impl AsRef<[u8]> for Kept<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Fed(bytes) => bytes,
            Self::Held(bytes) => bytes,
        }
    }
}

/// What the bytes since the last line end are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The first so many bytes of [`RECEIVED`].
    Name(u8),
    /// The front of a field that may have to go; it is held.
    Front,
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
    /// Before the first byte. With the name under which this host writes `Authentication-Results`,
    /// those and the `X-Fannst-` fields are taken out.
    #[must_use]
    pub fn new(strict: Option<Rc<str>>) -> Self {
        Self { strict, ..Self::default() }
    }

    /// `Received` fields seen so far.
    #[must_use]
    pub const fn hops(&self) -> u16 {
        self.hops
    }

    /// Bytes of the section so far, with those that were taken out and the empty line behind it.
    #[must_use]
    pub const fn bytes_count(&self) -> u64 {
        self.bytes_count
    }

    /// Takes bytes of the message from the front of `bytes` and gives some to keep; none when all
    /// of them were taken.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Kept<'b>> {
        while let Some(&first) = bytes.first() {
            match self.place {
                Place::Gone => {
                    let end = memchr(b'\n', bytes);
                    self.place = end.map_or(Place::Gone, |_| Place::Behind);
                    self.skip(bytes, end.map_or(bytes.len(), |end| end + 1));
                }
                // RFC 5322 §2.2.3: a line that begins with white space goes on with the field.
                Place::Behind if first == b' ' || first == b'\t' => self.place = Place::Gone,
                Place::Behind => self.place = Place::Name(0),
                Place::Front => {
                    if let Some(kept) = self.hold(bytes) {
                        return Some(kept);
                    }
                }
                Place::Body => return Some(Kept::Fed(take(bytes))),
                _ => {
                    let (kept, rest) = self.scan(bytes);
                    if self.place != Place::Body {
                        self.count(kept.len());
                    }
                    *bytes = rest;
                    if !kept.is_empty() {
                        return Some(Kept::Fed(kept));
                    }
                }
            }
        }
        None
    }

    const fn count(&mut self, bytes: usize) {
        self.bytes_count = self.bytes_count.saturating_add(bytes as u64);
    }

    fn skip(&mut self, bytes: &mut &[u8], length: usize) {
        self.count(length);
        *bytes = bytes.get(length..).unwrap_or_default();
    }

    /// What is to be kept up to where a field to be taken out may begin, and the rest.
    fn scan<'b>(&mut self, all: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        let mut rest = all;
        while let Some((&byte, behind)) = rest.split_first() {
            self.place = match self.place {
                Place::Line => {
                    let Some(line) = self.line_of_interest(rest) else { return (all, b"") };
                    rest = line;
                    self.place = Place::Name(0);
                    continue;
                }
                Place::Name(0) if byte == b'\r' => Place::Blank,
                Place::Name(0) => match self.strict.as_ref().map(|own| front(rest, own)) {
                    None | Some(Front::Others(_)) => self.name(0, byte),
                    // Cut only where such a field begins, or may: each piece is a copy later.
                    Some(Front::Short | Front::Ours(_)) => {
                        self.place = Place::Front;
                        return all.split_at(all.len() - rest.len());
                    }
                },
                Place::Name(seen) => self.name(seen, byte),
                Place::Blank if byte == b'\n' => {
                    self.count(all.len() - behind.len());
                    Place::Body
                }
                Place::Blank => Place::Line,
                Place::Body | Place::Front | Place::Gone | Place::Behind => break,
            };
            rest = behind;
        }
        (all, b"")
    }

    /// The message is over: what was held of it, should it have been cut there.
    pub fn end(&mut self) -> Option<Kept<'static>> {
        if self.place != Place::Front {
            return None;
        }
        self.place = Place::Body;
        Some(Kept::Held(take(&mut self.held)))
    }

    /// The next line that may count, be taken out, or be the end of the header section; most show
    /// by their first byte that they are nothing of that kind.
    fn line_of_interest<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let mut lines =
            memchr_iter(b'\n', bytes).map(|end| bytes.get(end + 1..).unwrap_or_default());
        lines.find(|line| match line.first() {
            None | Some(b'r' | b'R' | b'\r' | b'\n') => true,
            Some(b'x' | b'X' | b'a' | b'A') => self.strict.is_some(),
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

    /// Goes on with a field whose front is held; gives it when it is not to be taken out.
    fn hold<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Kept<'b>> {
        let own = self.strict.clone().unwrap_or_default();
        let before = self.held.len();
        let room = FRONT_BYTES_MAX.saturating_sub(before).min(bytes.len());
        self.held.extend_from_slice(bytes.get(..room).unwrap_or_default());
        match front(&self.held, &own) {
            Front::Short => {
                self.skip(bytes, room);
                None
            }
            Front::Ours(length) => {
                self.skip(bytes, length.saturating_sub(before));
                let held = take(&mut self.held);
                let ends = held.get(..length).unwrap_or_default().ends_with(b"\n");
                self.place = if ends { Place::Behind } else { Place::Gone };
                None
            }
            Front::Others(length) => {
                self.skip(bytes, length.saturating_sub(before));
                let mut held = take(&mut self.held);
                // A line end that was held tells only by what stands behind it.
                held.truncate(length.max(before));
                self.place = if held.ends_with(b"\n") { Place::Name(0) } else { Place::Line };
                Some(Kept::Held(held))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "mx.a.example";
    const MESSAGE: &[u8] = b"Received: a\r\n b\r\nreceived:c\r\nX-Received: d\r\nReceive: e\r\n\
        RECEIVED: f\r\n\r\nReceived: not a field\r\n";

    /// What is kept of a message that comes in pieces, and how many hops it has.
    fn kept<'p>(strict: bool, pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, u16) {
        let own = strict.then(|| Rc::from(OWN));
        let (mut header, mut out) = (Header::new(own), Vec::new());
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
        let (whole, mut header) = (rest, Header::new(Some(OWN.into())));
        assert_eq!(header.next(&mut rest), Some(Kept::Fed(whole)));
        assert_eq!(header.next(&mut rest), None);
    }

    #[test]
    fn counts_the_bytes_of_the_section() {
        for message in ["A: b\r\n\r\nbody", "X-Fannst-A: b\r\nC: d\r\n\r\nbody", "\r\n", "A: b"] {
            let end = message.find("\r\n\r\n").map_or(message.len(), |end| end + 4);
            for piece in 1..=message.len() {
                let mut header = Header::new(Some(OWN.into()));
                for mut bytes in message.as_bytes().chunks(piece) {
                    while header.next(&mut bytes).is_some() {}
                }
                assert_eq!(header.bytes_count(), end as u64, "{message:?} by {piece}");
            }
        }
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
            (
                "Authentication-Results: mx.a.example; spf=pass\r\n a\r\nA: b\r\n\r\nc",
                "A: b\r\n\r\nc",
            ),
            ("A: b\r\nAuthentication-Results:\r\nC: d\r\n\r\n", "A: b\r\nC: d\r\n\r\n"),
            ("Authentication-Results: mx.b.example; none\r\n mx.a.example\r\n\r\n", ""),
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
        let (mut out, mut gone, mut over, mut at) = (Vec::new(), false, false, 0);
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            let goes_on = gone && (line.starts_with(b" ") || line.starts_with(b"\t"));
            let is_ours = matches!(front(&message[at..], OWN), Front::Ours(_));
            gone = !over && (goes_on || is_ours);
            over |= line == b"\r\n";
            at += line.len();
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
                    "\n", "\r", " ", "a", "Received:", "Authentication-Results", OWN, "(", ")",
                    "\"", ";", "\\"]),
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
