//! Filters in a simulated world: what they say, how they fail, every policy and every limit.

mod milter;
mod rspamd;

use core::cell::RefCell;
use std::sync::mpsc::Receiver;

use fsmtp_proto::dkim::header::HEADER_BYTES_MAX;
use fsmtp_rt::sim::{Options, SimConn, SimRuntime, World};
use fsmtp_rt::{Class, Conn as _, Listener as _, Runtime as _};

use super::changes::Recipient;
use super::*;
use crate::log::{Format, Level, Sink};

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 7357;

/// What a milter does with one packet.
enum Do {
    /// Sends these bytes, or nothing.
    Say(Vec<u8>),
    /// Never says anything again.
    Hang,
    /// Closes the connection.
    Close,
}

/// Letters and data that a filter was told, connection after connection.
type Heard = Rc<RefCell<Vec<(u8, Vec<u8>)>>>;
/// What it does when it is told.
type Script = Rc<dyn Fn(u8, &[u8]) -> Do>;

struct Scenery {
    world: World,
    rt: SimRuntime,
    heard: Heard,
    filters: Filters,
    log: Rc<Log>,
    lines: Receiver<Vec<u8>>,
}

fn packet(letter: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[letter], data].concat()
}

fn agreement(actions: u32, steps: u32) -> Do {
    Do::Say(packet(b'O', &[6, actions, steps].map(u32::to_be_bytes).concat()))
}

/// What a filter says to all that it is not asked for something else: agrees, goes on.
fn goes_on(letter: u8) -> Do {
    match letter {
        b'O' => agreement(0x7d, 0),
        b'D' | b'A' | b'Q' => Do::Say(Vec::new()),
        _ => Do::Say(packet(b'c', b"")),
    }
}

async fn serve_milter(rt: SimRuntime, mut conn: SimConn, heard: Heard, script: Script) {
    let deadline = rt.now() + Duration::from_secs(10_000);
    let mut window = Vec::new();
    loop {
        let filled = conn.filled();
        let length = filled.len();
        window.extend_from_slice(filled);
        conn.consume(length);
        let whole = window.split_first_chunk::<4>().and_then(|(length, rest): (&[u8; 4], _)| {
            rest.get(..u32::from_be_bytes(*length) as usize).map(<[u8]>::to_vec)
        });
        let Some(told) = whole else {
            match conn.fill(deadline).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        window.drain(..told.len() + 4);
        heard.borrow_mut().push((told[0], told[1..].to_vec()));
        match script(told[0], &told[1..]) {
            Do::Say(bytes) if bytes.is_empty() => {}
            Do::Say(bytes) => drop(conn.send(bytes, deadline).await),
            Do::Hang => return rt.sleep_until(deadline).await,
            Do::Close => return conn.close(deadline).await,
        }
    }
}

async fn serve_http(rt: SimRuntime, mut conn: SimConn, heard: Heard, script: Script) {
    let deadline = rt.now() + Duration::from_secs(10_000);
    let mut request = Vec::new();
    while !request.ends_with(b"END\r\n") {
        let filled = conn.filled();
        let length = filled.len();
        request.extend_from_slice(filled);
        conn.consume(length);
        if length == 0 && conn.fill(deadline).await.unwrap_or(0) == 0 {
            return;
        }
    }
    heard.borrow_mut().push((b'P', request.clone()));
    match script(b'P', &request) {
        Do::Say(bytes) => drop(conn.send(bytes, deadline).await),
        Do::Hang => rt.sleep_until(deadline).await,
        Do::Close => {}
    }
    conn.close(deadline).await;
}

fn plan(protocol: Protocol, when_away: WhenAway) -> Plan {
    Plan {
        name: "tested".into(),
        protocol,
        address: ([0, 0, 0, 0], 0).into(),
        connect_timeout: SECOND * 5,
        command_timeout: SECOND * 10,
        message_timeout: SECOND * 60,
        when_away,
        message_bytes_max: 100_000,
        users: false,
    }
}

fn scenery(
    plans: &[Plan],
    options: Options,
    script: impl Fn(u8, &[u8]) -> Do + 'static,
) -> Scenery {
    let mut world = World::new(7, options);
    let (ours, theirs) = (world.host(), world.host());
    let (rt, other) = (world.start(ours), world.start(theirs));
    let (heard, script): (Heard, Script) = (Rc::default(), Rc::new(script));
    let mut configured = Vec::new();
    for (number, plan) in (0..).zip(plans) {
        let mut listener = other.listen(PORT + number);
        configured.push(Plan { address: listener.address(), ..plan.clone() });
        let (inner, heard, script) = (other.clone(), Rc::clone(&heard), Rc::clone(&script));
        let http = plan.protocol == Protocol::Rspamd;
        other.spawn(Class::Accept, async move {
            while let Ok(conn) = listener.accept().await {
                let (rt, heard, script) = (inner.clone(), Rc::clone(&heard), Rc::clone(&script));
                if http {
                    inner.spawn(Class::Session, serve_http(rt, conn, heard, script));
                } else {
                    inner.spawn(Class::Session, serve_milter(rt, conn, heard, script));
                }
            }
        });
    }
    let (sink, lines) = Sink::memory(Format::Text, Level::Info);
    let log = Rc::new(sink.log(None));
    Scenery { world, rt, heard, filters: Filters::new(&configured), log, lines }
}

fn one(protocol: Protocol, script: impl Fn(u8, &[u8]) -> Do + 'static) -> Scenery {
    scenery(&[plan(protocol, WhenAway::Defer)], Options::calm(), script)
}

const CLIENT: Client<'_> = Client {
    ip: IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 9)),
    port: 4025,
    host: None,
    helo: "client.example",
    tls: Some(("TLS1.3", "TLS13_AES_256_GCM_SHA384")),
    user: None,
    node: "mx.example.test",
};
const MAIL: Mail<'_> = Mail { from: "a@sender.example", eight_bit: true, utf8: false };

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Came {
    /// Refused before it came.
    Early(String),
    /// Refused, or thrown away.
    Late(Verdict),
    /// Head and what was stored behind it.
    Stored(Verdict, String, Changes),
}

