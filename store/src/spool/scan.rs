//! Reading a segment batch by batch: for recovery and for compaction.
//!
//! Holds a window of up to [`WINDOW_BYTES`] (a batch fits), so a segment of small batches costs few
//! reads. Judges batches, and leaves it to the caller what a bad one means.

use fsmtp_rt::{Disk, File, IoError, PAGE_BYTES};

use super::SpoolConfig;
use super::segment::segment_name;
use crate::format::{
    BATCH_BYTES_MAX, BATCH_RECORD_BYTES, BatchHead, Kind, PAGE, RecordHead, record_at,
};
use crate::id::Lsn;

/// How much is read at once.
const WINDOW_BYTES: usize = BATCH_BYTES_MAX;

/// A segment that is being read.
pub(super) struct Scan<F> {
    pub(super) file: F,
    pub(super) number: u64,
    segment_bytes: u64,
    window: Vec<u8>,
    /// Where in the file the window begins.
    window_at: u64,
}

/// What stands at a place where a batch may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A batch, every record of it whole.
    Whole(BatchHead),
    /// The beginning of a batch that is not whole.
    Torn(BatchHead),
    /// No batch.
    Nothing,
}

impl<F: File> Scan<F> {
    pub(super) async fn open<D: Disk<File = F>>(
        disk: &D,
        config: &SpoolConfig,
        number: u64,
    ) -> Result<Self, IoError> {
        let file = disk.open(&segment_name(config.shard, number)).await?;
        Ok(Self::over(file, config, number))
    }

    pub(super) const fn over(file: F, config: &SpoolConfig, number: u64) -> Self {
        let segment_bytes = config.segment_bytes;
        Self { file, number, segment_bytes, window: Vec::new(), window_at: 0 }
    }

    /// The log position of a place in the file.
    pub(super) const fn lsn(&self, at: u64) -> Lsn {
        Lsn(self.number * self.segment_bytes + at)
    }

    /// Bytes of the file from `at` on, up to `bytes`; fewer at its end.
    pub(super) async fn bytes(&mut self, at: u64, bytes: usize) -> Result<&[u8], IoError> {
        let bytes = bytes.min(usize::try_from(self.segment_bytes - at).unwrap_or(usize::MAX));
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if at < held.start || at + bytes as u64 > held.end {
            self.window = self.file.read(at, bytes.max(WINDOW_BYTES)).await?;
            self.window_at = at;
        }
        let start = usize::try_from(at - self.window_at).unwrap_or(usize::MAX);
        let end = (start + bytes).min(self.window.len());
        Ok(self.window.get(start..end).unwrap_or(&[]))
    }

    /// What stands at `at`.
    pub(super) async fn batch(&mut self, at: u64) -> Result<Found, IoError> {
        if at + PAGE > self.segment_bytes {
            return Ok(Found::Nothing);
        }
        let lsn = self.lsn(at);
        let Some(head) = BatchHead::decode(self.bytes(at, PAGE_BYTES).await?, lsn) else {
            return Ok(Found::Nothing);
        };
        let bytes = self.bytes(at, head.bytes).await?;
        let mut records = Records::of(bytes, lsn);
        let whole_count = records.by_ref().count() as u64;
        let whole = bytes.len() == head.bytes
            && whole_count == u64::from(head.records_count)
            && records.at.next_multiple_of(PAGE_BYTES) == head.bytes;
        Ok(if whole { Found::Whole(head) } else { Found::Torn(head) })
    }

    /// The records of a batch that was found whole at `at`.
    pub(super) async fn records(
        &mut self,
        at: u64,
        head: BatchHead,
    ) -> Result<Records<'_>, IoError> {
        let lsn = self.lsn(at);
        Ok(Records::of(self.bytes(at, head.bytes).await?, lsn))
    }

    /// The first place, at or behind `at`, of a batch record that says that more than `lsn` was
    /// durable.
    pub(super) async fn look_ahead(&mut self, at: u64, lsn: Lsn) -> Result<Option<Lsn>, IoError> {
        let mut at = at.next_multiple_of(PAGE);
        while at + PAGE <= self.segment_bytes {
            let place = self.lsn(at);
            let head = BatchHead::decode(self.bytes(at, PAGE_BYTES).await?, place);
            if head.is_some_and(|head| head.durable > lsn) {
                return Ok(Some(place));
            }
            at += PAGE;
        }
        Ok(None)
    }

    /// Bytes from `at` on that a batch under way could have reached, up to the last that is not 0.
    pub(super) async fn dirty_bytes(&mut self, at: u64) -> Result<usize, IoError> {
        let reach = self.bytes(at, BATCH_BYTES_MAX).await?;
        let dirty = reach.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok(dirty.next_multiple_of(PAGE_BYTES))
    }
}

/// Whole records, one behind the other; ends at the first place where there is none.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    base: Lsn,
    at: usize,
}

impl<'a> Records<'a> {
    /// The records behind the batch record at the front of `bytes`.
    const fn of(bytes: &'a [u8], base: Lsn) -> Self {
        Self { bytes, base, at: BATCH_RECORD_BYTES }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (RecordHead, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let lsn = Lsn(self.base.0 + self.at as u64);
        let (head, payload) = record_at(self.bytes.get(self.at..)?, lsn)?;
        if head.kind == Kind::Batch {
            return None;
        }
        self.at += head.record_bytes();
        Some((head, payload))
    }
}
