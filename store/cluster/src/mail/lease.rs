//! Leases: one session of the cluster has a mailbox at one time, one node the outgoing mail of
//! another.
//!
//! Called by the thread of the bridge. To take a lease and to keep it is a lightweight transaction.
//! That of a mailbox ends by itself after a minute; a task for each renews it every 20 s and gives
//! it back when the visit is over. Limits: 16,384 visits. Failure: a lease that cannot be renewed
//! for a minute is lost, and the visit then removes nothing.

use core::future::poll_fn;
use core::ops::ControlFlow;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use fsmtp_store::{MailboxId, StoreError};
use futures_channel::oneshot;
use scylla::value::{CqlValue, Row};
use tokio::sync::{Semaphore, watch};

use super::{Mail, column, odd};
use crate::bridge::Visit;
use crate::redis::Cache;

/// Visits at one time.
const VISITS_MAX: u32 = 16_384;
const LEASE_SECONDS: i32 = 60;
/// Until when a lease is surely there: less than it lasts, for Cassandra may have begun to count
/// before we did.
const SAFE_MS: u64 = 55 * 1000;
const RENEWED_AFTER: Duration = Duration::from_secs(20);
/// The pause after a try that got no answer.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What all visits have in common.
pub(super) struct Visits {
    /// The process, as leases name it: no other one has ever had that name.
    holder: String,
    count: AtomicU64,
    epoch: AtomicU64,
    room: Arc<Semaphore>,
    node: String,
    /// Shows other programs which mailboxes are open.
    cache: Option<Cache>,
    stop: watch::Sender<bool>,
}

impl Visits {
    pub(super) fn new(node: &str, now_ms: u64, cache: Option<Cache>) -> Self {
        Self {
            holder: format!("{node}/{}/{now_ms}", std::process::id()),
            count: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(VISITS_MAX as usize)),
            node: node.to_owned(),
            cache,
            stop: watch::Sender::new(false),
        }
    }

    fn show(&self, mailbox: MailboxId, is_open: bool) {
        match &self.cache {
            Some(cache) if is_open => cache.opened(mailbox, &self.node),
            Some(cache) => cache.closed(mailbox),
            None => {}
        }
    }

    fn lease(&self, mailbox: MailboxId, now: u64) -> Lease {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        // Rises with the clock, and with each lease of this bridge.
        let rise = |epoch: u64| Some(now.max(epoch.saturating_add(1)));
        let before = self.epoch.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rise);
        let epoch = now.max(before.unwrap_or_default().saturating_add(1));
        Lease {
            name: format!("mailbox/{}", mailbox.0),
            holder: format!("{}/{number}", self.holder),
            epoch,
            seconds: LEASE_SECONDS,
        }
    }
}

/// Who works on what; ends by itself when it was not renewed for so long.
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) holder: String,
    pub(crate) epoch: u64,
    pub(crate) seconds: i32,
}

/// What a task that keeps a lease waits for.
enum Next {
    Renew,
    /// The visit is over; who is to be told.
    End(Option<oneshot::Sender<()>>),
}

