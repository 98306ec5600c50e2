//! The rows of the index, as bytes. Format 6; locks of accounts are read in format 4, too.
//!
//! Rows that say where mail is end in a checksum of themselves and their key: damage that can still
//! be read would give one user another's mail, or free the space of mail that is there.
//! Numbers are LEB128, least significant group first; text has its length in front. Readers take
//! nothing for granted: a row that ends early, or goes on after its end, is an error with a reason.

use fsmtp_rt::UnixTime;

use super::pending::Body;
use crate::directory::{Account, Alias, Lock};
use crate::leb::{Rest, put, put_bytes, put_text};
use crate::seal::{RECIPIENT_ROW_BYTES, Random, RecipientWrap, SealError, SlotKey, WindowRecord};
use crate::{Lsn, MailboxId, QueueId, ShardId};

/// Why a row cannot be read.
pub(super) type Damage = &'static str;

/// A body has at most so many chunks: 2^16 of 64 KiB are 4 GiB.
const CHUNKS_MAX: u64 = 1 << 16;

/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 4;

/// CRC-32 of a key and what stands under it.
fn checksum(key: &[u8], row: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(row);
    hasher.finalize()
}

/// Ends a row that stands under `key`.
pub(super) fn seal(key: &[u8], row: &mut Vec<u8>) {
    let sum = checksum(key, row);
    row.extend_from_slice(&sum.to_le_bytes());
}

/// What [`seal`] has ended.
///
/// # Errors
/// When row or key are not as they were.
pub(super) fn unseal<'r>(key: &[u8], row: &'r [u8]) -> Result<&'r [u8], Damage> {
    let (row, sum) = row.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it ends early")?;
    let whole = checksum(key, row) == u32::from_le_bytes(*sum);
    if whole { Ok(row) } else { Err("its checksum is wrong") }
}

/// The key of an entry as it is summed up.
pub(super) fn entry_key((mailbox, uid): (u64, u32)) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&mailbox.to_be_bytes());
    key[8..].copy_from_slice(&uid.to_be_bytes());
    key
}

/// The live bytes of a segment with their checksum.
pub(super) fn live((shard, number): (u16, u64), bytes: u64) -> (u64, u32) {
    let key = [u64::from(shard).to_be_bytes(), number.to_be_bytes()].concat();
    (bytes, checksum(&key, &bytes.to_be_bytes()))
}

/// Small differences of either sign as small numbers.
const fn zigzag(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from) as i64;
    ((difference << 1) ^ (difference >> 63)) as u64
}

const fn unzigzag(from: u64, coded: u64) -> u64 {
    from.wrapping_add((coded >> 1) ^ (coded & 1).wrapping_neg())
}

/// The row of a message in a mailbox; `wrap` when it is sealed.
pub(super) fn entry(id: QueueId, octets: u64, wrap: Option<&RecipientWrap>, row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&id.0.to_be_bytes());
    put(row, octets);
    if let Some(wrap) = wrap {
        row.extend_from_slice(&wrap.row());
    }
}

/// Reads what [`entry`] wrote.
pub(super) fn read_entry(
    mailbox: MailboxId,
    row: &[u8],
) -> Result<(QueueId, u64, Option<RecipientWrap>), Damage> {
    let (id, rest) = row.split_first_chunk().ok_or("it ends early")?;
    let mut rest = Rest(rest);
    let octets = rest.number()?;
    let wrap = match <&[u8; RECIPIENT_ROW_BYTES]>::try_from(rest.0) {
        Ok(wrap) => Some(RecipientWrap::from_row(mailbox, wrap)),
        Err(_) => {
            rest.end()?;
            None
        }
    };
    Ok((QueueId(u64::from_be_bytes(*id)), octets, wrap))
}

