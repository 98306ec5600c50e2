//! The tables of the embedded index: redb, which besides only `opening` and `reading` name.
//!
//! Called by the thread of the index alone. Each write transaction is durable when it commits, and
//! keeps what is needed to open the file at once after a crash, so a start does not depend on how
//! much mail there is. Failure: every error names the table file; damage names table and key.
//! A damaged row of a mailbox is noted in [`Damages`] and passed over. After a failed write redb
//! refuses everything until the file is opened again.

use std::sync::Arc;

use fsmtp_rt::{IoError, IoKind};
use redb::{
    AccessGuard, Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use super::super::pending::Body;
use super::super::row;
use super::super::types::Message;
use super::damage::{DamagedRow, Damages};
use super::reading::{Kept, Reading, body, message, next_uid};
use super::slots::{self, Slots};
use crate::directory::{Account, Edit};
use crate::seal::{RecipientWrap, WindowRecord};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError};

pub(super) const FILE: &str = "index.redb";

/// Numbers by name: the format, the layout, the next mailbox.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Messages by mailbox and uid; under uid 0 the uid that the next message gets at least.
const ENTRIES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("entries");
/// Bodies by queue id.
const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");
/// Live bytes by shard and segment, none that are 0.
pub(super) const LIVE: TableDefinition<'_, (u16, u64), (u64, u32)> = TableDefinition::new("live");
/// How far each shard's log is contained.
pub(super) const APPLIED: TableDefinition<'_, u16, u64> = TableDefinition::new("applied");
/// Windows of sealed mailboxes, by mailbox and name.
const WINDOWS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("windows");
/// Key pairs of sealed mailboxes.
const KEYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("keys");
/// Messages that are to travel on, by shard and queue id.
pub(super) const QUEUED: TableDefinition<'_, (u16, u64), &[u8]> = TableDefinition::new("queued");
pub(super) const DOMAINS: TableDefinition<'_, &str, ()> = TableDefinition::new("domains");
pub(super) const ACCOUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");
pub(super) const ALIASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("aliases");
/// Mailboxes of removed accounts; true once their mail is gone.
pub(super) const REMOVED: TableDefinition<'_, u64, bool> = TableDefinition::new("removed");

pub(super) const NEXT_MAILBOX: &str = "next mailbox";
/// The last transaction that changed accounts, by the random number that the slots have as well.
pub(super) const KEYED: &str = "key transaction";

/// The open file.
pub(super) struct Tables {
    pub(super) database: Database,
    pub(super) damages: Arc<Damages>,
}

pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => StoreError::Io(IoError::from_io(&error, "access", FILE)),
        redb::Error::PreviousIo => {
            StoreError::Io(IoError::new(IoKind::Failed, "access after a failed write", FILE))
        }
        redb::Error::Corrupted(why) => StoreError::Corrupt { place: FILE.into(), why },
        other => StoreError::Corrupt { place: FILE.into(), why: other.to_string() },
    }
}

pub(super) fn damaged(table: &str, key: impl core::fmt::Debug, why: row::Damage) -> DamagedRow {
    DamagedRow { place: format!("{FILE}, table {table}, key {key:?}"), why }
}

pub(super) fn opened(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Invalid(format!("{FILE} is in use by another process"))
        }
        DatabaseError::UpgradeRequired(found) => {
            StoreError::Version { object: FILE.into(), found: u32::from(found), known: 3 }
        }
        other => failed(other),
    }
}

impl Tables {
    /// The committed state.
    pub(super) fn read(&self) -> Result<Reading, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        Ok(Reading {
            entries: transaction.open_table(ENTRIES).map_err(failed)?,
            bodies: transaction.open_table(BODIES).map_err(failed)?,
            windows: transaction.open_table(WINDOWS).map_err(failed)?,
            keys: transaction.open_table(KEYS).map_err(failed)?,
            queued: transaction.open_table(QUEUED).map_err(failed)?,
            damages: Arc::clone(&self.damages),
        })
    }

    /// The damaged rows that were found.
    pub(super) const fn damages(&self) -> &Arc<Damages> {
        &self.damages
    }

    /// A transaction; durable once it commits, gone when it is dropped.
    pub(super) fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// The tables within a transaction.
    pub(super) fn write<'t>(
        &self,
        transaction: &'t WriteTransaction,
    ) -> Result<Writing<'t>, StoreError> {
        Writing::open(transaction, Arc::clone(&self.damages))
    }
}