impl Scenery {
    fn event(&self) -> String {
        self.log.flush(fsmtp_rt::UnixTime::default());
        let bytes: Vec<u8> = self.lines.try_iter().flatten().collect();
        String::from_utf8(bytes).unwrap()
    }

    /// Letters that filters were told, and forgets them.
    fn letters(&self) -> String {
        self.heard.take().iter().map(|(letter, _)| char::from(*letter)).collect()
    }

    fn counters(&self) -> Vec<[u64; 6]> {
        let each = |(_, c): (&str, &Counters)| {
            [&c.asked, &c.refused, &c.discarded, &c.junk, &c.away, &c.too_long].map(Cell::get)
        };
        self.filters.counters().map(each).collect()
    }

    /// One session with these messages, each told in pieces of so many bytes.
    fn session(&mut self, user: bool, messages: &[&str], piece: usize) -> Vec<Came> {
        let messages: Vec<String> = messages.iter().map(|&message| message.to_owned()).collect();
        let (rt, log, filters) = (self.rt.clone(), Rc::clone(&self.log), self.filters.clone());
        self.world.block_on(&self.rt.clone(), async move {
            let mut came = Vec::new();
            let mut passage = filters.passage::<SimRuntime>(user).expect("somebody is asked");
            let client = Client { user: user.then_some("me@example.test"), ..CLIENT };
            let scene = Scene { rt: &rt, log: &log, client, mail: MAIL, id: "ID1" };
            for message in &messages {
                came.push(deliver(&mut passage, &scene, message, piece).await);
            }
            passage.quit().await;
            // What was sent last arrives.
            rt.sleep_until(rt.now() + SECOND).await;
            came
        })
    }

    fn deliver(&mut self, message: &str) -> Came {
        self.session(false, &[message], usize::MAX).remove(0)
    }
}

async fn deliver(
    passage: &mut Passage<SimRuntime>,
    scene: &Scene<'_, SimRuntime>,
    message: &str,
    piece: usize,
) -> Came {
    let early =
        |refused: Refused| Came::Early(format!("{} {}", refused.code.number(), refused.text));
    let mut recipients = Vec::new();
    let mut refused = None;
    for to in ["b@example.test", "c@example.test"] {
        match passage.recipient(scene, to).await {
            Ok(()) => recipients.push(to.to_owned()),
            Err(why) => refused = Some(why),
        }
    }
    if let Some(refused) = refused.filter(|_| recipients.is_empty()) {
        passage.reset();
        return early(refused);
    }
    if let Err(refused) = passage.begin(scene).await {
        passage.reset();
        return early(refused);
    }
    let mut stored = Vec::new();
    for piece in message.as_bytes().chunks(piece.min(message.len().max(1))) {
        stored.extend_from_slice(&passage.feed(scene, piece).await);
    }
    let outcome = passage.finish(scene, &recipients).await;
    match outcome.verdict {
        Verdict::Refused(_) | Verdict::Discard => Came::Late(outcome.verdict),
        verdict => {
            let whole = [outcome.head, stored].concat();
            Came::Stored(verdict, String::from_utf8(whole).unwrap(), outcome.changes)
        }
    }
}

