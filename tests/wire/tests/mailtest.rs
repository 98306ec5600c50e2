//! `fsmtp-engine mailtest` as scripts run it: against good servers, bad ones and none.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use wire_tests::{DEMO, Engine, Habit, Names, Options, Remote, base64, engine};

/// A folder for data and a configuration.
struct Place {
    folder: tempfile::TempDir,
}

/// What a command came to.
struct Ran {
    status: Option<i32>,
    out: String,
    errors: String,
}

impl Place {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("c.toml"), config).expect("a file");
        Self { folder }
    }

    /// Sends to loopback only, by these routes.
    fn dev(routes: &[(&str, SocketAddr)]) -> Self {
        let line = |(domain, to): &(&str, SocketAddr)| format!("\"{domain}\" = \"{to}\"\n");
        Self::new(&format!("[dev.routes]\n{}", routes.iter().map(line).collect::<String>()))
    }

    /// Sends by MX records of `names`, to hosts on one port.
    fn mx(names: &Names, port: u16) -> Self {
        let (servers, node) = (names.address(), "[server]\nnode = \"us.test\"\n");
        Self::new(&format!(
            "{node}[resolver]\nservers = [\"{servers}\"]\n[queue]\nmx_port = {port}\n"
        ))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    fn run(&self, args: &[&str], input: &str) -> Ran {
        let data = self.data().display().to_string();
        let config = self.folder.path().join("c.toml").display().to_string();
        let all = [args, &["--data", &data, "--config", &config]].concat();
        let output = engine::run(&all, input).expect("a command");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran { status: output.status.code(), out: text(output.stdout), errors: text(output.stderr) }
    }

    /// `mailtest` with `--dev`.
    fn test(&self, args: &[&str]) -> Ran {
        self.run(&[&["mailtest", "--dev", "--timeout", "20"], args].concat(), "")
    }
}

const FROM: [&str; 2] = ["--from", "me@sender.test"];

/// The states and names of the steps, in order.
fn steps(out: &str) -> Vec<(&str, &str)> {
    let step = |line| {
        let mut words = str::split_whitespace(line);
        (words.next().unwrap_or(""), words.next().unwrap_or(""))
    };
    out.lines().map(step).collect()
}

/// A field of the header with its name, unfolded.
fn field(message: &str, name: &str) -> Option<String> {
    let (header, _) = message.split_once("\r\n\r\n")?;
    let header = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut lines = header.rsplit("\r\n");
    let found = lines.find(|line| {
        line.split_once(':').is_some_and(|(other, _)| other.eq_ignore_ascii_case(name))
    });
    found.map(str::to_owned)
}

/// RFC 6376 §3.4.2, for fields without anything odd.
fn relaxed(field: &str) -> String {
    let (name, value) = field.split_once(':').expect("a field");
    let value: Vec<&str> = value.split_whitespace().collect();
    format!("{}:{}\r\n", name.to_ascii_lowercase(), value.join(" "))
}

/// Checks a signature by Ed25519 with relaxed forms, as a receiver would.
fn verify(message: &str, key: &[u8]) {
    let field_of_it = field(message, "DKIM-Signature").expect("a signature");
    let tags = field_of_it.split_once(':').expect("a value").1.replace(char::is_whitespace, "");
    let tag = |name: &str| {
        let found = tags.split(';').find_map(|tag| tag.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("no {name} in {tags}"))
    };
    assert_eq!((tag("a"), tag("c")), ("ed25519-sha256", "relaxed/relaxed"));
    let (_, body) = message.split_once("\r\n\r\n").expect("a body");
    let line = |line: &str| {
        let words: String = line.split_inclusive([' ', '\t']).collect();
        let mut out = String::new();
        for c in words.trim_end_matches([' ', '\t']).chars() {
            match c {
                ' ' | '\t' if out.ends_with(' ') => {}
                '\t' => out.push(' '),
                c => out.push(c),
            }
        }
        out
    };
    let lines: Vec<String> = body.split("\r\n").map(line).collect();
    let body = format!("{}\r\n", lines.join("\r\n").trim_end_matches("\r\n"));
    assert_eq!(base64::encode(digest(&SHA256, body.as_bytes()).as_ref()), tag("bh"));
    let mut signed = String::new();
    let mut seen = Vec::new();
    for name in tag("h").split(':') {
        // A name that stands there once more than the field does is signed as none.
        if !seen.contains(&name)
            && let Some(field) = field(message, name)
        {
            signed += &relaxed(&field);
        }
        seen.push(name);
    }
    let own = relaxed(&field_of_it);
    let (front, _) = own.split_at(own.rfind("b=").expect("b=") + 2);
    signed += front;
    let hash = digest(&SHA256, signed.as_bytes());
    let signature = base64::decode(tag("b")).expect("base64");
    UnparsedPublicKey::new(&ED25519, key).verify(hash.as_ref(), &signature).expect("valid");
}

