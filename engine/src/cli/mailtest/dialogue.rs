//! What a mail test is told: by flags, and by the questions of the original where they lack.
//!
//! Somebody at a terminal is asked for what is missing, and again after an answer that does not do.
//! A script is not: it gives flags, or answers to all questions on standard input, and what is
//! missing or wrong there is wrong usage. Limit: [`ANSWERS_MAX`] answers to one question.

use super::super::args::Mailtest;
use super::super::{Failed, Terminal};
use clap::ValueEnum;
use fsmtp_proto::smtp::address::Mailbox;
use std::io::{BufRead as _, Read as _};

/// Wrong answers to one question before it ends; arbitrary.
const ANSWERS_MAX: usize = 10;
/// The most bytes of an answer, far more than an address has.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Which message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in super::super) enum Kind {
    /// What the sender says
    #[value(name = "c", alias = "custom")]
    Custom,
    /// A default message, for which `--to` is enough
    #[value(name = "d", alias = "default")]
    Default,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) subject: String,
    pub(super) from: String,
    pub(super) to: Vec<String>,
}

/// Whom the questions go to, if to anybody.
struct Asked<'a, 't> {
    terminal: &'a mut Terminal<'t>,
    /// What is not given is asked for.
    asks: bool,
}

/// What is to be sent, and whom to. `node` and `domain` are those of the configuration.
pub(super) fn settle(
    ask: &Mailtest,
    (node, domain): (&str, &str),
    terminal: &mut Terminal<'_>,
) -> Result<Told, Failed> {
    let given = ask.subject.is_some() || ask.from.is_some() || !ask.to.is_empty();
    let bare = ask.kind.is_none() && !given;
    // Who gives none of them answers the questions, from a pipe as well: the original had nothing
    // else. Who gives one reads something else from there, perhaps.
    let asked = &mut Asked { asks: terminal.interactive || bare, terminal };
    let kind = match ask.kind {
        Some(kind) => kind,
        None if bare => asked.kind()?,
        None => Kind::Custom,
    };
    let usual = || format!("Mail test of {node}");
    let subject = match (&ask.subject, kind) {
        (Some(subject), _) => subject.clone(),
        (None, Kind::Custom) if asked.asks => asked.line("Enter subject: ", "--subject")?,
        (None, _) => usual(),
    };
    if !asked.asks {
        missing(ask, kind)?;
    }
    let from = match (&ask.from, kind) {
        (None, Kind::Default) => format!("postmaster@{domain}"),
        (from, _) => asked.address(from.as_deref(), "Enter from: ", "--from")?,
    };
    let mut to = Vec::new();
    for address in &ask.to {
        to.push(asked.address(Some(address), "Enter to: ", "--to")?);
    }
    if to.is_empty() {
        to.push(asked.address(None, "Enter to: ", "--to")?);
    }
    Ok(Told { subject, from, to })
}

/// Says all at once what a script did not give.
fn missing(ask: &Mailtest, kind: Kind) -> Result<(), Failed> {
    let from = ask.from.is_none() && kind == Kind::Custom;
    let lacks = [(from, "--from"), (ask.to.is_empty(), "--to")];
    let lacks: Vec<&str> = lacks.iter().filter(|lack| lack.0).map(|lack| lack.1).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Failed::usage(format!("missing: {}, with an address", lacks.join(" and "))))
}

impl Asked<'_, '_> {
    fn kind(&mut self) -> Result<Kind, Failed> {
        let answer = self.line("Enter type [c: custom, d: default]: ", "--type")?;
        // As the original took it: whatever begins with another letter is the other.
        Ok(if answer.starts_with(['d', 'D']) { Kind::Default } else { Kind::Custom })
    }

    /// One answer; `flag` is what a script gives instead.
    fn line(&mut self, prompt: &str, flag: &str) -> Result<String, Failed> {
        self.say(prompt)?;
        let mut line = String::new();
        let read = (&mut *self.terminal.input).take(ANSWER_BYTES_MAX).read_line(&mut line);
        match read {
            Ok(0) => {
                let _ = self.say("\n");
                Err(Failed::usage(format!("missing: {flag}; standard input has ended")))
            }
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(format!("cannot read standard input: {error}").into()),
        }
    }

    /// A question is no part of the result, so it goes to standard error.
    fn say(&mut self, text: &str) -> Result<(), String> {
        let errors = &mut self.terminal.errors;
        let shown = write!(errors, "{text}").and_then(|()| errors.flush());
        shown.map_err(|error| format!("cannot write to standard error: {error}"))
    }

