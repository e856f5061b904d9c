//! `cargo xtask test`: installs what the tests need and runs all of them, step by step.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ispin_ebpf_build::{MODE_VARIABLE, compile, prebuilt};

use crate::process::{self, cargo, shown};
use crate::setup::{self, Tool};
use crate::{bpf, links, workspace};

/// Which steps to run.
#[derive(clap::Args)]
pub struct Args {
    /// Run this step alone; may be given several times
    #[arg(long, value_name = "STEP", value_parser = names())]
    only: Vec<String>,
    /// List the steps and run none
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    purpose: &'static str,
    needs: &'static [Tool],
    run: fn() -> Result<()>,
}

/// All steps, the quickest to fail first.
const STEPS: [Step; 9] = [
    Step { name: "fmt", purpose: "all code is formatted", needs: &[Tool::Rustfmt], run: fmt },
    Step { name: "links", purpose: "what the documents link to is there", needs: &[], run: check_links },
    Step {
        name: "deny",
        purpose: "licences, bans and sources of all dependencies",
        needs: &[Tool::CargoDeny],
        run: deny,
    },
    Step {
        name: "prebuilt",
        purpose: "the prebuilt eBPF object is current",
        needs: &[Tool::Bpf],
        run: check_prebuilt,
    },
    Step {
        name: "clippy",
        purpose: "lints, warnings denied",
        needs: &[Tool::Clippy, Tool::Bpf],
        run: clippy,
    },
    Step {
        name: "clippy-ebpf",
        purpose: "lints of the eBPF programs, warnings denied",
        needs: &[Tool::BpfClippy],
        run: clippy_ebpf,
    },
    Step {
        name: "doc",
        purpose: "documentation of the code, warnings denied",
        needs: &[Tool::Bpf],
        run: doc,
    },
    Step {
        name: "test-prebuilt",
        purpose: "tests that load eBPF programs, with the prebuilt object",
        needs: &[],
        run: test_prebuilt,
    },
    Step {
        name: "test",
        purpose: "all tests, with the eBPF object built from source",
        needs: &[Tool::Bpf, Tool::Guest],
        run: test_all,
    },
];

/// The crates of the workspace that compile for this machine.
const ORDINARY: [&str; 4] = ["--workspace", "--exclude", "ispin-ebpf", "--locked"];
/// The tests that load the embedded eBPF object.
const LOADERS: [&str; 6] = [
    "--package=ispin-agent",
    "--package=ispin-lab",
    "--locked",
    "--test=live",
    "--test=scenarios",
    "--test=threads_world",
];

fn names() -> clap::builder::PossibleValuesParser {
    STEPS.map(|step| step.name).into()
}

/// Runs the steps; stops at the first that fails.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        for step in &STEPS {
            println!("{:<14} {}", step.name, step.purpose);
        }
        return Ok(());
    }
    let chosen = |step: &&Step| args.only.is_empty() || args.only.iter().any(|name| name == step.name);
    let steps: Vec<&Step> = STEPS.iter().filter(chosen).collect();
    say_how_strict();

    let mut times = vec![("tools", timed("tools", "find or install what the steps need", || tools(&steps))?)];
    for step in steps {
        let time = timed(step.name, step.purpose, step.run).map_err(|error| {
            anyhow!("{error:#}\nstep {0} failed; run it again with: cargo xtask test --only {0}", step.name)
        })?;
        times.push((step.name, time));
    }
    eprintln!();
    for (name, time) in &times {
        eprintln!("{name:<14} {:8.1} s", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    eprintln!("{:<14} {:8.1} s, all passed", "total", total.as_secs_f64());
    Ok(())
}

/// Tests that need root and BPF fail without them under `CI=true`; elsewhere they are skipped.
fn say_how_strict() {
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if strict {
        eprintln!("CI=true: a test that cannot run here fails");
    } else if !setup::is_root() {
        eprintln!("not root: tests that load eBPF programs are skipped; CI=true makes them fail instead");
    }
}

fn timed(name: &str, purpose: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    eprintln!("\n==> {name}: {purpose}");
    let start = Instant::now();
    work()?;
    eprintln!("==> {name}: passed in {:.1} s", start.elapsed().as_secs_f64());
    Ok(start.elapsed())
}

fn tools(steps: &[&Step]) -> Result<()> {
    let mut done: Vec<Tool> = Vec::new();
    for tool in steps.iter().flat_map(|step| step.needs) {
        if !done.contains(tool) {
            tool.ensure()?;
            done.push(*tool);
        }
    }
    Ok(())
}

fn fmt() -> Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"])?)
}

