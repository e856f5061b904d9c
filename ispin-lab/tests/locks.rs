//! Every lock of the library passes the same tests; a deliberately broken one fails them.

use std::cell::UnsafeCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ispin_common::slot::{Ids, NO_LIMIT, Slot};
use ispin_common::threads::Word;
use ispin_lab::locks::{ALGORITHMS, Lock, Parameters};
use ispin_lab::vcpu::{Vcpu, monotonic_ns};
use world::World;

mod fairness;
mod world;

/// Few: on a busy machine every handover of a ticket lock may cost a time slice, which is what this project is
/// about.
const THREADS: usize = 3;
const OPERATIONS: u64 = 300;

/// Least index of a lock that serves those that always want it in turn.
const FAIR: f64 = 0.99;

/// How long a quantum of the test of an unseen renewal lasts.
const DEADLINE_NS: u64 = 100_000_000;

/// A counter that loses updates unless a lock guards it.
struct Unguarded(UnsafeCell<u64>);
// SAFETY: that is what the test is about; accesses are volatile.
unsafe impl Sync for Unguarded {}

/// Lets threads contend; says what went wrong.
fn contend(lock: &dyn Lock, threads: usize, operations: u64) -> Result<World, String> {
    let world = World::new(threads, NO_LIMIT);
    let counter = Unguarded(UnsafeCell::new(0));
    let inside = AtomicU64::new(0);
    let overlaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (world, counter, inside, overlaps) = (&world, &counter, &inside, &overlaps);
            scope.spawn(move || {
                let mut me = world.vcpu(i);
                for n in 0..operations {
                    if n % 7 == 0 && lock.try_lock(&mut me, 2) {
                        // Got it without waiting.
                    } else {
                        lock.lock(&mut me, 1);
                    }
                    if inside.fetch_add(1, Ordering::SeqCst) != 0 {
                        overlaps.fetch_add(1, Ordering::SeqCst);
                    }
                    // SAFETY: volatile access to a cell that outlives the threads.
                    unsafe {
                        let value = counter.0.get().read_volatile();
                        if n % 64 == 0 {
                            std::thread::yield_now();
                        }
                        counter.0.get().write_volatile(value + 1);
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    lock.unlock(&mut me, 1);
                }
                me.retire();
            });
        }
    });
    let (total, overlaps) = (counter.0.into_inner(), overlaps.into_inner());
    if total != threads as u64 * operations || overlaps != 0 {
        return Err(format!("{total} of {} updates, {overlaps} overlaps", threads as u64 * operations));
    }
    Ok(world)
}

#[test]
fn mutual_exclusion_and_complete_accounts() {
    for algorithm in ALGORITHMS {
        let world = contend((algorithm.make)(0, &Parameters::default()).as_ref(), THREADS, OPERATIONS)
            .unwrap_or_else(|e| panic!("{}: {e}", algorithm.name));
        for i in 0..THREADS {
            let row = world.row(i);
            let c = &row.classifier.counters;
            assert_eq!(
                (c.takes, c.acquires, c.releases),
                (OPERATIONS, OPERATIONS, OPERATIONS),
                "{}",
                algorithm.name
            );
            assert_eq!(
                (c.psp(), c.unpaired(), c.open_at_exit, c.deferrals),
                (0, 0, 0, 0),
                "{}",
                algorithm.name
            );
            assert_eq!(
                row.locks.rows.iter().map(|r| r.acquires).sum::<u64>(),
                OPERATIONS,
                "{}",
                algorithm.name
            );
            assert_eq!(Word(row.word).phase_bits(), 0, "{}: idle in the end", algorithm.name);
        }
    }
}

/// Lets everybody in.
struct Broken;

impl Lock for Broken {
    fn lock(&self, _me: &mut Vcpu, _caller: u64) {}
    fn try_lock(&self, _me: &mut Vcpu, _caller: u64) -> bool {
        true
    }
    fn unlock(&self, _me: &mut Vcpu, _caller: u64) {}
}

#[test]
fn a_broken_lock_is_caught() {
    assert!(contend(&Broken, 4, 20_000).is_err());
}

