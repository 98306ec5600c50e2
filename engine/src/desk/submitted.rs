//! A user's message on its way through the desk: mended while it comes, signed when it is over.

use std::borrow::Cow;

use fsmtp_proto::smtp::address::{Domain, Mailbox, Path};
use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::{Datagrams, Dial};
use fsmtp_store::QueueId;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::spool::Incoming;

use super::Desk;
use crate::dkim::DomainSigner;
use crate::log::Event;
use crate::shard::Overload;
use crate::submission::{Terms, Whose, Wrong};

impl<R: Dial + Datagrams, M: Mailboxes> Desk<'_, R, M> {
    /// What is to be stored in place of bytes of a user's message, or at its end.
    pub(super) fn mend<'b>(&mut self, bytes: Option<&'b [u8]>) -> Result<Cow<'b, [u8]>, Wrong> {
        let Some(mut submission) = self.submission.take() else { return Ok(Cow::default()) };
        let sender = self.transaction.as_ref().map(|transaction| &transaction.envelope);
        let from = sender.map_or_else(String::new, |envelope| {
            String::from_utf8_lossy(&envelope.reverse_path).into_owned()
        });
        let user = self.user.as_deref().unwrap_or("");
        let id = self.incoming.as_ref().map_or(QueueId(0), Incoming::id);
        let terms = Terms {
            from: &from,
            date: self.shard.rt.unix(),
            // A queue id is given once.
            message_id: &format!("<{id}@{}>", self.shard.node),
        };
        let whose = |address: &str| match Mailbox::parse(address) {
            Ok(mailbox) if self.is_own(user, &Path::Mailbox(mailbox)) => Whose::Own,
            Ok(mailbox) => match mailbox.domain() {
                Domain::Name(domain) if self.shard.directory.borrow().serves(domain) => {
                    Whose::Others
                }
                _ => Whose::Elsewhere,
            },
            Err(_) => Whose::Elsewhere,
        };
        let mended = match bytes {
            Some(bytes) => submission.feed(bytes, &terms, whose),
            None => submission.end(&terms, whose).map(Cow::Owned),
        };
        self.submission = Some(submission);
        mended
    }

    /// What signs for the domain of the transaction's sender.
    pub(super) fn signer(&self) -> Option<DomainSigner> {
        let path = &self.transaction.as_ref()?.envelope.reverse_path;
        let at = path.iter().rposition(|byte| *byte == b'@')?;
        let domain = core::str::from_utf8(path.get(at + 1..)?).ok()?;
        self.shard.dkim.borrow().signer(domain)
    }

    /// The end of a user's message: what is left of it is stored; gives its signatures.
    pub(super) async fn sign(&mut self, session: &Session) -> Vec<u8> {
        match self.mend(None) {
            Ok(rest) => self.push(&rest, session).await,
            Err(wrong) => {
                self.wrong.get_or_insert(wrong);
            }
        }
        let signer = self.submission.take().and_then(|submission| submission.signer());
        let Some(signer) = signer.filter(|_| self.wrong.is_none()) else { return Vec::new() };
        let now = self.shard.rt.unix();
        let why = match self.shard.offload(move || signer.finish(now)).await {
            Ok(Ok(fields)) => return fields,
            Ok(Err(error)) => error.to_string(),
            Err(Overload) => "too much is to be signed".to_owned(),
        };
        let id = self.incoming.as_ref().map_or(QueueId(0), Incoming::id);
        let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &id), ("why", &why)];
        self.shard.log.event(now, Event::NotSigned, &fields);
        Vec::new()
    }
}
