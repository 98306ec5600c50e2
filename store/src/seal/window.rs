//! Windows: RSA once for many messages.
//!
//! A [`Window`] is a random key for one mailbox on one shard, for a bounded time or count of
//! messages; how long is the caller's policy. The mailbox's public key wraps it once, and it wraps
//! the content keys of the messages. Called by the shard that takes mail ([`Window`]) and by
//! sessions of the owner ([`WindowRecord`], [`OpenWindow`]).
//!
//! ```text
//! window record    0 version u8   1 kind u8   2 mailbox u64   10 window u64   18 blob
//!                  kind 1, by RSA: length u16, blob; OAEP label "fs1.wndw", mailbox, window
//!                  kind 2, by the mailbox key: salt, 16 bytes, then 48 bytes
//! recipient wrap   0 version u8   1 mailbox u64   9 window u64   17 content key, 48 bytes
//! ```
//!
//! The owner's first visit costs one RSA operation for each window; the caller then stores
//! [`OpenWindow::rewrap`] in its place, which the mailbox key alone opens.

use core::fmt;

use super::aead::{Cipher, Context, NONCE_ONCE, Purpose, context, derive};
use super::codec::{Reader, VERSION, put_piece};
use super::error::SealError;
use super::key::{ContentKey, Key, MailboxKey, Random, SALT_BYTES, WRAPPED_BYTES, salt};
use super::rsa::{BLOB_BYTES_MAX, PrivateKey, PublicKey};
use crate::id::{MailboxId, QueueId};

/// Bytes of an encoded [`RecipientWrap`].
pub const RECIPIENT_WRAP_BYTES: usize = 1 + 8 + 8 + WRAPPED_BYTES;
/// Bytes of a [`RecipientWrap`] as a row holds it.
pub const RECIPIENT_ROW_BYTES: usize = 8 + WRAPPED_BYTES;

const RECORD: &str = "a window record";
const RECIPIENT: &str = "a recipient wrap";
const KIND_RSA: u8 = 1;
const KIND_REWRAPPED: u8 = 2;

/// The name of a window of a mailbox: 64 random bits, so that shards and machines need not agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WindowId(pub u64);

fn rsa_label(mailbox: MailboxId, id: WindowId) -> Context {
    context(Purpose::Window, [mailbox.0, id.0, 0])
}

fn recipient_context(mailbox: MailboxId, window: WindowId, id: QueueId) -> Context {
    context(Purpose::Recipient, [mailbox.0, window.0, id.0])
}

/// A message has one content key, and a queue id is one message's: no nonce comes twice.
fn recipient_nonce(id: QueueId) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&id.0.to_le_bytes());
    nonce
}

/// The key that rewraps one window, out of the mailbox key. The salt is fresh for each sealing and
/// not made from the window's name: whoever can write to the disk could lay a window of his own
/// (the public key is public) beside one that was rewrapped, under the same name, and learn from
/// two sealings under one nonce what the first one held.
fn rewrap_cipher(key: &MailboxKey, salt: &[u8; SALT_BYTES], context: &Context) -> Cipher {
    Cipher::new(&derive(key.0.bytes(), salt, context))
}

fn rewrap_context(mailbox: MailboxId, id: WindowId) -> Context {
    context(Purpose::Rewrap, [mailbox.0, id.0, 0])
}

/// The sealing side of a window.
pub struct Window {
    mailbox: MailboxId,
    id: WindowId,
    key: Key,
}

impl Window {
    /// Begins a window, and gives the record that the owner will need: store it before, or with,
    /// the first message that is wrapped. Takes one RSA operation with the public key.
    ///
    /// # Errors
    /// [`SealError::Unavailable`] when RSA fails.
    pub fn begin(
        mailbox: MailboxId,
        public: &PublicKey,
        random: Random<'_>,
    ) -> Result<(Self, WindowRecord), SealError> {
        let mut id = [0; 8];
        random(&mut id);
        let id = WindowId(u64::from_le_bytes(id));
        let key = Key::fresh(random);
        let blob = Blob::Rsa(public.wrap(&rsa_label(mailbox, id), &key)?);
        Ok((Self { mailbox, id, key }, WindowRecord { mailbox, id, blob }))
    }

