//! The other mechanisms, and how all of them begin: tables of what is taken and what is not.

use fsmtp_proto::access::Tls;
use fsmtp_proto::sasl::{
    Exchange, Failure, Mechanism, Mechanisms, NAME_BYTES_MAX, Offer, PASSWORD_BYTES_MAX, Question,
    Step, TOKEN_BYTES_MAX,
};

fn begin(argument: &str, tls: Option<&Tls>) -> Step {
    Exchange::begin(argument.as_bytes(), &Offer { mechanisms: Mechanisms::ALL, tls })
}

fn start(mechanism: Mechanism, tls: Option<&Tls>, message: &[u8]) -> Result<String, Failure> {
    result(Exchange::start(mechanism, &Offer { mechanisms: Mechanisms::ALL, tls }, Some(message)))
}

/// A step in a word: who is asked about and with what.
fn result(step: Step) -> Result<String, Failure> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match step {
        Step::Failed(failure) => Err(failure),
        Step::Challenge(_, challenge) => Ok(format!("challenge {}", text(&challenge))),
        Step::Ask(Question::Password { user, password }, _) => {
            Ok(format!("{user}/{}", text(password.bytes())))
        }
        Step::Ask(Question::Bearer { user, token }, _) => {
            Ok(format!("{user}/{}", text(token.bytes())))
        }
        Step::Ask(Question::External { user }, _) => Ok(user.into()),
        Step::Ask(question, _) => Ok(format!("{question:?}")),
    }
}

#[test]
fn plain_is_three_texts_and_nothing_else() {
    use Failure::{Malformed, Refused};
    let name = |len: usize| format!("\0{}\0p", "n".repeat(len));
    let password = |len: usize| format!("\0n\0{}", "p".repeat(len));
    for (message, expected) in [
        (&b"\0alice\0pencil"[..], Ok("alice/pencil")),
        (b"alice\0alice\0pencil", Ok("alice/pencil")),
        ("\0jos\u{e9}\0tr\u{e8}s long".as_bytes(), Ok("jos\u{e9}/tr\u{e8}s long")),
        (b"bob\0alice\0pencil", Err(Refused)),
        (b"\0alice\0", Err(Refused)),
        (b"\0\0pencil", Err(Refused)),
        (b"\0alice\0pen\x07cil", Err(Refused)),
        (b"\0al\nice\0pencil", Err(Refused)),
        ("\0al\u{85}ice\0pencil".as_bytes(), Err(Refused)),
        (b"\0alice\0\xff", Err(Malformed)),
        (b"\0\xff\0pencil", Err(Malformed)),
        (b"\0alice\0pencil\0", Err(Malformed)),
        (b"\0alice\0pen\0cil", Err(Malformed)),
        (b"alice\0pencil", Err(Malformed)),
        (b"alice", Err(Malformed)),
        (b"", Err(Malformed)),
    ] {
        let expected = expected.map(str::to_owned);
        assert_eq!(start(Mechanism::Plain, None, message), expected, "{}", message.escape_ascii());
    }
    assert!(start(Mechanism::Plain, None, name(NAME_BYTES_MAX).as_bytes()).is_ok());
    assert!(start(Mechanism::Plain, None, password(PASSWORD_BYTES_MAX).as_bytes()).is_ok());
    let (name, password) = (name(NAME_BYTES_MAX + 1), password(PASSWORD_BYTES_MAX + 1));
    assert_eq!(start(Mechanism::Plain, None, name.as_bytes()), Err(Refused));
    assert_eq!(start(Mechanism::Plain, None, password.as_bytes()), Err(Refused));
}

#[test]
fn login_asks_twice() {
    let Step::Challenge(exchange, _) = begin("login YWxpY2U=", None) else {
        panic!("the password is asked for");
    };
    assert_eq!(result(exchange.line(b"cGVuY2ls")), Ok("alice/pencil".into()));
    let Step::Challenge(exchange, asked) = begin("LOGIN", None) else {
        panic!("the name is asked for");
    };
    assert_eq!(asked, b"Username:");
    assert_eq!(result(exchange.line(b"YWxpY2U=")), Ok("challenge Password:".into()));
}

