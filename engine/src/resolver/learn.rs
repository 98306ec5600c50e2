//! Looking up what a check of a message must know.
//!
//! Called for each check, which is a pure function of what is [`Known`]: what it asks for is asked
//! at one time, and it is called again with the answers. Limits: [`QUESTIONS_MAX`] and the caller's
//! deadline. What is not answered by then counts as not answered by the DNS, so every check comes
//! to a verdict.

use core::pin::pin;

use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Failure, Question, Reason};
use fsmtp_rt::{Datagrams, Dial, Instant};

use super::Resolver;
use crate::start::first;

/// Questions of one check. Arbitrary; the limits of SPF let a record ask 111, and two are checked
/// at one time.
pub const QUESTIONS_MAX: usize = 300;

impl<R: Datagrams + Dial> Resolver<R> {
    /// Asks what somebody will want to know soon; nobody waits for it.
    pub fn prefetch(&self, questions: impl IntoIterator<Item = Question>) {
        for question in questions.into_iter().take(QUESTIONS_MAX) {
            drop(self.ask_for(question));
        }
    }

    /// Calls `check` until it knows enough.
    pub async fn learn<T>(&self, deadline: Instant, check: impl Fn(&Known) -> Next<T>) -> T {
        let mut known = Known::default();
        loop {
            let questions = match check(&known) {
                Next::Done(verdict) => return verdict,
                Next::Ask(questions) => questions,
            };
            let left = QUESTIONS_MAX.saturating_sub(known.len());
            // All are under way before one is waited for.
            let asked = questions.iter().take(left).map(|question| self.ask_for(question.clone()));
            let asked: Vec<_> = asked.collect();
            let mut answers = Vec::with_capacity(asked.len());
            if self.inner.rt.now() < deadline {
                let gather = async {
                    for one in asked {
                        answers.push(one.answer().await);
                    }
                };
                first(pin!(gather), pin!(self.inner.rt.sleep_until(deadline))).await;
            }
            let late = Err(Failure::Temporary(Reason::TimedOut));
            let answers = answers.into_iter().chain(core::iter::repeat(late));
            for (question, answer) in questions.into_iter().zip(answers) {
                known.put(question, answer);
            }
        }
    }
}
