//! Simulated links: two bounded pipes each, with latency, short reads, resets and silence.
//!
//! A byte travels: buffer under way (at most one per direction) → pipe (flying, then arrived;
//! bounded together) → the reader's window (bounded by `WINDOW_BYTES_MAX`). A peer that does not
//! read fills the pipe, and then `send` blocks. Order is kept always, as TCP does.
//!
//! Ends: `close` (and a drop) sends what is in the pipe and then the end of the stream; when bytes
//! have arrived that nobody read, it resets instead, as Linux does. After a reset the other side
//! may or may not still read what had arrived. A silent link swallows everything for ever.

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::options::NetOptions;
use super::trace::{What, sum};
use super::{Alarm, Core, Crash, Due, Shared};
use crate::{Conn, Instant, IoError, IoKind, WINDOW_BYTES_MAX};

#[derive(Default)]
pub(super) struct Net {
    pub(super) links: Vec<Link>,
    pub(super) listeners: BTreeMap<SocketAddr, Vec<Port>>,
    pub(super) listeners_made: u64,
    pub(super) ports_used: u16,
    buffers_made: u64,
}

/// One listener at an address.
pub(super) struct Port {
    pub(super) id: u64,
    pub(super) backlog: VecDeque<usize>,
    pub(super) waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Reset,
    Silence,
}

pub(super) struct Link {
    /// Side 0 connected, side 1 accepted.
    ends: [End; 2],
    /// `pipes[s]` carries what side `s` sends.
    pipes: [Pipe; 2],
    options: NetOptions,
    /// What happens after this many bytes, counted over both directions.
    doom: Option<(u64, Fate)>,
    moved: u64,
    silent: bool,
    /// A fault of the world has struck it.
    faulted: bool,
}

struct End {
    host: usize,
    address: SocketAddr,
    /// Whether its `SimConn` still exists (or waits for its acceptor).
    open: bool,
    /// Whether it has learned of a reset.
    reset: bool,
}

