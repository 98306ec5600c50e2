//! The end-of-data scanner against a reader that has all bytes before him, for any cut. The first
//! byte is the size of the pieces; most bytes after it stand for the four that matter.
#![no_main]

use fsmtp_proto::smtp::body::{HELD_BYTES_MAX, Newlines, Piece, Scanner};
use libfuzzer_sys::fuzz_target;

/// The message, how long it was on the wire with its end, and whether a newline in it is bare.
fn naive(wire: &[u8]) -> Option<(Vec<u8>, usize, bool)> {
    let stream = [b"\r\n", wire].concat();
    let end = stream.windows(5).position(|five| five == b"\r\n.\r\n")?;
    let body = &stream[2..end + 2];
    let starts_line = |i: usize| i == 0 || (i >= 2 && &body[i - 2..i] == b"\r\n");
    let kept = body.iter().enumerate().filter(|(i, b)| !(**b == b'.' && starts_line(*i)));
    let message: Vec<u8> = kept.map(|(_, b)| *b).collect();
    Some((message, end + 3, bare(body)))
}

fn bare(body: &[u8]) -> bool {
    let text = body.iter().map(|b| char::from(*b)).collect::<String>().replace("\r\n", "");
    text.contains(['\r', '\n'])
}

fn scanned(wire: &[u8], piece_bytes: usize) -> Option<(Vec<u8>, usize, bool)> {
    let mut scanner = Scanner::new();
    let (mut from, mut to, mut message) = (0, 0, Vec::new());
    loop {
        match scanner.scan(&wire[from..to]) {
            Piece::Data { bytes, consumed } => {
                message.extend_from_slice(bytes);
                from += consumed;
            }
            Piece::End => return Some((message, from + 3, scanner.bare_newline())),
            Piece::NeedInput if to == wire.len() => return None,
            Piece::NeedInput => {
                assert!(to - from <= HELD_BYTES_MAX);
                to = (to + piece_bytes).min(wire.len());
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [piece, wire @ ..] = data else { return };
    let wire: Vec<u8> = wire
        .iter()
        .map(|b| if *b < 192 { *b } else { b".\r\nx"[usize::from(*b % 4)] })
        .collect();
    let expected = naive(&wire);
    assert_eq!(scanned(&wire, wire.len().max(1)), expected);
    assert_eq!(scanned(&wire, 1 + usize::from(*piece)), expected);
    let mut newlines = Newlines::default();
    wire.chunks(1 + usize::from(*piece)).for_each(|chunk| newlines.feed(chunk));
    assert_eq!(newlines.bare_at_end(), bare(&wire));
});
