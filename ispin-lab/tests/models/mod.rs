//! What the models of the queue of `ispin+` share, whichever crate runs their threads: the queue by its operations, broken
//! queues, a world in which vCPUs go off their pCPUs, and a watch over who takes a ticket when.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::atomics::{AtomicU32, Ordering};
use super::members::{Members, Refusal, World};

/// Times that a thread asks for a ticket before it takes one all the same.
pub const PATIENCE: u32 = 2;

/// A queue as the threads of a model use it.
pub trait Queue: Send + Sync {
    fn admit(&self, world: &mut impl World);
    fn take(&self, vcpu: u32) -> u32;
    fn is_served(&self, ticket: u32) -> bool;
    fn release(&self, ticket: u32);
}

impl Queue for Members {
    fn admit(&self, world: &mut impl World) {
        Members::admit(self, world);
    }

    fn take(&self, vcpu: u32) -> u32 {
        Members::take(self, vcpu).0
    }

    fn is_served(&self, ticket: u32) -> bool {
        Members::is_served(self, ticket)
    }

    fn release(&self, ticket: u32) {
        Members::release(self, ticket);
    }
}

/// The queue's own code in a world with one wrong answer.
pub struct Misled {
    queue: Members,
    sees_off: bool,
    patient: bool,
}

impl Misled {
    /// Without the rule for members that are off: nobody ever seems to be.
    pub fn forgets_off() -> Self {
        Self { queue: Members::new(), sees_off: false, patient: true }
    }

    /// With the paper's patience: who is refused waits once, and takes a ticket whatever it finds then.
    pub fn asks_once() -> Self {
        Self { queue: Members::new(), sees_off: true, patient: false }
    }
}

impl Queue for Misled {
    fn admit(&self, world: &mut impl World) {
        self.queue.admit(&mut Bent { world, sees_off: self.sees_off, patient: self.patient });
    }

    fn take(&self, vcpu: u32) -> u32 {
        Queue::take(&self.queue, vcpu)
    }

    fn is_served(&self, ticket: u32) -> bool {
        self.queue.is_served(ticket)
    }

    fn release(&self, ticket: u32) {
        self.queue.release(ticket);
    }
}

/// A world with wrong answers.
struct Bent<'a, W> {
    world: &'a mut W,
    sees_off: bool,
    patient: bool,
}

impl<W: World> World for Bent<'_, W> {
    fn lock_cap(&mut self, lql: u32) -> Option<i64> {
        self.world.lock_cap(lql)
    }

    fn is_off(&mut self, vcpu: u32) -> bool {
        self.sees_off && self.world.is_off(vcpu)
    }

    fn refused(&mut self, lql: u32, why: Refusal) {
        self.world.refused(lql, why);
    }

    fn wait(&mut self) {
        self.world.wait();
    }

    fn gives_in(&mut self, lql: u32, why: Refusal) -> bool {
        !self.patient || self.world.gives_in(lql, why)
    }
}

/// Hands tickets out in two steps, so that two threads may get the same. It has no rule who may: what it shows is that exclusion is
/// checked.
pub struct TornTake {
    pub next: AtomicU32,
    pub serving: AtomicU32,
}

impl Queue for TornTake {
    fn admit(&self, _world: &mut impl World) {}

    fn take(&self, _vcpu: u32) -> u32 {
        let ticket = self.next.load(Ordering::SeqCst);
        self.next.store(ticket + 1, Ordering::SeqCst);
        ticket
    }

    fn is_served(&self, ticket: u32) -> bool {
        // Who looks too late must not wait for ever: that would be found first.
        self.serving.load(Ordering::SeqCst) >= ticket
    }

    fn release(&self, ticket: u32) {
        self.serving.fetch_max(ticket + 1, Ordering::SeqCst);
    }
}

/// Whether each vCPU of a model is on its pCPU: as it is published, and as it is.
pub struct PCpus {
    published: Vec<AtomicU32>,
    watch: Watch,
}

impl PCpus {
    pub fn new(vcpus: usize) -> Self {
        Self {
            published: (0..vcpus).map(|_| AtomicU32::new(1)).collect(),
            watch: Watch(Mutex::new(Seen { now: 0, members: vec![None; vcpus], off: vec![None; vcpus] })),
        }
    }

