//! Segment files: names, headers, the next one ahead of need, and giving old ones back.
//!
//! A background task keeps the segment after the current one ready, so that turning to it costs the
//! log nothing: it takes the spare file or makes one, writes the header, and only then renames it
//! into place. So a file with a segment's name always has that segment's header. When the task
//! fails it says so in the state and tries again every second.

use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;
use std::rc::Rc;

use fsmtp_rt::{Block, Disk, File, IoKind, PAGE_BYTES, Runtime};

use super::SpoolConfig;
use super::log::{Core, FileOf, wake};
use crate::error::StoreError;
use crate::format::{PAGE, SEGMENT_VERSION, SegmentHeader, SegmentHeaderError};
use crate::id::{Lsn, ShardId};

/// How long to wait after a segment could not be prepared.
const RETRY: Duration = Duration::from_secs(1);

/// An open segment.
#[derive(Clone)]
pub(super) struct Segment<F> {
    pub(super) number: u64,
    /// Its length.
    pub(super) bytes: u64,
    pub(super) file: F,
}

/// The file that waits to become a segment. There is at most one per shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spare {
    /// There is none, or none worth keeping.
    None,
    /// It has the length of a segment and any contents.
    Ready,
    /// Its name is in use: nobody else may touch it.
    Taken,
}

/// The name of a segment file.
pub(super) fn segment_name(shard: ShardId, number: u64) -> String {
    format!("{:03}-{number:010}.seg", shard.0)
}

/// The name of a shard's spare file.
pub(super) fn spare_name(shard: ShardId) -> String {
    format!("{:03}.spare", shard.0)
}

/// The name under which a new file becomes a segment. Not the spare's: a segment may be given back,
/// and become the spare, at the same time.
pub(super) fn fresh_name(shard: ShardId) -> String {
    format!("{:03}.fresh", shard.0)
}

/// The segment number in the name of a file, when it is a segment of `shard`.
pub(super) fn segment_number(shard: ShardId, name: &str) -> Option<u64> {
    let (prefix, number) = name.strip_suffix(".seg")?.split_once('-')?;
    let number = number.parse().ok().filter(|_| prefix.parse() == Ok(shard.0))?;
    // Only the one spelling that we write.
    (segment_name(shard, number) == name).then_some(number)
}

/// A place in the log, for people.
pub(super) fn place(shard: ShardId, segment_bytes: u64, lsn: Lsn) -> String {
    let name = segment_name(shard, lsn.0 / segment_bytes);
    // A log that filled a segment goes on behind the next one's header.
    format!("{name} at byte {}", (lsn.0 % segment_bytes).max(PAGE))
}

/// Checks that `page` is the header of segment `number`.
pub(super) fn check_header(
    config: &SpoolConfig,
    number: u64,
    page: &[u8],
) -> Result<(), StoreError> {
    let object = segment_name(config.shard, number);
    let header = SegmentHeader::decode(page).map_err(|error| match error {
        SegmentHeaderError::Version(found) => {
            StoreError::Version { object: object.clone(), found, known: SEGMENT_VERSION }
        }
        SegmentHeaderError::Damaged => StoreError::Corrupt {
            place: object.clone(),
            why: "its first page is not a segment header".to_owned(),
        },
    })?;
    if header.shard != u32::from(config.shard.0) || header.number != number {
        let why = format!("it is segment {} of shard {}", header.number, header.shard);
        return Err(StoreError::Corrupt { place: object, why });
    }
    if header.segment_bytes != config.segment_bytes {
        return Err(StoreError::Invalid(format!(
            "{object} was made with segments of {} bytes, the mailbox index with {}: \
             they are not of one data folder",
            header.segment_bytes, config.segment_bytes
        )));
    }
    Ok(())
}

