//! What the original has in its Cassandra comes here: domains, accounts with their passwords, mail.
//! Skipped, with a word, where FSMTP_CASSANDRA names no server; `tests/cluster/run.sh` starts one.

use std::path::Path;
use std::time::{Duration, Instant};

use fsmtp_cluster::cassandra::{Cassandra, Terms};
use fsmtp_cluster::schema::Replication;
use wire_tests::engine::run;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop};

/// What the original stored of `jan123`.
const JAN: &str = "Jz6t+3gOzJcBDsnJaWQ7HUqBzgLGXhW4y0QkIYwx0j8=.abcdefghijklmnopqrstuvwxy";
const JAN_PASSWORD: &str = "jan123";
/// More than a page of the reader.
const MESSAGES: u64 = 1030;
/// 21 September 2020, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_600_683_000_000;

/// Its tables, with the columns and keys that its script makes.
const TABLES: [&str; 6] = [
    "local_domain (e_domain VARCHAR, e_domain_uuid TIMEUUID, \
     PRIMARY KEY (e_domain, e_domain_uuid))",
    "account_shortcuts (a_bucket BIGINT, a_domain VARCHAR, a_uuid TIMEUUID, a_username VARCHAR, \
     PRIMARY KEY ((a_domain), a_username)) WITH CLUSTERING ORDER BY (a_username DESC)",
    "accounts (a_username VARCHAR, a_picture_uri VARCHAR, a_password VARCHAR, a_domain VARCHAR, \
     a_bucket BIGINT, a_full_name VARCHAR, a_birth_date BIGINT, a_creation_date BIGINT, \
     a_rsa_public TEXT, a_rsa_private TEXT, a_gas DOUBLE, a_country VARCHAR, a_region VARCHAR, \
     a_city VARCHAR, a_address VARCHAR, a_phone VARCHAR, a_type TINYINT, a_uuid TIMEUUID, \
     a_flags BIGINT, a_storage_used_bytes BIGINT, a_storage_max_bytes BIGINT, \
     PRIMARY KEY ((a_bucket), a_domain, a_uuid)) \
     WITH CLUSTERING ORDER BY (a_domain DESC, a_uuid DESC)",
    "mailboxes (e_bucket BIGINT, e_domain VARCHAR, e_uuid TIMEUUID, e_mailbox_path VARCHAR, \
     e_mailbox_stand BOOLEAN, e_message_count INT, e_flags INT, e_subscribed BOOLEAN, \
     PRIMARY KEY ((e_bucket), e_domain, e_uuid, e_mailbox_path)) \
     WITH CLUSTERING ORDER BY (e_domain DESC, e_uuid DESC, e_mailbox_path DESC)",
    "email_shortcuts (e_domain VARCHAR, e_subject VARCHAR, e_preview VARCHAR, \
     e_owners_uuid TIMEUUID, e_email_uuid TIMEUUID, e_bucket BIGINT, e_size_octets BIGINT, \
     e_uid INT, e_from VARCHAR, e_flags INT, e_mailbox VARCHAR, \
     PRIMARY KEY ((e_domain), e_owners_uuid, e_mailbox, e_email_uuid)) \
     WITH CLUSTERING ORDER BY (e_owners_uuid DESC, e_mailbox DESC, e_email_uuid DESC)",
    "raw_emails (e_bucket BIGINT, e_domain VARCHAR, e_owners_uuid TIMEUUID, \
     e_email_uuid TIMEUUID, e_content TEXT, \
     PRIMARY KEY ((e_bucket), e_domain, e_owners_uuid, e_email_uuid)) \
     WITH CLUSTERING ORDER BY (e_domain DESC, e_owners_uuid DESC, e_email_uuid DESC)",
];

/// A keyspace as the original leaves it; dropped at the end.
struct Source {
    server: String,
    keyspace: String,
    cassandra: Cassandra,
}

impl Source {
    /// None where there is no server.
    fn make(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("FSMTP_CASSANDRA") else {
            println!("skipped: FSMTP_CASSANDRA names no server");
            return None;
        };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let suffix = since.expect("a clock").as_nanos() as u64;
        let keyspace = format!("fannst_{name}_{suffix:x}");
        let terms = Terms {
            contacts: vec![server.clone()],
            keyspace: keyspace.clone(),
            replication: Replication::Simple(1),
            centre: None,
            login: None,
            redis: None,
            timeout: Duration::from_secs(20),
        };
        let cassandra = Cassandra::connect(&terms).expect("a session");
        let source = Self { server, keyspace, cassandra };
        source.run(&format!(
            "CREATE KEYSPACE {} WITH replication = \
             {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
            source.keyspace
        ));
        for table in TABLES {
            source.run(&format!("CREATE TABLE {}.{table}", source.keyspace));
        }
        Some(source)
    }

