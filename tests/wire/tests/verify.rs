//! Mail of strangers, checked while it comes: what its header tells then, where it goes, and who is
//! refused. Names are looked up at a name server of the test's own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fsmtp_proto::dkim::{Key, Signer, Terms};
use fsmtp_proto::dns::Data;
use fsmtp_proto::dns::testing::Zone;
use fsmtp_proto::time::UnixTime;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop, Reply, Smtp};

/// A name server on loopback.
struct Names {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Names {
    fn serve(zone: Zone) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let address = socket.local_addr().expect("an address");
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let serving = std::thread::spawn(move || {
            let mut room = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut room) else { continue };
                if let Some(answer) = zone.answer(&room[..length]) {
                    socket.send_to(&answer, from).expect("an answer goes out");
                }
            }
        });
        Self { address, over, serving: Some(serving) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            serving.join().expect("the name server has not panicked");
        }
    }
}

fn txt(text: &str) -> Data {
    Data::Txt(text.as_bytes().into())
}

fn key() -> Key {
    static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        made.as_ref().to_vec()
    });
    Key::from_pkcs8("good.test", "e1", &KEY).expect("a key")
}

fn zone() -> Zone {
    Zone::new()
        .with("good.test", 300, txt("v=spf1 ip4:127.0.0.1 -all"))
        .with("bad.test", 300, txt("v=spf1 ip4:192.0.2.1 -all"))
        .with("soft.test", 300, txt("v=spf1 ~all"))
        .with("_dmarc.good.test", 300, txt("v=DMARC1; p=none"))
        .with("_dmarc.strict.test", 300, txt("v=DMARC1; p=reject"))
        .with("_dmarc.careful.test", 300, txt("v=DMARC1; p=quarantine; rua=mailto:a@careful.test"))
        .with(&key().record_name(), 300, txt(&key().record()))
        .with("1.0.0.127.in-addr.arpa", 300, Data::Ptr("client.test".into()))
        .with("client.test", 300, Data::A(Ipv4Addr::LOCALHOST))
        .with("1.0.0.127.bl.test", 300, Data::A(Ipv4Addr::new(127, 0, 0, 2)))
}

fn engine(names: &Names, more: &str) -> Engine {
    let config = format!(
        "[resolver]\nservers = [\"{}\"]\n\
         [verify]\nenabled = true\ntrusted = []\nname = \"mx.example.test\"\n{more}",
        names.address
    );
    let options = Options { config: Some(config), ..Options::default() };
    Engine::with(options).expect("an engine")
}

/// Has another domain served, with one account.
fn add(engine: &Engine, address: &str) {
    let domain = address.split_once('@').map_or("", |(_, domain)| domain);
    let user = ["adduser", address, "--password-stdin"];
    for words in [&["domain", "add", domain][..], &user] {
        let made = engine.beside(words, &format!("{DEMO_PASSWORD}\n")).expect("a command");
        assert!(made.status.success(), "{made:?}");
    }
}

fn deliver(engine: &Engine, from: &str, to: &[&str], message: &str) -> Reply {
    let mut smtp = Smtp::hello(engine.smtp_address()).expect("EHLO");
    smtp.mail(from, to, message.as_bytes()).expect("a reply")
}

fn messages(engine: &Engine, user: &str) -> Vec<String> {
    let mut pop = Pop::login(engine.pop_address(), user, DEMO_PASSWORD).expect("a sign-in");
    let (count, _) = pop.stat().expect("STAT");
    let messages = (1..=count).map(|n| pop.message(n).expect("RETR"));
    messages.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

fn signed(message: &str) -> String {
    let mut signer = Signer::new(Terms::default());
    signer.feed(message.as_bytes());
    let fields = signer.finish(&[key()], UnixTime::from_ms(1_700_000_000_000)).expect("signed");
    String::from_utf8(fields).expect("ASCII") + message
}

const MESSAGE: &str = "From: me@good.test\r\nSubject: x\r\n\r\nbody\r\n";

#[test]
fn the_header_tells_what_was_found_and_forged_words_are_gone() {
    let names = Names::serve(zone());
    let engine = engine(&names, "");
    let forged = "Authentication-Results: mx.example.test; dmarc=pass\r\n\
                  X-Fannst-Auth: su=pass\r\n\
                  Authentication-Results: other.test; spf=pass\r\n";
    let message = format!("{forged}{}", signed(MESSAGE));
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], &message).code, 250);
    let [stored] = &messages(&engine, DEMO)[..] else { panic!("one message") };
    let unfolded = stored.replace("\r\n\t", " ");
    let results = unfolded.lines().find(|line| line.starts_with("Authentication-Results: mx"));
    let results = results.expect("results");
    for part in [
        "Authentication-Results: mx.example.test; iprev=pass (client.test)",
        "policy.iprev=127.0.0.1",
        "spf=pass smtp.mailfrom=me@good.test",
        "spf=none smtp.helo=",
        "dmarc=pass (p=none) header.from=good.test",
        "dkim=pass header.d=good.test header.s=e1 header.a=ed25519-sha256",
    ] {
        assert!(results.contains(part), "{part}: {results}");
    }
    assert!(!stored.contains("su=pass"), "{stored}");
    assert_eq!(stored.matches("mx.example.test").count(), 1, "{stored}");
    assert!(stored.contains("Authentication-Results: other.test; spf=pass"));
    assert!(
        unfolded.contains(
            "X-Fannst-Auth: spf=pass (address 127.0.0.1 is listed by good.test); dkim=pass \
         (signature 1: is valid); dmarc=pass (p:none)"
        ),
        "{unfolded}"
    );
    assert!(stored.contains("\r\nX-Fannst-Conn: Plain\r\n"));
    assert!(!stored.contains("X-Fannst-Suspect"));
}

