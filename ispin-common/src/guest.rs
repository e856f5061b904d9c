//! Memory that the guest programs share with the agent.
//!
//! | map | type | content |
//! |---|---|---|
//! | `GUEST_CONTROL` | array, memory-mapped | one [`GuestControl`] |
//! | `GUEST_STATE` | per-CPU array, key = context level | [`GuestState`] |
//! | `GUEST_LOCKS`, `GUEST_CALLERS` | per-CPU array, key = context level | [`GuestTable`] |
//! | `GUEST_RELEASES` | array, key = [`crate::table::first_place`] of the lock | [`crate::table::LastRelease`] |
//! | `GUEST_RINGS` | array, memory-mapped, key = [`ring_key`] | [`GuestRing`] |
//!
//! Every entry but the releases has one writer: a CPU at one context level. A program that an interrupt cuts
//! short is resumed after it, so levels never write to each other's entries. A release is one 64-bit store
//! by the holder of the lock.

use crate::classifier::Classifier;
use crate::event::{Event, NR_LEVELS};
use crate::incident::Incident;
use crate::ring::Ring;
use crate::slot::Ids;
use crate::table::Table;

/// Rows per table; a per-CPU map value must stay below 32 KiB.
pub const TABLE_ROWS: usize = 256;
/// Words of last releases.
pub const NR_RELEASES: u32 = 4096;
/// Records in one incident ring.
pub const INCIDENT_RING: usize = 128;

/// Totals per lock or per caller, of one CPU and context level.
pub type GuestTable = Table<TABLE_ROWS>;
/// Incidents of one CPU and context level.
pub type GuestRing = Ring<Incident, INCIDENT_RING>;

/// Settings of the guest programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuestControl {
    /// 0 = the programs ignore every event. Set to 1 once all four are attached, so that no episode loses
    /// its end to a program that was not there yet.
    pub enabled: u32,
    /// Zero.
    pub reserved: u32,
}

/// What is kept of one CPU and context level.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuestState {
    /// Open episodes and totals.
    pub classifier: Classifier,
    /// Ids at the first event with a published slot.
    pub first_ids: Ids,
    /// Ids at the latest event with a published slot.
    pub last_ids: Ids,
    /// Time of that event.
    pub last_tsc: u64,
}

impl GuestState {
    /// Notes the quantum that the event belongs to.
    #[inline(always)]
    pub fn note_quantum(&mut self, event: &Event) {
        if event.ids.published() {
            if !self.first_ids.published() {
                self.first_ids = event.ids;
            }
            self.last_ids = event.ids;
            self.last_tsc = event.tsc;
        }
    }
}

/// Key of the incident ring of `cpu` at `level`.
#[inline(always)]
pub const fn ring_key(cpu: u32, level: u32) -> u32 {
    cpu * NR_LEVELS as u32 + level
}

const _: () = {
    assert!(core::mem::size_of::<GuestTable>() < 32 << 10);
    assert!(NR_RELEASES.is_power_of_two() && TABLE_ROWS.is_power_of_two());
};
