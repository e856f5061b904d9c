//! The convoy injector under Xen: a holder keeps its lock until Xen takes its pCPU at the end of its quantum, which nobody
//! foresaw; how long does the lock need until no quantum ends in a problematic preemption any more?
//!
//! The load `micro` does it (`--stall-ms`) and says when; the agents' incidents tell what came of it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ispin_agent::model::{IncidentRecord, Snapshot};

use super::experiment::parse;
use super::options::Policy;
use super::run;
use crate::healing::{Healing, Psp, Watch, quiet_quanta};
use crate::load::micro::Stall;
use crate::vm::report::LoadResult;

/// Length of a quantum, ms: credit's.
const SLICE_MS: u64 = 30;
/// Cycles of the guests' TSC in a millisecond while instructions are counted.
const CYCLES_PER_MS: u64 = 1_000_000;

/// Guests that share the pCPU.
const GUESTS: u32 = 2;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// vCPUs of each of the two guests.
    pub vcpus: u32,
    /// What Xen publishes.
    pub policy: Policy,
    /// Length of a run, seconds of the guests.
    pub seconds: f64,
    /// Quanta from one injection to the next.
    pub every: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Critical section duration estimate, cycles.
    pub csd: u64,
}

impl Injection {
    fn arguments(&self, lock: &str, json: &Path) -> Vec<String> {
        let words = format!(
            "--hypervisor xen --guests {GUESTS} --pcpus 1 --type pv --scheduler credit --policy {} --vcpus {} --lock {lock} \
             --workload micro --csd {} --seconds {} --deterministic --interval 100ms --seed {} --json",
            self.policy, self.vcpus, self.csd, self.seconds, self.seed
        );
        let stall = (u64::from(self.every) * SLICE_MS).to_string();
        let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
        arguments.extend([json.display().to_string(), "--".into(), "--stall-ms".into(), stall]);
        arguments
    }

    /// Quanta without a problematic preemption after which a lock has healed.
    pub fn quiet_quanta(&self) -> u64 {
        quiet_quanta(u64::from(GUESTS * self.vcpus), 1)
    }

    /// Injects while `lock` runs; what came of each injection.
    pub fn run(&self, lock: &str) -> Result<Vec<Healing>> {
        ensure!(self.policy != Policy::Off, "--policy off: where nothing is published no preemption is seen");
        let folder = tempfile::tempdir().context("a folder for snapshots")?;
        let json = folder.path().join("run.jsonl");
        let observed =
            run::observe(&parse(&self.arguments(lock, &json))?)?.context("the run was ended early")?;
        let incidents = incidents(&json)?;
        let mut healings = vec![];
        for (guest, load) in &observed.results {
            let ours = incidents.ended.iter().filter(|(vm, _)| vm == guest);
            let psp: Vec<Psp> = ours.map(|(_, psp)| psp.clone()).collect();
            healings.extend(of_guest(load, &psp, self.quiet_quanta())?);
        }
        ensure!(!healings.is_empty(), "no holder lost its pCPU: give it more --seconds");
        // Each is at least the preemption of the holder that it was made of.
        ensure!(
            incidents.dropped > 0 || healings.iter().any(|healing| healing.psp > 0),
            "the agents saw none of {} preempted holders",
            healings.len()
        );
        if incidents.dropped > 0 {
            // So many in so short a time that the agents' rings were full: nothing had healed. In which guest is not told.
            eprintln!(
                "{lock}, seed {}: the agents had no room for {} incidents; no injection of this run counts as healed",
                self.seed, incidents.dropped
            );
            for healing in &mut healings {
                healing.quanta = None;
                healing.lost = true;
            }
        }
        Ok(healings)
    }
}

/// What the agents told of problematic preemptions.
struct Incidents {
    /// The guest of each, and the preemption.
    ended: Vec<(String, Psp)>,
    /// How many more there were.
    dropped: u64,
}

fn incidents(json: &Path) -> Result<Incidents> {
    let reading = || format!("reading {}", json.display());
    let mut found = Incidents { ended: vec![], dropped: 0 };
    for line in BufReader::new(File::open(json).with_context(reading)?).lines() {
        let snapshot: Snapshot = serde_json::from_str(&line.with_context(reading)?).with_context(reading)?;
        found.dropped = found.dropped.max(snapshot.losses.incidents_dropped);
        found.ended.extend(snapshot.incidents.into_iter().map(|incident| {
            let IncidentRecord { vm, kind, reason, from, to, .. } = incident;
            (vm, Psp { kind, reason, from, to })
        }));
    }
    Ok(found)
}

fn of_guest(load: &LoadResult, psp: &[Psp], quiet: u64) -> Result<Vec<Healing>> {
    let stalls = load.other.get("stalls").cloned().context("the load told no stalls")?;
    let stalls: Vec<Stall> = serde_json::from_value(stalls).context("the load's stalls")?;
    let quantum = SLICE_MS * CYCLES_PER_MS;
    // The last one was not observed to its end.
    let pairs = stalls.windows(2).filter(|pair| pair[0].back > 0);
    let healing = |pair: &[Stall]| {
        let (this, next) = (pair[0], pair[1]);
        let watched = next.begin.saturating_sub(this.back) / quantum;
        // The holder's own release, right after its return, is the preemption that was injected.
        let ours = psp.iter().filter(|psp| psp.to >= this.begin && psp.to < next.begin).cloned().collect();
        let watch = Watch { back: this.back, quantum, watched, quiet };
        Healing::of(watch, ours, 0, next.accesses - this.accesses)
    };
    Ok(pairs.map(healing).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healing_is_counted_from_the_return_of_the_holder() {
        let quantum = SLICE_MS * CYCLES_PER_MS;
        let stall = |begin: u64, back: u64, accesses| serde_json::json!({"begin": begin * quantum, "back": back * quantum, "accesses": accesses});
        let stalls = serde_json::json!([stall(10, 12, 100), stall(40, 42, 2900), stall(70, 71, 3000)]);
        let mut other = serde_json::Map::new();
        other.insert("stalls".into(), stalls);
        let load = LoadResult {
            workload: "micro".into(),
            threads: 2,
            seconds: 1.0,
            operations: 1,
            value: None,
            unit: String::new(),
            per_second: 1.0,
            other,
            gate_seconds: None,
        };
        let at = |quarters: u64| quarters * quantum / 4;
        // The injected one, and one in each quantum for a while after the second.
        let mut times = vec![at(49), at(169)];
        times.extend((43..69).map(|q| q * quantum + 5));
        let psp = |to| Psp { kind: "lwp".into(), reason: "incapable".into(), from: to - 1, to };
        let psp: Vec<Psp> = times.into_iter().map(psp).collect();
        let healings = of_guest(&load, &psp, 8).unwrap();
        assert_eq!((healings[0].quanta, healings[0].psp), (Some(1), 1));
        assert_eq!(healings[0].acquisitions_per_quantum, 2800.0 / 29.0);
        assert_eq!((healings[1].quanta, healings[1].psp), (None, 27));
    }
}
