//! What was taken away stays away: old rows beside new slots, crashes at every write, damage.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::*;
use crate::directory::{Account, Lock, NewLock, Opened};
use crate::mailbox::embedded::slotfile::fault::{self, Unsynced};
use crate::password::Cost;
use crate::seal::{
    AppWrap, MailboxKey, PasswordWrap, Random, RsaBits, Secret, UserKeys, Wrap, Wraps,
};

pub(super) const ALICE: &str = "alice@x.test";
pub(super) const BOB: &str = "bob@x.test";
const HEADER_BYTES: usize = 3 * 4096;
const HALF_BYTES: usize = 32 * 1024;
const SLOT_BYTES: usize = 64;

pub(super) fn counting(mut next: u8) -> impl FnMut(&mut [u8]) {
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(7);
            *byte = next;
        }
    }
}

/// Two key pairs of the first mailbox, and the keys that they are sealed under.
static PAIRS: LazyLock<[(UserKeys, MailboxKey); 2]> = LazyLock::new(|| {
    let make = |n| UserKeys::generate(MailboxId(1), RsaBits::B2048, &mut counting(n)).unwrap();
    [1, 2].map(make)
});

fn put_password(wraps: &mut Wraps, pair: usize, password: &[u8]) {
    let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let random: Random<'_> = &mut counting(3);
    let wrap = PasswordWrap::seal(&PAIRS[pair].1, MailboxId(1), password, cost, random);
    wraps.put("", Wrap::Password(wrap.unwrap())).unwrap();
}

/// What alice begins with: the password `one`, and an app password.
static FIRST: LazyLock<(Wraps, Secret, u32)> = LazyLock::new(|| {
    let mut wraps = Wraps::default();
    put_password(&mut wraps, 0, b"one");
    let (wrap, secret) = AppWrap::seal(&PAIRS[0].1, MailboxId(1), &mut counting(4)).unwrap();
    let number = wraps.put("phone", Wrap::App(wrap)).unwrap();
    (wraps, secret, number)
});

fn new_lock(pair: usize, wraps: Wraps) -> NewLock {
    let keys = Box::new(PAIRS[pair].0.clone());
    NewLock::Sealed { mailbox: MailboxId(1), keys, wraps }
}

pub(super) fn add(address: &str, lock: NewLock) -> Change {
    let created = fsmtp_rt::UnixTime::from_ms(0);
    Change::AddAccount { address: address.into(), name: String::new(), lock, created }
}

/// A folder with alice, whose mail is sealed, and bob, whose mail is not.
pub(super) fn house() -> TempDir {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    wait(store.change(Change::AddDomain { domain: "x.test".into() })).unwrap();
    wait(store.change(add(ALICE, new_lock(0, FIRST.0.clone())))).unwrap();
    wait(store.change(add(BOB, cheap_phc().into()))).unwrap();
    keeper.close().unwrap();
    folder
}

fn account(store: &Embedded, address: &str) -> Option<Arc<Account>> {
    store.directory().account(address).cloned()
}

/// Whether a credential of alice gets at the private key, with all that the folder has.
fn opens(store: &Embedded, credential: &[u8]) -> bool {
    let Some(alice) = account(store, ALICE) else { return false };
    match alice.lock.open(alice.mailbox, credential) {
        Opened::Right(Some(key)) => {
            let keys = wait(store.user_keys(alice.mailbox)).unwrap();
            keys.private_key(alice.mailbox, &key).is_ok()
        }
        _ => false,
    }
}

pub(super) fn in_folder<T>(folder: &Path, look: impl FnOnce(&Embedded) -> T) -> T {
    let (store, keeper) = Embedded::open(folder, options()).unwrap();
    let seen = look(&store);
    keeper.close().unwrap();
    seen
}

/// A folder with the table file of one and the slots of another.
fn mixed(index: &Path, slots: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::copy(index.join("index.redb"), folder.path().join("index.redb")).unwrap();
    std::fs::copy(slots.join("keys.slots"), folder.path().join("keys.slots")).unwrap();
    folder
}

