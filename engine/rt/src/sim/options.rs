//! Which faults a world has, and how often: chosen by the test, or drawn from the seed.
//!
//! Swarm: in a run some faults are off and the others have random weights, because a run in which
//! everything fails a little rarely gets far enough to fail in an interesting way.

use super::random::Random;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// How the next task is picked among the ready ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// Each with equal chance.
    Uniform,
    /// Mostly the one that has waited longest, as a real executor does.
    Oldest,
    /// Mostly the one that became ready last: others starve for a while.
    Newest,
}

/// Faults of links; chances are per million.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Time from send to arrival, nanoseconds, drawn for each piece.
    pub latency_ns: (u64, u64),
    /// Chance that a fill brings only some of the bytes that are there.
    pub short_reads: u32,
    /// The most bytes that such a fill brings.
    pub short_read_bytes: u64,
    /// Chance that a sent buffer travels in several pieces.
    pub pieces: u32,
    /// Bytes that fit between sender and reader, drawn for each link and direction.
    pub buffer_bytes: (u64, u64),
    /// Chance that a link is reset at some byte.
    pub resets: u32,
    /// Chance that a link goes silent at some byte.
    pub black_holes: u32,
    /// Such a byte is drawn from this range, counted over both directions.
    pub doom_bytes: (u64, u64),
    /// Chance that an accept fails with `Exhausted`.
    pub accept_errors: u32,
    /// Connections that may wait for their acceptor.
    pub backlog_max: usize,
    /// Chance that a connect is refused though somebody listens; of `dial` only.
    pub refused_dials: u32,
    /// Chance that a connect is lost: nothing is heard of it; of `dial` only.
    pub lost_dials: u32,
    /// Chance that a datagram is lost. Each takes its own latency, so they overtake each other.
    pub lost_datagrams: u32,
    /// Chance that a datagram arrives twice.
    pub doubled_datagrams: u32,
}

/// Faults of disks; chances are per million.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Time that an operation takes, nanoseconds.
    pub latency_ns: (u64, u64),
    /// Chance that an operation takes `stall_ns` more.
    pub stalls: u32,
    /// See `stalls`.
    pub stall_ns: u64,
    /// Chance that a write fails with EIO.
    pub write_errors: u32,
    /// Chance that a write fails with ENOSPC although the file has its length.
    pub write_full: u32,
    /// Whether after one failed write all fail, until the power was off.
    pub errors_stick: bool,
    /// Chance that a read fails with EIO.
    pub read_errors: u32,
    /// Chance that create, rename or remove fails with EIO, without effect.
    pub name_errors: u32,
    /// Bytes of the file system: the sum of the files' lengths stays below.
    pub capacity_bytes: u64,
}

/// Faults of the wall clock.
#[derive(Clone, Debug)]
pub struct ClockOptions {
    /// Chance that the wall clock steps, per question, per million.
    pub steps: u32,
    /// The longest such step, milliseconds, either way.
    pub step_ms_max: u64,
}

/// Bugs of the machine that are planted to show that the checks find them; all off by default.
///
/// Chances are per million.
#[derive(Clone, Debug, Default)]
pub struct Bugs {
    /// Writes resolve before their bytes are stable; they become so some milliseconds later.
    pub early_writes: u32,
    /// Failed writes report success.
    pub swallowed_errors: u32,
    /// A finished disk operation does not wake its task.
    pub lost_wakes: u32,
    /// Two lines that a listening host sends in one buffer are swapped.
    pub swapped_lines: u32,
    /// A fill loses the last byte that it should have brought.
    pub lost_bytes: u32,
    /// A write goes one page further than it was told.
    pub misplaced_writes: u32,
    /// The scheduler looks at something that differs from run to run.
    pub unseeded: bool,
}

/// Everything that can be chosen about a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// How tasks are picked.
    pub schedule: Schedule,
    /// Links; may be replaced for one link when it is opened.
    pub net: NetOptions,
    /// Disks.
    pub disk: DiskOptions,
    /// The wall clock.
    pub clock: ClockOptions,
    /// Planted bugs.
    pub bugs: Bugs,
}

