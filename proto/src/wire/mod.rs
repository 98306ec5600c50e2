//! What the line protocols share: the reply buffer, line cutting, and small grammar pieces.

pub mod line;
pub mod outbox;
pub mod token;
