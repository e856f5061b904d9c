//! The LHP/LWP rule (paper, section 2.3.2), stated once.
//!
//! An *episode* is one passage through a lock: take, acquire, release. A [`Classifier`] holds the open
//! episodes of one vCPU at one context level, because an interrupt can run in the middle of a task's
//! episode. Its four rules:
//!
//! 1. LWP if take and acquire carry different `slice_id`s; LHP if acquire and release do. An episode can be
//!    both, each once, however often its vCPU was preempted.
//! 2. `*_preempted` if the `dispatch_id` differs too. `lwp_blocked` if the lock said that it blocked.
//! 3. `lwp_harmful` if the waiter was really taken off and the lock's last release, which is what made it
//!    the waiter's turn, happened before the current dispatch began. From then (or from the switch-out, if
//!    that was later) to the beginning of the dispatch the lock stood free: `idle_cycles`.
//! 4. What cannot be paired is counted under its own name and never judged. An episode that any unpublished
//!    slot was part of is not judged either.
//!
//! Half an episode is what remains when observation begins in its middle, when a program was not run or when
//! the table was full. A take of a lock whose episode is open replaces that episode. An acquire of a lock that
//! is held already, or a release of one that was not acquired, ends the episode unjudged. An acquire or a
//! release of the lock that was refused ends the attempt: its take was lost. 0 is no lock; its events are
//! counted and never paired.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use crate::counters::Counters;
use crate::event::{Ctx, Event, EventKind};
use crate::histogram::Histogram;
use crate::incident::{Incident, PspKind};
use crate::slot::Ids;

/// Open episodes that fit one vCPU and context level.
pub const MAX_OPEN: usize = 16;

/// An open episode; its lock is in [`Classifier::locks`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Episode {
    ip: u64,
    take_tsc: u64,
    acquire_tsc: u64,
    take_ids: Ids,
    acquire_ids: Ids,
    cap: i64,
    ticket: u32,
    lql: u32,
    seq: u32,
    holding: u32,
}

/// Open episodes and totals of one vCPU and context level. All zeroes is a valid empty one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Classifier {
    /// Totals so far.
    pub counters: Counters,
    /// Time from acquire to release.
    pub hold: Histogram,
    /// Time from take to acquire, off-CPU time included.
    pub wait: Histogram,
    /// Number that the next opened episode gets; its owner may move it forward before a take.
    pub next_seq: u32,
    /// Entries of `locks` at and above this index are free.
    high: u32,
    /// Index of the episode that the latest take, acquire or release was part of; see [`Self::touch`].
    touched: u64,
    deferred_lock: u64,
    deferred_since: u64,
    /// 0 = free entry.
    locks: [u64; MAX_OPEN],
    episodes: [Episode; MAX_OPEN],
}

/// What one event meant: at most one incident, and what the per-lock and per-caller tables need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The incident, if the event closed a wait or a hold that was problematic.
    pub incident: Option<Incident>,
    /// Caller that opened the episode; the event's own if it could not be paired.
    pub ip: u64,
    /// Wait, if the event is a paired acquire.
    pub wait: Option<u64>,
    /// Part of `wait` on the pCPU.
    pub spin: u64,
    /// Hold, if the event is a paired release.
    pub hold: Option<u64>,
}

const NONE: usize = usize::MAX;

impl Classifier {
    /// An empty classifier.
    pub fn new() -> Self {
        Self::default()
    }

    /// Feeds one event. `last_release` is when `event.lock` was last released by anybody, if known; it is
    /// looked at only on an acquire.
    #[inline(always)]
    pub fn on_event(&mut self, event: &Event, last_release: Option<u64>) -> Outcome {
        match event.kind {
            EventKind::Take => self.on_take(event),
            EventKind::Acquire => self.on_acquire(event, || last_release),
            EventKind::Release => self.on_release(event),
            EventKind::Incapable => self.on_incapable(event),
        }
    }

    /// Ends observation: what is still open is counted and forgotten.
    pub fn flush(&mut self) {
        for lock in &mut self.locks {
            if *lock != 0 {
                self.counters.open_at_exit += 1;
                *lock = 0;
            }
        }
        self.high = 0;
        if self.deferred_lock != 0 {
            self.counters.unpaired_deferral += 1;
            self.deferred_lock = 0;
        }
    }

    /// How many episodes are open.
    pub fn open(&self) -> usize {
        self.locks.iter().filter(|&&lock| lock != 0).count()
    }

    /// Index, below [`MAX_OPEN`], of the episode that the latest acquire or release was part of, if its outcome says
    /// that it could be paired.
    #[inline(always)]
    pub fn touched(&self) -> usize {
        self.touched as usize
    }

