//! A connection to a milter, for as long as a client's lasts.
//!
//! Opened when the first recipient of a message is accepted, and used for the next messages of the
//! same client; a client that introduces itself anew is told of over another one. What is told
//! stands in `fsmtp_proto::milter`; this moves the bytes and waits.
//!
//! Limits: the plan's time-outs, [`SENT_BYTES_MAX`] bytes that wait to be sent, one chunk of the
//! body, which is charged. Failure: [`Trouble`]; the connection is gone then.

use core::fmt;
use core::mem;
use core::time::Duration;

use fsmtp_proto::milter::{
    Actions, Change, Command, Failure, Field, Session, Stage, Then, Timeouts, Verdict,
};
use fsmtp_rt::{Conn as _, Dial, IoError, Runtime};

use super::changes::{Changes, FieldChange, Recipient, line};
use super::plan::Plan;
use super::verdict::Answer;
use super::{Client, Mail};
use crate::budget::{Charge, Full};
use crate::shard::CLOSE_TIMEOUT;

/// What filters may do with mail from outside: all but to replace its body, which is in the store
/// by the time that they say so.
const ACTIONS: &[Actions] = &[
    Actions::ADD_FIELDS,
    Actions::CHANGE_FIELDS,
    Actions::ADD_RECIPIENTS,
    Actions::DELETE_RECIPIENTS,
    Actions::QUARANTINE,
    Actions::CHANGE_SENDER,
];

/// Fields that the filter does not answer are gathered up to about here before they leave.
const SENT_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the body that are told at once, so that lines which come one by one do not cost a
/// round trip each; arbitrary, half of what a packet may hold.
const CHUNK_BYTES: usize = 32 * 1024;

/// Why a filter is of no use for a message.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// There is no connection to it.
    Unreachable(String),
    /// The connection broke, or it was silent for too long.
    Io(IoError),
    /// It has closed the connection.
    Gone,
    /// It does not speak the protocol as it must.
    Protocol(Failure),
    /// What it says over HTTP is of no use.
    Reply(String),
    /// There is no memory to show it more of the message.
    NoRoom,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Gone => f.write_str("it has closed the connection"),
            Self::Protocol(failure) => failure.fmt(f),
            Self::NoRoom => f.write_str("messages that are shown to filters take too much memory"),
            Self::Unreachable(why) | Self::Reply(why) => f.write_str(why),
        }
    }
}

impl From<IoError> for Trouble {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

/// What a filter has been told of a client; another one needs another connection.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Told {
    helo: Box<str>,
    user: Option<Box<str>>,
    tls: Option<&'static str>,
}

impl Told {
    fn of(client: &Client<'_>) -> Self {
        Self {
            helo: client.helo.into(),
            user: client.user.map(Into::into),
            tls: client.tls.map(|(version, _)| version),
        }
    }
}

struct Link<R: Runtime> {
    rt: R,
    conn: R::Conn,
    session: Session,
    /// How long bytes may take to leave that nobody answers.
    patience: Duration,
    out: Vec<u8>,
    told: Told,
    /// What it has said of the client, which holds for all of its messages.
    of_client: Answer,
}

/// A milter, as one client's session knows it.
pub(super) struct Milter<R: Runtime> {
    link: Option<Link<R>>,
    /// The message under way was told of.
    begun: bool,
    chunk: Vec<u8>,
    charge: Charge,
}

impl<R: Dial> Milter<R> {
    pub(super) const fn new(charge: Charge) -> Self {
        Self { link: None, begun: false, chunk: Vec::new(), charge }
    }

    /// The message under way is none any more.
    pub(super) fn reset(&mut self) {
        self.drop_chunk();
        if mem::take(&mut self.begun)
            && let Some(link) = &mut self.link
        {
            link.session.abort(&mut link.out);
        }
    }

    /// The connection is of no use any more.
    pub(super) fn drop_link(&mut self) {
        self.link = None;
        self.begun = false;
        self.drop_chunk();
    }

    fn drop_chunk(&mut self) {
        self.chunk = Vec::new();
        self.charge.clear();
    }

    /// Whether there is a connection.
    pub(super) const fn is_open(&self) -> bool {
        self.link.is_some()
    }

    /// Tells of client and sender, once for each message.
    pub(super) async fn sender(
        &mut self,
        (rt, plan): (&R, &Plan),
        (client, mail): (&Client<'_>, &Mail<'_>),
    ) -> Result<Answer, Trouble> {
        if self.begun {
            return Ok(Answer::GoOn);
        }
        let told = Told::of(client);
        if let Some(mut link) = self.link.take_if(|link| link.told == told) {
            // One that has waited may be gone; then another is opened.
            if let Ok(answer) = link.sender(mail, client).await {
                self.link = Some(link);
                self.begun = true;
                return Ok(answer);
            }
        }
        let mut link = Link::open(rt, plan, client, told).await?;
        let answer = link.sender(mail, client).await?;
        self.link = Some(link);
        self.begun = true;
        Ok(answer)
    }