    fn run(&self, statement: &str) {
        self.cassandra.run(statement).expect("a statement");
    }

    fn insert(&self, what: &str) {
        self.run(&format!("INSERT INTO {}.{what}", self.keyspace));
    }

    /// A keyspace of ours beside it.
    fn node(&self) -> String {
        format!("{}_node", self.keyspace)
    }

    fn domain(&self, domain: &str) {
        let uuid = uuid(BEGIN_MS, 1);
        self.insert(&format!("local_domain (e_domain, e_domain_uuid) VALUES ('{domain}', {uuid})"));
    }

    fn account(&self, user: &str, domain: &str, number: u64, password: &str) {
        let (uuid, bucket) = (uuid(BEGIN_MS, number), BEGIN_MS / 10_000_000);
        self.insert(&format!(
            "account_shortcuts (a_bucket, a_domain, a_uuid, a_username) \
             VALUES ({bucket}, '{domain}', {uuid}, '{user}')"
        ));
        self.insert(&format!(
            "accounts (a_bucket, a_domain, a_uuid, a_username, a_password, a_full_name) \
             VALUES ({bucket}, '{domain}', {uuid}, '{user}', '{password}', 'Full {user}')"
        ));
    }

    fn shortcut(&self, of: (&str, u64), ms: u64, mailbox: &str, flags: i32) {
        let (domain, owner) = of;
        self.insert(&format!(
            "email_shortcuts (e_domain, e_owners_uuid, e_mailbox, e_email_uuid, e_bucket, \
             e_flags, e_subject) VALUES ('{domain}', {}, '{mailbox}', {}, {}, {flags}, 's')",
            uuid(BEGIN_MS, owner),
            uuid(ms, 9),
            ms / 10_000_000
        ));
    }

    fn mail(&self, of: (&str, u64), ms: u64, mailbox: &str, text: &str) {
        self.shortcut(of, ms, mailbox, 0);
        let (domain, owner) = of;
        self.insert(&format!(
            "raw_emails (e_bucket, e_domain, e_owners_uuid, e_email_uuid, e_content) \
             VALUES ({}, '{domain}', {}, {}, '{}')",
            ms / 10_000_000,
            uuid(BEGIN_MS, owner),
            uuid(ms, 9),
            text.replace('\'', "''")
        ));
    }

    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["import-cassandra", "--from", &self.server, "--json"];
        words.extend(["--from-keyspace", &self.keyspace]);
        words.extend(more);
        words
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for name in [&self.keyspace, &self.node()] {
            let _ = self.cassandra.run(&format!("DROP KEYSPACE IF EXISTS {name}"));
        }
    }
}

/// A UUID of that time, version 1.
fn uuid(ms: u64, node: u64) -> String {
    let steps = ms * 10_000 + 0x01b2_1dd2_1381_4000;
    let (low, middle, high) = (steps & 0xffff_ffff, (steps >> 32) & 0xffff, steps >> 48);
    format!("{low:08x}-{middle:04x}-1{high:03x}-8000-{node:012x}")
}

/// Status, and what it said; the counts of the JSON are looked up as text.
fn said(output: &std::process::Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("a status"), format!("{text}{errors}"))
}

/// What the JSON says of messages, in one line.
fn messages(said: &str) -> String {
    let (_, behind) = said.split_once("\"messages\": {").expect("messages");
    let (inner, _) = behind.split_once('}').expect("their end");
    inner.split_whitespace().collect()
}

fn text(number: u64) -> String {
    let line = format!("it's line é of {number}\r\n.\r\n");
    format!("Subject: mail {number}\r\n\r\n{}", line.repeat(20))
}

/// A domain with a full mailbox and everything that can be wrong, and one more.
fn fill(source: &Source) -> Vec<Vec<u8>> {
    source.domain("fannst.test");
    source.domain("other.test");
    source.account("jan", "fannst.test", 1, JAN);
    source.account("JAN", "fannst.test", 5, JAN);
    source.mail(("fannst.test", 5), BEGIN_MS, "INBOX", "Subject: another person\r\n\r\n");
    source.account("kees", "other.test", 2, JAN);
    source.account("broken", "other.test", 3, "no hash");
    source.account("not an address", "other.test", 4, JAN);
    let jan = ("fannst.test", 1);
    let mut wanted = Vec::new();
    for number in 0..MESSAGES {
        source.mail(jan, BEGIN_MS + number * 60_000, "INBOX", &text(number));
        wanted.push(text(number).into_bytes());
    }
    let after = |number: u64| BEGIN_MS + (MESSAGES + number) * 60_000;
    source.mail(jan, after(0), "INBOX", "Subject: bare\n\n.a line\nand another");
    wanted.push(b"Subject: bare\r\n\r\n.a line\r\nand another\r\n".to_vec());
    let long = format!("Subject: long\r\n\r\n{}", "all the same words again\r\n".repeat(12_000));
    source.mail(jan, after(1), "INBOX", &long);
    wanted.push(long.into_bytes());
    source.shortcut(jan, after(2), "INBOX", 0);
    source.shortcut(jan, after(3), "INBOX", 1 | 8);
    source.mail(jan, after(4), "INBOX.Sent", "Subject: sent\r\n\r\nby jan\r\n");
    source.mail(jan, after(5), "INBOX.Trash", "Subject: trash\r\n\r\nleft\r\n");
    source.mail(("other.test", 2), after(6), "INBOX", &text(5000));
    source.mail(("other.test", 3), after(7), "INBOX", &text(5001));
    source.mail(("other.test", 77), after(8), "INBOX", &text(5002));
    wanted
}

