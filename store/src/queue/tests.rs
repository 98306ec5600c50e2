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

/// Ends an attempt; who is to be told, and how the message stands then.
fn end(
    queue: &mut Queue,
    n: u64,
    domain: &str,
    outcome: Outcome,
    now: UnixTime,
) -> (Judged, Settlement) {
    let judged = queue.judge(id(n), domain, &outcome, now).unwrap();
    queue.finish(id(n), domain, outcome, &judged, now);
    (judged, queue.settlement(id(n)))
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
    let (_, first) = end(&mut queue, 1, "b.test", Outcome::done(), at(1));
    assert!(matches!(first, Settlement::Deferred(..)));
    let (_, last) = end(&mut queue, 1, "a.test", Outcome::done(), at(2));
    assert_eq!(last, Settlement::Done(id(1)));
    assert!(queue.is_empty() && queue.judge(id(1), "a.test", &Outcome::done(), at(2)).is_none());
}

#[test]
fn a_refusal_waits_longer_each_time_until_the_message_expires() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0, 1])]);
    let (mut now, mut told_at, mut pauses) = (0, Vec::new(), Vec::new());
    loop {
        let work = queue.take(at(now)).unwrap();
        let outcome = later("not now", &work.recipients);
        let (judged, settlement) = end(&mut queue, 1, "a.test", outcome, at(now));
        if !judged.delayed.is_empty() {
            told_at.push(now / MINUTE);
        }
        let Some(due) = queue.next_due() else {
            assert_eq!(judged.expired, [0, 1]);
            assert_eq!(settlement, Settlement::Done(id(1)));
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
    end(&mut queue, 1, "a.test", later("1 is away", &[1]), START);
    let work = queue.take(at(2 * MINUTE)).unwrap();
    assert_eq!((&*work.recipients, work.attempts_count), (&[1][..], 1));
}

#[test]
fn an_operator_holds_releases_retries_and_removes() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0])]);
    queue.add(id(2), 500, START, [("a.test", vec![0])]);
    assert!(queue.hold(id(1), true));
    assert_eq!(queue.take(START).map(|work| work.id), Some(id(2)));
    assert_eq!(why(&queue, START), [(id(1), WhyNot::Held), (id(2), WhyNot::UnderWay)]);
    // Held while it is under way: it is finished, and then stays.
    assert!(queue.may_go(id(2), "a.test") && !queue.may_go(id(2), "b.test"));
    queue.hold(id(2), true);
    assert!(!queue.may_go(id(2), "a.test") && !queue.may_go(id(9), "a.test"));
    end(&mut queue, 2, "a.test", later("not now", &[0]), START);
    queue.retry(id(2), at(1));
    assert_eq!(queue.take(at(60 * MINUTE)), None);
    queue.hold(id(2), false);
    assert_eq!(queue.take(at(1)), None);
    assert!(queue.retry(id(2), at(1)));
    assert_eq!(queue.take(at(1)).map(|work| work.id), Some(id(2)));
    assert!(queue.remove(id(2)));
    assert_eq!(queue.settlement(id(2)), Settlement::Done(id(2)));
    assert!(queue.judge(id(2), "a.test", &later("too late", &[0]), at(2)).is_none());
    queue.finish(id(2), "a.test", later("too late", &[0]), &Judged::default(), at(2));
    assert_eq!(queue.len(), 1);
    queue.hold(id(1), false);
    assert_eq!(queue.take(at(2)).map(|work| work.id), Some(id(1)));
    queue.put_back(id(1), "a.test");
    assert_eq!(queue.take(at(2)).map(|work| work.attempts_count), Some(0));
    assert!(!queue.remove(id(9)) && !queue.hold(id(9), true) && !queue.retry(id(9), START));
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
    end(&mut queue, 0, "a.test", later(&"é".repeat(150), &[0]), START);
    let listed = queue.list(None, START).next().unwrap();
    assert_eq!((&*listed.words, listed.code), (&*"é".repeat(100), 451));
    assert_eq!(queue.counts(START), [(WhyNot::Due, 2), (WhyNot::Waits(Cause::Refused), 1)].into());
    let behind: Vec<QueueId> = queue.list(Some(id(0)), START).map(|listed| listed.id).collect();
    assert_eq!(behind, [id(1), id(2)]);
}

#[test]
fn what_waits_for_a_paused_site_says_so_counts_nothing_and_expires() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0])]);
    assert!(!queue.take(START).unwrap().insisted);
    assert!(queue.pause(id(1), "a.test", at(2 * MINUTE), (421, "too many")));
    let listed = queue.list(None, START).next().unwrap();
    assert_eq!((listed.why, listed.code), (WhyNot::Waits(Cause::Paused), 421));
    assert_eq!((listed.why.name(), &*listed.words), ("site-paused", "too many"));
    let Settlement::Deferred(_, state) = queue.settlement(id(1)) else { panic!() };
    let mut again = Queue::new(terms());
    again.restore(id(1), 500, &state, START).unwrap();
    assert_eq!(why(&again, START), why(&queue, START));
    // Who insists is heard once.
    queue.retry(id(1), at(MINUTE));
    assert!(queue.take(at(MINUTE)).unwrap().insisted);
    assert!(!queue.pause(id(1), "a.test", at(90 * MINUTE), (421, "too many")), "it is known");
    let expires = queue.expires(START);
    assert_eq!(queue.next_due(), Some(expires + EARLY_MAX), "when it has expired, not later");
    assert_eq!(queue.take(expires), None, "whoever puts it off would do so for ever");
    let work = queue.take(at(20 * MINUTE + 1)).unwrap();
    assert_eq!((work.insisted, work.attempts_count), (false, 0));
}

