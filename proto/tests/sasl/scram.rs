//! SCRAM: the client against the server, and every way to spoil it.

use fsmtp_proto::access::Tls;
use fsmtp_proto::sasl::{
    CREDENTIALS_COUNT_MAX, Exchange, Failure, MESSAGE_BYTES_MAX, Mechanism, Mechanisms,
    NAME_BYTES_MAX, NONCE_BYTES_MAX, Offer, Pending, Question, ScramKeys, Step,
};
use proptest::prelude::*;

use super::client::{Client, client_key, keys};

const SALT: &[u8] = b"sixteen bytes...";
const NONCE: [u8; 18] = *b"server nonce here!";

fn tls() -> Tls {
    Tls { exporter: Some([7; 32]), ..Tls::default() }
}

fn start(mechanism: Mechanism, tls: Option<&Tls>, message: &[u8]) -> Step {
    Exchange::start(mechanism, &Offer { mechanisms: Mechanisms::ALL, tls }, Some(message))
}

/// Begins with `first` and gives the exchange that waits for the proof, and the challenge.
fn challenged(mechanism: Mechanism, first: &str, password: &str) -> (Exchange, String) {
    let Step::Ask(Question::ScramKeys { .. }, Pending::Keys(lookup)) =
        start(mechanism, Some(&tls()), first.as_bytes())
    else {
        panic!("keys are asked for");
    };
    let (exchange, challenge) = lookup.keys(&keys(&[password], SALT, 8), &NONCE);
    (exchange, String::from_utf8(challenge).unwrap())
}

fn failure(step: &Step) -> Option<Failure> {
    if let Step::Failed(failure) = step { Some(*failure) } else { None }
}

fn proved(step: &Step) -> bool {
    matches!(step, Step::Challenge(..) | Step::Ask(Question::Proved { .. }, _))
}

