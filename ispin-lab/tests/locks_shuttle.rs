//! The queue of `ispin+` under shuttle: random interleavings of up to eight threads, and of a hypervisor that takes them off
//! their pCPUs.
#![allow(dead_code, reason = "members.rs and the models have more than this test uses")]

mod atomics {
    pub use shuttle::sync::atomic::{AtomicU32, Ordering};
}
#[path = "../src/locks/line.rs"]
mod line;
#[path = "../src/locks/members.rs"]
mod members;
mod models;

use members::Members;
use models::{Misled, PCpus, Queue, TornTake, release, take, take_by_the_rule};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread;

struct Shared<Q> {
    queue: Q,
    inside: AtomicU32,
    passages: AtomicU32,
    pcpus: PCpus,
    watched: bool,
}

const PASSAGES: u32 = 3;
/// Turns of the hypervisor that a vCPU is off its pCPU: enough for another to ask as often as it may.
const AWAY: u32 = 8;

fn pass<Q: Queue>(shared: &Shared<Q>, vcpu: u32) {
    // Who is off its pCPU does nothing.
    let runs = || {
        while !shared.pcpus.is_on(vcpu) {
            thread::yield_now();
        }
    };
    for _ in 0..PASSAGES {
        runs();
        let ticket = if shared.watched {
            take_by_the_rule(&shared.queue, &shared.pcpus, vcpu, thread::yield_now)
        } else {
            take(&shared.queue, &shared.pcpus, vcpu, thread::yield_now).0
        };
        while !shared.queue.is_served(ticket) {
            thread::yield_now();
        }
        runs();
        assert_eq!(shared.inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
        thread::yield_now();
        runs();
        shared.inside.fetch_sub(1, Ordering::SeqCst);
        shared.passages.fetch_add(1, Ordering::SeqCst);
        release(&shared.queue, &shared.pcpus, vcpu, ticket);
    }
}

/// A queue that has no rule is not `watched` for it.
fn model<Q: Queue + 'static>(make: fn() -> Q, vcpus: u32, watched: bool) {
    let shared = Arc::new(Shared {
        queue: make(),
        inside: AtomicU32::new(0),
        passages: AtomicU32::new(0),
        pcpus: PCpus::new(vcpus as usize),
        watched,
    });
    let mut threads = vec![];
    for vcpu in 0..vcpus {
        let shared = shared.clone();
        threads.push(thread::spawn(move || pass(&shared, vcpu)));
    }
    // Everybody is off for a while, one after the other, as often as it passes.
    for vcpu in (0..vcpus as usize).cycle().take((vcpus * PASSAGES) as usize) {
        shared.pcpus.set(vcpu, false);
        for _ in 0..AWAY {
            thread::yield_now();
        }
        shared.pcpus.set(vcpu, true);
    }
    for thread in threads {
        thread.join().expect("thread");
    }
    assert_eq!(shared.passages.load(Ordering::SeqCst), vcpus * PASSAGES, "everybody got through");
}

#[test]
fn one_at_a_time_and_everybody_gets_through() {
    for vcpus in [2, 3, 5, 8] {
        shuttle::check_random(move || model(Members::new, vcpus, true), 200);
    }
    // Few switches at the worst places.
    shuttle::check_pct(|| model(Members::new, 8, true), 200, 3);
}

/// Interleavings in which a broken queue has to be found out; far fewer do, mostly.
const MOST: usize = 20_000;

#[test]
#[should_panic(expected = "alone")]
fn a_queue_that_hands_out_a_ticket_twice_is_caught() {
    let broken = || TornTake { next: atomics::AtomicU32::new(0), serving: atomics::AtomicU32::new(0) };
    shuttle::check_random(move || model(broken, 3, false), MOST);
}

#[test]
#[should_panic(expected = "of the queue is off its pCPU")]
fn a_queue_that_forgets_who_is_off_is_caught() {
    shuttle::check_random(|| model(Misled::forgets_off, 3, true), MOST);
}

#[test]
#[should_panic(expected = "of the queue is off its pCPU")]
fn a_queue_that_asks_once_is_caught() {
    shuttle::check_random(|| model(Misled::asks_once, 3, true), MOST);
}
