//! Removing: messages first, then their bodies, then what led to them.
//!
//! Called by the thread of the bridge. Interrupted anywhere, it leaves bodies that nobody has,
//! never a message without its body. Limits: 100 rows of a partition at one time, 16 such at once.
//! Failure: what was not removed is there still, and the mark stays where it was.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use fsmtp_store::mailbox::Message;
use fsmtp_store::{MailboxId, QueueId, StoreError};
use futures_channel::oneshot;
use scylla::value::CqlTimestamp;

use super::{
    BATCH_ROWS, MARK_MS, Mail, WEEK_MS, column, each, end_of, first_of, removed_us, week_of,
};
use crate::bridge::{Listing, Visit};

/// Messages of one week that are removed together.
struct Part {
    mailbox: MailboxId,
    week: i32,
    /// The messages, and whether others have them, too.
    messages: Vec<(QueueId, bool)>,
    late: Vec<QueueId>,
}

impl Mail {
    /// Ends a visit, and removes those of its messages.
    pub(crate) async fn close(
        self: &Arc<Self>,
        visit: Visit,
        deletions: Vec<Message>,
    ) -> Result<(), StoreError> {
        let listing = &visit.listing;
        let is_there =
            |id: &QueueId| listing.messages.binary_search_by_key(id, |there| there.id).is_ok();
        let mut gone: Vec<QueueId> =
            deletions.into_iter().map(|message| message.id).filter(is_there).collect();
        gone.sort_unstable();
        gone.dedup();
        if !gone.is_empty() {
            if visit.safe_until_ms.load(Ordering::Relaxed) < self.now_ms() {
                return Err(StoreError::InUse);
            }
            self.remove(listing, &gone).await?;
            let mark = mark_after(listing, &gone, visit.opened_ms);
            self.move_mark(listing, mark).await?;
        }
        if visit.safe_until_ms.load(Ordering::Relaxed) >= self.now_ms() {
            // Numbers that are not kept now are given by the next visit, maybe others.
            let _ = self.keep_uids(listing, &gone).await;
        }
        let (told, is_free) = oneshot::channel();
        if visit.hold.send(told).is_ok() {
            // Where nobody tells, the lease ends by itself.
            let _ = is_free.await;
        }
        Ok(())
    }

    /// Removes everything of a mailbox.
    pub(crate) async fn purge(self: &Arc<Self>, mailbox: MailboxId) -> Result<(), StoreError> {
        loop {
            let listing = self.list(mailbox).await?;
            let all: Vec<QueueId> = listing.messages.iter().map(|message| message.id).collect();
            self.remove(&listing, &all).await?;
            let Some(last) = all.last().filter(|_| listing.is_cut) else { break };
            // The next round begins behind what is removed.
            let mark = (column(mailbox.0), column(last.0.saturating_add(1)));
            self.write(&self.statements.put_mark, mark).await?;
        }
        let all = &self.statements;
        for forget in [&all.forget_late, &all.forget_weeks, &all.forget_state, &all.forget_windows]
        {
            self.write(forget, (column(mailbox.0),)).await?;
        }
        Ok(())
    }

    /// Notes that an account is to be removed, before it is: whatever happens then, its mail goes.
    pub(crate) async fn note_removal(&self, account: MailboxId) -> Result<(), StoreError> {
        let since = CqlTimestamp(column(self.now_ms()));
        self.write(&self.statements.put_removal, (column(account.0), since)).await
    }

    /// Removes what is left of accounts that were removed, those that `is_owned` does not know; and
    /// what came for them since, from nodes that had not heard of it.
    pub(crate) async fn sweep(
        self: &Arc<Self>,
        is_owned: impl Fn(MailboxId) -> bool,
    ) -> Result<(), StoreError> {
        let mut noted = Vec::new();
        let each = |row: (i64, CqlTimestamp)| {
            noted.push(row);
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.removals, (), each).await?;
        for (account, CqlTimestamp(since)) in noted {
            let account_id = MailboxId(account.cast_unsigned());
            if is_owned(account_id) {
                continue;
            }
            for mailbox in account_id.all() {
                self.purge(mailbox).await?;
            }
            if self.now_ms() > since.cast_unsigned().saturating_add(WEEK_MS) {
                self.write(&self.statements.drop_removal, (account,)).await?;
            }
        }
        Ok(())
    }

    /// Removes messages of a listing; `gone` rises.
    async fn remove(
        self: &Arc<Self>,
        listing: &Listing,
        gone: &[QueueId],
    ) -> Result<(), StoreError> {
        let is_shared = |id: &QueueId| listing.shared.binary_search(id).is_ok();
        let is_late = |id: &QueueId| listing.late.binary_search(id).is_ok();
        let weeks = gone.chunk_by(|&one, &other| week_of(one) == week_of(other));
        let parts = weeks.flat_map(|of_week| of_week.chunks(BATCH_ROWS)).filter_map(|some| {
            Some(Part {
                mailbox: listing.mailbox,
                week: week_of(*some.first()?),
                messages: some.iter().map(|id| (*id, is_shared(id))).collect(),
                late: some.iter().copied().filter(is_late).collect(),
            })
        });
        each(
            parts
                .map(|part| (Arc::clone(self), part))
                .map(|(mail, part)| async move { mail.remove_part(&part).await }),
        )
        .await
    }