#[test]
fn a_policy_says_what_becomes_of_it() {
    let names = Names::serve(zone());
    let engine = engine(&names, "[[policy]]\nspf_fail = \"reject\"\nspf_softfail = \"junk\"\n");
    let reply = deliver(&engine, "me@bad.test", &[DEMO], MESSAGE);
    assert!(reply.is(550, "5.7.23"), "{reply:?}");
    assert_eq!(deliver(&engine, "me@soft.test", &[DEMO], MESSAGE).code, 250);
    assert!(messages(&engine, DEMO).is_empty());
    let [junk] = &messages(&engine, &format!("{DEMO}/Junk"))[..] else { panic!("one message") };
    assert!(
        junk.contains("X-Fannst-Suspect: spf (127.0.0.1 is not listed by soft.test)"),
        "{junk}"
    );
    let end = Instant::now() + PATIENCE;
    while !engine.log().contains("\"event\":\"message-suspect\"") {
        assert!(Instant::now() < end, "{}", engine.log());
        std::thread::yield_now();
    }
}

#[test]
fn the_domain_of_the_author_is_heard() {
    let names = Names::serve(zone());
    let engine = engine(&names, "");
    let from = |author: &str| MESSAGE.replace("me@good.test", author);
    let reply = deliver(&engine, "me@good.test", &[DEMO], &from("boss@sub.strict.test"));
    assert!(reply.is(550, "5.7.26"), "{reply:?}");
    let careful = from("boss@careful.test");
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], &careful).code, 250);
    let junk = messages(&engine, &format!("{DEMO}/Junk"));
    let [careful] = &junk[..] else { panic!("{junk:?}") };
    assert!(careful.contains("X-Fannst-Suspect: dmarc (careful.test is not proved)"), "{careful}");
}

/// Else who writes the field in a way that two programs read in two ways gets past every policy.
#[test]
fn a_from_that_hides_its_author_is_refused_and_none_is_told_of() {
    let names = Names::serve(zone());
    let engine = engine(&names, "");
    let from = |author: &str| MESSAGE.replace("me@good.test", author);
    for (message, code, status) in [
        (format!("From: boss@strict.test\r\n{MESSAGE}"), 550, "5.6.0"),
        (from("boss@strict.(x)test <me@good.test>"), 550, "5.6.0"),
        (from("a@a.test, a@b.test, a@c.test, a@d.test, a@e.test"), 550, "5.6.0"),
        // Everybody whom some program may show has to be proved.
        (from("boss@strict.test <me@good.test>"), 550, "5.7.26"),
        (from("me@good.test <me@good.test>"), 250, "2.6.0"),
        (MESSAGE.replace("From:", "Not-From:"), 250, "2.6.0"),
    ] {
        let reply = deliver(&engine, "me@good.test", &[DEMO], &message);
        assert!(reply.is(code, status), "{message}: {reply:?}");
    }
    let [fine, none] = &messages(&engine, DEMO)[..] else { panic!("two messages") };
    assert!(fine.contains("dmarc=pass") && !fine.contains("X-Fannst-Suspect"), "{fine}");
    assert!(none.contains("X-Fannst-Suspect: from (there is no From field)"), "{none}");
    assert!(none.contains("dmarc=none (there is no From field)"), "{none}");
}