/// The count of a window that is kept whatever is deleted.
const NEEDED_FOR_EVER: u64 = u64::MAX;

/// The row of a window.
enum Row {
    Missing,
    Damaged,
    /// How many messages need it, and its record.
    Whole(u64, Vec<u8>),
}

/// The tables within a write transaction.
pub(super) struct Writing<'t> {
    meta: Table<'t, &'static str, u64>,
    entries: Table<'t, (u64, u32), &'static [u8]>,
    bodies: Table<'t, u64, &'static [u8]>,
    live: Table<'t, (u16, u64), (u64, u32)>,
    applied: Table<'t, u16, u64>,
    domains: Table<'t, &'static str, ()>,
    accounts: Table<'t, &'static str, &'static [u8]>,
    aliases: Table<'t, &'static str, &'static [u8]>,
    removed: Table<'t, u64, bool>,
    windows: Table<'t, (u64, u64), &'static [u8]>,
    keys: Table<'t, u64, &'static [u8]>,
    pub(super) queued: Table<'t, (u16, u64), &'static [u8]>,
    /// Where rows are put together.
    pub(super) row: Vec<u8>,
    pub(super) damages: Arc<Damages>,
}

impl<'t> Writing<'t> {
    fn open(transaction: &'t WriteTransaction, damages: Arc<Damages>) -> Result<Self, StoreError> {
        Ok(Self {
            meta: transaction.open_table(META).map_err(failed)?,
            entries: transaction.open_table(ENTRIES).map_err(failed)?,
            bodies: transaction.open_table(BODIES).map_err(failed)?,
            live: transaction.open_table(LIVE).map_err(failed)?,
            applied: transaction.open_table(APPLIED).map_err(failed)?,
            domains: transaction.open_table(DOMAINS).map_err(failed)?,
            accounts: transaction.open_table(ACCOUNTS).map_err(failed)?,
            aliases: transaction.open_table(ALIASES).map_err(failed)?,
            removed: transaction.open_table(REMOVED).map_err(failed)?,
            windows: transaction.open_table(WINDOWS).map_err(failed)?,
            keys: transaction.open_table(KEYS).map_err(failed)?,
            queued: transaction.open_table(QUEUED).map_err(failed)?,
            row: Vec::new(),
            damages,
        })
    }

    /// The uid that the next message of a mailbox gets; `None` when all are used up.
    pub(super) fn next_uid(&self, mailbox: MailboxId) -> Result<Option<u32>, StoreError> {
        next_uid(&self.entries, mailbox, &self.damages)
    }

