//! Memory that the threads world shares: vCPU threads write their own row, the publisher at `sched_switch`
//! reads one word of it, the agent reads all of it.
//!
//! | map | type | content |
//! |---|---|---|
//! | `SLOT_PAGES` | array, memory-mapped | one [`crate::slot::SlotPage`] per VM |
//! | `ROWS` | array, memory-mapped | one [`VcpuRow`] per vCPU thread |
//! | `KERNEL_ROWS` | array, memory-mapped | one [`KernelRow`] per vCPU thread, written by the publisher |
//! | `SWITCH_RINGS` | array, memory-mapped | one [`SwitchRing`] per CPU, written by the publisher |
//! | `CONTROL` | array, memory-mapped | one [`Control`] |
//! | `TID_TO_ROW` | hash | registered threads |

use crate::classifier::Classifier;
use crate::incident::{Incident, SwitchIncident};
use crate::ring::Ring;
use crate::table::Table;

/// VMs that fit.
pub const MAX_VMS: u32 = 16;
/// vCPU threads that fit, over all VMs.
pub const MAX_ROWS: u32 = 128;
/// CPUs whose switches are recorded.
pub const MAX_CPUS: u32 = 512;

/// Where a vCPU thread is in its passage through a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// In no lock operation.
    Idle = 0,
    /// Refused a ticket, waiting for the next quantum.
    Deferring = 1,
    /// Between reading its ids for the take and having the ticket.
    Taking = 2,
    /// Has a ticket and spins.
    Waiting = 3,
    /// Its turn came; between that and having read its ids for the acquire.
    Acquiring = 4,
    /// Holds the lock.
    Holding = 5,
    /// Between reading its ids for the release and having released.
    Releasing = 6,
}

impl Phase {
    /// From its number.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Idle,
            1 => Self::Deferring,
            2 => Self::Taking,
            3 => Self::Waiting,
            4 => Self::Acquiring,
            5 => Self::Holding,
            6 => Self::Releasing,
            _ => return None,
        })
    }

    /// As shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Deferring => "deferring",
            Self::Taking => "taking",
            Self::Waiting => "waiting",
            Self::Acquiring => "acquiring",
            Self::Holding => "holding",
            Self::Releasing => "releasing",
        }
    }
}

/// `{phase, lock, ticket, seq}` in one 64-bit word, so that the publisher reads a consistent state.
///
/// | bits | content |
/// |---|---|
/// | 61..64 | [`Phase`] |
/// | 48..61 | number of the lock within its VM |
/// | 32..48 | ticket, low 16 bits |
/// | 0..32 | episode number |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(pub u64);

impl Word {
    /// Packs the parts; `lock` and `ticket` are cut to their bits.
    #[inline(always)]
    pub const fn new(phase: Phase, lock: u32, ticket: u32, seq: u32) -> Self {
        Self(
            (phase as u64) << 61 | (lock as u64 & 0x1fff) << 48 | (ticket as u64 & 0xffff) << 32 | seq as u64,
        )
    }

    /// Bits of the phase.
    #[inline(always)]
    pub const fn phase_bits(self) -> u64 {
        self.0 >> 61
    }

    /// The phase, if it is one.
    pub const fn phase(self) -> Option<Phase> {
        Phase::from_bits(self.phase_bits())
    }

    /// Number of the lock.
    pub const fn lock(self) -> u32 {
        (self.0 >> 48) as u32 & 0x1fff
    }

    /// Low 16 bits of the ticket.
    pub const fn ticket(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    /// Episode number.
    #[inline(always)]
    pub const fn seq(self) -> u32 {
        self.0 as u32
    }
}

/// Why a vCPU thread lost its pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OutCause {
    /// Its quantum ended: another vCPU's turn.
    Quantum = 0,
    /// The agent or the dashboard came in.
    Observer = 1,
    /// Anything else on this machine came in, or the VM was paused for it.
    Host = 2,
    /// It slept.
    Blocked = 3,
    /// It yielded.
    Yielded = 4,
}

/// Number of [`OutCause`]s.
pub const NR_OUT_CAUSES: usize = 5;

impl OutCause {
    /// All causes in order of their numbers.
    pub const ALL: [Self; NR_OUT_CAUSES] =
        [Self::Quantum, Self::Observer, Self::Host, Self::Blocked, Self::Yielded];

