//! Bounded tables of totals per lock and per caller, without a lock.
//!
//! Every table has one writer: a CPU at one context level, or a vCPU thread. Keys live by open addressing
//! in at most [`PROBES`] places. A key that finds them all taken takes the place of the coldest of them, whose totals
//! go to the row of all others: sums stay exact, a stranger's row never gets them, and what becomes hot after the
//! table was full still gets a row.

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
    pub fn add(&mut self, event: &crate::event::Event, outcome: &crate::classifier::Outcome) {
        use crate::event::EventKind;
        use crate::incident::{Incident, PspKind};
        match event.kind {
            EventKind::Take => {
                if event.lql > 0 {
                    self.contended += 1;
                    self.partner = self.other(event.lock, event.ip);
                }
            }
            EventKind::Acquire => {
                if self.acquires == 0 && self.partner == 0 {
                    self.partner = self.other(event.lock, outcome.ip);
                }
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

    #[inline(always)]
    const fn other(&self, lock: u64, caller: u64) -> u64 {
        if self.key == lock { caller } else { lock }
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

/// First place of `key` in a table of `rows` (a power of two).
#[inline(always)]
pub const fn first_place(key: u64, rows: u32) -> u32 {
    (key.wrapping_mul(HASH) >> 32) as u32 & (rows - 1)
}

/// A table in one piece of memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Table<const N: usize> {
    /// How often a row had to go.
    pub evicted: u64,
    /// Totals of the rows that had to go, and of key 0, which is no key.
    pub others: Row,
    /// The rows.
    pub rows: [Row; N],
}

impl<const N: usize> Table<N> {
    /// An empty table.
    pub const fn new() -> Self {
        Self { evicted: 0, others: Row::EMPTY, rows: [Row::EMPTY; N] }
    }

    /// The row of `key`, which it gets now if it has none.
    #[inline(always)]
    pub fn row(&mut self, key: u64) -> &mut Row {
        let place = self.place(key);
        self.at(place, key)
    }

    /// Where the row of `key` is, which it gets now if it has none.
    #[inline(always)]
    pub fn place(&mut self, key: u64) -> u32 {
        let first = first_place(key, N as u32);
        let mut i = 0;
        while i < PROBES {
            let place = (first + i) & (N as u32 - 1);
            let row = &mut self.rows[place as usize];
            if row.key == key {
                return place;
            }
            if row.key == 0 {
                row.key = key;
                return place;
            }
            i += 1;
        }
        self.evict(first, key)
    }

    /// The row at `place` if it is still that of `key`, else that of all others.
    #[inline(always)]
    pub fn at(&mut self, place: u32, key: u64) -> &mut Row {
        let row = &mut self.rows[place as usize & (N - 1)];
        if row.key == key && key != 0 { row } else { &mut self.others }
    }

    /// Gives the place of the coldest row to `key`. The other rows cool down by half: what they were used for before
    /// this counts half as much from now on.
    #[inline(always)]
    fn evict(&mut self, first: u32, key: u64) -> u32 {
        let mut coldest = first & (N as u32 - 1);
        let mut least = u64::MAX;
        let mut i = 0;
        while i < PROBES {
            let place = (first + i) & (N as u32 - 1);
            let row = &mut self.rows[place as usize];
            let heat = row.acquires.wrapping_sub(row.cold);
            row.cold = row.acquires.wrapping_sub(heat / 2);
            if heat < least {
                least = heat;
                coldest = place;
            }
            i += 1;
        }
        let row = &mut self.rows[coldest as usize];
        self.others.merge(row);
        *row = Row { key, ..Row::EMPTY };
        self.evicted += 1;
        coldest
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
