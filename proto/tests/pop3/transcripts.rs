//! Plays tests/vectors/pop3/*.txt whole, byte by byte, and cut in two at every place.
//!
//! A line of a transcript:
//! `#` comment; `access tls=starttls auth=password clear` what the listener allows, instead of
//! PASS in clear; `H: bound` the handshake, with a channel binding of 32 letters b, or `H: plain`;
//! `M: text` a message of the maildrop; `U: text` one with UTF-8 headers; `X: code`
//! one that fails (`temp`, `perm`, `gone`); `C: text` the client sends a line; `C+ text` it sends
//! just these bytes; `S: text` the server sends a line; `left: numbers` the messages that are there
//! afterwards; `closed` or `open` how the connection stands at the end.
//! `\r \n \0 \\` and `\xNN` are understood in texts, `\*N(text)` repeats the text N times.

use crate::world::{CLEAR, Maildrop, Message, Outcome, World, play_in};
use fsmtp_proto::access::{Access, Tls, TlsMode};
use fsmtp_proto::pop3::Refusal;
use fsmtp_proto::sasl::Mechanisms;
use std::path::Path;

struct Transcript {
    access: Access,
    maildrop: Maildrop,
    client: Vec<u8>,
    handshakes: Vec<(usize, Tls)>,
    expected: Outcome,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest[at + 1..].chars().next().unwrap();
        let mut used = 2;
        match code {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
                used = 4;
            }
            '*' => {
                let (count, tail) = rest[at + 2..].split_once('(').unwrap();
                let (repeated, tail) = tail.split_once(')').unwrap();
                bytes.extend(unescape(repeated).repeat(count.parse().unwrap()));
                used = rest.len() - at - tail.len();
            }
            other => panic!("\\{other} is not an escape"),
        }
        rest = &rest[at + used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn access(line: &str) -> Access {
    let mut access = Access::default();
    for word in line.split(' ').skip(1) {
        match word {
            "tls=starttls" => access.tls = TlsMode::StartTls,
            "tls=implicit" => access.tls = TlsMode::Implicit,
            "auth=password" => access.mechanisms = Mechanisms::PASSWORD,
            "clear" => access.clear_auth_allowed = true,
            _ => panic!("no access {word}"),
        }
    }
    access
}

fn handshake(text: &str) -> Tls {
    let exporter = match text {
        "bound" => Some([b'b'; 32]),
        "plain" => None,
        _ => panic!("no handshake {text}"),
    };
    Tls { exporter, ..Tls::default() }
}

fn parse(text: &str) -> Transcript {
    let mut clear = CLEAR;
    let mut handshakes = Vec::new();
    let mut maildrop = Maildrop::default();
    let mut client = Vec::new();
    let mut expected = Outcome { said: Vec::new(), closed: false, left: Vec::new() };
    for line in text.lines() {
        let (key, value) = line.split_at(line.len().min(2));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match key {
            "M:" | "U:" => {
                let utf8 = key == "U:";
                maildrop.messages.push(Message { body: unescape(value), utf8, broken: None });
            }
            "X:" => {
                let broken = match value {
                    "temp" => Refusal::Temporary,
                    "perm" => Refusal::Permanent,
                    "gone" => Refusal::Gone,
                    other => panic!("X: {other}"),
                };
                let message =
                    Message { body: b"x\r\n".to_vec(), utf8: false, broken: Some(broken) };
                maildrop.messages.push(message);
            }
            "H:" => handshakes.push((client.len(), handshake(value))),
            "C:" => client.extend([unescape(value), b"\r\n".to_vec()].concat()),
            "C+" => client.extend(unescape(value)),
            "S:" => expected.said.extend([unescape(value), b"\r\n".to_vec()].concat()),
            _ if line.starts_with("access ") => clear = access(line),
            _ if line == "closed" => expected.closed = true,
            _ if line == "open" => expected.closed = false,
            _ if line.starts_with("left:") => {
                let numbers = line.trim_start_matches("left:").split_whitespace();
                expected.left = numbers.map(|n| n.parse().unwrap()).collect();
            }
            _ => assert!(line.is_empty() || line.starts_with('#'), "cannot read {line:?}"),
        }
    }
    Transcript { access: clear, maildrop, client, handshakes, expected }
}

#[track_caller]
fn same(name: &str, how: &str, outcome: &Outcome, expected: &Outcome) {
    let show = |bytes: &[u8]| bytes.escape_ascii().to_string().replace("\\r\\n", "\n");
    assert_eq!(show(&outcome.said), show(&expected.said), "{name}, {how}");
    assert_eq!(outcome, expected, "{name}, {how}");
}

#[test]
fn transcripts_hold_however_the_stream_is_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/pop3");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Transcript { access, maildrop, client, handshakes, expected } =
            parse(&std::fs::read_to_string(&path).unwrap());
        let world = || World::with_access(maildrop.clone(), access);
        let whole = play_in(world(), &client, &handshakes, [].into_iter());
        same(&name, "whole", &whole, &expected);
        let bytes = play_in(world(), &client, &handshakes, 0..client.len());
        same(&name, "byte by byte", &bytes, &expected);
        for cut in 1..client.len() {
            let outcome = play_in(world(), &client, &handshakes, [cut].into_iter());
            same(&name, &format!("cut at {cut}"), &outcome, &expected);
        }
        count += 1;
    }
    assert!(count >= 12, "transcripts are missing: {count}");
}
