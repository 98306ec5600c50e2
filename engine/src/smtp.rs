//! The SMTP driver: turns of a session, bytes of a connection, answers of a desk.
//!
//! Called once for each accepted connection. Ends by itself at the session's deadlines; whatever
//! the client does costs one connection and what the session's limits allow.

use std::rc::Rc;

use fsmtp_proto::sasl;
use fsmtp_proto::smtp::reply::{Doubt, Refusal, refuse_connection};
use fsmtp_proto::smtp::server::{Peer, Session, Settings, Then};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_rt::{Conn, Datagrams, Dial, Instant, IoError, IoKind, Runtime, WINDOW_BYTES_MAX};
use fsmtp_store::mailbox::Mailboxes;

use crate::accept::{Visit, handshake_failed};
use crate::config::Durability;
use crate::desk::Desk;
use crate::log::Event;
use crate::shard::{CLOSE_TIMEOUT, Shard, count};
use crate::tls::Stream;

const _: () = assert!(sasl::LINE_BYTES_MAX <= WINDOW_BYTES_MAX, "the window holds any line");

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The session closed it: QUIT, or a 421.
    Closed,
    /// The client closed it without a word.
    Gone,
    /// The client did not read its replies in time.
    Stuck,
    /// The connection broke.
    Broken,
}

impl core::fmt::Display for End {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Gone => "client-gone",
            Self::Stuck => "client-does-not-read",
            Self::Broken => "broken",
        })
    }
}

impl From<IoError> for End {
    fn from(error: IoError) -> Self {
        match error.kind {
            IoKind::TimedOut => Self::Stuck,
            IoKind::Closed => Self::Gone,
            _ => Self::Broken,
        }
    }
}

/// Says 421 to a connection that is over a limit, and closes it.
pub async fn refuse<R: Runtime>(rt: &R, conn: &mut R::Conn, refusal: Refusal) {
    let mut out = Outbox::new(rt.buffer());
    refuse_connection(refusal, &mut out);
    let deadline = rt.now() + CLOSE_TIMEOUT;
    if conn.send(out.take(), deadline).await.is_ok() {
        conn.close(deadline).await;
    }
}

/// Runs one session to its end.
pub async fn serve<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    mut visit: Visit<'_, R>,
    settings: &Rc<Settings>,
    durability: Durability,
) -> End {
    let guest = shard.drain.enter_task().await;
    let end = talk(shard, &mut visit, settings, durability).await.unwrap_or_else(|end| end);
    drop(guest);
    end
}

async fn talk<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    visit: &mut Visit<'_, R>,
    settings: &Rc<Settings>,
    durability: Durability,
) -> Result<End, End> {
    let rt = &shard.rt;
    if !settings.access().submission {
        wait_for_turn(shard, visit.stream).await?;
    }
    let mut out = Outbox::new(rt.buffer());
    let from = visit.stream.peer();
    let peer = Peer { ip: from.ip().to_canonical(), port: from.port(), host: None };
    let mut session = Session::new(Rc::clone(settings), peer, rt.now(), rt.unix(), &mut out);
    if let Some(tls) = visit.tls.take() {
        session.secured(rt.now(), tls);
    }
    let mut desk = Desk::new(shard, durability);
    let end = turns(shard, visit, (&mut session, &mut desk), out).await;
    desk.close().await;
    end
}

/// Has a stranger wait for the greeting. One that talks before it may is no mail server.
async fn wait_for_turn<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    stream: &mut Stream<R>,
) -> Result<(), End> {
    let (rt, delay) = (&shard.rt, shard.strangers.greeting_delay());
    let ip = stream.peer().ip().to_canonical();
    let known = shard.verify.as_ref().is_none_or(|settings| settings.trusts(ip));
    if delay.is_zero() || known {
        return Ok(());
    }
    match shard.drain.unless_draining(stream.fill(rt.now() + delay)).await {
        Some(Err(error)) if error.kind == IoKind::TimedOut => Ok(()),
        // The session says that the engine goes down.
        None => Ok(()),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(0)) => Err(End::Gone),
        Some(Ok(_)) => {
            count(&shard.counters.talkers);
            shard.log.event(rt.unix(), Event::EarlyTalker, &[("ip", &ip)]);
            let mut out = Outbox::new(rt.buffer());
            refuse_connection(Refusal::Doubted(Doubt::TooEarly), &mut out);
            let deadline = rt.now() + CLOSE_TIMEOUT;
            stream.send_last(out.take(), deadline).await?;
            stream.close(deadline).await;
            Err(End::Closed)
        }
    }
}

/// Takes turns until the session ends.
async fn turns<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    visit: &mut Visit<'_, R>,
    (session, desk): (&mut Session, &mut Desk<'_, R, M>),
    mut out: Outbox,
) -> Result<End, End> {
    let rt = &shard.rt;
    loop {
        let conn = &mut *visit.stream;
        let turn = session.turn(rt.now(), conn.filled(), &mut out);
        let consumed = turn.consumed;
        match turn.then {
            Then::Again => conn.consume(consumed),
            Then::Body(bytes) => {
                desk.body(bytes, session).await;
                conn.consume(consumed);
            }
            Then::Ask(ask) => {
                let answer = desk.answer(&ask, session).await;
                conn.consume(consumed);
                session.answer(answer.as_answer(), &mut out);
            }
            Then::Reset => {
                desk.reset();
                conn.consume(consumed);
            }
            Then::Flush => {
                conn.consume(consumed);
                conn.send(out.take(), session.deadline()).await?;
                out = Outbox::new(rt.buffer());
            }
            Then::NeedInput => {
                conn.consume(consumed);
                let late = desk.deadline();
                out = need_input(shard, conn, session, out, late).await?;
            }
            Then::StartTls => {
                conn.consume(consumed);
                conn.send(out.take(), rt.now() + CLOSE_TIMEOUT).await?;
                let tls = visit.start_tls(rt.now()).await.map_err(|error| {
                    handshake_failed(shard, &error);
                    End::Broken
                })?;
                session.secured(rt.now(), tls);
                out = Outbox::new(rt.buffer());
            }
            Then::Close => {
                conn.consume(consumed);
                let deadline = rt.now() + CLOSE_TIMEOUT;
                conn.send_last(out.take(), deadline).await?;
                conn.close(deadline).await;
                return Ok(End::Closed);
            }
        }
    }
}

/// Sends what has gathered and waits for the client; while it waits, no reply buffer is held.
async fn need_input<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    conn: &mut Stream<R>,
    session: &mut Session,
    mut out: Outbox,
    late: Instant,
) -> Result<Outbox, End> {
    let rt = &shard.rt;
    // The session knows how long a client may be silent, the desk how long a message may take.
    let silent = session.deadline();
    let deadline = silent.min(late);
    let replies = out.take();
    if replies.is_empty() {
        rt.recycle(replies);
    } else {
        conn.send(replies, deadline).await?;
    }
    // RFC 5321 §3.8: a server that goes down may say 421 at any time; one that need not waits for
    // the end of the transaction.
    let filled = if session.in_transaction() {
        shard.drain.unless_late(conn.fill(deadline)).await
    } else {
        shard.drain.unless_draining(conn.fill(deadline)).await
    };
    let mut out = Outbox::new(rt.buffer());
    match filled {
        Some(Ok(0)) => return Err(End::Gone),
        Some(Ok(_)) => {}
        Some(Err(error)) if error.kind == IoKind::TimedOut => {
            session.expire(rt.now().max(silent), &mut out);
        }
        Some(Err(error)) => return Err(error.into()),
        None => session.shut_down(&mut out),
    }
    Ok(out)
}
