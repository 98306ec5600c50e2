//! Messages in, messages out, and every limit on the way.

use core::time::Duration;

use fsmtp_rt::{Disk, Instant};

use super::*;
use crate::format::RECORD_HEAD_BYTES;
use crate::testing::Fate;

#[test]
fn a_message_comes_back_byte_for_byte_and_the_sink_hears_of_it_first() {
    let life = Life::new(1, &Plate::new());
    let spool = life.open();
    let sizes = [0, 1, 100, 4095, 4096, 4097, 8192, 9000, 40_000];
    for (index, bytes) in sizes.into_iter().enumerate() {
        let stored = life.run(put(&spool, index as u64, bytes)).unwrap();
        let message = life.sink.message(index);
        assert_eq!(
            (message.id, message.lsn, message.octets),
            (stored.id, stored.lsn, stored.octets)
        );
        assert_eq!(life.envelope(&message, small_config().segment_bytes), envelope(1));
        assert_eq!(life.read(&message).unwrap(), expected(index as u64, bytes), "{bytes} bytes");
        assert_eq!(message.chunks.len(), bytes.saturating_sub(1) / CHUNK_BYTES);
    }
}

#[test]
fn one_sync_serves_all_who_wait_and_bytes_are_copied_twice() {
    let plate = Plate::new();
    plate.set_delay(Duration::from_micros(200));
    let life = Life::new(2, &plate);
    let config = SpoolConfig {
        batch_bytes_max: 64 * PAGE_BYTES,
        segment_bytes: 128 * PAGE,
        ..small_config()
    };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    let done = Rc::new(Cell::new(0));
    for index in 0..100 {
        let (spool, done) = (spool.clone(), done.clone());
        life.machine.spawn(Class::Session, async move {
            store(&spool, b"", &body(index, 1000), 1000).await.unwrap();
            done.set(done.get() + 1);
        });
    }
    life.run(async {
        while done.get() < 100 {
            life.machine.sleep_until(life.machine.now() + Duration::from_micros(50)).await;
        }
    });
    let counters = spool.counters();
    assert_eq!(counters.messages_count, 100);
    assert!(counters.batches_count <= 3, "{counters:?}");
    assert_eq!(counters.copies_count, 2 * 100);
    assert!(counters.copied_bytes < 100 * (2 * 1000 + 200), "{counters:?}");
    assert_eq!(life.sink.ids().len(), 100);
    assert!(life.sink.taken.borrow().is_sorted_by_key(|message| message.lsn));
}

#[test]
fn many_streams_share_the_log_and_each_comes_back_whole() {
    for seed in 0..20 {
        let plate = Plate::new();
        plate.set_delay(Duration::from_micros(300));
        let life = Life::new(seed, &plate);
        let spool = life.open();
        let done = Rc::new(Cell::new(0));
        for index in 0..12u64 {
            let (spool, done) = (spool.clone(), done.clone());
            life.machine.spawn(Class::Session, async move {
                put(&spool, index, 5000 * index as usize).await.unwrap();
                done.set(done.get() + 1);
            });
        }
        let waits = life.run(async {
            while done.get() < 12 {
                life.machine.sleep_until(life.machine.now() + Duration::from_millis(1)).await;
            }
            spool.counters().room_waits_count
        });
        assert!(waits > 0, "more was sent than two batches hold");
        for message in life.sink.taken.borrow().iter() {
            let index =
                (0..12).find(|i| expected(*i, 5000 * *i as usize).len() as u64 == message.octets);
            let index = index.unwrap();
            assert_eq!(life.read(message).unwrap(), expected(index, 5000 * index as usize));
        }
    }
}

