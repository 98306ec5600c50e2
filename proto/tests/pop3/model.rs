//! Random dialogues against a model that does everything the simple way, on whole lines.

use crate::world::{Maildrop, Message, Outcome, play};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The model: one line in, one reply out.
struct Model<'a> {
    maildrop: &'a Maildrop,
    user: Option<String>,
    open: bool,
    deleted: BTreeSet<usize>,
    said: String,
    closed: bool,
    left: Vec<u32>,
}

impl Model<'_> {
    fn say(&mut self, text: impl AsRef<str>) {
        self.said += text.as_ref();
        self.said += "\r\n";
    }

    fn octets(&self, index: usize) -> usize {
        self.maildrop.messages[index].body.len()
    }

    fn kept(&self) -> Vec<usize> {
        (0..self.maildrop.messages.len()).filter(|i| !self.deleted.contains(i)).collect()
    }

    fn index(&mut self, word: &str) -> Option<usize> {
        let count = self.maildrop.messages.len();
        let number: usize = word.parse().unwrap();
        if number == 0 || number > count {
            self.say(format!("-ERR No such message, there are {count} messages in the maildrop."));
            None
        } else if self.deleted.contains(&(number - 1)) {
            self.say(format!("-ERR Message {number} is deleted."));
            None
        } else {
            Some(number - 1)
        }
    }

    fn body(&mut self, text: &str) {
        for line in text.split_inclusive("\r\n") {
            let dot = if line.starts_with('.') { "." } else { "" };
            let end = if line.ends_with("\r\n") { "" } else { "\r\n" };
            self.said += &format!("{dot}{line}{end}");
        }
        self.say(".");
    }

    fn line(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
        match (self.open, verb.to_ascii_uppercase().as_str()) {
            (_, "QUIT") => {
                if self.open {
                    self.left.retain(|n| !self.deleted.contains(&(*n as usize - 1)));
                }
                self.say("+OK POP3 server signing off node.example.test");
                self.closed = true;
            }
            (_, "XYZZY") => self.say("-ERR Invalid command"),
            (false, "USER") => {
                self.user = Some(rest.to_owned());
                self.say("+OK Send PASS");
            }
            (false, "PASS") => match self.user.take() {
                None => self.say("-ERR Order Error: USER first."),
                Some(user) if user == "alice" && rest == "two  words " => {
                    self.open = true;
                    self.say("+OK Auth Success");
                }
                Some(_) => self.say("-ERR [AUTH] Auth Failure: user or password is wrong."),
            },
            (true, "USER" | "PASS") => {
                self.say("-ERR Order Error: Client already authenticated.");
            }
            (false, _) => self.say("-ERR Order Error: USER/PASS first."),
            (true, verb) => self.transaction(verb, &words),
        }
    }

    fn transaction(&mut self, verb: &str, words: &[&str]) {
        let uidl = verb == "UIDL";
        match (verb, words) {
            ("STAT", _) => {
                let kept = self.kept();
                let octets: usize = kept.iter().map(|&i| self.octets(i)).sum();
                self.say(format!("+OK {} {octets}", kept.len()));
            }
            ("NOOP", _) => self.say("+OK"),
            ("RSET", _) => {
                self.deleted.clear();
                self.say("+OK Reset state");
            }
            ("LIST" | "UIDL", []) => {
                self.say(format!("+OK {verb} follows"));
                for i in self.kept() {
                    let octets = self.octets(i);
                    self.say(if uidl {
                        format!("{} id{i}", i + 1)
                    } else {
                        format!("{} {octets}", i + 1)
                    });
                }
                self.say(".");
            }
            ("LIST" | "UIDL", [number]) => {
                if let Some(i) = self.index(number) {
                    let octets = self.octets(i);
                    let value = if uidl { format!("id{i}") } else { octets.to_string() };
                    self.say(format!("+OK {} {value}", i + 1));
                }
            }
            ("DELE", [number]) => {
                if let Some(i) = self.index(number) {
                    self.deleted.insert(i);
                    self.say("+OK Gravestone added");
                }
            }
            ("RETR", [number]) => {
                if let Some(i) = self.index(number) {
                    self.say(format!("+OK {} octets", self.octets(i)));
                    let body = String::from_utf8(self.maildrop.messages[i].body.clone()).unwrap();
                    self.body(&body);
                }
            }
            ("TOP", [number, lines]) => {
                if let Some(i) = self.index(number) {
                    self.say("+OK Top of message follows");
                    let body = String::from_utf8(self.maildrop.messages[i].body.clone()).unwrap();
                    let (head, body) = body.split_once("\r\n\r\n").unwrap();
                    let lines: usize = lines.parse().unwrap();
                    let shown: String = body.split_inclusive("\r\n").take(lines).collect();
                    self.body(&format!("{head}\r\n\r\n{shown}"));
                }
            }
            other => panic!("the model does not know {other:?}"),
        }
    }
}

