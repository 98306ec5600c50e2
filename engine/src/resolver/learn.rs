//! Looking up what a check of a message must know.
//!
//! Called for each check, which is a pure function of what is [`Known`]: what it asks for is asked
//! at one time, and it is called again with the answers. Limits: [`QUESTIONS_MAX`], [`CHECKS_MAX`]
//! and the caller's deadline. What is not answered by then counts as not answered by the DNS, so
//! every check comes to a verdict.

use core::pin::pin;

use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Failure, Question, Reason};
use fsmtp_rt::{Datagrams, Dial, Instant};

use super::{Asked, GONE, LOOKUPS_MAX, Resolver};
use crate::start::first;

/// Questions of one check. Arbitrary; the limits of SPF let a record ask 111, and two are checked
/// at one time.
pub const QUESTIONS_MAX: usize = 300;

/// Lookups under way from which on checks get none: strangers say what is checked, and mail that is
/// to be sent needs answers, too.
pub const CHECKS_MAX: usize = LOOKUPS_MAX / 4 * 3;

impl<R: Datagrams + Dial> Resolver<R> {
    /// Asks what somebody will want to know soon; nobody waits for it.
    pub fn prefetch(&self, questions: impl IntoIterator<Item = Question>) {
        for question in questions.into_iter().take(QUESTIONS_MAX) {
            drop(self.ask_for(question, CHECKS_MAX));
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
            let asked = questions.iter().take(left);
            let asked: Vec<_> = asked.map(|q| self.ask_for(q.clone(), CHECKS_MAX)).collect();
            let mut answers = vec![Err(Failure::Temporary(Reason::TimedOut)); questions.len()];
            let mut waits = Vec::new();
            // What is known is worth as much after the deadline as before it.
            for (place, one) in answers.iter_mut().zip(asked) {
                match one {
                    Asked::Known(answer) => *place = answer,
                    Asked::Waits(answer) => waits.push((place, answer)),
                }
            }
            let gather = async {
                for (place, answer) in &mut waits {
                    **place = answer.await.unwrap_or(GONE);
                }
            };
            first(pin!(gather), pin!(self.inner.rt.sleep_until(deadline))).await;
            // What has come while another was waited for.
            for (place, mut answer) in waits {
                if let Ok(Some(answer)) = answer.try_recv() {
                    *place = answer;
                }
            }
            for (question, answer) in questions.into_iter().zip(answers) {
                known.put(question, answer);
            }
        }
    }
}