#[test]
fn lines_are_canonical_base64() {
    use Failure::{Cancelled, Malformed, Mechanism};
    for (argument, expected) in [
        ("PLAIN AGFsaWNlAHBlbmNpbA==", Ok("alice/pencil")),
        ("plain", Ok("challenge ")),
        ("SCRAM-SHA-256", Ok("challenge ")),
        ("PLAIN AGFsaWNlAHBlbmNpbA=", Err(Malformed)),
        ("PLAIN AGFsaWNlAHBlbmNpbA", Err(Malformed)),
        // The bits that the padding hides must be zero.
        ("PLAIN AGFsaWNlAHBlbmNpbB==", Err(Malformed)),
        ("PLAIN AGFsaWNlAHBlbmNpbA== x", Err(Malformed)),
        ("PLAIN  AGFsaWNlAHBlbmNpbA==", Err(Malformed)),
        ("PLAIN AGFsaWNl-HBlbmNpbA==", Err(Malformed)),
        ("PLAIN =", Err(Malformed)),
        ("PLAIN ", Err(Malformed)),
        ("PLAIN *", Err(Malformed)),
        ("CRAM-MD5", Err(Mechanism)),
        ("", Err(Mechanism)),
    ] {
        assert_eq!(result(begin(argument, None)), expected.map(str::to_owned), "{argument}");
    }
    for (line, expected) in
        [("AGFsaWNlAHBlbmNpbA==", Ok("alice/pencil")), ("*", Err(Cancelled)), ("=", Err(Malformed))]
    {
        let Step::Challenge(exchange, _) = begin("PLAIN", None) else { panic!("a challenge") };
        assert_eq!(result(exchange.line(line.as_bytes())), expected.map(str::to_owned));
    }
    let none = Offer { mechanisms: Mechanisms::NONE, tls: None };
    assert_eq!(result(Exchange::begin(b"PLAIN", &none)), Err(Mechanism));
}

#[test]
fn a_certificate_speaks_for_its_owner_only() {
    let tls = Tls { certificate: Some("alice@example.test".into()), ..Tls::default() };
    for (message, expected) in [
        ("", Ok("alice@example.test".to_owned())),
        ("alice@example.test", Ok("alice@example.test".to_owned())),
        ("bob@example.test", Err(Failure::Refused)),
    ] {
        assert_eq!(start(Mechanism::External, Some(&tls), message.as_bytes()), expected);
    }
    assert_eq!(start(Mechanism::External, None, b""), Err(Failure::Refused));
}

#[test]
fn a_bearer_token_is_cut_out_of_its_message() {
    use Failure::{Malformed, Refused};
    let long = |len: usize| format!("n,,\x01auth=Bearer {}\x01\x01", "t".repeat(len));
    for (message, expected) in [
        ("n,a=alice,\x01host=mx\x01auth=Bearer vF9+/-._~==\x01\x01", Ok("alice/vF9+/-._~==")),
        ("n,a=a=2Cb,\x01auth=bearer t\x01\x01", Ok("a,b/t")),
        ("n,,\x01auth=Bearer t\x01\x01", Ok("/t")),
        ("y,,\x01auth=Bearer t\x01\x01", Ok("/t")),
        ("p=tls-exporter,,\x01auth=Bearer t\x01\x01", Err(Malformed)),
        ("n,,\x01auth=Bearer t\x01auth=Bearer t\x01\x01", Err(Malformed)),
        ("n,,\x01auth=Basic t\x01\x01", Err(Malformed)),
        ("n,,\x01auth=Bearer \x01\x01", Err(Malformed)),
        ("n,,\x01auth=Bearer a b\x01\x01", Err(Malformed)),
        ("n,,\x01auth=Bearer t\x01", Err(Malformed)),
        ("n,,\x01host=mx\x01\x01", Err(Malformed)),
        ("n,,\x01\x01", Err(Malformed)),
        ("n,,", Err(Malformed)),
        ("n,a=,\x01auth=Bearer t\x01\x01", Err(Refused)),
        ("", Err(Malformed)),
    ] {
        let found = start(Mechanism::OauthBearer, None, message.as_bytes());
        assert_eq!(found, expected.map(str::to_owned), "{message:?}");
    }
    assert!(start(Mechanism::OauthBearer, None, long(TOKEN_BYTES_MAX).as_bytes()).is_ok());
    let found = start(Mechanism::OauthBearer, None, long(TOKEN_BYTES_MAX + 1).as_bytes());
    assert_eq!(found, Err(Refused));
}
