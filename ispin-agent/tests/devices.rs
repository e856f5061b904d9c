//! Outputs that are no files: a terminal as stands for a serial or virtio port, and a pipe with a name.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use common::{agent, done, eventually, finish, record, replay, run_of, signal, started, text, valid_jsonl};
use ispin_agent::model::Snapshot;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The far end of a pseudo terminal, and the name of the near one.
fn terminal() -> (OwnedFd, String) {
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
    grantpt(&far).expect("granted");
    unlockpt(&far).expect("unlocked");
    let name = ptsname(&far, vec![]).expect("a name").into_string().expect("UTF-8");
    (far, name)
}

fn fifo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("port");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    path
}

/// More than a pipe or a terminal takes at once.
fn long_run() -> Vec<Snapshot> {
    let mut run = run_of(20);
    for now in &mut run {
        now.locks = vec![now.locks[0].clone(); 300];
    }
    run
}

#[test]
fn a_device_gets_every_line_whole_and_keeps_its_place() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = long_run();
    let (far, name) = terminal();
    let command = replay(&record(dir.path(), &run), &["--interval", "10ms", "--json", &name]);
    let child = started(command);
    let mut lines = BufReader::new(File::from(far)).lines();
    for sent in &run {
        let line = lines.next().expect("a line").expect("read");
        assert_eq!(&serde_json::from_str::<Snapshot>(line.trim_end()).expect("a snapshot"), sent);
    }
    assert_eq!(finish(child).code, Some(0));
    assert!(!Path::new(&name).is_file());
}

#[test]
fn a_slow_reader_of_a_pipe_gets_everything() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (run, port) = (long_run(), fifo(dir.path()));
    let child = started(replay(&record(dir.path(), &run), &["--interval", "10ms", "--json", text(&port)]));
    let mut reader = File::open(&port).expect("opened");
    std::thread::sleep(Duration::from_millis(300));
    let kept = dir.path().join("kept.jsonl");
    std::io::copy(&mut reader, &mut File::create(&kept).expect("made")).expect("copied");
    assert_eq!(finish(child).code, Some(0));
    assert_eq!(valid_jsonl(&kept), run);
}

#[test]
fn a_signal_ends_the_wait_for_a_reader_that_takes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let port = fifo(dir.path());
    let child =
        started(replay(&record(dir.path(), &long_run()), &["--interval", "10ms", "--json", text(&port)]));
    let mut reader = File::open(&port).expect("opened");
    let mut first = [0];
    reader.read_exact(&mut first).expect("something");
    // Until the pipe is full, so that the program waits.
    let unread = || ioctl_fionread(&reader).expect("a pipe");
    eventually("the pipe is full", || unread() > 60_000);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::TERM);
    let done = finish(child);
    assert!(done.stderr.contains("a signal came while its reader took nothing"), "{}", done.stderr);
    assert_eq!(done.code, Some(1));
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let done = done(agent(&["run", "--source", "guest", "--json", "/dev/vport9p9"]));
    assert_eq!(done.code, Some(2));
}