/// The key of a queued message as it is summed up.
pub(super) fn queued_key((shard, id): (u16, u64)) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&shard.to_be_bytes());
    key[2..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The row of a queued message; `wrap` when it is sealed.
pub(super) fn queued(octets: u64, wrap: Option<&RecipientWrap>, state: &[u8], row: &mut Vec<u8>) {
    row.clear();
    put(row, octets);
    let wrap = wrap.map(RecipientWrap::row);
    put_bytes(row, wrap.as_ref().map_or(&[], |wrap| wrap.as_slice()));
    row.extend_from_slice(state);
}

/// Reads what [`queued`] wrote.
pub(super) fn read_queued(row: &[u8]) -> Result<(u64, Option<RecipientWrap>, &[u8]), Damage> {
    let mut rest = Rest(row);
    let octets = rest.number()?;
    let wrap = match rest.bytes()? {
        [] => None,
        wrap => {
            let wrap = wrap.try_into().map_err(|_| "its key has a wrong length")?;
            Some(RecipientWrap::from_row(MailboxId::QUEUE, wrap))
        }
    };
    Ok((octets, wrap, rest.0))
}

/// The key of a window as it is summed up.
pub(super) fn window_key((mailbox, window): (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mailbox.to_be_bytes());
    key[8..].copy_from_slice(&window.to_be_bytes());
    key
}

/// The row of a window: how many messages need it, and its record.
pub(super) fn window(count: u64, record: &[u8], row: &mut Vec<u8>) {
    row.clear();
    put(row, count);
    row.extend_from_slice(record);
}

/// Reads what [`window`] wrote; the record as it was encoded.
pub(super) fn read_window(row: &[u8]) -> Result<(u64, &[u8]), Damage> {
    let mut rest = Rest(row);
    let count = rest.number()?;
    if count == 0 {
        return Err("no message needs it");
    }
    Ok((count, rest.0))
}

/// The record of a window under this key.
pub(super) fn read_window_record(
    (mailbox, window): (u64, u64),
    record: &[u8],
) -> Result<WindowRecord, Damage> {
    let record = WindowRecord::decode(record).map_err(|_| "it is not the record of a window")?;
    let same = (record.mailbox().0, record.id().0) == (mailbox, window);
    if same { Ok(record) } else { Err("it is the record of another window") }
}

/// The row under uid 0: the uid that the next message gets at least; 2^32 when all are used up.
pub(super) fn floor(uid: u64, row: &mut Vec<u8>) {
    row.clear();
    put(row, uid);
}

/// Reads what [`floor`] wrote.
pub(super) fn read_floor(row: &[u8]) -> Result<u64, Damage> {
    let mut rest = Rest(row);
    let uid = rest.number()?;
    rest.end()?;
    Ok(uid)
}

/// The row of a body, without its id, which is the key.
pub(super) fn body(body: &Body, row: &mut Vec<u8>) {
    row.clear();
    put(row, u64::from(body.references_count));
    put(row, u64::from(body.shard.0));
    put(row, body.lsn.0);
    put(row, body.record_bytes);
    put(row, body.octets);
    put(row, body.received.ms());
    put(row, body.chunks.len() as u64);
    if body.chunks.is_empty() {
        return;
    }
    put(row, body.chunk_bytes);
    let mut before = body.lsn.0;
    for chunk in &body.chunks {
        put(row, zigzag(before, chunk.0));
        before = chunk.0;
    }
}

/// Reads what [`body`] wrote.
pub(super) fn read_body(id: QueueId, row: &[u8]) -> Result<Body, Damage> {
    let mut rest = Rest(row);
    let mut body = Body {
        id,
        references_count: rest.small()?,
        shard: ShardId(rest.small()?),
        lsn: Lsn(rest.number()?),
        record_bytes: rest.number()?,
        octets: rest.number()?,
        received: UnixTime::from_ms(rest.number()?),
        chunk_bytes: 0,
        chunks: Vec::new(),
    };
    let count = rest.number()?;
    if count > CHUNKS_MAX {
        return Err("the number of chunks is impossible");
    }
    if count > 0 {
        body.chunk_bytes = rest.number()?;
    }
    let mut before = body.lsn.0;
    for _ in 0..count {
        before = unzigzag(before, rest.number()?);
        body.chunks.push(Lsn(before));
    }
    rest.end()?;
    Ok(body)
}

/// The row of an account, without its address, which is the key; its lock is sealed under a key
/// for `slot`, which comes with the row.
pub(super) fn account(
    account: &Account,
    slot: u32,
    random: Random<'_>,
) -> Result<(Vec<u8>, SlotKey), SealError> {
    let mut row = Vec::new();
    put(&mut row, account.mailbox.0);
    put(&mut row, account.created.ms());
    put_text(&mut row, &account.name);
    put(&mut row, LOCK_IN_SLOT);
    put(&mut row, u64::from(slot));
    let mut sealed = Vec::new();
    account.lock.put(&mut sealed);
    let bound = bound(&account.address, &row);
    let key = SlotKey::seal(account.mailbox, slot, &bound, &mut sealed, random)?;
    put_bytes(&mut row, &sealed);
    Ok((row, key))
}

/// What the lock in a row is bound to: the address, and what stands before it.
fn bound(address: &str, front: &[u8]) -> Vec<u8> {
    let mut bound = Vec::new();
    put_text(&mut bound, address);
    bound.extend_from_slice(front);
    bound
}

/// In place of the kind of a lock, which is sealed. Format 4 had locks in clear.
const LOCK_IN_SLOT: u64 = 16;

/// The lock of an account as its row has it.
pub(super) struct SlottedLock<'r> {
    /// Where its key is.
    pub(super) slot: u32,
    mailbox: MailboxId,
    bound: Vec<u8>,
    sealed: &'r [u8],
}