    /// Puts a message under `uid`.
    pub(super) fn put_entry(
        &mut self,
        mailbox: MailboxId,
        uid: u32,
        id: QueueId,
        octets: u64,
        wrap: Option<&RecipientWrap>,
    ) -> Result<(), StoreError> {
        let key = (mailbox.0, uid);
        row::entry(id, octets, wrap, &mut self.row);
        row::seal(&row::entry_key(key), &mut self.row);
        self.entries.insert(key, self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Makes sure that no uid below `next` is given out again; `None` when all are used up.
    pub(super) fn put_floor(
        &mut self,
        mailbox: MailboxId,
        next: Option<u32>,
    ) -> Result<(), StoreError> {
        let key = (mailbox.0, 0);
        row::floor(next.map_or(1 << 32, u64::from), &mut self.row);
        row::seal(&row::entry_key(key), &mut self.row);
        self.entries.insert(key, self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Takes a message out, if it is still the one that is meant.
    pub(super) fn take_entry(
        &mut self,
        mailbox: MailboxId,
        wanted: Message,
    ) -> Result<Option<Kept>, StoreError> {
        let key = (mailbox.0, wanted.uid.0);
        let found = match self.entries.get(key).map_err(failed)? {
            Some(value) => self.damages.pass(message(key, value.value())),
            None => None,
        };
        let found = found.filter(|(message, _)| message.id == wanted.id);
        if found.is_some() {
            self.entries.remove(key).map_err(failed)?;
        }
        Ok(found)
    }

    /// So many messages more need a window; `record` is kept when it is not there yet.
    pub(super) fn need_window(
        &mut self,
        record: &WindowRecord,
        count: u64,
    ) -> Result<(), StoreError> {
        let key = (record.mailbox().0, record.id().0);
        let (before, record) = match self.read_window(key)? {
            Row::Whole(count, record) => (count, record),
            Row::Missing => (0, record.encode()),
            // This record opens it again, and nothing says how many need it: it stays.
            Row::Damaged => (NEEDED_FOR_EVER, record.encode()),
        };
        self.put_window(key, before.saturating_add(count), &record)
    }

    /// A message less needs a window; the last one takes it along.
    pub(super) fn release_window(&mut self, wrap: &RecipientWrap) -> Result<(), StoreError> {
        let key = (wrap.mailbox.0, wrap.window.0);
        match self.read_window(key)? {
            // A damaged row stays; nothing says who needs it.
            Row::Missing | Row::Damaged | Row::Whole(NEEDED_FOR_EVER, _) => Ok(()),
            Row::Whole(..=1, _) => self.windows.remove(key).map(drop).map_err(failed),
            Row::Whole(count, record) => self.put_window(key, count - 1, &record),
        }
    }

    /// Replaces the record of a window that is still needed.
    pub(super) fn replace_window(&mut self, record: &WindowRecord) -> Result<(), StoreError> {
        let key = (record.mailbox().0, record.id().0);
        match self.read_window(key)? {
            Row::Missing | Row::Damaged => Ok(()),
            Row::Whole(count, _) => self.put_window(key, count, &record.encode()),
        }
    }

    fn read_window(&self, key: (u64, u64)) -> Result<Row, StoreError> {
        let Some(value) = self.windows.get(key).map_err(failed)? else { return Ok(Row::Missing) };
        let row = row::unseal(&row::window_key(key), value.value()).and_then(row::read_window);
        let read = row.map_err(|why| damaged("windows", key, why));
        let whole = |(count, record): (u64, &[u8])| Row::Whole(count, record.to_vec());
        Ok(self.damages.pass(read).map_or(Row::Damaged, whole))
    }

    fn put_window(&mut self, key: (u64, u64), count: u64, record: &[u8]) -> Result<(), StoreError> {
        row::window(count, record, &mut self.row);
        row::seal(&row::window_key(key), &mut self.row);
        self.windows.insert(key, self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Takes up to `rows_max` messages of a mailbox, and its row under uid 0 with the last of them;
    /// says whether all are gone. A damaged row goes, too; its message stays in the log, since
    /// nothing says any more which one it was.
    pub(super) fn take_some(
        &mut self,
        mailbox: MailboxId,
        rows_max: usize,
        taken: &mut Vec<Kept>,
    ) -> Result<bool, StoreError> {
        let mut keys = Vec::new();
        let mut rows =
            self.entries.range((mailbox.0, 1)..=(mailbox.0, u32::MAX)).map_err(failed)?;
        for row in rows.by_ref().take(rows_max) {
            let (key, value) = row.map_err(failed)?;
            keys.push(key.value());
            taken.extend(self.damages.pass(message(key.value(), value.value())));
        }
        let all = rows.next().is_none();
        drop(rows);
        for key in keys {
            self.entries.remove(key).map_err(failed)?;
        }
        if all {
            self.entries.remove((mailbox.0, 0)).map_err(failed)?;
        }
        Ok(all)
    }

    /// The body of a message; none when its row is damaged.
    pub(super) fn body(&self, id: QueueId) -> Result<Option<Body>, StoreError> {
        let row = self.bodies.get(id.0).map_err(failed)?;
        Ok(row.and_then(|row| self.damages.pass(body(id, &row))))
    }

    pub(super) fn put_body(&mut self, body: &Body) -> Result<(), StoreError> {
        row::body(body, &mut self.row);
        row::seal(&body.id.0.to_be_bytes(), &mut self.row);
        self.bodies.insert(body.id.0, self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// One reference less; gives the body when it was the last. A body that is missing or damaged
    /// stays as it is, and what it takes in the log stays live.
    pub(super) fn release(&mut self, id: QueueId) -> Result<Option<Body>, StoreError> {
        let (read, bytes) = match self.bodies.remove(id.0).map_err(failed)? {
            None => {
                let why = "a mailbox refers to it, and it is missing";
                self.damages.note(damaged("bodies", id, why));
                return Ok(None);
            }
            Some(value) => match body(id, &value) {
                Ok(body) => (Ok(body), Vec::new()),
                Err(row) => (Err(row), value.value().to_vec()),
            },
        };
        let Some(mut body) = self.damages.pass(read) else {
            self.bodies.insert(id.0, bytes.as_slice()).map_err(failed)?;
            return Ok(None);
        };
        if body.references_count <= 1 {
            return Ok(Some(body));
        }
        body.references_count -= 1;
        self.put_body(&body)?;
        Ok(None)
    }

    /// Notes that the live bytes of a segment contradict its messages.
    pub(super) fn note_live(&self, shard: ShardId, number: u64) {
        let why = "more bytes became dead than were live";
        self.damages.note(damaged("live", (shard.0, number), why));
    }

    pub(super) fn put_live(
        &mut self,
        shard: ShardId,
        number: u64,
        bytes: u64,
    ) -> Result<(), StoreError> {
        if bytes == 0 {
            self.live.remove((shard.0, number)).map_err(failed)?;
        } else {
            let key = (shard.0, number);
            self.live.insert(key, row::live(key, bytes)).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn put_applied(&mut self, shard: ShardId, lsn: Lsn) -> Result<(), StoreError> {
        self.applied.insert(shard.0, lsn.0).map_err(failed)?;
        Ok(())
    }

    /// Stores an account, its lock under a new key; the slot of the old one is released.
    pub(super) fn put_account(
        &mut self,
        account: &Account,
        slots: &mut Slots,
    ) -> Result<(), StoreError> {
        self.put_number(KEYED, slots.touch()?)?;
        let slot = slots.take()?;
        let mut drawn = Ok(());
        let made = row::account(account, slot, &mut |bytes| {
            drawn = slots::random(bytes);
        });
        drawn?;
        let (mut row, key) = made.map_err(|error| StoreError::Invalid(error.to_string()))?;
        slots.put(slot, &key);
        let address = account.address.as_str();
        row::seal(address.as_bytes(), &mut row);
        let old = self.accounts.insert(address, row.as_slice()).map_err(failed)?;
        release(address, old, slots);
        Ok(())
    }

    /// Stores a number under its name.
    pub(super) fn put_number(&mut self, name: &str, number: u64) -> Result<(), StoreError> {
        self.meta.insert(name, number).map(drop).map_err(failed)
    }

    /// Stores a change of the directory. For accounts there must be room among the slots.
    pub(super) fn edit(
        &mut self,
        edit: &Edit,
        next: MailboxId,
        slots: &mut Slots,
    ) -> Result<(), StoreError> {
        self.meta.insert(NEXT_MAILBOX, next.0).map_err(failed)?;
        match edit {
            Edit::PutDomain(name) => drop(self.domains.insert(name.as_str(), ()).map_err(failed)?),
            Edit::DropDomain(name) => drop(self.domains.remove(name.as_str()).map_err(failed)?),
            Edit::PutAccount(account, keys) => {
                self.put_account(account, slots)?;
                let mailbox = account.mailbox.0;
                if let Some(keys) = keys {
                    let mut row = keys.encode();
                    row::seal(&mailbox.to_be_bytes(), &mut row);
                    self.keys.insert(mailbox, row.as_slice()).map_err(failed)?;
                } else if account.lock.sealed().is_none() {
                    self.keys.remove(mailbox).map_err(failed)?;
                }
            }
            Edit::DropAccount { address, mailbox } => {
                self.put_number(KEYED, slots.touch()?)?;
                let old = self.accounts.remove(address.as_str()).map_err(failed)?;
                release(address, old, slots);
                self.keys.remove(mailbox.0).map_err(failed)?;
                for mailbox in mailbox.all() {
                    self.removed.insert(mailbox.0, false).map_err(failed)?;
                }
            }
            Edit::PutAlias(alias) => {
                let row = row::alias(alias);
                self.aliases.insert(alias.address.as_str(), row.as_slice()).map_err(failed)?;
            }
            Edit::DropAlias(address) => {
                self.aliases.remove(address.as_str()).map_err(failed)?;
            }
            // Stored above.
            Edit::NextMailbox(_) => {}
        }
        Ok(())
    }

    /// Notes that the mail of a removed mailbox is gone, and takes its windows along.
    pub(super) fn purged(&mut self, mailbox: MailboxId) -> Result<(), StoreError> {
        let windows = (mailbox.0, 0)..=(mailbox.0, u64::MAX);
        self.windows.retain_in(windows, |_, _| false).map_err(failed)?;
        self.removed.insert(mailbox.0, true).map_err(failed)?;
        Ok(())
    }
}

/// Releases the slot that the old row of an account refers to.
fn release(address: &str, old: Option<AccessGuard<'_, &'static [u8]>>, slots: &mut Slots) {
    let Some(old) = old else { return };
    let row = row::unseal(address.as_bytes(), old.value());
    // A row that could not be read would have stopped the start.
    if let Ok((_, Some(slotted))) = row.and_then(|row| row::read_account(address, row)) {
        slots.release(slotted.slot);
    }
}

/// What a failing disk leaves; for tests.
#[cfg(test)]
impl Writing<'_> {
    pub(super) fn spoil_entry(&mut self, mailbox: MailboxId, uid: u32, row: &[u8]) {
        self.entries.insert((mailbox.0, uid), row).unwrap();
    }

    pub(super) fn spoil_body(&mut self, id: QueueId, row: Option<&[u8]>) {
        match row {
            Some(row) => drop(self.bodies.insert(id.0, row).unwrap()),
            None => drop(self.bodies.remove(id.0).unwrap()),
        }
    }

    pub(super) fn spoil_live(&mut self, key: (u16, u64), bytes: u64) {
        self.live.insert(key, (bytes, 7)).unwrap();
    }

    pub(super) fn spoil_window(&mut self, key: (u64, u64), row: &[u8]) {
        self.windows.insert(key, row).unwrap();
    }

    pub(super) fn spoil_keys(&mut self, mailbox: MailboxId, row: &[u8]) {
        self.keys.insert(mailbox.0, row).unwrap();
    }

    pub(super) fn spoil_account(&mut self, address: &str, row: &[u8]) {
        self.accounts.insert(address, row).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Options;

    #[test]
    fn damage_names_table_and_key() {
        let folder = tempfile::TempDir::new().unwrap();
        let open = || Tables::open(folder.path(), Options::new(1).wanted());
        let (tables, _) = open().unwrap();
        let transaction = tables.begin().unwrap();
        transaction.open_table(ENTRIES).unwrap().insert((7, 3), &b"short"[..]).unwrap();
        transaction.open_table(BODIES).unwrap().insert(9, &b""[..]).unwrap();
        transaction.open_table(ACCOUNTS).unwrap().insert("a@x", &b"\xff"[..]).unwrap();
        transaction.commit().unwrap();
        let reading = tables.read().unwrap();
        let place = |error| match error {
            StoreError::Corrupt { place, .. } => place,
            other => panic!("{other}"),
        };
        let mut found = Vec::new();
        reading.messages(MailboxId(7), 1, 10, |message| found.push(message)).unwrap();
        assert_eq!(found, [None]);
        let body = reading.body(QueueId(9)).unwrap_err();
        let body_place = "index.redb, table bodies, key QueueId(9)";
        assert_eq!(place(body), body_place);
        let noted: Vec<String> = tables.damages().take().into_iter().map(place).collect();
        assert_eq!(noted, ["index.redb, table entries, key (7, 3)", body_place]);
        drop((reading, tables));
        let account = open().map(|_| ()).unwrap_err();
        assert_eq!(place(account), "index.redb, table accounts, key \"a@x\"");
    }
}
