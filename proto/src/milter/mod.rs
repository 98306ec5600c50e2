//! Asking a filter about mail by the milter protocol, the server's side: what libmilter, rspamd and
//! OpenDKIM answer to. There is no RFC; version 6 is what sendmail and Postfix speak, and filters
//! of version 2 and later are asked what they know.
//!
//! ```text
//!                agrees           tell: connect, helo, mail, rcpt*, data, field*, body*, end
//!   new ──► offered ──► idle ──────────────────────────────────────────────► waiting
//!                        ▲ ▲                                                  │   │ ▲
//!                        │ └──── heard: continue, accept, reject, ... ◄───────┘   └─┘ change,
//!                        └── abort, renew                                             progress
//! ```
//!
//! The driver opens the connection, sends what [`Session::new`] wrote, and calls [`Session::turn`]
//! until [`Then::Ready`]. Then it tells one thing, sends what was written, and so on. What a filter
//! does not want to hear of writes nothing, and what it does not answer waits for nothing; the
//! driver needs not know. As in the crate's turn contract the session has no clock, takes nothing
//! ambiguous, and drops no byte by itself; it writes into the driver's buffer, since what is told
//! may be as long as a header field.
//!
//! Limits: [`reply::REPLY_BYTES_MAX`] for a packet of the filter, [`CHANGES_COUNT_MAX`] and
//! [`CHANGES_BYTES_MAX`] for what it changes of one message. A filter that is slow may say so, and
//! is waited for [`PATIENCE_FACTOR`] times as long. Fails by [`Then::Failed`]; a dead session stays
//! dead, and its connection is to be dropped.

pub mod command;
pub mod options;
pub mod reply;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;

use crate::time::Instant;
pub use command::{Command, Stage};
pub use options::Actions;
use options::{Agreed, Steps};
pub use reply::{Change, Field, Said};
use reply::{Parsed, Reply, parse};

/// The most changes of one message; arbitrary, filters make some.
pub const CHANGES_COUNT_MAX: u32 = 1000;
/// The most bytes of all of them; arbitrary, what is kept of them waits in memory.
pub const CHANGES_BYTES_MAX: usize = 256 * 1024;
/// How often the patience may begin anew for one reply, when the filter says that it takes longer;
/// arbitrary, and below what clients wait for the end of a message.
pub const PATIENCE_FACTOR: u32 = 4;

/// How long to wait for replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the reply to anything but the end of a message.
    pub command: Duration,
    /// For that.
    pub message: Duration,
}

/// What the session wants after a turn.
#[derive(PartialEq, Eq, Debug)]
pub struct Turn<'b> {
    /// Bytes to drop from the front of the window once `then` is done with.
    pub consumed: usize,
    /// What to do next.
    pub then: Then<'b>,
}

/// What the driver does next.
#[derive(PartialEq, Eq, Debug)]
pub enum Then<'b> {
    /// Receive, until the deadline.
    NeedInput,
    /// Call again.
    Again,
    /// Nothing is awaited: tell something, or leave the connection as it is.
    Ready,
    /// The filter has said this. Then call again.
    Heard(Stage, Verdict<'b>),
    /// The filter wants this changed; its verdict follows. Then call again.
    Change(Change<'b>),
    /// The connection is of no use any more, for this reason. Drop it.
    Failed(Failure),
}

/// What a filter thinks. Of a recipient it is about that one, but for `Accept` and `Discard`; of
/// connection and HELO about all messages; else about the message. Nothing more is told then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'b> {
    /// Go on.
    Continue,
    /// It is good, and no more is to be told of it.
    Accept,
    /// It is refused for good.
    Reject,
    /// It is refused for now.
    Tempfail,
    /// It is taken, and nobody gets it.
    Discard,
    /// It is refused in these words.
    Says(Said<'b>),
    /// The client's connection is to be closed.
    Shutdown,
}

/// Why a session cannot go on: what the filter sent is not what a filter may send.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// A packet of so many bytes.
    TooLong(u32),
    /// A packet without a letter.
    Empty,
    /// A letter that means nothing.
    Unknown(u8),
    /// What stands behind this letter is not what should.
    Malformed(u8),
    /// This means nothing here.
    Unexpected(u8),
    /// It was not agreed on that the filter may do this.
    NotAgreed(u8),
    /// It speaks another version.
    Version(u32),
    /// It needs steps that are not known here.
    Steps(u32),
    /// It wants more changed of a message than is kept.
    TooManyChanges,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = |f: &mut fmt::Formatter<'_>, letter: u8, what: &str| {
            write!(f, "the filter sent `{}`, {what}", char::from(letter).escape_default())
        };
        match *self {
            Self::TooLong(bytes) => write!(f, "the filter sent a packet of {bytes} bytes"),
            Self::Empty => f.write_str("the filter sent an empty packet"),
            Self::Unknown(letter) => sent(f, letter, "which means nothing"),
            Self::Malformed(letter) => sent(f, letter, "with wrong data"),
            Self::Unexpected(letter) => sent(f, letter, "which means nothing there"),
            Self::NotAgreed(letter) => sent(f, letter, "which was not agreed on"),
            Self::Version(version) => write!(f, "the filter speaks version {version}"),
            Self::Steps(bits) => write!(f, "the filter needs steps {bits:#x}, which are not known"),
            Self::TooManyChanges => f.write_str("the filter wants too much changed"),
        }
    }
}

