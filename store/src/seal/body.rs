//! One message under its content key: the body as a stream of chunks, and the parts beside it.
//!
//! Called while a message arrives ([`Sealer`]) and while it is read ([`Opener`]). A chunk is sealed
//! in place and grows by a tag of 16 bytes; where chunks begin and end is the caller's to remember.
//!
//! ```text
//! nonce     0 domain u8 (0 the body, else the part)   1 last u8   2 two zeros   4 chunk number u64
//! context   "fs1.body", queue id, chunk number, last; or "fs1.part", queue id, part
//! ```
//!
//! Limits: [`CHUNK_BYTES_MAX`], [`PART_BYTES_MAX`]. Failure: a chunk or part that is not exactly
//! what was sealed, in this place of this message, gives [`SealError::Refused`]; a stream that
//! stops early gives [`SealError::Unfinished`].

use core::fmt;

use super::aead::{Cipher, Context, Purpose, context};
use super::error::SealError;
use super::key::{ContentKey, Key, Random};
use crate::id::QueueId;

/// The most plaintext bytes of a chunk: what a reader must hold before it may believe any of it.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// The most plaintext bytes of a part; an envelope of the largest size fits.
pub const PART_BYTES_MAX: usize = 1024 * 1024;

const BODY_DOMAIN: u8 = 0;

/// What is sealed beside the body, once for each message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The envelope: addresses, and what was agreed about the message.
    Envelope,
    /// The header that the server put in front of the message.
    Trace,
    /// What the index shows without reading the body.
    Preview,
}

impl Part {
    const fn domain(self) -> u8 {
        match self {
            Self::Envelope => 1,
            Self::Trace => 2,
            Self::Preview => 3,
        }
    }
}

fn nonce(domain: u8, last: bool, number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = domain;
    nonce[1] = u8::from(last);
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

fn chunk_context(id: QueueId, number: u64, last: bool) -> Context {
    context(Purpose::Body, [id.0, number, u64::from(last)])
}

fn part_context(id: QueueId, part: Part) -> Context {
    context(Purpose::Part, [id.0, u64::from(part.domain()), 0])
}

/// Where a stream of chunks stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    /// The number of the chunk that comes next.
    At(u64),
    /// The last chunk was seen.
    Finished,
    /// A chunk was refused; nothing that follows is believed.
    Broken,
}

/// Seals one message under a key of its own.
pub struct Sealer {
    key: ContentKey,
    cipher: Cipher,
    id: QueueId,
    stream: Stream,
    /// A bit for each [`Part`] that was sealed.
    parts: u8,
}

impl Sealer {
    /// Begins the message `id` under a fresh key.
    #[must_use]
    pub fn begin(id: QueueId, random: Random<'_>) -> Self {
        let key = Key::fresh(random);
        let cipher = Cipher::new(&key);
        Self { key: ContentKey(key), cipher, id, stream: Stream::At(0), parts: 0 }
    }

    /// Seals the next chunk in place; `last` says that no other follows. A chunk may be empty.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] over [`CHUNK_BYTES_MAX`], [`SealError::Misuse`] after the last
    /// chunk; `buf` is as it was then.
    pub fn seal_chunk(&mut self, buf: &mut Vec<u8>, last: bool) -> Result<(), SealError> {
        let Stream::At(number) = self.stream else {
            return Err(SealError::Misuse("a chunk after the last one"));
        };
        if buf.len() > CHUNK_BYTES_MAX {
            return Err(SealError::TooLarge("a chunk"));
        }
        let context = chunk_context(self.id, number, last);
        self.cipher.seal(nonce(BODY_DOMAIN, last, number), &context, buf)?;
        self.stream = if last { Stream::Finished } else { Stream::At(number + 1) };
        Ok(())
    }

    /// Seals `part` in place.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] over [`PART_BYTES_MAX`], [`SealError::Misuse`] when that part was
    /// sealed before; `buf` is as it was then.
    pub fn seal_part(&mut self, part: Part, buf: &mut Vec<u8>) -> Result<(), SealError> {
        if buf.len() > PART_BYTES_MAX {
            return Err(SealError::TooLarge("a part"));
        }
        // A second plaintext under the same nonce would show both.
        let bit = 1 << part.domain();
        if self.parts & bit != 0 {
            return Err(SealError::Misuse("a part that was sealed before"));
        }
        self.parts |= bit;
        self.cipher.seal(nonce(part.domain(), false, 0), &part_context(self.id, part), buf)
    }

    /// The key, to be wrapped for those who may read the message.
    #[must_use]
    pub fn content_key(&self) -> &ContentKey {
        &self.key
    }

    /// The message that is sealed.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// Ends the message and gives its key, which from now on can only open.
    ///
    /// # Errors
    /// [`SealError::Unfinished`] when no last chunk was sealed.
    pub fn finish(self) -> Result<ContentKey, SealError> {
        match self.stream {
            Stream::Finished => Ok(self.key),
            Stream::At(_) | Stream::Broken => Err(SealError::Unfinished),
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, {:?})", self.id, self.stream)
    }
}

/// Opens one message.
pub struct Opener {
    cipher: Cipher,
    id: QueueId,
    stream: Stream,
}

impl Opener {
    /// Begins to open the message `id`.
    #[must_use]
    pub fn new(key: &ContentKey, id: QueueId) -> Self {
        Self { cipher: Cipher::new(&key.0), id, stream: Stream::At(0) }
    }

    /// Opens the next chunk in place and gives its plaintext, the front of `buf`. `last` says
    /// whether the caller takes it for the last one.
    ///
    /// # Errors
    /// [`SealError::Refused`] unless it is the chunk that was sealed in this place, last or not as
    /// said; nothing more is opened then. [`SealError::Misuse`] after the last chunk.
    pub fn open_chunk<'a>(
        &mut self,
        buf: &'a mut [u8],
        last: bool,
    ) -> Result<&'a mut [u8], SealError> {
        let number = match self.stream {
            Stream::At(number) => number,
            Stream::Finished => return Err(SealError::Misuse("a chunk after the last one")),
            Stream::Broken => return Err(SealError::Refused),
        };
        self.stream = Stream::Broken;
        let opened = self.open_chunk_at(number, buf, last)?;
        self.stream = if last { Stream::Finished } else { Stream::At(number + 1) };
        Ok(opened)
    }

    /// Opens one chunk out of turn, to read a message from its middle. Says nothing about the
    /// chunks before it, and does not count for [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`SealError::Refused`] unless it is chunk `number` of this message, last or not as said.
    pub fn open_chunk_at<'a>(
        &self,
        number: u64,
        buf: &'a mut [u8],
        last: bool,
    ) -> Result<&'a mut [u8], SealError> {
        let context = chunk_context(self.id, number, last);
        self.cipher.open(nonce(BODY_DOMAIN, last, number), &context, buf)
    }

    /// Opens `part` in place and gives its plaintext, the front of `buf`.
    ///
    /// # Errors
    /// [`SealError::Refused`] unless it is that part of this message.
    pub fn open_part<'a>(&self, part: Part, buf: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        self.cipher.open(nonce(part.domain(), false, 0), &part_context(self.id, part), buf)
    }

    /// To be called when there are no more chunks.
    ///
    /// # Errors
    /// [`SealError::Unfinished`] when no last chunk was seen, [`SealError::Refused`] when a chunk
    /// was refused.
    pub fn finish(self) -> Result<(), SealError> {
        match self.stream {
            Stream::Finished => Ok(()),
            Stream::At(_) => Err(SealError::Unfinished),
            Stream::Broken => Err(SealError::Refused),
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}, {:?})", self.id, self.stream)
    }
}