#[test]
fn a_full_log_holds_senders_back_within_two_batches_and_a_buffer_each() {
    let plate = Plate::new();
    let life = Life::new(3, &plate);
    let spool = life.open();
    plate.set_stuck(true);
    let pushed = Rc::new(Cell::new(0usize));
    for _ in 0..10 {
        let (spool, pushed) = (spool.clone(), pushed.clone());
        life.machine.spawn(Class::Session, async move {
            let mut incoming = spool.incoming().unwrap();
            for _ in 0..50 {
                incoming.push(&[7; 1024]).await.unwrap();
                pushed.set(pushed.get() + 1024);
            }
            incoming.commit(b"", envelope(1)).await.unwrap();
        });
    }
    let later = life.machine.now() + Duration::from_millis(50);
    life.run(life.machine.sleep_until(later));
    let most = 2 * spool.config().batch_bytes_max + 10 * CHUNK_BYTES;
    assert!(pushed.get() <= most, "{} bytes were taken, {most} are the bound", pushed.get());
    assert!(life.sink.ids().is_empty());
    plate.set_stuck(false);
    let later = later + Duration::from_secs(1);
    life.run(life.machine.sleep_until(later));
    assert_eq!(life.sink.ids().len(), 10, "all go on when the disk does");
}

#[test]
fn who_gives_up_waiting_for_room_does_not_hold_up_the_others() {
    for seed in 0..30 {
        let plate = Plate::new();
        let life = Life::new(seed, &plate);
        let spool = life.open();
        plate.set_stuck(true);
        let done = Rc::new(Cell::new(0));
        let machine = &life.machine;
        for index in 0..20u64 {
            let (spool, done, machine) = (spool.clone(), done.clone(), machine.clone());
            let patience = Instant::from_ns(if index % 3 == 0 { 1_000_000 } else { u64::MAX });
            machine.clone().spawn(Class::Session, async move {
                let mut send = Box::pin(put(&spool, index, 10_000));
                let mut wait = Box::pin(machine.sleep_until(patience));
                let sent = core::future::poll_fn(|cx| {
                    if send.as_mut().poll(cx).is_ready() {
                        return core::task::Poll::Ready(true);
                    }
                    wait.as_mut().poll(cx).map(|()| false)
                });
                let sent = usize::from(sent.await);
                done.set(done.get() + sent);
            });
        }
        life.run(machine.sleep_until(Instant::from_ns(5_000_000)));
        assert_eq!(done.get(), 0);
        plate.set_stuck(false);
        life.run(machine.sleep_until(Instant::from_ns(2_000_000_000)));
        assert_eq!(done.get(), 13, "seed {seed}");
    }
}

#[test]
fn room_is_given_in_turn_and_all_who_fit_share_a_batch() {
    let plate = Plate::new();
    let life = Life::new(3, &plate);
    let spool = life.open();
    plate.set_stuck(true);
    plate.set_delay(Duration::from_micros(200));
    let order = Rc::new(RefCell::new(Vec::new()));
    let send = |index: u64, bytes: usize| {
        let (spool, order) = (spool.clone(), order.clone());
        life.machine.spawn(Class::Session, async move {
            let mut incoming = spool.incoming().unwrap();
            incoming.push(&body(index, bytes)).await.unwrap();
            let lsn = incoming.commit(b"", envelope(index)).await.unwrap().lsn;
            order.borrow_mut().push((lsn, index));
        });
        life.settle();
    };
    send(0, 100); // in flight
    (1..=5).for_each(|index| send(index, 3000)); // the filling batch: nearly full
    assert_eq!(spool.counters().room_waits_count, 0);
    send(6, 2000); // does not fit
    (7..=12).for_each(|index| send(index, 10)); // would fit, but it is not their turn
    assert_eq!(spool.counters().room_waits_count, 7);
    plate.set_stuck(false);
    let now = life.machine.now();
    life.run(life.machine.sleep_until(now + Duration::from_millis(10)));
    order.borrow_mut().sort_unstable();
    assert!(order.borrow().iter().map(|(_, index)| *index).eq(0..=12));
    assert_eq!(spool.counters().batches_count, 3);
}

