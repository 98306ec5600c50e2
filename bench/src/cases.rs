//! The table of what is measured, and how each case is made.
//!
//! Used by `benches/hot.rs` and `bin/icount.rs`. Bytes that a case eats are made before it is
//! measured. Cases that write to a log begin a new world now and then, so memory is bounded.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::hint::black_box;
use std::rc::Rc;

use fsmtp_proto::dkim::canon::{Body, BodyHash, Canon};
use fsmtp_proto::dkim::verify::{Verdict, Verifier, sum};
use fsmtp_proto::dkim::{Key, Signer, Terms};
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Data, Found, Kind, Question};
use fsmtp_proto::smtp::body::{Newlines, Piece, Scanner};
use fsmtp_proto::smtp::server::{Answer, Ask, Limits, Peer, Session, Settings, Then};
use fsmtp_proto::time::{Instant, UnixTime};
use fsmtp_proto::wire::line::{self, Cut};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_proto::wire::stuff::Stuffer;
use fsmtp_rt::sim::{DiskId, HostId, Options, SimRuntime, World};
use fsmtp_store::envelope::{Envelope, EnvelopeRecipient, Notify};
use fsmtp_store::seal::{
    CHUNK_BYTES_MAX, ContentKey, Opener, PublicKey, Sealer, TAG_BYTES, Window,
};
use fsmtp_store::spool::{Committed, Sink, Spool, SpoolConfig};
use fsmtp_store::{Lsn, MailboxId, QueueId, ShardId};
use ring::digest::{SHA256, digest};

/// One piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it is, as the tables of results call it.
    pub name: &'static str,
    /// How often it is run where instructions are counted.
    pub count: u32,
    /// Makes what it works on; each call of what this returns does the work once.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// Everything that is measured.
pub const CASES: &[Case] = &[
    Case { name: "body/lines-64k", count: 200, make: || body(&lines(BLOCK_BYTES)) },
    Case { name: "body/dots-64k", count: 20, make: || body(&b"..\r\n".repeat(BLOCK_BYTES / 4)) },
    Case { name: "body/newlines-64k", count: 200, make: newlines },
    Case { name: "dkim/relaxed-64k", count: 200, make: || relaxed(lines(BLOCK_BYTES)) },
    Case { name: "dkim/relaxed-code-64k", count: 20, make: || relaxed(code()) },
    Case { name: "dkim/relaxed-white-64k", count: 20, make: || relaxed(white()) },
    Case { name: "dkim/relaxed-hash-64k", count: 20, make: || body_hash(lines(BLOCK_BYTES)) },
    Case { name: "dkim/relaxed-code-hash-64k", count: 20, make: || body_hash(code()) },
    Case { name: "dkim/sha256-64k", count: 20, make: sha256 },
    Case { name: "dkim/verify-4k", count: 20, make: verify },
    Case { name: "line/cut", count: 20_000, make: line_cut },
    Case { name: "session/transaction", count: 2_000, make: transaction },
    Case { name: "pop3/stuff-64k", count: 200, make: stuff },
    Case { name: "seal/chunk-4k", count: 1_000, make: || seal(4096) },
    Case { name: "seal/chunk-64k", count: 100, make: || seal(CHUNK_BYTES_MAX - TAG_BYTES) },
    Case { name: "seal/open-64k", count: 100, make: open },
    Case { name: "seal/wrap", count: 5_000, make: wrap },
    Case { name: "spool/commit-4k", count: WORLD_MESSAGES, make: || spool(4096) },
];

const BLOCK_BYTES: usize = 64 * 1024;
/// Messages that a simulated log takes before the next one is begun: 16 MiB of bodies.
const WORLD_MESSAGES: u32 = 4096;

/// Text in lines of 72 bytes, as a mail program writes it.
fn lines(bytes: usize) -> Vec<u8> {
    let line = b"A line of plain text, as long as the lines that mail programs write..\r\n";
    line.iter().copied().cycle().take(bytes / line.len() * line.len()).collect()
}

fn body(text: &[u8]) -> Box<dyn FnMut()> {
    let wire = [text, b".\r\n"].concat();
    Box::new(move || {
        let mut scanner = Scanner::new();
        let mut rest = black_box(wire.as_slice());
        let mut octets = 0;
        while let Piece::Data { bytes, consumed } = scanner.scan(rest) {
            octets += bytes.len();
            rest = rest.get(consumed..).unwrap_or_default();
        }
        assert!(octets > 0 && !scanner.bare_newline(), "the message is read to its end");
    })
}

fn newlines() -> Box<dyn FnMut()> {
    let text = lines(BLOCK_BYTES);
    Box::new(move || black_box(Newlines::default()).feed(black_box(&text)))
}

