//! What was found out, as header fields: for programs (RFC 8601) and, in the seeds' words, for
//! people.

use fsmtp_proto::dkim;
use fsmtp_proto::dkim::verify::Judged;
use fsmtp_proto::results::Results;
use fsmtp_proto::spf;

use super::{Action, Decision, List, Verdicts};

/// The fields that go in front of a message; each ends in CRLF.
pub(crate) fn fields(own: &str, lists: &[List], found: &Verdicts, decision: Decision) -> Vec<u8> {
    let mut out = results(own, lists, found);
    out.extend(words(found));
    if let Some(reason) = decision.reason.filter(|_| decision.action >= Action::Tag) {
        let mut field = Results::new("X-Fannst-Suspect", reason.name());
        field.comment(&why(reason.name(), found));
        out.extend(field.end());
    }
    out
}

/// `Authentication-Results`
fn results(own: &str, lists: &[List], found: &Verdicts) -> Vec<u8> {
    let mut field = Results::new("Authentication-Results", own);
    if let Some(iprev) = &found.iprev {
        field.method("iprev", iprev.verdict.name());
        field.comment(iprev.name.as_deref().unwrap_or_default());
        field.property("policy.iprev", &found.client.ip.to_string());
    }
    if found.client.sender.is_empty() {
        field.method("spf", found.spf.verdict.name());
        field.comment(explanation(&found.spf)).property("smtp.helo", &found.client.helo);
    } else {
        field.method("spf", found.spf.verdict.name());
        field.comment(explanation(&found.spf)).property("smtp.mailfrom", &found.client.sender);
        field.method("spf", found.helo.verdict.name()).property("smtp.helo", &found.client.helo);
    }
    if found.dkim.is_empty() {
        field.method("dkim", "none");
    }
    for judged in &found.dkim {
        dkim_method(&mut field, judged);
    }
    let dmarc = &found.dmarc;
    field.method("dmarc", dmarc.verdict.name());
    if let Some(published) = &dmarc.published {
        field.comment(&format!("{}={}", published.tag, published.policy));
    } else if let Some(bad) = found.bad_from {
        field.comment(&bad.to_string());
    }
    if found.is_vouched {
        // RFC 8617 §7.2.1
        field.comment("a host that is believed has sealed a proof");
    }
    field.property("header.from", &dmarc.author);
    if found.arc.verdict != fsmtp_proto::arc::Verdict::None {
        field.method("arc", found.arc.verdict.name()).comment(&found.arc.why);
        let sealer = found.arc.domains.last().map_or("", String::as_str);
        field.property("header.d", sealer);
    }
    for listed in &found.lists.listed {
        let zone = lists.get(listed.list).map_or("", |list| &list.zone);
        // RFC 8904 §2, §6: pass, for it was found there; of the type dns.
        field.method("dnswl", "pass").property("dns.zone", zone);
        field.property("policy.ip", &listed.code.to_string());
    }
    field.finish()
}

fn dkim_method(field: &mut Results, judged: &Judged) {
    field.method("dkim", judged.verdict.name());
    let mut words = judged.why.clone();
    if judged.testing {
        words.push_str(if words.is_empty() { "testing" } else { ", testing" });
    }
    field.comment(&words);
    field.property("header.d", &judged.domain).property("header.s", &judged.selector);
    if judged.identity != format!("@{}", judged.domain) {
        field.property("header.i", &judged.identity);
    }
    field.property("header.a", judged.algorithm.map_or("", |algorithm| algorithm.name()));
    // RFC 6008 §4
    field.property("header.b", &judged.mark);
}

/// What the domain says to those who may not send for it.
fn explanation(outcome: &spf::Outcome) -> &str {
    outcome.explanation.as_deref().unwrap_or_default()
}

/// `X-Fannst-Auth`
fn words(found: &Verdicts) -> Vec<u8> {
    let (ip, domain) = (found.client.ip, &found.spf.domain);
    let spf = found.spf.verdict;
    let mut field = Results::new("X-Fannst-Auth", &format!("spf={spf}"));
    field.comment(&match spf {
        spf::Verdict::Pass => format!("address {ip} is listed by {domain}"),
        spf::Verdict::None => format!("{domain} lists no addresses"),
        spf::Verdict::Temperror => format!("what {domain} lists cannot be found out now"),
        spf::Verdict::Permerror => format!("what {domain} lists cannot be read"),
        _ => format!("address {ip} is not listed by {domain}"),
    });
    for (judged, index) in found.dkim.iter().zip(1..) {
        field.method("dkim", judged.verdict.name());
        field.comment(&match judged.verdict {
            dkim::verify::Verdict::Pass => format!("signature {index}: is valid"),
            _ => format!("signature {index}: {}", judged.why),
        });
    }
    field.method("dmarc", found.dmarc.verdict.name());
    field.comment(&match &found.dmarc.published {
        Some(published) => format!("{}:{}", published.tag, published.policy),
        None => found.bad_from.map_or_else(String::new, |bad| bad.to_string()),
    });
    field.end()
}

/// Why mail is suspect.
fn why(reason: &str, found: &Verdicts) -> String {
    match reason {
        "spf" => format!("{} is not listed by {}", found.client.ip, found.spf.domain),
        "dkim" => "no signature is good".to_owned(),
        "dmarc" => format!("{} is not proved", found.dmarc.author),
        "from" => found.bad_from.map_or_else(String::new, |bad| bad.to_string()),
        "iprev" => format!("the name of {} does not lead back to it", found.client.ip),
        "dnsbl" => format!("{} is on lists of bad hosts", found.client.ip),
        _ => "the sender cannot be verified now".to_owned(),
    }
}
