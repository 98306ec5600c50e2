//! Signing in with a certificate (SASL EXTERNAL): offered to whom, good for whom, and what becomes
//! of certificates that are expired, of another authority, or of nobody who has an account.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion, version,
};
use tempfile::TempDir;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE};

const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;
const POP3S: u16 = 995;
/// What AUTH PLAIN says for the demo account, and EXTERNAL for it by name, in base64.
const DEMO_PLAIN: &str = "AGRlbW8AZGVtbw==";
const DEMO_NAME: &str = "ZGVtb0BleGFtcGxlLnRlc3Q=";
const ALICE: &str = "alice@example.test";
const ALICE_NAME: &str = "YWxpY2VAZXhhbXBsZS50ZXN0";

type Authority = CertifiedIssuer<'static, KeyPair>;
type Version = &'static SupportedProtocolVersion;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "users");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
struct Shown(CertificateDer<'static>, Vec<u8>);

fn certificate(authority: &Authority, addresses: &[&str]) -> Shown {
    certificate_until(authority, addresses, 2099)
}

fn certificate_until(authority: &Authority, addresses: &[&str], year: i32) -> Shown {
    let mut params = CertificateParams::default();
    let name = |address: &&str| SanType::Rfc822Name((*address).try_into().unwrap());
    params.subject_alt_names = addresses.iter().map(name).collect();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    Shown(params.signed_by(&key, authority).unwrap().der().clone(), key.serialize_der())
}

/// An engine that takes certificates of an authority, which stands in `users.pem` in the folder.
fn engine(authority: &Authority) -> (Engine, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.pem");
    fs::write(&file, authority.pem()).unwrap();
    let engine = Engine::with(Options { config: Some(asking(&file)), ..Options::default() });
    (engine.unwrap(), folder)
}

fn asking(file: &Path) -> String {
    format!("[tls]\nclient_ca = {file:?}\n")
}

/// A client that shows a certificate when it is asked for one.
fn config(engine: &Engine, shown: Option<&Shown>, version: Version) -> Arc<ClientConfig> {
    let server = CertificateDer::from_pem_file(engine.data().join("tls/cert.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(server).unwrap();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(Shown(certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(key.clone().into());
            builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
        }
    })
}

struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    fn open(engine: &Engine, service: u16, config: &Arc<ClientConfig>) -> Self {
        Self::over(connect(engine, service), config)
    }

    fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self(BufReader::new(StreamOwned::new(tls, stream)))
    }

    /// After the greeting, with what EHLO offers for AUTH.
    fn greeted(engine: &Engine, shown: Option<&Shown>, version: Version) -> (Self, String) {
        Self::open(engine, SUBMISSIONS, &config(engine, shown, version)).welcome()
    }

    fn welcome(mut self) -> (Self, String) {
        assert!(self.line().unwrap().starts_with("220 "));
        let offered = self.hello();
        (self, offered)
    }

    /// The mechanisms in the reply to EHLO.
    fn hello(&mut self) -> String {
        let reply = self.command("EHLO client.test");
        let auth = reply.lines().find_map(|line| line.get(4..)?.strip_prefix("AUTH "));
        auth.unwrap_or_default().to_owned()
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }

    /// Sends a line, gives back the whole reply.
    fn command(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        loop {
            let line = self.line().unwrap();
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') || line.starts_with("-ERR") {
                return reply;
            }
        }
    }

    #[track_caller]
    fn says(&mut self, line: &str, expected: &str) {
        let reply = self.command(line);
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }

    /// The alert that the handshake ended with; `None` when the connection was reset before it
    /// could be read.
    fn alert(mut self) -> Option<AlertDescription> {
        let error = self.line().expect_err("no greeting");
        if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
            return None;
        }
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => panic!("no alert: {error:?}"),
        }
    }
}

