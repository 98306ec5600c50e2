//! Filters of others, asked by a real engine over real sockets: what they say and change, what
//! becomes of mail while they are away, and what they are not asked about.

mod servers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use servers::Filter;
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Options, PATIENCE, Pop, Reply, Smtp, base64};

const OTHER: &str = "other@example.test";
const MESSAGE: &str = "Subject: hello\r\nX-Forged: yes\r\n\r\nbody\r\n.\r\n";

fn engine(protocol: &str, address: SocketAddr, more: &str) -> Engine {
    let config = format!(
        "[[filter]]\nname = \"tested\"\nprotocol = \"{protocol}\"\naddress = \"{address}\"\n\
         command_timeout_s = 1\nmessage_timeout_s = 1\nmessage_bytes_max = 65536\n{more}\n"
    );
    let engine = Engine::with(Options { config: Some(config), ..Options::default() });
    let engine = engine.expect("an engine");
    let words = ["adduser", OTHER, "--password-stdin"];
    let made = engine.beside(&words, &format!("{DEMO_PASSWORD}\n")).expect("a command");
    assert!(made.status.success(), "{made:?}");
    engine
}

/// Sends as somebody whose name tells the filter what to do.
fn deliver(engine: &Engine, does: &str, to: &[&str], message: &str) -> Reply {
    let mut smtp = engine.smtp().expect("EHLO");
    let from = format!("{does}@sender.test");
    smtp.mail(&from, to, message.as_bytes()).expect("a reply")
}

/// What lies in a mailbox; it is empty then.
fn take(engine: &Engine, user: &str) -> Vec<String> {
    let mut pop = Pop::login(engine.pop_address(), user, DEMO_PASSWORD).expect("a sign-in");
    let (count, _) = pop.stat().expect("STAT");
    let messages = (1..=count).map(|n| pop.message(n).expect("RETR"));
    let messages = messages.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    for number in 1..=count {
        pop.command(&format!("DELE {number}")).expect("DELE");
    }
    pop.quit().expect("QUIT");
    messages
}

/// The one message in a mailbox, without what the engine has put in front of it.
#[track_caller]
fn only(engine: &Engine, user: &str) -> String {
    let [message] = &take(engine, user)[..] else { panic!("one message for {user}") };
    let (_, rest) = message.split_once(" +0000\r\n").expect("the end of our own fields");
    rest.to_owned()
}

fn wait_for_line(engine: &Engine, words: &[&str]) {
    let end = Instant::now() + PATIENCE;
    while !engine.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
        assert!(Instant::now() < end, "{words:?}: {}", engine.log());
        std::thread::yield_now();
    }
}

fn junk() -> String {
    format!("{DEMO}/Junk")
}