pub(super) enum Flying {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

#[derive(Default)]
struct Pipe {
    flying: VecDeque<Flying>,
    arrived: VecDeque<u8>,
    flying_bytes: usize,
    bytes_max: usize,
    last_ns: u64,
    fin_wanted: bool,
    fin_sent: bool,
    fin_arrived: bool,
    under_way: Option<UnderWay>,
    /// The sender's error, for good.
    failed: Option<IoKind>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct UnderWay {
    id: u64,
    bytes: Vec<u8>,
    sent: usize,
    late: Option<super::DueKey>,
}

impl Pipe {
    fn room(&self) -> usize {
        self.bytes_max - (self.flying_bytes + self.arrived.len())
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Core {
    pub(super) fn open_link(
        &mut self,
        from: (usize, SocketAddr),
        to: (usize, SocketAddr),
        options: NetOptions,
    ) -> usize {
        let doom = if self.random.chance(options.resets) {
            Some((self.random.within(options.doom_bytes), Fate::Reset))
        } else if self.random.chance(options.black_holes) {
            Some((self.random.within(options.doom_bytes), Fate::Silence))
        } else {
            None
        };
        let end = |(host, address)| End { host, address, open: true, reset: false };
        let pipes = [(); 2].map(|()| Pipe {
            bytes_max: self.random.within(options.buffer_bytes).max(1) as usize,
            ..Pipe::default()
        });
        let ends = [end(from), end(to)];
        let link = Link { ends, pipes, options, doom, moved: 0, silent: false, faulted: false };
        self.net.links.push(link);
        self.net.links.len() - 1
    }

    /// Puts `what` on its way from `side`, not to arrive before what is on its way already.
    pub(super) fn fly(&mut self, link: usize, side: usize, what: Flying) {
        let slot = &mut self.net.links[link];
        let latency = self.random.within(slot.options.latency_ns);
        let pipe = &mut slot.pipes[side];
        let at = pipe.last_ns.max(self.now_ns + latency);
        pipe.last_ns = at;
        if let Flying::Bytes(bytes) = &what {
            pipe.flying_bytes += bytes.len();
        }
        pipe.flying.push_back(what);
        self.set_timer(at, Due::Arrive { link, side });
    }

    /// The next thing from `side` arrives at the other end.
    pub(super) fn arrive(&mut self, link: usize, side: usize) {
        let slot = &mut self.net.links[link];
        // After a reset nothing arrives any more, not even what was sent before the news.
        if slot.silent || slot.ends[1 - side].reset {
            return;
        }
        let pipe = &mut slot.pipes[side];
        match pipe.flying.pop_front() {
            None => return,
            Some(Flying::Bytes(bytes)) => {
                pipe.flying_bytes -= bytes.len();
                if slot.ends[1 - side].open {
                    pipe.arrived.extend(&bytes);
                } else if !slot.ends[side].reset {
                    // Nobody is there to read: the sender is told.
                    self.fly(link, 1 - side, Flying::Reset);
                    return;
                }
            }
            Some(Flying::Fin) => pipe.fin_arrived = true,
            Some(Flying::Reset) => {
                self.see_reset(link, 1 - side);
                return;
            }
        }
        wake(&mut self.net.links[link].pipes[side].reader);
    }

    /// `side` learns that the link was reset; what has arrived there may be lost or not.
    fn see_reset(&mut self, link: usize, side: usize) {
        let lost = self.random.coin();
        self.note(What::Reset, self.net.links[link].ends[side].host, link as u64, u64::from(lost));
        let slot = &mut self.net.links[link];
        slot.ends[side].reset = true;
        if lost {
            slot.pipes[1 - side].arrived.clear();
        }
        slot.pipes[1 - side].flying.clear();
        slot.pipes[1 - side].flying_bytes = 0;
        wake(&mut slot.pipes[1 - side].reader);
        let rest = slot.pipes[side].under_way.take();
        wake(&mut slot.pipes[side].writer);
        self.return_buffer(link, side, rest);
    }

    fn return_buffer(&mut self, link: usize, side: usize, buffer: Option<UnderWay>) {
        if let Some(UnderWay { bytes, late, .. }) = buffer {
            late.map(|key| self.timers.remove(&key));
            self.give_buffer(self.net.links[link].ends[side].host, bytes);
        }
    }

    /// Moves as much of the buffer under way into the pipe as fits, and applies the link's doom.
    fn pump(&mut self, link: usize, side: usize) {
        loop {
            let slot = &mut self.net.links[link];
            let (pipe, pieces) = (&mut slot.pipes[side], slot.options.pieces);
            let room = pipe.room();
            let Some(under_way) = &mut pipe.under_way else { return };
            let rest = &under_way.bytes[under_way.sent..];
            let mut count = rest.len().min(room);
            if rest.is_empty() {
                let done = pipe.under_way.take();
                wake(&mut pipe.writer);
                self.return_buffer(link, side, done);
                return self.finish(link, side);
            }
            if count == 0 {
                return;
            }
            if count > 1 && self.random.chance(pieces) {
                count = 1 + self.random.index(count - 1);
            }
            if let Some((at, _)) = slot.doom {
                count = count.min(usize::try_from(at - slot.moved).unwrap_or(usize::MAX));
            }
            let piece = rest[..count].to_vec();
            under_way.sent += count;
            slot.moved += count as u64;
            let doomed = slot.doom.filter(|(at, _)| slot.moved >= *at).map(|(_, fate)| fate);
            if !piece.is_empty() {
                self.fly(link, side, Flying::Bytes(piece));
            }
            if let Some(fate) = doomed {
                self.net.links[link].doom = None;
                self.meet(link, fate);
                if fate == Fate::Reset {
                    return;
                }
            }
        }
    }

    fn meet(&mut self, link: usize, fate: Fate) {
        self.net.links[link].faulted = true;
        match fate {
            Fate::Silence => {
                self.note(What::Silence, 0, link as u64, 0);
                self.net.links[link].silent = true;
            }
            Fate::Reset => {
                for side in [0, 1] {
                    self.fly(link, side, Flying::Reset);
                }
            }
        }
    }

    /// The buffer that `side` sends was not taken in time: its sender has failed.
    pub(super) fn send_late(&mut self, link: usize, side: usize, buffer: u64) {
        let pipe = &mut self.net.links[link].pipes[side];
        if pipe.under_way.as_ref().is_some_and(|under_way| under_way.id == buffer) {
            let rest = pipe.under_way.take();
            pipe.failed = Some(IoKind::TimedOut);
            wake(&mut pipe.writer);
            self.return_buffer(link, side, rest);
        }
    }

    /// Sends the end of the stream when that is wanted and nothing is under way.
    fn finish(&mut self, link: usize, side: usize) {
        let pipe = &mut self.net.links[link].pipes[side];
        if pipe.fin_wanted && !pipe.fin_sent && pipe.under_way.is_none() {
            pipe.fin_sent = true;
            self.fly(link, side, Flying::Fin);
        }
    }

    /// Closes both directions of `side`'s end.
    pub(super) fn shut(&mut self, link: usize, side: usize) {
        let slot = &mut self.net.links[link];
        if !slot.ends[side].open {
            return;
        }
        slot.ends[side].open = false;
        let host = slot.ends[side].host;
        let unread = !slot.pipes[1 - side].arrived.is_empty();
        slot.pipes[1 - side].arrived = VecDeque::new();
        let rest = slot.pipes[side].under_way.take();
        let broken = rest.is_some() || unread;
        self.note(What::Close, host, link as u64, u64::from(broken));
        self.return_buffer(link, side, rest);
        if broken && !self.net.links[link].ends[side].reset {
            self.fly(link, side, Flying::Reset);
        } else {
            self.net.links[link].pipes[side].fin_wanted = true;
            self.finish(link, side);
        }
        // There is room now for what the other side has under way; it learns the truth by that.
        self.pump(link, 1 - side);
    }

    /// Cuts the links of a host that dies. The ends are closed when its tasks are dropped.
    pub(super) fn net_kill(&mut self, host: usize, crash: Crash) {
        for link in 0..self.net.links.len() {
            let slot = &self.net.links[link];
            let concerned = slot.ends.iter().any(|end| end.host == host && end.open);
            if concerned && crash == Crash::Power && self.random.coin() {
                self.meet(link, Fate::Silence);
            }
        }
    }

    fn poll_fill(
        &mut self,
        (link, side): (usize, usize),
        window: &mut Vec<u8>,
        room: usize,
    ) -> Poll<Result<usize, IoKind>> {
        let slot = &mut self.net.links[link];
        let (host, pipe) = (slot.ends[side].host, &mut slot.pipes[1 - side]);
        let here = pipe.arrived.len().min(room);
        if here == 0 {
            return if slot.ends[side].reset {
                Poll::Ready(Err(IoKind::Closed))
            } else if pipe.fin_arrived {
                Poll::Ready(Ok(0))
            } else {
                Poll::Pending
            };
        }
        let mut count = here;
        if self.random.chance(slot.options.short_reads) {
            let most = slot.options.short_read_bytes.min(here as u64);
            count = self.random.within((1, most.max(1))) as usize;
        }
        let start = window.len();
        let (first, second) = pipe.arrived.as_slices();
        let split = first.len().min(count);
        window.extend_from_slice(&first[..split]);
        window.extend_from_slice(&second[..count - split]);
        pipe.arrived.drain(..count);
        if count > 1 && self.random.chance(self.options.bugs.lost_bytes) {
            window.pop();
            count -= 1;
        }
        let counts = &mut self.hosts[host].counts;
        counts.receives += 1;
        counts.received_bytes += count as u64;
        self.note(What::Receive, host, link as u64, sum(&window[start..]));
        self.pump(link, 1 - side);
        Poll::Ready(Ok(count))
    }

    /// Puts `bytes` under way, unless another buffer is.
    fn poll_send(
        &mut self,
        (link, side): (usize, usize),
        bytes: &mut Option<Vec<u8>>,
        deadline: Instant,
    ) -> Poll<Result<(), IoKind>> {
        let slot = &mut self.net.links[link];
        let (host, pipe) = (slot.ends[side].host, &mut slot.pipes[side]);
        if slot.ends[side].reset || pipe.fin_wanted {
            return Poll::Ready(Err(IoKind::Closed));
        }
        if let Some(kind) = pipe.failed {
            return Poll::Ready(Err(kind));
        }
        if pipe.under_way.is_some() {
            return Poll::Pending;
        }
        let Some(mut buffer) = bytes.take() else { return Poll::Ready(Ok(())) };
        if side == 1 && self.random.chance(self.options.bugs.swapped_lines) {
            swap_lines(&mut buffer);
        }
        let counts = &mut self.hosts[host].counts;
        counts.sends += 1;
        counts.sent_bytes += buffer.len() as u64;
        self.note(What::Send, host, link as u64, sum(&buffer));
        self.net.buffers_made += 1;
        let id = self.net.buffers_made;
        let late = (deadline != Instant::FAR)
            .then(|| self.set_timer(deadline.ns(), Due::SendLate { link, side, buffer: id }));
        let under_way = UnderWay { id, bytes: buffer, sent: 0, late };
        self.net.links[link].pipes[side].under_way = Some(under_way);
        self.pump(link, side);
        Poll::Ready(Ok(()))
    }
}

/// The planted bug: the first two lines change places.
fn swap_lines(buffer: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> =
        buffer.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.len() > 1 {
        lines.swap(0, 1);
        *buffer = lines.concat();
    }
}

/// A simulated connection. Dropped without `close`, it ends as when a process closes its socket.
pub struct SimConn {
    core: Shared,
    link: usize,
    side: usize,
    window: Vec<u8>,
    start: usize,
    object: String,
}

impl SimConn {
    pub(super) fn new(core: &Shared, link: usize, side: usize) -> Self {
        let peer = core.borrow().net.links[link].ends[1 - side].address;
        let object = peer.to_string();
        Self { core: Rc::clone(core), link, side, window: Vec::new(), start: 0, object }
    }

    /// Sends `bytes` after all that is on its way, without a bound and without waiting: a client of
    /// the test that has no send buffer of its own to fill.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut core = self.core.borrow_mut();
        let Core { net, .. } = &mut *core;
        let slot = &mut net.links[self.link];
        let (reset, pipe) = (slot.ends[self.side].reset, &mut slot.pipes[self.side]);
        if reset || pipe.fin_wanted {
            return;
        }
        net.buffers_made += 1;
        let id = net.buffers_made;
        let fresh = || UnderWay { id, bytes: Vec::new(), sent: 0, late: None };
        pipe.under_way.get_or_insert_with(fresh).bytes.extend_from_slice(bytes);
        let host = slot.ends[self.side].host;
        core.note(What::Send, host, self.link as u64, sum(bytes));
        core.pump(self.link, self.side);
    }

    /// Whether the other side still holds its end.
    #[must_use]
    pub fn peer_open(&self) -> bool {
        self.core.borrow().net.links[self.link].ends[1 - self.side].open
    }

    /// Ends the sending direction only: the other side reads what was sent, then the end.
    pub fn finish(&mut self) {
        let mut core = self.core.borrow_mut();
        core.net.links[self.link].pipes[self.side].fin_wanted = true;
        core.finish(self.link, self.side);
    }

    /// Resets the link: both sides see an error.
    pub fn abort(self) {
        let mut core = self.core.borrow_mut();
        if !core.net.links[self.link].ends[self.side].reset {
            core.fly(self.link, self.side, Flying::Reset);
        }
    }

    /// From now on nothing passes in either direction.
    pub fn silence(&mut self) {
        self.core.borrow_mut().meet(self.link, Fate::Silence);
    }

    /// Bytes that the other side has sent and that wait in the pipe.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.core.borrow().net.links[self.link].pipes[1 - self.side].arrived.len()
    }

