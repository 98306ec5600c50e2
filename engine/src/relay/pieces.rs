//! The bytes of a queued message as they leave: opened, and without what only a mailbox is told.

use std::rc::Rc;

use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::{Found, Mailboxes};
use fsmtp_store::spool::Reader;
use fsmtp_store::{Envelope, QueueId, StoreError};

use super::link::Fault;
use super::patiently;
use crate::shard::Shard;

/// How often a message is looked for again while compaction moves it.
const LOOKUPS_MAX: usize = 8;
/// The field that final delivery adds (RFC 5321 §4.4), and the first one of every stored message.
const RETURN_PATH: &[u8] = b"Return-Path:";

/// Where the bytes of a message come from.
pub(super) trait Pieces {
    /// The next ones; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault>;
}

/// A message in the log.
pub(super) struct Stored<'s, R: Runtime, M: Mailboxes> {
    shard: &'s Rc<Shard<R, M>>,
    reader: Reader<R::Disk>,
    id: QueueId,
    begun: bool,
}

impl<'s, R: Runtime, M: Mailboxes> Stored<'s, R, M> {
    /// Finds a queued message and opens it.
    pub(super) async fn open(
        shard: &'s Rc<Shard<R, M>>,
        id: QueueId,
    ) -> Result<(Self, Envelope), StoreError> {
        let Found { body, key } = shard.mailboxes.find_queued(id).await?;
        let mut reader = Reader::sharing(&shard.files, shard.spool.config().segment_bytes);
        match key {
            None => reader.open(body),
            Some(key) => {
                let content = shard.outbound.content_key(&key, id)?;
                reader.open_sealed(body, &content);
            }
        }
        let mut stored = Self { shard, reader, id, begun: false };
        if stored.reader.wants().is_some() {
            // It lies in the cluster: another node has taken it.
            let mut sealed = shard.mailboxes.copied_envelope(id).await?;
            let envelope = stored.reader.open_envelope(&mut sealed)?;
            return Ok((stored, envelope));
        }
        let mut lookups = 0;
        loop {
            match stored.reader.envelope().await {
                Err(StoreError::Moved) if lookups < LOOKUPS_MAX => {
                    lookups += 1;
                    stored.relocate().await?;
                }
                envelope => return Ok((stored, envelope?)),
            }
        }
    }

    async fn relocate(&mut self) -> Result<(), StoreError> {
        let place = patiently(self.shard, || self.shard.mailboxes.locate(self.id)).await?;
        self.reader.relocate(place)
    }

    async fn read(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut lookups = 0;
        loop {
            if let Some((id, number)) = self.reader.wants() {
                self.reader.give(self.shard.mailboxes.fetch(id, number).await?);
            }
            match self.reader.next().await {
                Err(StoreError::Moved) if lookups < LOOKUPS_MAX => {
                    lookups += 1;
                    self.relocate().await?;
                }
                other => return other,
            }
        }
    }
}

impl<R: Runtime, M: Mailboxes> Pieces for Stored<'_, R, M> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let read = self.read().await.map_err(|error| Fault::Storage(error.to_string()))?;
        let begins = !core::mem::replace(&mut self.begun, true);
        Ok(read.map(|mut piece| {
            if begins && piece.starts_with(RETURN_PATH) {
                let end =
                    piece.iter().position(|byte| *byte == b'\n').map_or(piece.len(), |lf| lf + 1);
                piece.drain(..end);
            }
            piece
        }))
    }
}
