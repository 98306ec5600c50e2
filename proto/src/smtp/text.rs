//! Short texts that a session keeps: the client's name, and an address until it is answered for.
//!
//! Used by the server session only. Up to [`INLINE_BYTES`] stand in the value itself, so that an
//! ordinary session has nothing on the heap; a longer text, which the grammar bounds, is boxed.

use core::fmt;

/// The most bytes that are kept without the heap; covers nearly every address and host name.
pub(crate) const INLINE_BYTES: usize = 62;

/// A short immutable text.
pub(crate) enum Text {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Boxed(Box<str>),
}

impl Text {
    // copy: the window that the text stands in may be gone when the answer comes.
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(front), Ok(len)) => {
                front.copy_from_slice(text.as_bytes());
                Self::Inline { len, bytes }
            }
            _ => Self::Boxed(text.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Boxed(text) => text.as_bytes(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_short_and_long_texts() {
        for len in [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 255] {
            let text = "é".repeat(len / 2) + &"x".repeat(len % 2);
            let kept = Text::new(&text);
            assert_eq!(kept.as_str(), text);
            assert_eq!(matches!(kept, Text::Inline { .. }), len <= INLINE_BYTES);
        }
        assert!(size_of::<Text>() <= 64);
    }
}
