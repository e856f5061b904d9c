//! Lock completion capability: may this vCPU take a ticket now? (Paper, section 4.1, equations 1 and 2.)

use crate::slot::{Ids, NO_LIMIT, Slot};

/// Answer of [`capability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// The remaining quantum suffices; carries `lock_cap`, greater than zero.
    Capable(i64),
    /// It does not: defer. Carries `lock_cap`, zero or less.
    Incapable(i64),
    /// Nothing is published for this vCPU: never incapable, counted as `unslotted`.
    Unslotted,
    /// The deadline lies in the past by more than the tolerance and no new quantum was published: a renewal
    /// that the publisher could not see. Never incapable, counted as `expired`.
    Expired,
}

/// `preemption_time - now - (lql + 1) * csd`, in the slot's time unit; the largest value for a quantum without end.
#[inline(always)]
pub fn lock_cap(slot: &Slot, now: u64, lql: u32, csd: u64) -> i64 {
    if slot.preemption_time == NO_LIMIT {
        return i64::MAX;
    }
    let remaining = slot.preemption_time.wrapping_sub(now) as i64;
    let need = (lql as u64 + 1).saturating_mul(csd).min(i64::MAX as u64) as i64;
    remaining.saturating_sub(need)
}

/// Whether a ticket may be taken.
///
/// `tolerance` is how far in the past a deadline may lie and still be believed: one tick of the publisher.
#[inline(always)]
pub fn capability(slot: &Slot, now: u64, lql: u32, csd: u64, tolerance: u64) -> Capability {
    if !Ids(slot.ids).published() {
        return Capability::Unslotted;
    }
    if slot.preemption_time != NO_LIMIT && now > slot.preemption_time.saturating_add(tolerance) {
        return Capability::Expired;
    }
    let cap = lock_cap(slot, now, lql, csd);
    if cap > 0 { Capability::Capable(cap) } else { Capability::Incapable(cap) }
}
