//! Keys on a real disk: made, loaded, refused.

use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

const NOW: UnixTime = UnixTime::from_ms(1_700_000_000_000);
const MESSAGE: &[u8] = b"From: a@example.org\r\n\r\nHi.\r\n";

fn ed25519() -> Zeroizing<Vec<u8>> {
    generate(Algorithm::Ed25519Sha256, RsaBits::default()).unwrap()
}

fn load_error(data: &Path) -> String {
    DkimKeys::load(data).unwrap_err().to_string()
}

#[test]
fn keys_are_made_and_loaded_and_sign() {
    let data = tempfile::tempdir().unwrap();
    assert_eq!(DkimKeys::load(data.path()).unwrap().iter().count(), 0);
    let rsa = generate(Algorithm::RsaSha256, RsaBits::B2048).unwrap();
    let made = [
        create(data.path(), "Example.ORG", "R1", &rsa).unwrap(),
        create(data.path(), "example.org", "e.1", &ed25519()).unwrap(),
        create(data.path(), "other.test", "x", &ed25519()).unwrap(),
    ];
    assert_ne!(made[1].record(), made[2].record(), "keys are random");
    let keys = DkimKeys::load(data.path()).unwrap();
    let names: Vec<_> = keys.iter().map(Key::record_name).collect();
    let due =
        ["e.1._domainkey.example.org", "r1._domainkey.example.org", "x._domainkey.other.test"];
    assert_eq!(names, due);
    assert_eq!(keys.iter().nth(1).unwrap().record(), made[0].record());

    let mut signer = keys.signer("EXAMPLE.org").unwrap();
    signer.feed(MESSAGE);
    let fields = std::thread::spawn(move || signer.finish(NOW).unwrap()).join().unwrap();
    let fields = String::from_utf8(fields).unwrap();
    assert_eq!(fields.matches("DKIM-Signature:").count(), 2);
    assert!(fields.contains("s=r1;") && fields.contains("s=e.1;"), "{fields}");
    assert!(keys.signer("elsewhere.test").is_none());

    let one = DkimKeys::load_domain(data.path(), "OTHER.test").unwrap();
    assert_eq!(one.iter().count(), 1);
    assert_eq!(DkimKeys::load_domain(data.path(), "no.test").unwrap().iter().count(), 0);
    assert!(DkimKeys::load_domain(data.path(), "../dkim").is_err());
}

#[test]
fn only_the_owner_may_look() {
    let data = tempfile::tempdir().unwrap();
    let key = create(data.path(), "example.org", "s", &ed25519()).unwrap();
    let path = file(data.path(), &key);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for folder in path.ancestors().skip(1).take(3) {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("-----BEGIN PRIVATE KEY-----\n") && text.lines().all(|l| l.len() <= 64)
    );
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");

    for wrong in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, Permissions::from_mode(wrong)).unwrap();
        let error = load_error(data.path());
        assert!(error.contains("s.pem: others may") && error.contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    DkimKeys::load(data.path()).unwrap();
}

#[test]
fn nothing_is_overwritten() {
    let data = tempfile::tempdir().unwrap();
    let key = create(data.path(), "example.org", "s", &ed25519()).unwrap();
    let path = file(data.path(), &key);
    let before = fs::read(&path).unwrap();
    let error = create(data.path(), "example.org", "S", &ed25519()).unwrap_err().to_string();
    assert!(error.contains("s.pem: is there already"), "{error}");
    // Nor when somebody is quicker, between the look and the rename.
    let new = path.with_extension("new");
    assert_eq!(keep(&new, &path, "x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn names_do_not_lead_elsewhere() {
    let data = tempfile::tempdir().unwrap();
    for (domain, selector) in [
        ("..", "s"),
        ("../../x", "s"),
        ("/etc", "s"),
        ("", "s"),
        ("example.org", ".."),
        ("example.org", "../s"),
        ("example.org", "a/b"),
        ("example.org", ""),
        ("example.org", "s\0"),
        ("b\u{fc}cher.test", "s"),
    ] {
        assert!(create(data.path(), domain, selector, &ed25519()).is_err(), "{domain} {selector}");
    }
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
}

/// A file with this text in place of a key.
fn with_text(text: &[u8]) -> String {
    let data = tempfile::tempdir().unwrap();
    let key = create(data.path(), "example.org", "s", &ed25519()).unwrap();
    fs::write(file(data.path(), &key), text).unwrap();
    load_error(data.path())
}

#[test]
fn a_file_that_is_no_key_is_named() {
    for (text, why) in [
        (&b""[..], "no key in PKCS #8"),
        (b"hello\n", "no key in PKCS #8"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n", "-topk8"),
        (pem(b"nonsense").as_bytes(), "2048 to 4096 bits"),
        (pem(&ed25519()[1..]).as_bytes(), "2048 to 4096 bits"),
        (&[b'x'; FILE_BYTES_MAX as usize + 1], "too large"),
    ] {
        let error = with_text(text);
        assert!(error.contains("example.org/s.pem: ") && error.contains(why), "{error}");
    }
}

/// RFC 8301 asks for 1024 bits at least, and ring for 2048.
#[test]
fn a_short_rsa_key_is_refused() {
    let short = include_str!("../../../tests/vectors/dkim/rsa1024.pem");
    let error = with_text(short.as_bytes());
    assert!(error.contains("2048 to 4096 bits in PKCS #8 (TooSmall)"), "{error}");
}

#[test]
fn what_is_not_a_domain_s_folder_is_named() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir_all(data.path().join(FOLDER).join("Example.org")).unwrap();
    let error = load_error(data.path());
    assert!(error.contains("Example.org: not a domain"), "{error}");
}

#[test]
fn a_domain_has_so_many_keys() {
    let data = tempfile::tempdir().unwrap();
    for number in 0..KEYS_COUNT_MAX {
        create(data.path(), "example.org", &format!("s{number}"), &ed25519()).unwrap();
    }
    let error = create(data.path(), "example.org", "more", &ed25519()).unwrap_err().to_string();
    assert!(error.contains("8 keys are there already"), "{error}");
    assert_eq!(DkimKeys::load(data.path()).unwrap().iter().count(), KEYS_COUNT_MAX);
    let folder = data.path().join(FOLDER).join("example.org");
    fs::copy(folder.join("s0.pem"), folder.join("s9.pem")).unwrap();
    assert!(load_error(data.path()).contains("9 keys are there, 8 are allowed"));
}
