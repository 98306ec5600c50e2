//! Reading a message back, piece by piece, from any shard's segments.
//!
//! One reader serves one task, message after message; the files are shared ([`SegmentFiles`]) and
//! borrowed for one read at a time. Memory: one piece (at most a batch, usually 64 KiB) and the
//! tail of a message with chunks. Every record is checked: place, message id, checksum. A mismatch
//! is [`StoreError::Moved`] when the segment was given back meanwhile, so the caller asks the index
//! again, else [`StoreError::Corrupt`].
//!
//! A sealed message is opened on the way, with the key that the caller has
//! ([`Reader::open_sealed`]): no byte of a chunk is given out before all of it was found to be what
//! was sealed there. A message that should be sealed and is not, or the other way round, is damage.

use core::fmt;
use std::rc::Rc;

use fsmtp_rt::{Disk, File, IoError, IoKind, PAGE_BYTES};

use super::BodyRef;
use super::files::SegmentFiles;
use super::segment::place;
use crate::envelope::Envelope;
use crate::error::StoreError;
use crate::format::{
    Kind, MessageParts, PAGE, RECORD_HEAD_BYTES, RecordHead, SegmentHeader, record_at,
};
use crate::id::{Lsn, ShardId};
use crate::seal::{ContentKey, Opener, Part, SealError, TAG_BYTES};

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
    /// None for a message in clear.
    opener: Option<Box<Opener>>,
}

/// A message record and where in it things are.
struct Record {
    bytes: Vec<u8>,
    envelope_at: usize,
    head_at: usize,
    tail_at: usize,
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

    /// Begins to read a message that lies in clear. Reads nothing yet.
    pub fn open(&mut self, body: BodyRef) {
        self.body = Some(Body { at: body, step: Step::Message, opener: None });
    }

    /// Begins to read a sealed message. Reads nothing yet.
    pub fn open_sealed(&mut self, body: BodyRef, key: &ContentKey) {
        let opener = Some(Box::new(Opener::new(key, body.id)));
        self.body = Some(Body { at: body, step: Step::Message, opener });
    }

    /// The envelope of the message that is open; from its record, whatever was read before.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn envelope(&mut self) -> Result<Envelope, StoreError> {
        let Record { mut bytes, envelope_at, head_at, .. } = self.message_record().await?;
        let sealed = bytes.get_mut(envelope_at..head_at).unwrap_or(&mut []);
        let opener = self.body.as_ref().and_then(|body| body.opener.as_ref());
        let opened = match opener {
            None => Ok(&*sealed),
            Some(opener) => opener.open_part(Part::Envelope, sealed).map(|opened| &*opened),
        };
        let envelope = opened.map_err(|why| self.unopened(why)).map(Envelope::decode)?;
        envelope.map_err(|why| self.corrupt(why.to_string()))
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
    /// same piece can be asked for again; of a sealed message that did not open, it is refused.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let Some(body) = &mut self.body else { return Ok(None) };
            let piece = match &mut body.step {
                Step::Done => return Ok(None),
                Step::Message => self.message().await?,
                Step::Chunk(index, tail) => match body.at.chunks.get(*index).copied() {
                    None => {
                        let mut tail = core::mem::take(tail);
                        self.open_chunk(&mut tail, true)?;
                        if let Some(body) = &mut self.body {
                            body.step = Step::Done;
                        }
                        tail
                    }
                    Some(lsn) => {
                        let mut piece = self.chunk(lsn).await?;
                        self.open_chunk(&mut piece, false)?;
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
        let Record { mut bytes, head_at, mut tail_at, .. } = self.message_record().await?;
        let Some(body) = &mut self.body else { return Ok(bytes) };
        let is_whole = body.at.chunks.is_empty();
        if let Some(opener) = &mut body.opener {
            let (head, tail) = bytes.split_at_mut(tail_at);
            let opened = opener.open_part(Part::Trace, head.get_mut(head_at..).unwrap_or(&mut []));
            let opened = opened.and_then(|_| match is_whole {
                true => opener.open_chunk(tail, true).map(|tail| tail.len()),
                false => Ok(tail.len()),
            });
            let tail_bytes = opened.map_err(|why| self.unopened(why))?;
            // copy: the tag of the head goes.
            bytes.copy_within(tail_at..tail_at + tail_bytes, tail_at - TAG_BYTES);
            tail_at -= TAG_BYTES;
            bytes.truncate(tail_at + tail_bytes);
        }
        let step = if is_whole { Step::Done } else { Step::Chunk(0, bytes.split_off(tail_at)) };
        bytes.drain(..head_at);
        if let Some(body) = &mut self.body {
            body.step = step;
        }
        Ok(bytes)
    }

    /// The record of the message that is open, sealed or not as the caller said.
    async fn message_record(&mut self) -> Result<Record, StoreError> {
        let Some((lsn, chunks_count, is_sealed)) = self
            .body
            .as_ref()
            .map(|body| (body.at.lsn, body.at.chunks.len(), body.opener.is_some()))
        else {
            return Err(StoreError::Invalid("no message is open".into()));
        };
        let bytes = self.record(lsn, MESSAGE_GUESS_BYTES, Kind::is_message).await?;
        let payload = bytes.get(RECORD_HEAD_BYTES..).unwrap_or(&[]);
        let parts = MessageParts::decode(payload)
            .filter(|parts| parts.chunks().len() == chunks_count)
            .filter(|parts| !is_sealed || parts.head_bytes >= TAG_BYTES)
            .map(|parts| (parts.envelope.len(), parts.body.len(), parts.head_bytes, parts.keys));
        let Some((envelope_bytes, body_bytes, head_bytes, keys)) = parts else {
            return Err(self.corrupt("the message record contradicts itself or the index".into()));
        };
        if keys.is_empty() == is_sealed {
            let found = if is_sealed { "in clear" } else { "sealed" };
            return Err(self.corrupt(format!("the message is {found}, which the index denies")));
        }
        let head_at = bytes.len() - body_bytes;
        let (envelope_at, tail_at) = (head_at - envelope_bytes, head_at + head_bytes);
        Ok(Record { bytes, envelope_at, head_at, tail_at })
    }

    /// Opens a chunk of the message in place, when that is sealed.
    fn open_chunk(&mut self, bytes: &mut Vec<u8>, last: bool) -> Result<(), StoreError> {
        let opener = self.body.as_mut().and_then(|body| body.opener.as_mut());
        let Some(opener) = opener else { return Ok(()) };
        let opened = opener.open_chunk(bytes, last).map(|opened| opened.len());
        bytes.truncate(opened.map_err(|why| self.unopened(why))?);
        Ok(())
    }

    fn unopened(&self, why: SealError) -> StoreError {
        self.corrupt(format!("what is sealed does not open: {why}"))
    }

    /// Damage of the message that is open.
    fn corrupt(&self, why: String) -> StoreError {
        let at =
            self.body.as_ref().map_or((ShardId(0), Lsn(0)), |body| (body.at.shard, body.at.lsn));
        StoreError::Corrupt { place: place(at.0, self.segment_bytes, at.1), why }
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
        let file = self.files.lend((shard, number)).await.map_err(no_segment)?;
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
            Err(error) => no_segment(error),
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
fn no_segment(error: IoError) -> StoreError {
    if error.kind == IoKind::NotFound { StoreError::Moved } else { error.into() }
}

impl<D: Disk> fmt::Debug for Reader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.body.as_ref().map(|body| body.at.id);
        write!(f, "Reader({open:?}, {:?})", self.files)
    }
}
