//! Reading and writing of stored bytes: little-endian, length-checked, a version in front.
//!
//! Used by everything in `seal` that is stored. Lengths are checked before anything is allocated;
//! decoding takes exactly what encoding wrote and refuses all else by an error that names the part.

use super::error::SealError;

/// The newest version of every stored form, and the only one so far.
pub(super) const VERSION: u8 = 1;

/// What is left to read, and what it is, for errors.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    object: &'static str,
}

impl<'a> Reader<'a> {
    /// Begins to read an `object`; refuses other versions than [`VERSION`].
    pub(super) fn new(bytes: &'a [u8], object: &'static str) -> Result<Self, SealError> {
        let mut reader = Self { rest: bytes, object };
        match reader.byte()? {
            VERSION => Ok(reader),
            found => Err(SealError::Version { object, found }),
        }
    }

    pub(super) fn malformed(&self) -> SealError {
        SealError::Malformed(self.object)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], SealError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SealError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, SealError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn short(&mut self) -> Result<u16, SealError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32, SealError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u64, SealError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes with their length in front.
    pub(super) fn piece(&mut self, bytes_max: usize) -> Result<&'a [u8], SealError> {
        let count = usize::from(self.short()?);
        if count > bytes_max {
            return Err(SealError::TooLarge(self.object));
        }
        self.take(count)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), SealError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// Writes bytes with their length in front.
///
/// # Errors
/// [`SealError::TooLarge`] when they are more than `bytes_max` or than a length can say.
pub(super) fn put_piece(
    into: &mut Vec<u8>,
    piece: &[u8],
    bytes_max: usize,
    object: &'static str,
) -> Result<(), SealError> {
    match u16::try_from(piece.len()) {
        Ok(count) if piece.len() <= bytes_max => {
            into.extend_from_slice(&count.to_le_bytes());
            into.extend_from_slice(piece);
            Ok(())
        }
        _ => Err(SealError::TooLarge(object)),
    }
}
