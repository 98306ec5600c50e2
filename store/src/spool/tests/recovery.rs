//! Each state of the table in the spool's header, made by hand.

use super::*;
use crate::format::{BATCH_RECORD_BYTES, BatchHead, Kind, RECORD_HEAD_BYTES, RecordHead};
use crate::testing::Fate;

/// A plate with messages of `bytes` bytes each, one batch a message.
fn filled(count: u64, bytes: usize) -> Rc<Plate> {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let spool = life.open();
    for seed in 0..count {
        life.run(put(&spool, seed, bytes)).unwrap();
    }
    life.machine.crash();
    plate
}

fn open(plate: &Rc<Plate>, applied: Lsn) -> (Life, Result<Opened, StoreError>) {
    let life = Life::new(2, plate);
    let opened = life.try_open(small_config(), applied);
    life.settle();
    (life, opened)
}

fn assert_corrupt(opened: Result<Opened, StoreError>, place_begins: &str) {
    match opened {
        Err(StoreError::Corrupt { place, .. }) => {
            assert!(place.starts_with(place_begins), "{place}, not {place_begins}");
        }
        other => panic!("corrupt expected at {place_begins}, got {other:?}"),
    }
}

#[test]
fn replay_begins_at_the_mark() {
    let plate = filled(30, 1000);
    let (life, opened) = open(&plate, Lsn(0));
    let (_, recovery) = opened.unwrap();
    assert_eq!((recovery.replayed_count, recovery.batches_count, recovery.cut), (30, 30, None));
    let messages = life.sink.taken.borrow().clone();
    for (seed, message) in messages.iter().enumerate() {
        assert_eq!(life.read(message).unwrap(), expected(seed as u64, 1000));
    }
    assert!(messages.iter().any(|message| message.lsn.0 > small_config().segment_bytes));
    for (index, message) in messages.iter().enumerate() {
        let (life, opened) = open(&plate, message.end);
        assert_eq!(opened.unwrap().1.replayed_count, 29 - index as u64);
        assert_eq!(life.sink.ids().first(), messages.get(index + 1).map(|next| &next.id));
    }
}

#[test]
fn replay_waits_for_a_sink_that_is_behind() {
    let plate = filled(3, 1000);
    let life = Life::new(2, &plate);
    life.sink.full.set(true);
    let sink = life.sink.clone();
    let machine = life.machine.clone();
    life.machine.spawn(Class::Background, async move {
        machine.sleep_until(fsmtp_rt::Instant::from_ns(50_000_000)).await;
        sink.full.set(false);
    });
    assert_eq!(life.try_open(small_config(), Lsn(0)).unwrap().1.replayed_count, 3);
    assert!(life.machine.now().ns() >= 50_000_000);
}

#[test]
fn the_last_batch_is_written_again_before_its_messages_are_replayed() {
    let plate = filled(3, 1000);
    let before = plate.contents(&segment(0));
    plate.fail_after(0, Fate::Lost);
    let (life, opened) = open(&plate, Lsn(0));
    assert!(matches!(opened, Err(StoreError::Io(_))));
    assert_eq!(life.sink.ids().len(), 2, "the third may stand in a volatile cache only");
    let (life, opened) = open(&plate, Lsn(0));
    assert_eq!((opened.unwrap().1.replayed_count, life.sink.ids().len()), (3, 3));
    assert!(plate.contents(&segment(0)) == before);
}

#[test]
fn every_torn_tail_is_cut_and_the_log_goes_on() {
    // The second batch has three pages; every subset of them reaches the disk.
    for bits in 0..8 {
        let plate = Plate::new();
        let life = Life::new(1, &plate);
        let spool = life.open();
        life.run(put(&spool, 1, 100)).unwrap();
        plate.halt_after(0, Fate::Pages(bits));
        let halted = life.machine.run(store(&spool, b"", &body(2, 9000), 4096 * 4));
        assert!(halted.is_none());
        life.machine.crash();
        plate.lose_power(&Chance::new(1));

        let (life, opened) = open(&plate, Lsn(0));
        let (spool, recovery) = opened.unwrap();
        let whole = bits == 7;
        assert_eq!(recovery.replayed_count, if whole { 2 } else { 1 }, "pages {bits:b}");
        assert_eq!(recovery.cut.is_some(), !whole && bits & 1 == 1, "pages {bits:b}");
        life.run(put(&spool, 3, 100)).unwrap();
        life.machine.crash();

        let (life, opened) = open(&plate, Lsn(0));
        let (_, recovery) = opened.unwrap();
        assert_eq!((recovery.replayed_count, recovery.cut), (if whole { 3 } else { 2 }, None));
        let last = life.sink.taken.borrow().last().cloned().unwrap();
        assert_eq!(life.read(&last).unwrap(), expected(3, 100));
    }
}

