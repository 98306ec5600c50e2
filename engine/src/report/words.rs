//! What others said, made fit to be shown: a remote host's reply, an address, a log line.
//!
//! Called by the rest of `report`. The bytes are hostile: they come from whatever answered. What
//! comes out is one line without controls, without the marks that turn the direction of writing,
//! and not longer than asked for. Nothing fails.

use core::fmt::Write as _;
use std::borrow::Cow;

/// The most of a remote host's words, or of a log line, that a report shows.
pub const WORDS_BYTES_MAX: usize = 1000;
/// The most of a name or an address; the longest that SMTP takes are shorter.
pub(super) const NAME_BYTES_MAX: usize = 1024;
/// A word that is longer is broken: a line must not reach 998 bytes.
const WORD_BYTES_MAX: usize = 500;
/// Stands where something was cut off.
const CUT: &str = "[...]";

/// The words as people may see them, in at most `max` bytes.
#[must_use]
pub(super) fn shown(bytes: &[u8], max: usize) -> String {
    let mut out = String::new();
    // Not more is looked at than could be shown: a byte that is no letter becomes three.
    let front = bytes.get(..max).unwrap_or(bytes);
    for c in String::from_utf8_lossy(front).chars() {
        match c {
            c if c.is_whitespace() || c.is_control() => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c if is_invisible(c) => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    let whole = front.len() == bytes.len();
    cut(&mut out, max, whole);
    out
}

/// The words as a field of US-ASCII can hold them: other characters as RFC 6533 §3 writes those of
/// addresses, `\x{E9}`.
#[must_use]
pub(super) fn shown_in_ascii(bytes: &[u8], max: usize) -> String {
    let text = shown(bytes, max);
    let mut out = in_ascii(&text).into_owned();
    cut(&mut out, max, true);
    out
}

/// RFC 6533 §3: an address of type utf-8 where only US-ASCII can stand.
#[must_use]
pub(super) fn in_ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    Cow::Owned(out)
}

/// The words with none so long that it could not be folded.
#[must_use]
pub(super) fn foldable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word_bytes = 0;
    for c in text.chars() {
        word_bytes = if c == ' ' { 0 } else { word_bytes + c.len_utf8() };
        if word_bytes > WORD_BYTES_MAX {
            out.push(' ');
            word_bytes = c.len_utf8();
        }
        out.push(c);
    }
    out
}

fn cut(text: &mut String, max: usize, whole: bool) {
    if text.len() > max || !whole {
        let mut end = max.saturating_sub(CUT.len()).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    let end = text.trim_end().len();
    text.truncate(end);
}

/// Marks that take no room or turn the direction of what follows: a name can hide in them.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_one_line_that_hides_nothing() {
        for (bytes, text) in [
            (&b"550 5.1.1 no such user"[..], "550 5.1.1 no such user"),
            (b"  550\r\nX-Evil: 1\0\tend \r\n", "550 X-Evil: 1 end"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            ("a\u{202e}b\u{85}c\u{2028}d".as_bytes(), "a\u{fffd}b c d"),
            (b"", ""),
        ] {
            assert_eq!(shown(bytes, 100), text);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(shown(b"0123456789", 10), "0123456789");
        assert_eq!(shown(b"0123456789a", 10), "01234[...]");
        assert_eq!(shown("ééééééééé".as_bytes(), 10), "éé[...]");
        assert_eq!(shown_in_ascii("é".as_bytes(), 10), "\\x{E9}");
        assert_eq!(
            shown_in_ascii("éé".as_bytes(), 10),
            "\\x{E9[...]".get(..5).unwrap().to_owned() + "[...]"
        );
        assert_eq!(foldable(&"x".repeat(1200)).split(' ').map(str::len).max(), Some(500));
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_short_line(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for text in [shown(&bytes, 64), shown_in_ascii(&bytes, 64)] {
                prop_assert!(text.len() <= 64);
                prop_assert!(!text.chars().any(char::is_control));
            }
            prop_assert!(shown_in_ascii(&bytes, 64).is_ascii());
        }
    }
}
