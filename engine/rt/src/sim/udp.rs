//! Simulated datagrams: lost, doubled, late and out of order, as the options say.
//!
//! Who opens a socket gets a port that the seed draws. Who answers binds one to a known port, and
//! hears everybody. At a port where nobody listens, on a host that runs, the sender is told; a host
//! that does not run says nothing. A socket that nobody reads drops what comes behind
//! [`DATAGRAMS_MAX`] datagrams.

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::net::wake;
use super::trace::{What, sum};
use super::{Alarm, Core, Due, Shared, SimRuntime};
use crate::{DATAGRAM_BYTES_MAX, Datagrams, Instant, IoError, IoKind, Udp};

/// Datagrams that wait at a socket; arbitrary.
pub const DATAGRAMS_MAX: usize = 64;

/// All sockets of a world, by their addresses.
pub(super) type Sockets = BTreeMap<SocketAddr, Inbox>;

/// What has come for a socket.
#[derive(Default)]
pub(super) struct Inbox {
    /// Whom it hears; none for everybody.
    peer: Option<SocketAddr>,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    refused: bool,
    reader: Option<Waker>,
}

/// A datagram on its way; without bytes the news that one was refused.
pub(super) struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Option<Vec<u8>>,
}

impl Core {
    fn bind(&mut self, address: SocketAddr, peer: Option<SocketAddr>) {
        self.udp.insert(address, Inbox { peer, ..Inbox::default() });
    }

    fn send_datagram(&mut self, host: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.note(What::Datagram, host, to.port().into(), sum(bytes));
        let net = &self.options.net;
        let (lost, doubled) = (net.lost_datagrams, net.doubled_datagrams);
        if self.random.chance(lost) {
            return;
        }
        self.let_fly(Datagram { from, to, bytes: Some(bytes.to_vec()) });
        if self.random.chance(doubled) {
            self.let_fly(Datagram { from, to, bytes: Some(bytes.to_vec()) });
        }
    }

    fn let_fly(&mut self, datagram: Datagram) {
        let at_ns = self.now_ns + self.random.within(self.options.net.latency_ns);
        self.set_timer(at_ns, Due::Datagram(datagram));
    }

    /// A datagram has got where it was sent.
    pub(super) fn datagram_arrives(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        let inbox = self.udp.get_mut(&to).filter(|inbox| inbox.peer.is_none_or(|p| p == from));
        match (inbox, bytes) {
            (Some(inbox), Some(mut bytes)) if inbox.arrived.len() < DATAGRAMS_MAX => {
                bytes.truncate(DATAGRAM_BYTES_MAX);
                inbox.arrived.push_back((from, bytes));
                wake(&mut inbox.reader);
            }
            (Some(inbox), None) => {
                inbox.refused = true;
                wake(&mut inbox.reader);
            }
            (None, Some(_)) if self.hosts.iter().any(|h| h.alive && h.address == to.ip()) => {
                self.let_fly(Datagram { from: to, to: from, bytes: None });
            }
            _ => {}
        }
    }

    /// The next datagram at `address`, or the news that one was refused.
    fn poll_datagram(
        &mut self,
        host: usize,
        address: SocketAddr,
    ) -> Poll<Result<(SocketAddr, Vec<u8>), IoKind>> {
        let Some(inbox) = self.udp.get_mut(&address) else {
            return Poll::Ready(Err(IoKind::Failed));
        };
        if core::mem::take(&mut inbox.refused) {
            return Poll::Ready(Err(IoKind::Refused));
        }
        let Some(arrived) = inbox.arrived.pop_front() else { return Poll::Pending };
        self.note(What::Datagram, host, address.port().into(), sum(&arrived.1));
        Poll::Ready(Ok(arrived))
    }
}

/// An address that datagrams come to; nobody has it any more when this is dropped.
struct Bound {
    core: Shared,
    host: usize,
    address: SocketAddr,
}

