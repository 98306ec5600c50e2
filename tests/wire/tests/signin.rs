//! Sign-ins that are wrong: malformed, out of order, over a limit, guessed by the thousand. Each is
//! answered as defined, the connection stays in step, and nobody else is disturbed.
//!
//! Wrong answers are slow by the number of them that an address has had, so guesses come from many
//! addresses of loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, Pop, Smtp, base64};

/// Failed sign-ins after which a connection ends.
const FAILURES_MAX: usize = 3;
/// Bad lines that a session forgives.
const BAD_LINES_MAX: usize = 10;
/// Wrong passwords for one account, from all addresses, until it is locked.
const ACCOUNT_FAILURES_MAX: usize = 100;
/// The longest line of a SASL exchange, with its CRLF.
const LINE_BYTES_MAX: usize = 12_288;
const ALICE: &str = "alice@example.test";

/// The message of PLAIN.
fn plain(user: &str, password: &str) -> String {
    base64::encode(format!("\0{user}\0{password}").as_bytes())
}

fn auth(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", plain(user, password))
}

fn right() -> String {
    auth(DEMO, DEMO_PASSWORD)
}

fn submission(engine: &Engine) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, engine.base() + 587).into()
}

/// After EHLO, where users sign in.
fn hello(engine: &Engine) -> Smtp {
    Smtp::hello(submission(engine)).expect("EHLO")
}

/// The same, from 127.0.0.`last`.
fn hello_from(last: u8, to: SocketAddr) -> Smtp {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).expect("bound");
    socket.connect(&to.into()).expect("a connection");
    let mut smtp = Smtp::over(socket.into()).expect("a connection");
    smtp.expect(220).expect("a greeting");
    smtp.command("EHLO client.test").expect("EHLO");
    smtp
}

fn pop(engine: &Engine) -> Pop {
    Pop::open(engine.pop_address()).expect("a greeting")
}

/// What is no message of a mechanism, as the argument of AUTH.
fn malformed() -> Vec<String> {
    let mut all: Vec<String> = [
        "PLAIN AGFsaWNlAHBlbmNpbA=",    // one `=` of two
        "PLAIN AGFsaWNlAHBlbmNpbA",     // none of them
        "PLAIN AGFsaWNlAHBlbmNpbB==",   // bits behind the end
        "PLAIN !!!!",                   // other characters
        "PLAIN AGRlbW8A ZGVtbw==",      // a space in the middle
        "PLAIN ====",                   //
        "PLAIN =",                      // an empty message
        "PLAIN AGRlbW8AZGVtbw==\u{fc}", // not ASCII
        "LOGIN !!!!",                   // the name of LOGIN
    ]
    .map(str::to_owned)
    .into();
    for message in [b"demo\0demo".as_slice(), b"\0demo", b"\0\0\0\0", b"\0de\xffmo\0demo"] {
        all.push(format!("PLAIN {}", base64::encode(message)));
    }
    all
}

#[test]
fn what_is_not_base64_is_501_and_the_session_goes_on() {
    assert_eq!(plain("alice", "pencil"), "AGFsaWNlAHBlbmNpbA==");
    let engine = Engine::shared().unwrap();
    for argument in malformed() {
        let mut smtp = hello(&engine);
        let reply = smtp.command(&format!("AUTH {argument}")).unwrap();
        assert!(reply.is(501, "5.5.2"), "{argument}: {reply:?}");
        // The same as an answer to the challenge, where a mechanism has one.
        if let Some(message) = argument.strip_prefix("PLAIN ")
            && message != "="
        {
            assert_eq!(smtp.command("AUTH PLAIN").unwrap().code, 334);
            let reply = smtp.command(message).unwrap();
            assert!(reply.is(501, "5.5.2"), "{message}: {reply:?}");
        }
        assert_eq!(smtp.command(&right()).unwrap().code, 235, "{argument}: still in step");
    }
    for lines in [["!!!!", ""], ["ZGVtbw==", "!!!!"]] {
        let mut smtp = hello(&engine);
        assert_eq!(smtp.command("AUTH LOGIN").unwrap().code, 334);
        let mut reply = smtp.command(lines[0]).unwrap();
        if reply.code == 334 {
            reply = smtp.command(lines[1]).unwrap();
        }
        assert!(reply.is(501, "5.5.2"), "{lines:?}: {reply:?}");
        assert_eq!(smtp.command("NOOP").unwrap().code, 250);
    }
}

