//! What happened at the seam: a hash over every event, and counts per host.
//!
//! Two runs of one seed must have equal hashes; a difference means that something asked the real
//! world. The counts are exact, so a budget on them can fail a build at +1.

use std::fmt;

/// What an [`Event`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A task was polled; object: its number.
    Run,
    /// The clock jumped; value: nanoseconds.
    Jump,
    /// The wall clock stepped; value: its new offset in milliseconds.
    Step,
    /// A task was started; object: its number.
    Spawn,
    /// A connection was asked for; object: the link.
    Connect,
    /// A connection was handed to its acceptor; object: the link.
    Accept,
    /// Bytes were sent; object: the link, value: their sum.
    Send,
    /// Bytes were received; object: the link, value: their sum.
    Receive,
    /// An end of a link was closed; object: the link.
    Close,
    /// A link was reset; object: the link.
    Reset,
    /// A link went silent; object: the link.
    Silence,
    /// A write was submitted; object: the operation, value: the sum of its bytes.
    Write,
    /// A write, create, rename or remove took effect; object: the operation, value: 1 on success.
    Done,
    /// A read was answered; object: the file, value: from the place and the length.
    Read,
    /// A file was made, renamed or removed; object: the operation, value: a sum of the names.
    Name,
    /// A host was killed; value: 1 when its power failed.
    Kill,
    /// A host was started.
    Start,
    /// Random bytes were handed out; value: their sum.
    Random,
    /// A note by the test; object and value: as it likes.
    Note,
    /// A datagram was sent, or taken by whom it was for; object: the port there, value: its sum.
    Datagram,
}

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, in nanoseconds of the virtual clock.
    pub at_ns: u64,
    /// What.
    pub what: What,
    /// On which host (its index), or whose.
    pub host: usize,
    /// The number of the object.
    pub object: u64,
    /// See [`What`].
    pub value: u64,
}

type Observer = Box<dyn FnMut(&Event)>;

/// The events so far, as a hash.
pub(super) struct Trace {
    hash: u64,
    pub(super) events: u64,
    pub(super) observer: Option<Observer>,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Self {
        Self { hash: mix(0x5eed, seed), events: 0, observer: None }
    }

    pub(super) fn note(&mut self, event: Event) {
        self.events += 1;
        for part in
            [event.at_ns, event.what as u64 | ((event.host as u64) << 8), event.object, event.value]
        {
            self.hash = mix(self.hash, part);
        }
        if let Some(observer) = &mut self.observer {
            observer(&event);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

fn mix(hash: u64, part: u64) -> u64 {
    let x = (hash.rotate_left(23) ^ part).wrapping_mul(0x9fb2_1c65_1e98_df25);
    x ^ (x >> 32)
}

/// A sum of `bytes` that changes when any of them does.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    // Four lanes, because each step waits for the multiplication before it.
    let mut lanes = [1, 2, 3, 4];
    let (groups, rest) = bytes.as_chunks::<32>();
    for group in groups {
        let (words, _) = group.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut hash = mix(0x5eed, bytes.len() as u64);
    for lane in lanes {
        hash = mix(hash, lane);
    }
    for byte in rest {
        hash = mix(hash, u64::from(*byte));
    }
    hash
}

/// How often one host crossed the seam. All counts begin at 0 and only rise.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepts: u64,
    /// Calls of `send` with at least one byte.
    pub sends: u64,
    /// Bytes given to `send`.
    pub sent_bytes: u64,
    /// Calls of `fill` that brought bytes.
    pub receives: u64,
    /// Bytes that `fill` brought.
    pub received_bytes: u64,
    /// Calls of `write_durable`: each is one sync.
    pub writes: u64,
    /// Bytes given to `write_durable`, padding included.
    pub written_bytes: u64,
    /// Calls of `read`.
    pub reads: u64,
    /// Bytes that `read` returned.
    pub read_bytes: u64,
    /// Files made, renamed and removed.
    pub names: u64,
    /// Tasks started.
    pub spawns: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Buffers taken from the pool and not returned by `recycle` or by being sent.
    pub buffers_out: u64,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepts {} sends {} ({} bytes) receives {} ({} bytes) writes {} ({} bytes) \
             reads {} ({} bytes) names {} spawns {} polls {} buffers {}",
            self.accepts,
            self.sends,
            self.sent_bytes,
            self.receives,
            self.received_bytes,
            self.writes,
            self.written_bytes,
            self.reads,
            self.read_bytes,
            self.names,
            self.spawns,
            self.polls,
            self.buffers_out,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_see_every_byte_and_the_length() {
        let bytes = [1u8; 77];
        for place in 0..bytes.len() {
            let mut other = bytes;
            other[place] = 2;
            assert_ne!(sum(&bytes), sum(&other));
        }
        assert_ne!(sum(&[0; 8]), sum(&[0; 9]));
    }
}
