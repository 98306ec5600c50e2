//! Commands from argv to exit status, against a fake engine, online and offline.

use super::*;
use crate::control::{
    self, AdminError, AdminErrorKind, AdminReply, AdminRequest, AliasEntry, UserEntry,
};
use std::cell::RefCell;
use std::sync::{Arc, Mutex};

/// Accounts in memory; lists come in pages of two.
#[derive(Debug, Default)]
struct Accounts {
    users: Mutex<Vec<(UserEntry, String)>>,
}

fn page<T: Clone>(all: &[T], after: Option<String>, key: impl Fn(&T) -> &str) -> (Vec<T>, bool) {
    let rest: Vec<T> =
        all.iter().filter(|e| after.as_deref().is_none_or(|a| key(e) > a)).cloned().collect();
    (rest.iter().take(2).cloned().collect(), rest.len() > 2)
}

impl Admin for Accounts {
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let mut users = self.users.lock().unwrap();
        let done = |text: String| Ok(AdminReply::Done { text });
        match request {
            AdminRequest::UserAdd { address, name, password, .. } => {
                let user = UserEntry {
                    address: address.clone(),
                    name: name.unwrap_or_default(),
                    unreadable: false,
                };
                users.push((user, password.reveal().to_owned()));
                done(format!("account {address} added"))
            }
            AdminRequest::UserPassword { address, password, .. } => {
                let user = users.iter_mut().find(|(user, _)| user.address == address);
                let text = format!("account {address} does not exist");
                let user =
                    user.ok_or_else(|| AdminError::new(AdminErrorKind::NotFound, text.clone()))?;
                user.1 = password.reveal().to_owned();
                done(format!("password of {address} set"))
            }
            AdminRequest::UserList { after } => {
                let all: Vec<UserEntry> = users.iter().map(|(user, _)| user.clone()).collect();
                let (users, more) = page(&all, after, |user| &user.address);
                Ok(AdminReply::Users { users, more })
            }
            AdminRequest::DomainList { after } => {
                let all = ["a.example", "b.example", "c.example"].map(str::to_owned);
                let (domains, more) = page(&all, after, String::as_str);
                Ok(AdminReply::Domains { domains, more })
            }
            AdminRequest::AliasList { .. } => {
                let alias = AliasEntry {
                    address: "*@example.org".to_owned(),
                    targets: vec!["a@example.org".to_owned(), "b@example.org".to_owned()],
                };
                Ok(AdminReply::Aliases { aliases: vec![alias], more: false })
            }
            other => done(format!("{other:?}")),
        }
    }
}

/// An engine whose store is in memory.
#[derive(Default)]
struct Fake {
    accounts: Arc<Accounts>,
    ran: RefCell<Vec<Config>>,
}

struct Shared(Arc<Accounts>, #[allow(dead_code, reason = "held, as a store holds it")] DirLock);

impl Admin for Shared {
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        self.0.execute(request)
    }
}

impl Engine for Fake {
    fn run(&self, config: &Config, _: DirLock) -> Result<(), String> {
        self.ran.borrow_mut().push(config.clone());
        Ok(())
    }

    fn open(&self, _: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
        Ok(Box::new(Shared(Arc::clone(&self.accounts), lock)))
    }

    fn open_to_import(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
        self.open(config, lock)
    }
}

struct Ran {
    status: u8,
    output: String,
    errors: String,
}

/// Runs a command line; `typed` is standard input, and what is typed at prompts without echo.
fn run_with(engine: &Fake, data: &Path, line: &[&str], typed: &str) -> Ran {
    let data = data.display().to_string();
    let args = ["fsmtp-engine", "--data", &data]
        .into_iter()
        .chain(line.iter().copied())
        .map(OsString::from);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let secrets = RefCell::new(typed.lines().map(str::to_owned).collect::<Vec<_>>().into_iter());
    let terminal = &mut Terminal {
        input: &mut typed.as_bytes(),
        output: &mut output,
        errors: &mut errors,
        secret: &|_| secrets.borrow_mut().next().ok_or_else(|| std::io::ErrorKind::NotFound.into()),
        interactive: false,
        colours: false,
    };
    let status = execute(args, engine, terminal);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status, output: text(output), errors: text(errors) }
}

