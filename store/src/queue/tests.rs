//! What the queue promises, each with an example; and that a restart changes nothing.

use super::*;
use crate::ShardId;
use proptest::prelude::*;

const MINUTE: u64 = 60_000;
const START: UnixTime = UnixTime::from_ms(1_700_000_000_000);

fn at(ms: u64) -> UnixTime {
    UnixTime::from_ms(START.ms() + ms)
}

fn id(n: u64) -> QueueId {
    QueueId(QueueId::first(START.ms(), ShardId(0)).0 + n)
}

fn terms() -> Terms {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    Terms {
        pauses: "1m,5m".parse().unwrap(),
        expiry: minutes(20),
        delay_notice: Some(minutes(5)),
        messages_max: 3,
    }
}

fn later(words: &str, remaining: &[u16]) -> Outcome {
    let (remaining, words) = (remaining.to_vec(), words.to_owned());
    Outcome { remaining, cause: Cause::Refused, code: 451, words }
}

fn why(queue: &Queue, now: UnixTime) -> Vec<(QueueId, WhyNot)> {
    queue.list(None, now).map(|listed| (listed.id, listed.why)).collect()
}

#[test]
fn a_message_is_due_at_once_and_done_when_all_its_legs_are() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0, 2]), ("b.test", vec![1])]);
    assert_eq!(queue.next_due(), Some(START));
    assert_eq!(queue.take(at(0)).map(|work| work.domain), Some("a.test".into()));
    let work = queue.take(at(0)).unwrap();
    assert_eq!((&*work.domain, &*work.recipients, work.octets), ("b.test", &[1][..], 500));
    assert_eq!(queue.take(at(MINUTE)), None, "all is under way");
    assert_eq!(queue.next_due(), None);
    let first = queue.finish(id(1), "b.test", Outcome::done(), at(1)).unwrap();
    assert!(matches!(first.settlement, Settlement::Deferred(..)));
    let last = queue.finish(id(1), "a.test", Outcome::done(), at(2)).unwrap();
    assert_eq!(last.settlement, Settlement::Done(id(1)));
    assert!(queue.is_empty() && queue.finish(id(1), "a.test", Outcome::done(), at(2)).is_none());
}

#[test]
fn a_refusal_waits_longer_each_time_until_the_message_expires() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0, 1])]);
    let (mut now, mut told_at, mut pauses) = (0, Vec::new(), Vec::new());
    loop {
        let work = queue.take(at(now)).unwrap();
        let finished =
            queue.finish(work.id, "a.test", later("not now", &work.recipients), at(now)).unwrap();
        if !finished.delayed.is_empty() {
            told_at.push(now / MINUTE);
        }
        let Some(due) = queue.next_due() else {
            assert_eq!(finished.expired, [0, 1]);
            assert_eq!(finished.settlement, Settlement::Done(id(1)));
            break;
        };
        assert_eq!(why(&queue, at(now)), [(id(1), WhyNot::Waits(Cause::Refused))]);
        assert_eq!(queue.take(UnixTime::from_ms(due.ms() - 1000)), None);
        pauses.push((due.ms() - at(now).ms()) / MINUTE);
        now = due.ms() - START.ms();
    }
    assert_eq!(now, 20 * MINUTE, "the last attempt is made when it expires, not later");
    assert_eq!(pauses.get(..3), Some(&[1, 5, 5][..]));
    assert_eq!(told_at, [6], "its sender is told once that it is late");
}

#[test]
fn recipients_that_are_done_are_not_tried_again() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0, 1, 2])]);
    queue.take(START).unwrap();
    queue.finish(id(1), "a.test", later("1 is away", &[1]), START);
    let work = queue.take(at(2 * MINUTE)).unwrap();
    assert_eq!((&*work.recipients, work.attempts_count), (&[1][..], 1));
}

#[test]
fn an_operator_holds_releases_retries_and_removes() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0])]);
    queue.add(id(2), 500, START, [("a.test", vec![0])]);
    assert!(matches!(queue.hold(id(1), true), Some(Settlement::Deferred(..))));
    assert_eq!(queue.take(START).map(|work| work.id), Some(id(2)));
    assert_eq!(why(&queue, START), [(id(1), WhyNot::Held), (id(2), WhyNot::UnderWay)]);
    // Held while it is under way: it is finished, and then stays.
    queue.hold(id(2), true);
    queue.finish(id(2), "a.test", later("not now", &[0]), START);
    queue.retry(id(2), at(1));
    assert_eq!(queue.take(at(60 * MINUTE)), None);
    queue.hold(id(2), false);
    assert_eq!(queue.take(at(1)), None);
    assert!(queue.retry(id(2), at(1)).is_some());
    assert_eq!(queue.take(at(1)).map(|work| work.id), Some(id(2)));
    assert_eq!(queue.remove(id(2)), Some(Settlement::Done(id(2))));
    assert!(queue.finish(id(2), "a.test", later("too late", &[0]), at(2)).is_none());
    queue.hold(id(1), false);
    assert_eq!(queue.take(at(2)).map(|work| work.id), Some(id(1)));
    queue.put_back(id(1), "a.test");
    assert_eq!(queue.take(at(2)).map(|work| work.attempts_count), Some(0));
    assert_eq!(queue.remove(id(9)), None);
    assert_eq!((queue.hold(id(9), true), queue.retry(id(9), START)), (None, None));
}

