//! Starting, stopping and starting again: what survives, and what refuses to start.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use wire_tests::mail::{message, stuffed, trace};
use wire_tests::{DEMO, Engine, Options, PATIENCE, Smtp, engine, ports};

/// Longer than a drain may take.
const DRAIN: Duration = Duration::from_secs(35);

fn one_line(args: &[&str]) -> String {
    let output = engine::run(args, "").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: one clear line, not {said:?}");
    said
}

#[test]
fn it_says_what_it_offers_and_then_that_it_is_ready() {
    let engine = Engine::start().unwrap();
    let table = engine.table();
    for wanted in [engine.smtp_address().to_string(), engine.pop_address().to_string()] {
        assert!(table.contains(&wanted), "{wanted} is not in {table}");
    }
    assert!(table.contains(DEMO), "{table}");
}

#[test]
fn acknowledged_mail_survives_every_way_to_stop() {
    let mut engine = Engine::start().unwrap();
    let mut sent = Vec::new();
    let mut ids = Vec::new();
    for (round, signal) in [Signal::KILL, Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let mut smtp = engine.smtp().unwrap();
        for n in 0..20 {
            let content = message(8, (round * 20 + n) as u64, 40 << n.min(12));
            let reply = smtp.mail("a@sender.test", &[DEMO], &content).unwrap();
            assert_eq!(reply.code, 250, "{reply:?}");
            ids.push(reply.queue_id().unwrap().to_owned());
            sent.push(content);
        }
        drop(smtp);
        engine.signal(signal).unwrap();
        assert!(engine.wait(DRAIN).is_some(), "{signal:?} does not end it");
        engine = engine.again().unwrap();
        let mut pop = engine.pop().unwrap();
        assert_eq!(pop.ids().unwrap(), ids, "after {signal:?}");
        for (index, content) in sent.iter().enumerate() {
            trace(&pop.message(index + 1).unwrap(), content).unwrap();
        }
        pop.quit().unwrap();
    }
    let mut pop = engine.pop().unwrap();
    assert!(pop.command("DELE 1").unwrap().starts_with("+OK"));
    pop.quit().unwrap();
    engine.kill();
    let engine = engine.again().unwrap();
    assert_eq!(engine.pop().unwrap().ids().unwrap(), ids[1..], "deleted stays deleted");
}

#[test]
fn sigterm_lets_a_running_transaction_finish() {
    let mut engine = Engine::start().unwrap();
    let mut idle = engine.smtp().unwrap();
    let mut busy = engine.smtp().unwrap();
    for (line, code) in [("MAIL FROM:<>", 250), ("RCPT TO:<demo@example.test>", 250), ("DATA", 354)]
    {
        assert_eq!(busy.command(line).unwrap().code, code);
    }
    let content = message(9, 1, 50_000);
    let wire = stuffed(&content);
    let (first, rest) = wire.split_at(20_000);
    busy.send(first).unwrap();
    engine.signal(Signal::TERM).unwrap();
    let until = Instant::now() + PATIENCE;
    while let Ok(mut refused) = Smtp::open(engine.smtp_address()) {
        // The kernel may still take connections for a moment; none of them gets a session.
        if refused.reply().is_ok_and(|r| r.code == 220) {
            assert!(Instant::now() < until, "new sessions are still taken");
        } else {
            break;
        }
    }
    busy.send(rest).unwrap();
    let reply = busy.reply().unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    let farewell = idle.reply();
    assert!(farewell.as_ref().is_ok_and(|r| r.code == 421) || farewell.is_err(), "{farewell:?}");
    let status = engine.wait(DRAIN).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", engine.log());
    let engine = engine.again().unwrap();
    trace(&engine.pop().unwrap().message(1).unwrap(), &content).unwrap();
}

