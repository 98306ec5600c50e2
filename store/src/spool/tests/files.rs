//! Readers share their files: few are open, everybody gets a turn, and what is gone is let go.

use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use super::*;

const DELAY: Duration = Duration::from_micros(100);

/// A log of more segments than may be open, one message of each, and the files that are open
/// without any reader.
fn filled(life: &Life, plate: &Plate) -> (Spool<Machine>, Vec<(u64, Committed)>, usize) {
    let spool = life.open();
    for seed in 0..360 {
        life.run(put(&spool, seed, 8000)).unwrap();
    }
    let mut of_segments = BTreeMap::new();
    for (seed, message) in (0..).zip(life.sink.taken.borrow().iter()) {
        of_segments
            .entry(message.lsn.0 / small_config().segment_bytes)
            .or_insert_with(|| (seed, message.clone()));
    }
    let messages: Vec<_> = of_segments.into_values().collect();
    assert!(messages.len() > FILES_COUNT_MAX + 10, "{}", messages.len());
    life.settle();
    let before = plate.open_counts().0;
    plate.set_read_delay(DELAY);
    (spool, messages, before)
}

async fn read_with(
    files: &Rc<SegmentFiles<TestDisk>>,
    message: &Committed,
) -> Result<Vec<u8>, StoreError> {
    let mut reader = Reader::sharing(files, small_config().segment_bytes);
    reader.open(BodyRef::from(message));
    let mut whole = Vec::new();
    while let Some(piece) = reader.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

#[test]
fn many_readers_hold_few_files_open_and_each_gets_its_turn() {
    for seed in 0..10 {
        let plate = Plate::new();
        let life = Life::new(seed, &plate);
        let (_spool, messages, before) = filled(&life, &plate);
        let files = SegmentFiles::new(life.disk.clone());
        let done = Rc::new(Cell::new(0));
        for (seed, message) in messages.iter().chain(&messages).cloned() {
            let (files, done) = (Rc::clone(&files), done.clone());
            life.machine.spawn(Class::Session, async move {
                assert_eq!(read_with(&files, &message).await.unwrap(), expected(seed, 8000));
                done.set(done.get() + 1);
            });
        }
        let later = life.machine.now() + Duration::from_millis(50);
        life.run(life.machine.sleep_until(later));
        assert_eq!(done.get(), 2 * messages.len(), "seed {seed}");
        let (now, most) = plate.open_counts();
        assert!(most - before <= FILES_COUNT_MAX, "{} files were open", most - before);
        assert_eq!(now - before, files.open_count(), "what is open can be lent");
    }
}

#[test]
fn who_stops_waiting_for_a_file_does_not_hold_up_the_others() {
    for seed in 0..10 {
        let plate = Plate::new();
        let life = Life::new(seed, &plate);
        let (_spool, messages, before) = filled(&life, &plate);
        let files = SegmentFiles::new(life.disk.clone());
        let done = Rc::new(Cell::new(0));
        for (index, (_, message)) in messages.iter().chain(&messages).cloned().enumerate() {
            let (files, done, machine) = (Rc::clone(&files), done.clone(), life.machine.clone());
            life.machine.spawn(Class::Session, async move {
                let mut read = Box::pin(read_with(&files, &message));
                let at = machine.now() + DELAY * (index as u32 % 3);
                let mut patience = Box::pin(machine.sleep_until(at));
                let read = poll_fn(|cx| {
                    let impatient = index % 3 != 2;
                    if impatient && patience.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    read.as_mut().poll(cx).map(Some)
                });
                let whole = read.await.is_some_and(|read| read.is_ok());
                done.set(done.get() + usize::from(whole));
            });
        }
        let later = life.machine.now() + Duration::from_millis(50);
        life.run(life.machine.sleep_until(later));
        let patient = (0..2 * messages.len()).filter(|index| index % 3 == 2).count();
        assert!(done.get() >= patient, "{} of {patient}, seed {seed}", done.get());
        assert!(plate.open_counts().1 - before <= FILES_COUNT_MAX);
    }
}

#[test]
fn files_that_nobody_uses_are_closed() {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let (_spool, messages, before) = filled(&life, &plate);
    let files = SegmentFiles::new(life.disk.clone());
    for (_, message) in messages.iter().take(5) {
        life.run(read_with(&files, message)).unwrap();
    }
    files.sweep();
    assert_eq!(files.open_count(), 5, "they were used since the sweep before");
    life.run(read_with(&files, &messages[0].1)).unwrap();
    files.sweep();
    assert_eq!(files.open_count(), 1);
    files.sweep();
    assert_eq!((files.open_count(), plate.open_counts().0), (0, before));
}

#[test]
fn a_segment_that_became_another_is_opened_anew_under_its_readers() {
    let plate = Plate::new();
    let life = Life::new(2, &plate);
    let (_spool, messages, before) = filled(&life, &plate);
    let files = SegmentFiles::new(life.disk.clone());
    let (first, second) = (&messages[0].1, &messages[1].1);
    life.run(read_with(&files, first)).unwrap();
    // The second file takes the first one's place in the folder, and the first one is gone.
    let number = |message: &Committed| message.lsn.0 / small_config().segment_bytes;
    let other = plate.contents(&segment(number(second)));
    plate.change(&segment(number(first)), |bytes| bytes.copy_from_slice(&other));
    assert!(matches!(life.run(read_with(&files, first)), Err(StoreError::Moved)));
    plate.take_away(&segment(number(first)));
    assert!(matches!(life.run(read_with(&files, first)), Err(StoreError::Moved)));
    assert!(life.run(read_with(&files, second)).is_ok());
    files.sweep();
    files.sweep();
    assert_eq!(plate.open_counts().0, before, "none is kept open by mistake");
}
