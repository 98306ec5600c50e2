//! Sites and their limits: connections are counted for the node, and a site that wants no more is
//! left alone.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use wire_tests::{
    DEMO, DEMO_PASSWORD, Engine, Habit, Names, Options, PATIENCE, Remote, Smtp, base64,
};

const MESSAGE: &[u8] = b"From: demo@example.test\r\nSubject: hello\r\n\r\nbody\r\n";

/// An engine with these lines of `[queue]`, and shards.
fn engine(cores: u32, more: &str) -> Engine {
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"example.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n{more}"
    );
    let options = Options { cores, config: Some(config), dev: false, ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    for command in [&["domain", "add", "example.test"][..], &["adduser", DEMO, "--password-stdin"]]
    {
        let done = engine.beside(command, DEMO_PASSWORD).expect("a command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    engine
}

/// A session of the demo account; the kernel says on which shard.
fn signed_in(engine: &Engine) -> Smtp {
    let mut smtp = Smtp::hello((Ipv4Addr::LOCALHOST, engine.base() + 587).into()).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    smtp
}

fn submit(smtp: &mut Smtp, to: &str) {
    let reply = smtp.mail(DEMO, &[to], MESSAGE).expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn queue(engine: &Engine, arguments: &[&str]) -> String {
    let output = engine.beside(&[&["queue"], arguments].concat(), "").expect("a command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn all_sent(engine: &Engine, remote: &Remote, count: usize) {
    until("the mail", || remote.taken().len() == count);
    until("an empty queue", || queue(engine, &["list"]) == "nothing waits\n");
    assert_eq!(remote.taken().len(), count, "each once");
}

#[test]
fn domains_with_the_same_hosts_share_their_connections() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let domains = ["one.test", "two.test", "three.test"];
    let mx = domains.map(|domain| (domain, 10, "mx.test"));
    let names = Names::start(&mx, &[("mx.test", Ipv4Addr::LOCALHOST)]).expect("names");
    let (servers, port) = (names.address(), remote.address().port());
    let engine = engine(
        1,
        &format!(
            "[resolver]\nservers = [\"{servers}\"]\n\
             [queue]\nmx_port = {port}\nconnections_max = 2\nmta_sts = false\n"
        ),
    );
    remote.be_silent(true);
    let mut smtp = signed_in(&engine);
    for n in 0..12 {
        submit(&mut smtp, &format!("{n}@{}", domains[n % 3]));
    }
    until("two transactions", || remote.busy_counts().0 == 2);
    remote.be_silent(false);
    all_sent(&engine, &remote, 12);
    assert_eq!(remote.busy_counts(), (0, 2));
}

#[test]
fn a_limit_holds_for_all_shards_together_and_each_has_its_turn() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let address = remote.address();
    let routes = format!("[routes]\n\"remote.test\" = \"{address}\"\n");
    let engine = engine(2, &format!("{routes}[queue]\nconnections_max = 3\n"));
    remote.be_silent(true);
    let count = 60;
    for _ in 0..count {
        submit(&mut signed_in(&engine), "a@remote.test");
    }
    until("three transactions", || remote.busy_counts().0 == 3);
    remote.be_silent(false);
    all_sent(&engine, &remote, count);
    assert_eq!(remote.busy_counts(), (0, 3));
    let sent_by = |shard: u32| {
        let log = engine.log();
        let shard = format!("\"shard\":{shard}");
        log.lines().filter(|line| line.contains("message-sent") && line.contains(&shard)).count()
    };
    // The log is written in its own time.
    until("all lines", || sent_by(0) + sent_by(1) == count);
    assert!(sent_by(0) > 0 && sent_by(1) > 0, "{}", engine.log());
}

#[test]
fn one_connection_goes_round_among_domains_that_all_have_mail() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let address = remote.address();
    let routes = format!("[routes]\n\".test\" = \"{address}\"\n");
    let engine = engine(1, &format!("{routes}[queue]\nconnections_max = 1\n"));
    remote.be_silent(true);
    let mut smtp = signed_in(&engine);
    for n in 0..90 {
        submit(&mut smtp, &format!("{n}@{}.test", ["one", "two", "three"][n / 30]));
    }
    remote.be_silent(false);
    all_sent(&engine, &remote, 90);
    assert_eq!(remote.busy_counts(), (0, 1));
    // Nobody had to wait until another domain was through.
    let to = |domain: &str| {
        let is = |taken: &wire_tests::Taken| taken.to[0].contains(domain);
        remote.taken().iter().position(is).expect("its first")
    };
    let firsts = [to("@one."), to("@two."), to("@three.")];
    assert!(firsts.iter().all(|first| *first <= 2 * 11), "{firsts:?}");
    // Ten messages and more over each connection while others waited.
    assert!(remote.connections_count() <= 12, "{}", remote.connections_count());
}

#[test]
fn who_has_nothing_to_send_any_more_does_not_keep_others_waiting() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let address = remote.address();
    let routes = format!("[routes]\n\".test\" = \"{address}\"\n");
    let engine = engine(1, &format!("{routes}[queue]\nconnections_max = 1\n"));
    remote.be_silent(true);
    let mut smtp = signed_in(&engine);
    submit(&mut smtp, "a@one.test");
    until("a transaction", || remote.busy_counts().0 == 1);
    let reply = smtp.mail(DEMO, &["b@two.test"], MESSAGE).expect("a reply");
    let removed = reply.queue_id().expect("a name").to_owned();
    until("its turn", || queue(&engine, &["list"]).ends_with("2 in all: 2 under-way\n"));
    submit(&mut smtp, "c@three.test");
    until("another", || queue(&engine, &["list"]).ends_with("3 in all: 3 under-way\n"));
    assert_eq!(queue(&engine, &["remove", &removed]), "1 message removed\n");
    remote.be_silent(false);
    all_sent(&engine, &remote, 2);
}

