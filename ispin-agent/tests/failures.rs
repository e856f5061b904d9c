//! What the program does when something is missing, full, closed, in use or gone: a clear message, the right
//! exit code, nothing collected is lost, the machine as it was.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    agent, done, eventually, finish, lines, record, replay, root_or_skip, run_of, signal, started, text,
    valid_csv, valid_jsonl,
};
use ispin_agent::model::Snapshot;
use rustix::process::Signal;

const NOBODY: u32 = 65534;

/// A folder with the program and a record in it, open to everybody.
fn open_folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let program = dir.path().join("ispin-agent");
    fs::copy(env!("CARGO_BIN_EXE_ispin-agent"), &program).expect("copy of the program");
    (dir, program)
}

fn as_nobody(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("ISPIN_BTF")
        .stdin(Stdio::null())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/");
    command
}

/// A run of 400 snapshots of 25 ms each, 10 s if nothing ends it before.
fn long_record(dir: &Path) -> PathBuf {
    let mut run = run_of(400);
    run.iter_mut().for_each(|s| s.elapsed_ns = s.seq * 25_000_000);
    record(dir, &run)
}

// --- an ordinary user ---

#[test]
fn check_as_an_ordinary_user_names_what_is_missing_and_changes_nothing() {
    if !root_or_skip() {
        return;
    }
    let (_dir, program) = open_folder();
    let done = done(as_nobody(&program, &["check"]));
    assert_eq!(done.code, Some(2));
    for word in ["cap_bpf", "cap_perfmon", "cap_sys_nice", "NO", "run as root (sudo)", "not available"] {
        assert!(done.stdout.contains(word), "no `{word}` in:\n{}", done.stdout);
    }
}

#[test]
fn run_as_an_ordinary_user_says_how_to_get_it_and_starts_no_command() {
    if !root_or_skip() {
        return;
    }
    let (dir, program) = open_folder();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    let (csv, witness) = (dir.path().join("run.csv"), dir.path().join("witness"));
    for source in ["auto", "threads", "guest"] {
        let done = done(as_nobody(
            &program,
            &["run", "--source", source, "--csv", text(&csv), "--", "touch", text(&witness)],
        ));
        assert_eq!(done.code, Some(2));
        assert!(done.stderr.contains("cap_bpf") && done.stderr.contains("run as root (sudo)"), "{source}");
        assert!(!witness.exists(), "COMMAND was started although nothing could be observed");
        assert!(!csv.exists(), "an empty CSV is left behind");
    }
}

#[test]
fn an_ordinary_user_can_replay() {
    if !root_or_skip() {
        return;
    }
    let (dir, program) = open_folder();
    let record = record(dir.path(), &run_of(2));
    let done = done(as_nobody(
        &program,
        &["run", "--source", &format!("replay:{}", record.display()), "--interval", "10ms", "--json", "-"],
    ));
    assert_eq!(done.code, Some(0));
    assert_eq!(done.stdout.lines().count(), 2);
}

// --- no BTF ---

#[test]
fn without_btf_check_and_run_name_the_kernel_option() {
    let missing = "/no/such/btf";
    let check = done(agent(&["check", "--btf", missing]));
    assert_eq!(check.code, Some(2), "{}", check.stdout);
    let squeezed = check.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains("CONFIG_DEBUG_INFO_BTF=y") && squeezed.contains(missing), "{}", check.stdout);

    let mut by_variable = agent(&["check"]);
    by_variable.env("ISPIN_BTF", missing);
    assert_eq!(done(by_variable).code, Some(2));

    let run = done(agent(&["run", "--source", "threads", "--btf", missing, "--", "true"]));
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("kernel_btf") && run.stderr.contains("CONFIG_DEBUG_INFO_BTF=y"));

    let broken = done(agent(&["run", "--source", "threads", "--btf", "/etc/passwd", "--", "true"]));
    assert_eq!(broken.code, Some(2));
    assert!(broken.stderr.contains("not BTF that this program can read"));
}

// --- outputs that fail ---

#[test]
fn a_full_device_is_said_once_and_the_other_output_is_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let json = dir.path().join("run.jsonl");
    let record = record(dir.path(), &run_of(6));
    let done = done(replay(&record, &["--interval", "10ms", "--csv", "/dev/full", "--json", text(&json)]));
    assert_eq!(done.code, Some(1));
    assert_eq!(done.stderr.matches("no space left; free some").count(), 1);
    assert!(done.stderr.contains("--csv /dev/full is incomplete"));
    assert_eq!(valid_jsonl(&json), run_of(6));
}

