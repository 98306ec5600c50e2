//! Runs every file in `tests/vectors/dialogue`: as written, in one piece, byte by byte, and cut in
//! two at every place.
//!
//! A file is read line by line; `#` begins a comment.
//!
//! ```text
//! limits size=100 rcptmax=2 mailmax=1     before all others; what is not named is the default
//! access tls=starttls auth=password submission clear      likewise; tls=implicit, auth=all
//! host mail.client.example                the looked-up name of the client
//! C: EHLO client.example                  the client sends this line and CRLF
//! C- .\r\n                                 the client sends exactly this
//! S: 250 2.0.0 OK - fsmtp                 the next reply line, in full ...
//! S: 501 5.5.4*                           ... or its beginning
//! S: (ehlo)                               all lines of a reply to EHLO
//! D: recipient <a@example.test>           the next question to the desk, or `reset`
//! M: Subject: x\r\n\r\n                    the next message that was stored
//! T: 300                                  seconds pass
//! H: bound cert=alice                     the handshake: with a channel binding of 32 letters b,
//!                                         with a certificate; `H: plain` has neither
//! E: closed | open                        at the end (must stand there)
//! ```
//!
//! `\r`, `\n`, `\0`, `\\`, `\xNN` and `\{N c}` (N times c) stand for those bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use fsmtp_proto::access::{Access, Tls, TlsMode};
use fsmtp_proto::sasl::Mechanisms;
use fsmtp_proto::smtp::server::{Limits, Peer};

use super::harness::{GREETING, Seen, World};

enum Line {
    Client(Vec<u8>),
    Server(String),
    Desk(String),
    Message(Vec<u8>),
    Time(Duration),
    Handshake(Tls),
    End(bool),
}

struct Dialogue {
    name: String,
    limits: Limits,
    access: Access,
    host: Option<Rc<str>>,
    lines: Vec<Line>,
}

impl Dialogue {
    fn read(path: &Path) -> Self {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let mut dialogue = Self {
            name,
            limits: Limits::default(),
            access: Access::default(),
            host: None,
            lines: Vec::new(),
        };
        for line in fs::read_to_string(path).expect("readable").lines() {
            dialogue.push(line);
        }
        assert!(matches!(dialogue.lines.last(), Some(Line::End(_))), "{}", dialogue.name);
        dialogue
    }

    fn push(&mut self, line: &str) {
        let (mark, text) = line.split_at_checked(3).unwrap_or((line, ""));
        let mut client = |end: &[u8]| {
            let mut bytes = unescape(text);
            bytes.extend_from_slice(end);
            match self.lines.last_mut() {
                Some(Line::Client(before)) => before.extend(bytes),
                _ => self.lines.push(Line::Client(bytes)),
            }
        };
        match mark {
            "C: " | "C:" => client(b"\r\n"),
            "C- " => client(b""),
            "S: " => self.lines.push(Line::Server(text.into())),
            "D: " => self.lines.push(Line::Desk(text.into())),
            "M: " | "M:" => self.lines.push(Line::Message(unescape(text))),
            "T: " => {
                let seconds = text.parse().expect("seconds");
                self.lines.push(Line::Time(Duration::from_secs(seconds)));
            }
            "H: " => self.lines.push(Line::Handshake(handshake(text))),
            "E: " => self.lines.push(Line::End(text == "closed")),
            _ if line.is_empty() || line.starts_with('#') => {}
            _ if line.starts_with("limits ") => self.limit(line),
            _ if line.starts_with("access ") => self.access(line),
            _ if line.starts_with("host ") => self.host = Some(line[5..].into()),
            _ => panic!("{}: what is {line:?}?", self.name),
        }
    }

    fn limit(&mut self, line: &str) {
        for word in line.split(' ').skip(1) {
            let (name, value) = word.split_once('=').expect("name=value");
            let value: u32 = value.parse().expect("a number");
            match name {
                "size" => self.limits.message_bytes_max = u64::from(value),
                "rcptmax" => self.limits.recipients_max = u16::try_from(value).expect("u16"),
                "mailmax" => self.limits.mails_max = value,
                _ => panic!("{}: no limit {name}", self.name),
            }
        }
    }

    fn access(&mut self, line: &str) {
        for word in line.split(' ').skip(1) {
            match word {
                "tls=starttls" => self.access.tls = TlsMode::StartTls,
                "tls=implicit" => self.access.tls = TlsMode::Implicit,
                "auth=password" => self.access.mechanisms = Mechanisms::PASSWORD,
                "auth=all" => self.access.mechanisms = Mechanisms::ALL,
                "submission" => self.access.submission = true,
                "clear" => self.access.clear_auth_allowed = true,
                _ => panic!("{}: no access {word}", self.name),
            }
        }
    }

    fn world(&self) -> World {
        let ip = "192.0.2.7".parse().expect("an address");
        let peer = Peer { ip, port: 40_001, host: self.host.clone() };
        World::with_access(self.limits, peer, self.access)
    }

