//! `hvm`: I-Spinlock for hardware-assisted guests (paper: HVM IS). An incapable thread burns the rest of its
//! quantum: it spins until the hypervisor publishes another `slice_id` (section 4.2.2).

use std::hint::spin_loop;

use ispin_common::slot::Slot;

use super::Algorithm;
use super::off_cpu::OffCpu;
use super::queue::TicketQueue;
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "hvm",
    paper: "HVM IS",
    about: "informed ticket spinlock; defers by spinning until the next quantum",
    fifo: true,
    informed: true,
    csd_ns: super::CSD_NS,
    make: |id, _| Box::new(TicketQueue::new(id, Some(spin_until_next_quantum))),
};

fn spin_until_next_quantum(me: &mut Vcpu, slot: &Slot) -> u64 {
    let mut off = OffCpu::since(slot);
    while !me.next_quantum_has_begun(slot) {
        off.watch(me);
        for _ in 0..16 {
            spin_loop();
        }
    }
    off.add(&me.read_own());
    off.total
}
