//! Asking rspamd about a message: one request over HTTP, `POST /checkv2`, with the whole of it.
//!
//! The reply is JSON. What is read of it: `action`, and with it `subject` and
//! `messages.smtp_message`; header fields to add and remove, recipients and a sender in `milter`;
//! `dkim-signature`. What rspamd's own milter would do with these is done here.
//!
//! Limits: [`REPLY_BYTES_MAX`] and [`READS_MAX`] for a reply, its nesting by the reader, and
//! [`FIELDS_COUNT_MAX`] of what it wants changed. Failure: [`Trouble`].

use core::fmt::Write as _;

use fsmtp_proto::http;
use fsmtp_rt::{Conn as _, Dial};
use serde_json::Value;

use super::changes::{FieldChange, Recipient, line};
use super::milter::{Noted, Trouble};
use super::plan::Plan;
use super::verdict::{Answer, Refused};
use super::{Client, Mail};
use crate::shard::CLOSE_TIMEOUT;

/// The longest reply; arbitrary, ten times what a message with many symbols gets.
const REPLY_BYTES_MAX: usize = 512 * 1024;
/// Pieces that a reply may come in; arbitrary, one of that size comes in some hundred.
const READS_MAX: usize = 2000;
/// Bytes of the message that are sent at once; no more of it is held twice.
const SENT_BYTES: usize = 64 * 1024;
/// The most changes that are taken from one reply; arbitrary, filters make some.
const FIELDS_COUNT_MAX: usize = 1000;

/// What is asked about.
pub(super) struct Question<'m> {
    pub(super) client: &'m Client<'m>,
    pub(super) mail: &'m Mail<'m>,
    /// Its name here.
    pub(super) id: &'m str,
    pub(super) recipients: &'m [String],
    /// All of it, in pieces.
    pub(super) message: [&'m [u8]; 3],
}

/// The request up to the message.
fn head(question: &Question<'_>, plan: &Plan) -> String {
    let Question { client, mail, id, recipients, message } = question;
    let bytes: usize = message.iter().map(|piece| piece.len()).sum();
    let mut out = format!(
        "POST /checkv2 HTTP/1.1\r\nHost: {}\r\nUser-Agent: fsmtp-engine\r\n\
         Content-Length: {bytes}\r\nConnection: close\r\n",
        plan.address
    );
    let mut field = |name: &str, value: &str| {
        // Addresses hold no controls; this is the second lock on the same door.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        let _ = write!(out, "{name}: {value}\r\n");
    };
    field("IP", &client.ip.to_string());
    field("Helo", client.helo);
    field("Hostname", client.host.unwrap_or("unknown"));
    field("MTA-Name", client.node);
    field("Queue-Id", id);
    field("From", if mail.from.is_empty() { "<>" } else { mail.from });
    for to in *recipients {
        field("Rcpt", to);
    }
    if let [only] = recipients {
        field("Deliver-To", only);
    }
    if let Some(user) = client.user {
        field("User", user);
    }
    if let Some((version, cipher)) = client.tls {
        field("TLS-Version", version);
        field("TLS-Cipher", cipher);
    }
    out.push_str("\r\n");
    out
}

/// Asks.
pub(super) async fn ask<R: Dial>(
    (rt, plan): (&R, &Plan),
    question: &Question<'_>,
    noted: &mut Noted<'_>,
) -> Result<Answer, Trouble> {
    let conn = rt.dial(None, plan.address, rt.now() + plan.connect_timeout).await;
    let mut conn = conn.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let end = rt.now() + plan.message_timeout;
    let mut bytes = rt.buffer();
    bytes.extend_from_slice(head(question, plan).as_bytes());
    for piece in question.message.iter().flat_map(|piece| piece.chunks(SENT_BYTES)) {
        // copy: what was kept of the message -> what is under way to rspamd.
        bytes.extend_from_slice(piece);
        if bytes.len() >= SENT_BYTES {
            conn.send(core::mem::replace(&mut bytes, rt.buffer()), end).await?;
        }
    }
    conn.send(bytes, end).await?;
    let mut reply = Vec::new();
    for _ in 0..READS_MAX {
        let got = conn.fill(end).await?;
        let filled = conn.filled();
        let length = filled.len();
        reply.extend_from_slice(filled);
        conn.consume(length);
        let unusable = |fault: http::Fault| Trouble::Reply(fault.to_string());
        let Some(head) = http::head(&reply, got == 0).map_err(unusable)? else { continue };
        if head.status != 200 {
            return Err(Trouble::Reply(format!("the reply is {}", head.status)));
        }
        let body = head.body(got == 0, REPLY_BYTES_MAX).map_err(unusable)?;
        if let Some(body) = body {
            conn.close(end.min(rt.now() + CLOSE_TIMEOUT)).await;
            return read(&body, noted).map_err(|why| Trouble::Reply(why.to_owned()));
        }
    }
    Err(Trouble::Reply("the reply comes in too many pieces".to_owned()))
}

