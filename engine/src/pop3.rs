//! The POP3 driver: turns of a session, sign-in, and messages read back from the spool.
//!
//! Called once for each accepted connection. A maildrop is open in one session at a time; what was
//! marked deleted goes when QUIT has said so, durably, before it is answered. A message that cannot
//! be read whole ends the connection: a client must not take a part for the whole.

use core::net::IpAddr;
use std::rc::Rc;

use fsmtp_proto::pop3::{
    Answer, Ask, Listing, Nothing, Refusal, Session, Settings, Stuffer, Then, Top,
    refuse_connection,
};
use fsmtp_proto::sasl::{Nonce, Question, ScramKeys};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_rt::{Conn, IoKind, Runtime};
use fsmtp_store::mailbox::{Found, Mailboxes, Maildrop, Message};
use fsmtp_store::spool::Reader;
use fsmtp_store::{MailboxId, QueueId, StoreError};

use crate::accept::{Visit, handshake_failed};
use crate::log::Event;
use crate::shard::{CLOSE_TIMEOUT, Shard, count};
use crate::signin::{Refused, SignedIn, prove, scram_keys, sign_in};
use crate::smtp::End;
use crate::tls::Stream;
use crate::unseal::Unsealer;

/// What sign-ins are said to be for.
const SERVICE: &str = "pop3";
/// Behind the name of a user: which of his mailboxes is meant.
const FOLDERS: [(&str, Folder); 2] = [("/sent", MailboxId::sent), ("/junk", MailboxId::junk)];
/// How often a message that compaction has moved away is looked up again before giving up.
const LOOKUPS_MAX: u32 = 4;
/// Message bytes that are gathered for one send.
const SEND_BYTES: usize = 64 * 1024;

/// Says `-ERR` to a connection that is over a limit, and closes it.
pub async fn refuse<R: Runtime>(rt: &R, conn: &mut R::Conn, refusal: Refusal) {
    let mut out = Outbox::new(rt.buffer());
    refuse_connection(refusal, &mut out);
    let deadline = rt.now() + CLOSE_TIMEOUT;
    if conn.send(out.take(), deadline).await.is_ok() {
        conn.close(deadline).await;
    }
}

/// Runs one session to its end.
pub async fn serve<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    mut visit: Visit<'_, R>,
    settings: &Rc<Settings>,
) -> End {
    let guest = shard.drain.enter_task().await;
    let reader = Reader::sharing(&shard.files, shard.spool.config().segment_bytes);
    let (maildrop, unsealer, keys, user) = (None, None, None, String::new());
    let mut post = Post { shard, settings, maildrop, user, reader, unsealer, keys };
    let end = post.talk(&mut visit).await.unwrap_or_else(|end| end);
    post.release().await;
    drop(guest);
    end
}

/// The maildrop as the session asks for it.
struct List<'m>(&'m Maildrop);

impl Listing for List<'_> {
    fn octets(&self, index: u32) -> u64 {
        message(self.0, index).map_or(0, |message| message.octets)
    }

    fn unique_id(&self, index: u32) -> impl AsRef<[u8]> {
        message(self.0, index).map_or([b'0'; 13], |message| message.id.text())
    }
}

/// Which mailbox of an account is meant.
type Folder = fn(MailboxId) -> MailboxId;

/// Who wants to sign in, and for which mailbox: `me@example.test/Sent`. No account has such a name,
/// for a domain has no slash.
fn named(user: &str) -> (&str, Folder) {
    let (name, folder) = user.split_at(user.rfind('/').unwrap_or(user.len()));
    let known = FOLDERS.iter().find(|(known, _)| folder.eq_ignore_ascii_case(known));
    match known.filter(|_| name.contains('@')) {
        Some((_, folder)) => (name, *folder),
        None => (user, MailboxId::account),
    }
}

fn message(maildrop: &Maildrop, index: u32) -> Option<Message> {
    maildrop.messages().get(usize::try_from(index).ok()?).copied()
}

/// One POP3 connection's side of the store.
struct Post<'s, R: Runtime, M: Mailboxes> {
    shard: &'s Rc<Shard<R, M>>,
    settings: &'s Rc<Settings>,
    maildrop: Option<Maildrop>,
    user: String,
    /// Borrows the shard's segment files, one read at a time.
    reader: Reader<R::Disk>,
    /// None until sign-in, and for a mailbox whose mail lies in clear.
    unsealer: Option<Box<Unsealer<'s, R, M>>>,
    /// What SCRAM goes on with.
    keys: Option<Box<(ScramKeys, Nonce)>>,
}

