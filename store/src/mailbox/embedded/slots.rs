//! The key slots: a file beside the tables that is overwritten in place, with a key for the lock of
//! each account.
//!
//! The tables are never overwritten, so an old row of an account stays in their file for a long
//! time. Each such row is sealed under the key in a slot, and wiping the slot makes it random bytes
//! (`docs/decisions/0009-erasable-wraps.md`). Called by the thread of the index, in this order:
//!
//! 1. [`touch`](Slots::touch), then [`take`](Slots::take) and [`put`](Slots::put) for each row that
//!    is written, [`release`](Slots::release) for each that is replaced or removed: memory only;
//! 2. [`write`](Slots::write) before the commit: new keys are on the disk before a row needs them;
//! 3. [`settle`](Slots::settle) after it: old ones are wiped.
//!
//! ```text
//! file     a page of 4096 bytes: magic 8, name of the index 16
//!          two pages: the state in each
//!          blocks of 64 KiB: 512 slots, then the same once more
//! slot     0 key, 32 bytes   32 nothing   60 CRC-32 of magic, name, number of the slot, and 0..60
//! state    0 transaction u64   8 whether orphans are kept, u8   9 nothing
//!          60 CRC-32 as of a slot
//! ```
//!
//! A write that a power cut tears may take its page along, in which other accounts have their keys.
//! So each slot is there twice, 32 KiB apart, and the copies are never written at one time. A slot
//! of zeros is free. The state is there twice for the same reason.
//!
//! The transaction in the state is a random number that the index has, too: those two that agree
//! are of the same moment. In the first copy it is written before the commit and in the second
//! after it, so an index beside which a crash has left two numbers has the one or the other.
//!
//! Limits: so many slots as [`Slots::open`] is told, 128 bytes of the file each; two bits of
//! memory for each slot that the file has. Failure: a failed write is an error that must end the
//! index, since what is on the disk is then not known; a slot that cannot be read counts as
//! damaged; a file of another index refuses to open; beside an index of another moment nothing is
//! wiped that it does not need.

use std::io;
use std::path::{Path, PathBuf};

use fsmtp_rt::IoError;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::bits::Bits;
use super::damage::DamagedRow;
use super::opening::sync_folder;
use super::slotfile::SlotFile;
use crate::StoreError;
use crate::seal::{KEY_BYTES, SLOTS_NAME_BYTES, SlotKey};

pub(super) const FILE: &str = "keys.slots";
/// Becomes [`FILE`] once it is whole.
const FRESH_FILE: &str = "keys.slots.new";
/// A file with this name beside the others: the operator says that they belong together, and that
/// keys which no account needs are to go.
const FORGET_FILE: &str = "keys.slots.forget";
const MAGIC: [u8; 8] = *b"fsmtpks2";
const NAME_END: usize = MAGIC.len() + SLOTS_NAME_BYTES;
const PAGE_BYTES: usize = 4096;
const HEADER_BYTES: usize = 3 * PAGE_BYTES;
const SLOT_BYTES: usize = 64;
const CHECKSUM_AT: usize = 60;
/// Stands for the state where the number of a slot does.
const STATE: u32 = u32::MAX;
const FREE: [u8; SLOT_BYTES] = [0; SLOT_BYTES];
const BLOCK_SLOTS: u32 = 512;
/// One copy of the slots of a block.
const HALF_BYTES: usize = BLOCK_SLOTS as usize * SLOT_BYTES;

type Bytes = Zeroizing<[u8; SLOT_BYTES]>;

/// Which of the two that a slot is there.
#[derive(Clone, Copy)]
enum Copy {
    First,
    Second,
}

/// What a slot holds.
pub(super) enum Content {
    Free,
    Torn,
    Key(SlotKey),
}

/// What the file says about itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    /// The last one that changed accounts.
    transaction: u64,
    /// It was beside an index of another moment when accounts were changed.
    keep: bool,
}

