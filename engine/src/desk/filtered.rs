//! What filters of others say to a transaction, and what the desk makes of it.

use std::rc::Rc;

use fsmtp_proto::smtp::address::{Domain, Mailbox};
use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::{Datagrams, Dial, Runtime};
use fsmtp_store::QueueId;
use fsmtp_store::directory::Resolution;
use fsmtp_store::envelope::{Envelope, Notify};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::spool::Incoming;

use super::transaction::Transaction;
use super::{Desk, Said};
use crate::filters::{Changes, Client, Mail, Passage, Recipient, Refused, Scene, Verdict};
use crate::log::Event;
use crate::seals;
use crate::shard::{Shard, count};

/// What the desk knows of a transaction, as filters are told.
struct Known {
    from: String,
    id: String,
}

impl Known {
    fn of(envelope: &Envelope, id: Option<QueueId>) -> Self {
        let from = String::from_utf8_lossy(&envelope.reverse_path).into_owned();
        Self { from, id: id.map(|id| id.to_string()).unwrap_or_default() }
    }

    fn scene<'a, R: Runtime, M: Mailboxes>(
        &'a self,
        shard: &'a Shard<R, M>,
        session: &'a Session,
        envelope: &Envelope,
    ) -> Scene<'a, R> {
        let peer = session.peer();
        let client = Client {
            ip: peer.ip,
            port: peer.port,
            host: peer.host.as_deref(),
            helo: session.client_name().unwrap_or_default(),
            tls: session.tls().map(|tls| (tls.version, tls.cipher)),
            user: session.user(),
            node: &shard.node,
        };
        let mail = Mail {
            from: &self.from,
            eight_bit: envelope.body.eight_bit || envelope.body.binary,
            utf8: envelope.body.utf8,
        };
        Scene { rt: &shard.rt, log: &shard.log, client, mail, id: &self.id }
    }
}

/// The addresses of changes of one kind.
fn of(changes: &[(Recipient, String)], kind: Recipient) -> impl Iterator<Item = &String> {
    changes.iter().filter(move |(what, _)| *what == kind).map(|(_, address)| address)
}

fn told(refused: Refused) -> Said {
    Said::Told(Rc::new(refused))
}

