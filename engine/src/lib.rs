//! The mail engine: shards, sessions, delivery, and the commands around them.

pub mod accept;
pub mod admin;
pub mod admit;
pub mod cli;
pub mod config;
pub mod control;
pub mod desk;
pub mod dirlock;
pub mod drain;
mod entrance;
pub mod guard;
pub mod latest;
pub mod locks;
pub mod log;
mod notify;
pub mod pop3;
pub mod resolver;
pub mod run;
pub mod shard;
pub mod signin;
pub mod smtp;
pub mod start;
mod supervise;
pub mod tls;
mod unseal;
pub mod windows;
