//! Deliberately wrong rules. The comparison that holds for the right ones must fail for each of these.

use super::{Open, Rules};
use ispin_common::event::{Ctx, Event};
use ispin_common::slot::Ids;

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident { $($rule:item)* })*) => {
        $(
            $(#[$doc])*
            pub struct $name;
            impl Rules for $name { $($rule)* }
        )*
        /// Name of each and the comparison with it.
        pub const ALL: &[(&str, super::Comparison)] =
            &[$((stringify!($name), super::compare::<$name>)),*];
    };
}

mutants! {
    /// A preemption without a new quantum counts, a renewal does not.
    ComparesDispatchInsteadOfSlice {
        fn other_quantum(a: &Event, b: &Event) -> bool {
            a.ids.published() && b.ids.published() && !a.ids.same_dispatch(b.ids)
        }
    }
    /// A vCPU without a slot changes from "quantum 0" to a quantum.
    JudgesUnslotted {
        fn other_quantum(a: &Event, b: &Event) -> bool {
            a.ids.slice_id() != b.ids.slice_id()
        }
    }
    /// Looks at the first event only.
    JudgesHalfUnslotted {
        fn other_quantum(a: &Event, b: &Event) -> bool {
            a.ids.published() && a.ids.slice_id() != b.ids.slice_id()
        }
    }
    /// Quanta are ordered until their number wraps.
    ComparesQuantaByOrder {
        fn other_quantum(a: &Event, b: &Event) -> bool {
            a.ids.published() && b.ids.published() && a.ids.slice_id() < b.ids.slice_id()
        }
    }
    /// An episode that spans three quanta counts twice.
    CountsPerPreemption {
        fn weight(from: &Event, to: &Event) -> u64 {
            u64::from(to.ids.slice_id().wrapping_sub(from.ids.slice_id()))
        }
    }
    /// Every problematic episode passes for preempted.
    TakesRenewalForPreemption {
        fn left_pcpu(_: &Event, _: &Event) -> bool {
            true
        }
    }
    /// The state bit passes for part of the number.
    ComparesStateBitToo {
        fn left_pcpu(a: &Event, b: &Event) -> bool {
            a.ids.dispatch_id() != b.ids.dispatch_id() || a.ids.0 & 1 == 1
        }
    }
    /// The wait is counted into the hold.
    JudgesHoldFromTake {
        fn hold_begins(open: &Open) -> Option<&Event> {
            Some(&open.take)
        }
    }
    /// Every preempted wait passes for harmful.
    EveryPreemptionIsHarmful {
        fn harmful(_: &Event, _: &Event, _: u64) -> bool {
            true
        }
    }
    /// A release at the very return passes for one before it.
    HarmfulAtTheBoundary {
        fn harmful(_: &Event, acquire: &Event, released: u64) -> bool {
            released <= acquire.start
        }
    }
    /// Only a release after the take passes for what made it the waiter's turn.
    HarmNeedsReleaseAfterTake {
        fn harmful(take: &Event, acquire: &Event, released: u64) -> bool {
            released >= take.tsc && released < acquire.start
        }
    }
    /// The lock's rest before the take is counted as idle.
    IdleBeforeTheTake {
        fn idle(_: &Event, acquire: &Event, released: u64) -> u64 {
            acquire.start.saturating_sub(released).min(acquire.off)
        }
    }
    /// The waiter's time on its pCPU is counted as idle.
    IdleWhileOnPcpu {
        fn idle(take: &Event, acquire: &Event, released: u64) -> u64 {
            acquire.start.saturating_sub(released.max(take.tsc))
        }
    }
    /// All time away is counted as idle.
    IdleIsAllTimeAway {
        fn idle(_: &Event, acquire: &Event, _: u64) -> u64 {
            acquire.off
        }
    }
    /// What is not known passes for harmless.
    ForgetsUnknownHarm {
        fn counts_unknown_harm() -> bool {
            false
        }
    }
    /// Time away is counted as spinning.
    SpinsWhileAway {
        fn on_pcpu(time: u64, _: u64) -> u64 {
            time
        }
    }
    /// An absence before the hold passes for one during it.
    CountsAbsenceBeforeTheHold {
        fn absence(release: &Event, _: bool) -> u64 {
            release.off
        }
    }
    /// A wait that blocked counts only if the vCPU left too.
    BlockedNeedsPreemption {
        fn counts_blocked(acquire: &Event, left: bool) -> bool {
            left && acquire.ctx.has(Ctx::BLOCKED)
        }
    }
    /// Episodes are never closed.
    ForgetsToClose {
        fn release_closes() -> bool {
            false
        }
    }
    /// A full table keeps the old ones.
    FullTableRefuses {
        fn pushed_out(_: &[Open]) -> Option<usize> {
            None
        }
    }
    /// A full table pushes out the latest.
    FullTablePushesOutLatest {
        fn pushed_out(open: &[Open]) -> Option<usize> {
            open.len().checked_sub(1)
        }
    }
    /// The innermost lock passes for the one that is released.
    PairsInnermost {
        fn belongs(open: &[Open], _: &Event) -> Option<usize> {
            open.len().checked_sub(1)
        }
    }
    /// A hold whose release was lost goes on.
    SecondAcquireGoesOn {
        fn second_acquire_closes() -> bool {
            false
        }
    }
    /// A trylock passes for an acquire whose take was lost.
    IgnoresTrylock {
        fn is_trylock(_: &Event) -> bool {
            false
        }
    }
    /// Every acquire passes for a trylock.
    EveryAcquireIsTrylock {
        fn is_trylock(_: &Event) -> bool {
            true
        }
    }
    /// Each refusal begins the deferral anew.
    DeferralRestarts {
        fn deferred_since(_: u64, again: &Event) -> u64 {
            again.tsc
        }
    }
    /// A deferral whose take was lost goes on to the next attempt.
    DeferralOutlivesItsAttempt {
        fn ends_deferral() -> bool {
            false
        }
    }
    /// The holder alone is no queue.
    ContendedNeedsTwo {
        fn contended(take: &Event) -> bool {
            take.lql > 1
        }
    }
    /// Buckets are off by one.
    BucketsRoundUp {
        fn bucket(value: u64) -> usize {
            (value.max(1).next_power_of_two().trailing_zeros() as usize).min(39)
        }
    }
    /// The latest queue passes for the longest.
    LatestQueueIsLongest {
        fn longest(_: u64, lql: u64) -> u64 {
            lql
        }
    }
    /// A preemption right at the end of the quantum passes for an early one.
    EndOfQuantumIsEarly {
        fn planned_end(take: &Event, csd: u64) -> u64 {
            (take.tsc + (u64::from(take.lql) + 1) * csd).wrapping_add_signed(take.cap) + 1
        }
    }
    /// The ticket's own passage is left out of the plan.
    PlanForgetsItself {
        fn planned_end(take: &Event, csd: u64) -> u64 {
            (take.tsc + u64::from(take.lql) * csd).wrapping_add_signed(take.cap)
        }
    }
    /// A `lock_cap` of zero passes for enough.
    ZeroIsCapable {
        fn incapable(take: &Event) -> bool {
            take.cap < 0
        }
    }
    /// The whole hold counts, the absence included.
    HeldLongWhileAway {
        fn held_long(acquire: &Event, _: u64, csd: u64) -> bool {
            csd < acquire.tsc
        }
    }
    /// Of several absences the last passes for the first.
    LastAbsenceIsFirst {
        fn left_at(_: &Event, release: &Event) -> Option<u64> {
            Some(release.start.saturating_sub(release.off))
        }
    }
    /// Any later quantum passes for the next.
    AnyQuantumIsNext {
        fn in_next_quantum(refused: Ids, take: &Event) -> bool {
            take.ids.slice_id() != refused.slice_id()
        }
    }
    /// Nobody looks whether another lock was held.
    IgnoresNested {
        fn marked(event: &Event, mark: u64) -> bool {
            mark != Ctx::NESTED && event.ctx.has(mark)
        }
    }
    /// Nobody looks whether a waiter left early.
    IgnoresEarly {
        fn marked(event: &Event, mark: u64) -> bool {
            mark != Ctx::EARLY && event.ctx.has(mark)
        }
    }
    /// A deferral is forgotten with its take.
    ForgetsDeferral {
        fn remembers_deferral() -> bool {
            false
        }
    }
    /// What is open at the end is forgotten.
    FlushForgets {
        fn flush_counts() -> bool {
            false
        }
    }
}
