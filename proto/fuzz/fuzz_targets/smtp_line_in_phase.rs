//! Hostile bytes at an SMTP session that has come to some phase: no panic, progress in every turn,
//! replies in the form of RFC 5321, one end for each transaction, and the same dialogue however
//! the stream is cut. The first byte chooses the phase, the second the cut.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use fsmtp_proto::access::Access;
use fsmtp_proto::sasl::{self, Mechanisms, Question, ScramCredential, ScramKeys};
use fsmtp_proto::smtp::reply::{REPLY_LINE_BYTES_MAX, Refusal};
use fsmtp_proto::smtp::server::{Answer, Ask, Limits, Peer, Session, Settings, Then};
use fsmtp_proto::time::{Instant, UnixTime};
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use libfuzzer_sys::fuzz_target;

const PHASES: [&str; 11] = [
    "",
    "HELO client.example\r\n",
    "EHLO client.example\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@sender.example> SMTPUTF8\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@example.test>\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n",
    "EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@example.test>\r\nBDAT 9\r\n",
    "EHLO x\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<b@example.test>\r\nBDAT 2\r\n\r.",
    "EHLO client.example\r\nAUTH PLAIN\r\n",
    "EHLO client.example\r\nAUTH LOGIN IWE=\r\n",
    "EHLO client.example\r\nAUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\n",
];

#[derive(Default, PartialEq, Debug)]
struct Seen {
    replies: Vec<u8>,
    messages: Vec<Vec<u8>>,
    questions: usize,
    closed: bool,
}

#[derive(Default)]
struct Desk {
    open: bool,
    body: Vec<u8>,
    keys: Option<ScramKeys>,
}

impl Desk {
    fn answer(&mut self, ask: &Ask<'_>, seen: &mut Seen) -> Answer<'_> {
        seen.questions += 1;
        match ask {
            Ask::Auth(question) => return self.auth(question),
            Ask::Su { .. } => panic!("there is no TLS"),
            Ask::Sender(_) if seen.questions % 5 == 4 => return Answer::Refused(Refusal::Busy),
            Ask::Sender(_) => {
                assert!(!self.open, "the transaction before has ended");
                self.open = true;
            }
            Ask::Recipient(_) if seen.questions % 5 == 3 => {
                return Answer::Refused(Refusal::NoSuchUser);
            }
            Ask::Begin if seen.questions % 7 == 6 => return Answer::Refused(Refusal::DiskLow),
            Ask::Recipient(_) | Ask::Begin => assert!(self.open),
            Ask::Commit if seen.questions % 7 == 6 => return Answer::Refused(Refusal::Storage),
            Ask::Commit => {
                assert!(std::mem::take(&mut self.open));
                seen.messages.push(std::mem::take(&mut self.body));
                return Answer::Stored { id: "0123456789abc" };
            }
        }
        Answer::Accepted
    }

    fn auth(&mut self, question: &Question) -> Answer<'_> {
        match question {
            // Keys that belong to no password.
            Question::ScramKeys { .. } => Answer::Keys {
                keys: self.keys.get_or_insert_with(|| ScramKeys {
                    salt: [1; 64].into(),
                    iterations: 1,
                    credentials: [ScramCredential { stored_key: [2; 32], server_key: [3; 32] }]
                        .into(),
                }),
                nonce: &[4; 18],
            },
            Question::Proved { .. } => panic!("a proof out of nothing"),
            Question::Password { user, .. } if user.starts_with('!') => {
                Answer::SignedIn { user: "alice@example.test" }
            }
            _ => Answer::Refused(Refusal::Credentials),
        }
    }
}

fn play(wire: &[u8], piece_bytes: usize) -> Seen {
    let limits =
        Limits { message_bytes_max: 200, recipients_max: 3, mails_max: 9, ..Limits::default() };
    let Ok(settings) = Settings::new("mx.example.test", limits) else { unreachable!() };
    let access =
        Access { mechanisms: Mechanisms::ALL, clear_auth_allowed: true, ..Access::default() };
    let Ok(settings) = settings.with_access(access) else { unreachable!() };
    let now = Instant::from_ns(0);
    let peer = Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 40_001, host: None };
    let mut out = Outbox::new(Vec::new());
    let unix = UnixTime::from_ms(0);
    let mut session = Session::new(Rc::new(settings), peer, now, unix, &mut out);
    let (mut seen, mut desk) = (Seen::default(), Desk::default());
    let (mut from, mut to) = (0, 0);
    for _ in 0..64 + 8 * wire.len() {
        let turn = session.turn(now, &wire[from..to], &mut out);
        assert!(out.bytes().len() <= OUTBOX_BYTES_MAX && turn.consumed <= to - from);
        match turn.then {
            Then::Again => {}
            Then::Flush => seen.replies.extend(out.take()),
            Then::Body(bytes) => {
                assert!(desk.open && !bytes.is_empty());
                desk.body.extend_from_slice(bytes);
            }
            Then::Ask(ask) => {
                let answer = desk.answer(&ask, &mut seen);
                session.answer(answer, &mut out);
            }
            Then::Reset => {
                assert!(std::mem::take(&mut desk.open), "one reset for each transaction");
                desk.body.clear();
            }
            Then::NeedInput if to == wire.len() => {
                seen.replies.extend(out.take());
                return seen;
            }
            Then::NeedInput => {
                assert!(to - from < sasl::LINE_BYTES_MAX);
                to = (to + piece_bytes).min(wire.len());
            }
            Then::StartTls => panic!("a listener without TLS"),
            Then::Close => {
                seen.replies.extend(out.take());
                seen.closed = true;
                return seen;
            }
        }
        from += turn.consumed;
    }
    panic!("the session makes no progress");
}

fuzz_target!(|data: &[u8]| {
    let [phase, piece, bytes @ ..] = data else { return };
    let prefix = PHASES[usize::from(*phase) % PHASES.len()];
    let wire = [prefix.as_bytes(), bytes].concat();
    let whole = play(&wire, wire.len().max(1));
    for line in whole.replies.split_inclusive(|b| *b == b'\n') {
        assert!(line.len() <= REPLY_LINE_BYTES_MAX && line.ends_with(b"\r\n"));
        assert!(line[..3].iter().all(u8::is_ascii_digit));
        assert!(!line[..line.len() - 2].iter().any(u8::is_ascii_control));
    }
    assert_eq!(play(&wire, 1 + usize::from(*piece)), whole, "it depends on the cut");
});
