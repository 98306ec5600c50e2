//! Two engines over one Cassandra, which `tests/cluster/run.sh` starts: what one of them has taken
//! to send, the other one sends when it is gone, each message once. Skipped, with a word, where
//! FSMTP_CASSANDRA names no server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::schema::Replication;
use tempfile::TempDir;
use wire_tests::engine::run;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Habit, Options, Remote, Smtp, base64, mail};

/// A lease of 15 s has to end, and two looks to find that.
const PATIENCE: Duration = Duration::from_secs(90);

/// A keyspace of a test, and what its engines are made with.
struct Cluster {
    config: String,
    terms: Terms,
    _folder: TempDir,
}

impl Cluster {
    /// One whose engines send mail for remote.test to this address; none where there is no server.
    fn make(name: &str, remote: SocketAddr) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("a file");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
        let config = format!(
            "[routes]\n\"remote.test\" = \"{remote}\"\n\
             [queue]\nretry = \"1s\"\nexpiry = \"1h\"\n[submission]\nrecipients_per_hour = 0\n\
             [cluster]\ncontacts = [\"{server}\"]\ncopies = 1\ntimeout_s = 20\n\
             keyspace = \"wire_{name}_{}\"\nsecret_file = \"{}\"\ntakeover_s = 15\n",
            std::process::id(),
            secret.display(),
        );
        let file = folder.path().join("cluster.toml");
        fs::write(&file, &config).expect("a file");
        let made = run(&["store", "create", "--config", &file.to_string_lossy()], "");
        assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
        let terms = Terms {
            contacts: vec![server],
            keyspace: format!("wire_{name}_{}", std::process::id()),
            replication: Replication::Simple(1),
            centre: None,
            login: None,
            redis: None,
            timeout: Duration::from_secs(20),
        };
        Some(Self { config, terms, _folder: folder })
    }

    fn node(&self, number: u8) -> Engine {
        let config = format!(
            "[server]\nnode = \"node{number}.example.test\"\ndomain = \"example.test\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"127.0.0.1:{{pop3}}\"\n\
             [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
             durability = \"cluster\"\n{}",
            self.config
        );
        let options = Options { config: Some(config), dev: false, cores: 2, ..Options::default() };
        let engine = Engine::with(options).expect("an engine");
        if number == 1 {
            let account = ["adduser", DEMO, "--password-stdin"];
            for command in [&["domain", "add", "example.test"][..], &account] {
                let done = engine.beside(command, DEMO_PASSWORD).expect("a command");
                assert!(done.status.success(), "{done:?}");
            }
        }
        engine
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn signed_in(engine: &Engine) -> Smtp {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    let reply = smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH");
    assert_eq!(reply.code, 235, "{reply:?}");
    smtp
}

fn listed(engine: &Engine) -> String {
    let output = engine.beside(&["queue", "list"], "").expect("a command");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_empty(engine: &Engine) -> bool {
    listed(engine) == "nothing waits\n"
}

/// How often each message that was made with this seed has arrived, by its number.
fn arrived(remote: &Remote) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for taken in remote.taken() {
        let (number, _) = mail::find_mark(&taken.message).expect("one of ours");
        *counts.entry(number).or_default() += 1;
    }
    counts
}

/// One that the demo account may send.
fn message(number: u64, octets: usize) -> Vec<u8> {
    let made = mail::message(8, number, octets);
    let own = |line: &&[u8]| !line.to_ascii_lowercase().starts_with(b"from:");
    let lines: Vec<&[u8]> = made.split_inclusive(|byte| *byte == b'\n').filter(own).collect();
    [format!("From: {DEMO}\r\n").into_bytes(), lines.concat()].concat()
}

/// The copy is made when it is this node's turn, which it is soon after a start.
fn submit(smtp: &mut Smtp, number: u64, octets: usize) {
    let body = message(number, octets);
    until("a copy", || {
        let reply = smtp.mail(DEMO, &["a@remote.test"], &body).expect("a reply");
        assert!(reply.code == 250 || reply.code == 451, "{reply:?}");
        reply.code == 250
    });
}

#[test]
fn the_mail_of_a_node_that_is_killed_under_load_is_sent_by_another_one() {
    let address = nobody();
    let Some(cluster) = Cluster::make("takeover", address) else { return };
    let (mut one, other) = (cluster.node(1), cluster.node(2));
    // One of several pieces, too.
    submit(&mut signed_in(&one), 0, 200_000);
    let killed = AtomicBool::new(false);
    // Several senders at once, until the node is killed; what was said to be taken, and what was
    // being said.
    let (taken, open): (Vec<BTreeSet<u64>>, Vec<u64>) = std::thread::scope(|scope| {
        let senders: Vec<_> = (1..=4)
            .map(|sender| {
                let (one, killed) = (&one, &killed);
                let mut smtp = signed_in(one);
                scope.spawn(move || {
                    let mut taken = BTreeSet::new();
                    for number in (sender * 1_000_000).. {
                        let body = message(number, 3000);
                        match smtp.mail(DEMO, &["a@remote.test"], &body) {
                            Ok(reply) if reply.code == 250 => drop(taken.insert(number)),
                            Ok(reply) => assert!(killed.load(Ordering::SeqCst), "{reply:?}"),
                            Err(_) => return (taken, number),
                        }
                    }
                    unreachable!("it is killed")
                })
            })
            .collect();
        until("a queue", || listed(&one).lines().count() > 300);
        killed.store(true, Ordering::SeqCst);
        one_is_killed(&one);
        senders.into_iter().map(|sender| sender.join().expect("a sender")).unzip()
    });
    one.kill();
    let remote = Remote::at(address, Habit::Good).expect("the other server");
    let all: BTreeSet<u64> = taken.into_iter().flatten().chain([0]).collect();
    assert!(all.len() > 300, "{}", all.len());
    until("all of it", || {
        let arrived = arrived(&remote);
        all.iter().all(|number| arrived.contains_key(number))
    });
    until("an empty queue", || is_empty(&other));
    // It comes back: what was sent in its stead is not sent again.
    let one = one.again().expect("an engine");
    until("an empty queue there", || is_empty(&one));
    for (number, count) in arrived(&remote) {
        assert_eq!(count, 1, "message {number}");
        assert!(all.contains(&number) || open.contains(&number), "message {number}");
    }
    // And it takes mail as before.
    submit(&mut signed_in(&one), 1, 3000);
    until("the next one", || arrived(&remote).get(&1) == Some(&1));
}

/// Ends it without a word, while others hold it.
fn one_is_killed(one: &Engine) {
    one.signal(rustix::process::Signal::KILL).expect("a signal");
}

#[test]
fn a_node_that_comes_back_gets_its_mail_back() {
    let address = nobody();
    let Some(cluster) = Cluster::make("back", address) else { return };
    let (mut one, other) = (cluster.node(1), cluster.node(2));
    let mut smtp = signed_in(&one);
    for number in 0..20 {
        submit(&mut smtp, number, 3000);
    }
    drop(smtp);
    one.kill();
    // Nobody takes it there either, and the other node keeps what it learns.
    until("the mail on the other node", || listed(&other).matches("remote.test").count() == 20);
    until("a try", || listed(&other).matches("unreachable").count() > 0);
    let one = one.again().expect("an engine");
    until("nothing on the other node", || is_empty(&other));
    assert_eq!(listed(&one).matches("remote.test").count(), 20);
    let remote = Remote::at(address, Habit::Good).expect("the other server");
    let retried = one.beside(&["queue", "retry", "--all"], "").expect("a command");
    assert!(retried.status.success(), "{retried:?}");
    until("an empty queue", || is_empty(&one));
    let arrived = arrived(&remote);
    assert_eq!(arrived, (0..20).map(|number| (number, 1)).collect());
}

#[test]
fn who_takes_the_number_of_a_node_that_is_gone_sends_its_mail() {
    let address = nobody();
    let Some(cluster) = Cluster::make("number", address) else { return };
    let mut one = cluster.node(1);
    let mut smtp = signed_in(&one);
    for number in 0..5 {
        submit(&mut smtp, number, 3000);
    }
    drop(smtp);
    one.kill();
    drop(one);
    // As an operator does who knows that it will not come back.
    let forget = format!("DELETE FROM {}.leases WHERE name = 'node/0'", cluster.terms.keyspace);
    Cassandra::connect(&cluster.terms).and_then(|it| it.run(&forget)).expect("a statement");
    let other = cluster.node(2);
    until("its mail", || listed(&other).matches("remote.test").count() == 5);
    let remote = Remote::at(address, Habit::Good).expect("the other server");
    let retried = other.beside(&["queue", "retry", "--all"], "").expect("a command");
    assert!(retried.status.success(), "{retried:?}");
    until("an empty queue", || is_empty(&other));
    assert_eq!(arrived(&remote), (0..5).map(|number| (number, 1)).collect());
}
