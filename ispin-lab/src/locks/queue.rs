//! The FIFO that all ticket locks share: take a ticket, wait for the turn, hold, release.
//!
//! Every step publishes the thread's phase with one plain store before it reads its ids, so that a switch at
//! any instruction falls either in a phase or in one of three named windows (`taking`, `acquiring`,
//! `releasing`; see `ispin_common::threads::Phase`).

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ispin_common::capability::{Capability, capability, lock_cap};
use ispin_common::event::{Ctx, EventKind};
use ispin_common::slot::{Ids, Slot};
use ispin_common::threads::{Phase, Word};

use crate::vcpu::Vcpu;

#[repr(align(128))]
struct Line<T>(T);

/// What only the holder reads and writes.
#[derive(Clone, Copy, Default)]
struct Holder {
    ticket: u32,
    seq: u32,
    slot: Slot,
    /// Phase word to go back to: that of an outer lock, or idle.
    outer: Word,
}

/// Ticket queue of one lock.
pub struct TicketQueue {
    id: u32,
    next: Line<AtomicU32>,
    serving: Line<AtomicU32>,
    last_release: AtomicU64,
    holder: UnsafeCell<Holder>,
}

// SAFETY: `holder` is touched only between acquire and release by the thread whose ticket is served; the
// Acquire load and the Release store of `serving` order one holder's accesses before the next one's.
unsafe impl Sync for TicketQueue {}

/// How an incapable thread waits for its next quantum. Returns the time that it was off its pCPU.
pub type Defer = fn(&mut Vcpu, &Slot) -> u64;

