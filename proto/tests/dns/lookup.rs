//! Lookups against servers in memory: retries, TCP, aliases, and every bound.

use core::time::Duration;

use fsmtp_proto::dns::message::Transport;
use fsmtp_proto::dns::resolver::{
    ALIASES_MAX, ASKS_MAX, Heard, Lookup, Next, ROUNDS_MAX, STRAYS_MAX, Settings, TIME_MAX, Trouble,
};
use fsmtp_proto::dns::testing::{Asked, Reply, Zone};
use fsmtp_proto::dns::{BadName, Failure, Kind, Outcome, Question, Reason};
use fsmtp_proto::time::Instant;
use proptest::prelude::*;

use super::{RANDOM, a, alias, mx, question};

const SECOND: Duration = Duration::from_secs(1);

/// What a server does with a query.
enum Does {
    Answers(Vec<u8>),
    Strays(Vec<u8>, u32),
    Silent,
    Unreachable,
}

/// What was asked: the server, how, the name in lower case, how long it may take, in milliseconds.
type Asks = Vec<(usize, Transport, String, u128)>;

fn settings(servers: usize) -> Settings {
    Settings { servers, patience: SECOND, trusted: true }
}

/// Looks `question` up; silence passes the time.
fn run(
    question: Question,
    settings: Settings,
    mut serve: impl FnMut(usize, Transport, &[u8]) -> Does,
) -> (Outcome, Asks, Instant) {
    let mut now = Instant::from_ns(1_000_000_000);
    let mut lookup = Lookup::new(question, settings, 0, now);
    let mut asks = Asks::new();
    loop {
        let (does, until) = match lookup.next(now, &RANDOM) {
            Next::Done(outcome) => return (outcome, asks, now),
            Next::Ask(ask) => {
                let name = Asked::read(ask.message).unwrap().name.to_ascii_lowercase();
                asks.push((ask.server, ask.over, name, ask.until.since(now).as_millis()));
                (serve(ask.server, ask.over, ask.message), ask.until)
            }
        };
        match does {
            Does::Answers(message) => assert!(matches!(lookup.heard(&message), Heard::Taken(_))),
            Does::Strays(message, times) => {
                let strays = (0..times).filter(|_| lookup.heard(&message) == Heard::Stray).count();
                if strays as u32 == times {
                    now = until;
                    lookup.failed(Trouble::Silence);
                }
            }
            Does::Silent => {
                now = until;
                lookup.failed(Trouble::Silence);
            }
            Does::Unreachable => lookup.failed(Trouble::Unreachable),
        }
    }
}

fn zone() -> Zone {
    Zone::new()
        .with("example.org", 300, mx(20, "mx2.example.org"))
        .with("example.org", 200, mx(10, "mx1.example.org"))
        .with("mx1.example.org", 100, a(1))
        .with("www.example.org", 50, alias("WEB.example.org"))
        .with("web.example.org", 100, a(2))
}

fn ask_zone(zone: &Zone, name: &str, kind: Kind) -> Outcome {
    run(question(name, kind), settings(1), |_, _, m| Does::Answers(zone.answer(m).unwrap())).0
}

#[test]
fn records_are_found_with_the_least_time_to_live() {
    let outcome = ask_zone(&zone(), "Example.ORG.", Kind::Mx);
    let found = outcome.result.unwrap();
    let hosts: Vec<&str> = found.mx().map(|mx| &*mx.exchange).collect();
    assert_eq!(hosts, ["mx2.example.org", "mx1.example.org"]);
    assert_eq!((&*found.name, found.ttl, outcome.ttl), ("example.org", 200 * SECOND, found.ttl));
    assert!(!found.secure);
    let found = ask_zone(&zone(), "www.example.org", Kind::A).result.unwrap();
    assert_eq!((&*found.name, found.ttl), ("web.example.org", 50 * SECOND));
    assert_eq!(found.addresses().count(), 1);
    // Who asks for the alias itself gets it.
    let found = ask_zone(&zone(), "www.example.org", Kind::Cname).result.unwrap();
    assert_eq!(found.names().collect::<Vec<_>>(), ["web.example.org"]);
}

