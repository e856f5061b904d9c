//! Whether the runs of an extent can decide a claim, were they all done.

use std::collections::BTreeMap;

use anyhow::Result;

use super::claims::{BEST, Claim};
use super::experiments::{Experiment, Extent, World, instruction_options};
use super::holds;
use super::judge::{NotRun, least_runs};
use crate::{instructions, matrix, vm::xen};

/// What varies in a run, as in a sample.
pub type Keys = BTreeMap<String, String>;

/// The runs of an experiment, by what varies in them.
pub fn runs(experiment: &Experiment, extent: Extent) -> Result<Vec<Keys>> {
    let Some(text) = experiment.text(extent) else { return Ok(vec![]) };
    let keys = |pairs: &[(&str, &str)]| -> Keys {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Ok(match experiment.world {
        World::Threads => {
            let plan = matrix::Experiment::of(text)?.plan();
            plan.iter()
                .map(|cell| keys(&[("lock", &cell.lock), ("vcpus", &cell.vcpus.to_string())]))
                .collect()
        }
        World::Xen => {
            let plan = xen::experiment::Experiment::of(text)?.plan()?;
            plan.into_iter().map(|cell| cell.varied.into_iter().collect()).collect()
        }
        World::Instructions => instructions::plan(&instruction_options(extent))
            .map(|(name, _)| keys(&[("lock", name)]))
            .collect(),
        World::Holds => holds::plan().map(|(workload, _)| keys(&[("workload", workload)])).collect(),
    })
}

/// Whether these runs are enough to decide a claim in one of its cells.
fn decide(runs: &[Keys], claim: &Claim) -> bool {
    let least = least_runs(claim);
    let are_enough = |keys: &Keys| runs.iter().filter(|run| *run == keys).count() >= least;
    let has_rival = |keys: &Keys| {
        let Some(against) = &claim.against else { return true };
        let is_rival = |run: &&Keys| {
            keys.iter().all(|(name, value)| match (against.get(name), run.get(name)) {
                (None, other) => other == Some(value),
                (Some(any), Some(other)) if any == BEST => other != value,
                (Some(wanted), other) => other == Some(wanted),
            })
        };
        runs.iter().filter(is_rival).any(are_enough)
    };
    runs.iter()
        .filter(|run| claim.cells.iter().all(|(name, value)| run.get(name) == Some(value)))
        .any(|run| are_enough(run) && has_rival(run))
}

/// Why a claim cannot be decided by `runs`, which are all [`runs`] of its experiment in an extent; `None` if it can.
pub fn lacks(runs: &[Keys], extent: Extent, claim: &Claim) -> Option<NotRun> {
    if decide(runs, claim) {
        return None;
    }
    Some(match extent {
        Extent::Quick => NotRun::NotInQuick,
        Extent::Full => NotRun::OnlyInQuick,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::claims;
    use super::super::experiments::{EXPERIMENTS, names};
    use super::super::found::Run;
    use super::*;

    #[test]
    fn every_claim_can_be_decided_by_some_form() {
        let plans = |extent| -> BTreeMap<&str, Vec<Keys>> {
            EXPERIMENTS
                .iter()
                .map(|experiment| (experiment.name, runs(experiment, extent).unwrap()))
                .collect()
        };
        let [quick, full] = [Extent::Quick, Extent::Full].map(|extent| (extent, plans(extent)));
        let mut in_quick_alone = vec![];
        for claim in claims::read(claims::TEXT, &names()).unwrap() {
            if claim.not_measurable.is_some() {
                continue;
            }
            let [quick, full] = [&quick, &full]
                .map(|(extent, plans)| lacks(&plans[claim.experiment.as_str()], *extent, &claim));
            assert!(quick.is_none() || full.is_none(), "no form has cells of the claim `{}`", claim.id);
            if full.is_some() {
                in_quick_alone.push(claim.id);
            }
        }
        assert_eq!(in_quick_alone, ["plus-xen-quick", "plus-throughput-quick"]);
    }

    #[test]
    fn a_claim_wants_runs_on_both_sides() {
        let text = |rest: &str| {
            format!(
                "[[claim]]\nid='a'\nsection='5'\nclaim='c'\nexperiment='e'\nmetric='psp'\nat_most=0.5\n{rest}"
            )
        };
        let claim = |rest: &str| claims::read(&text(rest), &["e"]).unwrap().remove(0);
        let cell = |lock: &str, vcpus: &str| -> Keys {
            [("lock", lock), ("vcpus", vcpus)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        let hvm = vec![cell("hvm", "4"); 5];
        let with = |lock: &str, vcpus: &str, runs| [hvm.clone(), vec![cell(lock, vcpus); runs]].concat();
        assert!(decide(&hvm, &claim("where={lock='hvm'}")));
        assert!(!decide(&hvm[1..], &claim("where={lock='hvm'}")));
        assert!(decide(&hvm[3..], &claim("exact=true\nwhere={lock='hvm'}")));
        assert!(!decide(&hvm, &claim("where={lock='hvm',vcpus='12'}")));
        for against in ["ticket", BEST] {
            let claim = claim(&format!("where={{lock='hvm'}}\nagainst={{lock='{against}'}}"));
            assert!(decide(&with("ticket", "4", 5), &claim));
            assert!(!decide(&with("ticket", "4", 4), &claim), "too few");
            assert!(!decide(&with("ticket", "8", 5), &claim), "of another cell");
            assert!(!decide(&hvm, &claim));
        }
    }

    #[test]
    fn plans_are_of_the_cells_that_results_have() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let interrupted = Arc::default();
        for (extent, folder) in [(Extent::Quick, "validation/quick"), (Extent::Full, "results")] {
            // A copy: a file of results is opened to be gone on with.
            let copy = tempfile::tempdir().unwrap();
            for experiment in &EXPERIMENTS {
                let name = format!("{}.csv", experiment.name);
                let from = docs.join(folder).join(&name);
                if from.exists() {
                    std::fs::copy(from, copy.path().join(name)).unwrap();
                }
            }
            let run = Run {
                extent,
                folder: copy.path(),
                btf: Path::new("/nowhere"),
                interrupted: &interrupted,
                report_only: true,
                jobs: 1,
                made: &Default::default(),
            };
            for experiment in &EXPERIMENTS {
                let found = experiment.find(&run).unwrap();
                let plan = runs(experiment, extent).unwrap();
                assert_eq!(plan.len(), found.planned, "{}", experiment.name);
                assert!(
                    plan.is_empty() || !found.samples.is_empty(),
                    "{}: {:?}",
                    experiment.name,
                    found.missing
                );
                for sample in &found.samples {
                    assert!(plan.contains(&sample.keys), "{}: {:?}", experiment.name, sample.keys);
                }
            }
        }
    }
}