/// Some programs take a bare CR or LF for the end of a line, and see another From.
#[test]
fn bare_newlines_are_for_bodies_only() {
    let names = Names::serve(zone());
    let engine = engine(&names, "");
    let mut smtp = Smtp::hello(engine.smtp_address()).expect("EHLO");
    for (message, code) in [
        ("From: me@good.test\r\nX: y\nFrom: boss@strict.test\r\n\r\nbody\r\n", 550),
        ("From: me@good.test\r\nX: y\rFrom: boss@strict.test\r\n\r\nbody\r\n", 550),
        ("From: me@good.test\r\nX: y\n\nbody\r\n", 550),
        ("From: me@good.test\r\nX: y\r", 550),
        ("From: me@good.test\r\n\r\na bare \n and \r\r\n", 250),
    ] {
        assert_eq!(smtp.command("MAIL FROM:<me@good.test> BODY=BINARYMIME").unwrap().code, 250);
        assert_eq!(smtp.command(&format!("RCPT TO:<{DEMO}>")).unwrap().code, 250);
        // Cut anywhere.
        let (one, two) = message.split_at(message.len() / 2);
        smtp.send(format!("BDAT {}\r\n{one}", one.len()).as_bytes()).expect("a chunk");
        assert_eq!(smtp.reply().expect("a reply").code, 250);
        smtp.send(format!("BDAT {} LAST\r\n{two}", two.len()).as_bytes()).expect("a chunk");
        let reply = smtp.reply().expect("a reply");
        assert_eq!(reply.code, code, "{message:?}: {reply:?}");
        assert!(code == 250 || reply.is(550, "5.6.11"), "{reply:?}");
        // A message that is refused ends its transaction.
    }
    assert_eq!(messages(&engine, DEMO).len(), 1);
}

/// A host that is trusted may say what it found; what only nodes write it may not.
#[test]
fn trusted_hosts_do_not_pass_on_what_strangers_have_forged() {
    let names = Names::serve(zone());
    let config = format!(
        "[resolver]\nservers = [\"{}\"]\n[verify]\nenabled = true\n\
         trusted = [\"::ffff:127.0.0.0/104\"]\nname = \"mx.own.test\"\n",
        names.address
    );
    let engine = Engine::with(Options { config: Some(config), ..Options::default() });
    let engine = engine.expect("an engine");
    let told = "Authentication-Results: mx.own.test; dmarc=pass header.from=good.test\r\n";
    let message = format!("{told}X-Fannst-Auth: spf=pass\r\n{MESSAGE}");
    assert_eq!(deliver(&engine, "me@bad.test", &[DEMO], &message).code, 250);
    let [stored] = &messages(&engine, DEMO)[..] else { panic!("one message") };
    assert!(stored.contains(told) && !stored.contains("X-Fannst-"), "{stored}");
}

#[test]
fn what_was_judged_waits_for_a_report() {
    let names = Names::serve(zone());
    let engine = engine(&names, "[dmarc]\nreports = true\n");
    let careful = MESSAGE.replace("me@good.test", "boss@careful.test");
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], &careful).code, 250);
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], MESSAGE).code, 250);
    let end = Instant::now() + PATIENCE;
    loop {
        let shown = engine.beside(&["dmarc", "reports"], "").expect("a command");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        if shown.contains("careful.test: 1 rows") {
            assert!(!shown.contains("good.test"), "it asks for none: {shown}");
            break;
        }
        assert!(Instant::now() < end, "{shown}");
    }
}

#[test]
fn who_stands_on_lists_is_judged_by_their_weights() {
    let names = Names::serve(zone());
    let list = |weight: i32, codes: &str| {
        format!("[[dnsbl]]\nzone = \"bl.test\"\nweight = {weight}\ncodes = [{codes}]\n")
    };
    for (weight, codes, code, junk) in [
        (1, "", 250, 1),
        (-1, "", 250, 0),
        (1, "\"127.0.0.3\"", 250, 0),
        (100, "\"127.0.0.2\"", 554, 0),
    ] {
        let engine = engine(&names, &list(weight, codes));
        let reply = deliver(&engine, "me@good.test", &[DEMO], MESSAGE);
        assert_eq!(reply.code, code, "{weight} {codes}: {reply:?}");
        let found = messages(&engine, &format!("{DEMO}/Junk"));
        assert_eq!(found.len(), junk, "{weight} {codes}");
        let field = "dnswl=pass dns.zone=bl.test policy.ip=127.0.0.2";
        assert!(found.iter().all(|message| message.contains(field)), "{found:?}");
    }
}