    /// The same for a mailbox whose key is at hand: no RSA, and the record is one that the mailbox
    /// key opens. For mail that the engine keeps for itself, and for simulation.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn begin_under(
        mailbox: MailboxId,
        key: &MailboxKey,
        random: Random<'_>,
    ) -> Result<(Self, WindowRecord), SealError> {
        let mut id = [0; 8];
        random(&mut id);
        let id = WindowId(u64::from_le_bytes(id));
        let own = Key::fresh(random);
        let record = OpenWindow { mailbox, id, key: own.clone() }.rewrap(key, random)?;
        Ok((Self { mailbox, id, key: own }, record))
    }

    /// Wraps the content key of the message `id` for the mailbox. Once for each message: two
    /// content keys with the same `id` would lay each other open.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn wrap(&self, content: &ContentKey, id: QueueId) -> Result<RecipientWrap, SealError> {
        let context = recipient_context(self.mailbox, self.id, id);
        let sealed = Cipher::new(&self.key).wrap(recipient_nonce(id), &context, &content.0)?;
        Ok(RecipientWrap { mailbox: self.mailbox, window: self.id, sealed })
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> WindowId {
        self.id
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({} of mailbox {}, ..)", self.id.0, self.mailbox.0)
    }
}

/// How the window key is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Blob {
    Rsa(Box<[u8]>),
    Rewrapped { salt: [u8; SALT_BYTES], sealed: [u8; WRAPPED_BYTES] },
}

/// A window as it is stored: its key, wrapped by RSA or by the mailbox key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowRecord {
    mailbox: MailboxId,
    id: WindowId,
    blob: Blob,
}

impl WindowRecord {
    /// Whose window it is.
    #[must_use]
    pub const fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> WindowId {
        self.id
    }

    /// Bytes of the stored form.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        match &self.blob {
            Blob::Rsa(blob) => 1 + 1 + 8 + 8 + 2 + blob.len(),
            Blob::Rewrapped { .. } => 1 + 1 + 8 + 8 + SALT_BYTES + WRAPPED_BYTES,
        }
    }

    /// Whether opening it takes the private key; otherwise the mailbox key is enough.
    #[must_use]
    pub const fn needs_rsa(&self) -> bool {
        matches!(self.blob, Blob::Rsa(_))
    }

    /// Opens a record that [needs RSA](Self::needs_rsa). Takes about 1 ms.
    ///
    /// # Errors
    /// [`SealError::Refused`] for another mailbox's key, a changed record, or the other kind.
    pub fn open_rsa(&self, private: &PrivateKey) -> Result<OpenWindow, SealError> {
        let Blob::Rsa(blob) = &self.blob else { return Err(SealError::Refused) };
        let key = private.unwrap_key(&rsa_label(self.mailbox, self.id), blob)?;
        Ok(OpenWindow { mailbox: self.mailbox, id: self.id, key })
    }

    /// Opens a record that was rewrapped.
    ///
    /// # Errors
    /// [`SealError::Refused`] for another mailbox's key, a changed record, or the other kind.
    pub fn open(&self, key: &MailboxKey) -> Result<OpenWindow, SealError> {
        let Blob::Rewrapped { salt, sealed } = &self.blob else { return Err(SealError::Refused) };
        let context = rewrap_context(self.mailbox, self.id);
        let key = rewrap_cipher(key, salt, &context).unwrap_key(NONCE_ONCE, &context, sealed)?;
        Ok(OpenWindow { mailbox: self.mailbox, id: self.id, key })
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = if self.needs_rsa() { KIND_RSA } else { KIND_REWRAPPED };
        let mut bytes = Vec::with_capacity(20 + BLOB_BYTES_MAX);
        bytes.extend_from_slice(&[VERSION, kind]);
        bytes.extend_from_slice(&self.mailbox.0.to_le_bytes());
        bytes.extend_from_slice(&self.id.0.to_le_bytes());
        match &self.blob {
            Blob::Rsa(blob) => put_piece(&mut bytes, blob, BLOB_BYTES_MAX, RECORD)
                .expect("a blob is as long as a modulus"),
            Blob::Rewrapped { salt, sealed } => {
                bytes.extend_from_slice(salt);
                bytes.extend_from_slice(sealed);
            }
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`SealError::Version`], [`SealError::Malformed`] or [`SealError::TooLarge`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let mut reader = Reader::new(bytes, RECORD)?;
        let kind = reader.byte()?;
        let mailbox = MailboxId(reader.long()?);
        let id = WindowId(reader.long()?);
        let blob = match kind {
            KIND_RSA => Blob::Rsa(reader.piece(BLOB_BYTES_MAX)?.into()),
            KIND_REWRAPPED => Blob::Rewrapped { salt: reader.array()?, sealed: reader.array()? },
            _ => return Err(reader.malformed()),
        };
        reader.end()?;
        Ok(Self { mailbox, id, blob })
    }
}

