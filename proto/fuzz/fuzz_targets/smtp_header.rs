//! What is taken out of a header as it streams by: the same for any cut, nothing of ours is left at
//! the begin of a line, and every byte of the section is counted. The first byte is the size of the
//! pieces.
#![no_main]

use std::rc::Rc;

use fsmtp_proto::smtp::header::Header;
use libfuzzer_sys::fuzz_target;

fn kept(message: &[u8], piece_bytes: usize) -> (Vec<u8>, u16, u64) {
    let (mut header, mut out) = (Header::new(Some(Rc::from("mx.a.example"))), Vec::new());
    for mut piece in message.chunks(piece_bytes) {
        while let Some(kept) = header.next(&mut piece) {
            out.extend_from_slice(kept.as_ref());
        }
    }
    out.extend_from_slice(header.end().as_ref().map_or(b"", AsRef::as_ref));
    (out, header.hops(), header.bytes_count())
}

fuzz_target!(|data: &[u8]| {
    let [piece, message @ ..] = data else { return };
    let whole = kept(message, message.len().max(1));
    assert_eq!(kept(message, 1 + usize::from(*piece)), whole);
    let (out, _, count) = whole;
    assert!(count <= message.len() as u64);
    let section_bytes = usize::try_from(count).unwrap_or(usize::MAX);
    let body = &message[section_bytes.min(message.len())..];
    let section = out.strip_suffix(body).expect("the body stays");
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let front = line[..line.len().min(9)].to_ascii_lowercase();
        assert_ne!(front, b"x-fannst-");
    }
});
