//! `fsmtp-engine resolve`: one lookup as the engine makes it, with each message of it.
//!
//! Called by `cli::main`. It starts a shard of its own, with nothing on it but a resolver, and past
//! any cache. A lookup is bounded in messages and in time, so this is; nothing found is a failure
//! of the command.

use super::{Terminal, checks, say, table};
use crate::config;
use crate::resolver::{Resolver, Step, server_address};
use clap::Args;
use core::net::{IpAddr, SocketAddr};
use fsmtp_proto::dns::message::Transport;
use fsmtp_proto::dns::{Kind, Outcome, Question, reverse_name};
use fsmtp_rt::glommio::{GlommioRuntime, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use std::fmt::Write as _;
use std::sync::mpsc::channel;

/// `resolve`
#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// A name, or an address for the names of its host
    pub(super) name: String,
    /// A, AAAA, MX, TXT, PTR, TLSA or CNAME [default: MX, and PTR for an address]
    #[arg(value_name = "TYPE", value_parser = kind)]
    pub(super) kind: Option<Kind>,
    /// The name server to ask, instead of those of the configuration
    #[arg(long, value_name = "HOST:PORT", value_parser = server)]
    pub(super) dns: Option<SocketAddr>,
}

/// Reads TYPE.
fn kind(text: &str) -> Result<Kind, String> {
    text.parse().map_err(str::to_owned)
}

/// Reads HOST:PORT.
pub(super) fn server(text: &str) -> Result<SocketAddr, String> {
    server_address(text).ok_or_else(|| "an address, like 127.0.0.1:53 or [::1]:53".to_owned())
}

/// What a lookup has come to, as it can leave its shard.
struct Report {
    question: Question,
    result: Result<Found, (String, bool)>,
    steps: Vec<Step>,
}

/// What was found.
struct Found {
    name: String,
    records: Vec<String>,
    ttl_s: u64,
    secure: bool,
}

/// Looks a name up and prints what came.
pub(super) fn resolve(
    ask: &Resolve,
    config: &config::Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut settings = config.resolver.clone();
    if let Some(server) = ask.dns {
        settings.servers = vec![server];
    }
    let address: Option<IpAddr> = ask.name.parse().ok();
    let usual = if address.is_some() { Kind::Ptr } else { Kind::Mx };
    let kind = ask.kind.unwrap_or(usual);
    let reverse = address.filter(|_| kind == Kind::Ptr).map(reverse_name);
    let name = reverse.as_ref().unwrap_or(&ask.name);
    let question = Question::new(name, kind).map_err(|why| format!("{name}: {why}"))?;
    let report = look_up(question, settings)?;
    say(terminal, &if json { report.json() } else { report.text() })?;
    match report.result {
        Ok(_) => Ok(()),
        Err(_) if json => Err(String::new()),
        Err((why, _)) => Err(why),
    }
}

/// Makes the lookup, on a shard that lives as long.
fn look_up(question: Question, settings: config::Resolver) -> Result<Report, String> {
    on_a_shard("resolve", move |rt| async move {
        let asked = question;
        let resolver = Resolver::new(rt, &settings);
        let (Outcome { result, .. }, steps) = resolver.trace(asked.clone()).await;
        let result = match result {
            Ok(found) => Ok(Found {
                name: found.name.to_string(),
                records: found.records.iter().map(ToString::to_string).collect(),
                ttl_s: found.ttl.as_secs(),
                secure: found.secure,
            }),
            Err(failure) => Err((failure.to_string(), failure.is_temporary())),
        };
        Report { question: asked, result, steps }
    })
}

/// Runs something on a shard that lives as long.
pub(super) fn on_a_shard<T: Send + 'static, F: Future<Output = T> + 'static>(
    name: &str,
    work: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
) -> Result<T, String> {
    checks::take_locked_memory().map_err(|why| format!("locked memory: {why}"))?;
    let helpers = Helpers::new(name, 1).map_err(|error| error.to_string())?;
    let options = ShardOptions { name: name.into(), cpu: None, stall_after: None, helpers };
    let (sender, answer) = channel();
    let shard = start_shard(options, move |rt| async move {
        // The receiver waits below.
        let _ = sender.send(work(rt).await);
    });
    shard.and_then(|shard| shard.join()).map_err(|error| error.to_string())?;
    answer.recv().map_err(|_| format!("{name} has no end"))
}

const fn protocol(over: Transport) -> &'static str {
    match over {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    }
}

impl Report {
    fn text(&self) -> String {
        let rows: Vec<[String; 5]> = self.steps.iter().map(row).collect();
        let mut text = table::table(["server", "protocol", "name", "ms", "result"], &rows);
        let Ok(found) = &self.result else { return text };
        let signed = if found.secure { "signed" } else { "not known to be signed" };
        let kind = self.question.kind();
        let _ = writeln!(text, "\n{} {kind}, for {} s, {signed}:", found.name, found.ttl_s);
        for record in &found.records {
            let _ = writeln!(text, "{record}");
        }
        text
    }

