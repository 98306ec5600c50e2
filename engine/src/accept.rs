//! Taking connections: one loop for each listener of a shard.
//!
//! A connection over a limit is answered with 421 (or `-ERR`) and closed; an error of the system is
//! logged and the loop goes on. The loop ends when the shard drains, and the socket with it.

use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::{pop3, smtp};
use fsmtp_rt::{Class, Conn, Listener, Runtime};
use fsmtp_store::mailbox::Mailboxes;

use crate::admit::{Admission, Refused, Ticket};
use crate::guard::Guarded;
use crate::log::{Event, Level};
use crate::shard::{Shard, count};

/// What is spoken at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// SMTP, for anybody who has mail for us.
    Smtp,
    /// POP3.
    Pop3,
}

/// Takes connections until the shard drains.
pub async fn accept<R: Runtime, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    mut listener: impl Listener<Conn = R::Conn>,
    service: Service,
    admission: Arc<Admission>,
) {
    let _guest = shard.drain.enter_task().await;
    while let Some(accepted) = shard.drain.unless_draining(listener.accept()).await {
        match accepted {
            Ok(conn) => {
                let admitted = admission.admit(conn.peer().ip());
                let inner = Rc::clone(&shard);
                match admitted {
                    Ok(ticket) => {
                        count(&shard.counters.connections);
                        let session = serve(inner, conn, service, ticket);
                        shard.rt.spawn(Class::Session, session);
                    }
                    Err(why) => {
                        count(&shard.counters.connections_refused);
                        shard.rt.spawn(Class::Accept, refuse(inner, conn, service, why));
                    }
                }
            }
            Err(error) => {
                shard.log.event(shard.rt.unix(), Event::AcceptFailed, &[("why", &error)]);
            }
        }
    }
}

async fn serve<R: Runtime, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    mut conn: R::Conn,
    service: Service,
    ticket: Ticket,
) {
    let peer = conn.peer();
    if shard.log.enabled(Level::Debug) {
        shard.log.event(shard.rt.unix(), Event::ConnectionOpened, &[("from", &peer)]);
    }
    let session = Rc::clone(&shard);
    let end = match service {
        Service::Smtp => {
            Guarded::new(async move { crate::smtp::serve(&session, &mut conn).await }).await
        }
        Service::Pop3 => {
            Guarded::new(async move { crate::pop3::serve(&session, &mut conn).await }).await
        }
    };
    match end {
        Some(end) if shard.log.enabled(Level::Debug) => shard.log.event(
            shard.rt.unix(),
            Event::ConnectionClosed,
            &[("from", &peer), ("how", &end)],
        ),
        Some(_) => {}
        None => {
            count(&shard.counters.sessions_panicked);
            shard.log.event(shard.rt.unix(), Event::SessionPanicked, &[("from", &peer)]);
        }
    }
    drop(ticket);
}

async fn refuse<R: Runtime, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    mut conn: R::Conn,
    service: Service,
    why: Refused,
) {
    let limit = match why {
        Refused::Total => "connections_max",
        Refused::Address => "connections_per_address_max",
    };
    let fields: [(&str, &dyn core::fmt::Display); 2] = [("from", &conn.peer()), ("limit", &limit)];
    shard.log.event(shard.rt.unix(), Event::ConnectionRefused, &fields);
    match service {
        Service::Smtp => {
            let refusal = smtp::reply::Refusal::TooManyConnections;
            crate::smtp::refuse(&shard.rt, &mut conn, refusal).await;
        }
        Service::Pop3 => {
            let refusal = pop3::Refusal::TooManyConnections;
            crate::pop3::refuse(&shard.rt, &mut conn, refusal).await;
        }
    }
}
