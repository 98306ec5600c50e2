//! The addresses of one host, dialled one after the other without waiting long for any (RFC 8305).
//!
//! Asked by `hosts`, which passes at most ten addresses, IPv6 and IPv4 in turn. What is no address
//! of a living host costs [`DELAY`] and not a time-out. Limits: an address is dialled again only
//! when another one has won and was of no use then. Failure: each address that cannot be reached
//! is yielded with its reason.

use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::{Pin, pin};
use core::task::Poll;
use core::time::Duration;
use std::collections::VecDeque;

use fsmtp_rt::{Dial, IoError};

/// Between two dials. RFC 8305 §5: 250 ms are recommended.
const DELAY: Duration = Duration::from_millis(250);

/// A connection on its way.
type Dialing<'r, C> = Pin<Box<dyn Future<Output = Result<C, IoError>> + 'r>>;

/// A race among addresses.
pub(super) struct Race<'r, R: Dial> {
    rt: &'r R,
    /// How long a dial may take.
    patience: Duration,
    /// Those to dial, best first. RFC 8305 §4: the resolver gives both families in turn.
    left: VecDeque<SocketAddr>,
    running: Vec<(SocketAddr, Dialing<'r, R::Conn>)>,
}

impl<'r, R: Dial> Race<'r, R> {
    /// Nobody runs yet.
    pub(super) fn new(
        rt: &'r R,
        patience: Duration,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        Self { rt, patience, left: addresses.into_iter().collect(), running: Vec::new() }
    }

    /// The first connection that comes about, or an address that cannot be reached; none when all
    /// addresses are through. Who won and was of no use asks once more.
    pub(super) async fn next(&mut self) -> Option<(SocketAddr, Result<R::Conn, IoError>)> {
        // Here at first, after a failure, and after a winner: RFC 8305 §5 has the next begin at
        // once then.
        loop {
            self.start();
            if self.running.is_empty() {
                return None;
            }
            let Some((place, result)) = self.finisher().await else { continue };
            let (to, _) = self.running.remove(place);
            if result.is_ok() {
                // RFC 8305 §5: the others are given up. Behind those that were not dialled yet,
                // since they have shown that they are slow.
                self.left.extend(self.running.drain(..).map(|(to, _)| to));
            }
            return Some((to, result));
        }
    }

    /// Dials the next address.
    fn start(&mut self) {
        if let Some(to) = self.left.pop_front() {
            let (rt, deadline) = (self.rt, self.rt.now() + self.patience);
            self.running.push((to, Box::pin(rt.dial(None, to, deadline))));
        }
    }

    /// Waits for a dial to end, until it is time for the next one.
    async fn finisher(&mut self) -> Option<(usize, Result<R::Conn, IoError>)> {
        let more = !self.left.is_empty();
        let mut late = pin!(self.rt.sleep_until(self.rt.now() + DELAY));
        poll_fn(|cx| {
            for (place, (_, dialing)) in self.running.iter_mut().enumerate() {
                if let Poll::Ready(result) = dialing.as_mut().poll(cx) {
                    return Poll::Ready(Some((place, result)));
                }
            }
            if more { late.as_mut().poll(cx).map(|()| None) } else { Poll::Pending }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_rt::sim::{Options, World};
    use fsmtp_rt::{IoKind, Runtime};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// What an address is.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Is {
        Good,
        /// Nobody listens.
        Shut,
        /// Nothing ever comes back.
        Hole,
    }

    /// Races among such addresses until there were so many winners: who came in, with what, and
    /// when, in milliseconds.
    fn race(all: &[Is], winners: usize) -> Vec<(usize, Result<(), IoKind>, u128)> {
        let mut options = Options::calm();
        options.net.latency_ns = (5_000_000, 5_000_000);
        // A full backlog answers nothing.
        options.net.backlog_max = 1;
        let mut world = World::new(1, options);
        let client = world.host();
        let client = world.start(client);
        let hosts: Vec<_> = all.iter().map(|_| world.host()).collect();
        let hosts: Vec<_> = hosts.into_iter().map(|host| world.start(host)).collect();
        let addresses: Vec<SocketAddr> = hosts.iter().map(|host| host.address(25)).collect();
        let open = |(host, is): (&fsmtp_rt::sim::SimRuntime, &Is)| {
            (*is != Is::Shut).then(|| host.listen(25))
        };
        let _listeners: Vec<_> = hosts.iter().zip(all).map(open).collect();
        let holes = addresses.iter().zip(all).filter(|(_, is)| **is == Is::Hole);
        let holes: Vec<SocketAddr> = holes.map(|(address, _)| *address).collect();
        let rt = client.clone();
        world.block_on(&client, async move {
            let mut full = Vec::new();
            for hole in holes {
                full.push(rt.connect(hole).await);
            }
            let begun = rt.now();
            let mut race = Race::new(&rt, PATIENCE, addresses.clone());
            let (mut seen, mut won) = (Vec::new(), 0);
            while won < winners {
                let Some((to, result)) = race.next().await else { break };
                won += usize::from(result.is_ok());
                let place = addresses.iter().position(|address| *address == to);
                let result = result.map(drop).map_err(|error| error.kind);
                seen.push((place.unwrap_or(99), result, (rt.now() - begun).as_millis()));
            }
            seen
        })
    }

    #[test]
    fn a_black_hole_costs_a_quarter_of_a_second() {
        assert_eq!(race(&[Is::Hole, Is::Good], 1), [(1, Ok(()), 255)]);
        assert_eq!(race(&[Is::Hole, Is::Hole, Is::Good], 1), [(2, Ok(()), 505)]);
    }

    #[test]
    fn after_a_refusal_the_next_is_dialled_at_once() {
        let refused = Err(IoKind::Refused);
        assert_eq!(race(&[Is::Shut, Is::Good], 1), [(0, refused, 5), (1, Ok(()), 10)]);
        assert_eq!(race(&[Is::Shut, Is::Shut], 1), [(0, refused, 5), (1, refused, 10)]);
    }

    #[test]
    fn when_a_winner_is_of_no_use_the_others_are_tried() {
        // The hole was given up when another won; its turn comes again, behind the rest.
        let seen = race(&[Is::Hole, Is::Good, Is::Good], 9);
        let late = Err(IoKind::TimedOut);
        assert_eq!(seen, [(1, Ok(()), 255), (2, Ok(()), 260), (0, late, 30_260)]);
        assert_eq!(race(&[], 1), []);
    }
}
