//! What a report returns of the message that it is about: its header, or all of it.
//!
//! Called by `report`. Everything in it may be hostile. Limits: [`WHOLE_BYTES_MAX`] for a message,
//! above which its header goes alone, and [`HEADER_BYTES_MAX`] for that, cut at the end of a line.
//! Nothing fails: what cannot be carried as it is goes as the header in quoted-printable.

use std::borrow::Cow;

use crate::compose::{Part, Transfer, is_id, transfer_of_message};

/// The largest message that goes back whole.
pub const WHOLE_BYTES_MAX: usize = 64 * 1024;
/// The most of a header that goes back.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The message that a report is about, or as much of it as is at hand.
#[derive(Clone, Copy, Debug)]
pub enum Original<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its header section, perhaps with a part of the body behind it.
    Header(&'a [u8]),
}

impl<'a> Original<'a> {
    /// The header section with the line end of its last field, without the empty line.
    fn header(self) -> &'a [u8] {
        let (Self::Whole(bytes) | Self::Header(bytes)) = self;
        if bytes.starts_with(b"\r\n") {
            return b"";
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 2);
        let header = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
        let Some(front) = header.get(..HEADER_BYTES_MAX).filter(|f| f.len() < header.len()) else {
            return header;
        };
        let last = front.windows(2).rposition(|w| w == b"\r\n").map_or(front.len(), |at| at + 2);
        front.get(..last).unwrap_or(front)
    }

    /// The message id in its header, if there is one and it is well formed.
    pub(super) fn message_id(self) -> Option<&'a str> {
        const NAME: &[u8] = b"message-id:";
        let mut rest = self.header();
        loop {
            if let Some((name, value)) = rest.split_at_checked(NAME.len())
                && name.eq_ignore_ascii_case(NAME)
            {
                let value = value.get(..field_bytes(value))?;
                let value = core::str::from_utf8(value).ok()?.trim();
                let id = value.strip_prefix('<')?.strip_suffix('>')?;
                return is_id(id, false).then_some(id);
            }
            let next = rest.iter().position(|b| *b == b'\n')? + 1;
            rest = rest.get(next..)?;
        }
    }

    /// The third part of a report. `utf8` says that the report goes by SMTPUTF8.
    pub(super) fn part(self, full: bool, utf8: bool) -> Part<'a> {
        if full
            && let Self::Whole(bytes) = self
            && bytes.len() <= WHOLE_BYTES_MAX
            && let Some(transfer) = transfer_of_message(bytes)
        {
            let international = !self.header().is_ascii();
            if !international {
                return Part::content("message/rfc822", transfer, Cow::Borrowed(bytes));
            }
            // RFC 6532 §3.7: a message whose header is UTF-8.
            if utf8 && core::str::from_utf8(self.header()).is_ok() {
                return Part::content("message/global", transfer, Cow::Borrowed(bytes));
            }
        }
        self.header_part(utf8)
    }

    fn header_part(self, utf8: bool) -> Part<'a> {
        let header = Cow::Borrowed(self.header());
        // RFC 6533 §4.3: a header in UTF-8, where 8 bits can pass.
        if utf8 && !header.is_ascii() && core::str::from_utf8(&header).is_ok() {
            let transfer = transfer_of_message(&header).unwrap_or(Transfer::QuotedPrintable);
            return Part::content("message/global-headers", transfer, header);
        }
        // RFC 6522 §4: quoted-printable makes broken headers legal again.
        let transfer = transfer_of_message(&header).filter(|t| *t == Transfer::SevenBit);
        let transfer = transfer.unwrap_or(Transfer::QuotedPrintable);
        Part::content("text/rfc822-headers", transfer, header)
    }
}

/// Up to the line end that no white space follows (RFC 5322 §2.2.3).
fn field_bytes(value: &[u8]) -> usize {
    let ends = value.windows(3).position(|w| w.starts_with(b"\r\n") && !b" \t".contains(&w[2]));
    ends.unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_at_the_empty_line_or_the_limit() {
        for (bytes, header) in [
            (&b"a: b\r\nc: d\r\n\r\nbody"[..], &b"a: b\r\nc: d\r\n"[..]),
            (b"a: b\r\n", b"a: b\r\n"),
            (b"\r\nbody", b""),
            (b"", b""),
        ] {
            assert_eq!(Original::Whole(bytes).header(), header);
        }
        let long = b"X-Field: value\r\n".repeat(HEADER_BYTES_MAX / 16 + 5);
        let header = Original::Header(&long).header();
        assert_eq!(header.len(), HEADER_BYTES_MAX / 16 * 16);
        let endless = vec![b'x'; HEADER_BYTES_MAX + 1];
        assert_eq!(Original::Header(&endless).header().len(), HEADER_BYTES_MAX);
    }

    #[test]
    fn a_message_id_is_taken_only_if_it_is_one() {
        for (header, id) in [
            ("Subject: x\r\nMessage-Id: <a@b.c>\r\n\r\n", Some("a@b.c")),
            ("Message-ID:<a@b.c>\r\n", Some("a@b.c")),
            ("Message-ID: <a@b.c> <d@e.f>\r\n", None),
            ("Message-ID: <a@b.c>\r X: y\r\n", None),
            ("Message-ID:\r\n <a@b.c>\r\nTo: x\r\n", Some("a@b.c")),
            ("Message-ID:\r\nTo: <a@b.c>\r\n", None),
            ("Message-ID: <a@b.c\r\n >\r\n", None),
            ("Subject: x\r\n\r\nMessage-ID: <a@b.c>\r\n", None),
            ("X-Message-ID: <a@b.c>\r\n", None),
        ] {
            assert_eq!(Original::Header(header.as_bytes()).message_id(), id, "{header:?}");
        }
    }
}
