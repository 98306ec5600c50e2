//! Planted bugs: a simulator that finds nothing must first prove that it can.
//!
//! Each is a switch of the simulated machine or of the harness, never of the engine. `--canary`
//! runs each until it is found, within [`SEEDS_MAX`] seeds.

use fsmtp_rt::sim::MILLION;

use crate::plan::Plan;

/// Each planted bug must be found by one of so many seeds.
pub(crate) const SEEDS_MAX: u64 = 1_000;

/// What can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// The disk says "stable" before it is: ack before sync.
    EarlyWrites,
    /// The disk says "written" after an error: ack on failed sync.
    SwallowedErrors,
    /// A write lands one page further.
    MisplacedWrites,
    /// A finished operation does not wake its task.
    LostWakes,
    /// Two reply lines change places.
    SwappedReplies,
    /// A byte is lost where a read was cut.
    LostBytes,
    /// The scheduler looks at something outside of the seed.
    Unseeded,
    /// The index takes a message for two.
    DoubledDelivery,
    /// The index notes a message as applied without keeping it.
    LostDelivery,
    /// The index says that it keeps what became of queued mail, and does not.
    ForgottenSettlements,
    /// The index's mark is ahead of the mail that it has persisted.
    MarkBeforeMail,
}

impl Bug {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::EarlyWrites,
        Self::SwallowedErrors,
        Self::MisplacedWrites,
        Self::LostWakes,
        Self::SwappedReplies,
        Self::LostBytes,
        Self::Unseeded,
        Self::DoubledDelivery,
        Self::LostDelivery,
        Self::ForgottenSettlements,
        Self::MarkBeforeMail,
    ];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EarlyWrites => "early-writes",
            Self::SwallowedErrors => "swallowed-errors",
            Self::MisplacedWrites => "misplaced-writes",
            Self::LostWakes => "lost-wakes",
            Self::SwappedReplies => "swapped-replies",
            Self::LostBytes => "lost-bytes",
            Self::Unseeded => "unseeded",
            Self::DoubledDelivery => "doubled-delivery",
            Self::LostDelivery => "lost-delivery",
            Self::ForgottenSettlements => "forgotten-settlements",
            Self::MarkBeforeMail => "mark-before-mail",
        }
    }

    /// The bug of that name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }

    /// Plants it in `plan`, which keeps all its faults.
    pub(crate) fn plant(self, plan: &mut Plan) {
        let bugs = &mut plan.options.bugs;
        match self {
            Self::EarlyWrites => bugs.early_writes = MILLION,
            Self::SwallowedErrors => {
                bugs.swallowed_errors = MILLION;
                plan.options.disk.write_errors = MILLION / 10;
            }
            Self::MisplacedWrites => bugs.misplaced_writes = MILLION / 20,
            Self::LostWakes => bugs.lost_wakes = MILLION / 20,
            Self::SwappedReplies => bugs.swapped_lines = MILLION / 10,
            Self::LostBytes => bugs.lost_bytes = MILLION / 100,
            Self::Unseeded => bugs.unseeded = true,
            Self::DoubledDelivery => plan.index_doubles = MILLION / 20,
            Self::LostDelivery => plan.index_drops = MILLION / 20,
            Self::ForgottenSettlements => plan.index_forgets = MILLION / 3,
            Self::MarkBeforeMail => plan.mark_only = true,
        }
    }
}
