//! Deliveries that the tables do not contain yet, in the order of their arrival.
//!
//! Used by the thread of the embedded index. Memory: some 250 bytes for a message with one
//! recipient; who adds keeps the bound. Lookups are built on demand: while nobody reads, a delivery
//! costs two pushes.

use std::collections::{BTreeMap, BTreeSet};

use fsmtp_rt::UnixTime;

use crate::spool::{BodyRef, Committed, Recipient, RecipientKey};
use crate::{Lsn, MailboxId, QueueId, ShardId};

/// A message as the sink hands it over, without its envelope.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) body: Body,
    pub(super) end: Lsn,
    pub(super) recipients: Recipients,
    /// Recipients that the message named.
    pub(super) weight: usize,
}

/// The recipients of one message, each once; nothing is allocated for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Recipients {
    One(Recipient),
    Many(Box<[Recipient]>),
}

impl Recipients {
    fn new(recipients: &[Recipient]) -> Self {
        if let [only] = recipients {
            return Self::One(only.clone());
        }
        let mut unique = recipients.to_vec();
        unique.sort_by_key(|recipient| recipient.mailbox);
        unique.dedup_by_key(|recipient| recipient.mailbox);
        Self::Many(unique.into())
    }

    pub(super) fn as_slice(&self) -> &[Recipient] {
        match self {
            Self::One(recipient) => core::slice::from_ref(recipient),
            Self::Many(recipients) => recipients,
        }
    }
}

impl Delivery {
    pub(super) fn new(message: &Committed, chunk_bytes: u64) -> Self {
        Self {
            body: Body {
                id: message.id,
                shard: message.shard,
                lsn: message.lsn,
                record_bytes: message.end.0.saturating_sub(message.lsn.0),
                octets: message.octets,
                received: message.received,
                references_count: 0,
                chunk_bytes: if message.chunks.is_empty() { 0 } else { chunk_bytes },
                chunks: message.chunks.clone(),
            },
            end: message.end,
            recipients: Recipients::new(&message.recipients),
            weight: message.recipients.len(),
        }
    }
}

/// A message body: where it lies, and how many mailboxes refer to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Body {
    pub(super) id: QueueId,
    pub(super) shard: ShardId,
    pub(super) lsn: Lsn,
    /// What the record at `lsn` takes in the log.
    pub(super) record_bytes: u64,
    pub(super) octets: u64,
    pub(super) received: UnixTime,
    pub(super) references_count: u32,
    /// What the record of a chunk takes in the log, about; 0 without chunks.
    pub(super) chunk_bytes: u64,
    pub(super) chunks: Vec<Lsn>,
}

impl Body {
    pub(super) fn place(&self) -> BodyRef {
        BodyRef { id: self.id, shard: self.shard, lsn: self.lsn, chunks: self.chunks.clone() }
    }

    /// Its records: where each begins and how many bytes it counts for.
    pub(super) fn records(&self) -> impl Iterator<Item = (Lsn, u64)> {
        let chunks = self.chunks.iter().map(|&chunk| (chunk, self.chunk_bytes));
        core::iter::once((self.lsn, self.record_bytes)).chain(chunks)
    }

    pub(super) fn is_at(&self, lsn: Lsn) -> bool {
        self.records().any(|(at, _)| at == lsn)
    }

    /// Replaces the place of a record; says how many bytes moved, `None` when it is not there.
    pub(super) fn relocate(&mut self, from: Lsn, to: Lsn) -> Option<u64> {
        if self.lsn == from {
            self.lsn = to;
            return Some(self.record_bytes);
        }
        let chunk = self.chunks.iter_mut().find(|chunk| **chunk == from)?;
        *chunk = to;
        Some(self.chunk_bytes)
    }
}

/// A message in a mailbox; its uid follows from the order.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) mailbox: MailboxId,
    pub(super) id: QueueId,
    pub(super) octets: u64,
    /// None when it lies in clear.
    pub(super) key: Option<RecipientKey>,
}

/// Bytes by shard and number of the segment.
pub(super) type LiveBytes = BTreeMap<(ShardId, u64), u64>;

/// What lies in memory, to be merged.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) entries: Vec<Entry>,
    pub(super) bodies: Vec<Body>,
    /// How far each shard's log is contained in this and all before.
    pub(super) applied: BTreeMap<ShardId, Lsn>,
    pub(super) live: LiveBytes,
}

