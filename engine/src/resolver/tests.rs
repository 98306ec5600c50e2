//! The resolver in a simulated world: lost datagrams, dead servers, the cache, and every limit.

use core::cell::{Cell, RefCell};

use fsmtp_proto::dns::cache::FAILURE_KEPT;
use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::message::{from_stream, to_stream};
use fsmtp_proto::dns::testing::{Asked as Query, Reply, Zone};
use fsmtp_proto::dns::{BadName, Data, Mx};
use fsmtp_proto::time::UnixTime;
use fsmtp_proto::{dkim::verify as dkim, spf};
use fsmtp_rt::sim::{HostId, MILLION, Options, SimRuntime, World};
use fsmtp_rt::{Conn, Listener, Runtime};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What a server answers to a query by datagram; nothing for silence.
type Answer = Rc<dyn Fn(&[u8]) -> Option<Vec<u8>>>;

struct Scene {
    world: World,
    client: SimRuntime,
    resolver: Resolver<SimRuntime>,
    /// How many queries each server has got, by either way.
    asked: Vec<Rc<Cell<u64>>>,
}

fn scene(options: Options, servers: Vec<Answer>) -> Scene {
    let mut world = World::new(11, options);
    let client = world.host();
    let hosts: Vec<HostId> = servers.iter().map(|_| world.host()).collect();
    let client = world.start(client);
    let (mut addresses, mut asked) = (Vec::new(), Vec::new());
    for (host, answer) in hosts.into_iter().zip(servers) {
        let rt = world.start(host);
        let count = Rc::new(Cell::new(0));
        addresses.push(rt.address(53));
        asked.push(Rc::clone(&count));
        serve(&rt, answer, count);
    }
    let config = config::Resolver { servers: addresses, timeout: SECOND, dnssec_trusted: true };
    let resolver = Resolver::new(client.clone(), &config);
    Scene { world, client, resolver, asked }
}

/// Answers as told by datagram, and in full over TCP.
fn serve(rt: &SimRuntime, answer: Answer, asked: Rc<Cell<u64>>) {
    let mut service = rt.bind_udp(53);
    let (by_stream, counted) = (Rc::clone(&answer), Rc::clone(&asked));
    rt.spawn(Class::Session, async move {
        loop {
            let (from, query) = service.receive().await;
            asked.set(asked.get() + 1);
            if let Some(message) = answer(&query) {
                service.send_to(from, &message);
            }
        }
    });
    let (own, mut listener) = (rt.clone(), rt.listen(53));
    rt.spawn(Class::Accept, async move {
        while let Ok(mut conn) = listener.accept().await {
            let deadline = own.now() + SECOND;
            while from_stream(conn.filled()).is_none() && conn.fill(deadline).await.is_ok() {}
            let query = from_stream(conn.filled()).unwrap_or_default().to_vec();
            counted.set(counted.get() + 1);
            // What was cut by datagram is whole here.
            let whole = by_stream(&query).map(|mut message| {
                message[2] &= !2;
                message
            });
            let _ = conn.send(to_stream(&whole.unwrap_or_default()), deadline).await;
            conn.close(deadline).await;
        }
    });
}

fn zone() -> Zone {
    let address = |last| Data::A([192, 0, 2, last].into());
    let mx = |preference, exchange: &str| Data::Mx(Mx { preference, exchange: exchange.into() });
    Zone::new()
        .with("example.org", 300, mx(20, "mx2.example.org"))
        .with("example.org", 300, mx(10, "mx1.example.org"))
        .with("mx1.example.org", 60, address(1))
        .with("mx1.example.org", 60, address(2))
        .with("mx1.example.org", 60, address(3))
        .with("mx1.example.org", 60, Data::Aaaa("2001:db8::1".parse().unwrap()))
        .with("mx2.example.org", 60, address(4))
        .with("example.org", 60, Data::Txt(b"v=spf1 -all"[..].into()))
        .with("1.2.0.192.in-addr.arpa", 60, Data::Ptr("mx1.example.org".into()))
        .signed()
}

fn good() -> Answer {
    let zone = zone();
    Rc::new(move |query| zone.answer(query))
}

fn coded(code: u8) -> Answer {
    Rc::new(move |query| Some(Reply::to(query)?.code(code).bytes()))
}

fn silent() -> Answer {
    Rc::new(|_| None)
}

