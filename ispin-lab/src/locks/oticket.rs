//! `oticket`: opportunistic ticket spinlock (paper: OT; Kashyap et al.): waiters whose turn is near spin, the others sleep
//! at once, and an unlock wakes those that come near, so that they spin when their turn comes.
//!
//! No figure of it is public. How many are near, and how long the others spin, are assumptions
//! ([`super::Parameters`]).

use super::Algorithm;
use super::parking::ParkingQueue;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "oticket",
    paper: "OT",
    about: "ticket spinlock whose waiters sleep, but for those whose turn is near",
    fifo: true,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, parameters| {
        let (near, far) = (parameters.oticket_near, parameters.oticket_far_turns);
        let threshold = parameters.spin_threshold;
        let patience = move |before| if before <= near { threshold } else { far };
        Box::new(ParkingQueue::new(id, near.saturating_sub(1), Box::new(patience)))
    },
};
