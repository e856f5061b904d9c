//! Bounded tables of totals per lock and per caller, without a lock.
//!
//! Every table has one writer: a CPU at one context level, or a vCPU thread. Keys live by open addressing
//! in at most [`PROBES`] places. A key that finds them all taken takes the place of the coldest of them, whose totals
//! go to the row of all others: sums stay exact, a stranger's row never gets them, and what becomes hot after the
//! table was full still gets a row.

/// Places a key may live in.
pub const PROBES: u32 = 8;

use crate::classifier::Outcome;
use crate::event::{Event, EventKind};
use crate::incident::{Incident, PspKind};

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
    /// Of a lock, a caller; of a caller, a lock: the one of the last take that met a queue, or of the first acquire if
    /// none has met one yet.
    pub partner: u64,
    /// Acquires of so long ago that they no longer keep the row in its place.
    pub cold: u64,
}

impl Row {
    /// A free row.
    pub const EMPTY: Self = Self {
        key: 0,
        acquires: 0,
        contended: 0,
        deferrals: 0,
        wait_cycles: 0,
        spin_cycles: 0,
        hold_cycles: 0,
        lhp: 0,
        lwp: 0,
        lwp_harmful: 0,
        idle_cycles: 0,
        partner: 0,
        cold: 0,
    };

    /// Adds an event and what the classifier made of it.
    #[inline(always)]
    pub fn add(&mut self, event: &Event, outcome: &Outcome) {
        let partner = if self.key == event.lock { outcome.ip } else { event.lock };
        match event.kind {
            EventKind::Take => {
                if event.lql > 0 {
                    self.queued(partner);
                }
            }
            EventKind::Acquire => self.acquired(partner, outcome.wait.unwrap_or(0), outcome.spin),
            EventKind::Release => self.held(outcome.hold.unwrap_or(0)),
            EventKind::Incapable => self.deferrals += 1,
        }
        if let Some(incident) = &outcome.incident {
            self.incident(incident);
        }
    }

    /// A take met a queue.
    #[inline(always)]
    pub fn queued(&mut self, partner: u64) {
        self.contended += 1;
        self.partner = partner;
    }

    /// An acquire, and the wait that it ended.
    #[inline(always)]
    pub fn acquired(&mut self, partner: u64, wait: u64, spin: u64) {
        if self.partner == 0 {
            self.partner = partner;
        }
        self.acquires += 1;
        self.wait_cycles += wait;
        self.spin_cycles += spin;
    }

    /// A release ended a hold.
    #[inline(always)]
    pub fn held(&mut self, hold: u64) {
        self.hold_cycles += hold;
    }