impl Scene {
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        with: impl FnOnce(Resolver<SimRuntime>, SimRuntime) -> F,
    ) -> T {
        self.world.block_on(&self.client, with(self.resolver.clone(), self.client.clone()))
    }

    fn look_up(&mut self, name: &'static str, kind: Kind) -> Answered {
        self.run(|resolver, _| async move { resolver.lookup(name, kind).await })
    }

    fn wait(&mut self, time: Duration) {
        self.run(|_, rt| async move { rt.sleep_until(rt.now() + time).await });
    }
}

#[test]
fn the_helpers_order_what_they_find() {
    let mut scene = scene(Options::calm(), vec![good()]);
    let (mx, addresses, one, txt, ptr) = scene.run(|resolver, _| async move {
        let mx = resolver.mx("Example.org").await.unwrap();
        let addresses = resolver.addresses("mx1.example.org.").await.unwrap();
        let one = resolver.addresses("mx2.example.org").await.unwrap();
        let txt = resolver.txt("example.org").await.unwrap();
        (mx, addresses, one, txt, resolver.ptr([192, 0, 2, 1].into()).await.unwrap())
    });
    let hosts: Vec<_> = mx.hosts.iter().map(|mx| (mx.preference, &*mx.exchange)).collect();
    assert_eq!(hosts, [(10, "mx1.example.org"), (20, "mx2.example.org")]);
    assert!(mx.secure && addresses.secure && one.secure);
    let texts: Vec<String> = addresses.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!((&*one.name, one.addresses.len()), ("mx2.example.org", 1));
    assert_eq!((txt.concat(), &*ptr.concat()), (b"v=spf1 -all".to_vec(), "mx1.example.org"));
}

#[test]
fn addresses_fail_when_both_families_do() {
    let four_only: Answer = Rc::new(|query| {
        let asked = Query::read(query)?;
        let name = asked.name.to_ascii_lowercase();
        let four = asked.kind == 1;
        let reply = Reply::to(query)?;
        Some(match (name.as_str(), four) {
            ("half.example", true) => {
                reply.answer(&name, 60, &Data::A([192, 0, 2, 1].into())).bytes()
            }
            ("half.example", false) | ("unsure.example", true) => reply.code(2).bytes(),
            _ => reply.code(3).soa("", 60, 60).bytes(),
        })
    });
    let mut scene = scene(Options::calm(), vec![four_only]);
    for (host, expected) in [
        ("half.example", Ok(1)),
        ("unsure.example", Err(Failure::Temporary(Reason::ServerFailed))),
        ("none.example", Err(Failure::NoSuchName)),
        ("..", Err(Failure::BadName(BadName::Label))),
    ] {
        let found = scene.run(|resolver, _| async move { resolver.addresses(host).await });
        assert_eq!(found.map(|found| found.addresses.len()), expected, "{host}");
    }
}

#[test]
fn lost_and_doubled_datagrams_are_survived() {
    let mut options = Options::calm();
    options.net.latency_ns = (100_000, 30_000_000);
    options.net.lost_datagrams = MILLION / 4;
    options.net.doubled_datagrams = MILLION / 4;
    let mut scene = scene(options, vec![good(), good()]);
    let mut found = 0;
    for _ in 0..50 {
        found += u32::from(scene.look_up("mx1.example.org", Kind::A).is_ok());
        scene.wait(61 * SECOND);
    }
    // Six tries each, of which one in two fails: once in 64 none gets through.
    assert!(found >= 45, "{found} of 50");
    let counters = scene.resolver.counters();
    assert!(counters.timeouts.get() > 10, "{counters:?}");
    assert_eq!(counters.queries.get(), counters.timeouts.get() + counters.answers.get());
    assert_eq!(counters.cache_hits.get(), 0);
}

#[test]
fn a_silent_server_is_asked_last_for_a_while() {
    let mut scene = scene(Options::calm(), vec![silent(), good()]);
    for name in ["example.org", "mx1.example.org", "mx2.example.org"] {
        let before = scene.world.now();
        let _ = scene.look_up(name, Kind::A);
        let took = scene.world.now().since(before);
        assert_eq!(took > SECOND, name == "example.org", "{name} took {took:?}");
    }
    assert_eq!(scene.asked[0].get(), 1);
    scene.wait(SILENT_KEPT);
    assert!(scene.look_up("example.org", Kind::Txt).is_ok());
    assert_eq!(scene.asked[0].get(), 2, "it may have come back");
}

