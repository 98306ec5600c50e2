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
//!
//! Of a message that lies apart from the spool ([`Place::Apart`]) the caller brings the pieces, as
//! [`Reader::wants`] says; it is opened and checked in the same way.

use core::fmt;
use std::rc::Rc;

use fsmtp_rt::{Disk, File, IoError, IoKind, PAGE_BYTES};

use super::apart::{self, Raw};
use super::files::SegmentFiles;
use super::keys::{self, Windows};
use super::segment::place;
use super::{BodyRef, Place};
use crate::envelope::Envelope;
use crate::error::StoreError;
use crate::format::{
    Kind, MessageParts, PAGE, RECORD_HEAD_BYTES, RecordHead, SegmentHeader, record_at,
};
use crate::id::{Lsn, QueueId, ShardId};
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
    at: Place,
    /// The piece of a message apart that the caller has given.
    given: Option<Vec<u8>>,
    /// Known of a message apart once its first piece was read.
    chunks_count: usize,
    step: Step,
    /// None for a message in clear.
    opener: Option<Box<Opener>>,
}

impl Body {
    fn new(at: Place, opener: Option<Box<Opener>>) -> Self {
        let chunks_count = match &at {
            Place::Spool(body) => body.chunks.len(),
            Place::Apart(_) => 0,
        };
        Self { at, given: None, chunks_count, step: Step::Message, opener }
    }

    /// Where it lies in the spool.
    fn spooled(&self) -> Result<&BodyRef, StoreError> {
        match &self.at {
            Place::Spool(body) => Ok(body),
            Place::Apart(id) => Err(StoreError::Invalid(format!("{id} is not in the spool"))),
        }
    }
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
    pub fn open(&mut self, place: impl Into<Place>) {
        self.body = Some(Body::new(place.into(), None));
    }

    /// Begins to read a sealed message. Reads nothing yet.
    pub fn open_sealed(&mut self, place: impl Into<Place>, key: &ContentKey) {
        let place = place.into();
        let opener = Some(Box::new(Opener::new(key, place.id())));
        self.body = Some(Body::new(place, opener));
    }

    /// The piece that is to be [given](Self::give) before [`Self::next`] can go on: message and
    /// number. None when it needs nothing but the spool.
    #[must_use]
    pub fn wants(&self) -> Option<(QueueId, u32)> {
        let body = self.body.as_ref().filter(|body| body.given.is_none())?;
        let Place::Apart(id) = body.at else { return None };
        match body.step {
            Step::Message => Some((id, 0)),
            Step::Chunk(index, _) if index < body.chunks_count => {
                Some((id, u32::try_from(index).ok()?.checked_add(1)?))
            }
            Step::Chunk(..) | Step::Done => None,
        }
    }

    /// Gives the piece that it [wants](Self::wants).
    pub fn give(&mut self, piece: Vec<u8>) {
        if let Some(body) = &mut self.body {
            body.given = Some(piece);
        }
    }