const MESSAGE: &str = "From: a@sender.example\r\nSubject: hello\r\n\tworld\r\n\r\nbody\r\nEND\r\n";

fn stored(text: &str) -> Came {
    Came::Stored(Verdict::Accept, text.to_owned(), Changes::default())
}

fn refused(code: u16, text: &str) -> Verdict {
    Verdict::Refused(Refused::plain(code, text))
}

/// What a milter that changes things says at the end of a message.
fn changing(letter: u8) -> Do {
    let told = |letter, data: &[u8]| packet(letter, data);
    match letter {
        b'E' => Do::Say(
            [
                told(b'h', b"X-Last\0one\n two\0"),
                told(b'i', b"\0\0\0\x01X-First\0a\r\nSmuggled: b\0"),
                told(b'm', b"\0\0\0\x01subject\0bye\0"),
                told(b'm', b"\0\0\0\x01From\0\0"),
                told(b'+', b"<d@example.test>\0"),
                told(b'-', b"b@example.test\0"),
                told(b'e', b"<>\0"),
                told(b'q', b"looks odd\0"),
                told(b'p', b""),
                told(b'c', b""),
            ]
            .concat(),
        ),
        _ => goes_on(letter),
    }
}

/// What it makes of [`MESSAGE`].
const CHANGED: &str = "X-Spam: Yes\r\nX-First: a\r\n\tSmuggled: b\r\nsubject: bye\r\n\
                       X-Last: one\r\n two\r\n\r\nbody\r\nEND\r\n";

fn changed() -> Changes {
    Changes {
        fields: Vec::new(),
        recipients: vec![
            (Recipient::Added, "d@example.test".into()),
            (Recipient::Deleted, "b@example.test".into()),
        ],
        sender: Some(String::new()),
    }
}

/// What becomes of mail under each policy while a filter is as `script` says.
#[track_caller]
fn away(protocol: Protocol, why: &str, script: fn(u8) -> Do) -> u64 {
    let mut tries = 0;
    for policy in [WhenAway::Accept, WhenAway::Defer, WhenAway::Junk] {
        let mut scenery =
            scenery(&[plan(protocol, policy)], Options::calm(), move |letter, _| script(letter));
        let came = scenery.session(false, &[MESSAGE, MESSAGE], usize::MAX);
        for came in came {
            match (policy, came) {
                (WhenAway::Accept, came) => assert_eq!(came, stored(MESSAGE)),
                (WhenAway::Defer, Came::Early(text)) => {
                    assert_eq!(text, "451 4.7.1 Try again later")
                }
                (WhenAway::Defer, came) => {
                    assert_eq!(came, Came::Late(refused(451, "4.7.1 Try again later")));
                }
                (WhenAway::Junk, came) => {
                    let junk = Verdict::Junk("tested is away".into());
                    let text = format!("X-Spam: Yes\r\n{MESSAGE}");
                    assert_eq!(came, Came::Stored(junk, text, Changes::default()));
                }
            }
        }
        let events = scenery.event();
        tries = events.matches("filter-away filter=tested").count() as u64;
        assert!(events.contains(why), "{events}");
        assert_eq!(scenery.counters(), [[0, 0, 0, 0, 2, 0]], "{policy:?}");
    }
    tries
}

fn reply(json: &str) -> Do {
    let length = json.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{json}");
    Do::Say(head.into_bytes())
}

