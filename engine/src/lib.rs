//! The mail engine: shards, sessions, delivery, and the commands around them.

pub mod admit;
pub mod drain;
pub mod log;
