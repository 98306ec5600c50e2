//! Certificates that are made, read, refused and replaced.

use std::fs;

use fsmtp_rt::UnixTime;

use super::*;

/// Within the time of certificates that are made now.
fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixTime::from_ms(u64::try_from(since.as_millis()).unwrap())
}

fn pair(folder: &std::path::Path, names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    self_signed(folder, &names).unwrap()
}

#[test]
fn a_self_signed_certificate_is_made_once_and_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let first = pair(folder.path(), &["mx.example.test"]);
    let text = fs::read(&first.key).unwrap();
    assert_eq!(pair(folder.path(), &["mx.example.test"]), first);
    assert_eq!(fs::read(&first.key).unwrap(), text);
    assert_eq!(fs::metadata(&first.key).unwrap().permissions().mode() & 0o777, 0o600);
    Acceptor::new(&Certs::load(&[first], now()).unwrap()).unwrap();
}

#[test]
fn what_is_wrong_is_said_with_its_file_and_a_reload_keeps_the_old() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let [a, b] = [0, 1].map(|i| pair(folders[i].path(), &["mx.example.test"]));
    let crossed = Pair { certificate: a.certificate.clone(), key: b.key.clone() };
    let says = |pairs: &[Pair], now| Certs::load(pairs, now).unwrap_err().to_string();
    assert!(says(&[crossed], now()).contains("is not the key of"));
    assert!(says(&[], now()).contains("no certificate"));
    assert!(says(std::slice::from_ref(&a), UnixTime::from_ms(u64::MAX / 2)).contains("expired"));
    assert!(says(std::slice::from_ref(&a), UnixTime::default()).contains("begins"));
    let swapped = Pair { certificate: a.key.clone(), key: a.certificate.clone() };
    assert!(says(&[swapped], now()).contains("key.pem: no certificate"));
    let certs = Certs::load(std::slice::from_ref(&a), now()).unwrap();
    fs::write(&a.certificate, "no certificate any more").unwrap();
    assert!(certs.reload(now()).unwrap_err().to_string().contains("cert.pem"));
    fs::write(&a.certificate, fs::read(&b.certificate).unwrap()).unwrap();
    fs::write(&a.key, fs::read(&b.key).unwrap()).unwrap();
    certs.reload(now()).unwrap();
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pair = self_signed(folder.path(), &["mx.example.test".to_owned()]).unwrap();
    fs::remove_file(&pair.key).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pair.key, kind, mode, 0).unwrap();
    let said = Certs::load(&[pair], crate::run::now()).unwrap_err().to_string();
    assert!(said.ends_with("key.pem: not a file"), "{said}");
}

#[test]
fn authorities_are_those_of_the_file_and_all_of_them_must_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roots.pem");
    let load = |text: &[u8]| {
        fs::write(&file, text).unwrap();
        Roots::load(Some(&file)).map(|roots| roots.map(|roots| roots.count()))
    };
    let ours = pair(folder.path(), &["mx.example.test"]);
    let one = fs::read(&ours.certificate).unwrap();
    assert_eq!(load(&one), Ok(Some(1)));
    assert!(load(b"").unwrap_err().to_string().contains("roots.pem: no certificate in it"));
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(load(&[&one[..], broken].concat()).is_err());
    assert!(Roots::load(Some(&folder.path().join("nowhere"))).is_err());
}

#[test]
fn who_knows_no_authority_proves_no_name() {
    let connector = Connector::new(None).unwrap();
    assert!(!connector.knows_authorities());
    assert!(connector.session("mx.test", &Proof::Anybody).is_ok());
    let why = connector.session("mx.test", &Proof::Name).unwrap_err();
    assert_eq!(why, "no certificate authority is known here");
    assert!(connector.session("", &Proof::Anybody).is_err());
}
