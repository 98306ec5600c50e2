//! Reading: what is in a mailbox, what opens a message, and its body.
//!
//! Called by the thread of the bridge. A mailbox is read from its mark on, week by week, 5,000 rows
//! a page; what is named in `late` and lies in front of the mark is asked for by name. Limits:
//! 1,000,000 messages of a mailbox are listed, the oldest; the others come when those are gone.
//! Failure: what should be there and is not is [`StoreError::Corrupt`], with table and key.

use std::ops::ControlFlow;
use std::sync::Arc;

use fsmtp_store::mailbox::{Message, Usage};
use fsmtp_store::seal::{RECIPIENT_ROW_BYTES, RecipientWrap, WindowRecord};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId, StoreError, Uid};

use super::uids::number;
use super::{BATCH_ROWS, Mail, column, week_of};
use crate::bridge::Listing;

/// Messages that a visit shows at most, 24 bytes each; the oldest come first.
const MESSAGES_MAX: usize = 1_000_000;

/// Id, octets, uid, whether it is shared. Without octets it is not a message: something was written
/// to a row that is gone.
type MessageRow = (i64, Option<i64>, Option<i32>, Option<bool>);

/// Where the messages of a mailbox are.
struct Places {
    mark: QueueId,
    /// The next uid, as it is stored.
    uid_next: Option<i32>,
    weeks: Vec<i32>,
    late: Vec<QueueId>,
}

impl Mail {
    async fn places(&self, mailbox: MailboxId) -> Result<Places, StoreError> {
        let key = (column(mailbox.0),);
        let state: Option<(Option<i64>, Option<i32>)> =
            self.row(&self.statements.state, key).await?;
        let (mark, uid_next) = state.unwrap_or_default();
        let mark = mark.map_or(0, i64::cast_unsigned);
        let mut late = Vec::new();
        let each = |(id,): (i64,)| {
            late.push(QueueId(id.cast_unsigned()));
            if late.len() < MESSAGES_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let _ = self.pages(&self.statements.late, key, each).await?;
        let mut weeks = Vec::new();
        let each = |(week,): (i32,)| {
            weeks.push(week);
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.weeks, key, each).await?;
        Ok(Places { mark: QueueId(mark), uid_next, weeks, late })
    }

    /// Shows all messages to `each`: late ones in front of the mark, then the others, both by
    /// rising id.
    async fn walk(
        &self,
        mailbox: MailboxId,
        places: &Places,
        mut each: impl FnMut(MessageRow) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let key = column(mailbox.0);
        let in_front = places.late.partition_point(|&id| id < places.mark);
        let in_front = places.late.get(..in_front).unwrap_or_default();
        for of_week in in_front.chunk_by(|&one, &other| week_of(one) == week_of(other)) {
            for some in of_week.chunks(BATCH_ROWS) {
                let Some(week) = some.first().map(|&id| week_of(id)) else { continue };
                let ids: Vec<i64> = some.iter().map(|id| column(id.0)).collect();
                let found =
                    self.pages(&self.statements.some_messages, (key, week, ids), &mut each).await?;
                if found.is_break() {
                    return Ok(found);
                }
            }
        }
        for &week in places.weeks.iter().filter(|&&week| week >= week_of(places.mark)) {
            let values = (key, week, column(places.mark.0));
            let found = self.pages(&self.statements.messages, values, &mut each).await?;
            if found.is_break() {
                return Ok(found);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What is in a mailbox, as far as a visit shows it.
    pub(super) async fn list(&self, mailbox: MailboxId) -> Result<Listing, StoreError> {
        let places = self.places(mailbox).await?;
        let (mut messages, mut shared) = (Vec::new(), Vec::new());
        let each = |(id, octets, uid, is_shared): MessageRow| {
            let Some(octets) = octets else { return ControlFlow::Continue(()) };
            if messages.len() >= MESSAGES_MAX {
                return ControlFlow::Break(());
            }
            let id = QueueId(id.cast_unsigned());
            let uid = Uid(uid.map_or(0, i32::cast_unsigned));
            messages.push(Message { id, octets: octets.cast_unsigned(), uid });
            if is_shared == Some(true) {
                shared.push(id);
            }
            ControlFlow::Continue(())
        };
        let is_cut = self.walk(mailbox, &places, each).await?.is_break();
        let Places { mark, uid_next, weeks, late } = places;
        let uid_first = number(&mut messages, uid_next);
        let uids = (uid_next, uid_first);
        Ok(Listing { mailbox, messages, shared, late, weeks, mark, uids, is_cut })
    }

    /// How much is in a mailbox.
    pub(crate) async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        let places = self.places(mailbox).await?;
        let mut usage = Usage::default();
        let each = |(_, octets, ..): MessageRow| {
            if let Some(octets) = octets {
                usage.messages_count += 1;
                usage.octets = usage.octets.saturating_add(octets.cast_unsigned());
            }
            ControlFlow::Continue(())
        };
        let _ = self.walk(mailbox, &places, each).await?;
        Ok(usage)
    }

    /// What opens a message; none when it lies in clear.
    pub(crate) async fn find(
        &self,
        mailbox: MailboxId,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        let values = (column(mailbox.0), week_of(id), column(id.0));
        let row: Option<(Option<i64>, Option<Vec<u8>>)> =
            self.row(&self.statements.wrap, values).await?;
        let Some((Some(_), wrap)) = row else {
            return Err(StoreError::NotFound(format!("message {id}")));
        };
        let Some(wrap) = wrap else { return Ok(None) };
        let wrap: Result<&[u8; RECIPIENT_ROW_BYTES], _> = wrap.as_slice().try_into();
        let Ok(wrap) = wrap else {
            let place = format!("messages {}, {id}", mailbox.0);
            return Err(StoreError::Corrupt { place, why: "the wrap has another length".into() });
        };
        let wrap = RecipientWrap::from_row(mailbox, wrap);
        let window = Arc::new(self.window(&wrap).await?);
        Ok(Some(RecipientKey { wrap, window }))
    }

    async fn window(&self, wrap: &RecipientWrap) -> Result<WindowRecord, StoreError> {
        let name = wrap.window.0.to_le_bytes();
        let values = (column(wrap.mailbox.0), name.as_slice());
        let row: Option<(Option<Vec<u8>>,)> = self.row(&self.statements.window, values).await?;
        let corrupt = |why: String| {
            let place = format!("windows {}, {:016x}", wrap.mailbox.0, wrap.window.0);
            StoreError::Corrupt { place, why }
        };
        let Some((Some(record),)) = row else {
            return Err(corrupt("it is not there, and a message needs it".into()));
        };
        let window = WindowRecord::decode(&record).map_err(|error| corrupt(error.to_string()))?;
        if (window.mailbox(), window.id()) != (wrap.mailbox, wrap.window) {
            return Err(corrupt("it is another one".into()));
        }
        Ok(window)
    }

    /// A chunk of a body.
    pub(crate) async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        let missing = || StoreError::Corrupt {
            place: format!("bodies {id}, chunk {number}"),
            why: "it is not there".into(),
        };
        let chunk = i32::try_from(number).map_err(|_| missing())?;
        let row: Option<(Option<Vec<u8>>,)> =
            self.row(&self.statements.chunk, (column(id.0), chunk)).await?;
        row.and_then(|(data,)| data).ok_or_else(missing)
    }
}
