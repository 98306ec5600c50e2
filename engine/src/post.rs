//! Mail that the node itself sends: reports, and what people compose at its command line.
//!
//! Goes the way of all mail: into the log, sealed to its recipients, then to their mailboxes or to
//! the queue. Failure: an error means that nothing was stored.

use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_proto::smtp::address::{Domain, Mailbox};
use fsmtp_rt::Runtime;
use fsmtp_store::directory::Resolution;
use fsmtp_store::envelope::{BodyFlags, Envelope, EnvelopeRecipient, Notify};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::spool::Stored;
use fsmtp_store::{MailboxId, StoreError};

use crate::relay::{self, routes::Way};
use crate::seals;
use crate::shard::Shard;

/// A message that is ready to go.
#[derive(Clone, Debug)]
pub(crate) struct Letter<'a> {
    /// The reverse path; empty for reports.
    pub(crate) from: &'a str,
    /// Whom it is for.
    pub(crate) to: &'a [&'a str],
    pub(crate) body: BodyFlags,
    pub(crate) notify: Notify,
    /// It goes nowhere but under TLS with a proved host, if it can (RFC 8689 §5).
    pub(crate) require_tls: bool,
    /// Header and body.
    pub(crate) bytes: &'a [u8],
}

/// Stores a message for its recipients, as far as there are such; none when there is nobody.
///
/// # Errors
/// Those of the log; [`StoreError::Invalid`] when the keys of a recipient are damaged.
pub(crate) async fn post<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    letter: &Letter<'_>,
) -> Result<Option<Stored>, StoreError> {
    let mut envelope = Envelope {
        reverse_path: letter.from.as_bytes().to_vec(),
        received: shard.rt.unix(),
        body: letter.body,
        require_tls: letter.require_tls,
        ..Envelope::default()
    };
    let mut mailboxes: BTreeMap<MailboxId, &str> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for address in letter.to {
        match whither(shard, address) {
            Some(Resolution::Mailbox(mailbox)) => drop(mailboxes.insert(mailbox, address)),
            Some(Resolution::Mailboxes(found)) => {
                mailboxes.extend(found.iter().map(|&mailbox| (mailbox, *address)));
            }
            Some(Resolution::NotLocal) => elsewhere.push(*address),
            Some(Resolution::NoSuchUser) | None => {}
        }
    }
    let local: Vec<MailboxId> = mailboxes.keys().copied().collect();
    let invalid = |why: &dyn core::fmt::Display| StoreError::Invalid(why.to_string());
    let held = seals::held(shard, &local).await.map_err(|why| invalid(&why))?;
    let recipient = |mailbox, address: &str| EnvelopeRecipient {
        mailbox,
        address: address.as_bytes().to_vec(),
        notify: letter.notify,
        orcpt: None,
    };
    for (mailbox, _) in &held {
        let address = mailboxes.get(mailbox).copied().unwrap_or("");
        envelope.recipients.push(recipient(*mailbox, address));
    }
    envelope.recipients.extend(elsewhere.iter().map(|to| recipient(MailboxId::QUEUE, to)));
    if envelope.recipients.is_empty() {
        return Ok(None);
    }
    let in_clear = held.iter().any(|(_, held)| held.is_none());
    let mut windows: Vec<_> = held.into_iter().filter_map(|(_, held)| held).collect();
    let legs = relay::legs(&envelope);
    if !legs.is_empty() {
        windows.push(seals::of_queue(shard).map_err(|why| invalid(&why))?);
    }
    let mut incoming = shard.spool.incoming()?;
    if !in_clear {
        incoming.seal(&mut |bytes| shard.rt.random(bytes))?;
    }
    incoming.push(letter.bytes).await?;
    let (id, received) = (incoming.id(), envelope.received);
    let trace = format!("Received: by {} id {id};\r\n\t{received}\r\n", shard.node);
    let mut head = format!("Return-Path: <{}>\r\n{trace}", letter.from).into_bytes();
    let stored = match incoming.content_key() {
        None => incoming.commit(&head, envelope).await?,
        Some(content) => {
            let keys = seals::keys(shard, windows.iter(), content, id)?;
            incoming.commit_sealed(&mut head, envelope, keys).await?
        }
    };
    if !legs.is_empty() {
        shard.outbound.accept(&shard.rt, (stored.id, stored.octets), received, legs);
    }
    Ok(Some(stored))
}

/// Where mail for an address goes; none when it goes nowhere.
fn whither<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, address: &str) -> Option<Resolution> {
    let mailbox = Mailbox::parse(address).ok()?;
    let Domain::Name(domain) = mailbox.domain() else { return None };
    let directory = shard.directory.borrow();
    let resolution = directory.resolve(&mailbox.local_part().unquoted(), domain);
    let nowhere = resolution == Resolution::NotLocal
        && shard.outbound.way(&domain.to_lowercase()) == Way::Nowhere;
    (!nowhere).then_some(resolution)
}