/// Makes a key for a domain; the public half.
fn key(place: &Place, domain: &str) -> Vec<u8> {
    let args = ["dkim", "create", domain, "--selector", "s1", "--algorithm", "ed25519"];
    let made = place.run(&args, "");
    assert_eq!(made.status, Some(0), "{}", made.errors);
    let value = made.out.lines().find_map(|line| line.strip_prefix("value  ")).expect("a value");
    base64::decode(value.rsplit_once("p=").expect("a key").1).expect("base64")
}

#[test]
fn a_message_is_composed_signed_and_delivered() {
    for habit in [Habit::Good, Habit::Modern, Habit::Old] {
        let remote = Remote::start(habit).expect("a remote");
        let place = Place::dev(&[("remote.test", remote.address())]);
        let key = key(&place, "sender.test");
        let html = place.file("page.html", "<p>Hello &amp; goodbye</p>\n");
        let attached = place.file("notes.txt", &"what was said\n".repeat(15_000));
        let args = ["--to", "a@remote.test", "--to", "b@Remote.test", "--subject", "Grüße"];
        let files = ["--html", &html, "--attach", &attached];
        let ran = place.test(&[&FROM[..], &args, &files].concat());
        assert_eq!((ran.status, ran.errors.as_str()), (Some(0), ""), "{}", ran.out);
        let [taken] = &remote.taken()[..] else { panic!("one message") };
        assert!(taken.from.starts_with("<me@sender.test>"), "{}", taken.from);
        assert_eq!(taken.to.len(), 2);
        let message = String::from_utf8(taken.message.clone()).expect("text");
        verify(&message, &key);
        for part in ["From: <me@sender.test>", "=?utf-8?", "notes.txt", "Hello &amp; goodbye"] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        let steps = steps(&ran.out);
        let begin = ["compose", "sign", "resolve", "connect", "greeting", "EHLO"];
        let names: Vec<&str> = steps.iter().map(|(_, name)| *name).collect();
        assert_eq!(names[..6], begin, "{}", ran.out);
        let end = ["message", "result", "result"];
        assert_eq!(names[names.len() - 3..], end, "{}", ran.out);
        for name in ["TLS", "MAIL", "RCPT"] {
            assert!(names.contains(&name), "{}", ran.out);
        }
        let address = remote.address().to_string();
        for part in ["by s1 of sender.test", &address, "b@Remote.test: 250 2.1.5 ok", "2.6.0 taken"]
        {
            assert!(ran.out.contains(part), "{part} is not in {}", ran.out);
        }
        assert!(!ran.out.contains("FAIL") && !ran.out.contains('\x1b'), "{}", ran.out);
    }
}

