//! The LHP/LWP rule (paper, section 2.3.2), stated once.
//!
//! An *episode* is one passage through a lock: take, acquire, release. A [`Classifier`] holds the open
//! episodes of one vCPU at one context level, because an interrupt can run in the middle of a task's
//! episode. Its rules:
//!
//! 1. LWP if take and acquire carry different `slice_id`s; LHP if acquire and release do. An episode can be
//!    both, each once, however often its vCPU was preempted.
//! 2. `*_preempted` if the `dispatch_id` differs too. `lwp_blocked` if the lock said that it blocked.
//! 3. `lwp_harmful` if the waiter was really taken off and the lock's last release, which is what made it
//!    the waiter's turn, happened before the current dispatch began. From then (or from the switch-out, if
//!    that was later) to the beginning of the dispatch the lock stood free: `idle_cycles`.
//! 4. Every PSP has one [`crate::reason::Reason`].
//! 5. What cannot be paired is counted under its own name and never judged. An episode that any unpublished
//!    slot was part of is not judged either.
//!
//! Half an episode is what remains when observation begins in its middle, when a program was not run or when
//! the table was full. A take of a lock whose episode is open replaces that episode. An acquire of a lock that
//! is held already, or a release of one that was not acquired, ends the episode unjudged. An acquire or a
//! release of the lock that was refused ends the attempt: its take was lost. 0 is no lock; its events are
//! counted and never paired.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use crate::counters::Counters;
use crate::event::{Ctx, Event, EventKind, Report};
use crate::histogram::Histogram;
use crate::incident::Incident;
use crate::slot::Ids;

mod judge;

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
    /// Marks of the take, and [`DEFERRED`].
    marks: u32,
    reserved: u32,
    tag: Tag,
}

/// Mark of an episode whose attempt was refused before.
const DEFERRED: u32 = 1 << 31;

/// What the owner of a [`Classifier`] keeps with an open episode.
pub type Tag = [u32; 2];

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
    /// Critical section duration estimate, in the slot's unit, for the reasons of PSP; 0 = not known. Only its owner
    /// writes it.
    pub csd: u64,
    /// Number that the next opened episode gets; its owner may move it forward before a take.
    pub next_seq: u32,
    /// Entries of `locks` at and above this index are free.
    high: u32,
    /// For [`Self::search`].
    scratch: u64,
    deferred_lock: u64,
    deferred_since: u64,
    deferred_ids: Ids,
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

/// An acquire that ended the wait of its episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Index of the episode, below [`MAX_OPEN`].
    pub index: usize,
    /// Caller that opened it.
    pub ip: u64,
    /// From take to acquire.
    pub wait: u64,
    /// Part of it on the pCPU.
    pub spin: u64,
    /// An LWP: to be judged by [`Classifier::judge_wait`].
    pub problematic: bool,
}

