//! Ticket locks whose waiters sleep and are woken, as Linux 3.13 did it for guests (`arch/x86/include/asm/spinlock.h`,
//! `arch/x86/xen/spinlock.c`): a futex in the place of the event channel.
//!
//! Tickets go up by two. Bit 0 of the next ticket says that somebody sleeps, so that an unlock knows with one look.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};

use ispin_common::event::Ctx;
use ispin_common::slot::MAX_SLOTS;
use rustix::thread::futex;

use super::Lock;
use super::line::Line;
use super::passage::{Deferred, Passages};
use crate::vcpu::Vcpu;

const SOMEBODY_SLEEPS: u32 = 1;
const TICKET: u32 = 2;
/// No ticket: those are even.
const NONE: u32 = 1;

/// A place to sleep, one for each vCPU.
struct Place {
    /// The ticket that its vCPU waits for, or [`NONE`].
    wanted: AtomicU32,
    /// Counts kicks; what the futex waits on.
    kicks: AtomicU32,
}

/// Turns that a waiter spins before it sleeps, told how many tickets are before its own.
pub type Patience = Box<dyn Fn(u32) -> u32 + Send + Sync>;

/// A ticket queue in which waiters sleep.
pub struct ParkingQueue {
    passages: Passages,
    /// Next ticket, and [`SOMEBODY_SLEEPS`].
    next: Line<AtomicU32>,
    serving: Line<AtomicU32>,
    places: [Line<Place>; MAX_SLOTS],
    patience: Patience,
    /// Waiters that an unlock wakes: that whose turn it is, and so many behind it.
    wake_ahead: u32,
}

impl ParkingQueue {
    /// The queue of lock number `id`.
    pub fn new(id: u32, wake_ahead: u32, patience: Patience) -> Self {
        let place = || Line(Place { wanted: AtomicU32::new(NONE), kicks: AtomicU32::new(0) });
        Self {
            passages: Passages::new(id),
            next: Line(AtomicU32::new(0)),
            serving: Line(AtomicU32::new(0)),
            places: std::array::from_fn(|_| place()),
            patience,
            wake_ahead,
        }
    }

    /// Sleeps until an unlock kicks, unless the turn has come.
    fn sleep(&self, me: &Vcpu, ticket: u32) {
        let Line(place) = &self.places[me.number() as usize];
        let kicks = place.kicks.load(Ordering::SeqCst);
        place.wanted.store(ticket, Ordering::SeqCst);
        self.next.0.fetch_or(SOMEBODY_SLEEPS, Ordering::SeqCst);
        // The unlock stores `serving` before it looks at the flag, and this thread sets the flag before it looks at
        // `serving`: one of the two sees the other.
        if self.serving.0.load(Ordering::SeqCst) != ticket {
            // Returns at once after a kick; other early returns lead to another look.
            let _ = futex::wait(&place.kicks, futex::Flags::PRIVATE, kicks, None);
        }
        place.wanted.store(NONE, Ordering::SeqCst);
    }

    #[cold]
    fn wake(&self, serving: u32) {
        // Nobody waits: the flag goes away, unless somebody comes meanwhile.
        let idle = serving | SOMEBODY_SLEEPS;
        if self.next.0.compare_exchange(idle, serving, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
        for Line(place) in &self.places {
            let wanted = place.wanted.load(Ordering::SeqCst);
            if wanted != NONE && wanted.wrapping_sub(serving) / TICKET <= self.wake_ahead {
                place.kicks.fetch_add(1, Ordering::SeqCst);
                // Fails only for addresses that are none.
                let _ = futex::wake(&place.kicks, futex::Flags::PRIVATE, 1);
            }
        }
    }
}

impl Lock for ParkingQueue {
    /// Takes a ticket and waits for its turn, spinning first, sleeping then.
    fn lock(&self, me: &mut Vcpu, caller: u64) {
        let arrival = self.passages.arrive(me, caller, me.word());
        let ticket = self.next.0.fetch_add(TICKET, Ordering::AcqRel) & !SOMEBODY_SLEEPS;
        let before = |serving: u32| ticket.wrapping_sub(serving) / TICKET;
        let lql = before(self.serving.0.load(Ordering::Relaxed));
        let mut waiter = self.passages.taken(me, arrival, ticket, lql, Deferred::default());
        let mut turns = 0;
        loop {
            let serving = self.serving.0.load(Ordering::Acquire);
            if serving == ticket {
                break;
            }
            waiter.off.watch(me);
            if turns < (self.patience)(before(serving)) {
                turns += 1;
                spin_loop();
            } else {
                waiter.ctx = Ctx(waiter.ctx.0 | Ctx::BLOCKED);
                waiter.off.leaves(me.now());
                self.sleep(me, ticket);
                turns = 0;
            }
        }
        self.passages.acquired(me, waiter);
    }

    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        let serving = self.serving.0.load(Ordering::Acquire);
        if self.next.0.load(Ordering::Relaxed) != serving {
            return false;
        }
        self.passages.try_pass(me, caller, || {
            let after = serving.wrapping_add(TICKET);
            self.next.0.compare_exchange(serving, after, Ordering::AcqRel, Ordering::Relaxed).ok()
        })
    }

    /// Serves the next ticket, and wakes who waits for it.
    fn unlock(&self, me: &mut Vcpu, caller: u64) {
        self.passages.release(me, caller, |_, ticket| {
            let serving = ticket.wrapping_add(TICKET);
            self.serving.0.swap(serving, Ordering::SeqCst);
            let next = self.next.0.load(Ordering::SeqCst);
            if next & SOMEBODY_SLEEPS != 0 {
                self.wake(serving);
            }
        });
    }
}
