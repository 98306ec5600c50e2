//! A report as XML: RFC 9990 appendix A, which readers of RFC 7489 appendix C understand.
//!
//! Called for our own reports. Cannot fail: what XML cannot hold is left out.

use core::fmt::Display;

use quick_xml::escape::escape;

use super::report::{Policy, Reason, Record, Report, Sender, Signature};

/// The names of RFC 9990 §3.1.1.
const NAMESPACE: &str = "urn:ietf:params:xml:ns:dmarc-2.0";

/// The document.
#[must_use]
pub fn xml(report: &Report) -> String {
    let mut out =
        Writer { text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(), depth: 0 };
    out.open(&format!("feedback xmlns=\"{NAMESPACE}\""));
    // RFC 7489 §C
    out.leaf("version", "1.0");
    out.within("report_metadata", |out| {
        out.leaf("org_name", &report.organisation);
        out.leaf("email", &report.email);
        out.some("extra_contact_info", &report.contact);
        out.leaf("report_id", &report.id);
        out.within("date_range", |out| {
            out.leaf("begin", report.begin);
            out.leaf("end", report.end);
        });
        report.errors.iter().for_each(|error| out.leaf("error", error));
        out.some("generator", &report.generator);
    });
    policy(&mut out, &report.policy);
    report.records.iter().for_each(|one| record(&mut out, one));
    out.close("feedback");
    out.text
}

fn policy(out: &mut Writer, policy: &Policy) {
    out.within("policy_published", |out| {
        out.leaf("domain", &policy.domain);
        out.some("discovery_method", &policy.discovery);
        out.leaf("p", &policy.p);
        out.some("sp", &policy.sp);
        out.some("np", &policy.np);
        out.some("fo", &policy.fo);
        out.some("adkim", &policy.adkim);
        out.some("aspf", &policy.aspf);
        out.some("testing", &policy.testing);
        out.some("pct", &policy.pct);
    });
}

fn record(out: &mut Writer, record: &Record) {
    out.within("record", |out| {
        out.within("row", |out| {
            out.leaf("source_ip", &record.source);
            out.leaf("count", record.count);
            out.within("policy_evaluated", |out| {
                out.leaf("disposition", &record.disposition);
                out.leaf("dkim", &record.dkim);
                out.leaf("spf", &record.spf);
                for Reason { kind, comment } in &record.reasons {
                    out.within("reason", |out| {
                        out.leaf("type", kind);
                        out.some("comment", comment);
                    });
                }
            });
        });
        out.within("identifiers", |out| {
            out.some("envelope_to", &record.envelope_to);
            // RFC 9990 §3.1.1.10: there, and empty, for the null path.
            out.leaf("envelope_from", &record.envelope_from);
            out.leaf("header_from", &record.header_from);
        });
        out.within("auth_results", |out| {
            for Signature { domain, selector, result, why } in &record.signatures {
                out.within("dkim", |out| {
                    out.leaf("domain", domain);
                    out.some("selector", selector);
                    out.leaf("result", result);
                    out.some("human_result", why);
                });
            }
            for Sender { domain, scope, result, why } in &record.senders {
                out.within("spf", |out| {
                    out.leaf("domain", domain);
                    out.some("scope", scope);
                    out.leaf("result", result);
                    out.some("human_result", why);
                });
            }
        });
    });
}

struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    fn indent(&mut self) {
        self.text.extend(core::iter::repeat_n("  ", self.depth));
    }

    /// An element that others stand in, with its attributes.
    fn open(&mut self, tag: &str) {
        self.indent();
        self.text.push_str(&format!("<{tag}>\n"));
        self.depth += 1;
    }

    fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.indent();
        self.text.push_str(&format!("</{name}>\n"));
    }

    fn within(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.open(name);
        content(self);
        self.close(name);
    }

    /// An element with text.
    fn leaf(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        // XML 1.0 has no way to say these, not even escaped.
        let plain: String = value.chars().filter(|&c| is_text(c)).collect();
        self.indent();
        self.text.push_str(&format!("<{name}>{}</{name}>\n", escape(plain)));
    }

    /// The same, unless there is no text.
    fn some(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.leaf(name, value);
        }
    }
}

/// What a document of XML may hold; of white space, only what is read as it is written.
fn is_text(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}
