//! Reports about the mail that came in a domain's name (RFC 9990, before it RFC 7489 §7.2): what
//! others send us is read, what we saw is reported to the domains that want to know.
//!
//! * [`report`]: a report as a value.
//! * [`mod@write`]: as XML; [`read`]: from XML.
//! * [`unpack`]: out of the wrappings in which reports come.
//! * [`row`]: what a session knows of a message, as a row of a report.
//! * [`collect`]: the rows of a day, counted and kept; `send`: what is made and sent of them.
//!
//! A session makes a [`row::Row`] of each message that was judged and gives it to the
//! [`collect::Collector`]; that never waits.
//!
//! What others wrote is hostile: everything that is read has a limit, which each file names.

pub mod collect;
pub mod read;
pub mod report;
pub mod row;
pub(crate) mod send;
pub mod unpack;
pub mod write;

#[cfg(test)]
mod tests;
