//! `fsmtp-oracles`: our judgement of SPF, DKIM and ARC beside that of others, and what they read in
//! our results, over many made cases.
//!
//! Called by `run.sh`. Each case follows from the seed and its number, has a small DNS of its own,
//! and is judged by ours, by mail-auth in this process and by pyspf or dkimpy in a child. Agreement
//! is counted; a difference must fall into a class of [`explained`]. One that does not is printed
//! with its seed and number, and fails the run: status 1. Limits: none; memory does not grow.

mod arc;
mod dkim;
mod explained;
mod keys;
mod random;
mod results;
mod spf;
mod theirs;
mod zone;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use fsmtp_proto::time::UnixTime;
use serde_json::Value;

use crate::explained::class;
use crate::keys::Keys;
use crate::random::Random;
use crate::theirs::{MailAuth, Outcome, Python};
use crate::zone::Served;

const USAGE: &str = "usage: fsmtp-oracles [--cases N] [--seed N] [--python PATH] \
                     [--only spf|dkim|arc|results] [--case N]";

/// A kind of difference, and the sentence of the RFC that ours follows.
type Class = (&'static str, &'static str);
const AGREES: Class = ("agrees", "");
const UNEXPLAINED: Class = ("NOT EXPLAINED", "");

struct Options {
    cases: u64,
    seed: u64,
    python: String,
    only: Option<String>,
    case: Option<u64>,
}

