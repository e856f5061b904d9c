//! What happened between two snapshots, and the figures derived from it, defined once for CSV, summary and
//! screen.

use crate::model::{Convoy, CrossCheck, Hist, Losses, Snapshot, Vcpu, Vm};

/// The stretch between two snapshots of one session.
#[derive(Clone, Copy, Debug)]
pub struct Interval<'a> {
    previous: Option<&'a Snapshot>,
    now: &'a Snapshot,
}

/// What one VM did in an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct VmDelta<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its vCPUs; totals are what came on top, momentary values are those at the end.
    pub vcpus: Vec<Vcpu>,
    /// All of them together.
    pub all: Vcpu,
    /// Hold times.
    pub hold: Hist,
    /// Convoys that were recognised.
    pub convoys: u64,
    /// PSPs in convoys.
    pub convoy_psp: u64,
    /// Time that was spent in convoys.
    pub convoy_cycles: u64,
    /// The convoy that goes on at the end.
    pub convoy: Option<&'a Convoy>,
}

impl VmDelta<'_> {
    /// Holds that were not shorter than the csd, of a hundred; `None` without a hold or a csd.
    pub fn hold_over_csd_pct(&self, csd: u64) -> Option<f64> {
        share(self.hold.not_below(csd)?, self.hold.count()).map(|s| s * 100.0)
    }
}

impl<'a> Interval<'a> {
    /// From `previous` to `now`; from the beginning of observation if there is no previous one or it is of
    /// another session.
    pub fn new(previous: Option<&'a Snapshot>, now: &'a Snapshot) -> Self {
        Self { previous: previous.filter(|p| same_session(p, now)), now }
    }

    /// Its length, ns.
    pub fn ns(&self) -> u64 {
        self.now.elapsed_ns - self.previous.map_or(0, |p| p.elapsed_ns)
    }

    /// What each VM did. A VM or vCPU that the earlier snapshot does not have started from zero.
    pub fn vms(&self) -> impl Iterator<Item = VmDelta<'a>> {
        let previous = self.previous;
        self.now.vms.iter().map(move |vm| {
            let earlier = previous.and_then(|p| p.vms.iter().find(|e| e.name == vm.name));
            let vcpus: Vec<Vcpu> = vm.vcpus.iter().map(|vcpu| vcpu_delta(earlier, vcpu)).collect();
            let mut all = Vcpu::default();
            for vcpu in &vcpus {
                all.merge(vcpu);
            }
            let hold = earlier.map_or_else(|| vm.hold.clone(), |earlier| vm.hold.since(&earlier.hold));
            let more = |of: fn(&Vm) -> u64| of(vm).saturating_sub(earlier.map_or(0, of));
            VmDelta {
                name: &vm.name,
                vcpus,
                all,
                hold,
                convoys: more(|vm| vm.convoys),
                convoy_psp: more(|vm| vm.convoy_psp),
                convoy_cycles: more(|vm| vm.convoy_cycles),
                convoy: vm.convoy.as_ref(),
            }
        })
    }

    /// What was lost.
    pub fn losses(&self) -> Losses {
        self.previous.map_or(self.now.losses, |p| self.now.losses.since(&p.losses))
    }

    /// What was joined; `pending` is the number at the end of the interval.
    pub fn cross_check(&self) -> Option<CrossCheck> {
        let earlier = self.previous.and_then(|p| p.cross_check).unwrap_or_default();
        self.now.cross_check.map(|c| c.since(&earlier))
    }
}

/// Whether `now` continues the session of `earlier`: its totals then include the earlier ones.
pub fn same_session(earlier: &Snapshot, now: &Snapshot) -> bool {
    earlier.source == now.source
        && earlier.seq < now.seq
        && earlier.elapsed_ns <= now.elapsed_ns
        && !earlier.finished
        && !went_back(earlier, now)
}

/// Whether a total of a vCPU is less than it was, as happens when a short session follows a shorter one.
fn went_back(earlier: &Snapshot, now: &Snapshot) -> bool {
    now.vms.iter().any(|vm| {
        let Some(before) = earlier.vms.iter().find(|e| e.name == vm.name) else { return false };
        vm.vcpus.iter().any(|vcpu| {
            before.vcpus.iter().any(|e| {
                e.id == vcpu.id
                    && (vcpu.slices < e.slices
                        || vcpu.counters.takes < e.counters.takes
                        || vcpu.counters.releases < e.counters.releases)
            })
        })
    })
}

fn vcpu_delta(earlier: Option<&Vm>, now: &Vcpu) -> Vcpu {
    match earlier.and_then(|vm| vm.vcpus.iter().find(|e| e.id == now.id)) {
        Some(earlier) => now.since(earlier),
        None => now.clone(),
    }
}

/// Figures derived from what a vCPU or a VM did in a stretch of time. `None` = it cannot be known: the
/// divisor is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// LHP + LWP.
    pub psp: u64,
    /// Mean queue length met by a take.
    pub lql_mean: Option<f64>,
    /// Mean time from acquire to release, in the source's time unit.
    pub hold_mean: Option<f64>,
    /// Mean time from take to acquire, in the source's time unit.
    pub wait_mean: Option<f64>,
    /// PSP per second.
    pub psp_per_s: Option<f64>,
    /// PSP per quantum granted.
    pub psp_per_quantum: Option<f64>,
    /// PSP per million locks acquired.
    pub psp_per_million: Option<f64>,
    /// Locks acquired per second.
    pub acquires_per_s: Option<f64>,
    /// Takes that met a queue, of a hundred.
    pub contended_pct: Option<f64>,
    /// Time on a pCPU spent spinning for a ticket's turn, of a hundred of all time on a pCPU.
    pub spin_pct: Option<f64>,
    /// Time spent spinning for a ticket's turn, of a hundred of all time that the vCPU had (paper, Table 1).
    pub spin_total_pct: Option<f64>,
    /// Time on a pCPU spent deferring, of a hundred of all time on a pCPU.
    pub defer_pct: Option<f64>,
}

