//! Damaged rows: each costs its own message, is named once, and no mail goes because of it.

use super::*;
use crate::mailbox::embedded::work::UNACCOUNTED;
use crate::seal::{RsaBits, Sealer, UserKeys, Window, WindowRecord};
use crate::spool::{Recipient, RecipientKey};

const A: MailboxId = MailboxId(1);
const B: MailboxId = MailboxId(2);
const SHORT: &[u8] = b"short";

/// Three messages for A and B, merged; the index is closed.
fn filled(folder: &TempDir) -> (ShardLog, Vec<Committed>) {
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mut log = ShardLog::new(0);
    let messages: Vec<Committed> = (0..3).map(|n| log.message(&[A, B], 1000, n)).collect();
    messages.iter().for_each(|message| deliver(&store, message));
    keeper.close().unwrap();
    (log, messages)
}

fn spoil(folder: &TempDir, spoil: impl FnOnce(&mut tables::Writing<'_>)) {
    let (tables, _) = Tables::open(folder.path(), options().wanted()).unwrap();
    let transaction = tables.begin().unwrap();
    let mut writing = tables.write(&transaction).unwrap();
    spoil(&mut writing);
    drop(writing);
    transaction.commit().unwrap();
}

/// The places that were named since the last call.
fn named(store: &Embedded) -> Vec<String> {
    let place = |damage: StoreError| match damage {
        StoreError::Corrupt { place, .. } => place,
        other => panic!("{other}"),
    };
    store.take_damage().into_iter().map(place).collect()
}

fn delete_all(store: &Embedded, mailbox: MailboxId) {
    let maildrop = wait(store.open(mailbox)).unwrap();
    let uids = maildrop.messages().iter().map(|message| message.uid).collect();
    wait(store.close(maildrop, uids)).unwrap();
}

fn live_bytes(store: &Embedded) -> u64 {
    wait(store.live_bytes(ShardId(0))).unwrap().values().sum()
}

#[test]
fn a_damaged_entry_costs_one_message_not_the_mailbox() {
    let folder = TempDir::new().unwrap();
    let (mut log, messages) = filled(&folder);
    spoil(&folder, |writing| writing.spoil_entry(A, 2, SHORT));
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    assert_eq!(ids(&store, 1), [messages[0].id, messages[2].id]);
    assert_eq!(ids(&store, 2).len(), 3, "another mailbox has it");
    assert_eq!(wait(store.usage(A)).unwrap().messages_count, 2);
    assert_eq!(named(&store), ["index.redb, table entries, key (1, 2)"]);
    // It is named once, however often it is met, and new mail gets a uid behind it.
    let late = log.message(&[A], 1000, 0);
    deliver(&store, &late);
    wait(store.persist()).unwrap();
    assert_eq!(ids(&store, 1), [messages[0].id, messages[2].id, late.id]);
    delete_all(&store, A);
    delete_all(&store, B);
    assert_eq!(named(&store), [] as [String; 0]);
    assert_eq!(store.counters().damaged_count, 1);
    // Nothing tells whose the damaged row was, so its message stays: nobody's deletion frees it.
    assert!(wait(store.locate(messages[1].id)).is_ok());
    assert_eq!(live_bytes(&store), 1000 + CHUNK_BYTES);
    keeper.close().unwrap();
}

#[test]
fn a_mailbox_of_damaged_rows_is_listed_to_its_end() {
    let folder = TempDir::new().unwrap();
    let (_, messages) = filled(&folder);
    // More than one slice of a list, and more than are told apart.
    spoil(&folder, |writing| {
        (4..20_000).for_each(|uid| writing.spoil_entry(A, uid, SHORT));
        writing.put_entry(A, 20_000, messages[0].id, 50, None).unwrap();
        writing.put_entry(A, u32::MAX, messages[1].id, 50, None).unwrap();
    });
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let all: Vec<QueueId> = [0, 1, 2, 0, 1].map(|n: usize| messages[n].id).to_vec();
    assert_eq!(ids(&store, 1), all);
    assert_eq!(store.counters().damaged_count, 1000);
    keeper.close().unwrap();
}

#[test]
fn a_damaged_floor_stops_no_delivery() {
    let folder = TempDir::new().unwrap();
    let (mut log, messages) = filled(&folder);
    spoil(&folder, |writing| writing.spoil_entry(A, 0, &[0xff; 10]));
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let late = log.message(&[A], 1000, 0);
    deliver(&store, &late);
    wait(store.persist()).unwrap();
    let maildrop = wait(store.open(A)).unwrap();
    assert_eq!(maildrop.messages().last().map(|m| (m.id, m.uid)), Some((late.id, Uid(4))));
    assert_eq!(maildrop.messages().len(), messages.len() + 1);
    drop(maildrop);
    assert_eq!(named(&store), ["index.redb, table entries, key (1, 0)"]);
    keeper.close().unwrap();
}

#[test]
fn a_damaged_body_costs_one_message_and_its_segment_stays() {
    for row in [Some(SHORT), Some(&b""[..]), None] {
        let folder = TempDir::new().unwrap();
        let (_, messages) = filled(&folder);
        let (first, second) = (&messages[0], &messages[1]);
        spoil(&folder, |writing| writing.spoil_body(second.id, row));
        let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
        assert_eq!(ids(&store, 1).len(), 3, "the entry is sound");
        assert!(wait(store.locate(first.id)).is_ok());
        let asked = wait(store.locate(second.id));
        let live = wait(store.live(ShardId(0), &[(second.id, second.lsn)]));
        if row.is_some() {
            assert!(matches!(asked, Err(StoreError::Corrupt { .. })));
            assert!(matches!(live, Err(StoreError::Corrupt { .. })), "compaction must stop");
        } else {
            assert!(matches!(asked, Err(StoreError::NotFound(_))));
        }
        // A move passes it over, and so does everybody who deletes it.
        let to = Lsn(9 * SEGMENT_BYTES + 4096);
        let moves = [(second.id, second.lsn, to), (first.id, first.lsn, to)];
        wait(store.moved(ShardId(0), &moves)).unwrap();
        assert_eq!(wait(store.locate(first.id)).unwrap().lsn, to);
        delete_all(&store, A);
        delete_all(&store, B);
        assert!(ids(&store, 1).is_empty() && ids(&store, 2).is_empty());
        assert_eq!(live_bytes(&store), 1000 + CHUNK_BYTES, "what it takes is not given back");
        let place = format!("index.redb, table bodies, key {:?}", second.id);
        assert_eq!(named(&store), [place]);
        keeper.close().unwrap();
    }
}

#[test]
fn a_segment_whose_account_is_wrong_is_kept() {
    let folder = TempDir::new().unwrap();
    let (mut log, messages) = filled(&folder);
    spoil(&folder, |writing| writing.put_live(ShardId(0), 0, 1500).unwrap());
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    delete_all(&store, A);
    delete_all(&store, B);
    let live = |store: &Embedded| wait(store.live_bytes(ShardId(0))).unwrap().get(&0).copied();
    assert_eq!(live(&store), Some(UNACCOUNTED), "not 0, which would free it");
    // It stays so, whatever comes and goes.
    deliver(&store, &log.message(&[A], 1000, 0));
    wait(store.persist()).unwrap();
    delete_all(&store, A);
    keeper.close().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    deliver(&store, &log.message(&[A], 1000, 0));
    assert_eq!(live(&store), Some(UNACCOUNTED));
    assert!(messages.iter().all(|message| message.lsn.0 < SEGMENT_BYTES));
    keeper.close().unwrap();
}

#[test]
fn damage_that_can_be_read_touches_no_other_message() {
    use crate::mailbox::row;
    let folder = TempDir::new().unwrap();
    let (_, messages) = filled(&folder);
    let other = messages.iter().find(|message| message.id != messages[0].id).unwrap();
    // An entry that names another message, and a count of live bytes that is too low.
    let mut entry = Vec::new();
    row::entry(other.id, messages[0].octets, None, &mut entry);
    row::seal(&row::entry_key((A.0, 2)), &mut entry);
    spoil(&folder, |writing| {
        writing.spoil_entry(A, 1, &entry);
        writing.spoil_live((0, 0), 1);
    });
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    assert!(!ids(&store, 1).contains(&messages[0].id), "what it was is not known any more");
    delete_all(&store, A);
    delete_all(&store, B);
    let live = wait(store.live_bytes(ShardId(0))).unwrap();
    assert_eq!(live.get(&0), Some(&UNACCOUNTED), "nothing of it is given back");
    let mut named = named(&store);
    named.sort();
    assert_eq!(
        named,
        ["index.redb, table entries, key (1, 1)", "index.redb, table live, key (0, 0)"]
    );
    keeper.close().unwrap();
}

#[test]
fn a_damaged_window_costs_its_own_messages_until_another_brings_it_again() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let mut log = ShardLog::new(0);
    let mut seed = 0_u8;
    let mut random = |bytes: &mut [u8]| {
        bytes.iter_mut().for_each(|byte| {
            seed = seed.wrapping_mul(5).wrapping_add(7);
            *byte = seed;
        });
    };
    let (_, own) = UserKeys::generate(A, RsaBits::B2048, &mut random).unwrap();
    let windows = [(); 2].map(|()| Window::begin_under(A, &own, &mut random).unwrap());
    let mut sealed = |log: &mut ShardLog, (window, record): &(Window, WindowRecord)| {
        let mut message = log.message(&[A], 1000, 0);
        let sealer = Sealer::begin(message.id, &mut random);
        let wrap = window.wrap(sealer.content_key(), message.id).unwrap();
        let key = Some(RecipientKey { wrap, window: Arc::new(record.clone()) });
        message.recipients = vec![Recipient { mailbox: A, key }];
        message
    };
    let messages = [0, 0, 1].map(|index: usize| sealed(&mut log, &windows[index]));
    messages.iter().for_each(|message| deliver(&store, message));
    keeper.close().unwrap();
    let name = windows[0].1.id();
    spoil(&folder, |writing| {
        writing.spoil_window((A.0, name.0), SHORT);
        writing.spoil_keys(A, SHORT);
    });
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    let maildrop = wait(store.open(A)).unwrap();
    let found: Vec<_> =
        maildrop.messages().iter().map(|message| wait(store.find(A, *message))).collect();
    drop(maildrop);
    for refused in &found[..2] {
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    }
    assert_eq!(found[2].as_ref().unwrap().key, messages[2].recipients[0].key);
    assert!(matches!(wait(store.user_keys(A)), Err(StoreError::Corrupt { .. })));
    let mut places = named(&store);
    places.sort();
    assert_eq!(
        places,
        [
            format!("index.redb, table keys, key {A:?}"),
            format!("index.redb, table windows, key ({}, {})", A.0, name.0),
        ]
    );
    // What the owner's visit would write passes it over; the next message brings it again.
    wait(store.rewrap(A, vec![windows[0].1.clone()])).unwrap();
    deliver(&store, &sealed(&mut log, &windows[0]));
    wait(store.persist()).unwrap();
    let maildrop = wait(store.open(A)).unwrap();
    for message in maildrop.messages() {
        assert!(wait(store.find(A, *message)).unwrap().key.is_some());
    }
    drop(maildrop);
    delete_all(&store, A);
    assert_eq!(live_bytes(&store), 0);
    assert_eq!(named(&store), [] as [String; 0]);
    keeper.close().unwrap();
}