#[test]
fn a_milter_is_told_of_a_message_and_it_passes_unchanged() {
    let filter = Filter::milter();
    let engine = engine("milter", filter.address(), "when_away = \"defer\"");
    for does in ["good", "progress"] {
        assert_eq!(deliver(&engine, does, &[DEMO], MESSAGE).code, 250);
        assert_eq!(only(&engine, DEMO), MESSAGE);
    }
    let heard = &filter.heard()[0];
    for part in [
        "C[127.0.0.1]|4",
        "Hclient.test|",
        "M<good@sender.test>|",
        "R<demo@example.test>|",
        "LSubject|hello| LX-Forged|yes| ",
        "Bbody\r\n.\r\n DEi|",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn what_filters_say_is_what_the_client_hears() {
    let (milter, rspamd) = (Filter::milter(), Filter::rspamd());
    for (protocol, address) in [("milter", milter.address()), ("rspamd", rspamd.address())] {
        let engine = engine(protocol, address, "when_away = \"defer\"");
        let reply = deliver(&engine, "reject", &[DEMO], MESSAGE);
        assert!([550, 554].contains(&reply.code), "{reply:?}");
        assert_eq!(reply.text(), "5.7.1 It is spam - fsmtp");
        let reply = deliver(&engine, "tempfail", &[DEMO], MESSAGE);
        assert!(reply.is(451, "4.7.1"), "{reply:?}");
        let reply = deliver(&engine, "discard", &[DEMO], MESSAGE);
        assert!(reply.code == 250 && reply.queue_id().is_some(), "{reply:?}");
        assert!(take(&engine, DEMO).is_empty() && take(&engine, &junk()).is_empty());
        // The session goes on after each of them.
        let mut smtp = engine.smtp().expect("EHLO");
        for (does, code) in [("reject@a.test", 5), ("tempfail@a.test", 4), ("good@a.test", 2)] {
            let reply = smtp.mail(does, &[DEMO], MESSAGE.as_bytes()).expect("a reply");
            assert_eq!(reply.code / 100, code, "{reply:?}");
        }
        assert_eq!(only(&engine, DEMO), MESSAGE);
        wait_for_line(&engine, &["filter-refused", "\"code\":451", "tempfail@a.test"]);
        wait_for_line(&engine, &["filter-discarded", "discard@sender.test"]);
    }
}

#[test]
fn a_milter_refuses_senders_and_recipients_at_once() {
    let filter = Filter::milter();
    let engine = engine("milter", filter.address(), "when_away = \"defer\"");
    let reply = deliver(&engine, "no-sender", &[DEMO], MESSAGE);
    assert!(reply.code == 554 && reply.text() == "5.7.1 Not from you - fsmtp", "{reply:?}");
    let reply = deliver(&engine, "one-recipient", &[OTHER], MESSAGE);
    assert!(reply.is(550, "5.7.1"), "{reply:?}");
    let mut smtp = engine.smtp().expect("EHLO");
    for (line, code) in [
        ("MAIL FROM:<one-recipient@sender.test>", 250),
        ("RCPT TO:<other@example.test>", 550),
        ("RCPT TO:<demo@example.test>", 250),
        ("RCPT TO:<nobody@example.test>", 550),
        ("DATA", 354),
    ] {
        assert_eq!(smtp.command(line).expect("a reply").code, code, "{line}");
    }
    smtp.send(b"x\r\n.\r\n").expect("a message");
    assert_eq!(smtp.reply().expect("a reply").code, 250);
    assert_eq!((take(&engine, DEMO).len(), take(&engine, OTHER).len()), (1, 0));
    // Who does not exist is none of the filter's business.
    assert!(!filter.heard().concat().contains("nobody@"));
}

#[test]
fn fields_are_added_changed_and_removed() {
    let (milter, rspamd) = (Filter::milter(), Filter::rspamd());
    let added = "Subject: changed\r\nX-Last: a\r\n\tb\r\n\r\nbody\r\n.\r\n";
    for (protocol, address, text) in [
        ("milter", milter.address(), format!("X-First: c\r\n{added}")),
        ("rspamd", rspamd.address(), added.to_owned()),
    ] {
        let engine = engine(protocol, address, "when_away = \"defer\"");
        assert_eq!(deliver(&engine, "fields", &[DEMO], MESSAGE).code, 250);
        assert_eq!(only(&engine, DEMO), text);
    }
}

#[test]
fn junk_goes_to_the_mailbox_junk() {
    let (milter, rspamd) = (Filter::milter(), Filter::rspamd());
    for (protocol, address) in [("milter", milter.address()), ("rspamd", rspamd.address())] {
        let engine = engine(protocol, address, "when_away = \"defer\"");
        assert_eq!(deliver(&engine, "junk", &[DEMO, OTHER], MESSAGE).code, 250);
        assert!(take(&engine, DEMO).is_empty());
        assert_eq!(only(&engine, &junk()), format!("X-Spam: Yes\r\n{MESSAGE}"));
        assert_eq!(take(&engine, &format!("{OTHER}/Junk")).len(), 1);
        wait_for_line(&engine, &["filter-junk", "\"filter\":\"tested\""]);
    }
}

#[test]
fn sender_and_recipients_are_changed() {
    let filter = Filter::milter();
    let engine = engine("milter", filter.address(), "when_away = \"defer\"");
    assert_eq!(deliver(&engine, "recipients", &[DEMO], MESSAGE).code, 250);
    assert!(take(&engine, DEMO).is_empty());
    assert_eq!(only(&engine, OTHER), MESSAGE);
    assert_eq!(deliver(&engine, "sender", &[DEMO], MESSAGE).code, 250);
    let [message] = &take(&engine, DEMO)[..] else { panic!("one message") };
    assert!(message.starts_with("Return-Path: <changed@sender.test>\r\n"), "{message}");
    // Nobody elsewhere gets mail by way of a filter.
    assert_eq!(deliver(&engine, "strays", &[DEMO], MESSAGE).code, 250);
    assert_eq!(take(&engine, DEMO).len(), 1);
    wait_for_line(&engine, &["filter-unheeded", "somebody@elsewhere.test"]);
}

#[test]
fn a_filter_that_deletes_recipients_loses_nobodys_mail_by_accident() {
    let filter = Filter::milter();
    let engine = engine("milter", filter.address(), "when_away = \"defer\"");
    let made = engine.beside(&["alias", "add", "me@example.test", DEMO], "").expect("a command");
    assert!(made.status.success(), "{made:?}");
    // Another in its place, who cannot be added: it stays with whom it was for.
    assert_eq!(deliver(&engine, "swapped", &[DEMO, OTHER], MESSAGE).code, 250);
    assert_eq!((take(&engine, DEMO).len(), take(&engine, OTHER).len()), (1, 1));
    wait_for_line(&engine, &["filter-unheeded", "deletion", DEMO]);
    assert_eq!(deliver(&engine, "itself", &[DEMO], MESSAGE).code, 250);
    assert_eq!(take(&engine, DEMO).len(), 1);
    // Of two addresses of a mailbox one goes.
    for to in [[DEMO, "me@example.test"], ["me@example.test", DEMO]] {
        assert_eq!(deliver(&engine, "gone", &to, MESSAGE).code, 250);
        assert_eq!(take(&engine, DEMO).len(), 1, "{to:?}");
    }
    // All of them: that is how a filter throws away, and the log says so.
    assert_eq!(deliver(&engine, "gone", &[DEMO], MESSAGE).code, 250);
    assert!(take(&engine, DEMO).is_empty());
    wait_for_line(&engine, &["filter-discarded", "by its recipients", "gone@sender.test"]);
}

/// What becomes of messages under each policy, from these senders.
fn each_policy(protocol: &str, address: SocketAddr, senders: &[&str]) {
    for policy in ["accept", "defer", "junk"] {
        let engine = engine(protocol, address, &format!("when_away = \"{policy}\""));
        for does in senders {
            let reply = deliver(&engine, does, &[DEMO], MESSAGE);
            let found = (take(&engine, DEMO).len(), take(&engine, &junk()).len());
            let expected = match policy {
                "accept" => (250, (1, 0)),
                "junk" => (250, (0, 1)),
                _ => (451, (0, 0)),
            };
            assert_eq!((reply.code, found), expected, "{does}, {policy}: {reply:?}");
        }
        wait_for_line(&engine, &["filter-away", "\"then\":", policy]);
    }
}

#[test]
fn each_policy_holds_while_a_filter_is_away() {
    // An address where nobody listens.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for protocol in ["milter", "rspamd"] {
        each_policy(protocol, address, &["good", "again"]);
    }
}

#[test]
fn each_policy_holds_for_a_milter_that_is_slow_or_talks_nonsense_or_closes() {
    let filter = Filter::milter();
    each_policy("milter", filter.address(), &["slow", "nonsense", "closes"]);
}

#[test]
fn each_policy_holds_when_rspamd_is_slow_or_talks_nonsense_or_closes() {
    let filter = Filter::rspamd();
    each_policy("rspamd", filter.address(), &["slow", "nonsense", "closes"]);
}

#[test]
fn rspamd_is_told_who_sends_and_not_asked_about_what_is_too_long() {
    let filter = Filter::rspamd();
    let engine = engine("rspamd", filter.address(), "when_away = \"defer\"");
    let long = format!("{MESSAGE}{}", "a line of a long message\r\n".repeat(3000));
    assert_eq!(deliver(&engine, "discard", &[DEMO], &long).code, 250);
    assert_eq!(only(&engine, DEMO), long);
    assert!(filter.heard().is_empty());
    assert_eq!(deliver(&engine, "good", &[DEMO], MESSAGE).code, 250);
    let heard = filter.heard().concat();
    for part in [
        "POST /checkv2 HTTP/1.1\r\n",
        "\r\nIP: 127.0.0.1\r\nHelo: client.test\r\n",
        "\r\nFrom: good@sender.test\r\nRcpt: demo@example.test\r\n",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
    assert!(heard.ends_with(&format!("\r\n\r\n{MESSAGE}")), "{heard}");
}

#[test]
fn mail_of_users_is_shown_where_that_is_wanted() {
    for wanted in [false, true] {
        let filter = Filter::milter();
        let more = format!("when_away = \"defer\"\nusers = {wanted}");
        let engine = engine("milter", filter.address(), &more);
        let submission = (Ipv4Addr::LOCALHOST, engine.base() + 587).into();
        let mut smtp = Smtp::hello(submission).expect("EHLO");
        let response = base64::encode(format!("\0{DEMO}\0{DEMO_PASSWORD}").as_bytes());
        assert_eq!(smtp.command(&format!("AUTH PLAIN {response}")).expect("AUTH").code, 235);
        let reply = smtp.mail(DEMO, &[OTHER], b"Subject: x\r\n\r\nbody\r\n").expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
        assert_eq!(take(&engine, OTHER).len(), 1);
        let heard = filter.heard().concat();
        assert_eq!(heard.contains(&format!("{{auth_authen}}|{DEMO}|")), wanted, "{heard}");
        // As it is stored, with what was missing.
        assert_eq!(heard.contains("LFrom|"), wanted, "{heard}");
    }
}

#[test]
fn several_filters_are_asked_in_order() {
    let (first, second) = (Filter::milter(), Filter::rspamd());
    let more = format!(
        "when_away = \"defer\"\n[[filter]]\nprotocol = \"rspamd\"\naddress = \"{}\"\n",
        second.address()
    );
    let engine = engine("milter", first.address(), &more);
    assert_eq!(deliver(&engine, "reject", &[DEMO], MESSAGE).code, 550);
    assert!(second.heard().is_empty(), "the first has said enough");
    assert_eq!(deliver(&engine, "good", &[DEMO], MESSAGE).code, 250);
    assert_eq!((first.heard().len(), second.heard().len()), (2, 1));
    assert_eq!(only(&engine, DEMO), MESSAGE);
}
