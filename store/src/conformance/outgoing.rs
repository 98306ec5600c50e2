//! What every back end must do with mail that is to travel on.

use super::{
    A, Factory, ShardLog, counting, deliver, ids, live_bytes, must, place, replay, sealed,
};
use crate::mailbox::{Mailboxes, Outgoing, Queued, STATE_BYTES_MAX, Settlement, wait};
use crate::seal::{MailboxKey, Sealer, Window};
use crate::spool::{Committed, Recipient, RecipientKey};
use crate::{MailboxId, QueueId, ShardId, StoreError};
use std::sync::Arc;

const QUEUE: MailboxId = MailboxId::QUEUE;

pub(super) fn run<F: Factory>(factory: &mut F) {
    queued_mail_is_listed_by_shard(factory);
    what_is_known_of_it_survives_a_crash(factory);
    settled_mail_is_gone_for_good(factory);
    its_body_stays_for_others(factory);
    its_key_opens_it_and_goes_with_it(factory);
}

/// What a shard would find at its start.
fn listed(store: &impl Mailboxes, shard: u16) -> Vec<Queued> {
    must(wait(store.persist()));
    must(wait(store.queued(ShardId(shard), None, usize::MAX)))
}

fn names(store: &impl Mailboxes, shard: u16) -> Vec<QueueId> {
    listed(store, shard).iter().map(|queued| queued.id).collect()
}

fn settle(store: &impl Mailboxes, settlements: &[Settlement]) {
    must(wait(store.settle(settlements.to_vec())));
}

fn queued_mail_is_listed_by_shard<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let (mut log, mut other) = (ShardLog::new(0), ShardLog::new(3));
    let first = log.message(&[QUEUE, A, QUEUE], 1000, 0);
    let second = log.message(&[QUEUE], 2000, 3);
    let third = other.message(&[QUEUE], 3000, 0);
    let local = other.message(&[A], 3000, 0);
    for message in [&first, &second, &third, &local] {
        deliver(&store, message);
    }
    let fresh = |of: &Committed| Queued { id: of.id, octets: of.octets, state: Box::default() };
    let check = |store: &F::Store| {
        assert_eq!(listed(store, 0), [fresh(&first), fresh(&second)], "each once, in order");
        assert_eq!(listed(store, 3), [fresh(&third)]);
        assert_eq!(listed(store, 1), []);
        let some = must(wait(store.queued(ShardId(0), None, 1)));
        assert_eq!(some, [fresh(&first)]);
        let rest = must(wait(store.queued(ShardId(0), Some(first.id), 9)));
        assert_eq!(rest, [fresh(&second)]);
        assert_eq!(ids(store, QUEUE), [], "it is nobody's mailbox");
        let found = must(wait(store.find_queued(second.id)));
        assert_eq!((found.body, found.key), (place(&second).into(), None));
        let missing = |id| matches!(wait(store.find_queued(id)), Err(StoreError::NotFound(_)));
        assert!(missing(local.id) && missing(QueueId(1)));
    };
    check(&store);
    check(&factory.restart(store));
}

fn what_is_known_of_it_survives_a_crash<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(1);
    let message = log.message(&[QUEUE], 1000, 0);
    deliver(&store, &message);
    // At once, before the message was merged.
    settle(&store, &[Settlement::Deferred(message.id, b"once".as_slice().into())]);
    let states = |store: &F::Store| listed(store, 1).into_iter().map(|queued| queued.state);
    let is = |store: &F::Store, text: &str| states(store).eq([text.as_bytes().into()]);
    assert!(is(&store, "once"));
    settle(&store, &[Settlement::Deferred(message.id, b"twice".as_slice().into())]);
    let store = factory.crash(store);
    replay(&store, &log);
    assert!(is(&store, "twice"), "what was answered is not taken back");
    let longest: Box<[u8]> = vec![7; STATE_BYTES_MAX].into();
    settle(&store, &[Settlement::Deferred(message.id, longest.clone())]);
    assert!(states(&store).eq([longest]));
    let longer = Settlement::Deferred(message.id, vec![7; STATE_BYTES_MAX + 1].into());
    let refused = wait(store.settle(vec![Settlement::Done(message.id), longer]));
    assert!(matches!(refused, Err(StoreError::Invalid(_))));
    assert_eq!(names(&store, 1), [message.id], "all or none");
}

