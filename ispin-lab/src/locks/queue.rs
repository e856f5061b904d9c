//! The FIFO that ticket locks share: take a ticket, wait for the turn, hold, release.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};

use ispin_common::capability::{Capability, capability};
use ispin_common::event::Ctx;
use ispin_common::slot::Slot;

use super::Lock;
use super::line::Line;
use super::members::Refusal;
use super::passage::{Deferred, Passages};
use crate::vcpu::Vcpu;

/// Ticket queue of one lock.
pub struct TicketQueue {
    passages: Passages,
    next: Line<AtomicU32>,
    serving: Line<AtomicU32>,
    /// `None`: nobody is ever refused.
    defer: Option<Defer>,
}

/// How an incapable thread waits for its next quantum. Returns the time that it was off its pCPU.
pub type Defer = fn(&mut Vcpu, &Slot) -> u64;

impl TicketQueue {
    /// The queue of lock number `id`; with `defer`, by the paper's rule.
    pub fn new(id: u32, defer: Option<Defer>) -> Self {
        let (next, serving) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
        Self { passages: Passages::new(id), next, serving, defer }
    }

    /// Lock queue length now: tickets handed out and not yet served, the holder included.
    fn queue_length(&self) -> u32 {
        let serving = self.serving.0.load(Ordering::Relaxed);
        self.next.0.load(Ordering::Relaxed).wrapping_sub(serving)
    }

    /// The paper's rule (section 4.2.2, Figure 5): an incapable thread defers once, then takes a ticket.
    fn admit(&self, me: &mut Vcpu, caller: u64, defer: Defer) -> Deferred {
        let mut deferred = Deferred::default();
        let slot = me.read_own();
        let now = me.now();
        let lql = self.queue_length();
        match capability(&slot, now, lql, me.csd(), me.tick()) {
            Capability::Capable(_) | Capability::Unslotted => {}
            Capability::Expired => deferred.ctx = Ctx(Ctx::EXPIRED),
            Capability::Incapable(_) => {
                self.passages.refused(me, caller, &slot, now, lql, Refusal::Time);
                deferred.off = defer(me, &slot);
            }
        }
        deferred
    }
}

impl Lock for TicketQueue {
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        let outer = me.word();
        let deferred = self.defer.map_or_else(Deferred::default, |defer| self.admit(me, caller, defer));
        let arrival = self.passages.arrive(me, caller, outer);
        let ticket = self.next.0.fetch_add(1, Ordering::AcqRel);
        let lql = ticket.wrapping_sub(self.serving.0.load(Ordering::Relaxed));
        let mut waiter = self.passages.taken(me, arrival, ticket, lql, deferred);
        while self.serving.0.load(Ordering::Acquire) != ticket {
            waiter.off.watch(me);
            spin_loop();
        }
        self.passages.acquired(me, waiter);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        let serving = self.serving.0.load(Ordering::Acquire);
        if self.next.0.load(Ordering::Relaxed) != serving {
            return false;
        }
        self.passages.try_pass(me, caller, || {
            let after = serving.wrapping_add(1);
            self.next.0.compare_exchange(serving, after, Ordering::AcqRel, Ordering::Relaxed).ok()
        })
    }

    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.passages.release(me, caller, |_, ticket| {
            self.serving.0.store(ticket.wrapping_add(1), Ordering::Release);
        });
    }
}
