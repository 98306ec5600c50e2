//! A count of byte copies, kept per thread so that the hot path pays one addition.
//!
//! Store and engine call [`copied`] on the line that copies message bytes, beside its `// copy:`
//! comment. The simulator reads the count around each task and books it to the task's shard, so
//! that "copies per message" can be held in `tuning/budgets.toml`. Elsewhere nobody reads it. It
//! wraps around rather than fails.

use core::cell::Cell;

/// How often, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Calls of [`copied`].
    pub copies: u64,
    /// Bytes that these calls named.
    pub bytes: u64,
}

thread_local! {
    static COPIED: Cell<Copied> = const { Cell::new(Copied { copies: 0, bytes: 0 }) };
}

/// Notes that the caller has copied `bytes` bytes of a message.
pub fn copied(bytes: usize) {
    COPIED.with(|count| {
        let Copied { copies, bytes: before } = count.get();
        count.set(Copied {
            copies: copies.wrapping_add(1),
            bytes: before.wrapping_add(bytes as u64),
        });
    });
}

/// What this thread has counted so far, and starts anew from zero.
#[must_use]
pub fn take() -> Copied {
    COPIED.with(Cell::take)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_taken() {
        let _ = take();
        copied(3);
        copied(4);
        assert_eq!(take(), Copied { copies: 2, bytes: 7 });
        assert_eq!(take(), Copied::default());
    }
}