#[test]
fn there_is_no_name_or_no_record() {
    let minute = 60 * SECOND;
    for (name, kind, failure, ttl) in [
        ("other.example", Kind::A, Failure::NoSuchName, minute),
        ("example.org", Kind::A, Failure::NoData, minute),
        ("www.example.org", Kind::Mx, Failure::NoData, 50 * SECOND),
    ] {
        assert_eq!(ask_zone(&zone(), name, kind), Outcome { result: Err(failure), ttl }, "{name}");
    }
    // Without a SOA, or with that of another zone, nobody says for how long.
    for reply in [
        |query: &[u8]| Reply::to(query).unwrap(),
        |query: &[u8]| Reply::to(query).unwrap().soa("example.net", 60, 60),
        |query: &[u8]| Reply::to(query).unwrap().soa("ample.org", 60, 60),
    ] {
        let serve = |_, _, m: &[u8]| Does::Answers(reply(m).bytes());
        let (outcome, ..) = run(question("example.org", Kind::A), settings(1), serve);
        let nothing = Outcome { result: Err(Failure::NoData), ttl: Duration::ZERO };
        assert_eq!(outcome, nothing);
    }
}

#[test]
fn secure_is_what_every_answer_says_and_who_asks_believes() {
    let signed = zone().signed();
    assert!(ask_zone(&signed, "example.org", Kind::Mx).result.unwrap().secure);
    let untrusted = Settings { trusted: false, ..settings(1) };
    let serve = |_, _, m: &[u8]| Does::Answers(signed.answer(m).unwrap());
    let (outcome, ..) = run(question("example.org", Kind::Mx), untrusted, serve);
    assert!(!outcome.result.unwrap().secure);
    // An alias that leads out of a signed zone leads into the open.
    let outside = Zone::new().with("web.example.net", 60, a(3));
    let (outcome, ..) = run(question("www.example.org", Kind::A), settings(1), |_, _, m| {
        let name = Asked::read(m).unwrap().name.to_ascii_lowercase();
        Does::Answers(if name == "www.example.org" {
            let reply = Reply::to(m).unwrap().authentic();
            reply.answer("www.example.org", 60, &alias("web.example.net")).bytes()
        } else {
            outside.answer(m).unwrap()
        })
    });
    let found = outcome.result.unwrap();
    assert_eq!((&*found.name, found.secure), ("web.example.net", false));
}

#[test]
fn silence_is_asked_again_with_growing_patience_and_ends() {
    let (outcome, asks, end) =
        run(question("example.org", Kind::Mx), settings(2), |_, _, _| Does::Silent);
    let asked: Vec<(usize, u128)> = asks.iter().map(|ask| (ask.0, ask.3)).collect();
    assert_eq!(asked, [(0, 1000), (1, 1000), (0, 2000), (1, 2000), (0, 4000), (1, 4000)]);
    assert_eq!(asks.len(), ROUNDS_MAX as usize * 2);
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::TimedOut)));
    assert_eq!(end, Instant::from_ns(15_000_000_000));
    // However patient, and however many.
    let patient = Settings { patience: 7 * SECOND, ..settings(9) };
    let (outcome, asks, end) =
        run(question("example.org", Kind::Mx), patient, |_, _, _| Does::Silent);
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::TimedOut)));
    assert_eq!((end, asks.len()), (Instant::from_ns(1_000_000_000) + TIME_MAX, 5));
    assert_eq!(asks.last().map(|ask| ask.3), Some(2000), "no longer than the whole may take");
}

