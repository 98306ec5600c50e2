//! Mail that is to travel on: what was promised about it, where it arrived, and what does not fit.
//!
//! 1. Each recipient of what was answered 250 got it, as it was sent, or its sender was told that
//!    he did not.
//! 2. Neither happens twice, and not both: but for what no sender can know, when the reply of a
//!    server was lost (RFC 5321 §4.5.4.1) or the node crashed right behind it.
//! 3. Nobody gets what was refused.
//!
//! Senders and servers elsewhere write, the audit reads. That queues drain when faults stop is
//! checked by `world.rs`.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use fsmtp_rt::Instant;

use crate::ledger::State;

/// The field that names a letter.
const NAME: &str = "X-Letter: ";

/// How long before a crash something may have happened of which the index never heard: a settlement
/// is tried again each second while the index has faults.
const WINDOW: Duration = Duration::from_secs(60);

/// What a sender wants to have sent.
#[derive(Debug)]
pub(crate) struct Letter {
    /// All of it, as it was submitted.
    pub(crate) text: Vec<u8>,
    /// Who is to get it.
    pub(crate) to: BTreeSet<String>,
    /// How far it has come.
    pub(crate) state: State,
}

/// What a server elsewhere has taken.
#[derive(Debug)]
struct Taken {
    letter: usize,
    to: Vec<String>,
    at: Instant,
    /// Its client has read the reply, for it went on.
    confirmed: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    letters: Vec<Letter>,
    taken: Vec<Taken>,
    /// When the node crashed, or began to drain.
    pub(crate) falls: Vec<Instant>,
    wrong: Vec<String>,
}

impl Outgoing {
    /// Enters a letter; its number.
    pub(crate) fn enter(&mut self, body: &[u8]) -> usize {
        let number = self.letters.len();
        let mut text = format!("{NAME}{number:08x}\r\nSubject: letter\r\n\r\n").into_bytes();
        text.extend_from_slice(body);
        self.letters.push(Letter { text, to: BTreeSet::new(), state: State::Sending });
        number
    }

    /// One of them.
    pub(crate) fn letter(&mut self, number: usize) -> &mut Letter {
        &mut self.letters[number]
    }

    /// A server takes a message; what names this, if anybody sent it.
    pub(crate) fn take(&mut self, bytes: &[u8], to: &[String], at: Instant) -> Option<usize> {
        let text = String::from_utf8_lossy(bytes);
        let Some(letter) = number_of(&text).filter(|number| *number < self.letters.len()) else {
            self.wrong.push(format!("{to:?} got what nobody sent: {:?}", text.get(..60)));
            return None;
        };
        if !bytes.ends_with(&self.letters[letter].text) {
            self.wrong.push(format!("letter {letter} was changed on its way to {to:?}"));
        }
        if text.starts_with("Return-Path") {
            self.wrong.push(format!("letter {letter} left with the field of final delivery"));
        }
        self.taken.push(Taken { letter, to: to.to_vec(), at, confirmed: false });
        Some(self.taken.len() - 1)
    }

    /// Who has sent it knows that it was taken.
    pub(crate) fn confirm(&mut self, taken: usize) {
        self.taken[taken].confirmed = true;
    }

    /// Letters that were answered 250.
    pub(crate) fn acked(&self) -> usize {
        self.letters.iter().filter(|letter| letter.state == State::Acked).count()
    }

    /// Whether the node fell so soon after `at` that it may have forgotten.
    fn forgotten(&self, at: Instant) -> bool {
        self.falls.iter().any(|fall| *fall >= at && *fall <= at + WINDOW)
    }

    /// What does not fit. `reports` are the messages of the senders' mailbox; with `rotten` some of
    /// them, or of what was to be sent, may have been lost with the disk.
    pub(crate) fn audit(mut self, reports: &[&[u8]], rotten: bool) -> Vec<String> {
        let mut failed: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for report in reports {
            let text = String::from_utf8_lossy(report);
            let Some(letter) = number_of(&text).filter(|number| *number < self.letters.len())
            else {
                let front = text.get(..200).unwrap_or(&text);
                self.wrong.push(format!("the sender was told about no letter of his: {front:?}"));
                continue;
            };
            for to in failures(&text) {
                *failed.entry((letter, to)).or_default() += 1;
            }
        }
        let mut wrong = core::mem::take(&mut self.wrong);
        for (number, letter) in self.letters.iter().enumerate() {
            for to in &letter.to {
                let told = failed.remove(&(number, to.clone())).unwrap_or(0);
                let what = self.judge(number, letter, to, told, rotten);
                wrong.extend(what.map(|what| format!("letter {number} to {to}: {what}")));
            }
        }
        wrong.extend(failed.keys().map(|(n, to)| format!("letter {n} was not for {to}: a report")));
        for taken in &self.taken {
            let letter = &self.letters[taken.letter];
            if taken.to.iter().any(|to| !letter.to.contains(to)) {
                wrong.push(format!("letter {} went to {:?}", taken.letter, taken.to));
            }
        }
        wrong
    }

