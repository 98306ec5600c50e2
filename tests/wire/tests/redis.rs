//! Two engines over one Cassandra, which `tests/cluster/run.sh` starts, with a Redis of each test's
//! own: it makes them quicker, and whatever becomes of it costs nobody more than that. Skipped,
//! with a word, where FSMTP_CASSANDRA names no server, or there is no Redis to start.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wire_tests::engine::run;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop, Smtp, base64, mail};

/// A Redis of a test, at a port of its own.
struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    fn start(port: u16) -> Option<Self> {
        let port_text = port.to_string();
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port_text, "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn();
        let Ok(server) = server else {
            println!("skipped: there is no redis-server here");
            return None;
        };
        let redis = Self { port, server };
        until("Redis", || redis.ask(&["PING"]).filter(|said| said.starts_with("+PONG")));
        Some(redis)
    }

    /// What it says to a command; none when it is not there.
    fn ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(text.as_bytes()).ok()?;
        let mut said = vec![0; 64 * 1024];
        let length = stream.read(&mut said).ok()?;
        Some(String::from_utf8_lossy(said.get(..length)?).into_owned())
    }

    fn value(&self, key: &str) -> String {
        self.ask(&["GET", key]).expect("an answer")
    }

    fn kill(&mut self) {
        self.server.kill().expect("a signal");
        self.server.wait().expect("its end");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A keyspace of a test, and where its Redis is.
struct Cluster {
    config: String,
    keyspace: String,
}

impl Cluster {
    fn make(name: &str, redis: SocketAddr) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let keyspace = format!("wire_{name}_{}", std::process::id());
        let config = format!(
            "[cluster]\ncontacts = [\"{server}\"]\nkeyspace = \"{keyspace}\"\ncopies = 1\n\
             timeout_s = 20\nredis = [\"{redis}\"]\n"
        );
        let cluster = Self { config, keyspace };
        let made = cluster.command(&["store", "create"]);
        assert!(made.status.success(), "{made:?}");
        Some(cluster)
    }

    /// A command beside no engine.
    fn command(&self, words: &[&str]) -> std::process::Output {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cluster.toml");
        std::fs::write(&file, &self.config).expect("a file");
        let file = file.to_string_lossy().into_owned();
        run(&[words, &["--config", &file]].concat(), "").expect("a command")
    }

    fn sync(&self, more: &[&str]) -> String {
        let done = self.command(&[&["sync"], more].concat());
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn node(&self, number: u8) -> Engine {
        let config = format!("[server]\nnode = \"node{number}.example.test\"\n{}", self.config);
        Engine::with(Options { config: Some(config), ..Options::default() }).expect("an engine")
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// Tries until it is so, at most [`PATIENCE`].
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn send(engine: &Engine, number: u64) -> String {
    let mut smtp = engine.smtp().expect("a connection");
    let body = mail::message(9, number, 1000);
    let reply = smtp.mail("stranger@sender.test", &[DEMO], &body).expect("a reply");
    reply.queue_id().unwrap_or_else(|| panic!("{}", reply.text())).to_owned()
}

fn count(engine: &Engine) -> usize {
    // Another session may have the mailbox for a moment.
    until("a session", || {
        let mut pop = Pop::login(engine.pop_address(), DEMO, DEMO_PASSWORD).ok()?;
        let (count, _) = pop.stat().ok()?;
        pop.quit().ok()?;
        Some(count)
    })
}

#[test]
fn the_mirror_shows_names_and_sync_mends_it() {
    let address = free();
    let Some(redis) = Redis::start(address.port()) else { return };
    let Some(cluster) = Cluster::make("mirror", address) else { return };
    let (one, other) = (cluster.node(1), cluster.node(2));
    let friend = "friend@example.test";
    let made = one.beside(&["adduser", friend, "--password-stdin"], "a password\n");
    assert!(made.expect("a command").status.success());
    let login = || Pop::login(other.pop_address(), friend, "a password").ok();
    until("the account on the other node", login).quit().expect("QUIT");
    let key = |kind: &str, name: &str| format!("{}:{kind}:{name}", cluster.keyspace);
    until("the mirror", || (redis.value(&key("account", friend)) == "$1\r\n2\r\n").then_some(()));
    // A session shows, and its end does.
    let pop = until("a session", || Pop::login(one.pop_address(), friend, "a password").ok());
    until("its hint", || redis.value(&key("open", "2")).contains("node1.example").then_some(()));
    pop.quit().expect("QUIT");
    until("its end", || redis.value(&key("open", "2")).starts_with("$-1").then_some(()));
    // What is there is as it should be, what is lost comes back, what is false goes.
    assert_eq!(cluster.sync(&[]), "written: 0, removed: 0, unchanged: 3\n");
    assert!(redis.ask(&["FLUSHALL"]).is_some_and(|said| said.starts_with("+OK")));
    for number in 0..2500 {
        let stale = key("account", &format!("stale{number}@example.test"));
        assert!(redis.ask(&["SET", &stale, "9"]).is_some());
    }
    assert!(redis.ask(&["SET", &key("alias", friend), "x"]).is_some());
    assert!(redis.ask(&["SET", "another:account:x", "1"]).is_some());
    let planned = cluster.sync(&["--dry-run"]);
    assert_eq!(planned, "to be written: 3, to be removed: 2501, unchanged: 0\n");
    assert!(cluster.sync(&["--json"]).contains("\"removed\": 2501"));
    assert_eq!(redis.value(&key("account", friend)), "$1\r\n2\r\n");
    assert_eq!(redis.value("another:account:x"), "$1\r\n1\r\n", "it is not ours");
    assert_eq!(cluster.sync(&[]), "written: 0, removed: 0, unchanged: 3\n");
    drop(redis);
    let refused = cluster.command(&["-s"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Redis: 127.0.0.1"), "{refused:?}");
}

fn signed_in(engine: &Engine) -> Option<Smtp> {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    let reply = smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH");
    (reply.code == 235).then_some(smtp)
}

#[test]
fn limits_count_on_all_nodes_together() {
    let address = free();
    let Some(_redis) = Redis::start(address.port()) else { return };
    let Some(cluster) = Cluster::make("limits", address) else { return };
    let node = |number: u8| {
        // No bucket fills again in the time of the test.
        let config = format!(
            "[server]\nnode = \"node{number}.example.test\"\ndomain = \"example.test\"\n\
             [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
             [submission]\nrecipients_per_hour = 40\n{}",
            cluster.config
        );
        let options = Options { config: Some(config), dev: false, ..Options::default() };
        Engine::with(options).expect("an engine")
    };
    let (one, other) = (node(1), node(2));
    for command in [&["domain", "add", "example.test"][..], &["adduser", DEMO, "--password-stdin"]]
    {
        let done = one.beside(command, DEMO_PASSWORD).expect("a command");
        assert!(done.status.success(), "{done:?}");
    }
    let signed_in = |engine| until("the account", || signed_in(engine));
    let mut refused = 0;
    let mut taken = 0;
    // Each node alone would take 40.
    for round in 0..100 {
        let engine = if round % 2 == 0 { &one } else { &other };
        let mut smtp = signed_in(engine);
        match smtp.mail(DEMO, &[DEMO], b"\r\nbody\r\n").expect("a reply").code {
            250 => taken += 1,
            code => {
                assert!((400..500).contains(&code), "{code}");
                refused += 1;
            }
        }
        // Counts are exchanged each second: what is sent within one is not known yet.
        if taken % 10 == 9 {
            std::thread::park_timeout(Duration::from_millis(1200));
        }
    }
    assert!(refused > 0 && (40..60).contains(&taken), "{taken} taken, {refused} refused");
}

#[test]
fn a_redis_that_is_killed_and_comes_back_costs_nobody_an_error() {
    let address = free();
    let Some(mut redis) = Redis::start(address.port()) else { return };
    let Some(cluster) = Cluster::make("gone", address) else { return };
    let (one, other) = (cluster.node(1), cluster.node(2));
    let mut sent = 0;
    let mut send_some = || {
        for _ in 0..20 {
            send(&one, sent);
            sent += 1;
        }
        sent
    };
    send_some();
    redis.kill();
    let all = usize::try_from(send_some()).expect("a count");
    until("all of it", || (count(&other) == all).then_some(()));
    until("a word about it", || one.log().contains("redis-away").then_some(()));
    // Changes are seen by looking, as without it.
    let friend = "friend@example.test";
    let made = one.beside(&["adduser", friend, "--password-stdin"], "a password\n");
    assert!(made.expect("a command").status.success());
    let login = || Pop::login(other.pop_address(), friend, "a password").ok();
    until("the account on the other node", login).quit().expect("QUIT");
    let redis = Redis::start(redis.port).expect("it was there before");
    until("a word about it", || one.log().contains("redis-back").then_some(()));
    let all = usize::try_from(send_some()).expect("a count");
    until("all of it", || (count(&other) == all).then_some(()));
    drop(redis);
}

#[test]
fn a_redis_that_lies_or_says_nothing_keeps_nobody_waiting() {
    for answer in [&b""[..], b"+OK\r\n", b"%1\r\n+proto\r\n:9\r\n", b"\xff\xfe\r\n$99999999999\r\n"]
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().take(1000) {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut heard = [0; 4096];
                    while stream.read(&mut heard).is_ok_and(|length| length > 0) {
                        if !answer.is_empty() && stream.write_all(&answer.repeat(8)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let Some(cluster) = Cluster::make(&format!("lies{}", address.port()), address) else {
            return;
        };
        let one = cluster.node(1);
        let begun = Instant::now();
        for number in 0..20 {
            send(&one, number);
        }
        until("all of it", || (count(&one) == 20).then_some(()));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let hello = Smtp::hello(one.smtp_address());
        assert!(hello.is_ok());
    }
}
