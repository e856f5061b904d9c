//! Figures between two snapshots of one run: what the tables show, and what a baseline remembers.

use ispin_agent::interval::Figures;
use ispin_agent::model::{Hist, Snapshot, TableRow, Vcpu};
use ispin_common::histogram::NR_BUCKETS;

/// Rates of one vCPU, or of all together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Tickets taken per second.
    pub takes: f64,
    /// Locks acquired per second.
    pub acquires: f64,
    /// Takes that met a queue, of a hundred.
    pub contended_pct: f64,
    /// Tickets refused per second.
    pub deferrals: f64,
    /// LHP per second.
    pub lhp: f64,
    /// Of these: really off the pCPU.
    pub lhp_preempted: f64,
    /// LWP per second.
    pub lwp: f64,
    /// Of these: really off the pCPU.
    pub lwp_preempted: f64,
    /// Of these: the lock itself blocked or yielded.
    pub lwp_blocked: f64,
    /// Of these: the turn came while it was off the pCPU.
    pub lwp_harmful: f64,
    /// How long locks stood free because of that, per second, in the source's time unit.
    pub idle: f64,
    /// LHP and LWP per quantum granted; `None` if none was.
    pub psp_per_quantum: Option<f64>,
    /// Time spent spinning for a ticket's turn, of a hundred of the time on a pCPU; `None` if that is unknown.
    pub spin_pct: Option<f64>,
    /// Time spent spinning for a ticket's turn, of a hundred of all time that the vCPU had; `None` if that is unknown.
    pub spin_total_pct: Option<f64>,
    /// Time spent deferring on the pCPU, of a hundred of the time on a pCPU; `None` if that is unknown.
    pub defer_pct: Option<f64>,
    /// Mean queue length met by a take; `None` without a take.
    pub lql_mean: Option<f64>,
}

impl Rates {
    /// LHP and LWP per second.
    pub fn psp(&self) -> f64 {
        self.lhp + self.lwp
    }

    fn new(delta: &Vcpu, ns: u64) -> Self {
        let c = &delta.counters;
        let figures = Figures::of(delta, ns);
        let per_second = |n: u64| n as f64 / seconds(ns);
        Self {
            takes: per_second(c.takes),
            acquires: per_second(c.acquires),
            contended_pct: figures.contended_pct.unwrap_or(0.0),
            deferrals: per_second(c.deferrals),
            lhp: per_second(c.lhp),
            lhp_preempted: per_second(c.lhp_preempted),
            lwp: per_second(c.lwp),
            lwp_preempted: per_second(c.lwp_preempted),
            lwp_blocked: per_second(c.lwp_blocked),
            lwp_harmful: per_second(c.lwp_harmful),
            idle: per_second(c.idle_cycles),
            psp_per_quantum: figures.psp_per_quantum,
            spin_pct: figures.spin_pct,
            spin_total_pct: figures.spin_total_pct,
            defer_pct: figures.defer_pct,
            lql_mean: figures.lql_mean,
        }
    }
}

/// Two snapshots of the same moment show no rate rather than an infinite one.
fn seconds(ns: u64) -> f64 {
    if ns == 0 { f64::INFINITY } else { ns as f64 / 1e9 }
}

/// Rates of one lock or caller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowRates {
    /// Its name.
    pub name: String,
    /// Acquires per second.
    pub acquires: f64,
    /// Acquires that met a queue, of a hundred.
    pub contended_pct: f64,
    /// Tickets refused per second.
    pub deferrals: f64,
    /// Mean time from take to acquire, in the source's time unit.
    pub wait: f64,
    /// Mean time from take to acquire on the pCPU.
    pub spin: f64,
    /// Mean time from acquire to release.
    pub hold: f64,
    /// LHP per second.
    pub lhp: f64,
    /// LWP per second.
    pub lwp: f64,
    /// Harmful LWP per second.
    pub lwp_harmful: f64,
    /// How long it stood free because of them, per second.
    pub idle: f64,
}

impl RowRates {
    fn new(earlier: Option<&TableRow>, now: &TableRow, ns: u64) -> Self {
        let zero = TableRow::default();
        let earlier = earlier.unwrap_or(&zero);
        let delta = |f: fn(&TableRow) -> u64| f(now).saturating_sub(f(earlier));
        let per_second = |f| delta(f) as f64 / seconds(ns);
        let acquires = delta(|r| r.acquires);
        let mean = |f| share(delta(f), acquires).unwrap_or(0.0);
        Self {
            name: now.name.clone(),
            acquires: per_second(|r| r.acquires),
            contended_pct: mean(|r| r.contended) * 100.0,
            deferrals: per_second(|r| r.deferrals),
            wait: mean(|r| r.wait_cycles),
            spin: mean(|r| r.spin_cycles),
            hold: mean(|r| r.hold_cycles),
            lhp: per_second(|r| r.lhp),
            lwp: per_second(|r| r.lwp),
            lwp_harmful: per_second(|r| r.lwp_harmful),
            idle: per_second(|r| r.idle_cycles),
        }
    }
}

