//! Free port bases: the engine listens on BASE + each service's well-known number.
//!
//! Called by `engine`. A base is free when nothing listens on any of its ports and no other engine
//! of this process was given one of them. Bases lie below the range from which the kernel takes
//! ports for outgoing connections. Another process can still take one in between; the engine then
//! fails to start with its own message.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Well-known ports of the services that exist or will: SMTP, DNS, HTTP, POP3, IMAP and secure.
pub const SERVICES: [u16; 9] = [25, 53, 80, 110, 143, 465, 587, 993, 995];

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A base whose ports are all free; `None` when there is none left.
#[must_use]
pub fn free_base() -> Option<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let start = std::process::id().wrapping_mul(7_919) % COUNT;
    (0..COUNT).find_map(|step| {
        let base = u16::try_from(FIRST + (start + step) % COUNT).ok()?;
        let ports = SERVICES.map(|s| base + s);
        let free = |p: &u16| !given.contains(p) && TcpListener::bind(("127.0.0.1", *p)).is_ok();
        ports.iter().all(free).then(|| {
            given.extend(ports);
            base
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_share_no_port() {
        let (a, b) = (free_base().unwrap(), free_base().unwrap());
        assert!(SERVICES.iter().all(|s| SERVICES.iter().all(|t| a + s != b + t)));
    }
}