#[test]
fn answers_are_remembered_for_their_time_and_failures_for_seconds() {
    let mut scene = scene(Options::calm(), vec![good()]);
    for (name, kind, found, seconds) in [
        ("example.org", Kind::Mx, true, 300),
        ("nobody.example", Kind::Mx, false, 60),
        ("mx1.example.org", Kind::Mx, false, 60),
    ] {
        let before = scene.asked[0].get();
        for _ in 0..3 {
            assert_eq!(scene.look_up(name, kind).is_ok(), found);
        }
        assert_eq!(scene.asked[0].get(), before + 1, "{name}");
        scene.wait(SECOND * seconds);
        let _ = scene.look_up(name, kind);
        assert_eq!(scene.asked[0].get(), before + 2, "{name}");
    }
    assert_eq!(scene.resolver.counters().cache_hits.get(), 6);
    let mut broken = self::scene(Options::calm(), vec![coded(2)]);
    for _ in 0..3 {
        let failed = broken.look_up("example.org", Kind::Mx);
        assert_eq!(failed, Err(Failure::Temporary(Reason::ServerFailed)));
    }
    assert_eq!(broken.asked[0].get(), 1);
    broken.wait(FAILURE_KEPT);
    let _ = broken.look_up("example.org", Kind::Mx);
    assert_eq!(broken.asked[0].get(), 2);
}

#[test]
fn what_was_cut_comes_over_tcp() {
    let zone = zone();
    let cut: Answer = Rc::new(move |query| {
        let mut message = zone.answer(query)?;
        message[2] |= 2;
        Some(message)
    });
    let mut scene = scene(Options::calm(), vec![cut]);
    assert_eq!(scene.look_up("example.org", Kind::Mx).unwrap().records.len(), 2);
    let counters = scene.resolver.counters();
    assert_eq!((counters.queries.get(), counters.tcp.get(), counters.answers.get()), (2, 1, 2));
}

#[test]
fn who_asks_the_same_waits_for_the_same() {
    let mut scene = scene(Options::calm(), vec![good()]);
    let done = Rc::new(Cell::new(0));
    let told = Rc::clone(&done);
    scene.run(|resolver, rt| async move {
        for _ in 0..100 {
            let (resolver, done) = (resolver.clone(), Rc::clone(&told));
            rt.spawn(Class::Session, async move {
                assert!(resolver.lookup("example.org", Kind::Mx).await.is_ok());
                done.set(done.get() + 1);
            });
        }
        rt.sleep_until(rt.now() + SECOND).await;
    });
    assert_eq!((done.get(), scene.asked[0].get()), (100, 1));
    assert_eq!(scene.resolver.counters().joined.get(), 99);
}

#[test]
fn a_lookup_goes_on_without_who_wanted_it() {
    let mut scene = scene(Options::calm(), vec![good()]);
    scene.run(|resolver, rt| async move {
        // Begun, and given up at once.
        drop(resolver.ask("example.org", Kind::Mx));
        rt.sleep_until(rt.now() + SECOND).await;
    });
    assert!(scene.look_up("example.org", Kind::Mx).is_ok());
    assert_eq!((scene.asked[0].get(), scene.resolver.inner.waiting.get()), (1, 0));
}

#[test]
fn lookups_and_waiters_are_bounded() {
    let mut scene = scene(Options::calm(), vec![silent()]);
    let (results, room) = scene.run(|resolver, rt| async move {
        let busy = Err(Failure::Temporary(Reason::Busy));
        let name = |n: usize| format!("a{n}.example");
        let begun: Vec<Asked> = (0..LOOKUPS_MAX).map(|n| resolver.ask(&name(n), Kind::A)).collect();
        assert!(begun.iter().all(|asked| matches!(asked, Asked::Waits(_))));
        assert_eq!(resolver.lookup("more.example", Kind::A).await, busy);
        // Of those under way more may wait, up to their limit.
        let waiting: Vec<Asked> = (LOOKUPS_MAX..WAITERS_MAX)
            .map(|n| resolver.ask(&name(n % LOOKUPS_MAX), Kind::A))
            .collect();
        assert!(waiting.iter().all(|asked| matches!(asked, Asked::Waits(_))));
        assert_eq!(resolver.lookup("a0.example", Kind::A).await, busy);
        assert_eq!(resolver.counters().busy.get(), 2);
        let results = Rc::new(RefCell::new(Vec::new()));
        for asked in begun.into_iter().chain(waiting) {
            let answered = asked.answer().await;
            results.borrow_mut().push(answered);
        }
        rt.sleep_until(rt.now() + FAILURE_KEPT).await;
        let room = matches!(resolver.ask("more.example", Kind::A), Asked::Waits(_));
        (results.take(), room)
    });
    assert_eq!((results.len(), room), (WAITERS_MAX, true));
    let late = Err(Failure::Temporary(Reason::TimedOut));
    assert!(results.iter().all(|result| *result == late));
}

