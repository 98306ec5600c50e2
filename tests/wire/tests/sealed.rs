//! Mail of sealed accounts on disk: nothing of it can be found there, whatever happens to the
//! engine, and all of it comes back to its owner.
//!
//! A thousand messages are delivered, and every file of the data folder is searched for what they
//! say. The same search in a folder without sealing finds all of it, so it can fail.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wire_tests::base64;
use wire_tests::mail::{Rng, trace};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop};

const LETTERS: usize = 1_000;
/// Connections that deliver at the same time.
const LANES: usize = 8;
/// Letters from this number on stay; of those before it, one in six does.
const KEPT_FROM: usize = 600;
/// A short log file, so that compaction has something to do.
const SEGMENT_BYTES: u64 = 2 * 1024 * 1024;
/// The shortest text that is searched for, and what its place is looked up by.
const START_BYTES: usize = 8;

/// Address and password.
const USERS: [(&str, &str); 3] = [
    (DEMO, DEMO_PASSWORD),
    ("alice@example.test", "a password of alice"),
    ("bob@example.test", "a password of bob"),
];

/// A message, who gets it, and what must not be found of it.
struct Letter {
    number: usize,
    /// Places in [`USERS`].
    to: Vec<usize>,
    sender: String,
    text: Vec<u8>,
    /// Found where mail lies in clear.
    written: Vec<Vec<u8>>,
    /// What an attachment was before it was encoded.
    attached: Vec<Vec<u8>>,
}

/// About how long letter `number` is.
fn length(number: usize) -> usize {
    match number % 100 {
        0 => 300_000,
        1..=4 => 40_000,
        5..=30 => 8_000,
        rest => rest * 20,
    }
}

