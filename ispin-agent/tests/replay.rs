//! `--source replay:FILE`.

mod common;

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use common::{agent, done, record, replay, run_of, snapshot, valid_jsonl};

#[test]
fn a_replayed_run_is_the_recorded_run() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (first, second) = (dir.path().join("1.jsonl"), dir.path().join("2.jsonl"));
    let path = record(dir.path(), &run_of(5));
    let run = done(replay(&path, &["--interval", "10ms", "--json", first.to_str().expect("UTF-8")]));
    assert_eq!(run.code, Some(0));
    assert_eq!(valid_jsonl(&first), run_of(5));
    done(replay(&first, &["--interval", "10ms", "--json", second.to_str().expect("UTF-8")]));
    assert_eq!(fs::read(&first).expect("read"), fs::read(&second).expect("read"));
    assert!(run.stderr.contains("source threads, lock ticket"));
    assert!(run.stderr.contains("LOST: incidents_dropped 5"));
    assert!(run.stderr.contains("agreed 50, window_taking 5, pending 2"));
    assert!(!run.stderr.contains("unexplained"));
}

#[test]
fn the_recorded_pace_is_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = record(dir.path(), &run_of(4));
    let begin = Instant::now();
    assert_eq!(done(replay(&path, &["--json", "-"])).stdout.lines().count(), 4);
    // Three steps of 250 ms; the first snapshot comes at once.
    assert!(begin.elapsed() >= Duration::from_millis(750), "{:?}", begin.elapsed());
}

#[test]
fn sessions_follow_one_another() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut run = run_of(2);
    for mut again in run_of(3) {
        again.source.lock = "hvm".into();
        run.push(again);
    }
    let path = record(dir.path(), &run);
    let done = done(replay(&path, &["--interval", "10ms", "--csv", "-"]));
    assert_eq!(done.stdout.lines().count(), 1 + 5 * 6);
    assert!(done.stderr.contains("lock ticket, 0.5 s") && done.stderr.contains("lock hvm, 0.8 s"));
}

#[test]
fn a_bad_line_is_told_by_file_and_line_and_what_came_before_is_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = record(dir.path(), &[snapshot(1), snapshot(2)]);
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(b"{\"seq\": \"three\"}\n").expect("write");
    let out = dir.path().join("out.jsonl");
    let done = done(replay(&path, &["--interval", "10ms", "--json", out.to_str().expect("UTF-8")]));
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("record.jsonl:3: not a snapshot of this version"));
    assert_eq!(valid_jsonl(&out), [snapshot(1), snapshot(2)]);
}

#[test]
fn a_torn_last_line_is_left_out_with_a_word() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = record(dir.path(), &run_of(2));
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
    let torn = serde_json::to_vec(&snapshot(3)).expect("JSON");
    file.write_all(&torn[..torn.len() / 2]).expect("write");
    let done = done(replay(&path, &["--interval", "10ms", "--json", "-"]));
    assert_eq!(done.code, Some(0));
    assert_eq!(done.stdout.lines().count(), 2);
    assert!(done.stderr.contains("record.jsonl:3: the last line is incomplete and left out"));
}

#[test]
fn no_record_and_an_empty_record_are_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let missing = done(replay(&dir.path().join("none.jsonl"), &[]));
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("record one with `ispin-agent run --json FILE`"));
    let empty = done(replay(&record(dir.path(), &[]), &[]));
    assert_eq!(empty.code, Some(2));
    assert!(empty.stderr.contains("holds no snapshot"));
}

#[test]
fn wrong_usage_is_exit_code_2_with_help() {
    for (arguments, word) in [
        (vec!["run", "--source", "thread"], "give auto, threads, guest, or replay:FILE"),
        (vec!["run", "--interval", "1ms"], "give 10ms to 1h"),
        (vec!["run", "--interval", "250"], "write 250ms, 10s"),
        (vec!["run", "--duration", "0s"], "longer than nothing"),
        (vec!["run", "--listen", "tcp:80", "--source", "replay:/dev/null"], "unix:"),
        (vec!["fly"], "unrecognized subcommand"),
    ] {
        let done = done(agent(&arguments));
        assert_eq!(done.code, Some(2), "{arguments:?}");
        assert!(done.stderr.contains(word), "{arguments:?}: no `{word}`");
    }
}