    /// A wait or a hold was problematic.
    #[inline(always)]
    pub fn incident(&mut self, incident: &Incident) {
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

    /// Adds another row of the same key. The partner is that of the row that met more queues, or has more acquires if
    /// none met any.
    #[inline(always)]
    pub fn merge(&mut self, other: &Self) {
        if (other.contended, other.acquires) > (self.contended, self.acquires) {
            self.partner = other.partner;
        }
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

/// The same for the lower half of a key: addresses of one kernel hardly differ in the upper half.
const HASH32: u32 = 0x9e37_79b1;

/// First place of `key` among `rows` (a power of two).
#[inline(always)]
pub const fn first_place(key: u64, rows: u32) -> u32 {
    if rows < 2 {
        return 0;
    }
    (key as u32).wrapping_mul(HASH32) >> (32 - rows.ilog2())
}

/// Where the last release of `lock` is kept, among `words` (a power of two).
#[inline(always)]
pub const fn release_place(lock: u64, words: u32) -> u32 {
    (lock.wrapping_mul(HASH) >> 32) as u32 & (words - 1)
}

/// A table in one piece of memory: the row of all others, then a power of two of rows that keys can have.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Table<const N: usize> {
    /// How often a row had to go.
    pub evicted: u64,
    /// The rows.
    pub rows: [Row; N],
}

/// Place of the row that has the totals of the rows that had to go, and of key 0, which is no key.
pub const OTHERS: u32 = 0;

impl<const N: usize> Table<N> {
    /// Rows that keys can have.
    const KEYS: u32 = {
        assert!((N - 1).is_power_of_two() && N > PROBES as usize);
        N as u32 - 1
    };

    /// An empty table.
    pub const fn new() -> Self {
        Self { evicted: 0, rows: [Row::EMPTY; N] }
    }

    /// The row of `key`, which it gets now if it has none.
    #[inline(always)]
    pub fn row(&mut self, key: u64) -> &mut Row {
        let place = self.place(key);
        &mut self.rows[place as usize]
    }

    /// Totals of all that have no row.
    pub fn others(&self) -> &Row {
        &self.rows[OTHERS as usize]
    }

    /// Where the row of `key` is, below `N`. It gets one now if it has none; then the row of another key may have had
    /// to go from there.
    #[inline(always)]
    pub fn place(&mut self, key: u64) -> u32 {
        match self.first(key) {
            Some((place, _)) => place,
            None => self.search(key),
        }
    }

    /// The row of `key` and its place, if that is the one where most are.
    #[inline(always)]
    pub fn first(&mut self, key: u64) -> Option<(u32, &mut Row)> {
        let first = 1 + first_place(key, Self::KEYS);
        let row = &mut self.rows[first as usize];
        (row.key == key && key != 0).then_some((first, row))
    }

    /// The row at a place that [`Self::place`] gave.
    #[inline(always)]
    pub fn at(&mut self, place: u32) -> Option<&mut Row> {
        self.rows.get_mut(place as usize)
    }

    /// As [`Self::place`], for a key that is not in its first place.
    pub fn search(&mut self, key: u64) -> u32 {
        if key == 0 {
            return OTHERS;
        }
        let first = first_place(key, Self::KEYS);
        let mut coldest = 1 + first;
        let mut least = u64::MAX;
        let mut i = 0;
        while i < PROBES {
            let place = 1 + ((first + i) & (Self::KEYS - 1));
            let row = &mut self.rows[place as usize];
            if row.key == key {
                return place;
            }
            if row.key == 0 {
                row.key = key;
                return place;
            }
            let heat = row.acquires.wrapping_sub(row.cold);
            if heat < least {
                least = heat;
                coldest = place;
            }
            i += 1;
        }
        self.evict(first, coldest, key);
        coldest
    }

    /// Gives the place of the coldest row to `key`. The other rows cool down by half: what they were used for before
    /// this counts half as much from now on.
    #[inline(always)]
    fn evict(&mut self, first: u32, coldest: u32, key: u64) {
        let mut i = 0;
        while i < PROBES {
            let row = &mut self.rows[1 + ((first + i) & (Self::KEYS - 1)) as usize];
            let heat = row.acquires.wrapping_sub(row.cold);
            row.cold = row.acquires.wrapping_sub(heat / 2);
            i += 1;
        }
        let row = self.rows[coldest as usize];
        self.rows[OTHERS as usize].merge(&row);
        self.rows[coldest as usize] = Row { key, ..Row::EMPTY };
        self.evicted += 1;
    }
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// When a lock was last released and by which ticket, in one word.
///
/// | bits | content |
/// |---|---|
/// | 16..64 | time modulo 2^48 |
/// | 8..16 | tag of the lock |
/// | 0..8 | low bits of the ticket that was released |
///
/// Locks share a word when their addresses collide. One 64-bit store by the holder cannot be torn, and a
/// reader that finds another lock's tag, or another ticket than the one before its own, knows that it does
/// not know. The ticket matters because a release is reported after the store that frees the lock: the next
/// holder's acquire can overtake that report, and would find the release before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRelease(pub u64);

impl LastRelease {
    const TIME_BITS: u32 = 48;
    const TAG_BITS: u32 = 16;
    const TIME_MASK: u64 = (1 << Self::TIME_BITS) - 1;

    /// Packs a release of `lock` by the holder of `ticket` at time `tsc`.
    #[inline(always)]
    pub const fn new(lock: u64, ticket: u32, tsc: u64) -> Self {
        Self(tsc << Self::TAG_BITS | Self::tag(lock, ticket))
    }

    /// The release that made it the turn of `ticket`, as seen at `now`; none if this word is about another
    /// lock or another ticket. A release that seems to lie ahead of `now`, because two CPUs' clocks differ,
    /// is taken to have happened at `now`.
    #[inline(always)]
    pub const fn before(self, lock: u64, ticket: u32, now: u64) -> Option<u64> {
        if self.0 == 0 || self.0 & ((1 << Self::TAG_BITS) - 1) != Self::tag(lock, ticket.wrapping_sub(1)) {
            return None;
        }
        let age = now.wrapping_sub(self.0 >> Self::TAG_BITS) & Self::TIME_MASK;
        if age > Self::TIME_MASK / 2 { Some(now) } else { Some(now.wrapping_sub(age)) }
    }

    #[inline(always)]
    const fn tag(lock: u64, ticket: u32) -> u64 {
        // Other bits of the hash than the ones that choose the place.
        lock.wrapping_mul(HASH) >> 16 & 0xff00 | ticket as u64 & 0xff
    }
}
