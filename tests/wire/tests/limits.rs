//! Limits that are configured: connections, idle time, clients that stop reading.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use wire_tests::mail::message;
use wire_tests::{DEMO, Engine, Options, PATIENCE, Pop, Smtp, base64};

fn configured(config: &str) -> Engine {
    let options = Options { config: Some(config.to_owned()), ..Options::default() };
    Engine::with(options).expect("it starts")
}

/// A connection from 127.0.0.`last`.
fn from(last: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// The first line that a server says.
fn greeting(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && stream.read(&mut byte).is_ok_and(|bytes| bytes == 1) {
        line.extend_from_slice(&byte);
    }
    String::from_utf8(line).expect("ASCII")
}

#[test]
fn connections_over_the_limits_are_refused_at_the_greeting() {
    let config = "[server]\nnode = \"limits.example.test\"\n\
        [[listener]]\naddress = \"127.0.0.1:{smtp}\"\nprotocol = \"smtp\"\n\
        connections_max = 5\nconnections_per_address_max = 3\n\
        [[listener]]\naddress = \"127.0.0.1:{pop3}\"\nprotocol = \"pop3\"\n\
        connections_max = 2\nconnections_per_address_max = 2\n";
    let options = Options { config: Some(config.to_owned()), dev: false, ..Options::default() };
    let engine = Engine::with(options).unwrap();
    let smtp = engine.smtp_address();
    let mut open = Vec::new();
    for (last, fits) in [(1, true), (1, true), (1, true), (1, false), (2, true), (2, true)] {
        let mut stream = from(last, smtp).unwrap();
        let said = greeting(&mut stream);
        assert!(said.starts_with(if fits { "220 " } else { "421 4.7.0 " }), "{last}: {said}");
        assert!(said.ends_with(" - fsmtp\r\n"), "{said}");
        if fits {
            open.push(stream);
        } else {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed after it");
        }
    }
    assert!(greeting(&mut from(3, smtp).unwrap()).starts_with("421 4.7.0 "), "five in all");
    open.remove(0);
    let until = Instant::now() + PATIENCE;
    while !greeting(&mut from(3, smtp).unwrap()).starts_with("220 ") {
        assert!(Instant::now() < until, "the place of a closed connection is free again");
    }
    let pop = engine.pop_address();
    let kept = [Pop::open(pop).unwrap(), Pop::open(pop).unwrap()];
    assert!(Pop::open(pop).unwrap_err().to_string().starts_with("-ERR [SYS/TEMP]"));
    drop(kept);
}

/// A session of `user`, whose password is `secret`, where mail is submitted.
fn signed_in(engine: &Engine, user: &str) -> Smtp {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{user}\0secret").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    assert_eq!(smtp.command(&format!("MAIL FROM:<{user}>")).expect("MAIL").code, 250);
    smtp
}

#[test]
fn an_account_names_so_many_people_in_an_hour_over_all_connections() {
    let config = "[server]\nnode = \"limits.example.test\"\ndomain = \"example.test\"\n\
        [[listener]]\naddress = \"127.0.0.1:{smtp}\"\n\
        [[listener]]\naddress = \"127.0.0.1:{submission}\"\nprotocol = \"submission\"\n\
        [submission]\nrecipients_per_hour = 3\n";
    let config = Some(config.to_owned());
    let engine =
        Engine::with(Options { config, dev: false, cores: 2, ..Options::default() }).unwrap();
    let [alice, bob] = ["alice@example.test", "bob@example.test"];
    for command in [
        &["domain", "add", "example.test"][..],
        &["adduser", alice, "--password-stdin"],
        &["adduser", bob, "--password-stdin"],
    ] {
        assert!(engine.beside(command, "secret").unwrap().status.success());
    }
    let rcpt = format!("RCPT TO:<{bob}>");
    // More connections than shards: some of them share one, and some do not.
    for n in 0..4 {
        let reply = signed_in(&engine, alice).command(&rcpt).unwrap();
        assert_eq!(reply.code, if n < 3 { 250 } else { 451 }, "{reply:?}");
    }
    let mut smtp = signed_in(&engine, alice);
    let reply = smtp.command(&rcpt).unwrap();
    assert!(reply.is(451, "4.7.1"), "{reply:?}");
    assert!(reply.text().contains("go on in "), "{reply:?}");
    assert_eq!(signed_in(&engine, bob).command(&rcpt).unwrap().code, 250, "he may");
    // The log is written behind what is answered.
    let until = Instant::now() + PATIENCE;
    while !engine.log().contains("rate-exceeded") {
        assert!(Instant::now() < until, "{}", engine.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_that_say_nothing_are_told_goodbye() {
    let engine = configured(
        "[smtp]\ncommand_timeout_s = 1\ndata_timeout_s = 1\n[pop3]\nidle_timeout_s = 1\n",
    );
    let mut silent = engine.smtp().unwrap();
    let mut in_data = engine.smtp().unwrap();
    let mut pop = engine.pop().unwrap();
    for (line, code) in [("MAIL FROM:<>", 250), ("RCPT TO:<demo@example.test>", 250), ("DATA", 354)]
    {
        assert_eq!(in_data.command(line).unwrap().code, code);
    }
    in_data.send(b"Subject: half\r\n").unwrap();
    for smtp in [&mut silent, &mut in_data] {
        let reply = smtp.reply().unwrap();
        assert!(reply.is(421, "4.4.2"), "{reply:?}");
        assert!(smtp.ended().unwrap());
    }
    assert!(pop.line().is_err(), "RFC 1939: closed without a reply");
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 0, "half a message is none");
}

#[test]
fn a_client_that_stops_reading_is_closed_in_the_end() {
    let engine = configured("[smtp]\ncommand_timeout_s = 1\n");
    let mut smtp = engine.smtp().unwrap();
    smtp.socket().set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let noops = b"NOOP\r\n".repeat(10_000);
    let until = Instant::now() + PATIENCE;
    loop {
        match smtp.send(&noops) {
            Ok(()) => assert!(Instant::now() < until, "the engine reads on and on"),
            Err(error) => {
                use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
                assert!(matches!(error.kind(), BrokenPipe | ConnectionReset), "{error}");
                break;
            }
        }
    }
}

#[test]
fn a_smaller_size_is_announced_and_kept() {
    let engine = configured("[smtp]\nsize_max = 100000\nrecipients_max = 100\n");
    let mut smtp = Smtp::open(engine.smtp_address()).unwrap();
    smtp.expect(220).unwrap();
    let lines = smtp.command("EHLO client.test").unwrap().lines;
    assert!(lines.iter().any(|l| l == "SIZE 100000"), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("RCPTMAX=100")), "{lines:?}");
    assert!(smtp.mail("", &[DEMO], &message(12, 1, 90_000)).unwrap().is(250, "2.6.0"));
    assert!(smtp.mail("", &[DEMO], &message(12, 2, 110_000)).unwrap().is(552, "5.3.4"));
}
