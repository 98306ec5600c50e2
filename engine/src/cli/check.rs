//! `fsmtp-engine check`: who really sent this, as the engine judges it, with each step.
//!
//! Called by `cli::main`. It starts a shard of its own, with nothing on it but a resolver, as
//! `resolve` does. The first word that is printed is the verdict; whatever it is, the command has
//! done its work.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::fmt::Write as _;

use clap::{Args, Subcommand};
use fsmtp_proto::spf;
use fsmtp_rt::Runtime as _;

use super::resolve::{on_a_shard, server};
use super::{Terminal, say};
use crate::config::Config;
use crate::resolver::Resolver;

/// How long all lookups may take together.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is checked.
#[derive(Debug, Subcommand)]
pub(super) enum Check {
    /// Whether a host may send for a domain (SPF, RFC 7208)
    Spf(Spf),
}

/// `check spf`
#[derive(Debug, Args)]
pub(super) struct Spf {
    /// The address of the host
    #[arg(long)]
    ip: IpAddr,
    /// What it says that it is called
    #[arg(long, value_name = "NAME")]
    helo: String,
    /// The address in MAIL; without it, or empty, the host's own name is checked
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    mail_from: String,
    /// The name server to ask, instead of those of the configuration
    #[arg(long, value_name = "HOST:PORT", value_parser = server)]
    dns: Option<SocketAddr>,
}

/// Checks, and prints the verdict.
pub(super) fn execute(
    check: Check,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let Check::Spf(Spf { ip, helo, mail_from, dns }) = check;
    let mut settings = config.resolver.clone();
    if let Some(server) = dns {
        settings.servers = vec![server];
    }
    let sender = mail_from.trim_start_matches('<').trim_end_matches('>').to_owned();
    let receiver = config.node.clone();
    let outcome = on_a_shard("check", move |rt| async move {
        let (now, deadline) = (rt.unix(), rt.now() + PATIENCE);
        let resolver = Resolver::new(rt, &settings);
        let (helo, sender, receiver) = (&*helo, &*sender, &*receiver);
        let client = spf::Client { ip, helo, sender, receiver, now };
        resolver.learn(deadline, |known| spf::check(&client, known)).await
    })?;
    say(terminal, &if json { as_json(&outcome) } else { as_text(&outcome) })
}

fn as_text(outcome: &spf::Outcome) -> String {
    let mut text = format!("{} (SPF of {})\n", outcome.verdict, outcome.domain);
    for step in &outcome.steps {
        let _ = writeln!(text, "  {}", visible(step));
    }
    if let Some(explanation) = &outcome.explanation {
        let _ = writeln!(text, "  the domain says: {explanation}");
    }
    text
}

fn as_json(outcome: &spf::Outcome) -> String {
    let value = serde_json::json!({
        "verdict": outcome.verdict.name(),
        "domain": outcome.domain,
        "explanation": outcome.explanation,
        "steps": outcome.steps,
    });
    format!("{value:#}\n")
}

/// What strangers have written, without what would paint the terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use fsmtp_proto::dns::Data;
    use fsmtp_proto::dns::testing::Zone;
    use std::net::{Ipv4Addr, UdpSocket};

    /// What the command prints for a domain with this record.
    fn printed(record: &str, json: bool) -> String {
        let record = Data::Txt(record.as_bytes().into());
        let zone = Zone::new().with("domain.example", 300, record);
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
        let check = Check::Spf(Spf {
            ip: "192.0.2.1".parse().unwrap(),
            helo: "client.example".to_owned(),
            mail_from: "<me@domain.example>".to_owned(),
            dns: Some(server),
        });
        execute(check, &config, json, terminal).unwrap();
        serving.join().unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_verdict_stands_first_and_the_steps_follow() {
        let text = printed("v=spf1 ip4:192.0.2.2 -all", false);
        assert_eq!(
            text,
            "fail (SPF of domain.example)\n  domain.example: v=spf1 ip4:192.0.2.2 -all\n  \
             domain.example ip4:192.0.2.2: no match\n  domain.example -all: fail\n"
        );
        let value: serde_json::Value = serde_json::from_str(&printed("v=spf1 +all", true)).unwrap();
        assert_eq!(
            (&value["verdict"], &value["domain"]),
            (&"pass".into(), &"domain.example".into())
        );
        assert_eq!(value["steps"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn what_strangers_wrote_does_not_paint_the_terminal() {
        assert!(!printed("v=spf1 \x1b[2J", false).contains('\x1b'));
    }
}
