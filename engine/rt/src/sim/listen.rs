//! Simulated listeners, and how a connection comes to be: refused, waiting in a backlog, accepted.
//!
//! A connection is open for its client as soon as it is in the backlog, as with a kernel. A full
//! backlog lets the next one time out; an accept may fail and leave its connection waiting.

use core::net::{IpAddr, SocketAddr};
use core::task::Poll;
use std::collections::VecDeque;
use std::rc::Rc;

use super::net::{Flying, Port, SimConn, wake};
use super::options::NetOptions;
use super::trace::What;
use super::{Shared, SimRuntime};
use crate::{Dial, Instant, IoError, IoKind, Listener, Runtime};

/// A simulated listener. Its waiting connections are reset when it is dropped.
pub struct SimListener {
    core: Shared,
    host: usize,
    address: SocketAddr,
    id: u64,
}

impl SimListener {
    pub(super) fn new(rt: &SimRuntime, port: u16) -> Self {
        let address = rt.address(port);
        let mut core = rt.core.borrow_mut();
        core.net.listeners_made += 1;
        let id = core.net.listeners_made;
        let port = Port { id, backlog: VecDeque::new(), waker: None };
        core.net.listeners.entry(address).or_default().push(port);
        drop(core);
        Self { core: Rc::clone(&rt.core), host: rt.host, address, id }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl core::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SimListener({})", self.address)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        let Some(ports) = core.net.listeners.get_mut(&self.address) else { return };
        let Some(index) = ports.iter().position(|port| port.id == self.id) else { return };
        let port = ports.remove(index);
        if ports.is_empty() {
            core.net.listeners.remove(&self.address);
        }
        for link in port.backlog {
            core.fly(link, 1, Flying::Reset);
            core.shut(link, 1);
        }
    }
}

impl Listener for SimListener {
    type Conn = SimConn;

    async fn accept(&mut self) -> Result<SimConn, IoError> {
        let (address, id, host) = (self.address, self.id, self.host);
        let link = core::future::poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            let Some(ports) = core.net.listeners.get_mut(&address) else { return Poll::Pending };
            let Some(port) = ports.iter_mut().find(|port| port.id == id) else {
                return Poll::Pending;
            };
            if port.backlog.is_empty() {
                port.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // The connection stays in the backlog when the process has no descriptor for it.
            let errors = core.options.net.accept_errors;
            if core.random.chance(errors) {
                return Poll::Ready(Err(IoKind::Exhausted));
            }
            let port = core
                .net
                .listeners
                .get_mut(&address)
                .and_then(|ports| ports.iter_mut().find(|port| port.id == id));
            let link = port.and_then(|port| port.backlog.pop_front());
            core.hosts[host].counts.accepts += 1;
            core.note(What::Accept, host, link.unwrap_or(0) as u64, 0);
            link.map_or(Poll::Pending, |link| Poll::Ready(Ok(link)))
        })
        .await;
        match link {
            Ok(link) => Ok(SimConn::new(&self.core, link, 1)),
            Err(kind) => Err(IoError::new(kind, "accept at", address.to_string())),
        }
    }
}

impl SimRuntime {
    /// Opens a connection to `to`, from an address of this host.
    ///
    /// # Errors
    /// [`IoKind::Refused`] when nobody listens there, [`IoKind::TimedOut`] with a full backlog.
    pub async fn connect(&self, to: SocketAddr) -> Result<SimConn, IoError> {
        let ip = self.address(0).ip();
        let options = self.core.borrow().options.net.clone();
        self.connect_with(ip, to, options).await
    }

