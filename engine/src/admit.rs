//! Who may connect: limits in all and per client address, of one listener on all its shards.
//!
//! The kernel spreads connections over the shards by a hash, so a shard's share of a limit would
//! be met early by some clients and late by others; with many shards and a small limit, by most.
//! So the counts are shared: one atomic for the total, and locks over a few hundred stripes of
//! addresses, held for one look-up when a connection begins and one when it ends.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Parts of the table of addresses; two shards rarely want the same one.
const STRIPES_COUNT: usize = 256;

/// How many connections may be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In all.
    pub connections_max: usize,
    /// From one address (IPv4) or one /64 (IPv6).
    pub connections_per_address_max: usize,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many in all.
    Total,
    /// Too many from this address.
    Address,
}

/// The open connections of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    open: AtomicUsize,
    stripes: Box<[Stripe]>,
}

/// Connections by address, for some of the addresses.
type Stripe = Mutex<BTreeMap<IpAddr, usize>>;

/// An admitted connection; gives its place back on drop.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        let stripes = (0..STRIPES_COUNT).map(|_| Stripe::default()).collect();
        Arc::new(Self { limits, open: AtomicUsize::new(0), stripes })
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Admits a connection from `address`.
    ///
    /// # Errors
    /// When it would be over a limit.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, Refused> {
        let address = network(address);
        let free = self.with_count(address, |count| {
            let free = *count < self.limits.connections_per_address_max;
            *count += usize::from(free);
            free
        });
        if !free {
            return Err(Refused::Address);
        }
        // Last and in one step, so that nobody is refused for one who is refused himself.
        let below = |open| (open < self.limits.connections_max).then_some(open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_err() {
            self.with_count(address, |count| *count = count.saturating_sub(1));
            return Err(Refused::Total);
        }
        Ok(Ticket { admission: Arc::clone(self), address })
    }

    /// Changes how many connections an address has; one without any is forgotten.
    fn with_count<T>(&self, address: IpAddr, change: impl FnOnce(&mut usize) -> T) -> T {
        let stripe = self.stripes.get(stripe_of(address));
        let Some(stripe) = stripe else { unreachable!("there are as many stripes") };
        let mut counts = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        let result = change(count);
        if *count == 0 {
            counts.remove(&address);
        }
        result
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.with_count(self.address, |count| *count = count.saturating_sub(1));
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stripe of an address: the same address always has the same one.
fn stripe_of(address: IpAddr) -> usize {
    let bits = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing: neighbours land far apart.
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % STRIPES_COUNT
}

/// One host has a whole /64 of IPv6 addresses.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let limits = Limits { connections_max: 3, connections_per_address_max: 2 };
        let admission = Admission::new(limits);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|t| t.parse().unwrap());
        let first = admission.admit(a).unwrap();
        let second = admission.admit(a).unwrap();
        assert_eq!(
            admission.admit("::ffff:192.0.2.1".parse().unwrap()).unwrap_err(),
            Refused::Address
        );
        let third = admission.admit(b).unwrap();
        assert_eq!(admission.admit(b).unwrap_err(), Refused::Total);
        drop(first);
        let fourth = admission.admit("2001:db8::ffff".parse().unwrap()).unwrap();
        drop(second);
        assert_eq!(admission.admit("2001:db8::2".parse().unwrap()).unwrap_err(), Refused::Address);
        drop((third, fourth));
        assert_eq!(admission.open(), 0);
        assert!(admission.stripes.iter().all(|stripe| stripe.lock().unwrap().is_empty()));
    }

    #[test]
    fn the_limits_are_exact_however_many_shards_ask() {
        let limits = Limits { connections_max: 50, connections_per_address_max: 40 };
        let admission = Admission::new(limits);
        let ask = |n: u32| {
            let address = IpAddr::from(n.to_be_bytes());
            (0..1000).filter_map(|_| admission.admit(address).ok()).collect::<Vec<_>>()
        };
        let tickets: Vec<Vec<Ticket>> = std::thread::scope(|scope| {
            let shards: Vec<_> = [1, 1, 1, 2, 2].map(|n| scope.spawn(move || ask(n))).into();
            shards.into_iter().map(|shard| shard.join().unwrap()).collect()
        });
        assert_eq!(tickets.iter().map(Vec::len).sum::<usize>(), 50);
        assert!(tickets[..3].iter().map(Vec::len).sum::<usize>() <= 40);
        drop(tickets);
        assert_eq!(admission.open(), 0);
    }
}
