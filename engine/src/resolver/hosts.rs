//! What lookups of hosts come to: exchanges in their order, addresses of both families in turn.

use core::net::IpAddr;
use std::rc::Rc;

use fsmtp_proto::dns::{Failure, Found, Mx};

/// The hosts that take a domain's mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchanges {
    /// At least one, those to try first in front; equals in the order of the answer.
    pub hosts: Vec<Mx>,
    /// Whether the name server has checked the signatures of all of this.
    pub secure: bool,
}

impl Exchanges {
    pub(super) fn of(found: &Found) -> Self {
        let mut hosts: Vec<Mx> = found.mx().cloned().collect();
        hosts.sort_by_key(|mx| mx.preference);
        Self { hosts, secure: found.secure }
    }
}

/// The addresses of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// At least one; IPv6 and IPv4 in turn, so that a family without a way costs one try.
    pub addresses: Vec<IpAddr>,
    /// What the host's aliases lead to; itself without any.
    pub name: Box<str>,
    /// Whether the name server has checked the signatures of all of this.
    pub secure: bool,
}

impl Addresses {
    pub(super) fn of(
        six: Result<Rc<Found>, Failure>,
        four: Result<Rc<Found>, Failure>,
    ) -> Result<Self, Failure> {
        let (name, secure, six, four) = match (six, four) {
            (Ok(six), Ok(four)) => {
                (six.name.clone(), six.secure && four.secure, Some(six), Some(four))
            }
            (Ok(six), Err(_)) => (six.name.clone(), six.secure, Some(six), None),
            (Err(_), Ok(four)) => (four.name.clone(), four.secure, None, Some(four)),
            (Err(six), Err(four)) => return Err(if six.is_temporary() { six } else { four }),
        };
        let list = |found: Option<Rc<Found>>| -> Vec<IpAddr> {
            found.iter().flat_map(|found| found.addresses()).collect()
        };
        let (mut six, mut four) = (list(six).into_iter(), list(four).into_iter());
        let mut addresses = Vec::with_capacity(six.len() + four.len());
        while six.len() + four.len() > 0 {
            addresses.extend(six.next());
            addresses.extend(four.next());
        }
        Ok(Self { addresses, name, secure })
    }
}