/// The open file.
pub(super) struct Slots {
    file: SlotFile,
    folder: PathBuf,
    name: [u8; SLOTS_NAME_BYTES],
    /// How many the file has room for.
    count: u32,
    count_max: u32,
    /// Those that are not free, in either copy, or that a row refers to.
    used: Bits,
    /// Those whose keys have opened their rows, or were made for them.
    own: Bits,
    /// No slot below is free.
    free_from: u32,
    /// The last transaction of the index that changed accounts.
    transaction: u64,
    /// Whether it is that of the file.
    fits: bool,
    /// Nothing is wiped that no row refers to.
    keep: bool,
    /// The transaction under way, once it changes accounts.
    under_way: Option<u64>,
    fresh: Vec<(u32, Bytes)>,
    released: Vec<u32>,
}

impl Slots {
    /// Opens the file in `folder` that belongs to the index with this `name`, whose last
    /// transaction with accounts was `transaction`; makes it when the index has none yet. Mends
    /// what a crash has torn.
    pub(super) fn open(
        folder: &Path,
        name: [u8; SLOTS_NAME_BYTES],
        transaction: u64,
        count_max: u32,
    ) -> Result<Self, StoreError> {
        match std::fs::metadata(folder.join(FILE)) {
            Ok(found) if found.len() > 0 => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("look at")(error));
            }
            // Nothing made without being asked: the right file may only be elsewhere.
            Err(_) if transaction > 0 => {
                return Err(corrupt(
                    "it is missing, and without it no account of index.redb can be opened: put \
                     the one back that belongs to it. Whoever has none any more makes an empty \
                     file of that name; what is sealed to those accounts is lost then",
                ));
            }
            _ => make(folder, &name, transaction)?,
        }
        let file = SlotFile::open(folder, FILE).map_err(failed("open"))?;
        let bytes = file.length().map_err(failed("look at"))?;
        let blocks = bytes.saturating_sub(HEADER_BYTES as u64).div_ceil(2 * HALF_BYTES as u64);
        let count = u32::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(BLOCK_SLOTS));
        let mut slots = Self {
            file,
            folder: folder.to_owned(),
            name,
            count: count.ok_or_else(|| corrupt("no such file is so long"))?,
            count_max,
            used: Bits::default(),
            own: Bits::default(),
            free_from: 0,
            transaction,
            fits: false,
            keep: false,
            under_way: None,
            fresh: Vec::new(),
            released: Vec::new(),
        };
        slots.check_header(bytes)?;
        slots.check_state()?;
        slots.lengthen(bytes)?;
        for block in 0..slots.count / BLOCK_SLOTS {
            slots.look_through(block)?;
        }
        Ok(slots)
    }

    /// Makes sure that the file belongs to the index. Its states say so as well as its first page.
    fn check_header(&self, bytes: u64) -> Result<(), StoreError> {
        let ours = header_of(&self.name);
        let mut found = [0; NAME_END];
        let whole = bytes >= HEADER_BYTES as u64;
        if whole && self.file.read(&mut found, 0).is_ok() && found == ours {
            return Ok(());
        }
        if !whole || [Copy::First, Copy::Second].iter().all(|&copy| self.state(copy).is_none()) {
            let why = "it does not belong to index.redb beside it, or its first pages are damaged";
            return Err(corrupt(why));
        }
        self.file.write(&ours, 0).map_err(failed("mend"))?;
        self.file.sync().map_err(failed("sync"))
    }

    /// Learns whether file and index are of the same moment.
    fn check_state(&mut self) -> Result<(), StoreError> {
        let known = [Copy::First, Copy::Second].map(|copy| self.state(copy));
        let mut known = known.iter().flatten();
        self.keep = known.clone().any(|state| state.keep);
        self.fits = known.any(|state| state.transaction == self.transaction);
        if self.fits {
            return self.write_states();
        }
        // Not written as long as no account changes: the right index may come back.
        self.keep = true;
        Ok(())
    }

    /// Both copies say the last transaction, whatever a crash has left.
    fn write_states(&self) -> Result<(), StoreError> {
        let state = State { transaction: self.transaction, keep: self.keep };
        for copy in [Copy::First, Copy::Second] {
            if self.state(copy) != Some(state) {
                self.write_state(copy, self.transaction)?;
                self.file.sync().map_err(failed("sync"))?;
            }
        }
        Ok(())
    }

    fn state(&self, copy: Copy) -> Option<State> {
        let mut bytes = FREE;
        self.file.read(&mut bytes, state_place(copy)).ok()?;
        let (transaction, rest) = bytes.split_first_chunk()?;
        let transaction = u64::from_le_bytes(*transaction);
        self.is_whole(STATE, &bytes)
            .then_some(State { transaction, keep: rest.first() != Some(&0) })
    }

    fn write_state(&self, copy: Copy, transaction: u64) -> Result<(), StoreError> {
        let bytes = state_of(&self.name, State { transaction, keep: self.keep });
        self.file.write(&bytes, state_place(copy)).map_err(failed("write"))
    }

    /// Makes the last block whole: growing was cut short, or the file was. Nothing that is there is
    /// written over, and what is missing is free in this copy.
    fn lengthen(&self, bytes: u64) -> Result<(), StoreError> {
        let end = place(self.count, Copy::First);
        if bytes >= end {
            return Ok(());
        }
        self.file.lengthen(end).map_err(failed("extend"))?;
        // So that a full disk shows here, not when a key is written.
        let pages = bytes.next_multiple_of(PAGE_BYTES as u64)..end;
        let zeros = vec![0; usize::try_from(pages.end - pages.start).unwrap_or(0)];
        self.file.write(&zeros, pages.start).map_err(failed("extend"))?;
        self.file.sync().map_err(failed("extend"))
    }

    /// Learns which slots of a block are used, and gives back to each the copy that it lacks.
    fn look_through(&mut self, block: u32) -> Result<(), StoreError> {
        let mut first = self.half(block, Copy::First);
        let mut second = self.half(block, Copy::Second);
        self.mend(block, Copy::First, &second, &mut first)?;
        self.mend(block, Copy::Second, &first, &mut second)
    }

    fn half(&self, block: u32, copy: Copy) -> Zeroizing<Vec<u8>> {
        let mut half = Zeroizing::new(vec![0; HALF_BYTES]);
        if self.file.read(&mut half, place(block * BLOCK_SLOTS, copy)).is_err() {
            // What the disk does not give out any more is damaged.
            half.fill(0xff);
        }
        half
    }

    fn mend(
        &mut self,
        block: u32,
        copy: Copy,
        source: &[u8],
        target: &mut [u8],
    ) -> Result<(), StoreError> {
        let mut mended = false;
        let pairs = source.as_chunks::<SLOT_BYTES>().0.iter().zip(target.as_chunks_mut().0);
        for (slot, (source, target)) in (block * BLOCK_SLOTS..).zip(pairs) {
            if *source != FREE || *target != FREE {
                self.used.set(slot);
            }
            if self.is_whole(slot, source) && !self.is_whole(slot, target) {
                *target = *source;
                self.file.write(target, place(slot, copy)).map_err(failed("mend"))?;
                mended = true;
            }
        }
        if mended {
            self.file.sync().map_err(failed("sync"))?;
        }
        Ok(())
    }

    /// Whether this is what was written for this slot.
    fn is_whole(&self, slot: u32, bytes: &[u8; SLOT_BYTES]) -> bool {
        let (covered, sum) = bytes.split_at(CHECKSUM_AT);
        *bytes != FREE && *sum == checksum(&self.name, slot, covered)
    }

    /// A row refers to this slot: it is not given out as long as it is not released, whatever it
    /// holds.
    pub(super) fn reserve(&mut self, slot: u32) {
        if slot < self.count_max {
            self.used.set(slot);
        }
    }

    /// The key in this slot is that of the row that refers to it.
    pub(super) fn confirm(&mut self, slot: u32) {
        self.own.set(slot);
    }

    /// What a slot holds, from whichever copy is whole.
    pub(super) fn content(&self, slot: u32) -> Content {
        if slot >= self.count_max {
            return Content::Free;
        }
        let mut free = true;
        for copy in [Copy::First, Copy::Second] {
            let mut bytes: Bytes = Zeroizing::new(FREE);
            let read = slot >= self.count || self.file.read(&mut *bytes, place(slot, copy)).is_ok();
            free &= read && *bytes == FREE;
            if self.is_whole(slot, &bytes)
                && let Some(key) = bytes.first_chunk::<KEY_BYTES>()
            {
                return Content::Key(SlotKey::from_bytes(key));
            }
        }
        if free { Content::Free } else { Content::Torn }
    }

    /// How many the file has.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// The transaction under way changes accounts; gives the number that the index is to have.
    pub(super) fn touch(&mut self) -> Result<u64, StoreError> {
        if let Some(transaction) = self.under_way {
            return Ok(transaction);
        }
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        // 0 is that of an index without accounts.
        let transaction = u64::from_le_bytes(bytes).max(1);
        self.under_way = Some(transaction);
        Ok(transaction)
    }

    /// Makes sure that so many slots are free.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when too few are; [`StoreError::Io`] when the file cannot grow.
    /// Nothing has changed then.
    pub(super) fn make_room(&mut self, count: usize) -> Result<(), StoreError> {
        if count == 0 {
            return Ok(());
        }
        self.free_from = self.used.first_clear(self.free_from);
        let mut next = self.free_from;
        for _ in 0..count {
            let free = self.used.first_clear(next);
            if free >= self.count_max {
                let max = self.count_max;
                let why =
                    format!("there are {max} keys of accounts in {FILE} already, the most it has");
                return Err(StoreError::Invalid(why));
            }
            next = free + 1;
        }
        while next > self.count {
            // What a failed attempt has left is written over by the next: all that the file had
            // when it was opened counts.
            let at = place(self.count, Copy::First);
            self.file.write(&vec![0; 2 * HALF_BYTES], at).map_err(failed("extend"))?;
            self.file.sync().map_err(failed("extend"))?;
            self.count += BLOCK_SLOTS;
        }
        Ok(())
    }

    /// Takes a free slot.
    ///
    /// # Errors
    /// Those of [`make_room`](Self::make_room).
    pub(super) fn take(&mut self) -> Result<u32, StoreError> {
        self.make_room(1)?;
        self.used.set(self.free_from);
        Ok(self.free_from)
    }

    /// What a slot that was taken is to hold.
    pub(super) fn put(&mut self, slot: u32, key: &SlotKey) {
        let mut bytes: Bytes = Zeroizing::new([0; SLOT_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(key.bytes());
        let sum = checksum(&self.name, slot, &bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&sum);
        self.fresh.push((slot, bytes));
        self.own.set(slot);
    }

    /// A slot that no row refers to once the transaction has committed. One that does not hold the
    /// key of that row may hold another's: it is left to a start that finds all in order.
    pub(super) fn release(&mut self, slot: u32) {
        if self.own.has(slot) {
            self.released.push(slot);
        }
    }

    /// Writes new keys, before the commit. Costs nothing when no account changes.
    ///
    /// # Errors
    /// Those of the machine; the transaction must not commit then.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        let Some(transaction) = self.under_way else { return Ok(()) };
        self.write_fresh(Copy::First)?;
        self.write_state(Copy::First, transaction)?;
        self.file.sync().map_err(failed("sync"))
    }

    /// Writes new keys once more and wipes the old ones, after the commit. Costs nothing when no
    /// account has changed.
    ///
    /// # Errors
    /// Those of the machine; the next start does what was not done.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        let Some(transaction) = self.under_way.take() else { return Ok(()) };
        self.write_fresh(Copy::Second)?;
        self.write_state(Copy::Second, transaction)?;
        let released = core::mem::take(&mut self.released);
        if released.is_empty() {
            self.file.sync().map_err(failed("sync"))?;
        } else {
            // Syncs the new ones, too.
            self.wipe(&released)?;
        }
        self.fresh.clear();
        self.transaction = transaction;
        Ok(())
    }

    fn write_fresh(&self, copy: Copy) -> Result<(), StoreError> {
        for (slot, bytes) in &self.fresh {
            self.file.write(&**bytes, place(*slot, copy)).map_err(failed("write"))?;
        }
        Ok(())
    }

    /// Wipes the second copies, then the first.
    fn wipe(&mut self, slots: &[u32]) -> Result<(), StoreError> {
        for copy in [Copy::Second, Copy::First] {
            for &slot in slots {
                self.file.write(&FREE, place(slot, copy)).map_err(failed("wipe"))?;
            }
            self.file.sync().map_err(failed("sync"))?;
        }
        for &slot in slots {
            self.used.clear(slot);
            self.own.clear(slot);
            self.free_from = self.free_from.min(slot);
        }
        Ok(())
    }

    /// Wipes what no row refers to: what a transaction left that did not come to its end. Where
    /// the file and the tables do not fit together, nothing is: one of them was put back from
    /// elsewhere, and what is not needed beside this one may be needed beside another. Says why
    /// something stays.
    pub(super) fn wipe_others(
        &mut self,
        needed: &Bits,
        rows_fit: bool,
    ) -> Result<Option<DamagedRow>, StoreError> {
        let orphans: Vec<u32> =
            (0..self.count).filter(|&slot| self.used.has(slot) && !needed.has(slot)).collect();
        let told = self.folder.join(FORGET_FILE).exists();
        let why = if !told && !self.fits {
            "it is not of the same moment as index.redb; keys that no account needs are kept"
        } else if !told && !orphans.is_empty() && self.keep {
            "it was beside another index.redb once; keys that no account needs are kept"
        } else if !told && !orphans.is_empty() && !rows_fit {
            "it lacks keys; others that no account needs are kept as long as it does"
        } else if !orphans.is_empty() && self.wipe(&orphans).is_err() {
            // The accounts are whole, and the next start tries again.
            "keys that no account needs cannot be written over"
        } else {
            if told {
                self.fit()?;
            }
            return Ok(None);
        };
        Ok(Some(DamagedRow { place: FILE.into(), why }))
    }

    /// Does what the operator says, once: the files belong together.
    fn fit(&mut self) -> Result<(), StoreError> {
        (self.fits, self.keep) = (true, false);
        self.write_states()?;
        std::fs::remove_file(self.folder.join(FORGET_FILE))
            .map_err(failed("end the keeping of"))?;
        sync_folder(&self.folder)
    }
}

