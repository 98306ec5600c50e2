//! A driver and a desk in memory, which hold the session to its contract on every turn.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use fsmtp_proto::access::{Access, Tls};
use fsmtp_proto::sasl::{
    LINE_BYTES_MAX as RESPONSE_BYTES_MAX, Question, ScramCredential, ScramKeys,
};
use fsmtp_proto::smtp::address::Path;
use fsmtp_proto::smtp::ext::Submitter;
use fsmtp_proto::smtp::ext::su::{KEY_BYTES, Keys};
use fsmtp_proto::smtp::reply::{Code, REPLY_LINE_BYTES_MAX, Refusal};
use fsmtp_proto::smtp::server::{
    Answer, Ask, Limits, Peer, Recipient, Sender, Session, Settings, Then,
};
use fsmtp_proto::time::{Instant, UnixTime};
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};

pub(crate) const GREETING: &str = "220 mx.example.test Fannst ESMTP Mail service ready at \
    Fri, 11 Sep 2020 18:07:18 +0000 - fsmtp\r\n";

/// Everything that one run showed.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) replies: Vec<u8>,
    /// The questions, one line each.
    pub(crate) asked: Vec<String>,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) closed: bool,
}

/// How far the desk has got with a transaction.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
enum Held {
    Nothing,
    Envelope,
    Body,
}

/// One connection with its driver and desk.
pub(crate) struct World {
    session: Session,
    now: Instant,
    window: Vec<u8>,
    out: Outbox,
    held: Held,
    sender: String,
    body: Vec<u8>,
    /// The handshake is due; bytes wait in the socket until it is done.
    handshaking: bool,
    pub(crate) seen: Seen,
    /// Sends that the driver made; each is one system call in life.
    pub(crate) sends_count: usize,
    pub(crate) body_slices_count: usize,
}

impl World {
    pub(crate) fn new(limits: Limits) -> Self {
        let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        Self::with_peer(limits, Peer { ip, port: 40_001, host: None })
    }

    pub(crate) fn with_peer(limits: Limits, peer: Peer) -> Self {
        Self::with_access(limits, peer, Access::default())
    }

    pub(crate) fn with_access(limits: Limits, peer: Peer, access: Access) -> Self {
        let settings = Settings::new("mx.example.test", limits).expect("settings");
        let settings = settings.with_access(access).expect("access");
        let mut out = Outbox::new(Vec::new());
        let now = Instant::from_ns(1_000);
        let unix = UnixTime::from_ms(1_599_847_638_250);
        let session = Session::new(Rc::new(settings), peer, now, unix, &mut out);
        let mut world = Self {
            session,
            now,
            window: Vec::new(),
            out,
            held: Held::Nothing,
            sender: String::new(),
            body: Vec::new(),
            handshaking: false,
            seen: Seen::default(),
            sends_count: 0,
            body_slices_count: 0,
        };
        world.go_on();
        world
    }

