//! The guest patch's lock under load: observed truly, and not broken.

use std::path::Path;
use std::process::Command;

mod guest;

use guest::{fails, find, machine, succeeds, vm};

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
    let Some((_one, kernel)) = machine() else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    for (lock, workload) in [("hvm", "dup"), ("pv", "futex"), ("ispin+", "dup")] {
        let (trace, snapshots) = (dir.path().join("trace.tar"), dir.path().join("run.jsonl"));
        // Short quanta, and a csd shorter than many waits: some waits outlive their quantum wherever the phases fall.
        let quanta = ["--soft-slice-ms", "0.3", "--csd", "1000"];
        let arguments = [&["--lock", lock, "--workload", workload, "--seconds", "1"], &quanta[..]].concat();
        let mut command = vm(&kernel, &arguments);
        command.args(["--deterministic", "--trace"]).arg(&trace).arg("--json").arg(&snapshots);
        succeeds(&mut command);
        let table = truth(&trace, &snapshots, &[]);
        for (name, at_least) in [("takes", 20_000), ("deferrals", 100), ("lwp", 1)] {
            assert!(counted(&table, name) >= at_least, "{lock}, {workload}: too few {name}: {table}");
        }
    }
}

/// What every lock of the guest's kernel promises: one holder at a time (the load checks), progress for each thread, and for
/// some the order of the tickets and equal shares.
#[test]
fn every_lock_excludes_goes_on_and_keeps_its_order() {
    let Some((_one, kernel)) = machine() else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    for (lock, fifo, waits) in [
        ("ticket", true, 50),
        ("hvm", true, 50),
        ("pv", true, 50),
        ("ispin+", true, 50),
        ("pvticket", true, 50),
        ("oticket", true, 50),
        ("pts", false, 50),
        // Whoever releases it is there first to take it again: with two vCPUs hardly anybody meets another. How many do depends on
        // where the phases of the two fall, and so on where the compiler put things.
        ("unfair", false, 1),
    ] {
        let (trace, snapshots) = (dir.path().join("trace.tar"), dir.path().join("run.jsonl"));
        let mut command = vm(&kernel, &["--lock", lock, "--workload", "micro", "--seconds", "0.4"]);
        command
            .args(["--soft-slice-ms", "2", "--deterministic", "--trace"])
            .arg(&trace)
            .arg("--json")
            .arg(&snapshots);
        // Short pauses between two accesses, so that there often is a queue.
        let output = succeeds(command.args(["--", "--hold", "300", "--gap", "100"]));
        let said = String::from_utf8_lossy(&output.stdout);
        let shares = said.lines().find(|line| line.trim_start().starts_with("a thread")).expect("its shares");
        let shares: Vec<f64> = shares.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [least, most] = shares[..] else { panic!("{said}") };
        assert!(least >= 100.0, "{lock}: a thread did not go on: {said}");
        // The agent has a CPU in common with one of the two, and a share of it that depends on where their phases fall: a half when it
        // always has something to do. So this finds only a lock that hands one of them most of the passages; order is told by the
        // tickets below, and equal shares are asked of the lock library, where nobody else is on the CPUs.
        assert!(!fifo || least / most > 0.25, "{lock} is not fair: {said}");
        let table = truth(&trace, &snapshots, if fifo { &["--fifo"] } else { &[] });
        assert!(counted(&table, "contended") >= waits, "{lock}: nobody waits: {table}");
    }
}

#[test]
fn a_broken_lock_is_caught_and_a_sound_one_is_not() {
    let Some((_one, sound)) = machine() else { return };
    let patch = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-patch/debug/broken-lock.patch");
    let broken = match find(&["--patch", patch]) {
        Ok(broken) => broken,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("skipped: {why}");
            return;
        }
    };
    // Long holds and short gaps: there is always somebody in the lock to meet.
    let load = ["--lock", "ticket", "--workload", "micro", "--seconds", "1", "--deterministic"];
    let inside = ["--", "--hold", "3000", "--gap", "100"];
    succeeds(vm(&sound, &load).args(inside));
    // The same kernel with its lock left whole.
    succeeds(vm(&broken, &load).args(inside));
    let said = fails(vm(&broken, &load).args(["--append", "ispinlock.broken=1"]).args(inside));
    assert!(said.contains("the load found the lock broken"), "{said}");
}
