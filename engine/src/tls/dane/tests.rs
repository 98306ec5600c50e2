//! Certificates of all kinds against records of all kinds.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::tls::{Failed, provider};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "anchor");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(authority: &Authority, name: &str, last_year: i32) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().der().clone()
}

/// The record of this kind that a certificate fits.
fn record(of: &CertificateDer<'_>, usage: u8, selector: u8, matching: u8) -> Tlsa {
    let (_, parsed) = X509Certificate::from_der(of).unwrap();
    let content = if selector == 0 { of.as_ref() } else { parsed.public_key().raw };
    let data = match matching {
        0 => content.into(),
        1 => digest(&SHA256, content).as_ref().into(),
        _ => digest(&SHA512, content).as_ref().into(),
    };
    Tlsa { usage, selector, matching, data }
}

fn judge(
    records: &[Tlsa],
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
) -> Result<(), String> {
    let dane = Dane {
        records: usable(records.iter()),
        names: vec!["mx.example.test".into(), "example.test".into()],
    };
    let verifier = Verifier { dane, provider: Arc::new(provider()) };
    let asked = ServerName::try_from("mx.example.test").unwrap();
    verifier
        .verify_server_cert(leaf, chain, &asked, &[], UnixTime::now())
        .map(drop)
        .map_err(|error| Failed::of(&error).words)
}

#[test]
fn records_of_every_kind_fit_their_certificate_and_no_other() {
    let ca = authority();
    let anchor: CertificateDer<'static> = ca.der().clone();
    let (ours, other) = (leaf(&ca, "mx.example.test", 2100), leaf(&ca, "mx.example.test", 2100));
    let foreign = authority();
    for selector in 0..=1 {
        for matching in 0..=2 {
            let chain = [anchor.clone()];
            let own = record(&ours, END_ENTITY, selector, matching);
            assert_eq!(judge(std::slice::from_ref(&own), &ours, &chain), Ok(()));
            let error = judge(std::slice::from_ref(&own), &other, &chain).unwrap_err();
            assert!(error.contains("no TLSA record fits it"), "{error}");
            // One of several suffices.
            assert_eq!(judge(&[record(&other, 3, 1, 1), own], &ours, &chain), Ok(()));
            let above = record(&anchor, TRUST_ANCHOR, selector, matching);
            assert_eq!(judge(std::slice::from_ref(&above), &ours, &chain), Ok(()));
            let strange = record(foreign.der(), TRUST_ANCHOR, selector, matching);
            assert!(judge(&[strange], &ours, &chain).is_err());
            // The record of the anchor is none of the server's own certificate.
            assert!(judge(&[Tlsa { usage: END_ENTITY, ..above.clone() }], &ours, &chain).is_err());
            // An anchor that is not shown counts only where the record holds all of it.
            let whole = (selector, matching) == (0, 0);
            assert_eq!(judge(&[above], &ours, &[]).is_ok(), whole);
        }
    }
}

#[test]
fn names_and_dates_count_below_an_anchor_and_nowhere_else() {
    let ca = authority();
    let chain = [ca.der().clone()];
    for (name, last_year, good) in [
        ("mx.example.test", 2100, true),
        ("example.test", 2100, true),
        ("*.example.test", 2100, true),
        ("other.test", 2100, false),
        ("mx.example.test", 2002, false),
    ] {
        let leaf = leaf(&ca, name, last_year);
        let anchored = judge(&[record(&chain[0], 2, 0, 1)], &leaf, &chain);
        assert_eq!(anchored.is_ok(), good, "{name} {last_year}: {anchored:?}");
        assert_eq!(judge(&[record(&leaf, 3, 1, 1)], &leaf, &chain), Ok(()));
    }
}

#[test]
fn an_anchor_must_have_signed_the_certificate() {
    let (ca, other) = (authority(), authority());
    let leaf = leaf(&ca, "mx.example.test", 2100);
    // It is shown, and fits the record, and has signed nothing.
    assert!(judge(&[record(other.der(), 2, 0, 1)], &leaf, &[other.der().clone()]).is_err());
}

#[test]
fn records_that_say_nothing_for_mail_are_passed_over() {
    let good = Tlsa { usage: 3, selector: 1, matching: 1, data: [7; 32].into() };
    let bad = [
        Tlsa { usage: 0, ..good.clone() },
        Tlsa { usage: 1, ..good.clone() },
        Tlsa { usage: 4, ..good.clone() },
        Tlsa { selector: 2, ..good.clone() },
        Tlsa { matching: 3, ..good.clone() },
        Tlsa { data: [7; 31].into(), ..good.clone() },
        Tlsa { matching: 2, ..good.clone() },
        Tlsa { matching: 0, data: [].into(), usage: 3, selector: 1 },
    ];
    assert!(usable(bad.iter()).is_empty());
    assert_eq!(*usable(bad.iter().chain([&good])), *core::slice::from_ref(&good));
    let many = vec![good; RECORDS_MAX + 1];
    assert_eq!(usable(many.iter()).len(), RECORDS_MAX);
}
