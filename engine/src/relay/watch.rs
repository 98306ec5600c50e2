//! Who looks on while a message is brought to its hosts: each step, when it has happened.
//!
//! Told by `hosts`, `link` and `direct`. The relay of a shard has nobody who looks on; `mailtest`
//! prints what it hears. It runs on the shard's thread and must not wait for anything. What a
//! remote host said comes as it is, within the limits of a reply: whoever shows it escapes it.

use core::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use fsmtp_proto::access::Tls;
use fsmtp_proto::smtp::client::{Reply, To};

use super::routes::Host;

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'s> {
    /// Whom mail for a domain is taken to, and who says so.
    Hosts(&'s str, &'s [Host], &'s str),
    /// What a host's name stands for.
    Addresses(&'s Host, &'s [IpAddr]),
    /// A domain or host that nothing is known of, and why.
    Unknown(&'s str, &'s str),
    /// A connection is open.
    Connected(SocketAddr, &'s str),
    /// The server has said something.
    Reply(To, &'s Reply<'s>),
    /// The connection is encrypted from here on.
    /// Whether it was proved who the server is stands beside it.
    Encrypted(&'s Tls, bool),
    /// It stays in clear.
    InClear,
    /// This address is of no use, and why.
    Broken(&'s str),
    /// TLS went wrong, and why: the same address is tried once more, with less or without.
    WithLessTls(&'s str),
}

/// Somebody who looks on.
pub(crate) trait Watch {
    /// A step has happened.
    fn saw(&self, step: Step<'_>);
}

/// Perhaps somebody.
pub(crate) type Watcher = Option<Rc<dyn Watch>>;

/// Tells a watcher, should there be one.
pub(super) fn tell(watcher: &Watcher, step: Step<'_>) {
    if let Some(watch) = watcher {
        watch.saw(step);
    }
}