/// A vCPU's place: its VM's name and its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the VM.
    pub vm: String,
    /// Index of the slot.
    pub vcpu: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.vm, self.vcpu)
    }
}

/// A histogram in figures. Log2 buckets give bounds, not exact values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// How many times were counted.
    pub count: u64,
    /// Half of them were shorter than this.
    pub p50: u64,
    /// 99 of a hundred were shorter than this.
    pub p99: u64,
    /// All were shorter than this.
    pub max: u64,
}

impl Shape {
    /// Of a histogram.
    pub fn of(hist: &Hist) -> Self {
        let count = hist.count();
        Self {
            count,
            p50: below(hist, count.div_ceil(2)),
            p99: below(hist, count - count / 100),
            max: below(hist, count),
        }
    }
}

/// Upper bound of the bucket in which the `rank`-th smallest value lies; 0 for rank 0, all ones for the last
/// bucket, which has no bound.
fn below(hist: &Hist, rank: u64) -> u64 {
    let mut seen = 0;
    for (i, n) in hist.buckets.iter().enumerate() {
        seen += n;
        if rank > 0 && seen >= rank {
            return if i + 1 < NR_BUCKETS { 2 << i } else { u64::MAX };
        }
    }
    0
}

/// All figures between two snapshots of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Time between the two.
    pub span_ns: u64,
    /// All vCPUs together.
    pub all: Rates,
    /// Each vCPU, in the order of the snapshot.
    pub vcpus: Vec<(Place, Rates)>,
    /// Locks, in the order of the snapshot.
    pub locks: Vec<RowRates>,
    /// Callers, in the order of the snapshot.
    pub callers: Vec<RowRates>,
    /// Hold times since the run began.
    pub hold: Shape,
    /// Wait times since the run began.
    pub wait: Shape,
}

/// PSP counts between two snapshots of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Time between the two.
    pub span_ns: u64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
}

impl Step {
    /// From `earlier` to `now`; without an earlier one, from the beginning of observation.
    pub fn between(earlier: Option<&Snapshot>, now: &Snapshot) -> Self {
        let count = |s: &Snapshot| {
            s.vms
                .iter()
                .flat_map(|vm| &vm.vcpus)
                .fold((0, 0), |(lhp, lwp), vcpu| (lhp + vcpu.counters.lhp, lwp + vcpu.counters.lwp))
        };
        let (lhp, lwp) = count(now);
        let (lhp0, lwp0) = earlier.map_or((0, 0), count);
        Self {
            span_ns: now.elapsed_ns.saturating_sub(earlier.map_or(0, |s| s.elapsed_ns)),
            lhp: lhp.saturating_sub(lhp0),
            lwp: lwp.saturating_sub(lwp0),
        }
    }
}

impl Measured {
    /// From `earlier` to `now`; without an earlier one, from the beginning of observation. Both must be of one
    /// run: totals only grow.
    pub fn between(earlier: Option<&Snapshot>, now: &Snapshot) -> Self {
        let span_ns = now.elapsed_ns.saturating_sub(earlier.map_or(0, |s| s.elapsed_ns));
        let mut sum = Vcpu::default();
        let mut vcpus = Vec::with_capacity(now.vms.iter().map(|vm| vm.vcpus.len()).sum());
        for (i, vm) in now.vms.iter().enumerate() {
            let old_vm = earlier.and_then(|s| by_name(&s.vms, i, |old| old.name == vm.name));
            for (j, vcpu) in vm.vcpus.iter().enumerate() {
                let old = old_vm.and_then(|vm| by_name(&vm.vcpus, j, |old| old.id == vcpu.id));
                let delta = old.map_or_else(|| vcpu.clone(), |old| vcpu.since(old));
                let place = Place { vm: vm.name.clone(), vcpu: vcpu.id };
                vcpus.push((place, Rates::new(&delta, span_ns)));
                sum.merge(&delta);
            }
        }
        let rows = |now: &[TableRow], earlier: Option<&[TableRow]>| {
            now.iter()
                .enumerate()
                .map(|(i, row)| {
                    let old = earlier.and_then(|rows| by_name(rows, i, |old| old.key == row.key));
                    RowRates::new(old, row, span_ns)
                })
                .collect()
        };
        Self {
            span_ns,
            all: Rates::new(&sum, span_ns),
            vcpus,
            locks: rows(&now.locks, earlier.map(|s| &s.locks[..])),
            callers: rows(&now.callers, earlier.map(|s| &s.callers[..])),
            hold: Shape::of(&hold_of(now)),
            wait: Shape::of(&wait_of(now)),
        }
    }

