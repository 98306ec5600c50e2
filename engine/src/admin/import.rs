//! Taking mail of the older program over: what was taken is in a journal, so that nothing is twice.
//!
//! Requests come from `import-cassandra`, in batches; the first shard stores them. A batch is in
//! the journal before it is stored and marked as done behind that. What a crash leaves open is
//! looked up in the mailboxes by its queue id. Limits: a message of [`MAIL_BYTES_MAX`]; 16 bytes
//! and some of memory for each message of the journal, from the first request on.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Mailboxes as _, Message, Registry as _, Uplink as _, wait};
use fsmtp_store::{MailboxId, QueueId, ShardId, StoreError, Uid};

use super::{StoreAdmin, invalid, refused};
use crate::control::{
    AdminError, AdminErrorKind, AdminReply, MailEntry, MailName, MailOutcome, PAGE_ENTRIES_MAX,
};
use crate::import::{Ask, Door, Letter};
use crate::latest::Latest;
use journal::{Intent, Journal, Key};

/// The largest message.
pub(crate) const MAIL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long the shard may take for one step.
const PATIENCE: Duration = Duration::from_secs(14);
/// The journal's name in the data folder.
const JOURNAL_FILE: &str = "import.journal";

/// The way of mail into the store.
#[derive(Debug)]
pub(crate) struct Importer {
    file: PathBuf,
    door: Door,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None before the first request, and when something in it is open.
    journal: Option<Journal>,
    /// What has come of a long message.
    part: Option<(String, Vec<u8>)>,
}

