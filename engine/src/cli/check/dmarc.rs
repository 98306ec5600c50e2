//! `check dmarc`: whether a message is from its author's domain, and what that domain wants.
//!
//! Called by `check`. Verifies the signatures itself; what SPF says is asked for when the host is
//! named. Prints the verdict, what is to become of the message, and the steps.

use core::net::IpAddr;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use fsmtp_proto::dkim::verify::{Judged, Verifier};
use fsmtp_proto::dmarc::{self, Evidence, Identifier, Mechanism, Outcome, authors};
use fsmtp_proto::spf;
use fsmtp_rt::Runtime as _;

use super::super::resolve::on_a_shard;
use super::{Dns, PATIENCE, visible};
use crate::config::Config;
use crate::resolver::{Resolver, Share};

/// `check dmarc`
#[derive(Debug, Args)]
pub(in super::super) struct Dmarc {
    /// The message; - reads it from standard input
    pub(super) file: PathBuf,
    /// The address of the host that sent it; without it there is no result of SPF
    #[arg(long)]
    pub(super) ip: Option<IpAddr>,
    /// What the host said that it is called
    #[arg(long, value_name = "NAME", default_value = "", requires = "ip")]
    pub(super) helo: String,
    /// The address in MAIL; without it, or empty, the host's own name is checked
    #[arg(long, value_name = "ADDRESS", default_value = "", requires = "ip")]
    pub(super) mail_from: String,
    #[command(flatten)]
    pub(super) dns: Dns,
}

/// What was found.
struct Findings {
    dmarc: Outcome,
    spf: Option<spf::Outcome>,
    dkim: Vec<Judged>,
}

/// Judges a message; what is printed of it.
pub(super) fn check(
    message: &[u8],
    ask: Dmarc,
    config: &Config,
    json: bool,
) -> Result<String, String> {
    let settings = ask.dns.settings(config);
    let mut verifier = Verifier::new();
    verifier.feed(message);
    let message = verifier.finish();
    let authors = authors(&message.fields().map_err(|why| why.to_string())?);
    let Dmarc { ip, helo, mail_from, .. } = ask;
    let sender = mail_from.trim_start_matches('<').trim_end_matches('>').to_owned();
    let receiver = config.node.clone();
    let findings = on_a_shard("check", move |rt| async move {
        let (now, deadline) = (rt.unix(), rt.now() + PATIENCE);
        let resolver = Resolver::new(rt, &settings);
        let mut spf = None;
        if let Some(ip) = ip {
            let (helo, sender, receiver) = (&*helo, &*sender, &*receiver);
            let client = spf::Client { ip, helo, sender, receiver, now };
            spf = Some(
                resolver.learn(deadline, Share::Check, |known| spf::check(&client, known)).await,
            );
        }
        let dkim = resolver.learn(deadline, Share::Check, |known| message.check(known, now)).await;
        let authors = authors.as_deref().map_err(|bad| *bad);
        // The first of a hundred messages: what `pct` asks for is shown, unless it is none.
        let evidence = Evidence { authors, spf: spf.as_ref(), dkim: &dkim, draw: 0 };
        let dmarc =
            resolver.learn(deadline, Share::Check, |known| dmarc::check(&evidence, known)).await;
        Findings { dmarc, spf, dkim }
    })?;
    Ok(if json { findings.json() } else { findings.text() })
}

fn result(verdict: &str, domain: &str) -> serde_json::Value {
    serde_json::json!({ "verdict": verdict, "domain": domain })
}

impl Findings {
    fn json(&self) -> String {
        let outcome = &self.dmarc;
        let published = outcome.published.as_ref();
        let aligned = |Identifier { mechanism, domain }: &Identifier| {
            let mechanism = match mechanism {
                Mechanism::Spf => "spf",
                Mechanism::Dkim => "dkim",
            };
            serde_json::json!({ "mechanism": mechanism, "domain": domain })
        };
        let signatures = self.dkim.iter().map(|one| result(one.verdict.name(), &one.domain));
        let value = serde_json::json!({
            "verdict": outcome.verdict.name(),
            "author": outcome.author,
            "record": published.map(|published| &published.domain),
            "tag": published.map(|published| published.tag.to_string()),
            "policy": published.map(|published| published.policy.name()),
            "disposition": outcome.disposition.name(),
            "aligned": outcome.aligned.iter().map(aligned).collect::<Vec<_>>(),
            "spf": self.spf.as_ref().map(|spf| result(spf.verdict.name(), &spf.domain)),
            "dkim": signatures.collect::<Vec<_>>(),
            "steps": outcome.steps,
        });
        format!("{value:#}\n")
    }

    fn text(&self) -> String {
        let outcome = &self.dmarc;
        let of = match outcome.author.as_str() {
            "" => String::new(),
            author => format!(" of {author}"),
        };
        let mut text = format!("{} (DMARC{})", outcome.verdict, visible(&of));
        let _ = match &outcome.published {
            Some(published) if outcome.verdict == dmarc::Verdict::Fail => {
                writeln!(text, ": {} is asked for, of {}", outcome.disposition, published.policy)
            }
            _ => writeln!(text),
        };
        match &self.spf {
            Some(spf) => _ = writeln!(text, "  SPF of {}: {}", visible(&spf.domain), spf.verdict),
            None => text.push_str("  SPF: not asked, --ip names no host\n"),
        }
        for judged in &self.dkim {
            let _ = writeln!(text, "  DKIM of {}: {}", visible(&judged.domain), judged.verdict);
        }
        for step in &outcome.steps {
            let _ = writeln!(text, "  {}", visible(step));
        }
        text
    }
}
