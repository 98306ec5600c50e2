//! The simulator's source of chance: xoshiro256** seeded by splitmix64.
//!
//! Written here because the trace of a seed must not change when a crate does. Not for secrets.

/// A generator; the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// One in a million: the unit of all chances in the simulator's options.
pub const MILLION: u32 = 1_000_000;

impl Random {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut z = seed;
        let state = [(); 4].map(|()| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        });
        Self { state }
    }

    /// A second generator whose numbers do not depend on how this one is used afterwards.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // WHY: it never ends, so it is no iterator
    pub fn next(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let s2 = s2 ^ s0;
        let s3 = s3 ^ s1;
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        result
    }

    /// A number in `0..bound`, 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the multiplication is below bound / 2^64, which no test can see.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn within(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// An index below `count`, 0 when `count` is 0.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// True `per_million` times in a million; draws nothing when that is never.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(u64::from(MILLION)) < u64::from(per_million)
    }

    /// True every other time.
    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Fills `into`.
    pub fn fill(&mut self, into: &mut [u8]) {
        for piece in into.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_and_within_bounds() {
        let (mut a, mut b, mut c) = (Random::new(7), Random::new(7), Random::new(8));
        let mut same = 0;
        for _ in 0..1000 {
            let x = a.next();
            assert_eq!(x, b.next());
            same += u32::from(x == c.next());
            assert!(a.below(10) < 10 && b.below(10) < 10);
            let n = a.within((5, 7));
            assert!((5..=7).contains(&n));
            assert_eq!(n, b.within((5, 7)));
        }
        assert_eq!(same, 0);
        assert_eq!(a.below(0), 0);
        assert!(!a.chance(0) && a.chance(MILLION));
    }

    #[test]
    fn chances_are_about_right() {
        let mut random = Random::new(1);
        let hits = (0..100_000).filter(|_| random.chance(250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        let heads = (0..100_000).filter(|_| random.coin()).count();
        assert!((49_000..51_000).contains(&heads), "{heads}");
    }
}
