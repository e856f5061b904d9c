//! How long a lock needs to heal from one preemption of its holder, in either world.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::threads::result::RunResult;
use crate::whole_file;

/// Fewest quanta without a problematic preemption after which a lock counts as healed.
const LEAST_QUIET: u64 = 3;

/// Quanta without a problematic preemption after which a lock counts as healed: as many as every vCPU needs for one of its own, for a
/// lock that does nothing has some quiet quanta by chance.
pub fn quiet_quanta(vcpus: u64, pcpus: u64) -> u64 {
    vcpus.div_ceil(pcpus.max(1)).max(LEAST_QUIET)
}

/// How many problematic preemptions of an injection are written down one by one.
const WRITTEN: usize = 32;

/// A problematic preemption as it was observed, in the time of its world.
#[derive(Clone, Debug, PartialEq)]
pub struct Psp {
    /// `lhp` or `lwp`.
    pub kind: String,
    /// Why it happened: a name of [`ispin_common::reason::Reason`], or nothing if that is not known.
    pub reason: String,
    /// Acquire (LHP) or take (LWP).
    pub from: u64,
    /// Release (LHP) or acquire (LWP).
    pub to: u64,
}

/// A problematic preemption after an injection. Times are in quanta from the return of the holder that the pCPU was taken from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct After {
    /// `lhp` or `lwp`.
    pub kind: String,
    /// Why it happened: a name of [`ispin_common::reason::Reason`], or nothing if that is not known.
    pub reason: String,
    /// Acquire (LHP) or take (LWP); below 0 = before the return.
    pub from: f64,
    /// Release (LHP) or acquire (LWP).
    pub to: f64,
}

impl After {
    fn told(&self) -> String {
        let Self { kind, reason, from, to } = self;
        let reason = if reason.is_empty() { "unknown" } else { reason };
        format!("{kind} {reason} from {from} to {to}")
    }
}

/// How an injection was observed, in the time of its world.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// When the holder returned to its pCPU.
    pub back: u64,
    /// Length of a quantum.
    pub quantum: u64,
    /// Whole quanta from the return to the end of the observation.
    pub watched: u64,
    /// How many quiet ones make a lock healed.
    pub quiet: u64,
}

/// One preemption and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Healing {
    /// The run of its lock that it was made in, from 1; 0 = not said yet.
    pub repeat: u32,
    /// Quanta from the return of the holder to the first of [`quiet_quanta`] without a problematic preemption; `None` = the observation
    /// ended before, or records were lost.
    pub quanta: Option<u64>,
    /// Problematic preemptions from the injection to the end of its observation.
    pub psp: u64,
    /// Acquisitions of the observation, for each quantum of it.
    pub acquisitions_per_quantum: f64,
    /// Records were lost: of some of those preemptions it is not known when they were.
    pub lost: bool,
    /// Those of which there are records, in the order in which they ended, the first 32 of them.
    pub after: Vec<After>,
}

impl Healing {
    /// What came of one: its problematic preemptions, in any order, of how many more the records were lost, and how many acquisitions
    /// there were.
    pub fn of(watch: Watch, mut psp: Vec<Psp>, dropped: u64, acquisitions: u64) -> Self {
        let Watch { back, quantum, watched, quiet } = watch;
        psp.sort_by_key(|psp| psp.to);
        let times: Vec<u64> = psp.iter().map(|psp| psp.to).collect();
        let quanta = |at: u64| {
            let quanta = (i128::from(at) - i128::from(back)) as f64 / quantum as f64;
            // No -0.0, which would be before the return.
            (quanta * 1000.0).round() / 1000.0 + 0.0
        };
        let total = times.len() as u64 + dropped;
        let after = psp.into_iter().take(WRITTEN).map(|Psp { kind, reason, from, to }| After {
            kind,
            reason,
            from: quanta(from),
            to: quanta(to),
        });
        Self {
            repeat: 0,
            quanta: healed_after(&times, back, quantum, watched, quiet).filter(|_| dropped == 0),
            psp: total,
            acquisitions_per_quantum: acquisitions as f64 / (watched + 1) as f64,
            lost: dropped > 0,
            after: after.collect(),
        }
    }
}

/// The first quantum from `back` on that begins `quiet` of them without any of `times`, if they are all within `watched`.
fn healed_after(times: &[u64], back: u64, quantum: u64, watched: u64, quiet: u64) -> Option<u64> {
    let noisy: BTreeSet<u64> = times.iter().filter_map(|&at| Some(at.checked_sub(back)? / quantum)).collect();
    (0..(watched + 1).saturating_sub(quiet)).find(|&from| noisy.range(from..from + quiet).next().is_none())
}

