//! A shard's part in nodes that stand in for each other: copies of its outgoing mail in the
//! cluster, and mail of nodes that are gone.
//!
//! Mail that has waited for [`COPY_AFTER`] gets a copy; most is delivered before. Where mail counts
//! as accepted only when the cluster has it, the copy is made before the reply ([`copy_now`]).
//! Whose turn it is to send what has a copy, the back end says
//! ([`Relief`](fsmtp_store::mailbox::Relief)). Limits: [`AT_ONCE`] copies are made at one time, a
//! piece of each in memory. Failure: a copy that cannot be made is tried again for ever; until then
//! the message lies on this node alone.

use core::cell::RefCell;
use core::pin::pin;
use core::time::Duration;
use std::collections::BTreeSet;
use std::rc::Rc;

use fsmtp_rt::{Class, Datagrams, Dial, Runtime};
use fsmtp_store::mailbox::{Mailboxes, Queued, Settlement, Transit, Verdict};
use fsmtp_store::queue::Queue;
use fsmtp_store::spool::Reader;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use super::{known, later, untried};
use crate::log::Event;
use crate::shard::Shard;
use crate::start::first;

/// How long mail waits before it gets a copy.
const COPY_AFTER: Duration = Duration::from_secs(5);
/// How often is looked what there is to do.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages that are looked through in a round.
const ROUND_COUNT: usize = 1024;
/// Copies that a shard makes at one time.
const AT_ONCE: usize = 16;
/// How often the place of a message that moves is looked up.
const LOOKUPS_MAX: usize = 3;
/// How long a sender waits for the copy, where mail counts as accepted when there is one.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the index is asked again for a message that is on its way there.
const UNHEARD_PAUSE: Duration = Duration::from_millis(2);

/// Begins.
pub(crate) fn start<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>) {
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        let all = Rc::new(RefCell::default());
        loop {
            copy_some(&inner, &all);
            inner.rt.sleep_until(inner.rt.now() + PAUSE).await;
        }
    });
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        let mut adopted = BTreeSet::new();
        loop {
            inner.rt.sleep_until(inner.rt.now() + PAUSE).await;
            take_over(&inner, &mut adopted).await;
            hand_back(&inner, &mut adopted);
            accept(&inner);
        }
    });
}

/// Copies that are being made, and those that wait for one of these to end.
type Copying = Rc<RefCell<BTreeSet<QueueId>>>;

/// Begins copies of what has waited.
fn copy_some<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, copying: &Copying) {
    let outbound = &shard.outbound;
    let until = shard.rt.unix().ms().saturating_sub(COPY_AFTER.as_millis() as u64);
    let ready: Vec<QueueId> = {
        let uncopied = outbound.uncopied.borrow();
        uncopied.iter().take(ROUND_COUNT).take_while(|id| id.0 >> 22 < until).copied().collect()
    };
    for id in ready {
        if !outbound.queue.borrow().contains(id) {
            outbound.uncopied.borrow_mut().remove(&id);
        } else if copying.borrow().len() < AT_ONCE && copying.borrow_mut().insert(id) {
            let (inner, copying) = (Rc::clone(shard), Rc::clone(copying));
            shard.rt.spawn(Class::Background, async move {
                if copy(&inner, id).await.is_ok() {
                    inner.outbound.uncopied.borrow_mut().remove(&id);
                    // It has none of what became of it before.
                    inner.outbound.keep(id);
                    copying.borrow_mut().remove(&id);
                    return copy_some(&inner, &copying);
                }
                // The next round tries it again.
                copying.borrow_mut().remove(&id);
            });
        }
    }
}

/// Makes a copy of a message of this node, unless there is one.
async fn copy<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    id: QueueId,
) -> Result<(), StoreError> {
    if !shard.mailboxes.begin_copy(id)? {
        return Ok(());
    }
    let mut reader = Reader::sharing(&shard.files, shard.spool.config().segment_bytes);
    let mut lookups = 0;
    loop {
        match send(shard, &mut reader, id).await {
            Err(StoreError::Moved) if lookups < LOOKUPS_MAX => lookups += 1,
            outcome => return outcome,
        }
    }
}

