//! What rspamd is asked, what it says, and how it fails.

use super::*;

#[test]
fn rspamd_is_asked_once_with_all_of_it() {
    let mut scenery = one(Protocol::Rspamd, |_, _| reply(r#"{"action":"no action"}"#));
    for piece in [1, 7, usize::MAX] {
        assert_eq!(scenery.session(false, &[MESSAGE], piece), [stored(MESSAGE)]);
        let (_, request) = scenery.heard.borrow_mut().remove(0);
        let head = "POST /checkv2 HTTP/1.1\r\nHost: 192.0.2.1:7357\r\nUser-Agent: fsmtp-engine\r\n\
             Content-Length: 61\r\nConnection: close\r\nIP: 198.51.100.9\r\n\
             Helo: client.example\r\nHostname: unknown\r\nMTA-Name: mx.example.test\r\n\
             Queue-Id: ID1\r\nFrom: a@sender.example\r\nRcpt: b@example.test\r\n\
             Rcpt: c@example.test\r\nTLS-Version: TLS1.3\r\n\
             TLS-Cipher: TLS13_AES_256_GCM_SHA384\r\n\r\n";
        assert_eq!(String::from_utf8(request).unwrap(), format!("{head}{MESSAGE}"));
    }
    assert_eq!(scenery.counters(), [[3, 0, 0, 0, 0, 0]]);
}

#[test]
fn what_rspamd_says_is_done() {
    let junk = Verdict::Junk("score 9.5 of 15.0".into());
    for (json, came) in [
        (
            r#"{"action":"add header","score":9.5,"required_score":15.0,"milter":
               {"add_headers":{"X-Score":"9.5"},"remove_headers":{"From":1}}}"#,
            Came::Stored(
                junk,
                "X-Spam: Yes\r\nSubject: hello\r\n\tworld\r\nX-Score: 9.5\r\n\r\nbody\r\nEND\r\n"
                    .into(),
                Changes::default(),
            ),
        ),
        (
            r#"{"action":"rewrite subject","subject":"***SPAM*** hello"}"#,
            stored("From: a@sender.example\r\nSubject: ***SPAM*** hello\r\n\r\nbody\r\nEND\r\n"),
        ),
        (r#"{"action":"reject"}"#, Came::Late(refused(554, "5.7.1 Spam message rejected"))),
        (r#"{"action":"soft reject"}"#, Came::Late(refused(451, "4.7.1 Try again later"))),
        (r#"{"action":"discard"}"#, Came::Late(Verdict::Discard)),
    ] {
        let mut scenery = one(Protocol::Rspamd, move |_, _| reply(json));
        assert_eq!(scenery.deliver(MESSAGE), came, "{json}");
    }
}

#[test]
fn each_policy_holds_however_rspamd_fails() {
    let silent = "cannot receive from 192.0.2.1:7357: timed out";
    assert_eq!(away(Protocol::Rspamd, silent, |_| Do::Hang), 2);
    assert_eq!(away(Protocol::Rspamd, "the reply is cut short", |_| Do::Close), 2);
    assert_eq!(
        away(Protocol::Rspamd, "the reply is no HTTP", |_| Do::Say(b"x\r\n\r\n".to_vec())),
        2
    );
    let wrong = |_: u8| Do::Say(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    assert_eq!(away(Protocol::Rspamd, "the reply is 403", wrong), 2);
    assert_eq!(away(Protocol::Rspamd, "the reply is no JSON", |_| reply("<html>")), 2);
    let long = |_: u8| Do::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n".to_vec());
    assert_eq!(away(Protocol::Rspamd, "the reply is too long", long), 2);
}

#[test]
fn rspamd_is_not_asked_about_what_is_too_long() {
    let plan = Plan { message_bytes_max: MESSAGE.len(), ..plan(Protocol::Rspamd, WhenAway::Defer) };
    let mut scenery = scenery(&[plan], Options::calm(), |_, _| reply(r#"{"action":"discard"}"#));
    assert_eq!(scenery.deliver(MESSAGE), Came::Late(Verdict::Discard));
    let longer = MESSAGE.replace("END", "THE END");
    assert_eq!(scenery.deliver(&longer), stored(&longer));
    assert_eq!(scenery.counters(), [[1, 0, 1, 0, 0, 1]]);
    assert_eq!(scenery.filters.budget.bytes(), 0);
}

#[test]
fn a_long_message_leaves_in_pieces_and_a_reply_that_drips_is_given_up() {
    let message = format!("X: 1\r\n\r\n{}END\r\n", "x".repeat(99_000));
    let mut scenery = one(Protocol::Rspamd, |_, _| reply(r#"{"action":"no action"}"#));
    assert_eq!(scenery.session(false, &[&message], 5000), [stored(&message)]);
    let request = scenery.heard.borrow_mut().remove(0).1;
    assert!(request.ends_with(message.as_bytes()));
    let mut options = Options::calm();
    options.net.short_reads = 1_000_000;
    let long = format!(r#"{{"action":"no action","x":"{}"}}"#, "x".repeat(2000));
    let plans = [plan(Protocol::Rspamd, WhenAway::Defer)];
    let mut scenery = super::scenery(&plans, options, move |_, _| reply(&long));
    let later = Came::Late(refused(451, "4.7.1 Try again later"));
    assert_eq!(scenery.deliver(MESSAGE), later);
    assert!(scenery.event().contains("the reply comes in too many pieces"));
}
