//! A set of small numbers, a bit for each: which slots are used. Grows to the highest number that
//! was set; called by the thread of the index.

/// The set.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn has(&self, n: u32) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, n: u32) {
        let word = (n / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (n % 64);
        }
    }

    pub(super) fn clear(&mut self, n: u32) {
        if let Some(word) = self.0.get_mut((n / 64) as usize) {
            *word &= !(1 << (n % 64));
        }
    }

    /// The first number from `from` on that is not in the set.
    pub(super) fn first_clear(&self, from: u32) -> u32 {
        let mut n = from;
        while let Some(word) = self.0.get((n / 64) as usize) {
            // What lies below counts as set.
            let rest = word | ((1 << (n % 64)) - 1);
            if rest != u64::MAX {
                return n / 64 * 64 + rest.trailing_ones();
            }
            n = (n / 64 + 1) * 64;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(
            steps in prop::collection::vec((any::<bool>(), 0_u32..200), 0..300),
            from in 0_u32..260,
        ) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for (put, n) in steps {
                if put {
                    bits.set(n);
                    set.insert(n);
                } else {
                    bits.clear(n);
                    set.remove(&n);
                }
            }
            prop_assert!((0..260).all(|n| bits.has(n) == set.contains(&n)));
            let first = (from..).find(|n| !set.contains(n)).unwrap();
            prop_assert_eq!(bits.first_clear(from), first);
        }
    }
}