/// What a lock made of its injections.
#[derive(Clone, Debug, Serialize)]
pub struct InjectionResult {
    /// Name of the lock.
    pub lock: String,
    /// vCPUs.
    pub vcpus: u32,
    /// How many quanta without a problematic preemption were asked of it.
    pub quiet_quanta: u64,
    /// Runs of the lock.
    pub repeats: u32,
    /// Each injection of all runs.
    pub healings: Vec<Healing>,
    /// Each run, of the threads world.
    pub runs: Vec<RunResult>,
}

impl InjectionResult {
    /// Of a lock that nothing was done to yet.
    pub fn new(lock: String, vcpus: u32, quiet_quanta: u64) -> Self {
        Self { lock, vcpus, quiet_quanta, repeats: 0, healings: vec![], runs: vec![] }
    }

    /// Adds what came of the injections of one more run, and the run itself if there is more to be told of it.
    pub fn add(&mut self, healings: Vec<Healing>, run: Option<RunResult>) {
        self.repeats += 1;
        let repeat = self.repeats;
        self.healings.extend(healings.into_iter().map(|healing| Healing { repeat, ..healing }));
        self.runs.extend(run.map(|run| RunResult { repeat, ..run }));
    }
}

/// Writes them as JSON in one step: the file is whole at any moment. What is no file, as /dev/stdout, is written to.
///
/// # Errors
/// The file cannot be written.
pub fn save(results: &[InjectionResult], json: Option<&Path>) -> Result<()> {
    let Some(path) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(results)? + "\n";
    whole_file::put(path, text.as_bytes())
}

/// Quanta within which a lock that does not convoy heals: the one in which the holder returns and releases, and one more.
const SOON: u64 = 2;

/// The healings that took longer than two quanta, of locks that mostly do not (of the others they would be all there is): what happened
/// after those injections.
pub fn slow(results: &[InjectionResult]) -> String {
    let soon = |healing: &Healing| healing.quanta.is_some_and(|quanta| quanta <= SOON);
    let mut lines = String::new();
    for result in results {
        let quick = result.healings.iter().filter(|healing| soon(healing)).count();
        if 2 * quick <= result.healings.len() {
            continue;
        }
        for healing in result.healings.iter().filter(|healing| !soon(healing)) {
            let of_its_run: Vec<&Healing> =
                result.healings.iter().filter(|other| other.repeat == healing.repeat).collect();
            let number = of_its_run.iter().position(|other| std::ptr::eq(*other, healing)).unwrap_or(0) + 1;
            let needed = match healing.quanta {
                Some(quanta) => format!("{quanta} quanta"),
                None if healing.lost => "not known, records were lost".into(),
                None => "did not heal".into(),
            };
            let mut told: Vec<String> = healing.after.iter().map(After::told).collect();
            let more = healing.psp.saturating_sub(told.len() as u64);
            if more > 0 {
                told.push(format!("{more} more"));
            }
            lines += &format!(
                "{}, run {}, injection {number} of {}: {needed}; PSP: {}\n",
                result.lock,
                healing.repeat,
                of_its_run.len(),
                if told.is_empty() { "none".into() } else { told.join(", ") }
            );
        }
    }
    lines
}

