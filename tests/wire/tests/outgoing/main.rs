//! What protects mail on its way to other servers: TLS that must be there, names that must be
//! proved, passwords that go to nobody else.

#![expect(clippy::unwrap_used, reason = "what helps a test may fail as a test does")]

mod require_tls;
mod server;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use server::{Authority, Manners, Secured, Server, Taken, mail, web};
use tempfile::TempDir;
use wire_tests::remote::{Record, labels};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Names, Options, PATIENCE, Smtp, base64};

const MESSAGE: &[u8] = b"From: demo@example.test\r\nSubject: hello\r\n\r\nbody\r\n";

/// A file that only we may read.
fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path.to_string_lossy().into_owned()
}

/// An engine as operators run it, with more of a configuration behind.
fn engine(config: &str) -> Engine {
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"example.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n{config}"
    );
    let options = Options { config: Some(config), dev: false, ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    for command in [&["domain", "add", "example.test"][..], &["adduser", DEMO, "--password-stdin"]]
    {
        let done = engine.beside(command, DEMO_PASSWORD).expect("a command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    engine
}

fn submit(engine: &Engine, to: &str) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, engine.base() + 587));
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    let reply = smtp.mail(DEMO, &[to], MESSAGE).expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a message was deferred for this reason, with these words in the reason.
fn deferred(engine: &Engine, why: &str, words: &[&str]) {
    let said = |line: &&str| {
        line.contains("message-deferred") && line.contains(&format!("\"why\":\"{why}\""))
    };
    until("a deferral", || engine.log().lines().any(|line| said(&line)));
    let log = engine.log();
    let line = log.lines().find(said).unwrap();
    for word in words {
        assert!(line.contains(word), "`{word}` is not in {line}");
    }
}

fn taken(server: &Server<Taken>, count: usize) -> Vec<Taken> {
    until("the mail", || server.taken().len() == count);
    server.taken()
}

/// A smart host's route, behind a line that names the authority.
fn smart_host(folder: &TempDir, authority: &Authority, route: &str) -> String {
    let roots = file(folder, "roots.pem", &authority.pem());
    format!(
        "[tls]\nroots = \"{roots}\"\n[queue]\nretry = \"1s\"\n[routes]\n\"*\" = {{ {route} }}\n"
    )
}

#[test]
fn a_smart_host_gets_the_password_when_its_name_is_proved() {
    let authority = Authority::new("one");
    let login = base64::encode(b"\0us\0secret");
    for implicit in [false, true] {
        let host = mail(Manners {
            tls: Some(authority.server(&["localhost"], 2100)),
            implicit,
            login: Some(login.clone()),
            ..Manners::default()
        });
        let folder = tempfile::tempdir().unwrap();
        let password = file(&folder, "password", "secret\n");
        let route = format!(
            "hosts = \"{}localhost:{}\", user = \"us\", password_file = \"{password}\"",
            if implicit { "smtps:" } else { "" },
            host.address().port(),
        );
        let engine = engine(&smart_host(&folder, &authority, &route));
        submit(&engine, "a@remote.test");
        let [taken] = &taken(&host, 1)[..] else { panic!() };
        assert!(taken.encrypted);
        assert!(taken.commands.contains(&format!("AUTH PLAIN {login}")), "{taken:?}");
        assert!(!engine.log().contains("secret"));
    }
}

#[test]
fn nobody_else_gets_the_password_and_the_message_waits() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let cases = [
        (Some(authority.server(&["other.test"], 2100)), "not valid for name"),
        (Some(authority.server(&["localhost"], 2002)), "expired"),
        (Some(other.server(&["localhost"], 2100)), "UnknownIssuer"),
        (None, "it offers no TLS"),
    ];
    for (tls, words) in cases {
        let login = Some(base64::encode(b"\0us\0secret"));
        let host = mail(Manners { tls, login, ..Manners::default() });
        let folder = tempfile::tempdir().unwrap();
        let password = file(&folder, "password", "secret\n");
        let port = host.address().port();
        let route =
            format!("hosts = \"localhost:{port}\", user = \"us\", password_file = \"{password}\"");
        let engine = engine(&smart_host(&folder, &authority, &route));
        submit(&engine, "a@remote.test");
        deferred(
            &engine,
            "tls-required",
            &[words, &format!("the route demands TLS; 127.0.0.1:{port}: ")],
        );
        assert!(host.taken().is_empty());
    }
}