/// Fills with random bytes of the system.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), StoreError> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| StoreError::Invalid("there are no random numbers".into()))
}

fn place(slot: u32, copy: Copy) -> u64 {
    let (block, n) = (u64::from(slot / BLOCK_SLOTS), u64::from(slot % BLOCK_SLOTS));
    let half = match copy {
        Copy::First => 0,
        Copy::Second => 1,
    };
    HEADER_BYTES as u64 + (2 * block + half) * HALF_BYTES as u64 + n * SLOT_BYTES as u64
}

fn state_place(copy: Copy) -> u64 {
    match copy {
        Copy::First => PAGE_BYTES as u64,
        Copy::Second => 2 * PAGE_BYTES as u64,
    }
}

fn checksum(name: &[u8; SLOTS_NAME_BYTES], slot: u32, covered: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&MAGIC);
    hasher.update(name);
    hasher.update(&slot.to_le_bytes());
    hasher.update(covered);
    hasher.finalize().to_le_bytes()
}

fn header_of(name: &[u8; SLOTS_NAME_BYTES]) -> [u8; NAME_END] {
    let mut header = [0; NAME_END];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()..].copy_from_slice(name);
    header
}

fn state_of(name: &[u8; SLOTS_NAME_BYTES], state: State) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&state.transaction.to_le_bytes());
    bytes[8] = u8::from(state.keep);
    let sum = checksum(name, STATE, &bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&sum);
    bytes
}

