//! A message on its way out: whatever its bytes and its cuts, only dots at line starts are added,
//! and no reader of lines, at CRLF or at LF, sees the end of the reply before it is there.
#![no_main]

use fsmtp_proto::pop3::{Stuffer, Top};
use libfuzzer_sys::fuzz_target;

fn encode(message: &[u8], lines: Option<u64>, piece_bytes: usize) -> Vec<u8> {
    let (mut stuffer, mut top, mut out) = (Stuffer::new(), lines.map(Top::new), Vec::new());
    for piece in message.chunks(piece_bytes) {
        let before = out.len();
        let piece = top.as_mut().map_or(piece, |top| top.take(piece));
        stuffer.push(piece, &mut out);
        assert!(out.len() - before <= Stuffer::grown_bytes_max(piece.len()));
    }
    stuffer.finish(&mut out);
    out
}

fuzz_target!(|data: &[u8]| {
    let [lines, piece_bytes, message @ ..] = data else { return };
    let lines = (*lines < 128).then_some(u64::from(*lines));
    let whole = encode(message, lines, message.len().max(1));
    assert_eq!(whole, encode(message, lines, usize::from(*piece_bytes) + 1));
    let body = whole.strip_suffix(b".\r\n").unwrap_or_default();
    assert!(body.is_empty() || body.ends_with(b"\r\n"));
    let mut reader = body.split(|&byte| byte == b'\n');
    assert!(!reader.any(|line| line == b"." || line == b".\r"));
});
