//! Every lock of the library passes the same tests; a deliberately broken one fails them.

use std::cell::UnsafeCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ispin_common::slot::{Ids, NO_LIMIT, Slot};
use ispin_common::threads::{Control, VcpuRow, Word};
use ispin_lab::locks::{ALGORITHMS, Lock, Parameters};
use ispin_lab::vcpu::{Vcpu, monotonic_ns};

/// Few: on a busy machine every handover of a ticket lock may cost a time slice, which is what this project is
/// about.
const THREADS: usize = 3;
const OPERATIONS: u64 = 300;

/// So long that a test thread stays incapable however late it runs on a busy machine.
const CSD: u64 = 60_000_000_000;
const DEADLINE_NS: u64 = 100_000_000;

/// Shared memory of a world without a kernel: the tests publish the slots themselves.
struct World {
    slots: Vec<UnsafeCell<Slot>>,
    rows: Vec<Box<UnsafeCell<VcpuRow>>>,
    control: Control,
}

// SAFETY: slots are written by one publisher with volatile stores, each row by its thread.
unsafe impl Sync for World {}

impl World {
    fn new(vcpus: usize, preemption_time: u64) -> Self {
        let slot = Slot { ids: Ids::UNPUBLISHED.next_dispatch().0, preemption_time, ..Slot::default() };
        // SAFETY: all zeroes is a valid row.
        let row = || unsafe { Box::<UnsafeCell<VcpuRow>>::new_zeroed().assume_init() };
        Self {
            slots: (0..vcpus).map(|_| UnsafeCell::new(slot)).collect(),
            rows: (0..vcpus).map(|_| row()).collect(),
            control: Control { tracing: 1, tick_ns: 4_000_000, ..Control::default() },
        }
    }

    fn vcpu(&self, i: usize) -> Vcpu {
        // SAFETY: the world outlives its vCPUs in every test; one thread per row.
        unsafe { Vcpu::new(self.slots[i].get(), self.rows[i].get(), &self.control, i as u32, CSD) }
    }

    fn row(&self, i: usize) -> &VcpuRow {
        // SAFETY: read after its thread has ended.
        unsafe { &*self.rows[i].get() }
    }

    /// For the one thread that publishes.
    fn slot(&self, i: usize) -> Slot {
        // SAFETY: no other thread writes it.
        unsafe { self.slots[i].get().read_volatile() }
    }

    fn publish(&self, i: usize, slot: Slot) {
        // SAFETY: the only publisher; ids last.
        unsafe {
            let at = self.slots[i].get();
            (&raw mut (*at).preemption_time).write_volatile(slot.preemption_time);
            (&raw mut (*at).dispatch_start).write_volatile(slot.dispatch_start);
            (&raw mut (*at).last_out).write_volatile(slot.last_out);
            (&raw mut (*at).ids).write_volatile(slot.ids);
        }
    }
}

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
    // SAFETY: one aligned word, written by a running thread with volatile stores.
    while Word(unsafe { (&raw const (*world.rows[i].get()).word).read_volatile() }).phase_bits() != 3 {
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

/// Jain's index of the threads' shares in a lock that everybody always wants: 1 = equal, 1 / threads = one has it all. Each holder
/// waits until all others queue before it lets go, so that no scheduler has a say in it.
fn fairness(lock: &dyn Lock, threads: usize, turns: u64, patience: Duration) -> Result<f64, String> {
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
    let sum: u64 = shares.iter().sum();
    let squares: u64 = shares.iter().map(|share| share * share).sum();
    Ok((sum * sum) as f64 / (threads as u64 * squares) as f64)
}

#[test]
fn a_queue_gives_equal_shares() {
    for algorithm in ALGORITHMS {
        let lock = (algorithm.make)(0, &Parameters::default());
        let index = fairness(lock.as_ref(), THREADS, 30, PATIENCE)
            .unwrap_or_else(|e| panic!("{}: {e}", algorithm.name));
        println!("{}: {index:.3}", algorithm.name);
        assert!(!algorithm.fifo || index > 0.99, "{}: fairness {index}", algorithm.name);
    }
    assert!(
        fairness(&Broken, THREADS, 30, Duration::from_millis(200)).is_err(),
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
                world.publish(0, slot);
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
                        // SAFETY: one aligned word, written by a running thread with volatile stores.
                        let word = Word(unsafe { (&raw const (*world.rows[j].get()).word).read_volatile() });
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

/// Lets vCPU 0 take the lock and lose its pCPU; also tells its slot from when it was on it.
fn preempted_holder(lock: &dyn Lock, world: &World) -> (Vcpu, Slot) {
    let mut holder = world.vcpu(0);
    lock.lock(&mut holder, 1);
    let on = Slot { ids: Ids::UNPUBLISHED.next_dispatch().0, preemption_time: NO_LIMIT, ..Slot::default() };
    world.publish(0, Slot { ids: Ids(on.ids).switched_out().0, ..on });
    (holder, on)
}

#[test]
fn ispin_plus_is_refused_while_a_member_of_the_queue_is_off_its_pcpu() {
    let algorithm = ispin_lab::locks::by_name("ispin+").expect("there");
    let lock = (algorithm.make)(0, &Parameters::default());
    let world = World::new(2, NO_LIMIT);
    let (mut holder, on) = preempted_holder(lock.as_ref(), &world);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut me = world.vcpu(1);
            lock.lock(&mut me, 1);
            lock.unlock(&mut me, 1);
        });
        std::thread::sleep(Duration::from_millis(50));
        // SAFETY: one aligned word, written by a running thread with volatile stores.
        let word = Word(unsafe { (&raw const (*world.rows[1].get()).word).read_volatile() });
        assert_eq!(word.phase().map(|phase| phase.name()), Some("deferring"), "no ticket meanwhile");
        world.publish(0, Slot { ids: Ids(on.ids).next_dispatch().0, ..on });
        lock.unlock(&mut holder, 1);
        waiter.join().expect("waiter");
    });
    let c = &world.row(1).classifier.counters;
    assert_eq!((c.deferrals, c.acquires, c.psp()), (1, 1, 0));
}