/// The canonical form of a body, into nothing.
fn relaxed(text: Vec<u8>) -> Box<dyn FnMut()> {
    Box::new(move || {
        let (mut body, mut octets) = (Body::new(Canon::Relaxed), 0);
        body.feed(black_box(&text), &mut |piece| octets += piece.len());
        body.finish(&mut |piece| octets += piece.len());
        assert!(octets > text.len() / 2, "most of it is there");
    })
}

/// The hash of a body for a signature.
fn body_hash(text: Vec<u8>) -> Box<dyn FnMut()> {
    Box::new(move || {
        let mut hash = BodyHash::new(Canon::Relaxed);
        hash.feed(black_box(&text));
        black_box(hash.finish());
    })
}

/// Text whose relaxed form is another: indented with tabs, spaces in rows and at line ends.
fn code() -> Vec<u8> {
    let line = b"\tif (a  ==  b)\t{ \r\n\t\treturn a + b;   // the sum\r\n\t}\r\n\r\n";
    line.iter().copied().cycle().take(BLOCK_BYTES / line.len() * line.len()).collect()
}

/// Text in which a change is due at every place.
fn white() -> Vec<u8> {
    b" a\t".repeat(BLOCK_BYTES / 3)
}

/// A message with one RSA signature, from its first byte to the verdict.
fn verify() -> Box<dyn FnMut()> {
    let key = Key::from_pkcs8("example.test", "r1", &vector("pkcs8")).expect("a key");
    let now = UnixTime::from_ms(1_700_000_000_000);
    let text = [b"From: somebody@example.test\r\n\r\n".as_slice(), &lines(4096)].concat();
    let mut signer = Signer::new(Terms::default());
    signer.feed(&text);
    let field = signer.finish(std::slice::from_ref(&key), now).expect("it has a From");
    let message = [field, text].concat();
    let found = Found {
        name: key.record_name().into(),
        records: vec![Data::Txt(key.record().into_bytes().into())],
        secure: false,
        ttl: Duration::ZERO,
    };
    let mut known = Known::default();
    let question = Question::new(&key.record_name(), Kind::Txt).expect("a name");
    known.put(question, Ok(Rc::new(found)));
    Box::new(move || {
        let mut verifier = Verifier::new();
        verifier.feed(black_box(&message));
        let judged = verifier.finish().check(&known, now);
        let good = matches!(judged, Next::Done(judged) if sum(&judged) == Verdict::Pass);
        assert!(good, "the signature is good");
    })
}

/// What the others cannot be quicker than.
fn sha256() -> Box<dyn FnMut()> {
    let text = lines(BLOCK_BYTES);
    Box::new(move || {
        black_box(digest(&SHA256, black_box(&text)));
    })
}

fn line_cut() -> Box<dyn FnMut()> {
    let window = b"RCPT TO:<somebody.with.a.name@mailbox.example.test>\r\nDATA\r\n";
    Box::new(move || {
        let cut = line::cut(black_box(window), 2048);
        assert!(matches!(black_box(cut), Cut::Line(_)), "the line is whole");
    })
}

/// EHLO, a message of 4 KiB for two recipients and QUIT, all in one window.
fn transaction() -> Box<dyn FnMut()> {
    let settings = Settings::new("mx.example.test", Limits::default());
    let settings = Rc::new(settings.expect("the name is one"));
    let head = b"EHLO client.example.test\r\nMAIL FROM:<sender@client.example.test> SIZE=4096\r\n\
        RCPT TO:<one@example.test>\r\nRCPT TO:<two@example.test>\r\nDATA\r\n";
    let wire = [head.as_slice(), &lines(4096), b".\r\nQUIT\r\n"].concat();
    let mut buffer = Vec::with_capacity(8192);
    let (now, unix) = (Instant::from_ns(1), UnixTime::from_ms(1_700_000_000_000));
    Box::new(move || {
        let mut out = Outbox::new(std::mem::take(&mut buffer));
        let peer = Peer { ip: Ipv4Addr::LOCALHOST.into(), port: 40_001, host: None };
        let mut session = Session::new(Rc::clone(&settings), peer, now, unix, &mut out);
        let mut rest = black_box(wire.as_slice());
        let mut stored = false;
        loop {
            let turn = session.turn(now, rest, &mut out);
            rest = rest.get(turn.consumed..).unwrap_or_default();
            match turn.then {
                Then::Ask(Ask::Commit) => {
                    stored = true;
                    session.answer(Answer::Stored { id: "0123456789abcdef" }, &mut out);
                }
                Then::Ask(_) => session.answer(Answer::Accepted, &mut out),
                Then::Close => break,
                Then::NeedInput => panic!("the whole dialogue is there"),
                _ => {}
            }
        }
        assert!(stored, "the message was taken");
        buffer = out.take();
        buffer.clear();
    })
}

