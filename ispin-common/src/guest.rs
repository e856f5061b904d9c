//! Memory that the guest programs share with the agent, and what they do with an event.
//!
//! | map | type | content |
//! |---|---|---|
//! | `GUEST_LANES` | array, memory-mapped, key = [`lane_key`] | [`GuestLane`] |
//! | `GUEST_RINGS` | array, memory-mapped, key = [`lane_key`] | [`GuestRing`] |
//! | `.bss` | array with one element | [`NR_RELEASES`] [`crate::table::LastRelease`]s, found by [`crate::table::release_place`] |
//!
//! Every lane and ring has one writer: a CPU at one context level. A program that an interrupt cuts short is resumed
//! after it, so levels never write to each other's. A release is one 64-bit store by the holder of the lock.

use crate::classifier::{Classifier, Hold, Tag, Wait};
use crate::event::{NR_LEVELS, Report};
use crate::incident::Incident;
use crate::ring::Ring;
use crate::slot::Ids;
use crate::table::{OTHERS, Row, Table};

/// Rows per table, that of all others included.
pub const TABLE_ROWS: usize = 257;
/// Words of last releases.
pub const NR_RELEASES: u32 = 4096;
/// Records in one incident ring.
pub const INCIDENT_RING: usize = 128;

/// Totals per lock or per caller, of one CPU and context level.
pub type GuestTable = Table<TABLE_ROWS>;
/// Incidents of one CPU and context level.
pub type GuestRing = Ring<Incident, INCIDENT_RING>;

/// What is kept of one CPU at one context level. All zeroes is a valid empty one that ignores all events.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct GuestLane {
    /// 0 = events are ignored. Set to 1 in all lanes once all four programs are attached, so that no episode loses its
    /// end to a program that was not there yet.
    pub enabled: u64,
    /// Ids at the latest event with a published slot.
    pub last_ids: Ids,
    /// Ids at the first event with a published slot.
    pub first_ids: Ids,
    /// Time of the first event with `last_ids`.
    pub last_tsc: u64,
    /// Open episodes and totals.
    pub classifier: Classifier,
    /// Totals per lock.
    pub locks: GuestTable,
    /// Totals per caller.
    pub callers: GuestTable,
}

impl GuestLane {
    /// A ticket was taken.
    #[inline(always)]
    pub fn take(&mut self, event: &impl Report) {
        self.note_quantum(event);
        self.classifier.take(event);
        // Without a queue a take has nothing for the tables: its acquire brings it there.
        if event.lql() > 0 {
            let (lock, caller) = (event.lock(), event.ip());
            let _ = self.lock_row(lock, |row| row.queued(caller));
            let _ = self.caller_row(caller, |row| row.queued(lock));
        }
    }

    /// A ticket was refused.
    #[inline(always)]
    pub fn refuse(&mut self, event: &impl Report) {
        self.note_quantum(event);
        self.classifier.refuse(event);
        let _ = self.lock_row(event.lock(), |row| row.deferrals += 1);
        let _ = self.caller_row(event.ip(), |row| row.deferrals += 1);
    }

    /// The lock was acquired. Returns the index of the episode if that was an LWP: to be judged by
    /// [`Self::judge_wait`].
    #[inline(always)]
    pub fn acquire(&mut self, event: &impl Report) -> Option<usize> {
        self.note_quantum(event);
        let Some(Wait { index, ip, wait, spin, problematic }) = self.classifier.acquire(event) else {
            self.unpaired_acquire(event.lock(), event.ip());
            return None;
        };
        let lock = event.lock();
        // The places are kept with the episode, so that its release need not look for them.
        let places = [
            self.lock_row(lock, |row| row.acquired(ip, wait, spin)),
            self.caller_row(ip, |row| row.acquired(lock, wait, spin)),
        ];
        self.classifier.tag(index, places);
        problematic.then_some(index)
    }

    #[inline(never)]
    fn unpaired_acquire(&mut self, lock: u64, ip: u64) {
        let _ = self.lock_row(lock, |row| row.acquired(ip, 0, 0));
        let _ = self.caller_row(ip, |row| row.acquired(lock, 0, 0));
    }

