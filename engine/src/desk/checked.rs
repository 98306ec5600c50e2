//! What the desk has checked of a stranger's message, and what it makes of the answer.

use fsmtp_proto::smtp::address::Path;
use fsmtp_proto::smtp::reply::Refusal;
use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::{MailboxId, QueueId};

use super::Desk;
use super::transaction::Transaction;
use crate::log::Event;
use crate::resolver::Resolver;
use crate::seals;
use crate::shard::count;
use crate::verify::{Action, Check, Client, Decision, Verdicts, fields};

impl<R: Dial + Datagrams, M: Mailboxes> Desk<'_, R, M> {
    /// Whether what the client's messages say of themselves counts for nothing.
    pub(super) fn distrusts(&self, session: &Session) -> bool {
        let trusts = |settings: &_| crate::verify::Settings::trusts(settings, session.peer().ip);
        session.user().is_none()
            && session.node().is_none()
            && !self.shard.verify.as_deref().is_some_and(trusts)
    }

    /// Begins to look up who sends this, if that is to be checked.
    pub(super) fn begin_check(&mut self, sender: &Path<'_>, session: &Session) {
        self.check = None;
        let (Some(settings), Some(resolver)) = (&self.shard.verify, self.resolver()) else {
            return;
        };
        if !self.distrusts(session) {
            return;
        }
        let client = Client {
            ip: session.peer().ip,
            helo: session.client_name().unwrap_or_default().into(),
            sender: sender.text().into(),
        };
        let (rt, node) = (&self.shard.rt, &self.shard.node);
        self.check = Some(Box::new(Check::begin(rt, &resolver, settings, node, client)));
    }

    fn resolver(&self) -> Option<Resolver<R>> {
        self.shard.resolver.borrow().clone()
    }

    /// Hands on what has come of the message.
    pub(super) fn feed_check(&mut self, bytes: &[u8]) {
        let Some(check) = &mut self.check else { return };
        if let Some(resolver) = &*self.shard.resolver.borrow() {
            check.feed(bytes, resolver);
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
        let decide = |address: &[u8]| {
            let address = core::str::from_utf8(address).unwrap_or_default();
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            settings.policies.of(domain).decide(&found, &settings.scores)
        };
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
            return Err(refusal);
        }
        let to_junk = all.iter().filter(|(_, decision)| decision.action >= Action::Junk);
        let to_junk: Vec<MailboxId> = to_junk.map(|(mailbox, _)| *mailbox).collect();
        self.put_into_junk(transaction, &to_junk).await;
        let mut out = fields(&self.shard.results, &settings.lists, &found, strictest);
        // The seeds' words.
        let how = if session.tls().is_some() { "SSL" } else { "Plain" };
        out.extend_from_slice(format!("X-Fannst-Conn: {how}\r\n").as_bytes());
        Ok(out)
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