impl SlottedLock<'_> {
    /// The lock, by the key in its slot.
    pub(super) fn open(&self, key: &SlotKey) -> Result<Lock, Damage> {
        let opened = key.open(self.mailbox, self.slot, &self.bound, self.sealed);
        let opened = opened.map_err(|_| "it holds the key of something else")?;
        let mut rest = Rest(&opened);
        let kind = rest.number()?;
        let lock = Lock::read(kind, &mut rest)?;
        rest.end()?;
        Ok(lock)
    }
}

/// Reads what [`account`] wrote: the lock is [`Lock::Unreadable`] until the other half is opened.
/// In format 4 there is no other half.
pub(super) fn read_account<'r>(
    address: &str,
    row: &'r [u8],
) -> Result<(Account, Option<SlottedLock<'r>>), Damage> {
    let mut rest = Rest(row);
    let mailbox = MailboxId(rest.number()?);
    let created = UnixTime::from_ms(rest.number()?);
    let name = rest.text()?.into();
    let mut slotted = None;
    let lock = match rest.number()? {
        LOCK_IN_SLOT => {
            let slot = rest.small()?;
            let (front, _) = row.split_at(row.len() - rest.0.len());
            let (bound, sealed) = (bound(address, front), rest.bytes()?);
            slotted = Some(SlottedLock { slot, mailbox, bound, sealed });
            Lock::Unreadable
        }
        kind => Lock::read(kind, &mut rest)?,
    };
    rest.end()?;
    Ok((Account { address: address.into(), mailbox, created, name, lock }, slotted))
}

/// The row of an account as format 4 had it.
#[cfg(test)]
pub(super) fn account_in_clear(account: &Account) -> Vec<u8> {
    let mut row = Vec::new();
    put(&mut row, account.mailbox.0);
    put(&mut row, account.created.ms());
    put_text(&mut row, &account.name);
    account.lock.put(&mut row);
    row
}

/// The row of an alias, without its address, which is the key.
pub(super) fn alias(alias: &Alias) -> Vec<u8> {
    let mut row = Vec::new();
    put(&mut row, alias.targets.len() as u64);
    for target in &alias.targets {
        put_text(&mut row, target);
    }
    row
}

