//! What a mail server and a filter agree on before anything else: version, actions and steps.

use core::ops::BitOr;

/// The version that is spoken: that of libmilter since 2008.
pub const VERSION: u32 = 6;
/// The oldest one that is.
pub const VERSION_MIN: u32 = 2;

/// What a filter may do with a message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Actions(u32);

impl Actions {
    /// Nothing but to judge it.
    pub const NONE: Self = Self(0);
    /// Add header fields.
    pub const ADD_FIELDS: Self = Self(0x01);
    /// Replace the body.
    pub const REPLACE_BODY: Self = Self(0x02);
    /// Add recipients.
    pub const ADD_RECIPIENTS: Self = Self(0x04);
    /// Remove recipients.
    pub const DELETE_RECIPIENTS: Self = Self(0x08);
    /// Change and remove header fields.
    pub const CHANGE_FIELDS: Self = Self(0x10);
    /// Have the message set aside.
    pub const QUARANTINE: Self = Self(0x20);
    /// Replace the sender.
    pub const CHANGE_SENDER: Self = Self(0x40);
    /// Add recipients with parameters of RCPT.
    pub const ADD_RECIPIENTS_WITH: Self = Self(0x80);

    /// Those that a filter has named.
    pub(super) const fn of(bits: u32) -> Self {
        Self(bits)
    }

    /// As they stand on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `others` are among them.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitOr for Actions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a filter does not want to hear of, or does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Steps(u32);

impl Steps {
    /// The server knows [`Reply::Skip`](super::reply::Reply::Skip).
    pub(super) const SKIP: Self = Self(0x400);
    /// Values of header fields go with the white space in front of them.
    pub(super) const LEADING_SPACE: Self = Self(0x0010_0000);
    /// UNKNOWN is not sent; filters before version 3 do not know it.
    pub(super) const NO_UNKNOWN: Self = Self(0x100);
    /// DATA is not sent; filters before version 4 do not know it.
    pub(super) const NO_DATA: Self = Self(0x200);
    /// All that may be left out or left unanswered, and the two above. Not among them: recipients
    /// that the server has refused are never told of, and no packet is longer than 64 KiB.
    pub(super) const OFFERED: Self = Self(0x001f_f7ff);

    pub(super) const fn of(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    pub(super) const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitOr for Steps {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What both sides have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Agreed {
    pub(super) actions: Actions,
    pub(super) steps: Steps,
}

impl Agreed {
    /// Takes what a filter answers to an offer of `actions`.
    pub(super) fn of(
        (version, actions, steps): (u32, u32, u32),
        offered: Actions,
    ) -> Result<Self, super::Failure> {
        use super::Failure;
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(Failure::Version(version));
        }
        // Some filters name all that they know, whatever they are offered (rspamd), and do without.
        // One that does not fails when it uses what was not offered.
        let actions = Actions::of(actions & offered.bits());
        let mut steps = Steps::of(steps);
        if !Steps::OFFERED.contains(steps) {
            return Err(Failure::Steps(steps.bits() & !Steps::OFFERED.bits()));
        }
        if version < 3 {
            steps = steps | Steps::NO_UNKNOWN;
        }
        if version < 4 {
            steps = steps | Steps::NO_DATA;
        }
        Ok(Self { actions, steps })
    }
}
