//! What every lock of the library tells about a passage through it: the phase word, which the publisher reads, and the
//! events, which the classifier gets. A lock adds nothing but its own words and how it waits.
//!
//! Every step publishes the thread's phase with one plain store before it reads its ids, so that a switch at
//! any instruction falls either in a phase or in one of three named windows (`taking`, `acquiring`,
//! `releasing`; see `ispin_common::threads::Phase`).

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use ispin_common::capability::lock_cap;
use ispin_common::event::{Ctx, EventKind};
use ispin_common::slot::{Ids, Slot};
use ispin_common::threads::{Phase, Word};

use super::members::Refusal;
use super::off_cpu::OffCpu;
use crate::vcpu::Vcpu;

/// What only the holder reads and writes.
#[derive(Clone, Copy, Default)]
struct Holder {
    ticket: u32,
    seq: u32,
    slot: Slot,
    /// Phase word to go back to: that of an outer lock, or idle.
    outer: Word,
}

/// The account of one lock.
pub struct Passages {
    id: u32,
    last_release: AtomicU64,
    holder: UnsafeCell<Holder>,
}

// SAFETY: `holder` is touched only between acquire and release by the thread that holds the lock; what makes the lock
// exclude others orders one holder's accesses before the next one's.
unsafe impl Sync for Passages {}

/// A thread that is about to take a ticket, or to join those that contend.
pub struct Arrival {
    caller: u64,
    outer: Word,
    seq: u32,
    slot: Slot,
    tsc: u64,
}

/// A thread that waits for its turn.
pub struct Waiter {
    caller: u64,
    outer: Word,
    seq: u32,
    /// The ticket, 0 where there is none.
    pub ticket: u32,
    /// Marks for the acquire.
    pub ctx: Ctx,
    /// Its absences since its arrival.
    pub off: OffCpu,
}

/// How a deferral ended, for the take that follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deferred {
    /// Marks for the take.
    pub ctx: Ctx,
    /// Time off the pCPU while it lasted.
    pub off: u64,
}

impl Passages {
    /// The account of lock number `id`.
    pub fn new(id: u32) -> Self {
        Self { id, last_release: AtomicU64::new(0), holder: UnsafeCell::new(Holder::default()) }
    }

    /// The lock's key in events and tables: its number, from 1, because 0 means "none".
    fn key(&self) -> u64 {
        self.id as u64 + 1
    }

    /// A ticket is refused to `me`, whose slot was read at `now`: it defers from here on. The next step is an arrival.
    pub fn refused(&self, me: &mut Vcpu, caller: u64, slot: &Slot, now: u64, lql: u32, why: Refusal) {
        me.set_word(Word::new(Phase::Deferring, self.id, 0, me.seq()));
        let csd = me.csd();
        me.emit(
            |event| {
                event.kind = EventKind::Incapable;
                event.lock = self.key();
                event.ip = caller;
                event.lql = lql;
                event.ids = Ids(slot.ids);
                event.tsc = now;
                event.cap = lock_cap(slot, now, lql, csd);
                event.ctx = match why {
                    Refusal::Time => Ctx::default(),
                    Refusal::Stalled => Ctx(Ctx::STALLED),
                };
                event.start = slot.dispatch_start;
            },
            None,
        );
    }

    /// Before the ticket is taken. `outer` is the phase word that `me` had when it called the lock.
    #[inline(always)]
    pub fn arrive(&self, me: &mut Vcpu, caller: u64, outer: Word) -> Arrival {
        let seq = me.next_seq();
        me.set_word(Word::new(Phase::Taking, self.id, 0, seq));
        let slot = me.read_own();
        Arrival { caller, outer, seq, slot, tsc: me.now() }
    }

    /// After the ticket was taken, `lql` others before it.
    #[inline(always)]
    pub fn taken(
        &self,
        me: &mut Vcpu,
        arrival: Arrival,
        ticket: u32,
        lql: u32,
        deferred: Deferred,
    ) -> Waiter {
        let Arrival { caller, outer, seq, slot, tsc } = arrival;
        me.set_word(Word::new(Phase::Waiting, self.id, ticket, seq));
        let csd = me.csd();
        me.emit(
            |event| {
                event.kind = EventKind::Take;
                event.lock = self.key();
                event.ip = caller;
                event.ticket = ticket;
                event.lql = lql;
                event.ids = Ids(slot.ids);
                event.tsc = tsc;
                event.cap = lock_cap(&slot, tsc, lql, csd);
                event.ctx = deferred.ctx;
                event.start = slot.dispatch_start;
                event.off = deferred.off;
            },
            None,
        );
        Waiter { caller, outer, seq, ticket, ctx: deferred.ctx, off: OffCpu::since(&slot) }
    }

    /// A trylock: take and acquire in one, if `take` gets the lock. It returns the ticket, 0 where there is none.
    #[inline(always)]
    pub fn try_pass(&self, me: &mut Vcpu, caller: u64, take: impl FnOnce() -> Option<u32>) -> bool {
        let Arrival { caller, outer, seq, slot, .. } = self.arrive(me, caller, me.word());
        let Some(ticket) = take() else {
            me.set_word(outer);
            return false;
        };
        let off = OffCpu::since(&slot);
        self.acquired(me, Waiter { caller, outer, seq, ticket, ctx: Ctx(Ctx::TRYLOCK), off });
        true
    }

    /// The lock is held by `me` from here on.
    #[inline(always)]
    pub fn acquired(&self, me: &mut Vcpu, waiter: Waiter) {
        let Waiter { caller, outer, seq, ticket, ctx, mut off } = waiter;
        me.set_word(Word::new(Phase::Acquiring, self.id, ticket, seq));
        let slot = me.read_own();
        let tsc = me.now();
        me.set_word(Word::new(Phase::Holding, self.id, ticket, seq));
        off.add(&slot);
        // SAFETY: this thread holds the lock.
        unsafe { *self.holder.get() = Holder { ticket, seq, slot, outer } };
        let released = self.last_release.load(Ordering::Relaxed);
        me.emit(
            |event| {
                event.kind = EventKind::Acquire;
                event.lock = self.key();
                event.ip = caller;
                event.ticket = ticket;
                event.ids = Ids(slot.ids);
                event.tsc = tsc;
                event.ctx = if off.early { Ctx(ctx.0 | Ctx::EARLY) } else { ctx };
                event.start = slot.dispatch_start;
                event.off = off.total;
            },
            Some(released),
        );
    }

    /// `me`, which holds the lock, releases it: `give` makes the store, and gets the ticket.
    ///
    /// The snapshot is taken before the release and reported after it: nobody waits for the report.
    #[inline(always)]
    pub fn release(&self, me: &mut Vcpu, caller: u64, give: impl FnOnce(&mut Vcpu, u32)) {
        // SAFETY: the caller holds the lock.
        let holder = unsafe { *self.holder.get() };
        me.set_word(Word::new(Phase::Releasing, self.id, holder.ticket, holder.seq));
        let slot = me.read_own();
        let tsc = me.now();
        let mut off = OffCpu::since(&holder.slot);
        off.add(&slot);
        self.last_release.store(tsc, Ordering::Relaxed);
        give(me, holder.ticket);
        me.set_word(holder.outer);
        me.emit(
            |event| {
                event.kind = EventKind::Release;
                event.lock = self.key();
                event.ip = caller;
                event.ticket = holder.ticket;
                event.ids = Ids(slot.ids);
                event.tsc = tsc;
                event.start = slot.dispatch_start;
                event.off = off.total;
            },
            None,
        );
    }
}
