//! What proves that a message arrived as it was sent: its id, and the sum over its body.
//!
//! `sink` and `verify` read messages with [`Reader`], which takes them in pieces of any length and
//! holds one header line of at most [`LINE_BYTES_MAX`] bytes. The header ends at the first empty
//! line; the sum is over all octets behind it. The first `X-Loadgen-Id` field counts, so trace
//! fields that servers put in front change nothing, nor does a copy inside the body.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};

/// What is kept of a header line: more than an id field needs.
const LINE_BYTES_MAX: usize = 64;
const ID_FIELD: &[u8] = b"x-loadgen-id:";

/// Who a message is: `<run>-<core>-<number>`, 8, 2 and 12 digits in hexadecimal.
/// As bytes, since `verify` holds millions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id([u8; 4 + 1 + 6]);

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut id = [0; 11];
        let mut rest = text.as_bytes();
        for (at, byte) in id.iter_mut().enumerate() {
            if at == 4 || at == 5 {
                rest = rest.strip_prefix(b"-").ok_or(())?;
            }
            let (pair, behind) = rest.split_first_chunk().ok_or(())?;
            (*byte, rest) = (octet(*pair)?, behind);
        }
        if rest.is_empty() { Ok(Self(id)) } else { Err(()) }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, byte)| {
            let dash = if at == 4 || at == 5 { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")
        })
    }
}

/// Two hexadecimal digits.
fn octet([high, low]: [u8; 2]) -> Result<u8, ()> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(());
    Ok(digit(high)? << 4 | digit(low)?)
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum(pub(crate) [u8; 32]);

impl FromStr for Sum {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(());
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(pairs) {
            *byte = octet(*pair)?;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At once: a sink writes one for each message.
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0') as u8;
        let mut text = [0; 64];
        let (pairs, _) = text.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(self.0) {
            *pair = [digit(byte >> 4), digit(byte & 15)];
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a whole message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: Option<Id>,
    pub(crate) sum: Sum,
    pub(crate) octets: u64,
}

/// Reads one message.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The beginning of a line that goes on in the next piece.
    line: Vec<u8>,
    /// Whether the line is longer than what is kept of it.
    cut: bool,
    in_body: bool,
    id: Option<Id>,
    sum: Sha,
    octets: u64,
}

struct Sha(Context);

impl fmt::Debug for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha")
    }
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            line: Vec::new(),
            cut: false,
            in_body: false,
            id: None,
            sum: Sha(Context::new(&SHA256)),
            octets: 0,
        }
    }

    /// Takes the next octets.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.octets += bytes.len() as u64;
        let mut rest = bytes;
        while !self.in_body && !rest.is_empty() {
            let end = rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            rest = after;
            let room = LINE_BYTES_MAX - self.line.len();
            self.cut |= line.len() > room;
            self.line.extend_from_slice(line.get(..room).unwrap_or(line));
            if line.ends_with(b"\n") {
                self.header_line();
            }
        }
        if !rest.is_empty() {
            self.sum.0.update(rest);
        }
    }

    fn header_line(&mut self) {
        let line = self.line.trim_ascii_end();
        self.in_body = !self.cut && matches!(&self.line[..], b"\r\n" | b"\n");
        let (name, value) = line.split_at(ID_FIELD.len().min(line.len()));
        if self.id.is_none() && !self.cut && name.eq_ignore_ascii_case(ID_FIELD) {
            let value = str::from_utf8(value.trim_ascii_start()).unwrap_or_default();
            self.id = value.parse().ok();
        }
        self.cut = false;
        self.line.clear();
    }

    /// What it was.
    pub(crate) fn finish(self) -> Seen {
        let mut sum = [0; 32];
        // SHA-256 has 32 octets.
        sum.copy_from_slice(self.sum.0.finish().as_ref());
        Seen { id: self.id, sum: Sum(sum), octets: self.octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(body: &[u8]) -> Sum {
        let mut reader = Reader::new();
        reader.push(b"\r\n");
        reader.push(body);
        reader.finish().sum
    }

    #[test]
    fn ids_and_sums_are_read_as_they_are_written() {
        let text = "deadbeef-03-000000001234";
        assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        for wrong in ["", "deadbeef-03-00000000123", "deadbeef-03-000000001234-", "x", "a-b-c"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
        assert!("+eadbeef-03-000000001234".parse::<Id>().is_err());
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!((text.parse(), sum(b"").to_string().as_str()), (Ok(sum(b"")), text));
        assert!(text[1..].parse::<Sum>().is_err() && text[2..].parse::<Sum>().is_err());
        assert!(text.replace('e', "g").parse::<Sum>().is_err());
    }

    #[test]
    fn a_message_is_the_same_in_pieces_of_any_length() {
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        let message = format!(
            "Received: from somewhere\r\n\tby {long}\r\n\
             x-loadgen-ID:  deadbeef-03-000000001234 \r\n\
             X-Loadgen-Id: 00000000-00-000000000000\r\nSubject: {long}\r\n\r\nbody\r\n\r\n.end\r\n"
        );
        for length in 1..message.len() + 1 {
            let mut reader = Reader::new();
            for piece in message.as_bytes().chunks(length) {
                reader.push(piece);
                assert!(reader.line.len() <= LINE_BYTES_MAX);
            }
            let seen = reader.finish();
            assert_eq!(seen.id, "deadbeef-03-000000001234".parse().ok(), "{length}");
            assert_eq!(seen.sum, sum(b"body\r\n\r\n.end\r\n"), "{length}");
            assert_eq!(seen.octets, message.len() as u64);
        }
    }

    #[test]
    fn an_id_in_the_body_or_a_message_without_one_is_nobodys() {
        for text in
            ["Subject: x\r\n\r\nX-Loadgen-Id: deadbeef-03-000000001234\r\n", "no header", ""]
        {
            let mut reader = Reader::new();
            reader.push(text.as_bytes());
            assert_eq!(reader.finish().id, None, "{text}");
        }
    }
}
