//! What the models of the queue of `ispin+` share, whichever crate runs their threads: the queue by its operations, broken
//! queues, and a world in which vCPUs go off their pCPUs.

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

/// Hands tickets out in two steps, so that two threads may get the same.
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
        self.serving.load(Ordering::SeqCst) == ticket
    }

    fn release(&self, ticket: u32) {
        self.serving.store(ticket + 1, Ordering::SeqCst);
    }
}

/// What the vCPUs of a model know: whether each is on its pCPU.
pub struct PCpus(Vec<AtomicU32>);

impl PCpus {
    pub fn new(vcpus: usize) -> Self {
        Self((0..vcpus).map(|_| AtomicU32::new(1)).collect())
    }

    /// The hypervisor takes a vCPU off its pCPU, or puts it back.
    pub fn set(&self, vcpu: usize, on: bool) {
        self.0[vcpu].store(u32::from(on), Ordering::Release);
    }
}

/// A vCPU that asks for a ticket; `relax` lets other threads run.
pub struct Asking<'a> {
    pub pcpus: &'a PCpus,
    pub asked: u32,
    pub relax: fn(),
}

impl World for Asking<'_> {
    fn lock_cap(&mut self, _lql: u32) -> Option<i64> {
        // The first look finds the quantum nearly over, so that every thread is refused at least once.
        Some(if self.asked == 0 { 0 } else { 1 })
    }

    fn is_off(&mut self, vcpu: u32) -> bool {
        self.pcpus.0[vcpu as usize].load(Ordering::Acquire) == 0
    }

    fn refused(&mut self, _lql: u32, _why: Refusal) {
        assert_eq!(self.asked, 0, "a refusal is told once");
    }

    fn wait(&mut self) {
        self.asked += 1;
        (self.relax)();
        assert!(self.asked <= PATIENCE + 1, "asked again after it gave in");
    }

    fn gives_in(&mut self, _lql: u32, _why: Refusal) -> bool {
        self.asked > PATIENCE
    }
}