/// Finds rows by what they are about; holds their indexes.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    by_mailbox: BTreeSet<(MailboxId, usize)>,
    by_entry: BTreeMap<(MailboxId, QueueId), usize>,
    by_id: BTreeMap<QueueId, usize>,
    entries_count: usize,
    bodies_count: usize,
}

/// Rows and the way to find them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: Rows,
    pub(super) lookups: Lookups,
}

impl Pending {
    /// How much there is to merge.
    pub(super) fn count(&self) -> usize {
        self.rows.entries.len().max(self.rows.applied.len())
    }

    /// Takes a delivery; mailboxes that were removed do not get it.
    pub(super) fn add(
        &mut self,
        delivery: Delivery,
        removed: &BTreeSet<MailboxId>,
        segment_bytes: u64,
    ) {
        let Delivery { mut body, end, recipients, .. } = delivery;
        let rows = &mut self.rows;
        rows.applied.insert(body.shard, end);
        for Recipient { mailbox, key } in recipients.as_slice() {
            if removed.is_empty() || !removed.contains(mailbox) {
                let (mailbox, key) = (*mailbox, key.clone());
                rows.entries.push(Entry { mailbox, id: body.id, octets: body.octets, key });
                body.references_count += 1;
            }
        }
        if body.references_count > 0 {
            for (lsn, bytes) in body.records() {
                *rows.live.entry((body.shard, lsn.0 / segment_bytes)).or_default() += bytes;
            }
            rows.bodies.push(body);
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.entries.clear();
        self.rows.bodies.clear();
        self.rows.applied.clear();
        self.rows.live.clear();
        self.lookups = Lookups::default();
    }
}

/// The two generations of pending rows: those that are being merged, and those that came since.
pub(super) struct View<'a> {
    rows: [&'a Rows; 2],
    lookups: [&'a mut Lookups; 2],
}

impl<'a> View<'a> {
    /// What is merged comes before what came since.
    pub(super) fn new(
        merging: (&'a Rows, &'a mut Lookups),
        active: (&'a Rows, &'a mut Lookups),
    ) -> Self {
        Self { rows: [merging.0, active.0], lookups: [merging.1, active.1] }
    }

    /// The entries of a mailbox, in order.
    pub(super) fn entries(&mut self, mailbox: MailboxId) -> Vec<&'a Entry> {
        self.extend();
        let mut found = Vec::new();
        for (rows, lookups) in self.rows.iter().zip(&self.lookups) {
            let of = lookups.by_mailbox.range((mailbox, 0)..=(mailbox, usize::MAX));
            found.extend(of.filter_map(|&(_, index)| rows.entries.get(index)));
        }
        found
    }

    /// A message in a mailbox.
    pub(super) fn entry(&mut self, mailbox: MailboxId, id: QueueId) -> Option<&'a Entry> {
        self.extend();
        self.rows.iter().zip(&self.lookups).find_map(|(rows, lookups)| {
            let index = lookups.by_entry.get(&(mailbox, id));
            index.and_then(|&index| rows.entries.get(index))
        })
    }

    /// The body of a message.
    pub(super) fn body(&mut self, id: QueueId) -> Option<&'a Body> {
        self.extend();
        self.rows.iter().zip(&self.lookups).find_map(|(rows, lookups)| {
            lookups.by_id.get(&id).and_then(|&index| rows.bodies.get(index))
        })
    }

    /// Live bytes of `shard`, added to `sum`.
    pub(super) fn add_live(&self, shard: ShardId, sum: &mut BTreeMap<u64, u64>) {
        for rows in self.rows {
            for (&(_, number), bytes) in rows.live.range((shard, 0)..=(shard, u64::MAX)) {
                let sum = sum.entry(number).or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
    }

    fn extend(&mut self) {
        for (rows, lookups) in self.rows.iter().zip(&mut self.lookups) {
            let fresh = rows.entries.iter().enumerate().skip(lookups.entries_count);
            for (index, entry) in fresh {
                lookups.by_mailbox.insert((entry.mailbox, index));
                lookups.by_entry.insert((entry.mailbox, entry.id), index);
            }
            lookups.entries_count = rows.entries.len();
            let fresh = rows.bodies.iter().enumerate().skip(lookups.bodies_count);
            lookups.by_id.extend(fresh.map(|(index, body)| (body.id, index)));
            lookups.bodies_count = rows.bodies.len();
        }
    }
}
