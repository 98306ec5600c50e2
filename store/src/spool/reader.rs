//! Reading a message back, piece by piece, from any shard's segments.
//!
//! One reader serves one task, message after message; the files are shared ([`SegmentFiles`]) and
//! borrowed for one read at a time. Memory: one piece (at most a batch, usually 64 KiB) and the
//! tail of a message with chunks. Every record is checked: place, message id, checksum. A mismatch
//! is [`StoreError::Moved`] when the segment was given back meanwhile, so the caller asks the index
//! again, else [`StoreError::Corrupt`].

use core::fmt;
use std::rc::Rc;

use fsmtp_rt::{Disk, File, IoError, IoKind, PAGE_BYTES};

use super::BodyRef;
use super::files::SegmentFiles;
use super::segment::place;
use crate::error::StoreError;
use crate::format::{
    Kind, MessageParts, PAGE, RECORD_HEAD_BYTES, RecordHead, SegmentHeader, record_at,
};
use crate::id::{Lsn, ShardId};

/// What is read at first of a message record, whose length is not known; most are smaller.
const MESSAGE_GUESS_BYTES: usize = 8 * 1024;
/// What is read at first of a chunk: the usual length.
const CHUNK_GUESS_BYTES: usize = 64 * 1024 + RECORD_HEAD_BYTES;

/// Reads bodies.
pub struct Reader<D: Disk> {
    files: Rc<SegmentFiles<D>>,
    segment_bytes: u64,
    body: Option<Body>,
}

/// The message that is being read.
struct Body {
    at: BodyRef,
    step: Step,
}

enum Step {
    /// The message record, which has the head.
    Message,
    /// The chunk of this index; the tail is known by now.
    Chunk(usize, Vec<u8>),
    /// Everything was given.
    Done,
}

impl<D: Disk> Reader<D> {
    /// A reader with files of its own, over the folder that the shards share; `segment_bytes` as in
    /// their configuration.
    #[must_use]
    pub fn new(disk: D, segment_bytes: u64) -> Self {
        Self::sharing(&SegmentFiles::new(disk), segment_bytes)
    }

    /// A reader that shares its files with others.
    #[must_use]
    pub fn sharing(files: &Rc<SegmentFiles<D>>, segment_bytes: u64) -> Self {
        Self { files: Rc::clone(files), segment_bytes, body: None }
    }

    /// Begins to read a message. Reads nothing yet.
    pub fn open(&mut self, body: BodyRef) {
        self.body = Some(Body { at: body, step: Step::Message });
    }

    /// Goes on with the same message in its new place, after [`StoreError::Moved`]: the next piece
    /// is the one that could not be read.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is not the same message.
    pub fn relocate(&mut self, to: BodyRef) -> Result<(), StoreError> {
        match &mut self.body {
            Some(body) if body.at.id == to.id && body.at.chunks.len() == to.chunks.len() => {
                body.at = to;
                Ok(())
            }
            _ => Err(StoreError::Invalid("a reader goes on with the same message only".into())),
        }
    }

