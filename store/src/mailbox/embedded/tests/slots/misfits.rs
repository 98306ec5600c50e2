//! Slots that are damaged, or of another moment than the index: no key goes that may be needed.

use super::*;

fn readable(store: &Embedded, address: &str) -> bool {
    account(store, address).is_some_and(|found| found.lock != Lock::Unreadable)
}

fn plain() -> NewLock {
    cheap_phc().into()
}

fn remove(store: &Embedded, address: &str) {
    wait(store.change(Change::RemoveAccount { address: address.into() })).unwrap();
}

/// What a start says.
fn said(folder: &Path) -> Vec<String> {
    in_folder(folder, |store| store.take_damage().iter().map(ToString::to_string).collect())
}

const OTHER_MOMENT: &str = "keys.slots is damaged: it is not of the same moment as index.redb; \
                            keys that no account needs are kept";
const OTHER_ONCE: &str = "keys.slots is damaged: it was beside another index.redb once; \
                          keys that no account needs are kept";

/// Takes the password `one` of alice away, and the power goes right after the commit.
fn cut_short(folder: &Path) {
    // Key and state are written and synced before it.
    let (change, _) = takings().remove(1);
    assert!(crash(folder, 3, Unsynced::Lost, change));
}

#[test]
fn a_file_that_is_cut_short_keeps_what_is_left_of_it() {
    for missing in [1, HALF_BYTES - 70, HALF_BYTES] {
        let folder = house();
        let whole = std::fs::read(slots_file(folder.path())).unwrap();
        std::fs::write(slots_file(folder.path()), &whole[..whole.len() - missing]).unwrap();
        for address in ["carol@x.test", "dave@x.test"] {
            in_folder(folder.path(), |store| {
                assert!(readable(store, ALICE) && readable(store, BOB));
                assert_eq!(store.take_damage().len(), 0);
                wait(store.change(add(address, plain()))).unwrap();
            });
        }
        let now = std::fs::read(slots_file(folder.path())).unwrap();
        assert_eq!(now.len(), whole.len(), "no block was added, {missing}");
        assert_eq!(used(folder.path()), [0, 1, 2, 3]);
    }
}

#[test]
fn a_file_that_ends_within_the_first_copies_costs_the_rest_only() {
    let folder = house();
    let whole = std::fs::read(slots_file(folder.path())).unwrap();
    let cut = &whole[..HEADER_BYTES + SLOT_BYTES];
    std::fs::write(slots_file(folder.path()), cut).unwrap();
    in_folder(folder.path(), |store| {
        assert!(readable(store, ALICE) && !readable(store, BOB));
        wait(store.change(add("carol@x.test", plain()))).unwrap();
    });
    let now = std::fs::read(slots_file(folder.path())).unwrap();
    let slots = HEADER_BYTES..cut.len();
    assert_eq!(now[slots.clone()], cut[slots]);
    in_folder(folder.path(), |store| assert!(readable(store, "carol@x.test")));
}

#[test]
fn a_removal_beside_the_wrong_index_takes_no_key_of_others() {
    let folder = house();
    let old = copied(&folder);
    in_folder(folder.path(), |store| {
        remove(store, BOB);
        for address in ["carol@x.test", "dave@x.test", "eve@x.test"] {
            wait(store.change(add(address, plain()))).unwrap();
        }
    });
    let mistaken = mixed(old.path(), folder.path());
    in_folder(mistaken.path(), |store| {
        assert!(!readable(store, BOB));
        remove(store, BOB);
    });
    in_folder(mixed(folder.path(), mistaken.path()).path(), |store| {
        assert!(readable(store, "carol@x.test"), "hers is the slot that was bob's");
    });
}

#[test]
fn an_index_that_is_older_by_any_number_of_transactions_is_told_from_a_crash() {
    for count in 1..=3 {
        let folder = house();
        let old = copied(&folder);
        let steps = [
            add("carol@x.test", plain()),
            add("dave@x.test", plain()),
            Change::RemoveAccount { address: "dave@x.test".into() },
        ];
        in_folder(folder.path(), |store| {
            for step in steps.into_iter().take(count) {
                wait(store.change(step)).unwrap();
            }
        });
        let mistaken = mixed(old.path(), folder.path());
        for _ in 0..2 {
            assert_eq!(said(mistaken.path()), [OTHER_MOMENT], "by {count}");
        }
        let mended = mixed(folder.path(), mistaken.path());
        assert!(said(mended.path()).is_empty(), "nothing has changed in between");
        in_folder(mended.path(), |store| assert!(readable(store, "carol@x.test")));
    }
}

