//! What strangers could use to pass for nodes: no bytes are a token that nobody has made, and what
//! is kept of a header has no field of nodes, however the message is cut. The first byte chooses
//! the cut, the second the clock.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fsmtp_proto::smtp::client::reply::{Parsed, parse_private};
use fsmtp_proto::smtp::ext::su::{KEY_BYTES, Keys};
use fsmtp_proto::smtp::header::Header;
use fsmtp_proto::time::UnixTime;
use libfuzzer_sys::fuzz_target;

fn kept(message: &[u8], piece: usize) -> (Vec<u8>, u16) {
    let (mut header, mut out) = (Header::new(Some("a.example".into())), Vec::new());
    for mut bytes in message.chunks(piece) {
        while let Some(kept) = header.next(&mut bytes) {
            assert!(!kept.as_ref().is_empty());
            out.extend_from_slice(kept.as_ref());
        }
    }
    if let Some(kept) = header.end() {
        out.extend_from_slice(kept.as_ref());
    }
    (out, header.hops())
}

fuzz_target!(|data: &[u8]| {
    let [piece, clock, bytes @ ..] = data else { return };
    let Some(keys) = Keys::new([&[7; KEY_BYTES]]) else { unreachable!() };
    let now = UnixTime::from_ms(u64::from(*clock) * 1000);
    assert!(keys.check(bytes, &[1; 32], now).is_err());
    // Past the encoding and the version, to where it is looked at.
    let body = [&[1], bytes].concat();
    assert!(keys.check(STANDARD.encode(body).as_bytes(), &[1; 32], now).is_err());
    if let Parsed::Whole(reply) = parse_private(bytes) {
        assert!((200..=659).contains(&reply.code()));
        assert_eq!(parse_private(reply.bytes()), Parsed::Whole(reply));
    }
    let whole = kept(bytes, bytes.len().max(1));
    assert_eq!(kept(bytes, usize::from(*piece) + 1), whole);
    // What was taken out does not join what stood around it to a field of its kind.
    assert_eq!(kept(&whole.0, whole.0.len().max(1)), whole);
});
