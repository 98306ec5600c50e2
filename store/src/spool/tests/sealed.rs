//! Sealed messages: what comes back, what the disk shows, and that no change of it goes unseen.

use std::sync::LazyLock;

use super::*;
use crate::format::{MESSAGE_FIXED_BYTES, RECORD_HEAD_BYTES, RecordHead, seal_record};
use crate::seal::{ContentKey, MailboxKey, OpenWindow, RsaBits, UserKeys, Window, WindowRecord};

const OWNER: MailboxId = MailboxId(1);
const KNOWN: &[u8] = b"a text that nobody else may find";

/// Making a key pair is slow, so all tests share it.
static KEYS: LazyLock<(UserKeys, MailboxKey)> = LazyLock::new(|| {
    UserKeys::generate(OWNER, RsaBits::B2048, &mut random(1)).expect("there is memory enough")
});

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

/// A window, and what its owner makes of it.
struct Owner {
    window: Window,
    record: Arc<WindowRecord>,
    open: OpenWindow,
}

impl Owner {
    fn new(seed: u64) -> Self {
        let (keys, key) = &*KEYS;
        let public = keys.public_key().unwrap();
        let (window, record) = Window::begin(OWNER, &public, &mut random(seed)).unwrap();
        let open = record.open_rsa(&keys.private_key(OWNER, key).unwrap()).unwrap();
        Self { window, record: Arc::new(record), open }
    }

    /// Stores a message of `bytes` bytes that begins with [`KNOWN`].
    async fn store(
        &self,
        spool: &Spool<Machine>,
        seed: u64,
        bytes: usize,
    ) -> Result<Stored, StoreError> {
        let mut incoming = spool.incoming()?;
        incoming.seal(&mut random(seed))?;
        let text = text(seed, bytes);
        for piece in text.chunks(1000) {
            incoming.push(piece).await?;
        }
        let wrap = self.window.wrap(incoming.content_key().unwrap(), incoming.id()).unwrap();
        let key = RecipientKey { wrap, window: Arc::clone(&self.record) };
        incoming.commit_sealed(&mut HEAD.to_vec(), envelope(1), vec![key]).await
    }

    fn content_key(&self, message: &Committed) -> ContentKey {
        let key = message.recipients[0].key.as_ref().unwrap();
        assert_eq!(key.window, self.record);
        self.open.open(&key.wrap, message.id).unwrap()
    }

    fn read(&self, life: &Life, message: &Committed) -> Result<Vec<u8>, StoreError> {
        life.run(read_sealed(&life.disk, message.into(), &self.content_key(message)))
    }
}

const HEAD: &[u8] = b"Return-Path: <secret-sender@example.test>\r\n";

fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut text = KNOWN.iter().copied().cycle().take(bytes / 2).collect::<Vec<u8>>();
    text.extend(body(seed, bytes - bytes / 2));
    text
}

