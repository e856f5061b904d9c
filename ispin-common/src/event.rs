//! The four lock events (tracepoints `ispinlock:ispin_{take,acquire,release,incapable}`).
//!
//! All arguments are 64-bit scalars in this order, the same for the four tracepoints and the lock library:
//!
//! | # | name | meaning |
//! |---|---|---|
//! | 0 | `lock` | address of the lock |
//! | 1 | `ip` | caller of the lock function |
//! | 2 | `ticket` | the ticket, 0 where there is none |
//! | 3 | `lql` | tickets handed out and not yet served, the holder included, before this one |
//! | 4 | `ids` | the vCPU's [`Ids`] at the event |
//! | 5 | `tsc` | time of the event, in the slot's unit |
//! | 6 | `cap` | `lock_cap` (take, incapable), else 0 |
//! | 7 | `ctx` | [`Ctx`] |
//! | 8 | `start` | `dispatch_start` of the vCPU's slot at the event |
//! | 9 | `off` | take, acquire: time off the pCPU since the previous event of this attempt, as the lock saw it; release: the vCPU's latest absence, whenever that was |
//!
//! The last two exist because `take`, `acquire` and their ids alone cannot tell how long a preempted waiter
//! was away, nor since when it was back (docs/abi.md, "Why ten").

use crate::slot::Ids;

/// Number of scalars per event.
pub const NR_ARGS: usize = 10;

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A ticket was taken.
    Take = 0,
    /// The lock was acquired.
    Acquire = 1,
    /// The lock was released.
    Release = 2,
    /// A ticket was refused: the thread is incapable and defers.
    Incapable = 3,
}

/// Context levels that can interrupt each other on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Task.
    Task = 0,
    /// Serving a softirq.
    Softirq = 1,
    /// Serving a hard interrupt.
    Hardirq = 2,
    /// Non-maskable interrupt.
    Nmi = 3,
}

/// Number of context levels.
pub const NR_LEVELS: usize = 4;

/// How and where a lock operation ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ctx(pub u64);

impl Ctx {
    const LEVEL_MASK: u64 = 3;
    /// The acquire is a successful trylock: take and acquire in one.
    pub const TRYLOCK: u64 = 1 << 2;
    /// The lock itself blocked or yielded between take and acquire.
    pub const BLOCKED: u64 = 1 << 3;
    /// The published deadline had expired when the ticket was taken.
    pub const EXPIRED: u64 = 1 << 4;
    /// A take of an incapable thread that was not refused because it holds another lock.
    pub const NESTED: u64 = 1 << 5;
    /// An acquire whose waiter left its pCPU, the first time since its take, before the published end of its quantum.
    pub const EARLY: u64 = 1 << 6;
    /// A refusal because the holder or a waiter is off its pCPU (`ispin+`).
    pub const STALLED: u64 = 1 << 7;

    /// Level without marks.
    pub const fn level_only(level: Level) -> Self {
        Self(level as u64)
    }

    /// Index of the context level, below [`NR_LEVELS`].
    #[inline(always)]
    pub const fn level(self) -> u32 {
        (self.0 & Self::LEVEL_MASK) as u32
    }

    /// Whether `mark` (one of the constants) is set.
    #[inline(always)]
    pub const fn has(self, mark: u64) -> bool {
        self.0 & mark != 0
    }
}

/// One event, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which of the four.
    pub kind: EventKind,
    /// Address of the lock.
    pub lock: u64,
    /// Caller of the lock function.
    pub ip: u64,
    /// The ticket.
    pub ticket: u32,
    /// Lock queue length before this ticket, the holder included.
    pub lql: u32,
    /// The vCPU's ids.
    pub ids: Ids,
    /// Time of the event.
    pub tsc: u64,
    /// `lock_cap`.
    pub cap: i64,
    /// Context level and marks.
    pub ctx: Ctx,
    /// `dispatch_start`.
    pub start: u64,
    /// Time off the pCPU since the previous event of this attempt; of a release, the latest absence, whenever that was.
    pub off: u64,
}

/// An event that can be asked for its arguments. The eBPF programs answer from the tracepoint's own arguments, so that
/// none is copied that is not needed.
pub trait Report {
    /// Address of the lock.
    fn lock(&self) -> u64;
    /// Caller of the lock function.
    fn ip(&self) -> u64;
    /// The ticket.
    fn ticket(&self) -> u32;
    /// Lock queue length before this ticket.
    fn lql(&self) -> u32;
    /// The vCPU's ids.
    fn ids(&self) -> Ids;
    /// Time of the event.
    fn tsc(&self) -> u64;
    /// `lock_cap`.
    fn cap(&self) -> i64;
    /// Context level and marks.
    fn ctx(&self) -> Ctx;
    /// `dispatch_start`.
    fn start(&self) -> u64;
    /// Time off the pCPU since the previous event of this attempt; of a release, the latest absence, whenever that was.
    fn off(&self) -> u64;
}

macro_rules! report_fields {
    ($($name:ident : $type:ty),*) => {
        impl Report for Event {
            $(#[inline(always)] fn $name(&self) -> $type { self.$name })*
        }
    };
}

report_fields!(lock: u64, ip: u64, ticket: u32, lql: u32, ids: Ids, tsc: u64, cap: i64, ctx: Ctx, start: u64, off: u64);

impl Event {
    /// Decodes the tracepoint's arguments.
    #[inline(always)]
    pub const fn from_args(kind: EventKind, a: &[u64; NR_ARGS]) -> Self {
        Self {
            kind,
            lock: a[0],
            ip: a[1],
            ticket: a[2] as u32,
            lql: a[3] as u32,
            ids: Ids(a[4]),
            tsc: a[5],
            cap: a[6] as i64,
            ctx: Ctx(a[7]),
            start: a[8],
            off: a[9],
        }
    }

    /// The tracepoint's arguments.
    pub const fn to_args(&self) -> [u64; NR_ARGS] {
        [
            self.lock,
            self.ip,
            self.ticket as u64,
            self.lql as u64,
            self.ids.0,
            self.tsc,
            self.cap as u64,
            self.ctx.0,
            self.start,
            self.off,
        ]
    }
}
