//! The mail engine: shards, sessions, delivery, and the commands around them.

pub mod admit;
pub mod cli;
pub mod config;
pub mod control;
pub mod dirlock;
pub mod drain;
pub mod guard;
pub mod log;
