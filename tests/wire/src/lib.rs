//! The harness for tests of the built binary: a real process, real sockets, raw bytes.
//!
//! Used by the tests beside it (`tests/wire/tests`) and by the crash test (`tests/crash`). It knows
//! none of our protocol code, so that both sides of a mistake cannot agree. Everything that can
//! block has a limit ([`PATIENCE`]), after which it fails.
//!
//! * [`base64`]: what attachments and sign-ins are written in.
//! * [`binary`]: which engine is tested, built when it has to be.
//! * [`engine`]: start, signals, log, end of one engine with its own ports and data folder.
//! * [`smtp`], [`pop3`]: clients that send exactly what they are told.
//! * [`remote`]: another server, which the engine sends to.
//! * [`mail`]: messages made from a seed, and what the engine may put before them.

use std::time::Duration;

pub mod base64;
pub mod binary;
pub mod engine;
pub mod mail;
pub mod pop3;
pub mod ports;
pub mod remote;
pub mod smtp;

pub use engine::{Engine, Options};
pub use pop3::Pop;
pub use remote::{Habit, Names, Remote, Taken};
pub use smtp::{Reply, Smtp};

/// How long anything may take before the test fails; arbitrary, far above what a loaded machine of
/// two cores needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The address of the account that `--dev` makes.
pub const DEMO: &str = "demo@example.test";
/// Its password.
pub const DEMO_PASSWORD: &str = "demo";
