//! `pv`: I-Spinlock for paravirtual guests (paper: PV IS). An incapable thread asks the hypervisor to take it
//! off its pCPU until its next quantum (section 4.2.2); here the request is `sched_yield`.
//!
//! A yield under `SCHED_RR` does not refill the time slice, so the thread may come back within the same
//! quantum. It then yields again: the deferral lasts until another quantum is published.

use ispin_common::slot::Slot;

use super::Algorithm;
use super::off_cpu::OffCpu;
use super::queue::TicketQueue;
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "pv",
    paper: "PV IS",
    about: "informed ticket spinlock; defers by yielding its pCPU until the next quantum",
    fifo: true,
    informed: true,
    csd_ns: super::CSD_NS,
    make: |id, _| Box::new(TicketQueue::new(id, Some(yield_until_next_quantum))),
};

fn yield_until_next_quantum(me: &mut Vcpu, slot: &Slot) -> u64 {
    let mut off = OffCpu::since(slot);
    while !me.next_quantum_has_begun(slot) {
        rustix::thread::sched_yield();
        off.watch(me);
    }
    off.add(&me.read_own());
    off.total
}
