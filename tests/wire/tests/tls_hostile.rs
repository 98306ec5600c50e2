//! Clients that break TLS, each in its own way: what they are answered, and that nobody else
//! notices.
//!
//! Before the handshake everything is raw bytes, made here. Behind it rustls is the client, asked
//! for its bytes one flight at a time, so that a test can spoil them or add to them. Alerts are
//! told by their numbers (RFC 8446, section 6); behind each comes the end of the connection.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{self as provider, default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct};
use rustls::{ExtractedSecrets, SignatureScheme, SupportedProtocolVersion};
use wire_tests::{DEMO, Engine, PATIENCE};

/// Port offsets.
const SMTP: u16 = 25;
const POP3: u16 = 110;
const SUBMISSIONS: u16 = 465;
const POP3S: u16 = 995;

/// Types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// What alerts say.
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const NO_RENEGOTIATION: u8 = 100;

/// The largest payload of a record in clear (RFC 8446, section 5.1).
const PAYLOAD_BYTES_MAX: usize = 1 << 14;
/// What encryption may add to it in TLS 1.2 (RFC 5246, section 6.2.3), which is what counts until
/// a version is agreed on.
const ENCRYPTED_MORE_BYTES: usize = 2048;

fn at(engine: &Engine, service: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, engine.base() + service).into()
}

fn connect(engine: &Engine, service: u16) -> TcpStream {
    let stream = TcpStream::connect_timeout(&at(engine, service), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn record(kind: u8, version: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[kind], &version.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A ClientHello of an old version, with its extensions.
fn old_hello(version: u16, extensions: &[u8]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    // No session, TLS_RSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA.
    body.extend([0, 0, 4, 0x00, 0x2f, 0xc0, 0x09, 1, 0]);
    body.extend(extensions);
    record(HANDSHAKE, version, &handshake(1, &body))
}

/// The alert in clear that a connection ended with, if there was one; fails when it does not end.
fn ended(stream: &mut TcpStream) -> Option<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // What it had not read when it closed.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("it does not end: {e}"),
    }
    let mut rest = bytes.as_slice();
    let mut last = None;
    while let [kind, _, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (payload, behind) = after.split_at_checked(length).expect("a whole record");
        last = (*kind == ALERT).then(|| {
            assert_eq!((payload.len(), payload[0]), (2, 2), "one alert, and a fatal one");
            payload[1]
        });
        rest = behind;
    }
    last
}

/// Nobody else has noticed.
fn still_serves(engine: &Engine) {
    assert_eq!(engine.smtp().unwrap().command("NOOP").unwrap().code, 250);
    let mut client = Client::open(engine, SUBMISSIONS, &rustls::version::TLS13);
    assert!(client.line().starts_with("220 "));
}

/// A client that believes everybody, one flight at a time.
struct Client {
    tls: ClientConnection,
    stream: TcpStream,
}

fn session(version: &'static SupportedProtocolVersion) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn hello() -> Vec<u8> {
    written(&mut session(&rustls::version::TLS13))
}

/// What it wants to send now.
fn written(tls: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

impl Client {
    /// A connection that has made its handshake.
    fn open(engine: &Engine, service: u16, version: &'static SupportedProtocolVersion) -> Self {
        Self::over(connect(engine, service), version)
    }

    fn over(stream: TcpStream, version: &'static SupportedProtocolVersion) -> Self {
        let mut client = Self { tls: session(version), stream };
        while client.tls.is_handshaking() {
            client.tls.complete_io(&mut client.stream).unwrap();
        }
        client
    }

    /// Goes on under TLS where a session in clear has said STARTTLS or STLS.
    fn started(engine: &Engine, service: u16, command: &str, version: Version) -> Self {
        let mut stream = in_clear(engine, service);
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let reply = line_in_clear(&mut stream);
        assert!(reply.starts_with("220 ") || reply.starts_with("+OK"), "{reply}");
        Self::over(stream, version)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        let bytes = written(&mut self.tls);
        self.stream.write_all(&bytes).unwrap();
    }

    fn line(&mut self) -> String {
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.stream).unwrap();
        }
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            match self.tls.reader().read(&mut byte) {
                Ok(0) => panic!("the end, behind {:?}", String::from_utf8_lossy(&line)),
                Ok(_) => line.push(byte[0]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    assert_ne!(self.tls.read_tls(&mut self.stream).unwrap(), 0, "no goodbye");
                    self.tls.process_new_packets().unwrap();
                }
                Err(e) => panic!("{e}"),
            }
        }
        String::from_utf8(line).unwrap()
    }

    /// Sends a line, reads the last line of the reply.
    fn command(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        loop {
            let line = self.line();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    /// Reads to the end; the alert that came last, which is encrypted.
    fn ended(mut self) -> Option<rustls::Error> {
        loop {
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("it does not end: {e}"),
            }
            if let Err(error) = self.tls.process_new_packets() {
                return Some(error);
            }
        }
    }
}