#[test]
fn a_second_sigterm_stops_at_once() {
    let mut engine = Engine::start().unwrap();
    let mut busy = engine.smtp().unwrap();
    assert_eq!(busy.mail("", &[DEMO], &message(9, 2, 10)).unwrap().code, 250);
    for (line, code) in [("MAIL FROM:<>", 250), ("RCPT TO:<demo@example.test>", 250), ("DATA", 354)]
    {
        assert_eq!(busy.command(line).unwrap().code, code);
    }
    engine.signal(Signal::TERM).unwrap();
    assert!(engine.wait(Duration::from_secs(1)).is_none(), "it waits for the transaction");
    engine.signal(Signal::TERM).unwrap();
    assert!(engine.wait(Duration::from_secs(5)).is_some(), "it does not wait any more");
    let engine = engine.again().unwrap();
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
}

#[test]
fn a_port_in_use_is_named() {
    let first = Engine::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let base = first.base().to_string();
    let said =
        one_line(&["--cores", "1", "--dev", "--data", data.to_str().unwrap(), "--ports", &base]);
    assert!(said.contains(&first.smtp_address().port().to_string()), "{said}");
    assert_eq!(first.smtp().unwrap().command("NOOP").unwrap().code, 250);
}

#[test]
fn a_data_folder_in_use_is_named() {
    let first = Engine::start().unwrap();
    let data = first.data().to_str().unwrap();
    let base = ports::free_base().unwrap().to_string();
    let said = one_line(&["--cores", "1", "--dev", "--data", data, "--ports", &base]);
    assert!(said.contains(data), "{said}");
    let mut smtp = first.smtp().unwrap();
    assert_eq!(smtp.mail("", &[DEMO], &message(9, 3, 10)).unwrap().code, 250);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("fsmtp.toml");
    std::fs::write(&file, "# a comment\n\nhostnam = \"mx.example.test\"\n").unwrap();
    let base = ports::free_base().unwrap().to_string();
    let said = one_line(&[
        "--cores",
        "1",
        "--dev",
        "--config",
        file.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--ports",
        &base,
    ]);
    assert!(said.contains("hostnam"), "{said}");
    assert!(said.contains(":3") || said.contains("line 3"), "{said}");
    assert!(!data.exists(), "nothing is touched");
}

#[test]
fn a_data_folder_of_a_newer_format_is_named_and_left_alone() {
    let mut engine = Engine::start().unwrap();
    let sent = message(9, 4, 10);
    assert_eq!(engine.smtp().unwrap().mail("", &[DEMO], &sent).unwrap().code, 250);
    engine.signal(Signal::TERM).unwrap();
    assert!(engine.wait(DRAIN).is_some());
    let format = engine.data().join("format");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, ours.replace(" 1", " 99")).unwrap();
    let before = listing(engine.data());
    let data = engine.data().to_str().unwrap();
    let base = ports::free_base().unwrap().to_string();
    let said = one_line(&["--cores", "1", "--dev", "--data", data, "--ports", &base]);
    assert!(said.contains("99") && said.contains(data), "{said}");
    assert_eq!(listing(engine.data()), before, "nothing is touched");
    std::fs::write(&format, ours).unwrap();
    let engine = engine.again().unwrap();
    trace(&engine.pop().unwrap().message(1).unwrap(), &sent).unwrap();
}

