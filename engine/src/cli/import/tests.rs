//! What can be seen without servers: names, limits of requests, the report.

use super::report::{PROBLEMS_MAX, REFUSED_MAX};
use super::*;
use crate::control::{MailEntry, MailOutcome, REQUEST_BYTES_MAX};

fn mail_name(address: &str) -> MailName {
    MailName { name: "0".repeat(32), address: address.to_owned(), sent: true }
}

#[test]
fn servers_and_keyspaces_are_looked_at_first() {
    for (text, fits) in [
        ("127.0.0.1:9042", true),
        ("[::1]:9042", true),
        ("cassandra.example.org:9042", true),
        ("127.0.0.1", false),
        (":9042", false),
        ("host:90420", false),
    ] {
        assert_eq!(server(text).is_ok(), fits, "{text}");
    }
    for (text, fits) in [
        ("fannst", true),
        ("fannst_2", true),
        ("", false),
        ("Fannst", false),
        ("f; DROP", false),
        (&"f".repeat(48), true),
        (&"f".repeat(49), false),
    ] {
        assert_eq!(keyspace(text).is_ok(), fits, "{text}");
    }
}

#[test]
fn a_message_has_the_same_name_in_each_run_and_no_other_has_it() {
    let shortcut = |owner: u128, id: u128| (TimeUuid(owner), TimeUuid(id));
    let mut seen = BTreeSet::new();
    for (owner, id) in [shortcut(1, 2), shortcut(2, 1), shortcut(1, 1), shortcut(1, 2 << 64)] {
        for sent in [false, true] {
            let made = name(owner, id, sent);
            assert_eq!(made, name(owner, id, sent));
            assert!(made.len() == 32 && seen.insert(made));
        }
    }
    // Journals that are there depend on it; computed with Python's hashlib.
    assert_eq!(name(TimeUuid(1), TimeUuid(2), false), "1a7d3d6452e1b2166e84ef04ebcdeb06");
}

#[test]
fn a_name_of_a_person_fits_an_account() {
    for (full, fits) in [
        ("Jan Jansen".to_owned(), "Jan Jansen".to_owned()),
        ("Jan\r\n\tJansen\0".to_owned(), "JanJansen".to_owned()),
        ("é".repeat(200), "é".repeat(128)),
        (format!("x{}", "é".repeat(200)), format!("x{}", "é".repeat(127))),
        (String::new(), String::new()),
    ] {
        assert_eq!(person(&full), fits);
    }
}

#[test]
fn the_largest_requests_fit() {
    let address = format!("{}@{}", "a".repeat(64), "b".repeat(255));
    let names = vec![mail_name(&address); target::NAMES_MAX];
    let line = serde_json::to_vec(&AdminRequest::MailKnown { mails: names }).unwrap();
    assert!(line.len() < REQUEST_BYTES_MAX, "{}", line.len());
    for message_bytes in [2, 700, target::PART_BYTES_MAX] {
        let (mut batch, of) = (Batch::default(), mail_name(&address));
        let message = vec![b'x'; message_bytes];
        while batch.has_room(&of, message.len()) {
            batch.push(of.clone(), u64::MAX, &message);
        }
        let mails: Vec<MailEntry> = batch.mails;
        assert!(!mails.is_empty());
        let line = serde_json::to_vec(&AdminRequest::MailImport { mails }).unwrap();
        assert!(line.len() < REQUEST_BYTES_MAX, "{}", line.len());
    }
}

#[test]
fn what_is_left_is_told_within_bounds() {
    let mut report = Report::new(false);
    assert!(!report.has_left());
    report.messages.deleted = 7;
    report.messages.imported = 3;
    assert!(!report.has_left(), "what its owner has deleted is not left");
    for number in 0..PROBLEMS_MAX + 5 {
        report.problem(format!("problem {number}"));
    }
    assert!(report.has_left());
    let text = report.text();
    assert!(text.contains("left: problem 99\n") && !text.contains("problem 100"), "{text}");
    assert!(text.contains("left: 5 more like these\n"), "{text}");
    for number in 0..1000 {
        report.left(&format!("INBOX.{number}"));
        report.left("INBOX.0");
    }
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let left = json["mailboxes_left"].as_object().unwrap();
    assert_eq!((left.len(), left["INBOX.0"].as_u64()), (101, Some(1001)));
    assert_eq!(left["others"], 900);
    assert_eq!(json["messages"]["imported"], 3);
    assert_eq!(json["problems_more"], 5);
    assert!(Report::new(true).text().starts_with("nothing was written"));
}

#[test]
fn a_store_that_takes_nothing_any_more_ends_it() {
    let mut report = Report::new(false);
    let refused = || MailOutcome::Refused("the disk is full".to_owned());
    for _ in 1..REFUSED_MAX {
        report.heed("a@b.test", refused()).unwrap();
    }
    report.heed("a@b.test", MailOutcome::Present).unwrap();
    for _ in 1..REFUSED_MAX {
        report.heed("a@b.test", refused()).unwrap();
    }
    let why = report.heed("a@b.test", refused()).unwrap_err();
    assert_eq!(why, "mail is not taken any more: the disk is full");
    assert_eq!((report.messages.refused, report.messages.present), (2 * REFUSED_MAX - 1, 1));
}
