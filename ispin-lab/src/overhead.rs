//! What observation costs: throughput with an agent attached over throughput without, in pairs of runs; and
//! the publisher's time per switch, as the kernel itself accounts it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::stats::median;
use crate::threads::hypervisor::Hypervisor;
use crate::threads::options::RunOptions;

/// Result of a measurement.
#[derive(Debug, Serialize)]
pub struct Overhead {
    /// Lock algorithm.
    pub lock: String,
    /// Acquisitions per second without and with the agent, pair by pair.
    pub pairs: Vec<(f64, f64)>,
    /// Median of with over without.
    pub ratio_median: f64,
    /// Smallest ratio.
    pub ratio_min: f64,
    /// Largest ratio.
    pub ratio_max: f64,
    /// Mean time of the publisher per run of its program (every switch of the machine), ns.
    pub publisher_ns: f64,
    /// Runs of the program that this is the mean of.
    pub publisher_runs: u64,
}

/// Measures `pairs` pairs, in alternating order, and one run more for the publisher.
pub fn measure(
    hypervisor: &mut Hypervisor,
    lock: &str,
    options: &RunOptions,
    pairs: u32,
) -> Result<Overhead> {
    let mut measured = vec![];
    for pair in 0..pairs {
        let (mut without, mut with) = (0.0, 0.0);
        for second in [false, true] {
            if second == (pair % 2 == 0) {
                with = observed(hypervisor, lock, options)?;
            } else {
                let alone = RunOptions { untraced: true, ..options.clone() };
                without = hypervisor.run(lock, &alone)?.acquisitions_per_s;
            }
        }
        eprintln!("pair {}/{pairs}: {without:.0} acquisitions/s without, {with:.0} with the agent", pair + 1);
        measured.push((without, with));
    }
    let ratios: Vec<f64> = measured.iter().map(|(without, with)| with / without).collect();
    let (publisher_ns, publisher_runs) = publisher_cost(hypervisor, lock, options)?;
    Ok(Overhead {
        lock: lock.to_string(),
        ratio_median: median(ratios.iter().copied()),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        pairs: measured,
        publisher_ns,
        publisher_runs,
    })
}

/// A run with `ispin-agent` attached, writing CSV and JSON Lines to nowhere.
fn observed(hypervisor: &mut Hypervisor, lock: &str, options: &RunOptions) -> Result<f64> {
    let agent = Agent::start()?;
    hypervisor.wait_for_observer(true);
    let result = hypervisor.run(lock, options);
    hypervisor.wait_for_observer(false);
    agent.stop()?;
    Ok(result?.acquisitions_per_s)
}

struct Agent(Child);

impl Agent {
    fn start() -> Result<Self> {
        let program = sibling("ispin-agent")?;
        let child = Command::new(&program)
            .args(["run", "--source", "threads", "--csv", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.0.wait().context("waiting for ispin-agent")?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there: build it with `cargo build --release -p {name}`", path.display());
    }
    Ok(path)
}

/// Mean ns per run of the publisher and the number of runs, from the kernel's BPF statistics.
fn publisher_cost(hypervisor: &mut Hypervisor, lock: &str, options: &RunOptions) -> Result<(f64, u64)> {
    let statistics =
        aya::sys::enable_stats(aya::sys::Stats::RunTime).context("switching on BPF statistics")?;
    hypervisor.run(lock, options)?;
    drop(statistics);
    let cost = hypervisor.publisher_cost().context("the kernel shows no BPF statistics (needs Linux 5.8)")?;
    Ok((cost.nanoseconds as f64 / cost.runs.max(1) as f64, cost.runs))
}