#[test]
fn a_smart_host_that_does_not_know_us_defers_mail_for_that_reason() {
    let authority = Authority::new("one");
    for (login, words) in [
        (Some("x".to_owned()), &["cannot sign in as us: 535 5.7.8 not you", "\"code\":535"][..]),
        (None, &["AUTH PLAIN is not offered"]),
    ] {
        let tls = Some(authority.server(&["localhost"], 2100));
        let host = mail(Manners { tls, login, ..Manners::default() });
        let folder = tempfile::tempdir().unwrap();
        let password = file(&folder, "password", "secret\n");
        let port = host.address().port();
        let route =
            format!("hosts = \"localhost:{port}\", user = \"us\", password_file = \"{password}\"");
        let engine = engine(&smart_host(&folder, &authority, &route));
        submit(&engine, "a@remote.test");
        deferred(&engine, "sign-in-refused", words);
        assert!(host.taken().is_empty());
    }
}

#[test]
fn without_its_password_an_engine_does_not_start_and_other_commands_do_their_work() {
    let authority = Authority::new("one");
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "secret\n");
    let route = format!("hosts = \"localhost:25\", user = \"us\", password_file = \"{password}\"");
    let mut engine = engine(&smart_host(&folder, &authority, &route));
    std::fs::remove_file(&password).unwrap();
    let listed = engine.beside(&["queue", "list"], "").expect("a command");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    engine.kill();
    let why = engine.again().expect_err("no start");
    assert!(why.contains("the route of `*`: ") && why.contains("/password: No such file"), "{why}");
}

#[test]
fn a_route_may_demand_tls_of_anybody() {
    let authority = Authority::new("one");
    let secured =
        Manners { tls: Some(authority.server(&["other.test"], 2002)), ..Manners::default() };
    let (good, bare) = (mail(secured), mail(Manners::default()));
    let folder = tempfile::tempdir().unwrap();
    let route = |host: &Server<Taken>| {
        format!("hosts = \"127.0.0.1:{}\", tls = \"encrypted\"", host.address().port())
    };
    let encrypted = engine(&smart_host(&folder, &authority, &route(&good)));
    submit(&encrypted, "a@remote.test");
    assert!(taken(&good, 1)[0].encrypted);
    let clear = engine(&smart_host(&folder, &authority, &route(&bare)));
    submit(&clear, "a@remote.test");
    deferred(&clear, "tls-required", &["the route demands TLS", "it offers no TLS"]);
    assert!(bare.taken().is_empty());
}

#[test]
fn with_dev_a_password_may_go_to_loopback_in_clear() {
    let login = base64::encode(b"\0us\0secret");
    let host = mail(Manners { login: Some(login.clone()), ..Manners::default() });
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "secret");
    let config = format!(
        "[dev.routes]\n\"*\" = {{ hosts = \"{}\", tls = \"offered\", user = \"us\", \
         password_file = \"{password}\" }}\n",
        host.address(),
    );
    let options = Options { config: Some(config), ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    submit(&engine, "a@remote.test");
    assert!(taken(&host, 1)[0].commands.contains(&format!("AUTH PLAIN {login}")));
}

#[test]
fn a_node_proves_itself_in_tls_1_3_or_gets_nothing() {
    let authority = Authority::new("one");
    let tls = Some(authority.server_of(&["localhost"], 2100, &[&rustls::version::TLS12]));
    let host = mail(Manners { tls, ..Manners::default() });
    let folder = tempfile::tempdir().unwrap();
    let route = format!("hosts = \"node:localhost:{}\"", host.address().port());
    let engine = engine(&smart_host(&folder, &authority, &route));
    submit(&engine, "a@remote.test");
    deferred(&engine, "tls-required", &["it offers no TLS 1.3 to prove it in"]);
    assert!(host.taken().is_empty());
}

/// Records of the name service: what mail for `remote.test` needs, and more.
fn records(more: &[Record]) -> Arc<Mutex<Vec<Record>>> {
    let mx = |host: &str| [vec![0, 10], labels(host)].concat();
    let mut records = vec![
        ("remote.test".to_owned(), 15, mx("mx.remote.test")),
        ("mx.remote.test".to_owned(), 1, vec![127, 0, 0, 1]),
    ];
    records.extend_from_slice(more);
    Arc::new(Mutex::new(records))
}