/// How long a thread is given to join a queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until vCPU `i` has a ticket and waits; false if it does not come to that.
fn queues(world: &World, i: usize, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while world.word(i).phase_bits() != 3 {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Lets threads queue up one after the other behind a holder; in which order they are served.
fn order_served(lock: &dyn Lock, patience: Duration) -> Result<Vec<usize>, String> {
    let world = World::new(4, NO_LIMIT);
    let mut first = world.vcpu(0);
    lock.lock(&mut first, 1);
    let order = std::sync::Mutex::new(vec![]);
    let mut missing = None;
    std::thread::scope(|scope| {
        for i in 1..4 {
            let (lock, world, order) = (&lock, &world, &order);
            scope.spawn(move || {
                let mut me = world.vcpu(i);
                lock.lock(&mut me, 1);
                order.lock().expect("order").push(i);
                lock.unlock(&mut me, 1);
            });
            // The next thread starts when this one is queued: its phase word says so.
            if !queues(world, i, patience) {
                missing = Some(i);
                break;
            }
        }
        lock.unlock(&mut first, 1);
    });
    match missing {
        Some(i) => Err(format!("thread {i} does not queue")),
        None => Ok(order.into_inner().expect("order")),
    }
}

#[test]
fn tickets_are_served_in_order() {
    for algorithm in ALGORITHMS.iter().filter(|algorithm| algorithm.fifo) {
        let lock = (algorithm.make)(0, &Parameters::default());
        let order =
            order_served(lock.as_ref(), PATIENCE).unwrap_or_else(|e| panic!("{}: {e}", algorithm.name));
        assert_eq!(order, [1, 2, 3], "{}", algorithm.name);
    }
    assert!(order_served(&Broken, Duration::from_millis(200)).is_err(), "a lock without a queue");
}

/// Fairness index of the threads' shares in a lock that everybody always wants. Each holder
/// waits until all others queue before it lets go, so that no scheduler has a say in it.
fn fairness_of(lock: &dyn Lock, threads: usize, turns: u64, patience: Duration) -> Result<f64, String> {
    let world = World::new(threads, NO_LIMIT);
    let taken = AtomicU64::new(0);
    let (over, alone) = (AtomicBool::new(false), AtomicBool::new(false));
    let shares: Vec<u64> = std::thread::scope(|scope| {
        let run = |i: usize| {
            let (world, taken, over, alone) = (&world, &taken, &over, &alone);
            move || {
                let mut me = world.vcpu(i);
                let mut share = 0;
                while !over.load(Ordering::SeqCst) {
                    lock.lock(&mut me, 1);
                    if !over.load(Ordering::SeqCst) {
                        if !(0..threads).filter(|&j| j != i).all(|j| queues(world, j, patience)) {
                            alone.store(true, Ordering::SeqCst);
                        }
                        share += 1;
                        if taken.fetch_add(1, Ordering::SeqCst) + 1 == turns || alone.load(Ordering::SeqCst) {
                            over.store(true, Ordering::SeqCst);
                        }
                    }
                    lock.unlock(&mut me, 1);
                }
                me.retire();
                share
            }
        };
        let handles: Vec<_> = (0..threads).map(|i| scope.spawn(run(i))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a thread")).collect()
    });
    if alone.into_inner() {
        return Err(format!("a holder waited in vain for the others: {shares:?}"));
    }
    Ok(fairness::index(&shares))
}

#[test]
fn a_queue_gives_equal_shares() {
    for algorithm in ALGORITHMS {
        let lock = (algorithm.make)(0, &Parameters::default());
        let index = fairness_of(lock.as_ref(), THREADS, 30, PATIENCE)
            .unwrap_or_else(|e| panic!("{}: {e}", algorithm.name));
        println!("{}: {index:.3}", algorithm.name);
        assert!(!algorithm.fifo || index > FAIR, "{}: fairness {index}", algorithm.name);
    }
    assert!(
        fairness_of(&Broken, THREADS, 30, Duration::from_millis(200)).is_err(),
        "nobody waits for a broken lock"
    );
}

#[test]
fn informed_locks_defer_to_the_next_quantum_and_others_do_not() {
    for algorithm in ALGORITHMS {
        let lock = (algorithm.make)(0, &Parameters::default());
        let world = World::new(1, monotonic_ns() + 60_000_000_000);
        let renewed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(500));
                let now = monotonic_ns();
                let slot = Slot {
                    ids: Ids::UNPUBLISHED.next_dispatch().switched_out().next_dispatch().0,
                    preemption_time: now + 120_000_000_000,
                    dispatch_start: now,
                    last_out: now - 200_000,
                };
                renewed.store(true, Ordering::SeqCst);
                world.publish(0, |_| slot);
            });
            let mut me = world.vcpu(0);
            lock.lock(&mut me, 1);
            let waited_for_it = renewed.load(Ordering::SeqCst);
            lock.unlock(&mut me, 1);
            assert_eq!(waited_for_it, algorithm.informed, "{}", algorithm.name);
        });
        let c = &world.row(0).classifier.counters;
        assert_eq!(c.deferrals, u64::from(algorithm.informed), "{}", algorithm.name);
        assert_eq!(c.psp(), 0, "{}: a deferral is no preemption of a waiter", algorithm.name);
        if algorithm.informed {
            // 0.2 ms of the deferral were off the pCPU.
            assert_eq!(c.defer_cycles - c.defer_spin_cycles, 200_000, "{}", algorithm.name);
        }
    }
}

