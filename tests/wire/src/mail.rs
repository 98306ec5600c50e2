//! Messages made from a seed, how they look on the wire, and what the engine put before them.
//!
//! Used by tests of every kind. The same seed and number give the same bytes for ever, so a ledger
//! needs to keep no content.

/// A small generator of numbers (splitmix64): good enough to vary test data, and repeatable.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound.max(1)
    }
}

/// The header that begins every message made here; its value is the message's number.
pub const MARK: &str = "X-Ledger: ";

/// Message `number` of `seed`: a header and about `octets` octets of body in lines that end in
/// CRLF, among them lines of dots, empty ones, long ones and 8-bit ones.
#[must_use]
pub fn message(seed: u64, number: u64, octets: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut text = format!(
        "{MARK}{number}\r\nFrom: <sender@sender.test>\r\nTo: <rcpt@example.test>\r\n\
         Subject: message {number}\r\n\r\n"
    )
    .into_bytes();
    text.reserve(octets + 1200);
    let end = text.len() + octets;
    while text.len() < end {
        line(&mut rng, &mut text);
    }
    text
}

fn line(rng: &mut Rng, text: &mut Vec<u8>) {
    let dots: [&[u8]; 5] = [b".", b"..", b"...", b".x", b""];
    let (count, mask) = match rng.below(16) {
        0 => {
            text.extend_from_slice(dots.get(rng.below(5) as usize).copied().unwrap_or(b"."));
            (0, 0)
        }
        1 => (990, 0x3f),
        2 => (rng.below(78), 0xff),
        _ => (40 + rng.below(38), 0x3f),
    };
    for _ in 0..count.div_ceil(8) {
        for byte in rng.bits().to_le_bytes() {
            // Printable, or any octet from 0x80 up: never a control character.
            let byte = (byte & mask).wrapping_add(0x30);
            text.push(if byte < 0x20 || byte == 0x7f { byte | 0x80 } else { byte });
        }
    }
    text.extend_from_slice(b"\r\n");
}

/// `message` as DATA carries it: dots doubled at line starts, and the end of data (RFC 5321
/// §4.5.2). A message that does not end in CRLF is given one.
#[must_use]
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 64 + 5);
    for line in message.split_inclusive(|&b| b == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.ends_with(b"\r\n") && !wire.is_empty() {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// The number that a stored message carries, and the offset where what was sent begins.
#[must_use]
pub fn find_mark(stored: &[u8]) -> Option<(u64, usize)> {
    let mut at = 0;
    for line in stored.split_inclusive(|&b| b == b'\n').take(200) {
        if let Some(value) = line.strip_prefix(MARK.as_bytes()) {
            let value = std::str::from_utf8(value).ok()?;
            return Some((value.trim_end().parse().ok()?, at));
        }
        at += line.len();
    }
    None
}

/// Checks that `stored` is `sent` with nothing before it but the engine's own trace headers, and
/// gives these back.
///
/// # Errors
/// What differs, in a sentence.
pub fn trace<'a>(stored: &'a [u8], sent: &[u8]) -> Result<&'a [u8], String> {
    let Some(head) = stored.strip_suffix(sent) else {
        let same = stored.iter().rev().zip(sent.iter().rev()).take_while(|(a, b)| a == b).count();
        return Err(format!(
            "{} octets stored do not end in the {} octets sent: they agree in the last {same}",
            stored.len(),
            sent.len()
        ));
    };
    trace_only(head).map(|()| head)
}

/// Checks that `head` is made of the engine's own trace headers only.
///
/// # Errors
/// The first line that is none.
pub fn trace_only(head: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(head);
    let names = ["Return-Path: <", "Received: ", "X-Fannst-"];
    for line in text.split_inclusive("\r\n") {
        let known = line.starts_with([' ', '\t']) || names.iter().any(|n| line.starts_with(n));
        if !known || !line.ends_with("\r\n") {
            return Err(format!("{line:?} stands before the message"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_repeatable_and_legal() {
        let all: Vec<u8> = (0..200).flat_map(|n| message(7, n, 5_000)).collect();
        assert_eq!(all, (0..200).flat_map(|n| message(7, n, 5_000)).collect::<Vec<u8>>());
        for wanted in [b"\r\n.\r\n".as_slice(), b"\r\n..\r\n", b"\r\n\r\n\r\n"] {
            assert!(all.windows(wanted.len()).any(|w| w == wanted), "{wanted:?}");
        }
        assert!(all.iter().any(|&b| b >= 0x80));
        let ends = all.iter().filter(|&&b| b == b'\n').count();
        assert_eq!(all.windows(2).filter(|w| w == b"\r\n").count(), ends);
        assert_eq!(all.iter().filter(|&&b| b < 0x20).count(), 2 * ends);
        let longest = all.split(|&b| b == b'\n').map(<[u8]>::len).max().unwrap();
        assert!((900..=999).contains(&longest), "{longest}");
    }

    #[test]
    fn the_wire_form_and_the_trace_are_told_apart() {
        assert_eq!(stuffed(b".a\r\nb\r\n..\r\n"), b"..a\r\nb\r\n...\r\n.\r\n");
        assert_eq!(stuffed(b""), b".\r\n");
        let sent = message(1, 42, 100);
        let stored = [b"Return-Path: <a@b>\r\nReceived: from x\r\n\tby y\r\n", &*sent].concat();
        assert_eq!(find_mark(&stored), Some((42, 45)));
        assert_eq!(trace(&stored, &sent).map(<[u8]>::len), Ok(45));
        assert!(trace(&stored[..stored.len() - 1], &sent).is_err());
        assert!(trace(&[b"Other: x\r\n", &*sent].concat(), &sent).is_err());
    }
}
