//! `ticket`: the plain ticket spinlock (paper: TSL), the base line.

use super::Algorithm;
use super::queue::TicketQueue;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "ticket",
    paper: "TSL",
    about: "plain ticket spinlock; knows nothing of the hypervisor",
    fifo: true,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, _| Box::new(TicketQueue::new(id, None)),
};