    /// Runs it as written and compares what is written.
    fn as_written(&self) -> Seen {
        let mut world = self.world();
        let name = &self.name;
        let (mut replies, mut asked, mut messages) = (GREETING.len(), 0, 0);
        assert_eq!(world.seen.replies, GREETING.as_bytes(), "{name}");
        for line in &self.lines {
            match line {
                Line::Client(bytes) => world.receive(bytes),
                Line::Time(time) => world.wait(*time),
                Line::Handshake(tls) => world.handshake(tls.clone()),
                Line::Server(expected) => {
                    replies += self.compare(expected, &world.seen.replies[replies..]);
                }
                Line::Desk(expected) => {
                    let question = world.seen.asked.get(asked).map(String::as_str);
                    assert_eq!(question, Some(expected.as_str()), "{name}");
                    asked += 1;
                }
                Line::Message(expected) => {
                    let message = world.seen.messages.get(messages).map(|m| m.escape_ascii());
                    let message = message.map(|m| m.to_string());
                    let expected = expected.escape_ascii().to_string();
                    assert_eq!(message, Some(expected), "{name}");
                    messages += 1;
                }
                Line::End(closed) => {
                    let rest = String::from_utf8_lossy(&world.seen.replies[replies..]);
                    assert_eq!(rest, "", "{name}: replies that nobody expected");
                    assert_eq!(world.seen.closed, *closed, "{name}");
                    assert_eq!(world.seen.messages.len(), messages, "{name}");
                    if asked > 0 {
                        assert_eq!(world.seen.asked.len(), asked, "{name}: {:?}", world.seen.asked);
                    }
                }
            }
        }
        world.check_replies();
        world.seen
    }

    /// Compares the reply at the front of `rest` and returns its length.
    fn compare(&self, expected: &str, rest: &[u8]) -> usize {
        let name = &self.name;
        let rest = String::from_utf8_lossy(rest);
        let mut lines = rest.split_inclusive("\r\n");
        if expected == "(ehlo)" {
            let count = lines.clone().take_while(|line| line.starts_with("250-")).count();
            assert!(count > 1 && lines.clone().nth(count).is_some_and(|l| l.starts_with("250 ")));
            return lines.take(count + 1).map(str::len).sum();
        }
        let line = lines.next().unwrap_or_default();
        let reply = line.trim_end_matches("\r\n");
        match expected.strip_suffix('*') {
            Some(front) => assert!(reply.starts_with(front), "{name}: {reply:?}, not {expected}"),
            None => assert_eq!(reply, expected, "{name}"),
        }
        line.len()
    }

    /// The client's bytes, in the groups between which time passes or TLS begins.
    fn stream(&self) -> Vec<(Vec<u8>, Option<&Line>)> {
        let mut groups = vec![(Vec::new(), None)];
        for line in &self.lines {
            match line {
                Line::Client(bytes) => {
                    groups.last_mut().expect("a group").0.extend_from_slice(bytes);
                }
                Line::Time(_) | Line::Handshake(_) => {
                    groups.last_mut().expect("a group").1 = Some(line);
                    groups.push((Vec::new(), None));
                }
                _ => {}
            }
        }
        groups
    }

    /// Runs the bytes in pieces of at most `piece` bytes, with one more cut at `cut`.
    fn in_pieces(&self, piece: usize, cut: usize) -> World {
        let mut world = self.world();
        let mut at = 0;
        for (bytes, then) in self.stream() {
            let place = cut.checked_sub(at).filter(|place| *place <= bytes.len()).unwrap_or(0);
            at += bytes.len();
            let (front, back) = bytes.split_at(place);
            for bytes in front.chunks(piece).chain(back.chunks(piece)) {
                world.receive(bytes);
            }
            match then {
                Some(Line::Time(time)) => world.wait(*time),
                Some(Line::Handshake(tls)) => world.handshake(tls.clone()),
                _ => {}
            }
        }
        world
    }
}

fn handshake(text: &str) -> Tls {
    let mut tls = Tls { version: "TLS1.3", cipher: "TLS_AES_128_GCM_SHA256", ..Tls::default() };
    for word in text.split(' ') {
        match word.split_once('=') {
            None if word == "tls12" => tls.version = "TLS1.2",
            None if word == "bound" => tls.exporter = Some([b'b'; 32]),
            Some(("cert", name)) => tls.certificate = Some(name.into()),
            _ => assert_eq!(word, "plain"),
        }
    }
    tls
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match code {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hex digits"));
                rest = &rest[2..];
            }
            b'{' => {
                let (inner, after) = rest.split_once('}').expect("a closing brace");
                let (count, what) = inner.split_once(' ').expect("a count and a text");
                bytes.extend(unescape(what).repeat(count.parse().expect("a count")));
                rest = after;
            }
            _ => panic!("unknown escape in {text:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn dialogues() -> Vec<Dialogue> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/dialogue");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the folder of dialogues")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 40, "the dialogues must be there: {}", paths.len());
    paths.iter().map(|path| Dialogue::read(path)).collect()
}

#[test]
fn dialogues_go_as_written() {
    for dialogue in dialogues() {
        dialogue.as_written();
    }
}

#[test]
fn dialogues_do_not_depend_on_how_the_stream_is_cut() {
    for dialogue in dialogues() {
        let expected = dialogue.as_written();
        let name = &dialogue.name;
        let len: usize = dialogue.stream().iter().map(|group| group.0.len()).sum();
        assert_eq!(dialogue.in_pieces(1, 0).seen, expected, "{name} byte by byte");
        // The longest ones, which only repeat themselves, are cut at fewer places.
        for cut in (0..=len).step_by(1 + len / 4000) {
            assert_eq!(dialogue.in_pieces(usize::MAX, cut).seen, expected, "{name} cut at {cut}");
        }
    }
}