#[test]
fn a_server_that_answers_badly_is_left_out() {
    let coded = |query: &[u8], code| Reply::to(query).unwrap().code(code).bytes();
    let lame =
        |query: &[u8]| Reply::to(query).unwrap().record(2, "org", 2, 60, b"\x02ns\0").bytes();
    let garbage = |query: &[u8]| Reply::to(query).unwrap().record(1, "a", 15, 60, b"").bytes();
    let absurd = |query: &[u8]| {
        let reply = Reply::to(query).unwrap().code(3);
        let reply = reply.answer("example.org", 1, &alias("x.example"));
        reply.answer("x.example", 1, &mx(1, "wrong.example")).bytes()
    };
    let (outcome, asks, _) =
        run(question("example.org", Kind::Mx), settings(8), |server, _, m| match server {
            0 => Does::Answers(coded(m, 2)),
            1 => Does::Answers(coded(m, 5)),
            2 => Does::Answers(coded(m, 4)),
            3 => Does::Answers(lame(m)),
            4 => Does::Answers(garbage(m)),
            5 => Does::Answers(absurd(m)),
            6 => Does::Unreachable,
            _ => Does::Answers(zone().signed().answer(m).unwrap()),
        });
    let found = outcome.result.unwrap();
    assert_eq!((found.records.len(), &*found.name, found.secure), (2, "example.org", true));
    assert_eq!(found.ttl, 200 * SECOND, "nothing of what was bad has stayed");
    assert_eq!(asks.iter().map(|ask| ask.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
    // When all are bad, the last one's reason is given, at once.
    for (does, reason) in [(2, Reason::ServerFailed), (5, Reason::Refused), (9, Reason::Code(9))] {
        let serve = |_, _, m: &[u8]| Does::Answers(coded(m, does));
        let (outcome, asks, _) = run(question("example.org", Kind::Mx), settings(2), serve);
        assert_eq!(outcome.result, Err(Failure::Temporary(reason)));
        assert_eq!(asks.len(), 2);
    }
    let (outcome, ..) =
        run(question("example.org", Kind::Mx), settings(1), |_, _, m| Does::Answers(lame(m)));
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::Lame)));
    let (outcome, ..) =
        run(question("example.org", Kind::Mx), settings(1), |_, _, _| Does::Unreachable);
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::Unreachable)));
}

#[test]
fn what_was_cut_or_looks_guessed_is_asked_for_over_tcp() {
    let in_lower_case = |message: &[u8]| {
        let mut bytes = message.to_vec();
        bytes[12..].make_ascii_lowercase();
        bytes
    };
    type Serve<'s> = &'s dyn Fn(&[u8]) -> Does;
    let cut: Serve<'_> = &|m| Does::Answers(Reply::to(m).unwrap().truncated().bytes());
    let lower: Serve<'_> = &|m| Does::Answers(in_lower_case(&zone().answer(m).unwrap()));
    let guessed: Serve<'_> = &|_| Does::Strays(b"no message".to_vec(), STRAYS_MAX + 1);
    for serve in [cut, lower, guessed] {
        let (outcome, asks, _) =
            run(question("example.org", Kind::Mx), settings(2), |_, over, m| match over {
                Transport::Udp => serve(m),
                Transport::Tcp => Does::Answers(in_lower_case(&zone().answer(m).unwrap())),
            });
        assert_eq!(outcome.result.unwrap().records.len(), 2);
        let ways: Vec<_> = asks.iter().map(|ask| (ask.0, ask.1, ask.3)).collect();
        assert_eq!(ways, [(0, Transport::Udp, 1000), (0, Transport::Tcp, 2000)]);
    }
    // One guess fewer, and it is silence.
    let (outcome, asks, _) = run(question("example.org", Kind::Mx), settings(1), |_, over, _| {
        assert_eq!(over, Transport::Udp);
        Does::Strays(b"no message".to_vec(), STRAYS_MAX)
    });
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::TimedOut)));
    assert_eq!(asks.len(), ROUNDS_MAX as usize);
}