    /// Bytes arrive, and the session goes as far as they take it.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        if !self.seen.closed {
            self.window.extend_from_slice(bytes);
            self.go_on();
        }
    }

    /// The handshake that STARTTLS has asked for, or that comes before everything.
    pub(crate) fn handshake(&mut self, tls: Tls) {
        self.handshaking = false;
        assert_eq!(self.window, b"", "nothing is carried over into TLS");
        self.session.secured(self.now, tls);
        self.go_on();
    }

    /// Time passes without bytes.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.session.expire(self.now, &mut self.out);
        self.go_on();
    }

    pub(crate) fn shut_down(&mut self) {
        self.session.shut_down(&mut self.out);
        self.go_on();
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// What was received and not taken yet.
    pub(crate) fn window_bytes(&self) -> usize {
        self.window.len()
    }

    fn go_on(&mut self) {
        if self.handshaking {
            return;
        }
        let window = std::mem::take(&mut self.window);
        let mut from = 0;
        // Each turn consumes, or moves to another phase, or sends: a bound that any run keeps.
        let turns_max = 16 + 4 * window.len();
        for _ in 0..=turns_max {
            let input = &window[from..];
            let turn = self.session.turn(self.now, input, &mut self.out);
            assert!(turn.consumed <= input.len());
            assert!(self.out.bytes().len() <= OUTBOX_BYTES_MAX);
            match turn.then {
                Then::Again => {}
                Then::Flush => {
                    assert!(!self.out.is_empty(), "a flush makes room");
                    self.send();
                }
                Then::Body(bytes) => {
                    assert!(!bytes.is_empty());
                    assert_eq!(self.held, Held::Body, "no body outside of Begin and its end");
                    self.body.extend_from_slice(bytes);
                    self.body_slices_count += 1;
                }
                Then::Ask(ask) => self.ask(ask),
                Then::Reset => {
                    assert_ne!(self.held, Held::Nothing, "one reset for each transaction");
                    self.held = Held::Nothing;
                    self.body.clear();
                    self.seen.asked.push("reset".into());
                }
                Then::NeedInput => {
                    assert_eq!(turn.consumed, 0);
                    assert!(input.len() < RESPONSE_BYTES_MAX, "a full window cannot wait for more");
                    self.send();
                    self.window = input.to_vec();
                    return;
                }
                Then::StartTls => {
                    self.send();
                    self.seen.asked.push("start-tls".into());
                    self.handshaking = true;
                    self.window = input[turn.consumed..].to_vec();
                    return;
                }
                Then::Close => {
                    self.send();
                    self.seen.closed = true;
                    return;
                }
            }
            from += turn.consumed;
        }
        panic!("the session makes no progress");
    }

    fn send(&mut self) {
        if !self.out.is_empty() {
            self.sends_count += 1;
            self.seen.replies.extend_from_slice(&self.out.take());
        }
    }

    fn ask(&mut self, ask: Ask<'_>) {
        self.seen.asked.push(describe(&ask));
        let id = format!("id{:04}", self.seen.messages.len() + 1);
        let answer = match ask {
            Ask::Sender(sender) => self.sender(&sender),
            Ask::Recipient(recipient) => recipient_answer(&recipient),
            Ask::Begin => self.begin(),
            Ask::Commit => self.commit(&id),
            Ask::Auth(question) => return self.auth(&question),
            Ask::Su { token } => return self.su(token),
        };
        self.session.answer(answer, &mut self.out);
    }

    fn su(&mut self, token: &[u8]) {
        let exporter = self.session.tls().and_then(|tls| tls.exporter).expect("a channel");
        match trust().check(token, &exporter, TOKEN_TIME) {
            Ok(granted) => {
                let answer = Answer::Granted { node: &granted.node, proof: &granted.proof };
                self.session.answer(answer, &mut self.out);
            }
            Err(_) => self.session.answer(Answer::Refused(Refusal::Credentials), &mut self.out),
        }
    }

    fn auth(&mut self, question: &Question) {
        let keys = keys();
        let answer = match question {
            Question::ScramKeys { .. } => Answer::Keys { keys: &keys, nonce: &NONCE },
            Question::Password { user, password } => match (&**user, password.bytes()) {
                ("alice", b"pencil") => Answer::SignedIn { user: "alice@example.test" },
                ("ill", _) => Answer::Refused(Refusal::SignInLater),
                ("busy", _) => Answer::Refused(Refusal::Busy),
                ("late", _) => Answer::Refused(Refusal::ShuttingDown),
                _ => Answer::Refused(Refusal::Credentials),
            },
            Question::Proved { client_key, .. } => {
                let hash = ring::digest::digest(&ring::digest::SHA256, client_key.bytes());
                let kept = keys.credentials[0].stored_key;
                assert_eq!(hash.as_ref(), kept, "only the password gives this key");
                Answer::SignedIn { user: "alice@example.test" }
            }
            // A desk that is wrong here lets nobody in all the same.
            Question::Disproved { .. } => Answer::Refused(Refusal::SignInLater),
            Question::External { .. } => Answer::SignedIn { user: "alice@example.test" },
            Question::Bearer { .. } => Answer::Refused(Refusal::Credentials),
        };
        self.session.answer(answer, &mut self.out);
    }

    fn sender(&mut self, sender: &Sender<'_>) -> Answer<'static> {
        assert_eq!(self.held, Held::Nothing, "the transaction before has ended");
        if sender.path.text() == "unwelcome@sender.example" {
            return Answer::Refused(Refusal::Busy);
        }
        self.held = Held::Envelope;
        self.sender = sender.path.text().to_owned();
        Answer::Accepted
    }

    fn begin(&mut self) -> Answer<'static> {
        assert_eq!(self.held, Held::Envelope);
        match self.sender.as_str() {
            "disklow@sender.example" => Answer::Refused(Refusal::DiskLow),
            "goingdown@sender.example" => Answer::Refused(Refusal::ShuttingDown),
            "unheard@sender.example" => told(550, "5.7.1 Not even the message"),
            _ => {
                self.held = Held::Body;
                Answer::Accepted
            }
        }
    }

    fn commit<'a>(&mut self, id: &'a str) -> Answer<'a> {
        assert_eq!(self.held, Held::Body);
        match self.sender.as_str() {
            "storage@sender.example" => Answer::Refused(Refusal::Storage),
            "loop@sender.example" => Answer::Refused(Refusal::TooManyHops),
            "filtered@sender.example" => told(554, "5.7.0 It looks like spam"),
            _ => {
                self.held = Held::Nothing;
                self.seen.messages.push(std::mem::take(&mut self.body));
                Answer::Stored { id }
            }
        }
    }

    /// The replies, checked line by line against the length that RFC 5321 §4.5.3.1.5 allows.
    pub(crate) fn check_replies(&self) {
        assert!(self.seen.replies.is_empty() || self.seen.replies.ends_with(b"\r\n"));
        for line in self.seen.replies.split_inclusive(|b| *b == b'\n') {
            assert!(line.len() <= REPLY_LINE_BYTES_MAX && line.ends_with(b"\r\n"));
            let text = &line[..line.len() - 2];
            assert!(!text.iter().any(u8::is_ascii_control), "{line:?}");
            assert!(text[..3].iter().all(u8::is_ascii_digit), "{line:?}");
            assert!(matches!(text[3], b' ' | b'-'), "{line:?}");
        }
    }
}

