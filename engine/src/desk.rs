//! The desk answers a session's questions: who may send, who has a mailbox, is it stored.
//!
//! One desk for each SMTP connection. Between transactions it holds nothing; within one, the
//! envelope and a message in the spool. Whatever fails here is a reply, and a line in the log when
//! it is ours to mend.

mod checked;
mod filtered;
mod receipt;
mod sent;
mod su;
mod submitted;
mod trace;
mod transaction;

use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::dkim::header::HEADER_BYTES_MAX;
use fsmtp_proto::sasl::{Nonce, Question, ScramKeys};
use fsmtp_proto::smtp::address::{Domain, Path};
use fsmtp_proto::smtp::body::Newlines;
use fsmtp_proto::smtp::ext::su::Granted;
use fsmtp_proto::smtp::ext::{BodyType, Return};
use fsmtp_proto::smtp::header::Header;
use fsmtp_proto::smtp::reply::Refusal;
use fsmtp_proto::smtp::server::{Answer, Ask, Recipient, Sender, Session};
use fsmtp_rt::{Datagrams, Dial, Instant, Runtime};
use fsmtp_store::directory::{Account, Resolution};
use fsmtp_store::envelope::{BodyFlags, Envelope, Notify, Ret};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::spool::{Incoming, Stored};
use fsmtp_store::{QueueId, StoreError};

use crate::config::Durability;
use crate::filters::{self, Passage};
use crate::guard::SharedState;
use crate::log::Event;
use crate::relay::{self, routes::Way};
use crate::seals;
use crate::shard::{Shard, count};
use crate::signin::{Refused, SUBMISSION as SERVICE, certified, prove, scram_keys, sign_in};
use crate::submission::{Submission, Wrong};
use crate::upload::{Uploads, Watch};
use crate::verify::Check;
use receipt::Receipt;
use transaction::Transaction;

/// How many `Received` fields mean a loop (RFC 5321 §6.3).
const HOPS_MAX: u16 = 100;
/// A message may take this long, and a second more for each [`RATE_BYTES_MIN`] bytes: a sender that
/// trickles would otherwise keep the log's space from being given back for as long as it likes.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(600);
/// The slowest sender that may take any length of time, in bytes a second.
const RATE_BYTES_MIN: u64 = 1024;
/// How long the magic recipient `slow` takes to answer.
const SLOW: Duration = Duration::from_secs(5);

/// What the desk says, with what it must own for that.
#[derive(Clone, Debug)]
pub enum Said {
    /// Yes.
    Accepted,
    /// It is on stable storage under this name.
    Stored([u8; 13]),
    /// The client is the user of this account.
    SignedIn(Arc<Account>),
    /// What SCRAM goes on with.
    Keys(Rc<(ScramKeys, Nonce)>),
    /// The client is a node of the same owner.
    Granted(Rc<Granted>),
    /// No.
    Refused(Refusal),
    /// No, in the words of a filter.
    Told(Rc<filters::Refused>),
}

impl Said {
    /// The answer as the session takes it.
    #[must_use]
    pub fn as_answer(&self) -> Answer<'_> {
        match self {
            Self::Accepted => Answer::Accepted,
            Self::Stored(id) => Answer::Stored { id: core::str::from_utf8(id).unwrap_or("") },
            Self::SignedIn(account) => Answer::SignedIn { user: &account.address },
            Self::Keys(said) => Answer::Keys { keys: &said.0, nonce: &said.1 },
            Self::Granted(said) => Answer::Granted { node: &said.node, proof: &said.proof },
            Self::Refused(refusal) => Answer::Refused(*refusal),
            Self::Told(refused) => Answer::Told(refused.code, &refused.text),
        }
    }
}

/// The desk of one connection.
pub struct Desk<'s, R: Runtime, M: Mailboxes> {
    shard: &'s Rc<Shard<R, M>>,
    durability: Durability,
    transaction: Option<Box<Transaction>>,
    incoming: Option<Incoming<R>>,
    /// Who has signed in, as the message began.
    user: Option<Box<str>>,
    /// When its message began.
    since: Instant,
    header: Header,
    /// Those of its header section.
    newlines: Newlines,
    failed: Option<StoreError>,
    /// A user's message is mended on its way.
    submission: Option<Box<Submission>>,
    wrong: Option<Wrong>,
    /// Mail of a stranger is checked while it comes.
    check: Option<Box<Check>>,
    /// The way through filters of others; of all messages of the connection.
    passage: Option<Box<Passage<R>>>,
    /// The sender wants to hear that it lies in mailboxes here.
    receipt: Option<Box<Receipt>>,
}

