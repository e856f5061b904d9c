//! `ispin-lab validate`: which of the paper's claims hold here, in every world that there is.
//!
//! | module | concept |
//! |---|---|
//! | [`claims`] | what is claimed, as data |
//! | [`experiments`] | what is run, and what there is of it |
//! | [`holds`] | the experiment about how long locks are held |
//! | [`shares`] | processes that share an experiment |
//! | [`sample`] | runs of all worlds in one form |
//! | [`judge`] | verdicts |
//! | [`figures`], [`tables`] | what was measured, to look at |
//! | [`report`] | Markdown and HTML |

pub mod claims;
pub mod experiments;
pub mod figures;
pub mod holds;
pub mod judge;
pub mod report;
pub mod sample;
pub mod shares;
pub mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use clap::Args;

use experiments::{Experiment, Extent, Found, Run};
use figures::{Figure, PLOTS};
use report::{Material, Outcome};

use crate::{interrupt, whole_file};

/// What to validate.
#[derive(Args, Clone, Debug)]
pub struct ValidateOptions {
    /// A short form of the experiments, some twenty minutes on two cores (the default)
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// All experiments, over as many sittings as it takes: it goes on where it was
    #[arg(long)]
    pub full: bool,
    /// Folder of results and report [default: validate-quick or validate-full]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run only this experiment; may be given several times. The report is of all that is there
    #[arg(long, value_name = "EXPERIMENT", value_parser = clap::builder::PossibleValuesParser::new(experiments::names()))]
    pub only: Vec<String>,
    /// Run nothing: report what is there
    #[arg(long)]
    pub report_only: bool,
    /// Runs of emulated guests at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
}

/// Runs what is missing and writes the report. Returns where, and the verdicts in a table.
pub fn run(options: &ValidateOptions, btf: &Path, interrupted: &Arc<AtomicBool>) -> Result<String> {
    let extent = if options.full { Extent::Full } else { Extent::Quick };
    let claims = claims::read(claims::TEXT, &experiments::names())?;
    let default = if options.full { "validate-full" } else { "validate-quick" };
    let folder = experiments::folder(options.out.as_deref().unwrap_or(Path::new(default)))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = options.jobs.map_or(cores, usize::from);
    let mut all: Vec<(&Experiment, Found)> = vec![];
    for group in experiments::groups() {
        interrupt::check(interrupted)?;
        let find = |experiment: &Experiment| {
            let wanted = options.only.is_empty() || options.only.iter().any(|name| name == experiment.name);
            let report_only = options.report_only || !wanted;
            experiment.find(&Run { extent, folder: &folder, btf, interrupted, report_only, jobs })
        };
        // What is alone stays on this thread: real threads set its priority and its CPUs.
        let alone = jobs == 1 || group.len() == 1;
        let found = if alone { group.iter().map(find).collect() } else { side_by_side(group, find) };
        for (experiment, found) in group.iter().zip(found) {
            all.push((experiment, found?));
        }
    }
    let found =
        |name: &str| all.iter().find(|(experiment, _)| experiment.name == name).map(|(_, found)| found);
    let outcomes: Vec<Outcome> = claims
        .into_iter()
        .map(|claim| {
            let found = found(&claim.experiment);
            let samples = found.map(|found| found.samples.as_slice()).unwrap_or_default();
            let missing = found.and_then(|found| found.missing.as_deref());
            let missing = missing.or((extent == Extent::Quick).then_some("a run of --full"));
            let (verdict, cells) = judge::judge(&claim, samples, missing);
            let complete = found.is_some_and(|found| found.samples.len() >= found.planned);
            Outcome { claim, verdict, cells, complete }
        })
        .collect();
    let mut pictures: Vec<Figure> = vec![];
    for plot in &PLOTS {
        if let Some(found) = found(plot.experiment) {
            pictures.extend(plot.draw(found)?);
        }
    }
    if let Some(found) = found("instructions") {
        pictures.extend(figures::instructions(found)?);
    }
    if let Some(found) = found("holds") {
        pictures.extend(figures::holds(found)?);
    }
    for figure in &pictures {
        write(&folder.join(format!("{}.svg", figure.name)), &figure.svg)?;
    }
    let found = all.iter().map(|(experiment, found)| (experiment.name, found)).collect();
    let material = Material { extent, outcomes, found, figures: pictures };
    let text = report::markdown(&material);
    write(&folder.join("report.md"), &text)?;
    write(&folder.join("report.html"), &report::page(&text, &material.figures))?;
    let mut said = String::new();
    for outcome in &material.outcomes {
        let verdict = format!("{}{}", outcome.verdict.word(), outcome.so_far());
        said += &format!("{verdict:<20} {:<20} {}\n", outcome.claim.id, outcome.claim.claim);
    }
    said += &format!("\n{}\n", folder.join("report.html").display());
    if material.found.iter().all(|(_, found)| found.samples.is_empty()) {
        bail!("no experiment has any run; what stood in the way stands above and in {}", folder.display());
    }
    Ok(said)
}

/// The answer to each, in order, once all have one.
fn side_by_side<T: Sync, A: Send>(all: &[T], answer: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let answer = &answer;
    std::thread::scope(|scope| {
        let ask = |one| scope.spawn(move || answer(one));
        let threads: Vec<_> = all.iter().map(ask).collect();
        let join = |thread: std::thread::ScopedJoinHandle<A>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    whole_file::write(path, text.as_bytes()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_claims_can_be_read() {
        let claims = claims::read(claims::TEXT, &experiments::names()).unwrap();
        assert!(claims.len() > 20);
    }

    #[test]
    fn answers_come_in_order_and_are_found_at_the_same_time() {
        let all_are_here = std::sync::Barrier::new(3);
        let twice = side_by_side(&[1, 2, 3], |one| {
            all_are_here.wait();
            2 * one
        });
        assert_eq!(twice, [2, 4, 6]);
    }

    #[test]
    fn nothing_measured_is_nothing_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let options = ValidateOptions {
            quick: true,
            full: false,
            out: Some(dir.path().join("v")),
            only: vec![],
            report_only: true,
            jobs: Some(1),
        };
        let error = run(&options, Path::new("/nowhere"), &Arc::default()).unwrap_err().to_string();
        assert!(error.contains("no experiment has any run"), "{error}");
        let report = fs::read_to_string(dir.path().join("v/report.md")).unwrap();
        assert!(report.contains("**not measurable here**") && !report.contains("**reproduced**"), "{report}");
    }
}