    /// A ticket was refused.
    #[inline(always)]
    pub fn on_incapable(&mut self, event: &Event) -> Outcome {
        self.counters.deferrals += 1;
        if self.deferred_lock != event.lock {
            if self.deferred_lock != 0 {
                self.counters.unpaired_deferral += 1;
            }
            self.deferred_lock = event.lock;
            self.deferred_since = event.tsc;
        }
        Outcome { ip: event.ip, ..Outcome::default() }
    }

    /// A ticket was taken.
    #[inline(always)]
    pub fn on_take(&mut self, event: &Event) -> Outcome {
        if self.deferred_lock != 0 && self.deferred_lock == event.lock {
            let deferred = event.tsc.saturating_sub(self.deferred_since);
            self.counters.defer_cycles += deferred;
            self.counters.defer_spin_cycles += deferred.saturating_sub(event.off);
            self.deferred_lock = 0;
        }
        let (found, free) = self.find(event.lock);
        self.open_episode(event, found, free);
        Outcome { ip: event.ip, ..Outcome::default() }
    }

    /// Counts the take and opens an episode: over the stale one of the same lock at `found`, else at `free`,
    /// else, the table being full, over the oldest. Returns its index.
    #[inline(always)]
    fn open_episode(&mut self, event: &Event, found: usize, free: usize) -> usize {
        let counters = &mut self.counters;
        counters.takes += 1;
        counters.lql_sum += event.lql as u64;
        if event.lql as u64 > counters.lql_max {
            counters.lql_max = event.lql as u64;
        }
        if event.lql > 0 {
            counters.contended += 1;
        }
        if !event.ids.published() {
            counters.unslotted += 1;
        }
        if event.ctx.has(Ctx::EXPIRED) {
            counters.expired += 1;
        }
        let index = if found != NONE {
            self.counters.unpaired_take += 1;
            found
        } else if free != NONE {
            free
        } else {
            self.counters.overflowed += 1;
            self.oldest()
        };
        let index = self.touch(index);
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        if index as u32 >= self.high {
            self.high = index as u32 + 1;
        }
        if let (Some(lock), Some(episode)) = (self.locks.get_mut(index), self.episodes.get_mut(index)) {
            *lock = event.lock;
            *episode = Episode {
                ip: event.ip,
                take_tsc: event.tsc,
                acquire_tsc: 0,
                take_ids: event.ids,
                acquire_ids: Ids::UNPUBLISHED,
                cap: event.cap,
                ticket: event.ticket,
                lql: event.lql,
                seq,
                holding: 0,
            };
        }
        index
    }

    /// The lock was acquired. `last_release` is asked only if its answer matters.
    #[inline(always)]
    pub fn on_acquire(&mut self, event: &Event, last_release: impl FnOnce() -> Option<u64>) -> Outcome {
        self.counters.acquires += 1;
        self.end_deferral(event.lock);
        let (found, free) = self.find(event.lock);
        let index = if event.ctx.has(Ctx::TRYLOCK) {
            self.counters.trylocks += 1;
            self.open_episode(event, found, free)
        } else {
            found
        };
        let index = self.touch(index);
        let mut outcome = Outcome { ip: event.ip, ..Outcome::default() };
        let counters = &mut self.counters;
        let episode = match self.episodes.get_mut(index) {
            Some(episode) if episode.holding == 0 => episode,
            // Nothing open; or the end of the hold before and the take of this one were both lost, so the
            // next release belongs to neither.
            held => {
                counters.unpaired_acquire += 1;
                if held.is_some() {
                    self.close(index);
                }
                return outcome;
            }
        };
        episode.holding = 1;
        episode.acquire_tsc = event.tsc;
        episode.acquire_ids = event.ids;

        let wait = event.tsc.saturating_sub(episode.take_tsc);
        let spin = wait.saturating_sub(event.off);
        counters.wait_cycles += wait;
        counters.spin_cycles += spin;
        self.wait.record(wait);
        outcome.ip = episode.ip;
        outcome.wait = Some(wait);
        outcome.spin = spin;

        if episode.take_ids.published() && event.ids.published() && !episode.take_ids.same_slice(event.ids) {
            let mut flags = 0;
            let mut idle = 0;
            counters.lwp += 1;
            if !episode.take_ids.same_dispatch(event.ids) {
                flags |= Incident::PREEMPTED;
                counters.lwp_preempted += 1;
                match last_release() {
                    Some(released) if released < event.start => {
                        flags |= Incident::HARMFUL;
                        counters.lwp_harmful += 1;
                        let since_turn = event.start - released.max(episode.take_tsc).min(event.start);
                        idle = since_turn.min(event.off);
                        counters.idle_cycles += idle;
                    }
                    Some(_) => {}
                    None => counters.harm_unknown += 1,
                }
            }
            if event.ctx.has(Ctx::BLOCKED) {
                flags |= Incident::BLOCKED;
                counters.lwp_blocked += 1;
            }
            outcome.incident = Some(Incident {
                kind: PspKind::Lwp as u8,
                flags,
                from_ids: episode.take_ids,
                from_tsc: episode.take_tsc,
                lost: idle,
                ..incident_of(event, episode)
            });
        }
        outcome
    }

