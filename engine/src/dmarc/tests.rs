//! Reports there and back, as others write them, and as attackers do.

use std::borrow::Cow;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::read::{BadReport, DEPTH_MAX, PARTS_MAX, RECORDS_MAX, TEXT_BYTES_MAX, report};
use super::report::{Policy, Reason, Record, Report, Sender, Signature};
use super::unpack::{BYTES_MAX, BadPacking, PACKED_BYTES_MAX, unpack};
use super::write::xml;

/// As a program writes it that knows no namespace, and says things that nobody knows.
const OTHERS: &str = r#"<?xml version="1.0" encoding="UTF-8" ?>
<!-- a report -->
<feedback>
  <version>1.0</version>
  <report_metadata>
    <org_name>A &amp; B&#33;</org_name>
    <email>reports@receiver.example</email>
    <extra_contact_info><![CDATA[https://receiver.example/?a=1&b=2]]></extra_contact_info>
    <report_id>77</report_id>
    <date_range><begin>1700000000</begin><end>1700086399</end></date_range>
    <error>one</error><error>two</error>
  </report_metadata>
  <policy_published>
    <domain>sender.example</domain><adkim>r</adkim><p>none</p><pct>50</pct><novelty/>
  </policy_published>
  <record>
    <row>
      <source_ip> 192.0.2.1 </source_ip><count>3</count>
      <policy_evaluated>
        <disposition>none</disposition><dkim>fail</dkim><spf>pass</spf>
        <reason><type>forwarded</type><comment>a list</comment></reason>
        <reason><type>other</type></reason>
      </policy_evaluated>
    </row>
    <identities><header_from>sender.example</header_from></identities>
    <auth_results>
      <dkim><domain>a.example</domain><selector>s</selector><result>fail</result></dkim>
      <spf><domain>sender.example</domain><scope>mfrom</scope><result>pass</result></spf>
      <dkim><domain>b.example</domain><result>none</result><human_result/></dkim>
    </auth_results>
    <extension><deep><deeper>x</deeper></deep></extension>
  </record>
  <record><row><count>no number</count></row></record>
</feedback>
"#;

fn read(text: &str) -> Report {
    report(text.as_bytes()).unwrap()
}

#[test]
fn a_report_of_others_is_read() {
    let report = read(OTHERS);
    assert_eq!((report.organisation.as_str(), report.id.as_str()), ("A & B!", "77"));
    assert_eq!(report.contact, "https://receiver.example/?a=1&b=2");
    assert_eq!((report.begin, report.end), (1_700_000_000, 1_700_086_399));
    assert_eq!(report.errors, ["one", "two"]);
    assert_eq!(
        (report.policy.domain.as_str(), report.policy.pct.as_str()),
        ("sender.example", "50")
    );
    let [record, empty] = &report.records[..] else { panic!("{report:?}") };
    assert_eq!((record.source.as_str(), record.count), ("192.0.2.1", 3));
    assert_eq!((record.disposition.as_str(), record.dkim.as_str()), ("none", "fail"));
    let reasons: Vec<_> = record.reasons.iter().map(|r| (&*r.kind, &*r.comment)).collect();
    assert_eq!(reasons, [("forwarded", "a list"), ("other", "")]);
    let signatures: Vec<_> = record.signatures.iter().map(|s| (&*s.domain, &*s.result)).collect();
    assert_eq!(signatures, [("a.example", "fail"), ("b.example", "none")]);
    assert_eq!(record.senders[0].scope, "mfrom");
    assert_eq!(*empty, Record::default());
    let namespace = OTHERS.replace("<feedback>", "<feedback xmlns=\"urn:x\">");
    assert_eq!(read(&namespace), report);
    let prefix = OTHERS.replace("</", "</d:").replace("<feedback>", "<d:feedback>");
    assert!(super::read::report(prefix.as_bytes()).is_err(), "ends must fit their beginnings");
}

#[test]
fn what_is_no_report_is_refused() {
    for (text, why) in [
        ("", BadReport::Document),
        ("words", BadReport::Document),
        ("<html></html>", BadReport::Document),
        ("<feedback/><html/>", BadReport::Document),
        ("<!DOCTYPE feedback [<!ENTITY a \"b\">]><feedback/>", BadReport::DocumentType),
    ] {
        assert_eq!(report(text.as_bytes()), Err(why), "{text}");
    }
    for text in [
        "<feedback>",
        "<feedback></record>",
        "<feedback>&a;</feedback>",
        "<feedback",
        "<feedback>&#0;</feedback>",
    ] {
        assert!(matches!(report(text.as_bytes()), Err(BadReport::Xml(_))), "{text}");
    }
}

#[test]
fn each_limit_of_a_document_is_kept() {
    let deep = |depth: usize| {
        let inner = depth - 1;
        format!("<feedback>{}{}</feedback>", "<a>".repeat(inner), "</a>".repeat(inner))
    };
    assert!(report(deep(DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(report(deep(DEPTH_MAX + 1).as_bytes()), Err(BadReport::Depth));
    let many = |count: usize| format!("<feedback>{}</feedback>", "<record/>".repeat(count));
    assert_eq!(read(&many(RECORDS_MAX)).records.len(), RECORDS_MAX);
    assert_eq!(report(many(RECORDS_MAX + 1).as_bytes()), Err(BadReport::Records));
    let long = format!("{}\u{fc}", "x".repeat(TEXT_BYTES_MAX - 1));
    let text =
        format!("<feedback><report_metadata><email>{long}</email></report_metadata></feedback>");
    assert_eq!(read(&text).email.len(), TEXT_BYTES_MAX - 1, "cut between characters");
    let parts = "<spf/>".repeat(PARTS_MAX + 1) + &"<dkim/>".repeat(PARTS_MAX + 1);
    let parts = format!("<auth_results>{parts}</auth_results>");
    let record = &read(&format!("<feedback><record>{parts}</record></feedback>")).records[0];
    assert_eq!((record.senders.len(), record.signatures.len()), (PARTS_MAX, PARTS_MAX));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive with one file that another program has packed, and one that it has not.
const PACKED: &str = "\
    UEsDBBQAAAAIAAAAIVBPYhhuNQAAAFAAAAAFAAAAci54bWyzSUtNTUlKTM62sylKLcgvKonPTS1JTEksSbSzyS9Kj89L\
    zE21q8ossNGH82z0MVTqw00BAFBLAQIUAxQAAAAIAAAAIVBPYhhuNQAAAFAAAAAFAAAAAAAAAAAAAACAAQAAAAByLnht\
    bFBLBQYAAAAAAQABADMAAABYAAAAAQB4";
const STORED: &str = "\
    UEsDBBQAAAAAAAAAIVBPYhhuUAAAAFAAAAAFAAAAci54bWw8ZmVlZGJhY2s+PHJlcG9ydF9tZXRhZGF0YT48b3JnX25h\
    bWU+emlwPC9vcmdfbmFtZT48L3JlcG9ydF9tZXRhZGF0YT48L2ZlZWRiYWNrPlBLAQIUAxQAAAAAAAAAIVBPYhhuUAAA\
    AFAAAAAFAAAAAAAAAAAAAACAAQAAAAByLnhtbFBLBQYAAAAAAQABADMAAABzAAAAAQB4";

fn archive(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

#[test]
fn reports_come_out_of_their_wrappings() {
    let plain = OTHERS.as_bytes();
    assert_eq!(unpack(plain), Ok(Cow::Borrowed(plain)));
    assert_eq!(unpack(&gzip(plain)).as_deref(), Ok(plain));
    assert_eq!(unpack(&[&gzip(plain)[..], b"\r\n"].concat()).as_deref(), Ok(plain));
    for text in [PACKED, STORED] {
        let archive = archive(text);
        let xml = unpack(&archive).unwrap();
        assert_eq!(report(&xml).unwrap().organisation, "zip");
    }
    let mail = |kind: &str, file: &[u8]| {
        format!(
            "From: a@b.example\r\nSubject: Report Domain: x\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
             Content-Type: text/html\r\n\r\n<p>no report</p>\r\n--b\r\n\
             Content-Type: {kind}\r\nContent-Disposition: attachment; filename=r\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
            STANDARD.encode(file)
        )
    };
    for (kind, file) in [
        ("application/gzip", gzip(plain)),
        ("application/zip", archive(PACKED)),
        ("text/xml", plain.to_vec()),
    ] {
        let mail = mail(kind, &file);
        assert_eq!(report(&unpack(mail.as_bytes()).unwrap()), report(&unpack(&file).unwrap()));
    }
    assert_eq!(unpack(b"Subject: x\r\n\r\nno report\r\n"), Err(BadPacking::Unknown));
}

#[test]
fn bombs_and_damage_are_refused() {
    let zeros = gzip(&vec![b' '; BYTES_MAX + 1]);
    assert!(zeros.len() < 40_000);
    assert_eq!(unpack(&zeros), Err(BadPacking::TooLong));
    assert_eq!(unpack(&gzip(&vec![b' '; BYTES_MAX])).map(|b| b.len()), Ok(BYTES_MAX));
    assert_eq!(unpack(&vec![b'<'; PACKED_BYTES_MAX + 1]), Err(BadPacking::TooLong));
    let whole = archive(PACKED);
    for at in 0..whole.len() {
        // Cut and changed anywhere: an error or the report, never a panic.
        let _ = unpack(&whole[..at]);
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        let _ = unpack(&changed);
    }
    let mut changed = whole.clone();
    changed[40] ^= 1;
    assert!(matches!(unpack(&changed), Err(BadPacking::Damaged(_))));
    let directory = whole.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    for (place, value, why) in [(8, 1, "encrypted"), (10, 99, "method (99)")] {
        let mut changed = whole.clone();
        changed[directory + place] = value;
        let found = unpack(&changed).unwrap_err().to_string();
        assert!(found.contains(why), "{found}");
    }
    let gzip = gzip(OTHERS.as_bytes());
    assert!(matches!(unpack(&gzip[..gzip.len() / 2]), Err(BadPacking::Damaged(_))));
}

fn text() -> impl Strategy<Value = String> {
    // What is trimmed at an end, and what XML cannot hold, does not come back.
    "[a-z<>&\"'\u{fc}\u{20ac}]{1,8}( [a-z]{1,3})?"
}

prop_compose! {
    fn records()(
        (source, count, disposition) in (text(), any::<u64>(), text()),
        (dkim, spf, header_from, envelope_from) in (text(), text(), text(), text()),
        reasons in vec((text(), text()).prop_map(|(kind, comment)| Reason { kind, comment }), 0..3),
        signatures in vec((text(), text(), text()).prop_map(|(domain, selector, result)| {
            Signature { domain, selector, result, why: "x".to_owned() }
        }), 0..3),
        senders in vec((text(), text(), text()).prop_map(|(domain, scope, result)| {
            Sender { domain, scope, result, why: String::new() }
        }), 0..3),
    ) -> Record {
        Record {
            source, count, disposition, dkim, spf, reasons, header_from, envelope_from,
            envelope_to: String::new(), signatures, senders,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        (organisation, email, id) in (text(), text(), text()),
        (begin, end, domain, np) in (any::<u64>(), any::<u64>(), text(), text()),
        records in vec(records(), 0..4),
    ) {
        let policy = Policy { domain, np, p: "none".to_owned(), ..Policy::default() };
        let written = Report {
            organisation, email, id, begin, end, policy, records, ..Report::default()
        };
        prop_assert_eq!(report(xml(&written).as_bytes()), Ok(written));
    }

    #[test]
    fn no_text_breaks_a_document(email in any::<String>()) {
        let written = Report { email, ..Report::default() };
        prop_assert!(report(xml(&written).as_bytes()).is_ok());
    }

    #[test]
    fn no_document_panics(
        text in "(<feedback>)?(<[a-z]{1,3}/?>|</[a-z]{1,3}>|&[a-z#;]{1,3}|[a-z]){0,12}",
    ) {
        let _ = report(text.as_bytes());
    }
}