fn run_line(engine: &Fake, data: &Path, line: &str) -> Ran {
    run_with(engine, data, &line.split_whitespace().collect::<Vec<_>>(), "")
}

#[test]
fn accounts_are_managed_offline_and_online_alike() {
    for online in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let engine = Fake::default();
        let running = online.then(|| {
            let lock = DirLock::take(temp.path()).unwrap();
            let control = control::serve(temp.path(), engine.accounts.clone()).unwrap();
            (control, lock)
        });
        for name in ["c", "a", "b"] {
            let address = format!("{name}@example.org");
            let line = ["adduser", &address, "--name", "Some One", "--password-stdin"];
            let ran = run_with(&engine, temp.path(), &line, "two  words \r\nnot this\n");
            assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
            assert_eq!(ran.output, format!("account {address} added\n"));
        }
        engine.accounts.users.lock().unwrap().sort_by(|a, b| a.0.address.cmp(&b.0.address));
        let password = engine.accounts.users.lock().unwrap()[0].1.clone();
        assert_eq!(password, "two  words ");
        let ran = run_line(&engine, temp.path(), "users");
        assert_eq!(
            ran.output,
            "address        name\na@example.org  Some One\nb@example.org  Some One\n\
             c@example.org  Some One\n"
        );
        let ran = run_line(&engine, temp.path(), "users --json");
        let users: Vec<UserEntry> = serde_json::from_str(&ran.output).unwrap();
        assert_eq!(users.len(), 3);
        let ran = run_line(&engine, temp.path(), "domain list");
        assert_eq!(ran.output, "domain\na.example\nb.example\nc.example\n");
        let ran = run_line(&engine, temp.path(), "alias list");
        assert!(ran.output.ends_with("*@example.org  a@example.org, b@example.org\n"));
        let line = ["passwd", "x@example.org", "--password-stdin"];
        let ran = run_with(&engine, temp.path(), &line, "pw\n");
        assert_eq!(ran.status, 1);
        assert_eq!(ran.errors, "fsmtp-engine: account x@example.org does not exist\n");
        drop(running);
    }
}

#[test]
fn a_folder_without_a_store_is_named_and_nothing_is_made_there() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    let empty = temp.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for data in [temp.path().join("mistyped"), empty] {
        for line in [
            "users",
            "passwd a@example.org",
            "deluser a@example.org",
            "domain list",
            "domain remove example.org",
            "alias list",
            "alias add x@example.org a@example.org",
            "alias remove x@example.org",
        ] {
            // The password is not asked for in vain: nothing is typed here.
            let ran = run_line(&engine, &data, line);
            let expected = format!(
                "fsmtp-engine: no mail store in {}: `domain add`, `adduser` or a start makes one\n",
                data.display()
            );
            assert_eq!((ran.status, ran.errors), (1, expected), "{line}");
            let made = std::fs::read_dir(&data).map_or(0, Iterator::count);
            assert_eq!(made, 0, "{line}");
        }
        for line in [&["domain", "add", "x.test"][..], &["adduser", "a@x.test", "--password-stdin"]]
        {
            let _ = std::fs::remove_dir_all(&data);
            assert_eq!(run_with(&engine, &data, line, "pw\n").status, 0, "{line:?}");
            assert_eq!(run_line(&engine, &data, "users").status, 0);
        }
    }
}

#[test]
fn every_change_reaches_the_store() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    drop(DirLock::take(temp.path()).unwrap());
    for (line, request) in [
        ("deluser a@example.org", "UserRemove { address: \"a@example.org\" }"),
        ("domain add example.org", "DomainAdd { domain: \"example.org\" }"),
        ("domain remove example.org", "DomainRemove { domain: \"example.org\" }"),
        (
            "alias add *@example.org a@b c@d",
            "AliasAdd { address: \"*@example.org\", targets: [\"a@b\", \"c@d\"], replace: false }",
        ),
        ("alias remove x@example.org", "AliasRemove { address: \"x@example.org\" }"),
    ] {
        assert_eq!(run_line(&engine, temp.path(), line).output, format!("{request}\n"));
    }
    let ran = run_line(&engine, temp.path(), "deluser a@example.org --json");
    let value: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert!(value.get("done").is_some());
}

