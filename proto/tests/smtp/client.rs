//! The client session against our own server session, and against servers that are none.

use std::rc::Rc;
use std::time::Duration;

use fsmtp_proto::access::{Access, Tls, TlsMode};
use fsmtp_proto::sasl::{Mechanism, Mechanisms};
use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_proto::smtp::client::{
    Content, Envelope, Extensions, Failure, Garbage, Nobody, Protocol, Session, Settings, Then,
    Timeouts, To, UNHEARD_MAX, proof,
};
use fsmtp_proto::smtp::ext::su::Exporter;
use fsmtp_proto::smtp::ext::{BodyType, Notify, Return};
use fsmtp_proto::smtp::server::{Limits, Peer, Recipient, Sender};
use fsmtp_proto::time::Instant;
use fsmtp_proto::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use fsmtp_proto::wire::stuff::Stuffer;
use fsmtp_proto::wire::token::Xtext;

use crate::harness::{Seen, TOKEN_TIME, World, trust};

struct Letter {
    from: &'static str,
    to: Vec<String>,
    parameters: bool,
    require_tls: bool,
}

fn letter(from: &'static str, to: &[&str]) -> Letter {
    Letter {
        from,
        to: to.iter().map(ToString::to_string).collect(),
        parameters: false,
        require_tls: false,
    }
}

fn path(address: &str) -> Path<'_> {
    if address.is_empty() {
        Path::Null
    } else {
        Path::Mailbox(Mailbox::parse(address).expect("an address"))
    }
}

impl Envelope for Letter {
    fn sender(&self) -> Sender<'_> {
        let plain = Sender { require_tls: self.require_tls, ..Sender::new(path(self.from)) };
        if !self.parameters {
            return plain;
        }
        Sender {
            size: Some(20),
            body: BodyType::EightBit,
            utf8: true,
            ret: Some(Return::Headers),
            envelope_id: Xtext::parse(b"QQ+2B1", false),
            ..plain
        }
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        let plain = Recipient::new(path(&self.to[index as usize]));
        let never = Notify { success: false, failure: false, delay: false };
        Recipient { notify: self.parameters.then_some(never), ..plain }
    }
}

/// What the driver does when nothing is under way.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    StartTls,
    Auth(&'static str, &'static str),
    Fcapa,
    Su(Exporter),
    Message(usize, Content),
    Reset,
    Quit,
}

/// The other side: takes what the client sends, gives what it says.
trait Server {
    fn receive(&mut self, bytes: &[u8]) -> Vec<u8>;
    fn handshake(&mut self) -> Vec<u8>;
}

struct Ours {
    world: World,
    told: usize,
}

impl Ours {
    fn new(access: Access) -> (Self, Vec<u8>) {
        let ip = std::net::Ipv4Addr::new(192, 0, 2, 7).into();
        let world =
            World::with_access(Limits::default(), Peer { ip, port: 40_001, host: None }, access);
        let mut ours = Self { world, told: 0 };
        let greeting = ours.news();
        (ours, greeting)
    }

    fn news(&mut self) -> Vec<u8> {
        let news = self.world.seen.replies[self.told..].to_vec();
        self.told += news.len();
        news
    }
}

impl Server for Ours {
    fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.world.receive(bytes);
        self.news()
    }

    fn handshake(&mut self) -> Vec<u8> {
        let exporter = Some(CHANNEL);
        self.world.handshake(Tls { version: "TLS1.3", exporter, ..Tls::default() });
        self.news()
    }
}

/// Answers each line of the client with the next of its texts; body lines are lines, too.
struct Script<I>(I);

impl<I: Iterator<Item = &'static str>> Server for Script<I> {
    fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.0.by_ref().take(lines).collect::<String>().into_bytes()
    }

    fn handshake(&mut self) -> Vec<u8> {
        panic!("a script has no TLS")
    }
}

#[derive(PartialEq, Debug, Default)]
struct Heard {
    replies: Vec<(To, u16)>,
    failed: Option<Failure>,
    closed: bool,
    sent: Vec<u8>,
    sends_count: usize,
    offered: Extensions,
    proof: Option<Vec<u8>>,
}