fn txt(name: &str, text: &str) -> Record {
    let data = [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    (name.to_owned(), 16, data)
}

/// A TLSA record for the mail server at `port`.
fn tlsa(port: u16, fields: [u8; 3], data: &[u8]) -> Record {
    (format!("_{port}._tcp.mx.remote.test"), 52, [&fields[..], data].concat())
}

/// A configuration that goes by MX records to hosts at `port`.
fn by_mx(names: &Names, port: u16) -> String {
    format!(
        "[resolver]\nservers = [\"{}\"]\ndnssec_trusted = true\n\
         [queue]\nretry = \"1s\"\nmx_port = {port}\n",
        names.address(),
    )
}

#[test]
fn with_dane_a_host_shows_what_its_records_say_or_gets_nothing() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    // Names and dates do not count for what a record names itself.
    let secured = authority.server(&["other.test"], 2002);
    let valid = authority.server(&["mx.remote.test"], 2100);
    let fits = |secured: &Secured| tlsa_of(&secured.public_key);
    for (tls, fields, data, good) in [
        (Some(&secured), [3, 1, 1], fits(&secured), Ok(())),
        (Some(&secured), [3, 0, 0], secured.leaf.clone(), Ok(())),
        (Some(&valid), [2, 0, 1], tlsa_of(authority.der()), Ok(())),
        // Unusable: encrypted, with anybody.
        (Some(&secured), [1, 1, 1], fits(&valid), Ok(())),
        (Some(&secured), [3, 1, 1], fits(&valid), Err("no TLSA record fits it")),
        (Some(&secured), [2, 0, 1], tlsa_of(authority.der()), Err("expired")),
        (Some(&valid), [2, 0, 1], tlsa_of(other.der()), Err("no TLSA record fits it")),
        (None, [3, 1, 1], fits(&valid), Err("it offers no TLS")),
        (None, [1, 1, 1], fits(&valid), Err("it offers no TLS")),
    ] {
        let host = mail(Manners { tls: tls.cloned(), ..Manners::default() });
        let port = host.address().port();
        let names = Names::knowing(records(&[tlsa(port, fields, &data)]), true).expect("names");
        let engine = engine(&by_mx(&names, port));
        submit(&engine, "a@remote.test");
        match good {
            Ok(()) => assert!(taken(&host, 1)[0].encrypted, "{fields:?}"),
            Err(words) => {
                let demand = format!("the TLSA records at _{port}._tcp.mx.remote.test demand TLS");
                deferred(&engine, "tls-required", &[words, &demand]);
                assert!(host.taken().is_empty(), "{fields:?}");
            }
        }
    }
}

#[test]
fn records_are_found_where_aliases_lead_and_else_where_the_name_stands() {
    let authority = Authority::new("one");
    let secured = authority.server(&["other.test"], 2002);
    let host = mail(Manners { tls: Some(secured.clone()), ..Manners::default() });
    let port = host.address().port();
    let alias = |more: &[Record]| {
        let mut records = records(more).lock().unwrap().clone();
        records.retain(|record| record.0 != "mx.remote.test");
        records.push(("mx.remote.test".to_owned(), 5, labels("real.test")));
        records.push(("real.test".to_owned(), 1, vec![127, 0, 0, 1]));
        Names::knowing(Arc::new(Mutex::new(records)), true).expect("names")
    };
    let good = tlsa(port, [3, 1, 1], &tlsa_of(&secured.public_key));
    let wrong = tlsa(port, [3, 1, 1], &[7; 32]);
    let led_to = |record: &Record| (format!("_{port}._tcp.real.test"), 52, record.2.clone());
    for (count, names) in [(1, alias(&[led_to(&good), wrong])), (2, alias(&[good]))] {
        let engine = engine(&by_mx(&names, port));
        submit(&engine, "a@remote.test");
        assert!(taken(&host, count).iter().all(|mail| mail.encrypted));
    }
}

/// What a record with matching type 1 holds.
fn tlsa_of(content: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, content).as_ref().to_vec()
}

#[test]
fn records_that_nobody_vouches_for_count_for_nothing_and_lookups_that_fail_for_much() {
    let host = mail(Manners::default());
    let port = host.address().port();
    let wrong = tlsa(port, [3, 1, 1], &[7; 32]);
    let forged = Names::knowing(records(std::slice::from_ref(&wrong)), false).expect("names");
    let trusting = engine(&by_mx(&forged, port));
    submit(&trusting, "a@remote.test");
    assert!(!taken(&host, 1)[0].encrypted);
    let broken = (wrong.0, 0, Vec::new());
    let names = Names::knowing(records(&[broken]), true).expect("names");
    let engine = engine(&by_mx(&names, port));
    submit(&engine, "a@remote.test");
    deferred(&engine, "no-dns-answer", &["_tcp.mx.remote.test: the name server failed"]);
    assert_eq!(host.taken().len(), 1);
}

/// A web server's page with a policy.
fn page(policy: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{policy}",
        policy.len(),
    )
}