fn copied(folder: &TempDir) -> TempDir {
    mixed(folder.path(), folder.path())
}

pub(super) fn slots_file(folder: &Path) -> PathBuf {
    folder.join("keys.slots")
}

/// The slots that are not free, none of them in one copy only.
pub(super) fn used(folder: &Path) -> Vec<usize> {
    let bytes = std::fs::read(slots_file(folder)).unwrap();
    let mut used = Vec::new();
    for (block, copies) in bytes[HEADER_BYTES..].chunks(2 * HALF_BYTES).enumerate() {
        let (first, second) = copies.split_at(HALF_BYTES);
        assert!(first == second, "both copies are the same");
        let slots = first.chunks(SLOT_BYTES).enumerate();
        used.extend(slots.filter(|(_, slot)| slot.iter().any(|b| *b != 0)).map(|s| s.0));
        assert_eq!(block, 0, "these are small folders");
    }
    used
}

/// Writes over the one or the other copy of a slot.
fn spoil(folder: &Path, slot: usize, copies: &[usize]) {
    let mut bytes = std::fs::read(slots_file(folder)).unwrap();
    for copy in copies {
        let at = HEADER_BYTES + copy * HALF_BYTES + slot * SLOT_BYTES + 20;
        bytes[at] ^= 0x10;
    }
    std::fs::write(slots_file(folder), bytes).unwrap();
}

/// What takes a credential of alice away, and the credential.
fn takings() -> Vec<(Change, Vec<u8>)> {
    let (first, app, number) = &*FIRST;
    let (mut second, mut revoked, mut other) = (first.clone(), first.clone(), Wraps::default());
    put_password(&mut second, 0, b"two");
    revoked.remove(*number).unwrap();
    put_password(&mut other, 1, b"two");
    let (address, was) = (|| ALICE.to_owned(), || first.clone());
    let public = PAIRS[0].0.public_der().into();
    let sealed = crate::directory::Sealed { public, wraps: first.clone() };
    let lock = Lock::Sealed(Box::new(sealed));
    vec![
        (Change::RemoveAccount { address: address() }, b"one".to_vec()),
        (Change::SetWraps { address: address(), was: was(), wraps: second }, b"one".to_vec()),
        (
            Change::SetWraps { address: address(), was: was(), wraps: revoked },
            app.text().as_bytes().to_vec(),
        ),
        (
            Change::SetLock { address: address(), was: lock, lock: new_lock(1, other) },
            b"one".to_vec(),
        ),
    ]
}

#[test]
fn what_was_taken_away_opens_no_old_row() {
    for (change, gone) in takings() {
        let folder = house();
        let before = copied(&folder);
        let said = format!("{change:?}");
        in_folder(folder.path(), |store| {
            assert!(opens(store, &gone));
            wait(store.change(change)).unwrap();
            assert!(!opens(store, &gone));
        });
        // All rows as they were: found in free pages, or in an old copy of the file.
        let stale = mixed(before.path(), folder.path());
        in_folder(stale.path(), |store| {
            assert_eq!(account(store, ALICE).unwrap().lock, Lock::Unreadable, "{said}");
            assert!(!opens(store, &gone) && !opens(store, b"one"), "{said}");
            assert!(account(store, BOB).unwrap().lock != Lock::Unreadable);
            let named: Vec<String> = store.take_damage().iter().map(ToString::to_string).collect();
            assert!(named.iter().any(|named| named.contains(ALICE)), "{named:?}");
            assert!(!named.iter().any(|named| named.contains(BOB)), "{named:?}");
        });
        // They would have opened beside the slots of that time.
        in_folder(before.path(), |store| assert!(opens(store, &gone), "{said}"));
    }
}