const BODY: &[u8] = b"Subject: x\r\n\r\n.dot\r\nend\r\n";

fn settings(pipelining: bool, protocol: Protocol) -> Rc<Settings> {
    let timeouts = Timeouts::default();
    Rc::new(Settings { protocol, name: "client.example".into(), pipelining, timeouts })
}

struct Run<'a> {
    letters: &'a [Letter],
    steps: &'a [Step],
    /// Bytes that arrive at once at the client.
    piece: usize,
    /// Chunks that a message is cut into.
    chunks: usize,
}

/// A driver of the session.
struct Driver<'a, S> {
    run: &'a Run<'a>,
    server: &'a mut S,
    /// What the server has said and the client has not seen.
    wire: Vec<u8>,
    heard: Heard,
    /// The letter that is under way, and how it travels.
    letter: Option<(usize, Content)>,
    chunk: usize,
}

const NOW: Instant = Instant::from_ns(1_000);
const CHANNEL: Exporter = [5; 32];

impl<S: Server> Driver<'_, S> {
    fn send(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.heard.sends_count += 1;
            self.heard.sent.extend_from_slice(bytes);
            self.wire.extend(self.server.receive(bytes));
        }
    }

    fn begin(&mut self, step: Step, session: &mut Session, out: &mut Outbox) {
        self.letter = None;
        match step {
            Step::StartTls => session.start_tls(NOW, out),
            Step::Auth(user, password) => {
                assert!(session.auth_plain(NOW, user, password.as_bytes(), out));
            }
            Step::Fcapa => session.fcapa(NOW, out),
            Step::Su(exporter) => {
                let token = trust().token("client.example", &exporter, &[7; 16], TOKEN_TIME);
                session.su(NOW, &token.expect("a token"), out);
            }
            Step::Message(index, content) => {
                self.letter = Some((index, content));
                self.chunk = 0;
                session.message(NOW, content, self.run.letters[index].to.len() as u32);
            }
            Step::Reset => session.reset(NOW, out),
            Step::Quit => session.quit(NOW, out),
        }
    }

    fn body(&mut self, session: &mut Session, out: &mut Outbox) {
        if matches!(self.letter, Some((_, Content::Chunks))) {
            let size = BODY.len().div_ceil(self.run.chunks);
            let piece = BODY.chunks(size).nth(self.chunk).expect("a chunk is due");
            self.chunk += 1;
            session.chunk(NOW, piece.len() as u64, self.chunk == self.run.chunks, out);
            self.send(&[&out.take()[..], piece].concat());
        } else {
            let mut bytes = out.take();
            let mut stuffer = Stuffer::new();
            stuffer.push(BODY, &mut bytes);
            stuffer.finish(&mut bytes);
            self.send(&bytes);
            session.body_sent(NOW);
        }
    }
}