/// A release that ended its episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Index that the episode had, below [`MAX_OPEN`].
    pub index: usize,
    /// Caller that opened it.
    pub ip: u64,
    /// What its owner kept with it since its acquire.
    pub tag: Tag,
    /// From acquire to release.
    pub hold: u64,
    /// An LHP: to be judged by [`Classifier::judge_hold`], before the next event.
    pub problematic: bool,
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
        let unpaired = Outcome { ip: event.ip, ..Outcome::default() };
        match event.kind {
            EventKind::Take => {
                self.take(event);
                unpaired
            }
            EventKind::Incapable => {
                self.refuse(event);
                unpaired
            }
            EventKind::Acquire => match self.acquire(event) {
                Some(wait) => Outcome {
                    ip: wait.ip,
                    wait: Some(wait.wait),
                    spin: wait.spin,
                    incident: wait.problematic.then(|| self.judge_wait(wait.index, event, last_release)),
                    ..unpaired
                },
                None => unpaired,
            },
            EventKind::Release => match self.release(event) {
                Some(hold) => Outcome {
                    ip: hold.ip,
                    hold: Some(hold.hold),
                    incident: hold.problematic.then(|| self.judge_hold(hold.index, event)),
                    ..unpaired
                },
                None => unpaired,
            },
        }
    }

    /// Keeps something with the open episode at `index`; its end tells it.
    #[inline(always)]
    pub fn tag(&mut self, index: usize, tag: Tag) {
        if let Some(episode) = self.episodes.get_mut(index) {
            episode.tag = tag;
        }
    }

    /// All that is kept with episodes, open or not.
    #[inline(always)]
    pub fn tags(&mut self) -> impl Iterator<Item = &mut Tag> {
        self.episodes.iter_mut().map(|episode| &mut episode.tag)
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

    /// A ticket was refused.
    #[inline(always)]
    pub fn refuse(&mut self, event: &impl Report) {
        self.counters.deferrals += 1;
        if self.deferred_lock != event.lock() {
            if self.deferred_lock != 0 {
                self.counters.unpaired_deferral += 1;
            }
            self.deferred_lock = event.lock();
            self.deferred_since = event.tsc();
            self.deferred_ids = event.ids();
        }
    }

    /// A ticket was taken.
    #[inline(always)]
    pub fn take(&mut self, event: &impl Report) {
        let mut marks = event.ctx().0 as u32;
        if self.deferred_lock != 0 && self.deferred_lock == event.lock() {
            let deferred = elapsed(self.deferred_since, event.tsc());
            self.counters.defer_cycles += deferred;
            self.counters.defer_spin_cycles += elapsed(event.off(), deferred);
            self.counters.deferred_takes += 1;
            if self.deferred_ids.next_renewal().same_slice(event.ids()) {
                self.counters.deferred_next += 1;
            }
            if event.cap() > 0 {
                self.counters.deferred_capable += 1;
            }
            self.deferred_lock = 0;
            marks |= DEFERRED;
        }
        self.open_episode(event, marks);
    }

    /// The lock was acquired; `None` if that belongs to no take.
    #[inline(always)]
    pub fn acquire(&mut self, event: &impl Report) -> Option<Wait> {
        self.counters.acquires += 1;
        self.end_deferral(event.lock());
        let index = if event.ctx().has(Ctx::TRYLOCK) {
            self.counters.trylocks += 1;
            self.open_episode(event, event.ctx().0 as u32)
        } else {
            let last = self.last(event.lock());
            if last == NONE { self.search(event.lock()).0 } else { last }
        };
        let episode = match self.episodes.get_mut(index) {
            Some(episode) if episode.holding == 0 => episode,
            // Nothing open; or the end of the hold before and the take of this one were both lost, so the
            // next release belongs to neither.
            held => {
                self.counters.unpaired_acquire += 1;
                if held.is_some() {
                    self.close(index);
                }
                return None;
            }
        };
        episode.holding = 1;
        episode.acquire_tsc = event.tsc();
        episode.acquire_ids = event.ids();
        let wait = elapsed(episode.take_tsc, event.tsc());
        let spin = elapsed(event.off(), wait);
        self.counters.wait_cycles += wait;
        self.counters.spin_cycles += spin;
        self.wait.record(wait);
        let problematic = other_quantum(episode.take_ids, event.ids());
        Some(Wait { index, ip: episode.ip, wait, spin, problematic })
    }

    /// The lock was released; `None` if that belongs to no acquire.
    #[inline(always)]
    pub fn release(&mut self, event: &impl Report) -> Option<Hold> {
        self.counters.releases += 1;
        self.end_deferral(event.lock());
        let last = self.last(event.lock());
        let index = if last == NONE {
            let index = self.search(event.lock()).0;
            self.close(index);
            index
        } else {
            if let Some(lock) = self.locks.get_mut(last) {
                *lock = 0;
            }
            self.high = last as u32;
            last
        };
        let Some(episode) = self.episodes.get(index).filter(|episode| episode.holding != 0) else {
            // Nothing open, or the acquire in between was lost.
            self.counters.unpaired_release += 1;
            return None;
        };
        let hold = elapsed(episode.acquire_tsc, event.tsc());
        self.counters.hold_cycles += hold;
        self.hold.record(hold);
        let problematic = other_quantum(episode.acquire_ids, event.ids());
        Some(Hold { index, ip: episode.ip, tag: episode.tag, hold, problematic })
    }

    /// Counts the take and opens an episode: over the stale one of the same lock, else in a free place, else, the
    /// table being full, over the oldest. Returns its index.
    #[inline(always)]
    fn open_episode(&mut self, take: &impl Report, marks: u32) -> usize {
        let counters = &mut self.counters;
        counters.takes += 1;
        let lql = u64::from(take.lql());
        if lql > 0 {
            counters.contended += 1;
            counters.lql_sum += lql;
            if lql > counters.lql_max {
                counters.lql_max = lql;
            }
        }
        if !take.ids().published() {
            counters.unslotted += 1;
        }
        if take.ctx().has(Ctx::EXPIRED) {
            counters.expired += 1;
        }
        let index = if self.high == 0 { 0 } else { self.make_room(take.lock()) };
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        if index as u32 >= self.high {
            self.high = index as u32 + 1;
        }
        if let (Some(lock), Some(episode)) = (self.locks.get_mut(index), self.episodes.get_mut(index)) {
            *lock = take.lock();
            episode.ip = take.ip();
            episode.take_tsc = take.tsc();
            episode.take_ids = take.ids();
            episode.cap = take.cap();
            episode.ticket = take.ticket();
            episode.lql = take.lql();
            episode.seq = seq;
            episode.marks = marks;
            // Time and ids of the acquire mean nothing as long as this is 0.
            episode.holding = 0;
        }
        index
    }

    /// Where the next episode of `lock` goes while others are open.
    fn make_room(&mut self, lock: u64) -> usize {
        let (found, free) = self.search(lock);
        if found != NONE {
            self.counters.unpaired_take += 1;
            found
        } else if free != NONE {
            free
        } else {
            self.counters.overflowed += 1;
            let oldest = self.oldest();
            self.unfollowed(oldest)
        }
    }

    /// Index of the last open episode if it is of `lock`, as it mostly is; else [`NONE`].
    #[inline(always)]
    fn last(&self, lock: u64) -> usize {
        let last = self.high.wrapping_sub(1) as usize;
        match self.locks.get(last) {
            Some(&at) if at == lock && lock != 0 => last,
            _ => NONE,
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
    fn search(&mut self, lock: u64) -> (usize, usize) {
        let mut found = NONE;
        let mut free = NONE;
        let mut i = 0;
        // A counted loop over a fixed array: the verifier sees its bound.
        while i < MAX_OPEN {
            if i as u32 >= self.high {
                free = if free == NONE { i } else { free };
                break;
            }
            match self.locks.get(i) {
                Some(0) if free == NONE => free = i,
                Some(&at) if at != 0 && at == lock => {
                    found = i;
                    break;
                }
                _ => {}
            }
            i += 1;
        }
        (self.unfollowed(found), self.unfollowed(free))
    }

    /// `index`, on BPF by way of memory whose content the verifier does not follow. Otherwise it would walk the
    /// rest of the program once for each index that a search can end with: 15 times the work, and a third of
    /// what it allows.
    #[inline(always)]
    fn unfollowed(&mut self, index: usize) -> usize {
        if !cfg!(target_arch = "bpf") {
            return index;
        }
        let scratch = addr_of_mut!(self.scratch);
        // SAFETY: an aligned field of self.
        unsafe {
            write_volatile(scratch, index as u64);
            read_volatile(scratch) as usize
        }
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

/// Time from `from` to `to`; nothing if it is the other way round, as between the clocks of two CPUs.
#[inline(always)]
const fn elapsed(from: u64, to: u64) -> u64 {
    // Half as many instructions on BPF as a saturating subtraction; no time is longer than 2^63.
    let time = to.wrapping_sub(from) as i64;
    if time < 0 { 0 } else { time as u64 }
}

/// Whether the two lie in different quanta, and both quanta are known.
#[inline(always)]
const fn other_quantum(from: Ids, to: Ids) -> bool {
    !from.same_slice(to) && from.published() && to.published()
}