fn options() -> Option<Options> {
    let mut options =
        Options { cases: 2000, seed: 1, python: "python3".to_owned(), only: None, case: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--cases" => options.cases = value.parse().ok()?,
            "--seed" => options.seed = value.parse().ok()?,
            "--python" => options.python = value,
            "--only" => options.only = Some(value),
            "--case" => options.case = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("seal") {
        return seal();
    }
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match Run::begin(options).and_then(Run::all) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(unexplained) => {
            println!("{unexplained} differences are not explained");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// For suite.py: a line in, a set out.
fn seal() -> ExitCode {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).map_err(Into::into);
    let case = read.and_then(|_| Ok(serde_json::from_str(&line)?));
    match case.and_then(|case: Value| arc::suite(&case)) {
        Ok(set) => {
            println!("{set}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Run {
    options: Options,
    served: Served,
    mail_auth: MailAuth,
    python: Python,
    keys: Keys,
    now: u64,
    /// How often each oracle agreed, or fell into a class.
    table: BTreeMap<(&'static str, Class), u64>,
    unexplained: u64,
}

impl Run {
    fn begin(options: Options) -> Outcome<Self> {
        let served = Served::default();
        let mail_auth = MailAuth::new(served.start()?)?;
        let python = Python::start(&options.python)?;
        let keys = Keys::make(options.seed)?;
        // mail-auth looks at the clock itself; all times of cases are days away from now.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let table = BTreeMap::new();
        Ok(Self { options, served, mail_auth, python, keys, now, table, unexplained: 0 })
    }

    /// Of twenty cases twelve are of SPF, six of DKIM.
    fn all(mut self) -> Outcome<u64> {
        let numbers = self.options.case.map_or(0..self.options.cases, |case| case..case + 1);
        for number in numbers {
            let kind = match (number % 10, number % 20) {
                (0..=5, _) => "spf",
                (6..=8, _) => "dkim",
                (_, 9) => "arc",
                _ => "results",
            };
            if self.options.only.as_deref().is_some_and(|only| only != kind) {
                continue;
            }
            match kind {
                "spf" => self.spf(number)?,
                "dkim" => self.dkim(number)?,
                "arc" => self.arc(number)?,
                _ => self.results(number)?,
            }
        }
        for ((oracle, (name, rfc)), count) in &self.table {
            println!("{count:>8}  {oracle:<10} {name}\n{:22}{rfc}", "");
        }
        Ok(self.unexplained)
    }

    fn spf(&mut self, number: u64) -> Outcome<()> {
        let case = spf::Case::make(&mut Random::of(self.options.seed, number));
        self.served.set(&case.zone);
        let (ours, asked) = case.ours(UnixTime::from_ms(self.now * 1000));
        let of_mail_auth = self.mail_auth.spf(&case);
        let of_python = self.python.judge(&case.json())?;
        let verdicts = [
            ("mail-auth", of_mail_auth, String::new(), explained::spf::MAIL_AUTH),
            ("pyspf", text(&of_python, "verdict"), text(&of_python, "why"), explained::spf::PYSPF),
        ];
        for (oracle, theirs, why, classes) in verdicts {
            let said = format!("{} and {theirs}: {:#?}\n{why}", ours.verdict, ours.steps);
            let found = (ours.verdict.name() != theirs).then(|| {
                let (case, ours, asked) = (case.clone(), ours.clone(), asked.clone());
                class(classes, &explained::spf::Spf { case, ours, asked, theirs, why })
            });
            self.count(oracle, found, number, &case.json(), &said);
        }
        Ok(())
    }

    fn dkim(&mut self, number: u64) -> Outcome<()> {
        let mut random = Random::of(self.options.seed, number);
        let case = dkim::Case::make(&mut random, &self.keys, self.now);
        self.served.set(&case.zone);
        let ours = case.ours();
        let word = dkim::word(&ours);
        let (of_mail_auth, why) = self.mail_auth.dkim(&case.message);
        let of_python = self.python.judge(&case.json())?;
        let mut of_dkimpy = dkim::best(&texts(&of_python, "verdicts"));
        // dkimpy does not tell what is wrong with a key from that it was not to be had.
        if word == "temperror" && of_dkimpy == "no" {
            of_dkimpy = word;
        }
        // mail-auth passes over what has not all tags; for ours that is a signature, too.
        let of_mail_auth = match dkim::best(&of_mail_auth) {
            "none" => "no",
            best => best,
        };
        let verdicts = [
            ("mail-auth", of_mail_auth, why, explained::dkim::MAIL_AUTH),
            ("dkimpy", of_dkimpy, text(&of_python, "why"), explained::dkim::DKIMPY),
        ];
        for (oracle, theirs, why, classes) in verdicts {
            let said = format!("{word} and {theirs}: {ours:#?}\n{why}");
            let found = (word != theirs).then(|| {
                let (case, ours, theirs) = (case.clone(), ours.clone(), theirs.to_owned());
                let difference = explained::dkim::Dkim { case, ours, theirs, why };
                let own = class(classes, &difference);
                own.or_else(|| class(explained::dkim::BOTH, &difference))
            });
            self.count(oracle, found, number, &case.json(), &said);
        }
        Ok(())
    }

    fn arc(&mut self, number: u64) -> Outcome<()> {
        let mut random = Random::of(self.options.seed, number);
        let case = arc::Case::make(&mut random, &self.keys, self.now);
        self.served.set(&case.zone);
        let ours = case.ours();
        let (of_mail_auth, why) = self.mail_auth.arc(&case.message);
        // A chain has three verdicts, and no word for what may be otherwise later.
        let of_mail_auth = match of_mail_auth.as_str() {
            "no" | "temperror" => "fail".to_owned(),
            _ => of_mail_auth,
        };
        let of_python = self.python.judge(&case.json())?;
        let verdicts = [
            ("mail-auth", of_mail_auth, why, explained::arc::MAIL_AUTH),
            (
                "dkimpy",
                text(&of_python, "verdict"),
                text(&of_python, "why"),
                explained::arc::DKIMPY,
            ),
        ];
        for (oracle, theirs, why, classes) in verdicts {
            let said = format!("{} and {theirs}: {ours:#?}\n{why}", ours.verdict);
            let found = (ours.verdict.name() != theirs).then(|| {
                let (case, ours) = (case.clone(), ours.clone());
                class(classes, &explained::arc::Arc { case, ours, theirs, why })
            });
            self.count(oracle, found, number, &case.json(), &said);
        }
        Ok(())
    }

    fn results(&mut self, number: u64) -> Outcome<()> {
        let case = results::Case::make(&mut Random::of(self.options.seed, number));
        let theirs = self.python.judge(&case.json())?;
        let expected = case.expected();
        let said = format!("{}\nmeant {expected}\nread  {theirs}", case.ours());
        let found = (expected != theirs).then(|| {
            let difference = explained::results::Results { case: case.clone(), theirs };
            class(explained::results::AUTHRES, &difference)
        });
        self.count("authres", found, number, &case.json(), &said);
        Ok(())
    }

    /// Takes down what an oracle said; `found` is the class of a difference.
    fn count(
        &mut self,
        oracle: &'static str,
        found: Option<Option<Class>>,
        number: u64,
        case: &Value,
        said: &str,
    ) {
        if found == Some(None) {
            self.unexplained += 1;
        }
        let class = found.map_or(AGREES, |class| class.unwrap_or(UNEXPLAINED));
        if class == UNEXPLAINED || self.options.case.is_some() {
            let (name, seed) = (class.0, self.options.seed);
            println!("{oracle}, {name}: --seed {seed} --case {number}\n{case}\nours {said}\n");
        }
        *self.table.entry((oracle, class)).or_default() += 1;
    }
}

fn text(answer: &Value, name: &str) -> String {
    answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(answer: &Value, name: &str) -> Vec<String> {
    let all = answer.get(name).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