fn settled_mail_is_gone_for_good<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let all: Vec<Committed> = (0..4).map(|_| log.message(&[QUEUE], 1000, 1)).collect();
    let id = |n: usize| all.get(n).map_or(QueueId(0), |message| message.id);
    for message in &all {
        deliver(&store, message);
    }
    settle(&store, &[Settlement::Done(id(0)), Settlement::Done(id(2))]);
    // What is not there is passed over.
    settle(&store, &[Settlement::Done(id(0)), Settlement::Done(QueueId(5))]);
    settle(&store, &[Settlement::Deferred(id(2), b"late".as_slice().into())]);
    assert_eq!(names(&store, 0), [id(1), id(3)]);
    let store = factory.crash(store);
    replay(&store, &log);
    assert_eq!(names(&store, 0), [id(1), id(3)], "nothing is sent twice");
    assert!(matches!(wait(store.find_queued(id(0))), Err(StoreError::NotFound(_))));
    assert!(matches!(wait(store.locate(id(0))), Err(StoreError::NotFound(_))));
    let half = live_bytes(&store, 0);
    settle(&store, &[Settlement::Done(id(1))]);
    assert_eq!(live_bytes(&store, 0), half / 2);
    settle(&store, &[Settlement::Done(id(3))]);
    assert_eq!(live_bytes(&store, 0), 0, "its space comes back");
}

fn its_body_stays_for_others<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(2);
    let message = log.message(&[A, QUEUE], 1000, 2);
    deliver(&store, &message);
    settle(&store, &[Settlement::Done(message.id)]);
    assert_eq!(ids(&store, A), [message.id]);
    assert_eq!(must(wait(store.locate(message.id))), place(&message));
    assert_eq!(names(&store, 2), []);
}

fn its_key_opens_it_and_goes_with_it<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let mut log = ShardLog::new(0);
    let random = &mut counting();
    let owner = MailboxKey::of_queue(&[7; 32]);
    let (window, record) = sealed(Window::begin_under(QUEUE, &owner, random));
    let record = Arc::new(record);
    let mut message = |log: &mut ShardLog| {
        let mut message = log.message(&[QUEUE], 1000, 0);
        let sealer = Sealer::begin(message.id, random);
        let wrap = sealed(window.wrap(sealer.content_key(), message.id));
        let key = Some(RecipientKey { wrap, window: Arc::clone(&record) });
        message.recipients = vec![Recipient { mailbox: QUEUE, key }];
        log.replace(&message);
        message
    };
    let (one, other) = (message(&mut log), message(&mut log));
    deliver(&store, &one);
    deliver(&store, &other);
    let key = |store: &F::Store, id| must(wait(store.find_queued(id))).key;
    let kept = |of: &Committed| of.recipients.first().and_then(|to| to.key.clone());
    assert_eq!(key(&store, one.id), kept(&one), "before it is merged");
    must(wait(store.persist()));
    settle(&store, &[Settlement::Deferred(one.id, b"state".as_slice().into())]);
    let store = factory.restart(store);
    assert_eq!(key(&store, one.id), kept(&one));
    settle(&store, &[Settlement::Done(one.id)]);
    assert_eq!(key(&store, other.id), kept(&other), "the window is still needed");
    let open =
        |key: RecipientKey| sealed(sealed(key.window.open(&owner)).open(&key.wrap, other.id));
    key(&store, other.id).map(open);
    settle(&store, &[Settlement::Done(other.id)]);
    assert!(matches!(wait(store.find_queued(other.id)), Err(StoreError::NotFound(_))));
}
