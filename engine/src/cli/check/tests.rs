//! What the commands print, against a name server of the test.

use super::*;
use crate::config::Overrides;
use fsmtp_proto::dns::Data;
use fsmtp_proto::dns::testing::Zone;
use std::net::{Ipv4Addr, UdpSocket};

/// What a command prints where these TXT records are; it asks as many questions as `questions`.
fn printed(
    records: &[(&str, &str)],
    questions: usize,
    json: bool,
    input: &str,
    check: impl FnOnce(Dns) -> Check,
) -> String {
    let with = |zone: Zone, (name, text): &(&str, &str)| {
        zone.with(name, 300, Data::Txt(text.as_bytes().into()))
    };
    let zone = records.iter().fold(Zone::new(), with);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = socket.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let mut room = [0; 2048];
        for _ in 0..questions {
            let (length, from) = socket.recv_from(&mut room).unwrap();
            socket.send_to(&zone.answer(&room[..length]).unwrap(), from).unwrap();
        }
    });
    let config = Config::load(None, &Overrides::default()).unwrap();
    let mut output = Vec::new();
    let terminal = &mut Terminal {
        input: &mut input.as_bytes(),
        output: &mut output,
        errors: &mut Vec::new(),
        secret: &|_| Ok(String::new()),
        interactive: false,
        colours: false,
    };
    execute(check(Dns { dns: Some(server) }), &config, json, terminal).unwrap();
    serving.join().unwrap();
    String::from_utf8(output).unwrap()
}

/// What `check spf` prints for a domain with this record.
fn spf_of(record: &str, json: bool) -> String {
    printed(&[("domain.example", record)], 1, json, "", |dns| {
        Check::Spf(Spf {
            ip: "192.0.2.1".parse().unwrap(),
            helo: "client.example".to_owned(),
            mail_from: "<me@domain.example>".to_owned(),
            dns,
        })
    })
}

/// What `check dmarc` prints for a message of a subdomain whose organisation has this record.
fn dmarc_of(record: &str, ip: Option<&str>, json: bool) -> String {
    let records = [("_dmarc.domain.example", record), ("domain.example", "v=spf1 ip4:192.0.2.1")];
    let message = "From: Me <me@news.domain.example>\nSubject: x\n\nx\n";
    let questions = 3 + usize::from(ip.is_some());
    printed(&records, questions, json, message, |dns| {
        Check::Dmarc(Dmarc {
            file: "-".into(),
            ip: ip.map(|ip| ip.parse().unwrap()),
            helo: "client.example".to_owned(),
            mail_from: "me@domain.example".to_owned(),
            dns,
        })
    })
}

#[test]
fn the_verdict_stands_first_and_the_steps_follow() {
    let text = spf_of("v=spf1 ip4:192.0.2.2 -all", false);
    assert_eq!(
        text,
        "fail (SPF of domain.example)\n  domain.example: v=spf1 ip4:192.0.2.2 -all\n  \
         domain.example ip4:192.0.2.2: no match\n  domain.example -all: fail\n"
    );
    let value: serde_json::Value = serde_json::from_str(&spf_of("v=spf1 +all", true)).unwrap();
    assert_eq!((&value["verdict"], &value["domain"]), (&"pass".into(), &"domain.example".into()));
    assert_eq!(value["steps"].as_array().map(Vec::len), Some(2));
}

#[test]
fn dmarc_is_judged_by_what_was_found() {
    let record = "v=DMARC1; p=reject; t=y";
    assert_eq!(
        dmarc_of(record, None, false),
        "fail (DMARC of news.domain.example): quarantine is asked for, of reject\n  \
         SPF: not asked, --ip names no host\n  \
         _dmarc.news.domain.example: there is no such name\n  \
         _dmarc.domain.example: v=DMARC1; p=reject; t=y\n  \
         _dmarc.example: there is no such name\n  \
         p=reject of domain.example is for news.domain.example\n  \
         t=y: quarantine instead of reject\n"
    );
    let passed = dmarc_of(record, Some("192.0.2.1"), false);
    assert!(
        passed.starts_with("pass (DMARC of news.domain.example)\n  SPF of domain.example: pass")
    );
    let value: serde_json::Value =
        serde_json::from_str(&dmarc_of(record, Some("192.0.2.9"), true)).unwrap();
    for (key, due) in [
        ("verdict", "fail"),
        ("author", "news.domain.example"),
        ("record", "domain.example"),
        ("tag", "p"),
        ("policy", "reject"),
        ("disposition", "quarantine"),
    ] {
        assert_eq!(value[key], due, "{key}");
    }
    assert_eq!((&value["spf"]["verdict"], &value["aligned"][0]), (&"neutral".into(), &().into()));
}

#[test]
fn what_strangers_wrote_does_not_paint_the_terminal() {
    assert!(!spf_of("v=spf1 \x1b[2J", false).contains('\x1b'));
    assert!(!dmarc_of("v=DMARC1; p=none; \x1b[2J", None, false).contains('\x1b'));
}
