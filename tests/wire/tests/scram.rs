//! SCRAM-SHA-256 in clear and bound to TLS, by a client of our own that knows none of our code: it
//! opens sealed mail, the server proves itself, and nobody learns from it which users exist.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use ring::{digest, hmac, pbkdf2};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use wire_tests::mail::{message, trace};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, PATIENCE, base64};

/// What a client's nonce is; not random, for nobody listens.
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// Where users sign in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Service {
    Submission,
    Pop,
}

const SERVICES: [Service; 2] = [Service::Submission, Service::Pop];

impl Service {
    fn port(self, tls: bool) -> u16 {
        match (self, tls) {
            (Self::Submission, false) => 587,
            (Self::Submission, true) => 465,
            (Self::Pop, false) => 110,
            (Self::Pop, true) => 995,
        }
    }

    /// The challenge that a reply carries, if it does.
    fn challenge(self, reply: &str) -> Option<String> {
        let text = match self {
            Self::Submission => reply.strip_prefix("334 "),
            Self::Pop => reply.strip_prefix("+ "),
        };
        let bytes = base64::decode(text?).expect("base64");
        Some(String::from_utf8(bytes).expect("text"))
    }

    /// What is said to somebody who is signed in.
    fn welcomes(self, reply: &str) -> bool {
        match self {
            Self::Submission => reply.starts_with("235 "),
            Self::Pop => reply.starts_with("+OK"),
        }
    }

    /// What is said of wrong credentials.
    fn refuses(self, reply: &str) -> bool {
        match self {
            Self::Submission => reply.starts_with("535 5.7.8 "),
            Self::Pop => reply.starts_with("-ERR [AUTH]"),
        }
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A session before sign-in.
struct Client {
    service: Service,
    stream: BufReader<Box<dyn Stream>>,
    /// What the TLS channel is called (RFC 9266 §2).
    binding: Option<[u8; 32]>,
    /// What it offers.
    offers: String,
}

fn connect(engine: &Engine, service: Service, tls: bool) -> Client {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + service.port(tls));
    let tcp = TcpStream::connect(address).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let (stream, binding): (Box<dyn Stream>, _) = if tls {
        let (stream, binding) = secured(engine, tcp);
        (Box::new(stream), Some(binding))
    } else {
        (Box::new(tcp), None)
    };
    let stream = BufReader::new(stream);
    let mut client = Client { service, stream, binding, offers: String::new() };
    client.line();
    match service {
        Service::Submission => {
            client.say("EHLO client.test");
            while client.offers.lines().last().is_none_or(|line| !line.starts_with("250 ")) {
                let line = client.line();
                client.offers.push_str(&format!("{line}\n"));
            }
        }
        Service::Pop => {
            client.say("CAPA");
            while !client.offers.ends_with("\n.\n") {
                let line = client.line();
                client.offers.push_str(&format!("{line}\n"));
            }
        }
    }
    client
}

fn secured(
    engine: &Engine,
    mut tcp: TcpStream,
) -> (StreamOwned<ClientConnection, TcpStream>, [u8; 32]) {
    let certificate = CertificateDer::from_pem_file(engine.data().join("tls/cert.pem"));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::new(config), name).expect("a session");
    while session.is_handshaking() {
        session.complete_io(&mut tcp).expect("a handshake");
    }
    let binding = session
        .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
        .expect("it exports");
    (StreamOwned::new(session, tcp), binding)
}

/// How an exchange is led.
struct Try<'a> {
    user: &'a str,
    password: &'a str,
    /// What is sent before the first message, and after it what the channel is called.
    header: &'a str,
    binding: &'a [u8],
}

/// What the server said of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Terms {
    salt: String,
    iterations: u32,
}

/// What came of an exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outcome {
    /// None when the first message was refused.
    terms: Option<Terms>,
    last: String,
}

