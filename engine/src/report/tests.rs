//! Tests of reports: against those that lie in tests/vectors/report, read back by mail-parser and,
//! where there is a python3, by its `email` package; hostile words; every limit.
//!
//! With `WRITE_VECTORS=1` the tests write the reports instead of comparing them.

use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};
use proptest::prelude::*;

use super::*;
use crate::compose::tests::{RANDOM, assert_lines, assert_python_agrees, assert_vector};

const FOLDER: &str = "tests/vectors/report";
const TAKEN: UnixTime = UnixTime::from_ms(1_599_574_837_000);
const TRIED: UnixTime = UnixTime::from_ms(1_599_574_842_000);
const UNTIL: UnixTime = UnixTime::from_ms(1_600_006_837_000);
const ORIGINAL: &[u8] = b"Received: from x by y\r\nSubject: Lunch\r\n\
    Message-ID: <lunch@client.test>\r\nTo: bob@example.org\r\n\r\nAt noon?\r\n";

const LOG: [LogLine<'_>; 2] = [
    LogLine { at: TAKEN, text: "MX of example.org: mx.example.org" },
    LogLine { at: TRIED, text: "RCPT TO:<bob@example.org> -> 550 5.1.1 <no such user>" },
];

const BOB: Recipient<'_> = Recipient {
    address: "bob@example.org",
    orcpt: None,
    status: Status(5, 1, 1),
    remote: Some("mx.example.org"),
    said: Some(b"550 5.1.1 The email account that you tried to reach does not exist."),
    reason: None,
    last_attempt: Some(TRIED),
    retry_until: None,
    log: &LOG,
};

fn mailbox(text: &str) -> Path<'_> {
    Path::Mailbox(Mailbox::parse(text).unwrap())
}

fn report<'a>(kind: Kind, recipients: &'a [Recipient<'a>]) -> Report<'a> {
    Report {
        kind,
        node: "mail.fannst.test",
        postmaster: "postmaster@fannst.test",
        sender: mailbox("webmaster@fannst.test"),
        arrival: TAKEN,
        envelope_id: None,
        ret: None,
        utf8: false,
        recipients,
        original: Original::Whole(ORIGINAL),
        date: TRIED,
        message_id: "report@mail.fannst.test",
    }
}

fn composed(report: &Report<'_>) -> Composed {
    let composed = report.compose(&RANDOM).unwrap();
    assert_lines(&composed.bytes);
    composed
}

fn parsed(composed: &Composed) -> Message<'_> {
    let message = MessageParser::new().parse(&composed.bytes).unwrap();
    assert_eq!(message.parts[0].content_type().unwrap().subtype(), Some("report"));
    let kind = message.parts[0].content_type().unwrap().attribute("report-type");
    assert_eq!(kind, Some("delivery-status"));
    message
}

/// The names of the types of the parts, and the fields of the second part.
fn fields(message: &Message<'_>) -> (Vec<String>, String) {
    let PartType::Multipart(children) = &message.parts[0].body else { panic!("no multipart") };
    let part = |at: usize| &message.parts[children[at] as usize];
    let names = (0..children.len()).map(|at| {
        let media_type = part(at).content_type().unwrap();
        format!("{}/{}", media_type.ctype(), media_type.subtype().unwrap())
    });
    (names.collect(), String::from_utf8(part(1).contents().to_vec()).unwrap())
}

