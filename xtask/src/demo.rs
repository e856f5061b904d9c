//! `cargo xtask demo`: ticket against informed locks, live.

use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use ispin_ebpf_build::MODE_VARIABLE;
use serde::{Deserialize, Serialize};

use crate::{process, setup, workspace};

/// What to show, and where to write it.
#[derive(clap::Args)]
pub struct Args {
    /// Plain lines instead of the dashboard; so it is without a terminal
    #[arg(long)]
    headless: bool,
    /// How long each lock runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// vCPUs, real-time threads that contend one lock
    #[arg(long, value_name = "N", default_value_t = 8)]
    vcpus: u32,
    /// Write every interval as CSV (without the dashboard)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the closing table as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Locks in the order of the demo.
const LOCKS: [&str; 4] = ["ticket", "hvm", "pv", "ispin+"];
/// The locks take turns of about this length, so that a drift of the machine meets all of them alike.
const TURN_SECONDS: u64 = 5;
/// Exit code: the machine lacks something that the demo needs.
const CANNOT_START: u8 = 2;

/// Builds what the demo needs and runs it.
pub fn run(args: Args) -> Result<ExitCode> {
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("The demo cannot run here:\n{}", missing.join("\n"));
        return Ok(CANNOT_START.into());
    }
    let mode = setup::ensure_bpf_object()?;
    let dashboard = !args.headless && std::io::stdout().is_terminal();
    let mut build =
        process::cargo(&["build", "--release", "--locked", "-p", "ispin-agent", "-p", "ispin-lab"])?;
    if dashboard {
        build.args(["-p", "ispin-tui"]);
    }
    process::run(build.env(MODE_VARIABLE, mode))?;

    let results = tempfile::NamedTempFile::new().context("creating a file for the results")?;
    let turns = args.seconds.div_ceil(TURN_SECONDS);
    let mut command = if dashboard { dashboard_command()? } else { headless_command(&args)? };
    command.arg("--").arg(program("ispin-lab")?).args(["threads", "--wait-for-observer"]);
    command.args(["--lock", &LOCKS.join(","), "--rounds", &turns.to_string()]);
    command.args(["--seconds", &(args.seconds as f64 / turns as f64).to_string()]);
    command.args(["--vcpus", &args.vcpus.to_string(), "--pcpus", &pcpus().to_string(), "--quiet"]);
    command.arg("--json").arg(results.path());
    let status = command.status().with_context(|| format!("cannot run `{}`", process::shown(&command)))?;

    let text = fs::read_to_string(results.path()).context("reading the results")?;
    if text.is_empty() {
        eprintln!("the demo ended before its last lock had its turn ({status}); no table");
        return Ok(status.code().map_or(ExitCode::FAILURE, |code| (code as u8).max(1).into()));
    }
    let runs: Vec<Run> = serde_json::from_str(&text).context("the results of ispin-lab")?;
    let rows = summarize(&runs);
    println!("{}", table(&rows));
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if !status.success() {
        bail!("`{}` failed: {status}", process::shown(&command));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the machine lacks, each with what would bring it.
fn missing() -> Vec<String> {
    let mut missing = vec![];
    // The owner of /proc/self is the effective user.
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        missing.push(
            "- root: loading eBPF programs and real-time scheduling need it. Run it with sudo or in a root shell."
                .to_owned(),
        );
    }
    let btf = std::env::var_os("ISPIN_BTF").map_or_else(|| "/sys/kernel/btf/vmlinux".into(), PathBuf::from);
    if !btf.is_file() {
        missing.push(format!(
            "- kernel type information: {} is not there. Boot a kernel with CONFIG_DEBUG_INFO_BTF=y; those of Debian, \
             Ubuntu and Fedora have it.",
            btf.display()
        ));
    }
    missing
}

fn program(name: &str) -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or(workspace::root()?.join("target"), PathBuf::from);
    let path = target.join("release").join(name);
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

/// Two pCPUs, or what there is.
fn pcpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(2))
}

fn headless_command(args: &Args) -> Result<Command> {
    let mut command = Command::new(program("ispin-agent")?);
    command.args(["run", "--source", "threads", "--interval", "1s", "--lines", "-"]);
    if let Some(csv) = &args.csv {
        command.arg("--csv").arg(csv);
    }
    Ok(command)
}