type Version = &'static SupportedProtocolVersion;

/// A session that may say STARTTLS or STLS now.
fn in_clear(engine: &Engine, service: u16) -> TcpStream {
    let mut stream = connect(engine, service);
    let mut reply = line_in_clear(&mut stream);
    if service == SMTP {
        stream.write_all(b"EHLO client.test\r\n").unwrap();
        reply = line_in_clear(&mut stream);
        while reply.starts_with("250-") {
            reply = line_in_clear(&mut stream);
        }
    }
    assert!(reply.starts_with("250 ") || reply.starts_with("+OK"), "{reply}");
    stream
}

fn line_in_clear(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn what_is_no_handshake_gets_an_alert_and_the_end() {
    let engine = Engine::shared().unwrap();
    let hello = hello();
    let too_long = u16::try_from(PAYLOAD_BYTES_MAX + ENCRYPTED_MORE_BYTES + 1).unwrap();
    let rows: [(&str, Vec<u8>, u8); 9] = [
        ("no type of a record", record(99, 0x0303, b"x"), DECODE_ERROR),
        ("data before keys", record(APPLICATION_DATA, 0x0303, &[0; 64]), UNEXPECTED_MESSAGE),
        ("a handshake of nothing", record(HANDSHAKE, 0x0301, b""), DECODE_ERROR),
        (
            "a record that is too long",
            [&[HANDSHAKE, 3, 1][..], &too_long.to_be_bytes(), &[1; 4]].concat(),
            DECODE_ERROR,
        ),
        ("version 9 of a record", record(HANDSHAKE, 0x0900, &hello[5..]), DECODE_ERROR),
        ("Finished first", record(HANDSHAKE, 0x0303, &handshake(20, &[0; 32])), UNEXPECTED_MESSAGE),
        ("a hello that ends early", record(HANDSHAKE, 0x0301, &handshake(1, &[3])), DECODE_ERROR),
        ("a line of SMTP", b"EHLO client.test\r\n".to_vec(), DECODE_ERROR),
        ("a request of HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), DECODE_ERROR),
    ];
    for service in [SUBMISSIONS, POP3S] {
        for (what, bytes, alert) in &rows {
            let mut stream = connect(&engine, service);
            stream.write_all(bytes).unwrap();
            assert_eq!(ended(&mut stream), Some(*alert), "{what}");
        }
    }
    still_serves(&engine);
}

#[test]
fn old_versions_are_refused_with_an_alert() {
    let engine = Engine::shared().unwrap();
    // Groups: P-256. Signatures: ECDSA with SHA-256. Points: uncompressed.
    let modern = [0, 22, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0];
    for version in [0x0300, 0x0301, 0x0302] {
        // Without extensions it is refused for their lack, before its version is looked at.
        for (extensions, alert) in [(&modern[..], PROTOCOL_VERSION), (&[], HANDSHAKE_FAILURE)] {
            let mut stream = connect(&engine, SUBMISSIONS);
            stream.write_all(&old_hello(version, extensions)).unwrap();
            assert_eq!(ended(&mut stream), Some(alert), "{version:#06x}");
        }
    }
    // SSLv2 knows no such alerts: a length, its hello, three suites.
    let mut stream = connect(&engine, SUBMISSIONS);
    let mut body = vec![1, 0, 2, 0, 9, 0, 0, 0, 16, 7, 0, 0xc0, 5, 0, 0x80, 1, 0, 0x80];
    body.extend([7; 16]);
    let length = u8::try_from(body.len()).unwrap();
    stream.write_all(&[&[0x80, length][..], &body].concat()).unwrap();
    assert_eq!(ended(&mut stream), Some(DECODE_ERROR));
    still_serves(&engine);
}

#[test]
fn half_a_hello_and_then_the_end_is_no_session() {
    let engine = Engine::shared().unwrap();
    let hello = hello();
    for cut in [0, 1, 4, 5, 6, hello.len() / 2, hello.len() - 1] {
        let mut stream = connect(&engine, POP3S);
        stream.write_all(&hello[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ended(&mut stream), None, "{cut} bytes");
        // And one that is gone at once.
        connect(&engine, POP3S).write_all(&hello[..cut]).unwrap();
    }
    still_serves(&engine);
}

#[test]
fn a_hello_in_single_bytes_is_a_hello() {
    let engine = Engine::shared().unwrap();
    let mut stream = connect(&engine, SUBMISSIONS);
    let mut tls = session(&rustls::version::TLS13);
    for byte in written(&mut tls) {
        // Each goes out by itself: nothing is held back on a socket without delay.
        stream.write_all(&[byte]).unwrap();
    }
    let mut client = Client { tls, stream };
    assert!(client.line().starts_with("220 "));
    assert!(client.command("QUIT").starts_with("221 "));
}

#[test]
fn a_hello_in_records_of_one_byte_is_a_hello() {
    let engine = Engine::shared().unwrap();
    let mut stream = connect(&engine, SUBMISSIONS);
    let mut tls = session(&rustls::version::TLS13);
    let bytes = written(&mut tls);
    let pieces: Vec<u8> =
        bytes[5..].iter().flat_map(|&b| record(HANDSHAKE, 0x0301, &[b])).collect();
    stream.write_all(&pieces).unwrap();
    let mut client = Client { tls, stream };
    assert!(client.line().starts_with("220 "));
}

#[test]
fn a_hello_without_end_is_bounded() {
    /// Far more than sockets hold on their way: who has taken so much listens for ever.
    const SENT_BYTES_MAX: usize = 64 << 20;
    let engine = Engine::shared().unwrap();
    // What the message says of its own length, and how much of it is in each record.
    for (length, piece_bytes) in [
        ([0xff; 3], PAYLOAD_BYTES_MAX),
        ([0xff; 3], 1),
        ([0, 0xff, 0xff], 1),
        ([0, 0xff, 0xff], 99),
    ] {
        let mut stream = connect(&engine, SUBMISSIONS);
        let begin = [&[1][..], &length].concat();
        let piece = record(HANDSHAKE, 0x0301, &vec![0; piece_bytes]);
        let pieces = piece.repeat((1 << 16) / piece.len());
        let mut sent = stream.write(&record(HANDSHAKE, 0x0301, &begin)).unwrap();
        // Writes fail once the engine has closed.
        while sent < SENT_BYTES_MAX && stream.write_all(&pieces).is_ok() {
            sent += pieces.len();
        }
        assert!(sent < SENT_BYTES_MAX, "{length:?}, {piece_bytes}: it listens for ever");
    }
    still_serves(&engine);
}

#[test]
fn clear_text_behind_starttls_is_no_command() {
    let engine = Engine::start().unwrap();
    for (service, command, injected) in [
        (SMTP, "STARTTLS", "MAIL FROM:<a@sender.test>\r\nRCPT TO:<demo@example.test>\r\n"),
        (POP3, "STLS", "USER demo@example.test\r\nPASS demo\r\nSTAT\r\n"),
    ] {
        // In one write: refused as a whole, since nobody knows who put it there.
        let mut stream = in_clear(&engine, service);
        stream.write_all(format!("{command}\r\n{injected}").as_bytes()).unwrap();
        let reply = line_in_clear(&mut stream);
        assert!(reply.starts_with("554 ") || reply.starts_with("-ERR"), "{reply}");
        let mut rest = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{service}: no second reply");
        // Behind the reply: no TLS, so an alert; and a hello behind that is too late.
        let mut stream = in_clear(&engine, service);
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        line_in_clear(&mut stream);
        stream.write_all(&[injected.as_bytes(), &hello()].concat()).unwrap();
        assert_eq!(ended(&mut stream), Some(DECODE_ERROR), "{service}");
    }
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 0);
}

#[test]
fn what_was_said_in_clear_is_forgotten_under_tls() {
    let engine = Engine::shared().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = Client::started(&engine, SMTP, "STARTTLS", version);
        assert!(client.command("MAIL FROM:<a@sender.test>").starts_with("503 "));
        assert!(client.command("EHLO client.test").starts_with("250 "));
        assert!(client.command("STARTTLS").starts_with("503 "));
        let mut client = Client::started(&engine, POP3, "STLS", version);
        assert!(client.command("PASS demo").starts_with("-ERR"));
        assert!(client.command("STLS").starts_with("-ERR"));
    }
}

#[test]
fn records_that_nobody_sealed_end_the_connection() {
    let engine = Engine::shared().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // In clear where all is encrypted.
        let mut client = Client::open(&engine, SUBMISSIONS, version);
        client.line();
        client.stream.write_all(&record(HANDSHAKE, 0x0303, &hello()[5..])).unwrap();
        assert!(client.ended().is_some());
        // Changed on the way.
        let mut client = Client::open(&engine, SUBMISSIONS, version);
        client.line();
        client.tls.writer().write_all(b"NOOP\r\n").unwrap();
        let mut sealed = written(&mut client.tls);
        *sealed.last_mut().unwrap() ^= 1;
        client.stream.write_all(&sealed).unwrap();
        let alert = rustls::AlertDescription::from(BAD_RECORD_MAC);
        assert_eq!(client.ended(), Some(rustls::Error::AlertReceived(alert)));
        // Longer than a record may be.
        let mut client = Client::open(&engine, SUBMISSIONS, version);
        client.line();
        let long = PAYLOAD_BYTES_MAX + ENCRYPTED_MORE_BYTES + 1;
        client.stream.write_all(&record(APPLICATION_DATA, 0x0303, &vec![0; long])).unwrap();
        assert!(client.ended().is_some());
    }
    still_serves(&engine);
}

