//! Random event streams: what a vCPU does, with halves of episodes lost, and pure chaos.

use ispin_common::event::{Ctx, Event, EventKind};
use ispin_common::slot::Ids;
use proptest::prelude::*;

/// What the classifier is given.
#[derive(Clone, Debug)]
pub enum Step {
    /// An event, and when its lock was last released, if known.
    Event(Event, Option<u64>),
    /// The owner moves the episode number forward.
    SkipSeq(u32),
    /// Observation ends and begins anew.
    Flush,
    /// The estimate from here on.
    Csd(u64),
}

/// What happens on the vCPU. Times are small, so that boundaries are met often.
#[derive(Clone, Debug)]
enum Act {
    /// The usual passage through a lock.
    Episode {
        lock: u8,
        lql: u32,
        inside: Vec<Act>,
    },
    /// Refusals, what happens meanwhile, and the passage that follows.
    Deferred {
        lock: u8,
        times: u8,
        meanwhile: Vec<Act>,
    },
    /// As [`Act::Episode`] by trylock.
    Trylock {
        lock: u8,
        inside: Vec<Act>,
    },
    /// Locks taken one after the other and released in the same order: more than fit, at times.
    Deep {
        from: u8,
        count: u8,
    },
    /// One event out of nowhere.
    Stray {
        kind: u8,
        lock: u8,
        marks: u8,
        lql: u32,
    },
    /// What follows is not seen.
    Lose(Box<Act>),
    /// Off the pCPU for some time, back with a new quantum.
    Preempt(u8),
    /// Off and back in the same quantum.
    Stay(u8),
    /// A new quantum without leaving.
    Renew,
    /// From here on nothing is published; or again it is.
    Publish(bool),
    /// Time passes, or steps back a little.
    Pass(i8),
    /// The lock reports more time away than there was.
    Overstate(u8),
    /// The next wait is marked as blocked or early, the next take as expired or nested.
    Mark {
        blocked: bool,
        expired: bool,
        nested: bool,
        early: bool,
    },
    /// What is left of the quantum at the events from here on, as `lock_cap`.
    Cap(i64),
    /// The estimate changes.
    Csd(u64),
    /// What is known of releases from here on, relative to the beginning of the dispatch.
    Releases(Option<i8>),
    SkipSeq(u32),
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    let lock = || prop_oneof![20 => 1u8..5, 3 => 5u8..30, 1 => Just(0u8)];
    let lql = || prop_oneof![3 => Just(0u32), 2 => 1u32..5, 1 => any::<u32>()];
    let leaf = prop_oneof![
        6 => (0u8..20).prop_map(Act::Preempt),
        2 => (0u8..20).prop_map(Act::Stay),
        3 => Just(Act::Renew),
        1 => any::<bool>().prop_map(Act::Publish),
        3 => (-6i8..30).prop_map(Act::Pass),
        3 => (1u8..60).prop_map(Act::Overstate),
        2 => (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(blocked, expired, nested, early)| Act::Mark { blocked, expired, nested, early }),
        3 => prop_oneof![8 => -6i64..30, 1 => Just(0i64), 1 => Just(i64::MAX)].prop_map(Act::Cap),
        1 => prop_oneof![4 => 1u64..12, 1 => Just(0u64)].prop_map(Act::Csd),
        3 => prop::option::weighted(0.8, -25i8..5).prop_map(Act::Releases),
        6 => (0u8..4, lock(), 0u8..32, lql()).prop_map(|(kind, lock, marks, lql)| Act::Stray { kind, lock, marks, lql }),
        1 => (1u8..10, 10u8..22).prop_map(|(from, count)| Act::Deep { from, count }),
        1 => prop_oneof![0u32..5, any::<u32>().prop_map(|n| n >> 8)].prop_map(Act::SkipSeq),
        1 => Just(Act::Flush),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        let some = prop::collection::vec(inner.clone(), 0..8);
        prop_oneof![
            6 => (lock(), lql(), some.clone()).prop_map(|(lock, lql, inside)| Act::Episode { lock, lql, inside }),
            2 => (lock(), 1u8..4, some.clone())
                .prop_map(|(lock, times, meanwhile)| Act::Deferred { lock, times, meanwhile }),
            2 => (lock(), some).prop_map(|(lock, inside)| Act::Trylock { lock, inside }),
            1 => inner.prop_map(|act| Act::Lose(Box::new(act))),
        ]
    })
}

/// A stream of what one vCPU did at one context level.
pub fn stream() -> impl Strategy<Value = Vec<Step>> {
    let first = prop_oneof![Just(Ids::new(1, 3)), Just(Ids::new(u32::MAX - 2, u32::MAX - 4)), Just(Ids(0))];
    (first, 0u64..4, prop::collection::vec(act(), 1..40)).prop_map(|(ids, level, acts)| {
        let mut world = World {
            ids,
            level,
            now: 1_000,
            start: 990,
            published: true,
            releases: Some(-5),
            cap: 10,
            ..World::default()
        };
        world.steps.push(Step::Csd(4));
        world.play(&acts);
        world.steps.push(Step::Flush);
        world.steps
    })
}