#[test]
fn a_failure_is_told_to_people_and_programs() {
    let carol = Recipient {
        address: "carol@example.org",
        orcpt: Some(b"rfc822;Carol+2BLists@alumni.example.org"),
        status: Status(5, 4, 7),
        remote: None,
        said: None,
        reason: Some("No host of example.org could be reached for five days."),
        log: &[],
        ..BOB
    };
    let recipients = [BOB, carol];
    let failed = Report { envelope_id: Some(b"QQ+2B314159"), ..report(Kind::Failed, &recipients) };
    let composed = composed(&failed);
    assert!(!composed.eight_bit && !composed.utf8 && composed.bytes.is_ascii());
    assert_vector(FOLDER, "failed", &composed.bytes);
    let message = parsed(&composed);
    assert_eq!(message.subject(), Some("SMTP Delivery failure"));
    assert_eq!(message.header_raw("Auto-Submitted").unwrap().trim(), "auto-replied");
    assert_eq!(message.in_reply_to().as_text(), Some("lunch@client.test"));
    assert_eq!(message.references().as_text(), Some("lunch@client.test"));
    assert_eq!(message.to().unwrap().first().unwrap().address(), Some("webmaster@fannst.test"));
    let (names, fields) = fields(&message);
    let parts = ["multipart/alternative", "message/delivery-status", "text/rfc822-headers"];
    assert_eq!(names, parts);
    assert_eq!(
        fields,
        "Original-Envelope-Id: QQ+314159\r\n\
         Reporting-MTA: dns; mail.fannst.test\r\n\
         Arrival-Date: Tue, 08 Sep 2020 14:20:37 +0000\r\n\
         \r\n\
         Final-Recipient: rfc822; bob@example.org\r\n\
         Action: failed\r\n\
         Status: 5.1.1\r\n\
         Remote-MTA: dns; mx.example.org\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 The email account that you tried to reach\r\n \
         does not exist.\r\n\
         Last-Attempt-Date: Tue, 08 Sep 2020 14:20:42 +0000\r\n\
         \r\n\
         Original-Recipient: rfc822; Carol+Lists@alumni.example.org\r\n\
         Final-Recipient: rfc822; carol@example.org\r\n\
         Action: failed\r\n\
         Status: 5.4.7\r\n\
         Last-Attempt-Date: Tue, 08 Sep 2020 14:20:42 +0000\r\n"
    );
    let headers = message.parts.last().unwrap();
    assert!(matches!(&headers.body, PartType::Text(t) if t.ends_with("To: bob@example.org\r\n")));
}

#[test]
fn each_kind_has_its_words_and_action() {
    let waiting = Recipient { status: Status(4, 4, 1), retry_until: Some(UNTIL), ..BOB };
    let done = Recipient { status: Status(2, 0, 0), said: None, retry_until: Some(UNTIL), ..BOB };
    for (kind, recipient, name, subject, retries) in [
        (Kind::Delayed, waiting, "delayed", "SMTP Delivery delayed", true),
        (Kind::Delivered, done, "delivered", "SMTP Delivery done", false),
        (Kind::Relayed, done, "relayed", "SMTP Delivery passed on", false),
    ] {
        let recipients = [recipient];
        // RET=FULL speaks of failures only.
        let composed = composed(&Report { ret: Some(Ret::Full), ..report(kind, &recipients) });
        assert_vector(FOLDER, name, &composed.bytes);
        let message = parsed(&composed);
        assert_eq!(message.subject(), Some(subject));
        let (names, fields) = fields(&message);
        assert_eq!(names[2], "text/rfc822-headers");
        assert!(fields.contains(&format!("Action: {name}\r\n")));
        assert_eq!(fields.contains("Will-Retry-Until: "), retries);
        let text = message.body_text(0).unwrap();
        assert_eq!(text.contains("tried again until Sun, 13 Sep 2020"), retries, "{text}");
    }
}

#[test]
fn a_whole_message_goes_back_as_it_came() {
    let eight = b"Subject: x\r\n\r\nA caf\xc3\xa9\xff\r\n";
    let utf8 = "Subject: é\r\n\r\nÉ\r\n".as_bytes();
    let big = [ORIGINAL, &b"0123456789abcde\n".repeat(WHOLE_BYTES_MAX / 16)].concat();
    let big = String::from_utf8(big).unwrap().replace("e\n", "\r\n").into_bytes();
    let (exact, long) = (big.get(..WHOLE_BYTES_MAX).unwrap(), "a: b\r\n\r\n".to_owned());
    let long = long + &"x".repeat(999);
    let header = "text/rfc822-headers";
    for (original, way_utf8, name, eight_bit, international) in [
        (Original::Whole(ORIGINAL), false, "message/rfc822", false, false),
        (Original::Whole(exact), false, "message/rfc822", false, false),
        (Original::Whole(&big), false, header, false, false),
        (Original::Header(ORIGINAL), false, header, false, false),
        (Original::Whole(eight), false, "message/rfc822", true, false),
        (Original::Whole(utf8), false, header, false, false),
        (Original::Whole(utf8), true, "message/global", true, true),
        (Original::Header(utf8), true, "message/global-headers", true, true),
        (Original::Whole(b"a: b\r\n\r\nbare\nline"), false, header, false, false),
        (Original::Whole(b"a: bare\nline\r"), false, header, false, false),
        (Original::Whole(long.as_bytes()), false, header, false, false),
        (Original::Whole(b"a: \xff\r\n\r\n"), true, header, false, false),
        (Original::Whole(b""), false, "message/rfc822", false, false),
    ] {
        let recipients = [BOB];
        let report = Report {
            ret: Some(Ret::Full),
            utf8: way_utf8,
            original,
            ..report(Kind::Failed, &recipients)
        };
        let composed = composed(&report);
        assert_eq!((composed.eight_bit, composed.utf8), (eight_bit, international), "{original:?}");
        assert_eq!(fields(&parsed(&composed)).0[2], name, "{original:?}");
    }
    let recipients = [BOB];
    let report = Report {
        ret: Some(Ret::Full),
        original: Original::Whole(eight),
        ..report(Kind::Failed, &recipients)
    };
    assert_vector(FOLDER, "failed-full", &composed(&report).bytes);
}

