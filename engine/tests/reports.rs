//! Reports of DMARC from rows to a mail at another host: a real engine, a name server and a mail
//! server of a few lines on loopback.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use fsmtp_engine::dkim::DkimKeys;
use fsmtp_engine::dmarc::collect::Collector;
use fsmtp_engine::dmarc::read::report;
use fsmtp_engine::dmarc::report::{Policy, Record};
use fsmtp_engine::dmarc::row::Row;
use fsmtp_engine::dmarc::unpack::unpack;
use fsmtp_proto::dns::Data;
use fsmtp_proto::dns::testing::Zone;
use fsmtp_rt::UnixTime;
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY_S: u64 = 86_400;

/// A message that the mail server took: MAIL, the recipients, the message.
type Taken = (String, Vec<String>, String);

/// Answers every query from a table, as long as the test runs.
fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut room) {
            let answer = zone.answer(&room[..length]).unwrap();
            socket.send_to(&answer, from).unwrap();
        }
    });
    address
}

/// Takes every message, as long as the test runs.
fn mail_server() -> (SocketAddr, Receiver<Taken>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, taken) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || session(&stream.unwrap(), &sender));
        }
    });
    (address, taken)
}

fn session(mut stream: &TcpStream, taken: &Sender<Taken>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let mut say = |reply: &str| stream.write_all(reply.as_bytes()).ok();
    say("220 receiver.example\r\n")?;
    let mut one = Taken::default();
    while let Some(Ok(line)) = lines.next() {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "MAIL" => one.0 = line,
            "RCPT" => one.1.push(line),
            "DATA" => {
                say("354 go on\r\n")?;
                for line in lines.by_ref().map_while(Result::ok).take_while(|line| line != ".") {
                    one.2 += line.strip_prefix('.').unwrap_or(&line);
                    one.2 += "\r\n";
                }
                taken.send(core::mem::take(&mut one)).ok()?;
            }
            "QUIT" => {
                say("221 bye\r\n")?;
                return None;
            }
            _ => {}
        }
        say("250 ok\r\n")?;
    }
    None
}

fn engine(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fsmtp-engine"));
    command.arg("--data").arg(data).args(arguments);
    command
}

/// What a command prints.
fn printed(data: &Path, arguments: &[&str]) -> String {
    let output = engine(data, arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Ends the engine by its pid, also when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.0.wait();
    }
}

fn start(data: &Path, config: &Path) -> Running {
    let config = config.to_str().unwrap();
    let mut child = engine(data, &["--cores", "1", "--config", config])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let running = Running(child);
    let (ready, is_ready) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains("ready") {
                let _ = ready.send(());
            }
        }
    });
    is_ready.recv_timeout(PATIENCE).expect("it gets ready");
    running
}

/// Counts messages of some hosts in a domain's name, on yesterday.
fn count(data: &Path, domains: &[&str]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (collector, thread) = Collector::start(data, |trouble| panic!("{trouble:?}")).unwrap();
    for domain in domains {
        for source in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            let policy =
                Policy { domain: (*domain).to_owned(), p: "none".to_owned(), ..Policy::default() };
            let record = Record {
                source: source.to_owned(),
                disposition: "none".to_owned(),
                dkim: "fail".to_owned(),
                spf: "fail".to_owned(),
                header_from: (*domain).to_owned(),
                ..Record::default()
            };
            let at = UnixTime::from_ms((now - DAY_S) * 1000);
            collector.add(Row { at, policy, record });
        }
    }
    drop(thread);
}