#[test]
fn kept_keys_stay_whatever_changes_beside_the_wrong_index_until_the_operator_decides() {
    let folder = house();
    let old = copied(&folder);
    in_folder(folder.path(), |store| {
        for n in 0..3 {
            wait(store.change(add(&format!("new{n}@x.test"), plain()))).unwrap();
        }
    });
    let mistaken = mixed(old.path(), folder.path());
    for n in 0..4 {
        in_folder(mistaken.path(), |store| {
            let named: Vec<String> = store.take_damage().iter().map(ToString::to_string).collect();
            assert_eq!(named, [if n == 0 { OTHER_MOMENT } else { OTHER_ONCE }]);
            wait(store.change(add(&format!("other{n}@x.test"), plain()))).unwrap();
        });
    }
    in_folder(mixed(folder.path(), mistaken.path()).path(), |store| {
        assert!((0..3).all(|n| readable(store, &format!("new{n}@x.test"))));
    });
    assert_eq!(used(mistaken.path()).len(), 9);
    let told = mistaken.path().join("keys.slots.forget");
    std::fs::write(&told, b"").unwrap();
    assert!(said(mistaken.path()).is_empty() && !told.exists(), "once");
    assert_eq!(used(mistaken.path()).len(), 6);
    in_folder(mistaken.path(), |store| assert!(opens(store, b"one") && readable(store, BOB)));
}

#[test]
fn a_torn_slot_keeps_no_old_password() {
    let folder = house();
    let before = copied(&folder);
    cut_short(folder.path());
    spoil(folder.path(), 1, &[0, 1]);
    in_folder(folder.path(), |store| {
        assert!(opens(store, b"two") && !opens(store, b"one") && !readable(store, BOB));
    });
    let stale = mixed(before.path(), folder.path());
    in_folder(stale.path(), |store| assert!(!opens(store, b"one")));
}

#[test]
fn as_long_as_an_account_lacks_its_key_a_start_says_what_it_keeps() {
    let folder = house();
    cut_short(folder.path());
    let mut bytes = std::fs::read(slots_file(folder.path())).unwrap();
    for copy in [0, 1] {
        let at = HEADER_BYTES + copy * HALF_BYTES + SLOT_BYTES;
        bytes[at..at + SLOT_BYTES].fill(0);
    }
    std::fs::write(slots_file(folder.path()), bytes).unwrap();
    for _ in 0..2 {
        let named = said(folder.path());
        assert!(named.len() == 2 && named[1].contains("it lacks keys"), "{named:?}");
    }
    in_folder(folder.path(), |store| remove(store, BOB));
    assert!(said(folder.path()).is_empty());
    assert_eq!(used(folder.path()).len(), 1);
}

#[test]
fn damage_of_the_first_pages_is_mended_from_what_is_left() {
    let folder = house();
    let whole = std::fs::read(slots_file(folder.path())).unwrap();
    // Magic, name, unused bytes; either state, alone or with its page.
    for damaged in [0..1, 9..10, 0..4096, 4096..4097, 4096..8192, 8200..8201, 8192..12_288] {
        let mut bytes = whole.clone();
        bytes[damaged.clone()].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(slots_file(folder.path()), bytes).unwrap();
        assert!(said(folder.path()).is_empty(), "{damaged:?}");
        in_folder(folder.path(), |store| assert!(opens(store, b"one") && readable(store, BOB)));
        let now = std::fs::read(slots_file(folder.path())).unwrap();
        let parts = [0..24, 4096..4160, 8192..8256, HEADER_BYTES..whole.len()];
        assert!(parts.into_iter().all(|part| now[part.clone()] == whole[part]), "{damaged:?}");
    }
    let mut bytes = whole.clone();
    bytes[3000] ^= 1;
    std::fs::write(slots_file(folder.path()), bytes).unwrap();
    assert!(said(folder.path()).is_empty(), "nobody needs it");
    // With both states gone nothing says of which moment it is.
    let mut bytes = whole;
    bytes[4096] ^= 1;
    bytes[8192] ^= 1;
    std::fs::write(slots_file(folder.path()), bytes).unwrap();
    assert_eq!(said(folder.path()), [OTHER_MOMENT]);
}

#[test]
fn an_old_key_that_cannot_be_written_over_does_not_stop_a_start() {
    let folder = house();
    cut_short(folder.path());
    // The state and the new key are mended before, each with a sync.
    fault::plan(folder.path(), 4, Unsynced::Lost);
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    assert!(fault::forget(folder.path()));
    let named: Vec<String> = store.take_damage().iter().map(ToString::to_string).collect();
    assert!(named.len() == 1 && named[0].contains("cannot be written over"), "{named:?}");
    assert!(opens(&store, b"two") && readable(&store, BOB));
    keeper.close().unwrap();
    assert!(said(folder.path()).is_empty());
    assert_eq!(used(folder.path()).len(), 2);
}