#[test]
fn the_default_message_needs_a_recipient_only() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let place = Place::dev(&[("remote.test", remote.address())]);
    let ran = place.test(&["--type", "d", "--to", "a@remote.test", "--json"]);
    assert_eq!((ran.status, ran.errors.as_str()), (Some(0), ""), "{}", ran.out);
    let [taken] = &remote.taken()[..] else { panic!("one message") };
    let message = String::from_utf8_lossy(&taken.message).into_owned();
    assert!(taken.from.starts_with("<postmaster@example.test>"), "{}", taken.from);
    assert!(message.contains("Roses are red.") && message.contains("text/plain"), "{message}");
    for part in
        ["\"delivered\": true", "\"step\": \"connect\"", "\"state\": \"note\"", "\"code\": 250"]
    {
        assert!(ran.out.contains(part), "{part} is not in {}", ran.out);
    }
    assert!(!place.data().exists(), "it touches no data");
    // The dialogue of the original, from a pipe, by its flag and by the command.
    for command in ["-mailtest", "-m", "mailtest"] {
        let ran = place.run(&[command, "--dev"], "c\nHello\nme@sender.test\nb@remote.test\n");
        assert_eq!(ran.status, Some(0), "{}", ran.errors);
        let asked = "Enter type [c: custom, d: default]: Enter subject: Enter from: Enter to: ";
        assert_eq!(ran.errors, asked);
    }
    assert_eq!(remote.taken().len(), 4);
}

#[test]
fn a_refusal_is_told_in_the_words_of_the_host() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let place = Place::dev(&[("remote.test", remote.address())]);
    let to = ["--to", "no@remote.test", "--to", "later@remote.test", "--to", "yes@remote.test"];
    let ran = place.test(&[&FROM[..], &to].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    assert_eq!(remote.taken().len(), 1, "who is accepted gets it");
    assert_eq!(
        ran.errors,
        "fsmtp-engine: no@remote.test: not delivered, for good: \
         550 5.1.1 <no@remote.test> is not known & never was\n\
         fsmtp-engine: later@remote.test: not delivered, for now: 451 4.2.0 not now\n"
    );
    let results = steps(&ran.out).into_iter().filter(|(_, name)| *name == "result");
    assert_eq!(results.map(|(state, _)| state).collect::<Vec<_>>(), ["FAIL", "FAIL", "ok"]);
    let ran = place.test(&[&FROM[..], &to[..2], &["--json"]].concat());
    assert_eq!((ran.status, ran.errors.as_str()), (Some(1), ""));
    assert!(ran.out.contains("\"delivered\": false"), "{}", ran.out);
    assert!(ran.out.contains("\"failure\": \"no@remote.test: not delivered"), "{}", ran.out);
}

#[test]
fn hosts_that_do_not_work_are_named_with_the_reason() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let silent = listener.local_addr().expect("an address");
    for (habit, reason) in [
        (Habit::Unwelcoming, "554 5.7.1 not you"),
        (Habit::Garbage, "a reply line does not begin with a code"),
        (Habit::Endless, "a reply has too many lines"),
        (Habit::Drops("MAIL"), "the connection was closed"),
        (Habit::Drops("END"), "the connection was closed"),
        (Habit::Odd, "a reply line does not begin with a code"),
    ] {
        let remote = Remote::start(habit).expect("a remote");
        let place = Place::dev(&[("remote.test", remote.address())]);
        let ran = place.test(&[&FROM[..], &["--to", "a@remote.test"]].concat());
        assert_eq!(ran.status, Some(1), "{habit:?}: {}", ran.out);
        assert!(ran.errors.contains("not delivered, for now: "), "{habit:?}: {}", ran.errors);
        assert!(ran.errors.contains(reason), "{habit:?}: {}", ran.errors);
        assert!(ran.errors.contains(&remote.address().to_string()), "{habit:?}: {}", ran.errors);
    }
    let place = Place::dev(&[("remote.test", silent)]);
    let to = ["--to", "a@remote.test", "--timeout", "1"];
    let ran = place.run(&[&["mailtest", "--dev"], &FROM[..], &to].concat(), "");
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    let reason = format!("for now: {silent}: no answer in time");
    assert!(ran.errors.contains(&reason), "{}", ran.errors);
    drop(listener);
    let ran = place.test(&[&FROM[..], &["--to", "a@remote.test"]].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    let reason = format!("cannot connect to {silent}: Connection refused");
    assert!(ran.errors.contains(&reason), "{}", ran.errors);
    assert_eq!(steps(&ran.out)[3], ("FAIL", "connect"), "{}", ran.out);
}

