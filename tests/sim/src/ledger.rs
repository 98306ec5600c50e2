//! What was sent, what was promised, and what turned out wrong: the memory of the whole run.
//!
//! Clients write, the checks read. It survives crashes of the node, as the senders' own memory
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fsmtp_store::QueueId;

use crate::outgoing::Outgoing;

/// Violations that are kept; one is enough to fail a run.
const VIOLATIONS_MAX: usize = 20;

/// The line of a body that names it.
pub(crate) const TOKEN: &[u8] = b"X-Token: ";

/// How far a message has come, as its sender knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its end was not sent: it must not be delivered.
    Sending,
    /// Its end was sent, and storage may or may not have kept it.
    Doubt,
    /// It was answered 250: it must be delivered.
    Acked,
    /// It was refused for good reason: it must not be delivered.
    Refused,
}

/// What a reader has done to a message in its mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gone {
    /// Asked to delete it, without an answer.
    Perhaps,
    /// Deleted it.
    Surely,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What the client sent, dots not stuffed.
    pub(crate) body: Rc<[u8]>,
    /// The accounts that may get it; exactly these once it is acknowledged.
    pub(crate) accounts: BTreeSet<u32>,
    /// See [`State`].
    pub(crate) state: State,
    /// The id that the server gave it.
    pub(crate) id: Option<QueueId>,
    /// Any bytes, not lines: POP3 may end it with a line end of its own.
    pub(crate) raw: bool,
}

/// The memory of a run.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    /// All messages; the index is the token.
    pub(crate) entries: Vec<Entry>,
    /// Mail that is to travel on.
    pub(crate) outgoing: Outgoing,
    /// What readers have deleted, by account and id.
    pub(crate) gone: BTreeMap<(u32, QueueId), Gone>,
    /// Maildrops that were compared with this ledger.
    pub(crate) maildrops: u64,
    /// Messages that readers have compared with what was sent.
    pub(crate) retrieved: u64,
    /// Bits of the disk were flipped: what cannot be read, or is missing, proves nothing.
    pub(crate) rotten: bool,
    /// Dialogues are printed as they go.
    pub(crate) loud: bool,
    /// What was found wrong.
    pub(crate) violations: Vec<String>,
    /// Replies that were checked.
    pub(crate) replies: u64,
    /// Dialogues that were compared with their twin.
    pub(crate) twins: u64,
}

impl Ledger {
    /// Enters a message with `text` after its token line.
    pub(crate) fn enter(&mut self, text: &[u8]) -> usize {
        let token = self.entries.len();
        let mut body = TOKEN.to_vec();
        body.extend_from_slice(format!("{token:08x}\r\n").as_bytes());
        body.extend_from_slice(text);
        self.entries.push(Entry {
            body: body.into(),
            accounts: BTreeSet::new(),
            state: State::Sending,
            id: None,
            raw: false,
        });
        token
    }

    /// The end of `token` goes out now, for `accounts` at most.
    pub(crate) fn doubt(&mut self, token: usize, accounts: impl IntoIterator<Item = u32>) {
        let entry = &mut self.entries[token];
        entry.state = State::Doubt;
        entry.accounts = accounts.into_iter().collect();
    }

    /// It was acknowledged, for exactly `accounts`, with a reply that names its id.
    pub(crate) fn ack(
        &mut self,
        token: usize,
        accounts: impl IntoIterator<Item = u32>,
        reply: &str,
    ) {
        let id = reply.split_once("queued <").and_then(|(_, rest)| rest.split_once('>'));
        let id = id.and_then(|(id, _)| id.parse().ok());
        if id.is_none() {
            self.violate(format!("a 250 without an id: {reply:?}"));
        }
        let entry = &mut self.entries[token];
        entry.id = id;
        entry.state = State::Acked;
        entry.accounts = accounts.into_iter().collect();
    }

    /// It was refused, with a code that says that nothing was kept.
    pub(crate) fn refuse(&mut self, token: usize) {
        self.entries[token].state = State::Refused;
    }

    /// Shows a line of a dialogue, when dialogues are to be seen.
    pub(crate) fn show(&self, line: impl FnOnce() -> String) {
        if self.loud {
            println!("{}", line());
        }
    }

    /// Something is wrong.
    pub(crate) fn violate(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Messages in `state`.
    pub(crate) fn count(&self, state: State) -> usize {
        self.entries.iter().filter(|entry| entry.state == state).count()
    }
}

/// The token that a delivered message names.
pub(crate) fn token_of(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(TOKEN.len()).position(|window| window == TOKEN)? + TOKEN.len();
    let digits = core::str::from_utf8(bytes.get(at..at + 8)?).ok()?;
    usize::from_str_radix(digits, 16).ok()
}
