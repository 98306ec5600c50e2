//! What opens a sealed mailbox: passwords, recovery keys, app passwords, hashes of the older
//! program; who holds one reads all mail, who does not reads none.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use wire_tests::mail::{message, trace};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop, Smtp, base64};

const ALICE: &str = "alice@example.test";

/// Runs a command; its output.
fn done(engine: &Engine, args: &[&str], input: &str) -> String {
    let output = engine.beside(args, input).expect("a command");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that is refused; what it says.
fn refused(engine: &Engine, args: &[&str], input: &str) -> String {
    let output = engine.beside(args, input).expect("a command");
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The secret that a command shows on its last line.
fn secret(said: &str) -> String {
    said.lines().last().expect("a secret").trim().to_owned()
}

fn add(engine: &Engine, more: &[&str], password: &str) -> String {
    let args = [&["adduser", ALICE, "--password-stdin"], more].concat();
    done(engine, &args, &format!("{password}\n"))
}

fn passwd(lines: &str) -> ([&'static str; 3], String) {
    (["passwd", ALICE, "--password-stdin"], format!("{lines}\n"))
}

fn letter(number: u64) -> Vec<u8> {
    message(29, number, 2_000)
}

/// Delivers the messages of these numbers to `to`.
fn deliver(engine: &Engine, to: &str, numbers: core::ops::Range<u64>) {
    let mut smtp = engine.smtp().expect("EHLO");
    for number in numbers {
        let reply = smtp.mail("a@sender.test", &[to], &letter(number)).expect("a reply");
        assert_eq!(reply.code, 250);
    }
}

/// Signs in and finds exactly the messages of these numbers, whole.
fn reads(engine: &Engine, user: &str, password: &str, numbers: core::ops::Range<u64>) {
    let mut pop = Pop::login(engine.pop_address(), user, password).expect("sign in");
    let count = usize::try_from(numbers.end - numbers.start).expect("a few");
    assert_eq!(pop.stat().expect("STAT").0, count, "{user}");
    for (place, number) in (1..).zip(numbers) {
        trace(&pop.message(place).expect("RETR"), &letter(number)).expect("as it was sent");
    }
    pop.quit().expect("QUIT");
}

fn wrong(engine: &Engine, user: &str, password: &str) {
    let said = Pop::login(engine.pop_address(), user, password).expect_err(password).to_string();
    assert!(said.starts_with("-ERR [AUTH]"), "{said}");
}

/// The code of a sign-in where mail is submitted.
fn submits(engine: &Engine, user: &str, password: &str) -> u16 {
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let message = base64::encode(format!("\0{user}\0{password}").as_bytes());
    smtp.command(&format!("AUTH PLAIN {message}")).expect("a reply").code
}

/// Whether a file below `folder` holds `text`.
fn holds(folder: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").flatten().any(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        let in_file = || {
            let bytes = std::fs::read(&path).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text)
        };
        kind.is_dir() && holds(&path, text) || kind.is_file() && in_file()
    })
}