/// When the nodes of a dialogue talk.
pub(crate) const TOKEN_TIME: UnixTime = UnixTime::from_ms(1_599_847_638_250);

/// The key of the nodes of a dialogue: 32 letters k.
pub(crate) fn trust() -> Keys {
    Keys::new([&[b'k'; KEY_BYTES]]).expect("one key")
}

/// What the server adds to a client's nonce here: always the same, so that proofs can be written
/// down. In base64: `c2VydmVyIG5vbmNlIGhlcmUh`.
pub(crate) const NONCE: [u8; 18] = *b"server nonce here!";

/// The keys of every user: salt and password of RFC 7677 §3.
pub(crate) fn keys() -> ScramKeys {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let bytes = |text: &str| BASE64_STANDARD.decode(text).expect("base64");
    let key = |text: &str| bytes(text).try_into().expect("32 bytes");
    ScramKeys {
        salt: bytes("W22ZaJ0SNY7soEsUEjb6gQ==").into(),
        iterations: 4096,
        credentials: [ScramCredential {
            stored_key: key("WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="),
            server_key: key("wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="),
        }]
        .into(),
    }
}

/// What a filter has said.
fn told(code: u16, text: &str) -> Answer<'_> {
    Answer::Told(Code::new(code).expect("a code that refuses"), text)
}

fn recipient_answer(recipient: &Recipient<'_>) -> Answer<'static> {
    let Path::Mailbox(mailbox) = recipient.path else { return Answer::Accepted };
    match mailbox.local_part().text() {
        "nobody" => Answer::Refused(Refusal::NoSuchUser),
        "stranger" => Answer::Refused(Refusal::RelayDenied),
        "full" => Answer::Refused(Refusal::MailboxFull),
        "550" => Answer::Refused(Refusal::Magic550),
        "452" => Answer::Refused(Refusal::Magic452),
        "421" => Answer::Refused(Refusal::Magic421),
        "filtered" => told(450, "4.7.1 Greylisted, come again"),
        _ => Answer::Accepted,
    }
}

/// A question in one line, as the dialogues write it.
fn describe(ask: &Ask<'_>) -> String {
    match ask {
        Ask::Sender(sender) => {
            let mut text = format!("sender <{}> {:?}", sender.path.text(), sender.body);
            if let Some(size) = sender.size {
                text += &format!(" size={size}");
            }
            if sender.utf8 {
                text += " utf8";
            }
            if sender.require_tls {
                text += " require-tls";
            }
            if let Some(ret) = sender.ret {
                text += &format!(" ret={ret:?}");
            }
            if let Some(id) = sender.envelope_id {
                text += &format!(" envid={}", id.encoded());
            }
            match sender.submitter {
                None => {}
                Some(Submitter::Unknown) => text += " auth=<>",
                Some(Submitter::Mailbox(mailbox)) => {
                    text += &format!(" auth={}", mailbox.encoded())
                }
            }
            text
        }
        Ask::Recipient(recipient) => {
            let mut text = format!("recipient <{}>", recipient.path.text());
            if let Some(notify) = recipient.notify {
                let names = [
                    (notify.success, "success"),
                    (notify.failure, "failure"),
                    (notify.delay, "delay"),
                ];
                let names: Vec<_> = names.iter().filter(|n| n.0).map(|n| n.1).collect();
                text += &format!(" notify={}", names.join(","));
            }
            if let Some(original) = recipient.original {
                text += &format!(" orcpt={};{}", original.kind, original.address.encoded());
            }
            text
        }
        Ask::Begin => "begin".into(),
        Ask::Commit => "commit".into(),
        Ask::Su { .. } => "token".into(),
        Ask::Auth(question) => match question {
            Question::Password { user, .. } => format!("password of {user}"),
            Question::ScramKeys { user } => format!("keys of {user}"),
            Question::Proved { user, .. } => format!("proved by {user}"),
            Question::Disproved { user } => format!("disproved for {user}"),
            Question::External { user } => format!("certificate of {user}"),
            Question::Bearer { user, .. } => format!("token of {user}"),
        },
    }
}
