//! REQUIRETLS (RFC 8689): who submits a message with it is taken at his word on the whole way, or
//! hears that it was not to be had.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

/// Mail for people of a node with a certificate of its own, and what they read of it.
struct Node {
    engine: Engine,
    certificate: CertificateDer<'static>,
}

/// An engine with this configuration, where users submit under TLS and read by POP3.
fn node(folder: &TempDir, config: &str) -> Node {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let certificate = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap().into_owned();
    let (cert, key) = (file(folder, "cert.pem", &cert), file(folder, "key.pem", &key));
    let engine = engine(&format!(
        "[[listener]]\nprotocol = \"pop3\"\naddress = \"127.0.0.1:{{pop3}}\"\n\
         {config}[[tls.certificate]]\nchain = \"{cert}\"\nkey = \"{key}\"\n"
    ));
    Node { engine, certificate }
}

/// A session where mail is submitted.
struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    /// Of a user, where mail is submitted.
    fn open(node: &Node) -> Self {
        let mut client = Self::at(node, 587);
        let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
        client.say(&format!("AUTH PLAIN {response}"), "235");
        client
    }

    fn at(node: &Node, service: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.engine.base() + service));
        let mut clear = Smtp::hello(address).expect("EHLO");
        let offers = clear.command("EHLO client.test").unwrap().lines.join("\n");
        assert!(!offers.contains("REQUIRETLS"), "{offers}");
        assert!(clear.command("STARTTLS").unwrap().is(220, "2.0.0"));
        let mut tcp = clear.socket().try_clone().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(node.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp).unwrap();
        }
        let mut client = Self(BufReader::new(StreamOwned::new(session, tcp)));
        let offers = client.say("EHLO client.test", "250");
        assert!(offers.contains("250-REQUIRETLS\r\n"), "{offers}");
        client
    }

    /// Says a line, and gives the reply, which must begin like this.
    fn say(&mut self, line: &str, begins: &str) -> String {
        let stream = self.0.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        stream.flush().unwrap();
        let mut reply = String::new();
        loop {
            let before = reply.len();
            assert!(self.0.read_line(&mut reply).unwrap() > 0, "{line}: {reply}");
            if reply.as_bytes().get(before + 3) != Some(&b'-') {
                break;
            }
        }
        assert!(reply.starts_with(begins), "{line}: {reply}");
        reply
    }

    fn mail(&mut self, parameters: &str, to: &str) {
        self.say(&format!("MAIL FROM:<{DEMO}> {parameters}"), "250");
        self.say(&format!("RCPT TO:<{to}>"), "250");
        self.say("DATA", "354");
        let message = core::str::from_utf8(MESSAGE).unwrap();
        self.say(&format!("{message}."), "250");
    }
}

/// The only message of the demo account, once it is there.
fn report(node: &Node) -> String {
    let mut found = None;
    until("a report", || {
        let mut pop = node.engine.pop().expect("POP3");
        let (count, _) = pop.stat().expect("STAT");
        assert!(count < 2);
        found = (count == 1).then(|| pop.message(1).expect("RETR"));
        found.is_some()
    });
    String::from_utf8(found.unwrap()).unwrap()
}

/// Submits with REQUIRETLS, and wants a report with this status and these words.
fn fails(node: &Node, status: &str, words: &str) {
    Client::open(node).mail("RET=FULL REQUIRETLS", "a@remote.test");
    let report = report(node);
    for part in [&format!("Status: {status}\r\n"), "Action: failed\r\n", "Subject: hello\r\n"] {
        assert!(report.contains(part), "`{part}` is not in {report}");
    }
    let unfolded = report.replace("\r\n\t", " ").replace("\r\n ", " ").replace("=\r\n", "");
    assert!(unfolded.contains(words), "`{words}` is not in {report}");
    assert!(!report.contains("\r\nbody\r\n"), "RET=FULL is disregarded: {report}");
}

fn mail_commands(taken: &Taken) -> Vec<&str> {
    taken.commands.iter().map(String::as_str).filter(|c| c.starts_with("MAIL")).collect()
}

#[test]
fn a_message_that_asks_for_tls_asks_the_next_host_for_it() {
    let authority = Authority::new("one");
    let host = mail(Manners {
        tls: Some(authority.server(&["localhost"], 2100)),
        offers: &["REQUIRETLS"],
        ..Manners::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let route = format!("hosts = \"localhost:{}\", tls = \"verified\"", host.address().port());
    let node = node(&folder, &smart_host(&folder, &authority, &route));
    let mut client = Client::open(&node);
    client.mail("", "a@remote.test");
    taken(&host, 1);
    client.mail("REQUIRETLS", "a@remote.test");
    let taken = taken(&host, 2).remove(1);
    // Over one connection, which has proved all that it takes.
    let [first, second] = mail_commands(&taken)[..] else { panic!("{taken:?}") };
    assert!(taken.encrypted && !first.contains("REQUIRETLS"), "{first}");
    assert!(second.contains(" REQUIRETLS"), "{second}");
    client.say(&format!("MAIL FROM:<{DEMO}> REQUIRETLS=1"), "501 5.5.4");
    // Only reports of this node, which hold no body, may go without in the end.
    client.say("MAIL FROM:<> REQUIRETLS", "553 5.7.1");
}

#[test]
fn in_clear_nobody_may_ask_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(&folder, "");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.engine.base() + 25));
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let reply = smtp.command("MAIL FROM:<a@sender.test> REQUIRETLS").unwrap();
    assert!(reply.is(530, "5.7.10"), "{reply:?}");
}

