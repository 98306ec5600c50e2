//! Mail that travels on: to one server or many, good ones and bad ones, now or after a restart.
//! Every message ends delivered or reported, exactly once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wire_tests::{
    DEMO, DEMO_PASSWORD, Engine, Habit, Names, Options, PATIENCE, Remote, Smtp, base64,
};

/// An engine that tries again each second, and gives up after `expiry`.
fn engine(routes: &[(&str, SocketAddr)], expiry: &str) -> Engine {
    let mut config = "[dev.routes]\n".to_owned();
    for (domain, address) in routes {
        config += &format!("\"{domain}\" = \"{address}\"\n");
    }
    config += &format!("[queue]\nretry = \"1s\"\nexpiry = \"{expiry}\"\n");
    Engine::with(Options { config: Some(config), ..Options::default() }).expect("an engine")
}

/// A session of the demo account where mail is submitted.
fn signed_in(engine: &Engine) -> Smtp {
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
    let reply = smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH");
    assert_eq!(reply.code, 235, "{reply:?}");
    smtp
}

/// Sends as the demo account; the message's name.
fn submit(engine: &Engine, to: &[&str], message: &[u8]) -> String {
    let reply = signed_in(engine).mail(DEMO, to, message).expect("a reply");
    reply.queue_id().unwrap_or_else(|| panic!("{reply:?}")).to_owned()
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn queue(engine: &Engine, arguments: &[&str]) -> String {
    let output = engine.beside(&[&["queue"], arguments].concat(), "").expect("a command");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn is_empty(engine: &Engine) -> bool {
    queue(engine, &["list"]) == "nothing waits\n"
}

/// The messages of the demo account.
fn maildrop(engine: &Engine) -> Vec<String> {
    let mut pop = engine.pop().expect("POP3");
    let (count, _) = pop.stat().expect("STAT");
    let message = |n| pop.message(n).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let messages = (1..=count).map(message).collect::<Result<_, _>>().expect("RETR");
    pop.quit().expect("QUIT");
    messages
}

/// Waits for this many messages; there must never be more.
fn arrived(engine: &Engine, count: usize) -> Vec<String> {
    until("the messages", || maildrop(engine).len() >= count);
    let messages = maildrop(engine);
    assert_eq!(messages.len(), count, "{messages:#?}");
    messages
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\n.dot\r\n..two\r\nend\r\n";

#[test]
fn a_message_goes_to_each_domain_once_and_to_mailboxes_here() {
    for (one, other) in [(Habit::Good, Habit::Modern), (Habit::Old, Habit::Good)] {
        let (one, other) = (Remote::start(one).expect("one"), Remote::start(other).expect("two"));
        let engine = engine(&[("one.test", one.address()), (".other.test", other.address())], "1h");
        let to =
            ["a@one.test", DEMO, "x@deep.other.test", "b@ONE.test", "A@one.test", "a@One.test"];
        let id = submit(&engine, &to, MESSAGE);
        until("the mail", || one.taken().len() == 1 && other.taken().len() == 1);
        until("an empty queue", || is_empty(&engine));
        let [taken] = &one.taken()[..] else { panic!("more than once") };
        assert!(taken.from.starts_with(&format!("<{DEMO}>")), "{}", taken.from);
        let plain = |to: &String| to.split(' ').next().map(str::to_owned);
        let to: Vec<String> = taken.to.iter().filter_map(plain).collect();
        assert_eq!(to, ["<a@one.test>", "<b@ONE.test>", "<A@one.test>"]);
        for taken in [taken, &other.taken()[0]] {
            let text = String::from_utf8_lossy(&taken.message);
            assert!(text.starts_with("Received: from "), "no Return-Path leaves: {text}");
            assert!(text.contains(&id), "{text}");
            assert!(taken.message.ends_with(MESSAGE), "{text}");
        }
        let [here] = &arrived(&engine, 1)[..] else { panic!() };
        assert!(here.starts_with(&format!("Return-Path: <{DEMO}>")));
    }
}

#[test]
fn a_refusal_for_good_is_reported_once_and_the_others_get_their_mail() {
    let remote = Remote::start(Habit::Modern).expect("a remote");
    let engine = engine(&[("remote.test", remote.address())], "1h");
    submit(&engine, &["no@remote.test", "yes@remote.test"], MESSAGE);
    let [report] = &arrived(&engine, 1)[..] else { panic!() };
    until("an empty queue", || is_empty(&engine));
    assert_eq!(remote.taken().len(), 1);
    assert!(report.starts_with("Return-Path: <>\r\n"), "{report}");
    for part in [
        "multipart/report",
        "report-type=",
        "Auto-Submitted: auto-replied",
        "message/delivery-status",
        "Final-Recipient: rfc822; no@remote.test",
        "Action: failed",
        "Status: 5.1.1",
        "550 5.1.1 <no@remote.test> is not known & never was",
        "Subject: hello",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert!(!report.contains("yes@remote.test"), "{report}");
}

/// One transaction of whoever is at the other end of `smtp`, with parameters.
fn ask(smtp: &mut Smtp, mail: &str, to: &[&str]) {
    let rcpts = to.iter().map(|to| format!("RCPT TO:{to}"));
    for line in core::iter::once(format!("MAIL FROM:{mail}")).chain(rcpts) {
        let reply = smtp.command(&line).expect("a reply");
        assert_eq!(reply.code, 250, "{line}: {reply:?}");
    }
    assert_eq!(smtp.command("DATA").expect("a reply").code, 354);
    smtp.send(b"Subject: hello\r\n\r\nsecret\r\n.\r\n").expect("sent");
    assert_eq!(smtp.reply().expect("a reply").code, 250);
}

#[test]
fn who_asks_hears_that_his_message_lies_in_a_mailbox_here() {
    let remote = Remote::start(Habit::Modern).expect("a remote");
    let engine = engine(&[("remote.test", remote.address())], "1h");
    // Somebody elsewhere; the recipient stands there twice and is one.
    let mut smtp = engine.smtp().expect("SMTP");
    let to = format!("<{DEMO}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old+2Bname@remote.test");
    ask(&mut smtp, "<a@remote.test> RET=FULL ENVID=QQ1", &[&to, &to]);
    until("the report", || remote.taken().len() == 1);
    let report = remote.taken().remove(0);
    assert!(report.from.starts_with("<>"), "{}", report.from);
    let report = String::from_utf8_lossy(&report.message).into_owned();
    for part in [
        "Original-Envelope-Id: QQ1\r\n",
        "Original-Recipient: rfc822; old+name@remote.test\r\n",
        &format!("Final-Recipient: rfc822; {DEMO}\r\n"),
        "Action: delivered\r\nStatus: 2.0.0\r\n",
        "Subject: hello\r\n",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert_eq!(report.matches("Final-Recipient").count(), 1);
    assert!(!report.contains("secret"), "RET is about failures: {report}");
    // Somebody here, who hears of his own mailbox from it and of the other from us.
    let to = [&format!("<{DEMO}> NOTIFY=SUCCESS")[..], "<b@remote.test>"];
    ask(&mut signed_in(&engine), &format!("<{DEMO}>"), &to);
    until("the mail", || remote.taken().len() == 2);
    let found = arrived(&engine, 3);
    let reports = found.iter().filter(|text| text.starts_with("Return-Path: <>\r\n"));
    let [report] = &reports.collect::<Vec<_>>()[..] else { panic!("{found:#?}") };
    assert!(report.contains("Action: delivered\r\n") && !report.contains("b@remote.test"));
    // Nobody: the null path, and whoever has not asked.
    ask(&mut smtp, "<>", &[&format!("<{DEMO}> NOTIFY=SUCCESS")]);
    ask(&mut smtp, "<a@remote.test>", &[&format!("<{DEMO}> NOTIFY=FAILURE")]);
    ask(&mut smtp, "<a@remote.test>", &[&format!("<{DEMO}> NOTIFY=NEVER")]);
    ask(&mut smtp, "<a@remote.test>", &[&format!("<{DEMO}>")]);
    // A report is stored before the message is answered, so there is none now.
    arrived(&engine, 7);
    until("an empty queue", || is_empty(&engine));
    assert_eq!(remote.taken().len(), 2);
    let sent = engine.log().matches("\"event\":\"report-sent\"").count();
    assert!(sent <= 2, "{}", engine.log());
}

#[test]
fn what_is_refused_for_now_is_tried_again_until_it_is_taken() {
    for habit in [Habit::Greylisting, Habit::DropsAtFirst("END", 2), Habit::DropsAtFirst("RCPT", 1)]
    {
        let remote = Remote::start(habit).expect("a remote");
        let engine = engine(&[("remote.test", remote.address())], "1h");
        submit(&engine, &["a@remote.test"], MESSAGE);
        until("the mail", || !remote.taken().is_empty());
        until("an empty queue", || is_empty(&engine));
        assert_eq!(remote.taken().len(), 1, "{habit:?}");
        assert_eq!(maildrop(&engine).len(), 0, "{habit:?}: nothing was to be reported");
    }
}

#[test]
fn a_bad_server_costs_one_report_when_the_message_expires() {
    let habits = [
        Habit::Endless,
        Habit::Garbage,
        Habit::Unwelcoming,
        Habit::Odd,
        Habit::Drops("EHLO"),
        Habit::Drops("MAIL"),
        Habit::Drops("RCPT"),
        Habit::Drops("DATA"),
        Habit::Drops("END"),
    ];
    let remotes: Vec<Remote> =
        habits.iter().map(|habit| Remote::start(*habit).expect("a remote")).collect();
    let names: Vec<String> = (0..=habits.len()).map(|n| format!("d{n}.test")).collect();
    let addresses = remotes.iter().map(Remote::address).chain([nobody()]);
    let routes: Vec<(&str, SocketAddr)> = names.iter().map(String::as_str).zip(addresses).collect();
    let engine = engine(&routes, "3s");
    let to: Vec<String> = names.iter().map(|name| format!("a@{name}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    submit(&engine, &to, MESSAGE);
    let reports = arrived(&engine, to.len());
    until("an empty queue", || is_empty(&engine));
    for to in to {
        let about: Vec<&String> = reports.iter().filter(|report| report.contains(to)).collect();
        assert_eq!(about.len(), 1, "{to} is reported once");
        assert!(about[0].contains("Status: 5.4.7"), "{}", about[0]);
    }
    assert_eq!(arrived(&engine, habits.len() + 1).len(), habits.len() + 1);
}

#[test]
fn a_restart_loses_nothing_and_sends_nothing_twice() {
    let address = nobody();
    let remote = Remote::start(Habit::Good).expect("a remote");
    let routes = [("away.test", address), ("remote.test", remote.address())];
    let mut engine = engine(&routes, "1h");
    let ids: Vec<String> =
        (0..20).map(|_| submit(&engine, &["a@away.test", "b@remote.test"], MESSAGE)).collect();
    until("the mail", || remote.taken().len() == ids.len());
    until("an attempt at each", || queue(&engine, &["list"]).matches("unreachable").count() >= 21);
    // Returns when the index knows all that has happened: behind that nothing is in doubt.
    queue(&engine, &["hold", "--all"]);
    engine.kill();
    let away = Remote::at(address, Habit::Good).expect("back again");
    let engine = engine.again().expect("a start");
    queue(&engine, &["release", "--all"]);
    until("the mail", || away.taken().len() >= ids.len());
    until("an empty queue", || is_empty(&engine));
    let mut found: Vec<String> = Vec::new();
    for taken in away.taken() {
        let text = String::from_utf8_lossy(&taken.message).into_owned();
        found.extend(ids.iter().find(|id| text.contains(*id)).cloned());
    }
    found.sort();
    assert_eq!(found, ids, "each once");
    assert_eq!(remote.taken().len(), ids.len(), "what was done is not done again");
}

#[test]
fn what_nobody_had_tried_yet_is_sent_after_a_kill() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let mut engine = engine(&[("remote.test", remote.address())], "1h");
    let mut smtp = signed_in(&engine);
    for _ in 0..5 {
        assert_eq!(smtp.mail(DEMO, &["a@remote.test"], MESSAGE).expect("a reply").code, 250);
    }
    engine.kill();
    let sent = remote.taken().len();
    // What is done to the rest meanwhile must not change whom it is for.
    queue(&engine, &["retry", "--all"]);
    queue(&engine, &["hold", "--all"]);
    queue(&engine, &["release", "--all"]);
    let engine = engine.again().expect("a start");
    until("an empty queue", || is_empty(&engine));
    assert!(maildrop(&engine).is_empty(), "nothing was to be reported");
    let all = remote.taken().len();
    assert!((5..=5 + sent).contains(&all), "{all}, {sent} of them before the end");
}

#[test]
fn an_operator_sees_holds_releases_and_removes() {
    let address = nobody();
    let engine = engine(&[("remote.test", address)], "1h");
    let [first, second] = [(); 2].map(|()| submit(&engine, &["a@remote.test"], MESSAGE));
    until("two attempts", || queue(&engine, &["list"]).ends_with("2 in all: 2 unreachable\n"));
    assert_eq!(queue(&engine, &["hold", &first, &second]), "2 messages held\n");
    let list = queue(&engine, &["list"]);
    assert!(list.ends_with("2 in all: 2 held\n"), "{list}");
    let shown = queue(&engine, &["show", &first]);
    assert!(shown.contains("why not now held") && shown.contains("Connection refused"), "{shown}");
    assert_eq!(queue(&engine, &["remove", &second]), "1 message removed\n");
    let remote = Remote::at(address, Habit::Good).expect("a remote");
    assert_eq!(queue(&engine, &["release", "--all"]), "1 message released\n");
    // It may have been due by itself, and be gone.
    engine.beside(&["queue", "retry", &first], "").expect("a command");
    until("the mail", || remote.taken().len() == 1);
    until("an empty queue", || is_empty(&engine));
    let json = queue(&engine, &["list", "--json"]);
    assert!(json.contains("\"entries\": []"), "{json}");
    for wrong in [&["show", &first][..], &["hold", &first], &["retry", "nonsense"]] {
        let output = engine.beside(&[&["queue"], wrong].concat(), "").expect("a command");
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
    }
    let output = engine.beside(&["queue", "hold"], "").expect("a command");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_queue_can_be_seen_and_changed_while_nothing_runs() {
    let mut engine = engine(&[("remote.test", nobody())], "1h");
    let [first, second] = [(); 2].map(|()| submit(&engine, &["a@remote.test"], MESSAGE));
    until("two attempts", || queue(&engine, &["list"]).ends_with("2 in all: 2 unreachable\n"));
    // A kill could leave the last of it in the log alone, which a start reads.
    engine.signal(Signal::TERM).expect("a signal");
    engine.wait(PATIENCE).expect("an end");
    let list = queue(&engine, &["list"]);
    assert!(list.contains(&first) && list.contains(&second), "{list}");
    assert_eq!(queue(&engine, &["remove", &first]), "1 message removed\n");
    assert_eq!(queue(&engine, &["hold", &second]), "1 message held\n");
    let engine = engine.again().expect("a start");
    let list = queue(&engine, &["list"]);
    assert!(!list.contains(&first) && list.ends_with("1 in all: 1 held\n"), "{list}");
}

#[test]
fn users_send_as_themselves_only_and_strangers_not_at_all() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let engine = engine(&[("remote.test", remote.address())], "1h");
    let mut smtp = signed_in(&engine);
    for from in ["other@example.test", "demo@elsewhere.test", "nobody"] {
        let reply = smtp.command(&format!("MAIL FROM:<{from}>")).expect("a reply");
        assert_ne!(reply.code, 250, "{from}");
    }
    assert!(smtp.command("MAIL FROM:<other@example.test>").expect("a reply").is(553, "5.7.1"));
    // A tag leads to the same mailbox.
    assert_eq!(smtp.command("MAIL FROM:<demo+tag@example.test>").expect("a reply").code, 250);
    for to in ["a@nowhere.test", "a@[127.0.0.1]"] {
        assert!(
            smtp.command(&format!("RCPT TO:<{to}>")).expect("a reply").is(550, "5.7.1"),
            "{to}"
        );
    }
    let mut stranger = engine.smtp().expect("SMTP");
    assert_eq!(stranger.command("MAIL FROM:<a@remote.test>").expect("a reply").code, 250);
    let reply = stranger.command("RCPT TO:<b@remote.test>").expect("a reply");
    assert!(reply.is(550, "5.7.1"), "{reply:?}");
}

#[test]
fn a_large_message_is_the_same_on_the_other_side() {
    for habit in [Habit::Good, Habit::Modern] {
        let remote = Remote::start(habit).expect("a remote");
        let engine = engine(&[("remote.test", remote.address())], "1h");
        let mut message = b"Subject: large\r\n\r\n".to_vec();
        for n in 0..30_000 {
            message.extend(format!("{}line {n}\r\n", if n % 7 == 0 { "." } else { "" }).bytes());
        }
        submit(&engine, &["a@remote.test"], &message);
        until("the mail", || remote.taken().len() == 1);
        assert!(remote.taken()[0].message.ends_with(&message), "{habit:?}");
    }
}

#[test]
fn what_a_user_submits_is_mended_and_signed() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let engine = engine(&[("remote.test", remote.address())], "1h");
    let made = engine.beside(&["dkim", "create", "example.test"], "").expect("a command");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    engine.signal(Signal::HUP).expect("a signal");
    let message =
        b"Subject: hello\r\nBcc: secret@remote.test\r\nX-Fannst-Auth: su=pass\r\n\r\nbody\r\n";
    let signed = |taken: &wire_tests::Taken| {
        String::from_utf8_lossy(&taken.message).contains("DKIM-Signature: ")
    };
    // The keys are read in their own time.
    until("a signed message", || {
        submit(&engine, &["a@remote.test"], message);
        until("the mail", || is_empty(&engine));
        remote.taken().iter().any(signed)
    });
    let taken = remote.taken();
    let text = String::from_utf8_lossy(&taken.iter().find(|taken| signed(taken)).unwrap().message)
        .into_owned();
    for field in [
        "\r\nDate: ",
        "\r\nMessage-ID: <",
        "\r\nFrom: demo@example.test\r\n",
        "a=rsa-sha256",
        "a=ed25519-sha256",
    ] {
        assert!(text.contains(field), "{field} is not in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("su=pass"), "{text}");
    let mut smtp = signed_in(&engine);
    let other = b"From: Other <other@example.test>\r\n\r\nbody\r\n";
    assert!(smtp.mail(DEMO, &["a@remote.test"], other).expect("a reply").is(550, "5.7.1"));
    let two = b"From: demo@example.test\r\nFrom: demo@example.test\r\n\r\nbody\r\n";
    assert!(smtp.mail(DEMO, &["a@remote.test"], two).expect("a reply").is(550, "5.6.0"));
    assert!(smtp.mail(DEMO, &["a@remote.test"], b"").expect("a reply").is(250, "2.6.0"));
}

/// An engine as operators run it, which goes by MX records.
fn by_mx(names: &Names, port: u16) -> Engine {
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"example.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"pop3\"\naddress = \"127.0.0.1:{{pop3}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
         [resolver]\nservers = [\"{}\"]\n\
         [queue]\nretry = \"1s\"\nexpiry = \"1h\"\nmx_port = {port}\n",
        names.address(),
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

#[test]
fn mail_goes_by_mx_records_and_says_why_it_cannot() {
    let remote = Remote::start(Habit::Good).expect("a remote");
    let port = remote.address().port();
    let names = Names::start(
        &[
            ("one.test", 10, "dead.test"),
            ("one.test", 20, "gone.test"),
            ("one.test", 30, "mx.test"),
            ("null.test", 0, ""),
            ("ours.test", 10, "us.test"),
            ("empty.test", 10, "gone.test"),
        ],
        &[
            ("dead.test", Ipv4Addr::new(127, 0, 0, 9)),
            ("mx.test", Ipv4Addr::LOCALHOST),
            ("itself.test", Ipv4Addr::LOCALHOST),
        ],
    )
    .expect("names");
    let engine = by_mx(&names, port);
    let to =
        ["a@one.test", "a@itself.test", "a@null.test", "a@ours.test", "a@empty.test", "a@no.test"];
    submit(&engine, &to, MESSAGE);
    until("the mail", || remote.taken().len() == 2);
    let reports = arrived(&engine, 4);
    until("an empty queue", || is_empty(&engine));
    for (to, status) in [("null", "5.1.10"), ("ours", "5.4.6"), ("empty", "5.1.2"), ("no", "5.1.2")]
    {
        let about = |report: &&String| report.contains(&format!("rfc822; a@{to}.test"));
        let report = reports.iter().find(about).unwrap_or_else(|| panic!("{to}: {reports:#?}"));
        assert!(report.contains(&format!("Status: {status}\r\n")), "{to}: {report}");
    }
}

#[test]
fn a_way_that_leads_back_here_is_a_loop() {
    let names = Names::start(&[], &[("other.test", Ipv4Addr::LOCALHOST)]).expect("names");
    let base = wire_tests::ports::free_base().expect("ports");
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"example.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"pop3\"\naddress = \"127.0.0.1:{{pop3}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
         [resolver]\nservers = [\"{}\"]\n[queue]\nmx_port = {}\n",
        names.address(),
        base + 25,
    );
    let options =
        Options { config: Some(config), dev: false, base: Some(base), ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    for command in [&["domain", "add", "example.test"][..], &["adduser", DEMO, "--password-stdin"]]
    {
        let done = engine.beside(command, DEMO_PASSWORD).expect("a command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    submit(&engine, &["a@other.test"], MESSAGE);
    let [report] = &arrived(&engine, 1)[..] else { panic!() };
    assert!(report.contains("Status: 5.4.6\r\n"), "{report}");
}

#[test]
fn mail_travels_under_tls_where_that_is_offered() {
    let other = Engine::start().expect("the other engine");
    let config = format!(
        "[server]\nnode = \"us.test\"\ndomain = \"here.test\"\n\
         [[listener]]\naddress = \"127.0.0.1:{{smtp}}\"\n\
         [[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:{{submission}}\"\n\
         [routes]\n\"example.test\" = \"{}\"\n",
        other.smtp_address(),
    );
    let options = Options { config: Some(config), dev: false, ..Options::default() };
    let engine = Engine::with(options).expect("an engine");
    let alice = "alice@here.test";
    for command in [&["domain", "add", "here.test"][..], &["adduser", alice, "--password-stdin"]] {
        let done = engine.beside(command, "secret").expect("a command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let address = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
    let mut smtp = Smtp::hello(address).expect("EHLO");
    let response = base64::encode(format!("\0{alice}\0secret").as_bytes());
    assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
    for _ in 0..3 {
        assert_eq!(smtp.mail(alice, &[DEMO], MESSAGE).expect("a reply").code, 250);
    }
    for message in arrived(&other, 3) {
        assert!(message.contains("with ESMTPS id"), "{message}");
    }
    until("an empty queue", || is_empty(&engine));
    // The log is written in its own time.
    until("three lines", || engine.log().matches("\"tls\":\"TLS1.3\"").count() == 3);
}

#[test]
fn where_tls_does_not_come_about_mail_goes_without_it() {
    for habit in [Habit::FalseTls, Habit::NoTls] {
        let remote = Remote::start(habit).expect("a remote");
        let engine = engine(&[("remote.test", remote.address())], "1h");
        submit(&engine, &["a@remote.test"], MESSAGE);
        until("the mail", || remote.taken().len() == 1);
        assert!(maildrop(&engine).is_empty(), "{habit:?}");
    }
}

#[test]
fn a_server_that_bears_few_connections_gets_all_its_mail_over_those() {
    // The second one may see a connection come before it has done with the last.
    for (habit, most, retry) in [(Habit::Good, 1, "1h"), (Habit::Few(1), 5, "1s")] {
        let remote = Remote::start(habit).expect("a remote");
        let config = format!(
            "[dev.routes]\n\"remote.test\" = \"{}\"\n[queue]\nretry = \"{retry}\"\n\
             connections_max = {most}\nmessages_per_connection = 3\n",
            remote.address(),
        );
        let options = Options { config: Some(config), ..Options::default() };
        let engine = Engine::with(options).expect("an engine");
        let mut smtp = signed_in(&engine);
        for _ in 0..40 {
            let reply = smtp.mail(DEMO, &["a@remote.test"], MESSAGE).expect("a reply");
            assert_eq!(reply.code, 250);
        }
        until("the mail", || remote.taken().len() == 40);
        until("an empty queue", || is_empty(&engine));
    }
}
