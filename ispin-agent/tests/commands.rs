//! COMMAND: starting it, its end, and ending it. No threads world is needed for what is tested here, but a
//! machine that could observe one: COMMAND is not started otherwise.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{
    agent, done, eventually, finish, lines, record, replay, run_of, signal, started, text, threads_or_skip,
};
use rustix::process::Signal;

#[test]
fn a_command_for_a_replay_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(2));
    let refused = done(replay(&record, &["--", "true"]));
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("needs no COMMAND"));
}

#[test]
fn a_command_that_does_not_exist_is_127_and_one_that_cannot_run_126() {
    if !threads_or_skip() {
        return;
    }
    let missing = done(agent(&["run", "--source", "threads", "--", "no-such-command-of-ispin"]));
    assert_eq!(missing.code, Some(127));
    assert!(missing.stderr.contains("no-such-command-of-ispin") && missing.stderr.contains("not in PATH"));
    let data = done(agent(&["run", "--source", "threads", "--", "/etc/passwd"]));
    assert_eq!(data.code, Some(126));
}

#[test]
fn a_command_that_dies_before_there_is_a_world_gives_its_exit_code() {
    if !threads_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let csv = dir.path().join("run.csv");
    let run = |script: &str| {
        done(agent(&["run", "--source", "threads", "--csv", text(&csv), "--", "sh", "-c", script]))
    };
    let dies = run("exit 3");
    assert_eq!(dies.code, Some(3));
    assert!(dies.stderr.contains("ended with exit code 3 before there was anything to observe"));
    let killed = run("kill -KILL $$");
    assert_eq!(killed.code, Some(137));
    assert!(killed.stderr.contains("was ended by SIGKILL"));
    assert_eq!(run("exit 0").code, Some(2));
    assert!(!csv.exists());
}

#[test]
fn a_command_without_a_world_is_ended_after_the_wait_with_all_that_it_started() {
    if !threads_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let pids = dir.path().join("pids");
    let script = format!("sleep 60 & echo $! > {p}; echo $$ >> {p}; wait", p = pids.display());
    let run = done(agent(&["run", "--source", "threads", "--wait", "300ms", "--", "sh", "-c", &script]));
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("ispin-lab threads"), "it says how to get a world");
    for pid in lines(&pids) {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        eventually("COMMAND and what it started are gone", || {
            fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

#[test]
fn a_signal_while_waiting_ends_the_command_too() {
    if !threads_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", pid_file.display());
    let child = started(agent(&["run", "--source", "threads", "--wait", "60s", "--", "sh", "-c", &script]));
    eventually("COMMAND runs", || !lines(&pid_file).is_empty());
    signal(&child, Signal::INT);
    let done = finish(child);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("SIGINT came before there was anything to observe"));
    let stat = PathBuf::from(format!("/proc/{}/stat", lines(&pid_file)[0]));
    eventually("COMMAND is gone", || !stat.exists());
}

#[test]
fn a_command_does_not_outlive_a_killed_agent() {
    if !threads_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", pid_file.display());
    let mut child =
        started(agent(&["run", "--source", "threads", "--wait", "60s", "--", "sh", "-c", &script]));
    eventually("COMMAND runs", || !lines(&pid_file).is_empty());
    signal(&child, Signal::KILL);
    child.wait().expect("wait");
    let stat = PathBuf::from(format!("/proc/{}/stat", lines(&pid_file)[0]));
    eventually("COMMAND is gone", || fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z ")));
}

#[test]
fn what_a_command_prints_does_not_mix_with_data() {
    if !threads_or_skip() {
        return;
    }
    let command = ["--", "sh", "-c", "echo hello; exit 3"];
    let plain = done(agent(&[&["run", "--source", "threads"], &command[..]].concat()));
    assert_eq!((plain.code, plain.stdout.as_str()), (Some(3), "hello\n"));
    let data = done(agent(&[&["run", "--source", "threads", "--csv", "-"], &command[..]].concat()));
    assert_eq!((data.code, data.stdout.as_str()), (Some(3), ""));
    assert!(data.stderr.contains("hello"));
}