#[test]
fn an_old_row_in_clear_would_have_opened() {
    let folder = house();
    let alice = in_folder(folder.path(), |store| account(store, ALICE).unwrap());
    let row = crate::mailbox::row::account_in_clear(&alice);
    let (found, slotted) = crate::mailbox::row::read_account(ALICE, &row).unwrap();
    let opened = found.lock.open(found.mailbox, b"one");
    assert!(slotted.is_none() && matches!(opened, Opened::Right(Some(_))));
}

#[test]
fn a_row_shows_nothing_of_its_lock() {
    let folder = house();
    let wraps = FIRST.0.encode();
    let hash = cheap_phc();
    let bytes = std::fs::read(folder.path().join("index.redb")).unwrap();
    for secret in [&wraps[20..60], &wraps[wraps.len() - 48..], hash.as_str().as_bytes()] {
        assert!(!bytes.windows(secret.len()).any(|found| found == secret));
    }
}

/// Makes `change` while the machine fails after `operations`; says whether it got so far.
fn crash(folder: &Path, operations: usize, unsynced: Unsynced, change: Change) -> bool {
    let (store, keeper) = Embedded::open(folder, options()).unwrap();
    fault::plan(folder, operations, unsynced);
    let outcome = wait(store.change(change));
    let ended = keeper.close();
    let struck = fault::forget(folder) && outcome.is_err();
    assert!(struck || (outcome.is_ok() && ended.is_ok()));
    if struck {
        assert!(ended.is_err(), "nothing is taken any more until a restart");
    }
    struck
}