    fn json(&self) -> String {
        let steps = self.steps.iter().map(|step| {
            serde_json::json!({
                "server": step.server.to_string(),
                "protocol": protocol(step.over),
                "name": step.name,
                "ms": (step.took.as_secs_f64() * 10_000.0).round() / 10.0,
                "result": step.ended.to_string(),
            })
        });
        let mut value = serde_json::json!({
            "question": self.question.name(),
            "type": self.question.kind().as_str(),
            "steps": steps.collect::<Vec<_>>(),
        });
        let more = match &self.result {
            Ok(found) => serde_json::json!({
                "name": found.name,
                "records": found.records,
                "ttl_s": found.ttl_s,
                "secure": found.secure,
            }),
            Err((why, temporary)) => serde_json::json!({ "failure": why, "temporary": temporary }),
        };
        if let (Some(all), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
            all.extend(more);
        }
        format!("{value:#}\n")
    }
}

fn row(step: &Step) -> [String; 5] {
    [
        step.server.to_string(),
        protocol(step.over).to_owned(),
        step.name.to_string(),
        format!("{:.1}", step.took.as_secs_f64() * 1000.0),
        step.ended.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};
    use fsmtp_proto::dns::testing::Zone;
    use fsmtp_proto::dns::{Data, Mx};
    use std::net::{Ipv4Addr, UdpSocket};

    /// What the command prints, and how it ends, against a server that answers one query.
    fn printed(name: &str, kind: Option<Kind>, json: bool) -> (String, Result<(), String>) {
        let mx = Data::Mx(Mx { preference: 10, exchange: "mx.example".into() });
        let zone = Zone::new().with("domain.example", 300, mx).with(
            "1.2.0.192.in-addr.arpa",
            60,
            Data::Ptr("mx.example".into()),
        );
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = socket.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let mut room = [0; 2048];
            let (length, from) = socket.recv_from(&mut room).unwrap();
            socket.send_to(&zone.answer(&room[..length]).unwrap(), from).unwrap();
        });
        let config = Config::load(None, &Overrides::default()).unwrap();
        let mut output = Vec::new();
        let terminal = &mut Terminal {
            input: &mut &b""[..],
            output: &mut output,
            errors: &mut Vec::new(),
            secret: &|_| Ok(String::new()),
            interactive: false,
            colours: false,
        };
        let ask = Resolve { name: name.to_owned(), kind, dns: Some(server) };
        let ended = resolve(&ask, &config, json, terminal);
        serving.join().unwrap();
        let text = String::from_utf8(output).unwrap();
        (text.replace(&server.to_string(), "SERVER"), ended)
    }

    #[test]
    fn the_kind_is_mx_for_names_and_ptr_for_addresses() {
        let (text, ended) = printed("Domain.example", None, false);
        assert_eq!(ended, Ok(()));
        let lines: Vec<&str> = text.lines().collect();
        let [head, step, "", found, record] = lines[..] else { panic!("{text}") };
        assert!(head.starts_with("server  ") && head.ends_with("  result"), "{text}");
        assert!(step.starts_with("SERVER  UDP       domain.example  "), "{text}");
        assert!(step.ends_with("  answered"), "{text}");
        assert_eq!(found, "domain.example MX, for 300 s, not known to be signed:");
        assert_eq!(record, "10 mx.example.");
        let (text, _) = printed("192.0.2.1", None, false);
        assert!(text.ends_with(":\nmx.example.\n"), "{text}");
        assert!(text.contains("1.2.0.192.in-addr.arpa PTR, for 60 s"), "{text}");
    }

    #[test]
    fn nothing_found_is_a_failure_with_its_reason() {
        let (text, ended) = printed("other.example", Some(Kind::Txt), false);
        assert_eq!(ended, Err("there is no such name".to_owned()));
        assert_eq!(text.lines().count(), 2, "{text}");
        let (text, ended) = printed("other.example", Some(Kind::Txt), true);
        assert_eq!(ended, Err(String::new()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["failure"], "there is no such name");
        assert_eq!((&value["temporary"], &value["type"]), (&false.into(), &"TXT".into()));
        assert_eq!(value["steps"][0]["protocol"], "UDP");
        let (text, _) = printed("domain.example", None, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["records"], serde_json::json!(["10 mx.example."]));
        assert_eq!((&value["ttl_s"], &value["secure"]), (&300.into(), &false.into()));
    }

    #[test]
    fn what_cannot_be_asked_for_is_said_at_once() {
        let config = Config::load(None, &Overrides::default()).unwrap();
        let terminal = &mut Terminal {
            input: &mut &b""[..],
            output: &mut Vec::new(),
            errors: &mut Vec::new(),
            secret: &|_| Ok(String::new()),
            interactive: false,
            colours: false,
        };
        let ask = Resolve { name: "a..b".to_owned(), kind: None, dns: None };
        let why = resolve(&ask, &config, false, terminal).unwrap_err();
        assert!(why.starts_with("a..b: "), "{why}");
        assert!(server("dns.example").is_err() && kind("SRV").is_err());
    }
}
