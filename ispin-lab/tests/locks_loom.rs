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
use models::{Asking, PCpus, Queue, TornTake};

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
    shared.queue.admit(&mut Asking { pcpus: &shared.pcpus, asked: 0, relax: thread::yield_now });
    let ticket = shared.queue.take(vcpu);
    while !shared.queue.is_served(ticket) {
        thread::yield_now();
    }
    // SAFETY: loom checks that nobody else is here.
    shared.value.with_mut(|value| unsafe { *value += 1 });
    shared.queue.release(ticket);
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

#[test]
fn one_at_a_time_and_everybody_gets_through() {
    model(Members::new, false);
}

#[test]
fn the_same_while_a_vcpu_loses_its_pcpu() {
    model(Members::new, true);
}

#[test]
#[should_panic]
fn a_queue_that_hands_out_a_ticket_twice_is_caught() {
    model(|| TornTake { next: atomics::AtomicU32::new(0), serving: atomics::AtomicU32::new(0) }, false);
}