fn sign_in(client: &Client, mechanism: Mechanism, password: &str) -> Step {
    let (exchange, challenge) = challenged(mechanism, &client.first(), password);
    let (last, server_proof) = client.last(&challenge);
    match exchange.respond(last.as_bytes()) {
        Step::Challenge(exchange, proof) => {
            assert_eq!(String::from_utf8(proof).unwrap(), server_proof);
            exchange.respond(b"")
        }
        step => step,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_right_password_gives_the_client_key_and_no_other_does(
        user in "[ -~é]{1,40}",
        password in "[ -~ü]{1,40}",
        other in "[ -~ü]{1,40}",
        nonce in "[!-+.-~]{1,60}",
        plus: bool,
    ) {
        let mut client = Client { nonce, ..Client::new(&user, &password) };
        if plus {
            client = client.bound([7; 32]);
        }
        let mechanism = if plus { Mechanism::ScramSha256Plus } else { Mechanism::ScramSha256 };
        let step = sign_in(&client, mechanism, &password);
        let Step::Ask(Question::Proved { user: named, client_key: key }, Pending::Verdict) = step
        else {
            return Err(TestCaseError::fail(format!("{step:?}")));
        };
        prop_assert_eq!(&*named, &user);
        prop_assert_eq!(*key.bytes(), client_key(&password, SALT, 8));
        let step = sign_in(&client, mechanism, &other);
        let disproved = matches!(step, Step::Ask(Question::Disproved { .. }, Pending::Lost));
        prop_assert_eq!(disproved, other != password);
    }

    #[test]
    fn a_changed_byte_is_never_right(at in 0usize..200, byte: u8, first: bool) {
        let client = Client::new("alice", "pencil");
        let (mut exchange, mut challenge) =
            challenged(Mechanism::ScramSha256, &client.first(), "pencil");
        let mut last = client.last(&challenge).0.into_bytes();
        if first {
            let mut message = client.first().into_bytes();
            let at = at % message.len();
            prop_assume!(message[at] != byte);
            message[at] = byte;
            let Step::Ask(_, Pending::Keys(lookup)) =
                start(Mechanism::ScramSha256, Some(&tls()), &message) else { return Ok(()) };
            let (changed, said) = lookup.keys(&keys(&["pencil"], SALT, 8), &NONCE);
            (exchange, challenge) = (changed, String::from_utf8(said).unwrap());
            // A client goes on only with a nonce that begins with its own (RFC 5802 §5.1).
            prop_assume!(challenge.starts_with(&format!("r={}", client.nonce)));
            last = client.last(&challenge).0.into();
        } else {
            let at = at % last.len();
            prop_assume!(last[at] != byte);
            last[at] = byte;
        }
        prop_assert!(!proved(&exchange.respond(&last)));
    }

    #[test]
    fn noise_is_harmless(noise: Vec<u8>, pick in 0usize..6) {
        let tls = Tls { certificate: Some("alice".into()), ..tls() };
        let mut step = start(Mechanism::ALL[pick], Some(&tls), &noise);
        for _ in 0..4 {
            step = match step {
                Step::Challenge(exchange, _) => exchange.respond(&noise),
                Step::Ask(_, Pending::Keys(lookup)) => {
                    let (exchange, _) = lookup.keys(&keys(&["pencil"], SALT, 1), &NONCE);
                    exchange.respond(&noise)
                }
                step => step,
            };
        }
        prop_assert!(!matches!(step, Step::Challenge(..)), "four messages are the most");
    }
}

#[test]
fn messages_that_are_cut_are_refused() {
    let client = Client::new("alice", "pencil");
    let first = client.first();
    let (_, challenge) = challenged(Mechanism::ScramSha256, &first, "pencil");
    let last = client.last(&challenge).0;
    for len in 0..first.len() {
        let step = start(Mechanism::ScramSha256, None, &first.as_bytes()[..len]);
        // A shorter nonce is a nonce.
        let nonce_begun = len > first.len() - client.nonce.len();
        assert_eq!(failure(&step), (!nonce_begun).then_some(Failure::Malformed), "{len}");
    }
    for len in 0..last.len() {
        let (exchange, _) = challenged(Mechanism::ScramSha256, &first, "pencil");
        let step = exchange.respond(&last.as_bytes()[..len]);
        assert_eq!(failure(&step), Some(Failure::Malformed), "{len}");
    }
}

#[test]
fn first_messages_that_are_wrong_have_a_defined_failure() {
    use Failure::{Malformed, Refused};
    let long = |len: usize| "x".repeat(len);
    let name = |len| format!("n,,n={},r=abc", long(len));
    let nonce = |len| format!("n,,n=alice,r={}", long(len));
    for (message, failed) in [
        ("n,,n=alice,r=abc", None),
        ("n,a=alice,n=alice,r=abc", None),
        ("n,,n=alice,r=abc,x=ignored", None),
        ("n,a=bob,n=alice,r=abc", Some(Refused)),
        ("n,,n=,r=abc", Some(Refused)),
        ("n,,n=al=69ce,r=abc", Some(Malformed)),
        ("n,,n=alice,r=", Some(Malformed)),
        ("n,,n=alice,r=a b", Some(Malformed)),
        ("n,,r=abc,n=alice", Some(Malformed)),
        ("n,,m=must,n=alice,r=abc", Some(Malformed)),
        ("n,alice,n=alice,r=abc", Some(Malformed)),
        ("n,,n=ali\0ce,r=abc", Some(Malformed)),
        ("q,,n=alice,r=abc", Some(Malformed)),
        ("p=tls-exporter,,n=alice,r=abc", Some(Refused)),
        ("", Some(Malformed)),
        (&name(NAME_BYTES_MAX), None),
        (&name(NAME_BYTES_MAX + 1), Some(Refused)),
        (&nonce(NONCE_BYTES_MAX), None),
        (&nonce(NONCE_BYTES_MAX + 1), Some(Malformed)),
        (&format!("n,,n=alice,r=abc,x={}", long(MESSAGE_BYTES_MAX)), Some(Malformed)),
    ] {
        let step = start(Mechanism::ScramSha256, None, message.as_bytes());
        assert_eq!(failure(&step), failed, "{message}");
    }
}

#[test]
fn a_client_is_bound_to_the_channel_or_not_let_in() {
    use Mechanism::{ScramSha256, ScramSha256Plus};
    let tls = tls();
    for (mechanism, tls, header, begins) in [
        (ScramSha256, Some(&tls), "n,,", true),
        // It would bind and was told that we cannot: somebody has changed what we offer.
        (ScramSha256, Some(&tls), "y,,", false),
        (ScramSha256, None, "y,,", true),
        (ScramSha256, Some(&tls), "p=tls-exporter,,", false),
        (ScramSha256Plus, Some(&tls), "p=tls-exporter,,", true),
        (ScramSha256Plus, Some(&tls), "p=tls-unique,,", false),
        (ScramSha256Plus, Some(&tls), "n,,", false),
        (ScramSha256Plus, Some(&tls), "y,,", false),
        (ScramSha256Plus, None, "p=tls-exporter,,", false),
    ] {
        let message = format!("{header}n=alice,r=abc");
        let step = start(mechanism, tls, message.as_bytes());
        let expected = (!begins).then_some(Failure::Refused);
        assert_eq!(failure(&step), expected, "{mechanism:?} {header}");
    }
    // The proof of another channel, though the password is right.
    let elsewhere = Client::new("alice", "pencil").bound([8; 32]);
    assert_eq!(failure(&sign_in(&elsewhere, ScramSha256Plus, "pencil")), Some(Failure::Refused));
}

#[test]
fn every_password_of_a_user_signs_in_up_to_the_limit() {
    let passwords: Vec<String> = (0..=CREDENTIALS_COUNT_MAX).map(|n| format!("word {n}")).collect();
    let passwords: Vec<&str> = passwords.iter().map(String::as_str).collect();
    let all = keys(&passwords, SALT, 1);
    let none = ScramKeys { salt: SALT.into(), iterations: 1, credentials: Box::default() };
    for (keys, password, right) in [
        (&all, passwords[0], true),
        (&all, passwords[1], true),
        (&all, passwords[CREDENTIALS_COUNT_MAX - 1], true),
        (&all, passwords[CREDENTIALS_COUNT_MAX], false),
        (&all, "another", false),
        (&none, passwords[0], false),
    ] {
        let client = Client::new("alice", password);
        let first = client.first();
        let Step::Ask(_, Pending::Keys(lookup)) =
            start(Mechanism::ScramSha256, None, first.as_bytes())
        else {
            panic!("keys are asked for");
        };
        let (exchange, challenge) = lookup.keys(keys, &NONCE);
        let (last, server_proof) = client.last(&String::from_utf8(challenge).unwrap());
        match exchange.respond(last.as_bytes()) {
            Step::Challenge(exchange, proof) => {
                // The proof of the same password: a client with another would not believe it.
                assert!(right && proof == server_proof.as_bytes(), "{password}");
                let Step::Ask(Question::Proved { client_key: key, .. }, _) = exchange.respond(b"")
                else {
                    panic!("{password} is right");
                };
                assert_eq!(*key.bytes(), client_key(password, SALT, 1));
            }
            Step::Ask(Question::Disproved { .. }, Pending::Lost) => assert!(!right, "{password}"),
            step => panic!("{password}: {step:?}"),
        }
    }
}

#[test]
fn a_client_that_goes_on_after_the_end_is_refused() {
    let client = Client::new("alice", "pencil");
    let (exchange, challenge) = challenged(Mechanism::ScramSha256, &client.first(), "pencil");
    let last = client.last(&challenge).0;
    let Step::Challenge(exchange, _) = exchange.respond(last.as_bytes()) else {
        panic!("the proof is right");
    };
    assert_eq!(failure(&exchange.respond(last.as_bytes())), Some(Failure::Malformed));
}

#[test]
fn keys_and_passwords_do_not_show() {
    let client = Client::new("alice", "pencil");
    let step = sign_in(&client, Mechanism::ScramSha256, "pencil");
    let text = format!("{step:?} {:?}", keys(&["pencil"], SALT, 8));
    let expected =
        r#"Ask(Proved { user: "alice", client_key: ClientKey }, Verdict) ScramKeys(8 iterations)"#;
    assert_eq!(text, expected);
    let (exchange, _) = challenged(Mechanism::ScramSha256, &client.first(), "pencil");
    assert_eq!(format!("{exchange:?}"), r#"Exchange(ScramProof(Second("alice")))"#);
    let step = start(Mechanism::Plain, None, b"\0alice\0pencil");
    let text = format!("{step:?}");
    assert_eq!(text, r#"Ask(Password { user: "alice", password: Secret }, Verdict)"#);
}
