//! One connection to another server: opened, greeted, encrypted where that is offered, used for
//! message after message.
//!
//! Generic over the runtime, so the same code runs on real sockets and on the simulator's. Every
//! reply is kept only as far as somebody needs it: code, and words up to a limit. Failure: a
//! [`Fault`] means that the connection is of no use any more.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::sasl::Mechanism;
use fsmtp_proto::smtp::client::{
    Class, Content, Envelope, Extensions, Failure, Lack, Nobody, Reply, Session, Settings, Then,
    To, proof,
};
use fsmtp_proto::smtp::ext::su::{Exporter, Keys, NONCE_BYTES};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_proto::wire::stuff::Stuffer;
use fsmtp_rt::{Conn, Dial, IoError, IoKind};
use fsmtp_store::queue::WORDS_BYTES_MAX;

use super::letter::{Letter, Over};
use super::pieces::Pieces;
use super::policy::Manner;
use super::routes::Login;
use super::watch::{Step, Watcher, tell};
use crate::shard::CLOSE_TIMEOUT;
use crate::tls::{self, Connector, Proof, Stream};

/// How long a host may take to accept a connection; arbitrary, far beyond what a way there takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one may wait for a connection, or a handshake.
pub(super) fn patience(settings: &Settings) -> Duration {
    settings.timeouts.command.min(CONNECT_TIMEOUT)
}

/// What a server said, as far as anybody needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Said {
    pub(super) code: u16,
    /// All lines with blanks between them, without what is no visible text; cut.
    pub(super) words: String,
}

impl Said {
    fn new(reply: &Reply<'_>) -> Self {
        let mut words = String::new();
        for line in reply.lines() {
            if !words.is_empty() {
                words.push(' ');
            }
            let visible = |c: char| if c.is_control() { ' ' } else { c };
            words.extend(String::from_utf8_lossy(line).chars().map(visible));
            if words.len() > WORDS_BYTES_MAX {
                break;
            }
        }
        while words.len() > WORDS_BYTES_MAX {
            words.pop();
        }
        Self { code: reply.code(), words }
    }

    /// Whether it is a no for good.
    pub(super) const fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.words)
    }
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The network.
    Io(IoError),
    /// The other side does not keep to the protocol.
    Protocol(Failure),
    /// The server does not want us, or says goodbye.
    Refused(Said),
    /// It closed the connection without a word.
    Gone,
    /// TLS did not come about as it should.
    Tls(tls::Failed),
    /// It should be a node of the same owner, and has not proved it.
    Untrusted(String),
    /// Who we are was not accepted; the code of the reply to that, if there was one.
    SignIn(u16, String),
    /// It leads back to this node.
    Loop,
    /// What the sender of the message demands is not there.
    Lacks(Lack),
    /// The message could not be read here.
    Storage(String),
}

impl From<IoError> for Fault {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind == IoKind::TimedOut => f.write_str("no answer in time"),
            Self::Io(error) => error.fmt(f),
            Self::Protocol(failure) => failure.fmt(f),
            Self::Refused(said) => said.fmt(f),
            Self::Gone => f.write_str("the connection was closed"),
            Self::Tls(why) => why.fmt(f),
            Self::Untrusted(why) | Self::SignIn(_, why) => f.write_str(why),
            Self::Lacks(lack) => lack.fmt(f),
            Self::Loop => f.write_str("it leads back to this node"),
            Self::Storage(why) => f.write_str(why),
        }
    }
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    /// For each recipient of the letter what refused it; none: it was accepted.
    pub(super) refused: Vec<Option<Said>>,
    /// What refused the message for all who were accepted.
    pub(super) whole: Option<Said>,
    /// What took it for them.
    pub(super) taken: Option<Said>,
    /// Whether the server sends reports that it was asked for.
    pub(super) dsn: bool,
    /// LMTP: those who were accepted and then did not get it.
    undelivered: Vec<u32>,
}

/// Where turns of the session have led.
enum Event {
    Ready,
    Body,
    StartTls,
    Closed,
}

/// An open connection.
pub(super) struct Link<R: Dial> {
    rt: R,
    stream: Stream<R>,
    session: Session,
    out: Outbox,
    /// Messages that were sent over it.
    pub(super) messages_count: u32,
    /// Something was said since the last message began.
    heard: bool,
    tls: Option<&'static str>,
    /// How long a handshake may take.
    patience: Duration,
    watcher: Watcher,
    /// What is unique about its channel.
    exporter: Option<Exporter>,
    /// Whether the host was proved as REQUIRETLS asks for.
    proved: bool,
}