/// One line for each lock: medians over all injections of all its runs.
pub fn table(results: &[InjectionResult]) -> String {
    let mut builder = tabled::builder::Builder::default();
    builder.push_record([
        "lock",
        "vCPUs",
        "runs",
        "discarded",
        "injections",
        "healed",
        "quanta median",
        "quanta max",
        "PSP each, median",
        "acquisitions/quantum",
    ]);
    for result in results {
        let of = |f: fn(&Healing) -> f64| crate::stats::median(result.healings.iter().map(f));
        // One that did not heal needed longer than any other.
        let quanta = |h: &Healing| h.quanta.map_or(f64::INFINITY, |quanta| quanta as f64);
        let max = result.healings.iter().map(quanta).fold(0.0, f64::max);
        let shown = |q: f64| if q.is_infinite() { "not healed".into() } else { format!("{q}") };
        builder.push_record([
            result.lock.clone(),
            result.vcpus.to_string(),
            result.repeats.to_string(),
            result.runs.iter().filter_map(|run| run.discarded).sum::<u32>().to_string(),
            result.healings.len().to_string(),
            result.healings.iter().filter(|h| h.quanta.is_some()).count().to_string(),
            shown(of(quanta)),
            shown(max),
            format!("{}", of(|h| h.psp as f64)),
            format!("{:.0}", of(|h| h.acquisitions_per_quantum)),
        ]);
    }
    builder.build().with(tabled::settings::Style::markdown()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_healed_when_a_round_is_quiet() {
        assert_eq!(healed_after(&[], 100, 10, 5, 3), Some(0));
        assert_eq!(
            healed_after(&[90, 105], 100, 10, 5, 3),
            Some(1),
            "what was before the return does not count"
        );
        assert_eq!(healed_after(&[105, 125], 100, 10, 8, 3), Some(3));
        assert_eq!(
            healed_after(&[105, 115, 125, 135], 100, 10, 6, 3),
            None,
            "the end of the observation came before"
        );
        assert_eq!(healed_after(&[139], 100, 10, 7, 3), Some(0));
        assert_eq!(healed_after(&[], 100, 10, 2, 3), None, "observed for too short");
        assert_eq!(healed_after(&[105, 145], 100, 10, 20, 8), Some(5), "three quiet quanta are not a round");
        assert_eq!((quiet_quanta(8, 1), quiet_quanta(9, 2), quiet_quanta(2, 2)), (8, 5, 3));
    }

    #[test]
    fn what_came_of_an_injection_is_told_in_quanta_from_the_return() {
        let psp = |reason: &str, from, to| Psp { kind: "lwp".into(), reason: reason.into(), from, to };
        let watch = Watch { back: 1000, quantum: 100, watched: 20, quiet: 4 };
        let healing = Healing::of(watch, vec![psp("early", 1150, 1310), psp("", 900, 1001)], 0, 4200);
        assert_eq!((healing.quanta, healing.psp, healing.acquisitions_per_quantum), (Some(4), 2, 200.0));
        let times: Vec<(f64, f64)> = healing.after.iter().map(|after| (after.from, after.to)).collect();
        assert_eq!(times, [(-1.0, 0.01), (1.5, 3.1)]);
        let many = Healing::of(watch, vec![psp("early", 900, 1001); 40], 3, 0);
        assert_eq!((many.quanta, many.psp, many.after.len()), (None, 43, WRITTEN));

        let quick = Healing::of(watch, vec![], 0, 0);
        let lost = Healing { quanta: None, lost: true, ..quick.clone() };
        let mut plus = InjectionResult::new("ispin+".into(), 8, 4);
        plus.add(vec![quick.clone(), quick.clone(), quick.clone(), healing], None);
        plus.add(vec![quick, lost], None);
        let mut ticket = InjectionResult::new("ticket".into(), 8, 4);
        ticket.add(vec![many], None);
        assert_eq!(
            slow(&[plus, ticket]),
            "ispin+, run 1, injection 4 of 4: 4 quanta; PSP: lwp unknown from -1 to 0.01, lwp early from 1.5 to 3.1\n\
             ispin+, run 2, injection 2 of 2: not known, records were lost; PSP: none\n"
        );
    }

    #[test]
    fn a_median_is_of_all_injections_of_all_runs() {
        let healing = |quanta, psp| Healing {
            repeat: 0,
            quanta,
            psp,
            acquisitions_per_quantum: 100.0,
            lost: false,
            after: vec![],
        };
        let run = |seconds| Some(RunResult { seconds, repeat: 1, ..RunResult::default() });
        let mut result = InjectionResult::new("ispin+".into(), 8, 4);
        result.add(vec![healing(Some(1), 2), healing(Some(1), 4)], run(2.0));
        result.add(vec![healing(Some(3), 6), healing(None, 90), healing(Some(4), 8)], run(3.0));
        let repeats: Vec<u32> = result.healings.iter().map(|healing| healing.repeat).collect();
        assert_eq!(repeats, [1, 1, 2, 2, 2]);
        let runs: Vec<(u32, f64)> = result.runs.iter().map(|run| (run.repeat, run.seconds)).collect();
        assert_eq!(runs, [(1, 2.0), (2, 3.0)]);
        let table = table(&[result]);
        let cells: Vec<&str> = table.lines().last().unwrap_or_default().split('|').map(str::trim).collect();
        assert_eq!(
            cells,
            ["", "ispin+", "8", "2", "0", "5", "4", "3", "not healed", "6", "100", ""],
            "{table}"
        );
    }
}
