//! The control socket: requests and replies through it, and clients that misbehave.

use super::*;
use std::collections::BTreeMap;

/// Domains in memory, and an account that exists.
#[derive(Debug, Default)]
struct Fake {
    domains: Mutex<BTreeMap<String, ()>>,
}

impl Admin for Fake {
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let mut domains = self.domains.lock().unwrap();
        match request {
            AdminRequest::DomainAdd { domain } if domains.contains_key(&domain) => {
                Err(AdminError::new(AdminErrorKind::Exists, format!("{domain} exists already")))
            }
            AdminRequest::DomainAdd { domain } => {
                domains.insert(domain.clone(), ());
                Ok(AdminReply::Done { text: format!("domain {domain} added") })
            }
            AdminRequest::DomainList { .. } => {
                Ok(AdminReply::Domains { domains: domains.keys().cloned().collect(), more: false })
            }
            _ => Err(AdminError::new(AdminErrorKind::NotFound, "no such thing")),
        }
    }
}

fn served(folder: &Path) -> Control {
    serve(folder, Arc::new(Fake::default())).unwrap()
}

fn add(client: &mut Client, domain: &str) -> Result<AdminReply, AdminError> {
    client.execute(&AdminRequest::DomainAdd { domain: domain.to_owned() })
}

#[test]
fn requests_are_carried_out_and_errors_come_back() {
    let temp = tempfile::tempdir().unwrap();
    assert!(call(temp.path()).unwrap().is_none());
    let control = served(temp.path());
    let mut client = call(temp.path()).unwrap().unwrap();
    let added = AdminReply::Done { text: "domain example.org added".to_owned() };
    assert_eq!(add(&mut client, "example.org"), Ok(added));
    let error = add(&mut client, "example.org").unwrap_err();
    assert_eq!(
        (error.kind, error.to_string().as_str()),
        (AdminErrorKind::Exists, "example.org exists already")
    );
    drop(client);
    let mut client = call(temp.path()).unwrap().unwrap();
    let list = client.execute(&AdminRequest::DomainList { after: None });
    let domains = vec!["example.org".to_owned()];
    assert_eq!(list, Ok(AdminReply::Domains { domains, more: false }));
    // A client that stays does not hold the engine up.
    drop(control);
    assert_eq!(add(&mut client, "example.net").unwrap_err().kind, AdminErrorKind::Failed);
    assert!(call(temp.path()).unwrap().is_none());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "the socket is gone");
}

#[test]
fn the_socket_is_for_its_owner_and_a_stale_one_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    // What a crash leaves behind.
    drop(UnixListener::bind(temp.path().join(SOCKET)).unwrap());
    drop(UnixListener::bind(temp.path().join("control.sock.new")).unwrap());
    assert!(call(temp.path()).unwrap().is_none());
    let _control = served(temp.path());
    let mode = fs::metadata(temp.path().join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(add(&mut call(temp.path()).unwrap().unwrap(), "example.org").is_ok());
}

#[test]
fn a_folder_with_a_long_name_is_served() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("x".repeat(100)).join("y".repeat(100));
    fs::create_dir_all(&folder).unwrap();
    let _control = served(&folder);
    assert!(add(&mut call(&folder).unwrap().unwrap(), "example.org").is_ok());
}

#[test]
fn a_client_that_misbehaves_is_told_or_dropped() {
    let temp = tempfile::tempdir().unwrap();
    let _control = served(temp.path());
    let say = |bytes: &[u8]| {
        let mut stream = connect(temp.path()).unwrap();
        // The engine may close before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        reply
    };
    assert!(say(b"nonsense\n").contains("cannot understand the request"));
    assert!(say(b"{\"command\":\"domain-add\",\"domain\":\"a\",\"x\":1}\n").contains("invalid"));
    assert!(
        say(b"{\"command\":\"user-add\",\"address\":\"a@b\",\"name\":null,\"password\":\"\"}\n")
            .contains("the password is empty")
    );
    assert_eq!(say(b"{\"command\":\"domain-list\""), "", "no newline, no request");
    // The longest request that is read, and one byte more.
    let domain = |bytes: usize| {
        let frame = "{\"command\":\"domain-add\",\"domain\":\"\"}\n";
        let text = format!("\"domain\":\"{}\"", "x".repeat(bytes - frame.len()));
        frame.replace("\"domain\":\"\"", &text)
    };
    assert_eq!(domain(REQUEST_BYTES_MAX).len(), REQUEST_BYTES_MAX);
    assert!(say(domain(REQUEST_BYTES_MAX).as_bytes()).contains("added"));
    assert_eq!(say(domain(REQUEST_BYTES_MAX + 1).as_bytes()), "");
    assert!(say(b"{\"command\":\"domain-list\",\"after\":null}\n").starts_with("{\"ok\":"));
}

#[test]
fn passwords_are_checked_and_do_not_show() {
    let password = |text: &str| Password::try_from(text.to_owned());
    assert_eq!(password("two words").unwrap().reveal(), "two words");
    assert_eq!(format!("{:?}", password("open sesame")), "Ok(Password)");
    assert!(password(&"x".repeat(PASSWORD_BYTES_MAX)).is_ok());
    for bad in ["", "a\nb", "a\0", &"x".repeat(PASSWORD_BYTES_MAX + 1)] {
        assert!(password(bad).is_err());
    }
}
