//! Opening the index: its format and layout, what is kept in memory, and what an older format left.
//!
//! Called once, by [`Embedded::open`](super::Embedded::open). Accounts of format 4, whose locks
//! stand in clear, are written anew, [`RENEWED_ROWS`] in a transaction; a start that is cut short
//! goes on with the rest the next time. Failure: damage in the directory or the format refuses to
//! open; an account whose key cannot be read is noted, and has an unreadable lock.

use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use fsmtp_rt::IoError;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use zeroize::Zeroizing;

use super::super::pending::LiveBytes;
use super::super::row;
use super::bits::Bits;
use super::damage::DamagedRow;
use super::slots::{self, Content, Slots};
use super::tables::{
    ACCOUNTS, ALIASES, APPLIED, DOMAINS, FILE, KEYED, LIVE, META, NEXT_MAILBOX, REMOVED, Tables,
    damaged, failed, opened,
};
use super::work::UNACCOUNTED;
use crate::directory::{Account, Alias, Directory, Limits};
use crate::seal::slots_name;
use crate::{Lsn, MailboxId, ShardId, StoreError};

/// 6: there may be queued mail.
pub(super) const FORMAT: u64 = 6;
/// Locks of accounts are sealed under keys in slots; no mail is queued.
const FORMAT_WITHOUT_QUEUE: u64 = 5;
/// The same, but for the locks: they stand in clear.
const FORMAT_IN_CLEAR: u64 = 4;

const SEGMENT_BYTES: &str = "segment bytes";
const SECRET: [&str; 4] = ["secret 0", "secret 1", "secret 2", "secret 3"];
/// There may be rows whose locks stand in clear.
const IN_CLEAR: &str = "locks in clear";

/// Accounts of format 4 that are written anew in one transaction: some 400 kB.
pub(super) const RENEWED_ROWS: usize = 256;

/// How the file is to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) cache_bytes: usize,
    /// Length of the spools' segments, for a new file.
    pub(super) segment_bytes: u64,
    pub(super) limits: Limits,
    pub(super) slots_count_max: u32,
}

/// What is kept in memory from the start.
pub(super) struct Loaded {
    /// Length of the spools' segments, as the file was made for.
    pub(super) segment_bytes: u64,
    pub(super) secret: Zeroizing<[u8; 32]>,
    pub(super) slots: Slots,
    pub(super) directory: Directory,
    pub(super) applied: BTreeMap<ShardId, Lsn>,
    pub(super) live: LiveBytes,
    pub(super) removed: BTreeSet<MailboxId>,
    /// Those whose mail is not gone yet.
    pub(super) purges: VecDeque<MailboxId>,
}

/// What the table of numbers says.
struct Settled {
    segment_bytes: u64,
    secret: Zeroizing<[u8; 32]>,
    /// The last one that changed accounts.
    transaction: u64,
    in_clear: bool,
}

impl Tables {
    /// Opens the file in `folder`, making it when there is none, and reads what is kept in memory.
    pub(super) fn open(folder: &Path, wanted: Wanted) -> Result<(Self, Loaded), StoreError> {
        let path = folder.join(FILE);
        let mut builder = Database::builder();
        builder.set_cache_size(wanted.cache_bytes);
        let fresh = !path.exists();
        let database = builder.create(&path).map_err(opened)?;
        if fresh {
            sync_folder(folder)?;
        }
        let tables = Self { database, damages: Arc::default() };
        let settled = tables.settle(wanted.segment_bytes)?;
        let name = slots_name(&settled.secret);
        let mut slots = Slots::open(folder, name, settled.transaction, wanted.slots_count_max)?;
        if settled.in_clear {
            tables.reserve(&mut slots)?;
            tables.renew(&mut slots)?;
        }
        let loaded = tables.load(settled, slots, wanted.limits)?;
        Ok((tables, loaded))
    }

