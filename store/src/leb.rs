//! Numbers as LEB128, least significant group first, and pieces with their length in front: how
//! rows of the index and states of the queue are written.
//!
//! Readers take nothing for granted: what ends early, or goes on after its end, is an error with a
//! reason.

/// Appends `value`.
pub(crate) fn put(row: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        row.push(value as u8 | 0x80);
        value >>= 7;
    }
    row.push(value as u8);
}

pub(crate) fn put_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    put(row, bytes.len() as u64);
    row.extend_from_slice(bytes);
}

pub(crate) fn put_text(row: &mut Vec<u8>, text: &str) {
    put_bytes(row, text.as_bytes());
}

/// What is left of a row.
pub(crate) struct Rest<'a>(pub(crate) &'a [u8]);

impl<'a> Rest<'a> {
    pub(crate) fn number(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("it ends early")?;
            self.0 = rest;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err("a number is too large");
            }
            value |= group << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    pub(crate) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, &'static str> {
        T::try_from(self.number()?).map_err(|_| "a number is too large")
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let bytes: usize = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(bytes).ok_or("it ends early")?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, &'static str> {
        core::str::from_utf8(self.bytes()?).map_err(|_| "text is not UTF-8")
    }

    pub(crate) fn end(self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("it goes on after its end") }
    }
}