fn read(engine: &Engine, user: &str) -> Vec<Vec<u8>> {
    let mut pop = Pop::login(engine.pop_address(), user, JAN_PASSWORD).expect("a sign-in");
    let (count, _) = pop.stat().expect("STAT");
    let all = (1..=count).map(|number| pop.message(number).expect("RETR")).collect();
    pop.quit().expect("QUIT");
    all
}

/// Whether these bytes stand in the node's log of mail.
fn lies_in_clear(engine: &Engine, words: &[u8]) -> bool {
    let spool = std::fs::read_dir(engine.data().join("spool")).expect("a folder");
    let mut files = spool.map(|file| std::fs::read(file.expect("a file").path()).expect("bytes"));
    files.any(|bytes| bytes.windows(words.len()).any(|some| some == words))
}

/// Waits until it is so, at most [`PATIENCE`].
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// All that was filled in is there, once and in its order.
fn is_whole(engine: &Engine, wanted: &[Vec<u8>]) {
    let there = read(engine, "jan@fannst.test");
    assert_eq!(there.len(), wanted.len());
    for (number, (there, wanted)) in there.iter().zip(wanted).enumerate() {
        assert!(there == wanted, "message {number}: {}", String::from_utf8_lossy(there));
    }
    let sent = read(engine, "jan@fannst.test/Sent");
    assert_eq!(sent, [b"Subject: sent\r\n\r\nby jan\r\n"]);
    assert_eq!(read(engine, "kees@other.test"), [text(5000).into_bytes()]);
}

#[test]
fn all_that_the_original_has_comes_here_once() {
    let Some(source) = Source::make("all") else { return };
    let wanted = fill(&source);
    let mut engine = Engine::start().expect("an engine");
    let (status, dry) = said(&engine.beside(&source.words(&["--dry-run"]), "").expect("a command"));
    assert_eq!(status, 1, "{dry}");
    let counts = format!(
        "\"imported\":{},\"present\":0,\"deleted\":1,\"without_body\":1,\"refused\":3",
        wanted.len() + 2
    );
    let sorted = |text: &str| {
        let mut all: Vec<String> = text.split(',').map(str::to_owned).collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&messages(&dry)), sorted(&counts), "{dry}");
    let users = said(&engine.beside(&["users"], "").expect("a command")).1;
    assert!(!users.contains("jan"), "nothing was written: {users}");
    assert!(!engine.data().join("import.journal").exists());
    // Beside a running engine, one domain; the rest without one.
    let one = source.words(&["--only", "Fannst.test"]);
    let (status, text) = said(&engine.beside(&one, "").expect("a command"));
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("\"INBOX.Trash\": 1") && text.contains("has no body"), "{text}");
    assert_eq!(read(&engine, "jan@fannst.test").len(), wanted.len());
    engine.kill();
    let data = engine.data().to_string_lossy().into_owned();
    let words = source.words(&["--data", &data]);
    let (status, text) = said(&run(&words, "").expect("a command"));
    assert_eq!(status, 1, "{text}");
    assert!(messages(&text).contains("\"imported\":1"), "{text}");
    for told in [
        "in other case",
        "broken@other.test",
        "not an address@other.test",
        "there is no such account",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let (_, again) = said(&run(&words, "").expect("a command"));
    assert!(messages(&again).contains("\"imported\":0"), "{again}");
    let engine = engine.again().expect("an engine");
    is_whole(&engine, &wanted);
    let (_, again) = said(&engine.beside(&source.words(&[]), "").expect("a command"));
    assert!(messages(&again).contains("\"imported\":0"), "{again}");
    // Who has keys now gets what comes later sealed, and it is deleted for good.
    let after = BEGIN_MS + 90_000_000_000;
    source.mail(("fannst.test", 1), after, "INBOX", "Subject: later\n\nsealed words\n");
    let (_, text) = said(&engine.beside(&source.words(&[]), "").expect("a command"));
    assert!(messages(&text).contains("\"imported\":1"), "{text}");
    assert_eq!(read(&engine, "jan@fannst.test").len(), wanted.len() + 1);
    assert!(lies_in_clear(&engine, b"another"), "from before there were keys");
    assert!(!lies_in_clear(&engine, b"sealed words"));
    let mut pop =
        Pop::login(engine.pop_address(), "jan@fannst.test", JAN_PASSWORD).expect("a sign-in");
    pop.command(&format!("DELE {}", wanted.len() + 1)).expect("DELE");
    pop.quit().expect("QUIT");
    let (_, text) = said(&engine.beside(&source.words(&[]), "").expect("a command"));
    assert!(messages(&text).contains("\"imported\":0"), "{text}");
    is_whole(&engine, &wanted);
    let mut pop = Pop::login(engine.pop_address(), DEMO, DEMO_PASSWORD).expect("a sign-in");
    assert_eq!(pop.stat().expect("STAT").0, 0, "mail of others is not here");
}

