//! Sealed mail at rest, with everything at hand that lies on the node's disk: without a credential
//! nothing opens, and what somebody has changed there is never given out as mail.
//!
//! The built engine makes the data folders; then the store's own functions are turned against them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use fsmtp_rt::UnixTime;
use fsmtp_rt::glommio::{ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_store::directory::{Account, Lock, Opened};
use fsmtp_store::mailbox::{
    Embedded, Found, Keeper, Liveness, Mailboxes, Message, Options, Registry, wait,
};
use fsmtp_store::seal::{ContentKey, MailboxKey, OpenWindow, PrivateKey, WindowRecord};
use fsmtp_store::spool::{BodyRef, Committed, Reader, Recipient, RecipientKey, Sink};
use fsmtp_store::{Lsn, ShardId, StoreError};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Below the ports that the system gives to clients, above those of other tests.
const BASES: core::ops::Range<u16> = 30_100..31_700;
const SERVICES: [u16; 5] = [25, 110, 465, 587, 995];
/// Of a record: a checksum at 4, of all from 8 on; how long the payload is at 12.
const RECORD_HEAD_BYTES: usize = 32;

/// Address and password.
const DEMO: (&str, &str) = ("demo@example.test", "demo");
const ALICE: (&str, &str) = ("alice@example.test", "a password of alice");

/// A running engine; its log goes to a file beside its data.
struct Engine {
    child: Child,
    base: u16,
    log: PathBuf,
}

/// Held while an engine starts: two that look for ports at the same time would find the same.
static STARTING: Mutex<()> = Mutex::new(());

impl Engine {
    fn start(data: &Path) -> Self {
        let _only = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |base: &u16| {
            SERVICES.iter().all(|port| TcpListener::bind(("127.0.0.1", base + port)).is_ok())
        };
        let skip = std::process::id() as usize % BASES.len();
        let base = BASES.cycle().skip(skip).take(BASES.len()).find(free).expect("free ports");
        let log = data.with_extension("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fsmtp-engine"))
            .args(["--cores", "1", "--dev", "--ports", &base.to_string(), "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = lines.any(|line| line.expect("a line").starts_with("ready"));
        assert!(ready, "{}", fs::read_to_string(&log).expect("a log"));
        Self { child, base, log }
    }

    fn connect(&self, service: u16) -> BufReader<TcpStream> {
        let address = (Ipv4Addr::LOCALHOST, self.base + service);
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        BufReader::new(stream)
    }

    fn deliver(&self, to: &str, text: &[u8]) {
        let mut smtp = self.connect(25);
        let lines = format!(
            "EHLO client.test\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<{to}>\r\nBDAT {} LAST\r\n",
            text.len()
        );
        let wire = [lines.as_bytes(), text, b"QUIT\r\n"].concat();
        smtp.get_mut().write_all(&wire).expect("sent");
        let mut said = String::new();
        smtp.read_to_string(&mut said).expect("replies");
        assert!(said.contains("message queued"), "{said}");
    }

    fn pop(&self, (user, password): (&str, &str)) -> BufReader<TcpStream> {
        let mut pop = self.connect(110);
        line(&mut pop);
        assert!(ask(&mut pop, &format!("USER {user}")).starts_with("+OK"));
        assert!(ask(&mut pop, &format!("PASS {password}")).starts_with("+OK"));
        pop
    }

    /// SIGTERM; what it has said.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        assert!(self.child.wait().expect("it ends").success());
        fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    line
}

fn ask(stream: &mut BufReader<TcpStream>, text: &str) -> String {
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).expect("sent");
    line(stream)
}

/// What RETR gave.
#[derive(PartialEq, Eq, Debug)]
enum Got {
    Whole(Vec<u8>),
    Refused(String),
    /// The connection ended in the middle.
    Part(Vec<u8>),
}

/// Messages here begin no line with a dot.
fn fetch(pop: &mut BufReader<TcpStream>, number: usize) -> Got {
    let said = ask(pop, &format!("RETR {number}"));
    if !said.starts_with("+OK") {
        return Got::Refused(said);
    }
    let mut text = Vec::new();
    loop {
        match pop.read_until(b'\n', &mut text) {
            Ok(1..) if text.ends_with(b"\r\n.\r\n") => {
                text.truncate(text.len() - 3);
                return Got::Whole(text);
            }
            Ok(1..) => {}
            Ok(0) | Err(_) => return Got::Part(text),
        }
    }
}

fn letter(number: usize, bytes: usize) -> Vec<u8> {
    let mut text = format!("Subject: letter {number}\r\n\r\n");
    let mut lines = 0;
    while text.len() < bytes {
        lines += 1;
        text.push_str(&format!("Line {lines} of letter {number}.\r\n"));
    }
    text.into_bytes()
}

/// An empty data folder with the two accounts.
fn fresh() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    drop(Engine::start(&data));
    command(&data, &["adduser", ALICE.0, "--password-stdin"], ALICE.1);
    (folder, data)
}

