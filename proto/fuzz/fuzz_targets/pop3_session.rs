//! A POP3 session under hostile bytes: no panic, a bounded outbox, progress in every turn, and the
//! same dialogue however the stream is cut. The first two bytes choose the cuts.
#![no_main]

use fsmtp_proto::access::Access;
use fsmtp_proto::pop3::{Answer, Ask, Listing, Refusal, Session, Settings, Then};
use fsmtp_proto::sasl::{Mechanisms, Question, ScramCredential, ScramKeys};
use fsmtp_proto::time::Instant;
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use libfuzzer_sys::fuzz_target;
use std::rc::Rc;
use std::time::Duration;

const MESSAGES: u32 = 300;

struct Drop;

impl Listing for Drop {
    fn octets(&self, index: u32) -> u64 {
        u64::from(index) * 1000
    }

    fn unique_id(&self, index: u32) -> impl AsRef<[u8]> {
        format!("{index:070}")
    }

    fn needs_utf8(&self, index: u32) -> bool {
        index % 3 == 0
    }
}

/// Keys that belong to no password.
fn keys() -> ScramKeys {
    ScramKeys {
        salt: [1; 64].into(),
        iterations: 1,
        credentials: [ScramCredential { stored_key: [2; 32], server_key: [3; 32] }].into(),
    }
}

fn answer<'a>(ask: &Ask<'_>, keys: &'a ScramKeys) -> Answer<'a> {
    match ask {
        Ask::Auth(Question::ScramKeys { .. }) => Answer::Keys { keys, nonce: &[4; 18] },
        Ask::Auth(Question::Proved { .. }) => panic!("a proof out of nothing"),
        Ask::Auth(Question::Password { user, .. }) if user.starts_with('!') => {
            Answer::Opened { count: MESSAGES, octets: 0 }
        }
        Ask::Auth(_) => Answer::Refused(Refusal::Credentials),
        Ask::Login { password, .. } if password.0.first() == Some(&b'!') => {
            Answer::Refused(Refusal::Credentials)
        }
        Ask::Login { .. } => Answer::Opened { count: MESSAGES, octets: 0 },
        Ask::Retrieve { index, .. } if index % 5 == 0 => Answer::Refused(Refusal::Gone),
        Ask::Retrieve { .. } => Answer::Ready,
        Ask::Update(deletions) => {
            assert_eq!(deletions.iter().count(), deletions.count() as usize);
            assert!(deletions.iter().all(|index| index < MESSAGES));
            Answer::Done
        }
    }
}

/// Everything that is said when the bytes arrive in pieces of `first`, `then`, `first`, ... bytes.
fn play(bytes: &[u8], first: usize, then: usize) -> (Vec<u8>, bool) {
    let now = Instant::from_ns(0);
    let access =
        Access { mechanisms: Mechanisms::ALL, clear_auth_allowed: true, ..Access::default() };
    let settings = Settings { node: "node".into(), idle: Duration::from_secs(600), access };
    let keys = keys();
    let mut out = Outbox::new(Vec::new());
    let mut session = Session::new(Rc::new(settings), now, &mut out);
    let mut sizes = [first, then].into_iter().cycle();
    let (mut said, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        let turn = session.turn(now, &bytes[at..end], &Drop, &mut out);
        assert!(out.bytes().len() <= OUTBOX_BYTES_MAX);
        assert!(turn.consumed <= end - at);
        at += turn.consumed;
        match turn.then {
            Then::Again => {}
            Then::Flush => {
                assert!(!out.is_empty());
                said.extend_from_slice(&out.take());
            }
            Then::Ask(ask) => session.answer(answer(&ask, &keys), &mut out),
            Then::NeedInput if end == bytes.len() => break,
            Then::NeedInput => end = (end + sizes.next().unwrap_or(1)).min(bytes.len()),
            Then::StartTls => panic!("a listener without TLS"),
            Then::Close => {
                said.extend_from_slice(&out.take());
                return (said, true);
            }
        }
    }
    said.extend_from_slice(&out.take());
    (said, false)
}

fuzz_target!(|data: &[u8]| {
    let [first, then, bytes @ ..] = data else { return };
    let whole = play(bytes, bytes.len().max(1), 1);
    let cut = play(bytes, usize::from(*first) + 1, usize::from(*then) + 1);
    assert!(whole == cut, "the dialogue depends on how the stream was cut");
});
