//! What one run will do, drawn from its seed before it begins.
//!
//! Swarm: each run has few shards and few clients of few kinds, so that a run is short and a
//! hundred thousand of them are affordable; variety comes from the number of seeds.

use fsmtp_rt::PAGE_BYTES;
use fsmtp_rt::sim::{Crash, MILLION, Options, Random};
use fsmtp_store::ShardId;
use fsmtp_store::spool::SpoolConfig;

use crate::remote::Habit;

/// Hosts, clients, faults and crashes of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The machine's faults.
    pub(crate) options: Options,
    /// Shards of the node: 1 to 3.
    pub(crate) shards: usize,
    /// What each client is.
    pub(crate) clients: Vec<Kind>,
    /// Servers elsewhere that mail is sent on to.
    pub(crate) remotes: Vec<Habit>,
    /// After so many seconds what could not be sent on is given up.
    pub(crate) expiry_s: u64,
    /// After so many seconds its sender is told that it is late.
    pub(crate) notice_s: Option<u64>,
    /// Crashes of the node, in order.
    pub(crate) crashes: Vec<CrashPlan>,
    /// The crash before the last audit.
    pub(crate) last_crash: Crash,
    /// After so many deliveries the index persists.
    pub(crate) persist_count: usize,
    /// Clients think for so long between what they say, at most.
    pub(crate) think_ms: u64,
    /// Chance, per message and million, that a reader deletes it.
    pub(crate) deletes: u32,
    /// Chance, per question and million, that the index is busy.
    pub(crate) index_busy: u32,
    /// Connections that a listener takes.
    pub(crate) connections_max: usize,
    /// The largest message.
    pub(crate) message_bytes_max: u64,
    /// Whether mail is sealed, but for that of one account.
    pub(crate) sealed: bool,
    /// How the spools are laid out.
    pub(crate) layout: SpoolConfig,
    /// Planted: chance that the index delivers a message twice.
    pub(crate) index_doubles: u32,
    /// Planted: chance that the index drops a message.
    pub(crate) index_drops: u32,
    /// Planted: chance that the index forgets what became of queued mail.
    pub(crate) index_forgets: u32,
    /// Planted: the log is replayed from where the index heard it, not from what it persisted.
    pub(crate) mark_only: bool,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Speaks SMTP and checks every reply.
    Polite,
    /// The same, and hangs up at a random moment.
    Hasty,
    /// Sends one script twice, cut differently, and compares.
    Twin,
    /// Sends commands and never reads.
    Deaf,
    /// Submits mail for servers elsewhere.
    Sender,
    /// Reads mail over POP3.
    Reader,
    /// Connects and says nothing.
    Idle,
}

/// How the node goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fall {
    /// At once.
    Crash(Crash),
    /// It drains first, as at SIGTERM.
    Drain,
}

/// When and how the node crashes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashPlan {
    /// After so many more writes were submitted.
    pub(crate) writes: u64,
    /// And so many more steps.
    pub(crate) steps: u64,
    /// How.
    pub(crate) fall: Fall,
    /// Whether a bit of the disk flips before the next start.
    pub(crate) rot: bool,
    /// Shards that the next start has, at most; the others' logs are adopted.
    pub(crate) shards: usize,
    /// Milliseconds until it is started again.
    pub(crate) down_ms: u64,
}