#[test]
fn ispin_plus_waits_longer_for_a_member_that_is_off_but_not_for_ever() {
    const MAX_DEFER_MS: u32 = 8;
    let algorithm = ispin_lab::locks::by_name("ispin+").expect("there");
    let lock = (algorithm.make)(0, &Parameters { max_defer_ms: MAX_DEFER_MS, ..Parameters::default() });
    let world = World::new(2, NO_LIMIT);
    let (mut holder, _) = preempted_holder(lock.as_ref(), &world);
    std::thread::scope(|scope| {
        let begin = Instant::now();
        let waiter = scope.spawn(|| {
            let mut me = world.vcpu(1);
            lock.lock(&mut me, 1);
            lock.unlock(&mut me, 1);
        });
        let is_waiting = || {
            // SAFETY: one aligned word, written by a running thread with volatile stores.
            let word = Word(unsafe { (&raw const (*world.rows[1].get()).word).read_volatile() });
            word.phase().map(|phase| phase.name()) == Some("waiting")
        };
        while !is_waiting() {
            assert!(begin.elapsed() < Duration::from_secs(60), "no ticket after a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        let least = Duration::from_millis(u64::from(MAX_DEFER_MS) * 16);
        assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
        lock.unlock(&mut holder, 1);
        waiter.join().expect("waiter");
    });
}

#[test]
fn ispin_plus_gives_in_after_max_defer() {
    let algorithm = ispin_lab::locks::by_name("ispin+").expect("there");
    let lock = (algorithm.make)(0, &Parameters { max_defer_ms: 30, ..Parameters::default() });
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
    let algorithm = ispin_lab::locks::by_name("ispin+").expect("there");
    let parameters = Parameters { max_defer_ms: 60_000, ..Parameters::default() };
    // SAFETY: the world outlives its vCPUs in every test; one thread per row.
    let me = unsafe { Vcpu::new(world.slots[0].get(), world.rows[0].get(), &world.control, 0, csd) };
    (me, (algorithm.make)(0, &parameters))
}

#[test]
fn ispin_plus_may_take_a_ticket_in_the_first_eighth_of_each_quantum() {
    const SECOND: u64 = 1_000_000_000;
    for csd in [78 * SECOND, 300 * SECOND, u64::MAX] {
        let now = monotonic_ns();
        let world = World::new(1, now + 80 * SECOND);
        world.publish(0, Slot { dispatch_start: now, preemption_time: now + 80 * SECOND, ..world.slot(0) });
        let (mut me, lock) = patient(&world, csd);
        lock.lock(&mut me, 1);
        lock.unlock(&mut me, 1);
        assert!(monotonic_ns() - now < 10 * SECOND);
        assert_eq!(world.row(0).classifier.counters.deferrals, 0);
    }
}

#[test]
fn ispin_plus_does_not_wait_for_a_third_renewal_that_is_too_short() {
    let begin = monotonic_ns();
    let world = World::new(1, begin + 1_000_000);
    let (mut me, lock) = patient(&world, 1 << 40);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nobody else wants the pCPU, so quanta of a second follow each other.
            while !done.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
                let slot = world.slot(0);
                let ids = Ids(slot.ids).next_renewal().0;
                world.publish(0, Slot { preemption_time: monotonic_ns() + 1_000_000_000, ids, ..slot });
            }
        });
        lock.lock(&mut me, 1);
        lock.unlock(&mut me, 1);
        done.store(true, Ordering::Release);
    });
    assert!(monotonic_ns() - begin < 30_000_000_000, "it waited for max_defer");
    assert_eq!(world.row(0).classifier.counters.deferrals, 1);
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