    /// The same from any address, so that one host can play many clients, and over a link of its
    /// own kind.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        &self,
        from: IpAddr,
        to: SocketAddr,
        options: NetOptions,
    ) -> Result<SimConn, IoError> {
        let wait = self.core.borrow_mut().random.within(options.latency_ns);
        self.sleep_until(Instant::from_ns(self.now().ns() + wait)).await;
        self.open(from, to, options)
    }

    /// What comes of a connect when it gets there.
    fn open(&self, from: IpAddr, to: SocketAddr, options: NetOptions) -> Result<SimConn, IoError> {
        let mut core = self.core.borrow_mut();
        let fail = |kind| Err(IoError::new(kind, "connect to", to.to_string()));
        let count = core.net.listeners.get(&to).map_or(0, Vec::len);
        if count == 0 {
            return fail(IoKind::Refused);
        }
        let index = core.random.index(count);
        let (host, backlog_max) = (self.host, options.backlog_max);
        let port = core.net.listeners.get(&to).map_or(0, |ports| ports[index].backlog.len());
        if port >= backlog_max {
            return fail(IoKind::TimedOut);
        }
        core.net.ports_used = core.net.ports_used.wrapping_add(1);
        let local = SocketAddr::new(from, 1024 + core.net.ports_used % 60_000);
        let listening = core.hosts.iter().position(|host| host.address == to.ip()).unwrap_or(0);
        let link = core.open_link((host, local), (listening, to), options);
        core.note(What::Connect, host, link as u64, 0);
        if let Some(port) = core.net.listeners.get_mut(&to).and_then(|ports| ports.get_mut(index)) {
            port.backlog.push_back(link);
            wake(&mut port.waker);
        }
        drop(core);
        Ok(SimConn::new(&self.core, link, 0))
    }
}

impl Dial for SimRuntime {
    /// As [`connect`](SimRuntime::connect), with a deadline, and with the faults of
    /// [`NetOptions::refused_dials`] and [`NetOptions::lost_dials`]. A full backlog says nothing.
    async fn dial(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        deadline: Instant,
    ) -> Result<SimConn, IoError> {
        let fail = |kind| Err(IoError::new(kind, "connect to", to.to_string()));
        let options = self.core.borrow().options.net.clone();
        let (lost, refused, wait) = {
            let random = &mut self.core.borrow_mut().random;
            let lost = random.chance(options.lost_dials);
            (lost, random.chance(options.refused_dials), random.within(options.latency_ns))
        };
        let arrives = Instant::from_ns(self.now().ns() + wait);
        if !lost && arrives < deadline {
            self.sleep_until(arrives).await;
            if refused {
                return fail(IoKind::Refused);
            }
            let from = from.unwrap_or_else(|| self.address(0).ip());
            match self.open(from, to, options) {
                Err(error) if error.kind == IoKind::TimedOut => {}
                opened => return opened,
            }
        }
        self.sleep_until(deadline).await;
        fail(IoKind::TimedOut)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::options::Options;
    use super::super::{SimRuntime, World};
    use super::*;
    use crate::Conn;

    const SECOND: Duration = Duration::from_secs(1);

    /// How `dial` ended within a second, and when, in milliseconds from its start.
    fn dial(change: impl FnOnce(&mut NetOptions), listens: bool) -> (Result<(), IoKind>, u128) {
        let mut options = Options::calm();
        options.net.latency_ns = (5_000_000, 5_000_000);
        change(&mut options.net);
        let mut world = World::new(1, options);
        let (client, server) = (world.host(), world.host());
        let (client, server) = (world.start(client), world.start(server));
        let _listener = listens.then(|| server.listen(25));
        let to = server.address(25);
        let rt: SimRuntime = client.clone();
        world.block_on(&client, async move {
            let begun = rt.now();
            let from = "127.0.0.9".parse().ok();
            let dialed = rt.dial(from, to, begun + SECOND).await;
            if let Ok(conn) = &dialed {
                assert_eq!((Some(conn.local().ip()), conn.peer()), (from, to));
            }
            (dialed.map(drop).map_err(|error| error.kind), (rt.now() - begun).as_millis())
        })
    }

    #[test]
    fn dials_are_answered_refused_or_lost_after_the_latency() {
        let million = super::super::MILLION;
        assert_eq!(dial(|_| {}, true), (Ok(()), 5));
        assert_eq!(dial(|_| {}, false), (Err(IoKind::Refused), 5));
        assert_eq!(dial(|net| net.refused_dials = million, true), (Err(IoKind::Refused), 5));
        let lost = (Err(IoKind::TimedOut), 1000);
        assert_eq!(dial(|net| net.lost_dials = million, true), lost);
        assert_eq!(dial(|net| net.backlog_max = 0, true), lost);
        assert_eq!(dial(|net| net.latency_ns = (2_000_000_000, 2_000_000_000), true), lost);
    }
}
