//! Hostile messages in every mechanism: no panic, an end after at most four messages, challenges
//! that fit one reply line, and no proof that was not made from the password is right. The first
//! byte chooses mechanism and channel; a zero byte and 0xff part the messages.
#![no_main]

use fsmtp_proto::access::Tls;
use fsmtp_proto::sasl::{
    Exchange, Mechanism, Mechanisms, NAME_BYTES_MAX, Offer, PASSWORD_BYTES_MAX, Pending, Question,
    ScramCredential, ScramKeys, Step,
};
use libfuzzer_sys::fuzz_target;

const CHALLENGE_BYTES_MAX: usize = 372;

fn check(question: &Question) {
    let name = |user: &str| {
        assert!(!user.is_empty() && user.len() <= NAME_BYTES_MAX);
        assert!(!user.chars().any(char::is_control));
    };
    match question {
        Question::Password { user, password } => {
            name(user);
            assert!((1..=PASSWORD_BYTES_MAX).contains(&password.bytes().len()));
        }
        Question::ScramKeys { user } | Question::Disproved { user } => name(user),
        Question::External { user } => assert_eq!(&**user, "alice"),
        Question::Bearer { token, .. } => assert!(token.bytes().iter().all(u8::is_ascii_graphic)),
        // The keys below belong to no password that anybody knows.
        Question::Proved { .. } => panic!("a proof out of nothing"),
    }
}

fuzz_target!(|data: &[u8]| {
    let [pick, bytes @ ..] = data else { return };
    let tls = Tls { exporter: Some([7; 32]), certificate: Some("alice".into()), ..Tls::default() };
    let tls = (pick & 0x80 == 0).then_some(&tls);
    let offer = Offer { mechanisms: Mechanisms::ALL, tls };
    let mechanism = Mechanism::ALL[usize::from(*pick & 0x7f) % Mechanism::ALL.len()];
    let keys = ScramKeys {
        salt: [1; 64].into(),
        iterations: u32::MAX,
        credentials: [ScramCredential { stored_key: [2; 32], server_key: [3; 32] }].into(),
    };
    let mut rest = bytes;
    let mut message = || {
        let end = rest.windows(2).position(|pair| pair == [0, 0xff]);
        let message = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        rest = end.and_then(|end| rest.get(end + 2..)).unwrap_or_default();
        message
    };
    let _ = Exchange::begin(bytes, &offer);
    let mut step = Exchange::start(mechanism, &offer, Some(message()));
    for _ in 0..4 {
        step = match step {
            Step::Challenge(exchange, challenge) => {
                assert!(challenge.len() <= CHALLENGE_BYTES_MAX);
                exchange.respond(message())
            }
            Step::Ask(question, pending) => {
                check(&question);
                let Pending::Keys(lookup) = pending else { return };
                let (exchange, challenge) = lookup.keys(&keys, &[4; 18]);
                Step::Challenge(exchange, challenge)
            }
            Step::Failed(_) => return,
        };
    }
    panic!("an exchange without end");
});
