//! The agent around a real threads world, `ispin-lab threads`: what happens to data, COMMAND and machine when
//! one of them ends, is ended or is killed. Each run is a second or two; real-time threads take whole CPUs.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard};

use common::{
    agent, done, eventually, finish, lines, signal, started, text, threads_or_skip, valid_csv, valid_jsonl,
};
use ispin_agent::sink::csv_columns;
use rustix::process::Signal;

const QUANTUM: &str = "/proc/sys/kernel/sched_rr_timeslice_ms";

/// Rows of an interval: a VM of four vCPUs, unless told.
const VCPU_AND_VM_ROWS: usize = 5;

/// Complete rows of a CSV file that is being written. While the world is being set up there are none.
fn rows(csv: &Path) -> usize {
    lines(csv).len().saturating_sub(1)
}

/// The agent, once it has written three intervals of the world.
fn observed(mut agent: Child, csv: &Path) -> Child {
    let mut ended = false;
    eventually("some intervals are written", || {
        ended = agent.try_wait().expect("state").is_some();
        ended || rows(csv) >= 3 * VCPU_AND_VM_ROWS
    });
    if ended {
        panic!("the agent ended early with exit code {:?}", finish(agent).code);
    }
    agent
}

/// One world at a time, with a folder for its session and the data. Checks at its end that the machine is as
/// it was.
struct Bench {
    dir: tempfile::TempDir,
    lab: PathBuf,
    quantum: String,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !threads_or_skip() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        // Cargo builds the programs of all packages that it tests into one folder.
        let lab = Path::new(env!("CARGO_BIN_EXE_ispin-agent")).with_file_name("ispin-lab");
        if !lab.exists() {
            let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
            assert!(
                !ci,
                "CI must run this test, but ispin-lab is not built: cargo build --package ispin-lab"
            );
            eprintln!("skipped: ispin-lab is not built (cargo build --package ispin-lab)");
            return None;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let quantum = std::fs::read_to_string(QUANTUM).expect("sysctl");
        Some(Self { dir, lab, quantum, _alone: alone })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ispin-agent run --source threads --interval 100ms OPTIONS -- ispin-lab threads WORLD`
    fn run(&self, options: &[&str], world: &[&str]) -> Command {
        let mut command = agent(&["run", "--source", "threads", "--interval", "100ms"]);
        command.args(options).arg("--").arg(&self.lab).arg("threads").args(world);
        command.env("ISPIN_RUN_DIR", self.path("session"));
        command
    }

    /// The setting is back, no session and no process of the world is left.
    fn as_it_was(&self) {
        eventually("the length of a quantum is put back", || {
            std::fs::read_to_string(QUANTUM).expect("sysctl") == self.quantum
        });
        eventually("the session has gone", || {
            std::fs::read_dir(self.path("session")).map_or(true, |mut entries| entries.next().is_none())
        });
        let ours = |process: procfs::process::Process| {
            let variable = format!("ISPIN_RUN_DIR={}", text(&self.path("session")));
            let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            environment.split(|b| *b == 0).any(|v| v == variable.as_bytes())
        };
        eventually("the processes have gone", || {
            !procfs::process::all_processes().expect("processes").flatten().any(ours)
        });
    }
}

#[test]
fn a_whole_run_is_in_both_files_and_ends_with_the_command() {
    let Some(bench) = Bench::new() else { return };
    let (csv, json) = (bench.path("run.csv"), bench.path("run.jsonl"));
    let world = ["--lock", "ticket", "--vcpus", "4", "--seconds", "1"];
    let run = done(bench.run(&["--csv", text(&csv), "--json", text(&json)], &world));
    assert_eq!(run.code, Some(0));
    let snapshots = valid_jsonl(&json);
    assert!(snapshots.len() >= 5, "{} snapshots", snapshots.len());
    assert!(snapshots.last().is_some_and(|s| s.finished));

    // The rows of the VM add up to what the last snapshot that saw it says.
    let columns = csv_columns();
    let at = |name: &str| columns.iter().position(|c| c == name).expect("column");
    let rows = valid_csv(&csv);
    let last = snapshots.iter().rev().find(|s| !s.vms.is_empty()).expect("a snapshot of the world");
    let total = last.vms[0].total();
    assert!(total.counters.acquires > 0);
    for (name, total) in
        [("acquires", total.counters.acquires), ("lwp", total.counters.lwp), ("slices", total.slices)]
    {
        let of_vm = rows.iter().filter(|r| &r[at("vcpu")] == "all");
        assert_eq!(of_vm.map(|r| r[at(name)].parse::<u64>().expect("number")).sum::<u64>(), total, "{name}");
    }
    let vcpus = rows.iter().filter(|r| &r[at("vcpu")] != "all").count();
    let vms = rows.len() - vcpus;
    assert_eq!(vcpus, 4 * vms);
    assert!(run.stderr.contains("lock ticket"), "a summary");
    bench.as_it_was();
}

#[test]
fn worlds_of_a_sequence_are_all_observed() {
    let Some(bench) = Bench::new() else { return };
    let run = done(bench.run(&[], &["--lock", "ticket,hvm", "--vcpus", "4", "--seconds", "0.6"]));
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.contains("lock ticket, 0.6 s") && run.stderr.contains("lock hvm, 0.6 s"));
    bench.as_it_was();
}

#[test]
fn wrong_arguments_of_the_command_give_its_exit_code() {
    let Some(bench) = Bench::new() else { return };
    let run = done(bench.run(&[], &["--lock", "no-such-lock"]));
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("no-such-lock"), "its own message is shown");
    bench.as_it_was();
}

#[test]
fn the_end_of_the_time_ends_the_command() {
    let Some(bench) = Bench::new() else { return };
    let csv = bench.path("run.csv");
    let run =
        done(bench.run(&["--duration", "500ms", "--csv", text(&csv)], &["--lock", "hvm", "--seconds", "20"]));
    assert_eq!(run.code, Some(0));
    assert!(!valid_csv(&csv).is_empty());
    bench.as_it_was();
}

#[test]
fn sigterm_in_mid_run_keeps_the_data_and_restores_the_machine() {
    let Some(bench) = Bench::new() else { return };
    let (csv, json) = (bench.path("run.csv"), bench.path("run.jsonl"));
    let options = ["--csv", text(&csv), "--json", text(&json)];
    let agent = started(bench.run(&options, &["--lock", "hvm", "--seconds", "20"]));
    let agent = observed(agent, &csv);
    signal(&agent, Signal::TERM);
    assert_eq!(finish(agent).code, Some(0));
    assert!(valid_jsonl(&json).last().is_some_and(|s| s.finished));
    assert!(valid_csv(&csv).len() >= 3 * VCPU_AND_VM_ROWS);
    bench.as_it_was();
}

#[test]
fn kill_9_of_the_agent_keeps_the_data_and_the_world_cleans_up() {
    let Some(bench) = Bench::new() else { return };
    let (csv, json) = (bench.path("run.csv"), bench.path("run.jsonl"));
    let options = ["--csv", text(&csv), "--json", text(&json)];
    let agent = started(bench.run(&options, &["--lock", "hvm", "--seconds", "20"]));
    let mut agent = observed(agent, &csv);
    signal(&agent, Signal::KILL);
    agent.wait().expect("wait");
    // Three snapshots are in the CSV; the last of them may not have come to the next output.
    assert!(valid_jsonl(&json).len() >= 2);
    assert!(valid_csv(&csv).len() >= 3 * VCPU_AND_VM_ROWS);
    bench.as_it_was();
}

#[test]
fn kill_9_of_the_command_is_reported_and_the_agent_cleans_up() {
    let Some(bench) = Bench::new() else { return };
    let (csv, json) = (bench.path("run.csv"), bench.path("run.jsonl"));
    let options = ["--csv", text(&csv), "--json", text(&json)];
    let agent = started(bench.run(&options, &["--lock", "hvm", "--seconds", "20"]));
    let agent = observed(agent, &csv);
    // The session file is named after the process that makes the world.
    let session =
        std::fs::read_dir(bench.path("session")).expect("session").next().expect("a file").expect("entry");
    let lab: i32 = session.path().file_stem().and_then(|s| s.to_str()?.parse().ok()).expect("a process id");
    let lab = rustix::process::Pid::from_raw(lab).expect("a process id");
    rustix::process::kill_process(lab, Signal::KILL).expect("kill");
    let run = finish(agent);
    assert_eq!(run.code, Some(137));
    assert!(run.stderr.contains("was ended by SIGKILL"));
    assert!(run.stderr.contains("restored /proc/sys/kernel/sched_rr_timeslice_ms"));
    assert!(valid_jsonl(&json).last().is_some_and(|s| s.finished));
    bench.as_it_was();
}
