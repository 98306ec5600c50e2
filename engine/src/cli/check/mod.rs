//! `fsmtp-engine check`: who really sent this, as the engine judges it, with each step.
//!
//! Called by `cli::main`. It starts a shard of its own, with nothing on it but a resolver, as
//! `resolve` does. The first word that is printed is the verdict; whatever it is, the command has
//! done its work.

mod dmarc;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fsmtp_proto::arc;
use fsmtp_proto::dkim::verify::{Judged, Verifier, sum};
use fsmtp_proto::spf;
use fsmtp_rt::Runtime as _;

use self::dmarc::Dmarc;
use super::resolve::{on_a_shard, server};
use super::{Terminal, say};
use crate::config::{self, Config};
use crate::resolver::{Resolver, Share};

/// How long all lookups may take together.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest message that is read; arbitrary.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// What is checked.
#[derive(Debug, Subcommand)]
pub(super) enum Check {
    /// Whether a host may send for a domain (SPF, RFC 7208)
    Spf(Spf),
    /// What the signatures of a message are worth (DKIM, RFC 6376)
    Dkim(Message),
    /// What the seals of the hosts on the way of a message are worth (ARC, RFC 8617)
    Arc(Message),
    /// Whether a message is from its author's domain, and what that wants (DMARC, RFC 9989)
    Dmarc(Dmarc),
}

/// Where names are looked up.
#[derive(Debug, Args)]
pub(super) struct Dns {
    /// The name server to ask, instead of those of the configuration
    #[arg(long, value_name = "HOST:PORT", value_parser = server)]
    dns: Option<SocketAddr>,
}

impl Dns {
    fn settings(&self, config: &Config) -> config::Resolver {
        let mut settings = config.resolver.clone();
        if let Some(server) = self.dns {
            settings.servers = vec![server];
        }
        settings
    }
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
    #[command(flatten)]
    dns: Dns,
}

/// `check dkim`
#[derive(Debug, Args)]
pub(super) struct Message {
    /// The message; - reads it from standard input
    file: PathBuf,
    #[command(flatten)]
    dns: Dns,
}

/// Checks, and prints the verdict.
pub(super) fn execute(
    check: Check,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let text = match check {
        Check::Spf(ask) => check_spf(ask, config, json)?,
        Check::Dkim(ask) => {
            let message = read(&ask.file, terminal)?;
            check_dkim(message, &ask.dns, config, json)?
        }
        Check::Arc(ask) => {
            let message = read(&ask.file, terminal)?;
            check_arc(message, &ask.dns, config, json)?
        }
        Check::Dmarc(ask) => {
            let message = read(&ask.file, terminal)?;
            dmarc::check(&message, ask, config, json)?
        }
    };
    say(terminal, &text)
}

