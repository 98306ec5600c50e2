//! Asking the DNS: questions, answers, a cache, and what a stub resolver does next.
//!
//! Used by the engine's resolver, which owns the sockets. Three parts, none of which does I/O:
//!
//! * [`message`]: one query and the reading of its answer; the only place that knows the codec.
//! * [`resolver`]: one lookup over several name servers, with its retries and aliases.
//! * [`known`]: what a check of a message has learned so far.
//! * [`cache`]: what was found, or not found, for as long as it may be kept.
//! * [`testing`]: the other side, for tests: answers made by hand, and a table that answers.
//!
//! We ask servers that do the recursion, as RFC 1034 §5.3.1 calls a stub resolver; nothing here
//! goes from the root down, and nothing checks signatures. Whether the server did is one bit (AD).

pub mod cache;
pub mod known;
pub mod message;
mod name;
mod record;
pub mod resolver;
pub mod testing;

pub use name::{BadName, LABEL_BYTES_MAX, NAME_BYTES_MAX, Question, reverse_name};
pub use record::{Data, Failure, Found, Kind, Mx, Outcome, Reason, Tlsa};