impl core::error::Error for Failure {}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Offered,
    Idle,
    Waiting(Stage),
    Failed(Failure),
}

/// How far nothing more is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    No,
    Message,
    Connection,
}

/// One connection to a filter, as far as the protocol goes.
#[derive(Debug)]
pub struct Session {
    timeouts: Timeouts,
    phase: Phase,
    offered: Actions,
    agreed: Agreed,
    over: Over,
    /// The filter knows of a message, and may know more.
    in_message: bool,
    /// It wants no more of the body.
    skips: bool,
    changes_count: u32,
    changes_bytes: usize,
    /// When the reply that is awaited was asked for, and when the filter last said that it lives.
    asked: Instant,
    since: Instant,
}

impl Session {
    /// Opens a session and writes the offer; `actions` are what the driver can do for a filter.
    #[must_use]
    pub fn new(timeouts: Timeouts, actions: Actions, now: Instant, out: &mut Vec<u8>) -> Self {
        command::offer(actions, out);
        Self {
            timeouts,
            phase: Phase::Offered,
            offered: actions,
            agreed: Agreed { actions: Actions::NONE, steps: Steps::default() },
            over: Over::No,
            in_message: false,
            skips: false,
            changes_count: 0,
            changes_bytes: 0,
            asked: now,
            since: now,
        }
    }

