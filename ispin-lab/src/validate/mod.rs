//! `ispin-lab validate`: which of the paper's claims hold here, in every world that there is.
//!
//! | module | concept |
//! |---|---|
//! | [`claims`] | what is claimed, as data |
//! | [`experiments`] | what is run |
//! | [`found`] | what there is of it, once what is missing has been run |
//! | [`holds`] | the experiment about how long locks are held |
//! | [`shares`] | processes that share an experiment |
//! | [`sample`] | runs of all worlds in one form |
//! | [`judge`] | verdicts |
//! | [`plan`] | whether a form of the experiments can decide a claim |
//! | [`sittings`] | when runs were made |
//! | [`figures`], [`tables`] | what was measured, to look at |
//! | [`report`] | Markdown and HTML |

pub mod claims;
pub mod experiments;
pub mod figures;
pub mod found;
pub mod holds;
pub mod judge;
pub mod plan;
pub mod report;
pub mod sample;
pub mod shares;
pub mod sittings;
pub mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;

use claims::Claim;
use experiments::{Experiment, Extent};
use figures::{Figure, PLOTS};
use found::{Found, Run};
use judge::Verdict;
use report::{Material, Outcome};
use sittings::Sitting;

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
    let folder = found::folder(options.out.as_deref().unwrap_or(Path::new(default)))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (start, begin, made) = (SystemTime::now(), Instant::now(), AtomicUsize::new(0));
    let jobs = options.jobs.map_or(cores, usize::from);
    let run = Run {
        extent,
        folder: &folder,
        btf,
        interrupted,
        report_only: options.report_only,
        jobs,
        made: &made,
    };
    let all = find_all(options, &run);
    let made = made.load(Ordering::Relaxed);
    if made > 0 {
        let sitting = Sitting::new(start, begin.elapsed(), extent, made, cores);
        // The runs are there all the same.
        if let Err(error) = sittings::add(&folder, sitting) {
            eprintln!("ispin-lab: when these runs were made is not kept: {error:#}");
        }
    }
    let all = all?;
    let found =
        |name: &str| all.iter().find(|(experiment, _)| experiment.name == name).map(|(_, found)| found);
    let plans =
        all.iter().map(|(experiment, _)| plan::runs(experiment, extent)).collect::<Result<Vec<_>>>()?;
    let outcome = |claim: Claim| {
        let of = all.iter().zip(&plans).find(|((experiment, _), _)| experiment.name == claim.experiment);
        let ((_, found), plan) = of.with_context(|| format!("no experiment {}", claim.experiment))?;
        Ok(outcome(claim, found, plan, extent))
    };
    let outcomes = claims.into_iter().map(outcome).collect::<Result<Vec<_>>>()?;
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
    let sittings = sittings::table(&folder);
    let material = Material { extent, outcomes, found, figures: pictures, sittings };
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

/// What there is of all experiments, once what is missing of those that are wanted has been run.
fn find_all(options: &ValidateOptions, run: &Run) -> Result<Vec<(&'static Experiment, Found)>> {
    let mut all = vec![];
    for group in experiments::groups() {
        interrupt::check(run.interrupted)?;
        let find = |experiment: &Experiment| {
            let wanted = options.only.is_empty() || options.only.iter().any(|name| name == experiment.name);
            experiment.find(&Run { report_only: run.report_only || !wanted, ..*run })
        };
        // What is alone stays on this thread: real threads set its priority and its CPUs.
        let alone = run.jobs == 1 || group.len() == 1;
        let found = if alone { group.iter().map(find).collect() } else { side_by_side(group, find) };
        for (experiment, found) in group.iter().zip(found) {
            all.push((experiment, found?));
        }
    }
    Ok(all)
}

/// What came of a claim. Where its runs are missing it is told from what they lack: this machine, this form, or time.
fn outcome(claim: Claim, found: &Found, plan: &[plan::Keys], extent: Extent) -> Outcome {
    let (mut verdict, cells) = judge::judge(&claim, &found.samples, found.missing.as_deref());
    let open = matches!(verdict, Verdict::NotMeasurable(_) | Verdict::NotRun(_));
    if open && claim.not_measurable.is_none() {
        verdict = plan::lacks(plan, extent, &claim).map_or(verdict, Verdict::NotRun);
    }
    Outcome { claim, verdict, cells, complete: found.samples.len() >= found.planned }
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

    fn report_of(extent: Extent, folder: &Path) -> String {
        let options = ValidateOptions {
            quick: extent == Extent::Quick,
            full: extent == Extent::Full,
            out: Some(folder.to_owned()),
            only: vec![],
            report_only: true,
            jobs: Some(1),
        };
        let error = run(&options, Path::new("/nowhere"), &Arc::default()).unwrap_err().to_string();
        assert!(error.contains("no experiment has any run"), "{error}");
        fs::read_to_string(folder.join("report.md")).unwrap()
    }

    #[test]
    fn nothing_measured_is_nothing_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let claims = claims::read(claims::TEXT, &experiments::names()).unwrap();
        let never = claims.iter().filter(|claim| claim.not_measurable.is_some()).count();
        for (extent, elsewhere) in [(Extent::Quick, "not in --quick"), (Extent::Full, "only in --quick")] {
            let report = report_of(extent, &dir.path().join("v"));
            let count = |word: &str| report.matches(&format!("**{word}**")).count();
            assert_eq!((count("not measurable here"), count("reproduced")), (never, 0), "{report}");
            assert!(count(elsewhere) > 0 && count("not run so far") > 0, "{report}");
            assert_eq!(never + count(elsewhere) + count("not run so far"), claims.len(), "{report}");
        }
        assert!(!dir.path().join("v/sittings.csv").exists(), "a report is no sitting");
    }

    #[test]
    fn a_signal_ends_it_without_a_report() {
        let dir = tempfile::tempdir().unwrap();
        let options = ValidateOptions {
            quick: true,
            full: false,
            out: Some(dir.path().join("v")),
            only: vec![],
            report_only: true,
            jobs: Some(1),
        };
        let interrupted = Arc::new(AtomicBool::new(true));
        let error = run(&options, Path::new("/nowhere"), &interrupted).unwrap_err().to_string();
        assert!(error.contains("goes on") && !dir.path().join("v/report.md").exists(), "{error}");
    }
}
