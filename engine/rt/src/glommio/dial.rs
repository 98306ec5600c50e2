//! Connections that a shard opens, on its ring.
//!
//! One operation each. Whoever stops waiting, because the deadline has come or because its task was
//! dropped, cancels the operation, and the socket is closed behind it, never before: an entry of
//! the ring names a socket by a number that somebody else might have by then.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::task::{Context, Poll, Waker};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use fsmtp_proto::time::Instant;
use socket2::{Domain, Socket, Type};

use super::net::set_waker;
use super::timer::{Alarm, TimerKey};
use super::{GlommioConn, GlommioRuntime, Shard, Target, wake};
use crate::sys::ring::{Completion, OpId};
use crate::{Dial, IoError, IoKind};

/// `EADDRNOTAVAIL`: of a connect, that all source ports are taken.
const NO_PORT: i32 = libc::EADDRNOTAVAIL;

/// What the ring knows of a connection that is being opened.
#[derive(Default)]
pub(super) struct DialState {
    result: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
}

impl DialState {
    pub(super) fn connected(&self, completion: &Completion) {
        self.result.set(Some(completion.result));
        wake(&self.waker);
    }
}

/// A connect under way.
struct Dialing<'a> {
    shard: &'a Rc<Shard>,
    state: Rc<DialState>,
    op: OpId,
    socket: Option<OwnedFd>,
    timer: Option<TimerKey>,
}

impl Dialing<'_> {
    fn poll(&mut self, cx: &Context<'_>, deadline: Instant) -> Poll<Result<(), IoKind>> {
        if let Some(result) = self.state.result.get() {
            return Poll::Ready(if result < 0 { Err(IoKind::Failed) } else { Ok(()) });
        }
        if self.shard.now.get() >= deadline {
            return Poll::Ready(Err(IoKind::TimedOut));
        }
        set_waker(&self.state.waker, cx);
        let mut timers = self.shard.timers.borrow_mut();
        if let Some(old) = self.timer.take() {
            timers.remove(old);
        }
        if deadline < Instant::FAR {
            self.timer = Some(timers.set(deadline, Alarm::Wake(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.shard.timers.borrow_mut().remove(timer);
        }
        let mut ring = self.shard.ring.borrow_mut();
        if self.state.result.get().is_none() {
            ring.cancel(self.op);
        }
        if let Some(socket) = self.socket.take() {
            ring.close(socket);
        }
    }
}

/// A socket that is bound where it shall come from.
fn socket(from: Option<IpAddr>, to: SocketAddr) -> std::io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // Commands are whole when they are sent.
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        // A port that a connection of ours has left a moment ago is as good as another.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket.into())
}

impl Dial for GlommioRuntime {
    async fn dial(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        deadline: Instant,
    ) -> Result<GlommioConn, IoError> {
        let fail = |errno: i32| {
            let mut error = IoError::from_errno(errno, "connect to", to.to_string());
            if errno == NO_PORT {
                error.kind = IoKind::Exhausted;
            }
            error
        };
        let socket =
            socket(from, to).map_err(|e| fail(e.raw_os_error().unwrap_or(libc::EINVAL)))?;
        let op = self.shard.ring.borrow_mut().connect(socket.as_fd(), to.into());
        let state = Rc::new(DialState::default());
        self.shard.expect(op, Target::Dial(Rc::clone(&state)));
        let mut dialing =
            Dialing { shard: &self.shard, state, op, socket: Some(socket), timer: None };
        let done = poll_fn(|cx| dialing.poll(cx, deadline)).await;
        let errno = -dialing.state.result.get().unwrap_or(0);
        match done {
            Ok(()) => {}
            Err(IoKind::TimedOut) => {
                return Err(IoError::new(IoKind::TimedOut, "connect to", to.to_string()));
            }
            Err(_) => return Err(fail(errno)),
        }
        let socket = dialing.socket.take().ok_or_else(|| fail(libc::EBADF))?;
        let local = rustix::net::getsockname(&socket).map_err(|e| fail(e.raw_os_error()))?;
        let local = local.try_into().map_err(|_| fail(libc::EAFNOSUPPORT))?;
        Ok(GlommioConn::over(&self.shard, socket, to, local))
    }
}
