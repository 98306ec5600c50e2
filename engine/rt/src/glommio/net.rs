//! Sockets on the shard's ring.
//!
//! A connection asks for bytes only when its session wants some, so nobody can make it hold more
//! than one receive buffer; and it holds none while it waits: the rest of a cut line is parked on
//! the heap and put in front of the next piece. At most one send is under way. A listener holds at
//! most [`ACCEPTS_MAX`] connections that nobody has taken; the others wait in the kernel.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::SocketAddr;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use fsmtp_proto::time::Instant;
use rustix::net::SendFlags;

use super::timer::{Alarm, TimerKey};
use super::{Shard, Target, wake};
use crate::sys::buffers::Lease;
use crate::sys::ring::{Completion, OpId};
use crate::{Conn, IoError, IoKind, Listener};

/// Connections that the kernel keeps ready for us.
pub const BACKLOG: i32 = 4096;
/// Connections that a listener accepts ahead of who takes them; each is a descriptor. Arbitrary: so
/// many can be taken in one turn of the shard. WHY: they are asked for one by one, because a
/// multishot accept empties the kernel's whole backlog before it can be told to stop.
pub const ACCEPTS_MAX: usize = 16;
/// How long a closed connection may take to get its last reply off.
const LINGER: Duration = Duration::from_secs(30);
/// How long taking connections pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the ring knows of a listening socket.
pub(super) struct ListenerState {
    socket: OwnedFd,
    /// Together with `ops` at most [`ACCEPTS_MAX`].
    accepted: RefCell<VecDeque<OwnedFd>>,
    /// The last error that nobody has heard of.
    errno: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
    ops: RefCell<Vec<OpId>>,
}

impl ListenerState {
    pub(super) fn accepted(&self, completion: Completion) {
        self.ops.borrow_mut().retain(|op| *op != completion.op);
        match completion.socket {
            Some(socket) => self.accepted.borrow_mut().push_back(socket),
            None => self.errno.set(Some(-completion.result)),
        }
        wake(&self.waker);
    }
}

/// A listening socket of one shard.
pub struct GlommioListener {
    shard: Rc<Shard>,
    state: Rc<ListenerState>,
    address: SocketAddr,
    any: bool,
}

impl GlommioListener {
    pub(super) fn bind(shard: &Rc<Shard>, address: SocketAddr) -> Result<Self, IoError> {
        let failed = |e: std::io::Error| IoError::from_io(&e, "listen on", address.to_string());
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).map_err(failed)?;
        socket.set_reuse_address(true).map_err(failed)?;
        socket.set_reuse_port(true).map_err(failed)?;
        // Accepted connections inherit it: replies are whole when they are sent.
        socket.set_tcp_nodelay(true).map_err(failed)?;
        socket.bind(&address.into()).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
        let state = ListenerState {
            socket: socket.into(),
            accepted: RefCell::default(),
            errno: Cell::new(None),
            waker: RefCell::default(),
            ops: RefCell::default(),
        };
        let any = bound.ip().is_unspecified();
        Ok(Self { shard: Rc::clone(shard), state: Rc::new(state), address: bound, any })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were accepted and not taken yet.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.state.accepted.borrow().len()
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<Result<OwnedFd, i32>> {
        if let Some(socket) = self.state.accepted.borrow_mut().pop_front() {
            return Poll::Ready(Ok(socket));
        }
        if let Some(errno) = self.state.errno.take() {
            return Poll::Ready(Err(errno));
        }
        let mut ops = self.state.ops.borrow_mut();
        while ops.len() < ACCEPTS_MAX {
            let op = self.shard.ring.borrow_mut().accept(self.state.socket.as_fd());
            self.shard.expect(op, Target::Accept(Rc::clone(&self.state)));
            ops.push(op);
        }
        set_waker(&self.state.waker, cx);
        Poll::Pending
    }
}

impl core::fmt::Debug for GlommioListener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GlommioListener({})", self.address)
    }
}

impl Drop for GlommioListener {
    fn drop(&mut self) {
        for op in self.state.ops.borrow().iter() {
            self.shard.ring.borrow_mut().cancel(*op);
        }
    }
}

impl Listener for GlommioListener {
    type Conn = GlommioConn;