#[test]
fn what_is_put_off_counts_for_nothing() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0])]);
    // Long after it would have expired.
    let late = at(60 * MINUTE);
    queue.take(late).unwrap();
    queue.put_off(id(1), "a.test", at(61 * MINUTE), Cause::Storage);
    assert_eq!(queue.take(late), None);
    assert_eq!(why(&queue, late), [(id(1), WhyNot::Waits(Cause::Storage))]);
    assert_eq!(queue.take(at(61 * MINUTE)).map(|work| work.attempts_count), Some(0));
}

#[test]
fn a_state_that_grows_too_long_loses_its_words_and_nothing_else() {
    let mut queue = Queue::new(terms());
    let names: Vec<String> = (0..6000).map(|n| format!("{n}.test")).collect();
    queue.add(id(1), 9, START, names.iter().zip(0..).map(|(name, n)| (name.as_str(), vec![n])));
    let long = "x".repeat(WORDS_BYTES_MAX);
    for (name, n) in names.iter().zip(0..) {
        queue.take(START).unwrap();
        end_quietly(&mut queue, name, later(&long, &[n]));
    }
    let Settlement::Deferred(_, state) = queue.settlement(id(1)) else { panic!() };
    assert!(state.len() <= STATE_BYTES_MAX);
    let mut again = Queue::new(terms());
    again.restore(id(1), 9, &state, START).unwrap();
    let all = |queue: &Queue| {
        queue.list(None, START).map(|listed| (listed.domain, listed.due)).collect::<Vec<_>>()
    };
    assert_eq!(all(&again), all(&queue));
}

/// Ends an attempt without a look at what is to be kept, which takes its time for so many legs.
fn end_quietly(queue: &mut Queue, domain: &str, outcome: Outcome) {
    queue.finish(id(1), domain, outcome, &Judged::default(), START);
}

#[test]
fn equal_words_of_one_domain_are_kept_once() {
    let mut queue = Queue::new(terms());
    for n in 0..2 {
        queue.add(id(n), 500, START, [("a.test", vec![0])]);
        queue.take(START).unwrap();
        end(&mut queue, n, "a.test", later("greylisted", &[0]), START);
    }
    let words: Vec<Rc<str>> = queue.list(None, START).map(|listed| listed.words).collect();
    assert!(matches!(words.as_slice(), [one, other] if Rc::ptr_eq(one, other)));
}

#[test]
fn a_clock_that_was_put_back_between_two_runs_delays_by_one_pause_at_most() {
    let mut queue = Queue::new(terms());
    queue.add(id(1), 500, START, [("a.test", vec![0])]);
    queue.take(START).unwrap();
    end_quietly(&mut queue, "a.test", later("no", &[0]));
    let Settlement::Deferred(_, state) = queue.settlement(id(1)) else { panic!() };
    let back = UnixTime::from_ms(START.ms() - 48 * 3600 * 1000);
    let mut again = Queue::new(terms());
    again.restore(id(1), 500, &state, back).unwrap();
    let due = again.next_due().unwrap();
    let received = again.list(None, back).next().unwrap().received;
    assert_eq!(received, back, "it expires some day");
    assert!(
        due <= back + spread_most(terms().pauses.longest()) + Duration::from_secs(1),
        "{due:?}"
    );
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
            let mut changed = chosen;
            match step {
                0 => {
                    next += 1;
                    changed = id(next);
                    queue.add(changed, 9, at(now), [("a.test", vec![0, 1]), ("b.test", vec![2])]);
                }
                1 => under_way.extend(queue.take(at(now))),
                2 => {
                    if let Some(Work { id, domain, recipients, .. }) = under_way.pop() {
                        let remaining = recipients.get(..which as usize).unwrap_or(&[]);
                        let outcome = later("no", remaining);
                        if let Some(judged) = queue.judge(id, &domain, &outcome, at(now)) {
                            queue.finish(id, &domain, outcome, &judged, at(now));
                        }
                        changed = id;
                    }
                }
                3 => drop(queue.hold(chosen, which == 0)),
                4 => drop(queue.retry(chosen, at(now))),
                _ => drop(queue.remove(chosen)),
            }
            match queue.settlement(changed) {
                Settlement::Deferred(id, state) => drop(kept.insert(id, state)),
                Settlement::Done(id) | Settlement::Uploaded(id) => drop(kept.remove(&id)),
            }
        }
        for work in under_way {
            queue.put_back(work.id, &work.domain);
        }
        let mut again = Queue::new(terms);
        for (id, state) in kept {
            prop_assert_eq!(again.restore(id, 9, &state, at(now)), Ok(()));
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
