//! What seals a message to its recipients: found when they are named, used when it ends.
//!
//! Called by the desk for what clients send, and by `post` for what the node itself sends.

use std::rc::Rc;

use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::{ContentKey, SealError};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use crate::shard::Shard;
use crate::windows::Held;

/// Windows that are begun before others have their turn; half a millisecond.
const BEGUN_AT_ONCE_MAX: usize = 16;

/// What seals to each of these mailboxes; none for those whose mail lies in clear. Mailboxes that
/// are gone are left out.
///
/// # Errors
/// [`SealError`] when the keys of one are damaged.
pub(crate) async fn held<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    mailboxes: &[MailboxId],
) -> Result<Vec<(MailboxId, Option<Rc<Held>>)>, SealError> {
    let mut all = Vec::with_capacity(mailboxes.len());
    let mut begun_count = 0;
    for &mailbox in mailboxes {
        let account = shard.directory.borrow().owner(mailbox).cloned();
        // Removed since the address was resolved.
        let Some(account) = account else { continue };
        let held = match shard.windows.held(mailbox, &account, shard.rt.now()) {
            Some(held) => Some(held),
            None => {
                begun_count += 1;
                if begun_count % BEGUN_AT_ONCE_MAX == 0 {
                    shard.rt.yield_now().await;
                }
                let random = &mut |bytes: &mut [u8]| shard.rt.random(bytes);
                shard.windows.begin(mailbox, &account, shard.rt.now(), random)?
            }
        };
        all.push((mailbox, held));
    }
    Ok(all)
}

/// What seals to the queue.
///
/// # Errors
/// [`SealError::Unavailable`]; not seen in practice.
pub(crate) fn of_queue<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
) -> Result<Rc<Held>, SealError> {
    let random = &mut |bytes: &mut [u8]| shard.rt.random(bytes);
    shard.windows.of_queue(shard.outbound.key(), shard.rt.now(), random)
}

/// The key of a message, wrapped for each of its recipients.
///
/// Between RCPT and the end of a long message an account may have got other keys; mail that is
/// sealed to the old ones could never be read.
///
/// # Errors
/// [`StoreError::Busy`] when an account has no keys any more; [`StoreError::Invalid`] when its keys
/// are damaged.
pub(crate) fn keys<'h, R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    seals: impl Iterator<Item = &'h Rc<Held>>,
    content: &ContentKey,
    id: QueueId,
) -> Result<Vec<RecipientKey>, StoreError> {
    let failed = |why: SealError| StoreError::Invalid(format!("cannot seal {id}: {why}"));
    let directory = shard.directory.borrow();
    let wrap = |held: &Rc<Held>| {
        let key = match directory.owner(held.mailbox()) {
            Some(account) if !held.seals_to(account) => {
                let random = &mut |bytes: &mut [u8]| shard.rt.random(bytes);
                let fresh = shard.windows.begin(held.mailbox(), account, shard.rt.now(), random);
                // An account that has no keys any more: the sender may come again.
                fresh.map_err(failed)?.ok_or(StoreError::Busy)?.wrap(content, id)
            }
            _ => held.wrap(content, id),
        };
        key.map_err(failed)
    };
    seals.map(wrap).collect()
}
