//! Copies of mail that is to travel on: made by the node that has taken it, read by who sends it in
//! that node's stead.
//!
//! Called by the thread of the bridge. Like mail for mailboxes, a copy is written with the time in
//! the message's name, and removed with a later one; its row is written last. What is known of a
//! message is written with the time of writing. A node that sends another one's mail does not
//! remove rows, it says that they are done: else the other one could not tell a message that was
//! sent from one that has no copy. Limits: pieces and parts of envelopes of 256 KiB. Failure: as
//! that of all statements; everything may be done again.

use core::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_store::mailbox::{Queued, Transit};
use fsmtp_store::seal::{RECIPIENT_ROW_BYTES, RecipientWrap, WindowRecord};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, NodeNumber, QueueId, StoreError};
use scylla::value::MaybeUnset;

use super::{Known, Mail, column, each, ms_of, removed_us, written_us};
use crate::bridge::CHUNK_BYTES_MAX;

/// Milliseconds of a span, as a power of two: so many that a span of a busy node has fewer rows
/// than what a read may pass over.
const SPAN_BITS: u32 = 14;

/// A row as it is listed: id, octets, state, writer, done.
type Row = (i64, Option<i64>, Option<Vec<u8>>, Option<i32>, Option<bool>);

/// What opens one: octets, wrap, window.
type KeyRow = (Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

/// A copy as a list shows it.
pub(crate) struct Copied {
    pub(crate) queued: Queued,
    /// The node that has written the state, when there is one.
    pub(crate) by: Option<NodeNumber>,
    /// Nobody waits for it any more.
    pub(crate) is_done: bool,
}

const fn span_of(id: QueueId) -> i32 {
    (ms_of(id) >> SPAN_BITS) as i32
}

const fn number(node: NodeNumber) -> i32 {
    node.get() as i32
}

impl Mail {
    /// Keeps a piece of a copy.
    pub(crate) async fn copy_piece(
        &self,
        id: QueueId,
        piece: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        let too_many = |_| StoreError::Invalid("a message has too many chunks".into());
        let piece = i32::try_from(piece).map_err(too_many)?;
        self.put_copy_piece(id, piece, &data).await
    }

    async fn put_copy_piece(&self, id: QueueId, piece: i32, data: &[u8]) -> Result<(), StoreError> {
        let values = (column(id.0), piece, data, written_us(id));
        self.write(&self.statements.put_copy_piece, values).await
    }

    /// Makes a copy of a message of this node, whose further pieces are there.
    pub(crate) async fn copy(&self, node: NodeNumber, transit: Transit) -> Result<(), StoreError> {
        let Transit { id, octets, envelope, first, key } = transit;
        let span = span_of(id);
        for (part, place) in envelope.chunks(CHUNK_BYTES_MAX).zip(1..) {
            self.put_copy_piece(id, -place, part).await?;
        }
        self.put_copy_piece(id, 0, &first).await?;
        let known = Known::Span(number(node), span);
        if !self.knows(known) {
            self.write(&self.statements.put_span, (number(node), span)).await?;
            self.learn(known);
        }
        let unset = || (MaybeUnset::Unset, MaybeUnset::Unset);
        let (wrap, window) = key.as_ref().map_or_else(unset, |key| {
            (MaybeUnset::Set(key.wrap.row()), MaybeUnset::Set(key.window.encode()))
        });
        let octets = column(octets);
        let values = (number(node), span, column(id.0), octets, wrap, window, written_us(id));
        self.write(&self.statements.put_copy, values).await
    }

    /// Whether a node may have left copies.
    pub(crate) async fn has_copies(&self, node: NodeNumber) -> Result<bool, StoreError> {
        let row: Option<(i32,)> = self.row(&self.statements.any_span, (number(node),)).await?;
        Ok(row.is_some())
    }

    /// All copies of a node's mail. The node itself, which makes none meanwhile, forgets spans that
    /// have none left.
    pub(crate) async fn copies(
        self: &Arc<Self>,
        node: NodeNumber,
        is_own: bool,
    ) -> Result<Vec<Copied>, StoreError> {
        let mut spans = Vec::new();
        let take = |(span,): (i32,)| {
            spans.push(span);
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.spans, (number(node),), take).await?;
        let all = Arc::new(Mutex::new(Vec::new()));
        let job = |span| (Arc::clone(self), Arc::clone(&all), span);
        each(spans.into_iter().map(job).map(|(mail, all, span)| async move {
            let found = mail.copies_of(node, span).await?;
            if found.is_empty() && is_own {
                mail.forget(Known::Span(number(node), span));
                return mail.write(&mail.statements.drop_span, (number(node), span)).await;
            }
            all.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            Ok(())
        }))
        .await?;
        Ok(core::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    async fn copies_of(&self, node: NodeNumber, span: i32) -> Result<Vec<Copied>, StoreError> {
        let mut all = Vec::new();
        let take = |(id, octets, state, by, done): Row| {
            let is_done = done == Some(true);
            // Without octets it is no message: something was written to a row that is gone.
            if octets.is_some() || is_done {
                let id = QueueId(id.cast_unsigned());
                let octets = octets.unwrap_or_default().cast_unsigned();
                let queued = Queued { id, octets, state: state.unwrap_or_default().into() };
                let by = by.and_then(|by| NodeNumber::new(u8::try_from(by).ok()?));
                all.push(Copied { queued, by, is_done });
            }
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.copies, (number(node), span), take).await?;
        Ok(all)
    }

    /// What opens a copy; none when it lies in clear.
    pub(crate) async fn find_copy(
        &self,
        node: NodeNumber,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        let values = (number(node), span_of(id), column(id.0));
        let row: Option<KeyRow> = self.row(&self.statements.copy_keys, values).await?;
        let Some((Some(_), wrap, window)) = row else {
            return Err(StoreError::NotFound(format!("message {id}")));
        };
        let (Some(wrap), Some(window)) = (wrap, window) else { return Ok(None) };
        let corrupt = |why: String| {
            let place = format!("outgoing {}, {id}", number(node));
            StoreError::Corrupt { place, why }
        };
        let wrap: Result<&[u8; RECIPIENT_ROW_BYTES], _> = wrap.as_slice().try_into();
        let wrap = wrap.map_err(|_| corrupt("the wrap has another length".into()))?;
        let wrap = RecipientWrap::from_row(MailboxId::QUEUE, wrap);
        let window = WindowRecord::decode(&window).map_err(|error| corrupt(error.to_string()))?;
        Ok(Some(RecipientKey { wrap, window: Arc::new(window) }))
    }

    /// A piece of a copy.
    pub(crate) async fn fetch_copy(&self, id: QueueId, piece: u32) -> Result<Vec<u8>, StoreError> {
        let missing = || StoreError::Corrupt {
            place: format!("outgoing_bodies {id}, chunk {piece}"),
            why: "it is not there".into(),
        };
        let piece = i32::try_from(piece).map_err(|_| missing())?;
        let row: Option<(Option<Vec<u8>>,)> =
            self.row(&self.statements.copy_piece, (column(id.0), piece)).await?;
        row.and_then(|(data,)| data).ok_or_else(missing)
    }

    /// The envelope of a copy, as it was stored.
    pub(crate) async fn copied_envelope(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        let mut whole = Vec::new();
        let each = |(data,): (Option<Vec<u8>>,)| {
            whole.extend_from_slice(&data.unwrap_or_default());
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.copied_envelope, (column(id.0),), each).await?;
        if whole.is_empty() {
            let place = format!("outgoing_bodies {id}");
            return Err(StoreError::Corrupt { place, why: "its envelope is not there".into() });
        }
        Ok(whole)
    }

    /// Keeps what `by` knows of a message of `node`.
    pub(crate) async fn keep_state(
        &self,
        (node, by): (NodeNumber, NodeNumber),
        id: QueueId,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let values = (state, number(by), number(node), span_of(id), column(id.0));
        self.write(&self.statements.keep_state, values).await
    }

    /// Removes the copy of a message that is done: the row as well, unless it is another node's.
    pub(crate) async fn end_copy(
        &self,
        node: NodeNumber,
        id: QueueId,
        is_own: bool,
    ) -> Result<(), StoreError> {
        let key = (number(node), span_of(id), column(id.0));
        let at = removed_us(id, self.now_ms());
        if is_own {
            self.write(&self.statements.drop_copy, (at, key.0, key.1, key.2)).await?;
        } else {
            self.write(&self.statements.say_done, key).await?;
        }
        self.write(&self.statements.drop_copy_body, (at, column(id.0))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_store::ShardId;

    #[test]
    fn spans_rise_with_names() {
        let of = |ms| span_of(QueueId::first(ms, ShardId(1023)));
        assert_eq!([0, (1 << SPAN_BITS) - 1, 1 << SPAN_BITS].map(of), [0, 0, 1]);
        assert_eq!(of((1 << 42) - 1), (1 << 28) - 1, "the last one there is");
    }
}