#[derive(Default)]
struct World {
    steps: Vec<Step>,
    ids: Ids,
    level: u64,
    now: u64,
    start: u64,
    off: u64,
    published: bool,
    blocked: bool,
    expired: bool,
    nested: bool,
    early: bool,
    cap: i64,
    losing: bool,
    releases: Option<i8>,
    events: u32,
}

impl World {
    fn play(&mut self, acts: &[Act]) {
        for act in acts {
            self.act(act);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Episode { lock, lql, inside } => {
                self.event(EventKind::Take, *lock, *lql, 0);
                let (wait, hold) = inside.split_at(inside.len() / 2);
                self.play(wait);
                self.event(EventKind::Acquire, *lock, 0, 0);
                self.play(hold);
                self.event(EventKind::Release, *lock, 0, 0);
            }
            Act::Deferred { lock, times, meanwhile } => {
                for _ in 0..*times {
                    self.event(EventKind::Incapable, *lock, 2, 0);
                    self.now += 3;
                }
                self.play(meanwhile);
                self.act(&Act::Episode { lock: *lock, lql: 2, inside: vec![] });
            }
            Act::Trylock { lock, inside } => {
                self.event(EventKind::Acquire, *lock, 0, Ctx::TRYLOCK);
                self.play(inside);
                self.event(EventKind::Release, *lock, 0, 0);
            }
            Act::Deep { from, count } => {
                for lock in *from..from + count {
                    self.event(EventKind::Take, lock, 0, 0);
                    if lock % 3 != 0 {
                        self.event(EventKind::Acquire, lock, 0, 0);
                    }
                }
                for lock in *from..from + count {
                    self.event(EventKind::Release, lock, 0, 0);
                }
            }
            Act::Stray { kind, lock, marks, lql } => {
                let kind = [EventKind::Take, EventKind::Acquire, EventKind::Release, EventKind::Incapable]
                    [*kind as usize];
                self.event(kind, *lock, *lql, u64::from(*marks) << 2);
            }
            Act::Lose(act) => {
                let before = std::mem::replace(&mut self.losing, true);
                self.act(act);
                self.losing = before;
            }
            Act::Preempt(away) => {
                self.leave(*away);
                self.ids = self.ids.next_dispatch();
            }
            Act::Stay(away) => {
                self.leave(*away);
                self.ids = self.ids.next_stay();
            }
            Act::Renew => self.ids = self.ids.next_renewal(),
            Act::Publish(published) => self.published = *published,
            Act::Pass(by) => self.now = self.now.saturating_add_signed(i64::from(*by)),
            Act::Overstate(by) => self.off += u64::from(*by),
            Act::Mark { blocked, expired, nested, early } => {
                (self.blocked, self.expired, self.nested, self.early) = (*blocked, *expired, *nested, *early);
            }
            Act::Cap(cap) => self.cap = *cap,
            Act::Csd(csd) => self.steps.push(Step::Csd(*csd)),
            Act::Releases(at) => self.releases = *at,
            Act::SkipSeq(by) => self.steps.push(Step::SkipSeq(*by)),
            Act::Flush => self.steps.push(Step::Flush),
        }
    }

    fn leave(&mut self, away: u8) {
        self.now += 2 + u64::from(away);
        self.off += u64::from(away);
        self.start = self.now;
        self.now += 1;
    }

    fn event(&mut self, kind: EventKind, lock: u8, lql: u32, marks: u64) {
        self.now += 1;
        self.events += 1;
        let mut ctx = self.level | marks;
        if kind == EventKind::Acquire && std::mem::take(&mut self.blocked) {
            ctx |= Ctx::BLOCKED;
        }
        if kind == EventKind::Take && std::mem::take(&mut self.expired) {
            ctx |= Ctx::EXPIRED;
        }
        if kind == EventKind::Acquire && std::mem::take(&mut self.early) {
            ctx |= Ctx::EARLY;
        }
        if kind == EventKind::Take && std::mem::take(&mut self.nested) {
            ctx |= Ctx::NESTED;
        }
        let event = Event {
            kind,
            lock: u64::from(lock) * 64,
            ip: 0x1000 + u64::from(self.events),
            ticket: self.events * 7,
            lql,
            ids: if self.published { self.ids } else { Ids(0) },
            tsc: self.now,
            cap: self.cap,
            ctx: Ctx(ctx),
            start: self.start,
            off: self.off,
        };
        self.off = 0;
        if !self.losing {
            let released = self.releases.map(|at| self.start.saturating_add_signed(i64::from(at)));
            self.steps.push(Step::Event(event, released));
        }
    }
}
