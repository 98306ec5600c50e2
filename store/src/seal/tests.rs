//! Sealing as a whole: round trips, and that every change, cut and exchange is found.

use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::LazyLock;

use super::*;
use crate::id::{MailboxId, QueueId};
use crate::password::Cost;

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
const ALICE: MailboxId = MailboxId(7);
const BOB: MailboxId = MailboxId(8);

/// Bytes that differ from call to call, the same ones for the same seed.
fn random(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bytes| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
    }
}

struct Account {
    mailbox: MailboxId,
    keys: UserKeys,
    key: MailboxKey,
}

/// Making a key pair is slow, so all tests share these two.
static ACCOUNTS: LazyLock<[Account; 2]> = LazyLock::new(|| {
    [ALICE, BOB].map(|mailbox| {
        let mut random = random(mailbox.0);
        let (keys, key) = UserKeys::generate(mailbox, RsaBits::B2048, &mut random).unwrap();
        Account { mailbox, keys, key }
    })
});

fn alice() -> &'static Account {
    &ACCOUNTS[0]
}

fn bob() -> &'static Account {
    &ACCOUNTS[1]
}

impl Account {
    fn private(&self) -> PrivateKey {
        self.keys.private_key(self.mailbox, &self.key).unwrap()
    }

    fn window(&self, seed: u64) -> (Window, WindowRecord) {
        let public = self.keys.public_key().unwrap();
        Window::begin(self.mailbox, &public, &mut random(seed)).unwrap()
    }
}

/// Seals `plain` as chunks.
fn sealed(sealer: &mut Sealer, plain: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = plain.len() - 1;
    let chunks = plain.iter().enumerate();
    chunks
        .map(|(index, chunk)| {
            let mut buf = chunk.to_vec();
            sealer.seal_chunk(&mut buf, index == last).unwrap();
            assert_eq!(buf.len(), chunk.len() + TAG_BYTES);
            buf
        })
        .collect()
}

fn opened(key: &ContentKey, id: QueueId, chunks: &[Vec<u8>]) -> Result<Vec<u8>, SealError> {
    let mut opener = Opener::new(key, id);
    let mut plain = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut chunk = chunk.clone();
        plain.extend_from_slice(opener.open_chunk(&mut chunk, index + 1 == chunks.len())?);
    }
    opener.finish()?;
    Ok(plain)
}