/// Names, sizes and times of change of all files below `folder`.
fn listing(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it is there").flatten() {
            let about = entry.metadata().expect("it is there");
            if about.is_dir() {
                folders.push(entry.path());
            }
            found.push(format!("{:?} {} {:?}", entry.path(), about.len(), about.modified()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_damaged_row_of_the_index_costs_one_message_and_is_named() {
    let mut engine = Engine::start().unwrap();
    let sent: Vec<Vec<u8>> = [70_001, 80_001, 90_001].map(|n| message(11, n, n as usize)).into();
    let mut smtp = engine.smtp().unwrap();
    for content in &sent {
        assert_eq!(smtp.mail("a@sender.test", &[DEMO], content).unwrap().code, 250);
    }
    drop(smtp);
    let mut pop = engine.pop().unwrap();
    let line = pop.command("LIST 2").unwrap();
    let octets: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    pop.quit().unwrap();
    engine.signal(Signal::TERM).unwrap();
    assert!(engine.wait(DRAIN).is_some());
    // Lengths are LEB128; a last byte that promises another one makes every row with it too short.
    let coded = [octets as u8 | 0x80, (octets >> 7) as u8 | 0x80, (octets >> 14) as u8];
    let file = engine.data().join("index/index.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - 2).filter(|&at| bytes[at..at + 3] == coded).collect();
    assert!(!places.is_empty(), "the length is not in the index");
    places.iter().for_each(|at| bytes[at + 2] |= 0x80);
    std::fs::write(&file, bytes).unwrap();

    let mut engine = engine.again().unwrap();
    let mut pop = engine.pop().unwrap();
    assert_eq!(pop.stat().unwrap().0, 2);
    trace(&pop.message(1).unwrap(), &sent[0]).unwrap();
    trace(&pop.message(2).unwrap(), &sent[2]).unwrap();
    for n in 1..3 {
        assert!(pop.command(&format!("DELE {n}")).unwrap().starts_with("+OK"));
    }
    pop.quit().unwrap();
    assert_eq!(engine.smtp().unwrap().mail("", &[DEMO], &sent[1]).unwrap().code, 250);
    trace(&engine.pop().unwrap().message(1).unwrap(), &sent[1]).unwrap();
    engine.signal(Signal::TERM).unwrap();
    assert_eq!(engine.wait(DRAIN).and_then(|status| status.code()), Some(0), "{}", engine.log());
    assert_eq!(engine.log().matches("index-damaged").count(), 1, "{}", engine.log());
    assert!(engine.log().contains("table entries"), "{}", engine.log());
}

#[test]
fn a_data_folder_keeps_its_segment_size_and_differences_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let options = |config: Option<&str>| Options {
        data: Some(data.clone()),
        config: config.map(str::to_owned),
        ..Options::default()
    };
    let small = "[store]\nsegment_bytes = 2097152\n";
    // Made by an account command, without the configuration that comes later.
    let at = data.to_str().unwrap();
    let made = engine::run(&["domain", "add", "x.test", "--data", at], "").unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut first = Engine::with(options(Some(small))).unwrap();
    let sent = message(12, 1, 100_000);
    assert_eq!(first.smtp().unwrap().mail("", &[DEMO], &sent).unwrap().code, 250);
    first.signal(Signal::TERM).unwrap();
    assert!(first.wait(DRAIN).is_some());
    let said = "store.segment_bytes = 2097152 has no effect:";
    assert!(first.log().contains(said) && first.log().contains("made with 67108864"));

    // From now on there are log files, and everybody sees it.
    let file = folder.path().join("fsmtp.toml");
    std::fs::write(&file, small).unwrap();
    let file = file.to_str().unwrap();
    let base = ports::free_base().unwrap().to_string();
    let test = ["test", "--data", at, "--config", file, "--dev", "--ports", &base];
    for args in [&["config", "test", "--data", at, "--config", file][..], &test] {
        let output = engine::run(args, "").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(said), "{args:?}: {text}");
    }
    let users = engine::run(&["users", "--data", at, "--config", file], "").unwrap();
    assert!(users.status.success() && users.stderr.is_empty(), "{users:?}");
    let mut second = Engine::with(options(Some(small))).unwrap();
    assert!(second.log().contains(said), "{}", second.log());
    trace(&second.pop().unwrap().message(1).unwrap(), &sent).unwrap();
    assert_eq!(second.smtp().unwrap().mail("", &[DEMO], &sent).unwrap().code, 250);
    second.kill();
    let third = Engine::with(options(None)).unwrap();
    assert!(!third.log().contains("segment_bytes"), "{}", third.log());
    trace(&third.pop().unwrap().message(2).unwrap(), &sent).unwrap();
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    for args in [&["--cores", "many"][..], &["--no-such-flag"], &["deluser"]] {
        let output = engine::run(args, "").unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn more_cores_take_part_in_one_engine() {
    let mut engine = Engine::with(Options { cores: 3, ..Options::default() }).unwrap();
    for n in 0..30 {
        let reply = engine.smtp().unwrap().mail("", &[DEMO], &message(10, n, 500)).unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    engine.kill();
    // Fewer cores find what more cores wrote.
    let data = engine.data().to_owned();
    let fewer = Engine::with(Options { cores: 1, data: Some(data), ..Options::default() }).unwrap();
    assert_eq!(fewer.pop().unwrap().stat().unwrap().0, 30);
}