impl Client {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    fn say(&mut self, line: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes()).expect("sent");
        stream.flush().expect("sent");
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    /// Leads an exchange; checks that a server which welcomes us has proved itself.
    fn scram(&mut self, mechanism: &str, how: &Try<'_>) -> Outcome {
        let service = self.service;
        let bare = format!("n={},r={NONCE}", how.user);
        let first = base64::encode(format!("{}{bare}", how.header).as_bytes());
        let reply = self.ask(&format!("AUTH {mechanism} {first}"));
        let Some(challenge) = service.challenge(&reply) else {
            return Outcome { terms: None, last: reply };
        };
        let fields: Vec<&str> = challenge.split(',').collect();
        let [nonce, salt, iterations] = fields[..] else { panic!("{challenge}") };
        let nonce = nonce.strip_prefix("r=").expect("a nonce");
        assert!(nonce.starts_with(NONCE) && nonce.len() >= NONCE.len() + 16, "{nonce}");
        let terms = Terms {
            salt: salt.strip_prefix("s=").expect("a salt").to_owned(),
            iterations: iterations.strip_prefix("i=").expect("a count").parse().expect("a count"),
        };
        let channel = base64::encode(&[how.header.as_bytes(), how.binding].concat());
        let unproved = format!("c={channel},r={nonce}");
        let signed = format!("{bare},{challenge},{unproved}");
        let (proof, signature) = prove(how.password, &terms, &signed);
        let last = base64::encode(format!("{unproved},p={}", base64::encode(&proof)).as_bytes());
        let reply = self.ask(&last);
        let terms = Some(terms);
        let Some(proved) = service.challenge(&reply) else {
            return Outcome { terms, last: reply };
        };
        assert_eq!(proved, format!("v={}", base64::encode(&signature)), "not the server");
        Outcome { terms, last: self.ask("") }
    }

    /// Who is signed in may send, or read the letter.
    fn works(&mut self) {
        match self.service {
            Service::Submission => {
                let reply = self.ask(&format!("MAIL FROM:<{DEMO}>"));
                assert!(reply.starts_with("250 "), "{reply}");
            }
            Service::Pop => {
                assert!(self.ask("RETR 1").starts_with("+OK"));
                let mut text = Vec::new();
                while !text.ends_with(b"\r\n.\r\n") {
                    assert!(self.stream.read_until(b'\n', &mut text).expect("a line") > 0);
                }
                let unstuffed = text
                    .split_inclusive(|byte| *byte == b'\n')
                    .filter(|line| *line != b".\r\n")
                    .map(|line| line.strip_prefix(b".").unwrap_or(line));
                let stored: Vec<u8> = unstuffed.flatten().copied().collect();
                trace(&stored, &letter()).expect("the letter");
            }
        }
    }

    /// SCRAM as it should be: bound where there is TLS.
    fn sign_in(&mut self, user: &str, password: &str) -> Outcome {
        match self.binding {
            Some(binding) => self.scram(
                "SCRAM-SHA-256-PLUS",
                &Try { user, password, header: "p=tls-exporter,,", binding: &binding },
            ),
            None => self.scram("SCRAM-SHA-256", &unbound(user, password)),
        }
    }
}

fn unbound<'a>(user: &'a str, password: &'a str) -> Try<'a> {
    Try { user, password, header: "n,,", binding: b"" }
}

fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// The salted password, kept as clients keep it: it takes some hundred milliseconds.
fn salted(password: &str, terms: &Terms) -> [u8; 32] {
    static KNOWN: Mutex<BTreeMap<(String, String, u32), [u8; 32]>> = Mutex::new(BTreeMap::new());
    let name = (password.to_owned(), terms.salt.clone(), terms.iterations);
    if let Some(known) = KNOWN.lock().expect("a map").get(&name) {
        return *known;
    }
    let salt = base64::decode(&terms.salt).expect("base64");
    let iterations = NonZeroU32::new(terms.iterations).expect("some");
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    KNOWN.lock().expect("a map").insert(name, salted);
    salted
}

