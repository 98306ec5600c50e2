//! A message on its way to a signature: whatever its bytes and its cuts, the signature is the same,
//! its lines are short, and the hash of a body does not change when its form is hashed instead.
#![no_main]

use fsmtp_proto::dkim::canon::{Body, BodyHash, Canon};
use fsmtp_proto::dkim::header::Section;
use fsmtp_proto::dkim::{Key, Signer, Terms};
use fsmtp_proto::time::UnixTime;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// PKCS #8 around a seed that is used nowhere else.
static KEYS: LazyLock<[Key; 1]> = LazyLock::new(|| {
    let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let pkcs8 = [&head[..], &[7; 32]].concat();
    [Key::from_pkcs8("example.test", "s", &pkcs8).expect("a key")]
});

fn sign(terms: Terms, message: &[u8], piece_bytes: usize) -> Option<Vec<u8>> {
    let mut signer = Signer::new(terms);
    message.chunks(piece_bytes).for_each(|piece| signer.feed(piece));
    signer.finish(&*KEYS, UnixTime::from_ms(0)).ok()
}

fuzz_target!(|data: &[u8]| {
    let [forms, piece_bytes, message @ ..] = data else { return };
    let canon = |bit: u8| if forms & bit == 0 { Canon::Relaxed } else { Canon::Simple };
    let terms = Terms { header: canon(1), body: canon(2), valid: None };
    let whole = sign(terms, message, message.len().max(1));
    assert_eq!(whole, sign(terms, message, usize::from(*piece_bytes) + 1));
    for line in whole.iter().flat_map(|out| out.split(|&byte| byte == b'\n')) {
        assert!(line.len() <= 79);
    }
    let rest = Section::new().feed(message);
    let (mut body, mut form) = (Body::new(terms.body), Vec::new());
    body.feed(rest, &mut |piece| form.extend_from_slice(piece));
    body.finish(&mut |piece| form.extend_from_slice(piece));
    let hash = |bytes: &[u8]| {
        let mut hash = BodyHash::new(terms.body);
        hash.feed(bytes);
        hash.finish().as_ref().to_vec()
    };
    assert_eq!(hash(rest), hash(&form));
});
