//! SASL from outside: a small client against the server, and what a client may get wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod messages;
mod scram;