#[test]
fn words_of_a_host_do_not_paint_the_terminal() {
    let remote = Remote::start(Habit::Painting).expect("a remote");
    let place = Place::dev(&[("remote.test", remote.address())]);
    for more in [&[][..], &["--json"]] {
        let ran = place.test(&[&FROM[..], &["--to", "a@remote.test"], more].concat());
        assert_eq!(ran.status, Some(1), "{}", ran.out);
        for text in [&ran.out, &ran.errors] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
        assert!(ran.out.contains("u{1b}[2Jpainted"), "{}", ran.out);
    }
}

#[test]
fn tls_is_shown_and_when_it_breaks_the_message_goes_in_clear() {
    let engine = Engine::with(Options::default()).expect("an engine");
    let place = Place::new("");
    let server = engine.smtp_address().to_string();
    let ran = place.test(&[&FROM[..], &["--to", DEMO, "--server", &server]].concat());
    assert_eq!((ran.status, ran.errors.as_str()), (Some(0), ""), "{}", ran.out);
    assert!(ran.out.contains("TLS1.3, TLS13_AES_"), "{}", ran.out);
    assert!(ran.out.contains("certificate not verified"), "{}", ran.out);
    let hellos = steps(&ran.out).iter().filter(|(_, name)| *name == "EHLO").count();
    assert_eq!(hellos, 2, "{}", ran.out);
    // An address that is nobody's there.
    let ran = place.test(&[&FROM[..], &["--to", "x@example.test", "--server", &server]].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    assert!(ran.errors.contains("for good: 55"), "{}", ran.errors);
    for habit in [Habit::FalseTls, Habit::NoTls] {
        let remote = Remote::start(habit).expect("a remote");
        let server = remote.address().to_string();
        let ran =
            place.test(&[&FROM[..], &["--to", "a@remote.test", "--server", &server]].concat());
        assert_eq!(ran.status, Some(0), "{habit:?}: {}{}", ran.out, ran.errors);
        assert!(ran.out.contains("none: the message goes in clear"), "{}", ran.out);
        assert_eq!(remote.taken().len(), 1, "{habit:?}");
    }
}

#[test]
fn a_message_that_is_too_large_is_not_begun() {
    let config = "[smtp]\nsize_max = 65536\n".to_owned();
    let options = Options { config: Some(config), ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    let place = Place::new("");
    let large = place.file("large.bin", &"x".repeat(70_000));
    let server = engine.smtp_address().to_string();
    let args = ["--to", DEMO, "--server", &server, "--attach", &large];
    let ran = place.test(&[&FROM[..], &args].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    let reason = "for good: the message is larger than the server takes";
    assert!(ran.errors.contains(reason), "{}", ran.errors);
    assert!(!steps(&ran.out).contains(&("ok", "MAIL")), "{}", ran.out);
}

#[test]
fn mx_records_lead_the_way() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let names = Names::start(
        &[
            ("one.test", 10, "dead.test"),
            ("one.test", 20, "mx.test"),
            ("null.test", 0, ""),
            ("empty.test", 10, "gone.test"),
        ],
        &[
            ("dead.test", Ipv4Addr::new(127, 0, 0, 9)),
            ("mx.test", Ipv4Addr::LOCALHOST),
            ("itself.test", Ipv4Addr::LOCALHOST),
        ],
    )
    .expect("names");
    let port = remote.address().port();
    let place = Place::mx(&names, port);
    let test = |to: &str| {
        place.run(&[&["mailtest", "--timeout", "20", "--to", to], &FROM[..]].concat(), "")
    };
    let ran = test("a@one.test");
    assert_eq!(ran.status, Some(0), "{}{}", ran.out, ran.errors);
    for part in [
        &format!("one.test: dead.test:{port}, mx.test:{port} (by MX)"),
        "dead.test: 127.0.0.9",
        &format!("127.0.0.1:{port} (mx.test)"),
    ] {
        assert!(ran.out.contains(part), "{part} is not in {}", ran.out);
    }
    assert!(steps(&ran.out).contains(&("FAIL", "connect")), "{}", ran.out);
    let ran = test("a@itself.test");
    assert_eq!(ran.status, Some(0), "{}{}", ran.out, ran.errors);
    assert!(ran.out.contains("(itself, for it has no MX)"), "{}", ran.out);
    assert_eq!(remote.taken().len(), 2);
    for (to, reason) in [
        ("a@null.test", "for good: 5.1.10 null.test takes no mail"),
        ("a@unknown.test", "for good: 5.1.2 unknown.test: there is no such name"),
        ("a@empty.test", "for good: 5.1.2 gone.test: there is no such name"),
    ] {
        let ran = test(to);
        assert_eq!(ran.status, Some(1), "{to}: {}", ran.out);
        assert!(ran.errors.contains(reason), "{to}: {}", ran.errors);
        assert!(steps(&ran.out).contains(&("FAIL", "resolve")), "{to}: {}", ran.out);
    }
    drop(names);
    let ran = test("a@two.test");
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    assert!(ran.errors.contains("not delivered, for now: two.test: "), "{}", ran.errors);
    assert_eq!(remote.connections_count(), 2, "nothing goes where nothing is known");
}

#[test]
fn wrong_usage_is_status_two_and_sends_nothing() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let place = Place::dev(&[("remote.test", remote.address())]);
    let to = ["--to", "a@remote.test"];
    for (args, reason) in [
        (&[&FROM[..], &["--to", "nobody"]].concat()[..], "--to: `nobody`: the address"),
        (&[&to[..], &["--from", "x@"]].concat(), "--from: `x@`: the address"),
        (&to, "missing: --from, with an address"),
        (&["--type", "d"], "missing: --to, with an address"),
        (&["--subject", "x"], "missing: --from and --to, with an address"),
        (&["--type", "e"], "invalid value 'e'"),
        (
            &[&FROM[..], &to, &["--subject", "a\nBcc: b@c.test"]].concat(),
            "subject: holds a line end",
        ),
        (&[&FROM[..], &to, &["--server", "192.0.2.1:25"]].concat(), "leads to another host"),
        (&[], "missing: --type; standard input has ended"),
    ] {
        let ran = place.test(args);
        assert_eq!(ran.status, Some(2), "{args:?}: {}{}", ran.out, ran.errors);
        assert!(ran.errors.contains(reason), "{args:?}: {}", ran.errors);
        assert_eq!(ran.out, "", "{args:?}");
    }
    let ran = place.run(&["mailtest", "--dev"], "c\nx\nnobody\nme@sender.test\na@remote.test\n");
    assert_eq!(ran.status, Some(2), "{}", ran.errors);
    // With --dev nothing leaves this machine.
    let ran = place.test(&[&FROM[..], &["--to", "a@elsewhere.test"]].concat());
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    assert!(ran.errors.contains("this node sends nothing there"), "{}", ran.errors);
    assert_eq!(remote.connections_count(), 0);
}

#[test]
fn keys_that_cannot_be_used_stop_it_unless_they_need_not() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let place = Place::dev(&[("remote.test", remote.address())]);
    key(&place, "sender.test");
    let file = place.data().join("keys/dkim/sender.test/s1.pem");
    std::fs::write(&file, "no key").expect("written");
    let to = [&FROM[..], &["--to", "a@remote.test"]].concat();
    let ran = place.test(&to);
    assert_eq!((ran.status, remote.connections_count()), (Some(1), 0), "{}", ran.out);
    assert!(ran.errors.contains("s1.pem: ") && ran.errors.contains("--no-sign"), "{}", ran.errors);
    assert_eq!(steps(&ran.out), [("ok", "compose"), ("FAIL", "sign")]);
    let ran = place.test(&[&to[..], &["--no-sign"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.errors);
    let message = String::from_utf8_lossy(&remote.taken()[0].message).into_owned();
    assert!(!message.contains("DKIM-Signature"), "{message}");
}
