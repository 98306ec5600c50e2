//! Opening sealed messages for the owner of a mailbox: from the key of the mailbox to the
//! message's.
//!
//! One for each POP3 session. The first message of a window may take an RSA operation with the
//! private key, which a helper thread does; what is opened is kept for the messages that follow,
//! and stored so that the next visit needs no RSA.
//!
//! Limits: [`WINDOWS_COUNT_MAX`] open windows; beyond, they are let go and opened again. Failure: a
//! key that does not open what it should is [`StoreError::Corrupt`], for then something was
//! changed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::{
    ContentKey, MailboxKey, OpenWindow, PrivateKey, SealError, WindowId, WindowRecord,
};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use crate::shard::Shard;

/// Windows that are kept open; 100 bytes each.
const WINDOWS_COUNT_MAX: usize = 256;
/// Windows that are stored anew together.
const REWRAPPED_COUNT_MAX: usize = 64;

/// What a session can open.
pub(crate) struct Unsealer<'s, R: Runtime, M: Mailboxes> {
    shard: &'s Rc<Shard<R, M>>,
    mailbox: MailboxId,
    key: Arc<MailboxKey>,
    private: Option<Arc<PrivateKey>>,
    windows: BTreeMap<WindowId, OpenWindow>,
    rewrapped: Vec<WindowRecord>,
}

impl<'s, R: Runtime, M: Mailboxes> Unsealer<'s, R, M> {
    pub(crate) fn new(
        shard: &'s Rc<Shard<R, M>>,
        mailbox: MailboxId,
        key: Arc<MailboxKey>,
    ) -> Self {
        let (windows, rewrapped) = (BTreeMap::new(), Vec::new());
        Self { shard, mailbox, key, private: None, windows, rewrapped }
    }

    /// The key of the message `id`.
    pub(crate) async fn content_key(
        &mut self,
        key: &RecipientKey,
        id: QueueId,
    ) -> Result<ContentKey, StoreError> {
        let name = key.wrap.window;
        if !self.windows.contains_key(&name) {
            let window = self.open(&key.window).await?;
            if self.windows.len() >= WINDOWS_COUNT_MAX {
                self.windows.clear();
            }
            self.windows.insert(name, window);
        }
        let window = self.windows.get(&name).ok_or(StoreError::Busy)?;
        window.open(&key.wrap, id).map_err(|why| corrupt(&format!("the key of message {id}"), why))
    }

    async fn open(&mut self, record: &Arc<WindowRecord>) -> Result<OpenWindow, StoreError> {
        let mailbox = self.mailbox;
        let damaged = |why| corrupt(&format!("a window of mailbox {}", mailbox.0), why);
        if !record.needs_rsa() {
            return record.open(&self.key).map_err(damaged);
        }
        let private = self.private().await?;
        let inner = Arc::clone(record);
        let opened = self.shard.offload(move || inner.open_rsa(&private)).await;
        let window = opened.map_err(|_| StoreError::Busy)?.map_err(damaged)?;
        let random = &mut |bytes: &mut [u8]| self.shard.rt.random(bytes);
        let rewrapped = window.rewrap(&self.key, random).map_err(damaged)?;
        self.rewrapped.push(rewrapped);
        if self.rewrapped.len() >= REWRAPPED_COUNT_MAX {
            self.settle().await;
        }
        Ok(window)
    }

    async fn private(&mut self) -> Result<Arc<PrivateKey>, StoreError> {
        if let Some(private) = &self.private {
            return Ok(Arc::clone(private));
        }
        let keys = self.shard.mailboxes.user_keys(self.mailbox).await;
        let keys = keys.map_err(|error| match error {
            // Not the message is missing.
            StoreError::NotFound(what) => {
                StoreError::Corrupt { place: what, why: "it is missing".to_owned() }
            }
            other => other,
        })?;
        let (mailbox, key) = (self.mailbox.account(), Arc::clone(&self.key));
        let opened = self.shard.offload(move || keys.private_key(mailbox, &key)).await;
        let damaged = |why| corrupt(&format!("the key pair of mailbox {}", mailbox.0), why);
        let private = Arc::new(opened.map_err(|_| StoreError::Busy)?.map_err(damaged)?);
        self.private = Some(Arc::clone(&private));
        Ok(private)
    }

    /// Stores what was opened by RSA in the form that needs none. What goes wrong is no loss: the
    /// next visit does it again.
    pub(crate) async fn settle(&mut self) {
        if !self.rewrapped.is_empty() {
            let windows = core::mem::take(&mut self.rewrapped);
            let _ = self.shard.mailboxes.rewrap(self.mailbox, windows).await;
        }
    }
}

fn corrupt(what: &str, why: SealError) -> StoreError {
    StoreError::Corrupt { place: what.to_owned(), why: why.to_string() }
}