/// A file system of 64 KiB; unmounted when dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).status();
        assert!(mount.expect("mount").success(), "mounting a tiny tmpfs");
        Self(dir)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg(self.0.path()).status();
        assert!(unmount.is_ok_and(|s| s.success()) || std::thread::panicking(), "unmounting the tiny tmpfs");
    }
}

#[test]
fn a_disk_that_fills_up_leaves_whole_files_up_to_there() {
    if !root_or_skip() {
        return;
    }
    let tiny = Tiny::mount();
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(60));
    let (csv, json, good) =
        (tiny.0.path().join("run.csv"), tiny.0.path().join("run.jsonl"), dir.path().join("good.csv"));
    for (option, path) in [("--csv", &csv), ("--json", &json)] {
        // The good one is of the other kind.
        let other = if option == "--csv" { "--json" } else { "--csv" };
        let done = done(replay(&record, &["--interval", "10ms", option, text(path), other, text(&good)]));
        assert_eq!(done.code, Some(1));
        assert!(done.stderr.contains("no space left; free some"));
        let (written, whole) = match option {
            "--csv" => (valid_csv(path).len() / 6, valid_jsonl(&good).len()),
            _ => (valid_jsonl(path).len(), valid_csv(&good).len() / 6),
        };
        assert_eq!(whole, 60);
        assert!((1..60).contains(&written), "{written} intervals fitted");
        fs::remove_file(path).expect("remove");
    }
}

#[test]
fn a_file_that_may_not_grow_further_stays_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(60));
    let csv = dir.path().join("run.csv");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 32 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ispin-agent"), "run"]);
    command.args([
        "--source",
        &format!("replay:{}", record.display()),
        "--interval",
        "10ms",
        "--csv",
        text(&csv),
    ]);
    let done = done(command);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("raise `ulimit -f`"));
    assert!((1..60).contains(&(valid_csv(&csv).len() / 6)));
}

#[test]
fn a_closed_pipe_ends_the_run_quietly_and_loses_nothing_elsewhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(30));

    let mut alone = started(replay(&record, &["--interval", "10ms", "--csv", "-"]));
    let mut header = String::new();
    BufReader::new(alone.stdout.take().expect("stdout")).read_line(&mut header).expect("header");
    assert!(header.starts_with("time_ms,"));
    let alone = finish(alone);
    assert_eq!((alone.code, alone.stderr.as_str()), (Some(0), ""));

    let json = dir.path().join("run.jsonl");
    let mut both = started(replay(&record, &["--interval", "10ms", "--csv", "-", "--json", text(&json)]));
    drop(both.stdout.take());
    let both = finish(both);
    assert_eq!(both.code, Some(0));
    assert_eq!(valid_jsonl(&json), run_of(30));
}

#[test]
fn a_closed_standard_error_is_no_reason_to_stop() {
    let dir = tempfile::tempdir().expect("tempdir");
    let csv = dir.path().join("run.csv");
    let record = record(dir.path(), &run_of(5));
    let mut child = started(replay(&record, &["-vvv", "--interval", "10ms", "--csv", text(&csv)]));
    drop(child.stderr.take());
    assert_eq!(finish(child).code, Some(0));
    assert_eq!(valid_csv(&csv).len(), 5 * 6);
}

#[test]
fn a_folder_or_a_missing_folder_as_file_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(2));
    for option in ["--csv", "--json"] {
        let folder = done(replay(&record, &[option, text(dir.path())]));
        assert_eq!(folder.code, Some(2));
        assert!(folder.stderr.contains("that is a folder; give the name of a file in it"));
        let missing = done(replay(&record, &[option, text(&dir.path().join("a/b.csv"))]));
        assert_eq!(missing.code, Some(2));
        assert!(missing.stderr.contains("its folder does not exist; create it first"));
    }
}

#[test]
fn both_formats_on_standard_output_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(2));
    let both = done(replay(&record, &["--csv", "-", "--json", "-"]));
    assert_eq!(both.code, Some(2));
    assert!(both.stderr.contains("cannot both write to standard output"));
    assert_eq!(both.stdout, "");
}