async fn send<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    reader: &mut Reader<R::Disk>,
    id: QueueId,
) -> Result<(), StoreError> {
    let place = shard.mailboxes.locate(id).await?;
    let raw = reader.raw(place).await?;
    for number in 1..=raw.chunks_count {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        let Some(chunk) = reader.raw_chunk(index).await? else { break };
        shard.mailboxes.copy_piece(id, number, chunk).await?;
    }
    let travels = raw.recipients.into_iter().find(|to| to.mailbox == MailboxId::QUEUE);
    let key = travels.and_then(|to| to.key);
    let (octets, envelope, first) = (raw.octets, raw.envelope, raw.first);
    shard.mailboxes.copy(Transit { id, octets, envelope, first, key }).await
}

/// Makes a copy of a message that is on stable storage and not in the queue yet. Else it is taken
/// out of the spool, so that it is not sent beside what its sender sends again.
///
/// # Errors
/// When there is no copy in time.
pub(crate) async fn copy_now<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    id: QueueId,
) -> Result<(), String> {
    let mut copied = Err(format!("no copy within {} s", PATIENCE.as_secs()));
    let copying = async {
        copied = loop {
            match copy(shard, id).await {
                // The index has not heard of it yet.
                Err(StoreError::NotFound(_)) => {
                    shard.rt.sleep_until(shard.rt.now() + UNHEARD_PAUSE).await;
                }
                outcome => break outcome.map_err(|error| error.to_string()),
            }
        };
    };
    first(pin!(copying), pin!(shard.rt.sleep_until(shard.rt.now() + PATIENCE))).await;
    if copied.is_err() {
        // When the index does not take it now, a restart may send it.
        let _ = shard.mailboxes.settle(vec![Settlement::Done(id)]).await;
    }
    copied
}

/// Takes mail of nodes that are gone into this shard's queue.
async fn take_over<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    adopted: &mut BTreeSet<QueueId>,
) {
    for queued in shard.mailboxes.adopted(ROUND_COUNT) {
        let Queued { id, octets, .. } = queued;
        adopted.insert(id);
        if !known(shard, &queued) && !untried(shard, id, octets).await {
            later(shard, id, octets);
        }
        // It has one.
        shard.outbound.uncopied.borrow_mut().remove(&id);
        shard.outbound.wake();
    }
}

/// Lets go of mail whose node is back, but for what is being sent.
fn hand_back<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    adopted: &mut BTreeSet<QueueId>,
) {
    let outbound = &shard.outbound;
    if outbound.settling.get() {
        // What is being told of them is not known yet.
        return;
    }
    adopted.retain(|&id| {
        if shard.mailboxes.is_adopted(id) {
            // What is done is told, and forgotten when that is written.
            return true;
        }
        if outbound.is_sending(id) || outbound.changed.borrow().contains(&id) {
            return true;
        }
        outbound.queue.borrow_mut().remove(id);
        shard.mailboxes.let_go(id);
        false
    });
}

/// Does what verdicts say about this shard's own mail.
fn accept<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>) {
    let outbound = &shard.outbound;
    for (id, verdict) in shard.mailboxes.verdicts() {
        if !outbound.queue.borrow().is_at_rest(id) || outbound.is_sending(id) {
            continue;
        }
        match &verdict {
            Verdict::Stands(queued) if !Queue::reads(&queued.state) => {
                let why = "what another node knows of it cannot be read, so it is held";
                let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &id), ("why", &why)];
                shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
                outbound.queue.borrow_mut().hold(id, true);
            }
            Verdict::Stands(queued) => {
                outbound.queue.borrow_mut().remove(id);
                known(shard, queued);
                outbound.uncopied.borrow_mut().remove(&id);
            }
            Verdict::Gone => {
                outbound.queue.borrow_mut().remove(id);
                outbound.uncopied.borrow_mut().remove(&id);
            }
        }
        outbound.keep(id);
        shard.mailboxes.accepted(id);
    }
}
