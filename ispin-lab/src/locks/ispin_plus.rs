//! `ispin+`: the informed ticket spinlock that does not convoy.
//!
//! The paper's rule predicts. When a prediction fails, and a vCPU is preempted with a ticket, everybody else still joins
//! the queue behind it, because `(lql + 1) * csd` stays tiny; each of them loses its quantum there, with a ticket, and
//! so the queue never empties: the convoy. Five changes end it (docs/ispin-plus.md argues and measures them):
//!
//! 1. A ticket is also refused while the holder or a waiter is off its pCPU.
//! 2. A refused thread asks again before it takes a ticket, for `max_defer`, and while somebody in the queue is off its pCPU for
//!    16 times as long: in a crowd of vCPUs everybody is off for longer than `max_defer` in every round, and whoever joined
//!    then would wait in the queue for the one that is missing, and keep the convoy alive.
//! 3. It yields its pCPU meanwhile, in which the vCPU that is missing may be the next to run.
//! 4. A thread that holds another lock is not refused: those that wait for that one would wait with it.
//! 5. Of what it was given when it came to its pCPU a thread has at least an eighth to take tickets of an empty queue in, however long csd
//!    is, but not of what a yield left over; and of quanta that it was given without leaving its pCPU, whose length is not known, it waits for
//!    two at most.

use ispin_common::capability::{Capability, capability};
use ispin_common::event::Ctx;
use ispin_common::slot::{Ids, MAX_SLOTS, Slot};
use ispin_common::threads::Phase;

use super::members::{MEMBERS, Members, Refusal, World};
use super::off_cpu::OffCpu;
use super::passage::{Deferred, Passages};
use super::{Algorithm, Lock};
use crate::vcpu::{SHORTEST_QUANTUM_NS, Vcpu};

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "ispin+",
    paper: "beyond the paper",
    about: "informed ticket spinlock that also refuses while a holder or waiter is off its pCPU, and asks again",
    fifo: true,
    informed: true,
    // Covers the critical section and the error of the published end; the rest is what the look at the members is for.
    csd_ns: 1 << 16,
    make: |id, parameters| {
        let max_defer = u64::from(parameters.max_defer_ms) * 1_000_000;
        Box::new(IspinPlus { passages: Passages::new(id), members: Members::new(), max_defer })
    },
};

/// Quanta that a thread got without leaving its pCPU, too short for csd alone, after which it takes a ticket: one can have been
/// noticed late.
const SHORT_RENEWALS: u32 = 2;

/// How many times `max_defer` a ticket is refused because somebody in the queue is off its pCPU.
const STALLED_FOR: u64 = 16;

struct IspinPlus {
    passages: Passages,
    members: Members,
    /// ns.
    max_defer: u64,
}

/// A thread that asks for a ticket.
struct Asking<'a> {
    me: &'a mut Vcpu,
    passages: &'a Passages,
    caller: u64,
    slot: Slot,
    now: u64,
    deferred: Deferred,
    /// Since the refusal: when it was, and the absences since.
    refused: Option<(u64, OffCpu)>,
    /// Quanta since the refusal that the thread did not leave its pCPU for.
    renewals: u32,
    max_defer: u64,
}

/// The longest csd, ns, that leaves time in the stay of `slot`: seven eighths of what the thread was given when it came to its pCPU. What
/// a yield left over of a quantum counts as [`SHORTEST_QUANTUM_NS`]. Seven eighths of that rest would be too little for any critical
/// section, and the next whole quantum is not far.
fn longest_csd(slot: &Slot) -> u64 {
    let stay = slot.preemption_time.saturating_sub(slot.dispatch_start);
    stay.max(SHORTEST_QUANTUM_NS) / 8 * 7
}

impl World for Asking<'_> {
    fn lock_cap(&mut self, lql: u32) -> Option<i64> {
        let before = Ids(self.slot.ids);
        self.slot = self.me.read_own();
        self.now = self.me.now();
        let ids = Ids(self.slot.ids);
        self.renewals +=
            u32::from(self.refused.is_some() && ids.same_dispatch(before) && !ids.same_slice(before));
        self.deferred.ctx = Ctx::default();
        let csd = self.me.csd().min(longest_csd(&self.slot));
        match capability(&self.slot, self.now, lql, csd, self.me.tick()) {
            Capability::Capable(lock_cap) | Capability::Incapable(lock_cap) => Some(lock_cap),
            Capability::Unslotted => None,
            Capability::Expired => {
                self.deferred.ctx = Ctx(Ctx::EXPIRED);
                None
            }
        }
    }

    fn is_off(&mut self, vcpu: u32) -> bool {
        let ids = self.me.ids_of(vcpu);
        // One that nothing is known of itself, or of the other, is not refused.
        Ids(self.slot.ids).published() && ids.published() && !ids.on_pcpu()
    }

    fn refused(&mut self, lql: u32, why: Refusal) {
        self.passages.refused(self.me, self.caller, &self.slot, self.now, lql, why);
        self.refused = Some((self.now, OffCpu::since(&self.slot)));
    }

    fn wait(&mut self) {
        rustix::thread::sched_yield();
        if let Some((_, off)) = &mut self.refused {
            off.watch(self.me);
            self.deferred.off = off.total;
        }
    }

    fn gives_in(&mut self, lql: u32, why: Refusal) -> bool {
        if lql == 0 && self.renewals >= SHORT_RENEWALS {
            return true;
        }
        let limit = match why {
            Refusal::Time => self.max_defer,
            Refusal::Stalled => self.max_defer.saturating_mul(STALLED_FOR),
        };
        self.refused.as_ref().is_none_or(|(since, _)| self.now >= since.saturating_add(limit))
    }
}

impl Lock for IspinPlus {
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        let outer = me.word();
        let mut deferred = Deferred::default();
        if outer.phase() == Some(Phase::Holding) {
            deferred.ctx = Ctx(Ctx::NESTED);
        } else {
            let mut asking = Asking {
                passages: &self.passages,
                caller,
                slot: Slot::default(),
                now: 0,
                deferred,
                refused: None,
                renewals: 0,
                max_defer: self.max_defer,
                me,
            };
            self.members.admit(&mut asking);
            deferred = asking.deferred;
        }
        let arrival = self.passages.arrive(me, caller, outer);
        let (ticket, lql) = self.members.take(me.number());
        let mut waiter = self.passages.taken(me, arrival, ticket, lql, deferred);
        while !self.members.is_served(ticket) {
            waiter.off.watch(me);
            std::hint::spin_loop();
        }
        self.passages.acquired(me, waiter);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        let vcpu = me.number();
        self.members.is_empty() && self.passages.try_pass(me, caller, || self.members.try_take(vcpu))
    }

    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.passages.release(me, caller, |_, ticket| self.members.release(ticket));
    }
}

const _: () = assert!(MEMBERS >= MAX_SLOTS, "every vCPU may be in the queue");

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(length: u64) -> Slot {
        Slot { dispatch_start: 5_000_000_000, preemption_time: 5_000_000_000 + length, ..Slot::default() }
    }

    #[test]
    fn csd_leaves_an_eighth_of_a_quantum() {
        assert_eq!(longest_csd(&stay(8_000_000)), 7_000_000);
        assert_eq!(longest_csd(&stay(1_000_000)), 875_000);
    }

    #[test]
    fn what_a_yield_left_over_makes_csd_no_shorter() {
        for left in [0, 1, 70_000, ALGORITHM.csd_ns, 999_999] {
            assert_eq!(longest_csd(&stay(left)), 875_000, "{left} ns left");
        }
    }
}
