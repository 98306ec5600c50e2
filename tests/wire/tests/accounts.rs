//! The commands that change accounts, beside a running engine and on the data of a stopped one.

use wire_tests::mail::message;
use wire_tests::{Engine, Pop};

const ALICE: &str = "alice@example.test";

fn done(output: &std::process::Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn take(engine: &Engine, to: &str) -> u16 {
    let mut smtp = engine.smtp().expect("EHLO");
    smtp.mail("", &[to], &message(11, 1, 100)).expect("a transaction").code
}

#[test]
fn accounts_come_and_go_while_the_engine_runs() {
    let engine = Engine::start().unwrap();
    assert_eq!(take(&engine, ALICE), 550);
    done(&engine.beside(&["adduser", ALICE, "--password-stdin"], "pass word\n").unwrap());
    assert_eq!(take(&engine, ALICE), 250);
    let mut pop = Pop::login(engine.pop_address(), ALICE, "pass word").unwrap();
    assert_eq!(pop.stat().unwrap().0, 1);
    pop.quit().unwrap();
    let listed = done(&engine.beside(&["users"], "").unwrap());
    assert!(listed.contains(ALICE) && listed.contains("demo@example.test"), "{listed}");

    done(&engine.beside(&["passwd", ALICE, "--password-stdin"], "other\npass word\n").unwrap());
    assert!(Pop::login(engine.pop_address(), ALICE, "pass word").is_err());
    Pop::login(engine.pop_address(), ALICE, "other").unwrap().quit().unwrap();

    let twice = engine.beside(&["adduser", ALICE, "--password-stdin"], "x\n").unwrap();
    assert_eq!(twice.status.code(), Some(1));
    done(&engine.beside(&["deluser", ALICE], "").unwrap());
    assert_eq!(take(&engine, ALICE), 550);
    assert!(Pop::login(engine.pop_address(), ALICE, "other").is_err());
}

#[test]
fn domains_come_and_go() {
    let engine = Engine::start().unwrap();
    let there = "bob@another.test";
    assert_eq!(take(&engine, there), 550);
    done(&engine.beside(&["domain", "add", "another.test"], "").unwrap());
    done(&engine.beside(&["adduser", there, "--password-stdin"], "bob\n").unwrap());
    assert_eq!(take(&engine, there), 250);
    let listed = done(&engine.beside(&["domain", "list"], "").unwrap());
    assert!(listed.contains("another.test"), "{listed}");
    let refused = engine.beside(&["adduser", "x@nowhere.test", "--password-stdin"], "x\n").unwrap();
    assert_eq!(refused.status.code(), Some(1), "a domain that is not ours");
}

#[test]
fn an_alias_is_not_replaced_by_accident_and_names_may_lack_their_domain() {
    let engine = Engine::start().unwrap();
    let run = |args: &[&str]| engine.beside(args, "secret\n").unwrap();
    done(&run(&["-a", "alice", "--password-stdin"]));
    done(&run(&["alias", "add", "sales", "alice"]));
    for target in ["demo", "a@elsewhere.test"] {
        let refused = run(&["alias", "add", "sales@example.test", target]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("exists already"), "{refused:?}");
    }
    assert!(done(&run(&["alias", "list"])).contains(ALICE));
    done(&run(&["alias", "add", "sales", "demo", "--replace"]));
    assert_eq!(take(&engine, "sales@example.test"), 250);
    assert_eq!(engine.pop().unwrap().stat().unwrap().0, 1);
    let refused = run(&["alias", "add", "out", "a@elsewhere.test"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("own domains") && said.lines().count() == 1, "{said}");
}

#[test]
fn accounts_of_a_stopped_engine_are_there_when_it_starts() {
    let mut engine = Engine::start().unwrap();
    engine.kill();
    done(&engine.beside(&["adduser", ALICE, "--password-stdin"], "later\n").unwrap());
    let engine = engine.again().unwrap();
    assert_eq!(take(&engine, ALICE), 250);
    Pop::login(engine.pop_address(), ALICE, "later").unwrap();
}
