//! `unfair`: Linux's spinlock before 2.6.25, one word that whoever comes first takes. No order, no waiter preemption problem,
//! and no bound for how long a thread waits.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};

use super::line::Line;
use super::passage::{Deferred, Passages};
use super::{Algorithm, Lock};
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "unfair",
    paper: "spinlock before 2.6.25",
    about: "one word, taken by whoever comes first",
    fifo: false,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, _| Box::new(Unfair { passages: Passages::new(id), held: Line(AtomicU32::new(0)) }),
};

struct Unfair {
    passages: Passages,
    held: Line<AtomicU32>,
}

impl Unfair {
    fn take(&self) -> bool {
        self.held.0.load(Ordering::Relaxed) == 0 && self.held.0.swap(1, Ordering::Acquire) == 0
    }
}

impl Lock for Unfair {
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        let arrival = self.passages.arrive(me, caller, me.word());
        let lql = self.held.0.load(Ordering::Relaxed);
        let mut waiter = self.passages.taken(me, arrival, 0, lql, Deferred::default());
        while !self.take() {
            waiter.off.watch(me);
            spin_loop();
        }
        self.passages.acquired(me, waiter);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        self.passages.try_pass(me, caller, || self.take().then_some(0))
    }

    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.passages.release(me, caller, |_, _| self.held.0.store(0, Ordering::Release));
    }
}
