//! Folders of format 4, whose locks stand in clear: opened, renewed in parts, whatever happens.

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::slots::{ALICE, add, house, in_folder, slots_file, used};
use super::*;
use crate::directory::{Account, Lock};
use crate::mailbox::embedded::opening::RENEWED_ROWS;
use crate::mailbox::embedded::slotfile::fault::{self, Unsynced};
use crate::mailbox::embedded::tables::{ACCOUNTS, META};
use crate::mailbox::row;

/// Accounts besides alice and bob: more than two transactions take.
const MORE: usize = 2 * RENEWED_ROWS + 50;

/// Writes the folder as format 4 had it, with so many accounts more; says all accounts.
fn aged(folder: &Path, more: usize) -> Vec<Account> {
    let mut accounts: Vec<Account> = in_folder(folder, |store| {
        store.directory().accounts(None).iter().map(|account| (**account).clone()).collect()
    });
    for n in 0..more {
        let (mailbox, address) = (MailboxId(100 + n as u64), format!("more{n}@x.test"));
        accounts.push(Account { mailbox, address, ..accounts[1].clone() });
    }
    let database = Database::open(folder.join("index.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(ACCOUNTS).unwrap();
        for account in &accounts {
            let mut row = row::account_in_clear(account);
            row::seal(account.address.as_bytes(), &mut row);
            table.insert(account.address.as_str(), row.as_slice()).unwrap();
        }
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("format", 4).unwrap();
        for number in ["locks in clear", "key transaction"] {
            meta.remove(number).unwrap();
        }
    }
    transaction.commit().unwrap();
    std::fs::remove_file(slots_file(folder)).unwrap();
    accounts.sort_by(|a, b| a.address.cmp(&b.address));
    accounts
}

/// How many accounts have rows whose locks stand in clear, and the number under a name.
fn looked_at(folder: &Path, name: &str) -> (usize, Option<u64>) {
    let database = Database::open(folder.join("index.redb")).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(ACCOUNTS).unwrap();
    let in_clear = table.iter().unwrap().map(Result::unwrap).filter(|(address, value)| {
        let row = row::unseal(address.value().as_bytes(), value.value()).unwrap();
        row::read_account(address.value(), row).unwrap().1.is_none()
    });
    let count = in_clear.count();
    let meta = transaction.open_table(META).unwrap();
    (count, meta.get(name).unwrap().map(|number| number.value()))
}

fn accounts(store: &Embedded) -> Vec<Account> {
    store.directory().accounts(None).iter().map(|account| (**account).clone()).collect()
}

#[test]
fn a_folder_of_format_4_is_renewed_at_its_start() {
    let folder = house();
    let before = aged(folder.path(), 0);
    assert_eq!(looked_at(folder.path(), "format"), (2, Some(4)));
    let hash = match &before[1].lock {
        Lock::Hash(hash) => hash.as_str().as_bytes().to_vec(),
        other => panic!("{other:?}"),
    };
    let stands = |folder: &Path| {
        let bytes = std::fs::read(folder.join("index.redb")).unwrap();
        bytes.windows(hash.len()).any(|found| found == hash)
    };
    assert!(stands(folder.path()));
    in_folder(folder.path(), |store| {
        assert_eq!(accounts(store), before);
        assert_eq!(store.take_damage().len(), 0);
        wait(store.change(add("carol@x.test", cheap_phc().into()))).unwrap();
    });
    assert_eq!(looked_at(folder.path(), "format"), (0, Some(6)));
    assert_eq!(looked_at(folder.path(), "locks in clear"), (0, Some(0)));
    assert_eq!(used(folder.path()).len(), 3);
    in_folder(folder.path(), |store| assert_eq!(store.directory().accounts_count(), 3));
}

#[test]
fn a_renewal_that_is_cut_short_goes_on_at_the_next_start() {
    let folder = house();
    let before = aged(folder.path(), MORE);
    // Each transaction writes keys and state, syncs, and again; the file grows before.
    let one = 2 * RENEWED_ROWS + 4;
    let cuts = [0, 1, 2, 3, 100, 258, 259, 400, one + 1, one + 2, one + 3, 10, 257, 300, 600];
    let mut left = Vec::new();
    for (operations, unsynced) in
        cuts.into_iter().zip([Unsynced::Torn, Unsynced::Lost].into_iter().cycle())
    {
        fault::plan(folder.path(), operations, unsynced);
        let opened = Embedded::open(folder.path(), options());
        fault::forget(folder.path());
        if let Ok((store, keeper)) = opened {
            assert_eq!(accounts(&store), before);
            keeper.close().unwrap();
        }
        let (in_clear, format) = looked_at(folder.path(), "format");
        assert_eq!(format, Some(6), "older programs must not take it any more");
        left.push(in_clear);
    }
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert!(left.iter().any(|left| (1..MORE).contains(left)), "in parts: {left:?}");
    in_folder(folder.path(), |store| {
        assert_eq!(accounts(store), before);
        assert_eq!(store.take_damage().len(), 0);
    });
    assert_eq!(looked_at(folder.path(), "locks in clear"), (0, Some(0)));
    in_folder(folder.path(), |store| assert_eq!(accounts(store), before));
}

#[test]
fn a_renewal_that_goes_on_beside_an_empty_file_gives_no_slot_twice() {
    let folder = house();
    aged(folder.path(), MORE);
    for operations in 0.. {
        fault::plan(folder.path(), operations, Unsynced::Lost);
        assert!(Embedded::open(folder.path(), options()).is_err());
        fault::forget(folder.path());
        // The first transaction has committed.
        if looked_at(folder.path(), "format").0 == MORE + 2 - RENEWED_ROWS {
            break;
        }
    }
    // The keys are lost, and the operator says that there are no others.
    std::fs::write(slots_file(folder.path()), b"").unwrap();
    let lost = |store: &Embedded| {
        let unreadable = |account: &Account| account.lock == Lock::Unreadable;
        accounts(store).into_iter().filter(unreadable).map(|a| a.address).collect::<Vec<_>>()
    };
    let left = in_folder(folder.path(), |store| {
        let lost_first = lost(store);
        assert_eq!(lost_first.len(), RENEWED_ROWS);
        for address in lost_first.into_iter().filter(|address| address != ALICE).take(20) {
            wait(store.change(Change::RemoveAccount { address })).unwrap();
        }
        lost(store)
    });
    assert_eq!(in_folder(folder.path(), lost), left);
}

#[test]
fn an_older_index_of_format_4_takes_no_key_of_the_newer_one() {
    let folder = house();
    aged(folder.path(), 0);
    let index = folder.path().join("index.redb");
    let format_4 = std::fs::read(&index).unwrap();
    in_folder(folder.path(), |store| assert_eq!(store.take_damage().len(), 0));
    let format_5 = std::fs::read(&index).unwrap();
    std::fs::write(&index, format_4).unwrap();
    for _ in 0..2 {
        let named = in_folder(folder.path(), |store| store.take_damage());
        assert!(named.len() == 1 && named[0].to_string().contains("keys that no account needs"));
    }
    std::fs::write(&index, format_5).unwrap();
    in_folder(folder.path(), |store| {
        assert!(accounts(store).iter().all(|account| account.lock != Lock::Unreadable));
    });
}
