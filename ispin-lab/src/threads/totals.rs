//! What the publisher and the lock library counted, summed over all vCPUs, and the result made of it.

use std::ptr::{addr_of, read_volatile};

use anyhow::{Result, bail};
use ispin_agent::bpf::publisher::Publisher;
use ispin_common::counters::Counters;
use ispin_common::slot::Ids;
use ispin_common::threads::KernelRow;

use super::options::RunOptions;
use super::result::{RunResult, mean_and_sd};
use super::vm_process::ThreadResult;

/// What the shared memory says at one moment, summed over all vCPUs.
#[derive(Clone, Default)]
pub struct Totals {
    counters: Counters,
    kernel: KernelRow,
    slices: u64,
}

impl Totals {
    /// Reads them now.
    pub fn read(publisher: &Publisher, options: &RunOptions) -> Result<Self> {
        let mut totals = Self::default();
        for i in 0..options.vms * options.vcpus {
            let (vm, vcpu) = (i / options.vcpus, i % options.vcpus);
            let (Some(row), Some(kernel), Some(page)) = (
                publisher.maps.rows.get(i as usize),
                publisher.maps.kernel_rows.get(i as usize),
                publisher.maps.slot_pages.get(vm as usize),
            ) else {
                bail!("the publisher's maps have no vCPU {i}");
            };
            // SAFETY: mapped; values in mid-update are read at the beginning or end of a run only.
            unsafe {
                totals.counters.merge(&read_volatile(addr_of!((*row).classifier.counters)));
                let k = read_volatile(kernel);
                totals.kernel.on_ns += k.on_ns;
                totals.kernel.waiters += k.waiters;
                totals.kernel.holders += k.holders;
                totals.kernel.edges += k.edges;
                totals.kernel.early += k.early;
                totals.kernel.outs.iter_mut().zip(k.outs).for_each(|(a, b)| *a += b);
                let ids = read_volatile(addr_of!((*page).slots[vcpu as usize].ids));
                totals.slices += u64::from(Ids(ids).slice_id());
            }
        }
        Ok(totals)
    }

    /// What came since `earlier`.
    pub fn since(mut self, earlier: &Self) -> Self {
        self.counters = self.counters.since(&earlier.counters);
        let (k, e) = (&mut self.kernel, &earlier.kernel);
        k.on_ns -= e.on_ns;
        k.waiters -= e.waiters;
        k.holders -= e.holders;
        k.edges -= e.edges;
        k.early -= e.early;
        k.outs.iter_mut().zip(e.outs).for_each(|(a, b)| *a -= b);
        self.slices -= earlier.slices;
        self
    }

    /// The result of a run of `seconds` in which the threads did `threads`.
    pub fn result(
        &self,
        lock: &str,
        options: &RunOptions,
        pcpus: usize,
        seconds: f64,
        threads: &[Vec<ThreadResult>],
    ) -> RunResult {
        let (c, k) = (&self.counters, &self.kernel);
        let operations: Vec<u64> = threads.iter().flatten().map(|t| t.operations).collect();
        let times: Vec<f64> = threads.iter().flatten().map(|t| t.elapsed_ns as f64 / 1e9).collect();
        let acquisitions: u64 = operations.iter().sum();
        let (thread_time_mean, thread_time_sd) = mean_and_sd(&times);
        let psp = c.psp();
        let operations_min = operations.iter().min().copied().unwrap_or(0);
        let operations_max = operations.iter().max().copied().unwrap_or(0);
        RunResult {
            lock: lock.to_string(),
            vms: options.vms,
            vcpus: options.vcpus,
            pcpus: pcpus as u32,
            slice_ms: options.slice_ms,
            csd: options.csd_for(lock),
            hold: options.hold.to_string(),
            gap: options.gap.to_string(),
            host_every_ms: options.host_every_ms,
            host_ms: options.host_ms,
            seed: options.seed,
            repeat: 1,
            seconds,
            acquisitions,
            acquisitions_per_s: ratio(acquisitions as f64, seconds),
            lhp: c.lhp,
            lhp_preempted: c.lhp_preempted,
            lwp: c.lwp,
            lwp_preempted: c.lwp_preempted,
            lwp_blocked: c.lwp_blocked,
            lwp_harmful: c.lwp_harmful,
            idle_cycles: c.idle_cycles,
            psp,
            psp_per_s: ratio(psp as f64, seconds),
            psp_per_quantum: ratio(psp as f64, self.slices as f64),
            psp_per_million: ratio(psp as f64 * 1e6, acquisitions as f64),
            slices: self.slices,
            deferrals: c.deferrals,
            spin_pct: 100.0 * ratio((c.spin_cycles + c.defer_spin_cycles) as f64, k.on_ns as f64),
            lql_mean: ratio(c.lql_sum as f64, c.takes as f64),
            lql_max: c.lql_max,
            expired: c.expired,
            unslotted: c.unslotted,
            unpaired: c.unpaired(),
            kernel_holders: k.holders,
            kernel_waiters: k.waiters,
            kernel_edges: k.edges,
            out_quantum: k.outs[0],
            out_observer: k.outs[1],
            out_host: k.outs[2],
            out_blocked: k.outs[3],
            out_yielded: k.outs[4],
            early: k.early,
            thread_time_mean,
            thread_time_sd,
            fairness: ratio(operations_min as f64, operations_max as f64),
            operations_min,
            operations_max,
            accesses: options.accesses,
            asked_seconds: options.seconds,
            untraced: options.untraced,
            parameters: options.parameters.flags(),
            stolen_ms: 0,
            discarded: Some(0),
        }
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
