//! The guest patch's lock under load: observed truly, and not broken.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

mod fairness;
mod guest;

use guest::{Turn, succeeds, there, vm};
use ispin_lab::locks::ALGORITHMS;

/// The patched kernel, and the one with a broken lock. Both are there before any guest runs: a build takes all of the machine.
fn kernels() -> &'static [Result<PathBuf, String>; 2] {
    static KERNELS: OnceLock<[Result<PathBuf, String>; 2]> = OnceLock::new();
    let patch = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-patch/debug/broken-lock.patch");
    KERNELS.get_or_init(|| [guest::find(&[]), guest::find(&["--patch", patch])])
}

fn sound() -> Option<&'static Path> {
    there(kernels()[0].as_deref().map_err(String::clone))
}

fn broken() -> Option<&'static Path> {
    there(kernels()[1].as_deref().map_err(String::clone))
}

/// Runs the script that counts from the kernel's own trace, and returns what it printed.
fn truth(trace: &Path, snapshots: &Path, more: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("guest-patch").join("truth/truth.py");
    let mut command = Command::new("python3");
    let output = command.arg(script).arg(trace).arg(snapshots).args(more).output().expect("python3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A figure of the script's table, as the trace has it.
fn counted(table: &str, name: &str) -> u64 {
    let row = table.lines().find(|row| row.split_whitespace().next() == Some(name));
    let figure = row.and_then(|row| row.split_whitespace().nth(2));
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {name} in {table}"))
}

#[test]
fn the_agent_counts_what_the_kernels_own_trace_holds() {
    let Some(kernel) = sound() else { return };
    let agree = |lock: &str, workload: &str| {
        let _turn = Turn::wait();
        let dir = tempfile::tempdir().expect("tempdir");
        let (trace, snapshots) = (dir.path().join("trace.tar"), dir.path().join("run.jsonl"));
        // Short quanta, and a csd shorter than many waits: some waits outlive their quantum wherever the phases fall.
        let quanta = ["--soft-slice-ms", "0.3", "--csd", "1000"];
        let arguments = [&["--lock", lock, "--workload", workload, "--seconds", "1"], &quanta[..]].concat();
        let mut command = vm(kernel, &arguments);
        command.args(["--deterministic", "--trace"]).arg(&trace).arg("--json").arg(&snapshots);
        succeeds(&mut command);
        let table = truth(&trace, &snapshots, &[]);
        for (name, at_least) in [("takes", 20_000), ("deferrals", 100), ("lwp", 1)] {
            assert!(counted(&table, name) >= at_least, "{lock}, {workload}: too few {name}: {table}");
        }
    };
    thread::scope(|scope| {
        for (lock, workload) in [("hvm", "dup"), ("pv", "futex"), ("ispin+", "dup")] {
            scope.spawn(move || agree(lock, workload));
        }
    });
}

/// A lock of the guest's kernel, and what to expect of it.
struct Promise {
    lock: &'static str,
    /// It serves in the order of the tickets, and so gives equal shares.
    fifo: bool,
    /// Least acquires that had to wait, or its order would show nothing.
    waits: u64,
}

/// Least index of a lock that serves in turn. Less than in the lock library's tests: a thread of the guest is not there all the time. The
/// kernel has other work on its CPU, and where a waiter sleeps (pvticket: 0.94) the other one passes meanwhile.
const FAIR: f64 = 0.9;

/// How long a run is, seconds, and how long its threads hold the lock.
struct Load {
    seconds: &'static str,
    hold: &'static str,
}

const SHORT: Load = Load { seconds: "0.4", hold: "300" };
/// The longer the holds, the more there is to meet in the lock.
const LONG: Load = Load { seconds: "1", hold: "3000" };

/// The two threads' operations, as the closing table tells them.
fn shares(said: &str) -> Result<[u64; 2], String> {
    if !said.lines().any(|line| line.trim_start().starts_with("load") && line.contains(" 2 threads")) {
        return Err(format!("not two threads: {said}"));
    }
    let line = said.lines().find(|line| line.trim_start().starts_with("a thread")).unwrap_or_default();
    let shares: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    <[u64; 2]>::try_from(shares).map_err(|_| format!("no shares of two threads: {said}"))
}

/// Checks what every lock of the guest's kernel promises: one holder at a time (the load checks), progress for each thread, and for some
/// the order of the tickets and equal shares. `more` is for the kernel's command line.
fn keeps(kernel: &Path, promise: &Promise, load: &Load, more: &[&str]) -> Result<(), String> {
    let &Promise { lock, fifo, waits } = promise;
    let _turn = Turn::wait();
    let dir = tempfile::tempdir().expect("tempdir");
    let (trace, snapshots) = (dir.path().join("trace.tar"), dir.path().join("run.jsonl"));
    let run = |observed: bool| {
        let mut command = vm(kernel, &["--lock", lock, "--workload", "micro", "--seconds", load.seconds]);
        // Who is refused loses its turn: equal shares are asked for where nobody is, in quanta longer than the run.
        let quantum_ms = if observed { "2" } else { "1000" };
        command.args(["--soft-slice-ms", quantum_ms, "--deterministic"]).args(more);
        if observed {
            command.arg("--trace").arg(&trace).arg("--json").arg(&snapshots);
        } else {
            command.arg("--no-agent");
        }
        // Short pauses between two accesses, so that there often is a queue.
        let output = command.args(["--", "--hold", load.hold, "--gap", "100"]).output().expect("ispin-lab");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(format!("{lock}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        }
        let shares = shares(&said)?;
        if shares.iter().any(|&share| share < 100) {
            return Err(format!("{lock}: a thread did not go on: {said}"));
        }
        Ok(shares)
    };
    // The agent has a CPU in common with one of the two, and a share of it that depends on where their phases fall: equal shares can be
    // asked for where it is not there.
    run(true)?;
    let table = truth(&trace, &snapshots, if fifo { &["--fifo"] } else { &[] });
    if counted(&table, "contended") < waits {
        return Err(format!("{lock}: nobody waits: {table}"));
    }
    let shares = run(false)?;
    let index = fairness::index(&shares);
    println!("{lock}: {index:.3}");
    if fifo && index <= FAIR {
        return Err(format!("{lock}: fairness {index} of {shares:?}"));
    }
    Ok(())
}

#[test]
fn every_lock_excludes_goes_on_and_keeps_its_order() {
    let Some(kernel) = sound() else { return };
    thread::scope(|scope| {
        for lock in ALGORITHMS {
            // Whoever releases the unfair lock is there first to take it again: with two vCPUs hardly anybody meets another. How many do
            // depends on where the phases of the two fall, and so on where the compiler put things.
            let waits = if lock.name == "unfair" { 1 } else { 50 };
            let promise = Promise { lock: lock.name, fifo: lock.fifo, waits };
            scope.spawn(move || keeps(kernel, &promise, &SHORT, &[]).unwrap_or_else(|why| panic!("{why}")));
        }
    });
}

#[test]
fn a_broken_lock_is_caught_and_a_sound_one_is_not() {
    let (Some(sound), Some(broken)) = (sound(), broken()) else { return };
    let ticket = Promise { lock: "ticket", fifo: true, waits: 50 };
    // The same kernel with its lock left whole, too.
    thread::scope(|scope| {
        for kernel in [sound, broken] {
            scope.spawn(|| keeps(kernel, &ticket, &LONG, &[]).unwrap_or_else(|why| panic!("{why}")));
        }
        let why =
            keeps(broken, &ticket, &LONG, &["--append", "ispinlock.broken=1"]).expect_err("a broken lock");
        assert!(why.contains("the load found the lock broken"), "{why}");
    });
}