#[test]
fn what_waits_for_a_connection_expires_as_all_else() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let address = remote.address();
    let routes = format!("[routes]\n\".test\" = \"{address}\"\n");
    let queue = "[queue]\nconnections_max = 1\nretry = \"1h\"\nexpiry = \"4s\"\n";
    let engine = engine(1, &format!("{routes}{queue}"));
    remote.be_silent(true);
    let mut smtp = signed_in(&engine);
    submit(&mut smtp, "a@one.test");
    until("a transaction", || remote.busy_counts().0 == 1);
    submit(&mut smtp, "b@two.test");
    let failed = || engine.log().lines().filter(|line| line.contains("message-failed")).count();
    until("an end", || failed() == 1);
    let log = engine.log();
    let line = log.lines().find(|line| line.contains("message-failed")).expect("a line");
    assert!(line.contains("b@two.test") && line.contains("has been free"), "{line}");
    remote.be_silent(false);
    all_sent(&engine, &remote, 1);
    // The line is not held up by who has gone.
    submit(&mut smtp, "c@three.test");
    all_sent(&engine, &remote, 2);
}

#[test]
fn a_site_that_bears_three_connections_is_not_dialled_for_each_message() {
    let remote = Remote::start(Habit::Few(3)).expect("a remote");
    let address = remote.address();
    let routes = format!("[routes]\n\"remote.test\" = \"{address}\"\n");
    let engine = engine(1, &format!("{routes}[queue]\nconnections_max = 20\nretry = \"1h\"\n"));
    remote.be_silent(true);
    let mut smtp = signed_in(&engine);
    for _ in 0..60 {
        submit(&mut smtp, "a@remote.test");
    }
    until("three transactions", || remote.busy_counts().0 == 3);
    remote.be_silent(false);
    all_sent(&engine, &remote, 60);
    assert!(remote.connections_count() <= 20, "{}", remote.connections_count());
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

#[test]
fn a_dead_site_is_left_alone_until_its_pause_is_over_or_an_operator_insists() {
    let address = nobody();
    let remote = Remote::at(address, Habit::Few(0)).expect("a remote");
    let routes = format!("[routes]\n\"*\" = \"{address}\"\n");
    // Longer than this test: nothing but an operator makes anything due.
    let engine = engine(1, &format!("{routes}[queue]\nconnections_max = 4\nretry = \"1h\"\n"));
    let mut smtp = signed_in(&engine);
    submit(&mut smtp, "0@first.test");
    let waits = |why: &str| queue(&engine, &["list"]).ends_with(&format!("in all: {why}\n"));
    until("an attempt", || waits("1 refused-for-now"));
    assert_eq!(remote.connections_count(), 1);
    for n in 1..100 {
        submit(&mut smtp, &format!("{n}@{}.test", ["first", "other"][n % 2]));
    }
    until("all to wait", || waits("1 refused-for-now, 99 site-paused"));
    assert_eq!(remote.connections_count(), 1, "none of them was dialled for");
    let list = queue(&engine, &["list"]);
    let paused = list.lines().find(|line| line.contains("site-paused")).expect("a line");
    let id = paused.split_whitespace().next().expect("a name");
    let shown = queue(&engine, &["show", id]);
    assert!(shown.contains("too many connections"), "{shown}");
    until("an event", || engine.log().contains("\"event\":\"site-paused\""));
    queue(&engine, &["retry", id]);
    until("another connection", || remote.connections_count() == 2);
    until("all to wait", || waits("2 refused-for-now, 98 site-paused"));
    drop(remote);
    let remote = Remote::at(address, Habit::Good).expect("back again");
    queue(&engine, &["retry", "--all"]);
    all_sent(&engine, &remote, 100);
}

#[test]
fn what_waits_for_a_paused_site_expires_in_time_and_is_reported() {
    let routes = format!("[routes]\n\"*\" = \"{}\"\n", nobody());
    let engine = engine(1, &format!("{routes}[queue]\nretry = \"1h\"\nexpiry = \"4s\"\n"));
    let mut smtp = signed_in(&engine);
    submit(&mut smtp, "a@remote.test");
    until("a pause", || engine.log().contains("\"event\":\"site-paused\""));
    submit(&mut smtp, "b@remote.test");
    until("the end of both", || engine.log().matches("message-failed").count() == 2);
    until("an empty queue", || queue(&engine, &["list"]) == "nothing waits\n");
    assert_eq!(engine.log().matches("\"event\":\"site-paused\"").count(), 1, "one dial");
}

#[test]
fn an_address_that_swallows_everything_delays_nothing() {
    // Its backlog is full, so that the kernel answers nothing more.
    let hole = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 77), 0)).expect("a hole");
    let port = hole.local_addr().expect("an address").port();
    rustix::net::listen(&hole, 0).expect("a small backlog");
    let full: Vec<_> = (0..4).map(|_| connecting(hole.local_addr().expect("an address"))).collect();
    let remote = Remote::at((Ipv4Addr::LOCALHOST, port).into(), Habit::Good).expect("a remote");
    let names = Names::start(
        &[("one.test", 10, "mx.test")],
        &[("mx.test", Ipv4Addr::new(127, 0, 0, 77)), ("mx.test", Ipv4Addr::LOCALHOST)],
    )
    .expect("names");
    let servers = names.address();
    let engine = engine(
        1,
        &format!(
            "[resolver]\nservers = [\"{servers}\"]\n[queue]\nmx_port = {port}\nmta_sts = false\n"
        ),
    );
    let begun = Instant::now();
    submit(&mut signed_in(&engine), "a@one.test");
    all_sent(&engine, &remote, 1);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    drop(full);
}

/// A connection that is on its way, and need not arrive.
fn connecting(to: SocketAddr) -> rustix::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
    let socket = socket.expect("a socket");
    // In progress, or done.
    let _ = connect(&socket, &to);
    socket
}
