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
    assert_eq!(now[..cut.len()], *cut);
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
