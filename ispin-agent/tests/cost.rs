//! What an event costs: executed instructions of the guest programs, without the kernel's way to them.
//!
//! `cargo test -p ispin-agent --test cost -- --nocapture` prints the table.

mod guest_world;

use guest_world::World;
use guest_world::bytecode::BytecodeWorld;
use ispin_common::event::{Ctx, Event, EventKind, Level};
use ispin_common::slot::Ids;

const LOCK: u64 = 0xffff_8880_0123_4000;

fn event(kind: EventKind, lock: u64, tsc: u64) -> Event {
    Event {
        kind,
        lock,
        ip: 0xffff_ffff_8110_0000 + (lock >> 6 & 7) * 0x40,
        ticket: 5,
        lql: 0,
        ids: Ids::new(7, 0x11),
        tsc,
        cap: 1_000_000,
        ctx: Ctx::level_only(Level::Task),
        start: 500,
        off: 0,
    }
}

/// Cost of take, acquire and release, means over some locks after the first time.
fn passage(world: &mut BytecodeWorld, locks: u64, change: impl Fn(&mut Event)) -> [f64; 3] {
    let mut sums = [0; 3];
    let mut tsc = 1_000;
    for round in 0..5 {
        for i in 0..locks {
            let kinds = [EventKind::Take, EventKind::Acquire, EventKind::Release];
            for (kind, sum) in kinds.into_iter().zip(&mut sums) {
                tsc += 300;
                let mut event = event(kind, LOCK + 64 * i, tsc);
                change(&mut event);
                let cost = world.cost(&event, 1);
                *sum += if round > 0 { cost } else { 0 };
            }
        }
    }
    sums.map(|sum| sum as f64 / (4 * locks) as f64)
}

/// Cost of an event that is not looked at.
fn idle() -> u64 {
    BytecodeWorld::new(2).cost(&event(EventKind::Take, LOCK, 1), 1)
}

#[test]
fn instructions_of_the_three_events() {
    let world = || {
        let mut world = BytecodeWorld::new(2);
        world.enable(true);
        world
    };
    let free = passage(&mut world(), 20, |_| ());
    let queue =
        passage(&mut world(), 20, |event| event.lql = if event.kind == EventKind::Take { 3 } else { 0 });
    let mut nested = world();
    for depth in 0..3 {
        nested.feed(&event(EventKind::Take, 0x40 + 0x40 * depth, 10), 1);
        nested.feed(&event(EventKind::Acquire, 0x40 + 0x40 * depth, 20), 1);
    }
    let nested = passage(&mut nested, 20, |_| ());
    println!("BPF instructions      take  acquire  release   three");
    println!("not enabled        {:7}", idle());
    let sum = |costs: [f64; 3]| costs.iter().sum::<f64>();
    for (name, costs) in [("free lock", free), ("a queue is met", queue), ("fourth lock held", nested)] {
        println!("{name:16} {:9.1} {:8.1} {:8.1} {:7.1}", costs[0], costs[1], costs[2], sum(costs));
    }
    assert!(sum(free) < 600.0);
}