    /// The lock was released.
    #[inline(always)]
    pub fn on_release(&mut self, event: &Event) -> Outcome {
        self.counters.releases += 1;
        self.end_deferral(event.lock);
        let mut outcome = Outcome { ip: event.ip, ..Outcome::default() };
        let index = self.find(event.lock).0;
        let index = self.touch(index);
        self.close(index);
        let Some(episode) = self.episodes.get(index) else {
            self.counters.unpaired_release += 1;
            return outcome;
        };
        if episode.holding == 0 {
            // The acquire in between was lost.
            self.counters.unpaired_release += 1;
            return outcome;
        }
        let hold = event.tsc.saturating_sub(episode.acquire_tsc);
        self.counters.hold_cycles += hold;
        self.hold.record(hold);
        outcome.ip = episode.ip;
        outcome.hold = Some(hold);

        if episode.acquire_ids.published()
            && event.ids.published()
            && !episode.acquire_ids.same_slice(event.ids)
        {
            let mut flags = 0;
            self.counters.lhp += 1;
            if !episode.acquire_ids.same_dispatch(event.ids) {
                flags |= Incident::PREEMPTED;
                self.counters.lhp_preempted += 1;
            }
            outcome.incident = Some(Incident {
                kind: PspKind::Lhp as u8,
                flags,
                from_ids: episode.acquire_ids,
                from_tsc: episode.acquire_tsc,
                lost: event.off.min(hold),
                ..incident_of(event, episode)
            });
        }
        outcome
    }

    /// Remembers `index` and returns it, on BPF by way of memory whose content the verifier does not follow.
    /// Otherwise it would walk the rest of the program once for each index that a search can end with: 15 times
    /// the work, and a third of what it allows.
    #[inline(always)]
    fn touch(&mut self, index: usize) -> usize {
        let touched = addr_of_mut!(self.touched);
        // SAFETY: an aligned field of self.
        unsafe {
            write_volatile(touched, index as u64);
            if cfg!(target_arch = "bpf") { read_volatile(touched) as usize } else { index }
        }
    }

    /// Frees the entry at `index`; [`NONE`] is fine.
    #[inline(always)]
    fn close(&mut self, index: usize) {
        if let Some(lock) = self.locks.get_mut(index) {
            *lock = 0;
            if index as u32 + 1 == self.high {
                self.high = index as u32;
            }
        }
    }

    /// The attempt to lock `lock` is over without a take that was seen.
    #[inline(always)]
    fn end_deferral(&mut self, lock: u64) {
        if self.deferred_lock != 0 && self.deferred_lock == lock {
            self.deferred_lock = 0;
            self.counters.unpaired_deferral += 1;
        }
    }

    /// Index of the open episode of `lock`, and of a free entry; [`NONE`] where there is none.
    #[inline(always)]
    fn find(&self, lock: u64) -> (usize, usize) {
        let mut free = NONE;
        let mut i = 0;
        // A counted loop over a fixed array: the verifier sees its bound, and the usual depth of one or two
        // ends it early.
        while i < MAX_OPEN {
            if i as u32 >= self.high {
                return (NONE, if free == NONE { i } else { free });
            }
            match self.locks.get(i) {
                Some(0) if free == NONE => free = i,
                Some(&at) if at != 0 && at == lock => return (i, free),
                _ => {}
            }
            i += 1;
        }
        (NONE, free)
    }

    /// Index of the episode that was opened first. Goes by episode numbers, not by time: they never tie.
    #[inline(always)]
    fn oldest(&self) -> usize {
        let mut at = 0;
        let mut oldest = 0;
        let mut i = 0;
        while i < MAX_OPEN {
            if let Some(episode) = self.episodes.get(i) {
                let age = self.next_seq.wrapping_sub(episode.seq);
                if age > oldest {
                    oldest = age;
                    at = i;
                }
            }
            i += 1;
        }
        at
    }
}

#[inline(always)]
fn incident_of(event: &Event, episode: &Episode) -> Incident {
    Incident {
        level: event.ctx.level() as u8,
        lock: event.lock,
        ip: episode.ip,
        to_ids: event.ids,
        to_tsc: event.tsc,
        start: event.start,
        off: event.off,
        cap: episode.cap,
        take_tsc: episode.take_tsc,
        lql: episode.lql,
        ticket: episode.ticket,
        seq: episode.seq,
        ..Incident::default()
    }
}
