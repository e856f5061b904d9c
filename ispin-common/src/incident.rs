//! One problematic spin preemption as a record, in the two ways it can be seen.

use crate::reason::Reason;
use crate::slot::Ids;

/// LHP or LWP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PspKind {
    /// Lock holder preemption.
    Lhp = 1,
    /// Lock waiter preemption.
    Lwp = 2,
}

/// What the classifier saw: one LHP or LWP of one episode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Incident {
    /// A [`PspKind`] as a number.
    pub kind: u8,
    /// Context level.
    pub level: u8,
    /// Marks, the constants of this type.
    pub flags: u8,
    /// A [`Reason`] as a number.
    pub reason: u8,
    /// vCPU, filled in by who owns the ring.
    pub vcpu: u32,
    /// Address of the lock.
    pub lock: u64,
    /// Caller that took the ticket.
    pub ip: u64,
    /// Ids at the take (LWP) or the acquire (LHP).
    pub from_ids: Ids,
    /// Ids at the acquire (LWP) or the release (LHP).
    pub to_ids: Ids,
    /// Time of the take (LWP) or the acquire (LHP).
    pub from_tsc: u64,
    /// Time of the acquire (LWP) or the release (LHP).
    pub to_tsc: u64,
    /// `dispatch_start` at `to_tsc`.
    pub start: u64,
    /// Time off the pCPU between the two.
    pub off: u64,
    /// Time lost to others: the lock stood free (harmful LWP) or held by an absent vCPU (LHP).
    pub lost: u64,
    /// `lock_cap` at the take; with `lql` and csd it gives the planned end of the quantum.
    pub cap: i64,
    /// Time of the take.
    pub take_tsc: u64,
    /// Queue length at the take.
    pub lql: u32,
    /// Ticket.
    pub ticket: u32,
    /// Episode number of this vCPU and level: joins this record with the switch that caused it.
    pub seq: u32,
    /// Zero.
    pub reserved2: u32,
}

impl Incident {
    /// The dispatch differs: really taken off its pCPU.
    pub const PREEMPTED: u8 = 1;
    /// The lock blocked or yielded.
    pub const BLOCKED: u8 = 2;
    /// The turn came while it was off its pCPU.
    pub const HARMFUL: u8 = 4;

    /// What it is, as shown to people and in JSON: `lhp` or `lwp`.
    pub const fn kind_name(&self) -> &'static str {
        if self.kind == PspKind::Lhp as u8 { "lhp" } else { "lwp" }
    }

    /// The reason, if it is one that this version knows.
    pub fn reason(&self) -> Option<Reason> {
        Reason::ALL.into_iter().find(|&reason| reason as u8 == self.reason)
    }
}

/// What the threads world's publisher saw at `sched_switch`: a vCPU thread lost its pCPU in mid-episode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SwitchIncident {
    /// The thread's phase word (`threads::Word`).
    pub word: u64,
    /// Ids before the switch-out.
    pub ids: Ids,
    /// When the dispatch began, ns.
    pub dispatch_start: u64,
    /// Published end of the quantum, ns.
    pub planned_end: u64,
    /// Real end: time of the switch, ns.
    pub real_end: u64,
    /// Who came in: thread id.
    pub next_tid: u32,
    /// Who came in: kernel priority (0..99 real-time, 100..139 normal).
    pub next_prio: u32,
    /// A `threads::OutCause` as a number.
    pub cause: u32,
    /// Row of the vCPU.
    pub row: u32,
}

const _: () = {
    assert!(core::mem::size_of::<Incident>() == 112);
    assert!(core::mem::size_of::<SwitchIncident>() == 56);
};
