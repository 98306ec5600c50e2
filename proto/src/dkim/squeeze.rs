//! White space of a body out of the way: RFC 6376 §3.4.4, within lines.
//!
//! Called by [`canon`](super::canon) with text whose last byte stays. Which bytes go can be
//! told from the two behind each, so 64 of them are looked at together, with the widest vectors
//! that the processor has. Cannot fail.

use fearless_simd::{
    Level, Select as _, Simd, SimdBase as _, SimdMask as _, dispatch, mask8x64, u8x64,
};

/// How much is looked at together.
const LANES: usize = 64;
/// A block and the two bytes behind it.
const WINDOW_BYTES: usize = LANES + 2;
/// How much fits into what is written to; arbitrary, small enough to stay in the nearest cache.
pub(super) const ROOM_BYTES: usize = 4096;

/// How many bytes at the front of `text` stay as they are; all of them, or whole blocks.
pub(super) fn clean_bytes(text: &[u8]) -> usize {
    dispatch!(Level::new(), simd => clean_bytes_by(simd, text))
}

/// Writes the form of the front of `text`; says how much of it was taken, and how much written.
pub(super) fn squeeze(text: &[u8], room: &mut [u8; ROOM_BYTES]) -> (usize, usize) {
    dispatch!(Level::new(), simd => squeeze_by(simd, text, room))
}

#[inline(always)] // WHY: compiled once for each set of vector instructions
fn clean_bytes_by<S: Simd>(simd: S, text: &[u8]) -> usize {
    let (mut at, mut padded) = (0, [0; WINDOW_BYTES]);
    while at < text.len() {
        let marks = Marks::of(simd, window(text, at, &mut padded));
        if (marks.drop | marks.tabs).any_true() {
            return at;
        }
        at += LANES;
    }
    text.len()
}

#[inline(always)] // WHY: as above
fn squeeze_by<S: Simd>(simd: S, text: &[u8], room: &mut [u8; ROOM_BYTES]) -> (usize, usize) {
    let (mut at, mut written, mut padded) = (0, 0, [0; WINDOW_BYTES]);
    while at < text.len() {
        let slot = room.get_mut(written..).and_then(|room| room.first_chunk_mut::<LANES>());
        let Some(slot) = slot else { break };
        let marks = Marks::of(simd, window(text, at, &mut padded));
        let taken = (text.len() - at).min(LANES);
        let keep = !marks.drop.to_bitmask() & (u64::MAX >> (LANES - taken));
        let spaced = marks.tabs.select(u8x64::splat(simd, b' '), marks.bytes);
        *slot = spaced.compress(mask8x64::from_bitmask(simd, keep)).into();
        written += keep.count_ones() as usize;
        at += taken;
    }
    (at, written)
}

/// The bytes from `at` on; behind the end of the text there are zeros, which lie in `padded`.
#[inline(always)]
fn window<'t>(
    text: &'t [u8],
    at: usize,
    padded: &'t mut [u8; WINDOW_BYTES],
) -> &'t [u8; WINDOW_BYTES] {
    let rest = text.get(at..).unwrap_or_default();
    if let Some(window) = rest.first_chunk() {
        return window;
    }
    for (to, from) in padded.iter_mut().zip(rest.iter().chain(core::iter::repeat(&0))) {
        *to = *from;
    }
    padded
}

/// What is to be done to a block.
struct Marks<S: Simd> {
    bytes: u8x64<S>,
    drop: mask8x64<S>,
    tabs: mask8x64<S>,
}

impl<S: Simd> Marks<S> {
    #[inline(always)]
    fn of(simd: S, window: &[u8; WINDOW_BYTES]) -> Self {
        let load = |at: usize| {
            let bytes = window.get(at..).and_then(|window| window.first_chunk::<LANES>());
            u8x64::load_array_ref(simd, bytes.unwrap_or(&[0; LANES]))
        };
        let (bytes, next, after) = (load(0), load(1), load(2));
        let tabs = bytes.simd_eq(b'\t');
        let white = bytes.simd_eq(b' ') | tabs;
        let next_white = next.simd_eq(b' ') | next.simd_eq(b'\t');
        let line_end = next.simd_eq(b'\r') & after.simd_eq(b'\n');
        // The last of a row of white space stands for all of it, unless the line ends there.
        Self { bytes, drop: white & (next_white | line_end), tabs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// The oracle: one byte after the other.
    fn naive(text: &[u8]) -> Vec<u8> {
        let is_white = |byte: Option<&u8>| byte.is_some_and(|byte| b" \t".contains(byte));
        let mut out = Vec::new();
        for (index, byte) in text.iter().enumerate() {
            let behind = &text[index + 1..];
            match is_white(Some(byte)) {
                true if is_white(behind.first()) || behind.starts_with(b"\r\n") => {}
                true => out.push(b' '),
                false => out.push(*byte),
            }
        }
        out
    }

    /// Every set of vector instructions that is certain, and those of this machine.
    fn levels() -> Vec<Level> {
        let levels = vec![Level::baseline(), Level::new()];
        #[cfg(target_arch = "x86_64")]
        let levels =
            [levels, Level::new().as_avx2().map(Level::Avx2).into_iter().collect()].concat();
        levels
    }

    fn check(text: &[u8]) {
        let due = naive(text);
        for level in levels() {
            let clean = dispatch!(level, simd => clean_bytes_by(simd, text));
            assert_eq!(text[..clean], naive(text)[..clean], "{level:?}");
            assert!(clean == text.len() || clean % LANES == 0, "{level:?} {clean}");
            let (mut out, mut rest, mut room) = (Vec::new(), text, [0; ROOM_BYTES]);
            while !rest.is_empty() {
                let (taken, written) = dispatch!(level, simd => squeeze_by(simd, rest, &mut room));
                assert!(taken > 0 && written <= taken, "{level:?}");
                out.extend_from_slice(&room[..written]);
                rest = &rest[taken..];
            }
            assert!(out == due, "{level:?} {}", text.escape_ascii());
        }
    }

    /// Each row of white space at each place of two blocks and what lies behind them.
    #[test]
    fn every_place_of_every_row() {
        for row in [&b" "[..], b"\t", b"  ", b"\t ", b" \r\n", b"\t\t\r\n", b" \r", b" \n", b"\r\n"]
        {
            for at in 0..=2 * LANES + 3 {
                for behind in [1, LANES] {
                    check(&[&vec![b'a'; at], row, &vec![b'b'; behind]].concat());
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_comes_next() {
        for bytes in [ROOM_BYTES - 1, ROOM_BYTES, ROOM_BYTES + 1, 3 * ROOM_BYTES] {
            check(&[&b" a\t".repeat(bytes / 3)[..], b"b"].concat());
            check(&[&vec![b'a'; bytes][..], b"  b"].concat());
        }
    }

    proptest! {
        #[test]
        fn any_text(text in vec(prop_oneof![
            Just(b' '), Just(b'\t'), Just(b'\r'), Just(b'\n'), any::<u8>(),
        ], 0..300)) {
            check(&[&text[..], b"."].concat());
        }
    }
}
