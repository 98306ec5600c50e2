//! How fast the disk below a folder writes, and how often it was flushed.
//!
//! Used by `measure`. Writes go to a file without a name, past the page cache where that is
//! possible, and are bounded in time and bytes.

use super::super::doctor;
use core::time::Duration;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One write.
const PIECE_BYTES: usize = 1 << 20;
/// What direct writes must be aligned to.
const ALIGNMENT: usize = 4096;
/// No more than this is written.
const BYTES_MAX: u64 = 1 << 30;

/// Bytes in a second of large writes, synced at the end, for about `time`.
pub(super) fn sequential(folder: &Path, time: Duration, free: u64) -> Result<f64, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    let direct = doctor::nameless(folder, true);
    let file = direct.or_else(|_| doctor::nameless(folder, false)).map_err(failed)?;
    let room = vec![0x5a; PIECE_BYTES + ALIGNMENT];
    let first = room.as_ptr().align_offset(ALIGNMENT);
    let piece = room.get(first..first + PIECE_BYTES).ok_or("memory cannot be aligned")?;
    let most = BYTES_MAX.min(free / 8);
    let (began, mut written) = (Instant::now(), 0);
    while began.elapsed() < time && written < most {
        file.write_all_at(piece, written).map_err(failed)?;
        written += PIECE_BYTES as u64;
    }
    file.sync_data().map_err(failed)?;
    Ok(written as f64 / began.elapsed().as_secs_f64())
}

/// Flushes that the disk has made since it was there, when it counts them: `disk` is its folder in
/// `/sys`.
pub(super) fn flushes(disk: Option<&PathBuf>) -> Option<u64> {
    let text = fs::read_to_string(disk?.join("stat")).ok()?;
    // Documentation/block/stat.rst of the kernel: the sixteenth number.
    text.split_whitespace().nth(15)?.parse().ok()
}