/// The client's proof, and the signature that the server must have (RFC 5802 §3).
fn prove(password: &str, terms: &Terms, signed: &str) -> (Vec<u8>, Vec<u8>) {
    let salted = salted(password, terms);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let signature = sign(stored_key.as_ref(), signed.as_bytes());
    let proof = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
    (proof, sign(&sign(&salted, b"Server Key"), signed.as_bytes()))
}

fn letter() -> Vec<u8> {
    message(31, 7, 3_000)
}

#[test]
fn scram_opens_sealed_mail_in_clear_and_under_tls() {
    let engine = Engine::start().unwrap();
    let stored = engine.smtp().unwrap().mail("a@sender.test", &[DEMO], &letter()).unwrap();
    assert_eq!(stored.code, 250);
    for tls in [false, true] {
        for service in SERVICES {
            let mut client = connect(&engine, service, tls);
            let plus = client.offers.contains("SCRAM-SHA-256-PLUS");
            assert_eq!(plus, tls, "{service:?}: {}", client.offers);
            assert!(client.offers.contains(" SCRAM-SHA-256 "), "{}", client.offers);
            let outcome = client.sign_in(DEMO, DEMO_PASSWORD);
            assert!(service.welcomes(&outcome.last), "{service:?}, tls {tls}: {outcome:?}");
            client.works();
        }
    }
    // Under TLS the unbound form is there, too, for clients that cannot bind.
    let mut client = connect(&engine, Service::Pop, true);
    let outcome = client.scram("SCRAM-SHA-256", &unbound(DEMO, DEMO_PASSWORD));
    assert!(outcome.last.starts_with("+OK"), "{outcome:?}");
}

/// Runs a command on the demo account; its output.
fn command(engine: &Engine, args: &[&str], input: &str) -> String {
    let output = engine.beside(args, input).expect("a command");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Makes an app password: its number and its text.
fn add_app(engine: &Engine, name: &str) -> (String, String) {
    let args = ["app-password", "add", DEMO, "--name", name, "--password-stdin"];
    let said = command(engine, &args, &format!("{DEMO_PASSWORD}\n"));
    let number = said.split_whitespace().nth(2).expect("App password N of").to_owned();
    (number, said.lines().last().expect("a secret").trim().to_owned())
}

/// It signs in everywhere, in clear and under TLS.
fn opens(engine: &Engine, password: &str) {
    for (service, tls) in SERVICES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut client = connect(engine, service, tls);
        let outcome = client.sign_in(DEMO, password);
        assert!(service.welcomes(&outcome.last), "{service:?}, tls {tls}: {outcome:?}");
        client.works();
    }
}

/// It signs in nowhere; in clear is enough, for each refusal is slower than the one before.
fn refused(engine: &Engine, password: &str) {
    for service in SERVICES {
        let outcome = connect(engine, service, false).sign_in(DEMO, password);
        assert!(service.refuses(&outcome.last), "{service:?}: {outcome:?}");
    }
}

#[test]
fn an_app_password_opens_sealed_mail_until_it_is_revoked() {
    let engine = Engine::start().unwrap();
    let stored = engine.smtp().unwrap().mail("a@sender.test", &[DEMO], &letter()).unwrap();
    assert_eq!(stored.code, 250);
    let (phone, phone_text) = add_app(&engine, "phone");
    let (_, desk_text) = add_app(&engine, "desk");
    for password in [&phone_text, &desk_text, DEMO_PASSWORD] {
        opens(&engine, password);
    }
    // A new password of the user's leaves them as they are.
    let args = ["passwd", DEMO, "--password-stdin"];
    command(&engine, &args, &format!("another\n{DEMO_PASSWORD}\n"));
    for password in [&phone_text, &desk_text, "another"] {
        opens(&engine, password);
    }
    refused(&engine, DEMO_PASSWORD);
    command(&engine, &["app-password", "revoke", DEMO, &phone], "");
    refused(&engine, &phone_text);
    opens(&engine, &desk_text);
    let mut engine = engine;
    engine.kill();
    let engine = engine.again().unwrap();
    refused(&engine, &phone_text);
    opens(&engine, &desk_text);
}

