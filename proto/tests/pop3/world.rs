//! A driver for tests: a maildrop in memory, a client whose bytes arrive in given pieces.

use fsmtp_proto::access::{Access, Tls};
use fsmtp_proto::pop3::{
    Answer, Ask, Listing, Nothing, Refusal, Session, Settings, Stuffer, Then, Top, Turn,
};
use fsmtp_proto::sasl::{Question, ScramCredential, ScramKeys};
use fsmtp_proto::time::Instant;
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use std::rc::Rc;
use std::time::Duration;

/// Ten minutes, as the engine has it.
pub(crate) const IDLE: Duration = Duration::from_secs(600);

/// A message of the maildrop; `None` once it is removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) utf8: bool,
    /// RETR and TOP are answered with this instead.
    pub(crate) broken: Option<Refusal>,
}

/// The maildrop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maildrop {
    pub(crate) messages: Vec<Message>,
}

impl Listing for Maildrop {
    fn octets(&self, index: u32) -> u64 {
        self.messages[index as usize].body.len() as u64
    }

    fn unique_id(&self, index: u32) -> impl AsRef<[u8]> {
        format!("id{index}")
    }

    fn needs_utf8(&self, index: u32) -> bool {
        self.messages[index as usize].utf8
    }
}

/// A listener without TLS and AUTH, for USER and PASS in clear.
pub(crate) const CLEAR: Access = Access {
    tls: fsmtp_proto::access::TlsMode::None,
    mechanisms: fsmtp_proto::sasl::Mechanisms::NONE,
    submission: false,
    clear_auth_allowed: true,
};

/// What came of a dialogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Every byte that the client was sent.
    pub(crate) said: Vec<u8>,
    /// Whether the session closed.
    pub(crate) closed: bool,
    /// The message numbers that are left, counted from 1.
    pub(crate) left: Vec<u32>,
}

/// A connection.
pub(crate) struct World {
    session: Session,
    out: Outbox,
    window: Vec<u8>,
    maildrop: Maildrop,
    open: bool,
    /// The handshake is due; bytes wait in the socket until it is done.
    handshaking: bool,
    removed: Vec<u32>,
    said: Vec<u8>,
    closed: bool,
    now: Instant,
}

impl World {
    pub(crate) fn new(maildrop: Maildrop) -> Self {
        Self::with_access(maildrop, CLEAR)
    }

    pub(crate) fn with_access(maildrop: Maildrop, access: Access) -> Self {
        let settings = Settings { node: "node.example.test".into(), idle: IDLE, access };
        let mut out = Outbox::new(Vec::new());
        let now = Instant::from_ns(1);
        let session = Session::new(Rc::new(settings), now, &mut out);
        Self {
            session,
            out,
            window: Vec::new(),
            maildrop,
            open: false,
            handshaking: false,
            removed: Vec::new(),
            said: Vec::new(),
            closed: false,
            now,
        }
    }