    /// The next piece of the message, never an empty one; none at its end.
    ///
    /// # Errors
    /// [`StoreError::Moved`], [`StoreError::Corrupt`], or what the disk says. After an error the
    /// same piece can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            let piece = match &mut body.step {
                Step::Done => return Ok(None),
                Step::Message => self.message().await?,
                Step::Chunk(index, tail) => match body.at.chunks.get(*index).copied() {
                    None => {
                        let tail = core::mem::take(tail);
                        body.step = Step::Done;
                        tail
                    }
                    Some(lsn) => {
                        let piece = self.chunk(lsn).await?;
                        if let Some(Body { step: Step::Chunk(index, _), .. }) = &mut self.body {
                            *index += 1;
                        }
                        piece
                    }
                },
            };
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Reads the message record: the whole body of a message without chunks, else its head.
    async fn message(&mut self) -> Result<Vec<u8>, StoreError> {
        let Some((lsn, chunks_count)) =
            self.body.as_ref().map(|body| (body.at.lsn, body.at.chunks.len()))
        else {
            return Ok(Vec::new());
        };
        let mut record = self.record(lsn, MESSAGE_GUESS_BYTES, Kind::is_message).await?;
        let payload = record.get(RECORD_HEAD_BYTES..).unwrap_or(&[]);
        let parts = MessageParts::decode(payload)
            .filter(|parts| parts.chunks().len() == chunks_count)
            .map(|parts| (record.len() - parts.body.len(), parts.head_bytes));
        let Some((body_at, head_bytes)) = parts else {
            let shard = self.body.as_ref().map_or(ShardId(0), |body| body.at.shard);
            return Err(StoreError::Corrupt {
                place: place(shard, self.segment_bytes, lsn),
                why: "the message record contradicts itself or the index".to_owned(),
            });
        };
        let step = if chunks_count == 0 {
            Step::Done
        } else {
            let tail = record.split_off(body_at + head_bytes);
            Step::Chunk(0, tail)
        };
        record.drain(..body_at);
        if let Some(body) = &mut self.body {
            body.step = step;
        }
        Ok(record)
    }

    async fn chunk(&mut self, lsn: Lsn) -> Result<Vec<u8>, StoreError> {
        let mut record = self.record(lsn, CHUNK_GUESS_BYTES, Kind::is_chunk).await?;
        record.drain(..RECORD_HEAD_BYTES);
        Ok(record)
    }

    /// A whole and checked record of the message that is open, head included.
    async fn record(
        &mut self,
        lsn: Lsn,
        guess_bytes: usize,
        is_kind: fn(Kind) -> bool,
    ) -> Result<Vec<u8>, StoreError> {
        let Some((shard, id)) = self.body.as_ref().map(|body| (body.at.shard, body.at.id)) else {
            return Err(StoreError::Invalid("no message is open".into()));
        };
        let number = lsn.0 / self.segment_bytes;
        if lsn.0 % self.segment_bytes < PAGE {
            return Err(StoreError::Corrupt {
                place: place(shard, self.segment_bytes, lsn),
                why: "the index names a place that holds no record".to_owned(),
            });
        }
        let file = self.files.lend((shard, number)).await.map_err(unopened)?;
        let at = lsn.0 % self.segment_bytes;
        let left = usize::try_from(self.segment_bytes - at).unwrap_or(usize::MAX);
        let mut bytes = file.read(at, guess_bytes.min(left)).await?;
        let wanted = RecordHead::decode(&bytes).filter(|head| head.lsn == lsn && head.id == id);
        if let Some(head) = wanted {
            if let Some(missing) = head.record_bytes().checked_sub(bytes.len())
                && missing > 0
            {
                let more = file.read(at + bytes.len() as u64, missing).await?;
                bytes.extend_from_slice(&more);
            }
            bytes.truncate(head.record_bytes());
            if is_kind(head.kind) && record_at(&bytes, lsn).is_some() {
                return Ok(bytes);
            }
        }
        drop(file);
        Err(self.why_not(shard, lsn).await)
    }

    /// Tells a segment that was given back from a damaged one.
    async fn why_not(&mut self, shard: ShardId, lsn: Lsn) -> StoreError {
        let number = lsn.0 / self.segment_bytes;
        self.files.forget((shard, number));
        // A number is never used twice: a segment that is there under its name is the one meant.
        let page = match self.files.lend((shard, number)).await {
            Ok(file) => file.read(0, PAGE_BYTES).await,
            Err(error) => Err(error),
        };
        match page {
            Err(error) => unopened(error),
            Ok(page) if SegmentHeader::decode(&page).is_ok_and(|it| it.number != number) => {
                StoreError::Moved
            }
            Ok(_) => StoreError::Corrupt {
                place: place(shard, self.segment_bytes, lsn),
                why: "the record of the message is not there".to_owned(),
            },
        }
    }
}

/// A segment that is not there was given back.
fn unopened(error: IoError) -> StoreError {
    if error.kind == IoKind::NotFound { StoreError::Moved } else { error.into() }
}

impl<D: Disk> fmt::Debug for Reader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.body.as_ref().map(|body| body.at.id);
        write!(f, "Reader({open:?}, {:?})", self.files)
    }
}