/// Every change of one byte of `bytes` to every other value, and every proper beginning of it.
fn spoiled(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let changed = (0..bytes.len()).flat_map(move |at| {
        (1..=255u8).map(move |with| {
            let mut changed = bytes.to_vec();
            changed[at] ^= with;
            changed
        })
    });
    changed.chain((0..bytes.len()).map(|end| bytes[..end].to_vec()))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

proptest! {
    #[test]
    fn a_message_reads_back(
        chunks in vec(vec(any::<u8>(), 0..300), 1..6),
        envelope in vec(any::<u8>(), 0..200),
        id in any::<u64>(),
    ) {
        let id = QueueId(id);
        let mut sealer = Sealer::begin(id, &mut random(id.0));
        let pieces: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let sealed = sealed(&mut sealer, &pieces);
        let mut part = envelope.clone();
        sealer.seal_part(Part::Envelope, &mut part).unwrap();
        let key = sealer.finish().unwrap();
        prop_assert_eq!(opened(&key, id, &sealed).unwrap(), chunks.concat());
        let opener = Opener::new(&key, id);
        prop_assert_eq!(opener.open_part(Part::Envelope, &mut part).unwrap(), envelope);
        for (number, chunk) in sealed.iter().enumerate().rev() {
            let last = number + 1 == sealed.len();
            let mut buf = chunk.clone();
            let plain = opener.open_chunk_at(number as u64, &mut buf, last).unwrap();
            prop_assert_eq!(&*plain, &chunks[number]);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_mean_one_thing(
        mut bytes in vec(any::<u8>(), 0..300), kind in 0u8..6, framed in any::<bool>(),
    ) {
        if framed && bytes.len() > 1 {
            bytes[0] = 1;
            bytes[1] = kind;
        }
        if let Ok(record) = WindowRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes.clone());
            prop_assert!(record.open(&alice().key).is_err());
        }
        if let Ok(wrap) = RecipientWrap::decode(&bytes) {
            prop_assert_eq!(wrap.encode().to_vec(), bytes.clone());
        }
        if let Ok(keys) = UserKeys::decode(&bytes) {
            prop_assert_eq!(keys.encode(), bytes.clone());
            prop_assert!(keys.public_key().is_err());
        }
        if let Ok(wraps) = Wraps::decode(&bytes) {
            prop_assert_eq!(wraps.encode(), bytes);
        }
    }

    #[test]
    fn a_spoiled_list_is_refused_or_means_one_thing(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = all_kinds().encode();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
            prop_assert!(Wraps::decode(&bytes).is_err());
        } else {
            bytes[at] = with;
            if let Ok(wraps) = Wraps::decode(&bytes) {
                prop_assert_eq!(wraps.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_password_opens_its_own_wrap_only(
        password in vec(any::<u8>(), 1..40), other in vec(any::<u8>(), 0..40), seed in any::<u64>(),
    ) {
        let key = &alice().key;
        let wrap = PasswordWrap::seal(key, ALICE, &password, CHEAP, &mut random(seed)).unwrap();
        prop_assert!(wrap.open(ALICE, &password).unwrap().0 == key.0);
        if other != password {
            prop_assert_eq!(wrap.open(ALICE, &other).unwrap_err(), SealError::Refused);
        }
    }
}

#[test]
fn every_change_and_cut_of_a_chunk_or_part_is_found() {
    let id = QueueId(5);
    let mut sealer = Sealer::begin(id, &mut random(1));
    let chunks = sealed(&mut sealer, &[b"From: a\r\n", b""]);
    let mut part = b"alice@example.test".to_vec();
    sealer.seal_part(Part::Envelope, &mut part).unwrap();
    let key = sealer.finish().unwrap();
    let opener = Opener::new(&key, id);
    for (number, chunk) in chunks.iter().enumerate() {
        for mut bad in spoiled(chunk) {
            let last = number == 1;
            let refused = opener.open_chunk_at(number as u64, &mut bad, last);
            assert_eq!(refused, Err(SealError::Refused));
        }
    }
    for mut bad in spoiled(&part) {
        assert_eq!(opener.open_part(Part::Envelope, &mut bad), Err(SealError::Refused));
    }
    for other in [Part::Trace, Part::Preview] {
        assert!(opener.open_part(other, &mut part.clone()).is_err());
    }
}

#[test]
fn chunks_cannot_be_exchanged_left_out_or_added() {
    let id = QueueId(5);
    let pieces: [&[u8]; 3] = [b"one", b"two", b"six"];
    let mut sealer = Sealer::begin(id, &mut random(1));
    let whole = sealed(&mut sealer, &pieces);
    let key = sealer.finish().unwrap();
    assert_eq!(opened(&key, id, &whole).unwrap(), b"onetwosix");
    for order in [
        vec![0, 2, 1],
        vec![1, 0, 2],
        vec![0, 1],
        vec![0],
        vec![0, 2],
        vec![2],
        vec![1, 2],
        vec![0, 0, 1, 2],
        vec![0, 1, 2, 2],
    ] {
        let chunks: Vec<Vec<u8>> =
            order.iter().map(|&index: &usize| whole[index].clone()).collect();
        assert_eq!(opened(&key, id, &chunks), Err(SealError::Refused), "{order:?}");
    }
    // A reader that does not know where the message ends is told by `finish`.
    let mut opener = Opener::new(&key, id);
    opener.open_chunk(&mut whole[0].clone(), false).unwrap();
    assert_eq!(opener.finish(), Err(SealError::Unfinished));
    assert_eq!(Opener::new(&key, id).finish(), Err(SealError::Unfinished));
    assert_eq!(opened(&key, QueueId(6), &whole), Err(SealError::Refused));
    // The same bytes under another message's key.
    let mut other = Sealer::begin(id, &mut random(2));
    let others = sealed(&mut other, &pieces);
    assert_ne!(others, whole);
    assert_eq!(opened(other.content_key(), id, &whole), Err(SealError::Refused));
}

#[test]
fn nothing_is_believed_after_a_refused_chunk() {
    let id = QueueId(5);
    let mut sealer = Sealer::begin(id, &mut random(1));
    let chunks = sealed(&mut sealer, &[b"one", b"two"]);
    let mut opener = Opener::new(sealer.content_key(), id);
    assert_eq!(opener.open_chunk(&mut [0; 40], false), Err(SealError::Refused));
    assert_eq!(opener.open_chunk(&mut chunks[0].clone(), false), Err(SealError::Refused));
    assert_eq!(opener.finish(), Err(SealError::Refused));
}

#[test]
fn a_sealer_keeps_its_limits_and_never_repeats_a_nonce() {
    let mut sealer = Sealer::begin(QueueId(5), &mut random(1));
    let too_long = &mut vec![0; CHUNK_BYTES_MAX + 1];
    assert_eq!(sealer.seal_chunk(too_long, false), Err(SealError::TooLarge("a chunk")));
    assert_eq!(too_long, &vec![0; CHUNK_BYTES_MAX + 1]);
    sealer.seal_chunk(&mut vec![0; CHUNK_BYTES_MAX], false).unwrap();
    let too_long = &mut vec![0; PART_BYTES_MAX + 1];
    assert_eq!(sealer.seal_part(Part::Trace, too_long), Err(SealError::TooLarge("a part")));
    for part in [Part::Envelope, Part::Trace, Part::Preview] {
        sealer.seal_part(part, &mut vec![0; PART_BYTES_MAX]).unwrap();
        assert!(matches!(sealer.seal_part(part, &mut vec![]), Err(SealError::Misuse(_))));
    }
    sealer.seal_chunk(&mut vec![], true).unwrap();
    for last in [false, true] {
        assert!(matches!(sealer.seal_chunk(&mut vec![], last), Err(SealError::Misuse(_))));
    }
    let mut sealer = Sealer::begin(QueueId(5), &mut random(1));
    sealer.seal_chunk(&mut vec![], false).unwrap();
    assert!(matches!(sealer.finish(), Err(SealError::Unfinished)));
}

#[test]
fn from_password_to_message_and_back() {
    let (id, account) = (QueueId(77), alice());
    let wrap =
        PasswordWrap::seal(&account.key, ALICE, b"correct horse", CHEAP, &mut random(1)).unwrap();
    let (window, record) = account.window(2);
    let mut sealer = Sealer::begin(id, &mut random(3));
    let chunks = sealed(&mut sealer, &[b"Subject: hello\r\n\r\n", b"It works.\r\n"]);
    let recipient = window.wrap(&sealer.finish().unwrap(), id).unwrap().encode();
    let (keys, record) = (account.keys.encode(), record.encode());

    // What is stored, and a password.
    let key = wrap.open(ALICE, b"correct horse").unwrap();
    let record = WindowRecord::decode(&record).unwrap();
    assert!(record.needs_rsa() && record.mailbox() == ALICE && record.id() == window.id());
    let private = UserKeys::decode(&keys).unwrap().private_key(ALICE, &key).unwrap();
    let first = record.open_rsa(&private).unwrap();
    let recipient = RecipientWrap::decode(&recipient).unwrap();
    let content = first.open(&recipient, id).unwrap();
    assert_eq!(opened(&content, id, &chunks).unwrap(), b"Subject: hello\r\n\r\nIt works.\r\n");

    // A later visit costs no RSA.
    let rewrapped = first.rewrap(&key, &mut random(4)).unwrap().encode();
    let record = WindowRecord::decode(&rewrapped).unwrap();
    assert!(!record.needs_rsa() && record.id() == window.id());
    let content = record.open(&key).unwrap().open(&recipient, id).unwrap();
    assert_eq!(opened(&content, id, &chunks).unwrap(), b"Subject: hello\r\n\r\nIt works.\r\n");
}

#[test]
fn every_change_and_cut_of_a_recipient_wrap_is_found_and_none_fits_elsewhere() {
    let id = QueueId(77);
    let (window, record) = alice().window(2);
    let open = record.open_rsa(&alice().private()).unwrap();
    let sealer = Sealer::begin(id, &mut random(3));
    let wrap = window.wrap(sealer.content_key(), id).unwrap();
    let key = open.open(&wrap, id).unwrap();
    assert_eq!(key.0.bytes(), sealer.content_key().0.bytes());
    for bad in spoiled(&wrap.encode()) {
        let opened = RecipientWrap::decode(&bad).and_then(|bad| open.open(&bad, id));
        assert!(opened.is_err());
    }
    assert_eq!(open.open(&wrap, QueueId(78)).unwrap_err(), SealError::Refused);
    let (_, second) = alice().window(9);
    let second = second.open_rsa(&alice().private()).unwrap();
    assert_eq!(second.open(&wrap, id).unwrap_err(), SealError::Refused);
    // Nor when the wrap says that it belongs there.
    let mut moved = wrap;
    moved.window = second.id();
    assert_eq!(second.open(&moved, id).unwrap_err(), SealError::Refused);
    let mut moved = wrap;
    moved.mailbox = BOB;
    assert_eq!(open.open(&moved, id).unwrap_err(), SealError::Refused);
}

#[test]
fn every_change_and_cut_of_a_window_record_is_found_and_none_fits_elsewhere() {
    let private = alice().private();
    let (_, record) = alice().window(2);
    let rewrapped = record.open_rsa(&private).unwrap();
    let rewrapped = rewrapped.rewrap(&alice().key, &mut random(4)).unwrap();
    for bad in spoiled(&rewrapped.encode()) {
        let opened = WindowRecord::decode(&bad).and_then(|bad| bad.open(&alice().key));
        assert!(opened.is_err());
    }
    // RSA takes a millisecond, so each byte gets one change.
    let bytes = record.encode();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        for bad in [&changed, &bytes[..at].to_vec()] {
            let opened = WindowRecord::decode(bad).and_then(|bad| bad.open_rsa(&private));
            assert!(opened.is_err(), "{at}");
        }
    }
    // Another mailbox, the other kind.
    assert!(record.open_rsa(&bob().private()).is_err());
    assert!(rewrapped.open(&bob().key).is_err());
    assert_eq!(record.open(&alice().key).unwrap_err(), SealError::Refused);
    assert_eq!(rewrapped.open_rsa(&private).unwrap_err(), SealError::Refused);
}

#[test]
fn two_rewraps_of_one_name_share_no_key_stream() {
    // Somebody who can write to the disk lays a window of his own under the name of another one:
    // with a nonce made from the name, the two rewraps would give him the other's key.
    let open = |seed| alice().window(seed).1.open_rsa(&alice().private()).unwrap();
    let first = open(2).rewrap(&alice().key, &mut random(4)).unwrap().encode();
    let again = open(2).rewrap(&alice().key, &mut random(5)).unwrap().encode();
    assert_ne!(first, again);
    let last = first.len() - WRAPPED_BYTES;
    assert_ne!(first[last..], again[last..]);
}

#[test]
fn every_change_and_cut_of_the_key_pair_is_found() {
    let bytes = alice().keys.encode();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        for bad in [&changed, &bytes[..at].to_vec()] {
            let opened = UserKeys::decode(bad).and_then(|k| k.private_key(ALICE, &alice().key));
            assert!(opened.is_err(), "{at}");
        }
    }
    assert!(alice().keys.private_key(BOB, &alice().key).is_err());
    assert!(alice().keys.private_key(ALICE, &bob().key).is_err());
    assert_ne!(alice().keys.public_der(), bob().keys.public_der());
}

fn all_kinds() -> Wraps {
    let (key, random) = (&alice().key, &mut random(11));
    let mut wraps = Wraps::default();
    let password = PasswordWrap::seal(key, ALICE, b"secret", CHEAP, random).unwrap();
    let scram = ScramWrap::seal(key, ALICE, b"secret", SCRAM_ITERATIONS_MIN, random).unwrap();
    wraps.put("password", Wrap::Password(password)).unwrap();
    let (app, secret) = AppWrap::seal(key, ALICE, random).unwrap();
    let app = app.with_scram(key, ALICE, &secret, scram.terms()).unwrap();
    wraps.put("scram", Wrap::Scram(scram)).unwrap();
    wraps.put("téléphone", Wrap::App(app)).unwrap();
    let (recovery, _) = RecoveryWrap::seal(key, ALICE, random).unwrap();
    wraps.put("paper", Wrap::Recovery(recovery)).unwrap();
    wraps
}

#[test]
fn every_change_and_cut_of_a_credential_wrap_is_found() {
    type Open = Box<dyn Fn(&Wrap) -> Result<MailboxKey, SealError>>;
    let (key, random) = (&alice().key, &mut random(12));
    let password = PasswordWrap::seal(key, ALICE, b"secret", CHEAP, random).unwrap();
    let (app, app_secret) = AppWrap::seal(key, ALICE, random).unwrap();
    let (recovery, paper) = RecoveryWrap::seal(key, ALICE, random).unwrap();
    let cases: [(Wrap, Open); 3] = [
        (
            Wrap::Password(password),
            Box::new(|wrap| match wrap {
                Wrap::Password(wrap) => wrap.open(ALICE, b"secret"),
                _ => Err(SealError::Refused),
            }),
        ),
        (
            Wrap::App(app),
            Box::new(move |wrap| match wrap {
                Wrap::App(wrap) => wrap.open(ALICE, &app_secret),
                _ => Err(SealError::Refused),
            }),
        ),
        (
            Wrap::Recovery(recovery),
            Box::new(move |wrap| match wrap {
                Wrap::Recovery(wrap) => wrap.open(ALICE, &paper),
                _ => Err(SealError::Refused),
            }),
        ),
    ];
    for (wrap, open) in cases {
        assert_eq!(open(&wrap).unwrap().0.bytes(), key.0.bytes());
        let mut wraps = Wraps::default();
        wraps.put("", wrap).unwrap();
        let bytes = wraps.encode();
        // Version, next number and count in front, then the entry's number; they bind nothing.
        let (list, entry) = bytes.split_at(6 + 4);
        for bad in spoiled(entry) {
            let bad = [list, &bad].concat();
            let Ok(decoded) = Wraps::decode(&bad) else { continue };
            // A change can ask for Argon2 at a cost that takes minutes to try here.
            let dear = decoded.password().is_some_and(|p| p.cost().memory_kib > 1 << 12);
            assert!(dear || open(&decoded.entries()[0].wrap).is_err());
        }
    }
}

#[test]
fn every_change_of_what_scram_seals_is_found() {
    let (key, random) = (&alice().key, &mut random(13));
    let wrap = ScramWrap::seal(key, ALICE, b"pencil", SCRAM_ITERATIONS_MIN, random).unwrap();
    let message = b"n=user,r=nonce";
    let client_key = scram_client_key(b"pencil", &wrap);
    assert_eq!(wrap.open(ALICE, &client_key).unwrap().0.bytes(), key.0.bytes());
    for at in 0..WRAPPED_BYTES {
        let mut bad = wrap.clone();
        bad.sealed[at] ^= 0x10;
        assert!(bad.open(ALICE, &client_key).is_err());
    }
    let mut bad = wrap.clone();
    bad.terms.salt[3] ^= 1;
    assert!(bad.open(ALICE, &client_key).is_err());
    assert!(wrap.open(BOB, &client_key).is_err());
    assert!(wrap.open(ALICE, &scram_client_key(b"Pencil", &wrap)).is_err());
    // By the proof, as a session does it.
    let mut proof = hmac(&wrap.stored_key, message);
    proof.iter_mut().zip(client_key).for_each(|(byte, key)| *byte ^= key);
    assert_eq!(*wrap.client_key(message, &proof).unwrap(), client_key);
    assert!(wrap.client_key(b"n=user,r=other", &proof).is_err());
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::sign(&key, data).as_ref().try_into().unwrap()
}

fn scram_client_key(password: &[u8], wrap: &ScramWrap) -> [u8; 32] {
    let mut salted = [0; 32];
    let ScramTerms { salt, iterations } = wrap.terms();
    let iterations = iterations.try_into().unwrap();
    let algorithm = ring::pbkdf2::PBKDF2_HMAC_SHA256;
    ring::pbkdf2::derive(algorithm, iterations, &salt, password, &mut salted);
    hmac(&salted, b"Client Key")
}

#[test]
fn a_wrap_of_one_kind_or_mailbox_does_not_open_as_another() {
    let (key, random) = (&alice().key, &mut random(14));
    let (app, app_secret) = AppWrap::seal(key, ALICE, random).unwrap();
    let (recovery, paper) = RecoveryWrap::seal(key, ALICE, random).unwrap();
    assert!(app.open(ALICE, &app_secret).is_ok() && recovery.open(ALICE, &paper).is_ok());
    assert!(app.open(BOB, &app_secret).is_err() && recovery.open(BOB, &paper).is_err());
    assert!(app.open(ALICE, &paper).is_err() && recovery.open(ALICE, &app_secret).is_err());
    // The same bytes, taken for the other kind.
    let (as_recovery, as_app) = (RecoveryWrap(app.own), AppWrap { own: recovery.0, scram: None });
    assert!(as_recovery.open(ALICE, &app_secret).is_err());
    assert!(as_app.open(ALICE, &paper).is_err());
    let password = PasswordWrap::seal(key, ALICE, b"secret", CHEAP, random).unwrap();
    assert_eq!(password.open(BOB, b"secret").unwrap_err(), SealError::Refused);
}

#[test]
fn logins_try_app_passwords_and_the_password() {
    let (key, random) = (&alice().key, &mut random(15));
    let mut wraps = all_kinds();
    let (app, secret) = AppWrap::seal(key, ALICE, random).unwrap();
    let number = wraps.put("laptop", Wrap::App(app)).unwrap();
    let (_, stranger) = AppWrap::seal(key, ALICE, random).unwrap();
    let wraps = Wraps::decode(&wraps.encode()).unwrap();
    let open = |password: &[u8]| wraps.open(ALICE, password, CHEAP);
    assert_eq!(open(b"secret").unwrap().0, 0);
    assert_eq!(open(secret.text().as_bytes()).unwrap().0, number);
    for wrong in [b"secreT", b"".as_slice(), stranger.text().as_bytes(), &[b'x'; 5000]] {
        assert_eq!(open(wrong).unwrap_err(), SealError::Refused);
    }
    assert_eq!(wraps.open(BOB, b"secret", CHEAP).unwrap_err(), SealError::Refused);
    let nobody = Wraps::default().open(ALICE, b"secret", CHEAP);
    assert_eq!(nobody.unwrap_err(), SealError::Refused);
    assert_eq!(PasswordWrap::open_dummy(b"secret", CHEAP), SealError::Refused);
}

#[test]
fn app_passwords_open_by_scram_on_the_terms_of_the_password() {
    let (key, random) = (&alice().key, &mut random(20));
    let mut wraps = all_kinds();
    let terms = wraps.scram().unwrap().terms();
    let other = ScramTerms { salt: [7; 16], ..terms };
    let mut add = |terms| {
        let (app, secret) = AppWrap::seal(key, ALICE, random).unwrap();
        let app = app.with_scram(key, ALICE, &secret, terms).unwrap();
        let number = wraps.put("", Wrap::App(app.clone())).unwrap();
        (number, secret.text(), scram_client_key(secret.text().as_bytes(), &app.scram.unwrap()))
    };
    let ((number, text, right), (_, stale_text, stale)) = (add(terms), add(other));
    let mut wraps = Wraps::decode(&wraps.encode()).unwrap();
    let own = scram_client_key(b"secret", wraps.scram().unwrap());
    for client_key in [&own, &right] {
        let opened = wraps.open_scram(ALICE, client_key).unwrap();
        assert_eq!(opened.0.bytes(), key.0.bytes());
        assert!(wraps.open_scram(BOB, client_key).is_err());
    }
    // Not without the salt that is told to clients; and both work as they did.
    assert_eq!((wraps.scram_all().count(), wraps.open_scram(ALICE, &stale).is_err()), (3, true));
    for text in [text, stale_text] {
        assert!(wraps.open(ALICE, text.as_bytes(), CHEAP).is_ok());
    }
    wraps.remove(number).unwrap();
    assert!(wraps.open_scram(ALICE, &right).is_err() && wraps.open_scram(ALICE, &own).is_ok());
    assert_eq!(Wraps::default().scram_all().count(), 0);
}

#[test]
fn a_new_password_replaces_the_old_one_and_touches_nothing_else() {
    let mut wraps = all_kinds();
    let before = wraps.entries().to_vec();
    let new = PasswordWrap::seal(&alice().key, ALICE, b"new", CHEAP, &mut random(16)).unwrap();
    assert_eq!(wraps.put("password", Wrap::Password(new)), Ok(4));
    assert!(wraps.open(ALICE, b"secret", CHEAP).is_err());
    assert!(wraps.open(ALICE, b"new", CHEAP).is_ok());
    assert_eq!(wraps.entries()[..3], before[1..]);
    assert!(wraps.recovery().is_some() && wraps.scram().is_some());
    assert_eq!(wraps.remove(4).unwrap().number, 4);
    assert!(wraps.remove(4).is_none() && wraps.password().is_none());
    // Its number does not come back.
    let new = PasswordWrap::seal(&alice().key, ALICE, b"new", CHEAP, &mut random(17)).unwrap();
    assert_eq!(wraps.put("password", Wrap::Password(new)), Ok(5));
}

#[test]
fn the_list_is_limited() {
    let mut wraps = all_kinds();
    let (app, _) = AppWrap::seal(&alice().key, ALICE, &mut random(18)).unwrap();
    while wraps.entries().len() < WRAPS_COUNT_MAX {
        wraps.put(&"n".repeat(NAME_BYTES_MAX), Wrap::App(app.clone())).unwrap();
    }
    assert!(matches!(wraps.put("", Wrap::App(app.clone())), Err(SealError::TooLarge(_))));
    let password = wraps.password().unwrap().clone();
    assert!(wraps.put("replaced", Wrap::Password(password)).is_ok());
    assert_eq!(Wraps::decode(&wraps.encode()).unwrap(), wraps);
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    assert!(matches!(Wraps::default().put(&long, Wrap::App(app)), Err(SealError::TooLarge(_))));
    let mut bytes = wraps.encode();
    bytes[5] = 101;
    assert!(matches!(Wraps::decode(&bytes), Err(SealError::TooLarge(_))));
    let full = u32::MAX.to_le_bytes();
    let mut last = Wraps::decode(&[&[1], full.as_slice(), &[0]].concat()).unwrap();
    let (app, _) = AppWrap::seal(&alice().key, ALICE, &mut random(19)).unwrap();
    assert!(last.put("", Wrap::App(app)).is_err());
}

#[test]
fn unknown_versions_are_refused_by_number() {
    let found = |error: SealError| matches!(error, SealError::Version { found: 9, .. });
    assert!(found(WindowRecord::decode(&[9]).unwrap_err()));
    assert!(found(RecipientWrap::decode(&[9]).unwrap_err()));
    assert!(found(UserKeys::decode(&[9]).unwrap_err()));
    assert!(found(Wraps::decode(&[9]).unwrap_err()));
}

#[test]
fn costs_and_passwords_beyond_the_limits_are_refused() {
    let (key, random) = (&alice().key, &mut random(20));
    let mut seal = |password: &[u8], cost| PasswordWrap::seal(key, ALICE, password, cost, random);
    assert!(matches!(seal(b"", CHEAP), Err(SealError::Malformed(_))));
    assert!(matches!(seal(&[1; 1025], CHEAP), Err(SealError::TooLarge(_))));
    assert!(seal(&[1; 1024], CHEAP).is_ok());
    let dear = Cost { passes: Cost::MOST.passes + 1, ..CHEAP };
    assert!(matches!(seal(b"x", dear), Err(SealError::TooLarge(_))));
    // In stored bytes they are refused before they are paid.
    let mut wraps = Wraps::default();
    wraps.put("", Wrap::Password(seal(b"x", CHEAP).unwrap())).unwrap();
    let mut bytes = wraps.encode();
    bytes[13..17].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Wraps::decode(&bytes), Err(SealError::TooLarge(_))));
}