    /// Lets time pass, and the session expire if it must.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        if self.now >= self.session.deadline() {
            self.session.expire(self.now, &mut self.out);
            self.arrive(b"");
        }
    }

    /// The handshake that STLS has asked for, or that comes before everything.
    pub(crate) fn handshake(&mut self, tls: Tls) {
        if !self.closed {
            self.handshaking = false;
            assert_eq!(self.window, b"", "nothing is carried over into TLS");
            self.session.secured(self.now, tls);
        }
    }

    /// Bytes arrive; the session does all it can with them.
    pub(crate) fn arrive(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        let mut flushed_for_nothing = 0;
        while !self.closed && !self.handshaking {
            let window = std::mem::take(&mut self.window);
            let turn = if self.open {
                self.session.turn(self.now, &window, &self.maildrop, &mut self.out)
            } else {
                self.session.turn(self.now, &window, &Nothing, &mut self.out)
            };
            assert!(self.out.bytes().len() <= OUTBOX_BYTES_MAX);
            let Turn { consumed, then } = turn;
            let wait = matches!(then, Then::NeedInput);
            match then {
                Then::Again => {}
                Then::NeedInput => self.send(),
                Then::Flush => {
                    assert!(!self.out.is_empty(), "a flush of nothing");
                    flushed_for_nothing += 1;
                    assert!(flushed_for_nothing < 1_000_000, "no end");
                    self.send();
                }
                Then::Ask(ask) => self.ask(ask),
                Then::StartTls => {
                    self.send();
                    self.handshaking = true;
                }
                Then::Close => {
                    self.send();
                    self.closed = true;
                }
            }
            self.window = window[consumed..].to_vec();
            if wait {
                break;
            }
        }
    }

    /// What came of it all.
    pub(crate) fn outcome(self) -> Outcome {
        let count = u32::try_from(self.maildrop.messages.len()).unwrap();
        let left = (1..=count).filter(|n| !self.removed.contains(&(n - 1))).collect();
        Outcome { said: self.said, closed: self.closed, left }
    }

    fn send(&mut self) {
        self.said.extend_from_slice(&self.out.take());
    }

    fn ask(&mut self, ask: Ask<'_>) {
        match ask {
            Ask::Login { user, password } => {
                let answer = match (&*user, password.0) {
                    (b"alice", b"two  words ") => self.opened(),
                    (b"busy", b"pw") => Answer::Refused(Refusal::InUse),
                    (b"soon", b"pw") => Answer::Refused(Refusal::LoginDelay),
                    (b"ill", b"pw") => Answer::Refused(Refusal::Temporary),
                    (b"lost", b"pw") => Answer::Refused(Refusal::Permanent),
                    (b"late", b"pw") => Answer::Refused(Refusal::ShuttingDown),
                    _ => Answer::Refused(Refusal::Credentials),
                };
                self.session.answer(answer, &mut self.out);
            }
            Ask::Auth(question) => self.auth(&question),
            Ask::Retrieve { index, lines } => self.retrieve(index, lines),
            Ask::Update(deletions) => {
                let broken = deletions
                    .iter()
                    .find_map(|index| self.maildrop.messages[index as usize].broken);
                let answer = broken.map_or(Answer::Done, Answer::Refused);
                if broken.is_none() {
                    self.removed = deletions.iter().collect();
                }
                self.session.answer(answer, &mut self.out);
            }
        }
    }

    fn auth(&mut self, question: &Question) {
        let keys = keys();
        let answer = match question {
            Question::ScramKeys { .. } => {
                Answer::Keys { keys: &keys, nonce: b"server nonce here!" }
            }
            Question::Password { user, password } => match (&**user, password.bytes()) {
                ("alice", b"pencil") => self.opened(),
                ("busy", b"pencil") => Answer::Refused(Refusal::InUse),
                ("ill", _) => Answer::Refused(Refusal::Temporary),
                _ => Answer::Refused(Refusal::Credentials),
            },
            Question::Proved { user, .. } if **user == *"alice" => self.opened(),
            Question::External { user } if **user == *"alice" => self.opened(),
            // A driver that is wrong here lets nobody in all the same.
            Question::Disproved { .. } => Answer::Refused(Refusal::Temporary),
            _ => Answer::Refused(Refusal::Credentials),
        };
        self.session.answer(answer, &mut self.out);
    }

    fn opened(&mut self) -> Answer<'static> {
        self.open = true;
        let messages = &self.maildrop.messages;
        Answer::Opened {
            count: u32::try_from(messages.len()).unwrap(),
            octets: messages.iter().map(|message| message.body.len() as u64).sum(),
        }
    }

    fn retrieve(&mut self, index: u32, lines: Option<u64>) {
        let message = self.maildrop.messages[index as usize].clone();
        if let Some(refusal) = message.broken {
            return self.session.answer(Answer::Refused(refusal), &mut self.out);
        }
        self.session.answer(Answer::Ready, &mut self.out);
        self.send();
        let mut top = lines.map(Top::new);
        let mut stuffer = Stuffer::new();
        // Odd pieces on purpose.
        for piece in message.body.chunks(7) {
            let piece = top.as_mut().map_or(piece, |top| top.take(piece));
            stuffer.push(piece, &mut self.said);
        }
        stuffer.finish(&mut self.said);
    }
}

/// The keys of every user: salt and password of RFC 7677 §3.
fn keys() -> ScramKeys {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap();
    let key = |text: &str| bytes(text).try_into().unwrap();
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

/// Plays `bytes`, cut before each index of `cuts`.
pub(crate) fn play(
    maildrop: &Maildrop,
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
) -> Outcome {
    play_in(World::new(maildrop.clone()), bytes, &[], cuts)
}

/// The same on a connection with handshakes, each before the byte with its index.
pub(crate) fn play_in(
    mut world: World,
    bytes: &[u8],
    handshakes: &[(usize, Tls)],
    cuts: impl Iterator<Item = usize>,
) -> Outcome {
    let mut from = 0;
    let mut handshakes = handshakes.iter().peekable();
    for cut in cuts.chain([bytes.len()]) {
        let cut = cut.clamp(from, bytes.len());
        while let Some((at, tls)) = handshakes.next_if(|(at, _)| *at <= cut) {
            world.arrive(&bytes[from..*at]);
            world.handshake(tls.clone());
            from = *at;
        }
        world.arrive(&bytes[from..cut]);
        from = cut;
    }
    world.outcome()
}