fn connect(engine: &Engine, service: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, engine.base() + service)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits until `text` stands in the log.
#[track_caller]
fn logged(engine: &Engine, text: &str) {
    let begun = Instant::now();
    while !engine.log().contains(text) {
        assert!(begun.elapsed() < PATIENCE, "{text} is not in the log:\n{}", engine.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_certificate_signs_its_holder_in() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    let shown = certificate(&users, &[DEMO]);
    for version in [&version::TLS13, &version::TLS12] {
        for lines in
            [&["AUTH EXTERNAL ="][..], &["AUTH EXTERNAL", ""], &["AUTH EXTERNAL", DEMO_NAME]]
        {
            let (mut client, offered) = Client::greeted(&engine, Some(&shown), version);
            assert!(offered.split(' ').any(|name| name == "EXTERNAL"), "{offered}");
            for line in &lines[..lines.len() - 1] {
                client.says(line, "334 ");
            }
            client.says(lines[lines.len() - 1], "235 2.7.0");
        }
    }
    let (mut client, _) = Client::greeted(&engine, Some(&shown), &version::TLS13);
    client.says(&format!("AUTH EXTERNAL {DEMO_NAME}"), "235 ");
    client.says(&format!("MAIL FROM:<{DEMO}>"), "250 ");
    client.says(&format!("RCPT TO:<{DEMO}>"), "250 ");
    client.says("DATA", "354 ");
    client.says("Subject: x\r\n\r\nby certificate\r\n.", "250 ");
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
    logged(&engine, "sign-in-ok");

    // Its name in other letters; and a password goes as well.
    let other = certificate(&users, &["DEMO@Example.TEST"]);
    let (mut client, _) = Client::greeted(&engine, Some(&other), &version::TLS13);
    client.says("AUTH EXTERNAL =", "235 ");
    let (mut client, _) = Client::greeted(&engine, Some(&shown), &version::TLS13);
    client.says(&format!("AUTH PLAIN {DEMO_PLAIN}"), "235 ");
}

#[test]
fn after_starttls_as_from_the_first_byte() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    let shown = certificate(&users, &[DEMO]);
    let mut stream = BufReader::new(connect(&engine, SUBMISSION));
    let mut heard = String::new();
    for (command, last) in
        [("", "220 "), ("EHLO client.test\r\n", "250 "), ("STARTTLS\r\n", "220 ")]
    {
        stream.get_mut().write_all(command.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0);
            heard.push_str(&line);
            if line.starts_with(last) {
                break;
            }
        }
    }
    assert!(heard.contains("AUTH ") && !heard.contains("EXTERNAL"), "{heard}");
    let config = config(&engine, Some(&shown), &version::TLS13);
    let mut client = Client::over(stream.into_inner(), &config);
    assert!(client.hello().contains("EXTERNAL"));
    client.says("AUTH EXTERNAL =", "235 ");
    // Strangers' mail has nothing to do with it.
    let reply = engine.smtp().unwrap().command("AUTH EXTERNAL =").unwrap();
    assert_eq!(reply.code, 502);
}

#[test]
fn without_a_certificate_of_one_address_it_is_not_offered() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    let unclear = [
        None,
        Some(certificate(&users, &[])),
        Some(certificate(&users, &[DEMO, ALICE])),
        Some(certificate(&users, &["demo"])),
    ];
    for shown in &unclear {
        for version in [&version::TLS13, &version::TLS12] {
            let (mut client, offered) = Client::greeted(&engine, shown.as_ref(), version);
            assert!(offered.contains("PLAIN") && !offered.contains("EXTERNAL"), "{offered}");
            client.says("AUTH EXTERNAL =", "504 5.5.4");
            client.says(&format!("AUTH PLAIN {DEMO_PLAIN}"), "235 ");
        }
    }
    // And where no authority is named nobody is asked.
    let plain = Engine::start().unwrap();
    let shown = certificate(&users, &[DEMO]);
    let (mut client, offered) = Client::greeted(&plain, Some(&shown), &version::TLS13);
    assert!(!offered.contains("EXTERNAL"), "{offered}");
    client.says("AUTH EXTERNAL =", "504 5.5.4");
}

#[test]
fn others_are_not_signed_in() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    let made = engine.beside(&["adduser", ALICE, "--password-stdin"], "secret\n").unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = certificate(&users, &[DEMO]);
    let (mut client, _) = Client::greeted(&engine, Some(&shown), &version::TLS13);
    client.says(&format!("AUTH EXTERNAL {ALICE_NAME}"), "535 5.7.8");
    client.says("AUTH EXTERNAL ZGVtbw==", "535 5.7.8");
    client.says(&format!("MAIL FROM:<{ALICE}>"), "530 5.7.0");
    client.says("AUTH EXTERNAL =", "235 ");

    for address in ["nobody@example.test", "demo@elsewhere.test", "demo+x@example.test"] {
        let shown = certificate(&users, &[address]);
        let (mut client, offered) = Client::greeted(&engine, Some(&shown), &version::TLS13);
        assert!(offered.contains("EXTERNAL"), "nobody learns who has an account: {offered}");
        client.says("AUTH EXTERNAL =", "535 5.7.8");
        client.says("MAIL FROM:<>", "530 5.7.0");
    }
    logged(&engine, "nobody@example.test");
    logged(&engine, "sign-in-failed");

    // Whoever is removed is out, whatever the certificate says.
    let shown = certificate(&users, &[ALICE]);
    let (mut client, _) = Client::greeted(&engine, Some(&shown), &version::TLS13);
    let removed = engine.beside(&["deluser", ALICE], "").unwrap();
    assert!(removed.status.success(), "{removed:?}");
    client.says("AUTH EXTERNAL =", "535 5.7.8");
}

