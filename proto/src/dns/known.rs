//! What a check has learned from the DNS so far.
//!
//! SPF, DKIM, DMARC and ARC are judged by plain functions of a message and of this. One that lacks
//! an answer gives back the questions; the driver asks them, all at one time, puts the answers in,
//! and calls again. The function begins anew each time, so it has no state to get wrong; what it
//! has done before costs microseconds, a round trip milliseconds. Limits: the caller's, who bounds
//! how many questions a check may have.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::name::Question;
use super::record::{Failure, Found, Kind};

/// What was found, or why nothing was.
pub type Answer = Result<Rc<Found>, Failure>;

/// What a check says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next<T> {
    /// These must be answered first; at least one.
    Ask(Vec<Question>),
    /// All is known.
    Done(T),
}

impl<T> Next<T> {
    /// Both; what either must know first is asked at one time.
    #[must_use]
    pub fn and<U>(self, other: Next<U>) -> Next<(T, U)> {
        match (self, other) {
            (Self::Done(one), Next::Done(other)) => Next::Done((one, other)),
            (Self::Ask(one), Next::Done(_)) => Next::Ask(one),
            (Self::Done(_), Next::Ask(other)) => Next::Ask(other),
            (Self::Ask(mut all), Next::Ask(other)) => {
                all.extend(other);
                Next::Ask(all)
            }
        }
    }

    /// The same of what comes out of it.
    #[must_use]
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Next<U> {
        match self {
            Self::Done(done) => Next::Done(map(done)),
            Self::Ask(questions) => Next::Ask(questions),
        }
    }
}

/// The answers to questions.
#[derive(Debug, Default)]
pub struct Known {
    answers: BTreeMap<Question, Answer>,
}

impl Known {
    /// Puts an answer in.
    pub fn put(&mut self, question: Question, answer: Answer) {
        self.answers.insert(question, answer);
    }

    /// How many answers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Whether a question is answered.
    #[must_use]
    pub fn knows(&self, question: &Question) -> bool {
        self.answers.contains_key(question)
    }

    /// The answer for the records of `kind` at `name`. A name that nobody can ask for has none.
    ///
    /// # Errors
    /// The question, when nobody has answered it yet.
    pub fn get(&self, name: &str, kind: Kind) -> Result<Answer, Question> {
        let question = match Question::new(name, kind) {
            Ok(question) => question,
            Err(bad) => return Ok(Err(Failure::BadName(bad))),
        };
        self.answers.get(&question).cloned().ok_or(question)
    }
}

/// The kind of records that hold addresses like this one.
#[must_use]
pub const fn kind_of(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(_) => Kind::A,
        IpAddr::V6(_) => Kind::Aaaa,
    }
}