/// Seals one record of TLS 1.2 with AES-GCM as number `sequence` (RFC 5288, section 3).
fn sealed(secrets: &ExtractedSecrets, sequence: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let (_, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = &secrets.tx else {
        panic!("another suite was agreed on");
    };
    let explicit = sequence.to_be_bytes();
    let nonce: [u8; 12] = [&iv.as_ref()[..4], &explicit].concat().try_into().unwrap();
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let aad = [&sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    let mut bytes = payload.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut bytes).unwrap();
    record(kind, 0x0303, &[&explicit[..], &bytes].concat())
}

#[test]
fn a_second_handshake_is_not_made() {
    let engine = Engine::shared().unwrap();
    let mut client = Client::open(&engine, SUBMISSIONS, &rustls::version::TLS12);
    client.line();
    let suite = client.tls.negotiated_cipher_suite().unwrap();
    assert_eq!(suite, provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    let Client { tls, mut stream } = client;
    let secrets = tls.dangerous_extract_secrets().unwrap();
    let (sequence, _) = secrets.tx;
    // A hello under the keys that are in use: refused by a warning, and the session goes on ...
    let hello = &written(&mut session(&rustls::version::TLS12))[5..];
    stream.write_all(&sealed(&secrets, sequence, HANDSHAKE, hello)).unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[0], ALERT, "no ServerHello");
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(opened(&secrets, &header, &body), [1, NO_RENEGOTIATION]);
    stream.write_all(&sealed(&secrets, sequence + 1, APPLICATION_DATA, b"NOOP\r\n")).unwrap();
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[0], APPLICATION_DATA);
    // ... and a second one ends it.
    stream.write_all(&sealed(&secrets, sequence + 2, HANDSHAKE, hello)).unwrap();
    let mut rest = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut rest);
    still_serves(&engine);
}

