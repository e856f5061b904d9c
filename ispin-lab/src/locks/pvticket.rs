//! `pvticket`: the paravirtual ticket spinlock (paper: PV TS; Linux 3.13): a waiter that has spun for long enough sleeps in the
//! hypervisor, and the holder wakes the next one.

use super::parking::ParkingQueue;
use super::{Algorithm, Lock};
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "pvticket",
    paper: "PV TS",
    about: "ticket spinlock whose waiters sleep after a while; the holder wakes the next one",
    fifo: true,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, parameters| {
        let threshold = parameters.spin_threshold;
        Box::new(PvTicket(ParkingQueue::new(id, 0, Box::new(move |_| threshold))))
    },
};

struct PvTicket(ParkingQueue);

impl Lock for PvTicket {
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
