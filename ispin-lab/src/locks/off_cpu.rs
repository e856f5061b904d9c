//! How long a vCPU was off its pCPU, as it finds out itself from its slot.

use ispin_common::slot::{Ids, Slot};

use crate::vcpu::Vcpu;

/// Adds up the time that a vCPU was off its pCPU, dispatch by dispatch.
pub struct OffCpu {
    seen: Ids,
    planned_end: u64,
    /// So far.
    pub total: u64,
    /// Whether the first absence began before the published end of its quantum.
    pub early: bool,
    away: bool,
}

impl OffCpu {
    /// From the dispatch that `slot` tells of on.
    pub fn since(slot: &Slot) -> Self {
        Self { seen: Ids(slot.ids), planned_end: slot.preemption_time, total: 0, early: false, away: false }
    }

    /// The vCPU leaves of its own accord at `now`, so its quantum ends there.
    pub fn leaves(&mut self, now: u64) {
        self.planned_end = self.planned_end.min(now);
    }

    /// Looks whether the vCPU was away since the last look.
    #[inline(always)]
    pub fn watch(&mut self, me: &Vcpu) {
        if !me.ids().same_dispatch(self.seen) {
            self.add(&me.read_own());
        }
    }

    /// Adds the absence since the last look, at whose end `slot` was read.
    #[inline(always)]
    pub fn add(&mut self, slot: &Slot) {
        let ids = Ids(slot.ids);
        if ids.same_dispatch(self.seen) {
            return;
        }
        // Dispatches count up by two. More than one further means stays too short for a single look: this
        // vCPU was away since the end of the stay last seen, of which the plan is all that is left.
        let one_further = ids.dispatch_id() >> 1 == (self.seen.dispatch_id() >> 1).wrapping_add(1);
        let left = if one_further { slot.last_out } else { slot.last_out.min(self.planned_end) };
        if !std::mem::replace(&mut self.away, true) {
            self.early = left < self.planned_end;
        }
        self.total += slot.dispatch_start.saturating_sub(left);
        self.seen = ids;
        self.planned_end = slot.preemption_time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(dispatch: u32, start: u64, last_out: u64, end: u64) -> Slot {
        Slot { ids: Ids::new(1, dispatch).0, dispatch_start: start, last_out, preemption_time: end }
    }

    #[test]
    fn a_vcpu_that_slept_and_came_back_twice_was_away_since_it_left() {
        let mut off = OffCpu::since(&slot(1, 0, 0, 8000));
        off.leaves(1000);
        off.add(&slot(5, 3000, 2500, 9000));
        assert_eq!((off.total, off.early), (2000, false));
        off.add(&slot(7, 9500, 8500, 20_000));
        assert_eq!(off.total, 3000);
    }

    #[test]
    fn a_stay_that_ends_before_its_published_end_ends_early() {
        let mut off = OffCpu::since(&slot(1, 0, 0, 8000));
        off.add(&slot(3, 6000, 5000, 14_000));
        assert_eq!((off.total, off.early), (1000, true));
    }
}