    /// Looks at the front of `input`.
    pub fn turn<'b>(&mut self, now: Instant, input: &'b [u8]) -> Turn<'b> {
        match self.phase {
            Phase::Failed(failure) => return Turn { consumed: 0, then: Then::Failed(failure) },
            Phase::Idle if input.is_empty() => return Turn { consumed: 0, then: Then::Ready },
            _ => {}
        }
        match parse(input) {
            Parsed::Partial => Turn { consumed: 0, then: Then::NeedInput },
            Parsed::Bad(failure) => Turn { consumed: 0, then: self.fail(failure) },
            Parsed::Whole(reply, consumed) => {
                self.since = now;
                let letter = input.get(4).copied().unwrap_or_default();
                let then = match self.phase {
                    Phase::Waiting(stage) => self.heard(stage, (letter, consumed), reply),
                    Phase::Offered => self.agree(letter, reply),
                    Phase::Idle | Phase::Failed(_) => Err(Failure::Unexpected(letter)),
                };
                Turn { consumed, then: then.unwrap_or_else(|failure| self.fail(failure)) }
            }
        }
    }

    /// When the filter has been silent for too long; the driver then drops the connection.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let patience = match self.phase {
            Phase::Idle | Phase::Failed(_) => return Instant::FAR,
            Phase::Waiting(Stage::End) => self.timeouts.message,
            Phase::Offered | Phase::Waiting(_) => self.timeouts.command,
        };
        (self.since + patience).min(self.asked + patience * PATIENCE_FACTOR)
    }

    /// Whether values of fields, in either direction, have the white space in front of them.
    #[must_use]
    pub const fn leading_space(&self) -> bool {
        self.agreed.steps.contains(Steps::LEADING_SPACE)
    }

    /// Whether telling of `stage` writes anything: the filter wants to hear of it, and has not made
    /// up its mind.
    #[must_use]
    pub fn wants(&self, stage: Stage) -> bool {
        let over = match self.over {
            Over::No => false,
            Over::Message => stage != Stage::Mail,
            Over::Connection => true,
        };
        let skipped = stage == Stage::Body && self.skips;
        !over && !skipped && !stage.is_left_out(self.agreed.steps)
    }

    /// Writes `command` to `out`, behind `macros`, unless it is none of the filter's business.
    /// Commands come in the order of a transaction.
    pub fn tell(
        &mut self,
        now: Instant,
        command: &Command<'_>,
        macros: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) {
        let idle = matches!(self.phase, Phase::Idle);
        debug_assert!(idle, "one thing at a time");
        let stage = command.stage();
        if !idle {
            return;
        }
        if stage == Stage::Mail {
            self.begin();
        }
        if !self.wants(stage) {
            return;
        }
        self.in_message |= !stage.is_of_connection();
        command::macros(stage, macros, out);
        command.put(self.leading_space(), out);
        if stage.is_answered(self.agreed.steps) {
            self.phase = Phase::Waiting(stage);
            self.asked = now;
            self.since = now;
        }
    }

    /// A message: what was true of the last one is so no more.
    fn begin(&mut self) {
        if self.over == Over::Message {
            self.over = Over::No;
        }
        self.in_message = false;
        self.skips = false;
        self.changes_count = 0;
        self.changes_bytes = 0;
    }

    /// The transaction ends without a message. No reply.
    pub fn abort(&mut self, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.phase, Phase::Idle), "one thing at a time");
        if self.in_message && self.over == Over::No {
            command::letter(b'A', out);
        }
        self.begin();
    }

    /// The client is gone, and the connection to the filter is used for the next one, without
    /// another offer. No reply. Only filters of libmilter's version 6 are sure to know it.
    pub fn renew(&mut self, out: &mut Vec<u8>) {
        self.abort(out);
        command::letter(b'K', out);
        self.over = Over::No;
    }

    /// Says goodbye. No reply.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        command::letter(b'Q', out);
    }

    fn fail<'b>(&mut self, failure: Failure) -> Then<'b> {
        self.phase = Phase::Failed(failure);
        Then::Failed(failure)
    }

    fn agree<'b>(&mut self, letter: u8, reply: Reply<'b>) -> Result<Then<'b>, Failure> {
        let Reply::Agrees(version, actions, steps) = reply else {
            return Err(Failure::Unexpected(letter));
        };
        self.agreed = Agreed::of((version, actions, steps), self.offered)?;
        self.phase = Phase::Idle;
        Ok(Then::Again)
    }

    fn heard<'b>(
        &mut self,
        stage: Stage,
        (letter, bytes): (u8, usize),
        reply: Reply<'b>,
    ) -> Result<Then<'b>, Failure> {
        let verdict = match reply {
            Reply::Agrees(..) => return Err(Failure::Unexpected(letter)),
            Reply::Progress => return Ok(Then::Again),
            Reply::Change(change) => {
                return self.change(stage, (letter, bytes)).map(|()| Then::Change(change));
            }
            Reply::Skip if !self.agreed.steps.contains(Steps::SKIP) => {
                return Err(Failure::NotAgreed(letter));
            }
            Reply::Skip if stage != Stage::Body => return Err(Failure::Unexpected(letter)),
            Reply::Skip => {
                self.skips = true;
                Verdict::Continue
            }
            Reply::Continue => Verdict::Continue,
            Reply::Accept => Verdict::Accept,
            Reply::Reject => Verdict::Reject,
            Reply::Tempfail => Verdict::Tempfail,
            Reply::Says(said) => Verdict::Says(said),
            // A client whose mail is thrown away must have sent some.
            Reply::Discard if stage.is_of_connection() => return Err(Failure::Unexpected(letter)),
            Reply::Discard => Verdict::Discard,
            Reply::Shutdown => Verdict::Shutdown,
        };
        self.phase = Phase::Idle;
        let refused = matches!(verdict, Verdict::Reject | Verdict::Tempfail | Verdict::Says(_));
        self.over = match (verdict, stage) {
            (Verdict::Shutdown, _) => Over::Connection,
            (_, Stage::End) => Over::Message,
            (Verdict::Continue, _) => Over::No,
            // A recipient less; the message goes on. What nobody knows changes nothing.
            (_, Stage::Recipient | Stage::Unknown) if refused => Over::No,
            (_, stage) if stage.is_of_connection() => Over::Connection,
            _ => Over::Message,
        };
        Ok(Then::Heard(stage, verdict))
    }

    /// Whether the filter may change this now, and so much.
    fn change(&mut self, stage: Stage, (letter, bytes): (u8, usize)) -> Result<(), Failure> {
        let needed = match letter {
            b'h' | b'i' => Actions::ADD_FIELDS,
            b'm' => Actions::CHANGE_FIELDS,
            b'+' => Actions::ADD_RECIPIENTS,
            b'2' => Actions::ADD_RECIPIENTS_WITH,
            b'-' => Actions::DELETE_RECIPIENTS,
            b'e' => Actions::CHANGE_SENDER,
            _ => Actions::QUARANTINE,
        };
        if stage != Stage::End {
            return Err(Failure::Unexpected(letter));
        }
        if !self.agreed.actions.contains(needed) {
            return Err(Failure::NotAgreed(letter));
        }
        self.changes_count += 1;
        self.changes_bytes += bytes;
        if self.changes_count > CHANGES_COUNT_MAX || self.changes_bytes > CHANGES_BYTES_MAX {
            return Err(Failure::TooManyChanges);
        }
        Ok(())
    }
}