#[test]
fn nobody_listens_and_nobody_lives() {
    let mut scene = scene(Options::calm(), vec![silent()]);
    let (client, server) = (scene.client.clone(), scene.client.address(9));
    let config = config::Resolver { servers: vec![server], timeout: SECOND, dnssec_trusted: false };
    scene.resolver = Resolver::new(client, &config);
    let failed = scene.look_up("example.org", Kind::A);
    assert_eq!(failed, Err(Failure::Temporary(Reason::Unreachable)));
    let none = config::Resolver { servers: Vec::new(), ..config };
    let resolver = Resolver::new(scene.client.clone(), &none);
    assert!(format!("{resolver:?}").contains("127.0.0.1:53"), "{resolver:?}");
}

#[test]
fn a_trace_goes_past_the_cache_and_tells_each_message() {
    let mut scene = scene(Options::calm(), vec![silent(), coded(5), good()]);
    let (outcome, steps) = scene.run(|resolver, _| async move {
        assert!(resolver.lookup("example.org", Kind::Mx).await.is_ok());
        resolver.trace(Question::new("mx2.example.org", Kind::A).unwrap()).await
    });
    assert!(outcome.result.is_ok());
    let told: Vec<String> =
        steps.iter().map(|step| format!("{} {}", step.name, step.ended)).collect();
    let refused = "mx2.example.org the name server does not answer us (REFUSED)";
    assert_eq!(told, [refused, "mx2.example.org answered"]);
}

/// A check that asks for two names, then for a third, and says what has no answer.
fn silent_names(known: &Known) -> Next<Vec<&'static str>> {
    let mut unanswered = Vec::new();
    for group in [&["mx1.example.org", "mx2.example.org"][..], &["mx3.example.org"]] {
        let mut missing = Vec::new();
        for name in group {
            match known.get(name, Kind::A) {
                Ok(Err(Failure::Temporary(Reason::TimedOut))) => unanswered.push(*name),
                Ok(_) => {}
                Err(question) => missing.push(question),
            }
        }
        if !missing.is_empty() {
            return Next::Ask(missing);
        }
    }
    Next::Done(unanswered)
}

#[test]
fn a_check_is_called_again_until_it_knows_enough() {
    let mut scene = scene(Options::calm(), vec![good()]);
    let unanswered = scene.run(|resolver, rt| async move {
        resolver.learn(rt.now() + SECOND, Share::Check, silent_names).await
    });
    assert_eq!((unanswered, scene.asked[0].get()), (Vec::new(), 3));
}

#[test]
fn a_check_ends_at_its_deadline_whatever_is_missing() {
    let mut scene = scene(Options::calm(), vec![silent()]);
    let (unanswered, took) = scene.run(|resolver, rt| async move {
        let begun = rt.now();
        let unanswered = resolver.learn(begun + SECOND / 2, Share::Check, silent_names).await;
        (unanswered, rt.now().since(begun))
    });
    assert_eq!(unanswered, ["mx1.example.org", "mx2.example.org", "mx3.example.org"]);
    assert!(took >= SECOND / 2 && took < SECOND, "{took:?}");
}

#[test]
fn what_is_known_counts_after_the_deadline_too() {
    let mut scene = scene(Options::calm(), vec![good()]);
    let unanswered = scene.run(|resolver, rt| async move {
        assert!(resolver.learn(rt.now() + SECOND, Share::Check, silent_names).await.is_empty());
        resolver.learn(rt.now(), Share::Check, silent_names).await
    });
    assert_eq!(unanswered, Vec::<&str>::new());
}