#[test]
fn what_cannot_be_read_is_one_line_and_nothing_is_written() {
    let Some(source) = Source::make("none") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let refused = |server: &str, keyspace: &str| {
        let data = data.to_string_lossy();
        let words = ["import-cassandra", "--from", server, "--from-keyspace", keyspace];
        let output = run(&[&words[..], &["--data", &data]].concat(), "").expect("a command");
        let (status, text) = said(&output);
        assert_eq!((status, text.lines().count()), (2, 1), "{text}");
        text
    };
    assert!(refused("127.0.0.1:1", "fannst").contains("Cassandra at 127.0.0.1:1"));
    assert!(refused(&source.server, "fannst_none").contains("there is no keyspace fannst_none"));
    source.run(&format!("DROP TABLE {}.raw_emails", source.keyspace));
    assert!(refused(&source.server, &source.keyspace).contains("has no table raw_emails"));
    assert!(!data.exists());
}

/// Begins an import, and kills it when so many lines are in its journal.
fn killed(words: &[&str], journal: &Path, lines: usize) {
    let program = wire_tests::binary::engine().expect("a program");
    let mut child = std::process::Command::new(program)
        .args(words)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a command");
    let is_there = || {
        let written = std::fs::read_to_string(journal).unwrap_or_default();
        written.lines().count() >= lines
    };
    while child.try_wait().expect("its state").is_none() && !is_there() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    child.kill().expect("its end");
    let ended = child.wait().expect("its end");
    assert_eq!(ended.code(), None, "it was killed in the middle");
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    let Some(source) = Source::make("killed") else { return };
    let wanted = fill(&source);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let path = data.to_string_lossy().into_owned();
    let words = source.words(&["--data", &path]);
    for lines in [1, 60, 400] {
        killed(&words, &data.join("import.journal"), lines);
    }
    let (status, text) = said(&run(&words, "").expect("a command"));
    assert_eq!(status, 1, "{text}");
    let options = Options { data: Some(data), ..Options::default() };
    is_whole(&Engine::with(options).expect("an engine"), &wanted);
}

#[test]
fn a_node_of_a_cluster_takes_it_for_all() {
    let Some(source) = Source::make("cluster") else { return };
    let wanted = fill(&source);
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[cluster]\ncontacts = [\"{}\"]\nkeyspace = \"{}\"\ncopies = 1\ntimeout_s = 20\n",
        source.server,
        source.node()
    );
    let file = folder.path().join("cluster.toml");
    std::fs::write(&file, &config).expect("a file");
    let (file, data) = (file.to_string_lossy(), folder.path().join("data"));
    let made = run(&["store", "create", "--config", &file], "").expect("a command");
    assert!(made.status.success(), "{made:?}");
    // On a node that is there for this only.
    let path = data.to_string_lossy();
    let words = source.words(&["--config", &file, "--data", &path]);
    for lines in [60, 400] {
        killed(&words, &data.join("import.journal"), lines);
    }
    let (status, text) = said(&run(&words, "").expect("a command"));
    assert_eq!(status, 1, "{text}");
    let (_, again) = said(&run(&words, "").expect("a command"));
    assert!(messages(&again).contains("\"imported\":0"), "{again}");
    let options = Options { config: Some(config), ..Options::default() };
    let engine = Engine::with(options.clone()).expect("an engine");
    is_whole(&engine, &wanted);
    drop(engine);
    let engine = Engine::with(Options { data: Some(data.clone()), ..options }).expect("an engine");
    source.mail(("other.test", 2), BEGIN_MS, "INBOX", "Subject: more\n\n");
    let words = source.words(&["--only", "other.test"]);
    let (_, more) = said(&engine.beside(&words, "").expect("a command"));
    assert!(messages(&more).contains("\"imported\":1"), "{more}");
    until("it is in the cluster", || read(&engine, "kees@other.test").len() == 2);
}
