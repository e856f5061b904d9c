//! One problematic spin preemption, as it is logged.

use serde::{Deserialize, Serialize};

/// One problematic spin preemption, for the log and the timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentRecord {
    /// `lhp` or `lwp`.
    pub kind: String,
    /// Name of the VM.
    pub vm: String,
    /// vCPU.
    pub vcpu: u32,
    /// Episode number of this vCPU.
    pub seq: u32,
    /// Name of the lock.
    pub lock: String,
    /// Name of the caller.
    pub caller: String,
    /// Ticket.
    pub ticket: u32,
    /// Queue length at the take.
    pub lql: u32,
    /// When the ticket was taken.
    pub take: u64,
    /// Take (LWP) or acquire (LHP): where the problematic stretch began.
    pub from: u64,
    /// Acquire (LWP) or release (LHP): where it ended.
    pub to: u64,
    /// Quantum at `from`.
    pub from_slice: u32,
    /// Quantum at `to`.
    pub to_slice: u32,
    /// Planned end of the quantum in which it began, if known.
    pub planned_end: Option<u64>,
    /// When the vCPU really left its pCPU, if known.
    pub real_end: Option<u64>,
    /// When it was back.
    pub back: u64,
    /// Time off the pCPU.
    pub off: u64,
    /// Time lost to others.
    pub lost: u64,
    /// Why it happened although locks are informed: a name of [`ispin_common::reason::Reason`].
    #[serde(default)]
    pub reason: String,
    /// The dispatch differs too.
    pub preempted: bool,
    /// The lock blocked or yielded.
    pub blocked: bool,
    /// The turn came while off the pCPU.
    pub harmful: bool,
    /// Why it lost its pCPU, if known: `quantum`, `observer`, `host`, `blocked`, `yielded`.
    pub cause: String,
    /// Who waited behind it meanwhile, if known: vCPU and time waited.
    pub victims: Vec<Victim>,
}

/// A vCPU that waited behind a preempted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// vCPU.
    pub vcpu: u32,
    /// When its ticket was taken.
    pub take: u64,
    /// When it got the lock.
    pub acquire: u64,
}
