//! A node's copy of the directory, and the changes that this node makes in the one of all nodes.
//!
//! Runs on the bridge's thread, one change or look at a time. The copy is the embedded index's own
//! directory: what is changed on any node is there about [`LOOK_EVERY`] later. Failure: a look that
//! fails is made again; the node goes on with what it has.

use core::time::Duration;
use std::sync::Arc;

use fsmtp_store::StoreError;
use fsmtp_store::directory::{Change, Directory, Edit};
use fsmtp_store::mailbox::{Embedded, Registry as _};

use crate::bridge::{Bridge, Clock, Desk};
use crate::directory::{Book, News};

/// How often it is looked for changes of other nodes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often everything is compared, which finds what a look has missed.
const COMPARE_EVERY: Duration = Duration::from_secs(3600);
/// How often a change is planned anew because another node was quicker.
const TRIES_MAX: usize = 3;

/// Takes news over into the copy.
async fn take_over(bridge: &Bridge, local: &Embedded, news: News) -> Result<(), StoreError> {
    news.damaged.into_iter().for_each(|row| bridge.complain(row));
    if !news.edits.is_empty() {
        local.change(Change::Replicate(news.edits)).await?;
    }
    Ok(())
}

async fn look(
    bridge: &Bridge,
    local: &Embedded,
    clock: Clock,
    book: &mut Book,
) -> Result<(), StoreError> {
    let news = book.fresh(&local.directory(), clock()).await?;
    take_over(bridge, local, news).await
}

async fn compare(
    bridge: &Bridge,
    local: &Embedded,
    clock: Clock,
    book: &mut Book,
) -> Result<(), StoreError> {
    let news = book.all(&local.directory(), clock()).await?;
    take_over(bridge, local, news).await
}

/// Brings the copy up to what all nodes share, and keeps it there.
pub(crate) async fn follow(
    bridge: &Bridge,
    local: &Embedded,
    desk: &Arc<Desk>,
) -> Result<(), StoreError> {
    compare(bridge, local, desk.clock, &mut *desk.book.lock().await).await?;
    tokio::spawn(watch(bridge.clone(), local.clone(), Arc::clone(desk)));
    Ok(())
}

impl Bridge {
    /// Makes a change for all nodes, then in the copy.
    ///
    /// # Errors
    /// As [`Registry::change`](fsmtp_store::mailbox::Registry::change); [`StoreError::Busy`] when
    /// other nodes were quicker.
    pub async fn change(
        &self,
        local: &Embedded,
        change: Change,
    ) -> Result<Arc<Directory>, StoreError> {
        let (bridge, local) = (self.clone(), local.clone());
        self.hand(move |desk| async move {
            let mut book = desk.book.lock().await;
            for _ in 0..TRIES_MAX {
                let before = local.directory();
                let edit = before.plan(change.clone())?;
                match book.publish(&before, &edit, (desk.clock)()).await {
                    Ok(()) => return settle(&bridge, &local, &desk, edit).await,
                    Err(StoreError::Busy) => look(&bridge, &local, desk.clock, &mut book).await?,
                    Err(error) => return Err(error),
                }
            }
            Err(StoreError::Busy)
        })
        .await
    }
}

/// Takes over what was published; the mail of an account that is gone goes, too.
async fn settle(
    bridge: &Bridge,
    local: &Embedded,
    desk: &Arc<Desk>,
    edit: Edit,
) -> Result<Arc<Directory>, StoreError> {
    if let Edit::DropAccount { mailbox, address } = &edit {
        let (mail, bridge) = (Arc::clone(&desk.mail), bridge.clone());
        let (mailboxes, address) = (mailbox.all(), address.clone());
        tokio::spawn(async move {
            for mailbox in mailboxes {
                if let Err(error) = mail.purge(mailbox).await {
                    bridge.complain(format!("mail of {address} is not all removed: {error}"));
                }
            }
        });
    }
    local.change(Change::Replicate(vec![edit])).await
}

async fn watch(bridge: Bridge, local: Embedded, desk: Arc<Desk>) {
    let mut compared = tokio::time::Instant::now();
    let mut fails = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if local.failure().is_some() {
            return;
        }
        let mut book = desk.book.lock().await;
        // What a look found and could not be taken over is found by comparing.
        let is_due = fails || compared.elapsed() >= COMPARE_EVERY;
        let looked = match is_due {
            true => compare(&bridge, &local, desk.clock, &mut book).await,
            false => look(&bridge, &local, desk.clock, &mut book).await,
        };
        drop(book);
        match looked {
            Ok(()) => {
                fails = false;
                if is_due {
                    compared = tokio::time::Instant::now();
                }
            }
            Err(error) => {
                if !core::mem::replace(&mut fails, true) {
                    bridge.complain(format!("changes of other nodes are not seen: {error}"));
                }
            }
        }
    }
}
