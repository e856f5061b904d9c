//! What `ispin+` does beyond what all locks do (those tests are in `locks.rs`): when it refuses a ticket, and for how long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ispin_common::slot::{Ids, NO_LIMIT, Slot};
use ispin_lab::locks::{Lock, Parameters};
use ispin_lab::vcpu::{Vcpu, monotonic_ns};
use world::{CSD, World};

mod world;

/// `ispin+` with these parameters.
fn ispin_plus(parameters: &Parameters) -> Box<dyn Lock> {
    let algorithm = ispin_lab::locks::by_name("ispin+").expect("there");
    (algorithm.make)(0, parameters)
}

/// Lets vCPU 0 take the lock and lose its pCPU.
fn preempted_holder(lock: &dyn Lock, world: &World) -> Vcpu {
    let mut holder = world.vcpu(0);
    lock.lock(&mut holder, 1);
    world.publish(0, |slot| Slot { ids: Ids(slot.ids).switched_out().0, ..slot });
    holder
}

#[test]
fn is_refused_while_a_member_of_the_queue_is_off_its_pcpu() {
    let lock = ispin_plus(&Parameters::default());
    let world = World::new(2, NO_LIMIT);
    let mut holder = preempted_holder(lock.as_ref(), &world);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut me = world.vcpu(1);
            lock.lock(&mut me, 1);
            lock.unlock(&mut me, 1);
        });
        std::thread::sleep(Duration::from_millis(50));
        let phase = world.word(1).phase().map(|phase| phase.name());
        assert_eq!(phase, Some("deferring"), "no ticket meanwhile");
        world.publish(0, |slot| Slot { ids: Ids(slot.ids).next_dispatch().0, ..slot });
        lock.unlock(&mut holder, 1);
        waiter.join().expect("waiter");
    });
    let c = &world.row(1).classifier.counters;
    assert_eq!((c.deferrals, c.acquires, c.psp()), (1, 1, 0));
}

/// How long vCPU 1 is refused, its quantum ending after `left_ns`, behind a holder that is off and stays off.
fn refused_behind_a_preempted_holder(max_defer_ms: u32, left_ns: Option<u64>) -> Duration {
    let lock = ispin_plus(&Parameters { max_defer_ms, ..Parameters::default() });
    let world = World::new(2, NO_LIMIT);
    let mut holder = preempted_holder(lock.as_ref(), &world);
    if let Some(left_ns) = left_ns {
        let end = monotonic_ns() + left_ns;
        world.publish(1, |slot| Slot { preemption_time: end, ..slot });
    }
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut me = world.vcpu(1);
            lock.lock(&mut me, 1);
            lock.unlock(&mut me, 1);
        });
        while world.word(1).phase().map(|phase| phase.name()) != Some("waiting") {
            assert!(begin.elapsed() < Duration::from_secs(60), "no ticket after a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = begin.elapsed();
        lock.unlock(&mut holder, 1);
        waiter.join().expect("waiter");
        took
    })
}

#[test]
fn waits_longer_for_a_member_that_is_off_but_not_for_ever() {
    let took = refused_behind_a_preempted_holder(8, None);
    assert!(took >= Duration::from_millis(8 * 16), "{took:?}");
}

#[test]
fn waits_longer_for_a_member_that_is_off_also_if_time_is_short() {
    let took = refused_behind_a_preempted_holder(8, Some(CSD / 2));
    assert!(took >= Duration::from_millis(8 * 16), "{took:?}");
}

#[test]
fn gives_in_after_max_defer() {
    let lock = ispin_plus(&Parameters { max_defer_ms: 30, ..Parameters::default() });
    // Never again capable: the quantum is over, and there is no other.
    let world = World::new(1, monotonic_ns() + CSD / 2);
    let mut me = world.vcpu(0);
    let begin = Instant::now();
    lock.lock(&mut me, 1);
    assert!(begin.elapsed() >= Duration::from_millis(30), "{:?}", begin.elapsed());
    lock.unlock(&mut me, 1);
}

/// A vCPU whose csd is `csd`, and the lock `ispin+` that refuses tickets for a minute.
fn patient(world: &World, csd: u64) -> (Vcpu, Box<dyn Lock>) {
    let parameters = Parameters { max_defer_ms: 60_000, ..Parameters::default() };
    (world.vcpu_with_csd(0, csd), ispin_plus(&parameters))
}

#[test]
fn may_take_a_ticket_in_the_first_eighth_of_each_quantum() {
    const SECOND: u64 = 1_000_000_000;
    for csd in [78 * SECOND, 300 * SECOND, u64::MAX] {
        let now = monotonic_ns();
        let world = World::new(1, now + 80 * SECOND);
        world.publish(0, |slot| Slot { dispatch_start: now, preemption_time: now + 80 * SECOND, ..slot });
        let (mut me, lock) = patient(&world, csd);
        lock.lock(&mut me, 1);
        lock.unlock(&mut me, 1);
        assert!(monotonic_ns() - now < 10 * SECOND);
        assert_eq!(world.row(0).classifier.counters.deferrals, 0);
    }
}

#[test]
fn does_not_wait_for_a_third_renewal_that_is_too_short() {
    let begin = monotonic_ns();
    let world = World::new(1, begin + 1_000_000);
    let (mut me, lock) = patient(&world, 1 << 40);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nobody else wants the pCPU, so quanta of a second follow each other.
            while !done.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
                world.publish(0, |slot| Slot {
                    preemption_time: monotonic_ns() + 1_000_000_000,
                    ids: Ids(slot.ids).next_renewal().0,
                    ..slot
                });
            }
        });
        lock.lock(&mut me, 1);
        lock.unlock(&mut me, 1);
        done.store(true, Ordering::Release);
    });
    assert!(monotonic_ns() - begin < 30_000_000_000, "it waited for max_defer");
    assert_eq!(world.row(0).classifier.counters.deferrals, 1);
}
