//! Files of authorities that are refused, and whose a certificate is.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, GeneralSubtree, IsCa, KeyPair,
    NameConstraints, SanType,
};

use rustls::pki_types::UnixTime as Instant;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    authority_for(name, None)
}

fn authority_for(name: &str, name_constraints: Option<NameConstraints>) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.name_constraints = name_constraints;
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn mail(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

fn leaf(authority: &Authority, names: &[SanType]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, authority).unwrap().der().clone()
}

#[test]
fn a_certificate_is_its_one_address() {
    let authority = authority("one");
    let of = |names: &[SanType]| holder(&leaf(&authority, names));
    let host = SanType::DnsName("host.example.test".try_into().unwrap());
    assert_eq!(of(&[mail("Bob@Example.test")]).as_deref(), Some("Bob@Example.test"));
    assert_eq!(of(&[host.clone(), mail("b@x"), host.clone()]).as_deref(), Some("b@x"));
    let longest = format!("{}@x", "b".repeat(NAME_BYTES_MAX - 2));
    assert_eq!(of(&[mail(&longest)]).as_deref(), Some(&*longest));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[host]), None);
    assert_eq!(of(&[mail("a@example.test"), mail("b@example.test")]), None);
    assert_eq!(of(&[mail("a@example.test"), mail("a@example.test")]), None, "twice the same");
    for none in
        ["", "bob", "@", "@example.test", "bob@", "a b@x", "a@x\0", "a\t@x", &format!("b{longest}")]
    {
        assert_eq!(of(&[mail(none)]), None, "{none:?}");
    }
    assert_eq!(holder(&CertificateDer::from(vec![0x30, 0])), None);
}

#[test]
fn an_address_in_the_subject_does_not_count() {
    let mut params = CertificateParams::default();
    let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    params.distinguished_name.push(email, "bob@example.test");
    params.distinguished_name.push(DnType::CommonName, "bob@example.test");
    let made = params.signed_by(&KeyPair::generate().unwrap(), &authority("one")).unwrap();
    assert_eq!(holder(made.der()), None);
}

#[test]
fn files_of_authorities_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.pem");
    let (one, two) = (authority("one"), authority("two"));
    let says = |text: &str| {
        fs::write(&file, text).unwrap();
        let said = read(&file).map(|verifier| verifier.root_hint_subjects().len());
        said.map_err(|error| error.to_string())
    };
    assert!(read(&folder.path().join("none")).is_err());
    assert_eq!(says(&format!("comment\n{}{}", one.pem(), two.pem())), Ok(2));
    for (text, expected) in [
        (String::new(), "no certificate in it"),
        (one.key().serialize_pem(), "no certificate in it"),
        (one.pem().replace("-----END", ""), "users.pem: "),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".into(), "cannot read a"),
        (one.pem().repeat(1000), "16384 at most"),
        (authority(&"x".repeat(20_000)).pem(), "16384 at most"),
    ] {
        let said = says(&text).unwrap_err();
        assert!(said.contains("users.pem: ") && said.contains(expected), "{said}");
    }
}

/// The library does not know e-mail addresses in name constraints, so whatever an authority that
/// has them certifies is refused: that is on the safe side.
#[test]
fn authorities_for_some_addresses_only_are_good_for_none() {
    let constraints = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::Rfc822Name("example.test".into())],
        excluded_subtrees: Vec::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.pem");
    let one = authority_for("one", Some(constraints));
    fs::write(&file, one.pem()).unwrap();
    let verifier = read(&file).unwrap();
    for address in ["bob@example.test", "bob@elsewhere.test"] {
        let shown = leaf(&one, &[mail(address)]);
        assert!(verifier.verify_client_cert(&shown, &[], Instant::now()).is_err());
    }
}