#[test]
fn passwords_are_asked_for_twice() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    let line = ["adduser", "a@example.org"];
    let ran = run_with(&engine, temp.path(), &line, "one\ntwo\n");
    assert_eq!((ran.status, ran.errors.as_str()), (1, "fsmtp-engine: the two passwords differ\n"));
    let ran = run_with(&engine, temp.path(), &line, "\n\n");
    assert_eq!(ran.errors, "fsmtp-engine: the password is empty\n");
    let ran = run_with(&engine, temp.path(), &line, "same\nsame\n");
    assert_eq!((ran.status, engine.accounts.users.lock().unwrap()[0].1.as_str()), (0, "same"));
    // The original's flag asks for the address, too, or takes it.
    let ran = run_with(&engine, temp.path(), &["-adduser"], "b@example.org\nb@example.org\n");
    assert_eq!(
        (ran.errors.as_str(), ran.output.as_str()),
        ("Address: ", "account b@example.org added\n")
    );
    let line = ["-a", "c@example.org", "--name", "C", "--password-stdin"];
    let ran = run_with(&engine, temp.path(), &line, "secret\n");
    assert_eq!((ran.status, ran.output.as_str()), (0, "account c@example.org added\n"));
    assert_eq!(engine.accounts.users.lock().unwrap().last().unwrap().0.name, "C");
}

#[test]
fn a_folder_in_use_or_of_a_newer_format_is_refused_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    let lock = DirLock::take(temp.path()).unwrap();
    for line in ["users", "--dev --ports 64000", "test --dev --ports 64000"] {
        let ran = run_line(&engine, temp.path(), line);
        assert_eq!((ran.status, ran.errors.lines().count()), (1, 1), "{}", ran.errors);
        let text = ran.output + &ran.errors;
        assert!(text.contains("is in use by process"), "{text}");
    }
    drop(lock);
    std::fs::write(temp.path().join("format"), "fsmtp-engine data, format 9\n").unwrap();
    for line in ["users", "--dev --ports 64000"] {
        let ran = run_line(&engine, temp.path(), line);
        assert_eq!((ran.status, ran.errors.lines().count()), (1, 1));
        assert!(ran.errors.contains("has format 9"), "{}", ran.errors);
    }
    assert!(engine.ran.borrow().is_empty());
}

#[test]
fn a_run_starts_with_what_was_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = (free - 25).min(64_000).to_string();
    let line = ["--cores", "1", "--dev", "--ports", &base, "-r=smtp"];
    let ran = run_with(&engine, temp.path(), &line, "");
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let config = engine.ran.borrow()[0].clone();
    // SMTP, and submission with both kinds of TLS.
    assert_eq!((config.cores, config.listeners.len()), (1, 3));
    let table = startup_table(&config);
    assert_eq!(table.lines().next(), Some("address          protocol    TLS       account"));
    assert!(table.contains("demo@example.test, password demo"), "{table}");
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_touched() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let file = temp.path().join("fsmtp.toml");
    std::fs::write(&file, format!("[[listener]]\naddress = '{address}'\n")).unwrap();
    let engine = Fake::default();
    let ran = run_with(&engine, &data, &["--config", &file.display().to_string()], "");
    assert_eq!(ran.status, 1);
    let expected = format!("fsmtp-engine: cannot listen on {address}: Address already in use");
    assert!(ran.errors.starts_with(&expected) && ran.errors.lines().count() == 1, "{}", ran.errors);
    assert!(!data.exists() && engine.ran.borrow().is_empty());
}

