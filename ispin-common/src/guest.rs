//! Memory that the guest programs share with the agent, and what they do with an event.
//!
//! | map | type | content |
//! |---|---|---|
//! | `GUEST_CONTROL` | array, memory-mapped | one [`GuestControl`] |
//! | `GUEST_LANES` | array, memory-mapped, key = [`lane_key`] | [`GuestLane`] |
//! | `GUEST_RELEASES` | array, key = [`crate::table::first_place`] of the lock | [`crate::table::LastRelease`] |
//! | `GUEST_RINGS` | array, memory-mapped, key = [`lane_key`] | [`GuestRing`] |
//!
//! Every entry but the releases has one writer: a CPU at one context level. A program that an interrupt cuts
//! short is resumed after it, so levels never write to each other's entries. A release is one 64-bit store
//! by the holder of the lock.

use crate::classifier::{Classifier, MAX_OPEN, Outcome};
use crate::event::{Event, EventKind, NR_LEVELS};
use crate::incident::Incident;
use crate::ring::Ring;
use crate::slot::Ids;
use crate::table::Table;

/// Rows per table.
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

/// What is kept of one CPU at one context level. All zeroes is a valid empty one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct GuestLane {
    /// Open episodes and totals.
    pub classifier: Classifier,
    /// Ids at the first event with a published slot.
    pub first_ids: Ids,
    /// Ids at the latest event with a published slot.
    pub last_ids: Ids,
    /// Time of the first event with these latest ids.
    pub last_tsc: u64,
    /// Rows of the open episodes, from acquire to release.
    places: [Places; MAX_OPEN],
    /// Totals per lock.
    pub locks: GuestTable,
    /// Totals per caller.
    pub callers: GuestTable,
}

/// Where an episode's rows are, so that its release need not look for them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Places {
    lock: u32,
    caller: u32,
}

impl GuestLane {
    /// Takes in one event. `last_release` tells when `event.lock` was last released by anybody, if known; it is asked
    /// only where an acquire ends a preempted wait.
    #[inline(always)]
    pub fn observe(&mut self, event: &Event, last_release: impl FnOnce() -> Option<u64>) -> Option<Incident> {
        self.note_quantum(event);
        match event.kind {
            EventKind::Take => {
                let outcome = self.classifier.on_take(event);
                // Without a queue a take has nothing for the tables: its acquire brings it there.
                if event.lql > 0 {
                    self.add(event, &outcome);
                }
                None
            }
            EventKind::Acquire => {
                let outcome = self.classifier.on_acquire(event, last_release);
                let places = self.add(event, &outcome);
                if outcome.wait.is_some()
                    && let Some(of_episode) = self.places.get_mut(self.classifier.touched())
                {
                    *of_episode = places;
                }
                outcome.incident
            }
            EventKind::Release => {
                let outcome = self.classifier.on_release(event);
                if outcome.hold.is_some()
                    && let Some(places) = self.places.get(self.classifier.touched())
                {
                    self.locks.at(places.lock, event.lock).add(event, &outcome);
                    self.callers.at(places.caller, outcome.ip).add(event, &outcome);
                }
                outcome.incident
            }
            EventKind::Incapable => {
                let outcome = self.classifier.on_incapable(event);
                self.add(event, &outcome);
                None
            }
        }
    }

    /// Notes the quantum that the event belongs to.
    #[inline(always)]
    fn note_quantum(&mut self, event: &Event) {
        if event.ids.0 != self.last_ids.0 && event.ids.published() {
            if !self.first_ids.published() {
                self.first_ids = event.ids;
            }
            self.last_ids = event.ids;
            self.last_tsc = event.tsc;
        }
    }

    /// Adds the event to the rows of its lock and its caller.
    #[inline(always)]
    fn add(&mut self, event: &Event, outcome: &Outcome) -> Places {
        let places = Places { lock: self.locks.place(event.lock), caller: self.callers.place(outcome.ip) };
        self.locks.at(places.lock, event.lock).add(event, outcome);
        self.callers.at(places.caller, outcome.ip).add(event, outcome);
        places
    }
}

/// Key of the lane, and of the incident ring, of `cpu` at `level`.
#[inline(always)]
pub const fn lane_key(cpu: u32, level: u32) -> u32 {
    cpu * NR_LEVELS as u32 + level
}

const _: () = {
    assert!(NR_RELEASES.is_power_of_two() && TABLE_ROWS.is_power_of_two());
};