    /// May this recipient get the message?
    pub(super) async fn recipient(&mut self, to: &str) -> Result<Answer, Trouble> {
        let Some(link) = &mut self.link else { return Err(Trouble::Gone) };
        let path = format!("<{to}>");
        link.ask(&Command::Recipient(&path, &[]), &[("{rcpt_addr}", to)], None).await
    }

    /// The connection, once a recipient was told of.
    fn under_way(&mut self) -> Option<&mut Link<R>> {
        self.link.as_mut().filter(|_| self.begun)
    }

    /// The message would come now, under this name.
    pub(super) async fn data(&mut self, id: &str) -> Result<Answer, Trouble> {
        let Some(link) = self.under_way() else { return Ok(Answer::GoOn) };
        link.ask(&Command::Data, &[("i", id)], None).await
    }

    /// The header section is over: these are its fields.
    pub(super) async fn header(
        &mut self,
        fields: &[fsmtp_proto::dkim::header::Field<'_>],
        id: &str,
    ) -> Result<Answer, Trouble> {
        let Some(link) = self.under_way() else { return Ok(Answer::GoOn) };
        for field in fields.iter().filter(|field| !field.name().is_empty()) {
            let answer = link.ask(&Command::Field(field.name(), field.value()), &[], None).await?;
            if answer != Answer::GoOn {
                return Ok(answer);
            }
        }
        link.ask(&Command::FieldsEnd, &[("i", id)], None).await
    }

    /// Whether it wants to see the body.
    fn wants_body(&mut self) -> bool {
        self.under_way().is_some_and(|link| link.session.wants(Stage::Body))
    }

    /// Bytes of the body.
    pub(super) async fn body(&mut self, bytes: &[u8]) -> Result<Result<Answer, Full>, Trouble> {
        let mut rest = bytes;
        while self.wants_body() && !rest.is_empty() {
            let room = CHUNK_BYTES - self.chunk.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            if self.charge.add(now.len()).is_err() {
                return Ok(Err(Full));
            }
            // copy: receive window -> the chunk that is sent to the filter.
            self.chunk.extend_from_slice(now);
            rest = later;
            if self.chunk.len() == CHUNK_BYTES {
                let answer = self.flush_body().await?;
                if answer != Answer::GoOn {
                    return Ok(Ok(answer));
                }
            }
        }
        Ok(Ok(Answer::GoOn))
    }

    async fn flush_body(&mut self) -> Result<Answer, Trouble> {
        let chunk = mem::take(&mut self.chunk);
        self.charge.clear();
        match self.under_way().filter(|_| !chunk.is_empty()) {
            Some(link) => link.ask(&Command::Body(&chunk), &[], None).await,
            None => Ok(Answer::GoOn),
        }
    }

    /// The message is over: what the filter thinks, and wants changed.
    pub(super) async fn end(&mut self, id: &str, noted: &mut Noted<'_>) -> Result<Answer, Trouble> {
        let answer = self.flush_body().await?;
        if answer != Answer::GoOn {
            return Ok(answer);
        }
        let Some(link) = self.under_way() else { return Ok(Answer::GoOn) };
        let answer = link.ask(&Command::End, &[("i", id)], Some(noted)).await?;
        self.begun = false;
        Ok(answer)
    }

    /// Says goodbye, if there is anybody.
    pub(super) async fn quit(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        link.session.quit(&mut link.out);
        let deadline = link.rt.now() + CLOSE_TIMEOUT;
        if link.conn.send(mem::take(&mut link.out), deadline).await.is_ok() {
            link.conn.close(deadline).await;
        }
    }
}

impl<R: Runtime> fmt::Debug for Milter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Milter({})", if self.link.is_some() { "open" } else { "closed" })
    }
}

/// Where what a filter wants changed is kept.
pub(super) struct Noted<'c> {
    pub(super) changes: &'c mut Changes,
    /// Why it is junk.
    pub(super) junk: &'c mut Option<Box<str>>,
}

impl Noted<'_> {
    fn take(&mut self, change: Change<'_>, spaced: bool) {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).trim().to_owned();
            let inner = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
            inner.map_or_else(|| text.clone(), ToOwned::to_owned)
        };
        let new = |field: Field<'_>| line(field.name, field.value, spaced);
        let changes = &mut *self.changes;
        match change {
            Change::Add(field) => changes.fields.extend(new(field).map(FieldChange::Add)),
            Change::Insert(at, field) => {
                changes.fields.extend(new(field).map(|line| FieldChange::Insert(at, line)));
            }
            Change::Set(index, field) if field.value.is_empty() => {
                changes.fields.push(FieldChange::Set(field.name.into(), index, None));
            }
            Change::Set(index, field) => {
                let set = |line| FieldChange::Set(field.name.into(), index, Some(line));
                changes.fields.extend(new(field).map(set));
            }
            Change::AddRecipient(to) => changes.recipients.push((Recipient::Added, text(to))),
            Change::DeleteRecipient(to) => changes.recipients.push((Recipient::Deleted, text(to))),
            Change::Sender(from) => changes.sender = Some(text(from)),
            Change::Quarantine(why) => {
                self.junk.get_or_insert_with(|| String::from_utf8_lossy(why).into());
            }
        }
    }
}

