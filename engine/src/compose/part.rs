//! The tree of MIME parts, and how it is written (RFC 2045, RFC 2046 §5.1).
//!
//! Called by `compose` and `report`, which build the tree; it is at most four deep. The boundaries
//! come from random bytes that the caller passes in, and begin with `=_`, which neither
//! quoted-printable nor base64 can contain, so that no content ends a part early. Nothing fails.

use std::borrow::Cow;

use super::encode::{Transfer, parameter, push_base64, push_quoted_printable, transfer_of_text};
use super::header::Fields;

/// Random bytes for the boundaries of one message.
pub type Random = [u8; 16];

/// A part, or a whole message less its header.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// `text/plain`, and further parameters that are ready to be written.
    media_type: Vec<String>,
    /// Other fields, likewise.
    fields: Vec<(&'static str, Vec<String>)>,
    body: Body<'a>,
}

#[derive(Debug)]
enum Body<'a> {
    Leaf { transfer: Transfer, content: Cow<'a, [u8]> },
    Parts(Vec<Part<'a>>),
}

impl<'a> Part<'a> {
    /// Text of a kind, `plain` or `html`. Its line ends are made CRLF, and the last line gets one.
    #[must_use]
    pub(crate) fn text(kind: &str, text: &str) -> Self {
        let text = with_crlf(text);
        let transfer = transfer_of_text(text.as_bytes());
        Self {
            media_type: vec![format!("text/{kind}"), String::from("charset=utf-8")],
            fields: Vec::new(),
            body: Body::Leaf { transfer, content: Cow::Owned(text.into_bytes()) },
        }
    }

    /// Content that is written in the given encoding.
    #[must_use]
    pub(crate) fn content(media_type: &str, transfer: Transfer, content: Cow<'a, [u8]>) -> Self {
        Self {
            media_type: vec![media_type.to_owned()],
            fields: Vec::new(),
            body: Body::Leaf { transfer, content },
        }
    }

    /// `multipart/` of a kind.
    #[must_use]
    pub(crate) fn parts(kind: &str, parts: Vec<Self>) -> Self {
        Self {
            media_type: vec![format!("multipart/{kind}")],
            fields: Vec::new(),
            body: Body::Parts(parts),
        }
    }

    /// Adds a parameter to the media type.
    #[must_use]
    pub(crate) fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.media_type.extend(parameter(name, value));
        self
    }

    /// Says how it is to be shown, and under which name it is to be kept (RFC 2183 §2).
    #[must_use]
    pub(crate) fn with_disposition(mut self, disposition: &str, name: Option<&str>) -> Self {
        let mut pieces = vec![disposition.to_owned()];
        pieces.extend(name.into_iter().flat_map(|n| parameter("filename", n)));
        self.fields.push(("Content-Disposition", pieces));
        self
    }

    /// Gives it the name by which HTML refers to it (RFC 2392 §2).
    #[must_use]
    pub(crate) fn with_content_id(mut self, id: &str) -> Self {
        self.fields.push(("Content-ID", vec![format!("<{id}>")]));
        self
    }

    /// Whether only 8BITMIME can carry it.
    #[must_use]
    pub(crate) fn is_eight_bit(&self) -> bool {
        match &self.body {
            Body::Leaf { transfer, .. } => *transfer == Transfer::EightBit,
            Body::Parts(parts) => parts.iter().any(Self::is_eight_bit),
        }
    }

    /// Whether it is of a kind that RFC 6532 and RFC 6533 made for UTF-8 in headers.
    #[must_use]
    pub(crate) fn is_international(&self) -> bool {
        let own = self.media_type.iter().any(|t| t.starts_with("message/global"));
        match &self.body {
            Body::Leaf { .. } => own,
            Body::Parts(parts) => own || parts.iter().any(Self::is_international),
        }
    }

    /// Writes it: its fields behind those of the message, the empty line, the content.
    pub(crate) fn write(&self, mut header: Fields, random: &Random, out: &mut Vec<u8>) {
        self.write_numbered(&mut header, random, &mut 0, out);
    }

    fn write_numbered(
        &self,
        fields: &mut Fields,
        random: &Random,
        number: &mut usize,
        out: &mut Vec<u8>,
    ) {
        *number += 1;
        let boundary = boundary(random, *number);
        let mut media_type = self.media_type.clone();
        if matches!(self.body, Body::Parts(_)) {
            media_type.extend(parameter("boundary", &boundary));
        }
        push_pieces(fields, "Content-Type", &media_type);
        for (name, pieces) in &self.fields {
            push_pieces(fields, name, pieces);
        }
        match &self.body {
            Body::Leaf { transfer, content } => {
                fields.push("Content-Transfer-Encoding", transfer.name());
                out.extend_from_slice(fields.as_bytes());
                out.extend_from_slice(b"\r\n");
                push_content(*transfer, content, out);
            }
            Body::Parts(parts) => {
                out.extend_from_slice(fields.as_bytes());
                for part in parts {
                    out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
                    part.write_numbered(&mut Fields::default(), random, number, out);
                }
                out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
            }
        }
    }
}