/// Lets a client of `settings` talk to `server`, whose greeting was `first`.
fn talk(run: &Run<'_>, settings: &Rc<Settings>, server: &mut impl Server, first: &[u8]) -> Heard {
    let mut session = Session::new(Rc::clone(settings), NOW);
    let (mut out, mut window) = (Outbox::new(Vec::new()), Vec::new());
    let (wire, heard) = (first.to_vec(), Heard::default());
    let mut driver = Driver { run, server, wire, heard, letter: None, chunk: 0 };
    let mut steps = run.steps.iter();
    for _ in 0..100_000 {
        let mut arrived = Vec::new();
        let turn = match driver.letter {
            Some((index, _)) => session.turn(NOW, &window, &run.letters[index], &mut out),
            None => session.turn(NOW, &window, &Nobody, &mut out),
        };
        assert!(out.bytes().len() <= OUTBOX_BYTES_MAX);
        match turn.then {
            Then::NeedInput => {
                driver.send(&out.take());
                assert!(session.deadline() > NOW && session.deadline() < Instant::FAR);
                if driver.wire.is_empty() {
                    return driver.heard;
                }
                arrived.extend(driver.wire.drain(..run.piece.min(driver.wire.len())));
            }
            Then::Flush => {
                assert!(!out.is_empty());
                driver.send(&out.take());
            }
            Then::Reply(to, reply) => {
                driver.heard.proof = proof(&reply).map(<[u8]>::to_vec).or(driver.heard.proof);
                driver.heard.replies.push((to, reply.code()));
            }
            Then::Ready => {
                driver.heard.offered = *session.extensions();
                assert_eq!(session.deadline(), Instant::FAR);
                let Some(step) = steps.next() else { return driver.heard };
                driver.begin(*step, &mut session, &mut out);
            }
            Then::Body => driver.body(&mut session, &mut out),
            Then::StartTls => {
                assert!(window.is_empty() && driver.wire.is_empty());
                driver.wire.extend(driver.server.handshake());
                session.secured(NOW, &mut out);
                assert_eq!(*session.extensions(), Extensions::default());
            }
            Then::Failed(failure) => {
                driver.heard.failed = Some(failure);
                return driver.heard;
            }
            Then::Close => {
                driver.send(&out.take());
                driver.heard.closed = true;
                return driver.heard;
            }
        }
        let consumed = turn.consumed;
        window.drain(..consumed);
        window.extend(arrived);
    }
    panic!("the session makes no progress");
}

/// The same dialogue for every size of the pieces in which replies arrive.
fn with_ours(
    letters: &[Letter],
    steps: &[Step],
    access: Access,
    pipelining: bool,
) -> (Heard, Seen) {
    let settings = settings(pipelining, Protocol::Smtp);
    let run = |piece: usize| {
        let (mut server, greeting) = Ours::new(access);
        let run = Run { letters, steps, piece, chunks: 2 };
        let heard = talk(&run, &settings, &mut server, &greeting);
        server.world.check_replies();
        (heard, server.world.seen)
    };
    let whole = run(usize::MAX);
    for piece in [1, 2, 7, 50] {
        let (mut heard, seen) = run(piece);
        // How many replies arrive at once decides how many commands leave at once.
        heard.sends_count = whole.0.sends_count;
        assert!((heard, seen) == whole, "pieces of {piece} make another dialogue");
    }
    whole
}

