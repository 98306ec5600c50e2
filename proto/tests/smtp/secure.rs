//! TLS and sign-in: what dialogues cannot show.

use std::net::{IpAddr, Ipv4Addr};

use fsmtp_proto::access::{Access, Tls, TlsMode};
use fsmtp_proto::sasl::Mechanisms;
use fsmtp_proto::smtp::server::{FAILURES_MAX, Limits, Peer, Settings, SettingsError};

use super::harness::World;

const PEER: Peer = Peer { ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), port: 40_001, host: None };
const SUBMISSION: Access = Access {
    tls: TlsMode::StartTls,
    mechanisms: Mechanisms::PASSWORD,
    submission: true,
    clear_auth_allowed: false,
};

fn world(access: Access) -> World {
    World::with_access(Limits::default(), PEER, access)
}

fn replies(world: &World) -> String {
    world.check_replies();
    String::from_utf8(world.seen.replies.clone()).expect("replies are UTF-8")
}

#[test]
fn what_stands_behind_starttls_is_refused_and_no_handshake_begins() {
    for behind in ["EHLO evil.example\r\n", "\r\n", "x", "\x16\x03\x01"] {
        let mut world = world(SUBMISSION);
        world.receive(format!("EHLO client.example\r\nSTARTTLS\r\n{behind}").as_bytes());
        let last = "554 5.5.1 Nothing may follow STARTTLS, closing - fsmtp\r\n";
        assert!(replies(&world).ends_with(last), "{behind:?}");
        assert!(!replies(&world).contains("220 2.0.0"));
        assert!(world.seen.closed && world.seen.asked.is_empty());
    }
}

#[test]
fn the_trace_header_tells_tls_and_sign_in() {
    let clear = Access { clear_auth_allowed: true, ..SUBMISSION };
    for (tls, auth, words) in [
        (false, false, ["ESMTP", "UTF8SMTP"]),
        (false, true, ["ESMTPA", "UTF8SMTPA"]),
        (true, false, ["ESMTPS", "UTF8SMTPS"]),
        (true, true, ["ESMTPSA", "UTF8SMTPSA"]),
    ] {
        let mut world = world(clear);
        world.receive(b"EHLO client.example\r\n");
        if tls {
            world.receive(b"STARTTLS\r\n");
            world.handshake(Tls { version: "TLS1.3", cipher: "c", ..Tls::default() });
            assert_eq!(world.session().protocol(false), "SMTP", "EHLO is forgotten");
            assert_eq!(world.session().client_name(), None);
            world.receive(b"EHLO client.example\r\n");
        }
        if auth {
            world.receive(b"AUTH PLAIN AGFsaWNlAHBlbmNpbA==\r\n");
        }
        let session = world.session();
        assert_eq!([session.protocol(false), session.protocol(true)], words);
        assert_eq!(session.user(), auth.then_some("alice@example.test"));
        assert_eq!(session.tls().map(|tls| tls.version), tls.then_some("TLS1.3"));
    }
}

#[test]
fn failures_are_counted_over_the_handshake_too() {
    let mut world = world(Access { clear_auth_allowed: true, ..SUBMISSION });
    let wrong = b"AUTH PLAIN AGFsaWNlAGVyYXNlcg==\r\n";
    world.receive(b"EHLO client.example\r\n");
    for _ in 1..FAILURES_MAX {
        world.receive(wrong);
    }
    world.receive(b"STARTTLS\r\n");
    world.handshake(Tls::default());
    world.receive(b"EHLO client.example\r\n");
    world.receive(wrong);
    assert!(world.seen.closed);
    assert_eq!(replies(&world).matches("535 ").count(), usize::from(FAILURES_MAX));
}

#[test]
fn going_down_in_a_handshake_is_silent_and_in_an_exchange_is_said() {
    let mut silent = world(SUBMISSION);
    silent.receive(b"EHLO client.example\r\nSTARTTLS\r\n");
    silent.shut_down();
    assert!(replies(&silent).ends_with("220 2.0.0 Ready to start TLS - fsmtp\r\n"));
    let mut said = world(Access { clear_auth_allowed: true, ..SUBMISSION });
    said.receive(b"EHLO client.example\r\nAUTH PLAIN\r\n");
    assert!(!said.session().in_transaction());
    said.shut_down();
    assert!(said.seen.closed && replies(&said).contains("\r\n421 4.3.2 "));
}

#[test]
fn submission_needs_a_way_in() {
    let new = |access| {
        let settings = Settings::new("mx.example.test", Limits::default());
        settings.expect("settings").with_access(access).map(|_| ())
    };
    assert_eq!(new(SUBMISSION), Ok(()));
    let none = Access { mechanisms: Mechanisms::NONE, ..SUBMISSION };
    assert_eq!(new(none), Err(SettingsError::Submission));
    let unreachable = Access { tls: TlsMode::None, ..SUBMISSION };
    assert_eq!(new(unreachable), Err(SettingsError::Submission));
    assert_eq!(new(Access { clear_auth_allowed: true, ..unreachable }), Ok(()));
}