fn push_content(transfer: Transfer, content: &[u8], out: &mut Vec<u8>) {
    match transfer {
        Transfer::SevenBit | Transfer::EightBit => out.extend_from_slice(content),
        Transfer::QuotedPrintable => push_quoted_printable(content, out),
        Transfer::Base64 => push_base64(content, out),
    }
}

fn push_pieces(fields: &mut Fields, name: &str, pieces: &[String]) {
    fields.begin(name);
    for (at, piece) in pieces.iter().enumerate() {
        let semicolon = if at + 1 < pieces.len() { ";" } else { "" };
        fields.word(&format!("{piece}{semicolon}"));
    }
    fields.end();
}

/// The number stands in front, so that none is the beginning of another.
fn boundary(random: &Random, number: usize) -> String {
    format!("=_{number}_{:032x}", u128::from_be_bytes(*random))
}

/// A text with CRLF for each of its line ends, CR, LF or both, and behind its last line.
#[must_use]
pub(crate) fn with_crlf(text: &str) -> String {
    let mut lines = text.replace("\r\n", "\n").replace('\r', "\n");
    if !lines.is_empty() && !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines.replace('\n', "\r\n")
}

/// How a whole message can be part of another, which RFC 2046 §5.2.1 lets nobody encode: as it is,
/// if its lines are such that SMTP takes them. None: not at all.
#[must_use]
pub(crate) fn transfer_of_message(message: &[u8]) -> Option<Transfer> {
    /// RFC 5321 §4.5.3.1.6, without CRLF.
    const TEXT_LINE_BYTES_MAX: usize = 998;
    for line in message.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let broken = line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
        if broken || line.len() > TEXT_LINE_BYTES_MAX {
            return None;
        }
    }
    Some(if message.is_ascii() { Transfer::SevenBit } else { Transfer::EightBit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_crlf_whatever_they_ended_in() {
        assert_eq!(with_crlf("a\r\nb\nc\rd"), "a\r\nb\r\nc\r\nd\r\n");
        assert_eq!(with_crlf(""), "");
        assert_eq!(with_crlf("\r\r\n\n"), "\r\n\r\n\r\n");
    }

    #[test]
    fn a_message_is_carried_as_it_is_or_not_at_all() {
        let long = "x".repeat(999);
        for (message, transfer) in [
            ("a: b\r\n\r\nc", Some(Transfer::SevenBit)),
            ("a: b\r\n\r\né\r\n", Some(Transfer::EightBit)),
            ("", Some(Transfer::SevenBit)),
            ("a\nb", None),
            ("a\rb\r\n", None),
            ("a\0\r\n", None),
            (&long, None),
        ] {
            assert_eq!(transfer_of_message(message.as_bytes()), transfer, "{message:?}");
        }
        assert_eq!(transfer_of_message(&long.as_bytes()[1..]), Some(Transfer::SevenBit));
    }

    #[test]
    fn no_boundary_begins_another() {
        let all: Vec<String> = (1..40).map(|n| boundary(&[7; 16], n)).collect();
        for (a, one) in all.iter().enumerate() {
            assert!(one.len() <= 70, "RFC 2046 §5.1.1");
            assert!(all.iter().enumerate().all(|(b, two)| a == b || !two.starts_with(one)));
        }
    }
}