#[test]
fn a_failed_write_poisons_and_nothing_of_it_is_acknowledged() {
    for fate in [Fate::Lost, Fate::Torn, Fate::Kept] {
        let plate = Plate::new();
        let life = Life::new(4, &plate);
        let spool = life.open();
        life.run(put(&spool, 1, 500)).unwrap();
        let mut begun = spool.incoming().unwrap();
        plate.fail_after(0, fate);
        let failed = life.run(put(&spool, 2, 500));
        assert!(matches!(failed, Err(StoreError::Poisoned { .. })), "{failed:?}");
        assert!(matches!(spool.incoming(), Err(StoreError::Poisoned { .. })));
        // The buffer has room, the log has not.
        life.run(begun.push(b"x")).unwrap();
        let failed = life.run(begun.commit(b"", envelope(1)));
        assert!(matches!(failed, Err(StoreError::Poisoned { .. })));
        assert_eq!(life.sink.ids().len(), 1);
        assert_eq!(spool.counters().batches_count, 1);

        // After a restart the message in doubt is whole or absent, and the log takes mail again.
        life.machine.crash();
        let life = Life::new(5, &plate);
        let spool = life.open();
        let replayed = life.sink.ids().len();
        assert!(replayed == 1 || (replayed == 2 && fate != Fate::Lost));
        life.run(put(&spool, 3, 500)).unwrap();
        for (index, message) in life.sink.taken.borrow().iter().enumerate() {
            let seed = if index + 1 == life.sink.ids().len() { 3 } else { index as u64 + 1 };
            assert_eq!(life.read(message).unwrap(), expected(seed, 500));
        }
    }
}

#[test]
fn mail_is_refused_below_the_reserve_and_taken_again_above() {
    let plate = Plate::new();
    let life = Life::new(6, &plate);
    let spool = life.open();
    let begun = spool.incoming().unwrap();
    // Two segments exist by now, or will shortly; leave less than the reserve beside them.
    life.run(life.machine.sleep_until(Instant::from_ns(1_000_000)));
    let config = spool.config().clone();
    plate.set_capacity(Some(2 * config.segment_bytes + config.reserve_bytes - 1));
    life.run(life.machine.sleep_until(Instant::from_ns(10_000_000)));
    life.run(async {
        let mut refused = false;
        for index in 0..10 {
            refused |= matches!(put(&spool, index, 3000).await, Err(StoreError::DiskLow { .. }));
        }
        assert!(refused, "the space is looked at while bytes are written");
    });
    life.run(begun.commit(b"", envelope(1))).expect("what is under way may finish");
    assert!(matches!(spool.incoming(), Err(StoreError::DiskLow { .. })));
    plate.set_capacity(None);
    let now = life.machine.now();
    life.run(life.machine.sleep_until(now + Duration::from_secs(2)));
    assert!(spool.incoming().is_ok());
}