fn check_spf(ask: Spf, config: &Config, json: bool) -> Result<String, String> {
    let settings = ask.dns.settings(config);
    let Spf { ip, helo, mail_from, .. } = ask;
    let sender = mail_from.trim_start_matches('<').trim_end_matches('>').to_owned();
    let receiver = config.node.clone();
    let outcome = on_a_shard("check", move |rt| async move {
        let (now, deadline) = (rt.unix(), rt.now() + PATIENCE);
        let resolver = Resolver::new(rt, &settings);
        let (helo, sender, receiver) = (&*helo, &*sender, &*receiver);
        let client = spf::Client { ip, helo, sender, receiver, now };
        resolver.learn(deadline, Share::Check, |known| spf::check(&client, known)).await
    })?;
    if json {
        let value = serde_json::json!({
            "verdict": outcome.verdict.name(),
            "domain": outcome.domain,
            "explanation": outcome.explanation,
            "steps": outcome.steps,
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = format!("{} (SPF of {})\n", outcome.verdict, visible(&outcome.domain));
    for step in &outcome.steps {
        let _ = writeln!(text, "  {}", visible(step));
    }
    if let Some(explanation) = &outcome.explanation {
        let _ = writeln!(text, "  the domain says: {explanation}");
    }
    Ok(text)
}

fn check_dkim(message: Vec<u8>, dns: &Dns, config: &Config, json: bool) -> Result<String, String> {
    let settings = dns.settings(config);
    let mut verifier = Verifier::new();
    verifier.feed(&message);
    let message = verifier.finish();
    message.fields().map_err(|why| why.to_string())?;
    let all = on_a_shard("check", move |rt| async move {
        let (now, deadline) = (rt.unix(), rt.now() + PATIENCE);
        Resolver::new(rt, &settings)
            .learn(deadline, Share::Check, |known| message.check(known, now))
            .await
    })?;
    if json {
        let one = |judged: &Judged| {
            serde_json::json!({
                "verdict": judged.verdict.name(),
                "domain": judged.domain,
                "selector": judged.selector,
                "identity": judged.identity,
                "algorithm": judged.algorithm.map(|algorithm| algorithm.name()),
                "bits": judged.bits,
                "testing": judged.testing,
                "length": judged.length,
                "b": judged.mark,
                "why": judged.why,
            })
        };
        let signatures: Vec<_> = all.iter().map(one).collect();
        let value = serde_json::json!({ "verdict": sum(&all).name(), "signatures": signatures });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = format!("{} (DKIM, {} signatures)\n", sum(&all), all.len());
    for judged in &all {
        let who = match (judged.domain.as_str(), judged.selector.as_str()) {
            ("", _) => "a signature that cannot be read".to_owned(),
            (domain, selector) => format!("{domain} by {selector}"),
        };
        let how = judged.algorithm.map_or("", |algorithm| algorithm.name());
        let _ = write!(text, "  {}: {} {how}", visible(&who), judged.verdict);
        if judged.bits > 0 {
            let _ = write!(text, " {} bits", judged.bits);
        }
        if let Some(length) = judged.length {
            let _ = write!(text, ", the first {length} octets of the body");
        }
        if judged.testing {
            text.push_str(", the domain only tries it out");
        }
        if !judged.why.is_empty() {
            let _ = write!(text, ": {}", visible(&judged.why));
        }
        text.push('\n');
    }
    Ok(text)
}

fn check_arc(message: Vec<u8>, dns: &Dns, config: &Config, json: bool) -> Result<String, String> {
    let settings = dns.settings(config);
    let mut verifier = Verifier::new();
    verifier.feed(&message);
    let message = verifier.finish();
    message.fields().map_err(|why| why.to_string())?;
    let judged = on_a_shard("check", move |rt| async move {
        let deadline = rt.now() + PATIENCE;
        Resolver::new(rt, &settings)
            .learn(deadline, Share::Check, |known| arc::check(&message, known))
            .await
    })?;
    if json {
        let value = serde_json::json!({
            "verdict": judged.verdict.name(),
            "domains": judged.domains,
            "temporary": judged.temporary,
            "why": judged.why,
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = format!("{} (ARC, {} sets)\n", judged.verdict, judged.domains.len());
    for (domain, instance) in judged.domains.iter().zip(1..) {
        let _ = writeln!(text, "  {instance}: sealed by {}", visible(domain));
    }
    if !judged.why.is_empty() {
        let _ = writeln!(text, "  {}", visible(&judged.why));
    }
    Ok(text)
}

/// A message with the line ends that it has on the wire.
fn read(file: &Path, terminal: &mut Terminal<'_>) -> Result<Vec<u8>, String> {
    let failed = |why: std::io::Error| format!("{}: {why}", file.display());
    let mut message = Vec::new();
    if file == Path::new("-") {
        terminal.input.take(MESSAGE_BYTES_MAX).read_to_end(&mut message).map_err(failed)?;
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened.take(MESSAGE_BYTES_MAX).read_to_end(&mut message).map_err(failed)?;
    }
    let mut wire = Vec::with_capacity(message.len() + message.len() / 32);
    let mut before = 0;
    for &byte in &message {
        if byte == b'\n' && before != b'\r' {
            wire.push(b'\r');
        }
        wire.push(byte);
        before = byte;
    }
    Ok(wire)
}

/// What strangers have written, without what would paint the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
