//! A node's copy of the directory, and the changes that this node makes in the one of all nodes.
//!
//! Runs on the bridge's thread, one change or look at a time. The copy is the embedded index's own
//! directory: what is changed on any node is there about [`LOOK_EVERY`] later, or at once where
//! Redis tells of it. Failure: a look that
//! fails is made again; the node goes on with what it has.

use core::time::Duration;
use std::sync::Arc;

use fsmtp_store::StoreError;
use fsmtp_store::directory::{Change, Directory, Edit};
use fsmtp_store::mailbox::{Embedded, Registry as _};
use tokio::time::Instant;

use crate::bridge::Desk;
use crate::directory::{Book, News};

/// How often it is looked for changes of other nodes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks, at least.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How often everything is compared, which finds what a look has missed.
const COMPARE_EVERY: Duration = Duration::from_secs(3600);
/// How often a change is planned anew because another node was quicker.
const TRIES_MAX: usize = 3;

/// Takes news over into the copy.
async fn take_over(desk: &Desk, local: &Embedded, news: News) -> Result<(), StoreError> {
    news.damaged.into_iter().for_each(|row| desk.shared.complain(row));
    if !news.edits.is_empty() {
        local.change(Change::Replicate(news.edits)).await?;
    }
    Ok(())
}

async fn look(desk: &Desk, local: &Embedded, book: &mut Book) -> Result<(), StoreError> {
    let news = book.fresh(&local.directory(), (desk.clock)()).await?;
    take_over(desk, local, news).await
}

async fn compare(desk: &Desk, local: &Embedded, book: &mut Book) -> Result<(), StoreError> {
    let news = book.all(&local.directory(), (desk.clock)()).await?;
    take_over(desk, local, news).await
}

/// Brings the copy up to what all nodes share, and keeps it there.
///
/// # Errors
/// When Cassandra does not answer, or the node has accounts and the cluster has none.
pub(crate) async fn follow(desk: &Arc<Desk>, local: &Embedded) -> Result<(), StoreError> {
    compare(desk, local, &mut *desk.book.lock().await).await?;
    tokio::spawn(watch(Arc::clone(desk), local.clone()));
    sweep(desk, local);
    Ok(())
}

/// Has the mail go of accounts that are gone.
fn sweep(desk: &Arc<Desk>, local: &Embedded) {
    let (desk, local) = (Arc::clone(desk), local.clone());
    tokio::spawn(async move {
        let is_owned = |account| local.directory().owner(account).is_some();
        if let Err(error) = desk.mail.sweep(is_owned).await {
            desk.shared.complain(format!("mail of removed accounts is not all gone: {error}"));
        }
    });
}

/// Makes a change for all nodes, then in the copy.
pub(crate) async fn change_all(
    desk: &Arc<Desk>,
    local: &Embedded,
    change: Change,
) -> Result<Arc<Directory>, StoreError> {
    let mut book = desk.book.lock().await;
    for _ in 0..TRIES_MAX {
        let before = local.directory();
        let edit = before.plan(change.clone())?;
        if let Edit::DropAccount { mailbox, .. } = &edit {
            desk.mail.note_removal(mailbox.account()).await?;
        }
        match book.publish(&before, &edit, (desk.clock)()).await {
            Ok(()) => return settle(desk, local, edit).await,
            Err(StoreError::Busy) => look(desk, local, &mut book).await?,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Busy)
}

/// Takes over what was published; the mail of an account that is gone goes, too.
async fn settle(
    desk: &Arc<Desk>,
    local: &Embedded,
    edit: Edit,
) -> Result<Arc<Directory>, StoreError> {
    if let Some(cache) = &desk.cache {
        cache.changed(&edit);
    }
    let has_left = matches!(edit, Edit::DropAccount { .. });
    let after = local.change(Change::Replicate(vec![edit])).await;
    if has_left {
        sweep(desk, local);
    }
    after
}

async fn watch(desk: Arc<Desk>, local: Embedded) {
    let mut compared = Instant::now();
    let mut fails = false;
    while local.failure().is_none() {
        // Whoever rings much makes nobody look without end.
        tokio::time::sleep(LOOK_PAUSE).await;
        let _ = tokio::time::timeout(LOOK_EVERY - LOOK_PAUSE, desk.shared.look.notified()).await;
        let mut book = desk.book.lock().await;
        // What a look has found and could not be taken over is found by comparing.
        let is_due = fails || compared.elapsed() >= COMPARE_EVERY;
        let looked = match is_due {
            true => compare(&desk, &local, &mut book).await,
            false => look(&desk, &local, &mut book).await,
        };
        drop(book);
        match looked {
            Ok(()) if is_due => {
                (fails, compared) = (false, Instant::now());
                sweep(&desk, &local);
            }
            Ok(()) => {}
            Err(error) => {
                if !core::mem::replace(&mut fails, true) {
                    let what = format!("changes of other nodes are not seen: {error}");
                    desk.shared.complain(what);
                }
            }
        }
    }
}