    /// Whether the world has reset or silenced this link, so that its dialogue proves nothing. A
    /// reset that an end has brought about itself does not count.
    #[must_use]
    pub fn faulted(&self) -> bool {
        self.core.borrow().net.links[self.link].faulted
    }

    fn end(&self) -> (usize, usize) {
        (self.link, self.side)
    }

    fn fail(&self, kind: IoKind, operation: &'static str) -> IoError {
        IoError::new(kind, operation, self.object.as_str())
    }
}

impl core::fmt::Debug for SimConn {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SimConn(link {}, side {}, to {})", self.link, self.side, self.object)
    }
}

impl Drop for SimConn {
    fn drop(&mut self) {
        self.core.borrow_mut().shut(self.link, self.side);
    }
}

impl Conn for SimConn {
    fn peer(&self) -> SocketAddr {
        self.core.borrow().net.links[self.link].ends[1 - self.side].address
    }

    fn local(&self) -> SocketAddr {
        self.core.borrow().net.links[self.link].ends[self.side].address
    }

    fn filled(&self) -> &[u8] {
        &self.window[self.start..]
    }

    fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.filled().len(), "only what is filled can be consumed");
        self.start += bytes;
    }

    async fn fill(&mut self, deadline: Instant) -> Result<usize, IoError> {
        self.window.drain(..self.start);
        self.start = 0;
        let room = WINDOW_BYTES_MAX - self.window.len();
        assert!(room > 0, "a session with a full window must consume before it waits for more");
        let core = Rc::clone(&self.core);
        let mut alarm = Alarm::new(&core);
        let end = self.end();
        let filled = core::future::poll_fn(|cx| {
            let mut core = core.borrow_mut();
            if let Poll::Ready(result) = core.poll_fill(end, &mut self.window, room) {
                return Poll::Ready(result);
            }
            if core.now_ns >= deadline.ns() {
                return Poll::Ready(Err(IoKind::TimedOut));
            }
            core.net.links[end.0].pipes[1 - end.1].reader = Some(cx.waker().clone());
            drop(core);
            alarm.set(deadline, cx.waker());
            Poll::Pending
        })
        .await;
        filled.map_err(|kind| self.fail(kind, "receive from"))
    }

    async fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError> {
        let (core, end) = (Rc::clone(&self.core), self.end());
        let mut alarm = Alarm::new(&core);
        let empty = bytes.is_empty();
        let mut bytes = Some(bytes);
        let sent = core::future::poll_fn(|cx| {
            let mut core = core.borrow_mut();
            if empty {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(result) = core.poll_send(end, &mut bytes, deadline) {
                return Poll::Ready(result);
            }
            if core.now_ns >= deadline.ns() {
                return Poll::Ready(Err(IoKind::TimedOut));
            }
            core.net.links[end.0].pipes[end.1].writer = Some(cx.waker().clone());
            drop(core);
            alarm.set(deadline, cx.waker());
            Poll::Pending
        })
        .await;
        if let Some(unsent) = bytes {
            let mut core = core.borrow_mut();
            let host = core.net.links[end.0].ends[end.1].host;
            core.give_buffer(host, unsent);
        }
        sent.map_err(|kind| self.fail(kind, "send to"))
    }

    async fn close(&mut self, deadline: Instant) {
        let (core, (link, side)) = (Rc::clone(&self.core), self.end());
        let mut alarm = Alarm::new(&core);
        core::future::poll_fn(|cx| {
            let mut core = core.borrow_mut();
            let late = core.now_ns >= deadline.ns();
            let pipe = &mut core.net.links[link].pipes[side];
            if late || pipe.under_way.is_none() {
                return Poll::Ready(());
            }
            pipe.writer = Some(cx.waker().clone());
            drop(core);
            alarm.set(deadline, cx.waker());
            Poll::Pending
        })
        .await;
        core.borrow_mut().shut(link, side);
    }
}