#[test]
fn where_it_is_not_offered_the_sender_hears_of_it() {
    let authority = Authority::new("one");
    let tls = Some(authority.server(&["localhost"], 2100));
    let host = mail(Manners { tls, ..Manners::default() });
    let folder = tempfile::tempdir().unwrap();
    let route = format!("hosts = \"localhost:{}\", tls = \"verified\"", host.address().port());
    let node = node(&folder, &smart_host(&folder, &authority, &route));
    fails(&node, "5.7.30", "the server does not offer REQUIRETLS");
    assert!(host.taken().is_empty());
}

#[test]
fn a_host_that_does_not_offer_it_is_left_for_one_that_does() {
    let authority = Authority::new("one");
    let [lacks, offers] = [&[][..], &["REQUIRETLS"]].map(|offers| {
        let tls = Some(authority.server(&["localhost"], 2100));
        mail(Manners { tls, offers, ..Manners::default() })
    });
    let folder = tempfile::tempdir().unwrap();
    let ports = [&lacks, &offers].map(|host| host.address().port());
    let hosts = format!("localhost:{}, localhost:{}", ports[0], ports[1]);
    let route = format!("hosts = \"{hosts}\", tls = \"verified\"");
    let node = node(&folder, &smart_host(&folder, &authority, &route));
    let mut client = Client::open(&node);
    client.mail("", "a@remote.test");
    taken(&lacks, 1);
    // Not over that connection, which is open.
    client.mail("REQUIRETLS", "a@remote.test");
    let taken = taken(&offers, 1).remove(0);
    assert!(mail_commands(&taken)[0].contains(" REQUIRETLS"), "{taken:?}");
    assert_eq!(lacks.taken().len(), 1);
}

#[test]
fn where_nobody_vouches_for_the_host_it_gets_nothing() {
    let authority = Authority::new("one");
    let host = mail(Manners {
        tls: Some(authority.server(&["localhost", "mx.remote.test"], 2100)),
        offers: &["REQUIRETLS"],
        ..Manners::default()
    });
    let port = host.address().port();
    // A route that asks for no name, and MX records that anybody may have forged.
    for by_route in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::knowing(records(&[]), false).expect("names");
        let route = format!("hosts = \"localhost:{port}\", tls = \"encrypted\"");
        let config = match by_route {
            true => smart_host(&folder, &authority, &route),
            false => by_mx(&names, port),
        };
        let node = node(&folder, &config);
        let before = host.taken().len();
        Client::open(&node).mail("", "a@remote.test");
        taken(&host, before + 1);
        // That connection is still open.
        fails(&node, "5.7.10", "nobody vouches for this host");
        assert_eq!(host.taken().len(), before + 1);
    }
}

/// A node that believes signatures of the name service, and trusts `authority`.
fn vouched(folder: &TempDir, authority: &Authority, names: &Names, port: u16) -> Node {
    let roots = file(folder, "roots.pem", &authority.pem());
    node(folder, &format!("[tls]\nroots = \"{roots}\"\n{}", by_mx(names, port)))
}

#[test]
fn an_open_connection_that_proved_less_is_left_for_one_that_proves_enough() {
    let authority = Authority::new("one");
    let host = mail(Manners {
        tls: Some(authority.server(&["mx.remote.test"], 2100)),
        offers: &["REQUIRETLS"],
        ..Manners::default()
    });
    let names = Names::knowing(records(&[]), true).expect("names");
    let folder = tempfile::tempdir().unwrap();
    let node = vouched(&folder, &authority, &names, host.address().port());
    let mut client = Client::open(&node);
    for parameters in ["", "REQUIRETLS", ""] {
        let before = host.taken().len();
        client.mail(parameters, "a@remote.test");
        taken(&host, before + 1);
    }
    let all = host.taken();
    let [[weak], [strict], [also_strict, weak_again]] =
        [&mail_commands(&all[0])[..], &mail_commands(&all[1]), &mail_commands(&all[2])]
    else {
        panic!("{all:?}");
    };
    assert!(!weak.contains("REQUIRETLS") && !weak_again.contains("REQUIRETLS"));
    assert!(strict.contains(" REQUIRETLS") && strict == also_strict);
}

#[test]
fn a_certificate_that_proves_nothing_is_not_enough() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let host = mail(Manners {
        tls: Some(other.server(&["mx.remote.test"], 2100)),
        offers: &["REQUIRETLS"],
        ..Manners::default()
    });
    let names = Names::knowing(records(&[]), true).expect("names");
    let folder = tempfile::tempdir().unwrap();
    let node = vouched(&folder, &authority, &names, host.address().port());
    fails(&node, "5.7.10", "the sender demands TLS all the way");
    assert!(host.taken().is_empty());
}

#[test]
fn a_report_about_it_asks_for_the_same_and_goes_without_rather_than_not() {
    let authority = Authority::new("one");
    for (offers, asks) in [(&["REQUIRETLS"][..], true), (&[], false)] {
        let tls = Some(authority.server(&["mx.remote.test"], 2100));
        let host = mail(Manners { tls, offers, ..Manners::default() });
        let names = Names::knowing(records(&[]), true).expect("names");
        let folder = tempfile::tempdir().unwrap();
        let node = vouched(&folder, &authority, &names, host.address().port());
        let mut client = Client::at(&node, 25);
        client.say("MAIL FROM:<a@remote.test> RET=FULL REQUIRETLS", "250");
        client.say(&format!("RCPT TO:<{DEMO}> NOTIFY=SUCCESS"), "250");
        client.say("DATA", "354");
        client.say("Subject: hello\r\n\r\nbody\r\n.", "250");
        let [report] = &taken(&host, 1)[..] else { panic!() };
        let [command] = mail_commands(report)[..] else { panic!("{report:?}") };
        assert!(command.starts_with("MAIL FROM:<>"), "{command}");
        assert_eq!(command.contains(" REQUIRETLS"), asks, "{command}");
    }
}
