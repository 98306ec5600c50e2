//! Encrypted ports, as far as they can be told from outside without a TLS library: what is offered
//! where, and what happens to clients that do not speak TLS. Who speaks it and breaks it is in
//! `tls_hostile`; other people's clients are in tests/interop.

use core::net::{Ipv4Addr, SocketAddr};

use wire_tests::{Engine, Smtp};

/// Port offsets of the encrypted services.
const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;
const POP3S: u16 = 995;

fn at(engine: &Engine, service: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, engine.base() + service).into()
}

/// Greeted, and what EHLO lists.
fn greeted(engine: &Engine, service: u16) -> (Smtp, String) {
    let mut smtp = Smtp::open(at(engine, service)).expect("a connection");
    smtp.expect(220).expect("a greeting");
    let offered = smtp.command("EHLO client.test").expect("EHLO").lines.join("\n");
    (smtp, offered)
}

#[test]
fn each_port_offers_what_it_is_for() {
    let engine = Engine::shared().unwrap();
    let (mut mx, offered) = greeted(&engine, 25);
    assert!(offered.contains("STARTTLS") && !offered.contains("AUTH"), "{offered}");
    assert_eq!(mx.command("AUTH PLAIN AGRlbW8AZGVtbw==").unwrap().code, 502);
    let (mut submission, offered) = greeted(&engine, SUBMISSION);
    // On loopback, which --dev listens on, passwords are taken in clear too.
    assert!(
        offered.contains("STARTTLS") && offered.contains("AUTH SCRAM-SHA-256 PLAIN LOGIN"),
        "{offered}"
    );
    assert_eq!(submission.command("MAIL FROM:<demo@example.test>").unwrap().code, 530);
    assert_eq!(submission.command("AUTH PLAIN AGRlbW8AZGVtbw==").unwrap().code, 235);
    assert_eq!(submission.command("MAIL FROM:<demo@example.test>").unwrap().code, 250);
}

#[test]
fn what_is_pipelined_behind_starttls_is_refused() {
    let engine = Engine::shared().unwrap();
    let (mut session, _) = greeted(&engine, 25);
    let reply = session.command("STARTTLS\r\nMAIL FROM:<>").unwrap();
    assert_eq!(reply.code, 554);
    assert!(session.ended().unwrap());
}

#[test]
fn who_does_not_speak_tls_is_sent_off_and_disturbs_nobody() {
    let engine = Engine::shared().unwrap();
    for port in [SUBMISSIONS, POP3S] {
        let mut session = Smtp::open(at(&engine, port)).unwrap();
        session.send(b"EHLO client.test\r\n").unwrap();
        assert!(session.ended().unwrap(), "an alert, then the end");
    }
    let (mut session, _) = greeted(&engine, 25);
    assert_eq!(session.command("STARTTLS").unwrap().code, 220);
    session.send(&[0; 600]).unwrap();
    assert!(session.ended().unwrap());
    assert_eq!(greeted(&engine, 25).0.command("NOOP").unwrap().code, 250);
}