impl Bound {
    async fn receive(&self, deadline: Instant) -> Result<(SocketAddr, Vec<u8>), IoKind> {
        let mut alarm = Alarm::new(&self.core);
        core::future::poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            if let Poll::Ready(result) = core.poll_datagram(self.host, self.address) {
                return Poll::Ready(result);
            }
            if core.now_ns >= deadline.ns() {
                return Poll::Ready(Err(IoKind::TimedOut));
            }
            if let Some(inbox) = core.udp.get_mut(&self.address) {
                inbox.reader = Some(cx.waker().clone());
            }
            drop(core);
            alarm.set(deadline, cx.waker());
            Poll::Pending
        })
        .await
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.core.borrow_mut().send_datagram(self.host, self.address, to, bytes);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let inbox = self.core.borrow_mut().udp.remove(&self.address);
        // A waker may own anything, so it is dropped after the borrow.
        drop(inbox);
    }
}

impl core::fmt::Debug for Bound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.address)
    }
}

/// A simulated socket for datagrams, connected to one address.
#[derive(Debug)]
pub struct SimUdp {
    bound: Bound,
    peer: SocketAddr,
    received: Vec<u8>,
}

/// A simulated socket at a known port, which answers whoever asks.
#[derive(Debug)]
pub struct SimUdpService {
    bound: Bound,
}

impl SimUdpService {
    /// The next datagram, and who sent it.
    pub async fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        loop {
            // That somebody who has asked is gone does not concern who answers.
            if let Ok(arrived) = self.bound.receive(Instant::FAR).await {
                return arrived;
            }
        }
    }

    /// Sends a datagram.
    pub fn send_to(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.bound.send(to, bytes);
    }
}

impl SimRuntime {
    /// Takes datagrams at `port` of the host's address.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn bind_udp(&self, port: u16) -> SimUdpService {
        let address = self.address(port);
        let mut core = self.core.borrow_mut();
        assert!(!core.udp.contains_key(&address), "one socket has a port");
        core.bind(address, None);
        drop(core);
        let core = Rc::clone(&self.core);
        SimUdpService { bound: Bound { core, host: self.host, address } }
    }
}

impl Datagrams for SimRuntime {
    type Udp = SimUdp;

    fn udp(&self, to: SocketAddr) -> Result<SimUdp, IoError> {
        let mut address = self.address(0);
        let mut core = self.core.borrow_mut();
        // A drawn port is taken rarely; when it always is, so are nearly all.
        let free = (0..100).any(|_| {
            address.set_port(1024 + core.random.below(64_512) as u16);
            !core.udp.contains_key(&address)
        });
        if !free {
            return Err(IoError::new(IoKind::Exhausted, "open a socket to", to.to_string()));
        }
        core.bind(address, Some(to));
        drop(core);
        let bound = Bound { core: Rc::clone(&self.core), host: self.host, address };
        Ok(SimUdp { bound, peer: to, received: Vec::new() })
    }
}

