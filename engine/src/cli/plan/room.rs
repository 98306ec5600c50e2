//! What a measurement may take of this machine: disk space and descriptors.
//!
//! Used by `measure` before anything is started. Fails, with a line for the operator, where there
//! is too little for figures that mean something.

use super::super::checks;
use super::sum::stored;
use crate::config::{Config, Overrides, Protocol};

/// Idle connections; arbitrary, enough that what each takes shows.
const IDLE_MAX: u64 = 2000;
/// Fewer say nothing of what one takes.
const IDLE_MIN: u64 = 100;
/// Descriptors of this process besides connections, generously.
const DESCRIPTORS_OWN: u64 = 200;
/// What the mail may fill of the disk that is free beside log files, and the most that it may be.
const FILL_SHARE: u64 = 4;
const FILL_MAX: u64 = 8 << 30;
/// Free space that a measurement needs at least besides log files and reserve.
const MAIL_MIN: u64 = 1 << 30;

/// How much of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// Messages that may be sent.
    pub(super) messages: u64,
    /// Connections that may be open at a time.
    pub(super) connections: u64,
}

impl Room {
    /// Where `free` bytes are free and `open_files` files may be open, for an engine on
    /// `processors` and messages of `size`.
    pub(super) fn new(
        processors: u16,
        size: u64,
        free: u64,
        open_files: u64,
    ) -> Result<Self, String> {
        let only = vec![Protocol::Smtp, Protocol::Submission];
        let overrides =
            Overrides { dev: true, cores: Some(processors), only, ..Overrides::default() };
        let mut config = Config::load(None, &overrides).map_err(|error| error.to_string())?;
        let logs = checks::needed_bytes(&config);
        let needed = logs.saturating_add(MAIL_MIN);
        if free < needed {
            return Err(format!("{} MiB free, {} MiB needed", free >> 20, needed >> 20));
        }
        // Those that do not fit it turns away.
        checks::fit_connections(&mut config, Some(open_files))?;
        let taken = config.listeners.first().map_or(0, |listener| listener.connections_max);
        let connections =
            IDLE_MAX.min(open_files.saturating_sub(DESCRIPTORS_OWN)).min(taken.into());
        if connections < IDLE_MIN {
            return Err(format!(
                "{open_files} files may be open, too few for {IDLE_MIN} connections: raise \
                 `ulimit -n`"
            ));
        }
        let fill = ((free - logs) / FILL_SHARE).min(FILL_MAX);
        Ok(Self { messages: (fill as f64 / stored(size)) as u64, connections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_sent_fits_the_disk_with_all_that_is_stored_of_it() {
        // 256 MiB of reserve and two log files of 64 MiB for each shard.
        let logs = |shards: u64| (256 << 20) + shards * (128 << 20);
        for (shards, free) in [(2, 2 * GIB), (2, 500 * GIB), (64, 12 * GIB)] {
            for size in [100, 20 << 10, 10 << 20] {
                let room = Room::new(shards, size, free, 20_000).unwrap();
                let filled = room.messages * (size + 1024) * 105 / 100;
                assert!(filled <= (free - logs(shards.into())) / 4, "{size}: {filled} of {free}");
                assert!(filled <= 8 * GIB && room.messages > 10, "{size}: {filled}");
            }
        }
        let said = |shards, free| Room::new(shards, 100, free, 20_000).unwrap_err();
        assert_eq!(said(2, GIB), "1024 MiB free, 1536 MiB needed");
        assert_eq!(said(64, 9 * GIB), "9216 MiB free, 9472 MiB needed", "logs of 64 shards");
    }

    #[test]
    fn no_more_connections_are_opened_than_the_engine_takes() {
        let room =
            |open_files| Room::new(2, 4096, 100 * GIB, open_files).map(|room| room.connections);
        assert_eq!((room(u64::MAX), room(20_000)), (Ok(2000), Ok(2000)));
        // What is left beside two shards, for each of three listeners.
        let others = 2 * (64 + 2 * 32 + 3 * 17) + 128;
        assert_eq!(room(others + 3 * 300), Ok(300));
        assert!(room(others + 3 * 99).unwrap_err().contains("`ulimit -n`"));
        assert!(room(100).unwrap_err().contains("`ulimit -n`"));
    }
}