async fn read_sealed(
    disk: &TestDisk,
    at: BodyRef,
    key: &ContentKey,
) -> Result<Vec<u8>, StoreError> {
    let mut reader = Reader::new(disk.clone(), small_config().segment_bytes);
    reader.open_sealed(at, key);
    let mut whole = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!(!piece.is_empty());
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn finds(plate: &Plate, known: &[u8]) -> bool {
    plate
        .names()
        .iter()
        .any(|name| plate.contents(name).windows(known.len()).any(|window| window == known))
}

const SIZES: [usize; 9] = [0, 1, 100, 4095, 4096, 4097, 8192, 9000, 40_000];

#[test]
fn a_sealed_message_comes_back_and_the_disk_shows_nothing_of_it() {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let spool = life.open();
    let owner = Owner::new(1);
    for (index, bytes) in SIZES.into_iter().enumerate() {
        let stored = life.run(owner.store(&spool, index as u64, bytes)).unwrap();
        let message = life.sink.message(index);
        assert_eq!((message.id, message.octets), (stored.id, stored.octets));
        assert_eq!(message.octets, (HEAD.len() + bytes) as u64);
        let whole = [HEAD, &text(index as u64, bytes)].concat();
        assert_eq!(owner.read(&life, &message).unwrap(), whole, "{bytes} bytes");
        let mut reader = Reader::new(life.disk.clone(), small_config().segment_bytes);
        reader.open_sealed(BodyRef::from(&message), &owner.content_key(&message));
        assert_eq!(life.run(reader.envelope()).unwrap(), envelope(1));
    }
    let taken = life.sink.taken.borrow().clone();
    drop(spool);
    // What is replayed after a crash is what the sink was told before.
    life.machine.crash();
    let next = Life::new(2, &plate);
    let _spool = next.open();
    assert_eq!(*next.sink.taken.borrow(), taken);
    for (index, message) in taken.iter().enumerate() {
        let whole = [HEAD, &text(index as u64, SIZES[index])].concat();
        assert_eq!(owner.read(&next, message).unwrap(), whole);
    }
    for known in [KNOWN, b"secret-sender", b"sender@example.test", b"demo@example.test"] {
        assert!(!finds(&plate, known));
    }
    let spool = next.open();
    next.run(store(&spool, b"", KNOWN, 1000)).unwrap();
    assert!(finds(&plate, KNOWN), "in clear it would be found");
}

/// All pieces of a message as it lies apart.
async fn taken_out(disk: &TestDisk, at: BodyRef) -> Result<(Raw, Vec<Vec<u8>>), StoreError> {
    let mut reader = Reader::new(disk.clone(), small_config().segment_bytes);
    let raw = reader.raw(at).await?;
    let mut pieces = vec![raw.first.clone()];
    while let Some(chunk) = reader.raw_chunk(pieces.len() - 1).await? {
        pieces.push(chunk);
    }
    assert_eq!(pieces.len() - 1, raw.chunks_count as usize);
    Ok((raw, pieces))
}

/// Reads a message apart out of its pieces.
async fn put_together(
    disk: &TestDisk,
    id: QueueId,
    key: Option<&ContentKey>,
    pieces: &[Vec<u8>],
) -> Result<Vec<u8>, StoreError> {
    let mut reader = Reader::new(disk.clone(), small_config().segment_bytes);
    match key {
        Some(key) => reader.open_sealed(Place::Apart(id), key),
        None => reader.open(Place::Apart(id)),
    }
    let mut whole = Vec::new();
    loop {
        if let Some((wanted, number)) = reader.wants() {
            assert_eq!(wanted, id);
            assert!(matches!(reader.next().await, Err(StoreError::Invalid(_))));
            reader.give(pieces.get(number as usize).cloned().unwrap_or_default());
        }
        let Some(piece) = reader.next().await? else { return Ok(whole) };
        whole.extend_from_slice(&piece);
    }
}

#[test]
fn a_message_can_lie_apart_from_the_spool() {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let spool = life.open();
    let owner = Owner::new(1);
    for (index, bytes) in SIZES.into_iter().enumerate() {
        life.run(owner.store(&spool, index as u64, bytes)).unwrap();
        let message = life.sink.message(index);
        let (raw, pieces) = life.run(taken_out(&life.disk, (&message).into())).unwrap();
        assert_eq!((&raw.recipients, raw.octets), (&message.recipients, message.octets));
        let key = owner.content_key(&message);
        let read =
            |key, pieces: &[Vec<u8>]| life.run(put_together(&life.disk, message.id, key, pieces));
        let whole = [HEAD, &text(index as u64, bytes)].concat();
        assert_eq!(read(Some(&key), &pieces).unwrap(), whole, "{bytes} bytes");
        assert!(matches!(read(None, &pieces), Err(StoreError::Corrupt { .. })));
        for cut in 0..pieces.len() {
            let mut less = pieces.clone();
            less.remove(cut);
            assert!(matches!(read(Some(&key), &less), Err(StoreError::Corrupt { .. })));
        }
    }
}

#[test]
fn whoever_has_no_key_gets_nothing_and_a_clear_message_does_not_pass_for_a_sealed_one() {
    let life = Life::new(3, &Plate::new());
    let spool = life.open();
    let owner = Owner::new(1);
    life.run(owner.store(&spool, 1, 5000)).unwrap();
    life.run(owner.store(&spool, 2, 5000)).unwrap();
    life.run(put(&spool, 3, 5000)).unwrap();
    let [one, two, clear] = [0, 1, 2].map(|index| life.sink.message(index));
    let said = life.read(&one).unwrap_err().to_string();
    assert!(said.ends_with("the message is sealed, which the index denies"), "{said}");
    let key = owner.content_key(&one);
    for other in [&two, &clear] {
        let read = life.run(read_sealed(&life.disk, other.into(), &key));
        assert!(matches!(read, Err(StoreError::Corrupt { .. })));
    }
    let wrap = two.recipients[0].key.as_ref().unwrap().wrap;
    assert!(owner.open.open(&wrap, one.id).is_err(), "wraps cannot be swapped");
}

#[test]
fn commits_that_do_not_fit_their_keys_are_refused() {
    let life = Life::new(4, &Plate::new());
    let spool = life.open();
    let owner = Owner::new(1);
    let begun = || {
        let mut incoming = spool.incoming().unwrap();
        incoming.seal(&mut random(1)).unwrap();
        let wrap = owner.window.wrap(incoming.content_key().unwrap(), incoming.id()).unwrap();
        (incoming, RecipientKey { wrap, window: Arc::clone(&owner.record) })
    };
    let (incoming, _) = begun();
    assert!(life.run(incoming.commit(b"", envelope(1))).is_err(), "without keys");
    let (incoming, _) = begun();
    assert!(life.run(incoming.commit_sealed(&mut Vec::new(), envelope(1), vec![])).is_err());
    let (incoming, key) = begun();
    assert!(life.run(incoming.commit_sealed(&mut Vec::new(), envelope(2), vec![key])).is_err());
    let (mut incoming, _) = begun();
    life.run(incoming.push(b"x")).unwrap();
    assert!(incoming.seal(&mut random(1)).is_err(), "too late");
    let (_, key) = begun();
    let clear = spool.incoming().unwrap();
    assert!(life.run(clear.commit_sealed(&mut Vec::new(), envelope(1), vec![key])).is_err());
    assert!(life.sink.ids().is_empty());
}

/// Changes each byte of the records in turn, with a checksum that fits, as somebody would who can
/// write to the disk.
#[test]
fn no_change_of_a_byte_gives_wrong_bytes() {
    let plate = Plate::new();
    let life = Life::new(5, &plate);
    let spool = life.open();
    let owner = Owner::new(1);
    life.run(owner.store(&spool, 1, 9000)).unwrap();
    let message = life.sink.message(0);
    let (key, whole) = (owner.content_key(&message), [HEAD, &text(1, 9000)].concat());
    let mut harmless_count = 0;
    for lsn in message.chunks.iter().chain([&message.lsn]) {
        let at = lsn.0 as usize;
        let record_bytes = RecordHead::decode(&plate.contents(&segment(0))[at..]).unwrap();
        let record_bytes = record_bytes.record_bytes();
        for place in at + RECORD_HEAD_BYTES..at + record_bytes {
            let turn = |plate: &Plate| {
                plate.change(&segment(0), |bytes| {
                    bytes[place] ^= 1;
                    seal_record(&mut bytes[at..at + record_bytes]);
                });
            };
            turn(&plate);
            let read = life.run(read_sealed(&life.disk, (&message).into(), &key));
            turn(&plate);
            match read {
                Ok(bytes) => {
                    assert!(bytes == whole, "byte {place} gave other bytes");
                    harmless_count += 1;
                }
                Err(StoreError::Corrupt { place, .. }) => assert!(place.starts_with(&segment(0))),
                Err(other) => panic!("{other}"),
            }
        }
    }
    // The index knows octets, chunks and keys, so a reader does not look at those of the record;
    // the envelope is read by itself.
    let keys_bytes = 12 + RecipientKey::record_bytes(&owner.record);
    let (octets, chunks, sealed) = (8, message.chunks.len() * 8, envelope(1).encoded_bytes());
    assert_eq!(harmless_count, octets + chunks + keys_bytes + sealed.unwrap() + 16);
    let envelope_at =
        message.lsn.0 as usize + RECORD_HEAD_BYTES + MESSAGE_FIXED_BYTES + chunks + keys_bytes;
    let record = message.lsn.0 as usize..message.end.0 as usize;
    plate.change(&segment(0), |bytes| {
        bytes[envelope_at + 5] ^= 1;
        seal_record(&mut bytes[record]);
    });
    let mut reader = Reader::new(life.disk.clone(), small_config().segment_bytes);
    reader.open_sealed(BodyRef::from(&message), &key);
    assert!(matches!(life.run(reader.envelope()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn chunks_cannot_be_exchanged_left_out_or_taken_from_another_message() {
    let life = Life::new(6, &Plate::new());
    let spool = life.open();
    let owner = Owner::new(1);
    for seed in [1, 2] {
        life.run(owner.store(&spool, seed, 13_000)).unwrap();
    }
    let (one, two) = (life.sink.message(0), life.sink.message(1));
    let key = owner.content_key(&one);
    let chunks = one.chunks.clone();
    assert_eq!(chunks.len(), 3);
    let other = two.chunks[0];
    for wrong in [
        vec![chunks[1], chunks[0], chunks[2]],
        vec![chunks[0], chunks[0], chunks[2]],
        vec![chunks[0], chunks[1], chunks[1]],
        vec![other, chunks[1], chunks[2]],
        vec![chunks[0], chunks[1]],
        vec![],
    ] {
        let at = BodyRef { chunks: wrong, ..(&one).into() };
        let read = life.run(read_sealed(&life.disk, at, &key));
        assert!(matches!(read, Err(StoreError::Corrupt { .. })));
    }
}
