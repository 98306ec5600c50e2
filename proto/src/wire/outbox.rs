//! The bounded reply buffer of a session.
//!
//! Sessions append, drivers send. The buffer never grows past [`OUTBOX_BYTES_MAX`]: a session asks
//! [`Outbox::room`] before it writes and says `Then::Flush` when there is too little, so a client
//! that pipelines without reading is bounded. The backing vector comes from and goes back to the
//! driver's pool, so an idle session holds no buffer and a command allocates nothing.

use core::fmt;

/// The most bytes of replies that one session may hold; arbitrary, but must exceed the longest
/// single reply (an EHLO reply, some 500 bytes) several times.
pub const OUTBOX_BYTES_MAX: usize = 4096;

/// Replies that have not been sent.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
}

impl Outbox {
    /// An outbox that appends to `bytes`, which is cleared first and keeps its capacity.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes }
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        OUTBOX_BYTES_MAX.saturating_sub(self.bytes.len())
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `bytes`. Returns false, and appends nothing, when they do not fit.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.room();
        debug_assert!(fits, "a session must ask for room before it replies");
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// Hands the bytes to the driver and leaves the outbox empty, without a buffer.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.bytes)
    }
}

/// Appends formatted text; fails, with what fitted so far kept, when there is too little room.
impl fmt::Write for Outbox {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.push(s.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_to_its_bound_and_gives_the_bytes_once() {
        let mut out = Outbox::new(Vec::with_capacity(64));
        assert!(out.push(b"250 ok\r\n"));
        assert_eq!(out.room(), OUTBOX_BYTES_MAX - 8);
        assert_eq!(out.take(), b"250 ok\r\n");
        assert!(out.is_empty() && out.bytes().is_empty());
    }
}