impl<R: Dial> Link<R> {
    /// Brings the session over a new connection to where it takes messages.
    pub(super) async fn open(
        rt: &R,
        settings: &Rc<Settings>,
        conn: R::Conn,
        own_ports: &[u16],
        Manner { policy, tls }: Manner<'_>,
        watcher: &Watcher,
    ) -> Result<Self, Fault> {
        let (patience, to) = (patience(settings), conn.peer());
        tell(watcher, Step::Connected(to, &policy.name));
        // RFC 5321 §6.3: a way that begins and ends at one host, where we listen.
        if conn.local().ip() == conn.peer().ip() && own_ports.contains(&to.port()) {
            return Err(Fault::Loop);
        }
        let mut link = Self {
            rt: rt.clone(),
            stream: Stream::new(rt.clone(), conn),
            session: Session::new(Rc::clone(settings), rt.now()),
            out: Outbox::new(rt.buffer()),
            messages_count: 0,
            heard: false,
            tls: None,
            patience,
            watcher: watcher.clone(),
            exporter: None,
            proved: false,
        };
        if let Some((connector, proof)) = tls.filter(|_| policy.implicit) {
            // RFC 8314 §3.3
            link.handshake(connector, (&policy.name, proof)).await?;
        }
        link.ready().await?;
        if let Some((connector, proof)) = tls.filter(|_| link.offers_tls()) {
            link.session.start_tls(rt.now(), &mut link.out);
            link.encrypt(connector, (&policy.name, proof)).await?;
        }
        if link.tls.is_none() && !policy.may_less {
            return Err(Fault::Tls(tls::Failed::unoffered()));
        }
        link.proved =
            link.tls.is_some() && tls.is_some_and(|(_, proof)| policy.is_proved_by(proof));
        if let Some(login) = &policy.login {
            link.sign_in(login).await?;
        }
        Ok(link)
    }

    /// Whether STARTTLS would do something.
    const fn offers_tls(&self) -> bool {
        self.tls.is_none() && self.extensions().start_tls
    }

