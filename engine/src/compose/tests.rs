//! Tests of composing: against messages that lie in tests/vectors/compose, read back by mail-parser
//! and, where there is a python3, by its `email` package; hostile fields; every limit.
//!
//! With `WRITE_VECTORS=1` the tests write the messages instead of comparing them.

use std::path::PathBuf;
use std::process::Command;

use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use proptest::prelude::*;

use super::*;

pub(crate) const RANDOM: Random = *b"0123456789abcdef";
const NOON: UnixTime = UnixTime::from_ms(1_599_847_638_000);

fn vectors(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
}

/// Compares a message with the one that lies in a folder, byte by byte.
pub(crate) fn assert_vector(folder: &str, name: &str, bytes: &[u8]) {
    assert_lines(bytes);
    let path = vectors(folder).join(format!("{name}.eml"));
    if std::env::var_os("WRITE_VECTORS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let lies_there = std::fs::read(&path).unwrap();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(shown(bytes), shown(&lies_there), "{}", path.display());
}

/// Compares what python3 reads in the messages of a folder with `python.txt` there.
pub(crate) fn assert_python_agrees(folder: &str) {
    let path = vectors(folder);
    let script = vectors("tests/vectors/read.py");
    let Ok(output) = Command::new("python3").arg(script).arg(&path).output() else {
        return; // no python3 here
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = path.join("python.txt");
    if std::env::var_os("WRITE_VECTORS").is_some() {
        std::fs::write(&path, &output.stdout).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// What every message must be: lines of at most 998 bytes ending in CRLF, no NUL, no bare CR.
pub(crate) fn assert_lines(bytes: &[u8]) {
    assert!(transfer_of_message(bytes).is_some(), "{}", String::from_utf8_lossy(bytes));
    assert!(bytes.ends_with(b"\r\n"));
}

fn draft() -> Draft<'static> {
    Draft {
        from: "lrieff@fannst.test".into(),
        to: vec!["webmaster@fannst.test".into()],
        subject: "Test Message",
        text: Some("Hello.\n"),
        date: NOON,
        message_id: "1234@mailer.fannst.test",
        ..Draft::default()
    }
}

fn compose(draft: &Draft<'_>) -> Vec<u8> {
    draft.compose(&RANDOM).unwrap().bytes
}

#[test]
fn a_draft_without_words_says_what_the_original_said() {
    let id = message_id(&core::array::from_fn(|at| at as u8), "mailer.fannst.test");
    let draft = Draft {
        text: None,
        headers: vec![("X-Mailer", "FSMTP-V2"), ("X-Fannst-NodeID", "LUKERIEFF_MCLUST_A001")],
        message_id: &id,
        ..draft()
    };
    let bytes = compose(&draft);
    assert_vector("tests/vectors/compose", "verse", &bytes);
    let message = MessageParser::new().parse(&bytes).unwrap();
    assert_eq!(message.message_id(), Some(&*id));
    assert_eq!(id.len(), 64 + "@mailer.fannst.test".len());
    assert_eq!(message.body_html(0).unwrap().replace("\r\n", "\n"), VERSE);
    assert!(message.body_text(0).unwrap().starts_with("Roses are red.\r\nViolets"));
}

#[test]
fn a_plain_text_is_one_part() {
    let bytes = compose(&draft());
    assert_vector("tests/vectors/compose", "plain", &bytes);
    let message = MessageParser::new().parse(&bytes).unwrap();
    assert_eq!(message.parts.len(), 1);
    assert_eq!(message.body_text(0).unwrap(), "Hello.\r\n");
    assert_eq!(message.date().unwrap().to_timestamp(), 1_599_847_638);
    assert_eq!(message.from().unwrap().first().unwrap().address(), Some("lrieff@fannst.test"));
}

#[test]
fn all_kinds_of_parts_come_out_as_they_went_in() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let inner = b"Subject: inner\r\n\r\nA caf\xc3\xa9.\r\n";
    let name = "Übersicht über die Jahre 2019, 2020 und 2021 – vorläufig.pdf";
    let draft = Draft {
        from: Person { name: Some("Zoë \"Z\" Rieff"), address: "zoe@fannst.test" },
        cc: vec![Person { name: Some("Doe, John"), address: "john@example.org" }],
        reply_to: vec!["answers@fannst.test".into()],
        subject: "Schöne Grüße, und noch viele Wörter, damit die Zeile zu lang wird für eine",
        text: Some("Grüße.\r\nEine Zeile\rund noch eine \n"),
        html: Some("<p>Grüße <img src=\"cid:logo@fannst\"></p>"),
        attachments: vec![
            Attachment { name, media_type: "application/pdf", bytes: &every_byte },
            Attachment { name: "a.txt", media_type: "text/plain; charset=utf-8", bytes: b"a\nb\r" },
            Attachment { name: "inner.eml", media_type: "message/rfc822", bytes: inner },
        ],
        pictures: vec![Picture {
            content_id: "logo@fannst",
            file: Attachment { name: "logo.png", media_type: "image/png", bytes: b"\x89PNG" },
        }],
        ..draft()
    };
    let composed = draft.compose(&RANDOM).unwrap();
    assert!(composed.eight_bit && !composed.utf8, "the message inside is not encoded");
    assert_vector("tests/vectors/compose", "everything", &composed.bytes);

    let message = MessageParser::new().parse(&composed.bytes).unwrap();
    assert_eq!(message.subject(), Some(draft.subject));
    assert_eq!(message.from().unwrap().first().unwrap().name(), draft.from.name);
    assert_eq!(message.cc().unwrap().first().unwrap().name(), Some("Doe, John"));
    assert_eq!(message.body_text(0).unwrap(), "Grüße.\r\nEine Zeile\r\nund noch eine \r\n");
    assert!(message.body_html(0).unwrap().contains("Grüße <img"));
    let kinds: Vec<_> = message.parts.iter().map(|p| p.content_type().unwrap().subtype()).collect();
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    assert_eq!(
        kinds,
        ["mixed", "alternative", "plain", "related", "html", "png", "pdf", "plain", "rfc822"]
    );
    let file = |at: u32| message.attachment(at).unwrap();
    assert_eq!((file(0).content_id(), file(0).contents()), (Some("logo@fannst"), &b"\x89PNG"[..]));
    assert_eq!((file(1).attachment_name(), file(1).contents()), (Some(name), &every_byte[..]));
    assert_eq!((file(2).attachment_name(), file(2).contents()), (Some("a.txt"), &b"a\nb\r"[..]));
    assert!(matches!(&file(3).body, PartType::Message(m) if m.subject() == Some("inner")));
}

#[test]
fn an_address_in_utf8_needs_smtputf8_and_says_so() {
    let to = vec!["zoë@fannst.test".into()];
    let international = Draft { to, ..draft() };
    let composed = international.compose(&RANDOM).unwrap();
    assert!(composed.utf8 && composed.eight_bit);
    assert_vector("tests/vectors/compose", "utf8-address", &composed.bytes);
    let plain = draft().compose(&RANDOM).unwrap();
    assert!(!plain.utf8 && !plain.eight_bit && plain.bytes.is_ascii());
}

#[test]
fn what_looks_encoded_stays_what_it_is() {
    let draft = Draft {
        from: Person { name: Some("=?utf-8?Q?Boss?="), address: "a@fannst.test" },
        subject: "=?utf-8?Q?faked?=",
        attachments: vec![Attachment {
            name: "=?utf-8?Q?a?=.txt",
            media_type: "application/octet-stream",
            bytes: b"",
        }],
        ..draft()
    };
    let bytes = compose(&draft);
    assert_vector("tests/vectors/compose", "looks-encoded", &bytes);
    let message = MessageParser::new().parse(&bytes).unwrap();
    assert_eq!(message.subject(), Some("=?utf-8?Q?faked?="));
    assert_eq!(message.from().unwrap().first().unwrap().name(), Some("=?utf-8?Q?Boss?="));
    assert_eq!(message.attachment(0).unwrap().attachment_name(), Some("=?utf-8?Q?a?=.txt"));
}

#[test]
fn python_reads_the_same() {
    assert_python_agrees("tests/vectors/compose");
}

/// The error of a draft, as a sentence.
fn refused(change: impl FnOnce(&mut Draft<'_>)) -> String {
    let mut draft = draft();
    change(&mut draft);
    draft.compose(&RANDOM).unwrap_err().to_string()
}

#[test]
fn no_field_can_hold_a_line_of_its_own() {
    for evil in ["a\r\nBcc: x@y.test", "a\nb", "a\rb", "a\0b", "a\u{85}b"] {
        let file = Attachment { name: evil, media_type: "image/png", bytes: b"" };
        let evil_type = Attachment { name: "a", media_type: evil, bytes: b"" };
        let person = Person { name: Some(evil), address: "a@b.test" };
        for (field, error) in [
            ("subject:", refused(|d| d.subject = evil)),
            ("from.name:", refused(|d| d.from.name = Some(evil))),
            ("from.address:", refused(|d| d.from.address = evil)),
            ("to[1].name:", refused(|d| d.to.push(person))),
            ("cc[0].address:", refused(|d| d.cc.push(evil.into()))),
            ("reply_to[0].address:", refused(|d| d.reply_to.push(evil.into()))),
            ("message_id:", refused(|d| d.message_id = evil)),
            ("headers[0]:", refused(|d| d.headers.push((evil, "x")))),
            ("headers[0]:", refused(|d| d.headers.push(("X-A", evil)))),
            ("attachments[0].name:", refused(|d| d.attachments.push(file))),
            ("attachments[0].media_type:", refused(|d| d.attachments.push(evil_type))),
            (
                "pictures[0].content_id:",
                refused(|d| {
                    d.html = Some("x");
                    d.pictures.push(Picture { content_id: evil, file });
                }),
            ),
        ] {
            assert!(error.starts_with(field), "{field} {error}");
        }
    }
    assert!(refused(|d| d.text = Some("a\0")).starts_with("text:"));
    assert!(refused(|d| d.html = Some("a\0")).starts_with("html:"));
}

#[test]
fn what_the_draft_writes_itself_is_no_field_of_the_sender() {
    for name in ["From", "TO", "bcc", "Date", "Content-Type", "Received", "MIME-Version", ""] {
        assert!(refused(|d| d.headers.push((name, "x"))).starts_with("headers[0]:"), "{name}");
    }
    let mut draft = draft();
    draft.headers.push(("X-To", "x"));
    assert!(draft.compose(&RANDOM).is_ok());
}

#[test]
fn files_have_a_type_and_messages_their_form() {
    let file = |media_type, bytes| Attachment { name: "a", media_type, bytes };
    for media_type in [
        "",
        "text",
        "multipart/mixed",
        "text/",
        "/plain",
        "a b/c",
        "text/plain;",
        "a/b; c",
        "a/b; c=d e",
        "a/b; c=\"d\"e\"",
        "a/b\t; c=d",
    ] {
        let error = refused(|d| d.attachments.push(file(media_type, b"")));
        assert!(error.starts_with("attachments[0].media_type:"), "{media_type}: {error}");
    }
    for media_type in ["image/svg+xml", "text/plain; charset=utf-8", "a/b;c=\"d e\"; f=g"] {
        let mut draft = draft();
        draft.attachments.push(file(media_type, b""));
        assert!(draft.compose(&RANDOM).is_ok(), "{media_type}");
    }
    let error = refused(|d| d.attachments.push(file("message/rfc822", b"a\nb")));
    assert!(error.starts_with("attachments[0].bytes:"), "{error}");
    let error = refused(|d| {
        d.pictures.push(Picture { content_id: "x", file: file("image/png", b"") });
    });
    assert!(error.starts_with("pictures:"), "{error}");
}

#[test]
fn each_limit_is_reached() {
    let file = Attachment { name: "a", media_type: "a/b", bytes: b"" };
    let full = |d: &mut Draft<'_>| {
        d.cc = vec!["a@b.test".into(); PEOPLE_COUNT_MAX - 1];
        d.attachments = vec![file; FILES_COUNT_MAX];
        d.headers = vec![("X-A", "b"); HEADERS_COUNT_MAX];
    };
    let mut at_the_limits = draft();
    full(&mut at_the_limits);
    let subject = "x".repeat(FIELD_BYTES_MAX);
    let name = "n".repeat(NAME_BYTES_MAX);
    at_the_limits.subject = &subject;
    at_the_limits.from.name = Some(&name);
    assert_lines(&compose(&at_the_limits));

    let long_subject = "x".repeat(FIELD_BYTES_MAX + 1);
    let long_name = "n".repeat(NAME_BYTES_MAX + 1);
    let big = vec![0; CONTENT_BYTES_MAX + 1];
    let named = Attachment { name: &long_name, ..file };
    for (field, error) in [
        ("to, cc and reply_to:", refused(|d| d.cc = vec!["a@b.test".into(); PEOPLE_COUNT_MAX])),
        ("attachments and pictures:", refused(|d| d.attachments = vec![file; FILES_COUNT_MAX + 1])),
        ("headers:", refused(|d| d.headers = vec![("X-A", "b"); HEADERS_COUNT_MAX + 1])),
        (
            "headers[0]:",
            refused(|d| d.headers = vec![("X-A", "b".repeat(FIELD_BYTES_MAX + 1).leak())]),
        ),
        ("subject:", refused(|d| d.subject = long_subject.clone().leak())),
        ("from.name:", refused(|d| d.from.name = Some(long_name.clone().leak()))),
    ] {
        assert!(error.starts_with(field) && error.contains("more than"), "{error}");
    }
    let mut too_named = draft();
    too_named.attachments = vec![named];
    assert!(too_named.compose(&RANDOM).is_err());
    let mut too_big = draft();
    too_big.attachments = vec![Attachment { bytes: &big, ..file }];
    assert_eq!(
        too_big.compose(&RANDOM).unwrap_err().to_string(),
        format!("bytes of the content: more than {CONTENT_BYTES_MAX}")
    );
}

proptest! {
    #[test]
    fn any_text_reads_back_as_it_was(
        subject in "\\PC{0,100}",
        name in "\\PC{1,80}",
        file in "\\PC{1,60}",
        text in "[ -~\\t\\n\\r=.é日]{0,300}",
    ) {
        let attachment = Attachment { name: &file, media_type: "a/b", bytes: text.as_bytes() };
        let draft = Draft {
            from: Person { name: Some(&name), address: "a@b.test" },
            subject: &subject,
            text: Some(&text),
            attachments: vec![attachment],
            ..draft()
        };
        let bytes = draft.compose(&RANDOM).unwrap().bytes;
        prop_assert!(bytes.is_ascii());
        assert_lines(&bytes);
        let message = MessageParser::new().parse(&bytes).unwrap();
        prop_assert_eq!(message.subject().unwrap_or_default(), subject);
        prop_assert_eq!(message.from().unwrap().first().unwrap().name(), Some(&*name));
        let read = message.body_text(0).unwrap_or_default().into_owned();
        prop_assert_eq!(read, part::with_crlf(&text));
        let read = message.attachment(0).unwrap();
        prop_assert_eq!(read.attachment_name(), Some(&*file));
        prop_assert_eq!(read.contents(), text.as_bytes());
    }
}