fn letter(number: usize) -> Letter {
    let to = match number {
        n if n % 50 == 0 => vec![0, 1, 2],
        n if n % 5 == 0 => vec![0, 1],
        n => vec![n % 3],
    };
    let sender = format!("sender{number:04}@envelope.test");
    let head = [
        format!("From: \"Author{number:04}\" <from{number:04}@author.test>\r\n"),
        format!("To: \"Reader{number:04}\" <reader{number:04}@book.test>\r\n"),
        format!("Subject: herring{number:04}\r\n"),
    ];
    let mut written: Vec<Vec<u8>> = vec![
        format!("\"Author{number:04}\"").into(),
        format!("from{number:04}@author").into(),
        format!("reader{number:04}@book").into(),
        format!("herring{number:04}").into(),
        format!("tale{number:04}").into(),
        sender.clone().into(),
        format!("Return-Path: <{sender}>").into(),
    ];
    let mut text = head.concat().into_bytes();
    let (wanted, mut attached) = (length(number), Vec::new());
    if wanted >= 1_000 {
        text.extend_from_slice(b"Content-Type: multipart/mixed; boundary=cut\r\n\r\n--cut\r\n");
    }
    text.extend_from_slice(b"\r\n");
    let mut line = 0;
    while line == 0 || text.len() < wanted / 2 {
        text.extend_from_slice(
            format!("Line {line} of tale{number:04}, told once.\r\n").as_bytes(),
        );
        line += 1;
    }
    if wanted >= 1_000 {
        let mut rng = Rng::new(number as u64);
        let bytes: Vec<u8> = (0..wanted / 24).flat_map(|_| rng.bits().to_le_bytes()).collect();
        text.extend_from_slice(b"--cut\r\nContent-Transfer-Encoding: base64\r\n\r\n");
        let lines: Vec<&[u8]> = bytes.chunks(57).collect();
        for bytes in &lines {
            text.extend_from_slice(base64::encode(bytes).as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"--cut--\r\n");
        for line in [0, lines.len() / 2, lines.len() - 2] {
            written.push(base64::encode(lines[line]).into_bytes());
            attached.push(lines[line].to_vec());
        }
    }
    Letter { number, to, sender, text, written, attached }
}

fn letters() -> Vec<Letter> {
    (0..LETTERS).map(letter).collect()
}

/// What every letter has in common: what a client says, what the engine writes before a message.
fn common() -> Vec<Vec<u8>> {
    ["client.test", "Return-Path: <", "Received: from ", "for <demo@example.test>", "Subject: "]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// Many texts at once, in files.
struct Search {
    texts: Vec<Vec<u8>>,
    /// The first three bytes that some text has.
    begins: Vec<u64>,
    by_start: HashMap<[u8; START_BYTES], Vec<usize>>,
}

impl Search {
    fn new(texts: Vec<Vec<u8>>) -> Self {
        let mut search = Self { texts, begins: vec![0; 1 << 18], by_start: HashMap::new() };
        for (index, text) in search.texts.iter().enumerate() {
            let start = *text.first_chunk().expect("no text is so short");
            let (word, bit) = place(&start);
            search.begins[word] |= bit;
            search.by_start.entry(start).or_default().push(index);
        }
        search
    }

    /// The texts that stand in a file below `folder`.
    fn found(&self, folder: &Path) -> BTreeSet<usize> {
        let (mut found, mut bytes_count) = (BTreeSet::new(), 0);
        for path in files(folder) {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                // A running engine gives files back.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            bytes_count += bytes.len();
            let mut at = 0;
            while at + START_BYTES <= bytes.len() {
                let (word, bit) = place(&bytes[at..at + 3]);
                if self.begins[word] & bit != 0 {
                    self.at(&bytes[at..], &mut found);
                }
                at += 1;
            }
        }
        assert!(bytes_count > 5_000_000, "{bytes_count} bytes are not the whole mail");
        found
    }

    fn at(&self, bytes: &[u8], found: &mut BTreeSet<usize>) {
        let texts = bytes.first_chunk().and_then(|start| self.by_start.get(start));
        let here =
            texts.into_iter().flatten().filter(|text| bytes.starts_with(&self.texts[**text]));
        found.extend(here);
    }

    fn show(&self, found: &BTreeSet<usize>) -> Vec<String> {
        found.iter().take(5).map(|text| self.texts[*text].escape_ascii().to_string()).collect()
    }

    fn finds_nothing(&self, folder: &Path, when: &str) {
        let found = self.found(folder);
        assert!(found.is_empty(), "{when}: {} texts, as {:?}", found.len(), self.show(&found));
    }
}

/// Where in a set of bits the beginning of a text stands.
fn place(start: &[u8]) -> (usize, u64) {
    let bits = usize::from(start[0]) << 16 | usize::from(start[1]) << 8 | usize::from(start[2]);
    (bits >> 6, 1 << (bits & 63))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            files.extend(self::files(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

fn start(sealing: bool) -> Engine {
    let config = format!("[store]\nsegment_bytes = {SEGMENT_BYTES}\nsealing = {sealing}\n");
    let engine = Engine::with(Options { config: Some(config), ..Options::default() });
    let engine = engine.expect("it starts");
    for (address, password) in &USERS[1..] {
        let password = format!("{password}\n");
        let made =
            engine.beside(&["adduser", address, "--password-stdin"], &password).expect("it runs");
        assert!(made.status.success(), "{made:?}");
    }
    engine
}

/// Delivers all letters, in about their order.
fn deliver(engine: &Engine, letters: &[Letter]) {
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || {
                let mut smtp = engine.smtp().expect("EHLO");
                for letter in letters.iter().skip(lane).step_by(LANES) {
                    let mut wire = format!("MAIL FROM:<{}>\r\n", letter.sender).into_bytes();
                    for user in &letter.to {
                        wire.extend(format!("RCPT TO:<{}>\r\n", USERS[*user].0).into_bytes());
                    }
                    wire.extend(format!("BDAT {} LAST\r\n", letter.text.len()).into_bytes());
                    wire.extend_from_slice(&letter.text);
                    smtp.send(&wire).expect("sent");
                    for _ in 0..letter.to.len() + 2 {
                        smtp.expect(250).expect("a reply");
                    }
                }
            });
        }
    });
}

/// Reads what each user holds of the letters that `wanted` says, each once and whole; then deletes
/// it if told to.
fn read(engine: &Engine, letters: &[Letter], wanted: impl Fn(usize) -> bool, delete: bool) {
    for (user, (address, password)) in USERS.iter().enumerate() {
        let theirs = letters.iter().filter(|letter| letter.to.contains(&user));
        let mut left: BTreeSet<usize> =
            theirs.map(|letter| letter.number).filter(|number| wanted(*number)).collect();
        let mut pop = Pop::login(engine.pop_address(), address, password).expect("sign in");
        for message in 1..=pop.stat().expect("STAT").0 {
            let stored = pop.message(message).expect("RETR");
            let number = number(&stored);
            if !wanted(number) {
                continue;
            }
            assert!(left.remove(&number), "{address}: letter {number} twice, or not theirs");
            trace(&stored, &letters[number].text).expect("as it was sent");
            if delete {
                let said = pop.command(&format!("DELE {message}")).expect("DELE");
                assert!(said.starts_with("+OK"), "{said}");
            }
        }
        assert!(left.is_empty(), "{address} lacks {left:?}");
        pop.quit().expect("QUIT");
    }
}

/// The number of the letter that was stored as `stored`.
fn number(stored: &[u8]) -> usize {
    let head = String::from_utf8_lossy(&stored[..stored.len().min(2_000)]).into_owned();
    let subject = head.split("herring").nth(1).expect("a subject");
    subject[..4].parse().expect("a number")
}

fn goes(number: usize) -> bool {
    number < KEPT_FROM && !number.is_multiple_of(6)
}

/// Waits until compaction has moved records out of a segment.
fn compacted(engine: &Engine) {
    let until = Instant::now() + PATIENCE;
    let moved = |line: &str| line.contains("segment-freed") && !line.contains("\"moved\":0,");
    while !engine.log().lines().any(moved) {
        assert!(Instant::now() < until, "nothing is compacted");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_of_sealed_mail_is_found_on_disk_and_all_of_it_comes_back() {
    let letters = letters();
    let mut texts = common();
    for letter in &letters {
        texts.extend(letter.written.iter().chain(&letter.attached).cloned());
    }
    let search = Search::new(texts);
    let mut engine = start(true);
    deliver(&engine, &letters);
    search.finds_nothing(engine.data(), "delivered");
    engine.kill();
    search.finds_nothing(engine.data(), "killed, with a backlog");
    let mut engine = engine.again().unwrap();
    search.finds_nothing(engine.data(), "started again");
    read(&engine, &letters, goes, true);
    compacted(&engine);
    search.finds_nothing(engine.data(), "compacted");
    engine.signal(Signal::TERM).unwrap();
    assert!(engine.wait(PATIENCE).expect("it ends").success());
    search.finds_nothing(engine.data(), "stopped");
    let engine = engine.again().unwrap();
    read(&engine, &letters, |number| !goes(number), false);
    search.finds_nothing(engine.data(), "read");
}

#[test]
fn without_sealing_the_same_search_finds_all_of_it() {
    let letters = letters();
    let mut texts = common();
    texts.extend(letters.iter().flat_map(|letter| &letter.written).cloned());
    let search = Search::new(texts);
    let mut engine = start(false);
    deliver(&engine, &letters);
    engine.kill();
    let found = search.found(engine.data());
    let missed: BTreeSet<usize> = (0..search.texts.len()).filter(|n| !found.contains(n)).collect();
    assert!(missed.is_empty(), "{} texts, as {:?}", missed.len(), search.show(&missed));
}
