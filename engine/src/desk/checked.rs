//! What the desk has checked of a stranger's message, and what it makes of the answer.

use std::rc::Rc;

use fsmtp_proto::dmarc::Policy;
use fsmtp_proto::smtp::reply::{Doubt, Refusal};
use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use super::Desk;
use super::transaction::Transaction;
use crate::dmarc::row::{Row, Seen};
use crate::log::Event;
use crate::resolver::Resolver;
use crate::seals;
use crate::shard::count;
use crate::strangers::TooMuch;
use crate::verify::{Action, Check, Client, Decision, Reason, Settings, Verdicts, fields};

impl<R: Dial + Datagrams, M: Mailboxes> Desk<'_, R, M> {
    /// Whether what the client's messages say of themselves counts for nothing.
    pub(super) fn distrusts(&self, session: &Session) -> bool {
        let trusts = |settings: &Settings| settings.trusts(session.peer().ip);
        session.user().is_none()
            && session.node().is_none()
            && !self.shard.verify.as_deref().is_some_and(trusts)
    }

    /// Whose fields are taken out of a message as it comes: those that only nodes of ours write,
    /// and those that say under our name what was found. Of hosts that are trusted the latter
    /// count; those of users go with the rest that they should not send.
    pub(super) fn forgeable(&self, session: &Session) -> Option<Rc<str>> {
        if session.user().is_some() || session.node().is_some() {
            return None;
        }
        let nobody = || Rc::from("");
        Some(if self.distrusts(session) { Rc::clone(&self.shard.results) } else { nobody() })
    }

    /// Begins to look up who sends this, if that is to be checked and is not under way.
    pub(super) fn begin_check(&mut self, session: &Session) {
        let (Some(settings), Some(resolver)) = (&self.shard.verify, self.resolver()) else {
            return;
        };
        let (None, Some(transaction)) = (&self.check, &self.transaction) else { return };
        if !self.distrusts(session) {
            return;
        }
        let client = Client {
            ip: session.peer().ip,
            helo: session.client_name().unwrap_or_default().into(),
            sender: String::from_utf8_lossy(&transaction.envelope.reverse_path).into(),
        };
        let (rt, node, room) = (&self.shard.rt, &self.shard.node, self.shard.checks.charge());
        self.check = Some(Box::new(Check::begin(rt, &resolver, settings, node, client, room)));
    }

    fn resolver(&self) -> Option<Resolver<R>> {
        self.shard.resolver.borrow().clone()
    }

    /// Hands on what has come of the message.
    pub(super) fn feed_check(&mut self, bytes: &[u8]) {
        let Some(check) = &mut self.check else { return };
        if let Some(resolver) = &*self.shard.resolver.borrow()
            && check.feed(bytes, resolver).is_err()
        {
            // The rest is read past.
            self.check = None;
            self.incoming = None;
            self.failed = Some(StoreError::Busy);
        }
    }

    /// The message is over: the fields that tell what was found out. It goes to the mailbox Junk of
    /// each recipient whose domain wants that; it is refused when all of their domains do.
    pub(super) async fn judge(
        &self,
        check: Check,
        transaction: &mut Transaction,
        session: &Session,
        id: QueueId,
    ) -> Result<Vec<u8>, Refusal> {
        let (Some(settings), Some(resolver)) = (&self.shard.verify, self.resolver()) else {
            return Ok(Vec::new());
        };
        let found = check.finish(&self.shard.rt, &resolver, &self.shard.node).await;
        let decide =
            |address: &[u8]| settings.policies.of(domain(address)).decide(&found, &settings.scores);
        let all: Vec<(MailboxId, Decision)> = transaction
            .envelope
            .recipients
            .iter()
            .map(|recipient| (recipient.mailbox, decide(&recipient.address)))
            .collect();
        let by_action = |(_, decision): &&(MailboxId, Decision)| decision.action;
        let mildest = all.iter().min_by_key(by_action).map_or_else(Decision::default, |one| one.1);
        let strictest = all.iter().max_by_key(by_action).map_or(mildest, |one| one.1);
        self.tell(id, &found, strictest);
        if let Some(refusal) = mildest.refusal() {
            self.count_for_report(&found, mildest);
            return Err(refusal);
        }
        self.greylisted(&found, transaction, settings, id)?;
        self.count_for_report(&found, strictest);
        let to_junk = all.iter().filter(|(_, decision)| decision.action >= Action::Junk);
        let to_junk: Vec<MailboxId> = to_junk.map(|(mailbox, _)| *mailbox).collect();
        self.put_into_junk(transaction, &to_junk).await;
        let mut out = fields(&self.shard.results, &settings.lists, &found, strictest);
        // The seeds' words.
        let how = if session.tls().is_some() { "SSL" } else { "Plain" };
        out.extend_from_slice(format!("X-Fannst-Conn: {how}\r\n").as_bytes());
        Ok(out)
    }

    /// Whether strangers send more than they may.
    pub(super) fn too_much(&self, sender: &str, session: &Session) -> Result<(), Refusal> {
        if self.shard.verify.is_none() || !self.distrusts(session) {
            return Ok(());
        }
        let (ip, now) = (session.peer().ip, self.shard.rt.unix());
        self.shard.strangers.mail(ip, sender, now).map_err(|much| self.slower(&much, session))
    }

    /// Why a recipient gets no more of strangers for now.
    pub(super) fn too_many_for(&self, address: &str, session: &Session) -> Option<Refusal> {
        if self.shard.verify.is_none() || !self.distrusts(session) {
            return None;
        }
        let much = self.shard.strangers.recipient(address, self.shard.rt.unix()).err()?;
        Some(self.slower(&much, session))
    }

    fn slower(&self, much: &TooMuch, session: &Session) -> Refusal {
        count(&self.shard.counters.strangers_deferred);
        if much.refused_count > 0 {
            let fields: [(&str, &dyn core::fmt::Display); 4] = [
                ("ip", &session.peer().ip),
                ("of", &much.of.name()),
                ("refused", &much.refused_count),
                ("minutes", &much.minutes()),
            ];
            self.shard.log.event(self.shard.rt.unix(), Event::StrangerSlowed, &fields);
        }
        Refusal::Doubted(Doubt::TooMuch { minutes: much.minutes() })
    }

    /// Has those come again for whose mail nobody vouches, where a recipient's domain wants that.
    fn greylisted(
        &self,
        found: &Verdicts,
        transaction: &Transaction,
        settings: &Settings,
        id: QueueId,
    ) -> Result<(), Refusal> {
        let is_grey = |address: &&[u8]| settings.policies.of(domain(address)).is_grey(found);
        let recipients = transaction.envelope.recipients.iter();
        let grey = recipients.map(|to| to.address.as_slice()).filter(is_grey);
        let (client, now) = (&found.client, self.shard.rt.unix());
        let wait = self.shard.strangers.is_new(client.ip, &client.sender, grey, now);
        let Some(minutes) = wait else { return Ok(()) };
        count(&self.shard.counters.messages_greylisted);
        let fields: [(&str, &dyn core::fmt::Display); 4] =
            [("id", &id), ("ip", &client.ip), ("from", &client.sender), ("minutes", &minutes)];
        self.shard.log.event(now, Event::MessageGreylisted, &fields);
        Err(Refusal::Doubted(Doubt::Unknown { minutes }))
    }

    /// Counts a message for the report to the domain of its author, once it is sure what becomes of
    /// it.
    fn count_for_report(&self, found: &Verdicts, decision: Decision) {
        let reports = self.shard.reports.borrow();
        let (Some(collector), true) = (&*reports, decision.action != Action::Defer) else { return };
        let done = match decision.action {
            Action::Reject => Policy::Reject,
            Action::Junk => Policy::Quarantine,
            _ => Policy::None,
        };
        let seen = Seen {
            at: self.shard.rt.unix(),
            source: found.client.ip,
            outcome: &found.dmarc,
            spf: Some(&found.spf),
            dkim: &found.dkim,
            sender: &found.client.sender,
            done,
            why: decision.reason.map(Reason::name),
        };
        if let Some(row) = Row::of(&seen) {
            collector.add(row);
        }
    }

    /// Moves a message for these mailboxes to the mailboxes Junk beside them.
    pub(super) async fn put_into_junk(&self, of: &mut Transaction, mailboxes: &[MailboxId]) {
        for mailbox in mailboxes {
            let junk = mailbox.junk();
            // Where its keys cannot be used it stays where it can be sealed to.
            let Ok(mut held) = seals::held(self.shard, &[junk]).await else { continue };
            if let Some((_, held)) = held.pop() {
                of.move_to(*mailbox, junk, held);
                count(&self.shard.counters.messages_junked);
            }
        }
    }

    /// Notes what is suspect.
    fn tell(&self, id: QueueId, found: &Verdicts, decision: Decision) {
        let Some(reason) = decision.reason.filter(|_| decision.action > Action::Accept) else {
            return;
        };
        let fields: [(&str, &dyn core::fmt::Display); 6] = [
            ("id", &id),
            ("ip", &found.client.ip),
            ("from", &found.client.sender),
            ("why", &reason.name()),
            ("spf", &found.spf.verdict),
            ("action", &decision.action.name()),
        ];
        self.shard.log.event(self.shard.rt.unix(), Event::MessageSuspect, &fields);
    }
}

/// That of a recipient.
fn domain(address: &[u8]) -> &str {
    let address = core::str::from_utf8(address).unwrap_or_default();
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}
