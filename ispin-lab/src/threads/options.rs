//! What one run of the threads world is.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use ispin_common::slot::MAX_SLOTS;
use ispin_common::threads::{MAX_ROWS, MAX_VMS};
use serde::{Deserialize, Serialize};

use crate::locks::{self, Parameters};
use crate::workload::{Times, nanoseconds};

/// From one host window to the next, ms.
pub const DEFAULT_HOST_EVERY_MS: u32 = 100;
/// Length of a host window, ms.
pub const DEFAULT_HOST_MS: u32 = 8;

/// One run of the micro-benchmark in the threads world.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunOptions {
    /// VMs: processes that share no lock, but the pCPUs
    #[arg(long, default_value_t = 1)]
    pub vms: u32,
    /// vCPUs per VM: threads that contend one lock
    #[arg(long, default_value_t = 4)]
    pub vcpus: u32,
    /// pCPUs that all vCPUs share; 0 = all that this process may use
    #[arg(long, default_value_t = 2)]
    pub pcpus: u32,
    /// Quantum in milliseconds (rounded up to scheduler ticks)
    #[arg(long, default_value_t = 8)]
    pub slice_ms: u32,
    /// Critical section duration estimate, with unit [default: the lock's, 1048576ns; ispin+: 65536ns]
    #[arg(long, value_parser = nanoseconds)]
    #[serde(with = "time_with_unit")]
    pub csd: Option<u64>,
    /// Length of the measured run in seconds
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Time in the critical section: 10us, exp:10us, uniform:5us:15us
    #[arg(long, default_value = "10us")]
    pub hold: Times,
    /// Time between two critical sections, same forms
    #[arg(long, default_value = "10us")]
    pub gap: Times,
    /// Accesses per thread (the paper's x); 0 = as many as fit the time
    #[arg(long, default_value_t = 0)]
    pub accesses: u64,
    /// Every so many milliseconds the hypervisor pauses the VMs, announced as an end of quantum, so that the
    /// machine's other work (the observer's too) gets its share; 0 = never
    #[arg(long, default_value_t = DEFAULT_HOST_EVERY_MS)]
    pub host_every_ms: u32,
    /// Length of such a host window in milliseconds
    #[arg(long, default_value_t = DEFAULT_HOST_MS)]
    pub host_ms: u32,
    /// Do not feed the classifiers: measures what observation costs
    #[arg(long)]
    pub untraced: bool,
    /// Seed of the drawn times
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What the locks can be told
    #[command(flatten)]
    pub parameters: Parameters,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            vms: 1,
            vcpus: 4,
            pcpus: 2,
            slice_ms: 8,
            csd: None,
            seconds: 2.0,
            hold: Times::Fixed(10_000),
            gap: Times::Fixed(10_000),
            accesses: 0,
            host_every_ms: DEFAULT_HOST_EVERY_MS,
            host_ms: DEFAULT_HOST_MS,
            untraced: false,
            seed: 1,
            parameters: Parameters::default(),
        }
    }
}

/// Longest run; the vCPU threads are real-time and take whole CPUs.
const MAX_SECONDS: f64 = 3600.0;

impl RunOptions {
    /// Refuses what cannot run.
    pub fn validate(&self) -> Result<()> {
        let fits = |what: &str, value: u32, max: u32| {
            if value == 0 || value > max {
                bail!("--{what} {value}: between 1 and {max}");
            }
            Ok(())
        };
        fits("vms", self.vms, MAX_VMS - 1)?;
        fits("vcpus", self.vcpus, MAX_SLOTS as u32)?;
        fits("slice-ms", self.slice_ms, 1000)?;
        if self.vms * self.vcpus > MAX_ROWS - 2 {
            bail!("{} VMs of {} vCPUs: at most {} vCPUs in all", self.vms, self.vcpus, MAX_ROWS - 2);
        }
        if !(self.seconds > 0.0 && self.seconds <= MAX_SECONDS) {
            bail!("--seconds {}: more than 0 and at most {MAX_SECONDS}", self.seconds);
        }
        if self.host_every_ms != 0 && (self.host_ms == 0 || self.host_ms >= self.host_every_ms) {
            bail!(
                "--host-ms {}: at least 1 and less than --host-every-ms {}",
                self.host_ms,
                self.host_every_ms
            );
        }
        Ok(())
    }

    /// Critical section duration estimate for `lock`, ns.
    pub fn csd_for(&self, lock: &str) -> u64 {
        let own = || locks::by_name(lock).map_or(locks::CSD_NS, |algorithm| algorithm.csd_ns);
        self.csd.unwrap_or_else(own)
    }

    /// The length of the run.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The workload in words.
    pub fn workload(&self) -> String {
        format!("micro hold {} gap {}", self.hold, self.gap)
    }
}

/// Parses a list of lock names.
pub fn parse_lock(name: &str) -> Result<String> {
    match locks::by_name(name) {
        Some(_) => Ok(name.to_string()),
        None => bail!("no lock `{name}`; there are {}", locks::names().join(", ")),
    }
}

mod time_with_unit {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(ns: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        ns.map(|ns| format!("{ns}ns")).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| crate::workload::nanoseconds(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: RunOptions,
    }

    #[test]
    fn the_command_line_and_experiment_files_have_the_same_defaults() {
        assert_eq!(Line::parse_from(["run"]).options, RunOptions::default());
    }
}