    async fn accept(&mut self) -> Result<GlommioConn, IoError> {
        loop {
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(socket) => {
                    if let Some(conn) = GlommioConn::new(&self.shard, socket, self) {
                        return Ok(conn);
                    }
                    // It was gone before we looked; nobody is there to talk to.
                }
                Err(errno) => {
                    let error = IoError::from_errno(errno, "accept on", self.address.to_string());
                    if error.kind == IoKind::Exhausted {
                        let rt = super::GlommioRuntime { shard: Rc::clone(&self.shard) };
                        crate::Runtime::sleep_until(&rt, self.shard.now.get() + ACCEPT_PAUSE).await;
                    }
                    return Err(error);
                }
            }
        }
    }
}

#[derive(Default)]
enum Incoming {
    #[default]
    Idle,
    Wanted(OpId),
    Starved,
    Done(Completion),
}

/// What the ring knows of a connection.
pub(super) struct ConnState {
    socket: RefCell<Option<OwnedFd>>,
    incoming: RefCell<Incoming>,
    sending: Cell<Option<OpId>>,
    send_errno: Cell<i32>,
    waker: RefCell<Option<Waker>>,
    deadline: Cell<Instant>,
    timer: Cell<Option<TimerKey>>,
    late: Cell<bool>,
}

impl ConnState {
    pub(super) fn received(&self, completion: Completion) {
        *self.incoming.borrow_mut() = Incoming::Done(completion);
        wake(&self.waker);
    }

    /// The receive found no buffer; it is started again when there is one.
    pub(super) fn starve(&self) {
        *self.incoming.borrow_mut() = Incoming::Starved;
    }

    /// The send is done. A closed connection hands back its last timer, to be removed.
    pub(super) fn sent(&self, result: i32) -> Option<TimerKey> {
        self.sending.set(None);
        if result < 0 {
            self.send_errno.set(-result);
        }
        wake(&self.waker);
        if self.socket.borrow().is_none() { self.timer.take() } else { None }
    }

    pub(super) fn is_sending(&self, op: OpId) -> bool {
        self.sending.get() == Some(op)
    }
}

/// A connection's timer has run: its deadline may have moved since it was set.
pub(super) fn deadline_passed(shard: &Shard, conn: &Rc<ConnState>, now: Instant) {
    conn.timer.set(None);
    let deadline = conn.deadline.get();
    if deadline <= now {
        conn.late.set(true);
        wake(&conn.waker);
    } else if deadline < Instant::FAR {
        let key = shard.timers.borrow_mut().set(deadline, Alarm::Conn(Rc::clone(conn)));
        conn.timer.set(Some(key));
    }
}

/// Asks the ring for bytes.
pub(super) fn start_receive(shard: &Shard, conn: &Rc<ConnState>, later: bool) {
    let socket = conn.socket.borrow();
    let Some(socket) = socket.as_ref() else { return };
    let op = shard.ring.borrow_mut().receive(socket.as_fd(), later);
    *conn.incoming.borrow_mut() = Incoming::Wanted(op);
    shard.expect(op, Target::Receive(Rc::clone(conn)));
}

/// Where a connection's unread bytes are.
enum Window {
    /// Nothing is unread, or little: the rest of a line, kept while the connection waits.
    Parked(Vec<u8>),
    /// In a buffer of the pool.
    Lease(Lease),
    /// On the heap, from `start`: more than fits in front of a buffer.
    Heap { bytes: Vec<u8>, start: usize },
}

/// A connection, accepted or opened.
pub struct GlommioConn {
    shard: Rc<Shard>,
    state: Rc<ConnState>,
    window: Window,
    peer: SocketAddr,
    local: SocketAddr,
    more_waits: bool,
    /// The other side did not read in time; nothing more is owed to it.
    stuck: bool,
}

impl GlommioConn {
    fn new(shard: &Rc<Shard>, socket: OwnedFd, listener: &GlommioListener) -> Option<Self> {
        let peer = rustix::net::getpeername(&socket).ok().flatten()?.try_into().ok()?;
        let local = if listener.any {
            rustix::net::getsockname(&socket).ok()?.try_into().ok()?
        } else {
            listener.address
        };
        Some(Self::over(shard, socket, peer, local))
    }

