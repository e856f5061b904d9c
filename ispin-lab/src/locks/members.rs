//! A ticket queue that knows which vCPUs are in it, and the rule of `ispin+` who may join it.
//!
//! Nothing here touches a clock, a slot or a kernel: what the rule has to know of them it asks a [`World`]. So the same
//! source runs under loom and shuttle (`tests/locks_loom.rs`, `tests/locks_shuttle.rs`), which bring their own atomics.

use super::atomics::{AtomicU32, Ordering};
use super::line::Line;

/// Tickets whose holders are known. More vCPUs than that cannot share a lock.
pub const MEMBERS: usize = 32;

/// A ticket queue and the vCPU that holds each ticket of it.
pub struct Members {
    next: Line<AtomicU32>,
    serving: Line<AtomicU32>,
    /// The vCPU with ticket t is in place t modulo [`MEMBERS`]. A place is written after its ticket was taken, so for a
    /// moment it tells who had it [`MEMBERS`] tickets before. That can refuse or grant a ticket wrongly, and no more:
    /// the tickets alone exclude.
    who: Line<[AtomicU32; MEMBERS]>,
}

/// Why a ticket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The quantum may end before the ticket is used up: `lock_cap` is zero or less (paper, equation 2).
    Time,
    /// The holder or a waiter is off its pCPU: whoever joins waits until that one is back.
    Stalled,
}

/// What the rule has to know, and what it does while a ticket is refused.
pub trait World {
    /// `lock_cap` with `lql` tickets before; `None` if no end of the quantum is known.
    fn lock_cap(&mut self, lql: u32) -> Option<i64>;
    /// Whether a vCPU is off its pCPU.
    fn is_off(&mut self, vcpu: u32) -> bool;
    /// Called once, when the first answer is a refusal.
    fn refused(&mut self, lql: u32, why: Refusal);
    /// Lets time go by.
    fn wait(&mut self);
    /// Asked after each wait that ends in a refusal again, with `lql` tickets before: whether this has lasted for long enough, and
    /// the ticket is taken all the same.
    fn gives_in(&mut self, lql: u32, why: Refusal) -> bool;
}

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

impl Members {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            next: Line(AtomicU32::new(0)),
            serving: Line(AtomicU32::new(0)),
            who: Line(std::array::from_fn(|_| AtomicU32::new(0))),
        }
    }

    fn place(&self, ticket: u32) -> &AtomicU32 {
        &self.who.0[ticket as usize % MEMBERS]
    }

    /// Why no ticket should be taken now, if there is a reason. Of two it is the one that is waited out for longer: a member that is
    /// off, however little time is left as well.
    ///
    /// An empty queue costs one comparison of times; a longer one a look at each of its members.
    #[inline(always)]
    pub fn refusal(&self, world: &mut impl World) -> Option<(u32, Refusal)> {
        let serving = self.serving.0.load(Ordering::Relaxed);
        let lql = self.next.0.load(Ordering::Relaxed).wrapping_sub(serving);
        let short = world.lock_cap(lql).is_some_and(|lock_cap| lock_cap <= 0);
        // `serving` may have moved on between the two loads; then there is less to look at than it seems.
        for i in 0..lql.min(MEMBERS as u32) {
            let vcpu = self.place(serving.wrapping_add(i)).load(Ordering::Relaxed);
            if world.is_off(vcpu) {
                return Some((lql, Refusal::Stalled));
            }
        }
        short.then_some((lql, Refusal::Time))
    }

    /// Waits until a ticket may be taken, or [`World::gives_in`]. Asks again after each wait, and gives in after that only: a
    /// wait can last for long, and much can have changed.
    #[inline(always)]
    pub fn admit(&self, world: &mut impl World) {
        if let Some((lql, why)) = self.refusal(world) {
            world.refused(lql, why);
            loop {
                world.wait();
                match self.refusal(world) {
                    Some((lql, why)) if !world.gives_in(lql, why) => {}
                    _ => break,
                }
            }
        }
    }

    /// Takes a ticket for `vcpu`; also tells how many are before it.
    #[inline(always)]
    pub fn take(&self, vcpu: u32) -> (u32, u32) {
        let ticket = self.next.0.fetch_add(1, Ordering::AcqRel);
        self.place(ticket).store(vcpu, Ordering::Relaxed);
        (ticket, ticket.wrapping_sub(self.serving.0.load(Ordering::Relaxed)))
    }

    /// Takes a ticket for `vcpu` if it is the next one to be served.
    #[inline(always)]
    pub fn try_take(&self, vcpu: u32) -> Option<u32> {
        let serving = self.serving.0.load(Ordering::Acquire);
        let after = serving.wrapping_add(1);
        self.next.0.compare_exchange(serving, after, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.place(serving).store(vcpu, Ordering::Relaxed);
        Some(serving)
    }

    /// Whether it is this ticket's turn.
    #[inline(always)]
    pub fn is_served(&self, ticket: u32) -> bool {
        self.serving.0.load(Ordering::Acquire) == ticket
    }

    /// Serves the ticket after this one, which is that of the holder.
    #[inline(always)]
    pub fn release(&self, ticket: u32) {
        self.serving.0.store(ticket.wrapping_add(1), Ordering::Release);
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.next.0.load(Ordering::Relaxed) == self.serving.0.load(Ordering::Relaxed)
    }
}