/// The first record that came under the keys of TLS 1.2 in `secrets`.
fn opened(secrets: &ExtractedSecrets, header: &[u8; 5], body: &[u8]) -> Vec<u8> {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = &secrets.rx else {
        panic!("another suite was agreed on");
    };
    let (explicit, sealed) = body.split_at(8);
    let nonce: [u8; 12] = [&iv.as_ref()[..4], explicit].concat().try_into().unwrap();
    let length = u16::try_from(sealed.len() - 16).unwrap().to_be_bytes();
    let aad = [&sequence.to_be_bytes()[..], &header[..3], &length].concat();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::from(aad), &mut bytes).unwrap().to_vec()
}

#[test]
fn a_message_that_tls_does_not_end_is_not_stored() {
    let engine = Engine::start().unwrap();
    for goodbye in [false, true] {
        let mut client = Client::started(&engine, SMTP, "STARTTLS", &rustls::version::TLS13);
        assert!(client.command("EHLO client.test").starts_with("250 "));
        assert!(client.command("MAIL FROM:<a@sender.test>").starts_with("250 "));
        assert!(client.command(&format!("RCPT TO:<{DEMO}>")).starts_with("250 "));
        assert!(client.command("DATA").starts_with("354 "));
        // All of it but the last line end.
        client.send(b"Subject: cut\r\n\r\nPart of a message.\r\n.");
        if goodbye {
            client.tls.send_close_notify();
            client.send(b"");
        }
        client.stream.shutdown(Shutdown::Write).unwrap();
        // The engine is done with the connection when it has closed its side.
        let _alert_or_end = client.ended();
    }
    let mut whole = engine.smtp().unwrap();
    assert_eq!(whole.mail("", &[DEMO], b"Subject: whole\r\n\r\nx\r\n").unwrap().code, 250);
    let mut pop = engine.pop().unwrap();
    assert_eq!(pop.stat().unwrap().0, 1, "the whole one only");
    let stored = pop.message(1).unwrap();
    assert!(String::from_utf8_lossy(&stored).contains("Subject: whole"));
}