    /// A connection over a socket that is connected.
    pub(super) fn over(
        shard: &Rc<Shard>,
        socket: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let state = ConnState {
            socket: RefCell::new(Some(socket)),
            incoming: RefCell::default(),
            sending: Cell::new(None),
            send_errno: Cell::new(0),
            waker: RefCell::default(),
            deadline: Cell::new(Instant::FAR),
            timer: Cell::new(None),
            late: Cell::new(false),
        };
        let window = Window::Parked(Vec::new());
        Self {
            shard: Rc::clone(shard),
            state: Rc::new(state),
            window,
            peer,
            local,
            more_waits: false,
            stuck: false,
        }
    }

    fn error(&self, kind: IoKind, operation: &'static str) -> IoError {
        IoError::new(kind, operation, self.peer.to_string())
    }

    /// Gives `bytes` to the system, as much as it takes now.
    pub(super) fn send_now(&self, bytes: &[u8]) -> Result<usize, i32> {
        let socket = self.state.socket.borrow();
        let socket = socket.as_ref().ok_or(libc::EPIPE)?;
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.raw_os_error()),
        }
    }

    /// Sets the deadline of a wait that begins.
    fn arm(&self, deadline: Instant) {
        self.state.late.set(false);
        self.state.deadline.set(deadline);
        if let Some(key) = self.state.timer.get() {
            if key.0 <= deadline {
                return; // it fires earlier and is set anew then
            }
            self.shard.timers.borrow_mut().remove(key);
        }
        let alarm = Alarm::Conn(Rc::clone(&self.state));
        self.state.timer.set(Some(self.shard.timers.borrow_mut().set(deadline, alarm)));
    }

    /// Gives the receive buffer back; what is unread moves to the heap.
    fn park(&mut self) {
        if let Window::Lease(lease) = &self.window {
            // copy: the rest of a line, or what was pipelined behind a blocked reply
            self.window = Window::Parked(lease.bytes().to_vec());
        }
    }

    /// Takes over the bytes that have arrived.
    fn take(&mut self, completion: Completion) -> Result<usize, IoError> {
        self.more_waits = completion.nonempty;
        if completion.result < 0 {
            return Err(IoError::from_errno(
                -completion.result,
                "receive from",
                self.peer.to_string(),
            ));
        }
        let Some(mut lease) = completion.lease else { return Ok(0) };
        let arrived = lease.bytes().len();
        let rest = self.filled();
        if rest.is_empty() || lease.put_back(rest) {
            self.window = Window::Lease(lease);
        } else {
            let mut bytes = Vec::with_capacity(rest.len() + arrived);
            bytes.extend_from_slice(rest);
            bytes.extend_from_slice(lease.bytes());
            self.window = Window::Heap { bytes, start: 0 };
        }
        Ok(arrived)
    }

    fn poll_fill(&mut self, cx: &Context<'_>) -> Poll<Result<usize, IoError>> {
        let incoming = core::mem::take(&mut *self.state.incoming.borrow_mut());
        match incoming {
            Incoming::Done(completion) => return Poll::Ready(self.take(completion)),
            Incoming::Idle => {
                if self.state.send_errno.get() != 0 {
                    return Poll::Ready(Err(self.error(IoKind::Closed, "send to")));
                }
                self.park();
                start_receive(&self.shard, &self.state, !self.more_waits);
            }
            waiting => *self.state.incoming.borrow_mut() = waiting,
        }
        if self.state.late.get() {
            return Poll::Ready(Err(self.error(IoKind::TimedOut, "receive from")));
        }
        set_waker(&self.state.waker, cx);
        Poll::Pending
    }

    fn poll_sent(&mut self, cx: &Context<'_>) -> Poll<Result<(), IoError>> {
        if self.state.sending.get().is_none() {
            let errno = self.state.send_errno.get();
            return Poll::Ready(if errno == 0 {
                Ok(())
            } else {
                Err(IoError::from_errno(errno, "send to", self.peer.to_string()))
            });
        }
        self.park();
        if self.state.late.get() {
            self.stuck = true;
            return Poll::Ready(Err(self.error(IoKind::TimedOut, "send to")));
        }
        set_waker(&self.state.waker, cx);
        Poll::Pending
    }

    async fn sent(&mut self, deadline: Instant) -> Result<(), IoError> {
        if self.state.sending.get().is_some() {
            self.arm(deadline);
        }
        poll_fn(|cx| self.poll_sent(cx)).await
    }
}

