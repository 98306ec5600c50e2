//! Deadlines of a shard, ordered by time. The nearest one bounds how long the shard sleeps.

use core::cell::Cell;
use core::task::Waker;
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_proto::time::Instant;

use super::net::ConnState;
use crate::sys::ring::OpId;

/// Names a timer that is set.
pub(super) type TimerKey = (Instant, u64);

/// What happens at a deadline.
pub(super) enum Alarm {
    /// A sleeping task goes on.
    Wake(Waker),
    /// A connection has waited too long, unless its deadline has moved.
    Conn(Rc<ConnState>),
    /// The last send of a closed connection is ended, unless it is done.
    LastSend(Rc<ConnState>, OpId),
}

/// The timers that are set.
#[derive(Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerKey, Alarm>,
    count: Cell<u64>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, alarm: Alarm) -> TimerKey {
        let key = (at, self.count.get());
        self.count.set(key.1 + 1);
        self.set.insert(key, alarm);
        key
    }

    pub(super) fn remove(&mut self, key: TimerKey) {
        self.set.remove(&key);
    }

    /// The nearest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes one alarm whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Alarm> {
        let entry = self.set.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
