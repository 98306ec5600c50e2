//! `loadgen sink`, `send` and `verify` together, and `verify` against the built engine's mailboxes.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

mod common;

use std::fs;

use common::{Sink, figure, loadgen, text};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine};

#[test]
fn what_was_acknowledged_in_spite_of_refusals_is_there_once_and_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (sent, received) = (file("sent"), file("received"));
    let rule = "*: 451=10%, 550=5%, drop=2%, delay=0ms..2ms";
    let sink = Sink::start(&["--ledger", &received, "--cores", "2", "--rule", rule]);
    let flags = ["--messages", "400", "--connections", "8", "--size", "1k..40k", "--ledger", &sent];
    let flags = [&["send", "--target", &sink.address, "--threshold", "errors<90%"], &flags[..]];
    let output = loadgen(&flags.concat());
    let seen = sink.end();
    assert!(output.status.success(), "{}", text(&output));
    let acknowledged = figure(&text(&output), "messages");
    assert!((250..400).contains(&acknowledged), "{acknowledged}");
    assert_eq!(figure(&seen, "messages"), acknowledged);
    assert!(figure(&seen, "refusal 451") > 0 && figure(&seen, "refusal 550") > 0, "{seen}");
    assert!(figure(&seen, "drops") > 0, "{seen}");

    let verify = |ledger: &str| loadgen(&["verify", "--ledger", &sent, "--sink", ledger]);
    let good = verify(&received);
    assert!(good.status.success(), "{}", text(&good));
    assert_eq!(figure(&text(&good), "sent"), acknowledged);
    assert_eq!(figure(&text(&good), "found"), acknowledged);

    // Each way in which it can be wrong.
    let lines = fs::read_to_string(&received).unwrap();
    let (first, rest) = lines.split_once('\n').unwrap();
    let (id, sum) = first.split_once(' ').unwrap();
    let other = if sum.starts_with('0') { '1' } else { '0' };
    for (kind, lines) in [
        ("lost", rest.to_owned()),
        ("doubled", format!("{first}\n{lines}")),
        ("changed", format!("{id} {other}{}\n{rest}", &sum[1..])),
    ] {
        let wrong = file(kind);
        fs::write(&wrong, lines).unwrap();
        let output = verify(&wrong);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for name in ["lost", "doubled", "changed"] {
            assert_eq!(figure(&said, name), u64::from(name == kind), "{said}");
        }
        assert!(said.contains(&format!("{kind}_first {id}\n")), "{said}");
    }
}

#[test]
fn mailboxes_of_the_engine_have_what_it_acknowledged() {
    let engine = Engine::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (users, sent, bdat) = (file("users"), file("sent"), file("bdat"));
    fs::write(&users, format!("{DEMO}:{DEMO_PASSWORD}\n")).unwrap();
    let smtp = format!("127.0.0.1:{}", engine.base() + 25);
    let send = |flags: &[&str]| {
        let output = loadgen(&[&["send", "--target", &smtp, "--size", "1k..40k"], flags].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    send(&["--messages", "100", "--connections", "4", "--ledger", &sent]);
    send(&["--messages", "50", "--connections", "4", "--ledger", &bdat, "--bdat"]);

    let verify = |port: u16, flags: &[&str]| {
        let pop = format!("127.0.0.1:{}", engine.base() + port);
        let fixed = ["verify", "--ledger", &sent, "--pop3", &pop, "--users", &users];
        loadgen(&[&fixed[..], flags].concat())
    };
    // Delivery follows the 250 by some milliseconds.
    let good = verify(110, &["--ledger", &bdat, "--wait", "30s"]);
    assert!(good.status.success(), "{}", text(&good));
    assert_eq!((figure(&text(&good), "sent"), figure(&text(&good), "found")), (150, 150));
    for (port, tls) in [(110, "starttls"), (995, "implicit")] {
        let good = verify(port, &["--tls", tls]);
        assert!(good.status.success(), "{tls}: {}", text(&good));
        assert_eq!(figure(&text(&good), "unknown"), 50, "those of the other ledger");
    }

    // A message that was sent otherwise, and one that never arrived.
    let lines = fs::read_to_string(&sent).unwrap();
    let (id, rest) = lines.split_once(' ').unwrap();
    let other = if rest.starts_with('0') { '1' } else { '0' };
    let missing = format!("00000000-00-000000000000 {}", rest.lines().next().unwrap());
    fs::write(&sent, format!("{id} {other}{}{missing}\n", &rest[1..])).unwrap();
    let wrong = verify(110, &[]);
    let said = text(&wrong);
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert_eq!((figure(&said, "lost"), figure(&said, "changed")), (1, 1), "{said}");
    assert!(said.contains("lost_first 00000000-00-000000000000\n"), "{said}");
}