fn check_links() -> Result<()> {
    links::check(&workspace::root()?)
}

fn deny() -> Result<()> {
    // The list of advisories cannot be fetched everywhere, so it is left to those who can.
    process::run(&mut cargo(&[
        "deny",
        "--locked",
        "--workspace",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ])?)
}

fn check_prebuilt() -> Result<()> {
    bpf::check(&workspace::root()?)
}

fn clippy() -> Result<()> {
    process::run(cargo(&["clippy"])?.args(ORDINARY).args(["--all-targets", "--", "-D", "warnings"]))
}

fn clippy_ebpf() -> Result<()> {
    let toolchain = setup::ensure_bpf_clippy()?;
    // In the folder of the build, the two would build the library anew in turns.
    let scratch = workspace::ebpf_scratch()?.join("clippy");
    let mut clippy = compile::cargo(&workspace::root()?, &scratch, prebuilt::ARCH, &toolchain, &["clippy"])?;
    eprintln!("    $ cargo clippy --package ispin-ebpf, by {}", toolchain.version);
    let status = clippy.args(["--", "-D", "warnings"]).status().context("cannot run cargo clippy")?;
    ensure!(status.success(), "the eBPF programs have lints: {status}");
    Ok(())
}

fn doc() -> Result<()> {
    process::run(cargo(&["doc", "--no-deps"])?.args(ORDINARY).env("RUSTDOCFLAGS", "-D warnings"))
}

fn test_all() -> Result<()> {
    // The mode is left at `auto`, as it is for those who type `cargo build`, so that their builds and this one
    // share their work; the build is then asked which object it took.
    test_with(&ORDINARY, "built from source", &[])
}

fn test_prebuilt() -> Result<()> {
    // A target folder of its own: in a shared one, each change of the mode would build the agent anew.
    let target = workspace::target()?.join("prebuilt");
    let target = target.to_str().context("the target folder's name is not Unicode")?;
    test_with(&LOADERS, "prebuilt", &[("CARGO_TARGET_DIR", target), (MODE_VARIABLE, "prebuilt")])
}

/// Builds and runs the tests of `packages`; fails if the eBPF object embedded is not of the kind `origin`.
fn test_with(packages: &[&str], origin: &str, variables: &[(&str, &str)]) -> Result<()> {
    let mut build = cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"])?;
    build.args(packages).envs(variables.iter().copied()).stdout(Stdio::piped());
    eprintln!("    $ {}", shown(&build));
    let mut child = build.spawn().context("cannot run cargo")?;
    let messages = BufReader::new(child.stdout.take().context("cargo has no output")?);
    let mut embedded = None;
    for line in messages.lines() {
        let line = line.context("cargo's output breaks off")?;
        if let Some((_, rest)) = line.split_once(r#"["ISPIN_EBPF_ORIGIN",""#) {
            embedded = rest.split('"').next().map(str::to_owned);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "the tests do not build: {status}");
    let Some(embedded) = embedded else { bail!("cargo did not say which eBPF object is embedded") };
    eprintln!("    eBPF object: {embedded}");
    ensure!(embedded.starts_with(origin), "the eBPF object embedded was to be: {origin}");
    process::run(cargo(&["test"])?.args(packages).envs(variables.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_unique_and_short() {
        let mut names = STEPS.map(|step| step.name);
        assert!(names.iter().all(|name| name.len() <= 14));
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