impl Options {
    /// Nothing fails, everything takes a little time, reads bring all that is there.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            schedule: Schedule::Oldest,
            net: NetOptions {
                latency_ns: (20 * MICROSECOND, 20 * MICROSECOND),
                short_reads: 0,
                short_read_bytes: 1,
                pieces: 0,
                buffer_bytes: (65_536, 65_536),
                resets: 0,
                black_holes: 0,
                doom_bytes: (0, 0),
                accept_errors: 0,
                backlog_max: 128,
                refused_dials: 0,
                lost_dials: 0,
                lost_datagrams: 0,
                doubled_datagrams: 0,
            },
            disk: DiskOptions {
                latency_ns: (100 * MICROSECOND, 100 * MICROSECOND),
                stalls: 0,
                stall_ns: 0,
                write_errors: 0,
                write_full: 0,
                errors_stick: false,
                read_errors: 0,
                name_errors: 0,
                capacity_bytes: 1 << 40,
            },
            clock: ClockOptions { steps: 0, step_ms_max: 0 },
            bugs: Bugs::default(),
        }
    }

    /// Options drawn by `random`: each fault is off in about half of all runs.
    #[must_use]
    pub fn swarm(random: &mut Random) -> Self {
        let mut options = Self::calm();
        options.schedule = *random.pick(&[Schedule::Uniform, Schedule::Oldest, Schedule::Newest]);
        options.net = NetOptions::swarm(random);
        options.disk = DiskOptions::swarm(random);
        if random.coin() {
            options.clock.steps = weight(random, 100_000);
            options.clock.step_ms_max = *random.pick(&[1, 1_000, 86_400_000]);
        }
        options
    }
}

impl NetOptions {
    fn swarm(random: &mut Random) -> Self {
        let mut net = Options::calm().net;
        let slowest = *random.pick(&[0, 100 * MICROSECOND, 5 * MILLISECOND, 300 * MILLISECOND]);
        net.latency_ns = (0, slowest);
        if random.coin() {
            net.short_reads = weight(random, 1_000_000);
            net.short_read_bytes = *random.pick(&[1, 2, 7, 79, 1000]);
        }
        if random.coin() {
            net.pieces = weight(random, 500_000);
        }
        if random.coin() {
            net.buffer_bytes = *random.pick(&[(1, 1), (16, 512), (512, 8_192), (4_096, 131_072)]);
        }
        if random.coin() {
            net.resets = weight(random, 300_000);
        }
        if random.coin() {
            net.black_holes = weight(random, 200_000);
        }
        net.doom_bytes = (0, *random.pick(&[100, 1_000, 10_000]));
        if random.coin() {
            net.accept_errors = weight(random, 100_000);
        }
        net
    }
}

impl DiskOptions {
    fn swarm(random: &mut Random) -> Self {
        let mut disk = Options::calm().disk;
        let slowest = *random.pick(&[0, 200 * MICROSECOND, 10 * MILLISECOND]);
        disk.latency_ns = (0, slowest);
        if random.coin() {
            disk.stalls = weight(random, 50_000);
            disk.stall_ns = *random.pick(&[50 * MILLISECOND, 5_000 * MILLISECOND]);
        }
        // Rarer than the others: after it a shard takes no mail.
        if random.chance(300_000) {
            disk.write_errors = weight(random, 100_000);
            disk.write_full = if random.coin() { weight(random, 50_000) } else { 0 };
            disk.errors_stick = random.coin();
        }
        if random.chance(200_000) {
            disk.name_errors = weight(random, 100_000);
        }
        disk
    }
}

/// A chance between almost never and `most`, evenly over the orders of magnitude.
fn weight(random: &mut Random, most: u32) -> u32 {
    let shift = random.below(8);
    (most >> shift).max(1)
}
