//! Sealing: the cryptography by which stored mail can be read by its owner only.
//!
//! Pure computation: no I/O and no clock, and randomness is passed in (see [`Random`]). The spool
//! and the drivers call it; why it is built like this, and who can read what, stands in
//! `docs/decisions/0006-sealing.md`.
//!
//! ```text
//! password ─Argon2id─┐
//! app password ─HKDF─┤                          ┌─ private key ─RSA─► window key (first visit)
//! recovery key ─HKDF─┼─► mailbox key ─AES-GCM──►┤
//! SCRAM ClientKey ───┘                          └─ window key (later visits)
//!                        window key ─AES-GCM─► content key ─AES-GCM─► body, envelope, trace
//! ```
//!
//! To seal, the server needs the mailbox's public key only: a [`Sealer`] makes the content key, a
//! [`Window`] wraps it. To open, it needs something that only the owner has: [`Wraps::open`] gives
//! the [`MailboxKey`], [`WindowRecord`] the [`OpenWindow`], that the [`ContentKey`] for an
//! [`Opener`].
//!
//! # What is never repeated
//!
//! AES-GCM fails when a nonce is used twice under one key. Types keep that from happening: who
//! makes a key can seal with it, who was given one (by unwrapping) can only open. So a [`Sealer`]
//! is the only thing that seals under its content key, and a [`Window`] under its window key; both
//! die with the process. All other sealing is under a key derived for that one sealing, by a fresh
//! salt. What callers must keep: one [`Window`] wraps at most one content key for each queue id.
//!
//! # Limits
//!
//! A chunk has at most [`CHUNK_BYTES_MAX`] bytes, a part [`PART_BYTES_MAX`], an account
//! [`WRAPS_COUNT_MAX`] wraps. Costs in stored bytes are bounded before they are paid.
//!
//! Secrets are wiped when they are dropped and shown by no `Debug`. Not wiped: what `ring` and the
//! compiler leave on the stack, and the expanded AES key of a [`Sealer`] or [`Opener`].
//!
//! # Failure
//!
//! Every changed, cut, swapped or foreign byte gives an error, never plaintext and never a panic.
//! A buffer that could not be opened holds nothing of use afterwards.

mod account;
mod aead;
mod body;
mod codec;
mod credential;
mod error;
mod key;
pub mod legacy;
mod rsa;
mod slot;
mod text;
mod user;
mod window;

#[cfg(test)]
mod tests;

pub use account::{Entry, NAME_BYTES_MAX, WRAPS_COUNT_MAX, Wrap, Wraps};
pub use body::{CHUNK_BYTES_MAX, Opener, PART_BYTES_MAX, Part, Sealer};
pub use credential::{
    AppWrap, PasswordWrap, RecoveryWrap, SCRAM_ITERATIONS, SCRAM_ITERATIONS_MAX,
    SCRAM_ITERATIONS_MIN, ScramTerms, ScramWrap,
};
pub use error::SealError;
pub use key::{ContentKey, KEY_BYTES, MailboxKey, Random, TAG_BYTES, WRAPPED_BYTES};
pub use rsa::{PrivateKey, PublicKey, RsaBits, rsa_pkcs8};
pub(crate) use slot::{SLOTS_NAME_BYTES, SlotKey, slots_name};
pub use text::{Secret, SecretKind, TextError};
pub use user::UserKeys;
pub use window::{
    OpenWindow, RECIPIENT_ROW_BYTES, RECIPIENT_WRAP_BYTES, RecipientWrap, Window, WindowId,
    WindowRecord,
};
