//! The commands about reports of DMARC.
//!
//! Called by `cli::main`. `read` shows what others have sent; strangers wrote it, so nothing of it
//! reaches the terminal as it is. `reports` shows and sends ours.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fsmtp_proto::time::UnixTime;

use super::accounts::reach;
use super::check::visible;
use super::table::table;
use super::{Engine, Terminal, say};
use crate::config::Config;
use crate::control::{AdminReply, AdminRequest, ReportEntry};
use crate::dmarc::read::report;
use crate::dmarc::report::{Record, Report};
use crate::dmarc::unpack::{PACKED_BYTES_MAX, unpack};

/// `dmarc`
#[derive(Debug, Subcommand)]
pub(super) enum Dmarc {
    /// Shows a report that somebody has sent: XML, gzip, ZIP, or the mail with it
    Read {
        /// The file; - reads it from standard input
        file: PathBuf,
    },
    /// Shows what waits to be reported to other domains, and to whom it would go
    Reports(Reports),
}

/// `dmarc reports`
#[derive(Debug, Args)]
pub(super) struct Reports {
    /// Sends all of it now, today's as well
    #[arg(long, conflicts_with = "dry_run")]
    send_now: bool,
    /// Changes nothing, as without it
    #[arg(long)]
    dry_run: bool,
}

/// Shows a report.
pub(super) fn read(file: &Path, json: bool, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let failed = |why: &dyn core::fmt::Display| format!("{}: {why}", file.display());
    let mut bytes = Vec::new();
    let limit = PACKED_BYTES_MAX as u64 + 1;
    let read = if file == Path::new("-") {
        terminal.input.take(limit).read_to_end(&mut bytes)
    } else {
        let opened = std::fs::File::open(file).map_err(|why| failed(&why))?;
        opened.take(limit).read_to_end(&mut bytes)
    };
    read.map_err(|why| failed(&why))?;
    let xml = unpack(&bytes).map_err(|why| failed(&why))?;
    let report = report(&xml).map_err(|why| failed(&why))?;
    let text = if json { format!("{:#}\n", serde_json::json!(report)) } else { shown(&report) };
    say(terminal, &text)
}

/// Shows what waits, or sends it.
pub(super) fn reports(
    ask: &Reports,
    config: &Config,
    json: bool,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut reach = reach(config, engine)?;
    let reply = reach.execute(AdminRequest::DmarcReports { send: ask.send_now });
    let reply = reply.map_err(|error| error.to_string())?;
    let AdminReply::Reports { entries } = reply else { return Ok(()) };
    let text = if json { format!("{:#}\n", serde_json::json!(entries)) } else { listed(&entries) };
    say(terminal, &text)
}

/// What waits, for people; what led there stands below each.
fn listed(entries: &[ReportEntry]) -> String {
    if entries.is_empty() {
        return "nothing waits\n".to_owned();
    }
    let mut text = String::new();
    for entry in entries {
        let ReportEntry { day, domain, rows, messages, octets, to, sent, why } = entry;
        let _ = write!(text, "{day} {}: {rows} rows", visible(domain));
        if *messages > 0 {
            let _ = write!(text, ", {messages} messages, {octets} bytes");
        }
        if !to.is_empty() {
            let word = if *sent { "sent to" } else { "for" };
            let _ = write!(text, ", {word} {}", visible(&to.join(", ")));
        }
        text.push('\n');
        why.iter().for_each(|line| text.push_str(&format!("  {}\n", visible(line))));
    }
    text
}

/// A report for people.
fn shown(report: &Report) -> String {
    let time = |seconds: u64| UnixTime::from_ms(seconds.saturating_mul(1000)).rfc3339().to_string();
    let policy = &report.policy;
    let mut text = String::new();
    let messages: u64 = report.records.iter().fold(0, |sum, one| sum.saturating_add(one.count));
    for (name, value) in [
        ("from", format!("{} <{}>", report.organisation, report.email)),
        ("contact", report.contact.clone()),
        ("report", report.id.clone()),
        ("time", format!("{} to {}", time(report.begin), time(report.end))),
        ("errors", report.errors.join("; ")),
        ("domain", policy.domain.clone()),
        ("policy", published(report)),
        ("messages", messages.to_string()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:10}{}", visible(&value));
        }
    }
    let rows: Vec<_> = report.records.iter().map(row).collect();
    if !rows.is_empty() {
        text.push('\n');
        let head =
            ["source", "messages", "done", "DKIM", "SPF", "author", "MAIL", "what was proved"];
        text.push_str(&table(head, &rows));
    }
    text
}

fn published(report: &Report) -> String {
    let policy = &report.policy;
    let tags = [
        ("p", &policy.p),
        ("sp", &policy.sp),
        ("np", &policy.np),
        ("adkim", &policy.adkim),
        ("aspf", &policy.aspf),
        ("pct", &policy.pct),
        ("t", &policy.testing),
        ("fo", &policy.fo),
    ];
    let there = tags.iter().filter(|(_, value)| !value.is_empty());
    there.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn row(record: &Record) -> [String; 8] {
    let signatures =
        record.signatures.iter().map(|one| format!("DKIM {} {}", one.domain, one.result));
    let senders = record.senders.iter().map(|one| format!("SPF {} {}", one.domain, one.result));
    let reasons = record.reasons.iter().map(|one| format!("but {} {}", one.kind, one.comment));
    let proved = signatures.chain(senders).chain(reasons).collect::<Vec<_>>().join(", ");
    [
        &record.source,
        &record.count.to_string(),
        &record.disposition,
        &record.dkim,
        &record.spf,
        &record.header_from,
        &record.envelope_from,
        &proved,
    ]
    .map(|cell| visible(cell.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(input: &[u8], json: bool) -> Result<String, String> {
        let mut output = Vec::new();
        let terminal = &mut Terminal {
            input: &mut &*input,
            output: &mut output,
            errors: &mut Vec::new(),
            secret: &|_| Ok(String::new()),
            interactive: false,
            colours: false,
        };
        read(Path::new("-"), json, terminal)?;
        Ok(String::from_utf8(output).unwrap())
    }

    const REPORT: &[u8] = b"<feedback><report_metadata><org_name>R\x1b[2J</org_name>\
        <email>r@r.example</email><report_id>7</report_id><date_range><begin>0</begin>\
        <end>86399</end></date_range></report_metadata><policy_published>\
        <domain>d.example</domain><p>none</p></policy_published><record><row>\
        <source_ip>192.0.2.1</source_ip><count>3</count><policy_evaluated>\
        <disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>\
        <identifiers><header_from>d.example</header_from></identifiers><auth_results><dkim>\
        <domain>d.example</domain><result>pass</result></dkim></auth_results></record></feedback>";

    #[test]
    fn a_report_is_shown_as_a_table() {
        assert_eq!(
            printed(REPORT, false).unwrap(),
            "from      R [2J <r@r.example>\n\
             report    7\n\
             time      1970-01-01T00:00:00.000Z to 1970-01-01T23:59:59.000Z\n\
             domain    d.example\n\
             policy    p=none\n\
             messages  3\n\
             \n\
             source     messages  done  DKIM  SPF   author     MAIL  what was proved\n\
             192.0.2.1  3         none  pass  fail  d.example        DKIM d.example pass\n"
        );
        let value: serde_json::Value =
            serde_json::from_str(&printed(REPORT, true).unwrap()).unwrap();
        assert_eq!(value["records"][0]["source"], "192.0.2.1");
        assert_eq!(
            printed(b"", false).unwrap_err(),
            "-: it is neither XML, gzip, ZIP, nor a mail with one"
        );
    }
}