    async fn remove_part(&self, part: &Part) -> Result<(), StoreError> {
        let (all, mailbox, now) = (&self.statements, column(part.mailbox.0), self.now_ms());
        let row =
            |&(id, _): &(QueueId, bool)| (removed_us(id, now), mailbox, part.week, column(id.0));
        self.write_rows(&all.drop_message, part.messages.iter().map(row).collect()).await?;
        let row = |&id: &QueueId| (removed_us(id, now), mailbox, column(id.0));
        self.write_rows(&all.drop_late, part.late.iter().map(row).collect()).await?;
        for &(id, is_shared) in &part.messages {
            let at = removed_us(id, now);
            if is_shared {
                self.write(&all.drop_holder, (at, column(id.0), mailbox)).await?;
                // Two who do this at one time both look after both rows are gone.
                let others: Option<(i64,)> = self.row(&all.holders, (column(id.0),)).await?;
                if others.is_some() {
                    continue;
                }
            }
            self.write(&all.drop_body, (at, column(id.0))).await?;
        }
        Ok(())
    }

    /// Moves the mark, where there is a new one, and takes out the weeks in front of it.
    async fn move_mark(&self, listing: &Listing, mark: Option<QueueId>) -> Result<(), StoreError> {
        let Some(mark) = mark else { return Ok(()) };
        let mailbox = column(listing.mailbox.0);
        self.write(&self.statements.put_mark, (mailbox, column(mark.0))).await?;
        let over = listing.weeks.iter().filter(|&&week| end_of(week) <= mark);
        let over = over.map(|&week| (mailbox, week)).collect();
        self.write_rows(&self.statements.drop_week, over).await
    }
}

/// The mark when `gone`, which rises, is removed; none when it stays where it is.
///
/// Nothing that stays lies in front of it, unless it did before: that is late, and found by its
/// name. And nothing that comes: it is 15 minutes behind the time when the mailbox was read, for
/// what came since is not in the listing.
fn mark_after(listing: &Listing, gone: &[QueueId], opened_ms: u64) -> Option<QueueId> {
    let first = *gone.first()?;
    let behind = listing.messages.iter().map(|message| message.id);
    let mut behind = behind.filter(|id| *id >= listing.mark);
    let mut mark = first_of(opened_ms.saturating_sub(MARK_MS));
    if let Some(stays) = behind.find(|id| gone.binary_search(id).is_err()) {
        mark = mark.min(stays);
    } else if listing.is_cut
        && let Some(last) = listing.messages.last()
    {
        mark = mark.min(QueueId(last.id.0.saturating_add(1)));
    }
    // Where nothing was removed in front of it, no reader gains by it.
    (mark > listing.mark && first < mark).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_store::Uid;

    const OPENED_MS: u64 = 1_700_000_000_000;

    fn listing(minutes_ago: &[u64], mark: u64, is_cut: bool) -> Listing {
        let message = |&ago: &u64| Message { id: ago_id(ago), octets: 1, uid: Uid(1) };
        Listing {
            mailbox: MailboxId(1),
            messages: minutes_ago.iter().map(message).collect(),
            shared: Vec::new(),
            late: Vec::new(),
            weeks: Vec::new(),
            mark: QueueId(mark),
            uids: (None, Uid(1)),
            is_cut,
        }
    }

    fn ago_id(minutes: u64) -> QueueId {
        first_of(OPENED_MS - minutes * 60_000)
    }

    #[test]
    fn marks_stay_in_front_of_what_stays_and_of_what_comes() {
        let floor = Some(ago_id(15));
        let after = |there: &[u64], mark, cut, gone: &[u64]| {
            let gone: Vec<QueueId> = gone.iter().map(|&ago| ago_id(ago)).collect();
            mark_after(&listing(there, mark, cut), &gone, OPENED_MS)
        };
        assert_eq!(after(&[60, 50], 0, false, &[]), None);
        assert_eq!(after(&[60, 50, 40], 0, false, &[60]), Some(ago_id(50)));
        assert_eq!(after(&[60, 50, 40], 0, false, &[60, 40]), Some(ago_id(50)));
        assert_eq!(after(&[60, 50, 40], 0, false, &[50]), None, "the oldest stays");
        assert_eq!(after(&[60, 50], 0, false, &[60, 50]), floor);
        assert_eq!(after(&[60, 3], 0, false, &[60]), floor);
        assert_eq!(after(&[10, 3], 0, false, &[10]), None, "too young");
        // What lies in front of the mark is late and does not hold it.
        assert_eq!(after(&[90, 60, 50], ago_id(70).0, false, &[60]), Some(ago_id(50)));
        assert_eq!(after(&[90, 60], ago_id(70).0, false, &[60]), floor);
        // Behind a listing that is cut there may be anything.
        assert_eq!(after(&[60, 50], 0, true, &[60, 50]), Some(QueueId(ago_id(50).0 + 1)));
    }
}
