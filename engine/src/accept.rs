//! Taking connections: one loop for each listener of a shard.
//!
//! A connection over a limit is answered with 421 (or `-ERR`) and closed; an error of the system is
//! logged and the loop goes on. The loop ends when the shard drains, and the socket with it.

use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::access::Tls as Agreed;
use fsmtp_proto::{pop3, smtp};
use fsmtp_rt::{Class, Conn, Datagrams, Dial, Instant, IoError, IoKind, Listener, Runtime};
use fsmtp_store::mailbox::Mailboxes;

use crate::admit::{Admission, Refused, Ticket};
use crate::config::Durability;
use crate::guard::Guarded;
use crate::log::{Event, Level};
use crate::shard::{Shard, count};
use crate::smtp::End;
use crate::tls::{Acceptor, Stream};

/// How long a client may take for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is spoken at a listener.
#[derive(Clone, Debug)]
pub enum Service {
    /// SMTP, for anybody who has mail for us, or for users; and when a message counts as accepted.
    Smtp(Rc<smtp::server::Settings>, Durability),
    /// POP3.
    Pop3(Rc<pop3::Settings>),
}

/// A listener's way in.
#[derive(Clone, Debug)]
pub struct Door {
    /// What is spoken behind it.
    pub service: Service,
    /// Makes handshakes; none where nothing is encrypted.
    pub tls: Option<Acceptor>,
    /// Whether a handshake comes first (RFC 8314), or when the client asks for it.
    pub implicit: bool,
}

impl Door {
    /// A door without TLS.
    #[must_use]
    pub const fn clear(service: Service) -> Self {
        Self { service, tls: None, implicit: false }
    }
}

/// A connection on its way through a door.
pub struct Visit<'a, R: Runtime> {
    /// The connection.
    pub stream: &'a mut Stream<R>,
    /// The door that it came through.
    pub door: &'a Door,
    /// What a handshake has given that came first.
    pub tls: Option<Agreed>,
}

impl<R: Runtime> core::fmt::Debug for Visit<'_, R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Visit({:?})", self.stream)
    }
}

impl<R: Runtime> Visit<'_, R> {
    /// The handshake that a session has agreed to.
    ///
    /// # Errors
    /// When it fails; the client has been sent an alert, and nothing more can be said.
    pub async fn start_tls(&mut self, now: Instant) -> Result<Agreed, IoError> {
        match &self.door.tls {
            Some(acceptor) => self.stream.start_tls(acceptor, now + HANDSHAKE_TIMEOUT).await,
            None => Err(IoError::new(IoKind::Failed, "start TLS with", "a listener without it")),
        }
    }
}

/// Takes connections until the shard drains.
pub async fn accept<R: Dial + Datagrams, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    mut listener: impl Listener<Conn = R::Conn>,
    door: Rc<Door>,
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
                        let session = serve(inner, conn, Rc::clone(&door), ticket);
                        shard.rt.spawn(Class::Session, session);
                    }
                    Err(why) => {
                        count(&shard.counters.connections_refused);
                        shard.rt.spawn(Class::Accept, refuse(inner, conn, Rc::clone(&door), why));
                    }
                }
            }
            Err(error) => {
                shard.log.event(shard.rt.unix(), Event::AcceptFailed, &[("why", &error)]);
            }
        }
    }
}

async fn serve<R: Dial + Datagrams, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    conn: R::Conn,
    door: Rc<Door>,
    ticket: Ticket,
) {
    let peer = conn.peer();
    if shard.log.enabled(Level::Debug) {
        shard.log.event(shard.rt.unix(), Event::ConnectionOpened, &[("from", &peer)]);
    }
    let session = Rc::clone(&shard);
    let end = Guarded::new(async move { enter(&session, conn, &door).await }).await;
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

/// One connection, from the handshake, if one comes first, to its end.
async fn enter<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    conn: R::Conn,
    door: &Door,
) -> End {
    let mut stream = Stream::new(shard.rt.clone(), conn);
    let mut visit = Visit { stream: &mut stream, door, tls: None };
    if door.implicit {
        match visit.start_tls(shard.rt.now()).await {
            Ok(tls) => visit.tls = Some(tls),
            Err(error) => {
                handshake_failed(shard, &error);
                return End::Broken;
            }
        }
    }
    match &door.service {
        Service::Smtp(settings, durability) => {
            crate::smtp::serve(shard, visit, settings, *durability).await
        }
        Service::Pop3(settings) => crate::pop3::serve(shard, visit, settings).await,
    }
}

/// Notes that a client and we could not agree on TLS.
pub fn handshake_failed<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, error: &IoError) {
    count(&shard.counters.handshakes_failed);
    shard.log.event(shard.rt.unix(), Event::TlsFailed, &[("why", error)]);
}

/// Turns a connection away. At a door where a handshake comes first it is closed without a word:
/// who floods us shall not have us compute.
async fn refuse<R: Runtime, M: Mailboxes + 'static>(
    shard: Rc<Shard<R, M>>,
    mut conn: R::Conn,
    door: Rc<Door>,
    why: Refused,
) {
    let limit = match why {
        Refused::Total => "connections_max",
        Refused::Address => "connections_per_address_max",
    };
    let fields: [(&str, &dyn core::fmt::Display); 2] = [("from", &conn.peer()), ("limit", &limit)];
    shard.log.event(shard.rt.unix(), Event::ConnectionRefused, &fields);
    if door.implicit {
        return;
    }
    match &door.service {
        Service::Smtp(..) => {
            let refusal = smtp::reply::Refusal::TooManyConnections;
            crate::smtp::refuse(&shard.rt, &mut conn, refusal).await;
        }
        Service::Pop3(_) => {
            let refusal = pop3::Refusal::TooManyConnections;
            crate::pop3::refuse(&shard.rt, &mut conn, refusal).await;
        }
    }
}