#[test]
fn the_third_malformed_sign_in_ends_the_connection() {
    let engine = Engine::shared().unwrap();
    let mut smtp = hello(&engine);
    for n in 1..=FAILURES_MAX {
        assert!(smtp.command("AUTH PLAIN !!!!").unwrap().is(501, "5.5.2"), "{n}");
    }
    assert!(smtp.reply().unwrap().is(421, "4.7.0"));
    assert!(smtp.ended().unwrap());
    let mut pop = pop(&engine);
    for n in 1..=FAILURES_MAX {
        assert!(pop.command("AUTH PLAIN !!!!").unwrap().starts_with("-ERR Syntax"), "{n}");
    }
    assert!(pop.command("NOOP").is_err(), "closed");
}

#[test]
fn sign_ins_out_of_order_are_503_and_unknown_mechanisms_504() {
    let engine = Engine::start().unwrap();
    let mut smtp = Smtp::open(submission(&engine)).unwrap();
    smtp.expect(220).unwrap();
    assert!(smtp.command(&right()).unwrap().is(503, "5.5.1"), "before EHLO");
    assert_eq!(smtp.command("HELO client.test").unwrap().code, 250);
    assert!(smtp.command(&right()).unwrap().is(503, "5.5.1"), "HELO has no extensions");
    assert_eq!(smtp.command("EHLO client.test").unwrap().code, 250);
    assert!(smtp.command("MAIL FROM:<demo@example.test>").unwrap().is(530, "5.7.0"));
    assert!(smtp.command("AUTH").unwrap().is(501, "5.5.4"));
    // Those that cannot work in clear among them.
    for name in ["CRAM-MD5", "XOAUTH2", "PLAI", "PLAINS", "EXTERNAL", "SCRAM-SHA-256-PLUS", "*"] {
        for message in ["", " =", " !!!!"] {
            let reply = smtp.command(&format!("AUTH {name}{message}")).unwrap();
            assert!(reply.is(504, "5.5.4"), "{name}{message}: {reply:?}");
        }
    }
    assert_eq!(smtp.command(&right().replace("PLAIN", "plain")).unwrap().code, 235);
    assert!(smtp.command(&right()).unwrap().is(503, "5.5.1"), "once");
    assert_eq!(smtp.command("EHLO client.test").unwrap().code, 250);
    assert!(smtp.command(&right()).unwrap().is(503, "5.5.1"), "EHLO does not sign out");
    assert_eq!(smtp.command("MAIL FROM:<demo@example.test>").unwrap().code, 250);
    assert!(smtp.command(&right()).unwrap().is(503, "5.5.1"), "in a transaction");
    assert_eq!(smtp.command("RCPT TO:<demo@example.test>").unwrap().code, 250);
    assert!(smtp.command("AUTH PLAIN").unwrap().is(503, "5.5.1"));
    assert_eq!(smtp.command("DATA").unwrap().code, 354);
    assert_eq!(smtp.command("\r\nAUTH PLAIN\r\n.").unwrap().code, 250, "it was text, and is mail");
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
}

#[test]
fn a_star_gives_up_and_is_no_failure() {
    let engine = Engine::shared().unwrap();
    let mut smtp = hello(&engine);
    let mut pop = pop(&engine);
    for before in [&["AUTH PLAIN"][..], &["AUTH LOGIN"], &["AUTH LOGIN", "ZGVtbw=="]] {
        for _ in 0..FAILURES_MAX {
            for line in before {
                assert_eq!(smtp.command(line).unwrap().code, 334, "{before:?}");
                assert!(pop.command(line).unwrap().starts_with("+ "), "{before:?}");
            }
            assert!(smtp.command("*").unwrap().is(501, "5.7.0"), "{before:?}");
            assert_eq!(pop.command("*").unwrap(), "-ERR Authentication cancelled.");
        }
    }
    assert!(pop.command("*").unwrap().starts_with("-ERR Invalid"), "no exchange, no star");
    assert_eq!(smtp.command("*").unwrap().code, 500);
    assert_eq!(smtp.command(&right()).unwrap().code, 235);
}