#[test]
fn an_answer_that_came_while_another_was_waited_for_counts() {
    let mx1_is_silent: Answer = Rc::new(|query| {
        let asks_for = Query::read(query)?.name;
        (!asks_for.eq_ignore_ascii_case("mx1.example.org")).then(|| good()(query)).flatten()
    });
    let mut scene = scene(Options::calm(), vec![mx1_is_silent]);
    let unanswered = scene.run(|resolver, rt| async move {
        resolver.learn(rt.now() + SECOND / 2, Share::Check, silent_names).await
    });
    assert_eq!(unanswered, ["mx1.example.org", "mx3.example.org"]);
}

/// Answers for the zone; other names have nobody who would.
fn good_or_silent() -> Answer {
    let good = good();
    Rc::new(move |query| {
        let name = Query::read(query)?.name.to_lowercase();
        name.ends_with("example.org").then(|| good(query)).flatten()
    })
}

#[test]
fn checks_leave_lookups_to_others_and_wait_for_a_place() {
    let mut scene = scene(Options::calm(), vec![good_or_silent()]);
    let (own, policy, late) = scene.run(|resolver, rt| async move {
        let fill = |from: usize, to: usize, share: Share| {
            let names = (from..to).map(|n| Question::new(&format!("a{n}.example"), Kind::A));
            names
                .map(Result::unwrap)
                .filter(|q| {
                    matches!(resolver.ask_for(q.clone(), share.lookups_max()), Asked::Waits(_))
                })
                .count()
        };
        let most = Share::Check.lookups_max();
        assert_eq!(fill(0, LOOKUPS_MAX, Share::Check), most);
        let soon = rt.now() + SECOND / 2;
        let own = resolver.learn(soon, Share::Check, silent_names).await;
        let policy = resolver.learn(soon + SECOND / 4, Share::Policy, silent_names).await;
        // Those that nobody answers end, and make room.
        let late = rt.now() + 60 * SECOND;
        assert_eq!(fill(LOOKUPS_MAX, 2 * LOOKUPS_MAX, Share::Check), 0);
        (own.len(), policy.len(), resolver.learn(late, Share::Check, silent_names).await.len())
    });
    assert_eq!((own, policy, late), (3, 0, 0));
}

#[test]
fn a_slow_answer_holds_up_nobody_elses_questions() {
    let mut scene = scene(Options::calm(), vec![good_or_silent()]);
    let (unanswered, asked) = scene.run(|resolver, rt| async move {
        let silent = |known: &Known| match known.get("silent.example", Kind::A) {
            Ok(_) => Next::Done(()),
            Err(question) => Next::Ask(vec![question]),
        };
        let both = |known: &Known| silent_names(known).and(silent(known));
        let (unanswered, ()) = resolver.learn(rt.now() + SECOND, Share::Check, both).await;
        (unanswered, rt.now())
    });
    assert_eq!(unanswered, Vec::<&str>::new(), "{asked:?}");
}

#[test]
fn one_check_has_only_so_many_lookups_under_way() {
    let mut scene = scene(Options::calm(), vec![silent()]);
    let under_way = scene.run(|resolver, rt| async move {
        let questions =
            (0..QUESTIONS_MAX).map(|n| Question::new(&format!("a{n}.example"), Kind::A));
        let questions: Vec<Question> = questions.map(Result::unwrap).collect();
        let check = |known: &Known| match known.is_empty() {
            true => Next::Ask(questions.clone()),
            false => Next::Done(()),
        };
        resolver.learn(rt.now() + SECOND / 2, Share::Check, check).await;
        resolver.counters().queries.get()
    });
    assert_eq!(under_way, PARALLEL_MAX as u64);
}

#[test]
fn a_check_that_asks_for_ever_more_is_not_answered_for_ever() {
    let mut scene = scene(Options::calm(), vec![coded(3)]);
    let asked = scene.run(|resolver, rt| async move {
        resolver
            .learn(rt.now() + SECOND * 3600, Share::Check, |known| {
                let name = format!("{}.example.org", known.len());
                match known.get(&format!("{}.example.org", known.len().saturating_sub(1)), Kind::A)
                {
                    Ok(Err(Failure::Temporary(Reason::TimedOut))) => Next::Done(known.len()),
                    _ => Next::Ask(vec![Question::new(&name, Kind::A).unwrap()]),
                }
            })
            .await
    });
    assert_eq!(asked, QUESTIONS_MAX + 1);
}

