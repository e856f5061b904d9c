//! What was lost on the way, and whether two observers agree.

use serde::{Deserialize, Serialize};

/// What was lost on the way from the event to this snapshot. All zero = nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Incidents that found their ring full.
    pub incidents_dropped: u64,
    /// Switch records that found their ring full.
    pub switches_dropped: u64,
    /// Lock or caller rows that found their table full.
    pub table_overflowed: u64,
    /// Runs of an eBPF program that the kernel skipped (`recursion_misses`).
    pub recursion_misses: u64,
    /// Snapshots that came more than half an interval late.
    pub late_samples: u64,
    /// Episodes that could not be paired (sum over vCPUs of the `unpaired_*` counters).
    pub unpaired: u64,
    /// Episodes pushed out of a full table of open episodes.
    pub overflowed: u64,
}

impl Losses {
    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("incidents_dropped", self.incidents_dropped),
            ("switches_dropped", self.switches_dropped),
            ("table_overflowed", self.table_overflowed),
            ("recursion_misses", self.recursion_misses),
            ("late_samples", self.late_samples),
            ("unpaired", self.unpaired),
            ("overflowed", self.overflowed),
        ]
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, n)| n).sum()
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            incidents_dropped: self.incidents_dropped.saturating_sub(earlier.incidents_dropped),
            switches_dropped: self.switches_dropped.saturating_sub(earlier.switches_dropped),
            table_overflowed: self.table_overflowed.saturating_sub(earlier.table_overflowed),
            recursion_misses: self.recursion_misses.saturating_sub(earlier.recursion_misses),
            late_samples: self.late_samples.saturating_sub(earlier.late_samples),
            unpaired: self.unpaired.saturating_sub(earlier.unpaired),
            overflowed: self.overflowed.saturating_sub(earlier.overflowed),
        }
    }
}

/// The lock library's incidents joined with the kernel's by vCPU and episode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossCheck {
    /// Seen by both, same kind.
    pub agreed: u64,
    /// The switch fell between reading the ids and having the ticket.
    pub window_taking: u64,
    /// The switch fell between the turn and reading the ids for the acquire.
    pub window_acquiring: u64,
    /// The switch fell between reading the ids for the release and the release.
    pub window_releasing: u64,
    /// The episode was open when observation began or ended.
    pub window_attach: u64,
    /// A partner may have been lost to a full ring.
    pub window_dropped: u64,
    /// Not joined yet: the partner may still come.
    pub pending: u64,
    /// None of these. Anything but zero is a defect.
    pub unexplained: u64,
}

impl CrossCheck {
    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("agreed", self.agreed),
            ("window_taking", self.window_taking),
            ("window_acquiring", self.window_acquiring),
            ("window_releasing", self.window_releasing),
            ("window_attach", self.window_attach),
            ("window_dropped", self.window_dropped),
            ("pending", self.pending),
            ("unexplained", self.unexplained),
        ]
    }

    /// What came on top since `earlier`; `pending` is a momentary value and stays.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            agreed: self.agreed.saturating_sub(earlier.agreed),
            window_taking: self.window_taking.saturating_sub(earlier.window_taking),
            window_acquiring: self.window_acquiring.saturating_sub(earlier.window_acquiring),
            window_releasing: self.window_releasing.saturating_sub(earlier.window_releasing),
            window_attach: self.window_attach.saturating_sub(earlier.window_attach),
            window_dropped: self.window_dropped.saturating_sub(earlier.window_dropped),
            pending: self.pending,
            unexplained: self.unexplained.saturating_sub(earlier.unexplained),
        }
    }
}