#[test]
fn guesses_lock_the_holder_of_a_certificate_out_like_everybody() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    // The name in the certificate is locked by wrong passwords from anywhere.
    let shown = certificate(&users, &[DEMO]);
    let config = config(&engine, Some(&shown), &version::TLS13);
    let wrong = |count: usize| {
        for _ in 0..count {
            let (mut client, _) = Client::open(&engine, SUBMISSIONS, &config).welcome();
            client.says("AUTH PLAIN AGRlbW8AeA==", "535 ");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..25 {
            scope.spawn(|| wrong(4));
        }
    });
    let (mut client, _) = Client::open(&engine, SUBMISSIONS, &config).welcome();
    for _ in 0..3 {
        client.says("AUTH EXTERNAL =", "454 4.7.0");
    }
    // What the log is told of comes in order: the lock once, and then this sign-in.
    let made = engine.beside(&["adduser", ALICE, "--password-stdin"], "secret\n").unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = certificate(&users, &[ALICE]);
    let (mut client, _) = Client::greeted(&engine, Some(&shown), &version::TLS13);
    client.says("AUTH EXTERNAL =", "235 ");
    logged(&engine, "sign-in-ok");
    assert_eq!(engine.log().matches("sign-in-deferred").count(), 1, "{}", engine.log());
}

#[test]
fn what_is_expired_or_foreign_ends_the_handshake() {
    let (users, foreign) = (authority(), authority());
    let (engine, _folder) = engine(&users);
    for (shown, expected, said) in [
        (certificate_until(&users, &[DEMO], 2002), AlertDescription::CertificateExpired, "xpired"),
        // The name of the authority is the same, its key is not.
        (certificate(&foreign, &[DEMO]), AlertDescription::DecryptError, "BadSignature"),
        (self_signed(), AlertDescription::UnknownCA, "UnknownIssuer"),
    ] {
        for version in [&version::TLS13, &version::TLS12] {
            let config = config(&engine, Some(&shown), version);
            let alert = Client::open(&engine, SUBMISSIONS, &config).alert();
            assert!(alert.is_none_or(|alert| alert == expected), "{alert:?}");
        }
        logged(&engine, said);
    }
    logged(&engine, "tls-failed");
    let (mut client, _) =
        Client::greeted(&engine, Some(&certificate(&users, &[DEMO])), &version::TLS13);
    client.says("AUTH EXTERNAL =", "235 ");
}

/// A certificate for the demo account that nobody else has signed.
fn self_signed() -> Shown {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "demo");
    params.subject_alt_names = vec![SanType::Rfc822Name(DEMO.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    Shown(params.self_signed(&key).unwrap().der().clone(), key.serialize_der())
}

#[test]
fn no_session_is_resumed_where_certificates_count() {
    let users = authority();
    let (engine, folder) = engine(&users);
    let shown = certificate(&users, &[DEMO]);
    let renewed = certificate(&users, &[DEMO, ALICE]);
    for version in [&version::TLS13, &version::TLS12] {
        let first = config(&engine, Some(&shown), version);
        let visit = |config: &Arc<ClientConfig>| {
            let (client, offered) = Client::open(&engine, SUBMISSIONS, config).welcome();
            let kind = client.0.get_ref().conn.handshake_kind();
            assert_ne!(kind, Some(HandshakeKind::Resumed));
            offered.contains("EXTERNAL")
        };
        assert!(visit(&first) && visit(&first));
        // What the same program shows now counts, whatever it has remembered.
        let (key, chain) = (PrivateKeyDer::Pkcs8(renewed.1.clone().into()), renewed.0.clone());
        let key = first.crypto_provider().key_provider.load_private_key(key).unwrap();
        let mut second = ClientConfig::clone(&first);
        second.client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![chain], key)));
        assert!(!visit(&Arc::new(second)), "whose certificate it is is unclear by now");
        // Its authority is replaced: the handshake fails, for nothing of before counts.
        fs::write(folder.path().join("users.pem"), authority().pem()).unwrap();
        reload(&engine);
        let _ = Client::open(&engine, SUBMISSIONS, &first).alert();
        fs::write(folder.path().join("users.pem"), users.pem()).unwrap();
        reload(&engine);
    }
    // Where nobody is asked, sessions are resumed.
    let config = config(&engine, None, &version::TLS13);
    let kinds = [(); 2].map(|()| {
        let mut client = Client::open(&engine, POP3S, &config);
        assert!(client.line().unwrap().starts_with("+OK"));
        client.says("NOOP", "-ERR");
        client.0.get_ref().conn.handshake_kind()
    });
    assert_eq!(kinds[1], Some(HandshakeKind::Resumed));
}