fn expected(maildrop: &Maildrop, lines: &[String]) -> Outcome {
    let mut model = Model {
        maildrop,
        user: None,
        open: false,
        deleted: BTreeSet::new(),
        said: "+OK POP3 server ready node.example.test\r\n".to_owned(),
        closed: false,
        left: (1..=u32::try_from(maildrop.messages.len()).unwrap()).collect(),
    };
    let mut wrong = 0;
    for line in lines {
        if model.closed {
            break;
        }
        let before = model.said.len();
        model.line(line);
        wrong += u32::from(model.said[before..].starts_with("-ERR [AUTH]"));
        model.closed |= wrong == 3;
    }
    Outcome { said: model.said.into_bytes(), closed: model.closed, left: model.left }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("USER alice".to_owned()),
        1 => Just("PASS two  words ".to_owned()),
        1 => Just("PASS wrong".to_owned()),
        1 => Just("Xyzzy 1".to_owned()),
        1 => Just("quit".to_owned()),
        6 => prop::sample::select(vec!["STAT", "NOOP", "RSET", "LIST", "UIDL", "Noop "])
            .prop_map(str::to_owned),
        12 => (prop::sample::select(vec!["LIST", "uidl", "DELE", "Dele", "RETR"]), 0u32..6)
            .prop_map(|(verb, n)| format!("{verb} {n}")),
        3 => (0u32..6, 0u32..4).prop_map(|(n, lines)| format!("TOP {n} {lines}")),
    ]
}

fn dialogue() -> impl Strategy<Value = Vec<String>> {
    let signed_in = vec!["USER alice".to_owned(), "PASS two  words ".to_owned()];
    (prop::sample::select(vec![Vec::new(), signed_in]), prop::collection::vec(line(), 0..25))
        .prop_map(|(start, lines)| [start, lines].concat())
}

fn maildrop() -> impl Strategy<Value = Maildrop> {
    let message = prop::collection::vec("[.ab]{0,3}", 0..5).prop_map(|lines| Message {
        body: format!("S: {}\r\n\r\n{}", lines.len(), lines.join("\r\n")).into_bytes(),
        ..Message::default()
    });
    prop::collection::vec(message, 0..5).prop_map(|messages| Maildrop { messages })
}

proptest! {
    #[test]
    fn a_dialogue_goes_as_the_model_says(
        maildrop in maildrop(),
        lines in dialogue(),
        mut cuts in prop::collection::vec(0usize..400, 0..12),
    ) {
        let bytes: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        cuts.sort_unstable();
        let outcome = play(&maildrop, bytes.as_bytes(), cuts.into_iter());
        let expected = expected(&maildrop, &lines);
        prop_assert_eq!(
            String::from_utf8_lossy(&outcome.said), String::from_utf8_lossy(&expected.said));
        prop_assert_eq!(outcome, expected);
    }

    /// Hostile bytes: every cut gives the same dialogue, and no line gets two replies.
    #[test]
    fn hostile_bytes_give_one_dialogue(
        pieces in prop::collection::vec(prop_oneof![
            line().prop_map(String::into_bytes),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\0".to_vec()),
            Just(vec![b'x'; 511]),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..40),
        mut cuts in prop::collection::vec(0usize..2000, 0..12),
    ) {
        let bytes = pieces.concat();
        let maildrop = Maildrop::default();
        cuts.sort_unstable();
        let whole = play(&maildrop, &bytes, [].into_iter());
        prop_assert_eq!(&play(&maildrop, &bytes, cuts.into_iter()), &whole);
        prop_assert_eq!(&play(&maildrop, &bytes, 0..bytes.len()), &whole);
    }
}