/// The reading side of a window.
pub struct OpenWindow {
    mailbox: MailboxId,
    id: WindowId,
    key: Key,
}

impl OpenWindow {
    /// The content key of the message `id`.
    ///
    /// # Errors
    /// [`SealError::Refused`] when `wrap` was made for another mailbox, window or message, or was
    /// changed.
    pub fn open(&self, wrap: &RecipientWrap, id: QueueId) -> Result<ContentKey, SealError> {
        if wrap.mailbox != self.mailbox || wrap.window != self.id {
            return Err(SealError::Refused);
        }
        let context = recipient_context(self.mailbox, self.id, id);
        let cipher = Cipher::new(&self.key);
        cipher.unwrap_key(recipient_nonce(id), &context, &wrap.sealed).map(ContentKey)
    }

    /// The record to store in place of the one that needed RSA.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn rewrap(&self, key: &MailboxKey, random: Random<'_>) -> Result<WindowRecord, SealError> {
        let context = rewrap_context(self.mailbox, self.id);
        let salt = salt(random);
        let sealed = rewrap_cipher(key, &salt, &context).wrap(NONCE_ONCE, &context, &self.key)?;
        let blob = Blob::Rewrapped { salt, sealed };
        Ok(WindowRecord { mailbox: self.mailbox, id: self.id, blob })
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> WindowId {
        self.id
    }
}

impl fmt::Debug for OpenWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenWindow({} of mailbox {}, ..)", self.id.0, self.mailbox.0)
    }
}

/// A message's content key, wrapped for one mailbox: stored with the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecipientWrap {
    /// Who can open it.
    pub mailbox: MailboxId,
    /// By which window.
    pub window: WindowId,
    sealed: [u8; WRAPPED_BYTES],
}

impl RecipientWrap {
    /// The wrap without its mailbox and version, for a row that names both elsewhere.
    #[must_use]
    pub fn row(&self) -> [u8; RECIPIENT_ROW_BYTES] {
        let mut bytes = [0; RECIPIENT_ROW_BYTES];
        bytes[..8].copy_from_slice(&self.window.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sealed);
        bytes
    }

    /// What [`row`](Self::row) wrote for `mailbox`. Every row is one; a changed one does not open.
    #[must_use]
    pub fn from_row(mailbox: MailboxId, row: &[u8; RECIPIENT_ROW_BYTES]) -> Self {
        let (mut window, mut sealed) = ([0; 8], [0; WRAPPED_BYTES]);
        window.copy_from_slice(&row[..8]);
        sealed.copy_from_slice(&row[8..]);
        Self { mailbox, window: WindowId(u64::from_le_bytes(window)), sealed }
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> [u8; RECIPIENT_WRAP_BYTES] {
        let mut bytes = [0; RECIPIENT_WRAP_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.mailbox.0.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.window.0.to_le_bytes());
        bytes[17..].copy_from_slice(&self.sealed);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`SealError::Version`] or [`SealError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let mut reader = Reader::new(bytes, RECIPIENT)?;
        let wrap = Self {
            mailbox: MailboxId(reader.long()?),
            window: WindowId(reader.long()?),
            sealed: reader.array()?,
        };
        reader.end()?;
        Ok(wrap)
    }
}
