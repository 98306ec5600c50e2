//! A transaction in the making: who gets the message, each once, and what seals it to them.

use std::collections::BTreeSet;
use std::rc::Rc;

use fsmtp_store::MailboxId;
use fsmtp_store::envelope::{
    ENVELOPE_BYTES_MAX, Envelope, EnvelopeRecipient, Notify, RECIPIENTS_COUNT_MAX,
};

use crate::windows::Held;

/// What the recipients of a message may take in its envelope: the rest is for the sender's part.
const RECIPIENTS_BYTES_MAX: usize = ENVELOPE_BYTES_MAX - 8 * 1024;
/// More than what a recipient takes beside its address and ORCPT.
const RECIPIENT_BYTES: usize = 16;

/// A transaction in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    pub(super) envelope: Envelope,
    /// A magic recipient of `--dev` takes it and keeps nothing.
    pub(super) discard: bool,
    /// Who gets it, each once, however many addresses lead there.
    pub(super) mailboxes: BTreeSet<MailboxId>,
    /// What seals to each of the envelope's recipients, as far as they have keys.
    pub(super) seals: Vec<Rc<Held>>,
    /// What seals to the queue, when somebody elsewhere gets it.
    pub(super) travels: Option<Rc<Held>>,
    /// Who elsewhere, each once.
    elsewhere: BTreeSet<String>,
    /// A recipient's mail lies in clear, so sealing the message for the others would hide nothing.
    pub(super) in_clear: bool,
    /// Recipients that were accepted.
    pub(super) accepted_count: usize,
    /// All addresses, in lower case.
    names: BTreeSet<String>,
    /// Other addresses that lead to mailboxes which get it anyway.
    also: Vec<(Box<str>, Vec<MailboxId>)>,
    /// About what the recipients need in the envelope.
    recipients_bytes: usize,
}

impl Transaction {
    /// One without recipients.
    pub(super) fn new(envelope: Envelope) -> Self {
        Self { envelope, ..Self::default() }
    }

    /// Takes a recipient in. Aliases multiply, so their sum is bounded here, not by the count of
    /// RCPT commands; false when it would be over what an envelope can hold.
    pub(super) fn add(
        &mut self,
        address: &str,
        mailboxes: &[(MailboxId, Option<Rc<Held>>)],
        notify: Notify,
        orcpt: Option<&[u8]>,
    ) -> bool {
        let bytes = RECIPIENT_BYTES + address.len() + orcpt.map_or(0, <[u8]>::len);
        let new = mailboxes.iter().filter(|(mailbox, _)| !self.mailboxes.contains(mailbox));
        let count = self.envelope.recipients.len() + new.clone().count();
        let key_bytes =
            |held: &Option<Rc<Held>>| held.as_ref().map_or(0, |held| held.record_bytes());
        let sum = new.fold(self.recipients_bytes, |sum, (_, held)| sum + bytes + key_bytes(held));
        if count > RECIPIENTS_COUNT_MAX || sum > RECIPIENTS_BYTES_MAX {
            return false;
        }
        self.accepted_count += 1;
        let known: Vec<MailboxId> = mailboxes.iter().map(|(mailbox, _)| *mailbox).collect();
        let known: Vec<MailboxId> =
            known.into_iter().filter(|mailbox| self.mailboxes.contains(mailbox)).collect();
        self.recipients_bytes = sum;
        let is_new = self.names.insert(address.to_lowercase());
        if is_new && !known.is_empty() {
            self.recipients_bytes += bytes;
            self.also.push((address.into(), known));
        }
        for (mailbox, held) in mailboxes {
            let mailbox = *mailbox;
            if self.mailboxes.insert(mailbox) {
                self.in_clear |= held.is_none();
                self.seals.extend(held.clone());
                self.envelope.recipients.push(EnvelopeRecipient {
                    mailbox,
                    address: address.as_bytes().to_vec(),
                    notify,
                    orcpt: orcpt.map(<[u8]>::to_vec),
                });
            }
        }
        true
    }

    /// Has the mailbox of the sender keep a copy. Not where that lies in clear and the others' does
    /// not: a body is stored once, and would lie in clear for all of them.
    pub(super) fn keep(&mut self, user: &str, mailbox: MailboxId, held: Option<Rc<Held>>) {
        // One that is there from an attempt that came to nothing is enough.
        if held.is_none() && !self.seals.is_empty() || self.mailboxes.contains(&mailbox) {
            return;
        }
        let nobody_is_told = Notify { never: true, ..Notify::default() };
        let accepted_count = self.accepted_count;
        let is_recipient = self.names(user);
        // One that the envelope cannot hold any more is only a copy.
        self.add(user, &[(mailbox, held)], nobody_is_told, None);
        self.accepted_count = accepted_count;
        if !is_recipient {
            self.names.remove(&user.to_lowercase());
        }
    }

