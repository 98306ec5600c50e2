//! FCAPA and SU: nodes of one owner trust each other when both have proved it, and nobody else gets
//! anything by it. The scripted client knows none of our code.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ring::hmac;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;
use wire_tests::engine::run;
use wire_tests::{DEMO, Engine, Habit, Options, PATIENCE, Remote, Smtp, base64};

const ALICE: &str = "alice@here.test";
const MESSAGE: &[u8] = b"Subject: hello\r\nX-Fannst-NodeID: mine\r\n\r\nbody\r\n";
const DENIED: &str = "651 6.5.1 Access denied, closing transmission channel. - fsmtp";
const GRANTED: &str =
    "X-Fannst-Auth: su=pass (access granted for 127.0.0.1, using FSMTP-V2 extensions)\r\n";

fn done(output: &std::process::Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with a data folder in it, which has one key: that of `other`, or a new one.
fn with_key(other: Option<&Path>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let args = ["trust", "create", "--name", "shared", "--data", &data.to_string_lossy()];
    done(&run(&args, "").expect("a command"));
    if let Some(other) = other {
        let key = Path::new("keys/trust/shared.key");
        fs::copy(other.join("data").join(key), data.join(key)).expect("a copy");
    }
    folder
}

/// The node that gets mail: serves both domains and takes senders of them from nodes only.
fn receiver(folder: &Path) -> Engine {
    let config = "[smtp]\nown_domains_closed = true\n".to_owned();
    let data = Some(folder.join("data"));
    let options = Options { config: Some(config), data, ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    done(&engine.beside(&["domain", "add", "here.test"], "").expect("a command"));
    engine
}

/// The node that sends mail of `here.test` on.
fn sender(folder: Option<&Path>, route: &str) -> Engine {
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"here.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
         [queue]\nretry = \"1s\"\n[routes]\n\"example.test\" = \"{route}\"\n",
    );
    let data = folder.map(|folder| folder.join("data"));
    let options = Options { config: Some(config), dev: false, data, ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    for command in [&["domain", "add", "here.test"][..], &["adduser", ALICE, "--password-stdin"]] {
        done(&engine.beside(command, "secret").expect("a command"));
    }
    engine
}

fn submit(engine: &Engine) {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{ALICE}\0secret").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    assert_eq!(smtp.mail(ALICE, &[DEMO], MESSAGE).expect("a reply").code, 250);
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn maildrop(engine: &Engine) -> Vec<String> {
    let mut pop = engine.pop().expect("POP3");
    let (count, _) = pop.stat().expect("STAT");
    let message = |n| pop.message(n).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (1..=count).map(message).collect::<Result<_, _>>().expect("RETR")
}

/// Waits until a message that waits says why.
fn waits_for(engine: &Engine, why: &str) {
    until(why, || {
        let listed = engine.beside(&["queue", "list", "--json"], "").expect("a command");
        String::from_utf8_lossy(&listed.stdout).contains(why)
    });
}

#[test]
fn nodes_with_one_key_pass_mail_on_and_strangers_are_kept_out() {
    let folder = with_key(None);
    let theirs = with_key(Some(folder.path()));
    let other = receiver(folder.path());
    let engine = sender(Some(theirs.path()), &format!("node:{}", other.smtp_address()));
    submit(&engine);
    until("the mail", || maildrop(&other).len() == 1);
    let message = maildrop(&other).remove(0);
    assert!(message.contains("with ESMTPS id") && message.contains(GRANTED), "{message}");
    until("the log", || other.log().contains("node-granted") && other.log().contains("us.test"));
    // A stranger is no sender of these domains, and what he says about himself is taken out.
    let mut smtp = other.smtp().expect("SMTP");
    for from in [ALICE, DEMO, "nobody@EXAMPLE.test"] {
        let reply = smtp.command(&format!("MAIL FROM:<{from}>")).expect("a reply");
        assert!(reply.is(530, "5.7.0"), "{from}: {reply:?}");
    }
    let forged = [GRANTED.as_bytes(), b"x-fannst-conn: SSL\r\n\tand more\r\n", MESSAGE].concat();
    assert_eq!(smtp.mail("a@sender.test", &[DEMO], &forged).expect("a reply").code, 250);
    let message = maildrop(&other).remove(1);
    assert!(!message.to_lowercase().contains("x-fannst"), "{message}");
    assert!(message.ends_with("\r\nSubject: hello\r\n\r\nbody\r\n"), "{message}");
    assert!(!message.contains("and more"), "{message}");
}

#[test]
fn where_trust_cannot_be_proved_nothing_is_sent() {
    // Another key there.
    let (folder, theirs) = (with_key(None), with_key(None));
    let other = receiver(folder.path());
    let route = format!("node:{}", other.smtp_address());
    let engine = sender(Some(theirs.path()), &route);
    submit(&engine);
    waits_for(&engine, "651 6.5.1 Access denied");
    until("the log", || other.log().contains("node-denied"));
    // None here.
    let engine = sender(None, &route);
    submit(&engine);
    waits_for(&engine, "this node has no key of trust");
    assert!(maildrop(&other).is_empty());
    // No TLS there, or a false one, which others are sent mail in clear for.
    for (habit, why) in [
        (Habit::Good, "trust is proved under TLS; "),
        (Habit::NoTls, "trust is proved under TLS; "),
        (Habit::FalseTls, "tls-required"),
    ] {
        let remote = Remote::start(habit).expect("a remote");
        let folder = with_key(None);
        let engine = sender(Some(folder.path()), &format!("node:{}", remote.address()));
        submit(&engine);
        waits_for(&engine, why);
        assert!(remote.taken().is_empty(), "{habit:?}");
    }
}

/// A client that has TLS.
struct Client {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    exporter: [u8; 32],
}

impl Client {
    /// Says STARTTLS first.
    fn secured(engine: &Engine) -> Self {
        Self::with(engine, &rustls::version::TLS13)
    }

    fn with(engine: &Engine, version: &'static SupportedProtocolVersion) -> Self {
        let mut tcp = in_clear(engine.smtp_address());
        assert!(ask(&mut tcp, "EHLO node.test").contains("250-STARTTLS"));
        assert!(ask(&mut tcp, "STARTTLS").starts_with("220 "));
        let mut tcp = tcp.into_inner();
        let certificate = CertificateDer::from_pem_file(engine.data().join("tls/cert.pem"));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.expect("a certificate")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(Arc::new(config), name).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut tcp).expect("a handshake");
        }
        let exporter = session
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .expect("it exports");
        Self { stream: BufReader::new(StreamOwned::new(session, tcp)), exporter }
    }

    fn ask(&mut self, line: &str) -> String {
        ask(&mut self.stream, line)
    }

    /// Shows a token; the reply, and whether that is the end.
    fn su(&mut self, token: &str) -> (String, bool) {
        let reply = self.ask(&format!("SU {token}"));
        let mut rest = Vec::new();
        let denied = reply.starts_with("651");
        (reply, denied && self.stream.read_to_end(&mut rest).is_ok() && rest.is_empty())
    }
}

fn in_clear(address: SocketAddr) -> BufReader<TcpStream> {
    let tcp = TcpStream::connect(address).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut stream = BufReader::new(tcp);
    assert!(reply(&mut stream).starts_with("220 "));
    stream
}

fn ask<S: Read + Write>(stream: &mut BufReader<S>, line: &str) -> String {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("it is sent");
    stream.get_mut().flush().expect("it is sent");
    reply(stream)
}

/// All lines of a reply, without the last line end.
fn reply(stream: &mut impl BufRead) -> String {
    let mut text = String::new();
    loop {
        let from = text.len();
        stream.read_line(&mut text).expect("a reply");
        if text.as_bytes().get(from + 3) != Some(&b'-') {
            return text.trim_end().to_owned();
        }
    }
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock").as_secs()
}

fn signed(key: &[u8], role: &str, exporter: &[u8], of: &[u8]) -> Vec<u8> {
    let text = [role.as_bytes(), b"\0", exporter, of].concat();
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &text).as_ref().to_vec()
}