impl<R: Runtime, M: Mailboxes> core::fmt::Debug for Desk<'_, R, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Desk({:?})", self.transaction)
    }
}

impl<'s, R: Dial + Datagrams, M: Mailboxes> Desk<'s, R, M> {
    /// A desk without a transaction.
    pub fn new(shard: &'s Rc<Shard<R, M>>, durability: Durability) -> Self {
        Self {
            shard,
            durability,
            transaction: None,
            incoming: None,
            user: None,
            since: Instant::FAR,
            header: Header::default(),
            newlines: Newlines::default(),
            failed: None,
            submission: None,
            wrong: None,
            check: None,
            passage: None,
            receipt: None,
        }
    }

    /// Drops the transaction and what was received of its message.
    pub fn reset(&mut self) {
        self.transaction = None;
        self.check = None;
        if let Some(passage) = &mut self.passage {
            passage.reset();
        }
        self.drop_message();
    }

    fn drop_message(&mut self) {
        self.incoming = None;
        self.since = Instant::FAR;
        self.header = Header::default();
        self.failed = None;
        self.submission = None;
        self.wrong = None;
        self.receipt = None;
    }

    /// When a message that is still arriving has taken too long.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        // One that is read past has no time of its own, but ends.
        let octets = self.incoming.as_ref().map_or(0, Incoming::octets);
        match self.since {
            Instant::FAR => Instant::FAR,
            since => since + MESSAGE_TIME_MAX + Duration::from_secs(octets / RATE_BYTES_MIN),
        }
    }

    /// Takes bytes of the message.
    pub async fn body(&mut self, mut bytes: &[u8], session: &Session) {
        self.feed_check(bytes);
        let (all, before) = (bytes, self.header.bytes_count());
        while let Some(kept) = self.header.next(&mut bytes) {
            if self.submission.is_none() {
                self.push(kept.as_ref(), session).await;
                continue;
            }
            match self.mend(Some(kept.as_ref())) {
                Ok(mended) => self.push(&mended, session).await,
                Err(wrong) => {
                    // The rest is read past.
                    self.incoming = None;
                    self.wrong.get_or_insert(wrong);
                }
            }
        }
        // A body may have bare newlines (RFC 3030 §3); a header that has some is read by everybody
        // in another way.
        if self.transaction.as_ref().is_some_and(|transaction| transaction.envelope.body.binary) {
            let of_header = self.header.bytes_count() - before;
            let of_header = usize::try_from(of_header).unwrap_or(usize::MAX);
            self.newlines.feed(all.get(..of_header).unwrap_or(all));
        }
    }

    async fn push(&mut self, bytes: &[u8], session: &Session) {
        if self.header.bytes_count() > HEADER_BYTES_MAX as u64 {
            // The rest is read past.
            self.incoming = None;
        }
        let Some(incoming) = &mut self.incoming else { return };
        if let Some(receipt) = &mut self.receipt {
            receipt.push(bytes);
        }
        let bytes = match (&mut self.passage, &self.transaction) {
            (Some(passage), Some(transaction)) => {
                let of = (session, &transaction.envelope);
                Self::filter_bytes(passage, self.shard, of, (incoming.id(), bytes)).await
            }
            _ => bytes.into(),
        };
        let _shared = SharedState;
        if let Err(error) = incoming.push(&bytes).await {
            // The rest is read past; the client hears of it at the end of its message.
            self.incoming = None;
            self.failed = Some(error);
        }
    }

    /// Answers one question.
    pub async fn answer(&mut self, ask: &Ask<'_>, session: &Session) -> Said {
        match ask {
            Ask::Sender(sender) => self.sender(sender, session),
            Ask::Recipient(recipient) => match self.exceeded(session) {
                Some(refusal) => Said::Refused(refusal),
                None => self.recipient(recipient, session).await,
            },
            Ask::Begin => self.begin(session).await,
            Ask::Commit => self.commit(session).await,
            Ask::Auth(question) => self.sign_in(question, session).await,
            Ask::Su { token } => match su::granted(self.shard, token, session).await {
                Some(granted) => Said::Granted(Rc::new(granted)),
                None => Said::Refused(Refusal::Credentials),
            },
        }
    }

    async fn sign_in(&mut self, question: &Question, session: &Session) -> Said {
        let (shard, from) = (self.shard, session.peer().ip);
        let said = match question {
            Question::Password { user, password } => {
                sign_in(shard, user, password.bytes(), from, SERVICE).await
            }
            Question::ScramKeys { user } => match scram_keys(shard, user, from, SERVICE) {
                Ok(keys) => return Said::Keys(Rc::new(keys)),
                Err(refused) => Err(refused),
            },
            Question::Proved { user, client_key } => {
                prove(shard, user, Some(client_key), from, SERVICE).await
            }
            Question::Disproved { user } => prove(shard, user, None, from, SERVICE).await,
            Question::External { user } => certified(shard, user, from, SERVICE).await,
            // Not offered.
            Question::Bearer { .. } => Err(Refused::Later),
        };
        match said {
            Ok(signed_in) => Said::SignedIn(signed_in.account),
            Err(Refused::Wrong) => Said::Refused(Refusal::Credentials),
            Err(Refused::Later | Refused::Locked(_)) => Said::Refused(Refusal::SignInLater),
        }
    }

    fn sender(&mut self, sender: &Sender<'_>, session: &Session) -> Said {
        let may = match session.user() {
            Some(user) if !self.is_own(user, &sender.path) => Err(Refusal::NotYourAddress),
            // RFC 8689 §5: a report may go on without TLS; that it holds no body is known of those
            // that this node makes itself.
            Some(_) if sender.require_tls && sender.path == Path::Null => {
                Err(Refusal::NotYourAddress)
            }
            None if session.node().is_none() && self.is_closed_to(&sender.path) => {
                Err(Refusal::SignInFirst)
            }
            _ => Ok(()),
        };
        let may = may.and_then(|()| self.too_much(sender.path.text(), session));
        if let Err(refusal) = may {
            return self.refuse_sender(&sender.path.text(), refusal);
        }
        let envelope = Envelope {
            reverse_path: sender.path.text().as_bytes().to_vec(),
            received: self.shard.rt.unix(),
            body: BodyFlags {
                eight_bit: sender.body == BodyType::EightBit,
                binary: sender.body == BodyType::Binary,
                utf8: sender.utf8,
            },
            ret: sender.ret.map(|ret| match ret {
                Return::Full => Ret::Full,
                Return::Headers => Ret::Headers,
            }),
            envid: sender.envelope_id.map(|id| id.decode().collect()),
            require_tls: sender.require_tls,
            recipients: Vec::new(),
        };
        self.transaction = Some(Box::new(Transaction::new(envelope)));
        self.check = None;
        self.begin_passage(session);
        Said::Accepted
    }

    /// Whether strangers may not send as `path`.
    fn is_closed_to(&self, path: &Path<'_>) -> bool {
        let Path::Mailbox(mailbox) = path else { return false };
        let Domain::Name(domain) = mailbox.domain() else { return false };
        self.shard.own_domains_closed && self.shard.directory.borrow().serves(domain)
    }

    /// Whether `user` may send as `path`: as an address that leads to its mailbox, alone or among
    /// others. The null path is for receipts that say that mail was read.
    fn is_own(&self, user: &str, path: &Path<'_>) -> bool {
        let directory = self.shard.directory.borrow();
        let Some(own) = directory.account(user).map(|account| account.mailbox) else {
            return false;
        };
        let Path::Mailbox(mailbox) = path else { return *path == Path::Null };
        let Domain::Name(domain) = mailbox.domain() else { return false };
        match directory.resolve(&mailbox.local_part().unquoted(), domain) {
            Resolution::Mailbox(found) => found == own,
            Resolution::Mailboxes(found) => found.contains(&own),
            Resolution::NoSuchUser | Resolution::NotLocal => false,
        }
    }

    /// Why a user may name no more recipients now.
    fn exceeded(&self, session: &Session) -> Option<Refusal> {
        let (shard, user, now) = (self.shard, session.user()?, self.shard.rt.unix());
        let exceeded = shard.gate.rates.take(user, now).err()?;
        count(&shard.counters.recipients_refused);
        count(&shard.counters.recipients_deferred);
        let minutes = exceeded.wait.as_secs() / 60 + 1;
        if exceeded.refused_count > 0 {
            let fields: [(&str, &dyn core::fmt::Display); 3] =
                [("user", &user), ("refused", &exceeded.refused_count), ("minutes", &minutes)];
            shard.log.event(now, Event::RateExceeded, &fields);
        }
        Some(Refusal::RateExceeded { minutes: u16::try_from(minutes).unwrap_or(u16::MAX) })
    }

    async fn recipient(&mut self, recipient: &Recipient<'_>, session: &Session) -> Said {
        let address = recipient.path.text();
        let (local, domain) = match &recipient.path {
            Path::Null => return Said::Refused(Refusal::NoSuchUser),
            // RFC 5321 §4.5.1: the bare postmaster is always local.
            Path::Postmaster(_) => ("postmaster".into(), None),
            Path::Mailbox(mailbox) => match mailbox.domain() {
                Domain::Name(name) => (mailbox.local_part().unquoted(), Some(name)),
                _ => return self.refuse_recipient(address, Refusal::RelayDenied),
            },
        };
        if self.shard.magic
            && let Some(said) = self.magic(&local, domain).await
        {
            return said;
        }
        let resolution = self.shard.directory.borrow().resolve(&local, domain.unwrap_or(""));
        let one;
        let mailboxes = match &resolution {
            Resolution::Mailbox(mailbox) => {
                one = [*mailbox];
                one.as_slice()
            }
            Resolution::Mailboxes(mailboxes) => mailboxes.as_slice(),
            Resolution::NoSuchUser => return self.refuse_recipient(address, Refusal::NoSuchUser),
            Resolution::NotLocal => &[],
        };
        let notify = recipient.notify.map_or_else(Notify::default, |n| Notify {
            never: !(n.success || n.failure || n.delay),
            success: n.success,
            failure: n.failure,
            delay: n.delay,
        });
        let orcpt = recipient.original.map(|original| {
            let mut text = original.kind.as_bytes().to_vec();
            text.push(b';');
            text.extend(original.address.decode());
            text
        });
        let stays = resolution != Resolution::NotLocal;
        if stays && let Some(refusal) = self.too_many_for(address, session) {
            return self.refuse_recipient(address, refusal);
        }
        if (stays || session.user().is_some())
            && let Some(said) = self.filter_recipient(address, session).await
        {
            return said;
        }
        if !stays {
            let domain = domain.unwrap_or("").to_lowercase();
            return self.elsewhere(address, &domain, session, (notify, orcpt));
        }
        let mailboxes = match seals::held(self.shard, mailboxes).await {
            Ok(mailboxes) if mailboxes.is_empty() => {
                return self.refuse_recipient(address, Refusal::NoSuchUser);
            }
            Ok(mailboxes) => mailboxes,
            // Its keys are damaged: the index has said so, and an operator can mend or end it.
            Err(_) => return self.refuse_recipient(address, Refusal::Storage),
        };
        let Some(transaction) = &mut self.transaction else {
            return Said::Refused(Refusal::Storage);
        };
        if !transaction.add(address, &mailboxes, notify, orcpt.as_deref()) {
            return self.refuse_recipient(address, Refusal::TooManyRecipients);
        }
        // Not before: who names nobody here has nothing looked up.
        self.begin_check(session);
        Said::Accepted
    }

    /// A recipient whose mailbox is on another node.
    fn elsewhere(
        &mut self,
        address: &str,
        domain: &str,
        session: &Session,
        (notify, orcpt): (Notify, Option<Vec<u8>>),
    ) -> Said {
        let outbound = &self.shard.outbound;
        if session.user().is_none() || outbound.way(domain) == Way::Nowhere {
            return self.refuse_recipient(address, Refusal::RelayDenied);
        }
        if outbound.queue.borrow().is_full() {
            return self.refuse_recipient(address, Refusal::Busy);
        }
        let (Ok(held), Some(transaction)) = (seals::of_queue(self.shard), &mut self.transaction)
        else {
            return Said::Refused(Refusal::Storage);
        };
        if transaction.add_elsewhere(address, held, notify, orcpt) {
            Said::Accepted
        } else {
            self.refuse_recipient(address, Refusal::TooManyRecipients)
        }
    }

    fn refuse_recipient(&self, address: &str, refusal: Refusal) -> Said {
        count(&self.shard.counters.recipients_refused);
        self.shard.log.event(
            self.shard.rt.unix(),
            Event::RecipientRefused,
            &[("to", &address), ("code", &refusal.code())],
        );
        Said::Refused(refusal)
    }

    /// The recipients with which people test their clients against `--dev`.
    async fn magic(&mut self, local: &str, domain: Option<&str>) -> Option<Said> {
        if !domain?.eq_ignore_ascii_case(&self.shard.domain) {
            return None;
        }
        match local {
            "discard" => {
                self.transaction.as_mut()?.discard = true;
                Some(Said::Accepted)
            }
            "550" => Some(Said::Refused(Refusal::Magic550)),
            "452" => Some(Said::Refused(Refusal::Magic452)),
            "421" => Some(Said::Refused(Refusal::Magic421)),
            "slow" => {
                self.shard.rt.sleep_until(self.shard.rt.now() + SLOW).await;
                self.transaction.as_mut()?.discard = true;
                Some(Said::Accepted)
            }
            _ => None,
        }
    }

    async fn begin(&mut self, session: &Session) -> Said {
        self.drop_message();
        self.user = session.user().map(Into::into);
        if let Some(user) = session.user()
            && self.keep_sent(user).await.is_err()
        {
            return Said::Refused(Refusal::Storage);
        }
        self.header = Header::new(self.forgeable(session));
        self.newlines = Newlines::default();
        if let Some(check) = &mut self.check {
            check.message();
        }
        if self.user.is_some() {
            self.submission = Some(Box::new(Submission::new(self.signer())));
        }
        let known = session.user().is_some() || session.node().is_some();
        let receipt = self.transaction.as_ref().and_then(|t| Receipt::wanted(&t.envelope));
        self.receipt = receipt.filter(|receipt| known || receipt.may_go(self.shard));
        let _shared = SharedState;
        match self.shard.spool.incoming() {
            Ok(mut incoming) => {
                if self.transaction.as_ref().is_some_and(|transaction| !transaction.in_clear)
                    && let Err(error) = incoming.seal(&mut |bytes| self.shard.rt.random(bytes))
                {
                    return self.storage_refusal(&error);
                }
                self.incoming = Some(incoming);
                self.since = self.shard.rt.now();
            }
            Err(error) => return self.storage_refusal(&error),
        }
        self.filter_begin(session).await.unwrap_or(Said::Accepted)
    }

    /// Mail that is not from who sends it, by its envelope or by its header.
    fn refuse_sender(&self, from: &dyn core::fmt::Display, refusal: Refusal) -> Said {
        let user = self.user.as_deref().unwrap_or("");
        let fields: [(&str, &dyn core::fmt::Display); 3] =
            [("user", &user), ("from", from), ("code", &refusal.code())];
        count(&self.shard.counters.senders_refused);
        self.shard.log.event(self.shard.rt.unix(), Event::SenderRefused, &fields);
        Said::Refused(refusal)
    }

    async fn commit(&mut self, session: &Session) -> Said {
        if let Some(kept) = self.header.end() {
            self.push(kept.as_ref(), session).await;
        }
        let hops = self.header.hops();
        let is_bare = self.newlines.bare_at_end();
        let signatures =
            if self.submission.is_some() { self.sign(session).await } else { Vec::new() };
        let (wrong, failed, receipt) = (self.wrong.take(), self.failed.take(), self.receipt.take());
        let (incoming, transaction) = (self.incoming.take(), self.transaction.take());
        let (check, header_bytes) = (self.check.take(), self.header.bytes_count());
        self.drop_message();
        if let Some(error) = failed {
            return self.storage_refusal(&error);
        }
        if let Some(wrong) = wrong {
            let refusal = match wrong {
                Wrong::NotYours => Refusal::NotYourFrom,
                Wrong::From | Wrong::Header => Refusal::BadHeader,
            };
            return self.refuse_sender(&"header", refusal);
        }
        if header_bytes > HEADER_BYTES_MAX as u64 {
            return self.refuse_message(QueueId(0), header_bytes, Refusal::HeaderTooLarge);
        }
        if is_bare {
            return self.refuse_message(QueueId(0), header_bytes, Refusal::BareNewline);
        }
        let (Some(incoming), Some(mut transaction)) = (incoming, transaction) else {
            return Said::Refused(Refusal::Storage);
        };
        let id = incoming.id();
        let octets = incoming.octets();
        if hops >= HOPS_MAX {
            return self.refuse_message(id, octets, Refusal::TooManyHops);
        }
        if transaction.envelope.recipients.is_empty() && transaction.discard {
            return Said::Stored(id.text());
        }
        let checked = match check {
            None => Vec::new(),
            Some(check) => match self.judge(*check, &mut transaction, session, id).await {
                Ok(fields) => fields,
                Err(refusal) => return self.refuse_message(id, octets, refusal),
            },
        };
        let filtered = match self.filter_end(&mut transaction, session, id).await {
            Ok(filtered) => filtered,
            Err(said) => return said,
        };
        let receipt = receipt.and_then(|receipt| receipt.about(&transaction.envelope));
        let mut head = self.trace_header(session, &transaction, id, &checked);
        head.extend_from_slice(&filtered);
        head.extend_from_slice(&signatures);
        self.store(incoming, *transaction, head, receipt).await
    }

    /// Has a message on stable storage, with `head` in front, and sends it on its way.
    async fn store(
        &self,
        incoming: Incoming<R>,
        transaction: Transaction,
        mut head: Vec<u8>,
        receipt: Option<Box<Receipt>>,
    ) -> Said {
        let id = incoming.id();
        let from = self.shard.log.enabled(Event::MessageStored.level()).then(|| {
            (
                String::from_utf8_lossy(&transaction.envelope.reverse_path).into_owned(),
                transaction.recipients_count(),
            )
        });
        let Transaction { envelope, seals, travels, .. } = transaction;
        let stays = envelope.recipients.iter().any(|to| !to.mailbox.is_nobodys());
        let watch = (stays && self.durability == Durability::Cluster)
            .then(|| Uploads::watch(&self.shard.uploads, id));
        let (received, legs) = match travels {
            Some(_) => (envelope.received, relay::legs(&envelope)),
            None => (envelope.received, BTreeMap::new()),
        };
        let shared = SharedState;
        let stored = match incoming.content_key() {
            None => incoming.commit(&head, envelope).await,
            Some(content) => {
                let seals = seals.iter().chain(&travels);
                match seals::keys(self.shard, seals, content, id) {
                    Ok(keys) => incoming.commit_sealed(&mut head, envelope, keys).await,
                    Err(error) => Err(error),
                }
            }
        };
        drop(shared);
        self.shard.rt.recycle(head);
        if let Ok(stored) = &stored
            && let Err(why) = self.spread(stored.id, watch, !legs.is_empty()).await
        {
            let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &stored.id), ("why", &why)];
            self.shard.log.event(self.shard.rt.unix(), Event::ClusterAway, &fields);
            return self.refuse_message(stored.id, stored.octets, Refusal::Busy);
        }
        match stored {
            Ok(stored) => {
                if !legs.is_empty() {
                    let stored = (stored.id, stored.octets);
                    self.shard.outbound.accept(&self.shard.rt, stored, received, legs);
                }
                if let Some(receipt) = receipt {
                    receipt.send(self.shard, stored.id).await;
                }
                self.stored(&stored, from.as_ref())
            }
            Err(error) => self.storage_refusal(&error),
        }
    }

    /// Waits until the cluster has a message, where it counts as accepted only then: what travels
    /// on first, since that is not sent before.
    async fn spread(&self, id: QueueId, watch: Option<Watch>, travels: bool) -> Result<(), String> {
        let is_copied = self.durability == Durability::Cluster && travels;
        if is_copied && self.shard.mailboxes.keeps_copies() {
            relay::relief::copy_now(self.shard, id).await?;
        }
        match watch {
            Some(watch) => watch.arrived(self.shard).await,
            None => Ok(()),
        }
    }

    fn stored(&self, stored: &Stored, from: Option<&(String, usize)>) -> Said {
        count(&self.shard.counters.messages_stored);
        if let Some((from, recipients)) = from {
            self.shard.log.event(
                self.shard.rt.unix(),
                Event::MessageStored,
                &[
                    ("id", &stored.id),
                    ("from", from),
                    ("recipients", recipients),
                    ("octets", &stored.octets),
                ],
            );
        }
        Said::Stored(stored.id.text())
    }

    fn refuse_message(&self, id: QueueId, octets: u64, refusal: Refusal) -> Said {
        count(&self.shard.counters.messages_refused);
        self.shard.log.event(
            self.shard.rt.unix(),
            Event::MessageRefused,
            &[("id", &id), ("octets", &octets), ("code", &refusal.code())],
        );
        Said::Refused(refusal)
    }

    fn storage_refusal(&self, error: &StoreError) -> Said {
        count(&self.shard.counters.messages_refused);
        let (event, refusal) = match error {
            StoreError::DiskLow { .. } => (Event::DiskLow, Refusal::DiskLow),
            StoreError::Busy => (Event::MessageRefused, Refusal::Busy),
            _ => (Event::StorageFailed, Refusal::Storage),
        };
        self.shard.log.event(self.shard.rt.unix(), event, &[("why", error)]);
        Said::Refused(refusal)
    }
}