#[test]
fn records_of_a_torn_batch_never_come_back_behind_a_later_one() {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let spool = life.open();
    // Two records in one batch; the second begins exactly at the second page.
    let first_bytes = PAGE_BYTES
        - BATCH_RECORD_BYTES
        - RECORD_HEAD_BYTES
        - crate::format::MESSAGE_FIXED_BYTES
        - envelope(1).encoded_bytes().unwrap();
    let pair = |spool: &Spool<Machine>, seed| {
        let spool = spool.clone();
        async move {
            // Both in one poll, so in one batch and in this order.
            let texts = [body(seed, first_bytes), body(seed + 1, 500)];
            let mut one = Box::pin(store(&spool, b"", &texts[0], 1 << 20));
            let mut two = Box::pin(store(&spool, b"", &texts[1], 1 << 20));
            core::future::poll_fn(|cx| {
                let one = one.as_mut().poll(cx);
                assert!(two.as_mut().poll(cx).is_pending() && one.is_pending());
                core::task::Poll::<()>::Pending
            })
            .await;
        }
    };
    plate.halt_after(0, Fate::Pages(0b10));
    assert!(life.machine.run(pair(&spool, 1)).is_none());
    life.machine.crash();
    plate.lose_power(&Chance::new(1));

    let (life, opened) = open(&plate, Lsn(0));
    let (spool, recovery) = opened.unwrap();
    assert_eq!(recovery.replayed_count, 0);
    let tail = usize::try_from(recovery.tail.0).unwrap();
    let left = plate.contents(&segment(0))[tail..].iter().all(|&byte| byte == 0);
    assert!(left, "what the torn batch left is gone");
    // A batch of the same shape is torn the other way round: only its first page lands.
    plate.halt_after(0, Fate::Pages(0b01));
    assert!(life.machine.run(pair(&spool, 3)).is_none());
    life.machine.crash();
    plate.lose_power(&Chance::new(1));
    let (life, opened) = open(&plate, Lsn(0));
    assert_eq!((opened.unwrap().1.replayed_count, life.sink.ids().len()), (0, 0));
}

#[test]
fn damage_in_the_middle_stops_and_names_the_place() {
    let plate = filled(30, 1000);
    let segment_bytes = small_config().segment_bytes as usize;
    // In the first segment, one batch a page: damage each but the very last batch of the log.
    for page in 1..16 {
        let at = page * PAGE_BYTES + 200;
        plate.change(&segment(0), |bytes| bytes[at] ^= 1);
        let (_, opened) = open(&plate, Lsn(0));
        let place = format!("{} at byte {}", segment(0), page * PAGE_BYTES);
        assert_corrupt(opened, &place);
        plate.change(&segment(0), |bytes| bytes[at] ^= 1);
    }
    let (_, opened) = open(&plate, Lsn(0));
    let tail = opened.unwrap().1.tail;
    assert_eq!(tail.0 as usize, segment_bytes + 16 * PAGE_BYTES);
    // In the last segment too: what stands behind it tells.
    for page in 1..15 {
        let at = page * PAGE_BYTES + 200;
        plate.change(&segment(1), |bytes| bytes[at] ^= 1);
        let place = format!("{} at byte {}", segment(1), page * PAGE_BYTES);
        assert_corrupt(open(&plate, Lsn(0)).1, &place);
        plate.change(&segment(1), |bytes| bytes[at] ^= 1);
    }
}

#[test]
fn damage_at_the_very_end_is_told_by_the_mark() {
    let plate = filled(3, 1000);
    let (life, opened) = open(&plate, Lsn(0));
    drop(opened);
    let last = life.sink.message(2);
    plate.change(&segment(0), |bytes| bytes[3 * PAGE_BYTES + 200] ^= 1);
    let (_, opened) = open(&plate, last.end);
    assert_corrupt(opened, &format!("{} at byte {}", segment(0), 3 * PAGE_BYTES));
    let (_, opened) = open(&plate, last.lsn);
    assert_corrupt(opened, &segment(0));
    let (_, opened) = open(&plate, Lsn(0));
    assert_eq!(opened.unwrap().1.replayed_count, 2, "nothing says that it was durable");
}