#[test]
fn a_message_for_several_domains_is_refused_only_when_all_want_that() {
    let names = Names::serve(zone());
    let strict = "[[policy]]\ndomains = [\"firm.test\"]\nspf_fail = \"reject\"\n";
    let engine = engine(&names, strict);
    add(&engine, "a@firm.test");
    let reply = deliver(&engine, "me@bad.test", &["a@firm.test"], MESSAGE);
    assert!(reply.is(550, "5.7.23"), "{reply:?}");
    assert_eq!(deliver(&engine, "me@bad.test", &["a@firm.test", DEMO], MESSAGE).code, 250);
    assert_eq!(messages(&engine, DEMO).len(), 1);
    assert!(messages(&engine, "a@firm.test").is_empty());
    assert_eq!(messages(&engine, "a@firm.test/Junk").len(), 1);
}

#[test]
fn who_does_not_wait_for_the_greeting_is_let_go() {
    let names = Names::serve(zone());
    let engine = engine(&names, "[strangers]\ngreeting_delay_ms = 1000\n");
    let mut hasty = Smtp::open(engine.smtp_address()).expect("a connection");
    hasty.send(b"EHLO hasty.test\r\n").expect("it takes bytes");
    let reply = hasty.reply().expect("a reply");
    assert!(reply.is(554, "5.5.1"), "{reply:?}");
    assert!(hasty.ended().expect("an end"));
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], MESSAGE).code, 250);
}

#[test]
fn strangers_send_as_much_as_they_may() {
    let names = Names::serve(zone());
    let more = "[strangers]\nmessages_per_sender = 1\nmessages_per_recipient = 2\n";
    let engine = engine(&names, more);
    assert_eq!(deliver(&engine, "a@good.test", &[DEMO], MESSAGE).code, 250);
    let mut smtp = Smtp::hello(engine.smtp_address()).expect("EHLO");
    let reply = smtp.command("MAIL FROM:<A@good.test>").expect("a reply");
    assert!(reply.is(451, "4.7.1") && reply.text().contains("60 min"), "{reply:?}");
    assert_eq!(smtp.command("MAIL FROM:<b@good.test>").expect("a reply").code, 250);
    let to = format!("RCPT TO:<{DEMO}>");
    assert_eq!(smtp.command(&to).expect("a reply").code, 250);
    assert!(smtp.command(&to).expect("a reply").is(451, "4.7.1"));
}

#[test]
fn a_host_that_nobody_knows_shall_come_again_unless_somebody_vouches_for_its_mail() {
    let names = Names::serve(zone());
    let engine = engine(&names, "[[policy]]\ngreylist = true\n");
    let reply = deliver(&engine, "me@soft.test", &[DEMO], MESSAGE);
    assert!(reply.is(451, "4.7.1") && reply.text().contains("Greylisted"), "{reply:?}");
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], MESSAGE).code, 250);
    assert_eq!(deliver(&engine, "me@soft.test", &[DEMO], &signed(MESSAGE)).code, 250);
    assert_eq!(messages(&engine, DEMO).len(), 2);
}

#[test]
fn a_name_server_that_is_silent_costs_no_more_than_the_time_out() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = silent.local_addr().expect("an address");
    let config = format!(
        "[resolver]\nservers = [\"{address}\"]\n[verify]\nenabled = true\ntrusted = []\n\
         timeout_s = 1\n[[policy]]\ndmarc_no_answer = \"accept\"\n\
         [[policy]]\ndomains = [\"late.test\"]\ndmarc_no_answer = \"defer\"\n"
    );
    let engine = Engine::with(Options { config: Some(config), ..Options::default() });
    let engine = engine.expect("an engine");
    add(&engine, "a@late.test");
    let begun = Instant::now();
    assert_eq!(deliver(&engine, "me@good.test", &[DEMO], &signed(MESSAGE)).code, 250);
    let reply = deliver(&engine, "me@good.test", &["a@late.test"], MESSAGE);
    assert!(reply.is(451, "4.7.24"), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let [stored] = &messages(&engine, DEMO)[..] else { panic!("one message") };
    for part in ["spf=temperror", "dkim=temperror", "iprev=temperror"] {
        assert!(stored.contains(part), "{stored}");
    }
}

#[test]
fn a_header_of_megabytes_is_refused_and_the_connection_goes_on() {
    let engine = Engine::start().expect("an engine");
    let mut smtp = Smtp::hello(engine.smtp_address()).expect("EHLO");
    let line = format!("X-Filler: {}\r\n", "x".repeat(900));
    for (bytes, code) in [(5 << 20, 552), (200 << 10, 250)] {
        let message = format!("{}\r\nbody\r\n", line.repeat(bytes / line.len()));
        let reply = smtp.mail("a@b.test", &[DEMO], message.as_bytes()).expect("a reply");
        assert_eq!(reply.code, code, "{bytes}: {reply:?}");
        assert!(code == 250 || reply.is(552, "5.3.4"), "{reply:?}");
    }
    assert_eq!(messages(&engine, DEMO).len(), 1);
}