impl Plan {
    /// The plan of `seed`.
    pub(crate) fn of(seed: u64) -> Self {
        // Not the world's own generator: a change here must not shift every choice there.
        let mut random = Random::new(seed ^ 0x706c_616e);
        let mut options = Options::swarm(&mut random);
        options.disk.capacity_bytes = 1 << 30;
        let kinds = Self::kinds(&mut random);
        let clients: Vec<Kind> = (0..random.within((1, 5))).map(|_| *random.pick(&kinds)).collect();
        let sends = clients.contains(&Kind::Sender);
        let remotes = if sends { random.within((1, 3)) } else { 0 };
        let remotes = (0..remotes).map(|_| *random.pick(&Habit::ALL)).collect();
        let crash = |random: &mut Random| {
            if random.chance(300_000) { Crash::Process } else { Crash::Power }
        };
        let shards = random.within((1, 3)) as usize;
        let shrinks = random.chance(200_000);
        let crashes = (0..random.below(4))
            .map(|_| CrashPlan {
                writes: random.below(8),
                steps: random.below(*random.clone().pick(&[1, 5, 60, 500])),
                fall: match random.below(8) {
                    0 => Fall::Drain,
                    _ => Fall::Crash(crash(&mut random)),
                },
                down_ms: *random.pick(&[0, 100, 30_000]),
                rot: random.chance(30_000),
                shards: if shrinks { random.within((1, shards as u64)) as usize } else { shards },
            })
            .collect();
        let layout = Self::layout(&mut random);
        if random.chance(150_000) {
            options.disk.capacity_bytes = layout.segment_bytes * random.within((2, 12));
        }
        // Through a pipe of a few bytes, latency would add up to more than any time-out.
        if options.net.buffer_bytes.0 < 512 {
            options.net.latency_ns.1 = options.net.latency_ns.1.min(100_000);
        }
        Self {
            options,
            shards,
            clients,
            remotes,
            expiry_s: *random.pick(&[40, 1_200]),
            notice_s: *random.pick(&[None, Some(30)]),
            crashes,
            last_crash: crash(&mut random),
            persist_count: *random.pick(&[1, 3, 1_000]),
            think_ms: *random.pick(&[0, 0, 500, 5_000]),
            deletes: *random.pick(&[400_000, 900_000]),
            index_busy: *random.pick(&[0, 0, MILLION / 10, MILLION / 2]),
            connections_max: if random.chance(100_000) { 2 } else { 1_000 },
            message_bytes_max: if random.chance(150_000) { 1_000 } else { 10_485_760 },
            sealed: random.chance(600_000),
            layout,
            index_doubles: 0,
            index_drops: 0,
            index_forgets: 0,
            mark_only: false,
        }
    }

    /// One shard without faults and with the usual layout, for counting.
    pub(crate) fn calm() -> Self {
        Self {
            options: Options::calm(),
            shards: 1,
            clients: Vec::new(),
            remotes: Vec::new(),
            expiry_s: 1_200,
            notice_s: None,
            crashes: Vec::new(),
            last_crash: Crash::Process,
            persist_count: 1_000,
            think_ms: 0,
            deletes: 0,
            index_busy: 0,
            connections_max: 1_000,
            message_bytes_max: 10_485_760,
            sealed: false,
            layout: SpoolConfig::new(ShardId(0)),
            index_doubles: 0,
            index_drops: 0,
            index_forgets: 0,
            mark_only: false,
        }
    }

    /// Small segments, batches and chunks, so that each border is crossed often.
    fn layout(random: &mut Random) -> SpoolConfig {
        let page = PAGE_BYTES as u64;
        let batch = *random.pick(&[2, 3, 16, 32]) * page;
        // Starts read whole segments, so large ones would make runs slow.
        let most = (150_000 / batch).clamp(2, 12);
        let segment = page + batch * random.within((1, *random.clone().pick(&[1, most])));
        // The list of the chunks of the longest message must fit into a batch.
        let least = 4_000_000 / batch as usize;
        let chunk = random.pick(&[64, 1_000, 4_096, 6_000, 65_536]).max(&least);
        SpoolConfig {
            segment_bytes: segment,
            reserve_bytes: segment,
            space_check_bytes: batch,
            chunk_bytes: *chunk.min(&(batch as usize - 2_048)),
            batch_bytes_max: batch as usize,
            backlog_count_max: random.within((1, 8)) as usize,
            gather_turns: random.below(3) as u32,
            compact_live_percent: *random.pick(&[40, 90]),
            ..SpoolConfig::new(ShardId(0))
        }
    }

    /// The kinds of clients of this run: polite ones always, of the others some.
    fn kinds(random: &mut Random) -> Vec<Kind> {
        let mut kinds = vec![Kind::Polite, Kind::Polite];
        for (kind, chance) in [
            (Kind::Hasty, 500_000),
            (Kind::Twin, 500_000),
            (Kind::Reader, 700_000),
            (Kind::Sender, 400_000),
            (Kind::Deaf, 100_000),
            (Kind::Idle, 100_000),
        ] {
            if random.chance(chance) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// Whether the disk may fail or be full in this run, so that a start may fail.
    pub(crate) fn disk_fails(&self) -> bool {
        let disk = &self.options.disk;
        disk.write_errors + disk.write_full + disk.name_errors + disk.read_errors > 0
            || disk.capacity_bytes < 1 << 30
    }

    /// Whether a connection may be refused for their number.
    pub(crate) fn crowded(&self) -> bool {
        self.connections_max < 100
    }

    /// Whether mail may be deferred in this run.
    pub(crate) fn defers(&self) -> bool {
        self.disk_fails() || self.index_busy > 0
    }
}
