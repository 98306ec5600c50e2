//! A log that version 1 wrote, committed in `tests/vectors/spool-v1`: every later version must open
//! it, or refuse it by name. Its contents follow from [`make`].

use super::*;

const FIXTURE: &[u8] = include_bytes!("../../../../tests/vectors/spool-v1/000-0000000000.seg");
const SIZES: [usize; 4] = [0, 700, 9000, 40];

fn config() -> SpoolConfig {
    SpoolConfig { shard: ShardId(0), segment_bytes: 12 * PAGE, ..small_config() }
}

fn text(seed: usize) -> Vec<u8> {
    let line = format!("line of message {seed} in the first format of the spool\r\n");
    line.bytes().cycle().take(SIZES[seed]).collect()
}

/// Writes the fixture's messages into an empty log.
fn make() -> Vec<u8> {
    let plate = Plate::new();
    let life = Life::new(1, &plate);
    let (spool, _) = life.try_open(config(), Lsn(0)).unwrap();
    for seed in 0..SIZES.len() {
        life.run(store(&spool, b"Return-Path: <>\r\n", &text(seed), 1000)).unwrap();
    }
    plate.contents("000-0000000000.seg")
}

#[test]
fn what_version_1_wrote_still_opens() {
    let plate = Plate::new();
    plate.put("000-0000000000.seg", FIXTURE.to_vec());
    let life = Life::new(1, &plate);
    let (_, recovery) = life.try_open(config(), Lsn(0)).unwrap();
    assert_eq!((recovery.replayed_count, recovery.cut), (SIZES.len() as u64, None));
    for seed in 0..SIZES.len() {
        let whole = [b"Return-Path: <>\r\n", text(seed).as_slice()].concat();
        let message = life.sink.message(seed);
        assert_eq!(life.read(&message).unwrap(), whole);
        assert_eq!(life.envelope(&message, config().segment_bytes), envelope(1));
    }
}

/// Messages in clear are still written as version 1 wrote them; only the segment's header differs.
#[test]
fn what_is_in_clear_is_written_as_before() {
    let (made, header) = (make(), PAGE_BYTES);
    assert!(made[header..] == FIXTURE[header..], "the format changed: it needs a new version");
}