#[test]
fn an_unseen_renewal_ends_a_deferral_when_the_deadline_expires() {
    for algorithm in ALGORITHMS.iter().filter(|a| a.informed) {
        let lock = (algorithm.make)(0, &Parameters::default());
        let deadline = monotonic_ns() + DEADLINE_NS;
        let world = World::new(1, deadline);
        let mut me = world.vcpu(0);
        lock.lock(&mut me, 1);
        assert!(
            monotonic_ns() > deadline + me.tick(),
            "{}: a deadline is believed for a tick",
            algorithm.name
        );
        lock.unlock(&mut me, 1);
        // From then on the deadline has expired and is not believed any more.
        lock.lock(&mut me, 1);
        lock.unlock(&mut me, 1);
        let c = &world.row(0).classifier.counters;
        // `ispin+` looks again before the take that ends its deferral, and finds the deadline expired there too.
        let expired = if algorithm.name == "ispin+" { 2 } else { 1 };
        assert_eq!((c.deferrals, c.expired), (1, expired), "{}", algorithm.name);
    }
}

/// Lets threads contend. Whoever holds the lock looks at who waits with a ticket: the most holders that any one waiter saw
/// come and go.
fn holders_waited_for(lock: &dyn Lock, threads: usize, operations: u64) -> u64 {
    let world = World::new(threads, NO_LIMIT);
    // Of each thread: its latest episode, and the holders that found it waiting in that one. Touched by holders alone.
    let seen: Vec<UnsafeCell<(u32, u64)>> = (0..threads).map(|_| UnsafeCell::new((0, 0))).collect();
    let (seen, most) = (Guarded(seen), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (world, seen, most) = (&world, &seen, &most);
            scope.spawn(move || {
                let mut me = world.vcpu(i);
                for _ in 0..operations {
                    lock.lock(&mut me, 1);
                    for j in (0..threads).filter(|&j| j != i) {
                        let word = world.word(j);
                        // SAFETY: the lock is held.
                        let (seq, holders) = unsafe { &mut *seen.0[j].get() };
                        if word.phase().map(|phase| phase.name()) != Some("waiting") {
                            continue;
                        }
                        if *seq != word.seq() {
                            (*seq, *holders) = (word.seq(), 0);
                        }
                        *holders += 1;
                        most.fetch_max(*holders, Ordering::Relaxed);
                    }
                    lock.unlock(&mut me, 1);
                }
                me.retire();
            });
        }
    });
    most.into_inner()
}

/// What a lock guards.
struct Guarded(Vec<UnsafeCell<(u32, u64)>>);
// SAFETY: used by the holder of a lock only.
unsafe impl Sync for Guarded {}

#[test]
fn nobody_with_a_ticket_is_overtaken_in_a_queue() {
    for algorithm in ALGORITHMS {
        let most = holders_waited_for((algorithm.make)(0, &Parameters::default()).as_ref(), 3, 2000);
        println!("{}: a waiter saw at most {most} holders", algorithm.name);
        if algorithm.fifo {
            // The two others, one after the other. That all operations were done is progress, of the other locks too.
            assert!(most <= 2, "{}: {most} holders while one thread waited", algorithm.name);
        }
    }
}

#[test]
fn sleepers_are_woken() {
    // With no patience at all every waiter sleeps: a wake-up that goes missing hangs the test.
    let parameters = Parameters { spin_threshold: 0, oticket_far_turns: 0, ..Parameters::default() };
    for name in ["pvticket", "oticket"] {
        let algorithm = ispin_lab::locks::by_name(name).expect(name);
        contend((algorithm.make)(0, &parameters).as_ref(), 4, 5_000)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn names_are_unique_and_complete() {
    let names: HashSet<&str> = ALGORITHMS.iter().map(|a| a.name).collect();
    assert_eq!(names.len(), ALGORITHMS.len());
    assert!(ALGORITHMS.iter().all(|a| !a.about.is_empty() && !a.paper.is_empty()));
}
