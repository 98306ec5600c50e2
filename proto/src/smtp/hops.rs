//! Counting `Received` fields while a message streams in: the loop guard.
//!
//! RFC 5321 §6.3 asks for a limit of at least 100. Fed with the body slices that go to the spool,
//! in any cut; looks at nothing behind the header section. Cannot fail; the count saturates.

use memchr::memchr_iter;

const NAME: &[u8; 9] = b"received:";

/// How many `Received` fields a message has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hops {
    count: u16,
    place: Place,
}

/// What the bytes since the last line end are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The first so many bytes of [`NAME`].
    Name(u8),
    /// A lone CR: the header section may be over.
    Blank,
    /// Something else.
    Line,
    /// The header section is over.
    Body,
}

impl Default for Place {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl Hops {
    /// `Received` fields seen so far.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.count
    }

    /// Looks at the next bytes of the message.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.place = match self.place {
                Place::Body => return,
                Place::Line => {
                    let mut lines = memchr_iter(b'\n', bytes)
                        .map(|end| bytes.get(end + 1..).unwrap_or_default());
                    // Most lines show by their first byte that they are neither such a field nor
                    // the end of the header section.
                    let may_count =
                        |line: &&[u8]| line.first().is_none_or(|first| b"rR\r\n".contains(first));
                    let Some(line) = lines.find(may_count) else { return };
                    bytes = line;
                    self.place = Place::Name(0);
                    continue;
                }
                Place::Blank if byte == b'\n' => Place::Body,
                Place::Blank => Place::Line,
                Place::Name(0) if byte == b'\r' => Place::Blank,
                Place::Name(seen) => self.name(seen, byte),
            };
            bytes = rest;
        }
    }

    fn name(&mut self, seen: u8, byte: u8) -> Place {
        if byte == b'\n' {
            return Place::Name(0);
        }
        if NAME.get(usize::from(seen)) != Some(&byte.to_ascii_lowercase()) {
            return Place::Line;
        }
        if usize::from(seen) + 1 == NAME.len() {
            self.count = self.count.saturating_add(1);
            return Place::Line;
        }
        Place::Name(seen + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"Received: a\r\n b\r\nreceived:c\r\nX-Received: d\r\nReceive: e\r\n\
        RECEIVED: f\r\n\r\nReceived: not a field\r\n";

    #[test]
    fn counts_fields_of_the_header_in_every_cut() {
        for cut in 0..=MESSAGE.len() {
            let mut hops = Hops::default();
            let (front, back) = MESSAGE.split_at(cut);
            hops.feed(front);
            hops.feed(back);
            assert_eq!(hops.count(), 3, "cut at {cut}");
        }
        let mut hops = Hops::default();
        MESSAGE.chunks(1).for_each(|byte| hops.feed(byte));
        assert_eq!(hops.count(), 3);
    }

    #[test]
    fn a_message_without_header_has_none() {
        for message in [&b"\r\nReceived: x\r\n"[..], b"", b"\n\r\nReceived: x\r\n", b"Received"] {
            let mut hops = Hops::default();
            hops.feed(message);
            assert_eq!(hops.count(), 0);
        }
    }
}