#[test]
fn lines_of_an_exchange_have_a_limit_of_their_own() {
    let engine = Engine::shared().unwrap();
    let mut smtp = hello(&engine);
    let mut pop = pop(&engine);
    let line = |bytes: usize| "A".repeat(bytes - 2);
    for (bytes, code, enhanced, said) in [
        (LINE_BYTES_MAX, 501, "5.5.2", "-ERR Syntax Error: not base64"),
        (LINE_BYTES_MAX + 1, 500, "5.5.6", "-ERR Syntax Error: the line is too long"),
        (1_000_000, 500, "5.5.6", "-ERR Syntax Error: the line is too long"),
    ] {
        assert_eq!(smtp.command("AUTH PLAIN").unwrap().code, 334);
        let reply = smtp.command(&line(bytes)).unwrap();
        assert!(reply.is(code, enhanced), "{bytes}: {reply:?}");
        assert_eq!(smtp.command("NOOP").unwrap().code, 250, "{bytes}: exactly one reply");
        assert!(pop.command("AUTH PLAIN").unwrap().starts_with("+ "));
        let reply = pop.command(&line(bytes)).unwrap();
        assert!(reply.starts_with(said), "{bytes}: {reply}");
        assert!(pop.command("LANG en").unwrap().starts_with("+OK"), "{bytes}: in step");
    }
    assert_eq!(smtp.command("AUTH PLAIN").unwrap().code, 334);
    assert!(smtp.command("AGRl\0bW8=").unwrap().is(500, "5.5.2"), "NUL");
    // In the command itself the limit is that of commands.
    assert_eq!(smtp.command(&format!("AUTH PLAIN {}", line(2_100))).unwrap().code, 500);
    let reply = pop.command(&format!("AUTH PLAIN {}", line(600))).unwrap();
    assert!(reply.starts_with("-ERR Syntax Error: the line is too long"), "{reply}");
    assert_eq!(smtp.command(&right()).unwrap().code, 235);
    assert!(pop.command(&format!("USER {DEMO}")).unwrap().starts_with("+OK"));
}

#[test]
fn lines_that_are_too_long_end_a_session_in_the_end() {
    let engine = Engine::shared().unwrap();
    let mut smtp = hello(&engine);
    let long = "A".repeat(LINE_BYTES_MAX);
    for rounds in 0.. {
        assert!(rounds <= BAD_LINES_MAX, "it goes on for ever");
        let reply = smtp.command("AUTH PLAIN").unwrap();
        if reply.code == 421 {
            assert!(rounds >= BAD_LINES_MAX - 1, "only {rounds} are forgiven");
            break;
        }
        assert_eq!(reply.code, 334);
        let reply = smtp.command(&long).unwrap();
        assert!(reply.is(500, "5.5.6"), "{reply:?}");
    }
    assert!(smtp.ended().unwrap());
    assert_eq!(hello(&engine).command(&right()).unwrap().code, 235);
}

