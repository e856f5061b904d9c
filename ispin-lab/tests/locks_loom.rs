//! The queue of `ispin+` under loom: every interleaving of two threads, and of a hypervisor that takes one of them off its
//! pCPU, with every outcome that the memory model allows.
#![allow(dead_code, reason = "members.rs and the models have more than this test uses")]

mod atomics {
    pub use loom::sync::atomic::{AtomicU32, Ordering};
}
#[path = "../src/locks/line.rs"]
mod line;
#[path = "../src/locks/members.rs"]
mod members;
mod models;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use members::Members;
use models::{Misled, PATIENCE, PCpus, Queue, TornTake, join, release, take, take_by_the_rule};

/// A queue and what it guards: loom complains of accesses that nothing orders.
struct Guarded<Q> {
    queue: Q,
    value: UnsafeCell<u32>,
    pcpus: PCpus,
}

// SAFETY: `value` is used by the holder of the lock; if that fails, loom says so, which is what the tests are for.
unsafe impl<Q: Send> Send for Guarded<Q> {}
// SAFETY: the same.
unsafe impl<Q: Sync> Sync for Guarded<Q> {}

fn pass<Q: Queue>(shared: &Guarded<Q>, vcpu: u32) {
    // Unwatched: nothing orders who joins with who looks, so a look may miss somebody.
    let (ticket, _) = take(&shared.queue, &shared.pcpus, vcpu, thread::yield_now);
    enter(shared, vcpu, ticket);
}

/// Waits for the turn of `ticket`, holds the lock and releases it.
fn enter<Q: Queue>(shared: &Guarded<Q>, vcpu: u32, ticket: u32) {
    while !shared.queue.is_served(ticket) {
        thread::yield_now();
    }
    // SAFETY: loom checks that nobody else is here.
    shared.value.with_mut(|value| unsafe { *value += 1 });
    release(&shared.queue, &shared.pcpus, vcpu, ticket);
}

fn model<Q: Queue + 'static>(make: fn() -> Q, preempt: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Arc::new(Guarded { queue: make(), value: UnsafeCell::new(0), pcpus: PCpus::new(2) });
        let other = {
            let shared = shared.clone();
            thread::spawn(move || pass(&shared, 1))
        };
        let hypervisor = preempt.then(|| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.pcpus.set(1, false);
                shared.pcpus.set(1, true);
            })
        });
        pass(&shared, 0);
        other.join().expect("thread");
        if let Some(hypervisor) = hypervisor {
            hypervisor.join().expect("hypervisor");
        }
        // SAFETY: all others have ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 2);
    });
}

/// vCPU 1 has a ticket and is off its pCPU before vCPU 0 asks for one, and is back some time: at the latest when vCPU 0 has asked for as
/// often as it may.
fn model_of_a_member_that_is_off<Q: Queue + 'static>(make: fn() -> Q) {
    for turns in 0..=PATIENCE + 1 {
        member_is_off_for(turns, make);
    }
}

/// The same, `turns` of the other thread at least.
fn member_is_off_for<Q: Queue + 'static>(turns: u32, make: fn() -> Q) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Arc::new(Guarded { queue: make(), value: UnsafeCell::new(0), pcpus: PCpus::new(2) });
        let ticket = join(&shared.queue, &shared.pcpus, 1);
        shared.pcpus.set(1, false);
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ticket = take_by_the_rule(&shared.queue, &shared.pcpus, 0, thread::yield_now);
                enter(&shared, 0, ticket);
            })
        };
        for _ in 0..turns {
            thread::yield_now();
        }
        shared.pcpus.set(1, true);
        enter(&shared, 1, ticket);
        other.join().expect("thread");
        // SAFETY: all others have ended.
        assert_eq!(shared.value.with(|value| unsafe { *value }), 2);
    });
}

#[test]
fn one_at_a_time_and_everybody_gets_through() {
    model(Members::new, false);
}

#[test]
fn the_same_while_a_vcpu_loses_its_pcpu() {
    model(Members::new, true);
}

#[test]
fn nobody_joins_while_a_member_is_off_and_the_wait_not_over() {
    model_of_a_member_that_is_off(Members::new);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_queue_that_hands_out_a_ticket_twice_is_caught() {
    model(|| TornTake { next: atomics::AtomicU32::new(0), serving: atomics::AtomicU32::new(0) }, false);
}

#[test]
#[should_panic(expected = "of the queue is off its pCPU")]
fn a_queue_that_forgets_who_is_off_is_caught() {
    model_of_a_member_that_is_off(Misled::forgets_off);
}

#[test]
#[should_panic(expected = "of the queue is off its pCPU")]
fn a_queue_that_asks_once_is_caught() {
    model_of_a_member_that_is_off(Misled::asks_once);
}