#[test]
fn missing_segments_are_noticed() {
    let plate = filled(60, 1000);
    let (life, opened) = open(&plate, Lsn(0));
    drop(opened);
    let names = plate.names();
    assert!(names.len() >= 5, "{names:?}");
    let mark = life.sink.message(40).end;
    let mark_segment = mark.0 / small_config().segment_bytes;
    let kept = plate.contents(&segment(mark_segment));
    plate.take_away(&segment(mark_segment));
    let (_, opened) = open(&plate, mark);
    assert_corrupt(opened, &segment(mark_segment));
    plate.put(&segment(mark_segment), kept);

    // Below the mark segments may be gone, as after compaction; above it none may.
    plate.take_away(&segment(0));
    assert_eq!(open(&plate, mark).1.unwrap().1.replayed_count, 19);
    plate.take_away(&segment(mark_segment + 1));
    assert_corrupt(open(&plate, mark).1, &segment(mark_segment + 1));
    for name in plate.names() {
        plate.take_away(&name);
    }
    assert_corrupt(open(&plate, mark).1, &segment(mark_segment));
}

#[test]
fn a_later_version_is_refused_by_name_and_nothing_is_touched() {
    let plate = filled(3, 1000);
    plate.put("003.spare", vec![9; 100]);
    plate.change(&segment(0), |bytes| bytes[8] = 3);
    let changes = plate.changes_count();
    match open(&plate, Lsn(0)).1 {
        Err(StoreError::Version { object, found: 3, known: 2 }) => assert_eq!(object, segment(0)),
        other => panic!("{other:?}"),
    }
    assert_eq!(plate.changes_count(), changes);
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let plate = filled(3, 1000);
    let original = plate.contents(&segment(0));
    plate.change(&segment(0), |bytes| bytes[16] ^= 1);
    assert_corrupt(open(&plate, Lsn(0)).1, &segment(0));
    plate.put(&segment(0), original[..PAGE_BYTES * 4].to_vec());
    assert_corrupt(open(&plate, Lsn(0)).1, &segment(0));
    plate.put(&segment(0), original.clone());
    plate.put(&segment(7), original.clone());
    assert_corrupt(open(&plate, Lsn(0)).1, &segment(7));
    plate.take_away(&segment(7));
    let life = Life::new(1, &plate);
    let longer = SpoolConfig { segment_bytes: 32 * PAGE, ..small_config() };
    assert!(matches!(life.try_open(longer, Lsn(0)), Err(StoreError::Invalid(_))));
    assert_eq!(plate.contents(&segment(0)), original);
}

#[test]
fn other_shards_and_other_files_are_left_alone() {
    let plate = filled(3, 1000);
    for name in ["004-0000000000.seg", "003-x.seg", "003-1.seg", "notes.txt", "004.spare"] {
        plate.put(name, vec![1, 2, 3]);
    }
    let (_, opened) = open(&plate, Lsn(0));
    assert_eq!(opened.unwrap().1.replayed_count, 3);
    assert_eq!(plate.contents("003-1.seg"), [1, 2, 3]);
}

#[test]
fn spares_are_reused_when_whole_and_removed_when_not() {
    let plate = filled(1, 100);
    plate.take_away(&segment(1));
    plate.put("003.spare", vec![9; 100]);
    plate.put("003.fresh", vec![9; small_config().segment_bytes as usize]);
    let life = Life::new(2, &plate);
    let (spool, _) = life.try_open(small_config(), Lsn(0)).unwrap();
    assert_eq!(plate.names(), [segment(0)]);
    life.machine.crash();
    drop(spool);

    let plate = filled(1, 100);
    plate.take_away(&segment(1));
    plate.put("003.spare", vec![9; small_config().segment_bytes as usize]);
    let (life, opened) = open(&plate, Lsn(0));
    let (spool, _) = opened.unwrap();
    for seed in 0..20 {
        life.run(put(&spool, seed, 1000)).unwrap();
    }
    assert_eq!(plate.contents(&segment(1)).last(), Some(&9), "the spare's bytes are still there");
    life.machine.crash();
    assert_eq!(open(&plate, Lsn(0)).1.unwrap().1.replayed_count, 21);
}

