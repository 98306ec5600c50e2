//! Which messages of a maildrop DELE has marked.
//!
//! Filled by the session, handed to the driver at QUIT. Holds one bit per message, and nothing at
//! all until the first message is marked; the limit is the size of the maildrop.

/// A set of message indices, counted from 0.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Deletions {
    bits: Vec<u64>,
    count: u32,
    octets: u64,
}

impl Deletions {
    /// How many messages are marked.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The sum of the sizes of the marked messages.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether the message at `index` is marked.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let (word, bit) = place(index);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Marks the message at `index`, of `octets` octets. Returns false when it was marked before.
    pub(super) fn insert(&mut self, index: u32, octets: u64) -> bool {
        let (word, bit) = place(index);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let Some(bits) = self.bits.get_mut(word) else { return false };
        if *bits & bit != 0 {
            return false;
        }
        *bits |= bit;
        self.count += 1;
        self.octets += octets;
        true
    }

    /// The marked indices, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).step_by(64).zip(&self.bits).flat_map(|(first, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }
}

impl core::fmt::Debug for Deletions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn place(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(indices in prop::collection::vec(0u32..400, 0..60)) {
            let mut set = BTreeSet::new();
            let mut deletions = Deletions::default();
            for &index in &indices {
                prop_assert_eq!(deletions.insert(index, 3), set.insert(index));
            }
            prop_assert_eq!(deletions.count() as usize, set.len());
            prop_assert_eq!(deletions.octets(), 3 * set.len() as u64);
            prop_assert!((0..500).all(|i| deletions.contains(i) == set.contains(&i)));
            prop_assert!(deletions.iter().eq(set));
        }
    }
}