impl Importer {
    pub(crate) fn new(data: &Path, door: Door) -> Self {
        Self { file: data.join(JOURNAL_FILE), door, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the shard store messages, in their order, once `keep` has kept their names.
    fn store(
        &self,
        letters: Vec<Letter>,
        keep: impl FnOnce(&[Option<QueueId>]) -> Result<(), AdminError>,
    ) -> Result<Vec<Result<(), String>>, AdminError> {
        let late = |_| AdminError::new(AdminErrorKind::Busy, "the first shard does not answer");
        let ((named, names), (done, outcomes)) = (channel(), channel());
        let go = Latest::default();
        self.door.put(Ask { letters, named, go: go.clone(), done });
        let kept = names.recv_timeout(PATIENCE).map_err(late).and_then(|names| keep(&names));
        go.put(kept.is_ok());
        kept?;
        outcomes.recv_timeout(PATIENCE).map_err(late)
    }
}

impl StoreAdmin {
    fn importer(&self) -> Result<&Importer, AdminError> {
        self.importer.as_ref().ok_or_else(|| invalid("no shard takes mail over here".to_owned()))
    }

    /// Where a message belongs; none without such an account.
    fn place(&self, of: &MailName) -> Option<(Key, MailboxId)> {
        let name = u128::from_str_radix(&of.name, 16).ok()?;
        let account = self.mailboxes.directory().account(&of.address)?.mailbox;
        let mailbox = if of.sent { account.sent() } else { account };
        Some((Key { name, mailbox }, mailbox))
    }

    pub(super) fn known_mail(&self, mails: &[MailName]) -> Result<AdminReply, AdminError> {
        let importer = self.importer()?;
        let mut state = importer.state();
        // Only asking makes none.
        if !importer.file.exists() {
            return Ok(AdminReply::MailKnown { known: vec![false; mails.len()] });
        }
        let journal = self.journal(&mut state)?;
        let known = |of| self.place(of).is_some_and(|(key, _)| journal.knows(key));
        Ok(AdminReply::MailKnown { known: mails.iter().map(known).collect() })
    }

    pub(super) fn part(
        &self,
        name: String,
        offset: u64,
        data: &str,
    ) -> Result<AdminReply, AdminError> {
        let mut state = self.importer()?.state();
        let mut bytes = match state.part.take() {
            Some((of, bytes)) if of == name && offset == bytes.len() as u64 => bytes,
            _ if offset == 0 => Vec::new(),
            _ => return Err(invalid("another import runs: its message came in between".into())),
        };
        bytes.extend_from_slice(&decoded(data)?);
        if bytes.len() > MAIL_BYTES_MAX {
            return Err(invalid(format!("a message has more than {MAIL_BYTES_MAX} bytes")));
        }
        state.part = Some((name, bytes));
        Ok(AdminReply::Done { text: "a part was taken".to_owned() })
    }

    pub(super) fn import_mail(&self, mails: Vec<MailEntry>) -> Result<AdminReply, AdminError> {
        let importer = self.importer()?;
        let mut state = importer.state();
        let mut part = state.part.take();
        let journal = self.journal(&mut state)?;
        let mut outcomes = Vec::with_capacity(mails.len());
        let (mut letters, mut keys, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (number, MailEntry { of, received_ms, data }) in mails.into_iter().enumerate() {
            let Some((key, mailbox)) = self.place(&of) else {
                outcomes.push(MailOutcome::Refused(format!("there is no account {}", of.address)));
                continue;
            };
            if journal.knows(key) || keys.contains(&key) {
                outcomes.push(MailOutcome::Present);
                continue;
            }
            let begun = part.take_if(|(name, _)| *name == of.name);
            let mut bytes = begun.map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.extend_from_slice(&decoded(&data)?);
            let received = UnixTime::from_ms(received_ms);
            letters.push(Letter { mailbox, address: of.address, received, bytes });
            keys.push(key);
            places.push(number);
            outcomes.push(MailOutcome::Imported);
        }
        if letters.is_empty() {
            return Ok(AdminReply::MailImported { outcomes });
        }
        let stored = importer.store(letters, |names| {
            let intents = keys.iter().zip(names);
            let intents = intents.filter_map(|(&key, &id)| Some(Intent { key, id: id? }));
            journal.intend(intents).map_err(|why| importer.failed(&why))
        });
        let closed = stored.and_then(|stored| {
            let lost = keys.iter().zip(&stored).filter(|(_, stored)| stored.is_err());
            let lost: Vec<Key> = lost.map(|(&key, _)| key).collect();
            journal.close(&lost).map_err(|why| importer.failed(&why)).map(|()| stored)
        });
        let Ok(stored) = closed else {
            // What is open is looked up the next time.
            state.journal = None;
            return Err(closed.err().unwrap_or_else(|| invalid(String::new())));
        };
        for (place, stored) in places.into_iter().zip(stored) {
            if let (Some(outcome), Err(why)) = (outcomes.get_mut(place), stored) {
                *outcome = MailOutcome::Refused(why);
            }
        }
        Ok(AdminReply::MailImported { outcomes })
    }

    pub(super) fn waiting_mail(&self) -> Result<AdminReply, AdminError> {
        if !self.mailboxes.is_clustered() {
            return Ok(AdminReply::MailWaiting { count: 0 });
        }
        let waiting = wait(async {
            self.mailboxes.persist().await?;
            self.mailboxes.awaiting(ShardId(0), None, PAGE_ENTRIES_MAX).await
        });
        let waiting = waiting.map_err(|error| refused(&error))?;
        Ok(AdminReply::MailWaiting { count: waiting.len() })
    }

    /// The journal; read when that was not done.
    fn journal<'s>(&self, state: &'s mut State) -> Result<&'s mut Journal, AdminError> {
        let importer = self.importer()?;
        if state.journal.is_none() {
            // Answered when the shard has read its log and has stored what was asked for before.
            importer.store(Vec::new(), |_| Ok(()))?;
            let there = |intent: Intent| self.is_there(intent).map_err(|why| why.to_string());
            let journal = Journal::open(&importer.file, there);
            state.journal = Some(journal.map_err(|why| importer.failed(&why))?);
        }
        state.journal.as_mut().ok_or_else(|| invalid("the journal is not there".to_owned()))
    }

    /// Whether a message is in its mailbox, or on its way there.
    fn is_there(&self, Intent { key, id }: Intent) -> Result<bool, StoreError> {
        match wait(self.mailboxes.locate(id)) {
            Ok(_) => return Ok(true),
            Err(StoreError::NotFound(_)) if self.mailboxes.is_clustered() => {}
            Err(StoreError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        let message = Message { id, octets: 0, uid: Uid(0) };
        match wait(self.mailboxes.find(key.mailbox, message)) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Importer {
    fn failed(&self, why: &dyn core::fmt::Display) -> AdminError {
        AdminError::new(AdminErrorKind::Failed, format!("{}: {why}", self.file.display()))
    }
}

fn decoded(data: &str) -> Result<Vec<u8>, AdminError> {
    STANDARD.decode(data).map_err(|why| invalid(format!("a message is no base64: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_cluster::node::NodeMailboxes;
    use fsmtp_store::mailbox::{Embedded, Options};

    /// Carries requests out on an empty store whose shard never answers.
    fn with_store(run: impl Fn(&StoreAdmin)) {
        let temp = tempfile::tempdir().unwrap();
        let (mailboxes, keeper) = Embedded::open(temp.path(), Options::new(1)).unwrap();
        let admin = StoreAdmin::online(NodeMailboxes::alone(mailboxes), "mail.test", None);
        assert!(admin.known_mail(&[]).is_err(), "without a shard");
        run(&admin.with_importer(Importer::new(temp.path(), Door::default())));
        keeper.close().unwrap();
    }

    #[test]
    fn parts_of_a_message_follow_each_other_and_are_no_more_than_a_message() {
        with_store(|admin| {
            let part = |name: &str, offset: usize, bytes: &[u8]| {
                let done = admin.part(name.to_owned(), offset as u64, &STANDARD.encode(bytes));
                done.map(drop).map_err(|error| error.message)
            };
            part("a", 0, b"one").unwrap();
            part("a", 3, b"two").unwrap();
            for (name, offset) in [("b", 6), ("a", 6), ("a", 3)] {
                let said = part(name, offset, b"three").unwrap_err();
                assert!(said.contains("another import runs"), "{said}");
            }
            part("b", 0, b"one").unwrap();
            part("a", 0, b"begun anew").unwrap();
            let large = vec![b'x'; MAIL_BYTES_MAX / 4];
            for quarter in 0..4 {
                part("a", quarter * large.len(), &large).unwrap();
            }
            assert!(part("a", MAIL_BYTES_MAX, b"x").unwrap_err().contains("more than"));
            assert!(admin.part("a".to_owned(), 0, "no base64!").is_err());
        });
    }

    #[test]
    fn only_asking_needs_no_shard_and_makes_no_journal() {
        with_store(|admin| {
            let mails = [MailName { name: "0".repeat(32), address: String::new(), sent: false }];
            let known = admin.known_mail(&mails).unwrap();
            assert_eq!(known, AdminReply::MailKnown { known: vec![false] });
            assert!(!admin.importer().unwrap().file.exists());
            assert_eq!(admin.waiting_mail().unwrap(), AdminReply::MailWaiting { count: 0 });
        });
    }
}
