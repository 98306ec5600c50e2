//! Looking up what a check of a message must know.
//!
//! Called for each check, which is a pure function of what is [`Known`]: what it asks for is asked,
//! as much as may be under way at one time, and it is called again whenever answers have come, so
//! that no question waits for a slow answer to another. Limits: [`QUESTIONS_MAX`],
//! [`PARALLEL_MAX`], the [`Share`] of the lookups, and the caller's deadline. What is not answered
//! by then counts as not answered by the DNS, so every check comes to a verdict.

use core::future::{Future as _, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;
use core::time::Duration;

use fsmtp_proto::dns::known::{Known, Next};
use fsmtp_proto::dns::{Failure, Question, Reason};
use fsmtp_rt::{Datagrams, Dial, Instant};
use futures_channel::oneshot;

use super::{Answered, Asked, GONE, LOOKUPS_MAX, Resolver};
use crate::start::first;

/// Questions of one check. Arbitrary; the limits of SPF let a record ask 111, and two are checked
/// at one time.
pub const QUESTIONS_MAX: usize = 300;
/// Lookups of one check that are under way at one time. Arbitrary; who sends one message must not
/// use up what all have.
pub const PARALLEL_MAX: usize = 24;
/// How long a check waits that has nothing under way, because others have too much.
const PAUSE: Duration = Duration::from_millis(50);

/// How many lookups of a shard may be under way for one to begin. Strangers say what is checked,
/// and mail that is to be sent needs answers, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// What is said of a message: half of them.
    Check,
    /// What its author's domain wants: three quarters. Whatever else is not known, this decides
    /// whether a message has to wait.
    Policy,
}

impl Share {
    /// So many.
    #[must_use]
    pub const fn lookups_max(self) -> usize {
        match self {
            Self::Check => LOOKUPS_MAX / 2,
            Self::Policy => LOOKUPS_MAX / 4 * 3,
        }
    }
}

/// Lookups that are under way.
type Waits = Vec<(Question, oneshot::Receiver<Answered>)>;

/// Waits for one of them, and takes all that have come by then.
async fn any(waits: &mut Waits, known: &mut Known) {
    poll_fn(|context| {
        let before = waits.len();
        waits.retain_mut(|(question, answer)| match Pin::new(answer).poll(context) {
            Poll::Ready(answer) => {
                known.put(question.clone(), answer.unwrap_or(GONE));
                false
            }
            Poll::Pending => true,
        });
        if waits.len() < before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl<R: Datagrams + Dial> Resolver<R> {
    /// Asks what somebody will want to know soon; nobody waits for it.
    pub fn prefetch(&self, questions: impl IntoIterator<Item = Question>, share: Share) {
        for question in questions.into_iter().take(PARALLEL_MAX) {
            drop(self.ask_for(question, share.lookups_max()));
        }
    }

    /// Calls `check` until it knows enough.
    pub async fn learn<T>(
        &self,
        deadline: Instant,
        share: Share,
        check: impl Fn(&Known) -> Next<T>,
    ) -> T {
        let (mut known, mut waits) = (Known::default(), Waits::new());
        loop {
            let questions = match check(&known) {
                Next::Done(verdict) => return verdict,
                Next::Ask(questions) => questions,
            };
            let is_over = self.inner.rt.now() >= deadline;
            let learned = self.ask_all(&questions, (share, is_over), &mut known, &mut waits);
            if is_over {
                give_up(questions, &mut known);
            } else if !learned {
                let wait = async {
                    if waits.is_empty() {
                        self.inner.rt.sleep_until(self.inner.rt.now() + PAUSE).await;
                    } else {
                        any(&mut waits, &mut known).await;
                    }
                };
                first(pin!(wait), pin!(self.inner.rt.sleep_until(deadline))).await;
            }
        }
    }

    /// Begins to ask what is not under way, and takes what is known; says whether something was.
    /// One that finds no place among the lookups begins later.
    fn ask_all(
        &self,
        questions: &[Question],
        (share, is_over): (Share, bool),
        known: &mut Known,
        waits: &mut Waits,
    ) -> bool {
        let before = known.len();
        for question in questions {
            let under_way = waits.iter().any(|(asked, _)| asked == question);
            if under_way || known.knows(question) {
                continue;
            }
            if known.len() + waits.len() >= QUESTIONS_MAX {
                known.put(question.clone(), Err(Failure::Temporary(Reason::TimedOut)));
                continue;
            }
            if waits.len() >= PARALLEL_MAX && !is_over {
                continue;
            }
            // What is known is worth as much after the deadline as before it.
            let most = if is_over { 0 } else { share.lookups_max() };
            match self.ask_for(question.clone(), most) {
                Asked::Known(Err(Failure::Temporary(Reason::Busy))) => {}
                Asked::Known(answer) => known.put(question.clone(), answer),
                Asked::Waits(answer) => waits.push((question.clone(), answer)),
            }
        }
        known.len() > before
    }
}

/// Nobody has answered these in time.
fn give_up(questions: Vec<Question>, known: &mut Known) {
    for question in questions {
        if !known.knows(&question) {
            known.put(question, Err(Failure::Temporary(Reason::TimedOut)));
        }
    }
}