    /// Goes on until nothing is under way.
    async fn ready(&mut self) -> Result<(), Fault> {
        let mut refused = None;
        let heard = &mut |_, reply: &Reply<'_>| {
            if reply.refuses() {
                refused = Some(Said::new(reply));
            }
        };
        match (self.next(&Nobody, heard).await?, refused) {
            (Event::Ready, _) => Ok(()),
            (_, Some(said)) => Err(Fault::Refused(said)),
            (_, None) => Err(Fault::Gone),
        }
    }

    /// STARTTLS was said: makes the handshake, if the server wants it.
    async fn encrypt(&mut self, connector: &Connector, host: (&str, &Proof)) -> Result<(), Fault> {
        // Whatever goes wrong here is about TLS: in clear the same server may do well.
        let failed = |fault: Fault| Fault::Tls(tls::Failed::other(fault));
        match self.next(&Nobody, &mut |_, _| ()).await.map_err(failed)? {
            Event::StartTls => {}
            // It has thought better of it.
            Event::Ready => return Ok(()),
            Event::Body | Event::Closed => return Err(Fault::Gone),
        }
        self.handshake(connector, host).await?;
        self.session.secured(self.rt.now(), &mut self.out);
        self.ready().await
    }

    /// Has both sides prove that they are nodes of one owner; nothing is sent where they are not.
    pub(super) async fn prove(mut self, keys: &Keys, node: &str) -> Result<Self, Fault> {
        let untrusted = |why: &str| Fault::Untrusted(why.to_owned());
        // RFC 9266 §3: below TLS 1.3 somebody in the middle could share it.
        let exporter = self.exporter.filter(|_| self.tls == Some("TLS1.3"));
        let exporter = exporter.ok_or_else(|| untrusted("it offers no TLS 1.3 to prove it in"))?;
        let mut nonce = [0; NONCE_BYTES];
        self.rt.random(&mut nonce);
        let token = keys.token(node, &exporter, &nonce, self.rt.unix());
        let token = token.ok_or_else(|| untrusted("this node has no key of trust"))?;
        self.session.fcapa(self.rt.now(), &mut self.out);
        let mut known = false;
        self.next(&Nobody, &mut |_, reply| known = reply.code() == 601).await?;
        if !known {
            return Err(untrusted("FCAPA is not supported there"));
        }
        self.session.su(self.rt.now(), &token, &mut self.out);
        let mut said = None;
        let heard = &mut |_, reply: &Reply<'_>| {
            let proved = proof(reply).is_some_and(|p| keys.confirm(p, &token, &exporter));
            said = Some((Said::new(reply), proved));
        };
        self.next(&Nobody, heard).await?;
        match said {
            Some((Said { code: 600, .. }, true)) => Ok(self),
            Some((Said { code: 600, .. }, false)) => Err(untrusted("it has no key of ours itself")),
            Some((said, _)) => Err(Fault::Untrusted(said.to_string())),
            None => Err(Fault::Gone),
        }
    }

    async fn handshake(
        &mut self,
        connector: &Connector,
        host: (&str, &Proof),
    ) -> Result<(), Fault> {
        let deadline = self.rt.now() + self.patience;
        let agreed = self.stream.connect_tls(connector, host, deadline).await;
        let agreed = agreed.map_err(Fault::Tls)?;
        self.tls = Some(agreed.version);
        tell(&self.watcher, Step::Encrypted(&agreed, *host.1 != Proof::Anybody));
        self.exporter = agreed.exporter;
        Ok(())
    }

    /// Says who we are, by PLAIN.
    async fn sign_in(&mut self, login: &Login) -> Result<(), Fault> {
        let user = &login.user;
        let failed = |code, why: &dyn fmt::Display| {
            Err(Fault::SignIn(code, format!("cannot sign in as {user}: {why}")))
        };
        // RFC 4954 §4: who listens would have the password. The configuration has seen to that; no
        // mistake there may cost it.
        if self.tls.is_none() && !self.peer().ip().is_loopback() {
            return failed(0, &"there is no TLS");
        }
        if !self.extensions().mechanisms.contains(Mechanism::Plain) {
            return failed(0, &"AUTH PLAIN is not offered");
        }
        let password = login.password().unwrap_or_default();
        if !self.session.auth_plain(self.rt.now(), user, password, &mut self.out) {
            return failed(0, &"the name or the password is none");
        }
        let mut refused = None;
        let heard = &mut |_, reply: &Reply<'_>| {
            refused = reply.refuses().then(|| Said::new(reply));
        };
        match (self.next(&Nobody, heard).await?, refused) {
            (Event::Ready, None) => Ok(()),
            (_, Some(said)) => failed(said.code, &said),
            (_, None) => Err(Fault::Gone),
        }
    }

    /// The version of TLS; none in clear.
    pub(super) const fn tls(&self) -> Option<&'static str> {
        self.tls
    }

    /// Whom it leads to.
    pub(super) fn peer(&self) -> SocketAddr {
        self.stream.peer()
    }

    /// What the server offers.
    pub(super) const fn extensions(&self) -> &Extensions {
        self.session.extensions()
    }

    /// Whether a message with REQUIRETLS may go over it: RFC 8689 §2, §4.2.1.
    pub(super) const fn keeps_tls(&self) -> bool {
        self.proved && self.extensions().require_tls
    }

    /// Whether a message can go over it as it is.
    pub(super) fn carries(&self, letter: &Letter) -> Result<(), Lack> {
        if !self.keeps_tls() && !letter.may_go_without() {
            return Err(Lack::RequireTls);
        }
        self.extensions().carries(&letter.sender())
    }

    /// Sends one message.
    pub(super) async fn send<P: Pieces>(
        &mut self,
        letter: &Letter,
        pieces: &mut P,
    ) -> Result<Verdict, Fault> {
        let count = letter.recipients_count();
        let content =
            if self.session.extensions().chunking { Content::Chunks } else { Content::Data };
        self.session.message(self.rt.now(), content, count);
        self.messages_count += 1;
        self.heard = false;
        let mut verdict = Verdict {
            refused: vec![None; count as usize],
            dsn: self.extensions().dsn,
            ..Verdict::default()
        };
        let mut body = Sending { content, ahead: None, stuffer: Stuffer::new(), begun: false };
        loop {
            let heard = &mut |to: To, reply: &Reply<'_>| verdict.hear(to, reply);
            match self.next(&Over { letter, proved: self.proved }, heard).await? {
                Event::Ready => return Ok(verdict),
                Event::Body => self.body(&mut body, pieces).await?,
                Event::Closed | Event::StartTls => {
                    let said = verdict.whole.filter(|said| said.code == 421);
                    return Err(said.map_or(Fault::Gone, Fault::Refused));
                }
            }
        }
    }

    /// Whether the server has said nothing to the last message.
    pub(super) const fn heard_nothing(&self) -> bool {
        !self.heard
    }

    /// Says goodbye, and does not wait for the answer long.
    pub(super) async fn quit(mut self) {
        self.session.quit(self.rt.now(), &mut self.out);
        let bytes = self.out.take();
        let deadline = self.rt.now() + CLOSE_TIMEOUT;
        if self.stream.send_last(bytes, deadline).await.is_ok() {
            self.stream.close(deadline).await;
        }
    }

    /// Takes turns until the caller has something to do.
    async fn next(
        &mut self,
        envelope: &impl Envelope,
        heard: &mut dyn FnMut(To, &Reply<'_>),
    ) -> Result<Event, Fault> {
        loop {
            let turn =
                self.session.turn(self.rt.now(), self.stream.filled(), envelope, &mut self.out);
            let consumed = turn.consumed;
            match turn.then {
                Then::Reply(to, reply) => {
                    self.heard = true;
                    heard(to, &reply);
                    tell(&self.watcher, Step::Reply(to, &reply));
                    self.stream.consume(consumed);
                }
                Then::NeedInput => {
                    self.flush().await?;
                    if self.stream.fill(self.session.deadline()).await? == 0 {
                        return Err(Fault::Gone);
                    }
                }
                Then::Flush => self.flush().await?,
                Then::Ready => return Ok(Event::Ready),
                Then::Body => return Ok(Event::Body),
                Then::Failed(failure) => return Err(Fault::Protocol(failure)),
                Then::StartTls => return Ok(Event::StartTls),
                Then::Close => {
                    // A last QUIT may wait; whether it gets there makes no difference.
                    let _ = self.flush().await;
                    return Ok(Event::Closed);
                }
            }
        }
    }

    /// Sends the commands that wait.
    async fn flush(&mut self) -> Result<(), Fault> {
        if !self.out.is_empty() {
            let out = Outbox::new(self.rt.buffer());
            let bytes = core::mem::replace(&mut self.out, out).take();
            self.stream.send(bytes, self.session.deadline()).await?;
        }
        Ok(())
    }

    /// Sends of the message what is due: the next chunk, or all of it behind DATA.
    async fn body<P: Pieces>(&mut self, body: &mut Sending, pieces: &mut P) -> Result<(), Fault> {
        if !body.begun {
            body.begun = true;
            body.ahead = pieces.next().await?;
        }
        match body.content {
            Content::Chunks => {
                let piece = body.ahead.take().unwrap_or_default();
                body.ahead = pieces.next().await?;
                let last = body.ahead.is_none();
                self.session.chunk(self.rt.now(), piece.len() as u64, last, &mut self.out);
                self.flush().await?;
                if !piece.is_empty() {
                    self.stream.send(piece, self.session.deadline()).await?;
                }
            }
            Content::Data => {
                let out = Outbox::new(self.rt.buffer());
                let mut bytes = core::mem::replace(&mut self.out, out).take();
                while let Some(piece) = body.ahead.take() {
                    body.stuffer.push(&piece, &mut bytes);
                    body.ahead = pieces.next().await?;
                    if body.ahead.is_some() {
                        self.session.sending(self.rt.now());
                        let full = core::mem::replace(&mut bytes, self.rt.buffer());
                        self.stream.send(full, self.session.deadline()).await?;
                    }
                }
                body.stuffer.finish(&mut bytes);
                self.session.sending(self.rt.now());
                self.stream.send(bytes, self.session.deadline()).await?;
                self.session.body_sent(self.rt.now());
            }
        }
        Ok(())
    }
}

