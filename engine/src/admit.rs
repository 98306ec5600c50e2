//! Who may connect: limits in all and per client address, on each shard.
//!
//! A shard knows only its own connections, so a limit of the configuration is divided among the
//! shards (rounded up). The kernel spreads connections by a hash, so one address with few
//! connections may meet its limit a little early or late; the total is never exceeded by more than
//! one connection a shard.

use core::cell::{Cell, RefCell};
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How many connections may be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In all.
    pub connections_max: usize,
    /// From one address (IPv4) or one /64 (IPv6).
    pub connections_per_address_max: usize,
}

impl Limits {
    /// One shard's part of the limits of `shards` shards.
    #[must_use]
    pub fn share(self, shards: usize) -> Self {
        Self {
            connections_max: self.connections_max.div_ceil(shards.max(1)),
            connections_per_address_max: self.connections_per_address_max.div_ceil(shards.max(1)),
        }
    }
}

/// Why a connection is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many in all.
    Total,
    /// Too many from this address.
    Address,
}

/// The open connections of one listener on one shard.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    open: Cell<usize>,
    by_address: RefCell<BTreeMap<IpAddr, usize>>,
}

/// An admitted connection; gives its place back on drop.
#[derive(Debug)]
pub struct Ticket {
    admission: Rc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(limits: Limits) -> Rc<Self> {
        let by_address = RefCell::default();
        Rc::new(Self { limits, open: Cell::new(0), by_address })
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Admits a connection from `address`.
    ///
    /// # Errors
    /// When it would be over a limit.
    pub fn admit(self: &Rc<Self>, address: IpAddr) -> Result<Ticket, Refused> {
        if self.open.get() >= self.limits.connections_max {
            return Err(Refused::Total);
        }
        let address = network(address);
        let mut by_address = self.by_address.borrow_mut();
        let count = by_address.entry(address).or_insert(0);
        if *count >= self.limits.connections_per_address_max {
            return Err(Refused::Address);
        }
        *count += 1;
        self.open.set(self.open.get() + 1);
        Ok(Ticket { admission: Rc::clone(self), address })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.open.set(self.admission.open.get() - 1);
        let mut by_address = self.admission.by_address.borrow_mut();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// One host has a whole /64 of IPv6 addresses.
fn network(address: IpAddr) -> IpAddr {
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
        assert!(admission.by_address.borrow().is_empty());
    }

    #[test]
    fn shares_round_up() {
        let limits = Limits { connections_max: 10, connections_per_address_max: 1 };
        let share = limits.share(4);
        assert_eq!((share.connections_max, share.connections_per_address_max), (3, 1));
    }
}