    /// The lock was released. Returns the hold if that was an LHP: to be judged by [`Self::judge_hold`].
    #[inline(always)]
    pub fn release(&mut self, event: &impl Report) -> Option<Hold> {
        self.note_quantum(event);
        let hold = self.classifier.release(event)?;
        let [lock, caller] = hold.tag;
        if let Some(row) = self.locks.at(lock) {
            row.held(hold.hold);
        }
        if let Some(row) = self.callers.at(caller) {
            row.held(hold.hold);
        }
        hold.problematic.then_some(hold)
    }

    /// Counts and tells an LWP. `last_release` is when its lock was last released by anybody, if known.
    #[inline(always)]
    pub fn judge_wait(&mut self, index: usize, event: &impl Report, last_release: Option<u64>) -> Incident {
        let incident = self.classifier.judge_wait(index, event, last_release);
        let _ = self.lock_row(event.lock(), |row| row.incident(&incident));
        let _ = self.caller_row(incident.ip, |row| row.incident(&incident));
        incident
    }

    /// Counts and tells an LHP.
    #[inline(always)]
    pub fn judge_hold(&mut self, index: usize, tag: Tag, event: &impl Report) -> Incident {
        let incident = self.classifier.judge_hold(index, event);
        if let Some(row) = self.locks.at(tag[0]) {
            row.incident(&incident);
        }
        if let Some(row) = self.callers.at(tag[1]) {
            row.incident(&incident);
        }
        incident
    }

    /// Notes the quantum that the event belongs to.
    #[inline(always)]
    fn note_quantum(&mut self, event: &impl Report) {
        if event.ids().0 != self.last_ids.0 {
            self.begin_quantum(event.ids(), event.tsc());
        }
    }

    #[inline(never)]
    fn begin_quantum(&mut self, ids: Ids, tsc: u64) {
        if ids.published() {
            if !self.first_ids.published() {
                self.first_ids = ids;
            }
            self.last_ids = ids;
            self.last_tsc = tsc;
        }
    }

    /// Does something with the row of a lock; returns where it is.
    #[inline(always)]
    fn lock_row(&mut self, lock: u64, action: impl Fn(&mut Row)) -> u32 {
        if let Some((place, row)) = self.locks.first(lock) {
            action(row);
            return place;
        }
        let place = self.search_lock(lock);
        if let Some(row) = self.locks.at(place) {
            action(row);
        }
        place
    }

    /// As [`Self::lock_row`], for a caller.
    #[inline(always)]
    fn caller_row(&mut self, caller: u64, action: impl Fn(&mut Row)) -> u32 {
        if let Some((place, row)) = self.callers.first(caller) {
            action(row);
            return place;
        }
        let place = self.search_caller(caller);
        if let Some(row) = self.callers.at(place) {
            action(row);
        }
        place
    }

    /// Where the row of a lock is that is not where most are. If another row had to go for it, the open episodes of
    /// that go on with the row of all others.
    #[inline(never)]
    fn search_lock(&mut self, lock: u64) -> u32 {
        let before = self.locks.evicted;
        let place = self.locks.search(lock);
        if self.locks.evicted != before {
            self.classifier.tags().filter(|[at, _]| *at == place).for_each(|[at, _]| *at = OTHERS);
        }
        place
    }

    /// As [`Self::search_lock`], for a caller.
    #[inline(never)]
    fn search_caller(&mut self, caller: u64) -> u32 {
        let before = self.callers.evicted;
        let place = self.callers.search(caller);
        if self.callers.evicted != before {
            self.classifier.tags().filter(|[_, at]| *at == place).for_each(|[_, at]| *at = OTHERS);
        }
        place
    }
}

/// Key of the lane, and of the incident ring, of `cpu` at `level`.
#[inline(always)]
pub const fn lane_key(cpu: u32, level: u32) -> u32 {
    cpu * NR_LEVELS as u32 + level
}

const _: () = {
    assert!(NR_RELEASES.is_power_of_two());
};
