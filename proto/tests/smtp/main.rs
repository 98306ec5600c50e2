//! The SMTP session from outside: dialogues, every cut of the stream, limits, smuggling.

mod client;
mod dialogue;
mod harness;
mod limits;
mod random;
mod secure;
