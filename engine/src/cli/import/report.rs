//! What was taken over, and what was left: for people and as JSON.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::control::MailOutcome;

/// Lines about what was left.
pub(super) const PROBLEMS_MAX: usize = 100;
/// Messages in a row that may be refused before it is given up.
pub(super) const REFUSED_MAX: u64 = 100;
/// Mailboxes that are named; what lies in others is counted together.
const MAILBOXES_MAX: usize = 100;
/// Their name.
const OTHERS: &str = "others";

/// Of domains, or of accounts.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) imported: u64,
    pub(super) present: u64,
    pub(super) refused: u64,
}

/// Of messages in mailboxes that are taken.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Messages {
    pub(super) imported: u64,
    pub(super) present: u64,
    pub(super) deleted: u64,
    pub(super) without_body: u64,
    pub(super) refused: u64,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    dry_run: bool,
    pub(super) domains: Counts,
    pub(super) accounts: Counts,
    pub(super) messages: Messages,
    /// Messages in mailboxes that have no place here, by path.
    mailboxes_left: BTreeMap<String, u64>,
    problems: Vec<String>,
    /// Problems that are not told.
    problems_more: u64,
    #[serde(skip)]
    refused_in_a_row: u64,
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run, ..Self::default() }
    }

    /// Something was left that somebody should know of.
    pub(super) fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        } else {
            self.problems_more += 1;
        }
    }

    /// A message was refused.
    pub(super) fn refuse(&mut self, why: String) {
        self.messages.refused += 1;
        self.problem(why);
    }

    /// What the store did with a message of `address`.
    ///
    /// # Errors
    /// When it does not take anything any more: why.
    pub(super) fn heed(&mut self, address: &str, outcome: MailOutcome) -> Result<(), String> {
        match outcome {
            MailOutcome::Imported => self.messages.imported += 1,
            MailOutcome::Present => self.messages.present += 1,
            MailOutcome::Refused(why) => {
                self.refused_in_a_row += 1;
                self.refuse(format!("a message of {address}: {why}"));
                return match self.refused_in_a_row < REFUSED_MAX {
                    true => Ok(()),
                    false => Err(format!("mail is not taken any more: {why}")),
                };
            }
        }
        self.refused_in_a_row = 0;
        Ok(())
    }

    /// A message was left, for its mailbox has no place here.
    pub(super) fn left(&mut self, path: &str) {
        let is_new = !self.mailboxes_left.contains_key(path);
        let path = if is_new && self.mailboxes_left.len() >= MAILBOXES_MAX { OTHERS } else { path };
        *self.mailboxes_left.entry(path.to_owned()).or_default() += 1;
    }

    /// Whether anything was left. What its owner has deleted is not.
    pub(super) fn has_left(&self) -> bool {
        let refused = self.domains.refused + self.accounts.refused + self.messages.refused;
        refused + self.messages.without_body > 0
            || !self.mailboxes_left.is_empty()
            || !self.problems.is_empty()
    }

    pub(super) fn json(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.dry_run {
            text.push_str("nothing was written; this would be done:\n");
        }
        for (what, Counts { imported, present, refused }) in
            [("domains", &self.domains), ("accounts", &self.accounts)]
        {
            let _ =
                writeln!(text, "{what}: {imported} imported, {present} present, {refused} refused");
        }
        let Messages { imported, present, deleted, without_body, refused } = &self.messages;
        let _ = writeln!(
            text,
            "messages: {imported} imported, {present} present, {deleted} deleted, \
             {without_body} without a body, {refused} refused"
        );
        if !self.mailboxes_left.is_empty() {
            let all = self.mailboxes_left.iter().map(|(path, count)| format!("{path} {count}"));
            let all: Vec<String> = all.collect();
            let _ = writeln!(text, "left, for there is no such mailbox here: {}", all.join(", "));
        }
        for problem in &self.problems {
            let _ = writeln!(text, "left: {problem}");
        }
        if self.problems_more > 0 {
            let _ = writeln!(text, "left: {} more like these", self.problems_more);
        }
        text
    }
}