/// Reads what [`alias`] wrote.
pub(super) fn read_alias(address: &str, row: &[u8]) -> Result<Alias, Damage> {
    let mut rest = Rest(row);
    let count = rest.number()?;
    let mut targets = Vec::new();
    for _ in 0..count {
        targets.push(rest.text()?.into());
    }
    rest.end()?;
    Ok(Alias { address: address.into(), targets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{LegacyHash, Sealed};
    use crate::password::{Cost, hash};
    use crate::seal::Wraps;
    use proptest::prelude::*;

    fn any_body() -> impl Strategy<Value = Body> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        let chunks = prop::collection::vec(any::<u64>(), 0..20);
        (numbers, any::<u32>(), any::<u16>(), chunks, any::<u64>()).prop_map(
            |((id, lsn, bytes, octets, ms), references_count, shard, chunks, chunk_bytes)| Body {
                id: QueueId(id),
                shard: ShardId(shard),
                lsn: Lsn(lsn),
                record_bytes: bytes,
                octets,
                received: UnixTime::from_ms(ms),
                references_count,
                chunk_bytes: if chunks.is_empty() { 0 } else { chunk_bytes },
                chunks: chunks.into_iter().map(Lsn).collect(),
            },
        )
    }

    #[test]
    fn no_change_of_a_sealed_row_or_its_key_goes_unseen() {
        let key = entry_key((7, 9));
        let mut row = Vec::new();
        let wrap = RecipientWrap::from_row(MailboxId(7), &[3; RECIPIENT_ROW_BYTES]);
        entry(QueueId(5), 1000, Some(&wrap), &mut row);
        seal(&key, &mut row);
        let read = unseal(&key, &row).and_then(|row| read_entry(MailboxId(7), row));
        assert_eq!(read, Ok((QueueId(5), 1000, Some(wrap))));
        for at in 0..row.len() {
            for bit in 0..8 {
                let mut changed = row.clone();
                changed[at] ^= 1 << bit;
                assert!(unseal(&key, &changed).is_err());
            }
            assert!(unseal(&key, &row[..at]).is_err());
        }
        assert!(unseal(&entry_key((8, 9)), &row).is_err());
        assert!(unseal(&entry_key((7, 8)), &row).is_err());
    }

    proptest! {
        #[test]
        fn bodies_read_back_and_no_shorter_row_does(written in any_body()) {
            let mut row = Vec::new();
            body(&written, &mut row);
            prop_assert_eq!(read_body(written.id, &row).unwrap(), written.clone());
            for end in 0..row.len() {
                prop_assert!(read_body(written.id, &row[..end]).is_err());
            }
        }

        #[test]
        fn hostile_rows_do_no_harm(row in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_body(QueueId(1), &row);
            let _ = read_entry(MailboxId(1), &row);
            let _ = read_window(&row);
            let _ = read_floor(&row);
            let _ = read_account("a@x", &row);
            let _ = read_alias("a@x", &row);
        }

        #[test]
        fn entries_read_back(id in any::<u64>(), octets in any::<u64>(), uid in any::<u64>()) {
            let mut row = Vec::new();
            entry(QueueId(id), octets, None, &mut row);
            prop_assert_eq!(read_entry(MailboxId(1), &row), Ok((QueueId(id), octets, None)));
            floor(uid, &mut row);
            prop_assert_eq!(read_floor(&row), Ok(uid));
        }
    }

    #[test]
    fn accounts_and_aliases_read_back() {
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let written = Account {
            mailbox: MailboxId(u64::MAX),
            address: "zoë@example.test".into(),
            name: "Zoë Z.".into(),
            lock: Lock::Hash(hash(b"x", [1; 16], cost).unwrap()),
            created: UnixTime::from_ms(7),
        };
        let legacy = Lock::Legacy(LegacyHash("aGFzaA==.salt".into()));
        let public: Box<[u8]> = b"public".as_slice().into();
        let sealed = Lock::Sealed(Box::new(Sealed { public, wraps: Wraps::default() }));
        for lock in [written.lock.clone(), legacy, sealed, Lock::Unreadable] {
            let written = Account { lock, ..written.clone() };
            let (row, key) = account(&written, 9, &mut |bytes| bytes.fill(5)).unwrap();
            let (mut read, slotted) = read_account("zoë@example.test", &row).unwrap();
            assert_eq!(read.lock, Lock::Unreadable);
            let slotted = slotted.unwrap();
            assert_eq!(slotted.slot, 9);
            read.lock = slotted.open(&key).unwrap();
            assert_eq!(read, written);
            let (other, slotted) = read_account("zoe@example.test", &row).unwrap();
            assert!(other.address != read.address && slotted.unwrap().open(&key).is_err());
            let clear = account_in_clear(&written);
            let (read, slotted) = read_account("zoë@example.test", &clear).unwrap();
            assert!(slotted.is_none() && read == written);
        }
        for targets in [vec![], vec!["a@x".into()], vec!["a@x".into(), "b@x".into()]] {
            let written = Alias { address: "*@x".into(), targets };
            assert_eq!(read_alias("*@x", &alias(&written)), Ok(written));
        }
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(read_floor(&[]), Err("it ends early"));
        assert_eq!(read_floor(&[1, 1]), Err("it goes on after its end"));
        assert_eq!(read_floor(&[0xff; 10]), Err("a number is too large"));
        let mut row = vec![1];
        put(&mut row, 1 << 16);
        assert_eq!(read_body(QueueId(1), &row), Err("a number is too large"));
        let mut row = vec![1, 0, 0, 0, 0, 0];
        put(&mut row, CHUNKS_MAX + 1);
        assert_eq!(read_body(QueueId(1), &row), Err("the number of chunks is impossible"));
        assert_eq!(read_alias("a@x", &[1, 1, 0xff]), Err("text is not UTF-8"));
    }
}
