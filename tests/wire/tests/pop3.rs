//! POP3 as a client sees it: what was sent comes back, and goes only when it was told to.

use wire_tests::mail::{message, trace};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine, Pop};

fn fill(engine: &Engine, count: u64) -> Vec<Vec<u8>> {
    let mut smtp = engine.smtp().expect("EHLO");
    let all: Vec<Vec<u8>> = (0..count).map(|n| message(7, n, 300 * n as usize)).collect();
    for sent in &all {
        let reply = smtp.mail("a@sender.test", &[DEMO], sent).expect("a transaction");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    all
}

#[test]
fn capabilities_are_listed_before_and_after_sign_in() {
    let engine = Engine::shared().unwrap();
    let mut pop = Pop::open(engine.pop_address()).unwrap();
    let wanted =
        ["USER", "TOP", "UIDL", "PIPELINING", "RESP-CODES", "AUTH-RESP-CODE", "UTF8", "LANG"];
    let listed = String::from_utf8(pop.listing("CAPA").unwrap()).unwrap();
    for keyword in wanted.iter().chain(&["EXPIRE NEVER"]) {
        assert!(listed.lines().any(|l| l == *keyword), "{keyword} is not in {listed}");
    }
    assert!(listed.lines().any(|l| l.starts_with("IMPLEMENTATION ")), "{listed}");
}

#[test]
fn sign_in_is_refused_the_same_way_for_a_wrong_name_and_a_wrong_password() {
    let engine = Engine::shared().unwrap();
    let mut refusals = Vec::new();
    for (user, password) in [(DEMO, "wrong"), ("nobody@example.test", "demo"), (DEMO, "")] {
        let mut pop = Pop::open(engine.pop_address()).unwrap();
        assert!(pop.command(&format!("USER {user}")).unwrap().starts_with("+OK"));
        refusals.push(pop.command(&format!("PASS {password}")).unwrap());
        assert!(pop.command("STAT").unwrap().starts_with("-ERR"));
    }
    assert!(refusals[0].starts_with("-ERR [AUTH]"), "{}", refusals[0]);
    assert_eq!(refusals[0], refusals[1], "a stranger must not learn which names exist");
}

#[test]
fn every_command_tells_the_same_story() {
    let engine = Engine::start().unwrap();
    let all = fill(&engine, 12);
    let mut pop = engine.pop().unwrap();
    let (count, octets) = pop.stat().unwrap();
    assert_eq!(count, all.len());
    let list = String::from_utf8(pop.listing("LIST").unwrap()).unwrap();
    let sizes: Vec<u64> =
        list.lines().map(|l| l.split_once(' ').unwrap().1.parse().unwrap()).collect();
    assert_eq!(sizes.iter().sum::<u64>(), octets);
    let ids = pop.ids().unwrap();
    for (index, sent) in all.iter().enumerate() {
        let number = index + 1;
        let stored = pop.message(number).unwrap();
        let head = trace(&stored, sent).unwrap();
        assert_eq!(stored.len() as u64, sizes[index]);
        assert_eq!(
            pop.command(&format!("LIST {number}")).unwrap(),
            format!("+OK {number} {}", sizes[index])
        );
        assert_eq!(
            pop.command(&format!("UIDL {number}")).unwrap(),
            format!("+OK {number} {}", ids[index])
        );
        let received = String::from_utf8_lossy(head);
        assert!(received.contains(&ids[index]), "{received} names {}", ids[index]);
        let top = pop.listing(&format!("TOP {number} 0")).unwrap();
        assert!(stored.starts_with(&top) && top.ends_with(b"\r\n\r\n"));
        assert_eq!(pop.listing(&format!("TOP {number} 1000000")).unwrap(), stored);
    }
    for line in ["RETR 13", "RETR 0", "DELE 13", "LIST 13", "UIDL 13", "TOP 13 1", "RETR x"] {
        assert!(pop.command(line).unwrap().starts_with("-ERR"), "{line}");
    }
    assert!(pop.command("NOOP").unwrap().starts_with("+OK"));
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let engine = Engine::start().unwrap();
    let all = fill(&engine, 5);
    let mut pop = Pop::open(engine.pop_address()).unwrap();
    let group = format!(
        "USER {DEMO}\r\nPASS {DEMO_PASSWORD}\r\nSTAT\r\nRETR 1\r\nRETR 5\r\nDELE 1\r\nQUIT\r\n"
    );
    pop.send(group.as_bytes()).unwrap();
    for _ in 0..3 {
        pop.ok().unwrap();
    }
    for sent in [&all[0], &all[4]] {
        pop.ok().unwrap();
        trace(&pop.lines().unwrap(), sent).unwrap();
    }
    pop.ok().unwrap();
    pop.ok().unwrap();
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 4);
}

#[test]
fn a_maildrop_opens_once_at_a_time() {
    let engine = Engine::start().unwrap();
    let first = engine.pop().unwrap();
    let refused = engine.pop().unwrap_err().to_string();
    assert!(refused.starts_with("-ERR [IN-USE]"), "{refused}");
    first.quit().unwrap();
    let dropped = engine.pop().unwrap();
    drop(dropped);
    let until = std::time::Instant::now() + wire_tests::PATIENCE;
    while engine.pop().is_err() {
        assert!(std::time::Instant::now() < until, "a dropped session keeps its lock");
        std::thread::yield_now();
    }
}

#[test]
fn messages_go_only_after_quit() {
    let engine = Engine::start().unwrap();
    fill(&engine, 4);
    let mut pop = engine.pop().unwrap();
    let ids = pop.ids().unwrap();
    assert!(pop.command("DELE 2").unwrap().starts_with("+OK"));
    assert!(pop.command("RETR 2").unwrap().starts_with("-ERR"));
    assert_eq!(pop.stat().unwrap().0, 3);
    assert!(pop.command("RSET").unwrap().starts_with("+OK"));
    assert_eq!(pop.stat().unwrap().0, 4);
    assert!(pop.command("DELE 3").unwrap().starts_with("+OK"));
    drop(pop);

    let until = std::time::Instant::now() + wire_tests::PATIENCE;
    let mut pop = loop {
        match engine.pop() {
            Ok(pop) => break pop,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
    };
    assert_eq!(pop.ids().unwrap(), ids, "dropped without QUIT: nothing goes");
    assert!(pop.command("DELE 1").unwrap().starts_with("+OK"));
    assert!(pop.command("DELE 4").unwrap().starts_with("+OK"));
    pop.quit().unwrap();
    assert_eq!(engine.pop().unwrap().ids().unwrap(), ids[1..3]);
}

#[test]
fn mail_that_arrives_during_a_session_waits_for_the_next() {
    let engine = Engine::start().unwrap();
    fill(&engine, 1);
    let mut pop = engine.pop().unwrap();
    fill(&engine, 2);
    assert_eq!(pop.stat().unwrap().0, 1);
    pop.quit().unwrap();
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 3);
}
