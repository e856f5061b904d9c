//! Bounded tables of totals per lock and per caller, without a lock.
//!
//! Every table has one writer: a CPU at one context level, or a vCPU thread. Keys live by open addressing
//! in at most [`PROBES`] places; a key that finds them all taken is counted in the table's overflow count
//! and shown, never merged into a stranger's row.

/// Places a key may live in.
pub const PROBES: u32 = 8;

/// Totals of one lock or one caller; times in the slot's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Row {
    /// Address of the lock or of the caller; 0 = free.
    pub key: u64,
    /// Acquires.
    pub acquires: u64,
    /// Acquires whose take met a queue (`lql > 0`).
    pub contended: u64,
    /// Refused tickets.
    pub deferrals: u64,
    /// From take to acquire.
    pub wait_cycles: u64,
    /// From take to acquire, on the pCPU.
    pub spin_cycles: u64,
    /// From acquire to release.
    pub hold_cycles: u64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
    /// Of `lwp`: harmful.
    pub lwp_harmful: u64,
    /// How long the lock stood free because of them.
    pub idle_cycles: u64,
}

impl Row {
    /// Adds an event and what the classifier made of it.
    #[inline(always)]
    pub fn add(&mut self, event: &crate::event::Event, outcome: &crate::classifier::Outcome) {
        use crate::event::EventKind;
        use crate::incident::{Incident, PspKind};
        match event.kind {
            EventKind::Take => {
                if event.lql > 0 {
                    self.contended += 1;
                }
            }
            EventKind::Acquire => {
                self.acquires += 1;
                if let Some(wait) = outcome.wait {
                    self.wait_cycles += wait;
                    self.spin_cycles += outcome.spin;
                }
            }
            EventKind::Release => {
                if let Some(hold) = outcome.hold {
                    self.hold_cycles += hold;
                }
            }
            EventKind::Incapable => self.deferrals += 1,
        }
        if let Some(incident) = &outcome.incident {
            if incident.kind == PspKind::Lhp as u8 {
                self.lhp += 1;
            } else {
                self.lwp += 1;
                if incident.flags & Incident::HARMFUL != 0 {
                    self.lwp_harmful += 1;
                    self.idle_cycles += incident.lost;
                }
            }
        }
    }

    /// Adds another row of the same key.
    pub fn merge(&mut self, other: &Self) {
        self.acquires += other.acquires;
        self.contended += other.contended;
        self.deferrals += other.deferrals;
        self.wait_cycles += other.wait_cycles;
        self.spin_cycles += other.spin_cycles;
        self.hold_cycles += other.hold_cycles;
        self.lhp += other.lhp;
        self.lwp += other.lwp;
        self.lwp_harmful += other.lwp_harmful;
        self.idle_cycles += other.idle_cycles;
    }
}

/// 2^64 divided by the golden ratio (Fibonacci hashing).
const HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// First place of `key` in a table of `rows` (a power of two).
#[inline(always)]
pub const fn first_place(key: u64, rows: u32) -> u32 {
    (key.wrapping_mul(HASH) >> 32) as u32 & (rows - 1)
}

/// A small table in one piece of memory, for a vCPU thread.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Table<const N: usize> {
    /// Events whose key found no place, or was 0, which is no key.
    pub overflowed: u64,
    /// The rows.
    pub rows: [Row; N],
}

impl<const N: usize> Table<N> {
    /// The row of `key`, claimed if new; none if all its places are taken, which is counted.
    #[inline(always)]
    pub fn row(&mut self, key: u64) -> Option<&mut Row> {
        let first = first_place(key, N as u32);
        let mut found = None;
        for i in 0..PROBES {
            let place = (first + i) as usize & (N - 1);
            let at = self.rows[place].key;
            if at == key || at == 0 {
                found = Some(place);
                break;
            }
        }
        match found {
            Some(place) if key != 0 => {
                let row = &mut self.rows[place];
                row.key = key;
                Some(row)
            }
            _ => {
                self.overflowed += 1;
                None
            }
        }
    }
}

/// When a lock was last released and by which ticket, in one word.
///
/// | bits | content |
/// |---|---|
/// | 56..64 | tag of the lock |
/// | 48..56 | low bits of the ticket that was released |
/// | 0..48 | time modulo 2^48 |
///
/// Locks share a word when their addresses collide. One 64-bit store by the holder cannot be torn, and a
/// reader that finds another lock's tag, or another ticket than the one before its own, knows that it does
/// not know. The ticket matters because a release is reported after the store that frees the lock: the next
/// holder's acquire can overtake that report, and would find the release before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRelease(pub u64);

impl LastRelease {
    const TIME_BITS: u32 = 48;
    const TIME_MASK: u64 = (1 << Self::TIME_BITS) - 1;

    /// Packs a release of `lock` by the holder of `ticket` at time `tsc`.
    #[inline(always)]
    pub const fn new(lock: u64, ticket: u32, tsc: u64) -> Self {
        Self(Self::tag(lock, ticket) << Self::TIME_BITS | tsc & Self::TIME_MASK)
    }

    /// The release that made it the turn of `ticket`, as seen at `now`; none if this word is about another
    /// lock or another ticket. A release that seems to lie ahead of `now`, because two CPUs' clocks differ,
    /// is taken to have happened at `now`.
    #[inline(always)]
    pub const fn before(self, lock: u64, ticket: u32, now: u64) -> Option<u64> {
        if self.0 == 0 || self.0 >> Self::TIME_BITS != Self::tag(lock, ticket.wrapping_sub(1)) {
            return None;
        }
        let age = now.wrapping_sub(self.0) & Self::TIME_MASK;
        if age > Self::TIME_MASK / 2 { Some(now) } else { Some(now.wrapping_sub(age)) }
    }

    #[inline(always)]
    const fn tag(lock: u64, ticket: u32) -> u64 {
        // Other bits of the hash than the ones that choose the place.
        (lock.wrapping_mul(HASH) >> 24 & 0xff) << 8 | ticket as u64 & 0xff
    }
}
