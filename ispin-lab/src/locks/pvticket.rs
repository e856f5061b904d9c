//! `pvticket`: the paravirtual ticket spinlock (paper: PV TS; Linux 3.13): a waiter that has spun for long enough sleeps in the
//! hypervisor, and the holder wakes the next one.

use super::Algorithm;
use super::parking::ParkingQueue;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "pvticket",
    paper: "PV TS",
    about: "ticket spinlock whose waiters sleep after a while; the holder wakes the next one",
    fifo: true,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, parameters| {
        let threshold = parameters.spin_threshold;
        Box::new(ParkingQueue::new(id, 0, Box::new(move |_| threshold)))
    },
};
