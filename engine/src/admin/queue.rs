//! What the `queue` commands do, with the engine running or not.
//!
//! Beside a running engine the shards are asked, one after the other, through a [`Door`] each:
//! their queues are the truth. Otherwise the index is; what nobody has tried to send yet stands
//! there without its domains, which only a start reads.

use core::fmt::Display;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_rt::UnixTime;
use fsmtp_store::mailbox::{Mailboxes as _, Outgoing as _, wait};
use fsmtp_store::queue::{Listed, Queue, Terms};
use fsmtp_store::{QueueId, ShardId, StoreError};

use super::{StoreAdmin, invalid, refused};
use crate::control::{
    AdminError, AdminErrorKind, AdminReply, PAGE_ENTRIES_MAX, QueueAction, QueueEntry,
};
use crate::latest::Latest;
use crate::run::now;

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that one action names at most.
const NAMED_MAX: usize = 1000;

/// What a shard is asked about its queue.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What.
    pub(crate) what: What,
    /// Where the answer goes.
    pub(crate) reply: Sender<Answer>,
}

/// What a shard is asked.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A page of its legs behind a message, and how many there are of each kind.
    List {
        /// Behind this one.
        after: Option<QueueId>,
    },
    /// Something is to be done to these messages, or to all.
    Act {
        /// What.
        action: QueueAction,
        /// To which; none: to all.
        ids: Option<Vec<QueueId>>,
    },
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Its legs, whether there are more, and the counts.
    Listed(Vec<QueueEntry>, bool, BTreeMap<String, u64>),
    /// To these messages something was done; the shard has seen to it that it lasts.
    Acted(Vec<QueueId>),
}

/// The way to a shard; one question at a time.
pub(crate) type Door = Latest<Ask>;

/// Answers a question about `queue`.
pub(crate) fn answer(queue: &mut Queue, what: What, now: UnixTime) -> Answer {
    match what {
        What::List { after } => {
            let mut entries = Vec::new();
            let mut more = false;
            let mut last = None;
            for listed in queue.list(after, now) {
                // A message is not cut in two.
                if entries.len() >= PAGE_ENTRIES_MAX && last != Some(listed.id) {
                    more = true;
                    break;
                }
                last = Some(listed.id);
                entries.push(entry(&listed));
            }
            let counts = queue.counts(now);
            let count = |(why, count)| (why, u64::try_from(count).unwrap_or(u64::MAX));
            let named = counts.into_iter().map(|(why, n)| count((why.name().to_owned(), n)));
            Answer::Listed(entries, more, named.collect())
        }
        What::Act { action, ids } => {
            let all = || {
                let mut all: Vec<QueueId> = queue.list(None, now).map(|listed| listed.id).collect();
                all.dedup();
                all
            };
            let ids = ids.unwrap_or_else(all);
            let mut ids = ids;
            ids.retain(|&id| match action {
                QueueAction::Hold => queue.hold(id, true),
                QueueAction::Release => queue.hold(id, false),
                QueueAction::Retry => queue.retry(id, now),
                QueueAction::Remove => queue.remove(id),
            });
            Answer::Acted(ids)
        }
    }
}

fn entry(listed: &Listed) -> QueueEntry {
    QueueEntry {
        id: listed.id.to_string(),
        domain: listed.domain.to_string(),
        octets: listed.octets,
        recipients: listed.recipients_count,
        received: listed.received.rfc3339().to_string(),
        why: listed.why.name().to_owned(),
        next: listed.due.rfc3339().to_string(),
        attempts: listed.attempts_count,
        code: listed.code,
        said: listed.words.to_string(),
    }
}

fn id(text: &str) -> Result<QueueId, AdminError> {
    text.parse().map_err(|why: fsmtp_store::id::NotAQueueId| invalid(format!("{text}: {why}")))
}

impl StoreAdmin {
    /// A page of the queue; that of one message when `only` names it.
    pub(super) fn list_queue(
        &self,
        after: Option<&str>,
        only: Option<&str>,
    ) -> Result<AdminReply, AdminError> {
        let only = only.map(id).transpose()?;
        let after = match only {
            Some(only) => only.0.checked_sub(1).map(QueueId),
            None => after.map(id).transpose()?,
        };
        let (mut entries, mut more, mut counts) = (Vec::new(), false, BTreeMap::new());
        for answer in self.ask(&What::List { after })? {
            let Answer::Listed(some, has_more, some_counts) = answer else { continue };
            entries.extend(some);
            more |= has_more;
            for (why, count) in some_counts {
                *counts.entry(why).or_default() += count;
            }
        }
        entries.sort_by(|a: &QueueEntry, b| a.id.cmp(&b.id));
        if let Some(only) = only {
            entries.retain(|entry| entry.id == only.to_string());
            if entries.is_empty() {
                let text = format!("no message {only} is in the queue");
                return Err(AdminError::new(AdminErrorKind::NotFound, text));
            }
            return Ok(AdminReply::Queue { entries, more: false, counts });
        }
        more |= cut(&mut entries);
        Ok(AdminReply::Queue { entries, more, counts })
    }