/// A message on its way out.
struct Sending {
    content: Content,
    /// Read ahead: the last chunk says that it is.
    ahead: Option<Vec<u8>>,
    stuffer: Stuffer,
    begun: bool,
}

impl Verdict {
    fn hear(&mut self, to: To, reply: &Reply<'_>) {
        let said = || Some(Said::new(reply));
        let done = reply.class() == Class::Done;
        match to {
            To::Recipient(index) if !done => self.refuse(index, said()),
            To::Message if done => self.taken = said(),
            // RFC 2033 §4.2: for the recipients that were accepted, in their order.
            To::Delivery(_) if done => self.taken = said(),
            To::Delivery(index) => {
                let refused = self.refused.iter().zip(0..);
                let accepted = refused.filter(|(no, _)| no.is_none()).map(|(_, place)| place);
                let place = accepted.chain(self.undelivered.iter().copied());
                let mut places: Vec<u32> = place.collect();
                places.sort_unstable();
                if let Some(&place) = places.get(index as usize) {
                    self.undelivered.push(place);
                    self.refuse(place, said());
                }
            }
            To::Mail | To::Data | To::Chunk | To::Message | To::Nothing if reply.refuses() => {
                self.whole = self.whole.take().or_else(said);
            }
            _ => {}
        }
    }

    fn refuse(&mut self, index: u32, said: Option<Said>) {
        if let Some(place) = self.refused.get_mut(index as usize) {
            *place = said;
        }
    }
}