#[test]
fn checks_are_one_line_each() {
    let temp = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let file = temp.path().join("fsmtp.toml");
    let text = format!(
        "[[listener]]\naddress = '{address}'\nconnections_max = 10\n\
         [store]\nsegment_bytes = 2097152\nreserve_bytes = 0\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let engine = Fake::default();
    let data = temp.path().join("data");
    let ran = run_with(&engine, &data, &["-t", "--cores", "1", "--config", &file], "");
    assert_eq!(ran.status, 1, "{}", ran.output);
    let names = ["configuration", "data folder", "disk space", "io_uring", "locked memory"];
    for (line, name) in ran.output.lines().zip(names) {
        assert!(line.starts_with(&format!("ok    {name}: ")), "{}", ran.output);
    }
    assert!(ran.output.contains(&format!("FAIL  port: cannot listen on {address}")));
    assert!(!data.exists(), "a check changes nothing");
    drop(held);
    let line = ["test", "--cores", "1", "--json", "--config", &file];
    let ran = run_with(&engine, &data, &line, "");
    let checks: Vec<serde_json::Value> = serde_json::from_str(&ran.output).unwrap();
    assert_eq!((ran.status, checks.len()), (0, 9), "{}", ran.output);
    // A reserve that no disk has.
    let file = temp.path().join("huge.toml");
    std::fs::write(&file, "[store]\nreserve_bytes = 1125899906842624\n[server]\ncores = 0\n")
        .unwrap();
    let ran = run_with(&engine, &data, &["test", "--config", &file.display().to_string()], "");
    assert!(ran.output.starts_with("FAIL  configuration: "), "{}", ran.output);
}

#[test]
fn a_password_that_is_not_there_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("fsmtp.toml");
    let route = "{ hosts = 'mx.test', user = 'us', password_file = '/nowhere/pw' }";
    std::fs::write(&file, format!("[routes]\n'*' = {route}\n")).unwrap();
    let file = file.display().to_string();
    let (engine, data) = (Fake::default(), temp.path().join("data"));
    let ran = run_with(&engine, &data, &["test", "--cores", "1", "--config", &file], "");
    let found = "FAIL  password: the route of `*`: /nowhere/pw: No such file or directory";
    assert!(ran.status == 1 && ran.output.contains(found), "{}", ran.output);
    // Whether the file itself is right is another question, which other commands ask.
    let ran = run_with(&engine, &data, &["config", "test", "--config", &file], "");
    assert_eq!(ran.status, 0, "{}", ran.errors);
}

#[test]
fn the_configuration_is_tested_and_explained() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("fsmtp.toml");
    let name = file.display().to_string();
    let engine = Fake::default();
    std::fs::write(&file, "[smtp]\nsize_maximum = 1\n").unwrap();
    for line in [&["config", "test", &name][..], &["config", "test", "--config", &name]] {
        let ran = run_with(&engine, temp.path(), line, "");
        let expected = format!(
            "fsmtp-engine: {name}:2: unknown key `size_maximum` in [smtp]: did you mean \
             `size_max`?\n"
        );
        assert_eq!((ran.status, ran.errors), (1, expected));
    }
    std::fs::write(&file, "[pop3]\nidle_timeout_s = 1\n").unwrap();
    let ran = run_with(&engine, temp.path(), &["config", "test", &name], "");
    assert_eq!(ran.status, 0);
    assert!(ran.output.starts_with("warning: pop3.idle_timeout_s") && ran.output.contains("ok: "));
    let ran = run_with(&engine, temp.path(), &["config", "explain", &name], "");
    assert!(ran.output.contains(&format!("idle_timeout_s = 1 # {name}:2\n")), "{}", ran.output);
    for command in ["config schema", "config reference"] {
        assert_eq!(run_line(&engine, temp.path(), command).status, 0);
    }
}

/// Every command that prints something prints one JSON document with `--json`.
#[test]
fn json_is_one_document_or_wrong_usage() {
    let temp = tempfile::tempdir().unwrap();
    let engine = Fake::default();
    let document = |line: &str, typed: &str| {
        let line: Vec<&str> = line.split_whitespace().chain(["--json"]).collect();
        let ran = run_with(&engine, temp.path(), &line, typed);
        let value = serde_json::from_str::<serde_json::Value>(&ran.output);
        value.unwrap_or_else(|error| panic!("{line:?}: {error}: {}{}", ran.output, ran.errors))
    };
    for (line, typed) in [
        ("adduser --password-stdin", "a@example.org\nsecret\n"),
        ("-a b@example.org --password-stdin", "secret\n"),
        ("passwd a@example.org --password-stdin", "secret\n"),
        ("deluser a@example.org", ""),
        ("domain add example.org", ""),
        ("domain remove example.org", ""),
        ("alias add x@example.org a@example.org", ""),
        ("alias remove x@example.org", ""),
    ] {
        assert!(document(line, typed)["done"].is_string(), "{line}");
    }
    for line in ["users", "domain list", "alias list", "test --cores 1"] {
        assert!(document(line, "").is_array(), "{line}");
    }
    assert!(document("config schema", "")["properties"].is_object());
    let file = temp.path().join("fsmtp.toml");
    let name = file.display().to_string();
    std::fs::write(&file, "[pop3]\nidle_timeout_s = 1\n").unwrap();
    let tested = document(&format!("config test {name}"), "");
    assert_eq!((&tested["ok"], &tested["file"]), (&true.into(), &name.as_str().into()));
    assert!(tested["warnings"][0].as_str().unwrap().starts_with("pop3.idle_timeout_s"));
    let explained = document(&format!("config explain {name} --dev"), "");
    let idle = &explained["pop3"]["idle_timeout_s"];
    assert_eq!((&idle["value"], &idle["from"]), (&1.into(), &format!("{name}:2").into()));
    assert_eq!(explained["listener"][1]["protocol"]["from"], "from the command line");
    for line in ["--dev --json", "run --json", "config reference --json"] {
        let ran = run_line(&engine, temp.path(), line);
        assert_eq!((ran.status, ran.output.as_str()), (2, ""), "{line}");
    }
    // An error stays where people look for it.
    let ran = run_line(&engine, temp.path(), "passwd nobody@example.org --password-stdin --json");
    assert_eq!((ran.status, ran.output.as_str()), (1, ""));
}

