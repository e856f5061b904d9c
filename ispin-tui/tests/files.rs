//! Recorded runs from files, and the picture that is made of them.

#[path = "common/mod.rs"]
mod common;

use std::fs;

use assert_cmd::Command;
use common::synthetic::World;
use ispin_agent::model::Snapshot;
use ispin_tui::feed::file::FileFeed;
use ispin_tui::feed::{Feed, Pace, Update};
use tempfile::TempDir;

fn lines(snapshots: &[Snapshot]) -> String {
    snapshots.iter().map(|s| serde_json::to_string(s).expect("JSON") + "\n").collect()
}

fn run_of(lock: &str, run: u64) -> Vec<Snapshot> {
    let world = World { run, ..World::new(2, 4, lock) };
    (1..=20).map(|n| world.snapshot(n)).collect()
}

fn folder_with(content: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("run.jsonl"), content).expect("written");
    folder
}

fn tui() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ispin-tui"))
}

#[test]
fn a_file_is_shown_at_once_and_then_it_is_over() {
    let folder = folder_with(&(lines(&run_of("ticket", 0)) + "\n" + &lines(&run_of("hvm", 1))));
    let mut feed = FileFeed::open(&folder.path().join("run.jsonl")).expect("a run");
    assert!(matches!(feed.pace(), Pace::At(0)));
    let updates = feed.poll(0);
    assert_eq!(updates.len(), 41);
    assert!(matches!(updates.last(), Some(Update::Finished)));
    assert!(matches!(feed.pace(), Pace::Over));
    assert!(feed.poll(0).is_empty());
}

#[test]
fn errors_name_file_and_line() {
    let good = lines(&run_of("ticket", 0));
    for (content, expected) in [
        (String::new(), "holds no snapshot"),
        (good.clone() + "{\"seq\":", "line 21"),
        (good.clone() + "nonsense\n" + &good, "line 21"),
        (good.replacen("\"takes\"", "\"taken\"", 1), "unknown counter `taken`"),
    ] {
        let folder = folder_with(&content);
        let path = folder.path().join("run.jsonl");
        let error = FileFeed::open(&path).expect_err("bad file");
        let told = format!("{error:#}");
        assert!(told.contains(expected) && told.contains("run.jsonl"), "{told}");
    }
    let told = format!("{:#}", FileFeed::open("/nowhere/run.jsonl".as_ref()).expect_err("no file"));
    assert!(told.contains("/nowhere/run.jsonl"), "{told}");
}

#[test]
fn a_picture_needs_no_terminal() {
    let folder = folder_with(&(lines(&run_of("ticket", 0)) + &lines(&run_of("hvm", 1))));
    let svg = folder.path().join("out.svg");
    tui()
        .arg("--read")
        .arg(folder.path().join("run.jsonl"))
        .arg("--export-svg")
        .arg(&svg)
        .args(["--size", "160x45", "--baseline", "ticket", "--colors", "16"])
        .assert()
        .success();
    let text = fs::read_to_string(&svg).expect("a picture");
    assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    for expected in ["hvm", "vm1/2", "counter", "× to ticket over 0:05"] {
        assert!(text.contains(expected), "{expected}");
    }
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error() {
    let folder = folder_with(&lines(&run_of("ticket", 0)));
    let run = folder.path().join("run.jsonl");
    let told = |to: &str| {
        let output = tui().arg("--read").arg(&run).args(["--export-svg", to]).assert().failure();
        String::from_utf8_lossy(&output.get_output().stderr).into_owned()
    };
    assert!(told("/nowhere/out.svg").contains("/nowhere/out.svg"));
    let full = told("/dev/full");
    assert!(full.contains("/dev/full") && full.contains("No space left"), "{full}");
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let output = tui().args(["--connect", "unix:/nowhere"]).assert().code(2);
    let told = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(told.contains("ispin-agent run"), "{told}");
}