#[test]
fn an_address_in_utf8_is_said_as_the_way_allows() {
    let zoe = Recipient {
        address: "zoë@exämple.org",
        orcpt: Some("utf-8;Zoë@exämple.org".as_bytes()),
        said: Some("550 5.1.1 Zoë unbekannt".as_bytes()),
        ..BOB
    };
    let recipients = [zoe];
    let ascii = composed(&report(Kind::Failed, &recipients));
    assert!(!ascii.utf8 && !ascii.eight_bit && ascii.bytes.is_ascii());
    assert_vector(FOLDER, "utf8-address-in-ascii", &ascii.bytes);
    let (names, text) = fields(&parsed(&ascii));
    assert_eq!(names[1], "message/delivery-status");
    assert!(text.contains("Final-Recipient: utf-8; zo\\x{EB}@ex\\x{E4}mple.org\r\n"), "{text}");
    assert!(text.contains("Original-Recipient: utf-8; Zo\\x{EB}@ex\\x{E4}mple.org\r\n"), "{text}");

    let utf8 = composed(&Report { utf8: true, ..report(Kind::Failed, &recipients) });
    assert!(utf8.utf8 && utf8.eight_bit);
    assert_vector(FOLDER, "utf8-address", &utf8.bytes);
    let (names, text) = fields(&parsed(&utf8));
    assert_eq!(names[1], "message/global-delivery-status");
    assert!(text.contains("Final-Recipient: utf-8; zoë@exämple.org\r\n"), "{text}");

    // A sender with such an address can get the report by SMTPUTF8 only.
    let recipients = [BOB];
    let sender = mailbox("zoë@fannst.test");
    let to_utf8 = composed(&Report { sender, ..report(Kind::Failed, &recipients) });
    assert!(to_utf8.utf8 && to_utf8.eight_bit);
    // What asked for SMTPUTF8 without need gets a report that any host carries.
    let without_need = composed(&Report { utf8: true, ..report(Kind::Failed, &recipients) });
    assert!(!without_need.utf8 && !without_need.eight_bit);
}

#[test]
fn python_reads_the_same() {
    assert_python_agrees(FOLDER);
}

#[test]
fn what_others_said_begins_nothing_of_its_own() {
    let said = "550 </em><script>x()</script>\r\n\r\nAction: delivered\r\n--=_1_\u{202e}\0\x1b[2J";
    let log = [LogLine { at: TRIED, text: said }];
    let evil = Recipient {
        address: "<b>\"\r\nAction: relayed\"@x",
        orcpt: Some(b"rfc822;a+0D+0AAction: delivered"),
        remote: Some("mx\r\nAction: delivered"),
        said: Some(said.as_bytes()),
        reason: Some(said),
        log: &log,
        ..BOB
    };
    let original = b"Message-ID: <a@b>\r\n\tBcc: x\r\nSubject: \xff\0\rX\r\n\r\n";
    let recipients = [evil];
    let report = Report {
        envelope_id: Some(b"a+0D+0ASubject: x"),
        original: Original::Whole(original),
        ret: Some(Ret::Full),
        ..report(Kind::Failed, &recipients)
    };
    let composed = composed(&report);
    assert_vector(FOLDER, "hostile", &composed.bytes);
    assert!(composed.bytes.is_ascii());
    let message = parsed(&composed);
    assert!(message.in_reply_to().as_text().is_none());
    let (names, text) = fields(&message);
    assert_eq!(names[2], "text/rfc822-headers");
    assert_eq!(text.matches("\r\nAction: ").count(), 1, "{text}");
    assert!(!text.contains("Original-"), "{text}");
    let html = message.body_html(0).unwrap();
    assert!(!html.contains("<script>") && !html.contains("<b>"), "{html}");
    assert!(html.contains("&lt;script&gt;"));
    for shown in [html, message.body_text(0).unwrap()] {
        assert!(!shown.contains(['\0', '\x1b', '\u{202e}']), "{shown}");
    }
}