#[test]
fn sync_needs_a_cluster() {
    let temp = tempfile::tempdir().unwrap();
    for line in ["sync", "-s", "-sync", "--sync"] {
        let ran = run_line(&Fake::default(), temp.path(), line);
        assert_eq!(ran.status, 1);
        assert!(ran.errors.contains("cluster.contacts names no server"), "{}", ran.errors);
    }
}

#[test]
fn help_is_no_error_and_wrong_usage_is() {
    let temp = tempfile::tempdir().unwrap();
    let ran = run_line(&Fake::default(), temp.path(), "-help");
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
    assert!(ran.output.contains("adduser") && ran.output.contains("-r, --run"), "{}", ran.output);
    let ran = run_line(&Fake::default(), temp.path(), "--frobnicate");
    assert_eq!((ran.status, ran.output.as_str()), (2, ""));
}

/// An engine whose list stands still: it says that there is more, and gives the same again.
struct Stuck;

impl Admin for Stuck {
    fn execute(&self, _: AdminRequest) -> Result<AdminReply, AdminError> {
        Ok(AdminReply::Domains { domains: vec!["a.example".to_owned()], more: true })
    }
}

impl Engine for Stuck {
    fn run(&self, _: &Config, _: DirLock) -> Result<(), String> {
        Ok(())
    }

    fn open(&self, _: &Config, _: DirLock) -> Result<Box<dyn Admin>, String> {
        Ok(Box::new(Self))
    }

    fn open_to_import(&self, config: &Config, lock: DirLock) -> Result<Box<dyn Admin>, String> {
        self.open(config, lock)
    }
}

#[test]
fn a_list_that_stands_still_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    drop(DirLock::take(temp.path()).unwrap());
    let data = temp.path().display().to_string();
    let args = ["fsmtp-engine", "domain", "list", "--data", &data].map(OsString::from);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let terminal = &mut Terminal {
        input: &mut &b""[..],
        output: &mut output,
        errors: &mut errors,
        secret: &|_| Ok(String::new()),
        interactive: false,
        colours: false,
    };
    assert_eq!(execute(args, &Stuck, terminal), 1);
    assert!(String::from_utf8(errors).unwrap().contains("does not come to its end"));
}