    /// Does something to messages that are named, or to all.
    pub(super) fn act_on_queue(
        &self,
        action: QueueAction,
        ids: &[String],
        all: bool,
    ) -> Result<AdminReply, AdminError> {
        if all != ids.is_empty() || ids.len() > NAMED_MAX {
            return Err(invalid(format!("name 1 to {NAMED_MAX} messages, or all")));
        }
        let named = ids.iter().map(|text| id(text)).collect::<Result<Vec<_>, _>>()?;
        let what = What::Act { action, ids: (!all).then_some(named) };
        let answers = match self.doors.is_empty() {
            true => vec![self.act_on_stored(action, what)?],
            false => self.ask(&what)?,
        };
        let mut done = Vec::new();
        for answer in answers {
            let Answer::Acted(ids) = answer else { continue };
            done.extend(ids.iter().map(ToString::to_string));
        }
        let missing: Vec<&str> =
            ids.iter().filter(|id| !done.contains(id)).map(String::as_str).collect();
        if !missing.is_empty() {
            let text = format!("not in the queue: {}", missing.join(", "));
            return Err(AdminError::new(AdminErrorKind::NotFound, text));
        }
        let text = format!("{} {}", counted(done.len()), action.done());
        Ok(AdminReply::Done { text })
    }

    /// The same while no engine runs. What nobody has tried to send has no state yet, and what is
    /// written here would pass for one: it can be removed only.
    fn act_on_stored(&self, action: QueueAction, what: What) -> Result<Answer, AdminError> {
        let (mut queue, untried) = stored(&self.mailboxes).map_err(|error| refused(&error))?;
        let what = match what {
            What::Act { ids, .. } if action != QueueAction::Remove => {
                let all = queue.list(None, now()).map(|listed| listed.id);
                let ids = ids.unwrap_or_else(|| all.collect());
                What::Act {
                    action,
                    ids: Some(ids.into_iter().filter(|id| !untried.contains(id)).collect()),
                }
            }
            other => other,
        };
        let answer = answer(&mut queue, what, now());
        if let Answer::Acted(ids) = &answer {
            let settlements = ids.iter().map(|&id| queue.settlement(id)).collect();
            wait(self.mailboxes.settle(settlements)).map_err(|error| refused(&error))?;
        }
        Ok(answer)
    }

    /// Asks every shard, or the index.
    fn ask(&self, what: &What) -> Result<Vec<Answer>, AdminError> {
        if self.doors.is_empty() {
            let (mut queue, _) = stored(&self.mailboxes).map_err(|error| refused(&error))?;
            return Ok(vec![answer(&mut queue, what.clone(), now())]);
        }
        let mut answers = Vec::with_capacity(self.doors.len());
        let mut late = 0;
        for door in &self.doors {
            let (reply, answered) = channel();
            door.put(Ask { what: what.clone(), reply });
            // The others are asked all the same.
            match answered.recv_timeout(PATIENCE) {
                Ok(answer) => answers.push(answer),
                Err(_) => late += 1,
            }
        }
        if late > 0 {
            let text = format!("{late} shards do not answer: what was asked for may come later");
            return Err(AdminError::new(AdminErrorKind::Busy, text));
        }
        Ok(answers)
    }
}

/// Cuts a list to a page, between messages; says whether something was left out.
fn cut(entries: &mut Vec<QueueEntry>) -> bool {
    let Some(last) = entries.get(PAGE_ENTRIES_MAX).map(|entry| entry.id.clone()) else {
        return false;
    };
    let end = entries.iter().position(|entry| entry.id == last).unwrap_or(PAGE_ENTRIES_MAX);
    // One message with very many legs is a page by itself.
    let end =
        if end == 0 { entries.iter().take_while(|entry| entry.id == last).count() } else { end };
    let more = end < entries.len();
    entries.truncate(end);
    more
}

fn counted(count: usize) -> impl Display {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// The queue as the index has it, while no engine runs, and what of it has no state.
fn stored(mailboxes: &NodeMailboxes) -> Result<(Queue, BTreeSet<QueueId>), StoreError> {
    let mut queue = Queue::new(Terms::default());
    let mut untried = BTreeSet::new();
    wait(mailboxes.persist())?;
    for shard in 0..=ShardId::MAX {
        let mut after = None;
        loop {
            let listed = wait(mailboxes.queued(ShardId(shard), after, PAGE_ENTRIES_MAX))?;
            let Some(last) = listed.last() else { break };
            after = Some(last.id);
            for queued in &listed {
                if queue.restore(queued.id, queued.octets, &queued.state, now()).is_err() {
                    untried.insert(queued.id);
                    // Its time is in its name.
                    let received = UnixTime::from_ms(queued.id.0 >> 22);
                    queue.add(queued.id, queued.octets, received, [("?", vec![0])]);
                }
            }
        }
    }
    Ok((queue, untried))
}