#[test]
fn words_are_cut_and_the_queue_is_bounded() {
    let mut queue = Queue::new(terms());
    for n in 0..3 {
        assert!(!queue.is_full());
        queue.add(id(n), 500, START, [("a.test", vec![0])]);
    }
    assert!(queue.is_full());
    queue.take(START).unwrap();
    queue.finish(id(0), "a.test", later(&"é".repeat(150), &[0]), START);
    let listed = queue.list(None, START).next().unwrap();
    assert_eq!((&*listed.words, listed.code), (&*"é".repeat(100), 451));
    assert_eq!(queue.counts(START), [(WhyNot::Due, 2), (WhyNot::Waits(Cause::Refused), 1)].into());
    let behind: Vec<QueueId> = queue.list(Some(id(0)), START).map(|listed| listed.id).collect();
    assert_eq!(behind, [id(1), id(2)]);
}

#[test]
fn equal_words_of_one_domain_are_kept_once() {
    let mut queue = Queue::new(terms());
    for n in 0..2 {
        queue.add(id(n), 500, START, [("a.test", vec![0])]);
        queue.take(START).unwrap();
        queue.finish(id(n), "a.test", later("greylisted", &[0]), START);
    }
    let words: Vec<Rc<str>> = queue.list(None, START).map(|listed| listed.words).collect();
    assert!(matches!(words.as_slice(), [one, other] if Rc::ptr_eq(one, other)));
}

proptest! {
    /// Whatever happens, a restart from the settlements finds the same queue.
    #[test]
    fn a_restart_finds_what_was_settled(
        steps in prop::collection::vec((0..6_u8, 0..3_u64, 0..30_u64), 1..60),
    ) {
        let terms = Terms { messages_max: 99, ..terms() };
        let mut queue = Queue::new(terms.clone());
        let mut kept: BTreeMap<QueueId, Box<[u8]>> = BTreeMap::new();
        let (mut now, mut next) = (0, 0);
        let mut under_way = Vec::new();
        for (step, which, minutes) in steps {
            now += minutes * MINUTE / 4;
            let known: Vec<QueueId> = queue.messages.keys().copied().collect();
            let chosen = known.get(which as usize).copied().unwrap_or_else(|| id(999));
            let settled = match step {
                0 => {
                    next += 1;
                    queue.add(id(next), 9, at(now), [("a.test", vec![0, 1]), ("b.test", vec![2])]);
                    queue.retry(id(next), at(now))
                }
                1 => {
                    under_way.extend(queue.take(at(now)));
                    None
                }
                2 => under_way.pop().and_then(|work: Work| {
                    let remaining = work.recipients.get(..which as usize).unwrap_or(&[]);
                    let outcome = later("no", remaining);
                    let done = queue.finish(work.id, &work.domain, outcome, at(now));
                    done.map(|done| done.settlement)
                }),
                3 => queue.hold(chosen, which == 0),
                4 => queue.retry(chosen, at(now)),
                _ => queue.remove(chosen),
            };
            match settled {
                Some(Settlement::Deferred(id, state)) => drop(kept.insert(id, state)),
                Some(Settlement::Done(id)) => drop(kept.remove(&id)),
                None => {}
            }
        }
        for work in under_way {
            queue.put_back(work.id, &work.domain);
        }
        let mut again = Queue::new(terms);
        for (id, state) in kept {
            prop_assert_eq!(again.restore(id, 9, &state), Ok(()));
        }
        let all = |queue: &Queue| queue.list(None, at(now)).collect::<Vec<_>>();
        prop_assert_eq!(all(&again), all(&queue));
        let due = |queue: &Queue| {
            let named = |&(due, id, domain)| (due, id, queue.domains.name(domain));
            queue.due.iter().map(named).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(due(&again), due(&queue));
        let names = |queue: &Queue| queue.domains.names_count();
        prop_assert_eq!(names(&again), names(&queue), "no name is forgotten or left behind");
    }
}
