//! kernbench in small: a generated C program is compiled in parallel, linked and run.

mod source_tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, FromArgMatches};

use super::Workload;
use super::kit::host_file::HostFile;
use super::kit::program;
use super::kit::report::{Report, broken};
use super::kit::rounds;
use super::kit::scratch::Scratch;
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};
use source_tree::SourceTree;

pub(super) const WORKLOAD: Workload = Workload {
    name: "kernbench",
    about: "parallel compilation of a generated C program with tcc, in a tmpfs",
    unit: "s",
    needs: &[HostFile::Program { path: TCC, package: "tcc" }],
    options: Options::augment_args,
    run,
};

const TCC: &str = "/usr/bin/tcc";

/// How long one compilation may take; by far more than a slow emulator needs.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Args, Clone, Debug)]
struct Options {
    /// C files in the program
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=5000))]
    files: u32,
    /// Functions in each of them
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=200))]
    functions: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let options = Options::from_arg_matches(matches)?;
    let scratch = Scratch::new(setup)?;
    let tree = SourceTree::generate(setup.seed, options.files, options.functions);
    tree.write(&scratch.path().join("source"))?;
    let mut laps = vec![(0, Duration::ZERO); setup.threads as usize];
    let start = Instant::now();
    let times = rounds::repeat(setup, || compile_all(setup, scratch.path(), &tree, &mut laps))?;
    let compiled = laps.iter().map(|lap| lap.0).sum();
    let report = Report::new(compiled, start.elapsed()).value(rounds::mean_seconds(&times)).laps(&laps);
    scratch.remove()?;
    Ok(report.with("rounds", times.len()).with("files", options.files).with("functions", options.functions))
}

/// Compiles, links and runs the program; how long compiling and linking took.
fn compile_all(
    setup: &Setup,
    folder: &Path,
    tree: &SourceTree,
    laps: &mut [(u64, Duration)],
) -> Result<Duration> {
    let objects = folder.join("objects");
    if objects.exists() {
        fs::remove_dir_all(&objects).context("removing the previous round's objects")?;
    }
    fs::create_dir(&objects).context("creating the folder for objects")?;
    let start = Instant::now();
    let files = Arc::new(tree.files());
    let next = AtomicUsize::new(0);
    let (own, source, into, units) = (setup.clone(), folder.join("source"), objects.clone(), files.clone());
    let body = move |turn: &Turn| {
        let mut done = 0;
        while turn.goes_on(done) {
            let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            compile(&own, &source, &into, unit)?;
            done += 1;
        }
        Ok(done)
    };
    let until = Until { time: LIMIT.saturating_mul(files.len() as u32), operations: None };
    let team = team::run(setup, until, body)?;
    for (sum, lap) in laps.iter_mut().zip(&team.laps) {
        *sum = (sum.0 + lap.0, sum.1 + lap.1);
    }
    let program = link(setup, &objects, &files)?;
    let elapsed = start.elapsed();
    check(setup, &objects, &program, tree.result())?;
    Ok(elapsed)
}

fn tcc() -> Command {
    let mut command = Command::new(TCC);
    command.args(["-nostdlib", "-nostdinc"]).stdout(Stdio::null());
    command
}

fn compile(setup: &Setup, source: &Path, objects: &Path, unit: &str) -> Result<()> {
    let object = object(objects, unit);
    let mut command = tcc();
    command.arg("-I").arg(source.join("include")).arg("-c").arg(source.join(format!("{unit}.c")));
    command.arg("-o").arg(&object);
    program::run(&mut command, &objects.join(format!("{unit}.messages")), &setup.signals, LIMIT)?;
    if !object.is_file() {
        broken!("tcc said that it compiled {unit}.c, but there is no {}", object.display());
    }
    Ok(())
}

fn object(objects: &Path, unit: &str) -> PathBuf {
    objects.join(format!("{unit}.o"))
}

fn link(setup: &Setup, objects: &Path, units: &[String]) -> Result<PathBuf> {
    let program = objects.join("program");
    let mut command = tcc();
    command.arg("-static").arg("-o").arg(&program).args(units.iter().map(|unit| object(objects, unit)));
    program::run(&mut command, &objects.join("link.messages"), &setup.signals, LIMIT)?;
    Ok(program)
}

/// The program computes what its sources say.
fn check(setup: &Setup, objects: &Path, program: &Path, expected: u32) -> Result<()> {
    let answer = objects.join("answer");
    let mut command = Command::new(program);
    command.stdout(fs::File::create(&answer).context("creating the file for the program's answer")?);
    program::run(&mut command, &objects.join("program.messages"), &setup.signals, LIMIT)?;
    let text = fs::read_to_string(&answer).context("reading the program's answer")?;
    if text.trim() != expected.to_string() {
        broken!("the compiled program computes {:?}, its sources say {expected}", text.trim());
    }
    Ok(())
}