impl Mail {
    /// Opens a mailbox for one session.
    pub(crate) async fn open(self: &Arc<Self>, mailbox: MailboxId) -> Result<Visit, StoreError> {
        let room = Arc::clone(&self.visits.room).try_acquire_owned();
        let room = room.map_err(|_| StoreError::Busy)?;
        let opened_ms = self.now_ms();
        let lease = self.visits.lease(mailbox, opened_ms);
        match self.take(&lease).await {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::InUse),
            Err(error) => {
                // It may be taken in truth.
                let mail = Arc::clone(self);
                tokio::spawn(async move { mail.end(&lease).await.map(drop) });
                return Err(error);
            }
        }
        let (hold, held) = oneshot::channel();
        let safe_until_ms = Arc::new(AtomicU64::new(opened_ms + SAFE_MS));
        let (mail, safe) = (Arc::clone(self), Arc::clone(&safe_until_ms));
        self.visits.show(mailbox, true);
        tokio::spawn(async move {
            mail.keep(lease, held, (mailbox, &safe)).await;
            mail.visits.show(mailbox, false);
            drop(room);
        });
        let listing = self.list(mailbox).await?;
        Ok(Visit { listing, opened_ms, safe_until_ms, hold })
    }

    /// Ends all visits; waits for it, not longer than `patience`.
    pub(crate) async fn end_visits(&self, patience: Duration) {
        self.visits.stop.send_replace(true);
        let _ = tokio::time::timeout(patience, self.visits.room.acquire_many(VISITS_MAX)).await;
    }

    async fn keep(
        &self,
        lease: Lease,
        mut held: oneshot::Receiver<oneshot::Sender<()>>,
        (mailbox, safe): (MailboxId, &AtomicU64),
    ) {
        let mut pause = RENEWED_AFTER;
        let told = loop {
            match self.next(&mut held, pause).await {
                Next::End(told) => break told,
                Next::Renew => {}
            }
            let now = self.now_ms();
            pause = match self.renew(&lease).await {
                Ok(true) => {
                    safe.store(now + SAFE_MS, Ordering::Relaxed);
                    self.visits.show(mailbox, true);
                    RENEWED_AFTER
                }
                Ok(false) => {
                    safe.store(0, Ordering::Relaxed);
                    return;
                }
                Err(_) => TRIED_AGAIN_AFTER,
            };
        };
        // Where this fails, the lease ends by itself.
        let _ = self.end(&lease).await;
        if let Some(told) = told {
            let _ = told.send(());
        }
    }

    async fn next(
        &self,
        held: &mut oneshot::Receiver<oneshot::Sender<()>>,
        pause: Duration,
    ) -> Next {
        let mut stop = self.visits.stop.subscribe();
        let mut stopping = pin!(stop.wait_for(|stop| *stop));
        let mut pause = pin!(tokio::time::sleep(pause));
        poll_fn(|context| {
            if let Poll::Ready(told) = Pin::new(&mut *held).poll(context) {
                return Poll::Ready(Next::End(told.ok()));
            }
            if stopping.as_mut().poll(context).is_ready() {
                return Poll::Ready(Next::End(None));
            }
            pause.as_mut().poll(context).map(|()| Next::Renew)
        })
        .await
    }

    pub(crate) async fn take(&self, lease: &Lease) -> Result<bool, StoreError> {
        let values = (&lease.name, &lease.holder, column(lease.epoch), lease.seconds);
        self.transact(&self.statements.take_lease, values, lease).await
    }

    pub(crate) async fn renew(&self, lease: &Lease) -> Result<bool, StoreError> {
        let holder = &lease.holder;
        let values = (lease.seconds, holder, column(lease.epoch), &lease.name, holder);
        self.transact(&self.statements.keep_lease, values, lease).await
    }

    pub(crate) async fn end(&self, lease: &Lease) -> Result<bool, StoreError> {
        self.transact(&self.statements.end_lease, (&lease.name, &lease.holder), lease).await
    }

    /// Which of these leases somebody has, and who.
    pub(crate) async fn held(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let mut held = BTreeMap::new();
        let each = |(name, holder): (String, String)| {
            held.insert(name, holder);
            ControlFlow::Continue(())
        };
        let _ = self.pages(&self.statements.who, (names,), each).await?;
        Ok(held)
    }

    /// Whether a condition held. It also did when the row is this visit's: then an earlier try of
    /// the driver was carried out, and its answer was lost.
    async fn transact(
        &self,
        statement: &scylla::statement::prepared::PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
        lease: &Lease,
    ) -> Result<bool, StoreError> {
        let found = self.rows(statement, values).await?;
        let holder = found.column_specs().get_by_name("holder").map(|(index, _)| index);
        let row: Row = found.first_row().map_err(|error| odd(&error))?;
        let applied = row.columns.first().and_then(Option::as_ref).and_then(CqlValue::as_boolean);
        let holder = holder.and_then(|index| row.columns.get(index)?.as_ref()?.as_text());
        Ok(applied == Some(true) || holder == Some(&lease.holder))
    }
}