/// What a server may say about a policy, and about a key, and what is to be said of it then.
fn shapes() -> Vec<(&'static str, Answer, spf::Verdict, dkim::Verdict)> {
    use dkim::Verdict as Dkim;
    use spf::Verdict as Spf;
    let text = |text: Vec<u8>| -> Answer {
        let data = Data::Txt(text.into());
        Rc::new(move |query| {
            let name = Query::read(query)?.name;
            // Too long for a datagram is cut there, and whole over TCP.
            Some(Reply::to(query)?.truncated().answer(&name, 60, &data).bytes())
        })
    };
    let loops: Answer = Rc::new(|query| {
        let name = Query::read(query)?.name;
        let alias = Data::Cname(name.as_str().into());
        Some(Reply::to(query)?.answer(&name, 60, &alias).bytes())
    });
    let chain: Answer = Rc::new(|query| {
        let name = Query::read(query)?.name;
        let alias = Data::Cname(format!("x.{name}").into());
        Some(Reply::to(query)?.answer(&name, 60, &alias).bytes())
    });
    let wrong_id: Answer = Rc::new(|query| {
        let mut bytes = Reply::to(query)?.bytes();
        bytes[0] ^= 0xff;
        Some(bytes)
    });
    let cut: Answer = Rc::new(|query| Some(Reply::to(query)?.truncated().bytes()));
    let garbage: Answer = Rc::new(|query| Some(query.iter().rev().copied().collect()));
    vec![
        ("silence", silent(), Spf::Temperror, Dkim::Temperror),
        ("SERVFAIL", coded(2), Spf::Temperror, Dkim::Temperror),
        ("REFUSED", coded(5), Spf::Temperror, Dkim::Temperror),
        ("no such name", coded(3), Spf::None, Dkim::Permerror),
        ("nothing", coded(0), Spf::None, Dkim::Permerror),
        ("cut, and nothing over TCP", cut, Spf::None, Dkim::Permerror),
        ("an alias of itself", loops, Spf::Temperror, Dkim::Temperror),
        ("aliases without end", chain, Spf::Temperror, Dkim::Temperror),
        ("another's id", wrong_id, Spf::Temperror, Dkim::Temperror),
        ("garbage", garbage, Spf::Temperror, Dkim::Temperror),
        ("an empty text", text(Vec::new()), Spf::None, Dkim::Permerror),
        ("60 KB of policy", text(vast(b"v=spf1 ", b"a ")), Spf::Permerror, Dkim::Permerror),
        ("60 KB of a key", text(vast(b"v=DKIM1; p=", b"AA")), Spf::None, Dkim::Permerror),
        ("octets", text(vec![0xff; 300]), Spf::None, Dkim::Permerror),
    ]
}

fn vast(front: &[u8], more: &[u8]) -> Vec<u8> {
    [front, &more.repeat(30_000)].concat()
}

#[test]
fn whatever_a_name_server_says_a_check_ends_and_says_what_the_rfc_does() {
    let message = b"DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; h=from; b=AAAA;\r\n \
        bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; c=simple/relaxed\r\n\
        From: a@a.test\r\n\r\n";
    for (name, answer, of_policy, of_key) in shapes() {
        let mut scene = scene(Options::calm(), vec![answer]);
        let (policy, key, took) = scene.run(|resolver, rt| async move {
            let begun = rt.now();
            let client = spf::Client {
                ip: [192, 0, 2, 1].into(),
                helo: "a.test",
                sender: "a@a.test",
                receiver: "mx.test",
                now: UnixTime::from_ms(0),
            };
            let deadline = begun + 20 * SECOND;
            let policy =
                resolver.learn(deadline, Share::Check, |known| spf::check(&client, known)).await;
            let mut verifier = dkim::Verifier::new();
            verifier.feed(message);
            let message = verifier.finish();
            let now = UnixTime::from_ms(0);
            let key =
                resolver.learn(deadline, Share::Check, |known| message.check(known, now)).await;
            (policy.verdict, dkim::sum(&key), rt.now().since(begun))
        });
        assert_eq!((policy, key), (of_policy, of_key), "{name}");
        assert!(took <= 21 * SECOND, "{name}: {took:?}");
    }
}