fn dashboard_command() -> Result<Command> {
    let mut command = Command::new(program("ispin-tui")?);
    command.args(["--source", "threads", "--baseline", "ticket", "--leave"]);
    Ok(command)
}

/// What the demo reads of a run's result.
#[derive(Debug, Deserialize)]
struct Run {
    lock: String,
    vcpus: u32,
    seconds: f64,
    acquisitions: u64,
    lhp: u64,
    lwp: u64,
    lwp_harmful: u64,
    slices: u64,
    deferrals: u64,
    spin_pct: f64,
}

/// A row of the closing table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    lock: String,
    vcpus: u32,
    acquisitions_per_s: f64,
    lhp: u64,
    lwp: u64,
    lwp_harmful: u64,
    psp_per_s: f64,
    psp_per_quantum: f64,
    deferrals: u64,
    spin_pct: f64,
    /// PSP/s over that of `ticket`.
    psp_ratio_to_ticket: f64,
}

/// All turns of each lock together.
fn summarize(runs: &[Run]) -> Vec<Row> {
    let row = |lock: &&str| {
        let turns: Vec<&Run> = runs.iter().filter(|r| r.lock == **lock).collect();
        let sum = |f: fn(&Run) -> u64| turns.iter().map(|r| f(r)).sum::<u64>();
        let seconds: f64 = turns.iter().map(|r| r.seconds).sum();
        let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let psp = sum(|r| r.lhp + r.lwp) as f64;
        Row {
            lock: (*lock).to_string(),
            vcpus: turns.first().map_or(0, |r| r.vcpus),
            acquisitions_per_s: over(sum(|r| r.acquisitions) as f64, seconds),
            lhp: sum(|r| r.lhp),
            lwp: sum(|r| r.lwp),
            lwp_harmful: sum(|r| r.lwp_harmful),
            psp_per_s: over(psp, seconds),
            psp_per_quantum: over(psp, sum(|r| r.slices) as f64),
            deferrals: sum(|r| r.deferrals),
            spin_pct: over(turns.iter().map(|r| r.spin_pct * r.seconds).sum(), seconds),
            psp_ratio_to_ticket: 0.0,
        }
    };
    let mut rows: Vec<Row> = LOCKS.iter().filter(|l| runs.iter().any(|r| r.lock == **l)).map(row).collect();
    let ticket = rows.iter().find(|r| r.lock == "ticket").map_or(0.0, |r| r.psp_per_s);
    for row in &mut rows {
        row.psp_ratio_to_ticket = if ticket > 0.0 { row.psp_per_s / ticket } else { 0.0 };
    }
    rows
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:8} {:>5} {:>14} {:>6} {:>6} {:>8} {:>8} {:>12} {:>10} {:>7} {:>14}\n",
        "lock",
        "vCPUs",
        "acquisitions/s",
        "LHP",
        "LWP",
        "harmful",
        "PSP/s",
        "PSP/quantum",
        "deferrals",
        "spin %",
        "PSP to ticket"
    );
    for r in rows {
        text += &format!(
            "{:8} {:>5} {:>14.0} {:>6} {:>6} {:>8} {:>8.1} {:>12.4} {:>10} {:>7.1} {:>14.4}\n",
            r.lock,
            r.vcpus,
            r.acquisitions_per_s,
            r.lhp,
            r.lwp,
            r.lwp_harmful,
            r.psp_per_s,
            r.psp_per_quantum,
            r.deferrals,
            r.spin_pct,
            r.psp_ratio_to_ticket
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lock: &str, seconds: f64, lwp: u64) -> Run {
        Run {
            lock: lock.into(),
            vcpus: 8,
            seconds,
            acquisitions: 1000,
            lhp: 1,
            lwp,
            lwp_harmful: 0,
            slices: 100,
            deferrals: 5,
            spin_pct: 50.0,
        }
    }

    #[test]
    fn turns_are_summed_and_compared_with_ticket() {
        let runs = [run("ticket", 2.0, 99), run("hvm", 2.0, 0), run("ticket", 2.0, 299), run("hvm", 2.0, 1)];
        let rows = summarize(&runs);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].lwp, rows[0].psp_per_s, rows[0].psp_per_quantum), (398, 100.0, 2.0));
        assert_eq!((rows[1].psp_per_s, rows[1].psp_ratio_to_ticket), (0.75, 0.0075));
        assert_eq!(rows[1].acquisitions_per_s, 500.0);
        assert_eq!(summarize(&[]), []);
    }
}