fn policy(mode: &str, mx: &str) -> String {
    page(&format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n"))
}

/// The records of a domain with a policy.
fn announced(id: &str) -> [Record; 2] {
    [
        txt("_mta-sts.remote.test", &format!("v=STSv1; id={id};")),
        ("mta-sts.remote.test".to_owned(), 1, vec![127, 0, 0, 1]),
    ]
}

/// A configuration that fetches policies at `web`, and trusts `authority`.
fn with_sts(
    folder: &TempDir,
    authority: &Authority,
    (names, port): (&Names, u16),
    web: &Server<String>,
) -> String {
    let roots = file(folder, "roots.pem", &authority.pem());
    let port = format!("{}mta_sts_port = {}\n", by_mx(names, port), web.address().port());
    format!("[tls]\nroots = \"{roots}\"\n{port}")
}

#[test]
fn a_policy_is_kept_to_as_its_mode_says() {
    let authority = Authority::new("one");
    let good = authority.server(&["mx.remote.test"], 2100);
    let bad = authority.server(&["other.test"], 2100);
    let not_named = "mx.remote.test: it is not named by the MTA-STS policy of remote.test";
    let (enforce, testing) =
        (policy("enforce", "*.remote.test"), policy("testing", "mx.remote.test"));
    for (page, tls, good) in [
        (&enforce, Some(&good), Ok(true)),
        (&enforce, Some(&bad), Err("not valid for name")),
        (&enforce, None, Err("it offers no TLS")),
        (&policy("enforce", "mx.test"), Some(&good), Err(not_named)),
        (&testing, Some(&bad), Ok(true)),
        (&testing, None, Ok(false)),
        (&policy("testing", "mx.test"), Some(&bad), Ok(true)),
        (&policy("none", "mx.test"), None, Ok(false)),
        // What is no policy is none.
        (&page("hello"), None, Ok(false)),
        (&"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n".to_owned(), None, Ok(false)),
    ] {
        let host = mail(Manners { tls: tls.cloned(), ..Manners::default() });
        let site = authority.server(&["mta-sts.remote.test"], 2100);
        let web = web(&site, Arc::new(Mutex::new(page.clone())));
        let names = Names::knowing(records(&announced("1")), false).expect("names");
        let folder = tempfile::tempdir().unwrap();
        let port = host.address().port();
        let engine = engine(&with_sts(&folder, &authority, (&names, port), &web));
        submit(&engine, "a@remote.test");
        match good {
            Ok(encrypted) => assert_eq!(taken(&host, 1)[0].encrypted, encrypted, "{page}"),
            Err(words) => {
                deferred(&engine, "tls-required", &[words, "the MTA-STS policy of remote.test"]);
                assert!(host.taken().is_empty());
            }
        }
        let [request] = &web.taken()[..] else { panic!("{:?}", web.taken()) };
        assert!(request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nHost: mta-sts.remote.test\r\n"), "{request}");
    }
}

#[test]
fn a_policy_of_a_web_server_that_proves_nothing_is_none() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    for site in [other.server(&["mta-sts.remote.test"], 2100), authority.server(&["a.test"], 2100)]
    {
        let host = mail(Manners::default());
        let web = web(&site, Arc::new(Mutex::new(policy("enforce", "mx.test"))));
        let names = Names::knowing(records(&announced("1")), false).expect("names");
        let folder = tempfile::tempdir().unwrap();
        let port = host.address().port();
        let engine = engine(&with_sts(&folder, &authority, (&names, port), &web));
        submit(&engine, "a@remote.test");
        assert!(!taken(&host, 1)[0].encrypted);
        until("a line", || engine.log().contains("\"event\":\"policy-failed\""));
    }
}

#[test]
fn a_policy_is_fetched_once_and_again_when_its_record_changes() {
    let authority = Authority::new("one");
    let tls = Some(authority.server(&["mx.remote.test"], 2100));
    let host = mail(Manners { tls, ..Manners::default() });
    let page = Arc::new(Mutex::new(policy("enforce", "mx.remote.test")));
    let web = web(&authority.server(&["mta-sts.remote.test"], 2100), Arc::clone(&page));
    let known = records(&announced("1"));
    // Answers count for no longer than they say, which is a second for this name server.
    let names = Names::knowing(Arc::clone(&known), false).expect("names");
    let folder = tempfile::tempdir().unwrap();
    let port = host.address().port();
    // A connection that is open is used without asking again.
    let config = with_sts(&folder, &authority, (&names, port), &web);
    let engine = engine(&format!("{config}messages_per_connection = 1\n"));
    for count in 1..=3 {
        submit(&engine, "a@remote.test");
        taken(&host, count);
    }
    assert_eq!(web.taken().len(), 1);
    *page.lock().unwrap() = policy("enforce", "mx.test");
    known.lock().unwrap().retain(|record| record.1 != 16);
    known.lock().unwrap().push(announced("2")[0].clone());
    until("a deferral", || {
        submit(&engine, "a@remote.test");
        engine.log().contains("it is not named by the MTA-STS policy of remote.test")
    });
    assert_eq!(web.taken().len(), 2);
}

#[test]
fn a_policy_counts_on_when_its_record_is_gone() {
    let authority = Authority::new("one");
    let tls = Some(authority.server(&["mx.remote.test", "mx.other.test"], 2100));
    let host = mail(Manners { tls, ..Manners::default() });
    let page = Arc::new(Mutex::new(policy("enforce", "mx.remote.test")));
    let web = web(&authority.server(&["mta-sts.remote.test"], 2100), page);
    let known = records(&announced("1"));
    let names = Names::knowing(Arc::clone(&known), false).expect("names");
    let folder = tempfile::tempdir().unwrap();
    let config = with_sts(&folder, &authority, (&names, host.address().port()), &web);
    let engine = engine(&format!("{config}messages_per_connection = 1\n"));
    submit(&engine, "a@remote.test");
    taken(&host, 1);
    // Somebody who forges answers leads mail elsewhere, and hides that there is a policy.
    let mut records = known.lock().unwrap();
    records.retain(|record| record.1 == 1 && record.0 != "mta-sts.remote.test");
    records.push(("remote.test".to_owned(), 15, [vec![0, 10], labels("mx.other.test")].concat()));
    records.push(("mx.other.test".to_owned(), 1, vec![127, 0, 0, 1]));
    drop(records);
    until("a deferral", || {
        submit(&engine, "a@remote.test");
        engine.log().contains("mx.other.test: it is not named by the MTA-STS policy of remote.test")
    });
    assert_eq!(web.taken().len(), 1);
}

#[test]
fn sessions_are_resumed_where_a_name_was_proved_and_never_under_dane() {
    let authority = Authority::new("one");
    let secured = authority.server(&["mx.remote.test"], 2100);
    let host = mail(Manners { tls: Some(secured.clone()), ..Manners::default() });
    let port = host.address().port();
    let page = Arc::new(Mutex::new(policy("enforce", "mx.remote.test")));
    let web = web(&authority.server(&["mta-sts.remote.test"], 2100), page);
    let record = tlsa(port, [3, 1, 1], &tlsa_of(&secured.public_key));
    for (more, resumed) in [(&[][..], true), (&[record][..], false)] {
        let before = host.taken().len();
        let all = [&announced("1")[..], more].concat();
        let names = Names::knowing(records(&all), true).expect("names");
        let folder = tempfile::tempdir().unwrap();
        let config = with_sts(&folder, &authority, (&names, port), &web);
        let mut engine = engine(&format!("{config}messages_per_connection = 1\n"));
        for count in 1..=2 {
            submit(&engine, "a@remote.test");
            taken(&host, before + count);
        }
        let of_this: Vec<bool> = host.taken()[before..].iter().map(|mail| mail.resumed).collect();
        assert_eq!(of_this, [false, resumed]);
        // What came out is counted, and written at the latest at the end.
        engine.signal(rustix::process::Signal::TERM).expect("a process");
        assert!(engine.wait(PATIENCE).is_some_and(|status| status.success()));
        let kind = if resumed { "sts" } else { "tlsa" };
        let counted = format!(
            "\"domain\":\"remote.test\",\"policy\":\"{kind}\",\"result\":\"success\",\"count\":2}}"
        );
        until("a line", || engine.log().contains(&counted));
    }
}

#[test]
fn dane_goes_before_a_policy() {
    let authority = Authority::new("one");
    let secured = authority.server(&["other.test"], 2002);
    let host = mail(Manners { tls: Some(secured.clone()), ..Manners::default() });
    let port = host.address().port();
    // The policy alone would let nothing through.
    let web = web(
        &authority.server(&["mta-sts.remote.test"], 2100),
        Arc::new(Mutex::new(policy("enforce", "mx.test"))),
    );
    let record = tlsa(port, [3, 1, 1], &tlsa_of(&secured.public_key));
    let all = [&announced("1")[..], &[record]].concat();
    let names = Names::knowing(records(&all), true).expect("names");
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&with_sts(&folder, &authority, (&names, port), &web));
    submit(&engine, "a@remote.test");
    assert!(taken(&host, 1)[0].encrypted);
}