impl Udp for SimUdp {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.bound.send(self.peer, bytes);
        Ok(())
    }

    async fn receive(&mut self, deadline: Instant) -> Result<&[u8], IoError> {
        let arrived = self.bound.receive(deadline).await;
        let fail = |kind| IoError::new(kind, "receive from", self.peer.to_string());
        self.received = arrived.map_err(fail)?.1;
        Ok(&self.received)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::options::{NetOptions, Options};
    use super::super::{Crash, MILLION, World};
    use super::*;
    use crate::{Class, Runtime};

    const SECOND: Duration = Duration::from_secs(1);

    /// What comes back from a service that sends everything back, within a second; what is sent is
    /// one byte each.
    fn echoes(change: impl FnOnce(&mut NetOptions), sent: u8) -> (Vec<u8>, u64) {
        let mut options = Options::calm();
        options.net.latency_ns = (1_000_000, 5_000_000);
        change(&mut options.net);
        let mut world = World::new(7, options);
        let (client, server) = (world.host(), world.host());
        let (client, server) = (world.start(client), world.start(server));
        let (to, mut service) = (server.address(53), server.bind_udp(53));
        server.spawn(Class::Session, async move {
            loop {
                let (from, bytes) = service.receive().await;
                service.send_to(from, &bytes);
            }
        });
        let rt = client.clone();
        let back = world.block_on(&client, async move {
            let mut udp = rt.udp(to).unwrap();
            assert_eq!(udp.peer(), to);
            (0..sent).for_each(|byte| udp.send(&[byte]).unwrap());
            let (mut back, deadline) = (Vec::new(), rt.now() + SECOND);
            loop {
                match udp.receive(deadline).await {
                    Ok(bytes) => back.extend_from_slice(bytes),
                    Err(error) => {
                        assert_eq!((error.kind, rt.now()), (IoKind::TimedOut, deadline));
                        return back;
                    }
                }
            }
        });
        (back, world.hash())
    }

    #[test]
    fn datagrams_are_lost_doubled_and_overtaken_when_asked_for_only() {
        let in_order: Vec<u8> = (0..20).collect();
        let (mut back, hash) = echoes(|_| {}, 20);
        assert_ne!(back, in_order, "each has its own latency");
        back.sort_unstable();
        assert_eq!(back, in_order);
        assert_eq!(echoes(|_| {}, 20).1, hash);
        assert_eq!(echoes(|net| net.latency_ns = (9, 9), 20).0, in_order);
        assert_eq!(echoes(|net| net.lost_datagrams = MILLION, 20).0, []);
        let half = echoes(|net| net.lost_datagrams = MILLION / 2, 20).0.len();
        assert!((1..15).contains(&half), "{half}");
        assert_eq!(echoes(|net| net.doubled_datagrams = MILLION, 5).0.len(), 5 * 4);
        let full = echoes(|net| net.latency_ns = (9, 9), 255).0.len();
        assert!((DATAGRAMS_MAX..255).contains(&full), "{full}");
    }

    #[test]
    fn nobody_listens_nobody_lives_and_nobody_else_is_heard() {
        let mut world = World::new(1, Options::calm());
        let hosts = [world.host(), world.host(), world.host()];
        let [client, server, other] = hosts.map(|host| world.start(host));
        let (to, elsewhere) = (server.address(53), server.address(54));
        let rt = client.clone();
        let refused = world.block_on(&client, async move {
            let mut udp = rt.udp(to).unwrap();
            udp.send(b"x").unwrap();
            udp.receive(rt.now() + SECOND).await.map(<[u8]>::to_vec).unwrap_err().kind
        });
        assert_eq!(refused, IoKind::Refused);
        let (mut service, mut wrong, mut stranger) =
            (server.bind_udp(53), server.bind_udp(54), other.bind_udp(53));
        server.spawn(Class::Session, async move {
            let (from, _) = service.receive().await;
            stranger.send_to(from, b"stranger");
            wrong.send_to(from, b"wrong port");
            service.send_to(from, &[b'y'; DATAGRAM_BYTES_MAX + 1]);
            service.receive().await;
        });
        let (rt, address) = (client.clone(), elsewhere);
        let heard = world.block_on(&client, async move {
            let mut udp = rt.udp(to).unwrap();
            assert_ne!(udp.peer(), address);
            udp.send(b"x").unwrap();
            udp.receive(rt.now() + SECOND).await.unwrap().to_vec()
        });
        assert_eq!(heard, [b'y'; DATAGRAM_BYTES_MAX]);
        world.kill(server.host(), Crash::Power);
        let rt = client.clone();
        let silence = world.block_on(&client, async move {
            let mut udp = rt.udp(to).unwrap();
            udp.send(b"x").unwrap();
            udp.receive(rt.now() + SECOND).await.map(<[u8]>::to_vec).unwrap_err().kind
        });
        assert_eq!(silence, IoKind::TimedOut);
    }
}
