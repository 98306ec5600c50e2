//! Two engines over one Cassandra, which `tests/cluster/run.sh` starts: what is mail on one is mail
//! on the other. Skipped, with a word, where FSMTP_CASSANDRA names no server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wire_tests::engine::run;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop, Smtp, mail};

/// A keyspace of a test, and the engines over it.
struct Cluster {
    config: String,
}

impl Cluster {
    /// A keyspace of this test alone; none where there is no server.
    fn make(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let keyspace = format!("wire_{name}_{}", std::process::id());
        let config = format!(
            "[cluster]\ncontacts = [\"{server}\"]\nkeyspace = \"{keyspace}\"\ncopies = 1\n\
             timeout_s = 20\n"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cluster.toml");
        std::fs::write(&file, &config).expect("a file");
        let (file, data) = (file.to_string_lossy(), folder.path().to_string_lossy());
        // The line of the cluster, whatever else this machine lacks.
        let tested = || {
            let words = ["test", "--dev", "--config", &file, "--data", &data];
            String::from_utf8_lossy(&run(&words, "").expect("a command").stdout).into_owned()
        };
        let said = tested();
        assert!(said.contains("FAIL  cluster: there is no such keyspace"), "{said}");
        let made = run(&["store", "create", "--config", &file], "").expect("a command");
        assert!(made.status.success(), "{made:?}");
        let said = tested();
        assert!(said.contains(&format!("ok    cluster: keyspace {keyspace} at")), "{said}");
        Some(Self { config })
    }

    /// The same keyspace, where nobody listens.
    fn away(&self) -> String {
        let at = self.config.find("127.0.0.1").expect("a contact");
        let (front, behind) = self.config.split_at(at);
        let (_, behind) = behind.split_once('"').expect("its end");
        format!("{front}127.0.0.1:1\"{behind}")
    }

    fn node(&self, number: u8) -> Engine {
        let config = format!("[server]\nnode = \"node{number}.example.test\"\n{}", self.config);
        Engine::with(Options { config: Some(config), ..Options::default() }).expect("an engine")
    }
}

/// Tries until it is so, at most [`PATIENCE`].
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn send(engine: &Engine, to: &[&str], message: &[u8]) -> String {
    let mut smtp = engine.smtp().expect("a connection");
    let reply = smtp.mail("stranger@sender.test", to, message).expect("a reply");
    reply.queue_id().unwrap_or_else(|| panic!("{}", reply.text())).to_owned()
}

fn ids(engine: &Engine, user: &str, password: &str) -> BTreeSet<String> {
    let mut pop = Pop::login(engine.pop_address(), user, password).expect("a sign-in");
    let ids = pop.ids().expect("UIDL");
    pop.quit().expect("QUIT");
    ids.into_iter().collect()
}

#[test]
fn what_comes_in_on_one_node_is_read_and_deleted_on_another() {
    let Some(cluster) = Cluster::make("shared") else { return };
    let (one, other) = (cluster.node(1), cluster.node(2));
    // Small, of several pieces, and in between.
    let mut sent = BTreeSet::new();
    let bodies: Vec<Vec<u8>> = [100, 4096, 70_000, 300_000]
        .into_iter()
        .zip(0..)
        .map(|(octets, number)| mail::message(1, number, octets))
        .collect();
    for body in &bodies {
        sent.insert(send(&one, &[DEMO], body));
    }
    until("mail on the other node", || (ids(&other, DEMO, DEMO_PASSWORD) == sent).then_some(()));
    let mut pop = Pop::login(other.pop_address(), DEMO, DEMO_PASSWORD).expect("a sign-in");
    for number in 1..=bodies.len() {
        let read = pop.message(number).expect("RETR");
        assert!(bodies.iter().any(|body| read.ends_with(body)), "message {number}");
    }
    // RFC 1939 §4: the lock holds on all nodes.
    let second = Pop::login(one.pop_address(), DEMO, DEMO_PASSWORD);
    assert!(second.is_err_and(|why| why.to_string().contains("IN-USE")));
    for number in 1..bodies.len() {
        pop.command(&format!("DELE {number}")).expect("DELE");
    }
    pop.quit().expect("QUIT");
    let left = ids(&one, DEMO, DEMO_PASSWORD);
    assert_eq!(left.len(), 1);
    assert!(left.is_subset(&sent));
}

#[test]
fn an_account_that_is_made_on_one_node_is_one_on_all() {
    let Some(cluster) = Cluster::make("accounts") else { return };
    let (one, other) = (cluster.node(1), cluster.node(2));
    let friend = "friend@example.test";
    let words = ["adduser", friend, "--password-stdin"];
    let made = one.beside(&words, "a password of a friend\n").expect("a command");
    assert!(made.status.success(), "{made:?}");
    let login = || Pop::login(other.pop_address(), friend, "a password of a friend").ok();
    until("the account on the other node", login).quit().expect("QUIT");
    let again = other.beside(&words, "another one\n").expect("a command");
    assert!(!again.status.success(), "{again:?}");
    let message = mail::message(2, 1, 1000);
    let sent = send(&other, &[friend, DEMO], &message);
    for user in [(friend, "a password of a friend"), (DEMO, DEMO_PASSWORD)] {
        until("mail for both", || ids(&one, user.0, user.1).contains(&sent).then_some(()));
    }
    // Of the two who have it one deletes it: the other one's stays.
    let mut pop = Pop::login(one.pop_address(), DEMO, DEMO_PASSWORD).expect("a sign-in");
    pop.command("DELE 1").expect("DELE");
    pop.quit().expect("QUIT");
    let mut pop =
        Pop::login(other.pop_address(), friend, "a password of a friend").expect("a sign-in");
    assert!(pop.message(1).expect("RETR").ends_with(&message));
    pop.quit().expect("QUIT");
}

#[test]
fn a_node_starts_and_takes_mail_while_the_cluster_is_away() {
    let Some(cluster) = Cluster::make("away") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let start = |config: &str| {
        let (config, data) = (Some(config.to_owned()), Some(folder.path().join("data")));
        Engine::with(Options { config, data, ..Options::default() })
    };
    let away = cluster.away();
    let refused = start(&away).expect_err("it has never been in the cluster");
    assert!(refused.contains("Cassandra at 127.0.0.1:1"), "{refused}");
    drop(start(&cluster.config).expect("an engine"));
    let alone = start(&away).expect("an engine");
    let sent = BTreeSet::from([send(&alone, &[DEMO], &mail::message(4, 1, 1000))]);
    let closed = Pop::login(alone.pop_address(), DEMO, DEMO_PASSWORD);
    assert!(closed.is_err_and(|why| why.to_string().contains("SYS/TEMP")));
    let words = ["adduser", "friend@example.test", "--password-stdin"];
    let made = alone.beside(&words, "a password of a friend\n").expect("a command");
    assert!(!made.status.success(), "{made:?}");
    drop(alone);
    let back = start(&cluster.config).expect("an engine");
    until("what came in meanwhile", || (ids(&back, DEMO, DEMO_PASSWORD) == sent).then_some(()));
}

#[test]
fn a_node_that_is_killed_loses_nothing_and_doubles_nothing() {
    let Some(cluster) = Cluster::make("killed") else { return };
    let (mut one, other) = (cluster.node(1), cluster.node(2));
    let mut sent = BTreeSet::new();
    let mut smtp = Smtp::hello(one.smtp_address()).expect("EHLO");
    for number in 0..300 {
        let body = mail::message(3, number, 2000);
        let reply = smtp.mail("stranger@sender.test", &[DEMO], &body).expect("a reply");
        sent.insert(reply.queue_id().expect("250").to_owned());
    }
    one.kill();
    let one = one.again().expect("an engine");
    until("all of it", || (ids(&other, DEMO, DEMO_PASSWORD) == sent).then_some(()));
    drop(one);
    assert_eq!(ids(&other, DEMO, DEMO_PASSWORD), sent);
}

#[test]
fn mail_may_count_as_accepted_when_the_cluster_has_it() {
    let Some(cluster) = Cluster::make("durable") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let start = |config: &str| {
        let config = format!(
            "[server]\nnode = \"node1.example.test\"\n\
             [[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:{{smtp}}\"\n\
             durability = \"cluster\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"127.0.0.1:{{pop3}}\"\n{config}"
        );
        let (config, data) = (Some(config), Some(folder.path().join("data")));
        Engine::with(Options { config, data, dev: false, ..Options::default() }).expect("an engine")
    };
    let one = start(&cluster.config);
    for command in [&["domain", "add", "example.test"][..], &["adduser", DEMO, "--password-stdin"]]
    {
        let done = one.beside(command, DEMO_PASSWORD).expect("a command");
        assert!(done.status.success(), "{done:?}");
    }
    let other = cluster.node(2);
    let sent: BTreeSet<String> =
        (0..5).map(|number| send(&one, &[DEMO], &mail::message(5, number, 40_000))).collect();
    assert_eq!(ids(&other, DEMO, DEMO_PASSWORD), sent, "at once");
    drop(one);
    // Nobody has it, so its sender hears that, and it is not kept.
    let alone = start(&cluster.away());
    let mut smtp = alone.smtp().expect("a connection");
    let reply = smtp.mail("stranger@sender.test", &[DEMO], &mail::message(5, 9, 1000));
    assert_eq!(reply.expect("a reply").code, 451);
    drop(smtp);
    drop(alone);
    let one = start(&cluster.config);
    let after = send(&one, &[DEMO], &mail::message(5, 10, 1000));
    let all: BTreeSet<String> = sent.into_iter().chain([after]).collect();
    assert_eq!(ids(&other, DEMO, DEMO_PASSWORD), all);
}
