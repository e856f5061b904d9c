//! Classifier throughput, in events per second on one core. Goal: 50 M events/s.
//!
//! `cargo bench -p ispin-common`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ispin_common::classifier::{Classifier, MAX_OPEN};
use ispin_common::event::{Ctx, Event, EventKind, Level};
use ispin_common::slot::Ids;

/// Makes event streams; every event comes 300 cycles after the one before.
struct Stream {
    events: Vec<Event>,
    tsc: u64,
    ids: Ids,
    start: u64,
}

impl Stream {
    fn new() -> Self {
        Self { events: Vec::new(), tsc: 1_000_000, ids: Ids::new(7, 0x11), start: 990_000 }
    }

    fn push(&mut self, kind: EventKind, lock: u64, lql: u32, off: u64) {
        self.tsc += 300;
        self.events.push(Event {
            kind,
            lock,
            ip: 0xffff_ffff_8110_0000 + (lock & 0xff0),
            ticket: self.tsc as u32,
            lql,
            ids: self.ids,
            tsc: self.tsc,
            cap: 100_000,
            ctx: Ctx::level_only(Level::Task),
            start: self.start,
            off,
        });
    }

    /// The vCPU is taken off for 1 M cycles and comes back with the next quantum.
    fn preempt(&mut self) {
        self.tsc += 1_000_000;
        self.start = self.tsc;
        self.ids = self.ids.next_dispatch();
    }

    fn episode(&mut self, lock: u64) {
        for kind in [EventKind::Take, EventKind::Acquire, EventKind::Release] {
            self.push(kind, lock, 0, 0);
        }
    }
}

fn lock(i: u64) -> u64 {
    0xffff_8880_0123_4000 + i * 64
}

/// One lock at a time, free when asked for.
fn uncontended() -> Vec<Event> {
    let mut s = Stream::new();
    for i in 0..16 {
        s.episode(lock(i % 4));
    }
    s.events
}

/// A second lock inside the first.
fn nested() -> Vec<Event> {
    let mut s = Stream::new();
    for i in 0..8 {
        s.push(EventKind::Take, lock(i), 0, 0);
        s.push(EventKind::Acquire, lock(i), 0, 0);
        s.episode(lock(i + 8));
        s.push(EventKind::Release, lock(i), 0, 0);
    }
    s.events
}

/// A queue is met, the ticket is refused until the next quantum, then taken; every fourth wait is preempted.
fn contended() -> Vec<Event> {
    let mut s = Stream::new();
    for i in 0..12 {
        s.push(EventKind::Incapable, lock(i % 2), 3, 0);
        s.preempt();
        s.push(EventKind::Take, lock(i % 2), 3, 1_000_000);
        let off = if i % 4 == 0 {
            s.preempt();
            1_000_000
        } else {
            0
        };
        s.push(EventKind::Acquire, lock(i % 2), 0, off);
        s.push(EventKind::Release, lock(i % 2), 0, 0);
    }
    s.events
}

/// As many locks held as fit, released from the inside out.
fn full() -> Vec<Event> {
    let mut s = Stream::new();
    for i in 0..MAX_OPEN as u64 {
        s.push(EventKind::Take, lock(i), 0, 0);
        s.push(EventKind::Acquire, lock(i), 0, 0);
    }
    for i in (0..MAX_OPEN as u64).rev() {
        s.push(EventKind::Release, lock(i), 0, 0);
    }
    s.events
}

fn classifier(c: &mut Criterion) {
    let mut group = c.benchmark_group("classifier");
    for (name, events) in [
        ("uncontended", uncontended()),
        ("nested_two_deep", nested()),
        ("contended_with_deferral", contended()),
        ("sixteen_open", full()),
    ] {
        group.throughput(Throughput::Elements(events.len() as u64));
        group.bench_function(name, |b| {
            let mut classifier = Classifier::new();
            b.iter(|| {
                for event in &events {
                    black_box(classifier.on_event(black_box(event), Some(event.tsc - 500)));
                }
            });
            assert_eq!(classifier.open(), 0, "a stream leaves an episode open");
        });
    }
    group.finish();
}

criterion_group!(benches, classifier);
criterion_main!(benches);