#[test]
fn over_tcp_nothing_is_a_stray_and_nothing_is_tried_twice() {
    let cut = |m: &[u8]| Reply::to(m).unwrap().truncated().bytes();
    for (does, reason) in [
        (0, Reason::Garbage),
        (1, Reason::Garbage),
        (2, Reason::TimedOut),
        (3, Reason::Unreachable),
    ] {
        let serve = |_, over, m: &[u8]| match (over, does) {
            (Transport::Udp, _) | (Transport::Tcp, 0) => Does::Answers(cut(m)),
            (Transport::Tcp, 1) => Does::Answers(b"nothing of ours".to_vec()),
            (Transport::Tcp, 2) => Does::Silent,
            (Transport::Tcp, _) => Does::Unreachable,
        };
        let (outcome, asks, _) = run(question("example.org", Kind::Mx), settings(1), serve);
        assert_eq!(outcome.result, Err(Failure::Temporary(reason)));
        assert_eq!(asks.len(), 2);
    }
}

/// `a0.example` → `a1.example` → ... → an address at `a<aliases>.example`.
fn row(aliases: usize) -> Zone {
    let name = |n: usize| format!("a{n}.example");
    let step = |zone: Zone, n: usize| zone.with(&name(n), 60, alias(&name(n + 1)));
    (0..aliases).fold(Zone::new(), step).with(&name(aliases), 60, a(9))
}

/// Answers with one alias at a time, so that each has to be asked for.
fn one_alias_each(zone: &Zone, query: &[u8]) -> Vec<u8> {
    let asked = Asked::read(query).unwrap();
    let name = asked.name.to_ascii_lowercase();
    let of_alias = [&query[..asked.end - 4], &[0, 5, 0, 1]].concat();
    let found = zone.answer(&of_alias).unwrap();
    // The alias, as if it had been asked for; else whatever there is.
    match found.get(3).map(|byte| byte & 15) {
        Some(0) if found.get(7) == Some(&1) => {
            let target =
                format!("a{}.example", name[1..name.len() - 8].parse::<u32>().unwrap() + 1);
            Reply::to(query).unwrap().answer(&name, 60, &alias(&target)).bytes()
        }
        _ => zone.answer(query).unwrap(),
    }
}

#[test]
fn aliases_are_followed_in_the_answer_and_beyond_it_up_to_their_limit() {
    for aliases in [1, ALIASES_MAX, ALIASES_MAX + 1] {
        let zone = row(aliases);
        let whole = |_, _, m: &[u8]| Does::Answers(zone.answer(m).unwrap());
        let parts = |_, _, m: &[u8]| Does::Answers(one_alias_each(&zone, m));
        let (whole, asks, _) = run(question("a0.example", Kind::A), settings(1), whole);
        assert_eq!(asks.len(), 1);
        let (parts, asks, _) = run(question("a0.example", Kind::A), settings(1), parts);
        assert_eq!(asks.len(), (aliases + 1).min(ALIASES_MAX + 1));
        assert_eq!(whole, parts);
        match whole.result {
            Ok(found) => assert_eq!(*found.name, format!("a{aliases}.example")),
            Err(failure) => {
                assert_eq!((failure, aliases), (Failure::TooManyAliases, ALIASES_MAX + 1));
            }
        }
    }
}

#[test]
fn aliases_that_lead_nowhere_are_said_to() {
    for (target, failure) in [
        ("a0.example", Failure::AliasLoop),
        ("b.example", Failure::AliasLoop),
        ("", Failure::BadAlias),
        ("gone.example", Failure::NoSuchName),
    ] {
        let (outcome, ..) = run(question("a0.example", Kind::A), settings(1), |_, _, m| {
            let name = Asked::read(m).unwrap().name.to_ascii_lowercase();
            let reply = Reply::to(m).unwrap();
            Does::Answers(match name.as_str() {
                "a0.example" => reply.answer(&name, 60, &alias(target)).bytes(),
                "b.example" => reply.answer(&name, 60, &alias("a0.example")).bytes(),
                _ => reply.code(3).soa("example", 60, 60).bytes(),
            })
        });
        assert_eq!(outcome.result, Err(failure), "{target}");
    }
    assert_eq!(Question::new(".", Kind::A), Err(BadName::Empty));
}

