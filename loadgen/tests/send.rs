//! `loadgen send` against the built engine: every mode, every message accounted for.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use wire_tests::{DEMO, DEMO_PASSWORD, Engine, PATIENCE, Pop};

fn send(port: u16, flags: &[&str]) -> Output {
    let target = format!("127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["send", "--target", &target, "--connections", "8"]).args(flags);
    command.output().unwrap()
}

/// The figure of that name.
fn figure(output: &Output, name: &str) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    let number = line.and_then(|line| line.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn good(output: &Output, messages: u64) {
    let (out, err) = (&output.stdout, &output.stderr);
    let text = String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err);
    assert!(output.status.success(), "{text}");
    assert_eq!(figure(output, "messages"), messages, "{text}");
    assert_eq!(figure(output, "errors"), 0, "{text}");
}

/// Waits until the mailbox has so many messages, and reads them.
fn fetched(engine: &Engine, count: usize) -> Vec<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut pop = Pop::login(engine.pop_address(), DEMO, DEMO_PASSWORD).unwrap();
        let there = pop.stat().unwrap().0;
        if there == count {
            return (1..=count).map(|number| pop.message(number).unwrap()).collect();
        }
        pop.quit().unwrap();
        assert!(there < count && Instant::now() < until, "{there} of {count} are there");
        // Delivery follows the 250 by some milliseconds.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn messages_arrive_in_every_mode_and_the_ledger_names_them() {
    let engine = Engine::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (users, ledger, json) = (file("users"), file("ledger"), file("figures.json"));
    fs::write(&users, format!("{DEMO}:{DEMO_PASSWORD}\n")).unwrap();
    let base = engine.base();
    let (smtp, submission, implicit) = (base + 25, base + 587, base + 465);

    let many = ["--messages", "100", "--pipelining", "on", "--bdat", "--ledger", &ledger];
    good(&send(smtp, &many), 100);
    let secured = ["--messages", "50", "--tls", "starttls", "--auth", &users, "--recipients", "1"];
    good(&send(submission, &secured), 50);
    let resumed = ["--messages", "40", "--tls", "implicit", "--auth", &users, "--resume", "1"];
    let resumed =
        [&resumed[..], &["--messages-per-connection", "1", "--pipelining", "off"]].concat();
    let output = send(implicit, &resumed);
    good(&output, 40);
    assert!(figure(&output, "handshakes_resumed") > 20);
    let open = ["--rate", "100", "--duration", "1s", "--arrivals", "poisson", "--cores", "2"];
    let open = [&open[..], &["--between", "rset", "--size", "1k..40k", "--json", &json]].concat();
    let output = send(smtp, &open);
    let sent = figure(&output, "begun");
    good(&output, sent);

    let text = fs::read_to_string(&json).unwrap();
    assert!(text.contains("\"layout\": 1") && text.contains(&format!("\"acknowledged\": {sent}")));
    let lines = fs::read_to_string(&ledger).unwrap();
    let ids: BTreeSet<&str> = lines.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids.len(), 100);
    let mut found = BTreeSet::new();
    for message in fetched(&engine, 190 + sent as usize) {
        let message = String::from_utf8_lossy(&message);
        let id = message.lines().find_map(|line| line.strip_prefix("X-Loadgen-Id: "));
        assert!(found.insert(id.unwrap().to_owned()), "a message is there twice");
    }
    assert!(ids.iter().all(|id| found.contains(*id)), "an acknowledged message is missing");
}

#[test]
fn refusals_and_wrong_plans_have_their_exit_status() {
    let engine = Engine::start().unwrap();
    let refused = send(engine.base() + 25, &["--messages", "5", "--rcpt", "nobody@example.test"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(figure(&refused, "messages"), 0);
    let text = String::from_utf8_lossy(&refused.stdout);
    assert!(text.contains("error rcpt 5xx 5"), "{text}");
    let missed = ["--messages", "5", "--threshold", "rate>100000000"];
    assert_eq!(send(engine.base() + 25, &missed).status.code(), Some(1));
    let held = ["--messages", "5", "--threshold", "rate>0.001", "--threshold", "errors<1%"];
    assert_eq!(send(engine.base() + 25, &held).status.code(), Some(0));
    let wrong = send(engine.base() + 25, &["--conections", "5"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--connections"));
    let elsewhere = ["--target", "192.0.2.1:25"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = command.arg("send").args(elsewhere).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--i-own-this-host"));
}
