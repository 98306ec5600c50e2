//! The desk's answer to SU: is the client a node of the same owner?
//!
//! A wrong token counts against the client's address as a wrong password does, and is answered as
//! slowly; it locks no account. The log says why; the client hears 651, whatever it was.

use core::fmt::Display;

use fsmtp_proto::smtp::ext::su::{Denied, Granted};
use fsmtp_proto::smtp::server::Session;
use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::Mailboxes;

use crate::log::Event;
use crate::shard::{Shard, count};

/// What the client is granted; nothing, if it is not known for a node.
pub(super) async fn granted<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    token: &[u8],
    session: &Session,
) -> Option<Granted> {
    let (from, now) = (session.peer().ip, shard.rt.unix());
    let exporter = session.tls()?.exporter?;
    if let Err(refused_count) = shard.gate.admits_address(from, now) {
        if refused_count > 0 {
            let why = "too many failures";
            let fields: [(&str, &dyn Display); 3] =
                [("peer", &from), ("why", &why), ("refused", &refused_count)];
            shard.log.event(now, Event::NodeDenied, &fields);
        }
        return None;
    }
    // Not held across the wait below.
    let checked = shard.trust.borrow().check(token, &exporter, now);
    match checked {
        Ok(granted) => {
            shard.gate.pardon(from);
            shard.log.event(now, Event::NodeGranted, &[("peer", &from), ("node", &granted.node)]);
            Some(granted)
        }
        Err(why) => {
            count(&shard.counters.nodes_denied);
            shard.log.event(now, Event::NodeDenied, &[("peer", &from), ("why", &why)]);
            // Where there is nothing to guess nobody guesses.
            if why != Denied::NoKeys {
                let slow = shard.gate.failed_address(from, now);
                shard.rt.sleep_until(shard.rt.now() + slow).await;
            }
            None
        }
    }
}