#[test]
fn records_that_nobody_asked_for_change_nothing() {
    let (outcome, ..) = run(question("www.example.org", Kind::A), settings(1), |_, _, m| {
        let reply = Reply::to(m).unwrap();
        let reply = reply.answer("bank.example", 1, &a(66));
        let reply = reply.answer("www.example.org", 60, &alias("web.example.org"));
        let reply = reply.answer("mail.example.org", 1, &alias("bank.example"));
        let reply = reply.answer("www.example.org.evil.example", 1, &a(67));
        Does::Answers(reply.answer("web.example.org", 60, &a(2)).bytes())
    });
    let found = outcome.result.unwrap();
    assert_eq!((found.records.as_slice(), found.ttl), (&[a(2)][..], 60 * SECOND));
}

#[test]
fn messages_are_bounded() {
    // The first seven servers are silent; the last one leads on, and on.
    let zone = row(ALIASES_MAX);
    let (outcome, asks, _) = run(
        question("a0.example", Kind::A),
        Settings { patience: Duration::from_millis(1), ..settings(8) },
        |server, _, m| match server {
            7 if !asks_last(m) => Does::Answers(one_alias_each(&zone, m)),
            _ => Does::Silent,
        },
    );
    assert_eq!(outcome.result, Err(Failure::Temporary(Reason::TimedOut)));
    assert_eq!(asks.len(), ASKS_MAX as usize);
}

fn asks_last(query: &[u8]) -> bool {
    Asked::read(query).unwrap().name.to_ascii_lowercase() == format!("a{ALIASES_MAX}.example")
}

#[derive(Clone, Debug)]
enum Any {
    Bytes(Vec<u8>),
    Code(u8),
    Records(Vec<(u8, u8)>),
    Cut,
    Silent,
    Unreachable,
}

fn any_behaviour() -> impl Strategy<Value = Any> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Any::Bytes),
        (0..16u8).prop_map(Any::Code),
        proptest::collection::vec((0..12u8, 0..12u8), 0..12).prop_map(Any::Records),
        Just(Any::Cut),
        Just(Any::Silent),
        Just(Any::Unreachable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_lookup_ends_within_its_bounds_whatever_servers_do(
        script in proptest::collection::vec(any_behaviour(), 1..40),
        servers in 1..10usize,
    ) {
        let mut script = script.iter().cycle();
        let (outcome, asks, end) = run(
            question("a0.example", Kind::A),
            settings(servers),
            |_, _, m| match script.next().unwrap() {
                Any::Bytes(bytes) => Does::Strays(bytes.clone(), STRAYS_MAX + 1),
                Any::Code(code) => Does::Answers(Reply::to(m).unwrap().code(*code).bytes()),
                Any::Records(records) => {
                    let mut reply = Reply::to(m).unwrap();
                    for (from, to) in records {
                        let (from, to) = (format!("a{from}.example"), format!("a{to}.example"));
                        reply = reply.answer(&from, 60, &alias(&to));
                    }
                    Does::Answers(reply.bytes())
                }
                Any::Cut => Does::Answers(Reply::to(m).unwrap().truncated().bytes()),
                Any::Silent => Does::Silent,
                Any::Unreachable => Does::Unreachable,
            },
        );
        prop_assert!(asks.len() <= ASKS_MAX as usize);
        prop_assert!(end.since(Instant::from_ns(1_000_000_000)) <= TIME_MAX);
        prop_assert!(outcome.result.is_err(), "there is no address anywhere");
    }
}