fn stuff() -> Box<dyn FnMut()> {
    let text = lines(BLOCK_BYTES);
    let mut out = Vec::with_capacity(Stuffer::grown_bytes_max(text.len()) + 8);
    Box::new(move || {
        out.clear();
        let mut stuffer = Stuffer::new();
        stuffer.push(black_box(&text), &mut out);
        stuffer.finish(&mut out);
        assert!(out.len() > text.len(), "its end was added");
    })
}

/// Random bytes enough for a measurement, and the same in each run.
fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |bytes| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[4];
        }
    }
}

fn seal(bytes: usize) -> Box<dyn FnMut()> {
    let mut buf = Vec::with_capacity(bytes + TAG_BYTES);
    buf.resize(bytes, b'm');
    let mut id = QueueId(0);
    let mut random = random();
    Box::new(move || {
        id = QueueId(id.0 + 1);
        buf.truncate(bytes);
        let mut sealer = Sealer::begin(id, &mut random);
        sealer.seal_chunk(&mut buf, true).expect("the chunk fits");
        black_box(&buf);
    })
}

fn open() -> Box<dyn FnMut()> {
    let id = QueueId(1);
    let mut sealed = vec![b'm'; CHUNK_BYTES_MAX - TAG_BYTES];
    let mut sealer = Sealer::begin(id, &mut random());
    sealer.seal_chunk(&mut sealed, true).expect("the chunk fits");
    let key: ContentKey = sealer.finish().expect("it is whole");
    let mut copy = sealed.clone();
    Box::new(move || {
        copy.copy_from_slice(&sealed);
        let mut opener = Opener::new(&key, id);
        black_box(opener.open_chunk(&mut copy, true).expect("it is as it was sealed"));
    })
}

/// A line of the vector that has an RSA key for tests.
fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../tests/vectors/seal/oaep.txt");
    let hex = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let hex = hex.unwrap_or_default();
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16);
    (0..hex.len()).step_by(2).map_while(|at| byte(at).ok()).collect()
}

/// The window is begun with RSA, once.
fn wrap() -> Box<dyn FnMut()> {
    let public = PublicKey::from_der(&vector("public")).expect("a public key");
    let mut random = random();
    let window = Window::begin(MailboxId(1), &public, &mut random).expect("RSA works").0;
    let mut id = QueueId(0);
    let sealer = Sealer::begin(id, &mut random);
    Box::new(move || {
        id = QueueId(id.0 + 1);
        black_box(window.wrap(sealer.content_key(), id).expect("there is nothing to fail"));
    })
}

/// An index that takes everything and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    #[allow(clippy::result_large_err)] // WHY: as the trait has it
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        drop(message);
        Ok(())
    }
}

/// A log on a simulated disk.
struct Log {
    world: World,
    rt: SimRuntime,
    spool: Spool<SimRuntime>,
}

impl Log {
    fn new() -> Self {
        let mut world = World::new(1, Options::calm());
        let host: HostId = world.host();
        let rt = world.start(host);
        let disk: DiskId = world.disk();
        let opening = Spool::open(
            rt.clone(),
            rt.disk(disk),
            SpoolConfig::new(ShardId(0)),
            Lsn(0),
            Rc::new(Nowhere),
        );
        let (spool, _) = world.block_on(&rt, opening).expect("an empty disk");
        Self { world, rt, spool }
    }
}

/// A message of `bytes` bytes on its way from the window to stable storage; the simulated machine
/// included.
fn spool(bytes: usize) -> Box<dyn FnMut()> {
    let text: Rc<[u8]> = lines(bytes).into();
    let recipient = EnvelopeRecipient {
        mailbox: MailboxId(1),
        address: b"somebody@example.test".to_vec(),
        notify: Notify::default(),
        orcpt: None,
    };
    let envelope = Envelope {
        reverse_path: b"sender@client.example.test".to_vec(),
        recipients: vec![recipient],
        ..Envelope::default()
    };
    let mut log = Log::new();
    let mut taken = 0;
    Box::new(move || {
        if taken == WORLD_MESSAGES {
            (log, taken) = (Log::new(), 0);
        }
        taken += 1;
        let (spool, text, envelope) = (log.spool.clone(), Rc::clone(&text), envelope.clone());
        let committing = async move {
            let mut incoming = spool.incoming()?;
            incoming.push(&text).await?;
            incoming.commit(b"Received: from somewhere\r\n", envelope).await
        };
        log.world.block_on(&log.rt, committing).expect("the disk is calm");
    })
}