#[test]
fn a_removed_account_with_damaged_rows_is_purged() {
    let folder = TempDir::new().unwrap();
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    wait(store.change(Change::AddDomain { domain: "x.test".into() })).unwrap();
    let add = Change::AddAccount {
        address: "a@x.test".into(),
        name: String::new(),
        lock: cheap_phc().into(),
        created: fsmtp_rt::UnixTime::from_ms(0),
    };
    assert!(wait(store.change(add)).unwrap().account("a@x.test").is_some());
    keeper.close().unwrap();
    filled(&folder);
    spoil(&folder, |writing| {
        writing.spoil_entry(A, 0, &[]);
        (4..5000).for_each(|uid| writing.spoil_entry(A, uid, SHORT));
    });
    let (store, keeper) = Embedded::open(folder.path(), options()).unwrap();
    wait(store.change(Change::RemoveAccount { address: "a@x.test".into() })).unwrap();
    let purged = || {
        wait(store.persist()).unwrap();
        wait(store.usage(A)).unwrap().messages_count == 0
    };
    assert!((0..1000).any(|_| purged()), "the purge ends");
    assert_eq!(ids(&store, 2).len(), 3);
    keeper.close().unwrap();
}

#[test]
fn damage_in_the_directory_refuses_to_open_in_one_line() {
    let folder = TempDir::new().unwrap();
    filled(&folder);
    spoil(&folder, |writing| writing.spoil_account("a@x.test", b"\xff"));
    let refused = Embedded::open(folder.path(), options()).map(|_| ()).unwrap_err();
    let said = "index.redb, table accounts, key \"a@x.test\" is damaged: it ends early";
    assert_eq!(refused.to_string(), said);
}
