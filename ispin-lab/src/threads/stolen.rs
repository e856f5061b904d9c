//! What the host took from this machine's CPUs meanwhile, as the kernel accounts it (`steal` of `/proc/stat`).

use anyhow::{Context, Result};
use procfs::{CurrentSI, KernelStats};

/// Time, ms, that the host has taken from `cpus` since this machine booted; in units of the kernel's accounting, mostly 10 ms. Zero
/// where there is no host, or none that tells.
///
/// # Errors
/// `/proc/stat` cannot be read, or tells nothing of one of them.
pub fn stolen_ms(cpus: &[usize]) -> Result<u64> {
    let stat = KernelStats::current().context("reading /proc/stat")?;
    let of = |&cpu: &usize| {
        let time =
            stat.cpu_time.get(cpu).with_context(|| format!("/proc/stat tells nothing of CPU {cpu}"))?;
        Ok(time.steal_ms().unwrap_or(0))
    };
    cpus.iter().map(of).sum()
}
