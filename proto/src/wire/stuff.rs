//! Writes a message as the body of a multi-line reply (RFC 1939 §3) or behind DATA (RFC 5321
//! §4.5.2), which is the same: dots are doubled at line starts, the last line is ended, and a
//! single dot follows.
//!
//! The drivers of POP3 and of the SMTP client feed the pieces of a body as they come. Works by
//! blocks (memchr, one copy into the send buffer), holds one byte of state, and gives the same
//! bytes however the message was cut. It cannot fail; the caller bounds the buffer by the size of
//! its pieces ([`Stuffer::grown_bytes_max`]).
//!
//! A line starts behind CRLF. But some clients also end lines at a bare LF, and a message that came
//! in as binary may hold `LF . CRLF` or `LF . LF`: such a client would take that for the end of the
//! reply, and what follows, chosen by the sender of the message, for our replies; and a server that
//! does so would take it for the end of the message, and what follows for commands. So a dot that
//! stands alone between a bare LF and a line end is doubled as well. No other byte is changed.

use memchr::memchr;

/// Where in the message the next byte stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// At the start of a line.
    Start,
    /// Within a line.
    Middle,
    /// Behind a CR.
    Cr,
    /// Behind a bare LF.
    BareLf,
    /// Behind a bare LF and a dot, which is held back.
    BareLfDot,
    /// Behind a bare LF, a dot and a CR, which are held back.
    BareLfDotCr,
}

/// The dot-stuffing encoder for one message.
#[derive(Clone, Copy, Debug)]
pub struct Stuffer {
    place: Place,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Stuffer {
    /// An encoder at the start of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { place: Place::Start }
    }

    /// The most bytes that a piece of `bytes` bytes can append, with what was held back before it.
    #[must_use]
    pub const fn grown_bytes_max(bytes: usize) -> usize {
        // The worst is a dot at each line start: 4 bytes for 3; or a line `LF . LF`: 3 for 2.
        bytes + bytes.div_ceil(2) + 3
    }

    /// Appends the encoded `piece` to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.place != Place::Middle {
                self.step(byte, out);
                rest = behind;
                continue;
            }
            // Within a line nothing needs a look up to its end.
            let end = memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1);
            let (line, behind) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            // copy: from the store's piece into the send buffer, the only copy on the way out.
            out.extend_from_slice(line);
            self.place = match line {
                [.., b'\r', b'\n'] => Place::Start,
                [.., b'\n'] => Place::BareLf,
                [.., b'\r'] => Place::Cr,
                _ => Place::Middle,
            };
            rest = behind;
        }
    }

    /// Appends what ends the message: the end of its last line if that is missing, and `.` CRLF.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.place != Place::Start {
            self.step(b'\r', out);
            self.step(b'\n', out);
        }
        out.extend_from_slice(b".\r\n");
    }

    /// One byte where it matters what stood before it.
    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        let (place, before): (Place, &[u8]) = match (self.place, byte) {
            // Held back: whether it is doubled depends on what follows.
            (Place::BareLf, b'.') => return self.place = Place::BareLfDot,
            (Place::BareLfDot, b'\r') => return self.place = Place::BareLfDotCr,
            (Place::BareLfDot, b'\n') => (Place::BareLf, b".."),
            (Place::BareLfDot, _) => (Place::Middle, b"."),
            (Place::BareLfDotCr, b'\n') => (Place::Start, b"..\r"),
            (Place::BareLfDotCr, b'\r') => (Place::Cr, b".\r"),
            (Place::BareLfDotCr, _) => (Place::Middle, b".\r"),
            // RFC 1939 §3
            (Place::Start, b'.') => (Place::Middle, b"."),
            (Place::Cr, b'\n') => (Place::Start, b""),
            (_, b'\r') => (Place::Cr, b""),
            (_, b'\n') => (Place::BareLf, b""),
            (_, _) => (Place::Middle, b""),
        };
        self.place = place;
        out.extend_from_slice(before);
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(message: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut stuffer = Stuffer::new();
        let mut out = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&message.len()]) {
            let cut = cut.clamp(from, message.len());
            let before = out.len();
            stuffer.push(&message[from..cut], &mut out);
            assert!(out.len() - before <= Stuffer::grown_bytes_max(cut - from));
            from = cut;
        }
        stuffer.finish(&mut out);
        out
    }

    /// The same over the whole message, by looking around each dot.
    fn naive(message: &[u8]) -> Vec<u8> {
        let mut whole = message.to_vec();
        if !whole.is_empty() && !whole.ends_with(b"\r\n") {
            whole.extend_from_slice(b"\r\n");
        }
        let mut out = Vec::new();
        for (at, &byte) in whole.iter().enumerate() {
            let (before, behind) = (&whole[..at], &whole[at + 1..]);
            let line_start = at == 0 || before.ends_with(b"\r\n");
            let ends = behind.starts_with(b"\n") || behind.starts_with(b"\r\n");
            if byte == b'.' && (line_start || before.ends_with(b"\n") && ends) {
                out.push(b'.');
            }
            out.push(byte);
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    /// What a client that knows CRLF only makes of a reply.
    fn decode(reply: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let mut rest = reply;
        while !rest.starts_with(b".\r\n") {
            let end = rest.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
            message.extend_from_slice(rest[..end].strip_prefix(b".").unwrap_or(&rest[..end]));
            rest = &rest[end..];
        }
        assert_eq!(rest, b".\r\n");
        message
    }

    #[test]
    fn dots_at_line_starts_are_doubled_and_the_last_line_is_ended() {
        for (message, reply) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"a\n", b"a\n\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..a\r\n.\r\n.b.\r\n", b"...a\r\n..\r\n..b.\r\n.\r\n"),
            // What a client that ends lines at LF would take for the end.
            (b"a\n.\r\nb\r\n", b"a\n..\r\nb\r\n.\r\n"),
            (b"a\n.\n.\nb\r\n", b"a\n..\n..\nb\r\n.\r\n"),
            (b"a\n.", b"a\n..\r\n.\r\n"),
            // What it would not.
            (b"a\n.b\r\n", b"a\n.b\r\n.\r\n"),
            (b"a\n.\r.\r\n", b"a\n.\r.\r\n.\r\n"),
        ] {
            assert_eq!(
                encode(message, &[]).escape_ascii().to_string(),
                reply.escape_ascii().to_string()
            );
        }
    }

    /// All strings of up to 8 bytes over the four bytes that matter, whole and byte by byte.
    #[test]
    fn equals_the_naive_way_on_every_short_message() {
        let all: Vec<usize> = (0..8).collect();
        for bytes in 0..=8u32 {
            for number in 0..4usize.pow(bytes) {
                let message: Vec<u8> =
                    (0..bytes).map(|i| b".\r\nx"[number >> (2 * i) & 3]).collect();
                let expected = naive(&message);
                assert_eq!(encode(&message, &[]), expected);
                assert_eq!(encode(&message, &all), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_way_for_every_cut(
            message in prop::collection::vec(prop::sample::select(b"..\r\n\nx".to_vec()), 0..80),
            mut cuts in prop::collection::vec(0usize..80, 0..8),
        ) {
            cuts.sort_unstable();
            let reply = encode(&message, &cuts);
            prop_assert_eq!(&reply, &naive(&message));
        }

        /// Mail without bare LF comes back as it was.
        #[test]
        fn a_client_reads_what_was_stored(
            lines in prop::collection::vec("[.a-c]{0,4}", 0..20),
        ) {
            let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            prop_assert_eq!(decode(&encode(message.as_bytes(), &[7])), message.as_bytes());
        }
    }
}