    /// An address: the one that was given, or the first answer that is one.
    fn address(&mut self, given: Option<&str>, prompt: &str, flag: &str) -> Result<String, Failed> {
        let mut text = match given {
            Some(text) => text.trim().to_owned(),
            None => self.line(prompt, flag)?,
        };
        for _ in 0..ANSWERS_MAX {
            let Err(why) = Mailbox::parse(&text) else { return Ok(text) };
            let wrong = format!("{flag}: `{}`: {why}", super::show::escaped(&text));
            if !self.terminal.interactive {
                return Err(Failed::usage(wrong));
            }
            self.say(&format!("{wrong}\n"))?;
            text = self.line(prompt, flag)?;
        }
        Err(Failed::usage(format!("{flag}: no address in {ANSWERS_MAX} answers")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of the flags and of what is typed, and what was asked.
    fn settled(ask: &Mailtest, interactive: bool, typed: &str) -> (Result<Told, Failed>, String) {
        let mut errors = Vec::new();
        let terminal = &mut Terminal {
            input: &mut typed.as_bytes(),
            output: &mut Vec::new(),
            errors: &mut errors,
            secret: &|_| Ok(String::new()),
            interactive,
            colours: false,
        };
        let told = settle(ask, ("mx.example.org", "example.org"), terminal);
        (told, String::from_utf8(errors).unwrap())
    }

    fn told(subject: &str, from: &str, to: &[&str]) -> Told {
        let to = to.iter().map(ToString::to_string).collect();
        Told { subject: subject.to_owned(), from: from.to_owned(), to }
    }

    const QUESTIONS: &str =
        "Enter type [c: custom, d: default]: Enter subject: Enter from: Enter to: ";

    #[test]
    fn the_dialogue_is_that_of_the_original() {
        let bare = Mailtest::default();
        for interactive in [true, false] {
            for kind in ["c", "", "custom", "x"] {
                let typed = format!("{kind}\nHi there\r\na@b.test\n c@d.test \n");
                let (ended, asked) = settled(&bare, interactive, &typed);
                assert_eq!(ended, Ok(told("Hi there", "a@b.test", &["c@d.test"])));
                assert_eq!(asked, QUESTIONS);
            }
            let (ended, asked) = settled(&bare, interactive, "default\nc@d.test\n");
            let expected =
                told("Mail test of mx.example.org", "postmaster@example.org", &["c@d.test"]);
            assert_eq!(ended, Ok(expected));
            assert_eq!(asked, "Enter type [c: custom, d: default]: Enter to: ");
        }
    }

    #[test]
    fn a_person_is_asked_again_and_a_script_is_not() {
        let bare = Mailtest::default();
        let (ended, asked) = settled(&bare, true, "c\nx\nnobody\na@b.test\n@\nc@d.test\n");
        assert_eq!(ended, Ok(told("x", "a@b.test", &["c@d.test"])));
        let again = "--from: `nobody`: the address does not follow RFC 5321\nEnter from: ";
        assert!(asked.contains(again), "{asked}");
        let (ended, _) = settled(&bare, false, "c\nx\nnobody\na@b.test\n@\nc@d.test\n");
        assert_eq!(ended.unwrap_err().status, 2);
        // A flag that is wrong is asked for, too.
        let wrong = Mailtest { from: Some("\u{1b}x".into()), to: vec!["c@d".into()], ..bare };
        let (ended, asked) = settled(&wrong, true, "x\na@b.test\n");
        assert_eq!(ended, Ok(told("x", "a@b.test", &["c@d"])));
        assert!(asked.contains("`\\u{1b}x`"), "{asked}");
        let (ended, asked) = settled(&wrong, false, "x\na@b.test\n");
        let (ended, status) = ended.map_err(|failed| (failed.reason, failed.status)).unwrap_err();
        assert!(ended.starts_with("--from: ") && status == 2 && asked.is_empty(), "{ended}");
    }

    #[test]
    fn wrong_answers_have_an_end() {
        let typed = format!("c\nx\n{}", "nobody\n".repeat(ANSWERS_MAX + 5));
        let (ended, asked) = settled(&Mailtest::default(), true, &typed);
        let failed = ended.unwrap_err();
        assert_eq!((failed.status, failed.reason.contains("10 answers")), (2, true));
        assert_eq!(asked.matches("Enter from: ").count(), ANSWERS_MAX + 1);
        // One that does not end is cut, and its rest is another answer.
        let long = "a".repeat(usize::try_from(ANSWER_BYTES_MAX).unwrap() + 5);
        let (ended, asked) = settled(&Mailtest::default(), true, &format!("d\n{long}\na@b\n"));
        assert_eq!(ended.map(|told| told.to), Ok(vec!["a@b".to_owned()]));
        assert_eq!(asked.matches("Enter to: ").count(), 3, "{asked}");
        for typed in ["", "c\n", "c\nx\na@b.test\n"] {
            let (ended, _) = settled(&Mailtest::default(), true, typed);
            let failed = ended.unwrap_err();
            assert_eq!((failed.status, failed.reason.contains("missing: --")), (2, true));
        }
    }

    #[test]
    fn a_script_hears_all_that_is_missing() {
        let subject = Mailtest { subject: Some("x".into()), ..Mailtest::default() };
        let kind = Mailtest { kind: Some(Kind::Default), ..Mailtest::default() };
        let to = Mailtest { to: vec!["c@d".into()], ..Mailtest::default() };
        for (ask, missing) in [
            (&subject, "missing: --from and --to, with an address"),
            (&kind, "missing: --to, with an address"),
            (&to, "missing: --from, with an address"),
        ] {
            // What stands on standard input is not for it.
            let (ended, asked) = settled(ask, false, "a@b\nc@d\n");
            assert_eq!(ended, Err(Failed::usage(missing)));
            assert_eq!(asked, "");
        }
        let all = Mailtest {
            kind: Some(Kind::Default),
            to: vec!["c@d".into(), "e@f".into()],
            ..Mailtest::default()
        };
        let expected =
            told("Mail test of mx.example.org", "postmaster@example.org", &["c@d", "e@f"]);
        assert_eq!(settled(&all, false, "").0, Ok(expected));
    }
}
