//! Guests to feed events to: one in user space, one in the kernel. Both give the same answers.
// Each test program uses its part of this.
#![allow(dead_code)]

pub mod bytecode;
pub mod kernel;
pub mod play;
pub mod scenario;
pub mod user;

use ispin_common::counters::Counters;
use ispin_common::event::Event;
use ispin_common::guest::{GuestLane, GuestTable};
use ispin_common::incident::Incident;
use ispin_common::table::Row;

/// What one vCPU counted at one context level.
#[derive(Clone)]
pub struct Lane {
    pub vcpu: u32,
    pub level: u32,
    pub counts: Box<GuestLane>,
}

impl Lane {
    pub fn counters(&self) -> &Counters {
        &self.counts.classifier.counters
    }
}

/// A guest with some vCPUs.
pub trait World {
    /// Begins to look at events, or ignores them from now on.
    fn enable(&mut self, enabled: bool);
    /// Tells the critical section duration estimate.
    fn set_csd(&mut self, csd: u64);
    /// An event on `vcpu`.
    fn feed(&mut self, event: &Event, vcpu: u32);
    /// Lanes in which there was an event.
    fn lanes(&self) -> Vec<Lane>;
    /// Incidents that were reported since the last call, oldest first.
    fn take_incidents(&mut self) -> Vec<Incident>;
}

/// Everything that two worlds can differ in, in words. Empty = the same answers to the digit.
pub fn differences(a: &mut dyn World, b: &mut dyn World) -> Vec<String> {
    let mut found = vec![];
    let (lanes_a, lanes_b) = (a.lanes(), b.lanes());
    let keys = |lanes: &[Lane]| lanes.iter().map(|lane| (lane.vcpu, lane.level)).collect::<Vec<_>>();
    if keys(&lanes_a) != keys(&lanes_b) {
        found.push(format!("lanes {:?} and {:?}", keys(&lanes_a), keys(&lanes_b)));
        return found;
    }
    for (x, y) in lanes_a.iter().zip(&lanes_b) {
        let at = format!("vCPU {} level {}", x.vcpu, x.level);
        let mut differ = |what: &str, same: bool, x: &dyn std::fmt::Debug, y: &dyn std::fmt::Debug| {
            if !same {
                found.push(format!("{at}: {what}: {x:?} and {y:?}"));
            }
        };
        for ((name, n), m) in Counters::NAMES.iter().zip(x.counters().values()).zip(y.counters().values()) {
            differ(name, n == m, &n, &m);
        }
        let (c, d) = (&x.counts.classifier, &y.counts.classifier);
        differ("hold", c.hold == d.hold, &c.hold.buckets, &d.hold.buckets);
        differ("wait", c.wait == d.wait, &c.wait.buckets, &d.wait.buckets);
        differ("open episodes", c.open() == d.open(), &c.open(), &d.open());
        differ("next episode", c.next_seq == d.next_seq, &c.next_seq, &d.next_seq);
        let quanta = |lane: &GuestLane| (lane.first_ids, lane.last_ids, lane.last_tsc);
        differ("quanta", quanta(&x.counts) == quanta(&y.counts), &quanta(&x.counts), &quanta(&y.counts));
        let (a, b) = (&x.counts, &y.counts);
        for (what, t, u) in [("locks", &a.locks, &b.locks), ("callers", &a.callers, &b.callers)] {
            differ(what, rows(t) == rows(u), &rows(t), &rows(u));
            differ(&format!("{what}, others"), t.others() == u.others(), t.others(), u.others());
            differ(&format!("{what} evicted"), t.evicted == u.evicted, &t.evicted, &u.evicted);
        }
    }
    let (incidents_a, incidents_b) = (a.take_incidents(), b.take_incidents());
    if incidents_a != incidents_b {
        found.push(format!("incidents: {incidents_a:#?} and {incidents_b:#?}"));
    }
    found
}

/// The rows in use, by key.
pub fn rows(table: &GuestTable) -> Vec<Row> {
    let mut rows: Vec<Row> = table.rows.iter().copied().filter(|row| row.key != 0).collect();
    rows.sort_by_key(|row| row.key);
    rows
}
