//! `ispin-lab noise` on this machine.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn noise(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ispin-lab"));
    command.arg("noise").args(["--pcpus", "1", "--json"]).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Real-time threads need root; without it the test is skipped, which is an error in CI.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn classes_and_forecast_are_reported() {
    if !root() {
        return;
    }
    let output = noise(&["--seconds", "0.5", "--csd", "1us,1ms"]).output().expect("ispin-lab");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let spun = seen["cpu_seconds"].as_f64().expect("seconds");
    assert!(spun > 0.2, "{seen}");
    assert_eq!(seen["dropped"], 0);
    for class in seen["classes"].as_array().expect("classes") {
        let part = |name: &str| class[name].as_f64().expect("a number");
        assert!(part("stolen_us_per_s") <= part("us_per_s"), "{class}");
        assert!(part("switched_per_s") <= part("per_s"), "{class}");
    }
    let seeds: Vec<f64> = seen["forecast"]
        .as_array()
        .expect("forecast")
        .iter()
        .map(|f| f["seeds_per_s"].as_f64().expect("a number"))
        .collect();
    assert!(seeds.len() == 2 && seeds[0] >= seeds[1], "{seeds:?}");
}

#[test]
fn a_signal_ends_it_and_keeps_what_was_measured() {
    if !root() {
        return;
    }
    let child = noise(&["--seconds", "60"]).spawn().expect("ispin-lab");
    std::thread::sleep(Duration::from_millis(500));
    let told = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("kill");
    let output = child.wait_with_output().expect("its end");
    assert!(told.elapsed() < Duration::from_secs(10));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(seen["cpu_seconds"].as_f64().expect("seconds") > 0.0, "{seen}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (arguments, said) in [
        (["--seconds", "0"], "--seconds 0"),
        (["--seconds", "601"], "--seconds 601"),
        (["--slice-ms", "0"], "--slice-ms 0"),
    ] {
        let output = noise(&arguments).output().expect("ispin-lab");
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(said), "{error}");
    }
}
