//! `pts`: preemptable ticket spinlock (paper: PTS; Ouyang and Lange, VEE'13, first version). Tickets order those that wait,
//! and a word of its own excludes. A waiter whose turn does not come within a time that is proportional to the tickets
//! before it contends for the word out of turn, so a preempted waiter does not stop those behind it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};

use super::line::Line;
use super::passage::{Deferred, Passages};
use super::{Algorithm, Lock};
use crate::vcpu::Vcpu;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    name: "pts",
    paper: "PTS",
    about: "ticket order, given up after a time that grows with the tickets before one's own",
    fifo: false,
    informed: false,
    csd_ns: super::CSD_NS,
    make: |id, parameters| {
        Box::new(Pts {
            passages: Passages::new(id),
            requests: Line(AtomicU32::new(0)),
            grants: Line(AtomicU32::new(0)),
            held: Line(AtomicU32::new(0)),
            timeout: u64::from(parameters.pts_timeout),
        })
    },
};

struct Pts {
    passages: Passages,
    /// Tickets handed out.
    requests: Line<AtomicU32>,
    /// Passages that are over. Every passage has one ticket, so this follows `requests`, whatever the order.
    grants: Line<AtomicU32>,
    held: Line<AtomicU32>,
    /// Turns for each ticket before one's own.
    timeout: u64,
}

impl Pts {
    fn take(&self) -> bool {
        self.held.0.load(Ordering::Relaxed) == 0 && self.held.0.swap(1, Ordering::Acquire) == 0
    }

    /// Tickets before `ticket` of which no passage is over; 0 once its turn has come.
    fn before(&self, ticket: u32) -> u32 {
        let distance = ticket.wrapping_sub(self.grants.0.load(Ordering::Relaxed)) as i32;
        distance.max(0) as u32
    }
}

impl Lock for Pts {
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        let arrival = self.passages.arrive(me, caller, me.word());
        let ticket = self.requests.0.fetch_add(1, Ordering::Relaxed);
        let mut before = self.before(ticket);
        let mut waiter = self.passages.taken(me, arrival, ticket, before, Deferred::default());
        let mut turns = 0;
        loop {
            let timed_out = turns >= self.timeout * u64::from(before);
            if timed_out && self.take() {
                break;
            }
            waiter.off.watch(me);
            spin_loop();
            turns += 1;
            // The time starts anew whenever the queue moves.
            let now = self.before(ticket);
            if !timed_out && now != before {
                (before, turns) = (now, 0);
            }
        }
        self.passages.acquired(me, waiter);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        let grants = self.grants.0.load(Ordering::Relaxed);
        if self.requests.0.load(Ordering::Relaxed) != grants {
            return false;
        }
        // Its passage counts like any other, or `grants` would overtake.
        let take = || self.take().then(|| self.requests.0.fetch_add(1, Ordering::Relaxed));
        self.passages.try_pass(me, caller, take)
    }

    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.passages.release(me, caller, |_, _| {
            // Only the holder gets here.
            let over = self.grants.0.load(Ordering::Relaxed).wrapping_add(1);
            self.grants.0.store(over, Ordering::Relaxed);
            self.held.0.store(0, Ordering::Release);
        });
    }
}