fn scripted(steps: &[Step], pipelining: bool, protocol: Protocol, said: &[&'static str]) -> Heard {
    let whole = scripted_once(steps, pipelining, protocol, said, usize::MAX);
    for piece in [1, 3] {
        let mut heard = scripted_once(steps, pipelining, protocol, said, piece);
        heard.sends_count = whole.sends_count;
        assert_eq!(heard, whole, "pieces of {piece}");
    }
    whole
}

fn scripted_once(
    steps: &[Step],
    pipelining: bool,
    protocol: Protocol,
    said: &[&'static str],
    piece: usize,
) -> Heard {
    let to: Vec<String> = (0..2).map(|n| format!("u{n}@example.test")).collect();
    let letters = [Letter { from: "", to, parameters: false, require_tls: false }];
    let mut texts = said.iter().copied();
    let first = texts.next().unwrap_or_default();
    let run = Run { letters: &letters, steps, piece, chunks: 1 };
    talk(&run, &settings(pipelining, protocol), &mut Script(texts), first.as_bytes())
}

const MESSAGE: [Step; 2] = [Step::Message(0, Content::Data), Step::Quit];
const SENT: &[u8] = b"Subject: x\r\n\r\n.dot\r\nend\r\n";

#[test]
fn a_message_arrives_as_it_was_in_every_mode() {
    let letters = [letter("a@sender.example", &["b@example.test", "c@example.test"])];
    for pipelining in [false, true] {
        for content in [Content::Data, Content::Chunks] {
            let message = Step::Message(0, content);
            let steps = [message, Step::Reset, message, Step::Quit];
            let (heard, seen) = with_ours(&letters, &steps, Access::default(), pipelining);
            assert_eq!(seen.messages, [SENT, SENT], "{pipelining} {content:?}");
            assert!(heard.closed && heard.failed.is_none());
            let taken = heard.replies.iter().filter(|reply| **reply == (To::Message, 250));
            assert_eq!(taken.count(), 2);
            assert_eq!(heard.replies.last(), Some(&(To::Quit, 221)));
            // EHLO, RSET, QUIT; for each message MAIL, RCPT, RCPT, DATA, body, or all at once.
            let each = match (pipelining, content) {
                (false, Content::Data) => 5,
                (false, Content::Chunks) => 5,
                (true, _) => 2,
            };
            assert_eq!(heard.sends_count, 3 + 2 * each, "{pipelining} {content:?}");
        }
    }
}

#[test]
fn parameters_are_sent_where_their_extensions_are_offered() {
    let letters = [Letter { parameters: true, ..letter("a@sender.example", &["b@example.test"]) }];
    let (_, seen) = with_ours(&letters, &MESSAGE, Access::default(), false);
    assert_eq!(
        seen.asked[0],
        "sender <a@sender.example> EightBit size=20 utf8 ret=Headers envid=QQ+2B1"
    );
    assert!(seen.asked[1].contains("notify"), "{}", seen.asked[1]);
    let said = ["220 x\r\n", "502 what\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"];
    let settings = settings(true, Protocol::Smtp);
    let run = Run { letters: &letters, steps: &MESSAGE, piece: usize::MAX, chunks: 1 };
    let mut script = Script(said[1..].iter().copied());
    let heard = talk(&run, &settings, &mut script, said[0].as_bytes());
    let sent = String::from_utf8(heard.sent).unwrap();
    assert!(sent.starts_with(
        "EHLO client.example\r\nHELO client.example\r\nMAIL FROM:<a@sender.example>\r\n\
         RCPT TO:<b@example.test>\r\nDATA\r\n"
    ));
}

#[test]
fn tls_all_the_way_is_asked_for_where_it_is_offered() {
    // RFC 8689 §5: a report goes without where it must.
    for (offer, said) in [("250 REQUIRETLS\r\n", " REQUIRETLS"), ("250 HELP\r\n", "")] {
        let letters = [Letter { require_tls: true, ..letter("", &["b@example.test"]) }];
        let (hello, run) = (
            format!("250-x\r\n{offer}"),
            Run { letters: &letters, steps: &MESSAGE, piece: usize::MAX, chunks: 1 },
        );
        let said_there = [hello.leak(), "250 ok\r\n", "250 ok\r\n", "354 go\r\n"];
        let mut script = Script(said_there.iter().map(|said| &**said));
        let heard = talk(&run, &settings(false, Protocol::Smtp), &mut script, b"220 x\r\n");
        let sent = String::from_utf8(heard.sent).unwrap();
        assert!(sent.contains(&format!("\r\nMAIL FROM:<>{said}\r\n")), "{sent}");
    }
}

#[test]
fn each_recipient_has_its_own_result_and_a_dead_transaction_is_reset() {
    let letters = [
        letter("a@sender.example", &["nobody@example.test", "b@example.test", "452@example.test"]),
        letter("a@sender.example", &["nobody@example.test", "nobody@example.test"]),
        letter("unwelcome@sender.example", &["b@example.test"]),
        letter("storage@sender.example", &["b@example.test"]),
        letter("disklow@sender.example", &["b@example.test"]),
    ];
    for pipelining in [false, true] {
        for content in [Content::Data, Content::Chunks] {
            let mut steps: Vec<_> = (0..5).map(|n| Step::Message(n, content)).collect();
            steps.push(Step::Message(0, content));
            steps.push(Step::Quit);
            let (heard, seen) = with_ours(&letters, &steps, Access::default(), pipelining);
            assert!(heard.failed.is_none() && heard.closed, "{heard:?}");
            assert_eq!(seen.messages.len(), 2, "the first, and the same at the end");
            let of = |to: To| -> Vec<u16> {
                heard.replies.iter().filter(|r| r.0 == to).map(|r| r.1).collect()
            };
            assert_eq!(of(To::Recipient(0))[..2], [550, 550]);
            assert_eq!(of(To::Recipient(1))[..2], [250, 550]);
            assert_eq!(of(To::Recipient(2))[0], 452);
            let taken = of(To::Message).into_iter().filter(|code| *code == 250).count();
            assert_eq!(taken, 2);
            // Never a transaction within another: each MAIL was judged by itself.
            assert_eq!(of(To::Mail), [250, 250, 451, 250, 250, 250]);
            assert!(of(To::Reset).iter().all(|code| *code == 250));
        }
    }
}

#[test]
fn a_group_of_a_thousand_recipients_waits_for_replies_on_its_way() {
    let to: Vec<String> = (0..1000).map(|n| format!("user{n}@example.test")).collect();
    let letters = [Letter { from: "", to, parameters: false, require_tls: false }];
    let (heard, seen) = with_ours(&letters, &MESSAGE, Access::default(), true);
    assert_eq!(seen.messages, [SENT]);
    assert!(heard.sends_count >= 1000 / UNHEARD_MAX as usize, "{}", heard.sends_count);
    assert_eq!(heard.replies.iter().filter(|r| matches!(r, (To::Recipient(_), 250))).count(), 1000);
}

#[test]
fn a_message_for_nobody_is_ended_empty_and_is_no_success() {
    let said = [
        "220 x\r\n",
        "250-x\r\n250 PIPELINING\r\n",
        "250 ok\r\n",
        "550 no\r\n",
        "550 no\r\n",
        "354 go\r\n",
        "250 taken, whatever it is\r\n",
        "221 bye\r\n",
    ];
    let heard = scripted(&MESSAGE, true, Protocol::Smtp, &said);
    assert!(heard.replies.contains(&(To::Emptied, 250)) && heard.closed);
    assert!(!heard.replies.iter().any(|reply| reply.0 == To::Message));
    assert!(heard.sent.ends_with(b"DATA\r\n.\r\nQUIT\r\n"));
}

#[test]
fn tls_forgets_what_was_said_before_and_signing_in_goes_on_from_there() {
    let access = Access {
        tls: TlsMode::StartTls,
        mechanisms: Mechanisms::NONE.with(Mechanism::Plain),
        submission: true,
        ..Access::default()
    };
    let letters = [letter("a@sender.example", &["b@example.test"])];
    let message = Step::Message(0, Content::Data);
    let steps = [
        message,
        Step::StartTls,
        Step::Auth("alice", "wrong"),
        Step::Auth("alice", "pencil"),
        message,
        Step::Quit,
    ];
    let (heard, seen) = with_ours(&letters, &steps, access, true);
    assert_eq!(seen.messages, [SENT]);
    let codes: Vec<_> = heard.replies.iter().filter(|r| r.0 == To::Auth).map(|r| r.1).collect();
    assert_eq!(codes, [535, 235]);
    assert!(heard.offered.mechanisms.contains(Mechanism::Plain) && !heard.offered.start_tls);
    assert_eq!(heard.replies.iter().filter(|r| r.0 == To::Hello).count(), 2);
}

#[test]
fn nodes_of_one_owner_prove_themselves_to_each_other() {
    let access = Access { tls: TlsMode::StartTls, ..Access::default() };
    let letters = [letter("a@example.test", &["b@example.test"])];
    let message = Step::Message(0, Content::Chunks);
    let steps = [Step::Fcapa, Step::StartTls, Step::Fcapa, Step::Su(CHANNEL), message, Step::Quit];
    let (heard, seen) = with_ours(&letters, &steps, access, true);
    assert!(heard.replies.contains(&(To::Fcapa, 601)) && heard.replies.contains(&(To::Su, 600)));
    let token = trust().token("client.example", &CHANNEL, &[7; 16], TOKEN_TIME).expect("a token");
    let proof = heard.proof.expect("a proof");
    assert!(trust().confirm(&proof, &token, &CHANNEL) && !trust().confirm(b"", &token, &CHANNEL));
    assert_eq!(seen.messages, [SENT]);
    // Somebody in the middle has a channel of his own to each side.
    let steps = [Step::StartTls, Step::Su([6; 32]), message];
    let (heard, seen) = with_ours(&letters, &steps, access, true);
    assert_eq!((heard.replies.last(), heard.proof), (Some(&(To::Su, 651)), None));
    assert!(seen.closed && seen.messages.is_empty());
}

#[test]
fn whoever_does_not_know_the_private_verbs_is_no_node() {
    let steps = [Step::Fcapa, Step::Quit];
    for (said, to, failed) in [
        ("502 5.5.1 no\r\n", Some((To::Fcapa, 502)), None),
        ("250 ok\r\n", None, Some(Failure::Unexpected(To::Fcapa, 250))),
        ("600 ok\r\n", None, Some(Failure::Unexpected(To::Fcapa, 600))),
        ("651 no\r\n", Some((To::Fcapa, 651)), None),
        ("701 no\r\n", None, Some(Failure::Garbage(Garbage::Code))),
    ] {
        let script = ["220 mx\r\n", "250 mx\r\n", said, "221 bye\r\n"];
        let heard = scripted(&steps, true, Protocol::Smtp, &script);
        let expected = to.or(Some((To::Hello, 250)));
        let last = heard.replies.iter().rev().find(|(to, _)| *to != To::Quit).copied();
        assert_eq!((last, heard.failed), (expected, failed), "{said}");
    }
    // And nobody says these codes elsewhere.
    let heard = scripted(&[], true, Protocol::Smtp, &["220 mx\r\n", "601 mx\r\n"]);
    assert_eq!(heard.failed, Some(Failure::Garbage(Garbage::Code)));
}

#[test]
fn bytes_behind_the_reply_to_starttls_are_refused() {
    let behind = "220 go\r\n250 injected\r\n";
    let said = ["220 x\r\n", "250-x\r\n250 STARTTLS\r\n", behind];
    let settings = settings(true, Protocol::Smtp);
    let run = Run { letters: &[], steps: &[Step::StartTls], piece: usize::MAX, chunks: 1 };
    let mut script = Script(said[1..].iter().copied());
    let heard = talk(&run, &settings, &mut script, said[0].as_bytes());
    assert_eq!(heard.failed, Some(Failure::BehindStartTls));
}

#[test]
fn what_no_server_may_say_ends_the_session_by_its_kind() {
    let ehlo = "250-x\r\n250 PIPELINING\r\n";
    let unexpected = |to, code| Some(Failure::Unexpected(to, code));
    for (said, failed) in [
        (vec!["HTTP/1.1 400 Bad Request\r\n"], Some(Failure::Garbage(Garbage::Code))),
        (vec!["250 hello\r\n"], unexpected(To::Greeting, 250)),
        (vec!["354 go\r\n"], unexpected(To::Greeting, 354)),
        (vec!["220 x\r\n", "250-x\r\n354 y\r\n"], Some(Failure::Garbage(Garbage::Mixed))),
        (vec!["220 x\r\n", "250 x\r\n250 y\r\n"], unexpected(To::Nothing, 250)),
        (vec!["220 x\r\n", ehlo, "354 go\r\n"], unexpected(To::Mail, 354)),
        (
            vec!["220 x\r\n", ehlo, "250 ok\r\n", "250 ok\r\n", "250 ok\r\n", "250 ok\r\n"],
            unexpected(To::Data, 250),
        ),
        (vec!["220 x\r\n", "250 x"], None),
    ] {
        // What comes unasked is seen when it comes, so these are not cut.
        let heard = scripted_once(&MESSAGE, false, Protocol::Smtp, &said, usize::MAX);
        assert_eq!(heard.failed, failed, "{said:?}");
        assert!(!heard.replies.iter().any(|reply| reply.0 == To::Message), "{said:?}");
    }
}

#[test]
fn servers_that_refuse_us_hear_quit_and_421_is_the_end_anywhere() {
    let heard = scripted(&MESSAGE, false, Protocol::Smtp, &["554 no\r\n"]);
    assert_eq!((heard.replies, heard.closed), (vec![(To::Greeting, 554)], true));
    assert_eq!(heard.sent, b"QUIT\r\n");
    let heard = scripted(&MESSAGE, false, Protocol::Smtp, &["220 x\r\n", "450 later\r\n"]);
    assert_eq!(heard.replies[1..], [(To::Hello, 450)]);
    assert!(heard.closed && heard.sent.ends_with(b"QUIT\r\n"));
    let said = ["220 x\r\n", "500 what\r\n", "500 what\r\n"];
    let heard = scripted(&MESSAGE, false, Protocol::Smtp, &said);
    assert_eq!(heard.replies[1..], [(To::Hello, 500), (To::Hello, 500)]);
    let said = ["220 x\r\n", "250 x\r\n", "250 ok\r\n", "421 going down\r\n"];
    let heard = scripted(&MESSAGE, false, Protocol::Smtp, &said);
    assert_eq!(heard.replies.last(), Some(&(To::Recipient(0), 421)));
    assert!(heard.closed);
    let said = ["220 x\r\n", "250 x\r\n421 idle for too long\r\n"];
    let heard = scripted_once(&[], false, Protocol::Smtp, &said, usize::MAX);
    assert_eq!(heard.replies[2..], [(To::Nothing, 421)]);
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let said = [
        "220 x\r\n",
        "250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "354 go\r\n",
        "",
        "",
        "",
        "",
        "250 first\r\n452 second\r\n",
        "221 bye\r\n",
    ];
    let heard = scripted(&MESSAGE, true, Protocol::Lmtp, &said);
    assert!(heard.sent.starts_with(b"LHLO "));
    assert_eq!(
        heard.replies[6..],
        [(To::Delivery(0), 250), (To::Delivery(1), 452), (To::Quit, 221)]
    );
}

#[test]
fn patience_depends_on_what_is_awaited() {
    let now = Instant::from_ns(0);
    let mut out = Outbox::new(Vec::new());
    let mut session = Session::new(settings(false, Protocol::Smtp), now);
    let minutes = |minutes: u64| now + Duration::from_secs(60 * minutes);
    let letter = letter("", &["b@example.test"]);
    let mut hear = |session: &mut Session, said: &[u8]| {
        let then = |session: &mut Session, bytes: &[u8], out: &mut _| {
            session.turn(now, bytes, &letter, out).consumed
        };
        assert_eq!(then(session, said, &mut out), said.len());
        then(session, b"", &mut out);
        drop(out.take());
    };
    assert_eq!(session.deadline(), minutes(5));
    hear(&mut session, b"220 x\r\n");
    hear(&mut session, b"250 x\r\n");
    assert_eq!(session.deadline(), Instant::FAR);
    session.message(now, Content::Data, 1);
    assert_eq!(session.turn(now, b"", &letter, &mut Outbox::new(Vec::new())).consumed, 0);
    assert_eq!(session.deadline(), minutes(5));
    hear(&mut session, b"250 ok\r\n");
    hear(&mut session, b"250 ok\r\n");
    assert_eq!(session.deadline(), minutes(2));
    hear(&mut session, b"354 go\r\n");
    assert_eq!(session.deadline(), minutes(3));
    session.body_sent(now);
    assert_eq!(session.deadline(), minutes(10));
}

#[test]
fn names_and_passwords_that_no_server_could_take_are_not_sent() {
    let now = Instant::from_ns(0);
    let mut out = Outbox::new(Vec::new());
    let mut session = Session::new(settings(false, Protocol::Smtp), now);
    for said in [&b"220 x\r\n"[..], b"250 x\r\n"] {
        assert_eq!(session.turn(now, said, &Nobody, &mut out).consumed, said.len());
    }
    drop(out.take());
    for (user, password) in [("a\0b", &b"x"[..]), ("a", b"x\0"), ("a", &[b'x'; 1025])] {
        assert!(!session.auth_plain(now, user, password, &mut out) && out.is_empty());
    }
    let (user, password) = ("a".repeat(256), [b'x'; 1024]);
    assert!(session.auth_plain(now, &user, &password, &mut out));
    assert!(out.bytes().len() <= fsmtp_proto::smtp::client::COMMAND_BYTES_MAX);
}
