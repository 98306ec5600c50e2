//! DKIM (RFC 6376): signing mail, so that its receivers can tell which domain answers for it, and
//! telling that of what comes.
//!
//! The engine feeds a [`Signer`] the message that will be sent, in its final form and in order,
//! while it streams to wherever it goes, and puts the fields that come out in front of it. No
//! clock and no randomness: the time is an argument, and both algorithms give one signature for
//! one text. Keys are [`Key`]s; reading and keeping them is the engine's affair.
//!
//! * [`canon`]: bodies, canonicalised and hashed while they stream by.
//! * [`header`]: the header section: where it ends, its fields, their canonical forms.
//! * [`key`]: keys and what is published of them.
//! * [`sign`]: the signer.
//! * [`tags`]: the lists that signatures and records are; [`record`]: public keys.
//! * [`verify`]: the verifier.
//!
//! [`canon`] and [`header`] know nothing of signing: the verifier does the same with them.
//!
//! Limits: a header section of [`header::HEADER_BYTES_MAX`] bytes and [`header::FIELDS_COUNT_MAX`]
//! fields; nothing of a body is kept. Fails by [`SignError`] and [`KeyError`] only.

pub mod canon;
pub mod header;
pub mod key;
pub mod record;
pub mod sign;
mod squeeze;
pub mod tags;
pub mod verify;

pub use canon::Canon;
pub use key::{Algorithm, Key, KeyError};
pub use sign::{SignError, Signer, Terms};
