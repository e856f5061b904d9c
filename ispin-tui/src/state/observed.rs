//! All that was learnt from snapshots.
//!
//! A *run* is a stretch in which totals only grow. It ends when the source, its lock or its start changes: the
//! totals of the next one begin at zero, the chart and the incident log go on.

use std::collections::VecDeque;
use std::sync::Arc;

use ispin_agent::interval::same_session;
use ispin_agent::model::Snapshot;

use super::history::History;
use super::incidents::IncidentLog;
use super::measured::{Measured, Step};

/// Rates are means over at least this long, where there is that much.
const RATE_WINDOW_NS: u64 = 1_000_000_000;
/// A first snapshot of a run that is older than this says nothing about the course of the run.
const FRESH_NS: u64 = 2_000_000_000;
/// Runs that began further apart than this are two.
const SAME_BEGINNING_MS: u64 = 1_000;

/// Figures to compare with.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Lock algorithm of the run it was marked in.
    pub lock: String,
    /// Means over the part of that run that was seen until then.
    pub measured: Measured,
}

/// What the screen shows, as far as it comes from snapshots.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    now: Option<Arc<Snapshot>>,
    /// First snapshot of the run that was seen; `None` if the run was seen from its beginning.
    run_base: Option<Arc<Snapshot>>,
    /// Snapshots of this run that rates may be measured from, oldest first; the newest is `now`.
    window: VecDeque<Arc<Snapshot>>,
    measured: Measured,
    history: History,
    incidents: IncidentLog,
    baseline: Option<Baseline>,
    between_runs: bool,
}

impl Observed {
    /// The newest snapshot. Its incidents are in [`Self::incidents`].
    pub fn now(&self) -> Option<&Snapshot> {
        self.now.as_deref()
    }

    /// Figures of the last second.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Figures to compare with, once marked.
    pub fn baseline(&self) -> Option<&Baseline> {
        self.baseline.as_ref()
    }

    /// The course of the PSP rate.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The log of incidents.
    pub fn incidents(&self) -> &IncidentLog {
        &self.incidents
    }

    /// The lock algorithm of the run that ends because `next` begins another one.
    pub fn run_ends_with(&self, next: &Snapshot) -> Option<&str> {
        let now = self.now().filter(|now| !next.vms.is_empty() && !same_run(now, next))?;
        Some(&now.source.lock)
    }

    /// Whether `next` is of the run that is being shown.
    pub fn goes_on_with(&self, next: &Snapshot) -> bool {
        self.now().is_some_and(|now| !next.vms.is_empty() && same_run(now, next))
    }

    /// Whether the run on the screen has ended and the next one has not begun.
    pub fn between_runs(&self) -> bool {
        self.between_runs
    }

    /// Takes the next snapshot.
    pub fn take(&mut self, mut snapshot: Snapshot) {
        for record in std::mem::take(&mut snapshot.incidents) {
            let source = &snapshot.source;
            self.incidents.push(snapshot.elapsed_ns, &source.lock, &source.time_unit, record);
        }
        // Between two runs there is nothing to see: what was seen last stays.
        self.between_runs = snapshot.vms.is_empty() && self.now.is_some();
        if self.between_runs {
            return;
        }
        let snapshot = Arc::new(snapshot);
        let previous = self.now.take().filter(|now| same_run(now, &snapshot));
        let fresh = snapshot.elapsed_ns <= FRESH_NS;
        if previous.is_none() {
            self.history.divide(&snapshot.source.lock);
            self.window.clear();
            self.run_base = (!fresh).then(|| snapshot.clone());
        }
        if previous.is_some() || fresh {
            let step = Step::between(previous.as_deref(), &snapshot);
            self.history.push(step.span_ns, step.lhp, step.lwp);
        }
        self.window.push_back(snapshot.clone());
        let old_enough = |s: &Snapshot| snapshot.elapsed_ns.saturating_sub(s.elapsed_ns) >= RATE_WINDOW_NS;
        while self.window.get(1).is_some_and(|second| old_enough(second)) {
            self.window.pop_front();
        }
        let base = if self.window.len() > 1 { self.window.front() } else { None };
        self.measured = Measured::between(base.map(Arc::as_ref), &snapshot);
        self.now = Some(snapshot);
    }

    /// From now on figures are compared with the means of this run until now. False if nothing was seen yet.
    pub fn mark_baseline(&mut self) -> bool {
        let Some(now) = &self.now else { return false };
        let base = self.run_base.as_deref().filter(|base| base.elapsed_ns < now.elapsed_ns);
        let measured = Measured::between(base, now);
        self.baseline = Some(Baseline { lock: now.source.lock.clone(), measured });
        true
    }

    /// Compares with a baseline that was marked elsewhere, or with none.
    pub fn set_baseline(&mut self, baseline: Option<Baseline>) {
        self.baseline = baseline;
    }
}

/// Whether totals go on from `earlier` to `later`.
fn same_run(earlier: &Snapshot, later: &Snapshot) -> bool {
    // A second run of the same lock is known by its other beginning; clocks that are being adjusted move it a
    // little.
    let began = |s: &Snapshot| s.unix_ms.saturating_sub(s.elapsed_ns / 1_000_000);
    same_session(earlier, later) && began(earlier).abs_diff(began(later)) < SAME_BEGINNING_MS
}