impl<R: Dial> Link<R> {
    async fn open(rt: &R, plan: &Plan, client: &Client<'_>, told: Told) -> Result<Self, Trouble> {
        let now = rt.now();
        let unreachable = |why: &dyn fmt::Display| Trouble::Unreachable(why.to_string());
        let conn = rt.dial(None, plan.address, now + plan.connect_timeout).await;
        let conn = conn.map_err(|error| unreachable(&error))?;
        let timeouts = Timeouts { command: plan.command_timeout, message: plan.message_timeout };
        let actions = ACTIONS.iter().fold(Actions::NONE, |all, action| all | *action);
        let mut out = rt.buffer();
        let session = Session::new(timeouts, actions, rt.now(), &mut out);
        let of_client = Answer::GoOn;
        let (rt, patience) = (rt.clone(), plan.command_timeout);
        let mut link = Self { rt, conn, session, patience, out, told, of_client };
        // One that takes connections and does not answer is not there.
        link.settle(None).await.map_err(|trouble| unreachable(&trouble))?;
        let answer = link.client(client).await?;
        link.of_client = answer;
        Ok(link)
    }

    /// Tells who the client is.
    async fn client(&mut self, client: &Client<'_>) -> Result<Answer, Trouble> {
        let (ip, port) = (client.ip.to_string(), client.port.to_string());
        let literal = format!("[{ip}]");
        let host = client.host.unwrap_or(&literal);
        let whole = format!("{host} {literal}");
        let macros = [
            ("j", client.node),
            ("_", whole.as_str()),
            ("{daemon_name}", client.node),
            ("v", VERSION),
            ("{client_addr}", &ip),
            ("{client_name}", host),
            ("{client_ptr}", host),
            ("{client_port}", &port),
        ];
        let connect = Command::Connect(host, client.ip, client.port);
        let answer = self.ask(&connect, &macros, None).await?;
        if answer != Answer::GoOn {
            return Ok(answer);
        }
        let (version, cipher) = client.tls.unwrap_or_default();
        let macros = [("{tls_version}", version), ("{cipher}", cipher)];
        let macros = if client.tls.is_some() { &macros[..] } else { &[] };
        self.ask(&Command::Helo(client.helo), macros, None).await
    }

    /// Tells who a message is from.
    async fn sender(&mut self, mail: &Mail<'_>, client: &Client<'_>) -> Result<Answer, Trouble> {
        if self.of_client != Answer::GoOn {
            return Ok(self.of_client.clone());
        }
        let path = format!("<{}>", mail.from);
        let words = [(mail.eight_bit, "BODY=8BITMIME"), (mail.utf8, "SMTPUTF8")];
        let words: Vec<&str> = words.iter().filter(|(so, _)| *so).map(|(_, word)| *word).collect();
        let mut macros = vec![("{mail_addr}", mail.from)];
        if let Some(user) = client.user {
            // Which mechanism it was makes no difference any more; filters look whether it was one.
            macros.extend([("{auth_type}", "SASL"), ("{auth_authen}", user)]);
        }
        self.ask(&Command::Mail(&path, &words), &macros, None).await
    }

    async fn ask(
        &mut self,
        command: &Command<'_>,
        macros: &[(&str, &str)],
        noted: Option<&mut Noted<'_>>,
    ) -> Result<Answer, Trouble> {
        self.session.tell(self.rt.now(), command, macros, &mut self.out);
        self.settle(noted).await
    }

    /// Takes turns until nothing is awaited.
    async fn settle(&mut self, mut noted: Option<&mut Noted<'_>>) -> Result<Answer, Trouble> {
        let mut answer = Answer::GoOn;
        loop {
            let turn = self.session.turn(self.rt.now(), self.conn.filled());
            let consumed = turn.consumed;
            match turn.then {
                Then::Ready => {
                    if self.out.len() > SENT_BYTES_MAX {
                        let deadline = self.rt.now() + self.patience;
                        self.flush(deadline).await?;
                    }
                    return Ok(answer);
                }
                Then::NeedInput => {
                    let deadline = self.session.deadline();
                    self.flush(deadline).await?;
                    if self.conn.fill(deadline).await? == 0 {
                        return Err(Trouble::Gone);
                    }
                }
                Then::Again => self.conn.consume(consumed),
                Then::Heard(_, verdict) => {
                    answer = verdict.into();
                    if verdict == Verdict::Shutdown {
                        self.of_client = answer.clone();
                    }
                    self.conn.consume(consumed);
                }
                Then::Change(change) => {
                    if let Some(noted) = &mut noted {
                        noted.take(change, self.session.leading_space());
                    }
                    self.conn.consume(consumed);
                }
                Then::Failed(failure) => return Err(Trouble::Protocol(failure)),
            }
        }
    }

    async fn flush(&mut self, deadline: fsmtp_rt::Instant) -> Result<(), Trouble> {
        if !self.out.is_empty() {
            let bytes = mem::replace(&mut self.out, self.rt.buffer());
            self.conn.send(bytes, deadline).await?;
        }
        Ok(())
    }
}

/// What filters are told that we are.
const VERSION: &str = concat!("fsmtp-engine ", env!("CARGO_PKG_VERSION"));