#[test]
fn each_limit_is_reached() {
    let line = LogLine { at: TRIED, text: &"l".repeat(WORDS_BYTES_MAX + 1) };
    let log = [line; LOG_LINES_COUNT_MAX];
    let said = vec![b'w'; 3 * WORDS_BYTES_MAX];
    let talkative = Recipient { said: Some(&said), log: &log, ..BOB };
    let recipients = [talkative; RECIPIENTS_COUNT_MAX + 1];
    let most = report(Kind::Failed, &recipients[1..]);
    let composed = composed(&most);
    assert!(composed.bytes.len() < 4 * 1024 * 1024, "{}", composed.bytes.len());
    let message = parsed(&composed);
    let text = message.body_text(0).unwrap();
    assert_eq!(text.matches("<bob@example.org>").count(), SHOWN_COUNT_MAX);
    assert!(text.contains("and 900 more, listed in the second part"));
    assert_eq!(text.matches("l[...]").count(), LOG_LINES_COUNT_MAX);
    let status = fields(&message).1;
    assert_eq!(status.matches("Action: failed").count(), RECIPIENTS_COUNT_MAX);
    let code = status.split("Diagnostic-Code: smtp;").nth(1).unwrap();
    let words: usize = code.bytes().take_while(|b| *b != b'L').filter(|b| *b == b'w').count();
    assert_eq!(words, WORDS_BYTES_MAX - "[...]".len());

    let refused = |report: Report<'_>| report.compose(&RANDOM).unwrap_err();
    assert_eq!(refused(report(Kind::Failed, &recipients)), ReportError::RecipientsCount);
    assert_eq!(refused(report(Kind::Failed, &[])), ReportError::RecipientsCount);
    let one = [BOB];
    let good = report(Kind::Failed, &one);
    assert_eq!(refused(Report { sender: Path::Null, ..good }), ReportError::NullSender);
    assert_eq!(refused(Report { postmaster: "a b", ..good }), ReportError::Postmaster);
    assert_eq!(refused(Report { message_id: "a>", ..good }), ReportError::MessageId);
    let to = Report { sender: Path::Postmaster("Postmaster"), ..good }.compose(&RANDOM).unwrap();
    assert!(to.bytes.windows(35).any(|w| w == b"To: <Postmaster@mail.fannst.test>\r\n"));
}

#[test]
fn reports_go_to_those_who_want_them() {
    let said = |never, success, failure, delay| Notify { never, success, failure, delay };
    let kinds = [Kind::Failed, Kind::Delayed, Kind::Delivered, Kind::Relayed];
    for (notify, wanted) in [
        (said(false, false, false, false), [true, true, false, false]),
        (said(true, false, false, false), [false, false, false, false]),
        (said(false, true, false, false), [false, false, true, true]),
        (said(false, false, true, false), [true, false, false, false]),
        (said(false, false, false, true), [false, true, false, false]),
        (said(false, true, true, true), [true, true, true, true]),
    ] {
        assert_eq!(kinds.map(|kind| wants(notify, kind)), wanted, "{notify:?}");
        assert_eq!(kinds.map(|kind| due(&mailbox("a@b"), notify, kind)), wanted, "{notify:?}");
        assert_eq!(kinds.map(|kind| due(&Path::Null, notify, kind)), [false; 4]);
    }
}

proptest! {
    #[test]
    fn nothing_that_others_said_breaks_a_report(
        said in proptest::collection::vec(any::<u8>(), 0..200),
        orcpt in proptest::collection::vec(any::<u8>(), 0..40),
        words in ".{0,80}",
        original in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b'-'), any::<u8>()], 0..200,
        ),
        utf8 in any::<bool>(),
    ) {
        let log = [LogLine { at: TRIED, text: &words }];
        let recipients = [Recipient {
            address: &words,
            orcpt: Some(&orcpt),
            said: Some(&said),
            remote: Some(&words),
            reason: Some(&words),
            log: &log,
            ..BOB
        }];
        let report = Report {
            envelope_id: Some(&orcpt),
            ret: Some(Ret::Full),
            utf8,
            original: Original::Whole(&original),
            ..report(Kind::Failed, &recipients)
        };
        let composed = composed(&report);
        prop_assert!(composed.bytes.is_ascii() || composed.eight_bit);
        let message = parsed(&composed);
        let (names, text) = fields(&message);
        prop_assert_eq!(names.len(), 3);
        prop_assert_eq!(text.matches("\r\nAction: ").count(), 1);
        prop_assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }
}
