//! Copies of what users send: sealed, once, in a mailbox of their own, for those who ask for them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use wire_tests::{
    DEMO, DEMO_PASSWORD, Engine, Habit, Options, PATIENCE, Pop, Remote, Smtp, base64,
};

const SECRET: &str = "nobody else reads these words";

fn engine(remote: &Remote, keep_sent: bool) -> Engine {
    let config = format!(
        "[submission]\nkeep_sent = {keep_sent}\n[dev.routes]\n\"there.test\" = \"{}\"\n",
        remote.address()
    );
    let engine = Engine::with(Options { config: Some(config), ..Options::default() });
    let engine = engine.expect("an engine");
    let words = ["adduser", "friend@example.test", "--password-stdin"];
    let made = engine.beside(&words, "a password of a friend\n").expect("a command");
    assert!(made.status.success(), "{made:?}");
    engine
}

/// Sends as the demo account.
fn submit(engine: &Engine, to: &[&str]) {
    let mut smtp = Smtp::hello((Ipv4Addr::LOCALHOST, engine.base() + 587).into()).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    let message = format!("Subject: to {}\r\n\r\n{SECRET}\r\n", to.len());
    assert_eq!(smtp.mail(DEMO, to, message.as_bytes()).expect("a reply").code, 250);
}

/// What lies in a mailbox; removes it from there when `delete` says so.
fn mailbox(engine: &Engine, user: &str, password: &str, delete: bool) -> Vec<String> {
    let mut pop = Pop::login(engine.pop_address(), user, password).expect("a sign-in");
    let (count, _) = pop.stat().expect("STAT");
    let messages = (1..=count).map(|n| pop.message(n).expect("RETR"));
    let messages = messages.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    for number in (1..=count).filter(|_| delete) {
        pop.command(&format!("DELE {number}")).expect("DELE");
    }
    pop.quit().expect("QUIT");
    messages
}

fn sent(engine: &Engine) -> Vec<String> {
    mailbox(engine, &format!("{DEMO}/Sent"), DEMO_PASSWORD, false)
}

fn received(engine: &Engine) -> Vec<String> {
    mailbox(engine, DEMO, DEMO_PASSWORD, false)
}

/// Whether the words stand in a file of the folder or below.
fn lies_in_clear(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one"));
    let mut found = false;
    for entry in entries {
        let path = entry.path();
        found |= match entry.file_type().expect("a type") {
            kind if kind.is_dir() => lies_in_clear(&path),
            kind if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
            }
            _ => false,
        };
    }
    found
}

#[test]
fn what_a_user_sends_is_kept_for_him_alone() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let mut engine = engine(&remote, true);
    submit(&engine, &["a@there.test"]);
    submit(&engine, &["a@there.test", DEMO, "friend@example.test"]);
    let end = Instant::now() + PATIENCE;
    while remote.taken().len() < 2 {
        assert!(Instant::now() < end, "the mail did not leave");
        std::thread::yield_now();
    }
    for taken in remote.taken() {
        assert_eq!(taken.to.len(), 1, "{taken:?}");
    }
    let [first, second] = &sent(&engine)[..] else { panic!("{:#?}", sent(&engine)) };
    assert!(first.contains("Subject: to 1\r\n") && first.ends_with(&format!("{SECRET}\r\n")));
    assert!(first.contains("for <a@there.test>"), "who keeps it is no recipient: {first}");
    assert!(second.contains("Subject: to 3\r\n"));
    let friend = mailbox(&engine, "friend@example.test", "a password of a friend", false);
    assert_eq!((received(&engine).len(), friend.len()), (1, 1));
    let none = mailbox(&engine, "friend@example.test/sent", "a password of a friend", false);
    assert_eq!(none, [""; 0], "he has sent nothing");
    let wrong = Pop::login(engine.pop_address(), &format!("{DEMO}/Sent"), "wrong");
    assert!(wrong.is_err());
    // A session for each at the same time.
    let open = Pop::login(engine.pop_address(), DEMO, DEMO_PASSWORD).expect("a sign-in");
    assert_eq!(mailbox(&engine, &format!("{DEMO}/SENT"), DEMO_PASSWORD, true).len(), 2);
    open.quit().expect("QUIT");
    assert_eq!((sent(&engine).len(), received(&engine).len()), (0, 1));
    submit(&engine, &["friend@example.test"]);
    engine.kill();
    assert!(!lies_in_clear(engine.data()));
    let engine = engine.again().expect("a start");
    assert_eq!((sent(&engine).len(), received(&engine).len()), (1, 1));
}

#[test]
fn a_new_password_without_the_old_one_takes_them_along() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let engine = engine(&remote, true);
    submit(&engine, &[DEMO]);
    assert_eq!((sent(&engine).len(), received(&engine).len()), (1, 1));
    let words = ["passwd", DEMO, "--password-stdin", "--lose-mail"];
    let output = engine.beside(&words, "another password\n").expect("a command");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2 messages that nobody could read any more"), "{output:?}");
    for user in [DEMO.to_owned(), format!("{DEMO}/Sent")] {
        assert_eq!(mailbox(&engine, &user, "another password", false), [""; 0]);
    }
    let gone = engine.beside(&["deluser", DEMO], "").expect("a command");
    assert!(gone.status.success(), "{gone:?}");
}

#[test]
fn nothing_is_kept_unasked() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let engine = engine(&remote, false);
    submit(&engine, &[DEMO]);
    assert_eq!((sent(&engine).len(), received(&engine).len()), (0, 1));
}
