//! The POP3 server session from outside: transcripts, cuts, limits, and a naive model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod limits;
mod model;
mod transcripts;
mod world;