/// A token in base64, and what the server answers who has the key.
fn token(key: &[u8], exporter: &[u8], at: u64) -> (String, String) {
    let name = b"node.test";
    let head = [&[1][..], &at.to_be_bytes(), &[7; 16], &[1, name.len() as u8], name].concat();
    let tag = signed(key, "fsmtp-engine SU client", exporter, &head);
    let token = [head, tag].concat();
    let proof = signed(key, "fsmtp-engine SU server", exporter, &token);
    (base64::encode(&token), base64::encode(&proof))
}

#[test]
fn a_token_is_good_once_for_one_channel_and_grants_little() {
    let folder = with_key(None);
    let engine = receiver(folder.path());
    let key = fs::read_to_string(folder.path().join("data/keys/trust/shared.key")).expect("a key");
    let key = base64::decode(key.trim()).expect("base64");
    let mut node = Client::secured(&engine);
    assert!(node.ask("FCAPA").starts_with("601 6.1.1 FSMTP-V2 Extensions implemented"));
    let (right, proof) = token(&key, &node.exporter, seconds());
    let (said, _) = node.su(&right);
    let (first, last) = said.split_once("\r\n").expect("two lines");
    assert_eq!(first, format!("600-6.1.0 {proof}"));
    assert!(last.starts_with("600 6.1.0 Access granted for [127.0.0.1]:"), "{last}");
    // It may send as anybody here to anybody here, and nowhere else.
    node.ask("EHLO node.test");
    assert!(node.ask(&format!("MAIL FROM:<{ALICE}>")).starts_with("250 "));
    for to in ["a@elsewhere.test", "a@[127.0.0.1]"] {
        assert!(node.ask(&format!("RCPT TO:<{to}>")).starts_with("550 5.7.1"), "{to}");
    }
    assert!(node.ask("RCPT TO:<nobody@example.test>").starts_with("550 5.1.1"));
    assert!(node.ask(&format!("RCPT TO:<{DEMO}>")).starts_with("250 "));
    // The same token elsewhere, and all the others that are not right.
    let mut other = Client::secured(&engine);
    assert_ne!(other.exporter, node.exporter);
    assert_eq!(other.su(&right), (DENIED.to_owned(), true));
    for (key, at) in [(&[9; 32][..], 0), (&key, 400), (&key, -400)] {
        let mut other = Client::secured(&engine);
        let at = seconds().checked_add_signed(at).expect("a time");
        let (wrong, _) = token(key, &other.exporter, at);
        assert_eq!(other.su(&wrong), (DENIED.to_owned(), true));
    }
    assert_eq!(Client::secured(&engine).su(""), (DENIED.to_owned(), true));
    // Right, but for a channel that somebody in the middle could share.
    let mut old = Client::with(&engine, &rustls::version::TLS12);
    let (right_there, _) = token(&key, &old.exporter, seconds());
    assert_eq!(old.su(&right_there), (DENIED.to_owned(), true));
    // In clear, and where no key is.
    let mut clear = in_clear(engine.smtp_address());
    assert_eq!(ask(&mut clear, &format!("SU {right}")), DENIED);
    let keyless = Engine::start().expect("an engine");
    let mut node = Client::secured(&keyless);
    let (right, _) = token(&key, &node.exporter, seconds());
    assert_eq!(node.su(&right), (DENIED.to_owned(), true));
    // Until it gets one: beside a key of its own, and without a restart.
    done(&keyless.beside(&["trust", "create", "--name", "own"], "").expect("a command"));
    let [from, to] = [folder.path().join("data"), keyless.data().to_owned()];
    let file = Path::new("keys/trust/shared.key");
    fs::copy(from.join(file), to.join(file)).expect("a copy");
    keyless.signal(Signal::HUP).expect("a signal");
    until("the key", || {
        let mut node = Client::secured(&keyless);
        let (right, proof) = token(&key, &node.exporter, seconds());
        node.su(&right).0.starts_with(&format!("600-6.1.0 {proof}\r\n600 "))
    });
}

#[test]
fn keys_are_listed_and_wrong_ones_stop_a_start() {
    let folder = with_key(None);
    let data = folder.path().join("data");
    let data = data.to_string_lossy();
    let listed = run(&["trust", "list", "--data", &data], "").expect("a command");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("shared") && text.contains("keys/trust/shared.key"), "{text}");
    let again = ["trust", "create", "--name", "shared", "--data", &data];
    assert_eq!(run(&again, "").expect("a command").status.code(), Some(1));
    fs::write(folder.path().join("data/keys/trust/shared.key"), "nonsense").expect("a file");
    let options = Options { data: Some(folder.path().join("data")), ..Options::default() };
    let why = Engine::with(options).expect_err("no start");
    assert!(why.contains("shared.key: no key"), "{why}");
}