#[test]
fn wrong_proofs_and_wrong_channels_are_refused() {
    let engine = Engine::start().unwrap();
    for service in SERVICES {
        for tls in [false, true] {
            let mut client = connect(&engine, service, tls);
            let outcome = client.sign_in(DEMO, "wrong");
            assert!(service.refuses(&outcome.last), "{service:?}, tls {tls}: {outcome:?}");
            let right = client.sign_in(DEMO, DEMO_PASSWORD);
            assert!(service.welcomes(&right.last), "{right:?}");
            assert_eq!(right.terms, outcome.terms);
        }
        // Somebody in the middle has a channel of his own, and another name for it.
        let mut client = connect(&engine, service, true);
        let other = [7; 32];
        let (user, password) = (DEMO, DEMO_PASSWORD);
        let how = Try { user, password, header: "p=tls-exporter,,", binding: &other };
        let outcome = client.scram("SCRAM-SHA-256-PLUS", &how);
        assert!(service.refuses(&outcome.last) && outcome.terms.is_some(), "{outcome:?}");
        // And takes PLUS from the list: a client that could bind says so.
        let how = Try { user, password, header: "y,,", binding: b"" };
        let outcome = client.scram("SCRAM-SHA-256", &how);
        assert!(service.refuses(&outcome.last), "{outcome:?}");
        let outcome = connect(&engine, service, true).sign_in(user, password);
        assert!(service.welcomes(&outcome.last), "{outcome:?}");
        // Without TLS there is nothing to bind to.
        let mut client = connect(&engine, service, false);
        let how = Try { user, password, header: "p=tls-exporter,,", binding: &other };
        let outcome = client.scram("SCRAM-SHA-256-PLUS", &how);
        assert!(outcome.terms.is_none() && !service.welcomes(&outcome.last), "{outcome:?}");
    }
}

#[test]
fn who_is_not_there_has_a_salt_that_stays() {
    let engine = Engine::start().unwrap();
    let terms = |engine: &Engine, service: Service, user: &str| {
        let outcome = connect(engine, service, false).sign_in(user, "wrong");
        assert!(service.refuses(&outcome.last), "{user}: {outcome:?}");
        (outcome.terms.expect("the same steps"), outcome.last)
    };
    let (nobody, none) = ("nobody@example.test", "none@example.test");
    let known = terms(&engine, Service::Submission, DEMO);
    let before = terms(&engine, Service::Submission, nobody);
    assert_eq!(known.1, before.1, "the same refusal");
    assert_eq!(known.0.iterations, before.0.iterations);
    assert_eq!(known.0.salt.len(), before.0.salt.len());
    assert_ne!(known.0.salt, before.0.salt);
    assert_eq!(terms(&engine, Service::Pop, nobody).0, before.0);
    assert_eq!(terms(&engine, Service::Submission, "NoBody@Example.Test").0, before.0);
    let right = connect(&engine, Service::Submission, false).sign_in("demo", DEMO_PASSWORD);
    assert!(Service::Submission.welcomes(&right.last), "{right:?}");
    // A name without its domain: what is the same for who is there is so for who is not.
    assert_eq!(right.terms.as_ref(), Some(&known.0));
    assert_eq!(terms(&engine, Service::Pop, "nobody").0, before.0);
    assert_ne!(terms(&engine, Service::Pop, none).0.salt, before.0.salt);
    let mut engine = engine;
    engine.kill();
    let engine = engine.again().unwrap();
    assert_eq!(terms(&engine, Service::Submission, nobody).0, before.0, "after a restart");
    assert_eq!(terms(&engine, Service::Submission, DEMO).0, known.0);
}
