//! Space comes back, live mail stays, at whatever point the machine stops.

use core::time::Duration;

use super::*;
use crate::testing::Fate;

/// A log with a sparse segment or two: what is left, with its text.
struct Setting {
    plate: Rc<Plate>,
    index: Rc<Index>,
    kept: BTreeMap<QueueId, Vec<u8>>,
}

fn open(life: &Life, index: &Rc<Index>) -> Spool<Machine> {
    let applied = index.now.borrow().applied;
    let (machine, disk) = (life.machine.clone(), life.disk.clone());
    let opened = life.run(Spool::open(machine, disk, small_config(), applied, index.clone()));
    life.settle();
    opened.unwrap().0
}

/// Messages of many sizes; every `keep_every`th stays.
fn setting(keep_every: u64) -> Setting {
    let plate = Plate::new();
    let index = Rc::new(Index::default());
    let life = Life::new(1, &plate);
    let spool = open(&life, &index);
    let mut kept = BTreeMap::new();
    for seed in 0..40 {
        let bytes = [100, 1000, 9000][seed as usize % 3];
        let id = life.run(put(&spool, seed, bytes)).unwrap().id;
        if seed % keep_every == 0 {
            kept.insert(id, expected(seed, bytes));
        } else {
            index.delete(id);
        }
    }
    index.persist();
    life.machine.crash();
    plate.lose_power(&Chance::new(1));
    Setting { plate, index, kept }
}

impl Setting {
    fn audit(&self, life: &Life) {
        let bodies = self.index.bodies();
        assert_eq!(bodies.len(), self.kept.len());
        for (at, _) in bodies {
            let id = at.id;
            assert_eq!(life.run(read(&life.disk, at)).as_ref().ok(), self.kept.get(&id), "{id}");
        }
        assert!(self.index.repeated.borrow().is_empty());
    }
}

