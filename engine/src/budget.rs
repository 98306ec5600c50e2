//! The memory that messages take while somebody looks at them, all messages of a shard together:
//! one budget for filters, one for the header sections that are checked.
//!
//! Whoever keeps bytes of a message charges them first. What does not fit is not kept; the sum
//! never grows beyond the limit.

use core::cell::Cell;
use std::rc::Rc;

/// The memory of a shard; arbitrary, for 64 messages of the largest size that is asked about by
/// default. Header sections are some kilobytes.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// There is no memory left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// What all messages of a shard hold for one purpose.
#[derive(Clone, Debug, Default)]
pub struct Budget(Rc<Cell<usize>>);

impl Budget {
    /// For a message that holds nothing yet.
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge { sum: Rc::clone(&self.0), bytes: 0 }
    }

    /// What is held now.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.0.get()
    }
}

/// What one message holds, given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    sum: Rc<Cell<usize>>,
    bytes: usize,
}

impl Charge {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`Full`], and nothing was taken.
    pub fn add(&mut self, bytes: usize) -> Result<(), Full> {
        let sum = self.sum.get() + bytes;
        if sum > BYTES_MAX {
            return Err(Full);
        }
        self.sum.set(sum);
        self.bytes += bytes;
        Ok(())
    }

    /// Gives all of it back.
    pub fn clear(&mut self) {
        self.sum.set(self.sum.get() - self.bytes);
        self.bytes = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_messages_hold_together_is_bounded_and_given_back() {
        let budget = Budget::default();
        let (mut one, mut other) = (budget.charge(), budget.charge());
        assert_eq!(one.add(BYTES_MAX - 1), Ok(()));
        assert_eq!((other.add(2), other.add(1), other.add(1)), (Err(Full), Ok(()), Err(Full)));
        one.clear();
        assert_eq!((budget.bytes(), other.add(BYTES_MAX - 1)), (1, Ok(())));
        drop((one, other));
        assert_eq!(budget.bytes(), 0);
    }
}