impl Conn for GlommioConn {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn filled(&self) -> &[u8] {
        match &self.window {
            Window::Parked(bytes) => bytes,
            Window::Lease(lease) => lease.bytes(),
            Window::Heap { bytes, start } => bytes.get(*start..).unwrap_or(&[]),
        }
    }

    fn consume(&mut self, bytes: usize) {
        let rest = self.filled().len();
        assert!(bytes <= rest, "more consumed than was filled");
        match &mut self.window {
            _ if bytes == rest => self.window = Window::Parked(Vec::new()),
            Window::Parked(parked) => drop(parked.drain(..bytes)),
            Window::Lease(lease) => lease.consume(bytes),
            Window::Heap { start, .. } => *start += bytes,
        }
    }

    async fn fill(&mut self, deadline: Instant) -> Result<usize, IoError> {
        self.arm(deadline);
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    async fn send(&mut self, mut bytes: Vec<u8>, deadline: Instant) -> Result<(), IoError> {
        self.sent(deadline).await?;
        if bytes.is_empty() {
            self.shard.recycle(bytes);
            return Ok(());
        }
        // A reply nearly always fits into the socket, and a send that is done at once is one that
        // nobody has to wait for: a ring's completion would end the shard's sleep.
        let sent = self.send_now(&bytes).map_err(|errno| {
            self.state.send_errno.set(errno);
            IoError::from_errno(errno, "send to", self.peer.to_string())
        })?;
        if sent == bytes.len() {
            self.shard.recycle(bytes);
            return Ok(());
        }
        bytes.drain(..sent);
        let socket = self.state.socket.borrow();
        let Some(socket) = socket.as_ref() else {
            return Err(self.error(IoKind::Closed, "send to"));
        };
        let op = self.shard.ring.borrow_mut().send(socket.as_fd(), bytes);
        self.state.sending.set(Some(op));
        self.shard.expect(op, Target::Send(Rc::clone(&self.state)));
        Ok(())
    }

    async fn close(&mut self, deadline: Instant) {
        // Bytes that nobody reads turn the close into a reset, which may overtake the last reply;
        // so a client that goes on talking is listened to until it is done or the time is up.
        while !self.filled().is_empty() || self.more_waits {
            let unread = self.filled().len();
            self.consume(unread);
            if self.sent(deadline).await.is_err() {
                break;
            }
            if let Some(socket) = self.state.socket.borrow().as_ref() {
                // Fails only when the other side is gone, and then the receive says so.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
            }
            match self.fill(deadline).await {
                Ok(bytes) if bytes > 0 => {}
                _ => break,
            }
        }
        self.hang_up();
    }
}

impl GlommioConn {
    /// Closes behind the send that may be under way; that one is ended after [`LINGER`].
    fn hang_up(&mut self) {
        if let Some(key) = self.state.timer.take() {
            self.shard.timers.borrow_mut().remove(key);
        }
        self.state.deadline.set(Instant::FAR);
        self.window = Window::Parked(Vec::new());
        let Some(socket) = self.state.socket.borrow_mut().take() else { return };
        let mut ring = self.shard.ring.borrow_mut();
        if let Incoming::Wanted(op) = *self.state.incoming.borrow() {
            ring.cancel(op);
        }
        if let (Some(op), true) = (self.state.sending.get(), self.stuck) {
            ring.cancel(op);
        }
        ring.close(socket);
        if let Some(op) = self.state.sending.get() {
            let at = self.shard.now.get() + LINGER;
            let alarm = Alarm::LastSend(Rc::clone(&self.state), op);
            let key = self.shard.timers.borrow_mut().set(at, alarm);
            self.state.timer.set(Some(key));
        }
    }
}

impl Drop for GlommioConn {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl core::fmt::Debug for GlommioConn {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GlommioConn({})", self.peer)
    }
}

pub(super) fn set_waker(cell: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = cell.borrow_mut();
    match waker.as_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}
