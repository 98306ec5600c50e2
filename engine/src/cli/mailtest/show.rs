//! The log of a mail test: a line for each step while it goes on, or all as JSON at the end.
//!
//! What other servers said is shown with everything escaped that is no visible text, so that it can
//! neither paint the terminal nor begin a line of its own. One whose reader has gone away is kept
//! up: the message is on its way.

use super::super::Terminal;
use crate::relay::direct::Fate;
use core::fmt::Write as _;
use core::time::Duration;
use serde_json::{Value, json};

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Done,
    /// Not as it could be, and it goes on.
    Note,
    Failed,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Note => "note",
            Self::Failed => "FAIL",
        }
    }

    /// Green, yellow, red.
    const fn colour(self) -> u8 {
        match self {
            Self::Done => 32,
            Self::Note => 33,
            Self::Failed => 31,
        }
    }
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) state: State,
    pub(super) step: &'static str,
    pub(super) took: Duration,
    /// The code of a reply, should it be one.
    pub(super) code: Option<u16>,
    /// As it came.
    pub(super) text: String,
}

impl Line {
    fn shown(&self, colours: bool) -> String {
        let (word, colour) = (self.state.word(), self.state.colour());
        let (step, ms, text) = (self.step, ms(self.took), escaped(&self.text));
        let word = match colours {
            true => format!("\x1b[{colour}m{word:<4}\x1b[0m"),
            false => format!("{word:<4}"),
        };
        format!("{word}  {step:<8} {ms:>9.1} ms  {text}\n")
    }

    fn json(&self) -> Value {
        let state = self.state.word().to_ascii_lowercase();
        let mut value = json!({
            "step": self.step,
            "state": state,
            "ms": (ms(self.took) * 1000.0).round() / 1000.0,
            "text": escaped(&self.text),
        });
        if let (Some(code), Some(fields)) = (self.code, value.as_object_mut()) {
            fields.insert("code".to_owned(), code.into());
        }
        value
    }
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// A text on one line, of visible characters.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// All steps so far.
#[derive(Debug)]
pub(super) struct Journal {
    json: bool,
    colours: bool,
    lines: Vec<Line>,
    /// Why nobody reads along any more.
    unread: Option<String>,
}

/// What the JSON document says besides.
#[derive(Debug)]
pub(super) struct Summary<'s> {
    pub(super) from: &'s str,
    pub(super) message_id: &'s str,
    pub(super) octets: usize,
    pub(super) selectors: &'s [String],
    pub(super) fates: &'s [(String, Fate)],
    pub(super) failure: Option<&'s str>,
}

impl Journal {
    pub(super) const fn new(json: bool, colours: bool) -> Self {
        Self { json, colours, lines: Vec::new(), unread: None }
    }

    /// Adds a step, and shows it.
    pub(super) fn add(&mut self, line: Line, terminal: &mut Terminal<'_>) {
        if !self.json && self.unread.is_none() {
            self.unread = super::super::say(terminal, &line.shown(self.colours)).err();
        }
        self.lines.push(line);
    }

    /// The end: prints the document, should there be one.
    ///
    /// # Errors
    /// What could not be printed.
    pub(super) fn end(
        self,
        summary: &Summary<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<(), String> {
        if !self.json {
            return self.unread.map_or(Ok(()), Err);
        }
        let fate = |(address, fate): &(String, Fate)| {
            json!({
                "address": address,
                "delivered": fate.taken,
                "for_good": fate.for_good,
                "words": escaped(&fate.words),
            })
        };
        let fates = summary.fates;
        let document = json!({
            "delivered": !fates.is_empty() && fates.iter().all(|(_, fate)| fate.taken),
            "from": summary.from,
            "message_id": summary.message_id,
            "octets": summary.octets,
            "selectors": summary.selectors,
            "recipients": fates.iter().map(fate).collect::<Vec<_>>(),
            "steps": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "failure": summary.failure,
        });
        super::super::say(terminal, &format!("{document:#}\n"))
    }
}

/// Why not all of them have it: a line for each who has not. Empty: they have.
pub(super) fn failures(fates: &[(String, Fate)]) -> String {
    let mut text = String::new();
    for (address, fate) in fates.iter().filter(|(_, fate)| !fate.taken) {
        let when = if fate.for_good { "for good" } else { "for now" };
        let _ = writeln!(text, "{address}: not delivered, {when}: {}", escaped(&fate.words));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_only_what_can_be_seen() {
        let line = Line {
            state: State::Failed,
            step: "MAIL",
            took: Duration::from_micros(1_250),
            code: Some(550),
            text: "550 \u{1b}[2Jno\nok \"x\" \u{202e}é\u{9b}1m".to_owned(),
        };
        let shown = "FAIL  MAIL           1.2 ms  \
                     550 \\u{1b}[2Jno\\nok \"x\" \\u{202e}é\\u{9b}1m\n";
        assert_eq!(line.shown(false), shown);
        assert!(line.shown(true).starts_with("\x1b[31mFAIL\x1b[0m  MAIL"));
        let json = line.json();
        assert_eq!((&json["state"], &json["code"]), (&"fail".into(), &550.into()));
        assert_eq!(json["ms"], 1.25);
    }

    #[test]
    fn failures_name_each_who_did_not_get_it() {
        let fate = |taken, for_good, words: &str| Fate { taken, for_good, words: words.to_owned() };
        let fates = [
            ("a@b".to_owned(), fate(true, true, "250 ok")),
            ("c@d".to_owned(), fate(false, true, "550 no\u{7}")),
            ("e@f".to_owned(), fate(false, false, "450 later")),
        ];
        assert_eq!(
            failures(&fates),
            "c@d: not delivered, for good: 550 no\\u{7}\n\
             e@f: not delivered, for now: 450 later\n"
        );
        assert_eq!(failures(&fates[..1]), "");
    }
}
