//! What a run of the threads world gives.

use serde::{Deserialize, Serialize};

/// Totals of one run, as JSON and as a row of a table. Times in ns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Name of the lock algorithm.
    pub lock: String,
    /// VMs.
    pub vms: u32,
    /// vCPUs per VM.
    pub vcpus: u32,
    /// pCPUs.
    pub pcpus: u32,
    /// Quantum, milliseconds.
    pub slice_ms: u32,
    /// Critical section duration estimate, ns.
    pub csd: u64,
    /// Critical sections, as [`crate::workload::Times`] are written.
    pub hold: String,
    /// Gaps between them.
    pub gap: String,
    /// From one host window to the next, milliseconds; 0 = none.
    pub host_every_ms: u32,
    /// Length of a host window, milliseconds.
    pub host_ms: u32,
    /// Seed of the drawn times.
    pub seed: u64,
    /// Repeat of an experiment, from 1.
    pub repeat: u32,
    /// Length of the run, seconds: to the last access where each thread was to make a number of them.
    pub seconds: f64,
    /// Lock operations completed.
    pub acquisitions: u64,
    /// The same per second.
    pub acquisitions_per_s: f64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Of them: the holder really lost its pCPU.
    pub lhp_preempted: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
    /// Of them: the waiter really lost its pCPU.
    pub lwp_preempted: u64,
    /// Of them: the lock itself blocked or yielded.
    pub lwp_blocked: u64,
    /// Of them: the turn came while the waiter was away.
    pub lwp_harmful: u64,
    /// How long the lock stood free because of that.
    pub idle_cycles: u64,
    /// LHP + LWP.
    pub psp: u64,
    /// The same per second.
    pub psp_per_s: f64,
    /// The same per quantum granted.
    pub psp_per_quantum: f64,
    /// The same per million acquisitions.
    pub psp_per_million: f64,
    /// Quanta granted.
    pub slices: u64,
    /// Refused tickets.
    pub deferrals: u64,
    /// Share of the vCPUs' CPU time (not of all time, as in Table 1) that was burnt waiting, with a ticket or for a quantum, percent.
    pub spin_pct: f64,
    /// Mean queue length at a take.
    pub lql_mean: f64,
    /// Longest queue at a take.
    pub lql_max: u64,
    /// Takes with an expired deadline.
    pub expired: u64,
    /// Takes without a slot.
    pub unslotted: u64,
    /// Events that could not be paired.
    pub unpaired: u64,
    /// Preempted holders, as the kernel's observer counted.
    pub kernel_holders: u64,
    /// Preempted waiters, as the kernel's observer counted.
    pub kernel_waiters: u64,
    /// Switches between two phases, as the kernel's observer counted.
    pub kernel_edges: u64,
    /// Switch-outs at the end of a quantum.
    pub out_quantum: u64,
    /// Switch-outs for an observer.
    pub out_observer: u64,
    /// Switch-outs for anything else on the machine.
    pub out_host: u64,
    /// Switch-outs because a vCPU slept.
    pub out_blocked: u64,
    /// Switch-outs because a vCPU yielded.
    pub out_yielded: u64,
    /// Switch-outs more than a tick before the published end.
    pub early: u64,
    /// Mean of the threads' times, seconds.
    pub thread_time_mean: f64,
    /// Standard deviation of the threads' times, seconds.
    pub thread_time_sd: f64,
    /// Fewest operations of any thread over the most: 1 = fair.
    pub fairness: f64,
    /// Operations of the thread that had fewest.
    pub operations_min: u64,
    /// Operations of the thread that had most.
    pub operations_max: u64,
    /// Accesses that each thread was to make; 0 = as many as fit the time.
    #[serde(default)]
    pub accesses: u64,
    /// Length of the run that was asked for, seconds: threads with a number of accesses can be done before. 0 = not recorded.
    #[serde(default)]
    pub asked_seconds: f64,
    /// Whether the classifiers were not fed.
    #[serde(default)]
    pub untraced: bool,
    /// What the lock was told, as on the command line; empty = nothing.
    #[serde(default)]
    pub parameters: String,
    /// Time that the host took from the pCPUs, milliseconds.
    #[serde(default)]
    pub stolen_ms: u64,
    /// How often this repeat of an experiment was discarded before, because the host had taken too much. `None` = not recorded.
    #[serde(default)]
    pub discarded: Option<u32>,
}

/// Share of the pCPUs' time that the host may take from a repeat that counts.
pub const MOST_STOLEN: f64 = 0.01;

impl RunResult {
    /// Length of the run that was asked for, seconds.
    pub fn asked_seconds(&self) -> f64 {
        if self.asked_seconds > 0.0 { self.asked_seconds } else { self.seconds }
    }

    /// Whether the host took so much that the run says more of the host than of the lock.
    pub fn is_disturbed(&self) -> bool {
        self.stolen_ms as f64 > MOST_STOLEN * self.seconds * 1000.0 * f64::from(self.pcpus)
    }
}

/// Mean and standard deviation.
pub fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt())
}

/// The results as a table for people.
pub fn table(results: &[RunResult]) -> String {
    let mut builder = tabled::builder::Builder::default();
    builder.push_record([
        "lock",
        "vms",
        "vcpus",
        "acq/s",
        "LHP",
        "LWP",
        "harmful",
        "PSP/s",
        "PSP/quantum",
        "deferrals",
        "spin %",
        "lql mean",
        "fairness",
    ]);
    for r in results {
        builder.push_record([
            r.lock.clone(),
            r.vms.to_string(),
            r.vcpus.to_string(),
            format!("{:.0}", r.acquisitions_per_s),
            r.lhp.to_string(),
            r.lwp.to_string(),
            r.lwp_harmful.to_string(),
            format!("{:.1}", r.psp_per_s),
            format!("{:.3}", r.psp_per_quantum),
            r.deferrals.to_string(),
            format!("{:.1}", r.spin_pct),
            format!("{:.2}", r.lql_mean),
            format!("{:.2}", r.fairness),
        ]);
    }
    let mut table = builder.build();
    table.with(tabled::settings::Style::sharp());
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_disturbed_if_the_host_took_more_than_a_hundredth() {
        let run = |stolen_ms| RunResult { seconds: 2.0, pcpus: 2, stolen_ms, ..RunResult::default() };
        assert!(!run(40).is_disturbed());
        assert!(run(50).is_disturbed());
        assert!(!RunResult::default().is_disturbed());
    }
}
