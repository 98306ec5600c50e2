//! What the line protocols share: the reply buffer and line cutting.

pub mod outbox;