impl Figures {
    /// The names of [`Self::values`]: the CSV columns.
    pub const NAMES: [&'static str; 12] = [
        "psp",
        "lql_mean",
        "hold_mean",
        "wait_mean",
        "psp_per_s",
        "psp_per_quantum",
        "psp_per_million",
        "acquires_per_s",
        "contended_pct",
        "spin_pct",
        "spin_total_pct",
        "defer_pct",
    ];

    /// Of what `delta` did in `ns` nanoseconds.
    pub fn of(delta: &Vcpu, ns: u64) -> Self {
        let c = &delta.counters;
        let seconds = ns as f64 / 1e9;
        let per_second = |n: u64| (ns > 0).then(|| n as f64 / seconds);
        let percent = |part, whole| share(part, whole).map(|s| s * 100.0);
        Self {
            psp: c.psp(),
            lql_mean: share(c.lql_sum, c.takes),
            hold_mean: share(c.hold_cycles, c.releases.saturating_sub(c.unpaired_release)),
            wait_mean: share(c.wait_cycles, c.acquires.saturating_sub(c.unpaired_acquire)),
            psp_per_s: per_second(c.psp()),
            psp_per_quantum: share(c.psp(), delta.slices),
            psp_per_million: share(c.psp(), c.acquires).map(|s| s * 1e6),
            acquires_per_s: per_second(c.acquires),
            contended_pct: percent(c.contended, c.takes),
            spin_pct: percent(c.spin_cycles, delta.on_time),
            spin_total_pct: percent(c.spin_cycles, delta.total_cycles),
            defer_pct: percent(c.defer_spin_cycles, delta.on_time),
        }
    }

    /// The values, in the order of [`Self::NAMES`].
    pub fn values(&self) -> [Option<f64>; 12] {
        [
            Some(self.psp as f64),
            self.lql_mean,
            self.hold_mean,
            self.wait_mean,
            self.psp_per_s,
            self.psp_per_quantum,
            self.psp_per_million,
            self.acquires_per_s,
            self.contended_pct,
            self.spin_pct,
            self.spin_total_pct,
            self.defer_pct,
        ]
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use ispin_common::counters::Counters;

    use super::*;
    use crate::model::Source;

    fn snapshot(seq: u64, takes: u64) -> Snapshot {
        let counters = Counters { takes, lql_max: takes, lhp: takes / 10, ..Counters::default() };
        let vcpu = Vcpu { slices: takes, on_time: 10 * takes, counters, ..Vcpu::default() };
        Snapshot {
            seq,
            elapsed_ns: seq * 1_000_000_000,
            source: Source { lock: "ticket".into(), ..Source::default() },
            vms: vec![Vm { name: "vm0".into(), vcpus: vec![vcpu], ..Vm::default() }],
            ..Snapshot::default()
        }
    }

    fn takes(previous: Option<&Snapshot>, now: &Snapshot) -> u64 {
        Interval::new(previous, now).vms().map(|vm| vm.all.counters.takes).sum()
    }

    #[test]
    fn deltas_follow_one_session_and_restart_with_another() {
        let (first, second) = (snapshot(1, 100), snapshot(2, 150));
        assert_eq!(takes(None, &first), 100);
        assert_eq!(takes(Some(&first), &second), 50);
        assert_eq!(Interval::new(Some(&first), &second).ns(), 1_000_000_000);

        let restarted = snapshot(1, 30);
        assert_eq!(takes(Some(&second), &restarted), 30);
        assert_eq!(Interval::new(Some(&second), &restarted).ns(), 1_000_000_000);
        let mut other = snapshot(3, 30);
        other.source.lock = "hvm".into();
        assert_eq!(takes(Some(&second), &other), 30);
        let shorter = Snapshot { elapsed_ns: 2_500_000_000, ..snapshot(3, 149) };
        assert_eq!(takes(Some(&second), &shorter), 149);
        let after_the_end = Snapshot { finished: true, ..second };
        assert_eq!(takes(Some(&after_the_end), &snapshot(3, 200)), 200);
    }

    #[test]
    fn new_vcpu_and_new_vm_start_from_zero() {
        let first = snapshot(1, 100);
        let mut second = snapshot(2, 100);
        second.vms[0].vcpus.push(Vcpu {
            id: 1,
            counters: Counters { takes: 7, ..Default::default() },
            ..Default::default()
        });
        second.vms.push(Vm { name: "vm1".into(), ..snapshot(2, 5).vms.remove(0) });
        let deltas: Vec<_> =
            Interval::new(Some(&first), &second).vms().map(|vm| vm.all.counters.takes).collect();
        assert_eq!(deltas, [7, 5]);
    }

    #[test]
    fn what_cannot_be_known_is_none() {
        let figures = Figures::of(&Vcpu::default(), 0);
        assert_eq!(figures, Figures::default());
        let vcpu = snapshot(1, 100).vms.remove(0).vcpus.remove(0);
        let figures = Figures::of(&vcpu, 2_000_000_000);
        assert_eq!((figures.psp, figures.psp_per_s, figures.psp_per_quantum), (10, Some(5.0), Some(0.1)));
        assert_eq!(figures.spin_pct, Some(0.0));
    }
}