/// Runs a command that succeeds, with this on its standard input; what it says.
fn command(data: &Path, args: &[&str], input: &str) -> String {
    let mut made = Command::new(env!("CARGO_BIN_EXE_fsmtp-engine"))
        .args(args)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = made.stdin.take().expect("a pipe");
    // It may end without reading, which closes the pipe.
    let _ = stdin.write_all(format!("{input}\n").as_bytes());
    drop(stdin);
    let ended = made.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{args:?}");
    String::from_utf8(ended.stdout).expect("text")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (kind, to) = (entry.file_type().expect("a kind"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

fn index(data: &Path) -> (Embedded, Keeper) {
    Embedded::open(&data.join("index"), Options::new(1)).expect("it opens")
}

fn account(store: &Embedded, address: &str) -> Arc<Account> {
    Arc::clone(store.directory().account(address).expect("an account"))
}

fn all(store: &Embedded, account: &Account) -> Vec<(Message, Found, RecipientKey)> {
    let maildrop = wait(store.open(account.mailbox)).expect("it is free");
    let found = maildrop.messages().iter().map(|message| {
        let found = wait(store.find(account.mailbox, *message)).expect("it is there");
        let key = found.key.clone().expect("it is sealed");
        (*message, found, key)
    });
    found.collect()
}

/// The key of a mailbox, by a password.
fn key(account: &Account, password: &[u8]) -> Option<MailboxKey> {
    match account.lock.open(account.mailbox, password) {
        Opened::Right(key) => Some(key.expect("it is sealed")),
        Opened::Wrong => None,
    }
}

fn private(store: &Embedded, of: &Account, key: &MailboxKey) -> PrivateKey {
    let keys = wait(store.user_keys(of.mailbox)).expect("they are there");
    keys.private_key(of.mailbox, key).expect("they open")
}

fn open(window: &WindowRecord, key: &MailboxKey, private: &PrivateKey) -> OpenWindow {
    let opened = if window.needs_rsa() { window.open_rsa(private) } else { window.open(key) };
    opened.expect("it opens")
}

/// Where a message lies in the spool.
fn body(found: &Found) -> &BodyRef {
    found.body.spooled().expect("it is in the spool")
}

/// Reads a message from the log, sealed when there is a key.
fn read(
    data: &Path,
    segment_bytes: u64,
    at: BodyRef,
    key: Option<ContentKey>,
) -> Result<Vec<u8>, StoreError> {
    let (sender, outcome) = mpsc::channel();
    let folder = data.join("spool");
    let options = ShardOptions {
        name: "reader".into(),
        cpu: None,
        stall_after: None,
        helpers: Helpers::new("files", 1).expect("a thread"),
    };
    let shard = start_shard(options, move |rt| async move {
        let mut reader = Reader::new(rt.disk(folder), segment_bytes);
        match key {
            Some(key) => reader.open_sealed(at, &key),
            None => reader.open(at),
        }
        let mut whole = Vec::new();
        let read = loop {
            match reader.next().await {
                Ok(Some(piece)) => whole.extend_from_slice(&piece),
                Ok(None) => break Ok(whole),
                Err(error) => break Err(error),
            }
        };
        sender.send(read).expect("somebody listens");
    });
    shard.expect("it starts").join().expect("it ends");
    outcome.recv().expect("it was read")
}

/// Tries to read `demo`'s mail, with all that is on disk and what another user has.
fn steal(data: &Path, texts: &[Vec<u8>], needs_rsa: bool) {
    let scratch = TempDir::new().expect("a folder");
    copy(data, scratch.path());
    let (store, keeper) = index(scratch.path());
    let (demo, alice) = (account(&store, DEMO.0), account(&store, ALICE.0));
    let keys = wait(store.user_keys(demo.mailbox)).expect("it is there");
    let secret = store.secret();
    let Lock::Sealed(sealed) = &demo.lock else { panic!("it is sealed") };
    let wraps = sealed.wraps.encode();
    for guess in [&b""[..], b"Demo", b"demo ", secret, keys.public_der(), &wraps[..48]] {
        assert!(key(&demo, guess).is_none(), "{guess:?}");
    }
    let scram = sealed.wraps.scram().expect("it is there");
    for guess in [scram.stored_key(), scram.server_key(), secret] {
        assert!(scram.open(demo.mailbox, guess).is_err());
    }
    assert!(key(&demo, ALICE.1.as_bytes()).is_none());
    let moved = demo.lock.open(alice.mailbox, DEMO.1.as_bytes());
    assert!(matches!(moved, Opened::Wrong), "the right password for another mailbox");

    let (own, foreign) = (
        key(&demo, DEMO.1.as_bytes()).expect("it opens"),
        key(&alice, ALICE.1.as_bytes()).expect("it opens"),
    );
    for mailbox in [demo.mailbox, alice.mailbox] {
        assert!(keys.private_key(mailbox, &foreign).is_err());
    }
    assert!(keys.private_key(alice.mailbox, &own).is_err());
    let (own_rsa, foreign_rsa) = (private(&store, &demo, &own), private(&store, &alice, &foreign));
    let theirs = all(&store, &alice);
    let (other, _, with) = &theirs[0];
    let foreign_window = open(&with.window, &foreign, &foreign_rsa);
    let foreign_key = || foreign_window.open(&with.wrap, other.id).expect("it opens");
    let mail = all(&store, &demo);
    assert_eq!(mail.len(), texts.len());
    for ((message, found, with), text) in mail.iter().zip(texts) {
        assert_eq!(with.window.needs_rsa(), needs_rsa);
        let window = &with.window;
        assert!(window.open(&foreign).is_err() && window.open_rsa(&foreign_rsa).is_err());
        assert_eq!(window.open(&own).is_err(), needs_rsa);
        assert!(foreign_window.open(&with.wrap, message.id).is_err());
        let read = |key| read(scratch.path(), store.segment_bytes(), body(found).clone(), key);
        for key in [None, Some(foreign_key())] {
            let read = read(key);
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
        }
        // With the password all of it opens.
        let window = open(window, &own, &own_rsa);
        assert!(window.open(&with.wrap, other.id).is_err(), "the key of another message");
        let whole =
            read(Some(window.open(&with.wrap, message.id).expect("it opens"))).expect("it opens");
        assert!(whole.ends_with(text) && whole.starts_with(b"Return-Path: <a@sender.test>"));
    }
    drop(store);
    keeper.close().expect("it ends");
}

#[test]
fn without_the_password_no_function_of_the_store_opens_the_mail() {
    let (_folder, data) = fresh();
    let texts = [letter(0, 300), letter(1, 200_000)];
    let engine = Engine::start(&data);
    texts.iter().for_each(|text| engine.deliver(DEMO.0, text));
    engine.deliver(ALICE.0, &letter(2, 300));
    engine.stop();
    steal(&data, &texts, true);
    let engine = Engine::start(&data);
    for user in [DEMO, ALICE] {
        let mut pop = engine.pop(user);
        assert!(matches!(fetch(&mut pop, 1), Got::Whole(_)));
        assert!(ask(&mut pop, "QUIT").starts_with("+OK"));
    }
    engine.stop();
    steal(&data, &texts, false);
}

/// Changes a byte of the record at `lsn`, `place` bytes behind its head, or as many before its end;
/// a checksum that fits makes it look as if it had been written like this.
fn change(segment: &mut [u8], lsn: Lsn, place: isize, fits: bool) {
    let at = usize::try_from(lsn.0).expect("a place");
    let payload = segment[at + 12..at + 16].try_into().expect("four bytes");
    let end = at + RECORD_HEAD_BYTES + u32::from_le_bytes(payload) as usize;
    let from = if place < 0 { end } else { at + RECORD_HEAD_BYTES };
    assert_eq!(crc(&segment[at + 8..end]).to_le_bytes(), segment[at + 4..at + 8]);
    segment[from.strict_add_signed(place)] ^= 1;
    if fits {
        let crc = crc(&segment[at + 8..end]).to_le_bytes();
        segment[at + 4..at + 8].copy_from_slice(&crc);
    }
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// Changes a byte wherever `text` stands in a file.
fn change_everywhere(file: &Path, text: &[u8]) {
    let mut bytes = fs::read(file).expect("a file");
    let places: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at + text.len() / 2] ^= 1);
    fs::write(file, bytes).expect("a file");
}

/// Puts a message of the log into its mailbox once more, with the key of another: as if it had come
/// just now, for the index takes no older ones, and then been moved to where it is.
fn put_again(
    store: &Embedded,
    of: &Account,
    (message, found): (Message, &Found),
    key: RecipientKey,
) {
    let (shard, lsn) = (ShardId(0), store.mark(ShardId(0)));
    let again = Committed {
        id: message.id,
        shard,
        lsn,
        end: Lsn(lsn.0 + 1),
        octets: message.octets,
        chunks: Vec::new(),
        received: UnixTime::from_ms(0),
        recipients: vec![Recipient { mailbox: of.mailbox, key: Some(key) }],
    };
    store.committed(again).expect("there is room");
    wait(store.moved(shard, &[(message.id, lsn, body(found).lsn)])).expect("it moves");
}

#[test]
fn what_was_changed_on_disk_is_refused_and_named_and_the_rest_is_served() {
    let (_folder, data) = fresh();
    let texts: Vec<Vec<u8>> =
        (0..5).map(|n| letter(n, if n == 2 { 300_000 } else { 2_000 })).collect();
    let engine = Engine::start(&data);
    texts.iter().for_each(|text| engine.deliver(DEMO.0, text));
    engine.deliver(ALICE.0, &letter(9, 2_000));
    engine.stop();

    let (store, keeper) = index(&data);
    let (demo, alice) = (account(&store, DEMO.0), account(&store, ALICE.0));
    let mail = all(&store, &demo);
    let ids: Vec<String> = mail.iter().map(|(message, ..)| message.id.to_string()).collect();
    // The last message once more, with the first one's key.
    put_again(&store, &demo, (mail[4].0, &mail[4].1), mail[0].2.clone());
    // A window that does not open.
    let mut window = all(&store, &alice)[0].2.window.encode();
    *window.last_mut().unwrap() ^= 1;
    wait(store.rewrap(alice.mailbox, vec![WindowRecord::decode(&window).unwrap()])).unwrap();
    drop(store);
    keeper.close().unwrap();
    // A row of the index.
    let wrap = mail[3].2.wrap.encode();
    change_everywhere(&data.join("index/index.redb"), &wrap[wrap.len() - 48..]);
    // Three messages in the log.
    let path = data.join("spool/000-0000000000.seg");
    let mut segment = fs::read(&path).unwrap();
    change(&mut segment, body(&mail[0].1).lsn, -30, true);
    change(&mut segment, body(&mail[2].1).chunks[2], 1_000, true);
    fs::write(&path, &segment).unwrap();

    let engine = Engine::start(&data);
    // A start reads the newest segment, and takes no record whose checksum is wrong.
    change(&mut segment, body(&mail[1].1).lsn, -30, false);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&segment, 0).unwrap();
    file.sync_all().unwrap();
    let mut pop = engine.pop(DEMO);
    let said = ask(&mut pop, "STAT");
    assert!(said.starts_with("+OK 5 "), "one row is damaged, one was added: {said}");
    for number in [1, 2, 5] {
        let got = fetch(&mut pop, number);
        assert!(
            matches!(&got, Got::Refused(said) if said.starts_with("-ERR [SYS/PERM]")),
            "{got:?}"
        );
    }
    let Got::Whole(whole) = fetch(&mut pop, 4) else { panic!("nobody has changed it") };
    assert!(whole.ends_with(&texts[4]));
    let Got::Part(part) = fetch(&mut pop, 3) else { panic!("its third piece is damaged") };
    let begin = part.windows(9).position(|text| text == b"Subject: ").unwrap();
    assert!(part.len() > 60_000 && texts[2].starts_with(&part[begin..]), "only what was sent");
    let mut pop = engine.pop(ALICE);
    assert!(matches!(fetch(&mut pop, 1), Got::Refused(_)));
    engine.deliver(ALICE.0, &letter(10, 300));
    drop(pop);
    let log = engine.stop();
    let named = |id: &str| {
        let line = |line: &&str| line.contains("\"message-damaged\"") && line.contains(id);
        log.lines().filter(line).count()
    };
    assert_eq!([0, 1, 2, 4].map(|n: usize| named(&ids[n])), [1; 4], "{log}");
    assert_eq!(named("a window of mailbox"), 1, "{log}");
    assert!(log.contains("\"index-damaged\"") && log.contains("table entries"), "{log}");
}

/// What RCPT for a user is answered with.
fn recipient(engine: &Engine, to: &str) -> String {
    let mut smtp = engine.connect(25);
    line(&mut smtp);
    ask(&mut smtp, "HELO client.test");
    ask(&mut smtp, "MAIL FROM:<a@sender.test>");
    ask(&mut smtp, &format!("RCPT TO:<{to}>"))
}

#[test]
fn what_was_taken_away_opens_nothing_in_an_old_index() {
    let (_folder, data) = fresh();
    let (index_file, slots_file) = (data.join("index/index.redb"), data.join("index/keys.slots"));
    let before = TempDir::new().unwrap();
    copy(&data, before.path());
    let new = "another password of alice";
    command(&data, &["passwd", ALICE.0, "--password-stdin"], &format!("{new}\n{}", ALICE.1));
    let (store, keeper) = index(&data);
    let alice = account(&store, ALICE.0);
    assert!(key(&alice, new.as_bytes()).is_some() && key(&alice, ALICE.1.as_bytes()).is_none());
    drop(store);
    keeper.close().unwrap();
    let after = fs::read(&index_file).unwrap();
    command(&data, &["deluser", DEMO.0], "");

    // The old rows, the right passwords, and the slots of now.
    fs::copy(before.path().join("index/index.redb"), &index_file).unwrap();
    let (store, keeper) = index(&data);
    for (address, password) in [ALICE, DEMO] {
        let account = account(&store, address);
        assert_eq!(account.lock, Lock::Unreadable);
        assert!(key(&account, password.as_bytes()).is_none(), "{address}");
    }
    drop(store);
    keeper.close().unwrap();
    // With the slots of then they open, so it is these that were destroyed.
    let (store, keeper) = index(before.path());
    for (address, password) in [ALICE, DEMO] {
        let account = account(&store, address);
        let key = key(&account, password.as_bytes()).expect("it opens");
        private(&store, &account, &key);
    }
    drop(store);
    keeper.close().unwrap();

    // One transaction later: alice has her new key, demo is there and cannot be opened.
    fs::write(&index_file, after).unwrap();
    let slots = fs::read(&slots_file).unwrap();
    let engine = Engine::start(&data);
    assert!(recipient(&engine, ALICE.0).starts_with("250"));
    let said = recipient(&engine, DEMO.0);
    assert!(said.starts_with("451"), "mail waits at its sender: {said}");
    let mut pop = engine.connect(110);
    line(&mut pop);
    ask(&mut pop, &format!("USER {}", DEMO.0));
    let said = ask(&mut pop, &format!("PASS {}", DEMO.1));
    assert!(said.starts_with("-ERR [SYS/TEMP]"), "nobody was wrong: {said}");
    let users = command(&data, &["users"], "");
    assert!(users.contains("demo@example.test cannot be opened"), "{users}");
    assert!(!users.contains("alice@example.test cannot"), "{users}");
    assert!(fs::read(&slots_file).unwrap() == slots, "nothing is wiped while it does not fit");
    command(&data, &["passwd", DEMO.0, "--lose-mail", "--password-stdin"], DEMO.1);
    engine.deliver(DEMO.0, &letter(0, 300));
    let mut pop = engine.pop(DEMO);
    assert!(matches!(fetch(&mut pop, 1), Got::Whole(_)));
    drop(pop);
    let log = engine.stop();
    assert_eq!(log.matches("the key of demo@example.test").count(), 1, "{log}");
}