impl TicketQueue {
    /// The queue of lock number `id`.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            next: Line(AtomicU32::new(0)),
            serving: Line(AtomicU32::new(0)),
            last_release: AtomicU64::new(0),
            holder: UnsafeCell::new(Holder::default()),
        }
    }

    /// The lock's key in events and tables: its number, from 1, because 0 means "none".
    fn key(&self) -> u64 {
        self.id as u64 + 1
    }

    /// Lock queue length now: tickets handed out and not yet served, the holder included.
    pub fn queue_length(&self) -> u32 {
        let serving = self.serving.0.load(Ordering::Relaxed);
        self.next.0.load(Ordering::Relaxed).wrapping_sub(serving)
    }

    /// Takes a ticket at once and waits for its turn.
    pub fn lock(&self, me: &mut Vcpu, caller: u64) {
        let outer = me.word();
        self.take_and_wait(me, caller, outer, Ctx::default(), 0);
    }

    /// The paper's rule (section 4.2.2, Figure 5): an incapable thread defers once, then takes a ticket.
    pub fn lock_informed(&self, me: &mut Vcpu, caller: u64, defer: Defer) {
        let outer = me.word();
        let (mut ctx, mut off) = (Ctx::default(), 0);
        let slot = me.read_own();
        let now = me.now();
        let lql = self.queue_length();
        match capability(&slot, now, lql, me.csd(), me.tick()) {
            Capability::Capable(_) | Capability::Unslotted => {}
            Capability::Expired => ctx = Ctx(Ctx::EXPIRED),
            Capability::Incapable(lock_cap) => {
                me.set_word(Word::new(Phase::Deferring, self.id, 0, me.seq()));
                me.emit(
                    |event| {
                        event.kind = EventKind::Incapable;
                        event.lock = self.key();
                        event.ip = caller;
                        event.lql = lql;
                        event.ids = Ids(slot.ids);
                        event.tsc = now;
                        event.cap = lock_cap;
                        event.start = slot.dispatch_start;
                    },
                    None,
                );
                off = defer(me, &slot);
            }
        }
        self.take_and_wait(me, caller, outer, ctx, off);
    }

    fn take_and_wait(&self, me: &mut Vcpu, caller: u64, outer: Word, ctx: Ctx, deferred_off: u64) {
        let seq = me.next_seq();
        me.set_word(Word::new(Phase::Taking, self.id, 0, seq));
        let take = me.read_own();
        let take_tsc = me.now();
        let ticket = self.next.0.fetch_add(1, Ordering::AcqRel);
        me.set_word(Word::new(Phase::Waiting, self.id, ticket, seq));
        let lql = ticket.wrapping_sub(self.serving.0.load(Ordering::Relaxed));
        let csd = me.csd();
        me.emit(
            |event| {
                event.kind = EventKind::Take;
                event.lock = self.key();
                event.ip = caller;
                event.ticket = ticket;
                event.lql = lql;
                event.ids = Ids(take.ids);
                event.tsc = take_tsc;
                event.cap = lock_cap(&take, take_tsc, lql, csd);
                event.ctx = ctx;
                event.start = take.dispatch_start;
                event.off = deferred_off;
            },
            None,
        );

        let mut off = OffCpu::since(&take);
        while self.serving.0.load(Ordering::Acquire) != ticket {
            off.watch(me);
            spin_loop();
        }
        self.acquired(me, caller, ticket, seq, outer, ctx, off);
    }

    #[allow(clippy::too_many_arguments, reason = "one call site per way to get the lock")]
    fn acquired(
        &self,
        me: &mut Vcpu,
        caller: u64,
        ticket: u32,
        seq: u32,
        outer: Word,
        ctx: Ctx,
        mut off: OffCpu,
    ) {
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

    /// Takes a ticket only if that is the next one to be served.
    pub fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool {
        let serving = self.serving.0.load(Ordering::Acquire);
        if self.next.0.load(Ordering::Relaxed) != serving {
            return false;
        }
        let outer = me.word();
        let seq = me.next_seq();
        me.set_word(Word::new(Phase::Taking, self.id, serving, seq));
        let slot = me.read_own();
        let taken = self
            .next
            .0
            .compare_exchange(serving, serving.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.acquired(me, caller, serving, seq, outer, Ctx(Ctx::TRYLOCK), OffCpu::since(&slot));
        } else {
            me.set_word(outer);
        }
        taken
    }

    /// Serves the next ticket.
    pub fn unlock(&self, me: &mut Vcpu, caller: u64) {
        // SAFETY: the caller holds the lock.
        let holder = unsafe { *self.holder.get() };
        me.set_word(Word::new(Phase::Releasing, self.id, holder.ticket, holder.seq));
        let slot = me.read_own();
        let tsc = me.now();
        let mut off = OffCpu::since(&holder.slot);
        off.add(&slot);
        // The snapshot is taken before the release and reported after it: nobody waits for the report.
        self.last_release.store(tsc, Ordering::Relaxed);
        self.serving.0.store(holder.ticket.wrapping_add(1), Ordering::Release);
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

/// Adds up the time that a waiter was off its pCPU, dispatch by dispatch.
pub struct OffCpu {
    seen: Ids,
    planned_end: u64,
    /// So far.
    pub total: u64,
    /// Whether the first absence began before the published end of its quantum.
    pub early: bool,
    away: bool,
}

impl OffCpu {
    /// From the dispatch that `slot` tells of on.
    pub fn since(slot: &Slot) -> Self {
        Self { seen: Ids(slot.ids), planned_end: slot.preemption_time, total: 0, early: false, away: false }
    }

    /// Looks whether the vCPU was away since the last look.
    #[inline(always)]
    pub fn watch(&mut self, me: &Vcpu) {
        if !me.ids().same_dispatch(self.seen) {
            self.add(&me.read_own());
        }
    }

    /// Adds the absence since the last look, at whose end `slot` was read.
    #[inline(always)]
    pub fn add(&mut self, slot: &Slot) {
        let ids = Ids(slot.ids);
        if ids.same_dispatch(self.seen) {
            return;
        }
        // Dispatches count up by two. More than one further means stays too short for a single look: this
        // vCPU was away since the end of the stay last seen, of which the plan is all that is left.
        let one_further = ids.dispatch_id() >> 1 == (self.seen.dispatch_id() >> 1).wrapping_add(1);
        let left = if one_further { slot.last_out } else { slot.last_out.min(self.planned_end) };
        if !std::mem::replace(&mut self.away, true) {
            self.early = left < self.planned_end;
        }
        self.total += slot.dispatch_start.saturating_sub(left);
        self.seen = ids;
        self.planned_end = slot.preemption_time;
    }
}