    /// Whether a vCPU is on its pCPU, as is published.
    pub fn is_on(&self, vcpu: u32) -> bool {
        self.published[vcpu as usize].load(Ordering::Acquire) == 1
    }

    /// The hypervisor takes a vCPU off its pCPU, or puts it back.
    pub fn set(&self, vcpu: usize, on: bool) {
        // The watch believes in an absence for no longer than anybody can read of it.
        if on {
            self.watch.seen().off[vcpu] = None;
        }
        self.published[vcpu].store(u32::from(on), Ordering::Release);
        if !on {
            let mut seen = self.watch.seen();
            seen.off[vcpu] = Some(seen.now);
        }
    }
}

/// Sees who is in the queue and who is off, and since when. It is no part of the model: nothing that it does is a step of it, or
/// orders two steps of it.
struct Watch(Mutex<Seen>);

struct Seen {
    /// Counts what was seen.
    now: u64,
    /// Of each vCPU: since when it is a member of the queue.
    members: Vec<Option<u64>>,
    /// Of each vCPU: since when it is off its pCPU.
    off: Vec<Option<u64>>,
}

impl Watch {
    /// What was seen before, one thing more to be seen.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.now += 1;
        seen
    }
}

/// Asks `queue` for a ticket for `vcpu`, and takes it. Also tells when the last look began, as the watch counts; `None` if the wait was
/// over.
pub fn take(queue: &impl Queue, pcpus: &PCpus, vcpu: u32, relax: fn()) -> (u32, Option<u64>) {
    let mut asking = Asking { pcpus, asked: 0, looked: pcpus.watch.seen().now, relax };
    queue.admit(&mut asking);
    let looked = (asking.asked <= PATIENCE).then_some(asking.looked);
    (join(queue, pcpus, vcpu), looked)
}

/// Takes a ticket without asking, as a vCPU does that holds another lock.
pub fn join(queue: &impl Queue, pcpus: &PCpus, vcpu: u32) -> u32 {
    let ticket = queue.take(vcpu);
    let mut seen = pcpus.watch.seen();
    seen.members[vcpu as usize] = Some(seen.now);
    ticket
}

/// [`take`], watched. Asks for a model in which nobody reads what is out of date: loads are in one order with all that the watch sees,
/// or threads are ordered by what started them.
///
/// # Panics
/// If somebody was in the queue and off its pCPU from before the last look until the ticket was taken, though the wait was not over.
pub fn take_by_the_rule(queue: &impl Queue, pcpus: &PCpus, vcpu: u32, relax: fn()) -> u32 {
    let (ticket, looked) = take(queue, pcpus, vcpu, relax);
    if let Some(looked) = looked {
        let seen = pcpus.watch.seen();
        let before = |since: &Option<u64>| since.is_some_and(|since| since < looked);
        let off = (0..seen.off.len()).find(|&i| before(&seen.members[i]) && before(&seen.off[i]));
        assert!(off.is_none(), "a ticket is taken while vCPU {off:?} of the queue is off its pCPU");
    }
    ticket
}

/// Serves the ticket after that of `vcpu`.
pub fn release(queue: &impl Queue, pcpus: &PCpus, vcpu: u32, ticket: u32) {
    pcpus.watch.seen().members[vcpu as usize] = None;
    queue.release(ticket);
}

/// A vCPU that asks for a ticket; `relax` lets other threads run.
struct Asking<'a> {
    pcpus: &'a PCpus,
    asked: u32,
    /// When the last look began, as the watch counts.
    looked: u64,
    relax: fn(),
}

impl World for Asking<'_> {
    fn lock_cap(&mut self, _lql: u32) -> Option<i64> {
        // The first look finds the quantum nearly over, so that every thread is refused at least once.
        Some(if self.asked == 0 { 0 } else { 1 })
    }

    fn is_off(&mut self, vcpu: u32) -> bool {
        !self.pcpus.is_on(vcpu)
    }

    fn refused(&mut self, _lql: u32, _why: Refusal) {
        assert_eq!(self.asked, 0, "a refusal is told once");
    }

    fn wait(&mut self) {
        self.asked += 1;
        (self.relax)();
        self.looked = self.pcpus.watch.seen().now;
        assert!(self.asked <= PATIENCE + 1, "asked again after it gave in");
    }

    fn gives_in(&mut self, _lql: u32, _why: Refusal) -> bool {
        self.asked > PATIENCE
    }
}
