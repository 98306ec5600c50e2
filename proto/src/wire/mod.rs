//! What the line protocols share: the reply buffer, line cutting, dot-stuffing, and small grammar
//! pieces.

pub mod line;
pub mod outbox;
pub mod stuff;
pub mod token;
