//! `ispin-load` on this machine: what needs no kernel module.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use ispin_lab::load::kit::host_file::HostFile;
use ispin_lab::load::{WORKLOADS, by_name};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ispin-load");

fn load(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).timeout(Duration::from_secs(120));
    command
}

/// The JSON of the last line of a run that succeeds.
fn result_of(arguments: &[&str]) -> Value {
    let assert = load(arguments).assert().success();
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let line = text.lines().last().unwrap_or_default();
    let json = line.strip_prefix("RESULT ").unwrap_or_else(|| panic!("not a result: {text}"));
    serde_json::from_str(json).expect("JSON")
}

/// Whether the programs that a load needs are here. Without them the test is skipped, which is an error in CI.
fn is_here(name: &str) -> bool {
    let load = by_name(name).expect("a load");
    let missing: Vec<String> = load.needs.iter().filter_map(|file| file.missing(Path::new("/"))).collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?}");
    }
    missing.is_empty()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn every_load_is_listed_and_has_help() {
    let assert = load(&["list"]).assert().success();
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    for (line, workload) in text.lines().zip(WORKLOADS) {
        assert!(line.starts_with(workload.name) && line.contains(workload.about), "{line}");
    }
    assert_eq!(text.lines().count(), WORKLOADS.len());
    for workload in WORKLOADS {
        load(&["run", workload.name, "--help"]).assert().success();
    }
}

#[rstest]
fn a_load_runs_for_a_time(
    #[values("dup", "futex", "pipe", "fault", "create", "ebizzy")] name: &str,
    #[values(1, 4)] threads: u32,
) {
    let threads_text = threads.to_string();
    let result = result_of(&["run", name, "--threads", &threads_text, "--seconds", "0.3"]);
    assert_eq!(result["workload"], name);
    assert_eq!(result["threads"], threads);
    assert_eq!(result["ok"], true);
    assert!((0.3..30.0).contains(&number(&result, "seconds")), "{result}");
    let each = result["per_thread"]["operations"].as_array().expect("operations of each thread");
    assert_eq!(each.len(), threads as usize);
    let sum: f64 = each.iter().filter_map(Value::as_f64).sum();
    assert!(sum > 0.0 && sum == number(&result, "operations"), "{result}");
    let rate = number(&result, "operations") / number(&result, "seconds");
    assert!((number(&result, "per_second") / rate - 1.0).abs() < 1e-9, "{result}");
    assert_eq!(result["value"], result["per_second"]);
}

#[rstest]
#[case("dup", 500)]
#[case("futex", 500)]
#[case("pipe", 500)]
#[case("fault", 512)]
#[case("create", 500)]
#[case("ebizzy", 512)]
fn a_load_does_fixed_work(#[case] name: &str, #[case] operations: u64) {
    let each = operations.to_string();
    let result = result_of(&["run", name, "--threads", "3", "--operations", &each]);
    assert_eq!(result["operations"], operations * 3, "{result}");
}

#[rstest]
#[case("kernbench", &["--files", "5", "--functions", "3"])]
#[case("pbzip2", &["--megabytes", "1"])]
fn a_load_does_rounds(#[case] name: &str, #[case] options: &[&str]) {
    if !is_here(name) {
        return;
    }
    let mut arguments = vec!["run", name, "--threads", "2", "--operations", "2"];
    arguments.extend(options);
    let result = result_of(&arguments);
    assert_eq!(result["unit"], "s");
    assert_eq!(result["rounds"], 2);
    assert!(number(&result, "value") > 0.0, "{result}");
    assert!(number(&result, "value") * 2.0 <= number(&result, "seconds"), "{result}");
}