/// Has the files read again, and waits until they are.
fn reload(engine: &Engine) {
    let count = |text: &str| text.matches("certificates-reloaded").count();
    let before = count(&engine.log());
    engine.signal(Signal::HUP).unwrap();
    let begun = Instant::now();
    while count(&engine.log()) == before {
        assert!(begun.elapsed() < PATIENCE, "not reloaded:\n{}", engine.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_reload_reads_the_authorities_again_and_keeps_the_old_ones_when_they_are_bad() {
    let (users, others) = (authority(), authority());
    let (engine, folder) = engine(&users);
    let file = folder.path().join("users.pem");
    let [old, new] = [&users, &others].map(|authority| certificate(authority, &[DEMO]));
    let enters = |shown: &Shown| {
        let (mut client, _) = Client::greeted(&engine, Some(shown), &version::TLS13);
        client.says("AUTH EXTERNAL =", "235 ");
    };
    enters(&old);
    fs::write(&file, "nothing").unwrap();
    engine.signal(Signal::HUP).unwrap();
    logged(&engine, "certificates-kept");
    logged(&engine, "users.pem: no certificate in it");
    enters(&old);
    fs::write(&file, format!("{}{}", users.pem(), others.pem())).unwrap();
    reload(&engine);
    enters(&old);
    enters(&new);
    fs::write(&file, others.pem()).unwrap();
    reload(&engine);
    enters(&new);
    let config = config(&engine, Some(&old), &version::TLS13);
    let _ = Client::open(&engine, SUBMISSIONS, &config).alert();
    logged(&engine, "tls-failed");
}

#[test]
fn pop3_does_not_ask_for_certificates() {
    let users = authority();
    let (engine, _folder) = engine(&users);
    let expired = certificate_until(&users, &[DEMO], 2002);
    for shown in [certificate(&users, &[DEMO]), expired] {
        let config = config(&engine, Some(&shown), &version::TLS13);
        let mut client = Client::open(&engine, POP3S, &config);
        assert!(client.line().unwrap().starts_with("+OK"));
        client.says("CAPA", "+OK");
        let mut offered = String::new();
        while !offered.ends_with("\n.\r\n") {
            offered.push_str(&client.line().unwrap());
        }
        assert!(offered.contains("SASL ") && !offered.contains("EXTERNAL"), "{offered}");
        client.says("AUTH EXTERNAL =", "-ERR No such mechanism");
        client.says(&format!("USER {DEMO}"), "+OK");
        client.says(&format!("PASS {DEMO_PASSWORD}"), "+OK");
    }
}

#[test]
fn a_start_refuses_a_file_that_is_missing_or_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.pem");
    let start = || {
        let options = Options { config: Some(asking(&file)), ..Options::default() };
        Engine::with(options).map(drop).unwrap_err()
    };
    assert!(start().contains("users.pem: No such file"), "{}", start());
    fs::write(&file, "").unwrap();
    assert!(start().contains("users.pem: no certificate in it"));
    let config = folder.path().join("fsmtp.toml");
    fs::write(&config, asking(&file)).unwrap();
    let said = wire_tests::engine::run(&["test", "--config", &config.to_string_lossy()], "");
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    let line = said.lines().find(|line| line.contains("client authorities")).unwrap();
    assert!(line.starts_with("FAIL") && line.contains("no certificate in it"), "{line}");
}