fn config(folder: &Path, dns: SocketAddr, mail: SocketAddr) -> std::path::PathBuf {
    // Somebody may take it before the engine does; then the engine says so and the test fails.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let path = folder.join("fsmtp.toml");
    let text = format!(
        "[server]\nnode = \"mx.us.example\"\ndomain = \"us.example\"\n\
         [[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:{port}\"\n\
         [dmarc]\nreports = true\nreport_from = \"dmarc@us.example\"\norg_name = \"Us\"\n\
         [resolver]\nservers = [\"{dns}\"]\n\
         [routes]\n\"receiver.example\" = \"{mail}\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn rows_become_a_mail_to_who_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    printed(&data, &["domain", "add", "us.example"]);
    printed(&data, &["dkim", "create", "us.example"]);
    count(&data, &["d.example", "silent.example"]);
    let text = |text: &str| Data::Txt(text.as_bytes().into());
    let wants = "v=DMARC1; p=none; rua=mailto:reports@receiver.example";
    let mut zone = Zone::new()
        .with("_dmarc.d.example", 60, text(wants))
        .with("d.example._report._dmarc.receiver.example", 60, text("v=DMARC1"))
        // Nobody there says that he wants reports about this one.
        .with("_dmarc.silent.example", 60, text(wants))
        .with("_dmarc.us.example", 60, text("v=DMARC1; p=reject; adkim=s"));
    for key in DkimKeys::load(&data).unwrap().iter() {
        let name = format!("{}._domainkey.us.example", key.selector());
        zone = zone.with(&name, 60, text(&key.record()));
    }
    let dns = name_server(zone);
    let (mail, taken) = mail_server();
    let offline = printed(&data, &["dmarc", "reports"]);
    assert!(offline.contains("d.example: 2 rows\n"), "{offline}");
    let config = config(folder.path(), dns, mail);
    let running = start(&data, &config);

    let waiting = printed(&data, &["dmarc", "reports", "--dry-run"]);
    assert!(waiting.contains(" d.example: 2 rows, 3 messages, "), "{waiting}");
    assert!(waiting.contains(", for reports@receiver.example\n"), "{waiting}");
    assert!(waiting.contains(" silent.example: 2 rows\n"), "{waiting}");
    assert!(waiting.contains("does not say that it wants reports"), "{waiting}");
    let sent = printed(&data, &["dmarc", "reports", "--send-now"]);
    assert!(sent.contains(", sent to reports@receiver.example\n"), "{sent}");
    assert_eq!(printed(&data, &["dmarc", "reports"]), "nothing waits\n");

    let (from, to, message) = taken.recv_timeout(PATIENCE).expect("a report");
    assert!(from.contains("<dmarc@us.example>"), "{from}");
    assert!(to.len() == 1 && to[0].contains("<reports@receiver.example>"), "{to:?}");
    let unfolded = message.replace("\r\n ", " ");
    let subject = unfolded.lines().find(|line| line.starts_with("Subject:")).unwrap();
    let begin = "Subject: Report Domain: d.example Submitter: mx.us.example Report-ID: <";
    assert!(subject.starts_with(begin) && subject.ends_with('>'), "{subject}");
    assert!(message.contains("Auto-Submitted: auto-generated\r\n"), "{message}");
    let report = report(&unpack(message.as_bytes()).unwrap()).unwrap();
    assert_eq!((report.organisation.as_str(), report.email.as_str()), ("Us", "dmarc@us.example"));
    assert!(subject.ends_with(&format!("<{}>", report.id)), "{subject}");
    assert_eq!((report.end - report.begin + 1, report.begin % DAY_S), (DAY_S, 0));
    assert_eq!((report.policy.domain.as_str(), report.policy.p.as_str()), ("d.example", "none"));
    let rows: Vec<_> = report.records.iter().map(|one| (&*one.source, one.count)).collect();
    assert_eq!(rows, [("192.0.2.1", 2), ("192.0.2.2", 1)]);

    // RFC 9990 §3.5.2: it passes DMARC itself.
    let file = folder.path().join("report.eml");
    std::fs::write(&file, &message).unwrap();
    let (dns, file) = (dns.to_string(), file.to_str().unwrap());
    let verdict = printed(&data, &["check", "dmarc", "--dns", &dns, file]);
    assert!(verdict.starts_with("pass (DMARC of us.example)"), "{verdict}");
    assert!(taken.try_recv().is_err(), "there is one report");
    drop(running);
}

#[test]
fn an_engine_without_its_rows_runs_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    printed(&data, &["domain", "add", "us.example"]);
    std::fs::write(data.join("dmarc.redb"), "this is no table").unwrap();
    let nowhere = (Ipv4Addr::LOCALHOST, 9).into();
    let config = config(folder.path(), nowhere, nowhere);
    let running = start(&data, &config);
    let output = engine(&data, &["dmarc", "reports"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the log says why"), "{said}");
    assert_eq!(printed(&data, &["domain", "list"]), "domain\nus.example\n");
    drop(running);
}