#[test]
fn keys_of_dkim_are_made_shown_and_listed() {
    let temp = tempfile::tempdir().unwrap();
    let (data, engine) = (temp.path().join("data"), Fake::default());
    let none = run_line(&engine, &data, "dkim list");
    assert_eq!((none.status, none.output.as_str()), (0, "domain  selector  algorithm  bits\n"));
    assert!(!data.exists(), "a look makes nothing");
    let none = run_line(&engine, &data, "dkim show example.org");
    assert_eq!(none.status, 1);
    assert!(none.errors.contains("example.org has no keys"), "{}", none.errors);

    let made = run_line(&engine, &data, "dkim create Example.org");
    assert_eq!((made.status, made.errors.as_str()), (0, ""));
    DirLock::take(&data).expect("it is a data folder now");
    let again = run_line(&engine, &data, "dkim create example.org");
    assert!(again.status == 1 && again.errors.contains("already"), "{}", again.errors);
    let more = "dkim create example.org --selector Mine --algorithm ed25519 --json";
    let more: serde_json::Value =
        serde_json::from_str(&run_line(&engine, &data, more).output).unwrap();
    assert_eq!(more[0]["name"], "mine._domainkey.example.org");
    assert!(more[0]["value"].as_str().unwrap().starts_with("v=DKIM1; k=ed25519; p="));

    let shown = run_line(&engine, &data, "dkim show example.org");
    let shown_json = run_line(&engine, &data, "dkim show example.org --json").output;
    let listed = run_line(&engine, &data, "dkim list").output;
    let keys: serde_json::Value = serde_json::from_str(&shown_json).unwrap();
    assert_eq!(run_line(&engine, &data, "dkim list --json").output, shown_json);
    assert_eq!(keys.as_array().unwrap().len(), 3);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    for key in keys.as_array().unwrap() {
        let text = |name: &str| key[name].as_str().unwrap();
        assert!(Path::new(text("file")).is_file());
        assert!(made.output.contains(text("value")) || text("selector") == "mine");
        let strings = key["strings"].as_array().unwrap();
        let strings: Vec<&str> = strings.iter().map(|s| s.as_str().unwrap()).collect();
        assert_eq!(strings.concat(), text("value"));
        assert!(strings.iter().all(|s| s.len() <= 255));
        assert_eq!(strings.len(), if text("algorithm") == "rsa" { 2 } else { 1 });
        for part in strings.iter().chain(&[text("name"), text("value")]) {
            assert!(shown.output.contains(part), "{part} in {}", shown.output);
        }
    }
}

#[test]
fn names_for_keys_of_dkim_are_host_names() {
    let temp = tempfile::tempdir().unwrap();
    let (data, engine) = (temp.path().join("data"), Fake::default());
    for line in [
        "dkim create ../x",
        "dkim create a/b",
        "dkim create ..",
        "dkim create example.org --algorithm rsa --selector ../../x",
        "dkim create example.org --algorithm ed25519 --selector a_b",
        "dkim show ../x",
        "dkim sign /dev/null --domain ..",
    ] {
        let ran = run_line(&engine, &data, line);
        assert!(ran.status == 1 && !ran.errors.is_empty(), "{line}: {}", ran.output);
    }
    for line in ["dkim create example.org --selector s", "dkim create", "dkim sign x", "dkim"] {
        assert_eq!(run_line(&engine, &data, line).status, 2, "{line}");
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing beside the folder");
}

#[test]
fn a_message_is_signed() {
    let temp = tempfile::tempdir().unwrap();
    let (data, engine) = (temp.path().join("data"), Fake::default());
    assert_eq!(run_line(&engine, &data, "dkim create example.org").status, 0);
    let message = "From: a@example.org\r\nSubject: x\r\n\r\nHi.\r\n";
    let sign = |text: &str, more: &str| {
        let file = temp.path().join("message");
        std::fs::write(&file, text).unwrap();
        let line = format!("dkim sign {} --domain example.org {more}", file.display());
        run_line(&engine, &data, &line)
    };
    let signed = sign(message, "");
    assert_eq!((signed.status, signed.errors.as_str()), (0, ""));
    let fields = signed.output.strip_suffix(message).unwrap();
    assert_eq!(fields.matches("DKIM-Signature: v=1;").count(), 2);
    let simple = sign(message, "--canonicalization simple/relaxed --json").output;
    let simple: serde_json::Value = serde_json::from_str(&simple).unwrap();
    let fields = simple["fields"].as_str().unwrap();
    assert!(fields.contains("c=simple/relaxed;") && fields.ends_with("\r\n"), "{fields}");

    for (text, why) in [
        ("From: a@example.org\n\nHi.\n", "CRLF"),
        ("From: a@example.org\r\n\r\nHi.\r", "CRLF"),
        ("Subject: x\r\n\r\nHi.\r\n", "no From"),
    ] {
        let ran = sign(text, "");
        assert!(ran.status == 1 && ran.errors.contains(why), "{}", ran.errors);
        assert_eq!(ran.output, "", "nothing half done");
    }
    assert_eq!(sign(message, "--canonicalization strict/relaxed").status, 2);
}
