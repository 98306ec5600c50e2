//! Hostile servers: the reply parser decides once and keeps to its limits, and a client session
//! under any bytes does not panic, makes progress, keeps its outbox bounded, holds a message for
//! taken only after a 2yz, and tells the same dialogue however the stream is cut. The first byte
//! chooses pipelining, protocol and content, the second the cut.
#![no_main]

use std::rc::Rc;

use fsmtp_proto::smtp::address::Path;
use fsmtp_proto::smtp::client::reply::{LINES_MAX, Parsed, REPLY_BYTES_MAX, parse};
use fsmtp_proto::smtp::client::{
    Content, Envelope, Protocol, Session, Settings, Then, Timeouts, To,
};
use fsmtp_proto::smtp::server::{Recipient, Sender};
use fsmtp_proto::time::Instant;
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use libfuzzer_sys::fuzz_target;

struct Two;

impl Envelope for Two {
    fn sender(&self) -> Sender<'_> {
        Sender::new(Path::Null)
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        assert!(index < 2);
        Recipient::new(Path::Postmaster("postmaster"))
    }
}

/// What the client hears and sends when all bytes are there but shown in pieces.
fn play(bytes: &[u8], mode: u8, piece: usize) -> (Vec<(To, u16)>, Vec<u8>) {
    let now = Instant::from_ns(0);
    let settings = Settings {
        protocol: if mode & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp },
        name: "client.example".into(),
        pipelining: mode & 2 == 0,
        timeouts: Timeouts::default(),
    };
    let content = if mode & 4 == 0 { Content::Data } else { Content::Chunks };
    let mut session = Session::new(Rc::new(settings), now);
    let (mut out, mut sent, mut heard) = (Outbox::new(Vec::new()), Vec::new(), Vec::new());
    let (mut at, mut end, mut messages, mut bodies) = (0, 0, 0, 0);
    for _ in 0..10_000 {
        let turn = session.turn(now, &bytes[at..end], &Two, &mut out);
        assert!(out.bytes().len() <= OUTBOX_BYTES_MAX && turn.consumed <= end - at);
        match turn.then {
            Then::NeedInput if end == bytes.len() => break,
            Then::NeedInput => {
                assert!(end - at < REPLY_BYTES_MAX);
                end = (end + piece).min(bytes.len());
            }
            Then::Flush => assert!(!out.is_empty()),
            Then::Reply(to, reply) => {
                let taken = matches!(to, To::Message | To::Delivery(_)) && !reply.refuses();
                assert!(!taken || reply.code() / 100 == 2);
                heard.push((to, reply.code()));
            }
            Then::Ready if messages == 3 => break,
            Then::Ready => {
                messages += 1;
                session.message(now, content, 2);
            }
            Then::Body if content == Content::Data => session.body_sent(now),
            Then::Body => {
                bodies += 1;
                session.chunk(now, 7, bodies % 3 == 0, &mut out);
            }
            Then::StartTls => panic!("nobody has asked for TLS"),
            Then::Failed(_) | Then::Close => break,
        }
        at += turn.consumed;
        sent.extend_from_slice(&out.take());
    }
    (heard, sent)
}

fuzz_target!(|data: &[u8]| {
    let [mode, piece, bytes @ ..] = data else { return };
    let decided = parse(bytes);
    if let Parsed::Whole(reply) = decided {
        assert!((200..=559).contains(&reply.code()) && reply.bytes().len() <= REPLY_BYTES_MAX);
        assert!(reply.lines().count() <= LINES_MAX);
        assert_eq!(parse(reply.bytes()), decided);
    }
    for cut in 0..bytes.len() {
        let early = parse(&bytes[..cut]);
        assert!(early == Parsed::Partial || early == decided, "a decision was taken back");
    }
    // Bytes that come before they are asked for are seen when they come, so only the replies that
    // both heard must agree.
    let whole = play(bytes, *mode, bytes.len().max(1));
    let cut = play(bytes, *mode, usize::from(*piece) + 1);
    let both = whole.0.len().min(cut.0.len());
    assert_eq!(whole.0[..both.saturating_sub(1)], cut.0[..both.saturating_sub(1)]);
});