fn segments_count(plate: &Plate) -> usize {
    plate.names().iter().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn live_mail_is_written_anew_and_the_space_comes_back() {
    let setting = setting(10);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    let before = segments_count(&setting.plate);
    assert!(before >= 4, "{before}");
    let mut total = Compaction::default();
    for _ in 0..20 {
        let done = life.run(spool.compact(&*setting.index)).unwrap();
        total.recycled_count += done.recycled_count;
        total.rewritten_count += done.rewritten_count;
        total.moved_count += done.moved_count;
        setting.audit(&life);
    }
    assert!(total.rewritten_count > 0 && total.moved_count > 0, "{total:?}");
    assert!(segments_count(&setting.plate) < before);
    assert_eq!(spool.counters().moved_count, total.moved_count);
    // What was moved is not delivered again, and can be moved again.
    life.machine.crash();
    let life = Life::new(3, &setting.plate);
    let spool = open(&life, &setting.index);
    setting.audit(&life);
    for seed in 100..140 {
        let id = life.run(put(&spool, seed, 3000)).unwrap().id;
        setting.index.delete(id);
    }
    setting.index.persist();
    for _ in 0..20 {
        life.run(spool.compact(&*setting.index)).unwrap();
    }
    setting.audit(&life);
    assert!(segments_count(&setting.plate) <= 4, "{:?}", setting.plate.names());
}

#[test]
fn a_crash_at_any_write_of_a_compaction_loses_nothing() {
    for fate in [Fate::Lost, Fate::Kept, Fate::Torn] {
        let mut point = 0;
        loop {
            let setting = setting(10);
            let life = Life::new(2 + point, &setting.plate);
            let spool = open(&life, &setting.index);
            setting.plate.halt_after(point, fate);
            let finished = life.machine.run(async {
                for _ in 0..6 {
                    spool.compact(&*setting.index).await.unwrap();
                }
            });
            setting.plate.lose_power(&Chance::new(point));
            life.machine.crash();
            setting.index.crash();

            let life = Life::new(3, &setting.plate);
            let spool = open(&life, &setting.index);
            setting.audit(&life);
            for _ in 0..20 {
                life.run(spool.compact(&*setting.index)).unwrap();
            }
            setting.audit(&life);
            assert!(segments_count(&setting.plate) <= 4, "{:?}", setting.plate.names());
            if finished.is_some() {
                assert!(point > 5, "a compaction makes more changes than {point}");
                break;
            }
            point += 1;
        }
    }
}

#[test]
fn a_failed_write_during_compaction_loses_nothing() {
    for fate in [Fate::Lost, Fate::Kept, Fate::Torn] {
        for point in 0..12 {
            let setting = setting(10);
            let life = Life::new(2 + point, &setting.plate);
            let spool = open(&life, &setting.index);
            setting.plate.fail_after(point, fate);
            for _ in 0..6 {
                let _ = life.run(spool.compact(&*setting.index));
            }
            setting.audit(&life);
            life.machine.crash();
            setting.plate.lose_power(&Chance::new(point));
            setting.index.crash();
            let life = Life::new(3, &setting.plate);
            open(&life, &setting.index);
            setting.audit(&life);
        }
    }
}

#[test]
fn segments_without_live_bytes_are_recycled_unread() {
    let setting = setting(1000);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    setting.index.now.borrow_mut().bodies.clear();
    let done = life.run(spool.compact(&*setting.index)).unwrap();
    assert!(done.recycled_count >= 3 && done.moved_count == 0, "{done:?}");
    assert_eq!(spool.counters().recycled_count, done.recycled_count);
    // One becomes the spare, and that the next segment.
    assert!(setting.plate.names().contains(&"003.spare".to_owned()));
    let created = setting.plate.names().len();
    for seed in 0..20 {
        life.run(put(&spool, seed, 1000)).unwrap();
    }
    assert!(setting.plate.names().len() <= created + 1);
}

#[test]
fn records_of_an_earlier_use_of_a_file_never_come_back() {
    for fate in [Fate::Lost, Fate::Kept, Fate::Torn, Fate::Pages(1), Fate::Pages(2)] {
        let setting = setting(1000);
        let life = Life::new(2, &setting.plate);
        let spool = open(&life, &setting.index);
        setting.index.now.borrow_mut().bodies.clear();
        life.run(spool.compact(&*setting.index)).unwrap();
        // Into the recycled file, which is full of whole records of its former life.
        let number_of = |lsn: Lsn| lsn.0 / small_config().segment_bytes;
        let old = number_of(spool.durable());
        let mut seed = 0;
        while number_of(spool.durable()) < old + 2 {
            life.run(put(&spool, seed, 1000)).unwrap();
            seed += 1;
        }
        let recycled = setting.plate.contents(&segment(old + 2));
        let stale = recycled.chunks(PAGE_BYTES).skip(4).filter(|page| page[..2] == *b"fR");
        assert!(stale.count() > 3, "the file has a past");
        let known = setting.index.bodies().len();
        setting.plate.halt_after(0, fate);
        assert!(life.machine.run(put(&spool, 99, 9000)).is_none());
        setting.plate.lose_power(&Chance::new(1));
        life.machine.crash();

        let life = Life::new(3, &setting.plate);
        let spool = open(&life, &setting.index);
        let found = setting.index.bodies().len() - known;
        assert!(found == 0 || (found == 1 && fate != Fate::Lost), "{fate:?}: {found}");
        life.run(put(&spool, 100, 1000)).unwrap();
        assert!(setting.index.repeated.borrow().is_empty());
    }
}

#[test]
fn nothing_at_or_behind_the_mark_is_touched() {
    let setting = setting(10);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    setting.index.durable.borrow_mut().applied = Lsn(small_config().segment_bytes);
    let done = life.run(spool.compact(&*setting.index)).unwrap();
    assert_eq!(done, Compaction::default(), "the mark's own segment must stay");
    setting.index.durable.borrow_mut().applied = Lsn(small_config().segment_bytes + 1);
    let done = life.run(spool.compact(&*setting.index)).unwrap();
    assert_eq!(done.recycled_count + done.rewritten_count, 1);
}

#[test]
fn chunks_that_the_index_has_not_heard_of_stay() {
    let plate = Plate::new();
    let index = Rc::new(Index::default());
    let life = Life::new(1, &plate);
    let spool = open(&life, &index);
    let text = body(7, 30_000);
    let mut slow = spool.incoming().unwrap();
    life.run(slow.push(&text[..20_000])).unwrap();
    let churn = |life: &Life, spool: &Spool<Machine>| {
        for seed in 0..40 {
            let id = life.run(put(spool, seed, 3000)).unwrap().id;
            index.delete(id);
        }
        index.persist();
    };
    churn(&life, &spool);
    let done = life.run(spool.compact(&*index)).unwrap();
    assert_eq!(done, Compaction::default(), "the slow transfer pins its segment and those behind");
    life.run(slow.push(&text[20_000..])).unwrap();
    let id = life.run(slow.commit(b"", envelope(1))).unwrap().id;
    // Committed, but the index may still forget it.
    assert_eq!(life.run(spool.compact(&*index)).unwrap(), Compaction::default());
    index.crash();
    life.machine.crash();

    let life = Life::new(2, &plate);
    let spool = open(&life, &index);
    assert_eq!(life.run(spool.compact(&*index)).unwrap(), Compaction::default(), "replayed");
    churn(&life, &spool);
    assert!(life.run(spool.compact(&*index)).unwrap().recycled_count > 0);
    for _ in 0..20 {
        life.run(spool.compact(&*index)).unwrap();
    }
    let (at, _) = index.bodies().into_iter().find(|(at, _)| at.id == id).unwrap();
    assert_eq!(life.run(read(&life.disk, at)).unwrap(), text);

    // A transfer that is dropped lets go at once.
    let mut dropped = spool.incoming().unwrap();
    life.run(dropped.push(&text)).unwrap();
    churn(&life, &spool);
    let before = segments_count(&plate);
    drop(dropped);
    life.run(spool.compact(&*index)).unwrap();
    assert!(segments_count(&plate) < before);
}

#[test]
fn a_damaged_segment_is_reported_once_and_kept() {
    for page in 1..14 {
        let setting = setting(10);
        let life = Life::new(2, &setting.plate);
        let spool = open(&life, &setting.index);
        // Segment 0 has a message that is live in its first page.
        setting.plate.change(&segment(0), |bytes| bytes[page * PAGE_BYTES + 70] ^= 1);
        let outcomes: Vec<_> = (0..10).map(|_| life.run(spool.compact(&*setting.index))).collect();
        let reports = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert!(reports <= 1);
        if reports == 1 {
            assert!(
                setting.plate.names().contains(&segment(0)),
                "it is left for a person to look at"
            );
        }
        if page == 1 {
            assert_eq!(reports, 1);
        }
    }
}

#[test]
fn a_live_message_that_is_not_found_keeps_its_segment() {
    // In the last batch of its segment, so nothing behind it shows that it is missing.
    let setting = setting(1);
    let of_segment_0 = |at: &BodyRef| at.lsn.0 < small_config().segment_bytes;
    let bodies = setting.index.bodies();
    let last =
        bodies.iter().map(|(at, _)| at).filter(|at| of_segment_0(at)).max_by_key(|at| at.lsn);
    let last = last.unwrap().clone();
    bodies.iter().filter(|(at, _)| at.id != last.id).for_each(|(at, _)| {
        setting.index.delete(at.id);
    });
    setting.plate.change(&segment(0), |bytes| bytes[last.lsn.0 as usize + 40] ^= 1);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    let refused = life.run(spool.compact(&*setting.index));
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    assert!(setting.plate.names().contains(&segment(0)));
}

#[test]
fn readers_find_a_message_that_moves_under_them() {
    let setting = setting(10);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    let bodies = setting.index.bodies();
    let (at, _) = bodies.iter().find(|(at, _)| at.chunks.len() == 2).unwrap();
    let mut reader = Reader::new(life.disk.clone(), small_config().segment_bytes);
    reader.open(at.clone());
    let mut text = life.run(reader.next()).unwrap().unwrap();
    for _ in 0..20 {
        life.run(spool.compact(&*setting.index)).unwrap();
    }
    // Fill the log until the spare that was segment 0 is in use again.
    for seed in 200..240 {
        life.run(put(&spool, seed, 3000)).unwrap();
    }
    life.run(life.machine.sleep_until(life.machine.now() + Duration::from_millis(1)));
    let old = life.run(read(&life.disk, at.clone()));
    assert!(matches!(old, Err(StoreError::Moved)), "the old place is gone");
    let (to, _) = setting.index.bodies().into_iter().find(|(to, _)| to.id == at.id).unwrap();
    assert_ne!(to.lsn, at.lsn);
    loop {
        // The old file may have been removed, and is whole in an open handle, or used again.
        match life.run(reader.next()) {
            Ok(Some(piece)) => text.extend_from_slice(&piece),
            Ok(None) => break,
            Err(StoreError::Moved) => reader.relocate(to.clone()).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(Some(&text), setting.kept.get(&at.id));
}

#[test]
fn two_passes_at_once_are_one() {
    let setting = setting(10);
    let life = Life::new(2, &setting.plate);
    let spool = open(&life, &setting.index);
    let mut first = Box::pin(spool.compact(&*setting.index));
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    let second = life.run(spool.compact(&*setting.index)).unwrap();
    assert_eq!(second, Compaction::default());
    drop(first);
    assert_ne!(life.run(spool.compact(&*setting.index)).unwrap(), Compaction::default());
    setting.audit(&life);
}
