//! What a vCPU thread has at hand: its slot (read only), its row (written by it alone), the clock.

use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use std::sync::atomic::{Ordering, compiler_fence};

use ispin_common::event::{Ctx, Event, EventKind};
use ispin_common::ring::Ring;
use ispin_common::slot::{self, Ids, Slot};
use ispin_common::threads::{Control, Phase, VcpuRow, Word};

/// `CLOCK_MONOTONIC` in ns: the clock of the publisher's slots.
#[inline(always)]
pub fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The least that counts as a quantum: Xen's default rate limit (`sched_ratelimit_us`).
pub const SHORTEST_QUANTUM_NS: u64 = 1_000_000;

/// How many shorter ones a deferral sits out.
pub const MOST_SHORT_QUANTA: u32 = 16;

/// One vCPU thread's view of the world.
pub struct Vcpu {
    slot: *const Slot,
    row: *mut VcpuRow,
    vcpu: u32,
    tracing: bool,
    csd: u64,
    tick: u64,
    seq: u32,
}

impl Vcpu {
    /// The vCPU of slot number `vcpu`.
    ///
    /// # Safety
    /// `slot`, `row` and `control` point to mapped, aligned values that outlive the result; nobody else
    /// writes `row` (but for the tail of its ring). `slot` is element number `vcpu` of the slots of all vCPUs that
    /// share locks with this one.
    pub unsafe fn new(
        slot: *const Slot,
        row: *mut VcpuRow,
        control: *const Control,
        vcpu: u32,
        csd: u64,
    ) -> Self {
        // SAFETY: mapped and aligned by the caller's word.
        let (tracing, tick) = unsafe {
            (read_volatile(addr_of!((*control).tracing)), read_volatile(addr_of!((*control).tick_ns)))
        };
        // SAFETY: nobody else writes the row, by the caller's word.
        unsafe { write_volatile(addr_of_mut!((*row).classifier.csd), csd) };
        Self { slot, row, vcpu, tracing: tracing != 0, csd, tick, seq: 0 }
    }

    /// Critical section duration estimate, ns.
    #[inline(always)]
    pub fn csd(&self) -> u64 {
        self.csd
    }

    /// The scheduler's tick, ns: how old a deadline may be and still be believed.
    #[inline(always)]
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Whether a deferral that began in the quantum of `slot` is over: the next quantum has begun.
    ///
    /// The paper's locks wait for the next quantum and then take, relying on a quantum that is far longer
    /// than a critical section (section 5.2). What a yield within a tick or a host window leaves over is no
    /// such quantum; Xen grants none below its rate limit. So shorter ones do not end the deferral, up to
    /// [`MOST_SHORT_QUANTA`] of them. A deadline that expired means a renewal that the publisher could not see.
    #[inline(always)]
    pub fn next_quantum_has_begun(&self, slot: &Slot) -> bool {
        let ids = self.ids();
        let now = self.now();
        if ids.same_slice(Ids(slot.ids)) {
            return now > slot.preemption_time.saturating_add(self.tick);
        }
        let granted = self.read_own().preemption_time;
        granted >= now + SHORTEST_QUANTUM_NS
            || now > granted.saturating_add(self.tick)
            || ids.slice_id().wrapping_sub(Ids(slot.ids).slice_id()) >= MOST_SHORT_QUANTA
    }

    /// Now, ns.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        monotonic_ns()
    }

    /// This vCPU's ids.
    #[inline(always)]
    pub fn ids(&self) -> Ids {
        // SAFETY: the slot is mapped while self lives.
        unsafe { slot::read_ids(self.slot) }
    }

    /// Number of this vCPU in its VM.
    #[inline(always)]
    pub fn number(&self) -> u32 {
        self.vcpu
    }

    /// The ids of another vCPU of the VM.
    ///
    /// # Panics
    /// In debug builds, if there is no slot of that number.
    #[inline(always)]
    pub fn ids_of(&self, vcpu: u32) -> Ids {
        debug_assert!((vcpu as usize) < slot::MAX_SLOTS);
        // SAFETY: the slots of a VM lie one behind the other, this vCPU's at its number, by the word given to `new`.
        unsafe { slot::read_ids(self.slot.offset(vcpu as isize - self.vcpu as isize)) }
    }

    /// A consistent copy of this vCPU's slot.
    #[inline(always)]
    pub fn read_own(&self) -> Slot {
        // SAFETY: the slot is mapped while self lives, and this thread runs on the vCPU it describes.
        unsafe { slot::read_own(self.slot) }
    }

    /// The phase word as last published.
    #[inline(always)]
    pub fn word(&self) -> Word {
        // SAFETY: own row.
        Word(unsafe { read_volatile(addr_of!((*self.row).word)) })
    }

    /// Publishes the phase for the publisher, which reads it on this very CPU: program order is enough.
    #[inline(always)]
    pub fn set_word(&mut self, word: Word) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: own row; one aligned store.
        unsafe { write_volatile(addr_of_mut!((*self.row).word), word.0) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Number of the latest episode.
    #[inline(always)]
    pub fn seq(&self) -> u32 {
        self.seq
    }

    /// Number of the next episode.
    #[inline(always)]
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Says that one more operation was completed.
    #[inline(always)]
    pub fn count_operation(&mut self) {
        // SAFETY: own row; the agent reads this word at any time.
        unsafe {
            let done = read_volatile(addr_of!((*self.row).operations));
            write_volatile(addr_of_mut!((*self.row).operations), done + 1);
        }
    }

    /// Goes back to no phase at all, at the end of the thread.
    pub fn retire(&mut self) {
        self.set_word(Word::new(Phase::Idle, 0, 0, self.seq));
        if self.tracing {
            // SAFETY: own row.
            unsafe { (*addr_of_mut!((*self.row).classifier)).flush() };
        }
    }

    /// Hands an event to the classifier in this thread's row, if anybody wants to know.
    #[inline(always)]
    pub fn emit(&mut self, fill: impl FnOnce(&mut Event), last_release: Option<u64>) {
        if self.tracing {
            let mut event = EMPTY;
            fill(&mut event);
            self.classify(&event, last_release.filter(|&at| at != 0));
        }
    }

    #[inline(never)]
    fn classify(&mut self, event: &Event, last_release: Option<u64>) {
        // SAFETY: own row; readers in other processes tolerate values in mid-update.
        let row = unsafe { &mut *self.row };
        if event.kind == EventKind::Take || event.ctx.has(Ctx::TRYLOCK) && event.kind == EventKind::Acquire {
            row.classifier.next_seq = self.seq;
        }
        let outcome = row.classifier.on_event(event, last_release);
        row.locks.row(event.lock).add(event, &outcome);
        row.callers.row(outcome.ip).add(event, &outcome);
        if let Some(mut incident) = outcome.incident {
            incident.vcpu = self.vcpu;
            // SAFETY: this thread is the ring's only producer.
            if !unsafe { Ring::push(&raw mut row.incidents, &incident) } {
                row.classifier.counters.dropped += 1;
            }
        }
    }
}

const EMPTY: Event = Event {
    kind: EventKind::Take,
    lock: 0,
    ip: 0,
    ticket: 0,
    lql: 0,
    ids: Ids::UNPUBLISHED,
    tsc: 0,
    cap: 0,
    ctx: Ctx(0),
    start: 0,
    off: 0,
};