/// Turns the spare file, or a new one, into segment `number`.
pub(super) async fn prepare<D: Disk>(
    disk: &D,
    config: &SpoolConfig,
    number: u64,
    spare: bool,
) -> Result<Segment<D::File>, StoreError> {
    let name = segment_name(config.shard, number);
    let (origin, file) = if spare {
        let origin = spare_name(config.shard);
        let file = disk.open(&origin).await?;
        (origin, file)
    } else {
        let origin = fresh_name(config.shard);
        let file = disk.create(&origin, config.segment_bytes).await?;
        (origin, file)
    };
    let header = SegmentHeader {
        shard: u32::from(config.shard.0),
        number,
        segment_bytes: config.segment_bytes,
    };
    let mut page = Block::new(PAGE_BYTES);
    let fits = page.push(&header.encode());
    assert!(fits, "a header is smaller than a page");
    page.pad();
    let (_, written) = file.write_durable(0, page).await;
    written?;
    disk.rename(&origin, &name).await?;
    let file = disk.open(&name).await?;
    Ok(Segment { number, bytes: config.segment_bytes, file })
}

/// The task that prepares segments; ends when the log is poisoned.
pub(super) async fn keep_ahead<R: Runtime>(core: Rc<Core<R>>) {
    while poll_fn(|cx| core.poll_next_wanted(cx)).await {
        let outcome = core.prepare_next().await;
        let failed = outcome.is_err();
        let front = {
            let mut state = core.state.borrow_mut();
            match outcome {
                Ok(segment) => {
                    state.next = Some(segment);
                    state.next_error = None;
                }
                Err(error) => state.next_error = Some(error),
            }
            state.room_front()
        };
        // Whoever needs the segment gets it, or the reason why not.
        wake(front);
        if failed {
            core.rt.sleep_until(core.rt.now() + RETRY).await;
        }
    }
}

impl<R: Runtime> Core<R> {
    /// Resolves to true when a segment is to be prepared, to false when never again.
    fn poll_next_wanted(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        if state.poisoned.is_some() {
            return Poll::Ready(false);
        }
        if state.next.is_none() {
            return Poll::Ready(true);
        }
        state.keeper = Some(cx.waker().clone());
        Poll::Pending
    }

    async fn prepare_next(&self) -> Result<Segment<FileOf<R>>, StoreError> {
        let (number, spare) = {
            let mut state = self.state.borrow_mut();
            let spare = state.spare == Spare::Ready;
            if spare {
                state.spare = Spare::Taken;
            }
            (state.current.number + 1, spare)
        };
        let outcome = self.prepare_segment(number, spare).await;
        if spare {
            // The name is free again. After a failure the file may be there still; what comes next
            // under this name replaces it.
            self.state.borrow_mut().spare = Spare::None;
        }
        outcome
    }

    async fn prepare_segment(
        &self,
        number: u64,
        spare: bool,
    ) -> Result<Segment<FileOf<R>>, StoreError> {
        if !spare {
            let free_bytes = self.disk.free_bytes()?;
            self.state.borrow_mut().free.saw(free_bytes, self.rt.now());
            if free_bytes < self.config.segment_bytes {
                return Err(StoreError::DiskLow { free_bytes });
            }
        }
        let made = prepare(&self.disk, &self.config, number, spare).await;
        let free_bytes = self.disk.free_bytes()?;
        self.state.borrow_mut().free.saw(free_bytes, self.rt.now());
        match made {
            Err(StoreError::Io(error)) if error.kind == IoKind::Full => {
                Err(StoreError::DiskLow { free_bytes })
            }
            other => other,
        }
    }

    /// Gives a sealed segment back: it becomes the spare, or is removed when there is one.
    pub(super) async fn give_back(&self, number: u64) -> Result<(), StoreError> {
        let name = segment_name(self.config.shard, number);
        let keep = {
            let mut state = self.state.borrow_mut();
            let keep = state.spare == Spare::None;
            if keep {
                state.spare = Spare::Taken;
            }
            keep
        };
        let outcome = if keep {
            let outcome = self.disk.rename(&name, &spare_name(self.config.shard)).await;
            self.state.borrow_mut().spare =
                if outcome.is_ok() { Spare::Ready } else { Spare::None };
            outcome
        } else {
            self.disk.remove(&name).await
        };
        match outcome {
            Ok(()) => {}
            // An earlier pass was dropped at the moment when the file went.
            Err(error) if error.kind == IoKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let mut state = self.state.borrow_mut();
        state.sealed.remove(&number);
        state.counters.recycled_count += 1;
        Ok(())
    }
}

/// Bytes of a segment that can hold batches.
pub(super) const fn first_lsn(config: &SpoolConfig, number: u64) -> Lsn {
    Lsn(number * config.segment_bytes + PAGE)
}