impl<R: Dial + Datagrams, M: Mailboxes> Desk<'_, R, M> {
    /// A transaction begins: whatever filters know of another one is over. Mail of nodes has been
    /// through the filters of the node that got it first.
    pub(super) fn begin_passage(&mut self, session: &Session) {
        let user = session.user().is_some();
        if session.node().is_some() {
            self.passage = None;
        } else if self.passage.as_ref().is_none_or(|passage| passage.is_of_user() != user) {
            self.passage = self.shard.filters.passage(user).map(Box::new);
        }
        if let Some(passage) = &mut self.passage {
            passage.reset();
        }
    }

    /// Why a recipient who is welcome here gets no message.
    pub(super) async fn filter_recipient(&mut self, to: &str, session: &Session) -> Option<Said> {
        let (passage, transaction) = (self.passage.as_mut()?, self.transaction.as_ref()?);
        let known = Known::of(&transaction.envelope, None);
        let scene = known.scene(self.shard, session, &transaction.envelope);
        let refused = passage.recipient(&scene, to).await.err()?;
        count(&self.shard.counters.recipients_refused);
        Some(told(refused))
    }

    /// Why a message need not come.
    pub(super) async fn filter_begin(&mut self, session: &Session) -> Option<Said> {
        let (passage, transaction) = (self.passage.as_mut()?, self.transaction.as_ref()?);
        let known = Known::of(&transaction.envelope, self.incoming.as_ref().map(Incoming::id));
        let scene = known.scene(self.shard, session, &transaction.envelope);
        passage.begin(&scene).await.err().map(told)
    }

    /// Shows filters bytes of the message; gives back what of them is to be stored now.
    pub(super) async fn filter_bytes<'b>(
        passage: &mut Passage<R>,
        shard: &Shard<R, M>,
        (session, envelope): (&Session, &Envelope),
        (id, bytes): (QueueId, &'b [u8]),
    ) -> std::borrow::Cow<'b, [u8]> {
        let known = Known::of(envelope, Some(id));
        passage.feed(&known.scene(shard, session, envelope), bytes).await
    }

    /// The message is over: what filters put in front of what was stored.
    ///
    /// # Errors
    /// What the client is told instead; that it is stored, when a filter has it thrown away.
    pub(super) async fn filter_end(
        &mut self,
        transaction: &mut Transaction,
        session: &Session,
        id: QueueId,
    ) -> Result<Vec<u8>, Said> {
        let Some(passage) = &mut self.passage else { return Ok(Vec::new()) };
        let known = Known::of(&transaction.envelope, Some(id));
        let scene = known.scene(self.shard, session, &transaction.envelope);
        let outcome = passage.finish(&scene, &transaction.addresses()).await;
        let junk = match outcome.verdict {
            Verdict::Refused(refused) => {
                count(&self.shard.counters.messages_refused);
                return Err(told(refused));
            }
            Verdict::Discard => return Err(Said::Stored(id.text())),
            Verdict::Junk(_) => true,
            Verdict::Accept => false,
        };
        self.change(transaction, outcome.changes, id).await;
        if transaction.recipients_count() == 0 {
            // A filter that takes every recipient out wants nobody to get it.
            return Err(Said::Stored(id.text()));
        }
        // A user's mail is somebody else's to put anywhere.
        if junk && session.user().is_none() {
            let all: Vec<_> = transaction.mailboxes.iter().copied().collect();
            self.put_into_junk(transaction, &all).await;
        }
        Ok(outcome.head)
    }

    /// Does what filters want changed of sender and recipients, as far as it can be done.
    async fn change(&self, transaction: &mut Transaction, changes: Changes, id: QueueId) {
        let Changes { recipients, sender, fields: _ } = changes;
        let before = transaction.clone();
        let was = |address: &str| before.names(address);
        // First those that go: what is added may lead to the same mailbox. Of what one filter adds
        // and the next one deletes nothing is left.
        let gone: Vec<&String> = of(&recipients, Recipient::Deleted).collect();
        let is_taken_back = |address: &String| {
            !was(address) && gone.iter().any(|other| other.eq_ignore_ascii_case(address))
        };
        let new: Vec<&String> =
            of(&recipients, Recipient::Added).filter(|address| !is_taken_back(address)).collect();
        for address in gone.iter().filter(|address| was(address)) {
            transaction.remove(address);
        }
        let mut added = Vec::new();
        for address in &new {
            if self.add(transaction, address).await {
                added.push(address);
            } else {
                self.not_changed(id, "recipient", address);
            }
        }
        // A filter that puts one in the place of another must not leave the message to nobody.
        if added.len() < new.len() && gone.iter().any(|address| was(address)) {
            for address in gone.iter().filter(|address| was(address)) {
                self.not_changed(id, "deletion", address);
            }
            *transaction = before.clone();
            for address in added {
                if !self.add(transaction, address).await {
                    self.not_changed(id, "recipient", address);
                }
            }
        } else if transaction.recipients_count() == 0 {
            let fields: [(&str, &dyn core::fmt::Display); 3] = [
                ("filter", &"by its recipients"),
                ("id", &id),
                ("from", &String::from_utf8_lossy(&transaction.envelope.reverse_path)),
            ];
            self.shard.log.event(self.shard.rt.unix(), Event::FilterDiscarded, &fields);
        }
        if let Some(sender) = sender {
            if sender.is_empty() || Mailbox::parse(&sender).is_ok() {
                transaction.envelope.reverse_path = sender.into_bytes();
            } else {
                self.not_changed(id, "sender", &sender);
            }
        }
    }

    /// Adds a recipient that a filter has named. Only who has a mailbox here: strangers must not
    /// send through us by way of a filter; and nobody whose mail lies in clear gets what is sealed.
    async fn add(&self, transaction: &mut Transaction, address: &str) -> bool {
        let Ok(mailbox) = Mailbox::parse(address) else { return false };
        let Domain::Name(domain) = mailbox.domain() else { return false };
        let local = mailbox.local_part().unquoted();
        let resolution = self.shard.directory.borrow().resolve(&local, domain);
        let found = match resolution {
            Resolution::Mailbox(mailbox) => vec![mailbox],
            Resolution::Mailboxes(mailboxes) => mailboxes.to_vec(),
            Resolution::NoSuchUser | Resolution::NotLocal => return false,
        };
        let Ok(held) = seals::held(self.shard, &found).await else { return false };
        let opens = |(_, held): &(_, Option<_>)| held.is_some() || transaction.in_clear;
        !held.is_empty()
            && held.iter().all(opens)
            && transaction.add(address, &held, Notify::default(), None)
    }

    fn not_changed(&self, id: QueueId, what: &str, address: &str) {
        let fields: [(&str, &dyn core::fmt::Display); 3] =
            [("id", &id), ("what", &what), ("address", &address)];
        self.shard.log.event(self.shard.rt.unix(), Event::FilterUnheeded, &fields);
    }

    /// The client is gone.
    pub async fn close(&mut self) {
        if let Some(passage) = &mut self.passage {
            passage.quit().await;
        }
    }
}
