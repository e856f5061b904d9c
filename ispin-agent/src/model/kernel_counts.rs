//! What the threads world's publisher counted at `sched_switch`.

use serde::{Deserialize, Serialize};

/// Why vCPUs left their pCPU, as the publisher saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Preempted while holding a lock.
    pub holders: u64,
    /// Preempted while queued for a lock.
    pub waiters: u64,
    /// Preempted in one of the named windows between two phases.
    pub edges: u64,
    /// Switch-outs because the quantum ended.
    pub out_quantum: u64,
    /// Switch-outs that the agent or the dashboard caused.
    pub out_observer: u64,
    /// Switch-outs that anything else on the machine caused.
    pub out_host: u64,
    /// Switch-outs because the vCPU slept.
    pub out_blocked: u64,
    /// Switch-outs because it yielded.
    pub out_yielded: u64,
    /// Switch-outs more than a tick before the published end.
    pub early: u64,
}

impl KernelCounts {
    /// Adds another vCPU's.
    pub fn merge(&mut self, o: &Self) {
        self.combine(o, |a, b| a + b);
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut out = *self;
        out.combine(earlier, u64::saturating_sub);
        out
    }

    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("holders", self.holders),
            ("waiters", self.waiters),
            ("edges", self.edges),
            ("out_quantum", self.out_quantum),
            ("out_observer", self.out_observer),
            ("out_host", self.out_host),
            ("out_blocked", self.out_blocked),
            ("out_yielded", self.out_yielded),
            ("early", self.early),
        ]
    }

    fn combine(&mut self, o: &Self, f: impl Fn(u64, u64) -> u64) {
        for (a, b) in [
            (&mut self.holders, o.holders),
            (&mut self.waiters, o.waiters),
            (&mut self.edges, o.edges),
            (&mut self.out_quantum, o.out_quantum),
            (&mut self.out_observer, o.out_observer),
            (&mut self.out_host, o.out_host),
            (&mut self.out_blocked, o.out_blocked),
            (&mut self.out_yielded, o.out_yielded),
            (&mut self.early, o.early),
        ] {
            *a = f(*a, b);
        }
    }
}