    /// The rates of one vCPU.
    pub fn vcpu(&self, place: &Place) -> Option<&Rates> {
        self.vcpus.iter().find(|(at, _)| at == place).map(|(_, rates)| rates)
    }
}

/// Hold times of all VMs.
pub fn hold_of(snapshot: &Snapshot) -> Hist {
    merged(snapshot.vms.iter().map(|vm| &vm.hold))
}

/// Wait times of all VMs.
pub fn wait_of(snapshot: &Snapshot) -> Hist {
    merged(snapshot.vms.iter().map(|vm| &vm.wait))
}

fn merged<'a>(hists: impl Iterator<Item = &'a Hist>) -> Hist {
    let mut out = Hist::default();
    for hist in hists {
        out.merge(hist);
    }
    out
}

/// The item that `same` accepts: mostly it is still at `index`.
fn by_name<T>(items: &[T], index: usize, same: impl Fn(&T) -> bool) -> Option<&T> {
    match items.get(index) {
        Some(item) if same(item) => Some(item),
        _ => items.iter().find(|item| same(item)),
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ispin_agent::model::Vm;

    fn snapshot(elapsed_ns: u64, takes: u64, lhp: u64) -> Snapshot {
        let mut vcpu = Vcpu { id: 3, slices: takes / 10, on_time: takes * 100, ..Vcpu::default() };
        vcpu.counters.takes = takes;
        vcpu.counters.lhp = lhp;
        vcpu.counters.spin_cycles = takes * 25;
        Snapshot {
            elapsed_ns,
            vms: vec![Vm { name: "vm0".into(), vcpus: vec![vcpu], ..Vm::default() }],
            locks: vec![TableRow { name: "counter".into(), key: 7, acquires: takes, ..TableRow::default() }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let m = Measured::between(Some(&snapshot(1_000_000_000, 100, 2)), &snapshot(1_500_000_000, 200, 7));
        assert_eq!(m.span_ns, 500_000_000);
        assert_eq!(m.all.takes, 200.0);
        assert_eq!(m.all.lhp, 10.0);
        assert_eq!(m.all.psp_per_quantum, Some(0.5));
        assert_eq!(m.all.spin_pct, Some(25.0));
        assert_eq!(m.vcpu(&Place { vm: "vm0".into(), vcpu: 3 }).map(|r| r.takes), Some(200.0));
        assert_eq!(m.vcpu(&Place { vm: "vm1".into(), vcpu: 3 }), None);
        assert_eq!(m.locks[0].acquires, 200.0);
    }

    #[test]
    fn without_an_earlier_one_the_run_is_measured_from_its_beginning() {
        let m = Measured::between(None, &snapshot(2_000_000_000, 100, 2));
        assert_eq!(m.all.takes, 50.0);
    }

    #[test]
    fn the_same_moment_gives_no_infinite_rate() {
        let s = snapshot(0, 100, 2);
        assert_eq!(Measured::between(None, &s).all.takes, 0.0);
        assert_eq!(Measured::between(None, &Snapshot::default()), Measured::default());
    }

    #[test]
    fn a_new_vcpu_counts_from_zero() {
        let earlier = Snapshot { elapsed_ns: 1_000_000_000, ..Snapshot::default() };
        let m = Measured::between(Some(&earlier), &snapshot(2_000_000_000, 100, 2));
        assert_eq!(m.all.takes, 100.0);
    }

    #[test]
    fn shapes_are_bounds_of_buckets() {
        let mut buckets = vec![0; 5];
        buckets[1] = 98;
        buckets[4] = 2;
        let shape = Shape::of(&Hist { buckets });
        assert_eq!(shape, Shape { count: 100, p50: 4, p99: 32, max: 32 });
        assert_eq!(Shape::of(&Hist::default()), Shape::default());
        let top = Hist { buckets: [vec![0; NR_BUCKETS - 1], vec![1]].concat() };
        assert_eq!(Shape::of(&top).max, u64::MAX);
    }
}
