//! The part of a report for people: text, and the same as HTML in the original's colours.
//!
//! Called by `report`. The words come from `templates/`, what others said through
//! [`words`](super::words), and HTML is escaped by the template engine. A template that does not
//! render is a defect of ours that the tests find; the report then goes without its looks.

use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::fields::original_recipient;
use super::words::{NAME_BYTES_MAX, WORDS_BYTES_MAX, shown};
use super::{Kind, LOG_LINES_COUNT_MAX, Recipient, Report, SHOWN_COUNT_MAX};
use crate::compose::Part;

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    env.set_auto_escape_callback(|name| match name {
        "notice.html" => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    for (name, source) in [
        ("notice.txt", include_str!("templates/notice.txt")),
        ("notice.html", include_str!("templates/notice.html")),
    ] {
        env.add_template(name, source).expect("a template of ours is well formed");
    }
    env
});

#[derive(Serialize)]
struct Notice {
    title: &'static str,
    lead: String,
    node: String,
    postmaster: String,
    arrival: String,
    recipients: Vec<Shown>,
    /// How many are not shown.
    more: usize,
    log: Vec<Line>,
}

#[derive(Serialize)]
struct Shown {
    address: String,
    original: Option<String>,
    reason: Option<String>,
    remote: Option<String>,
    said: Option<String>,
    until: Option<String>,
}

#[derive(Serialize)]
struct Line {
    at: String,
    text: String,
}

/// Writes the part.
pub(super) fn part<'a>(report: &Report<'_>) -> Part<'a> {
    let notice = Notice::of(report);
    let render = |name| TEMPLATES.get_template(name).and_then(|t| t.render(Serde(&notice)));
    let text = render("notice.txt").unwrap_or_else(|_| notice.lead.clone());
    let mut parts = vec![Part::text("plain", &text)];
    parts.extend(render("notice.html").ok().map(|html| Part::text("html", &html)));
    Part::parts("alternative", parts)
}

impl Notice {
    fn of(report: &Report<'_>) -> Self {
        let shown_count = report.recipients.len().min(SHOWN_COUNT_MAX);
        let recipients = report.recipients.iter().take(SHOWN_COUNT_MAX);
        let log = report.recipients.iter().flat_map(|r| r.log).take(LOG_LINES_COUNT_MAX);
        Self {
            title: title(report.kind),
            lead: lead(report),
            node: shown(report.node.as_bytes(), NAME_BYTES_MAX),
            postmaster: report.postmaster.to_owned(),
            arrival: report.arrival.to_string(),
            recipients: recipients.map(|r| Shown::of(r, report.kind)).collect(),
            more: report.recipients.len() - shown_count,
            log: log
                .map(|line| Line {
                    at: line.at.to_string(),
                    text: shown(line.text.as_bytes(), WORDS_BYTES_MAX),
                })
                .collect(),
        }
    }
}

impl Shown {
    fn of(recipient: &Recipient<'_>, kind: Kind) -> Self {
        let name = |text: &str| shown(text.as_bytes(), NAME_BYTES_MAX);
        let address = name(recipient.address);
        let original = original_recipient(recipient).map(|(_, address)| name(&address));
        Self {
            original: original.filter(|o| !o.eq_ignore_ascii_case(&address)),
            address,
            reason: recipient.reason.map(|r| shown(r.as_bytes(), WORDS_BYTES_MAX)),
            remote: recipient.remote.map(name),
            said: recipient.said.filter(|s| !s.is_empty()).map(|s| shown(s, WORDS_BYTES_MAX)),
            until: recipient
                .retry_until
                .filter(|_| kind == Kind::Delayed)
                .map(|until| until.to_string()),
        }
    }
}

const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "Delivery failure",
        Kind::Delayed => "Delivery delayed",
        Kind::Delivered => "Delivered",
        Kind::Relayed => "Passed on",
    }
}

fn lead(report: &Report<'_>) -> String {
    let whom = match report.recipients.len() {
        1 => "this address",
        _ => "these addresses",
    };
    let node = shown(report.node.as_bytes(), NAME_BYTES_MAX);
    match report.kind {
        Kind::Failed => {
            format!("{node} failed to deliver your message to {whom}. It is not tried again.")
        }
        Kind::Delayed => format!(
            "{node} could not deliver your message to {whom} yet. You need not send it again."
        ),
        Kind::Delivered => format!("{node} has delivered your message to {whom}."),
        Kind::Relayed => format!(
            "{node} has passed your message to {whom} on to a host that does not report what \
             becomes of it. You may hear no more."
        ),
    }
}