#[test]
fn names_and_passwords_that_cannot_be_are_wrong_like_any_other() {
    let engine = Engine::start().unwrap();
    let long_name = format!("{}@example.test", "a".repeat(300));
    let guesses = [
        (DEMO, "wrong"),
        ("nobody@example.test", DEMO_PASSWORD),
        ("demo@elsewhere.test", DEMO_PASSWORD),
        ("nobody", "x"),
        (DEMO, "demo "),
        (DEMO, "DEMO"),
        (&*long_name, "x"),
        ("d\u{e9}mo@example.test", DEMO_PASSWORD),
        (DEMO, &*"x".repeat(1_025)),
    ];
    let mut said = Vec::new();
    for (number, (user, password)) in (10..).zip(guesses) {
        let mut smtp = hello_from(number, submission(&engine));
        said.push(smtp.command(&auth(user, password)).unwrap());
        assert!(smtp.command("MAIL FROM:<demo@example.test>").unwrap().is(530, "5.7.0"));
    }
    assert!(said[0].is(535, "5.7.8"), "{:?}", said[0]);
    for (guess, reply) in guesses.iter().zip(&said) {
        assert_eq!(reply, &said[0], "{guess:?}: a stranger must not learn which names exist");
    }
    // Signing in for another is no right that anybody has.
    let other = base64::encode(format!("{ALICE}\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    let mut smtp = hello(&engine);
    assert_eq!(&smtp.command(&format!("AUTH PLAIN {other}")).unwrap(), &said[0]);
    assert_eq!(smtp.command(&right()).unwrap().code, 235);
}

/// What the threads that check passwords have spent so far, in nanoseconds of CPU.
fn hashing(engine: &Engine) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", engine.pid())).expect("its threads");
    let spent = tasks.flatten().filter_map(|task| {
        let read = |name| std::fs::read_to_string(task.path().join(name)).ok();
        (read("comm")?.trim() == "passwords").then_some(())?;
        read("schedstat")?.split(' ').next()?.parse::<u64>().ok()
    });
    spent.sum()
}

#[test]
fn a_name_that_does_not_exist_costs_a_hash_too() {
    let engine = Engine::start().unwrap();
    let mut address = 10;
    let mut cost = |user: &str| {
        let before = hashing(&engine);
        for _ in 0..4 {
            address += 1;
            let mut smtp = hello_from(address, submission(&engine));
            assert_eq!(smtp.command(&auth(user, "wrong")).unwrap().code, 535);
        }
        hashing(&engine) - before
    };
    cost(DEMO); // the first ones touch memory that is new
    let (known, unknown) = (cost(DEMO), cost("nobody@example.test"));
    assert!(known > 1_000_000, "{known} ns for four hashes");
    // Not a matter of time but of work: without a hash there is next to none.
    assert!(unknown > known / 2 && known > unknown / 2, "{known} and {unknown} ns");
}

#[test]
fn three_wrong_passwords_end_a_connection() {
    let engine = Engine::start().unwrap();
    let mut smtp = hello_from(9, submission(&engine));
    for _ in 0..FAILURES_MAX {
        assert!(smtp.command(&auth(DEMO, "wrong")).unwrap().is(535, "5.7.8"));
    }
    assert!(smtp.reply().unwrap().is(421, "4.7.0"));
    assert!(smtp.ended().unwrap());
    let mut smtp = hello(&engine);
    assert_eq!(smtp.command(&right()).unwrap().code, 235, "the account is not locked by three");
}

/// Guesses alice's password `count` times on many connections; how often each code was said.
fn guess(engine: &Engine, count: usize) -> BTreeMap<u16, usize> {
    let left = AtomicUsize::new(count);
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    let one = |last: u8| {
        let mut said = BTreeMap::new();
        let mut smtp = hello_from(last, submission(engine));
        let mut failed = 0;
        while take().is_ok() {
            let reply = smtp.command(&auth(ALICE, "wrong")).expect("an answer");
            assert!(reply.is(535, "5.7.8") || reply.is(454, "4.7.0"), "{reply:?}");
            *said.entry(reply.code).or_insert(0) += 1;
            failed += usize::from(reply.code == 535);
            if failed == FAILURES_MAX {
                failed = 0;
                smtp = hello_from(last, submission(engine));
            }
        }
        said
    };
    let mut all = BTreeMap::new();
    std::thread::scope(|scope| {
        let guessers: Vec<_> = (100..150).map(|last| scope.spawn(move || one(last))).collect();
        for guesser in guessers {
            for (code, times) in guesser.join().expect("no panic") {
                *all.entry(code).or_insert(0) += times;
            }
        }
    });
    all
}

#[test]
fn a_thousand_wrong_passwords_lock_the_account_and_nothing_else() {
    let engine = Engine::start().unwrap();
    let made = engine.beside(&["adduser", ALICE, "--password-stdin"], "secret\n").unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut early = hello(&engine);
    assert_eq!(early.command(&auth(ALICE, "secret")).unwrap().code, 235);

    let said = guess(&engine, 1_000);
    assert_eq!(said.values().sum::<usize>(), 1_000);
    let wrong = said.get(&535).copied().unwrap_or(0);
    // Each of the 50 connections may have had one under way when the last allowed one failed.
    assert!((ACCOUNT_FAILURES_MAX..ACCOUNT_FAILURES_MAX + 50).contains(&wrong), "{said:?}");

    // Whatever the password is and wherever it comes from, also when it was right a moment ago.
    for last in [1, 100, 200] {
        let mut smtp = hello_from(last, submission(&engine));
        assert!(smtp.command(&auth(ALICE, "secret")).unwrap().is(454, "4.7.0"), "{last}");
        assert!(smtp.command(&auth("ALICE@Example.Test", "secret")).unwrap().is(454, "4.7.0"));
        assert_eq!(smtp.command(&right()).unwrap().code, 235, "{last}: another account");
    }
    let refused = Pop::login(engine.pop_address(), ALICE, "secret").unwrap_err().to_string();
    assert!(refused.starts_with("-ERR [SYS/TEMP]"), "{refused}");
    // A thousand on one connection: said at once, and no failure of the connection.
    let mut smtp = hello(&engine);
    for n in 0..1_000 {
        assert!(smtp.command(&auth(ALICE, "wrong")).unwrap().is(454, "4.7.0"), "{n}");
    }
    assert_eq!(smtp.command(&right()).unwrap().code, 235);
    // Who is in stays in, and mail goes on coming.
    assert_eq!(early.mail(ALICE, &[ALICE, DEMO], b"Subject: x\r\n\r\n").unwrap().code, 250);
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
}

#[test]
fn pop3_keeps_its_order() {
    let engine = Engine::start().unwrap();
    let mut pop = pop(&engine);
    for line in [&format!("PASS {DEMO_PASSWORD}"), "PASS", "PASS  "] {
        assert!(pop.command(line).unwrap().starts_with("-ERR"), "{line}");
    }
    for line in ["STAT", "LIST", "UIDL", "RETR 1", "DELE 1", "TOP 1 0", "RSET", "USER", "AUTH"] {
        assert!(pop.command(line).unwrap().starts_with("-ERR"), "{line}");
    }
    assert!(pop.command("AUTH CRAM-MD5").unwrap().starts_with("-ERR No such mechanism"));
    // A wrong password takes the name with it.
    assert!(pop.command(&format!("USER {DEMO}")).unwrap().starts_with("+OK"));
    assert!(pop.command("PASS wrong").unwrap().starts_with("-ERR [AUTH]"));
    let reply = pop.command(&format!("PASS {DEMO_PASSWORD}")).unwrap();
    assert_eq!(reply, "-ERR Order Error: USER first.");
    assert!(pop.command(&right()).unwrap().starts_with("+OK"));
    for line in [format!("USER {DEMO}"), format!("PASS {DEMO_PASSWORD}"), right(), "STLS".into()] {
        assert!(pop.command(&line).unwrap().starts_with("-ERR Order"), "{line}");
    }
    assert_eq!(pop.stat().unwrap().0, 0);
}

/// An engine that takes no passwords in clear, though it listens on loopback: it does not take the
/// IPv4 form of an IPv6 address for it. Certificate and account are those of `--dev`.
/// `more` stands in its configuration, too.
fn strict(dev: &mut Engine, more: &str) -> Engine {
    dev.kill();
    let tls = dev.data().join("tls");
    let config = format!(
        "[server]\nnode = \"strict.example.test\"\ndomain = \"example.test\"\n\
         [[tls.certificate]]\nchain = {:?}\nkey = {:?}\n\
         [[listener]]\naddress = \"[::ffff:127.0.0.1]:{{smtp}}\"\nprotocol = \"submission\"\n\
         [[listener]]\naddress = \"[::ffff:127.0.0.1]:{{pop3}}\"\nprotocol = \"pop3\"\n{more}",
        tls.join("cert.pem"),
        tls.join("key.pem"),
    );
    let data = Some(dev.data().to_owned());
    let options = Options { config: Some(config), data, dev: false, ..Options::default() };
    Engine::with(options).expect("it starts")
}

fn capabilities(pop: &mut Pop) -> String {
    String::from_utf8(pop.listing("CAPA").expect("a list")).expect("ASCII")
}

#[test]
fn passwords_in_clear_are_refused() {
    let mut dev = Engine::start().unwrap();
    let engine = strict(&mut dev, "[sign_in]\nscram = true\n");
    let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
    smtp.expect(220).unwrap();
    let offered = smtp.command("EHLO client.test").unwrap().lines.join("\n");
    assert!(offered.contains("STARTTLS") && !offered.contains("AUTH"), "{offered}");
    for line in [&*right(), "AUTH PLAIN", "AUTH LOGIN", "AUTH CRAM-MD5", "AUTH PLAIN !!!!"] {
        let reply = smtp.command(line).unwrap();
        assert!(reply.is(538, "5.7.11"), "{line}: {reply:?}");
    }
    let reply = smtp.command("MAIL FROM:<demo@example.test>").unwrap();
    assert!(reply.is(530, "5.7.0"), "{reply:?}");
    let mut pop = pop(&engine);
    let user = format!("USER {DEMO}");
    for line in [&*user, "PASS demo", &right(), "AUTH PLAIN", &user, "PASS demo"] {
        let reply = pop.command(line).unwrap();
        assert!(reply.starts_with("-ERR [AUTH] No passwords in clear"), "{line}: {reply}");
    }
}

#[test]
fn capabilities_change_with_tls() {
    let mut dev = Engine::start().unwrap();
    let certificate = CertificateDer::from_pem_file(dev.data().join("tls/cert.pem")).unwrap();
    for (more, sasl) in [
        ("", "SASL PLAIN LOGIN"),
        ("[sign_in]\nscram = true\n", "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"),
    ] {
        change_with_tls(&strict(&mut dev, more), certificate.clone(), sasl);
    }
}

fn change_with_tls(engine: &Engine, certificate: CertificateDer<'static>, sasl: &str) {
    let mut pop = pop(engine);
    let before = capabilities(&mut pop);
    assert!(before.lines().any(|l| l == "STLS"), "{before}");
    assert!(!before.contains("USER") && !before.contains("SASL"), "{before}");
    drop(pop);

    let mut stream = TcpStream::connect(engine.pop_address()).expect("a connection");
    stream.set_read_timeout(Some(wire_tests::PATIENCE)).expect("a socket");
    let mut line = Vec::new();
    for command in ["", "STLS\r\n"] {
        stream.write_all(command.as_bytes()).expect("sent");
        line = until(&mut stream, b"\r\n");
        assert!(line.starts_with(b"+OK"), "{command}");
    }
    assert_eq!(line, b"+OK Begin TLS negotiation now\r\n");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut tls = StreamOwned::new(session, stream);
    tls.write_all(b"CAPA\r\n").expect("sent");
    let after = String::from_utf8(until(&mut tls, b"\r\n.\r\n")).expect("ASCII");
    for (keyword, listed) in [("USER", true), (sasl, true), ("STLS", false)] {
        assert_eq!(after.lines().any(|l| l == keyword), listed, "{keyword}: {after}");
    }
    for (command, said) in [
        ("STLS", "-ERR Order Error: TLS is there already.\r\n"),
        ("AUTH PLAIN !!!!", "-ERR Syntax Error: not base64, or not what the mechanism says.\r\n"),
        (&*right(), "+OK Auth Success\r\n"),
        ("STAT", "+OK 0 0\r\n"),
    ] {
        tls.write_all(format!("{command}\r\n").as_bytes()).expect("sent");
        let reply = String::from_utf8(until(&mut tls, b"\r\n")).expect("ASCII");
        assert_eq!(reply, said, "{command}");
    }
}

/// Reads up to and with `end`.
fn until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        stream.read_exact(&mut byte).expect("an answer");
        text.extend_from_slice(&byte);
    }
    text
}
