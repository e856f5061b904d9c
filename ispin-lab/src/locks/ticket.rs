//! `ticket`: the plain ticket spinlock (paper: TSL), the base line.

use super::queue::TicketQueue;
use super::{Algorithm, Lock};
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "ticket",
    paper: "TSL",
    about: "plain ticket spinlock; knows nothing of the hypervisor",
    fifo: true,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, _| Box::new(Ticket(TicketQueue::new(id))),
};

struct Ticket(TicketQueue);

impl Lock for Ticket {
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        self.0.lock(me, caller);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        self.0.try_lock(me, caller)
    }

    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.0.unlock(me, caller);
    }
}