#[test]
fn empty_segments_behind_the_end_are_kept_once_and_removed_else() {
    let plate = filled(1, 100);
    assert_eq!(plate.names(), [segment(0), segment(1)], "the next one is prepared ahead");
    let header = |number| SegmentHeader {
        shard: u32::from(SHARD.0),
        number,
        segment_bytes: small_config().segment_bytes,
    };
    let mut bytes = vec![0; small_config().segment_bytes as usize];
    let encoded = header(2).encode();
    bytes[..encoded.len()].copy_from_slice(&encoded);
    // What the torn first batch of segment 1 left.
    plate.change(&segment(1), |bytes| bytes[2 * PAGE_BYTES..3 * PAGE_BYTES].fill(7));
    plate.put(&segment(2), bytes);
    let (life, opened) = open(&plate, Lsn(0));
    let (spool, _) = opened.unwrap();
    assert_eq!(plate.names(), [segment(0), segment(1)]);
    assert!(plate.contents(&segment(1))[PAGE_BYTES..].iter().all(|&byte| byte == 0));
    for seed in 0..30 {
        life.run(put(&spool, seed, 1000)).unwrap();
    }
    life.machine.crash();
    assert_eq!(open(&plate, Lsn(0)).1.unwrap().1.replayed_count, 31);
}

#[test]
fn a_batch_that_does_not_follow_is_damage() {
    let plate = filled(3, 1000);
    // A whole batch behind the end that claims to follow on something else.
    let lsn = Lsn(4 * PAGE);
    let head = BatchHead {
        durable: Lsn(9 * PAGE),
        bytes: PAGE_BYTES,
        records_count: 0,
        last_id: QueueId(1),
    };
    plate.change(&segment(0), |bytes| {
        let at = 4 * PAGE_BYTES;
        bytes[at..at + BATCH_RECORD_BYTES].copy_from_slice(&head.encode(lsn));
    });
    assert_corrupt(open(&plate, Lsn(0)).1, &format!("{} at byte {}", segment(0), 4 * PAGE_BYTES));
}

#[test]
fn a_message_record_with_a_damaged_envelope_is_named() {
    let plate = filled(3, 1000);
    // Patch the envelope's version and make the checksum right: a writer's bug, not the disk's.
    plate.change(&segment(0), |bytes| {
        let at = PAGE_BYTES + BATCH_RECORD_BYTES;
        let head = RecordHead::decode(&bytes[at..]).unwrap();
        assert_eq!(head.kind, Kind::Message);
        bytes[at + RECORD_HEAD_BYTES + crate::format::MESSAGE_FIXED_BYTES] = 9;
        crate::format::seal_record(&mut bytes[at..at + head.record_bytes()]);
    });
    match open(&plate, Lsn(0)).1 {
        Err(StoreError::Version { found: 9, known: 1, object }) => {
            assert!(object.starts_with(&segment(0)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn readers_tell_damage_from_a_message_that_moved() {
    let plate = filled(3, 10_000);
    let (life, opened) = open(&plate, Lsn(0));
    drop(opened);
    let message = life.sink.message(0);
    let chunk_at = message.chunks[1].0 as usize + RECORD_HEAD_BYTES + 5;
    plate.change(&segment(0), |bytes| bytes[chunk_at] ^= 1);
    assert!(matches!(life.read(&message), Err(StoreError::Corrupt { .. })));
    plate.change(&segment(0), |bytes| bytes[chunk_at] ^= 1);
    assert_eq!(life.read(&message).unwrap(), expected(0, 10_000));

    // Another message's place, a place inside a record, the header's place.
    let other = Committed { id: QueueId(message.id.0 + 1), ..message.clone() };
    assert!(matches!(life.read(&other), Err(StoreError::Corrupt { .. })));
    let inside = Committed { lsn: Lsn(message.lsn.0 + 8), ..message.clone() };
    assert!(matches!(life.read(&inside), Err(StoreError::Corrupt { .. })));
    let header = Committed { lsn: Lsn(8), ..message.clone() };
    assert!(matches!(life.read(&header), Err(StoreError::Corrupt { .. })));
    let fewer = Committed { chunks: message.chunks[1..].to_vec(), ..message.clone() };
    assert!(matches!(life.read(&fewer), Err(StoreError::Corrupt { .. })));

    let away = plate.contents(&segment(0));
    plate.take_away(&segment(0));
    assert!(matches!(life.read(&message), Err(StoreError::Moved)));
    plate.put(&segment(0), away);
    let mut reader = Reader::new(life.disk.clone(), small_config().segment_bytes);
    reader.open(BodyRef::from(&message));
    let first = life.run(reader.next()).unwrap().unwrap();
    // The file becomes the spare, and then another segment, while its handle is open.
    plate.change(&segment(0), |bytes| bytes[PAGE_BYTES..].fill(0));
    let recycled = plate.contents(&segment(0));
    plate.take_away(&segment(0));
    assert!(matches!(life.run(reader.next()), Err(StoreError::Moved)));
    assert!(reader.relocate((&other).into()).is_err());
    assert!(reader.relocate((&message).into()).is_ok());
    assert!(matches!(life.run(reader.next()), Err(StoreError::Moved)));
    drop((first, recycled));
}