    /// Writes the format and the layout into a new file, or reads those of an old one. The length
    /// of segments stays what it was at first.
    fn settle(&self, segment_bytes: u64) -> Result<Settled, StoreError> {
        let transaction = self.begin()?;
        let settled = {
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let mut known = |name: &str, ours: u64| -> Result<u64, StoreError> {
                let found = meta.get(name).map_err(failed)?.map(|value| value.value());
                if found.is_none() {
                    meta.insert(name, ours).map_err(failed)?;
                }
                Ok(found.unwrap_or(ours))
            };
            let format = known("format", FORMAT)?;
            if ![FORMAT, FORMAT_WITHOUT_QUEUE, FORMAT_IN_CLEAR].contains(&format) {
                let found = u32::try_from(format).unwrap_or(u32::MAX);
                return Err(StoreError::Version {
                    object: FILE.into(),
                    found,
                    known: FORMAT as u32,
                });
            }
            let mut secret = Zeroizing::new([0; 32]);
            for (name, bytes) in SECRET.iter().zip(secret.chunks_exact_mut(8)) {
                let mut part = [0; 8];
                slots::random(&mut part)?;
                bytes.copy_from_slice(&known(name, u64::from_le_bytes(part))?.to_le_bytes());
            }
            let segment_bytes = match known(SEGMENT_BYTES, segment_bytes)? {
                0 => return Err(damaged("meta", SEGMENT_BYTES, "no segment is so short").into()),
                found => found,
            };
            let in_clear = known(IN_CLEAR, u64::from(format == FORMAT_IN_CLEAR))? != 0;
            let keyed = known(KEYED, 0)?;
            // From here on no older program takes it.
            meta.insert("format", FORMAT).map_err(failed)?;
            Settled { segment_bytes, secret, transaction: keyed, in_clear }
        };
        // A table exists once it was opened for writing.
        drop(self.write(&transaction)?);
        transaction.commit().map_err(failed)?;
        Ok(settled)
    }

    /// Keeps the slots of the accounts that an earlier start has renewed from being given out.
    fn reserve(&self, slots: &mut Slots) -> Result<(), StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        for row in transaction.open_table(ACCOUNTS).map_err(failed)?.iter().map_err(failed)? {
            let (address, value) = row.map_err(failed)?;
            let address = address.value();
            let row = row::unseal(address.as_bytes(), value.value());
            let read = row.and_then(|row| row::read_account(address, row));
            if let Some(slotted) = read.map_err(|why| damaged("accounts", address, why))?.1 {
                slots.reserve(slotted.slot);
            }
        }
        Ok(())
    }

    /// Writes every account anew whose lock stands in clear.
    fn renew(&self, slots: &mut Slots) -> Result<(), StoreError> {
        let mut behind = None;
        loop {
            let (accounts, last) = self.in_clear(behind)?;
            let transaction = self.begin()?;
            let mut writing = self.write(&transaction)?;
            for account in &accounts {
                writing.put_account(account, slots)?;
            }
            if last.is_none() {
                writing.put_number(IN_CLEAR, 0)?;
            }
            drop(writing);
            slots.write()?;
            transaction.commit().map_err(failed)?;
            slots.settle()?;
            behind = last;
            if behind.is_none() {
                return Ok(());
            }
        }
    }

    /// Some accounts behind an address whose locks stand in clear, and the address to go on behind.
    fn in_clear(
        &self,
        behind: Option<String>,
    ) -> Result<(Vec<Account>, Option<String>), StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(ACCOUNTS).map_err(failed)?;
        let from = behind.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut accounts = Vec::new();
        for found in table.range::<&str>((from, Bound::Unbounded)).map_err(failed)? {
            let (address, value) = found.map_err(failed)?;
            let address = address.value();
            let row = row::unseal(address.as_bytes(), value.value());
            let read = row.and_then(|row| row::read_account(address, row));
            let (account, slotted) = read.map_err(|why| damaged("accounts", address, why))?;
            if slotted.is_none() {
                accounts.push(account);
            }
            if accounts.len() >= RENEWED_ROWS {
                return Ok((accounts, Some(address.to_owned())));
            }
        }
        Ok((accounts, None))
    }

    fn load(
        &self,
        settled: Settled,
        mut slots: Slots,
        limits: Limits,
    ) -> Result<Loaded, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let mut domains: Vec<String> = Vec::new();
        for row in transaction.open_table(DOMAINS).map_err(failed)?.iter().map_err(failed)? {
            domains.push(row.map_err(failed)?.0.value().into());
        }
        let accounts = self.load_accounts(&transaction, &mut slots)?;
        let mut aliases: Vec<Alias> = Vec::new();
        for row in transaction.open_table(ALIASES).map_err(failed)?.iter().map_err(failed)? {
            let (address, value) = row.map_err(failed)?;
            let read = row::read_alias(address.value(), value.value());
            aliases.push(read.map_err(|why| damaged("aliases", address.value(), why))?);
        }
        let meta = transaction.open_table(META).map_err(failed)?;
        let next = meta.get(NEXT_MAILBOX).map_err(failed)?.map_or(1, |next| next.value());
        let mut loaded = Loaded {
            segment_bytes: settled.segment_bytes,
            secret: settled.secret,
            slots,
            directory: Directory::restore(limits, MailboxId(next), domains, accounts, aliases),
            applied: BTreeMap::new(),
            live: LiveBytes::new(),
            removed: BTreeSet::new(),
            purges: VecDeque::new(),
        };
        for row in transaction.open_table(APPLIED).map_err(failed)?.iter().map_err(failed)? {
            let (shard, lsn) = row.map_err(failed)?;
            loaded.applied.insert(ShardId(shard.value()), Lsn(lsn.value()));
        }
        for row in transaction.open_table(LIVE).map_err(failed)?.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let (key, (bytes, sum)) = (key.value(), value.value());
            let whole = row::live(key, bytes) == (bytes, sum);
            if !whole {
                self.damages.note(damaged("live", key, "its checksum is wrong"));
            }
            let bytes = if whole { bytes } else { UNACCOUNTED };
            loaded.live.insert((ShardId(key.0), key.1), bytes);
        }
        for row in transaction.open_table(REMOVED).map_err(failed)?.iter().map_err(failed)? {
            let (mailbox, gone) = row.map_err(failed)?;
            let mailbox = MailboxId(mailbox.value());
            loaded.removed.insert(mailbox);
            if !gone.value() {
                loaded.purges.push_back(mailbox);
            }
        }
        Ok(loaded)
    }

    /// The accounts, their locks opened; wipes the slots that none of them needs.
    fn load_accounts(
        &self,
        transaction: &ReadTransaction,
        slots: &mut Slots,
    ) -> Result<Vec<Account>, StoreError> {
        let mut accounts = Vec::new();
        let mut needed = Bits::default();
        let mut fits = true;
        for row in transaction.open_table(ACCOUNTS).map_err(failed)?.iter().map_err(failed)? {
            let (address, value) = row.map_err(failed)?;
            let address = address.value();
            let row = row::unseal(address.as_bytes(), value.value());
            let read = row.and_then(|row| row::read_account(address, row));
            let (mut account, slotted) = read.map_err(|why| damaged("accounts", address, why))?;
            if let Some(slotted) = slotted {
                let slot = slotted.slot;
                if slot < slots.count() {
                    needed.set(slot);
                }
                slots.reserve(slot);
                let content = slots.content(slot);
                // Damage is no sign of another moment.
                let torn = matches!(content, Content::Torn);
                let opened = match content {
                    Content::Free => Err("it holds no key"),
                    Content::Torn => Err("its checksum is wrong"),
                    Content::Key(key) => slotted.open(&key),
                };
                fits &= torn || opened.is_ok();
                match opened {
                    Ok(lock) => {
                        account.lock = lock;
                        slots.confirm(slot);
                    }
                    Err(why) => {
                        let place = format!("{}, slot {slot}, the key of {address}", slots::FILE);
                        self.damages.note(DamagedRow { place, why });
                    }
                }
            }
            accounts.push(account);
        }
        if let Some(kept) = slots.wipe_others(&needed, fits)? {
            self.damages.note(kept);
        }
        Ok(accounts)
    }
}