#[test]
fn the_first_of_several_filters_that_refuses_ends_it() {
    let milter = plan(Protocol::Milter, WhenAway::Defer);
    let plans = [plan(Protocol::Rspamd, WhenAway::Defer), milter.clone(), milter];
    let mut scenery = scenery(&plans, Options::calm(), |letter, _| match letter {
        b'P' => reply(r#"{"action":"add header","milter":{"add_headers":{"A":"1"}}}"#),
        b'E' => Do::Say([packet(b'h', b"B\x002\0"), packet(b'y', b"550 no\0")].concat()),
        _ => goes_on(letter),
    });
    assert_eq!(scenery.deliver(MESSAGE), Came::Late(refused(550, "5.7.1 no")));
    let counters = [[1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0; 6]];
    assert_eq!(scenery.counters(), counters);
    assert_eq!(scenery.filters.budget.bytes(), 0);
}

#[test]
fn what_messages_hold_is_bounded_for_all_of_them() {
    let mut scenery = one(Protocol::Rspamd, |_, _| reply(r#"{"action":"no action"}"#));
    let mut others = scenery.filters.budget.charge();
    others.add(crate::budget::BYTES_MAX - MESSAGE.len()).unwrap();
    // The empty line is told apart, and held by nobody twice.
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
    others.add(1).unwrap();
    // A body that does not fit is not shown: as if the filter were away.
    let later = Came::Late(refused(451, "4.7.1 Try again later"));
    assert_eq!(scenery.deliver(MESSAGE), later);
    assert!(scenery.event().contains("take too much memory"));
    others.add(MESSAGE.len() - 1).unwrap();
    let busy = Came::Late(refused(451, "4.3.0 Busy, try again later"));
    assert_eq!(scenery.deliver(MESSAGE), busy, "a header section is held, and must fit");
    drop(others);
    assert_eq!(scenery.filters.budget.bytes(), 0);
    let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
    let mut others = scenery.filters.budget.charge();
    others.add(crate::budget::BYTES_MAX - MESSAGE.len() + 1).unwrap();
    assert_eq!(scenery.deliver(MESSAGE), later, "a chunk is held, too");
    drop(others);
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
}

#[test]
fn mail_that_cannot_be_shown_goes_where_mail_goes_while_a_filter_is_away() {
    let plans = [plan(Protocol::Rspamd, WhenAway::Accept)];
    let mut scenery = scenery(&plans, Options::calm(), |letter, _| goes_on(letter));
    let mut others = scenery.filters.budget.charge();
    others.add(crate::budget::BYTES_MAX - MESSAGE.len() + 1).unwrap();
    assert_eq!(scenery.deliver(MESSAGE), stored(MESSAGE));
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
    let why = format!("5.6.0 The header has over {HEADER_BYTES_MAX} bytes or too many fields");
    let long = format!("X: {}\r\n\r\n", "x\r\n ".repeat(HEADER_BYTES_MAX / 4));
    let many = "X: 1\r\n".repeat(2001);
    for message in [long, many] {
        assert_eq!(scenery.deliver(&message), Came::Late(refused(550, &why)));
    }
}

#[test]
fn a_long_body_goes_in_chunks_and_waits_for_the_filter() {
    let body = "x".repeat(70_000);
    let message = format!("X: 1\r\n\r\n{body}");
    for piece in [1000, 16 * 1024, usize::MAX] {
        let mut scenery = one(Protocol::Milter, |letter, _| goes_on(letter));
        assert_eq!(scenery.session(false, &[&message], piece), [stored(&message)]);
        let heard = scenery.heard.take();
        let chunks = heard.iter().filter(|(letter, _)| *letter == b'B').map(|(_, data)| data.len());
        assert_eq!(chunks.collect::<Vec<_>>(), [32_768, 32_768, 4464]);
    }
    // Skipped behind the first.
    let mut scenery = one(Protocol::Milter, |letter, _| match letter {
        b'O' => agreement(0, 0x400),
        b'B' => Do::Say(packet(b's', b"")),
        _ => goes_on(letter),
    });
    assert_eq!(scenery.deliver(&message), stored(&message));
    assert_eq!(scenery.letters().matches('B').count(), 1);
}

#[test]
fn a_network_that_tears_everything_apart_makes_no_difference() {
    for seed in 0..20 {
        let mut options = Options::calm();
        options.net.pieces = 700_000;
        options.net.short_reads = 700_000;
        options.net.short_read_bytes = 1 + seed;
        let plans =
            [plan(Protocol::Milter, WhenAway::Defer), plan(Protocol::Rspamd, WhenAway::Defer)];
        let mut scenery = scenery(&plans, options, |letter, _| match letter {
            b'P' => reply(r#"{"action":"no action"}"#),
            _ => changing(letter),
        });
        let came = scenery.session(false, &[MESSAGE, MESSAGE], 11);
        assert_eq!(came[0], came[1]);
        let junk = Verdict::Junk("looks odd".into());
        assert_eq!(came[0], Came::Stored(junk, CHANGED.into(), changed()));
    }
}
