//! Every count that the classifier keeps, declared once: struct, names for CSV and screen, and merging.

use crate::reason::Reason;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident : $how:ident,)*) => {
        /// Monotonic totals of one vCPU and context level. `*_cycles` are in the slot's time unit.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Names in order of the fields: the CSV columns.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];
            /// How many there are.
            pub const COUNT: usize = Self::NAMES.len();

            /// The values, in the order of [`Self::NAMES`].
            pub const fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// Rebuilds the counters from [`Self::values`].
            pub const fn from_values(v: &[u64; Self::COUNT]) -> Self {
                let mut i = 0;
                $(let $name = v[i]; i += 1;)*
                let _ = i;
                Self { $($name),* }
            }

            /// Adds another vCPU's or level's totals (maxima are joined by maximum).
            pub fn merge(&mut self, other: &Self) {
                $(counters!(@merge $how self.$name, other.$name);)*
            }

            /// What came on top since `earlier` (a maximum stays the maximum so far).
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: counters!(@since $how self.$name, earlier.$name)),* }
            }
        }
    };
    (@merge sum $a:expr, $b:expr) => { $a = $a.wrapping_add($b) };
    (@merge max $a:expr, $b:expr) => { $a = $a.max($b) };
    (@since sum $a:expr, $b:expr) => { $a.wrapping_sub($b) };
    (@since max $a:expr, $b:expr) => { { let _ = $b; $a } };
}

counters! {
    /// Tickets taken; a successful trylock counts as one.
    takes: sum,
    /// Locks acquired, trylocks included.
    acquires: sum,
    /// Successful trylocks.
    trylocks: sum,
    /// Takes that found the lock held or queued for (`lql > 0`).
    contended: sum,
    /// Locks released.
    releases: sum,
    /// Tickets refused because `lock_cap` was not greater than zero.
    deferrals: sum,
    /// From the first refusal of an attempt to its take.
    defer_cycles: sum,
    /// The part of `defer_cycles` that was spent on the pCPU, burnt by waiting for the next quantum.
    defer_spin_cycles: sum,
    /// From take to acquire, time off the pCPU included.
    wait_cycles: sum,
    /// From take to acquire, time off the pCPU taken out.
    spin_cycles: sum,
    /// From acquire to release.
    hold_cycles: sum,
    /// Sum of `lql` over all takes; divided by `takes` it is the mean queue length.
    lql_sum: sum,
    /// Longest queue met by a take.
    lql_max: max,
    /// Acquire and release in different quanta.
    lhp: sum,
    /// Of `lhp`: the dispatch differs too, so the holder really lost its pCPU.
    lhp_preempted: sum,
    /// Take and acquire in different quanta.
    lwp: sum,
    /// Of `lwp`: the dispatch differs too, so the waiter really lost its pCPU.
    lwp_preempted: sum,
    /// Of `lwp`: the lock itself blocked or yielded while it waited.
    lwp_blocked: sum,
    /// Of `lwp`: the turn came while the waiter was off its pCPU (section 2.3.1).
    lwp_harmful: sum,
    /// How long locks stood free because of `lwp_harmful`.
    idle_cycles: sum,
    /// Of all PSP, by their one reason ([`Reason`]): renewed without leaving the pCPU.
    psp_renewal: sum,
    /// The ticket was taken without a published quantum.
    psp_unslotted: sum,
    /// A trylock, which is never refused.
    psp_trylock: sum,
    /// A holder whose wait had outlived its quantum already.
    psp_followup: sum,
    /// The published end was long gone at the ticket.
    psp_expired: sum,
    /// Incapable, but not refused because another lock was held.
    psp_nested: sum,
    /// Incapable in spite of a deferral.
    psp_deferred: sum,
    /// Incapable at the ticket: never asked, or the queue length was stale.
    psp_incapable: sum,
    /// Preempted before the published end.
    psp_early: sum,
    /// Held for longer than csd.
    psp_long_hold: sum,
    /// The queue moved slower than csd per ticket.
    psp_long_wait: sum,
    /// What would tell is not known.
    psp_unknown: sum,
    /// Takes that ended a deferral.
    deferred_takes: sum,
    /// Of `deferred_takes`: in the quantum right after that of the refusal (section 5.2).
    deferred_next: sum,
    /// Of `deferred_takes`: with a positive `lock_cap` (section 5.2).
    deferred_capable: sum,
    /// Preempted waits whose harm cannot be judged, because the lock's last release is not known.
    harm_unknown: sum,
    /// Takes that found an open episode of the same lock: its end was lost.
    unpaired_take: sum,
    /// Acquires without a take.
    unpaired_acquire: sum,
    /// Releases without an acquire.
    unpaired_release: sum,
    /// Refusals that no take of that lock followed.
    unpaired_deferral: sum,
    /// Episodes pushed out of a full table.
    overflowed: sum,
    /// Episodes still open when observation ended.
    open_at_exit: sum,
    /// Incidents that did not fit their ring.
    dropped: sum,
    /// Takes by a vCPU without a published slot; such episodes are not judged.
    unslotted: sum,
    /// Takes whose published deadline had expired.
    expired: sum,
}

impl Counters {
    /// The count of a reason.
    #[inline(always)]
    pub fn of_reason_mut(&mut self, reason: Reason) -> &mut u64 {
        match reason {
            Reason::Renewal => &mut self.psp_renewal,
            Reason::Unslotted => &mut self.psp_unslotted,
            Reason::Trylock => &mut self.psp_trylock,
            Reason::Followup => &mut self.psp_followup,
            Reason::Expired => &mut self.psp_expired,
            Reason::Nested => &mut self.psp_nested,
            Reason::Deferred => &mut self.psp_deferred,
            Reason::Incapable => &mut self.psp_incapable,
            Reason::Early => &mut self.psp_early,
            Reason::LongHold => &mut self.psp_long_hold,
            Reason::LongWait => &mut self.psp_long_wait,
            Reason::Unknown => &mut self.psp_unknown,
        }
    }

    /// How many PSP had this reason.
    pub fn of_reason(mut self, reason: Reason) -> u64 {
        *self.of_reason_mut(reason)
    }

    /// LHP + LWP: problematic spin preemptions.
    pub const fn psp(&self) -> u64 {
        self.lhp + self.lwp
    }

    /// Everything that could not be paired, in one number.
    pub const fn unpaired(&self) -> u64 {
        self.unpaired_take + self.unpaired_acquire + self.unpaired_release + self.unpaired_deferral
    }
}