fn wait_for(engine: &Engine, event: &str) {
    let until = Instant::now() + PATIENCE;
    while !engine.log().contains(event) {
        assert!(Instant::now() < until, "no {event}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_new_password_opens_the_old_mail_and_the_old_one_nothing() {
    let engine = Engine::start().unwrap();
    let recovery = secret(&add(&engine, &["--recovery-key"], "first"));
    deliver(&engine, ALICE, 0..3);
    let (args, lines) = passwd("second");
    let said = refused(&engine, &args, &lines);
    assert!(said.contains("is gone") && said.contains("--lose-mail"), "{said}");
    let (args, lines) = passwd("second\nnot the first");
    assert!(refused(&engine, &args, &lines).contains("not the right password"));
    reads(&engine, ALICE, "first", 0..3);

    let (args, lines) = passwd("second\nfirst");
    done(&engine, &args, &lines);
    wrong(&engine, ALICE, "first");
    reads(&engine, ALICE, "second", 0..3);

    let (args, lines) = passwd(&format!("third\n{recovery}"));
    done(&engine, &args, &lines);
    wrong(&engine, ALICE, "second");
    wrong(&engine, ALICE, &recovery);
    deliver(&engine, ALICE, 3..4);
    reads(&engine, ALICE, "third", 0..4);
    // A command on the data of a stopped engine does the same.
    let mut engine = engine;
    engine.kill();
    let (args, lines) = passwd(&format!("fourth\n{recovery}"));
    done(&engine, &args, &lines);
    let engine = engine.again().unwrap();
    reads(&engine, ALICE, "fourth", 0..4);
}

#[test]
fn who_lost_every_credential_begins_with_an_empty_mailbox() {
    let engine = Engine::start().unwrap();
    let recovery = secret(&add(&engine, &["--recovery-key"], "first"));
    let args = ["app-password", "add", ALICE, "--name", "phone", "--password-stdin"];
    let phone = secret(&done(&engine, &args, "first\n"));
    let lose = |password: &str| {
        let (args, lines) = passwd(password);
        let said = done(&engine, &[&args[..], &["--lose-mail"]].concat(), &lines);
        assert!(said.contains("recovery key and its app passwords from before are void"), "{said}");
        said
    };
    deliver(&engine, ALICE, 0..1);
    assert!(lose("zeroth").contains("; 1 message that nobody could read any more is removed."));
    deliver(&engine, ALICE, 0..3);
    assert!(lose("second").contains("; 3 messages that nobody could read any more are removed."));
    for void in ["first", "zeroth", &phone] {
        wrong(&engine, ALICE, void);
    }
    reads(&engine, ALICE, "second", 0..0);
    deliver(&engine, ALICE, 3..5);
    reads(&engine, ALICE, "second", 3..5);
    let (args, lines) = passwd(&format!("third\n{recovery}"));
    assert!(refused(&engine, &args, &lines).contains("not the right password"));
    let mut engine = engine;
    engine.kill();
    reads(&engine.again().unwrap(), ALICE, "second", 3..5);
}

#[test]
fn app_passwords_sign_in_until_they_are_revoked() {
    let engine = Engine::start().unwrap();
    add(&engine, &[], "own");
    deliver(&engine, ALICE, 0..2);
    let app = |name: &str| {
        let args = ["app-password", "add", ALICE, "--name", name, "--password-stdin"];
        done(&engine, &args, "own\n")
    };
    let said = refused(
        &engine,
        &["app-password", "add", ALICE, "--name", "x", "--password-stdin"],
        "not own\n",
    );
    assert!(said.contains("not the right password"), "{said}");
    let (phone, desk) = (secret(&app("phone")), secret(&app("desk")));
    assert_ne!(phone, desk);
    let list = || done(&engine, &["app-password", "list", ALICE], "");
    let number = |name: &str| {
        let listed = list();
        let line = listed.lines().find(|line| line.contains(name)).expect("it is listed");
        line.split_whitespace().next().expect("a number").to_owned()
    };
    assert!(!list().contains(&phone), "shown once only");
    let (phone_number, desk_number) = (number("phone"), number("desk"));
    for password in [&*phone, &desk, "own"] {
        reads(&engine, ALICE, password, 0..2);
        assert_eq!(submits(&engine, ALICE, password), 235);
    }
    wrong(&engine, DEMO, &phone);
    // Just used, so it is remembered, and refused all the same.
    done(&engine, &["app-password", "revoke", ALICE, &phone_number], "");
    wrong(&engine, ALICE, &phone);
    assert_eq!(submits(&engine, ALICE, &phone), 535);
    assert!(!list().contains("phone") && list().contains("desk"));
    refused(&engine, &["app-password", "revoke", ALICE, &phone_number], "");
    reads(&engine, ALICE, &desk, 0..2);
    // The account's own wraps are no app passwords.
    for number in 0..=4 {
        if desk_number != number.to_string() {
            refused(&engine, &["app-password", "revoke", ALICE, &number.to_string()], "");
        }
    }
    let (args, lines) = passwd("new\nown");
    done(&engine, &args, &lines);
    let mut engine = engine;
    engine.kill();
    let engine = engine.again().unwrap();
    wrong(&engine, ALICE, &phone);
    for password in [&*desk, "new"] {
        reads(&engine, ALICE, password, 0..2);
    }
}

#[test]
fn an_address_that_is_given_again_has_an_empty_mailbox() {
    let engine = Engine::start().unwrap();
    add(&engine, &[], "the same");
    deliver(&engine, ALICE, 0..2);
    reads(&engine, ALICE, "the same", 0..2);
    done(&engine, &["deluser", ALICE], "");
    wrong(&engine, ALICE, "the same");
    add(&engine, &[], "the same");
    reads(&engine, ALICE, "the same", 0..0);
    deliver(&engine, ALICE, 2..3);
    reads(&engine, ALICE, "the same", 2..3);
}

/// What the older program stored of `jan123`, and of another password.
const JAN: &str = "Jz6t+3gOzJcBDsnJaWQ7HUqBzgLGXhW4y0QkIYwx0j8=.abcdefghijklmnopqrstuvwxy";
const PIET: &str = "kPPIs7RmLqvh9OHvIFKQFlPZiAuAOk4E9sDS8tlmr68=.Zq1Xw2Ec3Rv4Tb5Yn6Um7Ik8O";

#[test]
fn an_imported_account_is_sealed_when_its_password_is_first_known() {
    let (jan, piet) = ("jan@example.test", "piet@example.test");
    let engine = Engine::start().unwrap();
    done(&engine, &["import-account", jan], &format!("{JAN}\n"));
    done(&engine, &["import-account", piet], &format!("{PIET}\n"));
    assert!(refused(&engine, &["import-account", "x@example.test"], "abc\n").contains("hash"));
    deliver(&engine, jan, 0..1);
    assert!(holds(engine.data(), b"X-Ledger: 0"), "in clear, for there are no keys");
    wrong(&engine, jan, "jan124");
    wrong(&engine, jan, "wachtwoord met spaties");
    reads(&engine, jan, "jan123", 0..1);
    wait_for(&engine, "\"event\":\"account-sealed\",\"shard\":0,\"user\":\"jan@example.test\"");
    deliver(&engine, jan, 1..2);
    reads(&engine, jan, "jan123", 0..2);
    // Where mail is submitted, the same happens.
    assert_eq!(submits(&engine, piet, "wachtwoord met spaties"), 235);
    wait_for(&engine, "\"user\":\"piet@example.test\"}");
    let mut engine = engine;
    engine.kill();
    assert!(!holds(engine.data(), b"X-Ledger: 1"));
    assert!(!holds(engine.data(), JAN.as_bytes()[..20].into()), "the old hash is forgotten");
    let engine = engine.again().unwrap();
    wrong(&engine, jan, "jan124");
    reads(&engine, jan, "jan123", 0..2);
}

#[test]
fn accounts_from_before_sealing_get_keys_when_they_sign_in() {
    let folder = tempfile::tempdir().unwrap();
    let options = |sealing: bool| Options {
        data: Some(folder.path().join("data")),
        config: Some(format!("[store]\nsealing = {sealing}\n")),
        ..Options::default()
    };
    let mut engine = Engine::with(options(false)).unwrap();
    let said = refused(&engine, &["passwd", "nobody", "--password-stdin"], "x\n");
    assert!(said.contains("nobody"), "{said}");
    deliver(&engine, DEMO, 0..1);
    reads(&engine, DEMO, DEMO_PASSWORD, 0..1);
    assert!(!engine.log().contains("account-sealed"));
    engine.kill();
    let mut engine = Engine::with(options(true)).unwrap();
    reads(&engine, DEMO, DEMO_PASSWORD, 0..1);
    wait_for(&engine, "account-sealed");
    deliver(&engine, DEMO, 1..2);
    engine.kill();
    assert!(holds(engine.data(), b"X-Ledger: 0") && !holds(engine.data(), b"X-Ledger: 1"));
    // Turned off again, who has keys keeps them.
    let mut engine = Engine::with(options(false)).unwrap();
    deliver(&engine, DEMO, 2..3);
    reads(&engine, DEMO, DEMO_PASSWORD, 0..3);
    engine.kill();
    assert!(!holds(engine.data(), b"X-Ledger: 2"));
}
