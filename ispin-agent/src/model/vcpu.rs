//! VMs and their vCPUs.

use ispin_common::counters::Counters;
use serde::{Deserialize, Serialize};

use super::{Convoy, Hist, KernelCounts, LockStats, counters_by_name};

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its vCPUs, in order of their slots.
    pub vcpus: Vec<Vcpu>,
    /// Hold times of all its vCPUs.
    pub hold: Hist,
    /// Wait times of all its vCPUs.
    pub wait: Hist,
    /// Of `hold`: how many were not shorter than the csd; `None` if that is not known. Where the csd is no power of
    /// two, those in its own bucket are left out.
    #[serde(default)]
    pub hold_over_csd: Option<u64>,
    /// Convoys that were recognised so far.
    #[serde(default)]
    pub convoys: u64,
    /// PSPs in them.
    #[serde(default)]
    pub convoy_psp: u64,
    /// How long they lasted, all together.
    #[serde(default)]
    pub convoy_cycles: u64,
    /// The one that goes on now; of several, that with the most PSPs.
    #[serde(default)]
    pub convoy: Option<Convoy>,
}

impl Vm {
    /// Sum over its vCPUs.
    pub fn total(&self) -> Vcpu {
        let mut total = Vcpu { phase: String::new(), ..Vcpu::default() };
        for vcpu in &self.vcpus {
            total.merge(vcpu);
        }
        total
    }
}

/// One vCPU, totals over its context levels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Index of its slot.
    pub id: u32,
    /// On a pCPU at the moment of the snapshot.
    pub running: bool,
    /// Phase in a lock operation at that moment; empty if the source cannot tell.
    pub phase: String,
    /// Remaining quantum; `None` = off its pCPU, no limit or unknown.
    pub quantum_left: Option<u64>,
    /// `slice_id` of the latest quantum.
    pub slice_id: u32,
    /// Quanta granted since observation began.
    pub slices: u64,
    /// Dispatches since observation began.
    pub dispatches: u64,
    /// Time on a pCPU since observation began. A guest cannot see when it is off its pCPU: there it is
    /// `total_cycles` without the vCPU's idle time.
    pub on_time: u64,
    /// Time that the vCPU had since observation began: all of it but what the hypervisor withheld. In the threads
    /// world the same as `on_time`.
    #[serde(default)]
    pub total_cycles: u64,
    /// The classifier's counters, by the names of [`Counters::NAMES`].
    #[serde(with = "counters_by_name")]
    pub counters: Counters,
    /// What the kernel's own observer at `sched_switch` counted.
    pub kernel: KernelCounts,
    /// What the patched guest kernel counted itself; `None` if it does not say.
    #[serde(default)]
    pub stats: Option<LockStats>,
}

impl Vcpu {
    /// Adds another vCPU's totals.
    pub fn merge(&mut self, other: &Self) {
        self.slices += other.slices;
        self.dispatches += other.dispatches;
        self.on_time += other.on_time;
        self.total_cycles += other.total_cycles;
        self.counters.merge(&other.counters);
        self.kernel.merge(&other.kernel);
        if let Some(stats) = &other.stats {
            self.stats.get_or_insert_default().merge(stats);
        }
    }

    /// What came on top since `earlier` (moment values are those of `self`).
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            slices: self.slices.saturating_sub(earlier.slices),
            dispatches: self.dispatches.saturating_sub(earlier.dispatches),
            on_time: self.on_time.saturating_sub(earlier.on_time),
            total_cycles: self.total_cycles.saturating_sub(earlier.total_cycles),
            counters: self.counters.since(&earlier.counters),
            kernel: self.kernel.since(&earlier.kernel),
            stats: self.stats.as_ref().map(|now| match &earlier.stats {
                Some(earlier) => now.since(earlier),
                None => now.clone(),
            }),
            ..self.clone()
        }
    }
}