#[test]
fn work_that_takes_too_long_is_an_error() {
    for name in ["dup", "pipe"] {
        let arguments = ["run", name, "--threads", "2", "--operations", "1000000000", "--seconds", "0.2"];
        let assert = load(&arguments).assert().code(1);
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(text.contains("raise --seconds"), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    for name in ["micro", "pairs", "queue", "torture", "scribble"] {
        let assert = load(&["run", name, "--modules", "/nonexistent"]).assert().code(1);
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        for file in by_name(name).expect("a load").needs {
            let HostFile::Module { file, from } = file else { panic!("{name} needs modules") };
            assert!(text.contains(&format!("/nonexistent/{file} ({from}")), "{text}");
        }
    }
}

#[rstest]
#[case(&["run"])]
#[case(&["run", "nothing"])]
#[case(&["run", "dup", "--seconds", "0"])]
#[case(&["run", "dup", "--seconds", "1e9"])]
#[case(&["run", "dup", "--threads", "0"])]
#[case(&["run", "dup", "--operations", "0"])]
fn a_bad_command_line_is_refused(#[case] arguments: &[&str]) {
    load(arguments).assert().code(2);
}

#[test]
fn a_sleeper_takes_the_place_of_a_thread() {
    let one = ["run", "dup", "--threads", "1", "--sleeper-ms", "5"];
    let assert = load(&one).assert().code(1);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("--sleeper-ms takes one thread"), "{text}");

    let result = result_of(&["run", "dup", "--threads", "2", "--sleeper-ms", "5", "--seconds", "0.3"]);
    assert_eq!(result["threads"], 1);
    let sleeps = number(&result, "sleeps");
    assert!((2.0..=61.0).contains(&sleeps), "{result}");
}

#[test]
fn a_folder_that_is_no_tmpfs_is_refused() {
    let assert = load(&["run", "create", "--folder", "/proc"]).assert().code(1);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("tmpfs"), "{text}");
}

#[test]
fn loads_take_turns() {
    let arguments = [
        "run",
        "rotate",
        "--loads",
        "dup,futex",
        "--slice",
        "0.2",
        "--seconds",
        "0.8",
        "--ignore-kernel-log",
    ];
    let assert = load(&arguments).assert().success();
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let turns: Vec<&str> = text.lines().filter(|line| line.starts_with("TURN ")).collect();
    assert!(turns.len() >= 2 && turns[0].starts_with("TURN 1 {\"workload\":\"dup\""), "{text}");
    assert!(turns[1].starts_with("TURN 2 {\"workload\":\"futex\""), "{text}");
    let last: Value =
        serde_json::from_str(text.lines().last().and_then(|l| l.strip_prefix("RESULT ")).expect("a result"))
            .expect("JSON");
    assert_eq!(last["operations"], turns.len());
    load(&["run", "rotate", "--loads", "rotate"]).assert().code(1);
}

/// Temporary folders of loads in `folder`.
fn left_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// A tmpfs folder for one test.
fn tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("/dev/shm")
}

#[rstest]
#[case("dup", &[])]
#[case("pipe", &[])]
#[case("create", &[])]
#[case("kernbench", &["--files", "5000"])]
#[case("pbzip2", &["--megabytes", "200"])]
fn a_signal_ends_a_load_and_all_that_it_started(#[case] name: &str, #[case] options: &[&str]) {
    if !is_here(name) {
        return;
    }
    let folder = tmpfs();
    let mut child = StdCommand::new(BINARY)
        .args(["run", name, "--threads", "2", "--seconds", "100", "--folder"])
        .arg(folder.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ispin-load");
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("kill");
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(128 + 15), "{name}: {status}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{name} took {:?}", begin.elapsed());
    assert_eq!(left_in(folder.path()), Vec::<PathBuf>::new(), "{name}");
    assert_eq!(programs_in(folder.path()), Vec::<String>::new(), "{name}");
}

#[test]
fn a_load_that_is_killed_takes_its_programs_along() {
    if !is_here("pbzip2") {
        return;
    }
    let folder = tmpfs();
    let mut child = StdCommand::new(BINARY)
        .args(["run", "pbzip2", "--threads", "1", "--seconds", "100", "--megabytes", "200", "--folder"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ispin-load");
    let deadline = Instant::now() + Duration::from_secs(60);
    while programs_in(folder.path()).len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().expect("kill");
    assert_eq!(child.wait().expect("wait").signal(), Some(9));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(programs_in(folder.path()), Vec::<String>::new());
}

/// Command lines of running processes that name `folder`.
fn programs_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("UTF-8");
    let mut found = vec![];
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        // A process can end between the two reads.
        if let Ok(line) = fs::read(entry.path().join("cmdline")) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(folder) {
                found.push(line);
            }
        }
    }
    found
}