#[test]
fn rsa_agrees_with_another_implementation() {
    let text = include_str!("../../../tests/vectors/seal/oaep.txt");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        hex(line.unwrap().trim())
    };
    let private = PrivateKey::from_pkcs8(&field("pkcs8 ")).unwrap();
    let label: [u8; 32] = field("label ").try_into().unwrap();
    let key = private.unwrap_key(&label, &field("blob ")).unwrap();
    assert_eq!(key.bytes().as_slice(), field("plain "));
    // And the label is the one that a record of this window has.
    let blob = field("blob ");
    let mut record = vec![1, 1];
    record.extend_from_slice(&7u64.to_le_bytes());
    record.extend_from_slice(&9u64.to_le_bytes());
    record.extend_from_slice(&u16::try_from(blob.len()).unwrap().to_le_bytes());
    record.extend_from_slice(&blob);
    assert!(WindowRecord::decode(&record).unwrap().open_rsa(&private).is_ok());
    let public = PublicKey::from_der(&field("public ")).unwrap();
    let wrapped = public.wrap(&label, &key).unwrap();
    assert!(private.unwrap_key(&label, &wrapped).unwrap() == key);
}

#[test]
fn keys_that_are_none_or_of_another_size_are_refused() {
    let der = alice().keys.public_der();
    assert!(PublicKey::from_der(der).is_ok());
    for bad in [&der[..der.len() - 1], &[], &[0x30; 2000]] {
        assert!(matches!(PublicKey::from_der(bad), Err(SealError::RsaKey)));
    }
    assert!(PrivateKey::from_pkcs8(der).is_err());
}