/// The name of a new file is durable only once its folder was synced.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let error = |error: io::Error| {
        StoreError::Io(IoError::from_io(&error, "sync", folder.display().to_string()))
    };
    #[expect(clippy::disallowed_types, reason = "the index lives outside the simulated disk")]
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Options;

    fn wanted(segment_bytes: u64) -> Wanted {
        Wanted { segment_bytes, ..Options::new(1).wanted() }
    }

    #[test]
    fn a_format_that_is_not_known_is_refused_by_name() {
        let folder = tempfile::TempDir::new().unwrap();
        let open = || Tables::open(folder.path(), wanted(4096));
        let (tables, _) = open().unwrap();
        drop(tables);
        for format in [FORMAT + 1, FORMAT_IN_CLEAR - 1] {
            let database = Database::open(folder.path().join(FILE)).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.open_table(META).unwrap().insert("format", format).unwrap();
            transaction.commit().unwrap();
            drop(database);
            let refused = open().map(|_| ()).unwrap_err();
            let expected = format as u32;
            assert!(
                matches!(refused, StoreError::Version { found, known: 6, .. } if found == expected),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_length_of_segments_that_cannot_be_is_damage() {
        let folder = tempfile::TempDir::new().unwrap();
        let open = |bytes| Tables::open(folder.path(), wanted(bytes));
        let (tables, loaded) = open(4096).unwrap();
        assert_eq!(loaded.segment_bytes, 4096);
        let transaction = tables.begin().unwrap();
        transaction.open_table(META).unwrap().insert(SEGMENT_BYTES, 0).unwrap();
        transaction.commit().unwrap();
        drop(tables);
        let refused = open(4096).map(|_| ()).unwrap_err().to_string();
        let said = "index.redb, table meta, key \"segment bytes\" is damaged: \
                    no segment is so short";
        assert_eq!(refused, said);
    }
}