    fn judge(
        &self,
        number: usize,
        letter: &Letter,
        to: &String,
        told: usize,
        rotten: bool,
    ) -> Option<String> {
        let copies: Vec<&Taken> = self
            .taken
            .iter()
            .filter(|taken| taken.letter == number && taken.to.contains(to))
            .collect();
        if matches!(letter.state, State::Sending | State::Refused) {
            let some = copies.len() + told > 0;
            return some.then(|| format!("was sent although {:?}", letter.state));
        }
        if copies.is_empty() && told == 0 && letter.state == State::Acked && !rotten {
            return Some("neither arrived nor was reported".into());
        }
        // The last copy may be known to everybody; each one before it must have a reason.
        let known = |taken: &&&Taken| taken.confirmed && !self.forgotten(taken.at);
        let sure = copies.iter().filter(known).count();
        if sure > 1 {
            return Some(format!("arrived {} times, {sure} of them known", copies.len()));
        }
        // The report may have been the last thing before the node fell, unknown to the next life.
        let behind =
            |at: Instant| self.falls.iter().any(|fall| *fall <= at && at <= *fall + WINDOW);
        if told > 0 && copies.iter().any(|taken| known(&taken) && !behind(taken.at)) {
            return Some("arrived, and was reported as failed".into());
        }
        // Each of them may have been told right before the node fell.
        let most = 1 + self.falls.len();
        (told > most).then(|| format!("{told} reports"))
    }
}

/// The number in a letter's name field, wherever in `text` that is.
fn number_of(text: &str) -> Option<usize> {
    let digits = text.split_once(NAME)?.1.get(..8)?;
    usize::from_str_radix(digits, 16).ok()
}

/// Recipients that a report gives up (RFC 3464 §2.3).
fn failures(text: &str) -> Vec<String> {
    let mut failures = Vec::new();
    let mut last = None;
    for line in text.lines() {
        if let Some(address) = line.strip_prefix("Final-Recipient: rfc822;") {
            last = Some(address.trim().to_owned());
        } else if line == "Action: failed" {
            failures.extend(last.take());
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a@d0.test";

    fn at(seconds: u64) -> Instant {
        Instant::from_ns(seconds * 1_000_000_000)
    }

    /// Copies by when they were taken and whether that was confirmed; reports; falls.
    fn run(state: State, copies: &[(u64, bool)], reports: usize, falls: &[u64]) -> Vec<String> {
        let mut outgoing = Outgoing::default();
        let number = outgoing.enter(b"text\r\n");
        let letter = outgoing.letter(number);
        letter.state = state;
        letter.to.insert(A.to_owned());
        let bytes = [b"Received: x\r\n", letter.text.as_slice()].concat();
        for (seconds, confirmed) in copies {
            let taken = outgoing.take(&bytes, &[A.to_owned()], at(*seconds)).unwrap();
            if *confirmed {
                outgoing.confirm(taken);
            }
        }
        outgoing.falls = falls.iter().map(|seconds| at(*seconds)).collect();
        let report = format!("Final-Recipient: rfc822;{A}\nAction: failed\n\n{NAME}00000000\n");
        outgoing.audit(&vec![report.as_bytes(); reports], false)
    }

    #[test]
    fn each_way_to_be_wrong_is_seen() {
        let good = Vec::<String>::new();
        assert_eq!(run(State::Acked, &[(1, true)], 0, &[]), good);
        assert_eq!(run(State::Acked, &[], 1, &[]), good);
        assert_eq!(run(State::Acked, &[(1, false), (2, false), (3, true)], 0, &[]), good);
        assert_eq!(run(State::Acked, &[(1, false)], 1, &[]), good, "nobody knows");
        assert_eq!(run(State::Acked, &[(9, true)], 1, &[8]), good, "told, forgotten, sent");
        assert_eq!(run(State::Acked, &[(1, true), (9, true)], 0, &[2]), good, "the window");
        assert_eq!(run(State::Doubt, &[], 0, &[]), good);
        assert_eq!(run(State::Acked, &[], 0, &[]).len(), 1, "lost");
        assert_eq!(run(State::Acked, &[(1, true), (2, true)], 0, &[]).len(), 1, "doubled");
        assert_eq!(run(State::Acked, &[(1, true), (200, true)], 0, &[100]).len(), 1, "late");
        assert_eq!(run(State::Acked, &[(1, true)], 1, &[]).len(), 1, "both");
        assert_eq!(run(State::Acked, &[], 2, &[]).len(), 1, "told twice");
        assert_eq!(run(State::Refused, &[(1, true)], 0, &[]).len(), 1, "refused and sent");
        assert_eq!(run(State::Refused, &[], 1, &[]).len(), 1, "refused and reported");
    }

    #[test]
    fn what_nobody_sent_or_somebody_changed_is_seen() {
        let mut outgoing = Outgoing::default();
        outgoing.enter(b"text\r\n");
        outgoing.take(b"Subject: x\r\n\r\n", &[A.to_owned()], at(1));
        outgoing.take(b"X-Letter: 00000000\r\n\r\nother\r\n", &[A.to_owned()], at(1));
        assert_eq!(outgoing.audit(&[b"no report"], false).len(), 4);
    }
}