#[test]
fn the_larger_rsa_key_works_and_fits() {
    let mut random = random(21);
    let (keys, key) = UserKeys::generate(ALICE, RsaBits::B3072, &mut random).unwrap();
    let (_, record) = Window::begin(ALICE, &keys.public_key().unwrap(), &mut random).unwrap();
    let keys = UserKeys::decode(&keys.encode()).unwrap();
    let record = WindowRecord::decode(&record.encode()).unwrap();
    assert!(record.open_rsa(&keys.private_key(ALICE, &key).unwrap()).is_ok());
}

#[test]
fn debug_shows_no_secret() {
    let sealer = Sealer::begin(QueueId(1), &mut random(1));
    let (window, _) = alice().window(2);
    let (_, secret) = AppWrap::seal(&alice().key, ALICE, &mut random(3)).unwrap();
    let shown = [
        format!("{sealer:?}"),
        format!("{:?}", sealer.content_key()),
        format!("{:?}", alice().key),
        format!("{:?}", alice().keys),
        format!("{:?}", alice().private()),
        format!("{window:?}"),
        format!("{secret:?}"),
        format!("{:?}", all_kinds()),
    ];
    assert_eq!(shown[1..3], ["ContentKey(..)", "MailboxKey(..)"]);
    for text in shown {
        assert!(!text.contains("Zeroizing"), "{text}");
        assert!(!text.replace("[Entry", "").contains('['), "{text}");
    }
}
