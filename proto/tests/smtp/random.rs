//! Random streams: no panic, bounded replies, and the same dialogue for every cut.

use fsmtp_proto::access::Access;
use fsmtp_proto::sasl::Mechanisms;
use fsmtp_proto::smtp::server::{Limits, Peer};
use proptest::collection::vec;
use proptest::prelude::*;

use super::harness::{Seen, World};

const COMMANDS: &[&str] = &[
    "EHLO client.example\r\n",
    "HELO client.example\r\n",
    "MAIL FROM:<a@sender.example>\r\n",
    "MAIL FROM:<> BODY=BINARYMIME\r\n",
    "MAIL FROM:<a@sender.example> SMTPUTF8 SIZE=10\r\n",
    "MAIL FROM:<disklow@sender.example>\r\n",
    "MAIL FROM:<storage@sender.example>\r\n",
    "MAIL FROM:<unwelcome@sender.example>\r\n",
    "RCPT TO:<b@example.test>\r\n",
    "RCPT TO:<b@example.test>\r\n",
    "RCPT TO:<nobody@example.test>\r\n",
    "RCPT TO:<\u{e9}@example.test> NOTIFY=NEVER\r\n",
    "DATA\r\n",
    "DATA\r\n",
    "BDAT 4\r\n",
    "BDAT 3 LAST\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 5 FIRST\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "VRFY b\r\n",
    "AUTH PLAIN\r\n",
    "AUTH PLAIN AGFsaWNlAHBlbmNpbA==\r\n",
    "AUTH LOGIN YWxpY2U=\r\n",
    "AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\n",
    "AGFsaWNlAHBlbmNpbA==\r\n",
    "*\r\n",
    "STARTTLS\r\n",
    "x\ny\r\n",
    "GET / HTTP/1.1\r\n",
    ".\r\n",
    ".\r\n",
    "\r\n.\r\n",
    "\r\n.\n",
    "..\r\n",
    "text\r\n",
    "\r",
    "\n",
    "QUIT\r\n",
];

fn limits() -> Limits {
    Limits { message_bytes_max: 60, recipients_max: 3, mails_max: 20, ..Limits::default() }
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![
        20 => (0..COMMANDS.len()).prop_map(|i| COMMANDS[i].as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..12),
        1 => vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x')], 0..12),
        1 => (2030usize..2070).prop_map(|len| vec![b'x'; len]),
    ];
    vec(command, 0..40).prop_map(|commands| {
        let hello = b"EHLO client.example\r\n".to_vec();
        [vec![hello], commands].concat().concat()
    })
}

fn run(wire: &[u8], mut piece: impl FnMut() -> usize) -> Seen {
    let peer = Peer { ip: [192, 0, 2, 7].into(), port: 40_001, host: None };
    // Without TLS: what comes behind STARTTLS depends on time, which `secure.rs` looks at.
    let access =
        Access { mechanisms: Mechanisms::ALL, clear_auth_allowed: true, ..Access::default() };
    let mut world = World::with_access(limits(), peer, access);
    let mut rest = wire;
    while !rest.is_empty() {
        let (front, back) = rest.split_at(piece().clamp(1, rest.len()));
        world.receive(front);
        rest = back;
    }
    world.check_replies();
    world.seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_stream_gives_one_dialogue(wire in stream(), pieces in vec(1usize..80, 1..20)) {
        let whole = run(&wire, || usize::MAX);
        prop_assert_eq!(&run(&wire, || 1), &whole);
        let mut pieces = pieces.iter().cycle();
        prop_assert_eq!(&run(&wire, || *pieces.next().expect("a cycle")), &whole);
    }

    #[test]
    fn noise_is_harmless(wire in vec(any::<u8>(), 0..6000)) {
        prop_assert_eq!(run(&wire, || 7), run(&wire, || usize::MAX));
    }
}
