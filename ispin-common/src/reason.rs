//! Why a vCPU lost its quantum while it held a lock or was queued for it, although locks are informed.
//!
//! Every PSP has one reason. They are looked for in the order of [`Reason`]; the first that holds is the one.

use crate::incident::PspKind;

/// Reason of one PSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A new quantum without leaving the pCPU: the paper's rule counts it, nobody was held up.
    Renewal = 1,
    /// The ticket was taken without a published quantum, so nothing could be asked.
    Unslotted = 2,
    /// A trylock, which is never refused.
    Trylock = 3,
    /// LHP: the wait for this lock had outlived the quantum already, so what was asked at the ticket no longer held.
    Followup = 4,
    /// The published end was long gone when the ticket was taken.
    Expired = 5,
    /// Incapable, but not refused because another informed lock was held.
    Nested = 6,
    /// Incapable in spite of a deferral: the paper's locks do not ask a second time.
    Deferred = 7,
    /// Incapable when the ticket came. An informed lock had asked before, and meanwhile the queue grew (a stale queue
    /// length) or time went by; a plain ticket lock never asks.
    Incapable = 8,
    /// Preempted before the published end of the quantum.
    Early = 9,
    /// LHP: capable, but held for longer than csd.
    LongHold = 10,
    /// Capable, but the queue moved slower than csd per ticket.
    LongWait = 11,
    /// What would tell is not known: csd, or which of several absences was the first.
    Unknown = 12,
}

impl Reason {
    /// All, in the order in which they are looked for.
    pub const ALL: [Self; 12] = [
        Self::Renewal,
        Self::Unslotted,
        Self::Trylock,
        Self::Followup,
        Self::Expired,
        Self::Nested,
        Self::Deferred,
        Self::Incapable,
        Self::Early,
        Self::LongHold,
        Self::LongWait,
        Self::Unknown,
    ];

    /// Its name; `psp_` and the name is its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Renewal => "renewal",
            Self::Unslotted => "unslotted",
            Self::Trylock => "trylock",
            Self::Followup => "followup",
            Self::Expired => "expired",
            Self::Nested => "nested",
            Self::Deferred => "deferred",
            Self::Incapable => "incapable",
            Self::Early => "early",
            Self::LongHold => "long_hold",
            Self::LongWait => "long_wait",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of one PSP.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// LHP or LWP.
    pub kind: PspKind,
    /// Critical section duration estimate; 0 = not known.
    pub csd: u64,
    /// Whether the dispatch differs.
    pub preempted: bool,
    /// Whether the ticket was taken in a published quantum.
    pub slotted: bool,
    /// Whether it was a trylock.
    pub trylock: bool,
    /// Whether ticket and acquire lie in different quanta.
    pub waited_over: bool,
    /// Whether the take was marked as one with an expired deadline.
    pub expired: bool,
    /// Whether the take was marked as one that was not refused because of another lock.
    pub nested: bool,
    /// Whether the attempt was refused before.
    pub deferred: bool,
    /// LWP: whether the lock saw that its vCPU left before the end of its quantum.
    pub early: bool,
    /// Time of the take.
    pub take_tsc: u64,
    /// `lock_cap` at the take.
    pub cap: i64,
    /// Queue length at the take.
    pub lql: u32,
    /// LHP: time of the acquire.
    pub acquire_tsc: u64,
    /// LHP: when the vCPU left its pCPU, if it left once only.
    pub left: Option<u64>,
}

impl Passage {
    /// Planned end of the quantum in which the ticket was taken; `None` = it has none, or csd is not known.
    pub fn planned_end(&self) -> Option<u64> {
        if self.cap == i64::MAX || self.csd == 0 {
            return None;
        }
        let need = (u64::from(self.lql) + 1).wrapping_mul(self.csd);
        Some(self.take_tsc.wrapping_add(need).wrapping_add(self.cap as u64))
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        if !self.preempted {
            Reason::Renewal
        } else if !self.slotted {
            Reason::Unslotted
        } else if self.trylock {
            Reason::Trylock
        } else if matches!(self.kind, PspKind::Lhp) && self.waited_over {
            Reason::Followup
        } else if self.expired {
            Reason::Expired
        } else if self.nested {
            Reason::Nested
        } else if self.cap <= 0 {
            if self.deferred { Reason::Deferred } else { Reason::Incapable }
        } else if self.cap == i64::MAX {
            Reason::Early
        } else {
            match self.kind {
                PspKind::Lwp if self.early => Reason::Early,
                PspKind::Lwp => Reason::LongWait,
                PspKind::Lhp => self.reason_of_capable_holder(),
            }
        }
    }

    fn reason_of_capable_holder(&self) -> Reason {
        let (Some(left), Some(end)) = (self.left, self.planned_end()) else { return Reason::Unknown };
        if left < end {
            Reason::Early
        } else if left >= self.acquire_tsc.saturating_add(self.csd) {
            Reason::LongHold
        } else {
            Reason::LongWait
        }
    }
}