// --- the socket ---

#[test]
fn a_socket_in_use_is_refused_and_stays_in_use() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = record(dir.path(), &run_of(2));
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let refused = done(replay(&record, &["--listen", &format!("unix:{}", socket.display())]));
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("another program is listening there"));
    listener.set_nonblocking(true).expect("nonblocking");
    UnixStream::connect(&socket).expect("the socket still belongs to who had it");
}

#[test]
fn a_socket_left_by_a_killed_agent_is_replaced_by_the_next() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = long_record(dir.path());
    let socket = dir.path().join("agent.sock");
    let listen = format!("unix:{}", socket.display());
    let mut first = started(replay(&record, &["--listen", &listen]));
    eventually("the socket appears", || UnixStream::connect(&socket).is_ok());
    signal(&first, Signal::KILL);
    first.wait().expect("wait");
    assert!(socket.exists(), "kill -9 leaves the socket");

    let second = started(replay(&record, &["--listen", &listen]));
    let mut client = None;
    eventually("the next agent listens", || {
        client = UnixStream::connect(&socket).ok();
        client.is_some()
    });
    let mut line = String::new();
    BufReader::new(client.expect("client")).read_line(&mut line).expect("line");
    serde_json::from_str::<Snapshot>(&line).expect("a snapshot");
    signal(&second, Signal::TERM);
    assert_eq!(finish(second).code, Some(0));
    assert!(!socket.exists());
}

// --- signals in mid-run ---

#[test]
fn sigterm_in_mid_run_writes_the_last_snapshot_and_is_no_failure() {
    for number in [Signal::TERM, Signal::INT, Signal::HUP] {
        let dir = tempfile::tempdir().expect("tempdir");
        let record = long_record(dir.path());
        let (csv, json) = (dir.path().join("run.csv"), dir.path().join("run.jsonl"));
        let child = started(replay(&record, &["--csv", text(&csv), "--json", text(&json)]));
        eventually("some intervals are written", || lines(&json).len() >= 3);
        let begin = Instant::now();
        signal(&child, number);
        let done = finish(child);
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!(done.code, Some(0));
        let snapshots = valid_jsonl(&json);
        assert!((4..400).contains(&snapshots.len()));
        assert!(snapshots.last().is_some_and(|s| s.finished), "the last snapshot says that it is the last");
        assert_eq!(valid_csv(&csv).len(), snapshots.len() * 6);
        assert!(done.stderr.contains("ticket"), "the summary is shown");
    }
}

#[test]
fn kill_9_in_mid_run_leaves_valid_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = long_record(dir.path());
    let (csv, json) = (dir.path().join("run.csv"), dir.path().join("run.jsonl"));
    let mut child = started(replay(&record, &["--csv", text(&csv), "--json", text(&json)]));
    eventually("some intervals are written", || lines(&csv).len() > 3 * 6);
    signal(&child, Signal::KILL);
    child.wait().expect("wait");
    let (rows, snapshots) = (valid_csv(&csv).len(), valid_jsonl(&json).len());
    assert!(rows >= 3 * 6 && rows % 6 == 0, "whole intervals");
    assert!(snapshots.abs_diff(rows / 6) <= 1);

    let again = done(replay(&json, &["--interval", "10ms", "--csv", "-"]));
    assert_eq!(again.code, Some(0));
    assert_eq!(again.stdout.lines().count(), 1 + snapshots * 6, "what was saved can be played");
}

#[test]
fn the_socket_gives_its_clients_the_last_snapshot_too() {
    let dir = tempfile::tempdir().expect("tempdir");
    let record = long_record(dir.path());
    let socket = dir.path().join("agent.sock");
    let child = started(replay(&record, &["--listen", &format!("unix:{}", socket.display())]));
    let mut client = None;
    eventually("the agent listens", || {
        client = UnixStream::connect(&socket).ok();
        client.is_some()
    });
    let mut reader = BufReader::new(client.expect("client"));
    let mut first = String::new();
    reader.read_line(&mut first).expect("line");
    signal(&child, Signal::TERM);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("the rest");
    let last: Snapshot = serde_json::from_str(rest.lines().last().unwrap_or(&first)).expect("snapshot");
    assert!(last.finished);
    assert_eq!(finish(child).code, Some(0));
}