    /// Has a recipient get it in another of his mailboxes, which this seals to.
    pub(super) fn move_to(&mut self, from: MailboxId, to: MailboxId, held: Option<Rc<Held>>) {
        let of_from = |held: &&mut Rc<Held>| held.mailbox() == from;
        match (self.seals.iter_mut().find(of_from), held) {
            (Some(place), Some(held)) => *place = held,
            (None, None) => {}
            // Its keys have come or gone since it was named: it stays where it can be read.
            _ => return,
        }
        for recipient in self.envelope.recipients.iter_mut().filter(|to| to.mailbox == from) {
            recipient.mailbox = to;
        }
    }

    /// Whether it is among the addresses.
    pub(super) fn names(&self, address: &str) -> bool {
        self.names.contains(&address.to_lowercase())
    }

    /// Takes the recipients with this address out; not a mailbox that another one leads to, too.
    pub(super) fn remove(&mut self, address: &str) {
        self.names.remove(&address.to_lowercase());
        self.also.retain(|(other, _)| !other.eq_ignore_ascii_case(address));
        let is_of = |to: &EnvelopeRecipient| {
            !to.mailbox.is_sent() && to.address.eq_ignore_ascii_case(address.as_bytes())
        };
        for recipient in self.envelope.recipients.iter_mut().filter(|to| is_of(to)) {
            let account = recipient.mailbox.account();
            let other = self.also.iter().find(|(_, mailboxes)| mailboxes.contains(&account));
            if let Some((other, _)) = other {
                recipient.address = other.as_bytes().to_vec();
            }
        }
        let gone = self.envelope.recipients.extract_if(.., |to| is_of(to));
        for mailbox in gone.map(|to| to.mailbox).collect::<Vec<_>>() {
            // It may have been moved to Junk.
            self.mailboxes.remove(&mailbox.account());
            self.seals.retain(|held| held.mailbox() != mailbox);
        }
        let travels = |to: &EnvelopeRecipient| to.mailbox == MailboxId::QUEUE;
        if !self.envelope.recipients.iter().any(travels) {
            self.travels = None;
        }
    }

    /// The addresses of those who read it, each once.
    pub(super) fn addresses(&self) -> Vec<String> {
        let readers = self.envelope.recipients.iter().filter(|to| !to.mailbox.is_sent());
        let readers = readers.map(|to| String::from_utf8_lossy(&to.address).into_owned());
        let mut seen = BTreeSet::new();
        let also = self.also.iter().map(|(other, _)| other.to_string());
        readers.chain(also).filter(|address| seen.insert(address.to_lowercase())).collect()
    }

    /// Recipients who read it, without who keeps it as sent.
    pub(super) fn recipients_count(&self) -> usize {
        self.envelope.recipients.iter().filter(|to| !to.mailbox.is_sent()).count()
    }

    /// The same for a recipient elsewhere.
    pub(super) fn add_elsewhere(
        &mut self,
        address: &str,
        held: Rc<Held>,
        notify: Notify,
        orcpt: Option<Vec<u8>>,
    ) -> bool {
        // The domain in any case; what stands before it is the other host's to tell apart.
        let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        if !self.elsewhere.insert(format!("{local}@{}", domain.to_lowercase())) {
            self.accepted_count += 1;
            return true;
        }
        let bytes = RECIPIENT_BYTES + address.len() + orcpt.as_ref().map_or(0, Vec::len);
        let key_bytes = if self.travels.is_none() { held.record_bytes() } else { 0 };
        let sum = self.recipients_bytes + bytes + key_bytes;
        if self.envelope.recipients.len() >= RECIPIENTS_COUNT_MAX || sum > RECIPIENTS_BYTES_MAX {
            return false;
        }
        self.recipients_bytes = sum;
        self.accepted_count += 1;
        self.travels.get_or_insert(held);
        let (mailbox, address) = (MailboxId::QUEUE, address.as_bytes().to_vec());
        self.envelope.recipients.push(EnvelopeRecipient { mailbox, address, notify, orcpt });
        true
    }
}