/// Makes a file without slots.
fn make(folder: &Path, name: &[u8; SLOTS_NAME_BYTES], transaction: u64) -> Result<(), StoreError> {
    let mut pages = [0; HEADER_BYTES];
    pages[..NAME_END].copy_from_slice(&header_of(name));
    let state = state_of(name, State { transaction, keep: false });
    for page in [PAGE_BYTES, 2 * PAGE_BYTES] {
        pages[page..page + SLOT_BYTES].copy_from_slice(&state);
    }
    SlotFile::make(folder, FILE, FRESH_FILE, &pages).map_err(failed("make"))?;
    sync_folder(folder)
}

fn corrupt(why: &str) -> StoreError {
    StoreError::Corrupt { place: FILE.into(), why: why.into() }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Io(IoError::from_io(&error, what, FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MailboxId;
    use tempfile::TempDir;

    const NAME: [u8; SLOTS_NAME_BYTES] = [7; SLOTS_NAME_BYTES];

    fn key(slot: u32) -> SlotKey {
        let fill = &mut |bytes: &mut [u8]| bytes.fill(slot as u8);
        SlotKey::seal(MailboxId(1), slot, b"", &mut Vec::new(), fill).unwrap()
    }

    fn holds(slots: &Slots, slot: u32) -> bool {
        matches!(slots.content(slot), Content::Key(found) if found.bytes() == key(slot).bytes())
    }

    #[test]
    fn the_file_grows_by_blocks_up_to_its_limit_and_slots_are_used_again() {
        const MAX: u32 = 2 * BLOCK_SLOTS + 10;
        let folder = TempDir::new().unwrap();
        let mut slots = Slots::open(folder.path(), NAME, 0, MAX).unwrap();
        slots.touch().unwrap();
        for expected in 0..MAX {
            assert_eq!(slots.take().unwrap(), expected);
            slots.put(expected, &key(expected));
        }
        assert!(matches!(slots.take(), Err(StoreError::Invalid(_))));
        slots.write().unwrap();
        slots.settle().unwrap();
        let last = slots.touch().unwrap();
        for gone in [600, 3, 1030] {
            slots.release(gone);
        }
        assert!(slots.make_room(1).is_err(), "not before they are wiped");
        slots.write().unwrap();
        slots.settle().unwrap();
        let bytes = std::fs::metadata(folder.path().join(FILE)).unwrap().len();
        assert_eq!(bytes, (HEADER_BYTES + 3 * 2 * HALF_BYTES) as u64);
        let mut slots = Slots::open(folder.path(), NAME, last, MAX).unwrap();
        assert!(slots.make_room(4).is_err() && slots.make_room(3).is_ok());
        assert_eq!([3, 600, 1030], [(); 3].map(|()| slots.take().unwrap()));
        assert!(slots.take().is_err());
        let left = (0..MAX).filter(|slot| holds(&slots, *slot)).count();
        assert_eq!(left, MAX as usize - 3);
        assert!(matches!(slots.content(u32::MAX), Content::Free));
    }

    #[test]
    fn a_slot_is_good_in_its_own_place_only() {
        let folder = TempDir::new().unwrap();
        let mut slots = Slots::open(folder.path(), NAME, 0, 100).unwrap();
        let last = slots.touch().unwrap();
        for slot in 0..3 {
            slots.take().unwrap();
            slots.put(slot, &key(slot));
        }
        slots.write().unwrap();
        slots.settle().unwrap();
        assert!((0..3).all(|slot| holds(&slots, slot)));
        let file = folder.path().join(FILE);
        let whole = std::fs::read(&file).unwrap();
        let range = |slot, copy| place(slot, copy) as usize..place(slot + 1, copy) as usize;
        for at in 0..SLOT_BYTES {
            let mut bytes = whole.clone();
            for copy in [Copy::First, Copy::Second] {
                bytes[place(1, copy) as usize + at] ^= 4;
                bytes.copy_within(range(0, copy), range(2, copy).start);
            }
            std::fs::write(&file, bytes).unwrap();
            let slots = Slots::open(folder.path(), NAME, last, 100).unwrap();
            assert!(holds(&slots, 0));
            assert!(matches!(slots.content(1), Content::Torn), "byte {at}");
            assert!(matches!(slots.content(2), Content::Torn), "that of another slot");
        }
    }
}