/// What a reply means.
fn read(body: &[u8], noted: &mut Noted<'_>) -> Result<Answer, &'static str> {
    let reply: Value = serde_json::from_slice(body).map_err(|_| "the reply is no JSON")?;
    let action = reply.get("action").and_then(Value::as_str).ok_or("the reply has no action")?;
    let said = reply.pointer("/messages/smtp_message").and_then(Value::as_str);
    let milter = reply.get("milter").unwrap_or(&Value::Null);
    let answer = match action {
        // What is held against a message of that much is greylisted by rspamd's own module, which
        // then says `soft reject`.
        "no action" | "greylist" => Answer::GoOn,
        "add header" => {
            junk(noted, &reply);
            Answer::GoOn
        }
        "quarantine" => {
            junk(noted, &reply);
            Answer::GoOn
        }
        "rewrite subject" => {
            if let Some(line) = reply.get("subject").and_then(Value::as_str).and_then(subject) {
                noted.changes.fields.push(FieldChange::Set(b"Subject"[..].into(), 1, Some(line)));
            }
            Answer::GoOn
        }
        "soft reject" => Answer::Refuse(refused(451, said.unwrap_or("4.7.1 Try again later"))),
        "reject" => match milter.get("reject").and_then(Value::as_str) {
            Some("quarantine") => {
                junk(noted, &reply);
                Answer::GoOn
            }
            Some("discard") => Answer::Discard,
            _ => Answer::Refuse(refused(554, said.unwrap_or("5.7.1 Spam message rejected"))),
        },
        "discard" => Answer::Discard,
        _ => return Err("the reply has an unknown action"),
    };
    if answer == Answer::GoOn {
        changes(&reply, milter, noted);
    }
    Ok(answer)
}

fn refused(code: u16, text: &str) -> Refused {
    Refused::plain(code, text)
}

fn subject(value: &str) -> Option<Box<[u8]>> {
    line(b"Subject", value.as_bytes(), false)
}

/// It is junk; the score says why.
fn junk(noted: &mut Noted<'_>, reply: &Value) {
    let number = |key: &str| reply.get(key).and_then(Value::as_f64).unwrap_or_default();
    let why = format!("score {:.1} of {:.1}", number("score"), number("required_score"));
    noted.junk.get_or_insert_with(|| why.into());
}

/// A value, or each of an array.
fn each(value: &Value) -> &[Value] {
    value.as_array().map_or_else(|| core::slice::from_ref(value), Vec::as_slice)
}

/// What is to be changed of a message that goes on.
fn changes(reply: &Value, milter: &Value, noted: &mut Noted<'_>) {
    let out = &mut *noted.changes;
    let most = out.fields.len() + FIELDS_COUNT_MAX;
    if let Some(removed) = milter.get("remove_headers").and_then(Value::as_object) {
        for (name, indexes) in removed.iter().filter(|(name, _)| !name.is_empty()) {
            for index in each(indexes) {
                let name = || name.as_bytes().into();
                out.fields.push(match index.as_u64().and_then(|index| u32::try_from(index).ok()) {
                    Some(index @ 1..) => FieldChange::Set(name(), index, None),
                    _ => FieldChange::Remove(name()),
                });
            }
        }
    }
    if let Some(added) = milter.get("add_headers").and_then(Value::as_object) {
        for (name, values) in added {
            for value in each(values) {
                let text = value.as_str().or_else(|| value.get("value")?.as_str());
                let place = value.get("order").and_then(Value::as_u64);
                let line = text.and_then(|text| line(name.as_bytes(), text.as_bytes(), false));
                let change = |line| match place.and_then(|place| u32::try_from(place).ok()) {
                    Some(place) => FieldChange::Insert(place, line),
                    None => FieldChange::Add(line),
                };
                out.fields.extend(line.map(change));
            }
        }
    }
    for signature in reply.get("dkim-signature").map(each).unwrap_or_default() {
        let line = signature.as_str().and_then(|s| line(b"DKIM-Signature", s.as_bytes(), false));
        out.fields.extend(line.map(|line| FieldChange::Insert(0, line)));
    }
    out.fields.truncate(most);
    for (key, what) in [("add_rcpt", Recipient::Added), ("del_rcpt", Recipient::Deleted)] {
        let named = milter.get(key).map(each).unwrap_or_default().iter().filter_map(Value::as_str);
        out.recipients.extend(named.take(FIELDS_COUNT_MAX).map(|to| (what, to.to_owned())));
    }
    if let Some(from) = milter.get("change_from").and_then(Value::as_str) {
        out.sender = Some(from.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::changes::Changes;
    use super::*;
    use proptest::prelude::*;

    type Read = (Result<Answer, &'static str>, Changes, Option<Box<str>>);

    fn reading(text: &str) -> Read {
        let (mut changes, mut junk) = (Changes::default(), None);
        let answer = read(text.as_bytes(), &mut Noted { changes: &mut changes, junk: &mut junk });
        (answer, changes, junk)
    }

    #[test]
    fn an_action_is_done_as_rspamds_own_milter_does_it() {
        let refuse = |code, text: &str| Ok(Answer::Refuse(Refused::plain(code, text)));
        for (action, more, answer, junk) in [
            ("no action", "", Ok(Answer::GoOn), None),
            ("greylist", "", Ok(Answer::GoOn), None),
            (
                "add header",
                r#","score":7.04,"required_score":15"#,
                Ok(Answer::GoOn),
                Some("score 7.0 of 15.0"),
            ),
            ("quarantine", "", Ok(Answer::GoOn), Some("score 0.0 of 0.0")),
            ("soft reject", "", refuse(451, "4.7.1 Try again later"), None),
            (
                "soft reject",
                r#","messages":{"smtp_message":"Greylisted"}"#,
                refuse(451, "4.7.1 Greylisted"),
                None,
            ),
            ("reject", "", refuse(554, "5.7.1 Spam message rejected"), None),
            (
                "reject",
                r#","messages":{"smtp_message":"a\r\n250 ok"}"#,
                refuse(554, "5.7.1 a 250 ok"),
                None,
            ),
            ("reject", r#","milter":{"reject":"discard"}"#, Ok(Answer::Discard), None),
            (
                "reject",
                r#","milter":{"reject":"quarantine"}"#,
                Ok(Answer::GoOn),
                Some("score 0.0 of 0.0"),
            ),
            ("discard", "", Ok(Answer::Discard), None),
            ("dance", "", Err("the reply has an unknown action"), None),
        ] {
            let read = reading(&format!(r#"{{"action":"{action}"{more}}}"#));
            assert_eq!((read.0, read.2.as_deref()), (answer, junk), "{action} {more}");
            assert_eq!(read.1, Changes::default());
        }
    }

    #[test]
    fn what_is_no_reply_is_said_to_be_none() {
        let deep = "[".repeat(100_000);
        for (text, why) in [
            ("", "the reply is no JSON"),
            ("<html>", "the reply is no JSON"),
            (deep.as_str(), "the reply is no JSON"),
            ("{}", "the reply has no action"),
            (r#"{"action":1}"#, "the reply has no action"),
            ("[]", "the reply has no action"),
        ] {
            assert_eq!(reading(text).0, Err(why));
        }
    }

    #[test]
    fn changes_are_read_in_every_form() {
        let (answer, changes, _) = reading(
            r#"{"action":"rewrite subject","subject":"*** a","dkim-signature":["v=1; a","v=1; b"],
            "milter":{"add_headers":{"A":"1","B":{"value":"2","order":1},"C":["3",{"value":"4"}],
            "D E":"5","F":{"order":1},"G":7},"remove_headers":{"H":0,"I":2,"J":[1,3],"":0,"K":-1},
            "add_rcpt":["a@a.test"],"del_rcpt":"b@b.test","change_from":"c@c.test"}}"#,
        );
        use FieldChange::{Add, Insert, Remove, Set};
        let bytes = |text: &str| Box::<[u8]>::from(text.as_bytes());
        assert_eq!(answer, Ok(Answer::GoOn));
        assert_eq!(
            changes.fields,
            [
                Set(bytes("Subject"), 1, Some(bytes("Subject: *** a\r\n"))),
                Remove(bytes("H")),
                Set(bytes("I"), 2, None),
                Set(bytes("J"), 1, None),
                Set(bytes("J"), 3, None),
                Remove(bytes("K")),
                Add(bytes("A: 1\r\n")),
                Insert(1, bytes("B: 2\r\n")),
                Add(bytes("C: 3\r\n")),
                Add(bytes("C: 4\r\n")),
                Insert(0, bytes("DKIM-Signature: v=1; a\r\n")),
                Insert(0, bytes("DKIM-Signature: v=1; b\r\n")),
            ]
        );
        assert_eq!(
            changes.recipients,
            [
                (Recipient::Added, "a@a.test".to_owned()),
                (Recipient::Deleted, "b@b.test".to_owned())
            ]
        );
        assert_eq!(changes.sender.as_deref(), Some("c@c.test"));
    }

    #[test]
    fn changes_are_bounded() {
        let names: Vec<String> = (0..=FIELDS_COUNT_MAX).map(|n| format!(r#""X{n}":"a""#)).collect();
        let text = format!(
            r#"{{"action":"no action","milter":{{"add_headers":{{{}}}}}}}"#,
            names.join(",")
        );
        assert_eq!(reading(&text).1.fields.len(), FIELDS_COUNT_MAX);
    }

    proptest! {
        #[test]
        fn no_reply_breaks_the_reader(
            text in r#"\{"action":"[a-z ]{0,9}"(,"milter":.{0,40})?\}?"#,
        ) {
            let _ = reading(&text);
        }
    }
}
