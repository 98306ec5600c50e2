//! Mail on disk: the spool, the mailboxes, the queue, the directory of accounts.
//!
//! Sees the world through the traits of `fsmtp-rt` only, so the same code runs on a real disk and
//! on the simulator's.
//!
//! # Durability in one page
//!
//! * The spool is the write-ahead log and the home of message bodies. A message is acknowledged
//!   after [`spool`]'s commit resolves: its record is then on stable storage.
//! * Everything behind the spool is a consumer that may be slow. The mailbox index is told of
//!   messages in log order, shard by shard, and keeps, in the same atomic batch, how far it got.
//!   After a crash the spool replays what lies behind that mark, so each message is indexed once.
//! * A failed write poisons the log: nothing after it is acknowledged, and the shard says why.

pub mod conformance;
pub mod counts;
pub mod directory;
pub mod envelope;
pub mod error;
mod format;
pub mod id;
mod leb;
pub mod mailbox;
pub mod password;
pub mod queue;
pub mod seal;
pub mod spool;
#[cfg(test)]
mod testing;

pub use envelope::Envelope;
pub use error::StoreError;
pub use id::{Lsn, MailboxId, NodeNumber, QueueId, ShardId, Uid};
