//! A driver for tests: a maildrop in memory, a client whose bytes arrive in given pieces.

use fsmtp_proto::pop3::{
    Answer, Ask, Listing, Nothing, Refusal, Session, Settings, Stuffer, Then, Top, Turn,
};
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
    removed: Vec<u32>,
    said: Vec<u8>,
    closed: bool,
    now: Instant,
}

impl World {
    pub(crate) fn new(maildrop: Maildrop) -> Self {
        let settings = Settings { node: "node.example.test".into(), idle: IDLE };
        let mut out = Outbox::new(Vec::new());
        let now = Instant::from_ns(1);
        let session = Session::new(Rc::new(settings), now, &mut out);
        Self {
            session,
            out,
            window: Vec::new(),
            maildrop,
            open: false,
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

    /// Bytes arrive; the session does all it can with them.
    pub(crate) fn arrive(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        let mut flushed_for_nothing = 0;
        while !self.closed {
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

    fn opened(&mut self) -> Answer {
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

/// Plays `bytes`, cut before each index of `cuts`.
pub(crate) fn play(
    maildrop: &Maildrop,
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
) -> Outcome {
    let mut world = World::new(maildrop.clone());
    let mut from = 0;
    for cut in cuts.chain([bytes.len()]) {
        let cut = cut.clamp(from, bytes.len());
        world.arrive(&bytes[from..cut]);
        from = cut;
    }
    world.outcome()
}