#[test]
fn without_room_for_a_segment_senders_hear_it_and_all_is_well_later() {
    let plate = Plate::new();
    let life = Life::new(7, &plate);
    let config = SpoolConfig { reserve_bytes: 0, ..small_config() };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    plate.set_capacity(Some(2 * spool.config().segment_bytes));
    let mut begun = spool.incoming().unwrap();
    let mut stored = 0;
    let failed = life.run(async {
        loop {
            match put(&spool, stored, 3000).await {
                Ok(_) => stored += 1,
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(failed, StoreError::DiskLow { .. }), "{failed:?}");
    assert!(stored > 10, "two segments were filled: {stored}");
    let failed = life.run(async {
        loop {
            if let Err(error) = begun.push(&[1; 1000]).await {
                return error;
            }
        }
    });
    assert!(matches!(failed, StoreError::DiskLow { .. }), "{failed:?}");
    plate.set_capacity(None);
    let now = life.machine.now();
    life.run(life.machine.sleep_until(now + Duration::from_secs(3)));
    life.run(put(&spool, stored, 3000)).unwrap();
    assert_eq!(life.sink.ids().len() as u64, stored + 1);
}

#[test]
fn a_failed_segment_does_not_poison_and_is_tried_again() {
    let plate = Plate::new();
    let life = Life::new(8, &plate);
    let (spool, _) = life.try_open(small_config(), Lsn(0)).unwrap();
    plate.fail_after(0, Fate::Torn);
    life.run(life.machine.sleep_until(Instant::from_ns(1_000_000)));
    assert!(matches!(spool.incoming(), Err(StoreError::Io(_))));
    life.run(life.machine.sleep_until(Instant::from_ns(3_000_000_000)));
    life.run(put(&spool, 1, 100)).unwrap();
    assert_eq!(plate.names(), [segment(0), segment(1)]);
}

#[test]
fn a_sink_that_is_behind_gets_everything_in_order_and_new_mail_waits() {
    let life = Life::new(9, &Plate::new());
    let config = SpoolConfig { backlog_count_max: 5, ..small_config() };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    life.run(put(&spool, 0, 10)).unwrap();
    life.sink.full.set(true);
    let begun = spool.incoming().unwrap();
    let begun_last = spool.incoming().unwrap();
    for index in 1..6 {
        life.run(put(&spool, index, 10)).expect("durable, if not indexed yet");
    }
    assert_eq!(spool.backlog_count(), 5);
    assert!(matches!(spool.incoming(), Err(StoreError::Busy)));
    let late = life.run(begun.commit(b"", envelope(1))).unwrap().id;
    assert_eq!((life.sink.ids().len(), spool.backlog_count()), (1, 6));
    // There is room again, but whoever waits comes first.
    life.sink.full.set(false);
    let last = life.run(begun_last.commit(b"", envelope(1))).unwrap().id;
    assert_eq!((life.sink.ids().len(), spool.backlog_count()), (1, 7));
    let now = life.machine.now();
    life.run(life.machine.sleep_until(now + Duration::from_millis(10)));
    assert_eq!((life.sink.ids().len(), spool.backlog_count()), (8, 0));
    assert!(life.sink.taken.borrow().is_sorted_by_key(|message| message.lsn));
    assert_eq!(life.sink.ids()[6..], [late, last]);
    life.run(put(&spool, 7, 10)).unwrap();
    assert_eq!((life.sink.ids().len(), spool.counters().backlogged_count), (9, 7));
}

#[test]
fn a_message_that_was_dropped_never_was() {
    let plate = Plate::new();
    let life = Life::new(10, &plate);
    let spool = life.open();
    let mut incoming = spool.incoming().unwrap();
    life.run(incoming.push(&body(1, 20_000))).unwrap();
    drop(incoming);
    life.run(put(&spool, 2, 100)).unwrap();
    assert_eq!(life.sink.ids().len(), 1);
    life.machine.crash();
    let life = Life::new(11, &plate);
    life.open();
    assert_eq!(life.sink.ids().len(), 1);
}

#[test]
fn ids_rise_whatever_the_clock_does() {
    let plate = Plate::new();
    let life = Life::new(12, &plate);
    let spool = life.open();
    let first = life.run(put(&spool, 1, 10)).unwrap().id;
    life.machine.crash();
    let life = Life::new(13, &plate);
    life.machine.set_unix_ms(1000);
    let spool = life.open();
    let second = life.run(put(&spool, 2, 10)).unwrap().id;
    assert!(second > first);
    assert_eq!(second.shard(), SHARD);
}

#[test]
fn what_does_not_fit_into_a_record_is_refused_and_nothing_is_kept() {
    let life = Life::new(14, &Plate::new());
    let spool = life.open();
    let incoming = spool.incoming().unwrap();
    let head = vec![b'h'; 4 * PAGE_BYTES];
    assert!(matches!(life.run(incoming.commit(&head, envelope(1))), Err(StoreError::Invalid(_))));
    let incoming = spool.incoming().unwrap();
    let over = Envelope { reverse_path: vec![b'p'; 2000], ..Envelope::default() };
    assert!(matches!(life.run(incoming.commit(b"", over)), Err(StoreError::Invalid(_))));
    // The largest head that fits, to the byte.
    let incoming = spool.incoming().unwrap();
    let fixed = crate::format::BATCH_RECORD_BYTES
        + RECORD_HEAD_BYTES
        + crate::format::MESSAGE_FIXED_BYTES
        + envelope(1).encoded_bytes().unwrap();
    let head = vec![b'h'; 4 * PAGE_BYTES - fixed];
    life.run(incoming.commit(&head, envelope(1))).unwrap();
    assert_eq!(life.read(&life.sink.message(0)).unwrap(), head);
}

#[test]
fn a_message_has_a_bounded_number_of_chunks() {
    let life = Life::new(15, &Plate::new());
    let config = SpoolConfig { chunk_bytes: 1, segment_bytes: 1 << 20, ..small_config() };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    let mut incoming = spool.incoming().unwrap();
    life.run(incoming.push(&[b'x'; 8193])).unwrap();
    assert!(matches!(life.run(incoming.push(b"x")), Err(StoreError::Invalid(_))));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let good = small_config();
    for config in [
        SpoolConfig { shard: ShardId(1024), ..good.clone() },
        SpoolConfig { batch_bytes_max: PAGE_BYTES, ..good.clone() },
        SpoolConfig { batch_bytes_max: 2 << 20, ..good.clone() },
        SpoolConfig { batch_bytes_max: 3 * PAGE_BYTES + 1, ..good.clone() },
        SpoolConfig { segment_bytes: 4 * PAGE, ..good.clone() },
        SpoolConfig { segment_bytes: 16 * PAGE + 1, ..good.clone() },
        SpoolConfig { chunk_bytes: 0, ..good.clone() },
        SpoolConfig { waiting_bytes_max: CHUNK_BYTES, ..good.clone() },
        SpoolConfig { chunk_bytes: 4 * PAGE_BYTES - 1000, ..good },
    ] {
        let life = Life::new(16, &Plate::new());
        let refused = life.try_open(config, Lsn(0));
        assert!(matches!(refused, Err(StoreError::Invalid(_))));
        assert!(life.run(life.disk.list()).unwrap().is_empty());
    }
}

#[test]
fn memory_of_a_transfer_is_one_buffer() {
    let life = Life::new(17, &Plate::new());
    let (spool, _) = life.try_open(SpoolConfig::new(SHARD), Lsn(0)).unwrap();
    let mut incoming = spool.incoming().unwrap();
    assert_eq!(incoming.buffer_bytes(), 0);
    life.run(incoming.push(&[1; 4096])).unwrap();
    assert_eq!(incoming.buffer_bytes(), 8 * 1024);
    life.run(incoming.push(&[1; 1 << 20])).unwrap();
    assert_eq!(incoming.buffer_bytes(), 64 * 1024);
    drop(incoming);
    // The buffers come from the pool now.
    let mut incoming = spool.incoming().unwrap();
    life.run(incoming.push(&[1; 100_000])).unwrap();
    assert_eq!(incoming.buffer_bytes(), 64 * 1024);
}

/// Lets `count` transfers push `bytes` each while the disk takes nothing; says how many of them
/// were refused.
fn push_into_a_stuck_log(
    life: &Life,
    plate: &Plate,
    spool: &Spool<Machine>,
    count: usize,
    bytes: usize,
) -> usize {
    plate.set_stuck(true);
    let refused = Rc::new(Cell::new(0));
    for _ in 0..count {
        let (spool, refused) = (spool.clone(), refused.clone());
        life.machine.spawn(Class::Session, async move {
            let Ok(mut incoming) = spool.incoming() else {
                return refused.set(refused.get() + 1);
            };
            for _ in 0..bytes / 1024 {
                if let Err(error) = incoming.push(&[7; 1024]).await {
                    assert!(matches!(error, StoreError::Busy), "{error}");
                    return refused.set(refused.get() + 1);
                }
            }
            core::future::pending::<()>().await;
        });
    }
    let later = life.machine.now() + Duration::from_millis(50);
    life.run(life.machine.sleep_until(later));
    refused.get()
}

#[test]
fn a_thousand_large_transfers_fit_into_the_memory_for_messages() {
    let plate = Plate::new();
    let life = Life::new(18, &plate);
    let (spool, _) = life.try_open(SpoolConfig::new(SHARD), Lsn(0)).unwrap();
    life.settle();
    let refused = push_into_a_stuck_log(&life, &plate, &spool, 1000, 10 << 20);
    let waiting_bytes = spool.waiting_bytes();
    assert_eq!(refused, 0);
    assert!(waiting_bytes >= 40 << 20, "{waiting_bytes}");
    assert!(waiting_bytes <= spool.config().waiting_bytes_max && waiting_bytes < 256 << 20);
    life.machine.crash();
    assert_eq!(spool.waiting_bytes(), 0, "who is gone holds nothing");
}

#[test]
fn transfers_are_refused_before_they_take_more_memory_than_there_is() {
    let plate = Plate::new();
    let life = Life::new(19, &plate);
    let config = SpoolConfig { waiting_bytes_max: 1 << 20, ..SpoolConfig::new(SHARD) };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    life.settle();
    let refused = push_into_a_stuck_log(&life, &plate, &spool, 200, 10 << 20);
    assert!((100..150).contains(&refused), "{refused} of 200: some 8 large buffers, 64 small ones");
    let waiting_bytes = spool.waiting_bytes();
    assert!((1 << 19..=1 << 20).contains(&waiting_bytes), "{waiting_bytes}");
}

#[test]
fn senders_that_stall_cost_the_others_speed_and_not_their_mail() {
    let plate = Plate::new();
    let life = Life::new(20, &plate);
    let config = SpoolConfig { waiting_bytes_max: 1 << 20, ..SpoolConfig::new(SHARD) };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    life.settle();
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut incoming = spool.incoming().unwrap();
        life.run(incoming.push(&[7; 9000])).unwrap();
        stalled.push(incoming);
    }
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let mut incoming = spool.incoming().unwrap();
    for piece in body.chunks(5000) {
        life.run(incoming.push(piece)).unwrap();
    }
    life.run(incoming.commit(b"Head: x\r\n", envelope(1))).unwrap();
    drop(stalled);
    let message = life.sink.message(0);
    assert!(message.chunks.len() > 30, "small pieces: {}", message.chunks.len());
    let mut reader = Reader::new(life.disk.clone(), spool.config().segment_bytes);
    reader.open(BodyRef::from(&message));
    let mut whole = Vec::new();
    while let Some(piece) = life.run(reader.next()).unwrap() {
        whole.extend_from_slice(&piece);
    }
    assert_eq!(whole, [b"Head: x\r\n".as_slice(), &body].concat());
}

/// An envelope that takes a hundred times the memory of a usual one.
fn large_envelope() -> Envelope {
    let recipient = &envelope(1).recipients[0];
    Envelope { recipients: vec![recipient.clone(); 100], ..envelope(1) }
}

#[test]
fn a_backlog_of_large_envelopes_is_bounded_by_its_bytes() {
    let life = Life::new(20, &Plate::new());
    let config = SpoolConfig { waiting_bytes_max: 128 * 1024, ..small_config() };
    let (spool, _) = life.try_open(config, Lsn(0)).unwrap();
    life.sink.full.set(true);
    let begun = spool.incoming().unwrap();
    let mut stored = Vec::new();
    let refused = life.run(async {
        loop {
            let Ok(incoming) = spool.incoming() else { return StoreError::Busy };
            match incoming.commit(b"", large_envelope()).await {
                Ok(message) => stored.push(message.id),
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(refused, StoreError::Busy), "{refused}");
    let (waiting_bytes, count) = (spool.waiting_bytes(), spool.backlog_count());
    assert!(waiting_bytes <= 128 * 1024, "{waiting_bytes}");
    assert!((5..50).contains(&count), "far from the bound on the count: {count}");
    // What is under way is refused only when it is too large, and takes no part in the log then.
    let refused = life.run(begun.commit(b"", large_envelope()));
    assert!(matches!(refused, Err(StoreError::Busy)));
    assert_eq!(spool.waiting_bytes(), waiting_bytes);
    life.sink.full.set(false);
    let now = life.machine.now();
    life.run(life.machine.sleep_until(now + Duration::from_millis(10)));
    assert_eq!((life.sink.ids(), spool.backlog_count()), (stored, 0));
    assert_eq!(spool.waiting_bytes(), 0);
    life.run(put(&spool, 1, 9000)).unwrap();
    assert_eq!(spool.waiting_bytes(), 0);
}