    /// A message of the spool as it is to lie apart from it, sealed or in clear as it was: all but
    /// its chunks, which [`Self::raw_chunk`] gives.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn raw(&mut self, body: BodyRef) -> Result<Raw, StoreError> {
        let lsn = body.lsn;
        self.open(body);
        let bytes = self.record(lsn, MESSAGE_GUESS_BYTES, Kind::is_message).await?;
        let contradicts = || "the message record contradicts itself".to_owned();
        let parts = MessageParts::decode(bytes.get(RECORD_HEAD_BYTES..).unwrap_or(&[]));
        let parts = parts.ok_or_else(|| self.corrupt(contradicts()))?;
        let recipients = if parts.keys.is_empty() {
            let envelope = Envelope::decode(parts.envelope);
            keys::in_clear(&envelope.map_err(|why| self.corrupt(why.to_string()))?)
        } else {
            let decoded = keys::decode(parts.keys, &mut Windows::default());
            decoded.map_err(|why| self.corrupt(why))?.1
        };
        let chunks_count = u32::try_from(parts.chunks().len()).unwrap_or(u32::MAX);
        let first =
            apart::encode(!parts.keys.is_empty(), parts.body, parts.head_bytes, chunks_count);
        let envelope = parts.envelope.to_vec(); // copy: what lies around it goes elsewhere
        Ok(Raw { recipients, octets: parts.octets, envelope, first, chunks_count })
    }

    /// The chunk of this number, from 0, of the message that [`Self::raw`] has opened, as it is;
    /// none behind the last one.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn raw_chunk(&mut self, index: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let chunk = self.body.as_ref().map(|body| body.spooled());
        match chunk.transpose()?.and_then(|body| body.chunks.get(index).copied()) {
            Some(lsn) => self.chunk(lsn).await.map(Some),
            None => Ok(None),
        }
    }

    /// The envelope of the message that is open; from its record, whatever was read before.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn envelope(&mut self) -> Result<Envelope, StoreError> {
        let Record { mut bytes, envelope_at, head_at, .. } = self.message_record().await?;
        self.open_envelope(bytes.get_mut(envelope_at..head_at).unwrap_or(&mut []))
    }

    /// The envelope of the message that is open, out of what [`Self::raw`] has given of it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it cannot be read.
    pub fn open_envelope(&self, sealed: &mut [u8]) -> Result<Envelope, StoreError> {
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
            Some(Body { at: Place::Spool(at), .. })
                if at.id == to.id && at.chunks.len() == to.chunks.len() =>
            {
                *at = to;
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
                Step::Chunk(index, tail) => match *index < body.chunks_count {
                    false => {
                        let mut tail = core::mem::take(tail);
                        self.open_chunk(&mut tail, true)?;
                        if let Some(body) = &mut self.body {
                            body.step = Step::Done;
                        }
                        tail
                    }
                    true => {
                        let index = *index;
                        let mut piece = self.numbered_chunk(index).await?;
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
        let is_whole = body.chunks_count == 0;
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
        let Some(body) = &mut self.body else {
            return Err(StoreError::Invalid("no message is open".into()));
        };
        if let Place::Apart(_) = body.at {
            return self.first_piece();
        }
        let at = body.spooled()?;
        let (lsn, chunks_count, is_sealed) = (at.lsn, at.chunks.len(), body.opener.is_some());
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

    /// The first piece of a message apart, which was given.
    fn first_piece(&mut self) -> Result<Record, StoreError> {
        let Some(body) = &mut self.body else {
            return Err(StoreError::Invalid("no message is open".into()));
        };
        let bytes = body.given.take().ok_or_else(not_given)?;
        let is_sealed = body.opener.is_some();
        let first = apart::decode(&bytes);
        if let Ok(first) = &first {
            body.chunks_count = first.chunks_count;
        }
        let apart::First { head_at, tail_at, is_sealed: found, .. } =
            first.map_err(|why| self.corrupt(why))?;
        if found != is_sealed || (found && tail_at - head_at < TAG_BYTES) {
            let found = if found { "sealed" } else { "in clear" };
            return Err(self.corrupt(format!("the message is {found}, which the mailbox denies")));
        }
        Ok(Record { bytes, envelope_at: head_at, head_at, tail_at })
    }

    /// The chunk of this number, from 0.
    async fn numbered_chunk(&mut self, index: usize) -> Result<Vec<u8>, StoreError> {
        let lsn = match &mut self.body {
            Some(Body { at: Place::Apart(_), given, .. }) => {
                return given.take().ok_or_else(not_given);
            }
            Some(Body { at: Place::Spool(at), .. }) => at.chunks.get(index).copied(),
            None => None,
        };
        match lsn {
            Some(lsn) => self.chunk(lsn).await,
            None => Err(self.corrupt("a chunk is missing".into())),
        }
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
        let place = match self.body.as_ref().map(|body| &body.at) {
            Some(Place::Spool(body)) => place(body.shard, self.segment_bytes, body.lsn),
            Some(Place::Apart(id)) => format!("message {id}"),
            None => place(ShardId(0), self.segment_bytes, Lsn(0)),
        };
        StoreError::Corrupt { place, why }
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
        let at = self.body.as_ref().map(Body::spooled).transpose()?;
        let Some((shard, id)) = at.map(|body| (body.shard, body.id)) else {
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

fn not_given() -> StoreError {
    StoreError::Invalid("a piece of a message apart was not given".into())
}

/// A segment that is not there was given back.
fn no_segment(error: IoError) -> StoreError {
    if error.kind == IoKind::NotFound { StoreError::Moved } else { error.into() }
}

impl<D: Disk> fmt::Debug for Reader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.body.as_ref().map(|body| body.at.id());
        write!(f, "Reader({open:?}, {:?})", self.files)
    }
}
