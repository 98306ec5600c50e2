//! A page-aligned buffer for file writes.
//!
//! Direct writes need memory and length in units of the page. The buffer never moves once made:
//! appending past its capacity is refused. Aligned without unsafe code: the vector is one page
//! longer than asked for, and the block begins at the first page boundary in it.

use core::fmt;

/// The unit of file writes: no torn write is smaller than this or crosses its boundaries.
pub const PAGE_BYTES: usize = 4096;

/// An append-only, page-aligned buffer of fixed capacity.
pub struct Block {
    memory: Vec<u8>,
    start: usize,
    bytes_max: usize,
}

impl Block {
    /// A block that holds up to `bytes_max` bytes, rounded up to whole pages.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.next_multiple_of(PAGE_BYTES);
        let mut memory: Vec<u8> = Vec::with_capacity(bytes_max + PAGE_BYTES);
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        assert!(start < PAGE_BYTES, "a byte pointer can always be aligned to a page");
        memory.resize(start, 0);
        Self { memory, start, bytes_max }
    }

    /// Bytes appended so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Whether nothing was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can still be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes_max - self.len()
    }

    /// The bytes appended so far; their address is a multiple of [`PAGE_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..).unwrap_or(&[])
    }

    /// The same, to be patched in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).unwrap_or(&mut [])
    }

    /// Appends `bytes`; returns false, and appends nothing, when they do not fit.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.room();
        if fits {
            // Within the capacity reserved at the start, so the memory does not move.
            self.memory.extend_from_slice(bytes);
        }
        fits
    }

    /// Appends zeros up to the next page boundary.
    pub fn pad(&mut self) {
        let padded = self.len().next_multiple_of(PAGE_BYTES);
        self.memory.resize(self.start + padded, 0);
    }

    /// Forgets the contents and keeps the memory.
    pub fn clear(&mut self) {
        self.memory.truncate(self.start);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} of {} bytes)", self.len(), self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_bounded() {
        let mut block = Block::new(5000);
        assert_eq!(block.room(), 2 * PAGE_BYTES);
        assert!(block.push(&[7; 5000]));
        assert!(!block.push(&[7; 4000]));
        block.pad();
        assert_eq!(block.len(), 2 * PAGE_BYTES);
        assert_eq!(block.bytes().as_ptr().align_offset(PAGE_BYTES), 0);
        assert_eq!(block.bytes().last(), Some(&0));
        block.clear();
        assert!(block.is_empty());
    }
}