    /// As shown to people and in CSV.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quantum => "quantum",
            Self::Observer => "observer",
            Self::Host => "host",
            Self::Blocked => "blocked",
            Self::Yielded => "yielded",
        }
    }
}

/// Records in a vCPU thread's incident ring.
pub const INCIDENT_RING: usize = 256;
/// Records in a CPU's switch ring.
pub const SWITCH_RING: usize = 1024;
/// Rows of a thread's own per-lock and per-caller tables, that of all others included.
pub const THREAD_TABLE_ROWS: usize = 17;

/// Ring of switches that took a vCPU off in mid-episode.
pub type SwitchRing = Ring<SwitchIncident, SWITCH_RING>;

/// One vCPU thread's row: written by that thread alone (the tail of `incidents` by the agent).
#[repr(C, align(4096))]
pub struct VcpuRow {
    /// [`Word`].
    pub word: u64,
    /// Lock operations completed, counted even when nobody observes.
    pub operations: u64,
    pad: [u64; 6],
    /// The classifier, fed while [`Control::tracing`] is not zero.
    pub classifier: Classifier,
    /// Totals per lock.
    pub locks: Table<THREAD_TABLE_ROWS>,
    /// Totals per caller.
    pub callers: Table<THREAD_TABLE_ROWS>,
    /// Incidents, joined with [`SwitchIncident`]s by episode number.
    pub incidents: Ring<Incident, INCIDENT_RING>,
}

/// What the publisher knows about one vCPU thread.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct KernelRow {
    /// VM and slot to publish into; `registered` says whether they are set.
    pub vm: u32,
    /// Slot within the VM's page.
    pub slot: u32,
    /// 1 once the loader has filled in `vm` and `slot`.
    pub registered: u32,
    /// Zero.
    pub reserved: u32,
    /// Sum of finished dispatches, ns on a pCPU.
    pub on_ns: u64,
    /// Switch-ins.
    pub dispatches: u64,
    /// Switch-outs by [`OutCause`].
    pub outs: [u64; NR_OUT_CAUSES],
    /// Switch-outs more than a tick before the published end, sleeps and yields left out.
    pub early: u64,
    /// Phase and episode number of the latest incident: one incident per episode and phase.
    pub last_recorded: u64,
    /// [`OutCause`] of the latest switch-out.
    pub last_cause: u64,
    /// Ticks left of the quantum at the latest switch-in.
    pub ticks_in: u64,
    /// 1 if a tick was due at the latest switch-in whose interrupt had not come yet.
    pub tick_pending_in: u64,
    /// Preempted waiters, by the kernel's own count, ring full or not.
    pub waiters: u64,
    /// Preempted holders.
    pub holders: u64,
    /// Switches in one of the named windows (taking, acquiring, releasing).
    pub edges: u64,
}

/// Settings and gates, one for the whole world.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Control {
    /// 1 = vCPU threads feed their classifiers, 0 = nobody wants to know.
    pub tracing: u32,
    /// Process id of the observer that is attached; 0 = none.
    pub observer_pid: u32,
    /// [`GATE_WAIT`], [`GATE_RUN`] or [`GATE_STOP`].
    pub gate: u32,
    /// Zero.
    pub reserved: u32,
    /// Length of a scheduler tick, ns.
    pub tick_ns: u64,
    /// `CLOCK_MONOTONIC` modulo `tick_ns` at a tick.
    pub tick_phase_ns: u64,
    /// Ticks of a full quantum.
    pub quantum_ticks: u64,
    /// When the next host window begins, in which the VMs are paused and the machine's other work (the
    /// observer's too) runs: a quantum that would reach beyond it is published as ending there. 0 = none.
    pub host_window_ns: u64,
    /// Length of a host window, ns.
    pub host_window_len_ns: u64,
    /// From the beginning of one host window to that of the next, ns.
    pub host_window_every_ns: u64,
    /// When the gate opened and the run shall end, `CLOCK_MONOTONIC` ns; 0 before the gate opens.
    pub started_ns: u64,
    /// See `started_ns`.
    pub ends_ns: u64,
}

/// Value of [`Control::gate`]: wait.
pub const GATE_WAIT: u32 = 0;
/// Value of [`Control::gate`]: run.
pub const GATE_RUN: u32 = 1;
/// Value of [`Control::gate`]: stop.
pub const GATE_STOP: u32 = 2;

/// `TID_TO_ROW` value of a thread that observes (agent, dashboard).
pub const OBSERVER_ROW: u32 = u32::MAX;