impl<'s, R: Runtime, M: Mailboxes> Post<'s, R, M> {
    async fn talk(&mut self, visit: &mut Visit<'_, R>) -> Result<End, End> {
        let rt = self.shard.rt.clone();
        let mut out = Outbox::new(rt.buffer());
        let mut session = Session::new(Rc::clone(self.settings), rt.now(), &mut out);
        if let Some(tls) = visit.tls.take() {
            session.secured(rt.now(), tls);
        }
        loop {
            let conn = &mut *visit.stream;
            let turn = match &self.maildrop {
                Some(maildrop) => session.turn(rt.now(), conn.filled(), &List(maildrop), &mut out),
                None => session.turn(rt.now(), conn.filled(), &Nothing, &mut out),
            };
            let consumed = turn.consumed;
            match turn.then {
                Then::Again => conn.consume(consumed),
                Then::Flush => {
                    conn.consume(consumed);
                    conn.send(out.take(), session.deadline()).await?;
                    out = Outbox::new(rt.buffer());
                }
                Then::Ask(Ask::Login { user, password }) => {
                    let password = password.0.to_vec(); // copy: the window moves on
                    let user = String::from_utf8_lossy(&user).into_owned();
                    conn.consume(consumed);
                    let from = conn.peer().ip();
                    let answer = self.login(&user, &password, from).await;
                    session.answer(answer, &mut out);
                }
                Then::Ask(Ask::Auth(question)) => {
                    conn.consume(consumed);
                    let answer = self.authenticate(&question, conn.peer().ip()).await;
                    session.answer(answer, &mut out);
                }
                Then::Ask(Ask::Retrieve { index, lines }) => {
                    conn.consume(consumed);
                    out = self.retrieve(conn, &mut session, out, index, lines).await?;
                }
                Then::Ask(Ask::Update(deletions)) => {
                    conn.consume(consumed);
                    let answer = self.update(deletions.iter().collect()).await;
                    session.answer(answer, &mut out);
                }
                Then::NeedInput => {
                    conn.consume(consumed);
                    out = self.need_input(conn, &mut session, out).await?;
                }
                Then::StartTls => {
                    conn.consume(consumed);
                    conn.send(out.take(), rt.now() + CLOSE_TIMEOUT).await?;
                    let tls = visit.start_tls(rt.now()).await.map_err(|error| {
                        handshake_failed(self.shard, &error);
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

    /// Sends what has gathered and waits for the client.
    async fn need_input(
        &mut self,
        conn: &mut Stream<R>,
        session: &mut Session,
        mut out: Outbox,
    ) -> Result<Outbox, End> {
        let rt = &self.shard.rt;
        let deadline = session.deadline();
        let replies = out.take();
        if replies.is_empty() {
            rt.recycle(replies);
        } else {
            conn.send(replies, deadline).await?;
        }
        let filled = self.shard.drain.unless_draining(conn.fill(deadline)).await;
        let mut out = Outbox::new(rt.buffer());
        match filled {
            Some(Ok(0)) => return Err(End::Gone),
            Some(Ok(_)) => {}
            Some(Err(error)) if error.kind == IoKind::TimedOut => {
                session.expire(rt.now().max(deadline), &mut out);
            }
            Some(Err(error)) => return Err(error.into()),
            None => session.shut_down(&mut out),
        }
        Ok(out)
    }

    async fn login(&mut self, user: &str, password: &[u8], from: IpAddr) -> Answer<'static> {
        let (user, folder) = named(user);
        let signed_in = sign_in(self.shard, user, password, from, SERVICE).await;
        self.enter(signed_in, folder).await
    }

    async fn authenticate(&mut self, question: &Question, from: IpAddr) -> Answer<'_> {
        let (user, folder) = named(question.user());
        let signed_in = match question {
            Question::Password { password, .. } => {
                sign_in(self.shard, user, password.bytes(), from, SERVICE).await
            }
            Question::ScramKeys { .. } => match scram_keys(self.shard, user, from, SERVICE) {
                Ok(keys) => {
                    let (keys, nonce) = &**self.keys.insert(Box::new(keys));
                    return Answer::Keys { keys, nonce };
                }
                Err(refused) => Err(refused),
            },
            Question::Proved { client_key, .. } => {
                prove(self.shard, user, Some(client_key), from, SERVICE).await
            }
            Question::Disproved { .. } => prove(self.shard, user, None, from, SERVICE).await,
            // Not offered; a certificate could not open a sealed mailbox, either.
            Question::External { .. } | Question::Bearer { .. } => Err(Refused::Later),
        };
        self.enter(signed_in, folder).await
    }

    async fn enter(
        &mut self,
        signed_in: Result<SignedIn, Refused>,
        folder: Folder,
    ) -> Answer<'static> {
        self.keys = None;
        match signed_in {
            Ok(signed_in) => self.open(signed_in, folder).await,
            Err(Refused::Wrong) => Answer::Refused(Refusal::Credentials),
            Err(Refused::Later | Refused::Locked(_)) => Answer::Refused(Refusal::Temporary),
        }
    }

    /// Opens the maildrop of somebody who has signed in, or another of his mailboxes.
    async fn open(&mut self, signed_in: SignedIn, folder: Folder) -> Answer<'static> {
        let SignedIn { account, key } = signed_in;
        let mailbox = folder(account.mailbox);
        match self.shard.mailboxes.open(mailbox).await {
            Ok(maildrop) => {
                let messages = maildrop.messages();
                let answer = Answer::Opened {
                    count: u32::try_from(messages.len()).unwrap_or(u32::MAX),
                    octets: messages.iter().map(|message| message.octets).sum(),
                };
                self.maildrop = Some(maildrop);
                self.user.clone_from(&account.address);
                let unsealer = |key| Box::new(Unsealer::new(self.shard, mailbox, key));
                self.unsealer = key.map(unsealer);
                answer
            }
            Err(StoreError::InUse) => Answer::Refused(Refusal::InUse),
            Err(_) => Answer::Refused(Refusal::Temporary),
        }
    }

    fn log(&self, event: Event, fields: &[(&str, &dyn core::fmt::Display)]) {
        self.shard.log.event(self.shard.rt.unix(), event, fields);
    }

    /// Gives a message out: first found, then announced, then sent whole.
    async fn retrieve(
        &mut self,
        conn: &mut Stream<R>,
        session: &mut Session,
        mut out: Outbox,
        index: u32,
        lines: Option<u64>,
    ) -> Result<Outbox, End> {
        let maildrop = self.maildrop.as_ref();
        let Some((mailbox, entry)) =
            maildrop.and_then(|maildrop| Some((maildrop.mailbox(), message(maildrop, index)?)))
        else {
            session.answer(Answer::Refused(Refusal::Gone), &mut out);
            return Ok(out);
        };
        if let Err(error) = self.find(mailbox, entry).await {
            let refusal = match error {
                StoreError::NotFound(_) => Refusal::Gone,
                StoreError::Corrupt { .. } => Refusal::Permanent,
                _ => Refusal::Temporary,
            };
            if refusal == Refusal::Permanent {
                self.log(Event::MessageDamaged, &[("id", &entry.id), ("why", &error)]);
            }
            session.answer(Answer::Refused(refusal), &mut out);
            return Ok(out);
        }
        // The first piece is read before the message is announced, so that damage is an `-ERR`.
        let mut piece = match self.piece(entry.id).await {
            Ok(piece) => piece,
            Err(error) => {
                self.log(Event::MessageDamaged, &[("id", &entry.id), ("why", &error)]);
                session.answer(Answer::Refused(Refusal::Permanent), &mut out);
                return Ok(out);
            }
        };
        session.answer(Answer::Ready, &mut out);
        let mut bytes = out.take();
        let mut top = lines.map(Top::new);
        let mut stuffer = Stuffer::new();
        while let Some(whole) = piece {
            let part = top.as_mut().map_or(whole.as_slice(), |top| top.take(&whole));
            stuffer.push(part, &mut bytes);
            if top.as_ref().is_some_and(Top::is_done) {
                break;
            }
            if bytes.len() >= SEND_BYTES {
                // Each piece has its own time: a slow client that reads on is served.
                let deadline = self.shard.rt.now() + self.settings.idle;
                conn.send(core::mem::take(&mut bytes), deadline).await?;
            }
            piece = self.piece(entry.id).await.map_err(|error| {
                self.log(Event::MessageDamaged, &[("id", &entry.id), ("why", &error)]);
                End::Broken
            })?;
        }
        stuffer.finish(&mut bytes);
        conn.send(bytes, self.shard.rt.now() + self.settings.idle).await?;
        count(&self.shard.counters.messages_retrieved);
        Ok(Outbox::new(self.shard.rt.buffer()))
    }

    /// Has the reader begin with a message.
    async fn find(&mut self, mailbox: MailboxId, message: Message) -> Result<(), StoreError> {
        let Found { body, key } = self.shard.mailboxes.find(mailbox, message).await?;
        let has_keys = self.unsealer.is_some() || self.has_keys(mailbox);
        match (key, &mut self.unsealer) {
            (None, _) => self.reader.open(body),
            (Some(key), Some(unsealer)) => {
                let key = unsealer.content_key(&key, message.id).await?;
                self.reader.open_sealed(body, &key);
            }
            // Whoever has signed in before the account got keys reads on after the next sign-in.
            (Some(_), None) if has_keys => return Err(StoreError::Busy),
            (Some(_), None) => {
                return Err(StoreError::Corrupt {
                    place: format!("message {}", message.id),
                    why: "it is sealed, and the account has no keys any more".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn has_keys(&self, mailbox: MailboxId) -> bool {
        let directory = self.shard.directory.borrow();
        directory.owner(mailbox).is_some_and(|account| account.lock.sealed().is_some())
    }

    /// The next piece; looks again where the message is when compaction has moved it meanwhile.
    async fn piece(&mut self, id: QueueId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut lookups = 0;
        loop {
            if let Some((id, number)) = self.reader.wants() {
                self.reader.give(self.shard.mailboxes.fetch(id, number).await?);
            }
            match self.reader.next().await {
                Err(StoreError::Moved) if lookups < LOOKUPS_MAX => {
                    lookups += 1;
                    let place = self.shard.mailboxes.locate(id).await?;
                    self.reader.relocate(place)?;
                }
                other => return other,
            }
        }
    }

    /// QUIT: the deletions become durable, then the maildrop is free (RFC 1939 §6).
    async fn update(&mut self, deletions: Vec<u32>) -> Answer<'static> {
        let Some(maildrop) = self.maildrop.take() else { return Answer::Done };
        let deleted = deletions.len();
        let uids = deletions.iter().filter_map(|&i| message(&maildrop, i)).map(|m| m.uid).collect();
        let closed = self.shard.mailboxes.close(maildrop, uids).await;
        self.settle().await;
        match closed {
            Ok(()) => {
                self.log(Event::MaildropClosed, &[("user", &self.user), ("deleted", &deleted)]);
                Answer::Done
            }
            Err(error) => {
                self.log(Event::StorageFailed, &[("user", &self.user), ("why", &error)]);
                Answer::Refused(Refusal::Temporary)
            }
        }
    }

    /// Keeps what RSA has opened, for the next visit.
    async fn settle(&mut self) {
        if let Some(unsealer) = &mut self.unsealer {
            unsealer.settle().await;
        }
    }

    /// The connection has ended without QUIT: nothing is deleted (RFC 1939 §6).
    async fn release(&mut self) {
        if let Some(maildrop) = self.maildrop.take() {
            // An error leaves the lock to the index, which frees it when the handle is gone.
            let _ = self.shard.mailboxes.close(maildrop, Vec::new()).await;
        }
        self.settle().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_ask_for_another_mailbox() {
        for (name, user, mailbox) in [
            ("me@a.test/Sent", "me@a.test", MailboxId(7).sent()),
            ("me@a.test/SENT", "me@a.test", MailboxId(7).sent()),
            ("me@a.test/Junk", "me@a.test", MailboxId(7).junk()),
            ("me@a.test", "me@a.test", MailboxId(7)),
            ("me/sent", "me/sent", MailboxId(7)),
            ("me/sent@a.test", "me/sent@a.test", MailboxId(7)),
            ("me@a.test/sent/", "me@a.test/sent/", MailboxId(7)),
            ("me@a.test/x", "me@a.test/x", MailboxId(7)),
            ("", "", MailboxId(7)),
        ] {
            let (found, folder) = named(name);
            assert_eq!((found, folder(MailboxId(7))), (user, mailbox));
        }
    }
}