/// The folder after a start that may be cut short at each of its own writes first.
fn mended(folder: &Path, unsynced: Unsynced) -> (Embedded, Keeper) {
    let mut operations = 0;
    loop {
        fault::plan(folder, operations, unsynced);
        let opened = Embedded::open(folder, options());
        let struck = fault::forget(folder);
        match opened {
            Ok(opened) if !struck => return opened,
            // What could not be wiped is left to the next.
            Ok((_, keeper)) => {
                keeper.close().unwrap();
                operations += 1;
            }
            Err(StoreError::Io(_)) => operations += 1,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_crash_at_any_write_loses_no_account_and_leaves_no_key() {
    let house = house();
    // Writes and syncs: state and new key twice, an old one away twice, in two or three turns.
    let add = (add("carol@x.test", cheap_phc().into()), Vec::new());
    let changes = takings().into_iter().take(2).chain([add]);
    for ((change, gone), count) in changes.zip([7, 9, 6]) {
        for unsynced in [Unsynced::Torn, Unsynced::Lost] {
            let mut operations = 0;
            while crash_and_look(&house, operations, unsynced, &change, &gone) {
                operations += 1;
            }
            assert_eq!(operations, count);
        }
    }
}

/// One crash, and what is there afterwards; says whether it came to a crash.
fn crash_and_look(
    house: &TempDir,
    operations: usize,
    unsynced: Unsynced,
    change: &Change,
    gone: &[u8],
) -> bool {
    let folder = copied(house);
    let struck = crash(folder.path(), operations, unsynced, change.clone());
    let (store, keeper) = mended(folder.path(), unsynced);
    let said = format!("{unsynced:?} after {operations}: {change:?}");
    assert_eq!(store.take_damage().len(), 0, "{said}");
    let all = store.directory().accounts(None);
    assert!(all.iter().all(|account| account.lock != Lock::Unreadable), "{said}");
    assert!(account(&store, BOB).is_some(), "{said}");
    let happened = match change {
        Change::RemoveAccount { .. } => account(&store, ALICE).is_none(),
        Change::AddAccount { address, .. } => account(&store, address).is_some(),
        _ => !opens(&store, gone),
    };
    assert!(happened || struck, "{said}");
    assert!(happened || gone.is_empty() || opens(&store, gone), "{said}");
    keeper.close().unwrap();
    assert_eq!(used(folder.path()).len(), all.len(), "no key is left over: {said}");
    if happened && !gone.is_empty() {
        let stale = mixed(house.path(), folder.path());
        let alice = in_folder(stale.path(), |store| account(store, ALICE).unwrap());
        assert_eq!(alice.lock, Lock::Unreadable, "{said}");
    }
    struck
}

#[test]
fn a_torn_slot_is_named_and_costs_its_account_only() {
    let folder = house();
    // Each went to the lowest that was free.
    assert_eq!(used(folder.path()), [0, 1]);
    spoil(folder.path(), 0, &[0, 1]);
    in_folder(folder.path(), |store| {
        assert_eq!(account(store, ALICE).unwrap().lock, Lock::Unreadable);
        assert!(!opens(store, b"one"));
        assert!(account(store, BOB).unwrap().lock != Lock::Unreadable);
        let named: Vec<String> = store.take_damage().iter().map(ToString::to_string).collect();
        let said = "keys.slots, slot 0, the key of alice@x.test is damaged: its checksum is wrong";
        assert_eq!(named, [said]);
        // Nobody else gets the slot; it may be mended yet.
        wait(store.change(add("carol@x.test", cheap_phc().into()))).unwrap();
    });
    assert_eq!(std::fs::metadata(slots_file(folder.path())).unwrap().len(), 3 * 4096 + 65_536);
    let carol = copied(&folder);
    spoil(carol.path(), 0, &[0, 1]);
    in_folder(carol.path(), |store| assert!(opens(store, b"one"), "mended"));
    // Or the account begins anew, or goes.
    in_folder(folder.path(), |store| {
        let mut wraps = Wraps::default();
        put_password(&mut wraps, 1, b"two");
        let lock = new_lock(1, wraps);
        let change = Change::SetLock { address: ALICE.into(), was: Lock::Unreadable, lock };
        wait(store.change(change)).unwrap();
        assert!(opens(store, b"two"));
    });
    // What it was is not known, so a start takes it away, not the change.
    assert_eq!(used(folder.path()).len(), 4);
    in_folder(folder.path(), |store| assert_eq!(store.take_damage().len(), 0));
    assert_eq!(used(folder.path()).len(), 3);
    spoil(folder.path(), 1, &[0, 1]);
    in_folder(folder.path(), |store| {
        assert_eq!(account(store, BOB).unwrap().lock, Lock::Unreadable);
        wait(store.change(Change::RemoveAccount { address: BOB.into() })).unwrap();
    });
    in_folder(folder.path(), |store| assert!(opens(store, b"two")));
    assert_eq!(used(folder.path()).len(), 2);
}

#[test]
fn one_of_two_copies_is_enough() {
    for copy in [0, 1] {
        let folder = house();
        let before = std::fs::read(slots_file(folder.path())).unwrap();
        spoil(folder.path(), 0, &[copy]);
        in_folder(folder.path(), |store| {
            assert!(opens(store, b"one"));
            assert_eq!(store.take_damage().len(), 0);
        });
        assert!(std::fs::read(slots_file(folder.path())).unwrap() == before);
    }
}

#[test]
fn a_full_file_of_slots_refuses_and_loses_nothing() {
    let folder = house();
    let options = Options { slots_count_max: 3, ..options() };
    let (store, keeper) = Embedded::open(folder.path(), options.clone()).unwrap();
    let full = |outcome: Result<_, StoreError>| match outcome {
        Err(StoreError::Invalid(why)) => assert!(why.contains("3 keys of accounts"), "{why}"),
        other => panic!("{other:?}"),
    };
    let hash = || cheap_phc().into();
    wait(store.change(add("carol@x.test", hash()))).unwrap();
    full(wait(store.change(add("dave@x.test", hash()))));
    let (password, _) = takings().remove(1);
    full(wait(store.change(password.clone())));
    assert!(account(&store, "dave@x.test").is_none() && opens(&store, b"one"));
    wait(store.persist()).unwrap();
    wait(store.change(Change::RemoveAccount { address: "carol@x.test".into() })).unwrap();
    wait(store.change(password)).unwrap();
    assert!(opens(&store, b"two"));
    wait(store.change(add("dave@x.test", hash()))).unwrap();
    keeper.close().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options).unwrap();
    assert!(opens(&store, b"two") && account(&store, "dave@x.test").is_some());
    assert_eq!(store.take_damage().len(), 0);
    keeper.close().unwrap();
}

#[test]
fn a_file_that_cannot_grow_refuses_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    wait(store.change(Change::AddDomain { domain: "x.test".into() })).unwrap();
    let change = add(ALICE, new_lock(0, FIRST.0.clone()));
    for operations in [0, 1] {
        fault::plan(folder.path(), operations, Unsynced::Torn);
        let refused = wait(store.change(change.clone()));
        assert!(matches!(refused, Err(StoreError::Io(_))), "{refused:?}");
        assert!(fault::forget(folder.path()));
    }
    wait(store.change(change)).unwrap();
    keeper.close().unwrap();
    in_folder(folder.path(), |store| assert!(opens(store, b"one")));
    assert_eq!(used(folder.path()), [0]);
}

#[test]
fn a_file_of_slots_that_is_missing_or_of_another_index_is_not_replaced() {
    let (folder, other) = (house(), house());
    let file = slots_file(folder.path());
    let kept = std::fs::read(&file).unwrap();
    let refused = || Embedded::open(folder.path(), options()).map(|_| ()).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    assert!(refused().contains("it is missing"), "{}", refused());
    assert!(!file.exists());
    for wrong in [std::fs::read(slots_file(other.path())).unwrap(), vec![0; 100], vec![0; 20_000]] {
        std::fs::write(&file, &wrong).unwrap();
        assert!(refused().contains("does not belong to index.redb"), "{}", refused());
        assert!(std::fs::read(&file).unwrap() == wrong, "it is left as it is");
    }
    std::fs::write(&file, &kept).unwrap();
    in_folder(folder.path(), |store| assert!(opens(store, b"one")));
    // An empty one is made by who has no other.
    std::fs::write(&file, b"").unwrap();
    in_folder(folder.path(), |store| {
        assert_eq!(store.take_damage().len(), 2);
        assert_eq!(account(store, BOB).unwrap().lock, Lock::Unreadable);
        wait(store.change(add("carol@x.test", cheap_phc().into()))).unwrap();
        wait(store.change(Change::RemoveAccount { address: BOB.into() })).unwrap();
    });
    // The slots that rows refer to are not given to others.
    in_folder(folder.path(), |store| {
        assert!(account(store, "carol@x.test").unwrap().lock != Lock::Unreadable);
        assert_eq!(account(store, ALICE).unwrap().lock, Lock::Unreadable);
    });
}

#[test]
fn beside_an_older_index_no_key_is_wiped() {
    let folder = house();
    let before = copied(&folder);
    in_folder(folder.path(), |store| {
        for n in 0..3 {
            wait(store.change(add(&format!("new{n}@x.test"), cheap_phc().into()))).unwrap();
        }
    });
    let mistaken = mixed(before.path(), folder.path());
    in_folder(mistaken.path(), |store| {
        assert!(opens(store, b"one"));
        let named: Vec<String> = store.take_damage().iter().map(ToString::to_string).collect();
        assert!(named.len() == 1 && named[0].contains("not of the same moment"), "{named:?}");
    });
    let mended = mixed(folder.path(), mistaken.path());
    in_folder(mended.path(), |store| {
        assert_eq!(store.directory().accounts_count(), 5);
        assert_eq!(store.take_damage().len(), 0);
    });
    // Beside an index that lacks an account's key, neither.
    let folder = house();
    let after = copied(&folder);
    in_folder(after.path(), |store| wait(store.change(takings().remove(1).0)).map(drop).unwrap());
    let mistaken = mixed(folder.path(), after.path());
    in_folder(mistaken.path(), |store| assert!(!opens(store, b"one") && !opens(store, b"two")));
    in_folder(mixed(after.path(), mistaken.path()).path(), |store| assert!(opens(store, b"two")));
}

mod misfits;
